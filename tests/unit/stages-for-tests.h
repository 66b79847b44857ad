/*
 * stages-for-tests.h - stage types made for tests of the pipeline
 *
 *	t-probe   does what the next verdict says, and writes down what it sees
 *	t-keep    keeps everything; lets go by a timer, at once from pre(), or from another thread
 *	t-owner   answers READs with own requests below itself
 *	t-hold    holds written data until CLOSE or SNAPSHOT (a write-back cache of one write)
 *	t-narrow  a transform that does not understand DISCARD, ZERO, EXTENTS, RESIZE
 *	t-reserve reserves `bytes`
 */
#pragma once

#include "stage/stage.h"

void test_stages_add(void);

/* What t-probe does and saw; of all its instances. */
#define PROBE_LOG 256u
struct probe {
	enum stage_verdict verdict;
	int fail_with;      /* FAIL */
	int post_result;    /* != 0: what post() makes of the result */
	int refuse_create;  /* errno */
	int refuse_prepare; /* errno, of refuse_kind */
	enum stage_event_kind refuse_kind;
	_Atomic unsigned alive, pre, post;
	_Atomic unsigned prepared[STAGE_EVENTS], committed[STAGE_EVENTS], aborted[STAGE_EVENTS];
	char log[PROBE_LOG]; /* "<a<b>b>a": pre and post, by the setting `name` */
};
extern struct probe probe;
void probe_reset(void);

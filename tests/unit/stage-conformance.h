/*
 * stage-conformance.h - what every stage that sees requests has to pass
 *
 * A test of a stage type calls conformance_run() with settings under which it is meant to change
 * nothing that the guest sees; test-stage-conformance.c does so for every built-in type.
 *
 * Linked through dep_conformance, which wraps the allocating functions.
 */
#pragma once

#include "stage-bottom.h"

enum conformance_flags {
	CONFORMANCE_FLUSH_IGNORED = BIT(0), /* acknowledges flushes that it does not do */
};

struct conformance_case {
	const char *type;     /* that stage_type_find() knows */
	const char *settings; /* "a=1 b=2"; NULL: the defaults */
	const char *other;    /* settings to change to; NULL: there are none to change */
	unsigned flags;
};

/* Runs all of it as one group of tests; returns the number of failures. */
int conformance_run(const struct conformance_case *c);
/* All of them in one stack: reads, writes, load. */
int conformance_run_together(const struct conformance_case *cases, unsigned n);

/*
 * notice.h - what stages say: to the log, to the status, to the audit trail; and quarantine
 *
 * Stages speak on I/O threads, also inside the gate, where no row of the audit trail can be put and no
 * path be looked up.  So what they say is queued, and a thread of ours, the clerk, does the rest:
 * log, the ring of the last ALERTS_MAX warnings and alerts, audit entries of alerts.  A queue that
 * is full drops, and says how many.
 *
 * Quarantine takes effect at once, in RAM; the clerk makes it durable, and whoever asked for it waits.
 *
 * Threads: any; one lock inside, a state lock.
 */
#pragma once

#include <jansson.h>

#include "base/errmsg.h"
#include "stage/stage.h"

#define ALERTS_MAX     64u
#define NOTICES_QUEUED 256u
#define NOTICE_TEXT    512u

#define QUARANTINE_FLAG 1u /* id of the row RECORD_FLAG */

struct manager;
struct notices;

/* Reads which inodes are in quarantine. */
int notices_new(struct manager *m, struct notices **ret_n, struct errmsg *em) MUST_CHECK;
int notices_start(struct notices *n, struct errmsg *em) MUST_CHECK;
/* Does what is queued, and ends the clerk.  Accepts NULL; twice is once. */
void notices_stop(struct notices *n);
void notices_free(struct notices *n); /* accepts NULL */

/* type: of the stage that speaks; copied. */
void notices_say(struct notices *n, uint64_t ino, const char *type, enum stage_severity severity,
        const char *text);
/* Returns when it is durable, or cannot be made so now: outside the gate, holding no lock. */
void notices_quarantine(struct notices *n, uint64_t ino, const char *type, const char *why);
/* Hot: one load while nothing is in quarantine. */
bool notices_quarantined(struct notices *n, uint64_t ino);
/* Why; -ENOENT: it is not. */
int notices_quarantine_why(struct notices *n, uint64_t ino, char ret_why[NOTICE_TEXT]) MUST_CHECK;
/*
 * Between rows_begin and rows_end: its row is being deleted, and must not come back; false: that
 * failed, the row is to be put again.
 */
void notices_lifting(struct notices *n, uint64_t ino, bool lifting);
/* The row is gone, or the image is: changes are let through again. */
void notices_lifted(struct notices *n, uint64_t ino);

/* [{target, reason}] */
json_t *notices_quarantine_json(struct notices *n);
/* [{time_ns, severity, target, type, text}], oldest first. */
json_t *notices_json(struct notices *n);

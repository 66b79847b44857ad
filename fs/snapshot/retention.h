/*
 * retention.h - when a schedule takes a snapshot, and which ones it keeps
 *
 * Pure: numbers in, numbers out; the thread that acts on them is schedule.c.
 *
 * A rule is "4h", "7d", "8w", "12mo", "3y": the newest snapshot of each of the 4 hours that were the
 * last to have one; or a number alone, "16": the 16 newest.  What any rule of a list wants is kept.
 * Hours, days, ... are those of UTC, weeks begin on Monday: so daylight saving changes nothing.
 *
 * Periods without a snapshot do not count, and newer means taken later, not what the clock says:
 * so neither a host that was off for a month nor a clock that jumps by a year makes a schedule
 * delete its past.  (The same idea as restic's and Proxmox's keep options.)
 *
 * Example, "2,3h,2d", taken every half hour, on the 3rd at 12:10:
 *	12:00 11:30       by "2"
 *	12:00 11:30 10:30 by "3h": the newest one of the hours 12, 11, 10
 *	12:00 and 23:30 of the 2nd by "2d"
 *
 * Threads: any.
 */
#pragma once

#include "base/errmsg.h"

#define RETENTION_TEXT_MAX  64u
#define RETENTION_COUNT_MAX 1000u /* of one rule */

enum retention_unit {
	RETENTION_LAST, /* no period: the newest ones */
	RETENTION_HOUR,
	RETENTION_DAY,
	RETENTION_WEEK,
	RETENTION_MONTH,
	RETENTION_YEAR,
	RETENTION_UNITS,
};

struct retention {
	uint32_t count[RETENTION_UNITS]; /* 0: no such rule */
};

/* "4h,7d,8w".  -EINVAL with em (may be NULL). */
int retention_parse(const char *text, struct retention *ret_keep, struct errmsg *em) MUST_CHECK;
/* As retention_parse() takes it, in one order. */
void retention_format(const struct retention *keep, char buf[RETENTION_TEXT_MAX]);
/* Sets keep[i] where a rule wants it.  times_ns: wall clock, in the order in which they were taken. */
void retention_mark(const struct retention *keep, const uint64_t *times_ns, size_t n, bool *wanted);

/*
 * Times are multiples of every_ns since 1970 (UTC).  Is one due, if the last was at last_ns (0:
 * never)?  One run makes up for all that were missed.  A clock that was set back by less than
 * every_ns is waited for; by more, a run is due at once.
 */
bool schedule_due(uint64_t every_ns, uint64_t last_ns, uint64_t now_ns);
/* When one will be due; now_ns: it is. */
uint64_t schedule_next(uint64_t every_ns, uint64_t last_ns, uint64_t now_ns);

#define SCHEDULE_STAMP_LEN 17u
/* "20261122T215510Z": UTC; as texts in the order of time.  Terminated. */
void schedule_stamp(uint64_t wall_ns, char buf[SCHEDULE_STAMP_LEN]);

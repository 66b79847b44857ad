/*
 * retention.c - see retention.h
 *
 * A rule walks from the newest to the oldest and counts each time that the period changes.  Where
 * the clock went back, a period may come twice and is counted twice: then one more is kept, which
 * is the harmless way to be wrong.
 */
#include "fs/snapshot/retention.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"

#define HOUR_SECONDS 3600u
#define DAY_SECONDS  86400u

static const char *const unit_names[RETENTION_UNITS] = {
        [RETENTION_LAST] = "",
        [RETENTION_HOUR] = "h",
        [RETENTION_DAY] = "d",
        [RETENTION_WEEK] = "w",
        [RETENTION_MONTH] = "mo",
        [RETENTION_YEAR] = "y",
};

/* --- rules as text --- */

static int rule_wrong(const char *rule, struct errmsg *em)
{
	return errmsg_set(em, -EINVAL,
	        "'%.32s' is no rule of what to keep: a number from 1 to %u, with h, d, w, mo "
	        "(months) "
	        "or y behind it, or alone for the newest ones; as in 4h,7d,8w",
	        rule, RETENTION_COUNT_MAX);
}

static int rule_parse(const char *rule, struct retention *keep, struct errmsg *em)
{
	uint32_t count = 0;
	const char *p = rule;
	unsigned unit = 0;

	for (; isdigit((unsigned char)*p) && count <= RETENTION_COUNT_MAX; p++)
		count = 10 * count + (uint32_t)(*p - '0');
	while (unit < RETENTION_UNITS && strcmp(p, unit_names[unit]))
		unit++;
	if (count == 0 || count > RETENTION_COUNT_MAX || unit == RETENTION_UNITS)
		return rule_wrong(rule, em);
	if (keep->count[unit])
		return errmsg_set(
		        em, -EINVAL, "'%.32s': there is a rule of that kind already", rule);
	keep->count[unit] = count;
	return 0;
}

int retention_parse(const char *text, struct retention *ret_keep, struct errmsg *em)
{
	struct retention keep = {0};
	char copy[RETENTION_TEXT_MAX];
	char *at = copy, *rule;
	int r = 0;

	if (strlen(text) >= sizeof(copy))
		return rule_wrong(text, em);
	memcpy(copy, text, strlen(text) + 1);
	while (r == 0 && (rule = strsep(&at, ",")))
		r = rule_parse(rule, &keep, em);
	if (r == 0)
		*ret_keep = keep;
	return r;
}

void retention_format(const struct retention *keep, char buf[RETENTION_TEXT_MAX])
{
	size_t at = 0;

	buf[0] = '\0';
	for (unsigned u = 0; u < RETENTION_UNITS; u++)
		if (keep->count[u])
			at += (size_t)snprintf(buf + at, RETENTION_TEXT_MAX - at, "%s%u%s",
			        at ? "," : "", keep->count[u], unit_names[u]);
}

/* --- which are kept --- */

static uint64_t month_of(uint64_t seconds)
{
	const time_t t = (time_t)seconds;
	struct tm tm = {0};

	gmtime_r(&t, &tm);
	return (uint64_t)(tm.tm_year * 12 + tm.tm_mon);
}

/* A number of the period that a time is in; nth: of the snapshot. */
static uint64_t period_of(enum retention_unit unit, uint64_t wall_ns, size_t nth)
{
	const uint64_t seconds = wall_ns / NS_PER_SEC;

	switch (unit) {
	case RETENTION_HOUR:
		return seconds / HOUR_SECONDS;
	case RETENTION_DAY:
		return seconds / DAY_SECONDS;
	case RETENTION_WEEK: /* 1970 began on a Thursday */
		return (seconds / DAY_SECONDS + 3) / 7;
	case RETENTION_MONTH:
		return month_of(seconds);
	case RETENTION_YEAR:
		return month_of(seconds) / 12;
	default:
		return nth;
	}
}

void retention_mark(const struct retention *keep, const uint64_t *times_ns, size_t n, bool *wanted)
{
	for (unsigned u = 0; u < RETENTION_UNITS; u++) {
		uint64_t before = UINT64_MAX;
		uint32_t left = keep->count[u];
		for (size_t i = n; i-- > 0 && left > 0;) {
			const uint64_t period = period_of(u, times_ns[i], i);
			if (period == before)
				continue;
			before = period;
			wanted[i] = true;
			left--;
		}
	}
}

/* --- when --- */

bool schedule_due(uint64_t every_ns, uint64_t last_ns, uint64_t now_ns)
{
	return schedule_next(every_ns, last_ns, now_ns) == now_ns;
}

uint64_t schedule_next(uint64_t every_ns, uint64_t last_ns, uint64_t now_ns)
{
	if (last_ns == 0 || (now_ns < last_ns && last_ns - now_ns >= every_ns))
		return now_ns;
	return MAX((last_ns / every_ns + 1) * every_ns, now_ns);
}

void schedule_stamp(uint64_t wall_ns, char buf[SCHEDULE_STAMP_LEN])
{
	const time_t t = (time_t)(wall_ns / NS_PER_SEC);
	struct tm tm = {0};

	gmtime_r(&t, &tm);
	if (strftime(buf, SCHEDULE_STAMP_LEN, "%Y%m%dT%H%M%SZ", &tm) == 0)
		snprintf(buf, SCHEDULE_STAMP_LEN, "00000000T000000Z"); /* beyond the year 9999 */
}

/*
 * test-retention.c - when a schedule is due, and which snapshots it keeps
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>

#include "base/clock.h"
#include "fs/snapshot/retention.h"

#define MINUTE (60 * NS_PER_SEC)
#define HOUR   (60 * MINUTE)
#define DAY    (24 * HOUR)
#define WEEK   (7 * DAY)
/* Monday, 2026-11-23 00:00:00 UTC */
#define MONDAY (1795392000ull * NS_PER_SEC)

static void rules_are_read_and_nonsense_is_refused(void **state)
{
	static const char *const bad[] = {"", "h", "0h", "4", "4h,", ",4h", "4h,4h", "4m", "4x",
	        "-1d", "1001d", "99999999999999999999d", "4 h", "4h 7d", "4H", "4hh"};
	struct errmsg em = {0};
	struct retention keep;
	char text[RETENTION_TEXT_MAX];

	assert_int_equal(retention_parse("8w,4h,16,7d,2y,12mo", &keep, &em), 0);
	retention_format(&keep, text);
	assert_string_equal(text, "16,4h,7d,8w,12mo,2y");
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		if (i == 3)
			continue; /* the four newest */
		em.text[0] = 0;
		assert_int_equal(retention_parse(bad[i], &keep, &em), -EINVAL);
		assert_true(em.text[0]);
	}
	assert_int_equal(retention_parse("1000,1000h,1000d,1000w,1000mo,1000y", &keep, &em), 0);
	retention_format(&keep, text);
	assert_string_equal(text, "1000,1000h,1000d,1000w,1000mo,1000y");
}

/* Snapshots of a schedule: what is there is what it kept. */
struct history {
	uint64_t times[4096];
	size_t n;
	struct retention keep;
};

static void take(struct history *h, uint64_t at_ns)
{
	bool wanted[4096] = {0};
	size_t n = 0;

	assert_true(h->n < ARRAY_SIZE(h->times));
	h->times[h->n++] = at_ns;
	retention_mark(&h->keep, h->times, h->n, wanted);
	assert_true(wanted[h->n - 1]); /* never the one just taken */
	for (size_t i = 0; i < h->n; i++)
		if (wanted[i])
			h->times[n++] = h->times[i];
	h->n = n;
}

static bool has(const struct history *h, uint64_t at_ns)
{
	for (size_t i = 0; i < h->n; i++)
		if (h->times[i] == at_ns)
			return true;
	return false;
}

static struct history history_of(const char *rules)
{
	struct history h = {0};

	assert_int_equal(retention_parse(rules, &h.keep, NULL), 0);
	return h;
}

static void the_newest_of_each_period_is_kept(void **state)
{
	struct history h = history_of("4h,7d,8w");

	for (uint64_t t = MONDAY; t <= MONDAY + 12 * WEEK + 10 * HOUR + 45 * MINUTE;
	        t += 15 * MINUTE)
		take(&h, t);
	const uint64_t now = MONDAY + 12 * WEEK + 10 * HOUR + 45 * MINUTE;
	const uint64_t midnight = MONDAY + 12 * WEEK;
	for (unsigned i = 0; i < 4; i++)
		assert_true(has(&h, now - i * HOUR));
	for (unsigned i = 0; i < 6; i++)
		assert_true(has(&h, midnight - 15 * MINUTE - i * DAY));
	for (unsigned i = 0; i < 7; i++)
		assert_true(has(&h, midnight - 15 * MINUTE - i * WEEK));
	/* 4 hours + 6 days before today + 6 weeks before those days' */
	assert_int_equal(h.n, 4 + 6 + 6);
}

static void the_example_of_the_header(void **state)
{
	const uint64_t third = MONDAY + 9 * DAY;
	struct history h = history_of("2,3h,2d");

	for (uint64_t t = MONDAY; t <= third + 12 * HOUR; t += 30 * MINUTE)
		take(&h, t);
	assert_true(has(&h, third + 12 * HOUR));
	assert_true(has(&h, third + 11 * HOUR + 30 * MINUTE));
	assert_true(has(&h, third + 10 * HOUR + 30 * MINUTE));
	assert_true(has(&h, third - 30 * MINUTE));
	assert_int_equal(h.n, 4);
}

static void months_and_years_are_those_of_the_calendar(void **state)
{
	struct history h = history_of("3mo,2y");

	for (uint64_t day = 0; day < 801; day++) /* to Wednesday, 2029-01-31 */
		take(&h, MONDAY + day * DAY);
	assert_true(has(&h, 1864512000ull * NS_PER_SEC)); /* 2029-01-31 */
	assert_true(
	        has(&h, 1861833600ull * NS_PER_SEC)); /* 2028-12-31: last of the month and year */
	assert_true(has(&h, 1859155200ull * NS_PER_SEC)); /* 2028-11-30 */
	assert_int_equal(h.n, 3);
}

static void a_pause_costs_no_more_than_one_snapshot_does(void **state)
{
	struct history h = history_of("4h,7d");

	for (unsigned i = 0; i < 7 * 24; i++)
		take(&h, MONDAY + i * HOUR);
	const size_t before = h.n;
	assert_int_equal(before, 4 + 6);
	take(&h, MONDAY + 400 * DAY); /* the host was off for a year */
	/* The fourth hour and the seventh day made room for those of the new one. */
	assert_int_equal(h.n, before - 1);
	assert_true(has(&h, MONDAY + (7 * 24 - 1) * HOUR));
	assert_true(has(&h, MONDAY + (2 * 24 - 1) * HOUR));
}

static void a_clock_that_was_ahead_does_not_starve_what_comes_after(void **state)
{
	struct history h = history_of("4h");

	for (unsigned i = 0; i < 6; i++)
		take(&h, MONDAY + 365 * DAY + i * HOUR);
	for (unsigned i = 0; i < 3; i++)
		take(&h, MONDAY + i * HOUR);
	assert_int_equal(h.n, 4);
	for (unsigned i = 0; i < 3; i++)
		assert_true(has(&h, MONDAY + i * HOUR));
	assert_true(has(&h, MONDAY + 365 * DAY + 5 * HOUR));
	/* An hour that comes twice counts twice: nothing of today goes too early. */
	take(&h, MONDAY + 1 * HOUR + MINUTE);
	assert_true(has(&h, MONDAY + 2 * HOUR));
	assert_true(has(&h, MONDAY + 1 * HOUR));
}

static void it_is_due_at_multiples_of_the_interval(void **state)
{
	const uint64_t every = 15 * MINUTE;

	assert_true(schedule_due(every, 0, MONDAY + 1));
	assert_false(schedule_due(every, MONDAY + 1, MONDAY + 14 * MINUTE));
	assert_true(schedule_due(every, MONDAY + 1, MONDAY + 15 * MINUTE));
	assert_int_equal(schedule_next(every, MONDAY + 1, MONDAY + 2), MONDAY + 15 * MINUTE);
	/* Off for a week: now, and then at the next multiple. */
	assert_int_equal(schedule_next(every, MONDAY, MONDAY + WEEK + 7 * MINUTE),
	        MONDAY + WEEK + 7 * MINUTE);
	assert_int_equal(
	        schedule_next(every, MONDAY + WEEK + 7 * MINUTE, MONDAY + WEEK + 7 * MINUTE + 1),
	        MONDAY + WEEK + 15 * MINUTE);
	assert_int_equal(schedule_next(DAY, MONDAY + HOUR, MONDAY + 2 * HOUR), MONDAY + DAY);
}

static void clocks_that_jump_neither_stop_nor_flood_it(void **state)
{
	const uint64_t every = 15 * MINUTE;

	/* A correction by a second, over a multiple: waited for. */
	assert_false(schedule_due(every, MONDAY + 15 * MINUTE, MONDAY + 15 * MINUTE - NS_PER_SEC));
	assert_int_equal(
	        schedule_next(every, MONDAY + 15 * MINUTE, MONDAY + 15 * MINUTE - NS_PER_SEC),
	        MONDAY + 30 * MINUTE);
	/* Back by an hour, or by years: at once, and then as ever. */
	assert_true(schedule_due(every, MONDAY + HOUR, MONDAY));
	assert_true(schedule_due(every, MONDAY + 3650 * DAY, MONDAY));
	assert_false(schedule_due(every, MONDAY, MONDAY + 1));
	/* Ahead by years: once. */
	assert_true(schedule_due(every, MONDAY, MONDAY + 3650 * DAY));
	assert_false(schedule_due(every, MONDAY + 3650 * DAY, MONDAY + 3650 * DAY + 1));
}

static void stamps_sort_as_time_does(void **state)
{
	char a[SCHEDULE_STAMP_LEN], b[SCHEDULE_STAMP_LEN];

	schedule_stamp(MONDAY, a);
	assert_string_equal(a, "20261123T000000Z");
	for (uint64_t t = MONDAY; t < MONDAY + 400 * DAY; t += 7 * DAY + 12345 * NS_PER_SEC) {
		schedule_stamp(t, b);
		assert_true(t == MONDAY || strcmp(a, b) < 0);
		memcpy(a, b, sizeof(a));
	}
	schedule_stamp(UINT64_MAX, b);
	assert_true(memchr(b, 0, sizeof(b)) != NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(rules_are_read_and_nonsense_is_refused),
	        cmocka_unit_test(the_newest_of_each_period_is_kept),
	        cmocka_unit_test(the_example_of_the_header),
	        cmocka_unit_test(months_and_years_are_those_of_the_calendar),
	        cmocka_unit_test(a_pause_costs_no_more_than_one_snapshot_does),
	        cmocka_unit_test(a_clock_that_was_ahead_does_not_starve_what_comes_after),
	        cmocka_unit_test(it_is_due_at_multiples_of_the_interval),
	        cmocka_unit_test(clocks_that_jump_neither_stop_nor_flood_it),
	        cmocka_unit_test(stamps_sort_as_time_does),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

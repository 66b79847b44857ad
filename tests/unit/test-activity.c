/*
 * test-activity.c - how much segments were read: decay, windows, keeping it
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "store/activity.h"

#define START 1800000000ull /* a multiple of the window */

static int setup(void **state)
{
	struct activity *a = NULL;
	const int r = activity_new(START, &a);

	*state = a;
	return r;
}

static int teardown(void **state)
{
	activity_free(*state);
	return 0;
}

static struct segment_activity at(struct activity *a, uint64_t segment)
{
	struct segment_activity sa;

	activity_get(a, segment, &sa);
	return sa;
}

static void close_to(double is, double should)
{
	if (is < should * 0.999 || is > should * 1.001)
		fail_msg("%g is not %g", is, should);
}

static void reads_count_from_the_next_tick_and_halve_with_time(void **state)
{
	struct activity *a = *state;

	activity_note(a, 5, 100);
	activity_note(a, 5, 20);
	assert_true(at(a, 5).hour == 0);
	activity_tick(a, START + 60);
	close_to(at(a, 5).hour, 120);
	close_to(at(a, 5).day, 120);
	assert_true(at(a, 6).hour == 0);
	activity_tick(a, START + 60 + ACTIVITY_HOUR_S);
	close_to(at(a, 5).hour, 60);
	close_to(at(a, 5).day, 120 * 0.97153);
	for (unsigned i = 0; i < 24 * 60; i++) /* in small steps as in one */
		activity_tick(a, START + 60 + ACTIVITY_HOUR_S + 60 * (i + 1));
	close_to(at(a, 5).day, 60 * 0.97153);
	activity_tick(a, START + 60 * ACTIVITY_DAY_S);
	assert_true(at(a, 5).hour == 0 && at(a, 5).day == 0);
}

static void windows_tell_when_it_was_read(void **state)
{
	struct activity *a = *state;

	activity_note(a, 1, 1);
	activity_tick(a, START + 60);
	assert_int_equal(at(a, 1).windows, 1);
	activity_note(a, 1, 1);
	activity_tick(a, START + 120);
	assert_int_equal(at(a, 1).windows, 1); /* the same window */
	activity_tick(a, START + ACTIVITY_WINDOW_S);
	assert_int_equal(at(a, 1).windows, 2);
	activity_note(a, 1, 1);
	activity_tick(a, START + ACTIVITY_WINDOW_S + 60);
	assert_int_equal(at(a, 1).windows, 3);
	activity_tick(a, START + 9 * ACTIVITY_WINDOW_S);
	assert_int_equal(at(a, 1).windows, 0);
}

static void a_clock_that_goes_back_makes_nothing_younger(void **state)
{
	struct activity *a = *state;

	activity_note(a, 1, 8);
	activity_tick(a, START + 600);
	activity_tick(a, START);
	activity_note(a, 1, 8);
	activity_tick(a, START + 300);
	close_to(at(a, 1).hour, 16);
}

static unsigned encode_all(struct activity *a, struct activity *to)
{
	uint8_t blob[ACTIVITY_BLOB_LEN];
	uint64_t block = UINT64_MAX;
	bool empty = false;
	unsigned n = 0;

	while (activity_encode_next(a, block, &block, blob, &empty)) {
		n++;
		if (to && !empty)
			assert_int_equal(activity_load(to, block, blob, sizeof(blob)), 0);
	}
	return n;
}

static void what_was_kept_is_aged_by_the_time_between(void **state)
{
	struct activity *a = *state, *b = NULL;

	activity_note(a, 3, 1000);
	activity_note(a, 100000, 500);
	activity_tick(a, START + 60);
	assert_int_equal(activity_new(START + 60 + ACTIVITY_HOUR_S, &b), 0);
	assert_int_equal(encode_all(a, b), 2);
	assert_int_equal(encode_all(a, NULL), 0); /* nothing changed since */
	close_to(at(b, 3).hour, 500);
	close_to(at(b, 100000).hour, 250);
	assert_int_equal(at(b, 3).windows, 1 << 6);
	activity_tick(a, START + 120);
	assert_int_equal(encode_all(a, NULL), 0); /* aging alone is no change */
	activity_drop(a, 3);
	assert_int_equal(encode_all(a, NULL), 1);
	assert_true(at(a, 3).day == 0);
	activity_free(b);
}

static void damaged_bytes_are_refused(void **state)
{
	struct activity *a = *state;
	uint8_t blob[ACTIVITY_BLOB_LEN];
	uint64_t block = 0;
	bool empty = true;

	activity_note(a, 3, 1000);
	activity_tick(a, START + 60);
	assert_true(activity_encode_next(a, UINT64_MAX, &block, blob, &empty));
	assert_false(empty);
	assert_int_equal(activity_load(a, block + 1, blob, sizeof(blob)), -EUCLEAN);
	assert_int_equal(activity_load(a, block, blob, sizeof(blob) - 1), -EUCLEAN);
	for (size_t i = 0; i < sizeof(blob); i += 7) {
		blob[i] ^= 1;
		assert_int_equal(activity_load(a, block, blob, sizeof(blob)), -EUCLEAN);
		blob[i] ^= 1;
	}
	assert_int_equal(activity_load(a, block, blob, sizeof(blob)), 0);
	activity_encode_again(a, block);
	assert_int_equal(encode_all(a, NULL), 1);
}

static void *note_many(void *arg)
{
	for (unsigned i = 0; i < 40000; i++)
		activity_note(arg, i % 4000, 1);
	return NULL;
}

static void nothing_noted_is_lost_between_threads(void **state)
{
	struct activity *a = *state;
	pthread_t threads[4];
	double sum = 0;

	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, note_many, a), 0);
	for (unsigned i = 0; i < 50; i++)
		activity_tick(a, START);
	for (unsigned i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	activity_tick(a, START);
	for (unsigned i = 0; i < 4000; i++)
		sum += at(a, i).hour;
	close_to(sum, 160000);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        TEST(reads_count_from_the_next_tick_and_halve_with_time),
	        TEST(windows_tell_when_it_was_read),
	        TEST(a_clock_that_goes_back_makes_nothing_younger),
	        TEST(what_was_kept_is_aged_by_the_time_between),
	        TEST(damaged_bytes_are_refused),
	        TEST(nothing_noted_is_lost_between_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "dedupe-fixture.h"
#include "store/dedupe-table.h"

static bool sampled(uint64_t i)
{
	return (hash_of(i).lo & 31) == 0;
}

/* --- a store of segments that have hash lists --- */

struct lists {
	unsigned calls, calls_of[64];
	uint64_t gone; /* this segment does not exist any more */
	int error;
};

static int list_fake(void *arg, uint64_t segment, struct hash128 *hashes, unsigned *ret_n)
{
	struct lists *l = arg;

	l->calls++;
	if (segment < ARRAY_SIZE(l->calls_of))
		l->calls_of[segment]++;
	if (segment == l->gone)
		return -ENOENT;
	if (l->error)
		return l->error;
	segment_hashes(segment, hashes);
	*ret_n = SEGMENT_SLOTS;
	return 0;
}

static struct dedupe *index_of(uint64_t limit_bytes, struct lists *lists)
{
	struct dedupe *d = NULL;

	assert_int_equal(dedupe_create(limit_bytes, lists ? list_fake : NULL, lists, &d), 0);
	return d;
}

/* --- the window --- */

static void what_was_inserted_is_found_and_nothing_else(void **state)
{
	struct dedupe *d = index_of(MIB, NULL);
	uint64_t locs[DEDUPE_CANDIDATES], false_hits = 0;
	struct dedupe_stats st;

	insert_range(d, 0, 20000);
	assert_int_equal(found_in(d, 0, 20000), 20000);
	for (uint64_t i = 100000; i < 150000; i++)
		false_hits += dedupe_lookup(d, hash_of(i), locs);
	assert_true(false_hits < 50); /* a fifth of the ways full, 14 bits of tag: about 5 */
	dedupe_stats_get(d, &st);
	assert_int_equal(st.limit_bytes, MIB);
	assert_int_equal(st.lookups, 70000);
	assert_in_range(st.hits_window, 20000, 20050);
	assert_in_range(st.entries, 20500, 20750); /* and one sample in 32 */
	dedupe_free(d);
}

static void the_newest_candidate_comes_first_without_repeats(void **state)
{
	struct dedupe *d = index_of(MIB, NULL);
	uint64_t locs[DEDUPE_CANDIDATES];

	for (unsigned i = 1; i <= 6; i++)
		dedupe_insert(d, hash_of(1), loc_make(i, 0));
	dedupe_insert(d, hash_of(1), loc_make(4, 0));
	assert_int_equal(dedupe_lookup(d, hash_of(1), locs), DEDUPE_CANDIDATES);
	assert_int_equal(locs[0], loc_make(4, 0));
	assert_int_equal(locs[1], loc_make(6, 0));
	assert_int_equal(locs[2], loc_make(5, 0));
	assert_int_equal(locs[3], loc_make(3, 0));
	dedupe_free(d);
}

static void a_full_bucket_loses_its_oldest(void **state)
{
	struct hint_table t = {0};
	uint64_t locs[HINT_WAYS + 1];

	assert_int_equal(hints_init(&t, 1), 0);
	for (unsigned i = 0; i < HINT_WAYS; i++)
		hints_insert(&t, hash_of(5), loc_make(1 + i, 3));
	hints_insert(&t, hash_of(6), loc_make(77, 0));
	assert_int_equal(hints_find(&t, hash_of(5), locs, 0, HINT_WAYS), HINT_WAYS - 1);
	for (unsigned i = 0; i < HINT_WAYS - 1; i++)
		assert_int_equal(locs[i], loc_make(HINT_WAYS - i, 3));
	/* A refreshed entry is the newest again, and costs nobody's place. */
	hints_insert(&t, hash_of(5), loc_make(4, 3));
	assert_int_equal(hints_find(&t, hash_of(5), locs, 0, HINT_WAYS), HINT_WAYS - 1);
	assert_int_equal(locs[0], loc_make(4, 3));
	assert_int_equal(locs[HINT_WAYS - 2], loc_make(2, 3));
	hints_insert(&t, hash_of(6), loc_make(78, 0));
	assert_int_equal(hints_count(&t), HINT_WAYS);
	/* A removed one leaves a place that the next takes. */
	hints_remove(&t, hash_of(5), loc_make(5, 3));
	assert_int_equal(hints_count(&t), HINT_WAYS - 1);
	hints_insert(&t, hash_of(6), loc_make(79, 0));
	assert_int_equal(hints_find(&t, hash_of(5), locs, 0, HINT_WAYS), HINT_WAYS - 3);
	assert_int_equal(hints_find(&t, hash_of(6), locs, 0, HINT_WAYS), 3);
	hints_release(&t);
}

static void the_window_holds_the_recent_past(void **state)
{
	struct dedupe *d = index_of(MIB, NULL);
	const uint64_t n = 4 * WINDOW_ENTRIES;
	struct dedupe_stats st;

	insert_range(d, 0, n);
	/* Eight-way buckets: nearly all of the last half of a window, few of the one before last.
	 */
	assert_true(found_in(d, n - WINDOW_ENTRIES / 2, n) > WINDOW_ENTRIES / 2 * 93 / 100);
	assert_true(
	        found_in(d, n - 3 * WINDOW_ENTRIES, n - 2 * WINDOW_ENTRIES) < WINDOW_ENTRIES / 10);
	dedupe_stats_get(d, &st);
	assert_true(st.bytes <= MIB);
	assert_in_range(st.entries, WINDOW_ENTRIES, WINDOW_ENTRIES + SAMPLE_ENTRIES);
	dedupe_free(d);
}

static void removed_candidates_are_gone_everywhere(void **state)
{
	struct lists lists = {0};
	struct dedupe *d = index_of(MIB, &lists);
	uint64_t i = 0;

	while (!sampled(i))
		i++;
	insert_range(d, 0, 2000);
	dedupe_remove(d, hash_of(i), loc_make(99, 0)); /* another place of the same hash */
	assert_true(finds(d, i));
	dedupe_remove(d, hash_of(i), loc_of(i));
	assert_false(finds(d, i));
	assert_int_equal(found_in(d, 0, 2000), 1999);
	assert_int_equal(lists.calls, 0);
	dedupe_free(d);
}

/* --- sample and lists --- */

/* Fills an index so that the first segments have left the window but are in the sample. */
static struct dedupe *index_beyond_window(struct lists *lists)
{
	struct dedupe *d = index_of(MIB, lists);

	insert_range(d, 0, 4 * WINDOW_ENTRIES);
	return d;
}

static void duplicates_beyond_the_window_are_found_by_their_neighbours(void **state)
{
	struct lists lists = {0};
	struct dedupe *d = index_beyond_window(&lists);
	struct dedupe_stats st;

	/* Segment by segment in the old order: all but what comes before the first sample. */
	const uint64_t n = 20 * SEGMENT_SLOTS;
	const uint64_t found = found_in(d, 0, n);
	print_message("found beyond the window: %.1f %%\n", 100. * (double)found / (double)n);
	assert_true(found > n * 95 / 100);
	dedupe_stats_get(d, &st);
	assert_true(st.hits_sample > n * 9 / 10);
	/* Neither the list's dead slots nor what both list and sample know make extra candidates.
	 */
	uint64_t locs[DEDUPE_CANDIDATES];
	assert_int_equal(dedupe_lookup(d, (struct hash128){0, 0}, locs), 0);
	for (uint64_t i = n - SEGMENT_SLOTS; i < n; i++)
		if (dedupe_lookup(d, hash_of(i), locs) > 1)
			assert_int_not_equal(locs[0], locs[1]);
	/* One listing a segment, or little more, though each has some 64 samples. */
	assert_in_range(lists.calls, 20, 45);
	dedupe_free(d);
}

static void a_list_in_use_is_kept_and_one_out_of_use_is_not_read_again(void **state)
{
	struct lists lists = {0};
	struct dedupe *d = index_beyond_window(&lists);

	/* Segment 1 between every two others: four lists fit into 1 MiB. */
	for (unsigned s = 1; s < 16; s++) {
		found_in(d, s * SEGMENT_SLOTS, (s + 1) * SEGMENT_SLOTS);
		const uint64_t found = found_in(d, 0, SEGMENT_SLOTS);
		assert_true(found > SEGMENT_SLOTS * 9 / 10);
	}
	assert_in_range(lists.calls_of[1], 2, 15);
	const unsigned calls = lists.calls;
	for (unsigned round = 0; round < 5; round++)
		found_in(d, 0, SEGMENT_SLOTS);
	assert_in_range(lists.calls, calls, calls + 1);
	dedupe_free(d);
}

static void a_segment_that_is_gone_takes_its_samples_along(void **state)
{
	struct lists lists = {.gone = 2};
	struct dedupe *d = index_beyond_window(&lists);

	found_in(d, SEGMENT_SLOTS, 2 * SEGMENT_SLOTS);
	const unsigned calls = lists.calls_of[2];
	assert_true(calls > 10);
	found_in(d, SEGMENT_SLOTS, 2 * SEGMENT_SLOTS);
	assert_int_equal(lists.calls_of[2], calls);
	dedupe_free(d);
}

static void a_list_that_cannot_be_read_leaves_the_sample(void **state)
{
	struct lists lists = {.error = -EIO};
	struct dedupe *d = index_beyond_window(&lists);
	const uint64_t found = found_in(d, 0, SEGMENT_SLOTS);

	assert_in_range(found, 20, 150); /* its samples */
	lists.error = 0;
	assert_true(found_in(d, 0, SEGMENT_SLOTS) > SEGMENT_SLOTS * 8 / 10);
	dedupe_free(d);
}

/* Prints; a bound that only something badly wrong would break, since test machines are busy. */
static void lookups_and_inserts_are_quick(void **state)
{
	enum { N = 500000 };
	struct dedupe *d = index_of(64 * MIB, NULL);
	uint64_t locs[DEDUPE_CANDIDATES];

	uint64_t start_ns = clock_now_ns();
	insert_range(d, 0, N);
	const uint64_t insert_ns = (clock_now_ns() - start_ns) / N;
	start_ns = clock_now_ns();
	for (uint64_t i = 0; i < N; i++)
		dedupe_lookup(d, hash_of(i * 7919 % (2 * N)), locs);
	const uint64_t lookup_ns = (clock_now_ns() - start_ns) / N;
	print_message("insert %lu ns, lookup %lu ns\n", (unsigned long)insert_ns,
	        (unsigned long)lookup_ns);
	assert_true(insert_ns < 20000 && lookup_ns < 20000);
	dedupe_free(d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(what_was_inserted_is_found_and_nothing_else),
	        cmocka_unit_test(the_newest_candidate_comes_first_without_repeats),
	        cmocka_unit_test(a_full_bucket_loses_its_oldest),
	        cmocka_unit_test(the_window_holds_the_recent_past),
	        cmocka_unit_test(removed_candidates_are_gone_everywhere),
	        cmocka_unit_test(duplicates_beyond_the_window_are_found_by_their_neighbours),
	        cmocka_unit_test(a_list_in_use_is_kept_and_one_out_of_use_is_not_read_again),
	        cmocka_unit_test(a_segment_that_is_gone_takes_its_samples_along),
	        cmocka_unit_test(a_list_that_cannot_be_read_leaves_the_sample),
	        cmocka_unit_test(lookups_and_inserts_are_quick),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * test-slotset.c - which segments a set takes in, and its bits
 */
#include "store-bed.h"
#include "store/slotset.h"

static struct bed bed;

/* Some sealed segments and an open one. */
static int setup(void **state)
{
	bed_make(&bed);
	bed_open(&bed);
	struct image *img = bed_image(&bed, 1);
	for (unsigned i = 0; i < 18; i++)
		bed_write(img, i * MIB, MIB, i + 1);
	store_image_close(img);
	return store_sync(bed.store);
}

static int teardown(void **state)
{
	bed_free(&bed);
	return 0;
}

static unsigned rows(struct segment_row *ret_rows, enum segment_state state)
{
	struct segment_row all[64];
	const unsigned n = segments_list(bed.store->segments, 0, all, ARRAY_SIZE(all));
	unsigned found = 0;

	for (unsigned i = 0; i < n; i++)
		if (all[i].state == state)
			ret_rows[found++] = all[i];
	return found;
}

static void only_sealed_segments_are_taken_if_so_asked(void **state)
{
	struct segment_row sealed[64], open[64];
	const unsigned n = rows(sealed, SEGMENT_SEALED), n_open = rows(open, SEGMENT_OPEN);
	struct slotset set = {0};
	uint64_t last = 0;

	assert_true(n >= 3 && n_open == 1);
	assert_int_equal(
	        slotset_init(&set, bed.store->segments, 0, SEGMENT_ID_MAX, true, 1000, &last), 0);
	assert_int_equal(set.n, n);
	assert_int_equal(last, MAX(open[0].id, sealed[n - 1].id));
	assert_true(slotset_find(&set, open[0].id) < 0);
	for (unsigned i = 0; i < n; i++)
		assert_int_equal(slotset_find(&set, sealed[i].id), i);
	slotset_free(&set);
	assert_int_equal(
	        slotset_init(&set, bed.store->segments, 0, SEGMENT_ID_MAX, false, 1000, &last), 0);
	assert_int_equal(set.n, n + 1);
	slotset_free(&set);
}

static void ranges_follow_each_other_without_gap_or_overlap(void **state)
{
	uint64_t after = 0, last = 0, n = 0;
	struct segment_row sealed[64];
	const unsigned n_sealed = rows(sealed, SEGMENT_SEALED);

	for (;; after = last) {
		struct slotset set = {0};
		assert_int_equal(slotset_init(&set, bed.store->segments, after, SEGMENT_ID_MAX,
		                         true, 2, &last),
		        0);
		assert_true(set.n <= 2);
		for (size_t i = 0; i < set.n; i++)
			assert_int_equal(set.ids[i], sealed[n++].id);
		slotset_free(&set);
		if (last == after)
			break;
	}
	assert_int_equal(n, n_sealed);
}

static void nothing_beyond_the_end_of_the_range_is_taken(void **state)
{
	struct segment_row sealed[64];
	struct slotset set = {0};
	uint64_t last = 0;

	assert_true(rows(sealed, SEGMENT_SEALED) >= 3);
	assert_int_equal(slotset_init(&set, bed.store->segments, sealed[0].id, sealed[1].id, true,
	                         1000, &last),
	        0);
	assert_int_equal(set.n, 1);
	assert_int_equal(set.ids[0], sealed[1].id);
	assert_int_equal(last, sealed[1].id);
	assert_true(slotset_find(&set, sealed[0].id) < 0);
	assert_true(slotset_find(&set, sealed[2].id) < 0);
	slotset_free(&set);
}

static void bits_are_set_once_and_counted(void **state)
{
	static const unsigned slots[] = {0, 1, 63, 64, SEGMENT_SLOTS - 1};
	struct slotset set = {0};
	uint64_t last = 0;

	assert_int_equal(
	        slotset_init(&set, bed.store->segments, 0, SEGMENT_ID_MAX, true, 1000, &last), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(slots); i++) {
		assert_false(slotset_test(&set, 1, slots[i]));
		assert_true(slotset_set(&set, 1, slots[i]));
		assert_false(slotset_set(&set, 1, slots[i]));
		assert_true(slotset_test(&set, 1, slots[i]));
		assert_int_equal(slotset_count(&set, 1), i + 1);
	}
	assert_int_equal(slotset_count(&set, 0), 0);
	assert_int_equal(slotset_count(&set, 2), 0);
	slotset_free(&set);
}

#define CASE(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        CASE(only_sealed_segments_are_taken_if_so_asked),
	        CASE(ranges_follow_each_other_without_gap_or_overlap),
	        CASE(nothing_beyond_the_end_of_the_range_is_taken),
	        CASE(bits_are_set_once_and_counted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

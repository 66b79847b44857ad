/*
 * test-punches.c - ranges of leaves, against an array of leaves
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "sim/rng.h"
#include "store/punches.h"

#define LEAVES 64u

static void expect(const struct punches *ps, uint64_t leaf, int zero, int logged)
{
	const struct punch *p = punches_find(ps, leaf);

	if (zero < 0) {
		assert_null(p);
		return;
	}
	assert_non_null(p);
	assert_int_equal(p->zero, zero);
	assert_int_equal(p->logged, logged);
}

static void a_range_holds_its_first_leaf_and_not_its_last(void **state)
{
	struct punches ps = {0};

	expect(&ps, 0, -1, 0);
	assert_int_equal(punches_add(&ps, 3, 5, false), 0);
	expect(&ps, 2, -1, 0);
	expect(&ps, 3, 0, 0);
	expect(&ps, 4, 0, 0);
	expect(&ps, 5, -1, 0);
	punches_clear(&ps);
	expect(&ps, 3, -1, 0);
}

static void what_is_left_of_a_cut_range_stays_as_logged_as_it_was(void **state)
{
	struct punches ps = {0};

	assert_int_equal(punches_add(&ps, 0, 10, false), 0);
	ps.v[0].logged = true;
	assert_int_equal(punches_add(&ps, 4, 6, true), 0);
	expect(&ps, 3, 0, 1);
	expect(&ps, 4, 1, 0);
	expect(&ps, 6, 0, 1);
	assert_int_equal(ps.n, 3);
	punches_clear(&ps);
}

static void the_largest_range_is_one_entry(void **state)
{
	const uint64_t end = IMAGE_CHUNKS_MAX / LEAF_CHUNKS;
	struct punches ps = {0};

	for (uint64_t i = 0; i < 1000; i++)
		assert_int_equal(punches_add(&ps, end - 2 * i - 2, end - 2 * i - 1, false), 0);
	assert_int_equal(ps.n, 1000);
	assert_int_equal(punches_add(&ps, 0, end, false), 0);
	assert_int_equal(ps.n, 1);
	expect(&ps, end - 1, 0, 0);
	expect(&ps, end, -1, 0);
	punches_clear(&ps);
}

static void any_ranges_say_of_each_leaf_what_was_said_last(void **state)
{
	for (uint64_t seed = 0; seed < 300; seed++) {
		struct rng rng = rng_fork(seed, 0);
		int says[LEAVES];
		struct punches ps = {0};

		memset(says, -1, sizeof(says));
		for (unsigned i = 0; i < 40; i++) {
			const uint64_t first = rng_below(&rng, LEAVES),
			               n = 1 + rng_below(&rng, LEAVES - first);
			const bool zero = rng_below(&rng, 2);
			assert_int_equal(punches_add(&ps, first, first + n, zero), 0);
			for (uint64_t k = first; k < first + n; k++)
				says[k] = zero;
			for (uint64_t k = 0; k < LEAVES; k++)
				expect(&ps, k, says[k], 0);
			for (size_t k = 1; k < ps.n; k++)
				assert_true(ps.v[k - 1].last <= ps.v[k].first);
		}
		punches_clear(&ps);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(a_range_holds_its_first_leaf_and_not_its_last),
	        cmocka_unit_test(what_is_left_of_a_cut_range_stays_as_logged_as_it_was),
	        cmocka_unit_test(the_largest_range_is_one_entry),
	        cmocka_unit_test(any_ranges_say_of_each_leaf_what_was_said_last),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * test-nodeset.c - sets of node ids: against flat bitmaps, and at their limit
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "sim/rng.h"
#include "store/nodeset.h"

#define IDS 4096u

/* Dense and thin ids, in three planes. */
static void test_holds_what_was_put_into_it(void **state)
{
	static bool want[NODESET_PLANES][IDS];
	struct rng rng = rng_fork(1, 1);
	struct nodeset ns;

	(void)state;
	nodeset_init(&ns, 64u << 20);
	for (unsigned i = 0; i < 20000; i++) {
		const unsigned plane = (unsigned)rng_below(&rng, NODESET_PLANES);
		const unsigned k = (unsigned)rng_below(&rng, IDS);
		const uint64_t id = k < IDS / 2 ? k : (uint64_t)k * 1000003 * 1000003;
		assert_int_equal(nodeset_test(&ns, plane, id), want[plane][k]);
		assert_int_equal(nodeset_set(&ns, plane, id), !want[plane][k]);
		want[plane][k] = true;
		assert_true(nodeset_test(&ns, plane, id));
		if (k >= IDS / 2 && rng_below(&rng, 4) == 0) {
			nodeset_clear(&ns, plane, id);
			want[plane][k] = false;
		}
	}
	assert_false(nodeset_full(&ns));
	nodeset_release(&ns);
}

static void test_keeps_to_its_limit(void **state)
{
	struct nodeset ns;
	uint64_t there = 0;

	(void)state;
	nodeset_init(&ns, 1u << 20);
	for (uint64_t id = 1; id < 200000; id++)
		nodeset_set(&ns, 0, id * 64);
	assert_true(nodeset_full(&ns));
	assert_true(ns.size * sizeof(*ns.words) <= 1u << 20);
	for (uint64_t id = 1; id < 200000; id++)
		there += nodeset_test(&ns, 0, id * 64);
	assert_true(there > (1u << 20) / NODESET_WORD_BYTES / 4);
	assert_true(there < 200000);
	nodeset_release(&ns);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_holds_what_was_put_into_it),
	        cmocka_unit_test(test_keeps_to_its_limit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * test-meta-wipe.c - the power goes while meta.db is wiped: nothing that was committed is lost
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/log.h"
#include "meta/meta.h"
#include "sim/iosim.h"

#define NODES    40u
#define VERSIONS 6u /* the last one is what must come back */
#define SEEDS    6u

static struct meta *opened(struct iosim *sim)
{
	struct errmsg em = {{0}};
	struct meta *m = NULL;

	if (meta_open(iosim_io(sim), false, &m, &em) < 0)
		fail_msg("the datastore does not open: %s", em.text);
	return m;
}

static void blob_make(uint8_t blob[256], uint64_t id, unsigned version)
{
	memset(blob, (int)(id * 16 + version), 256);
}

/* Each version replaces all nodes: the WAL holds every page many times. */
static void versions_put(struct meta *m)
{
	struct store_state st;
	uint8_t blob[256];

	assert_int_equal(m->ops->state_get(m, &st), 0);
	st.next_node = NODES + 1;
	for (unsigned v = 1; v <= VERSIONS; v++) {
		assert_int_equal(m->ops->begin(m), 0);
		assert_int_equal(m->ops->state_put(m, &st), 0);
		for (uint64_t id = 1; id <= NODES; id++) {
			blob_make(blob, id, v);
			assert_int_equal(m->ops->node_put(m, id, blob, sizeof(blob)), 0);
		}
		assert_int_equal(m->ops->commit(m), 0);
	}
}

static void last_version_expected(struct meta *m)
{
	uint8_t want[256], got[NODE_BLOB_MAX];
	size_t len = 0;

	for (uint64_t id = 1; id <= NODES; id++) {
		blob_make(want, id, VERSIONS);
		assert_int_equal(m->ops->node_get(m, id, got, sizeof(got), &len), 0);
		assert_int_equal(len, sizeof(want));
		assert_memory_equal(got, want, sizeof(want));
	}
}

/* Returns how many steps the wipe took, or 0 when the power went before its end. */
static uint64_t wipe_until(uint64_t seed, uint64_t step)
{
	struct errmsg em = {{0}};
	struct iosim *sim;

	iosim_create(seed, &sim);
	assert_int_equal(meta_create(iosim_io(sim), &(struct meta_create_params){0}, &em), 0);
	struct meta *m = opened(sim);
	versions_put(m);
	iosim_sync_all(sim);
	const uint64_t before = iosim_steps(sim);
	if (step > 0)
		iosim_crash_at(sim, before + step);
	const int r = m->ops->scrub(m);
	const uint64_t took = iosim_steps(sim) - before;
	meta_close(m);
	assert_true(r == 0 || iosim_is_off(sim));
	iosim_crash(sim, IOSIM_RANDOM, seed);
	m = opened(sim);
	last_version_expected(m);
	meta_close(m);
	iosim_free(sim);
	return took;
}

static void test_a_wipe_that_is_cut_off_at_any_step_loses_nothing(void **state)
{
	const uint64_t steps = wipe_until(1, 0);

	assert_true(steps > 3);
	for (uint64_t step = 1; step <= steps; step++)
		for (uint64_t seed = 1; seed <= SEEDS; seed++)
			wipe_until(seed * 1000 + step, step);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_a_wipe_that_is_cut_off_at_any_step_loses_nothing),
	};

	log_set_level((enum log_level) - 1);
	return cmocka_run_group_tests_name("meta-wipe", tests, NULL, NULL);
}

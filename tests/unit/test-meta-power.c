/*
 * test-meta-power.c - the process dies or the power goes, again and again, soon after the last time: no
 * mount takes what that leaves for damage
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/log.h"
#include "meta/meta.h"
#include "sim/iosim.h"
#include "sim/rng.h"

#define NODES 60u
#define SEEDS 100u
#define CUTS  10u

struct world {
	struct iosim *sim;
	struct rng rng;
	struct meta *m;
	uint8_t before[NODES],
	        after[NODES]; /* what nodes hold: by the last commit that is known, and that under way */
};

static void world_open(struct world *w)
{
	struct errmsg em = {{0}};

	if (meta_open(iosim_io(w->sim), false, &w->m, &em) < 0)
		fail_msg("the datastore does not open: %s", em.text);
}

/* One transaction that changes some nodes, or (small) a few. */
static int transaction(struct world *w)
{
	const struct meta_ops *ops = w->m->ops;
	const unsigned n = rng_below(&w->rng, 3) ? 1 + (unsigned)rng_below(&w->rng, 3) : NODES;
	struct store_state st;
	uint8_t blob[4000];
	int r = ops->state_get(w->m, &st);

	st.next_node = NODES + 1;
	if (r == 0)
		r = ops->begin(w->m);
	if (r == 0)
		r = ops->state_put(w->m, &st);
	for (unsigned i = 0; r == 0 && i < n; i++) {
		const unsigned k = n == NODES ? i : (unsigned)rng_below(&w->rng, NODES);
		w->after[k] = (uint8_t)(1 + rng_below(&w->rng, 255));
		memset(blob, w->after[k], sizeof(blob));
		r = ops->node_put(w->m, k + 1, blob, sizeof(blob));
	}
	return r == 0 ? ops->commit(w->m) : r;
}

static int node_get(struct world *w, unsigned k)
{
	uint8_t blob[NODE_BLOB_MAX];
	size_t len = 0;
	const int r = w->m->ops->node_get(w->m, k + 1, blob, sizeof(blob), &len);

	return r == -ENOENT ? 0 : r < 0 ? r : blob[0];
}

/* Either the last transaction is there, or nothing of it. */
static void expect_whole(struct world *w)
{
	bool is_before = true, is_after = true;

	for (unsigned k = 0; k < NODES; k++) {
		const int at = node_get(w, k);
		is_before = is_before && at == w->before[k];
		is_after = is_after && at == w->after[k];
	}
	assert_true(is_before || is_after);
	memcpy(is_after ? w->before : w->after, is_after ? w->after : w->before, NODES);
}

/* Transactions until the power goes, or the process is killed, some steps from now. */
static void until_it_dies(struct world *w)
{
	int r = 0;

	iosim_crash_at(w->sim,
	        iosim_steps(w->sim) + 1 + rng_below(&w->rng, rng_below(&w->rng, 2) ? 30 : 200));
	while (r == 0) {
		r = transaction(w);
		if (r == 0)
			memcpy(w->before, w->after, NODES);
	}
	assert_true(iosim_is_off(w->sim));
	meta_close(w->m);
	iosim_crash(w->sim, rng_below(&w->rng, 3) ? IOSIM_RANDOM : IOSIM_KEEP, rng_next(&w->rng));
}

static void test_deaths_in_a_row_are_no_damage(void **state)
{
	const char *seeds = getenv("META_POWER_SEEDS"); /* more than the suite has time for */
	const uint64_t n = seeds ? strtoull(seeds, NULL, 0) : SEEDS;

	(void)state;
	for (uint64_t seed = 1; seed <= n; seed++) {
		struct world w = {.rng = rng_fork(seed, 7)};
		struct errmsg em = {{0}};

		iosim_create(seed, &w.sim);
		assert_int_equal(
		        meta_create(iosim_io(w.sim), &(struct meta_create_params){0}, &em), 0);
		iosim_sync_all(w.sim);
		world_open(&w);
		for (unsigned i = 0; i < CUTS; i++) {
			until_it_dies(&w);
			world_open(&w);
			expect_whole(&w);
		}
		meta_close(w.m);
		iosim_free(w.sim);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_deaths_in_a_row_are_no_damage),
	};

	log_set_level((enum log_level) - 1);
	return cmocka_run_group_tests_name("meta-power", tests, NULL, NULL);
}

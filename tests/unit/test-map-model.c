/*
 * test-map-model.c - image maps: random changes against a flat oracle
 *
 * Seeds are fixed, and printed.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "map-fixture.h"

/*
 * Chunks that are looked at one by one lie in zones, around the places where the tree grows a
 * level; each gap between zones is uniform, as all ranges begin and end in zones.
 */
#define ZONE_CHUNKS 1024u
#define ZONES       4
static const uint64_t zone_first[ZONES] = {
        0, (1ull << 16) - 512, (1ull << 24) - 512, (1ull << 32) - ZONE_CHUNKS};

struct model {
	uint64_t chunks[ZONES][ZONE_CHUNKS];
	uint64_t gaps[ZONES - 1];
};

static uint64_t gap_first(unsigned z)
{
	return zone_first[z] + ZONE_CHUNKS;
}

static void model_fill(struct model *o, uint64_t first, uint64_t last, uint64_t entry)
{
	for (unsigned z = 0; z < ZONES; z++) {
		for (unsigned i = 0; i < ZONE_CHUNKS; i++)
			if (zone_first[z] + i >= first && zone_first[z] + i < last)
				o->chunks[z][i] = entry;
		if (z + 1 < ZONES && first <= gap_first(z) && last >= zone_first[z + 1])
			o->gaps[z] = entry;
	}
}

static uint64_t model_next(const struct model *o, uint64_t first, bool hole)
{
	for (unsigned z = 0; z < ZONES; z++) {
		for (unsigned i = 0; i < ZONE_CHUNKS; i++)
			if (zone_first[z] + i >= first && (o->chunks[z][i] == ENTRY_HOLE) == hole)
				return zone_first[z] + i;
		if (z + 1 < ZONES && first < zone_first[z + 1] &&
		        (o->gaps[z] == ENTRY_HOLE) == hole)
			return MAX(first, gap_first(z));
	}
	return IMAGE_CHUNKS_MAX;
}

static void model_assert_counts(const struct model *o, struct map *m)
{
	uint64_t data = 0, zero = 0;

	for (unsigned z = 0; z < ZONES; z++) {
		for (unsigned i = 0; i < ZONE_CHUNKS; i++) {
			data += entry_state(o->chunks[z][i]) == ENTRY_DATA;
			zero += o->chunks[z][i] == ENTRY_ZERO;
		}
		if (z + 1 < ZONES && o->gaps[z] == ENTRY_ZERO)
			zero += zone_first[z + 1] - gap_first(z);
	}
	assert_counts(m, data, zero);
}

static void model_assert_all(const struct model *o, struct map *m)
{
	uint64_t entries[LEAF_CHUNKS];

	for (unsigned z = 0; z < ZONES; z++) {
		for (unsigned i = 0; i < ZONE_CHUNKS; i += LEAF_CHUNKS) {
			assert_int_equal(map_get(m, zone_first[z] + i, LEAF_CHUNKS, entries), 0);
			assert_memory_equal(entries, o->chunks[z] + i, sizeof(entries));
		}
		if (z + 1 < ZONES)
			assert_int_equal(get1(m, gap_first(z) + 777), o->gaps[z]);
	}
	model_assert_counts(o, m);
}

struct run {
	struct ds ds;
	struct model now;
	struct model snaps[8];
	unsigned n_snaps;
	uint64_t rng;
	int64_t added, dropped; /* observed data entries */
	uint64_t version;
};

static uint64_t run_random(struct run *t, uint64_t below)
{
	t->rng ^= t->rng << 13;
	t->rng ^= t->rng >> 7;
	t->rng ^= t->rng << 17;
	return t->rng % below;
}

static void observe_added(void *arg, uint64_t entry)
{
	assert_int_equal(entry_state(entry), ENTRY_DATA);
	((struct run *)arg)->added++;
}

static void observe_dropped(void *arg, uint64_t entry)
{
	assert_int_equal(entry_state(entry), ENTRY_DATA);
	((struct run *)arg)->dropped++;
}

static uint64_t run_entry(struct run *t)
{
	switch (run_random(t, 6)) {
	case 0:
		return ENTRY_HOLE;
	case 1:
		return ENTRY_ZERO;
	default:
		return data_at(1 + t->version++, (unsigned)run_random(t, SEGMENT_SLOTS));
	}
}

static void run_set(struct run *t)
{
	const unsigned z = (unsigned)run_random(t, ZONES);
	const unsigned at = (unsigned)run_random(t, ZONE_CHUNKS);
	const unsigned room = LEAF_CHUNKS - at % LEAF_CHUNKS;
	const bool whole = run_random(t, 4) == 0;
	const unsigned first = whole ? at - at % LEAF_CHUNKS : at;
	const unsigned n = whole ? LEAF_CHUNKS : 1 + (unsigned)run_random(t, room);
	const bool uniform = run_random(t, 4) == 0;
	const uint64_t one = run_entry(t);
	uint64_t entries[LEAF_CHUNKS];

	for (unsigned i = 0; i < n; i++) {
		entries[i] = uniform ? one : run_entry(t);
		if (!whole && run_random(t, 5) == 0)
			entries[i] = MAP_KEEP;
		else
			t->now.chunks[z][first + i] = entries[i];
	}
	assert_int_equal(map_set(t->ds.map, zone_first[z] + first, n, entries), 0);
}

static uint64_t run_edge(struct run *t)
{
	const uint64_t at = zone_first[run_random(t, ZONES)] + run_random(t, ZONE_CHUNKS);

	return run_random(t, 2) ? at : at & ~(uint64_t)(LEAF_CHUNKS - 1);
}

static void run_fill(struct run *t)
{
	const uint64_t a = run_edge(t);
	const uint64_t b = run_random(t, 8) == 0 ? UINT64_MAX : run_edge(t);
	const enum entry_state state = run_random(t, 2) ? ENTRY_HOLE : ENTRY_ZERO;

	assert_int_equal(map_fill(t->ds.map, MIN(a, b), MAX(a, b), state), 0);
	model_fill(&t->now, MIN(a, b), MAX(a, b), state);
}

static void run_next(struct run *t)
{
	const uint64_t first = run_edge(t);
	const bool hole = run_random(t, 2);
	const uint64_t expect = model_next(&t->now, first, hole);
	uint64_t got;

	/* A search through a large gap of zeros is legal, but there are no holes to be found in it.
	 */
	assert_int_equal(map_next(t->ds.map, first, hole, &got), 0);
	assert_int_equal(got, expect);
}

static void run_failed_commit(struct run *t)
{
	fake_meta_fail_writes(t->ds.meta, 1 + (unsigned)run_random(t, 12), 1, -EIO);
	const uint64_t commits = fake_meta_commits(t->ds.meta);
	const int r = ds_try_commit(&t->ds);

	assert_true(r == 0 || r == -EIO);
	assert_int_equal(fake_meta_commits(t->ds.meta), commits + (r == 0));
	fake_meta_crash(t->ds.meta); /* ends the fault, should it not have come */
}

static void run_snapshot(struct run *t)
{
	if (t->n_snaps == ARRAY_SIZE(t->snaps))
		return;
	t->snaps[t->n_snaps] = t->now;
	ds_snapshot(&t->ds, 100 + t->n_snaps++);
	maps_set_observer(t->ds.maps, observe_added, observe_dropped, t);
}

static void run_step(struct run *t, bool snapshots)
{
	const unsigned op = (unsigned)run_random(t, 100);

	if (op < 50)
		run_set(t);
	else if (op < 60)
		run_fill(t);
	else if (op < 80)
		run_next(t);
	else if (op < 88)
		ds_commit(&t->ds);
	else if (op < 94)
		run_failed_commit(t);
	else if (op < 96 && snapshots)
		run_snapshot(t);
	else if (op < 98)
		model_assert_all(&t->now, t->ds.map);
	else if (op == 99) {
		ds_commit(&t->ds);
		ds_reopen(&t->ds);
		maps_set_observer(t->ds.maps, observe_added, observe_dropped, t);
	}
}

/* A node that nothing refers to would be a leak: drops are small enough here to be deleted at once.
 */
static void run_assert_no_leak(struct run *t)
{
	assert_int_equal(walk_count(t->ds.map), fake_meta_node_count(t->ds.meta));
}

static void run_model(uint64_t seed, uint64_t cache_bytes, unsigned steps, bool snapshots)
{
	struct run *t = calloc(1, sizeof(*t));
	struct image_row row;

	print_message("seed %llu, cache %llu\n", (unsigned long long)seed,
	        (unsigned long long)cache_bytes);
	assert_non_null(t);
	t->rng = seed * 0x9e3779b97f4a7c15ull + 1;
	ds_init(&t->ds, cache_bytes);
	maps_set_observer(t->ds.maps, observe_added, observe_dropped, t);
	for (unsigned i = 0; i < steps; i++)
		run_step(t, snapshots);
	ds_commit(&t->ds);
	model_assert_all(&t->now, t->ds.map);
	ds_reopen(&t->ds);
	model_assert_all(&t->now, t->ds.map);
	map_row(t->ds.map, &row);
	assert_int_equal(t->added - t->dropped, row.data_chunks);
	if (!snapshots)
		run_assert_no_leak(t);
	for (unsigned i = 0; i < t->n_snaps; i++) {
		struct map *snap;

		assert_int_equal(map_open(t->ds.maps, 100 + i, &snap), 0);
		model_assert_all(&t->snaps[i], snap);
		walk_count(snap);
		map_close(snap);
	}
	ds_release(&t->ds);
	free(t);
}

static void random_changes_match_the_oracle(void **state)
{
	for (uint64_t seed = 1; seed <= 12; seed++)
		run_model(seed,
		        seed % 3 == 0   ? CACHE_LARGE
		        : seed % 3 == 1 ? CACHE_TINY
		                        : 40000,
		        3000, false);
}

static void random_changes_with_snapshots_match_the_oracle(void **state)
{
	for (uint64_t seed = 101; seed <= 108; seed++)
		run_model(seed, seed % 2 ? CACHE_TINY : CACHE_LARGE, 1500, true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(random_changes_match_the_oracle),
	        cmocka_unit_test(random_changes_with_snapshots_match_the_oracle),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

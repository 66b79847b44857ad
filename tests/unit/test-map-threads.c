/*
 * test-map-threads.c - readers beside the txg thread, with a cache that evicts all the time
 *
 * Each leaf goes through versions; a version is either 256 entries that all carry its number, or a
 * hole.  Per leaf, the writer publishes the last version that it began and the last one that it
 * committed.  So a reader knows: what it sees of a leaf is one version as a whole, not older than
 * what was committed before it looked, not newer than what was begun after.  A stale node in the
 * cache, half a change, or a node freed under a reader shows (the latter two best under TSan and
 * ASan).
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/clock.h"
#include "fake-meta.h"
#include "store/map.h"

#define LEAVES 40u
#define LEAF_STRIDE                                                                                \
	50021u /* leaves of the image between two of ours: several inner nodes on two levels */
#define READERS      3
#define RUN_NS       (NS_PER_SEC * 3 / 2)
#define HOLE_VERSION 5u /* versions that this divides are holes */

struct shared {
	struct fake_meta *meta;
	struct maps *maps;
	struct map *map;
	atomic_uint begun[LEAVES], committed[LEAVES];
	atomic_bool stop;
	uint64_t txg;
};

static uint64_t leaf_first(unsigned leaf)
{
	return (uint64_t)leaf * LEAF_STRIDE * LEAF_CHUNKS;
}

static bool is_hole(unsigned version)
{
	return version % HOLE_VERSION == 0;
}

/* Is there a hole among the versions from..to? */
static bool hole_within(unsigned from, unsigned to)
{
	return from == 0 || to / HOLE_VERSION > (from - 1) / HOLE_VERSION;
}

static void check_leaf(unsigned leaf, const uint64_t *entries, unsigned first, unsigned n,
        unsigned from, unsigned to)
{
	for (unsigned i = 0; i < n; i++) {
		if (entries[0] == ENTRY_HOLE) {
			ASSERT(entries[i] == ENTRY_HOLE && hole_within(from, to));
			continue;
		}
		const uint64_t version = loc_segment(entry_loc(entries[i]));

		ASSERT(entry_state(entries[i]) == ENTRY_DATA && entry_check(entries[i]) == leaf);
		ASSERT(version == loc_segment(entry_loc(entries[0])) &&
		        !is_hole((unsigned)version));
		ASSERT(version >= from && version <= to);
		ASSERT(loc_slot(entry_loc(entries[i])) == first + i);
	}
}

struct walk_check {
	struct shared *s;
	unsigned from[LEAVES];
};

static int walk_leaf(void *arg, uint64_t first, const uint64_t *entries)
{
	const struct walk_check *w = arg;
	const unsigned leaf = (unsigned)(first / LEAF_CHUNKS / LEAF_STRIDE);

	ASSERT(entries && leaf_first(leaf) == first);
	check_leaf(leaf, entries, 0, LEAF_CHUNKS, w->from[leaf], atomic_load(&w->s->begun[leaf]));
	return 0;
}

static void walk_all(struct shared *s)
{
	struct walk_check w = {.s = s};

	for (unsigned i = 0; i < LEAVES; i++)
		w.from[i] = atomic_load(&s->committed[i]);
	ASSERT(map_walk(s->map, NULL, walk_leaf, &w) == 0);
}

static void search_one(struct shared *s, unsigned leaf)
{
	uint64_t chunk;

	ASSERT(map_next(s->map, leaf_first(leaf), false, &chunk) == 0);
	ASSERT(chunk == IMAGE_CHUNKS_MAX || chunk % (LEAF_STRIDE * LEAF_CHUNKS) == 0);
}

static void *read_all(void *arg)
{
	struct shared *s = arg;
	uint64_t rng = (uintptr_t)&rng;
	uint64_t entries[LEAF_CHUNKS];

	for (unsigned i = 0; !atomic_load(&s->stop); i++) {
		rng = rng * 6364136223846793005ull + 1442695040888963407ull;
		const unsigned leaf = (unsigned)(rng >> 33) % LEAVES;
		const unsigned first = (unsigned)(rng >> 45) % LEAF_CHUNKS;
		const unsigned n = i % 3 ? 1 : LEAF_CHUNKS - first;
		const unsigned from = atomic_load(&s->committed[leaf]);

		ASSERT(map_get(s->map, leaf_first(leaf) + first, n, entries) == 0);
		check_leaf(leaf, entries, first, n, from, atomic_load(&s->begun[leaf]));
		if (i % 500 == 0)
			walk_all(s);
		if (i % 100 == 0)
			search_one(s, leaf);
	}
	return NULL;
}

static void change_leaf(struct shared *s, unsigned leaf)
{
	const unsigned version = atomic_load(&s->begun[leaf]) + 1;
	uint64_t entries[LEAF_CHUNKS];
	int r;

	atomic_store(&s->begun[leaf], version);
	for (unsigned i = 0; i < LEAF_CHUNKS; i++)
		entries[i] = is_hole(version) ? (uint64_t)ENTRY_HOLE
		                              : entry_data(loc_make(version, i), leaf);
	if (is_hole(version) && version % 2)
		r = map_fill(s->map, leaf_first(leaf), leaf_first(leaf) + LEAF_CHUNKS, ENTRY_HOLE);
	else
		r = map_set(s->map, leaf_first(leaf), LEAF_CHUNKS, entries);
	ASSERT(r == 0);
}

static void commit(struct shared *s, bool fail)
{
	struct meta *m = fake_meta_port(s->meta);

	if (fail)
		fake_meta_fail_writes(s->meta, 3, 1, -EIO);
	int r = m->ops->begin(m);
	if (r == 0)
		r = maps_txg_write(s->maps, ++s->txg);
	if (r == 0)
		r = m->ops->commit(m);
	fake_meta_crash(s->meta); /* which is also a rollback */
	if (r < 0)
		return;
	maps_txg_committed(s->maps);
	for (unsigned i = 0; i < LEAVES; i++)
		atomic_store(&s->committed[i], atomic_load(&s->begun[i]));
}

static void run(uint64_t cache_bytes, uint64_t snap_epoch)
{
	struct shared s = {.meta = fake_meta_create()};
	const uint64_t until_ns = clock_now_ns() + RUN_NS;
	pthread_t readers[READERS];
	uint64_t rng = 1;

	fake_meta_image_set(s.meta, &(struct image_row){.image = 1, .snap_epoch = snap_epoch});
	assert_int_equal(maps_create(fake_meta_port(s.meta), cache_bytes, 1, &s.maps), 0);
	assert_int_equal(map_open(s.maps, 1, &s.map), 0);
	for (unsigned i = 0; i < READERS; i++)
		assert_int_equal(pthread_create(&readers[i], NULL, read_all, &s), 0);
	while (clock_now_ns() < until_ns) {
		for (unsigned i = 0; i < 8; i++) {
			rng = rng * 6364136223846793005ull + 1442695040888963407ull;
			change_leaf(&s, (unsigned)(rng >> 33) % LEAVES);
		}
		commit(&s, (rng >> 20) % 4 == 0);
	}
	atomic_store(&s.stop, true);
	for (unsigned i = 0; i < READERS; i++)
		pthread_join(readers[i], NULL);
	commit(&s, false);
	walk_all(&s);
	map_close(s.map);
	maps_free(s.maps);
	fake_meta_free(s.meta);
}

static void readers_see_whole_and_current_leaves_while_nodes_are_evicted(void **state)
{
	run(4096, 0);
}

static void readers_see_whole_and_current_leaves_in_a_larger_cache(void **state)
{
	run(32 * 2200, 0);
}

/* Every node is copied on write, in every group. */
static void readers_see_whole_and_current_leaves_while_all_is_copied(void **state)
{
	run(4096, UINT64_MAX);
}

struct opener {
	struct maps *maps;
	atomic_bool *stop;
};

static void *open_and_close(void *arg)
{
	struct opener *o = arg;

	for (uint64_t i = 0; !atomic_load(o->stop); i++) {
		const uint64_t image = 1 + i % 7;
		struct map *m;
		uint64_t e;

		ASSERT(map_open(o->maps, image, &m) == 0);
		ASSERT(map_get(m, image * 1000, 1, &e) == 0);
		ASSERT(e == ENTRY_HOLE || loc_slot(entry_loc(e)) == image);
		map_close(m);
	}
	return NULL;
}

static void maps_are_opened_and_closed_while_they_change(void **state)
{
	struct shared s = {.meta = fake_meta_create()};
	struct opener o = {.stop = &s.stop};
	pthread_t threads[2];

	assert_int_equal(maps_create(fake_meta_port(s.meta), 8192, 1, &s.maps), 0);
	o.maps = s.maps;
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, open_and_close, &o), 0);
	for (uint64_t i = 0; i < 3000; i++) {
		const uint64_t image = 1 + i % 7;
		const uint64_t entry =
		        i % 5 ? entry_data(loc_make(1 + i, (unsigned)image), 1) : ENTRY_HOLE;
		struct map *m;

		assert_int_equal(map_open(s.maps, image, &m), 0);
		assert_int_equal(map_set(m, image * 1000, 1, &entry), 0);
		if (i % 50 == 0)
			map_clear(m);
		map_close(m);
		if (i % 3 == 0)
			commit(&s, i % 2);
	}
	atomic_store(&s.stop, true);
	for (unsigned i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	maps_free(s.maps);
	fake_meta_free(s.meta);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(readers_see_whole_and_current_leaves_while_nodes_are_evicted),
	        cmocka_unit_test(readers_see_whole_and_current_leaves_in_a_larger_cache),
	        cmocka_unit_test(readers_see_whole_and_current_leaves_while_all_is_copied),
	        cmocka_unit_test(maps_are_opened_and_closed_while_they_change),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

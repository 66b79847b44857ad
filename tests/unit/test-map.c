/*
 * test-map.c - image maps: a random model test against a flat oracle, and the particular cases
 *
 * The metadata store is the double of fake-meta.h.  Seeds are fixed, and printed when a check
 * fails.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/log.h"
#include "fake-meta.h"
#include "store/map.h"

#define CACHE_TINY  4096ull /* one node */
#define CACHE_LARGE (64ull << 20)

/* --- a datastore with one image --- */

struct ds {
	struct fake_meta *meta;
	struct maps *maps;
	struct map *map;
	uint64_t txg;
	uint64_t cache_bytes;
};

static void ds_attach(struct ds *d)
{
	struct meta *m = fake_meta_port(d->meta);
	struct store_state state;

	assert_int_equal(m->ops->state_get(m, &state), 0);
	d->txg = state.txg;
	assert_int_equal(maps_create(m, d->cache_bytes, state.next_node, &d->maps), 0);
	assert_int_equal(map_open(d->maps, 1, &d->map), 0);
}

static void ds_detach(struct ds *d)
{
	map_close(d->map);
	maps_free(d->maps);
}

static void ds_init(struct ds *d, uint64_t cache_bytes)
{
	*d = (struct ds){.meta = fake_meta_create(), .cache_bytes = cache_bytes};
	ds_attach(d);
}

static void ds_release(struct ds *d)
{
	ds_detach(d);
	fake_meta_free(d->meta);
}

static int ds_transact(struct ds *d)
{
	struct meta *m = fake_meta_port(d->meta);
	struct store_state state;
	int r = m->ops->state_get(m, &state);

	if (r == 0)
		r = m->ops->begin(m);
	if (r == 0)
		r = maps_txg_write(d->maps, d->txg + 1);
	state.txg = d->txg + 1;
	state.next_node = maps_next_node(d->maps);
	if (r == 0)
		r = m->ops->state_put(m, &state);
	if (r == 0)
		r = m->ops->commit(m);
	if (r < 0)
		m->ops->rollback(m);
	return r;
}

static int ds_try_commit(struct ds *d)
{
	const int r = ds_transact(d);

	if (r < 0)
		return r;
	d->txg++;
	maps_txg_committed(d->maps);
	return 0;
}

static void ds_commit(struct ds *d)
{
	assert_int_equal(ds_try_commit(d), 0);
}

static void ds_reopen(struct ds *d)
{
	ds_detach(d);
	ds_attach(d);
}

/* As a snapshot does: image copy_id gets the committed root, and both copy on write from here on.
 */
static void ds_snapshot(struct ds *d, uint64_t copy_id)
{
	struct image_row row;

	ds_commit(d);
	map_row(d->map, &row);
	ds_detach(d);
	row.snap_epoch = d->txg;
	fake_meta_image_set(d->meta, &row);
	row.image = copy_id;
	fake_meta_image_set(d->meta, &row);
	ds_attach(d);
}

static uint64_t data_at(uint64_t segment, unsigned slot)
{
	return entry_data(loc_make(segment, slot), (unsigned)(segment * 7 + slot) & 0xfff);
}

static uint64_t get1(struct map *m, uint64_t chunk)
{
	uint64_t e = MAP_KEEP;

	assert_int_equal(map_get(m, chunk, 1, &e), 0);
	return e;
}

static void set1(struct map *m, uint64_t chunk, uint64_t entry)
{
	assert_int_equal(map_set(m, chunk, 1, &entry), 0);
}

static void set_leaf(struct map *m, uint64_t chunk, uint64_t segment)
{
	uint64_t entries[LEAF_CHUNKS];

	for (unsigned i = 0; i < LEAF_CHUNKS; i++)
		entries[i] = data_at(segment, i);
	assert_int_equal(map_set(m, chunk & ~255ull, LEAF_CHUNKS, entries), 0);
}

static void assert_counts(struct map *m, uint64_t data, uint64_t zero)
{
	struct image_row row;

	map_row(m, &row);
	assert_int_equal(row.data_chunks, data);
	assert_int_equal(row.zero_chunks, zero);
}

static int count_node(void *arg, uint64_t node, unsigned level)
{
	++*(size_t *)arg;
	return 0;
}

/* Nodes that the image refers to; all leaves can be read. */
static size_t walk_count(struct map *m)
{
	size_t n = 0;

	assert_int_equal(map_walk(m, count_node, NULL, &n), 0);
	return n;
}

struct id_list {
	uint64_t ids[64];
	unsigned levels[64];
	unsigned n;
};

static int list_node(void *arg, uint64_t node, unsigned level)
{
	struct id_list *l = arg;

	assert_true(l->n < 64);
	l->ids[l->n] = node;
	l->levels[l->n++] = level;
	return 0;
}

/* --- the model --- */

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

/* --- particular cases --- */

static void empty_image_is_one_hole(void **state)
{
	struct ds d;
	uint64_t chunk;

	ds_init(&d, CACHE_LARGE);
	assert_int_equal(get1(d.map, 0), ENTRY_HOLE);
	assert_int_equal(get1(d.map, IMAGE_CHUNKS_MAX - 1), ENTRY_HOLE);
	assert_int_equal(map_next(d.map, 5, true, &chunk), 0);
	assert_int_equal(chunk, 5);
	assert_int_equal(map_next(d.map, 5, false, &chunk), 0);
	assert_int_equal(chunk, IMAGE_CHUNKS_MAX);
	assert_int_equal(map_fill(d.map, 0, UINT64_MAX, ENTRY_HOLE), 0);
	set1(d.map, 12345678, ENTRY_HOLE);
	ds_commit(&d);
	assert_int_equal(fake_meta_node_count(d.meta), 0);
	ds_release(&d);
}

static void height_grows_to_the_last_chunk(void **state)
{
	static const uint64_t chunks[] = {0, 255, 256, 65535, 65536, 1 << 24, IMAGE_CHUNKS_MAX - 1};
	static const unsigned heights[] = {1, 1, 2, 2, 3, 4, 4};
	struct ds d;
	struct image_row row;

	ds_init(&d, CACHE_TINY);
	for (unsigned i = 0; i < ARRAY_SIZE(chunks); i++) {
		set1(d.map, chunks[i], data_at(1 + i, i));
		map_row(d.map, &row);
		assert_int_equal(row.height, heights[i]);
		ds_commit(&d);
		for (unsigned k = 0; k <= i; k++)
			assert_int_equal(get1(d.map, chunks[k]), data_at(1 + k, k));
	}
	ds_reopen(&d);
	for (unsigned k = 0; k < ARRAY_SIZE(chunks); k++)
		assert_int_equal(get1(d.map, chunks[k]), data_at(1 + k, k));
	assert_counts(d.map, ARRAY_SIZE(chunks), 0);
	ds_release(&d);
}

static void preallocating_16_tib_takes_no_nodes(void **state)
{
	struct ds d;
	uint64_t chunk;

	ds_init(&d, CACHE_TINY);
	assert_int_equal(map_fill(d.map, 0, IMAGE_CHUNKS_MAX, ENTRY_ZERO), 0);
	ds_commit(&d);
	ds_reopen(&d);
	assert_int_equal(fake_meta_node_count(d.meta), 0);
	assert_counts(d.map, 0, IMAGE_CHUNKS_MAX);
	assert_int_equal(get1(d.map, IMAGE_CHUNKS_MAX - 1), ENTRY_ZERO);
	assert_int_equal(map_next(d.map, 0, true, &chunk), 0);
	assert_int_equal(chunk, IMAGE_CHUNKS_MAX);

	/* Writing into it takes the path to that leaf; punching all of it takes nothing again. */
	set1(d.map, 1 << 30, data_at(3, 3));
	ds_commit(&d);
	assert_int_equal(fake_meta_node_count(d.meta), 4);
	assert_int_equal(get1(d.map, (1 << 30) - 1), ENTRY_ZERO);
	assert_int_equal(get1(d.map, (1 << 30) + 1), ENTRY_ZERO);
	assert_counts(d.map, 1, IMAGE_CHUNKS_MAX - 1);
	set1(d.map, 1 << 30, ENTRY_ZERO);
	ds_commit(&d);
	assert_int_equal(fake_meta_node_count(d.meta), 0);
	assert_int_equal(map_fill(d.map, 0, IMAGE_CHUNKS_MAX, ENTRY_HOLE), 0);
	assert_counts(d.map, 0, 0);
	ds_release(&d);
}

static void growing_an_all_zero_tree_keeps_its_zeros(void **state)
{
	struct ds d;

	ds_init(&d, CACHE_LARGE);
	assert_int_equal(map_fill(d.map, 0, 256, ENTRY_ZERO), 0);
	set1(d.map, 70000, data_at(1, 1));
	assert_int_equal(get1(d.map, 255), ENTRY_ZERO);
	assert_int_equal(get1(d.map, 256), ENTRY_HOLE);
	assert_counts(d.map, 1, 256);
	ds_release(&d);
}

static void last_punched_chunk_takes_leaf_and_path_away(void **state)
{
	struct ds d;
	struct image_row row;

	ds_init(&d, CACHE_LARGE);
	set_leaf(d.map, 1 << 20, 5);
	ds_commit(&d);
	assert_int_equal(fake_meta_node_count(d.meta), 3);
	for (unsigned i = 0; i < LEAF_CHUNKS; i++)
		set1(d.map, (1 << 20) + i, ENTRY_HOLE);
	map_row(d.map, &row);
	assert_int_equal(row.root, 0);
	assert_int_equal(row.height, 0);
	ds_commit(&d);
	assert_int_equal(fake_meta_node_count(d.meta), 0);

	/* And once is enough: the next group has nothing to write but the state. */
	const uint64_t writes = fake_meta_writes(d.meta);
	ds_commit(&d);
	assert_int_equal(fake_meta_writes(d.meta) - writes, 3);
	ds_release(&d);
}

static void nodes_are_changed_in_place_without_a_snapshot(void **state)
{
	struct ds d;

	ds_init(&d, CACHE_LARGE);
	set1(d.map, 70000, data_at(1, 1));
	ds_commit(&d);
	const uint64_t next = maps_next_node(d.maps);
	for (unsigned i = 0; i < 20; i++) {
		set1(d.map, 70000 + i % 7, data_at(2 + i, 1));
		ds_commit(&d);
		if (i % 5 == 0)
			ds_reopen(&d);
	}
	assert_int_equal(maps_next_node(d.maps), next);
	assert_int_equal(fake_meta_node_count(d.meta), 3);
	ds_release(&d);
}

static void snapshot_shares_what_was_not_written_since(void **state)
{
	struct ds d;
	struct map *snap;

	ds_init(&d, CACHE_LARGE);
	set_leaf(d.map, 0, 1);
	set_leaf(d.map, 70000, 2);
	ds_snapshot(&d, 100);
	const size_t before = fake_meta_node_count(d.meta);
	assert_int_equal(before, 5); /* 2 leaves, 2 above them, the root */

	/* The first write copies its path, the second one nothing. */
	set1(d.map, 70000, data_at(9, 9));
	ds_commit(&d);
	assert_int_equal(fake_meta_node_count(d.meta), before + 3);
	set1(d.map, 70001, data_at(9, 10));
	ds_commit(&d);
	assert_int_equal(fake_meta_node_count(d.meta), before + 3);

	/* Dropping what is shared deletes only what is not. */
	assert_int_equal(map_fill(d.map, 0, IMAGE_CHUNKS_MAX, ENTRY_HOLE), 0);
	ds_commit(&d);
	assert_int_equal(fake_meta_node_count(d.meta), before);
	ds_reopen(&d);
	assert_int_equal(get1(d.map, 0), ENTRY_HOLE);
	assert_int_equal(map_open(d.maps, 100, &snap), 0);
	assert_int_equal(get1(snap, 0), data_at(1, 0));
	assert_int_equal(get1(snap, 70000), data_at(2, 70000 % 256));
	assert_counts(snap, 512, 0);
	map_close(snap);
	ds_release(&d);
}

static void failed_transaction_is_written_again_in_whole(void **state)
{
	struct ds d;

	ds_init(&d, CACHE_TINY);
	set_leaf(d.map, 0, 1);
	set_leaf(d.map, 300, 2);
	ds_commit(&d);
	set1(d.map, 0, data_at(7, 7));
	assert_int_equal(map_fill(d.map, 256, 512, ENTRY_HOLE), 0);
	set1(d.map, 1 << 20, data_at(8, 8));
	for (unsigned k = 1; k <= 9; k++) {
		fake_meta_fail_writes(d.meta, k, 1, -ENOSPC);
		assert_int_equal(ds_try_commit(&d), -ENOSPC);
		assert_int_equal(fake_meta_node_count(d.meta), 3);
		assert_int_equal(get1(d.map, 0), data_at(7, 7));
	}
	ds_commit(&d);
	ds_reopen(&d);
	assert_int_equal(get1(d.map, 0), data_at(7, 7));
	assert_int_equal(get1(d.map, 1), data_at(1, 1));
	assert_int_equal(get1(d.map, 300), ENTRY_HOLE);
	assert_int_equal(get1(d.map, 1 << 20), data_at(8, 8));
	assert_int_equal(fake_meta_node_count(d.meta), walk_count(d.map));
	ds_release(&d);
}

static void cleared_image_goes_with_its_row_and_nodes(void **state)
{
	struct ds d;
	struct image_row row;
	struct meta *m;

	ds_init(&d, CACHE_LARGE);
	m = fake_meta_port(d.meta);
	set_leaf(d.map, 1 << 20, 1);
	assert_int_equal(map_fill(d.map, 0, 5000, ENTRY_ZERO), 0);
	ds_commit(&d);
	assert_int_equal(m->ops->image_get(m, 1, &row), 0);
	map_clear(d.map);
	assert_counts(d.map, 0, 0);
	assert_int_equal(get1(d.map, 1 << 20), ENTRY_HOLE);
	ds_commit(&d);
	assert_int_equal(m->ops->image_get(m, 1, &row), -ENOENT);
	assert_int_equal(fake_meta_node_count(d.meta), 0);

	/* The handle works on; what is written after a clear is there. */
	map_clear(d.map);
	set1(d.map, 3, data_at(2, 2));
	ds_commit(&d);
	ds_reopen(&d);
	assert_int_equal(get1(d.map, 3), data_at(2, 2));
	ds_release(&d);
}

static void map_closed_while_dirty_is_committed(void **state)
{
	struct ds d;
	struct map *a, *b;

	ds_init(&d, CACHE_TINY);
	assert_int_equal(map_open(d.maps, 2, &a), 0);
	assert_int_equal(map_open(d.maps, 2, &b), 0);
	assert_ptr_equal(a, b);
	map_close(b);
	set1(a, 77, data_at(4, 4));
	map_close(a);
	assert_int_equal(map_open(d.maps, 2, &b), 0);
	assert_int_equal(get1(b, 77), data_at(4, 4));
	map_close(b);
	ds_commit(&d);
	ds_reopen(&d);
	assert_int_equal(map_open(d.maps, 2, &b), 0);
	assert_int_equal(get1(b, 77), data_at(4, 4));
	map_close(b);
	map_close(NULL);
	ds_release(&d);
}

static void row_that_is_not_valid_is_refused(void **state)
{
	static const struct image_row rows[] = {
	        {.image = 5, .root = 1, .height = 5},
	        {.image = 5, .root = 1, .height = 0},
	        {.image = 5, .root = 1ull << 63, .height = 2},
	};
	struct ds d;
	struct map *m;

	ds_init(&d, CACHE_TINY);
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		fake_meta_image_set(d.meta, &rows[i]);
		assert_int_equal(map_open(d.maps, 5, &m), -EIO);
	}
	fake_meta_fail_reads(d.meta, 1, 1, -EIO);
	assert_int_equal(map_open(d.maps, 6, &m), -EIO);
	ds_release(&d);
}

/* --- the cache --- */

static void cache_stays_within_its_limit(void **state)
{
	struct maps_stats stats;
	struct ds d;

	ds_init(&d, 1 << 20);
	for (unsigned i = 0; i < 2000; i++)
		set_leaf(d.map, i * 256, 1 + i);
	maps_stats_get(d.maps, &stats);
	assert_int_equal(stats.limit_bytes, 1 << 20);
	assert_int_equal(stats.dirty_nodes, 2000 + 8 + 1);
	assert_true(stats.bytes > 2000 * 2048); /* dirty: they stay */
	ds_commit(&d);
	maps_stats_get(d.maps, &stats);
	assert_int_equal(stats.dirty_nodes, 0);
	assert_true(stats.bytes <= stats.limit_bytes && stats.bytes > stats.limit_bytes / 2);
	for (unsigned i = 0; i < 2000; i++)
		assert_int_equal(get1(d.map, i * 256 + 9), data_at(1 + i, 9));
	maps_stats_get(d.maps, &stats);
	assert_true(stats.bytes <= stats.limit_bytes && stats.bytes > stats.limit_bytes / 2);
	ds_release(&d);
}

static void cached_leaf_is_read_without_the_metadata_store(void **state)
{
	struct ds d;

	ds_init(&d, CACHE_LARGE);
	set_leaf(d.map, 1 << 25, 1);
	ds_commit(&d);
	ds_reopen(&d);
	get1(d.map, 1 << 25);
	const uint64_t reads = fake_meta_reads(d.meta);
	for (unsigned i = 0; i < 512;
	        i++) /* the second half is a hole, known from the node above */
		get1(d.map, (1 << 25) + i);
	assert_int_equal(fake_meta_reads(d.meta), reads);

	/* It stays while the image is closed, too. */
	struct map *other = d.map;
	assert_int_equal(map_open(d.maps, 2, &d.map), 0);
	map_close(other);
	assert_int_equal(map_open(d.maps, 1, &other), 0);
	const uint64_t reads_opened = fake_meta_reads(d.meta);
	get1(other, (1 << 25) + 3);
	assert_int_equal(fake_meta_reads(d.meta), reads_opened);
	map_close(other);
	ds_release(&d);
}

static int walk_leaf_nothing(void *arg, uint64_t first, const uint64_t *entries)
{
	return 0;
}

static void walk_and_search_leave_the_cache_alone(void **state)
{
	struct maps_stats before, after;
	struct ds d;
	uint64_t chunk;

	ds_init(&d, CACHE_LARGE);
	for (unsigned i = 0; i < 200; i++)
		set_leaf(d.map, i * 256, 1 + i);
	ds_commit(&d);
	ds_reopen(&d);
	get1(d.map, 0);
	maps_stats_get(d.maps, &before);
	assert_int_equal(map_walk(d.map, NULL, walk_leaf_nothing, NULL), 0);
	assert_int_equal(map_next(d.map, 0, true, &chunk), 0);
	assert_int_equal(chunk, 200 * 256);
	maps_stats_get(d.maps, &after);
	assert_int_equal(after.bytes, before.bytes);
	ds_release(&d);
}

/*
 * A reader overtaken between reading a blob and putting it into the cache.  The hook does, on the
 * reader's own thread, what the txg thread would do meanwhile.
 */
enum overtake_kind { CHANGE, DROP, DROP_UNCOMMITTED, COLLAPSE_UNCOMMITTED };

struct overtake {
	struct ds *d;
	uint64_t id; /* when this node is read */
	enum overtake_kind kind;
	bool done;
};

#define OVERTAKEN_CHUNK 3
#define EVICTING_IMAGES 4 /* images 2.., of one leaf each: reading them fills a tiny cache */

static void evict_all(struct ds *d)
{
	for (uint64_t image = 2; image < 2 + EVICTING_IMAGES; image++) {
		struct map *m;

		assert_int_equal(map_open(d->maps, image, &m), 0);
		assert_int_equal(get1(m, 9), data_at(image, 9));
		map_close(m);
	}
}

static void overtake_hook(void *arg, uint64_t id)
{
	static const uint64_t holes[LEAF_CHUNKS];
	struct overtake *o = arg;

	if (o->done || id != o->id)
		return;
	o->done = true;
	if (o->kind == CHANGE)
		set1(o->d->map, OVERTAKEN_CHUNK, data_at(99, 9));
	else if (o->kind == COLLAPSE_UNCOMMITTED)
		assert_int_equal(map_set(o->d->map, 0, LEAF_CHUNKS, holes), 0);
	else
		assert_int_equal(map_fill(o->d->map, 0, LEAF_CHUNKS, ENTRY_HOLE), 0);
	if (o->kind == DROP_UNCOMMITTED || o->kind == COLLAPSE_UNCOMMITTED)
		return;
	ds_commit(o->d);
	evict_all(o->d);
}

/* The reader of OVERTAKEN_CHUNK is overtaken when it reads the node above it at this level. */
static void overtake_run(
        unsigned level, enum overtake_kind kind, uint64_t cache_bytes, uint64_t expect)
{
	struct overtake o = {.kind = kind};
	struct id_list list = {0};
	struct ds d;

	ds_init(&d, cache_bytes);
	o.d = &d;
	for (unsigned i = 0; i < 8; i++)
		set_leaf(d.map, i * 256, 1 + i);
	for (uint64_t image = 2; image < 2 + EVICTING_IMAGES; image++) {
		struct map *m;

		assert_int_equal(map_open(d.maps, image, &m), 0);
		set_leaf(m, 0, image);
		map_close(m);
	}
	ds_commit(&d);
	assert_int_equal(map_walk(d.map, list_node, NULL, &list), 0);
	ds_reopen(&d);
	for (unsigned i = 0; i < list.n && !o.id; i++)
		if (list.levels[i] == level)
			o.id = list.ids[i]; /* the first one at this level */
	fake_meta_on_node_get(d.meta, overtake_hook, &o);
	const uint64_t seen = get1(d.map, OVERTAKEN_CHUNK);
	assert_true(o.done);
	assert_true(seen == data_at(1, OVERTAKEN_CHUNK) || seen == expect); /* old or new */
	fake_meta_on_node_get(d.meta, NULL, NULL);
	assert_int_equal(get1(d.map, OVERTAKEN_CHUNK), expect);
	assert_int_equal(get1(d.map, 300), data_at(2, 300 % 256));
	ds_release(&d);
}

static void overtaken_reader_leaves_no_stale_leaf(void **state)
{
	overtake_run(0, CHANGE, CACHE_TINY, data_at(99, 9));
	overtake_run(0, DROP, CACHE_TINY, ENTRY_HOLE);
	overtake_run(0, DROP_UNCOMMITTED, CACHE_LARGE, ENTRY_HOLE);
	overtake_run(0, COLLAPSE_UNCOMMITTED, CACHE_LARGE, ENTRY_HOLE);
}

static void overtaken_reader_takes_a_deleted_node_for_no_damage(void **state)
{
	overtake_run(1, CHANGE, CACHE_TINY, data_at(99, 9));
	overtake_run(1, DROP, CACHE_TINY, ENTRY_HOLE);
	overtake_run(1, DROP_UNCOMMITTED, CACHE_LARGE, ENTRY_HOLE);
}

/* --- damage --- */

/* Leaves 0..7 and one at 70000, committed, nothing cached; the ids in the order of a walk. */
static void damage_begin(struct ds *d, struct id_list *list)
{
	*list = (struct id_list){0};
	log_set_level(LOG_ERROR);
	ds_init(d, CACHE_LARGE);
	for (unsigned i = 0; i < 8; i++)
		set_leaf(d->map, i * 256, 1 + i);
	set_leaf(d->map, 70000, 50);
	ds_commit(d);
	assert_int_equal(map_walk(d->map, list_node, NULL, list), 0);
	assert_int_equal(list->n, 12); /* root, inner, 8 leaves, inner, leaf */
	ds_reopen(d);
}

static void damage_is_an_error_for_what_lies_below_alone(void **state)
{
	struct id_list list;
	struct ds d;
	uint64_t e, chunk;

	damage_begin(&d, &list);
	fake_meta_node_damage(d.meta, list.ids[4], 333); /* leaf 2 */
	fake_meta_node_remove(d.meta, list.ids[10]);     /* above 70000 */
	for (unsigned i = 0; i < 8; i++) {
		assert_int_equal(map_get(d.map, i * 256 + 5, 1, &e), i == 2 ? -EIO : 0);
		assert_true(i == 2 || e == data_at(1 + i, 5));
	}
	assert_int_equal(map_get(d.map, 70000, 1, &e), -EIO);
	assert_int_equal(map_get(d.map, 8 * 256, 1, &e), 0);
	assert_int_equal(map_next(d.map, 0, true, &chunk), -EIO);
	assert_int_equal(map_next(d.map, 768, true, &chunk), 0);
	assert_int_equal(chunk, 8 * 256);

	/* One failed read is an error once; nothing of it stays. */
	fake_meta_fail_reads(d.meta, 1, 1, -EIO);
	ds_detach(&d);
	fake_meta_crash(d.meta);
	ds_attach(&d);
	fake_meta_fail_reads(d.meta, 1, 1, -EIO);
	assert_int_equal(map_get(d.map, 5, 1, &e), -EIO);
	assert_int_equal(map_get(d.map, 5, 1, &e), 0);
	ds_release(&d);
}

static void node_of_another_level_is_damage(void **state)
{
	struct id_list list;
	struct ds d;
	uint64_t e;

	damage_begin(&d, &list);
	ds_detach(&d);
	fake_meta_image_set(
	        d.meta, &(struct image_row){.image = 1, .root = list.ids[2], .height = 2});
	ds_attach(&d);
	assert_int_equal(map_get(d.map, 0, 1, &e), -EIO);
	ds_release(&d);
}

static void damaged_leaf_heals_when_overwritten_in_whole(void **state)
{
	struct id_list list;
	struct ds d;
	uint64_t e = data_at(9, 9);

	damage_begin(&d, &list);
	for (unsigned i = 2; i < 5; i++)
		fake_meta_node_damage(d.meta, list.ids[2 + i], 333);
	for (unsigned i = 2; i < 5; i++)
		assert_int_equal(map_set(d.map, i * 256, 1, &e), -EIO);
	assert_int_equal(map_fill(d.map, 2 * 256, 2 * 256 + 255, ENTRY_HOLE), -EIO);
	set_leaf(d.map, 2 * 256, 77);
	assert_int_equal(map_fill(d.map, 3 * 256, 4 * 256, ENTRY_HOLE), 0);
	assert_int_equal(map_fill(d.map, 4 * 256, 5 * 256, ENTRY_ZERO), 0);
	ds_commit(&d);
	ds_reopen(&d);
	assert_int_equal(get1(d.map, 2 * 256 + 4), data_at(77, 4));
	assert_int_equal(get1(d.map, 3 * 256), ENTRY_HOLE);
	assert_int_equal(get1(d.map, 4 * 256), ENTRY_ZERO);
	assert_int_equal(get1(d.map, 5 * 256 + 1), data_at(6, 1));
	ds_release(&d);
}

static void fill_over_a_damaged_edge_does_the_rest(void **state)
{
	struct id_list list;
	struct ds d;
	uint64_t e;

	damage_begin(&d, &list);
	fake_meta_node_damage(d.meta, list.ids[2], 333);
	assert_int_equal(map_fill(d.map, 100, 4 * 256, ENTRY_HOLE), -EIO);
	assert_int_equal(map_get(d.map, 100, 1, &e), -EIO);
	assert_int_equal(get1(d.map, 256), ENTRY_HOLE);
	assert_int_equal(get1(d.map, 1023), ENTRY_HOLE);
	assert_int_equal(get1(d.map, 1024), data_at(5, 0));
	ds_release(&d);
}

static void damaged_inner_node_heals_when_dropped_in_whole(void **state)
{
	struct id_list list;
	struct ds d;
	uint64_t e = data_at(9, 9);

	damage_begin(&d, &list);
	get1(d.map, 3 * 256); /* this leaf and what is above it are in the cache */
	fake_meta_node_damage(d.meta, list.ids[1], 333);
	ds_detach(&d);
	ds_attach(&d);
	assert_int_equal(map_set(d.map, 0, 1, &e), -EIO);
	uint64_t whole[LEAF_CHUNKS] = {0};
	assert_int_equal(map_set(d.map, 0, LEAF_CHUNKS, whole), -EIO); /* the path to it is lost */
	assert_int_equal(map_fill(d.map, 0, 65536, ENTRY_HOLE), 0);
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(get1(d.map, i * 256), ENTRY_HOLE);
	set1(d.map, 5, data_at(9, 9));
	ds_commit(&d);
	ds_reopen(&d);
	assert_int_equal(get1(d.map, 5), data_at(9, 9));
	assert_int_equal(get1(d.map, 3 * 256), ENTRY_HOLE);
	assert_int_equal(get1(d.map, 70000), data_at(50, 70000 % 256));
	map_clear(d.map);
	ds_commit(&d);
	ds_release(&d);
}

struct walk_log {
	uint64_t firsts[32];
	bool lost[32];
	unsigned n;
	uint64_t last_node;
	unsigned last_level;
	int stop_at; /* return -ECANCELED at this leaf */
};

static int walk_log_node(void *arg, uint64_t node, unsigned level)
{
	struct walk_log *w = arg;

	w->last_node = node;
	w->last_level = level;
	return 0;
}

static int walk_log_leaf(void *arg, uint64_t first, const uint64_t *entries)
{
	struct walk_log *w = arg;

	assert_true(w->n < 32);
	w->firsts[w->n] = first;
	w->lost[w->n++] = !entries;
	return w->stop_at && (int)w->n == w->stop_at ? -ECANCELED : 0;
}

static void walk_goes_on_after_damage_and_says_so(void **state)
{
	struct id_list list;
	struct walk_log w = {0};
	struct ds d;

	damage_begin(&d, &list);
	fake_meta_node_damage(d.meta, list.ids[4], 333);
	fake_meta_node_damage(d.meta, list.ids[10], 333);
	assert_int_equal(map_walk(d.map, walk_log_node, walk_log_leaf, &w), -EIO);
	assert_int_equal(w.n, 9);
	for (unsigned i = 0; i < 8; i++) {
		assert_int_equal(w.firsts[i], i * 256);
		assert_int_equal(w.lost[i], i == 2);
	}
	assert_int_equal(w.firsts[8], 65536);
	assert_true(w.lost[8]);
	assert_int_equal(w.last_node, list.ids[10]);
	assert_int_equal(w.last_level, 1);

	w = (struct walk_log){.stop_at = 2};
	assert_int_equal(map_walk(d.map, NULL, walk_log_leaf, &w), -ECANCELED);
	assert_int_equal(w.n, 2);
	ds_release(&d);
}

static int skip_inner(void *arg, uint64_t node, unsigned level)
{
	return level == 1;
}

static void walk_skips_below_and_shows_zeros_as_leaves(void **state)
{
	struct walk_log w = {0};
	struct ds d;

	ds_init(&d, CACHE_LARGE);
	set_leaf(d.map, 0, 1);
	assert_int_equal(map_fill(d.map, 512, 1024, ENTRY_ZERO), 0);
	assert_int_equal(map_walk(d.map, NULL, walk_log_leaf, &w), 0);
	assert_int_equal(w.n, 3);
	assert_int_equal(w.firsts[1], 512);
	assert_int_equal(w.firsts[2], 768);
	w.n = 0;
	assert_int_equal(map_walk(d.map, skip_inner, walk_log_leaf, &w), 0);
	assert_int_equal(w.n, 0);
	ds_release(&d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(random_changes_match_the_oracle),
	        cmocka_unit_test(random_changes_with_snapshots_match_the_oracle),
	        cmocka_unit_test(empty_image_is_one_hole),
	        cmocka_unit_test(height_grows_to_the_last_chunk),
	        cmocka_unit_test(preallocating_16_tib_takes_no_nodes),
	        cmocka_unit_test(growing_an_all_zero_tree_keeps_its_zeros),
	        cmocka_unit_test(last_punched_chunk_takes_leaf_and_path_away),
	        cmocka_unit_test(nodes_are_changed_in_place_without_a_snapshot),
	        cmocka_unit_test(snapshot_shares_what_was_not_written_since),
	        cmocka_unit_test(failed_transaction_is_written_again_in_whole),
	        cmocka_unit_test(cleared_image_goes_with_its_row_and_nodes),
	        cmocka_unit_test(map_closed_while_dirty_is_committed),
	        cmocka_unit_test(row_that_is_not_valid_is_refused),
	        cmocka_unit_test(cache_stays_within_its_limit),
	        cmocka_unit_test(cached_leaf_is_read_without_the_metadata_store),
	        cmocka_unit_test(walk_and_search_leave_the_cache_alone),
	        cmocka_unit_test(overtaken_reader_leaves_no_stale_leaf),
	        cmocka_unit_test(overtaken_reader_takes_a_deleted_node_for_no_damage),
	        cmocka_unit_test(damage_is_an_error_for_what_lies_below_alone),
	        cmocka_unit_test(node_of_another_level_is_damage),
	        cmocka_unit_test(damaged_leaf_heals_when_overwritten_in_whole),
	        cmocka_unit_test(fill_over_a_damaged_edge_does_the_rest),
	        cmocka_unit_test(damaged_inner_node_heals_when_dropped_in_whole),
	        cmocka_unit_test(walk_goes_on_after_damage_and_says_so),
	        cmocka_unit_test(walk_skips_below_and_shows_zeros_as_leaves),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

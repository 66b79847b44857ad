/*
 * test-map.c - image maps: the particular cases, and the cache of nodes
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "map-fixture.h"

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

int main(void)
{
	const struct CMUnitTest tests[] = {
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
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

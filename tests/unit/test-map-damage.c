/*
 * test-map-damage.c - image maps: what damaged nodes cost, how they heal, and walks around them
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/log.h"
#include "map-fixture.h"

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

static int count_lost(void *arg, uint64_t first, const uint64_t *entries)
{
	(void)first;
	*(unsigned *)arg += !entries;
	return 0;
}

/* A change above which a node is damaged is kept; what it does not replace stays lost, and is told of. */
static void damaged_inner_nodes_are_rebuilt_when_asked(void **state)
{
	struct id_list list;
	struct ds d;
	uint64_t e = data_at(9, 9);
	unsigned lost = 0;

	(void)state;
	for (unsigned damaged = 0; damaged < 2; damaged++) { /* the root; the inner node below it */
		damage_begin(&d, &list);
		fake_meta_node_damage(d.meta, list.ids[damaged], 333);
		assert_int_equal(map_fill(d.map, 256, 512, ENTRY_HOLE), -EIO);
		map_rebuild(d.map, true);
		set_leaf(d.map, 3 * 256, 77);
		assert_int_equal(map_fill(d.map, 4 * 256, 6 * 256, ENTRY_HOLE), 0);
		assert_int_equal(map_set(d.map, 0, 1, &e), -EIO); /* a part of a lost leaf */
		map_rebuild(d.map, false);
		for (unsigned round = 0; round < 2; round++) {
			assert_int_equal(get1(d.map, 3 * 256 + 4), data_at(77, 4));
			assert_int_equal(get1(d.map, 5 * 256), ENTRY_HOLE);
			assert_int_equal(map_get(d.map, 0, 1, &e), -EIO);
			assert_int_equal(map_get(d.map, 6 * 256, 1, &e), -EIO);
			assert_int_equal(map_get(d.map, 200 * 256, 1, &e), -EIO);
			assert_int_equal(map_get(d.map, 70000, 1, &e), damaged == 0 ? -EIO : 0);
			ds_commit(&d);
			ds_reopen(&d);
		}
		assert_true(fake_meta_node_exists(d.meta, list.ids[damaged]));
		assert_int_equal(map_walk(d.map, NULL, count_lost, &lost), -EIO);
		assert_int_equal(lost, damaged == 0 ? 253 + 255 : 253);
		lost = 0;
		/* Others in the place of all that was lost. */
		assert_int_equal(map_fill(d.map, 0, 65536 * 2, ENTRY_HOLE), 0);
		ds_commit(&d);
		const int r = map_walk(d.map, NULL, count_lost, &lost);
		assert_int_equal(r, damaged == 0 ? -EIO : 0);
		assert_int_equal(lost, damaged == 0 ? 254 : 0);
		lost = 0;
		ds_release(&d);
	}
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
	        cmocka_unit_test(damage_is_an_error_for_what_lies_below_alone),
	        cmocka_unit_test(node_of_another_level_is_damage),
	        cmocka_unit_test(damaged_leaf_heals_when_overwritten_in_whole),
	        cmocka_unit_test(fill_over_a_damaged_edge_does_the_rest),
	        cmocka_unit_test(damaged_inner_node_heals_when_dropped_in_whole),
	        cmocka_unit_test(damaged_inner_nodes_are_rebuilt_when_asked),
	        cmocka_unit_test(walk_goes_on_after_damage_and_says_so),
	        cmocka_unit_test(walk_skips_below_and_shows_zeros_as_leaves),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * map-fixture.c - see map-fixture.h
 */
#include "map-fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

void ds_attach(struct ds *d)
{
	struct meta *m = fake_meta_port(d->meta);
	struct store_state state;

	assert_int_equal(m->ops->state_get(m, &state), 0);
	d->txg = state.txg;
	assert_int_equal(maps_create(m, d->cache_bytes, state.next_node, &d->maps), 0);
	assert_int_equal(map_open(d->maps, 1, &d->map), 0);
}

void ds_detach(struct ds *d)
{
	map_close(d->map);
	maps_free(d->maps);
}

void ds_init(struct ds *d, uint64_t cache_bytes)
{
	*d = (struct ds){.meta = fake_meta_create(), .cache_bytes = cache_bytes};
	ds_attach(d);
}

void ds_release(struct ds *d)
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

int ds_try_commit(struct ds *d)
{
	const int r = ds_transact(d);

	if (r < 0)
		return r;
	d->txg++;
	maps_txg_committed(d->maps);
	return 0;
}

void ds_commit(struct ds *d)
{
	assert_int_equal(ds_try_commit(d), 0);
}

void ds_reopen(struct ds *d)
{
	ds_detach(d);
	ds_attach(d);
}

void ds_snapshot(struct ds *d, uint64_t copy_id)
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

uint64_t data_at(uint64_t segment, unsigned slot)
{
	return entry_data(loc_make(segment, slot), (unsigned)(segment * 7 + slot) & 0xfff);
}

uint64_t get1(struct map *m, uint64_t chunk)
{
	uint64_t e = MAP_KEEP;

	assert_int_equal(map_get(m, chunk, 1, &e), 0);
	return e;
}

void set1(struct map *m, uint64_t chunk, uint64_t entry)
{
	assert_int_equal(map_set(m, chunk, 1, &entry), 0);
}

void set_leaf(struct map *m, uint64_t chunk, uint64_t segment)
{
	uint64_t entries[LEAF_CHUNKS];

	for (unsigned i = 0; i < LEAF_CHUNKS; i++)
		entries[i] = data_at(segment, i);
	assert_int_equal(map_set(m, chunk & ~255ull, LEAF_CHUNKS, entries), 0);
}

void assert_counts(struct map *m, uint64_t data, uint64_t zero)
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

size_t walk_count(struct map *m)
{
	size_t n = 0;

	assert_int_equal(map_walk(m, count_node, NULL, &n), 0);
	return n;
}

int list_node(void *arg, uint64_t node, unsigned level)
{
	struct id_list *l = arg;

	assert_true(l->n < 64);
	l->ids[l->n] = node;
	l->levels[l->n++] = level;
	return 0;
}

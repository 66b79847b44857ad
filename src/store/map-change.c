/*
 * map-change.c - what the txg thread does to maps
 *
 * One thread changes all maps, so a change needs no lock against other changes; it takes the locks
 * of map-cache.c and map.row_lock only to publish to readers, in the order that map.c's essay
 * needs: a node is in the cache before something points to it, and nothing points to it before it
 * goes.
 *
 * To *own* a node is to have it in the cache, dirty, under an id that no snapshot refers to. Owning
 * a node which is not there (a hole, all zeros), is shared (born at or before the snapshot epoch)
 * or is lost (damaged, and about to be overwritten or rebuilt) gives it a new id, which its parent must be
 * owned to take, and so on up to the row.  All parents are owned before the first value changes, so
 * a failure on the way leaves the tree as it was.
 *
 * A failed transaction changes nothing here: dirty nodes, rows and the list of ids to delete stay
 * until maps_txg_committed, and maps_txg_write writes all of them again.
 */
#include <errno.h>

#include "store/map-private.h"

void maps_set_observer(struct maps *ms, map_entry_fn *added, map_entry_fn *dropped, void *arg)
{
	ms->added = added;
	ms->dropped = dropped;
	ms->observer_arg = arg;
}

/* --- the row --- */

static void map_mark_dirty(struct map *m)
{
	if (m->dirty)
		return;
	pthread_mutex_lock(&m->ms->lock); /* map_close looks at it */
	m->dirty = true;
	pthread_mutex_unlock(&m->ms->lock);
	m->next_dirty = m->ms->dirty_maps;
	m->ms->dirty_maps = m;
}

static void row_set_root(struct map *m, uint64_t root, unsigned height)
{
	map_mark_dirty(m);
	pthread_mutex_lock(&m->row_lock);
	m->row.root = root;
	m->row.height = root ? height : 0;
	pthread_mutex_unlock(&m->row_lock);
}

/* What a change did to the counters. */
struct tally {
	struct maps *ms;
	int64_t data, zero;
};

static void tally_drop(struct tally *t, uint64_t entry)
{
	if (entry == ENTRY_ZERO)
		t->zero--;
	if (entry_state(entry) != ENTRY_DATA)
		return;
	t->data--;
	if (t->ms->dropped)
		t->ms->dropped(t->ms->observer_arg, entry);
}

static void tally_add(struct tally *t, uint64_t entry)
{
	if (entry == ENTRY_ZERO)
		t->zero++;
	if (entry_state(entry) != ENTRY_DATA)
		return;
	t->data++;
	if (t->ms->added)
		t->ms->added(t->ms->observer_arg, entry);
}

/* Not below zero: after damage the counters may be wrong, but shall not be absurd. */
static uint64_t count_add(uint64_t count, int64_t change)
{
	return change < 0 && count < (uint64_t)-change ? 0 : count + (uint64_t)change;
}

static void row_count(struct map *m, const struct tally *t)
{
	if (!t->data && !t->zero)
		return;
	map_mark_dirty(m);
	pthread_mutex_lock(&m->row_lock);
	m->row.data_chunks = count_add(m->row.data_chunks, t->data);
	m->row.zero_chunks = count_add(m->row.zero_chunks, t->zero);
	pthread_mutex_unlock(&m->row_lock);
}

/* --- owning nodes --- */

static int own(
        struct map *m, unsigned level, uint32_t index, bool overwrite, struct node **ret_node);

static uint64_t node_id_alloc(struct maps *ms)
{
	const uint64_t id = atomic_fetch_add(&ms->next_node, 1);

	ASSERT(id <= MAP_NODE_MAX);
	return id;
}

static bool is_root(const struct map *m, unsigned level)
{
	return level + 1 == m->row.height;
}

/* Makes node (level, index) be id, in its parent (owned; NULL for the root). */
static void link_child(
        struct map *m, unsigned level, uint32_t index, struct node *parent, uint64_t id)
{
	if (parent)
		nodes_set_values(&m->ms->nodes, parent, index % LEAF_CHUNKS, 1, &id);
	else
		row_set_root(m, id, level + 1);
}

static int own_parent(struct map *m, unsigned level, uint32_t index, struct node **ret_parent)
{
	if (is_root(m, level)) {
		*ret_parent = NULL;
		return 0;
	}
	return own(m, level + 1, index >> LEAF_SHIFT, false, ret_parent);
}

void map_rebuild(struct map *m, bool on)
{
	m->rebuild = on;
}

/* An inner node all of whose children are lost with the node of this id. */
static void rebuild_content(struct node *n, uint64_t lost)
{
	n->body = (struct map_node){.level = (uint16_t)n->key.level};
	for (unsigned i = 0; i < LEAF_CHUNKS; i++)
		n->body.values[i] = lost;
}

/*
 * What an uncached, unowned node holds, into n; sets n->id if the node may keep it.  A lost or locked
 * leaf that is overwritten counts as a hole.
 */
static int own_content(struct map *m, bool overwrite, struct node *n)
{
	const unsigned level = n->key.level;
	struct map_found found = {0};
	const int r = map_find(m, level, n->key.index, false, &found, &n->body);

	if (r == -EIO && level > 0 && m->rebuild) {
		rebuild_content(n, found.id);
		return 0;
	}
	if (r < 0 && !((r == -EIO || r == -ENOKEY) && overwrite))
		return r;
	if (r < 0)
		found.id = 0;
	if (map_is_marker(found.id)) {
		const uint64_t leaf_value = found.id ? ENTRY_ZERO : ENTRY_HOLE;

		n->body.level = level;
		for (unsigned i = 0; i < LEAF_CHUNKS; i++)
			n->body.values[i] = level ? found.id : leaf_value;
	} else if (n->body.birth_txg > m->row.snap_epoch) {
		n->id = found.id;
	}
	return 0;
}

static int own(
        struct map *m, unsigned level, uint32_t index, bool overwrite, struct node **ret_node)
{
	struct nodes *nodes = &m->ms->nodes;
	struct node *n = nodes_own(nodes, map_key(m, level, index), m->row.snap_epoch);
	struct node *parent = NULL;

	map_mark_dirty(m);
	if (n) {
		*ret_node = n;
		return 0;
	}
	n = calloc(1, sizeof(*n));
	if (!n)
		return -ENOMEM;
	n->key = map_key(m, level, index);
	int r = own_content(m, overwrite, n);
	if (r == 0 && !n->id)
		r = own_parent(m, level, index, &parent);
	if (r < 0) {
		free(n);
		return r;
	}
	n->fresh = !n->id;
	if (n->fresh)
		n->id = node_id_alloc(m->ms);
	nodes_put_dirty(nodes, n);
	if (n->fresh)
		link_child(m, level, index, parent, n->id);
	*ret_node = n;
	return 0;
}

/* Grows the tree until it has a place for chunk. */
static int map_grow(struct map *m, uint64_t chunk)
{
	while (map_capacity(m->row.height) <= chunk) {
		const unsigned height = m->row.height + 1;

		if (!m->row.root) {
			map_mark_dirty(m);
			pthread_mutex_lock(&m->row_lock);
			m->row.height = height;
			pthread_mutex_unlock(&m->row_lock);
			continue;
		}
		struct node *n = calloc(1, sizeof(*n));
		if (!n)
			return -ENOMEM;
		n->key = map_key(m, height - 1, 0);
		n->id = node_id_alloc(m->ms);
		n->fresh = true;
		n->body.level = height - 1;
		n->body.values[0] = m->row.root;
		nodes_put_dirty(&m->ms->nodes, n);
		row_set_root(m, n->id, height);
	}
	return 0;
}

/* --- taking nodes out --- */

static void deletes_add(struct maps *ms, uint64_t id)
{
	if (ms->n_deletes < MAP_DELETES_MAX)
		ms->deletes[ms->n_deletes++] = id;
}

/*
 * Replaces an owned node all of whose values are the same hole or zero by that value in its parent,
 * which is returned; else NULL (also for the root).
 */
static struct node *collapse(struct map *m, struct node *n)
{
	const unsigned level = n->key.level;
	const uint32_t index = n->key.index;
	const uint64_t v = n->body.values[0];
	struct node *parent;

	if (level ? !map_is_marker(v) : v != ENTRY_HOLE && v != ENTRY_ZERO)
		return NULL;
	for (unsigned i = 1; i < LEAF_CHUNKS; i++)
		if (n->body.values[i] != v)
			return NULL;
	if (own_parent(m, level, index, &parent) < 0)
		return NULL; /* it just stays */
	if (!n->fresh)
		deletes_add(m->ms, n->id);
	link_child(m, level, index, parent, v ? MAP_NODE_ALL_ZERO : 0);
	atomic_fetch_add(&m->seq, 1);
	nodes_drop(&m->ms->nodes, n->key);
	atomic_fetch_add(&m->seq, 1);
	return parent;
}

struct drop {
	struct tally tally;
	uint64_t snap_epoch;
};

static void drop_read(void *arg, uint64_t id, const struct map_node *body, bool fresh, bool locked)
{
	struct drop *d = arg;

	for (unsigned i = 0; body->level == 0 && !locked && i < LEAF_CHUNKS; i++)
		tally_drop(&d->tally, body->values[i]);
	if (!fresh && body->birth_txg > d->snap_epoch)
		deletes_add(d->tally.ms, id);
}

/* The tree has these nodes no more. */
static void subtree_forget(struct map *m, unsigned level, uint32_t index)
{
	atomic_fetch_add(&m->seq, 1);
	nodes_purge(&m->ms->nodes, map_key(m, level, index));
	atomic_fetch_add(&m->seq, 1);
}

static void drop_zeros(void *arg, unsigned level)
{
	struct drop *d = arg;

	d->tally.zero -= (int64_t)1 << LEAF_SHIFT * (level + 1);
}

/*
 * Replaces the whole subtree (level, index), now id, by marker.  What of it cannot be read is not
 * counted and its nodes are left to the collector; nor are the entries of locked leaves counted,
 * whose nodes go like others.
 */
static int drop_subtree(struct map *m, unsigned level, uint32_t index, struct node *parent,
        uint64_t id, uint64_t marker)
{
	struct drop d = {.tally.ms = m->ms, .snap_epoch = m->row.snap_epoch};
	struct map_visit v = {.m = m, .arg = &d, .read = drop_read, .zeros = drop_zeros};
	const size_t n_deletes = m->ms->n_deletes;
	const int r = map_visit(&v, level, index, id);

	if (r < 0) {
		m->ms->n_deletes = n_deletes;
		return r;
	}
	link_child(m, level, index, parent, marker);
	if (!map_is_marker(id))
		subtree_forget(m, level, index);
	if (marker)
		d.tally.zero += (int64_t)1 << LEAF_SHIFT * (level + 1);
	row_count(m, &d.tally);
	return 0;
}

/* --- changes --- */

/* Puts entries into an owned leaf. */
static void leaf_set(
        struct map *m, struct node *leaf, unsigned slot, unsigned n, const uint64_t *entries)
{
	struct tally t = {.ms = m->ms};
	uint64_t values[LEAF_CHUNKS];

	memcpy(values, leaf->body.values + slot, n * sizeof(*values));
	for (unsigned i = 0; i < n; i++) {
		if (entries[i] == MAP_KEEP || entries[i] == values[i])
			continue;
		tally_add(&t, entries[i]);
		tally_drop(&t, values[i]);
		values[i] = entries[i];
	}
	nodes_set_values(&m->ms->nodes, leaf, slot, n, values);
	row_count(m, &t);
}

/* What would not be accepted when it is read back must not be written. */
static void entry_assert(uint64_t e)
{
	if (entry_state(e) == ENTRY_DATA)
		ASSERT(loc_segment(entry_loc(e)) >= 1 && loc_slot(entry_loc(e)) < SEGMENT_SLOTS);
	else
		ASSERT(e == ENTRY_HOLE || e == ENTRY_ZERO || e == MAP_KEEP);
}

int map_set(struct map *m, uint64_t first, unsigned n, const uint64_t *entries)
{
	const unsigned slot = first % LEAF_CHUNKS;
	const uint32_t index = (uint32_t)(first >> LEAF_SHIFT);
	bool overwrite = n == LEAF_CHUNKS;
	bool nothing = true;
	struct node *leaf;

	ASSERT(n >= 1 && slot + n <= LEAF_CHUNKS && first < IMAGE_CHUNKS_MAX);
	for (unsigned i = 0; i < n; i++) {
		entry_assert(entries[i]);
		overwrite = overwrite && entries[i] != MAP_KEEP;
		nothing = nothing && (entries[i] == MAP_KEEP || entries[i] == ENTRY_HOLE);
	}
	if (nothing && first >= map_capacity(m->row.height))
		return 0;
	int r = map_grow(m, first + n - 1);
	if (r == 0)
		r = own(m, 0, index, overwrite, &leaf);
	if (r < 0)
		return r;
	leaf_set(m, leaf, slot, n, entries);
	for (struct node *at = leaf; at;)
		at = collapse(m, at);
	return 0;
}

struct fill {
	struct map *m;
	uint64_t first, last;
	uint64_t entry, marker;
};

static void fill_leaf(const struct fill *f, struct node *leaf, uint64_t leaf_first)
{
	const unsigned from = f->first > leaf_first ? (unsigned)(f->first - leaf_first) : 0;
	const unsigned to = (unsigned)MIN(f->last - leaf_first, LEAF_CHUNKS);
	uint64_t entries[LEAF_CHUNKS];

	for (unsigned i = 0; i < to - from; i++)
		entries[i] = f->entry;
	leaf_set(f->m, leaf, from, to - from, entries);
}

/* Fills what the range has of subtree (level, index), which is id at present, in parent (owned). */
static int fill_subtree(
        const struct fill *f, unsigned level, uint32_t index, struct node *parent, uint64_t id)
{
	const unsigned shift = LEAF_SHIFT * (level + 1);
	const uint64_t low = (uint64_t)index << shift;
	const uint64_t high = low + (1ull << shift);
	struct node *n;
	int r;

	if (f->last <= low || f->first >= high || id == f->marker)
		return 0;
	if (f->first <= low && f->last >= high)
		return drop_subtree(f->m, level, index, parent, id, f->marker);
	r = own(f->m, level, index, false, &n);
	if (r < 0)
		return r;
	if (level == 0)
		fill_leaf(f, n, low);
	for (unsigned i = 0; level > 0 && i < LEAF_CHUNKS; i++) {
		const int child_r =
		        fill_subtree(f, level - 1, (index << LEAF_SHIFT) + i, n, n->body.values[i]);

		if (r == 0)
			r = child_r;
	}
	(void)collapse(f->m, n); /* the caller looks at the parent when it is done with it */
	return r;
}

int map_fill(struct map *m, uint64_t first, uint64_t last, enum entry_state state)
{
	struct fill f = {
	        .m = m, .first = first, .last = MIN(last, IMAGE_CHUNKS_MAX), .entry = state};

	ASSERT(state == ENTRY_HOLE || state == ENTRY_ZERO);
	f.marker = state == ENTRY_ZERO ? MAP_NODE_ALL_ZERO : 0;
	if (state == ENTRY_HOLE)
		f.last = MIN(f.last, map_capacity(m->row.height));
	if (f.first >= f.last)
		return 0;
	const int r = map_grow(m, f.last - 1);
	if (r < 0)
		return r;
	return fill_subtree(&f, m->row.height - 1, 0, NULL, m->row.root);
}

void map_clear(struct map *m)
{
	/* Without memory to visit it for the observer and the list of nodes, the collector does
	 * that. */
	if (map_fill(m, 0, IMAGE_CHUNKS_MAX, ENTRY_HOLE) < 0) {
		row_set_root(m, 0, 0);
		subtree_forget(m, MAP_LEVELS - 1, 0);
	}
	map_mark_dirty(m);
	pthread_mutex_lock(&m->row_lock);
	m->row.height = 0;
	m->row.data_chunks = 0;
	m->row.zero_chunks = 0;
	pthread_mutex_unlock(&m->row_lock);
	m->cleared = true;
}

/* --- roots that are kept and copied --- */

void map_share(struct map *m, uint64_t txg, struct image_row *ret_row)
{
	/* Nodes already dirty were made one's own under the epoch before: it holds until the commit. */
	if (!map_is_marker(m->row.root)) {
		map_mark_dirty(m);
		m->epoch_next = txg;
	}
	map_row(m, ret_row);
}

void map_replace(struct map *m, const struct image_row *root, uint64_t txg)
{
	ASSERT(!m->dirty);
	pthread_mutex_lock(&m->row_lock);
	m->row.root = root->root;
	m->row.height = root->height;
	m->row.data_chunks = root->data_chunks;
	m->row.zero_chunks = root->zero_chunks;
	m->row.snap_epoch = txg;
	pthread_mutex_unlock(&m->row_lock);
	subtree_forget(m, MAP_LEVELS - 1, 0);
}

/* --- the transaction --- */

/* Does a leaf of this domain refer to segments of another one? */
static bool leaf_foreign(struct maps *ms, const uint64_t *entries, uint32_t domain)
{
	uint64_t last = 0;

	for (unsigned i = 0; i < LEAF_CHUNKS; i++) {
		const uint64_t segment = loc_segment(entry_loc(entries[i]));

		if (entry_state(entries[i]) != ENTRY_DATA || segment == last)
			continue;
		/* What is lost is in no segment. */
		if (segment != SEGMENT_ID_MAX &&
		        ms->segment_domain(ms->segment_domain_arg, segment) != domain)
			return true;
		last = segment;
	}
	return false;
}

/*
 * The node's bytes: sealed, if it is a leaf of a map with a domain.  The row lock holds on to the
 * key meanwhile.
 */
static int node_encode(struct maps *ms, struct node *n, uint64_t txg, uint8_t *buf, size_t *ret_len)
{
	struct map *m = n->key.level == 0 && ms->keys ? map_of_image(ms, n->key.image) : NULL;
	struct map_node body = n->body;
	int r = 0;

	if (n->fresh)
		body.birth_txg = txg; /* in the cache, once it is committed */
	n->written_domain = 0;
	if (m) {
		pthread_mutex_lock(&m->row_lock);
		if (m->crypto) {
			n->written_domain = body.domain = m->crypto->id;
			body.foreign = leaf_foreign(ms, body.values, body.domain);
			r = map_node_seal(&body, n->id, m->crypto->leaf, buf, ret_len);
		}
		pthread_mutex_unlock(&m->row_lock);
	}
	if (n->written_domain == 0)
		*ret_len = map_node_encode(&body, n->id, buf);
	return r;
}

static int node_write(struct maps *ms, struct node *n, uint64_t txg)
{
	uint8_t blob[NODE_BLOB_MAX];
	size_t len = 0;
	const int r = node_encode(ms, n, txg, blob, &len);

	return r < 0 ? r : ms->meta->ops->node_put(ms->meta, n->id, blob, len);
}

static int row_write(struct maps *ms, struct map *m)
{
	if (m->cleared && !m->row.root)
		return ms->meta->ops->image_del(ms->meta, m->row.image);
	struct image_row row = m->row;
	row.snap_epoch = MAX(row.snap_epoch, m->epoch_next);
	return ms->meta->ops->image_put(ms->meta, &row);
}

int maps_txg_write(struct maps *ms, uint64_t txg)
{
	int r = 0;

	ms->txg = txg;
	for (struct link *l = ms->nodes.dirty.next; l != &ms->nodes.dirty && r == 0; l = l->next)
		r = node_write(ms, CONTAINER_OF(l, struct node, link), txg);
	for (struct map *m = ms->dirty_maps; m && r == 0; m = m->next_dirty)
		r = row_write(ms, m);
	for (size_t i = 0; i < ms->n_deletes && r == 0; i++)
		r = ms->meta->ops->node_del(ms->meta, ms->deletes[i]);
	return r;
}

/* A clean map that nobody has open goes. */
static void map_settle(struct maps *ms, struct map *m)
{
	pthread_mutex_lock(&ms->lock);
	m->dirty = false;
	m->cleared = false;
	pthread_mutex_lock(&m->row_lock);
	m->row.snap_epoch = MAX(m->row.snap_epoch, m->epoch_next);
	pthread_mutex_unlock(&m->row_lock);
	m->epoch_next = 0;
	if (m->refs == 0)
		map_forget(m);
	pthread_mutex_unlock(&ms->lock);
}

void maps_txg_committed(struct maps *ms)
{
	/* From here on blobs read before may be older than the tree, and soon the cache will not
	 * know. */
	for (struct map *m = ms->dirty_maps; m; m = m->next_dirty)
		atomic_fetch_add(&m->seq, 2);
	nodes_clean(&ms->nodes, ms->txg);
	while (ms->dirty_maps) {
		struct map *m = ms->dirty_maps;

		ms->dirty_maps = m->next_dirty;
		map_settle(ms, m);
	}
	ms->n_deletes = 0;
}

/*
 * map.c - opening image maps and reading them
 *
 * Owns the table of open maps and all reading: map_get, map_next, map_walk.  map-change.c holds
 * what the txg thread does to a map, map-cache.c the decoded nodes, map-node.c their bytes.
 *
 * Reading.  The fast way is one lookup of the leaf by its place.  When it is not cached, map_find
 * climbs to the nearest cached node above it and follows ids down from there, asking the cache
 * again at each level, then the metadata store.
 *
 * Why that is right while the txg thread changes the tree, without a lock on the tree:
 * - A node that was changed since the last commit is in the cache until the commit, and was there
 * before any parent (or the row) got its id.  So an id which is not in the metadata store yet
 * always finds its node by place.
 * - What the txg thread takes away (a dropped subtree, or an old blob by a commit) it takes
 *   away in this order: new parent value, map.seq moves, cached nodes go; the deleted rows go with
 * a later commit, which moves map.seq again.  A reader notes map.seq before it looks at anything.
 * So if an id leads nowhere and map.seq has moved, it is a race and the reader begins again; if
 *   map.seq has not moved, it is damage.  And it offers what it read to the cache only for that
 * map.seq.
 */
#include <errno.h>
#include <inttypes.h>

#include "base/log.h"
#include "store/map-private.h"

int maps_create(struct meta *meta, uint64_t limit_bytes, uint64_t next_node, struct maps **ret_maps)
{
	ASSERT(next_node >= 1);
	struct maps *ms = calloc(1, sizeof(*ms));
	if (!ms)
		return -ENOMEM;
	ms->deletes = malloc(MAP_DELETES_MAX * sizeof(*ms->deletes));
	if (!ms->deletes || nodes_create(limit_bytes, &ms->nodes) < 0) {
		free(ms->deletes);
		free(ms);
		return -ENOMEM;
	}
	ms->meta = meta;
	atomic_init(&ms->next_node, next_node);
	pthread_mutex_init(&ms->lock, NULL);
	*ret_maps = ms;
	return 0;
}

void maps_set_keys(struct maps *ms, struct keyring *keys, map_segment_domain_fn *fn, void *arg)
{
	ms->keys = keys;
	ms->segment_domain = fn;
	ms->segment_domain_arg = arg;
}

void maps_domain_drop(struct maps *ms, uint32_t domain)
{
	nodes_drop_domain(&ms->nodes, domain);
}

static void map_free(struct map *m)
{
	if (m->crypto)
		keyring_put(m->ms->keys, m->crypto);
	pthread_mutex_destroy(&m->row_lock);
	free(m);
}

/* All maps are closed; those still dirty go with what they hold, as in a crash. */
void maps_free(struct maps *ms)
{
	if (!ms)
		return;
	for (unsigned i = 0; i < MAP_TABLE_SIZE; i++) {
		struct map *next;

		for (struct map *m = ms->table[i]; m; m = next) {
			ASSERT(m->refs == 0);
			next = m->next;
			map_free(m);
		}
	}
	nodes_release(&ms->nodes);
	free(ms->deletes);
	pthread_mutex_destroy(&ms->lock);
	free(ms);
}

void maps_stats_get(struct maps *ms, struct maps_stats *ret_stats)
{
	*ret_stats = (struct maps_stats){
	        .bytes = nodes_bytes(&ms->nodes),
	        .limit_bytes = ms->nodes.limit_bytes,
	        .dirty_nodes = atomic_load_explicit(&ms->nodes.dirty_count, memory_order_relaxed),
	};
}

uint64_t maps_next_node(struct maps *ms)
{
	return atomic_load(&ms->next_node);
}

static struct map **table_at(struct maps *ms, uint64_t image)
{
	struct map **at = &ms->table[image % MAP_TABLE_SIZE];

	while (*at && (*at)->row.image != image)
		at = &(*at)->next;
	return at;
}

static int snapshot_row_get(struct maps *ms, uint64_t image, struct image_row *ret_row)
{
	struct snapshot_row row;
	const int r = ms->meta->ops->snapshot_get(ms->meta, image & ~SNAPSHOT_BIT, &row);

	if (r == 0)
		*ret_row = (struct image_row){.image = image,
		        .root = row.root,
		        .height = row.height,
		        .data_chunks = row.data_chunks,
		        .zero_chunks = row.zero_chunks,
		        .snap_epoch = row.txg};
	return r;
}

int map_root_check(const struct image_row *row)
{
	const bool valid = map_is_marker(row->root) || row->root <= MAP_NODE_MAX;

	if (valid && row->height <= MAP_LEVELS && !(row->root && !row->height))
		return 0;
	log_error("image %" PRIu64 ": its row is not valid (root %" PRIu64 ", height %" PRIu32 ")",
	        row->image, row->root, row->height);
	return -EIO;
}

/* Reads the image's row, or makes an empty one.  What a row says is checked like any other bytes.
 */
static int row_get(struct maps *ms, uint64_t image, struct image_row *ret_row)
{
	const bool snapshot = image & SNAPSHOT_BIT;
	struct image_row row;
	int r = snapshot ? snapshot_row_get(ms, image, &row)
	                 : ms->meta->ops->image_get(ms->meta, image, &row);

	if (r == -ENOENT && !snapshot) {
		*ret_row = (struct image_row){.image = image};
		return 0;
	}
	if (r < 0)
		return r;
	if (row.image != image) {
		log_error("image %" PRIu64 ": its row is that of %" PRIu64, image, row.image);
		return -EIO;
	}
	r = map_root_check(&row);
	if (r == 0)
		*ret_row = row;
	return r;
}

static int map_create(struct maps *ms, uint64_t image, struct map **ret_map)
{
	struct map *m = calloc(1, sizeof(*m));
	if (!m)
		return -ENOMEM;
	const int r = row_get(ms, image, &m->row);
	if (r < 0) {
		free(m);
		return r;
	}
	m->ms = ms;
	pthread_mutex_init(&m->row_lock, NULL);
	*ret_map = m;
	return 0;
}

int map_open(struct maps *ms, uint64_t image, struct map **ret_map)
{
	int r = 0;

	/* Held over reading the row: else two openers could make two objects, or a stale one. */
	pthread_mutex_lock(&ms->lock);
	struct map **at = table_at(ms, image);
	if (!*at)
		r = map_create(ms, image, at);
	if (r == 0) {
		(*at)->refs++;
		*ret_map = *at;
	}
	pthread_mutex_unlock(&ms->lock);
	return r;
}

int map_open_root(struct maps *ms, const struct image_row *root, struct map **ret_map)
{
	struct map *m = calloc(1, sizeof(*m));
	if (!m)
		return -ENOMEM;
	m->ms = ms;
	m->row = *root;
	m->row.image = MAP_DETACHED | root->root;
	m->refs = 1;
	m->detached = true;
	pthread_mutex_init(&m->row_lock, NULL);
	*ret_map = m;
	return 0;
}

struct map *map_of_image(struct maps *ms, uint64_t image)
{
	pthread_mutex_lock(&ms->lock);
	struct map *m = *table_at(ms, image);
	pthread_mutex_unlock(&ms->lock);
	return m;
}

int map_domain_set(struct map *m, uint32_t domain)
{
	struct keyring *keys = m->ms->keys;
	const struct crypto_domain *d = domain && keys ? keyring_get(keys, domain) : NULL;

	if (domain && !d)
		return -ENOKEY;
	pthread_mutex_lock(&m->row_lock);
	const struct crypto_domain *old = m->crypto;
	m->crypto = d;
	pthread_mutex_unlock(&m->row_lock);
	if (old)
		keyring_put(keys, old);
	return 0;
}

void map_forget(struct map *m)
{
	*table_at(m->ms, m->row.image) = m->next;
	map_free(m);
}

/* The nodes stay cached: nothing but an open map changes them. */
void map_close(struct map *m)
{
	if (!m)
		return;
	struct maps *ms = m->ms;

	if (m->detached) {
		map_free(m);
		return;
	}
	pthread_mutex_lock(&ms->lock);
	ASSERT(m->refs > 0);
	if (--m->refs == 0 && !m->dirty)
		map_forget(m);
	pthread_mutex_unlock(&ms->lock);
}

void map_row(struct map *m, struct image_row *ret_row)
{
	pthread_mutex_lock(&m->row_lock);
	*ret_row = m->row;
	pthread_mutex_unlock(&m->row_lock);
}

uint64_t maps_unsure(const struct maps *ms)
{
	return atomic_load(&ms->unsure);
}

/* --- finding nodes --- */

/* Opens a sealed leaf whose header is in body, if its key is there. */
static int leaf_unseal(
        struct map *m, const uint8_t *blob, size_t len, uint64_t id, struct map_node *body)
{
	struct keyring *keys = m->ms->keys;
	const struct crypto_domain *d = keys ? keyring_get(keys, body->domain) : NULL;

	if (!d)
		return -ENOKEY;
	const int r = map_node_unseal(blob, len, id, d->leaf, body);
	keyring_put(keys, d);
	if (r == -EIO) /* libcrypto failed */
		atomic_fetch_add(&m->ms->unsure, 1);
	return r;
}

/*
 * Reads and decodes a node from the metadata store.  -EIO: damaged, or not there.  -ENOKEY: all but
 * the values.
 */
static int node_read(struct map *m, unsigned level, uint64_t id, struct map_node *ret_body)
{
	struct meta *meta = m->ms->meta;
	uint8_t blob[NODE_BLOB_MAX];
	size_t len;
	int r = meta->ops->node_get(meta, id, blob, sizeof(blob), &len);

	if (r == -ENOMEM)
		return r;
	if (r < 0 && r != -EUCLEAN && r != -ENOENT)
		atomic_fetch_add(&m->ms->unsure, 1);
	if (r < 0)
		return -EIO;
	r = map_node_decode(blob, len, id, ret_body);
	if (r == -ENOKEY && level == 0)
		r = leaf_unseal(m, blob, len, id, ret_body);
	if (r == -ENOKEY || r == -ENOMEM)
		return level == 0 ? r : -EIO;
	return r < 0 || ret_body->level != level ? -EIO : 0;
}

/*
 * node_read, unless there is a newer one in the cache: then *id is that one's.  -EAGAIN: not readable,
 * but the tree has changed since seq.
 */
static int node_load(struct map *m, struct node_key key, uint64_t *id, uint64_t seq, bool keep,
        bool *ret_fresh, struct map_node *ret_body)
{
	if (nodes_copy(&m->ms->nodes, key, id, ret_body, ret_fresh))
		return 0;
	const int r = node_read(m, key.level, *id, ret_body);
	if ((r == -EIO || r == -ENOKEY) && atomic_load(&m->seq) != seq)
		return -EAGAIN;
	*ret_fresh = false;
	if (r < 0)
		return r;
	if (keep)
		nodes_offer(&m->ms->nodes, key, id, ret_body, &m->seq, seq);
	return 0;
}

/*
 * The nearest cached node above (level, index), or the row: *ret_id is what it says is at
 * *ret_level on the way down, MAP_LEVELS when the tree does not reach that far.
 */
static void climb(
        struct map *m, unsigned level, uint32_t index, unsigned *ret_level, uint64_t *ret_id)
{
	pthread_mutex_lock(&m->row_lock);
	const uint64_t root = m->row.root;
	const unsigned height = m->row.height;
	pthread_mutex_unlock(&m->row_lock);

	if (level >= height || (uint64_t)index >> LEAF_SHIFT * (height - 1 - level)) {
		*ret_level = MAP_LEVELS;
		*ret_id = 0;
		return;
	}
	unsigned at = level;
	for (; at + 1 < height && !map_is_marker(root); at++) {
		const uint32_t child = index >> LEAF_SHIFT * (at - level);

		if (nodes_peek(&m->ms->nodes, map_key(m, at + 1, child >> LEAF_SHIFT),
		            child % LEAF_CHUNKS, 1, ret_id)) {
			*ret_level = at;
			return;
		}
	}
	*ret_level = height - 1;
	*ret_id = root;
}

static void damage_log(const struct map *m, const struct map_found *at, struct node_key key)
{
	log_error("image %" PRIu64 ": map node %" PRIu64 " (level %u, from chunk %" PRIu64
	          ") is damaged or cannot be read",
	        m->row.image, at->id, at->level,
	        (uint64_t)key.index << LEAF_SHIFT * (key.level + 1));
}

/* One try of map_find.  -EAGAIN: the tree changed under it. */
static int find_once(struct map *m, unsigned level, uint32_t index, bool keep,
        struct map_found *ret_found, struct map_node *ret_body)
{
	const uint64_t seq = atomic_load(&m->seq);
	struct map_found at = {0};

	climb(m, level, index, &at.level, &at.id);
	while (!map_is_marker(at.id)) {
		const struct node_key key =
		        map_key(m, at.level, index >> LEAF_SHIFT * (at.level - level));
		/* Inner nodes are kept in any case: they are few, and each is asked again soon. */
		const int r =
		        node_load(m, key, &at.id, seq, keep || at.level > 0, &at.fresh, ret_body);

		if (r == -EIO)
			damage_log(m, &at, key);
		if (r == -EIO || r == -ENOKEY)
			*ret_found = at;
		if (r < 0)
			return r;
		if (at.level == level)
			break;
		at.level--;
		at.id = ret_body->values[index >> LEAF_SHIFT * (at.level - level) &
		                         (LEAF_CHUNKS - 1)];
	}
	*ret_found = at;
	return 0;
}

int map_find(struct map *m, unsigned level, uint32_t index, bool keep, struct map_found *ret_found,
        struct map_node *ret_body)
{
	int r;

	do {
		r = find_once(m, level, index, keep, ret_found, ret_body);
	} while (r == -EAGAIN);
	return r;
}

/* --- reading --- */

static uint64_t marker_entry(uint64_t marker)
{
	return marker == MAP_NODE_ALL_ZERO ? ENTRY_ZERO : ENTRY_HOLE;
}

int map_get(struct map *m, uint64_t first, unsigned n, uint64_t *ret_entries)
{
	const unsigned slot = first % LEAF_CHUNKS;
	const uint32_t leaf = (uint32_t)(first >> LEAF_SHIFT);

	ASSERT(n >= 1 && slot + n <= LEAF_CHUNKS && first < IMAGE_CHUNKS_MAX);
	if (LIKELY(nodes_peek(&m->ms->nodes, map_key(m, 0, leaf), slot, n, ret_entries)))
		return 0;

	struct map_found found;
	struct map_node body;
	const int r = map_find(m, 0, leaf, true, &found, &body);
	if (r < 0)
		return r;
	if (!map_is_marker(found.id)) {
		memcpy(ret_entries, body.values + slot, n * sizeof(*ret_entries));
		return 0;
	}
	for (unsigned i = 0; i < n; i++)
		ret_entries[i] = marker_entry(found.id);
	return 0;
}

/*
 * Leaves passed on the way are not put into the cache: a search through a whole image would throw
 * everything else out.
 */
int map_next(struct map *m, uint64_t first, bool hole, uint64_t *ret_chunk)
{
	uint64_t chunk = first;

	while (chunk < IMAGE_CHUNKS_MAX) {
		struct map_found found;
		struct map_node body;
		const int r = map_find(m, 0, (uint32_t)(chunk >> LEAF_SHIFT), false, &found, &body);

		if (r < 0)
			return r;
		if (map_is_marker(found.id)) {
			if ((found.id == 0) == hole)
				break;
			if (found.level == MAP_LEVELS)
				chunk = IMAGE_CHUNKS_MAX;
			else
				chunk = ((chunk >> LEAF_SHIFT * (found.level + 1)) + 1)
				        << LEAF_SHIFT * (found.level + 1);
			continue;
		}
		do {
			if ((body.values[chunk % LEAF_CHUNKS] == ENTRY_HOLE) == hole) {
				*ret_chunk = chunk;
				return 0;
			}
		} while (++chunk % LEAF_CHUNKS);
	}
	*ret_chunk = MIN(chunk, IMAGE_CHUNKS_MAX);
	return 0;
}

int map_next_foreign_leaf(struct map *m, uint64_t first, uint32_t domain, uint64_t *ret_chunk)
{
	uint64_t chunk = first & ~(uint64_t)(LEAF_CHUNKS - 1);

	while (chunk < IMAGE_CHUNKS_MAX) {
		struct map_found found;
		struct map_node body;
		const int r = map_find(m, 0, (uint32_t)(chunk >> LEAF_SHIFT), false, &found, &body);
		unsigned level = 0;

		if (r < 0 && r != -ENOKEY)
			return r;
		if (found.level == MAP_LEVELS)
			chunk = IMAGE_CHUNKS_MAX;
		else if (map_is_marker(found.id))
			level = found.level;
		else if (body.domain != domain)
			break;
		chunk = ((chunk >> LEAF_SHIFT * (level + 1)) + 1) << LEAF_SHIFT * (level + 1);
	}
	*ret_chunk = MIN(chunk, IMAGE_CHUNKS_MAX);
	return 0;
}

/* --- visiting --- */

/* A callback's answer, of which only errors stop the visit. */
static int error_only(int r)
{
	return r < 0 ? r : 0;
}

static int visit_zeros(struct map_visit *v, unsigned level, uint32_t index)
{
	static const uint64_t zeros[LEAF_CHUNKS] = {[0 ... LEAF_CHUNKS - 1] = ENTRY_ZERO};
	const uint64_t n = 1ull << LEAF_SHIFT * level;
	int r = 0;

	if (v->zeros) {
		v->zeros(v->arg, level);
		return 0;
	}
	for (uint64_t i = 0; v->leaf && i < n && r >= 0; i++)
		r = v->leaf(
		        v->arg, (((uint64_t)index << LEAF_SHIFT * level) + i) << LEAF_SHIFT, zeros);
	return error_only(r);
}

/* Loads the node for a visit, in its old or new form; by its place, when its id has gone. */
int map_visit_load(struct map *m, unsigned level, uint32_t index, uint64_t id,
        struct map_found *ret_found, struct map_node *ret_body)
{
	const uint64_t seq = atomic_load(&m->seq);
	struct map_found found = {.id = id, .level = level};
	int r = node_load(
	        m, map_key(m, level, index), &found.id, seq, false, &found.fresh, ret_body);

	if (r == -EIO || r == -EAGAIN ||
	        r == -ENOKEY) /* seq may have moved since the caller read the id */
		r = map_find(m, level, index, false, &found, ret_body);
	if (r == 0 || r == -ENOKEY)
		*ret_found = found;
	return r;
}

/* Level 0: the leaf is sealed, and there is no key for it. */
static int visit_locked(struct map_visit *v, uint32_t index, const struct map_found *found,
        const struct map_node *body)
{
	if (v->read)
		v->read(v->arg, found->id, body, found->fresh, true);
	if (v->told)
		v->told(v->arg, found->id);
	if (v->locked)
		return error_only(v->locked(
		        v->arg, (uint64_t)index << LEAF_SHIFT, body->domain, body->foreign));
	if (v->error == 0)
		v->error = -ENOKEY;
	return 0;
}

static int visit_damage(struct map_visit *v, unsigned level, uint32_t index, uint64_t id, int error)
{
	if (error != -EIO)
		return error;
	v->error = error;
	v->lost = id;
	if (!v->leaf)
		return 0;
	return error_only(v->leaf(v->arg, (uint64_t)index << LEAF_SHIFT * (level + 1), NULL));
}

int map_visit(struct map_visit *v, unsigned level, uint32_t index, uint64_t id)
{
	struct map_found found = {0};
	struct map_node body;

	if (id == 0)
		return 0;
	if (id == MAP_NODE_ALL_ZERO)
		return visit_zeros(v, level, index);
	int r = v->enter ? v->enter(v->arg, id, level) : 0;
	if (r != 0)
		return error_only(r);
	if (level == 0 && !v->leaf && !v->read)
		return 0;
	r = id == v->lost ? -EIO : map_visit_load(v->m, level, index, id, &found, &body);
	if (r == -ENOKEY)
		return visit_locked(v, index, &found, &body);
	if (r < 0)
		return visit_damage(v, level, index, id, r);
	if (map_is_marker(found.id))
		return found.id ? visit_zeros(v, level, index) : 0;
	if (v->read)
		v->read(v->arg, found.id, &body, found.fresh, false);
	if (v->told)
		v->told(v->arg, found.id);
	if (level == 0)
		return v->leaf ? error_only(v->leaf(
		                         v->arg, (uint64_t)index << LEAF_SHIFT, body.values))
		               : 0;
	for (unsigned i = 0; i < LEAF_CHUNKS && r == 0; i++)
		r = map_visit(v, level - 1, (index << LEAF_SHIFT) + i, body.values[i]);
	return r;
}

int map_walk_with(struct map *m, const struct map_walker *w, void *arg)
{
	struct map_visit v = {.m = m,
	        .arg = arg,
	        .enter = w->node,
	        .told = w->read,
	        .leaf = w->leaf,
	        .locked = w->locked};
	struct image_row row;

	map_row(m, &row);
	const int r = row.height ? map_visit(&v, row.height - 1, 0, row.root) : 0;
	return r < 0 ? r : v.error;
}

int map_walk_locked(struct map *m, map_node_fn *node_fn, map_leaf_fn *leaf_fn,
        map_locked_fn *locked_fn, void *arg)
{
	const struct map_walker w = {.node = node_fn, .leaf = leaf_fn, .locked = locked_fn};

	return map_walk_with(m, &w, arg);
}

int map_walk(struct map *m, map_node_fn *node_fn, map_leaf_fn *leaf_fn, void *arg)
{
	return map_walk_locked(m, node_fn, leaf_fn, NULL, arg);
}

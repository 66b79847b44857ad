/*
 * usage.c - how much of an image is its own, and how much it shares
 *
 * Counted on demand by walking all maps twice, over ranges of segments so that the bits stay
 * bounded: first, which slots are referred to by one owner (an image, a set of snapshots) and which by
 * more; then, for each image asked about, its distinct slots of either kind, for each set those that are its
 * alone.  What two owners share is gone into twice in the first walk, and not in the second.  What is
 * noted of one owner is undone by what it touched, so a thousand snapshots cost what they differ by.
 *
 * An image with leaves of a locked crypto domain is counted as far as can be seen in the first walk, and not
 * at all in the second.
 */
#include <errno.h>

#include "store/nodeset.h"
#include "store/slotset.h"
#include "store/snapshot.h"
#include "store/store-priv.h"

#define PASS_SEGMENTS   16384u
#define NODES_BYTES_MAX (64u << 20)

/* Planes of usage.nodes: reached by one owner; by two; by the present one. */
enum { ONCE, TWICE, OWN };

/* A list of numbers that grows. */
struct numbers {
	uint64_t *v; /* owned */
	size_t n, cap;
};

struct usage {
	struct store *store;
	struct nodeset nodes;
	struct numbers own;      /* nodes whose words have OWN bits */
	struct numbers segments; /* indices in current that have bits */
	bool *touched;           /* of those; owned */
	int error;               /* of a list */
	bool all;                /* second walk: go below shared nodes, too */
	uint64_t *snapshots;     /* ids of all, in order; owned */
	size_t n_snapshots, snapshots_cap;
	struct slotset one, many, current; /* referred to: at all; by several images; by this one */
	struct image_stats *counts;        /* second walk: where to count; NULL in the first */
	gc_progress_fn *progress;
	void *progress_arg;
	uint64_t done, total;
	bool locked; /* the walk met a leaf that cannot be looked into */
};

static int numbers_add(struct numbers *l, uint64_t x)
{
	if (l->n == l->cap) {
		const size_t cap = MAX(l->cap * 2, 64);
		uint64_t *v = realloc(l->v, cap * sizeof(*v));
		if (!v)
			return -ENOMEM;
		l->v = v;
		l->cap = cap;
	}
	l->v[l->n++] = x;
	return 0;
}

static int usage_node(void *arg, uint64_t node, unsigned level)
{
	const struct usage *u = arg;

	(void)level;
	if (u->error)
		return u->error;
	if (u->all)
		return 0;
	return nodeset_test(&u->nodes, OWN, node) || nodeset_test(&u->nodes, TWICE, node);
}

static void usage_read(void *arg, uint64_t node)
{
	struct usage *u = arg;

	if (nodeset_word(&u->nodes, OWN, node) == 0 && !u->error)
		u->error = numbers_add(&u->own, node);
	if (!nodeset_set(&u->nodes, OWN, node) || u->counts)
		return;
	if (!nodeset_set(&u->nodes, ONCE, node))
		nodeset_set(&u->nodes, TWICE, node);
}

static int segment_touch(struct usage *u, long at)
{
	if (u->touched[at])
		return 0;
	u->touched[at] = true;
	return numbers_add(&u->segments, (uint64_t)at);
}

/* The present owner refers to this slot; perhaps not for the first time. */
static int usage_slot(struct usage *u, long at, unsigned slot)
{
	const int r = segment_touch(u, at);

	if (r < 0 || !slotset_set(&u->current, at, slot) || !u->counts)
		return r;
	if (slotset_test(&u->many, at, slot))
		u->counts->shared_chunks++;
	else
		u->counts->unique_chunks++;
	return 0;
}

static int usage_leaf(void *arg, uint64_t first_chunk, const uint64_t *entries)
{
	struct usage *u = arg;
	uint64_t segment = 0; /* neighbours mostly lie in one */
	long at = -1;
	int r = 0;

	(void)first_chunk;
	for (unsigned i = 0; r == 0 && entries && i < LEAF_CHUNKS; i++) {
		const uint64_t loc = entry_loc(entries[i]);
		if (entry_state(entries[i]) != ENTRY_DATA || loc_slot(loc) >= SEGMENT_SLOTS)
			continue;
		if (loc_segment(loc) != segment) {
			segment = loc_segment(loc);
			at = slotset_find(&u->current, segment);
		}
		if (at >= 0)
			r = usage_slot(u, at, loc_slot(loc));
	}
	return r;
}

static int usage_locked(void *arg, uint64_t first_chunk, uint32_t domain, bool foreign)
{
	struct usage *u = arg;

	(void)first_chunk, (void)domain, (void)foreign;
	u->locked = true;
	return 0;
}

static int map_usage(struct usage *u, struct map *map)
{
	static const struct map_walker walker = {usage_node, usage_read, usage_leaf, usage_locked};
	const int r = map_walk_with(map, &walker, u);

	if (u->progress)
		u->progress(u->progress_arg, ++u->done, u->total);
	return r;
}

/* Held, so that the collector leaves it alone if it is deleted meanwhile. */
static int snapshot_walk(struct usage *u, uint64_t id)
{
	struct image *img;
	int r = store_image_open(u->store, snapshot_image(id), &img);

	if (r < 0)
		return r == -ENOENT ? 0 : r;
	r = map_usage(u, img->map);
	store_image_close(img);
	return r;
}

static int usage_walk(struct usage *u, uint64_t image)
{
	struct map *map;

	if (image & SNAPSHOT_BIT)
		return snapshot_walk(u, image & ~SNAPSHOT_BIT);
	int r = map_open(u->store->maps, image, &map);
	if (r < 0)
		return r;
	r = map_usage(u, map);
	map_close(map);
	return r;
}

/* The next owner's turn: what is noted of the one before goes. */
static void owner_begin(struct usage *u)
{
	u->locked = false;
	for (size_t i = 0; i < u->segments.n; i++) {
		const size_t at = u->segments.v[i];
		memset(&u->current.bits[at], 0, sizeof(u->current.bits[at]));
		u->touched[at] = false;
	}
	for (size_t i = 0; i < u->own.n; i++)
		nodeset_clear(&u->nodes, OWN, u->own.v[i]);
	u->segments.n = u->own.n = 0;
}

/* Adds the owner's slots to the sets. */
static void owner_fold(struct usage *u)
{
	for (size_t i = 0; i < u->segments.n; i++) {
		const size_t at = u->segments.v[i];
		for (unsigned w = 0; w < ARRAY_SIZE(u->current.bits[at].words); w++) {
			const uint64_t cur = u->current.bits[at].words[w];
			u->many.bits[at].words[w] |= u->one.bits[at].words[w] & cur;
			u->one.bits[at].words[w] |= cur;
		}
	}
}

static int fold_image(void *arg, const struct image_row *row)
{
	struct usage *u = arg;

	owner_begin(u);
	const int r = usage_walk(u, row->image);
	owner_fold(u);
	return r;
}

/* Walks all snapshots of the set that number i in the list begins; *ret_next: the one behind it. */
static int set_walk(struct usage *u, size_t i, size_t *ret_next)
{
	const uint64_t set = snapshot_set(u->snapshots[i]);
	int r = 0;

	owner_begin(u);
	for (; r == 0 && i < u->n_snapshots && snapshot_set(u->snapshots[i]) == set; i++)
		r = usage_walk(u, snapshot_image(u->snapshots[i]));
	*ret_next = i;
	return r;
}

static int fold_snapshots(struct usage *u)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < u->n_snapshots;) {
		r = set_walk(u, i, &i);
		owner_fold(u);
	}
	return r;
}

/* What is asked: of images (and single snapshots) both numbers, or of sets of snapshots one. */
struct question {
	const uint64_t *images;
	struct image_stats *stats;
	struct snapshot_usage *sets;
	size_t n;
};

static int count_set(struct usage *u, struct snapshot_usage *set)
{
	struct image_stats counts = {0};
	size_t lo = 0, hi = u->n_snapshots, i;
	int r = 0;

	while (lo < hi) {
		const size_t mid = lo + (hi - lo) / 2;
		if (snapshot_set(u->snapshots[mid]) < snapshot_set(set->id))
			lo = mid + 1;
		else
			hi = mid;
	}
	i = lo;
	u->counts = &counts;
	if (i < u->n_snapshots && snapshot_set(u->snapshots[i]) == snapshot_set(set->id))
		r = set_walk(u, i, &i);
	u->counts = NULL;
	set->unique_chunks += counts.unique_chunks;
	return r;
}

static int count_image(struct usage *u, uint64_t image, struct image_stats *stats)
{
	owner_begin(u);
	u->counts = stats;
	u->all = true;
	const int r = usage_walk(u, image);
	u->all = false;
	u->counts = NULL;
	if (u->locked)
		stats->unique_chunks = stats->shared_chunks = 0;
	return r;
}

static int usage_count(struct usage *u, const struct question *q)
{
	int r = 0;

	for (size_t k = 0; r == 0 && k < q->n; k++) {
		if (!q->sets)
			r = count_image(u, q->images[k], &q->stats[k]);
		else if (k == 0 || snapshot_set(q->sets[k].id) != snapshot_set(q->sets[k - 1].id))
			r = count_set(u, &q->sets[k]);
	}
	return r;
}

static int pass_init(struct usage *u, uint64_t after, uint64_t *ret_last)
{
	struct segments *ss = u->store->segments;
	int r = slotset_init(&u->one, ss, after, SEGMENT_ID_MAX, false, PASS_SEGMENTS, ret_last);

	if (r == 0)
		r = slotset_init(&u->many, ss, after, *ret_last, false, PASS_SEGMENTS, ret_last);
	if (r == 0)
		r = slotset_init(&u->current, ss, after, *ret_last, false, PASS_SEGMENTS, ret_last);
	/* A segment dropped between the three would shift them; then count again. */
	if (r == 0 && (u->one.n != u->current.n || u->many.n != u->current.n))
		r = -EAGAIN;
	if (r == 0) {
		u->touched = calloc(MAX(u->current.n, 1), sizeof(*u->touched));
		if (!u->touched)
			r = -ENOMEM;
	}
	nodeset_init(&u->nodes, NODES_BYTES_MAX);
	return r;
}

static void pass_release(struct usage *u)
{
	nodeset_release(&u->nodes);
	free(u->touched);
	u->touched = NULL;
	u->segments.n = u->own.n = 0;
	slotset_free(&u->one);
	slotset_free(&u->many);
	slotset_free(&u->current);
}

static int usage_pass(struct usage *u, uint64_t after, const struct question *q, uint64_t *ret_last)
{
	struct meta *m = u->store->cfg.meta;
	int r = pass_init(u, after, ret_last);
	const bool empty = r == 0 && u->current.n == 0;

	if (empty) {
		pass_release(u);
		return 0;
	}
	if (r == 0)
		r = m->ops->image_each(m, fold_image, u);
	if (r == 0)
		r = fold_snapshots(u);
	if (r == 0)
		r = usage_count(u, q);
	if (r == 0)
		r = u->error;
	pass_release(u);
	return r;
}

static int count_images(void *arg, const struct image_row *row)
{
	(void)row;
	(*(uint64_t *)arg)++;
	return 0;
}

static int list_snapshot(void *arg, const struct snapshot_row *row)
{
	struct usage *u = arg;

	if (u->n_snapshots == u->snapshots_cap) {
		const size_t cap = MAX(u->snapshots_cap * 2, 64);
		uint64_t *v = realloc(u->snapshots, cap * sizeof(*v));
		if (!v)
			return -ENOMEM;
		u->snapshots = v;
		u->snapshots_cap = cap;
	}
	u->snapshots[u->n_snapshots++] = row->id;
	return 0;
}

static void usage_release(struct usage *u)
{
	free(u->snapshots);
	free(u->own.v);
	free(u->segments.v);
}

static int usage_run(struct usage *u, const struct question *q)
{
	struct meta *m = u->store->cfg.meta;
	struct segments_stats ss;
	uint64_t n_images = 0, after = 0, last = 0;
	int r = m->ops->image_each(m, count_images, &n_images);

	if (r == 0)
		r = m->ops->snapshot_each(m, list_snapshot, u);
	segments_stats_get(u->store->segments, &ss);
	u->total = (n_images + u->n_snapshots + q->n) * MAX(DIV_UP(ss.segments, PASS_SEGMENTS), 1);
	while (r == 0) {
		r = usage_pass(u, after, q, &last);
		if (r == -EAGAIN) {
			r = 0;
			continue;
		}
		if (last == after)
			break;
		after = last;
	}
	return r;
}

static int exact(struct store *s, const struct question *q, gc_progress_fn *fn, void *arg)
{
	struct usage u = {.store = s, .progress = fn, .progress_arg = arg};

	const int r = usage_run(&u, q);
	usage_release(&u);
	return r;
}

int store_snapshot_usage(
        struct store *s, struct snapshot_usage *usage, size_t n, gc_progress_fn *fn, void *arg)
{
	const struct question q = {.sets = usage, .n = n};

	for (size_t i = 0; i < n; i++)
		usage[i].unique_chunks = 0;
	return exact(s, &q, fn, arg);
}

/* The row of an image, or of a snapshot as one. */
static int counters_get(struct store *s, uint64_t image, struct image_row *ret_row)
{
	struct meta *m = s->cfg.meta;
	struct snapshot_row row;

	if (!(image & SNAPSHOT_BIT))
		return m->ops->image_get(m, image, ret_row);
	const int r = m->ops->snapshot_get(m, image & ~SNAPSHOT_BIT, &row);
	if (r == 0)
		*ret_row = (struct image_row){
		        .data_chunks = row.data_chunks, .zero_chunks = row.zero_chunks};
	return r;
}

int store_image_stats(struct store *s, const uint64_t *images, size_t n, bool is_exact,
        gc_progress_fn *fn, void *arg, struct image_stats *ret_stats)
{
	const struct question q = {.images = images, .stats = ret_stats, .n = n};

	memset(ret_stats, 0, n * sizeof(*ret_stats));
	for (size_t i = 0; i < n; i++) {
		struct image_row row;
		const int r = counters_get(s, images[i], &row);
		if (r == -ENOENT)
			continue;
		if (r < 0)
			return r;
		ret_stats[i].data_chunks = row.data_chunks;
		ret_stats[i].zero_chunks = row.zero_chunks;
	}
	return is_exact ? exact(s, &q, fn, arg) : 0;
}

/*
 * usage.c - how much of an image is its own, and how much it shares
 *
 * Counted on demand by walking all maps twice, over ranges of segments so that the bits stay
 * bounded: first, which slots are referred to by one image and which by more; then, for each image
 * asked about, its distinct slots of either kind.  An image with leaves of a locked crypto domain is
 * counted as far as can be seen in the first, and not at all in the second.
 */
#include <errno.h>

#include "store/slotset.h"
#include "store/snapshot.h"
#include "store/store-priv.h"

#define PASS_SEGMENTS 16384u
#define NODES_MAX     (512ull << 20) /* bits in a set of nodes */

/* Sets of map nodes, one bit an id below n; NULL: every node is walked each time. */
struct node_sets {
	uint64_t *once, *twice; /* reached by one owner; by two */
	uint64_t *own;          /* by the present one */
	uint64_t n;
};

struct usage {
	struct store *store;
	struct node_sets nodes;
	bool all;            /* second walk: go below shared nodes, too */
	uint64_t *snapshots; /* ids of all, in order; owned */
	size_t n_snapshots, snapshots_cap;
	struct slotset one, many, current; /* referred to: at all; by several images; by this one */
	struct image_stats *counts;        /* second walk: where to count; NULL in the first */
	gc_progress_fn *progress;
	void *progress_arg;
	uint64_t done, total;
	bool locked; /* the walk met a leaf that cannot be looked into */
};

static bool bit_test(const uint64_t *bits, uint64_t i)
{
	return bits && bits[i / 64] >> (i % 64) & 1;
}

static void bit_set(uint64_t *bits, uint64_t i)
{
	bits[i / 64] |= 1ull << (i % 64);
}

static int usage_node(void *arg, uint64_t node, unsigned level)
{
	const struct usage *u = arg;

	(void)level;
	if (u->all || node >= u->nodes.n)
		return 0;
	return bit_test(u->nodes.own, node) || bit_test(u->nodes.twice, node);
}

static void usage_read(void *arg, uint64_t node)
{
	struct node_sets *ns = &((struct usage *)arg)->nodes;

	if (!ns->own || node >= ns->n || bit_test(ns->own, node))
		return;
	bit_set(ns->own, node);
	if (((struct usage *)arg)->counts)
		return;
	bit_set(bit_test(ns->once, node) ? ns->twice : ns->once, node);
}

static int usage_leaf(void *arg, uint64_t first_chunk, const uint64_t *entries)
{
	struct usage *u = arg;

	for (unsigned i = 0; entries && i < LEAF_CHUNKS; i++) {
		if (entry_state(entries[i]) != ENTRY_DATA)
			continue;
		const uint64_t loc = entry_loc(entries[i]);
		const long at = slotset_find(&u->current, loc_segment(loc));
		if (at < 0 || loc_slot(loc) >= SEGMENT_SLOTS ||
		        !slotset_set(&u->current, at, loc_slot(loc)))
			continue;
		if (!u->counts)
			continue;
		if (slotset_test(&u->many, at, loc_slot(loc)))
			u->counts->shared_chunks++;
		else
			u->counts->unique_chunks++;
	}
	return 0;
}

static int usage_locked(void *arg, uint64_t first_chunk, uint32_t domain, bool foreign)
{
	struct usage *u = arg;

	(void)first_chunk, (void)domain, (void)foreign;
	u->locked = true;
	return 0;
}

static int usage_walk(struct usage *u, uint64_t image)
{
	struct map *map;
	static const struct map_walker walker = {usage_node, usage_read, usage_leaf, usage_locked};
	int r = map_open(u->store->maps, image, &map);

	if (r == -ENOENT)
		return 0; /* a snapshot deleted meanwhile */
	if (r < 0)
		return r;
	r = map_walk_with(map, &walker, u);
	map_close(map);
	if (u->progress)
		u->progress(u->progress_arg, ++u->done, u->total);
	return r;
}

/* The next owner's turn: nothing is its own yet. */
static void owner_begin(struct usage *u)
{
	u->locked = false;
	memset(u->current.bits, 0, u->current.n * sizeof(*u->current.bits));
	if (u->nodes.own)
		memset(u->nodes.own, 0, DIV_UP(u->nodes.n, 64) * sizeof(*u->nodes.own));
}

/* Adds the owner's slots to the sets. */
static void owner_fold(struct usage *u)
{
	for (size_t i = 0; i < u->current.n; i++) {
		for (unsigned w = 0; w < ARRAY_SIZE(u->current.bits[i].words); w++) {
			const uint64_t cur = u->current.bits[i].words[w];
			u->many.bits[i].words[w] |= u->one.bits[i].words[w] & cur;
			u->one.bits[i].words[w] |= cur;
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
	size_t i = 0;
	int r = 0;

	while (i < u->n_snapshots && snapshot_set(u->snapshots[i]) < snapshot_set(set->id))
		i++;
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

static int usage_pass(struct usage *u, uint64_t after, const struct question *q, uint64_t *ret_last)
{
	struct segments *ss = u->store->segments;
	struct meta *m = u->store->cfg.meta;
	const size_t node_bytes = DIV_UP(u->nodes.n, 64) * sizeof(uint64_t);
	int r = slotset_init(&u->one, ss, after, SEGMENT_ID_MAX, false, PASS_SEGMENTS, ret_last);

	if (r == 0)
		r = slotset_init(&u->many, ss, after, *ret_last, false, PASS_SEGMENTS, ret_last);
	if (r == 0)
		r = slotset_init(&u->current, ss, after, *ret_last, false, PASS_SEGMENTS, ret_last);
	/* A segment dropped between the three would shift them; then count again. */
	if (r == 0 && (u->one.n != u->current.n || u->many.n != u->current.n))
		r = -EAGAIN;
	if (u->nodes.own) {
		memset(u->nodes.once, 0, node_bytes);
		memset(u->nodes.twice, 0, node_bytes);
	}
	if (r == 0)
		r = m->ops->image_each(m, fold_image, u);
	if (r == 0)
		r = fold_snapshots(u);
	if (r == 0)
		r = usage_count(u, q);
	slotset_free(&u->one);
	slotset_free(&u->many);
	slotset_free(&u->current);
	return r;
}

static int count_images(void *arg, const struct image_row *row)
{
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

/* Without memory for them, shared nodes are walked as often as they are reached. */
static void nodes_init(struct usage *u)
{
	struct node_sets *ns = &u->nodes;
	const uint64_t n = maps_next_node(u->store->maps);
	const size_t words = DIV_UP(n, 64);

	if (n > NODES_MAX)
		return;
	ns->once = calloc(words, sizeof(uint64_t));
	ns->twice = calloc(words, sizeof(uint64_t));
	ns->own = calloc(words, sizeof(uint64_t));
	if (ns->once && ns->twice && ns->own) {
		ns->n = n;
		return;
	}
	free(ns->once);
	free(ns->twice);
	free(ns->own);
	*ns = (struct node_sets){0};
}

static void usage_release(struct usage *u)
{
	free(u->snapshots);
	free(u->nodes.once);
	free(u->nodes.twice);
	free(u->nodes.own);
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

	nodes_init(&u);
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

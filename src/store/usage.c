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
#include "store/store-priv.h"

#define PASS_SEGMENTS 16384u

struct usage {
	struct store *store;
	struct slotset one, many, current; /* referred to: at all; by several images; by this one */
	struct image_stats *counts;        /* second walk: where to count; NULL in the first */
	gc_progress_fn *progress;
	void *progress_arg;
	uint64_t done, total;
	bool locked; /* the walk met a leaf that cannot be looked into */
};

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
	int r = map_open(u->store->maps, image, &map);

	if (r < 0)
		return r;
	u->locked = false;
	r = map_walk_locked(map, NULL, usage_leaf, usage_locked, u);
	map_close(map);
	if (u->progress)
		u->progress(u->progress_arg, ++u->done, u->total);
	return r;
}

/* Adds the current image's slots to the sets, and empties them. */
static int usage_fold(void *arg, const struct image_row *row)
{
	struct usage *u = arg;
	const int r = usage_walk(u, row->image);

	for (size_t i = 0; i < u->current.n; i++) {
		for (unsigned w = 0; w < ARRAY_SIZE(u->current.bits[i].words); w++) {
			const uint64_t cur = u->current.bits[i].words[w];
			u->many.bits[i].words[w] |= u->one.bits[i].words[w] & cur;
			u->one.bits[i].words[w] |= cur;
			u->current.bits[i].words[w] = 0;
		}
	}
	return r;
}

static int usage_count(struct usage *u, const uint64_t *images, size_t n, struct image_stats *stats)
{
	for (size_t k = 0; k < n; k++) {
		u->counts = &stats[k];
		const int r = usage_walk(u, images[k]);
		if (r < 0)
			return r;
		if (u->locked)
			stats[k].unique_chunks = stats[k].shared_chunks = 0;
		memset(u->current.bits, 0, u->current.n * sizeof(*u->current.bits));
	}
	return 0;
}

static int usage_pass(struct usage *u, uint64_t after, const uint64_t *images, size_t n,
        struct image_stats *stats, uint64_t *ret_last)
{
	struct segments *ss = u->store->segments;
	struct meta *m = u->store->cfg.meta;
	int r = slotset_init(&u->one, ss, after, SEGMENT_ID_MAX, false, PASS_SEGMENTS, ret_last);

	if (r == 0)
		r = slotset_init(&u->many, ss, after, *ret_last, false, PASS_SEGMENTS, ret_last);
	if (r == 0)
		r = slotset_init(&u->current, ss, after, *ret_last, false, PASS_SEGMENTS, ret_last);
	/* A segment dropped between the three would shift them; then count again. */
	if (r == 0 && (u->one.n != u->current.n || u->many.n != u->current.n))
		r = -EAGAIN;
	u->counts = NULL;
	if (r == 0)
		r = m->ops->image_each(m, usage_fold, u);
	if (r == 0)
		r = usage_count(u, images, n, stats);
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

static int exact(struct store *s, const uint64_t *images, size_t n, gc_progress_fn *fn, void *arg,
        struct image_stats *stats)
{
	struct usage u = {.store = s, .progress = fn, .progress_arg = arg};
	struct segments_stats ss;
	uint64_t n_images = 0, after = 0, last = 0;
	int r = s->cfg.meta->ops->image_each(s->cfg.meta, count_images, &n_images);

	segments_stats_get(s->segments, &ss);
	u.total = (n_images + n) * MAX(DIV_UP(ss.segments, PASS_SEGMENTS), 1);
	while (r == 0) {
		r = usage_pass(&u, after, images, n, stats, &last);
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

int store_image_stats(struct store *s, const uint64_t *images, size_t n, bool is_exact,
        gc_progress_fn *fn, void *arg, struct image_stats *ret_stats)
{
	struct meta *m = s->cfg.meta;

	memset(ret_stats, 0, n * sizeof(*ret_stats));
	for (size_t i = 0; i < n; i++) {
		struct image_row row;
		const int r = m->ops->image_get(m, images[i], &row);
		if (r == -ENOENT)
			continue;
		if (r < 0)
			return r;
		ret_stats[i].data_chunks = row.data_chunks;
		ret_stats[i].zero_chunks = row.zero_chunks;
	}
	return is_exact ? exact(s, images, n, fn, arg, ret_stats) : 0;
}

/*
 * overlay-seek.c - where the overlay has something to say, for seeking and for walking an image
 *
 * Looks at the lists of leaves and punches of an image's two groups, under the image's lock; see
 * overlay.c for what they are.
 *
 * A list of leaves is in the order in which they came, with the newest in front.  Who walks an image by its
 * extents asks for the next leaf again and again, so the older part of the list is kept as a sorted
 * array of their numbers as well; it is brought up to date when more than LEAVES_FRESH_MAX leaves are
 * not in it yet.  None leaves the list before all do.
 */
#include <string.h>

#include "store/store-priv.h"

#define LEAVES_FRESH_MAX 256u

/* Image lock held. */
static uint64_t punches_next(const struct punches *ps, uint64_t leaf, bool holes)
{
	for (size_t i = 0; i < ps->n; i++)
		if (ps->v[i].last > leaf && (holes || ps->v[i].zero))
			return MAX(ps->v[i].first, leaf);
	return IMAGE_CHUNKS_MAX / LEAF_CHUNKS;
}

bool overlay_clean(struct image *img)
{
	pthread_mutex_lock(&img->lock);
	bool clean = true;
	for (unsigned g = 0; g < 2; g++)
		clean = clean && !img->groups[g].leaves && img->groups[g].punches.n == 0;
	pthread_mutex_unlock(&img->lock);
	return clean;
}

static int by_number(const void *a, const void *b)
{
	const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

void leaves_forget(struct image_group *ig)
{
	ig->leaves = ig->unlogged = NULL;
	free(STEAL(ig->sorted));
	ig->n_leaves = ig->n_sorted = 0;
}

/* Image lock held: all leaves into the array.  Without memory it stays as it is. */
static void leaves_sort(struct image_group *ig)
{
	const size_t fresh = ig->n_leaves - ig->n_sorted;
	size_t i = 0, at = 0;
	CLEANUP(free_ptr) uint64_t *add = malloc(fresh * sizeof(*add));
	uint64_t *all = malloc(ig->n_leaves * sizeof(*all));

	if (!add || !all) {
		free(all);
		return;
	}
	for (const struct ov_leaf *l = ig->leaves; i < fresh; l = l->image_next)
		add[i++] = l->index;
	qsort(add, fresh, sizeof(*add), by_number);
	i = 0;
	for (size_t n = 0; n < ig->n_leaves; n++) {
		const bool old = at < ig->n_sorted && (i == fresh || ig->sorted[at] < add[i]);
		all[n] = old ? ig->sorted[at++] : add[i++];
	}
	free(ig->sorted);
	ig->sorted = all;
	ig->n_sorted = ig->n_leaves;
}

/* Image lock held: the first leaf >= leaf that the group has; else one that no image has. */
static uint64_t group_next(struct image_group *ig, uint64_t leaf)
{
	uint64_t next = IMAGE_CHUNKS_MAX / LEAF_CHUNKS;

	if (ig->n_leaves - ig->n_sorted > LEAVES_FRESH_MAX)
		leaves_sort(ig);
	const struct ov_leaf *l = ig->leaves;
	for (size_t n = ig->n_leaves - ig->n_sorted; n > 0; n--, l = l->image_next)
		if (l->index >= leaf)
			next = MIN(next, l->index);
	size_t lo = 0, hi = ig->n_sorted;
	while (lo < hi) {
		const size_t mid = lo + (hi - lo) / 2;
		if (ig->sorted[mid] < leaf)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < ig->n_sorted ? MIN(next, ig->sorted[lo]) : next;
}

/* Image lock held: the first leaf >= leaf with slots in either group. */
static uint64_t slots_next(struct image *img, uint64_t leaf)
{
	return MIN(group_next(&img->groups[0], leaf), group_next(&img->groups[1], leaf));
}

uint64_t overlay_next_leaf(struct image *img, uint64_t leaf, bool holes)
{
	uint64_t next = IMAGE_CHUNKS_MAX / LEAF_CHUNKS;

	pthread_mutex_lock(&img->lock);
	for (unsigned g = 0; g < 2; g++)
		next = MIN(next, punches_next(&img->groups[g].punches, leaf, holes));
	next = MIN(next, slots_next(img, leaf));
	pthread_mutex_unlock(&img->lock);
	return next;
}

uint64_t overlay_skip_punched(struct image *img, uint64_t leaf, bool zero)
{
	const unsigned g = atomic_load(&img->store->txg_open) & 1;
	const struct punches *active = &img->groups[g].punches, *frozen = &img->groups[!g].punches;
	uint64_t next = leaf;

	if (img->groups[0].n_punches == 0 && img->groups[1].n_punches == 0)
		return leaf;
	pthread_mutex_lock(&img->lock);
	const struct punch *p = punches_find(active, leaf);
	uint64_t until = p ? p->last : punches_next(active, leaf, true);
	if (!p) {
		p = punches_find(frozen, leaf);
		until = p ? MIN(until, p->last) : leaf;
	}
	if (p && p->zero == zero)
		next = MIN(until, slots_next(img, leaf));
	pthread_mutex_unlock(&img->lock);
	return next;
}

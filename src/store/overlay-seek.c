/*
 * overlay-seek.c - where the overlay has something to say, for seeking and for walking an image
 *
 * Looks at the lists of leaves and punches of an image's two groups, under the image's lock; see
 * overlay.c for what they are.
 */
#include "store/store-priv.h"

/* Image lock held. */
static uint64_t punches_next(const struct punches *ps, uint64_t leaf, bool holes)
{
	for (size_t i = 0; i < ps->n; i++)
		if (ps->v[i].last > leaf && (holes || ps->v[i].zero))
			return MAX(ps->v[i].first, leaf);
	return IMAGE_CHUNKS_MAX / LEAF_CHUNKS;
}

uint64_t overlay_next_leaf(struct image *img, uint64_t leaf, bool holes)
{
	uint64_t next = IMAGE_CHUNKS_MAX / LEAF_CHUNKS;

	pthread_mutex_lock(&img->lock);
	for (unsigned g = 0; g < 2; g++) {
		next = MIN(next, punches_next(&img->groups[g].punches, leaf, holes));
		for (const struct ov_leaf *l = img->groups[g].leaves; l; l = l->image_next)
			if (l->index >= leaf)
				next = MIN(next, l->index);
	}
	pthread_mutex_unlock(&img->lock);
	return next;
}

/* Image lock held: the first leaf >= leaf with slots in either group. */
static uint64_t slots_next(const struct image *img, uint64_t leaf)
{
	uint64_t next = IMAGE_CHUNKS_MAX / LEAF_CHUNKS;

	for (unsigned g = 0; g < 2; g++)
		for (const struct ov_leaf *l = img->groups[g].leaves; l; l = l->image_next)
			if (l->index >= leaf)
				next = MIN(next, l->index);
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

/*
 * image.c - image objects in RAM
 *
 * One object an image, found by id in a hash table; it lives while somebody holds a handle or a
 * group has changes of it (the group's list holds a reference of its own).  store.images_lock
 * guards the table, the reference counts and the groups' lists of dirty images.
 */
#include <errno.h>

#include "store/store-priv.h"

static unsigned bucket_of(uint64_t id)
{
	return (unsigned)((id * 0x9e3779b97f4a7c15ull) >> 40) % IMAGE_BUCKETS;
}

static struct image *find_locked(struct store *s, uint64_t id)
{
	struct image *img = s->images[bucket_of(id)];

	while (img && img->id != id)
		img = img->hash_next;
	if (img)
		img->refs++;
	return img;
}

struct image *image_find(struct store *s, uint64_t id)
{
	pthread_mutex_lock(&s->images_lock);
	struct image *img = find_locked(s, id);
	pthread_mutex_unlock(&s->images_lock);
	return img;
}

static void image_free(struct image *img)
{
	if (!img)
		return;
	map_close(img->map);
	pthread_mutex_destroy(&img->lock);
	free(img);
}

static int image_new(struct store *s, uint64_t id, struct image **ret_image)
{
	struct image *img = calloc(1, sizeof(*img));

	if (!img)
		return -ENOMEM;
	img->store = s;
	img->id = id;
	img->refs = 1;
	int r = map_open(s->maps, id, &img->map);
	if (r < 0) {
		free(img);
		return r;
	}
	pthread_mutex_init(&img->lock, NULL);
	r = image_policy_ask(img);
	if (r < 0) {
		image_free(img);
		return r;
	}
	*ret_image = img;
	return 0;
}

/*
 * A snapshot's object is in the table now, where the collector finds it.  Was its row deleted before that?
 * From here on a deletion finds the object open.
 */
static int snapshot_still_there(struct image *img)
{
	struct meta *m = img->store->cfg.meta;
	struct snapshot_row row;

	return m->ops->snapshot_get(m, img->id & ~SNAPSHOT_BIT, &row);
}

int store_image_open(struct store *s, uint64_t id, struct image **ret_image)
{
	struct image *img = image_find(s, id);
	int r;

	if (!img) {
		/* Reads the image's row, so not under the lock; another thread may be first. */
		struct image *mine;
		r = image_new(s, id, &mine);
		if (r < 0)
			return r;
		pthread_mutex_lock(&s->images_lock);
		img = find_locked(s, id);
		if (!img) {
			img = STEAL(mine);
			img->hash_next = s->images[bucket_of(id)];
			s->images[bucket_of(id)] = img;
		}
		pthread_mutex_unlock(&s->images_lock);
		image_free(mine);
		r = image_is_snapshot(img) ? snapshot_still_there(img) : 0;
		if (r < 0) {
			store_image_close(img);
			return r;
		}
	}
	/* The key may have come after it was asked for, and before the object could be found. */
	if (image_locked(img))
		image_lock_update(img);
	*ret_image = img;
	return 0;
}

void image_ref(struct image *img)
{
	pthread_mutex_lock(&img->store->images_lock);
	img->refs++;
	pthread_mutex_unlock(&img->store->images_lock);
}

void store_image_close(struct image *img)
{
	if (!img)
		return;
	struct store *s = img->store;
	pthread_mutex_lock(&s->images_lock);
	const bool last = --img->refs == 0;
	if (last) {
		struct image **at = &s->images[bucket_of(img->id)];
		while (*at != img)
			at = &(*at)->hash_next;
		*at = img->hash_next;
	}
	pthread_mutex_unlock(&s->images_lock);
	if (last)
		image_free(img);
}

uint64_t store_image_id(const struct image *img)
{
	return img->id;
}

void image_mark_dirty(struct image *img, unsigned g)
{
	struct store *s = img->store;

	if (__atomic_load_n(&img->groups[g].dirty, __ATOMIC_ACQUIRE))
		return;
	pthread_mutex_lock(&s->images_lock);
	if (!img->groups[g].dirty) {
		img->refs++;
		img->groups[g].dirty_next = s->groups[g].dirty;
		s->groups[g].dirty = img;
		__atomic_store_n(&img->groups[g].dirty, true, __ATOMIC_RELEASE);
	}
	pthread_mutex_unlock(&s->images_lock);
}

/* The first image of bucket b that comes after prev; prev NULL: the first one.  Referenced. */
static struct image *image_after(struct store *s, unsigned b, const struct image *prev)
{
	pthread_mutex_lock(&s->images_lock);
	struct image *img = prev ? prev->hash_next : s->images[b];
	if (img)
		img->refs++;
	pthread_mutex_unlock(&s->images_lock);
	return img;
}

int images_each(struct store *s, image_fn *fn, void *arg)
{
	int r = 0;

	for (unsigned b = 0; r == 0 && b < IMAGE_BUCKETS; b++) {
		struct image *img = image_after(s, b, NULL);
		while (img) {
			if (r == 0)
				r = fn(arg, img);
			struct image *next = r == 0 ? image_after(s, b, img) : NULL;
			store_image_close(img);
			img = next;
		}
	}
	return r;
}

void images_free(struct store *s)
{
	for (unsigned b = 0; s->images && b < IMAGE_BUCKETS; b++)
		ASSERT(!s->images[b]); /* every handle was closed */
	free(s->images);
}

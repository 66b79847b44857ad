/*
 * domain.c - crypto domains of images: locked, unlocked, left behind
 *
 * An image is *locked* while the key of its policy's domain is not in the keyring, or records of it
 * are parked (parked.c).  Then nothing of it is read or changed, but it can be deleted: so no commit
 * ever needs a key that is not there.  img->locked says so, checked by each operation on content;
 * it is set when the image is opened, its policy changes, or a key comes or goes.
 *
 * While an image is unlocked and open, or has changes that are not committed, its map holds on to
 * the domain's keys (map_domain_set).
 */
#include <errno.h>
#include <time.h>

#include "base/clock.h"
#include "store/store-priv.h"

/* How long readers in the background may hold on to an image. */
#define LOCK_WAIT_NS  (10 * NS_PER_SEC)
#define LOCK_SLEEP_NS (10 * NS_PER_MS)

uint32_t domain_of_segment(void *arg, uint64_t segment)
{
	struct store *s = arg;
	uint32_t domain;

	return segments_domain(s->segments, segment, &domain) < 0 ? UINT32_MAX : domain;
}

void image_lock_update(struct image *img)
{
	const bool locked = map_domain_set(img->map, image_policy(img).domain) < 0 ||
	                    parked_has(img->store, img->id);

	atomic_store_explicit(&img->locked, locked, memory_order_relaxed);
}

/* --- what is left of other domains --- */

struct foreign {
	struct store *store;
	struct map *map;
	uint32_t domain;
	uint64_t n;
	gc_progress_fn *progress;
	void *progress_arg;
	uint64_t done, total;
};

static void foreign_progress(struct foreign *f)
{
	f->done++;
	if (f->progress && f->done % 256 == 0)
		f->progress(f->progress_arg, MIN(f->done, f->total), f->total);
}

static int foreign_leaf(void *arg, uint64_t first_chunk, const uint64_t *entries)
{
	struct foreign *f = arg;
	uint64_t last = 0;
	bool differs = false;

	(void)first_chunk;
	for (unsigned i = 0; entries && i < LEAF_CHUNKS; i++) {
		const uint64_t segment = loc_segment(entry_loc(entries[i]));

		if (entry_state(entries[i]) != ENTRY_DATA || segment == SEGMENT_ID_MAX)
			continue;
		if (segment != last)
			differs = domain_of_segment(f->store, segment) != f->domain;
		last = segment;
		f->n += differs;
	}
	foreign_progress(f);
	return f->store->stopping ? -EINTR : 0;
}

/* It cannot be looked into: what it says of itself counts as one. */
static int foreign_locked(void *arg, uint64_t first_chunk, uint32_t domain, bool foreign)
{
	struct foreign *f = arg;

	(void)first_chunk;
	f->n += foreign && domain == f->domain;
	foreign_progress(f);
	return f->store->stopping ? -EINTR : 0;
}

static int foreign_count(struct foreign *f)
{
	struct image_row row;
	uint64_t chunk = 0;
	int r;

	map_row(f->map, &row);
	f->total = DIV_UP(row.data_chunks + row.zero_chunks, LEAF_CHUNKS);
	r = map_walk_locked(f->map, NULL, foreign_leaf, foreign_locked, f);
	while (r == 0) {
		r = map_next_foreign_leaf(f->map, chunk, f->domain, &chunk);
		if (r < 0 || chunk >= IMAGE_CHUNKS_MAX)
			break;
		f->n++;
		chunk += LEAF_CHUNKS;
	}
	return r;
}

int store_foreign_chunks(struct store *s, uint64_t image, uint32_t domain, gc_progress_fn *fn,
        void *arg, uint64_t *ret_chunks)
{
	struct foreign f = {.store = s, .domain = domain, .progress = fn, .progress_arg = arg};
	int r = map_open(s->maps, image, &f.map);

	if (r < 0)
		return r;
	r = foreign_count(&f);
	map_close(f.map);
	if (r == 0) /* what was seen may have been in RAM only */
		r = store_sync(s);
	if (r == 0)
		*ret_chunks = f.n;
	return r;
}

/* --- keys come and go --- */

static int update(void *arg, struct image *img)
{
	(void)arg;
	image_lock_update(img);
	return 0;
}

int store_domain_unlocked(struct store *s, uint32_t domain)
{
	(void)domain; /* an image may have waited for more than one */
	const int r = parked_apply(s);
	const int each_r = images_each(s, update, NULL);

	return r < 0 ? r : each_r;
}

static int lock_image(void *arg, struct image *img)
{
	if (image_policy(img).domain == *(const uint32_t *)arg)
		atomic_store_explicit(&img->locked, true, memory_order_relaxed);
	return 0;
}

static int domain_used(void *arg, struct image *img)
{
	return image_policy(img).domain == *(const uint32_t *)arg ? -EBUSY : 0;
}

/* Until read-ahead and the committed group have let go of the domain's images. */
static int images_wait(struct store *s, uint32_t domain)
{
	const struct timespec pause = {0, LOCK_SLEEP_NS};
	const uint64_t until_ns = clock_now_ns() + LOCK_WAIT_NS;
	int r = images_each(s, domain_used, &domain);

	while (r == -EBUSY && clock_now_ns() < until_ns) {
		nanosleep(&pause, NULL);
		r = images_each(s, domain_used, &domain);
	}
	return r;
}

static int caches_drop(struct store *s, uint32_t domain)
{
	CLEANUP(free_ptr) uint64_t *ids = NULL;
	size_t n = 0;
	const int r = segments_of_domain(s->segments, domain, &ids, &n);

	if (r < 0)
		return r;
	cache_drop_segments(s->cache, ids, n);
	maps_domain_drop(s->maps, domain);
	segments_forget(s->segments);
	bufpool_wipe(s->bufs);
	return 0;
}

int store_domain_lock(struct store *s, uint32_t domain)
{
	ASSERT(domain != 0);
	/* With the gate closed nobody is about to change what is locked now. */
	pthread_rwlock_wrlock(&s->gate);
	int r = images_each(s, lock_image, &domain);
	pthread_rwlock_unlock(&s->gate);
	if (r == 0)
		r = store_sync(s);
	if (r == 0)
		r = images_wait(s, domain);
	if (r == 0)
		return caches_drop(s, domain);
	const int again = images_each(s, update, NULL); /* as before */
	return again < 0 ? again : r;
}

int domain_wipe_log_and_meta(struct store *s)
{
	const int r = flush_wipe(s);
	return r < 0 ? r : txg_scrub(s);
}

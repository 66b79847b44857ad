/*
 * reseal.c - moving an image to another crypto domain, and leaving nothing behind
 *
 * Chunks that lie in segments of another domain than the image's policy says are read, outside the
 * gate, and put into the overlay as if they had been written again; the next group stores them
 * where they belong.  They are not logged: what the log would bring back is what the map says
 * already.
 *
 * A write that comes between wins.  The chunk is taken inside the gate only if, in this order,
 *	- neither group has anything of it,
 *	- the map's entry is the one that was read,
 *	- under the shard's lock, the active group still has nothing of it.
 * What is written after the first look goes to the active group, which cannot be frozen while we
 * are inside the gate, so the third look sees it; what was written before and committed since is seen
 * by the second.
 *
 * Leaves of the map are moved in the same way: each that is stored under another domain is touched,
 * so that the next group writes it again.
 *
 * A group that was frozen before the policy changed may still be stored as the old policy said: it is
 * waited for first.
 */
#include <errno.h>

#include "base/log.h"
#include "crypto/kdf.h"
#include "store/store-priv.h"

#define BATCH_CHUNKS 32u

struct reseal {
	struct image *img;
	uint32_t domain;
	/* The segment asked about last, and the answer. */
	uint64_t segment;
	uint32_t segment_domain;
	uint64_t found; /* foreign chunks */
	int error;      /* the first */
	/* The batch: chunks, what the map says of them, and what they hold. */
	unsigned n;
	uint64_t chunks[BATCH_CHUNKS], entries[BATCH_CHUNKS];
	bool have[BATCH_CHUNKS];
	uint8_t data[BATCH_CHUNKS][CHUNK_SIZE];
};

static bool entry_foreign(struct reseal *rs, uint64_t entry)
{
	const uint64_t segment = loc_segment(entry_loc(entry));

	if (entry_state(entry) != ENTRY_DATA)
		return false;
	if (segment != rs->segment) {
		uint32_t domain;
		if (segments_domain(rs->img->store->segments, segment, &domain) < 0)
			domain = rs->domain; /* lost: nothing is there to be moved */
		rs->segment = segment;
		rs->segment_domain = domain;
	}
	return rs->segment_domain != rs->domain;
}

static void batch_frame(
        void *arg, uint64_t loc, unsigned n, const uint8_t *chunks, const struct hash128 *hashes)
{
	struct reseal *rs = arg;

	for (unsigned i = 0; i < rs->n; i++) {
		const uint64_t at = entry_loc(rs->entries[i]);
		if (at < loc || at >= loc + n ||
		        hash_check(hashes[at - loc]) != entry_check(rs->entries[i]))
			continue;
		memcpy(rs->data[i], chunks + (at - loc) * CHUNK_SIZE, CHUNK_SIZE);
		rs->have[i] = true;
	}
}

/* Past the cache: what is read here is dropped from it soon. */
static void batch_read(struct reseal *rs)
{
	uint64_t locs[BATCH_CHUNKS];

	for (unsigned i = 0; i < rs->n; i++) {
		locs[i] = entry_loc(rs->entries[i]);
		rs->have[i] = false;
	}
	const int r = segments_read(rs->img->store->segments, locs, rs->n, batch_frame, rs);
	/* -ESTALE: overwritten and collected meanwhile. */
	if (r < 0 && r != -ESTALE && rs->error == 0)
		rs->error = r == -EUCLEAN ? -EIO : r;
}

/* Inside the gate. */
static int chunk_put(struct reseal *rs, unsigned i)
{
	struct image *img = rs->img;
	struct ov_view view;
	uint64_t entry = 0;

	overlay_view(img, rs->chunks[i], 1, &view);
	const bool touched = view.top || view.rest != SLOT_ABSENT;
	ov_view_release(img->store, &view);
	if (touched)
		return 0;
	const int r = map_get(img->map, rs->chunks[i], 1, &entry);
	if (r < 0 || entry != rs->entries[i])
		return r;
	return overlay_put_same(img, rs->chunks[i], rs->data[i]);
}

static int batch_put(struct reseal *rs)
{
	struct store *s = rs->img->store;
	int r = store_throttle(s, rs->n * CHUNK_SIZE);

	if (r < 0)
		return r;
	store_enter(s);
	for (unsigned i = 0; r == 0 && i < rs->n; i++)
		if (rs->have[i])
			r = chunk_put(rs, i);
	store_leave(s);
	return r;
}

static int batch_flush(struct reseal *rs)
{
	int r = 0;

	if (rs->n > 0) {
		batch_read(rs);
		r = batch_put(rs);
	}
	rs->n = 0;
	return r;
}

/* Chunks [first, first + n) of one leaf. */
static int leaf_reseal(struct reseal *rs, uint64_t first, unsigned n)
{
	struct ov_view views[LEAF_CHUNKS];
	uint64_t entries[LEAF_CHUNKS];
	struct image *img = rs->img;

	overlay_view(img, first, n, views);
	int r = map_get(img->map, first, n, entries);
	for (unsigned i = 0; i < n; i++) {
		struct ov_view *v = &views[i];
		const bool foreign =
		        r == 0 && !v->top &&
		        entry_foreign(rs, v->rest == SLOT_ABSENT ? entries[i] : v->rest);
		const bool mapped = v->rest == SLOT_ABSENT;
		ov_view_release(img->store, v);
		if (!foreign)
			continue;
		rs->found++;
		if (!mapped)
			continue; /* shared in a group that is not committed: the next pass has it */
		rs->chunks[rs->n] = first + i;
		rs->entries[rs->n++] = entries[i];
		if (rs->n == BATCH_CHUNKS)
			r = batch_flush(rs);
	}
	if (r == 0)
		r = batch_flush(rs);
	return r;
}

static int range_reseal(struct reseal *rs, uint64_t chunk, uint64_t end)
{
	while (chunk < end) {
		/* Only what is in the map can lie in the wrong place; the overlay's shares will be. */
		uint64_t next = IMAGE_CHUNKS_MAX;
		int r = map_next(rs->img->map, chunk, false, &next);
		if (r < 0)
			return r;
		const uint64_t leaf = overlay_next_leaf(rs->img, chunk / LEAF_CHUNKS, false);
		chunk = MAX(chunk, MIN(next, leaf * LEAF_CHUNKS));
		if (chunk >= end)
			break;
		const uint64_t n = MIN(end - chunk, LEAF_CHUNKS - chunk % LEAF_CHUNKS);
		r = leaf_reseal(rs, chunk, (unsigned)n);
		if (r < 0)
			return r;
		chunk += n;
	}
	return 0;
}

/* Leaves with chunks in [chunk, end). */
static int leaves_reseal(struct reseal *rs, uint64_t chunk, uint64_t end)
{
	struct store *s = rs->img->store;

	for (;;) {
		int r = map_next_foreign_leaf(rs->img->map, chunk, rs->domain, &chunk);
		if (r < 0 || chunk >= end)
			return r;
		store_enter(s);
		r = overlay_touch_leaf(rs->img, chunk);
		store_leave(s);
		if (r < 0)
			return r;
		rs->found++;
		chunk += LEAF_CHUNKS;
	}
}

int store_reseal(struct image *img, uint64_t off, uint64_t len, uint64_t *ret_chunks)
{
	struct store *s = img->store;
	CLEANUP(free_ptr) struct reseal *rs = calloc(1, sizeof(*rs));
	const uint64_t set_in = atomic_load(&img->policy_txg);
	int r = 0;

	ASSERT(off <= IMAGE_SIZE_MAX && len <= IMAGE_SIZE_MAX - off);
	if (!rs)
		return -ENOMEM;
	if (image_is_snapshot(img))
		return -EROFS;
	if (!image_unlocked(img))
		return -ENOKEY;
	if (set_in > 0 && atomic_load(&s->txg.committed) + 1 < set_in)
		r = txg_wait(s, set_in - 1);
	rs->img = img;
	rs->domain = image_policy(img).domain;
	if (r == 0)
		r = range_reseal(rs, off / CHUNK_SIZE, DIV_UP(off + len, CHUNK_SIZE));
	if (r == 0)
		r = leaves_reseal(rs, off / CHUNK_SIZE, DIV_UP(off + len, CHUNK_SIZE));
	key_wipe(rs->data, sizeof(rs->data));
	if (r == 0)
		r = rs->error;
	if (r == 0)
		*ret_chunks = rs->found;
	return r;
}

void store_leaving(struct store *s, const uint32_t *domains, unsigned n, bool more)
{
	segments_leaving(s->segments, domains, n, more);
}

int store_wipe_dead(struct store *s, uint32_t domain, gc_progress_fn *fn, void *arg)
{
	struct gc_report report;
	unsigned n_orphans = 0;

	if (s->cfg.read_only)
		return -EROFS;
	if (!keyring_has(s->keyring, domain))
		return -ENOKEY; /* what is to be kept of a frame could not be sealed again */
	pthread_mutex_lock(&s->wipe_lock);
	segments_wipe_begin(s->segments, domain);
	int r = store_gc(s, true, fn, arg, &report);
	if (r == 0)
		r = segments_remove_orphans(s->segments, 0, &n_orphans);
	const int ended = segments_wipe_end(s->segments);
	if (r == 0)
		r = ended;
	if (r == 0)
		r = domain_wipe_log_and_meta(s);
	pthread_mutex_unlock(&s->wipe_lock);
	return r;
}

int store_wipe_rows(struct store *s)
{
	if (s->cfg.read_only)
		return -EROFS;
	pthread_mutex_lock(&s->wipe_lock);
	const int r = domain_wipe_log_and_meta(s);
	pthread_mutex_unlock(&s->wipe_lock);
	return r;
}

/*
 * overlay.c - dirty chunks in RAM, and what reading finds there
 *
 * Owns the two groups' hash tables of leaves (struct ov_leaf: 1 MiB of one image) and their
 * buffers.  A slot of a leaf says what the group did to a chunk: wrote it (a buffer, whole or with
 * a bitmap of the bytes written), made it a hole or zeros, or made it share another chunk.  Ranges
 * of whole leaves that became holes are in image_group.punches; a slot wins over them, because
 * punching drops the slots that it covers.
 *
 * Writers work inside the gate, on the active group, one shard lock at a time.  The frozen group
 * is never changed, until overlay_release() drops it.  Readers need no gate: under the shard lock
 * they look at the active group, then the frozen one, then leave the rest to the map.  txg_open is
 * loaded after the shard lock was taken; a bucket is only released under that lock after txg_open
 * has moved on, and after the map has the group's content, so a reader finds it in one or the
 * other. (If the group table is reused under the reader, what it finds in "frozen" is newer than
 * its "active": only writes concurrent with the read, either outcome of which is right.)
 *
 * A buffer with other references (a reader's pin, a shared slot) is copied before it is changed.
 */
#include <errno.h>

#include "base/clock.h"
#include "store/store-priv.h"

static unsigned bucket_of(const struct image *img, uint64_t index)
{
	const uint64_t h = (img->id * 0x9e3779b97f4a7c15ull) ^ (index * 0xc2b2ae3d27d4eb4full);
	return (unsigned)(h >> 40) % OVERLAY_BUCKETS;
}

static pthread_mutex_t *shard_of(struct store *s, unsigned bucket)
{
	return &s->shards[bucket % OVERLAY_SHARDS];
}

static struct ov_leaf *leaf_find(
        struct group *grp, unsigned bucket, const struct image *img, uint64_t index)
{
	struct ov_leaf *l = grp->buckets[bucket];

	while (l && (l->image != img || l->index != index))
		l = l->hash_next;
	return l;
}

/* Shard lock held. */
static struct ov_leaf *leaf_get(
        struct group *grp, unsigned g, unsigned bucket, struct image *img, uint64_t index)
{
	struct ov_leaf *l = leaf_find(grp, bucket, img, index);
	if (l)
		return l;
	l = calloc(1, sizeof(*l));
	if (!l)
		return NULL;
	l->image = img;
	l->index = index;
	l->hash_next = grp->buckets[bucket];
	grp->buckets[bucket] = l;
	pthread_mutex_lock(&img->lock);
	l->image_next = img->groups[g].leaves;
	img->groups[g].leaves = l;
	img->groups[g].n_leaves++;
	pthread_mutex_unlock(&img->lock);
	atomic_fetch_add_explicit(&grp->n_leaves, 1, memory_order_relaxed);
	return l;
}

/* Shard lock held: a flush must take chunks [i, i + n). */
static void leaf_unlogged(struct ov_leaf *l, unsigned g, unsigned i, unsigned n)
{
	struct image_group *ig = &l->image->groups[g];
	unsigned fresh = 0;

	for (; n > 0; i++, n--) {
		const uint64_t bit = 1ull << (i % 64);
		fresh += !(l->unlogged[i / 64] & bit);
		l->unlogged[i / 64] |= bit;
	}
	atomic_fetch_add_explicit(
	        &ig->unlogged_bytes, (uint64_t)fresh * CHUNK_SIZE, memory_order_relaxed);
	if (l->on_unlogged)
		return;
	pthread_mutex_lock(&l->image->lock);
	l->on_unlogged = true;
	l->unlogged_next = ig->unlogged;
	ig->unlogged = l;
	pthread_mutex_unlock(&l->image->lock);
}

static void slot_drop(struct store *s, uint64_t *slot)
{
	if (slot_is_buf(*slot))
		bufpool_put(s->bufs, slot_buf(*slot));
	*slot = SLOT_ABSENT;
}

static void valid_set(struct buf *b, unsigned off, unsigned len)
{
	for (unsigned i = off; i < off + len;) {
		if (i % 64 == 0 && off + len - i >= 64) {
			b->valid[i / 64] = ~0ull;
			i += 64;
		} else {
			b->valid[i / 64] |= 1ull << (i % 64);
			i++;
		}
	}
	for (unsigned w = 0; w < BUF_VALID_WORDS; w++)
		if (b->valid[w] != ~0ull)
			return;
	free(b->valid);
	b->valid = NULL;
	b->base = 0;
}

static bool valid_get(const struct buf *b, unsigned i)
{
	return b->valid[i / 64] >> (i % 64) & 1;
}

int buf_runs(const struct buf *b, buf_run_fn *fn, void *arg)
{
	if (!b->valid)
		return fn(arg, 0, CHUNK_SIZE);
	for (unsigned i = 0; i < CHUNK_SIZE;) {
		if (i % 64 == 0 && b->valid[i / 64] == 0) {
			i += 64;
			continue;
		}
		if (!valid_get(b, i)) {
			i++;
			continue;
		}
		const unsigned start = i;
		while (i < CHUNK_SIZE && valid_get(b, i))
			i++;
		const int r = fn(arg, start, i - start);
		if (r < 0)
			return r;
	}
	return 0;
}

struct run_copy {
	const uint8_t *src;
	uint8_t *dst;
};

static int run_copy(void *arg, unsigned off, unsigned len)
{
	const struct run_copy *c = arg;
	memcpy(c->dst + off, c->src + off, len);
	return 0;
}

void buf_overlay(const struct buf *b, uint8_t *dst)
{
	struct run_copy c = {b->data, dst};
	(void)buf_runs(b, run_copy, &c);
}

/* A buffer of our own with the content of old, which loses our reference; NULL: out of memory. */
static struct buf *buf_own(struct store *s, struct buf *old)
{
	if (atomic_load_explicit(&old->refs, memory_order_acquire) == 1)
		return old;
	struct buf *b = bufpool_get(s->bufs);
	if (!b)
		return NULL;
	memcpy(b->data, old->data, CHUNK_SIZE);
	b->base = old->base;
	if (old->valid) {
		b->valid = malloc(CHUNK_SIZE / 8);
		if (!b->valid) {
			bufpool_put(s->bufs, b);
			return NULL;
		}
		memcpy(b->valid, old->valid, CHUNK_SIZE / 8);
	}
	bufpool_put(s->bufs, old);
	return b;
}

/*
 * A new buffer for a partial write over slot (not a buffer) at a place that the group may have
 * punched.
 */
static struct buf *buf_partial(struct store *s, uint64_t slot, bool punched)
{
	struct buf *b = bufpool_get(s->bufs);
	if (!b)
		return NULL;
	if (slot == SLOT_HOLE || slot == ENTRY_ZERO || (slot == SLOT_ABSENT && punched)) {
		memset(b->data, 0, CHUNK_SIZE);
		return b;
	}
	b->valid = calloc(1, CHUNK_SIZE / 8);
	if (!b->valid) {
		bufpool_put(s->bufs, b);
		return NULL;
	}
	b->base = slot; /* a shared chunk, or 0 */
	return b;
}

/* Buffers taken in advance for a write's whole chunks: one trip to the pool instead of hundreds. */
struct spares {
	struct buf *v[LEAF_CHUNKS];
	unsigned n;
};

static void spares_take(struct store *s, struct spares *sp, uint64_t off, size_t len)
{
	const uint64_t first = DIV_UP(off, CHUNK_SIZE), end = (off + len) / CHUNK_SIZE;

	sp->n = end > first + 1 ? bufpool_get_many(s->bufs, (unsigned)(end - first), sp->v) : 0;
}

static struct buf *spare_or_new(struct store *s, struct spares *sp)
{
	return sp->n > 0 ? sp->v[--sp->n] : bufpool_get(s->bufs);
}

static void spares_release(struct store *s, struct spares *sp)
{
	while (sp->n > 0)
		bufpool_put(s->bufs, sp->v[--sp->n]);
}

/* Shard lock held.  data NULL: zeros. */
static int slot_write(struct store *s, struct spares *sp, uint64_t *slot, bool punched,
        unsigned off, const void *data, unsigned len)
{
	struct buf *b = slot_is_buf(*slot) ? slot_buf(*slot) : NULL;

	if (len == CHUNK_SIZE && b && atomic_load_explicit(&b->refs, memory_order_acquire) != 1) {
		/* All of it is replaced: no need to copy what others still read. */
		struct buf *old = b;
		b = spare_or_new(s, sp);
		if (b)
			bufpool_put(s->bufs, old);
	} else if (!b) {
		b = len == CHUNK_SIZE ? spare_or_new(s, sp) : buf_partial(s, *slot, punched);
	} else {
		b = buf_own(s, b);
	}
	if (!b)
		return -ENOMEM;
	*slot = (uintptr_t)b;
	if (data)
		memcpy(b->data + off, data, len);
	else
		memset(b->data + off, 0, len);
	if (len == CHUNK_SIZE) {
		free(b->valid);
		b->valid = NULL;
		b->base = 0;
	} else if (b->valid) {
		valid_set(b, off, len);
	}
	return 0;
}

static bool leaf_punched(struct image *img, unsigned g, uint64_t index,
        const struct punch *ret_punch[1], struct punch *copy)
{
	struct image_group *ig = &img->groups[g];

	if (atomic_load_explicit(&ig->n_punches, memory_order_acquire) == 0)
		return false;
	pthread_mutex_lock(&img->lock);
	const struct punch *p = punches_find(&ig->punches, index);
	if (p)
		*copy = *p;
	pthread_mutex_unlock(&img->lock);
	if (p)
		ret_punch[0] = copy;
	return p != NULL;
}

/* Writes within one leaf; data NULL: zeros. */
static int leaf_write(struct image *img, uint64_t off, const uint8_t *data, size_t len)
{
	struct store *s = img->store;
	const unsigned g = atomic_load(&s->txg_open) & 1;
	const uint64_t index = off / LEAF_BYTES;
	const unsigned bucket = bucket_of(img, index);
	const struct punch *punch;
	struct punch copy;
	struct spares spares;
	int r = 0;

	spares_take(s, &spares, off, len);
	pthread_mutex_lock(shard_of(s, bucket));
	struct ov_leaf *l = leaf_get(&s->groups[g], g, bucket, img, index);
	if (!l) {
		pthread_mutex_unlock(shard_of(s, bucket));
		spares_release(s, &spares);
		return -ENOMEM;
	}
	const bool punched = leaf_punched(img, g, index, &punch, &copy);
	const unsigned first = (unsigned)(off / CHUNK_SIZE % LEAF_CHUNKS);
	leaf_unlogged(l, g, first,
	        len ? (unsigned)((off % LEAF_BYTES + len - 1) / CHUNK_SIZE) - first + 1 : 0);
	while (len > 0 && r == 0) {
		const unsigned i = (unsigned)(off / CHUNK_SIZE % LEAF_CHUNKS);
		const unsigned in = (unsigned)(off % CHUNK_SIZE);
		const unsigned n = (unsigned)MIN(len, CHUNK_SIZE - in);
		r = slot_write(s, &spares, &l->slots[i], punched, in, data, n);
		off += n;
		data = data ? data + n : NULL;
		len -= n;
	}
	pthread_mutex_unlock(shard_of(s, bucket));
	spares_release(s, &spares);
	return r;
}

static int write_leaves(struct image *img, uint64_t off, const uint8_t *data, size_t len)
{
	while (len > 0) {
		const size_t n = MIN(len, LEAF_BYTES - off % LEAF_BYTES);
		const int r = leaf_write(img, off, data, n);
		if (r < 0)
			return r;
		off += n;
		data = data ? data + n : NULL;
		len -= n;
	}
	return 0;
}

int overlay_write(struct image *img, uint64_t off, const void *data, size_t len)
{
	struct store *s = img->store;
	const unsigned g = atomic_load(&s->txg_open) & 1;

	ASSERT(off <= IMAGE_SIZE_MAX && len <= IMAGE_SIZE_MAX - off);
	image_mark_dirty(img, g);
	const int r = write_leaves(img, off, data, len);
	atomic_fetch_add_explicit(&s->groups[g].bytes, len, memory_order_relaxed);
	atomic_fetch_add_explicit(&s->count.written_bytes, len, memory_order_relaxed);
	return r;
}

int store_write(struct image *img, uint64_t off, const void *data, size_t len)
{
	const int r = image_refused(img);
	return r < 0 ? r : overlay_write(img, off, data, len);
}

int overlay_touch_leaf(struct image *img, uint64_t chunk)
{
	struct store *s = img->store;
	const unsigned g = atomic_load(&s->txg_open) & 1;
	const uint64_t index = chunk >> LEAF_SHIFT;
	const unsigned bucket = bucket_of(img, index);

	image_mark_dirty(img, g);
	atomic_fetch_add_explicit(&s->groups[g].bytes, 1, memory_order_relaxed);
	pthread_mutex_lock(shard_of(s, bucket));
	const bool ok = leaf_get(&s->groups[g], g, bucket, img, index);
	pthread_mutex_unlock(shard_of(s, bucket));
	return ok ? 0 : -ENOMEM;
}

int overlay_put_same(struct image *img, uint64_t chunk, const void *data)
{
	struct store *s = img->store;
	const unsigned g = atomic_load(&s->txg_open) & 1;
	const unsigned bucket = bucket_of(img, chunk / LEAF_CHUNKS);
	const struct punch *punch;
	struct punch copy;
	struct buf *b = bufpool_get(s->bufs);

	if (!b)
		return -ENOMEM;
	memcpy(b->data, data, CHUNK_SIZE);
	image_mark_dirty(img, g);
	pthread_mutex_lock(shard_of(s, bucket));
	struct ov_leaf *l = leaf_get(&s->groups[g], g, bucket, img, chunk / LEAF_CHUNKS);
	uint64_t *slot = l ? &l->slots[chunk % LEAF_CHUNKS] : NULL;
	if (slot && *slot == SLOT_ABSENT &&
	        !leaf_punched(img, g, chunk / LEAF_CHUNKS, &punch, &copy))
		*slot = (uintptr_t)STEAL(b);
	pthread_mutex_unlock(shard_of(s, bucket));
	if (b)
		bufpool_put(s->bufs, b);
	atomic_fetch_add_explicit(&s->groups[g].bytes, CHUNK_SIZE, memory_order_relaxed);
	return l ? 0 : -ENOMEM;
}

/* Sets n slots of one leaf to a constant: SLOT_HOLE or ENTRY_ZERO, or to entries[] where given. */
static int leaf_set(
        struct image *img, uint64_t first, unsigned n, uint64_t slot, const uint64_t *slots)
{
	struct store *s = img->store;
	const unsigned g = atomic_load(&s->txg_open) & 1;
	const uint64_t index = first >> LEAF_SHIFT;
	const unsigned bucket = bucket_of(img, index);

	pthread_mutex_lock(shard_of(s, bucket));
	struct ov_leaf *l = leaf_get(&s->groups[g], g, bucket, img, index);
	for (unsigned k = 0; l && k < n; k++) {
		const unsigned i = (unsigned)(first + k) % LEAF_CHUNKS;
		slot_drop(s, &l->slots[i]);
		l->slots[i] = slots ? slots[k] : slot;
	}
	if (l)
		leaf_unlogged(l, g, (unsigned)first % LEAF_CHUNKS, n);
	pthread_mutex_unlock(shard_of(s, bucket));
	return l ? 0 : -ENOMEM;
}

/* Drops what the active group wrote to leaves [first, last). */
static void leaves_drop(struct image *img, unsigned g, uint64_t first, uint64_t last)
{
	struct store *s = img->store;

	pthread_mutex_lock(&img->lock);
	struct ov_leaf *l = img->groups[g].leaves;
	pthread_mutex_unlock(&img->lock);
	/* New leaves are put in front, and none leave while the group is active. */
	for (; l; l = l->image_next) {
		if (l->index < first || l->index >= last)
			continue;
		pthread_mutex_t *lock = shard_of(s, bucket_of(img, l->index));
		pthread_mutex_lock(lock);
		for (unsigned i = 0; i < LEAF_CHUNKS; i++)
			slot_drop(s, &l->slots[i]);
		memset(l->unlogged, 0, sizeof(l->unlogged));
		pthread_mutex_unlock(lock);
	}
}

static int punch_leaves(struct image *img, unsigned g, uint64_t first, uint64_t last, bool zero)
{
	struct image_group *ig = &img->groups[g];

	if (first >= last)
		return 0;
	pthread_mutex_lock(&img->lock);
	const int r = punches_add(&ig->punches, first, last, zero);
	atomic_store_explicit(&ig->n_punches, (uint32_t)ig->punches.n, memory_order_release);
	pthread_mutex_unlock(&img->lock);
	if (r < 0)
		return r;
	/* Between the two, readers see the old slots: newer than the map, so either is right. */
	leaves_drop(img, g, first, last);
	return 0;
}

/* Whole chunks [first, last) at the edges of a punch: at most a leaf. */
static int punch_chunks(struct image *img, uint64_t first, uint64_t last, bool zero)
{
	while (first < last) {
		const unsigned n = (unsigned)MIN(last - first, LEAF_CHUNKS - first % LEAF_CHUNKS);
		const int r = leaf_set(img, first, n, zero ? ENTRY_ZERO : SLOT_HOLE, NULL);
		if (r < 0)
			return r;
		first += n;
	}
	return 0;
}

int overlay_punch(struct image *img, uint64_t off, uint64_t len, bool zero)
{
	struct store *s = img->store;
	const unsigned g = atomic_load(&s->txg_open) & 1;
	const uint64_t end = off + len;

	ASSERT(off <= IMAGE_SIZE_MAX && len <= IMAGE_SIZE_MAX - off);
	image_mark_dirty(img, g);
	atomic_fetch_add_explicit(&s->groups[g].bytes, 1, memory_order_relaxed);
	const uint64_t c0 = DIV_UP(off, CHUNK_SIZE), c1 = end / CHUNK_SIZE;
	if (c0 > c1) /* inside one chunk */
		return write_leaves(img, off, NULL, len);
	const uint64_t l0 = DIV_UP(c0, LEAF_CHUNKS), l1 = c1 / LEAF_CHUNKS;
	int r = write_leaves(img, off, NULL, c0 * CHUNK_SIZE - off);
	if (r == 0)
		r = write_leaves(img, c1 * CHUNK_SIZE, NULL, end - c1 * CHUNK_SIZE);
	if (r < 0)
		return r;
	if (l0 >= l1)
		return punch_chunks(img, c0, c1, zero);
	r = punch_chunks(img, c0, l0 * LEAF_CHUNKS, zero);
	if (r == 0)
		r = punch_leaves(img, g, l0, l1, zero);
	if (r == 0)
		r = punch_chunks(img, l1 * LEAF_CHUNKS, c1, zero);
	return r;
}

int store_punch(struct image *img, uint64_t off, uint64_t len, bool zero)
{
	const int r = image_refused(img);
	return r < 0 ? r : overlay_punch(img, off, len, zero);
}

int store_image_delete(struct store *s, uint64_t image)
{
	const unsigned g = atomic_load(&s->txg_open) & 1;
	struct image *img;
	int r = image & SNAPSHOT_BIT ? -EROFS : store_image_open(s, image, &img);

	if (r < 0)
		return r;
	image_mark_dirty(img, g);
	r = parked_drop(s, image);
	if (r == 0)
		r = punch_leaves(img, g, 0, IMAGE_CHUNKS_MAX / LEAF_CHUNKS, false);
	if (r == 0) {
		pthread_mutex_lock(&img->lock);
		img->groups[g].deleted = true;
		pthread_mutex_unlock(&img->lock);
		atomic_fetch_add(&s->groups[g].n_deleted, 1);
	}
	store_image_close(img);
	return r;
}

/* Does the entry refer to a segment of this crypto domain?  *known: the one asked about last. */
static bool share_allowed(struct store *s, uint64_t entry, uint32_t domain, uint64_t *known)
{
	const uint64_t segment = loc_segment(entry_loc(entry));
	uint32_t of = 0;

	if (segment == *known)
		return true;
	/* Of a segment that is lost, the chunk is lost on both sides. */
	if (segments_domain(s->segments, segment, &of) == 0 && of != domain)
		return false;
	*known = segment;
	return true;
}

/*
 * One chunk to share, as a slot for the destination.  The buffer, if it is one, gains a reference.
 */
static int share_slot(struct store *s, struct ov_view *v, uint64_t entry, uint32_t domain,
        uint64_t *known, uint64_t *ret_slot)
{
	if (v->top) {
		if (v->top->valid)
			return -EAGAIN;
		*ret_slot = (uintptr_t)v->top;
		v->top = NULL; /* its reference moves to the slot */
		return 0;
	}
	if (v->rest == SLOT_ABSENT)
		v->rest = entry_state(entry) == ENTRY_HOLE ? SLOT_HOLE : entry;
	if (slot_is_ref(v->rest)) {
		/* A chunk that is on its way to the image's domain is copied, not shared. */
		if (!share_allowed(s, v->rest, domain, known))
			return -EAGAIN;
		gc_mark_entry(s, v->rest);
	}
	*ret_slot = v->rest;
	return 0;
}

/* Shares up to n chunks, all within one leaf on either side; *ret_n were shared. */
static int share_run(struct image *src, uint64_t from, struct image *dst, uint64_t to, unsigned n,
        unsigned *ret_n)
{
	struct store *s = src->store;
	struct ov_view views[LEAF_CHUNKS];
	uint64_t entries[LEAF_CHUNKS], slots[LEAF_CHUNKS] = {0}, known = 0;
	const uint32_t domain = image_policy(dst).domain;
	unsigned done = 0;

	overlay_view(src, from, n, views);
	int r = map_get(src->map, from, n, entries);
	for (; r == 0 && done < n; done++) {
		r = share_slot(s, &views[done], entries[done], domain, &known, &slots[done]);
		if (r < 0)
			break;
	}
	if (r == -EAGAIN && done > 0)
		r = 0; /* as far as it goes */
	if (r == 0)
		r = leaf_set(dst, to, done, 0, slots);
	for (unsigned i = 0; r < 0 && i < done; i++)
		slot_drop(s, &slots[i]);
	for (unsigned i = 0; i < n; i++)
		ov_view_release(s, &views[i]);
	*ret_n = r == 0 ? done : 0;
	return r;
}

int overlay_set(struct image *img, uint64_t chunk, uint64_t entry)
{
	const unsigned g = atomic_load(&img->store->txg_open) & 1;

	image_mark_dirty(img, g);
	return leaf_set(img, chunk, 1, entry, NULL);
}

int store_share(struct image *src, uint64_t src_off, struct image *dst, uint64_t dst_off,
        uint64_t len, uint64_t *ret_len)
{
	const uint64_t from = src_off / CHUNK_SIZE, to = dst_off / CHUNK_SIZE, n = len / CHUNK_SIZE;
	struct store *s = dst->store;
	const unsigned g = atomic_load(&s->txg_open) & 1;
	uint64_t done = 0;
	int r = image_locked(src) ? -ENOKEY : image_refused(dst);

	ASSERT(src_off % CHUNK_SIZE == 0 && dst_off % CHUNK_SIZE == 0 && len % CHUNK_SIZE == 0);
	if (image_policy(src).domain != image_policy(dst).domain)
		return -EXDEV;
	if (r < 0)
		return r;
	image_mark_dirty(dst, g);
	atomic_fetch_add_explicit(&s->groups[g].bytes, n, memory_order_relaxed);
	while (done < n) {
		const uint64_t left = MIN(LEAF_CHUNKS - (from + done) % LEAF_CHUNKS,
		        LEAF_CHUNKS - (to + done) % LEAF_CHUNKS);
		unsigned shared;
		r = share_run(
		        src, from + done, dst, to + done, (unsigned)MIN(n - done, left), &shared);
		if (r < 0)
			break;
		done += shared;
	}
	if (r < 0 && done == 0)
		return r;
	*ret_len = done * CHUNK_SIZE;
	return 0;
}

/* Folds the frozen group's word on a chunk into a view whose top is missing or partly valid. */
static void view_under(struct ov_view *v, uint64_t slot, const struct punch *punch)
{
	if (slot_is_buf(slot)) {
		struct buf *b = slot_buf(slot);
		buf_ref(b);
		if (v->top)
			v->under = b;
		else
			v->top = b;
		v->rest = b->valid ? b->base : SLOT_HOLE;
	} else if (slot != SLOT_ABSENT) {
		v->rest = slot;
	} else if (punch) {
		v->rest = punch->zero ? ENTRY_ZERO : SLOT_HOLE;
	}
}

static void view_chunk(struct ov_view *v, uint64_t slot, const struct punch *punch, uint64_t under,
        const struct punch *under_punch)
{
	*v = (struct ov_view){.rest = SLOT_ABSENT};
	if (slot_is_buf(slot)) {
		v->top = slot_buf(slot);
		buf_ref(v->top);
		if (!v->top->valid)
			v->rest = SLOT_HOLE;
		else if (v->top->base)
			v->rest = v->top->base;
		else
			view_under(v, under, under_punch);
	} else if (slot != SLOT_ABSENT) {
		v->rest = slot;
	} else if (punch) {
		v->rest = punch->zero ? ENTRY_ZERO : SLOT_HOLE;
	} else {
		view_under(v, under, under_punch);
	}
}

void overlay_view(struct image *img, uint64_t first, unsigned n, struct ov_view *ret_views)
{
	struct store *s = img->store;
	const uint64_t index = first >> LEAF_SHIFT;
	const unsigned bucket = bucket_of(img, index);
	const struct punch *pa = NULL, *pf = NULL;
	struct punch copy_a, copy_f;

	pthread_mutex_lock(shard_of(s, bucket));
	const unsigned g = atomic_load_explicit(&s->txg_open, memory_order_acquire) & 1;
	const struct ov_leaf *la = leaf_find(&s->groups[g], bucket, img, index);
	const struct ov_leaf *lf = leaf_find(&s->groups[!g], bucket, img, index);
	leaf_punched(img, g, index, &pa, &copy_a);
	leaf_punched(img, !g, index, &pf, &copy_f);
	for (unsigned k = 0; k < n; k++) {
		const unsigned i = (unsigned)(first + k) % LEAF_CHUNKS;
		view_chunk(&ret_views[k], la ? la->slots[i] : SLOT_ABSENT, pa,
		        lf ? lf->slots[i] : SLOT_ABSENT, pf);
	}
	pthread_mutex_unlock(shard_of(s, bucket));
}

void ov_view_release(struct store *s, struct ov_view *v)
{
	if (v->top)
		bufpool_put(s->bufs, v->top);
	if (v->under)
		bufpool_put(s->bufs, v->under);
	v->top = v->under = NULL;
}

static void leaf_free(struct store *s, struct ov_leaf *l)
{
	for (unsigned i = 0; i < LEAF_CHUNKS; i++)
		slot_drop(s, &l->slots[i]);
	free(l->entries);
	free(l);
}

/* Takes the image's part of a group out of the readers' sight; returns its leaves. */
static struct ov_leaf *image_release(struct image *img, unsigned g)
{
	struct image_group *ig = &img->groups[g];

	pthread_mutex_lock(&img->lock);
	struct ov_leaf *l = ig->leaves;
	leaves_forget(ig);
	punches_clear(&ig->punches);
	atomic_store_explicit(&ig->n_punches, 0, memory_order_release);
	atomic_store_explicit(&ig->unlogged_bytes, 0, memory_order_relaxed);
	ig->deleted = ig->deleted_logged = false;
	pthread_mutex_unlock(&img->lock);
	return l;
}

static void leaf_unhash(struct store *s, struct group *grp, struct ov_leaf *l)
{
	const unsigned bucket = bucket_of(l->image, l->index);

	pthread_mutex_lock(shard_of(s, bucket));
	struct ov_leaf **at = &grp->buckets[bucket];
	while (*at != l)
		at = &(*at)->hash_next;
	*at = l->hash_next;
	pthread_mutex_unlock(shard_of(s, bucket));
}

void overlay_release(struct store *s, unsigned g)
{
	struct group *grp = &s->groups[g];

	pthread_mutex_lock(&s->images_lock);
	struct image *img = grp->dirty;
	grp->dirty = NULL;
	pthread_mutex_unlock(&s->images_lock);
	while (img) {
		struct image *next = img->groups[g].dirty_next;
		struct ov_leaf *l = image_release(img, g);
		while (l) {
			struct ov_leaf *l_next = l->image_next;
			leaf_unhash(s, grp, l);
			leaf_free(s, l);
			l = l_next;
		}
		pthread_mutex_lock(&s->images_lock);
		__atomic_store_n(&img->groups[g].dirty, false, __ATOMIC_RELEASE);
		pthread_mutex_unlock(&s->images_lock);
		store_image_close(img);
		img = next;
	}
	pthread_mutex_lock(&s->rows_lock);
	bytes_release(&grp->rows);
	grp->rows_logged = 0;
	pthread_mutex_unlock(&s->rows_lock);
	atomic_store(&grp->n_leaves, 0);
	atomic_store(&grp->n_deleted, 0);
	atomic_store(&grp->bytes, 0);
}

int overlay_init(struct store *s)
{
	for (unsigned i = 0; i < OVERLAY_SHARDS; i++)
		pthread_mutex_init(&s->shards[i], NULL);
	for (unsigned g = 0; g < 2; g++) {
		s->groups[g].rows_commit_only = SIZE_MAX;
		s->groups[g].buckets = calloc(OVERLAY_BUCKETS, sizeof(*s->groups[g].buckets));
		if (!s->groups[g].buckets)
			return -ENOMEM;
	}
	return 0;
}

void overlay_free(struct store *s)
{
	for (unsigned g = 0; g < 2; g++) {
		if (s->groups[g].buckets)
			overlay_release(s, g);
		free(s->groups[g].buckets);
	}
}

/*
 * read.c - from an image's bytes to where they are
 *
 * A read looks at the overlay, then the map, then the chunk cache; what is still missing is read
 * from segments, all of it in one call, and cached.  Nothing is copied where it can be handed out
 * in place: whole dirty buffers and cache entries are pinned until readv_release(), holes point to
 * a page of zeros.  Only a partly written chunk is put together in memory of its own.
 *
 * An entry read from the map may be out of date by the time its segment is read (the collector
 * dropped it, after the chunk had been overwritten and committed): -ESTALE, and the read starts
 * again from the overlay.  The same entry failing so twice is damage.
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "store/store-priv.h"

#define READ_CHUNKS_MAX (READ_MAX / CHUNK_SIZE + 1)
#define READ_RETRIES    64

static _Alignas(CHUNK_SIZE) const uint8_t zeros[READ_MAX];

/* Where one chunk of the read is, once found: exactly one of these, or zeros. */
struct pin {
	struct buf *buf;
	struct cache_ref ref;
	uint8_t *own; /* malloc'ed */
	bool cached;
};

struct read_ctx {
	struct read_ctx *next_free;
	struct store *store;
	unsigned n;
	size_t skip; /* where in the first chunk the read begins */
	struct pin pins[READ_CHUNKS_MAX];
	struct iovec iov[READ_CHUNKS_MAX];
	/* while reading */
	uint64_t entries[READ_CHUNKS_MAX];
	struct ov_view views[READ_CHUNKS_MAX];
	uint64_t missing[READ_CHUNKS_MAX]; /* locations, sorted, distinct */
	unsigned n_missing;
	unsigned
	        failed; /* of a failed read: the first chunk whose segment could not give it; n: none */
};

static struct read_ctx *ctx_get(struct store *s)
{
	pthread_mutex_lock(&s->read_lock);
	struct read_ctx *c = s->read_free;
	if (c)
		s->read_free = c->next_free;
	pthread_mutex_unlock(&s->read_lock);
	if (!c)
		c = malloc(sizeof(*c));
	if (c) {
		c->store = s;
		c->n = c->n_missing = 0;
	}
	return c;
}

static void pin_release(struct store *s, struct pin *p)
{
	if (p->buf)
		bufpool_put(s->bufs, p->buf);
	if (p->cached)
		cache_release(s->cache, &p->ref);
	free(p->own);
	p->buf = NULL;
	p->own = NULL;
	p->cached = false;
}

static void ctx_put(struct read_ctx *c)
{
	struct store *s = c->store;

	for (unsigned i = 0; i < c->n; i++)
		pin_release(s, &c->pins[i]);
	pthread_mutex_lock(&s->read_lock);
	c->next_free = s->read_free;
	s->read_free = c;
	pthread_mutex_unlock(&s->read_lock);
}

void read_ctx_free_all(struct store *s)
{
	while (s->read_free) {
		struct read_ctx *c = s->read_free;
		s->read_free = c->next_free;
		free(c);
	}
}

static const uint8_t *pin_data(const struct pin *p)
{
	if (p->buf)
		return p->buf->data;
	if (p->cached)
		return p->ref.data;
	return p->own ? p->own : zeros;
}

/* Fetches one entry from the cache into the pin; false: it must be read. */
static bool entry_cached(struct store *s, uint64_t entry, struct pin *pin)
{
	if (entry_state(entry) != ENTRY_DATA)
		return true;
	pin->cached = cache_get(s->cache, entry_loc(entry), &pin->ref);
	return pin->cached;
}

static int loc_order(const void *a, const void *b)
{
	const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return x < y ? -1 : x > y;
}

/* What segments_read is to deliver, and to whom. */
struct fetch {
	struct read_ctx *c;
	int error;
};

static void fetch_chunk(struct fetch *f, uint64_t loc, const uint8_t *data, struct hash128 hash)
{
	struct read_ctx *c = f->c;
	struct store *s = c->store;

	for (unsigned i = 0; i < c->n; i++) {
		struct pin *p = &c->pins[i];
		if (entry_state(c->entries[i]) != ENTRY_DATA || entry_loc(c->entries[i]) != loc ||
		        p->cached || p->own)
			continue;
		if (entry_check(c->entries[i]) != hash_check(hash)) {
			log_error("map entry %016llx does not match chunk %llu:%u",
			        (unsigned long long)c->entries[i],
			        (unsigned long long)loc_segment(loc), loc_slot(loc));
			f->error = -EIO;
			continue;
		}
		p->cached = cache_insert(s->cache, loc, data, &p->ref);
		if (p->cached)
			continue;
		p->own = malloc(CHUNK_SIZE);
		if (p->own)
			memcpy(p->own, data, CHUNK_SIZE);
		else
			f->error = -ENOMEM;
	}
}

static void fetch_frame(
        void *arg, uint64_t loc, unsigned n, const uint8_t *chunks, const struct hash128 *hashes)
{
	struct fetch *f = arg;
	struct read_ctx *c = f->c;

	for (unsigned i = 0; i < n; i++) {
		const uint64_t at = loc + i;
		if (bsearch(&at, c->missing, c->n_missing, sizeof(at), loc_order))
			fetch_chunk(f, at, chunks + (size_t)i * CHUNK_SIZE, hashes[i]);
		else
			cache_insert(c->store->cache, at, chunks + (size_t)i * CHUNK_SIZE, NULL);
	}
}

/* Reads what the cache does not have of c->entries. */
static int ctx_fetch(struct read_ctx *c)
{
	struct store *s = c->store;

	c->n_missing = 0;
	for (unsigned i = 0; i < c->n; i++)
		if (!entry_cached(s, c->entries[i], &c->pins[i]))
			c->missing[c->n_missing++] = entry_loc(c->entries[i]);
	if (c->n_missing == 0)
		return 0;
	qsort(c->missing, c->n_missing, sizeof(*c->missing), loc_order);
	unsigned n = 1;
	for (unsigned i = 1; i < c->n_missing; i++)
		if (c->missing[i] != c->missing[n - 1])
			c->missing[n++] = c->missing[i];
	c->n_missing = n;
	struct fetch f = {.c = c};
	const int r = segments_read(s->segments, c->missing, n, fetch_frame, &f);
	return r < 0 ? r : f.error;
}

/*
 * c->views and c->entries say where each chunk's bytes are; leaves entries of what is to be
 * fetched.
 */
static int ctx_resolve(struct read_ctx *c, struct image *img, uint64_t first)
{
	unsigned done = 0;

	while (done < c->n) {
		const uint64_t chunk = first + done;
		const unsigned n = MIN(c->n - done, LEAF_CHUNKS - (unsigned)(chunk % LEAF_CHUNKS));
		bool need_map = false;
		overlay_view(img, chunk, n, &c->views[done]);
		for (unsigned i = done; i < done + n; i++)
			need_map |= c->views[i].rest == SLOT_ABSENT;
		if (need_map) {
			const int r = map_get(img->map, chunk, n, &c->entries[done]);
			if (r < 0) {
				c->n = done + n; /* so many views are valid */
				return r;
			}
		}
		for (unsigned i = done; i < done + n; i++)
			if (c->views[i].rest != SLOT_ABSENT)
				c->entries[i] = c->views[i].rest == SLOT_HOLE ? ENTRY_HOLE
				                                              : c->views[i].rest;
		done += n;
	}
	return 0;
}

/* Lays the dirty bytes of view i over what was fetched. */
static int ctx_merge(struct read_ctx *c, unsigned i)
{
	struct ov_view *v = &c->views[i];
	struct pin *p = &c->pins[i];

	if (!v->top)
		return 0;
	if (!v->top->valid) {
		p->buf = STEAL(v->top); /* its reference moves to the pin */
		return 0;
	}
	uint8_t *own = malloc(CHUNK_SIZE);
	if (!own)
		return -ENOMEM;
	memcpy(own, pin_data(p), CHUNK_SIZE);
	pin_release(c->store, p);
	p->own = own;
	if (v->under)
		buf_overlay(v->under, own);
	buf_overlay(v->top, own);
	return 0;
}

/* The first chunk that the failed fetch did not bring. */
static unsigned ctx_failed(const struct read_ctx *c)
{
	unsigned i = 0;

	while (i < c->n &&
	        (entry_state(c->entries[i]) != ENTRY_DATA || c->pins[i].cached || c->pins[i].own))
		i++;
	return i;
}

static int ctx_read_once(struct read_ctx *c, struct image *img, uint64_t first, unsigned n)
{
	c->n = n;
	memset(c->pins, 0, n * sizeof(*c->pins));
	memset(c->views, 0, n * sizeof(*c->views));
	int r = ctx_resolve(c, img, first);
	c->failed = n;
	if (r == 0) {
		r = ctx_fetch(c);
		if (r < 0)
			c->failed = ctx_failed(c);
	}
	for (unsigned i = 0; r == 0 && i < c->n; i++)
		r = ctx_merge(c, i);
	for (unsigned i = 0; i < c->n; i++) {
		ov_view_release(c->store, &c->views[i]);
		if (r < 0)
			pin_release(c->store, &c->pins[i]);
	}
	return r;
}

static int ctx_read(struct read_ctx *c, struct image *img, uint64_t first, unsigned n)
{
	uint64_t before = 0;
	int r = -ESTALE;

	for (unsigned tries = 0; r == -ESTALE && tries < READ_RETRIES; tries++) {
		r = ctx_read_once(c, img, first, n);
		if (r != -ESTALE)
			break;
		/* Nothing moved since the last try: the map points to what is not there. */
		if (tries > 2 && c->n_missing && before == c->missing[0])
			break;
		before = c->n_missing ? c->missing[0] : 0;
	}
	return r == -ESTALE || r == -EUCLEAN ? -EIO : r;
}

static void ctx_iov(struct read_ctx *c, uint64_t off, size_t len, struct readv *rv)
{
	size_t in = off % CHUNK_SIZE;
	int n_iov = 0;

	for (unsigned i = 0; i < c->n; i++) {
		const size_t n = MIN(len, CHUNK_SIZE - in);
		uint8_t *at = (uint8_t *)pin_data(&c->pins[i]) + in;
		struct iovec *last = n_iov ? &c->iov[n_iov - 1] : NULL;
		if (last && (uint8_t *)last->iov_base + last->iov_len == at) {
			last->iov_len += n;
		} else if (last && at == zeros && last->iov_base >= (void *)zeros &&
		           (uint8_t *)last->iov_base + last->iov_len + n <= zeros + READ_MAX &&
		           (const uint8_t *)last->iov_base < zeros + READ_MAX) {
			last->iov_len += n; /* a longer run of the same zeros */
		} else {
			c->iov[n_iov++] = (struct iovec){at, n};
		}
		len -= n;
		in = 0;
	}
	rv->iov = c->iov;
	rv->n_iov = n_iov;
}

/* Says where a read of n chunks failed. */
static void read_failed(
        const struct read_ctx *c, const struct image *img, uint64_t first, unsigned n)
{
	struct store *s = img->store;
	const unsigned long long image = img->id;

	atomic_fetch_add_explicit(&s->count.damaged_reads, 1, memory_order_relaxed);
	if (c->failed < n) {
		const uint64_t loc = entry_loc(c->entries[c->failed]);
		health_set(s, HEALTH_DAMAGE,
		        "cannot read image %llu at %llu: segment %llu slot %u is damaged or "
		        "unreadable; 'weir check --data' tells what is lost",
		        image, (unsigned long long)(first + c->failed) * CHUNK_SIZE,
		        (unsigned long long)loc_segment(loc), loc_slot(loc));
	} else {
		health_set(s, HEALTH_DAMAGE,
		        "cannot read image %llu at %llu, %u chunks: its map is damaged or "
		        "unreadable; 'weir check' tells what is lost",
		        image, (unsigned long long)first * CHUNK_SIZE, n);
	}
}

/* --- what a readv of ours can do --- */

static void rv_release(struct readv *rv)
{
	ctx_put(rv->priv);
}

static void rv_pin_release(struct readv_pin *pin)
{
	struct store *s = pin->priv[0];
	struct cache_ref ref = {
	        pin->data - (uintptr_t)pin->data % CHUNK_SIZE, (uint64_t)(uintptr_t)pin->priv[1]};

	cache_release(s->cache, &ref);
}

/* The bytes lie in one chunk; of a vector that begins in the middle of one, the first is shorter. */
static int rv_pin(const struct readv *rv, size_t off, size_t len, struct readv_pin *ret_pin)
{
	struct read_ctx *c = rv->priv;
	const size_t at = c->skip + off;
	const struct pin *p = &c->pins[at / CHUNK_SIZE];

	if (at / CHUNK_SIZE >= c->n || at % CHUNK_SIZE + len > CHUNK_SIZE || !p->cached)
		return -EOPNOTSUPP;
	const struct cache_ref ref = cache_ref_again(c->store->cache, &p->ref);
	*ret_pin = (struct readv_pin){
	        .data = ref.data + at % CHUNK_SIZE,
	        .release = rv_pin_release,
	        .priv = {c->store, (void *)(uintptr_t)ref.slot},
	};
	return 0;
}

static const struct readv_ops rv_ops = {rv_release, rv_pin};

int store_readv(struct image *img, uint64_t off, size_t len, struct readv *ret_rv)
{
	struct store *s = img->store;

	ASSERT(len <= READ_MAX && off <= IMAGE_SIZE_MAX && len <= IMAGE_SIZE_MAX - off);
	if (image_locked(img))
		return -ENOKEY;
	struct read_ctx *c = ctx_get(s);
	if (!c)
		return -ENOMEM;
	const uint64_t first = off / CHUNK_SIZE;
	const unsigned n = len ? (unsigned)((off + len - 1) / CHUNK_SIZE - first + 1) : 0;
	const int r = n ? ctx_read(c, img, first, n) : 0;
	if (r < 0) {
		if (r == -EIO)
			read_failed(c, img, first, n);
		c->n = 0;
		ctx_put(c);
		return r;
	}
	ctx_iov(c, off, len, ret_rv);
	ret_rv->len = len;
	ret_rv->priv = c;
	ret_rv->ops = &rv_ops;
	c->skip = off % CHUNK_SIZE;
	atomic_fetch_add_explicit(&s->count.read_bytes, len, memory_order_relaxed);
	readahead_note(img, off, len, c->n_missing > 0);
	return 0;
}

void read_prefetch(struct image *img, uint64_t off, size_t len)
{
	struct read_ctx *c = ctx_get(img->store);

	if (!c)
		return;
	if (ctx_read(c, img, off / CHUNK_SIZE, (unsigned)(len / CHUNK_SIZE)) < 0)
		c->n = 0;
	ctx_put(c);
}

void store_prefetch(struct image *img, uint64_t off, uint64_t len)
{
	const uint64_t first = off - off % CHUNK_SIZE;

	if (off < IMAGE_SIZE_MAX && len > 0)
		readahead_want(img, first, MIN(len + (off - first), IMAGE_SIZE_MAX - first));
}

int store_read(struct image *img, uint64_t off, void *buf, size_t len)
{
	uint8_t *at = buf;

	while (len > 0) {
		const size_t n = MIN(len, READ_MAX);
		struct readv rv;
		const int r = store_readv(img, off, n, &rv);
		if (r < 0)
			return r;
		for (int i = 0; i < rv.n_iov; i++) {
			memcpy(at, rv.iov[i].iov_base, rv.iov[i].iov_len);
			at += rv.iov[i].iov_len;
		}
		readv_release(&rv);
		off += n;
		len -= n;
	}
	return 0;
}

struct entry_fetch {
	struct store *store;
	uint64_t loc;
	unsigned check;
	uint8_t *dst;
	int result;
};

static void entry_frame(
        void *arg, uint64_t loc, unsigned n, const uint8_t *chunks, const struct hash128 *hashes)
{
	struct entry_fetch *f = arg;

	for (unsigned i = 0; i < n; i++) {
		const uint8_t *data = chunks + (size_t)i * CHUNK_SIZE;
		cache_insert(f->store->cache, loc + i, data, NULL);
		if (loc + i != f->loc)
			continue;
		f->result = hash_check(hashes[i]) == f->check ? 0 : -EUCLEAN;
		memcpy(f->dst, data, CHUNK_SIZE);
	}
}

int entry_read(struct store *s, uint64_t entry, uint8_t *ret_chunk)
{
	if (entry_state(entry) != ENTRY_DATA) {
		memset(ret_chunk, 0, CHUNK_SIZE);
		return 0;
	}
	struct cache_ref ref;
	const uint64_t loc = entry_loc(entry);
	if (cache_get(s->cache, loc, &ref)) {
		memcpy(ret_chunk, ref.data, CHUNK_SIZE);
		cache_release(s->cache, &ref);
		return 0;
	}
	struct entry_fetch f = {s, loc, entry_check(entry), ret_chunk, -EUCLEAN};
	const int r = segments_read(s->segments, &loc, 1, entry_frame, &f);
	return r < 0 ? r : f.result;
}

/* --- where data and holes are --- */

/* States of one leaf's chunks: true where there is data (or allocated zeros). */
static int leaf_states(struct image *img, uint64_t leaf, bool ret_data[LEAF_CHUNKS])
{
	struct ov_view views[LEAF_CHUNKS];
	uint64_t entries[LEAF_CHUNKS];

	overlay_view(img, leaf * LEAF_CHUNKS, LEAF_CHUNKS, views);
	const int r = map_get(img->map, leaf * LEAF_CHUNKS, LEAF_CHUNKS, entries);
	for (unsigned i = 0; i < LEAF_CHUNKS; i++) {
		const struct ov_view *v = &views[i];
		if (v->top)
			ret_data[i] = true;
		else if (v->rest != SLOT_ABSENT)
			ret_data[i] = v->rest != SLOT_HOLE;
		else
			ret_data[i] = r == 0 && entry_state(entries[i]) != ENTRY_HOLE;
		ov_view_release(img->store, &views[i]);
	}
	return r;
}

/*
 * The first leaf >= leaf that may hold what is looked for.  The overlay is asked first: what it
 * does not have any more by then, the map has.
 */
static int seek_leaf(struct image *img, uint64_t leaf, bool hole, uint64_t *ret_leaf)
{
	const uint64_t from = overlay_skip_punched(img, leaf, hole);
	const uint64_t dirty = overlay_next_leaf(img, from, hole);
	uint64_t chunk = IMAGE_CHUNKS_MAX;
	const int r = from < IMAGE_CHUNKS_MAX / LEAF_CHUNKS
	                      ? map_next(img->map, from * LEAF_CHUNKS, hole, &chunk)
	                      : 0;

	if (r < 0)
		return r;
	*ret_leaf = MIN(chunk / LEAF_CHUNKS, dirty);
	return 0;
}

int store_seek(struct image *img, uint64_t off, bool hole, uint64_t *ret_off)
{
	uint64_t chunk = off / CHUNK_SIZE, leaf = chunk / LEAF_CHUNKS;
	bool data[LEAF_CHUNKS];
	int r;

	if (image_locked(img))
		return -ENOKEY;
	if (overlay_clean(img)) {
		uint64_t found;
		r = map_next(img->map, chunk, hole, &found);
		if (r == 0)
			*ret_off = MAX(found * CHUNK_SIZE, off);
		return r;
	}
	for (; leaf < IMAGE_CHUNKS_MAX / LEAF_CHUNKS; leaf++) {
		r = seek_leaf(img, leaf, hole, &leaf);
		if (r < 0)
			return r;
		if (leaf >= IMAGE_CHUNKS_MAX / LEAF_CHUNKS)
			break;
		r = leaf_states(img, leaf, data);
		if (r < 0)
			return r;
		for (unsigned i = 0; i < LEAF_CHUNKS; i++) {
			const uint64_t c = leaf * LEAF_CHUNKS + i;
			if (c < chunk || data[i] == hole)
				continue;
			*ret_off = MAX(c * CHUNK_SIZE, off);
			return 0;
		}
	}
	*ret_off = IMAGE_SIZE_MAX;
	return 0;
}

/* Leaves that store_allocated looks at; with more of them dirty, its number is not exact. */
#define ALLOCATED_LEAVES_MAX 256

/* The next leaf >= leaf in which the overlay may change how many chunks are allocated. */
static int next_changed_leaf(struct image *img, uint64_t leaf, uint64_t *ret_leaf)
{
	const uint64_t with_slots = overlay_next_leaf(img, leaf, false);
	const uint64_t punched = overlay_next_leaf(img, leaf, true);
	uint64_t chunk;

	if (punched >= with_slots) {
		*ret_leaf = with_slots;
		return 0;
	}
	/* Where the map has nothing, a punched range changes nothing. */
	const int r = map_next(img->map, punched * LEAF_CHUNKS, false, &chunk);
	if (r < 0)
		return r;
	const uint64_t mapped = chunk / LEAF_CHUNKS;
	*ret_leaf =
	        MIN(with_slots, mapped == punched ? punched : overlay_next_leaf(img, mapped, true));
	return 0;
}

static int leaf_allocated_change(struct image *img, uint64_t leaf, int64_t *n)
{
	bool data[LEAF_CHUNKS];
	uint64_t entries[LEAF_CHUNKS];
	int r = leaf_states(img, leaf, data);

	if (r == 0)
		r = map_get(img->map, leaf * LEAF_CHUNKS, LEAF_CHUNKS, entries);
	for (unsigned i = 0; r == 0 && i < LEAF_CHUNKS; i++)
		*n += (int)data[i] - (entry_state(entries[i]) != ENTRY_HOLE);
	return r;
}

int store_allocated(struct image *img, uint64_t *ret_chunks)
{
	struct image_row row;
	uint64_t leaf = 0;
	bool whole = image_locked(img);

	map_row(img->map, &row);
	int64_t n = (int64_t)(row.data_chunks + row.zero_chunks);
	/* Locked: nothing of it is in the overlay but a deletion, or what was parked, on its way. */
	for (unsigned i = 0; !whole; i++, leaf++) {
		int r = next_changed_leaf(img, leaf, &leaf);
		if (r < 0)
			return r;
		whole = leaf >= IMAGE_CHUNKS_MAX / LEAF_CHUNKS;
		if (whole || i == ALLOCATED_LEAVES_MAX)
			break;
		r = leaf_allocated_change(img, leaf, &n);
		if (r < 0)
			return r;
	}
	*ret_chunks = n < 0 ? 0 : (uint64_t)n;
	return whole ? 0 : 1;
}

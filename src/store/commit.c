/*
 * commit.c - a frozen group's chunks into segments: zeros, duplicates, frames, compression
 *
 * The txg thread hands over the group's leaves, sorted by image and offset; it and the pool's
 * workers take them one at a time.  A leaf is worked through by windows of WINDOW_CHUNKS: what is
 * not zero and not a duplicate is gathered and compressed together as one frame, so that a read
 * finds neighbours together.  The outcome, a map entry a chunk, goes to leaf->entries; the txg
 * thread puts it into the maps afterwards.
 *
 * Frozen leaves are constant, so workers read them without locks.  Compression is the dominant
 * cost, and it runs on all workers; appending (segments.c) takes a short lock.
 *
 * How that is done is the image's policy: its crypto domain (whose keys make the hashes, within
 * which duplicates are looked for, and under whose key frames are sealed), how hard to compress, and
 * whether to look for duplicates at all.  What the steps cost is added up for each image: clock
 * readings a frame and a leaf, none a chunk.
 *
 * A duplicate is only shared after its bytes were compared, with the candidate's own checksum
 * verified (it comes from the cache, where only verified content is, or from segments_read).  A
 * candidate that turns out damaged is not shared: the new data is stored, and offered to the
 * collector to heal the old place with.  An image that wants it verified has each candidate read from
 * the backing, whatever the cache holds.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "store/frame.h"
#include "store/store-priv.h"

#define WORKERS_MAX 16

/* After so many frames in a row that did not compress, only one in RAW_PROBE is tried. */
#define RAW_STREAK 16
#define RAW_PROBE  8

/* The CPU clock takes a quarter of a microsecond: a leaf must be worth it. */
#define LARGE_CHUNKS 8

/* A likely duplicate that has to be read to be compared. */
struct want {
	uint64_t loc;
	unsigned index; /* in the leaf */
	const uint8_t *data;
};

struct worker {
	struct store *store;
	pthread_t thread;
	unsigned raw_streak;
	struct frame_packer *packer; /* made when a policy first asks for it */
	/* The leaf's image's. */
	struct image_policy policy;
	const struct crypto_domain *crypto; /* referenced while a leaf is under way */
	struct policy_cost cost;            /* of this leaf */
	bool large;                         /* it has LARGE_CHUNKS or more to store */
	/* The window under way. */
	unsigned n;
	unsigned index[WINDOW_CHUNKS]; /* in the leaf */
	struct hash128 hashes[WINDOW_CHUNKS];
	uint8_t *gather; /* WINDOW_CHUNKS chunks */
	uint8_t *packed; /* room for the same */
	uint8_t *filled; /* one chunk, for partial writes */
	/* The leaf under way: what its whole chunks hold, and where that may be stored already. */
	struct hash128 leaf_hashes[LEAF_CHUNKS];
	uint64_t leaf_locs[LEAF_CHUNKS][DEDUPE_CANDIDATES];
	uint8_t leaf_n_locs[LEAF_CHUNKS];
	bool leaf_whole[LEAF_CHUNKS];     /* wholly written, and not zero */
	uint64_t leaf_match[LEAF_CHUNKS]; /* that one holds the same bytes; 0: not known */
	struct want wanted[LEAF_CHUNKS];  /* first candidates that the cache does not have */
	unsigned n_wanted;
};

struct commit_pool {
	pthread_mutex_t lock;
	pthread_cond_t start, finish;
	uint64_t round;     /* lock: bumped when there is work */
	unsigned running;   /* lock: workers in this round */
	bool stop;          /* lock */
	unsigned n_workers; /* threads; workers[n_workers] is the caller's */
	struct worker workers[WORKERS_MAX + 1];
	/* This round's work. */
	uint64_t txg;
	struct ov_leaf **leaves;
	size_t n_leaves;
	_Atomic size_t next;
	_Atomic int error;
};

/* --- duplicates --- */

struct compare {
	struct store *store;
	uint64_t loc;
	const uint8_t *data;
	bool fill; /* the cache with what is read */
	bool equal, seen;
};

static void compare_frame(
        void *arg, uint64_t loc, unsigned n, const uint8_t *chunks, const struct hash128 *hashes)
{
	struct compare *c = arg;

	for (unsigned i = 0; i < n; i++) {
		const uint8_t *at = chunks + (size_t)i * CHUNK_SIZE;
		if (c->fill)
			cache_insert(c->store->cache, loc + i, at, NULL);
		if (loc + i == c->loc) {
			c->seen = true;
			c->equal = memcmp(at, c->data, CHUNK_SIZE) == 0;
		}
	}
}

/* Does loc hold these bytes, and may it be shared? */
static bool candidate_matches(
        const struct worker *w, uint64_t loc, struct hash128 hash, const uint8_t *data)
{
	struct store *s = w->store;
	const bool verify = w->policy.dedupe == POLICY_DEDUPE_VERIFY;
	struct cache_ref ref;

	if (!segments_present(s->segments, loc, w->policy.domain)) {
		dedupe_remove(s->dedupe, hash, loc);
		return false;
	}
	if (!gc_may_share(s, loc))
		return false;
	if (!verify && cache_get(s->cache, loc, &ref)) {
		const bool equal = memcmp(ref.data, data, CHUNK_SIZE) == 0;
		cache_release(s->cache, &ref);
		return equal;
	}
	struct compare c = {.store = s, .loc = loc, .data = data, .fill = !verify};
	const int r = segments_read(s->segments, &loc, 1, compare_frame, &c);
	/* It stays in the index: if this copy cannot heal it, the next one may. */
	if (r == -EUCLEAN && !c.seen)
		gc_heal(s, loc, data);
	return c.equal;
}

/* A map entry that shares an existing chunk; 0 when there is none. */
static uint64_t find_duplicate(const struct worker *w, struct hash128 hash, const uint8_t *data,
        const uint64_t *locs, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (candidate_matches(w, locs[i], hash, data))
			return entry_data(locs[i], hash_check(hash));
	return 0;
}

static int want_order(const void *a, const void *b)
{
	const struct want *x = a, *y = b;

	return x->loc < y->loc ? -1 : x->loc > y->loc;
}

/* Compares what was read with the chunks of the leaf that may be the same. */
static void compare_wanted(
        void *arg, uint64_t loc, unsigned n, const uint8_t *chunks, const struct hash128 *hashes)
{
	struct worker *w = arg;
	unsigned lo = 0, hi = w->n_wanted;

	(void)hashes;
	while (lo < hi) {
		const unsigned mid = (lo + hi) / 2;
		if (w->wanted[mid].loc < loc)
			lo = mid + 1;
		else
			hi = mid;
	}
	for (; lo < w->n_wanted && w->wanted[lo].loc < loc + n; lo++) {
		const struct want *want = &w->wanted[lo];
		const uint8_t *at = chunks + (size_t)(want->loc - loc) * CHUNK_SIZE;
		if (memcmp(at, want->data, CHUNK_SIZE) == 0)
			w->leaf_match[want->index] = want->loc;
	}
}

/* Reads the likely duplicates that the cache does not have, with as few calls as they allow. */
static void leaf_compare(struct worker *w)
{
	uint64_t locs[LEAF_CHUNKS];
	unsigned n = 0;

	qsort(w->wanted, w->n_wanted, sizeof(*w->wanted), want_order);
	for (unsigned i = 0; i < w->n_wanted; i++)
		if (n == 0 || locs[n - 1] != w->wanted[i].loc)
			locs[n++] = w->wanted[i].loc;
	/* What fails here is met again, and answered, by candidate_matches(). */
	if (n > 0)
		(void)!segments_read(w->store->segments, locs, n, compare_wanted, w);
}

/* Chunks of an encrypted image that are not deduplicated: that they are equal is nobody's business. */
static bool hashes_are_random(const struct worker *w)
{
	return w->policy.domain != 0 && w->policy.dedupe == POLICY_DEDUPE_OFF;
}

/* What the leaf's whole chunks are known by; the first and the last of them. */
static int leaf_hash(struct worker *w, const struct ov_leaf *l)
{
	const bool random = hashes_are_random(w);
	unsigned first = LEAF_CHUNKS, end = 0;

	for (unsigned i = 0; i < LEAF_CHUNKS; i++) {
		const struct buf *b = slot_is_buf(l->slots[i]) ? slot_buf(l->slots[i]) : NULL;
		w->leaf_whole[i] = b && !b->valid && !chunk_is_zero(b->data);
		w->leaf_match[i] = 0;
		if (!w->leaf_whole[i])
			continue;
		first = MIN(first, i);
		end = i + 1;
		if (!random)
			w->leaf_hashes[i] = chunk_hash(&w->crypto->hasher, b->data);
	}
	if (end == 0)
		return 0;
	/* What lies between, and is not hashed, is not looked at. */
	return random ? domain_hashes_random(w->leaf_hashes + first, end - first)
	              : domain_hashes(w->crypto, w->leaf_hashes + first, end - first);
}

/*
 * Hashes the leaf's whole chunks, looks all of them up, and compares the likely duplicates that
 * have to be read.  The cache is left alone: what is stored now is seldom read again soon (guests
 * have caches of their own), and filling it took a tenth of the time of a large sequential write.
 */
static int leaf_look_up(struct worker *w, const struct ov_leaf *l)
{
	const bool dedupe = w->policy.dedupe != POLICY_DEDUPE_OFF,
	           verify = w->policy.dedupe == POLICY_DEDUPE_VERIFY;
	struct store *s = w->store;

	const int r = leaf_hash(w, l);
	if (r < 0)
		return r;
	w->n_wanted = 0;
	for (unsigned i = 0; i < LEAF_CHUNKS && dedupe; i++)
		if (w->leaf_whole[i])
			dedupe_prefetch(s->dedupe, w->leaf_hashes[i]);
	for (unsigned i = 0; i < LEAF_CHUNKS; i++) {
		w->leaf_n_locs[i] = 0;
		if (!w->leaf_whole[i] || !dedupe)
			continue;
		w->leaf_n_locs[i] =
		        (uint8_t)dedupe_lookup(s->dedupe, w->leaf_hashes[i], w->leaf_locs[i]);
		const uint64_t loc = w->leaf_locs[i][0];
		if (w->leaf_n_locs[i] > 0 && (verify || !cache_peek(s->cache, loc)) &&
		        segments_present(s->segments, loc, w->policy.domain))
			w->wanted[w->n_wanted++] =
			        (struct want){loc, i, slot_buf(l->slots[i])->data};
	}
	leaf_compare(w);
	return 0;
}

/* --- windows --- */

/* Any codec of the policy's; what comes out is in w->packed, or CODEC_RAW. */
static enum frame_codec window_compress(struct worker *w, uint32_t *ret_len)
{
	switch (w->policy.compress) {
	case POLICY_COMPRESS_OFF:
		*ret_len = w->n * CHUNK_SIZE;
		return CODEC_RAW;
	case POLICY_LZ4HC:
		return frame_pack_hard(
		        w->packer, w->policy.level, w->gather, w->n, w->packed, ret_len);
	case POLICY_COMPRESS_AUTO:
		return frame_pack_auto(w->packer, w->gather, w->n, w->packed, ret_len);
	case POLICY_LZ4:
		break;
	}
	return frame_pack(w->gather, w->n, w->packed, ret_len);
}

static void window_pack(struct worker *w, struct frame_spec *spec)
{
	const uint64_t start_ns = clock_now_ns();
	uint32_t len;

	if (w->policy.compress == POLICY_COMPRESS_OFF)
		return;
	if (w->raw_streak < RAW_STREAK || w->raw_streak % RAW_PROBE == 0) {
		spec->codec = window_compress(w, &len);
		if (spec->codec != CODEC_RAW) {
			spec->payload = w->packed;
			spec->payload_len = len;
		}
	}
	w->raw_streak = spec->codec == CODEC_RAW ? w->raw_streak + 1 : 0;
	w->cost.compress_ns += clock_now_ns() - start_ns;
	w->cost.compress_in_bytes += w->n * CHUNK_SIZE;
	w->cost.compress_out_bytes += spec->payload_len;
}

static int window_append(struct worker *w, uint64_t txg, const struct ov_leaf *l, uint64_t *ret_loc)
{
	struct store *s = w->store;
	struct frame_spec spec = {
	        .n = w->n,
	        .codec = CODEC_RAW,
	        .hashes = w->hashes,
	        .image = l->image->id,
	        .first_chunk = l->index * LEAF_CHUNKS + w->index[0],
	        .payload = w->gather,
	        .payload_len = w->n * CHUNK_SIZE,
	        .crypto = w->crypto,
	        .seal_ns = &w->cost.encrypt_ns,
	};

	window_pack(w, &spec);
	w->cost.encrypt_bytes += w->policy.domain ? spec.payload_len : 0;
	atomic_fetch_add_explicit(&s->count.chunks_new, w->n, memory_order_relaxed);
	if (spec.codec == CODEC_RAW)
		atomic_fetch_add_explicit(&s->count.chunks_raw, w->n, memory_order_relaxed);
	atomic_fetch_add_explicit(
	        &s->count.compressed_in_bytes, w->n * CHUNK_SIZE, memory_order_relaxed);
	atomic_fetch_add_explicit(
	        &s->count.compressed_out_bytes, spec.payload_len, memory_order_relaxed);
	return segments_append(s->segments, txg, &spec, ret_loc);
}

/* Stores the window's new chunks as one frame. */
static int window_store(struct worker *w, uint64_t txg, struct ov_leaf *l)
{
	struct store *s = w->store;
	uint64_t loc;

	if (w->n == 0)
		return 0;
	const int r = window_append(w, txg, l, &loc);
	if (r < 0)
		return r;
	for (unsigned k = 0; k < w->n; k++) {
		l->entries[w->index[k]] = entry_data(loc + k, hash_check(w->hashes[k]));
		if (w->policy.dedupe != POLICY_DEDUPE_OFF)
			dedupe_insert(s->dedupe, w->hashes[k], loc + k);
	}
	return 0;
}

/* The whole content of a partly written chunk, in w->filled. */
static int buf_fill(struct worker *w, const struct ov_leaf *l, unsigned i, const struct buf *b)
{
	struct image *img = l->image;
	const uint64_t chunk = l->index * LEAF_CHUNKS + i;
	uint64_t entry = b->base;
	int r = 0;

	if (!entry)
		r = map_get(img->map, chunk, 1, &entry);
	if (r == -EIO && txg_map_lost(w->store))
		r = -EUCLEAN;
	if (r == 0)
		r = entry_read(w->store, entry, w->filled);
	if (r < 0 && r != -EUCLEAN && r != -ESTALE && !txg_impatient(w->store))
		return r; /* it may work the next time */
	if (r < 0) {
		log_error("image %llu at %llu: the chunk under a partial write is damaged; the "
		          "write is lost with it",
		        (unsigned long long)img->id, (unsigned long long)chunk * CHUNK_SIZE);
		health_set(w->store, HEALTH_DAMAGE, "image %llu at %llu is damaged",
		        (unsigned long long)img->id, (unsigned long long)chunk * CHUNK_SIZE);
		return -EUCLEAN;
	}
	buf_overlay(b, w->filled);
	return 0;
}

static int duplicate_store(struct worker *w, struct ov_leaf *l, unsigned i, uint64_t entry)
{
	l->entries[i] = entry;
	w->cost.dedupe_hits++;
	atomic_fetch_add_explicit(&w->store->count.dedupe_hits, 1, memory_order_relaxed);
	return 0;
}

static int chunk_store(struct worker *w, struct ov_leaf *l, unsigned i, const uint8_t *data,
        struct hash128 hash, const uint64_t *locs, unsigned n_locs)
{
	struct store *s = w->store;
	const bool dedupe = w->policy.dedupe != POLICY_DEDUPE_OFF;
	uint64_t found[DEDUPE_CANDIDATES];
	uint64_t entry = find_duplicate(w, hash, data, locs, n_locs);

	w->cost.dedupe_chunks += dedupe;
	if (!entry && n_locs == 0 &&
	        dedupe) /* stored since, by another worker or a window of this leaf? */
		entry = find_duplicate(w, hash, data, found, dedupe_lookup(s->dedupe, hash, found));
	if (entry)
		return duplicate_store(w, l, i, entry);
	w->hashes[w->n] = hash;
	w->index[w->n] = i;
	memcpy(w->gather + (size_t)w->n * CHUNK_SIZE, data, CHUNK_SIZE);
	w->n++;
	return 0;
}

static int zero_store(struct worker *w, struct ov_leaf *l, unsigned i)
{
	l->entries[i] = ENTRY_ZERO;
	atomic_fetch_add_explicit(&w->store->count.chunks_zero, 1, memory_order_relaxed);
	return 0;
}

static int partial_store(struct worker *w, struct ov_leaf *l, unsigned i, const struct buf *b)
{
	uint64_t locs[DEDUPE_CANDIDATES];
	int r = buf_fill(w, l, i, b);

	if (r == -EUCLEAN)
		return 0; /* said so; the damaged entry stays, reads of it keep failing */
	if (r < 0)
		return r;
	if (chunk_is_zero(w->filled))
		return zero_store(w, l, i);
	struct hash128 hash;
	r = hashes_are_random(w) ? domain_hashes_random(&hash, 1)
	                         : domain_hash(w->crypto, w->filled, &hash);
	if (r < 0)
		return r;
	const unsigned n = w->policy.dedupe == POLICY_DEDUPE_OFF
	                           ? 0
	                           : dedupe_lookup(w->store->dedupe, hash, locs);
	return chunk_store(w, l, i, w->filled, hash, locs, n);
}

static int slot_store(struct worker *w, struct ov_leaf *l, unsigned i)
{
	const uint64_t slot = l->slots[i];

	if (slot == SLOT_ABSENT)
		return 0;
	if (slot == SLOT_HOLE) {
		l->entries[i] = ENTRY_HOLE;
		return 0;
	}
	if (!slot_is_buf(slot)) { /* zeros, or a shared chunk */
		l->entries[i] = slot;
		return 0;
	}
	const struct buf *b = slot_buf(slot);
	if (b->valid)
		return partial_store(w, l, i, b);
	if (!w->leaf_whole[i])
		return zero_store(w, l, i);
	if (w->leaf_match[i] && gc_may_share(w->store, w->leaf_match[i])) {
		w->cost.dedupe_chunks++;
		return duplicate_store(
		        w, l, i, entry_data(w->leaf_match[i], hash_check(w->leaf_hashes[i])));
	}
	return chunk_store(w, l, i, b->data, w->leaf_hashes[i], w->leaf_locs[i], w->leaf_n_locs[i]);
}

/* CPU time, where asking for it is little beside the work; else the time of the clock on the wall. */
static uint64_t leaf_clock_ns(const struct worker *w)
{
	return w->large ? clock_thread_ns() : clock_now_ns();
}

static bool leaf_is_large(const struct ov_leaf *l)
{
	unsigned n = 0;

	for (unsigned i = 0; i < LEAF_CHUNKS && n < LARGE_CHUNKS; i++)
		n += l->slots[i] != SLOT_ABSENT;
	return n == LARGE_CHUNKS;
}

static int leaf_windows(struct worker *w, uint64_t txg, struct ov_leaf *l)
{
	int r = 0;

	if (!l->entries)
		l->entries = malloc(LEAF_CHUNKS * sizeof(*l->entries));
	if (!l->entries)
		return -ENOMEM;
	for (unsigned i = 0; i < LEAF_CHUNKS; i++)
		l->entries[i] = MAP_KEEP;
	const uint64_t start_ns = leaf_clock_ns(w);
	r = leaf_look_up(w, l);
	w->cost.dedupe_ns += leaf_clock_ns(w) - start_ns;
	for (unsigned i = 0; r == 0 && i < LEAF_CHUNKS; i += WINDOW_CHUNKS) {
		w->n = 0;
		for (unsigned k = i; r == 0 && k < i + WINDOW_CHUNKS; k++)
			r = slot_store(w, l, k);
		if (r == 0)
			r = window_store(w, txg, l);
	}
	return r;
}

/* The policy of the leaf's image, and what it takes.  -ENOKEY: nothing is stored in the clear. */
static int policy_take(struct worker *w, const struct image *img)
{
	w->policy = image_policy(img);
	w->cost = (struct policy_cost){0};
	const bool hard =
	        w->policy.compress == POLICY_LZ4HC || w->policy.compress == POLICY_COMPRESS_AUTO;
	const int r = hard && !w->packer ? frame_packer_new(&w->packer) : 0;
	if (r < 0)
		return r;
	w->crypto = keyring_get(w->store->keyring, w->policy.domain);
	return w->crypto ? 0 : -ENOKEY;
}

/* Nothing of an encrypted image stays in the worker's buffers: its key may be locked next. */
static void worker_wipe(struct worker *w)
{
	if (w->policy.domain == 0)
		return;
	explicit_bzero(w->gather, (size_t)WINDOW_CHUNKS * CHUNK_SIZE);
	explicit_bzero(w->packed, (size_t)WINDOW_CHUNKS * CHUNK_SIZE);
	explicit_bzero(w->filled, CHUNK_SIZE);
	if (w->packer)
		frame_packer_wipe(w->packer);
}

static int leaf_store(struct worker *w, uint64_t txg, struct ov_leaf *l)
{
	w->large = leaf_is_large(l);
	const uint64_t start_ns = leaf_clock_ns(w);
	int r = policy_take(w, l->image);
	if (r < 0)
		return r;
	r = leaf_windows(w, txg, l);
	worker_wipe(w);
	keyring_put(w->store->keyring, w->crypto);
	w->cost.commit_ns = leaf_clock_ns(w) - start_ns;
	image_cost_add(l->image, &w->cost);
	return r;
}

/* --- the pool --- */

static void work(struct commit_pool *p, struct worker *w)
{
	for (;;) {
		const size_t i = atomic_fetch_add(&p->next, 1);
		if (i >= p->n_leaves || atomic_load(&p->error))
			return;
		const int r = leaf_store(w, p->txg, p->leaves[i]);
		int none = 0;
		if (r < 0)
			atomic_compare_exchange_strong(&p->error, &none, r);
	}
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	struct commit_pool *p = w->store->commit;
	uint64_t round = 0;

	pthread_mutex_lock(&p->lock);
	for (;;) {
		while (p->round == round && !p->stop)
			pthread_cond_wait(&p->start, &p->lock);
		if (p->stop)
			break;
		round = p->round;
		pthread_mutex_unlock(&p->lock);
		work(p, w);
		pthread_mutex_lock(&p->lock);
		if (--p->running == 0)
			pthread_cond_signal(&p->finish);
	}
	pthread_mutex_unlock(&p->lock);
	return NULL;
}

int commit_leaves(struct store *s, uint64_t txg, struct ov_leaf **leaves, size_t n)
{
	struct commit_pool *p = s->commit;

	p->txg = txg;
	p->leaves = leaves;
	p->n_leaves = n;
	atomic_store(&p->next, 0);
	atomic_store(&p->error, 0);
	pthread_mutex_lock(&p->lock);
	p->running = p->n_workers;
	p->round++;
	pthread_cond_broadcast(&p->start);
	pthread_mutex_unlock(&p->lock);
	work(p, &p->workers[p->n_workers]);
	pthread_mutex_lock(&p->lock);
	while (p->running > 0)
		pthread_cond_wait(&p->finish, &p->lock);
	pthread_mutex_unlock(&p->lock);
	return atomic_load(&p->error);
}

static int worker_init(struct worker *w, struct store *s)
{
	w->store = s;
	w->gather = malloc((size_t)WINDOW_CHUNKS * CHUNK_SIZE);
	w->packed = malloc((size_t)WINDOW_CHUNKS * CHUNK_SIZE);
	w->filled = malloc(CHUNK_SIZE);
	return w->gather && w->packed && w->filled ? 0 : -ENOMEM;
}

int commit_pool_start(struct store *s)
{
	struct commit_pool *p = calloc(1, sizeof(*p));
	const long cores = sysconf(_SC_NPROCESSORS_ONLN);
	unsigned n = s->cfg.threads ? s->cfg.threads : (unsigned)MAX(cores, 1);

	if (!p)
		return -ENOMEM;
	s->commit = p;
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->start, NULL);
	pthread_cond_init(&p->finish, NULL);
	n = MIN(n, WORKERS_MAX);
	/* The txg thread is one of them. */
	const unsigned n_threads = s->cfg.manual ? 0 : n - 1;
	for (unsigned i = 0; i <= n_threads; i++)
		if (worker_init(&p->workers[i], s) < 0)
			return -ENOMEM;
	for (; p->n_workers < n_threads; p->n_workers++) {
		struct worker *w = &p->workers[p->n_workers];
		if (pthread_create(&w->thread, NULL, worker_main, w) != 0)
			break; /* fewer workers do the same work */
	}
	return 0;
}

void commit_pool_stop(struct store *s)
{
	struct commit_pool *p = s->commit;

	if (!p)
		return;
	pthread_mutex_lock(&p->lock);
	p->stop = true;
	pthread_cond_broadcast(&p->start);
	pthread_mutex_unlock(&p->lock);
	for (unsigned i = 0; i < p->n_workers; i++)
		pthread_join(p->workers[i].thread, NULL);
	for (unsigned i = 0; i < ARRAY_SIZE(p->workers); i++) {
		free(p->workers[i].gather);
		free(p->workers[i].packed);
		free(p->workers[i].filled);
		frame_packer_free(p->workers[i].packer);
	}
	pthread_cond_destroy(&p->finish);
	pthread_cond_destroy(&p->start);
	pthread_mutex_destroy(&p->lock);
	free(p);
	s->commit = NULL;
}

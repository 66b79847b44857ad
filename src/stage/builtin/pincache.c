/*
 * pincache.c - pieces of an image in RAM
 *
 * Sixteen shards by 64 KiB block of the image, each with a lock, a hash table of pieces, the queues
 * of its replacement, and 64 *slots*.  A slot stands for the blocks that hash to it and carries
 *	busy     changes of such blocks that are under way
 *	version  counts the changes that ended
 * A read may be taken in when its slot was not changed between look and fill: the version is the
 * same and nothing is under way.  (A change that began before the look and ended before the fill
 * shows in the version, one that is not over in busy.)  Blocks that share a slot only lose a chance.
 * change_begin drops what is there, so between begin and end nothing of the range is in the table.
 *
 * Replacement is S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", SOSP'23):
 * new pieces enter a small queue, a tenth of the shard; what is not asked for twice there leaves
 * again, so a scan of the whole image passes through that tenth.  The ghosts are a direct-mapped
 * table of chunk numbers, a little forgetful instead of a third queue.
 *
 * A piece has one reference of the table's and one of every readv or pin that shows it; the last
 * one releases the pin below.  So evicting never waits for a reader, and a reader may outlive the
 * table.  Pins are taken, and evicted pieces released, outside the locks.
 */
#include "stage/builtin/pincache.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

#define BLOCK_SHIFT  16
#define BLOCK_CHUNKS 16u
#define SLOTS        64u
#define BUCKETS_MIN  64u
#define BUCKETS_MAX  (1u << 20) /* of a shard */
#define FREQ_MAX     3u
#define SMALL_SHARE  10   /* a tenth */
#define RANGE_BLOCKS 256u /* longer changes walk the shards instead of the blocks */

enum piece_kind { PIECE_PIN, PIECE_COPY, PIECE_ZERO, PIECE_KINDS };

struct piece {
	_Atomic uint32_t refs;
	enum piece_kind kind;
	uint64_t chunk;
	const uint8_t *data;
	struct readv_pin pin;
	void (*free)(void *p);
	struct piece *hash_next;
	struct piece *newer, *older; /* queue; older: also the list of those to release */
	uint8_t freq;
	bool main;
};

struct queue {
	struct piece *newest, *oldest;
	uint64_t bytes;
};

struct slot {
	uint32_t version, busy;
};

struct shard {
	pthread_mutex_t lock; /* guards all of it */
	struct piece **buckets;
	uint64_t *ghosts;   /* chunk + 1 */
	uint32_t n_buckets; /* power of two, of ghosts too */
	uint64_t limit;
	struct queue small, main;
	uint64_t held[PIECE_KINDS], inserted, evicted, dropped;
	struct slot slots[SLOTS];
};

struct pincache {
	const struct stage_host *host;
	struct shard shards[PINCACHE_SHARDS];
};

static const uint8_t zeros[PIECE_SIZE] __attribute__((aligned(PIECE_SIZE)));

/* --- pieces --- */

static void piece_put(struct piece *p)
{
	if (!p || atomic_fetch_sub_explicit(&p->refs, 1, memory_order_acq_rel) > 1)
		return;
	readv_pin_release(&p->pin);
	p->free(p);
}

static void pieces_put(struct piece *list)
{
	while (list) {
		struct piece *next = list->older;
		piece_put(list);
		list = next;
	}
}

static uint64_t piece_cost(const struct piece *p)
{
	return sizeof(*p) + (p->kind == PIECE_ZERO ? 0 : PIECE_SIZE);
}

/* One chunk of what was read; NULL: it cannot be held, or there is no memory. */
static struct piece *piece_new(
        struct pincache *pc, uint64_t chunk, const struct readv *rv, size_t at, bool copies)
{
	struct readv_pin pin = {0};
	const bool pinned = rv->ops && rv->ops->pin && rv->ops->pin(rv, at, PIECE_SIZE, &pin) == 0;
	uint8_t buf[PIECE_SIZE];
	bool zero = false;

	if (!pinned) {
		readv_copy(rv, at, buf, PIECE_SIZE);
		zero = memcmp(buf, zeros, PIECE_SIZE) == 0;
		if (!zero && !copies)
			return NULL;
	}
	const bool copied = !pinned && !zero;
	struct piece *p = pc->host->alloc(sizeof(*p) + (copied ? PIECE_SIZE : 0));
	if (!p) {
		readv_pin_release(&pin);
		return NULL;
	}
	*p = (struct piece){.chunk = chunk, .pin = pin, .free = pc->host->free};
	p->kind = pinned ? PIECE_PIN : zero ? PIECE_ZERO : PIECE_COPY;
	p->data = pinned ? pin.data : zero ? zeros : (uint8_t *)(p + 1);
	if (copied)
		memcpy(p + 1, buf, PIECE_SIZE);
	atomic_init(&p->refs, 1);
	return p;
}

/* --- shards --- */

static uint64_t mix(uint64_t x)
{
	x *= 0x9e3779b97f4a7c15;
	return x ^ x >> 29;
}

static struct shard *shard_of(struct pincache *pc, uint64_t block)
{
	return &pc->shards[mix(block) >> 60];
}

static struct slot *slot_of(struct shard *s, uint64_t block)
{
	return &s->slots[mix(block) >> 54 & (SLOTS - 1)];
}

static uint32_t bucket_of(const struct shard *s, uint64_t chunk)
{
	return (uint32_t)mix(chunk + 1) & (s->n_buckets - 1);
}

static struct piece **shard_find(struct shard *s, uint64_t chunk)
{
	struct piece **at = &s->buckets[bucket_of(s, chunk)];

	while (*at && (*at)->chunk != chunk)
		at = &(*at)->hash_next;
	return at;
}

static void queue_push(struct queue *q, struct piece *p)
{
	p->newer = NULL;
	p->older = q->newest;
	if (q->newest)
		q->newest->newer = p;
	else
		q->oldest = p;
	q->newest = p;
	q->bytes += piece_cost(p);
}

static void queue_take(struct queue *q, struct piece *p)
{
	if (p->newer)
		p->newer->older = p->older;
	else
		q->newest = p->older;
	if (p->older)
		p->older->newer = p->newer;
	else
		q->oldest = p->newer;
	q->bytes -= piece_cost(p);
}

static uint64_t shard_bytes(const struct shard *s)
{
	return s->small.bytes + s->main.bytes;
}

/* Out of the table, onto the list of those to release once the lock is dropped. */
static void shard_remove(struct shard *s, struct piece **at, struct piece **list)
{
	struct piece *p = *at;

	*at = p->hash_next;
	queue_take(p->main ? &s->main : &s->small, p);
	s->held[p->kind]--;
	p->older = *list;
	*list = p;
}

static void shard_evict_one(struct shard *s, struct piece **list)
{
	const bool small =
	        s->small.oldest && (s->small.bytes > s->limit / SMALL_SHARE || !s->main.oldest);
	struct piece *p = small ? s->small.oldest : s->main.oldest;

	if (small ? p->freq > 1 : p->freq > 0) {
		queue_take(small ? &s->small : &s->main, p);
		p->freq = small ? 0 : p->freq - 1;
		p->main = true;
		queue_push(&s->main, p);
		return;
	}
	if (small)
		s->ghosts[bucket_of(s, p->chunk)] = p->chunk + 1;
	s->evicted++;
	shard_remove(s, shard_find(s, p->chunk), list);
}

/* Ends: every turn evicts, empties the small queue by one, or lowers a frequency. */
static void shard_evict(struct shard *s, struct piece **list)
{
	while (shard_bytes(s) > s->limit)
		shard_evict_one(s, list);
}

/* The table grows and shrinks with the limit; without memory for another it stays. */
static void shard_resize(struct pincache *pc, struct shard *s, uint64_t limit)
{
	uint32_t n = BUCKETS_MIN;

	while (n < BUCKETS_MAX && n < limit / PIECE_SIZE)
		n *= 2;
	if (n == s->n_buckets)
		return;
	struct piece **buckets = pc->host->alloc(n * sizeof(struct piece *));
	uint64_t *ghosts = pc->host->alloc(n * sizeof(uint64_t));
	if (!buckets || !ghosts) {
		pc->host->free(buckets);
		pc->host->free(ghosts);
		return;
	}
	memset(buckets, 0, n * sizeof(struct piece *));
	memset(ghosts, 0, n * sizeof(uint64_t));
	pc->host->free(s->buckets);
	pc->host->free(s->ghosts);
	s->buckets = buckets;
	s->ghosts = ghosts;
	s->n_buckets = n;
	for (unsigned q = 0; q < 2; q++)
		for (struct piece *p = q ? s->main.oldest : s->small.oldest; p; p = p->newer) {
			struct piece **at = &s->buckets[bucket_of(s, p->chunk)];
			p->hash_next = *at;
			*at = p;
		}
}

/* --- making and limiting --- */

int pincache_new(const struct stage_host *host, struct pincache **ret_pc)
{
	struct pincache *pc = host->alloc(sizeof(*pc));

	if (!pc)
		return -ENOMEM;
	memset(pc, 0, sizeof(*pc));
	pc->host = host;
	for (unsigned i = 0; i < PINCACHE_SHARDS; i++)
		pthread_mutex_init(&pc->shards[i].lock, NULL);
	for (unsigned i = 0; i < PINCACHE_SHARDS; i++) {
		shard_resize(pc, &pc->shards[i], 0);
		if (!pc->shards[i].buckets) {
			pincache_free(pc);
			return -ENOMEM;
		}
	}
	*ret_pc = pc;
	return 0;
}

void pincache_free(struct pincache *pc)
{
	if (!pc)
		return;
	pincache_limit(pc, 0);
	for (unsigned i = 0; i < PINCACHE_SHARDS; i++) {
		pc->host->free(pc->shards[i].buckets);
		pc->host->free(pc->shards[i].ghosts);
		pthread_mutex_destroy(&pc->shards[i].lock);
	}
	pc->host->free(pc);
}

void pincache_limit(struct pincache *pc, uint64_t bytes)
{
	for (unsigned i = 0; i < PINCACHE_SHARDS; i++) {
		struct shard *s = &pc->shards[i];
		struct piece *gone = NULL;

		pthread_mutex_lock(&s->lock);
		s->limit = bytes / PINCACHE_SHARDS;
		shard_evict(s, &gone);
		shard_resize(pc, s, s->limit);
		pthread_mutex_unlock(&s->lock);
		pieces_put(gone);
	}
}

/* --- reading --- */

/* What a readv of pieces holds on to. */
struct taken {
	void (*free)(void *p);
	unsigned n;
	uint64_t off; /* of the first byte shown */
	struct piece *pieces[];
};

static void taken_put(struct taken *t)
{
	for (unsigned i = 0; i < t->n; i++)
		piece_put(t->pieces[i]);
	t->free(t);
}

static void taken_release(struct readv *rv)
{
	taken_put(rv->priv);
}

static void taken_unpin(struct readv_pin *pin)
{
	piece_put(pin->priv[0]);
}

/* Pieces never change; what lies in two of them does not lie in one piece of memory. */
static int taken_pin(const struct readv *rv, size_t off, size_t len, struct readv_pin *ret_pin)
{
	const struct taken *t = rv->priv;
	const uint64_t at = t->off + off, first = t->off / PIECE_SIZE;

	if (len == 0 || off + len > rv->len || at / PIECE_SIZE != (at + len - 1) / PIECE_SIZE)
		return -EOPNOTSUPP;
	struct piece *p = t->pieces[at / PIECE_SIZE - first];
	atomic_fetch_add_explicit(&p->refs, 1, memory_order_relaxed);
	*ret_pin = (struct readv_pin){.data = p->data + at % PIECE_SIZE, .release = taken_unpin};
	ret_pin->priv[0] = p;
	return 0;
}

static const struct readv_ops taken_ops = {.release = taken_release, .pin = taken_pin};

/* References to the chunks of one block; false: one is missing (those before it are taken). */
static bool block_get(struct pincache *pc, struct taken *t, uint64_t chunk, uint64_t end_chunk)
{
	struct shard *s = shard_of(pc, chunk / BLOCK_CHUNKS);
	bool all = true;

	pthread_mutex_lock(&s->lock);
	for (; chunk < end_chunk && all; chunk++) {
		struct piece *p = *shard_find(s, chunk);
		all = p != NULL;
		if (!p)
			break;
		p->freq = (uint8_t)MIN(p->freq + 1u, FREQ_MAX);
		atomic_fetch_add_explicit(&p->refs, 1, memory_order_relaxed);
		t->pieces[t->n++] = p;
	}
	pthread_mutex_unlock(&s->lock);
	return all;
}

/* The vector lies behind the pieces, in the same memory. */
static void taken_show(struct taken *t, struct iovec *iov, uint64_t len, struct readv *ret_rv)
{
	uint64_t at = t->off;
	const uint64_t end = at + len;
	int n = 0;

	for (unsigned i = 0; i < t->n; i++) {
		const uint64_t in = at % PIECE_SIZE, take = MIN(PIECE_SIZE - in, end - at);
		iov[n++] = (struct iovec){
		        .iov_base = (void *)(t->pieces[i]->data + in), .iov_len = take};
		at += take;
	}
	*ret_rv = (struct readv){.iov = iov, .n_iov = n, .len = len, .ops = &taken_ops, .priv = t};
}

bool pincache_get(struct pincache *pc, uint64_t off, uint64_t len, struct readv *ret_rv)
{
	if (len == 0 || len > REQUEST_LEN_MAX)
		return false;
	const uint64_t first = off / PIECE_SIZE, end = DIV_UP(off + len, PIECE_SIZE);
	const size_t n = end - first;
	struct taken *t =
	        pc->host->alloc(sizeof(*t) + n * (sizeof(struct piece *) + sizeof(struct iovec)));
	if (!t)
		return false;
	*t = (struct taken){.free = pc->host->free, .off = off};
	for (uint64_t c = first; c < end;) {
		const uint64_t stop = MIN((c / BLOCK_CHUNKS + 1) * BLOCK_CHUNKS, end);
		if (!block_get(pc, t, c, stop)) {
			taken_put(t);
			return false;
		}
		c = stop;
	}
	taken_show(t, (struct iovec *)&t->pieces[n], len, ret_rv);
	return true;
}

/* --- filling --- */

void pincache_look(struct pincache *pc, uint64_t off, uint64_t len, struct pincache_look *ret_look)
{
	const uint64_t first = off >> BLOCK_SHIFT, last = (off + len - 1) >> BLOCK_SHIFT;

	ret_look->usable = len > 0 && last - first < PINCACHE_LOOKS;
	for (uint64_t b = first; ret_look->usable && b <= last; b++) {
		struct shard *s = shard_of(pc, b);
		pthread_mutex_lock(&s->lock);
		ret_look->versions[b - first] = slot_of(s, b)->version;
		pthread_mutex_unlock(&s->lock);
	}
}

/* True: it went in; *full: something had to go for it. */
static bool shard_insert(
        struct shard *s, struct piece *p, uint32_t version, bool *full, struct piece **gone)
{
	const struct slot *slot = slot_of(s, p->chunk / BLOCK_CHUNKS);
	struct piece **at = shard_find(s, p->chunk);

	if (*at || slot->busy > 0 || slot->version != version)
		return false;
	*full = *full || shard_bytes(s) + piece_cost(p) > s->limit;
	if (piece_cost(p) > s->limit)
		return false;
	p->hash_next = NULL;
	*at = p;
	p->main = s->ghosts[bucket_of(s, p->chunk)] == p->chunk + 1;
	queue_push(p->main ? &s->main : &s->small, p);
	s->held[p->kind]++;
	s->inserted++;
	shard_evict(s, gone);
	return true;
}

bool pincache_fill(struct pincache *pc, uint64_t off, const struct readv *rv,
        const struct pincache_look *look, bool copies)
{
	const uint64_t first = DIV_UP(off, PIECE_SIZE), end = (off + rv->len) / PIECE_SIZE;
	bool full = false;

	for (uint64_t c = first; look->usable && c < end; c++) {
		struct shard *s = shard_of(pc, c / BLOCK_CHUNKS);
		const uint32_t version = look->versions[c / BLOCK_CHUNKS - (off >> BLOCK_SHIFT)];
		struct piece *p = piece_new(pc, c, rv, c * PIECE_SIZE - off, copies), *gone = NULL;
		if (!p)
			continue;
		pthread_mutex_lock(&s->lock);
		const bool in = shard_insert(s, p, version, &full, &gone);
		pthread_mutex_unlock(&s->lock);
		pieces_put(gone);
		if (!in)
			piece_put(p);
	}
	return full;
}

/* --- changes --- */

enum change { CHANGE_BEGIN, CHANGE_END };

static void slot_change(struct slot *slot, enum change change)
{
	if (change == CHANGE_BEGIN) {
		slot->busy++;
		return;
	}
	ASSERT(slot->busy > 0);
	slot->busy--;
	slot->version++;
}

/* Pieces of chunks [first, end) of the queue. */
static void shard_drop_queue(
        struct shard *s, struct queue *q, uint64_t first, uint64_t end, struct piece **gone)
{
	for (struct piece *p = q->oldest, *newer; p; p = newer) {
		newer = p->newer;
		if (p->chunk < first || p->chunk >= end)
			continue;
		s->dropped++;
		shard_remove(s, shard_find(s, p->chunk), gone);
	}
}

/* A long range, by walking all that there is. */
static void change_all(struct pincache *pc, uint64_t first, uint64_t end, enum change change)
{
	for (unsigned i = 0; i < PINCACHE_SHARDS; i++) {
		struct shard *s = &pc->shards[i];
		struct piece *gone = NULL;

		pthread_mutex_lock(&s->lock);
		for (unsigned k = 0; k < SLOTS; k++)
			slot_change(&s->slots[k], change);
		if (change == CHANGE_BEGIN) {
			shard_drop_queue(s, &s->small, first, end, &gone);
			shard_drop_queue(s, &s->main, first, end, &gone);
		}
		pthread_mutex_unlock(&s->lock);
		pieces_put(gone);
	}
}

static void change_block(
        struct pincache *pc, uint64_t block, uint64_t first, uint64_t end, enum change change)
{
	struct shard *s = shard_of(pc, block);
	struct piece *gone = NULL;

	pthread_mutex_lock(&s->lock);
	slot_change(slot_of(s, block), change);
	for (uint64_t c = first; change == CHANGE_BEGIN && c < end; c++) {
		struct piece **at = shard_find(s, c);
		if (!*at)
			continue;
		s->dropped++;
		shard_remove(s, at, &gone);
	}
	pthread_mutex_unlock(&s->lock);
	pieces_put(gone);
}

static void change_range(struct pincache *pc, uint64_t off, uint64_t end_off, enum change change)
{
	if (end_off <= off)
		return;
	const uint64_t first = off / PIECE_SIZE, last = (end_off - 1) / PIECE_SIZE;

	if (last / BLOCK_CHUNKS - first / BLOCK_CHUNKS >= RANGE_BLOCKS) {
		change_all(pc, first, last + 1, change);
		return;
	}
	for (uint64_t c = first; c <= last;) {
		const uint64_t stop = MIN((c / BLOCK_CHUNKS + 1) * BLOCK_CHUNKS, last + 1);
		change_block(pc, c / BLOCK_CHUNKS, c, stop, change);
		c = stop;
	}
}

void pincache_change_begin(struct pincache *pc, uint64_t off, uint64_t end)
{
	change_range(pc, off, end, CHANGE_BEGIN);
}

void pincache_change_end(struct pincache *pc, uint64_t off, uint64_t end)
{
	change_range(pc, off, end, CHANGE_END);
}

void pincache_stats_get(struct pincache *pc, struct pincache_stats *ret_stats)
{
	struct pincache_stats st = {0};

	for (unsigned i = 0; i < PINCACHE_SHARDS; i++) {
		struct shard *s = &pc->shards[i];
		pthread_mutex_lock(&s->lock);
		st.bytes += shard_bytes(s) + s->n_buckets * (sizeof(void *) + sizeof(uint64_t));
		st.pinned += s->held[PIECE_PIN];
		st.copied += s->held[PIECE_COPY];
		st.zeros += s->held[PIECE_ZERO];
		st.inserted += s->inserted;
		st.evicted += s->evicted;
		st.dropped += s->dropped;
		pthread_mutex_unlock(&s->lock);
	}
	*ret_stats = st;
}

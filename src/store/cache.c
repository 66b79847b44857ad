/*
 * cache.c - the chunk cache
 *
 * Memory.  One mapping holds the chunks (arena: slot i is at i * CHUNK_SIZE), a second one the
 * tables: an entry per slot, hash chains and ghosts.  Slot numbers in the tables are one more than
 * the slot's, so that 0 is "none" and fresh zero pages are empty tables: both mappings become
 * resident only as they are used.  Slots are handed to the shards in runs of RUN_SLOTS as they
 * are first needed, and stay with their shard: so a working set that fits into the cache stays in
 * it, even though the hash does not fill the shards evenly.
 *
 * Neighbours.  A guest that reads a megabyte asks for 256 locations that mostly follow each other.
 * So RUN_SLOTS consecutive locations go to one shard and to one cache line of chain heads; as they
 * are also inserted together, their entries and their chunks lie side by side.  Within the line, a
 * location takes a place that the hash permutes: otherwise a guest that touches only every
 * sixteenth chunk would use one chain in sixteen.
 *
 * Locks.  A shard's lock guards its queues, chains, ghosts, free list and the entries of its slots,
 * except `refs`.  It is never held together with another, nor over the copy of a chunk (which may
 * fault and zero a huge page).  refs grows only under the lock and shrinks without it, so a slot
 * seen unreferenced under the lock stays so until the lock is dropped; the acquire load there pairs
 * with the release in cache_release(): the reader is done before the slot is overwritten.
 *
 *	slot is          loc    in chain  in queue  may be taken
 *	not handed out   0      no        no        by its shard, once
 *	free             0      no        no        from the free list
 *	being filled     0      no        no        no: only its inserter knows it
 *	live             loc    yes       yes       by eviction, when refs == 0
 *	dropped          0      no        yes       by eviction, when refs == 0
 *
 * Replacement is S3-FIFO: new chunks enter `small` (a tenth); there they are either asked for twice
 * and go to `main`, or leave, and are remembered in the ghost table.  A chunk that comes back while
 * its ghost is there goes to main at once.  Main is a CLOCK with two bits.  A long scan therefore
 * only passes through the small queue.  The ghosts are 32-bit fingerprints in buckets of a cache
 * line, the oldest of the bucket replaced: as many as main has slots, which is what the paper asks
 * for; a false match costs nothing but a place in main.
 */
#include "store/cache.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "store/hugemem.h"

#define RUN_SLOTS    16u /* consecutive locations, and slots handed out at a time */
#define SHARDS_MAX   32u
#define SHARD_SLOTS  2048u /* fewer shards rather than smaller ones than this */
#define SLOTS_MAX    (1ull << 31)
#define SMALL_SHARE  10u /* 1/10 of the slots */
#define FREQ_MAX     3u
#define FREQ_PROMOTE 2u   /* reads after the first that take a chunk from small to main */
#define EVICT_TRIES  128u /* before giving up; frequency counts in the first half of them */
#define GHOST_WAYS   (CACHELINE / sizeof(uint32_t))

struct entry {
	uint64_t loc;
	uint32_t chain; /* next in its hash chain, or in the free list */
	uint32_t next;  /* next in its queue */
	_Atomic uint32_t refs;
	uint32_t freq;
};

#define SLOT_OVERHEAD (sizeof(struct entry) + 2 * sizeof(uint32_t)) /* entry, chain head, ghost */
_Static_assert(sizeof(struct entry) == 24, "grew: costs RAM for every cached chunk");

struct queue {
	uint32_t head, tail, len;
};

struct shard {
	/* First line: all that a hit needs. */
	_Alignas(2 * CACHELINE) pthread_mutex_t lock;
	uint32_t *heads; /* n_groups x RUN_SLOTS */
	uint64_t hits, misses;
	uint32_t *ghosts; /* n_ghosts x GHOST_WAYS, newest first */
	struct queue small, main;
	uint32_t free;              /* list through entry.chain */
	uint32_t run_next, run_end; /* handed out, never used yet */
	uint32_t owned;             /* slots handed out */
};

struct cache {
	uint8_t *arena;
	struct entry *entries; /* start of the tables' mapping */
	struct shard *shards;
	uint64_t limit_bytes, arena_bytes, table_bytes;
	uint32_t n_shards; /* power of two; 0: the cache is disabled */
	uint32_t n_slots;
	uint32_t n_groups, n_ghosts; /* a shard */
	_Atomic uint32_t n_handed;   /* >= n_slots: all */
};

/* Where a location belongs. */
struct place {
	struct shard *shard;
	uint32_t *head;
};

/* Finalizer of MurmurHash3 (Appleby). */
static uint64_t mix(uint64_t x)
{
	x ^= x >> 33;
	x *= 0xff51afd7ed558ccdull;
	x ^= x >> 33;
	x *= 0xc4ceb9fe1a85ec53ull;
	return x ^ x >> 33;
}

static uint32_t scale(uint32_t hash, uint32_t n)
{
	return (uint32_t)((uint64_t)hash * n >> 32);
}

static struct place place_of(const struct cache *c, uint64_t loc)
{
	const uint64_t h = mix(loc / RUN_SLOTS);
	struct shard *s = &c->shards[h >> 48 & (c->n_shards - 1)];
	const uint32_t way = (uint32_t)(loc ^ h >> 32) % RUN_SLOTS;

	return (struct place){s, &s->heads[scale((uint32_t)h, c->n_groups) * RUN_SLOTS + way]};
}

static struct entry *entry_of(const struct cache *c, uint32_t slot)
{
	return &c->entries[slot - 1];
}

static void ref_set(const struct cache *c, uint32_t slot, struct cache_ref *ret_ref)
{
	atomic_fetch_add_explicit(&entry_of(c, slot)->refs, 1, memory_order_relaxed);
	ret_ref->slot = slot;
	ret_ref->data = c->arena + (uint64_t)(slot - 1) * CHUNK_SIZE;
}

/* --- hash chains --- */

static uint32_t chain_find(const struct cache *c, const uint32_t *head, uint64_t loc)
{
	uint32_t slot = *head;

	while (slot && entry_of(c, slot)->loc != loc)
		slot = entry_of(c, slot)->chain;
	return slot;
}

static void chain_remove(const struct cache *c, uint32_t *head, uint32_t slot)
{
	uint32_t *link = head;

	while (*link != slot)
		link = &entry_of(c, *link)->chain;
	*link = entry_of(c, slot)->chain;
	entry_of(c, slot)->loc = 0;
}

/* --- queues --- */

static void queue_push(const struct cache *c, struct queue *q, uint32_t slot)
{
	entry_of(c, slot)->next = 0;
	if (q->len++)
		entry_of(c, q->tail)->next = slot;
	else
		q->head = slot;
	q->tail = slot;
}

static uint32_t queue_pop(const struct cache *c, struct queue *q)
{
	const uint32_t slot = q->head;

	q->head = entry_of(c, slot)->next;
	q->len--;
	return slot;
}

/* --- ghosts --- */

static uint32_t *ghost_bucket(
        const struct cache *c, const struct shard *s, uint64_t loc, uint32_t *ret_mark)
{
	const uint64_t h = mix(loc);

	*ret_mark = (uint32_t)h | 1; /* 0 is an empty place */
	return &s->ghosts[scale((uint32_t)(h >> 32), c->n_ghosts) * GHOST_WAYS];
}

static void ghost_add(const struct cache *c, struct shard *s, uint64_t loc)
{
	uint32_t mark;
	uint32_t *b = ghost_bucket(c, s, loc, &mark);

	memmove(b + 1, b, (GHOST_WAYS - 1) * sizeof(*b));
	b[0] = mark;
}

static bool ghost_take(const struct cache *c, struct shard *s, uint64_t loc)
{
	uint32_t mark;
	uint32_t *b = ghost_bucket(c, s, loc, &mark);

	for (unsigned i = 0; i < GHOST_WAYS; i++)
		if (b[i] == mark) {
			memmove(b + i, b + i + 1, (GHOST_WAYS - 1 - i) * sizeof(*b));
			b[GHOST_WAYS - 1] = 0;
			return true;
		}
	return false;
}

/* --- slots --- */

/* The next place to look for a victim; other: not where the policy says (that one was in use). */
static struct queue *victim_queue(struct shard *s, bool other)
{
	const uint32_t target = MAX(s->owned / SMALL_SHARE, 1);
	struct queue *first = s->small.len >= target ? &s->small : &s->main;
	struct queue *second = first == &s->small ? &s->main : &s->small;

	if (other ? second->len > 0 : first->len == 0)
		return second;
	return first;
}

/* Takes the place of an entry that nobody uses.  0: none found. */
static uint32_t shard_evict(const struct cache *c, struct shard *s)
{
	unsigned busy = 0;

	for (unsigned tries = 0; tries < EVICT_TRIES; tries++) {
		struct queue *q = victim_queue(s, busy % 2);
		const bool picky = tries < EVICT_TRIES / 2;
		if (!q->len)
			return 0;
		const uint32_t slot = queue_pop(c, q);
		struct entry *e = entry_of(c, slot);
		if (atomic_load_explicit(&e->refs, memory_order_acquire)) {
			queue_push(c, q, slot);
			busy++;
		} else if (!e->loc) {
			return slot;
		} else if (picky && q == &s->small && e->freq >= FREQ_PROMOTE) {
			e->freq = 0;
			queue_push(c, &s->main, slot);
		} else if (picky && q == &s->main && e->freq) {
			e->freq--;
			queue_push(c, q, slot);
		} else {
			if (q == &s->small)
				ghost_add(c, s, e->loc);
			chain_remove(c, place_of(c, e->loc).head, slot);
			return slot;
		}
	}
	return 0;
}

/* Hands a run of slots that were never used to the shard; false: there are no more. */
static bool shard_grow(struct cache *c, struct shard *s)
{
	if (atomic_load_explicit(&c->n_handed, memory_order_relaxed) >= c->n_slots)
		return false;
	const uint32_t at =
	        atomic_fetch_add_explicit(&c->n_handed, RUN_SLOTS, memory_order_relaxed);
	if (at >= c->n_slots)
		return false;
	s->run_next = at + 1;
	s->run_end = MIN(at + RUN_SLOTS, c->n_slots) + 1;
	s->owned += s->run_end - s->run_next;
	return true;
}

/* A slot to fill: one given back, a fresh one, or someone's place.  0: all are in use. */
static uint32_t shard_take(struct cache *c, struct shard *s)
{
	const uint32_t slot = s->free;

	if (slot) {
		s->free = entry_of(c, slot)->chain;
		return slot;
	}
	if (s->run_next == s->run_end && !shard_grow(c, s))
		return shard_evict(c, s);
	return s->run_next++;
}

static void shard_give_back(struct cache *c, struct shard *s, uint32_t slot)
{
	entry_of(c, slot)->chain = s->free;
	s->free = slot;
}

static void shard_link(struct cache *c, struct place p, uint32_t slot, uint64_t loc)
{
	struct entry *e = entry_of(c, slot);
	const bool known = ghost_take(c, p.shard, loc);

	e->loc = loc;
	e->freq = 0;
	e->chain = *p.head;
	*p.head = slot;
	queue_push(c, known ? &p.shard->main : &p.shard->small, slot);
}

/* --- operations --- */

bool cache_get(struct cache *c, uint64_t loc, struct cache_ref *ret_ref)
{
	if (!c->n_shards)
		return false;
	const struct place p = place_of(c, loc);

	__builtin_prefetch(p.head); /* while the lock's line comes */
	pthread_mutex_lock(&p.shard->lock);
	const uint32_t slot = chain_find(c, p.head, loc);
	if (slot) {
		struct entry *e = entry_of(c, slot);
		if (e->freq < FREQ_MAX)
			e->freq++;
		ref_set(c, slot, ret_ref);
		p.shard->hits++;
	} else {
		p.shard->misses++;
	}
	pthread_mutex_unlock(&p.shard->lock);
	return slot != 0;
}

bool cache_peek(struct cache *c, uint64_t loc)
{
	if (!c->n_shards)
		return false;
	const struct place p = place_of(c, loc);

	pthread_mutex_lock(&p.shard->lock);
	const uint32_t slot = chain_find(c, p.head, loc);
	pthread_mutex_unlock(&p.shard->lock);
	return slot != 0;
}

void cache_release(struct cache *c, struct cache_ref *ref)
{
	struct entry *e = entry_of(c, (uint32_t)ref->slot);
	const uint32_t before = atomic_fetch_sub_explicit(&e->refs, 1, memory_order_release);

	ASSERT(before > 0);
	*ref = (struct cache_ref){0};
}

struct cache_ref cache_ref_again(struct cache *c, const struct cache_ref *ref)
{
	/* Without the lock: refs is not 0, so nobody is about to take the slot. */
	atomic_fetch_add_explicit(&entry_of(c, (uint32_t)ref->slot)->refs, 1, memory_order_relaxed);
	return *ref;
}

bool cache_insert(struct cache *c, uint64_t loc, const void *data, struct cache_ref *ret_ref)
{
	ASSERT(loc != 0);
	if (!c->n_shards)
		return false;
	const struct place p = place_of(c, loc);

	pthread_mutex_lock(&p.shard->lock);
	uint32_t slot = chain_find(c, p.head, loc);
	if (!slot) {
		const uint32_t fresh = shard_take(c, p.shard);
		pthread_mutex_unlock(&p.shard->lock);
		if (!fresh)
			return false;
		memcpy(c->arena + (uint64_t)(fresh - 1) * CHUNK_SIZE, data, CHUNK_SIZE);
		pthread_mutex_lock(&p.shard->lock);
		slot = chain_find(c, p.head, loc); /* someone may have been faster */
		if (slot) {
			shard_give_back(c, p.shard, fresh);
		} else {
			shard_link(c, p, fresh, loc);
			slot = fresh;
		}
	}
	if (ret_ref)
		ref_set(c, slot, ret_ref);
	pthread_mutex_unlock(&p.shard->lock);
	return true;
}

void cache_drop(struct cache *c, uint64_t loc)
{
	if (!c->n_shards)
		return;
	const struct place p = place_of(c, loc);

	pthread_mutex_lock(&p.shard->lock);
	const uint32_t slot = chain_find(c, p.head, loc);
	if (slot)
		chain_remove(c, p.head, slot);
	pthread_mutex_unlock(&p.shard->lock);
}

static bool segment_listed(const uint64_t *segments, size_t n, uint64_t segment)
{
	size_t lo = 0, hi = n;

	while (lo < hi) {
		const size_t mid = lo + (hi - lo) / 2;
		if (segments[mid] < segment)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < n && segments[lo] == segment;
}

/* Shard lock held. */
static void queue_drop(struct cache *c, const struct queue *q, const uint64_t *segments, size_t n)
{
	uint32_t slot = q->head;

	for (uint32_t i = 0; i < q->len; i++, slot = entry_of(c, slot)->next) {
		const struct entry *e = entry_of(c, slot);
		if (e->loc && !segment_listed(segments, n, loc_segment(e->loc)))
			continue;
		if (e->loc) /* else it was dropped before, perhaps when its segment went */
			chain_remove(c, place_of(c, e->loc).head, slot);
		if (atomic_load_explicit(&e->refs, memory_order_acquire) == 0)
			memset(c->arena + (uint64_t)(slot - 1) * CHUNK_SIZE, 0, CHUNK_SIZE);
	}
}

void cache_drop_segments(struct cache *c, const uint64_t *segments, size_t n)
{
	for (uint32_t i = 0; i < c->n_shards; i++) {
		struct shard *s = &c->shards[i];
		pthread_mutex_lock(&s->lock);
		queue_drop(c, &s->small, segments, n);
		queue_drop(c, &s->main, segments, n);
		for (uint32_t slot = s->free; slot; slot = entry_of(c, slot)->chain)
			memset(c->arena + (uint64_t)(slot - 1) * CHUNK_SIZE, 0, CHUNK_SIZE);
		pthread_mutex_unlock(&s->lock);
	}
}

void cache_stats_get(struct cache *c, struct cache_stats *ret_stats)
{
	struct cache_stats st = {.limit_bytes = c->limit_bytes};

	for (uint32_t i = 0; i < c->n_shards; i++) {
		struct shard *s = &c->shards[i];
		pthread_mutex_lock(&s->lock);
		st.hits += s->hits;
		st.misses += s->misses;
		st.bytes += (uint64_t)s->owned * (CHUNK_SIZE + SLOT_OVERHEAD);
		pthread_mutex_unlock(&s->lock);
	}
	*ret_stats = st;
}

/* --- construction --- */

static uint64_t entries_bytes(const struct cache *c)
{
	return ROUND_UP((uint64_t)c->n_slots * sizeof(struct entry), CACHELINE);
}

/* Picks the number of slots that fit into the limit, tables included, and the number of shards. */
static void geometry_pick(struct cache *c)
{
	const uint64_t lines_max = 2 * SHARDS_MAX + 1; /* lost to rounding up, in cache lines */
	const uint64_t usable = c->limit_bytes - MIN(c->limit_bytes, lines_max * CACHELINE);
	const uint64_t n = MIN(usable / (CHUNK_SIZE + SLOT_OVERHEAD), SLOTS_MAX);

	if (!n)
		return;
	c->n_slots = (uint32_t)n;
	c->n_shards = 1;
	while (c->n_shards < SHARDS_MAX && n / (2 * c->n_shards) >= SHARD_SLOTS)
		c->n_shards *= 2;
	const uint32_t share = c->n_slots / c->n_shards;
	c->n_groups = DIV_UP(share, RUN_SLOTS);
	c->n_ghosts = DIV_UP(share - share / SMALL_SHARE, GHOST_WAYS);
	c->arena_bytes = n * CHUNK_SIZE;
	c->table_bytes =
	        entries_bytes(c) + (uint64_t)c->n_shards * (c->n_groups + c->n_ghosts) * CACHELINE;
	ASSERT(c->arena_bytes + c->table_bytes <= c->limit_bytes);
}

static int shards_init(struct cache *c)
{
	uint8_t *at = (uint8_t *)c->entries + entries_bytes(c);
	const size_t bytes = c->n_shards * sizeof(*c->shards);
	pthread_mutexattr_t attr;

	c->shards = aligned_alloc(_Alignof(struct shard), bytes);
	if (!c->shards)
		return -ENOMEM;
	memset(c->shards, 0, bytes);
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ADAPTIVE_NP); /* held for tens of ns */
	for (uint32_t i = 0; i < c->n_shards; i++) {
		struct shard *s = &c->shards[i];
		pthread_mutex_init(&s->lock, &attr);
		s->heads = (uint32_t *)at;
		at += (uint64_t)c->n_groups * CACHELINE;
		s->ghosts = (uint32_t *)at;
		at += (uint64_t)c->n_ghosts * CACHELINE;
	}
	pthread_mutexattr_destroy(&attr);
	return 0;
}

static void cache_freep(struct cache **c)
{
	cache_free(*c);
}

int cache_create(uint64_t limit_bytes, struct cache **ret_cache)
{
	CLEANUP(cache_freep) struct cache *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	c->limit_bytes = limit_bytes;
	geometry_pick(c);
	if (c->n_shards) {
		void *mem = NULL;
		int r = hugemem_alloc(c->arena_bytes, &mem);
		if (r < 0)
			return r;
		c->arena = mem;
		r = hugemem_alloc(c->table_bytes, &mem);
		if (r < 0)
			return r;
		c->entries = mem;
		r = shards_init(c);
		if (r < 0)
			return r;
	}
	*ret_cache = STEAL(c);
	return 0;
}

void cache_free(struct cache *c)
{
	if (!c)
		return;
	for (uint32_t i = 0; c->shards && i < c->n_shards; i++)
		pthread_mutex_destroy(&c->shards[i].lock);
	free(c->shards);
	hugemem_free(c->entries, c->table_bytes);
	hugemem_free(c->arena, c->arena_bytes);
	free(c);
}

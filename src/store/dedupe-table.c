/*
 * dedupe-table.c - a lossy hash table of hints
 *
 * Why no locks are needed: an entry is one atomic word, so it is never seen torn, and every word
 * that was ever stored is a hint that may be wrong by contract.  An insert shifts its bucket from
 * the end to the front, so that at each instant a surviving hint is in at least one place, and a
 * reader, who goes from the front to the end, meets it (release stores, acquire loads).
 *
 * Which bits of the hash go where: the bucket takes the high 32 bits of lo, the tag bits 12-25 of
 * hi (0-11 are the map's check), the sample (dedupe.c) the low 5 bits of lo.  All independent.
 */
#include "store/dedupe-table.h"

#include "store/hugemem.h"

static uint64_t table_bytes(const struct hint_table *t)
{
	return t->n_buckets * CACHELINE;
}

int hints_init(struct hint_table *t, uint64_t n_buckets)
{
	void *mem = NULL;

	ASSERT(n_buckets >= 1 && n_buckets <= HINT_BUCKETS_MAX);
	const int r = hugemem_alloc(n_buckets * CACHELINE, &mem);
	if (r < 0)
		return r;
	t->words = mem;
	t->n_buckets = n_buckets;
	atomic_init(&t->n_entries, 0);
	return 0;
}

void hints_release(struct hint_table *t)
{
	hugemem_free((void *)t->words, table_bytes(t));
	t->words = NULL;
}

void hints_warm(struct hint_table *t, const _Atomic bool *stop)
{
	hugemem_warm((void *)t->words, table_bytes(t), stop);
}

uint64_t hints_resident_bytes(const struct hint_table *t)
{
	return hugemem_resident((void *)t->words, table_bytes(t));
}

uint64_t hints_count(const struct hint_table *t)
{
	const int64_t n = atomic_load_explicit(&t->n_entries, memory_order_relaxed);

	return n > 0 ? (uint64_t)n : 0;
}

static _Atomic uint64_t *bucket_of(const struct hint_table *t, struct hash128 hash)
{
	return &t->words[((hash.lo >> 32) * t->n_buckets >> 32) * HINT_WAYS];
}

static uint64_t word_of(struct hash128 hash, uint64_t loc)
{
	return (hash.hi >> 12) << HINT_TAG_SHIFT | loc;
}

static uint64_t word_load(const _Atomic uint64_t *w)
{
	return atomic_load_explicit(w, memory_order_acquire);
}

void hints_prefetch(const struct hint_table *t, struct hash128 hash)
{
	__builtin_prefetch((const void *)bucket_of(t, hash));
}

unsigned hints_find(
        const struct hint_table *t, struct hash128 hash, uint64_t *locs, unsigned n, unsigned cap)
{
	const _Atomic uint64_t *b = bucket_of(t, hash);
	const uint64_t tag = word_of(hash, 0) >> HINT_TAG_SHIFT;

	for (unsigned i = 0; i < HINT_WAYS && n < cap; i++) {
		const uint64_t word = word_load(&b[i]);
		unsigned k = 0;
		if (!word || word >> HINT_TAG_SHIFT != tag)
			continue;
		while (k < n && locs[k] != hint_loc(word))
			k++;
		if (k == n)
			locs[n++] = hint_loc(word);
	}
	return n;
}

void hints_insert(struct hint_table *t, struct hash128 hash, uint64_t loc)
{
	_Atomic uint64_t *b = bucket_of(t, hash);
	const uint64_t word = word_of(hash, loc);
	unsigned end = 0; /* the place that is lost: its own, else an empty one, else the oldest */
	unsigned empty = HINT_WAYS;

	for (; end < HINT_WAYS; end++) {
		const uint64_t at = word_load(&b[end]);
		if (at == word)
			break;
		if (!at && empty == HINT_WAYS)
			empty = end;
	}
	if (end == HINT_WAYS && empty < HINT_WAYS) {
		end = empty;
		atomic_fetch_add_explicit(&t->n_entries, 1, memory_order_relaxed);
	}
	for (unsigned i = MIN(end, HINT_WAYS - 1); i > 0; i--)
		atomic_store_explicit(&b[i], word_load(&b[i - 1]), memory_order_release);
	atomic_store_explicit(&b[0], word, memory_order_release);
}

void hints_remove(struct hint_table *t, struct hash128 hash, uint64_t loc)
{
	_Atomic uint64_t *b = bucket_of(t, hash);

	for (unsigned i = 0; i < HINT_WAYS; i++) {
		uint64_t word = word_of(hash, loc);
		if (atomic_compare_exchange_strong(&b[i], &word, 0))
			atomic_fetch_sub_explicit(&t->n_entries, 1, memory_order_relaxed);
	}
}

unsigned hints_bucket_get(
        const struct hint_table *t, uint64_t bucket, uint64_t ret_words[HINT_WAYS])
{
	unsigned n = 0;

	for (unsigned i = 0; i < HINT_WAYS; i++) {
		const uint64_t word = word_load(&t->words[bucket * HINT_WAYS + i]);
		if (word)
			ret_words[n++] = word;
	}
	return n;
}

/* Behind all that is in the bucket; lost if it is full. */
static void bucket_append(struct hint_table *t, uint64_t bucket, uint64_t word)
{
	_Atomic uint64_t *b = &t->words[bucket * HINT_WAYS];

	for (unsigned i = 0; i < HINT_WAYS; i++) {
		uint64_t at = word_load(&b[i]);
		if (!at && atomic_compare_exchange_strong(&b[i], &at, word)) {
			atomic_fetch_add_explicit(&t->n_entries, 1, memory_order_relaxed);
			return;
		}
		if (at == word)
			return;
	}
}

void hints_bucket_adopt(struct hint_table *t, uint64_t bucket, uint64_t n_buckets,
        const uint64_t *words, unsigned n)
{
	ASSERT(bucket < n_buckets && n_buckets <= HINT_BUCKETS_MAX);
	const uint64_t first = bucket * t->n_buckets / n_buckets;
	const uint64_t end = DIV_UP((bucket + 1) * t->n_buckets, n_buckets);
	/* Shrinking: each old bucket gets its share of the ways, so that the newest of each
	 * survive. */
	const uint64_t share = DIV_UP(HINT_WAYS * t->n_buckets, n_buckets);

	for (uint64_t b = first; b < end; b++)
		for (unsigned i = 0; i < MIN(n, share); i++)
			bucket_append(t, b, words[i]);
}

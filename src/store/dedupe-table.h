/*
 * dedupe-table.h - a lossy hash table of hints: hash -> location, one word an entry
 *
 * The building block of the dedupe index (private to it).  A bucket is a cache line of
 * HINT_WAYS words, newest first; a full bucket loses its oldest.  A word is tag:14 | loc:50; 0 is
 * empty.  The bucket is the position of the hash's high bits in the table, so tables of any
 * size are in hash order, and the buckets of one size map to those of another.
 *
 * Threads: any, without locks.  Two inserts into one bucket at the same moment may lose one of its
 * hints or store it twice; nothing worse.
 */
#pragma once

#include <stdatomic.h>

#include "store/chunk.h"

#define HINT_WAYS        (CACHELINE / sizeof(uint64_t))
#define HINT_TAG_SHIFT   50
#define HINT_BUCKETS_MAX (1ull << 30) /* 64 GiB */

struct hint_table {
	_Atomic uint64_t *words; /* n_buckets x HINT_WAYS */
	uint64_t n_buckets;
	_Atomic int64_t n_entries; /* may drift by what races lose or store twice */
};

static inline uint64_t hint_loc(uint64_t word)
{
	return word & ((1ull << HINT_TAG_SHIFT) - 1);
}

/* May this be a hint?  Words from a file are asked before they are used. */
static inline bool hint_valid(uint64_t word)
{
	const uint64_t loc = hint_loc(word);

	return loc_segment(loc) != 0 && loc_slot(loc) < SEGMENT_SLOTS;
}

/* n_buckets: 1..HINT_BUCKETS_MAX.  The memory is touched as it is used. */
int hints_init(struct hint_table *t, uint64_t n_buckets) MUST_CHECK;
void hints_release(struct hint_table *t); /* also when it is all zero */
void hints_warm(struct hint_table *t, const _Atomic bool *stop);
uint64_t hints_resident_bytes(const struct hint_table *t);
/* How many hints there are; about right while inserts race. */
uint64_t hints_count(const struct hint_table *t);

/* Asks the processor for the bucket of this hash. */
void hints_prefetch(const struct hint_table *t, struct hash128 hash);
/*
 * Adds what is known of hash to locs[0..n), newest first, without repeating any, up to cap.
 * Returns the new n.
 */
unsigned hints_find(
        const struct hint_table *t, struct hash128 hash, uint64_t *locs, unsigned n, unsigned cap);
/* As the newest of its bucket; one that is there already moves to the front. */
void hints_insert(struct hint_table *t, struct hash128 hash, uint64_t loc);
void hints_remove(struct hint_table *t, struct hash128 hash, uint64_t loc);

/* The words of a bucket, newest first; returns how many. */
unsigned hints_bucket_get(
        const struct hint_table *t, uint64_t bucket, uint64_t ret_words[HINT_WAYS]);
/*
 * Takes over the words (newest first) of a bucket of a table with n_buckets, as the oldest of all
 * buckets here where their hashes may belong.  In a larger table that means copies in all of them,
 * of which one is in the right place; in a smaller one the newest words of each bucket.
 */
void hints_bucket_adopt(struct hint_table *t, uint64_t bucket, uint64_t n_buckets,
        const uint64_t *words, unsigned n);

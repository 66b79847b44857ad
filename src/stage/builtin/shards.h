/*
 * shards.h - miss-ratio curve of an LRU cache, from a spatially hashed sample of the blocks
 *
 * Waldspurger, Park, Garthwaite, Ahmad: "Efficient MRC Construction with SHARDS" (FAST'15), the
 * variant of fixed size with adjustment (SHARDS-adj).  A block is in the sample when its hash is
 * below a threshold; the threshold falls whenever more than `samples` blocks are in, so memory is
 * bounded whatever the image does: about 45 bytes a sample and 20 KiB.
 *
 * Threads: shards_admits() from any; everything else under the caller's lock.
 */
#pragma once

#include <stdatomic.h>

#include "stage/stage.h"

enum shards_kind { SHARDS_READ, SHARDS_WRITE, SHARDS_KINDS };

/* Reuse distances in blocks, 32 buckets an octave: at most 3 % wide. */
#define SHARDS_SUB_SHIFT 5
#define SHARDS_BUCKETS   (30u << SHARDS_SUB_SHIFT)

struct shards;

/* samples: blocks kept, at most; rate: share of blocks to begin with, above 0, at most 1. */
int shards_new(const struct stage_host *host, uint32_t samples, double rate,
        struct shards **ret_shards) MUST_CHECK;
void shards_free(struct shards *s); /* accepts NULL */
size_t shards_bytes(uint32_t samples);
void shards_reset(struct shards *s);

/* The sampling filter: one relaxed load. */
struct shards_filter {
	_Atomic uint64_t threshold;
};
/* Stays where it is as long as s lives. */
const struct shards_filter *shards_filter(const struct shards *s);
static inline bool shards_admits(const struct shards_filter *f, uint64_t hash)
{
	return hash < atomic_load_explicit(&f->threshold, memory_order_relaxed);
}
/* A block that the filter let pass was used; hash: block_hash() of its number. */
void shards_use(struct shards *s, uint64_t hash, enum shards_kind kind);

/* --- the curve --- */

struct shards_curve {
	double uses[SHARDS_KINDS];                 /* as given */
	double hits[SHARDS_BUCKETS][SHARDS_KINDS]; /* of a cache as large as the bucket's end */
	uint64_t samples;                          /* blocks in the sample now */
	double rate;
};
/* uses: how many blocks were used in all, sampled or not, since the reset, by kind. */
void shards_curve(
        const struct shards *s, const uint64_t uses[SHARDS_KINDS], struct shards_curve *ret_curve);
/* Size in blocks up to which bucket i counts. */
uint64_t shards_bucket_end(unsigned i);
/* Misses / uses of a cache of that many blocks; of one kind, or of all (SHARDS_KINDS). */
double shards_miss_ratio(const struct shards_curve *c, uint64_t blocks, enum shards_kind kind);

/* --- what is kept when the image is closed --- */

/* Bytes that shards_save() fills at most. */
size_t shards_save_max(const struct shards *s);
size_t shards_save(const struct shards *s, uint8_t *buf);
/* Takes any bytes; -EBADMSG, and s is empty then. */
int shards_load(struct shards *s, const uint8_t *buf, size_t len) MUST_CHECK;

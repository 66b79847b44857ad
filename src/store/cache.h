/*
 * cache.h - the chunk cache: decompressed chunks in RAM, keyed by where the content is
 *
 * Keyed by location, so a hundred clones of one guest share one copy.  Scan-resistant replacement:
 * S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", SOSP'23).  Content at a
 * location never changes, so there is no invalidation but cache_drop (a healed chunk).
 *
 * The memory is one arena of chunk slots (limit_bytes includes the tables), split into shards by
 * hash of the location; each shard has its own lock, so that reads scale.  Entries that are
 * referenced are never evicted or reused.  Any thread.
 */
#pragma once

#include "store/chunk.h"

struct cache;

struct cache_ref {
	const uint8_t *data; /* CHUNK_SIZE bytes, aligned to it; valid until cache_release */
	uint64_t slot;       /* private */
};

struct cache_stats {
	uint64_t bytes, limit_bytes, hits, misses;
};

/* A limit too small for one chunk (0, say) disables the cache: nothing is ever in it. */
int cache_create(uint64_t limit_bytes, struct cache **ret_cache) MUST_CHECK;
void cache_free(struct cache *c); /* accepts NULL; no reference may be held */

/* True and a reference, when it is there. */
bool cache_get(struct cache *c, uint64_t loc, struct cache_ref *ret_ref);
/* Is it there?  No reference, no effect on replacement, not counted as hit or miss. */
bool cache_peek(struct cache *c, uint64_t loc);
void cache_release(struct cache *c, struct cache_ref *ref);
/* A second reference to what one is held of. */
struct cache_ref cache_ref_again(struct cache *c, const struct cache_ref *ref);
/*
 * Copies data in; does nothing when the location is there, or everything is referenced.  If ret_ref
 * is not NULL, true means that it holds a reference to the entry.
 */
bool cache_insert(struct cache *c, uint64_t loc, const void *data, struct cache_ref *ret_ref);
void cache_drop(struct cache *c, uint64_t loc);
/*
 * Drops all chunks of these segments (ids, ascending), and overwrites their content where nobody
 * holds a reference to it.
 */
void cache_drop_segments(struct cache *c, const uint64_t *segments, size_t n);
void cache_stats_get(struct cache *c, struct cache_stats *ret_stats);

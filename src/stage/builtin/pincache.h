/*
 * pincache.h - pieces of an image in RAM: what the cache stage answers reads from
 *
 * A piece is one 4 KiB chunk of the image, by its number.  Its bytes are a pin of what the content
 * cache holds (base/readv.h), so there is no second copy; a chunk of zeros takes no memory at all;
 * and, where the caller wants it, a copy of what cannot be pinned.
 *
 * Never stale.  Whoever reads from below takes a look first (pincache_look) and offers what came
 * with it (pincache_fill); whoever changes the content brackets that with change_begin and
 * change_end.  What was read while a change of the same range was under way, even for a moment, is
 * not taken in.
 *
 * Any thread, all functions but new, free and limit (one at a time).  What pincache_get handed out
 * may be released after pincache_free.
 */
#pragma once

#include "stage/stage.h"

#define PIECE_SIZE      4096u
#define PINCACHE_LOOKS  18u /* blocks of 64 KiB that a READ of 1 MiB may touch, and one */
#define PINCACHE_SHARDS 16u

struct pincache;

/* How things stood before a read went down. */
struct pincache_look {
	bool usable; /* false: nothing of this read may be taken in */
	uint32_t versions[PINCACHE_LOOKS];
};

struct pincache_stats {
	uint64_t bytes;                 /* held, own structures included */
	uint64_t pinned, copied, zeros; /* pieces held, by kind */
	uint64_t inserted, evicted, dropped;
};

/* limit 0 until pincache_limit. */
int pincache_new(const struct stage_host *host, struct pincache **ret_pc) MUST_CHECK;
void pincache_free(struct pincache *pc); /* accepts NULL */
/* Most bytes to hold; what is over is evicted. */
void pincache_limit(struct pincache *pc, uint64_t bytes);

/* All of [off, off + len) if all of it is there: true and *ret_rv, to be released. */
bool pincache_get(struct pincache *pc, uint64_t off, uint64_t len, struct readv *ret_rv);
void pincache_look(struct pincache *pc, uint64_t off, uint64_t len, struct pincache_look *ret_look);
/*
 * Takes in the whole chunks of rv, which was read at off after `look`.  copies: also what cannot be
 * pinned.  True: some did not fit without evicting others (a higher limit would be of use).
 */
bool pincache_fill(struct pincache *pc, uint64_t off, const struct readv *rv,
        const struct pincache_look *look, bool copies);

/* Content of [off, end) is about to change, has changed (or has not, for an error).  Paired. */
void pincache_change_begin(struct pincache *pc, uint64_t off, uint64_t end);
void pincache_change_end(struct pincache *pc, uint64_t off, uint64_t end);

void pincache_stats_get(struct pincache *pc, struct pincache_stats *ret_stats);

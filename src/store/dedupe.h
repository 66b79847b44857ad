/*
 * dedupe.h - the dedupe index: hints where a chunk with this hash may be
 *
 * Bounded RAM, never needed for correctness: every candidate is read, verified and compared by the
 * caller.  Three parts: an exact window of recent chunks, 8 bytes an entry (14 bits of tag + 50 of
 * location), bucketed by cache line, oldest in the bucket replaced; beyond it a sample (1 hash in
 * 32 -> segment id): a hit there asks for that segment's hash list, kept in an LRU of at least 256
 * lists, so that the neighbours match exactly (locality: Zhu et al., "Avoiding the disk bottleneck
 * in the Data Domain deduplication file system", FAST'08; Lillibridge et al., "Sparse indexing",
 * FAST'09).  limit_bytes covers all three.
 *
 * Threads: any; lookups and inserts from several commit workers at once are the normal case.
 */
#pragma once

#include <stdatomic.h>

#include "base/io.h"
#include "store/chunk.h"

#define DEDUPE_CANDIDATES 4 /* most that a lookup returns */

struct dedupe;

/*
 * Reads the hashes of segment id into hashes[SEGMENT_SLOTS], all zero for dead slots; *ret_n slots.
 * -ENOENT or -ESTALE: it is gone.
 */
typedef int dedupe_list_fn(void *arg, uint64_t segment, struct hash128 *hashes, unsigned *ret_n);

struct dedupe_stats {
	uint64_t bytes, limit_bytes, entries, lookups, hits_window, hits_sample;
};

/* At least 1 MiB is used.  Without list (NULL) a sample leads to no more than itself. */
int dedupe_create(
        uint64_t limit_bytes, dedupe_list_fn *list, void *arg, struct dedupe **ret_idx) MUST_CHECK;
void dedupe_free(struct dedupe *d);

/* Has the memory of the window ready (hugemem_warm): inserts touch all of it soon, at random. */
void dedupe_warm(struct dedupe *d, const _Atomic bool *stop);

/*
 * Candidate locations, most likely first; returns how many.  May call list() (which reads a
 * footer) on a sample hit.
 */
unsigned dedupe_lookup(struct dedupe *d, struct hash128 hash, uint64_t ret_locs[DEDUPE_CANDIDATES]);
/* Begins to fetch from RAM what looking this hash up will need. */
void dedupe_prefetch(struct dedupe *d, struct hash128 hash);
void dedupe_insert(struct dedupe *d, struct hash128 hash, uint64_t loc);
/* A candidate turned out wrong for good (its slot is dead, damaged or its segment gone). */
void dedupe_remove(struct dedupe *d, struct hash128 hash, uint64_t loc);

/*
 * Saving at clean unmount, loading at mount.  The file (checksummed, format in FORMAT.md) is bound
 * to the datastore and the txg: load returns -ESTALE when it is of another, -EUCLEAN when damaged,
 * -ENOENT when absent, and leaves the index as it was.  An index saved with another limit is
 * taken over as far as it fits.  The index may be in use meanwhile.  Save writes NAME.tmp, syncs,
 * renames, syncs the directory.
 */
int dedupe_save(struct dedupe *d, struct io *io, const char *name, const uint8_t uuid[16],
        uint64_t txg) MUST_CHECK;
int dedupe_load(struct dedupe *d, struct io *io, const char *name, const uint8_t uuid[16],
        uint64_t txg) MUST_CHECK;
void dedupe_stats_get(struct dedupe *d, struct dedupe_stats *ret_stats);

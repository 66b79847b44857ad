/*
 * frame-read.h - the content of a snapshot as it is stored: compressed frames, and which chunk is where
 *
 * For who passes content on without looking into it (send): nothing is unpacked, nothing goes through the
 * chunk cache.  For handles of snapshots (snapshot.h): they have no overlay, and what they refer to stays.
 *
 * Threads: any.  Errors: as in store.h.
 */
#pragma once

#include "store/frame.h"
#include "store/snapshot.h"

/*
 * Where the content of chunks [first, first + n) is, all within one leaf; as map entries (chunk.h).  The
 * same location is the same content.
 */
int store_snapshot_entries(
        struct image *img, uint64_t first, unsigned n, uint64_t *ret_entries) MUST_CHECK;

/*
 * One frame; payload is not sealed, and of f nothing but n, codec, payload_len, segment, slots and hashes means
 * something.  Good until fn returns; non-zero stops and is returned.
 */
typedef int store_packed_fn(void *arg, const struct frame_info *f, const uint8_t *payload);
/*
 * All frames that the content of these entries (n <= LEAF_CHUNKS; of state data) is in, each once, in the
 * order of their locations.  -EIO: damage, logged; what could be read was told before.
 */
int store_snapshot_frames(struct image *img, const uint64_t *entries, unsigned n,
        store_packed_fn *fn, void *arg) MUST_CHECK;

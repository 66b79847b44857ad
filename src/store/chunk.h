/*
 * chunk.h - the 4 KiB chunk: its hash, its address, its map entry
 *
 * A chunk is identified by the XXH3-128 of its content, keyed by a secret of its crypto domain, and
 * compared byte for byte before it is shared.  A *location* (loc) names a logical slot of a
 * segment; moving or rewriting the segment changes the segment's row, never a location.
 */
#pragma once

#include <string.h>

#include "base/compiler.h"

#define CHUNK_SIZE  4096u
#define CHUNK_SHIFT 12

/* Image geometry: a map leaf holds 256 chunks = 1 MiB. */
#define LEAF_SHIFT  8
#define LEAF_CHUNKS (1u << LEAF_SHIFT)
#define LEAF_BYTES  ((uint64_t)LEAF_CHUNKS * CHUNK_SIZE)

#define IMAGE_SIZE_MAX   (16ull << 40)
#define IMAGE_CHUNKS_MAX (IMAGE_SIZE_MAX >> CHUNK_SHIFT)

/* Frames are built from new chunks of one aligned window of an image. */
#define WINDOW_CHUNKS    8u  /* 32 KiB, when a group is committed */
#define FRAME_CHUNKS_MAX 16u /* 64 KiB, when rewritten cold */

#define SEGMENT_ID_MAX    ((1ull << 38) - 1)
#define SEGMENT_SLOTS     2048u
#define SEGMENT_BYTES_MAX (4u << 20)

struct hash128 {
	uint64_t lo, hi;
};

static inline bool hash_equal(struct hash128 a, struct hash128 b)
{
	return a.lo == b.lo && a.hi == b.hi;
}

/* Hashing for one crypto domain.  Immutable after init; any thread. */
struct chunk_hasher {
	uint8_t secret[192];
};

#define DOMAIN_KEY_LEN 32
/* Derives the hashing secret from the domain's key (DOMAIN_KEY_LEN random bytes, kept in meta). */
void chunk_hasher_init(struct chunk_hasher *h, const uint8_t key[DOMAIN_KEY_LEN]);
/* XXH3-128 of CHUNK_SIZE bytes.  A build with -Dhash_bits=16 keeps 16 bits, to force collisions. */
struct hash128 chunk_hash(const struct chunk_hasher *h, const void *data);
bool chunk_is_zero(const void *data);

/* loc: segment:38 | slot:12.  0 is never valid (segment ids start at 1). */
static inline uint64_t loc_make(uint64_t segment, unsigned slot)
{
	return segment << 12 | slot;
}

static inline uint64_t loc_segment(uint64_t loc)
{
	return loc >> 12;
}

static inline unsigned loc_slot(uint64_t loc)
{
	return (unsigned)(loc & 0xfff);
}

/*
 * Map entry, 64 bits: check:12 | segment:38 | slot:12 | state:2 (state in the low bits).
 * check = 12 bits of the chunk's hash, to catch a misdirected map.  HOLE is the all-zero entry.
 */
enum entry_state { ENTRY_HOLE = 0, ENTRY_ZERO = 2, ENTRY_DATA = 3 };

static inline unsigned hash_check(struct hash128 h)
{
	return (unsigned)(h.hi & 0xfff);
}

static inline uint64_t entry_data(uint64_t loc, unsigned check)
{
	return (uint64_t)check << 52 | loc << 2 | ENTRY_DATA;
}

static inline enum entry_state entry_state(uint64_t e)
{
	return (enum entry_state)(e & 3);
}

static inline uint64_t entry_loc(uint64_t e)
{
	return e >> 2 & ((1ull << 50) - 1);
}

static inline unsigned entry_check(uint64_t e)
{
	return (unsigned)(e >> 52);
}

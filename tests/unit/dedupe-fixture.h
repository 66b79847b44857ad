/*
 * dedupe-fixture.h - numbered chunks for the tests of the dedupe index
 */
#pragma once

#include "store/dedupe.h"

#define MIB            (1ull << 20)
#define WINDOW_ENTRIES (13 * MIB / 16 / 8) /* of a 1 MiB index */
#define SAMPLE_ENTRIES (2 * MIB / 16 / 8)

static inline uint64_t mix(uint64_t x)
{
	x ^= x >> 33;
	x *= 0xff51afd7ed558ccdull;
	x ^= x >> 33;
	x *= 0xc4ceb9fe1a85ec53ull;
	return x ^ x >> 33;
}

/* The hash of the i-th chunk, and where it is. */
static inline struct hash128 hash_of(uint64_t i)
{
	return (struct hash128){.lo = mix(2 * i + 1), .hi = mix(2 * i + 2)};
}

static inline uint64_t loc_of(uint64_t i)
{
	return loc_make(1 + i / SEGMENT_SLOTS, (unsigned)(i % SEGMENT_SLOTS));
}

static inline void insert_range(struct dedupe *d, uint64_t from, uint64_t to)
{
	for (uint64_t i = from; i < to; i++)
		dedupe_insert(d, hash_of(i), loc_of(i));
}

static inline bool finds(struct dedupe *d, uint64_t i)
{
	uint64_t locs[DEDUPE_CANDIDATES];
	const unsigned n = dedupe_lookup(d, hash_of(i), locs);

	for (unsigned k = 0; k < n; k++)
		if (locs[k] == loc_of(i))
			return true;
	return false;
}

static inline uint64_t found_in(struct dedupe *d, uint64_t from, uint64_t to)
{
	uint64_t n = 0;

	for (uint64_t i = from; i < to; i++)
		n += finds(d, i);
	return n;
}

/* The hash list of a full segment with a dead slot in it. */
static inline void segment_hashes(uint64_t segment, struct hash128 *hashes)
{
	for (unsigned i = 0; i < SEGMENT_SLOTS; i++)
		hashes[i] = hash_of((segment - 1) * SEGMENT_SLOTS + i);
	hashes[7] = (struct hash128){0, 0};
}

/*
 * block-hash.h - the hash that analytics samples 4 KiB blocks of an image by
 *
 * One to one on 64 bits (the finalizer of SplitMix64: Steele, Lea, Flood, OOPSLA'14), so that equal
 * hashes are equal blocks and nothing has to keep the number beside it.
 */
#pragma once

#include <stdint.h>

#define ANALYTICS_BLOCK_SHIFT 12
#define ANALYTICS_BLOCK_SIZE  (1u << ANALYTICS_BLOCK_SHIFT)

static inline uint64_t block_hash(uint64_t block)
{
	block += 0x9e3779b97f4a7c15ull;
	block = (block ^ block >> 30) * 0xbf58476d1ce4e5b9ull;
	block = (block ^ block >> 27) * 0x94d049bb133111ebull;
	return block ^ block >> 31;
}

/*
 * entropy.c - does a chunk look like random bytes?
 *
 * One byte is taken of each 1/256th of the chunk, at a place in it that changes from piece to
 * piece: with a fixed stride a table of 16-byte records would show one column of itself only.
 * About 0.4 us a chunk.
 */
#include "stage/builtin/entropy.h"

#include <math.h>

unsigned entropy_pairs(const void *data, size_t len)
{
	const uint8_t *p = data;
	const size_t piece = len / ENTROPY_SAMPLE;
	uint16_t seen[256] = {0};
	unsigned pairs = 0;
	uint32_t place = 0x9e3779b9;

	ASSERT(piece > 0);
	for (unsigned i = 0; i < ENTROPY_SAMPLE; i++) {
		place = place * 1664525 + 1013904223;
		pairs += seen[p[i * piece + (place >> 16) % piece]]++;
	}
	return pairs;
}

unsigned entropy_limit(double bits)
{
	return (unsigned)ceil((double)ENTROPY_PAIRS * exp2(-bits));
}

double entropy_bits(unsigned pairs)
{
	return pairs == 0 ? 8 : fmin(8, -log2((double)pairs / (double)ENTROPY_PAIRS));
}

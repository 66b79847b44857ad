/*
 * entropy.c - does a chunk look like random bytes?
 *
 * One byte is taken of each 1/256th of the chunk, at a place in it that changes from piece to
 * piece: with a fixed stride a table of 16-byte records would show one column of itself only.
 * The step to the next byte is sampled as well: a ramp or a table of counters has all bytes equally
 * often, but few different steps.  About 0.5 us a chunk.
 */
#include "stage/builtin/entropy.h"

#include <math.h>

unsigned entropy_pairs(const void *data, size_t len)
{
	const uint8_t *p = data;
	const size_t piece = len / ENTROPY_SAMPLE;
	uint16_t bytes[256] = {0}, steps[256] = {0};
	unsigned pairs = 0, step_pairs = 0;
	uint32_t place = 0x9e3779b9;

	ASSERT(piece > 1);
	for (unsigned i = 0; i < ENTROPY_SAMPLE; i++) {
		place = place * 1664525 + 1013904223;
		const uint8_t *at = p + i * piece + (place >> 16) % (piece - 1);
		pairs += bytes[at[0]]++;
		step_pairs += steps[(uint8_t)(at[1] - at[0])]++;
	}
	return MAX(pairs, step_pairs);
}

unsigned entropy_limit(double bits)
{
	return (unsigned)ceil((double)ENTROPY_PAIRS * exp2(-bits));
}

double entropy_bits(unsigned pairs)
{
	return pairs == 0 ? 8 : fmin(8, -log2((double)pairs / (double)ENTROPY_PAIRS));
}

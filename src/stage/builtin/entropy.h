/*
 * entropy.h - does a chunk look like random bytes (encrypted, well compressed)?
 *
 * From 256 of its bytes, and the steps from them to the next.  The measure is the collision entropy (Renyi's of order 2): how many of
 * the 32,640 pairs of sampled bytes are equal.  Unlike Shannon's, its estimate is unbiased however
 * small the sample: random bytes give 127.5 equal pairs with a deviation of 11.3, that is
 * 8.00 +- 0.13 bits; English text gives about 4, machine code 4 to 6, base64 just below 6.
 *
 * Pure functions; any thread.
 */
#pragma once

#include "base/compiler.h"

#define ENTROPY_SAMPLE 256u
#define ENTROPY_PAIRS  (ENTROPY_SAMPLE * (ENTROPY_SAMPLE - 1) / 2)
/*
 * Fewer equal pairs than chance would give (-6 deviations): a counter or a ramp, not noise.
 */
#define ENTROPY_PAIRS_MIN 60u

/* Equal pairs among the sample of a chunk of len bytes, at least two for each sampled. */
unsigned entropy_pairs(const void *data, size_t len);
/* Most pairs that a chunk of at least that many bits a byte (0..8) shows. */
unsigned entropy_limit(double bits);
/* Bits a byte, 0..8, of a count of pairs: for reports. */
double entropy_bits(unsigned pairs);
/* Does it look random to entropy_limit()'s value? */
static inline bool entropy_is_high(unsigned pairs, unsigned limit)
{
	return pairs >= ENTROPY_PAIRS_MIN && pairs <= limit;
}

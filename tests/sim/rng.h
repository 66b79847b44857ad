/*
 * rng.h - repeatable random numbers for tests (SplitMix64, Steele et al. 2014)
 *
 * The whole state is one word, so a failure is replayed from the number that a test printed.
 */
#pragma once

#include "base/compiler.h"

struct rng {
	uint64_t state;
};

static inline uint64_t rng_next(struct rng *r)
{
	uint64_t z = r->state += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

/* 0 .. n-1; the bias of the modulo does not matter here. */
static inline uint64_t rng_below(struct rng *r, uint64_t n)
{
	return rng_next(r) % n;
}

static inline bool rng_chance(struct rng *r, unsigned permille)
{
	return rng_below(r, 1000) < permille;
}

/* An independent stream for purpose n, so that one more draw here does not shift all others. */
static inline struct rng rng_fork(uint64_t seed, uint64_t n)
{
	struct rng r = {seed ^ (n + 1) * 0xd1342543de82ef95ull};

	r.state = rng_next(&r);
	return r;
}

/*
 * tally.h - counters of requests that cost next to nothing: sizes, bytes, runs, latencies
 *
 * Threads: everything from any, relaxed; a reader may see one request half counted.
 */
#pragma once

#include <sched.h>
#include <stdatomic.h>

#include "base/compiler.h"

enum tally_op { TALLY_READ, TALLY_WRITE, TALLY_FLUSH, TALLY_DISCARD, TALLY_ZERO, TALLY_OPS };

#define TALLY_SIZES   14u /* up to 512 B, 1 KiB, .. 2 MiB, above */
#define TALLY_RUNS    28u /* up to 4 KiB, 8 KiB, .. 256 GiB, above */
#define TALLY_SHARDS  16u
#define TALLY_TIMED   3u   /* read, write, flush */
#define TALLY_LATENCY 113u /* four buckets an octave from 256 ns to 68 s, above */

struct tally_shard {
	_Atomic uint64_t sizes[TALLY_OPS][TALLY_SIZES];
	_Atomic uint64_t bytes[TALLY_OPS];
	_Atomic uint64_t blocks[2];                  /* 4 KiB blocks touched: reads, writes */
	_Atomic uint64_t joined[2], joined_bytes[2]; /* sequential */
	_Atomic uint64_t runs[2][TALLY_RUNS];        /* that ended, by length */
	uint8_t apart[CACHELINE];                    /* no line is two shards' */
};

struct tally_latency {
	_Atomic uint64_t buckets[TALLY_LATENCY];
	_Atomic uint64_t sum_ns, max_ns;
};

struct tally {
	struct tally_shard shards[TALLY_SHARDS]; /* one core, or a few, each */
	struct tally_latency latency[TALLY_TIMED];
};

/* The same without atomics, summed; also the form that is kept. */
struct tally_sum {
	uint64_t sizes[TALLY_OPS][TALLY_SIZES];
	uint64_t operations[TALLY_OPS], bytes[TALLY_OPS];
	uint64_t blocks[2], joined[2], joined_bytes[2];
	uint64_t runs[2][TALLY_RUNS];
	uint64_t latency[TALLY_TIMED][TALLY_LATENCY];
	uint64_t latency_samples[TALLY_TIMED], latency_sum_ns[TALLY_TIMED],
	        latency_max_ns[TALLY_TIMED];
};

static inline struct tally_shard *tally_here(struct tally *t)
{
	return &t->shards[(unsigned)sched_getcpu() % TALLY_SHARDS];
}

static inline void tally_add(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

/* 0 for up to `first`, one more for each doubling; at most n - 1. */
static inline unsigned tally_bucket(uint64_t value, unsigned first_shift, unsigned n)
{
	if (value <= 1ull << first_shift)
		return 0;
	const unsigned bits = 64 - (unsigned)__builtin_clzll(value - 1);
	return MIN(bits - first_shift, n - 1);
}
#define TALLY_SIZE_SHIFT 9
#define TALLY_RUN_SHIFT  12

static inline void tally_request(struct tally_shard *s, enum tally_op op, uint64_t len)
{
	tally_add(&s->sizes[op][tally_bucket(len, TALLY_SIZE_SHIFT, TALLY_SIZES)], 1);
	tally_add(&s->bytes[op], len);
}

void tally_latency(struct tally *t, enum tally_op op, uint64_t ns);
/* Upper end of a latency bucket; UINT64_MAX for the last. */
uint64_t tally_latency_end(unsigned i);
void tally_reset(struct tally *t);
void tally_sum(const struct tally *t, struct tally_sum *ret_sum);
/* Adds what was kept. */
void tally_restore(struct tally *t, const struct tally_sum *kept);
/* The latency that a share of the samples does not exceed (upper end of its bucket); 0 for none. */
uint64_t tally_quantile(const struct tally_sum *s, enum tally_op op, double share);

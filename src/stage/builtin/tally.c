/*
 * tally.c - summing, keeping and forgetting counters
 *
 * Each core has counters for itself (sched_getcpu() is a load from the thread's rseq area), so a
 * request's additions stay in its own cache; a thread that moves in between adds to a neighbour's,
 * which atomics make right and only slower.  Latencies are sampled and share one set.
 */
#include "stage/builtin/tally.h"

#include <string.h>

#define LATENCY_SHIFT 8 /* 256 ns */

static unsigned latency_bucket(uint64_t ns)
{
	if (ns < 1u << LATENCY_SHIFT)
		return 0;
	const unsigned octave = 63 - (unsigned)__builtin_clzll(ns);
	const unsigned quarter = (unsigned)(ns >> (octave - 2)) & 3;
	return MIN(1 + (octave - LATENCY_SHIFT) * 4 + quarter, TALLY_LATENCY - 1);
}

uint64_t tally_latency_end(unsigned i)
{
	if (i >= TALLY_LATENCY - 1)
		return UINT64_MAX;
	if (i == 0)
		return 1u << LATENCY_SHIFT;
	const unsigned octave = LATENCY_SHIFT + (i - 1) / 4;
	return (uint64_t)(5 + (i - 1) % 4) << (octave - 2);
}

void tally_latency(struct tally *t, enum tally_op op, uint64_t ns)
{
	struct tally_latency *l = &t->latency[op];
	uint64_t max = atomic_load_explicit(&l->max_ns, memory_order_relaxed);

	tally_add(&l->buckets[latency_bucket(ns)], 1);
	tally_add(&l->sum_ns, ns);
	while (ns > max && !atomic_compare_exchange_weak_explicit(&l->max_ns, &max, ns,
	                           memory_order_relaxed, memory_order_relaxed))
		;
}

void tally_reset(struct tally *t)
{
	/* Additions that race this survive or not: either is a request about the reset. */
	memset(t, 0, sizeof(*t));
}

static uint64_t load(const _Atomic uint64_t *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

static void sum_shard(const struct tally_shard *s, struct tally_sum *sum)
{
	for (unsigned op = 0; op < TALLY_OPS; op++) {
		for (unsigned i = 0; i < TALLY_SIZES; i++)
			sum->sizes[op][i] += load(&s->sizes[op][i]);
		sum->bytes[op] += load(&s->bytes[op]);
	}
	for (unsigned k = 0; k < 2; k++) {
		sum->blocks[k] += load(&s->blocks[k]);
		sum->joined[k] += load(&s->joined[k]);
		sum->joined_bytes[k] += load(&s->joined_bytes[k]);
		for (unsigned i = 0; i < TALLY_RUNS; i++)
			sum->runs[k][i] += load(&s->runs[k][i]);
	}
}

void tally_sum(const struct tally *t, struct tally_sum *ret_sum)
{
	memset(ret_sum, 0, sizeof(*ret_sum));
	for (unsigned i = 0; i < TALLY_SHARDS; i++)
		sum_shard(&t->shards[i], ret_sum);
	for (unsigned op = 0; op < TALLY_OPS; op++)
		for (unsigned i = 0; i < TALLY_SIZES; i++)
			ret_sum->operations[op] += ret_sum->sizes[op][i];
	for (unsigned op = 0; op < TALLY_TIMED; op++) {
		for (unsigned i = 0; i < TALLY_LATENCY; i++) {
			ret_sum->latency[op][i] = load(&t->latency[op].buckets[i]);
			ret_sum->latency_samples[op] += ret_sum->latency[op][i];
		}
		ret_sum->latency_sum_ns[op] = load(&t->latency[op].sum_ns);
		ret_sum->latency_max_ns[op] = load(&t->latency[op].max_ns);
	}
}

void tally_restore(struct tally *t, const struct tally_sum *kept)
{
	struct tally_shard *s = &t->shards[0];

	for (unsigned op = 0; op < TALLY_OPS; op++) {
		for (unsigned i = 0; i < TALLY_SIZES; i++)
			tally_add(&s->sizes[op][i], kept->sizes[op][i]);
		tally_add(&s->bytes[op], kept->bytes[op]);
	}
	for (unsigned k = 0; k < 2; k++) {
		tally_add(&s->blocks[k], kept->blocks[k]);
		tally_add(&s->joined[k], kept->joined[k]);
		tally_add(&s->joined_bytes[k], kept->joined_bytes[k]);
		for (unsigned i = 0; i < TALLY_RUNS; i++)
			tally_add(&s->runs[k][i], kept->runs[k][i]);
	}
	for (unsigned op = 0; op < TALLY_TIMED; op++) {
		for (unsigned i = 0; i < TALLY_LATENCY; i++)
			tally_add(&t->latency[op].buckets[i], kept->latency[op][i]);
		tally_add(&t->latency[op].sum_ns, kept->latency_sum_ns[op]);
		atomic_store_explicit(
		        &t->latency[op].max_ns, kept->latency_max_ns[op], memory_order_relaxed);
	}
}

uint64_t tally_quantile(const struct tally_sum *s, enum tally_op op, double share)
{
	const double want = share * (double)s->latency_samples[op];
	uint64_t seen = 0;

	if (!s->latency_samples[op])
		return 0;
	for (unsigned i = 0; i < TALLY_LATENCY; i++) {
		seen += s->latency[op][i];
		if ((double)seen >= want)
			return MIN(tally_latency_end(i), s->latency_max_ns[op]);
	}
	return s->latency_max_ns[op];
}

/*
 * account.c - what a stage costs: exact counts of every request, times of a sample
 *
 * Counts are relaxed atomics in a cache line that one thread in PIPELINE_SHARDS writes; a reader may
 * see a slightly torn picture, which numbers for people tolerate.  bytes are those asked for.
 *
 * Times are taken of one request in STAGE_SAMPLE, drawn at random and not counted off, so that a
 * guest that alternates between two kinds of requests does not have only one of them measured.  One
 * clock read a boundary gives what the stage added, waits included.
 *
 * CPU time needs a system call a reading (CLOCK_THREAD_CPUTIME_ID), some 200-300 ns, so it is read of
 * one request in CPU_SAMPLE, one whose latency is not taken, and what the reading itself costs,
 * measured once, is taken off.
 *
 * What a stage does beside the requests that pass it is its cost as well: work and timers (each read
 * at both ends; of work that is under way, the thread's clock is read when somebody asks, for looking
 * through an image takes minutes), actions, and requests of its own, of which one in
 * ACCOUNT_OWN_SAMPLE is measured.  Those take in what the storage below does for them on that
 * thread: nobody would have asked for it but this stage.
 */
#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "stage/pipeline-private.h"

#define CPU_SAMPLE 256u

static _Atomic uint64_t cpu_overhead_ns = UINT64_MAX; /* of one reading; not measured yet */

/* --- sampling --- */

/* xorshift32 (Marsaglia 2003), a state a thread. */
static uint32_t draw(void)
{
	static _Thread_local uint32_t x;

	if (UNLIKELY(!x))
		x = 2463534242u ^ (gate_shard() + 1) * 2654435761u;
	x ^= x << 13;
	x ^= x >> 17;
	x ^= x << 5;
	return x;
}

void account_sample(struct request *req)
{
	struct request_trip *t = &req->trip;
	const uint32_t drawn = draw();

	t->sampled_cpu = drawn % CPU_SAMPLE == 1; /* never one whose time is taken, too */
	if (LIKELY(drawn % STAGE_SAMPLE != 0))
		return;
	t->sampled = true;
	memset(t->stage_ns, 0, t->version->n * sizeof(*t->stage_ns));
	t->started_ns = t->boundary_ns = clock_now_ns();
}

void account_calibrate(void)
{
	uint64_t best = UINT64_MAX;

	for (unsigned i = 0; i < 64; i++) {
		const uint64_t start = clock_thread_ns();
		const uint64_t took = clock_thread_ns() - start;
		best = MIN(best, took);
	}
	atomic_store(&cpu_overhead_ns, best);
}

void account_cpu(struct account *a, uint64_t since_ns, bool first)
{
	const uint64_t took = clock_thread_ns() - since_ns;
	const uint64_t overhead = atomic_load_explicit(&cpu_overhead_ns, memory_order_relaxed);

	if (took > overhead)
		atomic_fetch_add_explicit(&a->cpu_ns, took - overhead, memory_order_relaxed);
	if (first)
		atomic_fetch_add_explicit(&a->cpu_samples, 1, memory_order_relaxed);
}

void account_own_cpu(struct account *a, uint64_t since_ns, unsigned weight)
{
	const uint64_t took = clock_thread_ns() - since_ns;

	atomic_fetch_add_explicit(&a->own_cpu_ns, took * weight, memory_order_relaxed);
}

bool account_own_sampled(void)
{
	return draw() % ACCOUNT_OWN_SAMPLE == 0;
}

/* --- histogram --- */

/* Below 8 ns one bucket each; then an octave is cut into eight. */
static unsigned bucket_of(uint64_t ns)
{
	if (ns < LATENCY_STEPS)
		return (unsigned)ns;
	const unsigned octave = 63 - (unsigned)__builtin_clzll(ns); /* from 3 */
	const unsigned step = (unsigned)(ns >> (octave - 3)) & (LATENCY_STEPS - 1);
	return MIN((octave - 2) * LATENCY_STEPS + step, LATENCY_BUCKETS - 1);
}

/* The middle of a bucket. */
static uint64_t bucket_ns(unsigned bucket)
{
	if (bucket < LATENCY_STEPS)
		return bucket;
	const unsigned octave = bucket / LATENCY_STEPS + 2, step = bucket % LATENCY_STEPS;
	const uint64_t width = 1ull << (octave - 3);
	return (LATENCY_STEPS + step) * width + width / 2;
}

void latency_record(struct latency *l, uint64_t ns)
{
	atomic_fetch_add_explicit(&l->samples, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&l->sum_ns, ns, memory_order_relaxed);
	atomic_fetch_add_explicit(&l->buckets[bucket_of(ns)], 1, memory_order_relaxed);
}

static uint64_t latency_percentile(struct latency *l, uint64_t samples, unsigned percent)
{
	const uint64_t rank = DIV_UP(samples * percent, 100);
	uint64_t below = 0;

	for (unsigned i = 0; i < LATENCY_BUCKETS; i++) {
		below += atomic_load_explicit(&l->buckets[i], memory_order_relaxed);
		if (below >= rank && below > 0)
			return bucket_ns(i);
	}
	return 0;
}

static void latency_account(struct latency *l, struct stage_account *a)
{
	a->samples = atomic_load_explicit(&l->samples, memory_order_relaxed);
	if (a->samples == 0)
		return;
	a->mean_ns = atomic_load_explicit(&l->sum_ns, memory_order_relaxed) / a->samples;
	a->p50_ns = latency_percentile(l, a->samples, 50);
	a->p99_ns = latency_percentile(l, a->samples, 99);
}

/* --- a request leaves --- */

static void account_times(const struct request *req)
{
	const struct request_trip *t = &req->trip;
	const struct pipeline_version *v = t->version;

	latency_record(&v->p->whole, clock_now_ns() - t->started_ns);
	for (unsigned i = 0; i < v->n; i++)
		if (t->stage_ns[i])
			latency_record(&v->links[i]->account.latency, t->stage_ns[i] - 1);
}

void account_trip(const struct request *req)
{
	const struct request_trip *t = &req->trip;
	struct pipeline_shard *s = &t->version->p->shards[t->shard];

	if (UNLIKELY(t->sampled))
		account_times(req);
	if (t->owner)
		return;
	if (req->result < 0)
		atomic_fetch_add_explicit(&s->errors, 1, memory_order_relaxed);
	else if (req->op == REQUEST_READ)
		atomic_fetch_add_explicit(&s->bytes_read, req->out.len, memory_order_relaxed);
	else if (req->op == REQUEST_WRITE)
		atomic_fetch_add_explicit(&s->bytes_written, req->done, memory_order_relaxed);
}

/* --- asked for --- */

static uint64_t sum(const _Atomic uint64_t *first, size_t stride)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < PIPELINE_SHARDS; i++)
		n += atomic_load_explicit(
		        (const _Atomic uint64_t *)((const char *)first + i * stride),
		        memory_order_relaxed);
	return n;
}

static void account_whole(struct pipeline *p, struct stage_account *ret)
{
	const struct pipeline_shard *s = p->shards;
	struct stage_account a = {
	        .bytes_read = sum(&s->bytes_read, sizeof(*s)),
	        .bytes_written = sum(&s->bytes_written, sizeof(*s)),
	        .errors = sum(&s->errors, sizeof(*s)),
	        .share = 1,
	};

	for (unsigned op = 0; op < REQUEST_OPS; op++)
		a.requests[op] = sum(&s->entered[op], sizeof(*s));
	latency_account(&p->whole, &a);
	*ret = a;
}

static void account_link(struct pipeline *p, struct stage_link *l, struct stage_account *ret)
{
	const struct link_shard *s = l->account.shards;
	struct stage_account a = {
	        .bytes_read = sum(&s->bytes_read, sizeof(*s)),
	        .bytes_written = sum(&s->bytes_written, sizeof(*s)),
	        .errors = sum(&s->errors, sizeof(*s)),
	        .answered = sum(&s->answered, sizeof(*s)),
	        .kept = sum(&s->kept, sizeof(*s)),
	};
	uint64_t n = 0;

	for (unsigned op = 0; op < REQUEST_OPS; op++)
		n += a.requests[op] = sum(&s->requests[op], sizeof(*s));
	latency_account(&l->account.latency, &a);
	const uint64_t cpu_samples = atomic_load(&l->account.cpu_samples);
	if (cpu_samples)
		a.cpu_seconds = (double)atomic_load(&l->account.cpu_ns) / (double)cpu_samples *
		                (double)n / (double)NS_PER_SEC;
	const uint64_t own_ns = atomic_load(&l->account.own_cpu_ns) + works_cpu_ns(p->rt->works, l);
	a.cpu_seconds += (double)own_ns / (double)NS_PER_SEC;
	const uint64_t whole_ns = atomic_load(&p->whole.sum_ns);
	if (whole_ns)
		a.share = MIN(
		        1.0, (double)atomic_load(&l->account.latency.sum_ns) / (double)whole_ns);
	*ret = a;
}

int pipeline_account(struct pipeline *p, uint64_t link, struct stage_account *ret_account)
{
	pthread_mutex_lock(&p->control);
	struct stage_link *l = link ? pipeline_link(p, link) : NULL;
	if (l)
		account_link(p, l, ret_account);
	else if (link == 0)
		account_whole(p, ret_account);
	pthread_mutex_unlock(&p->control);
	return l || link == 0 ? 0 : -ENOENT;
}

/*
 * runtime.c - what the pipelines of a datastore share: workers, memory for kept data, reservations
 *
 * Workers go on with requests that stages kept and begin own requests of stages.  They may wait in
 * the bottom, as the threads of guests may; nothing that a worker waits for needs another worker: the
 * bottom does not know of requests, and complete() does not wait.  What may wait for requests (work)
 * has threads of its own.
 *
 * The memory for kept data is one counter: at most PIPELINE_KEPT_BYTES for all images together.  Who
 * does not get any waits for its own request instead (drive.c), so nobody ever waits for memory that
 * only he could set free.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "stage/pipeline-private.h"

#define WORKERS_MIN 8u
#define WORKERS_MAX 32u

/* --- the run queue --- */

void runtime_run(struct stage_runtime *rt, struct request *req)
{
	req->trip.next = NULL;
	pthread_mutex_lock(&rt->run_lock);
	*rt->run_tail = req;
	rt->run_tail = &req->trip.next;
	pthread_cond_signal(&rt->run_cond);
	pthread_mutex_unlock(&rt->run_lock);
}

/* NULL: stopping. */
static struct request *take(struct stage_runtime *rt)
{
	pthread_mutex_lock(&rt->run_lock);
	while (!rt->run_head && !rt->stopping)
		pthread_cond_wait(&rt->run_cond, &rt->run_lock);
	struct request *req = rt->run_head;
	if (req) {
		rt->run_head = req->trip.next;
		if (!rt->run_head)
			rt->run_tail = &rt->run_head;
	}
	pthread_mutex_unlock(&rt->run_lock);
	return req;
}

static void *worker(void *arg)
{
	struct stage_runtime *rt = arg;

	for (struct request *req; (req = take(rt));)
		trip_go_on(req);
	return NULL;
}

/* --- kept data --- */

void *runtime_keep(struct stage_runtime *rt, const void *data, size_t len)
{
	if (atomic_fetch_add(&rt->kept_bytes, len) + len <= PIPELINE_KEPT_BYTES) {
		void *copy = malloc(len);
		if (copy)
			return memcpy(copy, data, len);
	}
	atomic_fetch_sub(&rt->kept_bytes, len);
	return NULL;
}

void runtime_unkeep(struct stage_runtime *rt, void *copy, size_t len)
{
	free(copy);
	atomic_fetch_sub(&rt->kept_bytes, len);
}

/* --- reservations --- */

int runtime_reserve(struct stage_link *l, uint64_t bytes, struct errmsg *em)
{
	struct stage_runtime *rt = l->p->rt;

	pthread_mutex_lock(&rt->reserve_lock);
	const uint64_t others = rt->reserved_bytes - l->reserved_bytes;
	const uint64_t left = rt->reserve_bytes_max - others;
	const bool fits = bytes <= left;
	if (fits) {
		rt->reserved_bytes = others + bytes;
		l->reserved_bytes = bytes;
	}
	pthread_mutex_unlock(&rt->reserve_lock);
	if (fits)
		return 0;
	return errmsg_set(em, -ENOSPC,
	        "cannot reserve %llu bytes of the content cache: %llu of the %llu that filters may "
	        "have are left (mount with a larger cache)",
	        (unsigned long long)bytes, (unsigned long long)left,
	        (unsigned long long)rt->reserve_bytes_max);
}

/* --- making --- */

static unsigned workers_default(void)
{
	const long cores = sysconf(_SC_NPROCESSORS_ONLN);
	const unsigned twice = cores > 0 ? 2 * (unsigned)cores : 2;

	return MIN(MAX(twice, WORKERS_MIN), WORKERS_MAX);
}

static int start_workers(struct stage_runtime *rt, unsigned n)
{
	rt->workers = calloc(n, sizeof(*rt->workers));
	if (!rt->workers)
		return -ENOMEM;
	for (; rt->n_workers < n; rt->n_workers++) {
		const int r = pthread_create(&rt->workers[rt->n_workers], NULL, worker, rt);
		if (r)
			return -r;
	}
	return 0;
}

int stage_runtime_new(const struct stage_runtime_config *cfg, struct stage_runtime **ret_rt)
{
	struct stage_runtime *rt = calloc(1, sizeof(*rt));

	if (!rt)
		return -ENOMEM;
	rt->reserve_bytes_max = cfg->reserve_bytes;
	rt->run_tail = &rt->run_head;
	pthread_mutex_init(&rt->run_lock, NULL);
	pthread_cond_init(&rt->run_cond, NULL);
	pthread_mutex_init(&rt->reserve_lock, NULL);
	account_calibrate();
	int r = timers_new(&rt->timers);
	if (r == 0)
		r = works_new(&rt->works);
	if (r == 0)
		r = start_workers(rt, cfg->workers ? cfg->workers : workers_default());
	if (r < 0) {
		stage_runtime_free(rt);
		return r;
	}
	*ret_rt = rt;
	return 0;
}

void stage_runtime_free(struct stage_runtime *rt)
{
	if (!rt)
		return;
	pthread_mutex_lock(&rt->run_lock);
	ASSERT(!rt->run_head);
	rt->stopping = true;
	pthread_cond_broadcast(&rt->run_cond);
	pthread_mutex_unlock(&rt->run_lock);
	for (unsigned i = 0; i < rt->n_workers; i++)
		pthread_join(rt->workers[i], NULL);
	works_free(rt->works);
	timers_free(rt->timers);
	ASSERT(atomic_load(&rt->kept_bytes) == 0);
	pthread_mutex_destroy(&rt->run_lock);
	pthread_cond_destroy(&rt->run_cond);
	pthread_mutex_destroy(&rt->reserve_lock);
	free(rt->workers);
	free(rt);
}

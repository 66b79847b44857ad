/*
 * work.c - threads for what stages do in the background and may wait
 *
 * Work of one stage may wait for requests that another stage keeps until its own work is done.  So
 * work must not wait for a thread that other work has: a thread is started whenever none is idle, up
 * to WORK_THREADS_MAX, and threads stay once started.  One piece of work a stage bounds their number.
 *
 * A stage that is not in a version yet (its create() asks for work) has it parked until it is.
 */
#include <errno.h>

#include "base/clock.h"
#include "stage/pipeline-private.h"

#define WORK_THREADS_MAX 256u

struct works {
	pthread_mutex_t lock;
	pthread_cond_t queued, done;
	struct stage_link *head, **tail;
	unsigned n_threads, n_idle, n_queued;
	bool stopping;
	pthread_t threads[WORK_THREADS_MAX];
};

static struct stage_link *pop(struct works *w)
{
	struct stage_link *l = w->head;

	w->head = l->work_next;
	if (!w->head)
		w->tail = &w->head;
	w->n_queued--;
	return l;
}

static void run(struct works *w, struct stage_link *l)
{
	void (*fn)(void *) = l->work_fn;
	const uint64_t start_ns = clock_thread_ns();

	l->work = WORK_RUNNING;
	const int r = pthread_getcpuclockid(pthread_self(), &l->work_clock);
	ASSERT(r == 0); /* of a thread that runs */
	l->work_cpu_ns = start_ns;
	pthread_mutex_unlock(&w->lock);
	if (!atomic_load(&l->cancelled))
		fn(l->stage);
	pthread_mutex_lock(&w->lock);
	account_own_cpu(&l->account, start_ns, 1); /* with the lock: never counted twice */
	l->work = WORK_IDLE;
	pthread_cond_broadcast(&w->done);
}

static void *work_thread(void *arg)
{
	struct works *w = arg;

	pthread_mutex_lock(&w->lock);
	for (;;) {
		w->n_idle++;
		while (!w->head && !w->stopping)
			pthread_cond_wait(&w->queued, &w->lock);
		w->n_idle--;
		if (!w->head)
			break;
		run(w, pop(w));
	}
	pthread_mutex_unlock(&w->lock);
	return NULL;
}

/* Under the lock.  Where no thread can be had, those that are there come to it. */
static void start_thread(struct works *w)
{
	if (w->n_idle >= w->n_queued || w->n_threads == WORK_THREADS_MAX)
		return;
	if (pthread_create(&w->threads[w->n_threads], NULL, work_thread, w) == 0)
		w->n_threads++;
}

static void push(struct works *w, struct stage_link *l)
{
	l->work = WORK_QUEUED;
	l->work_next = NULL;
	*w->tail = l;
	w->tail = &l->work_next;
	w->n_queued++;
	start_thread(w);
	pthread_cond_signal(&w->queued);
}

bool works_add(struct works *w, struct stage_link *l, void (*fn)(void *stage))
{
	pthread_mutex_lock(&w->lock);
	const bool free_now = l->work == WORK_IDLE && !atomic_load(&l->cancelled);
	if (free_now) {
		l->work_fn = fn;
		if (atomic_load(&l->at) < 0)
			l->work = WORK_PARKED;
		else
			push(w, l);
	}
	pthread_mutex_unlock(&w->lock);
	return free_now;
}

void works_unpark(struct works *w, struct stage_link *l)
{
	pthread_mutex_lock(&w->lock);
	if (l->work == WORK_PARKED)
		push(w, l);
	pthread_mutex_unlock(&w->lock);
}

void works_wait(struct works *w, struct stage_link *l)
{
	pthread_mutex_lock(&w->lock);
	if (l->work == WORK_PARKED)
		l->work = WORK_IDLE;
	while (l->work != WORK_IDLE)
		pthread_cond_wait(&w->done, &w->lock);
	pthread_mutex_unlock(&w->lock);
}

uint64_t works_cpu_ns(struct works *w, struct stage_link *l)
{
	struct timespec ts;
	uint64_t ns = 0;

	pthread_mutex_lock(&w->lock);
	if (l->work == WORK_RUNNING && clock_gettime(l->work_clock, &ts) == 0)
		ns = clock_timespec_ns(&ts) - l->work_cpu_ns;
	pthread_mutex_unlock(&w->lock);
	return ns;
}

/* The first thread is started here, so that there is always one. */
int works_new(struct works **ret_works)
{
	struct works *w = calloc(1, sizeof(*w));

	if (!w)
		return -ENOMEM;
	w->tail = &w->head;
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->queued, NULL);
	pthread_cond_init(&w->done, NULL);
	const int r = pthread_create(&w->threads[0], NULL, work_thread, w);
	if (r) {
		free(w);
		return -r;
	}
	w->n_threads = 1;
	*ret_works = w;
	return 0;
}

void works_free(struct works *w)
{
	if (!w)
		return;
	pthread_mutex_lock(&w->lock);
	w->stopping = true;
	pthread_cond_broadcast(&w->queued);
	pthread_mutex_unlock(&w->lock);
	for (unsigned i = 0; i < w->n_threads; i++)
		pthread_join(w->threads[i], NULL);
	pthread_mutex_destroy(&w->lock);
	pthread_cond_destroy(&w->queued);
	pthread_cond_destroy(&w->done);
	free(w);
}

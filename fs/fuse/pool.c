/*
 * pool.c - see pool.h
 *
 * A thread is *active* while it reads or works on a request and is not waiting.  There are `target`
 * active ones; when waits leave fewer than half of them, a parked thread takes over, or a new one
 * is made.  A thread that comes back from its wait finishes its request and parks if enough are
 * active without it.  More than PARKED_MAX parked threads are not kept.
 *
 * Each thread reads the device through a clone of its own.  A request that a filter stage keeps holds
 * no thread: it is answered later from another, through the same clone (device.h), also when the
 * thread that read it has ended.  pool_serve() returns when those are answered, too.
 *
 * Ending: SIGUSR1 interrupts the read of /dev/fuse; sent again and again, since a signal that comes
 * just before the read is lost.
 */
#include "fs/fuse/pool.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

#include "base/blocking.h"
#include "base/clock.h"
#include "base/log.h"
#include "fs/fuse/device.h"
#include "fs/fuse/io.h"

#define THREADS_MAX_DEFAULT 64u
#define TARGET_MIN          2u
#define TARGET_MAX          8u
#define PARKED_MAX          8u
#define END_POLL_NS         (20 * NS_PER_MS)

struct pool_thread {
	struct pool *pool;
	struct pool_thread *next; /* pool.lock */
	pthread_t id;
};

struct pool {
	struct fuse_session *fuse;
	struct blocking_hooks hooks;
	pthread_mutex_t lock;
	pthread_cond_t unpark, gone;
	struct pool_thread *threads; /* lock */
	unsigned n_threads;          /* lock */
	_Atomic unsigned active;     /* changed with the lock; thread_serve() looks without */
	unsigned parked;             /* lock */
	unsigned wakeups;            /* lock: parked ones told to go on */
	unsigned target, threads_max;
	int error; /* lock: first that reading the device gave */
	_Atomic bool ending;
};

/* --- one thread --- */

/* With the lock: may this thread go on, after parking if need be? */
static bool thread_activate(struct pool *p)
{
	if (p->active >= p->target) {
		if (p->parked >= PARKED_MAX)
			return false;
		p->parked++;
		while (p->wakeups == 0 && !p->ending)
			pthread_cond_wait(&p->unpark, &p->lock);
		p->parked--;
		if (p->wakeups > 0)
			p->wakeups--;
	}
	p->active++;
	return !p->ending;
}

/* Serves while it is one of the active ones; false: the session has ended. */
static bool thread_serve(struct pool *p, struct fuse_buf *buf)
{
	for (;;) {
		const int n = fuse_session_receive_buf(p->fuse, buf);
		if (n == -EINTR && !p->ending)
			continue;
		if (n <= 0 || p->ending || fuse_session_exited(p->fuse)) {
			pthread_mutex_lock(&p->lock);
			if (n < 0 && n != -EINTR && !p->error)
				p->error = n;
			pthread_mutex_unlock(&p->lock);
			return false;
		}
		fuse_session_process_buf(p->fuse, buf);
		/* A look without the lock: whoever is wrong for one request parks after the next.
		 */
		if (atomic_load_explicit(&p->active, memory_order_relaxed) > p->target)
			return true;
	}
}

static void thread_loop(struct pool *p)
{
	struct fuse_buf buf = {0};
	bool more = true;

	pthread_mutex_lock(&p->lock);
	while (more && thread_activate(p)) {
		pthread_mutex_unlock(&p->lock);
		more = thread_serve(p, &buf);
		pthread_mutex_lock(&p->lock);
		p->active--;
	}
	if (!more || p->ending) {
		p->ending = true;
		pthread_cond_broadcast(&p->unpark);
	}
	pthread_mutex_unlock(&p->lock);
	free(buf.mem);
}

static void thread_remove(struct pool *p, struct pool_thread *t, int error)
{
	pthread_mutex_lock(&p->lock);
	struct pool_thread **at = &p->threads;
	while (*at != t)
		at = &(*at)->next;
	*at = t->next;
	if (!p->error)
		p->error = error;
	if (--p->n_threads == 0)
		pthread_cond_signal(&p->gone);
	pthread_mutex_unlock(&p->lock);
	free(t);
}

static void *thread_main(void *arg)
{
	struct pool_thread *t = arg;
	struct pool *p = t->pool;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	const int r = device_clone_open(fuse_session_fd(p->fuse));
	blocking_set(&p->hooks);
	if (!r)
		thread_loop(p);
	blocking_set(NULL);
	io_thread_end();
	device_clone_close();
	thread_remove(p, t, r);
	return NULL;
}

/* With the lock. */
static int thread_start(struct pool *p)
{
	struct pool_thread *t = calloc(1, sizeof(*t));
	pthread_attr_t attr;

	if (!t)
		return -ENOMEM;
	t->pool = p;
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	const int r = pthread_create(&t->id, &attr, thread_main, t);
	pthread_attr_destroy(&attr);
	if (r != 0) {
		free(t);
		return -r;
	}
	t->next = p->threads;
	p->threads = t;
	p->n_threads++;
	return 0;
}

/* --- waiting --- */

static void wait_begin(void *arg)
{
	struct pool *p = arg;

	pthread_mutex_lock(&p->lock);
	p->active--;
	if (p->active + p->wakeups < p->target / 2 && !p->ending) {
		if (p->parked > p->wakeups) {
			p->wakeups++;
			pthread_cond_signal(&p->unpark);
		} else if (p->n_threads < p->threads_max && thread_start(p) < 0) {
			log_trace("no thread to take over; requests wait");
		}
	}
	pthread_mutex_unlock(&p->lock);
}

static void wait_end(void *arg)
{
	struct pool *p = arg;

	pthread_mutex_lock(&p->lock);
	p->active++;
	pthread_mutex_unlock(&p->lock);
}

/* --- the pool --- */

int pool_create(struct fuse_session *fuse, unsigned threads_max, struct pool **ret_pool)
{
	const long cores = sysconf(_SC_NPROCESSORS_ONLN);
	struct pool *p = calloc(1, sizeof(*p));

	if (!p)
		return -ENOMEM;
	p->fuse = fuse;
	p->hooks = (struct blocking_hooks){wait_begin, wait_end, p};
	p->threads_max = threads_max ? MAX(threads_max, TARGET_MIN) : THREADS_MAX_DEFAULT;
	p->target = (unsigned)MIN(MAX(cores, (long)TARGET_MIN), (long)TARGET_MAX);
	p->target = MIN(p->target, p->threads_max);
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->unpark, NULL);
	pthread_cond_init(&p->gone, NULL);
	*ret_pool = p;
	return 0;
}

void pool_free(struct pool *p)
{
	if (!p)
		return;
	ASSERT(p->n_threads == 0);
	pthread_cond_destroy(&p->gone);
	pthread_cond_destroy(&p->unpark);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

/* With the lock: wakes readers of the device. */
static void pool_interrupt(struct pool *p)
{
	for (struct pool_thread *t = p->threads; t; t = t->next)
		pthread_kill(t->id, SIGUSR1);
	pthread_cond_broadcast(&p->unpark);
}

static void pool_wait_gone(struct pool *p)
{
	while (p->n_threads > 0) {
		struct timespec ts;
		if (p->ending)
			pool_interrupt(p);
		clock_gettime(CLOCK_REALTIME, &ts);
		ts.tv_nsec += (long)END_POLL_NS;
		if (ts.tv_nsec >= (long)NS_PER_SEC) {
			ts.tv_nsec -= (long)NS_PER_SEC;
			ts.tv_sec++;
		}
		if (p->ending)
			pthread_cond_timedwait(&p->gone, &p->lock, &ts);
		else
			pthread_cond_wait(&p->gone, &p->lock);
	}
}

int pool_serve(struct pool *p)
{
	int r = 0;

	pthread_mutex_lock(&p->lock);
	for (unsigned i = 0; i < p->target && r == 0; i++)
		r = thread_start(p);
	if (p->n_threads > 0)
		r = 0; /* fewer serve as well */
	pool_wait_gone(p);
	if (r == 0)
		r = p->error;
	pthread_mutex_unlock(&p->lock);
	device_clones_wait();
	return r;
}

void pool_end(struct pool *p)
{
	fuse_session_exit(p->fuse);
	pthread_mutex_lock(&p->lock);
	p->ending = true;
	pthread_cond_signal(&p->gone); /* pool_serve() goes on interrupting */
	pool_interrupt(p);
	pthread_mutex_unlock(&p->lock);
}

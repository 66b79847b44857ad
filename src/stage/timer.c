/*
 * timer.c - the timers of all stages: one thread, a binary heap by time
 *
 * A link has at most one place in the heap, which it knows (timer_slot, from 1), so a timer is moved
 * or taken out in O(log n).  Room for every link is made when the link is made: setting a timer
 * cannot fail.  A stage that is not in a version yet (its create() sets a timer) gets into the heap
 * once it is: before that there may be no stage to call.
 *
 * The thread calls type->timer() without the lock, with `running` set; taking a link out waits until
 * it is not running.  A timer that sets itself again while it runs is simply in the heap again.
 */
#include <errno.h>

#include "base/clock.h"
#include "stage/pipeline-private.h"

struct timers {
	pthread_mutex_t lock;
	pthread_cond_t changed, ran;
	struct stage_link **heap; /* [1..n]; heap[0] is not used */
	size_t n, links, room;
	struct stage_link *running;
	bool stopping;
	pthread_t thread;
};

/* --- the heap --- */

static void place(struct timers *t, size_t slot, struct stage_link *l)
{
	t->heap[slot] = l;
	l->timer_slot = slot;
}

static void sift_up(struct timers *t, size_t slot)
{
	struct stage_link *l = t->heap[slot];

	for (; slot > 1 && t->heap[slot / 2]->timer_at_ns > l->timer_at_ns; slot /= 2)
		place(t, slot, t->heap[slot / 2]);
	place(t, slot, l);
}

static void sift_down(struct timers *t, size_t slot)
{
	struct stage_link *l = t->heap[slot];

	for (;;) {
		size_t child = 2 * slot;
		if (child > t->n)
			break;
		if (child < t->n && t->heap[child + 1]->timer_at_ns < t->heap[child]->timer_at_ns)
			child++;
		if (t->heap[child]->timer_at_ns >= l->timer_at_ns)
			break;
		place(t, slot, t->heap[child]);
		slot = child;
	}
	place(t, slot, l);
}

static void take_out(struct timers *t, struct stage_link *l)
{
	const size_t slot = l->timer_slot;

	if (!slot)
		return;
	struct stage_link *last = t->heap[t->n--];
	l->timer_slot = 0;
	if (last == l)
		return;
	place(t, slot, last);
	sift_up(t, slot);
	sift_down(t, last->timer_slot);
}

static void put_in(struct timers *t, struct stage_link *l)
{
	place(t, ++t->n, l);
	sift_up(t, t->n);
	if (l->timer_slot == 1)
		pthread_cond_signal(&t->changed);
}

void timers_set(struct timers *t, struct stage_link *l, uint64_t at_ns)
{
	pthread_mutex_lock(&t->lock);
	take_out(t, l);
	l->timer_at_ns = at_ns;
	if (at_ns && atomic_load(&l->at) >= 0)
		put_in(t, l);
	pthread_mutex_unlock(&t->lock);
}

void timers_unpark(struct timers *t, struct stage_link *l)
{
	pthread_mutex_lock(&t->lock);
	if (l->timer_at_ns && !l->timer_slot)
		put_in(t, l);
	pthread_mutex_unlock(&t->lock);
}

/* --- the thread --- */

static void wait_until(struct timers *t, uint64_t at_ns)
{
	const struct timespec ts = {
	        .tv_sec = (time_t)(at_ns / NS_PER_SEC), .tv_nsec = (long)(at_ns % NS_PER_SEC)};

	pthread_cond_timedwait(&t->changed, &t->lock, &ts);
}

static void call(struct timers *t, struct stage_link *l)
{
	take_out(t, l);
	l->timer_at_ns = 0;
	t->running = l;
	pthread_mutex_unlock(&t->lock);
	const uint64_t start_ns = clock_thread_ns();
	l->type->timer(l->stage);
	account_own_cpu(&l->account, start_ns, 1);
	pthread_mutex_lock(&t->lock);
	t->running = NULL;
	pthread_cond_broadcast(&t->ran);
}

static void *timer_thread(void *arg)
{
	struct timers *t = arg;

	pthread_mutex_lock(&t->lock);
	while (!t->stopping) {
		if (t->n == 0)
			pthread_cond_wait(&t->changed, &t->lock);
		else if (t->heap[1]->timer_at_ns > clock_now_ns())
			wait_until(t, t->heap[1]->timer_at_ns);
		else
			call(t, t->heap[1]);
	}
	pthread_mutex_unlock(&t->lock);
	return NULL;
}

/* --- links --- */

int timers_add(struct timers *t)
{
	int r = 0;

	pthread_mutex_lock(&t->lock);
	if (t->links + 2 > t->room) {
		const size_t room = 2 * (t->links + 2);
		struct stage_link **heap = realloc(t->heap, room * sizeof(struct stage_link *));
		if (heap) {
			t->heap = heap;
			t->room = room;
		} else {
			r = -ENOMEM;
		}
	}
	if (r == 0)
		t->links++;
	pthread_mutex_unlock(&t->lock);
	return r;
}

void timers_remove(struct timers *t, struct stage_link *l)
{
	pthread_mutex_lock(&t->lock);
	while (t->running == l)
		pthread_cond_wait(&t->ran, &t->lock);
	take_out(t, l);
	t->links--;
	pthread_mutex_unlock(&t->lock);
}

int timers_new(struct timers **ret_timers)
{
	struct timers *t = calloc(1, sizeof(*t));
	pthread_condattr_t attr;

	if (!t)
		return -ENOMEM;
	pthread_mutex_init(&t->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&t->changed, &attr);
	pthread_condattr_destroy(&attr);
	pthread_cond_init(&t->ran, NULL);
	const int r = pthread_create(&t->thread, NULL, timer_thread, t);
	if (r) {
		free(t);
		return -r;
	}
	*ret_timers = t;
	return 0;
}

void timers_free(struct timers *t)
{
	if (!t)
		return;
	pthread_mutex_lock(&t->lock);
	t->stopping = true;
	pthread_cond_signal(&t->changed);
	pthread_mutex_unlock(&t->lock);
	pthread_join(t->thread, NULL);
	pthread_mutex_destroy(&t->lock);
	pthread_cond_destroy(&t->changed);
	pthread_cond_destroy(&t->ran);
	free(t->heap);
	free(t);
}

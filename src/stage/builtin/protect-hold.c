/*
 * protect-hold.c - see protect-hold.h
 *
 * Whoever finds it on takes the lock and looks again, so nothing is added once it has ended.
 */
#include "stage/builtin/protect-hold.h"

void hold_init(struct hold *h)
{
	*h = (struct hold){0};
	pthread_mutex_init(&h->lock, NULL);
	h->last = &h->first;
}

void hold_destroy(struct hold *h)
{
	ASSERT(!h->first);
	pthread_mutex_destroy(&h->lock);
}

void hold_begin(struct hold *h)
{
	pthread_mutex_lock(&h->lock);
	atomic_store(&h->on, true);
	pthread_mutex_unlock(&h->lock);
}

bool hold_keep(struct hold *h, struct held *held, struct request *req)
{
	if (LIKELY(!atomic_load_explicit(&h->on, memory_order_acquire)))
		return false;
	pthread_mutex_lock(&h->lock);
	const bool on = atomic_load(&h->on);
	if (on) {
		*held = (struct held){.req = req};
		*h->last = held;
		h->last = &held->next;
	}
	pthread_mutex_unlock(&h->lock);
	return on;
}

struct held *hold_end(struct hold *h)
{
	pthread_mutex_lock(&h->lock);
	struct held *list = h->first;
	atomic_store(&h->on, false);
	h->first = NULL;
	h->last = &h->first;
	pthread_mutex_unlock(&h->lock);
	return list;
}

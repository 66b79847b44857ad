/*
 * gate.c - who is in a pipeline, and how it becomes empty
 *
 * Every request has a *floor*: 0 for the guest's, i + 1 for own requests of stage i.  A request that
 * a stage keeps may wait for that stage's own requests, never for one with the same or a lower floor.
 * So a pipeline is drained from the top, level by level: shut level 0, wait until nobody of level 0
 * is in; shut level 1, and so on.  While a level empties, the levels that it may wait for are open;
 * that is why draining cannot deadlock with own requests.
 *
 * Entering: count up, then look at `shut`.  Draining: raise `shut`, then look at the counts.  All four
 * are sequentially consistent, so in the one order of them either the count comes before the
 * drainer's look, who then waits for it, or `shut` was raised before the entrant's look, who then
 * turns back.  The guests' counts are two sums a shard, entered and left, and the drainer reads left
 * first.  Who is in at that time t1 has counted in `entered` for good, so entered(t2) - left(t1) is at
 * least their number (plus some who are about to turn back); if it is 0, nobody was in at t1, and
 * whoever comes after t1 turns back.  A request leaves by the shard that it entered by, so shards can
 * be looked at one after the other.  The same sums are the account of operations.
 *
 * Leaving: count, then look whether anybody drains.  By then the pipeline may be gone (the drainer
 * may have seen the count and freed it), so that flag, its lock and its condition are static: they
 * outlive every pipeline.  Again sequentially consistent on both sides: the leaver sees the drainer
 * and wakes it under the lock, or the drainer sees the leaver's count.
 *
 * The version: stored before the gate opens, loaded after the gate was seen open, unchanged while
 * anybody is in.
 */
#include <errno.h>

#include "base/blocking.h"
#include "stage/pipeline-private.h"

static _Atomic unsigned draining; /* how many threads drain a pipeline */
static pthread_mutex_t drain_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t drain_cond = PTHREAD_COND_INITIALIZER;

unsigned gate_shard(void)
{
	static _Atomic unsigned threads;
	static _Thread_local unsigned mine; /* + 1 */

	if (UNLIKELY(!mine))
		mine = 1 + atomic_fetch_add(&threads, 1) % PIPELINE_SHARDS;
	return mine - 1;
}

/* --- leaving --- */

static void wake_drainers(void)
{
	if (LIKELY(!atomic_load(&draining)))
		return;
	pthread_mutex_lock(&drain_lock);
	pthread_cond_broadcast(&drain_cond);
	pthread_mutex_unlock(&drain_lock);
}

void gate_leave(struct pipeline *p, unsigned shard)
{
	atomic_fetch_add(&p->shards[shard].left, 1);
	wake_drainers(); /* p may be gone */
}

void gate_leave_own(struct pipeline *p, unsigned level)
{
	atomic_fetch_sub(&p->own[level], 1);
	wake_drainers();
}

/* --- entering --- */

static void wait_open(struct pipeline *p)
{
	blocking_begin();
	pthread_mutex_lock(&p->gate_lock);
	while (atomic_load(&p->shut) > 0)
		pthread_cond_wait(&p->gate_cond, &p->gate_lock);
	pthread_mutex_unlock(&p->gate_lock);
	blocking_end();
}

void gate_enter(struct pipeline *p, struct request *req)
{
	const unsigned shard = gate_shard();
	struct pipeline_shard *s = &p->shards[shard];

	for (;;) {
		atomic_fetch_add(&s->entered[req->op], 1);
		if (LIKELY(atomic_load(&p->shut) == 0))
			break;
		/* The caller has the pipeline open, so it cannot be gone after this. */
		atomic_fetch_sub(&s->entered[req->op], 1);
		wake_drainers();
		wait_open(p);
	}
	req->trip.shard = (uint16_t)shard;
	req->trip.version = atomic_load_explicit(&p->version, memory_order_acquire);
}

bool gate_enter_own(struct stage_link *l, struct request *req)
{
	struct pipeline *p = l->p;

	for (;;) {
		const int at = atomic_load(&l->at);
		const unsigned level = (unsigned)at + 1;
		ASSERT(at >= 0);
		atomic_fetch_add(&p->own[level], 1);
		const bool shut = atomic_load(&p->shut) > level;
		/* From here on no change can pass; one may have passed before, and moved the stage. */
		const bool moved = atomic_load(&l->at) != at;
		if (LIKELY(!shut && !moved)) {
			req->trip.floor = level;
			req->trip.shard = (uint16_t)gate_shard();
			req->trip.version = atomic_load_explicit(&p->version, memory_order_acquire);
			return true;
		}
		gate_leave_own(p, level);
		if (shut)
			return false;
	}
}

/* Under gate_lock. */
static bool shut_for(const struct stage_link *l)
{
	return atomic_load(&l->p->shut) > (unsigned)atomic_load(&l->at) + 1;
}

int gate_enter_own_wait(struct stage_link *l, struct request *req)
{
	struct pipeline *p = l->p;

	while (!gate_enter_own(l, req)) {
		blocking_begin();
		pthread_mutex_lock(&p->gate_lock);
		while (shut_for(l) && !atomic_load(&l->cancelled))
			pthread_cond_wait(&p->gate_cond, &p->gate_lock);
		const bool go = !shut_for(l);
		pthread_mutex_unlock(&p->gate_lock);
		blocking_end();
		if (!go)
			return -ECANCELED;
	}
	return 0;
}

int gate_hold(struct stage_link *l, struct request *req)
{
	struct pipeline *p = l->p;
	int r = 0;

	pthread_mutex_lock(&p->gate_lock);
	if (!shut_for(l)) {
		r = -EAGAIN;
	} else if (atomic_load(&l->cancelled)) {
		r = -ECANCELED;
	} else {
		req->trip.next = p->held;
		p->held = req;
	}
	pthread_mutex_unlock(&p->gate_lock);
	return r;
}

void gate_cancel(struct stage_link *l)
{
	struct pipeline *p = l->p;
	struct request *mine = NULL;

	pthread_mutex_lock(&p->gate_lock);
	atomic_store(&l->cancelled, true);
	for (struct request **at = &p->held; *at;) {
		struct request *req = *at;
		if (req->trip.owner != l) {
			at = &req->trip.next;
			continue;
		}
		*at = req->trip.next;
		req->trip.next = mine;
		mine = req;
	}
	pthread_cond_broadcast(&p->gate_cond);
	pthread_mutex_unlock(&p->gate_lock);
	while (mine) {
		struct request *req = mine;
		mine = req->trip.next;
		req->result = -ECANCELED;
		req->complete(req);
	}
}

/* --- draining --- */

static bool guests_in(struct pipeline *p)
{
	for (unsigned i = 0; i < PIPELINE_SHARDS; i++) {
		struct pipeline_shard *s = &p->shards[i];
		const uint64_t left = atomic_load(&s->left);
		uint64_t entered = 0;
		for (unsigned op = 0; op < REQUEST_OPS; op++)
			entered += atomic_load(&s->entered[op]);
		if (entered != left)
			return true;
	}
	return false;
}

static bool level_busy(struct pipeline *p, uint32_t level)
{
	return level == 0 ? guests_in(p) : atomic_load(&p->own[level]) > 0;
}

void gate_shut(struct pipeline *p, uint32_t levels)
{
	pthread_mutex_lock(&p->gate_lock);
	atomic_store(&p->shut, levels);
	pthread_mutex_unlock(&p->gate_lock);
}

void gate_drain(struct pipeline *p, uint32_t level)
{
	atomic_fetch_add(&draining, 1);
	pthread_mutex_lock(&drain_lock);
	while (level_busy(p, level))
		pthread_cond_wait(&drain_cond, &drain_lock);
	pthread_mutex_unlock(&drain_lock);
	atomic_fetch_sub(&draining, 1);
}

void gate_open(struct pipeline *p)
{
	pthread_mutex_lock(&p->gate_lock);
	atomic_store(&p->shut, 0);
	struct request *held = p->held, *in_order = NULL;
	p->held = NULL;
	pthread_cond_broadcast(&p->gate_cond);
	pthread_mutex_unlock(&p->gate_lock);
	while (held) { /* the list is in reverse */
		struct request *req = held;
		held = req->trip.next;
		req->trip.next = in_order;
		in_order = req;
	}
	while (in_order) {
		struct request *req = in_order;
		in_order = req->trip.next;
		trip_submit_own(req->trip.owner, req);
	}
}

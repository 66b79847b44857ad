/*
 * bufpool.c - see bufpool.h
 *
 * Headers and data live in two parallel mappings, so that the data stays aligned to its size and a
 * header costs nothing before its buffer is first used.  The free list is a stack under one lock,
 * held for a few instructions.
 */
#include "store/bufpool.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "store/hugemem.h"

#define NO_BUF    UINT32_MAX
#define WIPE_BUFS 16u /* while the lock is held: microseconds */

struct bufpool {
	pthread_mutex_t lock; /* free_head, n_touched */
	struct buf *bufs;
	uint8_t *arena;
	uint32_t n_bufs, n_touched, free_head;
	_Atomic uint64_t n_used;
};

int bufpool_create(uint64_t bytes_max, struct bufpool **ret_pool)
{
	const uint64_t n = DIV_UP(bytes_max, CHUNK_SIZE);

	if (n == 0 || n >= NO_BUF)
		return -EINVAL;
	struct bufpool *p = calloc(1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	pthread_mutex_init(&p->lock, NULL);
	p->n_bufs = (uint32_t)n;
	p->free_head = NO_BUF;
	void *mem = NULL;
	int r = hugemem_alloc(n * sizeof(*p->bufs), &mem);
	p->bufs = r == 0 ? mem : NULL;
	if (r == 0)
		r = hugemem_alloc(n * CHUNK_SIZE, &mem);
	p->arena = r == 0 ? mem : NULL;
	if (r < 0) {
		bufpool_free(p);
		return r;
	}
	*ret_pool = p;
	return 0;
}

void bufpool_free(struct bufpool *p)
{
	if (!p)
		return;
	ASSERT(p->n_used == 0);
	hugemem_free(p->bufs, p->n_bufs * sizeof(*p->bufs));
	hugemem_free(p->arena, (uint64_t)p->n_bufs * CHUNK_SIZE);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

/* With the lock. */
static struct buf *take(struct bufpool *p)
{
	struct buf *b = NULL;

	if (p->free_head != NO_BUF) {
		b = &p->bufs[p->free_head];
		p->free_head = b->next_free;
	} else if (p->n_touched < p->n_bufs) {
		b = &p->bufs[p->n_touched];
		b->data = p->arena + (size_t)p->n_touched * CHUNK_SIZE;
		p->n_touched++;
	}
	if (b) /* with the lock: bufpool_wipe() takes one without references for free */
		atomic_store_explicit(&b->refs, 1, memory_order_relaxed);
	return b;
}

unsigned bufpool_get_many(struct bufpool *p, unsigned n, struct buf **ret_bufs)
{
	unsigned got = 0;

	pthread_mutex_lock(&p->lock);
	while (got < n && (ret_bufs[got] = take(p)) != NULL)
		got++;
	pthread_mutex_unlock(&p->lock);
	for (unsigned i = 0; i < got; i++) {
		ret_bufs[i]->valid = NULL;
		ret_bufs[i]->base = 0;
	}
	atomic_fetch_add_explicit(&p->n_used, got, memory_order_relaxed);
	return got;
}

struct buf *bufpool_get(struct bufpool *p)
{
	struct buf *b;

	return bufpool_get_many(p, 1, &b) ? b : NULL;
}

void bufpool_warm(struct bufpool *p, uint64_t bytes, const _Atomic bool *stop)
{
	hugemem_warm(p->arena, MIN(bytes, (uint64_t)p->n_bufs * CHUNK_SIZE), stop);
}

void buf_ref(struct buf *b)
{
	atomic_fetch_add_explicit(&b->refs, 1, memory_order_relaxed);
}

void bufpool_put(struct bufpool *p, struct buf *b)
{
	if (atomic_fetch_sub_explicit(&b->refs, 1, memory_order_acq_rel) != 1)
		return;
	free(b->valid);
	b->valid = NULL;
	pthread_mutex_lock(&p->lock);
	b->next_free = p->free_head;
	p->free_head = (uint32_t)(b - p->bufs);
	pthread_mutex_unlock(&p->lock);
	atomic_fetch_sub_explicit(&p->n_used, 1, memory_order_relaxed);
}

void bufpool_wipe(struct bufpool *p)
{
	uint32_t i = 0, n = 1;

	while (i < n) {
		pthread_mutex_lock(&p->lock);
		n = p->n_touched;
		for (const uint32_t end = MIN(i + WIPE_BUFS, n); i < end; i++)
			if (atomic_load_explicit(&p->bufs[i].refs, memory_order_acquire) == 0)
				explicit_bzero(p->bufs[i].data, CHUNK_SIZE);
		pthread_mutex_unlock(&p->lock);
	}
}

uint64_t bufpool_used(const struct bufpool *p)
{
	return atomic_load_explicit(&p->n_used, memory_order_relaxed) * CHUNK_SIZE;
}

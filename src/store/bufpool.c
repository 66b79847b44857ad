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
#include <sys/mman.h>

#define NO_BUF           UINT32_MAX
#define WARM_SLICE_BYTES (16ull << 20)

struct bufpool {
	pthread_mutex_t lock; /* free_head, n_touched */
	struct buf *bufs;
	uint8_t *arena;
	uint32_t n_bufs, n_touched, free_head;
	_Atomic uint64_t n_used;
};

static void *map_reserve(size_t len)
{
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, flags, -1, 0);
	return p == MAP_FAILED ? NULL : p;
}

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
	p->bufs = map_reserve(n * sizeof(*p->bufs));
	p->arena = map_reserve(n * CHUNK_SIZE);
	if (!p->bufs || !p->arena) {
		bufpool_free(p);
		return -ENOMEM;
	}
	/* Advice only: fewer page faults on the write path. */
	(void)madvise(p->arena, n * CHUNK_SIZE, MADV_HUGEPAGE);
	*ret_pool = p;
	return 0;
}

void bufpool_free(struct bufpool *p)
{
	if (!p)
		return;
	ASSERT(p->n_used == 0);
	if (p->bufs)
		munmap(p->bufs, p->n_bufs * sizeof(*p->bufs));
	if (p->arena)
		munmap(p->arena, (size_t)p->n_bufs * CHUNK_SIZE);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

struct buf *bufpool_get(struct bufpool *p)
{
	struct buf *b = NULL;

	pthread_mutex_lock(&p->lock);
	if (p->free_head != NO_BUF) {
		b = &p->bufs[p->free_head];
		p->free_head = b->next_free;
	} else if (p->n_touched < p->n_bufs) {
		b = &p->bufs[p->n_touched];
		b->data = p->arena + (size_t)p->n_touched * CHUNK_SIZE;
		p->n_touched++;
	}
	pthread_mutex_unlock(&p->lock);
	if (!b)
		return NULL;
	atomic_store_explicit(&b->refs, 1, memory_order_relaxed);
	b->valid = NULL;
	b->base = 0;
	atomic_fetch_add_explicit(&p->n_used, 1, memory_order_relaxed);
	return b;
}

void bufpool_warm(struct bufpool *p, uint64_t bytes, const _Atomic bool *stop)
{
	const uint64_t end = MIN(bytes, (uint64_t)p->n_bufs * CHUNK_SIZE);

	for (uint64_t at = 0; at < end && !*stop; at += WARM_SLICE_BYTES)
		if (madvise(p->arena + at, MIN(WARM_SLICE_BYTES, end - at), MADV_POPULATE_WRITE) < 0)
			return; /* Linux 5.14 and later; without, pages come as they are used */
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

uint64_t bufpool_used(const struct bufpool *p)
{
	return atomic_load_explicit(&p->n_used, memory_order_relaxed) * CHUNK_SIZE;
}

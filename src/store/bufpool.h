/*
 * bufpool.h - dirty chunks in RAM: buffers of one chunk each, with a reference count
 *
 * One arena, reserved once and touched only as far as it is used (lowest free buffer of the most
 * recently freed first), so resident memory follows use.  A buffer with more than one reference is
 * immutable: who wants to change it makes a copy (overlay.c).
 *
 * Threads: any.
 */
#pragma once

#include <stdatomic.h>

#include "store/chunk.h"

#define BUF_VALID_WORDS (CHUNK_SIZE / 64)

struct buf {
	_Atomic uint32_t refs;
	uint32_t next_free; /* while free */
	uint8_t *data;      /* CHUNK_SIZE bytes */
	/* One bit a byte that was written, owned (malloc); NULL: all of it.  The rest of the
	 * content is that of base. */
	uint64_t *valid;
	/* Map entry that the bytes not valid come from; 0: what the image held before. */
	uint64_t base;
};

struct bufpool;

/* Room for bytes_max of buffers (address space; RAM as used). */
int bufpool_create(uint64_t bytes_max, struct bufpool **ret_pool) MUST_CHECK;
void bufpool_free(struct bufpool *p); /* accepts NULL; no buffer may be in use */

/* One reference; data undefined, valid NULL, base 0.  NULL when the pool is exhausted. */
struct buf *bufpool_get(struct bufpool *p);
/* The same for n of them at once; how many there were. */
unsigned bufpool_get_many(struct bufpool *p, unsigned n, struct buf **ret_bufs);
void buf_ref(struct buf *b);
/* Drops a reference; the last one gives the buffer back. */
void bufpool_put(struct bufpool *p, struct buf *b);
/*
 * Has the memory of the first bytes ready, so that the first burst of writes does not pay for
 * clearing it; a slice at a time, until *stop.  Advice: nothing fails.
 */
void bufpool_warm(struct bufpool *p, uint64_t bytes, const _Atomic bool *stop);
/* Overwrites the buffers that are free: what they held last is in no memory any more. */
void bufpool_wipe(struct bufpool *p);
/* Bytes in buffers now. */
uint64_t bufpool_used(const struct bufpool *p);

/*
 * transform-private.h - the conversion of a host-driven transform, for transform.c and convert.c
 */
#pragma once

#include "stage/pipeline-private.h"

#define CURSOR_END UINT64_MAX /* the whole file, however it may grow */

/* A range of the file, half open. */
struct range {
	uint64_t from, to;
};

/* A request on its way through the transform: its context. */
struct passage {
	const void *original; /* WRITE: data as it came; NULL: not replaced */
	void *encoded;        /* owned */
	struct range range;
	bool tracked; /* in the list; while converting only */
	struct passage *prev, *next;
};

struct transform {
	pthread_mutex_t lock;    /* guards all below, and the passages in the list */
	pthread_cond_t passed;   /* a tracked one left */
	_Atomic uint64_t cursor; /* changes under the lock, with the piece locked */
	struct passage *first;
	bool piece_locked;
	struct range piece;
	struct request *waiting; /* kept; by trip.next, the last one first */
	_Atomic bool broken;     /* what is encoded is not what the cursor says */
};

static inline bool range_overlaps(struct range a, struct range b)
{
	return a.from < b.to && b.from < a.to;
}

/* Locks a range: waits for what passes through it; what comes waits. */
void transform_lock(struct transform *t, struct range piece);
void transform_unlock(struct transform *t);

/* The value of the state "cursor". */
#define CURSOR_LEN 10u
void cursor_encode(enum stack_state state, uint64_t cursor, uint8_t buf[CURSOR_LEN]);
/* 0 for another state, another length, another version: nothing is converted yet. */
uint64_t cursor_decode(enum stack_state state, const uint8_t *buf, size_t len);

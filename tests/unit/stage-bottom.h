/*
 * stage-bottom.h - what lies below a pipeline in the tests: a sparse file in memory that may crash
 *
 * Content and stages' states are kept twice: now, and durable.  bottom_sync(), a FLUSH and a FUA make
 * all of now durable in one instant (as a transaction group does); bottom_crash() goes back to it.
 * Changes happen under one lock, applied() is called inside it: it is the gate.
 *
 * Threads: all functions from any thread; bottom_crash() with no pipeline open.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "stage/pipeline.h"

#define BOTTOM_SIZE_MAX (2u << 20)
#define BOTTOM_BLOCK    512u /* what is a hole, is one of these */
#define BOTTOM_STATES   64u

/* A value never changes once it is there, so both instants may have it. */
struct bottom_value {
	unsigned refs;
	size_t len;
	uint8_t data[];
};

struct bottom_state {
	uint64_t link;
	char name[32];
	struct bottom_value *value; /* NULL: a free place */
};

/* At one instant. */
struct bottom_image {
	uint8_t *data; /* BOTTOM_SIZE_MAX, zeros beyond size */
	bool *mapped;  /* a block */
	uint64_t size;
	struct bottom_state states[BOTTOM_STATES];
};

struct bottom {
	pthread_mutex_t lock;
	struct bottom_image now, durable;
	/* Seen. */
	_Atomic uint64_t requests[REQUEST_OPS], prefetched, said, quarantined;
	/* Injected: the next `fail_count` requests of these operations end with `fail_with`. */
	_Atomic unsigned fail_ops;
	_Atomic int fail_count, fail_with;
	_Atomic bool state_put_fails;
	_Atomic unsigned delay_us;    /* every request */
	_Atomic unsigned crash_every; /* 1 in n changes becomes durable at once, with all before */
	char last_said[256];
};

void bottom_init(struct bottom *b);
void bottom_release(struct bottom *b);
struct pipeline_below bottom_below(struct bottom *b);
/* All of now becomes durable. */
void bottom_sync(struct bottom *b);
/* Back to what was durable. */
void bottom_crash(struct bottom *b);
/* Fails the next n requests of these operations. */
void bottom_fail(struct bottom *b, unsigned ops, int n, int err);

/* --- plans --- */

/* Adds a stage of a type that is there, sorted in; settings: "a=1 b=2", or NULL. */
void plan_add(struct stack_plan *plan, uint64_t link, const char *type, const char *settings);
void plan_remove(struct stack_plan *plan, uint64_t link);
void plan_state(struct stack_plan *plan, uint64_t link, enum stack_state state);
void item_make(struct stack_item *ret_item, uint64_t link, const char *type, const char *settings);
void item_release(struct stack_item *item);

/* --- requests of the guest, each waits --- */

int guest_write(struct pipeline *p, uint64_t off, const void *data, size_t len);
/* Reads exactly len bytes. */
int guest_read(struct pipeline *p, uint64_t off, void *buf, size_t len);
int guest_op(struct pipeline *p, enum request_op op, uint64_t off, uint64_t len, unsigned flags);

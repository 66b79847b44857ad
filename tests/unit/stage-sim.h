/*
 * stage-sim.h - a host for one stage: a disk in RAM below it, a clock that the test moves
 *
 * The table is complete, so a stage that works here needs nothing else of weir.  Time stands still
 * until sim_step() or sim_now_ns is moved; kept requests go on when sim_drain() is called.  Several
 * threads may use one sim for sim_call(), and the hooks.
 */
#pragma once

#include <stdarg.h>
#include <setjmp.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>

#include "stage/stack.h"

#define SIM_BLOCK 4096u

struct sim_block;

/* The host's side of the stage; one image. */
struct stage_link {
	const struct stage_type *type;
	void *stage;
	struct settings settings;
	pthread_mutex_t lock; /* guards what follows */
	struct sim_block **blocks;
	uint64_t n_blocks, size;
	bool dirty; /* what is read cannot be pinned */
	void (*before)(struct stage_link *l, struct request *req); /* about to be done below */
	void (*after)(struct stage_link *l, struct request *req);  /* done, on its way up */
	void *arg;
	int fail; /* below fails with it */
	uint64_t below[REQUEST_OPS];
	unsigned flags_below; /* of the last change */
	uint64_t timer_ns;
	void (*work_fn)(void *stage);
	uint64_t reserve_max, reserved;
	uint64_t prefetch_off, prefetch_len;
	unsigned said[STAGE_SEVERITY_ALERT + 1];
	char last_said[256];
	bool quarantined;
	bool no_snapshots;
	unsigned snapshots;        /* asked for */
	struct sim_request *queue; /* resumed */
	bool own_at_once;          /* own requests are answered before submit_below returns */
	struct request *own;
};

struct sim_request {
	struct request req;
	struct stage_link *image;
	uint64_t context[256 / 8];
	enum stage_verdict verdict;
	_Atomic bool done;
	uint64_t done_ns;
	struct sim_request *next;
	void (*on_done)(struct sim_request *r); /* may be NULL */
	void *arg;
};

extern _Atomic uint64_t sim_now_ns, sim_wall_ns;
/* Allocations that still succeed; < 0: all do. */
extern _Atomic int sim_allocs;
extern const struct stage_host sim_host;

/* settings: "key=value", ended by NULL.  Asserts that it works. */
void sim_open(struct stage_link *l, const struct stage_type *type, uint64_t size,
        const char *const *settings);
/* The same, up to type->create; its errno. */
int sim_try(struct stage_link *l, const struct stage_type *type, uint64_t size,
        const char *const *settings, struct errmsg *em);
void sim_close(struct stage_link *l);
/* type->check() of such settings; parse errors too. */
int sim_check(const struct stage_type *type, const char *const *settings, struct errmsg *em);
/* prepare and commit. */
int sim_event(struct stage_link *l, enum stage_event_kind kind, uint64_t size);
int sim_set(struct stage_link *l, const char *const *settings, struct errmsg *em);

/* Sends it; it may stay kept.  r->req's op, off, len, data, flags are set. */
void sim_start(struct stage_link *l, struct sim_request *r);
/* Goes on with what was resumed, runs work. */
void sim_drain(struct stage_link *l);
/* Moves the clock to the next timer of the sims, fires it, drains; false: there is none. */
bool sim_step(struct stage_link *const *all, unsigned n, uint64_t until_ns);

/* The whole way, time included. */
int sim_call(struct stage_link *l, struct request *req);
int sim_write(struct stage_link *l, uint64_t off, const void *data, uint64_t len);
/* Bytes read, or -errno. */
int64_t sim_read(struct stage_link *l, uint64_t off, void *buf, uint64_t len);
int sim_op(struct stage_link *l, enum request_op op, uint64_t off, uint64_t len);
/* Below the stage, by itself. */
void sim_poke(struct stage_link *l, uint64_t off, const void *data, uint64_t len);
void sim_peek(struct stage_link *l, uint64_t off, void *buf, uint64_t len);
/* A number that the stage reports; UINT64_MAX: none of that name. */
uint64_t sim_number(struct stage_link *l, const char *name);
/* Repeatable bytes. */
void sim_noise(void *buf, size_t len, uint64_t seed);

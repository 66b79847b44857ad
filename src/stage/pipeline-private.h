/*
 * pipeline-private.h - what the files of the pipeline share; nobody else includes it
 *
 *	runtime.c  threads that go on with kept requests, memory for kept data, reservations
 *	timer.c    one thread, a heap of stages
 *	work.c     threads that may wait
 *	gate.c     entering, leaving, draining
 *	drive.c    the way of a request
 *	link.c     making and unmaking the stages of a stack; versions
 *	host.c     the table that stages see
 *	change.c   live changes and events
 *	account.c  counters
 *	transform.c, convert.c   transforms that the host drives
 *
 * Locks, in the order in which they are taken: control > gate_lock > (transform.lock, the runtime's,
 * the drain lock); the latter are never nested.  No stage is called with any of them but control.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "stage/pipeline.h"

#define PIPELINE_SHARDS 16u
#define PIPELINE_LEVELS (STACK_STAGES_MAX + 1) /* floors that a request can have */

/* --- accounts (account.c) --- */

/* Counters that one thread in PIPELINE_SHARDS writes: relaxed, summed when asked. */
struct link_shard {
	_Atomic uint64_t requests[REQUEST_OPS];
	_Atomic uint64_t bytes_read, bytes_written, errors, answered, kept;
} __attribute__((aligned(2 * CACHELINE)));

/* Log-linear: eight steps an octave, so within an eighth; above 2^39 ns all in the last. */
#define LATENCY_STEPS   8u
#define LATENCY_BUCKETS (37u * LATENCY_STEPS)
struct latency {
	_Atomic uint64_t samples, sum_ns;
	_Atomic uint64_t buckets[LATENCY_BUCKETS];
};

struct account {
	struct link_shard shards[PIPELINE_SHARDS];
	struct latency latency;
	_Atomic uint64_t cpu_ns, cpu_samples; /* of sampled requests */
	_Atomic uint64_t own_cpu_ns; /* beside requests: work that is done, timers, actions */
};

void latency_record(struct latency *l, uint64_t ns);
/* The whole way of a request that is about to leave, and its part in every stage. */
void account_trip(const struct request *req);
/* Decides whether a request is sampled, and for CPU time too. */
void account_sample(struct request *req);
void account_cpu(struct account *a, uint64_t since_ns, bool first);
/*
 * What the calling thread has spent for a stage since then, beside the requests that pass it; weight:
 * how many such times this one stands for.
 */
void account_own_cpu(struct account *a, uint64_t since_ns, unsigned weight);
/* True for one own request in ACCOUNT_OWN_SAMPLE. */
bool account_own_sampled(void);
#define ACCOUNT_OWN_SAMPLE 8u
void account_calibrate(void);

/* --- links: one attached stage (link.c) --- */

struct transform;

enum link_work { WORK_IDLE, WORK_PARKED, WORK_QUEUED, WORK_RUNNING };

/* Marks of a change under way (change.c); each says what has to be undone. */
enum link_marks {
	MARK_NEW = BIT(0),          /* not in the old version */
	MARK_STAYS = BIT(1),        /* in the new version */
	MARK_CREATED = BIT(2),      /* its stage was made by this change */
	MARK_OPENED = BIT(3),       /* prepare(OPEN) */
	MARK_RECONFIGURE = BIT(4),  /* has next */
	MARK_RECONFIGURED = BIT(5), /* prepare(RECONFIGURE) */
	MARK_CLOSED = BIT(6),       /* prepare(CLOSE) */
	MARK_QUIESCED = BIT(7),
	MARK_PREPARED = BIT(8), /* prepare() of pipeline_event */
};

struct stage_link {
	struct pipeline *p;
	uint64_t id;
	const struct stage_type *type;
	enum stack_state state;   /* changes drained only */
	struct settings settings; /* at one address for life */
	void *stage;              /* NULL until created */
	_Atomic int at;           /* in the current version; -1: in none.  Changes drained only */
	_Atomic bool cancelled;

	/* What the driver calls; a host-driven transform has the host's. */
	enum stage_verdict (*pre)(void *arg, struct request *req, void *context);
	void (*post)(void *arg, struct request *req, void *context);
	void *arg;
	size_t context_size;
	struct transform *transform; /* NULL: not host-driven */

	/* timer.c */
	size_t timer_slot;    /* in the heap, from 1; 0: none */
	uint64_t timer_at_ns; /* 0: not set */
	/* work.c, under work_lock */
	enum link_work work;
	void (*work_fn)(void *stage);
	clockid_t work_clock; /* CPU time of the thread that runs it, while WORK_RUNNING */
	uint64_t work_cpu_ns; /* what that said at the beginning */
	struct stage_link *work_next;
	uint64_t reserved_bytes; /* under reserve_lock */

	unsigned marks; /* under control */
	struct settings next;
	enum stack_state next_state;
	struct account account;
};

int link_new(
        struct pipeline *p, const struct stack_item *item, struct stage_link **ret_link) MUST_CHECK;
/* Ends its timer and work, answers what it has waiting at the gate, destroys its stage. */
void link_free(struct stage_link *l);
int link_create_stage(struct stage_link *l, struct errmsg *em) MUST_CHECK;
int link_prepare(
        struct stage_link *l, const struct stage_event *event, struct errmsg *em) MUST_CHECK;
void link_commit(struct stage_link *l, const struct stage_event *event);
void link_abort(struct stage_link *l, const struct stage_event *event);

/* --- versions --- */

struct pipeline_version {
	struct pipeline *p;
	unsigned n;
	struct stage_link *links[STACK_STAGES_MAX];
	/* Bits a stage.  visits: the driver stops there, to call it or to refuse. */
	uint32_t visits[REQUEST_OPS], refuses[REQUEST_OPS];
	uint32_t context_at[STACK_STAGES_MAX];
	uint32_t context_bytes[REQUEST_OPS];
};

/* Fills what follows from links; `next`: by what the links are going to be. */
void version_index(struct pipeline_version *v, bool next);
/* By class, then id. */
void version_sort(struct pipeline_version *v);

/* --- the pipeline --- */

/* What goes in and out by one thread in PIPELINE_SHARDS. */
struct pipeline_shard {
	_Atomic uint64_t entered[REQUEST_OPS];
	_Atomic uint64_t left;
	_Atomic uint64_t bytes_read, bytes_written, errors;
} __attribute__((aligned(2 * CACHELINE)));

struct pipeline {
	struct stage_runtime *rt;
	struct pipeline_below below;
	pthread_mutex_t control; /* changes, events, conversions, reports: one at a time */
	_Atomic(struct pipeline_version *) version; /* changes drained only */
	_Atomic uint32_t handles;                   /* OP bits that a stage is called for */

	_Atomic uint32_t shut;     /* requests with a floor below this wait at the gate */
	pthread_mutex_t gate_lock; /* guards shut's changes and held */
	pthread_cond_t gate_cond;  /* shut fell, or a link was cancelled */
	struct request *held;      /* own requests that came while shut */
	struct pipeline_shard shards[PIPELINE_SHARDS];
	_Atomic uint64_t own[PIPELINE_LEVELS]; /* own requests under way, by floor */

	struct latency whole;
};

/* pipeline.c; under control.  NULL: it is not in the stack. */
struct stage_link *pipeline_link(struct pipeline *p, uint64_t link);

/* --- gate.c --- */
unsigned gate_shard(void); /* of this thread */
/* Waits while shut; sets version, shard. */
void gate_enter(struct pipeline *p, struct request *req);
/* Own requests: true: in; false: the gate is shut to them. */
bool gate_enter_own(struct stage_link *l, struct request *req);
/* Waits; -ECANCELED: the stage is about to go. */
int gate_enter_own_wait(struct stage_link *l, struct request *req) MUST_CHECK;
/* Keeps an own request until the gate opens; -EAGAIN: it opened meanwhile; -ECANCELED. */
int gate_hold(struct stage_link *l, struct request *req) MUST_CHECK;
void gate_leave(struct pipeline *p, unsigned shard);
void gate_leave_own(struct pipeline *p, unsigned level);
/* Shuts levels below `levels` and waits until nothing of level levels - 1 is under way. */
void gate_shut(struct pipeline *p, uint32_t levels);
void gate_drain(struct pipeline *p, uint32_t level);
void gate_open(struct pipeline *p);
/* Takes what a link has waiting; -ECANCELED for those. */
void gate_cancel(struct stage_link *l);

/* --- drive.c --- */
enum trip_pend { TRIP_RUNNING, TRIP_KEPT, TRIP_START, TRIP_RESUMED /* + verdict */ };
/* Beyond the stages' own verdicts: the same stage's pre() again (host-driven transforms). */
#define VERDICT_AGAIN 5

struct trip_waiter {
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool done;
};

void trip_begin(struct request *req, struct stage_link *owner);
/* Drives one that has entered; returns when it is completed or kept. */
void trip_start(struct request *req);
/* From the run queue. */
void trip_go_on(struct request *req);
void trip_resume(struct request *req, int verdict);
/* Own requests of a stage, for host.c and convert.c. */
void trip_submit_own(struct stage_link *l, struct request *req);
int trip_call_own(struct stage_link *l, struct request *req);

/* --- runtime.c --- */
struct timers;
struct works;
struct stage_runtime {
	unsigned n_workers;
	pthread_t *workers;
	pthread_mutex_t run_lock;
	pthread_cond_t run_cond;
	struct request *run_head, **run_tail;
	bool stopping;
	_Atomic uint64_t kept_bytes;
	pthread_mutex_t reserve_lock;
	uint64_t reserved_bytes, reserve_bytes_max;
	struct timers *timers;
	struct works *works;
};
void runtime_run(struct stage_runtime *rt, struct request *req);
/* False: no memory, or beyond PIPELINE_KEPT_BYTES. */
void *runtime_keep(struct stage_runtime *rt, const void *data, size_t len);
void runtime_unkeep(struct stage_runtime *rt, void *copy, size_t len);
int runtime_reserve(struct stage_link *l, uint64_t bytes, struct errmsg *em) MUST_CHECK;

/* --- timer.c --- */
int timers_new(struct timers **ret_timers) MUST_CHECK;
void timers_free(struct timers *t);
/* Room for one more link, so that setting a timer cannot fail. */
int timers_add(struct timers *t) MUST_CHECK;
/* No timer of it is set or under way any more. */
void timers_remove(struct timers *t, struct stage_link *l);
void timers_set(struct timers *t, struct stage_link *l, uint64_t at_ns);
/* What was set before the link was in a version. */
void timers_unpark(struct timers *t, struct stage_link *l);

/* --- work.c --- */
int works_new(struct works **ret_works) MUST_CHECK;
void works_free(struct works *w);
bool works_add(struct works *w, struct stage_link *l, void (*fn)(void *stage));
/* What was asked for before the link was in a version. */
void works_unpark(struct works *w, struct stage_link *l);
void works_wait(struct works *w, struct stage_link *l);
/* CPU time of what is under way; what has ended is in the account. */
uint64_t works_cpu_ns(struct works *w, struct stage_link *l);

/* --- host.c --- */
extern const struct stage_host pipeline_host;

/* --- transform.c --- */
int transform_new(struct stage_link *l) MUST_CHECK;
void transform_free(struct transform *t);
unsigned transform_handles(enum stack_state state);
/* Reads how far the conversion came. */
int transform_open(struct stage_link *l) MUST_CHECK;
/* With the pipeline drained: another state from here on, and its conversion at its beginning. */
void transform_begin(struct stage_link *l, enum stack_state state);
/* With the pipeline drained: what is stored is of another time. */
void transform_reload(struct stage_link *l);
/* The conversion has come to the end of the file, and beyond. */
bool transform_is_done(const struct stage_link *l);

/*
 * pipeline.h - an open image's stack of request stages, and the way of requests through it
 *
 * A *version* of the stack is immutable; changing the stack makes a new version, prepares what is
 * new, drains the old one (new requests wait, those under way finish), and publishes or gives up.
 * A stage that is in both versions keeps its instance and everything in it.  No request ever sees
 * half of a change.  Chunk stages and unusable observers of a plan are passed over.
 *
 * Requests are driven by a loop, not by nested calls: down from stage to stage, to the bottom, up
 * through the stages that asked, complete().  A request that a stage keeps (PEND) leaves the thread
 * it came on; resume() queues it to the runtime's workers, which go on with the loop.
 *
 * Entering and leaving cost an increment each of counters that few threads share; they are the account
 * of operations, too.  Operations and bytes are counted for every request; latency is taken of one
 * request in STAGE_SAMPLE (one clock read a boundary), CPU time of fewer.
 */
#pragma once

#include "stage/stack.h"

#define STAGE_SAMPLE 8u

/* --- the runtime: what all pipelines of a datastore share --- */

struct stage_runtime;
struct stage_runtime_config {
	unsigned workers;       /* threads that go on with kept requests; 0: default */
	uint64_t reserve_bytes; /* of the content cache, that stages may have reserved at all */
};
int stage_runtime_new(
        const struct stage_runtime_config *cfg, struct stage_runtime **ret_rt) MUST_CHECK;
/* No pipeline is left.  Accepts NULL. */
void stage_runtime_free(struct stage_runtime *rt);

/* --- what lies below and around --- */

struct pipeline_below {
	void *arg;
	/*
	 * Does the request: sets result, out, done, found.  On the calling thread, which may wait
	 * (it says so: base/blocking.h).  Must not call complete().  A change calls req->applied()
	 * where it is set, in the gate, with done set.
	 */
	void (*submit)(void *arg, struct request *req);
	void (*prefetch)(void *arg, uint64_t off, uint64_t len);
	/*
	 * As in struct stage_host; link: whose state; may be called inside the gate.  What is put is
	 * durable no later than a change of the image that comes after it.  The functions from
	 * prefetch on may be NULL.
	 */
	int (*state_get)(
	        void *arg, uint64_t link, const char *name, void *buf, size_t cap, size_t *ret_len);
	int (*state_put)(void *arg, uint64_t link, const char *name, const void *data, size_t len);
	void (*image)(void *arg, struct stage_image *ret_image);
	void (*say)(void *arg, uint64_t link, enum stage_severity severity, const char *text);
	void (*quarantine)(void *arg, uint64_t link, const char *why);
};

struct pipeline;
/*
 * Builds the stack of plan (stack.h), with event OPEN.  What fails is undone: errno and em say why
 * the image cannot be opened.  below is copied.
 */
int pipeline_open(struct stage_runtime *rt, const struct pipeline_below *below,
        const struct stack_plan *plan, struct pipeline **ret_p, struct errmsg *em) MUST_CHECK;
/* Waits for requests under way, event CLOSE, destroys all stages.  Accepts NULL. */
void pipeline_close(struct pipeline *p);

/* Has it any stage that handles one of these operations (OP bits)? */
bool pipeline_handles(struct pipeline *p, unsigned ops);
/*
 * The opposite, and until pipeline_unhold() it stays so: true where no stage handles any of them, and
 * no change of the stack passes; else false.  For what is done below all stages (sharing
 * chunks).  Waits while a change is under way; whoever holds must not send requests through p.  Who
 * holds two pipelines takes them in one order everywhere.  hold: room, the caller's.
 */
bool pipeline_hold(struct pipeline *p, unsigned ops, struct request *hold);
void pipeline_unhold(struct pipeline *p, struct request *hold);
/*
 * Sends a request down.  complete() may be called before this returns, on this thread, or later,
 * on another.  data need stay valid only until this returns: if a stage keeps a WRITE, the pipeline
 * copies its data first (in memory bounded by PIPELINE_KEPT_BYTES of all images together; beyond
 * it the calling thread waits).
 */
void pipeline_submit(struct pipeline *p, struct request *req);
#define PIPELINE_KEPT_BYTES (64ull << 20)
/* Sends it and waits for complete() (its own); returns req->result. */
int pipeline_call(struct pipeline *p, struct request *req);

/*
 * Changes the stack on the fly; control threads, one at a time.  plan: the whole new stack; stages
 * are recognized by their link ids: one whose settings differ gets RECONFIGURE, one that is new is
 * created, one that is gone is destroyed.  On error nothing has changed.  committed (may be NULL)
 * is called with the pipeline drained and everything prepared: it makes the change durable, or
 * fails, and then all is aborted.  -EINVAL: a fixed setting changed; -EBUSY: a conversion is not done
 * (CONVERTING_IN to ACTIVE, or leaving before CONVERTING_OUT is done).
 */
int pipeline_change(struct pipeline *p, const struct stack_plan *plan,
        int (*committed)(void *arg, struct errmsg *em), void *arg, struct errmsg *em) MUST_CHECK;
/*
 * An event to all stages, in two phases; drained in between when the kind asks for it (SNAPSHOT,
 * CLONE, ROLLBACK, DELETE).  between: as committed above.
 */
int pipeline_event(struct pipeline *p, const struct stage_event *event,
        int (*between)(void *arg, struct errmsg *em), void *arg, struct errmsg *em) MUST_CHECK;

/* Calls a stage's action (stage.h).  -ENOENT: no such link. */
int pipeline_action(struct pipeline *p, uint64_t link, const char *action, const char *const *args,
        unsigned n_args, char **ret_json, struct errmsg *em) MUST_CHECK;
/* The stage's own numbers; -ENOENT. */
int pipeline_report(
        struct pipeline *p, uint64_t link, const struct stage_report *report) MUST_CHECK;

/*
 * Conversion of a transform (encode/decode): the host's cursor.  Which side of it is encoded
 * follows from the plan (STACK_CONVERTING_IN: below the cursor; _OUT: at and above it).  Converts
 * the next piece, at most len bytes, together with the cursor's new place in one transaction;
 * requests that touch it wait meanwhile.  *ret_done: the cursor has passed the end of the file, and
 * stays there however it grows: the state may be changed to ACTIVE, or the stage taken out.  -EINVAL:
 * it is not converting; -EIO and others: of the I/O, nothing of the piece has changed.
 */
int pipeline_convert(struct pipeline *p, uint64_t link, uint64_t len, bool *ret_done) MUST_CHECK;

/* --- accounts --- */

struct stage_account {
	uint64_t requests[REQUEST_OPS]; /* seen by pre() */
	uint64_t bytes_read, bytes_written;
	uint64_t errors;   /* FAIL verdicts, and results it made an error */
	uint64_t answered; /* COMPLETE verdicts */
	uint64_t kept;     /* PEND verdicts */
	/* Of the sampled requests: time added by the stage, waits in it included. */
	uint64_t samples, mean_ns, p50_ns, p99_ns;
	/* Of requests estimated from samples; with work, timers, actions and own requests. */
	double cpu_seconds;
	double share; /* of the whole time of requests, 0..1 */
};
/* link 0: the whole way, the bottom included (samples, mean, p50, p99).  -ENOENT. */
int pipeline_account(
        struct pipeline *p, uint64_t link, struct stage_account *ret_account) MUST_CHECK;

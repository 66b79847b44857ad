/*
 * drive.c - the way of one request: down, to the bottom, up, complete
 *
 * A loop over the stages that have something to do with the operation (one mask an operation, made
 * with the version), so a request costs nothing for stages that do not handle it, and no stack depth.
 *
 * Keeping a request.  The stage may call resume() before its pre() has even returned.  trip.pend
 * decides who goes on:
 *
 *	pend       set by           means
 *	RUNNING    the driver       a thread drives the request
 *	KEPT       the driver       pre() returned PEND and the driver has let go of it
 *	RESUMED+v  resume()         go on with verdict v
 *	START      submit_below()   in the run queue, not begun
 *
 * The driver moves RUNNING -> KEPT by compare-and-swap; if that fails, resume() was first, and the
 * driver itself goes on.  resume() exchanges; if it finds KEPT, it queues the request.  So exactly one
 * of them goes on, and after KEPT the driver does not touch the request.
 *
 * Data of a kept WRITE.  The submitter's buffer is good only until pipeline_submit() returns.
 * Between pre()'s PEND and KEPT the request is still the driver's, so it takes the copy there.  Where
 * it cannot (no memory, no room in PIPELINE_KEPT_BYTES, or a stage above has put a buffer of its own
 * there, whose original it is going to restore), the submitting thread waits until the request is
 * done instead, and its buffer stays.  Both happen once a request at most.
 *
 * Leaving.  A guest's request leaves the pipeline before complete(): complete() may drop the last use
 * of the pipeline and close it.  A stage's own request leaves after complete(), which is a function
 * of the stage: it must not be destroyed meanwhile.
 */
#include <errno.h>

#include "base/blocking.h"
#include "base/clock.h"
#include "stage/pipeline-private.h"

/* --- the end --- */

static void wake_waiter(struct trip_waiter *w)
{
	pthread_mutex_lock(&w->lock);
	w->done = true;
	pthread_cond_signal(&w->cond);
	pthread_mutex_unlock(&w->lock);
}

static void wait_done(struct trip_waiter *w)
{
	pthread_mutex_lock(&w->lock);
	if (!w->done) {
		blocking_begin();
		while (!w->done)
			pthread_cond_wait(&w->cond, &w->lock);
		blocking_end();
	}
	pthread_mutex_unlock(&w->lock);
	pthread_mutex_destroy(&w->lock);
	pthread_cond_destroy(&w->cond);
}

static void waiter_init(struct trip_waiter *w)
{
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->cond, NULL);
	w->done = false;
}

static void release_trip(struct request *req)
{
	struct request_trip *t = &req->trip;

	free(t->contexts);
	t->contexts = NULL;
	if (t->owns_data) {
		runtime_unkeep(t->version->p->rt, (void *)t->origin, req->len);
		t->owns_data = false;
		req->data = NULL;
	}
	if (req->result < 0)
		readv_release(&req->out);
}

static void finish(struct request *req)
{
	struct request_trip *t = &req->trip;
	struct pipeline *p = t->version->p;
	struct trip_waiter *waiter = t->waiter;

	release_trip(req);
	account_trip(req);
	if (t->owner) {
		const unsigned level = t->floor;
		struct account *a = &t->owner->account;
		const uint64_t since_ns = t->own_cpu_ns;
		req->complete(req);
		if (since_ns)
			account_own_cpu(a, since_ns, ACCOUNT_OWN_SAMPLE);
		gate_leave_own(p, level);
		return;
	}
	gate_leave(p, t->shard);
	req->complete(req); /* req may be gone, p too */
	if (waiter)
		wake_waiter(waiter);
}

/* --- stages --- */

/* What passed since the last boundary was spent in stage i (or in the bottom: i = n). */
static void boundary(struct request *req, unsigned i)
{
	struct request_trip *t = &req->trip;

	if (LIKELY(!t->sampled))
		return;
	const uint64_t now = clock_now_ns();
	if (i < t->version->n)
		t->stage_ns[i] += now - t->boundary_ns + 1; /* never 0: it was visited */
	t->boundary_ns = now;
}

static void *context_of(const struct request *req, unsigned i)
{
	const struct pipeline_version *v = req->trip.version;

	return v->links[i]->context_size ? (char *)req->trip.contexts + v->context_at[i] : NULL;
}

static void count_visit(struct stage_link *l, const struct request *req)
{
	struct link_shard *s = &l->account.shards[req->trip.shard];

	atomic_fetch_add_explicit(&s->requests[req->op], 1, memory_order_relaxed);
	if (req->op == REQUEST_READ)
		atomic_fetch_add_explicit(&s->bytes_read, req->len, memory_order_relaxed);
	else if (req->op == REQUEST_WRITE)
		atomic_fetch_add_explicit(&s->bytes_written, req->len, memory_order_relaxed);
}

static int call_pre(struct stage_link *l, struct request *req, unsigned i)
{
	void *context = context_of(req, i);

	if (LIKELY(!req->trip.sampled_cpu))
		return (int)l->pre(l->arg, req, context);
	const uint64_t start = clock_thread_ns();
	const int verdict = (int)l->pre(l->arg, req, context);
	account_cpu(&l->account, start, true);
	return verdict;
}

static void call_post(struct request *req, unsigned i)
{
	struct stage_link *l = req->trip.version->links[i];
	struct link_shard *s = &l->account.shards[req->trip.shard];
	const int before = req->result;
	const uint64_t start = req->trip.sampled_cpu ? clock_thread_ns() : 0;

	l->post(l->arg, req, context_of(req, i));
	if (req->trip.sampled_cpu)
		account_cpu(&l->account, start, false);
	if (req->result < 0 && before >= 0)
		atomic_fetch_add_explicit(&s->errors, 1, memory_order_relaxed);
	boundary(req, i);
}

/* --- keeping --- */

/* The data must outlive the submitter's call; false: the submitter has to wait. */
static bool secure_data(struct request *req)
{
	struct request_trip *t = &req->trip;

	if (req->op != REQUEST_WRITE || t->data_stays || t->owns_data || t->waiter)
		return true;
	if (req->data != t->origin)
		return false;
	void *copy = runtime_keep(t->version->p->rt, req->data, req->len);
	if (!copy)
		return false;
	req->data = t->origin = copy;
	t->owns_data = true;
	return true;
}

/* True: the driver goes on, with *ret_verdict; false: the request is no longer ours. */
static bool keep(struct request *req, int *ret_verdict)
{
	struct request_trip *t = &req->trip;
	struct link_shard *s = &t->version->links[t->at]->account.shards[t->shard];
	struct trip_waiter waiter;
	const bool secured = secure_data(req);
	int expected = TRIP_RUNNING;

	atomic_fetch_add_explicit(&s->kept, 1, memory_order_relaxed);
	t->own_cpu_ns = 0; /* it may go on on another thread */
	if (!secured) {
		waiter_init(&waiter);
		t->waiter = &waiter;
	}
	if (!atomic_compare_exchange_strong(&t->pend, &expected, TRIP_KEPT)) {
		if (!secured) {
			t->waiter = NULL;
			pthread_mutex_destroy(&waiter.lock);
			pthread_cond_destroy(&waiter.cond);
		}
		*ret_verdict = expected - TRIP_RESUMED;
		atomic_store_explicit(&t->pend, TRIP_RUNNING, memory_order_relaxed);
		return true;
	}
	if (!secured)
		wait_done(&waiter);
	return false;
}

/* --- down --- */

enum step { STEP_DOWN, STEP_UP, STEP_AGAIN };

/* What a verdict means for the way on. */
static enum step settle(struct request *req, int verdict)
{
	struct request_trip *t = &req->trip;
	struct link_shard *s = &t->version->links[t->at]->account.shards[t->shard];

	switch (verdict) {
	case STAGE_PASS_POST:
		t->wants_post |= BIT(t->at);
		return STEP_DOWN;
	case STAGE_PASS:
		return STEP_DOWN;
	case STAGE_COMPLETE:
		atomic_fetch_add_explicit(&s->answered, 1, memory_order_relaxed);
		return STEP_UP;
	case VERDICT_AGAIN:
		return STEP_AGAIN;
	default:
		ASSERT(verdict == STAGE_FAIL);
		atomic_fetch_add_explicit(&s->errors, 1, memory_order_relaxed);
		if (req->result >= 0)
			req->result = -EIO;
		return STEP_UP;
	}
}

/* Calls stage t->at until it is clear where to go; false: kept. */
static bool visit(struct request *req, enum step *ret_step)
{
	struct request_trip *t = &req->trip;
	struct stage_link *l = t->version->links[t->at];

	do {
		int verdict = call_pre(l, req, t->at);
		if (verdict == STAGE_PEND && !keep(req, &verdict))
			return false;
		boundary(req, t->at);
		*ret_step = settle(req, verdict);
	} while (*ret_step == STEP_AGAIN);
	return true;
}

static bool contexts_ready(struct request *req)
{
	struct request_trip *t = &req->trip;
	const uint32_t bytes = t->version->context_bytes[req->op];

	if (bytes == 0 || t->contexts)
		return true;
	t->contexts = calloc(1, bytes);
	if (!t->contexts)
		req->result = -ENOMEM;
	return t->contexts;
}

/* From stage t->at on; true: now upwards; false: kept. */
static bool go_down(struct request *req)
{
	struct request_trip *t = &req->trip;
	const struct pipeline_version *v = t->version;
	uint32_t visits = v->visits[req->op] & ~(BIT(t->at) - 1);

	if (visits && !contexts_ready(req))
		return true;
	for (; visits; visits &= visits - 1) {
		t->at = (uint32_t)__builtin_ctz(visits);
		if (v->refuses[req->op] & BIT(t->at)) {
			req->result = -EOPNOTSUPP;
			return true;
		}
		count_visit(v->links[t->at], req);
		enum step step;
		if (!visit(req, &step))
			return false;
		if (step == STEP_UP)
			return true;
	}
	t->at = v->n;
	v->p->below.submit(v->p->below.arg, req);
	boundary(req, v->n);
	return true;
}

static void go_up(struct request *req)
{
	struct request_trip *t = &req->trip;

	t->returning = true;
	while (t->wants_post) {
		const unsigned i = 31 - (unsigned)__builtin_clz(t->wants_post);
		t->wants_post &= ~BIT(i);
		call_post(req, i);
	}
	finish(req);
}

static void drive(struct request *req)
{
	if (go_down(req))
		go_up(req);
}

void trip_begin(struct request *req, struct stage_link *owner)
{
	struct request_trip *t = &req->trip;

	req->out = (struct readv){0};
	req->result = 0;
	req->done = 0;
	t->owner = owner;
	t->waiter = NULL;
	t->origin = req->data;
	t->floor = 0;
	t->wants_post = 0;
	t->returning = t->owns_data = false;
	t->data_stays = owner;
	t->sampled = t->sampled_cpu = false;
	t->own_cpu_ns = 0;
	t->contexts = NULL;
	t->next = NULL;
	atomic_store_explicit(&t->pend, TRIP_RUNNING, memory_order_relaxed);
}

void trip_start(struct request *req)
{
	req->trip.at = req->trip.floor;
	drive(req);
}

/* --- kept ones go on --- */

void trip_go_on(struct request *req)
{
	struct request_trip *t = &req->trip;
	const int pend = atomic_exchange(&t->pend, TRIP_RUNNING);

	if (pend == TRIP_START) {
		if (account_own_sampled())
			t->own_cpu_ns = clock_thread_ns();
		trip_start(req);
		return;
	}
	ASSERT(pend >= TRIP_RESUMED);
	boundary(req, t->at);
	switch (settle(req, pend - TRIP_RESUMED)) {
	case STEP_UP:
		go_up(req);
		return;
	case STEP_DOWN:
		t->at++;
		drive(req);
		return;
	case STEP_AGAIN:
		break;
	}
	enum step step;
	if (!visit(req, &step))
		return;
	if (step == STEP_UP) {
		go_up(req);
		return;
	}
	t->at++;
	drive(req);
}

void trip_resume(struct request *req, int verdict)
{
	struct stage_runtime *rt = req->trip.version->p->rt;
	const int pend = atomic_exchange(&req->trip.pend, TRIP_RESUMED + verdict);

	ASSERT(pend == TRIP_RUNNING || pend == TRIP_KEPT); /* resumed once only */
	if (pend == TRIP_KEPT)
		runtime_run(rt, req);
}

/* --- own requests --- */

void trip_submit_own(struct stage_link *l, struct request *req)
{
	trip_begin(req, l);
	while (!gate_enter_own(l, req)) {
		const int r = gate_hold(l, req);
		if (r == 0)
			return;
		if (r == -ECANCELED) {
			req->result = r;
			req->complete(req);
			return;
		}
	}
	atomic_store_explicit(&req->trip.pend, TRIP_START, memory_order_relaxed);
	runtime_run(l->p->rt, req);
}

struct call {
	struct trip_waiter waiter;
	void (*complete)(struct request *req);
	void *arg;
};

static void call_done(struct request *req)
{
	wake_waiter(&((struct call *)req->arg)->waiter);
}

static void call_begin(struct call *c, struct request *req)
{
	waiter_init(&c->waiter);
	c->complete = req->complete;
	c->arg = req->arg;
	req->complete = call_done;
	req->arg = c;
}

static int call_end(struct call *c, struct request *req)
{
	wait_done(&c->waiter);
	req->complete = c->complete;
	req->arg = c->arg;
	return req->result;
}

int trip_call_own(struct stage_link *l, struct request *req)
{
	struct call c;

	trip_begin(req, l);
	const int r = gate_enter_own_wait(l, req);
	if (r < 0)
		return req->result = r;
	call_begin(&c, req);
	trip_start(req);
	return call_end(&c, req);
}

/* --- the guest's --- */

static void submit(struct pipeline *p, struct request *req, bool data_stays)
{
	trip_begin(req, NULL);
	req->trip.data_stays = data_stays;
	gate_enter(p, req);
	account_sample(req);
	trip_start(req);
}

void pipeline_submit(struct pipeline *p, struct request *req)
{
	submit(p, req, false);
}

int pipeline_call(struct pipeline *p, struct request *req)
{
	struct call c;

	call_begin(&c, req);
	submit(p, req, true);
	return call_end(&c, req);
}

bool pipeline_handles(struct pipeline *p, unsigned ops)
{
	return atomic_load_explicit(&p->handles, memory_order_relaxed) & ops;
}

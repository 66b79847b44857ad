/*
 * stage-sim.c - a host for one stage: a disk in RAM below it, a clock that the test moves
 *
 * The disk is an array of blocks that are never changed, only replaced, and counted: so a block can
 * be pinned, and a sanitizer sees a pin that is never released.
 */
#include "stage-sim.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

struct sim_block {
	_Atomic unsigned refs;
	uint8_t data[SIM_BLOCK];
};

_Atomic uint64_t sim_now_ns = 1000000000, sim_wall_ns = 1700000000ull * 1000000000;
_Atomic int sim_allocs = -1;

/* --- the disk --- */

static void block_put(struct sim_block *b)
{
	if (b && atomic_fetch_sub(&b->refs, 1) == 1)
		free(b);
}

static void pin_release(struct readv_pin *pin)
{
	block_put(pin->priv[0]);
}

struct answer {
	struct iovec *iov;
	struct sim_block **blocks;
	uint64_t off;
	unsigned n;
	bool dirty;
};

static const uint8_t no_data[SIM_BLOCK];

static void answer_release(struct readv *rv)
{
	struct answer *a = rv->priv;

	for (unsigned i = 0; i < a->n; i++)
		block_put(a->blocks[i]);
	free(a->iov);
	free(a->blocks);
	free(a);
}

static int answer_pin(const struct readv *rv, size_t off, size_t len, struct readv_pin *ret_pin)
{
	const struct answer *a = rv->priv;
	const uint64_t at = a->off + off;
	struct sim_block *b = a->blocks[at / SIM_BLOCK - a->off / SIM_BLOCK];

	if (a->dirty || !b || at / SIM_BLOCK != (at + len - 1) / SIM_BLOCK)
		return -EOPNOTSUPP;
	atomic_fetch_add(&b->refs, 1);
	*ret_pin = (struct readv_pin){
	        .data = b->data + at % SIM_BLOCK, .release = pin_release, .priv = {b}};
	return 0;
}

static const struct readv_ops answer_ops = {.release = answer_release, .pin = answer_pin};

static void disk_read(struct stage_link *l, struct request *req)
{
	const uint64_t end = MIN(req->off + req->len, l->size);
	struct answer *a = calloc(1, sizeof(*a));

	if (end <= req->off) {
		free(a);
		return;
	}
	a->off = req->off;
	a->dirty = l->dirty;
	a->n = DIV_UP(end, SIM_BLOCK) - req->off / SIM_BLOCK;
	a->iov = calloc(a->n, sizeof(*a->iov));
	a->blocks = calloc(a->n, sizeof(struct sim_block *));
	uint64_t at = req->off;
	for (unsigned i = 0; i < a->n; i++) {
		struct sim_block *b = l->blocks[at / SIM_BLOCK];
		const uint64_t in = at % SIM_BLOCK, len = MIN(SIM_BLOCK - in, end - at);
		if (b)
			atomic_fetch_add(&b->refs, 1);
		a->blocks[i] = b;
		a->iov[i].iov_base = (void *)((b ? b->data : no_data) + in);
		a->iov[i].iov_len = len;
		at += len;
	}
	req->out = (struct readv){.iov = a->iov,
	        .n_iov = (int)a->n,
	        .len = end - req->off,
	        .ops = &answer_ops,
	        .priv = a};
}

/* data NULL: zeros; hole: whole blocks become holes. */
static void disk_write(
        struct stage_link *l, uint64_t off, const uint8_t *data, uint64_t len, bool hole)
{
	for (uint64_t at = off; at < off + len;) {
		struct sim_block **slot = &l->blocks[at / SIM_BLOCK], *old = *slot;
		const uint64_t in = at % SIM_BLOCK, n = MIN(SIM_BLOCK - in, off + len - at);
		struct sim_block *b = NULL;
		if (!hole || n < SIM_BLOCK) {
			b = calloc(1, sizeof(*b));
			b->refs = 1;
			if (old)
				memcpy(b->data, old->data, SIM_BLOCK);
			if (data)
				memcpy(b->data + in, data + (at - off), n);
			else
				memset(b->data + in, 0, n);
		}
		*slot = b;
		block_put(old);
		at += n;
	}
}

static void disk_resize(struct stage_link *l, uint64_t size)
{
	const uint64_t end = l->n_blocks * SIM_BLOCK;

	ASSERT(size <= end);
	if (size < l->size)
		disk_write(l, size, NULL, end - size, true);
	l->size = size;
}

static void disk_extents(struct stage_link *l, struct request *req)
{
	const bool hole = req->flags & REQUEST_HOLE;

	req->found = UINT64_MAX;
	for (uint64_t at = req->off; at < l->size; at = (at / SIM_BLOCK + 1) * SIM_BLOCK)
		if ((l->blocks[at / SIM_BLOCK] == NULL) == hole) {
			req->found = at;
			return;
		}
}

static void disk_change(struct stage_link *l, struct request *req)
{
	const uint64_t end = req->off + req->len;

	l->flags_below = req->flags;
	if (req->op == REQUEST_RESIZE) {
		disk_resize(l, req->len);
		return;
	}
	if (end > l->n_blocks * SIM_BLOCK) {
		req->result = -EFBIG;
		return;
	}
	if (req->op != REQUEST_DISCARD && !(req->flags & REQUEST_KEEP_SIZE))
		l->size = MAX(l->size, end);
	disk_write(l, req->off, req->op == REQUEST_WRITE ? req->data : NULL, req->len,
	        req->op == REQUEST_DISCARD);
	req->done = req->op == REQUEST_WRITE ? req->len : 0;
}

static void bottom(struct stage_link *l, struct request *req)
{
	if (l->before)
		l->before(l, req);
	pthread_mutex_lock(&l->lock);
	l->below[req->op]++;
	req->result = l->fail;
	if (l->fail == 0 && req->op == REQUEST_READ)
		disk_read(l, req);
	else if (l->fail == 0 && req->op == REQUEST_EXTENTS)
		disk_extents(l, req);
	else if (l->fail == 0 && BIT(req->op) & OPS_CHANGE)
		disk_change(l, req);
	pthread_mutex_unlock(&l->lock);
	if (l->after)
		l->after(l, req);
}

/* --- the host's table --- */

static uint64_t host_now(void)
{
	return sim_now_ns;
}

static uint64_t host_wall(void)
{
	return sim_wall_ns;
}

static void host_resume(struct stage_link *l, struct request *req, enum stage_verdict verdict)
{
	struct sim_request *r = CONTAINER_OF(req, struct sim_request, req);

	ASSERT(verdict != STAGE_PEND);
	r->verdict = verdict;
	pthread_mutex_lock(&l->lock);
	struct sim_request **at = &l->queue;
	while (*at)
		at = &(*at)->next;
	r->next = NULL;
	*at = r;
	pthread_mutex_unlock(&l->lock);
}

static void host_submit_below(struct stage_link *l, struct request *req)
{
	req->trip.next = NULL;
	if (l->own_at_once) {
		bottom(l, req);
		req->complete(req);
		return;
	}
	pthread_mutex_lock(&l->lock);
	struct request **at = &l->own;
	while (*at)
		at = &(*at)->trip.next;
	*at = req;
	pthread_mutex_unlock(&l->lock);
}

static int host_call_below(struct stage_link *l, struct request *req)
{
	bottom(l, req);
	return req->result;
}

static void host_prefetch(struct stage_link *l, uint64_t off, uint64_t len)
{
	pthread_mutex_lock(&l->lock);
	l->prefetch_off = off;
	l->prefetch_len = len;
	pthread_mutex_unlock(&l->lock);
}

static void host_timer_set(struct stage_link *l, uint64_t at_ns)
{
	pthread_mutex_lock(&l->lock);
	l->timer_ns = at_ns;
	pthread_mutex_unlock(&l->lock);
}

static bool host_work(struct stage_link *l, void (*fn)(void *stage))
{
	pthread_mutex_lock(&l->lock);
	const bool idle = !l->work_fn;
	if (idle)
		l->work_fn = fn;
	pthread_mutex_unlock(&l->lock);
	return idle;
}

static bool host_cancelled(struct stage_link *l)
{
	return false;
}

static void host_image(struct stage_link *l, struct stage_image *ret_image)
{
	pthread_mutex_lock(&l->lock);
	*ret_image = (struct stage_image){.id = 1, .size = l->size, .path = "disk.raw"};
	pthread_mutex_unlock(&l->lock);
}

static void host_say(struct stage_link *l, enum stage_severity severity, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	pthread_mutex_lock(&l->lock);
	l->said[severity]++;
	vsnprintf(l->last_said, sizeof(l->last_said), fmt, args);
	pthread_mutex_unlock(&l->lock);
	va_end(args);
}

static void host_quarantine(struct stage_link *l, const char *why)
{
	pthread_mutex_lock(&l->lock);
	l->quarantined = true;
	pthread_mutex_unlock(&l->lock);
}

static bool host_snapshot(struct stage_link *l)
{
	pthread_mutex_lock(&l->lock);
	const bool will = !l->no_snapshots;
	l->snapshots += will;
	pthread_mutex_unlock(&l->lock);
	return will;
}

static void *host_alloc(size_t len)
{
	if (sim_allocs >= 0 && atomic_fetch_sub(&sim_allocs, 1) <= 0) {
		sim_allocs = 0;
		return NULL;
	}
	return malloc(len);
}

static int host_reserve(struct stage_link *l, uint64_t bytes, struct errmsg *em)
{
	if (bytes > l->reserve_max)
		return errmsg_set(em, -ENOSPC, "content cache has too little memory");
	l->reserved = bytes;
	return 0;
}

static int host_state_get(
        struct stage_link *l, const char *name, void *buf, size_t cap, size_t *ret_len)
{
	return -ENOENT;
}

static int host_state_put(struct stage_link *l, const char *name, const void *data, size_t len)
{
	return 0;
}

const struct stage_host sim_host = {
        .abi = STAGE_ABI,
        .size = sizeof(struct stage_host),
        .now_ns = host_now,
        .wall_ns = host_wall,
        .resume = host_resume,
        .submit_below = host_submit_below,
        .call_below = host_call_below,
        .prefetch = host_prefetch,
        .timer_set = host_timer_set,
        .work = host_work,
        .cancelled = host_cancelled,
        .state_get = host_state_get,
        .state_put = host_state_put,
        .image = host_image,
        .say = host_say,
        .quarantine = host_quarantine,
        .alloc = host_alloc,
        .free = free,
        .reserve = host_reserve,
        .snapshot = host_snapshot,
};

/* --- life --- */

static int parse(const struct stage_type *type, const char *const *texts,
        struct settings *ret_settings, struct errmsg *em)
{
	unsigned n = 0;

	while (texts && texts[n])
		n++;
	return settings_parse(type->settings, texts, n, ret_settings, em);
}

int sim_check(const struct stage_type *type, const char *const *settings, struct errmsg *em)
{
	struct settings s;
	int r = parse(type, settings, &s, em);

	if (r < 0)
		return r;
	r = type->check ? type->check(&s, em) : 0;
	settings_release(&s);
	return r;
}

int sim_try(struct stage_link *l, const struct stage_type *type, uint64_t size,
        const char *const *settings, struct errmsg *em)
{
	const uint64_t reserve_max = l->reserve_max ? l->reserve_max : 1ull << 40;

	*l = (struct stage_link){.type = type, .size = size, .reserve_max = reserve_max};
	l->n_blocks = DIV_UP(size, SIM_BLOCK) * 2;
	l->blocks = calloc(l->n_blocks, sizeof(struct sim_block *));
	pthread_mutex_init(&l->lock, NULL);
	assert_int_equal(parse(type, settings, &l->settings, em), 0);
	const int r = type->create(&sim_host, l, &l->settings, &l->stage, em);
	if (r < 0)
		sim_close(l);
	return r;
}

void sim_open(struct stage_link *l, const struct stage_type *type, uint64_t size,
        const char *const *settings)
{
	struct errmsg em = {0};

	if (sim_check(type, settings, &em) < 0 || sim_try(l, type, size, settings, &em) < 0)
		fail_msg("%s", em.text);
}

void sim_close(struct stage_link *l)
{
	if (l->stage)
		l->type->destroy(l->stage);
	settings_release(&l->settings);
	for (uint64_t i = 0; i < l->n_blocks; i++)
		block_put(l->blocks[i]);
	free(l->blocks);
	pthread_mutex_destroy(&l->lock);
	*l = (struct stage_link){0};
}

static int event(struct stage_link *l, const struct stage_event *e, struct errmsg *em)
{
	const int r = l->type->prepare ? l->type->prepare(l->stage, e, em) : 0;

	if (r == 0 && l->type->commit)
		l->type->commit(l->stage, e);
	return r;
}

int sim_event(struct stage_link *l, enum stage_event_kind kind, uint64_t size)
{
	const struct stage_event e = {.kind = kind, .size = size};
	struct errmsg em = {0};

	return event(l, &e, &em);
}

int sim_set(struct stage_link *l, const char *const *texts, struct errmsg *em)
{
	struct settings next;
	int r = sim_check(l->type, texts, em);

	if (r < 0)
		return r;
	assert_int_equal(parse(l->type, texts, &next, em), 0);
	const struct stage_event e = {.kind = STAGE_EVENT_RECONFIGURE, .settings = &next};
	r = event(l, &e, em);
	settings_release(r < 0 ? &next : &l->settings);
	if (r == 0)
		l->settings = next;
	return r;
}

/* --- requests --- */

static void request_go(struct sim_request *r)
{
	struct stage_link *l = r->image;

	if (r->verdict == STAGE_PASS || r->verdict == STAGE_PASS_POST)
		bottom(l, &r->req);
	if (r->verdict == STAGE_PASS_POST)
		l->type->post(l->stage, &r->req, r->context);
	r->done_ns = sim_now_ns;
	/* on_done may send it again; done may free it. */
	if (r->on_done)
		r->on_done(r);
	else
		r->done = true;
}

void sim_start(struct stage_link *l, struct sim_request *r)
{
	r->image = l;
	r->done = false;
	r->verdict = STAGE_PASS;
	memset(r->context, 0, sizeof(r->context));
	enum stage_verdict v = STAGE_PASS;
	if (l->type->handles & BIT(r->req.op))
		v = l->type->pre(l->stage, &r->req, r->context);
	if (v == STAGE_PEND)
		return; /* may be anywhere by now */
	r->verdict = v;
	request_go(r);
}

void sim_drain(struct stage_link *l)
{
	for (;;) {
		pthread_mutex_lock(&l->lock);
		struct sim_request *r = l->queue;
		struct request *own = l->own;
		void (*fn)(void *stage) = l->work_fn;
		if (r)
			l->queue = r->next;
		if (own)
			l->own = own->trip.next;
		l->work_fn = NULL;
		pthread_mutex_unlock(&l->lock);
		if (fn)
			fn(l->stage);
		if (r)
			request_go(r);
		if (own) {
			bottom(l, own);
			own->complete(own);
		}
		if (!r && !fn && !own)
			return;
	}
}

bool sim_step(struct stage_link *const *all, unsigned n, uint64_t until_ns)
{
	struct stage_link *next = NULL;
	uint64_t at_ns = until_ns;

	for (unsigned i = 0; i < n; i++) {
		pthread_mutex_lock(&all[i]->lock);
		if (all[i]->timer_ns > 0 && all[i]->timer_ns <= at_ns) {
			next = all[i];
			at_ns = next->timer_ns;
		}
		pthread_mutex_unlock(&all[i]->lock);
	}
	if (at_ns != UINT64_MAX)
		sim_now_ns = MAX(sim_now_ns, at_ns);
	if (!next)
		return false;
	pthread_mutex_lock(&next->lock);
	next->timer_ns = 0;
	pthread_mutex_unlock(&next->lock);
	next->type->timer(next->stage);
	for (unsigned i = 0; i < n; i++)
		sim_drain(all[i]);
	return true;
}

int sim_call(struct stage_link *l, struct request *req)
{
	struct sim_request r = {.req = *req};

	sim_start(l, &r);
	while (!r.done) {
		sim_drain(l);
		if (!r.done && !(l->type->timer && sim_step(&l, 1, UINT64_MAX)))
			sched_yield();
	}
	sim_drain(l);
	*req = r.req;
	return req->result;
}

int sim_op(struct stage_link *l, enum request_op op, uint64_t off, uint64_t len)
{
	struct request req = {.op = op, .off = off, .len = len};

	return sim_call(l, &req);
}

int sim_write(struct stage_link *l, uint64_t off, const void *data, uint64_t len)
{
	struct request req = {.op = REQUEST_WRITE, .off = off, .len = len, .data = data};

	return sim_call(l, &req);
}

int64_t sim_read(struct stage_link *l, uint64_t off, void *buf, uint64_t len)
{
	struct request req = {.op = REQUEST_READ, .off = off, .len = len};
	const int r = sim_call(l, &req);

	if (r < 0)
		return r;
	const size_t got = req.out.len;
	readv_copy(&req.out, 0, buf, got);
	readv_release(&req.out);
	return (int64_t)got;
}

void sim_poke(struct stage_link *l, uint64_t off, const void *data, uint64_t len)
{
	pthread_mutex_lock(&l->lock);
	disk_write(l, off, data, len, false);
	pthread_mutex_unlock(&l->lock);
}

void sim_peek(struct stage_link *l, uint64_t off, void *buf, uint64_t len)
{
	struct request req = {.op = REQUEST_READ, .off = off, .len = len};

	pthread_mutex_lock(&l->lock);
	disk_read(l, &req);
	pthread_mutex_unlock(&l->lock);
	readv_copy(&req.out, 0, buf, len);
	readv_release(&req.out);
}

/* --- reports --- */

struct wanted {
	const char *name;
	uint64_t value;
};

static void take_number(void *arg, const char *name, uint64_t value)
{
	struct wanted *w = arg;

	if (strcmp(w->name, name) == 0)
		w->value = value;
}

static void take_real(void *arg, const char *name, double value)
{
}

static void take_text(void *arg, const char *name, const char *value)
{
}

uint64_t sim_number(struct stage_link *l, const char *name)
{
	struct wanted w = {.name = name, .value = UINT64_MAX};
	const struct stage_report rep = {.arg = &w,
	        .number = take_number,
	        .real = take_real,
	        .text = take_text,
	        .json = take_text};

	l->type->report(l->stage, &rep);
	return w.value;
}

void sim_noise(void *buf, size_t len, uint64_t seed)
{
	uint8_t *p = buf;
	uint64_t x = seed * 2 + 1;

	for (size_t i = 0; i < len; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		p[i] = (uint8_t)(x * 0x2545f4914f6cdd1d >> 56);
	}
}

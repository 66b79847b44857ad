/*
 * host.c - the table that a stage sees of its host
 *
 * Each function checks nothing but its own state: built-in types are our own code, and the ones in
 * other processes come through src/plugin, which checks what they say before it calls these.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "stage/pipeline-private.h"

static void host_resume(struct stage_link *self, struct request *req, enum stage_verdict verdict)
{
	ASSERT(verdict != STAGE_PEND);
	trip_resume(req, (int)verdict);
}

/* Not in a version yet (create): nothing lies below. */
static bool is_loose(const struct stage_link *l)
{
	return atomic_load(&l->at) < 0;
}

static void host_submit_below(struct stage_link *self, struct request *req)
{
	if (is_loose(self)) {
		req->result = -EAGAIN;
		req->complete(req);
		return;
	}
	trip_submit_own(self, req);
}

static int host_call_below(struct stage_link *self, struct request *req)
{
	if (is_loose(self))
		return req->result = -EAGAIN;
	return trip_call_own(self, req);
}

static void host_prefetch(struct stage_link *self, uint64_t off, uint64_t len)
{
	const struct pipeline_below *b = &self->p->below;

	if (b->prefetch)
		b->prefetch(b->arg, off, len);
}

static void host_timer_set(struct stage_link *self, uint64_t at_ns)
{
	ASSERT(self->type->timer);
	timers_set(self->p->rt->timers, self, at_ns);
}

static bool host_work(struct stage_link *self, void (*fn)(void *stage))
{
	return works_add(self->p->rt->works, self, fn);
}

static bool host_cancelled(struct stage_link *self)
{
	return atomic_load(&self->cancelled);
}

static int host_state_get(
        struct stage_link *self, const char *name, void *buf, size_t cap, size_t *ret_len)
{
	const struct pipeline_below *b = &self->p->below;

	return b->state_get ? b->state_get(b->arg, self->id, name, buf, cap, ret_len) : -ENOENT;
}

static int host_state_put(struct stage_link *self, const char *name, const void *data, size_t len)
{
	const struct pipeline_below *b = &self->p->below;

	if (len > STAGE_STATE_MAX)
		return -E2BIG;
	return b->state_put ? b->state_put(b->arg, self->id, name, data, len) : -EOPNOTSUPP;
}

static void host_image(struct stage_link *self, struct stage_image *ret_image)
{
	const struct pipeline_below *b = &self->p->below;

	memset(ret_image, 0, sizeof(*ret_image));
	if (b->image)
		b->image(b->arg, ret_image);
}

static void host_say(struct stage_link *self, enum stage_severity severity, const char *fmt, ...)
{
	const struct pipeline_below *b = &self->p->below;
	char text[ERRMSG_LEN];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (b->say)
		b->say(b->arg, self->id, severity, text);
	else
		log_line(severity == STAGE_SEVERITY_NOTE ? LOG_NOTE : LOG_WARN, "filter '%s': %s",
		        self->type->name, text);
}

static void host_quarantine(struct stage_link *self, const char *why)
{
	const struct pipeline_below *b = &self->p->below;

	if (b->quarantine)
		b->quarantine(b->arg, self->id, why);
}

static int host_reserve(struct stage_link *self, uint64_t bytes, struct errmsg *em)
{
	return runtime_reserve(self, bytes, em);
}

static bool host_snapshot(struct stage_link *self)
{
	const struct pipeline_below *b = &self->p->below;

	return b->snapshot && b->snapshot(b->arg, self->id);
}

const struct stage_host pipeline_host = {
        .abi = STAGE_ABI,
        .size = sizeof(struct stage_host),
        .now_ns = clock_now_ns,
        .wall_ns = clock_wall_ns,
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
        .alloc = malloc,
        .free = free,
        .reserve = host_reserve,
        .snapshot = host_snapshot,
};

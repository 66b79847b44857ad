/*
 * protect.c - the filter "protect": read-only images and ranges, write-once, and a guard
 *
 *	read_only    no change at all: -EROFS
 *	ranges       no change in them, and the file is not cut short of them: -EPERM
 *	worm_until   until that date: what is written stays as it is: -EPERM
 *	guard        alarm, or quarantine, when much of the image turns to noise (guard.h)
 *
 * Write-once.  A range may be written when the layers below say that there is no data in it
 * (EXTENTS): the image's own map is the record of what is written.  So record and data cannot
 * disagree: both are in the same transaction, or in the same record of the intent log, and after a
 * crash a write that is gone is also not recorded.  Granularity is the map's: a chunk of 4 KiB that
 * holds any data is written, and so is an allocated chunk of zeros; beyond the end of the file
 * nothing is, so that appending works byte by byte.  Two writes of the same range at the same time:
 * the later one is refused, as it would be a moment afterwards (`claims`: what is under way).
 * Deleting, rolling back, and moving the date nearer are refused too, also while the image
 * is closed (allows()).  Whoever may detach filters may end it; that is in the audit trail.
 *
 * Questions to the layers below are requests of this stage's own (struct probe), while the guest's
 * is kept.  Answers usually come before submit_below() returns, and then nothing is kept at all.
 * The guest's data is looked at in pre() only: the host may move it while the request is kept.
 *
 * An alarm that begins an incident asks the host for a snapshot; until it begins, changes are held
 * (protect-hold.h): it has all that was there at the alarm, but for what was under way.  With
 * action=block they are refused from the alarm on, and need not be held.
 *
 * The guard needs to know how much data the image has: measured in the background, by walking its
 * extents, when the first suspicious write of a window comes.  Until then the size stands for it,
 * which alarms later.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "base/clock.h"
#include "stage/builtin/builtin.h"
#include "stage/builtin/entropy.h"
#include "stage/builtin/guard.h"
#include "stage/builtin/protect-hold.h"
#include "stage/builtin/ranges.h"

#define PROBE_CHUNKS      32u        /* looked at of one WRITE; expected are at most 16 */
#define MEASURE_STEPS_MAX (4u << 20) /* extents; beyond: the size stands for the data */

enum guard_action { ACTION_ALERT, ACTION_BLOCK };

/* Effective settings; replaced as a whole, with the pipeline drained. */
struct protect_rules {
	bool read_only, guarded, snapshot;
	enum guard_action action;
	uint64_t worm_until_ns; /* wall clock; 0: none */
	struct ranges ranges;
};

struct protect_counters {
	_Atomic uint64_t refused_read_only, refused_range, refused_worm, refused_guard, probes;
};

/* A change that passes under write-once, until its post(); in the request's context. */
struct claim {
	uint64_t off, end;
	struct claim *next, **link; /* link NULL: none */
};

union protect_context {
	struct claim claim;
	struct held held;
};

struct protect {
	const struct stage_host *host;
	struct stage_link *self;
	struct protect_rules rules;
	struct guard *guard;
	pthread_mutex_t lock; /* guards claims */
	struct claim *claims;
	struct hold hold;
	_Atomic uint64_t data_bytes, measured_ns; /* 0: not measured */
	struct protect_counters count;
};

/* --- settings --- */

static const char *const action_names[] = {"alert", "block", NULL};

static const struct setting_def protect_settings[] = {
        {.key = "read_only",
                .kind = SETTING_BOOL,
                .initial = "off",
                .help = "the whole image refuses changes"},
        {.key = "ranges",
                .kind = SETTING_TEXT,
                .help = "read-only ranges: OFF+LEN[,OFF+LEN...], as in 0+1M"},
        {.key = "worm_until",
                .kind = SETTING_TIME,
                .help = "what is written cannot be changed before this date"},
        {.key = "guard",
                .kind = SETTING_BOOL,
                .initial = "off",
                .help = "watch for the image being overwritten with encrypted data"},
        {.key = "share",
                .kind = SETTING_PERCENT,
                .initial = "20",
                .help = "guard: so much of the image's data"},
        {.key = "window",
                .kind = SETTING_DURATION,
                .initial = "10m",
                .min = NS_PER_SEC,
                .max = 7ull * 86400 * NS_PER_SEC,
                .help = "guard: within this time"},
        {.key = "least",
                .kind = SETTING_SIZE,
                .initial = "64M",
                .max = 1ull << 60,
                .help = "guard: and at least so many bytes"},
        {.key = "entropy",
                .kind = SETTING_PERCENT,
                .initial = "94",
                .help = "guard: data looks encrypted from this share of 8 bits a byte"},
        {.key = "action",
                .kind = SETTING_ENUM,
                .initial = "alert",
                .choices = action_names,
                .help = "guard: raise an alert, or refuse and quarantine as well"},
        {.key = "snapshot",
                .kind = SETTING_BOOL,
                .initial = "on",
                .help = "guard: take a snapshot at the first alarm of an incident"},
        {0}};

static void rules_read(const struct settings *s, struct protect_rules *ret_rules)
{
	const struct setting *worm = settings_get(s, "worm_until");
	const struct setting *ranges = settings_get(s, "ranges");
	struct protect_rules r = {0};

	r.read_only = settings_number(s, "read_only") != 0;
	r.guarded = settings_number(s, "guard") != 0;
	r.snapshot = settings_number(s, "snapshot") != 0;
	r.action = (enum guard_action)settings_number(s, "action");
	r.worm_until_ns = worm->set ? worm->number : 0;
	if (ranges_parse("ranges", ranges->set ? ranges->text : NULL, &r.ranges, NULL) < 0)
		r.read_only =
		        true; /* check() let nothing through that fails here; rather too much */
	*ret_rules = r;
}

static void limits_read(const struct settings *s, struct guard_limits *ret_limits)
{
	*ret_limits = (struct guard_limits){
	        .share = (double)settings_number(s, "share") / 1e6,
	        .window_ns = settings_number(s, "window"),
	        .least_bytes = settings_number(s, "least"),
	        .pairs_max = entropy_limit((double)settings_number(s, "entropy") / 1e6 * 8),
	};
}

static int protect_check(const struct settings *s, struct errmsg *em)
{
	const struct setting *ranges = settings_get(s, "ranges");
	struct ranges rs;

	if (settings_number(s, "guard") && settings_number(s, "share") == 0)
		return errmsg_set(em, -EINVAL, "'share' is 0: every write would be an alarm");
	return ranges_parse("ranges", ranges->set ? ranges->text : NULL, &rs, em);
}

/* --- write-once --- */

static bool worm_holds(const struct protect *p)
{
	return p->rules.worm_until_ns > 0 && p->host->wall_ns() < p->rules.worm_until_ns;
}

/* False: another change of that range is under way. */
static bool claim_take(struct protect *p, struct claim *c, uint64_t off, uint64_t end)
{
	bool free = true;

	pthread_mutex_lock(&p->lock);
	for (const struct claim *o = p->claims; o && free; o = o->next)
		free = off >= o->end || o->off >= end;
	if (free) {
		*c = (struct claim){.off = off, .end = end, .next = p->claims, .link = &p->claims};
		if (p->claims)
			p->claims->link = &c->next;
		p->claims = c;
	}
	pthread_mutex_unlock(&p->lock);
	return free;
}

static void claim_drop(struct protect *p, struct claim *c)
{
	pthread_mutex_lock(&p->lock);
	if (c->link) {
		*c->link = c->next;
		if (c->next)
			c->next->link = c->link;
		c->link = NULL;
	}
	pthread_mutex_unlock(&p->lock);
}

/* --- asking below --- */

/* A request of the guest's that is kept until the layers below have answered. */
struct probe {
	struct request own;
	struct protect *protect;
	struct request *req;
	struct claim *claim; /* write-once: one question; NULL: the guard's, one a chunk */
	struct held *held;   /* the guard's */
	uint64_t end;        /* of the claim */
	unsigned n, at;
	uint64_t chunks[PROBE_CHUNKS];
	_Atomic int turn; /* 0: neither has submit_below returned nor the answer come */
};

static struct probe *probe_new(struct protect *p, struct request *req)
{
	struct probe *pr = p->host->alloc(sizeof(*pr));

	if (!pr)
		return NULL;
	memset(pr, 0, sizeof(*pr));
	pr->protect = p;
	pr->req = req;
	return pr;
}

static enum stage_verdict refuse(struct request *req, int err, _Atomic uint64_t *counter)
{
	(*counter)++;
	req->result = err;
	return STAGE_FAIL;
}

/* Below has said where the next data begins. */
static enum stage_verdict worm_verdict(struct probe *pr)
{
	struct protect *p = pr->protect;

	if (pr->own.result < 0 && pr->own.result != -ENXIO) {
		pr->req->result = pr->own.result;
		claim_drop(p, pr->claim);
		return STAGE_FAIL;
	}
	if (pr->own.result == -ENXIO || pr->own.found >= pr->end)
		return STAGE_PASS_POST;
	claim_drop(p, pr->claim);
	return refuse(pr->req, -EPERM, &p->count.refused_worm);
}

static void protect_measure(void *stage);

static void hold_release(struct protect *p)
{
	struct held *held = hold_end(&p->hold);

	while (held) {
		struct request *req = held->req;
		held = held->next; /* in the request's context */
		p->host->resume(p->self, req, STAGE_PASS);
	}
}

/* The snapshot may begin, and end the holding, before this returns. */
static enum stage_verdict hold_for_snapshot(
        struct protect *p, struct request *req, struct held *held)
{
	hold_begin(&p->hold);
	p->host->timer_set(p->self, p->host->now_ns() + PROTECT_HOLD_NS);
	if (!p->host->snapshot(p->self))
		hold_release(p);
	return hold_keep(&p->hold, held, req) ? STAGE_PEND : STAGE_PASS;
}

static enum stage_verdict alarm_block(struct protect *p, struct request *req, bool snapshot)
{
	p->host->quarantine(p->self, "the image was being overwritten with what looks encrypted");
	if (snapshot && !p->host->snapshot(p->self))
		p->host->say(p->self, STAGE_SEVERITY_WARNING, "no snapshot can be taken now");
	return refuse(req, -EPERM, &p->count.refused_guard);
}

/* All sampled chunks are counted: is it too much? */
static enum stage_verdict guard_verdict(struct protect *p, struct request *req, struct held *held)
{
	const uint64_t now_ns = p->host->now_ns();
	uint64_t data_bytes = atomic_load(&p->data_bytes), bytes;
	struct stage_image image;
	bool first;

	if (data_bytes == 0) {
		p->host->image(p->self, &image);
		data_bytes = image.size;
	}
	if (!guard_alarm(p->guard, data_bytes, now_ns, &bytes, &first))
		return STAGE_PASS;
	first = first && p->rules.snapshot;
	p->host->say(p->self, STAGE_SEVERITY_ALERT,
	        "%llu MiB of %llu MiB of data were overwritten with what looks encrypted",
	        (unsigned long long)bytes >> 20, (unsigned long long)data_bytes >> 20);
	if (p->rules.action == ACTION_BLOCK)
		return alarm_block(p, req, first);
	return first ? hold_for_snapshot(p, req, held) : STAGE_PASS;
}

/* One old chunk came; true: there are more to ask for. */
static bool guard_answer(struct probe *pr)
{
	struct protect *p = pr->protect;
	uint8_t before[GUARD_CHUNK];

	if (pr->own.result == 0 && pr->own.out.len == GUARD_CHUNK) {
		const uint64_t now_ns = p->host->now_ns();
		readv_copy(&pr->own.out, 0, before, GUARD_CHUNK);
		const bool first = guard_bytes(p->guard, now_ns) == 0;
		if (guard_overwritten(p->guard, pr->chunks[pr->at], before, now_ns) && first)
			p->host->work(p->self, protect_measure);
	}
	readv_release(&pr->own.out);
	return ++pr->at < pr->n;
}

static bool probe_answer(struct probe *pr)
{
	return pr->claim ? false : guard_answer(pr);
}

/* Frees it; the verdict of the guest's request, which is another's when that is PEND. */
static enum stage_verdict probe_end(struct probe *pr)
{
	struct protect *p = pr->protect;
	const enum stage_verdict v =
	        pr->claim ? worm_verdict(pr) : guard_verdict(p, pr->req, pr->held);

	p->host->free(pr);
	return v;
}

static void probe_complete(struct request *own);

static void probe_ask(struct probe *pr)
{
	pr->own = (struct request){.flags = REQUEST_COUNTLESS,
	        .file = pr->req->file,
	        .complete = probe_complete,
	        .arg = pr};
	pr->own.op = pr->claim ? REQUEST_EXTENTS : REQUEST_READ;
	pr->own.off = pr->claim ? pr->claim->off : pr->chunks[pr->at] * GUARD_CHUNK;
	pr->own.len = pr->claim ? 0 : GUARD_CHUNK;
	atomic_store(&pr->turn, 0);
	pr->protect->count.probes++;
	pr->protect->host->submit_below(pr->protect->self, &pr->own);
}

/*
 * Asks until all is answered, as long as answers come at once.  True: all are.  False: the answer
 * will come on another thread, or has; pr is not to be touched any more.
 */
static bool probe_run(struct probe *pr)
{
	do {
		probe_ask(pr);
		if (atomic_exchange(&pr->turn, 1) == 0)
			return false;
	} while (probe_answer(pr));
	return true;
}

/* Whoever comes second, the answer or the return of submit_below, goes on. */
static void probe_complete(struct request *own)
{
	struct probe *pr = own->arg;

	if (atomic_exchange(&pr->turn, 1) == 0)
		return;
	if (probe_answer(pr) && !probe_run(pr))
		return;
	struct protect *p = pr->protect;
	struct request *req = pr->req;
	const enum stage_verdict v = probe_end(pr);
	if (v != STAGE_PEND) /* it is held, or was and is gone */
		p->host->resume(p->self, req, v);
}

static enum stage_verdict probe_start(struct probe *pr)
{
	return probe_run(pr) ? probe_end(pr) : STAGE_PEND;
}

/* --- the guard --- */

/* How much data there is; on a host's thread. */
static void protect_measure(void *stage)
{
	struct protect *p = stage;
	uint64_t bytes = 0, at = 0;
	struct stage_image image;

	p->host->image(p->self, &image);
	for (unsigned i = 0; i < MEASURE_STEPS_MAX && !p->host->cancelled(p->self); i++) {
		struct request req = {.op = REQUEST_EXTENTS, .flags = REQUEST_COUNTLESS, .off = at};
		req.flags |= i % 2 ? REQUEST_HOLE : 0;
		const int r = p->host->call_below(p->self, &req);
		const uint64_t found = r < 0 ? UINT64_MAX : MIN(req.found, image.size);
		if (r < 0 && r != -ENXIO)
			return;
		if (i % 2)
			bytes += MIN(found, image.size) - at;
		if (found >= image.size) {
			atomic_store(&p->data_bytes, bytes);
			atomic_store(&p->measured_ns, p->host->now_ns());
			return;
		}
		at = found;
	}
}

/* The sampled whole chunks of a WRITE that are noise; the rest of it does not matter. */
static unsigned noise_find(
        struct protect *p, const struct request *req, uint64_t chunks[PROBE_CHUNKS])
{
	const uint64_t first = DIV_UP(req->off, GUARD_CHUNK);
	const uint64_t end = (req->off + req->len) / GUARD_CHUNK;
	unsigned n = 0;

	for (uint64_t c = first; c < end && n < PROBE_CHUNKS; c++)
		if (guard_samples(p->guard, c) &&
		        guard_is_noise(p->guard,
		                (const uint8_t *)req->data + (c * GUARD_CHUNK - req->off)))
			chunks[n++] = c;
	return n;
}

/* Without memory the write passes unwatched: an alarm less is better than an error. */
static enum stage_verdict guard_pre(struct protect *p, struct request *req, struct held *held)
{
	uint64_t chunks[PROBE_CHUNKS];
	const unsigned n = noise_find(p, req, chunks);
	struct probe *pr = n > 0 ? probe_new(p, req) : NULL;

	if (!pr)
		return STAGE_PASS;
	memcpy(pr->chunks, chunks, n * sizeof(chunks[0]));
	pr->n = n;
	pr->held = held;
	return probe_start(pr);
}

/* --- requests --- */

/* What the file loses or changes: everything from the new end on, of a RESIZE. */
static void change_range(const struct request *req, uint64_t *ret_off, uint64_t *ret_end)
{
	*ret_off = req->op == REQUEST_RESIZE ? req->len : req->off;
	*ret_end = req->op == REQUEST_RESIZE ? UINT64_MAX : req->off + req->len;
}

/* Growing a file changes no range of it. */
static bool range_refused(struct protect *p, const struct request *req)
{
	uint64_t off, end;
	struct stage_image image;

	if (p->rules.ranges.n == 0)
		return false;
	change_range(req, &off, &end);
	if (req->op == REQUEST_RESIZE) {
		p->host->image(p->self, &image);
		end = image.size;
	}
	return off < end && ranges_touch(&p->rules.ranges, off, end);
}

static enum stage_verdict worm_pre(struct protect *p, struct request *req, struct claim *claim)
{
	uint64_t off, end;

	/* Allocating leaves data as it is. */
	if (req->op == REQUEST_ZERO && req->flags & REQUEST_ALLOCATE)
		return STAGE_PASS;
	change_range(req, &off, &end);
	if (!claim_take(p, claim, off, end))
		return refuse(req, -EPERM, &p->count.refused_worm);
	struct probe *pr = probe_new(p, req);
	if (!pr) {
		claim_drop(p, claim);
		req->result = -ENOMEM;
		return STAGE_FAIL;
	}
	pr->claim = claim;
	pr->end = end;
	return probe_start(pr);
}

static enum stage_verdict protect_pre(void *stage, struct request *req, void *context)
{
	struct protect *p = stage;

	if (p->rules.read_only)
		return refuse(req, -EROFS, &p->count.refused_read_only);
	if (range_refused(p, req))
		return refuse(req, -EPERM, &p->count.refused_range);
	union protect_context *c = context;
	if (worm_holds(p))
		return worm_pre(p, req, &c->claim);
	if (!p->rules.guarded)
		return STAGE_PASS;
	if (hold_keep(&p->hold, &c->held, req))
		return STAGE_PEND;
	return req->op == REQUEST_WRITE ? guard_pre(p, req, &c->held) : STAGE_PASS;
}

static void protect_post(void *stage, struct request *req, void *context)
{
	claim_drop(stage, &((union protect_context *)context)->claim);
}

static void protect_timer(void *stage)
{
	hold_release(stage);
}

/* --- life --- */

static void protect_destroy(void *stage)
{
	struct protect *p = stage;

	if (!p)
		return;
	guard_free(p->guard);
	hold_destroy(&p->hold);
	pthread_mutex_destroy(&p->lock);
	p->host->free(p);
}

static int protect_create(const struct stage_host *host, struct stage_link *self,
        const struct settings *settings, void **ret_stage, struct errmsg *em)
{
	struct protect *p = host->alloc(sizeof(*p));
	struct guard_limits limits;

	if (!p)
		return errmsg_set(em, -ENOMEM, "no memory for a filter");
	*p = (struct protect){.host = host, .self = self};
	pthread_mutex_init(&p->lock, NULL);
	hold_init(&p->hold);
	limits_read(settings, &limits);
	rules_read(settings, &p->rules);
	/* Where it lies in memory is what nobody in a guest can know. */
	const uint64_t secret = host->wall_ns() ^ (uint64_t)(uintptr_t)p << 20;
	const int r = guard_new(secret, &limits, &p->guard);
	if (r < 0) {
		protect_destroy(p);
		return errmsg_set(em, r, "no memory for a filter");
	}
	*ret_stage = p;
	return 0;
}

static int worm_allows(
        const struct protect_rules *rules, const struct stage_event *event, struct errmsg *em)
{
	struct protect_rules next;

	if (event->kind == STAGE_EVENT_DELETE)
		return errmsg_set(em, -EPERM, "write-once: the image cannot be deleted yet");
	if (event->kind == STAGE_EVENT_ROLLBACK)
		return errmsg_set(em, -EPERM, "write-once: the image cannot be rolled back yet");
	if (event->kind != STAGE_EVENT_RECONFIGURE)
		return 0;
	rules_read(event->settings, &next);
	if (next.worm_until_ns < rules->worm_until_ns)
		return errmsg_set(
		        em, -EPERM, "write-once: 'worm_until' can be moved to a later date only");
	return 0;
}

static int protect_allows(const struct settings *settings, const struct stage_event *event,
        uint64_t wall_ns, struct errmsg *em)
{
	struct protect_rules rules;

	rules_read(settings, &rules);
	return wall_ns < rules.worm_until_ns ? worm_allows(&rules, event, em) : 0;
}

static int protect_prepare(void *stage, const struct stage_event *event, struct errmsg *em)
{
	struct protect *p = stage;

	if (event->kind == STAGE_EVENT_QUIESCE)
		hold_release(p);
	return worm_holds(p) ? worm_allows(&p->rules, event, em) : 0;
}

static void protect_commit(void *stage, const struct stage_event *event)
{
	struct protect *p = stage;
	struct guard_limits limits;

	if (event->kind != STAGE_EVENT_RECONFIGURE)
		return;
	rules_read(event->settings, &p->rules);
	limits_read(event->settings, &limits);
	guard_set(p->guard, &limits);
}

static void protect_report(void *stage, const struct stage_report *rep)
{
	struct protect *p = stage;
	struct guard_stats st;

	guard_stats_get(p->guard, &st);
	rep->number(rep->arg, "refused_read_only", p->count.refused_read_only);
	rep->number(rep->arg, "refused_range", p->count.refused_range);
	rep->number(rep->arg, "refused_worm", p->count.refused_worm);
	rep->number(rep->arg, "refused_guard", p->count.refused_guard);
	rep->text(rep->arg, "worm", worm_holds(p) ? "on" : "off");
	if (!p->rules.guarded)
		return;
	rep->number(rep->arg, "noise_sampled", st.noise);
	rep->number(rep->arg, "converted_sampled", st.converted);
	rep->number(rep->arg, "converted_bytes", guard_bytes(p->guard, p->host->now_ns()));
	rep->number(rep->arg, "data_bytes", p->data_bytes);
	rep->number(rep->arg, "probes", p->count.probes);
	rep->number(rep->arg, "alarms", st.alarms);
}

const struct stage_type stage_protect = {
        .abi = STAGE_ABI,
        .size = sizeof(struct stage_type),
        .name = "protect",
        .version = 1,
        .summary = "read-only, write-once, and a guard against being overwritten",
        .class = STAGE_PROTECT,
        .handles = OPS_CHANGE,
        .understands = OPS_ALL,
        .settings = protect_settings,
        .context_size = sizeof(union protect_context),
        .create = protect_create,
        .destroy = protect_destroy,
        .check = protect_check,
        .allows = protect_allows,
        .pre = protect_pre,
        .post = protect_post,
        .prepare = protect_prepare,
        .commit = protect_commit,
        .timer = protect_timer,
        .report = protect_report,
};

/*
 * fault.c - the filter "fault": a disk that is slow, fails, tears and loses writes, by rule
 *
 * For tests and for rehearsing what guests do then; attaches with --force only.  One stage is one
 * rule, several may be attached.  Which requests it strikes:
 *	op, range    those it looks at, counted from 0
 *	after        not the first so many
 *	every        then every so-manieth
 *	probability  of those, by chance
 *	count        and no more than so many in all
 * and what happens to them:
 *	latency      kept so long, plus up to `jitter` by chance
 *	lost         answered with success without going down
 *	torn         of a WRITE only the first so many bytes go down; then it succeeds
 *	errno        it fails: instead of going down, or, torn, after a part went down
 *
 * Chance is a hash of `seed` and the request's number, so the same requests in the same order meet
 * the same faults.  It is the lowest class that sees requests, so what lies above (caches, say) is
 * tested with it.
 *
 * The part of a torn write goes down as a request of the stage's own, from a copy; the guest's is
 * answered when that is done.  (Making the guest's shorter on its way would change what the host
 * knows of a request that it keeps.)
 *
 * Requests that wait are in a list in order of their time, in the memory of their contexts; the
 * timer is set for the first.  Quiesce lets all go at once.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "stage/builtin/builtin.h"
#include "stage/builtin/ranges.h"

#define MILLION 1000000u

/* Constant while requests are under way. */
struct fault_rule {
	unsigned ops;
	struct ranges ranges;
	uint64_t probability; /* millionths */
	uint64_t every, after, count, seed;
	int err; /* 0: none */
	uint64_t latency_ns, jitter_ns;
	bool torn, lost;
	uint64_t torn_bytes;
};

/* What goes down of a torn write. */
struct tear {
	struct request own;
	struct fault *fault;
	struct request *req; /* the guest's; kept */
	uint8_t data[];
};

/* A request that is struck; its context. */
struct fault_wait {
	struct fault_wait *next;
	struct request *req;
	struct tear *tear; /* goes down instead; NULL: req goes on with the verdict */
	enum stage_verdict verdict;
	uint64_t due_ns, since_ns;
};

struct fault {
	const struct stage_host *host;
	struct stage_link *self;
	struct fault_rule rule;
	_Atomic uint64_t seen, matched, struck, failed, lost, torn, delayed, delayed_ns;
	pthread_mutex_t lock; /* guards what follows */
	struct fault_wait *waiting;
	bool open;         /* quiesced: nothing is kept */
	uint64_t armed_ns; /* 0: not armed */
};

/* --- settings --- */

static const char *const op_names[REQUEST_OPS] = {
        [REQUEST_READ] = "read",
        [REQUEST_WRITE] = "write",
        [REQUEST_FLUSH] = "flush",
        [REQUEST_DISCARD] = "discard",
        [REQUEST_ZERO] = "zero",
        [REQUEST_EXTENTS] = "extents",
        [REQUEST_RESIZE] = "resize",
};

static const char *const errno_names[] = {"none", "EIO", "ENOSPC", "EROFS", "EAGAIN", "ETIMEDOUT",
        "ENOMEM", "EBUSY", "EPERM", "EFBIG", NULL};
static const int errno_values[] = {
        0, EIO, ENOSPC, EROFS, EAGAIN, ETIMEDOUT, ENOMEM, EBUSY, EPERM, EFBIG};

static const struct setting_def fault_settings[] = {
        {.key = "op",
                .kind = SETTING_TEXT,
                .initial = "all",
                .help = "operations: read,write,flush,discard,zero,extents,resize or all"},
        {.key = "range",
                .kind = SETTING_TEXT,
                .help = "only requests that touch OFF+LEN[,OFF+LEN...]"},
        {.key = "after",
                .kind = SETTING_UINT,
                .initial = "0",
                .max = UINT64_MAX,
                .help = "spare the first so many"},
        {.key = "every",
                .kind = SETTING_UINT,
                .initial = "1",
                .min = 1,
                .max = UINT64_MAX,
                .help = "strike every so-manieth"},
        {.key = "probability",
                .kind = SETTING_PERCENT,
                .initial = "100",
                .help = "strike by chance"},
        {.key = "count",
                .kind = SETTING_UINT,
                .initial = "0",
                .max = UINT64_MAX,
                .help = "strike so many in all; 0: no end"},
        {.key = "seed",
                .kind = SETTING_UINT,
                .initial = "1",
                .max = UINT64_MAX,
                .help = "of chance: the same seed, the same faults"},
        {.key = "errno",
                .kind = SETTING_ENUM,
                .initial = "none",
                .choices = errno_names,
                .help = "fail with this error"},
        {.key = "latency",
                .kind = SETTING_DURATION,
                .initial = "0s",
                .max = 3600 * NS_PER_SEC,
                .help = "keep it so long"},
        {.key = "jitter",
                .kind = SETTING_DURATION,
                .initial = "0s",
                .max = 3600 * NS_PER_SEC,
                .help = "and up to so long more, by chance"},
        {.key = "torn",
                .kind = SETTING_SIZE,
                .max = REQUEST_LEN_MAX,
                .help = "write only the first so many bytes"},
        {.key = "lost",
                .kind = SETTING_BOOL,
                .initial = "off",
                .help = "answer with success, do nothing"},
        {0}};

static int ops_parse(const char *text, unsigned *ret_ops, struct errmsg *em)
{
	unsigned ops = 0;

	for (const char *at = text; *at;) {
		const size_t len = strcspn(at, ",");
		unsigned found = len == 3 && strncmp(at, "all", 3) == 0 ? OPS_ALL : 0;
		for (unsigned i = 0; i < REQUEST_OPS; i++)
			if (strlen(op_names[i]) == len && strncmp(at, op_names[i], len) == 0)
				found = BIT(i);
		if (!found)
			return errmsg_set(em, -EINVAL,
			        "unknown operation in 'op=%s': read, write, flush, discard, zero, "
			        "extents, resize or all",
			        text);
		ops |= found;
		at += len + (at[len] == ',');
	}
	if (!ops)
		return errmsg_set(em, -EINVAL, "no operation in 'op=%s'", text);
	*ret_ops = ops;
	return 0;
}

static int rule_read(const struct settings *s, struct fault_rule *ret_rule, struct errmsg *em)
{
	const struct setting *range = settings_get(s, "range"), *torn = settings_get(s, "torn");
	struct fault_rule r = {
	        .probability = settings_number(s, "probability"),
	        .every = settings_number(s, "every"),
	        .after = settings_number(s, "after"),
	        .count = settings_number(s, "count"),
	        .seed = settings_number(s, "seed"),
	        .err = errno_values[settings_number(s, "errno")],
	        .latency_ns = settings_number(s, "latency"),
	        .jitter_ns = settings_number(s, "jitter"),
	        .torn = torn->set,
	        .torn_bytes = torn->number,
	        .lost = settings_number(s, "lost") != 0,
	};
	int err = ops_parse(settings_get(s, "op")->text, &r.ops, em);

	if (err == 0)
		err = ranges_parse("range", range->set ? range->text : NULL, &r.ranges, em);
	if (err < 0)
		return err;
	*ret_rule = r;
	return 0;
}

static int fault_check(const struct settings *s, struct errmsg *em)
{
	struct fault_rule r;
	const int err = rule_read(s, &r, em);

	if (err < 0)
		return err;
	if (r.lost && (r.torn || r.err))
		return errmsg_set(em, -EINVAL, "'lost' goes with neither 'torn' nor 'errno'");
	if (r.lost && r.ops & (OP(READ) | OP(EXTENTS)))
		return errmsg_set(em, -EINVAL,
		        "reads cannot be lost: say which operations, as in op=write,flush");
	if (r.torn && r.ops != OP(WRITE))
		return errmsg_set(em, -EINVAL, "only writes can be torn: say op=write");
	return 0;
}

/* --- whom it strikes --- */

/* SplitMix64 (Steele, Lea, Flood, OOPSLA'14): of a seed and a number. */
static uint64_t chance(uint64_t seed, uint64_t n)
{
	uint64_t x = seed + (n + 1) * 0x9e3779b97f4a7c15;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
	x = (x ^ x >> 27) * 0x94d049bb133111eb;
	return x ^ x >> 31;
}

static bool in_range(const struct fault_rule *r, const struct request *req)
{
	if (r->ranges.n == 0)
		return true;
	switch (req->op) {
	case REQUEST_FLUSH:
		return false;
	case REQUEST_EXTENTS:
		return ranges_touch(&r->ranges, req->off, req->off + 1);
	case REQUEST_RESIZE:
		return ranges_touch(&r->ranges, req->len, UINT64_MAX);
	default:
		return ranges_touch(&r->ranges, req->off, req->off + MAX(req->len, 1u));
	}
}

/* Takes one of those that are left. */
static bool count_take(struct fault *f)
{
	uint64_t n = atomic_load(&f->struck);

	do {
		if (f->rule.count > 0 && n >= f->rule.count)
			return false;
	} while (!atomic_compare_exchange_weak(&f->struck, &n, n + 1));
	return true;
}

static bool strikes(struct fault *f, const struct request *req, uint64_t *ret_dice)
{
	const struct fault_rule *r = &f->rule;

	f->seen++;
	if (!(BIT(req->op) & r->ops) || !in_range(r, req))
		return false;
	const uint64_t n = atomic_fetch_add(&f->matched, 1);
	if (n < r->after || (n - r->after + 1) % r->every != 0)
		return false;
	const uint64_t dice = chance(r->seed, n);
	if (dice % MILLION >= r->probability || !count_take(f))
		return false;
	*ret_dice = dice;
	return true;
}

/* --- what happens --- */

static enum stage_verdict answer(struct request *req, int result)
{
	req->result = result;
	req->done = result == 0 && req->op == REQUEST_WRITE ? req->len : 0;
	return result < 0 ? STAGE_FAIL : STAGE_COMPLETE;
}

static void tear_complete(struct request *own)
{
	struct tear *t = own->arg;
	struct fault *f = t->fault;
	struct request *req = t->req;
	const int result = own->result < 0 ? own->result : -f->rule.err;

	f->failed += result < 0;
	const enum stage_verdict v = answer(req, result);
	f->host->free(t);
	f->host->resume(f->self, req, v);
}

/* NULL: no memory. */
static struct tear *tear_new(struct fault *f, struct request *req)
{
	const uint64_t len = f->rule.torn_bytes;
	struct tear *t = f->host->alloc(sizeof(*t) + len);

	if (!t)
		return NULL;
	memset(t, 0, sizeof(*t));
	memcpy(t->data, req->data, len);
	t->fault = f;
	t->req = req;
	t->own = (struct request){.op = REQUEST_WRITE,
	        .flags = req->flags,
	        .off = req->off,
	        .len = len,
	        .data = t->data,
	        .file = req->file,
	        .complete = tear_complete,
	        .arg = t};
	return t;
}

/* After any wait.  A write that is torn at 0 is lost; one that is shorter goes down whole. */
static enum stage_verdict fault_verdict(struct fault *f, struct request *req, struct fault_wait *w)
{
	const struct fault_rule *r = &f->rule;
	const bool torn = r->torn && req->len > r->torn_bytes;

	f->torn += torn;
	f->lost += r->lost;
	if (torn && r->torn_bytes > 0) {
		w->tear = tear_new(f, req);
		return w->tear ? STAGE_PEND : answer(req, -ENOMEM);
	}
	if (r->err) {
		f->failed++;
		return answer(req, -r->err);
	}
	return r->lost || torn ? answer(req, 0) : STAGE_PASS;
}

static void fault_go(struct fault *f, struct fault_wait *w)
{
	if (w->tear)
		f->host->submit_below(f->self, &w->tear->own);
	else
		f->host->resume(f->self, w->req, w->verdict);
}

/* Lock held on entry and exit; the last time that was asked for is the one that counts. */
static void timer_arm(struct fault *f)
{
	if (!f->waiting || (f->armed_ns > 0 && f->armed_ns <= f->waiting->due_ns))
		return;
	uint64_t at_ns;

	f->armed_ns = f->waiting->due_ns;
	do {
		at_ns = f->armed_ns;
		pthread_mutex_unlock(&f->lock);
		f->host->timer_set(f->self, at_ns);
		pthread_mutex_lock(&f->lock);
	} while (f->armed_ns != at_ns && f->armed_ns != 0);
}

/* False: quiesced, it goes on at once. */
static bool fault_keep(struct fault *f, struct fault_wait *w)
{
	struct fault_wait **at = &f->waiting;

	pthread_mutex_lock(&f->lock);
	const bool keep = !f->open;
	if (keep) {
		while (*at && (*at)->due_ns <= w->due_ns)
			at = &(*at)->next;
		w->next = *at;
		*at = w;
		f->delayed++;
		timer_arm(f);
	}
	pthread_mutex_unlock(&f->lock);
	return keep;
}

static void let_go(struct fault *f, struct fault_wait *list)
{
	const uint64_t now_ns = f->host->now_ns();

	while (list) {
		struct fault_wait *next = list->next;
		f->delayed_ns += now_ns > list->since_ns ? now_ns - list->since_ns : 0;
		fault_go(f, list);
		list = next;
	}
}

static enum stage_verdict fault_pre(void *stage, struct request *req, void *context)
{
	struct fault *f = stage;
	struct fault_wait *w = context;
	uint64_t dice;

	if (!strikes(f, req, &dice))
		return STAGE_PASS;
	const enum stage_verdict v = fault_verdict(f, req, w);
	const uint64_t jitter = f->rule.jitter_ns > 0 ? (dice >> 20) % f->rule.jitter_ns : 0;
	const uint64_t wait_ns = f->rule.latency_ns + jitter;
	w->req = req;
	w->verdict = v;
	w->since_ns = f->host->now_ns();
	w->due_ns = w->since_ns + wait_ns;
	if (wait_ns > 0 && fault_keep(f, w))
		return STAGE_PEND;
	if (v == STAGE_PEND)
		fault_go(f, w); /* w may be gone */
	return v;
}

static void fault_timer(void *stage)
{
	struct fault *f = stage;
	const uint64_t now_ns = f->host->now_ns();
	struct fault_wait *list = NULL, **end = &list;

	pthread_mutex_lock(&f->lock);
	f->armed_ns = 0;
	while (f->waiting && f->waiting->due_ns <= now_ns) {
		*end = f->waiting;
		end = &f->waiting->next;
		f->waiting = f->waiting->next;
	}
	*end = NULL;
	timer_arm(f);
	pthread_mutex_unlock(&f->lock);
	let_go(f, list);
}

static void fault_open(struct fault *f, bool open)
{
	pthread_mutex_lock(&f->lock);
	struct fault_wait *list = open ? f->waiting : NULL;
	f->open = open;
	if (open)
		f->waiting = NULL;
	pthread_mutex_unlock(&f->lock);
	let_go(f, list);
}

/* --- life --- */

static void fault_destroy(void *stage)
{
	struct fault *f = stage;

	if (!f)
		return;
	pthread_mutex_destroy(&f->lock);
	f->host->free(f);
}

static int fault_create(const struct stage_host *host, struct stage_link *self,
        const struct settings *settings, void **ret_stage, struct errmsg *em)
{
	struct fault_rule rule;
	const int r = rule_read(settings, &rule, em);

	if (r < 0)
		return r;
	struct fault *f = host->alloc(sizeof(*f));
	if (!f)
		return errmsg_set(em, -ENOMEM, "no memory for a filter");
	memset(f, 0, sizeof(*f));
	f->host = host;
	f->self = self;
	f->rule = rule;
	pthread_mutex_init(&f->lock, NULL);
	*ret_stage = f;
	return 0;
}

static int fault_prepare(void *stage, const struct stage_event *event, struct errmsg *em)
{
	struct fault_rule rule;

	if (event->kind == STAGE_EVENT_QUIESCE)
		fault_open(stage, true);
	return event->kind == STAGE_EVENT_RECONFIGURE ? rule_read(event->settings, &rule, em) : 0;
}

static void fault_abort(void *stage, const struct stage_event *event)
{
	if (event->kind == STAGE_EVENT_QUIESCE)
		fault_open(stage, false);
}

/* A new rule counts from the beginning. */
static void fault_reset(struct fault *f)
{
	f->seen = f->matched = f->struck = f->failed = f->lost = f->torn = 0;
	f->delayed = f->delayed_ns = 0;
}

static void fault_commit(void *stage, const struct stage_event *event)
{
	struct fault *f = stage;
	struct fault_rule rule;

	if (event->kind == STAGE_EVENT_THAW)
		fault_open(f, false);
	if (event->kind != STAGE_EVENT_RECONFIGURE || rule_read(event->settings, &rule, NULL) < 0)
		return; /* prepare refused what cannot be read */
	f->rule = rule;
	fault_reset(f);
}

static void fault_report(void *stage, const struct stage_report *rep)
{
	struct fault *f = stage;

	rep->number(rep->arg, "seen", f->seen);
	rep->number(rep->arg, "matched", f->matched);
	rep->number(rep->arg, "struck", f->struck);
	rep->number(rep->arg, "failed", f->failed);
	rep->number(rep->arg, "lost", f->lost);
	rep->number(rep->arg, "torn", f->torn);
	rep->number(rep->arg, "delayed", f->delayed);
	rep->number(rep->arg, "delayed_ns", f->delayed_ns);
}

static int fault_action(void *stage, const char *action, const char *const *args, unsigned n_args,
        char **ret_json, struct errmsg *em)
{
	if (strcmp(action, "reset") != 0)
		return -EOPNOTSUPP;
	if (n_args > 0)
		return errmsg_set(em, -EINVAL, "'reset' takes no arguments");
	fault_reset(stage);
	*ret_json = NULL;
	return 0;
}

static const char *const fault_actions[] = {"reset", NULL};

const struct stage_type stage_fault = {
        .abi = STAGE_ABI,
        .size = sizeof(struct stage_type),
        .name = "fault",
        .version = 1,
        .summary = "injects latency, errors, torn and lost writes, for tests and rehearsals",
        .class = STAGE_TRANSFORM,
        .capabilities = STAGE_NEEDS_FORCE | STAGE_SEES_READS,
        .handles = OPS_ALL,
        .understands = OPS_ALL,
        .settings = fault_settings,
        .context_size = sizeof(struct fault_wait),
        .create = fault_create,
        .destroy = fault_destroy,
        .check = fault_check,
        .pre = fault_pre,
        .prepare = fault_prepare,
        .commit = fault_commit,
        .abort = fault_abort,
        .timer = fault_timer,
        .report = fault_report,
        .action = fault_action,
        .actions = fault_actions,
};

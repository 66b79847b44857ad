#include "stages-for-tests.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "stage/stack.h"

/* --- t-probe --- */

struct probe probe;
static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;

struct probe_stage {
	const struct settings *settings;
};

void probe_reset(void)
{
	const unsigned alive = probe.alive;

	memset(&probe, 0, sizeof(probe));
	probe.alive = alive;
	probe.verdict = STAGE_PASS_POST;
}

static void log_add(const char *what, const struct settings *s)
{
	pthread_mutex_lock(&log_lock);
	const size_t at = strlen(probe.log);
	snprintf(probe.log + at, sizeof(probe.log) - at, "%s%s", what,
	        settings_get(s, "name")->text);
	pthread_mutex_unlock(&log_lock);
}

static int probe_create(const struct stage_host *host, struct stage_link *self,
        const struct settings *settings, void **ret_stage, struct errmsg *em)
{
	if (probe.refuse_create)
		return errmsg_set(em, probe.refuse_create, "probe refused");
	struct probe_stage *s = host->alloc(sizeof(*s));
	if (!s)
		return errmsg_set(em, -ENOMEM, "out of memory");
	s->settings = settings;
	probe.alive++;
	*ret_stage = s;
	return 0;
}

static void probe_destroy(void *stage)
{
	probe.alive--;
	free(stage);
}

static enum stage_verdict probe_pre(void *stage, struct request *req, void *context)
{
	struct probe_stage *s = stage;

	assert_int_equal(*(uint64_t *)context, 0); /* zeroed */
	*(uint64_t *)context = 0x1234;
	probe.pre++;
	log_add("<", s->settings);
	if (probe.verdict == STAGE_FAIL)
		req->result = probe.fail_with;
	return probe.verdict;
}

static void probe_post(void *stage, struct request *req, void *context)
{
	struct probe_stage *s = stage;

	assert_int_equal(*(uint64_t *)context, 0x1234);
	probe.post++;
	log_add(">", s->settings);
	if (probe.post_result)
		req->result = probe.post_result;
}

static int probe_prepare(void *stage, const struct stage_event *event, struct errmsg *em)
{
	if (probe.refuse_prepare && probe.refuse_kind == event->kind)
		return errmsg_set(em, probe.refuse_prepare, "probe refused");
	probe.prepared[event->kind]++;
	return 0;
}

static void probe_commit(void *stage, const struct stage_event *event)
{
	probe.committed[event->kind]++;
}

static void probe_abort(void *stage, const struct stage_event *event)
{
	probe.aborted[event->kind]++;
}

static const struct setting_def probe_settings[] = {
        {.key = "name", .kind = SETTING_TEXT, .initial = "p"},
        {.key = "stuck", .kind = SETTING_UINT, .initial = "1", .fixed = true},
        {0},
};

static const struct stage_type probe_type = {
        .abi = STAGE_ABI,
        .size = sizeof(struct stage_type),
        .name = "t-probe",
        .version = 1,
        .summary = "test",
        .class = STAGE_PROTECT,
        .handles = OPS_ALL,
        .understands = OPS_ALL,
        .settings = probe_settings,
        .context_size = sizeof(uint64_t),
        .create = probe_create,
        .destroy = probe_destroy,
        .pre = probe_pre,
        .post = probe_post,
        .prepare = probe_prepare,
        .commit = probe_commit,
        .abort = probe_abort,
};

/* --- t-keep --- */

#define KEEP_MAX 256u

struct keep {
	const struct stage_host *host;
	struct stage_link *link;
	pthread_mutex_t lock;
	struct request *kept[KEEP_MAX];
	unsigned n;
	bool quiet;
	uint64_t mode, for_ns;
};
enum { KEEP_TIMER, KEEP_AT_ONCE, KEEP_WORK, KEEP_FOREVER };
static const char *const keep_modes[] = {"timer", "at-once", "work", "forever", NULL};

static int keep_create(const struct stage_host *host, struct stage_link *self,
        const struct settings *settings, void **ret_stage, struct errmsg *em)
{
	struct keep *k = calloc(1, sizeof(*k));

	if (!k)
		return errmsg_set(em, -ENOMEM, "out of memory");
	k->host = host;
	k->link = self;
	k->mode = settings_number(settings, "by");
	k->for_ns = settings_number(settings, "for");
	pthread_mutex_init(&k->lock, NULL);
	*ret_stage = k;
	return 0;
}

static void keep_destroy(void *stage)
{
	struct keep *k = stage;

	if (!k)
		return;
	assert_int_equal(k->n, 0);
	pthread_mutex_destroy(&k->lock);
	free(k);
}

static void let_go(void *stage)
{
	struct request *kept[KEEP_MAX];
	struct keep *k = stage;

	pthread_mutex_lock(&k->lock);
	const unsigned n = k->n;
	memcpy(kept, k->kept, n * sizeof(*kept));
	k->n = 0;
	pthread_mutex_unlock(&k->lock);
	for (unsigned i = 0; i < n; i++)
		k->host->resume(k->link, kept[i], STAGE_PASS_POST);
}

static enum stage_verdict keep_pre(void *stage, struct request *req, void *context)
{
	struct keep *k = stage;

	if (k->mode == KEEP_AT_ONCE) { /* before pre() returned */
		k->host->resume(k->link, req, STAGE_PASS_POST);
		return STAGE_PEND;
	}
	pthread_mutex_lock(&k->lock);
	const bool keep = !k->quiet && k->n < KEEP_MAX;
	if (keep)
		k->kept[k->n++] = req;
	const bool first = keep && k->n == 1;
	pthread_mutex_unlock(&k->lock);
	if (!keep)
		return STAGE_PASS;
	if (k->mode == KEEP_WORK && !k->host->work(k->link, let_go))
		k->host->timer_set(k->link, k->host->now_ns() + k->for_ns);
	if (k->mode == KEEP_TIMER && first)
		k->host->timer_set(k->link, k->host->now_ns() + k->for_ns);
	return STAGE_PEND;
}

static void keep_post(void *stage, struct request *req, void *context)
{
}

static void keep_commit(void *stage, const struct stage_event *event)
{
	struct keep *k = stage;

	if (event->kind != STAGE_EVENT_QUIESCE && event->kind != STAGE_EVENT_THAW)
		return;
	pthread_mutex_lock(&k->lock);
	k->quiet = event->kind == STAGE_EVENT_QUIESCE;
	pthread_mutex_unlock(&k->lock);
	if (event->kind == STAGE_EVENT_QUIESCE)
		let_go(k);
}

static const struct setting_def keep_settings[] = {
        {.key = "by", .kind = SETTING_ENUM, .initial = "timer", .choices = keep_modes},
        {.key = "for", .kind = SETTING_DURATION, .initial = "200us"},
        {0},
};

static const struct stage_type keep_type = {
        .abi = STAGE_ABI,
        .size = sizeof(struct stage_type),
        .name = "t-keep",
        .version = 1,
        .summary = "test",
        .class = STAGE_LIMIT,
        .handles = OPS_ALL,
        .understands = OPS_ALL,
        .settings = keep_settings,
        .create = keep_create,
        .destroy = keep_destroy,
        .pre = keep_pre,
        .post = keep_post,
        .commit = keep_commit,
        .timer = let_go,
};

/* --- t-owner --- */

struct owner {
	const struct stage_host *host;
	struct stage_link *link;
	_Atomic unsigned rounds; /* of work() */
};

struct own {
	struct request req;
	struct request *guest;
	struct owner *o;
};

static void own_done(struct request *req)
{
	struct own *own = (struct own *)req;
	struct request *guest = own->guest;
	struct owner *o = own->o;

	guest->out = req->out;
	guest->result = req->result;
	const int result = req->result;
	free(own);
	o->host->resume(o->link, guest, result < 0 ? STAGE_FAIL : STAGE_COMPLETE);
}

static enum stage_verdict owner_pre(void *stage, struct request *req, void *context)
{
	struct owner *o = stage;
	struct own *own = malloc(sizeof(*own));

	if (!own) {
		req->result = -ENOMEM;
		return STAGE_FAIL;
	}
	*own = (struct own){
	        .req = {.op = REQUEST_READ, .off = req->off, .len = req->len, .complete = own_done},
	        .guest = req,
	        .o = o};
	o->host->submit_below(o->link, &own->req);
	return STAGE_PEND;
}

/* Reads all the time; the gate holds it up, being cancelled ends it. */
static void read_on(void *stage)
{
	struct owner *o = stage;

	while (!o->host->cancelled(o->link)) {
		struct request req = {.op = REQUEST_READ, .len = 4096};
		if (o->host->call_below(o->link, &req) == 0)
			o->rounds++;
		readv_release(&req.out);
	}
}

static int owner_create(const struct stage_host *host, struct stage_link *self,
        const struct settings *settings, void **ret_stage, struct errmsg *em)
{
	struct owner *o = calloc(1, sizeof(*o));
	struct request req = {.op = REQUEST_READ, .len = 1};

	if (!o)
		return errmsg_set(em, -ENOMEM, "out of memory");
	o->host = host;
	o->link = self;
	assert_int_equal(host->call_below(self, &req), -EAGAIN); /* nothing is below yet */
	if (settings_number(settings, "busy"))
		assert_true(host->work(self, read_on));
	*ret_stage = o;
	return 0;
}

static void owner_destroy(void *stage)
{
	free(stage);
}

static void owner_report(void *stage, const struct stage_report *report)
{
	report->number(report->arg, "rounds", ((struct owner *)stage)->rounds);
}

static const struct setting_def owner_settings[] = {
        {.key = "busy", .kind = SETTING_BOOL, .initial = "off"},
        {0},
};

static const struct stage_type owner_type = {
        .abi = STAGE_ABI,
        .size = sizeof(struct stage_type),
        .name = "t-owner",
        .version = 1,
        .summary = "test",
        .class = STAGE_REPLICATE,
        .handles = OP(READ),
        .understands = OPS_ALL,
        .settings = owner_settings,
        .create = owner_create,
        .destroy = owner_destroy,
        .pre = owner_pre,
        .report = owner_report,
};

/* --- t-hold --- */

struct hold {
	const struct stage_host *host;
	struct stage_link *link;
	pthread_mutex_t lock;
	uint64_t off;
	size_t len;
	uint8_t data[65536];
};

static int hold_create(const struct stage_host *host, struct stage_link *self,
        const struct settings *settings, void **ret_stage, struct errmsg *em)
{
	struct hold *h = calloc(1, sizeof(*h));

	if (!h)
		return errmsg_set(em, -ENOMEM, "out of memory");
	h->host = host;
	h->link = self;
	pthread_mutex_init(&h->lock, NULL);
	*ret_stage = h;
	return 0;
}

static void hold_destroy(void *stage)
{
	struct hold *h = stage;

	if (!h)
		return;
	assert_int_equal(h->len, 0); /* nothing is lost */
	pthread_mutex_destroy(&h->lock);
	free(h);
}

static int write_back(struct hold *h)
{
	struct request req = {.op = REQUEST_WRITE, .off = h->off, .len = h->len, .data = h->data};
	const int r = h->len ? h->host->call_below(h->link, &req) : 0;

	if (r == 0)
		h->len = 0;
	return r;
}

static enum stage_verdict hold_pre(void *stage, struct request *req, void *context)
{
	struct hold *h = stage;

	pthread_mutex_lock(&h->lock);
	const bool take = h->len == 0 && req->len <= sizeof(h->data);
	if (take) {
		memcpy(h->data, req->data, req->len);
		h->off = req->off;
		h->len = req->len;
		req->done = req->len;
	}
	pthread_mutex_unlock(&h->lock);
	return take ? STAGE_COMPLETE : STAGE_PASS;
}

static int hold_prepare(void *stage, const struct stage_event *event, struct errmsg *em)
{
	if (event->kind != STAGE_EVENT_CLOSE && event->kind != STAGE_EVENT_SNAPSHOT)
		return 0;
	const int r = write_back(stage);
	return r < 0 ? errmsg_set(em, r, "cannot write back") : 0;
}

static const struct setting_def hold_settings[] = {{0}};

static const struct stage_type hold_type = {
        .abi = STAGE_ABI,
        .size = sizeof(struct stage_type),
        .name = "t-hold",
        .version = 1,
        .summary = "test",
        .class = STAGE_CACHE,
        .capabilities = STAGE_HOLDS_DATA,
        .handles = OP(WRITE),
        .understands = OPS_ALL,
        .settings = hold_settings,
        .create = hold_create,
        .destroy = hold_destroy,
        .pre = hold_pre,
        .prepare = hold_prepare,
};

/* --- t-reserve --- */

static int reserve_create(const struct stage_host *host, struct stage_link *self,
        const struct settings *settings, void **ret_stage, struct errmsg *em)
{
	*ret_stage = NULL;
	return host->reserve(self, settings_number(settings, "bytes"), em);
}

static void reserve_destroy(void *stage)
{
}

static const struct setting_def reserve_settings[] = {
        {.key = "bytes", .kind = SETTING_SIZE, .initial = "0"},
        {0},
};

static const struct stage_type reserve_type = {
        .abi = STAGE_ABI,
        .size = sizeof(struct stage_type),
        .name = "t-reserve",
        .version = 1,
        .summary = "test",
        .class = STAGE_CACHE,
        .understands = OPS_ALL,
        .settings = reserve_settings,
        .create = reserve_create,
        .destroy = reserve_destroy,
};

/* --- t-narrow --- */

/* Understands reading and writing only. */
static const struct stage_type narrow_type = {
        .abi = STAGE_ABI,
        .size = sizeof(struct stage_type),
        .name = "t-narrow",
        .version = 1,
        .summary = "test",
        .class = STAGE_TRANSFORM,
        .capabilities = STAGE_TRANSFORMS,
        .understands = OP(READ) | OP(WRITE) | OP(FLUSH),
        .settings = hold_settings,
        .create = hold_create,
        .destroy = hold_destroy,
};

void test_stages_add(void)
{
	const struct stage_type *const types[] = {
	        &probe_type, &keep_type, &owner_type, &hold_type, &reserve_type, &narrow_type};
	struct errmsg em = {0};

	for (unsigned i = 0; i < ARRAY_SIZE(types); i++)
		if (stage_type_add(types[i], &em) < 0)
			fail_msg("%s", em.text);
}

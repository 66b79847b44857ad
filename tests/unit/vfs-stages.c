/*
 * vfs-stages.c - see vfs-stages.h
 */
#include "vfs-stages.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct seen seen;
const struct stage_type *_Atomic stages_types[STAGES_MAX];
int stages_open_result, stages_inherit_result;
_Atomic bool stages_read_only;
_Atomic unsigned stages_keep;

static struct stage_runtime *runtime;

/* --- stages --- */

struct stage {
	const struct stage_host *host;
	struct stage_link *link;
};

static const struct setting_def no_settings[] = {{0}};

static int stage_create(const struct stage_host *host, struct stage_link *self,
        const struct settings *settings, void **ret_stage, struct errmsg *em)
{
	struct stage *st = calloc(1, sizeof(*st));

	if (!st)
		return -ENOMEM;
	st->host = host;
	st->link = self;
	*ret_stage = st;
	return 0;
}

static void stage_destroy(void *stage)
{
	free(stage);
}

static enum stage_verdict note_pre(void *stage, struct request *req, void *context)
{
	seen.ops[req->op]++;
	seen.flags[req->op] = req->flags;
	seen.lens[req->op] = req->len;
	return STAGE_PASS;
}

const struct stage_type stage_note = {
        .abi = STAGE_ABI,
        .size = sizeof(struct stage_type),
        .name = "note",
        .version = 1,
        .summary = "writes down what it sees",
        .class = STAGE_INSPECT,
        .handles = OPS_ALL,
        .understands = OPS_ALL,
        .settings = no_settings,
        .create = stage_create,
        .destroy = stage_destroy,
        .pre = note_pre,
};

static enum stage_verdict deny_pre(void *stage, struct request *req, void *context)
{
	req->result = -EPERM;
	return STAGE_FAIL;
}

const struct stage_type stage_deny = {
        .abi = STAGE_ABI,
        .size = sizeof(struct stage_type),
        .name = "deny",
        .version = 1,
        .summary = "fails changes",
        .class = STAGE_PROTECT,
        .handles = OPS_CHANGE,
        .understands = OPS_ALL,
        .settings = no_settings,
        .create = stage_create,
        .destroy = stage_destroy,
        .pre = deny_pre,
};

/* --- a transform --- */

struct xor_context {
	const void *data; /* the guest's */
	uint8_t *mine;    /* owned */
};

struct xor_out {
	struct iovec iov;
	uint8_t data[];
};

/* 0 stays 0, so holes stay holes. */
static void swap_nibbles(uint8_t *data, size_t len)
{
	for (size_t i = 0; i < len; i++)
		data[i] = (uint8_t)(data[i] << 4 | data[i] >> 4);
}

static enum stage_verdict xor_pre(void *stage, struct request *req, void *context)
{
	struct xor_context *c = context;

	if (req->op != REQUEST_WRITE)
		return STAGE_PASS_POST;
	c->mine = malloc(req->len);
	if (!c->mine) {
		req->result = -ENOMEM;
		return STAGE_FAIL;
	}
	memcpy(c->mine, req->data, req->len);
	swap_nibbles(c->mine, req->len);
	c->data = req->data;
	req->data = c->mine;
	return STAGE_PASS_POST;
}

static void out_release(struct readv *rv)
{
	free(rv->priv);
}

static const struct readv_ops out_ops = {.release = out_release};

static void xor_post(void *stage, struct request *req, void *context)
{
	struct xor_context *c = context;

	if (req->op == REQUEST_WRITE) {
		req->data = c->data;
		free(c->mine);
		return;
	}
	if (req->result < 0 || req->out.len == 0)
		return;
	struct xor_out *o = malloc(sizeof(*o) + req->out.len);
	if (!o) {
		req->result = -ENOMEM;
		return;
	}
	const size_t len = req->out.len;
	readv_copy(&req->out, 0, o->data, len);
	readv_release(&req->out);
	swap_nibbles(o->data, len);
	o->iov = (struct iovec){o->data, len};
	req->out =
	        (struct readv){.iov = &o->iov, .n_iov = 1, .len = len, .ops = &out_ops, .priv = o};
}

const struct stage_type stage_xor = {
        .abi = STAGE_ABI,
        .size = sizeof(struct stage_type),
        .name = "swap",
        .version = 1,
        .summary = "swaps the halves of bytes",
        .class = STAGE_TRANSFORM,
        .capabilities = STAGE_TRANSFORMS,
        .handles = OP(READ) | OP(WRITE),
        .understands = OPS_ALL,
        .settings = no_settings,
        .context_size = sizeof(struct xor_context),
        .create = stage_create,
        .destroy = stage_destroy,
        .pre = xor_pre,
        .post = xor_post,
};

/* --- keeping --- */

struct kept {
	struct stage *stage;
	struct request *req;
	struct kept *next;
};

static pthread_mutex_t kept_lock = PTHREAD_MUTEX_INITIALIZER;
static struct kept *kept;
static unsigned n_kept;

static enum stage_verdict keep_pre(void *stage, struct request *req, void *context)
{
	if (!(stages_keep & BIT(req->op)))
		return STAGE_PASS;
	struct kept *k = malloc(sizeof(*k));
	if (!k)
		return STAGE_FAIL;
	*k = (struct kept){.stage = stage, .req = req};
	pthread_mutex_lock(&kept_lock);
	k->next = kept;
	kept = k;
	n_kept++;
	pthread_mutex_unlock(&kept_lock);
	return STAGE_PEND;
}

const struct stage_type stage_keep = {
        .abi = STAGE_ABI,
        .size = sizeof(struct stage_type),
        .name = "keep",
        .version = 1,
        .summary = "keeps requests",
        .class = STAGE_LIMIT,
        .handles = OPS_ALL,
        .understands = OPS_ALL,
        .settings = no_settings,
        .create = stage_create,
        .destroy = stage_destroy,
        .pre = keep_pre,
};

unsigned kept_count(void)
{
	pthread_mutex_lock(&kept_lock);
	const unsigned n = n_kept;
	pthread_mutex_unlock(&kept_lock);
	return n;
}

void kept_wait(unsigned n)
{
	for (unsigned i = 0; kept_count() < n; i++) {
		assert_true(i < 10000);
		usleep(1000);
	}
}

void kept_resume(void)
{
	stages_keep = 0;
	pthread_mutex_lock(&kept_lock);
	struct kept *list = STEAL(kept);
	n_kept = 0;
	pthread_mutex_unlock(&kept_lock);
	while (list) {
		struct kept *k = list;
		list = k->next;
		k->stage->host->resume(k->stage->link, k->req, STAGE_PASS);
		free(k);
	}
}

/* --- the manager --- */

static int say_no_state(
        void *arg, uint64_t link, const char *name, void *buf, size_t cap, size_t *ret_len)
{
	return -ENOENT;
}

void stages_plan(struct stack_plan *ret_plan)
{
	struct errmsg em;

	*ret_plan = (struct stack_plan){0};
	for (unsigned i = 0; i < STAGES_MAX && stages_types[i]; i++) {
		const struct stage_type *type = stages_types[i];
		struct stack_item *item = &ret_plan->items[ret_plan->n++];
		*item = (struct stack_item){
		        .link = i + 1,
		        .type = type,
		        .type_version = type->version,
		        .capabilities = type->capabilities,
		        .class = type->class,
		};
		snprintf(item->type_name, sizeof(item->type_name), "%s", type->name);
		assert_int_equal(settings_parse(type->settings, NULL, 0, &item->settings, &em), 0);
	}
}

static int filters_open(
        void *arg, uint64_t ino, struct pipeline_below *below, struct pipeline **ret_p)
{
	struct stack_plan *plan = calloc(1, sizeof(*plan));
	struct errmsg em = {0};
	int r = plan ? stages_open_result : -ENOMEM;

	below->state_get = say_no_state;
	if (!r)
		stages_plan(plan);
	usleep(100); /* long enough for others to come meanwhile */
	if (!r)
		r = pipeline_open(runtime, below, plan, ret_p, &em);
	if (plan)
		stack_plan_release(plan);
	free(plan);
	if (!r) {
		seen.opens++;
		seen.open_now++;
	}
	return r;
}

static void filters_close(void *arg, uint64_t ino, struct pipeline *p)
{
	seen.open_now--;
	seen.closes++;
	pipeline_close(p);
}

static int filters_inherit(void *arg, uint64_t dir, uint64_t ino)
{
	seen.inherits++;
	seen.inherited_dir = dir;
	seen.inherited = ino;
	return stages_inherit_result;
}

static void filters_collect(void *arg, uint64_t ino)
{
	seen.collects++;
	seen.collected = ino;
}

static bool filters_read_only(void *arg, uint64_t ino)
{
	return stages_read_only;
}

static const struct vfs_filters filters = {
        .open = filters_open,
        .close = filters_close,
        .inherit = filters_inherit,
        .collect = filters_collect,
        .read_only = filters_read_only,
};

int stages_setup(void **state)
{
	const struct stage_runtime_config cfg = {.workers = 2};

	memset(&seen, 0, sizeof(seen));
	for (unsigned i = 0; i < STAGES_MAX; i++)
		stages_types[i] = NULL;
	stages_open_result = stages_inherit_result = 0;
	stages_read_only = false;
	stages_keep = 0;
	if (stage_runtime_new(&cfg, &runtime) < 0)
		return -1;
	world_filters = &filters;
	return world_setup(state);
}

int stages_teardown(void **state)
{
	const int r = world_teardown(state);

	if (seen.open_now != 0 || seen.opens != seen.closes)
		fprintf(stderr, "%u pipelines are left open\n", seen.open_now);
	stage_runtime_free(STEAL(runtime));
	world_filters = NULL;
	return r || seen.open_now != 0 || kept_count() != 0;
}

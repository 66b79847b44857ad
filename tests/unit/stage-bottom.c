#include "stage-bottom.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define BLOCKS (BOTTOM_SIZE_MAX / BOTTOM_BLOCK)

/* --- images --- */

static void image_init(struct bottom_image *i)
{
	i->data = calloc(1, BOTTOM_SIZE_MAX);
	i->mapped = calloc(BLOCKS, sizeof(bool));
	assert_non_null(i->data);
	assert_non_null(i->mapped);
}

static void value_put(struct bottom_value *v)
{
	if (v && --v->refs == 0)
		free(v);
}

static void states_release(struct bottom_image *i)
{
	for (unsigned n = 0; n < BOTTOM_STATES; n++)
		value_put(i->states[n].value);
	memset(i->states, 0, sizeof(i->states));
}

/* Allocates nothing: what becomes durable must not depend on memory. */
static void image_copy(struct bottom_image *to, const struct bottom_image *from)
{
	memcpy(to->data, from->data, BOTTOM_SIZE_MAX);
	memcpy(to->mapped, from->mapped, BLOCKS * sizeof(bool));
	to->size = from->size;
	states_release(to);
	memcpy(to->states, from->states, sizeof(to->states));
	for (unsigned n = 0; n < BOTTOM_STATES; n++)
		if (to->states[n].value)
			to->states[n].value->refs++;
}

void bottom_init(struct bottom *b)
{
	pthread_mutexattr_t attr;

	memset(b, 0, sizeof(*b));
	/* applied() puts states while its thread has the lock. */
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
	pthread_mutex_init(&b->lock, &attr);
	pthread_mutexattr_destroy(&attr);
	image_init(&b->now);
	image_init(&b->durable);
}

void bottom_release(struct bottom *b)
{
	struct bottom_image *images[] = {&b->now, &b->durable};

	for (unsigned i = 0; i < 2; i++) {
		states_release(images[i]);
		free(images[i]->data);
		free(images[i]->mapped);
	}
	pthread_mutex_destroy(&b->lock);
}

void bottom_sync(struct bottom *b)
{
	pthread_mutex_lock(&b->lock);
	image_copy(&b->durable, &b->now);
	pthread_mutex_unlock(&b->lock);
}

void bottom_crash(struct bottom *b)
{
	pthread_mutex_lock(&b->lock);
	image_copy(&b->now, &b->durable);
	pthread_mutex_unlock(&b->lock);
}

void bottom_fail(struct bottom *b, unsigned ops, int n, int err)
{
	b->fail_with = err;
	b->fail_ops = ops;
	b->fail_count = n;
}

/* --- operations, under the lock --- */

struct answer {
	struct iovec iov[2];
	uint8_t data[];
};

static void answer_release(struct readv *rv)
{
	free(rv->priv);
}

static const struct readv_ops answer_ops = {.release = answer_release};

static int do_read(struct bottom *b, struct request *req)
{
	const struct bottom_image *i = &b->now;
	const uint64_t len = req->off >= i->size ? 0 : MIN(req->len, i->size - req->off);
	struct answer *a = malloc(sizeof(*a) + len);

	if (!a)
		return -ENOMEM;
	memcpy(a->data, i->data + req->off, len);
	/* Two pieces, so that nobody relies on one. */
	a->iov[0] = (struct iovec){a->data, len / 3};
	a->iov[1] = (struct iovec){a->data + len / 3, len - len / 3};
	req->out = (struct readv){
	        .iov = a->iov, .n_iov = 2, .len = len, .ops = &answer_ops, .priv = a};
	return 0;
}

static void map(struct bottom_image *i, uint64_t off, uint64_t len)
{
	for (uint64_t n = off / BOTTOM_BLOCK; len && n <= (off + len - 1) / BOTTOM_BLOCK; n++)
		i->mapped[n] = true;
}

static int do_write(struct bottom *b, struct request *req)
{
	struct bottom_image *i = &b->now;

	if (req->off > BOTTOM_SIZE_MAX || req->len > BOTTOM_SIZE_MAX - req->off)
		return -EFBIG;
	memcpy(i->data + req->off, req->data, req->len);
	map(i, req->off, req->len);
	i->size = MAX(i->size, req->off + req->len);
	req->done = req->len;
	return 0;
}

static void clear(struct bottom_image *i, uint64_t from, uint64_t to, bool unmap)
{
	if (from >= to)
		return;
	memset(i->data + from, 0, to - from);
	for (uint64_t n = DIV_UP(from, BOTTOM_BLOCK); unmap && (n + 1) * BOTTOM_BLOCK <= to; n++)
		i->mapped[n] = false;
}

static int do_discard(struct bottom *b, struct request *req)
{
	clear(&b->now, req->off, MIN(req->off + req->len, b->now.size), true);
	return 0;
}

static int do_zero(struct bottom *b, struct request *req)
{
	struct bottom_image *i = &b->now;
	const uint64_t end = req->off + req->len;

	if (end > BOTTOM_SIZE_MAX)
		return -EFBIG;
	if (!(req->flags & REQUEST_KEEP_SIZE))
		i->size = MAX(i->size, end);
	if (!(req->flags & REQUEST_ALLOCATE))
		clear(i, req->off, MIN(end, i->size), false);
	map(i, req->off, MIN(end, i->size) > req->off ? MIN(end, i->size) - req->off : 0);
	return 0;
}

static int do_extents(struct bottom *b, struct request *req)
{
	const struct bottom_image *i = &b->now;
	const bool want = !(req->flags & REQUEST_HOLE);

	req->found = UINT64_MAX;
	for (uint64_t at = req->off; at < i->size; at = ROUND_UP(at + 1, BOTTOM_BLOCK))
		if (i->mapped[at / BOTTOM_BLOCK] == want) {
			req->found = at;
			return 0;
		}
	if (!want && req->off < i->size)
		req->found = i->size;
	return 0;
}

static int do_resize(struct bottom *b, struct request *req)
{
	if (req->len > BOTTOM_SIZE_MAX)
		return -EFBIG;
	clear(&b->now, req->len, ROUND_UP(b->now.size, BOTTOM_BLOCK), true);
	b->now.size = req->len;
	return 0;
}

static int do_request(struct bottom *b, struct request *req)
{
	switch (req->op) {
	case REQUEST_READ:
		return do_read(b, req);
	case REQUEST_WRITE:
		return do_write(b, req);
	case REQUEST_FLUSH:
		image_copy(&b->durable, &b->now);
		return 0;
	case REQUEST_DISCARD:
		return do_discard(b, req);
	case REQUEST_ZERO:
		return do_zero(b, req);
	case REQUEST_EXTENTS:
		return do_extents(b, req);
	case REQUEST_RESIZE:
		return do_resize(b, req);
	case REQUEST_OPS:
		break;
	}
	return -EINVAL;
}

/* --- what the pipeline calls --- */

static bool fails(struct bottom *b, struct request *req)
{
	if (!(b->fail_ops & BIT(req->op)))
		return false;
	for (int n = b->fail_count; n > 0;)
		if (atomic_compare_exchange_weak(&b->fail_count, &n, n - 1))
			return true;
	return false;
}

static void bottom_submit(void *arg, struct request *req)
{
	static _Thread_local unsigned changes;
	struct bottom *b = arg;

	atomic_fetch_add(&b->requests[req->op], 1);
	if (b->delay_us)
		usleep(b->delay_us);
	if (fails(b, req)) {
		req->result = b->fail_with;
		return;
	}
	pthread_mutex_lock(&b->lock);
	req->result = do_request(b, req);
	if (req->result == 0 && OPS_CHANGE & BIT(req->op) && req->applied)
		req->applied(req);
	if (req->flags & REQUEST_FUA || (b->crash_every && ++changes % b->crash_every == 0))
		image_copy(&b->durable, &b->now);
	pthread_mutex_unlock(&b->lock);
}

static void bottom_prefetch(void *arg, uint64_t off, uint64_t len)
{
	atomic_fetch_add(&((struct bottom *)arg)->prefetched, len);
}

static struct bottom_state *find_state(struct bottom *b, uint64_t link, const char *name)
{
	for (unsigned i = 0; i < BOTTOM_STATES; i++) {
		struct bottom_state *s = &b->now.states[i];
		if (s->value && s->link == link && strcmp(s->name, name) == 0)
			return s;
	}
	return NULL;
}

static int bottom_state_get(
        void *arg, uint64_t link, const char *name, void *buf, size_t cap, size_t *ret_len)
{
	struct bottom *b = arg;

	pthread_mutex_lock(&b->lock);
	const struct bottom_state *s = find_state(b, link, name);
	if (s) {
		if (cap > 0)
			memcpy(buf, s->value->data, MIN(cap, s->value->len));
		*ret_len = s->value->len;
	}
	pthread_mutex_unlock(&b->lock);
	return s ? 0 : -ENOENT;
}

static void put_state(struct bottom *b, uint64_t link, const char *name, struct bottom_value *value)
{
	struct bottom_state *s = find_state(b, link, name);

	for (unsigned i = 0; i < BOTTOM_STATES && !s; i++)
		if (!b->now.states[i].value)
			s = &b->now.states[i];
	if (!s)
		abort(); /* BOTTOM_STATES are enough for every test */
	value_put(s->value);
	*s = (struct bottom_state){.link = link, .value = value};
	snprintf(s->name, sizeof(s->name), "%s", name);
}

static int bottom_state_put(
        void *arg, uint64_t link, const char *name, const void *data, size_t len)
{
	struct bottom *b = arg;
	struct bottom_value *value = data ? malloc(sizeof(*value) + len) : NULL;

	if (b->state_put_fails || (data && !value)) {
		free(value);
		return -ENOMEM;
	}
	if (value) {
		value->refs = 1;
		value->len = len;
		memcpy(value->data, data, len);
	}
	pthread_mutex_lock(&b->lock);
	put_state(b, link, name, value);
	pthread_mutex_unlock(&b->lock);
	return 0;
}

static void bottom_get_image(void *arg, struct stage_image *ret_image)
{
	struct bottom *b = arg;

	pthread_mutex_lock(&b->lock);
	*ret_image = (struct stage_image){.id = 42, .size = b->now.size, .path = "test.img"};
	pthread_mutex_unlock(&b->lock);
}

static void bottom_say(void *arg, uint64_t link, enum stage_severity severity, const char *text)
{
	struct bottom *b = arg;

	pthread_mutex_lock(&b->lock);
	snprintf(b->last_said, sizeof(b->last_said), "%s", text);
	pthread_mutex_unlock(&b->lock);
	atomic_fetch_add(&b->said, 1);
}

static void bottom_quarantine(void *arg, uint64_t link, const char *why)
{
	atomic_fetch_add(&((struct bottom *)arg)->quarantined, 1);
}

struct pipeline_below bottom_below(struct bottom *b)
{
	return (struct pipeline_below){
	        .arg = b,
	        .submit = bottom_submit,
	        .prefetch = bottom_prefetch,
	        .state_get = bottom_state_get,
	        .state_put = bottom_state_put,
	        .image = bottom_get_image,
	        .say = bottom_say,
	        .quarantine = bottom_quarantine,
	};
}

/* --- plans --- */

void item_make(struct stack_item *ret_item, uint64_t link, const char *type, const char *settings)
{
	const struct stage_type *t = stage_type_find(type);
	const char *texts[SETTINGS_MAX];
	CLEANUP(free_ptr) char *copy = strdup(settings ? settings : "");
	struct errmsg em = {0};
	unsigned n = 0;

	assert_non_null(t);
	assert_non_null(copy);
	char *rest = NULL;
	for (char *w = strtok_r(copy, " ", &rest); w; w = strtok_r(NULL, " ", &rest))
		texts[n++] = w;
	*ret_item = (struct stack_item){.link = link,
	        .type = t,
	        .type_version = t->version,
	        .capabilities = t->capabilities,
	        .class = t->class};
	snprintf(ret_item->type_name, sizeof(ret_item->type_name), "%s", type);
	if (settings_parse(t->settings, texts, n, &ret_item->settings, &em) < 0)
		fail_msg("%s", em.text);
	ret_item->given = settings_text(&ret_item->settings);
}

void item_release(struct stack_item *item)
{
	settings_release(&item->settings);
	free(item->given);
	item->given = NULL;
}

void plan_add(struct stack_plan *plan, uint64_t link, const char *type, const char *settings)
{
	assert_true(plan->n < STACK_LINKS_MAX);
	item_make(&plan->items[plan->n++], link, type, settings);
	stack_plan_sort(plan);
}

void plan_remove(struct stack_plan *plan, uint64_t link)
{
	const int i = stack_plan_find(plan, link);

	assert_true(i >= 0);
	item_release(&plan->items[i]);
	plan->n--;
	memmove(&plan->items[i], &plan->items[i + 1],
	        (plan->n - (unsigned)i) * sizeof(*plan->items));
}

void plan_state(struct stack_plan *plan, uint64_t link, enum stack_state state)
{
	const int i = stack_plan_find(plan, link);

	assert_true(i >= 0);
	plan->items[i].state = state;
}

/* --- the guest --- */

static void nothing(struct request *req)
{
}

int guest_write(struct pipeline *p, uint64_t off, const void *data, size_t len)
{
	struct request req = {
	        .op = REQUEST_WRITE, .off = off, .len = len, .data = data, .complete = nothing};
	const int r = pipeline_call(p, &req);

	if (r == 0)
		assert_int_equal(req.done, len);
	return r;
}

int guest_read(struct pipeline *p, uint64_t off, void *buf, size_t len)
{
	struct request req = {.op = REQUEST_READ, .off = off, .len = len, .complete = nothing};
	const int r = pipeline_call(p, &req);

	if (r < 0)
		return r;
	assert_int_equal(req.out.len, len);
	readv_copy(&req.out, 0, buf, len);
	readv_release(&req.out);
	return 0;
}

int guest_op(struct pipeline *p, enum request_op op, uint64_t off, uint64_t len, unsigned flags)
{
	struct request req = {
	        .op = op, .off = off, .len = len, .flags = flags, .complete = nothing};

	return pipeline_call(p, &req);
}

/*
 * transform.c - transforms that the host drives: encode on the way down, decode on the way up
 *
 * The stage gives encode() and decode() in place; this is pre() and post() around them.  A WRITE gets
 * an encoded copy of its data, a READ's answer is decoded into a buffer of its own: neither the
 * guest's memory nor the cache's is ever written to.  encode(0) = 0, so DISCARD, ZERO and EXTENTS mean
 * the same on both sides and pass.
 *
 * What of the file is encoded:
 *
 *	state           encoded
 *	ACTIVE          all
 *	CONVERTING_IN   below the cursor
 *	CONVERTING_OUT  at and above it
 *
 * While converting, requests and the conversion exclude each other by ranges: convert.c locks the
 * piece that it works on, having waited for the requests that are passing through it; requests that
 * touch a locked piece are kept until it is unlocked.  So while a request passes, the cursor does not
 * move within its range, and each of its bytes is on the same side of it on the way down and up.  All
 * operations that change bytes or size are tracked, READ too; a RESIZE as the range from its new size
 * to the end.  State changes come with the pipeline drained, so nothing is on its way then.
 *
 * The cursor's durable form carries the direction: what a conversion in left behind means nothing to
 * the conversion out.
 */
#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "stage/transform-private.h"

#define CURSOR_VERSION 1u

/* --- the cursor --- */

void cursor_encode(enum stack_state state, uint64_t cursor, uint8_t buf[CURSOR_LEN])
{
	put_u8(buf, CURSOR_VERSION);
	put_u8(buf + 1, (uint8_t)state);
	put_u64(buf + 2, cursor);
}

uint64_t cursor_decode(enum stack_state state, const uint8_t *buf, size_t len)
{
	if (len != CURSOR_LEN || buf[0] != CURSOR_VERSION || buf[1] != state)
		return 0;
	return get_u64(buf + 2);
}

static int load_cursor(struct stage_link *l)
{
	uint8_t buf[CURSOR_LEN];
	size_t len = 0;
	const int r = pipeline_host.state_get(l, "cursor", buf, sizeof(buf), &len);

	if (r < 0 && r != -ENOENT)
		return r;
	atomic_store(&l->transform->cursor, r < 0 ? 0 : cursor_decode(l->state, buf, len));
	return 0;
}

/* The part of a range that is encoded. */
static struct range encoded_part(const struct stage_link *l, struct range r)
{
	const uint64_t cursor = atomic_load(&l->transform->cursor);

	if (l->state == STACK_CONVERTING_IN)
		r.to = MIN(r.to, cursor);
	else if (l->state == STACK_CONVERTING_OUT)
		r.from = MAX(r.from, cursor);
	if (r.from > r.to)
		r.from = r.to;
	return r;
}

/* --- requests and pieces --- */

static struct range request_range(const struct request *req)
{
	uint64_t to;

	if (req->op == REQUEST_RESIZE)
		return (struct range){req->len, CURSOR_END};
	if (__builtin_add_overflow(req->off, req->len, &to))
		to = CURSOR_END;
	return (struct range){req->off, to};
}

/* False: it touches the locked piece, and is kept. */
static bool track(struct transform *t, struct passage *s, struct request *req)
{
	s->range = request_range(req);
	pthread_mutex_lock(&t->lock);
	s->tracked = !t->piece_locked || !range_overlaps(s->range, t->piece);
	if (s->tracked) {
		s->prev = NULL;
		s->next = t->first;
		if (t->first)
			t->first->prev = s;
		t->first = s;
	} else {
		req->trip.next = t->waiting;
		t->waiting = req;
	}
	/* As soon as this is unlocked, another thread may go on with it. */
	const bool tracked = s->tracked;
	pthread_mutex_unlock(&t->lock);
	return tracked;
}

static void untrack(struct transform *t, struct passage *s)
{
	if (!s->tracked)
		return;
	pthread_mutex_lock(&t->lock);
	if (s->prev)
		s->prev->next = s->next;
	else
		t->first = s->next;
	if (s->next)
		s->next->prev = s->prev;
	s->tracked = false;
	if (t->piece_locked)
		pthread_cond_signal(&t->passed);
	pthread_mutex_unlock(&t->lock);
}

static bool piece_in_use(const struct transform *t)
{
	for (const struct passage *s = t->first; s; s = s->next)
		if (range_overlaps(s->range, t->piece))
			return true;
	return false;
}

void transform_lock(struct transform *t, struct range piece)
{
	pthread_mutex_lock(&t->lock);
	ASSERT(!t->piece_locked);
	t->piece_locked = true;
	t->piece = piece;
	while (piece_in_use(t))
		pthread_cond_wait(&t->passed, &t->lock);
	pthread_mutex_unlock(&t->lock);
}

void transform_unlock(struct transform *t)
{
	struct request *in_order = NULL;

	pthread_mutex_lock(&t->lock);
	t->piece_locked = false;
	for (struct request *req; (req = t->waiting);) {
		t->waiting = req->trip.next;
		req->trip.next = in_order;
		in_order = req;
	}
	pthread_mutex_unlock(&t->lock);
	for (struct request *req; (req = in_order);) {
		in_order = req->trip.next;
		trip_resume(req, VERDICT_AGAIN);
	}
}

/* --- bytes --- */

static int encode_write(struct stage_link *l, struct passage *s, struct request *req)
{
	const struct range r = encoded_part(l, request_range(req));

	if (r.from == r.to)
		return 0;
	s->encoded = malloc(req->len);
	if (!s->encoded)
		return -ENOMEM;
	memcpy(s->encoded, req->data, req->len);
	l->type->encode(
	        l->stage, r.from, (uint8_t *)s->encoded + (r.from - req->off), r.to - r.from);
	s->original = req->data;
	req->data = s->encoded;
	return 0;
}

struct answer {
	struct iovec iov;
	uint8_t data[];
};

static void answer_release(struct readv *rv)
{
	free(rv->priv);
}

static int answer_pin(const struct readv *rv, size_t off, size_t len, struct readv_pin *ret_pin)
{
	return -EOPNOTSUPP; /* made for this read */
}

static const struct readv_ops answer_ops = {.release = answer_release, .pin = answer_pin};

static int decode_read(struct stage_link *l, struct request *req)
{
	const size_t len = req->out.len;
	const struct range r = encoded_part(l, (struct range){req->off, req->off + len});

	if (r.from == r.to)
		return 0;
	struct answer *a = malloc(sizeof(*a) + len);
	if (!a)
		return -ENOMEM;
	readv_copy(&req->out, 0, a->data, len);
	l->type->decode(l->stage, r.from, a->data + (r.from - req->off), r.to - r.from);
	readv_release(&req->out);
	a->iov = (struct iovec){.iov_base = a->data, .iov_len = len};
	req->out = (struct readv){
	        .iov = &a->iov, .n_iov = 1, .len = len, .ops = &answer_ops, .priv = a};
	return 0;
}

/* --- what the driver calls --- */

static enum stage_verdict transform_pre(void *arg, struct request *req, void *context)
{
	struct stage_link *l = arg;
	struct passage *s = context;
	int r = l->transform->broken ? -EIO : 0;

	if (r == 0 && l->state != STACK_ACTIVE && !track(l->transform, s, req))
		return STAGE_PEND;
	if (r == 0 && req->op == REQUEST_WRITE)
		r = encode_write(l, s, req);
	if (r == 0)
		return STAGE_PASS_POST;
	untrack(l->transform, s);
	req->result = r;
	return STAGE_FAIL;
}

static void transform_post(void *arg, struct request *req, void *context)
{
	struct stage_link *l = arg;
	struct passage *s = context;

	if (req->op == REQUEST_READ && req->result >= 0) {
		const int r = decode_read(l, req);
		if (r < 0)
			req->result = r;
	}
	if (s->encoded) {
		req->data = s->original;
		free(s->encoded);
		s->encoded = NULL;
	}
	untrack(l->transform, s);
}

/* --- links --- */

int transform_new(struct stage_link *l)
{
	struct transform *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	pthread_mutex_init(&t->lock, NULL);
	pthread_cond_init(&t->passed, NULL);
	l->transform = t;
	l->pre = transform_pre;
	l->post = transform_post;
	l->arg = l;
	l->context_size = sizeof(struct passage);
	return 0;
}

void transform_free(struct transform *t)
{
	if (!t)
		return;
	ASSERT(!t->first && !t->waiting && !t->piece_locked);
	pthread_mutex_destroy(&t->lock);
	pthread_cond_destroy(&t->passed);
	free(t);
}

unsigned transform_handles(enum stack_state state)
{
	return state == STACK_ACTIVE ? OP(READ) | OP(WRITE) : OP(READ) | OPS_CHANGE;
}

int transform_open(struct stage_link *l)
{
	return l->state == STACK_ACTIVE ? 0 : load_cursor(l);
}

void transform_begin(struct stage_link *l, enum stack_state state)
{
	l->state = state;
	atomic_store(&l->transform->cursor, 0);
}

void transform_reload(struct stage_link *l)
{
	if (transform_open(l) < 0) {
		l->transform->broken = true;
		pipeline_host.quarantine(l, "how far its conversion came cannot be read");
	}
}

bool transform_is_done(const struct stage_link *l)
{
	return atomic_load(&l->transform->cursor) == CURSOR_END;
}

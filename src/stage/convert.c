/*
 * convert.c - moving the cursor of a transform, a piece at a time
 *
 * A piece is read from below the stage, encoded or decoded, and written back by own requests of the
 * stage, while its range is locked (transform.c).  The write's applied() is called inside the store's
 * gate and puts the cursor's new place there: so both are in one transaction, and whenever the store
 * is found again, the bytes below the cursor and those above are as the cursor says.
 *
 * Holes need no work, for encode(0) = 0: the cursor passes them without a write.  That, too, with the
 * range locked: a write into it goes through either before, and is then seen as data, or after, and
 * then falls on the new side of the cursor; the cursor was put first, so it is durable no later.
 *
 * The end: where no data follows, the whole rest of the file is locked, looked at once more, and the
 * cursor goes to CURSOR_END, behind any size that the file may ever have.  What is written there from
 * then on falls on the new side.  So no growth can be missed between the last piece and the change of
 * state.  Growth before that lies ahead of the cursor and is converted in its turn; what is cut off
 * and grows again are zeros, which are the same on both sides.
 *
 * If the cursor cannot be put (no memory) although the piece is written, the piece is written back as
 * it was, still under the range's lock.
 */
#include <errno.h>
#include <string.h>

#include "stage/transform-private.h"

#define PUT_TRIES 3

struct piece {
	struct request req; /* the WRITE; first member */
	struct stage_link *l;
	bool applied;
	int put;         /* of the cursor */
	uint64_t cursor; /* its new place */
};

static int put_cursor(struct stage_link *l, uint64_t cursor)
{
	uint8_t buf[CURSOR_LEN];
	int r = -ENOMEM;

	cursor_encode(l->state, cursor, buf);
	for (unsigned i = 0; i < PUT_TRIES && r == -ENOMEM; i++)
		r = pipeline_host.state_put(l, "cursor", buf, sizeof(buf));
	return r;
}

static int move_cursor(struct stage_link *l, uint64_t cursor)
{
	const int r = put_cursor(l, cursor);

	if (r == 0)
		atomic_store(&l->transform->cursor, cursor);
	return r;
}

static int next_extent(struct stage_link *l, uint64_t off, bool hole, uint64_t *ret_found)
{
	struct request req = {.op = REQUEST_EXTENTS,
	        .off = off,
	        .flags = REQUEST_COUNTLESS | (hole ? REQUEST_HOLE : 0)};
	const int r = trip_call_own(l, &req);

	if (r < 0)
		return r;
	*ret_found = req.found;
	return 0;
}

static int read_piece(struct stage_link *l, struct range r, uint8_t *buf, size_t *ret_len)
{
	struct request req = {.op = REQUEST_READ,
	        .off = r.from,
	        .len = r.to - r.from,
	        .flags = REQUEST_COUNTLESS};
	const int err = trip_call_own(l, &req);

	if (err < 0)
		return err;
	readv_copy(&req.out, 0, buf, req.out.len);
	*ret_len = req.out.len;
	readv_release(&req.out);
	return *ret_len ? 0 : -EIO; /* data was said to be there */
}

static void piece_applied(struct request *req)
{
	struct piece *c = (struct piece *)req;

	/* A short write is converted as far as it goes. */
	c->cursor = req->off + (req->done ? req->done : req->len);
	c->applied = true;
	c->put = put_cursor(c->l, c->cursor);
}

static int write_piece(
        struct stage_link *l, uint64_t off, const uint8_t *buf, size_t len, struct piece *ret_c)
{
	*ret_c = (struct piece){.req = {.op = REQUEST_WRITE,
	                                .off = off,
	                                .len = len,
	                                .data = buf,
	                                .flags = REQUEST_COUNTLESS,
	                                .applied = piece_applied},
	        .l = l};
	const int r = trip_call_own(l, &ret_c->req);
	/* A stage below may answer it without doing it: then nothing is converted. */
	return ret_c->applied ? 0 : r < 0 ? r : -EIO;
}

static void turn(struct stage_link *l, uint64_t off, uint8_t *buf, size_t len, bool encode)
{
	if (encode)
		l->type->encode(l->stage, off, buf, len);
	else
		l->type->decode(l->stage, off, buf, len);
}

/* Written, but the cursor could not be put: as it was. */
static int take_back(struct stage_link *l, const struct piece *c, uint8_t *buf, size_t len)
{
	const bool encode = l->state == STACK_CONVERTING_IN;
	struct request req = {.op = REQUEST_WRITE,
	        .off = c->req.off,
	        .len = len,
	        .data = buf,
	        .flags = REQUEST_COUNTLESS};

	turn(l, c->req.off, buf, len, !encode);
	const int r = trip_call_own(l, &req);
	if (r < 0 || req.done != len) {
		l->transform->broken = true;
		pipeline_host.quarantine(l, "a piece is converted and that could not be recorded");
	}
	return c->put;
}

/* Of a locked range that begins with data. */
static int convert_data(struct stage_link *l, struct range r)
{
	CLEANUP(free_ptr) uint8_t *buf = malloc(r.to - r.from);
	struct piece c;
	size_t len = 0;

	if (!buf)
		return -ENOMEM;
	int err = read_piece(l, r, buf, &len);
	if (err < 0)
		return err;
	turn(l, r.from, buf, len, l->state == STACK_CONVERTING_IN);
	err = write_piece(l, r.from, buf, len, &c);
	if (err < 0)
		return err;
	if (c.put < 0)
		return take_back(l, &c, buf, len);
	atomic_store(&l->transform->cursor, c.cursor);
	return 0;
}

/* Of a locked range; *ret_empty: there is no data in it. */
static int convert_range(struct stage_link *l, struct range r, bool *ret_empty)
{
	uint64_t data = 0, hole = 0;
	int err = next_extent(l, r.from, false, &data);

	if (err < 0)
		return err;
	*ret_empty = data >= r.to;
	if (*ret_empty)
		return 0;
	err = next_extent(l, data, true, &hole);
	return err < 0 ? err : convert_data(l, (struct range){data, MIN(hole, r.to)});
}

/* No data close to the cursor: moves it to where the next begins, or behind everything. */
static int pass_holes(struct stage_link *l, uint64_t from)
{
	uint64_t data = 0;

	transform_lock(l->transform, (struct range){from, CURSOR_END});
	int r = next_extent(l, from, false, &data);
	if (r == 0)
		r = move_cursor(l, data); /* UINT64_MAX, none, is CURSOR_END */
	transform_unlock(l->transform);
	return r;
}

static int convert_piece(struct stage_link *l, uint64_t len)
{
	const uint64_t from = atomic_load(&l->transform->cursor);
	const uint64_t to = from + MIN(MAX(len, 1), REQUEST_LEN_MAX);
	bool empty = false;

	transform_lock(l->transform, (struct range){from, to});
	const int r = convert_range(l, (struct range){from, to}, &empty);
	transform_unlock(l->transform);
	return r == 0 && empty ? pass_holes(l, from) : r;
}

int pipeline_convert(struct pipeline *p, uint64_t link, uint64_t len, bool *ret_done)
{
	int r = 0;

	pthread_mutex_lock(&p->control);
	struct stage_link *l = pipeline_link(p, link);
	if (!l)
		r = -ENOENT;
	else if (!l->transform || l->state == STACK_ACTIVE)
		r = -EINVAL;
	else if (l->transform->broken)
		r = -EIO;
	else if (!transform_is_done(l))
		r = convert_piece(l, len);
	if (r == 0)
		*ret_done = transform_is_done(l);
	pthread_mutex_unlock(&p->control);
	return r;
}

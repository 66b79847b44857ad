/*
 * copy.c - copy_file_range: chunks are shared, only ragged ends are copied
 *
 * Where both offsets lie alike within a chunk, the whole chunks in between are shared by reference
 * (store_share): a clone of a disk image takes no space and hardly any time.  The last, partial
 * chunk of a file is shared too when it becomes the last one of the other file: behind the end
 * there are zeros in both. Ranges that lie differently are copied as bytes.
 *
 * A whole file onto an empty one is not even walked: the engine gives the other image the same map
 * (store_clone_into), in one commit.  Size and content of it become official together, and the copy is
 * durable when it is answered; until then nothing of it may be logged by a flush (vnode.cloning).  So is
 * what is left of a file when the other one has all that comes before (prefix.h), and nothing else.
 *
 * Where a stage of either file is to see what is read or written, and between crypto domains, bytes
 * are read and written as requests of the stacks instead.  The thread waits for them, so only a few
 * at a time may do that.
 *
 * One call does a bounded amount and says how much; the caller comes back for the rest.
 */
#include "fs/vfs/prefix.h"

#include <errno.h>

#include "base/blocking.h"
#include "base/log.h"
#include "fs/vfs/file.h"
#include "store/snapshot.h"

/* Files below it are shared chunk by chunk: that waits for no commit. */
#define CLONE_MIN_BYTES  (64ull << 20)
#define HOLE_MIN_BYTES   (1ull << 20)  /* shorter ones are shared as chunks are */
#define SHARE_STEP_BYTES (64ull << 20) /* what store_share takes */
#define SHARE_MAX_BYTES  (1ull << 30)  /* a call */
#define COPY_STEP_BYTES  (1u << 20)
#define COPY_MAX_BYTES   (16ull << 20) /* a call */
/* As requests: a call, which waits for as long as stages keep them, and threads that wait so. */
#define REQUESTS_MAX_BYTES (4ull << 20)
#define WAITING_MAX        4u

struct copy {
	struct vfs *v;
	struct vnode *from, *to;
	uint64_t from_off, to_off, len;
	unsigned flags;
	uint64_t copied; /* as bytes, so far */
	bool prefix;     /* `to` is the beginning of `from`; while the locks are held */
	uint64_t early;  /* likewise: prefix.h */
};

/* Both files' io locks, always in the same order; the source only against being cut. */
static void copy_lock(const struct copy *c)
{
	if (c->from == c->to) {
		pthread_rwlock_wrlock(&c->to->io);
	} else if (c->from->ino < c->to->ino) {
		pthread_rwlock_rdlock(&c->from->io);
		pthread_rwlock_wrlock(&c->to->io);
	} else {
		pthread_rwlock_wrlock(&c->to->io);
		pthread_rwlock_rdlock(&c->from->io);
	}
}

static void copy_unlock(const struct copy *c)
{
	pthread_rwlock_unlock(&c->to->io);
	if (c->from != c->to)
		pthread_rwlock_unlock(&c->from->io);
}

/* Shares n bytes (whole chunks) and moves on by `count` of them, which belong to the file. */
static int share_step(struct copy *c, uint64_t n, uint64_t count)
{
	struct vfs *v = c->v;
	uint64_t shared = 0;

	store_enter(v->store);
	const int r = store_share(c->from->img, c->from_off, c->to->img, c->to_off, n, &shared);
	count = MIN(count, shared);
	if (!r)
		file_changed(v, c->to, c->to_off, c->to_off + count, c->flags);
	store_leave(v->store);
	if (r < 0)
		return r;
	c->from_off += count;
	c->to_off += count;
	c->len -= count;
	return 0;
}

static int bytes_step(struct copy *c, void *buf, size_t n)
{
	struct vfs *v = c->v;
	int r = store_read(c->from->img, c->from_off, buf, n);

	if (r < 0)
		return r;
	store_enter(v->store);
	r = store_write(c->to->img, c->to_off, buf, n);
	if (!r)
		file_changed(v, c->to, c->to_off, c->to_off + n, c->flags);
	store_leave(v->store);
	if (r < 0)
		return r;
	c->from_off += n;
	c->to_off += n;
	c->len -= n;
	c->copied += n;
	return 0;
}

/*
 * A long hole of the source: the other file gets one of n bytes, which is a few stores, where it reaches
 * that far at all.
 */
static int hole_step(struct copy *c, uint64_t n)
{
	struct vfs *v = c->v;
	int r = 0;

	store_enter(v->store);
	if (c->to_off < c->to->size)
		r = store_punch(c->to->img, c->to_off, n, false);
	if (!r)
		file_changed(v, c->to, c->to_off, c->to_off + n, c->flags);
	store_leave(v->store);
	if (r < 0)
		return r;
	c->from_off += n;
	c->to_off += n;
	c->len -= n;
	return 0;
}

/* Bytes of a long hole that the source has here; 0: there is none. */
static int hole_next(const struct copy *c, uint64_t *ret_n)
{
	uint64_t data;

	*ret_n = 0;
	if (c->len < HOLE_MIN_BYTES)
		return 0;
	const int r = store_seek(c->from->img, c->from_off, false, &data);
	if (r < 0)
		return r;
	const uint64_t n = MIN(data - c->from_off, c->len);
	if (n >= HOLE_MIN_BYTES)
		*ret_n = n;
	return 0;
}

/* How many bytes from here on can be shared in one step; *ret_count of them belong to the file. */
static uint64_t share_next(const struct copy *c, uint64_t *ret_count)
{
	const uint64_t whole = MIN(c->len - c->len % CHUNK_SIZE, SHARE_STEP_BYTES);
	const uint64_t tail = c->len % CHUNK_SIZE;

	if (c->from_off % CHUNK_SIZE || c->to_off % CHUNK_SIZE)
		return 0;
	*ret_count = whole;
	if (whole > 0)
		return whole;
	if (tail == 0 || c->from_off + tail != c->from->size || c->to_off + tail < c->to->size)
		return 0;
	*ret_count = tail;
	return CHUNK_SIZE;
}

static bool copy_alike(const struct copy *c)
{
	return c->from_off % CHUNK_SIZE == c->to_off % CHUNK_SIZE;
}

/* Bytes to copy in one step: up to the next chunk boundary where sharing may begin. */
static size_t bytes_next(const struct copy *c)
{
	if (!copy_alike(c))
		return MIN(c->len, COPY_STEP_BYTES);
	return MIN(c->len, CHUNK_SIZE - c->from_off % CHUNK_SIZE);
}

static int copy_step(struct copy *c, void *buf)
{
	uint64_t count = 0, n;
	int r = hole_next(c, &n);

	if (r < 0)
		return r;
	if (n > 0)
		return hole_step(c, n);
	n = share_next(c, &count);
	r = n > 0 ? share_step(c, n, count) : -EAGAIN;
	if (r == -EAGAIN) /* not alike, or only partly written so far: as bytes */
		r = bytes_step(c, buf, bytes_next(c));
	return r;
}

/* What this call will do, given where the source ends; and is it allowed at all? */
static int copy_clip(struct copy *c)
{
	const uint64_t size = c->from->size;

	c->len = c->from_off < size ? MIN(c->len, size - c->from_off) : 0;
	if (c->len > 0 && c->to_off >= IMAGE_SIZE_MAX)
		return -EFBIG;
	c->len = MIN(c->len, IMAGE_SIZE_MAX - MIN(c->to_off, IMAGE_SIZE_MAX));
	if (c->from == c->to && c->from_off < c->to_off + c->len &&
	        c->to_off < c->from_off + c->len)
		return -EINVAL;
	c->len = MIN(c->len, copy_alike(c) ? SHARE_MAX_BYTES : COPY_MAX_BYTES);
	return 0;
}

/* --- a whole file at once --- */

/* May all of the source be the whole of the other file, as one map?  Before it is clipped. */
static bool clone_fits(const struct copy *c)
{
	const uint64_t size = c->from->size;

	return c->prefix && c->from_off < size && c->len >= size - c->from_off &&
	       size - c->from_off >= CLONE_MIN_BYTES;
}

/* Gate closed, at the instant that the copy is of. */
static int clone_rows(void *arg)
{
	const struct copy *c = arg;

	if (c->from->size != c->from_off + c->len)
		return -EAGAIN; /* it grew: not what was asked for any more */
	if (c->from_off > 0 && !prefix_same(c->from, c->early))
		return -EAGAIN;
	c->to->cloning = true;
	file_changed(c->v, c->to, c->to_off, c->to_off + c->len, c->flags);
	return 0;
}

int vnode_clone_settle(struct vfs *v, struct vnode *vn)
{
	if (LIKELY(!vn->cloning))
		return 0;
	const int r = store_sync(v->store);
	if (!r)
		vn->cloning = false;
	return r;
}

/* -EAGAIN: to be done chunk by chunk. */
static int clone_locked(struct copy *c, uint64_t *ret_len)
{
	if (!clone_fits(c))
		return -EAGAIN;
	c->len = c->from->size - c->from_off;
	int r = store_clone_into(c->from->img, c->to->img, clone_rows, c);
	if (r == -EINPROGRESS) /* it could not be committed yet, and will be */
		r = vnode_clone_settle(c->v, c->to);
	else
		c->to->cloning = false;
	if (r == -ENOENT && c->from->snap) /* deleted, but open: its chunks can be shared */
		r = -EAGAIN;
	if (!r)
		*ret_len = c->len;
	return r;
}

static int share_locked(struct copy *c, void *buf, uint64_t *ret_len)
{
	int r = copy_clip(c);

	if (r < 0)
		return r;
	const uint64_t len = c->len;
	if (c->prefix)
		c->prefix = prefix_watch(c->from, c->from_off + len, c->early);
	while (c->len > 0 && c->copied < COPY_MAX_BYTES && !r)
		r = copy_step(c, buf);
	if (r < 0 && c->len == len)
		return r;
	if (c->prefix)
		prefix_copied(c->from, c->to, c->early, c->to_off);
	*ret_len = len - c->len; /* what was done counts, the error comes with the next call */
	return 0;
}

/* Where no stage is to see the bytes: between the bottoms. */
static int copy_below(struct copy *c, uint64_t *ret_len)
{
	/* The same wait as for a write of what is going to be copied as bytes, as far as that is
	 * known. */
	const uint64_t bytes = copy_alike(c) ? 2 * CHUNK_SIZE : MIN(c->len, COPY_MAX_BYTES);
	int r = vfs_begin(c->v, bytes, false);

	if (r < 0)
		return r;
	CLEANUP(free_ptr) void *buf = malloc(copy_alike(c) ? CHUNK_SIZE : COPY_STEP_BYTES);
	if (!buf)
		return -ENOMEM;
	copy_lock(c);
	c->prefix = c->from != c->to && c->from_off == c->to_off &&
	            prefix_holds(c->from, c->to, c->from_off, &c->early);
	const uint64_t asked = c->len;
	r = clone_locked(c, ret_len);
	if (r == -EAGAIN) {
		c->len = asked;
		r = share_locked(c, buf, ret_len);
	}
	copy_unlock(c);
	return r;
}

/* --- as requests through both stacks --- */

/* One piece; 0 at the end of the source. */
static int request_step(struct copy *c, void *buf, uint64_t *ret_len)
{
	struct readv rv;
	int r = vfs_read(c->v, c->from, c->from_off, MIN(c->len, COPY_STEP_BYTES), &rv);

	if (r < 0)
		return r;
	struct request req = {
	        .op = REQUEST_WRITE,
	        .flags = (c->flags & ~REQUEST_FUA) | REQUEST_COPY,
	        .off = c->to_off,
	        .len = rv.len,
	        .data = buf,
	};
	readv_copy(&rv, 0, buf, rv.len);
	readv_release(&rv);
	r = submit_call(c->v, c->to, &req);
	if (!r)
		*ret_len = req.done;
	return r;
}

static int copy_requests(struct copy *c, uint64_t *ret_len)
{
	uint64_t n = 1;
	int r = copy_clip(c);

	if (r < 0)
		return r;
	CLEANUP(free_ptr) void *buf = malloc(COPY_STEP_BYTES);
	if (!buf)
		return -ENOMEM;
	while (c->len > 0 && c->copied < REQUESTS_MAX_BYTES && n > 0 && !r) {
		n = 0;
		r = request_step(c, buf, &n);
		c->from_off += n;
		c->to_off += n;
		c->len -= n;
		c->copied += n;
	}
	if (r < 0 && c->copied == 0)
		return r;
	*ret_len = c->copied;
	return 0;
}

/* No more than a few threads at once may be held by stages that keep such requests. */
static int copy_waiting(struct copy *c, uint64_t *ret_len)
{
	_Atomic unsigned *n = &c->v->copies_waiting;
	int r = -EBUSY;

	if (atomic_fetch_add(n, 1) < WAITING_MAX)
		r = copy_requests(c, ret_len);
	atomic_fetch_sub(n, 1);
	return r;
}

/* --- which of the two --- */

/*
 * Sharing must not meet a change of either stack: both are held, by inode number like the files'
 * locks.  A file without filters has nothing to hold.
 */
struct hold {
	struct pipeline *p;
	unsigned ops;
	struct request room;
};

static void holds_init(const struct copy *c, struct hold holds[2])
{
	const bool in_order = c->from->ino < c->to->ino;
	struct hold *from = &holds[!in_order], *to = &holds[in_order];

	from->p = c->from->pipeline;
	from->ops = OP(READ);
	to->p = c->to->pipeline;
	to->ops = OP(WRITE);
	if (c->from == c->to) {
		from->p = NULL;
		to->ops |= OP(READ);
	}
}

static void holds_release(struct hold *holds, unsigned n)
{
	while (n-- > 0)
		if (holds[n].p)
			pipeline_unhold(holds[n].p, &holds[n].room);
}

/* Shares where no stage is to see the bytes; -EXDEV: it must be done by requests. */
static int copy_held(struct copy *c, uint64_t *ret_len)
{
	struct hold holds[2];

	holds_init(c, holds);
	for (unsigned i = 0; i < ARRAY_SIZE(holds); i++) {
		struct hold *h = &holds[i];
		if (h->p && !pipeline_hold(h->p, h->ops, &h->room)) {
			holds_release(holds, i);
			return -EXDEV;
		}
	}
	const int r = copy_below(c, ret_len);
	holds_release(holds, ARRAY_SIZE(holds));
	return r;
}

/*
 * A copy that passes the stages by may have made the file longer: they are told afterwards, outside
 * of all locks; what one refuses then is too late.
 */
static void tell_resized(struct vnode *to, uint64_t size_before)
{
	const struct stage_event event = {.kind = STAGE_EVENT_RESIZE, .size = to->size};
	struct errmsg em = {0};

	if (!to->pipeline || event.size == size_before)
		return;
	blocking_begin();
	if (pipeline_event(to->pipeline, &event, NULL, NULL, &em) < 0)
		log_warn("inode %llu: a filter refuses its new size, which it has: %s",
		        (unsigned long long)to->ino, em.text);
	blocking_end();
}

int vfs_copy(struct vfs *v, struct vnode *from, uint64_t from_off, struct vnode *to,
        uint64_t to_off, uint64_t len, unsigned flags, uint64_t *ret_len)
{
	const struct copy start = {.v = v,
	        .from = from,
	        .to = to,
	        .from_off = from_off,
	        .to_off = to_off,
	        .len = len,
	        .flags = flags};
	struct copy c = start;
	uint64_t done = 0;
	const uint64_t size = to->size;
	int r = submit_admit(v, to);

	if (!r)
		r = copy_held(&c, &done);
	if (!r)
		tell_resized(to, size);
	if (r == -EXDEV) { /* stages, or chunks of another crypto domain, which are not shared */
		c = start;
		r = copy_waiting(&c, &done);
	}
	if (!r && done > 0 && flags & REQUEST_FUA)
		r = vfs_fsync(v, to);
	if (!r)
		*ret_len = done;
	return r;
}

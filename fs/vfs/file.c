/*
 * file.c - the content of files: size, times, flush, holes
 *
 * What the bottom of the stack (submit.c) does other than plain reading and writing.  Changes of
 * ranges and of the size hold vnode.io exclusively: what they find (a hole, the end of the file) is
 * still so when they act on it, and no write lands behind the new end of a file that is being cut.
 *
 * Bytes at and beyond a file's size are zero in its image, always: cutting a file punches
 * everything behind the cut, so growing it again needs nothing but the new size.
 *
 * A range is changed in steps, each a gate section of its own; the stages' applied() is called in
 * the last one.  A range of up to RANGE_STEP_BYTES is one step.
 */
#include "fs/vfs/file.h"

#include <errno.h>

#include "base/clock.h"
#include "fs/vfs/prefix.h"

#define ATIME_AGE_NS (24ull * 3600 * NS_PER_SEC)
/* Most of a file that one gate section marks as allocated or as a hole. */
#define RANGE_STEP_BYTES (1ull << 30)

static bool time_after(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec != b->tv_sec ? a->tv_sec > b->tv_sec : a->tv_nsec > b->tv_nsec;
}

/* As relatime: atime moves when it is not newer than the last change, or a day old. */
void file_accessed(struct vfs *v, struct vnode *vn)
{
	const struct timespec now = vfs_now();
	const uint64_t now_ns = clock_timespec_ns(&now);

	if (LIKELY(now_ns < vn->atime_due_ns) || v->read_only || vn->snap)
		return;
	pthread_mutex_lock(&vn->lock);
	struct ns_inode *a = &vn->attr;
	const bool newer = time_after(&a->atime, &a->mtime) && time_after(&a->atime, &a->ctime);
	const uint64_t age_ns = now_ns - clock_timespec_ns(&a->atime);
	if (!newer || age_ns >= ATIME_AGE_NS) {
		a->atime = now;
		vnode_mark_dirty(v, vn);
		vn->atime_due_ns = now_ns + ATIME_AGE_NS;
	} else {
		vn->atime_due_ns = clock_timespec_ns(&a->atime) + ATIME_AGE_NS;
	}
	pthread_mutex_unlock(&vn->lock);
}

/*
 * The system's own changes (a conversion, say) leave the times alone: to the guest nothing has
 * changed.
 */
void file_changed(struct vfs *v, struct vnode *vn, uint64_t off, uint64_t end, unsigned flags)
{
	pthread_mutex_lock(&vn->lock);
	prefix_changed(vn, off);
	if (end > vn->size)
		vn->size = end;
	if (LIKELY(!(flags & REQUEST_COUNTLESS)))
		vnode_touch(vn, flags & REQUEST_KILL_PRIV);
	vnode_mark_dirty(v, vn);
	pthread_mutex_unlock(&vn->lock);
}

int file_flush(struct vfs *v, struct vnode *vn)
{
	if (v->read_only || vn->snap)
		return 0;
	int r = store_flush(v->store, vn->img);
	if (!r)
		r = vnode_clone_settle(v, vn);
	return r < 0 ? r : vn->row_error;
}

static int flush_if_asked(struct vfs *v, struct vnode *vn, const struct request *req)
{
	return req->flags & REQUEST_FUA ? file_flush(v, vn) : 0;
}

/* Inside the gate, after the last of a change. */
static void applied(struct request *req)
{
	if (req->applied)
		req->applied(req);
}

/* --- size --- */

/* With vnode.io held exclusively. */
static int resize_locked(struct vfs *v, struct vnode *vn, struct request *req)
{
	const uint64_t size = req->len, changed = MIN(size, vn->size);
	int r = 0;

	store_enter(v->store);
	if (size < vn->size)
		r = store_punch(vn->img, size, IMAGE_SIZE_MAX - size, false);
	if (!r) {
		pthread_mutex_lock(&vn->lock);
		vn->size = size;
		pthread_mutex_unlock(&vn->lock);
		file_changed(v, vn, changed, 0, req->flags);
		applied(req);
	}
	store_leave(v->store);
	return r;
}

int file_resize(struct vfs *v, struct vnode *vn, struct request *req)
{
	int r = vfs_begin(v, VFS_ROWS_COST, req->len <= vn->size);

	if (r < 0)
		return r;
	pthread_rwlock_wrlock(&vn->io);
	r = resize_locked(v, vn, req);
	pthread_rwlock_unlock(&vn->io);
	return r < 0 ? r : flush_if_asked(v, vn, req);
}

/* --- ranges of zeros; with vnode.io held exclusively --- */

struct range {
	struct vfs *v;
	struct vnode *vn;
	struct request *req;
	bool zero; /* allocated, not a hole */
	bool grow; /* the file reaches to the range's end then */
	bool last; /* with it the request is done */
};

/* One gate section. */
static int range_step(const struct range *rg, uint64_t off, uint64_t len, bool last)
{
	struct vfs *v = rg->v;

	store_enter(v->store);
	const int r = store_punch(rg->vn->img, off, len, rg->zero);
	if (!r)
		file_changed(v, rg->vn, off, rg->grow ? off + len : 0, rg->req->flags);
	if (!r && last)
		applied(rg->req);
	store_leave(v->store);
	return r;
}

static int range_zero(const struct range *rg, uint64_t off, uint64_t len)
{
	const uint64_t end = off + len;
	int r = 0;

	while (off < end && !r) {
		const uint64_t n = MIN(end - off, RANGE_STEP_BYTES);
		r = range_step(rg, off, n, rg->last && off + n == end);
		off += n;
	}
	return r;
}

/* The next hole in [off, end); *ret_off = end when there is none. */
static int hole_next(
        struct vnode *vn, uint64_t off, uint64_t end, uint64_t *ret_off, uint64_t *ret_len)
{
	uint64_t from, to = end;
	int r = store_seek(vn->img, off, true, &from);

	if (r < 0)
		return r;
	from = MIN(from, end);
	if (from < end)
		r = store_seek(vn->img, from, false, &to);
	if (r < 0)
		return r;
	*ret_off = from;
	*ret_len = MIN(to, end) - from;
	return 0;
}

/* Allocated zeros where there are holes; whole chunks, as space is given out. */
static int holes_fill(const struct range *rg, uint64_t off, uint64_t end)
{
	int r = 0;

	off -= off % CHUNK_SIZE;
	end = ROUND_UP(end, CHUNK_SIZE);
	while (off < end && !r) {
		uint64_t hole, len;
		r = hole_next(rg->vn, off, end, &hole, &len);
		if (!r && len > 0)
			r = range_zero(rg, hole, len);
		if (!r)
			off = hole + len;
	}
	return r;
}

/* Preallocation.  What it comes to, size included, is official with a last section of its own. */
static int allocate(struct vfs *v, struct vnode *vn, struct request *req)
{
	const struct range holes = {.v = v, .vn = vn, .req = req, .zero = true};
	const uint64_t end = req->off + req->len;
	const int r = holes_fill(&holes, req->off, end);

	if (r < 0)
		return r;
	store_enter(v->store);
	file_changed(v, vn, req->off, req->flags & REQUEST_KEEP_SIZE ? 0 : end, req->flags);
	applied(req);
	store_leave(v->store);
	return 0;
}

static int zero_locked(struct vfs *v, struct vnode *vn, struct request *req)
{
	const bool zero = req->op == REQUEST_ZERO;
	const struct range rg = {
	        .v = v,
	        .vn = vn,
	        .req = req,
	        .zero = zero,
	        .grow = zero && !(req->flags & REQUEST_KEEP_SIZE),
	        .last = true,
	};

	if (zero && req->flags & REQUEST_ALLOCATE)
		return allocate(v, vn, req);
	return range_zero(&rg, req->off, req->len);
}

/* A promise of space that is not there would be found out by a write, too late. */
static int space_check(struct vfs *v, uint64_t len)
{
	struct io_space space;
	const int r = store_space(v->store, &space);

	if (r < 0)
		return r;
	return len > space.free_bytes ? -ENOSPC : 0;
}

int file_zero(struct vfs *v, struct vnode *vn, struct request *req)
{
	int r = req->flags & REQUEST_ALLOCATE ? space_check(v, req->len) : 0;

	if (!r)
		r = vfs_begin(v, VFS_ROWS_COST, req->op == REQUEST_DISCARD);
	if (r < 0)
		return r;
	pthread_rwlock_wrlock(&vn->io);
	r = zero_locked(v, vn, req);
	pthread_rwlock_unlock(&vn->io);
	return r < 0 ? r : flush_if_asked(v, vn, req);
}

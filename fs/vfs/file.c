/*
 * file.c - open files: read, write, flush, holes
 *
 * The hot paths.  A read takes no lock at all but the short one around atime, once a day or after a
 * write.  A write takes vnode.io shared, the gate, and vnode.lock for the few stores that move size
 * and times; nothing is allocated.  Truncate, fallocate and copy hold vnode.io exclusively: what
 * they find (a hole, the end of the file) is still so when they act on it, and no write lands
 * behind the new end of a file that is being cut.
 *
 * Bytes at and beyond a file's size are zero in its image, always: cutting a file punches
 * everything behind the cut, so growing it again needs nothing but the new size.
 */
#include "fs/vfs/file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <unistd.h>

#include "base/clock.h"

#define ATIME_AGE_NS (24ull * 3600 * NS_PER_SEC)
/* Most of a file that one gate section marks as allocated or as a hole. */
#define RANGE_STEP_BYTES (1ull << 30)

int vfs_open(struct vfs *v, uint64_t ino, struct vnode **ret_file)
{
	struct vnode *vn;
	int r = vnode_get(v, ino, &vn);

	if (r < 0)
		return r;
	if (!S_ISREG(vn->type))
		r = S_ISDIR(vn->type) ? -EISDIR : -ENXIO;
	if (!r)
		r = vnode_image_get(v, vn);
	if (r < 0) {
		vnode_put(v, vn);
		return r;
	}
	*ret_file = vn;
	return 0;
}

void vfs_release(struct vfs *v, struct vnode *file)
{
	vnode_image_put(file);
	vnode_put(v, file);
}

static bool time_after(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec != b->tv_sec ? a->tv_sec > b->tv_sec : a->tv_nsec > b->tv_nsec;
}

/* As relatime: atime moves when it is not newer than the last change, or a day old. */
static void atime_touch(struct vfs *v, struct vnode *vn)
{
	const struct timespec now = vfs_now();
	const uint64_t now_ns = clock_timespec_ns(&now);

	if (LIKELY(now_ns < vn->atime_due_ns) || v->read_only)
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

int vfs_read(struct vfs *v, struct vnode *file, uint64_t off, size_t len, struct readv *ret_rv)
{
	const uint64_t size = file->size;

	if (len > READ_MAX)
		return -EINVAL;
	atime_touch(v, file);
	len = off < size ? MIN(len, size - off) : 0;
	if (len == 0) {
		*ret_rv = (struct readv){0};
		return 0;
	}
	return store_readv(file->img, off, len, ret_rv);
}

/* Inside the gate: content up to end changed. */
void file_changed(struct vfs *v, struct vnode *vn, uint64_t end, unsigned flags)
{
	pthread_mutex_lock(&vn->lock);
	if (end > vn->size)
		vn->size = end;
	vnode_touch(vn, flags & VFS_WRITE_KILL_SUIDGID);
	vnode_mark_dirty(v, vn);
	pthread_mutex_unlock(&vn->lock);
}

int vfs_write(struct vfs *v, struct vnode *file, uint64_t off, const void *data, size_t len,
        unsigned flags, size_t *ret_len)
{
	if (len > 0 && off >= IMAGE_SIZE_MAX)
		return -EFBIG;
	if (len > IMAGE_SIZE_MAX - off)
		len = IMAGE_SIZE_MAX - off;
	int r = vfs_begin(v, len, false);
	if (r < 0)
		return r;
	pthread_rwlock_rdlock(&file->io);
	store_enter(v->store);
	r = store_write(file->img, off, data, len);
	if (LIKELY(!r))
		file_changed(v, file, off + len, flags);
	store_leave(v->store);
	pthread_rwlock_unlock(&file->io);
	if (!r && flags & VFS_WRITE_SYNC)
		r = vfs_fsync(v, file);
	if (!r)
		*ret_len = len;
	return r;
}

int vfs_fsync(struct vfs *v, struct vnode *file)
{
	if (v->read_only)
		return 0;
	const int r = store_flush(v->store, file->img);
	return r < 0 ? r : file->row_error;
}

/* --- size --- */

int file_resize(struct vfs *v, struct vnode *vn, uint64_t size, bool kill_suidgid)
{
	int r = 0;

	store_enter(v->store);
	if (size < vn->size)
		r = store_punch(vn->img, size, IMAGE_SIZE_MAX - size, false);
	if (!r) {
		pthread_mutex_lock(&vn->lock);
		vn->size = size;
		vnode_touch(vn, kill_suidgid);
		vnode_mark_dirty(v, vn);
		pthread_mutex_unlock(&vn->lock);
	}
	store_leave(v->store);
	return r;
}

/* --- fallocate; with vnode.io held exclusively --- */

/* One gate section: zeros in the range, as hole or allocated; the file reaches to size_min then. */
static int range_step(struct vfs *v, struct vnode *vn, uint64_t off, uint64_t len, bool zero,
        uint64_t size_min, unsigned flags)
{
	store_enter(v->store);
	const int r = store_punch(vn->img, off, len, zero);
	if (!r)
		file_changed(v, vn, size_min, flags);
	store_leave(v->store);
	return r;
}

static int range_zero(struct vfs *v, struct vnode *vn, uint64_t off, uint64_t len, bool zero,
        bool grow, unsigned flags)
{
	const uint64_t end = off + len;
	int r = 0;

	while (off < end && !r) {
		const uint64_t n = MIN(end - off, RANGE_STEP_BYTES);
		r = range_step(v, vn, off, n, zero, grow ? off + n : 0, flags);
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
static int range_allocate(
        struct vfs *v, struct vnode *vn, uint64_t off, uint64_t end, unsigned flags)
{
	int r = 0;

	off -= off % CHUNK_SIZE;
	end = ROUND_UP(end, CHUNK_SIZE);
	while (off < end && !r) {
		uint64_t hole, len;
		r = hole_next(vn, off, end, &hole, &len);
		if (!r && len > 0)
			r = range_zero(v, vn, hole, len, true, false, flags);
		if (!r)
			off = hole + len;
	}
	return r;
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

static int fallocate_locked(
        struct vfs *v, struct vnode *vn, int mode, uint64_t off, uint64_t len, unsigned flags)
{
	const bool keep = mode & FALLOC_FL_KEEP_SIZE;
	int r;

	if (mode & FALLOC_FL_PUNCH_HOLE)
		return range_zero(v, vn, off, len, false, false, flags);
	if (mode & FALLOC_FL_ZERO_RANGE)
		return range_zero(v, vn, off, len, true, !keep, flags);
	r = range_allocate(v, vn, off, off + len, flags);
	if (!r && !keep && off + len > vn->size)
		r = file_resize(v, vn, off + len, flags & VFS_WRITE_KILL_SUIDGID);
	return r;
}

static int fallocate_check(struct vfs *v, int mode, uint64_t off, uint64_t len)
{
	const int zero = mode & ~FALLOC_FL_KEEP_SIZE;

	if (zero != 0 && zero != FALLOC_FL_PUNCH_HOLE && zero != FALLOC_FL_ZERO_RANGE)
		return -EOPNOTSUPP;
	if (mode == FALLOC_FL_PUNCH_HOLE)
		return -EOPNOTSUPP; /* only with KEEP_SIZE, as everywhere */
	if (len == 0)
		return -EINVAL;
	if (off > IMAGE_SIZE_MAX || len > IMAGE_SIZE_MAX - off)
		return -EFBIG;
	return zero == 0 ? space_check(v, len) : 0;
}

int vfs_fallocate(
        struct vfs *v, struct vnode *file, int mode, uint64_t off, uint64_t len, unsigned flags)
{
	int r = fallocate_check(v, mode, off, len);

	if (!r)
		r = vfs_begin(v, VFS_ROWS_COST, mode & FALLOC_FL_PUNCH_HOLE);
	if (r < 0)
		return r;
	pthread_rwlock_wrlock(&file->io);
	r = fallocate_locked(v, file, mode, off, len, flags);
	pthread_rwlock_unlock(&file->io);
	if (!r && flags & VFS_WRITE_SYNC)
		r = vfs_fsync(v, file);
	return r;
}

int vfs_lseek(struct vfs *v, struct vnode *file, uint64_t off, int whence, uint64_t *ret_off)
{
	const uint64_t size = file->size;
	uint64_t found;

	if (whence != SEEK_DATA && whence != SEEK_HOLE)
		return -EINVAL;
	if (off >= size)
		return -ENXIO;
	const int r = store_seek(file->img, off, whence == SEEK_HOLE, &found);
	if (r < 0)
		return r;
	if (whence == SEEK_DATA && found >= size)
		return -ENXIO;
	*ret_off = MIN(found, size); /* the end of a file counts as a hole */
	return 0;
}

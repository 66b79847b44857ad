/*
 * submit.c - requests of open files: into the stack at the top, and what is done at its bottom
 *
 * vfs_submit() is the one door for what a guest does with an open file's content; the calls that
 * wait (vfs_read and so on) make a request and go through it, too.  What cannot be right whatever
 * the stack does is refused before the stack sees it: so a stage finds offsets and lengths within
 * bounds.  Quarantine is asked for there as well and not below: a stage that holds acknowledged data
 * must still get it out.  A file without filters has no pipeline, and goes to the bottom directly.
 *
 * The bottom gets requests of guests and of the stages themselves, so it checks the bounds again.
 * It is the hot path.  A read takes no lock at all but the short one around atime, once a day or
 * after a write.  A write takes vnode.io shared, the gate, and vnode.lock for the few stores that
 * move size and times; nothing is allocated.
 *
 * complete() is never called with a lock held or inside the gate: the bottom sets the result, and
 * whoever sent the request gives it back.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <unistd.h>

#include "fs/vfs/file.h"
#include "fs/vfs/prefix.h"

/* --- bounds --- */

/* Puts an answer that needs no looking: nothing is to be done. */
static int nothing(struct request *req)
{
	req->done = 0;
	req->found = UINT64_MAX;
	req->out = (struct readv){0};
	return 1;
}

static int check_io(struct request *req)
{
	const bool write = req->op == REQUEST_WRITE;

	if (!write && req->len > READ_MAX)
		return -EINVAL;
	if (req->len == 0)
		return nothing(req);
	if (req->off >= IMAGE_SIZE_MAX)
		return write ? -EFBIG : nothing(req);
	req->len = MIN(req->len, IMAGE_SIZE_MAX - req->off);
	return 0;
}

static int check_range(const struct request *req)
{
	if (req->len == 0)
		return -EINVAL;
	return req->off > IMAGE_SIZE_MAX || req->len > IMAGE_SIZE_MAX - req->off ? -EFBIG : 0;
}

/* Clips it to what can be.  1: it is answered; or -errno. */
static int check(struct request *req)
{
	switch (req->op) {
	case REQUEST_READ:
	case REQUEST_WRITE:
		return check_io(req);
	case REQUEST_DISCARD:
	case REQUEST_ZERO:
		return check_range(req);
	case REQUEST_EXTENTS:
		return req->off >= IMAGE_SIZE_MAX ? nothing(req) : 0;
	case REQUEST_RESIZE:
		return req->len > IMAGE_SIZE_MAX ? -EFBIG : 0;
	default:
		return 0;
	}
}

/* --- the bottom --- */

static int bottom_read(struct vfs *v, struct vnode *vn, struct request *req)
{
	const uint64_t size = vn->size;

	if (LIKELY(!(req->flags & REQUEST_COUNTLESS)))
		file_accessed(v, vn);
	const uint64_t len = req->off < size ? MIN(req->len, size - req->off) : 0;
	if (len == 0) {
		req->out = (struct readv){0};
		return 0;
	}
	return store_readv(vn->img, req->off, (size_t)len, &req->out);
}

static int bottom_write(struct vfs *v, struct vnode *vn, struct request *req)
{
	int r = vfs_begin(v, req->len, false);

	if (r < 0)
		return r;
	pthread_rwlock_rdlock(&vn->io);
	store_enter(v->store);
	r = store_write(vn->img, req->off, req->data, req->len);
	if (LIKELY(!r)) {
		file_changed(v, vn, req->off, req->off + req->len, req->flags);
		if (req->applied)
			req->applied(req);
	}
	store_leave(v->store);
	pthread_rwlock_unlock(&vn->io);
	if (!r && req->flags & REQUEST_FUA)
		r = file_flush(v, vn);
	if (!r)
		req->done = req->len;
	return r;
}

static int bottom_flush(struct vfs *v, struct vnode *vn, struct request *req)
{
	return file_flush(v, vn);
}

static int bottom_extents(struct vfs *v, struct vnode *vn, struct request *req)
{
	const uint64_t size = vn->size;
	const bool hole = req->flags & REQUEST_HOLE;
	uint64_t found = size;

	if (req->off < size && !(hole && req->flags & REQUEST_COPIER)) {
		const int r = store_seek(vn->img, req->off, hole, &found);
		if (r < 0)
			return r;
		found = MIN(found, size); /* the end of a file counts as a hole */
	}
	if (!hole && req->flags & REQUEST_COPIER)
		prefix_seek(vn, req->off, found);
	req->found = req->off >= size || (!hole && found == size) ? UINT64_MAX : found;
	return 0;
}

typedef int bottom_fn(struct vfs *v, struct vnode *vn, struct request *req);

static bottom_fn *const bottom[REQUEST_OPS] = {
        [REQUEST_READ] = bottom_read,
        [REQUEST_WRITE] = bottom_write,
        [REQUEST_FLUSH] = bottom_flush,
        [REQUEST_DISCARD] = file_zero,
        [REQUEST_ZERO] = file_zero,
        [REQUEST_EXTENTS] = bottom_extents,
        [REQUEST_RESIZE] = file_resize,
};

static void bottom_submit(void *arg, struct request *req)
{
	struct vnode *vn = arg;
	int r = check(req);

	if (LIKELY(!r))
		r = bottom[req->op](vn->vfs, vn, req);
	if (UNLIKELY(r == -EIO)) /* of what is below, not of a stage that fails requests */
		vfs_note_io_error(vn->vfs);
	req->result = MIN(r, 0);
}

static void bottom_prefetch(void *arg, uint64_t off, uint64_t len)
{
	store_prefetch(((struct vnode *)arg)->img, off, len);
}

static void bottom_image(void *arg, struct stage_image *ret_image)
{
	struct vnode *vn = arg;
	struct stage_image image = {.id = vn->ino, .size = vn->size};

	if (ns_path_of(vn->vfs->ns, vn->ino, image.path, sizeof(image.path)) < 0)
		image.path[0] = 0; /* no name any more */
	*ret_image = image;
}

void submit_below(struct vnode *vn, struct pipeline_below *ret_below)
{
	*ret_below = (struct pipeline_below){
	        .arg = vn,
	        .submit = bottom_submit,
	        .prefetch = bottom_prefetch,
	        .image = bottom_image,
	};
}

/* --- the top --- */

int submit_admit(struct vfs *v, struct vnode *file)
{
	if (v->read_only || file->snap)
		return -EROFS;
	if (v->filters.read_only && v->filters.read_only(v->filters.arg, file->ino))
		return -EROFS;
	return vnode_clone_settle(v, file);
}

/* 1: it is answered; or -errno. */
static int admit(struct vfs *v, struct vnode *file, struct request *req)
{
	const int r = check(req);

	return r || !(BIT(req->op) & OPS_CHANGE) ? r : submit_admit(v, file);
}

void vfs_submit(struct vfs *v, struct vnode *file, struct request *req)
{
	req->file = file;
	const int r = admit(v, file, req);
	if (LIKELY(!r) && file->pipeline) {
		pipeline_submit(file->pipeline, req);
		return;
	}
	req->result = MIN(r, 0);
	if (!r)
		bottom_submit(file, req);
	req->complete(req);
}

int submit_call(struct vfs *v, struct vnode *file, struct request *req)
{
	req->file = file;
	const int r = admit(v, file, req);
	if (r)
		return MIN(r, 0);
	if (file->pipeline)
		return pipeline_call(file->pipeline, req);
	bottom_submit(file, req);
	return req->result;
}

/* --- calls that wait --- */

int vfs_open(struct vfs *v, uint64_t ino, struct vnode **ret_file)
{
	struct vnode *vn;
	int r = vnode_get(v, ino, &vn);

	if (r == -EIO)
		vfs_note_io_error(v);
	if (r < 0)
		return r;
	if (!S_ISREG(vn->type))
		r = S_ISDIR(vn->type) ? -EISDIR : -ENXIO;
	if (!r)
		r = vnode_open(v, vn);
	if (r < 0) {
		vnode_put(v, vn);
		return r;
	}
	*ret_file = vn;
	return 0;
}

void vfs_release(struct vfs *v, struct vnode *file)
{
	vnode_close(v, file);
	vnode_put(v, file);
}

int vfs_read(struct vfs *v, struct vnode *file, uint64_t off, size_t len, struct readv *ret_rv)
{
	struct request req = {.op = REQUEST_READ, .off = off, .len = len};
	const int r = submit_call(v, file, &req);

	if (r < 0) {
		readv_release(&req.out);
		return r;
	}
	*ret_rv = req.out;
	return 0;
}

int vfs_write(struct vfs *v, struct vnode *file, uint64_t off, const void *data, size_t len,
        unsigned flags, size_t *ret_len)
{
	struct request req = {
	        .op = REQUEST_WRITE, .flags = flags, .off = off, .len = len, .data = data};
	const int r = submit_call(v, file, &req);

	if (!r)
		*ret_len = (size_t)req.done;
	return r;
}

int vfs_fsync(struct vfs *v, struct vnode *file)
{
	struct request req = {.op = REQUEST_FLUSH};

	return submit_call(v, file, &req);
}

int vfs_fallocate_request(int mode, uint64_t off, uint64_t len, unsigned flags, struct request *req)
{
	const bool keep = mode & FALLOC_FL_KEEP_SIZE;

	switch (mode & ~FALLOC_FL_KEEP_SIZE) {
	case 0:
		flags |= REQUEST_ALLOCATE;
		break;
	case FALLOC_FL_ZERO_RANGE:
		break;
	case FALLOC_FL_PUNCH_HOLE:
		if (!keep)
			return -EOPNOTSUPP; /* as everywhere */
		break;
	default:
		return -EOPNOTSUPP;
	}
	const bool punch = mode & FALLOC_FL_PUNCH_HOLE;
	req->op = punch ? REQUEST_DISCARD : REQUEST_ZERO;
	req->flags = flags | (keep && !punch ? REQUEST_KEEP_SIZE : 0);
	req->off = off;
	req->len = len;
	return 0;
}

int vfs_fallocate(
        struct vfs *v, struct vnode *file, int mode, uint64_t off, uint64_t len, unsigned flags)
{
	struct request req = {0};
	const int r = vfs_fallocate_request(mode, off, len, flags, &req);

	return r < 0 ? r : submit_call(v, file, &req);
}

int vfs_lseek_request(uint64_t off, int whence, struct request *req)
{
	if (whence != SEEK_DATA && whence != SEEK_HOLE)
		return -EINVAL;
	req->op = REQUEST_EXTENTS;
	req->flags = whence == SEEK_HOLE ? REQUEST_HOLE : 0;
	req->off = off;
	return 0;
}

int vfs_lseek(struct vfs *v, struct vnode *file, uint64_t off, int whence, uint64_t *ret_off)
{
	struct request req = {0};
	int r = vfs_lseek_request(off, whence, &req);

	if (!r)
		r = submit_call(v, file, &req);
	if (!r && req.found == UINT64_MAX)
		r = -ENXIO;
	if (!r)
		*ret_off = req.found;
	return r;
}

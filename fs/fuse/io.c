/*
 * io.c - FUSE operations that pass a file's stack of filter stages
 *
 * Each makes a request, sends it (vfs_submit), and is done: the reply is sent by the request's
 * completion, which mostly happens before vfs_submit returns, but later and on another thread when a
 * stage keeps the request.  So a kept request holds a few hundred bytes and no thread, and images
 * whose requests are kept by the thousand do not slow others down.
 *
 * A *call* is what is kept: the request, libfuse's handle to reply with, and the clone of the device
 * that it was read from.  Each thread has a few of them ready, every one with a reference of that
 * thread's clone already, so that a request that is not kept costs neither an allocation nor an
 * atomic operation here.  One that another thread completes is freed there, reference and all.
 *
 * A read's reply points straight into what holds the data; it is released when the kernel has copied
 * it.  A write's data is in the thread's buffer and valid until vfs_submit returns; the pipeline
 * copies what it keeps.
 */
#include "fs/fuse/io.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/fuse/device.h"
#include "fs/vfs/filters.h"

#define CALLS_READY_MAX 16u /* a thread; it works on one request at a time */

struct call {
	struct request req;
	fuse_req_t fuse;
	struct device_clone *clone; /* referenced */
	struct call *next;          /* ready ones */
};

static _Thread_local struct call *ready;
static _Thread_local unsigned n_ready;

/* --- calls --- */

static struct call *call_get(void)
{
	struct call *c = ready;

	if (LIKELY(c != NULL)) {
		ready = c->next;
		n_ready--;
		return c;
	}
	c = malloc(sizeof(*c));
	if (c)
		c->clone = device_clone_get();
	return c;
}

static void call_free(struct call *c)
{
	device_clone_put(c->clone);
	free(c);
}

static void call_put(struct call *c)
{
	if (UNLIKELY(!device_clone_is_mine(c->clone) || n_ready >= CALLS_READY_MAX)) {
		call_free(c);
		return;
	}
	c->next = ready;
	ready = c;
	n_ready++;
}

void io_thread_end(void)
{
	while (ready) {
		struct call *c = ready;
		ready = c->next;
		call_free(c);
	}
	n_ready = 0;
}

/*
 * A call for this operation, which the caller completes and sends; NULL: answered.  The pipeline's
 * part of the request is its own to prepare.
 */
static struct call *call_begin(
        fuse_req_t fuse, enum request_op op, void (*complete)(struct request *req))
{
	struct call *c = call_get();

	if (!c) {
		fuse_reply_err(fuse, ENOMEM);
		return NULL;
	}
	memset(&c->req, 0, offsetof(struct request, trip));
	c->req.op = op;
	c->req.complete = complete;
	c->req.arg = c;
	c->fuse = fuse;
	return c;
}

/* Unlike reply_err: what failed below has been noted there, and stages fail requests on purpose. */
static void reply_result(fuse_req_t fuse, int r)
{
	fuse_reply_err(fuse, -r);
}

static void call_submit(struct call *c, const struct fuse_file_info *fi)
{
	vfs_submit(vfs_of(c->fuse), file_of(fi), &c->req);
}

/* For operations with which the kernel does not tell: root keeps setuid bits, others do not. */
static unsigned kill_flags(fuse_req_t fuse)
{
	return fuse_req_ctx(fuse)->uid == 0 ? 0 : REQUEST_KILL_PRIV;
}

static unsigned sync_flags(const struct fuse_file_info *fi)
{
	return fi->flags & (O_SYNC | O_DSYNC) ? REQUEST_FUA : 0;
}

/* The thread that asks; 0: of another pid namespace. */
static uint32_t who(fuse_req_t fuse)
{
	return (uint32_t)fuse_req_ctx(fuse)->pid;
}

/* --- read --- */

static void read_reply(fuse_req_t fuse, const struct readv *rv)
{
	if (rv->n_iov <= 1) /* without the copy of the vector that fuse_reply_iov makes */
		fuse_reply_buf(fuse, rv->n_iov ? rv->iov[0].iov_base : NULL, rv->len);
	else
		fuse_reply_iov(fuse, rv->iov, rv->n_iov);
}

static void read_complete(struct request *req)
{
	struct call *c = req->arg;

	device_reply_through(c->clone);
	if (req->result < 0)
		reply_result(c->fuse, req->result);
	else
		read_reply(c->fuse, &req->out);
	device_reply_through(NULL);
	readv_release(&req->out);
	call_put(c);
}

void io_read(fuse_req_t fuse, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct call *c = call_begin(fuse, REQUEST_READ, read_complete);

	if (!c)
		return;
	c->req.off = (uint64_t)off;
	c->req.len = size;
	call_submit(c, fi);
}

/* --- write --- */

static void write_complete(struct request *req)
{
	struct call *c = req->arg;

	device_reply_through(c->clone);
	if (req->result < 0)
		reply_result(c->fuse, req->result);
	else
		fuse_reply_write(c->fuse, (size_t)req->done);
	device_reply_through(NULL);
	call_put(c);
}

void io_write(fuse_req_t fuse, fuse_ino_t ino, const char *buf, size_t size, off_t off,
        struct fuse_file_info *fi)
{
	struct call *c = call_begin(fuse, REQUEST_WRITE, write_complete);
	const bool sealed = vfs_is_sealed(file_of(fi)); /* once answered, the file may be closed */

	if (!c)
		return;
	c->req.flags = sync_flags(fi) | (device_kill_suidgid() ? REQUEST_KILL_PRIV : 0);
	c->req.off = (uint64_t)off;
	c->req.len = size;
	c->req.data = buf;
	call_submit(c, fi);
	/* This thread's own buffer, in which it may wait for long, with the key locked meanwhile. */
	if (sealed)
		explicit_bzero((void *)(uintptr_t)buf, size);
}

/* --- what is answered with success or not --- */

static void plain_complete(struct request *req)
{
	struct call *c = req->arg;

	device_reply_through(c->clone);
	reply_result(c->fuse, req->result);
	device_reply_through(NULL);
	call_put(c);
}

void io_fsync(fuse_req_t fuse, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	struct call *c = call_begin(fuse, REQUEST_FLUSH, plain_complete);

	if (c)
		call_submit(c, fi);
}

void io_fallocate(
        fuse_req_t fuse, fuse_ino_t ino, int mode, off_t off, off_t len, struct fuse_file_info *fi)
{
	const unsigned flags = sync_flags(fi) | kill_flags(fuse);
	struct call *c = call_begin(fuse, REQUEST_ZERO, plain_complete);

	if (!c)
		return;
	c->req.result = vfs_fallocate_request(mode, (uint64_t)off, (uint64_t)len, flags, &c->req);
	if (c->req.result < 0)
		plain_complete(&c->req);
	else
		call_submit(c, fi);
}

/* --- lseek --- */

static void lseek_complete(struct request *req)
{
	struct call *c = req->arg;

	device_reply_through(c->clone);
	if (req->result < 0 || req->found == UINT64_MAX)
		reply_result(c->fuse, req->result < 0 ? req->result : -ENXIO);
	else
		fuse_reply_lseek(c->fuse, (off_t)req->found);
	device_reply_through(NULL);
	call_put(c);
}

void io_lseek(fuse_req_t fuse, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi)
{
	struct call *c = call_begin(fuse, REQUEST_EXTENTS, lseek_complete);

	if (!c)
		return;
	c->req.result = vfs_lseek_request((uint64_t)off, whence, &c->req);
	if (c->req.result < 0) {
		lseek_complete(&c->req);
		return;
	}
	vfs_lseek_by(file_of(fi), who(fuse), &c->req);
	call_submit(c, fi);
}

/* --- copy_file_range --- */

/* The most that the reply can say, in pages. */
#define COPY_32_MAX (UINT32_MAX & ~4095ull)

static void copy_reply(fuse_req_t fuse, uint64_t done)
{
	if (device_copy_64())
		fuse_reply_buf(fuse, (const char *)&done, sizeof(done));
	else
		fuse_reply_write(fuse, done);
}

void io_copy_file_range(fuse_req_t fuse, fuse_ino_t ino, off_t off, struct fuse_file_info *fi,
        fuse_ino_t to_ino, off_t to_off, struct fuse_file_info *to_fi, size_t len, int flags)
{
	const uint64_t max = device_copy_64() ? INT64_MAX : COPY_32_MAX;
	uint64_t done = 0;
	const int r = vfs_copy(vfs_of(fuse), file_of(fi), (uint64_t)off, file_of(to_fi),
	        (uint64_t)to_off, MIN(len, max), sync_flags(to_fi) | kill_flags(fuse), &done);

	if (r == 0)
		vfs_copied_by(file_of(fi), file_of(to_fi), who(fuse));
	if (r == -EBUSY)
		reply_err(fuse, -EOPNOTSUPP); /* the kernel copies through the page cache then */
	else if (r < 0)
		reply_err(fuse, r);
	else
		copy_reply(fuse, done);
}

/* --- setattr, for the size --- */

struct setattr {
	struct vfs_setattr_call call;
	fuse_req_t fuse;
	struct device_clone *clone; /* referenced */
};

static void setattr_done(struct vfs_setattr_call *call)
{
	struct setattr *s = CONTAINER_OF(call, struct setattr, call);

	device_reply_through(s->clone);
	reply_attr(s->fuse, call->result, &call->attr);
	device_reply_through(NULL);
	device_clone_put(s->clone);
	free(s);
}

static void setattr_submit(fuse_req_t fuse, fuse_ino_t ino, const struct vfs_setattr *set)
{
	struct setattr *s = calloc(1, sizeof(*s));

	if (!s) {
		fuse_reply_err(fuse, ENOMEM);
		return;
	}
	s->fuse = fuse;
	s->clone = device_clone_get();
	s->call.set = *set;
	s->call.done = setattr_done;
	vfs_setattr_submit(vfs_of(fuse), ino, &s->call);
}

void io_setattr(
        fuse_req_t fuse, fuse_ino_t ino, struct stat *st, int to_set, struct fuse_file_info *fi)
{
	static const struct {
		int fuse;
		unsigned vfs;
	} bits[] = {
	        {FUSE_SET_ATTR_MODE, VFS_SET_MODE},
	        {FUSE_SET_ATTR_UID, VFS_SET_UID},
	        {FUSE_SET_ATTR_GID, VFS_SET_GID},
	        {FUSE_SET_ATTR_SIZE, VFS_SET_SIZE},
	        {FUSE_SET_ATTR_ATIME, VFS_SET_ATIME},
	        {FUSE_SET_ATTR_MTIME, VFS_SET_MTIME},
	        {FUSE_SET_ATTR_ATIME_NOW, VFS_SET_ATIME_NOW},
	        {FUSE_SET_ATTR_MTIME_NOW, VFS_SET_MTIME_NOW},
	};
	struct vfs_setattr set = {
	        .set = device_kill_suidgid() ? VFS_SET_KILL_SUIDGID : 0,
	        .mode = st->st_mode,
	        .uid = st->st_uid,
	        .gid = st->st_gid,
	        .size = (uint64_t)st->st_size,
	        .atime = st->st_atim,
	        .mtime = st->st_mtim,
	};

	for (unsigned i = 0; i < ARRAY_SIZE(bits); i++)
		if (to_set & bits[i].fuse)
			set.set |= bits[i].vfs;
	/*
	 * The kernel sets nothing at all before a write, or at chown(-1, -1), when it wants the
	 * bits to be cleared; the reply is how it learns the new mode.
	 */
	if (set.set == 0)
		set.set = VFS_SET_KILL_SUIDGID;
	setattr_submit(fuse, ino, &set);
}

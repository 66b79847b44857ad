/*
 * attr.c - reading and setting attributes
 *
 * A change of size and the other attributes of one setattr are two gate sections: the kernel sends
 * them apart too.  The size is a request through the file's stack, which a stage may keep:
 * vfs_setattr_submit() goes on with the rest when it is complete, on whatever thread that is, and
 * closes the file only when nobody is inside the request any more.  chown clears setuid, and setgid of what its group may execute, whoever does it,
 * as Linux file systems do.
 */
#include "fs/vfs/file.h"

#include <errno.h>
#include <sys/stat.h>

int vfs_getattr(struct vfs *v, uint64_t ino, struct vfs_attr *ret_attr)
{
	struct vnode *vn;
	const int r = vnode_get(v, ino, &vn);

	if (r < 0)
		return r;
	vnode_attr(v, vn, ret_attr);
	vnode_put(v, vn);
	return 0;
}

/* What a change of size needs before it is sent: the file is open until the caller closes it. */
static int size_begin(struct vfs *v, struct vnode *vn, const struct vfs_setattr *sa)
{
	if (!S_ISREG(vn->type))
		return S_ISDIR(vn->type) ? -EISDIR : -EINVAL;
	if (sa->size > IMAGE_SIZE_MAX)
		return -EFBIG;
	return vnode_open(v, vn);
}

static void size_request(const struct vfs_setattr *sa, struct request *ret_req)
{
	*ret_req = (struct request){
	        .op = REQUEST_RESIZE,
	        .flags = sa->set & VFS_SET_KILL_SUIDGID ? REQUEST_KILL_PRIV : 0,
	        .len = sa->size,
	};
}

static void owner_apply(struct ns_inode *a, const struct vfs_setattr *sa)
{
	if (sa->set & VFS_SET_UID)
		a->uid = sa->uid;
	if (sa->set & VFS_SET_GID)
		a->gid = sa->gid;
	if (sa->set & (VFS_SET_UID | VFS_SET_GID | VFS_SET_KILL_SUIDGID) && !S_ISDIR(a->mode))
		a->mode = vfs_mode_killed(a->mode);
	if (sa->set & VFS_SET_MODE)
		a->mode = (a->mode & S_IFMT) | (sa->mode & 07777);
}

static void times_apply(struct ns_inode *a, const struct vfs_setattr *sa)
{
	const struct timespec now = vfs_now();

	if (sa->set & VFS_SET_ATIME)
		a->atime = sa->atime;
	if (sa->set & VFS_SET_ATIME_NOW)
		a->atime = now;
	if (sa->set & VFS_SET_MTIME)
		a->mtime = sa->mtime;
	if (sa->set & VFS_SET_MTIME_NOW)
		a->mtime = now;
	a->ctime = now;
}

/* Is there anything but a change of size?  That clears setuid and setgid itself, if asked to. */
static bool sets_others(const struct vfs_setattr *sa)
{
	const unsigned size_only = VFS_SET_SIZE | VFS_SET_KILL_SUIDGID;

	return sa->set & ~size_only || !(sa->set & VFS_SET_SIZE);
}

static int attr_set(struct vfs *v, struct vnode *vn, const struct vfs_setattr *sa)
{
	store_enter(v->store);
	pthread_mutex_lock(&vn->lock);
	const struct ns_inode before = vn->attr;
	owner_apply(&vn->attr, sa);
	times_apply(&vn->attr, sa);
	vn->atime_due_ns = 0;
	const int r = vnode_changed(v, vn);
	if (r < 0)
		vn->attr = before;
	pthread_mutex_unlock(&vn->lock);
	store_leave(v->store);
	return r;
}

static int setattr_vnode(struct vfs *v, struct vnode *vn, const struct vfs_setattr *sa)
{
	int r = v->read_only || vfs_is_snapshot(vn->ino) ? -EROFS : 0;

	if (!r && sa->set & VFS_SET_SIZE) {
		struct request req;
		r = size_begin(v, vn, sa);
		if (r < 0)
			return r;
		size_request(sa, &req);
		r = submit_call(v, vn, &req);
		vnode_close(v, vn);
	}
	if (!r && sets_others(sa)) {
		r = vfs_begin_rows(v, false);
		if (!r)
			r = attr_set(v, vn, sa);
	}
	return r;
}

int vfs_setattr(
        struct vfs *v, uint64_t ino, const struct vfs_setattr *sa, struct vfs_attr *ret_attr)
{
	struct vnode *vn;
	int r = vnode_get(v, ino, &vn);

	if (r < 0)
		return r;
	r = setattr_vnode(v, vn, sa);
	if (!r)
		vnode_attr(v, vn, ret_attr);
	vnode_put(v, vn);
	return r;
}

/* --- the same, in two halves --- */

static void setattr_answer(struct vfs_setattr_call *call, int r)
{
	call->result = r;
	call->done(call);
}

/*
 * Both the sender is back from sending and the request is complete.  The rest of the attributes
 * waits for no backpressure here: what a regular file gets is no row yet.
 */
static void setattr_finish(struct vfs_setattr_call *call, bool sender)
{
	struct vfs *v = call->way.vfs;
	struct vnode *vn = call->way.vn;
	int r = call->way.req.result;

	if (!r && sets_others(&call->set))
		r = attr_set(v, vn, &call->set);
	if (!r)
		vnode_attr(v, vn, &call->attr);
	if (!sender)
		vnode_close_later(v, vn); /* first: after the answer the vfs may be detached */
	setattr_answer(call, r);
	if (sender)
		vfs_release(v, vn);
}

/* Called twice: by the sender, and by the request's completion, in whatever order. */
static void setattr_arrive(struct vfs_setattr_call *call, bool sender)
{
	if (atomic_fetch_add(&call->way.arrived, 1) == 1)
		setattr_finish(call, sender);
}

static void setattr_resized(struct request *req)
{
	setattr_arrive(req->arg, false);
}

void vfs_setattr_submit(struct vfs *v, uint64_t ino, struct vfs_setattr_call *call)
{
	struct vnode *vn;
	int r;

	if (!(call->set.set & VFS_SET_SIZE)) {
		setattr_answer(call, vfs_setattr(v, ino, &call->set, &call->attr));
		return;
	}
	r = v->read_only || vfs_is_snapshot(ino) ? -EROFS : vnode_get(v, ino, &vn);
	if (!r) {
		r = size_begin(v, vn, &call->set);
		if (r < 0)
			vnode_put(v, vn);
	}
	if (r < 0) {
		setattr_answer(call, r);
		return;
	}
	call->way.vfs = v;
	call->way.vn = vn;
	call->way.arrived = 0;
	size_request(&call->set, &call->way.req);
	call->way.req.complete = setattr_resized;
	call->way.req.arg = call;
	vfs_submit(v, vn, &call->way.req);
	setattr_arrive(call, true);
}

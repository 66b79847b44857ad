/*
 * attr.c - reading and setting attributes
 *
 * A change of size and the other attributes of one setattr are two gate sections: the kernel sends
 * them apart too.  chown clears setuid, and setgid of what its group may execute, whoever does it,
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

static int size_set(struct vfs *v, struct vnode *vn, const struct vfs_setattr *sa)
{
	if (!S_ISREG(vn->type))
		return S_ISDIR(vn->type) ? -EISDIR : -EINVAL;
	if (sa->size > IMAGE_SIZE_MAX)
		return -EFBIG;
	int r = vfs_begin(v, VFS_ROWS_COST, sa->size <= vn->size);
	if (!r)
		r = vnode_image_get(v, vn);
	if (r < 0)
		return r;
	pthread_rwlock_wrlock(&vn->io);
	r = file_resize(v, vn, sa->size, sa->set & VFS_SET_KILL_SUIDGID);
	pthread_rwlock_unlock(&vn->io);
	vnode_image_put(vn);
	return r;
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

static int attr_set(struct vfs *v, struct vnode *vn, const struct vfs_setattr *sa)
{
	int r = vfs_begin_rows(v, false);

	if (r < 0)
		return r;
	store_enter(v->store);
	pthread_mutex_lock(&vn->lock);
	const struct ns_inode before = vn->attr;
	owner_apply(&vn->attr, sa);
	times_apply(&vn->attr, sa);
	vn->atime_due_ns = 0;
	r = vnode_changed(v, vn);
	if (r < 0)
		vn->attr = before;
	pthread_mutex_unlock(&vn->lock);
	store_leave(v->store);
	return r;
}

int vfs_setattr(
        struct vfs *v, uint64_t ino, const struct vfs_setattr *sa, struct vfs_attr *ret_attr)
{
	const unsigned not_size = VFS_SET_SIZE | VFS_SET_KILL_SUIDGID;
	struct vnode *vn;
	int r = vnode_get(v, ino, &vn);

	if (r < 0)
		return r;
	if (v->read_only)
		r = -EROFS;
	if (!r && sa->set & VFS_SET_SIZE)
		r = size_set(v, vn, sa);
	if (!r && (sa->set & ~not_size || !(sa->set & VFS_SET_SIZE)))
		r = attr_set(v, vn, sa);
	if (!r)
		vnode_attr(v, vn, ret_attr);
	vnode_put(v, vn);
	return r;
}

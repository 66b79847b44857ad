/*
 * xattr.c - extended attributes: user., trusted., security.
 *
 * system.posix_acl_* is refused: an ACL that is stored and not obeyed would be worse than none. Who
 * may touch which is the kernel's business, except that it leaves the hiding of trusted.* in lists
 * to us.
 *
 * The kernel asks for security.capability before the first write to each file, so "has none at all"
 * is remembered in the vnode.
 */
#include "fs/vfs/vnode.h"

#include <errno.h>
#include <linux/limits.h>
#include <string.h>
#include <sys/xattr.h>

static const char *const name_spaces[] = {"user.", "trusted.", "security."};

static int name_check_xattr(const char *name)
{
	if (strlen(name) > VFS_XATTR_NAME_MAX)
		return -ERANGE;
	for (unsigned i = 0; i < ARRAY_SIZE(name_spaces); i++) {
		const size_t len = strlen(name_spaces[i]);
		if (!strncmp(name, name_spaces[i], len))
			return name[len] ? 0 : -EINVAL;
	}
	return -EOPNOTSUPP;
}

/* Inside the gate. */
static int touch_ctime(struct vfs *v, struct vnode *vn)
{
	pthread_mutex_lock(&vn->lock);
	vn->attr.ctime = vfs_now();
	vn->atime_due_ns = 0;
	const int r = vnode_changed(v, vn);
	pthread_mutex_unlock(&vn->lock);
	return r;
}

/* A list that no listxattr() could return is not made. */
static int list_room(struct vfs *v, uint64_t ino, const char *name)
{
	size_t len;
	const int r = ns_xattr_list(v->ns, ino, NULL, 0, &len);

	if (r < 0)
		return r;
	return len + strlen(name) + 1 > XATTR_LIST_MAX ? -ENOSPC : 0;
}

static int set_check(struct vfs *v, uint64_t ino, const char *name, int flags)
{
	size_t len;
	const int r = ns_xattr_get(v->ns, ino, name, NULL, 0, &len);

	if (r == -ENODATA)
		return flags & XATTR_REPLACE ? -ENODATA : list_room(v, ino, name);
	if (r < 0)
		return r;
	return flags & XATTR_CREATE ? -EEXIST : 0;
}

static int set_locked(
        struct vfs *v, struct vnode *vn, const char *name, const void *value, size_t len, int flags)
{
	int r = set_check(v, vn->ino, name, flags);

	if (r < 0)
		return r;
	vn->xattr_none = false;
	store_enter(v->store);
	r = ns_xattr_put(v->ns, vn->ino, name, value, len);
	if (!r)
		r = touch_ctime(v, vn);
	store_leave(v->store);
	return r;
}

int vfs_setxattr(
        struct vfs *v, uint64_t ino, const char *name, const void *value, size_t len, int flags)
{
	struct vnode *vn;
	int r = name_check_xattr(name);

	if (!r && flags & ~(XATTR_CREATE | XATTR_REPLACE))
		r = -EINVAL;
	if (!r && len > XATTR_SIZE_MAX_BYTES)
		r = -E2BIG;
	if (!r && vfs_is_snapshot(ino))
		r = -EROFS;
	if (!r)
		r = vfs_begin_rows(v, false);
	if (!r)
		r = vnode_get(v, ino, &vn);
	if (r < 0)
		return r;
	pthread_mutex_lock(&v->tree); /* checks and change are one */
	r = set_locked(v, vn, name, value, len, flags);
	pthread_mutex_unlock(&v->tree);
	vnode_put(v, vn);
	return r;
}

/*
 * Remembers that there is none at all.  Under the tree lock, so that none comes between the
 * look and the note.
 */
static void note_none(struct vfs *v, struct vnode *vn)
{
	size_t len;

	pthread_mutex_lock(&v->tree);
	if (ns_xattr_list(v->ns, vn->ino, NULL, 0, &len) == 0 && len == 0)
		vn->xattr_none = true;
	pthread_mutex_unlock(&v->tree);
}

int vfs_getxattr(
        struct vfs *v, uint64_t ino, const char *name, void *buf, size_t cap, size_t *ret_len)
{
	struct vnode *vn;
	int r = name_check_xattr(name);

	if (!r)
		r = vnode_get(v, ino, &vn);
	if (r < 0)
		return r;
	r = vn->xattr_none ? -ENODATA : ns_xattr_get(v->ns, ino, name, buf, cap, ret_len);
	if (r == -ENODATA && !vn->xattr_none)
		note_none(v, vn);
	vnode_put(v, vn);
	return r;
}

/* Takes trusted.* out of a list; returns its new length. */
static size_t hide_trusted(char *list, size_t len)
{
	size_t to = 0;

	for (size_t from = 0; from < len;) {
		const size_t n = strlen(list + from) + 1;
		if (strncmp(list + from, "trusted.", 8)) {
			memmove(list + to, list + from, n);
			to += n;
		}
		from += n;
	}
	return to;
}

/* The list as the caller may see it, in a buffer of our own: what is hidden must not count. */
static int list_visible(
        struct vfs *v, uint64_t ino, bool privileged, char **ret_list, size_t *ret_len)
{
	char *list = malloc(XATTR_LIST_MAX);
	size_t len;

	if (!list)
		return -ENOMEM;
	const int r = ns_xattr_list(v->ns, ino, list, XATTR_LIST_MAX, &len);
	if (r < 0) {
		free(list);
		return r;
	}
	*ret_len = privileged ? len : hide_trusted(list, len);
	*ret_list = list;
	return 0;
}

int vfs_listxattr(
        struct vfs *v, uint64_t ino, bool privileged, char *buf, size_t cap, size_t *ret_len)
{
	CLEANUP(free_ptr) char *list = NULL;
	struct vnode *vn;
	size_t len = 0;
	int r = vnode_get(v, ino, &vn);

	if (r < 0)
		return r;
	if (!vn->xattr_none)
		r = list_visible(v, ino, privileged, &list, &len);
	vnode_put(v, vn);
	if (!r && cap > 0 && len > cap)
		r = -ERANGE;
	if (r < 0)
		return r;
	if (cap > 0 && len > 0)
		memcpy(buf, list, len);
	*ret_len = len;
	return 0;
}

int vfs_removexattr(struct vfs *v, uint64_t ino, const char *name)
{
	struct vnode *vn;
	int r = name_check_xattr(name);

	if (!r && vfs_is_snapshot(ino))
		r = -EROFS;
	if (!r)
		r = vfs_begin_rows(v, true);
	if (!r)
		r = vnode_get(v, ino, &vn);
	if (r < 0)
		return r;
	pthread_mutex_lock(&v->tree);
	store_enter(v->store);
	r = ns_xattr_del(v->ns, ino, name);
	if (!r)
		r = touch_ctime(v, vn);
	store_leave(v->store);
	pthread_mutex_unlock(&v->tree);
	vnode_put(v, vn);
	return r;
}

/*
 * restore.c - see restore.h
 *
 * A clone holds vfs.tree from the look whether its name is free until its group is committed: the rows
 * are put by the engine's thread, with the gate closed, and whoever changes names comes before or
 * after it.  An operation lock may be held over a commit.
 */
#include "fs/vfs/restore.h"

#include <errno.h>
#include <sys/stat.h>

#include "base/log.h"
#include "fs/vfs/dir.h"
#include "fs/vfs/prefix.h"
#include "fs/vfs/snapview.h"

struct making {
	struct vfs *v;
	const struct vfs_clone *c;
	struct vnode *dir, *vn;
	bool made; /* the rows are put */
};

/* Gate closed. */
static int making_rows(void *arg)
{
	struct making *mk = arg;
	struct vfs *v = mk->v;
	struct vnode *vn = mk->vn;
	struct ns_inode inode = vn->attr;
	int r = mk->c->records(mk->c->arg, &inode);

	if (r == 0)
		r = ns_inode_put(v->ns, &inode);
	if (r == 0)
		r = ns_name_put(v->ns, mk->dir->ino, mk->c->name, inode.ino, S_IFREG);
	if (r == 0) {
		r = dir_touch(v, mk->dir, 0);
		if (r < 0 && ns_name_del(v->ns, mk->dir->ino, mk->c->name) < 0)
			log_error("'%s': a name without inode is left", mk->c->name);
	}
	if (r < 0) {
		if (ns_inode_del(v->ns, inode.ino) < 0) /* with its records */
			log_error("inode %llu: left without a name", (unsigned long long)inode.ino);
		return r;
	}
	pthread_mutex_lock(&vn->lock);
	vn->attr = inode;
	vn->size = inode.size;
	pthread_mutex_unlock(&vn->lock);
	mk->made = true;
	return 0;
}

static int make_locked(struct making *mk, uint64_t *ret_ino)
{
	struct vfs *v = mk->v;
	const struct timespec now = vfs_now();
	const struct ns_inode inode = {
	        .ino = ns_ino_alloc(v->ns),
	        .mode = S_IFREG,
	        .nlink = 1,
	        .atime = now,
	        .mtime = now,
	        .ctime = now,
	        .btime = now,
	        .generation = 1,
	};
	uint64_t ino;
	uint32_t mode;
	int r = ns_name_get(v->ns, mk->dir->ino, mk->c->name, &ino, &mode);

	if (r != -ENOENT)
		return r < 0 ? r : -EEXIST;
	r = vnode_add(v, &inode, &mk->vn);
	if (r < 0)
		return r;
	r = mk->c->content(mk->c->arg, inode.ino, making_rows, mk);
	ASSERT(mk->made || r < 0);
	if (!mk->made)
		mk->vn->state = r; /* nobody knew it; dropped without touching rows */
	vnode_put(v, mk->vn);
	if (r == 0)
		*ret_ino = inode.ino;
	return r;
}

int vfs_clone_make(struct vfs *v, const struct vfs_clone *c, uint64_t *ret_ino)
{
	struct making mk = {.v = v, .c = c};
	int r = name_check(c->name);

	if (r == 0)
		r = snapview_refuse(v, c->dir, c->name);
	if (r == 0)
		r = vfs_begin_rows(v, false);
	if (r < 0)
		return r;
	pthread_mutex_lock(&v->tree);
	r = dir_get(v, c->dir, &mk.dir);
	if (r == 0) {
		r = make_locked(&mk, ret_ino);
		vnode_put(v, mk.dir);
	}
	pthread_mutex_unlock(&v->tree);
	return r;
}

/* --- content that is put past the stack --- */

int vfs_size_put(struct vfs *v, uint64_t ino, uint64_t size)
{
	struct vnode *vn;
	const int r = vnode_get(v, ino, &vn); /* in the cache: it has a lookup */

	if (r < 0)
		return r;
	pthread_mutex_lock(&vn->lock);
	vn->size = size;
	vnode_touch(vn, false);
	vnode_mark_dirty(v, vn);
	pthread_mutex_unlock(&vn->lock);
	vnode_put(v, vn);
	return 0;
}

/* --- content that is replaced --- */

unsigned vfs_open_users(struct vnode *file)
{
	pthread_mutex_lock(&file->lock);
	const unsigned n = file->open_users;
	pthread_mutex_unlock(&file->lock);
	return n;
}

int vfs_replace(struct vfs *v, struct vnode *file, int (*replace)(void *arg), void *arg)
{
	if (v->read_only)
		return -EROFS;
	pthread_rwlock_wrlock(&file->io);
	const int r = replace(arg);
	pthread_rwlock_unlock(&file->io);
	return r;
}

void vfs_replaced(struct vfs *v, struct vnode *file, uint64_t size)
{
	pthread_mutex_lock(&file->lock);
	prefix_changed(file, 0);
	file->size = size;
	vnode_touch(file, false);
	vnode_mark_dirty(v, file);
	pthread_mutex_unlock(&file->lock);
}

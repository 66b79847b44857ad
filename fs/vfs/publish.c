/*
 * publish.c - see publish.h
 *
 * As with a clone (restore.c), vfs.tree is held from the look whether the name is free until the group
 * is committed.  Names are found without it, so somebody may write to the file, and flush it, before that:
 * the vnode says that its row is in that group alone (vnode.cloning), and the flush waits.  Else a crash could
 * leave his write in the hidden image.
 */
#include "fs/vfs/publish.h"

#include <errno.h>
#include <sys/stat.h>

#include "base/log.h"
#include "fs/vfs/dir.h"

struct publishing {
	struct vfs *v;
	const struct vfs_publish *p;
	struct vnode *dir, *vn;
	struct ns_inode hidden; /* the row as it is */
	bool made;              /* the rows are put */
};

static int name_put(struct publishing *pb)
{
	struct vfs *v = pb->v;
	const struct vfs_publish *p = pb->p;
	int r = ns_name_put(v->ns, pb->dir->ino, p->name, p->ino, S_IFREG);

	if (r == 0)
		r = dir_touch(v, pb->dir, 0);
	if (r == 0)
		r = p->records(p->arg);
	if (r < 0 && ns_name_del(v->ns, pb->dir->ino, p->name) < 0)
		log_error("'%s': a name is left", p->name);
	return r;
}

/* Gate closed. */
static int publish_rows(void *arg)
{
	struct publishing *pb = arg;
	struct ns_inode inode = pb->hidden;

	pb->p->attributes(pb->p->arg, &inode);
	inode.nlink = 1;
	inode.ctime = vfs_now();
	int r = ns_inode_put(pb->v->ns, &inode);
	if (r < 0)
		return r;
	/* Before the name can be found. */
	pthread_mutex_lock(&pb->vn->lock);
	pb->vn->attr = inode;
	pb->vn->size = inode.size;
	pthread_mutex_unlock(&pb->vn->lock);
	r = name_put(pb);
	if (r < 0 && ns_inode_put(pb->v->ns, &pb->hidden) < 0)
		log_error("inode %llu: left without a name", (unsigned long long)inode.ino);
	pb->made = r == 0;
	return r;
}

static int publish_locked(struct publishing *pb)
{
	const struct vfs_publish *p = pb->p;
	uint64_t ino;
	uint32_t mode;
	int r = ns_name_get(pb->v->ns, pb->dir->ino, p->name, &ino, &mode);

	if (r != -ENOENT)
		return r < 0 ? r : -EEXIST;
	r = ns_inode_get(pb->v->ns, p->ino, &pb->hidden);
	if (r == 0)
		r = vnode_add(pb->v, &pb->hidden, &pb->vn);
	if (r < 0)
		return r;
	pb->vn->cloning = true;
	r = p->commit(p->arg, publish_rows, pb);
	ASSERT(pb->made || r < 0);
	if (!pb->made)
		pb->vn->state = r; /* nobody knew it; dropped without touching rows */
	if (r != -EINPROGRESS)
		pb->vn->cloning = false;
	vnode_put(pb->v, pb->vn);
	return r;
}

int vfs_publish(struct vfs *v, const struct vfs_publish *p)
{
	struct publishing pb = {.v = v, .p = p};
	int r = name_check(p->name);

	if (r == 0)
		r = vfs_begin_rows(v, false);
	if (r < 0)
		return r;
	pthread_mutex_lock(&v->tree);
	r = dir_get(v, p->dir, &pb.dir);
	if (r == 0) {
		r = publish_locked(&pb);
		vnode_put(v, pb.dir);
	}
	pthread_mutex_unlock(&v->tree);
	return r;
}

void vfs_received(
        struct vfs *v, struct vnode *file, const struct ns_inode *like, struct ns_inode *ret_before)
{
	pthread_mutex_lock(&file->lock);
	struct ns_inode *attr = &file->attr;
	*ret_before = *attr;
	ret_before->size = file->size;
	file->size = like->size;
	attr->mode = S_IFREG | (like->mode & 07777);
	attr->uid = like->uid;
	attr->gid = like->gid;
	attr->atime = like->atime;
	attr->mtime = like->mtime;
	attr->ctime = vfs_now();
	file->atime_due_ns = 0;
	vnode_mark_dirty(v, file);
	pthread_mutex_unlock(&file->lock);
}

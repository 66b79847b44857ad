/*
 * prefix.c - see prefix.h
 *
 * The source counts changes below the highest end of what was ever copied from it in this way
 * (vnode.watched), the other file counts all; the note of where it stands (vnode.copied) is with the other file and
 * names both counts.  The part that is about to be copied is watched before it is read: so a change that
 * the copy has not seen is one that is counted.  Counts begin anew when a file is loaded, so the note has
 * the loading's number, too.
 *
 * Who copies is a number that the kernel gives (a thread's id): the note is with the source.  A wrong guess
 * costs a reader holes that he is not told of, never content.
 */
#include "fs/vfs/prefix.h"

static bool no_data(struct vnode *vn, uint64_t from, uint64_t to)
{
	uint64_t found;

	return from >= to || (store_seek(vn->img, from, false, &found) == 0 && found >= to);
}

static uint64_t watch(struct vnode *vn, uint64_t end)
{
	pthread_mutex_lock(&vn->lock);
	vn->watched = MAX(vn->watched, end);
	const uint64_t early = vn->early_changes;
	pthread_mutex_unlock(&vn->lock);
	return early;
}

static uint64_t changes_of(struct vnode *vn)
{
	pthread_mutex_lock(&vn->lock);
	const uint64_t changes = vn->changes;
	pthread_mutex_unlock(&vn->lock);
	return changes;
}

bool prefix_holds(struct vnode *from, struct vnode *to, uint64_t off, uint64_t *ret_early)
{
	const uint64_t early = watch(from, off);
	const struct copied *c = &to->copied;
	const bool goes_on = c->from == from->loading && c->early == early &&
	                     c->changes == changes_of(to) && c->end <= off;

	if (to->size > from->size || (!goes_on && !no_data(to, 0, IMAGE_SIZE_MAX)) ||
	        !no_data(from, goes_on ? c->end : 0, off))
		return false;
	*ret_early = early;
	return true;
}

bool prefix_watch(struct vnode *from, uint64_t end, uint64_t early)
{
	return watch(from, end) == early;
}

bool prefix_same(struct vnode *from, uint64_t early)
{
	return watch(from, 0) == early;
}

void prefix_copied(struct vnode *from, struct vnode *to, uint64_t early, uint64_t end)
{
	to->copied = (struct copied){from->loading, early, changes_of(to), end};
}

/* --- who copies --- */

void vfs_copied_by(struct vnode *from, struct vnode *to, uint32_t who)
{
	pthread_rwlock_rdlock(&to->io);
	const struct copied c = to->copied;
	const bool all = c.from == from->loading && c.changes == changes_of(to);
	pthread_rwlock_unlock(&to->io);
	pthread_mutex_lock(&from->lock);
	from->copier = all ? (struct copier){who, c.end} : (struct copier){0};
	pthread_mutex_unlock(&from->lock);
}

void vfs_lseek_by(struct vnode *file, uint32_t who, struct request *req)
{
	pthread_mutex_lock(&file->lock);
	if (who && file->copier.who == who && file->copier.at == req->off)
		req->flags |= REQUEST_COPIER;
	pthread_mutex_unlock(&file->lock);
}

void prefix_seek(struct vnode *vn, uint64_t off, uint64_t found)
{
	pthread_mutex_lock(&vn->lock);
	if (vn->copier.at == off)
		vn->copier.at = found;
	pthread_mutex_unlock(&vn->lock);
}

/*
 * rename.c - moving, replacing and exchanging names
 *
 * All rows of a rename are put in one gate section, so after a crash it has happened or not: a
 * name that is replaced is never missing.  The file that takes over an existing name is flushed
 * before: programs write a new version beside the old one and rename it, without fsync, and must
 * not find an empty file after a crash.
 */
#include "fs/vfs/dir.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"

struct rename {
	struct vnode *dir, *to_dir; /* referenced; may be the same */
	const char *name, *to_name;
	struct vnode *vn, *target; /* referenced; target may be NULL */
	uint64_t ino, to_ino;      /* what the names must be of; 0: of anything */
};

static void rename_release(struct vfs *v, struct rename *rn)
{
	struct vnode *all[] = {rn->dir, rn->to_dir, rn->vn, rn->target};

	for (unsigned i = 0; i < ARRAY_SIZE(all); i++)
		if (all[i])
			vnode_put(v, all[i]);
}

static int rename_resolve(struct vfs *v, uint64_t dir, uint64_t to_dir, struct rename *rn)
{
	int r = dir_get(v, dir, &rn->dir);

	if (!r)
		r = dir_get(v, to_dir, &rn->to_dir);
	if (!r)
		r = child_get(v, dir, rn->name, &rn->vn);
	if (!r)
		r = child_get(v, to_dir, rn->to_name, &rn->target);
	return r == -ENOENT && rn->vn ? 0 : r; /* nothing in the way */
}

static int rename_check(struct vfs *v, const struct rename *rn, unsigned flags)
{
	if ((rn->ino && rn->vn->ino != rn->ino) ||
	        (rn->to_ino && (!rn->target || rn->target->ino != rn->to_ino)))
		return -ESTALE;
	if (flags & RENAME_EXCHANGE)
		return rn->target ? 0 : -ENOENT;
	if (!rn->target)
		return 0;
	if (flags & RENAME_NOREPLACE)
		return -EEXIST;
	return removable(v, rn->target, S_ISDIR(rn->vn->type));
}

/* vn is in another directory now; its ctime changes in any case. */
static int moved(struct vfs *v, struct vnode *vn, const struct vnode *to_dir)
{
	pthread_mutex_lock(&vn->lock);
	const struct ns_inode before = vn->attr;
	vn->attr.ctime = vfs_now();
	if (S_ISDIR(vn->type))
		vn->attr.parent = to_dir->ino;
	const int r = vnode_changed(v, vn);
	if (r < 0)
		vn->attr = before;
	pthread_mutex_unlock(&vn->lock);
	return r;
}

static int name_set(
        struct vfs *v, const struct vnode *dir, const char *name, const struct vnode *vn)
{
	return ns_name_put(v->ns, dir->ino, name, vn->ino, vn->type);
}

/* Subdirectories that each side gains. */
static int dirs_touch(struct vfs *v, const struct rename *rn, int from_gain, int to_gain)
{
	if (rn->dir == rn->to_dir)
		return dir_touch(v, rn->dir, from_gain + to_gain);
	const int r = dir_touch(v, rn->dir, from_gain);
	return r < 0 ? r : dir_touch(v, rn->to_dir, to_gain);
}

static int exchange_rows(struct vfs *v, const struct rename *rn)
{
	const int a = S_ISDIR(rn->vn->type), b = S_ISDIR(rn->target->type);
	int r = name_set(v, rn->to_dir, rn->to_name, rn->vn);

	if (!r)
		r = name_set(v, rn->dir, rn->name, rn->target);
	if (!r)
		r = moved(v, rn->vn, rn->to_dir);
	if (!r)
		r = moved(v, rn->target, rn->dir);
	if (!r)
		r = dirs_touch(v, rn, b - a, a - b);
	return r;
}

static int replace_rows(struct vfs *v, const struct rename *rn)
{
	const int a = S_ISDIR(rn->vn->type);
	const int gone = rn->target && S_ISDIR(rn->target->type);
	int r = name_set(v, rn->to_dir, rn->to_name, rn->vn);

	if (!r)
		r = ns_name_del(v->ns, rn->dir->ino, rn->name);
	if (!r && rn->target)
		r = link_drop(v, rn->target);
	if (!r)
		r = moved(v, rn->vn, rn->to_dir);
	if (!r)
		r = dirs_touch(v, rn, -a, a - gone);
	return r;
}

static int rename_locked(struct vfs *v, const struct rename *rn, unsigned flags)
{
	int r = rename_check(v, rn, flags);

	if (r < 0 || rn->vn == rn->target)
		return r; /* two names of one file: nothing happens, as POSIX has it */
	if (rn->target && !(flags & RENAME_EXCHANGE))
		r = may_remove(v, rn->target);
	if (r < 0)
		return r;
	store_enter(v->store);
	r = flags & RENAME_EXCHANGE ? exchange_rows(v, rn) : replace_rows(v, rn);
	store_leave(v->store);
	if (r < 0)
		log_error("rename of '%s' to '%s' failed half way: %s", rn->name, rn->to_name,
		        strerror(-r));
	return r;
}

/* Flushes what is to take the name of another file. */
static int flush_source(struct vfs *v, uint64_t dir, const char *name)
{
	struct vnode *vn;
	int r = child_get(v, dir, name, &vn);

	if (r < 0)
		return r;
	r = vnode_settle(v, vn);
	vnode_put(v, vn);
	return r;
}

static int rename_held(struct vfs *v, uint64_t dir, uint64_t to_dir, struct rename *rn,
        struct link_hold *hold, unsigned flags)
{
	int r = hold->vn ? flush_source(v, dir, rn->name) : 0;

	if (r < 0)
		return r;
	pthread_mutex_lock(&v->tree);
	r = rename_resolve(v, dir, to_dir, rn);
	if (!r && !link_held(hold, rn->target))
		r = -EAGAIN;
	if (!r)
		r = rename_locked(v, rn, flags);
	pthread_mutex_unlock(&v->tree);
	return r;
}

static int rename_try(
        struct vfs *v, uint64_t dir, uint64_t to_dir, struct rename *rn, unsigned flags)
{
	struct link_hold hold;
	int r = link_hold(v, to_dir, rn->to_name, &hold);

	if (r < 0)
		return r;
	r = rename_held(v, dir, to_dir, rn, &hold, flags);
	link_release(v, &hold);
	return r;
}

static int rename_any(
        struct vfs *v, uint64_t dir, uint64_t to_dir, const struct rename *what, unsigned flags)
{
	const char *name = what->name, *to_name = what->to_name;
	int r = name_check(name);

	if (!r)
		r = name_check(to_name);
	if (!r)
		r = snapview_refuse(v, dir, name);
	if (!r)
		r = snapview_refuse(v, to_dir, to_name);
	if (!r)
		r = vfs_begin_rows(v, false);
	if (r < 0)
		return r;
	r = -EAGAIN;
	for (unsigned i = 0; i < HOLD_TRIES && r == -EAGAIN; i++) {
		struct rename rn = *what;
		r = rename_try(v, dir, to_dir, &rn, flags);
		rename_release(v, &rn); /* may remove the file that was replaced */
	}
	return r;
}

int vfs_rename(struct vfs *v, uint64_t dir, const char *name, uint64_t to_dir, const char *to_name,
        unsigned flags)
{
	const struct rename what = {.name = name, .to_name = to_name};

	if (flags != 0 && flags != RENAME_NOREPLACE && flags != RENAME_EXCHANGE)
		return -EINVAL;
	return rename_any(v, dir, to_dir, &what, flags);
}

int vfs_rename_over(struct vfs *v, uint64_t dir, const char *name, uint64_t ino, uint64_t to_dir,
        const char *to_name, uint64_t to_ino)
{
	const struct rename what = {.name = name, .to_name = to_name, .ino = ino, .to_ino = to_ino};

	return rename_any(v, dir, to_dir, &what, 0);
}

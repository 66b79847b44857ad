/*
 * dir.h - steps that changes of names share; private to fs/vfs
 */
#pragma once

#include "fs/vfs/vnode.h"

/* -ENAMETOOLONG, -EINVAL for what is no name of an entry. */
int name_check(const char *name) MUST_CHECK;
/* A directory that has not been removed; gives a reference.  -ENOTDIR, -ENOENT. */
int dir_get(struct vfs *v, uint64_t ino, struct vnode **ret_dir) MUST_CHECK;
/* The inode that a name leads to; gives a reference. */
int child_get(struct vfs *v, uint64_t dir, const char *name, struct vnode **ret_vn) MUST_CHECK;
/* May it be removed, or replaced: of the kind wanted, and empty?  With vfs.tree held. */
int removable(struct vfs *v, struct vnode *vn, bool want_dir) MUST_CHECK;

/*
 * vn is to lose a name: if that is its last one, do its filters let it go?  With vfs.tree held, so
 * that of two who take a name each, the second one is asked.
 */
int may_remove(struct vfs *v, struct vnode *vn) MUST_CHECK;

/*
 * A file that is about to lose a name and keeps others gets a row with its link count: see vfs.c.
 * Outside the gate, holding nothing; release it also when it had nothing to hold.  With vfs.tree held
 * link_held() says whether vn, found then, is what is held; if not, all over again.
 */
struct link_hold {
	struct vnode *vn; /* referenced; NULL: there was no such name */
	bool held;
};
int link_hold(struct vfs *v, uint64_t dir, const char *name, struct link_hold *ret_hold) MUST_CHECK;
bool link_held(struct link_hold *hold, struct vnode *vn);
void link_release(struct vfs *v, struct link_hold *hold);
#define HOLD_TRIES 8u

/* --- inside the gate, with vfs.tree held --- */
/* Names of dir changed; subdirs came (> 0) or went (< 0). */
int dir_touch(struct vfs *v, struct vnode *dir, int subdirs) MUST_CHECK;
/* vn has lost a name. */
int link_drop(struct vfs *v, struct vnode *vn) MUST_CHECK;
/* Takes link_drop or a rise of the link count back, when something after it failed. */
void link_restore(struct vfs *v, struct vnode *vn, uint32_t nlink);

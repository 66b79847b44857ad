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
 * A file loses a name.  Outside the gate, holding nothing: makes what its row would carry durable,
 * if it keeps other names.  Then, inside: is that still so?  If not, all over again (-EAGAIN), a
 * few times.
 */
int link_settle(struct vfs *v, struct vnode *vn) MUST_CHECK;
bool link_may_drop(struct vfs *v, struct vnode *vn);
#define SETTLE_TRIES 8u

/* --- inside the gate, with vfs.tree held --- */
/* Names of dir changed; subdirs came (> 0) or went (< 0). */
int dir_touch(struct vfs *v, struct vnode *dir, int subdirs) MUST_CHECK;
/* vn has lost a name. */
int link_drop(struct vfs *v, struct vnode *vn) MUST_CHECK;
/* Takes link_drop or a rise of the link count back, when something after it failed. */
void link_restore(struct vfs *v, struct vnode *vn, uint32_t nlink);

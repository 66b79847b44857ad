/*
 * prefix.h - a file that is being made a copy of another one, from its beginning on; private to fs/vfs
 *
 * cp(1) copies a sparse file extent by extent: lseek(SEEK_DATA), lseek(SEEK_HOLE),
 * copy_file_range().  Of an image with ten thousands of extents that is a matter of seconds, although all
 * of it could be one map at once.  But who copies two extents has not asked for the third, and must not
 * find it in the other file.  So the vfs keeps in mind that a file holds what another one begins with, and
 * nothing else.  Then
 *	- the call that reaches to the end of the source may give the file all of the source's map
 *	  (copy.c): what it had before, it has again;
 *	- the process that copies is told of no more holes: SEEK_HOLE finds the end of the file.  lseek(2)
 *	  allows that; sharing keeps holes whether they are named or not.  Others are told as ever.
 *
 * A change of the source behind the copied part does no harm, one within it ends it; so a running
 * guest's image is copied like any other.
 */
#pragma once

#include "fs/vfs/vnode.h"

/*
 * With both files' io locks: is `to` all zeros but for what `from` has before off, and no longer than that
 * file?  *ret_early: for the others.
 */
bool prefix_holds(struct vnode *from, struct vnode *to, uint64_t off, uint64_t *ret_early);
/*
 * Before the next part is copied, up to end: changes of it count from now on.  false: what was copied
 * before has changed meanwhile.
 */
bool prefix_watch(struct vnode *from, uint64_t end, uint64_t early);
/* Is what lies before that part as it was?  Takes vnode.lock. */
bool prefix_same(struct vnode *from, uint64_t early);
/* With both io locks, after it was copied up to end. */
void prefix_copied(struct vnode *from, struct vnode *to, uint64_t early, uint64_t end);

/* Who copies asked for data from off on, and was told of found. */
void prefix_seek(struct vnode *vn, uint64_t off, uint64_t found);

/* With vnode.lock of it: content at or behind off changes. */
static inline void prefix_changed(struct vnode *vn, uint64_t off)
{
	vn->changes++;
	vn->early_changes += off < vn->watched;
}

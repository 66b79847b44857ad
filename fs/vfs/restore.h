/*
 * restore.h - files whose content comes from a snapshot: made as a clone, or rolled back
 *
 * The content itself is the engine's (store/snapshot.h); here are the name, the inode and the locks
 * that belong to it.
 */
#pragma once

#include "fs/vfs/vfs.h"

/* A file that appears, with name, inode and content, at one instant. */
struct vfs_clone {
	uint64_t dir;
	const char *name;
	/*
	 * Outside the gate: makes the content of inode ino, and calls rows(rows_arg) once, with the
	 * gate closed, at the instant at which it has it; an error of rows must make it fail.
	 * -EINPROGRESS counts as made.
	 */
	int (*content)(void *arg, uint64_t ino, int (*rows)(void *rows_arg), void *rows_arg);
	/*
	 * Gate closed: puts what else belongs to ret_inode->ino, fills in what the file is to be
	 * like: mode, owner, size, times of access and change of content.
	 */
	int (*records)(void *arg, struct ns_inode *ret_inode);
	void *arg;
};
/* -EEXIST, -ENOTDIR and so on as vfs_mknod(), and what content() returns. */
int vfs_clone_make(struct vfs *v, const struct vfs_clone *c, uint64_t *ret_ino) MUST_CHECK;

/*
 * Inside the gate: content that the caller puts into the image itself (store_write), past any stack, makes the file
 * this long.  The caller counts a lookup of it, and nobody has it open.
 */
int vfs_size_put(struct vfs *v, uint64_t ino, uint64_t size) MUST_CHECK;

/* How many have the file open, the caller included. */
unsigned vfs_open_users(struct vnode *file);
/*
 * Calls replace(arg) while neither size nor content of the file is changed by anybody else; the
 * caller has it open, with its stack drained.
 */
int vfs_replace(struct vfs *v, struct vnode *file, int (*replace)(void *arg), void *arg) MUST_CHECK;
/* In replace(), gate closed: it has this size now, and was changed just now. */
void vfs_replaced(struct vfs *v, struct vnode *file, uint64_t size);

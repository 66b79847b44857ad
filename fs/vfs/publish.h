/*
 * publish.h - what was received becomes visible: a file that gets its name, or other content
 *
 * As restore.h: the content is the engine's, here are name, inode and locks.
 */
#pragma once

#include "fs/vfs/vfs.h"

/* A regular file without a name, with its content in place, gets one, at one instant. */
struct vfs_publish {
	uint64_t dir;
	const char *name;
	uint64_t ino; /* link count 0; nobody uses it */
	/*
	 * Outside the gate: commits a group and calls rows(rows_arg) once, with the gate closed, at its
	 * freeze; an error of rows must make it fail.  -EINPROGRESS counts as done.
	 */
	int (*commit)(void *arg, int (*rows)(void *rows_arg), void *rows_arg);
	/* Gate closed, nothing is put yet: what the file is to be like. */
	void (*attributes)(void *arg, struct ns_inode *inode);
	/* Gate closed, inode and name are put: what else belongs to it. */
	int (*records)(void *arg);
	void *arg;
};
/* -EEXIST, -ENOENT (the directory), -EINVAL (the name), and what commit() returns. */
int vfs_publish(struct vfs *v, const struct vfs_publish *p) MUST_CHECK;

/*
 * In replace() of vfs_replace(), gate closed: the file has size, times, mode and owner of `like` from
 * now on.  *ret_before: what it had.
 */
void vfs_received(struct vfs *v, struct vnode *file, const struct ns_inode *like,
        struct ns_inode *ret_before);

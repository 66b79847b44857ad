/*
 * vfs.h - file semantics: inodes, directories, sizes, times, holes, extended attributes
 *
 * What POSIX says of files, on top of rows (meta/namespace.h) and images (store/store.h).  Knows no
 * FUSE: fs/fuse translates requests into these calls, the unit tests make them directly.  Whether
 * the caller *may* do a thing is checked by the kernel before it asks (default_permissions); what
 * the thing does is decided here.
 *
 * An inode is named by its number.  Every call that returns a struct vfs_entry counts one *lookup*,
 * which the caller gives back with vfs_forget(); while an inode has lookups or is open it stays
 * alive, whatever happens to its names.
 *
 * What is durable when: namespace changes and attributes with the next vfs_fsync() of anything or
 * the next transaction group, whichever is first; content and size of a file together, with
 * vfs_fsync() of that file or the next group.  A rename over an existing file flushes the file that
 * is renamed first, so "write a temporary, rename it over" never leaves an empty file after a
 * crash.
 *
 * Threads: any, for all functions but vfs_new, vfs_attach and vfs_free.  Lock order: see vfs.c.
 * Errors: 0 or -errno as rename(2), open(2) and so on name them; -EROFS for every change when
 * mounted read-only; -EIO, -ENOSPC, -ENOMEM as the engine has them.
 */
#pragma once

#include <sys/statvfs.h>

#include "meta/namespace.h"
#include "stage/request.h"
#include "store/store.h"

struct vfs;
struct vnode; /* an open file or directory */

#define VFS_LINK_MAX       65000u /* names of one file, as on ext4 */
#define VFS_XATTR_NAME_MAX 255

struct vfs_attr {
	struct ns_inode inode;
	uint64_t blocks_512; /* allocated, in units of 512 bytes */
	bool blocks_rough;   /* not exact until more of it is committed */
};

struct vfs_entry {
	uint64_t ino, generation;
	struct vfs_attr attr;
};

/* On whose behalf a thing is made. */
struct vfs_cred {
	uint32_t uid, gid;
};

/* --- life --- */
/* An empty one, whose vfs_collect_rows may be given to datastore_open before there is a store. */
int vfs_new(struct vfs **ret_vfs) MUST_CHECK;
/*
 * Binds it to an open datastore (neither is owned) and removes the inodes that a crash left
 * without names.
 */
int vfs_attach(struct vfs *v, struct ns *ns, struct store *store, bool read_only) MUST_CHECK;
/*
 * Puts the rows of all that is dirty and drops all inodes, whatever their counts; those without
 * names are removed for good.  No other call is under way.  Before store_close(), which still calls
 * vfs_collect_rows.
 */
void vfs_detach(struct vfs *v);
/* After store_close(); accepts NULL. */
void vfs_free(struct vfs *v);
/* An operation was answered with -EIO: the datastore's health tells of it. */
void vfs_note_io_error(struct vfs *v);
/* store_hooks.collect_rows, with the vfs as arg. */
void vfs_collect_rows(void *vfs, uint64_t image);

/* --- names --- */
/* name "." is dir itself (which may be any inode), ".." its parent: for exported file systems. */
int vfs_lookup(
        struct vfs *v, uint64_t dir, const char *name, struct vfs_entry *ret_entry) MUST_CHECK;
/* Counts a lookup of a known inode number: for readdirplus. */
int vfs_entry_get(struct vfs *v, uint64_t ino, struct vfs_entry *ret_entry) MUST_CHECK;
void vfs_forget(struct vfs *v, uint64_t ino, uint64_t nlookup);

/* What to make; mode with its S_IFMT bits decides which fields count. */
struct vfs_make {
	uint32_t mode;
	uint64_t rdev;      /* devices */
	const char *target; /* symlinks */
};
int vfs_mknod(struct vfs *v, uint64_t dir, const char *name, const struct vfs_make *make,
        const struct vfs_cred *cred, struct vfs_entry *ret_entry) MUST_CHECK;
/* Makes a regular file and opens it. */
int vfs_create(struct vfs *v, uint64_t dir, const char *name, uint32_t mode,
        const struct vfs_cred *cred, struct vfs_entry *ret_entry,
        struct vnode **ret_file) MUST_CHECK;
int vfs_link(struct vfs *v, uint64_t ino, uint64_t dir, const char *name,
        struct vfs_entry *ret_entry) MUST_CHECK;
int vfs_unlink(struct vfs *v, uint64_t dir, const char *name) MUST_CHECK;
int vfs_rmdir(struct vfs *v, uint64_t dir, const char *name) MUST_CHECK;
/*
 * flags: 0, RENAME_NOREPLACE or RENAME_EXCHANGE.  That a directory does not move below itself
 * is the caller's business (the kernel checks it under its own lock).
 */
int vfs_rename(struct vfs *v, uint64_t dir, const char *name, uint64_t to_dir, const char *to_name,
        unsigned flags) MUST_CHECK;
/* The file ino takes the name of to_ino.  -ESTALE: one of the names is of another file by now. */
int vfs_rename_over(struct vfs *v, uint64_t dir, const char *name, uint64_t ino, uint64_t to_dir,
        const char *to_name, uint64_t to_ino) MUST_CHECK;
int vfs_readlink(struct vfs *v, uint64_t ino, char *buf, size_t cap) MUST_CHECK; /* terminated */

/* --- directories --- */
struct vfs_dirent {
	const char *name;
	uint64_t ino;
	uint32_t mode; /* S_IFMT bits */
	uint64_t off;  /* continue after this one; never 0 */
};
/* Non-zero stops; that entry was not taken. */
typedef int vfs_dirent_fn(void *arg, const struct vfs_dirent *ent);
/*
 * Entries after off (0: from the start), "." and ".." first, at most about bytes_max of names; fn
 * may call the vfs.  Offsets stay valid while other names come and go.
 */
int vfs_readdir(struct vfs *v, uint64_t dir, uint64_t off, size_t bytes_max, vfs_dirent_fn *fn,
        void *arg) MUST_CHECK;
int vfs_fsyncdir(struct vfs *v) MUST_CHECK;

/* --- attributes --- */
enum vfs_set {
	VFS_SET_MODE = BIT(0),
	VFS_SET_UID = BIT(1),
	VFS_SET_GID = BIT(2),
	VFS_SET_SIZE = BIT(3),
	VFS_SET_ATIME = BIT(4),
	VFS_SET_MTIME = BIT(5),
	VFS_SET_ATIME_NOW = BIT(6),
	VFS_SET_MTIME_NOW = BIT(7),
	/* Clear setuid and setgid: the caller, who writes or truncates, lacks CAP_FSETID. */
	VFS_SET_KILL_SUIDGID = BIT(8),
};
struct vfs_setattr {
	unsigned set; /* enum vfs_set */
	uint32_t mode, uid, gid;
	uint64_t size;
	struct timespec atime, mtime;
};
int vfs_getattr(struct vfs *v, uint64_t ino, struct vfs_attr *ret_attr) MUST_CHECK;
int vfs_setattr(struct vfs *v, uint64_t ino, const struct vfs_setattr *sa,
        struct vfs_attr *ret_attr) MUST_CHECK;
/*
 * The same without waiting for what the stages of a file's stack do with a change of size: done() is
 * called once, before this returns or later, on any thread.  The call is the caller's until then;
 * done() may free it.
 */
struct vfs_setattr_call {
	struct vfs_setattr set;
	void (*done)(struct vfs_setattr_call *call);
	int result;           /* for done() */
	struct vfs_attr attr; /* likewise, when result is 0 */
	struct {              /* the vfs's own */
		struct vfs *vfs;
		struct vnode *vn;
		struct request req;
		_Atomic unsigned arrived;
	} way;
};
void vfs_setattr_submit(struct vfs *v, uint64_t ino, struct vfs_setattr_call *call);
int vfs_statfs(struct vfs *v, struct statvfs *ret_st) MUST_CHECK;

/* user., trusted. and security. only, -EOPNOTSUPP for others.  flags: XATTR_CREATE, XATTR_REPLACE.
 */
int vfs_setxattr(struct vfs *v, uint64_t ino, const char *name, const void *value, size_t len,
        int flags) MUST_CHECK;
/* cap 0 asks for the size; -ERANGE, -ENODATA. */
int vfs_getxattr(struct vfs *v, uint64_t ino, const char *name, void *buf, size_t cap,
        size_t *ret_len) MUST_CHECK;
/* trusted.* names are listed for the privileged only. */
int vfs_listxattr(struct vfs *v, uint64_t ino, bool privileged, char *buf, size_t cap,
        size_t *ret_len) MUST_CHECK;
int vfs_removexattr(struct vfs *v, uint64_t ino, const char *name) MUST_CHECK;

/*
 * --- open files ---
 *
 * Reads and changes of an open file pass its stack of filter stages (fs/vfs/filters.h), and these
 * calls wait for it; vfs_submit() does not.  flags: REQUEST_FUA (durable before it returns) and
 * REQUEST_KILL_PRIV.
 */
/* -EIO also where the file's stack cannot be opened. */
int vfs_open(struct vfs *v, uint64_t ino, struct vnode **ret_file) MUST_CHECK;
void vfs_release(struct vfs *v, struct vnode *file);
/* len <= READ_MAX; shorter at the end of the file.  Released with readv_release(). */
int vfs_read(struct vfs *v, struct vnode *file, uint64_t off, size_t len,
        struct readv *ret_rv) MUST_CHECK;
/* *ret_len is less than len only where the file would pass IMAGE_SIZE_MAX; -EFBIG beyond it. */
int vfs_write(struct vfs *v, struct vnode *file, uint64_t off, const void *data, size_t len,
        unsigned flags, size_t *ret_len) MUST_CHECK;
int vfs_fsync(struct vfs *v, struct vnode *file) MUST_CHECK;
/* mode as fallocate(2). */
int vfs_fallocate(struct vfs *v, struct vnode *file, int mode, uint64_t off, uint64_t len,
        unsigned flags) MUST_CHECK;
/* whence: SEEK_DATA or SEEK_HOLE. */
int vfs_lseek(
        struct vfs *v, struct vnode *file, uint64_t off, int whence, uint64_t *ret_off) MUST_CHECK;
/*
 * Makes req (zeroed) the request that those two make, for vfs_submit().  -EOPNOTSUPP, -EINVAL: no
 * such mode, no such whence.
 */
int vfs_fallocate_request(
        int mode, uint64_t off, uint64_t len, unsigned flags, struct request *req) MUST_CHECK;
int vfs_lseek_request(uint64_t off, int whence, struct request *req) MUST_CHECK;
/*
 * Copies up to len bytes, sharing whole chunks where both offsets lie alike; may do less (then
 * the caller asks again).  0 at the end of from.  Where stages are to see the bytes they are copied
 * as requests through both stacks; -EBUSY: too many threads wait for such copies already, copy by
 * reading and writing.
 */
int vfs_copy(struct vfs *v, struct vnode *from, uint64_t from_off, struct vnode *to,
        uint64_t to_off, uint64_t len, unsigned flags, uint64_t *ret_len) MUST_CHECK;
/*
 * After vfs_copy, and before vfs_submit of a vfs_lseek_request: on whose behalf (a thread of a program;
 * 0: not known).  Who copies a file from its beginning on is told of no more holes; see prefix.h.
 */
void vfs_copied_by(struct vnode *from, struct vnode *to, uint32_t who);
void vfs_lseek_by(struct vnode *file, uint32_t who, struct request *req);

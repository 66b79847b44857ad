/*
 * session.h - a FUSE mount of a vfs: mounting, serving, ending
 *
 * Only fs/fuse includes FUSE headers.
 */
#pragma once

#include "fs/vfs/vfs.h"

struct session;

struct session_config {
	struct vfs *vfs;    /* not owned */
	const char *source; /* shown as the mount's source: the datastore's absolute directory */
	const char *mountpoint;
	const char *options; /* more -o options, comma separated; or NULL */
	bool read_only, allow_other, default_permissions;
	unsigned threads; /* most of them; 0: default */
};

/* Mounts.  Requests are answered once session_serve() runs. */
int session_mount(const struct session_config *cfg, struct session **ret_session,
        struct errmsg *em) MUST_CHECK;
/* Serves until unmounted or ended; all threads that served are gone on return. */
int session_serve(struct session *se) MUST_CHECK;
/*
 * While another thread serves: waits until the mount answers, -EIO if it never will (then serving
 * ends too).  Gives it more read-ahead than the kernel's default, where that is allowed.
 */
int session_probe(struct session *se) MUST_CHECK;
/* Any thread: session_serve() returns soon, whether something uses the mount or not. */
void session_end(struct session *se);
/*
 * Any thread that holds nothing which a request of the mount may wait for: the kernel drops what it
 * has of an inode, content (what is dirty is written first) and attributes; or, name not NULL, of a name
 * in a directory.  Does nothing once it is unmounted.
 */
void session_invalidate(struct session *se, uint64_t ino, const char *name);
/* Not served any more: unmounts, if it still is mounted.  Twice is once; accepts NULL. */
void session_unmount(struct session *se);
/* Unmounts, too, and frees; no other call is under way.  Accepts NULL. */
void session_free(struct session *se);

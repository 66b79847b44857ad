/*
 * daemon.h - the process that serves a mounted datastore
 */
#pragma once

#include "fs/datastore.h"

struct mount_options {
	const char *dir, *mountpoint;
	struct datastore_options store;
	bool foreground;
	bool allow_other, default_permissions; /* allow_other sets default_permissions too */
	const char *fuse_options; /* further -o options for libfuse, comma separated; or NULL */
	unsigned fuse_threads;    /* 0: default */
	/* Filter types that this mount does without: comma separated, or NULL. */
	const char *without;
	/* Keys to unlock: "NAME:FILE", FILE absolute. */
	const char *const *keys;
	unsigned n_keys;
};

/*
 * Mounts and serves.  In the background (the default) the caller's process returns 0 when the mount
 * is usable, or an error with em as filled in by the daemon; the daemon is a detached child.  In
 * the foreground it returns when unmounted.
 */
int daemon_mount(const struct mount_options *opt, struct errmsg *em) MUST_CHECK;

/*
 * datastore.h - a datastore as a whole: backing directory, lock, metadata, namespace, engine
 *
 * Composes what src/ and meta/ offer.  The daemon opens one to serve it; a command opens one
 * read-only to report on a datastore that is not mounted.
 */
#pragma once

#include "base/errmsg.h"
#include "meta/namespace.h"
#include "store/store.h"

#define DATASTORE_LOCK "lock" /* holds the pid; OFD-locked for as long as it is open */

struct datastore_options {
	bool read_only; /* shared lock; nothing is written, the log is replayed in RAM */
	uint64_t overlay_bytes, cache_bytes, index_bytes,
	        map_bytes; /* 0: default (index: as created) */
	unsigned threads;  /* 0: one a core */
	uint64_t txg_ns;   /* 0: default */
};

struct datastore {
	char *dir; /* absolute */
	struct io *io;
	int lock_fd;
	struct meta *meta;
	struct ns *ns;
	struct keyring *keyring; /* the store's; keys come from fs/filter/keys.h */
	struct store *store;
	uint64_t opened_wall_ns;
	uint64_t cache_bytes; /* of the chunk cache */
	bool read_only;
};

/* "64M", "2G", "1T", plain bytes; -EINVAL otherwise. */
int size_parse(const char *text, uint64_t *ret_bytes) MUST_CHECK;

struct datastore_create_options {
	uint64_t index_bytes, log_bytes; /* 0: default */
};
/* dir is made if it is not there; -ENOTEMPTY when something is in it.  Durable on return. */
int datastore_create(
        const char *dir, const struct datastore_create_options *opt, struct errmsg *em) MUST_CHECK;

/*
 * extra: further store hooks are bound by the caller through ret->... before use: the vfs passes
 * its collect_rows here (may be NULL for read-only users).  -EBUSY with the holder's pid in em when
 * it is mounted; -EMEDIUMTYPE when dir is no datastore; -EPROTONOSUPPORT when it is of a newer
 * version.
 */
int datastore_open(const char *dir, const struct datastore_options *opt,
        void (*collect_rows)(void *arg, uint64_t image), void *arg, struct datastore **ret_ds,
        struct errmsg *em) MUST_CHECK;
/* Commits and closes; the error of the last commit, if any. */
int datastore_close(struct datastore *ds);
/* Pid that holds the lock, 0 when nobody does. */
int datastore_holder(const char *dir, long *ret_pid, struct errmsg *em) MUST_CHECK;
/*
 * Finds the datastore directory from a TARGET: the directory itself, a mount point of it, or any
 * path inside a mount (by /proc/self/mountinfo: type fuse.weir, source = datastore).  *ret_sub:
 * path inside the mount ("" for the top); *ret_mountpoint: NULL when the target was the directory
 * itself and it is not mounted.  All owned by the caller.
 */
int datastore_find(const char *target, char **ret_dir, char **ret_mountpoint, char **ret_sub,
        struct errmsg *em) MUST_CHECK;

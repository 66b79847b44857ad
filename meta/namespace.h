/*
 * namespace.h - inodes, names and extended attributes
 *
 * Reads see the committed rows of meta.db under the *pending* ones: changes that a transaction
 * group not yet committed will write.  Changes go into the pending view at once and, encoded as
 * rows (rows.h), to the sink (the engine's row log), which carries them through the intent log and
 * into the group's transaction.  So no lookup ever waits for a commit, and a failed commit loses
 * nothing.
 *
 * This module knows rows, not semantics: link counts, permissions, times, "directory not empty"
 * are fs/vfs's business (which also serialises changes that belong together).
 *
 * Threads: any; one lock inside.  Changes only inside the store's gate (they call the sink).
 * Errors: 0 or -errno; -ENOENT no such row; -EIO meta.db is damaged there.
 */
#pragma once

#include <sys/types.h>
#include <time.h>

#include "meta/meta.h"

struct ns;

#define NS_NAME_MAX          255
#define NS_ROOT_INO          1ull
#define XATTR_SIZE_MAX_BYTES 65536

struct ns_inode {
	uint64_t ino;
	uint32_t mode; /* S_IFMT included */
	uint32_t uid, gid;
	uint32_t nlink; /* 0: unlinked but open; removed at the next mount if still there */
	uint64_t rdev;
	uint64_t size;
	struct timespec atime, mtime, ctime, btime;
	uint64_t parent; /* directories: of ".."; else 0 */
	uint64_t generation;
};

/* Row sink: the engine's store_rows_append and store_txg, bound by whoever composes. */
struct ns_sink {
	void *arg;
	int (*append)(void *arg, const void *rows, size_t len);
	uint64_t (*txg)(void *arg);
};

int ns_open(struct meta *m, struct ns **ret_ns, struct errmsg *em) MUST_CHECK;
void ns_close(struct ns *ns);
/* Must be set before the first change. */
void ns_set_sink(struct ns *ns, const struct ns_sink *sink);

/* Ids grow and are never reused, also not after a crash (rows of the log are taken into account).
 */
uint64_t ns_ino_alloc(struct ns *ns);

int ns_inode_get(struct ns *ns, uint64_t ino, struct ns_inode *ret_inode) MUST_CHECK;
int ns_inode_put(struct ns *ns, const struct ns_inode *inode) MUST_CHECK;
/* Also its xattrs and symlink target; the image row is the engine's (store_image_delete). */
int ns_inode_del(struct ns *ns, uint64_t ino) MUST_CHECK;

int ns_name_get(struct ns *ns, uint64_t dir, const char *name, uint64_t *ret_ino,
        uint32_t *ret_mode) MUST_CHECK;
/* Replaces what the name pointed to.  mode: its S_IFMT bits, for readdir. */
int ns_name_put(
        struct ns *ns, uint64_t dir, const char *name, uint64_t ino, uint32_t mode) MUST_CHECK;
int ns_name_del(struct ns *ns, uint64_t dir, const char *name) MUST_CHECK;
/*
 * Names of a directory in a stable order, after cookie (0: from the start); each has a cookie
 * (never 0) that stays valid while other names come and go.  fn returns 1 to stop (that name was
 * not taken).
 */
typedef int ns_name_fn(void *arg, const char *name, uint64_t ino, uint32_t mode, uint64_t cookie);
int ns_name_each(
        struct ns *ns, uint64_t dir, uint64_t cookie, ns_name_fn *fn, void *arg) MUST_CHECK;
int ns_dir_empty(struct ns *ns, uint64_t dir, bool *ret_empty) MUST_CHECK;

int ns_symlink_get(struct ns *ns, uint64_t ino, char *buf, size_t cap) MUST_CHECK; /* terminated */
int ns_symlink_put(struct ns *ns, uint64_t ino, const char *target) MUST_CHECK;

/* cap 0 asks for the size only; -ERANGE when cap is too small; -ENODATA: no such attribute. */
int ns_xattr_get(struct ns *ns, uint64_t ino, const char *name, void *buf, size_t cap,
        size_t *ret_len) MUST_CHECK;
int ns_xattr_put(
        struct ns *ns, uint64_t ino, const char *name, const void *value, size_t len) MUST_CHECK;
int ns_xattr_del(struct ns *ns, uint64_t ino, const char *name) MUST_CHECK; /* -ENODATA */
/* Names, each terminated, one after the other; cap as above. */
int ns_xattr_list(struct ns *ns, uint64_t ino, char *buf, size_t cap, size_t *ret_len) MUST_CHECK;

/* All inodes, or only regular files, or only those with nlink 0; in order of ino. */
enum ns_inode_filter { NS_ALL, NS_REGULAR, NS_ORPHANS };
typedef int ns_inode_fn(void *arg, const struct ns_inode *inode);
int ns_inode_each(
        struct ns *ns, enum ns_inode_filter filter, ns_inode_fn *fn, void *arg) MUST_CHECK;
/* Number of inodes, and bytes of all regular files' sizes. */
int ns_totals(struct ns *ns, uint64_t *ret_inodes, uint64_t *ret_size_bytes) MUST_CHECK;
/* One path of an inode ("a/b.raw", without leading slash), through some link; for messages and
 * lists. */
int ns_path_of(struct ns *ns, uint64_t ino, char *buf, size_t cap) MUST_CHECK;
/* The inode at a path relative to the root; does not follow symlinks. */
int ns_lookup_path(struct ns *ns, const char *path, uint64_t *ret_ino) MUST_CHECK;

/* Group txg is committed: pending rows of groups <= txg are in meta.db now. */
void ns_committed(struct ns *ns, uint64_t txg);
/* Recovery: takes rows of the intent log into the pending view, as changes of ns_sink.txg(). */
int ns_replay(struct ns *ns, const void *rows, size_t len) MUST_CHECK;
/* Pending rows, for backpressure. */
size_t ns_pending(struct ns *ns);

/*
 * snapview.h - snapshots as directories: .weir/snapshots/NAME/... in the root of the mount
 *
 * Read-only, and not listed in the root: found by those who ask for the name, and skipped by whoever
 * copies the tree.  NAME holds the images of that snapshot under the paths that they had, with their
 * sizes, modes, owners and times of then; of snapshots of the same name (of different images) all.
 * The directories between are made up from the paths, and what was allowed in the ones of then is
 * not known: so .weir is open to the owner of the mount's root (and to root) only.
 *
 * What there is comes from whoever composes the parts, as the filters do (filters.h).
 */
#pragma once

#include "fs/vfs/vfs.h"

#define SNAPVIEW_NAME ".weir"

/* A file of a snapshot. */
struct snapview_image {
	const char *path;      /* relative to the root of the mount, as it was */
	struct ns_inode inode; /* as it was */
	/* What the source's open is asked for, and vfs_filters.open; not 0, no two files have one. */
	uint64_t key;
};

/* Non-zero stops, and is returned. */
typedef int snapview_name_fn(
        void *arg, uint64_t number, const char *name, const struct timespec *time);
typedef int snapview_image_fn(void *arg, const struct snapview_image *img);

/*
 * Numbers of snapshots are never used twice; what a snapshot holds does not change, its name may.
 * Any thread, outside the gate.  each and images call fn without a lock that fn could need.
 */
struct snapview_source {
	void *arg;
	/* A number that is another one whenever any of the others could answer differently. */
	uint64_t (*changes)(void *arg);
	int (*each)(void *arg, snapview_name_fn *fn, void *fn_arg);
	/* -ENOENT: deleted meanwhile. */
	int (*images)(void *arg, uint64_t number, snapview_image_fn *fn, void *fn_arg);
	/* A handle for reading, closed with store_image_close().  -ENOENT: deleted meanwhile. */
	int (*open)(void *arg, uint64_t number, uint64_t key, struct image **ret_image);
};
/* After vfs_new, before anybody looks; copied.  NULL: there is no .weir. */
int vfs_set_snapshots(struct vfs *v, const struct snapview_source *source) MUST_CHECK;

/*
 * Inode numbers of the view have the top bit; those of files are far below.  What is behind a name
 * changes without the kernel's doing: so nobody may cache its names.
 */
static inline bool vfs_is_snapshot(uint64_t ino)
{
	return ino >> 63;
}

/* The number that a file has there; 0: there is no view. */
uint64_t vfs_snapshot_inode(const struct vfs *v, uint64_t key);

/* --- private to fs/vfs --- */
struct vnode;
struct snapview;
struct snapview_node; /* what a vnode of the view is */

void snapview_free(struct snapview *sv);           /* accepts NULL */
void snapview_node_free(struct snapview_node *sn); /* accepts NULL */
/* Gives a reference.  -ENOENT, -ENOTDIR; -ESTALE: dir is gone. */
int snapview_lookup(
        struct vfs *v, uint64_t dir, const char *name, struct vnode **ret_vn) MUST_CHECK;
/* The directory above, of a directory.  Gives a reference. */
int snapview_parent(struct vfs *v, struct vnode *dir, struct vnode **ret_vn) MUST_CHECK;
/* A name that is in no row: is it the view's top?  Gives a reference then; -ENOENT. */
int snapview_top(struct vfs *v, uint64_t dir, const char *name, struct vnode **ret_vn) MUST_CHECK;
/* As vfs_readdir, without the dots; offsets are above 2. */
int snapview_readdir(
        struct vfs *v, struct vnode *dir, uint64_t off, vfs_dirent_fn *fn, void *arg) MUST_CHECK;
int snapview_open(struct vfs *v, struct vnode *vn, struct image **ret_image) MUST_CHECK;
/* Before a change of that name: -EROFS in the view, and of its top. */
int snapview_refuse(struct vfs *v, uint64_t dir, const char *name) MUST_CHECK;

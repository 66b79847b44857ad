/*
 * ops.h - the table of FUSE operations, and what its files share; private to fs/fuse
 */
#pragma once

#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>

#include "fs/vfs/vfs.h"

/* userdata of the session */
struct front {
	struct vfs *vfs;
};

extern const struct fuse_lowlevel_ops front_ops;

/* The kernel drops what its own operations change. */
#define CACHE_SECONDS 86400.0

static inline struct vfs *vfs_of(fuse_req_t req)
{
	return ((struct front *)fuse_req_userdata(req))->vfs;
}

static inline struct vnode *file_of(const struct fuse_file_info *fi)
{
	return (struct vnode *)(uintptr_t)fi->fh;
}

/* r: 0 or -errno. */
void reply_err(fuse_req_t req, int r);
void reply_attr(fuse_req_t req, int r, const struct vfs_attr *a);

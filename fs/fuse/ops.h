/*
 * ops.h - the table of FUSE operations; private to fs/fuse
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

/*
 * file.h - steps that changes of content share; private to fs/vfs
 */
#pragma once

#include "fs/vfs/vnode.h"

/* Inside the gate: content up to end (0: no further than before) changed.  flags: enum
 * vfs_write_flags. */
void file_changed(struct vfs *v, struct vnode *vn, uint64_t end, unsigned flags);
/* With vn->io held exclusively and the image open, outside the gate. */
int file_resize(struct vfs *v, struct vnode *vn, uint64_t size, bool kill_suidgid) MUST_CHECK;

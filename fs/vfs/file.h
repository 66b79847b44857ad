/*
 * file.h - what is done with a file's content at the bottom of its stack; private to fs/vfs
 *
 * All of it outside the gate, holding nothing, with the image open, unless it says otherwise.
 */
#pragma once

#include "fs/vfs/vnode.h"

/* A read of the guest: atime follows, as with relatime. */
void file_accessed(struct vfs *v, struct vnode *vn);
/*
 * Inside the gate: content from off on, up to end (0: no further than before) changed, by a request
 * with these flags.
 */
void file_changed(struct vfs *v, struct vnode *vn, uint64_t off, uint64_t end, unsigned flags);
/* Everything acknowledged of this file is durable on 0. */
int file_flush(struct vfs *v, struct vnode *vn) MUST_CHECK;
/* The requests DISCARD and ZERO, and RESIZE; checked for their ranges. */
int file_zero(struct vfs *v, struct vnode *vn, struct request *req) MUST_CHECK;
int file_resize(struct vfs *v, struct vnode *vn, struct request *req) MUST_CHECK;

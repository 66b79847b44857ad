/*
 * filters.h - what the vfs needs of the filter framework; fs/filter implements it
 *
 * A regular file that somebody opens gets a pipeline (stage/pipeline.h), shared by all who have it
 * open; its requests go through it and come out below, in fs/vfs/submit.c.  What weir itself does
 * with a file (settling it before a rename, counting blocks) does not pass the stack.
 */
#pragma once

#include "fs/vfs/vfs.h"
#include "stage/pipeline.h"

struct vfs_filters {
	void *arg;
	/*
	 * The pipeline of an image that is being opened; below: the bottom, already bound to it.
	 * ino: its inode number, or, of a file in a snapshot, snapview_image.key: then only what its
	 * bytes depend on is in it.  -EIO: it does not open (why: in the datastore's status and the
	 * log); -ENOKEY; -ESTALE: the snapshot is gone.
	 */
	int (*open)(void *arg, uint64_t ino, struct pipeline_below *below, struct pipeline **ret_p);
	/*
	 * The last user closed it; called for each open that returned 0.  Like open, with a lock
	 * held that all opening and closing of this file waits for, and nothing else: it may wait
	 * for requests of the file, not for anybody who opens it.
	 */
	void (*close)(void *arg, uint64_t ino, struct pipeline *p);
	/* Before the gate that inherit() is called in: reads what it is going to read.  May be NULL. */
	void (*inherit_soon)(void *arg, uint64_t dir);
	/* Inside the gate, together with the new inode's rows: it inherits the directory's stack. */
	int (*inherit)(void *arg, uint64_t dir, uint64_t ino);
	/*
	 * Inside the gate or with it closed: puts what the image's stages have as state since last
	 * time; together with the row of a file that is dirty (vfs_mark_state), open or not.  What
	 * was put while group store_txg() - 1 was open must be put once more: that group may not be
	 * committed, and a flush does not log what was put at its freeze.
	 */
	void (*collect)(void *arg, uint64_t ino);
	/*
	 * The guest's changes of this file's content are refused (quarantine).  Asked for each of
	 * them, before it enters the stack; what stages and jobs write is not asked for.
	 */
	bool (*read_only)(void *arg, uint64_t ino);
	/*
	 * A file is about to lose its last name, to an unlink or to a rename over it: do its stages
	 * let it go?  -EPERM: it stays.  With vfs.tree held, outside the gate; open or not.
	 */
	int (*may_remove)(void *arg, uint64_t ino);
	/* The inode is removed with all its rows, and its number is never used again. */
	void (*gone)(void *arg, uint64_t ino);
};

/* Before the first file is opened; copied.  NULL: no filters (unit tests). */
void vfs_set_filters(struct vfs *v, const struct vfs_filters *filters);

/*
 * Sends a request of an open file through its stack: req->file is set here.  complete() as in
 * pipeline_submit.  The old calls (vfs_read, vfs_write, ...) do this and wait.
 */
void vfs_submit(struct vfs *v, struct vnode *file, struct request *req);
/* Is what is written to this open file encrypted before it is stored? */
bool vfs_is_sealed(struct vnode *file);
/* The file's pipeline; NULL when there are no filters.  While the caller has it open. */
struct pipeline *vfs_pipeline(struct vnode *file);
/*
 * The image has state that is to be collected: also without any other change its row is put with
 * the next group, or its next flush, and collect called.  After the state is where collect finds
 * it.  Any thread, inside the gate or outside, holding no lock that collect takes; while the file
 * is open.
 */
void vfs_mark_state(struct vfs *v, uint64_t ino);

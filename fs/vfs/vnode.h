/*
 * vnode.h - the inode cache of the vfs; private to fs/vfs
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "fs/vfs/filters.h"
#include "fs/vfs/snapview.h"

#define VNODE_SHARDS      64u
#define VNODE_SHARD_HEADS 256u
/* Pending rows above which a namespace change waits for a commit first. */
#define VFS_PENDING_MAX (128u << 10)
/* What a namespace change counts for in store_throttle(). */
#define VFS_ROWS_COST 512u

/* This file has the beginning of another one, and nothing else: see prefix.h. */
struct copied {
	uint64_t from;    /* that file's vnode.loading; 0: of none */
	uint64_t early;   /* its count */
	uint64_t changes; /* this file's own */
	uint64_t end;     /* so far */
};
struct copier {
	uint32_t who; /* 0: nobody */
	uint64_t at;  /* goes on here */
};

/*
 *	field           guarded by
 *	next, nlookup   the shard's lock
 *	refs            atomic; from 0 to 1 and from 1 to 0 only under the shard's lock
 *	state           atomic; written once, by the thread that loads, holding lock
 *	io              (is a lock) content against size: writers shared; truncate, fallocate, copy
 *	                exclusive
 *	size            written under lock and io; read by anyone
 *	attr, dirty, frozen_txg, img, img_users
 *	                lock (dirty is also peeked at without it)
 *	pipeline, open_users
 *	                changed under opening and lock; who has the file open reads pipeline without
 *	watched, changes, early_changes, copier
 *	                lock
 *	copied          io
 *	close_next, closes_due
 *	                vfs.closer.lock
 *	dirty_prev/next vfs.dirty_lock
 *	atime_due_ns, xattr_none       atomic hints
 */
struct vnode {
	struct vnode *next;
	struct vfs *vfs;
	uint64_t ino;
	uint32_t type;           /* S_IFMT bits; never change once it is loaded */
	uint64_t nlookup;        /* that the kernel holds */
	_Atomic uint32_t refs;   /* open files, operations under way, the dirty list */
	_Atomic int state;       /* 0: attr is loaded; VNODE_LOADING; or why it could not be */
	_Atomic bool dirty;      /* on the dirty list: differs from its row */
	_Atomic bool xattr_none; /* known to have no extended attribute */
	_Atomic int row_error;   /* why its row could not be put at the last collect; 0 */
	_Atomic uint64_t size;
	_Atomic uint64_t
	        atime_due_ns; /* before this wall time a read need not touch atime; 0: look */
	pthread_rwlock_t io;
	pthread_mutex_t lock;
	/*
	 * As in the row, or what it is to be; but attr.size is the size of the last collected row,
	 * and size (above) the present one.  A row that is put for another reason (link) must not
	 * make a size durable before the content under it.
	 */
	struct ns_inode attr;
	/*
	 * Group at whose freeze the row was put, 0: none.  While that group may be uncommitted, a
	 * flush puts the row again: the engine need not log rows of a group together with content
	 * of other images.
	 */
	uint64_t frozen_txg;
	struct image *img; /* while img_users > 0 */
	unsigned img_users;
	struct vnode *dirty_prev, *dirty_next;
	pthread_mutex_t opening;   /* an operation lock: a pipeline is being opened or closed */
	struct pipeline *pipeline; /* while open_users > 0; NULL: no filters */
	unsigned open_users;
	struct vnode *close_next;
	unsigned closes_due;
	/*
	 * It became a copy of another image in a group that may not be committed: its row is in that
	 * group alone.  Set with the gate closed.
	 */
	_Atomic bool cloning;
	/* Copies that are made by parts (prefix.h). */
	uint64_t loading; /* no other vnode has or had that number; constant */
	uint64_t watched, changes, early_changes;
	struct copied copied;
	struct copier copier;
	struct snapview_node *snap; /* of the snapshot view (snapview.c); constant, owned */
};

#define VNODE_LOADING 1

struct vnode_shard {
	pthread_mutex_t lock;
	struct vnode *heads[VNODE_SHARD_HEADS];
};

/* Closes files for those who may not wait for it (open.c). */
struct closer {
	pthread_mutex_t lock;
	pthread_cond_t cond;
	pthread_t thread;
	struct vnode *due; /* each referenced */
	bool running, ending;
};

struct vfs {
	struct ns *ns;
	struct store *store;
	bool read_only;
	/* Namespace changes, one at a time.  An operation lock: taken before the gate. */
	pthread_mutex_t tree;
	pthread_mutex_t dirty_lock; /* the list of dirty vnodes */
	struct vnode dirty;         /* head of the ring */
	struct vnode_shard shards[VNODE_SHARDS];
	struct vfs_filters filters; /* open NULL: none */
	struct closer closer;
	struct snapview *snapview;       /* NULL: none */
	_Atomic uint64_t loadings;       /* of vnodes, so far */
	_Atomic unsigned copies_waiting; /* threads that copy as requests (copy.c) */
};

/* Finds or loads; gives a reference.  -ENOENT also for an inode without names that is not in use.
 */
int vnode_get(struct vfs *v, uint64_t ino, struct vnode **ret_vn) MUST_CHECK;
/* Adds a new inode to the cache, before anybody knows its number; gives a reference. */
int vnode_add(struct vfs *v, const struct ns_inode *inode, struct vnode **ret_vn) MUST_CHECK;
/*
 * The vnode of an inode of the snapshot view; gives a reference.  A new one takes snap over, an old
 * one has its own.
 */
int vnode_get_view(struct vfs *v, const struct ns_inode *inode, struct snapview_node *snap,
        struct vnode **ret_vn) MUST_CHECK;
/*
 * Gives a reference back.  The last one of an inode without names removes it from the datastore, in
 * a gate section of its own: so never inside the gate.
 */
void vnode_put(struct vfs *v, struct vnode *vn);
void vnode_lookup_inc(struct vfs *v, struct vnode *vn);
/* Drops every vnode, whatever its counts; removes those without names. */
void vnode_drop_all(struct vfs *v);

/* The image behind a regular file, kept open until vnode_image_put.  Outside the gate: may read. */
int vnode_image_get(struct vfs *v, struct vnode *vn) MUST_CHECK;
void vnode_image_put(struct vnode *vn);

/*
 * Opens a regular file that the caller has a reference of: image and stack.  Outside the gate,
 * holding nothing: it may read, and wait for the stack's stages.
 */
int vnode_open(struct vfs *v, struct vnode *vn) MUST_CHECK;
/* Not from a request's complete(): the last one waits for all requests of the file. */
void vnode_close(struct vfs *v, struct vnode *vn);
/* The same and vnode_put(), from anywhere: where it would have to wait, another thread does. */
void vnode_close_later(struct vfs *v, struct vnode *vn);
void closer_init(struct closer *c);
/* Does what is due, and stops the thread. */
void closer_stop(struct vfs *v);
void closer_release(struct closer *c);
/* Closes every pipeline that is still open; no request comes any more. */
void vnode_close_all(struct vfs *v);

/* Does a request of an open file at the bottom of its stack (submit.c); arg of what it fills in. */
void submit_below(struct vnode *vn, struct pipeline_below *ret_below);
/* May the guest change this file's content at all?  -EROFS. */
int submit_admit(struct vfs *v, struct vnode *file) MUST_CHECK;
/* Sends it and waits: through the stack.  req->result. */
int submit_call(struct vfs *v, struct vnode *file, struct request *req) MUST_CHECK;

/* With vn->lock held: the row is to be put at the next collect. */
void vnode_mark_dirty(struct vfs *v, struct vnode *vn);
/* With vn->lock held, inside the gate: puts the row now (with the size last collected). */
int vnode_put_row(struct vfs *v, struct vnode *vn) MUST_CHECK;
/*
 * With vn->lock held, inside the gate: attributes other than the link count changed.  Regular
 * files' rows wait for the next collect (see vfs.c), others are put now.
 */
int vnode_changed(struct vfs *v, struct vnode *vn) MUST_CHECK;
/* Outside the gate: waits until a copy that it became is official. */
int vnode_clone_settle(struct vfs *v, struct vnode *vn) MUST_CHECK;
/* Makes content and size of a regular file durable, before a row with its link count is put. */
int vnode_settle(struct vfs *v, struct vnode *vn) MUST_CHECK;
/*
 * The same, and until vnode_size_release() content and size stay as they are: an operation lock,
 * taken before vfs.tree.  Of what is no regular file nothing is held.
 */
int vnode_size_hold(struct vfs *v, struct vnode *vn) MUST_CHECK;
void vnode_size_release(struct vnode *vn);
/* With vn->lock held, inside the gate: it has no name any more; its row is put, and not again. */
int vnode_unlinked(struct vfs *v, struct vnode *vn) MUST_CHECK;
/* Takes vn->lock. */
uint32_t vnode_nlink(struct vnode *vn);
/* Copies the attributes as they are now.  Takes vn->lock. */
void vnode_attr(struct vfs *v, struct vnode *vn, struct vfs_attr *ret_attr);
void vnode_entry(struct vfs *v, struct vnode *vn, struct vfs_entry *ret_entry);

/*
 * Before each change, outside the gate and holding nothing: read-only, backpressure, space.
 * frees: the change gives space back, so a full disk does not stop it.
 */
int vfs_begin(struct vfs *v, size_t len_bytes, bool frees) MUST_CHECK;
/* The same for namespace changes, with their own backpressure. */
int vfs_begin_rows(struct vfs *v, bool frees) MUST_CHECK;
/* Wall time, cheap, with the granularity of the tick: what files are stamped with. */
struct timespec vfs_now(void);
/* setuid, and setgid of what its group may execute: cleared by who may not keep them. */
uint32_t vfs_mode_killed(uint32_t mode);
/* With vn->lock held: content changed just now. */
void vnode_touch(struct vnode *vn, bool kill_suidgid);

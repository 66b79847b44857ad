/*
 * vfs.c - file semantics as a whole: life of the vfs, backpressure, lock order
 *
 * Lock order, outermost first:
 *
 *	operation locks   vnode.opening -> vfs.tree (namespace changes), vnode.io (two of them: by inode
 *	                  number)
 *	the store's gate  store_enter .. store_leave
 *	state locks       vnode_shard.lock -> vnode.lock -> vfs.dirty_lock
 *	the lock inside ns, and the engine's own
 *
 * The engine calls vfs_collect_rows with the gate closed, that is, after everybody inside has
 * left and while newcomers wait.  It takes state locks only; so nobody may hold a state lock while
 * entering the gate, and nobody who holds one may wait for anything but the locks below it.
 * Operation locks are never taken in there, hence they may be held at the gate: that lets an
 * operation do its reading (names, rows, holes), which may touch the disk, before it enters, and
 * keeps the time inside short.
 *
 * What a crash does.  Each change is inside one gate section, so it is in one transaction group, or
 * one batch of the log, as a whole.  Sizes and times that writes change are put as rows when a
 * group is frozen or that file is flushed, at the instant at which its content is captured too: so
 * a file's size never becomes durable without its content, nor the other way round.
 *
 * Hence rows of regular files are put by the collector only.  A chmod() that put a row at once
 * would carry a size along: the present one would become durable before its content when somebody
 * else flushes, an older one would undo what a group has committed meanwhile.  The exception is the
 * link count, which must be durable with the names that it counts: link() and unlink() of one name
 * among several flush the file first, and keep its content as it is until that row is put
 * (vnode_size_hold): whatever is frozen meanwhile, the size in the row is durable.
 */
#include "fs/vfs/vnode.h"

#include <errno.h>

#include "base/log.h"
#include "meta/records.h"

int vfs_new(struct vfs **ret_vfs)
{
	struct vfs *v = calloc(1, sizeof(*v));

	if (!v)
		return -ENOMEM;
	v->dirty.dirty_next = v->dirty.dirty_prev = &v->dirty;
	pthread_mutex_init(&v->tree, NULL);
	pthread_mutex_init(&v->dirty_lock, NULL);
	closer_init(&v->closer);
	for (unsigned i = 0; i < VNODE_SHARDS; i++)
		pthread_mutex_init(&v->shards[i].lock, NULL);
	*ret_vfs = v;
	return 0;
}

struct orphan_list {
	struct ns_inode *items; /* owned; only ino and mode count */
	size_t n, cap;
};

static int orphan_note(void *arg, const struct ns_inode *inode)
{
	struct orphan_list *l = arg;

	if (l->n == l->cap) {
		const size_t cap = l->cap ? l->cap * 2 : 64;
		struct ns_inode *items = realloc(l->items, cap * sizeof(*items));
		if (!items)
			return -ENOMEM;
		l->items = items;
		l->cap = cap;
	}
	l->items[l->n++] = *inode;
	return 0;
}

static int orphan_remove(struct vfs *v, const struct ns_inode *inode)
{
	int r;

	store_enter(v->store);
	r = ns_inode_del(v->ns, inode->ino);
	if (!r && S_ISREG(inode->mode))
		r = store_image_delete(v->store, inode->ino);
	store_leave(v->store);
	return r;
}

/* A stream is being received into it: it gets its name, or goes, later (fs/stream). */
static int orphan_kept(struct vfs *v, const struct ns_inode *inode, bool *ret_kept)
{
	struct bytes_out value;
	const int r = ns_record_get(v->ns, RECORD_FLAG, inode->ino, RECEIVE_FLAG, &value);

	if (r == 0)
		bytes_release(&value);
	*ret_kept = r == 0;
	return r == -ENOENT ? 0 : r;
}

/* Inodes that were unlinked but open when the daemon died. */
static int orphans_remove(struct vfs *v)
{
	struct orphan_list l = {0};
	int r = ns_inode_each(v->ns, NS_ORPHANS, orphan_note, &l);
	size_t n = 0;

	for (size_t i = 0; i < l.n && !r; i++) {
		bool kept;
		r = orphan_kept(v, &l.items[i], &kept);
		if (r < 0 || kept)
			continue;
		r = orphan_remove(v, &l.items[i]);
		n++;
	}
	if (!r && n > 0)
		log_note("removed %zu unlinked files that were open at the last crash", n);
	free(l.items);
	return r;
}

int vfs_attach(struct vfs *v, struct ns *ns, struct store *store, bool read_only)
{
	v->ns = ns;
	v->store = store;
	v->read_only = read_only;
	struct vnode *root; /* its reference stays until vfs_detach */
	const int r = vnode_get(v, NS_ROOT_INO, &root);
	if (r < 0)
		return r;
	return read_only ? 0 : orphans_remove(v);
}

void vfs_detach(struct vfs *v)
{
	if (!v->store)
		return;
	closer_stop(v);
	vnode_close_all(v); /* what stages held back comes down, and is collected */
	if (!v->read_only) {
		store_enter(v->store);
		vfs_collect_rows(v, 0);
		store_leave(v->store);
	}
	/* What could not be collected has been logged; its last row stands. */
	while (v->dirty.dirty_next != &v->dirty) {
		struct vnode *vn = v->dirty.dirty_next;
		v->dirty.dirty_next = vn->dirty_next;
		vn->dirty_next->dirty_prev = &v->dirty;
		vn->dirty = false;
	}
	vnode_drop_all(v);
}

void vfs_free(struct vfs *v)
{
	if (!v)
		return;
	for (unsigned i = 0; i < VNODE_SHARDS; i++)
		pthread_mutex_destroy(&v->shards[i].lock);
	closer_release(&v->closer);
	snapview_free(v->snapview);
	pthread_mutex_destroy(&v->dirty_lock);
	pthread_mutex_destroy(&v->tree);
	free(v);
}

struct timespec vfs_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME_COARSE, &ts);
	return ts;
}

int vfs_begin(struct vfs *v, size_t len_bytes, bool frees)
{
	if (v->read_only)
		return -EROFS;
	const int r = store_throttle(v->store, len_bytes);
	return r == -ENOSPC && frees ? 0 : r;
}

int vfs_begin_rows(struct vfs *v, bool frees)
{
	int r = vfs_begin(v, VFS_ROWS_COST, frees);

	if (!r && ns_pending(v->ns) > VFS_PENDING_MAX)
		r = store_sync(v->store);
	return r;
}

int vfs_statfs(struct vfs *v, struct statvfs *ret_st)
{
	struct io_space space;
	uint64_t inodes, size;
	int r = store_space(v->store, &space);

	if (!r)
		r = ns_totals(v->ns, &inodes, &size);
	if (r < 0)
		return r;
	struct statvfs st = {
	        .f_bsize = CHUNK_SIZE,
	        .f_frsize = CHUNK_SIZE,
	        .f_blocks = space.total_bytes / CHUNK_SIZE,
	        .f_bfree = space.free_bytes / CHUNK_SIZE,
	        .f_bavail = space.free_bytes / CHUNK_SIZE,
	        /* Inodes are rows: as many as there is room for, a few hundred bytes each. */
	        .f_files = inodes + space.free_bytes / VFS_ROWS_COST,
	        .f_ffree = space.free_bytes / VFS_ROWS_COST,
	        .f_favail = space.free_bytes / VFS_ROWS_COST,
	        .f_namemax = NS_NAME_MAX,
	};
	*ret_st = st;
	return 0;
}

void vfs_note_io_error(struct vfs *v)
{
	if (v->store)
		store_note_io_error(v->store);
}

/*
 * vnode.c - the inode cache: one struct vnode for each inode that somebody uses
 *
 * A vnode lives while the kernel holds lookups of it (nlookup), while somebody has it open or works
 * on it (refs), and while it is dirty (the dirty list is one of the refs): so attributes that are
 * not in a row yet are never forgotten, and the size of the cache follows what the kernel caches.
 *
 * Loading.  A new vnode goes into its shard in state LOADING with its own lock held, so that
 * a second caller finds it and waits there, and a row is never read twice at once: a stale copy
 * could otherwise come in after a change.  Waiting happens on that vnode alone.
 *
 * Removal.  Link count 0 is final (nothing links such an inode again).  vnode_unlinked() takes it
 * off the dirty list for good; when the last reference or lookup goes, whoever drops it removes row
 * and image in a gate section of its own.  If that fails, or the daemon dies before, the row stays
 * with link count 0 and the next mount removes it.
 */
#include "fs/vfs/file.h"

#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"

static struct vnode_shard *shard_of(struct vfs *v, uint64_t ino)
{
	return &v->shards[ino % VNODE_SHARDS];
}

static struct vnode **head_of(struct vnode_shard *sh, uint64_t ino)
{
	return &sh->heads[ino / VNODE_SHARDS % VNODE_SHARD_HEADS];
}

/* Under the shard's lock. */
static struct vnode *shard_find(struct vnode_shard *sh, uint64_t ino)
{
	struct vnode *vn = *head_of(sh, ino);

	while (vn && vn->ino != ino)
		vn = vn->next;
	return vn;
}

static void shard_unhash(struct vnode_shard *sh, struct vnode *vn)
{
	struct vnode **at = head_of(sh, vn->ino);

	while (*at != vn)
		at = &(*at)->next;
	*at = vn->next;
}

static void shard_hash(struct vnode_shard *sh, struct vnode *vn)
{
	struct vnode **head = head_of(sh, vn->ino);

	vn->next = *head;
	*head = vn;
}

static struct vnode *vnode_alloc(struct vfs *v, uint64_t ino)
{
	struct vnode *vn = calloc(1, sizeof(*vn));

	if (!vn)
		return NULL;
	vn->vfs = v;
	vn->ino = ino;
	vn->loading = ++v->loadings;
	vn->refs = 1;
	vn->state = VNODE_LOADING;
	pthread_rwlockattr_t attr;
	pthread_rwlockattr_init(&attr);
	/* A truncate must not starve behind a stream of writes. */
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&vn->io, &attr);
	pthread_rwlockattr_destroy(&attr);
	pthread_mutex_init(&vn->lock, NULL);
	pthread_mutex_init(&vn->opening, NULL);
	return vn;
}

static void vnode_release(struct vnode *vn)
{
	ASSERT(!vn->dirty && !vn->pipeline);
	store_image_close(vn->img);
	snapview_node_free(vn->snap);
	pthread_rwlock_destroy(&vn->io);
	pthread_mutex_destroy(&vn->lock);
	pthread_mutex_destroy(&vn->opening);
	free(vn);
}

static void vnode_fill(struct vnode *vn, const struct ns_inode *inode)
{
	vn->attr = *inode;
	vn->type = inode->mode & S_IFMT;
	vn->size = inode->size;
}

/* Removes row and content of an inode without names. */
static void vnode_remove(struct vfs *v, const struct vnode *vn)
{
	int r;

	store_enter(v->store);
	r = ns_inode_del(v->ns, vn->ino);
	if (!r && S_ISREG(vn->type))
		r = store_image_delete(v->store, vn->ino);
	store_leave(v->store);
	if (r < 0)
		log_warn("inode %llu: cannot be removed now (%s); the next mount will do it",
		        (unsigned long long)vn->ino, strerror(-r));
	if (v->filters.gone && S_ISREG(vn->type))
		v->filters.gone(v->filters.arg, vn->ino);
}

/* Nobody can find it any more. */
static void vnode_destroy(struct vfs *v, struct vnode *vn)
{
	if (vn->state == 0 && vn->attr.nlink == 0 && !v->read_only)
		vnode_remove(v, vn);
	vnode_release(vn);
}

/* Reads the row; the caller holds vn->lock. */
static int vnode_load(struct vfs *v, struct vnode *vn)
{
	struct ns_inode inode;

	if (vfs_is_snapshot(vn->ino))
		return -ESTALE; /* comes to be by being looked up */
	int r = ns_inode_get(v->ns, vn->ino, &inode);
	if (!r && inode.nlink == 0)
		r = -ENOENT; /* on its way out */
	if (!r)
		vnode_fill(vn, &inode);
	return r;
}

/* Waits until it is loaded, by another thread. */
static int vnode_wait(struct vnode *vn)
{
	if (UNLIKELY(vn->state == VNODE_LOADING)) {
		pthread_mutex_lock(&vn->lock);
		pthread_mutex_unlock(&vn->lock);
	}
	return vn->state;
}

int vnode_get(struct vfs *v, uint64_t ino, struct vnode **ret_vn)
{
	struct vnode_shard *sh = shard_of(v, ino);

	pthread_mutex_lock(&sh->lock);
	struct vnode *vn = shard_find(sh, ino);
	const bool found = vn;
	if (found) {
		vn->refs++;
	} else {
		vn = vnode_alloc(v, ino);
		if (vn) {
			pthread_mutex_lock(&vn->lock);
			shard_hash(sh, vn);
		}
	}
	pthread_mutex_unlock(&sh->lock);
	if (!vn)
		return -ENOMEM;
	if (!found) {
		vn->state = vnode_load(v, vn);
		pthread_mutex_unlock(&vn->lock);
	}
	const int r = vnode_wait(vn);
	if (r) {
		vnode_put(v, vn);
		return r;
	}
	*ret_vn = vn;
	return 0;
}

int vnode_add(struct vfs *v, const struct ns_inode *inode, struct vnode **ret_vn)
{
	struct vnode_shard *sh = shard_of(v, inode->ino);
	struct vnode *vn = vnode_alloc(v, inode->ino);

	if (!vn)
		return -ENOMEM;
	vnode_fill(vn, inode);
	vn->state = 0;
	vn->xattr_none = true;
	pthread_mutex_lock(&sh->lock);
	shard_hash(sh, vn);
	pthread_mutex_unlock(&sh->lock);
	*ret_vn = vn;
	return 0;
}

int vnode_get_view(struct vfs *v, const struct ns_inode *inode, struct snapview_node *snap,
        struct vnode **ret_vn)
{
	struct vnode_shard *sh = shard_of(v, inode->ino);
	struct vnode *mine = vnode_alloc(v, inode->ino);

	if (!mine)
		return -ENOMEM;
	vnode_fill(mine, inode);
	mine->state = 0;
	mine->xattr_none = true;
	pthread_mutex_lock(&sh->lock);
	struct vnode *vn = shard_find(sh, inode->ino);
	/* One that somebody asked for by its number alone is on its way out: it makes no room. */
	const bool found = vn && vn->state == 0;
	if (found) {
		vn->refs++;
		pthread_mutex_lock(&vn->lock);
		vn->attr = *inode; /* a directory of this name may be that of other snapshots */
		pthread_mutex_unlock(&vn->lock);
	} else {
		vn = STEAL(mine);
		vn->snap = snap;
		shard_hash(sh, vn);
	}
	pthread_mutex_unlock(&sh->lock);
	if (mine)
		vnode_release(mine);
	*ret_vn = vn;
	return 0;
}

void vnode_put(struct vfs *v, struct vnode *vn)
{
	struct vnode_shard *sh = shard_of(v, vn->ino);
	uint32_t n = vn->refs;

	while (n > 1)
		if (atomic_compare_exchange_weak(&vn->refs, &n, n - 1))
			return;
	pthread_mutex_lock(&sh->lock);
	const bool last = atomic_fetch_sub(&vn->refs, 1) == 1 && vn->nlookup == 0;
	if (last)
		shard_unhash(sh, vn);
	pthread_mutex_unlock(&sh->lock);
	if (last)
		vnode_destroy(v, vn);
}

void vnode_lookup_inc(struct vfs *v, struct vnode *vn)
{
	struct vnode_shard *sh = shard_of(v, vn->ino);

	pthread_mutex_lock(&sh->lock);
	vn->nlookup++;
	pthread_mutex_unlock(&sh->lock);
}

void vfs_forget(struct vfs *v, uint64_t ino, uint64_t nlookup)
{
	struct vnode_shard *sh = shard_of(v, ino);

	pthread_mutex_lock(&sh->lock);
	struct vnode *vn = shard_find(sh, ino);
	bool last = false;
	if (vn) { /* the root is forgotten without ever having been looked up */
		vn->nlookup -= MIN(nlookup, vn->nlookup);
		last = vn->nlookup == 0 && vn->refs == 0;
		if (last)
			shard_unhash(sh, vn);
	}
	pthread_mutex_unlock(&sh->lock);
	if (last)
		vnode_destroy(v, vn);
}

void vnode_drop_all(struct vfs *v)
{
	for (unsigned i = 0; i < VNODE_SHARDS; i++) {
		for (unsigned j = 0; j < VNODE_SHARD_HEADS; j++) {
			struct vnode *vn;
			while ((vn = v->shards[i].heads[j])) {
				v->shards[i].heads[j] = vn->next;
				vnode_destroy(v, vn);
			}
		}
	}
}

/* --- the image behind it --- */

int vnode_image_get(struct vfs *v, struct vnode *vn)
{
	struct image *img;

	pthread_mutex_lock(&vn->lock);
	if (vn->img) {
		vn->img_users++;
		pthread_mutex_unlock(&vn->lock);
		return 0;
	}
	pthread_mutex_unlock(&vn->lock);
	/* Opening may read; nothing that a closed gate waits for may wait for that. */
	const int r =
	        vn->snap ? snapview_open(v, vn, &img) : store_image_open(v->store, vn->ino, &img);
	if (r < 0)
		return r;
	pthread_mutex_lock(&vn->lock);
	vn->img_users++;
	if (!vn->img)
		vn->img = STEAL(img);
	pthread_mutex_unlock(&vn->lock);
	store_image_close(img);
	return 0;
}

void vnode_image_put(struct vnode *vn)
{
	struct image *img = NULL;

	pthread_mutex_lock(&vn->lock);
	if (--vn->img_users == 0)
		img = STEAL(vn->img);
	pthread_mutex_unlock(&vn->lock);
	store_image_close(img);
}

/* --- rows --- */

void vnode_mark_dirty(struct vfs *v, struct vnode *vn)
{
	if (vn->dirty || vn->attr.nlink == 0)
		return;
	vn->dirty = true;
	vn->refs++; /* the caller has one, so it was not 0 */
	pthread_mutex_lock(&v->dirty_lock);
	vn->dirty_prev = v->dirty.dirty_prev;
	vn->dirty_next = &v->dirty;
	vn->dirty_prev->dirty_next = vn;
	v->dirty.dirty_prev = vn;
	pthread_mutex_unlock(&v->dirty_lock);
}

/* With vn->lock held.  The list's reference is the caller's now. */
static void vnode_unlist(struct vfs *v, struct vnode *vn)
{
	pthread_mutex_lock(&v->dirty_lock);
	vn->dirty_prev->dirty_next = vn->dirty_next;
	vn->dirty_next->dirty_prev = vn->dirty_prev;
	vn->dirty_prev = vn->dirty_next = NULL;
	pthread_mutex_unlock(&v->dirty_lock);
	vn->dirty = false;
}

int vnode_put_row(struct vfs *v, struct vnode *vn)
{
	return ns_inode_put(v->ns, &vn->attr);
}

int vnode_changed(struct vfs *v, struct vnode *vn)
{
	if (!S_ISREG(vn->type))
		return vnode_put_row(v, vn);
	vnode_mark_dirty(v, vn);
	return 0;
}

/* May content or size of it be in a group that is not committed, and not in the log? */
static bool vnode_unsettled(struct vfs *v, struct vnode *vn)
{
	store_enter(v->store);
	pthread_mutex_lock(&vn->lock);
	/* At most one frozen group is under way. */
	const bool frozen = vn->frozen_txg && vn->frozen_txg + 1 >= store_txg(v->store);
	const bool unsettled = vn->dirty || frozen;
	pthread_mutex_unlock(&vn->lock);
	store_leave(v->store);
	return unsettled;
}

int vnode_settle(struct vfs *v, struct vnode *vn)
{
	if (!S_ISREG(vn->type) || v->read_only || vn->snap || !vnode_unsettled(v, vn))
		return 0;
	int r = vnode_image_get(v, vn);
	if (r == -ENOKEY)
		return store_sync(v->store); /* locked: no content of it waits, rows may */
	if (r < 0)
		return r;
	r = file_flush(v, vn); /* our own: the stack does not see it */
	vnode_image_put(vn);
	return r;
}

int vnode_size_hold(struct vfs *v, struct vnode *vn)
{
	if (!S_ISREG(vn->type))
		return 0;
	pthread_rwlock_wrlock(&vn->io);
	const int r = vnode_settle(v, vn);
	if (r < 0)
		pthread_rwlock_unlock(&vn->io);
	return r;
}

void vnode_size_release(struct vnode *vn)
{
	if (S_ISREG(vn->type))
		pthread_rwlock_unlock(&vn->io);
}

int vnode_unlinked(struct vfs *v, struct vnode *vn)
{
	ASSERT(vn->attr.nlink == 0);
	const int r = vnode_put_row(v, vn);
	if (!r && vn->dirty) {
		vnode_unlist(v, vn);
		vn->refs--; /* the caller's own keeps it above 0 */
	}
	return r;
}

/*
 * Gate closed, or inside it.  Puts the row with the size as it is now; then what its stages have as
 * state, in this order: state that comes while it is collected finds the file clean again, and marks
 * it for the next time.
 */
static void vnode_collect(struct vfs *v, struct vnode *vn, uint64_t frozen_txg)
{
	pthread_mutex_lock(&vn->lock);
	const bool listed = vn->dirty;
	const uint64_t size_before = vn->attr.size;
	vn->attr.size = vn->size;
	const int r = vnode_put_row(v, vn);
	vn->row_error = r;
	if (r < 0) {
		vn->attr.size = size_before;
		log_error("inode %llu: attributes cannot be recorded: %s",
		        (unsigned long long)vn->ino, strerror(-r));
	} else {
		vn->frozen_txg = frozen_txg;
		if (listed)
			vnode_unlist(v, vn);
	}
	pthread_mutex_unlock(&vn->lock);
	if (v->filters.collect && S_ISREG(vn->type))
		v->filters.collect(v->filters.arg, vn->ino);
	if (!r && listed)
		vnode_put(v, vn); /* has a name, as all that is dirty: nothing is removed here */
}

static struct vnode *dirty_after(struct vfs *v, struct vnode *vn)
{
	pthread_mutex_lock(&v->dirty_lock);
	struct vnode *next = vn->dirty_next;
	pthread_mutex_unlock(&v->dirty_lock);
	return next == &v->dirty ? NULL : next;
}

/* For a flush of this file alone. */
static void collect_one(struct vfs *v, uint64_t ino)
{
	struct vnode_shard *sh = shard_of(v, ino);
	const uint64_t open_txg = store_txg(v->store);

	pthread_mutex_lock(&sh->lock);
	struct vnode *vn = shard_find(sh, ino);
	/* Link counts do not change while the gate is closed; of what has none no row counts. */
	if (vn && (vn->state != 0 || vn->attr.nlink == 0))
		vn = NULL;
	if (vn && vn->cloning)
		vn = NULL; /* the log does not have its content; file_flush() waits */
	if (vn && !vn->dirty && (vn->frozen_txg == 0 || vn->frozen_txg + 1 < open_txg))
		vn = NULL; /* the group that has its row is committed: at most one is under way */
	if (vn)
		vn->refs++;
	pthread_mutex_unlock(&sh->lock);
	if (!vn)
		return;
	vnode_collect(v, vn, 0);
	vnode_put(v, vn);
}

/*
 * One collector at a time: the gate is closed.  What is not collected stays where it is; the
 * list only grows at its end meanwhile (by reads, which touch atime outside the gate).
 */
void vfs_collect_rows(void *arg, uint64_t image)
{
	struct vfs *v = arg;

	if (image) {
		collect_one(v, image);
		return;
	}
	struct vnode *vn = dirty_after(v, &v->dirty);
	const uint64_t open_txg = vn ? store_txg(v->store) : 0;
	while (vn) {
		struct vnode *next = dirty_after(v, vn);
		vnode_collect(v, vn, open_txg);
		vn = next;
	}
}

void vfs_mark_state(struct vfs *v, uint64_t ino)
{
	struct vnode_shard *sh = shard_of(v, ino);

	if (v->read_only)
		return;
	pthread_mutex_lock(&sh->lock);
	struct vnode *vn = shard_find(sh, ino);
	if (vn)
		vn->refs++;
	pthread_mutex_unlock(&sh->lock);
	if (!vn)
		return; /* whose file is open is here */
	pthread_mutex_lock(&vn->lock);
	vnode_mark_dirty(v, vn);
	pthread_mutex_unlock(&vn->lock);
	vnode_put(v, vn);
}

/* --- attributes --- */

static uint64_t blocks_of(struct vfs *v, struct vnode *vn, bool *ret_rough)
{
	uint64_t chunks = 0;

	if (vnode_image_get(v, vn) < 0)
		return 0;
	const int r = store_allocated(vn->img, &chunks);
	if (r < 0)
		chunks = 0;
	*ret_rough = r > 0;
	vnode_image_put(vn);
	return chunks * (CHUNK_SIZE / 512);
}

uint32_t vnode_nlink(struct vnode *vn)
{
	pthread_mutex_lock(&vn->lock);
	const uint32_t nlink = vn->attr.nlink;
	pthread_mutex_unlock(&vn->lock);
	return nlink;
}

void vnode_attr(struct vfs *v, struct vnode *vn, struct vfs_attr *ret_attr)
{
	struct vfs_attr a = {0};

	pthread_mutex_lock(&vn->lock);
	a.inode = vn->attr;
	a.inode.size = vn->size;
	const bool used = vn->img || vn->size > 0 || vn->dirty;
	pthread_mutex_unlock(&vn->lock);
	if (S_ISREG(a.inode.mode) && used)
		a.blocks_512 = blocks_of(v, vn, &a.blocks_rough);
	*ret_attr = a;
}

void vnode_entry(struct vfs *v, struct vnode *vn, struct vfs_entry *ret_entry)
{
	struct vfs_entry e = {.ino = vn->ino};

	vnode_attr(v, vn, &e.attr);
	e.generation = e.attr.inode.generation;
	vnode_lookup_inc(v, vn);
	*ret_entry = e;
}

uint32_t vfs_mode_killed(uint32_t mode)
{
	mode &= ~(uint32_t)S_ISUID;
	if (mode & S_IXGRP)
		mode &= ~(uint32_t)S_ISGID;
	return mode;
}

void vnode_touch(struct vnode *vn, bool kill_suidgid)
{
	vn->attr.mtime = vn->attr.ctime = vfs_now();
	vn->atime_due_ns = 0;
	if (UNLIKELY(kill_suidgid))
		vn->attr.mode = vfs_mode_killed(vn->attr.mode);
}

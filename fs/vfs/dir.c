/*
 * dir.c - names: looking up, making, linking, removing, listing
 *
 * Changes hold vfs.tree from the first look at a name to the last row, so what was checked still
 * holds when it is changed; all that may read from disk comes before the gate.  Lookups take no
 * lock of their own: the kernel does not look a name up while it changes it, and a lookup that
 * comes otherwise sees the state before or after.
 *
 * Order of rows in a change that fails half way (out of memory, or the engine refuses rows): the
 * inode first, the name last; undone as far as possible.
 */
#include "fs/vfs/dir.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"

int name_check(const char *name)
{
	const size_t len = strlen(name);

	if (len > NS_NAME_MAX)
		return -ENAMETOOLONG;
	if (len == 0 || strchr(name, '/') || !strcmp(name, ".") || !strcmp(name, ".."))
		return -EINVAL;
	return 0;
}

/* A directory that still has its name; gives a reference. */
int dir_get(struct vfs *v, uint64_t ino, struct vnode **ret_dir)
{
	struct vnode *vn;
	const int r = vnode_get(v, ino, &vn);

	if (r < 0)
		return r;
	const bool is_dir = S_ISDIR(vn->type);
	if (!is_dir || vnode_nlink(vn) == 0) {
		vnode_put(v, vn);
		return is_dir ? -ENOENT : -ENOTDIR;
	}
	*ret_dir = vn;
	return 0;
}

int child_get(struct vfs *v, uint64_t dir, const char *name, struct vnode **ret_vn)
{
	uint64_t ino;
	uint32_t mode;
	int r = name_check(name);

	if (r < 0)
		return r;
	if (vfs_is_snapshot(dir))
		return snapview_lookup(v, dir, name, ret_vn);
	r = ns_name_get(v->ns, dir, name, &ino, &mode);
	if (r == -ENOENT)
		return snapview_top(v, dir, name, ret_vn);
	return r < 0 ? r : vnode_get(v, ino, ret_vn);
}

/* A changed directory: times now, links of subdirectories that came or went.  Inside the gate. */
int dir_touch(struct vfs *v, struct vnode *dir, int subdirs)
{
	int r = 0;

	pthread_mutex_lock(&dir->lock);
	vnode_touch(dir, false);
	dir->attr.nlink += (uint32_t)subdirs;
	if (subdirs) /* goes with the name, also into the log; times may come later */
		r = vnode_put_row(v, dir);
	if (r < 0)
		dir->attr.nlink -= (uint32_t)subdirs;
	else
		vnode_mark_dirty(v, dir);
	pthread_mutex_unlock(&dir->lock);
	return r;
}

/* One name less for vn (two for a directory: "." too).  Inside the gate. */
int link_drop(struct vfs *v, struct vnode *vn)
{
	int r;

	pthread_mutex_lock(&vn->lock);
	const uint32_t nlink = vn->attr.nlink;
	vn->attr.nlink = S_ISDIR(vn->type) ? 0 : nlink - 1;
	vn->attr.ctime = vfs_now();
	r = vn->attr.nlink ? vnode_put_row(v, vn) : vnode_unlinked(v, vn);
	if (r < 0)
		vn->attr.nlink = nlink;
	pthread_mutex_unlock(&vn->lock);
	return r;
}

/* Does it keep a name when it loses one, and may its size differ from what is durable? */
static bool link_needs_hold(struct vnode *vn)
{
	return S_ISREG(vn->type) && vnode_nlink(vn) > 1;
}

int link_hold(struct vfs *v, uint64_t dir, const char *name, struct link_hold *ret_hold)
{
	struct link_hold h = {0};
	int r = child_get(v, dir, name, &h.vn);

	if (r < 0 && r != -ENOENT)
		return r;
	if (h.vn && link_needs_hold(h.vn)) {
		r = vnode_size_hold(v, h.vn);
		if (r < 0) {
			vnode_put(v, h.vn);
			return r;
		}
		h.held = true;
	}
	*ret_hold = h;
	return 0;
}

bool link_held(struct link_hold *hold, struct vnode *vn)
{
	return vn == hold->vn && (hold->held || !vn || !link_needs_hold(vn));
}

void link_release(struct vfs *v, struct link_hold *hold)
{
	if (hold->held)
		vnode_size_release(hold->vn);
	if (hold->vn)
		vnode_put(v, hold->vn);
}

/* Takes back what link_drop did, when something after it failed. */
void link_restore(struct vfs *v, struct vnode *vn, uint32_t nlink)
{
	pthread_mutex_lock(&vn->lock);
	vn->attr.nlink = nlink;
	const int r = vnode_put_row(v, vn);
	vnode_mark_dirty(v, vn);
	pthread_mutex_unlock(&vn->lock);
	if (r < 0)
		log_error("inode %llu: link count cannot be restored: %s",
		        (unsigned long long)vn->ino, strerror(-r));
}

static uint64_t parent_of(struct vnode *dir)
{
	pthread_mutex_lock(&dir->lock);
	const uint64_t parent = dir->attr.parent;
	pthread_mutex_unlock(&dir->lock);
	return parent ? parent : dir->ino; /* the root is its own */
}

static int lookup_parent(struct vfs *v, uint64_t dir, struct vnode **ret_vn)
{
	struct vnode *vn;
	const int r = dir_get(v, dir, &vn);

	if (r < 0)
		return r;
	const uint64_t parent = parent_of(vn);
	const int got = vfs_is_snapshot(dir) ? snapview_parent(v, vn, ret_vn)
	                                     : vnode_get(v, parent, ret_vn);
	vnode_put(v, vn);
	return got;
}

int vfs_lookup(struct vfs *v, uint64_t dir, const char *name, struct vfs_entry *ret_entry)
{
	struct vnode *vn;
	int r;

	if (!strcmp(name, "."))
		r = vnode_get(v, dir, &vn);
	else if (!strcmp(name, ".."))
		r = lookup_parent(v, dir, &vn);
	else
		r = child_get(v, dir, name, &vn);
	if (r < 0)
		return r;
	vnode_entry(v, vn, ret_entry);
	vnode_put(v, vn);
	return 0;
}

int vfs_entry_get(struct vfs *v, uint64_t ino, struct vfs_entry *ret_entry)
{
	struct vnode *vn;
	const int r = vnode_get(v, ino, &vn);

	if (r < 0)
		return r;
	vnode_entry(v, vn, ret_entry);
	vnode_put(v, vn);
	return 0;
}

/* --- making --- */

/* The inode that a new name in dir is to have: a setgid directory hands its group down. */
static void inode_init(struct vfs *v, struct vnode *dir, const struct vfs_make *mk,
        const struct vfs_cred *cred, struct ns_inode *ret_inode)
{
	const struct timespec now = vfs_now();
	struct ns_inode n = {
	        .ino = ns_ino_alloc(v->ns),
	        .mode = mk->mode,
	        .uid = cred->uid,
	        .gid = cred->gid,
	        .nlink = 1,
	        .atime = now,
	        .mtime = now,
	        .ctime = now,
	        .btime = now,
	        .generation = 1, /* numbers are never used again */
	};

	pthread_mutex_lock(&dir->lock);
	if (dir->attr.mode & S_ISGID) {
		n.gid = dir->attr.gid;
		if (S_ISDIR(mk->mode))
			n.mode |= S_ISGID;
	}
	pthread_mutex_unlock(&dir->lock);
	if (S_ISDIR(mk->mode)) {
		n.nlink = 2;
		n.parent = dir->ino;
	} else if (S_ISLNK(mk->mode)) {
		n.size = strlen(mk->target);
	} else if (S_ISCHR(mk->mode) || S_ISBLK(mk->mode)) {
		n.rdev = mk->rdev;
	}
	*ret_inode = n;
}

/* Inside the gate. */
static int make_rows(struct vfs *v, struct vnode *dir, const char *name, const struct vfs_make *mk,
        const struct ns_inode *inode)
{
	int r = ns_inode_put(v->ns, inode);

	if (!r && S_ISLNK(mk->mode))
		r = ns_symlink_put(v->ns, inode->ino, mk->target);
	if (!r && v->filters.inherit && (S_ISREG(mk->mode) || S_ISDIR(mk->mode)))
		r = v->filters.inherit(v->filters.arg, dir->ino, inode->ino);
	if (!r)
		r = ns_name_put(v->ns, dir->ino, name, inode->ino, mk->mode & S_IFMT);
	if (!r) {
		r = dir_touch(v, dir, S_ISDIR(mk->mode) ? 1 : 0);
		if (r < 0 && ns_name_del(v->ns, dir->ino, name) < 0)
			log_error("'%s': a name without inode is left", name);
	}
	if (r < 0 && ns_inode_del(v->ns, inode->ino) < 0)
		log_error("inode %llu: left without a name", (unsigned long long)inode->ino);
	return r;
}

static int name_free(struct vfs *v, uint64_t dir, const char *name)
{
	uint64_t ino;
	uint32_t mode;
	const int r = ns_name_get(v->ns, dir, name, &ino, &mode);

	if (!r)
		return -EEXIST;
	return r == -ENOENT ? 0 : r;
}

static int make_locked(struct vfs *v, struct vnode *dir, const char *name,
        const struct vfs_make *mk, const struct vfs_cred *cred, struct vnode **ret_vn)
{
	struct ns_inode inode;
	struct vnode *vn;
	int r = name_free(v, dir->ino, name);

	if (r < 0)
		return r;
	inode_init(v, dir, mk, cred, &inode);
	r = vnode_add(v, &inode, &vn);
	if (r < 0)
		return r;
	if (v->filters.inherit_soon)
		v->filters.inherit_soon(v->filters.arg, dir->ino);
	store_enter(v->store);
	r = make_rows(v, dir, name, mk, &inode);
	store_leave(v->store);
	if (r < 0) {
		vn->state = r; /* nobody knew it; dropped without touching rows */
		vnode_put(v, vn);
		return r;
	}
	*ret_vn = vn;
	return 0;
}

static int make(struct vfs *v, uint64_t dir_ino, const char *name, const struct vfs_make *mk,
        const struct vfs_cred *cred, struct vnode **ret_vn)
{
	struct vnode *dir;
	int r = name_check(name);

	if (!r)
		r = snapview_refuse(v, dir_ino, name);
	if (!r)
		r = vfs_begin_rows(v, false);
	if (r < 0)
		return r;
	pthread_mutex_lock(&v->tree);
	r = dir_get(v, dir_ino, &dir);
	if (!r) {
		r = make_locked(v, dir, name, mk, cred, ret_vn);
		vnode_put(v, dir);
	}
	pthread_mutex_unlock(&v->tree);
	return r;
}

int vfs_mknod(struct vfs *v, uint64_t dir, const char *name, const struct vfs_make *mk,
        const struct vfs_cred *cred, struct vfs_entry *ret_entry)
{
	struct vnode *vn;

	if (S_ISLNK(mk->mode)) {
		const size_t len = strlen(mk->target);
		if (len == 0 || len >= 4096)
			return len ? -ENAMETOOLONG : -ENOENT;
	}
	const int r = make(v, dir, name, mk, cred, &vn);
	if (r < 0)
		return r;
	vnode_entry(v, vn, ret_entry);
	vnode_put(v, vn);
	return 0;
}

int vfs_create(struct vfs *v, uint64_t dir, const char *name, uint32_t mode,
        const struct vfs_cred *cred, struct vfs_entry *ret_entry, struct vnode **ret_file)
{
	const struct vfs_make mk = {.mode = (mode & ~(uint32_t)S_IFMT) | S_IFREG};
	struct vnode *vn;
	int r = make(v, dir, name, &mk, cred, &vn);

	if (r < 0)
		return r;
	r = vnode_open(v, vn);
	if (r < 0) {
		vnode_put(v, vn);
		/* It inherited a stack that does not open here, such as a locked key. */
		if (vfs_unlink(v, dir, name) < 0)
			log_warn("'%s' cannot be opened, and stays as an empty file", name);
		return r;
	}
	vnode_entry(v, vn, ret_entry);
	*ret_file = vn; /* and our reference with it */
	return 0;
}

/* --- linking and removing --- */

/* Inside the gate. */
static int link_rows(struct vfs *v, struct vnode *vn, struct vnode *dir, const char *name)
{
	pthread_mutex_lock(&vn->lock);
	const uint32_t nlink = vn->attr.nlink;
	vn->attr.nlink++;
	vn->attr.ctime = vfs_now();
	int r = vnode_put_row(v, vn);
	if (r < 0)
		vn->attr.nlink = nlink;
	pthread_mutex_unlock(&vn->lock);
	if (r < 0)
		return r;
	r = ns_name_put(v->ns, dir->ino, name, vn->ino, vn->type);
	if (!r)
		r = dir_touch(v, dir, 0);
	else
		link_restore(v, vn, nlink);
	return r;
}

static int link_locked(struct vfs *v, struct vnode *vn, struct vnode *dir, const char *name)
{
	int r = name_free(v, dir->ino, name);

	if (r < 0)
		return r;
	if (S_ISDIR(vn->type))
		return -EPERM;
	if (vn->attr.nlink == 0)
		return -ENOENT;
	if (vn->attr.nlink >= VFS_LINK_MAX)
		return -EMLINK;
	store_enter(v->store);
	r = link_rows(v, vn, dir, name);
	store_leave(v->store);
	return r;
}

int vfs_link(struct vfs *v, uint64_t ino, uint64_t dir_ino, const char *name,
        struct vfs_entry *ret_entry)
{
	struct vnode *vn, *dir;
	int r = name_check(name);

	if (!r)
		r = vfs_is_snapshot(ino) ? -EROFS : snapview_refuse(v, dir_ino, name);
	if (!r)
		r = vfs_begin_rows(v, false);
	if (!r)
		r = vnode_get(v, ino, &vn);
	if (r < 0)
		return r;
	r = vnode_size_hold(v, vn);
	if (r < 0) {
		vnode_put(v, vn);
		return r;
	}
	pthread_mutex_lock(&v->tree);
	r = dir_get(v, dir_ino, &dir);
	if (!r) {
		r = link_locked(v, vn, dir, name);
		vnode_put(v, dir);
	}
	pthread_mutex_unlock(&v->tree);
	vnode_size_release(vn);
	if (!r)
		vnode_entry(v, vn, ret_entry);
	vnode_put(v, vn);
	return r;
}

/* Inside the gate. */
static int remove_rows(struct vfs *v, struct vnode *dir, const char *name, struct vnode *vn)
{
	const uint32_t nlink = vn->attr.nlink;
	int r = ns_name_del(v->ns, dir->ino, name);

	if (r < 0)
		return r;
	r = link_drop(v, vn);
	if (r < 0) {
		if (ns_name_put(v->ns, dir->ino, name, vn->ino, vn->type) < 0)
			log_error("'%s': a name is lost", name);
		return r;
	}
	r = dir_touch(v, dir, S_ISDIR(vn->type) ? -1 : 0);
	if (r < 0) { /* memory ran out between two rows: all back */
		link_restore(v, vn, nlink);
		if (ns_name_put(v->ns, dir->ino, name, vn->ino, vn->type) < 0)
			log_error("'%s': a name is lost", name);
	}
	return r;
}

int removable(struct vfs *v, struct vnode *vn, bool want_dir)
{
	const bool is_dir = S_ISDIR(vn->type);
	bool empty = true;

	if (is_dir != want_dir)
		return is_dir ? -EISDIR : -ENOTDIR;
	const int r = is_dir ? ns_dir_empty(v->ns, vn->ino, &empty) : 0;
	if (r < 0)
		return r;
	return empty ? 0 : -ENOTEMPTY;
}

int may_remove(struct vfs *v, struct vnode *vn)
{
	if (!v->filters.may_remove || !S_ISREG(vn->type) || vnode_nlink(vn) > 1)
		return 0;
	return v->filters.may_remove(v->filters.arg, vn->ino);
}

static int remove_locked(struct vfs *v, struct vnode *dir, const char *name, bool want_dir,
        struct link_hold *hold, struct vnode **ret_vn)
{
	struct vnode *vn;
	int r = child_get(v, dir->ino, name, &vn);

	if (r < 0)
		return r;
	r = link_held(hold, vn) ? removable(v, vn, want_dir) : -EAGAIN;
	if (!r)
		r = may_remove(v, vn);
	if (!r) {
		store_enter(v->store);
		r = remove_rows(v, dir, name, vn);
		store_leave(v->store);
	}
	*ret_vn = vn; /* to be put when the tree is open again: that may remove a big file */
	return r;
}

static int remove_try(struct vfs *v, uint64_t dir_ino, const char *name, bool want_dir)
{
	struct vnode *dir, *vn = NULL;
	struct link_hold hold;
	int r = link_hold(v, dir_ino, name, &hold);

	if (r < 0)
		return r;
	pthread_mutex_lock(&v->tree);
	r = dir_get(v, dir_ino, &dir);
	if (!r) {
		r = remove_locked(v, dir, name, want_dir, &hold, &vn);
		vnode_put(v, dir);
	}
	pthread_mutex_unlock(&v->tree);
	link_release(v, &hold);
	if (vn)
		vnode_put(v, vn);
	return r;
}

static int remove_name(struct vfs *v, uint64_t dir, const char *name, bool want_dir)
{
	int r = name_check(name);

	if (!r)
		r = snapview_refuse(v, dir, name);
	if (!r)
		r = vfs_begin_rows(v, true);
	if (r < 0)
		return r;
	r = -EAGAIN;
	for (unsigned i = 0; i < HOLD_TRIES && r == -EAGAIN; i++)
		r = remove_try(v, dir, name, want_dir);
	return r;
}

int vfs_unlink(struct vfs *v, uint64_t dir, const char *name)
{
	return remove_name(v, dir, name, false);
}

int vfs_rmdir(struct vfs *v, uint64_t dir, const char *name)
{
	return remove_name(v, dir, name, true);
}

int vfs_readlink(struct vfs *v, uint64_t ino, char *buf, size_t cap)
{
	struct vnode *vn;
	int r = vnode_get(v, ino, &vn);

	if (r < 0)
		return r;
	r = S_ISLNK(vn->type) ? ns_symlink_get(v->ns, ino, buf, cap) : -EINVAL;
	vnode_put(v, vn);
	return r;
}

int vfs_fsyncdir(struct vfs *v)
{
	return v->read_only ? 0 : store_flush(v->store, NULL);
}

/* --- listing --- */

/*
 * Names are copied out in batches, since fn may come back with calls that look rows up.
 * An offset is a row's cookie, moved up to leave room for "." and "..".
 */
enum { OFF_DOT = 1, OFF_DOTDOT = 2 };

struct dir_batch {
	char *buf; /* owned: {struct vfs_dirent, name} one after the other, aligned */
	size_t len, cap;
};

static size_t dirent_size(const char *name)
{
	return ROUND_UP(sizeof(struct vfs_dirent) + strlen(name) + 1, sizeof(uint64_t));
}

static int batch_add(void *arg, const char *name, uint64_t ino, uint32_t mode, uint64_t cookie)
{
	struct dir_batch *b = arg;
	const size_t size = dirent_size(name);

	if (b->len + size > b->cap)
		return 1;
	struct vfs_dirent *ent = (struct vfs_dirent *)(b->buf + b->len);
	char *copy = (char *)(ent + 1);
	memcpy(copy, name, strlen(name) + 1);
	*ent = (struct vfs_dirent){
	        .name = copy, .ino = ino, .mode = mode, .off = cookie + OFF_DOTDOT};
	b->len += size;
	return 0;
}

static int batch_emit(const struct dir_batch *b, vfs_dirent_fn *fn, void *arg)
{
	for (size_t pos = 0; pos < b->len;) {
		const struct vfs_dirent *ent = (const struct vfs_dirent *)(b->buf + pos);
		if (fn(arg, ent))
			return 1;
		pos += dirent_size(ent->name);
	}
	return 0;
}

static int emit_dots(struct vnode *dir, uint64_t off, vfs_dirent_fn *fn, void *arg)
{
	const struct vfs_dirent dot = {".", dir->ino, S_IFDIR, OFF_DOT};
	const struct vfs_dirent dotdot = {"..", parent_of(dir), S_IFDIR, OFF_DOTDOT};

	if (off < OFF_DOT && fn(arg, &dot))
		return 1;
	return off < OFF_DOTDOT && fn(arg, &dotdot);
}

static int read_names(struct vfs *v, struct vnode *dir, uint64_t off, size_t bytes_max,
        vfs_dirent_fn *fn, void *arg)
{
	/* Never less than one entry, so that a listing always gets on. */
	struct dir_batch b = {.cap = MAX(bytes_max, sizeof(struct vfs_dirent) + NS_NAME_MAX + 9)};

	if (off < OFF_DOTDOT && emit_dots(dir, off, fn, arg))
		return 0;
	if (vfs_is_snapshot(dir->ino))
		return snapview_readdir(v, dir, off, fn, arg);
	b.buf = malloc(b.cap);
	if (!b.buf)
		return -ENOMEM;
	const uint64_t cookie = off < OFF_DOTDOT ? 0 : off - OFF_DOTDOT;
	const int r = ns_name_each(v->ns, dir->ino, cookie, batch_add, &b);
	if (r >= 0)
		batch_emit(&b, fn, arg);
	free(b.buf);
	return MIN(r, 0);
}

int vfs_readdir(struct vfs *v, uint64_t dir_ino, uint64_t off, size_t bytes_max, vfs_dirent_fn *fn,
        void *arg)
{
	struct vnode *dir;
	int r = vnode_get(v, dir_ino, &dir);

	if (r < 0)
		return r;
	r = S_ISDIR(dir->type) ? 0 : -ENOTDIR;
	/* A directory that is removed but open has nothing in it, not even dots. */
	if (!r && vnode_nlink(dir) > 0)
		r = read_names(v, dir, off, bytes_max, fn, arg);
	vnode_put(v, dir);
	return r;
}

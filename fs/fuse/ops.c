/*
 * ops.c - FUSE requests into calls of the vfs, results into replies
 *
 * Each function decodes, calls, replies; no state is kept here.  A request's thread is one of the
 * pool's.  What passes a file's filter stages is in io.c, since its replies may come later, from other threads.  What the kernel does for us, and so is not here: permission checks
 * (default_permissions), flock and POSIX locks (its local locking is right: all users of the mount
 * are on this host), O_APPEND (it knows the size), umask, and checking that a directory is not
 * moved below itself.  Operations that are missing from the table answer ENOSYS, after which the
 * kernel does not ask again: flush (errors come with write and fsync) and access.
 *
 * Since only this kernel changes the file system, names and attributes are cached for long, page
 * cache survives close and open, and directory listings are cached; the kernel drops what its own
 * operations change.
 */
#include "fs/fuse/ops.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/fuse/io.h"
#include "fs/vfs/snapview.h"

void reply_err(fuse_req_t req, int r)
{
	if (r == -EIO)
		vfs_note_io_error(vfs_of(req));
	fuse_reply_err(req, -r);
}

/* --- results --- */

static void stat_fill(const struct vfs_attr *a, struct stat *st)
{
	const struct ns_inode *n = &a->inode;

	*st = (struct stat){
	        .st_ino = n->ino,
	        .st_mode = n->mode,
	        .st_nlink = n->nlink,
	        .st_uid = n->uid,
	        .st_gid = n->gid,
	        .st_rdev = n->rdev,
	        .st_size = (off_t)n->size,
	        .st_blocks = (blkcnt_t)a->blocks_512,
	        .st_blksize = CHUNK_SIZE,
	        .st_atim = n->atime,
	        .st_mtim = n->mtime,
	        .st_ctim = n->ctime,
	};
}

/* Names of snapshots come and go without the kernel's doing. */
static double timeout_of(uint64_t ino)
{
	return vfs_is_snapshot(ino) ? 0 : CACHE_SECONDS;
}

/* What is not exact is asked for again. */
static double attr_timeout_of(const struct vfs_attr *a)
{
	return a->blocks_rough ? 0 : timeout_of(a->inode.ino);
}

static void entry_fill(const struct vfs_entry *e, struct fuse_entry_param *p)
{
	*p = (struct fuse_entry_param){
	        .ino = e->ino,
	        .generation = e->generation,
	        .attr_timeout = attr_timeout_of(&e->attr),
	        .entry_timeout = timeout_of(e->ino),
	};
	stat_fill(&e->attr, &p->attr);
}

void reply_attr(fuse_req_t req, int r, const struct vfs_attr *a)
{
	struct stat st;

	if (r < 0) {
		reply_err(req, r);
		return;
	}
	stat_fill(a, &st);
	fuse_reply_attr(req, &st, attr_timeout_of(a));
}

static void reply_entry(fuse_req_t req, int r, const struct vfs_entry *e)
{
	struct vfs *v = vfs_of(req); /* req is gone after the reply */
	struct fuse_entry_param p = {.entry_timeout = CACHE_SECONDS};

	if (r < 0) {
		reply_err(req, r);
		return;
	}
	entry_fill(e, &p);
	if (fuse_reply_entry(req, &p) < 0)
		vfs_forget(v, e->ino, 1); /* the caller was interrupted and never got it */
}

static struct vfs_cred cred_of(fuse_req_t req)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(req);

	return (struct vfs_cred){.uid = ctx->uid, .gid = ctx->gid};
}

/* --- names --- */

static bool is_dots(const char *name)
{
	return !strcmp(name, ".") || !strcmp(name, "..");
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct vfs_entry e;
	const int r = vfs_lookup(vfs_of(req), parent, name, &e);
	const struct fuse_entry_param none = {.entry_timeout = timeout_of(parent)};

	if (r == -ENOENT && !is_dots(name)) /* "." of a number that is gone must fail */
		fuse_reply_entry(req, &none);
	else
		reply_entry(req, r, &e);
}

static void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t nlookup)
{
	vfs_forget(vfs_of(req), ino, nlookup);
	fuse_reply_none(req);
}

static void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
	for (size_t i = 0; i < count; i++)
		vfs_forget(vfs_of(req), forgets[i].ino, forgets[i].nlookup);
	fuse_reply_none(req);
}

static void make(fuse_req_t req, fuse_ino_t parent, const char *name, const struct vfs_make *mk)
{
	const struct vfs_cred cred = cred_of(req);
	struct vfs_entry e;
	const int r = vfs_mknod(vfs_of(req), parent, name, mk, &cred, &e);

	reply_entry(req, r, &e);
}

static void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
	make(req, parent, name, &(struct vfs_make){.mode = mode, .rdev = rdev});
}

static void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	make(req, parent, name, &(struct vfs_make){.mode = S_IFDIR | (mode & 07777)});
}

static void op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
	make(req, parent, name, &(struct vfs_make){.mode = S_IFLNK | 0777, .target = target});
}

static void op_readlink(fuse_req_t req, fuse_ino_t ino)
{
	char target[4096];
	const int r = vfs_readlink(vfs_of(req), ino, target, sizeof(target));

	if (r < 0)
		reply_err(req, r);
	else
		fuse_reply_readlink(req, target);
}

static void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	reply_err(req, vfs_unlink(vfs_of(req), parent, name));
}

static void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	reply_err(req, vfs_rmdir(vfs_of(req), parent, name));
}

static void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t to_parent,
        const char *to_name, unsigned flags)
{
	reply_err(req, vfs_rename(vfs_of(req), parent, name, to_parent, to_name, flags));
}

static void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t to_parent, const char *to_name)
{
	struct vfs_entry e;
	const int r = vfs_link(vfs_of(req), ino, to_parent, to_name, &e);

	reply_entry(req, r, &e);
}

/* --- directories --- */

static void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	fi->cache_readdir = !vfs_is_snapshot(ino);
	fi->keep_cache = !vfs_is_snapshot(ino);
	fuse_reply_open(req, fi);
}

struct listing {
	fuse_req_t req;
	struct vfs *vfs;
	char *buf; /* owned */
	size_t len, cap;
};

static int list_plain(void *arg, const struct vfs_dirent *ent)
{
	struct listing *l = arg;
	const struct stat st = {.st_ino = ent->ino, .st_mode = ent->mode};
	const size_t room = l->cap - l->len;
	const size_t n =
	        fuse_add_direntry(l->req, l->buf + l->len, room, ent->name, &st, (off_t)ent->off);

	if (n > room)
		return 1;
	l->len += n;
	return 0;
}

static int list_plus(void *arg, const struct vfs_dirent *ent)
{
	struct listing *l = arg;
	struct fuse_entry_param p = {.attr = {.st_ino = ent->ino, .st_mode = ent->mode}};
	const size_t room = l->cap - l->len;
	struct vfs_entry e;

	/* Asked for without buffer: how much it takes, before a lookup is counted. */
	if (fuse_add_direntry_plus(l->req, NULL, 0, ent->name, &p, 0) > room)
		return 1;
	if (!is_dots(ent->name) && vfs_entry_get(l->vfs, ent->ino, &e) == 0)
		entry_fill(&e, &p); /* else the name alone: removed just now, or damaged */
	l->len += fuse_add_direntry_plus(
	        l->req, l->buf + l->len, room, ent->name, &p, (off_t)ent->off);
	return 0;
}

static void list(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, bool plus)
{
	struct listing l = {.req = req, .vfs = vfs_of(req), .cap = size};

	l.buf = malloc(size);
	if (!l.buf) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	const int r =
	        vfs_readdir(l.vfs, ino, (uint64_t)off, size, plus ? list_plus : list_plain, &l);
	if (r < 0 && l.len == 0)
		reply_err(req, r);
	else
		fuse_reply_buf(req, l.buf, l.len);
	free(l.buf);
}

static void op_readdir(
        fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	list(req, ino, size, off, false);
}

static void op_readdirplus(
        fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	list(req, ino, size, off, true);
}

static void op_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	fuse_reply_err(req, 0);
}

static void op_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	reply_err(req, vfs_fsyncdir(vfs_of(req)));
}

/* --- attributes --- */

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct vfs_attr a;
	const int r = vfs_getattr(vfs_of(req), ino, &a);

	reply_attr(req, r, &a);
}

static void op_statfs(fuse_req_t req, fuse_ino_t ino)
{
	struct statvfs st;
	const int r = vfs_statfs(vfs_of(req), &st);

	if (r < 0)
		reply_err(req, r);
	else
		fuse_reply_statfs(req, &st);
}

static void op_setxattr(
        fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size, int flags)
{
	reply_err(req, vfs_setxattr(vfs_of(req), ino, name, value, size, flags));
}

static void reply_xattr(fuse_req_t req, int r, const char *buf, size_t cap, size_t len)
{
	if (r < 0)
		reply_err(req, r);
	else if (cap == 0)
		fuse_reply_xattr(req, len);
	else
		fuse_reply_buf(req, buf, len);
}

static void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	const size_t cap = MIN(size, XATTR_SIZE_MAX_BYTES);
	CLEANUP(free_ptr) char *buf = cap ? malloc(cap) : NULL;
	size_t len = 0;
	const int r = cap && !buf ? -ENOMEM : vfs_getxattr(vfs_of(req), ino, name, buf, cap, &len);

	reply_xattr(req, r, buf, cap, len);
}

static void op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
	const size_t cap = MIN(size, XATTR_SIZE_MAX_BYTES);
	const bool privileged = fuse_req_ctx(req)->uid == 0;
	CLEANUP(free_ptr) char *buf = cap ? malloc(cap) : NULL;
	size_t len = 0;
	const int r =
	        cap && !buf ? -ENOMEM : vfs_listxattr(vfs_of(req), ino, privileged, buf, cap, &len);

	reply_xattr(req, r, buf, cap, len);
}

static void op_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
	reply_err(req, vfs_removexattr(vfs_of(req), ino, name));
}

/* --- open files --- */

static void file_info_fill(struct fuse_file_info *fi, struct vnode *file)
{
	fi->fh = (uintptr_t)file;
	fi->keep_cache = 1;
	fi->noflush = 1;
}

static void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct vfs *v = vfs_of(req);
	struct vnode *file;
	int r = 0;

	/* What else is refused by mode bits the kernel lets root do. */
	if (vfs_is_snapshot(ino) && (fi->flags & O_ACCMODE) != O_RDONLY)
		r = -EROFS;
	if (!r)
		r = vfs_open(v, ino, &file);
	if (r < 0) { /* not reply_err: that a filter is missing is no fault of the backing */
		fuse_reply_err(req, -r);
		return;
	}
	file_info_fill(fi, file);
	if (fuse_reply_open(req, fi) < 0)
		vfs_release(v, file);
}

static void op_create(
        fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi)
{
	struct vfs *v = vfs_of(req);
	const struct vfs_cred cred = cred_of(req);
	struct fuse_entry_param p;
	struct vfs_entry e;
	struct vnode *file;
	const int r = vfs_create(v, parent, name, mode, &cred, &e, &file);

	if (r < 0) {
		reply_err(req, r);
		return;
	}
	file_info_fill(fi, file);
	entry_fill(&e, &p);
	if (fuse_reply_create(req, &p, fi) < 0) {
		vfs_release(v, file);
		vfs_forget(v, e.ino, 1);
	}
}

static void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	vfs_release(vfs_of(req), file_of(fi));
	fuse_reply_err(req, 0);
}

/* --- the handshake --- */

static void op_init(void *userdata, struct fuse_conn_info *conn)
{
	const unsigned want = FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO | FUSE_CAP_PARALLEL_DIROPS |
	                      FUSE_CAP_READDIRPLUS | FUSE_CAP_READDIRPLUS_AUTO |
	                      FUSE_CAP_CACHE_SYMLINKS | FUSE_CAP_EXPORT_SUPPORT;
	/*
	 * Splicing costs a pipe and two calls where one copy is cheaper.  Truncation at open and
	 * at write come as requests of their own; data in the page cache is never stale.
	 */
	const unsigned avoid = FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE |
	                       FUSE_CAP_ATOMIC_O_TRUNC | FUSE_CAP_AUTO_INVAL_DATA |
	                       FUSE_CAP_HANDLE_KILLPRIV | FUSE_CAP_WRITEBACK_CACHE |
	                       FUSE_CAP_POSIX_ACL;

	conn->want |= conn->capable & want;
	conn->want &= ~avoid;
	conn->max_write = READ_MAX;
	conn->max_background = 128;
	conn->congestion_threshold = 96;
	conn->time_gran = 1;
}

const struct fuse_lowlevel_ops front_ops = {
        .init = op_init,
        .lookup = op_lookup,
        .forget = op_forget,
        .forget_multi = op_forget_multi,
        .getattr = op_getattr,
        .setattr = io_setattr,
        .readlink = op_readlink,
        .mknod = op_mknod,
        .mkdir = op_mkdir,
        .unlink = op_unlink,
        .rmdir = op_rmdir,
        .symlink = op_symlink,
        .rename = op_rename,
        .link = op_link,
        .open = op_open,
        .read = io_read,
        .write = io_write,
        .release = op_release,
        .fsync = io_fsync,
        .opendir = op_opendir,
        .readdir = op_readdir,
        .readdirplus = op_readdirplus,
        .releasedir = op_releasedir,
        .fsyncdir = op_fsyncdir,
        .statfs = op_statfs,
        .setxattr = op_setxattr,
        .getxattr = op_getxattr,
        .listxattr = op_listxattr,
        .removexattr = op_removexattr,
        .create = op_create,
        .fallocate = io_fallocate,
        .copy_file_range = io_copy_file_range,
        .lseek = io_lseek,
};

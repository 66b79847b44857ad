/*
 * passthrough.c - the yardstick: a FUSE filesystem that only forwards to files below it
 *
 * One flat directory of regular files, served through libfuse's low-level API with the settings
 * that measured best (tests/bench/README.md has the numbers): many threads with a cloned /dev/fuse
 * each, requests of 1 MiB, a deep background queue, attributes cached for a day, page cache kept
 * over open().  It does no work of its own, so what it reaches is what FUSE itself allows on this
 * machine, and what weir is compared with.  Nothing here is shared with weir.
 *
 * The backing files are opened buffered (their page cache plays the part of weir's cache) or, with
 * --direct, with O_DIRECT (the medium does the work).  --splice chooses for reads and writes
 * whether data moves by splice or by pread/pwrite through a buffer of the serving thread.
 *
 * Threads: every operation may run on any of libfuse's threads.  The table of inodes is the only
 * shared state and has one lock; a node is never freed before the session ends, so a pointer to it
 * stays good and needs no count.
 */
#define FUSE_USE_VERSION 312

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <limits.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define TIMEOUT_S      86400.0
#define IO_BYTES_MAX   (1u << 20)
#define NODES_MAX      1024
#define DIRECT_ALIGN   4096
#define BACKGROUND_MAX 256

struct node {
	char name[NAME_MAX + 1];
	fuse_ino_t ino; /* 2 + its place in the table; 1 is the directory */
};

static struct passthrough {
	int dir_fd;
	int direct;
	int splice_read, splice_write;
	unsigned threads;
	pthread_mutex_t lock; /* guards nodes, n_nodes */
	struct node *nodes[NODES_MAX];
	size_t n_nodes;
} pt = {.lock = PTHREAD_MUTEX_INITIALIZER, .threads = 8};

/* A thread's own buffer, aligned for O_DIRECT; lives as long as the thread does. */
static char *thread_buffer(void)
{
	static __thread char *buf;

	if (!buf && posix_memalign((void **)&buf, DIRECT_ALIGN, IO_BYTES_MAX + DIRECT_ALIGN) != 0)
		buf = NULL;
	return buf;
}

static const char *node_name(fuse_ino_t ino)
{
	return ino == FUSE_ROOT_ID ? "." : pt.nodes[ino - 2]->name;
}

/* The node of that name, made when there is none; 0 when the table is full. */
static fuse_ino_t node_get(const char *name)
{
	fuse_ino_t ino = 0;

	pthread_mutex_lock(&pt.lock);
	for (size_t i = 0; i < pt.n_nodes && !ino; i++)
		if (strcmp(pt.nodes[i]->name, name) == 0)
			ino = pt.nodes[i]->ino;
	if (!ino && pt.n_nodes < NODES_MAX) {
		struct node *n = calloc(1, sizeof(*n));
		if (n) {
			snprintf(n->name, sizeof(n->name), "%s", name);
			ino = n->ino = pt.n_nodes + 2;
			pt.nodes[pt.n_nodes++] = n;
		}
	}
	pthread_mutex_unlock(&pt.lock);
	return ino;
}

static int entry_fill(const char *name, struct fuse_entry_param *e)
{
	memset(e, 0, sizeof(*e));
	if (fstatat(pt.dir_fd, name, &e->attr, AT_SYMLINK_NOFOLLOW) < 0)
		return errno;
	if (!S_ISREG(e->attr.st_mode))
		return EPERM;
	e->ino = node_get(name);
	e->attr.st_ino = e->ino;
	e->attr_timeout = e->entry_timeout = TIMEOUT_S;
	return e->ino ? 0 : ENOSPC;
}

static void pt_init(void *userdata, struct fuse_conn_info *conn)
{
	conn->max_write = IO_BYTES_MAX;
	conn->max_background = BACKGROUND_MAX;
	conn->congestion_threshold = BACKGROUND_MAX;
	const unsigned splice = FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE;
	conn->want &= ~splice;
	if (pt.splice_read)
		conn->want |= conn->capable & (FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE);
	if (pt.splice_write)
		conn->want |= conn->capable & FUSE_CAP_SPLICE_READ;
}

static void pt_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param e;
	const int r = entry_fill(name, &e);

	if (r)
		fuse_reply_err(req, r);
	else
		fuse_reply_entry(req, &e);
}

static void pt_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct stat st;
	const int r = fi ? fstat((int)fi->fh, &st)
	                 : fstatat(pt.dir_fd, node_name(ino), &st, AT_SYMLINK_NOFOLLOW);

	if (r < 0) {
		fuse_reply_err(req, errno);
		return;
	}
	st.st_ino = ino;
	fuse_reply_attr(req, &st, TIMEOUT_S);
}

/* Only the size can be set: it is all that a load needs. */
static void pt_setattr(
        fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set, struct fuse_file_info *fi)
{
	if (to_set & FUSE_SET_ATTR_SIZE) {
		const int fd = fi ? (int)fi->fh : openat(pt.dir_fd, node_name(ino), O_WRONLY);
		const int r = fd < 0 || ftruncate(fd, attr->st_size) < 0 ? errno : 0;
		if (!fi && fd >= 0)
			close(fd);
		if (r) {
			fuse_reply_err(req, r);
			return;
		}
	}
	pt_getattr(req, ino, fi);
}

/* O_DIRECT is this program's choice, never the client's: that is what sets the two modes apart. */
static int backing_open(const char *name, int flags, mode_t mode, struct fuse_file_info *fi)
{
	flags &= ~(O_DIRECT | O_NOFOLLOW | O_EXCL | O_APPEND | O_ACCMODE);
	/* A cached file may be read by the kernel although it was opened for writing only. */
	flags |= (fi->flags & O_ACCMODE) == O_RDONLY ? O_RDONLY : O_RDWR;
	const int fd =
	        openat(pt.dir_fd, name, flags | (pt.direct ? O_DIRECT : 0) | O_CLOEXEC, mode);
	if (fd < 0)
		return errno;
	fi->fh = (uint64_t)fd;
	fi->keep_cache = 1;
	return 0;
}

static void pt_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	const int r = backing_open(node_name(ino), fi->flags, 0, fi);

	if (r)
		fuse_reply_err(req, r);
	else
		fuse_reply_open(req, fi);
}

static void pt_create(
        fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi)
{
	struct fuse_entry_param e;
	int r = backing_open(name, fi->flags | O_CREAT, mode, fi);

	if (!r) {
		r = entry_fill(name, &e);
		if (r)
			close((int)fi->fh);
	}
	if (r)
		fuse_reply_err(req, r);
	else
		fuse_reply_create(req, &e, fi);
}

static void pt_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	close((int)fi->fh);
	fuse_reply_err(req, 0);
}

static void pt_read(
        fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	if (pt.splice_read) {
		struct fuse_bufvec bv = FUSE_BUFVEC_INIT(size);
		bv.buf[0].flags = FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK;
		bv.buf[0].fd = (int)fi->fh;
		bv.buf[0].pos = off;
		fuse_reply_data(req, &bv, FUSE_BUF_SPLICE_MOVE);
		return;
	}
	char *buf = thread_buffer();
	const ssize_t n = !buf || size > IO_BYTES_MAX ? -1 : pread((int)fi->fh, buf, size, off);
	if (n < 0)
		fuse_reply_err(req, buf ? errno : ENOMEM);
	else
		fuse_reply_buf(req, buf, (size_t)n);
}

/* Writes from a buffer as libfuse hands it out, which O_DIRECT needs moved to an aligned place. */
static ssize_t write_aligned(int fd, const char *data, size_t size, off_t off)
{
	if (pt.direct && (uintptr_t)data % DIRECT_ALIGN) {
		char *buf = thread_buffer();
		if (!buf || size > IO_BYTES_MAX) {
			errno = ENOMEM;
			return -1;
		}
		data = memcpy(buf, data, size);
	}
	return pwrite(fd, data, size, off);
}

static void pt_write_buf(fuse_req_t req, fuse_ino_t ino, struct fuse_bufvec *in, off_t off,
        struct fuse_file_info *fi)
{
	const size_t size = fuse_buf_size(in);
	ssize_t n;

	if (in->count == 1 && !(in->buf[0].flags & FUSE_BUF_IS_FD)) {
		n = write_aligned((int)fi->fh, in->buf[0].mem, size, off);
		if (n < 0)
			n = -errno;
	} else {
		struct fuse_bufvec out = FUSE_BUFVEC_INIT(size);
		out.buf[0].flags = FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK;
		out.buf[0].fd = (int)fi->fh;
		out.buf[0].pos = off;
		n = fuse_buf_copy(&out, in, 0);
	}
	if (n < 0)
		fuse_reply_err(req, (int)-n);
	else
		fuse_reply_write(req, (size_t)n);
}

static void pt_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	fuse_reply_err(req, 0);
}

static void pt_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	const int r = datasync ? fdatasync((int)fi->fh) : fsync((int)fi->fh);

	fuse_reply_err(req, r < 0 ? errno : 0);
}

static void pt_fallocate(
        fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len, struct fuse_file_info *fi)
{
	fuse_reply_err(req, fallocate((int)fi->fh, mode, off, len) < 0 ? errno : 0);
}

static void pt_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	fuse_reply_err(req, unlinkat(pt.dir_fd, name, 0) < 0 ? errno : 0);
}

static void pt_statfs(fuse_req_t req, fuse_ino_t ino)
{
	struct statvfs st;

	if (fstatvfs(pt.dir_fd, &st) < 0)
		fuse_reply_err(req, errno);
	else
		fuse_reply_statfs(req, &st);
}

static const struct fuse_lowlevel_ops pt_ops = {
        .init = pt_init,
        .lookup = pt_lookup,
        .getattr = pt_getattr,
        .setattr = pt_setattr,
        .open = pt_open,
        .create = pt_create,
        .release = pt_release,
        .read = pt_read,
        .write_buf = pt_write_buf,
        .flush = pt_flush,
        .fsync = pt_fsync,
        .fallocate = pt_fallocate,
        .unlink = pt_unlink,
        .statfs = pt_statfs,
};

/* Serves until the file system is unmounted; the process's exit status. */
static int serve(struct fuse_args *args, const char *mountpoint)
{
	int ret = 1;
	struct fuse_session *se = fuse_session_new(args, &pt_ops, sizeof(pt_ops), NULL);
	if (!se)
		return 1;
	struct fuse_loop_config *config = fuse_loop_cfg_create();
	if (!config)
		goto out_session;
	fuse_loop_cfg_set_clone_fd(config, 1);
	fuse_loop_cfg_set_max_threads(config, pt.threads);
	fuse_loop_cfg_set_idle_threads(config, pt.threads);
	if (fuse_set_signal_handlers(se) < 0)
		goto out_config;
	if (fuse_session_mount(se, mountpoint) == 0) {
		ret = fuse_session_loop_mt(se, config) < 0;
		fuse_session_unmount(se);
	}
	fuse_remove_signal_handlers(se);
out_config:
	fuse_loop_cfg_destroy(config);
out_session:
	fuse_session_destroy(se);
	return ret;
}

/* A day's work is one directory, its mount point, and four choices. */
static int usage(void)
{
	fprintf(stderr, "usage: passthrough [--direct] [--splice-read] [--splice-write] "
	                "[--threads=N] DIR MOUNTPOINT\n");
	return 2;
}

static const struct fuse_opt pt_options[] = {
        {"--direct", offsetof(struct passthrough, direct), 1},
        {"--splice-read", offsetof(struct passthrough, splice_read), 1},
        {"--splice-write", offsetof(struct passthrough, splice_write), 1},
        {"--threads=%u", offsetof(struct passthrough, threads), 0},
        FUSE_OPT_END,
};

int main(int argc, char **argv)
{
	if (argc < 3)
		return usage();
	const char *dir = argv[argc - 2], *mountpoint = argv[argc - 1];
	struct fuse_args args = FUSE_ARGS_INIT(argc - 2, argv);
	if (fuse_opt_parse(&args, &pt, pt_options, NULL) < 0)
		return usage();
	fuse_opt_add_arg(&args, "-ofsname=passthrough");
	pt.dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (pt.dir_fd < 0) {
		perror(dir);
		return 1;
	}
	const int ret = serve(&args, mountpoint);
	for (size_t i = 0; i < pt.n_nodes; i++)
		free(pt.nodes[i]);
	close(pt.dir_fd);
	fuse_opt_free_args(&args);
	return ret;
}

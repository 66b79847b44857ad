/*
 * io-posix.c - backing I/O on a directory of this host
 *
 * All names are resolved from one directory descriptor with openat(), so the datastore keeps
 * working when something is mounted over its path.  IO_DIRECT falls back to buffered I/O where the
 * medium has no O_DIRECT.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/io.h"

struct posix_io {
	struct io base;
	int dir_fd;
};

struct posix_file {
	struct io_file base;
	int fd;
};

static struct posix_io *posix_of(struct io *io)
{
	return CONTAINER_OF(io, struct posix_io, base);
}

static int fd_of(struct io_file *f)
{
	return CONTAINER_OF(f, struct posix_file, base)->fd;
}

static int posix_open(struct io *io, const char *name, unsigned flags, struct io_file **ret_file)
{
	int how = O_CLOEXEC | (flags & IO_WRITE ? O_RDWR : O_RDONLY);

	how |= flags & IO_CREATE ? O_CREAT : 0;
	how |= flags & IO_EXCL ? O_EXCL : 0;
	how |= flags & IO_TRUNC ? O_TRUNC : 0;
	struct posix_file *f = malloc(sizeof(*f));
	if (!f)
		return -ENOMEM;
	const int direct = flags & IO_DIRECT ? O_DIRECT : 0;
	f->base.io = io;
	f->fd = openat(posix_of(io)->dir_fd, name, how | direct, 0600);
	if (f->fd < 0 && errno == EINVAL && direct) /* O_CREAT may have made it: no O_EXCL now */
		f->fd = openat(posix_of(io)->dir_fd, name, how & ~O_EXCL, 0600);
	if (f->fd < 0) {
		const int r = -errno;
		free(f);
		return r;
	}
	*ret_file = &f->base;
	return 0;
}

static void posix_close(struct io_file *f)
{
	close(fd_of(f));
	free(CONTAINER_OF(f, struct posix_file, base));
}

static int posix_pread(struct io_file *f, void *buf, size_t len, uint64_t off, size_t *ret_n)
{
	ssize_t n;

	do
		n = pread(fd_of(f), buf, len, (off_t)off);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	*ret_n = (size_t)n;
	return 0;
}

static int posix_pwritev(
        struct io_file *f, const struct iovec *iov, int n_iov, uint64_t off, size_t *ret_n)
{
	ssize_t n;

	do
		n = pwritev(fd_of(f), iov, n_iov, (off_t)off);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	*ret_n = (size_t)n;
	return 0;
}

static int posix_sync(struct io_file *f)
{
	return fdatasync(fd_of(f)) < 0 ? -errno : 0;
}

static int posix_truncate(struct io_file *f, uint64_t size)
{
	return ftruncate(fd_of(f), (off_t)size) < 0 ? -errno : 0;
}

static int posix_punch(struct io_file *f, uint64_t off, uint64_t len)
{
	const int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
	return fallocate(fd_of(f), mode, (off_t)off, (off_t)len) < 0 ? -errno : 0;
}

static int posix_size(struct io_file *f, uint64_t *ret_size)
{
	struct stat st;

	if (fstat(fd_of(f), &st) < 0)
		return -errno;
	*ret_size = (uint64_t)st.st_size;
	return 0;
}

static int posix_unlink(struct io *io, const char *name)
{
	return unlinkat(posix_of(io)->dir_fd, name, 0) < 0 ? -errno : 0;
}

static int posix_rename(struct io *io, const char *from, const char *to)
{
	const int fd = posix_of(io)->dir_fd;
	return renameat(fd, from, fd, to) < 0 ? -errno : 0;
}

static int posix_mkdir(struct io *io, const char *name)
{
	if (mkdirat(posix_of(io)->dir_fd, name, 0700) < 0 && errno != EEXIST)
		return -errno;
	return 0;
}

static int posix_open_dir(struct io *io, const char *name, int *ret_fd)
{
	const int fd = openat(
	        posix_of(io)->dir_fd, *name ? name : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	*ret_fd = fd;
	return 0;
}

static int posix_sync_dir(struct io *io, const char *name)
{
	int fd = -1;
	int r = posix_open_dir(io, name, &fd);

	if (r < 0)
		return r;
	r = fsync(fd) < 0 ? -errno : 0;
	close(fd);
	return r;
}

static bool entry_is_dir(int dir_fd, const struct dirent *de)
{
	struct stat st;

	if (de->d_type != DT_UNKNOWN)
		return de->d_type == DT_DIR;
	return fstatat(dir_fd, de->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode);
}

static int posix_list(struct io *io, const char *name, io_list_fn *fn, void *arg)
{
	int fd = -1;
	int r = posix_open_dir(io, name, &fd);

	if (r < 0)
		return r;
	DIR *d = fdopendir(fd);
	if (!d) {
		r = -errno;
		close(fd);
		return r;
	}
	const struct dirent *de;
	while (errno = 0, (de = readdir(d)) != NULL) {
		if (!strcmp(de->d_name, ".") || !strcmp(de->d_name, ".."))
			continue;
		r = fn(arg, de->d_name, entry_is_dir(fd, de));
		if (r != 0)
			goto out;
	}
	r = -errno;
out:
	closedir(d);
	return r;
}

static int posix_space(struct io *io, struct io_space *ret_space)
{
	struct statvfs sv;

	if (fstatvfs(posix_of(io)->dir_fd, &sv) < 0)
		return -errno;
	ret_space->total_bytes = (uint64_t)sv.f_blocks * sv.f_frsize;
	ret_space->free_bytes = (uint64_t)sv.f_bavail * sv.f_frsize;
	return 0;
}

static void posix_free(struct io *io)
{
	close(posix_of(io)->dir_fd);
	free(posix_of(io));
}

static const struct io_ops posix_ops = {
        .open = posix_open,
        .close = posix_close,
        .pread = posix_pread,
        .pwritev = posix_pwritev,
        .sync = posix_sync,
        .truncate = posix_truncate,
        .punch = posix_punch,
        .size = posix_size,
        .unlink = posix_unlink,
        .rename = posix_rename,
        .mkdir = posix_mkdir,
        .sync_dir = posix_sync_dir,
        .list = posix_list,
        .space = posix_space,
        .free = posix_free,
};

int io_posix_open(const char *dir, struct io **ret_io, struct errmsg *em)
{
	struct posix_io *p = malloc(sizeof(*p));

	if (!p)
		return errmsg_set(em, -ENOMEM, "out of memory");
	p->base.ops = &posix_ops;
	p->dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (p->dir_fd < 0) {
		const int r = -errno;
		free(p);
		return errmsg_set(em, r, "cannot open directory '%s': %s", dir, strerror(-r));
	}
	*ret_io = &p->base;
	return 0;
}

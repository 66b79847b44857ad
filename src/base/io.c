#include "base/io.h"

#include <errno.h>

#include "base/blocking.h"

void io_free(struct io *io)
{
	if (io)
		io->ops->free(io);
}

void io_freep(struct io **io)
{
	io_free(*io);
}

int io_open(struct io *io, const char *name, unsigned flags, struct io_file **ret_file)
{
	return io->ops->open(io, name, flags, ret_file);
}

void io_close(struct io_file *f)
{
	if (f)
		f->io->ops->close(f);
}

void io_closep(struct io_file **f)
{
	io_close(*f);
}

int io_pread(struct io_file *f, void *buf, size_t len, uint64_t off, size_t *ret_n)
{
	size_t done = 0;

	while (done < len) {
		size_t n = 0;
		blocking_begin();
		const int r = f->io->ops->pread(f, (char *)buf + done, len - done, off + done, &n);
		blocking_end();
		if (r == -EINVAL && done % IO_ALIGN)
			break; /* IO_DIRECT: the file ends inside a block */
		if (r < 0)
			return r;
		if (n == 0)
			break;
		done += n;
	}
	*ret_n = done;
	return 0;
}

int io_pread_exact(struct io_file *f, void *buf, size_t len, uint64_t off)
{
	size_t n = 0;
	const int r = io_pread(f, buf, len, off, &n);
	if (r < 0)
		return r;
	return n == len ? 0 : -ENODATA;
}

int io_pwrite(struct io_file *f, const void *buf, size_t len, uint64_t off)
{
	size_t done = 0;

	while (done < len) {
		const struct iovec iov = {(char *)buf + done, len - done};
		size_t n = 0;
		const int r = f->io->ops->pwritev(f, &iov, 1, off + done, &n);
		if (r < 0)
			return r;
		if (n == 0)
			return -EIO;
		done += n;
	}
	return 0;
}

int io_sync(struct io_file *f)
{
	blocking_begin();
	const int r = f->io->ops->sync(f);
	blocking_end();
	return r;
}

int io_truncate(struct io_file *f, uint64_t size)
{
	return f->io->ops->truncate(f, size);
}

int io_punch(struct io_file *f, uint64_t off, uint64_t len)
{
	return f->io->ops->punch(f, off, len);
}

int io_size(struct io_file *f, uint64_t *ret_size)
{
	return f->io->ops->size(f, ret_size);
}

int io_unlink(struct io *io, const char *name)
{
	return io->ops->unlink(io, name);
}

int io_rename(struct io *io, const char *from, const char *to)
{
	return io->ops->rename(io, from, to);
}

int io_mkdir(struct io *io, const char *name)
{
	return io->ops->mkdir(io, name);
}

int io_sync_dir(struct io *io, const char *name)
{
	return io->ops->sync_dir(io, name);
}

int io_list(struct io *io, const char *name, io_list_fn *fn, void *arg)
{
	return io->ops->list(io, name, fn, arg);
}

int io_space(struct io *io, struct io_space *ret_space)
{
	return io->ops->space(io, ret_space);
}

/*
 * device.c - reading requests and writing replies, with a look at a few bytes of them
 *
 * libfuse reads a request and works on it in the same thread, so what was seen of it is kept in a
 * thread-local variable.  INIT comes once, before anything else; its number tells its reply.
 * What is read here comes from the kernel; lengths are checked all the same.
 */
#include "fs/fuse/device.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <unistd.h>

static _Thread_local bool kill_suidgid;
static _Thread_local int clone_fd = -1;
static _Atomic uint64_t init_unique; /* of an INIT request that offers the feature; 0: none */

bool device_kill_suidgid(void)
{
	return kill_suidgid;
}

static void request_look(const void *buf, size_t len)
{
	const struct fuse_in_header *h = buf;
	const void *args = h + 1;

	kill_suidgid = false;
	if (len < sizeof(*h))
		return;
	if (h->opcode == FUSE_WRITE && len >= sizeof(*h) + sizeof(struct fuse_write_in)) {
		const struct fuse_write_in *in = args;
		kill_suidgid = in->write_flags & FUSE_WRITE_KILL_SUIDGID;
	} else if (h->opcode == FUSE_SETATTR &&
	           len >= sizeof(*h) + sizeof(struct fuse_setattr_in)) {
		const struct fuse_setattr_in *in = args;
		kill_suidgid = in->valid & FATTR_KILL_SUIDGID;
	} else if (h->opcode == FUSE_INIT && len >= sizeof(*h) + sizeof(struct fuse_init_in)) {
		const struct fuse_init_in *in = args;
		init_unique = in->flags & FUSE_HANDLE_KILLPRIV_V2 ? h->unique : 0;
	}
}

void device_clone_open(int session_fd)
{
	uint32_t source = (uint32_t)session_fd;

	clone_fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (clone_fd >= 0 && ioctl(clone_fd, FUSE_DEV_IOC_CLONE, &source) < 0)
		device_clone_close(); /* the session's own will do */
}

void device_clone_close(void)
{
	if (clone_fd >= 0)
		close(clone_fd);
	clone_fd = -1;
}

ssize_t device_read(int fd, void *buf, size_t len, void *userdata)
{
	const ssize_t n = read(clone_fd >= 0 ? clone_fd : fd, buf, len);

	if (n > 0)
		request_look(buf, (size_t)n);
	return n;
}

static void init_reply_extend(const struct iovec *iov, int n_iov)
{
	const struct fuse_out_header *h = iov[0].iov_base;

	if (h->unique != init_unique || h->error || n_iov < 2 ||
	        iov[1].iov_len < offsetof(struct fuse_init_out, max_background))
		return;
	struct fuse_init_out *out = iov[1].iov_base;
	out->flags |= FUSE_HANDLE_KILLPRIV_V2;
	init_unique = 0;
}

ssize_t device_writev(int fd, struct iovec *iov, int n_iov, void *userdata)
{
	if (UNLIKELY(init_unique))
		init_reply_extend(iov, n_iov);
	return writev(clone_fd >= 0 ? clone_fd : fd, iov, n_iov);
}

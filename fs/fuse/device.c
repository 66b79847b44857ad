/*
 * device.c - reading requests and writing replies, with a look at a few bytes of them
 *
 * libfuse reads a request and works on it in the same thread, so what was seen of it is kept in a
 * thread-local variable.  INIT comes once, before anything else; its number tells its reply.
 * What is read here comes from the kernel; lengths are checked all the same.
 *
 * Clones are counted, each by its references and all together: a pool thread may end while requests
 * that it read are kept by a stage, and a session ends when the last of those is answered.
 */
#include "fs/fuse/device.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"

#define WAIT_SAY_SECONDS 5

/* Of protocol 7.45; linux/fuse.h may be older.  Its arguments are those of COPY_FILE_RANGE. */
#define OPCODE_COPY_FILE_RANGE_64 53u

struct device_clone {
	int fd; /* -1: the session's own */
	_Atomic unsigned refs;
};

static _Thread_local bool kill_suidgid, copy_64;
static _Thread_local struct device_clone *own;
static _Thread_local struct device_clone *through; /* NULL: own */
static pthread_mutex_t clones_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t clones_cond = PTHREAD_COND_INITIALIZER;
static unsigned n_clones;            /* clones_lock */
static _Atomic uint64_t init_unique; /* of an INIT request that offers the feature; 0: none */

bool device_kill_suidgid(void)
{
	return kill_suidgid;
}

bool device_copy_64(void)
{
	return copy_64;
}

static void request_look(void *buf, size_t len)
{
	struct fuse_in_header *h = buf;
	const void *args = h + 1;

	kill_suidgid = copy_64 = false;
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
	} else if (h->opcode == OPCODE_COPY_FILE_RANGE_64) {
		h->opcode = FUSE_COPY_FILE_RANGE;
		copy_64 = true;
	}
}

/* --- clones --- */

static int clone_fd_open(int session_fd)
{
	uint32_t source = (uint32_t)session_fd;
	const int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);

	if (fd < 0 || ioctl(fd, FUSE_DEV_IOC_CLONE, &source) == 0)
		return fd;
	close(fd);
	return -1; /* the session's own will do */
}

int device_clone_open(int session_fd)
{
	struct device_clone *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	c->fd = clone_fd_open(session_fd);
	c->refs = 1;
	pthread_mutex_lock(&clones_lock);
	n_clones++;
	pthread_mutex_unlock(&clones_lock);
	own = c;
	return 0;
}

void device_clone_put(struct device_clone *clone)
{
	if (atomic_fetch_sub(&clone->refs, 1) > 1)
		return;
	if (clone->fd >= 0)
		close(clone->fd);
	free(clone);
	pthread_mutex_lock(&clones_lock);
	if (--n_clones == 0)
		pthread_cond_broadcast(&clones_cond);
	pthread_mutex_unlock(&clones_lock);
}

void device_clone_close(void)
{
	struct device_clone *c = STEAL(own);

	if (c)
		device_clone_put(c);
}

struct device_clone *device_clone_get(void)
{
	atomic_fetch_add_explicit(&own->refs, 1, memory_order_relaxed);
	return own;
}

bool device_clone_is_mine(const struct device_clone *clone)
{
	return clone == own;
}

void device_reply_through(struct device_clone *clone)
{
	through = clone;
}

void device_clones_wait(void)
{
	struct timespec ts;
	bool said = false;

	clock_gettime(CLOCK_REALTIME, &ts);
	ts.tv_sec += WAIT_SAY_SECONDS;
	pthread_mutex_lock(&clones_lock);
	while (n_clones > 0) {
		if (said) {
			pthread_cond_wait(&clones_cond, &clones_lock);
		} else if (pthread_cond_timedwait(&clones_cond, &clones_lock, &ts) == ETIMEDOUT) {
			log_note("waiting for requests that filter stages keep");
			said = true;
		}
	}
	pthread_mutex_unlock(&clones_lock);
}

/* Where this thread's replies go, and its requests come from. */
static int fd_of(const struct device_clone *clone, int session_fd)
{
	return clone && clone->fd >= 0 ? clone->fd : session_fd;
}

/* --- reading and writing --- */

ssize_t device_read(int fd, void *buf, size_t len, void *userdata)
{
	const ssize_t n = read(fd_of(own, fd), buf, len);

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
	return writev(fd_of(through ? through : own, fd), iov, n_iov);
}

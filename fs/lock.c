/*
 * lock.c - one daemon a datastore
 *
 * An OFD lock: it belongs to the open file, not to the process, so it survives closing other
 * descriptors of the same file and passes through fork to the daemon.  The pid in the file is for
 * people; only the lock counts, so what a killed daemon leaves behind is harmless.
 *
 * umount(8) returns when the kernel has detached the mount, while the daemon still commits. Whoever
 * opens the datastore right then waits for it: a holder without a mount in the table is starting or
 * ending.
 */
#include "fs/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "fs/datastore.h"

#define LOCK_POLL_NS  (50 * NS_PER_MS)
#define LOCK_GRACE_NS (10 * NS_PER_SEC)

static int lock_open(const char *dir, int flags, int *ret_fd)
{
	char *path = NULL;

	if (asprintf(&path, "%s/%s", dir, DATASTORE_LOCK) < 0)
		return -ENOMEM;
	const int fd = open(path, flags | O_CLOEXEC | O_NOFOLLOW, 0644);
	const int r = fd < 0 ? -errno : 0;
	free(path);
	if (r == 0)
		*ret_fd = fd;
	return r;
}

static int lock_try(int fd, bool shared)
{
	struct flock fl = {.l_type = shared ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET};

	return fcntl(fd, F_OFD_SETLK, &fl) < 0 ? -errno : 0;
}

static long pid_read(int fd)
{
	char text[32] = "";
	const ssize_t n = pread(fd, text, sizeof(text) - 1, 0);

	return n > 0 ? strtol(text, NULL, 10) : 0;
}

static int pid_write(int fd)
{
	char text[32];
	const int len = snprintf(text, sizeof(text), "%ld\n", (long)getpid());

	if (ftruncate(fd, 0) < 0 || pwrite(fd, text, (size_t)len, 0) != len)
		return errno ? -errno : -EIO;
	return 0;
}

static int holder_of(int fd, long *ret_pid)
{
	struct flock fl = {.l_type = F_RDLCK, .l_whence = SEEK_SET};

	const struct timespec pause = {.tv_nsec = (long)NS_PER_MS};
	long pid = 0;

	if (fcntl(fd, F_OFD_GETLK, &fl) < 0)
		return -errno;
	/* Readers do not conflict with the read lock asked for.  The pid comes right after the
	 * lock. */
	for (unsigned i = 0; fl.l_type != F_UNLCK && i < 100 && !(pid = pid_read(fd)); i++)
		nanosleep(&pause, NULL);
	*ret_pid = pid;
	return 0;
}

static int lock_busy(const char *dir, int fd, struct errmsg *em)
{
	long pid = 0;

	if (holder_of(fd, &pid) == 0 && pid)
		return errmsg_set(em, -EBUSY,
		        "datastore '%s' is in use by pid %ld (weir umount %s)", dir, pid, dir);
	return errmsg_set(em, -EBUSY, "datastore '%s' is being read by another command", dir);
}

static int lock_wait(const char *dir, int fd, bool shared)
{
	const struct timespec pause = {.tv_nsec = (long)LOCK_POLL_NS};
	const uint64_t start_ns = clock_now_ns();
	int r = lock_try(fd, shared);

	while (r == -EAGAIN && !mount_exists(dir) && clock_now_ns() - start_ns < LOCK_GRACE_NS) {
		nanosleep(&pause, NULL);
		r = lock_try(fd, shared);
	}
	return r;
}

int lock_take(const char *dir, bool shared, int *ret_fd, struct errmsg *em)
{
	int fd;
	int r = lock_open(dir, shared ? O_RDONLY : O_RDWR | O_CREAT, &fd);

	if (r < 0)
		return errmsg_set(
		        em, r, "cannot open '%s/%s': %s", dir, DATASTORE_LOCK, strerror(-r));
	r = lock_wait(dir, fd, shared);
	if (r == -EAGAIN)
		r = lock_busy(dir, fd, em);
	else if (r < 0)
		errmsg_set(em, r, "cannot lock '%s/%s': %s", dir, DATASTORE_LOCK, strerror(-r));
	else if (!shared && (r = pid_write(fd)) < 0)
		errmsg_set(em, r, "cannot write '%s/%s': %s", dir, DATASTORE_LOCK, strerror(-r));
	if (r < 0) {
		close(fd);
		return r;
	}
	*ret_fd = fd;
	return 0;
}

int lock_holder(const char *dir, long *ret_pid)
{
	int fd;
	int r = lock_open(dir, O_RDONLY, &fd);

	if (r < 0)
		return r;
	r = holder_of(fd, ret_pid);
	close(fd);
	return r;
}

/*
 * mountpoint.c - see mountpoint.h
 *
 * Root unmounts with umount2(2), others through fusermount3, which is setuid for that.
 */
#include "fs/mountpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "fs/datastore.h"
#include "fs/lock.h"

extern char **environ;

/* Exit code of fusermount3 -u; its message to em. */
static int fusermount(const char *mountpoint, bool lazy, struct errmsg *em)
{
	const char *const argv[] = {
	        "fusermount3", "-u", lazy ? "-z" : "-q", "--", mountpoint, NULL};
	pid_t pid;
	int status = 0;
	const int r = posix_spawnp(&pid, argv[0], NULL, NULL, (char *const *)argv, environ);

	if (r)
		return errmsg_set(em, -r, "cannot run fusermount3: %s", strerror(r));
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	/* It says no more than that it failed; being in use is by far the most likely. */
	return errmsg_set(em, -EBUSY, "cannot unmount '%s': in use", mountpoint);
}

int mountpoint_unmount(const char *mountpoint, bool lazy, struct errmsg *em)
{
	if (geteuid() != 0)
		return fusermount(mountpoint, lazy, em);
	if (umount2(mountpoint, UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0)) == 0)
		return 0;
	const int r = -errno;
	if (r == -EINVAL) /* not a mount point: somebody was faster */
		return 0;
	return errmsg_set(em, r, "cannot unmount '%s': %s", mountpoint,
	        r == -EBUSY ? "in use" : strerror(-r));
}

/* The daemon behind it is gone; detaches it, if it is one of ours. */
static int stale_detach(const char *mountpoint, struct errmsg *em)
{
	char *dir, *top, *sub;
	int r = datastore_find(mountpoint, &dir, &top, &sub, em);

	if (r < 0)
		return errmsg_set(em, -ENOTCONN,
		        "cannot mount on '%s': what is mounted there does not "
		        "answer (umount -l %s)",
		        mountpoint, mountpoint);
	if (*sub)
		r = errmsg_set(em, -ENOTCONN,
		        "cannot mount on '%s': the mount at '%s' does not answer "
		        "(umount -l %s)",
		        mountpoint, top, top);
	else
		r = mountpoint_unmount(top, true, em);
	if (!r)
		log_note("detached the mount of '%s' that a daemon left behind at '%s'", dir, top);
	free(dir);
	free(top);
	free(sub);
	return r;
}

/* Is path the directory dir, or below it? */
static bool is_within(const char *path, const char *dir)
{
	const size_t len = strcmp(dir, "/") ? strlen(dir) : 0;

	return !strncmp(path, dir, len) && (path[len] == '/' || path[len] == 0);
}

static int mountpoint_check(const char *path, const char *dir, struct errmsg *em)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return errmsg_set(em, -errno, "cannot mount on '%s': %s", path, strerror(errno));
	if (!S_ISDIR(st.st_mode))
		return errmsg_set(em, -ENOTDIR, "cannot mount on '%s': not a directory", path);
	if (is_within(path, dir))
		return errmsg_set(em, -EINVAL,
		        "cannot mount on '%s': it is inside the datastore '%s'", path, dir);
	if (is_within(dir, path))
		return errmsg_set(em, -EINVAL,
		        "cannot mount on '%s': the datastore '%s' is inside it", path, dir);
	return 0;
}

int mountpoint_prepare(const char *mountpoint, const char *dir, char **ret_path, struct errmsg *em)
{
	struct statvfs st;
	int r = 0;

	/* Not stat(): the kernel has the attributes of the top cached, also when the daemon is
	 * dead. */
	if (statvfs(mountpoint, &st) < 0 && errno == ENOTCONN)
		r = stale_detach(mountpoint, em);
	if (r < 0)
		return r;
	char *path = realpath(mountpoint, NULL);
	if (!path)
		return errmsg_set(
		        em, -errno, "cannot mount on '%s': %s", mountpoint, strerror(errno));
	r = mountpoint_check(path, dir, em);
	if (r < 0) {
		free(path);
		return r;
	}
	*ret_path = path;
	return 0;
}

/*
 * newfile.c - see newfile.h
 *
 * What a power cut leaves: before the rename, the temporary name or nothing; after it, the whole
 * file, for its content was synced first; and once the directory is synced, the name for good.
 * Everything goes by the directory's descriptor, so a directory that is moved meanwhile does no
 * harm.
 */
#include "tools/newfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define SUFFIX_LEN 13 /* ".weir-XXXXXX" and the dot in front */
#define TRIES      16

static int path_split(const char *path, struct newfile *nf, struct errmsg *em)
{
	const char *slash = strrchr(path, '/');
	const char *name = slash ? slash + 1 : path;
	CLEANUP(free_ptr) char *dir = NULL;

	if (!*name || !strcmp(name, ".") || !strcmp(name, ".."))
		return errmsg_set(em, -EISDIR, "'%s' is a directory, not a file", path);
	if (strlen(name) > NAME_MAX)
		return errmsg_set(em, -ENAMETOOLONG, "'%s': the name is too long", path);
	strcpy(nf->name, name);
	dir = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
	if (!dir)
		return errmsg_set(em, -ENOMEM, "out of memory");
	nf->dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (nf->dir_fd < 0)
		return errmsg_set(
		        em, -errno, "cannot open directory '%s': %s", dir, strerror(errno));
	return 0;
}

static int target_check(const char *path, const struct newfile *nf, struct errmsg *em)
{
	struct stat st;

	if (fstatat(nf->dir_fd, nf->name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0
		                       : errmsg_set(em, -errno, "cannot look at '%s': %s", path,
		                                 strerror(errno));
	if (S_ISDIR(st.st_mode))
		return errmsg_set(em, -EISDIR, "'%s' is a directory, not a file", path);
	if (!nf->replace)
		return errmsg_set(em, -EEXIST, "'%s' exists already (--force replaces it)", path);
	if (!S_ISREG(st.st_mode) && !S_ISLNK(st.st_mode))
		return errmsg_set(
		        em, -EINVAL, "'%s' is not a regular file: it is left alone", path);
	return 0;
}

/* The first bytes of a name that is too long for both do. */
static int temporary_open(struct newfile *nf)
{
	static const char letters[] = "abcdefghijklmnopqrstuvwxyz012345";
	uint8_t random[6];

	for (unsigned i = 0; i < TRIES; i++) {
		if (getrandom(random, sizeof(random), 0) != sizeof(random))
			return -EIO;
		const int n = snprintf(nf->temporary, sizeof(nf->temporary), ".%.*s.weir-",
		        NAME_MAX - SUFFIX_LEN, nf->name);
		for (unsigned k = 0; k < sizeof(random); k++)
			nf->temporary[(unsigned)n + k] = letters[random[k] & 31];
		nf->temporary[(unsigned)n + sizeof(random)] = '\0';
		nf->fd = openat(
		        nf->dir_fd, nf->temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		if (nf->fd >= 0 || errno != EEXIST)
			return nf->fd < 0 ? -errno : 0;
	}
	return -EEXIST;
}

int newfile_begin(const char *path, bool replace, struct newfile *ret_nf, struct errmsg *em)
{
	*ret_nf = (struct newfile){.dir_fd = -1, .fd = -1, .replace = replace};
	int r = path_split(path, ret_nf, em);

	if (r == 0)
		r = target_check(path, ret_nf, em);
	if (r < 0)
		return r;
	r = temporary_open(ret_nf);
	return r < 0 ? errmsg_set(em, r, "cannot make '%s': %s", path, strerror(-r)) : 0;
}

int newfile_sync(struct newfile *nf, struct errmsg *em)
{
	if (fsync(nf->fd) < 0)
		return errmsg_set(em, -errno, "cannot write '%s': %s", nf->name, strerror(errno));
	posix_fadvise(nf->fd, 0, 0, POSIX_FADV_DONTNEED); /* a hint */
	return 0;
}

/* Filesystems that cannot rename without replacing can link. */
static int rename_new(const struct newfile *nf)
{
	if (renameat2(nf->dir_fd, nf->temporary, nf->dir_fd, nf->name, RENAME_NOREPLACE) == 0)
		return 0;
	if (errno != EINVAL && errno != ENOSYS)
		return -errno;
	if (linkat(nf->dir_fd, nf->temporary, nf->dir_fd, nf->name, 0) < 0)
		return -errno;
	return unlinkat(nf->dir_fd, nf->temporary, 0) < 0 ? -errno : 0;
}

static int mode_set(const struct newfile *nf, mode_t mode)
{
	const mode_t mask = umask(0);

	umask(mask);
	return fchmod(nf->fd, mode & 0777 & ~mask) < 0 || fsync(nf->fd) < 0 ? -errno : 0;
}

int newfile_publish(struct newfile *nf, mode_t mode, struct errmsg *em)
{
	int r = mode_set(nf, mode);

	if (r < 0)
		return errmsg_set(em, r, "cannot set the mode of '%s': %s", nf->name, strerror(-r));
	if (!nf->replace)
		r = rename_new(nf);
	else if (renameat(nf->dir_fd, nf->temporary, nf->dir_fd, nf->name) < 0)
		r = -errno;
	if (r == -EEXIST)
		return errmsg_set(em, r, "'%s' was made meanwhile (--force replaces it)", nf->name);
	if (r < 0)
		return errmsg_set(em, r, "cannot name it '%s': %s", nf->name, strerror(-r));
	nf->temporary[0] = '\0';
	if (fsync(nf->dir_fd) < 0)
		return errmsg_set(em, -errno,
		        "'%s' is complete, but its name may be lost in a power cut: %s", nf->name,
		        strerror(errno));
	return 0;
}

void newfile_release(struct newfile *nf)
{
	if (nf->fd >= 0 && nf->temporary[0])
		unlinkat(nf->dir_fd, nf->temporary, 0);
	if (nf->fd >= 0)
		close(nf->fd);
	if (nf->dir_fd >= 0)
		close(nf->dir_fd);
	nf->fd = nf->dir_fd = -1;
	nf->temporary[0] = '\0';
}

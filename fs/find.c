/*
 * find.c - from what a user names to the datastore's directory
 *
 * /proc/self/mountinfo says what is mounted where; a mount of ours has type fuse.weir and the
 * datastore's directory as its source.  The innermost mount that covers a path decides.  A path
 * that cannot be resolved, because the daemon behind its mount is gone, is taken as it was written.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/datastore.h"
#include "fs/lock.h"

#define FS_TYPE "fuse.weir"

struct mount_line {
	char *mountpoint, *type, *source; /* point into the line */
};

/* Undoes the \ooo of blanks and backslashes, in place. */
static void unescape(char *s)
{
	char *to = s;

	for (; *s; s++) {
		unsigned v;
		if (s[0] == '\\' && sscanf(s + 1, "%3o", &v) == 1 &&
		        strspn(s + 1, "01234567") >= 3) {
			*to++ = (char)v;
			s += 3;
		} else {
			*to++ = *s;
		}
	}
	*to = 0;
}

/* id parent major:minor root MOUNTPOINT options [tags...] - TYPE SOURCE super-options */
static bool line_parse(char *line, struct mount_line *ret_line)
{
	char *fields[5], *save = NULL;
	char *tail = strstr(line, " - ");

	if (!tail)
		return false;
	*tail = 0;
	char *p = line;
	for (unsigned i = 0; i < ARRAY_SIZE(fields); i++, p = NULL)
		if (!(fields[i] = strtok_r(p, " ", &save)))
			return false;
	char *type = strtok_r(tail + 3, " ", &save);
	char *source = strtok_r(NULL, " \n", &save);
	if (!type || !source)
		return false;
	unescape(fields[4]);
	unescape(source);
	*ret_line = (struct mount_line){fields[4], type, source};
	return true;
}

/* Non-zero stops. */
typedef int mount_fn(void *arg, const struct mount_line *line);

static int mount_each(mount_fn *fn, void *arg)
{
	FILE *f = fopen("/proc/self/mountinfo", "re");
	struct mount_line m;
	char *line = NULL;
	size_t cap = 0;
	int r = 0;

	if (!f)
		return -errno;
	while (!r && getline(&line, &cap, f) > 0)
		if (line_parse(line, &m))
			r = fn(arg, &m);
	free(line);
	fclose(f);
	return r;
}

static int is_source(void *arg, const struct mount_line *m)
{
	return !strcmp(m->type, FS_TYPE) && !strcmp(m->source, arg);
}

bool mount_exists(const char *dir)
{
	return mount_each(is_source, (void *)dir) > 0;
}

/* What a search collects; the strings are owned. */
struct cover {
	const char *path;   /* looked for: the innermost mount that covers it */
	const char *source; /* or the first mount of this datastore */
	size_t len;         /* of the best mount point so far */
	bool ours;          /* it is of type FS_TYPE */
	char *dir, *mountpoint;
	bool failed;
};

static void cover_set(struct cover *c, const struct mount_line *m)
{
	free(c->dir);
	free(c->mountpoint);
	c->dir = strdup(m->source);
	c->mountpoint = strdup(m->mountpoint);
	c->failed = c->failed || !c->dir || !c->mountpoint;
	c->ours = !strcmp(m->type, FS_TYPE);
}

static void cover_release(struct cover *c)
{
	free(c->dir);
	free(c->mountpoint);
}

static int covers(void *arg, const struct mount_line *m)
{
	struct cover *c = arg;
	const size_t len = strcmp(m->mountpoint, "/") ? strlen(m->mountpoint) : 0;
	const bool inside =
	        !strncmp(c->path, m->mountpoint, len) && (c->path[len] == '/' || c->path[len] == 0);

	if (inside && len >= c->len) { /* later lines lie over earlier ones */
		c->len = len;
		cover_set(c, m);
	}
	return c->failed ? -ENOMEM : 0;
}

static int first_of(void *arg, const struct mount_line *m)
{
	struct cover *c = arg;

	if (strcmp(m->type, FS_TYPE) || strcmp(m->source, c->source))
		return 0;
	cover_set(c, m);
	return c->failed ? -ENOMEM : 1;
}

/* Absolute, and resolved as far as that goes. */
static char *absolute_path(const char *target)
{
	char cwd[PATH_MAX], *path = realpath(target, NULL);

	if (path || errno == ENOENT)
		return path;
	if (target[0] == '/')
		path = strdup(target);
	else if (!getcwd(cwd, sizeof(cwd)) || asprintf(&path, "%s/%s", cwd, target) < 0)
		return NULL;
	size_t len = path ? strlen(path) : 0;
	while (len > 1 && path[len - 1] == '/')
		path[--len] = 0;
	return path;
}

static bool is_datastore(const char *dir)
{
	char *path = NULL;
	struct stat st;

	if (asprintf(&path, "%s/%s", dir, META_NAME) < 0)
		return false;
	const bool is = lstat(path, &st) == 0 && S_ISREG(st.st_mode);
	free(path);
	return is;
}

static int find_mounted(const char *path, char **ret_dir, char **ret_mountpoint, char **ret_sub)
{
	struct cover c = {.path = path};
	const int r = mount_each(covers, &c);
	const char *rest = path + c.len;
	char *sub = r < 0 || !c.ours ? NULL : strdup(rest + strspn(rest, "/"));

	if (!sub) {
		cover_release(&c);
		return r < 0 ? r : c.ours ? -ENOMEM : -ENOENT;
	}
	*ret_dir = c.dir;
	*ret_mountpoint = c.mountpoint;
	*ret_sub = sub;
	return 0;
}

static int find_unmounted(const char *path, char **ret_dir, char **ret_mountpoint, char **ret_sub)
{
	struct cover c = {.source = path};
	const int r = mount_each(first_of, &c);
	char *dir = strdup(path), *sub = strdup("");

	if (r < 0 || !dir || !sub) {
		cover_release(&c);
		free(dir);
		free(sub);
		return r < 0 ? r : -ENOMEM;
	}
	*ret_dir = dir;
	*ret_mountpoint = STEAL(c.mountpoint);
	*ret_sub = sub;
	cover_release(&c);
	return 0;
}

int datastore_find(const char *target, char **ret_dir, char **ret_mountpoint, char **ret_sub,
        struct errmsg *em)
{
	CLEANUP(free_ptr) char *path = absolute_path(target);

	if (!path)
		return errmsg_set(em, -errno, "cannot find '%s': %s", target, strerror(errno));
	int r = find_mounted(path, ret_dir, ret_mountpoint, ret_sub);
	if (r == -ENOENT && is_datastore(path))
		r = find_unmounted(path, ret_dir, ret_mountpoint, ret_sub);
	if (r == -ENOENT)
		return errmsg_set(em, -EMEDIUMTYPE,
		        "'%s' is neither a datastore nor inside a mounted one", target);
	return r < 0 ? errmsg_set(em, r, "cannot look up '%s': %s", target, strerror(-r)) : 0;
}

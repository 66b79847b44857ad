/*
 * target.c - what a request names: an image, a directory, all below it, one of its stages
 *
 * A path is resolved once; from there on the inode number counts, so that a file that is renamed
 * meanwhile stays the one that was meant.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/filter/manager-private.h"
#include "fs/snapshot/records.h"

void target_path(struct ns *ns, uint64_t ino, char path[FILTER_PATH_MAX])
{
	if (ino == NS_ROOT_INO)
		path[0] = 0;
	else if (ino & SNAPSHOT_BIT)
		snapshot_path(ns, ino, path, FILTER_PATH_MAX);
	else if (ns_path_of(ns, ino, path, FILTER_PATH_MAX) < 0)
		snprintf(path, FILTER_PATH_MAX, "(inode %" PRIu64 ")", ino);
}

int filter_target(struct ns *ns, const char *path, struct target *ret_t, struct errmsg *em)
{
	struct ns_inode inode;
	struct target t = {.ino = NS_ROOT_INO};
	int r = *path ? ns_lookup_path(ns, path, &t.ino) : 0;

	if (!r)
		r = ns_inode_get(ns, t.ino, &inode);
	if (r < 0)
		return errmsg_set(em, r, "cannot find '%s': %s", path, strerror(-r));
	if (!S_ISREG(inode.mode) && !S_ISDIR(inode.mode))
		return errmsg_set(em, -EINVAL,
		        "'%s' is neither an image nor a directory: it has no filters", path);
	t.dir = S_ISDIR(inode.mode);
	snprintf(t.path, sizeof(t.path), "%s", path);
	*ret_t = t;
	return 0;
}

/* --- all below a directory --- */

void target_list_release(struct target_list *l)
{
	free(l->inos);
	free(l->dirs);
	*l = (struct target_list){0};
}

static int list_add(struct target_list *l, uint64_t ino, bool dir)
{
	if (l->n == l->cap) {
		const size_t cap = l->cap ? 2 * l->cap : 64;
		uint64_t *inos = realloc(l->inos, cap * sizeof(*inos));
		if (!inos)
			return -ENOMEM;
		l->inos = inos;
		bool *dirs = realloc(l->dirs, cap * sizeof(*dirs));
		if (!dirs)
			return -ENOMEM;
		l->dirs = dirs;
		l->cap = cap;
	}
	l->inos[l->n] = ino;
	l->dirs[l->n++] = dir;
	return 0;
}

static int name_note(void *arg, const char *name, uint64_t ino, uint32_t mode, uint64_t cookie)
{
	struct target_list *l = arg;

	if (!S_ISDIR(mode) && !S_ISREG(mode))
		return 0;
	return list_add(l, ino, S_ISDIR(mode));
}

static int by_number(const void *a, const void *b)
{
	const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* A file of several names was found by each: once is enough. */
static int list_unique(struct target_list *l)
{
	size_t n = 0;
	uint64_t *files = malloc((l->n + 1) * sizeof(*files));

	if (!files)
		return -ENOMEM;
	for (size_t i = 0; i < l->n; i++)
		if (!l->dirs[i])
			files[n++] = l->inos[i];
	qsort(files, n, sizeof(*files), by_number);
	size_t to = 0;
	for (size_t i = 0; i < l->n; i++)
		if (l->dirs[i])
			l->inos[to++] = l->inos[i];
	qsort(l->inos, to, sizeof(*l->inos), by_number);
	memset(l->dirs, true, to);
	l->n_dirs = to;
	for (size_t i = 0; i < n; i++) {
		if (i > 0 && files[i] == files[i - 1])
			continue;
		l->dirs[to] = false;
		l->inos[to++] = files[i];
	}
	l->n = to;
	free(files);
	return 0;
}

bool target_list_has(const struct target_list *l, uint64_t ino, bool dir)
{
	const uint64_t *from = l->inos + (dir ? 0 : l->n_dirs);
	const size_t n = dir ? l->n_dirs : l->n - l->n_dirs;

	return n > 0 && bsearch(&ino, from, n, sizeof(ino), by_number);
}

int target_walk(struct ns *ns, uint64_t dir, struct target_list *ret_l)
{
	struct target_list l = {0};
	int r = list_add(&l, dir, true);

	for (size_t i = 0; i < l.n && !r; i++)
		if (l.dirs[i])
			r = ns_name_each(ns, l.inos[i], 0, name_note, &l);
	if (!r)
		r = list_unique(&l);
	if (r < 0) {
		target_list_release(&l);
		return r;
	}
	*ret_l = l;
	return 0;
}

/* --- one of the stages --- */

static int item_by_link(
        const struct manifest *mf, const char *type, size_t type_len, const char *number)
{
	char *end = NULL;
	const uint64_t link = strtoull(number, &end, 10);

	if (!*number || *end)
		return -1;
	const int at = stack_plan_find(&mf->plan, link);
	if (at < 0 || strncmp(mf->plan.items[at].type_name, type, type_len) ||
	        mf->plan.items[at].type_name[type_len])
		return -1;
	return at;
}

int item_find(const struct manifest *mf, const char *type, struct errmsg *em)
{
	const char *colon = strchr(type, ':');
	const int at = colon ? item_by_link(mf, type, (size_t)(colon - type), colon + 1)
	                     : stack_plan_find_type(&mf->plan, type, 0);

	const struct stage_type *known = at < 0 ? stage_type_find(type) : NULL;
	if (known && known->capabilities & STAGE_IMPLICIT)
		return errmsg_set(em, -ENOENT,
		        "filter '%s' is there with its defaults only: 'weir filter attach' sets "
		        "something else",
		        type);
	if (at < 0)
		return errmsg_set(
		        em, -ENOENT, "filter '%s' is not attached (weir filter list)", type);
	const int second = colon ? -1 : stack_plan_find_type(&mf->plan, type, at + 1);
	if (second >= 0)
		return errmsg_set(em, -EINVAL,
		        "filter '%s' is attached several times: say which, as '%s:%" PRIu64
		        "' or '%s:%" PRIu64 "'",
		        type, type, mf->plan.items[at].link, type, mf->plan.items[second].link);
	return at;
}

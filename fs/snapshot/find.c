/*
 * find.c - a target and a name into a snapshot
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "fs/snapshot/private.h"

int snapshot_name_check(const char *name, struct errmsg *em)
{
	if (name && snapshot_name_good(name))
		return 0;
	return errmsg_set(em, -EINVAL,
	        "'%.64s' is no name of a snapshot: use letters, digits and '._:+-', the first one "
	        "a "
	        "letter or digit, at most %u",
	        name ? name : "", SNAPSHOT_NAME_MAX);
}

int snapshot_read_failed(int r, struct errmsg *em)
{
	return errmsg_set(em, r, "cannot read the snapshots: %s", strerror(-r));
}

int snapshot_target_image(struct ns *ns, const char *path, struct target *ret_t, struct errmsg *em)
{
	const int r = filter_target(ns, path, ret_t, em);

	if (r == 0 && ret_t->dir)
		return errmsg_set(em, -EISDIR, "'%s' is a directory: name an image in it",
		        *path ? path : "/");
	return r;
}

int snapshot_find_image(struct ns *ns, const struct target *t, const char *name,
        struct snapshot *ret_s, struct snapshot_image *ret_si, struct errmsg *em)
{
	const int r = snapshot_of_image(ns, t->ino, name, ret_s, ret_si);

	if (r == -ENOENT)
		return errmsg_set(
		        em, r, "'%s' has no snapshot '%.128s' (weir snapshot list)", t->path, name);
	return r < 0 ? snapshot_read_failed(r, em) : 0;
}

/* --- of an image that is gone --- */

struct gone {
	struct ns *ns;
	const char *path, *name;
	struct snapshot_image si; /* the first one found */
	unsigned n;
};

static int gone_match_image(void *arg, const struct snapshot_image *si)
{
	struct gone *g = arg;

	if (strcmp(si->path, g->path) || g->n++ > 0)
		return 0;
	g->si = *si;
	g->si.path = strdup(si->path);
	return g->si.path ? 0 : -ENOMEM;
}

static int gone_match(void *arg, const struct snapshot *s)
{
	struct gone *g = arg;

	return strcmp(s->name, g->name)
	               ? 0
	               : snapshot_images_each(g->ns, s->number, gone_match_image, g);
}

int snapshot_find_gone(struct ns *ns, const char *path, const char *name,
        struct snapshot_image *ret_si, struct errmsg *em)
{
	struct gone g = {.ns = ns, .path = path, .name = name};
	const int r = snapshots_each(ns, gone_match, &g);

	if (r == 0 && g.n == 1) {
		*ret_si = g.si;
		return 0;
	}
	snapshot_image_release(&g.si);
	if (r < 0)
		return snapshot_read_failed(r, em);
	if (g.n > 1)
		return errmsg_set(em, -EINVAL,
		        "there are %u snapshots '%.128s' of images that were '%s'", g.n, name,
		        path);
	return errmsg_set(em, -ENOENT,
	        "'%s' is not there, and in no snapshot '%.128s' (weir snapshot list)", path, name);
}

/* --- of a scope --- */

struct orphan {
	struct ns *ns;
	const char *name;
	struct snapshot *s;
	unsigned n;
};

/* Its scope has no name any more. */
static int orphan_match(void *arg, const struct snapshot *s)
{
	struct orphan *o = arg;
	struct ns_inode inode;

	if (strcmp(s->name, o->name))
		return 0;
	const int r = ns_inode_get(o->ns, s->scope, &inode);
	if (r < 0 && r != -ENOENT)
		return r;
	if ((r == 0 && inode.nlink > 0) || o->n++ > 0)
		return 0;
	*o->s = *s;
	json_incref(s->json);
	return 0;
}

static int orphan_find(struct ns *ns, const char *name, struct snapshot *ret_s, struct errmsg *em)
{
	struct snapshot s = {0};
	struct orphan o = {.ns = ns, .name = name, .s = &s};
	const int r = snapshots_each(ns, orphan_match, &o);

	if (r == 0 && o.n == 1) {
		*ret_s = s;
		return 0;
	}
	snapshot_release(&s);
	if (r < 0)
		return snapshot_read_failed(r, em);
	if (o.n > 1)
		return errmsg_set(
		        em, -EINVAL, "there are %u snapshots '%s' of what is gone", o.n, name);
	return -ENOENT;
}

/* The image is in a snapshot that is not its own: says whose it is. */
static int refuse_other_scope(
        struct ns *ns, const struct target *t, const char *name, struct errmsg *em)
{
	char path[FILTER_PATH_MAX];
	struct snapshot s;

	if (snapshot_of_image(ns, t->ino, name, &s, NULL) < 0)
		return errmsg_set(em, -ENOENT, "'%s' has no snapshot '%.128s' (weir snapshot list)",
		        t->path, name);
	target_path(ns, s.scope, path);
	const int r = s.kind == SNAPSHOT_DATASTORE
	                      ? errmsg_set(em, -EINVAL,
	                                "snapshot '%s' is of the datastore as a whole: name that "
	                                "instead of '%s'",
	                                name, t->path)
	                      : errmsg_set(em, -EINVAL,
	                                "snapshot '%s' is of directory '%s' as a whole: name that "
	                                "instead of '%s'",
	                                name, path, t->path);
	snapshot_release(&s);
	return r;
}

int snapshot_find(struct ns *ns, const char *target, const char *name, struct snapshot *ret_s,
        struct errmsg *em)
{
	struct target t;
	int r = filter_target(ns, target, &t, em);

	if (r < 0)
		return r;
	r = snapshot_of_scope(ns, t.ino, name, ret_s);
	if (r == -ENOENT && !t.dir)
		return refuse_other_scope(ns, &t, name, em);
	if (r == -ENOENT && t.ino == NS_ROOT_INO)
		r = orphan_find(ns, name, ret_s, em);
	if (r == -ENOENT)
		return errmsg_set(em, r, "%s%s%s has no snapshot '%.128s' (weir snapshot list)",
		        *target ? "'" : "", *target ? target : "the datastore", *target ? "'" : "",
		        name);
	return r < 0 && !em->text[0] ? snapshot_read_failed(r, em) : r;
}

/*
 * namespace-path.c - from inodes to paths and back, for messages and lists
 *
 * An inode's names are found in the pending view and by an index of meta.db; a committed one counts
 * only if looking it up still leads to the inode.  What comes out was true at some moment, no more:
 * names change under a walk.
 */
#include <errno.h>
#include <string.h>

#include "meta/ns.h"

#define PATH_DEPTH_MAX 4096 /* of directories; more is a cycle */

struct link {
	uint64_t dir;
	char name[NS_NAME_MAX + 1];
};

static int pending_link(struct ns *ns, uint64_t ino, struct link *ret_link)
{
	pthread_mutex_lock(&ns->lock);
	const struct pending_entry *e = pending_link_after(&ns->pending, ino, 0);
	if (e) {
		ret_link->dir = e->owner;
		memcpy(ret_link->name, e->name, e->name_len);
		ret_link->name[e->name_len] = '\0';
	}
	pthread_mutex_unlock(&ns->lock);
	return e ? 0 : -ENOENT;
}

/* The nth committed link, in the order of the index. */
static int committed_link(struct ns *ns, uint64_t ino, unsigned nth, struct link *ret_link)
{
	const uint64_t params[] = {ino, 1, nth};
	struct db *d = NULL;
	sqlite3_stmt *st = NULL;
	int r = metadb_reader(ns->m, &d);

	if (r == 0)
		r = db_stmt(d, STMT_NAME_OF_INO, &st);
	if (r == 0) {
		db_bind_ints(st, 1, params, ARRAY_SIZE(params));
		r = db_next(d, st);
		if (r == 0)
			r = -ENOENT;
	}
	if (r == 1) {
		const void *p = sqlite3_column_blob(st, 1);
		const size_t len = (size_t)sqlite3_column_bytes(st, 1);
		r = p && len <= NS_NAME_MAX ? 0 : -EIO;
		if (r == 0) {
			ret_link->dir = db_u64(st, 0);
			memcpy(ret_link->name, p, len);
			ret_link->name[len] = '\0';
		}
		db_done(st);
	}
	metadb_reader_done(ns->m, d);
	return r;
}

static int some_link(struct ns *ns, uint64_t ino, struct link *ret_link)
{
	int r = pending_link(ns, ino, ret_link);

	for (unsigned nth = 0; r == -ENOENT; nth++) {
		struct name_row row;
		r = committed_link(ns, ino, nth, ret_link);
		if (r < 0)
			return r;
		r = ns_name_row(ns, ret_link->dir, ret_link->name, &row);
		if (r == 0 && row.ino != ino)
			r = -ENOENT; /* that name has been given to another */
	}
	return r;
}

int ns_path_of(struct ns *ns, uint64_t ino, char *buf, size_t cap)
{
	size_t at = cap; /* the path is built from its end */

	if (cap == 0)
		return -ERANGE;
	buf[--at] = '\0';
	for (unsigned depth = 0; ino != NS_ROOT_INO; depth++) {
		struct link link = {0};
		const int r = depth < PATH_DEPTH_MAX ? some_link(ns, ino, &link) : -ELOOP;
		if (r < 0)
			return r;
		const size_t len = strlen(link.name), slash = depth > 0;
		if (at < len + slash)
			return -ERANGE;
		if (slash)
			buf[--at] = '/';
		at -= len;
		memcpy(buf + at, link.name, len);
		ino = link.dir;
	}
	memmove(buf, buf + at, cap - at);
	return 0;
}

int ns_lookup_path(struct ns *ns, const char *path, uint64_t *ret_ino)
{
	uint64_t ino = NS_ROOT_INO;

	while (*path) {
		char name[NS_NAME_MAX + 1];
		uint32_t mode = 0;
		const size_t len = strcspn(path, "/");
		if (len > NS_NAME_MAX)
			return -ENAMETOOLONG;
		memcpy(name, path, len);
		name[len] = '\0';
		path += len;
		path += strspn(path, "/");
		if (len == 0 || !strcmp(name, "."))
			continue;
		const int r = ns_name_get(ns, ino, name, &ino, &mode);
		if (r < 0)
			return r;
	}
	*ret_ino = ino;
	return 0;
}

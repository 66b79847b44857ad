/*
 * namespace-read.c - reading inodes, names and extended attributes: pending over committed
 *
 * One row: the pending view first, under the lock; if it says nothing, meta.db, without the lock.
 * An entry is dropped from the pending view only after its commit is visible, so a miss followed by
 * a read that *starts* after it finds the row there.
 *
 * Lists need both at once: rows that are in neither or in both, because a group was dropped between
 * the two looks, would be lost or shown twice.  So meta.db is read first, then the lock is taken
 * and the two are merged, unless a drop happened since before the read (ns->drops): then it is done
 * again. Where only the state at some instant is wanted (inode_each, totals), the pending entries
 * are copied first and override whatever is read later.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "meta/ns.h"

#define NAME_BATCH  128u
#define INODE_BATCH 64u

/* --- one row of meta.db --- */

/*
 * Runs a query and hands its first row to take (0 or -errno, statement still on the row).  -ENOENT:
 * no row.
 */
typedef int take_fn(struct db *d, sqlite3_stmt *st, void *arg);

static int query_one(
        struct ns *ns, enum db_stmt id, uint64_t key, const char *name, take_fn *take, void *arg)
{
	struct db *d = NULL;
	sqlite3_stmt *st = NULL;
	int r = metadb_reader(ns->m, &d);

	if (r == 0)
		r = db_stmt(d, id, &st);
	if (r == 0) {
		sqlite3_bind_int64(st, 1, (sqlite3_int64)key);
		if (name)
			db_bind_bytes(st, 2, name, strlen(name));
		r = db_next(d, st);
		if (r == 1) {
			r = take(d, st, arg);
			db_done(st);
		} else if (r == 0) {
			r = -ENOENT;
		}
	}
	metadb_reader_done(ns->m, d);
	return r;
}

static void take_inode(sqlite3_stmt *st, struct ns_inode *i)
{
	*i = (struct ns_inode){
	        .ino = db_u64(st, 0),
	        .mode = (uint32_t)db_u64(st, 1),
	        .uid = (uint32_t)db_u64(st, 2),
	        .gid = (uint32_t)db_u64(st, 3),
	        .nlink = (uint32_t)db_u64(st, 4),
	        .rdev = db_u64(st, 5),
	        .size = db_u64(st, 6),
	        .atime = {(time_t)db_u64(st, 7), (long)db_u64(st, 8)},
	        .mtime = {(time_t)db_u64(st, 9), (long)db_u64(st, 10)},
	        .ctime = {(time_t)db_u64(st, 11), (long)db_u64(st, 12)},
	        .btime = {(time_t)db_u64(st, 13), (long)db_u64(st, 14)},
	        .parent = db_u64(st, 15),
	        .generation = db_u64(st, 16),
	};
}

static int take_one_inode(struct db *d, sqlite3_stmt *st, void *arg)
{
	(void)d;
	take_inode(st, arg);
	return 0;
}

int ns_inode_get(struct ns *ns, uint64_t ino, struct ns_inode *ret_inode)
{
	struct ns_inode found;

	pthread_mutex_lock(&ns->lock);
	const struct pending_entry *e = pending_find(&ns->pending, PENDING_INODE, ino, "", 0);
	const bool known = e != NULL, gone = known && e->gone;
	if (known)
		found = e->inode;
	pthread_mutex_unlock(&ns->lock);
	if (gone)
		return -ENOENT;
	if (!known) {
		const int r = query_one(ns, STMT_INODE_GET, ino, NULL, take_one_inode, &found);
		if (r < 0)
			return r;
	}
	*ret_inode = found;
	return 0;
}

static int take_name(struct db *d, sqlite3_stmt *st, void *arg)
{
	struct name_row *row = arg;

	(void)d;
	row->ino = db_u64(st, 0);
	row->mode = (uint32_t)db_u64(st, 1);
	row->id = db_u64(st, 2);
	return 0;
}

int ns_name_row(struct ns *ns, uint64_t dir, const char *name, struct name_row *ret_row)
{
	struct name_row found = {0};

	pthread_mutex_lock(&ns->lock);
	const struct pending_entry *e =
	        pending_find(&ns->pending, PENDING_NAME, dir, name, strlen(name));
	const bool known = e != NULL, gone = known && e->gone;
	if (known)
		found = (struct name_row){.id = e->id, .ino = e->ino, .mode = e->mode};
	pthread_mutex_unlock(&ns->lock);
	if (gone)
		return -ENOENT;
	if (!known) {
		const int r = query_one(ns, STMT_NAME_GET, dir, name, take_name, &found);
		if (r < 0)
			return r;
	}
	*ret_row = found;
	return 0;
}

int ns_name_get(
        struct ns *ns, uint64_t dir, const char *name, uint64_t *ret_ino, uint32_t *ret_mode)
{
	struct name_row row;
	const int r = ns_name_row(ns, dir, name, &row);

	if (r < 0)
		return r;
	*ret_ino = row.ino;
	*ret_mode = row.mode;
	return 0;
}

/* --- values: symlink targets and xattrs --- */

struct value_to {
	void *buf;
	size_t cap;
	size_t len; /* of the value */
};

static int value_copy(struct value_to *to, const void *p, size_t len)
{
	to->len = len;
	if (to->cap == 0)
		return 0;
	if (len > to->cap)
		return -ERANGE;
	if (len > 0)
		memcpy(to->buf, p, len);
	return 0;
}

static int take_value(struct db *d, sqlite3_stmt *st, void *arg)
{
	const void *p = NULL;
	size_t len = 0;
	const int r = db_bytes(d, st, 0, &p, &len);

	return r < 0 ? r : value_copy(arg, p, len);
}

static int value_get(
        struct ns *ns, enum pending_kind kind, uint64_t ino, const char *name, struct value_to *to)
{
	int r = -ENOENT;

	pthread_mutex_lock(&ns->lock);
	const struct pending_entry *e = pending_find(&ns->pending, kind, ino, name, strlen(name));
	const bool hidden = e ? e->gone : pending_wiped(&ns->pending, ino);
	if (e && !hidden)
		r = value_copy(to, e->value, e->value_len);
	const bool known = e || hidden;
	pthread_mutex_unlock(&ns->lock);
	if (known)
		return r;
	const bool symlink = kind == PENDING_SYMLINK;
	return query_one(ns, symlink ? STMT_SYMLINK_GET : STMT_XATTR_GET, ino,
	        symlink ? NULL : name, take_value, to);
}

int ns_symlink_get(struct ns *ns, uint64_t ino, char *buf, size_t cap)
{
	char target[ROWS_TARGET_MAX + 1];
	struct value_to to = {.buf = target, .cap = ROWS_TARGET_MAX};
	const int r = value_get(ns, PENDING_SYMLINK, ino, "", &to);

	if (r < 0)
		return r == -ERANGE ? -EIO : r; /* longer than any that was put */
	if (to.len >= cap)
		return -ERANGE;
	memcpy(buf, target, to.len);
	buf[to.len] = '\0';
	return 0;
}

int ns_xattr_get(
        struct ns *ns, uint64_t ino, const char *name, void *buf, size_t cap, size_t *ret_len)
{
	struct value_to to = {.buf = buf, .cap = cap};
	const int r = value_get(ns, PENDING_XATTR, ino, name, &to);

	if (r < 0)
		return r == -ENOENT ? -ENODATA : r;
	*ret_len = to.len;
	return 0;
}

/* Committed names, each terminated, into out. */
static int read_xattr_names(struct ns *ns, uint64_t ino, struct bytes_out *out)
{
	struct db *d = NULL;
	sqlite3_stmt *st = NULL;
	int r = metadb_reader(ns->m, &d);

	if (r == 0)
		r = db_stmt(d, STMT_XATTR_LIST, &st);
	if (r == 0) {
		sqlite3_bind_int64(st, 1, (sqlite3_int64)ino);
		while ((r = db_next(d, st)) == 1) {
			const void *p = NULL;
			size_t len = 0;
			r = db_bytes(d, st, 0, &p, &len);
			if (r < 0)
				break;
			bytes_append(out, p, len);
			bytes_append_u8(out, 0);
		}
		db_done(st);
	}
	metadb_reader_done(ns->m, d);
	return r < 0 ? r : out->failed ? -ENOMEM : 0;
}

/* With the lock held: committed names that are not hidden, then pending ones. */
static void merge_xattr_names(
        struct ns *ns, uint64_t ino, const struct bytes_out *committed, struct bytes_out *out)
{
	const struct pending_entry *e = NULL;
	const bool wiped = pending_wiped(&ns->pending, ino);

	for (size_t at = 0; at < committed->len && !wiped;) {
		const char *name = (const char *)committed->data + at;
		const size_t len = strlen(name);
		if (!pending_find(&ns->pending, PENDING_XATTR, ino, name, len))
			bytes_append(out, name, len + 1);
		at += len + 1;
	}
	while ((e = pending_xattr_after(&ns->pending, ino, e))) {
		bytes_append(out, e->name, e->name_len);
		bytes_append_u8(out, 0);
	}
}

uint64_t ns_drops(struct ns *ns)
{
	pthread_mutex_lock(&ns->lock);
	const uint64_t drops = ns->drops;
	pthread_mutex_unlock(&ns->lock);
	return drops;
}

static int xattr_names(struct ns *ns, uint64_t ino, struct bytes_out *out)
{
	bool done = false;
	int r = 0;

	while (!done && r == 0) {
		struct bytes_out committed = {0};
		const uint64_t drops = ns_drops(ns);
		r = read_xattr_names(ns, ino, &committed);
		pthread_mutex_lock(&ns->lock);
		done = ns->drops == drops;
		if (r == 0 && done)
			merge_xattr_names(ns, ino, &committed, out);
		pthread_mutex_unlock(&ns->lock);
		bytes_release(&committed);
	}
	return r < 0 ? r : out->failed ? -ENOMEM : 0;
}

int ns_xattr_list(struct ns *ns, uint64_t ino, char *buf, size_t cap, size_t *ret_len)
{
	struct bytes_out out = {0};
	struct value_to to = {.buf = buf, .cap = cap};
	int r = xattr_names(ns, ino, &out);

	if (r == 0)
		r = value_copy(&to, out.data, out.len);
	bytes_release(&out);
	if (r < 0)
		return r;
	*ret_len = to.len;
	return 0;
}

/* --- directories --- */

struct listed {
	struct name_row row;
	size_t name_len;
	char name[NS_NAME_MAX + 1];
};

struct listing {
	struct ns *ns;
	uint64_t dir, after; /* ids up to this are done */
	unsigned n_committed, n_out;
	bool end; /* nothing is left behind what is in out */
	struct listed committed[NAME_BATCH], out[NAME_BATCH];
};

static int listed_set(
        struct listed *to, const struct name_row *row, const void *name, size_t name_len)
{
	if (name_len < 1 || name_len > NS_NAME_MAX)
		return -EIO;
	to->row = *row;
	to->name_len = name_len;
	memcpy(to->name, name, name_len);
	to->name[name_len] = '\0';
	return 0;
}

static int read_names(struct listing *l)
{
	const uint64_t params[] = {l->dir, l->after, NAME_BATCH};
	struct db *d = NULL;
	sqlite3_stmt *st = NULL;
	int r = metadb_reader(l->ns->m, &d);

	l->n_committed = 0;
	if (r == 0)
		r = db_stmt(d, STMT_NAME_EACH, &st);
	if (r == 0) {
		db_bind_ints(st, 1, params, ARRAY_SIZE(params));
		while (l->n_committed < NAME_BATCH && (r = db_next(d, st)) == 1) {
			const struct name_row row = {
			        db_u64(st, 0), db_u64(st, 1), (uint32_t)db_u64(st, 2)};
			const void *p = NULL;
			size_t len = 0;
			r = db_bytes(d, st, 3, &p, &len);
			if (r == 0)
				r = listed_set(&l->committed[l->n_committed], &row, p, len);
			if (r < 0)
				break;
			l->n_committed++;
		}
		db_done(st);
	}
	metadb_reader_done(l->ns->m, d);
	return r < 0 ? r : 0;
}

/*
 * With the lock held.  In order of id, until out is full or a full batch of committed names is
 * used up (there may be more of them before the next pending one).
 */
static void merge_names(struct listing *l)
{
	const struct pending *p = &l->ns->pending;
	unsigned at = 0;

	l->n_out = 0;
	l->end = false;
	while (l->n_out < NAME_BATCH) {
		const struct listed *c = at < l->n_committed ? &l->committed[at] : NULL;
		const struct pending_entry *e = pending_name_after(p, l->dir, l->after);
		if (!c && l->n_committed == NAME_BATCH)
			return;
		if (!c && !e) {
			l->end = true;
			return;
		}
		struct listed *to = &l->out[l->n_out];
		if (e && (!c || e->id <= c->row.id)) {
			const struct name_row row = {e->id, e->ino, e->mode};
			l->n_out += listed_set(to, &row, e->name, e->name_len) == 0;
			l->after = e->id;
			at += c && c->row.id == e->id; /* the same name, as it was */
		} else {
			const bool hidden =
			        pending_find(p, PENDING_NAME, l->dir, c->name, c->name_len);
			if (!hidden)
				l->out[l->n_out++] = *c;
			l->after = c->row.id;
			at++;
		}
	}
}

static int next_names(struct listing *l)
{
	bool done = false;
	int r = 0;

	while (!done && r == 0) {
		const uint64_t drops = ns_drops(l->ns);
		r = read_names(l);
		pthread_mutex_lock(&l->ns->lock);
		done = l->ns->drops == drops;
		if (r == 0 && done)
			merge_names(l);
		pthread_mutex_unlock(&l->ns->lock);
	}
	return r;
}

int ns_name_each(struct ns *ns, uint64_t dir, uint64_t cookie, ns_name_fn *fn, void *arg)
{
	CLEANUP(free_ptr) struct listing *l = malloc(sizeof(*l));

	if (!l)
		return -ENOMEM;
	l->ns = ns;
	l->dir = dir;
	l->after = cookie;
	do {
		int r = next_names(l);
		if (r < 0)
			return r;
		for (unsigned i = 0; i < l->n_out; i++) {
			const struct listed *o = &l->out[i];
			r = fn(arg, o->name, o->row.ino, o->row.mode, o->row.id);
			if (r != 0)
				return r < 0 ? r : 0;
		}
	} while (!l->end);
	return 0;
}

static int found_one(void *arg, const char *name, uint64_t ino, uint32_t mode, uint64_t cookie)
{
	(void)name, (void)ino, (void)mode, (void)cookie;
	*(bool *)arg = false;
	return 1;
}

int ns_dir_empty(struct ns *ns, uint64_t dir, bool *ret_empty)
{
	bool empty = true;
	const int r = ns_name_each(ns, dir, 0, found_one, &empty);

	if (r == 0)
		*ret_empty = empty;
	return r;
}

/* --- all inodes --- */

struct pending_inode {
	bool gone;
	struct ns_inode inode; /* ino also when it is gone */
};

struct pending_inodes {
	struct pending_inode *rows; /* owned; in order of ino */
	size_t n;
};

static int compare_ino(const void *a, const void *b)
{
	const uint64_t x = ((const struct pending_inode *)a)->inode.ino;
	const uint64_t y = ((const struct pending_inode *)b)->inode.ino;

	return x < y ? -1 : x > y;
}

static int copy_inodes(struct ns *ns, struct pending_inodes *ret)
{
	size_t n = 0;

	pthread_mutex_lock(&ns->lock);
	struct pending_inode *rows = malloc((ns->pending.n + 1) * sizeof(*rows));
	for (const struct pending_entry *e = ns->pending.oldest; rows && e; e = e->newer) {
		if (e->kind != PENDING_INODE)
			continue;
		rows[n] = (struct pending_inode){.gone = e->gone, .inode = e->inode};
		rows[n++].inode.ino = e->owner;
	}
	pthread_mutex_unlock(&ns->lock);
	if (!rows)
		return -ENOMEM;
	qsort(rows, n, sizeof(*rows), compare_ino);
	*ret = (struct pending_inodes){rows, n};
	return 0;
}

static bool wanted(const struct ns_inode *i, enum ns_inode_filter filter)
{
	return filter == NS_ALL || (filter == NS_REGULAR ? S_ISREG(i->mode) : i->nlink == 0);
}

static int read_inodes(
        struct ns *ns, bool orphans, uint64_t first, struct ns_inode *rows, unsigned *ret_n)
{
	const uint64_t params[] = {first, INODE_BATCH};
	struct db *d = NULL;
	sqlite3_stmt *st = NULL;
	unsigned n = 0;
	int r = metadb_reader(ns->m, &d);

	if (r == 0)
		r = db_stmt(d, orphans ? STMT_INODE_EACH_ORPHAN : STMT_INODE_EACH, &st);
	if (r == 0) {
		db_bind_ints(st, 1, params, ARRAY_SIZE(params));
		while (n < INODE_BATCH && (r = db_next(d, st)) == 1)
			take_inode(st, &rows[n++]);
		db_done(st);
	}
	metadb_reader_done(ns->m, d);
	*ret_n = n;
	return r < 0 ? r : 0;
}

struct walk {
	struct pending_inodes pending;
	size_t at; /* next of pending */
	enum ns_inode_filter filter;
	ns_inode_fn *fn;
	void *arg;
};

/* Pending inodes below ino. */
static int walk_pending(struct walk *w, uint64_t ino)
{
	int r = 0;

	for (; r == 0 && w->at < w->pending.n && w->pending.rows[w->at].inode.ino < ino; w->at++) {
		const struct pending_inode *p = &w->pending.rows[w->at];
		if (!p->gone && wanted(&p->inode, w->filter))
			r = w->fn(w->arg, &p->inode);
	}
	return r;
}

static int walk_committed(struct walk *w, const struct ns_inode *inode)
{
	const int r = walk_pending(w, inode->ino);

	if (r != 0)
		return r;
	if (w->at < w->pending.n && w->pending.rows[w->at].inode.ino == inode->ino)
		return 0; /* overridden: its turn comes with the next */
	return wanted(inode, w->filter) ? w->fn(w->arg, inode) : 0;
}

int ns_inode_each(struct ns *ns, enum ns_inode_filter filter, ns_inode_fn *fn, void *arg)
{
	struct ns_inode rows[INODE_BATCH];
	struct walk w = {.filter = filter, .fn = fn, .arg = arg};
	uint64_t first = 0;
	unsigned n = 0;
	int r = copy_inodes(ns, &w.pending);

	if (r < 0)
		return r;
	do {
		r = read_inodes(ns, filter == NS_ORPHANS, first, rows, &n);
		for (unsigned i = 0; r == 0 && i < n; i++)
			r = walk_committed(&w, &rows[i]);
		if (n > 0)
			first = rows[n - 1].ino + 1;
	} while (r == 0 && n == INODE_BATCH);
	if (r == 0)
		r = walk_pending(&w, UINT64_MAX);
	free(w.pending.rows);
	return r;
}

struct totals {
	uint64_t inodes, bytes;
};

static void totals_add(struct totals *t, uint32_t mode, uint64_t size)
{
	t->inodes++;
	t->bytes += S_ISREG(mode) ? size : 0;
}

static int totals_committed(struct ns *ns, const struct pending_inodes *p, struct totals *t)
{
	struct db *d = NULL;
	sqlite3_stmt *st = NULL;
	size_t at = 0;
	int r = metadb_reader(ns->m, &d);

	if (r == 0)
		r = db_stmt(d, STMT_INODE_TOTALS, &st);
	while (r == 0 && (r = db_next(d, st)) == 1) {
		const uint64_t ino = db_u64(st, 0);
		while (at < p->n && p->rows[at].inode.ino < ino)
			at++;
		if (at == p->n || p->rows[at].inode.ino != ino)
			totals_add(t, (uint32_t)db_u64(st, 2), db_u64(st, 1));
		r = 0;
	}
	metadb_reader_done(ns->m, d);
	return r;
}

int ns_totals(struct ns *ns, uint64_t *ret_inodes, uint64_t *ret_size_bytes)
{
	struct pending_inodes p = {0};
	struct totals t = {0};
	int r = copy_inodes(ns, &p);

	if (r < 0)
		return r;
	for (size_t i = 0; i < p.n; i++)
		if (!p.rows[i].gone)
			totals_add(&t, p.rows[i].inode.mode, p.rows[i].inode.size);
	r = totals_committed(ns, &p, &t);
	free(p.rows);
	if (r < 0)
		return r;
	*ret_inodes = t.inodes;
	*ret_size_bytes = t.bytes;
	return 0;
}

/*
 * namespace.c - changes of inodes, names and extended attributes; the pending view
 *
 * A change becomes a row.  It is encoded, handed to the sink (which carries it to the intent log
 * and into its group's transaction) and then taken into the pending view, tagged with the group;
 * both under change_lock, so that they agree on the order.  Memory is allocated before the sink is
 * called: once it has taken a row, nothing can fail.
 *
 * When a group is committed its entries are dropped, unless a later group has replaced them. Groups
 * follow each other, so tags only grow, and the entries to drop are the oldest.
 *
 * Directory entries get an id, which is their cookie: from a counter that only grows, and kept when
 * a name is replaced.  Inode numbers, and the numbers of records, come from such counters too.  They start from what meta.db
 * recorded (rows-apply.c raises its counters with every row) and are raised by the rows of the
 * intent log.
 */
#include <errno.h>
#include <string.h>

#include "meta/ns.h"

static void raise_to(_Atomic uint64_t *counter, uint64_t value)
{
	uint64_t now = atomic_load(counter);

	while (now < value && !atomic_compare_exchange_weak(counter, &now, value))
		;
}

static int read_counters(struct ns *ns)
{
	struct db *d = NULL;
	sqlite3_stmt *st = NULL;
	int r = metadb_reader(ns->m, &d);

	if (r == 0)
		r = db_stmt(d, STMT_NEXT_GET, &st);
	if (r == 0)
		r = db_next(d, st);
	if (r == 1) {
		ns->next_ino = db_u64(st, 0);
		ns->next_dirent = db_u64(st, 1);
		ns->next_number = db_u64(st, 2);
		db_done(st);
	}
	metadb_reader_done(ns->m, d);
	return r == 1 ? 0 : r < 0 ? r : -EIO;
}

int ns_open(struct meta *m, struct ns **ret_ns, struct errmsg *em)
{
	struct ns *ns = calloc(1, sizeof(*ns));

	if (!ns)
		return errmsg_set(em, -ENOMEM, "out of memory");
	ns->m = metadb_of(m);
	pthread_mutex_init(&ns->change_lock, NULL);
	pthread_mutex_init(&ns->lock, NULL);
	int r = pending_init(&ns->pending);
	if (r == 0)
		r = read_counters(ns);
	if (r < 0) {
		ns_close(ns);
		return errmsg_set(em, r, "cannot read '%s': %s", META_NAME, strerror(-r));
	}
	*ret_ns = ns;
	return 0;
}

void ns_close(struct ns *ns)
{
	if (!ns)
		return;
	pending_release(&ns->pending);
	pthread_mutex_destroy(&ns->lock);
	pthread_mutex_destroy(&ns->change_lock);
	free(ns);
}

void ns_set_sink(struct ns *ns, const struct ns_sink *sink)
{
	ns->sink = *sink;
}

uint64_t ns_ino_alloc(struct ns *ns)
{
	return atomic_fetch_add(&ns->next_ino, 1);
}

uint64_t ns_number_alloc(struct ns *ns)
{
	return atomic_fetch_add(&ns->next_number, 1);
}

static void take(struct ns *ns, struct pending_entry *e, uint64_t txg)
{
	if (e->kind == PENDING_INODE && !e->gone)
		raise_to(&ns->next_ino, e->owner + 1);
	if (e->kind == PENDING_NAME && !e->gone)
		raise_to(&ns->next_dirent, e->id + 1);
	if (e->kind == PENDING_RECORD && !e->gone)
		raise_to(&ns->next_number, record_number(e->table, e->owner, e->id) + 1);
	pthread_mutex_lock(&ns->lock);
	pending_take(&ns->pending, e, txg);
	pthread_mutex_unlock(&ns->lock);
}

int ns_change(struct ns *ns, const struct row *row)
{
	struct bytes_out out = {0};
	struct row checked;

	row_encode(row, &out);
	struct pending_entry *e = out.failed ? NULL : pending_entry_new(row);
	int r = e ? 0 : -ENOMEM;
	/* What could not be read back must not get into the log. */
	struct bytes_in in = {.data = out.data, .len = out.len};
	if (r == 0 && row_decode(&in, &checked) != 1)
		r = -EINVAL;
	if (r == 0) {
		pthread_mutex_lock(&ns->change_lock);
		const uint64_t txg = ns->sink.txg(ns->sink.arg);
		r = ns->sink.append(ns->sink.arg, out.data, out.len);
		if (r == 0)
			take(ns, STEAL(e), txg);
		pthread_mutex_unlock(&ns->change_lock);
	}
	free(e);
	bytes_release(&out);
	return r;
}

int ns_inode_put(struct ns *ns, const struct ns_inode *inode)
{
	const struct row row = {.type = ROW_INODE_PUT, .inode = *inode};

	return ns_change(ns, &row);
}

int ns_inode_del(struct ns *ns, uint64_t ino)
{
	const struct row row = {.type = ROW_INODE_DEL, .owner = ino};

	return ns_change(ns, &row);
}

int ns_name_put(struct ns *ns, uint64_t dir, const char *name, uint64_t ino, uint32_t mode)
{
	struct name_row was;
	struct row row = {
	        .type = ROW_NAME_PUT, .owner = dir, .ino = ino, .mode = mode, .name = name};

	row.name_len = strlen(name);
	if (row.name_len > NS_NAME_MAX)
		return -ENAMETOOLONG;
	const int r = ns_name_row(ns, dir, name, &was);
	if (r < 0 && r != -ENOENT)
		return r;
	row.id = r == 0 ? was.id : atomic_fetch_add(&ns->next_dirent, 1);
	return ns_change(ns, &row);
}

int ns_name_del(struct ns *ns, uint64_t dir, const char *name)
{
	const struct row row = {
	        .type = ROW_NAME_DEL, .owner = dir, .name = name, .name_len = strlen(name)};

	return ns_change(ns, &row);
}

int ns_symlink_put(struct ns *ns, uint64_t ino, const char *target)
{
	const struct row row = {.type = ROW_SYMLINK_PUT,
	        .owner = ino,
	        .value = target,
	        .value_len = strlen(target)};

	return row.value_len > ROWS_TARGET_MAX ? -ENAMETOOLONG : ns_change(ns, &row);
}

int ns_xattr_put(struct ns *ns, uint64_t ino, const char *name, const void *value, size_t len)
{
	const struct row row = {.type = ROW_XATTR_PUT,
	        .owner = ino,
	        .name = name,
	        .name_len = strlen(name),
	        .value = value,
	        .value_len = len};

	if (row.name_len > NS_NAME_MAX)
		return -ERANGE;
	return len > XATTR_SIZE_MAX_BYTES ? -E2BIG : ns_change(ns, &row);
}

int ns_xattr_del(struct ns *ns, uint64_t ino, const char *name)
{
	const struct row row = {
	        .type = ROW_XATTR_DEL, .owner = ino, .name = name, .name_len = strlen(name)};
	size_t len = 0;
	const int r = ns_xattr_get(ns, ino, name, NULL, 0, &len);

	return r < 0 ? r : ns_change(ns, &row);
}

void ns_committed(struct ns *ns, uint64_t txg)
{
	pthread_mutex_lock(&ns->lock);
	pending_drop(&ns->pending, txg);
	ns->drops++;
	pthread_mutex_unlock(&ns->lock);
}

int ns_replay(struct ns *ns, const void *rows, size_t len)
{
	struct bytes_in in = {.data = rows, .len = len};
	const uint64_t txg = ns->sink.txg(ns->sink.arg);
	struct row row;
	int r;

	while ((r = row_decode(&in, &row)) == 1) {
		struct pending_entry *e = pending_entry_new(&row);
		if (!e)
			return -ENOMEM;
		take(ns, e, txg);
	}
	return r;
}

size_t ns_pending(struct ns *ns)
{
	pthread_mutex_lock(&ns->lock);
	const size_t n = ns->pending.n;
	pthread_mutex_unlock(&ns->lock);
	return n;
}

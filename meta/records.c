/*
 * records.c - rows of the filter framework: pending over committed
 *
 * Changes are rows like those of the namespace (namespace.c takes them into the log and the pending
 * view).  Reading one record asks the pending view, then meta.db.  Lists come in batches, each
 * merged from committed rows and pending ones in order of (owner, id): meta.db is read first, then
 * the lock is taken and the two are merged, unless a group was dropped from the pending view in
 * between; then the batch is read again (see namespace-read.c).  fn is called without the lock, so
 * it may change records; a list shows for each record a state that it had while the list was made.
 *
 * What belongs to an inode is hidden from the moment the inode is deleted, as its xattrs are.
 *
 * Memory is bounded: a batch ends at RECORD_BATCH rows or when it holds BATCH_BYTES of values.
 */
#include "meta/records.h"

#include <errno.h>

#include "meta/ns.h"

#define RECORD_BATCH 64u
#define BATCH_BYTES  (256u << 10) /* one value more may be in it */

/* --- changes --- */

/* Counted when readers see it. */
static int record_change(struct ns *ns, const struct row *row)
{
	const int r = ns_change(ns, row);

	if (!r && row->table == RECORD_SNAPSHOT)
		ns->snapshot_changes++;
	return r;
}

int ns_record_put(struct ns *ns, enum record_table table, uint64_t owner, uint64_t id,
        const void *value, size_t len)
{
	const struct row row = {.type = ROW_RECORD_PUT,
	        .table = table,
	        .owner = owner,
	        .id = id,
	        .value = value,
	        .value_len = len};

	return len > RECORD_VALUE_MAX ? -E2BIG : record_change(ns, &row);
}

int ns_record_del(struct ns *ns, enum record_table table, uint64_t owner, uint64_t id)
{
	const struct row row = {.type = ROW_RECORD_DEL, .table = table, .owner = owner, .id = id};

	return record_change(ns, &row);
}

uint64_t ns_snapshot_changes(struct ns *ns)
{
	return ns->snapshot_changes;
}

/* --- one record --- */

/* With the lock held: whether the pending view hides a committed record, or replaces it. */
static bool hidden(struct ns *ns, enum record_table table, uint64_t owner, uint64_t id)
{
	return pending_record(&ns->pending, table, owner, id) ||
	       (record_of_inode(table) && pending_wiped(&ns->pending, owner));
}

static int get_committed(
        struct ns *ns, enum record_table table, uint64_t owner, uint64_t id, struct bytes_out *out)
{
	const uint64_t params[] = {owner, id};
	const void *p = NULL;
	size_t len = 0;
	struct db *d = NULL;
	sqlite3_stmt *st = NULL;
	int r = metadb_reader(ns->m, &d);

	if (r == 0)
		r = db_stmt(d, db_record_stmt(table, RECORD_STMT_GET), &st);
	if (r == 0) {
		db_bind_ints(st, 1, params, ARRAY_SIZE(params));
		r = db_next(d, st);
		r = r == 0 ? -ENOENT : r < 0 ? r : db_bytes(d, st, 0, &p, &len);
		if (r == 0)
			bytes_append(out, p, len);
		db_done(st);
	}
	metadb_reader_done(ns->m, d);
	return r;
}

int ns_record_get(struct ns *ns, enum record_table table, uint64_t owner, uint64_t id,
        struct bytes_out *ret_value)
{
	struct bytes_out out = {0};
	int r = -ENOENT;

	pthread_mutex_lock(&ns->lock);
	const struct pending_entry *e = pending_record(&ns->pending, table, owner, id);
	const bool known = hidden(ns, table, owner, id);
	if (e && !e->gone) {
		bytes_append(&out, e->value, e->value_len);
		r = 0;
	}
	pthread_mutex_unlock(&ns->lock);
	if (!known)
		r = get_committed(ns, table, owner, id, &out);
	if (r == 0 && out.failed)
		r = -ENOMEM;
	if (r < 0)
		bytes_release(&out);
	else
		*ret_value = out;
	return r;
}

/* --- lists --- */

struct listed {
	uint64_t owner, id;
	size_t at, len; /* of its value, in the values of its batch */
};

struct batch {
	struct bytes_out values;
	unsigned n;
	struct listed rows[RECORD_BATCH];
};

struct listing {
	struct ns *ns;
	enum record_table table;
	bool all;           /* owners */
	uint64_t owner, id; /* the next one to look at */
	bool committed_end; /* nothing of meta.db is left behind the batch of it */
	bool end;           /* nothing at all is left */
	struct batch committed, out;
};

static void batch_clear(struct batch *b)
{
	b->n = 0;
	b->values.len = 0;
}

static bool batch_full(const struct batch *b)
{
	return b->n == RECORD_BATCH || b->values.len >= BATCH_BYTES;
}

static void batch_add(struct batch *b, uint64_t owner, uint64_t id, const void *value, size_t len)
{
	b->rows[b->n++] =
	        (struct listed){.owner = owner, .id = id, .at = b->values.len, .len = len};
	if (len > 0)
		bytes_append(&b->values, value, len);
}

static int read_rows(struct listing *l, struct db *d, sqlite3_stmt *st)
{
	struct batch *b = &l->committed;
	int r = 0;

	while (!batch_full(b) && (r = db_next(d, st)) == 1) {
		const void *p = NULL;
		size_t len = 0;
		r = db_bytes(d, st, 2, &p, &len);
		if (r < 0)
			return r;
		batch_add(b, db_u64(st, 0), db_u64(st, 1), p, len);
	}
	l->committed_end = r == 0 && !batch_full(b);
	return r < 0 ? r : b->values.failed ? -ENOMEM : 0;
}

static int read_committed(struct listing *l)
{
	const uint64_t params[] = {l->owner, l->id, RECORD_BATCH};
	struct db *d = NULL;
	sqlite3_stmt *st = NULL;
	int r = metadb_reader(l->ns->m, &d);

	batch_clear(&l->committed);
	if (r == 0)
		r = db_stmt(d,
		        db_record_stmt(
		                l->table, l->all ? RECORD_STMT_EACH_OWNER : RECORD_STMT_EACH),
		        &st);
	if (r == 0) {
		db_bind_ints(st, 1, params, ARRAY_SIZE(params));
		r = read_rows(l, d, st);
		db_done(st);
	}
	metadb_reader_done(l->ns->m, d);
	return r;
}

static int compare(const struct listed *a, uint64_t owner, uint64_t id)
{
	if (a->owner != owner)
		return a->owner < owner ? -1 : 1;
	return a->id < id ? -1 : a->id > id;
}

static const struct pending_entry *pending_next(const struct listing *l)
{
	const struct pending_entry *e =
	        pending_record_from(&l->ns->pending, l->table, l->owner, l->id);

	return e && (l->all || e->owner == l->owner) ? e : NULL;
}

/* With the lock held: until out is full, or what was read of meta.db is used up. */
static void merge(struct listing *l)
{
	const struct batch *b = &l->committed;
	unsigned at = 0;

	batch_clear(&l->out);
	while (!batch_full(&l->out)) {
		const struct listed *c = at < b->n ? &b->rows[at] : NULL;
		const struct pending_entry *e = pending_next(l);
		if (!c && !l->committed_end)
			return;
		l->end = !c && !e;
		if (l->end)
			return;
		if (e && (!c || compare(c, e->owner, e->id) >= 0)) {
			batch_add(&l->out, e->owner, e->id, e->value, e->value_len);
			at += c && compare(c, e->owner, e->id) == 0; /* the same, as it was */
			l->owner = e->owner;
			l->id = e->id + 1;
			continue;
		}
		if (!hidden(l->ns, l->table, c->owner, c->id))
			batch_add(&l->out, c->owner, c->id, b->values.data + c->at, c->len);
		l->owner = c->owner;
		l->id = c->id + 1;
		at++;
	}
}

static int next_batch(struct listing *l)
{
	bool done = false;
	int r = 0;

	while (!done && r == 0) {
		const uint64_t drops = ns_drops(l->ns);
		r = read_committed(l);
		pthread_mutex_lock(&l->ns->lock);
		done = l->ns->drops == drops;
		if (r == 0 && done)
			merge(l);
		pthread_mutex_unlock(&l->ns->lock);
	}
	return r < 0 ? r : l->out.values.failed ? -ENOMEM : 0;
}

static int each(struct listing *l, ns_record_fn *fn, void *arg)
{
	int r = 0;

	while (r == 0 && !l->end) {
		r = next_batch(l);
		for (unsigned i = 0; r == 0 && i < l->out.n; i++) {
			const struct listed *row = &l->out.rows[i];
			const void *value = row->len ? l->out.values.data + row->at : (void *)"";
			r = fn(arg, row->owner, row->id, value, row->len);
		}
	}
	bytes_release(&l->committed.values);
	bytes_release(&l->out.values);
	return r;
}

int ns_record_each(struct ns *ns, enum record_table table, uint64_t owner, uint64_t from,
        ns_record_fn *fn, void *arg)
{
	CLEANUP(free_ptr) struct listing *l = calloc(1, sizeof(*l));

	if (!l)
		return -ENOMEM;
	l->ns = ns;
	l->table = table;
	l->owner = owner;
	l->id = from;
	l->end = owner > INT64_MAX || from > INT64_MAX; /* there are none */
	return each(l, fn, arg);
}

int ns_record_each_owner(struct ns *ns, enum record_table table, ns_record_fn *fn, void *arg)
{
	CLEANUP(free_ptr) struct listing *l = calloc(1, sizeof(*l));

	if (!l)
		return -ENOMEM;
	l->ns = ns;
	l->table = table;
	l->all = true;
	return each(l, fn, arg);
}

/* --- the highest id --- */

/* The highest committed id of an owner up to *id: 1, or 0: none. */
static int committed_before(struct ns *ns, enum record_table table, uint64_t owner, uint64_t *id)
{
	const uint64_t params[] = {owner, *id};
	struct db *d = NULL;
	sqlite3_stmt *st = NULL;
	int r = metadb_reader(ns->m, &d);

	if (r == 0)
		r = db_stmt(d, db_record_stmt(table, RECORD_STMT_BEFORE), &st);
	if (r == 0) {
		db_bind_ints(st, 1, params, ARRAY_SIZE(params));
		r = db_next(d, st);
		if (r == 1)
			*id = db_u64(st, 0);
		db_done(st);
	}
	metadb_reader_done(ns->m, d);
	return r;
}

int ns_record_last(struct ns *ns, enum record_table table, uint64_t owner, uint64_t *ret_id)
{
	uint64_t id = INT64_MAX, last = 0;

	for (;;) {
		const uint64_t drops = ns_drops(ns);
		const int r = committed_before(ns, table, owner, &id);
		if (r < 0)
			return r;
		pthread_mutex_lock(&ns->lock);
		const struct pending_entry *e = pending_record_last(&ns->pending, table, owner);
		last = e ? e->id : 0;
		const bool dropped = ns->drops != drops;
		const bool gone = r == 1 && id > last && hidden(ns, table, owner, id);
		pthread_mutex_unlock(&ns->lock);
		if (!dropped && !gone) {
			*ret_id = r == 1 ? MAX(id, last) : last;
			return 0;
		}
		/* From the top, or from below the one that is deleted. */
		id = dropped ? INT64_MAX : id - 1;
	}
}

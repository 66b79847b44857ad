/*
 * port.c - struct meta_ops on SQLite
 *
 * Reads take a connection from the pool for one statement.  Writes go through the writer
 * connection, between begin and commit, on the txg thread.  Iterations read a batch of rows into
 * memory, give the connection back, and only then call the caller's function, which may therefore
 * read itself and take its time.
 *
 * Failure.  After a failed step the caller rolls back and repeats the whole group from begin.  A
 * COMMIT that failed leaves two things open, and rollback() closes both:
 *   1. This process.  SQLite publishes a commit to its readers only after the sync, so nobody has
 * seen it, and ROLLBACK makes the next transaction overwrite its frames.
 *   2. The disk.  Its frames may be there, commit mark included, and a recovery would accept them.
 * By themselves they are harmless, even right: everything the group refers to was synced before
 * COMMIT, the rows are idempotent puts, and the intent log is trimmed only after a commit that
 * succeeded.  But the engine goes on to seal the segments of the failed group at their old length
 * and to write elsewhere: from then on those frames would name bytes that are gone.  So the frames
 * are scrubbed from the WAL (dbvfs_scrub), and until that has succeeded begin answers -EIO. A
 * connection that cannot even roll back is closed; begin opens a new one.  The WAL index stays with
 * the VFS, so the new one sees the same last commit.
 *
 * Checkpoints.  The WAL is copied into meta.db after the commit that takes it past
 * CHECKPOINT_FRAMES, on the same thread. SQLite starts the WAL over with the next transaction that
 * finds it copied and without readers. A checkpoint that fails does not undo the commit: it is
 * logged and tried again when the WAL has grown further.
 */
#include "meta/metadb.h"

#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "meta/rows.h"

#define CHECKPOINT_FRAMES 2048u /* 16 MiB */
#define NODE_BATCH        1024
#define IMAGE_BATCH       64
#define SNAPSHOT_BATCH    64
#define SEGMENT_BATCH     64

/* --- reading --- */

static int read_state(struct db *d, struct store_state *ret_state)
{
	struct store_state s;
	sqlite3_stmt *st = NULL;
	int r = db_stmt(d, STMT_STATE_GET, &st);

	if (r == 0)
		r = db_next(d, st);
	if (r <= 0)
		return r < 0 ? r : -EIO;
	s.txg = db_u64(st, 0);
	s.next_segment = db_u64(st, 1);
	s.next_node = db_u64(st, 2);
	s.log_epoch = db_u64(st, 3);
	s.log_tail_off = db_u64(st, 4);
	s.log_tail_seq = db_u64(st, 5);
	const bool good = sqlite3_column_bytes(st, 6) == sizeof(s.uuid) &&
	                  sqlite3_column_bytes(st, 7) == sizeof(s.domain_key);
	if (good) {
		memcpy(s.uuid, sqlite3_column_blob(st, 6), sizeof(s.uuid));
		memcpy(s.domain_key, sqlite3_column_blob(st, 7), sizeof(s.domain_key));
		*ret_state = s;
	}
	db_done(st);
	return good ? 0 : -EIO;
}

static int port_state_get(struct meta *meta, struct store_state *ret_state)
{
	struct metadb *m = metadb_of(meta);
	struct db *d = NULL;
	int r = metadb_reader(m, &d);

	if (r == 0)
		r = read_state(d, ret_state);
	metadb_reader_done(m, d);
	return r;
}

/* A page that fails its checksum will do so the next time; an error of the medium may pass. */
static int node_error(struct db *d, int err)
{
	const int code = sqlite3_extended_errcode(d->handle);

	return err == -EIO && (code == SQLITE_IOERR_DATA || code == SQLITE_CORRUPT) ? -EUCLEAN
	                                                                            : err;
}

static int read_node(struct db *d, uint64_t id, void *buf, size_t cap, size_t *ret_len)
{
	sqlite3_stmt *st = NULL;
	int r = db_stmt(d, STMT_NODE_GET, &st);

	if (r < 0)
		return r;
	sqlite3_bind_int64(st, 1, (sqlite3_int64)id);
	r = db_next(d, st);
	if (r <= 0)
		return r < 0 ? node_error(d, r) : -ENOENT;
	/* The blob may be on overflow pages, whose damage shows here: as NULL and an error code. */
	const void *blob = sqlite3_column_blob(st, 0);
	const size_t len = (size_t)sqlite3_column_bytes(st, 0);
	if (!blob && sqlite3_errcode(d->handle) == SQLITE_NOMEM)
		r = -ENOMEM;
	else if (!blob || len > cap)
		r = node_error(d, -EIO);
	else
		memcpy(buf, blob, len);
	db_done(st);
	if (r < 0)
		return r;
	*ret_len = len;
	return 0;
}

static int port_node_get(struct meta *meta, uint64_t id, void *buf, size_t cap, size_t *ret_len)
{
	struct metadb *m = metadb_of(meta);
	struct db *d = NULL;
	int r = metadb_reader(m, &d);

	if (r == 0)
		r = read_node(d, id, buf, cap, ret_len);
	metadb_reader_done(m, d);
	return r;
}

/* Anything outside 0..2^32-1 in the column makes *bad true. */
static uint32_t col_u32(sqlite3_stmt *st, int col, bool *bad)
{
	const uint64_t v = db_u64(st, col);

	*bad = *bad || v > UINT32_MAX;
	return (uint32_t)v;
}

static bool take_image(sqlite3_stmt *st, void *ret_row)
{
	struct image_row *row = ret_row;
	bool bad = false;

	row->image = db_u64(st, 0);
	row->root = db_u64(st, 1);
	row->height = col_u32(st, 2, &bad);
	row->data_chunks = db_u64(st, 3);
	row->zero_chunks = db_u64(st, 4);
	row->snap_epoch = db_u64(st, 5);
	return !bad;
}

static bool take_snapshot(sqlite3_stmt *st, void *ret_row)
{
	struct snapshot_row *row = ret_row;
	bool bad = false;

	row->id = db_u64(st, 0);
	row->image = db_u64(st, 1);
	row->root = db_u64(st, 2);
	row->height = col_u32(st, 3, &bad);
	row->domain = col_u32(st, 4, &bad);
	row->data_chunks = db_u64(st, 5);
	row->zero_chunks = db_u64(st, 6);
	row->txg = db_u64(st, 7);
	return !bad;
}

static bool take_segment(sqlite3_stmt *st, void *ret_row)
{
	struct segment_row *row = ret_row;
	bool bad = false;

	row->id = db_u64(st, 0);
	row->gen = col_u32(st, 1, &bad);
	row->tier = col_u32(st, 2, &bad);
	row->domain = col_u32(st, 3, &bad);
	const uint32_t state = col_u32(st, 4, &bad);
	row->state = (enum segment_state)state;
	row->bytes = col_u32(st, 5, &bad);
	row->slots = col_u32(st, 6, &bad);
	row->live_chunks = col_u32(st, 7, &bad);
	row->live_bytes = col_u32(st, 8, &bad);
	row->file_bytes = col_u32(st, 9, &bad);
	row->created_txg = db_u64(st, 10);
	return !bad && (state == SEGMENT_OPEN || state == SEGMENT_SEALED);
}

static bool take_id(sqlite3_stmt *st, void *ret_row)
{
	*(uint64_t *)ret_row = db_u64(st, 0);
	return true;
}

/* The row with this key, which take() makes of it.  -ENOENT; -EIO: it cannot be one. */
static int read_row(struct meta *meta, enum db_stmt id, uint64_t key,
        bool (*take)(sqlite3_stmt *st, void *ret_row), void *ret_row)
{
	struct metadb *m = metadb_of(meta);
	sqlite3_stmt *st = NULL;
	struct db *d = NULL;
	int r = metadb_reader(m, &d);

	if (r == 0)
		r = db_stmt(d, id, &st);
	if (r == 0) {
		sqlite3_bind_int64(st, 1, (sqlite3_int64)key);
		r = db_next(d, st);
		if (r == 0)
			r = -ENOENT;
	}
	if (r > 0) {
		r = take(st, ret_row) ? 0 : -EIO;
		db_done(st);
	}
	metadb_reader_done(m, d);
	return r;
}

static int port_image_get(struct meta *meta, uint64_t image, struct image_row *ret_row)
{
	struct image_row row;
	const int r = read_row(meta, STMT_IMAGE_GET, image, take_image, &row);

	if (r == 0)
		*ret_row = row;
	return r;
}

static int port_snapshot_get(struct meta *meta, uint64_t id, struct snapshot_row *ret_row)
{
	struct snapshot_row row;
	const int r = read_row(meta, STMT_SNAPSHOT_GET, id, take_snapshot, &row);

	if (r == 0)
		*ret_row = row;
	return r;
}

/* Reads up to cap rows of row_len bytes; the statement's integer parameters are all given. */
struct batch {
	enum db_stmt stmt;
	bool (*take)(sqlite3_stmt *st, void *ret_row);
	size_t row_len;
	unsigned cap;
};

static int read_batch(struct metadb *m, const struct batch *b, const uint64_t *params, int n_params,
        void *rows, unsigned *ret_n)
{
	struct db *d = NULL;
	sqlite3_stmt *st = NULL;
	unsigned n = 0;
	int r = metadb_reader(m, &d);

	if (r == 0)
		r = db_stmt(d, b->stmt, &st);
	if (r == 0) {
		db_bind_ints(st, 1, params, n_params);
		while (n < b->cap && (r = db_next(d, st)) == 1) {
			if (!b->take(st, (uint8_t *)rows + n * b->row_len)) {
				r = -EIO;
				break;
			}
			n++;
		}
		db_done(st);
	}
	metadb_reader_done(m, d);
	if (r < 0)
		return r;
	*ret_n = n;
	return 0;
}

static int port_image_each(struct meta *meta, image_row_fn *fn, void *arg)
{
	static const struct batch b = {
	        STMT_IMAGE_EACH, take_image, sizeof(struct image_row), IMAGE_BATCH};
	struct image_row rows[IMAGE_BATCH];
	uint64_t params[] = {0, IMAGE_BATCH};
	unsigned n = 0;

	do {
		int r = read_batch(metadb_of(meta), &b, params, 2, rows, &n);
		for (unsigned i = 0; r == 0 && i < n; i++)
			r = fn(arg, &rows[i]);
		if (r != 0)
			return r;
		if (n > 0)
			params[0] = rows[n - 1].image + 1;
	} while (n == IMAGE_BATCH);
	return 0;
}

static int port_snapshot_each(struct meta *meta, snapshot_row_fn *fn, void *arg)
{
	static const struct batch b = {
	        STMT_SNAPSHOT_EACH, take_snapshot, sizeof(struct snapshot_row), SNAPSHOT_BATCH};
	struct snapshot_row rows[SNAPSHOT_BATCH];
	uint64_t params[] = {0, SNAPSHOT_BATCH};
	unsigned n = 0;

	do {
		int r = read_batch(metadb_of(meta), &b, params, 2, rows, &n);
		for (unsigned i = 0; r == 0 && i < n; i++)
			r = fn(arg, &rows[i]);
		if (r != 0)
			return r;
		if (n > 0)
			params[0] = rows[n - 1].id + 1;
	} while (n == SNAPSHOT_BATCH);
	return 0;
}

static int port_segment_each(struct meta *meta, segment_row_fn *fn, void *arg)
{
	static const struct batch b = {
	        STMT_SEGMENT_EACH, take_segment, sizeof(struct segment_row), SEGMENT_BATCH};
	struct segment_row rows[SEGMENT_BATCH];
	uint64_t params[] = {0, SEGMENT_BATCH};
	unsigned n = 0;

	do {
		int r = read_batch(metadb_of(meta), &b, params, 2, rows, &n);
		for (unsigned i = 0; r == 0 && i < n; i++)
			r = fn(arg, &rows[i]);
		if (r != 0)
			return r;
		if (n > 0)
			params[0] = rows[n - 1].id + 1;
	} while (n == SEGMENT_BATCH);
	return 0;
}

static int port_node_each(
        struct meta *meta, uint64_t first, uint64_t last, node_id_fn *fn, void *arg)
{
	static const struct batch b = {STMT_NODE_EACH, take_id, sizeof(uint64_t), NODE_BATCH};
	uint64_t ids[NODE_BATCH];
	uint64_t params[] = {
	        MIN(first, (uint64_t)INT64_MAX), MIN(last, (uint64_t)INT64_MAX), NODE_BATCH};
	unsigned n = 0;

	do {
		int r = read_batch(metadb_of(meta), &b, params, 3, ids, &n);
		for (unsigned i = 0; r == 0 && i < n; i++)
			r = fn(arg, ids[i]);
		if (r != 0)
			return r;
		if (n > 0)
			params[0] = ids[n - 1] + 1;
	} while (n == NODE_BATCH);
	return 0;
}

/* Copies the first parked record behind (*image, *id).  1: there is one, 0: none. */
static int read_parked(
        struct metadb *m, uint64_t *image, uint64_t *id, uint8_t **ret_blob, size_t *ret_len)
{
	const uint64_t after[] = {*image, *id};
	struct db *d = NULL;
	sqlite3_stmt *st = NULL;
	int r = metadb_reader(m, &d);

	if (r == 0)
		r = db_stmt(d, STMT_PARKED_EACH, &st);
	if (r == 0) {
		db_bind_ints(st, 1, after, 2);
		r = db_next(d, st);
	}
	if (r == 1) {
		const void *blob = sqlite3_column_blob(st, 2);
		const size_t len = (size_t)sqlite3_column_bytes(st, 2);

		*image = db_u64(st, 0);
		*id = db_u64(st, 1);
		*ret_blob = blob ? malloc(len) : NULL;
		if (*ret_blob)
			memcpy(*ret_blob, blob, len);
		else
			r = blob ? -ENOMEM : -EIO;
		*ret_len = len;
		db_done(st);
	}
	metadb_reader_done(m, d);
	return r;
}

static int port_parked_each(struct meta *meta, uint64_t image, parked_fn *fn, void *arg)
{
	uint64_t at = image, id = image ? 0 : UINT32_MAX; /* of image 0 are the scrub's fillings */
	int r;

	for (;;) {
		CLEANUP(free_ptr) uint8_t *blob = NULL;
		size_t len = 0;

		r = read_parked(metadb_of(meta), &at, &id, &blob, &len);
		if (r <= 0 || (image && at != image))
			return MIN(r, 0);
		r = fn(arg, at, id, blob, len);
		if (r != 0)
			return r;
	}
}

/* --- writing --- */

static int run_plain(struct metadb *m, enum db_stmt id)
{
	sqlite3_stmt *st = NULL;
	const int r = db_stmt(m->writer, id, &st);

	return r < 0 ? r : db_run(m->writer, st);
}

static int port_begin(struct meta *meta)
{
	struct metadb *m = metadb_of(meta);

	ASSERT(!m->in_transaction);
	int r = metadb_writer(m);
	if (r == 0)
		r = metadb_scrub(m);
	if (r == 0)
		r = run_plain(m, STMT_BEGIN);
	m->in_transaction = r == 0;
	return r;
}

static void port_rollback(struct meta *meta)
{
	struct metadb *m = metadb_of(meta);

	if (m->writer && !sqlite3_get_autocommit(m->writer->handle) &&
	        run_plain(m, STMT_ROLLBACK) < 0) {
		db_close(m->writer);
		m->writer = NULL;
	}
	m->in_transaction = false;
	if (metadb_scrub(m) < 0)
		return; /* begin tries again */
}

static void checkpoint_if_due(struct metadb *m)
{
	const unsigned frames = m->writer->wal_frames;

	if (frames < m->checkpoint_frames)
		m->checkpoint_frames = CHECKPOINT_FRAMES; /* it has started over */
	if (frames < CHECKPOINT_FRAMES || frames < m->checkpoint_frames)
		return;
	m->checkpoint_frames = frames + CHECKPOINT_FRAMES / 4;
	if (metadb_checkpoint(m, SQLITE_CHECKPOINT_PASSIVE) < 0)
		log_warn("meta.db: its WAL is %u pages long and could not be copied", frames);
}

static int port_commit(struct meta *meta)
{
	struct metadb *m = metadb_of(meta);

	ASSERT(m->in_transaction);
	const int r = run_plain(m, STMT_COMMIT);
	if (r < 0) {
		m->commit_failed = true;
		return r;
	}
	m->in_transaction = false;
	checkpoint_if_due(m);
	return 0;
}

/* Integers, then perhaps one blob. */
static int put(struct meta *meta, enum db_stmt id, const uint64_t *ints, int n, const void *blob,
        size_t len)
{
	struct metadb *m = metadb_of(meta);
	sqlite3_stmt *st = NULL;

	ASSERT(m->in_transaction);
	const int r = db_stmt(m->writer, id, &st);
	if (r < 0)
		return r;
	db_bind_ints(st, 1, ints, n);
	if (blob)
		db_bind_bytes(st, n + 1, blob, len);
	return db_run(m->writer, st);
}

static int port_node_put(struct meta *meta, uint64_t id, const void *blob, size_t len)
{
	ASSERT(len > 0 && len <= NODE_BLOB_MAX);
	return put(meta, STMT_NODE_PUT, &id, 1, blob, len);
}

static int port_node_del(struct meta *meta, uint64_t id)
{
	return put(meta, STMT_NODE_DEL, &id, 1, NULL, 0);
}

static int port_image_put(struct meta *meta, const struct image_row *row)
{
	const uint64_t ints[] = {row->image, row->root, row->height, row->data_chunks,
	        row->zero_chunks, row->snap_epoch};

	return put(meta, STMT_IMAGE_PUT, ints, ARRAY_SIZE(ints), NULL, 0);
}

static int port_image_del(struct meta *meta, uint64_t image)
{
	return put(meta, STMT_IMAGE_DEL, &image, 1, NULL, 0);
}

static int port_snapshot_put(struct meta *meta, const struct snapshot_row *row)
{
	const uint64_t ints[] = {row->id, row->image, row->root, row->height, row->domain,
	        row->data_chunks, row->zero_chunks, row->txg};

	return put(meta, STMT_SNAPSHOT_PUT, ints, ARRAY_SIZE(ints), NULL, 0);
}

static int port_snapshot_del(struct meta *meta, uint64_t id)
{
	return put(meta, STMT_SNAPSHOT_DEL, &id, 1, NULL, 0);
}

static int port_segment_put(struct meta *meta, const struct segment_row *row)
{
	const uint64_t ints[] = {row->id, row->gen, row->tier, row->domain, row->state, row->bytes,
	        row->slots, row->live_chunks, row->live_bytes, row->file_bytes, row->created_txg};

	return put(meta, STMT_SEGMENT_PUT, ints, ARRAY_SIZE(ints), NULL, 0);
}

static int port_segment_del(struct meta *meta, uint64_t id)
{
	return put(meta, STMT_SEGMENT_DEL, &id, 1, NULL, 0);
}

static int port_parked_put(
        struct meta *meta, uint64_t image, uint64_t id, const void *blob, size_t len)
{
	const uint64_t ints[] = {image, id};

	ASSERT(image && id);
	return put(meta, STMT_PARKED_PUT, ints, 2, blob, len);
}

static int port_parked_del(struct meta *meta, uint64_t image, uint64_t id)
{
	const uint64_t ints[] = {image, id};

	return id ? put(meta, STMT_PARKED_DEL, ints, 2, NULL, 0)
	          : put(meta, STMT_PARKED_DEL_ALL, ints, 1, NULL, 0);
}

static int port_state_put(struct meta *meta, const struct store_state *s)
{
	const uint64_t ints[] = {s->txg, s->next_segment, s->next_node, s->log_epoch,
	        s->log_tail_off, s->log_tail_seq};

	return put(meta, STMT_STATE_PUT, ints, ARRAY_SIZE(ints), NULL, 0);
}

static int port_rows_apply(struct meta *meta, const void *rows, size_t len)
{
	struct metadb *m = metadb_of(meta);

	ASSERT(m->in_transaction);
	return rows_apply(m->writer, rows, len);
}

const struct meta_ops metadb_ops = {
        .state_get = port_state_get,
        .node_get = port_node_get,
        .image_get = port_image_get,
        .image_each = port_image_each,
        .snapshot_get = port_snapshot_get,
        .snapshot_each = port_snapshot_each,
        .segment_each = port_segment_each,
        .node_each = port_node_each,
        .parked_each = port_parked_each,
        .begin = port_begin,
        .node_put = port_node_put,
        .node_del = port_node_del,
        .image_put = port_image_put,
        .image_del = port_image_del,
        .snapshot_put = port_snapshot_put,
        .snapshot_del = port_snapshot_del,
        .segment_put = port_segment_put,
        .segment_del = port_segment_del,
        .parked_put = port_parked_put,
        .parked_del = port_parked_del,
        .rows_apply = port_rows_apply,
        .state_put = port_state_put,
        .commit = port_commit,
        .rollback = port_rollback,
        .scrub = metadb_wipe,
};

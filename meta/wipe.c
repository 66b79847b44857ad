/*
 * wipe.c - what deleted rows left in meta.db and its WAL, overwritten
 *
 * On the txg thread, with the writer connection.  What a row held when it was deleted or replaced
 * may still lie in three places:
 *	in the page where it was     zeroed there and then: secure_delete = FAST (db.c)
 *	on pages of the free list    they are taken by rows of zeros, which are then deleted again
 *	in the WAL                   copied to meta.db, overwritten with zeros, and cut to nothing
 * The rows of zeros are parked records of image 0, which is none.  A crash leaves some of them:
 * nobody looks at those, and the next wipe deletes them first.
 *
 * What SQLite moved from page to page while it balanced its trees may survive in the unused middle
 * of a page; of map leaves that is where chunks were, never what was in them.
 */
#include <errno.h>

#include "base/log.h"
#include "meta/metadb.h"

#define FILL_PAGES 512 /* a transaction: 4 MiB */
/*
 * A row whose overflow pages are full to their last byte: SQLite leaves the rest of the last one as
 * it was.  It keeps between LOCAL_MIN and twice that of a row's bytes in the leaf (file format, 1.6),
 * the more so that nothing is left over; LOCAL lies between.
 */
#define USABLE      (DBVFS_PAGE_SIZE - DBVFS_RESERVED)
#define OVERFLOW    (USABLE - 4)
#define LOCAL_MIN   ((USABLE - 12) * 32 / 255 - 23)
#define LOCAL       (LOCAL_MIN + LOCAL_MIN / 2)
#define FILL_ROUNDS 4 /* that may make no progress: a free page may be kept by a reader */

static int run(struct metadb *m, enum db_stmt id, const uint64_t *params, int n)
{
	sqlite3_stmt *st = NULL;
	const int r = db_stmt(m->writer, id, &st);

	if (r < 0)
		return r;
	db_bind_ints(st, 1, params, n);
	return db_run(m->writer, st);
}

static int fill_transaction(struct metadb *m, uint64_t id, uint64_t pages)
{
	const uint64_t params[] = {id, pages * OVERFLOW + LOCAL};
	int r = run(m, STMT_BEGIN, NULL, 0);

	if (r == 0)
		r = run(m, STMT_PARKED_FILL, params, 2);
	if (r == 0)
		r = run(m, STMT_COMMIT, NULL, 0);
	return r;
}

static int fill_free_pages(struct metadb *m)
{
	int64_t n_free = 0, before = INT64_MAX;
	int r = db_get_int(m->writer, "PRAGMA freelist_count", &n_free);
	unsigned idle = 0;

	for (uint64_t id = 1; r == 0 && n_free > 0 && idle < FILL_ROUNDS; id++) {
		idle = n_free < before ? 0 : idle + 1;
		before = n_free;
		r = fill_transaction(m, id, (uint64_t)MIN(n_free, FILL_PAGES));
		if (r == 0)
			r = metadb_checkpoint(m, SQLITE_CHECKPOINT_PASSIVE);
		if (r == 0)
			r = db_get_int(m->writer, "PRAGMA freelist_count", &n_free);
	}
	return r;
}

static int fillings_delete(struct metadb *m)
{
	const uint64_t image = 0;

	return run(m, STMT_PARKED_DEL_ALL, &image, 1);
}

/* The WAL is overwritten as it is cut (dbvfs.c). */
static int wal_wipe(struct metadb *m)
{
	int in_wal = 0, copied = 0;

	dbvfs_wipe_mode(m->vfs, true);
	const int rc = sqlite3_wal_checkpoint_v2(
	        m->writer->handle, "main", SQLITE_CHECKPOINT_TRUNCATE, &in_wal, &copied);
	dbvfs_wipe_mode(m->vfs, false);
	if ((rc & 0xff) == SQLITE_BUSY || (rc & 0xff) == SQLITE_LOCKED)
		return -EBUSY;
	return db_errno(rc);
}

int metadb_wipe(struct meta *meta)
{
	struct metadb *m = metadb_of(meta);

	ASSERT(!m->in_transaction);
	int r = metadb_writer(m);
	if (r == 0)
		r = metadb_scrub(m);
	if (r == 0)
		r = fillings_delete(m);
	if (r == 0)
		r = fill_free_pages(m);
	if (r < 0 && m->writer && !sqlite3_get_autocommit(m->writer->handle)) {
		m->commit_failed = true; /* as after any commit that failed */
		meta->ops->rollback(meta);
	}
	if (r == 0)
		r = fillings_delete(m);
	if (r == 0)
		r = wal_wipe(m);
	if (r < 0)
		log_error("meta.db: what deleted rows left could not be overwritten: %s",
		        strerror(-r));
	return r;
}

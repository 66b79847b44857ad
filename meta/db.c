/*
 * db.c - one connection to meta.db with its prepared statements
 *
 * Owns the SQL text of everything but schema and checks.  A struct db belongs to one thread at a
 * time: the writer to the txg thread, a reader to whoever took it from the pool (meta.c).
 *
 * All connections leave the WAL alone when they close and never checkpoint by themselves: when that
 * is done is decided in meta.c, by the writer.  secure_delete is FAST: what is deleted or replaced is zeroed in the
 * pages that are written anyway.  Pages that become free as a whole are not, since writing those as
 * well doubles the cost of node updates: meta_scrub() overwrites them when it matters.
 */
#include "meta/db.h"

#include <errno.h>
#include <stdio.h>

#include "base/log.h"

#define WRITER_CACHE_KIB 6144
#define READER_CACHE_KIB 512
#define BUSY_TIMEOUT_MS  10000
#define WAL_KEEP_BYTES   (64u << 20) /* a longer WAL is cut when it starts over */

#define INODE_COLUMNS                                                                              \
	"ino, mode, uid, gid, nlink, rdev, size, atime_s, atime_ns, mtime_s, mtime_ns,"            \
	" ctime_s, ctime_ns, btime_s, btime_ns, parent, generation"
#define IMAGE_COLUMNS    "image, root, height, data_chunks, zero_chunks, snap_epoch"
#define SNAPSHOT_COLUMNS "id, image, root, height, domain, data_chunks, zero_chunks, txg"
#define SEGMENT_COLUMNS                                                                            \
	"id, gen, tier, domain, state, bytes, slots, live_chunks, live_bytes, file_bytes, "        \
	"created_txg, copy_tier, copy_gen"

#define RECORD_SQL(table, name)                                                                    \
	[STMT_RECORD_FIRST + (table - 1) * RECORD_STMTS +                                          \
	        RECORD_STMT_GET] = "SELECT value FROM " name " WHERE owner = ? AND id = ?",        \
	        [STMT_RECORD_FIRST + (table - 1) * RECORD_STMTS + RECORD_STMT_EACH] =              \
	                "SELECT owner, id, value FROM " name                                       \
	                " WHERE owner = ? AND id >= ? ORDER BY id LIMIT ?",                        \
	        [STMT_RECORD_FIRST + (table - 1) * RECORD_STMTS + RECORD_STMT_EACH_OWNER] =        \
	                "SELECT owner, id, value FROM " name                                       \
	                " WHERE (owner, id) >= (?, ?) ORDER BY owner, id LIMIT ?",                 \
	        [STMT_RECORD_FIRST + (table - 1) * RECORD_STMTS + RECORD_STMT_BEFORE] =            \
	                "SELECT id FROM " name                                                     \
	                " WHERE owner = ? AND id <= ? ORDER BY id DESC LIMIT 1",                   \
	        [STMT_RECORD_FIRST + (table - 1) * RECORD_STMTS + RECORD_STMT_PUT] =               \
	                "INSERT OR REPLACE INTO " name " (owner, id, value) VALUES (?, ?, ?)",     \
	        [STMT_RECORD_FIRST + (table - 1) * RECORD_STMTS + RECORD_STMT_DEL] =               \
	                "DELETE FROM " name " WHERE owner = ? AND id = ?",                         \
	        [STMT_RECORD_FIRST + (table - 1) * RECORD_STMTS + RECORD_STMT_DEL_ALL] =           \
	                "DELETE FROM " name " WHERE owner = ?"

static const char *const stmt_sql[STMT_COUNT] = {
        [STMT_BEGIN] = "BEGIN IMMEDIATE",
        [STMT_COMMIT] = "COMMIT",
        [STMT_ROLLBACK] = "ROLLBACK",
        [STMT_STATE_GET] =
                "SELECT txg, next_segment, next_node, log_epoch, log_tail_off, log_tail_seq, uuid,"
                " domain_key FROM datastore WHERE id = 1",
        [STMT_STATE_PUT] =
                "UPDATE datastore SET txg = ?, next_segment = ?, next_node = ?, log_epoch = ?,"
                " log_tail_off = ?, log_tail_seq = ? WHERE id = 1",
        [STMT_INFO_GET] =
                "SELECT uuid, index_bytes, log_bytes, created_ns FROM datastore WHERE id = 1",
        [STMT_NEXT_GET] = "SELECT next_ino, next_dirent, next_number FROM datastore WHERE id = 1",
        [STMT_NEXT_RAISE] =
                "UPDATE datastore SET next_ino = max(next_ino, ?1), next_dirent = max(next_dirent,"
                " ?2), next_number = max(next_number, ?3) WHERE id = 1 AND"
                " (next_ino < ?1 OR next_dirent < ?2 OR next_number < ?3)",
        [STMT_NODE_GET] = "SELECT blob FROM node WHERE id = ?",
        [STMT_NODE_EACH] = "SELECT id FROM node WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?",
        [STMT_NODE_PUT] = "INSERT OR REPLACE INTO node (id, blob) VALUES (?, ?)",
        [STMT_NODE_DEL] = "DELETE FROM node WHERE id = ?",
        [STMT_IMAGE_GET] = "SELECT " IMAGE_COLUMNS " FROM image WHERE image = ?",
        [STMT_IMAGE_EACH] =
                "SELECT " IMAGE_COLUMNS " FROM image WHERE image >= ? ORDER BY image LIMIT ?",
        [STMT_IMAGE_PUT] =
                "INSERT OR REPLACE INTO image (" IMAGE_COLUMNS ") VALUES (?, ?, ?, ?, ?, ?)",
        [STMT_IMAGE_DEL] = "DELETE FROM image WHERE image = ?",
        [STMT_SNAPSHOT_GET] = "SELECT " SNAPSHOT_COLUMNS " FROM snapshot WHERE id = ?",
        [STMT_SNAPSHOT_EACH] =
                "SELECT " SNAPSHOT_COLUMNS " FROM snapshot WHERE id >= ? ORDER BY id LIMIT ?",
        [STMT_SNAPSHOT_PUT] = "INSERT OR REPLACE INTO snapshot (" SNAPSHOT_COLUMNS ")"
                              " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [STMT_SNAPSHOT_DEL] = "DELETE FROM snapshot WHERE id = ?",
        [STMT_SEGMENT_EACH] =
                "SELECT " SEGMENT_COLUMNS " FROM segment WHERE id >= ? ORDER BY id LIMIT ?",
        [STMT_SEGMENT_PUT] = "INSERT OR REPLACE INTO segment (" SEGMENT_COLUMNS ")"
                             " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [STMT_SEGMENT_DEL] = "DELETE FROM segment WHERE id = ?",
        [STMT_PARKED_EACH] = "SELECT image, id, blob FROM parked WHERE (image, id) > (?, ?)"
                             " ORDER BY image, id LIMIT 1",
        [STMT_PARKED_PUT] = "INSERT OR REPLACE INTO parked (image, id, blob) VALUES (?, ?, ?)",
        [STMT_PARKED_DEL] = "DELETE FROM parked WHERE image = ? AND id = ?",
        [STMT_PARKED_DEL_ALL] = "DELETE FROM parked WHERE image = ?",
        [STMT_PARKED_FILL] = "INSERT INTO parked (image, id, blob) VALUES (0, ?, zeroblob(?))",
        [STMT_INODE_GET] = "SELECT " INODE_COLUMNS " FROM inode WHERE ino = ?",
        [STMT_INODE_EACH] =
                "SELECT " INODE_COLUMNS " FROM inode WHERE ino >= ? ORDER BY ino LIMIT ?",
        [STMT_INODE_EACH_ORPHAN] = "SELECT " INODE_COLUMNS " FROM inode INDEXED BY inode_orphan"
                                   " WHERE ino >= ? AND nlink = 0 ORDER BY ino LIMIT ?",
        [STMT_INODE_TOTALS] = "SELECT ino, size, mode FROM inode ORDER BY ino",
        [STMT_INODE_PUT] = "INSERT OR REPLACE INTO inode (" INODE_COLUMNS ")"
                           " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [STMT_INODE_DEL] = "DELETE FROM inode WHERE ino = ?",
        [STMT_NAME_GET] = "SELECT ino, mode, id FROM dirent WHERE dir = ? AND name = ?",
        [STMT_NAME_EACH] = "SELECT id, ino, mode, name FROM dirent WHERE dir = ? AND id > ? ORDER "
                           "BY id LIMIT ?",
        [STMT_NAME_OF_INO] = "SELECT dir, name FROM dirent WHERE ino = ? LIMIT ? OFFSET ?",
        [STMT_NAME_PUT] = "INSERT OR REPLACE INTO dirent (dir, id, name, ino, mode) VALUES (?1, "
                          "?2, ?5, ?3, ?4)",
        [STMT_NAME_DEL] = "DELETE FROM dirent WHERE dir = ? AND name = ?",
        [STMT_SYMLINK_GET] = "SELECT target FROM symlink WHERE ino = ?",
        [STMT_SYMLINK_PUT] = "INSERT OR REPLACE INTO symlink (ino, target) VALUES (?, ?)",
        [STMT_SYMLINK_DEL] = "DELETE FROM symlink WHERE ino = ?",
        [STMT_XATTR_GET] = "SELECT value FROM xattr WHERE ino = ? AND name = ?",
        [STMT_XATTR_LIST] = "SELECT name FROM xattr WHERE ino = ? ORDER BY name",
        [STMT_XATTR_PUT] = "INSERT OR REPLACE INTO xattr (ino, name, value) VALUES (?, ?, ?)",
        [STMT_XATTR_DEL] = "DELETE FROM xattr WHERE ino = ? AND name = ?",
        [STMT_XATTR_DEL_ALL] = "DELETE FROM xattr WHERE ino = ?",
        RECORD_SQL(RECORD_ATTACHMENT, "attachment"),
        RECORD_SQL(RECORD_FILTER_STATE, "filter_state"),
        RECORD_SQL(RECORD_POLICY, "policy"),
        RECORD_SQL(RECORD_JOB, "job"),
        RECORD_SQL(RECORD_KEY, "key"),
        RECORD_SQL(RECORD_KEYSLOT, "keyslot"),
        RECORD_SQL(RECORD_AUDIT, "audit"),
        RECORD_SQL(RECORD_FLAG, "flag"),
        RECORD_SQL(RECORD_SNAPSHOT, "snapshot_set"),
};

int db_errno(int rc)
{
	switch (rc & 0xff) {
	case SQLITE_OK:
	case SQLITE_ROW:
	case SQLITE_DONE:
		return 0;
	case SQLITE_FULL:
		return -ENOSPC;
	case SQLITE_NOMEM:
		return -ENOMEM;
	case SQLITE_READONLY:
		return -EROFS;
	case SQLITE_IOERR:
		return rc == SQLITE_IOERR_NOMEM ? -ENOMEM : -EIO;
	default:
		return -EIO;
	}
}

static int db_failed(struct db *d, int rc)
{
	const int r = db_errno(rc);

	if (r < 0)
		log_error("meta.db: %s (%d)", sqlite3_errmsg(d->handle), rc);
	return r;
}

int db_exec(struct db *d, const char *sql)
{
	return db_failed(d, sqlite3_exec(d->handle, sql, NULL, NULL, NULL));
}

int db_get_int(struct db *d, const char *sql, int64_t *ret_value)
{
	sqlite3_stmt *st = NULL;
	int rc = sqlite3_prepare_v2(d->handle, sql, -1, &st, NULL);

	if (rc == SQLITE_OK)
		rc = sqlite3_step(st);
	if (rc == SQLITE_ROW)
		*ret_value = sqlite3_column_int64(st, 0);
	const int r = rc == SQLITE_DONE ? -EIO : db_failed(d, rc);
	sqlite3_finalize(st);
	return r;
}

int db_stmt(struct db *d, enum db_stmt id, sqlite3_stmt **ret_stmt)
{
	if (!d->stmts[id]) {
		const int rc = sqlite3_prepare_v3(d->handle, stmt_sql[id], -1,
		        SQLITE_PREPARE_PERSISTENT, &d->stmts[id], NULL);
		if (rc != SQLITE_OK)
			return db_failed(d, rc);
	}
	*ret_stmt = d->stmts[id];
	return 0;
}

void db_done(sqlite3_stmt *st)
{
	sqlite3_reset(st);
	sqlite3_clear_bindings(st);
}

int db_next(struct db *d, sqlite3_stmt *st)
{
	const int rc = sqlite3_step(st);

	if (rc == SQLITE_ROW)
		return 1;
	const int r = db_failed(d, rc);
	db_done(st);
	return r;
}

int db_run(struct db *d, sqlite3_stmt *st)
{
	const int r = db_next(d, st);

	if (r <= 0)
		return r;
	db_done(st);
	return 0;
}

void db_bind_ints(sqlite3_stmt *st, int first, const uint64_t *values, int n)
{
	for (int i = 0; i < n; i++)
		sqlite3_bind_int64(st, first + i, (sqlite3_int64)values[i]);
}

/* The bytes must live until the statement is done.  Empty is an empty blob, not NULL. */
void db_bind_bytes(sqlite3_stmt *st, int param, const void *data, size_t len)
{
	sqlite3_bind_blob64(st, param, len ? data : "", len, SQLITE_STATIC);
}

void db_bind_text(sqlite3_stmt *st, int param, const void *data, size_t len)
{
	sqlite3_bind_text64(st, param, len ? data : "", len, SQLITE_STATIC, SQLITE_UTF8);
}

/* NULL with bytes to come means that its pages could not be read. */
int db_bytes(struct db *d, sqlite3_stmt *st, int col, const void **ret_p, size_t *ret_len)
{
	const void *p = sqlite3_column_blob(st, col);
	const size_t len = (size_t)sqlite3_column_bytes(st, col);

	if (!p) {
		const int r = db_errno(sqlite3_errcode(d->handle));
		if (r < 0)
			return r;
	}
	*ret_p = p;
	*ret_len = len;
	return 0;
}

uint64_t db_u64(sqlite3_stmt *st, int col)
{
	return (uint64_t)sqlite3_column_int64(st, col);
}

static int on_commit(void *arg, sqlite3 *handle, const char *name, int frames)
{
	struct db *d = arg;

	(void)handle, (void)name;
	d->wal_frames = (unsigned)frames;
	return SQLITE_OK;
}

static int configure(struct db *d, enum db_role role)
{
	char sql[256];
	int off = 0;

	sqlite3_extended_result_codes(d->handle, 1);
	sqlite3_busy_timeout(d->handle, BUSY_TIMEOUT_MS);
	sqlite3_wal_autocheckpoint(d->handle, 0);
	if (sqlite3_db_config(d->handle, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, &off) != SQLITE_OK ||
	        sqlite3_db_config(d->handle, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, &off) != SQLITE_OK)
		return -EIO;
	/* Nothing here reads the file yet. */
	snprintf(sql, sizeof(sql),
	        "PRAGMA temp_store = MEMORY; PRAGMA synchronous = FULL; PRAGMA cache_size = -%d;",
	        role == DB_WRITER ? WRITER_CACHE_KIB : READER_CACHE_KIB);
	int r = db_exec(d, sql);
	if (r < 0 || role == DB_READER)
		return r;
	sqlite3_wal_hook(d->handle, on_commit, d); /* instead of autocheckpoint's */
	snprintf(sql, sizeof(sql), "PRAGMA secure_delete = FAST; PRAGMA journal_size_limit = %u;",
	        WAL_KEEP_BYTES);
	return db_exec(d, sql);
}

int db_open(struct dbvfs *v, enum db_role role, struct db **ret_db)
{
	const int flags = SQLITE_OPEN_NOMUTEX |
	                  (role == DB_WRITER ? SQLITE_OPEN_READWRITE : SQLITE_OPEN_READONLY);
	struct db *d = calloc(1, sizeof(*d));

	if (!d)
		return -ENOMEM;
	const int rc = sqlite3_open_v2(dbvfs_db_name(v), &d->handle, flags, dbvfs_vfs_name(v));
	int r = db_errno(rc);
	if (r == 0)
		r = configure(d, role);
	if (r < 0) {
		db_close(d);
		return r;
	}
	*ret_db = d;
	return 0;
}

void db_close(struct db *d)
{
	if (!d)
		return;
	for (int i = 0; i < STMT_COUNT; i++)
		sqlite3_finalize(d->stmts[i]);
	sqlite3_close(d->handle);
	free(d);
}

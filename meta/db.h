/*
 * db.h - one connection to meta.db with its prepared statements
 *
 * Private to meta/.  A connection is used by one thread at a time.
 */
#pragma once

#include <sqlite3.h>

#include "base/compiler.h"
#include "meta/dbvfs.h"
#include "meta/records.h"

enum db_role { DB_WRITER, DB_READER };

/* What is done with the rows of a record table. */
enum record_stmt {
	RECORD_STMT_GET,
	RECORD_STMT_EACH,       /* of one owner */
	RECORD_STMT_EACH_OWNER, /* of all */
	RECORD_STMT_BEFORE,     /* the highest id of an owner up to one */
	RECORD_STMT_PUT,
	RECORD_STMT_DEL,
	RECORD_STMT_DEL_ALL, /* of an owner */
	RECORD_STMTS,
};

/* Kept in step with the table in db.c. */
enum db_stmt {
	STMT_BEGIN,
	STMT_COMMIT,
	STMT_ROLLBACK,
	STMT_STATE_GET,
	STMT_STATE_PUT,
	STMT_INFO_GET,
	STMT_NEXT_GET,
	STMT_NEXT_RAISE,
	STMT_NODE_GET,
	STMT_NODE_EACH,
	STMT_NODE_PUT,
	STMT_NODE_DEL,
	STMT_IMAGE_GET,
	STMT_IMAGE_EACH,
	STMT_IMAGE_PUT,
	STMT_IMAGE_DEL,
	STMT_SNAPSHOT_GET,
	STMT_SNAPSHOT_EACH,
	STMT_SNAPSHOT_PUT,
	STMT_SNAPSHOT_DEL,
	STMT_SEGMENT_EACH,
	STMT_SEGMENT_PUT,
	STMT_SEGMENT_DEL,
	STMT_PARKED_EACH,
	STMT_PARKED_PUT,
	STMT_PARKED_DEL,
	STMT_PARKED_DEL_ALL,
	STMT_PARKED_FILL,
	STMT_INODE_GET,
	STMT_INODE_EACH,
	STMT_INODE_EACH_ORPHAN,
	STMT_INODE_TOTALS,
	STMT_INODE_PUT,
	STMT_INODE_DEL,
	STMT_NAME_GET,
	STMT_NAME_EACH,
	STMT_NAME_OF_INO,
	STMT_NAME_PUT,
	STMT_NAME_DEL,
	STMT_SYMLINK_GET,
	STMT_SYMLINK_PUT,
	STMT_SYMLINK_DEL,
	STMT_XATTR_GET,
	STMT_XATTR_LIST,
	STMT_XATTR_PUT,
	STMT_XATTR_DEL,
	STMT_XATTR_DEL_ALL,
	STMT_RECORD_FIRST, /* of each table in turn: db_record_stmt */
	STMT_COUNT = STMT_RECORD_FIRST + (RECORD_TABLES - 1) * RECORD_STMTS,
};

static inline enum db_stmt db_record_stmt(enum record_table table, enum record_stmt stmt)
{
	ASSERT(table > 0 && table < RECORD_TABLES);
	return (enum db_stmt)(STMT_RECORD_FIRST + (table - 1) * RECORD_STMTS + stmt);
}

struct db {
	sqlite3 *handle;
	sqlite3_stmt *stmts[STMT_COUNT]; /* prepared when first used */
	unsigned wal_frames;             /* writer: after its last commit */
	struct db *next;                 /* in the pool of readers */
};

/* Opens and configures; the first statement runs recovery if it is the first of the process. */
int db_open(struct dbvfs *v, enum db_role role, struct db **ret_db) MUST_CHECK;
void db_close(struct db *d); /* accepts NULL */

/* -errno of a result code: -EIO, -ENOSPC, -ENOMEM, -EROFS; 0 for OK, ROW and DONE. */
int db_errno(int rc) MUST_CHECK;
/* Runs SQL text; logs what fails. */
int db_exec(struct db *d, const char *sql) MUST_CHECK;
/* A one-integer query, such as a PRAGMA. */
int db_get_int(struct db *d, const char *sql, int64_t *ret_value) MUST_CHECK;

/*
 * Statements: db_stmt, bind, then db_run (no rows) or db_next until it returns 0, then db_done.
 * db_next: 1 a row, 0 no more, or -errno.  After 0 or an error the statement is reset.
 */
int db_stmt(struct db *d, enum db_stmt id, sqlite3_stmt **ret_stmt) MUST_CHECK;
int db_next(struct db *d, sqlite3_stmt *st) MUST_CHECK;
void db_done(sqlite3_stmt *st);
int db_run(struct db *d, sqlite3_stmt *st) MUST_CHECK;

/* Binds as many integers as n says, from parameter `first` on. */
void db_bind_ints(sqlite3_stmt *st, int first, const uint64_t *values, int n);
void db_bind_bytes(sqlite3_stmt *st, int param, const void *data, size_t len);
/* The same bytes as text (UTF-8), for columns that people read. */
void db_bind_text(sqlite3_stmt *st, int param, const void *data, size_t len);
/* A blob or text column in place, until the statement moves on.  -EIO: its pages cannot be read. */
int db_bytes(
        struct db *d, sqlite3_stmt *st, int col, const void **ret_p, size_t *ret_len) MUST_CHECK;
uint64_t db_u64(sqlite3_stmt *st, int col);

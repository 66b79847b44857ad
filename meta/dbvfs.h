/*
 * dbvfs.h - SQLite's file access through struct io, with a checksum on every page
 *
 * One instance per open datastore, registered with SQLite under a name of its own.  It serves one
 * database and its WAL.  The WAL index and all locks live in this process's memory: the datastore's
 * own lock keeps other processes away.
 *
 * Page checksum: the last DBVFS_RESERVED bytes of each page of the database file hold,
 * little-endian, XXH3-64 of the rest seeded with the page number.  A page that does not match, is
 * cut short or missing is SQLITE_IOERR_DATA.  (The place is that of SQLite's own cksumvfs; the hash
 * is not.)
 */
#pragma once

#include "base/io.h"

#define DBVFS_PAGE_SIZE 8192u
#define DBVFS_RESERVED  8u

struct dbvfs;

/* name: of the database; io is not owned.  read_only: nothing of io is ever changed. */
int dbvfs_create(
        struct io *io, const char *name, bool read_only, struct dbvfs **ret_vfs) MUST_CHECK;
/* All connections must be closed.  Accepts NULL. */
void dbvfs_free(struct dbvfs *v);
void dbvfs_freep(struct dbvfs **v);
/* For sqlite3_open_v2(). */
const char *dbvfs_vfs_name(const struct dbvfs *v);
const char *dbvfs_db_name(const struct dbvfs *v);
/* Bytes of the database and its WAL; while a connection is open. */
int dbvfs_size(struct dbvfs *v, uint64_t *ret_bytes) MUST_CHECK;

/* Makes the names of both files durable, unless that has been done. */
int dbvfs_sync_dir(struct dbvfs *v) MUST_CHECK;

/* A sync of the WAL failed and dbvfs_scrub() has not succeeded since. */
bool dbvfs_wal_failed(struct dbvfs *v);
/*
 * Makes sure that no recovery ever finds what was written to the WAL past its last commit:
 * overwrites the frame there, cuts the file and syncs.  By the writer's thread, outside a
 * transaction, while a connection is open.
 */
int dbvfs_scrub(struct dbvfs *v) MUST_CHECK;
/*
 * After recovery, before the first transaction: what recovery took is made durable, what it left is
 * cut.  By the writer's thread.
 */
int dbvfs_settle(struct dbvfs *v) MUST_CHECK;

/* While on, what is cut off the WAL is overwritten with zeros first, durably. */
void dbvfs_wipe_mode(struct dbvfs *v, bool on);

void dbvfs_page_seal(uint8_t page[DBVFS_PAGE_SIZE], uint32_t number);
bool dbvfs_page_good(const uint8_t page[DBVFS_PAGE_SIZE], uint32_t number);

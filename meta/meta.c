/*
 * meta.c - creating, opening and closing meta.db; its connections
 *
 * Owns the VFS, the writer connection and the pool of readers.  The writer and the three fields
 * with it belong to the txg thread (and to whoever opens and closes); the pool is under m->lock.
 * Readers are in autocommit mode: each statement sees the last commit, holds a read mark for as
 * long as it runs, and never waits for the writer.
 *
 * Creation: the file is made, given its page size, reserved bytes and WAL mode while empty, then
 * gets its schema like any upgrade from version 0 and its first rows in one transaction, and is
 * checkpointed and synced with its directory.  A power cut before the end leaves something that
 * open refuses.
 *
 * Opening read-only changes nothing on the backing: the VFS opens files for reading, a missing WAL
 * is an empty one, and the WAL index (recovery included) is in memory.
 */
#include "meta/metadb.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "meta/migrate.h"
#include "meta/namespace.h"
#include "meta/walcheck.h"

#define DB_MAGIC          "SQLite format 3" /* and its NUL */
#define DB_APPLICATION_AT 68
#define FIRST_DIRENT      16 /* ids below are left to "." and ".." of whoever lists */

/* --- the connections --- */

int metadb_reader(struct metadb *m, struct db **ret_db)
{
	struct db *d = NULL;

	pthread_mutex_lock(&m->lock);
	while (!m->idle && m->n_readers == META_READERS_MAX)
		pthread_cond_wait(&m->reader_free, &m->lock);
	d = m->idle;
	if (d)
		m->idle = d->next;
	else
		m->n_readers++;
	pthread_mutex_unlock(&m->lock);
	if (d) {
		*ret_db = d;
		return 0;
	}
	const int r = db_open(m->vfs, DB_READER, ret_db);
	if (r < 0) {
		pthread_mutex_lock(&m->lock);
		m->n_readers--;
		pthread_cond_signal(&m->reader_free);
		pthread_mutex_unlock(&m->lock);
	}
	return r;
}

void metadb_reader_done(struct metadb *m, struct db *d)
{
	if (!d)
		return;
	pthread_mutex_lock(&m->lock);
	d->next = m->idle;
	m->idle = d;
	pthread_cond_signal(&m->reader_free);
	pthread_mutex_unlock(&m->lock);
}

int metadb_writer(struct metadb *m)
{
	if (m->read_only)
		return -EROFS;
	return m->writer ? 0 : db_open(m->vfs, DB_WRITER, &m->writer);
}

int metadb_checkpoint(struct metadb *m, int mode)
{
	int in_wal = 0, copied = 0;
	const int rc = sqlite3_wal_checkpoint_v2(m->writer->handle, "main", mode, &in_wal, &copied);

	/* Busy: a reader kept it from finishing; a later one will. */
	if ((rc & 0xff) == SQLITE_BUSY || (rc & 0xff) == SQLITE_LOCKED)
		return 0;
	const int r = db_errno(rc);
	if (r < 0)
		log_error("meta.db: checkpoint failed: %s (%d)", sqlite3_errmsg(m->writer->handle),
		        rc);
	return r;
}

int metadb_scrub(struct metadb *m)
{
	if (!m->commit_failed && !dbvfs_wal_failed(m->vfs))
		return 0;
	const int r = dbvfs_scrub(m->vfs);
	if (r < 0) {
		log_error("meta.db: cannot take back a failed transaction (%s): nothing more is "
		          "committed until this succeeds",
		        strerror(-r));
		return r;
	}
	m->commit_failed = false;
	log_warn("meta.db: a failed transaction was taken back");
	return 0;
}

/* --- opening --- */

static void metadb_free(struct metadb *m)
{
	if (!m)
		return;
	while (m->idle) {
		struct db *d = m->idle;
		m->idle = d->next;
		db_close(d);
		m->n_readers--;
	}
	ASSERT(m->n_readers == 0);
	db_close(m->writer);
	dbvfs_free(m->vfs);
	pthread_cond_destroy(&m->reader_free);
	pthread_mutex_destroy(&m->lock);
	free(m);
}

static void metadb_freep(struct metadb **m)
{
	metadb_free(*m);
}

static int metadb_new(struct io *io, bool read_only, struct metadb **ret_m)
{
	struct metadb *m = calloc(1, sizeof(*m));

	if (!m)
		return -ENOMEM;
	m->base.ops = &metadb_ops;
	m->io = io;
	m->read_only = read_only;
	pthread_mutex_init(&m->lock, NULL);
	pthread_cond_init(&m->reader_free, NULL);
	const int r = dbvfs_create(io, META_NAME, read_only, &m->vfs);
	if (r < 0) {
		metadb_free(m);
		return r;
	}
	*ret_m = m;
	return 0;
}

/*
 * Is it ours at all?  By the first page, which meta_create leaves in the file itself.  A crash
 * during a checkpoint may have torn it: then the WAL has it whole, and SQLite takes it from there.
 */
static int check_first_page(struct io_file *db, bool *ret_good, struct errmsg *em)
{
	static const uint8_t id[4] = {'W', 'E', 'I', 'R'};
	uint8_t page[DBVFS_PAGE_SIZE] = {0};
	size_t n = 0;
	const int r = io_pread(db, page, sizeof(page), 0, &n);

	if (r < 0)
		return errmsg_set(em, r, "cannot read '%s': %s", META_NAME, strerror(-r));
	if (memcmp(page, DB_MAGIC, sizeof(DB_MAGIC)) != 0 ||
	        memcmp(page + DB_APPLICATION_AT, id, sizeof(id)) != 0)
		return errmsg_set(
		        em, -EMEDIUMTYPE, "not a datastore: '%s' is something else", META_NAME);
	*ret_good = dbvfs_page_good(page, 1);
	return 0;
}

/* Before SQLite sees the files. */
static int check_files(struct io *io, bool *ret_first_page_good, struct errmsg *em)
{
	CLEANUP(io_closep) struct io_file *db = NULL;
	CLEANUP(io_closep) struct io_file *wal = NULL;
	int r = io_open(io, META_NAME, IO_READ, &db);

	if (r == -ENOENT)
		return errmsg_set(em, -EMEDIUMTYPE, "not a datastore: there is no '%s'", META_NAME);
	if (r < 0)
		return errmsg_set(em, r, "cannot open '%s': %s", META_NAME, strerror(-r));
	r = check_first_page(db, ret_first_page_good, em);
	if (r < 0)
		return r;
	r = io_open(io, META_NAME "-wal", IO_READ, &wal);
	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return errmsg_set(em, r, "cannot open '%s-wal': %s", META_NAME, strerror(-r));
	r = wal_check(db, wal, em);
	if (r < 0 && r != -EUCLEAN)
		return errmsg_set(em, r, "cannot read '%s-wal': %s", META_NAME, strerror(-r));
	return r;
}

static int check_version(struct metadb *m, struct db *d, struct errmsg *em)
{
	unsigned version = 0;
	const int r = migrate_version(d, &version, em);

	if (r < 0 || version == migrate_latest())
		return r;
	if (m->read_only)
		return errmsg_set(em, -EROFS,
		        "the datastore is of an older version (%u): mount it once to upgrade it",
		        version);
	return migrate_up(d, version, em);
}

static int open_writer(struct metadb *m, struct errmsg *em)
{
	unsigned version;
	int r = metadb_writer(m);

	if (r < 0)
		return errmsg_set(em, r, "cannot open '%s': %s", META_NAME, strerror(-r));
	r = migrate_version(m->writer, &version, em); /* the first to read: SQLite recovers */
	if (r < 0)
		return r;
	r = dbvfs_settle(m->vfs);
	if (r < 0)
		return errmsg_set(em, r, "cannot settle '%s-wal': %s", META_NAME, strerror(-r));
	r = check_version(m, m->writer, em);
	if (r < 0)
		return r;
	r = dbvfs_sync_dir(m->vfs);
	return r < 0 ? errmsg_set(em, r, "cannot sync the datastore's directory: %s", strerror(-r))
	             : 0;
}

static int open_reader(struct metadb *m, struct errmsg *em)
{
	struct db *d = NULL;
	int r = metadb_reader(m, &d);

	if (r < 0)
		return errmsg_set(em, r, "cannot open '%s': %s", META_NAME, strerror(-r));
	r = check_version(m, d, em);
	metadb_reader_done(m, d);
	return r;
}

int meta_open(struct io *io, bool read_only, struct meta **ret_meta, struct errmsg *em)
{
	CLEANUP(metadb_freep) struct metadb *m = NULL;
	bool first_page_good = false;
	int r = check_files(io, &first_page_good, em);

	if (r < 0)
		return r;
	r = metadb_new(io, read_only, &m);
	if (r < 0)
		return errmsg_set(em, r, "cannot open '%s': %s", META_NAME, strerror(-r));
	r = read_only ? open_reader(m, em) : open_writer(m, em);
	if (r == -EIO && !first_page_good)
		return errmsg_set(em, -EUCLEAN,
		        "'%s' is damaged: its first page does not match its checksum", META_NAME);
	if (r < 0)
		return r;
	*ret_meta = &STEAL(m)->base;
	return 0;
}

void meta_close(struct meta *meta)
{
	if (!meta)
		return;
	struct metadb *m = metadb_of(meta);
	if (m->in_transaction)
		meta->ops->rollback(meta);
	/* A failure has been logged; the WAL then stays, and the next open recovers it. */
	if (m->writer && metadb_scrub(m) == 0 &&
	        metadb_checkpoint(m, SQLITE_CHECKPOINT_TRUNCATE) < 0)
		log_warn("meta.db: closed with its WAL");
	metadb_free(m);
}

/* --- creating --- */

static int put_datastore(struct db *d, const struct meta_create_params *p)
{
	uint8_t uuid[16], key[DOMAIN_KEY_LEN];
	sqlite3_stmt *st = NULL;

	if (getrandom(uuid, sizeof(uuid), 0) != sizeof(uuid) ||
	        getrandom(key, sizeof(key), 0) != sizeof(key))
		return -EIO;
	uuid[6] = (uuid[6] & 0x0f) | 0x40; /* RFC 4122: random */
	uuid[8] = (uuid[8] & 0x3f) | 0x80;
	const int rc = sqlite3_prepare_v2(d->handle,
	        "INSERT INTO datastore (id, created_ns, index_bytes, log_bytes, next_ino, "
	        "next_dirent, uuid, domain_key,"
	        " txg, next_segment, next_node, log_epoch, log_tail_off, log_tail_seq)"
	        " VALUES (1, ?, ?, ?, ?, ?, ?, ?, 0, 1, 1, 0, 0, 0)",
	        -1, &st, NULL);
	if (rc != SQLITE_OK)
		return db_errno(rc);
	const uint64_t ints[] = {
	        p->created_wall_ns, p->index_bytes, p->log_bytes, NS_ROOT_INO + 1, FIRST_DIRENT};
	db_bind_ints(st, 1, ints, ARRAY_SIZE(ints));
	db_bind_bytes(st, 6, uuid, sizeof(uuid));
	db_bind_bytes(st, 7, key, sizeof(key));
	const int r = db_run(d, st);
	sqlite3_finalize(st);
	return r;
}

static int put_root(struct db *d, uint64_t now_ns)
{
	sqlite3_stmt *st = NULL;
	const uint64_t s = now_ns / NS_PER_SEC, ns = now_ns % NS_PER_SEC;
	const uint64_t row[] = {NS_ROOT_INO, S_IFDIR | 0755, geteuid(), getegid(), 2, 0, 0, s, ns,
	        s, ns, s, ns, s, ns, NS_ROOT_INO, 0};
	const int r = db_stmt(d, STMT_INODE_PUT, &st);

	if (r < 0)
		return r;
	db_bind_ints(st, 1, row, ARRAY_SIZE(row));
	return db_run(d, st);
}

static int fill(struct metadb *m, const struct meta_create_params *p, struct errmsg *em)
{
	struct db *d = m->writer;
	int reserved = DBVFS_RESERVED;
	char sql[128];
	int r = db_errno(
	        sqlite3_file_control(d->handle, "main", SQLITE_FCNTL_RESERVE_BYTES, &reserved));

	/* Straight into the empty file: there is nothing yet that a journal could bring back. */
	snprintf(sql, sizeof(sql),
	        "PRAGMA page_size = %u; PRAGMA journal_mode = OFF; PRAGMA journal_mode = WAL;",
	        DBVFS_PAGE_SIZE);
	if (r == 0)
		r = db_exec(d, sql);
	if (r < 0)
		return r;
	r = migrate_up(d, 0, em);
	if (r == 0)
		r = db_exec(d, "BEGIN IMMEDIATE");
	if (r == 0)
		r = put_datastore(d, p);
	if (r == 0)
		r = put_root(d, p->created_wall_ns);
	if (r == 0)
		r = db_exec(d, "COMMIT");
	if (r == 0)
		r = metadb_checkpoint(m, SQLITE_CHECKPOINT_TRUNCATE);
	return r;
}

/* The WAL mode and the layout are what everything here relies on: refuse an SQLite that does
 * otherwise. */
static int check_layout(struct metadb *m)
{
	uint8_t page[DBVFS_PAGE_SIZE];
	CLEANUP(io_closep) struct io_file *db = NULL;
	int r = io_open(m->io, META_NAME, IO_READ, &db);

	if (r == 0)
		r = io_pread_exact(db, page, sizeof(page), 0);
	if (r < 0)
		return r;
	const bool good = !memcmp(page, DB_MAGIC, sizeof(DB_MAGIC)) &&
	                  page[16] == DBVFS_PAGE_SIZE >> 8 && page[18] == 2 && page[19] == 2 &&
	                  page[20] == DBVFS_RESERVED && dbvfs_page_good(page, 1);
	return good ? 0 : -EPROTONOSUPPORT;
}

static int create(struct io *io, const struct meta_create_params *params, struct errmsg *em)
{
	CLEANUP(metadb_freep) struct metadb *m = NULL;
	int r = metadb_new(io, false, &m);

	if (r == 0)
		r = metadb_writer(m);
	if (r == 0)
		r = fill(m, params, em);
	if (r == 0)
		r = check_layout(m);
	return r;
}

/* Best effort: the create has failed already. */
static void remove_files(struct io *io)
{
	if (io_unlink(io, META_NAME) < 0 || io_unlink(io, META_NAME "-wal") < 0)
		return;
	if (io_sync_dir(io, "") < 0)
		log_warn("%s: the removal of a half-made one may not be durable", META_NAME);
}

int meta_create(struct io *io, const struct meta_create_params *params, struct errmsg *em)
{
	CLEANUP(io_closep) struct io_file *file = NULL;
	int r = io_open(io, META_NAME, IO_WRITE | IO_CREATE | IO_EXCL, &file);

	if (r < 0)
		return errmsg_set(em, r, "cannot create '%s': %s", META_NAME, strerror(-r));
	if (em)
		em->text[0] = '\0';
	r = create(io, params, em);
	if (r == 0)
		r = io_sync_dir(io, "");
	if (r == 0)
		return 0;
	remove_files(io);
	if (em && em->text[0])
		return r;
	return errmsg_set(em, r, "cannot create '%s': %s", META_NAME, strerror(-r));
}

/* --- questions --- */

int meta_info_get(struct meta *meta, struct meta_info *ret_info)
{
	struct metadb *m = metadb_of(meta);
	struct meta_info info = {.schema_version = migrate_latest()};
	struct db *d = NULL;
	sqlite3_stmt *st = NULL;
	int r = metadb_reader(m, &d);

	if (r == 0)
		r = db_stmt(d, STMT_INFO_GET, &st);
	if (r == 0)
		r = db_next(d, st);
	if (r == 1) {
		const bool good = sqlite3_column_bytes(st, 0) == sizeof(info.uuid);
		if (good)
			memcpy(info.uuid, sqlite3_column_blob(st, 0), sizeof(info.uuid));
		info.index_bytes = db_u64(st, 1);
		info.log_bytes = db_u64(st, 2);
		info.created_wall_ns = db_u64(st, 3);
		db_done(st);
		r = good ? 1 : -EIO;
	}
	metadb_reader_done(m, d);
	if (r != 1)
		return r < 0 ? r : -EIO;
	*ret_info = info;
	return 0;
}

int meta_size(struct meta *meta, uint64_t *ret_bytes)
{
	return dbvfs_size(metadb_of(meta)->vfs, ret_bytes);
}

int meta_checkpoint(struct meta *meta)
{
	struct metadb *m = metadb_of(meta);

	ASSERT(!m->in_transaction);
	const int r = metadb_writer(m);
	return r < 0 ? r : metadb_checkpoint(m, SQLITE_CHECKPOINT_PASSIVE);
}

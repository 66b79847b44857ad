/*
 * dbvfs.c - SQLite's files through struct io
 *
 * Owns the two files of one datastore's metadata, the database and its WAL, each opened once and
 * shared by all connections.  Any thread may come in through SQLite; what is shared is under
 * v->lock, and reads and writes themselves run without it.  Other files SQLite might want (rollback
 * journals, temporary files) are refused: the database is in WAL mode from its first byte and
 * temp_store is MEMORY.
 *
 * Damage.  A database page carries a checksum (dbvfs.h), made when a whole page is written and
 * verified when one is read; SQLite reads nothing else but the first 100 bytes, to learn the page
 * size.  WAL frames have SQLite's checksums, which are verified only in recovery; so the hash of
 * each frame's page is kept in memory (8 bytes for 8 KiB) when it is written or recovered, and
 * compared when it is read again.
 *
 * Failed syncs.  SQLite drops a transaction whose WAL sync failed and writes the next one over its
 * frames: nothing that the failed sync was to make durable is relied upon, everything is written
 * again before the next sync. The same goes for the database file: a checkpoint whose sync failed
 * does not count, and the next one writes all its pages again.  But the failed transaction's frames
 * may still reach the disk, and a recovery would then find a transaction that its author was told
 * had failed - and has since undone elsewhere.  So wal_failed is set, meta/ lets no new transaction
 * begin until dbvfs_scrub() has made those frames unreadable. The scrub is repeated as a whole
 * (write, cut, sync), never only its sync.
 *
 * Recovery.  What it takes from the WAL may be in the page cache alone, when the process was killed and the
 * machine was not; what it does not take lies behind, of the transaction that was cut off.  Both are
 * settled before the next transaction begins (dbvfs_settle): else a power cut in that one leaves two
 * transactions that were never synced, and walcheck.c could not tell that from damage.
 *
 * Names.  The directory is synced before the first sync of a file is reported as done: also when
 * the file was found there, since whoever made it may have died before making its name durable.
 * meta_open() does it at once, so that a directory which cannot be synced is a failed open.
 */
#include "meta/dbvfs-private.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#include "base/bytes.h"
#include "base/log.h"

#define DB_HEADER_LEN 100u

static struct dbfile *dbfile_of(sqlite3_file *f)
{
	return CONTAINER_OF(f, struct dbfile, base);
}

static struct dbvfs *dbvfs_of(sqlite3_vfs *vfs)
{
	return CONTAINER_OF(vfs, struct dbvfs, base);
}

static uint64_t page_sum(const uint8_t *page, uint32_t number)
{
	return XXH3_64bits_withSeed(page, DBVFS_PAGE_SIZE - DBVFS_RESERVED, number);
}

void dbvfs_page_seal(uint8_t page[DBVFS_PAGE_SIZE], uint32_t number)
{
	put_u64(page + DBVFS_PAGE_SIZE - DBVFS_RESERVED, page_sum(page, number));
}

bool dbvfs_page_good(const uint8_t page[DBVFS_PAGE_SIZE], uint32_t number)
{
	return get_u64(page + DBVFS_PAGE_SIZE - DBVFS_RESERVED) == page_sum(page, number);
}

/* r: -errno of a failed call on name. */
static int io_failed(const char *name, const char *what, int r, int code)
{
	log_error("%s: %s failed: %s", name, what, strerror(-r));
	if (r == -ENOSPC || r == -EDQUOT)
		return SQLITE_FULL;
	return r == -ENOMEM ? SQLITE_IOERR_NOMEM : code;
}

static int damaged(struct dbvfs *v, const char *name, uint64_t number)
{
	if (atomic_exchange(&v->page_complained, (uint32_t)number) != (uint32_t)number)
		log_error("%s: page %llu is damaged", name, (unsigned long long)number);
	return SQLITE_IOERR_DATA;
}

/* As much as there is; the rest of buf is zeros, as SQLite wants it. */
static int file_read(
        struct io_file *file, const char *name, void *buf, size_t len, uint64_t off, size_t *ret_n)
{
	size_t n = 0;

	if (file) {
		const int r = io_pread(file, buf, len, off, &n);
		if (r < 0)
			return io_failed(name, "read", r, SQLITE_IOERR_READ);
	}
	memset((uint8_t *)buf + n, 0, len - n);
	*ret_n = n;
	return SQLITE_OK;
}

int dbvfs_sync_dir(struct dbvfs *v)
{
	int r = 0;

	pthread_mutex_lock(&v->lock);
	if (!v->dir_synced) {
		r = io_sync_dir(v->io, "");
		v->dir_synced = r == 0;
	}
	pthread_mutex_unlock(&v->lock);
	return r;
}

static int file_sync(struct dbvfs *v, struct io_file *file, const char *name)
{
	int r = io_sync(file);

	if (r < 0)
		return io_failed(name, "sync", r, SQLITE_IOERR_FSYNC);
	r = dbvfs_sync_dir(v);
	return r < 0 ? io_failed(name, "sync of the directory", r, SQLITE_IOERR_DIR_FSYNC)
	             : SQLITE_OK;
}

static int file_size(struct io_file *file, const char *name, sqlite3_int64 *ret_size)
{
	uint64_t size = 0;

	if (file) {
		const int r = io_size(file, &size);
		if (r < 0)
			return io_failed(name, "size", r, SQLITE_IOERR_FSTAT);
	}
	*ret_size = (sqlite3_int64)size;
	return SQLITE_OK;
}

/* --- the database file --- */

static int db_close(sqlite3_file *file)
{
	return dbfile_unlock(file, SQLITE_LOCK_NONE);
}

static int db_read(sqlite3_file *file, void *buf, int len, sqlite3_int64 off)
{
	struct dbvfs *v = dbfile_of(file)->v;
	const uint32_t number = (uint32_t)((uint64_t)off / DBVFS_PAGE_SIZE) + 1;
	const bool is_page = len == (int)DBVFS_PAGE_SIZE && off % DBVFS_PAGE_SIZE == 0;
	size_t n = 0;
	const int rc = file_read(v->db, v->db_name, buf, (size_t)len, (uint64_t)off, &n);

	if (rc != SQLITE_OK)
		return rc;
	if (n == 0 && off == 0)
		return SQLITE_IOERR_SHORT_READ; /* being created */
	if (!is_page && (uint64_t)off + (uint64_t)len <= DB_HEADER_LEN)
		return n == (size_t)len ? SQLITE_OK : SQLITE_IOERR_SHORT_READ;
	/* Any other piece means that the header lies about the page size. */
	if (!is_page || n < DBVFS_PAGE_SIZE || !dbvfs_page_good(buf, number))
		return damaged(v, v->db_name, number);
	return SQLITE_OK;
}

static int db_write(sqlite3_file *file, const void *buf, int len, sqlite3_int64 off)
{
	struct dbvfs *v = dbfile_of(file)->v;
	uint8_t page[DBVFS_PAGE_SIZE];

	if (v->read_only)
		return SQLITE_READONLY;
	if (len != (int)DBVFS_PAGE_SIZE || off % DBVFS_PAGE_SIZE != 0)
		return SQLITE_IOERR_WRITE; /* would be a page without checksum */
	memcpy(page, buf, DBVFS_PAGE_SIZE);
	dbvfs_page_seal(page, (uint32_t)((uint64_t)off / DBVFS_PAGE_SIZE) + 1);
	const int r = io_pwrite(v->db, page, DBVFS_PAGE_SIZE, (uint64_t)off);
	return r < 0 ? io_failed(v->db_name, "write", r, SQLITE_IOERR_WRITE) : SQLITE_OK;
}

static int db_truncate(sqlite3_file *file, sqlite3_int64 size)
{
	struct dbvfs *v = dbfile_of(file)->v;

	if (v->read_only)
		return SQLITE_READONLY;
	const int r = io_truncate(v->db, (uint64_t)size);
	return r < 0 ? io_failed(v->db_name, "truncate", r, SQLITE_IOERR_TRUNCATE) : SQLITE_OK;
}

static int db_sync(sqlite3_file *file, int flags)
{
	struct dbvfs *v = dbfile_of(file)->v;

	(void)flags;
	return v->read_only ? SQLITE_OK : file_sync(v, v->db, v->db_name);
}

static int db_size(sqlite3_file *file, sqlite3_int64 *ret_size)
{
	struct dbvfs *v = dbfile_of(file)->v;

	return file_size(v->db, v->db_name, ret_size);
}

static int any_control(sqlite3_file *file, int op, void *arg)
{
	(void)file, (void)op, (void)arg;
	return SQLITE_NOTFOUND;
}

static int any_sector_size(sqlite3_file *file)
{
	(void)file;
	return 4096;
}

/*
 * A power cut in the middle of a write harms no bytes beside it: SQLite's own assumption on Linux,
 * and that of the intent log and the segments too.
 */
static int any_characteristics(sqlite3_file *file)
{
	(void)file;
	return SQLITE_IOCAP_POWERSAFE_OVERWRITE;
}

static const sqlite3_io_methods db_methods = {
        .iVersion = 2,
        .xClose = db_close,
        .xRead = db_read,
        .xWrite = db_write,
        .xTruncate = db_truncate,
        .xSync = db_sync,
        .xFileSize = db_size,
        .xLock = dbfile_lock,
        .xUnlock = dbfile_unlock,
        .xCheckReservedLock = dbfile_check_reserved,
        .xFileControl = any_control,
        .xSectorSize = any_sector_size,
        .xDeviceCharacteristics = any_characteristics,
        .xShmMap = dbfile_shm_map,
        .xShmLock = dbfile_shm_lock,
        .xShmBarrier = dbfile_shm_barrier,
        .xShmUnmap = dbfile_shm_unmap,
};

/* --- the WAL --- */

static uint64_t frame_sum(const void *page)
{
	const uint64_t sum = XXH3_64bits(page, DBVFS_PAGE_SIZE);

	return sum ? sum : 1;
}

/* Remembers; sum 0 forgets.  Out of memory only means that the frame is not verified. */
static void frame_remember(struct dbvfs *v, uint64_t frame, uint64_t sum)
{
	pthread_mutex_lock(&v->lock);
	if (frame >= v->n_wal_sums && sum) {
		const size_t n = MAX(frame + 1, v->n_wal_sums * 2);
		uint64_t *sums = realloc(v->wal_sums, n * sizeof(*sums));
		if (sums) {
			memset(sums + v->n_wal_sums, 0, (n - v->n_wal_sums) * sizeof(*sums));
			v->wal_sums = sums;
			v->n_wal_sums = n;
		}
	}
	if (frame < v->n_wal_sums)
		v->wal_sums[frame] = sum;
	pthread_mutex_unlock(&v->lock);
}

static uint64_t frame_recall(struct dbvfs *v, uint64_t frame)
{
	pthread_mutex_lock(&v->lock);
	const uint64_t sum = frame < v->n_wal_sums ? v->wal_sums[frame] : 0;
	pthread_mutex_unlock(&v->lock);
	return sum;
}

/* Whether [off, off+len) is the page of a frame, or (whole) a frame with its header. */
static bool is_frame(sqlite3_int64 off, int len, uint64_t *ret_frame, bool *ret_whole)
{
	if (off < (sqlite3_int64)WAL_HEADER_LEN)
		return false;
	const uint64_t in = ((uint64_t)off - WAL_HEADER_LEN) % WAL_FRAME_LEN;
	*ret_frame = ((uint64_t)off - WAL_HEADER_LEN) / WAL_FRAME_LEN;
	*ret_whole = in == 0 && len == (int)WAL_FRAME_LEN;
	return *ret_whole || (in == WAL_FRAME_HEADER_LEN && len == (int)DBVFS_PAGE_SIZE);
}

static int wal_close(sqlite3_file *file)
{
	(void)file;
	return SQLITE_OK;
}

static int wal_read(sqlite3_file *file, void *buf, int len, sqlite3_int64 off)
{
	struct dbvfs *v = dbfile_of(file)->v;
	uint64_t frame = 0;
	bool whole = false;
	size_t n = 0;
	const int rc = file_read(v->wal, v->wal_name, buf, (size_t)len, (uint64_t)off, &n);

	if (rc != SQLITE_OK)
		return rc;
	if (n < (size_t)len)
		return SQLITE_IOERR_SHORT_READ;
	if (!is_frame(off, len, &frame, &whole))
		return SQLITE_OK;
	const uint64_t sum = frame_sum((const uint8_t *)buf + (whole ? WAL_FRAME_HEADER_LEN : 0));
	const uint64_t known = frame_recall(v, frame);
	if (known == 0 && whole)
		frame_remember(v, frame, sum); /* recovery: SQLite verifies it right now */
	return known == 0 || known == sum ? SQLITE_OK : damaged(v, v->wal_name, frame + 1);
}

static int wal_write(sqlite3_file *file, const void *buf, int len, sqlite3_int64 off)
{
	struct dbvfs *v = dbfile_of(file)->v;
	uint64_t frame = 0;
	bool whole = false;

	if (v->read_only)
		return SQLITE_READONLY;
	const bool paged = is_frame(off, len, &frame, &whole);
	const int r = io_pwrite(v->wal, buf, (size_t)len, (uint64_t)off);
	if (paged && r < 0)
		frame_remember(v, frame, 0);
	else if (paged)
		frame_remember(v, frame,
		        frame_sum((const uint8_t *)buf + (whole ? WAL_FRAME_HEADER_LEN : 0)));
	return r < 0 ? io_failed(v->wal_name, "write", r, SQLITE_IOERR_WRITE) : SQLITE_OK;
}

/*
 * Zeros from size on, synced.  When all goes, the header goes first and for good: everything is in
 * the database by now, and if the power failed over frames of which some are zeros and some are not,
 * a recovery that believed the first ones would put old pages in the place of newer ones.
 */
static int wal_overwrite(struct dbvfs *v, uint64_t size)
{
	static const uint8_t zeros[64 << 10];
	uint64_t end = 0;
	int r = io_size(v->wal, &end);

	if (r == 0 && size == 0 && end > 0)
		r = io_pwrite(v->wal, zeros, MIN((uint64_t)WAL_HEADER_LEN, end), 0);
	if (r == 0 && size == 0 && end > 0)
		r = io_sync(v->wal);
	for (uint64_t off = size; r == 0 && off < end; off += sizeof(zeros))
		r = io_pwrite(v->wal, zeros, MIN(sizeof(zeros), end - off), off);
	return r < 0 ? r : io_sync(v->wal);
}

void dbvfs_wipe_mode(struct dbvfs *v, bool on)
{
	v->wiping = on;
}

static int wal_truncate(sqlite3_file *file, sqlite3_int64 size)
{
	struct dbvfs *v = dbfile_of(file)->v;

	if (v->read_only)
		return SQLITE_READONLY;
	int r = v->wiping ? wal_overwrite(v, (uint64_t)size) : 0;
	if (r == 0)
		r = io_truncate(v->wal, (uint64_t)size);
	return r < 0 ? io_failed(v->wal_name, "truncate", r, SQLITE_IOERR_TRUNCATE) : SQLITE_OK;
}

static int wal_sync(sqlite3_file *file, int flags)
{
	struct dbvfs *v = dbfile_of(file)->v;

	(void)flags;
	if (v->read_only)
		return SQLITE_OK;
	const int rc = file_sync(v, v->wal, v->wal_name);
	if (rc != SQLITE_OK) {
		pthread_mutex_lock(&v->lock);
		v->wal_failed = true;
		pthread_mutex_unlock(&v->lock);
	}
	return rc;
}

static int wal_size(sqlite3_file *file, sqlite3_int64 *ret_size)
{
	struct dbvfs *v = dbfile_of(file)->v;

	return file_size(v->wal, v->wal_name, ret_size);
}

static int wal_lock(sqlite3_file *file, int level)
{
	(void)file, (void)level;
	return SQLITE_OK;
}

static int wal_check_reserved(sqlite3_file *file, int *ret_held)
{
	(void)file;
	*ret_held = 0;
	return SQLITE_OK;
}

static const sqlite3_io_methods wal_methods = {
        .iVersion = 1,
        .xClose = wal_close,
        .xRead = wal_read,
        .xWrite = wal_write,
        .xTruncate = wal_truncate,
        .xSync = wal_sync,
        .xFileSize = wal_size,
        .xLock = wal_lock,
        .xUnlock = wal_lock,
        .xCheckReservedLock = wal_check_reserved,
        .xFileControl = any_control,
        .xSectorSize = any_sector_size,
        .xDeviceCharacteristics = any_characteristics,
};

bool dbvfs_wal_failed(struct dbvfs *v)
{
	pthread_mutex_lock(&v->lock);
	const bool failed = v->wal_failed;
	pthread_mutex_unlock(&v->lock);
	return failed;
}

int dbvfs_scrub(struct dbvfs *v)
{
	static const uint8_t zeros[WAL_HEADER_LEN];
	uint32_t frames = 0;
	int r = dbvfs_wal_frames(v, &frames);

	if (r < 0)
		return r;
	if (!v->wal || v->read_only)
		return -EROFS;
	/* Frame headers are 24 bytes: the rest falls on the frame's page, which is void too. */
	const uint64_t end = frames ? WAL_HEADER_LEN + (uint64_t)frames * WAL_FRAME_LEN : 0;
	frame_remember(v, frames, 0);
	r = io_pwrite(v->wal, zeros, sizeof(zeros), end);
	if (r == 0)
		r = io_truncate(v->wal, end);
	if (r == 0)
		r = io_sync(v->wal);
	if (r < 0)
		return r;
	pthread_mutex_lock(&v->lock);
	v->wal_failed = false;
	pthread_mutex_unlock(&v->lock);
	return 0;
}

int dbvfs_settle(struct dbvfs *v)
{
	uint32_t frames = 0;
	uint64_t size = 0;
	int r = v->wal ? io_size(v->wal, &size) : 0;

	if (r < 0 || size == 0)
		return r;
	r = dbvfs_wal_frames(v, &frames);
	if (r < 0)
		return r;
	const uint64_t end = frames ? WAL_HEADER_LEN + (uint64_t)frames * WAL_FRAME_LEN : 0;
	return size > end ? dbvfs_scrub(v) : io_sync(v->wal);
}

/* --- the VFS --- */

/* With v->lock held.  A WAL that is not there is an empty one when it may not be made. */
static int backing_open(struct dbvfs *v, const char *name, bool wal, struct io_file **file)
{
	const unsigned how = v->read_only ? IO_READ : IO_WRITE;

	if (*file)
		return 0;
	const int r = io_open(v->io, name, how, file);
	if (r != -ENOENT || !wal)
		return r;
	return v->read_only ? 0 : io_open(v->io, name, how | IO_CREATE, file);
}

static int vfs_open(
        sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags, int *ret_flags)
{
	struct dbvfs *v = dbvfs_of(vfs);
	struct dbfile *f = dbfile_of(file);
	const bool wal = flags & SQLITE_OPEN_WAL;

	*f = (struct dbfile){.v = v};
	if (!name || strcmp(name, wal ? v->wal_name : v->db_name) != 0)
		return SQLITE_CANTOPEN;
	pthread_mutex_lock(&v->lock);
	const int r = backing_open(v, name, wal, wal ? &v->wal : &v->db);
	pthread_mutex_unlock(&v->lock);
	if (r < 0)
		return io_failed(name, "open", r, SQLITE_CANTOPEN);
	f->base.pMethods = wal ? &wal_methods : &db_methods;
	if (v->read_only)
		flags = (flags & ~(SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE)) |
		        SQLITE_OPEN_READONLY;
	if (ret_flags)
		*ret_flags = flags;
	return SQLITE_OK;
}

/* SQLite deletes a WAL that it finds beside an empty database. */
static int vfs_delete(sqlite3_vfs *vfs, const char *name, int sync_dir)
{
	struct dbvfs *v = dbvfs_of(vfs);

	pthread_mutex_lock(&v->lock);
	const bool in_use = v->wal != NULL;
	pthread_mutex_unlock(&v->lock);
	if (v->read_only || in_use || strcmp(name, v->wal_name) != 0)
		return SQLITE_IOERR_DELETE;
	int r = io_unlink(v->io, name);
	if (r == -ENOENT)
		return SQLITE_IOERR_DELETE_NOENT;
	if (r == 0 && sync_dir)
		r = io_sync_dir(v->io, "");
	return r < 0 ? io_failed(name, "delete", r, SQLITE_IOERR_DELETE) : SQLITE_OK;
}

static int vfs_access(sqlite3_vfs *vfs, const char *name, int flags, int *ret_yes)
{
	struct dbvfs *v = dbvfs_of(vfs);
	CLEANUP(io_closep) struct io_file *file = NULL;
	const int r = io_open(v->io, name, IO_READ, &file);

	(void)flags;
	if (r < 0 && r != -ENOENT)
		return io_failed(name, "open", r, SQLITE_IOERR_ACCESS);
	*ret_yes = r == 0;
	return SQLITE_OK;
}

static int vfs_full_path(sqlite3_vfs *vfs, const char *name, int len, char *ret_path)
{
	(void)vfs;
	return snprintf(ret_path, (size_t)len, "%s", name) < len ? SQLITE_OK : SQLITE_CANTOPEN;
}

static int vfs_random(sqlite3_vfs *vfs, int len, char *ret_bytes)
{
	sqlite3_vfs *host = sqlite3_vfs_find(NULL);

	(void)vfs;
	return host->xRandomness(host, len, ret_bytes);
}

static int vfs_sleep(sqlite3_vfs *vfs, int us)
{
	sqlite3_vfs *host = sqlite3_vfs_find(NULL);

	(void)vfs;
	return host->xSleep(host, us);
}

static int vfs_time(sqlite3_vfs *vfs, double *ret_days)
{
	sqlite3_vfs *host = sqlite3_vfs_find(NULL);

	(void)vfs;
	return host->xCurrentTime(host, ret_days);
}

static int vfs_last_error(sqlite3_vfs *vfs, int len, char *ret_text)
{
	(void)vfs, (void)len, (void)ret_text;
	return 0;
}

const char *dbvfs_vfs_name(const struct dbvfs *v)
{
	return v->vfs_name;
}

const char *dbvfs_db_name(const struct dbvfs *v)
{
	return v->db_name;
}

int dbvfs_size(struct dbvfs *v, uint64_t *ret_bytes)
{
	uint64_t db = 0, wal = 0;
	int r = io_size(v->db, &db);

	if (r == 0 && v->wal)
		r = io_size(v->wal, &wal);
	if (r < 0)
		return r;
	*ret_bytes = db + wal;
	return 0;
}

void dbvfs_free(struct dbvfs *v)
{
	if (!v)
		return;
	if (v->base.zName)
		sqlite3_vfs_unregister(&v->base);
	io_close(v->db);
	io_close(v->wal);
	dbvfs_regions_free(v);
	free(v->wal_sums);
	free(v->db_name);
	free(v->wal_name);
	pthread_mutex_destroy(&v->lock);
	free(v);
}

void dbvfs_freep(struct dbvfs **v)
{
	dbvfs_free(*v);
}

int dbvfs_create(struct io *io, const char *name, bool read_only, struct dbvfs **ret_vfs)
{
	static _Atomic unsigned number;
	struct dbvfs *fresh = calloc(1, sizeof(*fresh));

	if (!fresh)
		return -ENOMEM;
	pthread_mutex_init(&fresh->lock, NULL);
	CLEANUP(dbvfs_freep) struct dbvfs *v = fresh;
	v->io = io;
	v->read_only = read_only;
	v->db_name = strdup(name);
	const size_t len = strlen(name) + sizeof("-wal");
	v->wal_name = malloc(len);
	if (!v->db_name || !v->wal_name)
		return -ENOMEM;
	snprintf(v->wal_name, len, "%s-wal", name);
	snprintf(v->vfs_name, sizeof(v->vfs_name), "weir-%u", number++);
	v->base = (sqlite3_vfs){
	        .iVersion = 1,
	        .szOsFile = sizeof(struct dbfile),
	        .mxPathname = 255,
	        .zName = v->vfs_name,
	        .xOpen = vfs_open,
	        .xDelete = vfs_delete,
	        .xAccess = vfs_access,
	        .xFullPathname = vfs_full_path,
	        .xRandomness = vfs_random,
	        .xSleep = vfs_sleep,
	        .xCurrentTime = vfs_time,
	        .xGetLastError = vfs_last_error,
	};
	if (sqlite3_vfs_register(&v->base, 0) != SQLITE_OK) {
		v->base.zName = NULL;
		return -ENOMEM;
	}
	*ret_vfs = STEAL(v);
	return 0;
}

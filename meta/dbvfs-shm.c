/*
 * dbvfs-shm.c - locks and the WAL index, in this process's memory
 *
 * Every connection to the database is in this process (the datastore's lock file sees to that), so
 * what SQLite's unix VFS does with fcntl() locks and a -shm file is done with counters and heap
 * memory under one mutex.  Nothing blocks: a lock that is taken answers SQLITE_BUSY and SQLite
 * tries again.
 *
 * The rules are those of the unix VFS.  Database file: many SHARED; one RESERVED beside them;
 * PENDING keeps new SHARED out; EXCLUSIVE needs all others gone.  WAL index: each of 8 slots is
 * held by many shared or one exclusively.
 *
 * The index lives as long as the VFS, also while no connection is open: what it calls committed is
 * what this process knows to be committed, and a reopened writer must not find more in the WAL than
 * that (a transaction whose sync failed, say).  A new VFS starts with zeros, and SQLite rebuilds
 * the index from the WAL.
 */
#include "meta/dbvfs-private.h"

#include <errno.h>
#include <string.h>

static struct dbfile *dbfile_of(sqlite3_file *f)
{
	return CONTAINER_OF(f, struct dbfile, base);
}

static int lock_shared(struct dbvfs *v, const struct dbfile *f)
{
	if (v->pending && v->pending != f)
		return SQLITE_BUSY;
	v->n_shared++;
	return SQLITE_OK;
}

static int lock_exclusive(struct dbvfs *v, struct dbfile *f)
{
	if ((v->reserved && v->reserved != f) || (v->pending && v->pending != f))
		return SQLITE_BUSY;
	v->reserved = v->pending = f;
	if (f->level < SQLITE_LOCK_PENDING)
		f->level = SQLITE_LOCK_PENDING;
	return v->n_shared == 1 ? SQLITE_OK : SQLITE_BUSY;
}

static int lock_raise(struct dbvfs *v, struct dbfile *f, int level)
{
	if (level == SQLITE_LOCK_SHARED)
		return lock_shared(v, f);
	if (level == SQLITE_LOCK_RESERVED) {
		if (v->reserved && v->reserved != f)
			return SQLITE_BUSY;
		v->reserved = f;
		return SQLITE_OK;
	}
	return lock_exclusive(v, f);
}

int dbfile_lock(sqlite3_file *file, int level)
{
	struct dbfile *f = dbfile_of(file);
	int rc = SQLITE_OK;

	pthread_mutex_lock(&f->v->lock);
	if (level > f->level) {
		rc = lock_raise(f->v, f, level);
		if (rc == SQLITE_OK)
			f->level = level;
	}
	pthread_mutex_unlock(&f->v->lock);
	return rc;
}

int dbfile_unlock(sqlite3_file *file, int level)
{
	struct dbfile *f = dbfile_of(file);
	struct dbvfs *v = f->v;

	pthread_mutex_lock(&v->lock);
	if (f->level > level) {
		if (v->reserved == f)
			v->reserved = NULL;
		if (v->pending == f)
			v->pending = NULL;
		if (level < SQLITE_LOCK_SHARED)
			v->n_shared--;
		f->level = level;
	}
	pthread_mutex_unlock(&v->lock);
	return SQLITE_OK;
}

int dbfile_check_reserved(sqlite3_file *file, int *ret_held)
{
	struct dbfile *f = dbfile_of(file);

	pthread_mutex_lock(&f->v->lock);
	*ret_held = f->v->reserved != NULL;
	pthread_mutex_unlock(&f->v->lock);
	return SQLITE_OK;
}

/* With the lock held.  Regions are allocated one by one: SQLite keeps pointers to them. */
static int regions_extend(struct dbvfs *v, unsigned n, size_t len)
{
	if (n > SHM_REGIONS_MAX)
		return SQLITE_FULL;
	void **regions = realloc(v->regions, n * sizeof(*regions));
	if (!regions)
		return SQLITE_IOERR_NOMEM;
	v->regions = regions;
	while (v->n_regions < n) {
		void *mem = calloc(1, len);
		if (!mem)
			return SQLITE_IOERR_NOMEM;
		v->regions[v->n_regions++] = mem;
	}
	return SQLITE_OK;
}

int dbfile_shm_map(sqlite3_file *file, int region, int len, int extend, void volatile **ret_mem)
{
	struct dbfile *f = dbfile_of(file);
	struct dbvfs *v = f->v;
	int rc = SQLITE_OK;

	pthread_mutex_lock(&v->lock);
	if ((unsigned)region >= v->n_regions && extend)
		rc = regions_extend(v, (unsigned)region + 1, (size_t)len);
	*ret_mem = (unsigned)region < v->n_regions ? v->regions[region] : NULL;
	pthread_mutex_unlock(&v->lock);
	return rc;
}

void dbvfs_regions_free(struct dbvfs *v)
{
	for (unsigned i = 0; i < v->n_regions; i++)
		free(v->regions[i]);
	free(v->regions);
	v->regions = NULL;
	v->n_regions = 0;
}

static void shm_release(struct dbvfs *v, struct dbfile *f, unsigned bits)
{
	for (int i = 0; i < SHM_LOCKS; i++) {
		if (!(bits & BIT(i)))
			continue;
		if (f->shm_shared & BIT(i))
			v->shm_shared[i]--;
		if (v->shm_exclusive[i] == f)
			v->shm_exclusive[i] = NULL;
	}
	f->shm_shared &= ~bits;
	f->shm_exclusive &= ~bits;
}

static bool shm_can_lock(const struct dbvfs *v, const struct dbfile *f, int i, bool exclusive)
{
	if (v->shm_exclusive[i] && v->shm_exclusive[i] != f)
		return false;
	return !exclusive || v->shm_shared[i] == ((f->shm_shared & BIT(i)) ? 1u : 0u);
}

/* All n slots or none. */
static int shm_acquire(struct dbvfs *v, struct dbfile *f, int first, int n, bool exclusive)
{
	for (int i = first; i < first + n; i++)
		if (!shm_can_lock(v, f, i, exclusive))
			return SQLITE_BUSY;
	for (int i = first; i < first + n; i++) {
		if (exclusive) {
			v->shm_exclusive[i] = f;
			f->shm_exclusive |= BIT(i);
		} else if (!(f->shm_shared & BIT(i))) {
			v->shm_shared[i]++;
			f->shm_shared |= BIT(i);
		}
	}
	return SQLITE_OK;
}

int dbfile_shm_lock(sqlite3_file *file, int first, int n, int flags)
{
	struct dbfile *f = dbfile_of(file);
	struct dbvfs *v = f->v;
	const unsigned bits = ((1u << n) - 1) << first;
	const bool exclusive = flags & SQLITE_SHM_EXCLUSIVE;
	int rc = SQLITE_OK;

	ASSERT(first >= 0 && n >= 1 && first + n <= SHM_LOCKS);
	pthread_mutex_lock(&v->lock);
	if (flags & SQLITE_SHM_UNLOCK) {
		shm_release(v, f, bits);
	} else {
		rc = shm_acquire(v, f, first, n, exclusive);
		/* Recovery reads the WAL anew and checks it itself. */
		if (rc == SQLITE_OK && exclusive && (bits & BIT(SHM_RECOVER_LOCK)))
			v->n_wal_sums = 0;
	}
	pthread_mutex_unlock(&v->lock);
	return rc;
}

void dbfile_shm_barrier(sqlite3_file *file)
{
	struct dbfile *f = dbfile_of(file);

	__sync_synchronize();
	pthread_mutex_lock(&f->v->lock);
	pthread_mutex_unlock(&f->v->lock);
}

int dbfile_shm_unmap(sqlite3_file *file, int remove)
{
	struct dbfile *f = dbfile_of(file);

	(void)remove; /* there is no file */
	pthread_mutex_lock(&f->v->lock);
	shm_release(f->v, f, ~0u);
	pthread_mutex_unlock(&f->v->lock);
	return SQLITE_OK;
}

/*
 * isInit and mxFrame of the WAL index header (https://sqlite.org/walformat.html), native byte
 * order.  The caller is the only writer, outside a transaction, so they do not change meanwhile.
 */
int dbvfs_wal_frames(struct dbvfs *v, uint32_t *ret_n)
{
	int r = -EIO;

	pthread_mutex_lock(&v->lock);
	const uint8_t *header = v->n_regions > 0 ? v->regions[0] : NULL;
	if (header && header[12]) {
		memcpy(ret_n, header + 16, sizeof(*ret_n));
		r = 0;
	}
	pthread_mutex_unlock(&v->lock);
	return r;
}

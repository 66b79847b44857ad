/*
 * dbvfs-private.h - what the two halves of the VFS share: files (dbvfs.c), locks and shared memory
 * (dbvfs-shm.c)
 */
#pragma once

#include <pthread.h>
#include <sqlite3.h>

#include "meta/dbvfs.h"

#define WAL_HEADER_LEN       32u
#define WAL_FRAME_HEADER_LEN 24u
#define WAL_FRAME_LEN        (WAL_FRAME_HEADER_LEN + DBVFS_PAGE_SIZE)

#define SHM_LOCKS        8 /* SQLITE_SHM_NLOCK */
#define SHM_RECOVER_LOCK 2 /* held exclusively by whoever rebuilds the WAL index */
#define SHM_REGIONS_MAX  65536

struct dbfile;

struct dbvfs {
	sqlite3_vfs base;
	char vfs_name[32];
	char *db_name, *wal_name; /* owned */
	struct io *io;
	bool read_only;
	_Atomic uint32_t page_complained; /* last one in the log, so that it is not flooded */

	pthread_mutex_t lock;     /* guards all below; held for no I/O but opening and sync_dir */
	struct io_file *db, *wal; /* shared by all connections; opened by the first, NULL before */
	bool dir_synced;          /* the files' names are durable */
	bool wal_failed;
	bool wiping; /* the writer's thread: dbvfs_wipe_mode() */

	/* locks of the database file */
	unsigned n_shared;
	struct dbfile *reserved, *pending;

	/* the WAL index */
	void **regions; /* owned, each 32 KiB */
	unsigned n_regions;
	unsigned shm_shared[SHM_LOCKS];
	struct dbfile *shm_exclusive[SHM_LOCKS];

	/* XXH3-64 of the page in each WAL frame as written or recovered; 0: not known */
	uint64_t *wal_sums; /* owned */
	size_t n_wal_sums;
};

/* One connection's view of one file; SQLite owns the memory. */
struct dbfile {
	sqlite3_file base;
	struct dbvfs *v;
	int level;                          /* SQLITE_LOCK_x, of the database file */
	unsigned shm_shared, shm_exclusive; /* bits: locks held */
};

int dbfile_lock(sqlite3_file *f, int level);
int dbfile_unlock(sqlite3_file *f, int level);
int dbfile_check_reserved(sqlite3_file *f, int *ret_held);
int dbfile_shm_map(sqlite3_file *f, int region, int len, int extend, void volatile **ret_mem);
int dbfile_shm_lock(sqlite3_file *f, int first, int n, int flags);
void dbfile_shm_barrier(sqlite3_file *f);
int dbfile_shm_unmap(sqlite3_file *f, int remove);
/* Frees the WAL index. */
void dbvfs_regions_free(struct dbvfs *v);
/* Committed frames in the WAL, as the WAL index has it; -EIO when there is no index yet. */
int dbvfs_wal_frames(struct dbvfs *v, uint32_t *ret_n) MUST_CHECK;

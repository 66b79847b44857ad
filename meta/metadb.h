/*
 * metadb.h - the metadata store behind struct meta
 *
 * Private to meta/.  Lock order: nothing is taken while a metadb lock is held.
 */
#pragma once

#include <pthread.h>

#include "meta/db.h"
#include "meta/meta.h"

#define META_READERS_MAX 8 /* connections; more readers at once wait for one */

struct metadb {
	struct meta base;  /* first: the engine's view */
	struct io *io;     /* not owned */
	struct dbvfs *vfs; /* owned */
	bool read_only;

	/* the txg thread's */
	struct db *writer; /* owned; NULL: lost, begin opens it again */
	bool in_transaction;
	bool commit_failed; /* frames with a commit mark may be in the WAL: scrub before anything
	                       else */
	uint64_t checkpoint_frames; /* WAL length that asks for the next checkpoint */

	pthread_mutex_t lock; /* guards the pool */
	pthread_cond_t reader_free;
	struct db *idle;    /* owned list */
	unsigned n_readers; /* idle or taken */
};

static inline struct metadb *metadb_of(struct meta *m)
{
	return CONTAINER_OF(m, struct metadb, base);
}

extern const struct meta_ops metadb_ops;

/* A reader connection for the calling thread; waits while all are in use.  Never take two. */
int metadb_reader(struct metadb *m, struct db **ret_db) MUST_CHECK;
/* Gives it back; accepts NULL. */
void metadb_reader_done(struct metadb *m, struct db *d);
/* Opens the writer connection if there is none. */
int metadb_writer(struct metadb *m) MUST_CHECK;
/* Copies what the WAL holds into meta.db as far as readers allow; the txg thread. */
int metadb_checkpoint(struct metadb *m, int mode) MUST_CHECK;
/* After a failed commit or sync: nothing begins before this has returned 0. */
int metadb_scrub(struct metadb *m) MUST_CHECK;

/* struct meta_ops.scrub (wipe.c). */
int metadb_wipe(struct meta *meta) MUST_CHECK;

/*
 * ns.h - the inside of struct ns, shared by namespace.c (changes), namespace-read.c and records.c
 *
 * Private to meta/.  Lock order: change_lock, the sink's own, lock.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "meta/metadb.h"
#include "meta/pending.h"

struct ns {
	struct metadb *m; /* not owned */
	struct ns_sink sink;
	_Atomic uint64_t next_ino, next_dirent, next_number;
	_Atomic uint64_t snapshot_changes;
	pthread_mutex_t change_lock; /* rows reach sink and pending view in one order */
	pthread_mutex_t lock;        /* guards what follows; never held while SQLite reads */
	struct pending pending;
	uint64_t drops; /* counts ns_committed() */
};

/* A name's row: pending over committed; -ENOENT. */
struct name_row {
	uint64_t id, ino;
	uint32_t mode;
};
int ns_name_row(struct ns *ns, uint64_t dir, const char *name, struct name_row *ret_row) MUST_CHECK;

/* Makes a change: row into the sink and the pending view. */
int ns_change(struct ns *ns, const struct row *row) MUST_CHECK;
/* The number of groups dropped so far: unchanged, what was read in between is still to be merged. */
uint64_t ns_drops(struct ns *ns);

/*
 * ns.h - the inside of struct ns, shared by namespace.c (changes) and namespace-read.c
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
	_Atomic uint64_t next_ino, next_dirent;
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

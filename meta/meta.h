/*
 * meta.h - the datastore's metadata in SQLite (meta.db): opening, and the engine's port
 *
 * The only code that includes sqlite3.h is in meta/.  Page size 8192, WAL, synchronous=FULL,
 * trusted_schema=OFF; one writer connection used by the txg thread alone, a small pool of reader
 * connections that see the last commit and never wait.  All file access goes through struct io, by
 * a VFS of our own (meta/dbvfs.c), which also gives every page of meta.db a checksum in 8 reserved
 * bytes: a damaged page is an error for what is on it, never wrong data.  The WAL index lives in
 * process memory: one process, one daemon.
 */
#pragma once

#include "base/errmsg.h"
#include "base/io.h"
#include "store/ports.h"

#define META_NAME "meta.db"

struct meta_create_params {
	uint64_t index_bytes; /* default of mounts; 0: built-in */
	uint64_t log_bytes;
	uint64_t created_wall_ns;
};

/*
 * Creates meta.db: schema, datastore row (new uuid, new domain key), root directory inode 1 (mode
 * 0755, uid/gid of the caller). Durable on return, directory included.
 */
int meta_create(
        struct io *io, const struct meta_create_params *params, struct errmsg *em) MUST_CHECK;

/*
 * Opens; upgrades an older schema by the numbered migrations; refuses a newer one
 * (-EPROTONOSUPPORT) and what is no datastore (-EMEDIUMTYPE) with a clear message.
 */
int meta_open(struct io *io, bool read_only, struct meta **ret_meta, struct errmsg *em) MUST_CHECK;
void meta_close(struct meta *m); /* checkpoints; accepts NULL */

struct meta_info {
	unsigned schema_version;
	uint8_t uuid[16];
	uint64_t index_bytes, log_bytes, created_wall_ns;
};
int meta_info_get(struct meta *m, struct meta_info *ret_info) MUST_CHECK;
/* Bytes of meta.db and its WAL. */
int meta_size(struct meta *m, uint64_t *ret_bytes) MUST_CHECK;
/* Moves WAL content into meta.db, as far as readers allow; called by the txg thread now and then.
 */
int meta_checkpoint(struct meta *m) MUST_CHECK;
/*
 * PRAGMA integrity_check and the invariants of the namespace, of the committed state; fn gets each
 * complaint.  0 when the check was made, whatever it found.
 */
typedef void meta_complaint_fn(void *arg, const char *text);
int meta_check(struct meta *m, meta_complaint_fn *fn, void *arg) MUST_CHECK;

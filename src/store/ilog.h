/*
 * ilog.h - the intent log: a preallocated ring file that makes flushed data durable at once
 *
 * The file: a header block, then the ring.  A *batch* is what one group commit wrote: a header and
 * records {type, txg, image, offset, length, data}, padded to IO_ALIGN.  Batches follow each other
 * without gaps and wrap whole: where one does not fit before the end, a filler batch of its own
 * takes the rest.  One batch is under way at a time and the next begins only after its sync, so
 * only the last one can be torn.  The bytes are in ilog-format.h and FORMAT.md.
 *
 * The log's tail (offset and sequence of the first batch that may matter) is kept in the metadata
 * store's store_state and moves in the transaction of a group.  A new epoch begins at each open, in
 * the commit after recovery, so that a batch of an earlier life is never taken for one of this.
 *
 * Recovery reads from the tail while batches are valid and consecutive.  If a *valid later* batch
 * of the same epoch lies anywhere beyond the first bad one, the log is damaged (not torn):
 * -EUCLEAN.
 *
 * Records of images in a crypto domain are sealed: all of them that one flush logs of an image (up
 * to a limit) go into one record, of which image, group, domain and length are in the clear.  It is
 * bound to the batch that it was made for and to its place there.
 *
 * Failures: after a failed write or sync the log is *poisoned*: ilog_commit returns -EIO until
 * ilog_reset() (a new file under a new epoch) has succeeded; the caller commits a transaction group
 * instead.
 *
 * Threads: ilog_batch_* and ilog_commit by one thread at a time (the store's group-commit leader);
 * ilog_trim, ilog_used from any.
 */
#pragma once

#include "base/io.h"
#include "store/keyring.h"
#include "store/ports.h"

#define ILOG_NAME      "log"
#define ILOG_BYTES_MIN (16ull << 20)
#define ILOG_BYTES_MAX (64ull << 30)
#define ILOG_BATCH_MAX (16u << 20) /* bytes of one batch, header included */

enum ilog_type {
	ILOG_DATA = 1,   /* image, offset, data */
	ILOG_PUNCH = 2,  /* image, offset, length: becomes a hole */
	ILOG_ZERO = 3,   /* image, offset, length: becomes allocated zeros */
	ILOG_SHARE = 4,  /* image, offset, data = 8-byte map entries of consecutive chunks */
	ILOG_ROWS = 5,   /* data = namespace rows; image and offset 0 */
	ILOG_DELETE = 6, /* image: its content is dropped */
	ILOG_SEALED = 7, /* image, domain: records of types 1 to 4 of that image, sealed */
};

struct ilog_record {
	enum ilog_type type;
	uint64_t txg; /* the group that will commit it; replay skips what is committed */
	uint64_t image;
	uint64_t off;     /* bytes */
	uint64_t len;     /* bytes of the range; for DATA, SHARE, ROWS and SEALED: of data */
	const void *data; /* NULL for PUNCH, ZERO, DELETE */
	uint32_t domain;  /* SEALED: the crypto domain; else 0 */
};

struct ilog;

/* Creates the file: preallocated, zero-filled (so that overwriting changes no extents), synced. */
int ilog_create(struct io *io, const uint8_t uuid[16], uint64_t bytes, uint64_t epoch,
        struct errmsg *em) MUST_CHECK;

/*
 * Opens and checks the header.  -EUCLEAN: not a log, or damaged; -ESTALE: of another datastore;
 * -EPROTONOSUPPORT: of a newer version.  Then ilog_replay, then (unless read-only) ilog_start.
 */
int ilog_open(struct io *io, const uint8_t uuid[16], bool read_only, struct ilog **ret_log,
        struct errmsg *em) MUST_CHECK;
void ilog_close(struct ilog *l);

/*
 * Calls fn for each record from the tail on, in order; a whole batch is checked before its first
 * record is handed out.  *ret_off, *ret_seq: where the next batch would be.
 * -EUCLEAN: damage, with em saying where; records before it have been handed out.  -EIO: cannot be
 * read.  What fn returns, other than 0, ends it and is returned.
 */
typedef int ilog_record_fn(void *arg, const struct ilog_record *rec);
int ilog_replay(struct ilog *l, uint64_t epoch, uint64_t tail_off, uint64_t tail_seq,
        ilog_record_fn *fn, void *arg, uint64_t *ret_off, uint64_t *ret_seq,
        struct errmsg *em) MUST_CHECK;

/* Begins to append at off with seq under epoch; everything between tail and off stays reserved. */
void ilog_start(struct ilog *l, uint64_t epoch, uint64_t tail_off, uint64_t off, uint64_t seq);

/* Empties the batch under construction. */
void ilog_batch_begin(struct ilog *l);
/*
 * Copies a record in.  -ENOSPC: the batch would pass ilog_batch_max() or the ring's free space; it
 * is as before and may be committed.  A single record that passes ilog_batch_max() never fits.
 */
int ilog_batch_add(struct ilog *l, const struct ilog_record *rec) MUST_CHECK;
/*
 * Room for a record's data in place, to be filled before commit (it does not move until then); else
 * as ilog_batch_add.  For types with data.
 */
int ilog_batch_reserve(struct ilog *l, const struct ilog_record *rec, void **ret_data) MUST_CHECK;
/*
 * Content records of one image (encoded, len bytes, at most ILOG_SEALED_PLAIN_MAX), sealed into one
 * record.  flags: of what they hold (ILOG_SEALED_*).  -ENOSPC as above; -ENOMEM, -EIO: libcrypto's.
 */
struct ilog_seal {
	const struct crypto_domain *domain;
	uint64_t txg, image;
	uint32_t flags;
};
#define ILOG_SEALED_SHARES    BIT(0) /* there are SHARE records: segments are referred to */
#define ILOG_SEALED_FOREIGN   BIT(1) /* some of other domains than the record's */
#define ILOG_SEALED_PLAIN_MAX ((1u << 20) + 4096u)
int ilog_batch_add_sealed(
        struct ilog *l, const struct ilog_seal *how, const void *plain, size_t len) MUST_CHECK;
/* What commit would write, header and padding included; 0 while there is no record. */
size_t ilog_batch_bytes(const struct ilog *l);
/*
 * The largest batch: ILOG_BATCH_MAX, in a small log a bit less than half the ring.  One up to
 * this size always fits when nothing is in use (the tail is at the head).
 */
size_t ilog_batch_max(const struct ilog *l);
/*
 * Writes and syncs the batch, which is empty then; nothing to do for an empty one.  -EIO (and
 * poisoned) when that failed.
 */
int ilog_commit(struct ilog *l) MUST_CHECK;

/* Where the next batch will begin: to be stored as tail when all before it is committed. */
void ilog_head(struct ilog *l, uint64_t *ret_off, uint64_t *ret_seq);
/* The tail as committed in the metadata store is now here: space before it may be overwritten. */
void ilog_trim(struct ilog *l, uint64_t tail_off);
bool ilog_poisoned(struct ilog *l);
/*
 * Replaces a poisoned log by a new file under this epoch (written as log.new, synced, renamed,
 * directory synced), with the ring empty at offset 0.  Only when everything is committed; the epoch
 * must be in the metadata store by the next transaction, before anything is flushed to the new
 * file.
 */
int ilog_reset(struct ilog *l, uint64_t epoch) MUST_CHECK;
/*
 * Overwrites all of the ring with zeros, durably: nothing of it may matter (tail and head are the
 * same and stay so meanwhile; no batch is under construction).
 */
int ilog_wipe(struct ilog *l) MUST_CHECK;
/* Length of the ring, and what of it lies between tail and head. */
void ilog_space(struct ilog *l, uint64_t *ret_bytes, uint64_t *ret_used_bytes);

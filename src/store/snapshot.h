/*
 * snapshot.h - snapshots, clones, rollback, diff: roots of maps that are kept, copied, compared
 *
 * A *snapshot* is the map of one image as it was when a transaction group was frozen: a row with its
 * root, named by a 64-bit id of the caller's that is never used twice (snapshot_id()).
 * One instant over many images is many rows made by one call; names, sizes and attributes are the
 * business of the layer above, as rows of the same transaction (rows callback below).  A *clone* is
 * an ordinary image whose map begins as a copy of another root.  All of it is O(1) in the size of
 * images: nodes of a shared root are copied when they are changed (map.h).
 *
 * How an operation is done.  The call queues it and waits.  At the next freeze its rows callback runs with the
 * gate closed; once the group's own changes are in the maps, roots are copied; the group's transaction
 * holds all of it, or nothing.  Operations that touch the same image or snapshot, one of them in the
 * place of what it replaces, go to successive groups, in order.  The gate is closed for the freeze
 * alone; the call returns when the group is committed.
 *
 * Results of all operations below that take rows:
 *	0             committed, durable.
 *	-EINPROGRESS  the rows callback has run, and the commit has failed so far; the engine repeats it
 *	              (health says why).  It is done when a later store_sync() returns 0; if the process
 *	              dies before that, it is not.  An image that is being replaced (rollback, clone) is
 *	              not to be changed until then.
 *	other errors  nothing was done, or will be: the callback has not run or has returned that error.
 *	-EINVAL: an id that cannot be, a target twice, or one that is a source of the same call;
 *	-EXDEV: the target's policy names another crypto domain than the source's;
 *	-EROFS, -EIO, -ENOSPC, -ENOMEM as in store.h; -ENOENT: no such snapshot; -EEXIST: the id is in use;
 *	-ENOKEY: records of the image wait for a key (their changes would be missing).
 * Call without a gate, from any thread.
 *
 * Crypto domains.  A snapshot keeps what it has as it was stored: its row holds the domain that
 * the image's policy named then, but leaves and chunks may be of others (an image that was being
 * moved).  Making, deleting and rolling back need no key; reading does.  store_foreign_chunks() tells
 * for certain, with snapshot_image(id).  What policies name decides which keys are still needed, so
 * clones and rollbacks across domains are refused.  No check does that afterwards: an image that is being moved
 * has leaves of both domains, and what is sealed tells of its domain by itself (map.h, frame.h).
 */
#pragma once

#include "store/store.h"

/*
 * One instant over several images is a *set*: a number (ns_number_alloc, below 2^32, not 0) that the
 * record which names it has as its id.  Snapshot i of it has the id snapshot_id(set, i).
 */
#define SNAPSHOT_SET_SHIFT 24
#define SNAPSHOT_ID_MAX    ((1ull << (32 + SNAPSHOT_SET_SHIFT)) - 1)
static inline uint64_t snapshot_id(uint64_t set, uint64_t i)
{
	return set << SNAPSHOT_SET_SHIFT | i;
}

static inline uint64_t snapshot_set(uint64_t id)
{
	return id >> SNAPSHOT_SET_SHIFT;
}

/*
 * A snapshot as an image id: store_image_open() makes a handle for reading (store_readv, store_read,
 * store_seek, store_allocated, store_prefetch), what would change it is -EROFS; -ENOENT: no such
 * snapshot.  A handle that is open when its snapshot is deleted stays good until it is closed.
 * store_image_stats() and store_foreign_chunks() take such ids, too.  Images have ids below this bit.
 */
static inline uint64_t snapshot_image(uint64_t id)
{
	return id | SNAPSHOT_BIT;
}

/*
 * Gate closed, at the instant that the operation is of: append the rows that belong to it
 * (store_rows_append and what is built on it), which are of this transaction alone; the intent log
 * never has them.  Rows of the same group that collect_rows appends come after it.  Must not wait.
 * An error cancels the operation; what was appended so far stays, so fail first.
 */
typedef int snapshot_rows_fn(void *arg);

struct snapshot_ref {
	uint64_t id;    /* of the snapshot to be made */
	uint64_t image; /* of which */
};
/* All n at one instant.  An image without content gives an empty snapshot. */
int store_snapshot_create(struct store *s, const struct snapshot_ref *refs, size_t n,
        snapshot_rows_fn *rows, void *arg) MUST_CHECK;
/* Space comes back later.  Ids that are not there are -ENOENT: then none is deleted. */
int store_snapshot_delete(struct store *s, const uint64_t *ids, size_t n, snapshot_rows_fn *rows,
        void *arg) MUST_CHECK;

/*
 * To be called before guests are made to wait for the next operation: waits until no group is being committed
 * (which may take seconds), and keeps the next one from beginning until the operation is queued, 50 ms at most.
 * Without it the operation may have to wait for a commit before its instant is fixed.
 */
void store_snapshot_near(struct store *s);

struct rollback_ref {
	uint64_t image;
	uint64_t id; /* a snapshot of it; else -EINVAL */
};
/*
 * The images' content becomes the snapshots'.  The caller sees to it that nobody reads or changes
 * the images meanwhile; what was changed before is lost.  Open handles stay good.
 */
int store_snapshot_rollback(struct store *s, const struct rollback_ref *refs, size_t n,
        snapshot_rows_fn *rows, void *arg) MUST_CHECK;

struct clone_ref {
	uint64_t source; /* an image as of that instant, or snapshot_image(id) */
	uint64_t image;  /* a new id, or an existing image, whose content is replaced */
	uint32_t domain; /* that the image's policy will name: the source's, or -EXDEV */
};
/*
 * The images' maps become copies of the sources'.  As with rollback, nobody reads or changes the
 * targets meanwhile.
 */
int store_clone(struct store *s, const struct clone_ref *refs, size_t n, snapshot_rows_fn *rows,
        void *arg) MUST_CHECK;
/*
 * The same of one existing image, whose policy says its crypto domain (ref->domain is not looked at), and a
 * snapshot of what it is then, in one transaction.  The snapshot is one of ref->image.
 */
int store_clone_snapshot(struct store *s, const struct clone_ref *ref, uint64_t id,
        snapshot_rows_fn *rows, void *arg) MUST_CHECK;
/*
 * The same of one open image into an empty one (whole-file reflink), whose policies must name the same crypto
 * domain (-EXDEV).  -EAGAIN: images are being moved between domains (store_leaving), perhaps this one: share
 * its chunks one by one.  rows may be NULL.
 */
int store_clone_into(
        struct image *src, struct image *dst, snapshot_rows_fn *rows, void *arg) MUST_CHECK;

/* --- asking --- */

/* -ENOENT: no such snapshot.  As of the last commit. */
int store_snapshot_get(struct store *s, uint64_t id, struct snapshot_row *ret_row) MUST_CHECK;
/* All, in order of id; non-zero stops and is returned. */
int store_snapshot_each(struct store *s, snapshot_row_fn *fn, void *arg) MUST_CHECK;

/* Chunks that only snapshots of one set refer to: what deleting the set would free. */
struct snapshot_usage {
	uint64_t id; /* in: a snapshot of the set */
	uint64_t
	        unique_chunks; /* out; as far as can be seen: leaves that are locked do not count */
};
/*
 * Walks all maps, shared subtrees no more than twice.  Of entries with the same set that follow each
 * other, the first gets the number, the others 0.
 */
int store_snapshot_usage(struct store *s, struct snapshot_usage *usage, size_t n,
        gc_progress_fn *fn, void *arg) MUST_CHECK;

enum diff_state { DIFF_HOLE, DIFF_ZERO, DIFF_DATA };
/* Extents in order, without overlap, in bytes; neighbours of one state are one.  Non-zero stops. */
typedef int diff_fn(void *arg, uint64_t off, uint64_t len, enum diff_state state);
/*
 * Where b differs from a, and what is there in b; each an image id or snapshot_image(id), or 0: what
 * is empty.  Subtrees that both share are skipped, so it takes as long as there are differences.
 * Chunks are compared by where they are stored: content written again is mostly, but not always,
 * recognised as the same.  An image is taken as of now (a group is committed first), what changes meanwhile
 * is seen or not.  -ENOKEY, -EIO: a leaf that cannot be read; extents before it were told.
 */
int store_diff(struct store *s, uint64_t a, uint64_t b, diff_fn *fn, void *arg) MUST_CHECK;

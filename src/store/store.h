/*
 * store.h - the engine: images of bytes, deduplicated, compressed, durable
 *
 * An *image* is a sparse array of bytes 0..16 TiB named by a 64-bit id; its size, name and owner
 * are the business of the layer above (fs/vfs), which also checks permissions.
 *
 * The gate.  Each operation that changes something runs between store_enter() and store_leave().
 * Inside, it changes image content (store_write, store_punch, store_share) and appends namespace
 * rows (store_rows_append).  A transaction group is frozen, and a flush captured, only while nobody
 * is inside: so what one operation does is in one group or log batch as a whole, and a group is the
 * state at one instant.  Inside the gate one must not block on anything but short locks;
 * store_throttle() comes before it.
 *
 *	store_throttle(store, len);          sleeps while the overlay is too full; -ENOSPC, -EIO
 *	store_enter(store);
 *	store_write(image, off, data, len);  + inode size and times
 *	store_leave(store);
 *
 * Threads: all functions may be called from any thread unless they say otherwise.
 * Errors: 0 or -errno: -ENOSPC (backing full; reported here, never after an acknowledgement), -EIO
 * (backing I/O failed, or damage, which is logged with image, offset and segment), -EROFS (opened
 * read-only), -ENOMEM, -ENOKEY (the image's crypto domain is locked).
 */
#pragma once

#include "base/errmsg.h"
#include "base/io.h"
#include "base/policy.h"
#include "base/readv.h"
#include "store/keyring.h"
#include "store/ports.h"

struct store;
struct image;

/* Done so far and in all, for a progress line; called from the thread that works. */
typedef void gc_progress_fn(void *arg, uint64_t done, uint64_t total);

/* Called with the gate closed: nobody is inside, so the callback sees one instant. */
struct store_hooks {
	void *arg;
	/*
	 * Append to the row log (store_rows_append) the attributes that changed without rows of
	 * their own so far: inode rows of what was written since the last call.  image 0: of all
	 * images.
	 */
	void (*collect_rows)(void *arg, uint64_t image);
	/*
	 * Group txg is committed: its rows may be dropped from caches of pending rows.  Gate open.
	 */
	void (*committed)(void *arg, uint64_t txg);
	/*
	 * Recovery, during store_open: rows of the intent log, in order; take them into the view of
	 * pending rows.  The engine has put them in its own row log already.
	 */
	int (*replay_rows)(void *arg, const void *rows, size_t len);
	/*
	 * How an image's chunks are stored; asked when it is opened, in recovery too (again once all
	 * rows are replayed).  Gate open.  NULL: the default for all.  An error fails the opening.
	 */
	int (*policy)(void *arg, uint64_t image, struct image_policy *ret_policy);
	/*
	 * Before files that no row names are removed, on a thread of the store: to say with
	 * store_leaving() what domains images were being taken out of.  NULL: none.
	 */
	void (*leaving)(void *arg, struct store *s);
};

struct store_config {
	struct io *io;     /* not owned; top of the datastore directory */
	struct meta *meta; /* not owned; outlives the store */
	/*
	 * Keys; not owned, outlives the store.  NULL: one of the store's own, with domain 0 only.
	 * Keys may come and go while it runs (store_domain_locked).
	 */
	struct keyring *keyring;
	struct store_hooks hooks;
	uint64_t overlay_bytes; /* limit of dirty data in RAM, >= 16 MiB */
	uint64_t cache_bytes;   /* chunk cache */
	uint64_t index_bytes;   /* dedupe index */
	uint64_t map_bytes;     /* map leaf cache */
	unsigned threads;       /* commit workers; 0: one a core */
	uint64_t txg_ns; /* commit at least this often while something is dirty; 0: default */
	uint64_t reserve_bytes; /* free space of the backing that writes may not use; 0: default */
	/*
	 * Called once, before recovery, so that hooks can use the store (store_txg); may be NULL.
	 */
	void (*opened)(void *arg, struct store *s);
	bool read_only; /* no writes to the backing at all; the log is replayed in RAM */
	bool manual;    /* tests: no background threads; store_sync() and store_gc() drive */
};

/* Lays out the segments directory and an intent log of log_bytes (preallocated, zeroed, synced). */
int store_create(
        struct io *io, uint64_t log_bytes, const uint8_t uuid[16], struct errmsg *em) MUST_CHECK;
/* Opens, recovers from the intent log (calls hooks.replay_rows), starts the threads. */
int store_open(
        const struct store_config *cfg, struct store **ret_store, struct errmsg *em) MUST_CHECK;
/* Commits everything, saves the dedupe index, frees.  On error what was flushed is still safe. */
int store_close(struct store *s) MUST_CHECK;
/* Frees without committing: what a crash would leave.  For tests and for a failed start. */
void store_abandon(struct store *s);

/* Handles: one image may be opened often, they share one object. */
int store_image_open(struct store *s, uint64_t image, struct image **ret_image) MUST_CHECK;
void store_image_close(struct image *img); /* accepts NULL */
uint64_t store_image_id(const struct image *img);

/* Brings a range into the chunk cache, in the background; a hint. */
void store_prefetch(struct image *img, uint64_t off, uint64_t len);

/* --- the gate --- */
int store_throttle(struct store *s, size_t len_bytes) MUST_CHECK;
void store_enter(struct store *s);
void store_leave(struct store *s);

/* Inside the gate.  off+len <= IMAGE_SIZE_MAX.  All or nothing. */
int store_write(struct image *img, uint64_t off, const void *data, size_t len) MUST_CHECK;
/*
 * Inside the gate.  Makes a range read as zeros: as a hole, or (zero) as allocated zeros.  len may
 * reach to IMAGE_SIZE_MAX (truncate); any alignment.
 */
int store_punch(struct image *img, uint64_t off, uint64_t len, bool zero) MUST_CHECK;
/*
 * Inside the gate.  Makes a range of dst share the chunks of src; all CHUNK_SIZE aligned, at most
 * 64 MiB a call, ranges of one image must not overlap.  *ret_len bytes were shared, from the start
 * of the range on: fewer than asked where something is in the way; -EAGAIN: nothing, because the
 * first chunk of the source is only partly written yet: copy that one.
 */
int store_share(struct image *src, uint64_t src_off, struct image *dst, uint64_t dst_off,
        uint64_t len, uint64_t *ret_len) MUST_CHECK;
/* Inside the gate.  Drops the image's content and row, when its inode goes.  Handles stay valid,
 * but the image may not be changed any more (ids are never used again). */
int store_image_delete(struct store *s, uint64_t image) MUST_CHECK;
/* Inside the gate, or in collect_rows. */
int store_rows_append(struct store *s, const void *rows, size_t len) MUST_CHECK;
/* Number of the group that collects changes now.  Inside the gate, or in collect_rows. */
uint64_t store_txg(struct store *s);

/* --- reading --- */
/*
 * Bytes in place, pinned until readv_release(): in overlay and cache memory; holes and zeros point
 * to a page of zeros.  What lies in the chunk cache can be pinned for longer.
 */
#define READ_MAX (1u << 20) /* bytes a store_readv() call */
int store_readv(struct image *img, uint64_t off, size_t len, struct readv *ret_rv) MUST_CHECK;
/* The same, copied; any length. */
int store_read(struct image *img, uint64_t off, void *buf, size_t len) MUST_CHECK;
/*
 * Where the next data (hole = false) or hole (hole = true) at or after off begins; zeros that are
 * allocated count as data.  *ret_off = IMAGE_SIZE_MAX when there is none.
 */
int store_seek(struct image *img, uint64_t off, bool hole, uint64_t *ret_off) MUST_CHECK;
/* Chunks in state data or zero, dirty ones included.  1: not all of those, because there are too many. */
int store_allocated(struct image *img, uint64_t *ret_chunks) MUST_CHECK;

/* --- how chunks are stored --- */
/* Inside the gate: from this group on. */
void store_policy_set(struct image *img, const struct image_policy *policy);
void store_policy_get(struct image *img, struct image_policy *ret_policy);
/*
 * Rewrites, through the overlay, chunks of [off, off + len) that lie in another crypto domain than
 * the image's policy says (outside the gate; throttled like a writer; a write that comes between
 * wins).  *ret_chunks: so many were.  To be repeated over the whole image, with store_sync()
 * between passes, until a pass finds none and store_image_domain() says so.
 */
int store_reseal(struct image *img, uint64_t off, uint64_t len, uint64_t *ret_chunks) MUST_CHECK;
/* Committed map entries of an image (leaves included) that are not of this domain. */
int store_foreign_chunks(struct store *s, uint64_t image, uint32_t domain, gc_progress_fn *fn,
        void *arg, uint64_t *ret_chunks) MUST_CHECK;
/*
 * Takes every byte of dead chunks of a domain out of segment files (frames that are partly live are
 * rebuilt), overwrites the files and log space they were in, then unlinks; waits.  After it, what
 * no image of that domain refers to is in no file of the datastore.
 */
int store_wipe_dead(struct store *s, uint32_t domain, gc_progress_fn *fn, void *arg) MUST_CHECK;
/*
 * The same for namespace rows alone: what replaced and deleted ones held is overwritten in the
 * intent log, in meta.db and in its WAL.  For rows that were secret; takes as long as writing the log.
 */
int store_wipe_rows(struct store *s) MUST_CHECK;
/*
 * Images are on their way out of these domains, and store_wipe_dead() of them will follow: until
 * then, whoever drops files of theirs overwrites them.  more: besides those set before, else in
 * their place.
 */
void store_leaving(struct store *s, const uint32_t *domains, unsigned n, bool more);
/*
 * A key came (it is in the keyring): log records that waited for it are applied and committed, then
 * its images can be used, also through handles opened before.  -EUCLEAN: records of some image
 * are not what they should be; that image stays locked, the others are not.
 */
int store_domain_unlocked(struct store *s, uint32_t domain) MUST_CHECK;
/*
 * A key is to go: commits, and drops the domain's chunks and map leaves from all caches.  No image
 * of it is open.  Then keyring_remove.
 */
int store_domain_lock(struct store *s, uint32_t domain) MUST_CHECK;
/*
 * CPU time and amounts of the chunk stages for one image, since it was opened (MiBs of it of which
 * little changed count with elapsed time).
 */
struct policy_cost {
	uint64_t dedupe_chunks, dedupe_hits, dedupe_ns; /* hash, look up, compare */
	uint64_t compress_in_bytes, compress_out_bytes, compress_ns;
	uint64_t encrypt_bytes, encrypt_ns;
	uint64_t commit_ns; /* all CPU time of storing its chunks */
};
void store_policy_cost(struct image *img, struct policy_cost *ret_cost);

/* --- durability --- */
/* Everything acknowledged of img (or only rows, with NULL) and all rows so far is durable on 0. */
int store_flush(struct store *s, struct image *img) MUST_CHECK;
/* Commits a transaction group with everything acknowledged so far; waits. */
int store_sync(struct store *s) MUST_CHECK;

/* --- space and numbers --- */
struct gc_report {
	uint64_t segments_freed, segments_rewritten;
	uint64_t freed_bytes;     /* given back to the backing */
	uint64_t rewritten_bytes; /* written to do so */
	uint64_t live_chunks, dead_chunks;
	uint64_t nodes_freed;
	/* Left alone: what refers to them is sealed, and its key is not here. */
	uint64_t segments_locked;
};
/* One full mark and sweep; waits.  full: rewrite every segment with anything dead in it. */
int store_gc(struct store *s, bool full, gc_progress_fn *fn, void *arg,
        struct gc_report *ret_report) MUST_CHECK;

enum store_health { STORE_OK, STORE_DEGRADED, STORE_FAILED };

struct store_stats {
	/* content, as of the last commit unless said otherwise */
	uint64_t data_chunks, zero_chunks; /* references in maps, all images */
	uint64_t unique_chunks;            /* live slots (as of the last mark, plus later ones) */
	uint64_t stored_bytes;             /* segment files on the backing */
	uint64_t live_bytes;               /* of them, live frames (estimate between marks) */
	uint64_t segments, segments_open;
	/* now */
	uint64_t overlay_bytes, overlay_limit_bytes; /* dirty */
	uint64_t cache_bytes, cache_limit_bytes, cache_hits, cache_misses;
	uint64_t index_bytes, index_limit_bytes, index_entries;
	uint64_t map_bytes, map_limit_bytes;
	uint64_t log_bytes, log_used_bytes;
	/* since start */
	uint64_t txg, txg_commits, txg_failures, last_commit_wall_ns, last_commit_ns;
	uint64_t last_freeze_ns,
	        max_freeze_ns; /* the gate closed for a group, and waiting for it */
	uint64_t written_bytes, read_bytes, flushes;
	uint64_t dedupe_hits, chunks_new, chunks_zero, chunks_raw;
	uint64_t compressed_in_bytes, compressed_out_bytes;
	uint64_t damaged_reads, healed_chunks;
	uint64_t free_bytes; /* of the backing */
	bool index_loading, gc_running;
	enum store_health health;
	char health_text[256]; /* why it is not STORE_OK */
};
/*
 * The layer above answered with -EIO for a reason of its own (the metadata store could not be read): the
 * health says so, unless something more precise is said there already.  Any thread.
 */
void store_note_io_error(struct store *s);
void store_stats_get(struct store *s, struct store_stats *ret_stats);

struct image_stats {
	uint64_t data_chunks, zero_chunks;     /* as of the last commit */
	uint64_t unique_chunks, shared_chunks; /* of data: referenced by this image alone, or not;
						  * filled by store_image_stats only if exact */
};
/*
 * Counts for n images; exact walks all maps to tell unique from shared chunks (progress as in
 * store_gc).  Unknown ids get zeros.  Of an image with map leaves whose crypto domain is locked,
 * unique and shared are not known: both are 0; for others in the same domain, unique may be too
 * high then.
 */
int store_image_stats(struct store *s, const uint64_t *images, size_t n, bool exact,
        gc_progress_fn *fn, void *arg, struct image_stats *ret_stats) MUST_CHECK;

/* How much more may be written before -ENOSPC, and the whole; for statfs. */
int store_space(struct store *s, struct io_space *ret_space) MUST_CHECK;

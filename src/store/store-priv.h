/*
 * store-priv.h - the engine's insides, shared by its files only
 *
 * Groups.  Two are in RAM: the *active* one, which collects changes, and, while it is being
 * committed, the *frozen* one before it.  group number & 1 is its place in store.groups and
 * image.groups.
 *
 * Lock order (outermost first); what each guards stands at its field:
 *	gate > images_lock > overlay shard > image.lock > rows_lock > leaf locks
 *	of other modules (bufpool, cache, maps, segments, dedupe).
 * collect_rows() is called with the gate closed; the layer above takes its own locks there.
 */
#pragma once

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/bytes.h"
#include "store/bufpool.h"
#include "store/cache.h"
#include "store/dedupe.h"
#include "store/ilog.h"
#include "store/map.h"
#include "store/punches.h"
#include "store/segments.h"
#include "store/store.h"

#define OVERLAY_BUCKETS (1u << 16)
#define OVERLAY_SHARDS  256u

#define OVERLAY_DEFAULT_BYTES (256ull << 20)
#define CACHE_DEFAULT_BYTES   (512ull << 20)
#define INDEX_DEFAULT_BYTES   (256ull << 20)
#define MAP_DEFAULT_BYTES     (64ull << 20)
#define TABLE_BYTES           (16ull << 20) /* slot tables, part of the fixed memory */
#define TXG_DEFAULT_NS        (5 * NS_PER_SEC)
#define RESERVE_DEFAULT_BYTES (64ull << 20)

/* A flush with more than this to make durable commits a group instead: writing it to the log and
 * then again to segments would cost more than the transaction. */
#define FLUSH_LOG_BYTES_MAX (8u << 20)

#define INDEX_NAME      "index"
#define LOG_FIRST_EPOCH 1ull

/*
 * What a group says about one chunk of an image, in a leaf's slots[].  The two low bits tell:
 *	0	nothing (SLOT_ABSENT), or a pointer to a struct buf
 *	1	SLOT_HOLE: it is a hole now
 *	2	ENTRY_ZERO: it is allocated zeros now
 *	3	a map entry: it shares that chunk (store_share)
 */
#define SLOT_ABSENT 0ull
#define SLOT_HOLE   1ull

static inline bool slot_is_buf(uint64_t slot)
{
	return slot && (slot & 3) == 0;
}

static inline struct buf *slot_buf(uint64_t slot)
{
	return (struct buf *)(uintptr_t)slot;
}

static inline bool slot_is_ref(uint64_t slot)
{
	return (slot & 3) == ENTRY_DATA;
}

/* The dirty chunks of 1 MiB of an image, in one group. */
struct ov_leaf {
	struct ov_leaf *hash_next;     /* shard lock */
	struct ov_leaf *image_next;    /* image.lock */
	struct ov_leaf *unlogged_next; /* image.lock */
	struct image *image;
	uint64_t index;
	uint64_t unlogged[LEAF_CHUNKS / 64]; /* shard lock: changed since a flush last took them */
	bool on_unlogged;                    /* image.lock */
	uint64_t slots[LEAF_CHUNKS];         /* shard lock while active; constant while frozen */
	uint64_t *entries;                   /* commit: the new map entries; owned */
};

/* An image's part of a group. */
struct image_group {
	struct ov_leaf *leaves;          /* image.lock; n_leaves, the newest first */
	uint64_t *sorted;                /* image.lock; owned: the indexes of the n_sorted oldest */
	size_t n_leaves, n_sorted;       /* image.lock */
	struct ov_leaf *unlogged;        /* image.lock */
	struct punches punches;          /* image.lock */
	_Atomic uint32_t n_punches;      /* = punches.n, readable without the lock */
	_Atomic uint64_t unlogged_bytes; /* estimate of a flush's size */
	struct image *dirty_next;        /* images_lock */
	bool dirty; /* images_lock; on the group's list, which holds a reference */
	bool deleted, deleted_logged; /* image.lock */
};

/* The counters of struct policy_cost. */
#define POLICY_COUNTERS (sizeof(struct policy_cost) / sizeof(uint64_t))

struct image {
	struct store *store;
	uint64_t id;
	struct map *map;
	/* Its key is not there, or records wait for it to be applied: -ENOKEY; image_lock_update() */
	_Atomic bool locked;
	unsigned refs;           /* images_lock */
	struct image *hash_next; /* images_lock */
	pthread_mutex_t lock;
	struct image_group groups[2];
	_Atomic uint64_t policy;     /* policy.c; changed inside the gate */
	_Atomic uint64_t policy_txg; /* the group that was open when it was */
	_Atomic uint64_t cost[POLICY_COUNTERS];
	/* sequential read detection; relaxed, a hint */
	_Atomic uint64_t read_next, read_ahead_end;
	_Atomic uint32_t read_streak;
};

struct group {
	struct ov_leaf *
	        *buckets;      /* OVERLAY_BUCKETS; bucket b under shard lock b % OVERLAY_SHARDS */
	struct image *dirty;   /* images_lock */
	struct bytes_out rows; /* rows_lock */
	size_t rows_logged;    /* rows_lock: how far the intent log has them */
	/*
	 * rows_lock: what the freeze collected begins here; SIZE_MAX while active.  Those rows tell
	 * sizes of images whose content a flush of another image does not log: they are for
	 * the commit alone (an image's own flush collects its row again).
	 */
	size_t rows_commit_only;
	_Atomic uint64_t n_leaves;
	_Atomic uint32_t n_deleted; /* images */
	_Atomic uint64_t bytes;     /* of content written into it, for the commit trigger */
	uint64_t log_off, log_seq;  /* where the log's head was when it was frozen */
};

/* Waiting for groups to be committed, and asking for it. */
struct txg_control {
	pthread_mutex_t lock;
	pthread_cond_t wake;        /* the txg thread */
	pthread_cond_t done;        /* waiters */
	uint64_t wanted;            /* commit at least up to this group */
	_Atomic uint64_t committed; /* last committed group; written under lock */
	uint64_t attempts;          /* finished commit attempts, good or bad */
	int error;                  /* of the last attempt */
	uint64_t stored; /* the group whose chunks are in segments, synced; the txg thread's */
	unsigned failed_in_row; /* attempts at the present group; the txg thread's */
	uint64_t maps_unsure;   /* maps_unsure() when this attempt began; the txg thread's */
	bool stop, running, has_thread;
	bool busy;              /* lock: the thread is at a group */
	unsigned holders;       /* lock: wait until it is not, and then want no other to begin */
	uint64_t hold_until_ns; /* lock: none begins but for operations on roots */
	pthread_t thread;
	bool scrub_wanted; /* lock: the metadata store's scrub is to follow the next commit */
	int scrub_result;  /* lock: of the last one */
};

struct flush_waiter {
	struct image *image; /* NULL: only rows */
	struct flush_waiter *next;
	int result;
	bool done;
};

struct flush_control {
	pthread_mutex_t lock;
	pthread_cond_t cond;
	struct flush_waiter *queue; /* waiting for a leader */
	bool leading;
	uint64_t disabled_until; /* the log is unusable until this group is committed; 0: usable */
	bool wiping;             /* flushes commit groups meanwhile */
	uint8_t *plain; /* the leader's: records to be sealed; ILOG_SEALED_PLAIN_MAX, owned */
	/* the txg thread's */
	uint64_t replace_tried_ns;
};

/* The collector; gc.c. */
#define GC_SEGMENT_BITS sizeof(struct slot_bits)
/* Good copies that wait to heal damaged chunks: as many as one segment holds. */
#define GC_HEALS_MAX SEGMENT_SLOTS
struct gc_heal {
	uint64_t loc;
	uint8_t *data; /* owned */
};
struct gc_control {
	pthread_mutex_t run_lock; /* one collection at a time */
	pthread_mutex_t heal_lock;
	struct gc_marks *marks;      /* non-NULL while a collection runs; see gc.c */
	pthread_rwlock_t marks_lock; /* of the pointer */
	struct gc_heal *heals;       /* heal_lock */
	unsigned n_heals;
	pthread_mutex_t dead_lock;
	const uint64_t *dead_nodes; /* dead_lock: to be deleted by the next transaction */
	unsigned n_dead_nodes;      /* dead_lock */
	pthread_mutex_t wake_lock;
	pthread_cond_t wake;
	_Atomic bool kicked;
	_Atomic uint64_t dead_estimate; /* data entries dropped since the last collection */
	_Atomic bool running;
};

/* Records of the intent log that wait for a key; parked.c. */
struct parked {
	pthread_mutex_t apply_lock;
	pthread_mutex_t lock; /* of all below */
	_Atomic uint64_t n;   /* records; changed under lock */
	uint64_t next_id;
	struct parked_count *counts;   /* owned */
	struct parked_record *pending; /* owned: to be put by the next transaction */
	struct parked_done *done;      /* owned: to be deleted by their group's */
	size_t n_counts, counts_cap, n_pending, pending_cap, n_done, done_cap;
};

/* Operations on roots; snapshot.c. */
struct snap_control {
	pthread_mutex_t lock;
	struct snap_op *queue;  /* lock */
	struct snap_op *ready;  /* lock to change, by the txg thread alone */
	struct snap_op *frozen; /* the same: of the frozen group */
};

/* What can be wrong, the gravest first (health.c). */
enum health_cause { HEALTH_COMMIT, HEALTH_LOG, HEALTH_SPACE, HEALTH_DAMAGE, HEALTH_CAUSES };
#define HEALTH_TEXT_LEN sizeof(((struct store_stats *)NULL)->health_text)

struct health {
	pthread_mutex_t lock;
	_Atomic unsigned causes;                    /* bits; changed under lock */
	char texts[HEALTH_CAUSES][HEALTH_TEXT_LEN]; /* lock */
};

struct store {
	struct store_config cfg;
	struct store_state state; /* as committed; the txg thread's */
	struct keyring *keyring;  /* cfg.keyring, or own_keyring */
	struct keyring *own_keyring;

	struct maps *maps;
	struct segments *segments;
	struct cache *cache;
	struct dedupe *dedupe;
	struct ilog *log;
	struct bufpool *bufs;

	pthread_rwlock_t gate;
	_Atomic uint64_t txg_open; /* the active group; changed with the gate closed */
	struct group groups[2];
	pthread_mutex_t shards[OVERLAY_SHARDS];
	pthread_mutex_t rows_lock;

	pthread_mutex_t wipe_lock; /* outermost: one wiping at a time */

	pthread_mutex_t images_lock;
	struct image **images; /* IMAGE_BUCKETS */

	struct txg_control txg;
	struct flush_control flush;
	struct gc_control gc;
	struct parked parked;
	struct snap_control snap;
	struct readahead *readahead;
	struct commit_pool *commit;
	struct read_ctx *read_free; /* read_lock */
	pthread_mutex_t read_lock;

	pthread_t index_thread, gc_thread;
	bool has_index_thread, has_gc_thread;
	_Atomic bool stopping;
	_Atomic bool index_loading;
	uint8_t uuid[16];              /* constant; state is the txg thread's */
	uint64_t index_txg;            /* the group that a saved index must be of */
	_Atomic uint64_t frozen_at_ns; /* when the last group was frozen */
	_Atomic uint64_t throttle_bps; /* how fast commits were lately, bytes/s */
	_Atomic uint64_t pace_ns;      /* next slot of time for a throttled write */

	/* health and counters */
	struct health health;
	_Atomic int
	        commit_error; /* of the last attempt to commit; writers get it until one works */
	_Atomic uint64_t space_free_bytes, space_total_bytes, space_checked_ns;
	struct {
		_Atomic uint64_t commits, failures, last_commit_wall_ns, last_commit_ns;
		_Atomic uint64_t last_freeze_ns, max_freeze_ns; /* written by the txg thread */
		_Atomic uint64_t written_bytes, read_bytes, flushes;
		_Atomic uint64_t dedupe_hits, chunks_new, chunks_zero, chunks_raw;
		_Atomic uint64_t compressed_in_bytes, compressed_out_bytes;
		_Atomic uint64_t damaged_reads, healed_chunks;
	} count;
};

#define IMAGE_BUCKETS 1024u

/* --- image.c --- */
static inline bool image_is_snapshot(const struct image *img)
{
	return UNLIKELY(img->id & SNAPSHOT_BIT);
}
struct image *image_find(struct store *s, uint64_t id); /* takes a reference; NULL if not in RAM */
void image_ref(struct image *img);
/* Puts the image on the active group's list; inside the gate. */
void image_mark_dirty(struct image *img, unsigned g);
void images_free(struct store *s);
/* Calls fn for each image in RAM, with a reference held and no lock; stops when it fails. */
typedef int image_fn(void *arg, struct image *img);
int images_each(struct store *s, image_fn *fn, void *arg) MUST_CHECK;

/* --- policy.c --- */
struct image_policy image_policy(const struct image *img);
/* Asks the layer above for it.  Gate open. */
int image_policy_ask(struct image *img) MUST_CHECK;
/* The key of its domain is there, or (recovery) will be asked for later. */
bool image_unlocked(const struct image *img);
/* Any thread. */
void image_cost_add(struct image *img, const struct policy_cost *cost);

/* --- domain.c: locked and unlocked --- */
/* May the image's content be had and changed?  After anything that this depends on has changed. */
void image_lock_update(struct image *img);
static inline bool image_locked(const struct image *img)
{
	return UNLIKELY(atomic_load_explicit(&img->locked, memory_order_relaxed));
}
/* Why the content may not be changed: -EROFS, -ENOKEY; or 0. */
static inline int image_refused(const struct image *img)
{
	if (UNLIKELY(img->id & SNAPSHOT_BIT))
		return -EROFS;
	return image_locked(img) ? -ENOKEY : 0;
}
/* The crypto domain of a segment, for maps_set_keys; of one that does not exist: UINT32_MAX. */
uint32_t domain_of_segment(void *arg, uint64_t segment);
/*
 * The part of store_wipe_dead() that is not segments: what the intent log and the metadata store
 * hold of what is not there any more is overwritten.
 */
int domain_wipe_log_and_meta(struct store *s) MUST_CHECK;

/* --- overlay.c --- */
/* store_write and store_punch of an image that may be locked (recovery, keys that came). */
int overlay_write(struct image *img, uint64_t off, const void *data, size_t len) MUST_CHECK;
int overlay_punch(struct image *img, uint64_t off, uint64_t len, bool zero) MUST_CHECK;
/* Inside the gate: the map leaf that holds chunk is written with this group, changed or not. */
int overlay_touch_leaf(struct image *img, uint64_t chunk) MUST_CHECK;
int overlay_init(struct store *s) MUST_CHECK;
void overlay_free(struct store *s);
/*
 * What the overlay says about chunks [first, first + n) of one leaf, newest first.
 * ret[i].state tells what else is to be read.
 */
struct ov_view {
	struct buf *top; /* referenced; NULL if none */
	struct buf *
	        under; /* partly valid buffer of the frozen group below a partly valid top; referenced */
	uint64_t
	        rest; /* where the remaining bytes come from: SLOT_ABSENT: the map; SLOT_HOLE, ENTRY_ZERO, or a map entry */
};
void overlay_view(struct image *img, uint64_t first, unsigned n, struct ov_view *ret_views);
void ov_view_release(struct store *s, struct ov_view *v);
/* Makes one chunk share a map entry (recovery). */
int overlay_set(struct image *img, uint64_t chunk, uint64_t entry) MUST_CHECK;
/*
 * The content that the map has of a chunk anyway, to be stored anew; unless the active group has
 * something to say about it.  Not logged.  Inside the gate.
 */
int overlay_put_same(struct image *img, uint64_t chunk, const void *data) MUST_CHECK;
/* Image lock held: the group has no leaves of the image any more. */
void leaves_forget(struct image_group *ig);
/* Nothing of the image is in the overlay. */
bool overlay_clean(struct image *img);
/*
 * Smallest leaf >= leaf in which some group has slots, or made zeros of, or (holes) a hole;
 * IMAGE_CHUNKS_MAX / LEAF_CHUNKS when there is none.
 */
uint64_t overlay_next_leaf(struct image *img, uint64_t leaf, bool holes);
/*
 * The first leaf >= leaf that is not wholly a hole (zero: zeros) by a punched range; a hint, to
 * save time.
 */
uint64_t overlay_skip_punched(struct image *img, uint64_t leaf, bool zero);
/* Drops the frozen group's content; it is committed. */
void overlay_release(struct store *s, unsigned g);
/* Copies the valid bytes of b over dst (CHUNK_SIZE). */
void buf_overlay(const struct buf *b, uint8_t *dst);
/* Calls fn for each run of valid bytes. */
typedef int buf_run_fn(void *arg, unsigned off, unsigned len);
int buf_runs(const struct buf *b, buf_run_fn *fn, void *arg);

/* --- read.c --- */
/*
 * Content of a map entry, copied.  -ESTALE: no such slot; -EUCLEAN: damaged; -EIO: cannot be read
 * now.
 */
int entry_read(struct store *s, uint64_t entry, uint8_t *ret_chunk) MUST_CHECK;
/* Brings a range into the cache; errors are left for the read that needs it. */
void read_prefetch(struct image *img, uint64_t off, size_t len);
void read_ctx_free_all(struct store *s);

/* --- commit.c: a group's content into segments --- */
int commit_pool_start(struct store *s) MUST_CHECK;
void commit_pool_stop(struct store *s);
/* Fills leaf->entries of all n leaves, on all workers; returns the first error. */
int commit_leaves(struct store *s, uint64_t txg, struct ov_leaf **leaves, size_t n) MUST_CHECK;

/* --- txg.c --- */
int txg_start(struct store *s) MUST_CHECK;
void txg_stop(struct store *s);
/* Commits the active group now, on the calling thread (recovery, manual stores). */
int txg_commit_now(struct store *s) MUST_CHECK;
/* Waits until group txg is committed; the error of an attempt that failed. */
int txg_wait(struct store *s, uint64_t txg) MUST_CHECK;
/* Asks for a commit soon. */
void txg_kick(struct store *s);
bool txg_frozen(struct store *s, unsigned *ret_g);
/*
 * What cannot be read is taken for damaged: the present group has failed so often that waiting
 * longer would hold up everything for it.
 */
bool txg_impatient(const struct store *s);
/* The same of a map that answers -EIO, or it is known for certain.  While a group is committed. */
bool txg_map_lost(const struct store *s);

/*
 * The metadata store overwrites what deleted rows left behind; waits for a commit, after which the
 * txg thread does it.
 */
int txg_scrub(struct store *s) MUST_CHECK;

/* --- flush.c --- */
/*
 * Commits everything, then overwrites the whole ring of the intent log with zeros, durably.  -EBUSY:
 * that is under way; -EIO: also while the log is broken and about to be replaced.
 */
int flush_wipe(struct store *s) MUST_CHECK;
/* After group txg is committed (txg thread). */
void flush_txg_committed(struct store *s, uint64_t txg);

/* --- space.c --- */
void space_refresh(struct store *s, bool force);

/* --- health.c --- */
void health_set(struct store *s, enum health_cause cause, const char *fmt, ...) PRINTF(3, 4);
/* why: for the log, if the cause was set. */
void health_clear(struct store *s, enum health_cause cause, const char *why);
bool health_is(const struct store *s, enum health_cause cause);
void health_get(struct store *s, struct store_stats *st);

/* --- gc.c --- */
int gc_init(struct store *s);
void gc_free(struct store *s);
int gc_start(struct store *s) MUST_CHECK;
void gc_stop(struct store *s);
/* Asks for a collection soon: space is short. */
void gc_kick(struct store *s);
/* The barrier: this entry is referenced from now on. */
void gc_mark_entry(struct store *s, uint64_t entry);
/* May a new reference to this location be made?  (Not if it is being swept.) */
bool gc_may_share(struct store *s, uint64_t loc);
/* This tree has one more root, as of the last commit.  The txg thread. */
void gc_root_copied(struct store *s, const struct image_row *root);
/* Deletes nodes found dead, inside the transaction. */
int gc_txg_write(struct store *s) MUST_CHECK;
/* After group txg's transaction succeeded. */
void gc_txg_committed(struct store *s, uint64_t txg);
/* A damaged chunk's content turned up again.  Forgotten if too much waits already. */
void gc_heal(struct store *s, uint64_t loc, const void *data);

/* --- gc-heal.c --- */
/* Takes what was offered so far and rewrites those segments.  The collector. */
int gc_run_heals(struct store *s) MUST_CHECK;

/* --- readahead.c --- */
int readahead_start(struct store *s) MUST_CHECK;
void readahead_stop(struct store *s);
/* Brings the range (CHUNK_SIZE aligned) into the cache, as far as there is room in the queue. */
void readahead_want(struct image *img, uint64_t off, uint64_t len);
void readahead_note(struct image *img, uint64_t off, size_t len, bool missed);

/* --- snapshot.c: by the txg thread --- */
void snap_init(struct store *s);
void snap_free(struct store *s);
/* Is there one to be taken up?  Any thread. */
bool snap_waits(struct store *s);
/* Before a freeze, gate open: takes up what is queued.  Reads rows. */
void snap_prepare(struct store *s);
/* Gate closed: what was taken up is of this group from here on. */
void snap_freeze(struct store *s);
/* The group's changes are in the maps. */
void snap_apply(struct store *s, uint64_t txg);
/* Inside the transaction, behind maps_txg_write. */
int snap_txg_write(struct store *s) MUST_CHECK;
/* Behind maps_txg_committed. */
void snap_txg_committed(struct store *s);

/* --- recover.c --- */
/* Replays the intent log and commits what it held. */
int recover(struct store *s, struct errmsg *em) MUST_CHECK;
/* A content record (types 1-4, or sealed), taken up. */
struct replay {
	struct image *img; /* referenced */
	const struct ilog_record *rec;
	uint8_t *plain; /* owned: the records in a sealed one */
	size_t plain_len;
};
/*
 * Opens the image and the seal.  -ENOKEY: a key is not there that this record, or committing it,
 * takes.  -EUCLEAN: not authentic.  Gate open, or during recovery.
 */
int replay_take(struct store *s, const struct ilog_record *rec, struct replay *rp) MUST_CHECK;
/* Into the overlay; inside the gate, or during recovery. */
int replay_apply(struct replay *rp) MUST_CHECK;
void replay_release(struct replay *rp);

/* --- parked.c --- */
void parked_init(struct store *s);
void parked_free(struct store *s);
/* Reads what the metadata store has. */
int parked_load(struct store *s) MUST_CHECK;
/* Recovery: the next transaction puts the record. */
int parked_add(struct store *s, const struct ilog_record *rec) MUST_CHECK;
bool parked_has(struct store *s, uint64_t image);
/* The image is deleted, inside the gate: its records go with this group. */
int parked_drop(struct store *s, uint64_t image) MUST_CHECK;
/*
 * Applies the records of all images whose keys are there now; waits for the commits.  The first
 * error of those that could not; the others are done.
 */
int parked_apply(struct store *s) MUST_CHECK;
int parked_txg_write(struct store *s, uint64_t txg) MUST_CHECK;
void parked_txg_committed(struct store *s, uint64_t txg);
/* The domains whose segments parked records refer to; foreign: and others'. */
typedef void parked_share_fn(void *arg, uint32_t domain, bool foreign);
void parked_shares(struct store *s, parked_share_fn *fn, void *arg);

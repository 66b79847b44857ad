/*
 * segments-priv.h - what the segments*.c files share; nobody else includes it
 *
 * Objects
 *	seg      one row in RAM, for as long as the row exists (or will, after the commit)
 *	handle   what a segment in use has besides: slot table, open file, references.  Made on
 *	         demand, kept in two LRU lists once idle
 *	writer   the appending side of a segment: of the open ones (one a crypto domain), and of
 *	         those written in the present group, until its commit
 *	pend     a next generation, written and synced, that the next commit makes official
 *	wbuf     a 4 MiB aligned buffer that frames are collected in, one of a fixed number
 *
 * One lock, ss->lock, guards all of them.  It is held for short, never across I/O or a copy of
 * frames.  What is read outside it does not change there: the bytes of a frame whose append has
 * returned, a pinned wbuf, the file of a handle that one has a reference to.
 *
 * States of a seg (flags), and what they exclude
 *	SEG_NEW          its row is not committed: not listed, cannot be rewritten or dropped
 *	SEG_OPEN         its committed row is open: no footer; cannot be rewritten or dropped
 *	SEG_STUCK        SEG_OPEN without writer after an aborted group: waits to be copied
 *	SEG_DROP         goes with the next commit: reads are -ESTALE from now on
 *	SEG_DROP_STAGED  the present transaction deletes its row
 *	SEG_DIRTY        is on the list of rows to put (those with a writer are put without)
 *	SEG_LIMBO        with SEG_NEW and SEG_DROP: its group was aborted when its rows had been put;
 *	                 its file goes with the next commit
 *	SEG_GONE         its row is gone; freed by segs_compact()
 *	SEG_WIPE         its domain is being wiped, and it may hold bytes of dead chunks yet
 */
#pragma once

#include <pthread.h>

#include "store/frame.h"

#define SEGMENT_BUFFERS_MAX  5u   /* write buffers; two may serve rewriting at a time */
#define SEGMENT_FILLING_MAX  3u   /* of them, those of segments open to appends */
#define SEGMENT_OPENS_MAX    64u  /* segments open to appends: domains written to lately */
#define SEGMENT_FILES_MAX    512u /* open files of idle handles */
#define SEGMENTS_LEAVING_MAX 64u  /* domains that images leave; with more, it is all */
#define SEGMENT_UNSYNCED_MAX                                                                       \
	64u /* files written and not synced; past it, whoever wrote one syncs it */
#define READ_GAP_MAX    (16u << 10) /* bytes read for nothing to save a call */
#define READ_SPAN_MAX   (1u << 20)
#define READ_BATCH      256u /* locations resolved at a time */
#define SCRATCH_SMALL   (96u << 10)
#define SCRATCHES_SMALL 32u
#define SCRATCHES_LARGE 4u

_Static_assert(SCRATCH_SMALL >= FRAME_SIZE_MAX + 2 * IO_ALIGN, "a frame fits a small scratch");
_Static_assert(
        SEGMENT_BUFFERS_MAX >= 4, "open segment, two rewrites, and one more to write beside");

struct list {
	struct list *prev, *next;
};

static inline void list_init(struct list *l)
{
	l->prev = l->next = l;
}

static inline bool list_empty(const struct list *l)
{
	return l->next == l;
}

static inline void list_del(struct list *l)
{
	l->prev->next = l->next;
	l->next->prev = l->prev;
	list_init(l);
}

static inline void list_add(struct list *at, struct list *l)
{
	l->prev = at;
	l->next = at->next;
	at->next->prev = l;
	at->next = l;
}

enum seg_flags {
	SEG_NEW = BIT(0),
	SEG_OPEN = BIT(1),
	SEG_STUCK = BIT(2),
	SEG_DROP = BIT(3),
	SEG_DROP_STAGED = BIT(4),
	SEG_DIRTY = BIT(5),
	SEG_GONE = BIT(6),
	SEG_LIMBO = BIT(7),
	SEG_WIPE = BIT(8),
};

/* The committed row; 56 bytes, and 8 in the array of pointers. */
struct seg {
	uint64_t id;
	uint64_t created_txg;
	struct handle *handle; /* NULL: not in use */
	uint32_t gen, bytes, file_bytes, live_bytes;
	uint32_t domain;
	uint32_t copy_gen;
	uint16_t slots, live_chunks;
	uint16_t flags;
	uint8_t tier, copy_tier; /* copy_tier SEG_NO_COPY: there is no copy */
};

#define SEG_NO_COPY UINT8_MAX

struct handle {
	struct seg *seg; /* NULL: dead, goes with its last reference */
	bool unlink;     /* then, its file too */
	uint64_t id;
	uint32_t domain; /* constant */
	uint8_t tier;    /* constant: another tier is another generation */
	uint32_t gen, bytes,
	        slots; /* of this generation, committed part; constant for sealed ones */
	unsigned refs;
	bool loading;         /* somebody loads the table or opens the file; wait for ss->changed */
	bool rewriting;       /* its next generation is being written */
	bool sealed;          /* has a footer at bytes */
	uint32_t logged_pos;  /* of the frame whose damage was logged last */
	struct io_file *file; /* for reading; opened on demand */
	struct footer_slot
	        *table; /* slots entries, or SEGMENT_SLOTS with a writer; NULL: not loaded */
	struct writer *w;
	struct pend *pend;
	struct list by_file, by_table; /* in the LRU lists while idle and owning one */
	struct handle *next_dying;     /* in segments.dying; with unlink, once dead */
};

struct wbuf {
	uint8_t *data; /* SEGMENT_BYTES_MAX */
	bool busy;     /* a writer's or a rewriter's */
	unsigned pins; /* readers copying from it */
};

struct writer {
	struct handle *h;
	struct io_file *file; /* for writing; NULL before the first write and after the last sync */
	struct wbuf *buf;     /* holds file bytes from base on; NULL while nothing is buffered */
	uint32_t base;        /* multiple of IO_ALIGN */
	uint32_t end;         /* where the next frame goes */
	uint32_t written;     /* multiple of IO_ALIGN; what lies before it is in the file */
	uint32_t slots;       /* assigned */
	uint32_t frame_bytes; /* appended since the last commit */
	unsigned copiers;     /* appends that copy their frame right now */
	bool create;          /* the file does not exist yet */
	bool closed;          /* no more appends: to be sealed */
	bool writing;         /* its buffer is being written out */
	bool done;            /* sealed and written */
	bool synced;          /* nothing written since the last sync */
	uint32_t flushed_slots,
	        flushed_frame_bytes; /* slots and frame_bytes when last written out */
	struct hash128 *hashes;      /* SEGMENT_SLOTS; NULL once done */
	/* As of the last segments_txg_sync; what txg_write puts and txg_committed makes official.
	 */
	uint32_t row_bytes, row_slots, row_frame_bytes;
	bool row_sealed;
	struct list in_writers;
	struct list in_opens; /* while it takes appends */
};

/* All that the next commit changes of a sealed segment's row: which files it has, and what is in them. */
struct pend {
	uint32_t gen, bytes, file_bytes, live_bytes, copy_gen;
	uint16_t live_chunks;
	uint8_t tier, copy_tier;
	bool placed; /* only the files change: what lives is what the row says by then */
	bool staged; /* put by the present transaction */
};

/* One size class of buffers for reading. */
struct scratch {
	uint8_t *data;   /* len, aligned */
	uint8_t *chunks; /* FRAME_UNPACK_BYTES, twice: of chunks, and to open seals in */
	size_t len;
	struct scratch_pool *pool;
	struct scratch *next; /* free ones */
	unsigned wipes;       /* of the pool, when it was taken */
};

struct scratch_pool {
	pthread_mutex_t lock; /* innermost */
	pthread_cond_t freed;
	struct scratch *free;
	unsigned made, max;
	unsigned wipes; /* so often scratch_pool_wipe() was called */
	size_t len;
};

/* The directories of one tier. */
struct seg_dirs {
	bool known[256]; /* segments/HH exists */
	bool dirty[256]; /* a file was created in it since it was last synced */
	bool top_dirty;  /* a directory was created in segments/ since it was last synced */
};

struct seg_block {
	struct seg_block *next;
	struct seg segs[1024];
};

struct segs_vec {
	struct seg **v;
	size_t n, cap;
};

struct segments {
	struct io *io;
	struct meta *meta;
	struct keyring *keyring;
	uint8_t uuid[16];
	uint32_t store; /* frame_store(uuid) */
	bool read_only;
	uint64_t table_bytes_max;

	pthread_mutex_t lock;   /* guards all below but the scratch pools, which have their own */
	pthread_cond_t changed; /* a buffer came free, a copy, a write-out or a load ended */
	struct segs_vec rows;   /* sorted by id; ids only grow, so new ones go to the end */
	struct seg *seg_free;   /* chained through handle */
	struct seg_block *seg_blocks;
	struct segs_vec dirty;  /* rows to put with the next transaction */
	struct segs_vec staged; /* rows put by the present one */
	uint64_t next_segment;
	struct list opens; /* writers that take appends, one a domain; used last first */
	unsigned n_opens;
	struct list writers; /* all, through in_writers */
	unsigned writing;    /* write-outs under way */
	unsigned unsynced;   /* writers with a file written and not synced */
	unsigned limbo;      /* segs in SEG_LIMBO */
	bool put;            /* the present group has put rows: its commit may have been tried */
	unsigned stuck;      /* segs in SEG_STUCK */
	bool seal_all;
	struct handle *dying; /* handles that take their file along and have not done so yet */
	uint64_t copies_read; /* reads of a copy, the first file being away or damaged */
	bool wipe_on;         /* segments-wipe.c */
	uint32_t wipe_domain;
	int wipe_error; /* the first */
	uint32_t leaving[SEGMENTS_LEAVING_MAX];
	unsigned n_leaving; /* more than SEGMENTS_LEAVING_MAX: all domains */
	int failed; /* first error of the present group: appends and sync return it until abort */
	struct wbuf bufs[SEGMENT_BUFFERS_MAX];
	struct list lru_files, lru_tables; /* most recent first */
	unsigned idle_files;
	uint64_t table_bytes; /* of all handles */
	struct seg_dirs dirs[IO_MUX_MEDIA];
	struct segments_stats totals;

	struct scratch_pool small, large;
};

/* --- segments.c: rows and handles.  With ss->lock held unless they say otherwise --- */
struct seg *seg_find(struct segments *ss, uint64_t id);
/* Adds a row at the end; id is above all others.  NULL: out of memory. */
struct seg *seg_add(struct segments *ss, uint64_t id);
/* Frees rows in SEG_GONE and takes them out of the array. */
void segs_compact(struct segments *ss);
void seg_row(const struct seg *s, struct segment_row *ret_row);
/* A generation that no file of it has. */
uint32_t seg_next_gen(const struct seg *s);
/* With its lock, given up meanwhile: a file that the row names no more, and that nobody reads by handle. */
void seg_file_remove(struct segments *ss, const struct seg *s, uint32_t tier, uint32_t gen);
/* Takes a seg out of the totals before it is changed, and in again after. */
void seg_totals(struct segments *ss, const struct seg *s, int sign);
int segs_push(struct segs_vec *v, struct seg *s) MUST_CHECK;
int seg_dirty(struct segments *ss, struct seg *s) MUST_CHECK;
/* The handle of s with a reference, made if need be; NULL: out of memory. */
struct handle *handle_get(struct segments *ss, struct seg *s);
/* Drops a reference.  Unlocks for a moment when a file is closed or unlinked. */
void handle_put(struct segments *ss, struct handle *h);
/* Idle handles may lose what they cache; those with nothing left are freed. */
void handle_settle(struct segments *ss, struct handle *h);
/* Detaches h from its seg; it goes (and its file, if unlink) with its last reference.  Unlocks for
 * a moment. */
void handle_kill(struct segments *ss, struct handle *h, bool unlink);
/*
 * Makes sure that h->table is there; unlocks for I/O.  h is referenced.  -EAGAIN: h died meanwhile
 * and its file is gone, look the segment up again.
 */
int handle_load_table(struct segments *ss, struct handle *h) MUST_CHECK;
/* The same for h->file. */
int handle_load_file(struct segments *ss, struct handle *h) MUST_CHECK;
void table_account(struct segments *ss, const struct handle *h, int sign);
void handle_drop_table(struct segments *ss, struct handle *h);
/*
 * In a table made from frames: slots that no frame claims become lost ones, as if damage took them.
 * Returns how many.
 */
unsigned slots_mark_lost(struct footer_slot *table, unsigned slots);
/* Without the lock. */
void unlink_quietly(struct segments *ss, uint32_t tier, uint64_t id, uint32_t gen);

/* --- segments-append.c --- */
/* A writer that continues s (or begins it); the handle is made with it.  With the lock. */
int writer_create(struct segments *ss, struct seg *s, struct writer **ret_w) MUST_CHECK;
void writer_free(struct segments *ss, struct writer *w);
/* The one that takes appends of this domain, or NULL. */
struct writer *writer_open_find(const struct segments *ss, uint32_t domain);
/* w, which has no buffer yet or has, takes appends from now on; or takes no more: it is closed. */
void writer_open(struct segments *ss, struct writer *w);
void writer_close(struct segments *ss, struct writer *w);
/* Waits for a buffer.  With the lock, which it gives up while waiting. */
struct wbuf *wbuf_take(struct segments *ss);
void wbuf_release(struct segments *ss, struct wbuf *b);
/* Creates segments/HH if need be and opens a new file in it.  Without the lock. */
int segment_file_create(struct segments *ss, uint32_t tier, uint64_t id, uint32_t gen,
        struct io_file **ret_file) MUST_CHECK;
/*
 * Writes what w has buffered, with the footer if it is closed.  With the lock, given up meanwhile;
 * nobody is appending to w.  An error fails the group (ss->failed).
 */
int writer_flush(struct segments *ss, struct writer *w) MUST_CHECK;
/* Syncs what was written; the same rules. */
int writer_sync(struct segments *ss, struct writer *w) MUST_CHECK;

/* --- segments-read.c: without the lock --- */
void scratch_pool_init(struct scratch_pool *p, size_t len, unsigned max);
void scratch_pool_release(struct scratch_pool *p);
struct scratch *scratch_take(struct segments *ss, size_t len);
void scratch_give(struct scratch *s);
/* Overwrites what was unpacked; of those in use, when they are given back. */
void scratch_pool_wipe(struct scratch_pool *p);
/* One frame to be read; several slots may lie in it. */
struct frame_ref {
	uint32_t off, len; /* in the file */
};
/*
 * Unpacks a frame that passed its check; work: a scratch's chunks, where the content is then.
 * crypto: of the frame's domain.  -EUCLEAN: damaged; -ENOKEY: crypto is NULL.
 */
int frame_unpack_work(const struct frame_info *f, const struct crypto_domain *crypto,
        const uint8_t *payload, uint8_t *work) MUST_CHECK;
/*
 * Reads frames (sorted by off, no doubles) with as few calls as is reasonable; fn gets each, with
 * data NULL and err set where the read failed.  Stops when fn returns non-zero, and returns that.
 */
typedef int frame_read_fn(void *arg, unsigned i, const uint8_t *data, int err, uint8_t *work);
int frames_read(struct segments *ss, struct io_file *f, const struct frame_ref *refs, unsigned n,
        frame_read_fn *fn, void *arg) MUST_CHECK;
/* The hashes of a referenced handle's slots; zero where dead or unknown. */
int handle_hashes(struct segments *ss, struct handle *h, struct hash128 ret_hashes[SEGMENT_SLOTS],
        unsigned *ret_n) MUST_CHECK;
/* Whether two slots' worth of agreement hold: the frame read is the one that the table means. */
bool frame_matches(const struct frame_info *f, const struct footer_slot *entry, unsigned slot);
/*
 * Unpacks what it can of a frame that failed its check, and says by their own hashes which chunks
 * are right: bit i of the result for chunk i.  0 when its header is bad, too, or it was sealed: of
 * what is not authentic nothing is taken.
 */
uint32_t frame_salvage(const struct segments *ss, const struct handle *h, const uint8_t *data,
        size_t len, struct frame_info *ret_info, uint8_t *ret_chunks);

/* --- segments-wipe.c --- */
/* Is this domain being wiped?  With the lock. */
bool wipe_is_on(const struct segments *ss, uint32_t domain);
/* Are files of this domain overwritten before they go?  With the lock. */
bool wipe_files_of(const struct segments *ss, uint32_t domain);
/* Are those that no row names, and whose domain is not known?  With the lock. */
bool wipe_orphans(const struct segments *ss);
/*
 * Overwrites a file with zeros and unlinks it; one that cannot be overwritten stays, as an orphan
 * for the next time.  Without the lock.
 */
void segment_file_wipe(struct segments *ss, uint32_t tier, uint64_t id, uint32_t gen);
int orphan_wipe(struct segments *ss, const char *name) MUST_CHECK;

/* --- segments-rewrite.c --- */
/*
 * With the lock: may its files be changed now?  -ESTALE, -EBUSY (open, or has a change that is not
 * committed), -EROFS.
 */
int seg_claim(struct segments *ss, uint64_t id, struct seg **ret_seg) MUST_CHECK;
/* Without the lock. */
/* Copies what a stuck segment has committed to a next generation, sealed.  Best effort. */
void segments_unstick(struct segments *ss);

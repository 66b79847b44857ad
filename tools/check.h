/*
 * check.h - what the parts of "weir check" share
 *
 * check reads the formats on its own: rows through the metadata port, node blobs and segment files
 * through their codecs.  It never asks the engine's objects (segments, maps, store), so it cannot
 * share their caches or their mistakes.
 *
 * Order of work (check.c):
 *	1. check-namespace.c  meta.db itself, names, inodes against image rows
 *	2. check-log.c        intent log and parked records readable; which segments they refer to;
 *	                      saved index
 *	3. check-table.c      segment rows and files side by side: the table of segments
 *	4. in batches of segments, so that memory is bounded:
 *	   check-store.c      loads each one's slots from its footer (or frames), verifies with
 *--data check-map.c        walks every image's tree, checks entries that point into the batch
 *	   check-store.c      reports damage, knowing now what refers to it; repair-segment.c
 *	5. repair.c           one transaction with all rows, then files that nothing needs any more
 */
#pragma once

#include <jansson.h>
#include <stdarg.h>

#include "base/errmsg.h"
#include "base/io.h"
#include "meta/namespace.h"
#include "store/frame.h"
#include "store/ilog.h"
#include "store/keyring.h"
#include "store/map.h"
#include "tools/progress.h"

/* --- findings --- */
enum finding_kind {
	FINDING_METADATA,     /* meta.db cannot be read, or fails its own check */
	FINDING_NAMESPACE,    /* names, inodes */
	FINDING_STATE,        /* the datastore's state row */
	FINDING_IMAGE,        /* an image row without a file, or not valid */
	FINDING_NODE,         /* a map node is damaged or missing */
	FINDING_TREE,         /* a node is where it must not be */
	FINDING_COUNTERS,     /* of an image row */
	FINDING_PAST_END,     /* data beyond the end of the file */
	FINDING_MAP,          /* an entry points to nothing, or to other content */
	FINDING_SEGMENT_ROW,  /* missing, or not what the file says */
	FINDING_SEGMENT_FILE, /* missing, unreadable, too short, of another datastore */
	FINDING_FOOTER,
	FINDING_FRAME,
	FINDING_CHUNK, /* content that an image refers to is damaged */
	FINDING_ORPHAN_SEGMENT,
	FINDING_ORPHAN_NODE,
	FINDING_LOG,
	FINDING_INDEX,
};

enum finding_severity {
	SEVERITY_NOTE,  /* harmless */
	SEVERITY_ERROR, /* an invariant is broken */
	SEVERITY_LOSS,  /* content is unreadable and stays so */
};

#define FINDING_NONE UINT64_MAX /* for image, offset, segment, slot: does not apply */
#define FINDINGS_MAX 20000u     /* kept; more are counted */

struct finding {
	enum finding_kind kind;
	enum finding_severity severity;
	bool repaired, repeated; /* repeated: by check_namespace_again */
	uint64_t image, offset, length, segment, slot;
	char *path; /* owned; NULL: none */
	char *text; /* owned */
};

struct findings {
	struct finding *list; /* owned */
	size_t n, cap;
	uint64_t dropped;
	uint64_t counts[3]; /* by severity, dropped ones included */
	uint64_t repaired;
};

/*
 * Adds one and returns it, to have its further fields set and to be marked repaired later; valid
 * until the next is added.  Never NULL: past the limit it is a scratch entry.
 */
struct finding *finding_add(struct findings *f, enum finding_kind kind,
        enum finding_severity severity, const char *fmt, ...) PRINTF(4, 5);
/* Damage of a range of an image; joins the finding before when that ends here and is alike. */
void finding_add_range(struct findings *f, const struct finding *range, const char *path);
void finding_mark_repaired(struct findings *f, struct finding *finding);
/* All errors (not losses) that are about this segment, or of this kind. */
void findings_mark_segment(struct findings *f, uint64_t segment);
void findings_mark_kind(struct findings *f, enum finding_kind kind);
void findings_print(const struct findings *f);
json_t *findings_json(const struct findings *f); /* NULL: out of memory */
void findings_release(struct findings *f);

/* --- the table of segments --- */
/* One slot of a loaded segment: 12 bits of its hash, and */
enum {
	SLOT_IS_PRESENT = BIT(12),
	SLOT_IS_DAMAGED = BIT(13),
	SLOT_IS_REFERENCED = BIT(14),
};
#define SLOT_CHECK_MASK 0xfffu

/* What is wrong with a segment, for repair-segment.c. */
enum segment_problem {
	PROBLEM_NO_ROW = BIT(0),  /* the file is there, the row is not */
	PROBLEM_NO_FILE = BIT(1), /* the row is there, no file of any generation is */
	PROBLEM_ROW = BIT(2),     /* the row does not fit the file */
	PROBLEM_FOOTER = BIT(3),  /* no valid footer where one must be */
	PROBLEM_HEADER = BIT(4),  /* damaged */
	PROBLEM_FOREIGN = BIT(5), /* the file is another's: nothing of this segment is in it */
};

struct check_segment {
	struct segment_row row; /* as read; id only when there is none */
	uint32_t gen;           /* of the file that counts: the row's, or what was found */
	uint8_t problems;       /* enum segment_problem */
	bool loaded;
	uint16_t n_slots;
	uint16_t n_damaged;  /* slots */
	uint16_t frames_bad; /* a frame may be damaged where no slot of it is in use */
	uint16_t *slots;     /* owned, n_slots; NULL while its batch is not in work */
};

/* A segment file that no row names. */
struct check_file {
	uint64_t id;
	uint32_t gen;
	bool keep; /* the intent log or a repaired row needs it */
};

struct check_table {
	struct check_segment *list; /* owned, by id */
	size_t n, cap;
	struct check_file *files; /* owned; other generations and strangers, by id */
	size_t n_files, files_cap;
};

/* Memory of a batch: 4 KiB a segment at most. */
#define BATCH_SEGMENTS_MAX 32768u

/* --- one segment file in memory (check-segment.c) --- */
struct segment_file {
	uint8_t *buf; /* SEGMENT_BYTES_MAX; owned */
	size_t len;   /* read into buf */
	uint64_t size;
	struct segment_header header;
	bool header_good, footer_good;
	unsigned slots;
	uint32_t frames_end;
	struct footer_slot table[SEGMENT_SLOTS];
	struct hash128 hashes[SEGMENT_SLOTS];
	bool damaged[SEGMENT_SLOTS]; /* by segment_file_verify */
	unsigned frames_bad;         /* by the same: fail their checksum */
	uint8_t chunks[FRAME_CHUNKS_MAX * CHUNK_SIZE];
	uint8_t plain[FRAME_UNPACK_BYTES];
};

struct check_summary {
	uint64_t inodes, images, snapshots, nodes, segments, file_bytes, slots, referenced_chunks;
	uint64_t data_chunks, zero_chunks, frames_verified, chunks_verified;
	uint64_t log_records, log_bytes; /* to be replayed by the next mount */
	/* Not looked into, for want of keys: map leaves, frames, records (of the log, or parked). */
	uint64_t locked_leaves, locked_frames, locked_records;
	uint64_t parked_records; /* that wait for a key */
};

/* Rows to be written by repair.c in its one transaction. */
struct repair_list {
	struct image_row *images; /* owned */
	size_t n_images, images_cap;
	struct segment_row *segments; /* owned */
	size_t n_segments, segments_cap;
	struct check_file *remove; /* owned; files to unlink after the commit */
	size_t n_remove, remove_cap;
	struct store_state state;
	bool state_changed;
	bool remove_index;
	bool log_damaged; /* its unreadable rest is to be dropped */
};

struct check {
	const char *dir;
	struct io *io;
	struct meta *meta;
	struct ns *ns;
	struct store_state state;
	struct keyring *keys; /* owned; domain 0, and those of --key */
	bool data, repair;
	/* Domains whose segments may be referred to from what is sealed; or all of them. */
	uint32_t locked_domains[64];
	unsigned n_locked_domains;
	bool locked_foreign;
	bool incomplete; /* rows or nodes could not be read: not all references are known */
	struct findings findings;
	struct check_table table;
	struct check_summary sum;
	struct repair_list fix;
	struct segment_file *file; /* owned; the one in work */
	uint64_t *log_segments;    /* owned, sorted: segments that the intent log refers to */
	size_t n_log_segments, log_segments_cap;
	uint64_t *nodes; /* owned, sorted ids of all node rows; NODE_SEEN once reached */
	size_t n_nodes, nodes_cap;
};
#define NODE_SEEN   (1ull << 63)
#define NODE_WALKED (1ull << 62) /* in the present walk over all trees */

/*
 * Grows an array so that one more element fits.  All arrays here are as long as what a datastore
 * really holds (rows, files, log records), never as long as what a field says.
 */
int array_reserve(void *array_ptr, size_t n, size_t *cap, size_t element_size) MUST_CHECK;

/* --- the whole (check.c) --- */
/* Opens what c->dir names; c has dir, data and repair set.  Release it in any case. */
int check_open(struct check *c, struct errmsg *em) MUST_CHECK;
int check_all(struct check *c) MUST_CHECK;
/* enum weir_exit, by the findings. */
int check_exit_code(const struct check *c);
void check_release(struct check *c);

/* --- sealed things (check-keys.c) --- */
/* Adds the keys that this file opens.  -EKEYREJECTED: none. */
int check_key_add(struct check *c, const char *path, struct errmsg *em) MUST_CHECK;
/* Something that stays closed refers to segments of this domain; foreign: and of others. */
void check_locked_refs(struct check *c, uint32_t domain, bool foreign);
/* A segment of this domain may be referred to, though nothing that can be read does. */
bool check_maybe_used(const struct check *c, uint32_t domain);
/* Not all references are known. */
bool check_refs_unknown(const struct check *c);
int check_leaf_unseal(struct check *c, const void *blob, size_t len, uint64_t id, uint32_t domain,
        struct map_node *ret_node) MUST_CHECK;
/* Calls fn(c, ...) for each record in a sealed one; without its key it is counted.  -EUCLEAN. */
int check_sealed_record(
        struct check *c, const struct ilog_record *rec, ilog_record_fn *fn) MUST_CHECK;

/* --- the parts --- */
/* Each returns 0 or -errno for what ends the check (no memory); damage is a finding. */
int check_namespace(struct check *c) MUST_CHECK;
/* After a repair: what meta.db's own check says no more is repaired. */
int check_namespace_again(struct check *c) MUST_CHECK;
int check_log(struct check *c) MUST_CHECK;
/* Records that wait for a key: can each be decoded? */
int check_parked(struct check *c) MUST_CHECK;
int check_index(struct check *c) MUST_CHECK;
/* The part of the intent log that can be replayed, as offsets in the ring: from the tail on. */
struct log_extent {
	bool header_good;
	uint64_t ring_bytes; /* of the header, or of the file's length */
	uint64_t tail_off, good_bytes;
};
int log_extent_find(struct check *c, struct log_extent *ret_extent) MUST_CHECK;
bool check_log_refers(const struct check *c, uint64_t segment);
int check_table_read(struct check *c) MUST_CHECK;
void check_table_release(struct check_table *t);
struct check_segment *check_table_find(struct check_table *t, uint64_t id);
/* Segments [first, first+n) of the table. */
int check_batch_load(struct check *c, size_t first, size_t n) MUST_CHECK;
void check_batch_report(struct check *c, size_t first, size_t n);
void check_batch_release(struct check *c, size_t first, size_t n);
bool check_segment_referenced(const struct check_segment *seg);
/* Where the frames of a file without footer end, at most. */
uint32_t check_segment_scan_end(const struct check_segment *seg);
int check_nodes_read(struct check *c) MUST_CHECK;
/* Walks all images and snapshots; structure is checked when whole, entries that point into the loaded batch
 * always. */
int check_images(struct check *c, bool whole) MUST_CHECK;
void check_nodes_report(struct check *c);
/* Path of an image's file; "" when it has none. */
void check_path(struct check *c, uint64_t image, char *buf, size_t len);

/* Reads head and footer, or all of the file.  -ENOENT, -EIO...; a short file is no error here. */
int segment_file_read(struct check *c, uint64_t id, uint32_t gen, bool whole, unsigned slots,
        struct segment_file *sf) MUST_CHECK;
/* Makes the table from the frames up to end, for want of a footer; the whole file must be read. */
void segment_file_scan(struct check *c, uint64_t id, uint32_t end, struct segment_file *sf);
/* Checks every frame that the table names, and (c->data) every chunk's hash; fills damaged[]. */
void segment_file_verify(struct check *c, uint64_t id, struct segment_file *sf);

/* Writes what makes the batch's broken segments good again, and lists their rows. */
int repair_batch(struct check *c, size_t first, size_t n) MUST_CHECK;
int repair_log(struct check *c) MUST_CHECK;
/* The transaction, and after it the removal of files. */
int repair_commit(struct check *c) MUST_CHECK;
void repair_list_release(struct repair_list *l);

/*
 * ports.h - what the engine needs from a metadata store
 *
 * meta/ implements it on SQLite; unit tests implement it in memory.  The engine knows nothing of
 * names and directories: namespace changes reach it as opaque *rows* (an append-only byte string in
 * meta's own encoding), which it carries through the intent log and hands back, in order, inside
 * the transaction of the group that they belong to.
 *
 * Transactions: begin .. commit are called by one thread at a time (the txg thread).  Readers
 * (node_get, image_get, *_each, state_get) may be called from any thread at any time and see the
 * last *committed* state; they never wait for the writer.  When commit or anything since begin
 * fails, the engine calls rollback and later repeats the whole transaction from begin: nothing of
 * the failed one may be visible.
 *
 * Errors: 0 or -errno.  -ENOENT: no such row.  -EIO: the database is damaged there or cannot be
 * read.  -EUCLEAN, by node_get alone: it was read, and is damaged for certain; repeating is no use.
 * (Node blobs carry their own checksum as well, which map.c checks.)
 */
#pragma once

#include "store/chunk.h"

#define NODE_BLOB_MAX 8192

struct meta; /* opaque to the engine */

struct store_state {
	uint64_t txg;          /* last committed transaction group; 0 in a new datastore */
	uint64_t next_segment; /* first id never used; ids start at 1 */
	uint64_t next_node;    /* first id never used; ids start at 1 */
	uint64_t log_epoch;    /* of the intent log file in use; see ilog.h */
	uint64_t log_tail_off; /* ring offset of the first batch that may matter */
	uint64_t log_tail_seq; /* its sequence number */
	uint8_t uuid[16];      /* of the datastore; never changes */
	uint8_t domain_key[DOMAIN_KEY_LEN]; /* of crypto domain 0; never changes */
};

struct image_row {
	uint64_t image;       /* = inode number */
	uint64_t root;        /* node id, 0: all hole */
	uint32_t height;      /* levels of nodes: 0 none, 1 the root is a leaf .. 4 */
	uint64_t data_chunks; /* entries in state data */
	uint64_t zero_chunks; /* entries in state zero */
	uint64_t snap_epoch;  /* nodes born at or before this are shared with a snapshot */
};

/*
 * A kept root; snapshot.h.  Where the engine takes image ids, SNAPSHOT_BIT | id is a snapshot; images have
 * ids below that.
 */
#define SNAPSHOT_BIT (1ull << 62)
struct snapshot_row {
	uint64_t id;    /* 1..2^56 - 1; never used again */
	uint64_t image; /* that it is of */
	uint64_t root;  /* as in struct image_row */
	uint32_t height;
	uint32_t domain; /* that the image's policy named then */
	uint64_t data_chunks, zero_chunks;
	uint64_t txg; /* the group that it is the end of */
};

enum segment_state { SEGMENT_OPEN = 1, SEGMENT_SEALED = 2 };

struct segment_row {
	uint64_t id;
	uint32_t gen;  /* file generation: bumped when rewritten; the file is ID.GEN */
	uint32_t tier; /* where that file is; 0: the datastore's own directory */
	/* Is there a second file, with the same frames and footer?  Of sealed segments only. */
	bool has_copy;
	uint32_t copy_tier, copy_gen; /* where, and of which generation, which is not gen; else 0 */
	uint32_t domain;              /* crypto domain; 0 */
	enum segment_state state;
	uint32_t bytes; /* committed length of the file's frames area; what lies past it is void */
	uint32_t slots; /* slots assigned */
	uint32_t live_chunks; /* as of the last GC mark; = slots when never marked */
	uint32_t live_bytes;  /* estimate, stored bytes of live frames */
	uint32_t file_bytes;  /* length of the file, header and footer included */
	uint64_t created_txg;
};

/* Non-zero stops the iteration and is returned. */
typedef int image_row_fn(void *arg, const struct image_row *row);
typedef int snapshot_row_fn(void *arg, const struct snapshot_row *row);
typedef int segment_row_fn(void *arg, const struct segment_row *row);
typedef int node_id_fn(void *arg, uint64_t id);
typedef int parked_fn(void *arg, uint64_t image, uint64_t id, const void *blob, size_t len);

struct meta_ops {
	int (*state_get)(struct meta *m, struct store_state *ret_state);
	int (*node_get)(struct meta *m, uint64_t id, void *buf, size_t cap, size_t *ret_len);
	int (*image_get)(struct meta *m, uint64_t image, struct image_row *ret_row);
	/* In order of id, all rows. */
	int (*image_each)(struct meta *m, image_row_fn *fn, void *arg);
	int (*snapshot_get)(struct meta *m, uint64_t id, struct snapshot_row *ret_row);
	/* In order of id, all rows. */
	int (*snapshot_each)(struct meta *m, snapshot_row_fn *fn, void *arg);
	int (*segment_each)(struct meta *m, segment_row_fn *fn, void *arg);
	/* Ids in [first, last]; no read transaction is held across calls of fn for long: rows come
	 * in batches. */
	int (*node_each)(struct meta *m, uint64_t first, uint64_t last, node_id_fn *fn, void *arg);

	/*
	 * Intent-log records that wait for a key (parked.c), in order of image and id: of one image,
	 * or (0) of all.  As node_each.
	 */
	int (*parked_each)(struct meta *m, uint64_t image, parked_fn *fn, void *arg);

	int (*begin)(struct meta *m);
	int (*node_put)(struct meta *m, uint64_t id, const void *blob, size_t len);
	int (*node_del)(struct meta *m, uint64_t id); /* 0 when it is not there */
	int (*image_put)(struct meta *m, const struct image_row *row);
	int (*image_del)(struct meta *m, uint64_t image); /* 0 when it is not there */
	int (*snapshot_put)(struct meta *m, const struct snapshot_row *row);
	int (*snapshot_del)(struct meta *m, uint64_t id); /* 0 when it is not there */
	int (*segment_put)(struct meta *m, const struct segment_row *row);
	int (*segment_del)(struct meta *m, uint64_t id);
	/* Ids are from 1, image is not 0. */
	int (*parked_put)(
	        struct meta *m, uint64_t image, uint64_t id, const void *blob, size_t len);
	/* id 0: all of the image.  0 when there is none. */
	int (*parked_del)(struct meta *m, uint64_t image, uint64_t id);
	/* Applies namespace rows, in order.  Rows are idempotent "put"s and "del"s. */
	int (*rows_apply)(struct meta *m, const void *rows, size_t len);
	int (*state_put)(struct meta *m, const struct store_state *state);
	int (*commit)(struct meta *m); /* durable when it returns 0 */
	void (*rollback)(struct meta *m);
	/*
	 * Not in a transaction, on the thread that commits: overwrites on the backing what deleted
	 * and replaced rows left behind.  What is in the way (a reader that stays) is -EBUSY.
	 */
	int (*scrub)(struct meta *m);
};

/* First member of the implementation. */
struct meta {
	const struct meta_ops *ops;
};

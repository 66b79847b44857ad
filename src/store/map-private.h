/*
 * map-private.h - shared by map.c (reading), map-change.c (changing) and map-cache.c (node cache)
 *
 * Locks, none of which is held while another one is taken, except as said:
 *	maps.lock      the table of open maps, reference counts (map.row_lock may be taken inside)
 *	map.row_lock   root, height, counters and crypto domain of one image (a lock of the segment
 *	               table may be taken inside)
 *	shard.lock     the nodes of one shard of the cache: presence, content, replacement state
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "store/map.h"

#define MAP_LEVELS 4

struct link {
	struct link *prev, *next;
};

static inline void link_init(struct link *l)
{
	l->prev = l->next = l;
}

static inline void link_append(struct link *head, struct link *l)
{
	l->prev = head->prev;
	l->next = head;
	head->prev->next = l;
	head->prev = l;
}

static inline void link_remove(struct link *l)
{
	l->prev->next = l->next;
	l->next->prev = l->prev;
	link_init(l);
}

/* A node's place: subtree number `index` of its level, whatever its id is at present. */
struct node_key {
	uint64_t image;
	unsigned level;
	uint32_t index;
};

struct node {
	struct node *hash_next;
	struct link link; /* clean: the shard's clock; dirty: nodes.dirty */
	struct node_key key;
	uint64_t id;
	bool referenced; /* since the clock's hand went by */
	bool dirty;
	bool fresh;              /* id was never committed; txg thread only once published */
	uint32_t written_domain; /* by the last maps_txg_write; txg thread only */
	struct map_node body;
};

/* --- map-cache.c --- */

struct shard;

struct nodes {
	uint64_t limit_bytes;
	unsigned shard_bits;
	struct shard *shards;
	atomic_uint_fast64_t count, dirty_count;
	struct link dirty; /* txg thread only */
};

int nodes_create(uint64_t limit_bytes, struct nodes *ret_nodes) MUST_CHECK;
void nodes_release(struct nodes *c);
uint64_t nodes_bytes(struct nodes *c);

/* Copies values [first, first+n) of a cached node; false when it is not there. */
bool nodes_peek(
        struct nodes *c, struct node_key key, unsigned first, unsigned n, uint64_t *ret_values);
/* Copies the whole node, and says whether its id was never committed. */
bool nodes_copy(struct nodes *c, struct node_key key, uint64_t *ret_id, struct map_node *ret_body,
        bool *ret_fresh);
/*
 * A reader's decoded blob.  If the node is there already, that one is newer or the same: it is
 * copied over *id and *body.  Else it is put in, unless *seq is not seq_start any more: then the blob
 * may be older than the tree; or seq_start is odd: nodes above it that are about to go may have led to it.
 */
void nodes_offer(struct nodes *c, struct node_key key, uint64_t *id, struct map_node *body,
        atomic_uint_fast64_t *seq, uint64_t seq_start);

/* The following by the txg thread alone. */
/* The cached node, made dirty, if it may be changed in place; else NULL. */
struct node *nodes_own(struct nodes *c, struct node_key key, uint64_t snap_epoch);
/* Puts a node of the caller's in as dirty, in place of a clean one. */
void nodes_put_dirty(struct nodes *c, struct node *n);
void nodes_set_values(
        struct nodes *c, struct node *n, unsigned first, unsigned count, const uint64_t *values);
/* Throws out a subtree's nodes, dirty ones included. */
void nodes_purge(struct nodes *c, struct node_key top);
/* Throws out this node alone. */
void nodes_drop(struct nodes *c, struct node_key key);
/* All dirty nodes are in the metadata store now; the fresh ones were born in txg. */
void nodes_clean(struct nodes *c, uint64_t txg);

/* Any thread.  Throws out (and overwrites) clean leaves that are stored under this domain. */
void nodes_drop_domain(struct nodes *c, uint32_t domain);

/* --- map.c --- */

#define MAP_TABLE_SIZE 4096
/* In place of an image's id: the tree below a root that map_open_root opened. */
#define MAP_DETACHED (1ull << 63)
/* Node ids that one transaction deletes; the collector finds the others. */
#define MAP_DELETES_MAX 65536u

struct maps {
	struct meta *meta;
	struct keyring *keys; /* NULL: none */
	map_segment_domain_fn *segment_domain;
	void *segment_domain_arg;
	struct nodes nodes;
	atomic_uint_fast64_t next_node;
	atomic_uint_fast64_t unsure; /* maps_unsure() */
	pthread_mutex_t lock;
	struct map *table[MAP_TABLE_SIZE];
	/* txg thread only */
	map_entry_fn *added, *dropped;
	void *observer_arg;
	struct map *dirty_maps;
	uint64_t txg;      /* of the last maps_txg_write */
	uint64_t *deletes; /* ids no tree and no snapshot refers to; MAP_DELETES_MAX of room */
	size_t n_deletes;
};

struct map {
	struct maps *ms;
	struct map *next; /* in maps.table */
	unsigned refs;    /* maps.lock; 0 while only dirty */
	pthread_mutex_t row_lock;
	struct image_row row;               /* changed by the txg thread under row_lock */
	const struct crypto_domain *crypto; /* row_lock; of leaves to be written; NULL: clear */
	/*
	 * Counts the moments from which on a blob read before them may be older than the tree
	 * although its node is not in the cache: a subtree dropped, a commit (after which changed
	 * nodes may be evicted).  Odd while the nodes of a dropped subtree are being thrown out of the
	 * cache: who finds one of them may go on to what is below it, thrown out already.
	 */
	atomic_uint_fast64_t seq;
	/* txg thread only; dirty changes under maps.lock, as map_close reads it */
	bool dirty;
	bool cleared;        /* empty since map_clear: the row goes */
	bool rebuild;        /* map_rebuild() */
	uint64_t epoch_next; /* snap_epoch, once this transaction is committed; 0: as it is */
	bool detached;       /* map_open_root: not in the table */
	struct map *next_dirty;
};

/* Chunks that a tree of this height covers. */
static inline uint64_t map_capacity(unsigned height)
{
	return height ? 1ull << LEAF_SHIFT * height : 0;
}

static inline struct node_key map_key(const struct map *m, unsigned level, uint32_t index)
{
	return (struct node_key){.image = m->row.image, .level = level, .index = index};
}

static inline bool map_is_marker(uint64_t id)
{
	return id == 0 || id == MAP_NODE_ALL_ZERO;
}

/* The map of an image that is open or dirty; else NULL. */
struct map *map_of_image(struct maps *ms, uint64_t image);
/* Takes a map that is neither open nor dirty out of the table and frees it; maps.lock is held. */
void map_forget(struct map *m);

/* What map_find found. */
struct map_found {
	uint64_t id; /* of the node; or 0 or MAP_NODE_ALL_ZERO: all of the subtree below is that */
	unsigned level; /* of the node or subtree; MAP_LEVELS: past the end of the tree */
	bool fresh;
};
/*
 * Finds node (level, index): copies its body, or tells of the hole or zeros that it lies in.
 * keep: put it into the cache.  -EIO: it, or a node above it, is damaged (logged); ret_found says
 * which.  -ENOKEY: it is a leaf of a locked domain; ret_found is set, of ret_body all but the values.
 */
int map_find(struct map *m, unsigned level, uint32_t index, bool keep, struct map_found *ret_found,
        struct map_node *ret_body) MUST_CHECK;

/* Visiting a subtree in bounded memory, without touching the cache's replacement. */
struct map_visit {
	struct map *m;
	void *arg;
	map_node_fn *enter;    /* as map_walk's node_fn; may be NULL */
	map_leaf_fn *leaf;     /* as map_walk's leaf_fn; NULL: leaves are not read */
	map_locked_fn *locked; /* NULL: error becomes -ENOKEY instead */
	/* A node that was read; may be NULL.  Of a leaf that is locked, body has no values. */
	void (*read)(void *arg, uint64_t id, const struct map_node *body, bool fresh, bool locked);
	map_read_fn *told; /* as struct map_walker's read; may be NULL */
	/* A subtree that is all zero; NULL: leaf is called for each of its leaves. */
	void (*zeros)(void *arg, unsigned level);
	int error;     /* first damage; the visit goes on */
	uint64_t lost; /* the node met last that is damaged: after map_rebuild() many name it */
};
/*
 * The node as a visit has it: of id, or by its place a newer one.  *ret_found as map_find's.
 */
int map_visit_load(struct map *m, unsigned level, uint32_t index, uint64_t id,
        struct map_found *ret_found, struct map_node *ret_body) MUST_CHECK;
int map_visit(struct map_visit *v, unsigned level, uint32_t index, uint64_t id) MUST_CHECK;

/*
 * map.h - where each chunk of an image is: a radix tree of nodes in the metadata store
 *
 * Fan-out 256.  Level 0 nodes (leaves) hold 256 map entries = 1 MiB of image; inner nodes hold 256
 * child node ids, 0 = all hole, MAP_NODE_ALL_ZERO = all zero (so preallocation makes no leaves; the
 * root may be either, too).  Height grows as needed (16 TiB: 4 levels).  Each node carries its
 * birth txg: a node born at or before the image's snap_epoch is shared with a snapshot and is
 * copied on write, others are updated in place (SQLite's WAL gives atomicity).
 *
 * Node blob, checked on every read (-EIO when it is damaged, logged with node id and image):
 * version, kind, level, birth txg, xxh3-64 seeded with the node id, then the payload: leaves as
 * runs (hole n; zero n; data n: first location, consecutive slots, n packed 12-bit checks) or raw
 * when that is smaller; inner nodes as id list with a bitmap of present children.  FORMAT.md.
 *
 * Crypto domains: leaves of a map with a domain (map_domain_set) are sealed under its leaf key when
 * they are written; inner nodes, which hold ids only, never are.  A sealed leaf whose domain is
 * locked is -ENOKEY to whoever needs its entries, and not damage.
 *
 * RAM: decoded nodes in a cache bounded by map_bytes (clean ones are evicted, CLOCK); dirty ones
 * stay until maps_txg_committed().
 *
 * Damage: a node that cannot be read or is damaged is -EIO for exactly the chunks below it; the
 * rest of the tree works.  A change that replaces all that lies below it heals (the image's
 * counters then stay too high by what the lost node held; check recounts); one that needs its old
 * content is -EIO, unless inner nodes may be rebuilt (map_rebuild).
 *
 * Space: nodes taken out of a tree are deleted with the transaction unless a snapshot shares them,
 * at most 64 Ki of them; the collector finds what is left.
 *
 * Threads: map_get, map_next, map_walk from any thread; everything that changes the maps by the txg
 * thread alone.  Readers see a change as soon as it is made (the overlay's frozen group hides it
 * until it is committed, and a repeated transaction makes the same changes again); one that is
 * overtaken by a change may see the state of the last commit instead, never an older or a mixed
 * one.
 */
#pragma once

#include "store/keyring.h"
#include "store/ports.h"

#define MAP_NODE_ALL_ZERO UINT64_MAX /* in place of a node id: every chunk below is ENTRY_ZERO */
#define MAP_NODE_MAX      ((uint64_t)INT64_MAX) /* ids are 1..MAP_NODE_MAX */

struct maps; /* the node cache of one store */
struct map;  /* one image's tree */

int maps_create(struct meta *meta, uint64_t limit_bytes, uint64_t next_node,
        struct maps **ret_maps) MUST_CHECK;
void maps_free(struct maps *ms);
/*
 * Where leaf keys come from, and which domain a segment is of (to tell foreign entries).  Before
 * any map is opened; without it, sealed leaves are locked.  keys is not owned and outlives maps.
 */
typedef uint32_t map_segment_domain_fn(void *arg, uint64_t segment);
void maps_set_keys(struct maps *ms, struct keyring *keys, map_segment_domain_fn *fn, void *arg);
/*
 * Forgets (and overwrites) what the cache holds of clean leaves of a domain.  No image of it is
 * open.
 */
void maps_domain_drop(struct maps *ms, uint32_t domain);
/*
 * How often a node could not be read, but may be the next time.  While this does not change, each
 * -EIO is of damage that stays.  Any thread.
 */
uint64_t maps_unsure(const struct maps *ms);

/*
 * Opens the tree of an image (image_get; a missing row is an empty image; -EIO: the row is not
 * valid). Opened twice it is the same object.  map_close may come while it is dirty: maps keeps it
 * until committed.
 */
int map_open(struct maps *ms, uint64_t image, struct map **ret_map) MUST_CHECK;
/*
 * A tree that no image has, for reading: nodes of a shared root stay as they are.  SNAPSHOT_BIT | id for
 * map_open is a snapshot's (-ENOENT: there is none).
 */
int map_open_root(struct maps *ms, const struct image_row *root, struct map **ret_map) MUST_CHECK;
/* A row's root and height, as read from somewhere, can be those of a tree; else -EIO, logged. */
int map_root_check(const struct image_row *row) MUST_CHECK;
void map_close(struct map *m); /* accepts NULL */
/* Copies the counters and root as they are now (uncommitted changes included). */
void map_row(struct map *m, struct image_row *ret_row);
/*
 * Leaves written from now on are sealed under this domain (0: in the clear).  Its key is held on to
 * until the map is closed and clean.  -ENOKEY: locked; all is as before.  Any thread.
 */
int map_domain_set(struct map *m, uint32_t domain) MUST_CHECK;

/* Entries of chunks [first, first+n), all within one leaf. */
int map_get(struct map *m, uint64_t first, unsigned n, uint64_t *ret_entries) MUST_CHECK;
/*
 * The first chunk >= first whose entry is a hole (hole) or not a hole (!hole); IMAGE_CHUNKS_MAX
 * when there is none (there is always a hole past the end of the tree).
 */
int map_next(struct map *m, uint64_t first, bool hole, uint64_t *ret_chunk) MUST_CHECK;
/*
 * The first leaf >= first (a chunk, as all chunks here) that is stored under another domain, as of
 * the last commit; IMAGE_CHUNKS_MAX: none.  -EIO: damage on the way.  Any thread.
 */
int map_next_foreign_leaf(
        struct map *m, uint64_t first, uint32_t domain, uint64_t *ret_chunk) MUST_CHECK;

/* --- txg thread only --- */
/*
 * Called for each data entry that a change puts into a map (*for the collector's barrier*), and for
 * each data entry that a change takes out (dead estimate).  May be NULL.
 */
typedef void map_entry_fn(void *arg, uint64_t entry);
void maps_set_observer(struct maps *ms, map_entry_fn *added, map_entry_fn *dropped, void *arg);

/*
 * Sets entries of chunks [first, first+n), all within one leaf; slots of entries[] that are
 * MAP_KEEP stay as they are.  The leaf is written with the next transaction even if all do.
 */
#define MAP_KEEP 1ull /* not a valid entry: state 1 */
int map_set(struct map *m, uint64_t first, unsigned n, const uint64_t *entries) MUST_CHECK;
/*
 * Makes [first, last) holes or zeros; drops whole subtrees (reads them for the counters and the
 * observer only, in bounded memory).  At an error the rest of the range is done all the same.
 */
int map_fill(struct map *m, uint64_t first, uint64_t last, enum entry_state state) MUST_CHECK;
/*
 * Between on and off, a change puts new inner nodes in the place of damaged ones on its way.  What else lay
 * below stays lost: the new node's other children have the id of the damaged one, which is of another
 * level.  So reading them is -EIO, a walk still meets the damage, and the row stays where it is.
 */
void map_rebuild(struct map *m, bool on);
/*
 * Forgets all content, when an image is deleted: root 0, and the image row goes with the next
 * maps_txg_write (unless something was set after).  Calls the observer as map_fill does.
 */
void map_clear(struct map *m);
/*
 * The tree as it is now, after this group's changes, is another root's, too: once the transaction is committed
 * as group txg, its nodes are copied when they are changed.  *ret_row is what is to be kept.  Before the commit,
 * nothing else is changed but by repeating all of the group.
 */
void map_share(struct map *m, uint64_t txg, struct image_row *ret_row);
/*
 * The map becomes the tree of this root, which others have, too (map_share; a snapshot's): O(1).  Its row
 * was put by the caller, in the transaction of group txg, behind what maps_txg_write put, and was committed just
 * now (after maps_txg_committed).  What it was before is left to the collector.
 */
void map_replace(struct map *m, const struct image_row *root, uint64_t txg);
/*
 * Writes dirty nodes and image rows, deletes dropped nodes, inside the transaction that the caller
 * began.  txg becomes the birth of nodes created since the last commit.
 * Can be repeated after a rollback.
 */
int maps_txg_write(struct maps *ms, uint64_t txg) MUST_CHECK;
void maps_txg_committed(struct maps *ms);
uint64_t maps_next_node(struct maps *ms);

/* --- any thread --- */
/*
 * Visits every leaf of the tree as it is now; does not disturb the cache's replacement.  What is
 * changed meanwhile is seen in the old or new form.  node_fn for each node id (may be NULL; a
 * return of 1 skips what is below it, as when a shared subtree has been seen), leaf_fn with the
 * leaf's first chunk and its 256 entries, also for each leaf's worth of an all-zero subtree (which
 * has no nodes); NULL: leaves are not read.  Negative returns stop and are returned.
 *
 * Damage does not stop it: leaf_fn is called with entries NULL and the first chunk of what is lost
 * (node_fn was called with its node and level just before), and -EIO is returned in the end.
 *
 * Nor does a leaf that is sealed and whose domain is locked: locked_fn is told of it instead of
 * leaf_fn.  map_walk has none; it returns -ENOKEY in the end (-EIO if there was damage too).
 */
typedef int map_node_fn(void *arg, uint64_t node, unsigned level);
typedef int map_leaf_fn(void *arg, uint64_t first_chunk, const uint64_t entries[LEAF_CHUNKS]);
typedef int map_locked_fn(void *arg, uint64_t first_chunk, uint32_t domain, bool foreign);
int map_walk(struct map *m, map_node_fn *node_fn, map_leaf_fn *leaf_fn, void *arg) MUST_CHECK;
int map_walk_locked(struct map *m, map_node_fn *node_fn, map_leaf_fn *leaf_fn,
        map_locked_fn *locked_fn, void *arg) MUST_CHECK;

/*
 * The same for trees that share nodes.  A visit may find, by its place, a newer node than the one whose id
 * was in the node above: `read` says of which node the content is told next, so that a set of nodes seen is of
 * those (node is called with the other id).
 */
typedef void map_read_fn(void *arg, uint64_t node);
struct map_walker {
	map_node_fn *node; /* each may be NULL */
	map_read_fn *read;
	map_leaf_fn *leaf;
	map_locked_fn *locked; /* NULL: -ENOKEY in the end */
};
int map_walk_with(struct map *m, const struct map_walker *w, void *arg) MUST_CHECK;

struct maps_stats {
	uint64_t bytes, limit_bytes, dirty_nodes;
};
void maps_stats_get(struct maps *ms, struct maps_stats *ret_stats);

/*
 * The blob codec, also used by check and the fuzz target.  Either pointer array form: for a leaf
 * values are entries, for an inner node child ids.
 */
struct map_node {
	uint16_t level;  /* 0: leaf */
	bool foreign;    /* sealed, and refers to segments of other domains */
	uint32_t domain; /* crypto domain that the leaf is sealed under; 0: in the clear */
	uint64_t birth_txg;
	uint64_t values[LEAF_CHUNKS];
};
/* In the clear, whatever its domain.  buf holds NODE_BLOB_MAX; returns the length. */
size_t map_node_encode(const struct map_node *n, uint64_t id, uint8_t *buf);
/* A leaf, sealed under the leaf key of n->domain (not 0).  -ENOMEM, -EIO: libcrypto's. */
int map_node_seal(const struct map_node *n, uint64_t id, const struct seal_key *key, uint8_t *buf,
        size_t *ret_len) MUST_CHECK;
/*
 * -EUCLEAN: damaged, or not node id's blob.  -ENOKEY: a sealed leaf, as far as can be told without
 * the key in order: ret_node has everything but the values.
 */
int map_node_decode(
        const void *blob, size_t len, uint64_t id, struct map_node *ret_node) MUST_CHECK;
/* A sealed leaf.  -EUCLEAN also: not sealed, not authentic, or under another key. */
int map_node_unseal(const void *blob, size_t len, uint64_t id, const struct seal_key *key,
        struct map_node *ret_node) MUST_CHECK;

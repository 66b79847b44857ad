/*
 * pending.h - namespace rows that no committed group holds yet
 *
 * Private to meta/.  Not locked: struct ns does that.  Entries are looked up by key (kind, owner,
 * name), walked by directory or inode in order, and dropped by transaction group.
 */
#pragma once

#include "meta/rows.h"

enum pending_kind { PENDING_INODE, PENDING_SYMLINK, PENDING_NAME, PENDING_XATTR, PENDING_RECORD };

/* Of a treap; ordered by (hi, lo), then address. */
struct pending_node {
	uint64_t hi, lo;
	uint32_t priority;
	struct pending_node *left, *right;
};

struct pending_entry {
	struct pending_entry *hash_next;
	struct pending_entry *older, *newer; /* all, by txg */
	/* live names: (directory, id); live xattrs: (inode, order); live records: (owner, id) */
	struct pending_node by_owner;
	struct pending_node by_ino; /* live names: (inode, id) */
	enum pending_kind kind;
	bool gone; /* deleted: hides the committed row */
	uint64_t txg;
	/* INODE: the group that deleted it last, 0: none; until that is committed, committed xattrs
	 * and the committed symlink are hidden, also when the inode is back */
	uint64_t wiped_txg;
	uint64_t owner;
	uint64_t id;             /* NAME, RECORD */
	uint64_t ino;            /* NAME */
	enum record_table table; /* RECORD */
	uint32_t mode;           /* NAME */
	struct ns_inode inode;   /* INODE */
	size_t name_len, value_len;
	uint8_t *value; /* SYMLINK, XATTR, RECORD: behind name, in the same allocation */
	char name[];    /* NAME, XATTR; RECORD: its table and id, for the key */
};

struct pending {
	struct pending_entry **buckets; /* owned */
	size_t n_buckets, n;
	struct pending_entry *oldest, *newest;
	struct pending_node *names, *inos, *xattrs, *records[RECORD_TABLES];
	uint64_t random, order;
	uint64_t dropped_txg; /* groups up to this are committed */
};

int pending_init(struct pending *p) MUST_CHECK;
void pending_release(struct pending *p);

/* An entry that says what the row says; NULL when out of memory.  Freed with free(). */
struct pending_entry *pending_entry_new(const struct row *row);
/* Takes e, as a change of group txg (never below that of an earlier call); replaces its
 * predecessor. */
void pending_take(struct pending *p, struct pending_entry *e, uint64_t txg);
/* Drops what groups <= txg changed and none changed since. */
void pending_drop(struct pending *p, uint64_t txg);

/* The entry of a key, also when it says "gone"; or NULL. */
const struct pending_entry *pending_find(const struct pending *p, enum pending_kind kind,
        uint64_t owner, const void *name, size_t name_len);
/* Whether committed xattrs and records and the committed symlink of an inode are hidden. */
bool pending_wiped(const struct pending *p, uint64_t ino);
/* The live name of a directory with the lowest id > after; or NULL. */
const struct pending_entry *pending_name_after(
        const struct pending *p, uint64_t dir, uint64_t after);
/* The live name that leads to an inode, by id as above. */
const struct pending_entry *pending_link_after(
        const struct pending *p, uint64_t ino, uint64_t after);
/* The live xattr of an inode that comes after e (NULL: the first). */
const struct pending_entry *pending_xattr_after(
        const struct pending *p, uint64_t ino, const struct pending_entry *e);

/* The entry of a record, also when it says "gone"; or NULL. */
const struct pending_entry *pending_record(
        const struct pending *p, enum record_table table, uint64_t owner, uint64_t id);
/* The first live record of a table at or after (owner, id), of any owner; or NULL. */
const struct pending_entry *pending_record_from(
        const struct pending *p, enum record_table table, uint64_t owner, uint64_t id);
/* The live record of an owner with the highest id; or NULL. */
const struct pending_entry *pending_record_last(
        const struct pending *p, enum record_table table, uint64_t owner);

/*
 * pending.c - namespace rows that no committed group holds yet
 *
 * Each key has at most one entry: the newest word on it.  An entry carries the group that said it,
 * and stays until that group is committed; an entry of a group in flight that is replaced needs no
 * memory of its own, since nobody reads the group's state but SQLite, which gets it from the row
 * log.
 *
 * Live names, xattrs and records also hang in treaps (Aragon and Seidel, "Randomized search trees", 1989),
 * so that a directory of any size is listed in order of id from any cookie, and an inode's names
 * are found, without sorting.  Deleted ones are only in the hash table: they hide a committed row,
 * and are not listed.
 *
 * Deleting an inode takes its xattrs, records and symlink along: pending ones are dropped here, committed
 * ones are hidden by `wiped_txg` until the group that deleted it is committed.
 */
#include "meta/pending.h"

#include <errno.h>
#include <xxhash.h>

#define BUCKETS_MIN    256u
#define RECORD_KEY_LEN 9u /* table and id, as the name of an entry */

/* --- treap --- */

static int node_compare(const struct pending_node *a, const struct pending_node *b)
{
	if (a->hi != b->hi)
		return a->hi < b->hi ? -1 : 1;
	if (a->lo != b->lo)
		return a->lo < b->lo ? -1 : 1;
	return a == b ? 0 : (uintptr_t)a < (uintptr_t)b ? -1 : 1;
}

/* Splits into nodes before and after key. */
static void tree_split(struct pending_node *t, const struct pending_node *key,
        struct pending_node **ret_left, struct pending_node **ret_right)
{
	while (t) {
		if (node_compare(t, key) < 0) {
			*ret_left = t;
			ret_left = &t->right;
			t = t->right;
		} else {
			*ret_right = t;
			ret_right = &t->left;
			t = t->left;
		}
	}
	*ret_left = *ret_right = NULL;
}

static void tree_insert(struct pending_node **root, struct pending_node *n)
{
	while (*root && (*root)->priority >= n->priority)
		root = node_compare(n, *root) < 0 ? &(*root)->left : &(*root)->right;
	struct pending_node *t = *root;
	*root = n;
	tree_split(t, n, &n->left, &n->right);
}

static void tree_remove(struct pending_node **root, struct pending_node *n)
{
	while (*root != n)
		root = node_compare(n, *root) < 0 ? &(*root)->left : &(*root)->right;
	struct pending_node *a = n->left, *b = n->right;
	while (a && b) {
		if (a->priority >= b->priority) {
			*root = a;
			root = &a->right;
			a = a->right;
		} else {
			*root = b;
			root = &b->left;
			b = b->left;
		}
	}
	*root = a ? a : b;
}

/* The first node at or after (hi, lo); or NULL. */
static const struct pending_node *tree_from(const struct pending_node *t, uint64_t hi, uint64_t lo)
{
	const struct pending_node *best = NULL;

	while (t) {
		if (t->hi > hi || (t->hi == hi && t->lo >= lo)) {
			best = t;
			t = t->left;
		} else {
			t = t->right;
		}
	}
	return best;
}

/* The first node with this hi and a lo above; or NULL. */
static const struct pending_node *tree_after(const struct pending_node *t, uint64_t hi, uint64_t lo)
{
	const struct pending_node *n = lo < UINT64_MAX ? tree_from(t, hi, lo + 1) : NULL;

	return n && n->hi == hi ? n : NULL;
}

/* The last node with this hi; or NULL. */
static const struct pending_node *tree_last(const struct pending_node *t, uint64_t hi)
{
	const struct pending_node *best = NULL;

	while (t) {
		if (t->hi <= hi) {
			best = t;
			t = t->right;
		} else {
			t = t->left;
		}
	}
	return best && best->hi == hi ? best : NULL;
}

static uint32_t next_priority(struct pending *p)
{
	/* xorshift64*: Vigna, "An experimental exploration of Marsaglia's xorshift generators" */
	p->random ^= p->random >> 12;
	p->random ^= p->random << 25;
	p->random ^= p->random >> 27;
	return (uint32_t)((p->random * 0x2545f4914f6cdd1dull) >> 32);
}

/* The treap that lists e by owner; NULL: none. */
static struct pending_node **tree_of(struct pending *p, const struct pending_entry *e)
{
	if (e->gone)
		return NULL;
	switch (e->kind) {
	case PENDING_NAME:
		return &p->names;
	case PENDING_XATTR:
		return &p->xattrs;
	case PENDING_RECORD:
		return &p->records[e->table];
	case PENDING_INODE:
	case PENDING_SYMLINK:
		break;
	}
	return NULL;
}

static void index_add(struct pending *p, struct pending_entry *e)
{
	struct pending_node **tree = tree_of(p, e);

	if (!tree)
		return;
	e->by_owner =
	        (struct pending_node){.hi = e->owner, .lo = e->id, .priority = next_priority(p)};
	tree_insert(tree, &e->by_owner);
	if (e->kind != PENDING_NAME)
		return;
	e->by_ino = (struct pending_node){.hi = e->ino, .lo = e->id, .priority = next_priority(p)};
	tree_insert(&p->inos, &e->by_ino);
}

static void index_remove(struct pending *p, struct pending_entry *e)
{
	struct pending_node **tree = tree_of(p, e);

	if (!tree)
		return;
	tree_remove(tree, &e->by_owner);
	if (e->kind == PENDING_NAME)
		tree_remove(&p->inos, &e->by_ino);
}

/* --- hash table --- */

static struct pending_entry **bucket_of(const struct pending *p, enum pending_kind kind,
        uint64_t owner, const void *name, size_t name_len)
{
	const uint64_t h = XXH3_64bits_withSeed(name, name_len, owner * 8 + kind);

	return &p->buckets[h & (p->n_buckets - 1)];
}

static struct pending_entry **slot_of(const struct pending *p, enum pending_kind kind,
        uint64_t owner, const void *name, size_t name_len)
{
	struct pending_entry **at = bucket_of(p, kind, owner, name, name_len);

	for (; *at; at = &(*at)->hash_next) {
		const struct pending_entry *e = *at;
		if (e->kind == kind && e->owner == owner && e->name_len == name_len &&
		        !memcmp(e->name, name, name_len))
			break;
	}
	return at;
}

/* More buckets are only faster: without memory for them it goes on as it is. */
static void grow(struct pending *p)
{
	struct pending old = *p;
	struct pending_entry **buckets = calloc(p->n_buckets * 2, sizeof(struct pending_entry *));

	if (!buckets)
		return;
	p->buckets = buckets;
	p->n_buckets *= 2;
	for (struct pending_entry *e = p->oldest; e; e = e->newer) {
		struct pending_entry **at = bucket_of(p, e->kind, e->owner, e->name, e->name_len);
		e->hash_next = *at;
		*at = e;
	}
	free(old.buckets);
}

static void list_remove(struct pending *p, struct pending_entry *e)
{
	*(e->older ? &e->older->newer : &p->oldest) = e->newer;
	*(e->newer ? &e->newer->older : &p->newest) = e->older;
}

static void list_append(struct pending *p, struct pending_entry *e)
{
	e->older = p->newest;
	e->newer = NULL;
	*(p->newest ? &p->newest->newer : &p->oldest) = e;
	p->newest = e;
}

/* at: the slot that holds the entry. */
static void entry_drop(struct pending *p, struct pending_entry **at)
{
	struct pending_entry *e = *at;

	*at = e->hash_next;
	index_remove(p, e);
	list_remove(p, e);
	p->n--;
	free(e);
}

static void key_drop(struct pending *p, enum pending_kind kind, uint64_t owner, const void *name,
        size_t name_len)
{
	struct pending_entry **at = slot_of(p, kind, owner, name, name_len);

	if (*at)
		entry_drop(p, at);
}

/* --- operations --- */

int pending_init(struct pending *p)
{
	*p = (struct pending){.n_buckets = BUCKETS_MIN, .random = 0x9e3779b97f4a7c15ull};
	p->buckets = calloc(p->n_buckets, sizeof(struct pending_entry *));
	return p->buckets ? 0 : -ENOMEM;
}

void pending_release(struct pending *p)
{
	while (p->oldest) {
		struct pending_entry *e = p->oldest;
		p->oldest = e->newer;
		free(e);
	}
	free(p->buckets);
	*p = (struct pending){0};
}

static enum pending_kind kind_of(enum row_type type)
{
	switch (type) {
	case ROW_INODE_PUT:
	case ROW_INODE_DEL:
		return PENDING_INODE;
	case ROW_SYMLINK_PUT:
		return PENDING_SYMLINK;
	case ROW_NAME_PUT:
	case ROW_NAME_DEL:
		return PENDING_NAME;
	case ROW_XATTR_PUT:
	case ROW_XATTR_DEL:
		return PENDING_XATTR;
	case ROW_RECORD_PUT:
	case ROW_RECORD_DEL:
		break;
	}
	return PENDING_RECORD;
}

static void record_key(enum record_table table, uint64_t id, uint8_t ret_key[RECORD_KEY_LEN])
{
	put_u8(ret_key, (uint8_t)table);
	put_u64(ret_key + 1, id);
}

static struct pending_entry *entry_new(const struct row *row)
{
	struct pending_entry *e = calloc(1, sizeof(*e) + row->name_len + row->value_len);

	if (!e)
		return NULL;
	e->kind = kind_of(row->type);
	e->gone = row->type == ROW_INODE_DEL || row->type == ROW_NAME_DEL ||
	          row->type == ROW_XATTR_DEL || row->type == ROW_RECORD_DEL;
	e->table = row->table;
	e->owner = row->type == ROW_INODE_PUT ? row->inode.ino : row->owner;
	e->id = row->id;
	e->ino = row->ino;
	e->mode = row->mode;
	e->inode = row->inode;
	e->name_len = row->name_len;
	e->value_len = row->value_len;
	e->value = (uint8_t *)e->name + row->name_len;
	if (row->name_len > 0)
		memcpy(e->name, row->name, row->name_len);
	if (row->value_len > 0)
		memcpy(e->value, row->value, row->value_len);
	return e;
}

struct pending_entry *pending_entry_new(const struct row *row)
{
	struct row keyed = *row;
	uint8_t key[RECORD_KEY_LEN];

	if (row->type != ROW_RECORD_PUT && row->type != ROW_RECORD_DEL)
		return entry_new(row);
	record_key(row->table, row->id, key);
	keyed.name = key;
	keyed.name_len = sizeof(key);
	return entry_new(&keyed);
}

static void wipe_records(struct pending *p, enum record_table table, uint64_t ino)
{
	const struct pending_entry *e;

	while ((e = pending_record_last(p, table, ino)))
		key_drop(p, PENDING_RECORD, ino, e->name, e->name_len);
}

static void wipe(struct pending *p, uint64_t ino)
{
	const struct pending_entry *e;

	for (enum record_table t = 1; t < RECORD_TABLES; t++)
		if (record_of_inode(t))
			wipe_records(p, t, ino);

	while ((e = pending_xattr_after(p, ino, NULL)))
		key_drop(p, PENDING_XATTR, ino, e->name, e->name_len);
	key_drop(p, PENDING_SYMLINK, ino, "", 0);
}

void pending_take(struct pending *p, struct pending_entry *e, uint64_t txg)
{
	struct pending_entry **at = slot_of(p, e->kind, e->owner, e->name, e->name_len);

	if (*at) {
		e->wiped_txg = (*at)->wiped_txg;
		entry_drop(p, at);
	}
	if (e->kind == PENDING_INODE && e->gone) {
		e->wiped_txg = txg;
		wipe(p, e->owner);
	}
	if (e->kind == PENDING_XATTR)
		e->id = ++p->order;
	if (p->n >= p->n_buckets)
		grow(p);
	at = bucket_of(p, e->kind, e->owner, e->name, e->name_len);
	e->hash_next = *at;
	*at = e;
	e->txg = txg;
	list_append(p, e);
	index_add(p, e);
	p->n++;
}

void pending_drop(struct pending *p, uint64_t txg)
{
	p->dropped_txg = MAX(p->dropped_txg, txg);
	while (p->oldest && p->oldest->txg <= txg) {
		const struct pending_entry *e = p->oldest;
		key_drop(p, e->kind, e->owner, e->name, e->name_len);
	}
}

const struct pending_entry *pending_find(const struct pending *p, enum pending_kind kind,
        uint64_t owner, const void *name, size_t name_len)
{
	return *slot_of(p, kind, owner, name, name_len);
}

bool pending_wiped(const struct pending *p, uint64_t ino)
{
	const struct pending_entry *e = pending_find(p, PENDING_INODE, ino, "", 0);

	return e && e->wiped_txg > p->dropped_txg;
}

const struct pending_entry *pending_name_after(
        const struct pending *p, uint64_t dir, uint64_t after)
{
	const struct pending_node *n = tree_after(p->names, dir, after);

	return n ? CONTAINER_OF(n, struct pending_entry, by_owner) : NULL;
}

const struct pending_entry *pending_link_after(
        const struct pending *p, uint64_t ino, uint64_t after)
{
	const struct pending_node *n = tree_after(p->inos, ino, after);

	return n ? CONTAINER_OF(n, struct pending_entry, by_ino) : NULL;
}

const struct pending_entry *pending_xattr_after(
        const struct pending *p, uint64_t ino, const struct pending_entry *e)
{
	const struct pending_node *n = tree_after(p->xattrs, ino, e ? e->id : 0);

	return n ? CONTAINER_OF(n, struct pending_entry, by_owner) : NULL;
}

const struct pending_entry *pending_record(
        const struct pending *p, enum record_table table, uint64_t owner, uint64_t id)
{
	uint8_t key[RECORD_KEY_LEN];

	record_key(table, id, key);
	return pending_find(p, PENDING_RECORD, owner, key, sizeof(key));
}

const struct pending_entry *pending_record_from(
        const struct pending *p, enum record_table table, uint64_t owner, uint64_t id)
{
	const struct pending_node *n = tree_from(p->records[table], owner, id);

	return n ? CONTAINER_OF(n, struct pending_entry, by_owner) : NULL;
}

const struct pending_entry *pending_record_last(
        const struct pending *p, enum record_table table, uint64_t owner)
{
	const struct pending_node *n = tree_last(p->records[table], owner);

	return n ? CONTAINER_OF(n, struct pending_entry, by_owner) : NULL;
}

/*
 * map-cache.c - decoded map nodes in RAM
 *
 * Nodes are found by their place (image, level, index), not by their id: so a chunk's leaf is one
 * hash lookup away, without the levels above it, and a node copied on write stays where readers
 * look.
 *
 * Shards, each with a lock, a hash table and a clock.  Everything about a node that readers look at
 * changes under its shard's lock, and readers copy out under it: nobody ever sees half a change, or
 * a node that is freed.  Clean nodes are evicted by second chance (CLOCK) when their shard is over
 * its part of the limit; dirty ones are on a list of their own and out of the clock's reach, so
 * that a large group does not make each eviction search among them.
 *
 * The one hard question is what a reader may put in: it read its blob without any lock.  If the
 * node is there, that one is at least as new.  If not, the blob is current unless the node was
 * changed, committed and evicted (or dropped) in between; map.seq moves before either can happen,
 * and is compared under the shard's lock.  While a subtree is thrown out, seq is odd, and nobody puts in
 * anything: an inner node that is still there may lead to leaves that are not the tree's any more.
 */
#include <errno.h>
#include <string.h>

#include "store/map-private.h"

#define SHARD_BITS_MAX  6
#define SHARD_NODES_MIN 32 /* fewer shards rather than shards smaller than this */
#define BUCKETS_MIN     64
/* With its part of the hash table and of malloc's own. */
#define NODE_BYTES (sizeof(struct node) + 32)

struct shard {
	pthread_mutex_t lock;
	struct link clock; /* clean nodes; the hand is at the front */
	struct node **buckets;
	size_t n_buckets; /* a power of two */
	size_t count;     /* clean and dirty */
	size_t count_max; /* above this, clean ones are evicted */
} __attribute__((aligned(CACHELINE)));

static uint64_t key_hash(struct node_key key)
{
	uint64_t h = key.image * 0x9e3779b97f4a7c15ull;

	h ^= h >> 32;
	h += (uint64_t)key.level << 32 | key.index;
	h *= 0xd6e8feb86659fd93ull;
	h ^= h >> 32;
	h *= 0xd6e8feb86659fd93ull;
	return h ^ h >> 32;
}

static bool key_equal(struct node_key a, struct node_key b)
{
	return a.image == b.image && a.index == b.index && a.level == b.level;
}

static struct shard *shard_of(struct nodes *c, uint64_t hash)
{
	return c->shards + (hash & ((1u << c->shard_bits) - 1));
}

static struct node **bucket_of(struct nodes *c, struct shard *s, uint64_t hash)
{
	return s->buckets + (hash >> c->shard_bits & (s->n_buckets - 1));
}

/* Locks the key's shard and finds the link that points to its node, or to the end of its chain. */
static struct node **shard_lock(struct nodes *c, struct node_key key, struct shard **ret_shard)
{
	const uint64_t hash = key_hash(key);
	struct shard *s = shard_of(c, hash);

	pthread_mutex_lock(&s->lock);
	struct node **at = bucket_of(c, s, hash);
	while (*at && !key_equal((*at)->key, key))
		at = &(*at)->hash_next;
	*ret_shard = s;
	return at;
}

static int shard_init(struct shard *s, size_t count_max)
{
	size_t n = BUCKETS_MIN;

	while (n < count_max)
		n *= 2;
	s->buckets = calloc(n, sizeof(*s->buckets));
	if (!s->buckets)
		return -ENOMEM;
	s->n_buckets = n;
	s->count_max = count_max;
	link_init(&s->clock);
	pthread_mutex_init(&s->lock, NULL);
	return 0;
}

int nodes_create(uint64_t limit_bytes, struct nodes *ret_nodes)
{
	struct nodes c = {.limit_bytes = limit_bytes};
	const uint64_t count_max = limit_bytes / NODE_BYTES;

	while (c.shard_bits < SHARD_BITS_MAX && count_max >> (c.shard_bits + 1) >= SHARD_NODES_MIN)
		c.shard_bits++;
	const size_t n = (size_t)1 << c.shard_bits;
	c.shards = aligned_alloc(CACHELINE, n * sizeof(*c.shards));
	if (!c.shards)
		return -ENOMEM;
	memset(c.shards, 0, n * sizeof(*c.shards));
	for (size_t i = 0; i < n; i++) {
		if (shard_init(c.shards + i, MAX(count_max >> c.shard_bits, 1)) < 0) {
			nodes_release(&c);
			return -ENOMEM;
		}
	}
	*ret_nodes = c;
	link_init(&ret_nodes->dirty);
	return 0;
}

void nodes_release(struct nodes *c)
{
	for (size_t i = 0; c->shards && i < (size_t)1 << c->shard_bits; i++) {
		struct shard *s = c->shards + i;

		if (!s->buckets)
			continue;
		for (size_t b = 0; b < s->n_buckets; b++) {
			struct node *next;

			for (struct node *n = s->buckets[b]; n; n = next) {
				next = n->hash_next;
				free(n);
			}
		}
		free(s->buckets);
		pthread_mutex_destroy(&s->lock);
	}
	free(c->shards);
	c->shards = NULL;
}

uint64_t nodes_bytes(struct nodes *c)
{
	return atomic_load_explicit(&c->count, memory_order_relaxed) * NODE_BYTES;
}

/* Doubles the hash table; without memory for it the chains just get longer.  Shard locked. */
static void shard_grow(struct nodes *c, struct shard *s)
{
	const size_t old_n = s->n_buckets;
	struct node **old = s->buckets;
	struct node **buckets = calloc(old_n * 2, sizeof(*buckets));

	if (!buckets)
		return;
	s->buckets = buckets;
	s->n_buckets = old_n * 2;
	for (size_t b = 0; b < old_n; b++) {
		struct node *next;

		for (struct node *n = old[b]; n; n = next) {
			struct node **at = bucket_of(c, s, key_hash(n->key));

			next = n->hash_next;
			n->hash_next = *at;
			*at = n;
		}
	}
	free(old);
}

/* The link that points to a node of the shard.  Shard locked. */
static struct node **node_at(struct nodes *c, struct shard *s, const struct node *n)
{
	struct node **at = bucket_of(c, s, key_hash(n->key));

	while (*at != n)
		at = &(*at)->hash_next;
	return at;
}

/* Takes *at out of its shard and frees it.  Shard locked; a dirty one by the txg thread only. */
static void node_remove(struct nodes *c, struct shard *s, struct node **at)
{
	struct node *n = *at;

	*at = n->hash_next;
	link_remove(&n->link);
	s->count--;
	atomic_fetch_sub_explicit(&c->count, 1, memory_order_relaxed);
	if (n->dirty)
		atomic_fetch_sub_explicit(&c->dirty_count, 1, memory_order_relaxed);
	free(n);
}

/* Puts n at the end of the chain at; links it nowhere else.  Shard locked. */
static void node_add(struct nodes *c, struct shard *s, struct node **at, struct node *n)
{
	n->hash_next = NULL;
	*at = n;
	s->count++;
	atomic_fetch_add_explicit(&c->count, 1, memory_order_relaxed);
	if (s->count > s->n_buckets * 2)
		shard_grow(c, s);
}

/* Shard locked. */
static void shard_evict(struct nodes *c, struct shard *s)
{
	while (s->count > s->count_max && s->clock.next != &s->clock) {
		struct node *n = CONTAINER_OF(s->clock.next, struct node, link);

		if (n->referenced) {
			n->referenced = false;
			link_remove(&n->link);
			link_append(&s->clock, &n->link);
			continue;
		}
		node_remove(c, s, node_at(c, s, n));
	}
}

bool nodes_peek(
        struct nodes *c, struct node_key key, unsigned first, unsigned n, uint64_t *ret_values)
{
	struct shard *s;
	struct node *found = *shard_lock(c, key, &s);

	if (found) {
		found->referenced = true;
		if (n == 1) /* an inner node's child, or a 4 KiB read: no call */
			ret_values[0] = found->body.values[first];
		else
			memcpy(ret_values, found->body.values + first, n * sizeof(*ret_values));
	}
	pthread_mutex_unlock(&s->lock);
	return found;
}

bool nodes_copy(struct nodes *c, struct node_key key, uint64_t *ret_id, struct map_node *ret_body,
        bool *ret_fresh)
{
	struct shard *s;
	struct node *found = *shard_lock(c, key, &s);

	if (found) {
		*ret_id = found->id;
		*ret_body = found->body;
		*ret_fresh = found->fresh;
	}
	pthread_mutex_unlock(&s->lock);
	return found;
}

void nodes_offer(struct nodes *c, struct node_key key, uint64_t *id, struct map_node *body,
        atomic_uint_fast64_t *seq, uint64_t seq_start)
{
	struct node *n = malloc(sizeof(*n)); /* without memory for it, it is just not cached */
	struct shard *s;
	struct node **at = shard_lock(c, key, &s);

	if (*at) {
		*id = (*at)->id;
		*body = (*at)->body;
	} else if (n && !(seq_start & 1) && atomic_load(seq) == seq_start) {
		*n = (struct node){.key = key, .id = *id, .body = *body};
		link_append(&s->clock, &n->link);
		node_add(c, s, at, n);
		n = NULL;
		shard_evict(c, s);
	}
	pthread_mutex_unlock(&s->lock);
	free(n);
}

static void node_mark_dirty(struct nodes *c, struct node *n)
{
	n->dirty = true;
	link_append(&c->dirty, &n->link);
	atomic_fetch_add_explicit(&c->dirty_count, 1, memory_order_relaxed);
}

struct node *nodes_own(struct nodes *c, struct node_key key, uint64_t snap_epoch)
{
	struct shard *s;
	struct node *n = *shard_lock(c, key, &s);

	if (n && !n->fresh && n->body.birth_txg <= snap_epoch)
		n = NULL;
	if (n && !n->dirty) {
		link_remove(&n->link);
		node_mark_dirty(c, n);
	}
	pthread_mutex_unlock(&s->lock);
	return n;
}

void nodes_put_dirty(struct nodes *c, struct node *n)
{
	struct shard *s;
	struct node **at = shard_lock(c, n->key, &s);

	if (*at) {
		ASSERT(!(*at)->dirty);
		node_remove(c, s, at);
		while (*at)
			at = &(*at)->hash_next;
	}
	node_mark_dirty(c, n);
	node_add(c, s, at, n);
	shard_evict(c, s);
	pthread_mutex_unlock(&s->lock);
}

void nodes_set_values(
        struct nodes *c, struct node *n, unsigned first, unsigned count, const uint64_t *values)
{
	struct shard *s = shard_of(c, key_hash(n->key));

	pthread_mutex_lock(&s->lock);
	memcpy(n->body.values + first, values, count * sizeof(*values));
	pthread_mutex_unlock(&s->lock);
}

void nodes_drop(struct nodes *c, struct node_key key)
{
	struct shard *s;
	struct node **at = shard_lock(c, key, &s);

	if (*at)
		node_remove(c, s, at);
	pthread_mutex_unlock(&s->lock);
}

static bool key_below(struct node_key key, struct node_key top)
{
	return key.image == top.image && key.level <= top.level &&
	       key.index >> LEAF_SHIFT * (top.level - key.level) == top.index;
}

static void purge_list(struct nodes *c, struct shard *s, struct link *head, struct node_key top)
{
	struct link *next;

	for (struct link *l = head->next; l != head; l = next) {
		struct node *n = CONTAINER_OF(l, struct node, link);
		struct shard *of = shard_of(c, key_hash(n->key));

		next = l->next;
		if (!key_below(n->key, top))
			continue;
		if (of != s)
			pthread_mutex_lock(&of->lock);
		node_remove(c, of, node_at(c, of, n));
		if (of != s)
			pthread_mutex_unlock(&of->lock);
	}
}

/* Looks at every node there is: for subtrees with more places than the cache has nodes. */
static void purge_scan(struct nodes *c, struct node_key top)
{
	for (size_t i = 0; i < (size_t)1 << c->shard_bits; i++) {
		struct shard *s = c->shards + i;

		pthread_mutex_lock(&s->lock);
		purge_list(c, s, &s->clock, top);
		pthread_mutex_unlock(&s->lock);
	}
	purge_list(c, NULL, &c->dirty, top);
}

/*
 * By place and not by following ids, so that nodes below one that has become unreadable are found
 * too.
 */
void nodes_purge(struct nodes *c, struct node_key top)
{
	const uint64_t leaves = 1ull << LEAF_SHIFT * top.level;

	if (top.level > 0 && leaves > atomic_load_explicit(&c->count, memory_order_relaxed)) {
		purge_scan(c, top);
		return;
	}
	for (unsigned level = 0; level <= top.level; level++) {
		const unsigned shift = LEAF_SHIFT * (top.level - level);

		for (uint32_t i = 0; i < 1u << shift; i++)
			nodes_drop(
			        c, (struct node_key){.image = top.image,
			                   .level = level,
			                   .index = (uint32_t)((uint64_t)top.index << shift) + i});
	}
}

void nodes_clean(struct nodes *c, uint64_t txg)
{
	while (c->dirty.next != &c->dirty) {
		struct node *n = CONTAINER_OF(c->dirty.next, struct node, link);
		struct shard *s = shard_of(c, key_hash(n->key));

		pthread_mutex_lock(&s->lock);
		link_remove(&n->link);
		if (n->fresh)
			n->body.birth_txg = txg;
		n->body.domain = n->written_domain;
		n->dirty = false;
		n->fresh = false;
		n->referenced = true;
		link_append(&s->clock, &n->link);
		shard_evict(c, s);
		pthread_mutex_unlock(&s->lock);
		atomic_fetch_sub_explicit(&c->dirty_count, 1, memory_order_relaxed);
	}
}

void nodes_drop_domain(struct nodes *c, uint32_t domain)
{
	for (size_t i = 0; i < (size_t)1 << c->shard_bits; i++) {
		struct shard *s = c->shards + i;
		struct link *next;

		pthread_mutex_lock(&s->lock);
		for (struct link *l = s->clock.next; l != &s->clock; l = next) {
			struct node *n = CONTAINER_OF(l, struct node, link);

			next = l->next;
			if (n->body.domain != domain)
				continue;
			/* Not the key in question, but it says where content is. */
			explicit_bzero(n->body.values, sizeof(n->body.values));
			node_remove(c, s, node_at(c, s, n));
		}
		pthread_mutex_unlock(&s->lock);
	}
}

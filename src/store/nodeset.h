/*
 * nodeset.h - what a walk over many trees knows of map nodes: a few bits a node id
 *
 * Ids are never used again, so those of live nodes lie the thinner the older a datastore is: memory
 * follows the nodes met, not the ids given out.  64 neighbouring ids take NODESET_WORD_BYTES, up to the
 * limit given; what does not fit is not in the set, and nodeset_full() says that this has happened.
 *
 * Threads: one.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"

#define NODESET_PLANES     3u
#define NODESET_WORD_BYTES (8u + 8u * NODESET_PLANES)

struct nodeset_word {
	uint64_t key; /* id / 64 + 1; 0: free */
	uint64_t bits[NODESET_PLANES];
};

struct nodeset {
	struct nodeset_word *words; /* owned; a hash table, linear probing; NULL: empty */
	size_t n, n_max;            /* taken; may be taken */
	size_t size;                /* a power of two */
	bool full;
};

/* An empty set; allocates nothing.  bytes_max: of its table. */
void nodeset_init(struct nodeset *ns, size_t bytes_max);
void nodeset_release(struct nodeset *ns);
bool nodeset_test(const struct nodeset *ns, unsigned plane, uint64_t id);
/* True if the id was not there; also if there is no room for it, and it still is not. */
bool nodeset_set(struct nodeset *ns, unsigned plane, uint64_t id);
/* The bits of this plane of the 64 ids around this one; 0 if none was ever set. */
uint64_t nodeset_word(const struct nodeset *ns, unsigned plane, uint64_t id);
/* Takes all of them out. */
void nodeset_clear(struct nodeset *ns, unsigned plane, uint64_t id);
static inline bool nodeset_full(const struct nodeset *ns)
{
	return ns->full;
}

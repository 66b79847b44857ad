/*
 * known.h - content that the store has already: found by its hash, shared by where it is
 *
 * For who is offered content that he may not need to be sent.  The index of the hashes gives hints; a
 * chunk found by it is read, and the caller says whether it is what he looks for, by a hash that
 * nobody can forge (the store's own is not that).  Then it can be shared: at once, for nothing
 * keeps a chunk in place that no image refers to.
 *
 *	store_known_find(store, domain, hash, same, arg, &entry, data);
 *	store_throttle(store, CHUNK_SIZE);
 *	store_enter(store);
 *	if (store_known_share(image, off, entry) == -ESTALE)
 *		store_write(image, off, data, CHUNK_SIZE);
 *	store_leave(store);
 *
 * Threads: any.
 */
#pragma once

#include "store/store.h"

/* How hashes of chunks in this crypto domain are made.  -ENOKEY: it is locked. */
int store_hasher_get(struct store *s, uint32_t domain, struct chunk_hasher *ret_hasher) MUST_CHECK;

typedef bool known_same_fn(void *arg, const void *data);
/*
 * A chunk of this hash (chunk_hash) that is stored in this crypto domain, as of the last commit, and for
 * which same() holds; its CHUNK_SIZE bytes are copied to ret_data, *ret_entry says where it is.  Reads;
 * outside the gate.  -ENOENT: none is known.  -ENOKEY.
 */
int store_known_find(struct store *s, uint32_t domain, struct hash128 hash, known_same_fn *same,
        void *arg, uint64_t *ret_entry, void *ret_data) MUST_CHECK;
/*
 * Inside the gate: the chunk at off (CHUNK_SIZE aligned) becomes the one that was found.  -ESTALE: it is
 * gone, or about to go, or the image is of another domain now: nothing is changed.
 */
int store_known_share(struct image *img, uint64_t off, uint64_t entry) MUST_CHECK;

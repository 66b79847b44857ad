/*
 * fake-meta.h - a metadata store in memory, for tests of the engine's modules
 *
 * All of struct meta_ops with the contract of ports.h: readers see the last committed state and
 * never a transaction under way; rollback, or dropping it in a crash, leaves no trace; commit makes
 * all of it visible at one instant.  What is against the contract (a change outside a transaction,
 * begin twice, two transacting threads at once) fails an ASSERT.
 *
 * Threads: as ports.h says; the functions here at any time from any thread.
 */
#pragma once

#include "store/ports.h"

struct fake_meta;

/* An empty datastore: state with next_segment and next_node 1, a uuid and a domain key. */
struct fake_meta *fake_meta_create(void);
void fake_meta_free(struct fake_meta *f); /* accepts NULL */
struct meta *fake_meta_port(struct fake_meta *f);

/* What a crash does: a transaction under way is forgotten; also ends all injected failures. */
void fake_meta_crash(struct fake_meta *f);

/*
 * The k-th next call (1: the next one) of begin, the puts and dels, rows_apply and commit returns
 * err and does nothing; count more than one: so do the following.  rollback never fails.
 */
void fake_meta_fail_writes(struct fake_meta *f, unsigned k, unsigned count, int err);
/* The same for state_get, node_get, image_get and the *_each. */
void fake_meta_fail_reads(struct fake_meta *f, unsigned k, unsigned count, int err);
/* Calls of those kinds since it was created. */
uint64_t fake_meta_writes(struct fake_meta *f);
uint64_t fake_meta_reads(struct fake_meta *f);
uint64_t fake_meta_commits(struct fake_meta *f);

/*
 * Called in node_get after the blob was read, without locks and before it returns: the place where
 * a reader is overtaken.  NULL: none.
 */
typedef void fake_meta_hook_fn(void *arg, uint64_t id);
void fake_meta_on_node_get(struct fake_meta *f, fake_meta_hook_fn *fn, void *arg);

/* Committed rows, without a transaction: for damage and for making a state to begin with. */
uint64_t fake_meta_scrubs(struct fake_meta *f);
size_t fake_meta_parked_count(struct fake_meta *f);
size_t fake_meta_node_count(struct fake_meta *f);
bool fake_meta_node_exists(struct fake_meta *f, uint64_t id);
/* Flips one bit of the blob, at offset bit / 8 (modulo its length). */
void fake_meta_node_damage(struct fake_meta *f, uint64_t id, size_t bit);
void fake_meta_node_remove(struct fake_meta *f, uint64_t id);
void fake_meta_image_set(struct fake_meta *f, const struct image_row *row);
/* All committed namespace rows, in the order applied; valid until the next commit. */
const uint8_t *fake_meta_rows(struct fake_meta *f, size_t *ret_len);

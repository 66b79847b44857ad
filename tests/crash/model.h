/*
 * model.h - what a store was told, and what it may hold after a crash
 *
 * The oracle of the model and crash tests.  A few small images; every acknowledged change is
 * remembered in order, with how far flushes have made it durable.  After a crash each image must
 * equal its state after some number of acknowledged changes, not fewer than the flushed ones; from
 * then on that state is where the model goes on from.  While a store runs, each read must equal the
 * last state.
 *
 * Snapshots: each that was made durably is kept with its content, and compared until it was deleted.  An
 * operation on roots that was cut off is either done or not: what the store has afterwards, with the content that
 * it must have then.
 */
#pragma once

#include "sim/rng.h"
#include "store/store.h"

#define MODEL_IMAGES      4u
#define MODEL_BYTES       (3u << 20) /* of each image: crosses map leaves */
#define MODEL_FIRST_IMAGE 100ull

struct model;

/* Said first when a check fails: how to repeat it. */
extern char model_context[80];

void model_create(uint64_t seed, struct model **ret_model);
/* Several models may work on one store, each in a thread of its own, with images of its own. */
void model_create_at(uint64_t seed, uint64_t first_image, struct model **ret_model);
void model_free(struct model *m);

/*
 * What the model has last set, of an image that is its own; for the store's hook.  Any thread.  False: not
 * its image.
 */
bool model_policy(struct model *m, uint64_t image, struct image_policy *ret_policy);
#define MODEL_DOMAINS 3u /* crypto domains that images are moved between; 0 is one */

/* The store under test was opened. */
int model_attach(struct model *m, struct store *s);
/* Its handles are closed; before store_close or store_abandon. */
void model_detach(struct model *m);

/*
 * One random operation: a write of some kind, punch, share, delete, flush, sync, read, collect, a
 * change of policy, moving to the policy's crypto domain, wiping, a snapshot, clone, rollback, deletion of a
 * snapshot.
 * Returns the store's error; the model knows what that means (an operation refused was not
 * acknowledged).  A wrong read aborts the test with what differs.
 */
int model_step(struct model *m);
/* Flushes or commits all of it. */
int model_sync(struct model *m);
/* Reads everything and compares with the last acknowledged state. */
void model_verify(struct model *m);
/* After a crash: each image is a prefix of its history that holds all that was flushed. */
int model_recovered(struct model *m);
const char *model_last_op(const struct model *m);

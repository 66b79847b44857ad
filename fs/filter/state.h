/*
 * state.h - private state of an image's stages: named values, kept with the image's content
 *
 * A value is a row RECORD_FILTER_STATE (owner: inode, id: link id << 16 | number).  While an image is
 * in use all its values are in RAM: stages get and put them there, also inside the gate, and the
 * collector puts those that changed as rows at the instant at which content is captured too.  So a
 * crash finds values and content of one instant.
 *
 * Threads: any; one lock inside, a state lock (fs/vfs/vfs.c): nothing is entered while it is held but
 * the namespace's own locks.
 */
#pragma once

#include "fs/datastore.h"

#define STATE_IMAGE_BYTES_MAX (64ull << 20) /* of all values of one image */
#define STATE_NAME_MAX        255u

struct state_table;

/* Reads an image's values.  -EUCLEAN: a row is no value. */
int state_load(struct ns *ns, uint64_t ino, struct state_table **ret_t) MUST_CHECK;
void state_free(struct state_table *t); /* accepts NULL */

/* As in struct stage_host (stage/stage.h). */
int state_get(struct state_table *t, uint64_t link, const char *name, void *buf, size_t cap,
        size_t *ret_len) MUST_CHECK;
/* -EFBIG: the value; -ENOSPC: all of the image's; -ENAMETOOLONG, -EINVAL: the name. */
int state_put(struct state_table *t, uint64_t link, const char *name, const void *data,
        size_t len) MUST_CHECK;

/* The values of a link become those that it has in another table, as if each were put.  -ENOMEM. */
int state_restore(struct state_table *t, struct state_table *from, uint64_t link) MUST_CHECK;

/*
 * Puts as rows what changed; inside the gate or with it closed.  txg: that collects now.  What was
 * put while the group before was open is put once more: that group may not be committed yet, and a
 * flush does not log what was put at its freeze.
 */
void state_collect(struct state_table *t, struct ns *ns, uint64_t txg);
/* Is anything left that a collect at this group would put, or that a group under way holds? */
bool state_unsettled(struct state_table *t, uint64_t txg);
/* Inside the gate: a link is gone, with its values. */
int state_drop(struct state_table *t, struct ns *ns, uint64_t link) MUST_CHECK;

/* One row's value.  Any bytes; name and data point into it.  -EUCLEAN. */
int state_row_decode(const void *value, size_t len, const char **ret_name, size_t *ret_name_len,
        const void **ret_data, size_t *ret_data_len) MUST_CHECK;

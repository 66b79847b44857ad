/*
 * activity.h - how much each segment has been read lately
 *
 * Two counters a segment, of chunks read by guests, that lose half of themselves in an hour and in a
 * day; and in which of the last eight windows of ten minutes it was read at all.  Placement (mover.c)
 * goes by them.  Who counts what, and what does not count (scans, the system's own reads), is said
 * where it is noted (read.c).
 *
 * Times are seconds of the wall clock, for what is kept over a restart; one that goes back stops the
 * clock here until it has caught up, and one that leaps ahead makes everything cold.
 *
 * Memory: 16 bytes a segment, in blocks of ACTIVITY_BLOCK consecutive ids, made when first noted.
 *
 * Threads: activity_note() from any, beside everything; the rest from one at a time.
 */
#pragma once

#include "base/compiler.h"

#define ACTIVITY_BLOCK    256u /* segments: ids [n * 256, n * 256 + 255] are block n */
#define ACTIVITY_WINDOW_S 600u
#define ACTIVITY_HOUR_S   3600u  /* half-life of the first counter */
#define ACTIVITY_DAY_S    86400u /* of the second */
#define ACTIVITY_BLOB_LEN (24u + ACTIVITY_BLOCK * 9u)

struct activity;

struct segment_activity {
	float hour, day; /* chunks */
	uint8_t windows; /* bit i: read in the i-th window before this one; bit 0: in this one */
};

int activity_new(uint64_t now_s, struct activity **ret_a) MUST_CHECK;
void activity_free(struct activity *a); /* accepts NULL */

/* A lock shared by all that note, and an atomic addition; forgets what there is no memory for. */
void activity_note(struct activity *a, uint64_t segment, unsigned chunks);
/* Brings everything up to now: at least every few minutes. */
void activity_tick(struct activity *a, uint64_t now_s);
/* As of the last tick; zeros for one never noted. */
void activity_get(struct activity *a, uint64_t segment, struct segment_activity *ret_sa);
/* The segment is gone. */
void activity_drop(struct activity *a, uint64_t segment);

/* --- keeping it --- */
/*
 * The next block above `after` (start with UINT64_MAX for the first) that changed since it was last
 * encoded: its number, and ACTIVITY_BLOB_LEN bytes.  *ret_empty: all of it is zero, it need not be
 * kept.  False: there is none.
 */
bool activity_encode_next(struct activity *a, uint64_t after, uint64_t *ret_block,
        uint8_t ret_blob[ACTIVITY_BLOB_LEN], bool *ret_empty);
/* The block could not be kept after all: it counts as changed. */
void activity_encode_again(struct activity *a, uint64_t block);
/* What was kept, aged to the last tick.  -EUCLEAN: not such bytes (nothing is taken).  -ENOMEM. */
int activity_load(struct activity *a, uint64_t block, const void *blob, size_t len) MUST_CHECK;

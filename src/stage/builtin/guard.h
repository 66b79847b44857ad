/*
 * guard.h - notices that a large part of an image is being overwritten with noise
 *
 * Counts chunks that held data which did not look random and are overwritten with data that does
 * (entropy.h): what a program does that encrypts an image in place, and what hardly anything else
 * does.  Compressed files that are written to free space, or over others, do not count; neither does
 * anything inside a guest that encrypts its disk anyway.
 *
 * Only one chunk of GUARD_SAMPLE is looked at, chosen by a hash with a secret start, so what is
 * looked at costs little and cannot be predicted.
 *
 * Threads: any; one lock.  Time is what the caller says.
 */
#pragma once

#include "base/compiler.h"

#define GUARD_CHUNK  4096u
#define GUARD_SAMPLE 16u /* one chunk of so many */
#define GUARD_STEPS  16u /* parts of a window */
#define GUARD_RECENT 4096u

struct guard_limits {
	double share;         /* of the image's data, 0..1 */
	uint64_t window_ns;   /* within which it counts */
	uint64_t least_bytes; /* less than this is never an alarm */
	unsigned pairs_max;   /* entropy_limit() of what counts as random */
};

struct guard;

int guard_new(uint64_t secret, const struct guard_limits *limits, struct guard **ret_g) MUST_CHECK;
void guard_free(struct guard *g); /* accepts NULL */
void guard_set(struct guard *g, const struct guard_limits *limits);

/* Is this chunk (number) one that is looked at? */
bool guard_samples(const struct guard *g, uint64_t chunk);
/* Does a whole chunk look random? */
bool guard_is_noise(struct guard *g, const void *data);
/*
 * A sampled chunk that was `before` (GUARD_CHUNK bytes) is overwritten with noise.  True: it counts,
 * that is, it was data, no noise, and not counted lately.
 */
bool guard_overwritten(struct guard *g, uint64_t chunk, const void *before, uint64_t now_ns);
/* Estimated bytes so overwritten within the window. */
uint64_t guard_bytes(struct guard *g, uint64_t now_ns);
/*
 * Is that too much of data_bytes?  True once, and again only when a whole window has passed: then
 * *ret_bytes were overwritten.  *ret_first: it is not the same incident as at the last alarm: it was
 * not too much at any time for a whole window.
 */
bool guard_alarm(struct guard *g, uint64_t data_bytes, uint64_t now_ns, uint64_t *ret_bytes,
        bool *ret_first);

struct guard_stats {
	uint64_t noise;     /* sampled chunks written that look random */
	uint64_t converted; /* of them, those that counted */
	uint64_t alarms;
};
void guard_stats_get(struct guard *g, struct guard_stats *ret_stats);

/*
 * bucket.h - a leaky bucket with bursts: how many units (operations, bytes) a second may pass
 *
 * What passes fills the bucket, time empties it at the rate; while it is over its brim, nothing may
 * pass.  So one large request passes at once and is paid for afterwards, and the long-term rate is
 * exact whatever the sizes.  With a burst, `burst` units a second may pass for `length`: the brim is
 * that high, and a second, small bucket that leaks at the burst rate keeps the pace meanwhile.
 * Source: the algorithm of QEMU's I/O throttling (docs/throttle.txt there).
 *
 * The caller locks.  Times are monotonic nanoseconds that the caller gives: a test runs without
 * sleeping.
 */
#pragma once

#include "base/compiler.h"

struct bucket {
	double rate;              /* units a second; 0: no limit */
	double burst;             /* units a second during a burst; 0: none */
	double length_s;          /* a burst may last so long */
	double level, fast_level; /* units in the bucket, and in the one that paces a burst */
	uint64_t at_ns;           /* levels are as of this moment */
	uint64_t taken;           /* units that passed, ever */
};

/* Changes the limits; what is in the bucket (the debt) stays. */
void bucket_set(struct bucket *b, uint64_t rate, uint64_t burst, uint64_t length_ns);
/* Nanoseconds from now on until something may pass; 0: now. */
uint64_t bucket_wait_ns(struct bucket *b, uint64_t now_ns);
void bucket_take(struct bucket *b, uint64_t now_ns, uint64_t units);

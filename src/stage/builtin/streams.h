/*
 * streams.h - which requests continue another: sequential runs, of many streams at a time
 *
 * A table of the offsets where recent requests ended.  A request continues another that ended where
 * it begins, or one or two requests of its own length before: with several requests in flight the
 * next but one may arrive first.  Three such in a row are a run, and sequential: two may meet by
 * chance, when a guest reads at random in a small area.  Reads and writes are streams of their own.
 *
 * Threads: from any, without a lock; racing requests may miss each other, which counts a run as two.
 */
#pragma once

#include <stdatomic.h>

#include "base/compiler.h"

#define STREAMS_SLOTS 256u /* 6 KiB; a power of two */
#define STREAMS_RUN   3u   /* requests in a row that are sequential */

struct streams {
	struct {
		_Atomic uint64_t end; /* offset x 2 + write; 0: empty */
		_Atomic uint64_t run; /* bytes of the run that ends there */
		_Atomic uint64_t n;   /* requests of it */
	} slots[STREAMS_SLOTS];
};

struct streams_note {
	unsigned joined;     /* requests that are now known to be sequential, this and earlier */
	uint64_t ended;      /* bytes of a run that is known to have ended, 0: none */
	bool ended_is_write; /* which kind it was */
};

/* One request; len above 0. */
struct streams_note streams_note(struct streams *s, uint64_t off, uint64_t len, bool is_write);
/* Calls fn for each run that may still go on. */
void streams_each(
        const struct streams *s, void (*fn)(void *arg, uint64_t run, bool is_write), void *arg);

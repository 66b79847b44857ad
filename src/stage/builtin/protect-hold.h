/*
 * protect-hold.h - changes that wait until a snapshot is taken
 *
 * From the alarm of a guard to the snapshot that the host takes because of it, the image's changes
 * are kept: so what is lost is what was under way, and not what a fast program writes in that
 * time.  The stage lets them go when it is quiesced, which the snapshot begins with, or after
 * PROTECT_HOLD_NS.
 *
 * Threads: any; one lock.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "stage/request.h"

#define PROTECT_HOLD_NS (5ull * 1000000000)

/* In the context of the request. */
struct held {
	struct request *req;
	struct held *next;
};

struct hold {
	_Atomic bool on;
	pthread_mutex_t lock; /* guards on's changes, and the list */
	struct held *first, **last;
};

void hold_init(struct hold *h);
void hold_destroy(struct hold *h); /* nothing is held */
void hold_begin(struct hold *h);
/* True: req is held; it may have been let go by now.  Hot: one load while it is off. */
bool hold_keep(struct hold *h, struct held *held, struct request *req);
/* Ends it: the list of those held, in order; they are to be resumed.  Read next before that. */
struct held *hold_end(struct hold *h);

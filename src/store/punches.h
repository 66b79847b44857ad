/*
 * punches.h - ranges of leaves that one group made holes or zeros
 *
 * A sorted array of disjoint ranges, in units of map leaves (1 MiB): what truncate and large
 * discards leave behind in the overlay.  Smaller holes are kept in the overlay's leaves themselves.
 * Not thread-safe; image.lock guards it.
 */
#pragma once

#include "store/chunk.h"

struct punch {
	uint64_t first, last; /* leaves [first, last) */
	bool zero;            /* allocated zeros, not a hole */
	bool logged;
};

struct punches {
	struct punch *v; /* owned */
	size_t n, cap;
};

/* Adds a range, not logged yet; what it overlaps is cut away. */
int punches_add(struct punches *ps, uint64_t first, uint64_t last, bool zero) MUST_CHECK;
/* The range that holds leaf, or NULL. */
const struct punch *punches_find(const struct punches *ps, uint64_t leaf);
void punches_clear(struct punches *ps);

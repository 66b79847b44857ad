/*
 * progress.h - one line on the terminal about work that takes longer than a second
 *
 * Only when stderr is a terminal; the line is wiped at the end, so it never mixes with results.
 */
#pragma once

#include "base/compiler.h"

enum progress_unit { PROGRESS_PARTS, PROGRESS_BYTES };

struct progress {
	const char *what; /* "checking segments"; not owned */
	enum progress_unit unit;
	uint64_t start_ns, shown_ns; /* shown_ns 0: nothing is on the terminal */
	bool on_terminal;
};

void progress_begin(struct progress *p, const char *what, enum progress_unit unit);
/* Has the shape of gc_progress_fn and control_progress_fn.  total 0: not known. */
void progress_update(void *progress, uint64_t done, uint64_t total);
void progress_end(struct progress *p);

/*
 * errmsg.h - one message for a person, filled by the control plane
 *
 * The data path carries -errno only; commands and mounting carry one of these beside it.  Form:
 * lower case, the problem first, the subject quoted, what to do next where it is known.
 */
#pragma once

#include "base/compiler.h"

#define ERRMSG_LEN 512

struct errmsg {
	char text[ERRMSG_LEN]; /* "" while nothing failed; always terminated */
};

/* Sets the text (unless em is NULL) and returns err, a negative errno, so callers can return it. */
int errmsg_set(struct errmsg *em, int err, const char *fmt, ...) PRINTF(3, 4);

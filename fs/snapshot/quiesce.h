/*
 * quiesce.h - guests whose file systems stand still around an instant
 *
 * The guests are frozen by their agents (agent.h) before anything of weir's is held, for freezing
 * writes to the very images; they are thawed as soon as the instant is fixed.  A thread of its own
 * has the sockets, and thaws whatever becomes of the snapshot: when it is told to, when that takes
 * longer than QUIESCE_HOLD_SECONDS, and when freezing did not work, for a freeze that is late may
 * still happen.
 *
 * What that cannot do: agents of Linux guests do not thaw by themselves, and if this process dies
 * in between, nobody is left to tell them to.  (Windows gives up a freeze after ten seconds.)
 */
#pragma once

#include <stdatomic.h>

#include "base/errmsg.h"

#define QUIESCE_AGENTS_MAX     64u
#define QUIESCE_FREEZE_SECONDS 30u /* all of them */
#define QUIESCE_HOLD_SECONDS   10u
#define QUIESCE_THAW_SECONDS   60u /* each; tried again and again */

/* Waits; for tests others than those above. */
struct quiesce_limits {
	uint64_t freeze_ns, hold_ns, thaw_ns;
};
extern const struct quiesce_limits quiesce_limits_default;

struct quiesce;
/*
 * Freezes the guests behind these sockets (copied), one after the other.  lenient: one that nobody
 * listens at is a guest that is off, and has nothing to freeze.  On failure all are thawed again, as
 * far as they answer, and em says where they do not.  May wait for long; holding nothing.
 */
int quiesce_begin(const char *const *sockets, size_t n, bool lenient,
        const struct quiesce_limits *limits, const _Atomic bool *cancel, struct quiesce **ret_q,
        struct errmsg *em) MUST_CHECK;
/* How many are frozen. */
unsigned quiesce_count(const struct quiesce *q);
/* Has nobody thawed them yet?  Any thread; does not wait. */
bool quiesce_holds(struct quiesce *q);
/* The instant is fixed: let them go on.  Any thread; does not wait. */
void quiesce_thaw(struct quiesce *q);
/*
 * Thaws them if need be, waits for that, frees.  0: all were frozen until they were thawed.  With em:
 * -ESTALE: one had thawed before; -ETIMEDOUT: one may still be frozen.  Accepts NULL.
 */
int quiesce_end(struct quiesce *q, struct errmsg *em) MUST_CHECK;

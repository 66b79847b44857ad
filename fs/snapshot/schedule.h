/*
 * schedule.h - snapshots that the daemon takes by itself: on time, and when a filter asks for one
 *
 * A *schedule* belongs to an image, a directory or the datastore, one each: every so often a
 * snapshot of it "auto-20261122T215510Z" (UTC) is taken, and those that no rule of its retention
 * wants (retention.h) are deleted, but for those that somebody holds.  Deleted are only snapshots
 * of this target that a schedule took and nobody renamed.  A schedule that is set again, or anew,
 * goes on with what an earlier one of the target took.
 *
 * Rows of an inode, which go with it: RECORD_FLAG
 *
 *	id 2  {every_ns, keep: "4h,7d,8w", quiesce, paused, set_ns}
 *	id 3  path of the Unix socket of the guest's agent (quiesce.h); of a directory: of the guest
 *	      that all images below have in common, but for those that say otherwise
 *
 * When the last one was taken is told by the snapshots themselves, so nothing can disagree.  What was
 * missed while the datastore was not mounted is made up for by one.  What fails is an alert in the
 * status, once, and tried again after half a minute, later after longer.
 *
 * Threads: any.
 */
#pragma once

#include <jansson.h>
#include <stdatomic.h>

#include "fs/filter/manager.h"
#include "fs/snapshot/retention.h"

#define SCHEDULE_FLAG 2u /* ids of rows RECORD_FLAG; 1 is of fs/filter/notice.h */
#define AGENT_FLAG    3u

#define SCHEDULE_EVERY_MIN_NS (60ull * 1000000000)
#define SCHEDULE_EVERY_MAX_NS (366ull * 86400 * 1000000000)

struct schedule {
	uint64_t ino;
	uint64_t every_ns;
	struct retention keep;
	bool quiesce, paused;
	uint64_t set_ns;
};

/* --- rows (schedule-rows.c) --- */
/* Any bytes.  -EUCLEAN. */
int schedule_decode(
        uint64_t ino, const void *value, size_t len, struct schedule *ret_sc) MUST_CHECK;
/* -ENOENT, -EUCLEAN. */
int schedule_get(struct ns *ns, uint64_t ino, struct schedule *ret_sc) MUST_CHECK;
/* Inside the gate. */
int schedule_put(struct ns *ns, const struct schedule *sc) MUST_CHECK;
/* "every 15m keep 4h,7d,8w, quiesced, paused": for the audit trail. */
void schedule_text(const struct schedule *sc, char *buf, size_t len);
/* Non-zero stops and is returned.  Damaged rows are passed over. */
typedef int schedule_fn(void *arg, const struct schedule *sc);
int schedules_each(struct ns *ns, schedule_fn *fn, void *arg) MUST_CHECK;
/* The socket of an inode's own row; owned by the caller.  -ENOENT. */
int agent_path_get(struct ns *ns, uint64_t ino, char **ret_path) MUST_CHECK;

struct agent_paths {
	char **items; /* owned; each once */
	size_t n, cap;
};
/* Adds the one that is meant for an image: its own, or of the nearest directory that has one. */
int agent_paths_add_image(struct ns *ns, uint64_t ino, struct agent_paths *paths) MUST_CHECK;
int agent_paths_add(struct agent_paths *paths, const char *path) MUST_CHECK;
void agent_paths_release(struct agent_paths *paths);

/* --- the thread (schedule.c) --- */
struct schedules;
int schedules_new(struct manager *m, struct schedules **ret_s, struct errmsg *em) MUST_CHECK;
int schedules_start(struct schedules *s, struct errmsg *em) MUST_CHECK;
/* Ends after what is under way; twice is once.  Accepts NULL. */
void schedules_stop(struct schedules *s);
void schedules_free(struct schedules *s); /* accepts NULL */
/* Set once we are ending: then guests are not waited for. */
const _Atomic bool *schedules_cancel(const struct schedules *s);
/* Rows have changed. */
void schedules_poke(struct schedules *s);
/*
 * A filter's alarm: a snapshot "TYPE-20261122T215510Z" of the image, soon; an alert names it, or says
 * why there is none.  False: none will be.  Does not wait; on I/O threads, too.
 */
bool schedules_alarm(struct schedules *s, uint64_t ino, const char *type);

struct schedule_state {
	uint64_t last_ns;         /* wall clock; 0: never, as far as is known */
	char failing[ERRMSG_LEN]; /* why the last try failed; "": it did not */
};
void schedules_state(struct schedules *s, uint64_t ino, struct schedule_state *ret_state);

/* For tests: instead of the thread, what is due at that time; returns how many were tried. */
unsigned schedules_run(struct schedules *s, uint64_t wall_ns);

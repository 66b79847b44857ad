/*
 * private.h - what the parts of the snapshots share; private to fs/snapshot
 *
 *	records.c    rows
 *	find.c       targets and names into snapshots
 *	capture.c    the rows of a snapshot, put at its instant; and taken away
 *	instant.c    an instant of images that may be open: stages told, guests held for as short as can be
 *	create.c, change.c, rollback.c, clone.c, diff.c, report.c, schedule-ops.c    the requests
 *	agent.c, quiesce.c    guests that stand still meanwhile
 *	retention.c, schedule-rows.c, schedule.c    snapshots that the daemon takes by itself
 *	view.c       snapshots for the view in the mount
 */
#pragma once

#include <stdatomic.h>

#include "fs/filter/manager-private.h"
#include "fs/snapshot/records.h"
#include "fs/snapshot/snapshots.h"

/* --- find.c --- */
/* "'s1' is no name of a snapshot: ..."; what: "snapshot", "holder". */
int snapshot_name_check(const char *name, struct errmsg *em) MUST_CHECK;
/* An image.  -EISDIR with em for what is none. */
int snapshot_target_image(
        struct ns *ns, const char *path, struct target *ret_t, struct errmsg *em) MUST_CHECK;
/*
 * The snapshot itself: that of this scope; of the datastore also one whose scope is gone.  -ENOENT
 * with em, which tells of one that the image is in and that has another scope.
 */
int snapshot_find(struct ns *ns, const char *target, const char *name, struct snapshot *ret_s,
        struct errmsg *em) MUST_CHECK;
/* An image in a snapshot of this name, whatever its scope.  -ENOENT with em. */
int snapshot_find_image(struct ns *ns, const struct target *t, const char *name,
        struct snapshot *ret_s, struct snapshot_image *ret_si, struct errmsg *em) MUST_CHECK;
/* -EUCLEAN and others, that are no -ENOENT, with em. */
int snapshot_read_failed(int r, struct errmsg *em);

struct quiesce; /* quiesce.h */

/* --- capture.c --- */
struct capture {
	struct manager *m;
	const struct filter_caller *who;
	const char *action; /* of the audit entry */
	struct snapshot
	        s; /* n_images of them; holders owned, json NULL; time_ns 0: the instant's */
	char target[FILTER_PATH_MAX];
	struct snapshot_ref *refs; /* owned; in order of inode */
	char **paths;              /* owned */
	const uint8_t *guid;       /* of one that was received: what it is called; else NULL */
};
/* Numbers, and paths of the images; inos sorted.  Outside the gate. */
int capture_init(struct capture *c, struct manager *m, const struct filter_caller *who,
        const struct target *t, const char *name, const uint64_t *inos, size_t n,
        struct errmsg *em) MUST_CHECK;
void capture_release(struct capture *c);
/* Gate closed, manager.record_lock held: all rows, and the audit entry. */
int capture_rows(struct capture *c) MUST_CHECK;

/* Rows ATTACHMENT and FILTER_STATE of one owner; read outside the gate, put inside. */
struct owned_row {
	enum record_table table;
	uint64_t id;
	void *value; /* owned */
	size_t len;
};
struct owned_rows {
	struct owned_row *items; /* owned */
	size_t n, cap;
};
/* Copies the value.  -ENOMEM. */
int owned_rows_add(struct owned_rows *rows, enum record_table table, uint64_t id, const void *value,
        size_t len) MUST_CHECK;
int owned_rows_read(
        struct ns *ns, uint64_t owner, enum record_table table, struct owned_rows *rows) MUST_CHECK;
/* What goes with the content: attachments, and the state that is about it (stage_state_of). */
int owned_rows_read_content(struct ns *ns, uint64_t owner, struct owned_rows *rows) MUST_CHECK;
/* Inside the gate. */
int owned_rows_put(struct ns *ns, uint64_t owner, const struct owned_rows *rows) MUST_CHECK;
int owned_rows_del(struct ns *ns, uint64_t owner, const struct owned_rows *rows) MUST_CHECK;
void owned_rows_release(struct owned_rows *rows);

/* --- instant.c --- */
/*
 * Runs work() on a thread of its own, with the requests of all those of n images that are open
 * drained and their stages told; they go on once instant_reached() is called in work(), or it ends.
 * Then waits for its end, and returns its result.  manager.lock held.
 */
struct instant;
typedef int instant_work_fn(void *arg, struct instant *in, struct errmsg *em);
int instant_run(struct manager *m, const uint64_t *inos, size_t n, enum stage_event_kind kind,
        instant_work_fn *work, void *arg, struct errmsg *em) MUST_CHECK;
/* In work(), on any thread: the guests may go on. */
void instant_reached(struct instant *in);

/* --- rollback.c --- */
/*
 * What an operation of the engine returned, or, of one whose commit failed, how that ends: it is repeated
 * once a second, for a time.
 */
int snapshot_commit_wait(struct store *s, int r) MUST_CHECK;
/* A name that is free for what the image is before something named `name` replaces it. */
int snapshot_before_name(struct ns *ns, const struct target *t, const char *name,
        char ret_name[SNAPSHOT_NAME_MAX + 1], struct errmsg *em) MUST_CHECK;

/* --- create.c --- */
/* Neither the scope nor one of these images (sorted) has a snapshot of that name.  -EEXIST. */
int snapshot_name_free(struct ns *ns, uint64_t scope, const char *name, const uint64_t *inos,
        size_t n, struct errmsg *em) MUST_CHECK;
/* None of them is being moved to another crypto domain.  -EBUSY. */
int snapshot_domains_settled(
        struct ns *ns, const uint64_t *inos, size_t n, struct errmsg *em) MUST_CHECK;
/* "PREFIX-20261122T215510Z", or with ".002" and so on behind it when that is taken. */
int snapshot_name_stamped(struct ns *ns, uint64_t scope, const char *prefix, uint64_t wall_ns,
        const uint64_t *inos, size_t n, char ret_name[SNAPSHOT_NAME_MAX + 1],
        struct errmsg *em) MUST_CHECK;
struct snapshot_making {
	const char *name;   /* NULL: */
	const char *prefix; /* and the time */
	enum snapshot_origin origin;
	uint64_t wall_ns;        /* its time; 0: now */
	struct quiesce *quiesce; /* frozen guests, thawed at the instant; may be NULL */
};
/* Takes manager.lock.  -ENOENT: there is no image in the directory. */
int snapshot_make(struct manager *m, const struct filter_caller *who, const struct target *t,
        const struct snapshot_making *mk, json_t **ret_json, struct errmsg *em) MUST_CHECK;
/* Freezes the guest of that agent; NULL: of those that are set for the images.  As quiesce_begin(). */
int snapshot_guests_freeze(struct manager *m, const struct target *t, const char *agent,
        bool lenient, const _Atomic bool *cancel, struct quiesce **ret_q,
        struct errmsg *em) MUST_CHECK;
/* "the disk is full" and so on, of what the engine returned. */
int snapshot_failed(const char *what, const char *target, int r, struct errmsg *em);

/* --- change.c --- */
/*
 * Takes manager.lock: deletes a snapshot by number, if it is still of that origin and scope and
 * nobody holds it; else -EBUSY.  -ENOENT: it is gone.
 */
int snapshot_expire(struct manager *m, uint64_t number, uint64_t scope, enum snapshot_origin origin,
        struct errmsg *em) MUST_CHECK;

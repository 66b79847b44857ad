/*
 * manager.h - the stacks of a datastore: what is attached where, changed live, remembered
 *
 * Owns the stage runtime, the pipelines of open images, jobs, keys and the audit trail's lock.  The
 * attachments of an inode are its *manifest* (manifest.h): a directory's are copied to what is
 * made in it, an image's are its stack.  Inode 1 is the datastore.
 *
 * A change (attach, detach, set) of an image: rules (stage/stack.h) -> rows in one gate section,
 * with the audit entry -> durable (store_sync) -> effective.  Of an image that is open, that happens
 * inside pipeline_change(), drained; the guest sees a pause of one commit at most.
 *
 * Threads: all functions from any thread; changes are serialized by one lock, taken before
 * everything of the vfs.
 */
#pragma once

#include <jansson.h>

#include "fs/datastore.h"
#include "fs/vfs/filters.h"
#include "meta/audit.h"

struct manager;

/* Who asks: from the control socket. */
struct filter_caller {
	uint32_t uid;
	int64_t pid;
};

int manager_new(
        struct datastore *ds, struct vfs *v, struct manager **ret_m, struct errmsg *em) MUST_CHECK;
/*
 * What drops names and attributes that the kernel caches, for what jobs do (fs/snapshot/snapshots.h).  It may be
 * called until manager_stop() returns.
 */
void manager_set_invalidate(
        struct manager *m, void (*fn)(void *arg, uint64_t ino, const char *name), void *arg);
/* Starts the jobs that a crash or unmount left.  After vfs_attach. */
int manager_start(struct manager *m, struct errmsg *em) MUST_CHECK;
/*
 * Ends jobs at their next step (they go on at the next mount), and all waits for them; changes still
 * work.  Before the control server is quiesced.  Accepts NULL.
 */
void manager_stop(struct manager *m);
/*
 * Records what stages said last; nothing is said after it.  After vfs_detach, before the datastore
 * is closed.  Accepts NULL.
 */
void manager_quiet(struct manager *m);
/* After the datastore is closed; no file is open.  Accepts NULL. */
void manager_free(struct manager *m);
struct vfs_filters manager_filters(struct manager *m);
/* store_hooks.policy, with the manager's namespace: reads manifests only. */
int manager_policy(void *ns, uint64_t image, struct image_policy *ret_policy);

/* --- what the control socket asks for; target: path in the mount, "" the datastore --- */
struct filter_change {
	const char *target,
	        *type; /* type: "throttle", or "throttle:7" (link id) where several are */
	const char *const *settings; /* "key=value" */
	unsigned n_settings;
	bool force, recursive, wait;
};
int manager_attach(struct manager *m, const struct filter_caller *who,
        const struct filter_change *c, gc_progress_fn *fn, void *arg, json_t **ret_json,
        struct errmsg *em) MUST_CHECK;
int manager_set(struct manager *m, const struct filter_caller *who, const struct filter_change *c,
        gc_progress_fn *fn, void *arg, json_t **ret_json, struct errmsg *em) MUST_CHECK;
int manager_detach(struct manager *m, const struct filter_caller *who,
        const struct filter_change *c, gc_progress_fn *fn, void *arg, json_t **ret_json,
        struct errmsg *em) MUST_CHECK;
int manager_action(struct manager *m, const struct filter_caller *who, const char *target,
        const char *type, const char *action, const char *const *args, unsigned n_args,
        json_t **ret_json, struct errmsg *em) MUST_CHECK;

int manager_policy_save(struct manager *m, const struct filter_caller *who, const char *name,
        const char *target, json_t **ret_json, struct errmsg *em) MUST_CHECK;
/* c->type is the policy's name. */
int manager_policy_apply(struct manager *m, const struct filter_caller *who,
        const struct filter_change *c, gc_progress_fn *fn, void *arg, json_t **ret_json,
        struct errmsg *em) MUST_CHECK;
int manager_policy_delete(struct manager *m, const struct filter_caller *who, const char *name,
        struct errmsg *em) MUST_CHECK;
int manager_quarantine_lift(struct manager *m, const struct filter_caller *who, const char *target,
        struct errmsg *em) MUST_CHECK;

/* filter-list and filter-cost of PROTOCOL.md; what needs no daemon is in report.h. */
int manager_list(
        struct manager *m, const char *target, json_t **ret_json, struct errmsg *em) MUST_CHECK;
int manager_cost(
        struct manager *m, const char *target, json_t **ret_json, struct errmsg *em) MUST_CHECK;
/* Adds alerts, quarantine, unopenable and jobs to a status. */
int manager_status(struct manager *m, json_t *status) MUST_CHECK;

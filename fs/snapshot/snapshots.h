/*
 * snapshots.h - what the control socket asks for: snapshots, rollback, clones, differences
 *
 * A target is a path in the mount, "" the datastore.  A snapshot is named by a target and a name: of
 * an image also one that was taken of a directory or of the datastore, for what changes nothing in
 * the other images.
 *
 * Changes are made one at a time, under the manager's lock, with an audit entry in the same
 * transaction.  Of an image that is open the stages get an event, with its requests drained; they
 * go on once the instant is fixed, before it is durable.
 *
 * Threads: any.
 */
#pragma once

#include <jansson.h>

#include "fs/filter/manager.h"

struct snapshot_request {
	const char *target;
	const char *name;       /* NULL where there need be none */
	const char *other;      /* clone: where to; diff: the other image */
	const char *other_name; /* rename: new name; diff: the other snapshot */
	const char *holder;     /* hold, release */
	const char *agent;      /* create, agent: path of a guest agent's socket */
	const char *action;     /* schedule, agent: "set", "pause", "resume", "remove" */
	const char *every;      /* schedule: a duration */
	const char *keep;       /* schedule: rules (retention.h) */
	bool quiesce;           /* create, schedule: with the guests frozen */
	bool quiesce_given;     /* schedule: else it stays as it was */
	bool force;             /* rollback: although the image is open */
	uint64_t from;          /* diff: offset to begin at */
};

/*
 * Drops what the kernel has in its caches of a file: content and attributes; name not NULL: of a
 * name in directory ino.  May wait for requests of the mount.
 */
typedef void snapshot_invalidate_fn(void *arg, uint64_t ino, const char *name);

int snapshots_create(struct manager *m, const struct filter_caller *who,
        const struct snapshot_request *rq, json_t **ret_json, struct errmsg *em) MUST_CHECK;
int snapshots_delete(struct manager *m, const struct filter_caller *who,
        const struct snapshot_request *rq, json_t **ret_json, struct errmsg *em) MUST_CHECK;
int snapshots_rename(struct manager *m, const struct filter_caller *who,
        const struct snapshot_request *rq, json_t **ret_json, struct errmsg *em) MUST_CHECK;
/* hold false: releases. */
int snapshots_hold(struct manager *m, const struct filter_caller *who,
        const struct snapshot_request *rq, bool hold, json_t **ret_json,
        struct errmsg *em) MUST_CHECK;
int snapshots_rollback(struct manager *m, const struct filter_caller *who,
        const struct snapshot_request *rq, snapshot_invalidate_fn *invalidate, void *arg,
        json_t **ret_json, struct errmsg *em) MUST_CHECK;
int snapshots_clone(struct manager *m, const struct filter_caller *who,
        const struct snapshot_request *rq, snapshot_invalidate_fn *invalidate, void *arg,
        json_t **ret_json, struct errmsg *em) MUST_CHECK;

/* Sets, pauses, resumes or removes the schedule of a target (schedule.h). */
int snapshots_schedule(struct manager *m, const struct filter_caller *who,
        const struct snapshot_request *rq, json_t **ret_json, struct errmsg *em) MUST_CHECK;
/* Sets or removes the socket of a guest's agent. */
int snapshots_agent(struct manager *m, const struct filter_caller *who,
        const struct snapshot_request *rq, json_t **ret_json, struct errmsg *em) MUST_CHECK;

/* --- without a daemon, too --- */
/* Schedules, or sockets of agents, of what is above, at and below a target; m may be NULL. */
int snapshots_schedules(struct datastore *ds, struct manager *m, const struct snapshot_request *rq,
        json_t **ret_json, struct errmsg *em) MUST_CHECK;
int snapshots_agents(struct datastore *ds, const struct snapshot_request *rq, json_t **ret_json,
        struct errmsg *em) MUST_CHECK;
int snapshots_list(struct datastore *ds, const struct snapshot_request *rq, gc_progress_fn *fn,
        void *arg, json_t **ret_json, struct errmsg *em) MUST_CHECK;
int snapshots_show(struct datastore *ds, const struct snapshot_request *rq, gc_progress_fn *fn,
        void *arg, json_t **ret_json, struct errmsg *em) MUST_CHECK;
/* At most DIFF_EXTENTS_MAX extents; "next": where to go on, null at the end. */
#define DIFF_EXTENTS_MAX (64u << 10)
int snapshots_diff(struct datastore *ds, const struct snapshot_request *rq, json_t **ret_json,
        struct errmsg *em) MUST_CHECK;

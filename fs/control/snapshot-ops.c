/*
 * snapshot-ops.c - the requests about snapshots, clones and differences
 */
#include <errno.h>

#include "fs/control/control.h"
#include "fs/snapshot/snapshots.h"

static struct snapshot_request request_of(const struct control_request *req)
{
	return (struct snapshot_request){
	        .target = req->target,
	        .name = req->name,
	        .other = req->other,
	        .other_name = req->other_name,
	        .holder = req->holder,
	        .agent = req->agent,
	        .action = req->action,
	        .every = req->every,
	        .keep = req->keep,
	        .quiesce = req->quiesce,
	        .quiesce_given = json_object_get(req->json, "quiesce") != NULL,
	        .force = req->force,
	        .from = req->offset,
	};
}

static int no_manager(struct errmsg *em)
{
	return errmsg_set(em, -EOPNOTSUPP, "this daemon has no snapshots");
}

static int run_create(struct control_context *ctx, const struct control_request *req,
        json_t **ret_json, struct errmsg *em)
{
	const struct snapshot_request rq = request_of(req);

	if (!ctx->manager)
		return no_manager(em);
	return snapshots_create(ctx->manager, &ctx->who, &rq, ret_json, em);
}

static int run_list(struct control_context *ctx, const struct control_request *req,
        json_t **ret_json, struct errmsg *em)
{
	const struct snapshot_request rq = request_of(req);

	return snapshots_list(ctx->ds, &rq, ctx->progress, ctx->arg, ret_json, em);
}

static int run_show(struct control_context *ctx, const struct control_request *req,
        json_t **ret_json, struct errmsg *em)
{
	const struct snapshot_request rq = request_of(req);

	return snapshots_show(ctx->ds, &rq, ctx->progress, ctx->arg, ret_json, em);
}

static int run_delete(struct control_context *ctx, const struct control_request *req,
        json_t **ret_json, struct errmsg *em)
{
	const struct snapshot_request rq = request_of(req);

	if (!ctx->manager)
		return no_manager(em);
	return snapshots_delete(ctx->manager, &ctx->who, &rq, ret_json, em);
}

static int run_rename(struct control_context *ctx, const struct control_request *req,
        json_t **ret_json, struct errmsg *em)
{
	const struct snapshot_request rq = request_of(req);

	if (!ctx->manager)
		return no_manager(em);
	return snapshots_rename(ctx->manager, &ctx->who, &rq, ret_json, em);
}

static int run_hold(struct control_context *ctx, const struct control_request *req,
        json_t **ret_json, struct errmsg *em)
{
	const struct snapshot_request rq = request_of(req);

	if (!ctx->manager)
		return no_manager(em);
	return snapshots_hold(ctx->manager, &ctx->who, &rq, true, ret_json, em);
}

static int run_release(struct control_context *ctx, const struct control_request *req,
        json_t **ret_json, struct errmsg *em)
{
	const struct snapshot_request rq = request_of(req);

	if (!ctx->manager)
		return no_manager(em);
	return snapshots_hold(ctx->manager, &ctx->who, &rq, false, ret_json, em);
}

static int run_schedule(struct control_context *ctx, const struct control_request *req,
        json_t **ret_json, struct errmsg *em)
{
	const struct snapshot_request rq = request_of(req);

	if (!ctx->manager)
		return no_manager(em);
	return snapshots_schedule(ctx->manager, &ctx->who, &rq, ret_json, em);
}

static int run_schedules(struct control_context *ctx, const struct control_request *req,
        json_t **ret_json, struct errmsg *em)
{
	const struct snapshot_request rq = request_of(req);

	return snapshots_schedules(ctx->ds, ctx->manager, &rq, ret_json, em);
}

static int run_agent(struct control_context *ctx, const struct control_request *req,
        json_t **ret_json, struct errmsg *em)
{
	const struct snapshot_request rq = request_of(req);

	if (!ctx->manager)
		return no_manager(em);
	return snapshots_agent(ctx->manager, &ctx->who, &rq, ret_json, em);
}

static int run_agents(struct control_context *ctx, const struct control_request *req,
        json_t **ret_json, struct errmsg *em)
{
	const struct snapshot_request rq = request_of(req);

	return snapshots_agents(ctx->ds, &rq, ret_json, em);
}

static int run_rollback(struct control_context *ctx, const struct control_request *req,
        json_t **ret_json, struct errmsg *em)
{
	const struct snapshot_request rq = request_of(req);

	if (!ctx->manager)
		return no_manager(em);
	return snapshots_rollback(
	        ctx->manager, &ctx->who, &rq, ctx->invalidate, ctx->arg, ret_json, em);
}

static int run_clone(struct control_context *ctx, const struct control_request *req,
        json_t **ret_json, struct errmsg *em)
{
	const struct snapshot_request rq = request_of(req);

	if (!ctx->manager)
		return no_manager(em);
	return snapshots_clone(
	        ctx->manager, &ctx->who, &rq, ctx->invalidate, ctx->arg, ret_json, em);
}

static int run_diff(struct control_context *ctx, const struct control_request *req,
        json_t **ret_json, struct errmsg *em)
{
	const struct snapshot_request rq = request_of(req);

	return snapshots_diff(ctx->ds, &rq, ret_json, em);
}

const struct control_op control_snapshot_ops[] = {
        {"snapshot-create", CONTROL_NEEDS_TARGET | CONTROL_NEEDS_NAME, run_create},
        {"snapshot-list", CONTROL_NEEDS_TARGET, run_list},
        {"snapshot-show", CONTROL_NEEDS_TARGET | CONTROL_NEEDS_NAME, run_show},
        {"snapshot-delete", CONTROL_NEEDS_TARGET | CONTROL_NEEDS_NAME, run_delete},
        {"snapshot-rename", CONTROL_NEEDS_TARGET | CONTROL_NEEDS_NAME | CONTROL_NEEDS_OTHER_NAME,
                run_rename},
        {"snapshot-hold", CONTROL_NEEDS_TARGET | CONTROL_NEEDS_NAME | CONTROL_NEEDS_HOLDER,
                run_hold},
        {"snapshot-release", CONTROL_NEEDS_TARGET | CONTROL_NEEDS_NAME | CONTROL_NEEDS_HOLDER,
                run_release},
        {"snapshot-schedule", CONTROL_NEEDS_TARGET | CONTROL_NEEDS_ACTION, run_schedule},
        {"snapshot-schedules", CONTROL_NEEDS_TARGET, run_schedules},
        {"snapshot-agent", CONTROL_NEEDS_TARGET | CONTROL_NEEDS_ACTION, run_agent},
        {"snapshot-agents", CONTROL_NEEDS_TARGET, run_agents},
        {"snapshot-rollback", CONTROL_NEEDS_TARGET | CONTROL_NEEDS_NAME, run_rollback},
        {"clone", CONTROL_NEEDS_TARGET | CONTROL_NEEDS_OTHER, run_clone},
        {"diff", CONTROL_NEEDS_TARGET | CONTROL_NEEDS_OTHER, run_diff},
        {0},
};

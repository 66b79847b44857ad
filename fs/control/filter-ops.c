/*
 * filter-ops.c - the requests about filters, policies, quarantine and the audit trail
 */
#include <errno.h>

#include "fs/control/control.h"
#include "fs/filter/report.h"

static int no_manager(struct errmsg *em)
{
	return errmsg_set(em, -EOPNOTSUPP, "this daemon has no filters");
}

static struct filter_change change_of(const struct control_request *req)
{
	return (struct filter_change){
	        .target = req->target,
	        .type = req->type ? req->type : req->name,
	        .settings = (const char *const *)req->settings.items,
	        .n_settings = (unsigned)req->settings.n,
	        .force = req->force,
	        .recursive = req->recursive,
	        .wait = req->wait,
	};
}

static int run_types(struct control_context *ctx, const struct control_request *req,
        json_t **ret_json, struct errmsg *em)
{
	return filter_report_types(ret_json, em);
}

static int run_list(struct control_context *ctx, const struct control_request *req,
        json_t **ret_json, struct errmsg *em)
{
	if (!ctx->manager)
		return filter_report_list(ctx->ds, req->target, ret_json, em);
	return manager_list(ctx->manager, req->target, ret_json, em);
}

static int run_cost(struct control_context *ctx, const struct control_request *req,
        json_t **ret_json, struct errmsg *em)
{
	if (!ctx->manager)
		return no_manager(em);
	return manager_cost(ctx->manager, req->target, ret_json, em);
}

static int run_attach(struct control_context *ctx, const struct control_request *req,
        json_t **ret_json, struct errmsg *em)
{
	const struct filter_change c = change_of(req);

	if (!ctx->manager)
		return no_manager(em);
	return manager_attach(ctx->manager, &ctx->who, &c, ctx->progress, ctx->arg, ret_json, em);
}

static int run_set(struct control_context *ctx, const struct control_request *req,
        json_t **ret_json, struct errmsg *em)
{
	const struct filter_change c = change_of(req);

	if (!ctx->manager)
		return no_manager(em);
	return manager_set(ctx->manager, &ctx->who, &c, ctx->progress, ctx->arg, ret_json, em);
}

static int run_detach(struct control_context *ctx, const struct control_request *req,
        json_t **ret_json, struct errmsg *em)
{
	const struct filter_change c = change_of(req);

	if (!ctx->manager)
		return no_manager(em);
	return manager_detach(ctx->manager, &ctx->who, &c, ctx->progress, ctx->arg, ret_json, em);
}

static int run_action(struct control_context *ctx, const struct control_request *req,
        json_t **ret_json, struct errmsg *em)
{
	if (!ctx->manager)
		return no_manager(em);
	return manager_action(ctx->manager, &ctx->who, req->target, req->type, req->action,
	        (const char *const *)req->args.items, (unsigned)req->args.n, ret_json, em);
}

static int run_policy_save(struct control_context *ctx, const struct control_request *req,
        json_t **ret_json, struct errmsg *em)
{
	if (!ctx->manager)
		return no_manager(em);
	return manager_policy_save(ctx->manager, &ctx->who, req->name, req->target, ret_json, em);
}

static int run_policy_apply(struct control_context *ctx, const struct control_request *req,
        json_t **ret_json, struct errmsg *em)
{
	struct filter_change c = change_of(req);

	if (!ctx->manager)
		return no_manager(em);
	c.type = req->name;
	return manager_policy_apply(
	        ctx->manager, &ctx->who, &c, ctx->progress, ctx->arg, ret_json, em);
}

static int run_policy_list(struct control_context *ctx, const struct control_request *req,
        json_t **ret_json, struct errmsg *em)
{
	return filter_report_policies(ctx->ds, ret_json, em);
}

static int run_policy_delete(struct control_context *ctx, const struct control_request *req,
        json_t **ret_json, struct errmsg *em)
{
	if (!ctx->manager)
		return no_manager(em);
	return manager_policy_delete(ctx->manager, &ctx->who, req->name, em);
}

static int run_audit(struct control_context *ctx, const struct control_request *req,
        json_t **ret_json, struct errmsg *em)
{
	return filter_report_audit(
	        ctx->ds, req->target ? req->target : "", req->verify, req->expect, ret_json, em);
}

static int run_quarantine_lift(struct control_context *ctx, const struct control_request *req,
        json_t **ret_json, struct errmsg *em)
{
	if (!ctx->manager)
		return no_manager(em);
	return manager_quarantine_lift(ctx->manager, &ctx->who, req->target, em);
}

const struct control_op control_filter_ops[] = {
        {"filter-types", 0, run_types},
        {"filter-list", CONTROL_NEEDS_TARGET, run_list},
        {"filter-cost", CONTROL_NEEDS_TARGET, run_cost},
        {"filter-attach", CONTROL_NEEDS_TARGET | CONTROL_NEEDS_TYPE, run_attach},
        {"filter-set", CONTROL_NEEDS_TARGET | CONTROL_NEEDS_TYPE, run_set},
        {"filter-detach", CONTROL_NEEDS_TARGET | CONTROL_NEEDS_TYPE, run_detach},
        {"filter-run", CONTROL_NEEDS_TARGET | CONTROL_NEEDS_TYPE | CONTROL_NEEDS_ACTION,
                run_action},
        {"policy-save", CONTROL_NEEDS_NAME | CONTROL_NEEDS_TARGET, run_policy_save},
        {"policy-apply", CONTROL_NEEDS_NAME | CONTROL_NEEDS_TARGET, run_policy_apply},
        {"policy-list", 0, run_policy_list},
        {"policy-delete", CONTROL_NEEDS_NAME, run_policy_delete},
        {"audit", 0, run_audit},
        {"quarantine-lift", CONTROL_NEEDS_TARGET, run_quarantine_lift},
        {0},
};

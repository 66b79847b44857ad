/*
 * receive-ops.c - the requests about streams that are received
 *
 * "receive" comes with descriptors: of the stream, and, if the sender is to get answers, of the way
 * back to it.
 */
#include <errno.h>

#include "fs/control/control.h"
#include "fs/stream/receive.h"

static int no_manager(struct errmsg *em)
{
	return errmsg_set(em, -EOPNOTSUPP, "this daemon receives no streams");
}

static int run_receive(struct control_context *ctx, const struct control_request *req,
        json_t **ret_json, struct errmsg *em)
{
	bool told = false;
	const struct receive_request rq = {
	        .target = req->target,
	        .force = req->force,
	        .properties = req->properties,
	        .in_fd = ctx->n_fds > 0 ? ctx->fds[0] : -1,
	        .back_fd = ctx->n_fds > 1 ? ctx->fds[1] : -1,
	        .cut_fd = ctx->cancel_fd,
	        .told = &told,
	};

	if (!ctx->manager)
		return no_manager(em);
	if (rq.in_fd < 0)
		return errmsg_set(em, -EBADMSG, "'receive' needs a descriptor of the stream");
	const int r = receive_run(ctx->manager, &ctx->who, &rq, ctx->invalidate, ctx->arg,
	        ctx->progress, ctx->arg, ret_json, em);
	return r < 0 && told ? -EREMOTEIO : r; /* it is said at the other end */
}

static int run_list(struct control_context *ctx, const struct control_request *req,
        json_t **ret_json, struct errmsg *em)
{
	return receive_list(ctx->ds, ctx->manager, ret_json, em);
}

static int run_abort(struct control_context *ctx, const struct control_request *req,
        json_t **ret_json, struct errmsg *em)
{
	return ctx->manager ? receive_abort(ctx->manager, &ctx->who, req->target, ret_json, em)
	                    : no_manager(em);
}

const struct control_op control_receive_ops[] = {
        {"receive", CONTROL_NEEDS_TARGET, run_receive},
        {"receive-list", 0, run_list},
        {"receive-abort", CONTROL_NEEDS_TARGET, run_abort},
        {0},
};

/*
 * stream-ops.c - the requests about streams: what goes through descriptors that come with the request
 */
#include <errno.h>

#include "fs/control/control.h"
#include "fs/stream/send.h"

static int run_send(struct control_context *ctx, const struct control_request *req,
        json_t **ret_json, struct errmsg *em)
{
	const struct send_request rq = {
	        .target = req->target,
	        .name = req->name,
	        .from = req->from,
	        .resume = req->token,
	        .raw = req->raw,
	        .dry_run = req->dry_run,
	};
	const struct send_io io = {
	        .out_fd = ctx->n_fds > 0 ? ctx->fds[0] : -1,
	        .in_fd = ctx->n_fds > 1 ? ctx->fds[1] : -1,
	        .cancel_fd = ctx->cancel_fd,
	};

	if (!req->dry_run && ctx->n_fds == 0)
		return errmsg_set(em, -EBADMSG, "'send' needs a descriptor to write to");
	return stream_send(ctx->ds, &rq, &io, ctx->progress, ctx->arg, ret_json, em);
}

const struct control_op control_stream_ops[] = {
        {"send", CONTROL_NEEDS_TARGET | CONTROL_NEEDS_NAME, run_send},
        {0},
};

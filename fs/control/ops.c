/*
 * ops.c - the requests about a datastore as a whole
 */
#include <errno.h>

#include "fs/control/control.h"
#include "fs/control/report.h"

static int run_status(struct control_context *ctx, const struct control_request *req,
        json_t **ret_json, struct errmsg *em)
{
	json_t *json;
	int r = report_status(ctx->ds, ctx->mountpoint, &json, em);

	if (!r && ctx->manager) {
		r = manager_status(ctx->manager, json);
		if (!r)
			r = report_receiving(ctx->ds, ctx->manager, json, em);
		if (r < 0)
			json_decref(json);
	}
	if (!r)
		*ret_json = json;
	return r;
}

static int run_stats(struct control_context *ctx, const struct control_request *req,
        json_t **ret_json, struct errmsg *em)
{
	return report_stats(ctx->ds, (const char *const *)req->images.items, req->images.n,
	        ctx->progress, ctx->arg, ret_json, em);
}

static int run_images(struct control_context *ctx, const struct control_request *req,
        json_t **ret_json, struct errmsg *em)
{
	return report_images(ctx->ds, ctx->progress, ctx->arg, ret_json, em);
}

static int run_gc(struct control_context *ctx, const struct control_request *req, json_t **ret_json,
        struct errmsg *em)
{
	struct gc_report g = {0};
	const int r = store_gc(ctx->ds->store, req->full, ctx->progress, ctx->arg, &g);

	if (r < 0)
		return r;
	*ret_json = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "segments_freed",
	        (json_int_t)g.segments_freed, "segments_rewritten",
	        (json_int_t)g.segments_rewritten, "freed_bytes", (json_int_t)g.freed_bytes,
	        "rewritten_bytes", (json_int_t)g.rewritten_bytes, "live_chunks",
	        (json_int_t)g.live_chunks, "dead_chunks", (json_int_t)g.dead_chunks, "nodes_freed",
	        (json_int_t)g.nodes_freed);
	return *ret_json ? 0 : -ENOMEM;
}

static int run_sync(struct control_context *ctx, const struct control_request *req,
        json_t **ret_json, struct errmsg *em)
{
	return store_sync(ctx->ds->store);
}

static int run_umount(struct control_context *ctx, const struct control_request *req,
        json_t **ret_json, struct errmsg *em)
{
	return ctx->umount(ctx->arg, req->lazy, em);
}

const struct control_op control_ops[] = {
        {"status", 0, run_status},
        {"stats", 0, run_stats},
        {"images", 0, run_images},
        {"gc", 0, run_gc},
        {"sync", 0, run_sync},
        {"umount", 0, run_umount},
        {0},
};

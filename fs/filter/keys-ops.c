/*
 * keys-ops.c - the requests of the control socket about keys
 *
 * Each takes the secrets out of the request, calls one operation, and wipes them.
 */
#include <errno.h>
#include <string.h>

#include "fs/control/control.h"
#include "fs/filter/keys-private.h"
#include "fs/stream/raw-stream.h"
#include "fs/filter/manager-private.h"

static int keys_of(const struct control_context *ctx, struct keys **ret_k, struct errmsg *em)
{
	if (!ctx->manager || !ctx->manager->keys)
		return errmsg_set(em, -EOPNOTSUPP, "this daemon has no keys");
	*ret_k = ctx->manager->keys;
	return 0;
}

/* The operation of a request with its first secret. */
typedef int secret_op(struct keys *k, struct control_context *ctx,
        const struct control_request *req, const struct secret *s, json_t **ret_json,
        struct errmsg *em);

static int with_secret(struct control_context *ctx, const struct control_request *req,
        secret_op *op, json_t **ret_json, struct errmsg *em)
{
	struct secret s = {0};
	struct keys *k = NULL;
	int r = keys_of(ctx, &k, em);

	if (r == 0)
		r = secret_parse(req->kind, req->secret, &s, em);
	if (r < 0)
		return r;
	r = op(k, ctx, req, &s, ret_json, em);
	secret_release(&s);
	return r;
}

static int op_create(struct keys *k, struct control_context *ctx, const struct control_request *req,
        const struct secret *s, json_t **ret_json, struct errmsg *em)
{
	return key_create(k, &ctx->who, req->name, s, ret_json, em);
}

static int op_unlock(struct keys *k, struct control_context *ctx, const struct control_request *req,
        const struct secret *s, json_t **ret_json, struct errmsg *em)
{
	return key_unlock(k, &ctx->who, req->name, s, ret_json, em);
}

static int op_add(struct keys *k, struct control_context *ctx, const struct control_request *req,
        const struct secret *s, json_t **ret_json, struct errmsg *em)
{
	struct secret with = {0};

	if (!strcmp(req->new_kind, "recovery"))
		return key_add(k, &ctx->who, req->name, s, NULL, ret_json, em);
	int r = secret_parse(req->new_kind, req->new_secret, &with, em);
	if (r < 0)
		return r;
	r = key_add(k, &ctx->who, req->name, s, &with, ret_json, em);
	secret_release(&with);
	return r;
}

static int op_rotate(struct keys *k, struct control_context *ctx, const struct control_request *req,
        const struct secret *s, json_t **ret_json, struct errmsg *em)
{
	struct secret all[KEYS_SLOTS_MAX] = {*s};
	unsigned n = 1;
	int r = 0;

	if (req->kinds.n != req->secrets.n || req->secrets.n >= KEYS_SLOTS_MAX)
		return errmsg_set(em, -EINVAL, "there are at most %u secrets, each of a kind",
		        KEYS_SLOTS_MAX);
	for (; r == 0 && n <= req->secrets.n; n++)
		r = secret_parse(req->kinds.items[n - 1], req->secrets.items[n - 1], &all[n], em);
	if (r == 0)
		r = key_rotate(k, &ctx->who, req->name, all, n, req->wait, ctx->progress, ctx->arg,
		        ret_json, em);
	while (n-- > 1)
		secret_release(&all[n]);
	return r;
}

static int run_create(struct control_context *ctx, const struct control_request *req,
        json_t **ret_json, struct errmsg *em)
{
	return with_secret(ctx, req, op_create, ret_json, em);
}

static int run_unlock(struct control_context *ctx, const struct control_request *req,
        json_t **ret_json, struct errmsg *em)
{
	struct manager *m = ctx->manager;
	unsigned before = 0, opening = 0; /* small ones may be open at once */
	int r = m ? raw_opening(m, req->name, false, NULL, NULL, &before, em) : 0;

	if (r == 0)
		r = with_secret(ctx, req, op_unlock, ret_json, em);
	if (r == 0 && m)
		r = raw_opening(m, req->name, req->wait, ctx->progress, ctx->arg, &opening, em);
	opening = MAX(before, opening);
	if (r < 0) {
		json_decref(*ret_json);
		*ret_json = NULL;
	} else if (json_object_set_new(*ret_json, "opening", json_integer(opening)) < 0) {
		r = -ENOMEM;
	}
	return r;
}

static int run_add(struct control_context *ctx, const struct control_request *req,
        json_t **ret_json, struct errmsg *em)
{
	return with_secret(ctx, req, op_add, ret_json, em);
}

static int run_rotate(struct control_context *ctx, const struct control_request *req,
        json_t **ret_json, struct errmsg *em)
{
	return with_secret(ctx, req, op_rotate, ret_json, em);
}

static int run_lock(struct control_context *ctx, const struct control_request *req,
        json_t **ret_json, struct errmsg *em)
{
	struct keys *k = NULL;
	const int r = keys_of(ctx, &k, em);

	return r < 0 ? r : key_lock(k, &ctx->who, req->name, ret_json, em);
}

static int run_remove(struct control_context *ctx, const struct control_request *req,
        json_t **ret_json, struct errmsg *em)
{
	struct keys *k = NULL;
	const int r = keys_of(ctx, &k, em);

	(void)ret_json;
	return r < 0 ? r : key_remove(k, &ctx->who, req->name, req->slot, em);
}

static int run_delete(struct control_context *ctx, const struct control_request *req,
        json_t **ret_json, struct errmsg *em)
{
	struct keys *k = NULL;
	const int r = keys_of(ctx, &k, em);

	(void)ret_json;
	return r < 0 ? r : key_delete(k, &ctx->who, req->name, em);
}

static int run_list(struct control_context *ctx, const struct control_request *req,
        json_t **ret_json, struct errmsg *em)
{
	struct keys *k = NULL;
	const int r = keys_of(ctx, &k, em);

	(void)req;
	return r < 0 ? r : keys_json(ctx->ds->ns, k, ret_json);
}

const struct control_op keys_ops[] = {
        {"key-list", 0, run_list},
        {"key-create", CONTROL_NEEDS_NAME | CONTROL_NEEDS_KIND, run_create},
        {"key-unlock", CONTROL_NEEDS_NAME | CONTROL_NEEDS_KIND, run_unlock},
        {"key-lock", CONTROL_NEEDS_NAME, run_lock},
        {"key-add", CONTROL_NEEDS_NAME | CONTROL_NEEDS_KIND | CONTROL_NEEDS_NEW_KIND, run_add},
        {"key-remove", CONTROL_NEEDS_NAME | CONTROL_NEEDS_SLOT, run_remove},
        {"key-rotate", CONTROL_NEEDS_NAME | CONTROL_NEEDS_KIND, run_rotate},
        {"key-delete", CONTROL_NEEDS_NAME, run_delete},
        {0},
};

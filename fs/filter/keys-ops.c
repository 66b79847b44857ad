/*
 * keys-ops.c - the requests about keys, and the list of them
 *
 * Each takes the secrets out of the request, calls one operation, and wipes them.
 */
#include <errno.h>
#include <string.h>

#include "fs/control/control.h"
#include "fs/filter/keys-private.h"
#include "fs/filter/manager-private.h"

/* --- the list --- */

static json_t *slots_json(const struct key_slots *list)
{
	json_t *json = json_array();

	for (unsigned i = 0; i < list->n; i++)
		json_array_append_new(
		        json, json_pack("{s:i, s:s}", "slot", (int)list->slots[i].slot, "kind",
		                      keyslot_kind_name(list->slots[i].kind)));
	return json;
}

static json_t *from_json(const struct named_key *key)
{
	json_t *json = json_array();

	for (unsigned d = 1; d < key->n_domains; d++)
		json_array_append_new(json, json_integer(key->domains[d].id));
	return json;
}

struct listing {
	struct ns *ns;
	struct keys *k; /* or NULL */
	json_t *list;
};

static int count_images(struct listing *l, const struct named_key *key, unsigned *ret_images)
{
	struct keys bare = {.env = {.ns = l->ns}}; /* what keys_uses looks at */
	unsigned images = 0;

	for (unsigned d = 0; d < key->n_domains; d++) {
		struct key_uses u = {0};
		const int r = keys_uses(&bare, key, key->domains[d].id, &u);
		if (r < 0)
			return r;
		images += u.images;
	}
	*ret_images = images;
	return 0;
}

static int list_one(void *arg, uint64_t owner, uint64_t id, const void *value, size_t len)
{
	struct listing *l = arg;
	struct named_key key = {.number = id}, known;
	struct key_slots slots = {0};
	unsigned images = 0;

	(void)owner;
	if (key_decode(value, len, &key) < 0)
		return 0; /* said when the keys were read */
	if (l->k && keys_find_domain(l->k, key.domains[0].id, &known) == 0)
		key = known;
	int r = slots_list(l->ns, key.domains[0].id, &slots);
	if (r == 0)
		r = count_images(l, &key, &images);
	if (r < 0)
		return r;
	const bool unlocked = key.domains[0].unlocked;
	const char *state = !unlocked ? "locked" : key.n_domains > 1 ? "rotating" : "unlocked";
	json_t *json = json_pack("{s:s, s:I, s:b, s:s, s:i, s:o, s:o, s:I}", "name", key.name,
	        "domain", (json_int_t)key.domains[0].id, "unlocked", unlocked, "state", state,
	        "images", (int)images, "slots", slots_json(&slots), "rotating_from",
	        from_json(&key), "created_ns", (json_int_t)key.created_ns);
	return json_array_append_new(l->list, json) < 0 ? -ENOMEM : 0;
}

int keys_json(struct ns *ns, struct keys *k, json_t **ret_json)
{
	struct listing l = {ns, k, json_array()};
	const int r = ns_record_each(ns, RECORD_KEY, 0, 0, list_one, &l);

	if (r < 0) {
		json_decref(l.list);
		return r;
	}
	*ret_json = json_pack("{s:o}", "keys", l.list);
	return *ret_json ? 0 : -ENOMEM;
}

int keys_report(struct ns *ns, json_t **ret_json)
{
	return keys_json(ns, NULL, ret_json);
}

/* --- the requests --- */

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
	return key_rotate(
	        k, &ctx->who, req->name, s, req->wait, ctx->progress, ctx->arg, ret_json, em);
}

static int run_create(struct control_context *ctx, const struct control_request *req,
        json_t **ret_json, struct errmsg *em)
{
	return with_secret(ctx, req, op_create, ret_json, em);
}

static int run_unlock(struct control_context *ctx, const struct control_request *req,
        json_t **ret_json, struct errmsg *em)
{
	return with_secret(ctx, req, op_unlock, ret_json, em);
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

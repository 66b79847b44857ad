/*
 * request.c - a client's line into a request
 *
 * The socket answers only its own user and root, but what arrives is still checked as if from a
 * stranger: size, types, and no strings with bytes that C would cut off.  One table says what each
 * field is; an op says which of them it cannot do without.
 *
 * Secrets come as texts.  They are overwritten where they are kept, once the request is done; so
 * that parsing leaves no copy either, the JSON library frees through wipe.c.
 */
#include "fs/control/control.h"

#include <errno.h>
#include <string.h>

enum field_kind { FIELD_TEXT, FIELD_TEXTS, FIELD_FLAG, FIELD_NUMBER };

struct field {
	const char *name;
	enum field_kind kind;
	size_t at; /* offset in struct control_request */
	unsigned need;
};

#define AT(member) offsetof(struct control_request, member)

static const struct field fields[] = {
        {"target", FIELD_TEXT, AT(target), CONTROL_NEEDS_TARGET},
        {"type", FIELD_TEXT, AT(type), CONTROL_NEEDS_TYPE},
        {"action", FIELD_TEXT, AT(action), CONTROL_NEEDS_ACTION},
        {"name", FIELD_TEXT, AT(name), CONTROL_NEEDS_NAME},
        {"expect", FIELD_TEXT, AT(expect)},
        {"kind", FIELD_TEXT, AT(kind), CONTROL_NEEDS_KIND},
        {"secret", FIELD_TEXT, AT(secret), CONTROL_NEEDS_KIND},
        {"new_kind", FIELD_TEXT, AT(new_kind), CONTROL_NEEDS_NEW_KIND},
        {"new_secret", FIELD_TEXT, AT(new_secret)},
        {"other", FIELD_TEXT, AT(other), CONTROL_NEEDS_OTHER},
        {"other_name", FIELD_TEXT, AT(other_name), CONTROL_NEEDS_OTHER_NAME},
        {"holder", FIELD_TEXT, AT(holder), CONTROL_NEEDS_HOLDER},
        {"agent", FIELD_TEXT, AT(agent)},
        {"every", FIELD_TEXT, AT(every)},
        {"keep", FIELD_TEXT, AT(keep)},
        {"from", FIELD_TEXT, AT(from)},
        {"token", FIELD_TEXT, AT(token)},
        {"images", FIELD_TEXTS, AT(images)},
        {"settings", FIELD_TEXTS, AT(settings)},
        {"args", FIELD_TEXTS, AT(args)},
        {"kinds", FIELD_TEXTS, AT(kinds)},
        {"secrets", FIELD_TEXTS, AT(secrets)},
        {"full", FIELD_FLAG, AT(full)},
        {"lazy", FIELD_FLAG, AT(lazy)},
        {"force", FIELD_FLAG, AT(force)},
        {"recursive", FIELD_FLAG, AT(recursive)},
        {"wait", FIELD_FLAG, AT(wait)},
        {"verify", FIELD_FLAG, AT(verify)},
        {"quiesce", FIELD_FLAG, AT(quiesce)},
        {"properties", FIELD_FLAG, AT(properties)},
        {"dry_run", FIELD_FLAG, AT(dry_run)},
        {"raw", FIELD_FLAG, AT(raw)},
        {"slot", FIELD_NUMBER, AT(slot), CONTROL_NEEDS_SLOT},
        {"offset", FIELD_NUMBER, AT(offset)},
};

static void text_wipe(const json_t *value)
{
	/* The library gives its own buffer; nobody reads it after this. */
	if (json_is_string(value))
		explicit_bzero(
		        (void *)(uintptr_t)json_string_value(value), json_string_length(value));
}

void control_request_release(struct control_request *req)
{
	const json_t *more = json_object_get(req->json, "secrets");

	text_wipe(json_object_get(req->json, "secret"));
	text_wipe(json_object_get(req->json, "new_secret"));
	for (size_t i = 0; i < json_array_size(more); i++)
		text_wipe(json_array_get(more, i));
	free(req->images.items);
	free(req->settings.items);
	free(req->args.items);
	free(req->kinds.items);
	free(req->secrets.items);
	json_decref(req->json);
	*req = (struct control_request){0};
}

static const struct control_op *op_in(const struct control_op *table, const char *name)
{
	for (; table->name; table++)
		if (!strcmp(table->name, name))
			return table;
	return NULL;
}

static int op_find(const json_t *name, const struct control_op **ret_op, struct errmsg *em)
{
	const struct control_op *const tables[] = {control_ops, control_filter_ops,
	        control_snapshot_ops, control_stream_ops, control_receive_ops, keys_ops};
	const struct control_op *op = NULL;

	if (!json_is_string(name))
		return errmsg_set(em, -EBADMSG, "request without 'op'");
	for (unsigned i = 0; i < ARRAY_SIZE(tables) && !op; i++)
		op = op_in(tables[i], json_string_value(name));
	if (!op)
		return errmsg_set(em, -EBADMSG, "unknown op '%.64s'", json_string_value(name));
	*ret_op = op;
	return 0;
}

static int texts_take(
        struct control_texts *texts, const char *name, const json_t *list, struct errmsg *em)
{
	const size_t n = json_array_size(list);

	if (!json_is_array(list) || n > CONTROL_LIST_MAX)
		return errmsg_set(em, -EBADMSG, "'%s' must be a list of at most %u texts", name,
		        CONTROL_LIST_MAX);
	texts->items = calloc(n + 1, sizeof(*texts->items));
	if (!texts->items)
		return errmsg_set(em, -ENOMEM, "out of memory");
	for (size_t i = 0; i < n; i++) {
		texts->items[i] = json_string_value(json_array_get(list, i));
		if (!texts->items[i])
			return errmsg_set(em, -EBADMSG, "'%s' must be a list of texts", name);
	}
	texts->n = n;
	return 0;
}

static int number_take(struct control_request *req, uint64_t *number, const json_t *value,
        const char *name, struct errmsg *em)
{
	if (!json_is_integer(value) || json_integer_value(value) < 0)
		return errmsg_set(em, -EBADMSG, "'%s' must be a number", name);
	*number = (uint64_t)json_integer_value(value);
	req->slot_given = req->slot_given || number == &req->slot;
	return 0;
}

static int field_take(
        struct control_request *req, const struct field *f, const json_t *value, struct errmsg *em)
{
	void *to = (char *)req + f->at;

	switch (f->kind) {
	case FIELD_TEXT:
		if (!json_is_string(value))
			return errmsg_set(em, -EBADMSG, "'%s' must be a text", f->name);
		*(const char **)to = json_string_value(value);
		return 0;
	case FIELD_TEXTS:
		return texts_take(to, f->name, value, em);
	case FIELD_FLAG:
		if (!json_is_boolean(value))
			return errmsg_set(em, -EBADMSG, "'%s' must be true or false", f->name);
		*(bool *)to = json_is_true(value);
		return 0;
	case FIELD_NUMBER:
		return number_take(req, to, value, f->name, em);
	}
	return -EBADMSG;
}

static int fields_take(struct control_request *req, struct errmsg *em)
{
	int r = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(fields) && !r; i++) {
		const struct field *f = &fields[i];
		const json_t *value = json_object_get(req->json, f->name);
		if (value)
			r = field_take(req, f, value, em);
		else if (f->need & req->op->needs)
			r = errmsg_set(em, -EBADMSG, "'%s' needs '%s'", req->op->name, f->name);
	}
	return r;
}

int control_request_parse(
        const char *line, size_t len, struct control_request *ret_req, struct errmsg *em)
{
	struct control_request req = {.full = true};
	json_error_t error;
	int r;

	if (len > CONTROL_LINE_MAX)
		return errmsg_set(em, -EBADMSG, "request is too long");
	/* Without JSON_ALLOW_NUL, a string with a zero byte in it is an error. */
	req.json = json_loadb(line, len, JSON_REJECT_DUPLICATES, &error);
	if (!json_is_object(req.json)) {
		r = errmsg_set(em, -EBADMSG, "request is no JSON object: %s",
		        req.json ? "another type" : error.text);
		control_request_release(&req);
		return r;
	}
	r = op_find(json_object_get(req.json, "op"), &req.op, em);
	if (!r)
		r = fields_take(&req, em);
	if (r < 0)
		control_request_release(&req);
	else
		*ret_req = req;
	return r;
}

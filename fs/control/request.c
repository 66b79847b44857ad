/*
 * request.c - a client's line into a request
 *
 * The socket answers only its own user and root, but what arrives is still checked as if from a
 * stranger: size, types, and no strings with bytes that C would cut off.
 */
#include "fs/control/control.h"

#include <errno.h>
#include <string.h>

#define IMAGES_MAX 4096u

static const char *const op_names[] = {
        [CONTROL_STATUS] = "status",
        [CONTROL_STATS] = "stats",
        [CONTROL_IMAGES] = "images",
        [CONTROL_GC] = "gc",
        [CONTROL_SYNC] = "sync",
        [CONTROL_UMOUNT] = "umount",
};

void control_request_release(struct control_request *req)
{
	free(req->images);
	json_decref(req->json);
	*req = (struct control_request){0};
}

static int op_find(const json_t *name, enum control_op *ret_op, struct errmsg *em)
{
	if (!json_is_string(name))
		return errmsg_set(em, -EBADMSG, "request without 'op'");
	for (unsigned i = 0; i < ARRAY_SIZE(op_names); i++) {
		if (!strcmp(json_string_value(name), op_names[i])) {
			*ret_op = (enum control_op)i;
			return 0;
		}
	}
	return errmsg_set(em, -EBADMSG, "unknown op '%.64s'", json_string_value(name));
}

static int images_take(struct control_request *req, const json_t *list, struct errmsg *em)
{
	const size_t n = json_array_size(list);

	if (!list)
		return 0;
	if (!json_is_array(list) || n > IMAGES_MAX)
		return errmsg_set(
		        em, -EBADMSG, "'images' must be a list of at most %u paths", IMAGES_MAX);
	req->images = calloc(n + 1, sizeof(*req->images));
	if (!req->images)
		return errmsg_set(em, -ENOMEM, "out of memory");
	for (size_t i = 0; i < n; i++) {
		req->images[i] = json_string_value(json_array_get(list, i));
		if (!req->images[i])
			return errmsg_set(em, -EBADMSG, "'images' must be a list of paths");
	}
	req->n_images = n;
	return 0;
}

static int flag_take(const json_t *json, const char *name, bool *flag, struct errmsg *em)
{
	const json_t *value = json_object_get(json, name);

	if (!value)
		return 0;
	if (!json_is_boolean(value))
		return errmsg_set(em, -EBADMSG, "'%s' must be true or false", name);
	*flag = json_is_true(value);
	return 0;
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
		r = images_take(&req, json_object_get(req.json, "images"), em);
	if (!r)
		r = flag_take(req.json, "full", &req.full, em);
	if (!r)
		r = flag_take(req.json, "lazy", &req.lazy, em);
	if (r < 0)
		control_request_release(&req);
	else
		*ret_req = req;
	return r;
}

/*
 * receive-record.c - what a hidden image is to become, as a row
 *
 * {"guid", "guid_from", "snapshot", "size", "position", "started_ns", "dir", "name" (base64: a name is
 * bytes), "image"}.  Inode numbers, not paths: what is renamed meanwhile stays what was meant.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fs/control/base64.h"
#include "fs/stream/receive-private.h"

static json_t *guid_json(const uint8_t guid[STREAM_GUID_LEN])
{
	char text[2 * STREAM_GUID_LEN + 1];

	for (unsigned i = 0; i < STREAM_GUID_LEN; i++)
		snprintf(text + (size_t)2 * i, 3, "%02x", guid[i]);
	return json_string(text);
}

static bool guid_take(const json_t *json, const char *key, uint8_t ret_guid[STREAM_GUID_LEN])
{
	const char *text = json_string_value(json_object_get(json, key));

	if (!text || strlen(text) != 2 * STREAM_GUID_LEN ||
	        strspn(text, "0123456789abcdef") != 2 * STREAM_GUID_LEN)
		return false;
	for (unsigned i = 0; i < STREAM_GUID_LEN; i++)
		sscanf(text + (size_t)2 * i, "%2hhx", &ret_guid[i]);
	return true;
}

char *receive_record_encode(const struct receive_record *rec)
{
	CLEANUP(free_ptr) char *name = base64_encode(rec->name, strlen(rec->name));
	json_t *json = json_pack("{s:o, s:o, s:s, s:I, s:I, s:I, s:I, s:s, s:I}", "guid",
	        guid_json(rec->guid), "guid_from", guid_json(rec->guid_from), "snapshot",
	        rec->snapshot, "size", (json_int_t)rec->size, "position", (json_int_t)rec->pos,
	        "started_ns", (json_int_t)rec->started_ns, "dir", (json_int_t)rec->dir, "name",
	        name ? name : "", "image", (json_int_t)rec->image);
	char *text = name && json ? json_dumps(json, JSON_COMPACT | JSON_SORT_KEYS) : NULL;

	json_decref(json);
	return text;
}

static bool number_take(const json_t *json, const char *key, uint64_t max, uint64_t *ret_number)
{
	const json_t *value = json_object_get(json, key);
	const json_int_t number = json_integer_value(value);

	if (!json_is_integer(value) || number < 0 || (uint64_t)number > max)
		return false;
	*ret_number = (uint64_t)number;
	return true;
}

static bool name_take(const json_t *json, char ret_name[NS_NAME_MAX + 1])
{
	const char *text = json_string_value(json_object_get(json, "name"));
	uint8_t *bytes = NULL;
	size_t len = 0;

	if (!text || base64_decode(text, &bytes, &len) < 0)
		return false;
	const bool good = len <= NS_NAME_MAX && !memchr(bytes, 0, len) && !memchr(bytes, '/', len);
	if (good) {
		memcpy(ret_name, bytes, len);
		ret_name[len] = 0;
	}
	free(bytes);
	return good;
}

static bool fields_take(const json_t *json, struct receive_record *rec)
{
	const char *snapshot = json_string_value(json_object_get(json, "snapshot"));

	if (!snapshot || !snapshot_name_good(snapshot) || !name_take(json, rec->name) ||
	        !guid_take(json, "guid", rec->guid) ||
	        !guid_take(json, "guid_from", rec->guid_from) ||
	        !number_take(json, "size", IMAGE_SIZE_MAX, &rec->size) ||
	        !number_take(json, "position", IMAGE_SIZE_MAX, &rec->pos) ||
	        !number_take(json, "started_ns", INT64_MAX, &rec->started_ns) ||
	        !number_take(json, "dir", INT64_MAX, &rec->dir) ||
	        !number_take(json, "image", INT64_MAX, &rec->image))
		return false;
	memcpy(rec->snapshot, snapshot, strlen(snapshot) + 1);
	return rec->image || (rec->dir && *rec->name);
}

int receive_record_decode(
        uint64_t ino, const void *value, size_t len, struct receive_record *ret_rec)
{
	struct receive_record rec = {.ino = ino};
	json_t *json = json_loadb(value, len, JSON_REJECT_DUPLICATES, NULL);
	const bool good = fields_take(json, &rec);

	json_decref(json);
	if (!good)
		return -EUCLEAN;
	*ret_rec = rec;
	return 0;
}

int receive_record_put(struct ns *ns, const struct receive_record *rec)
{
	CLEANUP(free_ptr) char *text = receive_record_encode(rec);

	return text ? ns_record_put(ns, RECORD_FLAG, rec->ino, RECEIVE_FLAG, text, strlen(text))
	            : -ENOMEM;
}

struct walk {
	receive_record_fn *fn;
	void *arg;
};

static int record_row(void *arg, uint64_t owner, uint64_t id, const void *value, size_t len)
{
	const struct walk *w = arg;
	struct receive_record rec;

	if (id != RECEIVE_FLAG)
		return 0;
	/* Of one that is damaged only the number is known: by that it can be given up. */
	if (receive_record_decode(owner, value, len, &rec) < 0)
		rec = (struct receive_record){.ino = owner, .image = owner};
	return w->fn(w->arg, &rec);
}

int receive_records_each(struct ns *ns, receive_record_fn *fn, void *arg)
{
	struct walk w = {fn, arg};

	return ns_record_each_owner(ns, RECORD_FLAG, record_row, &w);
}

void receive_record_path(
        struct ns *ns, const struct receive_record *rec, char path[FILTER_PATH_MAX])
{
	target_path(ns, rec->image ? rec->image : rec->dir, path);
	if (rec->image)
		return;
	const size_t len = strlen(path);
	snprintf(path + len, FILTER_PATH_MAX - len, "%s%s", len ? "/" : "", rec->name);
}

/*
 * sealed-flag.c - see sealed-flag.h
 */
#include "fs/filter/sealed-flag.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>

#include "meta/records.h"

void sealed_flag_release(struct sealed_flag *f)
{
	free(f->parts);
	*f = (struct sealed_flag){0};
}

static void hex_put(const uint8_t guid[STREAM_GUID_LEN], char ret_hex[2 * STREAM_GUID_LEN + 1])
{
	for (size_t i = 0; i < STREAM_GUID_LEN; i++)
		snprintf(ret_hex + 2 * i, 3, "%02x", guid[i]);
}

static bool hex_take(const json_t *json, uint8_t ret_guid[STREAM_GUID_LEN])
{
	static const char digits[] = "0123456789abcdef";
	const char *hex = json_string_value(json);

	if (!hex || strlen(hex) != 2 * STREAM_GUID_LEN || strspn(hex, digits) != strlen(hex))
		return false;
	for (unsigned i = 0; i < STREAM_GUID_LEN; i++)
		ret_guid[i] = (uint8_t)((strchr(digits, hex[2 * i]) - digits) << 4 |
		                        (strchr(digits, hex[2 * i + 1]) - digits));
	return true;
}

static json_t *part_json(const struct sealed_part *p)
{
	char guid[2 * STREAM_GUID_LEN + 1], from[2 * STREAM_GUID_LEN + 1];

	hex_put(p->guid, guid);
	hex_put(p->guid_from, from);
	return json_pack("{s:I, s:b, s:s, s:s, s:s}", "len", (json_int_t)p->len, "whole", p->whole,
	        "guid", guid, "guid_from", from, "snapshot", p->snapshot);
}

char *sealed_flag_encode(const struct sealed_flag *f)
{
	json_t *parts = json_array();
	bool good = parts;
	char *text = NULL;

	for (size_t i = 0; good && i < f->n; i++)
		good = json_array_append_new(parts, part_json(&f->parts[i])) == 0;
	json_t *json = json_pack("{s:I, s:o}", "domain", (json_int_t)f->domain, "parts", parts);
	if (json && good)
		text = json_dumps(json, JSON_COMPACT | JSON_SORT_KEYS);
	json_decref(json);
	return text;
}

static bool number_take(const json_t *json, const char *name, uint64_t max, uint64_t *ret_n)
{
	const json_t *value = json_object_get(json, name);

	if (!json_is_integer(value) || json_integer_value(value) < 0 ||
	        (uint64_t)json_integer_value(value) > max)
		return false;
	*ret_n = (uint64_t)json_integer_value(value);
	return true;
}

static bool part_take(const json_t *json, struct sealed_part *p)
{
	const char *name = json_string_value(json_object_get(json, "snapshot"));
	const json_t *whole = json_object_get(json, "whole");

	if (!number_take(json, "len", IMAGE_SIZE_MAX, &p->len) || !name ||
	        strlen(name) >= sizeof(p->snapshot) || !json_is_boolean(whole))
		return false;
	p->whole = json_is_true(whole);
	strcpy(p->snapshot, name);
	return hex_take(json_object_get(json, "guid"), p->guid) &&
	       hex_take(json_object_get(json, "guid_from"), p->guid_from);
}

static int parts_take(const json_t *list, struct sealed_flag *f)
{
	const size_t n = json_array_size(list);

	if (!json_is_array(list) || n > SEALED_PARTS_MAX)
		return -EUCLEAN;
	f->parts = calloc(n + 1, sizeof(*f->parts));
	if (!f->parts)
		return -ENOMEM;
	for (; f->n < n; f->n++)
		if (!part_take(json_array_get(list, f->n), &f->parts[f->n]))
			return -EUCLEAN;
	return sealed_flag_bytes(f) <= IMAGE_SIZE_MAX ? 0 : -EUCLEAN;
}

static int flag_take(const json_t *json, struct sealed_flag *f)
{
	uint64_t domain = 0;

	if (!number_take(json, "domain", UINT32_MAX, &domain) || domain == 0)
		return -EUCLEAN;
	f->domain = (uint32_t)domain;
	return parts_take(json_object_get(json, "parts"), f);
}

int sealed_flag_decode(const void *value, size_t len, struct sealed_flag *ret_f)
{
	json_t *json = json_loadb(value, len, JSON_REJECT_DUPLICATES, NULL);
	struct sealed_flag f = {0};
	const int r = json_is_object(json) ? flag_take(json, &f) : -EUCLEAN;

	json_decref(json);
	if (r < 0) {
		sealed_flag_release(&f);
		return r;
	}
	*ret_f = f;
	return 0;
}

int sealed_flag_get(struct ns *ns, uint64_t ino, struct sealed_flag *ret_f)
{
	struct bytes_out value = {0};
	int r = ns_record_get(ns, RECORD_FLAG, ino, SEALED_FLAG, &value);

	if (r == 0)
		r = sealed_flag_decode(value.data, value.len, ret_f);
	bytes_release(&value);
	return r;
}

int sealed_flag_put(struct ns *ns, uint64_t ino, const struct sealed_flag *f)
{
	CLEANUP(free_ptr) char *text = sealed_flag_encode(f);

	return text ? ns_record_put(ns, RECORD_FLAG, ino, SEALED_FLAG, text, strlen(text))
	            : -ENOMEM;
}

uint64_t sealed_flag_bytes(const struct sealed_flag *f)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < f->n; i++)
		bytes += f->parts[i].len;
	return bytes;
}

/*
 * records.c - see records.h
 *
 * What is looked up by name or by image is found by walking the rows: a snapshot has few of them, and
 * nobody waits for it but a person or a program that manages snapshots.
 */
#include "fs/snapshot/records.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/log.h"
#include "fs/control/base64.h"
#include "fs/control/text.h"

static const char *const kind_names[] = {
        [SNAPSHOT_IMAGE] = "image",
        [SNAPSHOT_DIRECTORY] = "directory",
        [SNAPSHOT_DATASTORE] = "datastore",
};

const char *snapshot_kind_name(enum snapshot_kind kind)
{
	return kind_names[kind];
}

bool snapshot_name_good(const char *name)
{
	const size_t len = strlen(name);

	if (len == 0 || len > SNAPSHOT_NAME_MAX || !isalnum((unsigned char)name[0]))
		return false;
	for (size_t i = 0; i < len; i++)
		if (!isalnum((unsigned char)name[i]) && !strchr("._:+-", name[i]))
			return false;
	return true;
}

void snapshot_release(struct snapshot *s)
{
	json_decref(s->json);
	*s = (struct snapshot){0};
}

void snapshot_image_release(struct snapshot_image *si)
{
	free(si->path);
	*si = (struct snapshot_image){0};
}

/* --- fields --- */

static bool number_take(const json_t *json, const char *key, uint64_t max, uint64_t *ret_number)
{
	const json_t *value = json_object_get(json, key);

	if (!json_is_integer(value) || json_integer_value(value) < 0 ||
	        (uint64_t)json_integer_value(value) > max)
		return false;
	*ret_number = (uint64_t)json_integer_value(value);
	return true;
}

static bool kind_take(const json_t *json, enum snapshot_kind *ret_kind)
{
	const char *name = json_string_value(json_object_get(json, "kind"));

	for (unsigned i = 0; name && i < ARRAY_SIZE(kind_names); i++) {
		if (!strcmp(name, kind_names[i])) {
			*ret_kind = i;
			return true;
		}
	}
	return false;
}

static bool holders_good(const json_t *holders)
{
	const json_t *holder;
	size_t i;

	if (!json_is_array(holders) || json_array_size(holders) > SNAPSHOT_HOLDERS_MAX)
		return false;
	json_array_foreach(holders, i, holder)
	{
		if (!json_is_string(holder))
			return false;
	}
	return true;
}

/* A path is bytes; what is no UTF-8 goes as base64. */
static int path_put(json_t *json, const char *path)
{
	json_t *value = json_string(path);

	if (value)
		return json_object_set_new(json, "path", value);
	CLEANUP(free_ptr) char *text = base64_encode(path, strlen(path));
	return text ? json_object_set_new(json, "path64", json_string(text)) : -1;
}

static char *path_take(const json_t *json)
{
	const char *path = json_string_value(json_object_get(json, "path"));
	const char *text = json_string_value(json_object_get(json, "path64"));
	uint8_t *bytes = NULL;
	size_t len;

	if (path)
		return strdup(path);
	if (!text || base64_decode(text, &bytes, &len) < 0)
		return NULL;
	char *copy = memchr(bytes, 0, len) ? NULL : strndup((char *)bytes, len);
	free(bytes);
	return copy;
}

/* --- rows --- */

int snapshot_decode(uint64_t number, const void *value, size_t len, struct snapshot *ret_s)
{
	struct snapshot s = {
	        .number = number,
	        .json = json_loadb(value, len, JSON_REJECT_DUPLICATES, NULL),
	};
	const char *name = json_string_value(json_object_get(s.json, "name"));

	s.target = json_string_value(json_object_get(s.json, "target"));
	s.holders = json_object_get(s.json, "holders");
	if (!name || !snapshot_name_good(name) || !s.target || !holders_good(s.holders) ||
	        !kind_take(s.json, &s.kind) || !number_take(s.json, "scope", INT64_MAX, &s.scope) ||
	        !number_take(s.json, "time_ns", INT64_MAX, &s.time_ns) ||
	        !number_take(s.json, "images", INT64_MAX, &s.n_images)) {
		json_decref(s.json);
		return -EUCLEAN;
	}
	memcpy(s.name, name, strlen(name) + 1);
	*ret_s = s;
	return 0;
}

int snapshot_put(struct ns *ns, const struct snapshot *s)
{
	json_t *json = json_pack("{s:s, s:s, s:I, s:o, s:I, s:I, s:O}", "name", s->name, "kind",
	        snapshot_kind_name(s->kind), "scope", (json_int_t)s->scope, "target",
	        text_json(s->target), "time_ns", (json_int_t)s->time_ns, "images",
	        (json_int_t)s->n_images, "holders", s->holders);
	CLEANUP(free_ptr) char *row = json ? json_dumps(json, JSON_COMPACT | JSON_SORT_KEYS) : NULL;

	json_decref(json);
	return row ? ns_record_put(ns, RECORD_SNAPSHOT, 0, s->number, row, strlen(row)) : -ENOMEM;
}

static const struct {
	const char *key;
	size_t at;
} image_times[] = {
        {"atime_ns", offsetof(struct ns_inode, atime)},
        {"mtime_ns", offsetof(struct ns_inode, mtime)},
        {"ctime_ns", offsetof(struct ns_inode, ctime)},
        {"btime_ns", offsetof(struct ns_inode, btime)},
};

static bool times_take(const json_t *json, struct ns_inode *inode)
{
	for (unsigned i = 0; i < ARRAY_SIZE(image_times); i++) {
		struct timespec *ts = (struct timespec *)((char *)inode + image_times[i].at);
		const json_t *value = json_object_get(json, image_times[i].key);
		const json_int_t ns = json_integer_value(value);
		const json_int_t second = NS_PER_SEC;
		if (!json_is_integer(value))
			return false;
		ts->tv_sec = ns / second - (ns % second < 0);
		ts->tv_nsec = ns % second + (ns % second < 0 ? second : 0);
	}
	return true;
}

static bool inode_take(const json_t *json, struct ns_inode *ret_inode)
{
	struct ns_inode inode = {.nlink = 1};
	uint64_t mode, uid, gid;

	if (!number_take(json, "inode", INT64_MAX, &inode.ino) ||
	        !number_take(json, "mode", UINT32_MAX, &mode) || !S_ISREG((uint32_t)mode) ||
	        !number_take(json, "uid", UINT32_MAX, &uid) ||
	        !number_take(json, "gid", UINT32_MAX, &gid) ||
	        !number_take(json, "size", INT64_MAX, &inode.size) ||
	        !number_take(json, "generation", INT64_MAX, &inode.generation) ||
	        !times_take(json, &inode))
		return false;
	inode.mode = (uint32_t)mode;
	inode.uid = (uint32_t)uid;
	inode.gid = (uint32_t)gid;
	*ret_inode = inode;
	return true;
}

/* Of a received snapshot; two hex digits a byte. */
static bool guid_take(const json_t *json, uint8_t ret_guid[SNAPSHOT_GUID_LEN])
{
	const json_t *value = json_object_get(json, "guid");
	const char *text = json_string_value(value);

	if (!value)
		return true;
	if (!text || strlen(text) != 2 * SNAPSHOT_GUID_LEN)
		return false;
	for (unsigned i = 0; i < SNAPSHOT_GUID_LEN; i++) {
		if (!isxdigit((unsigned char)text[2 * i]) ||
		        !isxdigit((unsigned char)text[2 * i + 1]))
			return false;
		sscanf(text + (size_t)2 * i, "%2hhx", &ret_guid[i]);
	}
	return true;
}

static int guid_put(json_t *json, const uint8_t guid[SNAPSHOT_GUID_LEN])
{
	static const uint8_t none[SNAPSHOT_GUID_LEN];
	char text[2 * SNAPSHOT_GUID_LEN + 1];

	if (!memcmp(guid, none, sizeof(none)))
		return 0;
	for (unsigned i = 0; i < SNAPSHOT_GUID_LEN; i++)
		snprintf(text + (size_t)2 * i, 3, "%02x", guid[i]);
	return json_object_set_new(json, "guid", json_string(text));
}

int snapshot_image_decode(
        uint64_t key, const void *value, size_t len, struct snapshot_image *ret_si)
{
	struct snapshot_image si = {.key = key};
	json_t *json = json_loadb(value, len, JSON_REJECT_DUPLICATES, NULL);

	if (inode_take(json, &si.inode) && guid_take(json, si.guid))
		si.path = path_take(json);
	json_decref(json);
	if (!si.path)
		return -EUCLEAN;
	*ret_si = si;
	return 0;
}

int snapshot_image_put(struct ns *ns, const struct snapshot_image *si)
{
	const struct ns_inode *inode = &si->inode;
	json_t *json = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "inode", (json_int_t)inode->ino,
	        "mode", (json_int_t)inode->mode, "uid", (json_int_t)inode->uid, "gid",
	        (json_int_t)inode->gid, "size", (json_int_t)inode->size, "generation",
	        (json_int_t)inode->generation);
	int r = json ? path_put(json, si->path) : -1;

	if (r == 0)
		r = guid_put(json, si->guid);
	for (unsigned i = 0; r == 0 && i < ARRAY_SIZE(image_times); i++) {
		const struct timespec *ts =
		        (const struct timespec *)((const char *)inode + image_times[i].at);
		const json_int_t ns_since =
		        (json_int_t)ts->tv_sec * (json_int_t)NS_PER_SEC + ts->tv_nsec;
		r = json_object_set_new(json, image_times[i].key, json_integer(ns_since));
	}
	CLEANUP(free_ptr)
	char *row = r == 0 ? json_dumps(json, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
	json_decref(json);
	if (!row)
		return -ENOMEM;
	const uint64_t number = snapshot_set(si->key);
	return ns_record_put(
	        ns, RECORD_SNAPSHOT, number, si->key - snapshot_id(number, 0), row, strlen(row));
}

int snapshot_get(struct ns *ns, uint64_t number, struct snapshot *ret_s)
{
	struct bytes_out value;
	int r = ns_record_get(ns, RECORD_SNAPSHOT, 0, number, &value);

	if (r == 0) {
		r = snapshot_decode(number, value.data, value.len, ret_s);
		bytes_release(&value);
	}
	return r;
}

/* --- walking --- */

struct walk {
	struct ns *ns;
	snapshot_fn *fn;
	snapshot_image_fn *image_fn;
	void *arg;
};

static int snapshot_row(void *arg, uint64_t owner, uint64_t id, const void *value, size_t len)
{
	const struct walk *w = arg;
	struct snapshot s;
	int r = snapshot_decode(id, value, len, &s);

	if (r < 0) {
		log_error(
		        "the row of snapshot %llu is damaged (weir check)", (unsigned long long)id);
		return 0;
	}
	r = w->fn(w->arg, &s);
	snapshot_release(&s);
	return r;
}

int snapshots_each(struct ns *ns, snapshot_fn *fn, void *arg)
{
	struct walk w = {.ns = ns, .fn = fn, .arg = arg};

	return ns_record_each(ns, RECORD_SNAPSHOT, 0, 0, snapshot_row, &w);
}

static int image_row(void *arg, uint64_t owner, uint64_t id, const void *value, size_t len)
{
	const struct walk *w = arg;
	struct snapshot_image si;
	int r = snapshot_image_decode(snapshot_id(owner, id), value, len, &si);

	if (r < 0) {
		log_error("row %llu of snapshot %llu is damaged (weir check)",
		        (unsigned long long)id, (unsigned long long)owner);
		return 0;
	}
	r = w->image_fn(w->arg, &si);
	snapshot_image_release(&si);
	return r;
}

int snapshot_images_each(struct ns *ns, uint64_t number, snapshot_image_fn *fn, void *arg)
{
	struct walk w = {.ns = ns, .image_fn = fn, .arg = arg};

	return ns_record_each(ns, RECORD_SNAPSHOT, number, 0, image_row, &w);
}

/* --- looking up --- */

struct lookup {
	struct ns *ns;
	uint64_t ino; /* scope, or image */
	const char *name;
	bool copied;
	struct snapshot *s;        /* NULL: not wanted */
	struct snapshot_image *si; /* likewise */
};

static struct snapshot snapshot_copy(const struct snapshot *s)
{
	struct snapshot copy = *s;

	json_incref(copy.json);
	return copy;
}

static int image_match(void *arg, const struct snapshot_image *si)
{
	struct lookup *l = arg;

	if (si->inode.ino != l->ino)
		return 0;
	if (l->si) {
		struct snapshot_image copy = *si;
		copy.path = strdup(si->path);
		if (!copy.path)
			return -ENOMEM;
		*l->si = copy;
	}
	return 1;
}

int snapshot_image_get(struct ns *ns, uint64_t number, uint64_t ino, struct snapshot_image *ret_si)
{
	struct lookup l = {.ns = ns, .ino = ino, .si = ret_si};
	const int r = snapshot_images_each(ns, number, image_match, &l);

	return r < 0 ? r : r == 0 ? -ENOENT : 0;
}

static int scope_match(void *arg, const struct snapshot *s)
{
	struct lookup *l = arg;

	if (s->scope != l->ino || strcmp(s->name, l->name))
		return 0;
	*l->s = snapshot_copy(s);
	return 1;
}

int snapshot_of_scope(struct ns *ns, uint64_t scope, const char *name, struct snapshot *ret_s)
{
	struct lookup l = {.ns = ns, .ino = scope, .name = name, .s = ret_s};
	const int r = snapshots_each(ns, scope_match, &l);

	return r < 0 ? r : r == 0 ? -ENOENT : 0;
}

/* 1: the image is in it. */
static int member_match(void *arg, const struct snapshot *s)
{
	struct lookup *l = arg;

	if ((l->name && strcmp(s->name, l->name)) ||
	        (s->kind == SNAPSHOT_IMAGE && s->scope != l->ino))
		return 0;
	const int r = snapshot_images_each(l->ns, s->number, image_match, l);
	if (r == 1 && l->s)
		*l->s = snapshot_copy(s);
	return r;
}

int snapshot_of_image(struct ns *ns, uint64_t ino, const char *name, struct snapshot *ret_s,
        struct snapshot_image *ret_si)
{
	struct lookup l = {.ns = ns, .ino = ino, .name = name, .s = ret_s, .si = ret_si};
	const int r = snapshots_each(ns, member_match, &l);

	return r < 0 ? r : r == 0 ? -ENOENT : 0;
}

void snapshot_path(struct ns *ns, uint64_t owner, char *buf, size_t cap)
{
	const uint64_t key = owner & ~SNAPSHOT_BIT, number = snapshot_set(key);
	struct bytes_out value;
	struct snapshot_image si;
	struct snapshot s;

	snprintf(buf, cap, "snapshot %llu", (unsigned long long)number);
	if (snapshot_get(ns, number, &s) < 0)
		return;
	if (ns_record_get(ns, RECORD_SNAPSHOT, number, key - snapshot_id(number, 0), &value) == 0) {
		if (snapshot_image_decode(key, value.data, value.len, &si) == 0) {
			snprintf(buf, cap, "%s@%s", si.path, s.name);
			snapshot_image_release(&si);
		}
		bytes_release(&value);
	}
	snapshot_release(&s);
}

int snapshot_holds(struct ns *ns, uint64_t ino)
{
	struct lookup l = {.ns = ns, .ino = ino};

	return snapshots_each(ns, member_match, &l);
}

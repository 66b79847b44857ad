/*
 * schedule-rows.c - schedules and sockets of guest agents as rows
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "fs/snapshot/agent.h"
#include "fs/snapshot/private.h"
#include "fs/snapshot/schedule.h"
#include "stage/values.h"

/* --- schedules --- */

static bool flag_of(const json_t *json, const char *key)
{
	return json_is_true(json_object_get(json, key));
}

static bool every_good(uint64_t every_ns)
{
	return every_ns >= SCHEDULE_EVERY_MIN_NS && every_ns <= SCHEDULE_EVERY_MAX_NS;
}

int schedule_decode(uint64_t ino, const void *value, size_t len, struct schedule *ret_sc)
{
	json_t *json = json_loadb(value, len, JSON_REJECT_DUPLICATES, NULL);
	const char *keep = json_string_value(json_object_get(json, "keep"));
	struct schedule sc = {
	        .ino = ino,
	        .every_ns = (uint64_t)json_integer_value(json_object_get(json, "every_ns")),
	        .set_ns = (uint64_t)json_integer_value(json_object_get(json, "set_ns")),
	        .quiesce = flag_of(json, "quiesce"),
	        .paused = flag_of(json, "paused"),
	};
	const bool good =
	        keep && every_good(sc.every_ns) && retention_parse(keep, &sc.keep, NULL) == 0;

	json_decref(json);
	if (!good)
		return -EUCLEAN;
	*ret_sc = sc;
	return 0;
}

int schedule_get(struct ns *ns, uint64_t ino, struct schedule *ret_sc)
{
	struct bytes_out value;
	int r = ns_record_get(ns, RECORD_FLAG, ino, SCHEDULE_FLAG, &value);

	if (r < 0)
		return r;
	r = schedule_decode(ino, value.data, value.len, ret_sc);
	bytes_release(&value);
	return r;
}

int schedule_put(struct ns *ns, const struct schedule *sc)
{
	char keep[RETENTION_TEXT_MAX];

	retention_format(&sc->keep, keep);
	json_t *json = json_pack("{s:I, s:s, s:b, s:b, s:I}", "every_ns", (json_int_t)sc->every_ns,
	        "keep", keep, "quiesce", sc->quiesce, "paused", sc->paused, "set_ns",
	        (json_int_t)sc->set_ns);
	CLEANUP(free_ptr) char *row = json ? json_dumps(json, JSON_COMPACT | JSON_SORT_KEYS) : NULL;

	json_decref(json);
	return row ? ns_record_put(ns, RECORD_FLAG, sc->ino, SCHEDULE_FLAG, row, strlen(row))
	           : -ENOMEM;
}

void schedule_text(const struct schedule *sc, char *buf, size_t len)
{
	const struct setting_def def = {.kind = SETTING_DURATION};
	char every[64], keep[RETENTION_TEXT_MAX];

	value_format(&def, sc->every_ns, every, sizeof(every));
	retention_format(&sc->keep, keep);
	snprintf(buf, len, "every %s keep %s%s%s", every, keep, sc->quiesce ? ", quiesced" : "",
	        sc->paused ? ", paused" : "");
}

struct each {
	schedule_fn *fn;
	void *arg;
};

static int each_flag(void *arg, uint64_t owner, uint64_t id, const void *value, size_t len)
{
	const struct each *e = arg;
	struct schedule sc;

	if (id != SCHEDULE_FLAG)
		return 0;
	if (schedule_decode(owner, value, len, &sc) < 0) {
		log_error("inode %llu: its schedule of snapshots is damaged: set it again",
		        (unsigned long long)owner);
		return 0;
	}
	return e->fn(e->arg, &sc);
}

int schedules_each(struct ns *ns, schedule_fn *fn, void *arg)
{
	struct each e = {fn, arg};

	return ns_record_each_owner(ns, RECORD_FLAG, each_flag, &e);
}

/* --- agents --- */

int agent_path_get(struct ns *ns, uint64_t ino, char **ret_path)
{
	struct bytes_out value;
	const int r = ns_record_get(ns, RECORD_FLAG, ino, AGENT_FLAG, &value);

	if (r < 0)
		return r;
	char *path = strndup((const char *)value.data, MIN(value.len, AGENT_PATH_MAX));
	bytes_release(&value);
	if (!path)
		return -ENOMEM;
	*ret_path = path;
	return 0;
}

void agent_paths_release(struct agent_paths *paths)
{
	for (size_t i = 0; i < paths->n; i++)
		free(paths->items[i]);
	free(paths->items);
	*paths = (struct agent_paths){0};
}

int agent_paths_add(struct agent_paths *paths, const char *path)
{
	for (size_t i = 0; i < paths->n; i++)
		if (!strcmp(paths->items[i], path))
			return 0;
	if (paths->n == paths->cap) {
		const size_t cap = paths->cap ? 2 * paths->cap : 8;
		char **items = realloc(paths->items, cap * sizeof(*items));
		if (!items)
			return -ENOMEM;
		paths->items = items;
		paths->cap = cap;
	}
	paths->items[paths->n] = strdup(path);
	return paths->items[paths->n] ? (paths->n++, 0) : -ENOMEM;
}

/* The directory above what a path names: cut off there; the top is "". */
static int parent_of(struct ns *ns, char *path, uint64_t *ret_ino)
{
	char *slash = strrchr(path, '/');

	*(slash ? slash : path) = '\0';
	if (*path)
		return ns_lookup_path(ns, path, ret_ino);
	*ret_ino = NS_ROOT_INO;
	return 0;
}

int agent_paths_add_image(struct ns *ns, uint64_t ino, struct agent_paths *paths)
{
	char path[FILTER_PATH_MAX];
	char *socket;
	int r;

	target_path(ns, ino, path);
	for (;;) {
		r = agent_path_get(ns, ino, &socket);
		if (r != -ENOENT || ino == NS_ROOT_INO)
			break;
		r = parent_of(ns, path, &ino);
		if (r < 0)
			break;
	}
	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return r;
	r = agent_paths_add(paths, socket);
	free(socket);
	return r;
}

/*
 * manager-world.h - a real datastore with a manager, without a mount, for the tests of stacks
 *
 * A stage type of ours, "watch", tells what it sees: it counts writes in its state, warns, alerts
 * and puts images in quarantine when the guest's data asks for it.
 */
#pragma once

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "fs/filter/manager-private.h"
#include "fs/filter/report.h"
#include "vfs-world.h"

static const struct filter_caller me = {.uid = 12, .pid = 34};
static struct manager *m;
static _Atomic unsigned watchers; /* stages that live */
static bool refuse_create;

/* --- the stage --- */

struct watch {
	const struct stage_host *host;
	struct stage_link *self;
	pthread_mutex_t lock;
	uint64_t writes;
};

static inline int watch_create(const struct stage_host *host, struct stage_link *self,
        const struct settings *settings, void **ret_stage, struct errmsg *em)
{
	size_t len;

	if (refuse_create)
		return errmsg_set(em, -ENODEV, "the watch refuses");
	struct watch *w = calloc(1, sizeof(*w));
	assert_non_null(w);
	w->host = host;
	w->self = self;
	pthread_mutex_init(&w->lock, NULL);
	if (host->state_get(self, "writes", &w->writes, sizeof(w->writes), &len) < 0)
		w->writes = 0;
	watchers++;
	*ret_stage = w;
	return 0;
}

static inline void watch_destroy(void *stage)
{
	struct watch *w = stage;

	if (!w)
		return;
	/* Said while it goes: must not outlive the link. */
	if (w->host->state_put(w->self, "last words", "bye", 3) < 0)
		log_trace("read-only");
	pthread_mutex_destroy(&w->lock);
	free(w);
	watchers--;
}

static inline enum stage_verdict watch_pre(void *stage, struct request *req, void *context)
{
	struct watch *w = stage;

	pthread_mutex_lock(&w->lock);
	w->writes++;
	const int r = w->host->state_put(w->self, "writes", &w->writes, sizeof(w->writes));
	pthread_mutex_unlock(&w->lock);
	assert_int_equal(r, 0);
	if (req->len == 5 && !memcmp(req->data, "warn!", 5))
		w->host->say(w->self, STAGE_SEVERITY_WARNING, "saw %s", "a warning");
	if (req->len == 5 && !memcmp(req->data, "alert", 5))
		w->host->say(w->self, STAGE_SEVERITY_ALERT, "saw an alert");
	if (req->len == 5 && !memcmp(req->data, "virus", 5))
		w->host->quarantine(w->self, "saw a virus");
	return STAGE_PASS;
}

static inline void watch_report(void *stage, const struct stage_report *report)
{
	struct watch *w = stage;

	report->number(report->arg, "writes", w->writes);
}

static inline int watch_action(void *stage, const char *action, const char *const *args,
        unsigned n_args, char **ret_json, struct errmsg *em)
{
	*ret_json = strdup(n_args ? "[\"with\"]" : "[\"without\"]");
	return 0;
}

static const struct setting_def watch_settings[] = {
        {.key = "level", .kind = SETTING_UINT, .initial = "1", .max = 9, .help = "none"},
        {.key = "name", .kind = SETTING_TEXT, .initial = "none", .help = "none"},
        {0},
};
static const char *const watch_actions[] = {"look", "ask", NULL};
static const char *const watch_queries[] = {"ask", NULL};
static const struct stage_type watch_type = {
        .abi = STAGE_ABI,
        .size = sizeof(struct stage_type),
        .name = "watch",
        .version = 1,
        .summary = "for this test",
        .class = STAGE_INSPECT,
        .handles = OP(WRITE),
        .understands = OPS_ALL,
        .settings = watch_settings,
        .create = watch_create,
        .destroy = watch_destroy,
        .pre = watch_pre,
        .report = watch_report,
        .action = watch_action,
        .actions = watch_actions,
        .queries = watch_queries,
};

/* --- a datastore with a manager --- */

static inline void manager_up(bool read_only)
{
	struct errmsg em = {0};

	assert_int_equal(world_open(read_only), 0);
	assert_int_equal(manager_new(ds, vfs, &m, &em), 0);
	const struct vfs_filters filters = manager_filters(m);
	vfs_set_filters(vfs, &filters);
	assert_int_equal(manager_start(m, &em), 0);
}

/* In the order of the daemon. */
static inline void manager_down(void)
{
	manager_stop(m);
	vfs_detach(vfs);
	manager_quiet(m);
	assert_int_equal(datastore_close(ds), 0);
	manager_free(m);
	vfs_free(vfs);
	assert_int_equal(watchers, 0);
}

static inline void again(void)
{
	manager_down();
	manager_up(false);
}

static inline int setup(void **state)
{
	if (world_setup(state) < 0)
		return -1;
	log_set_level(LOG_ERROR);
	refuse_create = false;
	world_close();
	manager_up(false);
	return 0;
}

static inline int teardown(void **state)
{
	char cmd[128];

	manager_down();
	snprintf(cmd, sizeof(cmd), "rm -rf '%s'", world_dir);
	return system(cmd);
}

#define MANAGER_CASE(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

/* --- short forms --- */

static struct errmsg why;

static inline int attach(const char *target, const char *type, const char *setting, bool force)
{
	const struct filter_change c = {.target = target,
	        .type = type,
	        .settings = &setting,
	        .n_settings = setting ? 1 : 0,
	        .force = force,
	        .wait = true};
	json_t *json = NULL;

	why = (struct errmsg){0};
	const int r = manager_attach(m, &me, &c, NULL, NULL, &json, &why);
	json_decref(json);
	return r;
}

static inline int change_one(const char *target, const char *type, const char *setting)
{
	const struct filter_change c = {.target = target,
	        .type = type,
	        .settings = &setting,
	        .n_settings = setting ? 1 : 0,
	        .wait = true};
	json_t *json = NULL;
	int r;

	why = (struct errmsg){0};
	r = setting ? manager_set(m, &me, &c, NULL, NULL, &json, &why)
	            : manager_detach(m, &me, &c, NULL, NULL, &json, &why);
	json_decref(json);
	return r;
}

static inline json_t *status(void)
{
	json_t *json = json_object();

	assert_int_equal(manager_status(m, json), 0);
	return json;
}

static inline json_t *listed(const char *target)
{
	json_t *json = NULL;
	struct errmsg em = {0};

	assert_int_equal(manager_list(m, target, &json, &em), 0);
	return json;
}

/* "type:state ..." of what is attached; static. */
static inline const char *stack_of(const char *target)
{
	static char text[512];
	json_t *json = listed(target), *stage;
	size_t i;

	text[0] = 0;
	json_array_foreach(json_object_get(json, "stages"), i, stage)
	{
		if (json_integer_value(json_object_get(stage, "link")) == 0)
			continue;
		snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s%s:%s",
		        text[0] ? " " : "", json_string_value(json_object_get(stage, "type")),
		        json_string_value(json_object_get(stage, "state")));
	}
	json_decref(json);
	return text;
}

static inline uint64_t writes_seen(const char *target)
{
	json_t *json = listed(target);
	json_t *first = json_array_get(json_object_get(json, "stages"), 0);
	const uint64_t n = (uint64_t)json_integer_value(
	        json_object_get(json_object_get(first, "counters"), "writes"));

	json_decref(json);
	return n;
}

/* Actions of the trail, one after the other; static. */
static inline int action_add(void *arg, json_t *entry)
{
	char *text = arg;

	snprintf(text + strlen(text), 1024 - strlen(text), "%s%s", *text ? ", " : "",
	        json_string_value(json_object_get(entry, "action")));
	return 0;
}

static inline const char *trail(void)
{
	static char text[1024];

	text[0] = 0;
	assert_int_equal(audit_each(ds->ns, 0, action_add, text), 0);
	return text;
}

static inline size_t wait_count(const char *key, size_t n)
{
	size_t have = 0;

	for (unsigned i = 0; i < 500; i++) {
		json_t *json = status();
		have = json_array_size(json_object_get(json, key));
		json_decref(json);
		if (have == n)
			break;
		usleep(10000);
	}
	return have;
}

static inline int count_row(void *arg, uint64_t owner, uint64_t id, const void *value, size_t len)
{
	++*(unsigned *)arg;
	return 0;
}

static inline unsigned rows_of(enum record_table table, uint64_t ino)
{
	unsigned n = 0;

	assert_int_equal(ns_record_each(ds->ns, table, ino, 0, count_row, &n), 0);
	return n;
}

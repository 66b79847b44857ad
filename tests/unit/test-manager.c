/*
 * test-manager.c - stacks of a real datastore, without a mount: what changes, what is kept, what is
 * told
 *
 * A stage type of ours, "watch", tells what it sees: it counts writes in its state, warns, alerts
 * and puts images in quarantine when the guest's data asks for it.
 */
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

static int watch_create(const struct stage_host *host, struct stage_link *self,
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

static void watch_destroy(void *stage)
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

static enum stage_verdict watch_pre(void *stage, struct request *req, void *context)
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

static void watch_report(void *stage, const struct stage_report *report)
{
	struct watch *w = stage;

	report->number(report->arg, "writes", w->writes);
}

static int watch_action(void *stage, const char *action, const char *const *args, unsigned n_args,
        char **ret_json, struct errmsg *em)
{
	*ret_json = strdup(n_args ? "[\"with\"]" : "[\"without\"]");
	return 0;
}

static const struct setting_def watch_settings[] = {
        {.key = "level", .kind = SETTING_UINT, .initial = "1", .max = 9, .help = "none"},
        {.key = "name", .kind = SETTING_TEXT, .initial = "none", .help = "none"},
        {0},
};
static const char *const watch_actions[] = {"look", NULL};
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
};

/* --- a datastore with a manager --- */

static void manager_up(bool read_only)
{
	struct errmsg em = {0};

	assert_int_equal(world_open(read_only), 0);
	assert_int_equal(manager_new(ds, vfs, &m, &em), 0);
	const struct vfs_filters filters = manager_filters(m);
	vfs_set_filters(vfs, &filters);
	assert_int_equal(manager_start(m, &em), 0);
}

/* In the order of the daemon. */
static void manager_down(void)
{
	manager_stop(m);
	vfs_detach(vfs);
	manager_quiet(m);
	assert_int_equal(datastore_close(ds), 0);
	manager_free(m);
	vfs_free(vfs);
	assert_int_equal(watchers, 0);
}

static void again(void)
{
	manager_down();
	manager_up(false);
}

static int setup(void **state)
{
	if (world_setup(state) < 0)
		return -1;
	log_set_level(LOG_ERROR);
	refuse_create = false;
	world_close();
	manager_up(false);
	return 0;
}

static int teardown(void **state)
{
	char cmd[128];

	manager_down();
	snprintf(cmd, sizeof(cmd), "rm -rf '%s'", world_dir);
	return system(cmd);
}

#define MANAGER_CASE(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

/* --- short forms --- */

static struct errmsg why;

static int attach(const char *target, const char *type, const char *setting, bool force)
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

static int change_one(const char *target, const char *type, const char *setting)
{
	const struct filter_change c = {.target = target,
	        .type = type,
	        .settings = &setting,
	        .n_settings = setting ? 1 : 0,
	        .wait = true};
	json_t *json = NULL;
	int r;

	why = (struct errmsg){0};
	r = setting ? manager_set(m, &me, &c, &json, &why)
	            : manager_detach(m, &me, &c, NULL, NULL, &json, &why);
	json_decref(json);
	return r;
}

static json_t *status(void)
{
	json_t *json = json_object();

	assert_int_equal(manager_status(m, json), 0);
	return json;
}

static json_t *listed(const char *target)
{
	json_t *json = NULL;
	struct errmsg em = {0};

	assert_int_equal(manager_list(m, target, &json, &em), 0);
	return json;
}

/* "type:state ..." of what is attached; static. */
static const char *stack_of(const char *target)
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

static uint64_t writes_seen(const char *target)
{
	json_t *json = listed(target);
	json_t *first = json_array_get(json_object_get(json, "stages"), 0);
	const uint64_t n = (uint64_t)json_integer_value(
	        json_object_get(json_object_get(first, "counters"), "writes"));

	json_decref(json);
	return n;
}

/* Actions of the trail, one after the other; static. */
static int action_add(void *arg, json_t *entry)
{
	char *text = arg;

	snprintf(text + strlen(text), 1024 - strlen(text), "%s%s", *text ? ", " : "",
	        json_string_value(json_object_get(entry, "action")));
	return 0;
}

static const char *trail(void)
{
	static char text[1024];

	text[0] = 0;
	assert_int_equal(audit_each(ds->ns, 0, action_add, text), 0);
	return text;
}

static size_t wait_count(const char *key, size_t n)
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

static int count_row(void *arg, uint64_t owner, uint64_t id, const void *value, size_t len)
{
	++*(unsigned *)arg;
	return 0;
}

static unsigned rows_of(enum record_table table, uint64_t ino)
{
	unsigned n = 0;

	assert_int_equal(ns_record_each(ds->ns, table, ino, 0, count_row, &n), 0);
	return n;
}

/* --- tests --- */

static void a_stage_comes_and_goes_on_an_open_image(void **state)
{
	uint64_t ino;
	struct vnode *f = create("a", &ino);

	put(f, 0, "one", 3);
	assert_int_equal(attach("a", "watch", NULL, false), 0);
	assert_int_equal(watchers, 1);
	put(f, 0, "two", 3);
	put(f, 9, "three", 5);
	assert_int_equal(writes_seen("a"), 2);
	assert_int_equal(change_one("a", "watch", NULL), 0);
	assert_int_equal(watchers, 0);
	put(f, 0, "four", 4);
	assert_string_equal(stack_of("a"), "");
	vfs_release(vfs, f);
	again();
	assert_string_equal(stack_of("a"), "");
	assert_string_equal(trail(), "filter attach, filter detach");
	assert_int_equal(rows_of(RECORD_FILTER_STATE, ino), 0); /* nor its last words */
}

static void a_stack_and_its_state_survive(void **state)
{
	uint64_t ino;
	struct vnode *f = create("a", &ino);

	assert_int_equal(attach("a", "watch", "level=4", false), 0);
	for (unsigned i = 0; i < 5; i++)
		put(f, i, "x", 1);
	vfs_release(vfs, f);
	assert_int_equal(vfs_open(vfs, ino, &f), 0); /* closed and open again: not read too early */
	put(f, 0, "y", 1);
	assert_int_equal(writes_seen("a"), 6);
	vfs_release(vfs, f);
	again();
	assert_string_equal(stack_of("a"), "watch:active");
	assert_int_equal(vfs_open(vfs, ino, &f), 0);
	put(f, 0, "z", 1);
	assert_int_equal(writes_seen("a"), 7);
	vfs_release(vfs, f);
}

static void a_flush_makes_state_durable_with_the_content(void **state)
{
	uint64_t ino;
	struct vnode *f = create("a", &ino);

	assert_int_equal(attach("a", "watch", NULL, false), 0);
	put(f, 0, "x", 1);
	put(f, 0, "y", 1);
	assert_int_equal(vfs_fsync(vfs, f), 0);
	put(f, 0, "not flushed", 11);
	/* The log, as it is now, in a second datastore: what a crash would leave. */
	char cmd[256];
	snprintf(cmd, sizeof(cmd), "cp -r '%s' '%s-crash'", world_dir, world_dir);
	assert_int_equal(system(cmd), 0);
	vfs_release(vfs, f);
	manager_down();
	snprintf(cmd, sizeof(cmd), "rm -rf '%s' && mv '%s-crash' '%s'", world_dir, world_dir,
	        world_dir);
	assert_int_equal(system(cmd), 0);
	manager_up(false);
	assert_int_equal(vfs_open(vfs, ino, &f), 0);
	expect_bytes(f, 0, 1, 'y');
	assert_int_equal(writes_seen("a"), 2);
	vfs_release(vfs, f);
}

static void settings_of_an_open_image_change(void **state)
{
	struct vnode *f = create("a", NULL);

	assert_int_equal(attach("a", "watch", "level=4", false), 0);
	assert_int_equal(change_one("a", "watch", "name=guard"), 0);
	assert_int_equal(change_one("a", "watch", "level=10"), -EINVAL);
	json_t *json = listed("a");
	json_t *settings =
	        json_object_get(json_array_get(json_object_get(json, "stages"), 0), "settings");
	assert_string_equal(json_string_value(json_object_get(settings, "level")), "4");
	assert_string_equal(json_string_value(json_object_get(settings, "name")), "guard");
	json_decref(json);
	vfs_release(vfs, f);
}

static void what_a_stage_refuses_changes_nothing(void **state)
{
	uint64_t ino;
	struct vnode *f = create("a", &ino);

	refuse_create = true;
	assert_int_equal(attach("a", "watch", NULL, false), -ENODEV);
	assert_non_null(strstr(why.text, "refuses"));
	assert_string_equal(stack_of("a"), "");
	put(f, 0, "x", 1);
	vfs_release(vfs, f);
	assert_int_equal(rows_of(RECORD_ATTACHMENT, ino), 0);
}

static void an_image_that_does_not_open_says_why_and_others_do(void **state)
{
	uint64_t a, b;
	struct vnode *f = create("a", &a);

	vfs_release(vfs, f);
	vfs_release(vfs, create("b", &b));
	assert_int_equal(attach("a", "watch", NULL, false), 0);
	refuse_create = true;
	assert_int_equal(vfs_open(vfs, a, &f), -EIO);
	json_t *json = status();
	json_t *first = json_array_get(json_object_get(json, "unopenable"), 0);
	assert_string_equal(json_string_value(json_object_get(first, "target")), "a");
	assert_string_equal(
	        json_string_value(json_object_get(first, "reason")), "the watch refuses");
	json_decref(json);
	assert_int_equal(vfs_open(vfs, b, &f), 0);
	vfs_release(vfs, f);
	refuse_create = false;
	assert_int_equal(vfs_open(vfs, a, &f), 0);
	vfs_release(vfs, f);
	assert_int_equal(wait_count("unopenable", 0), 0);
}

/* As a hand in the database would: without the hash. */
static void row_tamper(uint64_t ino, const char *from, const char *to)
{
	struct manifest *mf;
	struct errmsg em = {0};
	struct bytes_out row = {0};

	assert_int_equal(manifest_load(ds->ns, ino, &mf, &em), 0);
	const uint64_t link = mf->plan.items[0].link;
	manifest_free(mf);
	assert_int_equal(ns_record_get(ds->ns, RECORD_ATTACHMENT, ino, link, &row), 0);
	char *at = memmem(row.data, row.len, from, strlen(from));
	assert_non_null(at);
	memcpy(at, to, strlen(to));
	store_enter(ds->store);
	assert_int_equal(ns_record_put(ds->ns, RECORD_ATTACHMENT, ino, link, row.data, row.len), 0);
	store_leave(ds->store);
	bytes_release(&row);
}

static void a_row_that_was_tampered_with_keeps_a_transform_from_opening(void **state)
{
	uint64_t a, b;
	struct vnode *f = create("a", &a);

	vfs_release(vfs, f);
	vfs_release(vfs, create("b", &b));
	assert_int_equal(attach("a", "scramble", "key=5", true), 0);
	assert_int_equal(attach("b", "watch", "level=5", false), 0);
	row_tamper(a, "key=5", "key=6");
	row_tamper(b, "level=5", "level=6");
	assert_int_equal(vfs_open(vfs, a, &f), -EIO);
	assert_string_equal(stack_of("a"), "scramble:damaged");
	assert_int_equal(vfs_open(vfs, b, &f), 0); /* an observer: opens all the same */
	vfs_release(vfs, f);
}

static void what_is_made_in_a_directory_inherits_its_stack(void **state)
{
	const uint64_t dir = make(TOP, "vm", S_IFDIR | 0755);
	uint64_t ino;

	assert_int_equal(attach("vm", "watch", "level=3", false), 0);
	assert_int_equal(attach("vm", "scramble", NULL, true), 0);
	make(dir, "sub", S_IFDIR | 0755);
	struct vnode *f = create_mode(ino_of(dir, "sub"), "a", 0644, &ino);
	assert_string_equal(stack_of("vm/sub/a"), "watch:active scramble:active");
	put(f, 0, "hello", 5);
	assert_int_equal(writes_seen("vm/sub/a"), 1);
	/* Links are the file's own: taking one out leaves the directory's. */
	assert_int_equal(change_one("vm/sub/a", "watch", NULL), 0);
	assert_string_equal(stack_of("vm/sub"), "watch:active scramble:active");
	vfs_release(vfs, f);
}

static void alerts_reach_status_and_trail(void **state)
{
	struct vnode *f = create("a", NULL);

	assert_int_equal(attach("a", "watch", NULL, false), 0);
	put(f, 0, "warn!", 5);
	put(f, 0, "alert", 5);
	assert_int_equal(wait_count("alerts", 2), 2);
	json_t *json = status();
	json_t *second = json_array_get(json_object_get(json, "alerts"), 1);
	assert_string_equal(json_string_value(json_object_get(second, "severity")), "alert");
	assert_string_equal(json_string_value(json_object_get(second, "target")), "a");
	assert_string_equal(json_string_value(json_object_get(second, "type")), "watch");
	json_decref(json);
	for (unsigned i = 0; i < ALERTS_MAX + 5; i++)
		put(f, 0, "warn!", 5);
	assert_int_equal(wait_count("alerts", ALERTS_MAX), ALERTS_MAX);
	vfs_release(vfs, f);
	again();
	assert_string_equal(trail(), "filter attach, alert");
}

static void quarantine_holds_until_it_is_lifted(void **state)
{
	uint64_t ino;
	size_t done;
	struct vnode *f = create("a", &ino);

	assert_int_equal(attach("a", "watch", NULL, false), 0);
	put(f, 0, "virus", 5);
	assert_int_equal(vfs_write(vfs, f, 0, "x", 1, 0, &done), -EROFS);
	expect_bytes(f, 0, 1, 'v');
	vfs_release(vfs, f);
	again();
	assert_int_equal(vfs_open(vfs, ino, &f), 0);
	assert_int_equal(vfs_write(vfs, f, 0, "x", 1, 0, &done), -EROFS);
	json_t *json = listed("a");
	assert_string_equal(json_string_value(json_object_get(json, "quarantine")), "saw a virus");
	json_decref(json);
	assert_int_equal(manager_quarantine_lift(m, &me, "a", &why), 0);
	assert_int_equal(manager_quarantine_lift(m, &me, "a", &why), -ENOENT);
	put(f, 0, "x", 1);
	vfs_release(vfs, f);
	again();
	assert_int_equal(vfs_open(vfs, ino, &f), 0);
	put(f, 0, "x", 1);
	vfs_release(vfs, f);
	assert_string_equal(trail(), "filter attach, quarantine, quarantine lift");
}

static void a_conversion_goes_on_after_an_unmount(void **state)
{
	uint64_t ino;
	struct vnode *f = create("a", &ino);
	struct change_result res;
	struct target t;

	for (unsigned i = 0; i < 24; i++)
		fill(f, i * MIB, MIB, (char)('a' + i));
	assert_int_equal(filter_target(ds->ns, "a", &t, &why), 0);
	pthread_mutex_lock(&m->lock);
	assert_int_equal(
	        change_attach(m, &me, &t, stage_type_find("scramble"), NULL, 0, true, &res, &why),
	        0);
	pthread_mutex_unlock(&m->lock);
	assert_string_equal(res.state, "converting in");
	vfs_release(vfs, f);
	again();
	assert_int_equal(jobs_wait(m->jobs, ino, res.link, NULL, NULL, &why), 0);
	assert_string_equal(stack_of("a"), "scramble:active");
	assert_int_equal(vfs_open(vfs, ino, &f), 0);
	for (unsigned i = 0; i < 24; i++)
		expect_bytes(f, i * MIB + 777, 64 << 10, (char)('a' + i));
	/* And out again; what lies below is the guest's data once more. */
	assert_int_equal(change_one("a", "scramble", NULL), 0);
	for (unsigned i = 0; i < 24; i++)
		expect_bytes(f, i * MIB, 64 << 10, (char)('a' + i));
	vfs_release(vfs, f);
	assert_int_equal(rows_of(RECORD_JOB, ino), 0);
	assert_int_equal(rows_of(RECORD_FILTER_STATE, ino), 0);
}

static void actions_reach_the_stage(void **state)
{
	static const char *const args[] = {"one"};
	json_t *json = NULL;

	vfs_release(vfs, create("a", NULL));
	assert_int_equal(attach("a", "watch", NULL, false), 0);
	assert_int_equal(manager_action(m, &me, "a", "watch", "look", args, 1, &json, &why), 0);
	assert_string_equal(json_string_value(json_array_get(json, 0)), "with");
	json_decref(json);
	assert_int_equal(
	        manager_action(m, &me, "a", "scramble", "look", NULL, 0, &json, &why), -ENOENT);
	assert_int_equal(
	        manager_action(m, &me, "", "watch", "look", NULL, 0, &json, &why), -EISDIR);
	assert_string_equal(trail(), "filter attach, filter run");
}

static void a_recursive_change_lists_what_failed(void **state)
{
	const uint64_t dir = make(TOP, "vm", S_IFDIR | 0755);
	const struct filter_change c = {.target = "vm", .type = "compress", .recursive = true};
	json_t *json = NULL;

	vfs_release(vfs, create_mode(dir, "a", 0644, NULL));
	vfs_release(vfs, create_mode(dir, "b", 0644, NULL));
	struct vfs_entry e;
	assert_int_equal(vfs_link(vfs, ino_of(dir, "b"), dir, "b2", &e), 0);
	assert_int_equal(attach("vm/a", "compress", NULL, false), 0);
	assert_int_equal(manager_attach(m, &me, &c, NULL, NULL, &json, &why), 0);
	assert_int_equal(json_array_size(json_object_get(json, "changed")), 2); /* vm, b: once */
	assert_int_equal(json_array_size(json_object_get(json, "failed")), 1);  /* a has one */
	json_decref(json);
}

static void a_recursive_detach_leaves_alone_what_does_not_have_it(void **state)
{
	const uint64_t dir = make(TOP, "vm", S_IFDIR | 0755);
	const struct filter_change c = {
	        .target = "vm", .type = "watch", .recursive = true, .wait = true};
	json_t *json = NULL;

	vfs_release(vfs, create_mode(dir, "a", 0644, NULL));
	vfs_release(vfs, create_mode(dir, "b", 0644, NULL));
	assert_int_equal(attach("vm/a", "watch", NULL, false), 0);
	assert_int_equal(manager_detach(m, &me, &c, NULL, NULL, &json, &why), 0);
	assert_int_equal(json_array_size(json_object_get(json, "changed")), 1);
	assert_int_equal(json_array_size(json_object_get(json, "failed")), 0);
	json_decref(json);
	assert_string_equal(stack_of("vm/a"), "");
	assert_int_equal(manager_detach(m, &me, &c, NULL, NULL, &json, &why), -ENOENT);
}

static void read_only_nothing_changes_and_everything_is_told(void **state)
{
	uint64_t ino;
	struct vnode *f = create("a", &ino);
	json_t *json = NULL;

	put(f, 0, "hello", 5);
	assert_int_equal(attach("a", "scramble", NULL, true), 0);
	vfs_release(vfs, f);
	manager_down();
	manager_up(true);
	assert_int_equal(vfs_open(vfs, ino, &f), 0);
	char buf[5];
	assert_int_equal(get(f, 0, buf, 5), 5);
	assert_memory_equal(buf, "hello", 5);
	assert_int_equal(attach("a", "watch", NULL, false), -EROFS);
	vfs_release(vfs, f);
	assert_int_equal(filter_report_list(ds, "a", &json, &why), 0);
	assert_int_equal(json_array_size(json_object_get(json, "stages")), 5);
	json_decref(json);
	manager_down();
	manager_up(false);
}

int main(void)
{
	struct errmsg em = {0};
	const struct CMUnitTest tests[] = {
	        MANAGER_CASE(a_stage_comes_and_goes_on_an_open_image),
	        MANAGER_CASE(a_stack_and_its_state_survive),
	        MANAGER_CASE(a_flush_makes_state_durable_with_the_content),
	        MANAGER_CASE(settings_of_an_open_image_change),
	        MANAGER_CASE(what_a_stage_refuses_changes_nothing),
	        MANAGER_CASE(an_image_that_does_not_open_says_why_and_others_do),
	        MANAGER_CASE(a_row_that_was_tampered_with_keeps_a_transform_from_opening),
	        MANAGER_CASE(what_is_made_in_a_directory_inherits_its_stack),
	        MANAGER_CASE(alerts_reach_status_and_trail),
	        MANAGER_CASE(quarantine_holds_until_it_is_lifted),
	        MANAGER_CASE(a_conversion_goes_on_after_an_unmount),
	        MANAGER_CASE(actions_reach_the_stage),
	        MANAGER_CASE(a_recursive_change_lists_what_failed),
	        MANAGER_CASE(a_recursive_detach_leaves_alone_what_does_not_have_it),
	        MANAGER_CASE(read_only_nothing_changes_and_everything_is_told),
	};

	if (stage_type_add(&watch_type, &em) < 0) {
		fprintf(stderr, "%s\n", em.text);
		return 1;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}

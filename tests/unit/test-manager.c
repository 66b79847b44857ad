/*
 * test-manager.c - stacks of a real datastore, without a mount: what changes, what is kept, what is
 * told
 */
#include "manager-world.h"

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

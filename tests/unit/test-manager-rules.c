/*
 * test-manager-rules.c - what may happen to an image with filters, and what may not half happen
 */
#include <pthread.h>

#include "manager-world.h"

#define FAR  "worm_until=2200-01-01"
#define NEAR "worm_until=2100-01-01"

/* --- write-once --- */

static int rename_in_top(const char *from, const char *to, unsigned flags)
{
	return vfs_rename(vfs, TOP, from, TOP, to, flags);
}

/* Neither removed nor replaced; it may be called otherwise. */
static void it_stays(void)
{
	assert_int_equal(vfs_unlink(vfs, TOP, "a"), -EPERM);
	assert_int_equal(rename_in_top("b", "a", 0), -EPERM);
	assert_int_equal(rename_in_top("a", "c", 0), 0);
	assert_int_equal(rename_in_top("b", "c", 0), -EPERM);
	assert_int_equal(rename_in_top("c", "a", 0), 0);
	assert_int_not_equal(ino_of(TOP, "a"), 0);
	assert_int_not_equal(ino_of(TOP, "b"), 0);
	assert_int_equal(rename_in_top("b", "a", RENAME_EXCHANGE), 0); /* nothing is lost */
	assert_int_equal(vfs_unlink(vfs, TOP, "b"), -EPERM);
	assert_int_equal(rename_in_top("b", "a", RENAME_EXCHANGE), 0);
}

static void what_is_write_once_stays_open_or_closed(void **state)
{
	uint64_t ino;
	struct vfs_entry e;
	struct vnode *f = create("a", &ino);

	vfs_release(vfs, create("b", NULL));
	put(f, 0, "kept", 4);
	assert_int_equal(attach("a", "protect", FAR, false), 0);
	it_stays();
	vfs_release(vfs, f);
	it_stays();
	assert_int_equal(vfs_link(vfs, ino, TOP, "a2", &e), 0);
	assert_int_equal(vfs_unlink(vfs, TOP, "a2"), 0); /* not the last one */
	again();
	it_stays();
	assert_int_equal(change_one("a", "protect", NULL), 0); /* detach: in the trail */
	assert_int_equal(rename_in_top("b", "a", 0), 0);
	assert_int_equal(vfs_unlink(vfs, TOP, "a"), 0);
}

struct remover {
	pthread_barrier_t *barrier;
	const char *name;
	int result;
};

static void *name_remove(void *arg)
{
	struct remover *r = arg;

	pthread_barrier_wait(r->barrier);
	r->result = vfs_unlink(vfs, TOP, r->name);
	return NULL;
}

/* Each may have seen two names; one of them takes the last. */
static void two_who_take_a_name_each_leave_one(void **state)
{
	uint64_t ino;
	struct vfs_entry e;
	pthread_t threads[2];
	pthread_barrier_t barrier;

	vfs_release(vfs, create("a", &ino));
	assert_int_equal(attach("a", "protect", FAR, false), 0);
	pthread_barrier_init(&barrier, NULL, 2);
	for (unsigned i = 0; i < 100; i++) {
		struct remover r[2] = {{&barrier, "a", 1}, {&barrier, "b", 1}};
		assert_int_equal(vfs_link(vfs, ino, TOP, ino_of(TOP, "a") ? "b" : "a", &e), 0);
		for (unsigned k = 0; k < 2; k++)
			assert_int_equal(pthread_create(&threads[k], NULL, name_remove, &r[k]), 0);
		for (unsigned k = 0; k < 2; k++)
			pthread_join(threads[k], NULL);
		assert_int_equal(r[0].result + r[1].result, -EPERM);
		assert_true(ino_of(TOP, "a") || ino_of(TOP, "b"));
	}
	pthread_barrier_destroy(&barrier);
}

static void its_date_moves_away_only_open_or_closed(void **state)
{
	uint64_t ino;
	struct vnode *f = create("a", &ino);

	assert_int_equal(attach("a", "protect", FAR, false), 0);
	assert_int_equal(change_one("a", "protect", NEAR), -EPERM);
	vfs_release(vfs, f);
	assert_int_equal(change_one("a", "protect", NEAR), -EPERM);
	assert_int_equal(change_one("a", "protect", "worm_until="), -EPERM);
	assert_int_equal(change_one("a", "protect", "worm_until=2201-01-01"), 0);
	assert_int_equal(change_one("a", "protect", FAR), -EPERM);
}

/* --- quarantine --- */

static void quarantine_is_durable_when_it_holds(void **state)
{
	uint64_t ino;
	struct vnode *f = create("a", &ino);

	assert_int_equal(attach("a", "watch", NULL, false), 0);
	put(f, 0, "virus", 5);
	assert_int_equal(rows_of(RECORD_FLAG, ino), 1);
	vfs_release(vfs, f);
}

static void a_full_queue_of_messages_loses_no_quarantine(void **state)
{
	uint64_t ino;
	struct vnode *f = create("a", &ino);

	assert_int_equal(attach("a", "watch", NULL, false), 0);
	pthread_mutex_lock(&m->record_lock); /* the clerk gets no further than the first */
	for (unsigned i = 0; i < 3 * NOTICES_QUEUED; i++)
		notices_say(m->notices, ino, "watch", STAGE_SEVERITY_ALERT, "too much");
	pthread_mutex_unlock(&m->record_lock);
	put(f, 0, "virus", 5);
	assert_int_equal(rows_of(RECORD_FLAG, ino), 1);
	vfs_release(vfs, f);
	again();
	json_t *json = listed("a");
	assert_string_equal(json_string_value(json_object_get(json, "quarantine")), "saw a virus");
	json_decref(json);
}

static void what_is_deleted_is_forgotten(void **state)
{
	uint64_t ino;
	struct vnode *f = create("a", &ino);

	assert_int_equal(attach("a", "watch", NULL, false), 0);
	put(f, 0, "virus", 5);
	assert_int_equal(vfs_unlink(vfs, TOP, "a"), 0);
	vfs_release(vfs, f); /* the stage's last words are put for nobody */
	vfs_forget(vfs, ino, 1);
	vfs_release(vfs, create("b", NULL)); /* sweeps */
	assert_null(image_peek(m, ino));
	assert_false(notices_quarantined(m->notices, ino));
}

/* --- settings --- */

static void a_setting_goes_back_to_its_default(void **state)
{
	vfs_release(vfs, create("a", NULL));
	assert_int_equal(attach("a", "watch", "level=3", false), 0);
	assert_int_equal(change_one("a", "watch", "name=x"), 0);
	assert_int_equal(change_one("a", "watch", "level="), 0);
	json_t *json = listed("a");
	json_t *settings =
	        json_object_get(json_array_get(json_object_get(json, "stages"), 0), "settings");
	assert_string_equal(json_string_value(json_object_get(settings, "level")), "1");
	assert_string_equal(json_string_value(json_object_get(settings, "name")), "x");
	json_decref(json);
	assert_int_equal(change_one("a", "watch", "levle="), -EINVAL);
	assert_non_null(strstr(why.text, "did you mean 'level'"));
}

static void asking_is_not_audited(void **state)
{
	json_t *json = NULL;

	vfs_release(vfs, create("a", NULL));
	assert_int_equal(attach("a", "watch", NULL, false), 0);
	assert_int_equal(manager_action(m, &me, "a", "watch", "ask", NULL, 0, &json, &why), 0);
	json_decref(json);
	assert_string_equal(trail(), "filter attach");
}

/* --- policies --- */

static int policy_apply(const char *target, bool force)
{
	const struct filter_change c = {.target = target, .type = "gold", .force = force};
	json_t *json = NULL;

	why = (struct errmsg){0};
	const int r = manager_policy_apply(m, &me, &c, NULL, NULL, &json, &why);
	json_decref(json);
	return r;
}

static void a_policy_is_applied_as_a_whole_or_not_at_all(void **state)
{
	json_t *json = NULL;
	uint64_t ino;

	vfs_release(vfs, create("model", NULL));
	assert_int_equal(attach("model", "watch", "level=7", false), 0);
	assert_int_equal(attach("model", "protect", "ranges=0+4K", false), 0);
	assert_int_equal(attach("model", "scramble", NULL, true), 0); /* asks for --force */
	assert_int_equal(manager_policy_save(m, &me, "gold", "model", &json, &why), 0);
	json_decref(json);
	struct vnode *f = create("a", &ino);
	assert_int_equal(attach("a", "watch", NULL, false), 0);
	assert_int_equal(attach("a", "throttle", "iops=100000", false), 0);
	for (unsigned open = 2; open-- > 0;) {
		assert_int_equal(policy_apply("a", false), -EPERM);
		assert_string_equal(stack_of("a"), "watch:active throttle:active");
		json = listed("a");
		json_t *first = json_array_get(json_object_get(json, "stages"), 0);
		assert_string_equal(json_string_value(json_object_get(
		                            json_object_get(first, "settings"), "level")),
		        "1");
		json_decref(json);
		if (open)
			vfs_release(vfs, f);
	}
	assert_int_equal(vfs_open(vfs, ino, &f), 0);
	refuse_create = true; /* what fails with the image drained leaves nothing either */
	assert_int_equal(attach("a", "watch", NULL, false), -ENODEV);
	refuse_create = false;
	assert_int_equal(policy_apply("a", true), 0);
	assert_string_equal(stack_of("a"), "watch:active protect:active scramble:active");
	const size_t entries = strlen(trail());
	assert_int_equal(policy_apply("a", true), 0); /* nothing to do */
	assert_int_equal(strlen(trail()), entries);
	put(f, 8192, "hello", 5);
	vfs_release(vfs, f);
	again();
	assert_string_equal(stack_of("a"), "watch:active protect:active scramble:active");
}

/* --- jobs --- */

static void a_job_that_is_asked_for_again_keeps_its_row(void **state)
{
	struct change_result res;
	struct target t;
	struct job job;
	uint64_t ino;
	struct vnode *f = create("a", &ino);

	fill(f, 0, MIB, 'a');
	vfs_release(vfs, f);
	manager_stop(m); /* no thread takes it */
	assert_int_equal(filter_target(ds->ns, "a", &t, &why), 0);
	pthread_mutex_lock(&m->lock);
	assert_int_equal(
	        change_attach(m, &me, &t, stage_type_find("scramble"), NULL, 0, true, &res, &why),
	        0);
	assert_false(jobs_again(m->jobs, ino, res.link));
	assert_int_equal(jobs_find(m->jobs, ino, res.link, &job), 0);
	assert_int_equal(jobs_add(m->jobs, &job), 0);
	assert_true(jobs_again(m->jobs, ino, res.link));
	pthread_mutex_unlock(&m->lock);
	/* The first one ends, as its thread would have it. */
	assert_int_equal(change_finish(m, ino, res.link, &why), 0);
	assert_int_equal(rows_of(RECORD_JOB, ino), 1);
	assert_string_equal(stack_of("a"), "scramble:converting in");
	again();
	assert_int_equal(jobs_wait(m->jobs, ino, res.link, NULL, NULL, &why), 0);
	assert_string_equal(stack_of("a"), "scramble:active");
	assert_int_equal(vfs_open(vfs, ino, &f), 0);
	expect_bytes(f, 0, 64 << 10, 'a');
	vfs_release(vfs, f);
}

/* --- all below --- */

static unsigned told;
static uint64_t told_total;

static void progress_note(void *arg, uint64_t done, uint64_t total)
{
	told++;
	told_total = total;
	/* Nobody is held up meanwhile. */
	assert_int_equal(pthread_mutex_trylock(&m->lock), 0);
	pthread_mutex_unlock(&m->lock);
}

static void a_recursive_change_tells_how_far_it_is(void **state)
{
	const uint64_t dir = make(TOP, "vm", S_IFDIR | 0755);
	const struct filter_change c = {.target = "vm", .type = "watch", .recursive = true};
	char name[16];
	json_t *json = NULL;

	for (unsigned i = 0; i < 20; i++) {
		snprintf(name, sizeof(name), "%u", i);
		vfs_release(vfs, create_mode(dir, name, 0644, NULL));
	}
	assert_int_equal(manager_attach(m, &me, &c, progress_note, NULL, &json, &why), 0);
	assert_int_equal(json_array_size(json_object_get(json, "changed")), 21);
	json_decref(json);
	assert_int_equal(told, 21);
	assert_int_equal(told_total, 21);
}

static void made_meanwhile(void *arg, uint64_t done, uint64_t total)
{
	const uint64_t *dirs = arg;

	if (done != 1)
		return; /* vm is changed, vm/sub is not */
	vfs_release(vfs, create_mode(dirs[0], "inherits", 0644, NULL));
	vfs_release(vfs, create_mode(dirs[1], "does-not", 0644, NULL));
}

static void what_is_made_meanwhile_gets_it_once(void **state)
{
	uint64_t dirs[2];
	const struct filter_change c = {.target = "vm", .type = "watch", .recursive = true};
	json_t *json = NULL;

	dirs[0] = make(TOP, "vm", S_IFDIR | 0755);
	dirs[1] = make(dirs[0], "sub", S_IFDIR | 0755);
	vfs_release(vfs, create_mode(dirs[1], "old", 0644, NULL));
	assert_int_equal(manager_attach(m, &me, &c, made_meanwhile, dirs, &json, &why), 0);
	assert_int_equal(json_array_size(json_object_get(json, "failed")), 0);
	json_decref(json);
	assert_string_equal(stack_of("vm/inherits"), "watch:active");
	assert_string_equal(stack_of("vm/sub/does-not"), "watch:active");
	assert_string_equal(stack_of("vm/sub/old"), "watch:active");
}

int main(void)
{
	struct errmsg em = {0};
	const struct CMUnitTest tests[] = {
	        MANAGER_CASE(what_is_write_once_stays_open_or_closed),
	        MANAGER_CASE(two_who_take_a_name_each_leave_one),
	        MANAGER_CASE(its_date_moves_away_only_open_or_closed),
	        MANAGER_CASE(quarantine_is_durable_when_it_holds),
	        MANAGER_CASE(a_full_queue_of_messages_loses_no_quarantine),
	        MANAGER_CASE(what_is_deleted_is_forgotten),
	        MANAGER_CASE(a_setting_goes_back_to_its_default),
	        MANAGER_CASE(asking_is_not_audited),
	        MANAGER_CASE(a_policy_is_applied_as_a_whole_or_not_at_all),
	        MANAGER_CASE(a_job_that_is_asked_for_again_keeps_its_row),
	        MANAGER_CASE(a_recursive_change_tells_how_far_it_is),
	        MANAGER_CASE(what_is_made_meanwhile_gets_it_once),
	};

	if (stage_type_add(&watch_type, &em) < 0) {
		fprintf(stderr, "%s\n", em.text);
		return 1;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}

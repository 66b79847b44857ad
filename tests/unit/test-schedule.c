/*
 * test-schedule.c - snapshots that the daemon takes by itself: on time, once, and deleted by rule
 *
 * Without the thread: the tests say what time it is.
 */
#include "manager-world.h"

#include "base/clock.h"
#include "fs/snapshot/private.h"
#include "fs/snapshot/schedule.h"

#define MINUTE (60 * NS_PER_SEC)
#define HOUR   (60 * MINUTE)
#define DAY    (24 * HOUR)
#define MONDAY (1795392000ull * NS_PER_SEC)

static struct errmsg em;

/* As in the daemon, but for the threads of the manager's start. */
static void up(void)
{
	assert_int_equal(world_open(false), 0);
	assert_int_equal(manager_new(ds, vfs, &m, &em), 0);
	const struct vfs_filters filters = manager_filters(m);
	vfs_set_filters(vfs, &filters);
}

static void remount(void)
{
	manager_down();
	up();
}

static int setup_still(void **state)
{
	if (setup(state) < 0)
		return -1;
	remount();
	return 0;
}

#define STILL_CASE(fn) cmocka_unit_test_setup_teardown(fn, setup_still, teardown)

static int schedule(const char *target, const char *action, const char *every, const char *keep)
{
	const struct snapshot_request rq = {
	        .target = target, .action = action, .every = every, .keep = keep};
	json_t *json = NULL;

	em = (struct errmsg){0};
	const int r = snapshots_schedule(m, &me, &rq, &json, &em);
	json_decref(json);
	return r;
}

static unsigned run(uint64_t wall_ns)
{
	return schedules_run(m->schedules, wall_ns);
}

/* "NAME NAME ...", of all targets, in the order in which they were taken; static. */
static int name_note(void *arg, const struct snapshot *s)
{
	char *text = arg;

	snprintf(text + strlen(text), 8192 - strlen(text), "%s%s", *text ? " " : "", s->name);
	return 0;
}

static const char *names(void)
{
	static char text[8192];

	text[0] = '\0';
	assert_int_equal(snapshots_each(ds->ns, name_note, text), 0);
	return text;
}

static unsigned count(void)
{
	unsigned n = *names() ? 1 : 0;

	for (const char *p = names(); *p; p++)
		n += *p == ' ';
	return n;
}

static void image(const char *name)
{
	struct vnode *f = create(name, NULL);

	put(f, 0, name, strlen(name));
	vfs_release(vfs, f);
}

static const json_t *first(json_t *json)
{
	return json_array_get(json_object_get(json, "schedules"), 0);
}

static json_t *schedules_listed(const char *target)
{
	const struct snapshot_request rq = {.target = target};
	json_t *json = NULL;

	assert_int_equal(snapshots_schedules(ds, m, &rq, &json, &em), 0);
	return json;
}

static void a_schedule_is_checked_kept_and_removed(void **state)
{
	image("a");
	assert_int_equal(schedule("a", "set", "15m", NULL), -EINVAL);
	assert_int_equal(schedule("a", "set", NULL, "4h"), -EINVAL);
	assert_int_equal(schedule("a", "set", "59s", "4h"), -EINVAL);
	assert_int_equal(schedule("a", "set", "1000d", "4h"), -EINVAL);
	assert_int_equal(schedule("a", "set", "15m", "4m"), -EINVAL);
	assert_int_equal(schedule("a", "pause", NULL, NULL), -ENOENT);
	assert_int_equal(schedule("a", "remove", NULL, NULL), -ENOENT);
	assert_int_equal(schedule("none", "set", "15m", "4h"), -ENOENT);
	assert_int_equal(schedule("a", "set", "15m", "4h,7d"), 0);
	remount();
	assert_int_equal(schedule("a", "set", NULL, "8w"), 0);
	json_t *json = schedules_listed("");
	assert_int_equal(json_integer_value(json_object_get(first(json), "every_ns")), 15 * MINUTE);
	assert_string_equal(json_string_value(json_object_get(first(json), "keep")), "8w");
	json_decref(json);
	assert_int_equal(schedule("a", "remove", NULL, NULL), 0);
	remount();
	assert_int_equal(run(MONDAY), 0);
	assert_non_null(strstr(trail(), "snapshot schedule"));
}

static void snapshots_are_taken_on_time_and_expire(void **state)
{
	image("a");
	assert_int_equal(schedule("a", "set", "1h", "3h"), 0);
	assert_int_equal(run(MONDAY + 7 * MINUTE), 1); /* the first one at once */
	assert_string_equal(names(), "auto-20261123T000700Z");
	assert_int_equal(run(MONDAY + 59 * MINUTE), 0);
	assert_int_equal(run(MONDAY + HOUR), 1);
	assert_int_equal(run(MONDAY + HOUR + 1), 0);
	for (unsigned i = 2; i < 6; i++)
		assert_int_equal(run(MONDAY + i * HOUR), 1);
	assert_string_equal(
	        names(), "auto-20261123T030000Z auto-20261123T040000Z auto-20261123T050000Z");
	json_t *json = schedules_listed("a");
	assert_int_equal(json_integer_value(json_object_get(first(json), "snapshots")), 3);
	assert_true(json_is_null(json_object_get(first(json), "failing")));
	json_decref(json);
}

static void what_was_missed_is_made_up_for_once(void **state)
{
	image("a");
	assert_int_equal(schedule("a", "set", "15m", "100"), 0);
	assert_int_equal(run(MONDAY), 1);
	remount();
	assert_int_equal(run(MONDAY + 10 * MINUTE), 0); /* not yet, for all that it was away */
	remount();
	assert_int_equal(run(MONDAY + 3 * DAY + MINUTE), 1);
	assert_int_equal(run(MONDAY + 3 * DAY + 2 * MINUTE), 0);
	assert_int_equal(run(MONDAY + 3 * DAY + 15 * MINUTE), 1);
	assert_int_equal(count(), 3);
}

static void names_stay_unique_when_the_clock_goes_back(void **state)
{
	image("a");
	assert_int_equal(schedule("a", "set", "1h", "10"), 0);
	assert_int_equal(schedule("", "set", "1h", "10"), 0);
	assert_int_equal(run(MONDAY + DAY), 2); /* of the image and the datastore: one second */
	assert_int_equal(run(MONDAY), 2);
	assert_int_equal(run(MONDAY + DAY), 2);
	assert_int_equal(count(), 6);
	assert_non_null(strstr(names(), "auto-20261124T000000Z.002"));
	assert_non_null(strstr(names(), "auto-20261124T000000Z.004"));
}

static int request(int (*fn)(struct manager *, const struct filter_caller *,
                           const struct snapshot_request *, json_t **, struct errmsg *),
        const struct snapshot_request *rq)
{
	json_t *json = NULL;
	const int r = fn(m, &me, rq, &json, &em);

	json_decref(json);
	return r;
}

static void only_its_own_snapshots_are_deleted(void **state)
{
	struct snapshot_request rq = {.target = "a", .name = "auto-mine"};
	json_t *json = NULL;

	image("a");
	assert_int_equal(request(snapshots_create, &rq), 0);
	assert_int_equal(schedule("a", "set", "1h", "1"), 0);
	assert_int_equal(run(MONDAY), 1);
	rq.name = "auto-20261123T000000Z";
	rq.holder = "backup";
	assert_int_equal(snapshots_hold(m, &me, &rq, true, &json, &em), 0);
	json_decref(json);
	assert_int_equal(run(MONDAY + HOUR), 1);
	rq.name = "auto-20261123T010000Z";
	rq.other_name = "good";
	assert_int_equal(request(snapshots_rename, &rq), 0);
	assert_int_equal(run(MONDAY + 2 * HOUR), 1);
	assert_int_equal(run(MONDAY + 3 * HOUR), 1);
	assert_string_equal(names(), "auto-mine auto-20261123T000000Z good auto-20261123T030000Z");
	/* Released, it goes with the next run; what another target's took does not. */
	rq.name = "auto-20261123T000000Z";
	json = NULL;
	assert_int_equal(snapshots_hold(m, &me, &rq, false, &json, &em), 0);
	json_decref(json);
	assert_int_equal(schedule("", "set", "1h", "1"), 0);
	assert_int_equal(run(MONDAY + 4 * HOUR), 2);
	assert_string_equal(
	        names(), "auto-mine good auto-20261123T040000Z auto-20261123T040000Z.002");
	/* Without a schedule they stay. */
	assert_int_equal(schedule("a", "remove", NULL, NULL), 0);
	assert_int_equal(schedule("", "pause", NULL, NULL), 0);
	assert_int_equal(run(MONDAY + 5 * HOUR), 0);
	assert_int_equal(count(), 4);
	assert_int_equal(schedule("", "resume", NULL, NULL), 0);
	assert_int_equal(run(MONDAY + 5 * HOUR), 1);
}

static void an_empty_directory_is_no_failure_and_a_removed_one_is_forgotten(void **state)
{
	vfs_forget(vfs, make(TOP, "vm", S_IFDIR | 0755), 1);
	assert_int_equal(schedule("vm", "set", "1h", "1"), 0);
	assert_int_equal(run(MONDAY), 1);
	assert_int_equal(run(MONDAY + 1), 0);
	json_t *json = schedules_listed("vm");
	assert_true(json_is_null(json_object_get(first(json), "failing")));
	json_decref(json);
	assert_int_equal(vfs_rmdir(vfs, TOP, "vm"), 0);
	assert_int_equal(run(MONDAY + HOUR), 0);
	json = schedules_listed("");
	assert_int_equal(json_array_size(json_object_get(json, "schedules")), 0);
	json_decref(json);
	assert_int_equal(count(), 0);
}

static int busy_image;

static int refuse(void *stage, const struct stage_event *event, struct errmsg *why_not)
{
	if (event->kind != STAGE_EVENT_SNAPSHOT || !busy_image)
		return 0;
	return errmsg_set(why_not, -EBUSY, "the stage refuses");
}

static struct stage_type refusing;

static void a_failure_is_an_alert_and_tried_again(void **state)
{
	struct vnode *f = create("a", NULL);

	put(f, 0, "x", 1);
	assert_int_equal(attach("a", "refusing", NULL, false), 0);
	assert_int_equal(schedule("a", "set", "1h", "5"), 0);
	busy_image = 1;
	log_set_level(LOG_ERROR - 1);
	assert_int_equal(run(MONDAY), 1);
	json_t *json = schedules_listed("a");
	assert_string_equal(
	        json_string_value(json_object_get(first(json), "failing")), "the stage refuses");
	json_decref(json);
	assert_int_equal(run(MONDAY + MINUTE), 0); /* not at once */
	for (unsigned i = 0; i < 100; i++) {
		json = status();
		const size_t n = json_array_size(json_object_get(json, "alerts"));
		json_decref(json);
		if (n > 0)
			break;
		usleep(10000);
	}
	json = status();
	const json_t *alert = json_array_get(json_object_get(json, "alerts"), 0);
	assert_string_equal(json_string_value(json_object_get(alert, "type")), "schedule");
	assert_string_equal(json_string_value(json_object_get(alert, "text")), "the stage refuses");
	json_decref(json);
	busy_image = 0;
	assert_int_equal(count(), 0);
	vfs_release(vfs, f);
	remount(); /* knows of no failure */
	assert_int_equal(run(MONDAY + HOUR), 1);
	assert_int_equal(count(), 1);
}

/* --- with the thread --- */

static void the_thread_takes_the_first_one_at_once(void **state)
{
	image("a");
	assert_int_equal(schedule("a", "set", "1h", "4h"), 0);
	for (unsigned i = 0; i < 500 && count() == 0; i++)
		usleep(10000);
	assert_int_equal(count(), 1);
	again();
	usleep(50000);
	assert_int_equal(count(), 1);
}

static void an_alarm_has_its_snapshot_and_says_so(void **state)
{
	image("a");
	const uint64_t ino = ino_of(TOP, "a");
	log_set_level(LOG_ERROR);
	for (unsigned i = 0; i < 18; i++) {
		assert_true(schedules_alarm(m->schedules, ino, "protect"));
		for (unsigned j = 0; j < 500 && count() < MIN(i + 1, 16u); j++)
			usleep(10000);
	}
	usleep(100000);
	assert_int_equal(count(), 16); /* a limit on everything */
	assert_int_equal(strncmp(names(), "protect-20", 10), 0);
	json_t *json = status();
	const json_t *alert = json_array_get(json_object_get(json, "alerts"), 0);
	assert_non_null(strstr(json_string_value(json_object_get(alert, "text")),
	        "is kept as snapshot 'protect-"));
	json_decref(json);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        STILL_CASE(a_schedule_is_checked_kept_and_removed),
	        STILL_CASE(snapshots_are_taken_on_time_and_expire),
	        STILL_CASE(what_was_missed_is_made_up_for_once),
	        STILL_CASE(names_stay_unique_when_the_clock_goes_back),
	        STILL_CASE(only_its_own_snapshots_are_deleted),
	        STILL_CASE(an_empty_directory_is_no_failure_and_a_removed_one_is_forgotten),
	        STILL_CASE(a_failure_is_an_alert_and_tried_again),
	        MANAGER_CASE(the_thread_takes_the_first_one_at_once),
	        MANAGER_CASE(an_alarm_has_its_snapshot_and_says_so),
	};
	refusing = watch_type;
	refusing.name = "refusing";
	refusing.prepare = refuse;
	if (stage_type_add(&refusing, &em) < 0) {
		fprintf(stderr, "%s\n", em.text);
		return 1;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}

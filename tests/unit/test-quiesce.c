/*
 * test-quiesce.c - guests are frozen and always thawed, whatever their agents do
 */
#include "manager-world.h"

#include "base/clock.h"
#include "fake-agent.h"
#include "fs/snapshot/agent.h"
#include "fs/snapshot/quiesce.h"
#include "fs/snapshot/records.h"
#include "fs/snapshot/schedule.h"
#include "fs/snapshot/snapshots.h"

/* Short, for agents that do not answer; long for those that do. */
static const struct quiesce_limits brief = {
        .freeze_ns = 300 * NS_PER_MS, .hold_ns = 200 * NS_PER_MS, .thaw_ns = 500 * NS_PER_MS};
static const struct quiesce_limits ample = {
        .freeze_ns = 20 * NS_PER_SEC, .hold_ns = 20 * NS_PER_SEC, .thaw_ns = 20 * NS_PER_SEC};
static struct errmsg em;

static const char *socket_path(unsigned n)
{
	static char path[3][100];

	snprintf(path[n], sizeof(path[n]), "%s/agent%u", world_dir, n);
	return path[n];
}

static int begin(struct fake_agent *a, enum agent_fault fault, const struct quiesce_limits *limits,
        struct quiesce **ret_q)
{
	const char *path = socket_path(0);

	fake_agent_start(a, path, fault);
	a->slow_ms = 700;
	em = (struct errmsg){0};
	return quiesce_begin(&path, 1, false, limits, NULL, ret_q, &em);
}

static void replies_are_told_from_anything_else(void **state)
{
	static const char *const bad[] = {"", "{", "[]", "7", "null", "{}",
	        "{\"return\": 1, \"return\": 2}", "{\"error\": 1}", "{\"event\": {}}",
	        "\xff{\"return\": 1}"};
	static const char *const good[] = {"{\"return\": {}}", "{\"return\": null, \"id\": 1}"};
	struct agent_reply reply;
	char deep[8192];

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(agent_reply_parse(bad[i], strlen(bad[i]), &reply), -EPROTO);
	for (unsigned i = 0; i < ARRAY_SIZE(good); i++)
		assert_int_equal(agent_reply_parse(good[i], strlen(good[i]), &reply), 0);
	memset(deep, '[', sizeof(deep));
	assert_int_equal(agent_reply_parse(deep, sizeof(deep), &reply), -EPROTO);
	const char *text = "{\"return\": -5}";
	assert_int_equal(agent_reply_parse(text, strlen(text), &reply), 0);
	assert_int_equal(reply.number, -5);
	text = "{\"error\": {\"class\": \"x\", \"desc\": \"a\\u001b[31mb\"}}";
	assert_int_equal(agent_reply_parse(text, strlen(text), &reply), 0);
	assert_true(reply.failed);
	assert_string_equal(reply.text, "a?[31mb");
}

static void a_guest_is_frozen_until_the_instant(void **state)
{
	struct fake_agent a;
	struct quiesce *q;

	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(begin(&a, i ? AGENT_STALE : AGENT_GOOD, &ample, &q), 0);
		assert_true(a.frozen);
		assert_true(quiesce_holds(q));
		assert_int_equal(quiesce_count(q), 1);
		quiesce_thaw(q);
		assert_false(quiesce_holds(q));
		assert_int_equal(quiesce_end(q, &em), 0);
		assert_false(a.frozen);
		assert_int_equal(a.thaws, 1);
		fake_agent_stop(&a);
	}
	assert_int_equal(quiesce_end(NULL, &em), 0);
}

static void it_is_thawed_when_the_instant_does_not_come(void **state)
{
	struct fake_agent a;
	struct quiesce *q;

	assert_int_equal(begin(&a, AGENT_GOOD, &brief, &q), 0);
	for (unsigned i = 0; i < 500 && a.frozen; i++)
		usleep(10000);
	assert_false(a.frozen);
	assert_false(quiesce_holds(q));
	assert_int_equal(quiesce_end(q, &em), 0);
	fake_agent_stop(&a);
	/* Given up on the way: at once. */
	assert_int_equal(begin(&a, AGENT_GOOD, &ample, &q), 0);
	assert_int_equal(quiesce_end(q, &em), 0);
	assert_false(a.frozen);
	fake_agent_stop(&a);
}

static void whatever_the_agent_does_nothing_stays_frozen(void **state)
{
	static const struct {
		enum agent_fault fault;
		int result;
		const char *why;
	} cases[] = {
	        {AGENT_SILENT, -ETIMEDOUT, "does not answer"},
	        {AGENT_DIES_FREEZING, -ECONNRESET, "hung up"},
	        {AGENT_HANGS_FREEZING, -ETIMEDOUT, "does not answer"},
	        {AGENT_REFUSES, -EIO, "cannot freeze: no?way"},
	        {AGENT_FREEZES_NONE, -EIO, "froze no file system"},
	        {AGENT_BABBLES, -EPROTO, "no guest agent"},
	        {AGENT_NO_JSON, -ETIMEDOUT, "does not answer"},
	};
	struct fake_agent a;
	struct quiesce *q;

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct quiesce_limits limits = brief;
		limits.thaw_ns = 20 * NS_PER_SEC;
		const int r = begin(&a, cases[i].fault, &limits, &q);
		if (r != cases[i].result || !strstr(em.text, cases[i].why))
			fail_msg("case %u: %d, %s", i, r, em.text);
		assert_false(a.frozen);
		fake_agent_stop(&a);
	}
}

static void a_guest_that_somebody_else_froze_is_left_so(void **state)
{
	struct fake_agent a;
	struct quiesce *q;

	assert_int_equal(begin(&a, AGENT_IS_FROZEN, &ample, &q), -EBUSY);
	assert_true(a.frozen);
	assert_int_equal(a.thaws, 0);
	fake_agent_stop(&a);
}

static void thawing_is_tried_again_and_lies_are_found_out(void **state)
{
	struct fake_agent a;
	struct quiesce *q;

	assert_int_equal(begin(&a, AGENT_THAW_DIES_ONCE, &ample, &q), 0);
	quiesce_thaw(q);
	assert_int_equal(quiesce_end(q, &em), 0);
	assert_false(a.frozen);
	assert_int_equal(a.connections, 2);
	fake_agent_stop(&a);

	assert_int_equal(begin(&a, AGENT_LIES, &ample, &q), 0);
	quiesce_thaw(q);
	assert_int_equal(quiesce_end(q, &em), -ESTALE);
	assert_non_null(strstr(em.text, "not frozen any more"));
	fake_agent_stop(&a);

	log_set_level(LOG_ERROR - 1);
	assert_int_equal(begin(&a, AGENT_NEVER_THAWS, &brief, &q), 0);
	quiesce_thaw(q);
	assert_int_equal(quiesce_end(q, &em), -ETIMEDOUT);
	assert_non_null(strstr(em.text, "may still be frozen"));
	assert_true(a.thaws > 1);
	fake_agent_stop(&a);
}

/* Of several, those that are frozen already are thawed when a later one fails. */
static void all_or_none_are_frozen(void **state)
{
	const char *paths[] = {socket_path(0), socket_path(1), socket_path(2)};
	struct fake_agent a, b;
	struct quiesce *q;

	fake_agent_start(&a, paths[0], AGENT_GOOD);
	fake_agent_start(&b, paths[1], AGENT_REFUSES);
	assert_int_equal(quiesce_begin(paths, 2, false, &ample, NULL, &q, &em), -EIO);
	assert_int_equal(a.freezes, 1);
	assert_false(a.frozen);
	b.fault = AGENT_GOOD;
	/* A guest that is off: nobody listens. */
	assert_int_equal(quiesce_begin(paths, 3, false, &ample, NULL, &q, &em), -ENOENT);
	assert_false(a.frozen || b.frozen);
	assert_int_equal(quiesce_begin(paths, 3, true, &ample, NULL, &q, &em), 0);
	assert_int_equal(quiesce_count(q), 2);
	assert_true(a.frozen && b.frozen);
	assert_int_equal(quiesce_end(q, &em), 0);
	assert_false(a.frozen || b.frozen);
	fake_agent_stop(&a);
	fake_agent_stop(&b);
}

static void who_ends_does_not_wait_for_guests(void **state)
{
	const char *path = socket_path(0);
	_Atomic bool cancel = true;
	struct fake_agent a;
	struct quiesce *q;

	fake_agent_start(&a, path, AGENT_SILENT);
	assert_int_equal(quiesce_begin(&path, 1, false, &ample, &cancel, &q, &em), -ECANCELED);
	fake_agent_stop(&a);
	/* But thaws them all the same. */
	cancel = false;
	fake_agent_start(&a, path, AGENT_GOOD);
	assert_int_equal(quiesce_begin(&path, 1, false, &ample, &cancel, &q, &em), 0);
	cancel = true;
	quiesce_thaw(q);
	assert_true(quiesce_end(q, &em) <= 0);
	assert_false(a.frozen);
	fake_agent_stop(&a);
}

/* --- with snapshots --- */

static int snapshot(const char *target, const char *name, bool quiesce, const char *agent)
{
	const struct snapshot_request rq = {
	        .target = target, .name = name, .quiesce = quiesce, .agent = agent};
	json_t *json = NULL;

	em = (struct errmsg){0};
	const int r = snapshots_create(m, &me, &rq, &json, &em);
	if (r == 0)
		assert_int_equal(json_integer_value(json_object_get(json, "quiesced")),
		        quiesce || agent ? 1 : 0);
	json_decref(json);
	return r;
}

static int agent_set(const char *target, const char *action, const char *agent)
{
	const struct snapshot_request rq = {.target = target, .action = action, .agent = agent};
	json_t *json = NULL;
	const int r = snapshots_agent(m, &me, &rq, &json, &em);

	json_decref(json);
	return r;
}

static void a_snapshot_freezes_the_guest_of_its_images(void **state)
{
	const uint64_t dir = make(TOP, "vm", S_IFDIR | 0755);
	struct vnode *f = create_mode(dir, "a.raw", 0644, NULL);
	struct fake_agent a;

	put(f, 0, "content", 7);
	fake_agent_start(&a, socket_path(0), AGENT_GOOD);
	assert_int_equal(snapshot("vm/a.raw", "s0", true, NULL), -ENOENT);
	assert_non_null(strstr(em.text, "weir snapshot agent"));
	assert_int_equal(snapshot("vm/a.raw", "s1", false, socket_path(0)), 0);
	assert_int_equal(agent_set("vm", "set", "relative"), -EINVAL);
	assert_int_equal(agent_set("vm", "set", socket_path(0)), 0);
	assert_int_equal(snapshot("vm/a.raw", "s2", true, NULL), 0);
	assert_int_equal(snapshot("", "s3", true, NULL), 0);
	assert_int_equal(a.freezes, 3);
	assert_int_equal(a.thaws, 3);
	assert_int_equal(snapshot("vm", "s3", true, NULL), -EEXIST);
	assert_false(a.frozen);
	assert_int_equal(agent_set("vm/a.raw", "set", "/none"), 0);
	assert_int_equal(snapshot("vm", "s4", true, NULL), -ENOENT);
	assert_int_equal(agent_set("vm/a.raw", "remove", NULL), 0);
	assert_int_equal(agent_set("vm/a.raw", "remove", NULL), -ENOENT);
	vfs_release(vfs, f);
	again();
	assert_int_equal(snapshot("vm", "s5", true, NULL), 0);
	a.fault = AGENT_LIES;
	assert_int_equal(snapshot("vm", "s6", true, NULL), -ESTALE);
	assert_non_null(strstr(em.text, "snapshot 's6' was taken, but the guest"));
	fake_agent_stop(&a);
	assert_int_equal(snapshot("vm", "s7", true, NULL), -ENOENT);
}

/* --- on schedule --- */

static int count_one(void *arg, const struct snapshot *s)
{
	++*(unsigned *)arg;
	return 0;
}

static unsigned snapshots_wait(unsigned least)
{
	unsigned n = 0;

	for (unsigned i = 0; i < 1000 && n < least; i++) {
		n = 0;
		assert_int_equal(snapshots_each(ds->ns, count_one, &n), 0);
		usleep(10000);
	}
	return n;
}

static bool has_alert(const char *text)
{
	json_t *json = status(), *alert;
	bool found = false;
	size_t i;

	json_array_foreach(json_object_get(json, "alerts"), i, alert) found |=
	        strstr(json_string_value(json_object_get(alert, "text")), text) != NULL;
	json_decref(json);
	return found;
}

static void schedule_anew(const char *target)
{
	const struct snapshot_request set = {.target = target,
	        .action = "set",
	        .every = "1h",
	        .keep = "9",
	        .quiesce = true,
	        .quiesce_given = true};
	json_t *json = NULL;

	assert_int_equal(snapshots_schedule(m, &me, &set, &json, &em), 0);
	json_decref(json);
}

static void a_schedule_takes_it_with_or_without_the_guest(void **state)
{
	struct vnode *a = create("a", NULL), *b = create("b", NULL), *c = create("c", NULL);
	struct fake_agent agent;

	log_set_level(LOG_ERROR);
	put(a, 0, "x", 1);
	fake_agent_start(&agent, socket_path(0), AGENT_GOOD);
	assert_int_equal(agent_set("", "set", socket_path(0)), 0);
	schedule_anew("a");
	assert_int_equal(snapshots_wait(1), 1);
	for (unsigned i = 0; i < 500 && (agent.frozen || agent.thaws < 1); i++)
		usleep(10000);
	assert_int_equal(agent.freezes, 1);
	assert_int_equal(agent.thaws, 1);
	assert_false(has_alert("without"));
	agent.fault = AGENT_REFUSES;
	schedule_anew("b");
	assert_int_equal(snapshots_wait(2), 2);
	for (unsigned i = 0; i < 500 && !has_alert("taken without freezing the guest"); i++)
		usleep(10000);
	assert_true(has_alert("cannot freeze: no?way"));
	fake_agent_stop(&agent);
	schedule_anew("c"); /* the guest is off */
	assert_int_equal(snapshots_wait(3), 3);
	assert_false(has_alert("cannot talk"));
	vfs_release(vfs, a);
	vfs_release(vfs, b);
	vfs_release(vfs, c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(replies_are_told_from_anything_else),
	        MANAGER_CASE(a_guest_is_frozen_until_the_instant),
	        MANAGER_CASE(it_is_thawed_when_the_instant_does_not_come),
	        MANAGER_CASE(whatever_the_agent_does_nothing_stays_frozen),
	        MANAGER_CASE(a_guest_that_somebody_else_froze_is_left_so),
	        MANAGER_CASE(thawing_is_tried_again_and_lies_are_found_out),
	        MANAGER_CASE(all_or_none_are_frozen),
	        MANAGER_CASE(who_ends_does_not_wait_for_guests),
	        MANAGER_CASE(a_snapshot_freezes_the_guest_of_its_images),
	        MANAGER_CASE(a_schedule_takes_it_with_or_without_the_guest),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * test-snapshot-events.c - stages of open images are told of snapshots, clones and rollbacks: in two
 * phases, and what one of them refuses does not happen
 */
#include "manager-world.h"

#include "fs/snapshot/private.h"
#include "fs/snapshot/view.h"

static struct errmsg em;

/* What was seen, by kind. */
static struct told {
	unsigned prepared, committed, aborted;
	uint64_t size;
} told[STAGE_EVENTS];
static int refuse_kind; /* -1: none */

static int refuse_prepare(void *stage, const struct stage_event *event, struct errmsg *why_not)
{
	return (int)event->kind == refuse_kind ? errmsg_set(why_not, -EBUSY, "a stage refuses") : 0;
}

static int tell_prepare(void *stage, const struct stage_event *event, struct errmsg *why_not)
{
	told[event->kind].prepared++;
	told[event->kind].size = event->size;
	return 0;
}

static void tell_commit(void *stage, const struct stage_event *event)
{
	told[event->kind].committed++;
}

static void tell_abort(void *stage, const struct stage_event *event)
{
	told[event->kind].aborted++;
}

static struct stage_type tell_type, refuser_type;

static void forget(void)
{
	memset(told, 0, sizeof(told));
	refuse_kind = -1;
}

static void expect_told(enum stage_event_kind kind, unsigned prepared, unsigned committed)
{
	const struct told *t = &told[kind];

	if (t->prepared != prepared || t->committed != committed ||
	        t->aborted != prepared - committed)
		fail_msg("event %d: %u prepared, %u committed, %u aborted", kind, t->prepared,
		        t->committed, t->aborted);
	forget();
}

typedef int request_fn(struct manager *m_, const struct filter_caller *who,
        const struct snapshot_request *rq, json_t **ret_json, struct errmsg *em_);

static int request(request_fn *fn, const struct snapshot_request *rq)
{
	json_t *json = NULL;

	em = (struct errmsg){0};
	const int r = fn(m, &me, rq, &json, &em);
	json_decref(json);
	return r;
}

static int take(const char *target, const char *name)
{
	const struct snapshot_request rq = {.target = target, .name = name};

	return request(snapshots_create, &rq);
}

static int roll_back(const char *target, const char *name, bool force)
{
	const struct snapshot_request rq = {.target = target, .name = name, .force = force};
	json_t *json = NULL;

	em = (struct errmsg){0};
	const int r = snapshots_rollback(m, &me, &rq, NULL, NULL, &json, &em);
	json_decref(json);
	return r;
}

static int clone_to(const char *target, const char *other)
{
	const struct snapshot_request rq = {.target = target, .other = other};
	json_t *json = NULL;

	em = (struct errmsg){0};
	const int r = snapshots_clone(m, &me, &rq, NULL, NULL, &json, &em);
	json_decref(json);
	return r;
}

static struct vnode *open_with(const char *name, const char *type)
{
	struct vnode *f = create(name, NULL);

	put(f, 0, name, strlen(name));
	assert_int_equal(attach(name, type, NULL, false), 0);
	return f;
}

static void snapshots_and_clones_are_told_to_open_images(void **state)
{
	struct vnode *a = open_with("a", "tell"), *b = open_with("b", "tell");

	forget();
	assert_int_equal(take("a", "s1"), 0);
	expect_told(STAGE_EVENT_SNAPSHOT, 1, 1);
	assert_int_equal(take("", "s2"), 0);
	expect_told(STAGE_EVENT_SNAPSHOT, 2, 2);
	assert_int_equal(take("", "s1"), -EEXIST);
	expect_told(STAGE_EVENT_SNAPSHOT, 0, 0);
	assert_int_equal(clone_to("a", "c"), 0);
	expect_told(STAGE_EVENT_CLONE, 1, 1);
	assert_int_equal(clone_to("a", "c"), -EEXIST);
	expect_told(STAGE_EVENT_CLONE, 1, 0);
	assert_int_equal(clone_to("a", ".weir/x"), -ENOENT);
	vfs_release(vfs, b);
	assert_int_equal(take("", "s3"), 0);
	expect_told(STAGE_EVENT_SNAPSHOT, 1, 1);
	vfs_release(vfs, a);
	assert_int_equal(take("a", "s4"), 0);
	expect_told(STAGE_EVENT_SNAPSHOT, 0, 0);
}

/* One that agreed is told that it does not happen, whether another image's stage refuses or its own. */
static void what_one_refuses_does_not_happen(void **state)
{
	static const enum stage_event_kind kinds[] = {
	        STAGE_EVENT_SNAPSHOT, STAGE_EVENT_CLONE, STAGE_EVENT_ROLLBACK};
	struct vnode *a = open_with("a", "tell");
	struct vnode *b = open_with("b", "tell");

	assert_int_equal(attach("a", "refuser", NULL, false), 0);
	assert_int_equal(take("a", "good"), 0);
	put(a, 0, "later", 5);
	for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++) {
		forget();
		refuse_kind = (int)kinds[i];
		const int r = i == 0   ? take("", "bad")
		              : i == 1 ? clone_to("a", "bad")
		                       : roll_back("a", "good", true);
		assert_int_equal(r, -EBUSY);
		assert_string_equal(em.text, "a stage refuses");
		assert_int_equal(told[kinds[i]].committed, 0);
		assert_int_equal(told[kinds[i]].aborted, told[kinds[i]].prepared);
		assert_int_equal(told[kinds[i]].prepared, 1);
	}
	forget();
	assert_int_equal(ino_of(TOP, "bad"), 0);
	assert_int_equal(take("", "bad"), 0); /* nothing has that name */
	expect_bytes(a, 0, 1, 'l');
	vfs_release(vfs, a);
	vfs_release(vfs, b);
}

static void a_rollback_tells_the_new_size(void **state)
{
	struct vnode *a = open_with("a", "tell");
	const uint64_t ino = ino_of(TOP, "a");

	assert_int_equal(take("a", "small"), 0);
	fill(a, 0, 8192, 'x');
	forget();
	assert_int_equal(roll_back("a", "small", false), -EBUSY);
	expect_told(STAGE_EVENT_ROLLBACK, 0, 0); /* it is open: not even asked */
	assert_int_equal(roll_back("a", "small", true), 0);
	assert_int_equal(told[STAGE_EVENT_ROLLBACK].size, 1);
	expect_told(STAGE_EVENT_ROLLBACK, 1, 1);
	assert_int_equal(size_of(ino), 1);
	vfs_release(vfs, a);
	/* Closed: it is opened for it, so that its stages may refuse. */
	assert_int_equal(roll_back("a", "small", false), 0);
	expect_told(STAGE_EVENT_ROLLBACK, 1, 1);
}

/* A change of size passes the stack as a request, which a stage may refuse (stage.h). */
static void a_change_of_size_is_a_request(void **state)
{
	struct vnode *a = open_with("a", "tell");
	const uint64_t ino = ino_of(TOP, "a");

	forget();
	assert_int_equal(resize(ino, 4096), 0);
	expect_told(STAGE_EVENT_RESIZE, 0, 0);
	assert_int_equal(attach("a", "protect", "read_only=on", false), 0);
	assert_int_equal(resize(ino, 0), -EROFS);
	assert_int_equal(size_of(ino), 4096);
	vfs_release(vfs, a);
	assert_int_equal(resize(ino, 0), -EROFS);
}

static void a_copy_that_passes_the_stages_by_tells_the_new_size(void **state)
{
	struct vnode *a = open_with("a", "tell"), *b = open_with("b", "tell");
	uint64_t len;

	fill(a, 0, 65536, 'x');
	forget();
	assert_int_equal(vfs_copy(vfs, a, 0, b, 0, 65536, 0, &len), 0);
	assert_int_equal(len, 65536);
	assert_int_equal(told[STAGE_EVENT_RESIZE].size, 65536);
	expect_told(STAGE_EVENT_RESIZE, 1, 1);
	assert_int_equal(vfs_copy(vfs, a, 0, b, 0, 65536, 0, &len), 0);
	expect_told(STAGE_EVENT_RESIZE, 0, 0);
	expect_bytes(b, 0, 65536, 'x');
	vfs_release(vfs, a);
	vfs_release(vfs, b);
}

/* Images come and go while a directory's snapshot is taken: it is taken all the same. */
static _Atomic bool churning;

static void *churn(void *arg)
{
	char name[32];

	for (unsigned i = 0; churning; i++) {
		snprintf(name, sizeof(name), "temporary%u", i % 8);
		uint64_t ino;
		vfs_release(vfs, create(name, &ino));
		if (vfs_unlink(vfs, TOP, name) < 0)
			abort();
		vfs_forget(vfs, ino, 1);
		usleep(500);
	}
	return NULL;
}

static void a_busy_directory_has_its_snapshot(void **state)
{
	struct vnode *a = open_with("a", "tell");
	pthread_t thread;
	unsigned failed = 0;
	char name[32];

	churning = true;
	assert_int_equal(pthread_create(&thread, NULL, churn, NULL), 0);
	for (unsigned i = 0; i < 20; i++) {
		snprintf(name, sizeof(name), "s%u", i);
		failed += take("", name) < 0;
	}
	churning = false;
	pthread_join(thread, NULL);
	if (failed)
		fail_msg("%u of 20: %s", failed, em.text);
	vfs_release(vfs, a);
}

static void no_clone_takes_the_name_of_the_view(void **state)
{
	struct vnode *a = open_with("a", "tell");

	assert_int_equal(snapshot_view_attach(vfs, ds), 0);
	assert_int_equal(clone_to("a", ".weir"), -EROFS);
	assert_int_equal(clone_to("a", "a/b"), -ENOTDIR);
	assert_int_equal(clone_to("a", ""), -EINVAL);
	vfs_release(vfs, a);
}

static void types_make(void)
{
	tell_type = watch_type;
	tell_type.name = "tell";
	tell_type.handles = 0; /* so that copies pass it by */
	tell_type.prepare = tell_prepare;
	tell_type.commit = tell_commit;
	tell_type.abort = tell_abort;
	refuser_type = watch_type;
	refuser_type.name = "refuser"; /* attached after the other one: it is asked after it */
	refuser_type.prepare = refuse_prepare;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        MANAGER_CASE(snapshots_and_clones_are_told_to_open_images),
	        MANAGER_CASE(what_one_refuses_does_not_happen),
	        MANAGER_CASE(a_rollback_tells_the_new_size),
	        MANAGER_CASE(a_change_of_size_is_a_request),
	        MANAGER_CASE(a_copy_that_passes_the_stages_by_tells_the_new_size),
	        MANAGER_CASE(a_busy_directory_has_its_snapshot),
	        MANAGER_CASE(no_clone_takes_the_name_of_the_view),
	};

	types_make();
	if (stage_type_add(&tell_type, &em) < 0 || stage_type_add(&refuser_type, &em) < 0) {
		fprintf(stderr, "%s\n", em.text);
		return 1;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}

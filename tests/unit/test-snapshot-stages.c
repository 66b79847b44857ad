/*
 * Stages and their state, with snapshots, clones, rollbacks, and in the view of snapshots
 */
#include "manager-world.h"

#include "fs/snapshot/records.h"
#include "fs/snapshot/snapshots.h"
#include "fs/snapshot/view.h"
#include "store/snapshot.h"

static struct stage_type used_type; /* as "watch", but its state is about the use of the image */

static int stages_setup(void **state)
{
	const int r = setup(state);

	return r ? r : snapshot_view_attach(vfs, ds);
}

#define STAGES_CASE(fn) cmocka_unit_test_setup_teardown(fn, stages_setup, teardown)

/* --- short forms --- */

static void asked(int r, json_t *json, const struct errmsg *em)
{
	if (r < 0)
		print_error("%s\n", em->text);
	assert_int_equal(r, 0);
	json_decref(json);
}

static void snapshot(const char *target, const char *name)
{
	const struct snapshot_request rq = {.target = target, .name = name};
	struct errmsg em = {0};
	json_t *json = NULL;
	const int r = snapshots_create(m, &me, &rq, &json, &em);

	asked(r, json, &em);
}

static void snapshot_delete(const char *target, const char *name)
{
	const struct snapshot_request rq = {.target = target, .name = name};
	struct errmsg em = {0};
	json_t *json = NULL;
	const int r = snapshots_delete(m, &me, &rq, &json, &em);

	asked(r, json, &em);
}

static void clone_of(const char *target, const char *name, const char *dest)
{
	const struct snapshot_request rq = {.target = target, .name = name, .other = dest};
	struct errmsg em = {0};
	json_t *json = NULL;
	const int r = snapshots_clone(m, &me, &rq, NULL, NULL, &json, &em);

	asked(r, json, &em);
}

static int roll_back(const char *target, const char *name)
{
	const struct snapshot_request rq = {.target = target, .name = name};
	json_t *json = NULL;

	why = (struct errmsg){0};
	const int r = snapshots_rollback(m, &me, &rq, NULL, NULL, &json, &why);
	json_decref(json);
	return r;
}

/* The owner of the rows of an image in a snapshot. */
static uint64_t owner_of(const char *target, const char *name)
{
	struct snapshot s;
	struct snapshot_image si;

	assert_int_equal(snapshot_of_image(ds->ns, ino_of(TOP, target), name, &s, &si), 0);
	const uint64_t owner = snapshot_image(si.key);
	snapshot_image_release(&si);
	snapshot_release(&s);
	return owner;
}

/* What the stage of that type has counted, as its rows say; 0: it has no state. */
static uint64_t count_of(uint64_t owner, const char *type)
{
	struct errmsg em = {0};
	struct state_table *t;
	struct manifest *mf;
	uint64_t n = 0;
	size_t len;

	assert_int_equal(manifest_load(ds->ns, owner, &mf, &em), 0);
	assert_int_equal(state_load(ds->ns, owner, &t), 0);
	for (unsigned i = 0; i < mf->plan.n; i++)
		if (!strcmp(mf->plan.items[i].type_name, type) &&
		        state_get(t, mf->plan.items[i].link, "writes", &n, sizeof(n), &len) < 0)
			n = 0;
	state_free(t);
	manifest_free(mf);
	return n;
}

static void write_times(struct vnode *f, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		put(f, 0, "data", 4);
}

static int view_open(const char *name, const char *file, struct vnode **ret_file)
{
	const char *const way[] = {".weir", "snapshots", name, file};
	struct vfs_entry e = {.ino = TOP};
	int r = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(way) && !r; i++)
		r = vfs_lookup(vfs, e.ino, way[i], &e);
	return r < 0 ? r : vfs_open(vfs, e.ino, ret_file);
}

/* --- state --- */

static void state_of_the_content_follows_it_and_state_of_use_stays(void **state)
{
	struct vnode *f = create("a", NULL);

	assert_int_equal(attach("a", "watch", NULL, false), 0);
	assert_int_equal(attach("a", "used", NULL, false), 0);
	write_times(f, 2);
	snapshot("a", "s");
	assert_int_equal(count_of(owner_of("a", "s"), "watch"), 2);
	assert_int_equal(count_of(owner_of("a", "s"), "used"), 0);
	write_times(f, 3);
	vfs_release(vfs, f);

	clone_of("a", "s", "then");
	assert_int_equal(count_of(ino_of(TOP, "then"), "watch"), 2);
	assert_int_equal(count_of(ino_of(TOP, "then"), "used"), 0);
	clone_of("a", NULL, "now");
	assert_int_equal(count_of(ino_of(TOP, "now"), "watch"), 5);
	assert_int_equal(count_of(ino_of(TOP, "now"), "used"), 0);

	assert_int_equal(roll_back("a", "s"), 0);
	assert_int_equal(count_of(ino_of(TOP, "a"), "watch"), 2);
	assert_int_equal(count_of(ino_of(TOP, "a"), "used"), 5);
}

static void a_stage_that_came_after_the_snapshot_has_no_state_after_a_rollback(void **state)
{
	struct vnode *f = create("a", NULL);

	write_times(f, 1);
	snapshot("a", "s");
	assert_int_equal(attach("a", "watch", NULL, false), 0);
	write_times(f, 3);
	vfs_release(vfs, f);
	assert_int_equal(roll_back("a", "s"), 0);
	assert_string_equal(stack_of("a"), "watch:active");
	assert_int_equal(count_of(ino_of(TOP, "a"), "watch"), 0);
}

static void quarantine_stays_with_its_image(void **state)
{
	struct vnode *f = create("a", NULL);
	size_t done;

	assert_int_equal(attach("a", "watch", NULL, false), 0);
	write_times(f, 1);
	snapshot("a", "s");
	put(f, 0, "virus", 5);
	assert_int_equal(vfs_write(vfs, f, 0, "x", 1, 0, &done), -EROFS);
	vfs_release(vfs, f);
	assert_int_equal(roll_back("a", "s"), 0);
	assert_int_equal(vfs_open(vfs, ino_of(TOP, "a"), &f), 0);
	expect_bytes(f, 0, 1, 'd');
	assert_int_equal(vfs_write(vfs, f, 0, "x", 1, 0, &done), -EROFS);
	vfs_release(vfs, f);
	clone_of("a", NULL, "b");
	assert_int_equal(vfs_open(vfs, ino_of(TOP, "b"), &f), 0);
	assert_int_equal(vfs_write(vfs, f, 0, "x", 1, 0, &done), 0);
	vfs_release(vfs, f);
}

static void write_once_is_not_undone(void **state)
{
	struct vnode *f = create("a", NULL);

	put(f, 0, "one", 3);
	snapshot("a", "s");
	put(f, 0, "two", 3);
	vfs_release(vfs, f);
	assert_int_equal(attach("a", "protect", "worm_until=2199-01-01", false), 0);
	assert_int_equal(roll_back("a", "s"), -EPERM);
	snapshot("a", "worm");
	clone_of("a", "worm", "b");
	assert_int_equal(vfs_unlink(vfs, TOP, "b"), -EPERM);
	assert_int_equal(vfs_open(vfs, ino_of(TOP, "a"), &f), 0);
	expect_bytes(f, 0, 1, 't');
	vfs_release(vfs, f);
}

/* --- the view --- */

#define PATTERN_BYTES (8 * MIB)

static void pattern_put(struct vnode *f)
{
	char buf[65536];

	for (uint64_t off = 0; off < PATTERN_BYTES; off += sizeof(buf)) {
		memset(buf, 'a' + (int)(off / sizeof(buf) % 26), sizeof(buf));
		put(f, off, buf, sizeof(buf));
	}
}

static void pattern_expect(struct vnode *f)
{
	for (uint64_t off = 0; off < PATTERN_BYTES; off += 65536)
		expect_bytes(f, off, 65536, (char)('a' + (int)(off / 65536 % 26)));
}

static void a_transformed_file_is_read_as_the_guest_wrote_it(void **state)
{
	struct vnode *f = create("a", NULL), *old;
	size_t done;

	assert_int_equal(attach("a", "scramble", "key=5", true), 0);
	assert_int_equal(attach("a", "watch", NULL, false), 0);
	pattern_put(f);
	snapshot("a", "s");
	const unsigned live = watchers;
	fill(f, 0, PATTERN_BYTES, 'z');
	assert_int_equal(view_open("s", "a", &old), 0);
	assert_int_equal(watchers, live); /* observers are not there */
	pattern_expect(old);
	assert_int_equal(vfs_write(vfs, old, 0, "x", 1, 0, &done), -EROFS);
	snapshot_delete("a", "s");
	pattern_expect(old);
	vfs_release(vfs, old);
	vfs_release(vfs, f);
}

static void a_file_that_was_being_converted_is_read_on_both_sides(void **state)
{
	struct vnode *f = create("a", NULL), *old;
	const struct filter_change c = {.target = "a", .type = "scramble", .force = true};
	struct errmsg em = {0};
	json_t *json = NULL;

	pattern_put(f);
	assert_int_equal(manager_attach(m, &me, &c, NULL, NULL, &json, &em), 0);
	json_decref(json);
	snapshot("a", "s"); /* wherever the cursor is */
	assert_int_equal(view_open("s", "a", &old), 0);
	pattern_expect(old);
	pattern_expect(f);
	vfs_release(vfs, old);
	vfs_release(vfs, f);
}

static void what_does_not_open_says_why_until_it_is_deleted(void **state)
{
	struct vnode *f = create("a", NULL);

	assert_int_equal(attach("a", "scramble", NULL, true), 0);
	fill(f, 0, 4096, 'x');
	snapshot("a", "s");
	vfs_release(vfs, f);
	assert_int_equal(stage_type_disable("scramble", &why), 0);
	assert_int_equal(view_open("s", "a", &f), -EIO);
	json_t *json = status(), *list = json_object_get(json, "unopenable");
	assert_int_equal(json_array_size(list), 1);
	assert_string_equal(
	        json_string_value(json_object_get(json_array_get(list, 0), "target")), "a@s");
	json_decref(json);
	snapshot_delete("a", "s");
	json = status();
	assert_int_equal(json_array_size(json_object_get(json, "unopenable")), 0);
	json_decref(json);
}

static void an_open_file_of_a_deleted_snapshot_can_be_copied(void **state)
{
	struct vnode *f = create("a", NULL), *to = create("b", NULL), *old;
	uint64_t done = 0;

	pattern_put(f);
	fill(f, 100 * MIB, 4096, 'e');
	snapshot("a", "s");
	assert_int_equal(view_open("s", "a", &old), 0);
	snapshot_delete("a", "s");
	vfs_release(vfs, f);
	assert_int_equal(vfs_unlink(vfs, TOP, "a"), 0);
	struct gc_report report;
	assert_int_equal(store_gc(ds->store, true, NULL, NULL, &report), 0);
	for (uint64_t off = 0; off < 100 * MIB + 4096; off += done)
		assert_int_equal(vfs_copy(vfs, old, off, to, off, INT64_MAX, 0, &done), 0);
	vfs_release(vfs, old);
	assert_int_equal(store_gc(ds->store, true, NULL, NULL, &report), 0);
	pattern_expect(to);
	expect_bytes(to, 100 * MIB, 4096, 'e');
	vfs_release(vfs, to);
}

static void a_renamed_snapshot_has_the_same_files(void **state)
{
	const struct snapshot_request rq = {.target = "a", .name = "s", .other_name = "t"};
	struct vnode *f = create("a", NULL), *old, *again;
	struct errmsg em = {0};
	json_t *json = NULL;

	assert_int_equal(attach("a", "scramble", NULL, true), 0);
	pattern_put(f);
	snapshot("a", "s");
	assert_int_equal(view_open("s", "a", &old), 0);
	const int r = snapshots_rename(m, &me, &rq, &json, &em);
	asked(r, json, &em);
	assert_int_equal(view_open("s", "a", &again), -ENOENT);
	assert_int_equal(view_open("t", "a", &again), 0);
	assert_ptr_equal(old, again);
	pattern_expect(again);
	vfs_release(vfs, again);
	vfs_release(vfs, old);
	vfs_release(vfs, f);
}

int main(void)
{
	struct errmsg em = {0};
	const struct CMUnitTest tests[] = {
	        STAGES_CASE(state_of_the_content_follows_it_and_state_of_use_stays),
	        STAGES_CASE(a_stage_that_came_after_the_snapshot_has_no_state_after_a_rollback),
	        STAGES_CASE(quarantine_stays_with_its_image), STAGES_CASE(write_once_is_not_undone),
	        STAGES_CASE(a_transformed_file_is_read_as_the_guest_wrote_it),
	        STAGES_CASE(a_file_that_was_being_converted_is_read_on_both_sides),
	        STAGES_CASE(an_open_file_of_a_deleted_snapshot_can_be_copied),
	        STAGES_CASE(a_renamed_snapshot_has_the_same_files),
	        STAGES_CASE(what_does_not_open_says_why_until_it_is_deleted), /* the last: see it */
	};

	used_type = watch_type;
	used_type.name = "used";
	used_type.state_of = STAGE_STATE_OF_USE;
	if (stage_type_add(&watch_type, &em) < 0 || stage_type_add(&used_type, &em) < 0) {
		fprintf(stderr, "%s\n", em.text);
		return 1;
	}
	return cmocka_run_group_tests_name("snapshot-stages", tests, NULL, NULL);
}

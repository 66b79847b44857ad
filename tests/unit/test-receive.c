/*
 * test-receive.c - streams that are received: whole, as updates, cut, resumed, refused
 */
#include "receive-world.h"

/* --- whole --- */

static void a_whole_image_appears_with_its_snapshot(void **state)
{
	make_source();
	const int fd = sent("a", "s1", NULL);

	received(fd, "b");
	same_files("a", "b");
	assert_int_equal(count_list("b"), 1);
	assert_int_equal(hidden(), 0);
	assert_int_equal(orphans(), 0);
	assert_string_equal(json_string_value(json_object_get(result, "target")), "b");
	assert_int_equal(attr(ino_of(TOP, "b")).inode.mode & 07777, 0644);
	again();
	same_files("a", "b");
	assert_int_equal(count_list("b"), 1);
	assert_int_equal(receive(fd, "b"), -EEXIST);
	assert_non_null(strstr(why.text, "has it already"));
	assert_int_equal(receive(fd, "a"), -EEXIST);
	/* To a directory: by the name that it had. */
	make(TOP, "dir", S_IFDIR | 0755);
	received(fd, "dir");
	assert_int_not_equal(ino_of(ino_of(TOP, "dir"), "a"), 0);
	close(fd);
}

static void names_do_not_escape(void **state)
{
	make_source();
	const int fd = sent("a", "s1", NULL);

	assert_int_equal(receive(fd, ".weir"), -EINVAL);
	assert_int_equal(receive(fd, ".."), -EINVAL);
	assert_int_equal(receive(fd, "x/"), -EINVAL);
	assert_int_equal(receive(fd, "none/x"), -ENOENT);
	assert_int_equal(receive(fd, "a/x"), -ENOTDIR);
	assert_int_equal(hidden(), 0);
	assert_int_equal(orphans(), 0);
	close(fd);
}

/* --- updates --- */

static void an_update_replaces_the_content_and_adds_its_snapshot(void **state)
{
	make_source();
	int fd = sent("a", "s1", NULL);
	received(fd, "b");
	close(fd);
	change_source();
	fd = sent("a", "s2", "s1");
	const uint64_t ino = ino_of(TOP, "b");
	received(fd, "b");
	assert_int_equal(ino_of(TOP, "b"), ino);
	same_files("a", "b");
	assert_int_equal(count_list("b"), 2);
	assert_int_equal(hidden(), 0);
	assert_int_equal(orphans(), 0);
	again();
	same_files("a", "b");
	assert_int_equal(orphans(), 0);
	/* It is a snapshot as others: one can go back to it. */
	const struct snapshot_request back = {.target = "b", .name = "s2"};
	struct vnode *f;
	json_t *json = NULL;
	assert_int_equal(vfs_open(vfs, ino, &f), 0);
	fill(f, 0, 100000, 'w');
	vfs_release(vfs, f);
	assert_int_equal(snapshots_rollback(m, &me, &back, NULL, NULL, &json, &why), 0);
	json_decref(json);
	same_files("a", "b");
	/* Sent on from the receiver, it fits a third one: guids stay. */
	close(fd);
	fd = sent("b", "s1", NULL);
	received(fd, "c");
	close(fd);
	fd = sent("a", "s2", "s1");
	received(fd, "c");
	same_files("a", "c");
	close(fd);
}

static void an_update_without_its_base_is_refused(void **state)
{
	make_source();
	change_source();
	const int fd = sent("a", "s2", "s1");
	struct vnode *f = create("b", NULL);

	fill(f, 0, 4096, 'b');
	vfs_release(vfs, f);
	assert_int_equal(receive(fd, "b"), -ENOENT);
	assert_non_null(strstr(why.text, "'s1' at the sender"));
	assert_int_equal(receive(fd, "none"), -ENOENT);
	assert_int_equal(hidden(), 0);
	close(fd);
}

static void a_target_that_was_changed_is_refused_unless_forced(void **state)
{
	struct vnode *f;

	make_source();
	int fd = sent("a", "s1", NULL);
	received(fd, "b");
	close(fd);
	change_source();
	fd = sent("a", "s2", "s1");
	assert_int_equal(vfs_open(vfs, ino_of(TOP, "b"), &f), 0);
	assert_int_equal(receive(fd, "b"), -EBUSY);
	fill(f, 0, 4096, 'Q');
	vfs_release(vfs, f);
	assert_int_equal(receive(fd, "b"), -EEXIST);
	assert_non_null(strstr(why.text, "was changed since"));
	assert_int_equal(hidden(), 0); /* before anything came */
	assert_int_equal(receive_with(fd, "b", true, false), 0);
	assert_int_equal(json_is_string(json_object_get(result, "before")), 1);
	same_files("a", "b");
	assert_int_equal(count_list("b"), 3);
	assert_int_equal(hidden(), 0);
	close(fd);
}

static void a_target_that_is_open_is_refused_and_goes_on_later(void **state)
{
	struct vnode *f;

	make_source();
	int fd = sent("a", "s1", NULL);
	received(fd, "b");
	close(fd);
	change_source();
	fd = sent("a", "s2", "s1");
	const int cut = cut_at(fd, length_of(fd) - 20);
	assert_int_equal(receive(cut, "b"), -ENODATA);
	assert_int_equal(hidden(), 1);
	assert_int_equal(vfs_open(vfs, ino_of(TOP, "b"), &f), 0);
	assert_int_equal(receive(fd, "b"), -EBUSY);
	vfs_release(vfs, f);
	received(fd, "b");
	same_files("a", "b");
	close(fd);
	close(cut);
}

/* --- cut, resumed, given up --- */

static void a_cut_anywhere_changes_nothing_and_is_resumed(void **state)
{
	make_source();
	int fd = sent("a", "s1", NULL);
	const size_t len = length_of(fd);

	for (unsigned i = 0; i < 24; i++) {
		const int cut = cut_at(fd, i < 8 ? i * 40 : len * i / 24 + i);
		assert_int_equal(receive(cut, "b"), -ENODATA);
		assert_int_equal(ino_of(TOP, "b"), 0);
		close(cut);
		if (i % 5 == 4)
			again();
		assert_int_equal(orphans(), hidden());
		assert_true(hidden() <= 1);
	}
	received(fd, "b");
	same_files("a", "b");
	assert_int_equal(hidden(), 0);
	close(fd);
	change_source();
	fd = sent("a", "s2", "s1");
	for (unsigned i = 1; i < 16; i++) {
		const int cut = cut_at(fd, length_of(fd) * i / 16);
		assert_int_equal(receive(cut, "b"), -ENODATA);
		assert_int_equal(count_list("b"), 1);
		close(cut);
		if (i % 5 == 4)
			again();
	}
	received(fd, "b");
	same_files("a", "b");
	assert_int_equal(hidden(), 0);
	assert_int_equal(orphans(), 0);
	close(fd);
}

static void what_was_cut_is_listed_and_given_up(void **state)
{
	json_t *json = NULL;
	struct errmsg em = {0};
	struct gc_report report;

	make_source();
	const int fd = sent("a", "s1", NULL), cut = cut_at(fd, length_of(fd) - 1);

	assert_int_equal(receive(cut, "b"), -ENODATA);
	assert_int_equal(receive_list(ds, m, &json, &em), 0);
	const json_t *first = json_array_get(json_object_get(json, "receiving"), 0);
	assert_string_equal(json_string_value(json_object_get(first, "target")), "b");
	assert_int_equal(json_integer_value(json_object_get(first, "size_bytes")), SIZE);
	assert_true(json_is_false(json_object_get(first, "active")));
	json_decref(json);
	struct receive_totals t;
	assert_int_equal(store_sync(ds->store), 0);
	assert_int_equal(receive_totals(ds, &t), 0);
	assert_int_equal(t.images, 1);
	assert_true(t.allocated_bytes > MIB / 2);
	assert_int_equal(receive_abort(m, &me, "none", &json, &em), -ENOENT);
	assert_int_equal(receive_abort(m, &me, "b", &json, &em), 0);
	json_decref(json);
	assert_int_equal(hidden(), 0);
	assert_int_equal(orphans(), 0);
	assert_int_equal(store_gc(ds->store, true, NULL, NULL, &report), 0);
	received(fd, "b");
	same_files("a", "b");
	close(fd);
	close(cut);
}

static int hidden_note(void *arg, const struct ns_inode *inode)
{
	*(uint64_t *)arg = inode->ino;
	return 0;
}

static void one_with_a_damaged_record_can_be_given_up(void **state)
{
	char path[64];
	json_t *json = NULL;
	uint64_t ino = 0;

	make_source();
	const int fd = sent("a", "s1", NULL), cut = cut_at(fd, length_of(fd) - 1);
	assert_int_equal(receive(cut, "b"), -ENODATA);
	assert_int_equal(ns_inode_each(ds->ns, NS_ORPHANS, hidden_note, &ino), 0);
	store_enter(ds->store);
	assert_int_equal(ns_record_put(ds->ns, RECORD_FLAG, ino, RECEIVE_FLAG, "{}", 2), 0);
	store_leave(ds->store);
	again();
	assert_int_equal(hidden(), 1);
	received(fd, "b"); /* it is in nobody's way */
	snprintf(path, sizeof(path), "(inode %llu)", (unsigned long long)ino);
	assert_int_equal(receive_abort(m, &me, path, &json, &why), 0);
	json_decref(json);
	assert_int_equal(hidden(), 0);
	assert_int_equal(orphans(), 0);
	close(fd);
	close(cut);
}

static void what_came_for_something_that_is_gone_goes(void **state)
{
	make_source();
	const int fd = sent("a", "s1", NULL);
	received(fd, "b");
	make(TOP, "dir", S_IFDIR | 0755);
	int cut = cut_at(fd, length_of(fd) - 10);
	assert_true(receive(cut, "dir/c") < 0);
	close(cut);
	change_source();
	const int update = sent("a", "s2", "s1");
	cut = cut_at(update, length_of(update) - 10);
	assert_true(receive(cut, "b") < 0);
	assert_int_equal(hidden(), 2);
	again();
	assert_int_equal(hidden(), 2);
	assert_int_equal(vfs_unlink(vfs, TOP, "b"), 0);
	assert_int_equal(vfs_rmdir(vfs, TOP, "dir"), 0);
	again();
	assert_int_equal(hidden(), 0);
	assert_int_equal(orphans(), 0);
	close(cut);
	close(update);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        MANAGER_CASE(a_whole_image_appears_with_its_snapshot),
	        MANAGER_CASE(names_do_not_escape),
	        MANAGER_CASE(an_update_replaces_the_content_and_adds_its_snapshot),
	        MANAGER_CASE(an_update_without_its_base_is_refused),
	        MANAGER_CASE(a_target_that_was_changed_is_refused_unless_forced),
	        MANAGER_CASE(a_target_that_is_open_is_refused_and_goes_on_later),
	        MANAGER_CASE(a_cut_anywhere_changes_nothing_and_is_resumed),
	        MANAGER_CASE(what_was_cut_is_listed_and_given_up),
	        MANAGER_CASE(one_with_a_damaged_record_can_be_given_up),
	        MANAGER_CASE(what_came_for_something_that_is_gone_goes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

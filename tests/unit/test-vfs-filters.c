/*
 * test-vfs-filters.c - files whose requests pass a stack: what stages see, and what they do to it
 */
#include <errno.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vfs-stages.h"

/* --- what stages see --- */

static void every_operation_passes_the_stack(void **state)
{
	const int punch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
	size_t done;
	uint64_t ino, off;

	stages_types[0] = &stage_note;
	struct vnode *f = create("a", &ino);
	assert_int_equal(
	        vfs_write(vfs, f, 0, "hello", 5, REQUEST_FUA | REQUEST_KILL_PRIV, &done), 0);
	assert_int_equal(seen.flags[REQUEST_WRITE], REQUEST_FUA | REQUEST_KILL_PRIV);
	expect_bytes(f, 0, 1, 'h');
	assert_int_equal(seen.ops[REQUEST_READ], 1);
	assert_int_equal(vfs_fsync(vfs, f), 0);
	assert_int_equal(seen.ops[REQUEST_FLUSH], 1);
	assert_int_equal(vfs_fallocate(vfs, f, punch, 0, 2, 0), 0);
	assert_int_equal(seen.ops[REQUEST_DISCARD], 1);
	assert_int_equal(vfs_fallocate(vfs, f, FALLOC_FL_KEEP_SIZE, 0, 100000, 0), 0);
	assert_int_equal(seen.flags[REQUEST_ZERO], REQUEST_ALLOCATE | REQUEST_KEEP_SIZE);
	assert_int_equal(vfs_fallocate(vfs, f, FALLOC_FL_ZERO_RANGE, 0, 3, 0), 0);
	assert_int_equal(seen.flags[REQUEST_ZERO], 0);
	assert_int_equal(vfs_lseek(vfs, f, 0, SEEK_HOLE, &off), 0);
	assert_int_equal(seen.flags[REQUEST_EXTENTS], REQUEST_HOLE);
	assert_int_equal(resize(ino, 1234), 0);
	assert_int_equal(seen.lens[REQUEST_RESIZE], 1234);
	assert_int_equal(size_of(ino), 1234);
	expect_bytes(f, 3, 1, 'l');
	vfs_release(vfs, f);
}

static void what_cannot_be_right_is_refused_before_the_stack(void **state)
{
	struct readv rv;
	uint64_t ino;
	size_t done;

	stages_types[0] = &stage_note;
	struct vnode *f = create("a", &ino);
	assert_int_equal(vfs_read(vfs, f, 0, READ_MAX + 1, &rv), -EINVAL);
	assert_int_equal(vfs_write(vfs, f, IMAGE_SIZE_MAX, "x", 1, 0, &done), -EFBIG);
	assert_int_equal(vfs_fallocate(vfs, f, 0, 0, 0, 0), -EINVAL);
	assert_int_equal(vfs_fallocate(vfs, f, 0, UINT64_MAX, 2, 0), -EFBIG);
	assert_int_equal(resize(ino, IMAGE_SIZE_MAX + 1), -EFBIG);
	for (unsigned op = 0; op < REQUEST_OPS; op++)
		assert_int_equal(seen.ops[op], 0);
	assert_int_equal(vfs_write(vfs, f, IMAGE_SIZE_MAX - 1, "xy", 2, 0, &done), 0);
	assert_int_equal(done, 1);
	assert_int_equal(seen.lens[REQUEST_WRITE], 1);
	vfs_release(vfs, f);
}

static void settling_a_file_and_counting_blocks_pass_it_by(void **state)
{
	uint64_t ino;

	stages_types[0] = &stage_note;
	struct vnode *f = create("a", &ino);
	vfs_release(vfs, create("b", NULL));
	fill(f, 0, 10000, 'x');
	assert_int_equal(vfs_rename(vfs, TOP, "a", TOP, "b", 0), 0);
	assert_int_equal(attr(ino).blocks_512, 24);
	assert_int_equal(seen.ops[REQUEST_FLUSH], 0);
	assert_int_equal(seen.ops[REQUEST_EXTENTS], 0);
	vfs_release(vfs, f);
}

static void a_stage_that_fails_changes_keeps_the_file_as_it_is(void **state)
{
	uint64_t ino;
	size_t done;

	struct vnode *f = create("a", &ino);
	fill(f, 0, 5000, 'x');
	vfs_release(vfs, f);
	stages_types[0] = &stage_deny;
	assert_int_equal(vfs_open(vfs, ino, &f), 0);
	assert_int_equal(vfs_write(vfs, f, 0, "y", 1, 0, &done), -EPERM);
	assert_int_equal(resize(ino, 1), -EPERM);
	assert_int_equal(vfs_fallocate(vfs, f, FALLOC_FL_ZERO_RANGE, 0, 3, 0), -EPERM);
	assert_int_equal(vfs_fsync(vfs, f), 0);
	assert_int_equal(size_of(ino), 5000);
	expect_bytes(f, 0, 5000, 'x');
	vfs_release(vfs, f);
}

static void what_a_transform_stores_reads_as_it_was_written(void **state)
{
	uint64_t ino;
	struct vnode *f;

	stages_types[0] = &stage_note;
	stages_types[1] = &stage_xor;
	f = create("a", &ino);
	fill(f, 100, 10000, 0x12);
	expect_bytes(f, 0, 100, 0);
	expect_bytes(f, 100, 10000, 0x12);
	vfs_release(vfs, f);
	stages_types[1] = NULL;
	assert_int_equal(vfs_open(vfs, ino, &f), 0);
	expect_bytes(f, 100, 10000, 0x21);
	vfs_release(vfs, f);
}

/* --- opening --- */

static void who_opens_a_file_together_shares_one_pipeline(void **state)
{
	uint64_t ino;
	struct vnode *a = create("a", &ino), *b;

	assert_int_equal(vfs_open(vfs, ino, &b), 0);
	assert_ptr_equal(vfs_pipeline(a), vfs_pipeline(b));
	assert_int_equal(seen.opens, 1);
	vfs_release(vfs, a);
	assert_int_equal(seen.closes, 0);
	vfs_release(vfs, b);
	assert_int_equal(seen.closes, 1);
	assert_int_equal(resize(ino, 100), 0); /* opens it for the time that it takes */
	assert_int_equal(seen.opens, 2);
	assert_int_equal(seen.closes, 2);
}

static uint64_t raced;

static void *thread_open(void *arg)
{
	for (unsigned i = 0; i < 200; i++) {
		struct vnode *f;
		char c;
		assert_int_equal(vfs_open(vfs, raced, &f), 0);
		assert_non_null(vfs_pipeline(f));
		assert_true(seen.open_now == 1);
		put(f, i, "x", 1);
		assert_int_equal(get(f, i, &c, 1), 1);
		if (i % 50 == 0)
			assert_int_equal(vfs_fsync(vfs, f), 0);
		vfs_release(vfs, f);
	}
	return NULL;
}

static void racing_openers_get_one_pipeline(void **state)
{
	pthread_t threads[4];

	stages_types[0] = &stage_note;
	vfs_release(vfs, create("a", &raced));
	for (unsigned i = 0; i < ARRAY_SIZE(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, thread_open, NULL), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(threads); i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(seen.opens, seen.closes);
	assert_int_equal(seen.ops[REQUEST_WRITE], 800);
}

static void an_image_that_does_not_open_keeps_its_names_and_attributes(void **state)
{
	const struct vfs_setattr chmod = {.set = VFS_SET_MODE, .mode = 0600};
	uint64_t ino;
	struct vfs_entry e;
	struct vnode *f = create("a", &ino);

	fill(f, 0, 5000, 'x');
	vfs_release(vfs, f);
	stages_open_result = -EIO;
	assert_int_equal(vfs_open(vfs, ino, &f), -EIO);
	assert_int_equal(resize(ino, 0), -EIO);
	assert_int_equal(size_of(ino), 5000);
	assert_int_equal(set(ino, &chmod), 0);
	assert_int_equal(attr(ino).inode.mode & 07777, 0600);
	assert_int_equal(vfs_rename(vfs, TOP, "a", TOP, "b", 0), 0);
	assert_int_equal(vfs_link(vfs, ino, TOP, "c", &e), 0);
	assert_int_equal(vfs_unlink(vfs, TOP, "b"), 0);
	assert_int_equal(vfs_unlink(vfs, TOP, "c"), 0);
	assert_int_equal(seen.open_now, 0);
}

static void what_does_not_open_when_it_is_made_is_not_left_behind(void **state)
{
	struct vfs_entry e;
	struct vnode *f;

	stages_open_result = -ENOKEY;
	assert_int_equal(vfs_create(vfs, TOP, "a", 0644, &root, &e, &f), -ENOKEY);
	assert_int_equal(ino_of(TOP, "a"), 0);
	stages_open_result = 0;
	assert_int_equal(vfs_create(vfs, TOP, "a", 0644, &root, &e, &f), 0);
	vfs_release(vfs, f);
}

static void files_still_open_at_the_end_are_closed(void **state)
{
	stages_types[0] = &stage_note;
	struct vnode *f = create("a", NULL);
	fill(f, 0, 5000, 'x');
	world_close();
	assert_int_equal(seen.open_now, 0);
	assert_int_equal(world_open(false), 0);
	assert_int_equal(size_of(ino_of(TOP, "a")), 5000);
}

/* --- quarantine --- */

static void quarantine_refuses_changes_of_content_only(void **state)
{
	const struct vfs_setattr chmod = {.set = VFS_SET_MODE, .mode = 0600};
	uint64_t ino, n;
	size_t done;

	stages_types[0] = &stage_note;
	struct vnode *f = create("a", &ino), *g = create("b", NULL);
	fill(f, 0, 5000, 'x');
	stages_read_only = true;
	assert_int_equal(vfs_write(vfs, f, 0, "y", 1, 0, &done), -EROFS);
	assert_int_equal(vfs_fallocate(vfs, f, 0, 0, 10000, 0), -EROFS);
	assert_int_equal(resize(ino, 0), -EROFS);
	assert_int_equal(vfs_copy(vfs, f, 0, g, 0, 5000, 0, &n), -EROFS);
	assert_int_equal(seen.ops[REQUEST_WRITE], 1);
	expect_bytes(f, 0, 5000, 'x');
	assert_int_equal(vfs_fsync(vfs, f), 0);
	assert_int_equal(set(ino, &chmod), 0);
	stages_read_only = false;
	put(f, 0, "y", 1);
	vfs_release(vfs, f);
	vfs_release(vfs, g);
}

/* --- what is put with rows --- */

static void files_and_directories_inherit_when_they_are_made(void **state)
{
	const uint64_t dir = make(TOP, "d", S_IFDIR | 0755);

	assert_int_equal(seen.inherits, 1);
	assert_int_equal(seen.inherited_dir, TOP);
	assert_int_equal(seen.inherited, dir);
	make(dir, "link", S_IFLNK | 0777);
	make(dir, "pipe", S_IFIFO | 0644);
	assert_int_equal(seen.inherits, 1);
	uint64_t ino;
	vfs_release(vfs, create_mode(dir, "f", 0644, &ino));
	assert_int_equal(seen.inherits, 2);
	assert_int_equal(seen.inherited_dir, dir);
	assert_int_equal(seen.inherited, ino);
}

static void what_cannot_inherit_is_not_made(void **state)
{
	struct vfs_entry e;
	struct vnode *f;
	unsigned n = 0;

	stages_inherit_result = -ENOMEM;
	assert_int_equal(vfs_create(vfs, TOP, "a", 0644, &root, &e, &f), -ENOMEM);
	assert_int_equal(ino_of(TOP, "a"), 0);
	assert_int_equal(ns_inode_each(ds->ns, NS_ALL, count_inode, &n), 0);
	assert_int_equal(n, 1);
}

static void state_is_collected_with_the_row(void **state)
{
	uint64_t a, b;
	struct vnode *f = create("a", &a), *g = create("b", &b);

	put(f, 0, "x", 1);
	put(g, 0, "x", 1);
	assert_int_equal(vfs_fsync(vfs, f), 0);
	assert_int_equal(seen.collects, 1);
	assert_int_equal(seen.collected, a);
	assert_int_equal(vfs_fsync(vfs, f), 0); /* nothing new */
	assert_int_equal(seen.collects, 1);
	assert_int_equal(store_sync(ds->store), 0);
	assert_int_equal(seen.collects, 2);
	assert_int_equal(seen.collected, b);
	vfs_release(vfs, f);
	vfs_release(vfs, g);
}

static void state_alone_makes_a_file_be_collected(void **state)
{
	uint64_t ino;
	struct vnode *f = create("a", &ino);

	vfs_mark_state(vfs, ino);
	assert_int_equal(vfs_fsync(vfs, f), 0);
	assert_int_equal(seen.collects, 1);
	vfs_mark_state(vfs, ino);
	vfs_mark_state(vfs, 12345); /* not in use: nobody has it open */
	assert_int_equal(store_sync(ds->store), 0);
	assert_int_equal(seen.collects, 2);
	vfs_release(vfs, f);
}

static unsigned n_applied;

static void note_applied(struct request *req)
{
	n_applied++;
	vfs_mark_state(vfs, ((struct stage_image *)req->arg)->id); /* takes the vnode's lock */
}

static void note_complete(struct request *req)
{
}

static void applied_is_called_once_a_change(void **state)
{
	static const struct {
		enum request_op op;
		unsigned flags, applied;
		uint64_t off, len;
	} cases[] = {
	        {REQUEST_WRITE, 0, 1, 0, 5},
	        {REQUEST_READ, 0, 0, 0, 5},
	        {REQUEST_FLUSH, 0, 0, 0, 0},
	        {REQUEST_DISCARD, 0, 1, 0, 5},
	        {REQUEST_DISCARD, 0, 1, 0, 5ull << 30}, /* more than one section */
	        {REQUEST_ZERO, 0, 1, 0, 5000},
	        {REQUEST_ZERO, REQUEST_ALLOCATE, 1, 0, 100000},
	        {REQUEST_ZERO, REQUEST_ALLOCATE, 1, 0, 100000}, /* nothing to fill */
	        {REQUEST_RESIZE, 0, 1, 0, 100},
	        {REQUEST_RESIZE, 0, 0, 0, IMAGE_SIZE_MAX + 1},
	};
	struct stage_image image = {0};
	struct vnode *f = create("a", &image.id);

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct request req = {
		        .op = cases[i].op,
		        .flags = cases[i].flags,
		        .off = cases[i].off,
		        .len = cases[i].len,
		        .data = "hello",
		        .applied = note_applied,
		        .complete = note_complete,
		        .arg = &image,
		};
		n_applied = 0;
		vfs_submit(vfs, f, &req);
		readv_release(&req.out);
		assert_int_equal(n_applied, cases[i].applied);
	}
	vfs_release(vfs, f);
}

/* --- copying --- */

static uint64_t copy(struct vnode *a, uint64_t a_off, struct vnode *b, uint64_t b_off, uint64_t len)
{
	uint64_t done = 0;
	const int r = vfs_copy(vfs, a, a_off, b, b_off, len, 0, &done);

	return r < 0 ? (uint64_t)r : done;
}

static void copies_are_requests_where_a_stage_sees_the_bytes(void **state)
{
	uint64_t ino;
	struct vnode *a = create("a", NULL), *b;

	fill(a, 0, 3 * MIB - 1000, 'x');
	stages_types[0] = &stage_note;
	stages_types[1] = &stage_xor;
	b = create("b", &ino);
	assert_int_equal(copy(a, 0, b, 4096, 1ull << 40), 3 * MIB - 1000);
	assert_int_equal(seen.ops[REQUEST_WRITE], 3);
	assert_true(seen.flags[REQUEST_WRITE] & REQUEST_COPY);
	for (uint64_t off = 0; off < 3 * MIB; off += MIB) {
		const size_t len = MIN(MIB, 3 * MIB - 1000 - off);
		expect_bytes(b, 4096 + off, len, 'x');
	}
	assert_int_equal(copy(b, 4096, a, 5000, 1000), 1000);
	expect_bytes(a, 0, MIB, 'x');
	vfs_release(vfs, a);
	vfs_release(vfs, b);
}

static void copies_are_shared_where_none_does(void **state)
{
	struct store_stats before, after;
	struct vnode *a = create("a", NULL), *b = create("b", NULL);
	uint8_t *data = malloc(MIB);

	for (size_t i = 0; i < MIB; i++)
		data[i] = (uint8_t)(i * 2654435761u >> 11);
	put(a, 0, data, MIB);
	free(data);
	store_stats_get(ds->store, &before);
	assert_int_equal(copy(a, 0, b, 0, MIB), MIB);
	store_stats_get(ds->store, &after);
	assert_int_equal(after.read_bytes, before.read_bytes);
	assert_int_equal(after.written_bytes, before.written_bytes);
	vfs_release(vfs, a);
	vfs_release(vfs, b);
}

static _Atomic bool changed;

static void *thread_change(void *arg)
{
	struct stack_plan *plan = calloc(1, sizeof(*plan));
	struct errmsg em = {0};

	stages_types[0] = &stage_note;
	stages_plan(plan);
	assert_int_equal(pipeline_change(arg, plan, NULL, NULL, &em), 0);
	stack_plan_release(plan);
	free(plan);
	changed = true;
	return NULL;
}

/* As one that takes as long as this test likes. */
static void a_change_of_the_stack_waits_for_a_sharing_copy(void **state)
{
	struct vnode *a = create("a", NULL), *b = create("b", NULL);
	struct pipeline *p = vfs_pipeline(b);
	struct request room;
	pthread_t t;

	fill(a, 0, 100000, 'x');
	changed = false;
	assert_true(pipeline_hold(p, OP(WRITE), &room));
	assert_int_equal(pthread_create(&t, NULL, thread_change, p), 0);
	usleep(50000);
	assert_false(changed);
	pipeline_unhold(p, &room);
	pthread_join(t, NULL);
	assert_true(changed);
	assert_false(pipeline_hold(p, OP(WRITE), &room));
	assert_int_equal(copy(a, 0, b, 0, 100000), 100000);
	assert_int_equal(seen.ops[REQUEST_WRITE], 1);
	expect_bytes(b, 0, 100000, 'x');
	vfs_release(vfs, a);
	vfs_release(vfs, b);
}

static void a_file_is_copied_within_itself(void **state)
{
	struct vnode *a = create("a", NULL);

	fill(a, 0, 100000, 'x');
	assert_int_equal(copy(a, 0, a, 200704, 100000), 100000);
	expect_bytes(a, 200704, 100000, 'x');
	vfs_release(vfs, a);
}

static void a_copy_that_a_stage_refuses_fails(void **state)
{
	uint64_t ino;
	struct vnode *a = create("a", NULL), *b;

	fill(a, 0, 100000, 'x');
	stages_types[0] = &stage_deny;
	b = create("b", &ino);
	assert_int_equal(copy(a, 0, b, 0, 100000), (uint64_t)-EPERM);
	assert_int_equal(size_of(ino), 0);
	vfs_release(vfs, a);
	vfs_release(vfs, b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        STAGES_CASE(every_operation_passes_the_stack),
	        STAGES_CASE(what_cannot_be_right_is_refused_before_the_stack),
	        STAGES_CASE(settling_a_file_and_counting_blocks_pass_it_by),
	        STAGES_CASE(a_stage_that_fails_changes_keeps_the_file_as_it_is),
	        STAGES_CASE(what_a_transform_stores_reads_as_it_was_written),
	        STAGES_CASE(who_opens_a_file_together_shares_one_pipeline),
	        STAGES_CASE(racing_openers_get_one_pipeline),
	        STAGES_CASE(an_image_that_does_not_open_keeps_its_names_and_attributes),
	        STAGES_CASE(what_does_not_open_when_it_is_made_is_not_left_behind),
	        STAGES_CASE(files_still_open_at_the_end_are_closed),
	        STAGES_CASE(quarantine_refuses_changes_of_content_only),
	        STAGES_CASE(files_and_directories_inherit_when_they_are_made),
	        STAGES_CASE(what_cannot_inherit_is_not_made),
	        STAGES_CASE(state_is_collected_with_the_row),
	        STAGES_CASE(state_alone_makes_a_file_be_collected),
	        STAGES_CASE(applied_is_called_once_a_change),
	        STAGES_CASE(copies_are_requests_where_a_stage_sees_the_bytes),
	        STAGES_CASE(copies_are_shared_where_none_does),
	        STAGES_CASE(a_change_of_the_stack_waits_for_a_sharing_copy),
	        STAGES_CASE(a_file_is_copied_within_itself),
	        STAGES_CASE(a_copy_that_a_stage_refuses_fails),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

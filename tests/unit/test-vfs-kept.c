/*
 * test-vfs-kept.c - requests that a stage keeps and lets go on later, from another thread
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vfs-stages.h"

static _Atomic unsigned n_complete;
static pthread_t submitter;
static _Atomic bool elsewhere; /* a completion came on another thread than the submitter's */

static void count_complete(struct request *req)
{
	assert_int_equal(req->result, 0);
	if (!pthread_equal(pthread_self(), submitter))
		elsewhere = true;
	n_complete++;
}

static void complete_wait(unsigned n)
{
	for (unsigned i = 0; n_complete < n; i++) {
		assert_true(i < 10000);
		usleep(1000);
	}
}

static int kept_setup(void **state)
{
	n_complete = 0;
	elsewhere = false;
	submitter = pthread_self();
	if (stages_setup(state) < 0)
		return -1;
	stages_types[0] = &stage_keep;
	return 0;
}

#define KEPT_CASE(fn) cmocka_unit_test_setup_teardown(fn, kept_setup, stages_teardown)

#define MANY 3000u

static void thousands_of_kept_writes_hold_no_thread(void **state)
{
	struct request *reqs = calloc(MANY, sizeof(*reqs));
	struct vnode *f = create("a", NULL);
	char buf[4096];

	stages_keep = OP(WRITE);
	for (unsigned i = 0; i < MANY; i++) {
		memset(buf, 'a' + i % 26, sizeof(buf)); /* the same buffer: the pipeline copies */
		reqs[i] = (struct request){
		        .op = REQUEST_WRITE,
		        .off = (uint64_t)i * sizeof(buf),
		        .len = sizeof(buf),
		        .data = buf,
		        .complete = count_complete,
		};
		vfs_submit(vfs, f, &reqs[i]);
	}
	assert_int_equal(kept_count(), MANY);
	assert_int_equal(n_complete, 0);
	/* Reads, and other files, go on meanwhile. */
	assert_int_equal(get(f, 0, buf, sizeof(buf)), 0);
	stages_types[0] = NULL;
	struct vnode *g = create("b", NULL);
	fill(g, 0, 100000, 'g');
	expect_bytes(g, 0, 100000, 'g');
	kept_resume();
	complete_wait(MANY);
	assert_true(elsewhere);
	for (unsigned i = 0; i < MANY; i++)
		expect_bytes(f, (uint64_t)i * sizeof(buf), sizeof(buf), (char)('a' + i % 26));
	vfs_release(vfs, f);
	vfs_release(vfs, g);
	free(reqs);
}

static pthread_t resumer;

static void *thread_resume(void *arg)
{
	kept_wait(1);
	kept_resume();
	return NULL;
}

static void keep_and_resume(unsigned ops)
{
	stages_keep = ops;
	assert_int_equal(pthread_create(&resumer, NULL, thread_resume, NULL), 0);
}

static void calls_that_wait_return_when_their_request_goes_on(void **state)
{
	uint64_t ino;
	struct vnode *f = create("a", &ino);

	keep_and_resume(OP(WRITE));
	fill(f, 0, 5000, 'x');
	pthread_join(resumer, NULL);
	keep_and_resume(OP(READ));
	expect_bytes(f, 0, 5000, 'x');
	pthread_join(resumer, NULL);
	keep_and_resume(OP(FLUSH));
	assert_int_equal(vfs_fsync(vfs, f), 0);
	pthread_join(resumer, NULL);
	keep_and_resume(OP(RESIZE));
	assert_int_equal(resize(ino, 100), 0);
	pthread_join(resumer, NULL);
	assert_int_equal(size_of(ino), 100);
	vfs_release(vfs, f);
}

/* --- setattr --- */

struct resized {
	struct vfs_setattr_call call;
	_Atomic bool done;
	pthread_t thread;
};

static void note_resized(struct vfs_setattr_call *call)
{
	struct resized *r = CONTAINER_OF(call, struct resized, call);

	r->thread = pthread_self();
	r->done = true;
}

static void resized_wait(struct resized *r)
{
	for (unsigned i = 0; !r->done; i++) {
		assert_true(i < 10000);
		usleep(1000);
	}
}

static void closed_wait(void)
{
	for (unsigned i = 0; seen.open_now > 0; i++) {
		assert_true(i < 10000);
		usleep(1000);
	}
}

static void a_kept_truncation_is_answered_later_with_all_it_set(void **state)
{
	struct resized r = {.call = {.set = {.set = VFS_SET_SIZE | VFS_SET_MTIME,
	                                     .size = 777,
	                                     .mtime = {.tv_sec = 12345}},
	                            .done = note_resized}};
	uint64_t ino;

	vfs_release(vfs, create("a", &ino));
	stages_keep = OP(RESIZE);
	vfs_setattr_submit(vfs, ino, &r.call);
	assert_int_equal(kept_count(), 1);
	assert_false(r.done);
	assert_int_equal(size_of(ino), 0);
	kept_resume();
	resized_wait(&r);
	assert_false(pthread_equal(r.thread, pthread_self()));
	assert_int_equal(r.call.result, 0);
	assert_int_equal(r.call.attr.inode.size, 777);
	assert_int_equal(r.call.attr.inode.mtime.tv_sec, 12345);
	/* Nobody else has it open: it is closed, though not by who completed the request. */
	closed_wait();
	assert_int_equal(seen.opens, 2);
}

static void a_truncation_that_nobody_keeps_is_answered_at_once(void **state)
{
	struct resized r = {
	        .call = {.set = {.set = VFS_SET_SIZE, .size = 777}, .done = note_resized}};
	uint64_t ino;

	vfs_release(vfs, create("a", &ino));
	vfs_setattr_submit(vfs, ino, &r.call);
	assert_true(r.done);
	assert_int_equal(r.call.attr.inode.size, 777);
	assert_int_equal(seen.open_now, 0);
	r.done = false;
	vfs_setattr_submit(vfs, 4711, &r.call);
	assert_true(r.done);
	assert_int_equal(r.call.result, -ENOENT);
	r.done = false;
	vfs_setattr_submit(vfs, TOP, &r.call);
	assert_true(r.done);
	assert_int_equal(r.call.result, -EISDIR);
}

static void the_last_reference_may_go_with_a_kept_truncation(void **state)
{
	struct resized r = {
	        .call = {.set = {.set = VFS_SET_SIZE, .size = 0}, .done = note_resized}};
	uint64_t ino;
	unsigned n = 0;

	struct vnode *f = create("a", &ino);
	fill(f, 0, 5000, 'x');
	vfs_release(vfs, f);
	stages_keep = OP(RESIZE);
	vfs_setattr_submit(vfs, ino, &r.call);
	assert_int_equal(vfs_unlink(vfs, TOP, "a"), 0);
	vfs_forget(vfs, ino, 1);
	kept_resume();
	resized_wait(&r);
	closed_wait();
	world_close(); /* the closer is done */
	assert_int_equal(world_open(false), 0);
	assert_int_equal(ns_inode_each(ds->ns, NS_ALL, count_inode, &n), 0);
	assert_int_equal(n, 1);
}

/* --- copying --- */

static void *thread_copy(void *arg)
{
	struct vnode **files = arg;
	uint64_t done;
	const int r = vfs_copy(vfs, files[0], 0, files[1], 0, 5000, 0, &done);

	return (void *)(intptr_t)r;
}

static void few_threads_wait_for_kept_copies(void **state)
{
	struct vnode *files[] = {create("a", NULL), create("b", NULL)};
	pthread_t threads[4];
	uint64_t done;

	fill(files[0], 0, 5000, 'x');
	stages_keep = OP(WRITE);
	for (unsigned i = 0; i < ARRAY_SIZE(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, thread_copy, files), 0);
	kept_wait(ARRAY_SIZE(threads));
	assert_int_equal(vfs_copy(vfs, files[0], 0, files[1], 0, 5000, 0, &done), -EBUSY);
	kept_resume();
	for (unsigned i = 0; i < ARRAY_SIZE(threads); i++) {
		void *r;
		pthread_join(threads[i], &r);
		assert_null(r);
	}
	assert_int_equal(vfs_copy(vfs, files[0], 0, files[1], 0, 5000, 0, &done), 0);
	expect_bytes(files[1], 0, 5000, 'x');
	vfs_release(vfs, files[0]);
	vfs_release(vfs, files[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        KEPT_CASE(thousands_of_kept_writes_hold_no_thread),
	        KEPT_CASE(calls_that_wait_return_when_their_request_goes_on),
	        KEPT_CASE(a_kept_truncation_is_answered_later_with_all_it_set),
	        KEPT_CASE(a_truncation_that_nobody_keeps_is_answered_at_once),
	        KEPT_CASE(the_last_reference_may_go_with_a_kept_truncation),
	        KEPT_CASE(few_threads_wait_for_kept_copies),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

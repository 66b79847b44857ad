/*
 * test-vfs-crash.c - what of files is there after a crash, and after a clean end
 *
 * A crash is a child process that ends without closing anything.
 */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vfs-world.h"

/* For builds with TSan: threads that are left when a process ends are what a crash is about. */
const char *__tsan_default_options(void);
const char *__tsan_default_options(void)
{
	return "report_thread_leaks=0";
}

/* --- crashes --- */

/* Runs fn in a child that dies without closing; then opens what it left. */
static void crash(void (*fn)(void))
{
	int status;

	world_close();
	const pid_t pid = fork();
	if (pid == 0) {
		if (world_open(false) < 0)
			_exit(2);
		fn();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(world_open(false), 0);
}

static void write_and_flush(void)
{
	struct vnode *f = create("a", NULL);

	fill(f, 0, 100000, 'x');
	if (vfs_fsync(vfs, f) < 0)
		_exit(3);
	fill(f, 100000, 50000, 'y');
}

static void what_was_flushed_survives_with_its_size(void **state)
{
	struct vnode *f;

	crash(write_and_flush);
	const uint64_t ino = ino_of(TOP, "a");
	assert_int_not_equal(ino, 0);
	assert_int_equal(size_of(ino), 100000);
	assert_int_equal(vfs_open(vfs, ino, &f), 0);
	expect_bytes(f, 0, 100000, 'x');
	vfs_release(vfs, f);
}

static void write_chmod_and_flush_another(void)
{
	const struct vfs_setattr chmod = {.set = VFS_SET_MODE, .mode = 0600};
	uint64_t ino;
	struct vnode *f = create("a", &ino), *g = create("b", NULL);

	fill(f, 0, 100000, 'x');
	if (set(ino, &chmod) < 0 || resize(ino, 200000) < 0)
		_exit(3);
	fill(g, 0, 1, 'y');
	if (vfs_fsync(vfs, g) < 0)
		_exit(3);
}

static void a_size_is_not_durable_before_its_content(void **state)
{
	crash(write_chmod_and_flush_another);
	assert_int_equal(size_of(ino_of(TOP, "a")), 0);
	assert_int_equal(size_of(ino_of(TOP, "b")), 1);
}

static void replace_without_flush(void)
{
	struct vnode *old = create("conf", NULL), *new;

	fill(old, 0, 5000, 'o');
	if (vfs_fsync(vfs, old) < 0)
		_exit(3);
	new = create("conf.tmp", NULL);
	fill(new, 0, 6000, 'n');
	if (vfs_rename(vfs, TOP, "conf.tmp", TOP, "conf", 0) < 0 || vfs_fsyncdir(vfs) < 0)
		_exit(3);
}

static void a_rename_over_a_file_brings_its_content_along(void **state)
{
	struct vnode *f;

	crash(replace_without_flush);
	assert_int_equal(vfs_open(vfs, ino_of(TOP, "conf"), &f), 0);
	assert_int_equal(size_of(ino_of(TOP, "conf")), 6000);
	expect_bytes(f, 0, 6000, 'n');
	assert_int_equal(ino_of(TOP, "conf.tmp"), 0);
	vfs_release(vfs, f);
}

static void unlink_while_open(void)
{
	struct vnode *f = create("a", NULL);

	fill(f, 0, 100000, 'x');
	if (vfs_fsync(vfs, f) < 0 || vfs_unlink(vfs, TOP, "a") < 0 || vfs_fsyncdir(vfs) < 0)
		_exit(3);
}

static void what_was_unlinked_but_open_is_gone_after_a_crash(void **state)
{
	unsigned n = 0;

	crash(unlink_while_open);
	assert_int_equal(ino_of(TOP, "a"), 0);
	assert_int_equal(ns_inode_each(ds->ns, NS_ALL, count_inode, &n), 0);
	assert_int_equal(n, 1); /* the top */
	assert_int_equal(store_sync(ds->store), 0);
	struct store_stats st;
	store_stats_get(ds->store, &st);
	assert_int_equal(st.data_chunks, 0);
}

static void all_is_there_after_a_clean_end(void **state)
{
	const uint64_t d = make(TOP, "d", S_IFDIR | 0755);
	uint64_t ino;
	char target[16];
	struct vnode *f = create_mode(d, "f", 0604, &ino);

	fill(f, 12345, 54321, 'z');
	make(d, "link", S_IFLNK | 0777);
	assert_int_equal(vfs_setxattr(vfs, ino, "user.k", "v", 1, 0), 0);
	vfs_release(vfs, f);
	world_close();
	assert_int_equal(world_open(true), 0);
	assert_int_equal(ino_of(TOP, "d"), d);
	assert_int_equal(ino_of(d, "f"), ino);
	assert_int_equal(attr(ino).inode.mode, S_IFREG | 0604);
	assert_int_equal(size_of(ino), 12345 + 54321);
	assert_int_equal(vfs_readlink(vfs, ino_of(d, "link"), target, sizeof(target)), 0);
	assert_string_equal(target, "target");
	assert_int_equal(vfs_open(vfs, ino, &f), 0);
	expect_bytes(f, 0, 12345, 0);
	expect_bytes(f, 12345, 54321, 'z');
	/* And read-only means that. */
	size_t done;
	assert_int_equal(vfs_write(vfs, f, 0, "x", 1, 0, &done), -EROFS);
	assert_int_equal(vfs_unlink(vfs, d, "f"), -EROFS);
	assert_int_equal(resize(ino, 0), -EROFS);
	assert_int_equal(vfs_setxattr(vfs, ino, "user.k", "w", 1, 0), -EROFS);
	vfs_release(vfs, f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        CASE(what_was_flushed_survives_with_its_size),
	        CASE(a_size_is_not_durable_before_its_content),
	        CASE(a_rename_over_a_file_brings_its_content_along),
	        CASE(what_was_unlinked_but_open_is_gone_after_a_crash),
	        CASE(all_is_there_after_a_clean_end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

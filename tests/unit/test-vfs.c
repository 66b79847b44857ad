/*
 * test-vfs.c - content of files: sizes, holes, copies; and many threads at once
 */
#include <errno.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vfs-world.h"

/* --- content and size --- */

static void what_was_written_is_read(void **state)
{
	uint64_t ino;
	struct vnode *f = create("a", &ino);

	put(f, 5000, "hello", 5);
	assert_int_equal(size_of(ino), 5005);
	expect_bytes(f, 0, 5000, 0);
	char buf[16];
	assert_int_equal(get(f, 5000, buf, sizeof(buf)), 5);
	assert_memory_equal(buf, "hello", 5);
	assert_int_equal(get(f, 5005, buf, sizeof(buf)), 0);
	vfs_release(vfs, f);
}

static void a_cut_file_grows_again_with_zeros(void **state)
{
	uint64_t ino;
	struct vnode *f = create("a", &ino);

	fill(f, 0, 3 * MIB / 2, 'x');
	assert_int_equal(resize(ino, 10001), 0);
	assert_int_equal(resize(ino, 2 * MIB), 0);
	expect_bytes(f, 0, 10001, 'x');
	expect_bytes(f, 10001, MIB - 10001, 0);
	expect_bytes(f, MIB, MIB, 0);
	vfs_release(vfs, f);
}

static void size_limit_is_efbig(void **state)
{
	uint64_t ino;
	size_t done;
	struct vnode *f = create("a", &ino);

	assert_int_equal(resize(ino, IMAGE_SIZE_MAX), 0);
	assert_int_equal(resize(ino, IMAGE_SIZE_MAX + 1), -EFBIG);
	assert_int_equal(vfs_write(vfs, f, IMAGE_SIZE_MAX, "ab", 2, 0, &done), -EFBIG);
	assert_int_equal(vfs_write(vfs, f, IMAGE_SIZE_MAX - 1, "ab", 2, 0, &done), 0);
	assert_int_equal(done, 1);
	assert_int_equal(vfs_fallocate(vfs, f, 0, IMAGE_SIZE_MAX - 1, 2, 0), -EFBIG);
	vfs_release(vfs, f);
}

static void blocks_count_what_is_allocated(void **state)
{
	uint64_t ino;
	struct vnode *f = create("a", &ino);

	assert_int_equal(resize(ino, 100 * MIB), 0);
	assert_int_equal(attr(ino).blocks_512, 0);
	fill(f, MIB, 8192, 'x');
	assert_int_equal(attr(ino).blocks_512, 16);
	vfs_release(vfs, f);
	assert_int_equal(attr(ino).blocks_512, 16);
}

/* --- holes --- */

static uint64_t seek(struct vnode *f, uint64_t off, int whence)
{
	uint64_t found = 0;
	const int r = vfs_lseek(vfs, f, off, whence, &found);

	return r < 0 ? (uint64_t)r : found;
}

static void fallocate_makes_and_fills_holes(void **state)
{
	const int punch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
	uint64_t ino;
	struct vnode *f = create("a", &ino);

	fill(f, 0, MIB, 'x');
	assert_int_equal(vfs_fallocate(vfs, f, punch, 8192, 100000, 0), 0);
	expect_bytes(f, 0, 8192, 'x');
	expect_bytes(f, 8192, 100000, 0);
	expect_bytes(f, 108192, 1000, 'x');
	assert_int_equal(seek(f, 0, SEEK_HOLE), 8192);
	assert_int_equal(seek(f, 8192, SEEK_DATA), 106496);
	/* Allocating fills the hole, keeps the data and grows the file. */
	assert_int_equal(vfs_fallocate(vfs, f, 0, 0, 2 * MIB, 0), 0);
	assert_int_equal(size_of(ino), 2 * MIB);
	assert_int_equal(seek(f, 0, SEEK_HOLE), 2 * MIB);
	assert_int_equal(attr(ino).blocks_512, 4096);
	expect_bytes(f, 0, 8192, 'x');
	expect_bytes(f, 8192, 100000, 0);
	expect_bytes(f, 108192, 1000, 'x');
	vfs_release(vfs, f);
}

static void zero_range_keeps_or_grows_the_size(void **state)
{
	uint64_t ino;
	struct vnode *f = create("a", &ino);

	fill(f, 0, 10000, 'x');
	assert_int_equal(
	        vfs_fallocate(vfs, f, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 5000, 10000, 0),
	        0);
	assert_int_equal(size_of(ino), 10000);
	assert_int_equal(vfs_fallocate(vfs, f, FALLOC_FL_ZERO_RANGE, 5000, 10000, 0), 0);
	assert_int_equal(size_of(ino), 15000);
	expect_bytes(f, 0, 5000, 'x');
	expect_bytes(f, 5000, 10000, 0);
	assert_int_equal(seek(f, 0, SEEK_HOLE), 15000); /* allocated zeros are data */
	assert_int_equal(vfs_fallocate(vfs, f, FALLOC_FL_COLLAPSE_RANGE, 0, 4096, 0), -EOPNOTSUPP);
	assert_int_equal(vfs_fallocate(vfs, f, FALLOC_FL_PUNCH_HOLE, 0, 4096, 0), -EOPNOTSUPP);
	assert_int_equal(vfs_fallocate(vfs, f, 0, 0, 0, 0), -EINVAL);
	vfs_release(vfs, f);
}

static void a_promise_of_space_that_is_not_there_is_refused(void **state)
{
	uint64_t ino;
	struct vnode *f = create("a", &ino);
	struct statvfs st;

	assert_int_equal(vfs_statfs(vfs, &st), 0);
	assert_int_equal(
	        vfs_fallocate(vfs, f, 0, 0, (st.f_bavail + MIB) * st.f_frsize, 0), -ENOSPC);
	assert_int_equal(size_of(ino), 0);
	vfs_release(vfs, f);
}

static void seek_ends_at_the_size(void **state)
{
	uint64_t ino;
	struct vnode *f = create("a", &ino);

	fill(f, 0, 5000, 'x');
	assert_int_equal(seek(f, 0, SEEK_DATA), 0);
	assert_int_equal(seek(f, 4999, SEEK_HOLE), 5000);
	assert_int_equal(seek(f, 5000, SEEK_HOLE), -ENXIO);
	assert_int_equal(resize(ino, MIB), 0);
	assert_int_equal(seek(f, 9000, SEEK_DATA), -ENXIO);
	vfs_release(vfs, f);
}

/* --- copying --- */

static uint64_t copy(struct vnode *a, uint64_t a_off, struct vnode *b, uint64_t b_off, uint64_t len)
{
	uint64_t done = 0;
	const int r = vfs_copy(vfs, a, a_off, b, b_off, len, 0, &done);

	return r < 0 ? (uint64_t)r : done;
}

static void copy_at_any_alignment_equals_the_source(void **state)
{
	static const uint64_t offs[] = {0, 1, 4095, 4096, 5000, 8192};
	uint8_t *data = malloc(MIB), *back = malloc(MIB);
	struct vnode *a = create("a", NULL);

	for (size_t i = 0; i < MIB; i++)
		data[i] = (uint8_t)(i * 2654435761u >> 13);
	put(a, 0, data, 100001);
	for (unsigned i = 0; i < 36; i++) {
		const uint64_t from = offs[i / 6], to = offs[i % 6];
		char name[16];
		snprintf(name, sizeof(name), "b%u", i);
		struct vnode *b = create(name, NULL);
		fill(b, 0, 120000, 'b');
		assert_int_equal(copy(a, from, b, to, 1 << 20), 100001 - from);
		const size_t len = (size_t)(100001 - from);
		assert_int_equal(get(b, to, back, len), len);
		assert_memory_equal(back, data + from, len);
		if (to)
			expect_bytes(b, 0, (size_t)to, 'b');
		expect_bytes(b, to + len, (size_t)(120000 - to - len), 'b');
		vfs_release(vfs, b);
	}
	vfs_release(vfs, a);
	free(data);
	free(back);
}

static void a_copied_file_takes_no_space(void **state)
{
	struct vnode *a = create("a", NULL), *b;
	struct store_stats before, after;
	uint8_t *data = malloc(MIB);
	uint64_t ino;

	for (size_t i = 0; i < MIB; i++)
		data[i] = (uint8_t)(i * 2654435761u >> 11);
	put(a, 0, data, MIB - 1000);
	assert_int_equal(store_sync(ds->store), 0);
	store_stats_get(ds->store, &before);
	b = create("b", &ino);
	assert_int_equal(copy(a, 0, b, 0, 1ull << 40), MIB - 1000);
	assert_int_equal(size_of(ino), MIB - 1000);
	assert_int_equal(store_sync(ds->store), 0);
	store_stats_get(ds->store, &after);
	assert_int_equal(after.unique_chunks, before.unique_chunks);
	assert_int_equal(after.chunks_new, before.chunks_new);
	/* What lies behind the end of the shared last chunk stays zero. */
	assert_int_equal(resize(ino, MIB), 0);
	expect_bytes(b, MIB - 1000, 1000, 0);
	vfs_release(vfs, a);
	vfs_release(vfs, b);
	free(data);
}

static void a_copy_onto_itself_is_refused(void **state)
{
	struct vnode *a = create("a", NULL);

	fill(a, 0, 65536, 'x');
	assert_int_equal(copy(a, 0, a, 4096, 8192), -EINVAL);
	assert_int_equal(copy(a, 0, a, 8192, 8192), 8192);
	assert_int_equal(copy(a, 65536, a, 0, 8192), 0);
	vfs_release(vfs, a);
}

/* --- threads --- */

#define ROUNDS 300

static struct vnode *shared;
static uint64_t shared_ino;

static void *thread_write(void *arg)
{
	char buf[8192];

	memset(buf, 'w', sizeof(buf));
	for (unsigned i = 0; i < ROUNDS; i++)
		put(shared, i % 64 * sizeof(buf), buf, sizeof(buf));
	return NULL;
}

static void *thread_cut(void *arg)
{
	for (unsigned i = 0; i < ROUNDS / 4; i++)
		assert_int_equal(resize(shared_ino, i % 2 ? 10000 : MIB), 0);
	return NULL;
}

static void *thread_flush(void *arg)
{
	for (unsigned i = 0; i < ROUNDS / 10; i++) {
		assert_int_equal(vfs_fsync(vfs, shared), 0);
		if (i % 8 == 0)
			assert_int_equal(store_sync(ds->store), 0);
	}
	return NULL;
}

static void *thread_read(void *arg)
{
	char buf[10000];

	for (unsigned i = 0; i < ROUNDS; i++) {
		const size_t n = get(shared, i % 90 * 8000, buf, sizeof(buf));
		for (size_t k = 0; k < n; k++)
			assert_true(buf[k] == 'w' || buf[k] == 0);
	}
	return NULL;
}

static void *thread_names(void *arg)
{
	const char *mine = arg;
	char other[16];

	snprintf(other, sizeof(other), "%s2", mine);
	for (unsigned i = 0; i < ROUNDS / 3; i++) {
		uint64_t ino;
		struct vnode *f = create(mine, &ino);
		put(f, 0, "x", 1);
		assert_int_equal(vfs_rename(vfs, TOP, mine, TOP, other, 0), 0);
		attr(ino);
		attr(TOP);
		assert_int_equal(vfs_unlink(vfs, TOP, other), 0);
		vfs_release(vfs, f);
		vfs_forget(vfs, ino, 1);
	}
	return NULL;
}

static void many_threads_at_once_keep_it_consistent(void **state)
{
	void *(*const fns[])(void *) = {thread_write, thread_write, thread_cut, thread_flush,
	        thread_read, thread_names, thread_names};
	static char p[] = "p", q[] = "q";
	char *const args[] = {NULL, NULL, NULL, NULL, NULL, p, q};
	pthread_t threads[ARRAY_SIZE(fns)];
	unsigned n = 0;

	shared = create("shared", &shared_ino);
	for (unsigned i = 0; i < ARRAY_SIZE(fns); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, fns[i], args[i]), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(fns); i++)
		pthread_join(threads[i], NULL);
	/* After a cut, what was behind it is zero whatever was written meanwhile. */
	assert_int_equal(resize(shared_ino, 5000), 0);
	assert_int_equal(resize(shared_ino, MIB), 0);
	expect_bytes(shared, 5000, MIB - 5000, 0);
	vfs_release(vfs, shared);
	assert_int_equal(ns_inode_each(ds->ns, NS_ALL, count_inode, &n), 0);
	assert_int_equal(n, 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        CASE(what_was_written_is_read),
	        CASE(a_cut_file_grows_again_with_zeros),
	        CASE(size_limit_is_efbig),
	        CASE(blocks_count_what_is_allocated),
	        CASE(fallocate_makes_and_fills_holes),
	        CASE(zero_range_keeps_or_grows_the_size),
	        CASE(a_promise_of_space_that_is_not_there_is_refused),
	        CASE(seek_ends_at_the_size),
	        CASE(copy_at_any_alignment_equals_the_source),
	        CASE(a_copied_file_takes_no_space),
	        CASE(a_copy_onto_itself_is_refused),
	        CASE(many_threads_at_once_keep_it_consistent),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

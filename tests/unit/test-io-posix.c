#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/io.h"

static char dir[64];
static struct io *io;

static int setup(void **state)
{
	snprintf(dir, sizeof(dir), "/tmp/weir-io-XXXXXX");
	return mkdtemp(dir) && io_posix_open(dir, &io, NULL) == 0 ? 0 : -1;
}

static int teardown(void **state)
{
	io_free(io);
	return rmdir(dir);
}

static void what_is_written_is_read_and_the_end_is_told(void **state)
{
	struct io_file *f;
	char buf[100];
	size_t n = 0;
	uint64_t size = 0;

	assert_int_equal(io_open(io, "a", IO_WRITE | IO_CREATE | IO_EXCL, &f), 0);
	assert_int_equal(io_pwrite(f, "hello world", 11, 5), 0);
	assert_int_equal(io_sync(f), 0);
	assert_int_equal(io_size(f, &size), 0);
	assert_int_equal(size, 16);
	assert_int_equal(io_pread(f, buf, sizeof(buf), 5, &n), 0);
	assert_int_equal(n, 11);
	assert_memory_equal(buf, "hello world", 11);
	assert_int_equal(io_pread_exact(f, buf, 12, 5), -ENODATA);
	assert_int_equal(io_punch(f, 0, 8), 0);
	assert_int_equal(io_truncate(f, 10), 0);
	assert_int_equal(io_pread(f, buf, sizeof(buf), 0, &n), 0);
	assert_int_equal(n, 10);
	assert_memory_equal(buf, "\0\0\0\0\0\0\0\0lo", 10);
	io_close(f);
	assert_int_equal(io_unlink(io, "a"), 0);
}

static void direct_io_of_a_ragged_file_ends_at_its_end(void **state)
{
	struct io_file *f;
	size_t n = 0;
	CLEANUP(free_ptr) char *buf = aligned_alloc(IO_ALIGN, 2 * IO_ALIGN);

	assert_int_equal(io_open(io, "r", IO_WRITE | IO_CREATE, &f), 0);
	assert_int_equal(io_pwrite(f, "abc", 3, IO_ALIGN), 0);
	io_close(f);
	assert_int_equal(io_open(io, "r", IO_READ | IO_DIRECT, &f), 0);
	assert_int_equal(io_pread(f, buf, 2 * IO_ALIGN, 0, &n), 0);
	assert_int_equal(n, IO_ALIGN + 3);
	io_close(f);
	assert_int_equal(io_unlink(io, "r"), 0);
}

static int count_names(void *arg, const char *name, bool is_dir)
{
	unsigned *n = arg;

	*n += strcmp(name, "d") == 0 ? 10 * is_dir : 1;
	return 0;
}

static void names_are_made_listed_moved_and_missed(void **state)
{
	struct io_file *f;
	unsigned n = 0;

	assert_int_equal(io_mkdir(io, "d"), 0);
	assert_int_equal(io_mkdir(io, "d"), 0); /* there already */
	assert_int_equal(io_open(io, "d/x", IO_WRITE | IO_CREATE, &f), 0);
	io_close(f);
	assert_int_equal(io_open(io, "d/x", IO_WRITE | IO_CREATE | IO_EXCL, &f), -EEXIST);
	assert_int_equal(io_rename(io, "d/x", "y"), 0);
	assert_int_equal(io_open(io, "d/x", IO_READ, &f), -ENOENT);
	assert_int_equal(io_sync_dir(io, "d"), 0);
	assert_int_equal(io_sync_dir(io, ""), 0);
	assert_int_equal(io_list(io, "", count_names, &n), 0);
	assert_int_equal(n, 11);
	assert_int_equal(io_unlink(io, "y"), 0);
	assert_int_equal(io_unlink(io, "y"), -ENOENT);
	char path[80];
	snprintf(path, sizeof(path), "%s/d", dir);
	assert_int_equal(rmdir(path), 0);
}

static void a_directory_that_is_not_there_is_named_in_the_error(void **state)
{
	struct errmsg em = {{0}};
	struct io *none;

	assert_int_equal(io_posix_open("/tmp/weir-no-such-directory", &none, &em), -ENOENT);
	assert_non_null(strstr(em.text, "'/tmp/weir-no-such-directory'"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(what_is_written_is_read_and_the_end_is_told),
	        cmocka_unit_test(direct_io_of_a_ragged_file_ends_at_its_end),
	        cmocka_unit_test(names_are_made_listed_moved_and_missed),
	        cmocka_unit_test(a_directory_that_is_not_there_is_named_in_the_error),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}

/*
 * test-io-mux.c - names that lie on several media
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/io-mux.h"

static char top[64], other[64];

static struct io *medium_open(const char *dir)
{
	struct io *io = NULL;

	assert_int_equal(io_posix_open(dir, &io, NULL), 0);
	return io;
}

static int setup(void **state)
{
	struct io *mux = NULL;

	strcpy(top, "/tmp/weir-mux-XXXXXX");
	strcpy(other, "/tmp/weir-mux-XXXXXX");
	assert_non_null(mkdtemp(top));
	assert_non_null(mkdtemp(other));
	assert_int_equal(io_mux_new(medium_open(top), &mux), 0);
	assert_int_equal(io_mux_attach(mux, 7, medium_open(other)), 0);
	*state = mux;
	return 0;
}

static int teardown(void **state)
{
	char cmd[200];

	io_free(*state);
	snprintf(cmd, sizeof(cmd), "rm -rf '%s' '%s'", top, other);
	return system(cmd);
}

static void file_put(struct io *io, const char *name, const char *text)
{
	CLEANUP(io_closep) struct io_file *f = NULL;

	assert_int_equal(io_open(io, name, IO_WRITE | IO_CREATE, &f), 0);
	assert_int_equal(io_pwrite(f, text, strlen(text), 0), 0);
	assert_int_equal(io_sync(f), 0);
}

static bool is_there(const char *dir, const char *name)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return access(path, F_OK) == 0;
}

static void a_prefix_leads_to_its_medium_and_all_else_to_the_base(void **state)
{
	struct io *io = *state;
	struct io_file *f = NULL;

	file_put(io, "log", "a");
	file_put(io, "tiers/7/label", "b");
	assert_true(is_there(top, "log"));
	assert_true(is_there(other, "label"));
	assert_int_equal(io_mkdir(io, "tiers/7/segments"), 0);
	assert_int_equal(io_sync_dir(io, "tiers/7"), 0);
	assert_int_equal(io_sync_dir(io, "tiers/7/segments"), 0);
	assert_true(is_there(other, "segments"));
	assert_int_equal(io_rename(io, "tiers/7/label", "tiers/7/name"), 0);
	assert_true(is_there(other, "name"));
	assert_int_equal(io_rename(io, "tiers/7/name", "name"), -EXDEV);
	assert_int_equal(io_rename(io, "log", "tiers/7/log"), -EXDEV);
	assert_int_equal(io_unlink(io, "tiers/7/name"), 0);
	assert_int_equal(io_open(io, "tiers/8/x", IO_READ, &f), -ENXIO);
	assert_int_equal(io_open(io, "tiers/64/x", IO_READ, &f), -ENXIO);
	assert_int_equal(io_open(io, "tiers/7x/x", IO_READ, &f), -ENXIO);
	assert_int_equal(io_open(io, "tiers/", IO_READ, &f), -ENXIO);
}

static void an_open_file_outlives_its_detached_medium(void **state)
{
	struct io *io = *state;
	struct io_file *f = NULL, *again = NULL;
	char buf[4] = "";

	file_put(io, "tiers/7/x", "abc");
	assert_int_equal(io_open(io, "tiers/7/x", IO_READ, &f), 0);
	assert_int_equal(io_mux_attach(io, 7, medium_open(other)), -EEXIST);
	io_mux_detach(io, 7);
	io_mux_detach(io, 7);
	assert_false(io_mux_has(io, 7));
	assert_int_equal(io_open(io, "tiers/7/x", IO_READ, &again), -ENXIO);
	assert_int_equal(io_pread_exact(f, buf, 3, 0), 0);
	assert_string_equal(buf, "abc");
	assert_int_equal(io_mux_attach(io, 7, medium_open(other)), 0);
	assert_int_equal(io_open(io, "tiers/7/x", IO_READ, &again), 0);
	io_close(again);
	io_close(f);
}

static void what_media_do_is_counted(void **state)
{
	struct io *io = *state;
	struct io_mux_stats st;
	struct io_file *f = NULL;
	char buf[3];

	assert_int_equal(io_mkdir(io, "segments"), 0);
	file_put(io, "log", "not counted");
	file_put(io, "segments/x", "abc");
	file_put(io, "tiers/7/x", "abcdef");
	assert_int_equal(io_open(io, "tiers/7/x", IO_READ, &f), 0);
	assert_int_equal(io_pread_exact(f, buf, 3, 0), 0);
	io_close(f);
	io_mux_stats_get(io, 0, &st);
	assert_int_equal(st.write_bytes, 3);
	assert_int_equal(st.reads, 0);
	io_mux_stats_get(io, 7, &st);
	assert_int_equal(st.write_bytes, 6);
	assert_int_equal(st.read_bytes, 3);
	assert_true(st.write_ns > 0);
	assert_int_equal(st.errors, 0);
	assert_int_equal(io_open(io, "tiers/7/none", IO_READ, &f), -ENOENT);
	assert_int_equal(io_open(io, "tiers/7/x/y", IO_READ, &f), -ENOTDIR);
	io_mux_stats_get(io, 7, &st);
	assert_int_equal(st.errors, 1);
	assert_int_equal(st.last_error, -ENOTDIR);
	assert_true(st.last_error_ns > 0);
}

static void space_is_that_of_each_medium(void **state)
{
	struct io_space sp = {0};

	assert_int_equal(io_space(*state, &sp), 0);
	assert_true(sp.total_bytes > 0);
	assert_int_equal(io_mux_space(*state, 7, &sp), 0);
	assert_int_equal(io_mux_space(*state, 6, &sp), -ENXIO);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        TEST(a_prefix_leads_to_its_medium_and_all_else_to_the_base),
	        TEST(an_open_file_outlives_its_detached_medium),
	        TEST(what_media_do_is_counted),
	        TEST(space_is_that_of_each_medium),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * test-datastore.c - creating, locking and finding datastores
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "fs/datastore.h"

#define MIB (1ull << 20)

static char top[64], dir[96];
static const struct datastore_options small = {.overlay_bytes = 16 * MIB,
        .cache_bytes = 4 * MIB,
        .index_bytes = 4 * MIB,
        .map_bytes = MIB};

static int make(struct errmsg *em)
{
	const struct datastore_create_options opt = {.log_bytes = 16 * MIB, .index_bytes = 4 * MIB};

	return datastore_create(dir, &opt, em);
}

static int open_ds(bool read_only, struct datastore **ret_ds, struct errmsg *em)
{
	struct datastore_options opt = small;

	opt.read_only = read_only;
	return datastore_open(dir, &opt, NULL, NULL, ret_ds, em);
}

static int setup(void **state)
{
	strcpy(top, "/tmp/weir-ds-XXXXXX");
	if (!mkdtemp(top))
		return -1;
	snprintf(dir, sizeof(dir), "%s/ds", top);
	return 0;
}

static int teardown(void **state)
{
	char cmd[128];

	snprintf(cmd, sizeof(cmd), "rm -rf '%s'", top);
	return system(cmd);
}

static char *path_in(const char *name)
{
	static char path[160];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return path;
}

static void touch(const char *path)
{
	const int fd = open(path, O_CREAT | O_WRONLY, 0644);

	assert_true(fd >= 0);
	close(fd);
}

static void a_new_datastore_opens_and_is_empty(void **state)
{
	struct errmsg em = {0};
	struct datastore *ds;
	uint64_t inodes = 0, bytes = 1;
	struct stat st;

	assert_int_equal(make(&em), 0);
	assert_int_equal(stat(dir, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0700);
	assert_int_not_equal(stat(path_in("creating"), &st), 0);
	assert_int_equal(open_ds(false, &ds, &em), 0);
	assert_int_equal(ns_totals(ds->ns, &inodes, &bytes), 0);
	assert_int_equal(inodes, 1);
	assert_int_equal(bytes, 0);
	assert_int_equal(datastore_close(ds), 0);
}

static void only_an_empty_directory_becomes_one(void **state)
{
	struct errmsg em = {0};

	assert_int_equal(mkdir(dir, 0755), 0);
	touch(path_in("something"));
	assert_int_equal(make(&em), -ENOTEMPTY);
	assert_non_null(strstr(em.text, "not empty"));
	assert_int_equal(unlink(path_in("something")), 0);
	assert_int_equal(mkdir(path_in("lost+found"), 0700), 0);
	assert_int_equal(make(&em), 0);
	assert_int_equal(make(&em), -ENOTEMPTY);
}

static void what_is_none_is_refused_and_not_touched(void **state)
{
	struct errmsg em = {0};
	struct datastore *ds;
	struct stat st;

	assert_int_equal(open_ds(false, &ds, &em), -ENOENT);
	assert_int_equal(mkdir(dir, 0755), 0);
	assert_int_equal(open_ds(false, &ds, &em), -EMEDIUMTYPE);
	assert_non_null(strstr(em.text, "not a datastore"));
	assert_int_not_equal(stat(path_in(DATASTORE_LOCK), &st), 0);
}

static void an_interrupted_creation_is_refused(void **state)
{
	struct errmsg em = {0};
	struct datastore *ds;

	assert_int_equal(make(&em), 0);
	touch(path_in("creating")); /* all written, but the end was not reached */
	assert_int_equal(open_ds(false, &ds, &em), -EMEDIUMTYPE);
	assert_non_null(strstr(em.text, "unfinished"));
	assert_int_equal(open_ds(true, &ds, &em), -EMEDIUMTYPE);
	assert_int_equal(make(&em), -ENOTEMPTY);
}

/* In a process that can see no mount of it, waiting for the lock would take its grace time. */
static int try_lock(bool exclusive)
{
	const int fd = open(path_in(DATASTORE_LOCK), O_RDWR);
	struct flock fl = {.l_type = exclusive ? F_WRLCK : F_RDLCK, .l_whence = SEEK_SET};
	const int r = fcntl(fd, F_OFD_SETLK, &fl) < 0 ? -errno : 0;

	close(fd);
	return r;
}

static void one_writer_or_many_readers(void **state)
{
	struct errmsg em = {0};
	struct datastore *ds, *second;
	long pid = 1;

	assert_int_equal(make(&em), 0);
	assert_int_equal(datastore_holder(dir, &pid, &em), 0);
	assert_int_equal(pid, 0);
	assert_int_equal(open_ds(false, &ds, &em), 0);
	assert_int_equal(datastore_holder(dir, &pid, &em), 0);
	assert_int_equal(pid, getpid());
	assert_int_equal(try_lock(false), -EAGAIN);
	assert_int_equal(datastore_close(ds), 0);
	assert_int_equal(open_ds(true, &ds, &em), 0);
	assert_int_equal(open_ds(true, &second, &em), 0);
	assert_int_equal(try_lock(true), -EAGAIN);
	assert_int_equal(datastore_holder(dir, &pid, &em), 0);
	assert_int_equal(pid, 0);
	assert_int_equal(datastore_close(second), 0);
	assert_int_equal(datastore_close(ds), 0);
	assert_int_equal(try_lock(true), 0);
}

static void who_opens_waits_for_one_that_is_ending(void **state)
{
	struct errmsg em = {0};
	struct datastore *ds;
	int fds[2], status;
	char c;

	assert_int_equal(make(&em), 0);
	assert_int_equal(pipe(fds), 0);
	const pid_t child = fork();
	if (child == 0) {
		if (open_ds(false, &ds, &em) < 0 || write(fds[1], "x", 1) != 1)
			_exit(1);
		usleep(300000);
		_exit(datastore_close(ds) < 0);
	}
	assert_int_equal(read(fds[0], &c, 1), 1);
	assert_int_equal(open_ds(false, &ds, &em), 0);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	assert_int_equal(datastore_close(ds), 0);
	close(fds[0]);
	close(fds[1]);
}

static void a_datastore_is_found_by_its_directory(void **state)
{
	char *found, *mountpoint, *sub, odd[128];
	struct errmsg em = {0};

	assert_int_equal(make(&em), 0);
	snprintf(odd, sizeof(odd), "%s/./ds/../ds//", top);
	assert_int_equal(datastore_find(odd, &found, &mountpoint, &sub, &em), 0);
	assert_string_equal(found, dir);
	assert_null(mountpoint);
	assert_string_equal(sub, "");
	free(found);
	free(sub);
	assert_int_equal(datastore_find(top, &found, &mountpoint, &sub, &em), -EMEDIUMTYPE);
	assert_non_null(strstr(em.text, "neither"));
	assert_int_equal(datastore_find("/none/at/all", &found, &mountpoint, &sub, &em), -ENOENT);
}

#define CASE(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        CASE(a_new_datastore_opens_and_is_empty),
	        CASE(only_an_empty_directory_becomes_one),
	        CASE(what_is_none_is_refused_and_not_touched),
	        CASE(an_interrupted_creation_is_refused),
	        CASE(one_writer_or_many_readers),
	        CASE(who_opens_waits_for_one_that_is_ending),
	        CASE(a_datastore_is_found_by_its_directory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

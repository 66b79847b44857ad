/*
 * test-newfile.c - a file has its name when it is complete, and not before
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/newfile.h"

static char dir[] = "/tmp/weir-test-newfile-XXXXXX";

static int setup(void **state)
{
	return !mkdtemp(dir);
}

static unsigned entries(bool remove_them)
{
	DIR *d = opendir(dir);
	unsigned n = 0;

	assert_non_null(d);
	for (struct dirent *e; (e = readdir(d));) {
		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			continue;
		n++;
		if (remove_them)
			unlinkat(dirfd(d), e->d_name, 0);
	}
	closedir(d);
	return n;
}

static int teardown(void **state)
{
	entries(true);
	return rmdir(dir);
}

static char *path_of(const char *name)
{
	static char path[400];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return path;
}

static void make(const char *name, const char *text, bool replace, int want)
{
	struct newfile nf;
	struct errmsg em = {0};
	int r = newfile_begin(path_of(name), replace, &nf, &em);

	if (r == 0) {
		assert_int_equal(write(nf.fd, text, strlen(text)), strlen(text));
		r = newfile_sync(&nf, &em);
	}
	if (r == 0)
		r = newfile_publish(&nf, 0640, &em);
	newfile_release(&nf);
	assert_int_equal(r, want);
	assert_true(r == 0 || em.text[0]);
}

static void holds(const char *name, const char *text)
{
	char got[64] = {0};
	const int fd = open(path_of(name), O_RDONLY);

	assert_true(fd >= 0);
	assert_true(read(fd, got, sizeof(got) - 1) >= 0);
	close(fd);
	assert_string_equal(got, text);
}

static void a_published_file_is_all_there_is(void **state)
{
	struct stat st;
	const mode_t mask = umask(027);

	make("a", "one", false, 0);
	umask(mask);
	holds("a", "one");
	assert_int_equal(stat(path_of("a"), &st), 0);
	assert_int_equal(st.st_mode & 0777, 0640);
	assert_int_equal(entries(true), 1);
}

static void what_exists_is_replaced_on_demand_only(void **state)
{
	make("a", "one", false, 0);
	make("a", "two", false, -EEXIST);
	holds("a", "one");
	make("a", "two", true, 0);
	holds("a", "two");
	make(".", "x", true, -EISDIR);
	assert_int_equal(mkdir(path_of("d"), 0700), 0);
	make("d", "x", true, -EISDIR);
	assert_int_equal(rmdir(path_of("d")), 0);
	assert_int_equal(entries(true), 1);
}

static void what_comes_to_be_meanwhile_is_not_replaced(void **state)
{
	struct newfile nf;
	struct errmsg em = {0};

	assert_int_equal(newfile_begin(path_of("a"), false, &nf, &em), 0);
	assert_int_equal(access(path_of("a"), F_OK), -1);
	make("a", "other", false, 0);
	assert_int_equal(newfile_publish(&nf, 0600, &em), -EEXIST);
	newfile_release(&nf);
	holds("a", "other");
	assert_int_equal(entries(true), 1);
}

static void what_is_not_published_is_removed(void **state)
{
	struct newfile nf;
	struct errmsg em = {0};

	assert_int_equal(newfile_begin(path_of("a"), false, &nf, &em), 0);
	assert_int_equal(entries(false), 1);
	newfile_release(&nf);
	newfile_release(&nf); /* again is no harm */
	assert_int_equal(entries(false), 0);
}

static void a_name_of_any_length_has_a_temporary_one(void **state)
{
	char name[NAME_MAX + 2];

	memset(name, 'n', sizeof(name));
	name[NAME_MAX] = '\0';
	make(name, "long", false, 0);
	holds(name, "long");
	name[NAME_MAX] = 'n';
	name[NAME_MAX + 1] = '\0';
	make(name, "longer", false, -ENAMETOOLONG);
	assert_int_equal(entries(true), 1);
}

static void the_directory_may_be_missing(void **state)
{
	make("none/a", "x", false, -ENOENT);
	assert_int_equal(entries(false), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(a_published_file_is_all_there_is),
	        cmocka_unit_test(what_exists_is_replaced_on_demand_only),
	        cmocka_unit_test(what_comes_to_be_meanwhile_is_not_replaced),
	        cmocka_unit_test(what_is_not_published_is_removed),
	        cmocka_unit_test(a_name_of_any_length_has_a_temporary_one),
	        cmocka_unit_test(the_directory_may_be_missing),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}

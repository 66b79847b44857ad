/*
 * test-filter-state.c - private state of stages: values in RAM, rows when they are collected
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fs/filter/state.h"
#include "meta/records.h"
#include "stage/stage.h"
#include "vfs-world.h"

#define INO 77u

static struct state_table *t;

static int state_setup(void **state)
{
	return world_setup(state) < 0 ? -1 : state_load(ds->ns, INO, &t);
}

static int state_teardown(void **state)
{
	state_free(t);
	return world_teardown(state);
}

static void collect(uint64_t txg)
{
	store_enter(ds->store);
	state_collect(t, ds->ns, txg);
	store_leave(ds->store);
}

static void reload(void)
{
	state_free(t);
	assert_int_equal(state_load(ds->ns, INO, &t), 0);
}

static void expect_state(uint64_t link, const char *name, const char *value)
{
	char buf[64] = "";
	size_t len = 99;

	assert_int_equal(state_get(t, link, name, buf, sizeof(buf), &len), 0);
	assert_int_equal(len, strlen(value));
	assert_memory_equal(buf, value, len);
}

static void expect_no_state(uint64_t link, const char *name)
{
	size_t len;

	assert_int_equal(state_get(t, link, name, NULL, 0, &len), -ENOENT);
}

static int count_row(void *arg, uint64_t owner, uint64_t id, const void *value, size_t len)
{
	++*(unsigned *)arg;
	return 0;
}

static unsigned rows(void)
{
	unsigned n = 0;

	assert_int_equal(ns_record_each(ds->ns, RECORD_FILTER_STATE, INO, 0, count_row, &n), 0);
	return n;
}

static void values_are_there_again_once_they_were_collected(void **state)
{
	assert_int_equal(state_put(t, 3, "cursor", "abc", 3), 0);
	assert_int_equal(state_put(t, 3, "cursor", "defg", 4), 0);
	assert_int_equal(state_put(t, 4, "cursor", "x", 1), 0);
	assert_int_equal(state_put(t, 4, "empty", "", 0), 0);
	expect_state(3, "cursor", "defg");
	assert_int_equal(rows(), 0);
	collect(1);
	assert_int_equal(rows(), 3);
	reload();
	expect_state(3, "cursor", "defg");
	expect_state(4, "cursor", "x");
	expect_state(4, "empty", "");
	expect_no_state(4, "other");
}

static void what_is_deleted_stays_deleted(void **state)
{
	assert_int_equal(state_put(t, 3, "a", "1", 1), 0);
	assert_int_equal(state_put(t, 3, "b", "2", 1), 0);
	collect(1);
	assert_int_equal(state_put(t, 3, "a", NULL, 0), 0);
	assert_int_equal(state_put(t, 3, "never", NULL, 0), 0);
	expect_no_state(3, "a");
	collect(2);
	assert_int_equal(rows(), 1);
	assert_int_equal(state_put(t, 3, "a", "3", 1), 0);
	collect(3);
	reload();
	expect_state(3, "a", "3");
	expect_state(3, "b", "2");
}

/* A flush does not log what was put at the freeze of a group that is on its way. */
static void a_value_of_the_group_before_is_put_once_more(void **state)
{
	assert_int_equal(state_put(t, 3, "a", "1", 1), 0);
	collect(5);
	assert_true(state_unsettled(t, 6));
	store_enter(ds->store);
	assert_int_equal(ns_record_del(ds->ns, RECORD_FILTER_STATE, INO, 3 << 16), 0);
	store_leave(ds->store);
	collect(5); /* the same group: its row is there */
	assert_int_equal(rows(), 0);
	collect(6);
	assert_int_equal(rows(), 1);
	assert_true(state_unsettled(t, 7));
	assert_false(state_unsettled(t, 8));
}

static void a_link_that_goes_takes_its_values_along(void **state)
{
	assert_int_equal(state_put(t, 3, "a", "1", 1), 0);
	assert_int_equal(state_put(t, 3, "b", "2", 1), 0);
	assert_int_equal(state_put(t, 4, "a", "3", 1), 0);
	collect(1);
	store_enter(ds->store);
	assert_int_equal(state_drop(t, ds->ns, 3), 0);
	store_leave(ds->store);
	expect_no_state(3, "a");
	expect_state(4, "a", "3");
	assert_int_equal(rows(), 1);
}

static void values_have_limits(void **state)
{
	static char name[STATE_NAME_MAX + 2];
	char *big = calloc(1, STAGE_STATE_MAX + 1);

	memset(name, 'n', sizeof(name) - 1);
	assert_int_equal(state_put(t, 3, name, "1", 1), -ENAMETOOLONG);
	assert_int_equal(state_put(t, 3, "", "1", 1), -EINVAL);
	assert_int_equal(state_put(t, 3, "big", big, STAGE_STATE_MAX + 1), -EFBIG);
	for (unsigned i = 0; i < STATE_IMAGE_BYTES_MAX / STAGE_STATE_MAX; i++) {
		char n[16];
		snprintf(n, sizeof(n), "%u", i);
		assert_int_equal(state_put(t, 3, n, big, STAGE_STATE_MAX), 0);
	}
	assert_int_equal(state_put(t, 3, "more", "1", 1), -ENOSPC);
	assert_int_equal(state_put(t, 3, "0", NULL, 0), 0);
	assert_int_equal(state_put(t, 3, "more", "1", 1), 0);
	free(big);
}

static void a_row_that_is_no_value_is_told(void **state)
{
	static const char *const bad[] = {"", "\x05name", "\x01", "\x04na\0e"};
	static const size_t lens[] = {0, 5, 1, 5};
	const char *name;
	const void *data;
	size_t name_len, len;

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(
		        state_row_decode(bad[i], lens[i], &name, &name_len, &data, &len), -EUCLEAN);
	store_enter(ds->store);
	assert_int_equal(ns_record_put(ds->ns, RECORD_FILTER_STATE, INO + 1, 5, bad[1], 5), 0);
	store_leave(ds->store);
	struct state_table *other = NULL;
	assert_int_equal(state_load(ds->ns, INO + 1, &other), -EUCLEAN);
}

#define STATE_CASE(fn) cmocka_unit_test_setup_teardown(fn, state_setup, state_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        STATE_CASE(values_are_there_again_once_they_were_collected),
	        STATE_CASE(what_is_deleted_stays_deleted),
	        STATE_CASE(a_value_of_the_group_before_is_put_once_more),
	        STATE_CASE(a_link_that_goes_takes_its_values_along),
	        STATE_CASE(values_have_limits),
	        STATE_CASE(a_row_that_is_no_value_is_told),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

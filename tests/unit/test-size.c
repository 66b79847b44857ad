/*
 * test-size.c - sizes as people write them
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "fs/datastore.h"

static uint64_t parse(const char *text)
{
	uint64_t n = 12345;
	const int r = size_parse(text, &n);

	if (r < 0) {
		assert_int_equal(r, -EINVAL);
		assert_int_equal(n, 12345);
		return UINT64_MAX - 1;
	}
	return n;
}

static void units_are_powers_of_1024(void **state)
{
	assert_int_equal(parse("0"), 0);
	assert_int_equal(parse("4096"), 4096);
	assert_int_equal(parse("64M"), 64ull << 20);
	assert_int_equal(parse("2g"), 2ull << 30);
	assert_int_equal(parse("1T"), 1ull << 40);
	assert_int_equal(parse("15E"), 15ull << 60);
	assert_int_equal(parse("18446744073709551615"), UINT64_MAX);
}

static void what_is_no_size_is_refused(void **state)
{
	static const char *const bad[] = {"", "M", "-1", "+1", " 1", "1 ", "1MB", "1.5G", "0x10",
	        "1X", "16E", "18446744073709551616"};

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(parse(bad[i]), UINT64_MAX - 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(units_are_powers_of_1024),
	        cmocka_unit_test(what_is_no_size_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

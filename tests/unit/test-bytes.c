#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/bytes.h"

static void integers_are_little_endian(void **state)
{
	uint8_t b[8] = {0};

	put_u64(b, 0x1122334455667788ull);
	assert_int_equal(b[0], 0x88);
	assert_int_equal(b[7], 0x11);
	assert_int_equal(get_u16(b), 0x7788);
	assert_int_equal(get_u32(b), 0x55667788);
	assert_true(get_u64(b) == 0x1122334455667788ull);
}

static void what_was_appended_is_taken_again(void **state)
{
	struct bytes_out out = {0};

	bytes_append_u8(&out, 1);
	bytes_append_u16(&out, 2);
	bytes_append_u32(&out, 3);
	bytes_append_u64(&out, 4);
	for (unsigned i = 0; i < 1000; i++) /* across growth */
		assert_non_null(bytes_append(&out, "abc", 3));
	struct bytes_in in = {.data = out.data, .len = out.len};
	assert_int_equal(bytes_take_u8(&in), 1);
	assert_int_equal(bytes_take_u16(&in), 2);
	assert_int_equal(bytes_take_u32(&in), 3);
	assert_int_equal(bytes_take_u64(&in), 4);
	for (unsigned i = 0; i < 1000; i++)
		assert_memory_equal(bytes_take(&in, 3), "abc", 3);
	assert_int_equal(in.pos, in.len);
	assert_false(in.failed);
	bytes_release(&out);
	assert_null(out.data);
}

static void reading_past_the_end_fails_for_good(void **state)
{
	const uint8_t b[5] = {1, 2, 3, 4, 5};
	struct bytes_in in = {.data = b, .len = sizeof(b)};

	assert_int_equal(bytes_take_u64(&in), 0);
	assert_true(in.failed);
	assert_int_equal(bytes_take_u8(&in), 0); /* though there are bytes */
}

static void appending_nothing_gives_a_place(void **state)
{
	struct bytes_out out = {0};

	assert_non_null(bytes_append(&out, NULL, 0));
	assert_int_equal(out.len, 0);
	bytes_release(&out);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(integers_are_little_endian),
	        cmocka_unit_test(what_was_appended_is_taken_again),
	        cmocka_unit_test(reading_past_the_end_fails_for_good),
	        cmocka_unit_test(appending_nothing_gives_a_place),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

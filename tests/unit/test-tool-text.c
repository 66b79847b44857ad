/*
 * test-tool-text.c - what the commands print for people: sizes, ratios, names, tables
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "tools/cmd.h"
#include "tools/print.h"

static void sizes_are_binary_with_one_decimal(void **state)
{
	char buf[TEXT_LEN];

	assert_string_equal(text_size(buf, 0), "0 B");
	assert_string_equal(text_size(buf, 1023), "1023 B");
	assert_string_equal(text_size(buf, 1024), "1.0 KiB");
	assert_string_equal(text_size(buf, 1536ull << 20), "1.5 GiB");
	assert_string_equal(text_size(buf, 16ull << 40), "16.0 TiB");
	assert_string_equal(text_size(buf, UINT64_MAX), "16.0 EiB");
}

static void a_size_never_rounds_to_1024_of_its_unit(void **state)
{
	char buf[TEXT_LEN];

	assert_string_equal(text_size(buf, (1ull << 20) - 1), "1.0 MiB");
	assert_string_equal(text_size(buf, (1ull << 40) - 1), "1.0 TiB");
}

static void a_ratio_that_does_not_exist_is_a_dash(void **state)
{
	char buf[TEXT_LEN];

	assert_string_equal(text_ratio(buf, 4.136), "4.14x");
	assert_string_equal(text_ratio(buf, 0), "-");
}

static void one_of_a_kind_is_not_plural(void **state)
{
	char buf[TEXT_LEN];

	assert_string_equal(text_count(buf, 1, "image"), "1 image");
	assert_string_equal(text_count(buf, 0, "image"), "0 images");
}

static void durations_show_two_units(void **state)
{
	char buf[TEXT_LEN];

	assert_string_equal(text_duration(buf, 59), "59 s");
	assert_string_equal(text_duration(buf, 65), "1 min 5 s");
	assert_string_equal(text_duration(buf, 2 * 86400 + 3 * 3600 + 5), "2 d 3 h");
}

static void control_characters_of_a_name_do_not_reach_the_terminal(void **state)
{
	char buf[64];

	assert_string_equal(text_name(buf, sizeof(buf), "a\033[2Jb\n"), "a\\x1b[2Jb\\x0a");
	assert_string_equal(text_name(buf, sizeof(buf), "back\\slash"), "back\\x5cslash");
	assert_string_equal(text_name(buf, sizeof(buf), "bad \xff byte"), "bad \\xff byte");
}

static void a_long_name_is_cut_within_the_buffer(void **state)
{
	char buf[16], name[200];

	memset(name, 'x', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	text_name(buf, sizeof(buf), name);
	assert_true(strlen(buf) < sizeof(buf));
	assert_string_equal(buf + strlen(buf) - 3, "...");
	memset(name, '\n', sizeof(name) - 1);
	text_name(buf, sizeof(buf), name);
	assert_true(strlen(buf) < sizeof(buf));
}

static void columns_are_as_wide_as_their_widest_cell(void **state)
{
	struct table t = {.align = "rl"};
	char *text = NULL;
	size_t len = 0;
	FILE *out = open_memstream(&text, &len);

	assert_non_null(out);
	table_add(&t, "SIZE");
	table_add(&t, "NAME");
	table_add(&t, "1.0 GiB");
	table_add(&t, "a");
	table_print(&t, out);
	fclose(out);
	assert_string_equal(text, "   SIZE  NAME\n1.0 GiB  a\n");
	free(text);
	table_release(&t);
}

static void a_misspelt_word_finds_its_neighbour(void **state)
{
	static const char *const words[] = {"create", "mount", "umount", "status", "stats", NULL};

	assert_string_equal(word_near("creat", words), "create");
	assert_string_equal(word_near("statsu", words), "status");
	assert_string_equal(word_near("mnout", words), "mount");
	assert_null(word_near("frobnicate", words));
	assert_null(word_near("x", words));
}

static void every_command_has_a_summary_and_is_found_by_name(void **state)
{
	for (size_t i = 0; commands[i]; i++) {
		assert_ptr_equal(command_find(commands[i]->name), commands[i]);
		assert_true(strlen(commands[i]->summary) > 0);
		assert_true(!commands[i]->run == !!commands[i]->group);
		for (size_t k = 0; commands[i]->group && commands[i]->group[k]; k++)
			assert_ptr_equal(
			        command_find(commands[i]->group[k]->name), commands[i]->group[k]);
	}
	assert_ptr_equal(command_find("mount.weir"), &cmd_mount_helper);
	assert_null(command_find("frobnicate"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(sizes_are_binary_with_one_decimal),
	        cmocka_unit_test(a_size_never_rounds_to_1024_of_its_unit),
	        cmocka_unit_test(a_ratio_that_does_not_exist_is_a_dash),
	        cmocka_unit_test(one_of_a_kind_is_not_plural),
	        cmocka_unit_test(durations_show_two_units),
	        cmocka_unit_test(control_characters_of_a_name_do_not_reach_the_terminal),
	        cmocka_unit_test(a_long_name_is_cut_within_the_buffer),
	        cmocka_unit_test(columns_are_as_wide_as_their_widest_cell),
	        cmocka_unit_test(a_misspelt_word_finds_its_neighbour),
	        cmocka_unit_test(every_command_has_a_summary_and_is_found_by_name),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

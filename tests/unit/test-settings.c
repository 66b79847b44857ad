/*
 * test-settings.c - settings: every kind, its limits, what is said about a wrong one
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "stage/stack.h"

static const char *const colors[] = {"red", "green", "blue", NULL};
static const struct setting_def defs[] = {
        {.key = "count", .kind = SETTING_UINT, .initial = "5", .min = 1, .max = 100},
        {.key = "size", .kind = SETTING_SIZE, .min = 4096, .max = 1ull << 40},
        {.key = "wait", .kind = SETTING_DURATION, .initial = "250ms", .max = 3600 * NS_PER_SEC},
        {.key = "share", .kind = SETTING_PERCENT, .initial = "12.5"},
        {.key = "fast", .kind = SETTING_BOOL, .initial = "no"},
        {.key = "color", .kind = SETTING_ENUM, .initial = "green", .choices = colors},
        {.key = "rules", .kind = SETTING_TEXT},
        {.key = "until", .kind = SETTING_TIME},
        {.key = "secret", .kind = SETTING_UINT, .managed = true},
        {0},
};

static int parse1(const char *text, struct settings *ret, struct errmsg *em)
{
	*em = (struct errmsg){0};
	return settings_parse(defs, &text, 1, ret, em);
}

static uint64_t number_of(const char *text)
{
	struct settings s;
	struct errmsg em;
	char key[32];

	if (parse1(text, &s, &em) < 0)
		fail_msg("%s: %s", text, em.text);
	snprintf(key, sizeof(key), "%.*s", (int)strcspn(text, "="), text);
	const uint64_t n = settings_number(&s, key);
	settings_release(&s);
	return n;
}

static void refused(const char *text, const char *with)
{
	struct settings s = {0};
	struct errmsg em;

	if (parse1(text, &s, &em) != -EINVAL)
		fail_msg("%s: not refused", text);
	if (!strstr(em.text, with))
		fail_msg("%s: '%s' does not say '%s'", text, em.text, with);
	assert_null(s.defs);
}

static void shown(const char *text, const char *want)
{
	struct settings s;
	struct errmsg em;
	char key[32], buf[64];

	assert_int_equal(parse1(text, &s, &em), 0);
	snprintf(key, sizeof(key), "%.*s", (int)strcspn(text, "="), text);
	for (unsigned i = 0; defs[i].key; i++)
		if (strcmp(defs[i].key, key) == 0)
			assert_string_equal(
			        setting_show(&defs[i], &s.values[i], buf, sizeof(buf)), want);
	settings_release(&s);
}

static void test_numbers(void **state)
{
	assert_int_equal(number_of("count=1"), 1);
	assert_int_equal(number_of("count=100"), 100);
	refused("count=0", "a number from 1 to 100");
	refused("count=101", "from 1 to 100");
	refused("count=", "a number");
	refused("count=-1", "a number");
	refused("count=1x", "a number");
	refused("count=18446744073709551617", "a number");
}

static void test_sizes(void **state)
{
	assert_int_equal(number_of("size=64M"), 64ull << 20);
	assert_int_equal(number_of("size=4096"), 4096);
	assert_int_equal(number_of("size=1.5g"), 3ull << 29);
	assert_int_equal(number_of("size=1T"), 1ull << 40);
	refused("size=4095", "a size from 4K to 1T");
	refused("size=2T", "from 4K to 1T");
	refused("size=64MB", "such as 64M");
	refused("size=99999999999E", "a size");
	refused("size=1.M", "a size");
}

static void test_durations(void **state)
{
	assert_int_equal(number_of("wait=10s"), 10 * NS_PER_SEC);
	assert_int_equal(number_of("wait=1.5ms"), 1500000);
	assert_int_equal(number_of("wait=2m"), 120 * NS_PER_SEC);
	assert_int_equal(number_of("wait=1h"), 3600 * NS_PER_SEC);
	assert_int_equal(number_of("wait=0"), 0);
	refused("wait=10", "such as 250ms, 10s or 2h");
	refused("wait=2h", "to 1h");
	refused("wait=s", "a duration");
}

static void test_percentages(void **state)
{
	assert_int_equal(number_of("share=100"), 1000000);
	assert_int_equal(number_of("share=0.01%"), 100);
	assert_int_equal(number_of("share=12.5"), 125000);
	refused("share=100.1", "0 to 100");
	refused("share=ten", "percentage");
}

static void test_words(void **state)
{
	assert_int_equal(number_of("fast=on"), 1);
	assert_int_equal(number_of("fast=true"), 1);
	assert_int_equal(number_of("fast=no"), 0);
	refused("fast=maybe", "on or off");
	assert_int_equal(number_of("color=blue"), 2);
	refused("color=pink", "red, green or blue");
	refused("rules=a\nb", "one line");
	refused("color", "key=value");
	refused("=x", "key=value");
}

static void test_times(void **state)
{
	assert_int_equal(number_of("until=1970-01-02"), 86400 * NS_PER_SEC);
	assert_int_equal(number_of("until=2027-01-31T12:00:00"), 1801396800ull * NS_PER_SEC);
	refused("until=2027-02-30", "a time");
	refused("until=tomorrow", "a time");
}

static void test_unknown_key_names_the_nearest(void **state)
{
	refused("colour=red", "did you mean 'color'?");
	refused("cuont=3", "did you mean 'count'?");
	refused("throughput=3", "there are count, size");
	refused("secre=3", "unknown setting"); /* what is managed is not named */
}

static void test_a_key_given_twice_is_refused(void **state)
{
	const char *texts[] = {"count=1", "count=2"};
	struct settings s;
	struct errmsg em = {0};

	assert_int_equal(settings_parse(defs, texts, 2, &s, &em), -EINVAL);
	assert_non_null(strstr(em.text, "'count' is given twice"));
}

static void test_defaults_are_set_and_not_given(void **state)
{
	struct settings s;

	assert_int_equal(settings_parse(defs, NULL, 0, &s, NULL), 0);
	assert_true(settings_get(&s, "count")->set);
	assert_false(settings_get(&s, "count")->given);
	assert_int_equal(settings_number(&s, "wait"), 250 * NS_PER_MS);
	assert_false(settings_get(&s, "size")->set);
	CLEANUP(free_ptr) char *text = settings_text(&s);
	assert_string_equal(text, "");
	settings_release(&s);
}

static void test_text_is_sorted_and_parses_back(void **state)
{
	const char *texts[] = {"wait=3s", "color=red", "rules=/etc/a b=c"};
	struct settings s, copy;

	assert_int_equal(settings_parse(defs, texts, 3, &s, NULL), 0);
	CLEANUP(free_ptr) char *text = settings_text(&s);
	assert_string_equal(text, "color=red\nrules=/etc/a b=c\nwait=3s");
	assert_int_equal(settings_copy(&s, &copy), 0);
	assert_true(settings_equal(&s, &copy));
	settings_release(&copy);
	assert_int_equal(settings_parse(defs, texts, 2, &copy, NULL), 0);
	assert_false(settings_equal(&s, &copy));
	settings_release(&copy);
	settings_release(&s);
}

static void test_values_are_shown_as_people_write_them(void **state)
{
	shown("size=65536K", "64M");
	shown("size=4097", "4097");
	shown("wait=250ms", "250ms");
	shown("wait=60s", "1min");
	shown("wait=0", "0");
	shown("share=12.50", "12.5%");
	shown("share=100", "100%");
	shown("fast=true", "on");
	shown("color=blue", "blue");
	shown("rules=some text", "some text");
	shown("until=2027-01-31", "2027-01-31T00:00:00");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_numbers),
	        cmocka_unit_test(test_sizes),
	        cmocka_unit_test(test_durations),
	        cmocka_unit_test(test_percentages),
	        cmocka_unit_test(test_words),
	        cmocka_unit_test(test_times),
	        cmocka_unit_test(test_unknown_key_names_the_nearest),
	        cmocka_unit_test(test_a_key_given_twice_is_refused),
	        cmocka_unit_test(test_defaults_are_set_and_not_given),
	        cmocka_unit_test(test_text_is_sorted_and_parses_back),
	        cmocka_unit_test(test_values_are_shown_as_people_write_them),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

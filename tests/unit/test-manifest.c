/*
 * test-manifest.c - rows of attachments: bytes, damage, merging of settings, what they mean
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "fs/filter/manifest.h"

static const char *const scramble_settings[] = {"key=7"};

static struct stack_item scramble(uint64_t link)
{
	struct stack_item item;
	struct errmsg em = {0};
	const struct stage_type *type = stage_type_find("scramble");

	assert_non_null(type);
	assert_int_equal(manifest_item_make(type, link, scramble_settings, 1, &item, &em), 0);
	return item;
}

static int decode(const char *row, struct stack_item *ret_item, bool *ret_damaged)
{
	uint32_t domain = 0;

	*ret_item = (struct stack_item){0};
	return manifest_item_decode(5, row, strlen(row), ret_item, &domain, ret_damaged);
}

/* Replaces `from` by `to`, of the same length. */
static char *changed(const char *row, const char *from, const char *to)
{
	char *copy = strdup(row), *at = strstr(copy, from);

	assert_non_null(at);
	assert_int_equal(strlen(from), strlen(to));
	memcpy(at, to, strlen(to));
	return copy;
}

static void a_row_is_these_bytes(void **state)
{
	struct stack_item item = scramble(5);
	char *row = manifest_item_encode(&item, 0);

	assert_string_equal(row,
	        "{\"capabilities\":9,\"class\":\"transform\",\"forced\":false,\"hash\":"
	        "\"995531938a7553155f7d8b1fb05c779b888aac4dfe27be08eef3388860af4d1e\","
	        "\"settings\":[\"key=7\"],\"state\":\"active\",\"type\":\"scramble\",\"version\":"
	        "1}");
	free(row);
	manifest_item_release(&item);
}

static void a_row_gives_back_what_was_put(void **state)
{
	struct stack_item item = scramble(5), back;
	bool damaged = true;

	item.state = STACK_CONVERTING_OUT;
	item.forced = true;
	char *row = manifest_item_encode(&item, 0);
	assert_int_equal(decode(row, &back, &damaged), 0);
	assert_false(damaged);
	assert_int_equal(back.link, 5);
	assert_ptr_equal(back.type, item.type);
	assert_string_equal(back.given, "key=7");
	assert_int_equal(settings_number(&back.settings, "key"), 7);
	assert_int_equal(back.state, STACK_CONVERTING_OUT);
	assert_true(back.forced);
	assert_int_equal(back.capabilities, item.capabilities);
	assert_int_equal(back.class, STAGE_TRANSFORM);
	manifest_item_release(&back);
	manifest_item_release(&item);
	free(row);
}

static void a_row_that_was_changed_is_told(void **state)
{
	static const char *const changes[][2] = {{"key=7", "key=8"}, {"\"active\"", "\"active\""},
	        {"false", "true "}, {"\"version\":1", "\"version\":2"}};
	struct stack_item item = scramble(5), back;
	char *row = manifest_item_encode(&item, 0);
	bool damaged;

	for (unsigned i = 0; i < ARRAY_SIZE(changes); i++) {
		char *copy = changed(row, changes[i][0], changes[i][1]);
		assert_int_equal(decode(copy, &back, &damaged), 0);
		assert_int_equal(damaged, strcmp(copy, row) != 0);
		manifest_item_release(&back);
		free(copy);
	}
	free(row);
	manifest_item_release(&item);
}

static void what_no_row_can_be_is_refused(void **state)
{
	static const char *const rows[] = {"", "{}", "[]", "nonsense", "{\"hash\":\"00\"}",
	        "{\"hash\":"
	        "\"0000000000000000000000000000000000000000000000000000000000000000\"}",
	        "{\"capabilities\":9,\"class\":\"nowhere\",\"forced\":false,\"hash\":"
	        "\"0000000000000000000000000000000000000000000000000000000000000000\","
	        "\"settings\":[],\"state\":\"active\",\"type\":\"pass\",\"version\":1}",
	        "{\"capabilities\":9,\"class\":\"inspect\",\"forced\":false,\"hash\":"
	        "\"0000000000000000000000000000000000000000000000000000000000000000\","
	        "\"settings\":[\"key\"],\"state\":\"active\",\"type\":\"pass\",\"version\":1}"};
	struct stack_item back;
	bool damaged;

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++)
		assert_int_equal(decode(rows[i], &back, &damaged), -EUCLEAN);
}

static void a_type_that_is_missing_keeps_what_was_given(void **state)
{
	struct stack_item item = scramble(5), back;
	bool damaged;

	strcpy(item.type_name, "gone");
	char *row = manifest_item_encode(&item, 0);
	assert_int_equal(decode(row, &back, &damaged), 0);
	assert_false(damaged);
	assert_null(back.type);
	assert_string_equal(back.given, "key=7");
	char *again = manifest_item_encode(&back, 0);
	assert_string_equal(again, row);
	free(again);
	free(row);
	manifest_item_release(&back);
	manifest_item_release(&item);
}

static void data_that_depends_on_a_damaged_row_is_not_opened(void **state)
{
	struct manifest *m = calloc(1, sizeof(*m));
	struct stack_item item = scramble(5);
	struct errmsg em = {0};
	unsigned missing;

	assert_int_equal(manifest_add(m, &item), 0);
	assert_int_equal(manifest_check_open(m, &missing, &em), 0);
	m->damaged[m->n_damaged++] = 5;
	assert_int_equal(manifest_check_open(m, &missing, &em), -EIO);
	assert_non_null(strstr(em.text, "scramble"));
	m->plan.items[0].capabilities = 0; /* an observer: the log tells, that is all */
	assert_int_equal(manifest_check_open(m, &missing, &em), 0);
	manifest_free(m);
}

static void the_rows_say_how_chunks_are_stored(void **state)
{
	static const char *const off[] = {"mode=off"};
	struct manifest *m = calloc(1, sizeof(*m));
	struct stack_item item;
	struct image_policy policy;
	struct errmsg em = {0};

	assert_int_equal(manifest_item_make(stage_type_find("dedupe"), 4, off, 1, &item, &em), 0);
	assert_int_equal(manifest_add(m, &item), 0);
	item = (struct stack_item){.link = 9, .class = STAGE_ENCRYPT, .type_name = "encrypt"};
	assert_int_equal(manifest_add(m, &item), 0);
	m->domain = 3;
	manifest_policy(m, &policy);
	assert_int_equal(policy.dedupe, POLICY_DEDUPE_OFF);
	assert_int_equal(policy.domain, 3);
	m->plan.items[1].state = STACK_CONVERTING_OUT; /* new chunks are written in the clear */
	manifest_policy(m, &policy);
	assert_int_equal(policy.domain, 0);
	manifest_free(m);
}

static void merged(const char *given, const char *const *changes, unsigned n, bool replace,
        const char *expected)
{
	char **texts, joined[256] = "";
	unsigned n_texts;
	struct errmsg em = {0};

	assert_int_equal(manifest_merge(given, changes, n, replace, &texts, &n_texts, &em), 0);
	for (unsigned i = 0; i < n_texts; i++) {
		strcat(joined, i ? " " : "");
		strcat(joined, texts[i]);
	}
	assert_string_equal(joined, expected);
	free(texts);
}

static void settings_are_merged_by_key(void **state)
{
	static const char *const changes[] = {"b=2", "c="}, *const first[] = {"a="},
	                         *const twice[] = {"b=2", "b=3"};
	static const char *const none[] = {"b"}, *const lines[] = {"b=1\na=2"};
	char **texts;
	unsigned n;
	struct errmsg em = {0};

	merged(NULL, NULL, 0, false, "");
	merged("a=1\nb=1", NULL, 0, false, "a=1 b=1");
	merged("a=1\nb=1\nbb=5", changes, 2, false, "a=1 b=2 bb=5");
	merged("a=1\nc=7", changes, 2, false, "a=1 b=2");
	merged("a=1", first, 1, false, "");
	merged("a=1\nb=1", changes, 2, true, "b=2");
	assert_int_equal(manifest_merge(NULL, twice, 2, false, &texts, &n, &em), -EINVAL);
	assert_int_equal(manifest_merge(NULL, none, 1, false, &texts, &n, &em), -EINVAL);
	assert_int_equal(manifest_merge(NULL, lines, 1, false, &texts, &n, &em), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(a_row_is_these_bytes),
	        cmocka_unit_test(a_row_gives_back_what_was_put),
	        cmocka_unit_test(a_row_that_was_changed_is_told),
	        cmocka_unit_test(what_no_row_can_be_is_refused),
	        cmocka_unit_test(a_type_that_is_missing_keeps_what_was_given),
	        cmocka_unit_test(data_that_depends_on_a_damaged_row_is_not_opened),
	        cmocka_unit_test(the_rows_say_how_chunks_are_stored),
	        cmocka_unit_test(settings_are_merged_by_key),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

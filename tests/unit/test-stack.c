/*
 * test-stack.c - what may be attached, detached and opened, and what is said otherwise
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/policy.h"
#include "stage-bottom.h"

static int none_create(const struct stage_host *host, struct stage_link *self,
        const struct settings *settings, void **ret_stage, struct errmsg *em)
{
	*ret_stage = NULL;
	return 0;
}

static void none_destroy(void *stage)
{
}

static enum stage_verdict none_pre(void *stage, struct request *req, void *context)
{
	return STAGE_PASS;
}

static const struct setting_def no_settings[] = {{0}};

#define REQUEST_TYPE(type_name, of_class, caps)                                                    \
	{                                                                                          \
		.abi = STAGE_ABI, .size = sizeof(struct stage_type), .name = type_name,            \
		.version = 2, .summary = "test", .class = of_class, .capabilities = caps,          \
		.handles = OPS_ALL, .understands = OPS_ALL, .settings = no_settings,               \
		.create = none_create, .destroy = none_destroy, .pre = none_pre,                   \
	}
static const struct stage_type holder = REQUEST_TYPE("t-holder", STAGE_CACHE, STAGE_HOLDS_DATA);
static const struct stage_type single = REQUEST_TYPE("t-single", STAGE_LIMIT, STAGE_SINGLE);
static const struct stage_type opaque = REQUEST_TYPE("t-opaque", STAGE_TRANSFORM, STAGE_TRANSFORMS);

static void says(const struct errmsg *em, const char *what)
{
	if (!strstr(em->text, what))
		fail_msg("'%s' does not say '%s'", em->text, what);
}

static int attach(const struct stack_plan *plan, const char *type, const char *settings,
        bool has_data, bool force, struct errmsg *em)
{
	struct stack_item item;

	*em = (struct errmsg){0};
	item_make(&item, 99, type, settings);
	const int r = stack_plan_check_attach(plan, &item, has_data, force, em);
	item_release(&item);
	return r;
}

static void test_order_is_by_class_then_id(void **state)
{
	struct stack_plan plan = {0};

	plan_add(&plan, 7, "compress", NULL);
	plan_add(&plan, 5, "scramble", NULL);
	plan_add(&plan, 9, "pass", NULL);
	plan_add(&plan, 3, "scramble", "key=2");
	const uint64_t want[] = {9, 3, 5, 7};
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(plan.items[i].link, want[i]);
	assert_int_equal(stack_plan_find(&plan, 5), 2);
	assert_int_equal(stack_plan_find(&plan, 6), -1);
	assert_int_equal(stack_plan_find_type(&plan, "scramble", 0), 1);
	assert_int_equal(stack_plan_find_type(&plan, "scramble", 2), 2);
	assert_int_equal(stack_plan_find_type(&plan, "scramble", 3), -1);
	struct stack_plan copy;
	assert_int_equal(stack_plan_copy(&plan, &copy), 0);
	assert_int_equal(copy.n, 4);
	assert_string_equal(copy.items[1].given, "key=2");
	stack_plan_release(&copy);
	stack_plan_release(&plan);
}

static void test_a_transform_above_dedupe_needs_force(void **state)
{
	struct stack_plan plan = {0};
	struct errmsg em;

	assert_int_equal(attach(&plan, "t-opaque", NULL, false, false, &em), -EPERM);
	says(&em, "destroys dedupe");
	says(&em, "--force");
	assert_int_equal(attach(&plan, "t-opaque", NULL, false, true, &em), 0);
	plan_add(&plan, 1, "dedupe", "mode=off");
	assert_int_equal(attach(&plan, "t-opaque", NULL, false, false, &em), 0);
	stack_plan_release(&plan);
}

static void test_dedupe_below_a_transform_needs_force(void **state)
{
	struct stack_plan plan = {0};
	struct errmsg em;

	plan_add(&plan, 1, "scramble", NULL);
	assert_int_equal(attach(&plan, "dedupe", "mode=verify", false, false, &em), -EPERM);
	says(&em, "'scramble'");
	assert_int_equal(attach(&plan, "dedupe", "mode=off", false, false, &em), 0);
	plan_add(&plan, 2, "dedupe", "mode=off");
	assert_int_equal(stack_plan_check_detach(&plan, 2, true, false, &em), -EPERM);
	assert_int_equal(stack_plan_check_detach(&plan, 2, true, true, &em), 0);
	stack_plan_release(&plan);
}

static void test_a_single_stage_is_attached_once(void **state)
{
	struct stack_plan plan = {0};
	struct errmsg em;

	assert_int_equal(attach(&plan, "t-single", NULL, true, false, &em), 0);
	plan_add(&plan, 1, "t-single", NULL);
	assert_int_equal(attach(&plan, "t-single", NULL, true, true, &em), -EINVAL);
	says(&em, "only once");
	plan_add(&plan, 0, "compress", NULL); /* the implicit one does not count */
	assert_int_equal(attach(&plan, "compress", NULL, true, false, &em), 0);
	stack_plan_release(&plan);
}

static void test_rehearsals_need_force(void **state)
{
	struct stack_plan plan = {0};
	struct errmsg em;

	plan_add(&plan, 1, "dedupe", "mode=off");
	assert_int_equal(attach(&plan, "scramble", NULL, false, false, &em), -EPERM);
	says(&em, "rehearsals");
	assert_int_equal(attach(&plan, "scramble", NULL, false, true, &em), 0);
	stack_plan_release(&plan);
}

static void test_data_needs_a_transform_that_converts(void **state)
{
	struct stack_plan plan = {0};
	struct errmsg em;

	assert_int_equal(attach(&plan, "t-opaque", NULL, true, true, &em), -EINVAL);
	says(&em, "empty images only");
	assert_int_equal(attach(&plan, "scramble", NULL, true, true, &em), 0);
}

static void test_settings_that_do_not_fit_are_refused(void **state)
{
	struct stack_plan plan = {0};
	struct errmsg em;

	assert_int_equal(attach(&plan, "compress", "level=5", false, false, &em), -EINVAL);
	says(&em, "lz4hc");
	assert_int_equal(attach(&plan, "compress", "method=lz4hc level=5", false, false, &em), 0);
	assert_int_equal(attach(&plan, "encrypt", NULL, false, false, &em), -EINVAL);
	says(&em, "key=NAME");
}

static void test_an_unknown_type_is_refused(void **state)
{
	struct stack_plan plan = {0};
	struct stack_item item = {.type_name = "throttel"};
	struct errmsg em = {0};

	assert_int_equal(stack_plan_check_attach(&plan, &item, false, true, &em), -EINVAL);
	says(&em, "unknown filter type 'throttel'");
}

static void test_too_many_are_refused(void **state)
{
	struct stack_plan plan = {0};
	struct errmsg em;

	for (unsigned i = 0; i < STACK_STAGES_MAX; i++)
		plan_add(&plan, i + 1, "pass", NULL);
	assert_int_equal(attach(&plan, "pass", NULL, false, true, &em), -EINVAL);
	says(&em, "at most 24");
	assert_int_equal(attach(&plan, "compress", NULL, false, false, &em), 0);
	stack_plan_release(&plan);
}

static void test_what_data_depends_on_cannot_be_removed(void **state)
{
	struct stack_plan plan = {0};
	struct errmsg em = {0};

	plan_add(&plan, 1, "t-opaque", NULL);
	plan_add(&plan, 2, "scramble", NULL);
	assert_int_equal(stack_plan_check_detach(&plan, 1, true, true, &em), -EINVAL);
	says(&em, "depends on filter 't-opaque'");
	assert_int_equal(stack_plan_check_detach(&plan, 1, false, false, &em), 0);
	assert_int_equal(stack_plan_check_detach(&plan, 2, true, false, &em), 0);
	plan_state(&plan, 2, STACK_CONVERTING_IN);
	assert_int_equal(stack_plan_check_detach(&plan, 2, true, true, &em), -EBUSY);
	plan.items[1].type = NULL;
	plan_state(&plan, 2, STACK_ACTIVE);
	assert_int_equal(stack_plan_check_detach(&plan, 2, true, true, &em), -EINVAL);
	says(&em, "does not have");
	assert_int_equal(stack_plan_check_detach(&plan, 3, true, true, &em), -ENOENT);
	stack_plan_release(&plan);
}

static void test_an_image_does_not_open_without_what_its_data_needs(void **state)
{
	struct stack_plan plan = {0};
	struct errmsg em = {0};
	unsigned missing = 9;

	plan_add(&plan, 1, "pass", NULL);
	plan_add(&plan, 2, "scramble", NULL);
	plan_add(&plan, 3, "t-holder", NULL);
	assert_int_equal(stack_plan_check_open(&plan, &missing, &em), 0);
	assert_int_equal(missing, 0);

	plan.items[0].type = NULL; /* an observer */
	assert_int_equal(stack_plan_check_open(&plan, &missing, &em), 0);
	assert_int_equal(missing, 1);

	plan.items[2].type_version = 8;
	assert_int_equal(stack_plan_check_open(&plan, &missing, &em), -EIO);
	says(&em, "'scramble'");
	says(&em, "version 8 and is version 1 here");
	plan.items[2].type_version = 1;

	plan.items[1].type = NULL;
	assert_int_equal(stack_plan_check_open(&plan, &missing, &em), -EIO);
	says(&em, "'t-holder' version 2, which may hold the data of the image, is missing");
	stack_plan_release(&plan);
}

static void test_chunk_stages_make_the_policy(void **state)
{
	struct stack_plan plan = {0};
	struct image_policy policy;

	stack_plan_policy(&plan, &policy);
	assert_int_equal(policy.compress, POLICY_LZ4);
	assert_int_equal(policy.dedupe, POLICY_DEDUPE_ON);
	assert_int_equal(policy.domain, 0);
	plan_add(&plan, 1, "compress", "method=lz4hc level=12");
	plan_add(&plan, 2, "dedupe", "mode=verify");
	plan_add(&plan, 3, "encrypt", "key=a domain=77");
	stack_plan_policy(&plan, &policy);
	assert_int_equal(policy.compress, POLICY_LZ4HC);
	assert_int_equal(policy.level, 12);
	assert_int_equal(policy.dedupe, POLICY_DEDUPE_VERIFY);
	assert_int_equal(policy.domain, 77);
	plan_state(&plan, 3, STACK_CONVERTING_OUT);
	stack_plan_policy(&plan, &policy);
	assert_int_equal(policy.domain, 0);
	stack_plan_release(&plan);
}

static void test_a_wrong_table_is_refused(void **state)
{
	struct stage_type t = single;
	struct errmsg em = {0};

	assert_int_equal(stage_type_add(&t, &em), -EEXIST);
	t.name = "t-Wrong";
	assert_int_equal(stage_type_add(&t, &em), -EINVAL);
	t.name = "t-wrong";
	t.abi++;
	assert_int_equal(stage_type_add(&t, &em), -EINVAL);
	says(&em, "another interface");
	t.abi--;
	t.size--;
	assert_int_equal(stage_type_add(&t, &em), -EINVAL);
	t.size++;
	t.understands = OP(READ);
	assert_int_equal(stage_type_add(&t, &em), -EINVAL);
	says(&em, "does not understand");
	t.understands = OPS_ALL;
	t.class = STAGE_DEDUPE;
	assert_int_equal(stage_type_add(&t, &em), -EINVAL);
	t.class = STAGE_LIMIT;
	t.context_size = 257;
	assert_int_equal(stage_type_add(&t, &em), -EINVAL);
}

static void test_a_type_can_be_disabled(void **state)
{
	static const struct stage_type gone = REQUEST_TYPE("t-gone", STAGE_LIMIT, 0);
	struct errmsg em = {0};
	const unsigned n = stage_type_count();

	assert_int_equal(stage_type_add(&gone, &em), 0);
	assert_ptr_equal(stage_type_find("t-gone"), &gone);
	assert_int_equal(stage_type_count(), n + 1);
	assert_int_equal(stage_type_disable("t-gone", &em), 0);
	assert_null(stage_type_find("t-gone"));
	assert_int_equal(stage_type_count(), n);
	assert_int_equal(stage_type_disable("t-gone", &em), -ENOENT);
	assert_null(stage_type_at(n));
}

static int add_types(void **state)
{
	struct errmsg em = {0};

	assert_int_equal(stage_type_add(&holder, &em), 0);
	assert_int_equal(stage_type_add(&single, &em), 0);
	assert_int_equal(stage_type_add(&opaque, &em), 0);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_order_is_by_class_then_id),
	        cmocka_unit_test(test_a_transform_above_dedupe_needs_force),
	        cmocka_unit_test(test_dedupe_below_a_transform_needs_force),
	        cmocka_unit_test(test_a_single_stage_is_attached_once),
	        cmocka_unit_test(test_rehearsals_need_force),
	        cmocka_unit_test(test_data_needs_a_transform_that_converts),
	        cmocka_unit_test(test_settings_that_do_not_fit_are_refused),
	        cmocka_unit_test(test_an_unknown_type_is_refused),
	        cmocka_unit_test(test_too_many_are_refused),
	        cmocka_unit_test(test_what_data_depends_on_cannot_be_removed),
	        cmocka_unit_test(test_an_image_does_not_open_without_what_its_data_needs),
	        cmocka_unit_test(test_chunk_stages_make_the_policy),
	        cmocka_unit_test(test_a_wrong_table_is_refused),
	        cmocka_unit_test(test_a_type_can_be_disabled),
	};

	return cmocka_run_group_tests(tests, add_types, NULL);
}

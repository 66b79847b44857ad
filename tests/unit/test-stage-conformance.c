/*
 * test-stage-conformance.c - every built-in stage that sees requests passes the conformance suite
 *
 * A built-in type without a line here is a failure.  The settings are such that the stage does its
 * work and changes nothing that the guest sees.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "stage-conformance.h"

static const struct conformance_case cases[] = {
        {.type = "pass"},
        {.type = "throttle", .settings = "iops=20000 bps=2G", .other = "iops=50000 group=g"},
        {.type = "protect",
                .settings = "ranges=1T+4K guard=on least=1T window=1s",
                .other = "guard=on least=2T action=block"},
        {.type = "cache", .settings = "reservation=1M limit=2M", .other = "limit=1M prefetch=0"},
        {.type = "cache", .settings = "copies=on prefetch=64K", .other = "mode=writethrough"},
        {.type = "cache", .settings = "mode=unsafe", .flags = CONFORMANCE_FLUSH_IGNORED},
        {.type = "scan",
                .settings = "rules=" TEST_DATA "/scan.yar",
                .other = "rules=" TEST_DATA "/scan.yar window=64 what=reads"},
        {.type = "scramble", .settings = "key=77"},
        {.type = "fault",
                .settings = "latency=20us jitter=200us probability=30",
                .other = "op=write errno=EIO count=0 after=1000000000"},
        {.type = "analytics", .other = "samples=2048 rows=16"},
        /* It would start this program as its worker, an hour from now. */
        {.type = "discover", .settings = "settle=1h", .other = "settle=1h interval=30m"},
};

static bool has_case(const char *type)
{
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++)
		if (strcmp(cases[i].type, type) == 0)
			return true;
	return false;
}

static void test_every_type_has_a_case(void **state)
{
	for (unsigned i = 0; stage_builtin[i]; i++)
		if (!(stage_builtin[i]->capabilities & STAGE_CHUNKS) &&
		        !has_case(stage_builtin[i]->name))
			fail_msg("filter type '%s' has no line in %s", stage_builtin[i]->name,
			        __FILE__);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_type_has_a_case)};
	int failed = cmocka_run_group_tests(tests, NULL, NULL);

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++)
		failed += conformance_run(&cases[i]);
	return failed + conformance_run_together(cases, ARRAY_SIZE(cases));
}

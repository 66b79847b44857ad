/*
 * test-stage-fault.c - the filter "fault": whom a rule strikes, and what happens to them
 */
#include "stage-sim.h"

#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "stage/builtin/builtin.h"

#define KIB  1024ull
#define MIB  (1024 * KIB)
#define SIZE (4 * MIB)

static uint8_t ones[MIB];

#define OPEN(l, ...) sim_open(l, &stage_fault, SIZE, (const char *const[]){__VA_ARGS__, NULL})

static void errors_strike_by_operation_and_range(void **state)
{
	struct stage_link l = {0};
	uint8_t buf[4096];

	OPEN(&l, "op=write,discard", "range=1M+64K", "errno=ENOSPC");
	assert_int_equal(sim_write(&l, 0, ones, 4096), 0);
	assert_int_equal(sim_write(&l, MIB - 1, ones, 1), 0);
	assert_int_equal(sim_write(&l, MIB - 1, ones, 2), -ENOSPC);
	assert_int_equal(sim_op(&l, REQUEST_DISCARD, MIB + 64 * KIB - 1, 10), -ENOSPC);
	assert_int_equal(sim_op(&l, REQUEST_DISCARD, MIB + 64 * KIB, 10), 0);
	assert_int_equal(sim_op(&l, REQUEST_ZERO, MIB, 10), 0);
	assert_int_equal(sim_read(&l, MIB, buf, 4096), 4096);
	assert_int_equal(l.below[REQUEST_WRITE], 2); /* a failed one does not go down */
	assert_int_equal(sim_number(&l, "struck"), 2);
	assert_int_equal(sim_number(&l, "failed"), 2);
	sim_close(&l);
}

/* Bits of which of 32 reads failed. */
static uint32_t failures(struct stage_link *l)
{
	uint8_t buf[512];
	uint32_t bits = 0;

	for (unsigned i = 0; i < 32; i++)
		if (sim_read(l, 0, buf, sizeof(buf)) == -EIO)
			bits |= BIT(i);
	return bits;
}

static void after_every_and_count_choose_exactly(void **state)
{
	struct stage_link l = {0};
	char *json;
	struct errmsg em = {0};

	OPEN(&l, "op=read", "errno=EIO", "after=4", "every=3", "count=5");
	assert_int_equal(failures(&l), BIT(6) | BIT(9) | BIT(12) | BIT(15) | BIT(18));
	assert_int_equal(failures(&l), 0);
	assert_int_equal(l.type->action(l.stage, "reset", NULL, 0, &json, &em), 0);
	assert_int_equal(failures(&l), BIT(6) | BIT(9) | BIT(12) | BIT(15) | BIT(18));
	assert_int_equal(l.type->action(l.stage, "explode", NULL, 0, &json, &em), -EOPNOTSUPP);
	sim_close(&l);
}

static void chance_is_what_was_asked_for_and_repeats(void **state)
{
	struct stage_link a = {0}, b = {0}, c = {0};
	unsigned n = 0;

	OPEN(&a, "op=read", "errno=EIO", "probability=25", "seed=42");
	OPEN(&b, "op=read", "errno=EIO", "probability=25", "seed=42");
	OPEN(&c, "op=read", "errno=EIO", "probability=25", "seed=43");
	bool differs = false;
	for (unsigned i = 0; i < 64; i++) {
		const uint32_t bits = failures(&a);
		assert_int_equal(bits, failures(&b));
		differs = differs || bits != failures(&c);
		n += (unsigned)__builtin_popcount(bits);
	}
	assert_true(differs);
	assert_in_range(n, 64 * 32 / 4 - 80, 64 * 32 / 4 + 80); /* 4 deviations */
	sim_close(&a);
	sim_close(&b);
	sim_close(&c);
}

static void lost_writes_and_flushes_do_nothing_and_succeed(void **state)
{
	struct request w = {.op = REQUEST_WRITE, .len = 4096, .data = ones};
	struct stage_link l = {0};
	uint8_t buf[4096] = {5};

	OPEN(&l, "op=write,flush,discard", "lost=on");
	assert_int_equal(sim_call(&l, &w), 0);
	assert_int_equal(w.done, 4096);
	assert_int_equal(sim_op(&l, REQUEST_FLUSH, 0, 0), 0);
	assert_int_equal(l.below[REQUEST_WRITE] + l.below[REQUEST_FLUSH], 0);
	assert_int_equal(sim_read(&l, 0, buf, 4096), 4096);
	for (unsigned i = 0; i < sizeof(buf); i++)
		assert_int_equal(buf[i], 0);
	assert_int_equal(sim_number(&l, "lost"), 2);
	sim_close(&l);
}

static void torn_case(bool at_once, const char *err, const char *latency, int want)
{
	struct request w = {.op = REQUEST_WRITE, .off = 100, .len = 8192, .data = ones};
	struct stage_link l = {0};
	uint8_t buf[8192];

	OPEN(&l, "op=write", "torn=5000", err, latency);
	l.own_at_once = at_once;
	assert_int_equal(sim_call(&l, &w), want);
	if (want == 0)
		assert_int_equal(w.done, 8192);
	assert_int_equal(w.len, 8192);
	sim_peek(&l, 100, buf, sizeof(buf));
	for (unsigned i = 0; i < sizeof(buf); i++)
		assert_int_equal(buf[i], i < 5000);
	assert_int_equal(sim_number(&l, "torn"), 1);
	l.fail = -EIO;
	assert_int_equal(sim_write(&l, 0, ones, 8192), -EIO);
	sim_close(&l);
}

static void a_torn_write_leaves_a_part(void **state)
{
	torn_case(false, "errno=none", "latency=0s", 0);
	torn_case(true, "errno=none", "latency=0s", 0);
	torn_case(false, "errno=EIO", "latency=10ms", -EIO);
	torn_case(true, "errno=none", "latency=10ms", 0);

	struct stage_link l = {0};
	OPEN(&l, "op=write", "torn=0");
	assert_int_equal(sim_write(&l, 0, ones, 4096), 0);
	assert_int_equal(l.below[REQUEST_WRITE], 0);
	sim_close(&l);
	OPEN(&l, "op=write", "torn=5000");
	assert_int_equal(sim_write(&l, 0, ones, 5000), 0); /* nothing to tear off */
	assert_int_equal(l.below[REQUEST_WRITE], 1);
	assert_int_equal(sim_number(&l, "torn"), 0);
	sim_allocs = 0;
	assert_int_equal(sim_write(&l, 0, ones, 6000), -ENOMEM);
	sim_allocs = -1;
	sim_close(&l);
}

static void latency_is_waited_with_jitter(void **state)
{
	struct stage_link l = {0};
	uint64_t least = UINT64_MAX, most = 0;
	uint8_t buf[512];

	OPEN(&l, "op=read", "latency=10ms", "jitter=5ms");
	for (unsigned i = 0; i < 200; i++) {
		const uint64_t start_ns = sim_now_ns;
		assert_int_equal(sim_read(&l, 0, buf, 512), 512);
		least = MIN(least, sim_now_ns - start_ns);
		most = MAX(most, sim_now_ns - start_ns);
	}
	assert_in_range(least, 10 * NS_PER_MS, 11 * NS_PER_MS);
	assert_in_range(most, 14 * NS_PER_MS, 15 * NS_PER_MS);
	assert_int_equal(sim_op(&l, REQUEST_FLUSH, 0, 0), 0);
	assert_int_equal(sim_number(&l, "delayed"), 200);
	sim_close(&l);
}

#define N 16u

static void waiting_requests_go_in_the_order_of_their_time(void **state)
{
	static struct sim_request reqs[N];
	struct stage_link l = {0};

	OPEN(&l, "op=write", "latency=1ms", "jitter=50ms", "errno=EIO");
	const uint64_t start_ns = sim_now_ns;
	for (unsigned i = 0; i < N; i++) {
		reqs[i].req = (struct request){
		        .op = REQUEST_WRITE, .off = i * 4096ull, .len = 4096, .data = ones};
		sim_start(&l, &reqs[i]);
		assert_false(reqs[i].done);
	}
	uint64_t last_ns = 0;
	while (sim_step((struct stage_link *[]){&l}, 1, UINT64_MAX))
		last_ns = sim_now_ns;
	for (unsigned i = 0; i < N; i++) {
		assert_true(reqs[i].done);
		assert_int_equal(reqs[i].req.result, -EIO);
		assert_in_range(reqs[i].done_ns - start_ns, NS_PER_MS, 51 * NS_PER_MS);
		for (unsigned k = 0; k < i; k++) /* each at its own */
			assert_true(reqs[k].done_ns != reqs[i].done_ns);
	}
	assert_true(last_ns - start_ns > 25 * NS_PER_MS);
	sim_close(&l);
}

static void quiesce_lets_all_go(void **state)
{
	static struct sim_request reqs[N];
	struct stage_link l = {0};

	OPEN(&l, "op=write", "latency=1h", "torn=100");
	for (unsigned i = 0; i < N; i++) {
		reqs[i].req = (struct request){
		        .op = REQUEST_WRITE, .off = i * 4096ull, .len = 4096, .data = ones};
		sim_start(&l, &reqs[i]);
	}
	assert_int_equal(sim_event(&l, STAGE_EVENT_QUIESCE, 0), 0);
	sim_drain(&l);
	for (unsigned i = 0; i < N; i++)
		assert_true(reqs[i].done);
	assert_int_equal(sim_write(&l, 0, ones, 4096), 0);
	assert_int_equal(sim_event(&l, STAGE_EVENT_THAW, 0), 0);
	struct sim_request late = {.req = reqs[0].req};
	sim_start(&l, &late);
	assert_false(late.done);
	assert_int_equal(sim_event(&l, STAGE_EVENT_CLOSE, 0), 0);
	assert_int_equal(sim_event(&l, STAGE_EVENT_QUIESCE, 0), 0);
	sim_drain(&l);
	assert_true(late.done);
	sim_close(&l);
}

static void a_new_rule_counts_from_the_beginning(void **state)
{
	struct stage_link l = {0};
	struct errmsg em = {0};

	OPEN(&l, "op=read", "errno=EIO", "count=3");
	assert_int_equal(failures(&l), 7);
	assert_int_equal(
	        sim_set(&l, (const char *const[]){"op=read", "errno=EIO", "count=1", NULL}, &em),
	        0);
	assert_int_equal(failures(&l), 1);
	sim_close(&l);
}

static void settings_that_make_no_sense_are_refused(void **state)
{
	static const char *const bad[][3] = {{"op=wrote"}, {"op=,"}, {"lost=on"},
	        {"op=read", "lost=on"}, {"torn=1K"}, {"op=write,flush", "torn=1K"},
	        {"range=1M-2M"}};
	struct errmsg em = {0};

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(sim_check(&stage_fault, bad[i], &em), -EINVAL);
	assert_int_equal(
	        sim_check(&stage_fault,
	                (const char *const[]){"op=write", "lost=on", "torn=1K", NULL}, &em),
	        -EINVAL);
	assert_true(stage_fault.capabilities & STAGE_NEEDS_FORCE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(errors_strike_by_operation_and_range),
	        cmocka_unit_test(after_every_and_count_choose_exactly),
	        cmocka_unit_test(chance_is_what_was_asked_for_and_repeats),
	        cmocka_unit_test(lost_writes_and_flushes_do_nothing_and_succeed),
	        cmocka_unit_test(a_torn_write_leaves_a_part),
	        cmocka_unit_test(latency_is_waited_with_jitter),
	        cmocka_unit_test(waiting_requests_go_in_the_order_of_their_time),
	        cmocka_unit_test(quiesce_lets_all_go),
	        cmocka_unit_test(a_new_rule_counts_from_the_beginning),
	        cmocka_unit_test(settings_that_make_no_sense_are_refused),
	};

	memset(ones, 1, sizeof(ones));
	return cmocka_run_group_tests(tests, NULL, NULL);
}

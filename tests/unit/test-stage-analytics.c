/*
 * test-stage-analytics.c - the stage on a host of its own: what it counts, answers and keeps
 */
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/clock.h"
#include "stage/builtin/analytics.h"
#include "stage/builtin/builtin.h"
#include "stage/stack.h"

#define MIB (1ull << 20)

struct stage_link {
	_Atomic uint64_t now_ns;
	uint64_t timer_ns;
	uint8_t *state;
	size_t state_len;
	unsigned said;
	int allocations_left; /* -1: no end */
};
static struct stage_link bed;

static uint64_t bed_now(void)
{
	return bed.now_ns;
}

static void bed_timer(struct stage_link *self, uint64_t at_ns)
{
	self->timer_ns = at_ns;
}

static int bed_state_get(
        struct stage_link *self, const char *name, void *buf, size_t cap, size_t *ret_len)
{
	if (!self->state)
		return -ENOENT;
	*ret_len = self->state_len;
	if (buf)
		memcpy(buf, self->state, MIN(cap, self->state_len));
	return 0;
}

static int bed_state_put(struct stage_link *self, const char *name, const void *data, size_t len)
{
	assert_true(len <= STAGE_STATE_MAX);
	free(self->state);
	self->state = malloc(len);
	assert_non_null(self->state);
	memcpy(self->state, data, len);
	self->state_len = len;
	return 0;
}

static void bed_image(struct stage_link *self, struct stage_image *ret_image)
{
	*ret_image = (struct stage_image){.id = 5, .size = 1024 * MIB};
}

static void bed_say(struct stage_link *self, enum stage_severity severity, const char *fmt, ...)
{
	self->said++;
}

static void *bed_alloc(size_t len)
{
	if (bed.allocations_left == 0)
		return NULL;
	if (bed.allocations_left > 0)
		bed.allocations_left--;
	void *p = malloc(len);
	if (p)
		memset(p, 0xa5, len);
	return p;
}

static const struct stage_host host = {
        .abi = STAGE_ABI,
        .size = sizeof(struct stage_host),
        .now_ns = bed_now,
        .wall_ns = bed_now,
        .timer_set = bed_timer,
        .state_get = bed_state_get,
        .state_put = bed_state_put,
        .image = bed_image,
        .say = bed_say,
        .alloc = bed_alloc,
        .free = free,
};

static struct settings settings_of(const char *const *texts, unsigned n)
{
	struct settings s;
	struct errmsg em = {0};

	assert_int_equal(settings_parse(stage_analytics.settings, texts, n, &s, &em), 0);
	return s;
}

static void *stage_of(const struct settings *settings)
{
	struct errmsg em = {0};
	void *stage = NULL;

	assert_int_equal(stage_analytics.create(&host, &bed, settings, &stage, &em), 0);
	return stage;
}

static int begin(void **state)
{
	free(bed.state);
	bed = (struct stage_link){.now_ns = 1000 * NS_PER_SEC, .allocations_left = -1};
	return 0;
}

static int end(void **state)
{
	free(bed.state);
	bed.state = NULL;
	return 0;
}

/* A request that takes ns. */
static void request(
        void *stage, enum request_op op, uint64_t off, uint64_t len, uint64_t ns, unsigned flags)
{
	struct request req = {.op = op, .off = off, .len = len, .flags = flags};
	uint8_t context[256] = {0};

	assert_true(stage_analytics.context_size <= sizeof(context));
	const enum stage_verdict v = stage_analytics.pre(stage, &req, context);
	bed.now_ns += ns;
	if (v == STAGE_PASS_POST)
		stage_analytics.post(stage, &req, context);
	else
		assert_int_equal(v, STAGE_PASS);
}

static json_t *ask(void *stage, const char *action)
{
	struct errmsg em = {0};
	char *text = NULL;

	assert_int_equal(stage_analytics.action(stage, action, NULL, 0, &text, &em), 0);
	json_error_t error;
	json_t *json = json_loads(text, 0, &error);
	if (!json)
		fail_msg("%s: %s", error.text, text);
	free(text);
	return json;
}

static double number(const json_t *json, const char *path)
{
	char copy[128], *rest = copy;

	snprintf(copy, sizeof(copy), "%s", path);
	for (char *key; (key = strsep(&rest, "."));)
		json = json_is_array(json) ? json_array_get(json, strtoul(key, NULL, 10))
		                           : json_object_get(json, key);
	if (!json_is_number(json))
		fail_msg("no number %s", path);
	return json_number_value(json);
}

static void test_requests_are_counted_by_kind_and_size(void **state)
{
	struct settings s = settings_of(NULL, 0);
	void *stage = stage_of(&s);

	for (unsigned i = 0; i < 3000; i++)
		request(stage, REQUEST_READ, i * 7919 % 262144 * 4096ull, 4096, 10000, 0);
	for (unsigned i = 0; i < 1000; i++)
		request(stage, REQUEST_WRITE, i * MIB, MIB, 900000, 0);
	for (unsigned i = 0; i < 10; i++)
		request(stage, REQUEST_FLUSH, 0, 0, 5000000, 0);
	request(stage, REQUEST_DISCARD, 0, 64 * MIB, 0, 0);
	request(stage, REQUEST_ZERO, 0, 3 * MIB, 0, 0);
	request(stage, REQUEST_READ, 0, 4096, 0, REQUEST_COUNTLESS);
	json_t *all = ask(stage, "report");
	assert_true(number(all, "requests.read.operations") == 3000);
	assert_true(number(all, "requests.read.bytes") == 3000 * 4096);
	assert_true(number(all, "requests.read.sizes.0.up_to") == 4096);
	assert_true(number(all, "requests.read.sizes.0.operations") == 3000);
	assert_true(number(all, "requests.write.sizes.0.up_to") == MIB);
	assert_true(number(all, "requests.discard.bytes") == 64 * MIB);
	assert_true(number(all, "requests.zero.operations") == 1);
	assert_true(number(all, "requests.flush.latency.samples") == 10);
	assert_true(number(all, "requests.flush.latency.p99_ns") == 5000000);
	assert_true(number(all, "requests.read_operations_share") == 0.75);
	/* One in sixteen is timed. */
	const double timed = number(all, "requests.read.latency.samples");
	assert_true(timed > 120 && timed < 260);
	assert_true(number(all, "requests.read.latency.mean_ns") == 10000);
	assert_true(number(all, "requests.write.latency.p50_ns") == 900000);
	assert_true(number(all, "sequential.write.operations_share") > 0.98);
	assert_true(number(all, "sequential.write.mean_run_bytes") > 900 * MIB);
	assert_true(number(all, "sequential.read.operations_share") < 0.02);
	assert_true(number(all, "memory_bytes") < MIB);
	/* 3000 blocks read, 1000 MiB written. */
	assert_true(
	        fabs(number(all, "working_set.since_reset.read_bytes") / (3000 * 4096) - 1) < 0.06);
	assert_true(fabs(number(all, "working_set.now.written_bytes") / (1000 * MIB) - 1) < 0.06);
	json_decref(all);
	stage_analytics.destroy(stage);
	settings_release(&s);
}

static void test_loop_gets_a_cache_that_holds_it(void **state)
{
	static const char *const texts[] = {"one_in=4"};
	struct settings s = settings_of(texts, 1);
	void *stage = stage_of(&s);
	const unsigned blocks = 20000;

	for (unsigned round = 0; round < 10; round++)
		for (unsigned i = 0; i < blocks; i++)
			request(stage, REQUEST_READ, i * 4096ull, 4096, 100, 0);
	json_t *mrc = ask(stage, "mrc");
	const double bytes = number(mrc, "recommended.cache_bytes");
	assert_true(fabs(bytes / (blocks * 4096.0) - 1) < 0.1);
	assert_true(fabs(number(mrc, "recommended.hit_ratio") - 0.9) < 0.03);
	assert_true(number(mrc, "uses") == 10 * blocks);
	double before = 1;
	const json_t *p;
	size_t i;
	json_array_foreach(json_object_get(mrc, "points"), i, p)
	{
		assert_true(number(p, "miss_ratio") <= before);
		before = number(p, "miss_ratio");
	}
	assert_true(i > 30);
	json_decref(mrc);
	stage_analytics.destroy(stage);
	settings_release(&s);
}

static void test_scan_gets_no_cache(void **state)
{
	struct settings s = settings_of(NULL, 0);
	void *stage = stage_of(&s);

	for (uint64_t i = 0; i < 1000; i++)
		request(stage, REQUEST_READ, i * MIB, MIB, 100, 0);
	json_t *mrc = ask(stage, "mrc");
	assert_true(number(mrc, "recommended.cache_bytes") == 0);
	assert_true(number(mrc, "uses") == 256000);
	json_decref(mrc);
	stage_analytics.destroy(stage);
	settings_release(&s);
}

static void test_heat_map_shows_the_hot_place(void **state)
{
	struct settings s = settings_of(NULL, 0);
	void *stage = stage_of(&s);

	for (unsigned i = 0; i < 20000; i++)
		request(stage, REQUEST_READ, 512 * MIB + i % 4 * 4096, 4096, 1000, 0);
	bed.now_ns += 120 * NS_PER_SEC;
	for (unsigned i = 0; i < 2000; i++)
		request(stage, REQUEST_WRITE, 8 * MIB + i % 4 * 4096, 4096, 1000, 0);
	json_t *map = ask(stage, "heatmap");
	assert_true(number(map, "row_bytes") == 8 * MIB); /* 1 GiB in 128 rows */
	assert_true(number(map, "columns") == 3);
	assert_true(fabs(number(map, "reads.0.64") / 20000 - 1) < 0.2);
	assert_true(number(map, "reads.2.64") == 0);
	assert_true(fabs(number(map, "writes.2.1") / 2000 - 1) < 0.4);
	assert_true(number(map, "reads_total.64") == number(map, "reads.0.64"));
	json_decref(map);
	json_t *all = ask(stage, "report");
	assert_true(number(all, "regions.hottest.0.offset") == 512 * MIB);
	assert_true(number(all, "regions.hottest.1.offset") == 8 * MIB);
	json_decref(all);
	stage_analytics.destroy(stage);
	settings_release(&s);
}

static void close_image(void *stage)
{
	const struct stage_event event = {.kind = STAGE_EVENT_CLOSE};
	struct errmsg em = {0};

	assert_int_equal(stage_analytics.prepare(stage, &event, &em), 0);
	stage_analytics.commit(stage, &event);
	stage_analytics.destroy(stage);
}

static void test_numbers_go_on_after_closing(void **state)
{
	static const char *const texts[] = {"one_in=2"};
	struct settings s = settings_of(texts, 1);
	void *stage = stage_of(&s);

	for (unsigned i = 0; i < 4000; i++)
		request(stage, REQUEST_READ, i * 4096ull, 4096, 2000, 0);
	close_image(stage);
	bed.now_ns += 3600 * NS_PER_SEC;
	stage = stage_of(&s);
	for (unsigned i = 0; i < 4000; i++)
		request(stage, REQUEST_READ, i * 4096ull, 4096, 2000, 0);
	json_t *all = ask(stage, "report");
	assert_true(number(all, "requests.read.operations") == 8000);
	assert_true(number(all, "since_wall_ns") == 1000 * (double)NS_PER_SEC);
	/* The blocks are known from before: half of all uses are hits, not none. */
	assert_true(fabs(number(all, "mrc.recommended.best_hit_ratio") - 0.5) < 0.03);
	assert_true(fabs(number(all, "working_set.since_reset.bytes") / (4000 * 4096) - 1) < 0.06);
	json_decref(all);

	all = ask(stage, "reset");
	json_decref(all);
	close_image(stage);
	stage = stage_of(&s);
	all = ask(stage, "report");
	assert_true(number(all, "requests.read.operations") == 0);
	json_decref(all);
	stage_analytics.destroy(stage);
	settings_release(&s);
}

static void test_damaged_state_begins_anew(void **state)
{
	struct settings s = settings_of(NULL, 0);
	void *stage = stage_of(&s);

	request(stage, REQUEST_READ, 0, 4096, 2000, 0);
	close_image(stage);
	/* Every cut, every kind of damage: refused or taken, never trusted. */
	const size_t len = bed.state_len;
	for (size_t cut = 0; cut < len; cut += 997) {
		bed.state_len = cut;
		stage_analytics.destroy(stage_of(&s));
		bed.state_len = len;
	}
	const unsigned said = bed.said;
	assert_true(said > 20);
	for (size_t at = 0; at < len; at += 61) {
		const uint8_t was = bed.state[at];
		bed.state[at] ^= 0xff;
		stage = stage_of(&s);
		json_decref(ask(stage, "report"));
		stage_analytics.destroy(stage);
		bed.state[at] = was;
	}
	assert_true(bed.said > said);
	stage = stage_of(&s);
	json_t *all = ask(stage, "report");
	assert_true(number(all, "requests.read.operations") == 1);
	json_decref(all);
	stage_analytics.destroy(stage);
	settings_release(&s);
}

static void test_reconfigure_commits_or_aborts(void **state)
{
	static const char *const texts[] = {"rows=16", "interval=10s"};
	struct settings s = settings_of(NULL, 0), t = settings_of(texts, 2);
	void *stage = stage_of(&s);
	const struct stage_event event = {.kind = STAGE_EVENT_RECONFIGURE, .settings = &t};
	struct errmsg em = {0};

	request(stage, REQUEST_READ, 0, 4096, 2000, 0);
	assert_int_equal(stage_analytics.prepare(stage, &event, &em), 0);
	stage_analytics.abort(stage, &event);
	json_t *map = ask(stage, "heatmap");
	assert_true(number(map, "rows") == 128);
	json_decref(map);
	assert_int_equal(stage_analytics.prepare(stage, &event, &em), 0);
	stage_analytics.commit(stage, &event);
	map = ask(stage, "heatmap");
	assert_true(number(map, "rows") == 16);
	json_decref(map);
	bed.allocations_left = 1;
	assert_int_equal(stage_analytics.prepare(stage, &event, &em), -ENOMEM);
	assert_true(em.text[0]);
	stage_analytics.destroy(stage);
	settings_release(&s);
	settings_release(&t);
}

static void test_failed_allocations_leave_nothing(void **state)
{
	struct settings s = settings_of(NULL, 0);
	struct errmsg em = {0};
	void *stage = NULL;

	for (int n = 0; n < 4; n++) {
		bed.allocations_left = n;
		assert_int_equal(stage_analytics.create(&host, &bed, &s, &stage, &em), -ENOMEM);
		assert_null(stage);
	}
	settings_release(&s);
}

static void test_region_must_be_a_power_of_two(void **state)
{
	static const char *const texts[] = {"region=3M"};
	struct settings s = settings_of(texts, 1);
	struct errmsg em = {0};

	assert_int_equal(stage_analytics.check(&s, &em), -EINVAL);
	assert_non_null(strstr(em.text, "power of two"));
	settings_release(&s);
}

/* --- many threads, and what it costs --- */

#define THREAD_READS 200000u

static void *read_thread(void *arg)
{
	uint64_t x = (uint64_t)(uintptr_t)&x;

	for (unsigned i = 0; i < THREAD_READS; i++) {
		struct request req = {.op = REQUEST_READ, .len = 4096};
		uint64_t context[32] = {0};
		x = block_hash(x);
		req.off = x % 262144 * 4096;
		if (stage_analytics.pre(arg, &req, context) == STAGE_PASS_POST)
			stage_analytics.post(arg, &req, context);
	}
	return NULL;
}

static void test_no_request_is_lost_between_threads(void **state)
{
	struct settings s = settings_of(NULL, 0);
	void *stage = stage_of(&s);
	pthread_t threads[4];
	struct timespec from, to;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &from);
	for (unsigned i = 0; i < ARRAY_SIZE(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, read_thread, stage), 0);
	for (unsigned i = 0; i < 50; i++)
		json_decref(ask(stage, "report"));
	for (unsigned i = 0; i < ARRAY_SIZE(threads); i++)
		pthread_join(threads[i], NULL);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &to);
	const double n = (double)THREAD_READS * ARRAY_SIZE(threads);
	print_message("%.0f ns of CPU a 4 KiB read (with 50 reports beside)\n",
	        (double)(clock_timespec_ns(&to) - clock_timespec_ns(&from)) / n);
	json_t *all = ask(stage, "report");
	assert_true(number(all, "requests.read.operations") == n);
	assert_true(number(all, "mrc.uses") == n);
	json_decref(all);
	stage_analytics.destroy(stage);
	settings_release(&s);
}

static void test_a_read_costs_little(void **state)
{
	struct settings s = settings_of(NULL, 0);
	void *stage = stage_of(&s);
	struct timespec from, to;

	read_thread(stage); /* until the sample has its size */
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &from);
	read_thread(stage);
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &to);
	const double ns =
	        (double)(clock_timespec_ns(&to) - clock_timespec_ns(&from)) / THREAD_READS;
	print_message("%.0f ns of CPU a 4 KiB read\n", ns);
	/* The budget is 100; a machine under load, or a sanitizer, may take ten times that. */
	assert_true(ns < 2000);
	stage_analytics.destroy(stage);
	settings_release(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test_setup_teardown(
	                test_requests_are_counted_by_kind_and_size, begin, end),
	        cmocka_unit_test_setup_teardown(test_loop_gets_a_cache_that_holds_it, begin, end),
	        cmocka_unit_test_setup_teardown(test_scan_gets_no_cache, begin, end),
	        cmocka_unit_test_setup_teardown(test_heat_map_shows_the_hot_place, begin, end),
	        cmocka_unit_test_setup_teardown(test_numbers_go_on_after_closing, begin, end),
	        cmocka_unit_test_setup_teardown(test_damaged_state_begins_anew, begin, end),
	        cmocka_unit_test_setup_teardown(test_reconfigure_commits_or_aborts, begin, end),
	        cmocka_unit_test_setup_teardown(test_failed_allocations_leave_nothing, begin, end),
	        cmocka_unit_test_setup_teardown(test_region_must_be_a_power_of_two, begin, end),
	        cmocka_unit_test_setup_teardown(
	                test_no_request_is_lost_between_threads, begin, end),
	        cmocka_unit_test_setup_teardown(test_a_read_costs_little, begin, end),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

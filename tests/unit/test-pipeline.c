/*
 * test-pipeline.c - the way of requests: verdicts, keeping, own requests, accounts
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "stage-bottom.h"
#include "stages-for-tests.h"

struct world {
	struct stage_runtime *rt;
	struct bottom bottom;
	struct stack_plan plan;
	struct pipeline *p;
};

static void open_pipeline(struct world *w)
{
	const struct pipeline_below below = bottom_below(&w->bottom);
	struct errmsg em = {0};

	if (pipeline_open(w->rt, &below, &w->plan, &w->p, &em) < 0)
		fail_msg("%s", em.text);
}

static int setup(void **state)
{
	const struct stage_runtime_config cfg = {.workers = 4, .reserve_bytes = 1000};
	struct world *w = calloc(1, sizeof(*w));

	assert_non_null(w);
	bottom_init(&w->bottom);
	assert_int_equal(stage_runtime_new(&cfg, &w->rt), 0);
	probe_reset();
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	pipeline_close(w->p);
	stage_runtime_free(w->rt);
	stack_plan_release(&w->plan);
	bottom_release(&w->bottom);
	assert_int_equal(probe.alive, 0);
	free(w);
	return 0;
}

static void round_trip(struct world *w)
{
	uint8_t data[10000], back[10000];

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 7 + 1);
	assert_int_equal(guest_write(w->p, 777, data, sizeof(data)), 0);
	assert_int_equal(guest_read(w->p, 777, back, sizeof(back)), 0);
	assert_memory_equal(data, back, sizeof(data));
}

static void test_an_empty_stack_reaches_the_bottom(void **state)
{
	struct world *w = *state;

	open_pipeline(w);
	round_trip(w);
	assert_false(pipeline_handles(w->p, OPS_ALL));
	assert_int_equal(guest_op(w->p, REQUEST_FLUSH, 0, 0, 0), 0);
	assert_int_equal(w->bottom.requests[REQUEST_FLUSH], 1);
}

static void test_down_in_order_and_up_in_reverse(void **state)
{
	struct world *w = *state;

	plan_add(&w->plan, 2, "t-probe", "name=b");
	plan_add(&w->plan, 1, "t-probe", "name=a");
	plan_add(&w->plan, 3, "t-probe", "name=c");
	open_pipeline(w);
	assert_true(pipeline_handles(w->p, OP(READ)));
	assert_int_equal(guest_op(w->p, REQUEST_FLUSH, 0, 0, 0), 0);
	assert_string_equal(probe.log, "<a<b<c>c>b>a");
	probe.verdict = STAGE_PASS;
	probe.log[0] = '\0';
	assert_int_equal(guest_op(w->p, REQUEST_FLUSH, 0, 0, 0), 0);
	assert_string_equal(probe.log, "<a<b<c");
}

static void test_complete_and_fail_turn_round(void **state)
{
	struct world *w = *state;

	plan_add(&w->plan, 1, "t-probe", "name=a");
	open_pipeline(w);
	probe.verdict = STAGE_COMPLETE;
	assert_int_equal(guest_op(w->p, REQUEST_FLUSH, 0, 0, 0), 0);
	probe.verdict = STAGE_FAIL;
	probe.fail_with = -EDQUOT;
	assert_int_equal(guest_op(w->p, REQUEST_FLUSH, 0, 0, 0), -EDQUOT);
	probe.fail_with = 0; /* forgot to say why */
	assert_int_equal(guest_op(w->p, REQUEST_FLUSH, 0, 0, 0), -EIO);
	assert_string_equal(probe.log, "<a<a<a");
	assert_int_equal(w->bottom.requests[REQUEST_FLUSH], 0);
}

static void test_errors_from_below_come_by_every_post(void **state)
{
	struct world *w = *state;
	uint8_t byte = 1;

	plan_add(&w->plan, 1, "t-probe", "name=a");
	plan_add(&w->plan, 2, "t-probe", "name=b");
	open_pipeline(w);
	bottom_fail(&w->bottom, OP(WRITE), 1, -ENOSPC);
	assert_int_equal(guest_write(w->p, 0, &byte, 1), -ENOSPC);
	assert_string_equal(probe.log, "<a<b>b>a");
	probe.post_result = -EACCES; /* a post() may make an error of it */
	assert_int_equal(guest_write(w->p, 0, &byte, 1), -EACCES);
}

static void test_what_a_transform_does_not_understand_is_refused(void **state)
{
	struct world *w = *state;

	plan_add(&w->plan, 1, "t-probe", "name=a");
	plan_add(&w->plan, 2, "t-narrow", NULL);
	open_pipeline(w);
	round_trip(w);
	assert_int_equal(guest_op(w->p, REQUEST_DISCARD, 0, 4096, 0), -EOPNOTSUPP);
	assert_int_equal(guest_op(w->p, REQUEST_ZERO, 0, 4096, 0), -EOPNOTSUPP);
	assert_int_equal(w->bottom.requests[REQUEST_DISCARD], 0);
	assert_int_equal(probe.post, probe.pre);
}

static void kept(void **state, const char *settings)
{
	struct world *w = *state;

	plan_add(&w->plan, 1, "t-keep", settings);
	plan_add(&w->plan, 2, "t-keep", settings);
	plan_add(&w->plan, 3, "t-probe", NULL);
	open_pipeline(w);
	for (unsigned i = 0; i < 50; i++)
		round_trip(w);
}

static void test_kept_and_resumed_by_a_timer(void **state)
{
	kept(state, "by=timer");
}

static void test_resumed_before_pre_returned(void **state)
{
	kept(state, "by=at-once");
}

static void test_resumed_by_work(void **state)
{
	kept(state, "by=work");
}

/* --- asynchronous submitters --- */

struct batch {
	pthread_mutex_t lock;
	pthread_cond_t cond;
	unsigned left;
	int result;
};

static void batch_complete(struct request *req)
{
	struct batch *b = req->arg;
	const int result = req->result;

	free(req);
	pthread_mutex_lock(&b->lock);
	if (result < 0)
		b->result = result;
	if (--b->left == 0)
		pthread_cond_signal(&b->cond);
	pthread_mutex_unlock(&b->lock);
}

static void batch_wait(struct batch *b)
{
	pthread_mutex_lock(&b->lock);
	while (b->left)
		pthread_cond_wait(&b->cond, &b->lock);
	pthread_mutex_unlock(&b->lock);
	assert_int_equal(b->result, 0);
}

static void batch_write(struct world *w, struct batch *b, uint64_t off, void *data, size_t len)
{
	struct request *req = calloc(1, sizeof(*req));

	assert_non_null(req);
	*req = (struct request){.op = REQUEST_WRITE,
	        .off = off,
	        .len = len,
	        .data = data,
	        .complete = batch_complete,
	        .arg = b};
	pipeline_submit(w->p, req);
	memset(data, 0xee, len); /* the buffer is the submitter's again */
}

static void test_a_kept_write_does_not_need_the_submitters_buffer(void **state)
{
	struct world *w = *state;
	struct batch b = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 100, 0};
	uint8_t data[4096], back[4096];

	plan_add(&w->plan, 1, "t-keep", "for=2ms");
	open_pipeline(w);
	for (unsigned i = 0; i < 100; i++) {
		memset(data, (int)i + 1, sizeof(data));
		batch_write(w, &b, i * 4096u, data, sizeof(data));
	}
	batch_wait(&b);
	for (unsigned i = 0; i < 100; i++) {
		assert_int_equal(guest_read(w->p, i * 4096u, back, sizeof(back)), 0);
		memset(data, (int)i + 1, sizeof(data));
		assert_memory_equal(back, data, sizeof(data));
	}
}

/* A change makes the stage let go. */
static void *change_later(void *arg)
{
	struct world *w = arg;
	struct errmsg em = {0};

	usleep(50000);
	assert_int_equal(pipeline_change(w->p, &w->plan, NULL, NULL, &em), 0);
	return NULL;
}

static void test_kept_data_is_bounded_and_the_submitter_waits(void **state)
{
	const unsigned fit = PIPELINE_KEPT_BYTES / REQUEST_LEN_MAX;
	struct world *w = *state;
	struct batch b = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, fit + 1, 0};
	CLEANUP(free_ptr) uint8_t *data = malloc(REQUEST_LEN_MAX);
	pthread_t thread;

	plan_add(&w->plan, 1, "t-keep", "by=forever");
	open_pipeline(w);
	for (unsigned i = 0; i < fit; i++)
		batch_write(w, &b, 0, data, REQUEST_LEN_MAX);
	assert_int_equal(w->bottom.requests[REQUEST_WRITE], 0);
	assert_int_equal(pthread_create(&thread, NULL, change_later, w), 0);
	memset(data, 0x77, REQUEST_LEN_MAX);
	batch_write(w, &b, REQUEST_LEN_MAX, data, REQUEST_LEN_MAX / 2);
	/* The next one came back only when it was done itself. */
	assert_int_equal(w->bottom.now.data[REQUEST_LEN_MAX], 0x77);
	batch_wait(&b);
	pthread_join(thread, NULL);
	assert_int_equal(w->bottom.requests[REQUEST_WRITE], fit + 1);
}

/* --- own requests --- */

static void test_a_stage_answers_by_requests_of_its_own(void **state)
{
	struct world *w = *state;

	plan_add(&w->plan, 1, "t-probe", "name=a"); /* above: does not see the own ones */
	plan_add(&w->plan, 2, "t-owner", NULL);
	plan_add(&w->plan, 3, "scramble", NULL);
	open_pipeline(w);
	round_trip(w);
	assert_string_equal(probe.log, "<a>a<a>a");
	uint8_t back[10];
	bottom_fail(&w->bottom, OP(READ), 1, -EIO);
	assert_int_equal(guest_read(w->p, 0, back, 10), -EIO);
}

static void remember(void *arg, const char *name, uint64_t value)
{
	*(uint64_t *)arg = value;
}

static void test_work_reads_below_and_ends_with_the_stage(void **state)
{
	struct world *w = *state;
	uint64_t rounds = 0;
	const struct stage_report report = {.arg = &rounds, .number = remember};

	plan_add(&w->plan, 2, "t-owner", "busy=on");
	open_pipeline(w);
	for (unsigned i = 0; i < 1000 && rounds < 3; i++) {
		usleep(1000);
		assert_int_equal(pipeline_report(w->p, 2, &report), 0);
	}
	assert_true(rounds >= 3);
	assert_int_equal(pipeline_report(w->p, 5, &report), -ENOENT);
}

static void test_what_a_stage_holds_is_written_back_at_close(void **state)
{
	struct world *w = *state;
	uint8_t data[100], back[100];

	plan_add(&w->plan, 1, "t-hold", NULL);
	open_pipeline(w);
	memset(data, 5, sizeof(data));
	assert_int_equal(guest_write(w->p, 50, data, sizeof(data)), 0);
	assert_int_equal(w->bottom.now.data[50], 0);
	pipeline_close(w->p);
	memcpy(back, w->bottom.now.data + 50, sizeof(back));
	assert_memory_equal(back, data, sizeof(data));
	w->p = NULL;
}

/* --- opening --- */

static void test_what_cannot_be_made_does_not_open(void **state)
{
	struct world *w = *state;
	const struct pipeline_below below = bottom_below(&w->bottom);
	struct errmsg em = {0};

	plan_add(&w->plan, 1, "t-probe", NULL);
	plan_add(&w->plan, 2, "t-probe", NULL);
	probe.refuse_create = -ENXIO;
	assert_int_equal(pipeline_open(w->rt, &below, &w->plan, &w->p, &em), -ENXIO);
	assert_string_equal(em.text, "probe refused");
	probe.refuse_create = 0;
	probe.refuse_prepare = -EBUSY;
	probe.refuse_kind = STAGE_EVENT_OPEN;
	assert_int_equal(pipeline_open(w->rt, &below, &w->plan, &w->p, &em), -EBUSY);
	probe.refuse_prepare = 0;
	w->plan.items[1].type_version = 2;
	w->plan.items[1].capabilities = STAGE_HOLDS_DATA;
	assert_int_equal(pipeline_open(w->rt, &below, &w->plan, &w->p, &em), -EIO);
	assert_null(w->p);
	w->plan.items[1].capabilities = 0; /* an observer of another version is left out */
	open_pipeline(w);
	assert_int_equal(probe.alive, 1);
	assert_int_equal(probe.committed[STAGE_EVENT_OPEN], 1);
}

/* --- accounts --- */

static void test_operations_and_bytes_are_exact(void **state)
{
	struct world *w = *state;
	struct stage_account a;
	uint8_t data[3000] = {1};

	plan_add(&w->plan, 1, "t-probe", NULL);
	open_pipeline(w);
	for (unsigned i = 0; i < 300; i++) {
		assert_int_equal(guest_write(w->p, 0, data, sizeof(data)), 0);
		assert_int_equal(guest_read(w->p, 0, data, 1000), 0);
	}
	bottom_fail(&w->bottom, OP(FLUSH), 2, -EIO);
	for (unsigned i = 0; i < 3; i++)
		guest_op(w->p, REQUEST_FLUSH, 0, 0, 0);
	for (uint64_t link = 0; link < 2; link++) {
		assert_int_equal(pipeline_account(w->p, link, &a), 0);
		assert_int_equal(a.requests[REQUEST_WRITE], 300);
		assert_int_equal(a.requests[REQUEST_READ], 300);
		assert_int_equal(a.requests[REQUEST_FLUSH], 3);
		assert_int_equal(a.bytes_written, 900000);
		assert_int_equal(a.bytes_read, 300000);
		assert_int_equal(a.errors, link ? 0 : 2); /* the stage did not make them */
		assert_in_range(a.samples, 20, 200);
	}
	assert_int_equal(pipeline_account(w->p, 9, &a), -ENOENT);
}

static void test_added_latency_is_the_stages_own(void **state)
{
	struct world *w = *state;
	struct stage_account keeper, probed, whole;

	plan_add(&w->plan, 1, "t-keep", "for=3ms");
	plan_add(&w->plan, 2, "t-probe", NULL);
	open_pipeline(w);
	for (unsigned i = 0; i < 150; i++)
		assert_int_equal(guest_op(w->p, REQUEST_FLUSH, 0, 0, 0), 0);
	assert_int_equal(pipeline_account(w->p, 1, &keeper), 0);
	assert_int_equal(pipeline_account(w->p, 2, &probed), 0);
	assert_int_equal(pipeline_account(w->p, 0, &whole), 0);
	assert_int_equal(keeper.kept, 150);
	assert_true(keeper.p50_ns > 2 * NS_PER_MS);
	assert_true(keeper.mean_ns > 2 * NS_PER_MS);
	assert_true(keeper.p99_ns >= keeper.p50_ns);
	assert_true(probed.p50_ns < NS_PER_MS);
	assert_true(whole.mean_ns >= keeper.mean_ns);
	assert_true(keeper.share > 0.2 && keeper.share <= 1);
	assert_true(probed.share < keeper.share);
}

/* No request passes the stage: all that it costs is what its work does, and that never ends. */
static void test_cpu_time_of_work_counts_while_it_runs(void **state)
{
	struct world *w = *state;
	struct stage_account idle, busy = {0};

	plan_add(&w->plan, 1, "t-probe", NULL);
	plan_add(&w->plan, 2, "t-owner", "busy=on");
	open_pipeline(w);
	for (unsigned i = 0; i < 2000 && busy.cpu_seconds < 0.02; i++) {
		usleep(1000);
		assert_int_equal(pipeline_account(w->p, 2, &busy), 0);
	}
	assert_true(busy.cpu_seconds >= 0.02);
	assert_int_equal(pipeline_account(w->p, 1, &idle), 0);
	assert_true(idle.cpu_seconds == 0);
}

static void test_cpu_time_of_own_requests_counts(void **state)
{
	struct world *w = *state;
	struct stage_account before, a = {0};
	uint8_t back[100] = {1};

	plan_add(&w->plan, 2, "t-owner", NULL);
	open_pipeline(w);
	assert_int_equal(guest_write(w->p, 0, back, sizeof(back)), 0);
	assert_int_equal(pipeline_account(w->p, 2, &before), 0);
	for (unsigned i = 0; i < 20000 && a.cpu_seconds < 0.001; i++) {
		assert_int_equal(guest_read(w->p, 0, back, sizeof(back)), 0);
		assert_int_equal(pipeline_account(w->p, 2, &a), 0);
	}
	assert_true(before.cpu_seconds == 0);
	assert_true(a.cpu_seconds >= 0.001);
}

static void test_reservations_are_bounded(void **state)
{
	/* Through the host's table, as a stage would. */
	struct world *w = *state;

	plan_add(&w->plan, 1, "t-reserve", "bytes=600");
	open_pipeline(w);
	struct errmsg em = {0};
	plan_add(&w->plan, 2, "t-reserve", "bytes=600");
	assert_int_equal(pipeline_change(w->p, &w->plan, NULL, NULL, &em), -ENOSPC);
	assert_non_null(strstr(em.text, "400 of the 1000"));
	plan_remove(&w->plan, 1);
	plan_remove(&w->plan, 2);
	assert_int_equal(pipeline_change(w->p, &w->plan, NULL, NULL, &em), 0);
	plan_add(&w->plan, 3, "t-reserve", "bytes=1000");
	assert_int_equal(pipeline_change(w->p, &w->plan, NULL, NULL, &em), 0);
}

static int add_types(void **state)
{
	test_stages_add();
	return 0;
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
	        TEST(test_an_empty_stack_reaches_the_bottom),
	        TEST(test_down_in_order_and_up_in_reverse),
	        TEST(test_complete_and_fail_turn_round),
	        TEST(test_errors_from_below_come_by_every_post),
	        TEST(test_what_a_transform_does_not_understand_is_refused),
	        TEST(test_kept_and_resumed_by_a_timer),
	        TEST(test_resumed_before_pre_returned),
	        TEST(test_resumed_by_work),
	        TEST(test_a_kept_write_does_not_need_the_submitters_buffer),
	        TEST(test_kept_data_is_bounded_and_the_submitter_waits),
	        TEST(test_a_stage_answers_by_requests_of_its_own),
	        TEST(test_work_reads_below_and_ends_with_the_stage),
	        TEST(test_what_a_stage_holds_is_written_back_at_close),
	        TEST(test_what_cannot_be_made_does_not_open),
	        TEST(test_operations_and_bytes_are_exact),
	        TEST(test_added_latency_is_the_stages_own),
	        TEST(test_cpu_time_of_work_counts_while_it_runs),
	        TEST(test_cpu_time_of_own_requests_counts),
	        TEST(test_reservations_are_bounded),
	};

	return cmocka_run_group_tests(tests, add_types, NULL);
}

/*
 * test-transform.c - transforms that the host drives, and converting what is there, crashes included
 *
 * Everywhere the guest's view is compared with a model; what is stored below is looked at too, so that
 * a transform which does nothing would fail.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "stage-bottom.h"

#define LINK 7
#define SIZE (1u << 20)
#define STEP 16384u

struct world {
	struct stage_runtime *rt;
	struct bottom bottom;
	struct stack_plan plan;
	struct pipeline *p;
	uint8_t *model;
	unsigned seed;
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
	const struct stage_runtime_config cfg = {.workers = 4};
	struct world *w = calloc(1, sizeof(*w));

	assert_non_null(w);
	w->seed = 1;
	w->model = calloc(1, SIZE);
	bottom_init(&w->bottom);
	assert_int_equal(stage_runtime_new(&cfg, &w->rt), 0);
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
	free(w->model);
	free(w);
	return 0;
}

static void change(struct world *w)
{
	struct errmsg em = {0};

	if (pipeline_change(w->p, &w->plan, NULL, NULL, &em) < 0)
		fail_msg("%s", em.text);
}

/* Never zero. */
static void random_bytes(struct world *w, uint8_t *buf, size_t len)
{
	for (size_t i = 0; i < len; i++)
		buf[i] = (uint8_t)(1 + rand_r(&w->seed) % 255);
}

static void random_write(struct world *w)
{
	const uint64_t off = (uint64_t)rand_r(&w->seed) % SIZE;
	const size_t len = 1 + (size_t)rand_r(&w->seed) % 9000 % (SIZE - off);

	random_bytes(w, w->model + off, len);
	assert_int_equal(guest_write(w->p, off, w->model + off, len), 0);
}

static void fill(struct world *w)
{
	for (uint64_t off = 0; off < SIZE; off += 65536) {
		random_bytes(w, w->model + off, 40000); /* and a hole */
		assert_int_equal(guest_write(w->p, off, w->model + off, 40000), 0);
	}
	assert_int_equal(guest_op(w->p, REQUEST_RESIZE, 0, SIZE, 0), 0);
}

static void verify(struct world *w)
{
	CLEANUP(free_ptr) uint8_t *buf = malloc(SIZE);

	assert_int_equal(guest_read(w->p, 0, buf, SIZE), 0);
	assert_memory_equal(buf, w->model, SIZE);
	assert_int_equal(guest_read(w->p, 12345, buf, 54321), 0);
	assert_memory_equal(buf, w->model + 12345, 54321);
}

/* How many of the bytes below are the guest's own. */
static unsigned same_below(const struct world *w)
{
	unsigned same = 0;

	for (unsigned i = 0; i < SIZE; i++)
		same += w->model[i] && w->bottom.now.data[i] == w->model[i];
	return same;
}

static void stored_plain(const struct world *w)
{
	assert_memory_equal(w->bottom.now.data, w->model, SIZE);
}

/* A permutation keeps some bytes as they are, not many. */
static void stored_encoded(const struct world *w)
{
	assert_true(same_below(w) < SIZE / 8);
}

static void convert_all(struct world *w)
{
	bool done = false;

	for (unsigned i = 0; i < 10000 && !done; i++)
		assert_int_equal(pipeline_convert(w->p, LINK, STEP, &done), 0);
	assert_true(done);
}

static void attach(struct world *w)
{
	plan_add(&w->plan, LINK, "scramble", "key=3");
	plan_state(&w->plan, LINK, STACK_CONVERTING_IN);
	change(w);
}

static void test_data_is_encoded_below_and_plain_above(void **state)
{
	struct world *w = *state;

	plan_add(&w->plan, LINK, "scramble", "key=3");
	open_pipeline(w);
	fill(w);
	for (unsigned i = 0; i < 200; i++)
		random_write(w);
	verify(w);
	stored_encoded(w);
	for (unsigned i = 0; i < SIZE; i++) /* holes stay holes */
		assert_int_equal(w->model[i] == 0, w->bottom.now.data[i] == 0);
}

static void test_the_guests_buffer_is_not_written_to(void **state)
{
	struct world *w = *state;
	uint8_t data[5000], copy[5000];

	plan_add(&w->plan, LINK, "scramble", NULL);
	open_pipeline(w);
	random_bytes(w, data, sizeof(data));
	memcpy(copy, data, sizeof(data));
	assert_int_equal(guest_write(w->p, 77, data, sizeof(data)), 0);
	assert_memory_equal(data, copy, sizeof(data));
}

static void test_conversion_in_and_out(void **state)
{
	struct world *w = *state;

	open_pipeline(w);
	fill(w);
	stored_plain(w);
	attach(w);
	verify(w);
	convert_all(w);
	stored_encoded(w);
	verify(w);
	plan_state(&w->plan, LINK, STACK_ACTIVE);
	change(w);
	verify(w);
	plan_state(&w->plan, LINK, STACK_CONVERTING_OUT);
	change(w);
	verify(w);
	stored_encoded(w);
	convert_all(w);
	stored_plain(w);
	plan_remove(&w->plan, LINK);
	change(w);
	verify(w);
}

static void test_half_converted_reads_right_with_writes_between(void **state)
{
	struct world *w = *state;
	bool done = false;

	open_pipeline(w);
	fill(w);
	attach(w);
	while (!done) {
		assert_int_equal(pipeline_convert(w->p, LINK, STEP, &done), 0);
		for (unsigned i = 0; i < 5; i++)
			random_write(w);
		verify(w);
	}
}

static void test_an_unfinished_conversion_cannot_be_ended(void **state)
{
	struct world *w = *state;
	struct errmsg em = {0};
	bool done;

	open_pipeline(w);
	fill(w);
	attach(w);
	assert_int_equal(pipeline_convert(w->p, LINK, STEP, &done), 0);
	assert_false(done);
	plan_state(&w->plan, LINK, STACK_ACTIVE);
	assert_int_equal(pipeline_change(w->p, &w->plan, NULL, NULL, &em), -EBUSY);
	plan_remove(&w->plan, LINK);
	assert_int_equal(pipeline_change(w->p, &w->plan, NULL, NULL, &em), -EBUSY);
	verify(w);
	convert_all(w);
}

static void test_the_file_may_grow_and_shrink_meanwhile(void **state)
{
	struct world *w = *state;
	uint8_t tail[4000], back[4000];
	bool done;

	open_pipeline(w);
	fill(w);
	attach(w);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(pipeline_convert(w->p, LINK, STEP, &done), 0);
	assert_int_equal(guest_op(w->p, REQUEST_RESIZE, 0, 20000, 0), 0); /* below the cursor */
	memset(w->model + 20000, 0, SIZE - 20000);
	assert_int_equal(guest_op(w->p, REQUEST_RESIZE, 0, SIZE, 0), 0);
	verify(w);
	random_bytes(w, tail, sizeof(tail)); /* grows ahead of it */
	assert_int_equal(guest_write(w->p, SIZE + 500, tail, sizeof(tail)), 0);
	convert_all(w);
	verify(w);
	assert_int_equal(guest_read(w->p, SIZE + 500, back, sizeof(back)), 0);
	assert_memory_equal(back, tail, sizeof(tail));
	/* And after its end, before the state changes: that is encoded, too. */
	assert_int_equal(guest_write(w->p, SIZE + 8000, tail, sizeof(tail)), 0);
	plan_state(&w->plan, LINK, STACK_ACTIVE);
	change(w);
	assert_int_equal(guest_read(w->p, SIZE + 8000, back, sizeof(back)), 0);
	assert_memory_equal(back, tail, sizeof(tail));
	assert_memory_not_equal(w->bottom.now.data + SIZE + 8000, tail, sizeof(tail));
}

static void test_discard_and_zero_pass(void **state)
{
	struct world *w = *state;
	bool done;

	open_pipeline(w);
	fill(w);
	attach(w);
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(pipeline_convert(w->p, LINK, STEP, &done), 0);
	for (unsigned i = 0; i < 60; i++) {
		const uint64_t off = (uint64_t)rand_r(&w->seed) % (SIZE - 5000);
		memset(w->model + off, 0, 5000);
		assert_int_equal(guest_op(w->p, i % 2 ? REQUEST_ZERO : REQUEST_DISCARD, off, 5000,
		                         REQUEST_KEEP_SIZE),
		        0);
	}
	verify(w);
	convert_all(w);
	verify(w);
}

static void test_a_failing_piece_changes_nothing(void **state)
{
	struct world *w = *state;
	bool done = false;

	open_pipeline(w);
	fill(w);
	attach(w);
	bottom_fail(&w->bottom, OP(READ), 1, -EIO);
	assert_int_equal(pipeline_convert(w->p, LINK, STEP, &done), -EIO);
	bottom_fail(&w->bottom, OP(WRITE), 1, -ENOSPC);
	assert_int_equal(pipeline_convert(w->p, LINK, STEP, &done), -ENOSPC);
	bottom_fail(&w->bottom, OP(EXTENTS), 1, -ENOMEM);
	assert_int_equal(pipeline_convert(w->p, LINK, STEP, &done), -ENOMEM);
	verify(w);
	stored_plain(w);
	w->bottom.state_put_fails = true; /* after the piece was written: it is taken back */
	assert_int_equal(pipeline_convert(w->p, LINK, STEP, &done), -ENOMEM);
	w->bottom.state_put_fails = false;
	stored_plain(w);
	verify(w);
	convert_all(w);
	verify(w);
}

/* Opens with what is durable; the model is what the guest has to find. */
static void crash(struct world *w)
{
	pipeline_close(w->p);
	bottom_crash(&w->bottom);
	open_pipeline(w);
}

static void test_crashes_in_the_middle_of_a_conversion(void **state)
{
	struct world *w = *state;
	bool done = false;

	open_pipeline(w);
	fill(w);
	for (unsigned way = 0; way < 2; way++) {
		if (way == 0) {
			attach(w);
		} else {
			plan_state(&w->plan, LINK, STACK_CONVERTING_OUT);
			change(w);
		}
		bottom_sync(&w->bottom);
		done = false;
		for (unsigned n = 0; !done; n++) {
			/* Some pieces are durable, some are lost and done again. */
			assert_int_equal(pipeline_convert(w->p, LINK, STEP, &done), 0);
			if (n % 3 == 1)
				bottom_sync(&w->bottom);
			if (n % 7 == 5 || done) {
				crash(w);
				verify(w);
				assert_int_equal(pipeline_convert(w->p, LINK, STEP, &done), 0);
			}
		}
		verify(w);
		if (way == 0) {
			stored_encoded(w);
			plan_state(&w->plan, LINK, STACK_ACTIVE);
			change(w);
		}
	}
	stored_plain(w);
}

/* --- under load --- */

#define WRITERS 4u
struct writer {
	struct world *w;
	unsigned n;
	atomic_bool *stop;
};

/* Each has its own quarter, writes and reads it back. */
static void *write_and_verify(void *arg)
{
	struct writer *me = arg;
	struct world *w = me->w;
	const uint64_t from = me->n * (SIZE / WRITERS);
	unsigned seed = me->n + 1;
	uint8_t buf[3000];

	while (!*me->stop) {
		const uint64_t off = from + (uint64_t)rand_r(&seed) % (SIZE / WRITERS - 3000);
		const size_t len = 1 + (size_t)rand_r(&seed) % 3000;
		for (size_t i = 0; i < len; i++)
			w->model[off + i] = (uint8_t)(1 + rand_r(&seed) % 255);
		assert_int_equal(guest_write(w->p, off, w->model + off, len), 0);
		assert_int_equal(guest_read(w->p, off, buf, len), 0);
		assert_memory_equal(buf, w->model + off, len);
	}
	return NULL;
}

static void test_conversions_under_load(void **state)
{
	struct world *w = *state;
	pthread_t threads[WRITERS];
	struct writer writers[WRITERS];
	atomic_bool stop = false;

	open_pipeline(w);
	fill(w);
	for (unsigned i = 0; i < WRITERS; i++) {
		writers[i] = (struct writer){.w = w, .n = i, .stop = &stop};
		pthread_create(&threads[i], NULL, write_and_verify, &writers[i]);
	}
	for (unsigned round = 0; round < 4; round++) {
		attach(w);
		convert_all(w);
		plan_state(&w->plan, LINK, STACK_ACTIVE);
		change(w);
		plan_state(&w->plan, LINK, STACK_CONVERTING_OUT);
		change(w);
		convert_all(w);
		plan_remove(&w->plan, LINK);
		change(w);
	}
	stop = true;
	for (unsigned i = 0; i < WRITERS; i++)
		pthread_join(threads[i], NULL);
	verify(w);
	stored_plain(w);
}

static void test_two_transforms_are_undone_in_order(void **state)
{
	struct world *w = *state;

	plan_add(&w->plan, 1, "scramble", "key=8");
	open_pipeline(w);
	fill(w);
	attach(w); /* below the first one */
	convert_all(w);
	verify(w);
	plan_state(&w->plan, LINK, STACK_ACTIVE);
	change(w);
	verify(w);
	for (unsigned i = 0; i < 50; i++)
		random_write(w);
	verify(w);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
	        TEST(test_data_is_encoded_below_and_plain_above),
	        TEST(test_the_guests_buffer_is_not_written_to),
	        TEST(test_conversion_in_and_out),
	        TEST(test_half_converted_reads_right_with_writes_between),
	        TEST(test_an_unfinished_conversion_cannot_be_ended),
	        TEST(test_the_file_may_grow_and_shrink_meanwhile),
	        TEST(test_discard_and_zero_pass),
	        TEST(test_a_failing_piece_changes_nothing),
	        TEST(test_crashes_in_the_middle_of_a_conversion),
	        TEST(test_conversions_under_load),
	        TEST(test_two_transforms_are_undone_in_order),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

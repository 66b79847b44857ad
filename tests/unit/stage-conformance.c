/*
 * stage-conformance.c - what every stage that sees requests has to pass
 *
 * The guest's view is compared with a model, byte for byte; below is a file in memory that fails,
 * forgets and crashes on demand (stage-bottom.h).  Nothing here knows what the type does.
 */
#include "stage-conformance.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "alloc-failure.h"

#define LINK     10
#define SIZE     (512u << 10) /* of the model: the file is at most so large */
#define OP_LEN   20000u
#define GUESTS   3u
#define REGION   (SIZE / GUESTS / 4096 * 4096)
#define PIECE    30000u /* of a conversion; not aligned to anything */
#define ROUNDS   400u
#define RUNS_MAX 5000u

struct guest {
	struct world *w;
	unsigned n;
	pthread_t thread;
};

struct world {
	const struct conformance_case *cases;
	unsigned n_cases;
	const struct stage_type *type; /* of the first case */
	struct stage_runtime *rt;
	struct bottom bottom;
	struct stack_plan plan;
	struct pipeline *p;
	unsigned seed;
	uint8_t *model; /* SIZE bytes, zeros beyond size */
	uint64_t size;
	struct guest guests[GUESTS];
	atomic_bool stop;
	bool loaded;
	_Atomic uint64_t operations;
};

/* What a test is about. */
struct subject {
	const struct conformance_case *cases;
	unsigned n;
};

/* --- setting up --- */

static void add_stages(struct world *w)
{
	for (unsigned i = 0; i < w->n_cases; i++)
		plan_add(&w->plan, LINK + i, w->cases[i].type, w->cases[i].settings);
}

static int open_now(struct world *w)
{
	const struct pipeline_below below = bottom_below(&w->bottom);
	struct errmsg em = {0};

	return pipeline_open(w->rt, &below, &w->plan, &w->p, &em);
}

static void open_pipeline(struct world *w)
{
	const struct pipeline_below below = bottom_below(&w->bottom);
	struct errmsg em = {0};

	if (pipeline_open(w->rt, &below, &w->plan, &w->p, &em) < 0)
		fail_msg("%s", em.text);
}

static void close_pipeline(struct world *w)
{
	pipeline_close(w->p);
	w->p = NULL;
}

static int setup(void **state)
{
	const struct subject *subject = *state;
	const struct stage_runtime_config cfg = {.workers = 4, .reserve_bytes = 256u << 20};
	struct world *w = calloc(1, sizeof(*w));

	assert_non_null(w);
	w->cases = subject->cases;
	w->n_cases = subject->n;
	w->type = stage_type_find(w->cases[0].type);
	assert_non_null(w->type);
	w->seed = 12345;
	w->model = calloc(1, SIZE);
	assert_non_null(w->model);
	bottom_init(&w->bottom);
	assert_int_equal(stage_runtime_new(&cfg, &w->rt), 0);
	*state = w;
	return 0;
}

static void unload(struct world *w)
{
	if (!w->loaded)
		return;
	w->loaded = false;
	w->stop = true;
	for (unsigned i = 0; i < GUESTS; i++)
		pthread_join(w->guests[i].thread, NULL);
	w->stop = false;
}

static int teardown(void **state)
{
	struct world *w = *state;

	alloc_fail_stop();
	unload(w);
	close_pipeline(w);
	stage_runtime_free(w->rt);
	stack_plan_release(&w->plan);
	bottom_release(&w->bottom);
	free(w->model);
	free(w);
	return 0;
}

/* --- the model --- */

static bool understands(const struct world *w, enum request_op op)
{
	for (unsigned i = 0; i < w->n_cases; i++) {
		const struct stage_type *t = stage_type_find(w->cases[i].type);
		if (t->capabilities & STAGE_TRANSFORMS && !(t->understands & BIT(op)))
			return false;
	}
	return true;
}

static uint64_t pick(struct world *w, uint64_t n)
{
	return (uint64_t)rand_r(&w->seed) % n;
}

/* Mostly odd places and lengths, sometimes whole blocks. */
static void pick_range(struct world *w, uint64_t *ret_off, uint64_t *ret_len)
{
	*ret_len = 1 + pick(w, OP_LEN);
	*ret_off = pick(w, SIZE - *ret_len);
	if (pick(w, 4) == 0) {
		*ret_off = *ret_off / 4096 * 4096;
		*ret_len = 4096 * (1 + pick(w, 4));
	}
}

static void model_grow(struct world *w, uint64_t size)
{
	w->size = MAX(w->size, size);
}

static int do_write(struct world *w)
{
	uint64_t off, len;
	uint8_t buf[OP_LEN];

	pick_range(w, &off, &len);
	for (uint64_t i = 0; i < len; i++)
		buf[i] = (uint8_t)rand_r(&w->seed);
	const int r = guest_write(w->p, off, buf, len);
	if (r == 0) {
		memcpy(w->model + off, buf, len);
		model_grow(w, off + len);
	}
	return r;
}

static int do_read(struct world *w)
{
	uint64_t off, len;
	uint8_t buf[OP_LEN];

	pick_range(w, &off, &len);
	struct request req = {.op = REQUEST_READ, .off = off, .len = len};
	const int r = pipeline_call(w->p, &req);
	if (r < 0)
		return r;
	assert_int_equal(req.out.len, off >= w->size ? 0 : MIN(len, w->size - off));
	readv_copy(&req.out, 0, buf, req.out.len);
	assert_memory_equal(buf, w->model + off, req.out.len);
	readv_release(&req.out);
	return 0;
}

static int do_discard(struct world *w)
{
	uint64_t off, len;

	pick_range(w, &off, &len);
	const int r = guest_op(w->p, REQUEST_DISCARD, off, len, 0);
	if (r == 0)
		memset(w->model + off, 0, len);
	return r;
}

static int do_zero(struct world *w)
{
	static const unsigned kinds[] = {
	        0, REQUEST_KEEP_SIZE, REQUEST_ALLOCATE, REQUEST_ALLOCATE | REQUEST_KEEP_SIZE};
	const unsigned flags = kinds[pick(w, ARRAY_SIZE(kinds))];
	uint64_t off, len;

	pick_range(w, &off, &len);
	const int r = guest_op(w->p, REQUEST_ZERO, off, len, flags);
	if (r < 0)
		return r;
	if (!(flags & REQUEST_ALLOCATE))
		memset(w->model + off, 0, len);
	if (!(flags & REQUEST_KEEP_SIZE))
		model_grow(w, off + len);
	return 0;
}

static int do_resize(struct world *w)
{
	const uint64_t size = SIZE / 2 + pick(w, SIZE / 2);
	const int r = guest_op(w->p, REQUEST_RESIZE, 0, size, 0);

	if (r < 0)
		return r;
	if (size < w->size)
		memset(w->model + size, 0, w->size - size);
	w->size = size;
	return 0;
}

/* Up to where data is said to begin, there are zeros. */
static int do_extents(struct world *w)
{
	struct request req = {.op = REQUEST_EXTENTS, .off = pick(w, SIZE)};

	if (pick(w, 2))
		req.flags = REQUEST_HOLE;
	const int r = pipeline_call(w->p, &req);
	if (r < 0)
		return r;
	assert_true(req.found >= req.off);
	if (req.flags & REQUEST_HOLE)
		assert_true(req.found == UINT64_MAX || req.found <= w->size);
	else
		for (uint64_t i = req.off; i < MIN(req.found, w->size); i++)
			assert_int_equal(w->model[i], 0);
	return 0;
}

static int do_flush(struct world *w)
{
	return guest_op(w->p, REQUEST_FLUSH, 0, 0, 0);
}

static int do_op(struct world *w, enum request_op op)
{
	static int (*const fns[REQUEST_OPS])(struct world *) = {
	        [REQUEST_READ] = do_read,
	        [REQUEST_WRITE] = do_write,
	        [REQUEST_FLUSH] = do_flush,
	        [REQUEST_DISCARD] = do_discard,
	        [REQUEST_ZERO] = do_zero,
	        [REQUEST_EXTENTS] = do_extents,
	        [REQUEST_RESIZE] = do_resize,
	};
	return fns[op](w);
}

static enum request_op pick_op(struct world *w)
{
	static const enum request_op often[] = {
	        REQUEST_READ, REQUEST_READ, REQUEST_WRITE, REQUEST_WRITE, REQUEST_WRITE};
	const uint64_t n = pick(w, ARRAY_SIZE(often) + REQUEST_OPS);

	return n < ARRAY_SIZE(often) ? often[n] : (enum request_op)(n - ARRAY_SIZE(often));
}

static void some_ops(struct world *w, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		const enum request_op op = pick_op(w);
		assert_int_equal(do_op(w, op), understands(w, op) ? 0 : -EOPNOTSUPP);
	}
}

static void verify(struct world *w)
{
	CLEANUP(free_ptr) uint8_t *buf = malloc(SIZE);

	if (w->size == 0)
		return;
	assert_int_equal(guest_read(w->p, 0, buf, w->size), 0);
	assert_memory_equal(buf, w->model, w->size);
}

/* --- reads after writes, every operation --- */

static void test_reads_give_what_was_written(void **state)
{
	struct world *w = *state;

	add_stages(w);
	open_pipeline(w);
	some_ops(w, ROUNDS);
	verify(w);
	close_pipeline(w);
	open_pipeline(w); /* nothing stayed behind */
	verify(w);
	some_ops(w, ROUNDS);
	verify(w);
}

static void test_every_operation_is_done_or_refused(void **state)
{
	struct world *w = *state;

	add_stages(w);
	open_pipeline(w);
	assert_int_equal(do_write(w), 0);
	for (unsigned i = 0; i < 20; i++)
		for (unsigned op = 0; op < REQUEST_OPS; op++)
			assert_int_equal(do_op(w, op), understands(w, op) ? 0 : -EOPNOTSUPP);
	verify(w);
}

/* --- errors from below --- */

/* After an operation failed, nobody knows what is there; all is written anew. */
static void write_all(struct world *w)
{
	assert_int_equal(guest_op(w->p, REQUEST_RESIZE, 0, SIZE, 0),
	        understands(w, REQUEST_RESIZE) ? 0 : -EOPNOTSUPP);
	for (uint64_t off = 0; off < SIZE; off += 65536) {
		for (unsigned i = 0; i < 65536; i++)
			w->model[off + i] = (uint8_t)rand_r(&w->seed);
		assert_int_equal(guest_write(w->p, off, w->model + off, 65536), 0);
	}
	w->size = SIZE;
}

static void test_errors_from_below_break_nothing(void **state)
{
	static const int errors[] = {-EIO, -ENOSPC, -ENOMEM};
	struct world *w = *state;

	add_stages(w);
	open_pipeline(w);
	write_all(w);
	for (unsigned i = 0; i < 40; i++) {
		const int err = errors[i % ARRAY_SIZE(errors)];
		bottom_fail(&w->bottom, OPS_ALL, 3, err);
		for (unsigned k = 0; k < 6; k++)
			do_op(w, pick_op(w)); /* a READ that succeeds is still compared */
		bottom_fail(&w->bottom, 0, 0, 0);
		write_all(w);
		verify(w);
	}
	bottom_fail(&w->bottom, 0, 0, 0);
	assert_int_equal(do_flush(w), 0);
}

static void test_what_cannot_be_made_durable_is_said(void **state)
{
	struct world *w = *state;

	add_stages(w);
	open_pipeline(w);
	for (unsigned i = 0; i < w->n_cases; i++)
		if (w->cases[i].flags & CONFORMANCE_FLUSH_IGNORED)
			skip();
	for (unsigned i = 0; i < 20; i++) {
		assert_int_equal(do_write(w), 0);
		bottom_fail(&w->bottom, OP(WRITE) | OP(FLUSH), 1000, -EIO);
		assert_int_equal(do_flush(w), -EIO);
		bottom_fail(&w->bottom, 0, 0, 0);
		assert_int_equal(do_flush(w), 0);
		verify(w);
	}
}

/* --- out of memory --- */

static bool converts(const struct world *w)
{
	return w->type->encode;
}

static bool attaches_to_data(const struct world *w)
{
	return converts(w) || !(w->type->capabilities & STAGE_TRANSFORMS);
}

/* Everything that a stage goes through, as far as the memory lets it. */
static void short_life(struct world *w)
{
	struct errmsg em = {0};
	uint8_t buf[3000];

	memset(buf, 0x5a, sizeof(buf));
	if (!w->p && open_now(w) < 0)
		return;
	for (unsigned i = 0; i < 3; i++) {
		guest_write(w->p, i * 5000, buf, sizeof(buf));
		struct request req = {.op = REQUEST_READ, .off = i * 5000, .len = 2000};
		if (pipeline_call(w->p, &req) == 0)
			readv_release(&req.out);
	}
	for (unsigned op = REQUEST_FLUSH; op < REQUEST_OPS; op++)
		guest_op(w->p, op, 4000, op == REQUEST_RESIZE ? SIZE : 1000, 0);
	const int r = pipeline_change(w->p, &w->plan, NULL, NULL, &em);
	assert_true(r == 0 || em.text[0]);
}

/* One allocation fails in each run, until a run needs fewer than that. */
static void test_any_allocation_may_fail(void **state)
{
	struct world *w = *state;
	unsigned n = 0;

	add_stages(w);
	for (bool failed = true; failed; n++) {
		assert_true(n < RUNS_MAX);
		alloc_fail_after((int)n);
		short_life(w);
		failed = alloc_fail_stop();
		if (!w->p)
			open_pipeline(w);
		memset(w->model, 0, SIZE);
		for (uint64_t off = 0; off < 32768; off += 8192) {
			for (unsigned i = 0; i < 8192; i++)
				w->model[off + i] = (uint8_t)rand_r(&w->seed);
			assert_int_equal(guest_write(w->p, off, w->model + off, 8192), 0);
		}
		uint8_t back[32768];
		assert_int_equal(guest_read(w->p, 0, back, sizeof(back)), 0);
		assert_memory_equal(back, w->model, sizeof(back));
		close_pipeline(w);
	}
	assert_true(n > 1); /* the hook works */
}

/* --- load --- */

/* Each guest has a region of its own: the whole model is what all of them wrote. */
static void *guest_main(void *arg)
{
	struct guest *g = arg;
	struct world *w = g->w;
	unsigned seed = g->n + 99;
	uint8_t back[5000];

	while (!w->stop) {
		const size_t len = 1 + (size_t)rand_r(&seed) % sizeof(back);
		const uint64_t off = g->n * REGION + (uint64_t)rand_r(&seed) % (REGION - len);
		for (size_t i = 0; i < len; i++)
			w->model[off + i] = (uint8_t)rand_r(&seed);
		assert_int_equal(guest_write(w->p, off, w->model + off, len), 0);
		assert_int_equal(guest_read(w->p, off, back, len), 0);
		assert_memory_equal(back, w->model + off, len);
		if (rand_r(&seed) % 32 == 0)
			assert_int_equal(guest_op(w->p, REQUEST_FLUSH, 0, 0, 0), 0);
		w->operations++;
	}
	return NULL;
}

static void load(struct world *w)
{
	write_all(w);
	w->loaded = true;
	for (unsigned i = 0; i < GUESTS; i++) {
		w->guests[i].w = w;
		w->guests[i].n = i;
		assert_int_equal(
		        pthread_create(&w->guests[i].thread, NULL, guest_main, &w->guests[i]), 0);
	}
}

static int nothing_moves(void *arg, struct errmsg *em)
{
	struct world *w = arg;
	uint64_t before = 0, after = 0;

	for (unsigned op = 0; op < REQUEST_OPS; op++)
		before += w->bottom.requests[op];
	usleep(1000);
	for (unsigned op = 0; op < REQUEST_OPS; op++)
		after += w->bottom.requests[op];
	assert_int_equal(before, after);
	return 0;
}

static int refuse(void *arg, struct errmsg *em)
{
	nothing_moves(arg, em);
	return errmsg_set(em, -ENOSPC, "refused by the test");
}

static void test_it_drains_under_load(void **state)
{
	const struct stage_event snapshot = {.kind = STAGE_EVENT_SNAPSHOT};
	struct world *w = *state;
	struct errmsg em = {0};

	add_stages(w);
	open_pipeline(w);
	load(w);
	for (unsigned i = 0; i < 20; i++) {
		const uint64_t before = w->operations;
		const int r = i % 2 ? pipeline_event(w->p, &snapshot, nothing_moves, w, &em)
		                    : pipeline_change(w->p, &w->plan, nothing_moves, w, &em);
		if (r < 0)
			fail_msg("%s", em.text);
		for (unsigned ms = 0; w->operations == before; ms++) { /* and goes on */
			assert_true(ms < 10000);
			usleep(1000);
		}
	}
	unload(w);
	verify(w);
}

/* --- changes --- */

static void change(struct world *w)
{
	struct errmsg em = {0};

	if (pipeline_change(w->p, &w->plan, NULL, NULL, &em) < 0)
		fail_msg("%s", em.text);
}

static void set(struct world *w, const char *settings)
{
	const int i = stack_plan_find(&w->plan, LINK);
	const enum stack_state state = w->plan.items[i].state;

	plan_remove(&w->plan, LINK);
	plan_add(&w->plan, LINK, w->cases[0].type, settings);
	plan_state(&w->plan, LINK, state);
}

static void convert(struct world *w, enum stack_state state)
{
	bool done = false;

	plan_state(&w->plan, LINK, state);
	change(w);
	while (!done)
		assert_int_equal(pipeline_convert(w->p, LINK, PIECE, &done), 0);
}

static void attach(struct world *w)
{
	plan_add(&w->plan, LINK, w->cases[0].type, w->cases[0].settings);
	if (converts(w)) {
		convert(w, STACK_CONVERTING_IN);
		plan_state(&w->plan, LINK, STACK_ACTIVE);
	}
	change(w);
}

static void detach(struct world *w)
{
	if (converts(w))
		convert(w, STACK_CONVERTING_OUT);
	plan_remove(&w->plan, LINK);
	change(w);
}

static void test_an_aborted_change_changes_nothing(void **state)
{
	struct world *w = *state;
	struct errmsg em = {0};

	add_stages(w);
	open_pipeline(w);
	load(w);
	for (unsigned i = 0; i < 10; i++) {
		if (w->cases[0].other) {
			set(w, w->cases[0].other);
			assert_int_equal(pipeline_change(w->p, &w->plan, refuse, w, &em), -ENOSPC);
			set(w, w->cases[0].settings);
		}
		plan_add(&w->plan, LINK + 50, "pass", NULL); /* another one, beside it */
		assert_int_equal(pipeline_change(w->p, &w->plan, refuse, w, &em), -ENOSPC);
		plan_remove(&w->plan, LINK + 50);
		if (!converts(w)) { /* what transforms cannot just go */
			plan_remove(&w->plan, LINK);
			assert_int_equal(pipeline_change(w->p, &w->plan, refuse, w, &em), -ENOSPC);
			plan_add(&w->plan, LINK, w->cases[0].type, w->cases[0].settings);
		}
	}
	unload(w);
	verify(w);
}

static void test_it_comes_and_goes_and_changes_under_load(void **state)
{
	struct world *w = *state;

	if (!attaches_to_data(w))
		skip();
	open_pipeline(w);
	load(w);
	for (unsigned i = 0; i < 15; i++) {
		attach(w);
		for (unsigned k = 0; k < 3 && w->cases[0].other; k++) {
			set(w, w->cases[0].other);
			change(w);
			set(w, w->cases[0].settings);
			change(w);
		}
		detach(w);
	}
	unload(w);
	verify(w);
	assert_memory_equal(w->bottom.now.data, w->model, w->size); /* nothing is left of it */
}

/* --- crashes while converting --- */

struct instant {
	uint8_t *model;
	uint64_t size;
	struct stack_plan plan;
};

/* All of now is durable, the guest's data and the stack's rows. */
static void durable_now(struct world *w, struct instant *durable)
{
	bottom_sync(&w->bottom);
	memcpy(durable->model, w->model, SIZE);
	durable->size = w->size;
	stack_plan_release(&durable->plan);
	assert_int_equal(stack_plan_copy(&w->plan, &durable->plan), 0);
}

static void crash(struct world *w, const struct instant *durable)
{
	close_pipeline(w);
	bottom_crash(&w->bottom);
	memcpy(w->model, durable->model, SIZE);
	w->size = durable->size;
	stack_plan_release(&w->plan);
	assert_int_equal(stack_plan_copy(&durable->plan, &w->plan), 0);
	open_pipeline(w);
}

/* Of the only stage, if it is attached. */
static bool is_attached(const struct world *w)
{
	return w->plan.n > 0;
}

/*
 * Pieces, writes of the guest, durable instants and crashes, as they come.  False: a crash went back to
 * before the conversion began.
 */
static bool convert_with_crashes(struct world *w, struct instant *durable, unsigned *crashes)
{
	bool done = false;

	for (unsigned step = 0; !done; step++) {
		assert_true(step < 2000);
		if (step < 60 && pick(w, 6) == 0) {
			crash(w, durable);
			verify(w);
			++*crashes;
		}
		const struct stack_item *item = &w->plan.items[0];
		if (!is_attached(w) || item->state == STACK_ACTIVE)
			return false;
		assert_int_equal(pipeline_convert(w->p, item->link, PIECE, &done), 0);
		if (pick(w, 3) == 0)
			some_ops(w, 3);
		if (pick(w, 2) == 0)
			durable_now(w, durable);
	}
	return true;
}

static void begin_conversion(struct world *w, uint64_t new_link)
{
	const bool in = !is_attached(w);

	if (in)
		plan_add(&w->plan, new_link, w->cases[0].type, w->cases[0].settings);
	w->plan.items[0].state = in ? STACK_CONVERTING_IN : STACK_CONVERTING_OUT;
	change(w);
}

static void end_conversion(struct world *w)
{
	struct stack_item *item = &w->plan.items[0];

	if (item->state == STACK_CONVERTING_IN)
		item->state = STACK_ACTIVE;
	else
		plan_remove(&w->plan, item->link);
	change(w);
}

static void test_crashes_in_a_conversion(void **state)
{
	struct world *w = *state;
	struct instant durable = {0};
	unsigned crashes = 0;

	if (!converts(w))
		skip();
	durable.model = calloc(1, SIZE);
	open_pipeline(w);
	write_all(w);
	durable_now(w, &durable);
	for (unsigned round = 0; round < 12; round++) {
		begin_conversion(w, LINK + round); /* ids are not used again */
		if (pick(w, 2))
			durable_now(w, &durable);
		if (convert_with_crashes(w, &durable, &crashes))
			end_conversion(w);
		verify(w);
		if (!is_attached(w))
			assert_memory_equal(w->bottom.now.data, w->model, w->size);
	}
	assert_true(crashes > 3);
	stack_plan_release(&durable.plan);
	free(durable.model);
}

/* --- what is run --- */

#define TEST(name) cmocka_unit_test_prestate_setup_teardown(name, setup, teardown, NULL)

static int run(const char *group, struct subject *subject, struct CMUnitTest *tests, size_t n)
{
	for (size_t i = 0; i < n; i++)
		tests[i].initial_state = subject;
	return _cmocka_run_group_tests(group, tests, n, NULL, NULL);
}

int conformance_run(const struct conformance_case *c)
{
	struct subject subject = {.cases = c, .n = 1};
	struct CMUnitTest tests[] = {
	        TEST(test_reads_give_what_was_written),
	        TEST(test_every_operation_is_done_or_refused),
	        TEST(test_errors_from_below_break_nothing),
	        TEST(test_what_cannot_be_made_durable_is_said),
	        TEST(test_any_allocation_may_fail),
	        TEST(test_it_drains_under_load),
	        TEST(test_an_aborted_change_changes_nothing),
	        TEST(test_it_comes_and_goes_and_changes_under_load),
	        TEST(test_crashes_in_a_conversion),
	};

	return run(c->type, &subject, tests, ARRAY_SIZE(tests));
}

int conformance_run_together(const struct conformance_case *cases, unsigned n)
{
	struct subject subject = {.cases = cases, .n = n};
	struct CMUnitTest tests[] = {
	        TEST(test_reads_give_what_was_written),
	        TEST(test_every_operation_is_done_or_refused),
	        TEST(test_errors_from_below_break_nothing),
	        TEST(test_any_allocation_may_fail),
	        TEST(test_it_drains_under_load),
	};

	return run("all together", &subject, tests, ARRAY_SIZE(tests));
}

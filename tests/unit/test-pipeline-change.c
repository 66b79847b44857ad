/*
 * test-pipeline-change.c - stacks that change while they are used
 *
 * Whatever step of a change fails, everything is as before; whatever is attached and detached, a guest
 * that writes and verifies sees no error and no wrong byte.
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

#define GUESTS 3u
#define REGION 65536u

struct guest {
	struct world *w;
	unsigned n;
	pthread_t thread;
	uint8_t model[REGION];
};

struct world {
	struct stage_runtime *rt;
	struct bottom bottom;
	struct stack_plan plan;
	struct pipeline *p;
	atomic_bool stop;
	_Atomic uint64_t operations;
	bool loaded;
	struct guest guests[GUESTS];
};

static void open_pipeline(struct world *w)
{
	const struct pipeline_below below = bottom_below(&w->bottom);
	struct errmsg em = {0};

	if (pipeline_open(w->rt, &below, &w->plan, &w->p, &em) < 0)
		fail_msg("%s", em.text);
}

static void change(struct world *w)
{
	struct errmsg em = {0};

	if (pipeline_change(w->p, &w->plan, NULL, NULL, &em) < 0)
		fail_msg("%s", em.text);
}

static void *guest_main(void *arg)
{
	struct guest *g = arg;
	struct world *w = g->w;
	unsigned seed = g->n + 7;
	uint8_t back[4000];

	while (!w->stop) {
		const uint64_t off = (uint64_t)rand_r(&seed) % (REGION - sizeof(back));
		const size_t len = 1 + (size_t)rand_r(&seed) % sizeof(back);
		const uint64_t at = g->n * REGION + off;
		for (size_t i = 0; i < len; i++)
			g->model[off + i] = (uint8_t)rand_r(&seed);
		assert_int_equal(guest_write(w->p, at, g->model + off, len), 0);
		assert_int_equal(guest_read(w->p, at, back, len), 0);
		assert_memory_equal(back, g->model + off, len);
		if (rand_r(&seed) % 16 == 0)
			assert_int_equal(guest_op(w->p, REQUEST_EXTENTS, at, 0, 0), 0);
		w->operations++;
	}
	return NULL;
}

static void load(struct world *w)
{
	w->loaded = true;
	for (unsigned i = 0; i < GUESTS; i++) {
		w->guests[i].w = w;
		w->guests[i].n = i;
		assert_int_equal(
		        pthread_create(&w->guests[i].thread, NULL, guest_main, &w->guests[i]), 0);
	}
}

static void unload(struct world *w)
{
	if (!w->loaded)
		return;
	w->loaded = false;
	w->stop = true;
	for (unsigned i = 0; i < GUESTS; i++)
		pthread_join(w->guests[i].thread, NULL);
}

static int setup(void **state)
{
	const struct stage_runtime_config cfg = {.workers = 4};
	struct world *w = calloc(1, sizeof(*w));

	assert_non_null(w);
	bottom_init(&w->bottom);
	w->bottom.now.size = GUESTS * REGION;
	assert_int_equal(stage_runtime_new(&cfg, &w->rt), 0);
	probe_reset();
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	unload(w);
	pipeline_close(w->p);
	stage_runtime_free(w->rt);
	stack_plan_release(&w->plan);
	bottom_release(&w->bottom);
	assert_int_equal(probe.alive, 0);
	free(w);
	return 0;
}

/* --- what happens to the stages --- */

static void test_a_stage_that_stays_keeps_its_instance(void **state)
{
	struct world *w = *state;
	struct stage_account a;

	plan_add(&w->plan, 1, "t-probe", "name=a");
	open_pipeline(w);
	assert_int_equal(guest_op(w->p, REQUEST_FLUSH, 0, 0, 0), 0);
	plan_add(&w->plan, 2, "t-probe", "name=b");
	change(w);
	assert_int_equal(probe.alive, 2);
	assert_int_equal(probe.committed[STAGE_EVENT_OPEN], 2);
	assert_int_equal(probe.committed[STAGE_EVENT_QUIESCE], 1);
	assert_int_equal(probe.committed[STAGE_EVENT_THAW], 1);
	assert_int_equal(guest_op(w->p, REQUEST_FLUSH, 0, 0, 0), 0);
	assert_string_equal(probe.log, "<a>a<a<b>b>a");
	assert_int_equal(pipeline_account(w->p, 1, &a), 0);
	assert_int_equal(a.requests[REQUEST_FLUSH], 2);
	plan_remove(&w->plan, 1);
	change(w);
	assert_int_equal(probe.alive, 1);
	assert_int_equal(probe.committed[STAGE_EVENT_CLOSE], 1);
	assert_int_equal(pipeline_account(w->p, 1, &a), -ENOENT);
}

static void test_changed_settings_are_a_reconfigure(void **state)
{
	struct world *w = *state;
	struct errmsg em = {0};

	plan_add(&w->plan, 1, "t-probe", "name=a");
	open_pipeline(w);
	plan_remove(&w->plan, 1);
	plan_add(&w->plan, 1, "t-probe", "name=z");
	change(w);
	change(w); /* the same once more: nothing */
	assert_int_equal(probe.alive, 1);
	assert_int_equal(probe.prepared[STAGE_EVENT_RECONFIGURE], 1);
	assert_int_equal(probe.committed[STAGE_EVENT_RECONFIGURE], 1);
	assert_int_equal(guest_op(w->p, REQUEST_FLUSH, 0, 0, 0), 0);
	assert_string_equal(probe.log, "<z>z");
	plan_remove(&w->plan, 1);
	plan_add(&w->plan, 1, "t-probe", "name=z stuck=2");
	assert_int_equal(pipeline_change(w->p, &w->plan, NULL, NULL, &em), -EINVAL);
	assert_non_null(strstr(em.text, "'stuck'"));
}

static int cannot_commit(void *arg, struct errmsg *em)
{
	return errmsg_set(em, -ENOSPC, "no room for the rows");
}

/* One settings change, one new, one that leaves; then it fails at every step in turn. */
static void test_a_failed_change_changes_nothing(void **state)
{
	static const enum stage_event_kind refused_at[] = {
	        STAGE_EVENT_RECONFIGURE, STAGE_EVENT_QUIESCE, STAGE_EVENT_CLOSE, STAGE_EVENT_OPEN};
	struct world *w = *state;
	struct stack_plan next;
	struct errmsg em = {0};

	plan_add(&w->plan, 1, "t-probe", "name=a");
	plan_add(&w->plan, 2, "t-probe", "name=b");
	open_pipeline(w);
	assert_int_equal(stack_plan_copy(&w->plan, &next), 0);
	plan_remove(&next, 1);
	plan_remove(&next, 2);
	plan_add(&next, 2, "t-probe", "name=B");
	plan_add(&next, 3, "t-probe", "name=c");
	for (unsigned i = 0; i < ARRAY_SIZE(refused_at) + 2; i++) {
		probe_reset();
		if (i < ARRAY_SIZE(refused_at)) {
			probe.refuse_prepare = -EBUSY;
			probe.refuse_kind = refused_at[i];
		} else if (i == ARRAY_SIZE(refused_at)) {
			probe.refuse_create = -ENOMEM;
		}
		const bool last = i == ARRAY_SIZE(refused_at) + 1;
		assert_int_not_equal(
		        pipeline_change(w->p, &next, last ? cannot_commit : NULL, NULL, &em), 0);
		for (unsigned kind = 0; kind < STAGE_EVENTS; kind++)
			assert_int_equal(
			        probe.prepared[kind], probe.committed[kind] + probe.aborted[kind]);
		assert_int_equal(
		        probe.committed[STAGE_EVENT_QUIESCE], probe.committed[STAGE_EVENT_THAW]);
		assert_int_equal(probe.committed[STAGE_EVENT_RECONFIGURE], 0);
		assert_int_equal(probe.alive, 2);
		probe_reset();
		assert_int_equal(guest_op(w->p, REQUEST_FLUSH, 0, 0, 0), 0);
		assert_string_equal(probe.log, "<a<b>b>a");
	}
	assert_string_equal(em.text, "no room for the rows");
	assert_int_equal(pipeline_change(w->p, &next, NULL, NULL, &em), 0);
	probe_reset();
	assert_int_equal(guest_op(w->p, REQUEST_FLUSH, 0, 0, 0), 0);
	assert_string_equal(probe.log, "<B<c>c>B");
	stack_plan_release(&next);
}

static void test_what_a_leaving_stage_holds_is_written_back(void **state)
{
	struct world *w = *state;
	struct errmsg em = {0};
	uint8_t data[50] = {9, 8, 7};

	plan_add(&w->plan, 1, "t-hold", NULL);
	plan_add(&w->plan, 2, "scramble", NULL);
	open_pipeline(w);
	assert_int_equal(guest_write(w->p, 0, data, sizeof(data)), 0);
	plan_remove(&w->plan, 1);
	bottom_fail(&w->bottom, OP(WRITE), 1, -ENOSPC);
	assert_int_equal(pipeline_change(w->p, &w->plan, NULL, NULL, &em), -ENOSPC);
	assert_int_equal(w->bottom.now.data[0], 0);
	change(w);
	assert_int_not_equal(w->bottom.now.data[0], 0); /* through the stage below */
	uint8_t back[50];
	assert_int_equal(guest_read(w->p, 0, back, sizeof(back)), 0);
	assert_memory_equal(back, data, sizeof(data));
}

/* --- events --- */

static int count(void *arg, struct errmsg *em)
{
	++*(unsigned *)arg;
	return 0;
}

static void test_events_have_two_phases(void **state)
{
	struct world *w = *state;
	struct stage_event event = {.kind = STAGE_EVENT_SNAPSHOT};
	struct errmsg em = {0};
	unsigned between = 0;

	plan_add(&w->plan, 1, "t-probe", NULL);
	plan_add(&w->plan, 2, "t-probe", NULL);
	plan_add(&w->plan, 3, "t-hold", NULL);
	open_pipeline(w);
	uint8_t byte = 3;
	assert_int_equal(guest_write(w->p, 5, &byte, 1), 0);
	assert_int_equal(pipeline_event(w->p, &event, count, &between, &em), 0);
	assert_int_equal(between, 1);
	assert_int_equal(probe.prepared[STAGE_EVENT_SNAPSHOT], 2);
	assert_int_equal(probe.committed[STAGE_EVENT_SNAPSHOT], 2);
	assert_int_equal(w->bottom.now.data[5], 3); /* what was held is in the snapshot */

	probe.refuse_prepare = -EBUSY;
	probe.refuse_kind = STAGE_EVENT_SNAPSHOT;
	assert_int_equal(pipeline_event(w->p, &event, count, &between, &em), -EBUSY);
	assert_int_equal(between, 1);
	probe.refuse_prepare = 0;
	assert_int_equal(pipeline_event(w->p, &event, cannot_commit, NULL, &em), -ENOSPC);
	assert_int_equal(probe.aborted[STAGE_EVENT_SNAPSHOT], 2);

	event = (struct stage_event){.kind = STAGE_EVENT_RESIZE, .size = 4096};
	assert_int_equal(pipeline_event(w->p, &event, NULL, NULL, &em), 0);
	assert_int_equal(probe.committed[STAGE_EVENT_RESIZE], 2);
	event.kind = STAGE_EVENT_OPEN;
	assert_int_equal(pipeline_event(w->p, &event, NULL, NULL, &em), -EINVAL);
	assert_int_equal(guest_op(w->p, REQUEST_FLUSH, 0, 0, 0), 0);
}

/* --- under load --- */

static int drained(void *arg, struct errmsg *em)
{
	struct world *w = arg;
	const uint64_t before = w->bottom.requests[REQUEST_WRITE];

	usleep(2000);
	assert_int_equal(w->bottom.requests[REQUEST_WRITE], before);
	return 0;
}

static void test_nobody_is_in_while_a_change_is_committed(void **state)
{
	struct world *w = *state;
	struct errmsg em = {0};

	plan_add(&w->plan, 1, "t-keep", "for=100us");
	open_pipeline(w);
	load(w);
	for (unsigned i = 0; i < 50; i++) {
		assert_int_equal(pipeline_change(w->p, &w->plan, drained, w, &em), 0);
		usleep(500);
	}
}

/* A guest waits for this one until the change goes on: it must be let go by QUIESCE. */
static void test_what_is_kept_forever_is_let_go_for_a_change(void **state)
{
	struct world *w = *state;

	plan_add(&w->plan, 1, "t-keep", "by=forever");
	open_pipeline(w);
	load(w);
	usleep(20000);
	assert_int_equal(w->operations, 0);
	plan_remove(&w->plan, 1);
	change(w);
	for (unsigned i = 0; i < 5000 && w->operations == 0; i++)
		usleep(1000);
	assert_int_not_equal(w->operations, 0);
}

static void test_draining_lets_own_requests_through(void **state)
{
	struct world *w = *state;

	plan_add(&w->plan, 1, "t-keep", "for=100us");
	plan_add(&w->plan, 2, "t-owner", "busy=on"); /* every guest's read depends on an own one */
	plan_add(&w->plan, 3, "t-owner", "busy=on"); /* and that on another */
	plan_add(&w->plan, 4, "scramble", NULL);
	open_pipeline(w);
	load(w);
	for (unsigned i = 0; i < 40; i++) {
		plan_add(&w->plan, 100 + i, "t-owner", "busy=on");
		change(w);
		usleep(1000);
		plan_remove(&w->plan, 100 + i);
		change(w);
	}
	assert_true(w->operations > 0);
}

static void test_stages_come_go_and_change_under_load(void **state)
{
	static const struct {
		const char *type, *settings[2];
	} kinds[] = {
	        {"pass", {NULL, NULL}},
	        {"t-keep", {"for=50us", "by=work"}},
	        {"t-probe", {"name=a", "name=b"}},
	        {"t-owner", {"busy=off", "busy=on"}},
	};
	struct world *w = *state;
	unsigned seed = 3;

	open_pipeline(w);
	load(w);
	for (unsigned i = 0; i < 300; i++) {
		const unsigned kind = (unsigned)rand_r(&seed) % ARRAY_SIZE(kinds);
		const char *settings = kinds[kind].settings[rand_r(&seed) % 2];
		const uint64_t link = 1 + kind + ARRAY_SIZE(kinds) * (rand_r(&seed) % 3u);
		const bool there = stack_plan_find(&w->plan, link) >= 0;
		if (there)
			plan_remove(&w->plan, link);
		if (!there || rand_r(&seed) % 2) /* new, or with other settings */
			plan_add(&w->plan, link, kinds[kind].type, settings);
		change(w);
	}
	unload(w);
	for (unsigned i = 0; i < GUESTS; i++) {
		uint8_t back[REGION];
		assert_int_equal(guest_read(w->p, i * REGION, back, REGION), 0);
		assert_memory_equal(back, w->guests[i].model, REGION);
	}
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
	        TEST(test_a_stage_that_stays_keeps_its_instance),
	        TEST(test_changed_settings_are_a_reconfigure),
	        TEST(test_a_failed_change_changes_nothing),
	        TEST(test_what_a_leaving_stage_holds_is_written_back),
	        TEST(test_events_have_two_phases),
	        TEST(test_nobody_is_in_while_a_change_is_committed),
	        TEST(test_what_is_kept_forever_is_let_go_for_a_change),
	        TEST(test_draining_lets_own_requests_through),
	        TEST(test_stages_come_go_and_change_under_load),
	};

	return cmocka_run_group_tests(tests, add_types, NULL);
}

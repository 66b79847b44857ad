/*
 * test-stage-throttle.c - the filter "throttle": rates on a simulated clock, bursts, fairness, order
 */
#include "stage-sim.h"

#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "stage/builtin/builtin.h"

#define KIB  1024ull
#define MIB  (1024 * KIB)
#define SIZE (4 * MIB)

static uint8_t buffer[MIB];

/* A guest that keeps `depth` requests of one kind under way. */
struct guest {
	struct stage_link l;
	struct sim_request reqs[32];
	enum request_op op;
	uint64_t len, until_ns;
	uint64_t done, bytes;
};

static void guest_send(struct guest *g, struct sim_request *r)
{
	r->req = (struct request){.op = g->op, .off = 0, .len = g->len, .data = buffer};
	sim_start(&g->l, r);
}

/* A step at a time, never nested. */
static void guest_done(struct sim_request *r)
{
	struct guest *g = r->arg;

	readv_release(&r->req.out);
	g->done++;
	g->bytes += g->len;
	r->done = true;
}

static void guest_begin(struct guest *g, enum request_op op, uint64_t len, unsigned depth)
{
	g->op = op;
	g->len = len;
	g->done = g->bytes = 0;
	for (unsigned i = 0; i < depth; i++) {
		g->reqs[i].on_done = guest_done;
		g->reqs[i].arg = g;
		guest_send(g, &g->reqs[i]);
	}
}

/* Sends again what is done, as a guest does at once; false: nothing was. */
static bool guest_again(struct guest *g)
{
	bool any = false;

	for (unsigned i = 0; i < ARRAY_SIZE(g->reqs); i++)
		if (g->reqs[i].done) {
			any = true;
			guest_send(g, &g->reqs[i]);
		}
	return any;
}

static void guests_run(struct guest *const *g, unsigned n, uint64_t ns)
{
	struct stage_link *links[4];
	const uint64_t until_ns = sim_now_ns + ns;

	for (unsigned i = 0; i < n; i++)
		links[i] = &g[i]->l;
	while (sim_now_ns < until_ns) {
		bool any = false;
		for (unsigned i = 0; i < n; i++)
			any = guest_again(g[i]) || any;
		if (!any)
			sim_step(links, n, until_ns);
	}
}

static void guest_end(struct guest *g)
{
	assert_int_equal(sim_event(&g->l, STAGE_EVENT_QUIESCE, 0), 0);
	sim_drain(&g->l);
	sim_close(&g->l);
}

static void assert_near(double got, double want, double part)
{
	if (got < want * (1 - part) || got > want * (1 + part))
		fail_msg("%.1f is not within %.0f %% of %.1f", got, part * 100, want);
}

/* --- rates --- */

static void rate_is(const char *setting, enum request_op op, uint64_t len, unsigned depth,
        uint64_t want_ops, uint64_t seconds)
{
	const char *const settings[] = {setting, NULL};
	static struct guest g;

	g = (struct guest){0};
	sim_open(&g.l, &stage_throttle, SIZE, settings);
	guest_begin(&g, op, len, depth);
	struct guest *all[] = {&g};
	guests_run(all, 1, seconds * NS_PER_SEC);
	assert_near((double)g.done, (double)(want_ops * seconds), 0.05);
	assert_true(sim_number(&g.l, "kept") > 0);
	assert_true(sim_number(&g.l, "waited_ns") > 0);
	guest_end(&g);
}

static void rates_are_kept_within_five_percent(void **state)
{
	rate_is("iops=1000", REQUEST_READ, 4096, 8, 1000, 10);
	rate_is("iops=1000", REQUEST_WRITE, 4096, 1, 1000, 10);
	rate_is("iops=7", REQUEST_READ, 4096, 4, 7, 60);
	rate_is("iops_read=500", REQUEST_READ, 4096, 8, 500, 10);
	rate_is("iops_write=500", REQUEST_WRITE, 4096, 8, 500, 10);
	rate_is("iops_write=500", REQUEST_DISCARD, 4096, 8, 500, 10);
	rate_is("bps=10M", REQUEST_READ, 64 * KIB, 8, 160, 10);
	rate_is("bps_read=10M", REQUEST_READ, MIB, 2, 10, 30);
	rate_is("bps_write=1M", REQUEST_WRITE, MIB, 32, 1, 100);
	rate_is("bps_write=4M", REQUEST_WRITE, 4096, 32, 1024, 10);
}

static void each_direction_has_its_own_limit(void **state)
{
	static const char *const settings[] = {"iops_write=10", NULL};
	struct stage_link l = {0};
	const uint64_t start_ns = sim_now_ns;

	sim_open(&l, &stage_throttle, SIZE, settings);
	for (unsigned i = 0; i < 1000; i++)
		assert_int_equal(sim_read(&l, 0, buffer, 4096), 4096);
	assert_int_equal(sim_now_ns, start_ns);
	for (unsigned i = 0; i < 50; i++)
		assert_int_equal(sim_write(&l, 0, buffer, 4096), 0);
	assert_true(sim_now_ns - start_ns > 4 * NS_PER_SEC);
	sim_close(&l);
}

static void large_requests_may_count_as_several(void **state)
{
	static const char *const settings[] = {"iops=100", "io_size=4K", NULL};
	static struct guest g;

	sim_open(&g.l, &stage_throttle, SIZE, settings);
	guest_begin(&g, REQUEST_READ, 40 * KIB, 4);
	struct guest *all[] = {&g};
	guests_run(all, 1, 30 * NS_PER_SEC);
	assert_near((double)g.done, 300, 0.05);
	guest_end(&g);
}

static void a_burst_lasts_as_long_as_it_may(void **state)
{
	static const char *const settings[] = {
	        "iops=100", "iops_burst=1000", "burst_length=5s", NULL};
	static struct guest g;
	struct guest *all[] = {&g};

	sim_open(&g.l, &stage_throttle, SIZE, settings);
	guest_begin(&g, REQUEST_READ, 4096, 8);
	guests_run(all, 1, 4 * NS_PER_SEC);
	assert_near((double)g.done, 4000, 0.05);
	/* 5000 in the bucket at a net 900 a second: full after 5.6 s; then 100 a second. */
	guests_run(all, 1, 6 * NS_PER_SEC);
	assert_near((double)g.done, 5000 + 10 * 100, 0.05);
	g.done = 0;
	guests_run(all, 1, 10 * NS_PER_SEC);
	assert_near((double)g.done, 1000, 0.05);
	guest_end(&g);
}

/* --- groups --- */

static const char *const shared[] = {"bps=10M", "group=shared", NULL};

static void images_of_a_group_share_by_bytes_not_by_requests(void **state)
{
	static struct guest a, b;
	struct guest *all[] = {&a, &b};

	sim_open(&a.l, &stage_throttle, SIZE, shared);
	sim_open(&b.l, &stage_throttle, SIZE, shared);
	guest_begin(&a, REQUEST_READ, MIB, 32);
	guest_begin(&b, REQUEST_READ, 4096, 4);
	guests_run(all, 2, 20 * NS_PER_SEC);
	assert_near((double)(a.bytes + b.bytes), 200. * MIB, 0.05);
	assert_near((double)a.bytes, 100. * MIB, 0.1);
	assert_near((double)b.bytes, 100. * MIB, 0.1);
	assert_int_equal(sim_number(&a.l, "group_images"), 2);
	guest_end(&a);
	a = (struct guest){0};
	/* Alone it may have all of it, once what the quiesce let go is paid for. */
	guests_run(&all[1], 1, 4 * NS_PER_SEC);
	b.bytes = 0;
	guests_run(&all[1], 1, 10 * NS_PER_SEC);
	assert_near((double)b.bytes, 100. * MIB, 0.05);
	guest_end(&b);
}

static void reads_and_writes_of_an_image_share_the_total(void **state)
{
	static const char *const settings[] = {"iops=1000", "group=mix", NULL};
	static struct guest r, w;
	struct guest *all[] = {&r, &w};

	sim_open(&r.l, &stage_throttle, SIZE, settings);
	sim_open(&w.l, &stage_throttle, SIZE, settings);
	guest_begin(&r, REQUEST_READ, 4096, 32);
	guest_begin(&w, REQUEST_WRITE, 4096, 2);
	guests_run(all, 2, 10 * NS_PER_SEC);
	assert_near((double)r.done, 5000, 0.05);
	assert_near((double)w.done, 5000, 0.05);
	guest_end(&r);
	guest_end(&w);
}

static void the_strictest_member_limits_the_group(void **state)
{
	static const char *const loose[] = {"iops=1000", "group=g", NULL};
	static const char *const strict[] = {"iops=50", "group=g", NULL};
	struct stage_link a = {0}, b = {0};

	sim_open(&a, &stage_throttle, SIZE, loose);
	assert_int_equal(sim_number(&a, "iops_effective"), 1000);
	sim_open(&b, &stage_throttle, SIZE, strict);
	assert_int_equal(sim_number(&a, "iops_effective"), 50);
	sim_close(&b);
	assert_int_equal(sim_number(&a, "iops_effective"), 1000);
	sim_close(&a);
}

/* --- order, flushes, events --- */

#define KEPT 8u

/* Eight writes of which all but the first few wait. */
static void keep_some(struct stage_link *l, struct sim_request *reqs)
{
	for (unsigned i = 0; i < KEPT; i++) {
		reqs[i].req =
		        (struct request){.op = REQUEST_WRITE, .off = 0, .len = MIB, .data = buffer};
		sim_start(l, &reqs[i]);
	}
	assert_false(reqs[KEPT - 1].done);
}

static void a_flush_passes_writes_that_wait(void **state)
{
	static const char *const settings[] = {"bps=1M", NULL};
	static struct sim_request reqs[KEPT];
	struct stage_link l = {0};
	struct sim_request flush = {.req.op = REQUEST_FLUSH};

	sim_open(&l, &stage_throttle, SIZE, settings);
	keep_some(&l, reqs);
	sim_start(&l, &flush);
	assert_true(flush.done);
	assert_false(reqs[KEPT - 1].done);
	while (!reqs[KEPT - 1].done)
		assert_true(sim_step((struct stage_link *[]){&l}, 1, UINT64_MAX));
	for (unsigned i = 1; i < KEPT; i++)
		assert_true(reqs[i - 1].done_ns <= reqs[i].done_ns);
	sim_close(&l);
}

static void the_systems_own_requests_pass_uncharged(void **state)
{
	static const char *const settings[] = {"iops=1", NULL};
	struct stage_link l = {0};
	const uint64_t start_ns = sim_now_ns;

	sim_open(&l, &stage_throttle, SIZE, settings);
	for (unsigned i = 0; i < 100; i++) {
		struct request req = {.op = REQUEST_READ, .len = 4096, .flags = REQUEST_COUNTLESS};
		assert_int_equal(sim_call(&l, &req), 0);
		readv_release(&req.out);
	}
	assert_int_equal(sim_now_ns, start_ns);
	assert_int_equal(sim_number(&l, "passed"), 0);
	sim_close(&l);
}

static void quiesce_lets_all_go_and_the_debt_stays(void **state)
{
	static const char *const settings[] = {"bps=1M", NULL};
	static struct sim_request reqs[KEPT];
	struct stage_link l = {0};

	sim_open(&l, &stage_throttle, SIZE, settings);
	keep_some(&l, reqs);
	const uint64_t start_ns = sim_now_ns;
	assert_int_equal(sim_event(&l, STAGE_EVENT_QUIESCE, 0), 0);
	sim_drain(&l);
	for (unsigned i = 0; i < KEPT; i++)
		assert_true(reqs[i].done);
	assert_int_equal(sim_write(&l, 0, buffer, MIB), 0); /* while quiesced: at once */
	assert_int_equal(sim_now_ns, start_ns);
	assert_int_equal(sim_event(&l, STAGE_EVENT_THAW, 0), 0);
	assert_int_equal(sim_write(&l, 0, buffer, 4096), 0);
	assert_true(sim_now_ns - start_ns > 8 * NS_PER_SEC);
	sim_close(&l);
}

static void limits_change_on_the_fly(void **state)
{
	static const char *const settings[] = {"iops=100", NULL};
	static const char *const more[] = {"iops=2000", "group=other", NULL};
	static const char *const none[] = {"iops=0", NULL};
	static struct guest g;
	struct guest *all[] = {&g};
	struct errmsg em = {0};

	sim_open(&g.l, &stage_throttle, SIZE, settings);
	guest_begin(&g, REQUEST_READ, 4096, 8);
	guests_run(all, 1, 10 * NS_PER_SEC);
	assert_near((double)g.done, 1000, 0.05);
	assert_int_equal(sim_event(&g.l, STAGE_EVENT_QUIESCE, 0), 0);
	sim_drain(&g.l);
	assert_int_equal(sim_set(&g.l, more, &em), 0);
	assert_int_equal(sim_event(&g.l, STAGE_EVENT_THAW, 0), 0);
	g.done = 0;
	guests_run(all, 1, 10 * NS_PER_SEC);
	assert_near((double)g.done, 20000, 0.05);
	assert_int_equal(sim_event(&g.l, STAGE_EVENT_QUIESCE, 0), 0);
	sim_drain(&g.l);
	assert_int_equal(sim_set(&g.l, none, &em), 0);
	assert_int_equal(sim_event(&g.l, STAGE_EVENT_THAW, 0), 0);
	for (unsigned i = 0; i < 10000; i++)
		assert_int_equal(sim_op(&g.l, REQUEST_WRITE, 0, 0), 0);
	sim_close(&g.l);
}

static void settings_that_do_not_fit_are_refused(void **state)
{
	struct errmsg em = {0};

	assert_int_equal(sim_check(&stage_throttle,
	                         (const char *const[]){"iops=100", "iops_burst=50", NULL}, &em),
	        -EINVAL);
	assert_non_null(strstr(em.text, "iops_burst"));
	assert_int_equal(
	        sim_check(&stage_throttle, (const char *const[]){"bps_burst=50M", NULL}, &em),
	        -EINVAL);
	char name[100] = "group=";
	memset(name + 6, 'x', 80);
	assert_int_equal(
	        sim_check(&stage_throttle, (const char *const[]){name, NULL}, &em), -EINVAL);
}

static void without_memory_it_is_not_made(void **state)
{
	struct stage_link l = {0};
	struct errmsg em = {0};

	sim_allocs = 0;
	assert_int_equal(sim_try(&l, &stage_throttle, SIZE, shared, &em), -ENOMEM);
	sim_allocs = -1;
}

/* --- threads --- */

struct crowd {
	struct stage_link l[2];
	_Atomic unsigned running;
};

static struct crowd crowd;

static void *crowd_thread(void *arg)
{
	struct stage_link *l = arg;

	for (unsigned i = 0; i < 300; i++) {
		struct sim_request r = {.req = {.op = i % 2 ? REQUEST_READ : REQUEST_WRITE,
		                                .len = 4096,
		                                .data = buffer}};
		sim_start(l, &r);
		while (!r.done)
			sim_step((struct stage_link *[]){&crowd.l[0], &crowd.l[1]}, 2,
			        sim_now_ns + 1000);
		readv_release(&r.req.out);
	}
	crowd.running--;
	return NULL;
}

static void nobody_is_forgotten_among_threads(void **state)
{
	static const char *const settings[] = {"iops=2000", "group=crowd", NULL};
	pthread_t threads[4];
	const uint64_t start_ns = sim_now_ns;

	for (unsigned i = 0; i < 2; i++)
		sim_open(&crowd.l[i], &stage_throttle, SIZE, settings);
	crowd.running = 4;
	for (unsigned i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, crowd_thread, &crowd.l[i % 2]);
	for (unsigned i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	assert_true(sim_now_ns - start_ns > 450 * NS_PER_MS); /* 1200 less the brim of 200 */
	for (unsigned i = 0; i < 2; i++)
		sim_close(&crowd.l[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(rates_are_kept_within_five_percent),
	        cmocka_unit_test(each_direction_has_its_own_limit),
	        cmocka_unit_test(large_requests_may_count_as_several),
	        cmocka_unit_test(a_burst_lasts_as_long_as_it_may),
	        cmocka_unit_test(images_of_a_group_share_by_bytes_not_by_requests),
	        cmocka_unit_test(reads_and_writes_of_an_image_share_the_total),
	        cmocka_unit_test(the_strictest_member_limits_the_group),
	        cmocka_unit_test(a_flush_passes_writes_that_wait),
	        cmocka_unit_test(the_systems_own_requests_pass_uncharged),
	        cmocka_unit_test(quiesce_lets_all_go_and_the_debt_stays),
	        cmocka_unit_test(limits_change_on_the_fly),
	        cmocka_unit_test(settings_that_do_not_fit_are_refused),
	        cmocka_unit_test(without_memory_it_is_not_made),
	        cmocka_unit_test(nobody_is_forgotten_among_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

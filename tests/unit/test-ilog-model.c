/*
 * test-ilog-model.c - what was committed to the intent log comes back, in order, whatever happens
 *
 * Commits, trims, resets, faults and crashes at random, against a model of what must be there.
 * The environment variable SEED repeats one run.
 */
#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "ilog-fixture.h"
#include "sim/rng.h"

struct model {
	struct iosim *sim;
	struct ilog *log;
	struct rng rng;
	/* what the metadata store would hold */
	uint64_t epoch, tail_off, tail_seq, tail_id;
	/* of the running process */
	uint64_t acked_id;   /* first id that is not durable for sure */
	uint64_t written_id; /* first id that was never handed to a commit */
	struct mark {
		uint64_t off, seq, id;
	} marks[64]; /* heads that the tail may move to */
	unsigned n_marks;
};

static void model_mark(struct model *m)
{
	struct mark k = {.id = m->acked_id};

	ilog_head(m->log, &k.off, &k.seq);
	m->marks[m->n_marks < ARRAY_SIZE(m->marks) ? m->n_marks++ : m->n_marks - 1] = k;
}

/* The metadata store commits a tail; then the log hears of it, unless the process dies first. */
static void model_trim(struct model *m)
{
	if (m->n_marks == 0)
		return;
	const unsigned i = (unsigned)rng_below(&m->rng, m->n_marks);
	const struct mark k = m->marks[i];
	m->n_marks -= i + 1;
	memmove(m->marks, m->marks + i + 1, m->n_marks * sizeof(k));
	m->tail_off = k.off;
	m->tail_seq = k.seq;
	m->tail_id = k.id;
	ilog_trim(m->log, k.off);
}

static void model_commit(struct model *m)
{
	uint64_t id = m->acked_id;
	const uint64_t want = 1 + rng_below(&m->rng, 12);

	ilog_batch_begin(m->log);
	while (id < m->acked_id + want) {
		const struct ilog_record rec = record_of(id);
		if (ilog_batch_add(m->log, &rec) < 0)
			break;
		id++;
	}
	if (id == m->acked_id) { /* full: the store would commit a group */
		m->n_marks = 0;
		model_mark(m);
		model_trim(m);
		return;
	}
	m->written_id = id;
	if (ilog_commit(m->log) == 0)
		m->acked_id = id;
	else
		assert_true(ilog_poisoned(m->log));
	if (rng_chance(&m->rng, 300) && !ilog_poisoned(m->log))
		model_mark(m);
}

static void model_reopen(struct model *m)
{
	struct expect e = {.next = m->tail_id, .committed = m->tail_id};
	uint64_t off = 0, seq = 0;
	struct errmsg em = {0};

	ilog_close(m->log);
	iosim_faults_clear(m->sim);
	const enum iosim_crash_mode mode = (enum iosim_crash_mode)rng_below(&m->rng, 3);
	iosim_crash(m->sim, mode, rng_next(&m->rng));
	m->log = log_open(m->sim);
	if (ilog_replay(m->log, m->epoch, m->tail_off, m->tail_seq, expect_record, &e, &off, &seq,
	            &em) != 0)
		fail_msg("%s", em.text);
	/* a batch under way is there as a whole or not at all */
	assert_true(e.next == m->acked_id || e.next == m->written_id);
	m->n_marks = 0;
	/*
	 * Before the metadata store has committed what was recovered, another crash may lose the
	 * batch that was under way: after a kill -9 it may have been in the page cache only.
	 */
	if (rng_chance(&m->rng, 300)) {
		model_reopen(m);
		return;
	}
	m->acked_id = m->written_id = e.next;
	/* the commit after recovery: a new epoch, everything replayed is committed */
	m->epoch++;
	m->tail_off = off;
	m->tail_seq = seq;
	m->tail_id = e.next;
	ilog_start(m->log, m->epoch, off, off, seq);
}

/* Everything goes into a group instead, then the log is replaced. */
static void model_reset(struct model *m)
{
	ilog_head(m->log, &m->tail_off, &m->tail_seq);
	m->tail_id = m->acked_id = m->written_id;
	m->n_marks = 0;
	const uint64_t fired = iosim_faults_fired(m->sim);
	const int r = ilog_reset(m->log, m->epoch + 1);
	/* A fault may have been left by a round that wrote nothing. */
	const bool failed = iosim_is_off(m->sim) || iosim_faults_fired(m->sim) > fired;
	assert_int_equal(r, failed ? -EIO : 0);
	if (r < 0 || rng_chance(&m->rng, 300)) {
		model_reopen(m); /* before the metadata store has the new epoch */
		return;
	}
	m->epoch++;
	ilog_head(m->log, &m->tail_off, &m->tail_seq);
}

static void model_run(uint64_t seed, unsigned rounds)
{
	CLEANUP(iosim_freep) struct iosim *sim = sim_with_log(seed);
	struct model m = {.sim = sim, .rng = rng_fork(seed, 9), .epoch = 1, .tail_seq = 1};
	uint64_t laps = 0;

	m.tail_id = m.acked_id = m.written_id = 1;
	m.log = log_started(sim);
	for (unsigned i = 0; i < rounds; i++) {
		const uint64_t off = head_off(m.log);
		if (rng_chance(&m.rng, 20))
			iosim_crash_at(sim, iosim_steps(sim) + 1 + rng_below(&m.rng, 8));
		if (rng_chance(&m.rng, 10))
			iosim_fault(sim, &(struct iosim_fault){"log", .count = 1, .err = -EIO});
		model_commit(&m);
		if (rng_chance(&m.rng, 150) && !ilog_poisoned(m.log))
			model_trim(&m);
		laps += head_off(m.log) < off;
		if (iosim_is_off(sim) || rng_chance(&m.rng, 10))
			model_reopen(&m);
		else if (ilog_poisoned(m.log) && rng_chance(&m.rng, 700))
			model_reset(&m);
		else if (ilog_poisoned(m.log))
			model_reopen(&m);
	}
	model_reopen(&m);
	assert_true(laps > 2);
	ilog_close(m.log);
}

/* The thread sanitizer makes them ten times slower, and has nothing to find there. */
#ifdef __SANITIZE_THREAD__
#define MODEL_RUNS 1
#else
#define MODEL_RUNS 4
#endif

static void test_random_workloads_with_crashes_match_the_model(void **state)
{
	const char *env = getenv("SEED");
	const uint64_t seed = env ? strtoull(env, NULL, 0) : (uint64_t)getpid() << 8;

	for (uint64_t i = 0; i < (env ? 1 : MODEL_RUNS); i++) {
		print_message("SEED=%" PRIu64 "\n", seed + i);
		model_run(seed + i, 250);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_random_workloads_with_crashes_match_the_model),
	};

	return cmocka_run_group_tests(tests, template_create, template_free);
}

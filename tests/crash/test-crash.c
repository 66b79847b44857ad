/*
 * test-crash.c - the engine and its metadata store on a disk that fails
 *
 * test-crash MODE [SEED [RUNS]], each mode repeatable from its seed, which is printed on failure:
 *	model   random operations, with clean reopens, against the oracle
 *	power   the power goes at a random step of a workload; then again during recovery
 *	sweep   the power goes at every step of one short workload, one after the other
 *	kill    the process is killed: the page cache survives
 *	faults  reads, writes and syncs fail at random, then no more
 *	full    the disk is full at times
 * After each crash a mount must need no help, and every image must be a prefix of its acknowledged
 * changes that contains all flushed ones.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "crash/model.h"
#include "meta/meta.h"
#include "sim/iosim.h"

#define LOG_BYTES (16u << 20)

struct bed {
	struct iosim *sim;
	struct meta *meta;
	struct store *store;
	struct model *model;
	struct rng rng;
	uint64_t seed;
	bool threads;
};

static void fail(const char *what, int r, const struct errmsg *em)
{
	fprintf(stderr, "%s: %s: %s %s\n", model_context, what, strerror(-r), em ? em->text : "");
	abort();
}

static void must(const char *what, int r, const struct errmsg *em)
{
	if (r < 0)
		fail(what, r, em);
}

static void bed_make(struct bed *b, uint64_t seed)
{
	const struct meta_create_params params = {.index_bytes = 4u << 20, .log_bytes = LOG_BYTES};
	struct errmsg em = {{0}};
	struct meta_info info;

	*b = (struct bed){.seed = seed, .rng = rng_fork(seed, 1)};
	iosim_create(seed, &b->sim);
	must("meta_create", meta_create(iosim_io(b->sim), &params, &em), &em);
	must("meta_open", meta_open(iosim_io(b->sim), false, &b->meta, &em), &em);
	must("meta_info_get", meta_info_get(b->meta, &info), NULL);
	meta_close(b->meta);
	b->meta = NULL;
	must("store_create", store_create(iosim_io(b->sim), LOG_BYTES, info.uuid, &em), &em);
	iosim_sync_all(b->sim);
	model_create(seed, &b->model);
}

static int bed_open(struct bed *b, struct errmsg *em)
{
	int r = meta_open(iosim_io(b->sim), false, &b->meta, em);

	if (r < 0)
		return r;
	const struct store_config cfg = {
		.io = iosim_io(b->sim),
		.meta = b->meta,
		.overlay_bytes = 16u << 20,
		.cache_bytes = rng_below(&b->rng, 3) * (2u << 20),
		.index_bytes = 1u << 20,
		.map_bytes = 64u << 10,
		.threads = b->threads ? 3 : 1,
		.txg_ns = 20000000,
		.reserve_bytes = 1u << 20,
		.manual = !b->threads,
	};
	r = store_open(&cfg, &b->store, em);
	if (r == 0)
		r = model_attach(b->model, b->store);
	return r;
}

/* What is left of the process goes. */
static void bed_kill(struct bed *b)
{
	model_detach(b->model);
	store_abandon(b->store);
	meta_close(b->meta);
	b->store = NULL;
	b->meta = NULL;
}

static void bed_close(struct bed *b)
{
	model_detach(b->model);
	const int r = store_close(b->store);
	meta_close(b->meta);
	b->store = NULL;
	b->meta = NULL;
	must("store_close", r, NULL);
}

static void bed_free(struct bed *b)
{
	model_free(b->model);
	iosim_free(b->sim);
}

static void bed_open_whole(struct bed *b)
{
	struct errmsg em = {{0}};

	must("open", bed_open(b, &em), &em);
}

/* Steps until something fails; the error, or 0. */
static int bed_work(struct bed *b, unsigned n)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < n; i++)
		r = model_step(b->model);
	return r;
}

/* The store works on, after whatever happened before, and keeps what it holds. */
static void bed_work_whole(struct bed *b, unsigned n)
{
	must(model_last_op(b->model), bed_work(b, n), NULL);
	model_verify(b->model);
}

static void mode_model(struct bed *b)
{
	for (unsigned round = 0; round < 3; round++) {
		b->threads = rng_below(&b->rng, 2);
		bed_open_whole(b);
		if (round > 0)
			model_verify(b->model);
		bed_work_whole(b, 150);
		must("sync", model_sync(b->model), NULL);
		bed_close(b);
	}
}

/* Crashes at a step from now, somewhere in a workload, in recovery, or in closing. */
static void crash_once(struct bed *b, uint64_t in_steps, enum iosim_crash_mode how)
{
	struct errmsg em = {{0}};

	iosim_crash_at(b->sim, iosim_steps(b->sim) + 1 + in_steps);
	int r = b->store ? 0 : bed_open(b, &em);
	if (r == 0)
		r = model_recovered(b->model);
	if (r == 0)
		r = bed_work(b, 200);
	if (r == 0)
		iosim_power_off(b->sim);
	else if (!iosim_is_off(b->sim))
		fail(model_last_op(b->model), r, &em);
	bed_kill(b);
	iosim_crash(b->sim, how, rng_next(&b->rng));
}

static void crash_cycles(struct bed *b, enum iosim_crash_mode how)
{
	for (unsigned round = 0; round < 4; round++) {
		b->threads = rng_below(&b->rng, 3) == 0;
		crash_once(b, rng_below(&b->rng, rng_below(&b->rng, 2) ? 400 : 40), how);
	}
	bed_open_whole(b);
	must("read after recovery", model_recovered(b->model), NULL);
	bed_work_whole(b, 60);
	must("sync", model_sync(b->model), NULL);
	bed_close(b);
	bed_open_whole(b);
	model_verify(b->model);
	bed_close(b);
}

static void mode_power(struct bed *b)
{
	crash_cycles(b, rng_below(&b->rng, 4) ? IOSIM_RANDOM : IOSIM_LOSE);
}

static void mode_kill(struct bed *b)
{
	crash_cycles(b, IOSIM_KEEP);
}

/* The store must say what failed and go on when nothing fails any more. */
static void faulty_work(struct bed *b)
{
	for (unsigned i = 0; i < 150; i++) {
		const int r = model_step(b->model);
		if (r < 0 && r != -EIO && r != -ENOSPC)
			fail(model_last_op(b->model), r, NULL);
	}
}

static void reopen_after_faults(struct bed *b)
{
	bed_kill(b);
	iosim_crash(b->sim, rng_below(&b->rng, 2) ? IOSIM_KEEP : IOSIM_RANDOM, rng_next(&b->rng));
	bed_open_whole(b);
	must("read after recovery", model_recovered(b->model), NULL);
	bed_work_whole(b, 40);
	must("sync", model_sync(b->model), NULL);
	bed_close(b);
}

static void mode_faults(struct bed *b)
{
	static const char *const prefixes[] = {NULL, "segments/", "log", "meta.db"};
	const struct iosim_fault fault = {
		.prefix = prefixes[rng_below(&b->rng, ARRAY_SIZE(prefixes))],
		.ops = rng_below(&b->rng, 3) ? 0 : IOSIM_SYNC,
		.permille = 1 + (unsigned)rng_below(&b->rng, 60),
		.count = 1 + rng_below(&b->rng, 12),
		.err = rng_below(&b->rng, 4) ? -EIO : -ENOSPC,
	};

	b->threads = rng_below(&b->rng, 3) == 0;
	bed_open_whole(b);
	must(model_last_op(b->model), bed_work(b, 30), NULL);
	iosim_fault(b->sim, &fault);
	faulty_work(b);
	iosim_faults_clear(b->sim);
	reopen_after_faults(b);
}

static void mode_full(struct bed *b)
{
	bed_open_whole(b);
	iosim_set_capacity(b->sim, iosim_used(b->sim) + (1u << 20) + rng_below(&b->rng, 24u << 20));
	faulty_work(b);
	iosim_set_capacity(b->sim, 0);
	model_verify(b->model);
	/* With room again, everything acknowledged can be committed. */
	must("sync with room again", model_sync(b->model), NULL);
	model_verify(b->model);
	reopen_after_faults(b);
}

/* Every step of one workload, from the same start. */
static void mode_sweep(struct bed *b)
{
	struct bed start = *b;
	uint64_t step = 0;

	for (bool more = true; more; step++) {
		struct bed t = {.seed = start.seed, .rng = start.rng};
		struct errmsg em = {{0}};
		iosim_clone(start.sim, &t.sim);
		model_create(start.seed, &t.model);
		iosim_crash_at(t.sim, iosim_steps(t.sim) + 1 + step);
		int r = bed_open(&t, &em);
		if (r == 0)
			r = bed_work(&t, 40);
		more = iosim_is_off(t.sim);
		if (r < 0 && !more)
			fail(model_last_op(t.model), r, &em);
		bed_kill(&t);
		iosim_crash(t.sim, IOSIM_RANDOM, start.seed + step);
		bed_open_whole(&t);
		must("read after recovery", model_recovered(t.model), NULL);
		bed_work_whole(&t, 10);
		bed_kill(&t);
		bed_free(&t);
	}
	printf("%llu steps\n", (unsigned long long)step);
}

static const struct {
	const char *name;
	void (*run)(struct bed *b);
	unsigned runs;
} modes[] = {
	{"model", mode_model, 12},
	{"power", mode_power, 30},
	{"kill", mode_kill, 15},
	{"faults", mode_faults, 40},
	{"full", mode_full, 12},
	{"sweep", mode_sweep, 1},
};

int main(int argc, char **argv)
{
	for (size_t i = 0; argc > 1 && i < ARRAY_SIZE(modes); i++) {
		if (strcmp(argv[1], modes[i].name) != 0)
			continue;
		const uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
		const unsigned runs = argc > 3 ? (unsigned)strtoul(argv[3], NULL, 0) : modes[i].runs;
		if (!getenv("WEIR_TEST_LOG"))
			log_set_level((enum log_level)-1);
		for (unsigned k = 0; k < runs; k++) {
			struct bed b;
			snprintf(model_context, sizeof(model_context), "test-crash %s %llu 1", modes[i].name,
				(unsigned long long)(seed + k));
			bed_make(&b, seed + k);
			modes[i].run(&b);
			bed_free(&b);
		}
		printf("%s: %u runs from seed %llu: nothing lost\n", modes[i].name, runs, (unsigned long long)seed);
		return 0;
	}
	fprintf(stderr, "usage: test-crash model|power|kill|faults|full|sweep [SEED [RUNS]]\n");
	return 2;
}

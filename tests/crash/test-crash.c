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
 *	threads the power goes while several threads write, flush, read and collect, each in images of its own;
 *		a read-only mount of what is left says the same as the one that recovers
 * After each crash a mount must need no help, and every image must be a prefix of its acknowledged
 * changes that contains all flushed ones.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "crash/model.h"
#include "meta/meta.h"
#include "sim/iosim.h"

#define LOG_BYTES (16u << 20)
#define OTHERS    3u

struct bed {
	struct iosim *sim;
	struct meta *meta;
	struct keyring *keyring;
	struct store *store;
	struct model *model;
	struct model *others[OTHERS]; /* mode threads: one for each further thread */
	struct rng rng;
	uint64_t seed;
	bool threads, read_only;
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

static void keys_add(struct bed *b, uint32_t first, uint32_t end)
{
	const uint8_t key[SEAL_KEY_LEN] = "one key does for all domains";

	for (uint32_t d = first; d < end; d++)
		must("keyring_add", keyring_add(b->keyring, d, key), NULL);
}

static void keys_remove(struct bed *b)
{
	for (uint32_t d = 1; d < MODEL_DOMAINS; d++)
		must("keyring_remove", keyring_remove(b->keyring, d), NULL);
}

static void keys_make(struct bed *b, const struct meta_info *info)
{
	struct store_state state;

	must("state_get", b->meta->ops->state_get(b->meta, &state), NULL);
	must("keyring_new", keyring_new(info->uuid, state.domain_key, &b->keyring), NULL);
	keys_add(b, 1, MODEL_DOMAINS);
}

/* Images keep the policies that were set last, whatever a crash takes back. */
static int bed_policy(void *arg, uint64_t image, struct image_policy *ret_policy)
{
	struct bed *b = arg;
	bool found = model_policy(b->model, image, ret_policy);

	for (unsigned i = 0; !found && i < OTHERS && b->others[i]; i++)
		found = model_policy(b->others[i], image, ret_policy);
	return 0;
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
	keys_make(b, &info);
	meta_close(b->meta);
	b->meta = NULL;
	must("store_create", store_create(iosim_io(b->sim), LOG_BYTES, info.uuid, &em), &em);
	iosim_sync_all(b->sim);
	model_create(seed, &b->model);
}

static void bed_detach(struct bed *b)
{
	model_detach(b->model);
	for (unsigned i = 0; i < OTHERS && b->others[i]; i++)
		model_detach(b->others[i]);
}

static int bed_attach(struct bed *b)
{
	int r = model_attach(b->model, b->store);

	for (unsigned i = 0; r == 0 && i < OTHERS && b->others[i]; i++)
		r = model_attach(b->others[i], b->store);
	return r;
}

/*
 * Recovery finds no keys; perhaps the process dies once more, or space is collected; then they come,
 * one at a time.  However this ends, they are there.
 */
static int open_before_keys(struct bed *b, const struct store_config *cfg, struct errmsg *em)
{
	struct gc_report report;
	uint32_t d = 1;

	keys_remove(b);
	int r = store_open(cfg, &b->store, em);
	if (r == 0 && rng_below(&b->rng, 3) == 0) {
		store_abandon(b->store);
		b->store = NULL;
		r = store_open(cfg, &b->store, em);
	}
	if (r == 0 && rng_below(&b->rng, 2))
		r = store_gc(b->store, true, NULL, NULL, &report);
	for (; r == 0 && d < MODEL_DOMAINS; d++) {
		keys_add(b, d, d + 1);
		r = store_domain_unlocked(b->store, d);
	}
	keys_add(b, d, MODEL_DOMAINS);
	return r;
}

static int bed_open(struct bed *b, struct errmsg *em)
{
	int r = meta_open(iosim_io(b->sim), b->read_only, &b->meta, em);

	if (r < 0)
		return r;
	const struct store_config cfg = {
	        .io = iosim_io(b->sim),
	        .meta = b->meta,
	        .keyring = b->keyring,
	        .hooks = {.arg = b, .policy = bed_policy},
	        .overlay_bytes = 16u << 20,
	        .cache_bytes = rng_below(&b->rng, 3) * (2u << 20),
	        .index_bytes = 1u << 20,
	        .map_bytes = 64u << 10,
	        .threads = b->threads ? 3 : 1,
	        .txg_ns = 20000000,
	        .reserve_bytes = 1u << 20,
	        .read_only = b->read_only,
	        .manual = !b->threads,
	};
	if (b->read_only || rng_below(&b->rng, 3))
		r = store_open(&cfg, &b->store, em);
	else
		r = open_before_keys(b, &cfg, em);
	return r < 0 ? r : bed_attach(b);
}

/* What is left of the process goes. */
static void bed_kill(struct bed *b)
{
	bed_detach(b);
	store_abandon(b->store);
	meta_close(b->meta);
	b->store = NULL;
	b->meta = NULL;
}

static void bed_close(struct bed *b)
{
	bed_detach(b);
	const int r = store_close(b->store);
	meta_close(b->meta);
	b->store = NULL;
	b->meta = NULL;
	must("store_close", r, NULL);
}

static void bed_free(struct bed *b)
{
	model_free(b->model);
	for (unsigned i = 0; i < OTHERS && b->others[i]; i++)
		model_free(b->others[i]);
	keyring_free(b->keyring);
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
		struct bed t = {.seed = start.seed, .rng = start.rng, .keyring = start.keyring};
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
		t.keyring = NULL; /* the start's */
		bed_free(&t);
	}
	printf("%llu steps\n", (unsigned long long)step);
}

/* --- threads --- */

struct crew {
	struct bed *bed;
	struct model *model;
	unsigned n;
	int result;
	_Atomic bool *done;
};

static void *crew_main(void *arg)
{
	struct crew *c = arg;

	for (unsigned i = 0; c->result == 0 && i < c->n; i++)
		c->result = model_step(c->model);
	return NULL;
}

/* Looks at everything, of images that others change. */
static void *looker_main(void *arg)
{
	struct crew *c = arg;
	struct rng rng = rng_fork(c->bed->seed, 99);
	struct store *s = c->bed->store;
	uint8_t *buf = malloc(MODEL_BYTES);

	while (c->result == 0 && !*c->done) {
		const uint64_t id =
		        MODEL_FIRST_IMAGE + rng_below(&rng, MODEL_IMAGES * (OTHERS + 1));
		const uint64_t off = rng_below(&rng, MODEL_BYTES),
		               len = rng_below(&rng, MODEL_BYTES - off);
		struct image_stats is;
		struct store_stats st;
		struct image *img;
		uint64_t found;
		c->result = store_image_open(s, id, &img);
		if (c->result < 0)
			break;
		c->result = store_read(img, off, buf, len);
		if (c->result == 0)
			c->result = store_seek(img, off, rng_below(&rng, 2), &found);
		if (c->result == 0)
			c->result = MIN(store_allocated(img, &found), 0);
		store_image_close(img);
		if (c->result == 0 && rng_below(&rng, 8) == 0)
			c->result = store_image_stats(s, &id, 1, true, NULL, NULL, &is);
		if (c->result == 0 && rng_below(&rng, 4) == 0)
			c->result = store_flush(s, NULL);
		store_stats_get(s, &st);
	}
	free(buf);
	return NULL;
}

/* All work until something fails; the first error. */
static int crew_work(struct bed *b, unsigned n)
{
	struct crew crew[OTHERS + 2];
	pthread_t threads[OTHERS + 2];
	_Atomic bool done = false;
	int r = 0;

	for (unsigned i = 0; i < OTHERS + 2; i++) {
		crew[i] = (struct crew){b,
		        i == 0        ? b->model
		        : i <= OTHERS ? b->others[i - 1]
		                      : NULL,
		        n, 0, &done};
		must("thread",
		        -pthread_create(
		                &threads[i], NULL, i <= OTHERS ? crew_main : looker_main, &crew[i]),
		        NULL);
	}
	for (unsigned i = 0; i < OTHERS + 2; i++) {
		done = i > OTHERS;
		pthread_join(threads[i], NULL);
		if (r == 0)
			r = crew[i].result;
		if (crew[i].result < 0 && !iosim_is_off(b->sim))
			fail(i <= OTHERS ? model_last_op(crew[i].model) : "looking", crew[i].result,
			        NULL);
	}
	return r;
}

static int crew_recovered(struct bed *b)
{
	int r = model_recovered(b->model);

	for (unsigned i = 0; r == 0 && i < OTHERS; i++)
		r = model_recovered(b->others[i]);
	return r;
}

static void crew_verify(struct bed *b)
{
	model_verify(b->model);
	for (unsigned i = 0; i < OTHERS; i++)
		model_verify(b->others[i]);
}

/*
 * What a read-only mount finds is what the models go on from; so the next one must find the same.
 * It makes nothing durable: where the process was only killed, what it finds may be in the page
 * cache alone, and would go with the power.  So that is written back first.
 */
static void look_read_only(struct bed *b)
{
	iosim_sync_all(b->sim);
	const uint64_t steps = iosim_steps(b->sim);

	b->read_only = true;
	bed_open_whole(b);
	must("read of a read-only mount", crew_recovered(b), NULL);
	bed_kill(b);
	b->read_only = false;
	if (iosim_steps(b->sim) != steps)
		fail("a read-only mount wrote", -EROFS, NULL);
}

static void mode_threads(struct bed *b)
{
	b->threads = true;
	for (unsigned i = 0; i < OTHERS; i++)
		model_create_at(b->seed, MODEL_FIRST_IMAGE + (i + 1) * MODEL_IMAGES, &b->others[i]);
	bool kept = false; /* the page cache survived: what a look finds there may be lost yet */
	for (unsigned round = 0; round < 3; round++) {
		struct errmsg em = {{0}};
		if (round > 0 && rng_below(&b->rng, 2) && !kept)
			look_read_only(b);
		iosim_crash_at(b->sim,
		        iosim_steps(b->sim) + 1 + rng_below(&b->rng, round == 2 ? 60 : 600));
		int r = bed_open(b, &em);
		if (r == 0)
			r = crew_recovered(b);
		if (r == 0)
			r = crew_work(b, 120);
		if (r == 0)
			iosim_power_off(b->sim);
		else if (!iosim_is_off(b->sim))
			fail("open", r, &em);
		bed_kill(b);
		kept = rng_below(&b->rng, 3) == 0;
		iosim_crash(b->sim, kept ? IOSIM_KEEP : IOSIM_RANDOM, rng_next(&b->rng));
	}
	bed_open_whole(b);
	must("read after recovery", crew_recovered(b), NULL);
	must("work", crew_work(b, 60), NULL);
	crew_verify(b);
	must("sync", model_sync(b->model), NULL);
	bed_close(b);
	bed_open_whole(b);
	crew_verify(b);
	bed_close(b);
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
        {"threads", mode_threads, 6},
};

int main(int argc, char **argv)
{
	for (size_t i = 0; argc > 1 && i < ARRAY_SIZE(modes); i++) {
		if (strcmp(argv[1], modes[i].name) != 0)
			continue;
		const uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
		const unsigned runs =
		        argc > 3 ? (unsigned)strtoul(argv[3], NULL, 0) : modes[i].runs;
		if (!getenv("WEIR_TEST_LOG"))
			log_set_level((enum log_level) - 1);
		for (unsigned k = 0; k < runs; k++) {
			struct bed b;
			snprintf(model_context, sizeof(model_context), "test-crash %s %llu 1",
			        modes[i].name, (unsigned long long)(seed + k));
			bed_make(&b, seed + k);
			modes[i].run(&b);
			bed_free(&b);
		}
		printf("%s: %u runs from seed %llu: nothing lost\n", modes[i].name, runs,
		        (unsigned long long)seed);
		return 0;
	}
	fprintf(stderr,
	        "usage: test-crash model|power|kill|faults|full|sweep|threads [SEED [RUNS]]\n");
	return 2;
}

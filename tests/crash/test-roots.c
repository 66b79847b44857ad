/*
 * test-roots.c - the power goes, or the process dies, at each step of snapshots, clones and rollbacks
 *
 * test-roots [SEED]: one script over two images that are always snapshot together, a clone, and records
 * that belong to the operations, run from its start for each step that it makes on the disk, and for each
 * way to end there.  What a mount finds then is what was before the operation that was cut off, or what
 * is after it: images, snapshots and the record of the operation alike.  Then space is collected, all
 * snapshots are deleted, and exactly what the images have is left.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "meta/meta.h"
#include "meta/namespace.h"
#include "meta/rows.h"
#include "sim/iosim.h"
#include "sim/rng.h"
#include "store/snapshot.h"

#define LOG_BYTES   (16u << 20)
#define FIRST_IMAGE 100ull
#define IMAGES      3u /* the last is the clone */
#define SETS        2u
#define CHUNKS      80u
#define BYTES       (CHUNKS * CHUNK_SIZE)
#define AT          ((1u << 20) - BYTES / 2) /* over the border of two leaves */
#define VERSIONS    6u

/* Versions of the content; 0: none, or no such snapshot. */
struct state {
	unsigned images[IMAGES];
	unsigned snapshots[SETS][2];
	bool recorded[32]; /* by number of the operation */
};

enum what { WRITE, CREATE, ROLLBACK, CLONE, REPLACE, DELETE, COLLECT };

static const struct op {
	enum what what;
	const char *name;
	unsigned arg; /* WRITE: version; others: set, from 0 */
} script[] = {
        {WRITE, "write", 1},
        {CREATE, "create", 0},
        {WRITE, "write", 2},
        {CREATE, "create", 1},
        {WRITE, "write", 3},
        {ROLLBACK, "rollback", 0},
        {CLONE, "clone a snapshot", 1},
        {WRITE, "write", 4},
        {DELETE, "delete", 0},
        {COLLECT, "collect", 0},
        {REPLACE, "clone an image over another", 0},
        {WRITE, "write", 5},
        {ROLLBACK, "rollback", 1},
        {DELETE, "delete", 1},
        {COLLECT, "collect", 0},
};

static uint8_t contents[VERSIONS][BYTES];
static char context[160];

struct world {
	struct iosim *sim;
	struct meta *meta;
	struct store *store;
	struct state now, next; /* next: when the operation under way is done */
	unsigned op;
};

static void fail(const char *what, int r)
{
	fprintf(stderr, "%s: %s: %s\n", context, what, strerror(-r));
	abort();
}

static void must(const char *what, int r)
{
	if (r < 0)
		fail(what, r);
}

/* --- the script --- */

static int record(void *arg)
{
	struct world *w = arg;
	const struct row row = {.type = ROW_RECORD_PUT,
	        .table = RECORD_SNAPSHOT,
	        .id = w->op + 1,
	        .value = "done",
	        .value_len = 4};
	struct bytes_out out = {0};

	row_encode(&row, &out);
	const int r = out.failed ? -ENOMEM : store_rows_append(w->store, out.data, out.len);
	bytes_release(&out);
	return r;
}

static int write_image(struct world *w, unsigned i, unsigned version)
{
	struct image *img;
	int r = store_image_open(w->store, FIRST_IMAGE + i, &img);

	if (r < 0)
		return r;
	store_enter(w->store);
	r = store_write(img, AT, contents[version], BYTES);
	store_leave(w->store);
	if (r == 0)
		r = store_flush(w->store, img);
	store_image_close(img);
	if (r == 0)
		w->now.images[i] = version;
	return r;
}

static int do_write(struct world *w, unsigned version)
{
	for (unsigned i = 0; i < 2; i++) {
		w->next = w->now;
		w->next.images[i] = version;
		const int r = write_image(w, i, version);
		if (r < 0)
			return r;
	}
	return 0;
}

static int do_create(struct world *w, unsigned set)
{
	const struct snapshot_ref refs[] = {
	        {snapshot_id(set + 1, 0), FIRST_IMAGE}, {snapshot_id(set + 1, 1), FIRST_IMAGE + 1}};

	memcpy(w->next.snapshots[set], w->now.images, sizeof(w->next.snapshots[set]));
	return store_snapshot_create(w->store, refs, 2, record, w);
}

static int do_rollback(struct world *w, unsigned set)
{
	const struct rollback_ref refs[] = {
	        {FIRST_IMAGE, snapshot_id(set + 1, 0)}, {FIRST_IMAGE + 1, snapshot_id(set + 1, 1)}};

	memcpy(w->next.images, w->now.snapshots[set], sizeof(w->now.snapshots[set]));
	return store_snapshot_rollback(w->store, refs, 2, record, w);
}

static int do_clone(struct world *w, uint64_t source, unsigned version)
{
	const struct clone_ref ref = {.source = source, .image = FIRST_IMAGE + 2};

	w->next.images[2] = version;
	return store_clone(w->store, &ref, 1, record, w);
}

static int do_delete(struct world *w, unsigned set)
{
	const uint64_t ids[] = {snapshot_id(set + 1, 0), snapshot_id(set + 1, 1)};

	memset(w->next.snapshots[set], 0, sizeof(w->next.snapshots[set]));
	return store_snapshot_delete(w->store, ids, 2, record, w);
}

static int do_op(struct world *w)
{
	const struct op *op = &script[w->op];
	const unsigned set = op->arg;
	struct gc_report report;
	int r = -EINVAL;

	w->next = w->now;
	w->next.recorded[w->op] = op->what != WRITE && op->what != COLLECT;
	if (op->what == WRITE)
		return do_write(w, op->arg);
	if (op->what == CREATE)
		r = do_create(w, set);
	else if (op->what == ROLLBACK)
		r = do_rollback(w, set);
	else if (op->what == CLONE)
		r = do_clone(w, snapshot_image(snapshot_id(set + 1, 0)), w->now.snapshots[set][0]);
	else if (op->what == REPLACE)
		r = do_clone(w, FIRST_IMAGE + 1, w->now.images[1]);
	else if (op->what == DELETE)
		r = do_delete(w, set);
	else if (op->what == COLLECT)
		r = store_gc(w->store, true, NULL, NULL, &report);
	if (r == 0)
		w->now = w->next;
	return r;
}

/* --- what is there --- */

static unsigned version_of(struct world *w, uint64_t image)
{
	static const uint8_t zeros[BYTES];
	static uint8_t buf[BYTES];
	struct image *img;
	int r = store_image_open(w->store, image, &img);

	if (r == -ENOENT)
		return 0;
	must("open an image", r);
	r = store_read(img, AT, buf, BYTES);
	store_image_close(img);
	must("read an image", r);
	for (unsigned v = 1; v < VERSIONS; v++)
		if (!memcmp(buf, contents[v], BYTES))
			return v;
	if (memcmp(buf, zeros, BYTES))
		fail("content of no version", -EUCLEAN);
	return 0;
}

static void state_read(struct world *w, struct state *ret_state)
{
	struct state st = {0};
	struct errmsg em = {{0}};
	struct ns *ns;

	for (unsigned i = 0; i < IMAGES; i++)
		st.images[i] = version_of(w, FIRST_IMAGE + i);
	for (unsigned set = 0; set < SETS; set++)
		for (unsigned i = 0; i < 2; i++)
			st.snapshots[set][i] =
			        version_of(w, snapshot_image(snapshot_id(set + 1, i)));
	must("open the namespace", ns_open(w->meta, &ns, &em));
	for (unsigned i = 0; i < ARRAY_SIZE(script); i++) {
		struct bytes_out out = {0};
		st.recorded[i] = ns_record_get(ns, RECORD_SNAPSHOT, 0, i + 1, &out) == 0;
		bytes_release(&out);
	}
	ns_close(ns);
	*ret_state = st;
}

static bool states_equal(const struct state *a, const struct state *b)
{
	return !memcmp(a, b, sizeof(*a));
}

static void expect_state(struct world *w, const char *when)
{
	struct state st;

	state_read(w, &st);
	if (!states_equal(&st, &w->now))
		fail(when, -EUCLEAN);
}

/* Without snapshots, what is stored is what the images have, each version once. */
static void expect_exact_space(struct world *w)
{
	bool used[VERSIONS] = {0};
	struct gc_report report;
	struct store_stats st;
	uint64_t want = 0;

	w->op = ARRAY_SIZE(script); /* its records are none of the script's */
	for (unsigned set = 0; set < SETS; set++)
		if (w->now.snapshots[set][0])
			must("delete", do_delete(w, set));
	memset(w->now.snapshots, 0, sizeof(w->now.snapshots));
	for (unsigned i = 0; i < 3; i++)
		must("collect", store_gc(w->store, true, NULL, NULL, &report));
	if (report.nodes_freed || report.segments_freed || report.segments_rewritten)
		fail("there is something to free for ever", -EUCLEAN);
	for (unsigned i = 0; i < IMAGES; i++)
		used[w->now.images[i]] = true;
	for (unsigned v = 1; v < VERSIONS; v++)
		want += used[v] ? CHUNKS : 0;
	store_stats_get(w->store, &st);
	if (st.unique_chunks != want)
		fail("space is not what the images have", -EUCLEAN);
	expect_state(w, "after everything was deleted");
}

/* --- running --- */

static int world_open(struct world *w)
{
	struct errmsg em = {{0}};
	int r = meta_open(iosim_io(w->sim), false, &w->meta, &em);

	if (r < 0)
		return r;
	const struct store_config cfg = {
	        .io = iosim_io(w->sim),
	        .meta = w->meta,
	        .overlay_bytes = 16u << 20,
	        .cache_bytes = 2u << 20,
	        .index_bytes = 1u << 20,
	        .map_bytes = 64u << 10,
	        .threads = 1,
	        .reserve_bytes = 1u << 20,
	        .manual = true,
	};
	r = store_open(&cfg, &w->store, &em);
	if (r < 0) {
		meta_close(w->meta);
		w->meta = NULL;
	}
	return r;
}

static void world_kill(struct world *w)
{
	store_abandon(w->store);
	meta_close(w->meta);
	w->store = NULL;
	w->meta = NULL;
}

/* The power goes `step` steps from the start; false: the script was through before.  Its operations' steps. */
static bool run(struct iosim *start, uint64_t step, enum iosim_crash_mode how, uint64_t *counts)
{
	struct world w = {.op = 0};
	struct state st;
	int r = 0;

	iosim_clone(start, &w.sim);
	must("open", world_open(&w));
	iosim_crash_at(w.sim, iosim_steps(w.sim) + 1 + step);
	for (; r == 0 && w.op < ARRAY_SIZE(script); w.op++) {
		const uint64_t before = iosim_steps(w.sim);
		snprintf(context, sizeof(context), "test-roots: step %llu, %s (%u), ending %d",
		        (unsigned long long)step, script[w.op].name, w.op, (int)how);
		r = do_op(&w);
		if (r == 0 && counts)
			counts[w.op] = iosim_steps(w.sim) - before;
		if (r < 0)
			break;
	}
	const bool cut = iosim_is_off(w.sim);
	if (r < 0 && !cut)
		fail("not by the power", r);
	world_kill(&w);
	iosim_crash(w.sim, how, step);
	must("open after it", world_open(&w));
	state_read(&w, &st);
	if (!states_equal(&st, &w.now) && !states_equal(&st, &w.next))
		fail("neither before nor after", -EUCLEAN);
	w.now = st;
	expect_exact_space(&w);
	world_kill(&w);
	iosim_free(w.sim);
	return cut;
}

static void start_make(uint64_t seed, struct iosim **ret_sim)
{
	const struct meta_create_params params = {.index_bytes = 1u << 20, .log_bytes = LOG_BYTES};
	struct errmsg em = {{0}};
	struct meta_info info;
	struct meta *m;

	iosim_create(seed, ret_sim);
	must("meta_create", meta_create(iosim_io(*ret_sim), &params, &em));
	must("meta_open", meta_open(iosim_io(*ret_sim), false, &m, &em));
	must("meta_info_get", meta_info_get(m, &info));
	meta_close(m);
	must("store_create", store_create(iosim_io(*ret_sim), LOG_BYTES, info.uuid, &em));
	iosim_sync_all(*ret_sim);
	for (unsigned v = 1; v < VERSIONS; v++) {
		struct rng rng = rng_fork(seed, v);
		for (size_t i = 0; i < BYTES; i++)
			contents[v][i] = (uint8_t)rng_next(&rng);
	}
}

int main(int argc, char **argv)
{
	static const enum iosim_crash_mode endings[] = {IOSIM_LOSE, IOSIM_KEEP, IOSIM_RANDOM};
	uint64_t counts[ARRAY_SIZE(script)] = {0}, step = 0;
	struct iosim *start;
	bool more = true;

	log_set_level((enum log_level) - 1);
	start_make(argc > 1 ? strtoull(argv[1], NULL, 0) : 1, &start);
	for (; more; step++)
		for (unsigned k = 0; k < ARRAY_SIZE(endings); k++)
			more = run(start, step, endings[k], counts);
	for (unsigned i = 0; i < ARRAY_SIZE(script); i++)
		printf("%-28s %4llu steps\n", script[i].name, (unsigned long long)counts[i]);
	printf("%llu steps, each ended in %zu ways\n", (unsigned long long)step - 1,
	        ARRAY_SIZE(endings));
	iosim_free(start);
	return 0;
}

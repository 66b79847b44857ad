/*
 * test-snapshot-space.c - snapshots: what each has alone, what walks over many cost, space that comes back,
 * and instants, beside others who write
 */
#include <pthread.h>
#include <time.h>

#include "sim/rng.h"
#include "snapshot-bed.h"

/* --- usage and diff against what is counted one by one --- */

#define OWNERS 12u
#define AREA   600u /* chunks, of which each owner has some */

struct owner {
	uint64_t id; /* an image, or snapshot_image() */
	uint64_t entries[AREA];
};

static unsigned chunk_at(unsigned i)
{
	return i % 100 + i / 100 * 70000; /* in several subtrees */
}

static void owner_read(struct bed *b, struct owner *o)
{
	struct map *map;

	assert_int_equal(map_open(b->store->maps, o->id, &map), 0);
	for (unsigned i = 0; i < AREA; i++)
		assert_int_equal(map_get(map, chunk_at(i), 1, &o->entries[i]), 0);
	map_close(map);
}

static bool owner_has(const struct owner *o, uint64_t loc, unsigned end)
{
	for (unsigned i = 0; i < end; i++)
		if (entry_state(o->entries[i]) == ENTRY_DATA && entry_loc(o->entries[i]) == loc)
			return true;
	return false;
}

static uint64_t unique_of(const struct owner *owners, unsigned n, unsigned k)
{
	uint64_t count = 0;

	for (unsigned i = 0; i < AREA; i++) {
		const uint64_t e = owners[k].entries[i];
		bool other = entry_state(e) != ENTRY_DATA || owner_has(&owners[k], entry_loc(e), i);
		for (unsigned j = 0; !other && j < n; j++)
			other = j != k && owner_has(&owners[j], entry_loc(e), AREA);
		count += !other;
	}
	return count;
}

struct differs {
	const struct owner *a, *b;
	uint64_t told; /* chunks */
};

static int told_differs(void *arg, uint64_t off, uint64_t len, enum diff_state state)
{
	struct differs *d = arg;

	(void)state;
	for (unsigned i = 0; i < AREA; i++) {
		const uint64_t at = (uint64_t)chunk_at(i) * CHUNK_SIZE;
		if (at < off || at >= off + len)
			continue;
		assert_true(d->a->entries[i] != d->b->entries[i]);
		d->told++;
	}
	return 0;
}

static void expect_differences(struct bed *b, const struct owner *x, const struct owner *y)
{
	struct differs d = {x, y, 0};
	uint64_t want = 0;

	for (unsigned i = 0; i < AREA; i++)
		want += x->entries[i] != y->entries[i];
	assert_int_equal(store_diff(b->store, x->id, y->id, told_differs, &d), 0);
	assert_int_equal(d.told, want);
}

/* Images and snapshots that share in every way: what is told of each is what can be counted. */
static void test_usage_and_diff_are_exact(void **state)
{
	static struct owner owners[OWNERS];
	struct rng rng = rng_fork(3, 3);
	struct bed b;

	(void)state;
	bed_make(&b);
	bed_open(&b);
	for (unsigned k = 0; k < OWNERS; k++) {
		const uint64_t img = 1 + rng_below(&rng, 3);
		for (unsigned n = 0; n < 60; n++)
			write_to(&b, img,
			        (uint64_t)chunk_at((unsigned)rng_below(&rng, AREA)) * CHUNK_SIZE,
			        CHUNK_SIZE, 1 + rng_below(&rng, 300));
		assert_int_equal(snapshot(&b, snapshot_id(k + 1, 0), img), 0);
		owners[k].id = snapshot_image(snapshot_id(k + 1, 0));
		if (k < 3)
			owners[k].id =
			        k + 1; /* the images themselves; those snapshots are deleted */
		if (k == 7)
			assert_int_equal(clone_of(&b, owners[5].id, 3), 0);
	}
	for (unsigned k = 0; k < 3; k++)
		assert_int_equal(delete (&b, snapshot_id(k + 1, 0)), 0);
	for (unsigned k = 0; k < OWNERS; k++)
		owner_read(&b, &owners[k]);
	for (unsigned k = 0; k < OWNERS; k++) {
		struct snapshot_usage u = {.id = owners[k].id & ~SNAPSHOT_BIT};
		struct image_stats is;
		if (k < 3) {
			assert_int_equal(
			        store_image_stats(b.store, &owners[k].id, 1, true, NULL, NULL, &is),
			        0);
			u.unique_chunks = is.unique_chunks;
		} else {
			assert_int_equal(store_snapshot_usage(b.store, &u, 1, NULL, NULL), 0);
		}
		assert_int_equal(u.unique_chunks, unique_of(owners, OWNERS, k));
		expect_differences(&b, &owners[k], &owners[(k + 1) % OWNERS]);
	}
	bed_free(&b);
}

/* A walk over snapshots that share a tree does not read it for each of them. */
static void test_a_thousand_snapshots_cost_what_they_differ_by(void **state)
{
	const unsigned n = 1000;
	struct snapshot_usage *usage = calloc(n, sizeof(*usage));
	struct gc_report report;
	uint64_t reads;
	struct bed b;

	(void)state;
	bed_make(&b);
	b.cfg.map_bytes = 64 << 10; /* nothing of it is found in the cache */
	bed_open(&b);
	struct image *src = bed_image(&b, 1), *img = bed_image(&b, IMG);
	uint64_t shared;
	bed_write(src, 0, MIB, 1);
	assert_int_equal(store_sync(b.store), 0);
	for (uint64_t leaf = 0; leaf < 2000; leaf++) {
		store_enter(b.store);
		assert_int_equal(store_share(src, 0, img, leaf * 8 * MIB, MIB, &shared), 0);
		store_leave(b.store);
	}
	store_image_close(src);
	for (unsigned k = 0; k < n; k++) {
		bed_write(img, k * 8 * MIB, CHUNK_SIZE, 100 + k);
		usage[k].id = snapshot_id(k + 1, 0);
		assert_int_equal(snapshot(&b, usage[k].id, IMG), 0);
	}
	store_image_close(img);
	reads = fake_meta_reads(b.meta);
	assert_int_equal(store_gc(b.store, false, NULL, NULL, &report), 0);
	/* 2,000 leaves; for each snapshot its row, and the three nodes that it has of its own. */
	assert_true(fake_meta_reads(b.meta) - reads < 2000 + n * 8);
	reads = fake_meta_reads(b.meta);
	assert_int_equal(store_snapshot_usage(b.store, usage, n, NULL, NULL), 0);
	assert_true(fake_meta_reads(b.meta) - reads < 2 * 2000 + n * 16);
	bed_free(&b);
	free(usage);
}

static void sleep_ms(unsigned ms)
{
	const struct timespec ts = {0, ms * 1000000L};

	nanosleep(&ts, NULL);
}

/* Somebody is about to stop guests: no commit comes between, and if nothing follows, commits go on. */
static void test_no_commit_begins_before_an_instant_that_is_near(void **state)
{
	struct snapshot_row row;
	struct bed b;

	(void)state;
	bed_make(&b);
	b.cfg.manual = false;
	b.cfg.txg_ns = NS_PER_MS;
	bed_open(&b);
	for (uint64_t id = 1; id <= 20; id++) {
		write_to(&b, IMG, 0, MIB, id);
		store_snapshot_near(b.store);
		const uint64_t near_ns = clock_now_ns(), txg = atomic_load(&b.store->txg_open);
		write_to(&b, IMG, 0, CHUNK_SIZE, 100 + id);
		txg_kick(b.store);
		sleep_ms(5);
		const bool in_time = clock_now_ns() - near_ns < 40 * NS_PER_MS;
		if (in_time)
			assert_int_equal(atomic_load(&b.store->txg_open), txg);
		assert_int_equal(snapshot(&b, id, IMG), 0);
		assert_int_equal(store_snapshot_get(b.store, id, &row), 0);
		assert_true(row.txg >= txg);
		expect(&b, snapshot_image(id), 0, CHUNK_SIZE, 100 + id);
	}
	store_snapshot_near(b.store);
	write_to(&b, IMG, 0, MIB, 1);
	assert_int_equal(store_sync(b.store), 0);
	bed_free(&b);
}

/* --- space, while others write --- */

#define WRITER_LEAVES 6u

struct writer {
	struct bed *b;
	uint64_t image;
	_Atomic bool stop;
	uint64_t seeds[WRITER_LEAVES]; /* the content that each MiB ends with */
	unsigned writes;
};

static void *writer_main(void *arg)
{
	struct writer *w = arg;
	struct rng rng = rng_fork(w->image, 5);
	struct image *img = bed_image(w->b, w->image);

	while (!w->stop || w->writes < WRITER_LEAVES) {
		const unsigned leaf = w->writes++ % WRITER_LEAVES;
		w->seeds[leaf] = w->image << 32 | rng_below(&rng, 1u << 30);
		assert_int_equal(store_throttle(w->b->store, MIB), 0);
		bed_write(img, leaf * MIB, MIB, w->seeds[leaf]);
		if (w->writes % 5 == 0)
			assert_int_equal(store_flush(w->b->store, img), 0);
	}
	store_image_close(img);
	return NULL;
}

/* What is kept, each chunk of which differs from all others. */
static uint64_t chunks_kept(struct bed *b)
{
	struct gc_report report;
	struct store_stats st;

	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(store_sync(b->store), 0);
		gc(b, &report);
	}
	assert_int_equal(report.nodes_freed, 0);
	assert_int_equal(report.segments_freed, 0);
	assert_int_equal(report.segments_rewritten, 0);
	store_stats_get(b->store, &st);
	assert_int_equal(st.unique_chunks, st.data_chunks);
	return st.unique_chunks;
}

/* Snapshots, clones and rollbacks come and go beside writers and the collector: what stays is the images'. */
static void test_space_comes_back_beside_writers(void **state)
{
	struct writer writers[2] = {{.image = 20}, {.image = 21}};
	pthread_t threads[2];
	struct gc_report report;
	struct bed b;

	(void)state;
	bed_make(&b);
	b.cfg.manual = false;
	b.cfg.threads = 2;
	b.cfg.txg_ns = 20 * NS_PER_MS;
	bed_open(&b);
	write_to(&b, IMG, 0, MIB, 1);
	for (unsigned i = 0; i < 2; i++) {
		writers[i].b = &b;
		pthread_create(&threads[i], NULL, writer_main, &writers[i]);
	}
	for (uint64_t k = 1; k <= 12; k++) {
		const struct snapshot_ref refs[] = {{k * 4, IMG}, {k * 4 + 1, 20}, {k * 4 + 2, 21}};
		write_to(&b, IMG, k * MIB, MIB, 100 + k);
		assert_int_equal(store_snapshot_create(b.store, refs, 3, NULL, NULL), 0);
		assert_int_equal(clone_of(&b, snapshot_image(k * 4 + 1), 100 + k), 0);
		if (k % 4 == 0)
			gc(&b, &report);
		if (k % 5 == 0)
			assert_int_equal(rollback(&b, IMG, (k - 3) * 4), 0);
	}
	for (uint64_t k = 1; k <= 12; k++) {
		const uint64_t ids[] = {k * 4, k * 4 + 1, k * 4 + 2};
		assert_int_equal(store_snapshot_delete(b.store, ids, 3, NULL, NULL), 0);
		store_enter(b.store);
		assert_int_equal(store_image_delete(b.store, 100 + k), 0);
		store_leave(b.store);
		if (k == 6)
			gc(&b, &report);
	}
	for (unsigned i = 0; i < 2; i++) {
		writers[i].stop = true;
		pthread_join(threads[i], NULL);
	}
	/* The writers' images; of IMG MiB 0 to 2, 6, 7, 11 and 12: what rollbacks left of it. */
	assert_int_equal(chunks_kept(&b), (2 * WRITER_LEAVES + 7) * LEAF_CHUNKS);
	for (unsigned i = 0; i < 2; i++)
		for (unsigned leaf = 0; leaf < WRITER_LEAVES; leaf++)
			expect(&b, writers[i].image, leaf * MIB, MIB, writers[i].seeds[leaf]);
	bed_free(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_usage_and_diff_are_exact),
	        cmocka_unit_test(test_a_thousand_snapshots_cost_what_they_differ_by),
	        cmocka_unit_test(test_no_commit_begins_before_an_instant_that_is_near),
	        cmocka_unit_test(test_space_comes_back_beside_writers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

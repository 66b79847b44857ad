/*
 * test-store-gc.c - the collector beside commits, failures and a full disk
 */
#include <pthread.h>
#include <time.h>

#include "store-bed.h"

#define SEGMENTS 6u
#define CONTENT  (SEGMENTS * 4 * MIB)

static struct gc_report report;

/* Image 1 gets some segments' worth of content, and loses every other chunk of it. */
static void make_garbage(struct bed *b)
{
	struct image *img = bed_image(b, 1);

	for (uint64_t off = 0; off < CONTENT; off += MIB)
		bed_write(img, off, MIB, 1000 + off / MIB);
	assert_int_equal(store_sync(b->store), 0);
	for (uint64_t off = 0; off < CONTENT; off += 2 * CHUNK_SIZE)
		bed_punch(img, off, CHUNK_SIZE, false);
	assert_int_equal(store_sync(b->store), 0);
	store_image_close(img);
}

/* The same content in another image, and is it what is read? */
static void write_again(struct bed *b, uint64_t image)
{
	struct image *img = bed_image(b, image);

	for (uint64_t off = 0; off < CONTENT; off += MIB)
		bed_write(img, off, MIB, 1000 + off / MIB);
	assert_int_equal(store_sync(b->store), 0);
	for (uint64_t off = 0; off < CONTENT; off += MIB)
		bed_expect(img, off, MIB, 1000 + off / MIB);
	store_image_close(img);
}

/* --- a commit under way while a collection fails --- */

static struct {
	struct meta_ops ops;
	const struct meta_ops *real;
	struct bed *b;
	uint64_t blocked_txg; /* that is what waits for the collection's end */
	_Atomic bool gc_ended;
} hook;

static int hooked_state_put(struct meta *m, const struct store_state *state)
{
	struct store *s = hook.b->store;

	if (!hook.blocked_txg && s->gc.marks && hook.gc_ended == false &&
	        atomic_load(&s->gc.running)) {
		static unsigned n;
		if (++n == 2) { /* the commit before the sweep: another one follows at once */
			hook.blocked_txg = state->txg + 1;
			assert_int_equal(store_rows_append(s, "row", 3), 0);
			txg_kick(s);
		}
	} else if (hook.blocked_txg == state->txg) {
		while (!hook.gc_ended)
			nanosleep(&(struct timespec){0, 1000000}, NULL);
	}
	return hook.real->state_put(m, state);
}

static void dead_slots_are_not_shared_until_the_rewrite_without_them_is_committed(void **state)
{
	struct bed b;
	/* The last of the rewrites fails, with something that ends the collection. */
	const struct iosim_fault fault = {
	        .prefix = "segments/", .ops = IOSIM_CREATE, .skip = SEGMENTS - 2, .err = -EROFS};

	bed_make(&b);
	b.cfg.manual = false;
	b.cfg.txg_ns = 3600 * NS_PER_SEC;
	b.cfg.cache_bytes = MIB;
	bed_open(&b);
	make_garbage(&b);
	struct meta *m = fake_meta_port(b.meta);
	hook.b = &b;
	hook.real = m->ops;
	hook.ops = *m->ops;
	hook.ops.state_put = hooked_state_put;
	m->ops = &hook.ops;
	iosim_fault(b.sim, &fault);
	assert_int_equal(store_gc(b.store, true, NULL, NULL, &report), -EROFS);
	iosim_faults_clear(b.sim);
	hook.gc_ended = true;
	assert_int_not_equal(hook.blocked_txg, 0);
	while (atomic_load(&b.store->txg.committed) < hook.blocked_txg)
		nanosleep(&(struct timespec){0, 1000000}, NULL);
	write_again(&b, 2);
	/* And the collector works. */
	assert_int_equal(store_gc(b.store, true, NULL, NULL, &report), 0);
	write_again(&b, 3);
	m->ops = hook.real;
	bed_free(&b);
}

/* --- a full disk --- */

static void a_full_disk_gets_its_dead_segments_back(void **state)
{
	struct bed b;

	bed_make(&b);
	bed_open(&b);
	make_garbage(&b);
	struct image *img = bed_image(&b, 1);
	bed_punch(img, CONTENT / 2, CONTENT / 2,
	        false); /* the later segments are dead, the first are half dead */
	assert_int_equal(store_sync(b.store), 0);
	const uint64_t used = iosim_used(b.sim);
	iosim_set_capacity(b.sim, used);
	assert_int_equal(store_gc(b.store, false, NULL, NULL, &report), 0);
	assert_true(report.segments_freed >= SEGMENTS / 2 - 1);
	assert_true(iosim_used(b.sim) + 4 * MIB <= used);
	store_image_close(img);
	bed_free(&b);
}

/* --- asked again and again --- */

static void a_collection_that_fails_is_not_repeated_all_the_time(void **state)
{
	struct bed b;
	const struct image_row bad = {.image = 77, .root = 5, .height = 9};

	bed_make(&b);
	b.cfg.manual = false;
	bed_open(&b);
	make_garbage(&b);
	fake_meta_image_set(b.meta, &bad); /* its map cannot be walked */
	const uint64_t reads = fake_meta_reads(b.meta);
	for (unsigned i = 0; i < 300; i++) { /* as writers do who find no space */
		gc_kick(b.store);
		nanosleep(&(struct timespec){0, 1000000}, NULL);
	}
	assert_true(fake_meta_reads(b.meta) > reads);
	assert_true(fake_meta_reads(b.meta) < reads + 50);
	bed_free(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(
	                dead_slots_are_not_shared_until_the_rewrite_without_them_is_committed),
	        cmocka_unit_test(a_full_disk_gets_its_dead_segments_back),
	        cmocka_unit_test(a_collection_that_fails_is_not_repeated_all_the_time),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

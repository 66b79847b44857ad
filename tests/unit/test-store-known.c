/*
 * test-store-known.c - content that is found by its hash and shared; a clone with its snapshot
 */
#include <pthread.h>
#include <unistd.h>

#include "store-bed.h"
#include "store/known.h"
#include "store/snapshot.h"

#define IMG   7u
#define OTHER 8u

/* Content number `seed` is what is looked for. */
static bool is_seed(void *arg, const void *data)
{
	uint8_t want[CHUNK_SIZE];

	bed_bytes(*(const uint64_t *)arg, want, sizeof(want));
	return memcmp(want, data, sizeof(want)) == 0;
}

static bool is_none(void *arg, const void *data)
{
	return false;
}

static struct hash128 hash_of(struct bed *b, uint64_t seed)
{
	struct chunk_hasher hasher;
	uint8_t data[CHUNK_SIZE];

	bed_bytes(seed, data, sizeof(data));
	assert_int_equal(store_hasher_get(b->store, 0, &hasher), 0);
	return chunk_hash(&hasher, data);
}

static int find(struct bed *b, uint64_t seed, uint64_t *ret_entry)
{
	uint8_t data[CHUNK_SIZE];
	const int r =
	        store_known_find(b->store, 0, hash_of(b, seed), is_seed, &seed, ret_entry, data);

	if (r == 0)
		assert_true(is_seed(&seed, data));
	return r;
}

static int share(struct bed *b, struct image *img, uint64_t off, uint64_t entry)
{
	store_enter(b->store);
	const int r = store_known_share(img, off, entry);
	store_leave(b->store);
	return r;
}

static void sync_all(struct bed *b)
{
	assert_int_equal(store_sync(b->store), 0);
}

static void gc(struct bed *b)
{
	struct gc_report report;

	assert_int_equal(store_gc(b->store, true, NULL, NULL, &report), 0);
}

static void what_is_committed_is_found_and_shared(void **state)
{
	struct store_stats before, after;
	uint64_t entry;
	struct bed b;

	bed_make(&b);
	bed_open(&b);
	struct image *img = bed_image(&b, IMG), *other = bed_image(&b, OTHER);
	bed_write(img, 5 * CHUNK_SIZE, CHUNK_SIZE, 3);
	assert_int_equal(find(&b, 3, &entry), -ENOENT); /* in RAM only */
	sync_all(&b);
	assert_int_equal(find(&b, 4, &entry), -ENOENT);
	assert_int_equal(find(&b, 3, &entry), 0);
	store_stats_get(b.store, &before);
	assert_int_equal(share(&b, other, 0, entry), 0);
	bed_expect(other, 0, CHUNK_SIZE, 3);
	sync_all(&b);
	store_stats_get(b.store, &after);
	assert_int_equal(after.chunks_new, before.chunks_new);
	bed_expect(other, 0, CHUNK_SIZE, 3);
	store_image_close(img);
	store_image_close(other);
	bed_free(&b);
}

/* The hash alone decides nothing. */
static void who_asks_has_the_last_word(void **state)
{
	uint8_t data[CHUNK_SIZE];
	uint64_t entry;
	struct bed b;

	bed_make(&b);
	bed_open(&b);
	struct image *img = bed_image(&b, IMG);
	bed_write(img, 0, CHUNK_SIZE, 3);
	sync_all(&b);
	assert_int_equal(
	        store_known_find(b.store, 0, hash_of(&b, 3), is_none, NULL, &entry, data), -ENOENT);
	store_image_close(img);
	bed_free(&b);
}

static void what_is_shared_outlives_where_it_was_found(void **state)
{
	uint64_t entry;
	struct bed b;

	bed_make(&b);
	bed_open(&b);
	struct image *img = bed_image(&b, IMG), *other = bed_image(&b, OTHER);
	bed_write(img, 0, 64 * CHUNK_SIZE, 3);
	sync_all(&b);
	assert_int_equal(find(&b, 3, &entry), 0);
	assert_int_equal(share(&b, other, MIB, entry), 0);
	bed_punch(img, 0, MIB, false);
	sync_all(&b);
	gc(&b);
	gc(&b);
	bed_expect(other, MIB, CHUNK_SIZE, 3);
	/* In the log only, over a crash. */
	assert_int_equal(share(&b, other, 2 * MIB, entry), 0);
	assert_int_equal(store_flush(b.store, other), 0);
	store_image_close(img);
	store_image_close(other);
	bed_crash(&b);
	bed_open(&b);
	other = bed_image(&b, OTHER);
	bed_expect(other, MIB, CHUNK_SIZE, 3);
	bed_expect(other, 2 * MIB, CHUNK_SIZE, 3);
	store_image_close(other);
	bed_free(&b);
}

static void what_was_collected_meanwhile_is_refused(void **state)
{
	uint64_t whole, part;
	struct bed b;

	bed_make(&b);
	bed_open(&b);
	struct image *img = bed_image(&b, IMG), *other = bed_image(&b, OTHER);
	/* A segment that is rewritten without the one, and keeps the other. */
	bed_write(img, 0, CHUNK_SIZE, 3);
	bed_write(img, CHUNK_SIZE, CHUNK_SIZE, 5);
	sync_all(&b);
	assert_int_equal(find(&b, 3, &whole), 0);
	assert_int_equal(find(&b, 5, &part), 0);
	bed_punch(img, 0, CHUNK_SIZE, false);
	sync_all(&b);
	gc(&b);
	assert_int_equal(share(&b, other, 0, whole), -ESTALE);
	assert_int_equal(share(&b, other, 0, part), 0);
	bed_punch(img, 0, MIB, false);
	bed_punch(other, 0, MIB, false);
	sync_all(&b);
	gc(&b);
	assert_int_equal(share(&b, other, 0, part), -ESTALE);
	bed_expect(other, 0, CHUNK_SIZE, 0);
	store_image_close(img);
	store_image_close(other);
	bed_free(&b);
}

/* What a group stored that failed is found by nobody. */
static void a_group_that_failed_gives_nothing(void **state)
{
	uint64_t entry;
	struct bed b;

	bed_make(&b);
	bed_open(&b);
	struct image *img = bed_image(&b, IMG);
	bed_write(img, 0, CHUNK_SIZE, 3);
	fake_meta_fail_writes(b.meta, 1, 1, -EIO);
	assert_true(store_sync(b.store) < 0);
	assert_int_equal(find(&b, 3, &entry), -ENOENT);
	sync_all(&b);
	assert_int_equal(find(&b, 3, &entry), 0);
	store_image_close(img);
	bed_free(&b);
}

#define RACE_CHUNKS 96u

static void *collect(void *arg)
{
	gc(arg);
	return NULL;
}

/*
 * Chunks that nobody refers to any more are shared while the collector is about to take them: each is
 * there in the end, shared or written.
 */
static void a_collector_under_way_takes_nothing_that_is_shared(void **state)
{
	uint64_t entries[RACE_CHUNKS];
	unsigned shared = 0, refused = 0;
	struct bed b;

	bed_make(&b);
	b.cfg.manual = false;
	bed_open(&b);
	struct image *img = bed_image(&b, IMG), *other = bed_image(&b, OTHER);
	for (unsigned round = 1; round <= 20; round++) {
		const uint64_t seeds = round * 1000;
		pthread_t thread;
		for (unsigned i = 0; i < RACE_CHUNKS; i++)
			bed_write(img, i * CHUNK_SIZE, CHUNK_SIZE, seeds + i);
		sync_all(&b);
		for (unsigned i = 0; i < RACE_CHUNKS; i++)
			assert_int_equal(find(&b, seeds + i, &entries[i]), 0);
		/* Some stay: so segments are rewritten without the others. */
		for (unsigned i = 0; i < RACE_CHUNKS; i++)
			if (i % 4)
				bed_punch(img, i * CHUNK_SIZE, CHUNK_SIZE, false);
		assert_int_equal(pthread_create(&thread, NULL, collect, &b), 0);
		for (unsigned i = 0; i < RACE_CHUNKS; i++) {
			const int r = share(&b, other, i * CHUNK_SIZE, entries[i]);
			if (r == -ESTALE)
				bed_write(other, i * CHUNK_SIZE, CHUNK_SIZE, seeds + i);
			else
				assert_int_equal(r, 0);
			*(r == 0 ? &shared : &refused) += 1;
			if (i % 4 == 3)
				usleep(round * 10);
		}
		pthread_join(thread, NULL);
		sync_all(&b);
		gc(&b);
		for (unsigned i = 0; i < RACE_CHUNKS; i++)
			bed_expect(other, i * CHUNK_SIZE, CHUNK_SIZE, seeds + i);
	}
	print_message("%u shared, %u refused\n", shared, refused);
	assert_true(shared > 0);
	store_image_close(img);
	store_image_close(other);
	bed_free(&b);
}

static void a_clone_comes_with_its_snapshot(void **state)
{
	const struct clone_ref ref = {.source = IMG, .image = OTHER};
	struct snapshot_row row;
	struct bed b;

	bed_make(&b);
	bed_open(&b);
	struct image *img = bed_image(&b, IMG), *other = bed_image(&b, OTHER);
	bed_write(img, 0, 10 * CHUNK_SIZE, 3);
	bed_write(other, 0, 20 * CHUNK_SIZE, 4);
	assert_int_equal(store_clone_snapshot(b.store, &ref, 77, NULL, NULL), 0);
	assert_int_equal(store_snapshot_get(b.store, 77, &row), 0);
	assert_int_equal(row.image, OTHER);
	bed_write(other, 0, CHUNK_SIZE, 5);
	bed_write(img, 0, CHUNK_SIZE, 6);
	sync_all(&b);
	store_enter(b.store);
	store_image_close(img);
	assert_int_equal(store_image_delete(b.store, IMG), 0);
	store_leave(b.store);
	sync_all(&b);
	gc(&b);
	bed_expect(other, 0, CHUNK_SIZE, 5);
	struct image *snap = bed_image(&b, snapshot_image(77));
	bed_expect(snap, 0, 10 * CHUNK_SIZE, 3);
	bed_expect(snap, 10 * CHUNK_SIZE, 10 * CHUNK_SIZE, 0);
	store_image_close(snap);
	/* The image can be rolled back to it: it is one of its own. */
	const struct rollback_ref back = {.image = OTHER, .id = 77};
	assert_int_equal(store_snapshot_rollback(b.store, &back, 1, NULL, NULL), 0);
	bed_expect(other, 0, 10 * CHUNK_SIZE, 3);
	store_image_close(other);
	bed_free(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(what_is_committed_is_found_and_shared),
	        cmocka_unit_test(who_asks_has_the_last_word),
	        cmocka_unit_test(what_is_shared_outlives_where_it_was_found),
	        cmocka_unit_test(what_was_collected_meanwhile_is_refused),
	        cmocka_unit_test(a_group_that_failed_gives_nothing),
	        cmocka_unit_test(a_collector_under_way_takes_nothing_that_is_shared),
	        cmocka_unit_test(a_clone_comes_with_its_snapshot),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

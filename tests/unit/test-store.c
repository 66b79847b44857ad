/*
 * test-store.c - what images do: writing, holes, zeros, sharing, seeking, numbers; and what a
 * failure leaves
 */
#include "store-bed.h"

static struct bed bed;

static int setup(void **state)
{
	bed_make(&bed);
	bed_open(&bed);
	return 0;
}

static int teardown(void **state)
{
	bed_free(&bed);
	return 0;
}

static uint64_t seek(struct image *img, uint64_t off, bool hole)
{
	uint64_t found = 0;

	assert_int_equal(store_seek(img, off, hole, &found), 0);
	return found;
}

static uint64_t allocated(struct image *img)
{
	uint64_t n = 0;

	assert_int_equal(store_allocated(img, &n), 0);
	return n;
}

static int share(struct image *src, uint64_t from, struct image *dst, uint64_t to, uint64_t len,
        uint64_t *ret_len)
{
	store_enter(bed.store);
	const int r = store_share(src, from, dst, to, len, ret_len);
	store_leave(bed.store);
	return r;
}

/* --- memory that runs out --- */

static void a_write_without_memory_leaves_what_was_there(void **state)
{
	struct image *img = bed_image(&bed, 1);
	struct buf **taken = calloc(1 << 20, sizeof(*taken)), *b;
	uint8_t data[CHUNK_SIZE] = {1};
	struct readv rv;
	size_t n = 0;

	bed_write(img, 0, CHUNK_SIZE, 5);
	assert_int_equal(
	        store_readv(img, 0, CHUNK_SIZE, &rv), 0); /* pinned: a write must not change it */
	while ((b = bufpool_get(bed.store->bufs)))
		taken[n++] = b;
	store_enter(bed.store);
	assert_int_equal(store_write(img, 0, data, CHUNK_SIZE), -ENOMEM);
	store_leave(bed.store);
	readv_release(&rv);
	while (n > 0)
		bufpool_put(bed.store->bufs, taken[--n]);
	free(taken);
	bed_expect(img, 0, CHUNK_SIZE, 5);
	store_image_close(img);
}

/* Small writes, each into a chunk of its own: little in the log, much in RAM. */
static void a_log_of_a_larger_overlay_is_recovered_under_a_smaller_one(void **state)
{
	const unsigned chunks = 80000;

	assert_int_equal(store_close(bed.store), 0);
	bed.cfg.overlay_bytes = 1024 * MIB;
	bed_open(&bed);
	struct image *img = bed_image(&bed, 1);
	for (unsigned i = 0; i < chunks; i++) {
		bed_write(img, (uint64_t)i * CHUNK_SIZE, 8, i + 1);
		if (i % 1000 == 999)
			assert_int_equal(store_flush(bed.store, img), 0);
	}
	assert_int_equal(bed.store->count.commits, 1); /* of the mount: all is in the log */
	store_image_close(img);
	bed_crash(&bed);
	bed.cfg.overlay_bytes = 16 * MIB;
	bed_open(&bed);
	img = bed_image(&bed, 1);
	for (unsigned i = 0; i < chunks; i += 997)
		bed_expect(img, (uint64_t)i * CHUNK_SIZE, 8, i + 1);
	store_image_close(img);
}

/* --- holes and zeros --- */

static void punched_edges(struct image *img, bool zero, bool commit)
{
	static const uint64_t ends[][2] = {
	        {100, 200},               /* inside a chunk */
	        {4000, 9000},             /* across one, with ragged ends */
	        {4096, 8192},             /* just one */
	        {MIB - 4096, MIB + 4096}, /* across leaves, no whole one */
	        {MIB, 2 * MIB},           /* just a leaf */
	        {MIB - 1, 3 * MIB + 1},   /* leaves, chunks and bytes */
	        {0, 4 * MIB},
	};
	uint8_t *want = malloc(4 * MIB), *got = malloc(4 * MIB);

	for (unsigned i = 0; i < ARRAY_SIZE(ends); i++) {
		const uint64_t off = ends[i][0], end = ends[i][1];
		bed_write(img, 0, 4 * MIB, i + 1);
		bed_bytes(i + 1, want, 4 * MIB);
		if (commit)
			assert_int_equal(store_sync(bed.store), 0);
		bed_punch(img, off, end - off, zero);
		memset(want + off, 0, end - off);
		for (unsigned round = 0; round < 2; round++) {
			assert_int_equal(store_read(img, 0, got, 4 * MIB), 0);
			assert_memory_equal(got, want, 4 * MIB);
			const uint64_t whole = end / CHUNK_SIZE > DIV_UP(off, CHUNK_SIZE)
			                               ? end / CHUNK_SIZE - DIV_UP(off, CHUNK_SIZE)
			                               : 0;
			assert_int_equal(allocated(img), 1024 - (zero ? 0 : whole));
			assert_int_equal(seek(img, 0, true),
			        zero || !whole ? 4 * MIB : ROUND_UP(off, (uint64_t)CHUNK_SIZE));
			assert_int_equal(store_sync(bed.store), 0);
		}
	}
	free(want);
	free(got);
}

static void punching_takes_just_the_bytes_named(void **state)
{
	struct image *img = bed_image(&bed, 1);

	for (unsigned i = 0; i < 4; i++)
		punched_edges(img, i & 1, i & 2);
	store_image_close(img);
}

static void a_write_over_a_punched_leaf_keeps_the_zeros_around_it(void **state)
{
	struct image *img = bed_image(&bed, 1);

	bed_write(img, 0, 2 * MIB, 1);
	assert_int_equal(store_sync(bed.store), 0);
	bed_punch(img, 0, 2 * MIB, false);
	bed_write(img, MIB + 1000, 100, 2);
	for (unsigned round = 0; round < 2; round++) {
		bed_expect(img, 0, MIB + 1000, 0);
		bed_expect(img, MIB + 1000, 100, 2);
		bed_expect(img, MIB + 1100, MIB - 1100, 0);
		assert_int_equal(seek(img, 0, false), MIB);
		assert_int_equal(allocated(img), 1);
		assert_int_equal(store_sync(bed.store), 0);
	}
	store_image_close(img);
}

static void the_last_byte_of_the_largest_image_is_one_like_others(void **state)
{
	struct image *img = bed_image(&bed, 1);
	const uint64_t last = IMAGE_SIZE_MAX - 1000;

	bed_write(img, last, 1000, 3);
	for (unsigned round = 0; round < 2; round++) {
		bed_expect(img, last, 1000, 3);
		assert_int_equal(seek(img, 0, false), IMAGE_SIZE_MAX - CHUNK_SIZE);
		assert_int_equal(seek(img, last, true), IMAGE_SIZE_MAX);
		assert_int_equal(store_sync(bed.store), 0);
	}
	bed_punch(img, 5000, IMAGE_SIZE_MAX - 5000, false);
	bed_expect(img, last, 1000, 0);
	assert_int_equal(seek(img, 8192, false), IMAGE_SIZE_MAX);
	assert_int_equal(store_sync(bed.store), 0);
	assert_int_equal(seek(img, 8192, false), IMAGE_SIZE_MAX);
	store_image_close(img);
}

/* --- seeking --- */

static void seeking_past_what_was_truncated_takes_no_time(void **state)
{
	struct image *img = bed_image(&bed, 1);

	bed_write(img, 0, MIB, 1);
	bed_punch(img, 0, IMAGE_SIZE_MAX, false);
	const uint64_t start = clock_now_ns();
	assert_int_equal(seek(img, 0, false), IMAGE_SIZE_MAX);
	assert_int_equal(seek(img, 0, true), 0);
	bed_punch(img, 0, IMAGE_SIZE_MAX / 4, true);
	assert_int_equal(store_sync(bed.store), 0);
	bed_write(img, 0, 1, 1); /* not clean */
	assert_int_equal(seek(img, 0, true), IMAGE_SIZE_MAX / 4);
	assert_true(clock_now_ns() - start < 2 * NS_PER_SEC);
	store_image_close(img);
}

/* --- sharing --- */

static void what_is_shared_stays_apart(void **state)
{
	struct image *a = bed_image(&bed, 1), *b = bed_image(&bed, 2);
	uint64_t len = 0;

	for (unsigned commit = 0; commit < 2; commit++) {
		bed_write(a, 0, 2 * MIB, 7);
		if (commit)
			assert_int_equal(store_sync(bed.store), 0);
		assert_int_equal(share(a, 0, b, MIB / 2, 2 * MIB, &len), 0);
		assert_int_equal(len, 2 * MIB);
		bed_write(a, 0, 4096, 8);             /* whole */
		bed_write(b, MIB / 2 + 8192, 100, 9); /* a part of a shared chunk */
		for (unsigned round = 0; round < 2; round++) {
			uint8_t *want = malloc(2 * MIB), *got = malloc(2 * MIB);
			bed_bytes(7, want, 2 * MIB);
			bed_bytes(9, want + 8192, 100);
			assert_int_equal(store_read(b, MIB / 2, got, 2 * MIB), 0);
			assert_memory_equal(got, want, 2 * MIB);
			bed_bytes(7, want, 2 * MIB);
			bed_bytes(8, want, 4096);
			assert_int_equal(store_read(a, 0, got, 2 * MIB), 0);
			assert_memory_equal(got, want, 2 * MIB);
			free(want);
			free(got);
			assert_int_equal(store_sync(bed.store), 0);
		}
	}
	store_image_close(a);
	store_image_close(b);
}

static void a_partly_written_chunk_ends_a_share(void **state)
{
	struct image *a = bed_image(&bed, 1), *b = bed_image(&bed, 2);
	uint64_t len = 99;

	bed_write(a, 0, 8192, 1);
	bed_write(a, 8192, 100, 2);
	assert_int_equal(share(a, 0, b, 0, 4 * CHUNK_SIZE, &len), 0);
	assert_int_equal(len, 8192);
	assert_int_equal(share(a, 8192, b, 8192, CHUNK_SIZE, &len), -EAGAIN);
	assert_int_equal(store_sync(bed.store), 0);
	assert_int_equal(share(a, 8192, b, 8192, CHUNK_SIZE, &len), 0);
	bed_expect(b, 8192, 100, 2);
	store_image_close(a);
	store_image_close(b);
}

/* --- speed --- */

static void a_jam_is_not_paid_for_long_after(void **state)
{
	struct image *img = bed_image(&bed, 1);

	for (unsigned i = 0; i < 29; i++)
		bed_write(img, i * MIB, MIB, i + 1);
	atomic_store(&bed.store->throttle_bps, MIB);
	for (unsigned i = 0; i < 10; i++)
		assert_int_equal(store_throttle(bed.store, 64 << 10), 0);
	/* The last one's own time, and no more. */
	assert_true(atomic_load(&bed.store->pace_ns) < clock_now_ns() + NS_PER_SEC);
	store_image_close(img);
}

/* --- numbers --- */

static void the_numbers_tell_what_was_done(void **state)
{
	struct image *img = bed_image(&bed, 1);
	struct store_stats st;
	const uint64_t ids[] = {1, 2, 3};
	struct image_stats is[3];
	uint64_t len;

	bed_write(img, 0, MIB, 1);
	bed_punch(img, MIB, MIB, true);
	assert_int_equal(store_sync(bed.store), 0);
	struct image *other = bed_image(&bed, 2);
	bed_write(other, 0, MIB, 1); /* the same content */
	bed_write(other, MIB, 4096, 2);
	assert_int_equal(store_sync(bed.store), 0);
	assert_int_equal(share(img, MIB, other, 2 * MIB, 8192, &len), 0);
	store_stats_get(bed.store, &st);
	assert_int_equal(st.chunks_new, 257);
	assert_int_equal(st.dedupe_hits, 256);
	assert_int_equal(st.data_chunks, 513);
	assert_int_equal(st.zero_chunks, 256);
	assert_int_equal(st.unique_chunks, 257);
	assert_int_equal(st.written_bytes, 2 * MIB + 4096);
	assert_int_equal(st.overlay_bytes, 0);
	assert_int_equal(st.health, STORE_OK);
	assert_int_equal(store_image_stats(bed.store, ids, 3, true, NULL, NULL, is), 0);
	assert_int_equal(is[0].shared_chunks, 256);
	assert_int_equal(is[0].unique_chunks, 0);
	assert_int_equal(is[1].shared_chunks, 256);
	assert_int_equal(is[1].unique_chunks, 1);
	assert_int_equal(is[2].data_chunks, 0);
	store_image_close(img);
	store_image_close(other);
}

#define CASE(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        CASE(a_write_without_memory_leaves_what_was_there),
	        CASE(a_log_of_a_larger_overlay_is_recovered_under_a_smaller_one),
	        CASE(punching_takes_just_the_bytes_named),
	        CASE(a_write_over_a_punched_leaf_keeps_the_zeros_around_it),
	        CASE(the_last_byte_of_the_largest_image_is_one_like_others),
	        CASE(seeking_past_what_was_truncated_takes_no_time),
	        CASE(what_is_shared_stays_apart),
	        CASE(a_partly_written_chunk_ends_a_share),
	        CASE(a_jam_is_not_paid_for_long_after),
	        CASE(the_numbers_tell_what_was_done),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

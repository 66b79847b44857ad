/*
 * test-snapshot.c - snapshots, clones, rollback, diff: the engine's part
 */
#include "snapshot-bed.h"

/* A rows callback: appends its text, or fails. */
struct rows {
	struct store *store;
	const char *text;
	int result;
	unsigned calls;
};

static int append_rows(void *arg)
{
	struct rows *rows = arg;

	rows->calls++;
	if (rows->result == 0)
		assert_int_equal(store_rows_append(rows->store, rows->text, strlen(rows->text)), 0);
	return rows->result;
}

static void test_keeps_its_content(void **state)
{
	struct gc_report report;
	struct snapshot_row row;
	struct bed b;

	(void)state;
	bed_make(&b);
	bed_open(&b);
	write_to(&b, IMG, 0, 3 * MIB, 1);
	assert_int_equal(snapshot(&b, 11, IMG), 0);
	write_to(&b, IMG, MIB, MIB, 2);
	assert_int_equal(snapshot(&b, 12, IMG), 0);
	struct image *img = bed_image(&b, IMG);
	bed_punch(img, 0, IMAGE_SIZE_MAX, false);
	store_image_close(img);
	gc(&b, &report);
	expect(&b, IMG, 0, 3 * MIB, 0);
	expect(&b, snapshot_image(11), 0, 3 * MIB, 1);
	expect(&b, snapshot_image(12), 0, MIB, 1);
	expect(&b, snapshot_image(12), MIB, MIB, 2);
	assert_int_equal(store_snapshot_get(b.store, 12, &row), 0);
	assert_int_equal(row.image, IMG);
	assert_int_equal(row.data_chunks, 3 * LEAF_CHUNKS);
	bed_crash(&b);
	bed_open(&b);
	expect(&b, snapshot_image(11), 0, 3 * MIB, 1);
	expect(&b, snapshot_image(12), MIB, MIB, 2);
	bed_free(&b);
}

static void test_space_comes_back(void **state)
{
	struct gc_report report;
	struct store_stats before, after;
	struct bed b;

	(void)state;
	bed_make(&b);
	bed_open(&b);
	write_to(&b, IMG, 0, MIB, 1);
	write_to(&b, IMG, 40 * MIB, 4096, 1); /* trees grow, and do not shrink */
	assert_int_equal(store_sync(b.store), 0);
	gc(&b, &report);
	store_stats_get(b.store, &before);
	const size_t nodes = fake_meta_node_count(b.meta);
	for (uint64_t id = 1; id <= 20; id++) {
		write_to(&b, IMG, id * MIB, MIB, 100 + id);
		assert_int_equal(snapshot(&b, id, IMG), 0);
	}
	write_to(&b, IMG, 0, MIB, 1);
	struct image *img = bed_image(&b, IMG);
	bed_punch(img, MIB, 39 * MIB, false);
	store_image_close(img);
	gc(&b, &report);
	for (uint64_t id = 1; id <= 20; id++)
		expect(&b, snapshot_image(id), id * MIB, MIB, 100 + id);
	for (uint64_t id = 20; id >= 1; id--)
		assert_int_equal(delete (&b, id), 0);
	assert_int_equal(delete (&b, 3), -ENOENT);
	gc(&b, &report);
	gc(&b, &report);
	store_stats_get(b.store, &after);
	assert_int_equal(after.unique_chunks, before.unique_chunks);
	assert_int_equal(after.stored_bytes, before.stored_bytes);
	assert_int_equal(fake_meta_node_count(b.meta), nodes);
	expect(&b, IMG, 0, MIB, 1);
	bed_free(&b);
}

static void test_rollback(void **state)
{
	struct gc_report report;
	struct bed b;

	(void)state;
	bed_make(&b);
	bed_open(&b);
	struct image *img = bed_image(&b, IMG);
	bed_write(img, 0, 2 * MIB, 1);
	assert_int_equal(snapshot(&b, 11, IMG), 0);
	bed_write(img, 0, MIB, 2);
	bed_write(img, 40 * MIB, MIB, 3);
	assert_int_equal(store_sync(b.store), 0);
	bed_write(img, MIB, MIB, 4);
	bed_expect(img, 40 * MIB, MIB, 3);
	assert_int_equal(rollback(&b, IMG, 11), 0);
	bed_expect(img, 0, 2 * MIB, 1);
	bed_expect(img, 40 * MIB, MIB, 0);
	/* What is changed now is the image's own. */
	bed_write(img, 4096, 4096, 5);
	assert_int_equal(store_sync(b.store), 0);
	gc(&b, &report);
	expect(&b, snapshot_image(11), 0, 2 * MIB, 1);
	assert_int_equal(delete (&b, 11), 0);
	gc(&b, &report);
	bed_expect(img, 4096, 4096, 5);
	bed_expect(img, 0, 4096, 1);
	assert_int_equal(rollback(&b, IMG, 11), -ENOENT);
	assert_int_equal(snapshot(&b, 12, IMG + 1), 0);
	assert_int_equal(rollback(&b, IMG, 12), -EINVAL);
	store_image_close(img);
	bed_crash(&b);
	bed_open(&b);
	expect(&b, IMG, 4096, 4096, 5);
	bed_free(&b);
}

static void test_clones(void **state)
{
	struct gc_report report;
	struct bed b;

	(void)state;
	bed_make(&b);
	bed_open(&b);
	write_to(&b, IMG, 0, 2 * MIB, 1);
	assert_int_equal(snapshot(&b, 11, IMG), 0);
	write_to(&b, IMG, 0, MIB, 2);
	assert_int_equal(clone_of(&b, IMG, 20), 0);
	assert_int_equal(clone_of(&b, snapshot_image(11), 3), 0);
	write_to(&b, 20, 0, 4096, 3);
	write_to(&b, 3, 4096, 4096, 4);
	write_to(&b, IMG, 8192, 4096, 5);
	store_enter(b.store);
	assert_int_equal(store_image_delete(b.store, IMG), 0);
	store_leave(b.store);
	assert_int_equal(delete (&b, 11), 0);
	gc(&b, &report);
	bed_crash(&b);
	bed_open(&b);
	expect(&b, 20, 0, 4096, 3);
	expect(&b, 3, 4096, 4096, 4);
	expect(&b, 3, 0, 4096, 1);
	expect(&b, IMG, 0, 2 * MIB, 0);
	assert_int_equal(clone_of(&b, 20, 20), -EINVAL);
	assert_int_equal(clone_of(&b, snapshot_image(11), 21), -ENOENT);
	bed_free(&b);
}

static void test_clone_into_open_image(void **state)
{
	struct bed b;

	(void)state;
	bed_make(&b);
	bed_open(&b);
	struct image *src = bed_image(&b, IMG), *dst = bed_image(&b, 8);
	bed_write(dst, 0, MIB, 9);
	assert_int_equal(store_sync(b.store), 0);
	bed_expect(dst, 0, MIB, 9);
	bed_punch(dst, 0, IMAGE_SIZE_MAX, false);
	bed_write(src, 0, 2 * MIB, 1);
	assert_int_equal(store_clone_into(src, dst, NULL, NULL), 0);
	bed_expect(dst, 0, 2 * MIB, 1);
	bed_write(src, 0, MIB, 2);
	bed_write(dst, MIB, MIB, 3);
	assert_int_equal(store_sync(b.store), 0);
	bed_expect(src, 0, MIB, 2);
	bed_expect(dst, 0, MIB, 1);
	bed_expect(dst, MIB, MIB, 3);
	store_image_close(src);
	store_image_close(dst);
	bed_free(&b);
}

static void test_handles_are_for_reading(void **state)
{
	struct gc_report report;
	struct image *kept, *again;
	uint64_t off, chunks;
	struct bed b;

	(void)state;
	bed_make(&b);
	bed_open(&b);
	write_to(&b, IMG, MIB, MIB, 1);
	assert_int_equal(snapshot(&b, 11, IMG), 0);
	kept = bed_image(&b, snapshot_image(11));
	store_enter(b.store);
	assert_int_equal(store_write(kept, 0, "x", 1), -EROFS);
	assert_int_equal(store_punch(kept, 0, 4096, true), -EROFS);
	assert_int_equal(store_image_delete(b.store, snapshot_image(11)), -EROFS);
	store_leave(b.store);
	assert_int_equal(store_seek(kept, 0, false, &off), 0);
	assert_int_equal(off, MIB);
	assert_int_equal(store_allocated(kept, &chunks), 0);
	assert_int_equal(chunks, LEAF_CHUNKS);
	store_enter(b.store);
	assert_int_equal(store_image_delete(b.store, IMG), 0);
	store_leave(b.store);
	assert_int_equal(delete (&b, 11), 0);
	gc(&b, &report);
	gc(&b, &report);
	bed_expect(kept, MIB, MIB, 1);
	store_image_close(kept);
	assert_int_equal(store_image_open(b.store, snapshot_image(11), &again), -ENOENT);
	gc(&b, &report);
	assert_int_equal(fake_meta_node_count(b.meta), 0);
	bed_free(&b);
}

static void test_rows_and_errors(void **state)
{
	struct rows rows = {.text = "one", .result = -EPERM};
	const struct snapshot_ref refs[] = {{11, IMG}, {12, IMG + 1}, {11, IMG + 2}};
	struct snapshot_row row;
	size_t len;
	struct bed b;

	(void)state;
	bed_make(&b);
	bed_open(&b);
	rows.store = b.store;
	assert_int_equal(store_snapshot_create(b.store, refs, 2, append_rows, &rows), -EPERM);
	assert_int_equal(store_snapshot_get(b.store, 11, &row), -ENOENT);
	rows.result = 0;
	assert_int_equal(store_snapshot_create(b.store, refs, 3, append_rows, &rows), -EINVAL);
	assert_int_equal(store_snapshot_create(b.store, refs, 2, append_rows, &rows), 0);
	assert_int_equal(store_snapshot_create(b.store, refs, 1, append_rows, &rows), -EEXIST);
	assert_int_equal(rows.calls, 2);
	const uint8_t *text = fake_meta_rows(b.meta, &len);
	assert_int_equal(len, 3);
	assert_memory_equal(text, "one", 3);
	assert_int_equal(store_snapshot_get(b.store, 12, &row), 0);
	assert_int_equal(row.root, 0);
	bed_free(&b);
}

/* Ids that are none, or of the wrong kind: nothing is done. */
static void test_hostile_ids(void **state)
{
	static const struct snapshot_ref refs[] = {{11, 0}, {0, IMG}, {12, SNAPSHOT_BIT | 11},
	        {SNAPSHOT_ID_MAX + 1, IMG}, {12, UINT64_MAX}};
	static const struct rollback_ref backs[] = {
	        {0, 11}, {IMG, 0}, {SNAPSHOT_BIT | 11, 11}, {IMG, SNAPSHOT_ID_MAX + 1}};
	static const struct clone_ref clones[] = {{0, 20, 0}, {IMG, 0, 0},
	        {IMG, SNAPSHOT_BIT | 12, 0}, {SNAPSHOT_BIT, 20, 0}, {IMG, IMG, 0}};
	static const uint64_t none = 0;
	struct snapshot_row row;
	struct bed b;

	(void)state;
	bed_make(&b);
	bed_open(&b);
	write_to(&b, IMG, 0, MIB, 1);
	assert_int_equal(snapshot(&b, 11, IMG), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(refs); i++)
		assert_int_equal(store_snapshot_create(b.store, &refs[i], 1, NULL, NULL), -EINVAL);
	for (unsigned i = 0; i < ARRAY_SIZE(backs); i++)
		assert_int_equal(
		        store_snapshot_rollback(b.store, &backs[i], 1, NULL, NULL), -EINVAL);
	for (unsigned i = 0; i < ARRAY_SIZE(clones); i++)
		assert_int_equal(store_clone(b.store, &clones[i], 1, NULL, NULL), -EINVAL);
	assert_int_equal(store_snapshot_delete(b.store, &none, 1, NULL, NULL), -EINVAL);
	assert_int_equal(store_snapshot_get(b.store, 11, &row), 0);
	expect(&b, IMG, 0, MIB, 1);
	expect(&b, snapshot_image(11), 0, MIB, 1);
	bed_free(&b);
}

/* No image ends with content of another domain than its policy names. */
static void test_domains_are_compared(void **state)
{
	const struct clone_ref into_sealed = {IMG, BED_SEALED, 1},
	                       lie = {snapshot_image(11), 20, 1};
	const struct image_policy sealed = {.domain = 1};
	const uint8_t key[SEAL_KEY_LEN] = "key";
	struct rows rows = {.text = "one"};
	struct bed b;

	(void)state;
	bed_make(&b);
	bed_open(&b);
	assert_int_equal(keyring_add(b.store->keyring, 1, key), 0);
	rows.store = b.store;
	write_to(&b, IMG, 0, MIB, 1);
	assert_int_equal(snapshot(&b, 11, IMG), 0);
	assert_int_equal(store_clone(b.store, &into_sealed, 1, append_rows, &rows), -EXDEV);
	assert_int_equal(store_clone(b.store, &lie, 1, append_rows, &rows), -EXDEV);
	assert_int_equal(rows.calls, 0); /* nothing is recorded of what is not done */
	struct image *img = bed_image(&b, IMG), *dst = bed_image(&b, 9);
	store_enter(b.store);
	store_policy_set(img, &sealed);
	store_leave(b.store);
	assert_int_equal(rollback(&b, IMG, 11), -EXDEV);
	assert_int_equal(store_clone_into(img, dst, NULL, NULL), -EXDEV);
	assert_int_equal(clone_of(&b, IMG, 20), -EXDEV);
	/* Both policies name it, but not all of the content is there yet. */
	const uint32_t left = 0;
	store_enter(b.store);
	store_policy_set(dst, &sealed);
	store_leave(b.store);
	store_leaving(b.store, &left, 1, false);
	assert_int_equal(store_clone_into(img, dst, NULL, NULL), -EAGAIN);
	bed_expect(img, 0, MIB, 1);
	bed_expect(dst, 0, MIB, 0);
	store_image_close(img);
	store_image_close(dst);
	bed_free(&b);
}

/* However often the commit fails, and whatever of the transaction had been done. */
static void test_failed_commits(void **state)
{
	(void)state;
	for (unsigned k = 1; k < 40; k++) {
		const struct clone_ref ref = {IMG, 9};
		struct bed b;

		bed_make(&b);
		bed_open(&b);
		write_to(&b, IMG, 0, 2 * MIB, 1);
		assert_int_equal(snapshot(&b, 11, IMG), 0);
		struct image *img = bed_image(&b, IMG), *dst = bed_image(&b, 9);
		bed_write(img, 0, MIB, 2);
		bed_write(dst, 0, MIB, 3);
		assert_int_equal(store_sync(b.store), 0);
		bed_write(img, 4096, 4096, 4);
		bed_punch(dst, 0, IMAGE_SIZE_MAX, false);
		fake_meta_fail_writes(b.meta, k, 1, -EIO);
		int r = snapshot(&b, 12, IMG);
		assert_true(r == 0 || r == -EINPROGRESS);
		if (r == 0) {
			bed_write(img, 8192, 4096, 5);
			r = store_clone(b.store, &ref, 1, NULL, NULL);
			assert_true(r == 0 || r == -EINPROGRESS);
		}
		r = store_sync(b.store);
		assert_true(r == 0 || r == -EIO);
		fake_meta_fail_writes(b.meta, 1, 0, -EIO); /* none any more */
		assert_int_equal(store_sync(b.store), 0);
		bed_expect(img, 4096, 4096, 4);
		expect(&b, snapshot_image(12), 4096, 4096, 4);
		expect(&b, snapshot_image(11), 0, 2 * MIB, 1);
		bed_write(img, 0, 2 * MIB, 6);
		assert_int_equal(store_sync(b.store), 0);
		expect(&b, snapshot_image(12), 4096, 4096, 4);
		store_image_close(img);
		store_image_close(dst);
		bed_free(&b);
	}
}

struct extents {
	char text[512];
};

static int add_extent(void *arg, uint64_t off, uint64_t len, enum diff_state state)
{
	struct extents *e = arg;
	const size_t at = strlen(e->text);

	snprintf(e->text + at, sizeof(e->text) - at, "%llu+%llu%c ", (unsigned long long)off / 4096,
	        (unsigned long long)len / 4096, "hzd"[state]);
	return 0;
}

static void expect_diff(struct bed *b, uint64_t x, uint64_t y, const char *text)
{
	struct extents e = {{0}};

	assert_int_equal(store_diff(b->store, x, y, add_extent, &e), 0);
	assert_string_equal(e.text, text);
}

static void test_diff(void **state)
{
	struct bed b;

	(void)state;
	bed_make(&b);
	bed_open(&b);
	struct image *img = bed_image(&b, IMG);
	expect_diff(&b, 0, IMG, "");
	bed_write(img, 0, 2 * MIB, 1);
	assert_int_equal(snapshot(&b, 11, IMG), 0);
	expect_diff(&b, snapshot_image(11), IMG, "");
	expect_diff(&b, 0, IMG, "0+512d ");
	expect_diff(&b, IMG, 0, "0+512h ");
	bed_write(img, 4096, 8192, 2);
	bed_punch(img, MIB, 4096, true);
	bed_write(img, 1000 * MIB, 4096, 3); /* higher trees */
	bed_write(img, 70000 * MIB, 4096, 4);
	assert_int_equal(snapshot(&b, 12, IMG), 0);
	expect_diff(
	        &b, snapshot_image(11), snapshot_image(12), "1+2d 256+1z 256000+1d 17920000+1d ");
	expect_diff(
	        &b, snapshot_image(12), snapshot_image(11), "1+2d 256+1d 256000+1h 17920000+1h ");
	bed_punch(img, 0, IMAGE_SIZE_MAX, false);
	bed_punch(img, 0, 256 * MIB, true);
	assert_int_equal(snapshot(&b, 13, IMG), 0);
	expect_diff(&b, 0, snapshot_image(13), "0+65536z ");
	assert_int_equal(clone_of(&b, snapshot_image(13), 20), 0);
	expect_diff(&b, 20, snapshot_image(13), "");
	expect_diff(&b, snapshot_image(12), 20, "0+256z 257+65279z 256000+1h 17920000+1h ");
	store_image_close(img);
	bed_free(&b);
}

static void test_usage(void **state)
{
	struct snapshot_usage u[] = {{.id = snapshot_id(1, 0)}, {.id = snapshot_id(2, 0)},
	        {.id = snapshot_id(2, 1)}, {.id = snapshot_id(3, 0)}};
	const struct snapshot_ref both[] = {{snapshot_id(2, 0), IMG}, {snapshot_id(2, 1), 8}};
	struct image_stats is;
	const uint64_t image = IMG;
	struct bed b;

	(void)state;
	bed_make(&b);
	bed_open(&b);
	write_to(&b, IMG, 0, 2 * MIB, 1);
	assert_int_equal(snapshot(&b, u[0].id, IMG), 0);
	write_to(&b, IMG, 0, 10 * 4096, 2);
	write_to(&b, 8, 5 * MIB, 5 * 4096, 2); /* what the set shares within */
	assert_int_equal(store_snapshot_create(b.store, both, 2, NULL, NULL), 0);
	write_to(&b, IMG, 0, 3 * 4096, 3);
	write_to(&b, 8, 5 * MIB, 5 * 4096, 4);
	assert_int_equal(snapshot(&b, u[3].id, IMG), 0);
	assert_int_equal(store_snapshot_usage(b.store, u, 4, NULL, NULL), 0);
	assert_int_equal(u[0].unique_chunks, 10);
	assert_int_equal(u[1].unique_chunks, 3);
	assert_int_equal(u[2].unique_chunks, 0);
	assert_int_equal(u[3].unique_chunks, 0);
	assert_int_equal(store_image_stats(b.store, &image, 1, true, NULL, NULL, &is), 0);
	assert_int_equal(is.unique_chunks, 0);
	assert_int_equal(is.shared_chunks, 512);
	bed_free(&b);
}

/* 1 TiB, sparse, n times 64 MiB of it mapped. */
static void make_large(struct bed *b, unsigned n)
{
	const uint64_t stride = (1ull << 40) / n;
	struct image *src = bed_image(b, 1), *img = bed_image(b, IMG);
	uint64_t shared;

	bed_write(src, 0, 8 * MIB, 1);
	assert_int_equal(store_sync(b->store), 0);
	for (unsigned i = 0; i < n * 8; i++) {
		store_enter(b->store);
		const int r = store_share(
		        src, 0, img, i / 8 * stride + i % 8 * 8 * MIB, 8 * MIB, &shared);
		store_leave(b->store);
		assert_int_equal(r, 0);
		if (i % 64 == 63)
			assert_int_equal(store_sync(b->store), 0);
	}
	assert_int_equal(store_sync(b->store), 0);
	store_image_close(src);
	store_image_close(img);
}

/* An operation reads and writes a few rows, whatever the size.  SNAPSHOT_BENCH=64: 4 Mi chunks, timed. */
static void test_costs_the_same_at_any_size(void **state)
{
	const char *bench = getenv("SNAPSHOT_BENCH");
	struct bed b;

	(void)state;
	bed_make(&b);
	bed_open(&b);
	make_large(&b, bench ? (unsigned)atoi(bench) : 2);
	for (unsigned k = 0; k < 3; k++) {
		const uint64_t writes = fake_meta_writes(b.meta), reads = fake_meta_reads(b.meta);
		const uint64_t start_ns = clock_now_ns();

		assert_int_equal(k == 0   ? snapshot(&b, 11, IMG)
		                 : k == 1 ? clone_of(&b, IMG, 20)
		                          : rollback(&b, IMG, 11),
		        0);
		if (bench)
			printf("%.3f ms\n", (double)(clock_now_ns() - start_ns) / 1e6);
		assert_true(fake_meta_writes(b.meta) - writes < 10);
		assert_true(fake_meta_reads(b.meta) - reads < 10);
	}
	bed_free(&b);
}

/* Copies made and sources deleted while the collector walks. */
struct race {
	struct bed *b;
	unsigned step;
};

static void in_walk(void *arg, uint64_t done, uint64_t total)
{
	struct race *race = arg;
	struct bed *b = race->b;

	(void)done, (void)total;
	if (race->step++ != 0)
		return;
	/* Image 1 was walked; 9 and the snapshot were not. */
	assert_int_equal(clone_of(b, 9, 1), 0);
	assert_int_equal(rollback(b, 2, 12), 0);
	store_enter(b->store);
	assert_int_equal(store_image_delete(b->store, 9), 0);
	store_leave(b->store);
	assert_int_equal(delete (b, 12), 0);
}

static void test_copies_during_collection(void **state)
{
	struct race race = {0};
	struct gc_report report;
	struct bed b;

	(void)state;
	bed_make(&b);
	bed_open(&b);
	race.b = &b;
	write_to(&b, 1, 0, 4096, 1);
	write_to(&b, 9, 0, 8 * MIB, 2);
	write_to(&b, 2, 0, 8 * MIB, 3);
	assert_int_equal(snapshot(&b, 12, 2), 0);
	struct image *img = bed_image(&b, 2);
	bed_punch(img, 0, IMAGE_SIZE_MAX, false);
	store_image_close(img);
	assert_int_equal(store_sync(b.store), 0);
	assert_int_equal(store_gc(b.store, true, in_walk, &race, &report), 0);
	assert_true(race.step > 1);
	bed_crash(&b);
	bed_open(&b);
	expect(&b, 1, 0, 8 * MIB, 2);
	expect(&b, 2, 0, 8 * MIB, 3);
	bed_free(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_keeps_its_content),
	        cmocka_unit_test(test_space_comes_back),
	        cmocka_unit_test(test_rollback),
	        cmocka_unit_test(test_clones),
	        cmocka_unit_test(test_clone_into_open_image),
	        cmocka_unit_test(test_handles_are_for_reading),
	        cmocka_unit_test(test_rows_and_errors),
	        cmocka_unit_test(test_hostile_ids),
	        cmocka_unit_test(test_domains_are_compared),
	        cmocka_unit_test(test_failed_commits),
	        cmocka_unit_test(test_diff),
	        cmocka_unit_test(test_usage),
	        cmocka_unit_test(test_costs_the_same_at_any_size),
	        cmocka_unit_test(test_copies_during_collection),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

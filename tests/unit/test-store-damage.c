/*
 * test-store-damage.c - what is acknowledged over damaged map nodes is kept
 */
#include "store-bed.h"

#define IMG 7u

struct inner {
	uint64_t ids[8]; /* of nodes of this level, in order */
	unsigned level, n;
};

static int inner_take(void *arg, uint64_t node, unsigned level)
{
	struct inner *in = arg;

	assert_true(in->n < 8);
	if (level == in->level)
		in->ids[in->n++] = node;
	return 0;
}

/* Two GiB apart, content 1 and 2; then the nodes of this level that lead to the first are damaged. */
static struct image *damaged_image(struct bed *b, unsigned level)
{
	struct inner in = {.level = level};

	bed_make(b);
	bed_open(b);
	struct image *img = bed_image(b, IMG);
	bed_write(img, 0, 2 * MIB, 1);
	bed_write(img, 2048 * MIB, MIB, 2);
	assert_int_equal(store_sync(b->store), 0);
	assert_int_equal(map_walk(img->map, inner_take, NULL, &in), 0);
	fake_meta_node_damage(b->meta, in.ids[0], 333);
	store_image_close(img);
	bed_crash(b);
	bed_open(b);
	return bed_image(b, IMG);
}

static void expect_lost(struct image *img, uint64_t off)
{
	uint8_t chunk[CHUNK_SIZE];

	assert_int_equal(store_read(img, off, chunk, sizeof(chunk)), -EIO);
}

static void expect_all(struct bed *b, struct image *img, unsigned level)
{
	struct gc_report report;

	bed_expect(img, 4 * CHUNK_SIZE, CHUNK_SIZE, 3);
	bed_expect(img, 9 * MIB, MIB, 4);
	bed_expect(img, 20 * MIB, 10 * MIB, 0);
	expect_lost(img, 0);
	expect_lost(img, MIB);
	if (level == 1)
		bed_expect(img, 2048 * MIB, MIB, 2);
	else
		expect_lost(img, 2048 * MIB);
	/* Nothing is freed while it is not known what is in use. */
	assert_int_equal(store_gc(b->store, true, NULL, NULL, &report), -EIO);
}

/* A chunk, a MiB and a hole, below a damaged node: committed, they are there; the rest stays an error. */
static void writes_below_a_damaged_inner_node_are_kept(void **state)
{
	(void)state;
	for (unsigned level = 1; level < 3; level++) {
		struct bed b;
		struct image *img = damaged_image(&b, level);

		expect_lost(img, 0);
		bed_write(img, 4 * CHUNK_SIZE, CHUNK_SIZE, 3);
		bed_write(img, 9 * MIB, MIB, 4);
		bed_punch(img, 20 * MIB, 10 * MIB, false);
		assert_int_equal(store_sync(b.store), 0);
		expect_all(&b, img, level);
		store_image_close(img);
		bed_crash(&b);
		bed_open(&b);
		img = bed_image(&b, IMG);
		expect_all(&b, img, level);
		store_image_close(img);
		bed_free(&b);
	}
}

/* The same from the intent log: what was flushed before the power went is kept, too. */
static void flushed_writes_below_a_damaged_inner_node_are_replayed(void **state)
{
	struct bed b;
	struct image *img = damaged_image(&b, 1);

	(void)state;
	bed_write(img, 9 * MIB, MIB, 4);
	assert_int_equal(store_flush(b.store, img), 0);
	store_image_close(img);
	bed_crash(&b);
	bed_open(&b);
	img = bed_image(&b, IMG);
	bed_expect(img, 9 * MIB, MIB, 4);
	expect_lost(img, MIB);
	bed_expect(img, 2048 * MIB, MIB, 2);
	store_image_close(img);
	bed_free(&b);
}

/* A node that cannot be read just now is no lost node: the group waits for it. */
static void nodes_that_cannot_be_read_for_now_are_not_given_up(void **state)
{
	struct bed b;
	struct image *img;

	(void)state;
	bed_make(&b);
	bed_open(&b);
	img = bed_image(&b, IMG);
	bed_write(img, 0, 2 * MIB, 1);
	assert_int_equal(store_sync(b.store), 0);
	store_image_close(img);
	bed_crash(&b);
	bed_open(&b);
	img = bed_image(&b, IMG);
	bed_write(img, MIB, CHUNK_SIZE, 3);
	fake_meta_fail_reads(b.meta, 1, 8, -EIO);
	assert_int_equal(store_sync(b.store), -EIO);
	fake_meta_fail_reads(b.meta, 1, 0, -EIO);
	assert_int_equal(store_sync(b.store), 0);
	bed_expect(img, 0, MIB, 1);
	bed_expect(img, MIB, CHUNK_SIZE, 3);
	store_image_close(img);
	bed_free(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(writes_below_a_damaged_inner_node_are_kept),
	        cmocka_unit_test(flushed_writes_below_a_damaged_inner_node_are_replayed),
	        cmocka_unit_test(nodes_that_cannot_be_read_for_now_are_not_given_up),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * test-frame-read.c - the content of a snapshot as it is stored: every chunk in its frame, once
 */
#include "store-bed.h"
#include "store/frame-read.h"

#define IMG    7u
#define SEALED 1001u /* of domain 1 */
#define SNAP   11u

static const uint8_t key_1[SEAL_KEY_LEN] = "key one";

static void world_make(struct bed *b)
{
	struct store_state state;

	bed_make(b);
	struct meta *m = fake_meta_port(b->meta);
	assert_int_equal(m->ops->state_get(m, &state), 0);
	assert_int_equal(keyring_new(state.uuid, state.domain_key, &b->cfg.keyring), 0);
	assert_int_equal(keyring_add(b->cfg.keyring, 1, key_1), 0);
	bed_open(b);
}

static void world_free(struct bed *b)
{
	struct keyring *kr = b->cfg.keyring;

	bed_free(b);
	keyring_free(kr);
}

static void snapshot(struct bed *b, uint64_t image, uint64_t id)
{
	const struct snapshot_ref ref = {.id = id, .image = image};

	assert_int_equal(store_snapshot_create(b->store, &ref, 1, NULL, NULL), 0);
}

/* Half of each chunk is text: compressed, but not to nothing. */
static void text_write(struct image *img, uint64_t chunk, unsigned n, unsigned seed)
{
	for (unsigned i = 0; i < n; i++) {
		uint8_t data[CHUNK_SIZE] = {0};
		bed_bytes(seed + i, data, CHUNK_SIZE / 2);
		store_enter(img->store);
		assert_int_equal(store_write(img, (chunk + i) * CHUNK_SIZE, data, CHUNK_SIZE), 0);
		store_leave(img->store);
	}
}

/* What comes, unpacked, at the places that the entries say. */
struct taken {
	uint64_t entries[LEAF_CHUNKS];
	unsigned n, frames, packed, stop_after;
	uint8_t content[LEAF_CHUNKS][CHUNK_SIZE];
	unsigned times[LEAF_CHUNKS];
};

static int take(void *arg, const struct frame_info *f, const uint8_t *payload)
{
	static uint8_t chunks[FRAME_UNPACK_BYTES];
	struct taken *t = arg;

	assert_int_equal(f->key_id, 0);
	assert_int_equal(frame_unpack(f, payload, chunks), 0);
	t->frames++;
	t->packed += f->codec == CODEC_LZ4;
	for (unsigned i = 0; i < t->n; i++) {
		for (unsigned c = 0; c < f->n; c++) {
			if (entry_loc(t->entries[i]) != loc_make(f->segment, f->slots[c]))
				continue;
			memcpy(t->content[i], chunks + (size_t)c * CHUNK_SIZE, CHUNK_SIZE);
			t->times[i]++;
		}
	}
	return t->stop_after && t->frames == t->stop_after ? -ECANCELED : 0;
}

static int take_all(struct image *img, uint64_t first, unsigned n, struct taken *t)
{
	*t = (struct taken){.n = n, .stop_after = t->stop_after};
	const int r = store_snapshot_entries(img, first, n, t->entries);
	return r < 0 ? r : store_snapshot_frames(img, t->entries, n, take, t);
}

static void expect_once(struct image *img, uint64_t first, const struct taken *t)
{
	uint8_t chunk[CHUNK_SIZE];

	for (unsigned i = 0; i < t->n; i++) {
		assert_int_equal(t->times[i], 1);
		assert_int_equal(store_read(img, (first + i) * CHUNK_SIZE, chunk, CHUNK_SIZE), 0);
		assert_memory_equal(chunk, t->content[i], CHUNK_SIZE);
	}
}

static void frames_come_as_they_are_stored(struct bed *b, uint64_t image)
{
	static struct taken t;
	struct image *img = bed_image(b, image), *snap;

	text_write(img, 0, 64, 1);
	snapshot(b, image, SNAP);
	text_write(img, 3, 2, 900); /* not in the snapshot */
	snapshot(b, image, SNAP + 1);
	snap = bed_image(b, snapshot_image(SNAP));
	assert_int_equal(take_all(snap, 0, 64, &t), 0);
	expect_once(snap, 0, &t);
	assert_int_equal(t.frames, 8);
	assert_int_equal(t.packed, 8);
	store_image_close(snap);
	snap = bed_image(b, snapshot_image(SNAP + 1));
	assert_int_equal(take_all(snap, 0, 64, &t), 0);
	expect_once(snap, 0, &t);
	assert_int_equal(t.frames, 9);
	assert_int_equal(take_all(snap, 9, 3, &t), 0);
	expect_once(snap, 9, &t);
	assert_int_equal(t.frames, 1);
	t.stop_after = 2;
	assert_int_equal(take_all(snap, 0, 64, &t), -ECANCELED);
	assert_int_equal(t.frames, 2);
	t.stop_after = 0;
	store_image_close(snap);
	store_image_close(img);
}

static void test_frames_come_as_they_are_stored(void **state)
{
	struct bed b;

	world_make(&b);
	frames_come_as_they_are_stored(&b, IMG);
	world_free(&b);
}

static void test_of_an_encrypted_image_they_are_opened(void **state)
{
	static struct taken t;
	struct bed b;

	world_make(&b);
	frames_come_as_they_are_stored(&b, SEALED);
	assert_int_equal(store_close(b.store), 0);
	assert_int_equal(keyring_remove(b.cfg.keyring, 1), 0);
	bed_open(&b);
	struct image *snap = bed_image(&b, snapshot_image(SNAP));
	assert_int_equal(take_all(snap, 0, 8, &t), -ENOKEY);
	store_image_close(snap);
	world_free(&b);
}

static void test_content_that_is_there_twice_is_in_one_frame(void **state)
{
	static struct taken t;
	struct bed b;

	world_make(&b);
	struct image *img = bed_image(&b, IMG);
	text_write(img, 0, 8, 1);
	assert_int_equal(store_sync(b.store), 0);
	text_write(img, 100, 8, 1);
	snapshot(&b, IMG, SNAP);
	struct image *snap = bed_image(&b, snapshot_image(SNAP));
	t = (struct taken){.n = 16};
	assert_int_equal(store_snapshot_entries(snap, 0, 8, t.entries), 0);
	assert_int_equal(store_snapshot_entries(snap, 100, 8, t.entries + 8), 0);
	assert_int_equal(store_snapshot_frames(snap, t.entries, 16, take, &t), 0);
	assert_int_equal(t.frames, 1);
	for (unsigned i = 0; i < 8; i++)
		assert_memory_equal(t.content[i], t.content[8 + i], CHUNK_SIZE);
	store_image_close(snap);
	store_image_close(img);
	world_free(&b);
}

/* As when a map was damaged in a way that its checksum does not tell. */
static void test_an_entry_that_means_something_else_is_an_error(void **state)
{
	static struct taken t;
	struct bed b;

	world_make(&b);
	struct image *img = bed_image(&b, IMG);
	text_write(img, 0, 8, 1);
	snapshot(&b, IMG, SNAP);
	struct image *snap = bed_image(&b, snapshot_image(SNAP));
	t = (struct taken){.n = 8};
	assert_int_equal(store_snapshot_entries(snap, 0, 8, t.entries), 0);
	t.entries[3] ^= 1ull << 60;
	assert_int_equal(store_snapshot_frames(snap, t.entries, 8, take, &t), -EIO);
	t.entries[3] = entry_data(loc_make(4711, 1), 0);
	assert_int_equal(store_snapshot_frames(snap, t.entries, 8, take, &t), -EIO);
	store_image_close(snap);
	store_image_close(img);
	world_free(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_frames_come_as_they_are_stored),
	        cmocka_unit_test(test_of_an_encrypted_image_they_are_opened),
	        cmocka_unit_test(test_content_that_is_there_twice_is_in_one_frame),
	        cmocka_unit_test(test_an_entry_that_means_something_else_is_an_error),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

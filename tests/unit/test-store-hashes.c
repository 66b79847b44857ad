/*
 * test-store-hashes.c - what the hashes of encrypted images that are stored tell: nothing
 */
#include "base/bytes.h"
#include "sealed-bed.h"

static void chunk_write(struct image *img, unsigned i, const uint8_t chunk[CHUNK_SIZE])
{
	store_enter(img->store);
	assert_int_equal(store_write(img, (uint64_t)i * CHUNK_SIZE, chunk, CHUNK_SIZE), 0);
	store_leave(img->store);
}

/* In how many segment files these are, as they stand in frames and footers. */
static unsigned hash_found(struct bed *b, struct hash128 hash)
{
	uint8_t bytes[16];

	put_u64(bytes, hash.lo);
	put_u64(bytes + 8, hash.hi);
	return files_hold(b, (const char *)bytes, sizeof(bytes));
}

static void policy_dedupe_set(struct image *img, enum policy_dedupe dedupe)
{
	struct image_policy p;

	store_policy_get(img, &p);
	p.dedupe = dedupe;
	store_enter(img->store);
	store_policy_set(img, &p);
	store_leave(img->store);
}

/* Who reads the disk learns nothing of a chunk from its hash; nor that chunks are equal, if he is not to. */
static void stored_hashes_say_nothing(void **state)
{
	const enum policy_dedupe modes[] = {POLICY_DEDUPE_ON, POLICY_DEDUPE_OFF};
	struct hash128 known;

	for (unsigned i = 0; i < ARRAY_SIZE(modes); i++) {
		struct bed b;
		uint8_t chunk[CHUNK_SIZE], got[CHUNK_SIZE];
		sealed_make(&b);
		struct image *img = bed_image(&b, SEALED_A);
		const struct crypto_domain *d = keyring_get(b.cfg.keyring, 1);
		bed_bytes(3, chunk, sizeof(chunk));
		policy_dedupe_set(img, modes[i]);
		for (unsigned k = 0; k < 3; k++)
			chunk_write(img, k * 100, chunk);
		assert_int_equal(store_sync(b.store), 0);
		assert_int_equal(domain_hash(d, chunk, &known), 0);
#ifndef WEIR_HASH_BITS
		assert_int_equal(hash_found(&b, chunk_hash(&d->hasher, chunk)), 0);
#endif
		assert_int_equal(hash_found(&b, known), modes[i] == POLICY_DEDUPE_ON);
		keyring_put(b.cfg.keyring, d);
		for (unsigned k = 0; k < 3; k++) {
			assert_int_equal(
			        store_read(img, (uint64_t)k * 100 * CHUNK_SIZE, got, CHUNK_SIZE),
			        0);
			assert_memory_equal(got, chunk, CHUNK_SIZE);
		}
		store_image_close(img);
		sealed_free(&b);
	}
}

/* A random hash must not be taken for one of content: of a map entry that shares it, reads would fail. */
static void what_is_not_deduplicated_is_not_in_a_rebuilt_index(void **state)
{
	struct bed b;
	struct hash128 hashes[SEGMENT_SLOTS];
	unsigned n = 0;

	sealed_make(&b);
	struct image *img = bed_image(&b, SEALED_A);
	policy_dedupe_set(img, POLICY_DEDUPE_OFF);
	bed_write(img, 0, MIB, 7);
	assert_int_equal(store_sync(b.store), 0);
	assert_int_equal(segments_hashes(b.store->segments, 1, hashes, &n), 0);
	assert_true(n >= LEAF_CHUNKS);
	for (unsigned i = 0; i < n; i++)
		assert_true(hash_equal(hashes[i], (struct hash128){0}));
	policy_dedupe_set(img, POLICY_DEDUPE_ON);
	bed_write(img, MIB, MIB, 7);
	assert_int_equal(store_sync(b.store), 0);
	assert_int_equal(stat_hits(&b), 0);
	bed_expect(img, 0, MIB, 7);
	bed_expect(img, MIB, MIB, 7);
	store_image_close(img);
	sealed_free(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(stored_hashes_say_nothing),
	        cmocka_unit_test(what_is_not_deduplicated_is_not_in_a_rebuilt_index),
	};

	return cmocka_run_group_tests_name("store-hashes", tests, NULL, NULL);
}

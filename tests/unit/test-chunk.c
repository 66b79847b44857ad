#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "store/chunk.h"

static _Alignas(CHUNK_SIZE) uint8_t chunk[CHUNK_SIZE];

static void key_fill(uint8_t key[DOMAIN_KEY_LEN], uint8_t seed)
{
	for (unsigned i = 0; i < DOMAIN_KEY_LEN; i++)
		key[i] = (uint8_t)(seed * 31 + i * 7);
}

static void a_single_byte_anywhere_makes_a_chunk_non_zero(void **state)
{
	memset(chunk, 0, sizeof(chunk));
	assert_true(chunk_is_zero(chunk));
	for (unsigned i = 0; i < CHUNK_SIZE; i++) {
		chunk[i] = (uint8_t)(1u << i % 8);
		if (chunk_is_zero(chunk))
			fail_msg("byte %u overlooked", i);
		chunk[i] = 0;
	}
}

static void a_repeated_pattern_is_not_zero(void **state)
{
	for (unsigned value = 1; value < 256; value++) {
		memset(chunk, (int)value, sizeof(chunk));
		assert_false(chunk_is_zero(chunk));
	}
}

static void equal_content_has_equal_hashes_and_a_flipped_bit_another(void **state)
{
	uint8_t key[DOMAIN_KEY_LEN];
	struct chunk_hasher h;

	key_fill(key, 1);
	chunk_hasher_init(&h, key);
	memset(chunk, 7, sizeof(chunk));
	const struct hash128 first = chunk_hash(&h, chunk);
	assert_true(hash_equal(first, chunk_hash(&h, chunk)));
	/* A build with shortened hashes collides by design: count, do not demand. */
	unsigned same = 0;
	for (unsigned i = 0; i < CHUNK_SIZE; i++) {
		chunk[i] ^= 1;
		same += hash_equal(first, chunk_hash(&h, chunk));
		chunk[i] ^= 1;
	}
#ifdef WEIR_HASH_BITS
	assert_true(same < CHUNK_SIZE / 16);
#else
	assert_int_equal(same, 0);
#endif
	assert_true(hash_equal(first, chunk_hash(&h, chunk)));
}

static void hashes_depend_on_the_key(void **state)
{
	uint8_t key[DOMAIN_KEY_LEN];
	struct chunk_hasher a, b, again;
	unsigned same = 0;

	key_fill(key, 1);
	chunk_hasher_init(&a, key);
	chunk_hasher_init(&again, key);
	for (unsigned i = 0; i < DOMAIN_KEY_LEN; i++) {
		key[i] ^= 1;
		chunk_hasher_init(&b, key);
		key[i] ^= 1;
		memset(chunk, (int)i, sizeof(chunk));
		same += hash_equal(chunk_hash(&a, chunk), chunk_hash(&b, chunk));
		assert_true(hash_equal(chunk_hash(&a, chunk), chunk_hash(&again, chunk)));
	}
	assert_int_equal(same, 0);
}

#ifndef WEIR_HASH_BITS
/* The secret and the hash are part of the format: they may not change with a library. */
static void hash_is_the_one_that_stored_data_was_hashed_with(void **state)
{
	uint8_t key[DOMAIN_KEY_LEN];
	struct chunk_hasher h;

	key_fill(key, 3);
	chunk_hasher_init(&h, key);
	for (unsigned i = 0; i < CHUNK_SIZE; i++)
		chunk[i] = (uint8_t)(i ^ i >> 8);
	const struct hash128 hash = chunk_hash(&h, chunk);
	assert_int_equal(hash.lo, 0x7df688ecc5fba6cull);
	assert_int_equal(hash.hi, 0xe12327ffee5dd8abull);
}
#endif

static void locations_and_map_entries_round_trip(void **state)
{
	const uint64_t segments[] = {1, 2, 255, 0x123456789, SEGMENT_ID_MAX - 1, SEGMENT_ID_MAX};
	const unsigned slots[] = {0, 1, 15, 1024, SEGMENT_SLOTS - 1, 4095};
	const unsigned checks[] = {0, 1, 0x5a5, 0xfff};

	for (unsigned s = 0; s < ARRAY_SIZE(segments); s++)
		for (unsigned k = 0; k < ARRAY_SIZE(slots); k++)
			for (unsigned c = 0; c < ARRAY_SIZE(checks); c++) {
				const uint64_t loc = loc_make(segments[s], slots[k]);
				const uint64_t e = entry_data(loc, checks[c]);
				assert_int_equal(loc_segment(loc), segments[s]);
				assert_int_equal(loc_slot(loc), slots[k]);
				assert_int_equal(entry_state(e), ENTRY_DATA);
				assert_int_equal(entry_loc(e), loc);
				assert_int_equal(entry_check(e), checks[c]);
			}
}

static void map_entries_have_their_documented_bits(void **state)
{
	assert_int_equal(loc_make(1, 0), 0x1000);
	assert_int_equal(entry_data(loc_make(1, 2), 0xabc), 0xabc0000000000000 | 0x1002 << 2 | 3);
	assert_int_equal(entry_state(0), ENTRY_HOLE);
	assert_int_equal(entry_state(2), ENTRY_ZERO);
	assert_int_equal(hash_check((struct hash128){.lo = 1, .hi = 0x123456}), 0x456);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(a_single_byte_anywhere_makes_a_chunk_non_zero),
	        cmocka_unit_test(a_repeated_pattern_is_not_zero),
	        cmocka_unit_test(equal_content_has_equal_hashes_and_a_flipped_bit_another),
	        cmocka_unit_test(hashes_depend_on_the_key),
#ifndef WEIR_HASH_BITS
	        cmocka_unit_test(hash_is_the_one_that_stored_data_was_hashed_with),
#endif
	        cmocka_unit_test(locations_and_map_entries_round_trip),
	        cmocka_unit_test(map_entries_have_their_documented_bits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

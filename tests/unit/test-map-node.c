/*
 * test-map-node.c - the map node's bytes: round trips, golden bytes, and what is refused
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "store/map.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#define HEADER_LEN  12
#define TRAILER_LEN 8

static uint64_t rng = 88172645463325252ull;

static uint64_t random_u64(void)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return rng;
}

static uint64_t random_data_entry(void)
{
	return entry_data(loc_make(1 + random_u64() % SEGMENT_ID_MAX,
	                          (unsigned)(random_u64() % SEGMENT_SLOTS)),
	        (unsigned)(random_u64() & 0xfff));
}

static size_t round_trip(const struct map_node *n, uint64_t id)
{
	uint8_t buf[NODE_BLOB_MAX];
	struct map_node back;
	const size_t len = map_node_encode(n, id, buf);

	assert_true(len <= sizeof(buf));
	assert_int_equal(map_node_decode(buf, len, id, &back), 0);
	assert_int_equal(back.level, n->level);
	assert_int_equal(back.birth_txg, n->birth_txg);
	assert_memory_equal(back.values, n->values, sizeof(n->values));
	return len;
}

static void sequential_leaf(struct map_node *n, uint64_t segment, unsigned slot)
{
	*n = (struct map_node){.birth_txg = 7};
	for (unsigned i = 0; i < LEAF_CHUNKS; i++)
		n->values[i] = entry_data(loc_make(segment, slot + i), i * 37 & 0xfff);
}

static void leaf_written_in_sequence_takes_413_bytes(void **state)
{
	struct map_node n;

	sequential_leaf(&n, 5, 100);
	assert_int_equal(round_trip(&n, 9), HEADER_LEN + 2 + 7 + LEAF_CHUNKS * 3 / 2 + TRAILER_LEN);
	/* The last slots of the last segment there can be. */
	sequential_leaf(&n, SEGMENT_ID_MAX, SEGMENT_SLOTS - LEAF_CHUNKS);
	round_trip(&n, INT64_MAX);
}

static void uniform_leaves_round_trip(void **state)
{
	struct map_node n = {.birth_txg = UINT64_MAX};

	assert_int_equal(round_trip(&n, 1), HEADER_LEN + 2 + TRAILER_LEN);
	for (unsigned i = 0; i < LEAF_CHUNKS; i++)
		n.values[i] = ENTRY_ZERO;
	assert_int_equal(round_trip(&n, 1), HEADER_LEN + 2 + TRAILER_LEN);
}

static void scattered_leaf_is_never_larger_than_raw(void **state)
{
	for (unsigned round = 0; round < 200; round++) {
		struct map_node n = {.birth_txg = round};

		for (unsigned i = 0; i < LEAF_CHUNKS; i++)
			n.values[i] = random_data_entry();
		assert_true(round_trip(&n, 1 + random_u64() % 1000) <=
		            HEADER_LEN + LEAF_CHUNKS * 8 + TRAILER_LEN);
	}
}

/* Runs of random kinds and lengths, also ones that end at a segment's last slot and at odd lengths.
 */
static void random_runs_round_trip(void **state)
{
	for (unsigned round = 0; round < 2000; round++) {
		struct map_node n = {.birth_txg = random_u64()};
		const unsigned run_max = 1 + (unsigned)(random_u64() % 64);

		for (unsigned i = 0; i < LEAF_CHUNKS;) {
			const unsigned len = 1 + (unsigned)(random_u64() % run_max);
			const unsigned kind = (unsigned)(random_u64() % 4);
			uint64_t e = random_data_entry();

			for (unsigned k = 0; k < len && i < LEAF_CHUNKS; k++, i++) {
				const bool full = loc_slot(entry_loc(e)) == SEGMENT_SLOTS - 1;

				n.values[i] = kind == 0 ? ENTRY_HOLE : kind == 1 ? ENTRY_ZERO : e;
				e = full ? random_data_entry()
				         : entry_data(entry_loc(e) + 1,
				                   (unsigned)(random_u64() & 0xfff));
			}
		}
		round_trip(&n, 1 + random_u64() % INT64_MAX);
	}
}

static void inner_nodes_round_trip(void **state)
{
	for (unsigned round = 0; round < 300; round++) {
		struct map_node n = {.level = 1 + round % 3, .birth_txg = round};

		for (unsigned i = 0; i < LEAF_CHUNKS; i++) {
			const unsigned kind = (unsigned)(random_u64() % (1 + round % 8));

			n.values[i] = kind == 0   ? 1 + random_u64() % INT64_MAX
			              : kind == 1 ? MAP_NODE_ALL_ZERO
			                          : 0;
		}
		round_trip(&n, round + 1);
	}
}

static void golden(const struct map_node *n, uint64_t id, const uint8_t *expect, size_t len)
{
	uint8_t buf[NODE_BLOB_MAX];
	const size_t got = map_node_encode(n, id, buf);

	assert_int_equal(got, len);
	assert_memory_equal(buf, expect, len);
}

static void leaf_bytes_are_golden(void **state)
{
	static const uint8_t expect[] = {
	        1, 1, 0, 0, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11,          /* header */
	        0, 9,                                                                /* 10 holes */
	        3, 2, 0xfd, 0x57, 0x34, 0x12, 0, 0, 0, 0xbc, 0x3a, 0x12, 0xef, 0x0d, /* 3 data */
	        2, 242,                                                              /* 243 zeros */
	        0xda, 0xb4, 0x86, 0x27, 0xb3, 0x7b, 0x08, 0xdc, /* checksum, seed 42 */
	};
	struct map_node n = {.birth_txg = 0x1122334455667788ull};

	for (unsigned i = 0; i < LEAF_CHUNKS; i++)
		n.values[i] = i < 10 ? ENTRY_HOLE : ENTRY_ZERO;
	n.values[10] = entry_data(loc_make(0x12345, 0x7fd), 0xabc);
	n.values[11] = entry_data(loc_make(0x12345, 0x7fe), 0x123);
	n.values[12] = entry_data(loc_make(0x12345, 0x7ff), 0xdef);
	golden(&n, 42, expect, sizeof(expect));
}

static void inner_bytes_are_golden(void **state)
{
	static const uint8_t expect[] = {
	        1, 3, 2, 0, 3, 0, 0, 0, 0, 0, 0, 0,                /* header */
	        1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,    /* children 0, 9 .. */
	        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80, /* .. 255 */
	        8, 7, 6, 5, 4, 3, 2, 1,                            /* id */
	        255, 255, 255, 255, 255, 255, 255, 255,            /* all zero */
	        17, 0, 0, 0, 0, 0, 0, 0,                           /* id */
	        0x67, 0xd6, 0x38, 0x56, 0x9a, 0xaa, 0x3d, 0x5e,    /* checksum, seed 99 */
	};
	struct map_node n = {.level = 2, .birth_txg = 3};

	n.values[0] = 0x0102030405060708ull;
	n.values[9] = MAP_NODE_ALL_ZERO;
	n.values[255] = 17;
	golden(&n, 99, expect, sizeof(expect));
}

static void every_changed_bit_is_noticed(void **state)
{
	struct map_node n, back;
	uint8_t buf[NODE_BLOB_MAX];

	sequential_leaf(&n, 5, 100);
	n.values[30] = ENTRY_ZERO;
	const size_t len = map_node_encode(&n, 1234, buf);
	for (size_t bit = 0; bit < len * 8; bit++) {
		buf[bit / 8] ^= (uint8_t)(1 << bit % 8);
		assert_int_equal(map_node_decode(buf, len, 1234, &back), -EUCLEAN);
		buf[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	assert_int_equal(map_node_decode(buf, len, 1234, &back), 0);
}

static void blob_of_another_node_or_length_is_refused(void **state)
{
	struct map_node n, back;
	uint8_t buf[NODE_BLOB_MAX + 1];

	sequential_leaf(&n, 5, 100);
	memset(buf, 0, sizeof(buf));
	const size_t len = map_node_encode(&n, 1234, buf);
	assert_int_equal(map_node_decode(buf, len, 1235, &back), -EUCLEAN);
	for (size_t l = 0; l < sizeof(buf); l++)
		assert_int_equal(map_node_decode(buf, l, 1234, &back), l == len ? 0 : -EUCLEAN);
}

/* Decodes a payload under a header and with a checksum that are right. */
static int decode_payload(unsigned kind, unsigned level, const uint8_t *payload, size_t len)
{
	uint8_t buf[NODE_BLOB_MAX] = {1, (uint8_t)kind, (uint8_t)level};
	struct map_node back = {.birth_txg = 4711};

	memcpy(buf + HEADER_LEN, payload, len);
	put_u64(buf + HEADER_LEN + len, XXH3_64bits_withSeed(buf, HEADER_LEN + len, 6));
	const int r = map_node_decode(buf, HEADER_LEN + len + TRAILER_LEN, 6, &back);
	assert_int_equal(back.birth_txg, r < 0 ? 4711 : 0);
	return r;
}
#define DECODE(kind, level, ...)                                                                   \
	decode_payload(kind, level, (const uint8_t[]){__VA_ARGS__},                                \
	        sizeof((const uint8_t[]){__VA_ARGS__}))

static void runs_that_are_not_valid_are_refused_despite_their_checksum(void **state)
{
	assert_int_equal(DECODE(1, 0, 0, 255), 0);
	assert_int_equal(DECODE(1, 0, 0, 254, 2, 0), 0);
	assert_int_equal(DECODE(1, 0, 0, 254), -EUCLEAN);       /* 255 entries */
	assert_int_equal(DECODE(1, 0, 0, 254, 2, 1), -EUCLEAN); /* 257 */
	assert_int_equal(DECODE(1, 0, 0, 255, 0), -EUCLEAN);    /* a byte too many */
	assert_int_equal(DECODE(1, 0, 1, 255), -EUCLEAN);       /* no such state */
	assert_int_equal(DECODE(1, 0, 4, 255), -EUCLEAN);
	assert_int_equal(DECODE(1, 1, 0, 255), -EUCLEAN); /* a leaf at level 1 */
	assert_int_equal(DECODE(0, 0, 0, 255), -EUCLEAN); /* no such kind */
	assert_int_equal(DECODE(4, 0, 0, 255), -EUCLEAN);
	/* One chunk of data, then holes: location, check */
	assert_int_equal(DECODE(1, 0, 3, 0, 0, 0x10, 0, 0, 0, 0, 0, 1, 0, 0, 254), 0);
	assert_int_equal(DECODE(1, 0, 3, 0, 0, 0x10, 0, 0, 0, 0, 0, 1, 0x10, 0, 254),
	        -EUCLEAN); /* padding */
	assert_int_equal(
	        DECODE(1, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 254), -EUCLEAN); /* segment 0 */
	assert_int_equal(
	        DECODE(1, 0, 3, 0, 0, 0x10, 0, 0, 0, 0, 4, 1, 0, 0, 254), -EUCLEAN); /* 39 bits */
	assert_int_equal(
	        DECODE(1, 0, 3, 0, 0, 0x18, 0, 0, 0, 0, 0, 1, 0, 0, 254), -EUCLEAN); /* slot 2048 */
	/* Two chunks of which the second one is past the segment's end */
	assert_int_equal(DECODE(1, 0, 3, 1, 0xfe, 0x17, 0, 0, 0, 0, 0, 1, 0, 0, 0, 253), 0);
	assert_int_equal(DECODE(1, 0, 3, 1, 0xff, 0x17, 0, 0, 0, 0, 0, 1, 0, 0, 0, 253), -EUCLEAN);
}

static int decode_raw(uint64_t entry)
{
	uint8_t payload[LEAF_CHUNKS * 8] = {0};

	put_u64(payload + 8 * 200, entry);
	return decode_payload(2, 0, payload, sizeof(payload));
}

static void raw_entries_that_are_not_valid_are_refused(void **state)
{
	assert_int_equal(decode_raw(ENTRY_ZERO), 0);
	assert_int_equal(decode_raw(entry_data(loc_make(1, 0), 0xfff)), 0);
	assert_int_equal(decode_raw(MAP_KEEP), -EUCLEAN);
	assert_int_equal(decode_raw(ENTRY_ZERO | 1ull << 40), -EUCLEAN);
	assert_int_equal(decode_raw(4), -EUCLEAN);
	assert_int_equal(decode_raw(entry_data(loc_make(0, 5), 1)), -EUCLEAN);
	assert_int_equal(decode_raw(entry_data(loc_make(1, SEGMENT_SLOTS), 1)), -EUCLEAN);
}

static int decode_inner(unsigned level, uint64_t child)
{
	uint8_t payload[LEAF_CHUNKS / 8 + 8] = {[3] = 0x10};

	put_u64(payload + LEAF_CHUNKS / 8, child);
	return decode_payload(3, level, payload, sizeof(payload));
}

static void children_that_are_not_valid_are_refused(void **state)
{
	assert_int_equal(decode_inner(1, 1), 0);
	assert_int_equal(decode_inner(3, INT64_MAX), 0);
	assert_int_equal(decode_inner(1, MAP_NODE_ALL_ZERO), 0);
	assert_int_equal(decode_inner(1, 0), -EUCLEAN); /* said to be present */
	assert_int_equal(decode_inner(1, 1ull << 63), -EUCLEAN);
	assert_int_equal(decode_inner(1, UINT64_MAX - 1), -EUCLEAN);
	assert_int_equal(decode_inner(0, 1), -EUCLEAN);
	assert_int_equal(decode_inner(4, 1), -EUCLEAN);
}

/* --- sealed leaves --- */

/* Of the key 0, 1 .. 31 and the nonce a0, a1 .. b7. */
static const uint8_t sealed_leaf[] = {0x01, 0x04, 0x00, 0x01, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33,
        0x22, 0x11, 0x07, 0x00, 0x00, 0x00, 0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8,
        0xa9, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf, 0xb0, 0xb1, 0xb2, 0xb3, 0xb4, 0xb5, 0xb6, 0xb7,
        0xcd, 0xac, 0x53, 0xf7, 0xad, 0x2a, 0xb9, 0x2e, 0xf4, 0x06, 0x80, 0x02, 0x8c, 0x0a, 0xdc,
        0xee, 0x99, 0x3f, 0x33, 0xfb, 0x3b, 0x04, 0x2c, 0x25, 0xb4, 0xf3, 0x30, 0xcd, 0xdd, 0xd4,
        0xcc, 0x13, 0xad, 0x8c, 0x9f, 0xb3, 0x0e, 0x02, 0x63, 0xe5, 0x69, 0x11, 0x97};
#define SEALED_ID 42

static struct seal_key *test_key(uint8_t first)
{
	uint8_t bytes[SEAL_KEY_LEN];
	struct seal_key *k = NULL;

	for (unsigned i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)(first + i);
	assert_int_equal(seal_key_new(bytes, &k), 0);
	return k;
}

static void sealed_leaf_bytes_are_golden(void **state)
{
	struct seal_key *k = test_key(0);
	struct map_node n = {0}, head = {0};

	assert_int_equal(
	        map_node_decode(sealed_leaf, sizeof(sealed_leaf), SEALED_ID, &head), -ENOKEY);
	assert_int_equal(head.level, 0);
	assert_int_equal(head.domain, 7);
	assert_true(head.foreign);
	assert_int_equal(head.birth_txg, 0x1122334455667788ull);
	assert_int_equal(map_node_unseal(sealed_leaf, sizeof(sealed_leaf), SEALED_ID, k, &n), 0);
	assert_int_equal(n.domain, 7);
	for (unsigned i = 0; i < LEAF_CHUNKS; i++) {
		const uint64_t want =
		        i < 10   ? (uint64_t)ENTRY_HOLE
		        : i > 12 ? (uint64_t)ENTRY_ZERO
		                 : entry_data(loc_make(0x12345, 0x7fd + i - 10), i == 10   ? 0xabc
		                                                                 : i == 11 ? 0x123
		                                                                           : 0xdef);
		assert_int_equal(n.values[i], want);
	}
	seal_key_free(k);
}

static void sealed_leaves_come_back_and_say_nothing(void **state)
{
	struct seal_key *k = test_key(0), *other = test_key(1);
	uint8_t buf[NODE_BLOB_MAX], clear[NODE_BLOB_MAX];
	struct map_node n, back;
	size_t len = 0;

	for (unsigned round = 0; round < 200; round++) {
		n = (struct map_node){
		        .birth_txg = round, .domain = 1 + round, .foreign = round % 2};
		for (unsigned i = 0; i < LEAF_CHUNKS; i++)
			n.values[i] = round % 3
			                      ? entry_data(loc_make(1 + random_u64() % 1000, i), i)
			                      : entry_data(loc_make(round + 1, i), 0x5a5);
		const size_t clear_len = map_node_encode(&n, round + 1, clear);
		assert_int_equal(map_node_seal(&n, round + 1, k, buf, &len), 0);
		assert_true(len <= sizeof(buf));
		assert_int_equal(map_node_unseal(buf, len, round + 1, k, &back), 0);
		assert_memory_equal(n.values, back.values, sizeof(n.values));
		assert_int_equal(back.foreign, round % 2);
		assert_int_equal(map_node_unseal(buf, len, round + 1, other, &back), -EUCLEAN);
		assert_int_equal(map_node_unseal(buf, len, round + 2, k, &back), -EUCLEAN);
		assert_null(memmem(buf, len, clear + HEADER_LEN, clear_len - HEADER_LEN - 8));
	}
	seal_key_free(k);
	seal_key_free(other);
}

/* With its checksum made right again, a change is noticed by the seal. */
static void every_changed_bit_of_a_sealed_leaf_is_noticed(void **state)
{
	struct seal_key *k = test_key(0);
	const size_t len = sizeof(sealed_leaf), covered = len - TRAILER_LEN;
	uint8_t buf[sizeof(sealed_leaf)];
	struct map_node back;

	memcpy(buf, sealed_leaf, len);
	for (size_t bit = 0; bit < covered * 8; bit++) {
		buf[bit / 8] ^= (uint8_t)(1 << bit % 8);
		assert_int_equal(map_node_decode(buf, len, SEALED_ID, &back), -EUCLEAN);
		put_u64(buf + covered, XXH3_64bits_withSeed(buf, covered, SEALED_ID));
		assert_int_equal(map_node_unseal(buf, len, SEALED_ID, k, &back), -EUCLEAN);
		memcpy(buf, sealed_leaf, len);
	}
	for (size_t l = 0; l < len; l++)
		assert_int_equal(map_node_decode(sealed_leaf, l, SEALED_ID, &back), -EUCLEAN);
	seal_key_free(k);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(leaf_written_in_sequence_takes_413_bytes),
	        cmocka_unit_test(uniform_leaves_round_trip),
	        cmocka_unit_test(scattered_leaf_is_never_larger_than_raw),
	        cmocka_unit_test(random_runs_round_trip),
	        cmocka_unit_test(inner_nodes_round_trip),
	        cmocka_unit_test(leaf_bytes_are_golden),
	        cmocka_unit_test(inner_bytes_are_golden),
	        cmocka_unit_test(every_changed_bit_is_noticed),
	        cmocka_unit_test(blob_of_another_node_or_length_is_refused),
	        cmocka_unit_test(runs_that_are_not_valid_are_refused_despite_their_checksum),
	        cmocka_unit_test(raw_entries_that_are_not_valid_are_refused),
	        cmocka_unit_test(children_that_are_not_valid_are_refused),
	        cmocka_unit_test(sealed_leaf_bytes_are_golden),
	        cmocka_unit_test(sealed_leaves_come_back_and_say_nothing),
	        cmocka_unit_test(every_changed_bit_of_a_sealed_leaf_is_noticed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

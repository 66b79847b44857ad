/*
 * test-frame.c - the bytes of segment headers, frames and footers
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "store/frame.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

static const uint8_t uuid[16] = "0123456789abcde";

static struct segment_header header_sample(void)
{
	struct segment_header h = {.id = 42, .gen = 3, .domain = 1, .created_txg = 99};

	memcpy(h.uuid, uuid, sizeof(uuid));
	return h;
}

static struct frame_info frame_sample(unsigned n)
{
	struct frame_info f = {.n = n, .codec = CODEC_LZ4, .payload_len = 100, .segment = 42};

	f.store = frame_store(uuid);
	f.image = 5;
	f.first_chunk = 1000;
	frame_slots_set(&f, 16);
	for (unsigned i = 0; i < n; i++)
		f.hashes[i] = (struct hash128){.lo = i + 1, .hi = ~(uint64_t)i};
	return f;
}

static void payload_fill(uint8_t *p, size_t len)
{
	for (size_t i = 0; i < len; i++)
		p[i] = (uint8_t)(i * 7);
}

/* --- golden bytes: a change here is a change of the format --- */

static void the_header_has_its_golden_bytes(void **state)
{
	static const uint8_t want[56] = {'W', 'E', 'I', 'R', 'S', 'E', 'G', '1', 1, 0, 0, 0, 3, 0,
	        0, 0, 42, 0, 0, 0, 0, 0, 0, 0, '0', '1', '2', '3', '4', '5', '6', '7', '8', '9',
	        'a', 'b', 'c', 'd', 'e', 0, 1, 0, 0, 0, 0, 0, 0, 0, 99, 0, 0, 0, 0, 0, 0, 0};
	const struct segment_header h = header_sample();
	uint8_t buf[SEGMENT_HEADER_LEN];

	segment_header_encode(&h, buf);
	assert_memory_equal(buf, want, sizeof(want));
	assert_int_equal(get_u64(buf + SEGMENT_HEADER_LEN - 8), 0x2ba53383729890eull);
}

static void a_frame_has_its_golden_bytes(void **state)
{
	static const uint8_t want[64 + 16] = {'W', 'F', 'R', 'M', 3, 1, 16, 0, 0x0b, 0, 0, 0, 100,
	        0, 0, 0, 0, 0, 0, 0, 0x08, 0x08, 0x53, 0x51, 42, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0,
	        0, 0, 0, 0xe8, 3};
	struct frame_info f = frame_sample(3);
	uint8_t payload[100], buf[256];

	payload_fill(payload, sizeof(payload));
	f.slots[2] = 19;
	assert_int_equal(frame_encode(&f, payload, buf), 256);
	assert_memory_equal(buf, want, 48);
	assert_int_equal(get_u64(buf + 48), 0xd04427c660e0ec0full);
	assert_int_equal(get_u64(buf + 56), 0x19a0eea08d8063e1ull);
	assert_int_equal(get_u64(buf + 64), 1);
	assert_int_equal(get_u64(buf + 72), ~0ull);
	assert_memory_equal(buf + 64 + 48, payload, 100);
	for (unsigned i = 64 + 48 + 100; i < 256; i++)
		assert_int_equal(buf[i], 0);
}

static void a_footer_has_its_golden_bytes(void **state)
{
	const struct footer_slot table[3] = {
	        {.frame_pos = 64, .frame_units = 5, .index = 0, .flags = SLOT_PRESENT},
	        {.frame_pos = 64, .frame_units = 5, .index = 9, .flags = SLOT_PRESENT},
	};
	const struct hash128 hashes[3] = {{1, 2}, {3, 4}};
	static uint8_t buf[IO_ALIGN];

	assert_int_equal(footer_size(3), IO_ALIGN);
	footer_encode(42, 3, table, hashes, 8192, buf);
	assert_memory_equal(buf, "WTBL\3\0\0\0\52\0\0\0\0\0\0\0\0\40\0\0\0\0\0\0", 24);
	assert_int_equal(get_u64(buf + 24), 0x79274e5dcd4e2104ull);
	assert_int_equal(get_u32(buf + 32), 0x80050040);
	assert_int_equal(get_u32(buf + 36), 0xc8050040);
	assert_int_equal(get_u32(buf + 40), 0);
	assert_int_equal(get_u64(buf + 44 + 16), 3);
	assert_memory_equal(
	        buf + IO_ALIGN - 32, "WTRL\3\0\0\0\52\0\0\0\0\0\0\0\0\40\0\0\0\0\0\0", 24);
	assert_int_equal(get_u64(buf + IO_ALIGN - 8), 0x167984ea23c5a304ull);
}

/* --- names --- */

static void names_are_parsed_in_their_one_spelling(void **state)
{
	static const char *const bad[] = {"", "000000002a", "000000002a.", "00000002a.0",
	        "000000002A.0", "000000002a.00", "000000002a.0x", "0000000000.0", "ffffffffff.0",
	        " 00000002a.0", "000000002a.0.tmp", "notes.txt"};
	char name[SEGMENT_NAME_LEN];
	uint64_t id = 0;
	uint32_t gen = 0;

	segment_name(0x1234ab, 0x1f, name);
	assert_string_equal(name, "segments/ab/00001234ab.1f");
	assert_int_equal(segment_name_parse(name + 12, &id, &gen), 0);
	assert_int_equal(id, 0x1234ab);
	assert_int_equal(gen, 0x1f);
	segment_name(SEGMENT_ID_MAX, UINT32_MAX, name);
	assert_int_equal(segment_name_parse(name + 12, &id, &gen), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(segment_name_parse(bad[i], &id, &gen), -EINVAL);
}

/* --- round trips, and every bit counts --- */

static void a_header_comes_back_and_any_flipped_bit_is_seen(void **state)
{
	const struct segment_header h = header_sample();
	struct segment_header back = {0};
	uint8_t buf[SEGMENT_HEADER_LEN];

	segment_header_encode(&h, buf);
	for (unsigned i = 0; i < SEGMENT_HEADER_LEN; i++) {
		buf[i] ^= (uint8_t)BIT(i % 8);
		assert_int_equal(segment_header_decode(buf, &back), -EUCLEAN);
		buf[i] ^= (uint8_t)BIT(i % 8);
	}
	assert_int_equal(back.id, 0);
	assert_int_equal(segment_header_decode(buf, &back), 0);
	assert_memory_equal(&back, &h, sizeof(h));
}

static void a_frame_comes_back_and_any_flipped_bit_is_seen(void **state)
{
	struct frame_info f = frame_sample(5), back = {0};
	uint8_t payload[100], buf[320];
	const uint8_t *at = NULL;
	size_t size = 0;

	payload_fill(payload, sizeof(payload));
	f.slots[3] = 40;
	f.slots[4] = 47;
	assert_int_equal(frame_encode(&f, payload, buf), 256);
	for (unsigned i = 0; i < 64 + 5 * 16 + 100; i++) {
		buf[i] ^= (uint8_t)BIT(i % 8);
		const int want = i < 4 ? -ENODATA : -EUCLEAN;
		assert_int_equal(frame_decode(buf, 256, 42, &back, &at, &size), want);
		const bool in_header = i < 56 || (i >= 64 && i < 64 + 80);
		assert_int_equal(
		        frame_decode_header(buf, 256, 42, &back, &size), in_header ? want : 0);
		back = (struct frame_info){0};
		size = 0;
		buf[i] ^= (uint8_t)BIT(i % 8);
	}
	assert_int_equal(frame_decode(buf, 256, 43, &back, &at, &size), -EUCLEAN);
	for (size_t len = 0; len < 256; len++) {
		const int want = len < 64 ? -ENODATA : -EUCLEAN;
		assert_int_equal(frame_decode(buf, len, 42, &back, &at, &size), want);
	}
	assert_int_equal(size, 0);
	assert_int_equal(frame_decode(buf, 256, 42, &back, &at, &size), 0);
	assert_memory_equal(&back, &f, sizeof(f));
	assert_ptr_equal(at, buf + 64 + 80);
	assert_int_equal(size, 256);
}

/* Makes the header's checksum right again, as an attacker or a bug would. */
static void frame_reseal(uint8_t *buf)
{
	const uint64_t fixed = XXH3_64bits(buf, 48);

	put_u64(buf + 48, XXH3_64bits_withSeed(buf + 64, buf[4] * 16u, fixed));
}

static void a_frame_with_impossible_fields_is_refused_whatever_its_checksum(void **state)
{
	static const struct {
		unsigned at, value;
	} bad[] = {{4, 0}, {4, 15}, {5, 3}, {7, 8}, {8, 0x0e}, {8, 0x1f}, {8, 0x07}, {12, 0},
	        {15, 1}, {14, 1}};
	uint8_t payload[100], buf[320];
	struct frame_info back;
	size_t size = 0;

	payload_fill(payload, sizeof(payload));
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		const struct frame_info f = frame_sample(4);
		frame_encode(&f, payload, buf);
		buf[bad[i].at] = (uint8_t)bad[i].value;
		frame_reseal(buf);
		assert_int_equal(frame_decode_header(buf, 256, 42, &back, &size), -EUCLEAN);
	}
}

static void footers_come_back_whole_and_in_part(void **state)
{
	static struct footer_slot table[SEGMENT_SLOTS], back[SEGMENT_SLOTS];
	static struct hash128 hashes[SEGMENT_SLOTS], hashes_back[SEGMENT_SLOTS];
	static uint8_t buf[FOOTER_SIZE_MAX];
	static const unsigned counts[] = {0, 1, 7, 203, 204, SEGMENT_SLOTS};
	unsigned n = 0;
	uint32_t end = 0;

	for (unsigned i = 0; i < SEGMENT_SLOTS; i++) {
		table[i] = (struct footer_slot){.frame_pos = 64 + i % 64,
		        .frame_units = 1 + i % 50,
		        .index = i % 16,
		        .flags = SLOT_PRESENT};
		if (i % 5 == 0)
			table[i] = (struct footer_slot){.flags = i % 2};
		hashes[i] = (struct hash128){.lo = i, .hi = i * 3};
	}
	for (unsigned c = 0; c < ARRAY_SIZE(counts); c++) {
		const unsigned slots = counts[c];
		const size_t len = footer_size(slots);
		assert_int_equal(len % IO_ALIGN, 0);
		footer_encode(42, slots, table, hashes, 8192 * 4, buf);
		assert_int_equal(footer_decode(buf, len, 42, &n, back, hashes_back), 0);
		assert_int_equal(n, slots);
		assert_memory_equal(back, table, slots * sizeof(table[0]));
		assert_memory_equal(hashes_back, hashes, slots * sizeof(hashes[0]));
		memset(back, 0xaa, sizeof(back));
		const size_t part = footer_table_size(slots);
		assert_int_equal(footer_table_decode(buf, part, 42, slots, back), 0);
		assert_memory_equal(back, table, slots * sizeof(table[0]));
		assert_int_equal(footer_table_decode(buf, part - 1, 42, slots, back), -EUCLEAN);
		assert_int_equal(footer_table_decode(buf, part, 43, slots, back), -EUCLEAN);
		assert_int_equal(footer_table_decode(buf, part, 42, slots + 1, back), -EUCLEAN);
		assert_int_equal(footer_trailer_peek(buf + len - 32, 42, &n, &end), 0);
		assert_int_equal(end, 8192 * 4);
		assert_int_equal(footer_decode(buf, len - 1, 42, &n, back, hashes_back), -EUCLEAN);
	}
}

static void any_flipped_bit_of_a_footer_is_seen(void **state)
{
	static struct footer_slot table[203], back[SEGMENT_SLOTS];
	static struct hash128 hashes[203], hashes_back[SEGMENT_SLOTS];
	static uint8_t buf[IO_ALIGN];
	unsigned n = 0;

	for (unsigned i = 0; i < 203; i++)
		table[i] = (struct footer_slot){
		        .frame_pos = 64 + i, .frame_units = 1, .flags = SLOT_PRESENT};
	assert_int_equal(footer_size(201), IO_ALIGN);
	footer_encode(42, 201, table, hashes, 32768, buf);
	for (unsigned i = 0; i < IO_ALIGN; i++) {
		buf[i] ^= (uint8_t)BIT(i % 8);
		const bool padding = i >= 32 + 201 * 20 && i < IO_ALIGN - 32;
		assert_int_equal(footer_decode(buf, IO_ALIGN, 42, &n, back, hashes_back),
		        padding ? 0 : -EUCLEAN);
		const bool in_table = i < 32 + 201 * 4;
		assert_int_equal(
		        footer_table_decode(buf, IO_ALIGN, 42, 201, back), in_table ? -EUCLEAN : 0);
		buf[i] ^= (uint8_t)BIT(i % 8);
	}
}

/* --- packing --- */

static void chunks_are_packed_when_that_saves_an_eighth(void **state)
{
	static uint8_t chunks[16 * CHUNK_SIZE], packed[16 * CHUNK_SIZE], back[16 * CHUNK_SIZE];
	uint64_t v = 1;

	for (unsigned n = 1; n <= 16; n++) {
		struct frame_info f = {.n = n};
		memset(chunks, (int)n, sizeof(chunks));
		f.codec = frame_pack(chunks, n, packed, &f.payload_len);
		assert_int_equal(f.codec, CODEC_LZ4);
		assert_true(f.payload_len < n * 200);
		assert_int_equal(frame_unpack(&f, packed, back), 0);
		assert_memory_equal(back, chunks, n * CHUNK_SIZE);
		for (unsigned i = 0; i < n * CHUNK_SIZE; i++) {
			v = v * 6364136223846793005ull + 1;
			chunks[i] = (uint8_t)(v >> 56);
		}
		f.codec = frame_pack(chunks, n, packed, &f.payload_len);
		assert_int_equal(f.codec, CODEC_RAW);
		assert_int_equal(f.payload_len, n * CHUNK_SIZE);
		assert_int_equal(frame_unpack(&f, chunks, back), 0);
		assert_memory_equal(back, chunks, n * CHUNK_SIZE);
	}
}

static void what_cannot_be_unpacked_says_why(void **state)
{
	static uint8_t chunks[CHUNK_SIZE], payload[CHUNK_SIZE];
	struct frame_info f = {.n = 1, .codec = CODEC_LZ4, .payload_len = 50};

	memset(payload, 0xff, sizeof(payload));
	assert_int_equal(frame_unpack(&f, payload, chunks), -EUCLEAN);
	f.codec = CODEC_RAW;
	assert_int_equal(frame_unpack(&f, payload, chunks), -EUCLEAN);
	f.codec = CODEC_ZSTD;
	assert_int_equal(frame_unpack(&f, payload, chunks), -EOPNOTSUPP);
	f.codec = CODEC_LZ4;
	f.key_id = 1;
	assert_int_equal(frame_unpack(&f, payload, chunks), -ENOKEY);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(the_header_has_its_golden_bytes),
	        cmocka_unit_test(a_frame_has_its_golden_bytes),
	        cmocka_unit_test(a_footer_has_its_golden_bytes),
	        cmocka_unit_test(names_are_parsed_in_their_one_spelling),
	        cmocka_unit_test(a_header_comes_back_and_any_flipped_bit_is_seen),
	        cmocka_unit_test(a_frame_comes_back_and_any_flipped_bit_is_seen),
	        cmocka_unit_test(a_frame_with_impossible_fields_is_refused_whatever_its_checksum),
	        cmocka_unit_test(footers_come_back_whole_and_in_part),
	        cmocka_unit_test(any_flipped_bit_of_a_footer_is_seen),
	        cmocka_unit_test(chunks_are_packed_when_that_saves_an_eighth),
	        cmocka_unit_test(what_cannot_be_unpacked_says_why),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

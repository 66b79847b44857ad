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

	segment_name(0, 0x1234ab, 0x1f, name);
	assert_string_equal(name, "segments/ab/00001234ab.1f");
	assert_int_equal(segment_name_parse(name + 12, &id, &gen), 0);
	assert_int_equal(id, 0x1234ab);
	assert_int_equal(gen, 0x1f);
	segment_name(0, SEGMENT_ID_MAX, UINT32_MAX, name);
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

/* --- sealed frames --- */

static struct seal_key *frame_key(uint8_t byte)
{
	uint8_t key[SEAL_KEY_LEN];
	struct seal_key *k = NULL;

	memset(key, byte, sizeof(key));
	assert_int_equal(seal_key_new(key, &k), 0);
	return k;
}

static struct frame_info sealed_info(unsigned n, enum frame_codec codec, uint32_t plain_len)
{
	struct frame_info f = {.n = n,
	        .codec = codec,
	        .key_id = 5,
	        .payload_len = plain_len + SEAL_OVERHEAD,
	        .store = 1234,
	        .segment = 42,
	        .image = 7,
	        .first_chunk = 8};

	frame_slots_set(&f, 30);
	for (unsigned i = 0; i < n; i++)
		f.hashes[i] = (struct hash128){i + 1, ~(uint64_t)i};
	return f;
}

static void sealed_frames_open_to_what_they_were(void **state)
{
	static uint8_t chunks[FRAME_UNPACK_BYTES], packed[FRAME_UNPACK_BYTES],
	        back[FRAME_UNPACK_BYTES], plain[FRAME_UNPACK_BYTES], buf[FRAME_SIZE_MAX];
	const struct crypto_domain d = {.id = 5, .frame = frame_key(1)},
	                           other = {.id = 5, .frame = frame_key(2)},
	                           stranger = {.id = 6, .frame = d.frame};

	for (unsigned n = 1; n <= FRAME_CHUNKS_MAX; n++) {
		const uint8_t *payload = NULL;
		struct frame_info f;
		size_t size = 0;
		uint32_t len = n * CHUNK_SIZE;
		memset(chunks, (int)n, sizeof(chunks));
		const enum frame_codec codec =
		        n % 2 ? frame_pack(chunks, n, packed, &len) : CODEC_RAW;
		const struct frame_info was = sealed_info(n, codec, len);
		assert_int_equal(frame_encode_sealed(
		                         &was, d.frame, codec == CODEC_RAW ? chunks : packed, buf),
		        0);
		assert_int_equal(frame_decode(buf, sizeof(buf), 42, &f, &payload, &size), 0);
		assert_int_equal(size, frame_size(n, len + SEAL_OVERHEAD));
		assert_int_equal(frame_open(&f, &d, payload, plain, back), 0);
		assert_memory_equal(back, chunks, n * CHUNK_SIZE);
		assert_int_equal(frame_open(&f, &other, payload, plain, back), -EUCLEAN);
		assert_int_equal(frame_open(&f, &stranger, payload, plain, back), -ENOKEY);
		assert_int_equal(frame_open(&f, NULL, payload, plain, back), -ENOKEY);
		assert_int_equal(frame_unpack(&f, payload, back), -ENOKEY);
	}
	seal_key_free(d.frame);
	seal_key_free(other.frame);
}

/* The payload of `was` under the header of `f`, with all checksums right. */
static int open_under(
        const struct frame_info *was, const struct frame_info *f, const struct crypto_domain *d)
{
	static uint8_t buf[FRAME_SIZE_MAX], chunks[FRAME_UNPACK_BYTES], plain[FRAME_UNPACK_BYTES],
	        moved[FRAME_SIZE_MAX];
	const uint8_t *payload = NULL;
	struct frame_info got;
	size_t size = 0;

	memset(chunks, 3, sizeof(chunks));
	assert_int_equal(frame_encode_sealed(was, d->frame, chunks, buf), 0);
	assert_int_equal(frame_decode(buf, sizeof(buf), was->segment, &got, &payload, &size), 0);
	frame_encode(f, payload, moved);
	assert_int_equal(frame_decode(moved, sizeof(moved), f->segment, &got, &payload, &size), 0);
	return frame_open(&got, d, payload, plain, chunks);
}

static void a_sealed_payload_passes_under_its_own_header_only(void **state)
{
	const struct frame_info was = sealed_info(2, CODEC_RAW, 2 * CHUNK_SIZE);
	const struct crypto_domain d = {.id = 5, .frame = frame_key(1)};
	struct frame_info f = was;

	assert_int_equal(open_under(&was, &f, &d), 0);
	f.segment++;
	assert_int_equal(open_under(&was, &f, &d), -EUCLEAN);
	f = was;
	frame_slots_set(&f, 31);
	assert_int_equal(open_under(&was, &f, &d), -EUCLEAN);
	f = was;
	f.slots[1]++;
	assert_int_equal(open_under(&was, &f, &d), -EUCLEAN);
	f = was;
	f.image++;
	assert_int_equal(open_under(&was, &f, &d), -EUCLEAN);
	f = was;
	f.first_chunk++;
	assert_int_equal(open_under(&was, &f, &d), -EUCLEAN);
	f = was;
	f.store++;
	assert_int_equal(open_under(&was, &f, &d), -EUCLEAN);
	f = was;
	f.hashes[1].lo++;
	assert_int_equal(open_under(&was, &f, &d), -EUCLEAN);
	f = was;
	f.codec = CODEC_LZ4;
	assert_int_equal(open_under(&was, &f, &d), -EUCLEAN);
	seal_key_free(d.frame);
}

/* --- compressing harder --- */

static void packing_harder_gives_blocks_like_any_other(void **state)
{
	static uint8_t chunks[FRAME_UNPACK_BYTES], packed[FRAME_UNPACK_BYTES],
	        back[FRAME_UNPACK_BYTES];
	struct frame_packer *p = NULL;
	uint64_t v = 1;

	assert_int_equal(frame_packer_new(&p), 0);
	for (unsigned n = 1; n <= 16; n++) {
		for (unsigned level = 3; level <= 13; level++) {
			struct frame_info f = {.n = n};
			for (unsigned i = 0; i < n * CHUNK_SIZE; i++) {
				v = v * 6364136223846793005ull + 1;
				/* A few letters; in every other round, noise. */
				chunks[i] = (uint8_t)(level % 2 ? 'a' + (v >> 60) % 4 : v >> 56);
			}
			f.codec = level == 13
			                  ? frame_pack_auto(p, chunks, n, packed, &f.payload_len)
			                  : frame_pack_hard(
			                            p, level, chunks, n, packed, &f.payload_len);
			assert_int_equal(f.codec, level % 2 ? CODEC_LZ4 : CODEC_RAW);
			assert_int_equal(
			        frame_unpack(&f, f.codec == CODEC_RAW ? chunks : packed, back), 0);
			assert_memory_equal(back, chunks, n * CHUNK_SIZE);
		}
	}
	frame_packer_free(p);
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
	        cmocka_unit_test(sealed_frames_open_to_what_they_were),
	        cmocka_unit_test(a_sealed_payload_passes_under_its_own_header_only),
	        cmocka_unit_test(packing_harder_gives_blocks_like_any_other),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * test-ilog-format.c - the intent log's bytes are what FORMAT.md says, and nothing else is taken
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <xxhash.h>

#include "sim/rng.h"
#include "store/ilog-format.h"

#define RING (ILOG_BYTES_MIN - ILOG_HEADER_LEN)

static struct ilog_header header_sample(void)
{
	struct ilog_header h = {.epoch = 7, .ring_bytes = RING};

	for (int i = 0; i < 16; i++)
		h.uuid[i] = (uint8_t)(0xa0 + i);
	for (int i = 0; i < ILOG_SALT_LEN; i++)
		h.salt[i] = (uint8_t)i;
	return h;
}

static struct ilog_hasher hasher_sample(void)
{
	struct ilog_hasher h;

	ilog_hasher_init(&h, header_sample().salt);
	return h;
}

/* Two records, one with data that needs padding. */
static struct ilog_batch batch_sample(uint8_t *buf)
{
	const struct ilog_hasher h = hasher_sample();
	const struct ilog_record data = {ILOG_DATA, 3, 42, 5000, 5, "hello"};
	const struct ilog_record punch = {ILOG_PUNCH, 4, 43, 1 << 20, 1 << 21, NULL};
	uint8_t *p = buf + ILOG_BATCH_HEADER_LEN;

	memcpy(ilog_record_encode(&data, p), "hello", 5);
	p += ilog_record_size(&data);
	ilog_record_encode(&punch, p);
	p += ilog_record_size(&punch);
	const struct ilog_batch b = {
	        .epoch = 7,
	        .seq = 9,
	        .off = 0x5000,
	        .payload_len = (uint32_t)(p - buf) - ILOG_BATCH_HEADER_LEN,
	        .n_records = 2,
	};
	ilog_batch_seal(&h, &b, buf);
	return b;
}

static void assert_hex(const uint8_t *p, size_t len, const char *hex)
{
	char text[1024];

	assert_true(2 * len < sizeof(text));
	for (size_t i = 0; i < len; i++)
		sprintf(text + 2 * i, "%02x", p[i]);
	assert_string_equal(text, hex);
}

static void test_header_has_its_golden_bytes(void **state)
{
	const struct ilog_header h = header_sample();
	uint8_t buf[ILOG_HEADER_LEN];
	struct ilog_header back;

	ilog_header_encode(&h, buf);
	assert_hex(buf, 80,
	        "77656972696c6f67" /* "weirilog" */
	        "0100000000000000" /* version, reserved */
	        "a0a1a2a3a4a5a6a7a8a9aaabacadaeaf"
	        "0700000000000000" /* epoch */
	        "00f0ff0000000000" /* ring length */
	        "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f");
	for (size_t i = 80; i < ILOG_HEADER_LEN - 8; i++)
		assert_int_equal(buf[i], 0);
	assert_hex(buf + ILOG_HEADER_LEN - 8, 8, "8df5c2d3e0564a94");
	assert_int_equal(ilog_header_decode(buf, &back), 0);
	assert_memory_equal(&back, &h, sizeof(h));
}

static void test_batch_has_its_golden_bytes(void **state)
{
	uint8_t buf[512];
	const struct ilog_batch b = batch_sample(buf);

	assert_int_equal(b.payload_len, 88);
	assert_hex(buf, ILOG_BATCH_HEADER_LEN,
	        "7765697262746368" /* "weirbtch" */
	        "53048f0653e4b730"
	        "0700000000000000" /* epoch */
	        "0900000000000000" /* sequence */
	        "0050000000000000" /* offset */
	        "58000000"         /* payload length */
	        "02000000"         /* records */
	        "00000000"         /* flags */
	        "00000000"
	        "7b533a1faa91a512");
	assert_hex(buf + ILOG_BATCH_HEADER_LEN, b.payload_len,
	        "0100000000000000" /* data, reserved */
	        "0300000000000000" /* txg */
	        "2a00000000000000" /* image */
	        "8813000000000000" /* offset */
	        "0500000000000000" /* length */
	        "68656c6c6f000000" /* "hello", padded */
	        "0200000000000000"
	        "0400000000000000"
	        "2b00000000000000"
	        "0000100000000000"
	        "0000200000000000");
}

static void test_any_changed_byte_of_the_header_is_noticed(void **state)
{
	const struct ilog_header h = header_sample();
	struct ilog_header back;
	uint8_t buf[ILOG_HEADER_LEN];

	ilog_header_encode(&h, buf);
	for (size_t i = 0; i < ILOG_HEADER_LEN; i++) {
		buf[i] ^= 0x10;
		assert_int_equal(ilog_header_decode(buf, &back), -EUCLEAN);
		buf[i] ^= 0x10;
	}
	assert_int_equal(ilog_header_decode(buf, &back), 0);
}

static void test_a_newer_version_is_told_from_damage(void **state)
{
	const struct ilog_header h = header_sample();
	struct ilog_header back;
	uint8_t buf[ILOG_HEADER_LEN];

	ilog_header_encode(&h, buf);
	put_u32(buf + 8, ILOG_VERSION + 1);
	put_u64(buf + ILOG_HEADER_LEN - 8, XXH3_64bits(buf, ILOG_HEADER_LEN - 8));
	assert_int_equal(ilog_header_decode(buf, &back), -EPROTONOSUPPORT);
}

static void test_impossible_ring_lengths_are_refused(void **state)
{
	const uint64_t bad[] = {
	        0, RING - IO_ALIGN, RING + 512, ILOG_BYTES_MAX + IO_ALIGN, UINT64_MAX};
	struct ilog_header h = header_sample(), back;
	uint8_t buf[ILOG_HEADER_LEN];

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		h.ring_bytes = bad[i];
		ilog_header_encode(&h, buf);
		assert_int_equal(ilog_header_decode(buf, &back), -EUCLEAN);
	}
}

static int batch_check(const uint8_t *buf)
{
	const struct ilog_hasher h = hasher_sample();
	struct ilog_batch b;
	const int r = ilog_batch_decode(&h, buf, RING, &b);

	return r < 0 ? r : ilog_batch_verify(&h, &b, buf);
}

static void test_any_changed_byte_of_a_batch_is_noticed(void **state)
{
	uint8_t buf[512];
	const struct ilog_batch b = batch_sample(buf);

	assert_int_equal(batch_check(buf), 0);
	for (size_t i = 0; i < ILOG_BATCH_HEADER_LEN + b.payload_len; i++) {
		buf[i] ^= 1;
		const int r = batch_check(buf);
		assert_int_equal(r, i < ILOG_BATCH_HEADER_LEN ? -EUCLEAN : -EBADMSG);
		buf[i] ^= 1;
	}
}

/* What a guest can write: all but the key. */
static void test_a_batch_of_another_key_is_refused(void **state)
{
	uint8_t buf[512], salt[ILOG_SALT_LEN] = {1};
	const struct ilog_batch b = batch_sample(buf);
	struct ilog_hasher other;

	ilog_hasher_init(&other, salt);
	ilog_batch_seal(&other, &b, buf);
	assert_int_equal(batch_check(buf), -EUCLEAN);
}

static int sealed_check(const struct ilog_batch *b, uint8_t *buf)
{
	const struct ilog_hasher h = hasher_sample();

	ilog_batch_seal(&h, b, buf);
	return batch_check(buf);
}

static void test_batches_that_cannot_be_there_are_refused(void **state)
{
	static uint8_t buf[ILOG_BATCH_MAX + IO_ALIGN];
	const struct ilog_batch good = batch_sample(buf);
	struct ilog_batch b = good;

	assert_int_equal(sealed_check(&b, buf), 0);
	b.off = RING;
	assert_int_equal(sealed_check(&b, buf), -EUCLEAN);
	b.off = 0x5200;
	assert_int_equal(sealed_check(&b, buf), -EUCLEAN);
	b = good;
	b.payload_len = ILOG_BATCH_MAX - ILOG_BATCH_HEADER_LEN + 1;
	assert_int_equal(sealed_check(&b, buf), -EUCLEAN);
	b = good;
	b.off = RING - IO_ALIGN;
	b.payload_len = IO_ALIGN;
	assert_int_equal(sealed_check(&b, buf), -EUCLEAN);
	b = good;
	b.n_records = 1; /* bytes are left over */
	assert_int_equal(sealed_check(&b, buf), -EUCLEAN);
	b.n_records = 3; /* bytes are missing */
	assert_int_equal(sealed_check(&b, buf), -EUCLEAN);
	b = (struct ilog_batch){.epoch = 1, .seq = 1, .off = 0x1000, .filler = true};
	assert_int_equal(sealed_check(&b, buf), 0);
	b.off = 0; /* it would fill the whole ring */
	assert_int_equal(sealed_check(&b, buf), -EUCLEAN);
	b.off = 0x1000;
	b.n_records = 1;
	assert_int_equal(sealed_check(&b, buf), -EUCLEAN);
}

static void test_records_outside_the_rules_are_refused(void **state)
{
	static const struct ilog_record bad[] = {
	        {0, 1, 1, 0, 0},
	        {(enum ilog_type)8, 1, 1, 0, 0},
	        {ILOG_SEALED, 1, 1, 0, 100},
	        {ILOG_SEALED, 1, 1, 0, ILOG_SEALED_OVERHEAD, NULL, 7},
	        {ILOG_SEALED, 1, 1, 8, 100, NULL, 7},
	        {ILOG_SEALED, 1, 1, 0, ILOG_SEALED_OVERHEAD + ILOG_SEALED_PLAIN_MAX + 1, NULL, 7},
	        {ILOG_PUNCH, 1, 1, 0, 8, NULL, 7},
	        {ILOG_DATA, 1, 1, IMAGE_SIZE_MAX, 8},
	        {ILOG_DATA, 1, 1, UINT64_MAX, 8},
	        {ILOG_DATA, 1, 1, 0, ILOG_BATCH_MAX + 1},
	        {ILOG_DATA, 1, 1, 0, UINT64_MAX},
	        {ILOG_PUNCH, 1, 1, 1, IMAGE_SIZE_MAX},
	        {ILOG_ZERO, 1, 1, 0, UINT64_MAX},
	        {ILOG_SHARE, 1, 1, 0, 12},
	        {ILOG_SHARE, 1, 1, 512, 8},
	        {ILOG_SHARE, 1, 1, IMAGE_SIZE_MAX, 8},
	        {ILOG_ROWS, 1, 1, 0, 8},
	        {ILOG_ROWS, 1, 0, 1, 8},
	        {ILOG_DELETE, 1, 1, 1, 0},
	        {ILOG_DELETE, 1, 1, 0, 1},
	};
	uint8_t buf[64] = {0};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct ilog_record rec;
		struct bytes_in in = {.data = buf, .len = sizeof(buf)};
		assert_false(ilog_record_valid(&bad[i]));
		put_u32(buf, bad[i].type);
		put_u32(buf + 4, bad[i].domain);
		put_u64(buf + 8, bad[i].txg);
		put_u64(buf + 16, bad[i].image);
		put_u64(buf + 24, bad[i].off);
		put_u64(buf + 32, bad[i].len);
		assert_int_equal(ilog_record_decode(&in, &rec), -EUCLEAN);
	}
}

static void test_records_come_back_as_they_were(void **state)
{
	const uint64_t most = IMAGE_SIZE_MAX;
	const struct ilog_record recs[] = {
	        {ILOG_DATA, 1, 2, most - 3, 3, "abc"},
	        {ILOG_DATA, 1, 2, 0, 0, ""},
	        {ILOG_PUNCH, 1, UINT64_MAX, 1, most - 1, NULL},
	        {ILOG_ZERO, 1, 2, most, 0, NULL},
	        {ILOG_SHARE, 1, 2, most - 4096, 8, "01234567"},
	        {ILOG_ROWS, UINT64_MAX, 0, 0, 4, "rows"},
	        {ILOG_DELETE, 1, 2, 0, 0, NULL},
	};
	uint8_t buf[1024], *p = buf;

	for (size_t i = 0; i < ARRAY_SIZE(recs); i++) {
		assert_true(ilog_record_valid(&recs[i]));
		uint8_t *data = ilog_record_encode(&recs[i], p);
		if (recs[i].data)
			memcpy(data, recs[i].data, recs[i].len);
		p += ilog_record_size(&recs[i]);
	}
	struct bytes_in in = {.data = buf, .len = (size_t)(p - buf)};
	for (size_t i = 0; i < ARRAY_SIZE(recs); i++) {
		struct ilog_record r;
		assert_int_equal(ilog_record_decode(&in, &r), 0);
		assert_int_equal(r.type, recs[i].type);
		assert_int_equal(r.txg, recs[i].txg);
		assert_int_equal(r.image, recs[i].image);
		assert_int_equal(r.off, recs[i].off);
		assert_int_equal(r.len, recs[i].len);
		assert_int_equal(r.data != NULL, recs[i].data != NULL);
		if (r.data)
			assert_memory_equal(r.data, recs[i].data, r.len);
	}
	assert_int_equal(in.pos, in.len);
}

/* --- sealed records --- */

/* Of the key 0, 1 .. 31 and the nonce a0, a1 .. b7. */
static const uint8_t sealed_record[] = {0x07, 0x00, 0x00, 0x00, 0x07, 0x00, 0x00, 0x00, 0x09, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x05, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x70, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x01, 0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00, 0x11, 0x11, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x22, 0x22, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5,
        0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf, 0xb0, 0xb1, 0xb2, 0xb3, 0xb4,
        0xb5, 0xb6, 0xb7, 0xcd, 0xac, 0x5a, 0xf4, 0xaf, 0xd7, 0xee, 0x1a, 0xef, 0x06, 0x80, 0x02,
        0x30, 0x30, 0xce, 0x01, 0x91, 0x3d, 0xc1, 0x3b, 0x96, 0x31, 0x49, 0x5e, 0x5a, 0xb7, 0x2e,
        0x86, 0xd6, 0x77, 0xaa, 0x11, 0x9a, 0x35, 0x90, 0xa7, 0x52, 0x18, 0x27, 0x4a, 0x26, 0x66,
        0xeb, 0x95, 0xbf, 0x0d, 0xa5, 0xd2, 0x47, 0xdc, 0xa3, 0xd4, 0x3a, 0x4c, 0xc8, 0x05, 0x0d,
        0x22, 0x9d, 0x0d, 0xb1, 0x15, 0xc6, 0xc3};

static struct seal_key *test_key(uint8_t first)
{
	uint8_t bytes[SEAL_KEY_LEN];
	struct seal_key *k = NULL;

	for (unsigned i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)(first + i);
	assert_int_equal(seal_key_new(bytes, &k), 0);
	return k;
}

/* Takes the record apart and opens it. */
static int sealed_record_open(const uint8_t *buf, const struct seal_key *k, uint8_t plain[48])
{
	struct bytes_in in = {.data = buf, .len = sizeof(sealed_record)};
	struct ilog_record rec;
	const int r = ilog_record_decode(&in, &rec);

	if (r < 0)
		return r;
	if (rec.type != ILOG_SEALED || rec.len != ILOG_SEALED_OVERHEAD + 48)
		return -EUCLEAN;
	return ilog_sealed_open(&rec, k, plain);
}

static void test_sealed_record_bytes_are_golden(void **state)
{
	struct seal_key *k = test_key(0);
	uint8_t plain[48];
	struct bytes_in in = {.data = sealed_record, .len = sizeof(sealed_record)};
	struct ilog_record rec, inner;
	struct ilog_sealed s;

	assert_int_equal(ilog_record_decode(&in, &rec), 0);
	assert_int_equal(rec.type, ILOG_SEALED);
	assert_int_equal(rec.domain, 7);
	assert_int_equal(rec.txg, 9);
	assert_int_equal(rec.image, 5);
	assert_int_equal(ilog_sealed_decode(&rec, &s), 0);
	assert_int_equal(s.flags, ILOG_SEALED_SHARES);
	assert_int_equal(s.number, 2);
	assert_int_equal(s.epoch, 0x1111);
	assert_int_equal(s.seq, 0x2222);
	assert_int_equal(ilog_sealed_open(&rec, k, plain), 0);
	in = (struct bytes_in){.data = plain, .len = sizeof(plain)};
	assert_int_equal(ilog_record_decode(&in, &inner), 0);
	assert_int_equal(inner.type, ILOG_DATA);
	assert_int_equal(inner.off, 4096);
	assert_memory_equal(inner.data, "abc", inner.len);
	seal_key_free(k);
}

static void test_every_changed_bit_of_a_sealed_record_is_noticed(void **state)
{
	struct seal_key *k = test_key(0), *other = test_key(1);
	uint8_t buf[sizeof(sealed_record)], plain[48];

	memcpy(buf, sealed_record, sizeof(buf));
	assert_int_equal(sealed_record_open(buf, k, plain), 0);
	assert_int_equal(sealed_record_open(buf, other, plain), -EUCLEAN);
	for (size_t bit = 0; bit < sizeof(buf) * 8; bit++) {
		buf[bit / 8] ^= (uint8_t)(1 << bit % 8);
		assert_int_equal(sealed_record_open(buf, k, plain), -EUCLEAN);
		buf[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	seal_key_free(k);
	seal_key_free(other);
}

static void test_a_sealed_record_holds_content_of_its_image_and_group_only(void **state)
{
	static const struct ilog_record inner[] = {
	        {ILOG_PUNCH, 9, 5, 0, 4096, NULL},
	        {ILOG_PUNCH, 9, 6, 0, 4096, NULL},
	        {ILOG_PUNCH, 8, 5, 0, 4096, NULL},
	        {ILOG_DELETE, 9, 5, 0, 0, NULL},
	};
	struct seal_key *k = test_key(0);

	for (unsigned i = 0; i < ARRAY_SIZE(inner); i++) {
		uint8_t plain[ILOG_RECORD_HEADER_LEN], buf[256];
		struct ilog_record rec = {
		        ILOG_SEALED, 9, 5, 0, sizeof(plain) + ILOG_SEALED_OVERHEAD, NULL, 7};
		const struct ilog_sealed s = {0};

		ilog_record_encode(&inner[i], plain);
		rec.data = ilog_record_encode(&rec, buf);
		assert_int_equal(ilog_sealed_encode(&rec, &s, k, plain, sizeof(plain), buf), 0);
		assert_int_equal(ilog_sealed_open(&rec, k, plain), i == 0 ? 0 : -EUCLEAN);
	}
	seal_key_free(k);
}

static void test_a_sealed_record_passes_in_its_batch_and_place_only(void **state)
{
	const struct ilog_hasher h = hasher_sample();
	uint8_t buf[ILOG_BATCH_HEADER_LEN + sizeof(sealed_record)];

	for (unsigned i = 0; i < 6; i++) {
		struct ilog_batch b = {.epoch = 0x1111,
		        .seq = 0x2222,
		        .payload_len = sizeof(sealed_record),
		        .n_records = 1};
		memcpy(buf + ILOG_BATCH_HEADER_LEN, sealed_record, sizeof(sealed_record));
		buf[ILOG_BATCH_HEADER_LEN + 44] = i == 5 ? 2 : 0; /* its number among them */
		b.epoch += i == 1;
		b.seq += i == 2 ? 1 : i == 3 ? 2 : 0; /* a filler came before; or another batch */
		b.seq -= i == 4;
		ilog_batch_seal(&h, &b, buf);
		assert_int_equal(ilog_batch_verify(&h, &b, buf), i == 0 || i == 2 ? 0 : -EUCLEAN);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_header_has_its_golden_bytes),
	        cmocka_unit_test(test_batch_has_its_golden_bytes),
	        cmocka_unit_test(test_any_changed_byte_of_the_header_is_noticed),
	        cmocka_unit_test(test_a_newer_version_is_told_from_damage),
	        cmocka_unit_test(test_impossible_ring_lengths_are_refused),
	        cmocka_unit_test(test_any_changed_byte_of_a_batch_is_noticed),
	        cmocka_unit_test(test_a_batch_of_another_key_is_refused),
	        cmocka_unit_test(test_batches_that_cannot_be_there_are_refused),
	        cmocka_unit_test(test_records_outside_the_rules_are_refused),
	        cmocka_unit_test(test_records_come_back_as_they_were),
	        cmocka_unit_test(test_sealed_record_bytes_are_golden),
	        cmocka_unit_test(test_every_changed_bit_of_a_sealed_record_is_noticed),
	        cmocka_unit_test(test_a_sealed_record_holds_content_of_its_image_and_group_only),
	        cmocka_unit_test(test_a_sealed_record_passes_in_its_batch_and_place_only),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

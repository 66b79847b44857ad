/*
 * fuzz-ilog.c - the intent log's decoders take any bytes
 *
 * The first byte chooses: 0 the header block, 1 a batch as it is, 2 a batch whose checksums are
 * made good first (so that fields and records are reached), 3 records alone.  What is accepted must
 * keep to its limits and encode to the same bytes again.
 */
#include <errno.h>
#include <string.h>

#include "store/ilog-format.h"

#define RING      (64ull << 20)
#define INPUT_MAX (1u << 20)

static void fuzz_header(const uint8_t *data, size_t size)
{
	uint8_t block[ILOG_HEADER_LEN] = {0}, again[ILOG_HEADER_LEN];
	struct ilog_header h;

	memcpy(block, data, MIN(size, sizeof(block)));
	if (ilog_header_decode(block, &h) < 0)
		return;
	ASSERT(h.ring_bytes <= ILOG_BYTES_MAX && h.ring_bytes % IO_ALIGN == 0);
	ilog_header_encode(&h, again);
	ASSERT(memcmp(again, block, 12) == 0 && memcmp(again + 16, block + 16, 64) == 0);
}

/* The corpus has one that this key opens. */
static void fuzz_sealed(const struct ilog_record *rec)
{
	uint8_t bytes[SEAL_KEY_LEN];
	struct seal_key *key = NULL;
	struct ilog_sealed s;

	ASSERT(rec->len > ILOG_SEALED_OVERHEAD && rec->domain != 0);
	if (ilog_sealed_decode(rec, &s) < 0)
		return;
	uint8_t *plain = malloc(rec->len - ILOG_SEALED_OVERHEAD);
	for (unsigned i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)i;
	ASSERT(plain && seal_key_new(bytes, &key) == 0);
	const int r = ilog_sealed_open(rec, key, plain);
	ASSERT(r == 0 || r == -EUCLEAN);
	seal_key_free(key);
	free(plain);
}

static void fuzz_records(const uint8_t *data, size_t size)
{
	struct bytes_in in = {.data = data, .len = size};
	struct ilog_record rec;
	uint8_t head[ILOG_RECORD_HEADER_LEN + ILOG_RECORD_ALIGN];

	for (size_t start = 0; ilog_record_decode(&in, &rec) == 0; start = in.pos) {
		ASSERT(ilog_record_valid(&rec) && in.pos <= in.len);
		ASSERT(ilog_record_size(&rec) == in.pos - start);
		if (!ilog_record_has_data(rec.type)) {
			ilog_record_encode(&rec, head);
			ASSERT(memcmp(head, data + start, ILOG_RECORD_HEADER_LEN) == 0);
			continue;
		}
		const uint8_t *p = rec.data;
		if (rec.type == ILOG_SEALED)
			fuzz_sealed(&rec);
		ASSERT(p >= data + start && rec.len <= (size_t)(data + in.pos - p));
	}
}

/* buf has room for IO_ALIGN more than size. */
static void fuzz_batch(uint8_t *buf, size_t size, bool seal)
{
	const uint8_t salt[ILOG_SALT_LEN] = {1, 2, 3};
	struct ilog_hasher h;
	struct ilog_batch b;

	ilog_hasher_init(&h, salt);
	if (seal) {
		b = (struct ilog_batch){
		        .epoch = get_u64(buf + 16),
		        .seq = get_u64(buf + 24),
		        .off = get_u64(buf + 32),
		        .payload_len = MIN(get_u32(buf + 40), (uint32_t)size),
		        .n_records = get_u32(buf + 44),
		        .filler = buf[48] & 1,
		};
		ilog_batch_seal(&h, &b, buf);
	}
	if (ilog_batch_decode(&h, buf, RING, &b) < 0)
		return;
	ASSERT(b.off < RING && b.off + ilog_batch_size(&b, RING) <= RING);
	if (ILOG_BATCH_HEADER_LEN + (size_t)b.payload_len > size + IO_ALIGN)
		return;
	if (ilog_batch_verify(&h, &b, buf) == 0)
		fuzz_records(buf + ILOG_BATCH_HEADER_LEN, b.payload_len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 1 || size > INPUT_MAX)
		return 0;
	const uint8_t how = data[0] % 4;
	data++;
	size--;
	uint8_t *buf = calloc(1, size + IO_ALIGN);
	if (!buf)
		return 0;
	memcpy(buf, data, size);
	if (how == 0)
		fuzz_header(data, size);
	else if (how == 3)
		fuzz_records(data, size);
	else
		fuzz_batch(buf, size, how == 2);
	free(buf);
	return 0;
}

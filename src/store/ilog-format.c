/*
 * ilog-format.c - encoding and decoding the intent log
 *
 * The header block is covered by a plain XXH3-64 to its last byte.  A batch has two keyed ones: of
 * its records, and of its header with the former in it, so that a header alone can be trusted.
 * What pads a batch to IO_ALIGN is void: a write torn there is still whole.  A batch says where it
 * is, so a misdirected one is not taken for the right one.
 *
 * A sealed record's ciphertext is bound to all that stands before it: image, group, domain, length,
 * epoch, sequence and number.  So one cannot be put elsewhere in the log, nor its domain or flags
 * be changed, by somebody without the key.
 *
 * Everything here is stateless.
 */
#include <errno.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "store/ilog-format.h"

static const uint8_t header_magic[8] = {'w', 'e', 'i', 'r', 'i', 'l', 'o', 'g'};
static const uint8_t batch_magic[8] = {'w', 'e', 'i', 'r', 'b', 't', 'c', 'h'};

enum { BATCH_FILLER = BIT(0) };

#define HEADER_SUM_AT (ILOG_HEADER_LEN - 8)
#define BATCH_SUM_AT  (ILOG_BATCH_HEADER_LEN - 8)

void ilog_header_encode(const struct ilog_header *h, uint8_t buf[ILOG_HEADER_LEN])
{
	memset(buf, 0, ILOG_HEADER_LEN);
	memcpy(buf, header_magic, 8);
	put_u32(buf + 8, ILOG_VERSION);
	memcpy(buf + 16, h->uuid, 16);
	put_u64(buf + 32, h->epoch);
	put_u64(buf + 40, h->ring_bytes);
	memcpy(buf + 48, h->salt, ILOG_SALT_LEN);
	put_u64(buf + HEADER_SUM_AT, XXH3_64bits(buf, HEADER_SUM_AT));
}

int ilog_header_decode(const uint8_t buf[ILOG_HEADER_LEN], struct ilog_header *ret_header)
{
	if (memcmp(buf, header_magic, 8) != 0)
		return -EUCLEAN;
	if (get_u64(buf + HEADER_SUM_AT) != XXH3_64bits(buf, HEADER_SUM_AT))
		return -EUCLEAN;
	if (get_u32(buf + 8) != ILOG_VERSION)
		return get_u32(buf + 8) > ILOG_VERSION ? -EPROTONOSUPPORT : -EUCLEAN;
	struct ilog_header h = {.epoch = get_u64(buf + 32), .ring_bytes = get_u64(buf + 40)};
	if (h.ring_bytes < ILOG_BYTES_MIN - ILOG_HEADER_LEN || h.ring_bytes > ILOG_BYTES_MAX ||
	        h.ring_bytes % IO_ALIGN)
		return -EUCLEAN;
	memcpy(h.uuid, buf + 16, 16);
	memcpy(h.salt, buf + 48, ILOG_SALT_LEN);
	*ret_header = h;
	return 0;
}

void ilog_hasher_init(struct ilog_hasher *h, const uint8_t salt[ILOG_SALT_LEN])
{
	XXH3_generateSecret(h->secret, sizeof(h->secret), salt, ILOG_SALT_LEN);
}

/* --- batches --- */

static uint64_t keyed_sum(const struct ilog_hasher *h, const uint8_t *p, size_t len)
{
	return XXH3_64bits_withSecret(p, len, h->secret, sizeof(h->secret));
}

uint64_t ilog_batch_size(const struct ilog_batch *b, uint64_t ring_bytes)
{
	if (b->filler)
		return ring_bytes - b->off;
	return ROUND_UP((uint64_t)ILOG_BATCH_HEADER_LEN + b->payload_len, IO_ALIGN);
}

void ilog_batch_seal(const struct ilog_hasher *h, const struct ilog_batch *b, uint8_t *buf)
{
	memset(buf, 0, ILOG_BATCH_HEADER_LEN);
	memcpy(buf, batch_magic, 8);
	put_u64(buf + 16, b->epoch);
	put_u64(buf + 24, b->seq);
	put_u64(buf + 32, b->off);
	put_u32(buf + 40, b->payload_len);
	put_u32(buf + 44, b->n_records);
	put_u32(buf + 48, b->filler ? BATCH_FILLER : 0);
	put_u64(buf + 8, keyed_sum(h, buf + ILOG_BATCH_HEADER_LEN, b->payload_len));
	put_u64(buf + BATCH_SUM_AT, keyed_sum(h, buf, BATCH_SUM_AT));
}

static bool batch_fits(const struct ilog_batch *b, uint64_t ring_bytes)
{
	if (b->off >= ring_bytes || b->off % IO_ALIGN)
		return false;
	if (b->filler)
		return b->off > 0 && b->payload_len == 0 && b->n_records == 0;
	return ilog_batch_size(b, ring_bytes) <= MIN(ILOG_BATCH_MAX, ring_bytes - b->off);
}

int ilog_batch_decode(const struct ilog_hasher *h, const uint8_t buf[ILOG_BATCH_HEADER_LEN],
        uint64_t ring_bytes, struct ilog_batch *ret_batch)
{
	if (memcmp(buf, batch_magic, 8) != 0)
		return -EUCLEAN;
	if (get_u64(buf + BATCH_SUM_AT) != keyed_sum(h, buf, BATCH_SUM_AT))
		return -EUCLEAN;
	const uint32_t flags = get_u32(buf + 48);
	const struct ilog_batch b = {
	        .epoch = get_u64(buf + 16),
	        .seq = get_u64(buf + 24),
	        .off = get_u64(buf + 32),
	        .payload_len = get_u32(buf + 40),
	        .n_records = get_u32(buf + 44),
	        .filler = flags & BATCH_FILLER,
	};
	if (flags & ~(uint32_t)BATCH_FILLER || get_u32(buf + 52) || !batch_fits(&b, ring_bytes))
		return -EUCLEAN;
	*ret_batch = b;
	return 0;
}

/* Was this record sealed for this batch, as the number-th in it? */
static bool sealed_belongs(
        const struct ilog_batch *b, const struct ilog_record *rec, uint32_t number)
{
	struct ilog_sealed s;

	if (ilog_sealed_decode(rec, &s) < 0)
		return false;
	return s.epoch == b->epoch && b->seq - s.seq <= 1 && s.number == number;
}

int ilog_batch_verify(const struct ilog_hasher *h, const struct ilog_batch *b, const uint8_t *buf)
{
	struct bytes_in in = {.data = buf + ILOG_BATCH_HEADER_LEN, .len = b->payload_len};
	struct ilog_record rec;
	uint32_t n_sealed = 0;

	if (get_u64(buf + 8) != keyed_sum(h, in.data, in.len))
		return -EBADMSG;
	for (uint32_t i = 0; i < b->n_records; i++) {
		const int r = ilog_record_decode(&in, &rec);
		if (r < 0)
			return r;
		if (rec.type == ILOG_SEALED && !sealed_belongs(b, &rec, n_sealed++))
			return -EUCLEAN;
	}
	return in.pos == in.len ? 0 : -EUCLEAN;
}

/* --- records --- */

bool ilog_record_has_data(enum ilog_type type)
{
	return type == ILOG_DATA || type == ILOG_SHARE || type == ILOG_ROWS || type == ILOG_SEALED;
}

static bool range_valid(uint64_t off, uint64_t len)
{
	return off <= IMAGE_SIZE_MAX && len <= IMAGE_SIZE_MAX - off;
}

bool ilog_record_valid(const struct ilog_record *rec)
{
	if (ilog_record_has_data(rec->type) && rec->len > ILOG_BATCH_MAX)
		return false;
	if ((rec->domain != 0) != (rec->type == ILOG_SEALED))
		return false;
	switch (rec->type) {
	case ILOG_DATA:
	case ILOG_PUNCH:
	case ILOG_ZERO:
		return range_valid(rec->off, rec->len);
	case ILOG_SHARE:
		return rec->len % 8 == 0 && rec->off % CHUNK_SIZE == 0 &&
		       range_valid(rec->off, rec->len / 8 * CHUNK_SIZE);
	case ILOG_ROWS:
		return rec->image == 0 && rec->off == 0;
	case ILOG_DELETE:
		return rec->off == 0 && rec->len == 0;
	case ILOG_SEALED:
		return rec->off == 0 && rec->len > ILOG_SEALED_OVERHEAD &&
		       rec->len <= ILOG_SEALED_OVERHEAD + ILOG_SEALED_PLAIN_MAX;
	}
	return false;
}

size_t ilog_record_size(const struct ilog_record *rec)
{
	const uint64_t data_len = ilog_record_has_data(rec->type) ? rec->len : 0;

	return ILOG_RECORD_HEADER_LEN + ROUND_UP(data_len, ILOG_RECORD_ALIGN);
}

static void record_header_encode(const struct ilog_record *rec, uint8_t *buf)
{
	put_u32(buf, rec->type);
	put_u32(buf + 4, rec->domain);
	put_u64(buf + 8, rec->txg);
	put_u64(buf + 16, rec->image);
	put_u64(buf + 24, rec->off);
	put_u64(buf + 32, rec->len);
}

uint8_t *ilog_record_encode(const struct ilog_record *rec, uint8_t *buf)
{
	const size_t size = ilog_record_size(rec);

	record_header_encode(rec, buf);
	if (size > ILOG_RECORD_HEADER_LEN)
		put_u64(buf + size - 8, 0); /* the padding; data goes over the rest */
	return buf + ILOG_RECORD_HEADER_LEN;
}

int ilog_record_decode(struct bytes_in *in, struct ilog_record *ret_record)
{
	struct ilog_record rec = {.type = (enum ilog_type)bytes_take_u32(in)};

	rec.domain = bytes_take_u32(in);
	rec.txg = bytes_take_u64(in);
	rec.image = bytes_take_u64(in);
	rec.off = bytes_take_u64(in);
	rec.len = bytes_take_u64(in);
	if (in->failed || !ilog_record_valid(&rec))
		return -EUCLEAN;
	if (ilog_record_has_data(rec.type)) {
		rec.data = bytes_take(in, ROUND_UP((size_t)rec.len, ILOG_RECORD_ALIGN));
		if (!rec.data)
			return -EUCLEAN;
	}
	*ret_record = rec;
	return 0;
}

/* --- sealed records --- */

/* Header of the record and of its data, as they lie in the log. */
#define SEALED_AAD_LEN (ILOG_RECORD_HEADER_LEN + ILOG_SEALED_HEADER_LEN)

static void sealed_aad_encode(
        const struct ilog_record *rec, const struct ilog_sealed *s, uint8_t *buf)
{
	record_header_encode(rec, buf);
	buf += ILOG_RECORD_HEADER_LEN;
	put_u32(buf, s->flags);
	put_u32(buf + 4, s->number);
	put_u64(buf + 8, s->epoch);
	put_u64(buf + 16, s->seq);
}

int ilog_sealed_decode(const struct ilog_record *rec, struct ilog_sealed *ret_sealed)
{
	const uint8_t *p = rec->data;

	if (rec->type != ILOG_SEALED || get_u32(p) & ~(ILOG_SEALED_SHARES | ILOG_SEALED_FOREIGN))
		return -EUCLEAN;
	*ret_sealed = (struct ilog_sealed){
	        .flags = get_u32(p),
	        .number = get_u32(p + 4),
	        .epoch = get_u64(p + 8),
	        .seq = get_u64(p + 16),
	};
	return 0;
}

int ilog_sealed_encode(const struct ilog_record *rec, const struct ilog_sealed *s,
        const struct seal_key *key, const void *plain, size_t len, uint8_t *buf)
{
	ASSERT(rec->len == len + ILOG_SEALED_OVERHEAD);
	sealed_aad_encode(rec, s, buf);
	return seal(key, buf, SEALED_AAD_LEN, plain, len, buf + SEALED_AAD_LEN);
}

/* Content of that image in that group, and nothing else. */
static bool plain_valid(const struct ilog_record *outer, const uint8_t *plain, size_t len)
{
	struct bytes_in in = {.data = plain, .len = len};
	struct ilog_record rec;

	while (in.pos < in.len) {
		if (ilog_record_decode(&in, &rec) < 0)
			return false;
		if (rec.type < ILOG_DATA || rec.type > ILOG_SHARE || rec.image != outer->image ||
		        rec.txg != outer->txg)
			return false;
	}
	return true;
}

int ilog_sealed_open(const struct ilog_record *rec, const struct seal_key *key, uint8_t *plain)
{
	uint8_t aad[SEALED_AAD_LEN];
	struct ilog_sealed s;
	int r = ilog_sealed_decode(rec, &s);

	if (r < 0)
		return r;
	sealed_aad_encode(rec, &s, aad);
	r = unseal(key, aad, sizeof(aad), (const uint8_t *)rec->data + ILOG_SEALED_HEADER_LEN,
	        rec->len - ILOG_SEALED_HEADER_LEN, plain);
	if (r < 0)
		return r == -EBADMSG ? -EUCLEAN : r;
	return plain_valid(rec, plain, rec->len - ILOG_SEALED_OVERHEAD) ? 0 : -EUCLEAN;
}

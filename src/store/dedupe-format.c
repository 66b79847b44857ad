/*
 * dedupe-format.c - the bytes of the dedupe index's file
 *
 * All integers little-endian.
 *
 *	header (128)                             piece header (32)
 *	  0  magic "weiridx\n"                     0  magic "IDXP"
 *	  8  version, u32                          4  table, u8; then 3 zero bytes
 *	 12  zero, u32                             8  first bucket, u64
 *	 16  datastore uuid                       16  buckets covered, u32
 *	 32  txg, u64                             20  payload length, u32
 *	 40  window's buckets, u64                24  checksum, u64
 *	 48  sample's buckets, u64
 *	 56  pieces, u64                         payload: runs
 *	 64  file length, u64                      0 u8, n u32: n empty buckets follow
 *	 72  zero                                  n u8 (1-8), n words: next bucket, newest first
 *	120  xxh3-64 of bytes 0-119
 *
 * A piece's checksum is the xxh3-64 of its payload, seeded with that of its header's bytes 0-23,
 * seeded with that of the uuid, seeded with the txg.  The file header's magic, version and checksum
 * stay where they are in every version.
 *
 * No state; any thread.
 */
#include "store/dedupe-format.h"

#include <errno.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/bytes.h"

#define INDEX_VERSION     1u
#define HEADER_SUM_AT     (INDEX_HEADER_LEN - 8)
#define PIECE_SUM_AT      (INDEX_PIECE_HEADER_LEN - 8)
#define PIECE_MAGIC       0x50584449u /* "IDXP" */
#define RUN_EMPTY_LEN     5u
#define RUN_BUCKET_LEN(n) (1u + 8u * (n))

static const uint8_t index_magic[8] = "weiridx\n";

void index_header_encode(const struct index_header *h, uint8_t buf[INDEX_HEADER_LEN])
{
	memset(buf, 0, INDEX_HEADER_LEN);
	memcpy(buf, index_magic, sizeof(index_magic));
	put_u32(buf + 8, INDEX_VERSION);
	memcpy(buf + 16, h->uuid, sizeof(h->uuid));
	put_u64(buf + 32, h->txg);
	put_u64(buf + 40, h->n_buckets[INDEX_WINDOW]);
	put_u64(buf + 48, h->n_buckets[INDEX_SAMPLE]);
	put_u64(buf + 56, h->n_pieces);
	put_u64(buf + 64, h->file_bytes);
	put_u64(buf + HEADER_SUM_AT, XXH3_64bits(buf, HEADER_SUM_AT));
}

int index_header_decode(const uint8_t buf[INDEX_HEADER_LEN], struct index_header *ret_header)
{
	struct index_header h;

	if (memcmp(buf, index_magic, sizeof(index_magic)) != 0)
		return -EUCLEAN;
	if (get_u64(buf + HEADER_SUM_AT) != XXH3_64bits(buf, HEADER_SUM_AT))
		return -EUCLEAN;
	if (get_u32(buf + 8) != INDEX_VERSION)
		return -ESTALE;
	memcpy(h.uuid, buf + 16, sizeof(h.uuid));
	h.txg = get_u64(buf + 32);
	h.n_buckets[INDEX_WINDOW] = get_u64(buf + 40);
	h.n_buckets[INDEX_SAMPLE] = get_u64(buf + 48);
	h.n_pieces = get_u64(buf + 56);
	h.file_bytes = get_u64(buf + 64);
	for (unsigned i = 0; i < INDEX_TABLES; i++)
		if (h.n_buckets[i] < 1 || h.n_buckets[i] > HINT_BUCKETS_MAX)
			return -EUCLEAN;
	*ret_header = h;
	return 0;
}

uint64_t index_seed(const uint8_t uuid[16], uint64_t txg)
{
	return XXH3_64bits_withSeed(uuid, 16, txg);
}

static uint64_t piece_checksum(const uint8_t *buf, size_t payload_len, uint64_t seed)
{
	const uint64_t head = XXH3_64bits_withSeed(buf, PIECE_SUM_AT, seed);

	return XXH3_64bits_withSeed(buf + INDEX_PIECE_HEADER_LEN, payload_len, head);
}

/* --- writing --- */

void index_piece_begin(struct index_piece_out *p, uint8_t *buf, enum index_table table)
{
	*p = (struct index_piece_out){.buf = buf, .len = INDEX_PIECE_HEADER_LEN, .table = table};
}

bool index_piece_add(struct index_piece_out *p, uint64_t bucket, const uint64_t *words, unsigned n)
{
	ASSERT(n >= 1 && n <= HINT_WAYS);
	const bool fresh = p->len == INDEX_PIECE_HEADER_LEN;
	const uint64_t gap = fresh ? 0 : bucket - p->next;

	ASSERT(fresh || bucket >= p->next);
	if (p->len + (gap ? RUN_EMPTY_LEN : 0) + RUN_BUCKET_LEN(n) > INDEX_PIECE_MAX)
		return false;
	if (fresh)
		p->first = bucket;
	if (gap) {
		put_u8(p->buf + p->len, 0);
		put_u32(p->buf + p->len + 1, (uint32_t)gap);
		p->len += RUN_EMPTY_LEN;
	}
	put_u8(p->buf + p->len, (uint8_t)n);
	for (unsigned i = 0; i < n; i++)
		put_u64(p->buf + p->len + 1 + 8 * i, words[i]);
	p->len += RUN_BUCKET_LEN(n);
	p->next = bucket + 1;
	return true;
}

void index_piece_end(struct index_piece_out *p, uint64_t seed)
{
	const size_t payload_len = p->len - INDEX_PIECE_HEADER_LEN;

	memset(p->buf, 0, INDEX_PIECE_HEADER_LEN);
	put_u32(p->buf, PIECE_MAGIC);
	put_u8(p->buf + 4, (uint8_t)p->table);
	put_u64(p->buf + 8, p->first);
	put_u32(p->buf + 16, (uint32_t)(p->next - p->first));
	put_u32(p->buf + 20, (uint32_t)payload_len);
	put_u64(p->buf + PIECE_SUM_AT, piece_checksum(p->buf, payload_len, seed));
}

/* --- reading --- */

int index_piece_header_decode(const uint8_t buf[INDEX_PIECE_HEADER_LEN],
        const struct index_header *h, struct index_piece *ret_piece)
{
	const struct index_piece p = {
	        .table = (enum index_table)buf[4],
	        .first = get_u64(buf + 8),
	        .n_buckets = get_u32(buf + 16),
	        .payload_len = get_u32(buf + 20),
	        .checksum = get_u64(buf + PIECE_SUM_AT),
	};

	if (get_u32(buf) != PIECE_MAGIC || buf[4] >= INDEX_TABLES || buf[5] || buf[6] || buf[7])
		return -EUCLEAN;
	if (p.payload_len < RUN_BUCKET_LEN(1) ||
	        p.payload_len > INDEX_PIECE_MAX - INDEX_PIECE_HEADER_LEN)
		return -EUCLEAN;
	const uint64_t n_table = h->n_buckets[p.table];
	if (p.first >= n_table || p.n_buckets < 1 || p.n_buckets > n_table - p.first)
		return -EUCLEAN;
	*ret_piece = p;
	return 0;
}

/* One run at in: 1 and a bucket's words, 0 at the end, or -EUCLEAN.  *bucket moves on behind it. */
static int run_take(
        struct bytes_in *in, uint64_t *bucket, uint64_t words[HINT_WAYS], unsigned *ret_n)
{
	while (in->pos < in->len) {
		const uint8_t n = bytes_take_u8(in);
		if (n > HINT_WAYS)
			return -EUCLEAN;
		if (!n) {
			*bucket += bytes_take_u32(in);
			continue;
		}
		for (unsigned i = 0; i < n; i++) {
			words[i] = bytes_take_u64(in);
			if (!hint_valid(words[i]))
				return -EUCLEAN;
		}
		*bucket += 1;
		*ret_n = n;
		return 1;
	}
	return in->failed ? -EUCLEAN : 0;
}

static int payload_check(const uint8_t *payload, const struct index_piece *p)
{
	struct bytes_in in = {.data = payload, .len = p->payload_len};
	uint64_t words[HINT_WAYS], bucket = p->first;
	unsigned n;
	int r;

	while ((r = run_take(&in, &bucket, words, &n)) > 0)
		if (bucket > p->first + p->n_buckets)
			return -EUCLEAN;
	if (r < 0)
		return r;
	return bucket == p->first + p->n_buckets ? 0 : -EUCLEAN;
}

int index_piece_check(const uint8_t *buf, const struct index_piece *p, uint64_t seed)
{
	if (piece_checksum(buf, p->payload_len, seed) != p->checksum)
		return -EUCLEAN;
	return payload_check(buf + INDEX_PIECE_HEADER_LEN, p);
}

void index_payload_walk(
        const uint8_t *payload, const struct index_piece *p, index_bucket_fn *fn, void *arg)
{
	struct bytes_in in = {.data = payload, .len = p->payload_len};
	uint64_t words[HINT_WAYS], bucket = p->first;
	unsigned n;

	while (run_take(&in, &bucket, words, &n) > 0)
		fn(arg, bucket - 1, words, n);
}

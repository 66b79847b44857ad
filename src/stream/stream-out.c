/*
 * stream-out.c - records into bytes
 *
 * A record is given as one piece in the encoder's memory (prologue if it is the first, header, fixed
 * part of the payload) and one that stays where the caller has it (a frame's payload, a row's value): so
 * nothing large is copied.  Offsets are the caller's business; what could never be decoded is
 * asserted, for it is ours.
 */
#include <errno.h>
#include <sys/uio.h>

#include "stream/stream-private.h"

struct stream_out {
	enum stream_kind kind;
	bool begun;
	uint64_t bytes, records, chunks;
	uint64_t chain;
	uint32_t next_query;
	XXH3_state_t *sum;
	EVP_MD_CTX *sha; /* forward: of all that was given */
	uint8_t piece[STREAM_PROLOGUE_LEN + STREAM_HEADER_LEN + HEAD_LEN_MAX];
	char text[STREAM_META_MAX];
};

void stream_out_free(struct stream_out *o)
{
	if (!o)
		return;
	XXH3_freeState(o->sum);
	EVP_MD_CTX_free(o->sha);
	free(o);
}

void stream_out_freep(struct stream_out **o)
{
	stream_out_free(*o);
}

int stream_out_new(enum stream_kind kind, struct stream_out **ret_out)
{
	CLEANUP(stream_out_freep) struct stream_out *o = calloc(1, sizeof(*o));

	if (!o)
		return -ENOMEM;
	o->kind = kind;
	o->sum = XXH3_createState();
	o->sha = EVP_MD_CTX_new();
	if (!o->sum || !o->sha || !EVP_DigestInit_ex(o->sha, EVP_sha256(), NULL))
		return -ENOMEM;
	*ret_out = STEAL(o);
	return 0;
}

uint64_t stream_out_bytes(const struct stream_out *o)
{
	return o->bytes;
}

void prologue_put(enum stream_kind kind, uint8_t buf[STREAM_PROLOGUE_LEN])
{
	memset(buf, 0, STREAM_PROLOGUE_LEN);
	memcpy(buf, kind == STREAM_FORWARD ? "WEIRSEND" : "WEIRANSW", 8);
	put_u16(buf + 8, STREAM_VERSION);
}

/* --- payloads: the fixed part to p, of which the length is returned; the rest as *tail --- */

static size_t begin_encode(const struct stream_begin *b, uint8_t *p)
{
	put_u32(p, b->flags);
	put_u32(p + 4, 0);
	memcpy(p + 8, b->uuid, 16);
	memcpy(p + 24, b->guid, STREAM_GUID_LEN);
	memcpy(p + 40, b->guid_from, STREAM_GUID_LEN);
	put_u64(p + 56, b->size);
	put_u64(p + 64, b->size_from);
	put_u64(p + 72, b->estimate);
	return BEGIN_LEN;
}

static size_t row_encode(const struct stream_row *row, uint8_t *p, struct stream_bytes *tail)
{
	memset(p, 0, ROW_HEAD_LEN);
	p[0] = (uint8_t)row->table;
	put_u64(p + 8, row->id);
	*tail = row->value;
	return ROW_HEAD_LEN;
}

static size_t fill_encode(const struct stream_fill *f, uint8_t *p)
{
	memset(p, 0, FILL_LEN);
	put_u64(p, f->off);
	put_u64(p + 8, f->len);
	p[16] = f->zero;
	return FILL_LEN;
}

static size_t data_encode(const struct stream_data *d, uint8_t *p, struct stream_bytes *tail)
{
	const uint64_t first = d->places[0].off / CHUNK_SIZE;

	ASSERT(d->n >= 1 && d->n <= FRAME_CHUNKS_MAX && d->n_places >= d->n &&
	        d->n_places <= STREAM_PLACES_MAX);
	p[0] = (uint8_t)d->codec;
	p[1] = (uint8_t)d->n;
	put_u16(p + 2, (uint16_t)d->n_places);
	put_u32(p + 4, 0);
	put_u64(p + 8, first);
	p += DATA_HEAD_LEN;
	for (unsigned i = 0; i < d->n_places; i++, p += PLACE_LEN) {
		const uint64_t delta = d->places[i].off / CHUNK_SIZE - first;
		ASSERT(delta <= UINT16_MAX);
		put_u16(p, (uint16_t)delta);
		p[2] = d->places[i].index;
		p[3] = 0;
	}
	*tail = d->payload;
	return DATA_HEAD_LEN + (size_t)d->n_places * PLACE_LEN;
}

static size_t share_encode(const struct stream_share *sh, uint8_t *p)
{
	put_u64(p, sh->off);
	put_u64(p + 8, sh->src);
	put_u64(p + 16, sh->len);
	return SHARE_LEN;
}

void stream_ask_put(uint8_t *buf, unsigned i, const struct stream_ask *ask)
{
	uint8_t *p = buf + (size_t)i * STREAM_ASK_LEN;

	put_u64(p, ask->off);
	put_u64(p + 8, ask->hash.lo);
	put_u64(p + 16, ask->hash.hi);
	memcpy(p + 24, ask->sha, STREAM_SHA_LEN);
}

static size_t query_encode(
        struct stream_out *o, struct stream_query *q, uint8_t *p, struct stream_bytes *tail)
{
	ASSERT(q->n >= 1 && q->n <= STREAM_ASKS_MAX && q->asks.len == q->n * STREAM_ASK_LEN);
	q->id = o->next_query++;
	put_u32(p, q->id);
	put_u32(p + 4, q->n);
	*tail = q->asks;
	return QUERY_HEAD_LEN;
}

static size_t end_encode(struct stream_out *o, struct stream_end *end, uint8_t *p)
{
	uint8_t sha[EVP_MAX_MD_SIZE];

	if (!EVP_DigestFinal_ex(o->sha, sha, NULL))
		return 0;
	*end = (struct stream_end){.records = o->records, .chunks = o->chunks};
	memcpy(end->sha, sha, STREAM_SHA_LEN);
	put_u64(p, end->records);
	put_u64(p + 8, end->chunks);
	memcpy(p + 16, end->sha, STREAM_SHA_LEN);
	return END_LEN;
}

static size_t hello_encode(const struct stream_hello *h, uint8_t *p)
{
	ASSERT(h->queries_max >= 1 && h->queries_max <= STREAM_QUERIES_MAX && h->asks_max >= 1 &&
	        h->asks_max <= STREAM_ASKS_MAX);
	put_u32(p, h->flags);
	put_u16(p + 4, (uint16_t)h->queries_max);
	put_u16(p + 6, (uint16_t)h->asks_max);
	put_u64(p + 8, h->start);
	if (!(h->flags & STREAM_HELLO_HASH))
		return HELLO_HEAD_LEN;
	memcpy(p + HELLO_HEAD_LEN, h->hasher.secret, HASHER_LEN);
	return HELLO_HEAD_LEN + HASHER_LEN;
}

static size_t have_encode(const struct stream_have *h, uint8_t *p, struct stream_bytes *tail)
{
	ASSERT(h->n >= 1 && h->n <= STREAM_ASKS_MAX && h->bits.len == DIV_UP(h->n, 8u));
	put_u32(p, h->id);
	put_u32(p + 4, h->n);
	*tail = h->bits;
	return HAVE_HEAD_LEN;
}

/* Too long: cut, not within a character. */
static void text_encode(struct stream_out *o, const struct stream_bytes *text, size_t max,
        struct stream_bytes *tail)
{
	size_t len = MIN(text->len, max);

	while (len < text->len && len > 0 && (text->data[len] & 0xc0) == 0x80)
		len--;
	for (size_t i = 0; i < len; i++) {
		const uint8_t c = text->data[i];
		o->text[i] = c < 0x20 || c == 0x7f ? '?' : (char)c;
	}
	*tail = (struct stream_bytes){(const uint8_t *)o->text, len};
}

static size_t payload_encode(
        struct stream_out *o, struct stream_record *rec, uint8_t *p, struct stream_bytes *tail)
{
	if (type_is_opaque(rec->type)) {
		*tail = rec->opaque;
		return 0;
	}
	switch (rec->type) {
	case STREAM_BEGIN:
		return begin_encode(&rec->begin, p);
	case STREAM_META:
		ASSERT(rec->meta.len <= STREAM_META_MAX);
		text_encode(o, &rec->meta, STREAM_META_MAX, tail);
		return 0;
	case STREAM_ROW:
		return row_encode(&rec->row, p, tail);
	case STREAM_START:
		put_u64(p, rec->start);
		return 8;
	case STREAM_FILL:
		return fill_encode(&rec->fill, p);
	case STREAM_DATA:
		o->chunks += rec->data.n_places;
		return data_encode(&rec->data, p, tail);
	case STREAM_SHARE:
		return share_encode(&rec->share, p);
	case STREAM_QUERY:
		return query_encode(o, &rec->query, p, tail);
	case STREAM_POS:
		put_u64(p, rec->pos);
		return 8;
	case STREAM_END:
		return end_encode(o, &rec->end, p);
	case STREAM_HELLO:
		return hello_encode(&rec->hello, p);
	case STREAM_HAVE:
		return have_encode(&rec->have, p, tail);
	case STREAM_DONE:
		ASSERT(rec->done.len <= STREAM_META_MAX);
		text_encode(o, &rec->done, STREAM_META_MAX, tail);
		return 0;
	default:
		text_encode(o, &rec->text, STREAM_TEXT_MAX, tail);
		return 0;
	}
}

/* --- records --- */

static int begin_out(struct stream_out *o)
{
	prologue_put(o->kind, o->piece);
	o->chain = XXH3_64bits(o->piece, STREAM_PROLOGUE_LEN);
	o->begun = true;
	o->bytes = STREAM_PROLOGUE_LEN;
	return EVP_DigestUpdate(o->sha, o->piece, STREAM_PROLOGUE_LEN) ? 0 : -EIO;
}

static int record_sum(
        struct stream_out *o, uint8_t *header, size_t head_len, const struct stream_bytes *tail)
{
	if (XXH3_64bits_reset_withSeed(o->sum, o->chain) != XXH_OK ||
	        XXH3_64bits_update(o->sum, header, HEADER_SUMMED_LEN) != XXH_OK ||
	        XXH3_64bits_update(o->sum, header + STREAM_HEADER_LEN, head_len) != XXH_OK ||
	        (tail->len && XXH3_64bits_update(o->sum, tail->data, tail->len) != XXH_OK))
		return -EIO;
	o->chain = XXH3_64bits_digest(o->sum);
	put_u64(header + HEADER_SUMMED_LEN, o->chain);
	return 0;
}

static int record_digest(struct stream_out *o, const uint8_t *header, size_t head_len,
        const struct stream_bytes *tail)
{
	if (o->kind != STREAM_FORWARD)
		return 0;
	return EVP_DigestUpdate(o->sha, header, STREAM_HEADER_LEN + head_len) &&
	                       EVP_DigestUpdate(o->sha, tail->data, tail->len)
	               ? 0
	               : -EIO;
}

int stream_out_record(struct stream_out *o, struct stream_record *rec,
        struct iovec ret_iov[STREAM_OUT_IOV], int *ret_n)
{
	struct stream_bytes tail = {NULL, 0};
	const size_t at = o->begun ? 0 : STREAM_PROLOGUE_LEN;
	uint8_t *header = o->piece + at;
	int r = o->begun ? 0 : begin_out(o);

	if (r < 0)
		return r;
	const size_t head_len = payload_encode(o, rec, header + STREAM_HEADER_LEN, &tail);
	ASSERT(head_len <= HEAD_LEN_MAX && head_len + tail.len <= STREAM_PAYLOAD_MAX);
	if (rec->type == STREAM_END && head_len == 0)
		return -EIO; /* libcrypto's */
	put_u16(header, (uint16_t)rec->type);
	put_u16(header + 2, 0);
	put_u32(header + 4, (uint32_t)(head_len + tail.len));
	r = record_sum(o, header, head_len, &tail);
	if (r == 0 && rec->type != STREAM_END)
		r = record_digest(o, header, head_len, &tail);
	if (r < 0)
		return r;
	o->records++;
	o->bytes += STREAM_HEADER_LEN + head_len + tail.len;
	ret_iov[0] = (struct iovec){o->piece, at + STREAM_HEADER_LEN + head_len};
	ret_iov[1] = (struct iovec){(void *)(uintptr_t)tail.data, tail.len};
	*ret_n = tail.len ? 2 : 1;
	return 0;
}

/*
 * stream-payload.c - the payloads of records, each by itself
 *
 * Every length must be exactly what the fields say, every reserved byte zero, every list sorted and without
 * doubles: so a record has one encoding, and what a later version may want to say in those places is
 * refused by this one.
 */
#include <errno.h>

#include "stream/stream-private.h"

int payload_newer(struct errmsg *em, const char *what, unsigned number)
{
	return errmsg_set(em, -EPROTONOSUPPORT,
	        "it was made by a newer weir (%s %u is not known here)", what, number);
}

static bool all_zero(const uint8_t *p, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (p[i])
			return false;
	return true;
}

/* In bytes, and with room for rounding up. */
static bool size_good(uint64_t size)
{
	return size <= IMAGE_SIZE_MAX;
}

static bool off_good(uint64_t off)
{
	return off % CHUNK_SIZE == 0 && off <= IMAGE_SIZE_MAX;
}

/* --- stream --- */

static int begin_decode(
        const uint8_t *p, size_t len, struct stream_begin *ret_begin, struct errmsg *em)
{
	struct stream_begin b = {.flags = len >= 4 ? get_u32(p) : 0};

	if (b.flags & ~(uint32_t)BEGIN_FLAGS)
		return payload_newer(em, "flags", b.flags);
	if (len != BEGIN_LEN || !all_zero(p + 4, 4))
		return -EUCLEAN;
	memcpy(b.uuid, p + 8, 16);
	memcpy(b.guid, p + 24, STREAM_GUID_LEN);
	memcpy(b.guid_from, p + 40, STREAM_GUID_LEN);
	b.size = get_u64(p + 56);
	b.size_from = get_u64(p + 64);
	b.estimate = get_u64(p + 72);
	if (!size_good(b.size) || !size_good(b.size_from))
		return -EUCLEAN;
	if (!(b.flags & STREAM_INCREMENTAL) && (b.size_from || !all_zero(b.guid_from, 16)))
		return -EUCLEAN;
	*ret_begin = b;
	return 0;
}

static int row_decode(const uint8_t *p, size_t len, struct stream_row *ret_row)
{
	if (len < ROW_HEAD_LEN || !all_zero(p + 1, 7))
		return -EUCLEAN;
	if (p[0] != STREAM_ROW_ATTACHMENT && p[0] != STREAM_ROW_STATE)
		return -EUCLEAN;
	*ret_row = (struct stream_row){
	        .table = (enum stream_row_table)p[0],
	        .id = get_u64(p + 8),
	        .value = {p + ROW_HEAD_LEN, len - ROW_HEAD_LEN},
	};
	return 0;
}

static int fill_decode(const uint8_t *p, size_t len, struct stream_fill *ret_fill)
{
	if (len != FILL_LEN || p[16] > 1 || !all_zero(p + 17, 7))
		return -EUCLEAN;
	*ret_fill = (struct stream_fill){get_u64(p), get_u64(p + 8), p[16] == 1};
	return 0;
}

static bool places_decode(const uint8_t *p, uint64_t first, struct stream_data *d)
{
	uint32_t seen = 0;

	for (unsigned i = 0; i < d->n_places; i++, p += PLACE_LEN) {
		const uint64_t chunk = first + get_u16(p);
		d->places[i].off = chunk * CHUNK_SIZE;
		d->places[i].index = p[2];
		if (p[2] >= d->n || p[3] != 0 || chunk >= IMAGE_CHUNKS_MAX)
			return false;
		if (i ? d->places[i].off <= d->places[i - 1].off : chunk != first)
			return false;
		seen |= BIT(p[2]);
	}
	return seen == BIT(d->n) - 1;
}

static int data_decode(
        const uint8_t *p, size_t len, struct stream_data *ret_data, struct errmsg *em)
{
	if (len < DATA_HEAD_LEN || !all_zero(p + 4, 4))
		return -EUCLEAN;
	if (p[0] > CODEC_LZ4)
		return payload_newer(em, "codec", p[0]);
	ret_data->codec = (enum frame_codec)p[0];
	ret_data->n = p[1];
	ret_data->n_places = get_u16(p + 2);
	const uint64_t first = get_u64(p + 8);
	if (ret_data->n < 1 || ret_data->n > FRAME_CHUNKS_MAX ||
	        ret_data->n_places > STREAM_PLACES_MAX || ret_data->n_places < ret_data->n ||
	        first >= IMAGE_CHUNKS_MAX)
		return -EUCLEAN;
	const size_t head = DATA_HEAD_LEN + ret_data->n_places * PLACE_LEN;
	const size_t whole = ret_data->n * CHUNK_SIZE;
	if (len <= head || len - head > whole ||
	        (ret_data->codec == CODEC_RAW && len - head != whole))
		return -EUCLEAN;
	ret_data->payload = (struct stream_bytes){p + head, len - head};
	return places_decode(p + DATA_HEAD_LEN, first, ret_data) ? 0 : -EUCLEAN;
}

static int share_decode(const uint8_t *p, size_t len, struct stream_share *ret_share)
{
	if (len != SHARE_LEN)
		return -EUCLEAN;
	*ret_share = (struct stream_share){get_u64(p), get_u64(p + 8), get_u64(p + 16)};
	return off_good(ret_share->src) && ret_share->len % CHUNK_SIZE == 0 ? 0 : -EUCLEAN;
}

void stream_ask_get(const struct stream_query *q, unsigned i, struct stream_ask *ret_ask)
{
	const uint8_t *p = q->asks.data + (size_t)i * STREAM_ASK_LEN;

	ret_ask->off = get_u64(p);
	ret_ask->hash = (struct hash128){get_u64(p + 8), get_u64(p + 16)};
	memcpy(ret_ask->sha, p + 24, STREAM_SHA_LEN);
}

static int query_decode(const uint8_t *p, size_t len, struct stream_query *ret_query)
{
	uint64_t before = 0;

	if (len < QUERY_HEAD_LEN)
		return -EUCLEAN;
	struct stream_query q = {.id = get_u32(p), .n = get_u32(p + 4)};
	if (q.n < 1 || q.n > STREAM_ASKS_MAX || len != QUERY_HEAD_LEN + q.n * STREAM_ASK_LEN)
		return -EUCLEAN;
	q.asks = (struct stream_bytes){p + QUERY_HEAD_LEN, len - QUERY_HEAD_LEN};
	for (unsigned i = 0; i < q.n; i++) {
		struct stream_ask ask;
		stream_ask_get(&q, i, &ask);
		if (!off_good(ask.off) || (i && ask.off <= before))
			return -EUCLEAN;
		before = ask.off;
	}
	*ret_query = q;
	return 0;
}

static int off_decode(const uint8_t *p, size_t len, uint64_t *ret_off)
{
	if (len != 8 || !off_good(get_u64(p)))
		return -EUCLEAN;
	*ret_off = get_u64(p);
	return 0;
}

static int end_decode(const uint8_t *p, size_t len, struct stream_end *ret_end)
{
	if (len != END_LEN)
		return -EUCLEAN;
	ret_end->records = get_u64(p);
	ret_end->chunks = get_u64(p + 8);
	memcpy(ret_end->sha, p + 16, STREAM_SHA_LEN);
	return 0;
}

/* --- answers --- */

static int hello_decode(
        const uint8_t *p, size_t len, struct stream_hello *ret_hello, struct errmsg *em)
{
	if (len < HELLO_HEAD_LEN)
		return -EUCLEAN;
	struct stream_hello h = {
	        .flags = get_u32(p),
	        .queries_max = get_u16(p + 4),
	        .asks_max = get_u16(p + 6),
	        .start = get_u64(p + 8),
	};
	if (h.flags & ~(uint32_t)STREAM_HELLO_HASH)
		return payload_newer(em, "flags", h.flags);
	if (len != HELLO_HEAD_LEN + (h.flags & STREAM_HELLO_HASH ? HASHER_LEN : 0))
		return -EUCLEAN;
	if (!h.queries_max || h.queries_max > STREAM_QUERIES_MAX || !h.asks_max ||
	        h.asks_max > STREAM_ASKS_MAX || !off_good(h.start))
		return -EUCLEAN;
	if (h.flags & STREAM_HELLO_HASH)
		memcpy(h.hasher.secret, p + HELLO_HEAD_LEN, HASHER_LEN);
	*ret_hello = h;
	return 0;
}

bool stream_have_bit(const struct stream_have *h, unsigned i)
{
	return h->bits.data[i / 8] >> i % 8 & 1;
}

static int have_decode(const uint8_t *p, size_t len, struct stream_have *ret_have)
{
	if (len < HAVE_HEAD_LEN)
		return -EUCLEAN;
	struct stream_have h = {.id = get_u32(p), .n = get_u32(p + 4)};
	if (h.n < 1 || h.n > STREAM_ASKS_MAX || len != HAVE_HEAD_LEN + DIV_UP(h.n, 8u))
		return -EUCLEAN;
	h.bits = (struct stream_bytes){p + HAVE_HEAD_LEN, len - HAVE_HEAD_LEN};
	if (h.n % 8 && p[len - 1] >> h.n % 8)
		return -EUCLEAN;
	*ret_have = h;
	return 0;
}

/* --- texts --- */

static int text_decode(const uint8_t *p, size_t len, size_t max, struct stream_bytes *ret_text)
{
	if (len > max)
		return -EUCLEAN;
	for (size_t i = 0; i < len; i++)
		if (p[i] < 0x20 || p[i] == 0x7f)
			return -EUCLEAN;
	*ret_text = (struct stream_bytes){p, len};
	return 0;
}

int payload_decode(unsigned type, const uint8_t *data, size_t len, struct stream_record *ret_rec,
        struct errmsg *em)
{
	ret_rec->type = (enum stream_type)type;
	if (type_is_opaque(type)) {
		ret_rec->opaque = (struct stream_bytes){data, len};
		return 0;
	}
	switch (ret_rec->type) {
	case STREAM_BEGIN:
		return begin_decode(data, len, &ret_rec->begin, em);
	case STREAM_META:
		return text_decode(data, len, STREAM_META_MAX, &ret_rec->meta);
	case STREAM_ROW:
		return row_decode(data, len, &ret_rec->row);
	case STREAM_START:
		return off_decode(data, len, &ret_rec->start);
	case STREAM_FILL:
		return fill_decode(data, len, &ret_rec->fill);
	case STREAM_DATA:
		return data_decode(data, len, &ret_rec->data, em);
	case STREAM_SHARE:
		return share_decode(data, len, &ret_rec->share);
	case STREAM_QUERY:
		return query_decode(data, len, &ret_rec->query);
	case STREAM_POS:
		return off_decode(data, len, &ret_rec->pos);
	case STREAM_END:
		return end_decode(data, len, &ret_rec->end);
	case STREAM_HELLO:
		return hello_decode(data, len, &ret_rec->hello, em);
	case STREAM_HAVE:
		return have_decode(data, len, &ret_rec->have);
	case STREAM_DONE:
		return text_decode(data, len, STREAM_META_MAX, &ret_rec->done);
	case STREAM_ABORT:
	case STREAM_ERROR:
		return text_decode(data, len, STREAM_TEXT_MAX, &ret_rec->text);
	default:
		return payload_newer(em, "record", type);
	}
}

int stream_data_unpack(const struct stream_data *d, uint8_t *ret_chunks)
{
	const struct frame_info f = {
	        .n = d->n, .codec = d->codec, .payload_len = (uint32_t)d->payload.len};
	const int r = frame_unpack(&f, d->payload.data, ret_chunks);

	return r == -EOPNOTSUPP ? -EPROTONOSUPPORT : r;
}

/*
 * fuzz-stream.c - send streams, answers and tokens, on any bytes
 *
 * First byte even: forward, odd: answers.  Bit 1: what follows is {type u8, length u16, payload}, again and
 * again, of which records with the right checksums are made: a fuzzer does not find those.  Else it
 * is the stream itself.
 */
#include <errno.h>
#include <string.h>
#include <sys/uio.h>
#include <xxhash.h>

#include "base/bytes.h"
#include "stream/stream.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct feed {
	struct stream_in *in;
	int r;
};

/* What points into the decoder's buffer is there, all of it. */
static void bytes_touch(const struct stream_bytes *b)
{
	static volatile uint8_t sink;

	for (size_t i = 0; i < b->len; i++)
		sink ^= b->data[i];
}

static void query_touch(const struct stream_query *q)
{
	struct stream_ask ask;

	for (unsigned i = 0; i < q->n; i++) {
		stream_ask_get(q, i, &ask);
		ASSERT(ask.off < IMAGE_SIZE_MAX);
	}
}

static void data_touch(const struct stream_data *d)
{
	static uint8_t chunks[FRAME_UNPACK_BYTES];

	ASSERT(d->n >= 1 && d->n <= FRAME_CHUNKS_MAX && d->n_places >= d->n);
	for (unsigned i = 0; i < d->n_places; i++)
		ASSERT(d->places[i].index < d->n && d->places[i].off < IMAGE_SIZE_MAX);
	const int r = stream_data_unpack(d, chunks);
	ASSERT(r == 0 || r == -EUCLEAN || r == -EPROTONOSUPPORT);
}

static void record_touch(struct stream_record *rec)
{
	switch (rec->type) {
	case STREAM_QUERY:
		query_touch(&rec->query);
		break;
	case STREAM_DATA:
		data_touch(&rec->data);
		break;
	case STREAM_ROW:
		bytes_touch(&rec->row.value);
		break;
	case STREAM_HAVE:
		for (unsigned i = 0; i < rec->have.n; i++)
			(void)stream_have_bit(&rec->have, i);
		break;
	case STREAM_META:
	case STREAM_DONE:
	case STREAM_ABORT:
	case STREAM_ERROR:
		bytes_touch(&rec->meta);
		break;
	default:
		break;
	}
}

static void feed(struct feed *f, const uint8_t *data, size_t len)
{
	static struct stream_record rec;
	struct errmsg em = {0};
	uint8_t *buf = NULL;
	size_t room;

	while (len > 0 && f->r >= 0 && (room = stream_in_room(f->in, &buf)) > 0) {
		const size_t n = MIN(room, len);
		memcpy(buf, data, n);
		data += n;
		len -= n;
		f->r = stream_in_fed(f->in, n, &rec, &em);
		ASSERT(f->r >= 0 || em.text[0]);
		ASSERT(f->r >= 0 || f->r == -EUCLEAN || f->r == -EPROTONOSUPPORT);
		if (f->r == 1)
			record_touch(&rec);
	}
}

/* Records of the given types and payloads, with checksums that are right. */
static void feed_made(struct feed *f, bool answers, const uint8_t *data, size_t size)
{
	uint8_t head[STREAM_PROLOGUE_LEN] = {0}, *record = malloc(STREAM_HEADER_LEN + UINT16_MAX);
	struct bytes_in b = {.data = data, .len = size};

	ASSERT(record);
	memcpy(head, answers ? "WEIRANSW" : "WEIRSEND", 8);
	put_u16(head + 8, STREAM_VERSION);
	uint64_t chain = XXH3_64bits(head, sizeof(head));
	feed(f, head, sizeof(head));
	while (b.pos < b.len && !b.failed && f->r >= 0) {
		const uint8_t type = bytes_take_u8(&b);
		const size_t said = bytes_take_u16(&b);
		const size_t len = MIN(said, b.len - b.pos);
		const uint8_t *payload = bytes_take(&b, len);
		put_u16(record, type);
		put_u16(record + 2, 0);
		put_u32(record + 4, (uint32_t)len);
		if (len)
			memcpy(record + 8, payload, len);
		chain = XXH3_64bits_withSeed(record, 8 + len, chain);
		if (len)
			memmove(record + STREAM_HEADER_LEN, record + 8, len);
		put_u64(record + 8, chain);
		feed(f, record, STREAM_HEADER_LEN + len);
	}
	free(record);
}

static void token_try(const uint8_t *data, size_t size)
{
	char *text = calloc(1, size + 1), again[STREAM_TOKEN_TEXT];
	struct stream_token t;

	ASSERT(text);
	memcpy(text, data, size);
	if (stream_token_parse(text, &t) == 0) {
		stream_token_text(&t, again);
		ASSERT(!strcmp(text, again));
	}
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct feed f = {0};
	struct errmsg em = {0};

	token_try(data, size);
	if (size == 0)
		return 0;
	const bool answers = data[0] & 1;
	const int r = stream_in_new(answers ? STREAM_ANSWERS : STREAM_FORWARD, &f.in);
	ASSERT(r == 0);
	if (data[0] & 2)
		feed_made(&f, answers, data + 1, size - 1);
	else
		feed(&f, data + 1, size - 1);
	const int ended = stream_in_ended(f.in, &em);
	ASSERT(ended == 0 || em.text[0] || f.r < 0);
	stream_in_free(f.in);
	return 0;
}

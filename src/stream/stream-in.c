/*
 * stream-in.c - bytes into records: framing, checksums, order
 *
 * Fed piece by piece by whoever does the reading, each time with no more than the present prologue,
 * header or payload still lacks: so it never holds more than one record, and never takes what lies behind
 * the stream.  A length is believed as far as STREAM_PAYLOAD_MAX before its checksum is known;
 * nothing else is, of any record.  What one record says alone is decoded in stream-payload.c; here
 * stands what is true between records: their order, the position, and that the end fits.
 */
#include <errno.h>
#include <stdio.h>

#include "stream/stream-private.h"

enum part { PART_PROLOGUE, PART_HEADER, PART_PAYLOAD };

enum state {
	WANT_BEGIN,
	WANT_META,
	WANT_ROWS, /* or START */
	WANT_BODY,
	WANT_HELLO,
	WANT_HAVE, /* or DONE */
	COMPLETE,
};

struct stream_in {
	enum stream_kind kind;
	enum part part;
	enum state state;
	int failed;     /* the error given; it stays */
	uint64_t bytes; /* fed */
	uint64_t chain; /* checksum of the record before */
	uint8_t head[STREAM_HEADER_LEN];
	uint8_t *payload; /* owned; cap bytes */
	size_t cap;
	size_t have, want; /* of the present part */
	unsigned type;
	XXH3_state_t *sum;
	EVP_MD_CTX *sha; /* forward: of all bytes of whole records */
	/* What later records are held against. */
	uint32_t flags;
	uint64_t pos, end; /* in the image, in bytes */
	uint64_t records, chunks;
	uint32_t rows, next_query, next_have;
};

void stream_in_free(struct stream_in *in)
{
	if (!in)
		return;
	XXH3_freeState(in->sum);
	EVP_MD_CTX_free(in->sha);
	free(in->payload);
	free(in);
}

void stream_in_freep(struct stream_in **in)
{
	stream_in_free(*in);
}

int stream_in_new(enum stream_kind kind, struct stream_in **ret_in)
{
	CLEANUP(stream_in_freep) struct stream_in *in = calloc(1, sizeof(*in));

	if (!in)
		return -ENOMEM;
	in->kind = kind;
	in->state = kind == STREAM_FORWARD ? WANT_BEGIN : WANT_HELLO;
	in->want = STREAM_PROLOGUE_LEN;
	in->sum = XXH3_createState();
	in->sha = EVP_MD_CTX_new();
	if (!in->sum || !in->sha || !EVP_DigestInit_ex(in->sha, EVP_sha256(), NULL))
		return -ENOMEM;
	*ret_in = STEAL(in);
	return 0;
}

uint64_t stream_in_bytes(const struct stream_in *in)
{
	return in->bytes;
}

size_t stream_in_room(struct stream_in *in, uint8_t **ret_buf)
{
	if (in->state == COMPLETE || in->failed)
		return 0;
	*ret_buf = (in->part == PART_PAYLOAD ? in->payload : in->head) + in->have;
	return in->want - in->have;
}

int stream_in_ended(const struct stream_in *in, struct errmsg *em)
{
	uint8_t magic[STREAM_PROLOGUE_LEN];

	if (in->state == COMPLETE)
		return 0;
	if (in->failed)
		return in->failed;
	prologue_put(in->kind, magic);
	if (in->kind == STREAM_ANSWERS)
		return errmsg_set(em, -ENODATA, "the receiver ended without %s",
		        in->bytes ? "saying that it is done" : "an answer");
	if (in->bytes && in->bytes < sizeof(magic) && memcmp(in->head, magic, in->bytes))
		return errmsg_set(em, -EUCLEAN, "it is no stream of weir send");
	return errmsg_set(em, -ENODATA,
	        in->bytes ? "the stream was cut off after %llu bytes" : "the stream is empty",
	        (unsigned long long)in->bytes);
}

static int fail(struct stream_in *in, int err, struct errmsg *em)
{
	in->failed = err;
	if (em && !em->text[0])
		errmsg_set(em, err, "it is damaged or was put together wrongly, at byte %llu",
		        (unsigned long long)in->bytes);
	return err;
}

/* --- prologue, header --- */

static int prologue_take(struct stream_in *in, struct errmsg *em)
{
	uint8_t expected[STREAM_PROLOGUE_LEN];

	prologue_put(in->kind, expected);
	if (memcmp(in->head, expected, 8))
		return errmsg_set(em, -EUCLEAN,
		        in->kind == STREAM_FORWARD ? "it is no stream of weir send"
		                                   : "that is no answer of weir receive");
	if (get_u16(in->head + 8) != STREAM_VERSION)
		return payload_newer(em, "version", get_u16(in->head + 8));
	if (memcmp(in->head, expected, sizeof(expected)))
		return -EUCLEAN;
	in->chain = XXH3_64bits(in->head, STREAM_PROLOGUE_LEN);
	if (in->kind == STREAM_FORWARD && !EVP_DigestUpdate(in->sha, in->head, STREAM_PROLOGUE_LEN))
		return -EIO;
	return 0;
}

static int payload_room(struct stream_in *in, size_t len)
{
	if (len <= in->cap)
		return 0;
	uint8_t *payload = malloc(len);
	if (!payload)
		return -ENOMEM;
	free(in->payload);
	in->payload = payload;
	in->cap = len;
	return 0;
}

static int header_take(struct stream_in *in, struct errmsg *em)
{
	const size_t len = get_u32(in->head + 4);

	in->type = get_u16(in->head);
	if (get_u16(in->head + 2) != 0 || len > STREAM_PAYLOAD_MAX)
		return -EUCLEAN;
	in->part = PART_PAYLOAD;
	in->have = 0;
	in->want = len;
	return payload_room(in, MAX(len, (size_t)1));
}

/* --- what is true between records --- */

/* [off, off + len) is at or above the position and below the image's end; whole chunks. */
static bool range_good(const struct stream_in *in, uint64_t off, uint64_t len)
{
	return off % CHUNK_SIZE == 0 && len % CHUNK_SIZE == 0 && len > 0 && off >= in->pos &&
	       off <= in->end && len <= in->end - off;
}

static bool data_good(const struct stream_in *in, const struct stream_data *d)
{
	const uint64_t last = d->places[d->n_places - 1].off;

	return d->places[0].off >= in->pos && last < in->end && last - in->pos < STREAM_WINDOW;
}

static bool query_good(struct stream_in *in, const struct stream_query *q)
{
	struct stream_ask first, last;

	stream_ask_get(q, 0, &first);
	stream_ask_get(q, q->n - 1, &last);
	return q->id == in->next_query++ && in->flags & STREAM_TALK && first.off >= in->pos &&
	       last.off < in->end && last.off - in->pos < STREAM_AHEAD;
}

static bool pos_good(struct stream_in *in, uint64_t pos)
{
	if (pos % CHUNK_SIZE || pos < in->pos || pos > in->end)
		return false;
	in->pos = pos;
	return true;
}

static bool end_good(struct stream_in *in, const struct stream_end *end)
{
	uint8_t sha[EVP_MAX_MD_SIZE];

	if (end->records != in->records || end->chunks != in->chunks || in->pos != in->end)
		return false;
	return EVP_DigestFinal_ex(in->sha, sha, NULL) && !memcmp(sha, end->sha, STREAM_SHA_LEN);
}

/* In the body of a stream. */
static bool body_take(struct stream_in *in, const struct stream_record *rec)
{
	switch (rec->type) {
	case STREAM_FILL:
		return range_good(in, rec->fill.off, rec->fill.len);
	case STREAM_DATA:
		in->chunks += rec->data.n_places;
		return data_good(in, &rec->data);
	case STREAM_SHARE:
		return range_good(in, rec->share.off, rec->share.len) &&
		       rec->share.src <= in->pos && rec->share.len <= in->pos - rec->share.src;
	case STREAM_QUERY:
		return query_good(in, &rec->query);
	case STREAM_POS:
		return pos_good(in, rec->pos);
	case STREAM_END:
		in->state = COMPLETE;
		return end_good(in, &rec->end);
	default:
		return false;
	}
}

static bool begin_take(struct stream_in *in, const struct stream_begin *b)
{
	in->flags = b->flags;
	in->end = ROUND_UP(b->size, (uint64_t)CHUNK_SIZE);
	in->state = WANT_META;
	return true;
}

static bool head_take(struct stream_in *in, const struct stream_record *rec)
{
	if (in->state == WANT_META) {
		in->state = WANT_ROWS;
		return rec->type == STREAM_META;
	}
	if (rec->type == STREAM_ROW)
		return ++in->rows <= STREAM_ROWS_MAX;
	in->state = WANT_BODY;
	return rec->type == STREAM_START && pos_good(in, rec->start);
}

static bool forward_take(struct stream_in *in, const struct stream_record *rec)
{
	if (in->state == WANT_BEGIN)
		return rec->type == STREAM_BEGIN && begin_take(in, &rec->begin);
	if (rec->type == STREAM_ABORT) {
		in->state = COMPLETE;
		return true;
	}
	if (type_is_opaque(rec->type))
		return in->flags & STREAM_RAW && in->state == WANT_BODY;
	return in->state == WANT_BODY ? body_take(in, rec) : head_take(in, rec);
}

static bool answer_take(struct stream_in *in, const struct stream_record *rec)
{
	const bool hello = in->state == WANT_HELLO;

	if (rec->type == STREAM_ERROR || (!hello && rec->type == STREAM_DONE)) {
		in->state = COMPLETE;
		return true;
	}
	if (!hello)
		return rec->type == STREAM_HAVE && rec->have.id == in->next_have++;
	in->state = WANT_HAVE;
	return rec->type == STREAM_HELLO;
}

/* --- a whole record --- */

static int sum_check(struct stream_in *in)
{
	if (XXH3_64bits_reset_withSeed(in->sum, in->chain) != XXH_OK ||
	        XXH3_64bits_update(in->sum, in->head, HEADER_SUMMED_LEN) != XXH_OK ||
	        XXH3_64bits_update(in->sum, in->payload, in->want) != XXH_OK)
		return -EIO;
	in->chain = XXH3_64bits_digest(in->sum);
	return in->chain == get_u64(in->head + HEADER_SUMMED_LEN) ? 0 : -EUCLEAN;
}

static int record_take(struct stream_in *in, struct stream_record *ret_rec, struct errmsg *em)
{
	const size_t len = in->want;
	int r = sum_check(in);

	if (r == 0)
		r = payload_decode(in->type, in->payload, len, ret_rec, em);
	if (r < 0)
		return r;
	if (in->kind == STREAM_FORWARD ? !forward_take(in, ret_rec) : !answer_take(in, ret_rec))
		return -EUCLEAN;
	in->records++;
	in->part = PART_HEADER;
	in->have = 0;
	in->want = STREAM_HEADER_LEN;
	if (in->kind == STREAM_FORWARD && in->state != COMPLETE &&
	        (!EVP_DigestUpdate(in->sha, in->head, STREAM_HEADER_LEN) ||
	                !EVP_DigestUpdate(in->sha, in->payload, len)))
		return -EIO;
	return 1;
}

int stream_in_fed(
        struct stream_in *in, size_t len, struct stream_record *ret_rec, struct errmsg *em)
{
	int r = 0;

	if (in->failed)
		return fail(in, in->failed, em);
	ASSERT(len <= in->want - in->have);
	in->have += len;
	in->bytes += len;
	if (in->have < in->want)
		return 0;
	switch (in->part) {
	case PART_PROLOGUE:
		r = prologue_take(in, em);
		in->part = PART_HEADER;
		in->have = 0;
		in->want = STREAM_HEADER_LEN;
		break;
	case PART_HEADER:
		r = header_take(in, em);
		if (r == 0 && in->want == 0)
			r = record_take(in, ret_rec, em);
		break;
	case PART_PAYLOAD:
		r = record_take(in, ret_rec, em);
		break;
	}
	return r < 0 ? fail(in, r, em) : r;
}

/*
 * fuzz-raw.c - records of raw streams, of any bytes
 *
 * Input: records, each a byte (type - RAW_KEY, mod 4), a length of two bytes, a payload.  What is accepted as a stream is
 * accepted again; keys and tokens survive a round trip.
 */
#include "stream/raw.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void key_again(const uint8_t *data, size_t len)
{
	struct raw_key key, again;
	struct bytes_out out = {0};

	if (raw_key_decode(data, len, &key) < 0)
		return;
	ASSERT(raw_key_encode(&key, &out) == 0);
	ASSERT(out.len == len && !memcmp(out.data, data, len));
	ASSERT(raw_key_decode(out.data, out.len, &again) == 0);
	bytes_release(&out);
}

static void piece_again(const uint8_t *data, size_t len)
{
	struct raw_piece piece;
	uint8_t head[RAW_SEGMENT_HEAD];

	if (raw_piece_decode(data, len, &piece) < 0)
		return;
	raw_piece_encode(&piece, head);
	ASSERT(!memcmp(head, data, sizeof(head)));
}

static void map_again(const uint8_t *data, size_t len)
{
	struct bytes_in in = {.data = data, .len = len};
	struct bytes_out out = {0};
	struct sealed_item it;

	while (raw_map_next(&in, &it) == 1)
		ASSERT(raw_map_add(&out, &it) == 0);
	ASSERT(out.len <= len && (!out.len || !memcmp(out.data, data, out.len)));
	bytes_release(&out);
}

static void token_again(const uint8_t *data, size_t size)
{
	char text[RAW_TOKEN_TEXT], again[RAW_TOKEN_TEXT];
	struct raw_token t;

	if (size >= sizeof(text))
		return;
	memcpy(text, data, size);
	text[size] = 0;
	if (raw_token_parse(text, &t) < 0)
		return;
	raw_token_text(&t, again);
	ASSERT(!strcmp(text, again));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct bytes_in in = {.data = data, .len = size};
	struct raw_progress p = {0};
	struct raw_from from;

	token_again(data, size);
	while (in.pos < in.len) {
		const unsigned type = RAW_KEY + bytes_take_u8(&in) % 4u;
		const size_t len = bytes_take_u16(&in);
		const uint8_t *payload = bytes_take(&in, len);
		if (!payload)
			break;
		key_again(payload, len);
		piece_again(payload, len);
		map_again(payload, len);
		if (raw_from_decode(payload, len, &from) == 0) {
			uint8_t buf[RAW_FROM_LEN];
			raw_from_encode(&from, buf);
			ASSERT(!memcmp(buf, payload, len));
		}
		if (raw_progress_take(&p, type, payload, len) < 0)
			break;
		ASSERT(p.segment_have <= p.segment_total);
	}
	if (raw_progress_end(&p) == 0)
		ASSERT(p.has_key);
	from = raw_progress_cut(&p);
	ASSERT(from.segment ? from.leaf == UINT32_MAX : from.leaf == p.leaf_end);
	return 0;
}

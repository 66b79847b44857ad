/*
 * test-stream.c - the codec of send streams: what is written is read, and nothing else is
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "stream/stream.h"

#define CAP  (64u << 10)
#define SIZE (3u * 1024 * 1024 + 5)

/* A stream being put together; where each record begins is remembered. */
struct made {
	struct stream_out *out;
	uint8_t bytes[CAP];
	size_t len, at[32];
	unsigned n;
};

static void put(struct made *m, struct stream_record rec)
{
	struct iovec iov[STREAM_OUT_IOV];
	int n;

	m->at[m->n++] = m->len;
	assert_int_equal(stream_out_record(m->out, &rec, iov, &n), 0);
	for (int i = 0; i < n; i++) {
		assert_true(m->len + iov[i].iov_len <= CAP);
		memcpy(m->bytes + m->len, iov[i].iov_base, iov[i].iov_len);
		m->len += iov[i].iov_len;
	}
	assert_int_equal(stream_out_bytes(m->out), m->len);
}

static void make_begin(struct made *m, enum stream_kind kind)
{
	*m = (struct made){0};
	assert_int_equal(stream_out_new(kind, &m->out), 0);
}

static struct stream_bytes text(const char *s)
{
	return (struct stream_bytes){(const uint8_t *)s, strlen(s)};
}

static struct stream_record begin_record(uint32_t flags)
{
	struct stream_record rec = {.type = STREAM_BEGIN, .begin = {.flags = flags, .size = SIZE}};

	memset(rec.begin.uuid, 1, 16);
	memset(rec.begin.guid, 2, 16);
	rec.begin.estimate = 77;
	return rec;
}

static const uint8_t chunk[CHUNK_SIZE] = {1, 2, 3};

static struct stream_record data_record(uint64_t off)
{
	return (struct stream_record){
	        .type = STREAM_DATA,
	        .data = {.n = 1,
	                .codec = CODEC_RAW,
	                .n_places = 2,
	                .places = {{off, 0}, {off + 2 * CHUNK_SIZE, 0}},
	                .payload = {chunk, CHUNK_SIZE}},
	};
}

static void put_head(struct made *m, uint32_t flags)
{
	put(m, begin_record(flags));
	put(m, (struct stream_record){.type = STREAM_META, .meta = text("{}")});
	put(m, (struct stream_record){
	               .type = STREAM_ROW, .row = {STREAM_ROW_STATE, 1ull << 40, text("value")}});
	put(m, (struct stream_record){.type = STREAM_START, .start = 0});
}

#define END_POS ROUND_UP((uint64_t)SIZE, CHUNK_SIZE)

static void put_end(struct made *m)
{
	put(m, (struct stream_record){.type = STREAM_POS, .pos = END_POS});
	put(m, (struct stream_record){.type = STREAM_END});
}

static void make_whole(struct made *m, uint32_t flags)
{
	make_begin(m, STREAM_FORWARD);
	put_head(m, flags);
	put(m, (struct stream_record){.type = STREAM_FILL, .fill = {CHUNK_SIZE, CHUNK_SIZE, true}});
	put(m, data_record(0));
	put(m, (struct stream_record){.type = STREAM_POS, .pos = 1u << 20});
	put(m, (struct stream_record){
	               .type = STREAM_SHARE, .share = {2u << 20, 0, 2 * CHUNK_SIZE}});
	put_end(m);
	stream_out_free(m->out);
}

/* Feeds it `step` bytes at a time; the result of the last call, and how many records came. */
static int read_all(
        enum stream_kind kind, const uint8_t *bytes, size_t len, size_t step, unsigned *ret_n)
{
	static struct stream_record rec;
	struct stream_in *in;
	struct errmsg em = {0};
	uint8_t *buf;
	size_t room;
	int r = 0;

	*ret_n = 0;
	assert_int_equal(stream_in_new(kind, &in), 0);
	while (r >= 0 && len > 0 && (room = stream_in_room(in, &buf)) > 0) {
		const size_t n = MIN(MIN(room, step), len);
		memcpy(buf, bytes, n);
		bytes += n;
		len -= n;
		r = stream_in_fed(in, n, &rec, &em);
		*ret_n += r == 1;
	}
	if (r >= 0)
		r = stream_in_ended(in, &em);
	assert_true(r == 0 ? len == 0 || *ret_n > 0 : em.text[0] != '\0');
	stream_in_free(in);
	return r;
}

static void what_is_written_is_read_in_pieces_of_any_size(void **state)
{
	static struct made m;
	unsigned n;

	make_whole(&m, 0);
	for (size_t step = 1; step < 5000; step = step * 3 + 1) {
		assert_int_equal(read_all(STREAM_FORWARD, m.bytes, m.len, step, &n), 0);
		assert_int_equal(n, m.n);
	}
}

static void every_cut_is_noticed(void **state)
{
	static struct made m;
	unsigned n;

	make_whole(&m, 0);
	for (size_t len = 0; len < m.len; len++)
		assert_int_equal(read_all(STREAM_FORWARD, m.bytes, len, CAP, &n), -ENODATA);
}

/* Shorter than a prologue, and not the beginning of one. */
static void what_is_no_stream_is_called_that(void **state)
{
	struct stream_in *in;
	struct errmsg em = {0};
	uint8_t *buf;

	assert_int_equal(stream_in_new(STREAM_FORWARD, &in), 0);
	assert_true(stream_in_room(in, &buf) > 6);
	memcpy(buf, "hello\n", 6);
	assert_int_equal(stream_in_fed(in, 6, &(struct stream_record){0}, &em), 0);
	assert_int_equal(stream_in_ended(in, &em), -EUCLEAN);
	assert_non_null(strstr(em.text, "no stream of weir send"));
	stream_in_free(in);
}

static void every_changed_byte_is_noticed(void **state)
{
	static struct made m;
	unsigned n;

	make_whole(&m, 0);
	for (size_t i = 0; i < m.len; i++) {
		m.bytes[i] ^= 0x40;
		assert_true(read_all(STREAM_FORWARD, m.bytes, m.len, CAP, &n) < 0);
		m.bytes[i] ^= 0x40;
	}
}

static void what_follows_the_end_is_not_taken(void **state)
{
	static struct made m;
	unsigned n;

	make_whole(&m, 0);
	memset(m.bytes + m.len, 0x55, 100);
	assert_int_equal(read_all(STREAM_FORWARD, m.bytes, m.len + 100, CAP, &n), 0);
	assert_int_equal(n, m.n);
}

static void records_lost_swapped_or_spliced_are_noticed(void **state)
{
	static struct made m, other;
	static uint8_t bytes[CAP];
	unsigned n;

	make_whole(&m, 0);
	make_whole(&other, STREAM_TALK);
	for (unsigned i = 1; i + 1 < m.n; i++) {
		const size_t at = m.at[i], next = m.at[i + 1], len = next - at;
		/* Lost. */
		memcpy(bytes, m.bytes, at);
		memcpy(bytes + at, m.bytes + next, m.len - next);
		assert_true(read_all(STREAM_FORWARD, bytes, m.len - len, CAP, &n) < 0);
		/* Twice. */
		memcpy(bytes + at, m.bytes + at, len);
		memcpy(bytes + next, m.bytes + at, m.len - at);
		assert_true(read_all(STREAM_FORWARD, bytes, m.len + len, CAP, &n) < 0);
		/* From here on, of another stream. */
		memcpy(bytes + at, other.bytes + at, other.len - at);
		assert_int_equal(read_all(STREAM_FORWARD, bytes, other.len, CAP, &n), -EUCLEAN);
		assert_int_equal(n, i);
	}
}

static void the_end_must_fit(void **state)
{
	static struct made m;
	unsigned n;

	make_begin(&m, STREAM_FORWARD);
	put_head(&m, 0);
	put(&m, data_record(0)); /* the position is not at the end of the image */
	put(&m, (struct stream_record){.type = STREAM_END});
	stream_out_free(m.out);
	assert_int_equal(read_all(STREAM_FORWARD, m.bytes, m.len, CAP, &n), -EUCLEAN);
}

/* Behind a good head: is the record taken? */
static int tried(uint32_t flags, uint64_t pos, struct stream_record rec)
{
	static struct made m;
	unsigned n;

	make_begin(&m, STREAM_FORWARD);
	put_head(&m, flags);
	if (pos)
		put(&m, (struct stream_record){.type = STREAM_POS, .pos = pos});
	put(&m, rec);
	stream_out_free(m.out);
	const int r = read_all(STREAM_FORWARD, m.bytes, m.len, CAP, &n);
	return r == -ENODATA && n == m.n ? 0 : r;
}

/* Sealed records before anything says what they are of. */
static int early_opaque(void)
{
	const struct stream_begin begin = {.flags = STREAM_RAW, .size = CHUNK_SIZE};
	static struct made m;
	unsigned n;

	make_begin(&m, STREAM_FORWARD);
	put(&m, (struct stream_record){.type = STREAM_BEGIN, .begin = begin});
	put(&m, (struct stream_record){.type = STREAM_OPAQUE_FIRST});
	stream_out_free(m.out);
	return read_all(STREAM_FORWARD, m.bytes, m.len, CAP, &n);
}

static int fill_tried(uint64_t pos, uint64_t off, uint64_t len)
{
	return tried(
	        0, pos, (struct stream_record){.type = STREAM_FILL, .fill = {off, len, false}});
}

static int share_tried(uint64_t pos, uint64_t off, uint64_t src, uint64_t len)
{
	return tried(
	        0, pos, (struct stream_record){.type = STREAM_SHARE, .share = {off, src, len}});
}

static void ranges_lie_in_the_image_and_above_the_position(void **state)
{
	const uint64_t c = CHUNK_SIZE, end = END_POS;

	assert_int_equal(fill_tried(0, 0, end), 0);
	assert_int_equal(fill_tried(c, c, c), 0);
	assert_int_equal(fill_tried(2 * c, c, c), -EUCLEAN);
	assert_int_equal(fill_tried(0, 0, end + c), -EUCLEAN);
	assert_int_equal(fill_tried(0, end, c), -EUCLEAN);
	assert_int_equal(fill_tried(0, c, UINT64_MAX - c + 1), -EUCLEAN);
	assert_int_equal(fill_tried(0, 1, c), -EUCLEAN);
	assert_int_equal(fill_tried(0, 0, 1), -EUCLEAN);
	assert_int_equal(fill_tried(0, 0, 0), -EUCLEAN);
	assert_int_equal(share_tried(8 * c, 8 * c, 0, 8 * c), 0);
	assert_int_equal(share_tried(8 * c, 8 * c, c, 8 * c), -EUCLEAN);
	assert_int_equal(share_tried(8 * c, 8 * c, 8 * c, c), -EUCLEAN);
	assert_int_equal(share_tried(0, 0, 0, c), -EUCLEAN);
	assert_int_equal(tried(0, 0, data_record(end - 3 * c)), 0);
	assert_int_equal(tried(0, 0, data_record(end - 2 * c)), -EUCLEAN);
	assert_int_equal(tried(0, 2 * c, data_record(c)), -EUCLEAN);
	assert_int_equal(
	        tried(0, 2 * c, (struct stream_record){.type = STREAM_POS, .pos = c}), -EUCLEAN);
	assert_int_equal(
	        tried(0, 0, (struct stream_record){.type = STREAM_POS, .pos = end + c}), -EUCLEAN);
}

static void a_query_is_for_who_can_answer(void **state)
{
	uint8_t asks[2 * STREAM_ASK_LEN];
	const struct stream_ask a = {.off = 0}, b = {.off = CHUNK_SIZE};
	struct stream_record rec = {
	        .type = STREAM_QUERY, .query = {.n = 2, .asks = {asks, sizeof(asks)}}};

	stream_ask_put(asks, 0, &a);
	stream_ask_put(asks, 1, &b);
	assert_int_equal(tried(STREAM_TALK, 0, rec), 0);
	assert_int_equal(tried(0, 0, rec), -EUCLEAN);
	assert_int_equal(tried(STREAM_TALK, CHUNK_SIZE, rec), -EUCLEAN);
	stream_ask_put(asks, 1, &a); /* twice the same */
	assert_int_equal(tried(STREAM_TALK, 0, rec), -EUCLEAN);
}

/* --- a newer one --- */

/* What a stream with one byte of its beginning changed is refused as. */
static int first_changed(size_t at, uint8_t value)
{
	static struct made m;
	static struct stream_record rec;
	struct stream_in *in;
	struct errmsg em = {0};
	uint8_t *buf;
	size_t room, fed = 0;
	int r = 0;

	make_whole(&m, 0);
	m.bytes[at] = value;
	assert_int_equal(stream_in_new(STREAM_FORWARD, &in), 0);
	while (r == 0 && (room = stream_in_room(in, &buf)) > 0) {
		memcpy(buf, m.bytes + fed, room);
		fed += room;
		r = stream_in_fed(in, room, &rec, &em);
	}
	stream_in_free(in);
	if (r == -EPROTONOSUPPORT)
		assert_non_null(strstr(em.text, "newer weir"));
	return r;
}

static void what_a_newer_weir_made_is_refused_as_that(void **state)
{
	assert_int_equal(first_changed(8, 2), -EPROTONOSUPPORT); /* version */
	assert_int_equal(first_changed(0, 'X'), -EUCLEAN);
	assert_int_equal(first_changed(10, 1), -EUCLEAN); /* reserved */
	assert_int_equal(
	        tried(0, 0, (struct stream_record){.type = STREAM_OPAQUE_FIRST}), -EUCLEAN);
	assert_int_equal(
	        tried(STREAM_RAW, 0, (struct stream_record){.type = STREAM_OPAQUE_FIRST}), 0);
	assert_int_equal(early_opaque(), -EUCLEAN);
	assert_int_equal(tried(0, 0, (struct stream_record){.type = 200}), -EPROTONOSUPPORT);
}

static void a_length_is_not_believed(void **state)
{
	/* The largest that can be is waited for, one more is damage at once. */
	assert_int_equal(first_changed(STREAM_PROLOGUE_LEN + 7, 0x10), -EUCLEAN);
}

/* --- answers --- */

static void answers_come_in_their_order(void **state)
{
	static struct made m;
	const uint8_t bits[1] = {5};
	struct stream_record have = {
	        .type = STREAM_HAVE, .have = {.id = 0, .n = 3, .bits = {bits, 1}}};
	unsigned n;

	make_begin(&m, STREAM_ANSWERS);
	put(&m, (struct stream_record){.type = STREAM_HELLO,
	                .hello = {.flags = STREAM_HELLO_HASH, .queries_max = 2, .asks_max = 9}});
	put(&m, have);
	have.have.id = 1;
	put(&m, have);
	put(&m, (struct stream_record){.type = STREAM_DONE, .done = text("{}")});
	stream_out_free(m.out);
	assert_int_equal(read_all(STREAM_ANSWERS, m.bytes, m.len, 7, &n), 0);
	assert_int_equal(n, 4);
	assert_int_equal(read_all(STREAM_FORWARD, m.bytes, m.len, CAP, &n), -EUCLEAN);

	make_begin(&m, STREAM_ANSWERS);
	put(&m, (struct stream_record){.type = STREAM_ERROR, .text = text("no\nroom")});
	stream_out_free(m.out);
	assert_int_equal(read_all(STREAM_ANSWERS, m.bytes, m.len, CAP, &n), 0);
	assert_memory_equal(m.bytes + m.len - 7, "no?room", 7);

	make_begin(&m, STREAM_ANSWERS);
	put(&m, (struct stream_record){
	                .type = STREAM_HELLO, .hello = {.queries_max = 1, .asks_max = 1}});
	have.have.id = 7;
	put(&m, have);
	stream_out_free(m.out);
	assert_int_equal(read_all(STREAM_ANSWERS, m.bytes, m.len, CAP, &n), -EUCLEAN);
}

/* --- frames --- */

static void a_frame_comes_out_as_it_was(void **state)
{
	uint8_t chunks[2 * CHUNK_SIZE], packed[2 * CHUNK_SIZE], out[2 * CHUNK_SIZE];
	struct stream_data d = {.n = 2};
	uint32_t len;

	memset(chunks, 7, sizeof(chunks));
	d.codec = frame_pack(chunks, 2, packed, &len);
	assert_int_equal(d.codec, CODEC_LZ4);
	d.payload = (struct stream_bytes){packed, len};
	assert_int_equal(stream_data_unpack(&d, out), 0);
	assert_memory_equal(out, chunks, sizeof(out));
	d.n = 1;
	assert_int_equal(stream_data_unpack(&d, out), -EUCLEAN);
	d.n = 2;
	d.codec = CODEC_ZSTD;
	assert_int_equal(stream_data_unpack(&d, out), -EPROTONOSUPPORT);
}

/* --- guids, tokens, bytes --- */

static void a_token_is_read_as_it_was_printed(void **state)
{
	struct stream_token t = {.start = 5 * CHUNK_SIZE}, back;
	char printed[STREAM_TOKEN_TEXT];

	memset(t.guid, 0xab, sizeof(t.guid));
	stream_token_text(&t, printed);
	assert_int_equal(stream_token_parse(printed, &back), 0);
	assert_memory_equal(&t, &back, sizeof(t));
	for (size_t i = 0; printed[i]; i++) {
		const char c = printed[i];
		printed[i] = c == '1' ? '2' : '1';
		assert_int_equal(stream_token_parse(printed, &back), -EINVAL);
		printed[i] = '\0';
		assert_int_equal(stream_token_parse(printed, &back), -EINVAL);
		printed[i] = c;
	}
}

static void a_guid_is_of_datastore_and_snapshot(void **state)
{
	uint8_t uuid[16] = {1}, a[STREAM_GUID_LEN], b[STREAM_GUID_LEN];

	assert_int_equal(stream_guid(uuid, 7, a), 0);
	assert_int_equal(stream_guid(uuid, 8, b), 0);
	assert_memory_not_equal(a, b, sizeof(a));
	uuid[15] = 1;
	assert_int_equal(stream_guid(uuid, 7, b), 0);
	assert_memory_not_equal(a, b, sizeof(a));
}

/* FORMAT.md: who changes these has changed the format. */
static void the_bytes_are_those_of_the_format(void **state)
{
	static const uint8_t golden[] = {'W', 'E', 'I', 'R', 'S', 'E', 'N', 'D', 1, 0, 0, 0, 0, 0,
	        0, 0, 1, 0, 0, 0, 80, 0, 0, 0};
	static struct made m;

	make_whole(&m, 0);
	assert_memory_equal(m.bytes, golden, sizeof(golden));
	assert_int_equal(get_u64(m.bytes + 32 + 56), SIZE);
	assert_int_equal(get_u64(m.bytes + 32 + 72), 77);
	/* DATA: head, two places, the chunk. */
	const uint8_t *data = m.bytes + m.at[5];
	assert_int_equal(get_u16(data), 6);
	assert_int_equal(get_u32(data + 4), 16 + 2 * 4 + CHUNK_SIZE);
	assert_int_equal(data[16 + 1], 1);
	assert_int_equal(get_u16(data + 16 + 2), 2);
	assert_int_equal(get_u16(data + 16 + 16 + 4), 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(what_is_written_is_read_in_pieces_of_any_size),
	        cmocka_unit_test(every_cut_is_noticed),
	        cmocka_unit_test(what_is_no_stream_is_called_that),
	        cmocka_unit_test(every_changed_byte_is_noticed),
	        cmocka_unit_test(what_follows_the_end_is_not_taken),
	        cmocka_unit_test(records_lost_swapped_or_spliced_are_noticed),
	        cmocka_unit_test(the_end_must_fit),
	        cmocka_unit_test(ranges_lie_in_the_image_and_above_the_position),
	        cmocka_unit_test(a_query_is_for_who_can_answer),
	        cmocka_unit_test(what_a_newer_weir_made_is_refused_as_that),
	        cmocka_unit_test(a_length_is_not_believed),
	        cmocka_unit_test(answers_come_in_their_order),
	        cmocka_unit_test(a_frame_comes_out_as_it_was),
	        cmocka_unit_test(a_token_is_read_as_it_was_printed),
	        cmocka_unit_test(a_guid_is_of_datastore_and_snapshot),
	        cmocka_unit_test(the_bytes_are_those_of_the_format),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

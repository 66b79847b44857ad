/*
 * test-raw.c - records of raw streams: what is said is read again; what no sender says is refused
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "fs/filter/sealed-flag.h"
#include "stream/raw.h"

static const uint8_t data_key[SEAL_KEY_LEN] = "a data key";

static struct raw_key key_make(void)
{
	struct raw_key key = {.domain = 7, .slots_domain = 9, .name = "vms", .n = 2};
	struct errmsg em;
	uint8_t secret[64] = "a key file";

	memcpy(key.uuid, "0123456789abcdef", 16);
	for (unsigned i = 0; i < key.n; i++) {
		key.slots[i].slot = 3 * i;
		assert_int_equal(keyslot_wrap(KEYSLOT_FILE, 9, 3 * i, secret, sizeof(secret),
		                         data_key, key.slots[i].bytes, &key.slots[i].len, &em),
		        0);
	}
	return key;
}

static size_t leaf_make(uint32_t domain, uint64_t id, uint8_t blob[NODE_BLOB_MAX])
{
	struct map_node n = {.domain = domain, .birth_txg = 3};
	struct crypto_domain *d;
	size_t len = 0;

	assert_int_equal(
	        crypto_domain_derive((const uint8_t *)"0123456789abcdef", domain, data_key, &d), 0);
	n.values[0] = entry_data(loc_make(4, 5), 6);
	assert_int_equal(map_node_seal(&n, id, d->leaf, blob, &len), 0);
	crypto_domain_free(d);
	return len;
}

static int take_key(struct raw_progress *p)
{
	const struct raw_key key = key_make();
	struct bytes_out out = {0};

	assert_int_equal(raw_key_encode(&key, &out), 0);
	const int r = raw_progress_take(p, RAW_KEY, out.data, out.len);
	bytes_release(&out);
	return r;
}

static int take_item(struct raw_progress *p, const struct sealed_item *it)
{
	struct bytes_out out = {0};

	assert_int_equal(raw_map_add(&out, it), 0);
	const int r = raw_progress_take(p, RAW_MAP, out.data, out.len);
	bytes_release(&out);
	return r;
}

static int take_leaf(struct raw_progress *p, uint32_t at, uint32_t domain)
{
	uint8_t blob[NODE_BLOB_MAX];
	const struct sealed_item it = {
	        SEALED_LEAF, at, 1, 100 + at, blob, leaf_make(domain, 100 + at, blob)};

	return take_item(p, &it);
}

#define KIB 1024u

static int take_piece(
        struct raw_progress *p, uint64_t id, uint32_t off, uint32_t len, uint32_t total)
{
	uint8_t *buf = calloc(1, RAW_SEGMENT_HEAD + len);
	const struct raw_piece piece = {.id = id, .total = total, .off = off, .len = len};

	raw_piece_encode(&piece, buf);
	const int r = raw_progress_take(p, RAW_SEGMENT, buf, RAW_SEGMENT_HEAD + len);
	free(buf);
	return r;
}

static int take_from(struct raw_progress *p, struct raw_from from)
{
	uint8_t buf[RAW_FROM_LEN];

	raw_from_encode(&from, buf);
	return raw_progress_take(p, RAW_FROM, buf, sizeof(buf));
}

static void a_stream_goes_key_map_segments(void **state)
{
	const struct sealed_item zero = {.kind = SEALED_ZERO, .first = 4, .n = 10};
	struct raw_progress p = {0};

	assert_int_equal(take_leaf(&p, 0, 7), -EUCLEAN);
	assert_int_equal(take_key(&p), 0);
	assert_string_equal(p.key.name, "vms");
	assert_int_equal(take_key(&p), -EUCLEAN);
	assert_int_equal(take_leaf(&p, 0, 7), 0);
	assert_int_equal(take_leaf(&p, 0, 7), -EUCLEAN);
	assert_int_equal(take_leaf(&p, 1, 8), -EUCLEAN);
	assert_int_equal(take_item(&p, &zero), 0);
	assert_int_equal(take_leaf(&p, 13, 7), -EUCLEAN);
	assert_int_equal(take_piece(&p, 5, 64 * KIB, 64 * KIB, 192 * KIB), -EUCLEAN);
	assert_int_equal(take_piece(&p, 5, 0, 128 * KIB, 192 * KIB), 0);
	assert_int_equal(take_piece(&p, 5, 128 * KIB, 32 * KIB, 192 * KIB), -EUCLEAN); /* small */
	assert_int_equal(raw_progress_end(&p), -EUCLEAN);
	assert_int_equal(take_piece(&p, 6, 0, 64 * KIB, 64 * KIB), -EUCLEAN);
	assert_int_equal(take_piece(&p, 5, 128 * KIB, 64 * KIB, 192 * KIB), 0);
	assert_int_equal(raw_progress_end(&p), 0);
	assert_int_equal(take_piece(&p, 5, 0, 64 * KIB, 64 * KIB), -EUCLEAN);
	assert_int_equal(take_leaf(&p, 50, 7), -EUCLEAN);
}

static void a_stream_that_was_cut_goes_on_where_it_was_and_nowhere_else(void **state)
{
	struct raw_progress p = {0};

	assert_int_equal(take_key(&p), 0);
	assert_int_equal(take_leaf(&p, 3, 7), 0);
	struct raw_from at = raw_progress_cut(&p);
	assert_int_equal(at.leaf, 4);
	assert_int_equal(at.segment, 0);
	assert_int_equal(take_key(&p), 0);
	assert_int_equal(take_leaf(&p, 5, 7), -EUCLEAN); /* without FROM it would be anew */
	assert_int_equal(take_from(&p, (struct raw_from){5, 0}), -EUCLEAN);
	p = (struct raw_progress){0};
	assert_int_equal(take_key(&p), 0);
	assert_int_equal(take_leaf(&p, 3, 7), 0);
	at = raw_progress_cut(&p);
	assert_int_equal(take_key(&p), 0);
	assert_int_equal(raw_progress_end(&p), -EUCLEAN); /* nor is that all */
	assert_int_equal(take_from(&p, at), 0);
	assert_int_equal(take_leaf(&p, 4, 7), 0);
	assert_int_equal(take_piece(&p, 5, 0, 64 * KIB, 64 * KIB), 0);
	assert_int_equal(take_piece(&p, 8, 0, 64 * KIB, 192 * KIB), 0);
	at = raw_progress_cut(&p); /* 8 is to come again */
	assert_int_equal(at.leaf, UINT32_MAX);
	assert_int_equal(at.segment, 5);
	assert_int_equal(take_key(&p), 0);
	assert_int_equal(take_from(&p, at), 0);
	assert_int_equal(take_leaf(&p, 9, 7), -EUCLEAN);
	assert_int_equal(take_piece(&p, 8, 0, 192 * KIB, 192 * KIB), 0);
	assert_int_equal(raw_progress_end(&p), 0);
}

static void a_token_says_where(void **state)
{
	struct raw_token t = {.from = {77, 0}}, again;
	char text[RAW_TOKEN_TEXT];

	memset(t.guid, 0x5a, sizeof(t.guid));
	raw_token_text(&t, text);
	assert_true(raw_token_is(text));
	assert_int_equal(raw_token_parse(text, &again), 0);
	assert_memory_equal(t.guid, again.guid, sizeof(t.guid));
	assert_memory_equal(t.guid_from, again.guid_from, sizeof(t.guid_from));
	assert_int_equal(t.from.segment, again.from.segment);
	assert_int_equal(t.from.leaf, again.from.leaf);
	text[20] = text[20] == '1' ? '2' : '1';
	assert_int_equal(raw_token_parse(text, &again), -EINVAL);
	assert_int_equal(raw_token_parse("weir1-00", &again), -EINVAL);
}

static void a_key_of_wrong_bytes_is_none(void **state)
{
	const struct raw_key key = key_make();
	struct bytes_out out = {0};
	struct raw_key got;

	assert_int_equal(raw_key_encode(&key, &out), 0);
	for (size_t len = 0; len < out.len; len++)
		assert_int_equal(raw_key_decode(out.data, len, &got), -EUCLEAN);
	assert_int_equal(raw_key_decode(out.data, out.len, &got), 0);
	assert_memory_equal(&key, &got, sizeof(key));
	out.data[16] = out.data[17] = out.data[18] = out.data[19] = 0; /* domain 0 */
	assert_int_equal(raw_key_decode(out.data, out.len, &got), -EUCLEAN);
	bytes_release(&out);
}

static void a_holders_row_is_read_again(void **state)
{
	struct sealed_part parts[2] = {
	        {.len = 100, .whole = true, .snapshot = "s1"}, {.len = 50, .snapshot = "s2"}};
	const struct sealed_flag f = {.domain = 4, .parts = parts, .n = 2};
	struct sealed_flag got;

	parts[1].guid_from[0] = 0xab;
	char *text = sealed_flag_encode(&f);
	assert_int_equal(sealed_flag_decode(text, strlen(text), &got), 0);
	assert_int_equal(got.domain, 4);
	assert_int_equal(sealed_flag_bytes(&got), 150);
	assert_memory_equal(got.parts, parts, sizeof(parts));
	sealed_flag_release(&got);
	assert_int_equal(sealed_flag_decode(text, strlen(text) - 1, &got), -EUCLEAN);
	assert_int_equal(sealed_flag_decode("{\"domain\":0,\"parts\":[]}", 23, &got), -EUCLEAN);
	free(text);
}

/* For the corpus: RAW_CORPUS=file. */
static void record_put(struct bytes_out *out, unsigned type, const uint8_t *data, size_t len)
{
	bytes_append_u8(out, (uint8_t)(type - RAW_KEY));
	bytes_append_u16(out, (uint16_t)len);
	bytes_append(out, data, len);
}

static void a_whole_stream_for_the_corpus(void **state)
{
	const char *path = getenv("RAW_CORPUS");
	const struct raw_key key = key_make();
	struct bytes_out out = {0}, rec = {0};
	uint8_t blob[NODE_BLOB_MAX], piece[RAW_SEGMENT_HEAD + 128] = {0};
	const struct sealed_item items[] = {
	        {SEALED_LEAF, 2, 1, 102, blob, leaf_make(7, 102, blob)},
	        {.kind = SEALED_HOLE, .first = 3, .n = 5},
	};
	const struct raw_piece p = {.id = 3, .total = 128, .len = 128};

	assert_int_equal(raw_key_encode(&key, &rec), 0);
	record_put(&out, RAW_KEY, rec.data, rec.len);
	rec.len = 0;
	for (unsigned i = 0; i < ARRAY_SIZE(items); i++)
		assert_int_equal(raw_map_add(&rec, &items[i]), 0);
	record_put(&out, RAW_MAP, rec.data, rec.len);
	raw_piece_encode(&p, piece);
	record_put(&out, RAW_SEGMENT, piece, sizeof(piece));
	FILE *f = path ? fopen(path, "w") : NULL;
	if (f) {
		assert_int_equal(fwrite(out.data, 1, out.len, f), out.len);
		fclose(f);
	}
	bytes_release(&rec);
	bytes_release(&out);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(a_stream_goes_key_map_segments),
	        cmocka_unit_test(a_stream_that_was_cut_goes_on_where_it_was_and_nowhere_else),
	        cmocka_unit_test(a_token_says_where),
	        cmocka_unit_test(a_key_of_wrong_bytes_is_none),
	        cmocka_unit_test(a_holders_row_is_read_again),
	        cmocka_unit_test(a_whole_stream_for_the_corpus),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * raw.c - the records of a raw stream
 *
 * What the sender says is held against what any sender can say: lengths, order, leaves whose own
 * checksum, place in the order and crypto domain are right.  Whether it is authentic is known when the key is
 * there and not before (store/sealed.h).
 */
#include "stream/raw.h"

#include <errno.h>
#include <stdio.h>

#include "base/bytes.h"
#include "store/map.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#define LEAVES_MAX  (IMAGE_CHUNKS_MAX / LEAF_CHUNKS)
#define TOKEN_MAGIC "weirraw1-"
#define TOKEN_LEN   (2 * STREAM_GUID_LEN + 12u)

_Static_assert(sizeof(TOKEN_MAGIC) + 2 * (TOKEN_LEN + 4) <= RAW_TOKEN_TEXT, "it fits");
_Static_assert(RAW_PIECE_MAX + RAW_SEGMENT_HEAD <= STREAM_PAYLOAD_MAX, "a piece is a record");
_Static_assert(RAW_MAP_MAX + RAW_ITEM_HEAD + NODE_BLOB_MAX <= STREAM_PAYLOAD_MAX, "so are items");

/* --- key --- */

int raw_key_encode(const struct raw_key *key, struct bytes_out *out)
{
	const size_t name_len = strlen(key->name);

	ASSERT(name_len >= 1 && name_len <= RAW_NAME_MAX && key->n <= RAW_SLOTS_MAX);
	bytes_append(out, key->uuid, sizeof(key->uuid));
	bytes_append_u32(out, key->domain);
	bytes_append_u32(out, key->slots_domain);
	bytes_append_u8(out, (uint8_t)name_len);
	bytes_append_u8(out, (uint8_t)key->n);
	bytes_append_u16(out, 0);
	bytes_append(out, key->name, name_len);
	for (unsigned i = 0; i < key->n; i++) {
		bytes_append_u8(out, (uint8_t)key->slots[i].slot);
		bytes_append_u8(out, 0);
		bytes_append_u16(out, (uint16_t)key->slots[i].len);
		bytes_append(out, key->slots[i].bytes, key->slots[i].len);
	}
	return out->failed ? -ENOMEM : 0;
}

static int slot_decode(struct bytes_in *in, const struct raw_key *key, struct raw_slot *ret_slot)
{
	const unsigned slot = bytes_take_u8(in), zero = bytes_take_u8(in);
	const size_t len = bytes_take_u16(in);
	enum keyslot_kind kind;

	if (in->failed || zero || slot >= RAW_SLOTS_MAX || len > KEYSLOT_BYTES_MAX)
		return -EUCLEAN;
	const uint8_t *bytes = bytes_take(in, len);
	if (!bytes || keyslot_kind_of(bytes, len, &kind) == -EUCLEAN)
		return -EUCLEAN;
	for (unsigned i = 0; i < key->n; i++)
		if (key->slots[i].slot >= slot)
			return -EUCLEAN;
	ret_slot->slot = slot;
	ret_slot->len = len;
	memcpy(ret_slot->bytes, bytes, len);
	return 0;
}

int raw_key_decode(const uint8_t *data, size_t len, struct raw_key *ret_key)
{
	struct bytes_in in = {.data = data, .len = len};
	const uint8_t *uuid = bytes_take(&in, 16);
	struct raw_key key = {.domain = bytes_take_u32(&in)};

	key.slots_domain = bytes_take_u32(&in);
	const unsigned name_len = bytes_take_u8(&in), n = bytes_take_u8(&in);
	const unsigned zero = bytes_take_u16(&in);
	const uint8_t *name = bytes_take(&in, name_len);
	if (!uuid || !name || zero || !key.domain || !key.slots_domain || name_len < 1 ||
	        name_len > RAW_NAME_MAX || n < 1 || n > RAW_SLOTS_MAX)
		return -EUCLEAN;
	memcpy(key.uuid, uuid, sizeof(key.uuid));
	memcpy(key.name, name, name_len);
	for (; key.n < n; key.n++)
		if (slot_decode(&in, &key, &key.slots[key.n]) < 0)
			return -EUCLEAN;
	if (in.failed || in.pos != len || strlen(key.name) != name_len)
		return -EUCLEAN;
	*ret_key = key;
	return 0;
}

/* --- map --- */

int raw_map_add(struct bytes_out *out, const struct sealed_item *item)
{
	ASSERT(item->len <= NODE_BLOB_MAX);
	bytes_append_u8(out, (uint8_t)item->kind);
	bytes_append_u8(out, 0);
	bytes_append_u16(out, (uint16_t)item->len);
	bytes_append_u32(out, item->first);
	bytes_append_u32(out, item->n);
	bytes_append_u64(out, item->node);
	if (item->len)
		bytes_append(out, item->blob, item->len);
	return out->failed ? -ENOMEM : 0;
}

int raw_map_next(struct bytes_in *in, struct sealed_item *ret_item)
{
	struct sealed_item it = {0};

	if (in->pos == in->len)
		return 0;
	const unsigned kind = bytes_take_u8(in), zero = bytes_take_u8(in);
	it.kind = (enum sealed_kind)kind;
	it.len = bytes_take_u16(in);
	it.first = bytes_take_u32(in);
	it.n = bytes_take_u32(in);
	it.node = bytes_take_u64(in);
	it.blob = bytes_take(in, it.len);
	const bool leaf = kind == SEALED_LEAF;
	if (in->failed || zero || it.n < 1 || it.first >= LEAVES_MAX ||
	        it.n > LEAVES_MAX - it.first)
		return -EUCLEAN;
	if (!leaf && (it.node || it.len || (kind != SEALED_HOLE && kind != SEALED_ZERO)))
		return -EUCLEAN;
	if (leaf && (it.n != 1 || it.node < 1 || it.node > MAP_NODE_MAX))
		return -EUCLEAN;
	*ret_item = it;
	return 1;
}

/* --- segments --- */

void raw_piece_encode(const struct raw_piece *p, uint8_t *head)
{
	ASSERT(p->len >= 1 && p->len <= RAW_PIECE_MAX);
	put_u64(head, p->id);
	put_u32(head + 8, p->gen);
	put_u32(head + 12, p->total);
	put_u32(head + 16, p->off);
	put_u32(head + 20, 0);
}

int raw_piece_decode(const uint8_t *data, size_t len, struct raw_piece *ret_piece)
{
	struct raw_piece p = {0};

	if (len <= RAW_SEGMENT_HEAD || len > RAW_SEGMENT_HEAD + RAW_PIECE_MAX)
		return -EUCLEAN;
	p.id = get_u64(data);
	p.gen = get_u32(data + 8);
	p.total = get_u32(data + 12);
	p.off = get_u32(data + 16);
	p.data = data + RAW_SEGMENT_HEAD;
	p.len = len - RAW_SEGMENT_HEAD;
	if (get_u32(data + 20) || p.id < 1 || p.id > SEGMENT_ID_MAX ||
	        p.total > SEGMENT_FRAMES_END_MAX - SEGMENT_HEADER_LEN || p.off > p.total ||
	        p.len > p.total - p.off || (p.len < RAW_PIECE_MIN && p.len < p.total - p.off))
		return -EUCLEAN;
	*ret_piece = p;
	return 0;
}

/* --- in order --- */

void raw_from_encode(const struct raw_from *from, uint8_t buf[RAW_FROM_LEN])
{
	put_u32(buf, from->leaf);
	put_u32(buf + 4, 0);
	put_u64(buf + 8, from->segment);
}

int raw_from_decode(const uint8_t *data, size_t len, struct raw_from *ret_from)
{
	if (len != RAW_FROM_LEN || get_u32(data + 4))
		return -EUCLEAN;
	const struct raw_from from = {get_u32(data), get_u64(data + 8)};
	const bool in_segments = from.segment > 0;
	if (in_segments ? from.leaf != UINT32_MAX || from.segment > SEGMENT_ID_MAX
	                : from.leaf > LEAVES_MAX)
		return -EUCLEAN;
	*ret_from = from;
	return 0;
}

/* It leaves out what was there, and nothing else. */
static int from_take(struct raw_progress *p, const uint8_t *data, size_t len)
{
	struct raw_from from;

	if (p->begun || raw_from_decode(data, len, &from) < 0)
		return -EUCLEAN;
	p->begun = true;
	if (p->in_segments ? from.segment != p->segment : from.segment || from.leaf != p->leaf_end)
		return -EUCLEAN;
	return 0;
}

struct raw_from raw_progress_cut(struct raw_progress *p)
{
	if (p->segment_have < p->segment_total) {
		p->segment = p->segment_before;
		p->segments--;
	}
	p->segment_have = p->segment_total = 0;
	p->has_key = p->begun = false;
	p->in_segments = p->segment > 0;
	return (struct raw_from){p->in_segments ? UINT32_MAX : p->leaf_end, p->segment};
}

static int items_take(struct raw_progress *p, const uint8_t *data, size_t len)
{
	struct bytes_in in = {.data = data, .len = len};
	struct sealed_item it;
	struct map_node node;
	int r;

	while ((r = raw_map_next(&in, &it)) == 1) {
		if (it.first < p->leaf_end)
			return -EUCLEAN;
		if (it.kind == SEALED_LEAF &&
		        (map_node_decode(it.blob, it.len, it.node, &node) != -ENOKEY ||
		                node.domain != p->key.domain || node.foreign))
			return -EUCLEAN;
		p->leaf_end = it.first + it.n;
		p->items++;
	}
	return r;
}

static int piece_take(struct raw_progress *p, const uint8_t *data, size_t len)
{
	struct raw_piece piece;
	const int r = raw_piece_decode(data, len, &piece);

	if (r < 0)
		return r;
	if (p->segment_have == p->segment_total) {
		if (piece.id <= p->segment || piece.off)
			return -EUCLEAN;
		p->segment_before = p->segment;
		p->segment = piece.id;
		p->segment_total = piece.total;
		p->segment_have = 0;
		p->segments++;
	}
	if (piece.id != p->segment || piece.off != p->segment_have ||
	        piece.total != p->segment_total)
		return -EUCLEAN;
	p->segment_have += (uint32_t)piece.len;
	p->in_segments = true;
	return 0;
}

int raw_progress_take(struct raw_progress *p, unsigned type, const uint8_t *data, size_t len)
{
	int r;

	if (type == RAW_KEY) {
		r = p->has_key ? -EUCLEAN : raw_key_decode(data, len, &p->key);
		p->has_key = p->has_key || r == 0;
		return r;
	}
	if (!p->has_key)
		return -EUCLEAN;
	if (type == RAW_FROM)
		return from_take(p, data, len);
	/* What was cut is gone on with where it was. */
	if (!p->begun && (p->leaf_end || p->in_segments))
		return -EUCLEAN;
	p->begun = true;
	if (type == RAW_MAP)
		return p->in_segments ? -EUCLEAN : items_take(p, data, len);
	return type == RAW_SEGMENT ? piece_take(p, data, len) : -EUCLEAN;
}

int raw_progress_end(const struct raw_progress *p)
{
	const bool lacks_from = !p->begun && (p->leaf_end || p->in_segments);

	return p->has_key && !lacks_from && p->segment_have == p->segment_total ? 0 : -EUCLEAN;
}

/* --- tokens --- */

void raw_token_text(const struct raw_token *t, char ret_text[RAW_TOKEN_TEXT])
{
	uint8_t bytes[TOKEN_LEN + 4];
	char *at = ret_text + sprintf(ret_text, TOKEN_MAGIC);

	memcpy(bytes, t->guid, STREAM_GUID_LEN);
	memcpy(bytes + 16, t->guid_from, STREAM_GUID_LEN);
	put_u32(bytes + 32, t->from.leaf);
	put_u64(bytes + 36, t->from.segment);
	put_u32(bytes + TOKEN_LEN, (uint32_t)XXH3_64bits(bytes, TOKEN_LEN));
	for (unsigned i = 0; i < sizeof(bytes); i++)
		at += sprintf(at, "%02x", bytes[i]);
}

bool raw_token_is(const char *text)
{
	return !strncmp(text, TOKEN_MAGIC, strlen(TOKEN_MAGIC));
}

static int digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int raw_token_parse(const char *text, struct raw_token *ret_t)
{
	const size_t magic = strlen(TOKEN_MAGIC);
	uint8_t bytes[TOKEN_LEN + 4];

	if (!raw_token_is(text) || strlen(text) != magic + 2 * sizeof(bytes))
		return -EINVAL;
	text += magic;
	for (unsigned i = 0; i < sizeof(bytes); i++) {
		const int high = digit(text[2 * i]), low = digit(text[2 * i + 1]);
		if (high < 0 || low < 0)
			return -EINVAL;
		bytes[i] = (uint8_t)(high << 4 | low);
	}
	if (get_u32(bytes + TOKEN_LEN) != (uint32_t)XXH3_64bits(bytes, TOKEN_LEN))
		return -EINVAL;
	memcpy(ret_t->guid, bytes, STREAM_GUID_LEN);
	memcpy(ret_t->guid_from, bytes + 16, STREAM_GUID_LEN);
	ret_t->from.leaf = get_u32(bytes + 32);
	ret_t->from.segment = get_u64(bytes + 36);
	return 0;
}

#include "base/bytes.h"

uint8_t *bytes_append(struct bytes_out *b, const void *data, size_t len)
{
	if (b->failed)
		return NULL;
	if (b->cap - b->len < len || !b->data) {
		const size_t cap = MAX(MAX(b->cap * 2, b->len + len), 256);
		uint8_t *p = realloc(b->data, cap);
		if (!p) {
			b->failed = true;
			return NULL;
		}
		b->data = p;
		b->cap = cap;
	}
	uint8_t *at = b->data + b->len;
	if (data)
		memcpy(at, data, len);
	else
		memset(at, 0, len);
	b->len += len;
	return at;
}

void bytes_append_u8(struct bytes_out *b, uint8_t v)
{
	bytes_append(b, &v, 1);
}

void bytes_append_u16(struct bytes_out *b, uint16_t v)
{
	uint8_t *p = bytes_append(b, NULL, 2);
	if (p)
		put_u16(p, v);
}

void bytes_append_u32(struct bytes_out *b, uint32_t v)
{
	uint8_t *p = bytes_append(b, NULL, 4);
	if (p)
		put_u32(p, v);
}

void bytes_append_u64(struct bytes_out *b, uint64_t v)
{
	uint8_t *p = bytes_append(b, NULL, 8);
	if (p)
		put_u64(p, v);
}

void bytes_release(struct bytes_out *b)
{
	free(b->data);
	*b = (struct bytes_out){0};
}

const uint8_t *bytes_take(struct bytes_in *b, size_t len)
{
	if (b->failed || b->len - b->pos < len) {
		b->failed = true;
		return NULL;
	}
	const uint8_t *p = b->data + b->pos;
	b->pos += len;
	return p;
}

uint8_t bytes_take_u8(struct bytes_in *b)
{
	const uint8_t *p = bytes_take(b, 1);
	return p ? p[0] : 0;
}

uint16_t bytes_take_u16(struct bytes_in *b)
{
	const uint8_t *p = bytes_take(b, 2);
	return p ? get_u16(p) : 0;
}

uint32_t bytes_take_u32(struct bytes_in *b)
{
	const uint8_t *p = bytes_take(b, 4);
	return p ? get_u32(p) : 0;
}

uint64_t bytes_take_u64(struct bytes_in *b)
{
	const uint8_t *p = bytes_take(b, 8);
	return p ? get_u64(p) : 0;
}

/*
 * bytes.h - little-endian integers in byte buffers
 *
 * Every on-disk and on-wire format goes through these; no struct is written as such.  A reader
 * (struct bytes_in) carries its own bounds and fails stickily: decode everything, then ask once
 * whether it was all there.
 */
#pragma once

#include <string.h>

#include "base/compiler.h"

static inline void put_u8(uint8_t *p, uint8_t v)
{
	p[0] = v;
}

static inline void put_u16(uint8_t *p, uint16_t v)
{
	p[0] = (uint8_t)v;
	p[1] = (uint8_t)(v >> 8);
}

static inline void put_u32(uint8_t *p, uint32_t v)
{
	put_u16(p, (uint16_t)v);
	put_u16(p + 2, (uint16_t)(v >> 16));
}

static inline void put_u64(uint8_t *p, uint64_t v)
{
	put_u32(p, (uint32_t)v);
	put_u32(p + 4, (uint32_t)(v >> 32));
}

static inline uint16_t get_u16(const uint8_t *p)
{
	return (uint16_t)(p[0] | p[1] << 8);
}

static inline uint32_t get_u32(const uint8_t *p)
{
	return get_u16(p) | (uint32_t)get_u16(p + 2) << 16;
}

static inline uint64_t get_u64(const uint8_t *p)
{
	return get_u32(p) | (uint64_t)get_u32(p + 4) << 32;
}

/* A growing output buffer.  After a failed allocation, failed stays set and appends do nothing. */
struct bytes_out {
	uint8_t *data; /* owned; NULL while empty */
	size_t len, cap;
	bool failed;
};

/* Appends len bytes (zeros if data is NULL); returns where they are, or NULL when out of memory. */
uint8_t *bytes_append(struct bytes_out *b, const void *data, size_t len);
void bytes_append_u8(struct bytes_out *b, uint8_t v);
void bytes_append_u16(struct bytes_out *b, uint16_t v);
void bytes_append_u32(struct bytes_out *b, uint32_t v);
void bytes_append_u64(struct bytes_out *b, uint64_t v);
/* Frees the buffer and makes it empty again. */
void bytes_release(struct bytes_out *b);

/* A bounded input.  Reading past the end gives zeros and sets failed. */
struct bytes_in {
	const uint8_t *data; /* not owned */
	size_t len, pos;
	bool failed;
};

/* The next len bytes in place, or NULL (and failed) when there are not that many. */
const uint8_t *bytes_take(struct bytes_in *b, size_t len);
uint8_t bytes_take_u8(struct bytes_in *b);
uint16_t bytes_take_u16(struct bytes_in *b);
uint32_t bytes_take_u32(struct bytes_in *b);
uint64_t bytes_take_u64(struct bytes_in *b);

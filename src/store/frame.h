/*
 * frame.h - the bytes of segment headers, frames and footers
 *
 * Pure encode and decode: no I/O, no allocation.  Used by segments.c, by check (which reads the
 * formats on its own) and by the fuzz targets.  All decoders return -EUCLEAN for what is not valid and leave their outputs
 * untouched.  Bytes are described in FORMAT.md.
 */
#pragma once

#include "store/segments.h"

#define SEGMENT_HEADER_LEN IO_ALIGN
#define FRAME_ALIGN        64u
#define FRAME_HEADER_LEN   64u /* before the hashes */

struct segment_header {
	uint64_t id;
	uint32_t gen;
	uint8_t uuid[16];
	uint32_t domain;
	uint64_t created_txg;
};
void segment_header_encode(const struct segment_header *h, uint8_t buf[SEGMENT_HEADER_LEN]);
int segment_header_decode(const uint8_t buf[SEGMENT_HEADER_LEN], struct segment_header *ret_header) MUST_CHECK;

struct frame_info {
	unsigned n;
	enum frame_codec codec;
	uint32_t key_id;      /* 0: not encrypted */
	uint32_t payload_len;
	unsigned first_slot;
	uint64_t segment;     /* mixed into the checksum, to catch a misplaced frame */
	uint64_t image, first_chunk;
	struct hash128 hashes[FRAME_CHUNKS_MAX];
};
/* Bytes that a frame takes, header and padding to FRAME_ALIGN included. */
size_t frame_size(unsigned n, uint32_t payload_len);
/* Writes header, hashes, payload and zero padding: frame_size() bytes; returns that. */
size_t frame_encode(const struct frame_info *f, const void *payload, uint8_t *buf);
/*
 * Checks the frame at buf (len bytes are there) of this segment, checksum included.  *ret_payload points into
 * buf; *ret_size is frame_size().  -ENODATA: not even a frame's magic (end of frames, padding).
 */
int frame_decode(const uint8_t *buf, size_t len, uint64_t segment, struct frame_info *ret_info,
	const uint8_t **ret_payload, size_t *ret_size) MUST_CHECK;
/* Header and hashes only, without checksum (the payload need not be there): for scans. */
int frame_decode_header(const uint8_t *buf, size_t len, uint64_t segment, struct frame_info *ret_info,
	size_t *ret_size) MUST_CHECK;
/* Decompresses to f->n * CHUNK_SIZE bytes. */
int frame_unpack(const struct frame_info *f, const uint8_t *payload, uint8_t *ret_chunks) MUST_CHECK;
/*
 * Compresses n chunks (contiguous) with LZ4 into buf (cap >= n * CHUNK_SIZE), or says CODEC_RAW when that saves less than 12.5 %
 * (then buf is not filled).  Returns the codec, *ret_len the length.
 */
enum frame_codec frame_pack(const uint8_t *chunks, unsigned n, uint8_t *buf, uint32_t *ret_len);

struct footer_slot {
	uint16_t frame_pos; /* frame offset in the file / FRAME_ALIGN */
	uint8_t index;      /* in the frame */
	uint8_t flags;      /* SLOT_* */
};
enum { SLOT_PRESENT = BIT(0) };

size_t footer_size(unsigned slots);
/* hashes and slots have `slots` elements; frames_end = file offset where the footer begins (IO_ALIGN multiple). */
void footer_encode(uint64_t segment, unsigned slots, const struct footer_slot *table,
	const struct hash128 *hashes, uint32_t frames_end, uint8_t *buf);
/* The whole footer. */
int footer_decode(const uint8_t *buf, size_t len, uint64_t segment, unsigned *ret_slots,
	struct footer_slot ret_table[SEGMENT_SLOTS], struct hash128 ret_hashes[SEGMENT_SLOTS]) MUST_CHECK;
/* Only the slot table: the footer's first footer_table_size(slots) bytes, with its own checksum. */
size_t footer_table_size(unsigned slots);
int footer_table_decode(const uint8_t *buf, size_t len, uint64_t segment, unsigned slots,
	struct footer_slot ret_table[SEGMENT_SLOTS]) MUST_CHECK;

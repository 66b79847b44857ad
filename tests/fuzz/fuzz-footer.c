/*
 * fuzz-footer.c - footers: whole, table part, trailer, on any bytes
 *
 * As in fuzz-frame.c, checksums are made right for a second try.
 */
#include "store/frame.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/bytes.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct footer_slot table[SEGMENT_SLOTS];
static struct hash128 hashes[SEGMENT_SLOTS];

static void table_check(unsigned slots)
{
	ASSERT(slots <= SEGMENT_SLOTS);
	for (unsigned i = 0; i < slots; i++)
		ASSERT((table[i].frame_pos + table[i].frame_units) * FRAME_ALIGN <=
		        SEGMENT_FRAMES_END_MAX);
}

static void footer_check(const uint8_t *buf, size_t len)
{
	const uint64_t segment = len >= 16 ? get_u64(buf + 8) : 1;
	const unsigned slots = len >= 8 ? get_u32(buf + 4) : 0;
	unsigned n = 0, peeked = 0;
	uint32_t end = 0;

	if (footer_table_decode(buf, len, segment, slots, table) == 0)
		table_check(slots);
	if (len >= FOOTER_TRAILER_LEN && footer_trailer_peek(buf, segment, &peeked, &end) == 0)
		ASSERT(peeked <= SEGMENT_SLOTS && end <= SEGMENT_FRAMES_END_MAX);
	if (footer_decode(buf, len, segment, &n, table, hashes) == 0) {
		ASSERT(footer_size(n) <= len);
		table_check(n);
	}
}

static void footer_reseal(uint8_t *buf, size_t len)
{
	const unsigned slots = len >= 8 ? get_u32(buf + 4) % (SEGMENT_SLOTS + 1) : 0;

	if (len < 32 || len < footer_size(slots))
		return;
	uint8_t *trailer = buf + footer_size(slots) - FOOTER_TRAILER_LEN;
	put_u32(buf + 4, slots);
	memcpy(trailer + 4, buf + 4, 20);
	const uint64_t head = XXH3_64bits(buf, 24), tail = XXH3_64bits(trailer, 24);
	put_u64(buf + 24, XXH3_64bits_withSeed(buf + 32, slots * 4, head));
	put_u64(trailer + 24,
	        XXH3_64bits_withSeed(buf + footer_table_size(slots), slots * 16, tail));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *buf = malloc(size + 1);

	if (!buf)
		return 0;
	memcpy(buf, data, size);
	footer_check(buf, size);
	footer_reseal(buf, size);
	footer_check(buf, size);
	free(buf);
	return 0;
}

/*
 * fuzz-segment-header.c - segment_header_decode() on any bytes
 *
 * What decodes must encode to the same bytes again, checksum included.
 */
#include "store/frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t buf[SEGMENT_HEADER_LEN] = {0}, again[SEGMENT_HEADER_LEN];
	struct segment_header h;

	memcpy(buf, data, MIN(size, sizeof(buf)));
	if (segment_header_decode(buf, &h) == 0) {
		ASSERT(h.id >= 1 && h.id <= SEGMENT_ID_MAX);
		segment_header_encode(&h, again);
		ASSERT(segment_header_decode(again, &h) == 0);
	}
	return 0;
}

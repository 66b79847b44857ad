/*
 * fuzz-rows.c - namespace rows of any bytes: never read out of bounds, and what decodes encodes to
 * the same bytes
 */
#include "meta/rows.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct bytes_in in = {.data = data, .len = size};
	struct row row;
	size_t start = 0;

	while (row_decode(&in, &row) == 1) {
		struct bytes_out out = {0};
		row_encode(&row, &out);
		ASSERT(!out.failed);
		ASSERT(out.len == in.pos - start && !memcmp(out.data, data + start, out.len));
		bytes_release(&out);
		start = in.pos;
	}
	return 0;
}

/*
 * fuzz-segment-file.c - a whole segment file, as check takes it: scan without a footer, then verify
 *
 * Whatever the bytes are, the scan keeps within the file, each slot that it finds points into it,
 * and verifying what it found touches nothing else.
 */
#include <string.h>

#include "tools/check.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct segment_file sf;
	struct check c = {.data = true};
	struct segment_header h = {.id = 1};

	if (size > SEGMENT_BYTES_MAX)
		return 0;
	/* Exactly as long as the input, so that a sanitizer sees a read past it. */
	sf.buf = malloc(size ? size : 1);
	if (!sf.buf)
		return 0;
	if (size)
		memcpy(sf.buf, data, size);
	sf.len = size;
	sf.size = size;
	if (size >= SEGMENT_HEADER_LEN && segment_header_decode(data, &h) == 0)
		memcpy(c.state.uuid, h.uuid, sizeof(h.uuid));
	if (keyring_new(c.state.uuid, c.state.domain_key, &c.keys) < 0)
		abort();
	segment_file_scan(&c, h.id, SEGMENT_FRAMES_END_MAX, &sf);
	ASSERT(sf.slots <= SEGMENT_SLOTS && sf.frames_end <= SEGMENT_FRAMES_END_MAX);
	for (unsigned i = 0; i < sf.slots; i++) {
		const struct footer_slot *s = &sf.table[i];
		ASSERT((s->frame_pos + s->frame_units) * FRAME_ALIGN <= size);
	}
	segment_file_verify(&c, h.id, &sf);
	keyring_free(c.keys);
	free(sf.buf);
	return 0;
}

/*
 * segment-scan.c - what a segment file holds, read from its frames alone
 *
 * The whole file (4 MiB at most) is read into memory and walked in steps of FRAME_ALIGN.  A frame
 * whose header is good is stepped over by its length, whatever its payload is like, so that bytes
 * inside a payload that look like a frame are not taken for one.  Where a header is damaged, the
 * walk feels its way forward unit by unit; what it finds there must still carry this segment's id
 * and this datastore's mark.
 *
 * Where several frames claim a slot (a healed chunk beside the damaged frame it came from), a good
 * frame wins over a damaged one, and the first over later ones.
 */
#include "store/segment-scan.h"

#include <errno.h>

static void scan_claim(struct segment_contents *c, const struct frame_info *f, size_t size,
        uint32_t off, bool good, uint64_t claimed_good[SEGMENT_SLOTS / 64])
{
	for (unsigned i = 0; i < f->n; i++) {
		const unsigned slot = f->slots[i];
		const uint64_t bit = 1ull << slot % 64;

		if (claimed_good[slot / 64] & bit)
			continue;
		if (!good && c->table[slot].flags & SLOT_PRESENT)
			continue;
		c->table[slot] = (struct footer_slot){
		        .frame_pos = (off / FRAME_ALIGN) & 0xffff,
		        .frame_units = (size / FRAME_ALIGN) & 0x7ff,
		        .index = i & 0xf,
		        .flags = SLOT_PRESENT,
		};
		c->hashes[slot] = f->hashes[i];
		c->slots = MAX(c->slots, slot + 1);
		claimed_good[slot / 64] |= good ? bit : 0;
	}
}

static bool unit_is_zero(const uint8_t *p)
{
	static const uint8_t zeros[FRAME_ALIGN];

	return memcmp(p, zeros, sizeof(zeros)) == 0;
}

void segment_scan_frames(const uint8_t *file, uint32_t off, uint32_t end, uint64_t segment,
        uint32_t store, segment_frame_fn *fn, void *arg, struct segment_contents *c)
{
	uint64_t claimed_good[SEGMENT_SLOTS / 64] = {0};

	while (off + FRAME_ALIGN <= end) {
		struct frame_info f;
		const uint8_t *payload = NULL;
		size_t size = 0;
		int r = frame_decode_header(file + off, end - off, segment, &f, &size);

		if (r < 0 || f.store != store || size > end - off) {
			c->strange_bytes += unit_is_zero(file + off) ? 0 : FRAME_ALIGN;
			off += FRAME_ALIGN;
			continue;
		}
		r = frame_decode(file + off, end - off, segment, &f, &payload, &size);
		const bool good = r == 0;
		c->frames += good;
		c->damaged += !good;
		scan_claim(c, &f, size, off, good, claimed_good);
		if (fn)
			fn(arg, &f, off, good ? payload : NULL);
		off += (uint32_t)size;
	}
}

/* Takes table, hashes and end of frames from the footer at the file's end, if it is good. */
static void scan_footer(
        const uint8_t *file, size_t len, uint64_t segment, struct segment_contents *c)
{
	unsigned slots = 0;
	uint32_t end = 0;

	if (len < SEGMENT_HEADER_LEN + FOOTER_TRAILER_LEN ||
	        footer_trailer_peek(file + len - FOOTER_TRAILER_LEN, segment, &slots, &end) < 0)
		return;
	if (end > len || len - end != footer_size(slots))
		return;
	c->frames_end = end;
	c->footer_good =
	        footer_decode(file + end, len - end, segment, &c->slots, c->table, c->hashes) == 0;
}

int segment_scan_read(struct io *io, const char *name, uint8_t *buf, size_t cap, size_t *ret_len)
{
	CLEANUP(io_closep) struct io_file *f = NULL;
	uint64_t size = 0;
	int r = io_open(io, name, IO_READ | IO_DIRECT, &f);

	if (r == 0)
		r = io_size(f, &size);
	return r < 0 ? r : io_pread(f, buf, MIN(size / IO_ALIGN * IO_ALIGN, cap), 0, ret_len);
}

int segment_scan_bytes(const uint8_t *file, size_t len, uint64_t segment, uint32_t store,
        uint32_t end, segment_frame_fn *fn, void *arg, struct segment_contents *ret_contents)
{
	CLEANUP(free_ptr) struct segment_contents *scratch = calloc(1, sizeof(*scratch));
	struct segment_contents *c = ret_contents;

	if (!scratch)
		return -ENOMEM;
	*c = (struct segment_contents){0};
	if (len >= SEGMENT_HEADER_LEN)
		c->header_good =
		        segment_header_decode(file, &c->header) == 0 && c->header.id == segment;
	if (!c->header_good)
		c->header = (struct segment_header){0};
	c->frames_end = end != 0 ? end : (uint32_t)MIN(len, SEGMENT_FRAMES_END_MAX);
	if (end == 0)
		scan_footer(file, len, segment, c);
	/* With a good footer, the frames are still looked at, but only counted. */
	struct segment_contents *to = c->footer_good ? scratch : c;
	segment_scan_frames(file, SEGMENT_HEADER_LEN, (uint32_t)MIN(len, c->frames_end), segment,
	        store, fn, arg, to);
	c->frames = to->frames;
	c->damaged = to->damaged;
	c->strange_bytes = to->strange_bytes;
	return 0;
}

int segment_scan(struct io *io, const char *name, uint64_t segment, uint32_t store, uint32_t end,
        segment_frame_fn *fn, void *arg, struct segment_contents *ret_contents)
{
	CLEANUP(free_ptr) uint8_t *file = aligned_alloc(IO_ALIGN, SEGMENT_BYTES_MAX);
	size_t len = 0;

	if (!file)
		return -ENOMEM;
	const int r = segment_scan_read(io, name, file, SEGMENT_BYTES_MAX, &len);
	return r < 0 ? r
	             : segment_scan_bytes(file, len, segment, store, end, fn, arg, ret_contents);
}

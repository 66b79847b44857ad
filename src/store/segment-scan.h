/*
 * segment-scan.h - what a segment file holds, read from its frames alone
 *
 * For what has no (good) footer or no row: open segments at mount, damaged footers, check --repair.
 */
#pragma once

#include "store/frame.h"

struct segment_contents {
	bool header_good; /* else header is all zero */
	struct segment_header header;
	bool footer_good;       /* table and hashes are the footer's, not the frames' */
	uint32_t frames_end;    /* where the footer begins or would begin */
	unsigned slots;         /* the footer's, or the highest slot seen + 1 */
	unsigned frames;        /* good ones */
	unsigned damaged;       /* frames with a good header and a bad payload */
	uint32_t strange_bytes; /* neither frame nor padding */
	struct footer_slot table[SEGMENT_SLOTS];
	struct hash128 hashes[SEGMENT_SLOTS]; /* zero where the slot is not PRESENT */
};

/* One frame at file offset off, in file order.  payload is NULL when it is damaged. */
typedef void segment_frame_fn(
        void *arg, const struct frame_info *f, uint32_t off, const uint8_t *payload);

/*
 * Reads file `name`, of this segment, and calls fn (may be NULL) for each frame.  end: the length
 * of its header and frames, as in the row; 0 when unknown: then a good footer says so, else all of
 * the file is scanned.  store: frame_store() of the datastore; frames of another are passed over.
 * A slot that only a damaged frame claims is PRESENT and points there.  A file that ends early is
 * scanned as far as it goes.  -EIO and others: it cannot be read.  Any thread; takes 4 MiB of
 * memory.
 */
int segment_scan(struct io *io, const char *name, uint64_t segment, uint32_t store, uint32_t end,
        segment_frame_fn *fn, void *arg, struct segment_contents *ret_contents) MUST_CHECK;
/* The same of a file's bytes. */
int segment_scan_bytes(const uint8_t *file, size_t len, uint64_t segment, uint32_t store,
        uint32_t end, segment_frame_fn *fn, void *arg,
        struct segment_contents *ret_contents) MUST_CHECK;
/*
 * A file as far as cap goes, past the page cache where the medium can; buf aligned to IO_ALIGN.
 * Whole blocks only: more was never written, and unaligned reads may not be had.
 */
int segment_scan_read(
        struct io *io, const char *name, uint8_t *buf, size_t cap, size_t *ret_len) MUST_CHECK;
/*
 * The same for frames in memory: from offset off (a multiple of FRAME_ALIGN) to end of `file`; only what
 * is told of frames is filled in, into contents that are all zero.
 */
void segment_scan_frames(const uint8_t *file, uint32_t off, uint32_t end, uint64_t segment,
        uint32_t store, segment_frame_fn *fn, void *arg, struct segment_contents *ret_contents);

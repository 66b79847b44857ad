/*
 * segments.h - the segment files: frames appended, read, rewritten, dropped
 *
 * A segment is an append-only file of frames, at most SEGMENT_BYTES_MAX and SEGMENT_SLOTS chunk
 * slots, named segments/HH/ID.GEN (HH: low byte of the id in hex, ID ten hex digits, GEN hex),
 * immutable once sealed.  Layout (bytes in FORMAT.md): header block (IO_ALIGN), frames, footer.
 *
 *	header   magic, version, id, gen, datastore uuid, crypto domain, created txg, checksum
 *	frame    n chunks, codec, slots, lengths, where it came from, checksums, n x hash128, payload;
 *	         64-byte aligned; its chunks take consecutive slots, until a rewrite drops some
 *	footer   slot table {frame offset, frame length, index in frame} with a checksum of its own, so
 *	         that it (8 KiB) can be read without what follows: hash128 per slot, and a trailer at
 *	         the file's end
 *
 * What one transaction group appends to an open segment begins on an IO_ALIGN boundary: committed
 * bytes are never rewritten, not even in place with the same content.  Frames are self-describing:
 * a segment without footer is scanned frame by frame.
 *
 * segment_row.bytes is the file offset where the committed frames end: a multiple of IO_ALIGN, the
 * header block included.  The footer of a sealed segment begins there.
 *
 * A segment belongs to one *crypto domain*, and so do all its frames.  Payloads of domains other than
 * 0 are sealed under the domain's frame key; reading them takes that key.  Headers, hashes and
 * footers are in the clear, so that moving, scanning and dropping need no key.
 *
 * Writing: several commit workers append; each append takes slots and space in the buffer of its
 * domain's open segment under a lock, copies the frame in, and whoever fills a buffer writes it out,
 * beside the others.  Open segments survive restarts: they are scanned up to the committed length
 * and continued, or sealed with what is good where they are damaged.
 *
 * Failed writes: segments_append or segments_txg_sync fail, and all further ones of the group with
 * them; then segments_txg_abort() forgets everything since the last commit, never to use those
 * files' tails again (what a segment had committed is copied to a new, sealed file with the next
 * group), and the caller repeats the group into new segments.
 *
 * Reading: a segment in use is held by a reference, so a rewritten or dropped one is read to the
 * end from its old file.  Slot tables are cached within table_bytes.  Beside those, buffers take at
 * most 24 MiB for writing and 19 MiB for reading.
 */
#pragma once

#include "base/io.h"
#include "store/keyring.h"
#include "store/ports.h"

enum frame_codec { CODEC_RAW = 0, CODEC_LZ4 = 1, CODEC_ZSTD = 2 };

struct segments;
struct frame_info; /* frame.h */

struct segments_config {
	struct io *io;     /* not owned */
	struct meta *meta; /* rows are read from it at open; not owned */
	uint8_t uuid[16];
	uint64_t next_segment;
	uint64_t table_bytes;    /* for cached slot tables */
	struct keyring *keyring; /* not owned; keys may come and go */
	bool read_only;
};

/* Reads all rows into a compact table in RAM (<= 64 bytes a segment), scans open segments. */
int segments_open(const struct segments_config *cfg, struct segments **ret_segs,
        struct errmsg *em) MUST_CHECK;
void segments_close(struct segments *ss);
/*
 * Removes files of a tier that no row names (left by a crash).  Slow; in the background.  *ret_n
 * removed.  -ENXIO: the tier is not there.
 */
int segments_remove_orphans(struct segments *ss, uint32_t tier, unsigned *ret_n) MUST_CHECK;

/* --- appending: commit workers, between two commits --- */
struct frame_spec {
	unsigned n; /* chunks, 1..FRAME_CHUNKS_MAX */
	enum frame_codec codec;
	const struct hash128 *hashes; /* n */
	uint64_t image, first_chunk;  /* where the content came from first */
	const void *payload;          /* not sealed */
	uint32_t payload_len;
	const struct crypto_domain *crypto; /* to seal it for; referenced; NULL: domain 0 */
	uint64_t *seal_ns;                  /* time that took is added; may be NULL */
};
/*
 * Appends a frame in group txg; *ret_loc is the location of its first chunk, the rest follow.
 * Waits while all buffers are being written.  An error fails the whole group.
 */
int segments_append(struct segments *ss, uint64_t txg, const struct frame_spec *spec,
        uint64_t *ret_loc) MUST_CHECK;

/* --- the txg thread --- */
/*
 * Writes what is buffered, seals what is full, syncs all files and directories touched.  All
 * appends of the group have returned, and those of the next one begin after the commit or abort.
 */
int segments_txg_sync(struct segments *ss) MUST_CHECK;
/* Puts the rows that changed (and deletes those dropped), inside the transaction. */
int segments_txg_write(struct segments *ss) MUST_CHECK;
/* The transaction of the last segments_txg_write is durable: new lengths are official, replaced and
 * dropped files are unlinked as soon as their readers are gone. */
void segments_txg_committed(struct segments *ss);
/* The group failed before its commit; see above.  Rewrites and drops stay pending. */
void segments_txg_abort(struct segments *ss);
uint64_t segments_next(struct segments *ss);

/* --- reading: any thread --- */
/*
 * Reads the chunks at n locations, in any order; frames of one segment that lie together are read
 * with one call.  Each frame is checked, decompressed once, and handed to fn as a whole: loc of its
 * first chunk, its n chunks (CHUNK_SIZE each) and hashes; also chunks nobody asked for.  fn is
 * called at least once for each location asked that is good.  Returns the first error after trying
 * all: -ENOKEY: the segment's crypto domain is locked; -ESTALE: the segment or slot does not exist (any more); -EIO: damage (logged) or a failed
 * read; -EOPNOTSUPP: a codec that this build lacks.  Of a damaged frame, chunks that are
 * right by their own hash are handed out alone.  Data not yet written out (appended in the present
 * group) is served from its buffer.  fn must not append.
 */
typedef void segments_frame_fn(
        void *arg, uint64_t loc, unsigned n, const uint8_t *chunks, const struct hash128 *hashes);
int segments_read(struct segments *ss, const uint64_t *locs, unsigned n, segments_frame_fn *fn,
        void *arg) MUST_CHECK;
/*
 * The same, but frames as they are stored, not unpacked: f says what is in payload, which is not sealed any more
 * (key_id 0).  Of a damaged frame, chunks that are right come alone, as frames of one, not compressed.
 */
typedef void segments_packed_fn(void *arg, const struct frame_info *f, const uint8_t *payload);
int segments_read_packed(struct segments *ss, const uint64_t *locs, unsigned n,
        segments_packed_fn *fn, void *arg) MUST_CHECK;
/*
 * What a committed segment's file holds up to *ret_row's bytes, header and frames, as it is: no key is
 * needed.  buf: SEGMENT_BYTES_MAX, IO_ALIGN aligned.  -ESTALE as above; -EIO.
 */
int segments_copy(struct segments *ss, uint64_t segment, uint8_t *buf,
        struct segment_row *ret_row) MUST_CHECK;
/*
 * The hashes of all slots, to find chunks by (all zero: dead and rewritten away, lost to damage, or
 * not to be found: keyring.h); room for SEGMENT_SLOTS.  -ESTALE as above.
 */
int segments_hashes(struct segments *ss, uint64_t segment, struct hash128 *ret_hashes,
        unsigned *ret_n) MUST_CHECK;
/* Committed rows with ids above `after`, in order, up to cap; returns how many. */
unsigned segments_list(
        struct segments *ss, uint64_t after, struct segment_row *ret_rows, unsigned cap);
bool segments_exists(struct segments *ss, uint64_t segment);
/* The crypto domain of all its frames.  -ESTALE: no such segment. */
int segments_domain(struct segments *ss, uint64_t segment, uint32_t *ret_domain) MUST_CHECK;
/* The ids of all segments of a domain, ascending; *ret_ids (malloc) is the caller's.  -ENOMEM. */
int segments_of_domain(
        struct segments *ss, uint32_t domain, uint64_t **ret_ids, size_t *ret_n) MUST_CHECK;
/*
 * May this slot be referred to by an image of this crypto domain: it is in a segment of that domain,
 * is assigned, was not given up by an abort, and was not left out by a rewrite.  Cheap for segments
 * never rewritten; else may load the slot table.
 */
bool segments_present(struct segments *ss, uint64_t loc, uint32_t domain);

/*
 * --- space: the collector, one thread ---
 * -ESTALE: no such segment.  -EBUSY: it is not sealed yet, or has a rewrite that is not committed.
 */
/* One bit a slot. */
struct slot_bits {
	uint64_t words[SEGMENT_SLOTS / 64];
};
/*
 * A good copy of a damaged slot's content, found by a later write; taken if the slot's recorded
 * hash is that of data.
 */
struct heal {
	uint64_t loc;
	const void *data;
	bool used; /* set when it was taken, left alone when not */
};
/*
 * Writes the next generation of a sealed segment with only the live slots (same id, same slots;
 * wholly live frames copied as they are after a check, partly live ones rebuilt and recompressed,
 * damaged ones kept as they are unless healed), synced; without the key of the segment's crypto
 * domain, partly live frames are copied as they are; becomes official with the next txg commit,
 * through segments_txg_write.  -EIO: a frame with live slots cannot be read at all.
 */
int segments_rewrite(struct segments *ss, uint64_t segment, const struct slot_bits *live,
        struct heal *heals, unsigned n_heals, uint64_t *ret_written_bytes) MUST_CHECK;
/* Has no live slot: its row goes with the next commit, its file after it. */
int segments_drop(struct segments *ss, uint64_t segment) MUST_CHECK;
/* Records the outcome of a mark: row's live_chunks and live_bytes.  Not -EBUSY. */
int segments_set_live(struct segments *ss, uint64_t segment, uint32_t live_chunks,
        uint32_t live_bytes) MUST_CHECK;
/*
 * --- placement: the mover, one thread; errors as above ---
 * A sealed segment has one file that counts, and may have a *copy*: a second file, on another tier, of the
 * same frames at the same places.  Each of these becomes official with the next commit; files that
 * are written are synced and read again before that.  A rewrite leaves one file, where the first was.
 */
enum segment_place {
	SEGMENT_MOVE,      /* to the tier; of files that were there, none stays elsewhere */
	SEGMENT_MOVE_KEEP, /* the same, and the file that counted until now becomes the copy */
	SEGMENT_COPY,      /* a copy on the tier, in place of the one there was */
	SEGMENT_UNCOPY,    /* the copy goes; tier is not looked at */
};
/*
 * Where the copy is on the tier already, moving takes no writing (*ret_written_bytes 0).  0 also when there
 * is nothing to do.  -EUCLEAN: frames of it are damaged, and no copy has them whole: it stays where it is, unless
 * `damaged`: then they are taken along as they are.
 */
int segments_place(struct segments *ss, uint64_t segment, uint32_t tier, enum segment_place how,
        bool damaged, uint64_t *ret_written_bytes) MUST_CHECK;

/* Seals the open segments in the next sync, so that the collector may rewrite them. */
void segments_seal_all(struct segments *ss);

/*
 * Wiping a crypto domain, one at a time: from begin on, rewrites of its segments leave no byte of a
 * dead chunk, and files that go are overwritten first.  The collector asks segments_wipe_wanted() of each
 * sealed segment, and rewrites those too.  end waits until all files are gone.  -EBUSY: some
 * segments that were there at the beginning could not be wiped; -EIO and others: some files not
 * be overwritten.
 */
void segments_wipe_begin(struct segments *ss, uint32_t domain);
/*
 * Images are being taken out of these domains, to be wiped at the end: until then their files, and
 * those that no row names, are overwritten whenever they go.  more: besides those set before.
 */
void segments_leaving(struct segments *ss, const uint32_t *domains, unsigned n, bool more);
bool segments_any_left(struct segments *ss);
/* With so many live slots: has it to be rewritten? */
bool segments_wipe_wanted(struct segments *ss, uint64_t segment, unsigned live);
int segments_wipe_end(struct segments *ss) MUST_CHECK;

/* What was read and unpacked before is no longer in memory of the segments' own. */
void segments_forget(struct segments *ss);

struct segments_stats {
	uint64_t segments, open, file_bytes, slots, live_chunks, live_bytes;
	uint64_t table_bytes, rows_bytes;
	uint64_t copies_read; /* reads answered by a copy: the first file was damaged, or away */
};
/* What lies on one tier. */
struct segments_tier_stats {
	uint64_t segments, file_bytes, live_bytes; /* of files that count */
	uint64_t copies, copy_bytes;
};
void segments_tier_stats_get(
        struct segments *ss, uint32_t tier, struct segments_tier_stats *ret_stats);
void segments_stats_get(struct segments *ss, struct segments_stats *ret_stats);

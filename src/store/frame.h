/*
 * frame.h - the bytes of segment headers, frames and footers, and the names of segment files
 *
 * Pure encode and decode: no I/O, no allocation.  Used by segments.c, by check (which reads the
 * formats on its own) and by the fuzz targets.  All decoders return -EUCLEAN for what is not valid
 * and leave their outputs untouched.  Bytes are described in FORMAT.md.
 */
#pragma once

#include "base/io-mux.h"
#include "store/segments.h"

#define SEGMENT_HEADER_LEN IO_ALIGN
#define FRAME_ALIGN        64u
#define FRAME_HEADER_LEN   64u /* before the hashes */
#define FRAME_SPAN_SLOTS   32u /* the slots of one frame lie within so many consecutive ones */
/* The largest frame: 16 raw chunks, sealed. */
#define FRAME_SIZE_MAX                                                                             \
	ROUND_UP(FRAME_HEADER_LEN + FRAME_CHUNKS_MAX * (16 + CHUNK_SIZE) + SEAL_OVERHEAD,          \
	        FRAME_ALIGN)
/* Frames end at or before this, so that a file with its footer is SEGMENT_BYTES_MAX at most. */
#define FOOTER_SIZE_MAX        ROUND_UP(64 + SEGMENT_SLOTS * 20, IO_ALIGN)
#define SEGMENT_FRAMES_END_MAX (SEGMENT_BYTES_MAX - FOOTER_SIZE_MAX)

/*
 * "segments/HH/ID.GEN", terminated; on a tier other than the first "tiers/N/segments/HH/ID.GEN" (io-mux.h).
 */
#define SEGMENT_NAME_LEN (40 + IO_MUX_PREFIX_LEN)
void segment_name(uint32_t tier, uint64_t id, uint32_t gen, char ret_name[SEGMENT_NAME_LEN]);
/* The directory of such a name; hh: the low byte of the id. */
void segment_dir_name(uint32_t tier, unsigned hh, char ret_name[SEGMENT_NAME_LEN]);
/* The directory above all of them. */
void segment_top_name(uint32_t tier, char ret_name[SEGMENT_NAME_LEN]);
/* The last part of such a name ("000000002a.0"); -EINVAL when it is not one. */
int segment_name_parse(const char *base_name, uint64_t *ret_id, uint32_t *ret_gen) MUST_CHECK;
/* The same for a file that is being wiped: "segments/HH/ID.GEN.gone". */
void segment_name_gone(uint32_t tier, uint64_t id, uint32_t gen, char ret_name[SEGMENT_NAME_LEN]);
int segment_name_gone_parse(const char *base_name, uint64_t *ret_id, uint32_t *ret_gen) MUST_CHECK;

struct segment_header {
	uint64_t id;
	uint32_t gen;
	uint8_t uuid[16];
	uint32_t domain;
	uint64_t created_txg;
};
void segment_header_encode(const struct segment_header *h, uint8_t buf[SEGMENT_HEADER_LEN]);
int segment_header_decode(
        const uint8_t buf[SEGMENT_HEADER_LEN], struct segment_header *ret_header) MUST_CHECK;

struct frame_info {
	unsigned n;
	enum frame_codec codec;
	uint32_t
	        key_id; /* the crypto domain whose frame key the payload is sealed under; 0: none */
	uint32_t payload_len; /* as stored: SEAL_OVERHEAD included */
	uint32_t store;       /* frame_store() of the datastore, to know a frame of another one */
	uint64_t segment;     /* to catch a misplaced frame */
	uint64_t image, first_chunk;
	uint16_t slots[FRAME_CHUNKS_MAX]; /* n, ascending, within FRAME_SPAN_SLOTS of the first */
	struct hash128 hashes[FRAME_CHUNKS_MAX];
};
/* What frame_info.store is in the datastore with this uuid. */
uint32_t frame_store(const uint8_t uuid[16]);
/* Sets slots[] to n consecutive ones. */
void frame_slots_set(struct frame_info *f, unsigned first_slot);
/* Bytes that a frame takes, header and padding to FRAME_ALIGN included. */
size_t frame_size(unsigned n, uint32_t payload_len);
/*
 * Writes header, hashes, payload and zero padding: frame_size() bytes; returns that.  The payload of
 * a frame with key_id is sealed already.
 */
size_t frame_encode(const struct frame_info *f, const void *payload, uint8_t *buf);
/*
 * The same for f->payload_len - SEAL_OVERHEAD bytes that are to be sealed on the way, under the frame key
 * of domain f->key_id.  What precedes the payload is authenticated with it, but for the checksums:
 * so no frame passes in another place, or under another header.  -ENOMEM, -EIO: libcrypto's.
 */
int frame_encode_sealed(const struct frame_info *f, const struct seal_key *key, const void *plain,
        uint8_t *buf) MUST_CHECK;
/*
 * Checks the frame at buf (len bytes are there) of this segment, both checksums included.
 * *ret_payload points into buf; *ret_size is frame_size().  -ENODATA: not even a frame's magic (end
 * of frames, padding).
 */
int frame_decode(const uint8_t *buf, size_t len, uint64_t segment, struct frame_info *ret_info,
        const uint8_t **ret_payload, size_t *ret_size) MUST_CHECK;
/*
 * Header and hashes only, which have a checksum of their own (the payload need not be there): for
 * scans, and to tell a frame with a damaged payload from one of which nothing is known.
 */
int frame_decode_header(const uint8_t *buf, size_t len, uint64_t segment,
        struct frame_info *ret_info, size_t *ret_size) MUST_CHECK;
/*
 * Decompresses to f->n * CHUNK_SIZE bytes.  -EOPNOTSUPP: a codec that this build does not have.
 * -ENOKEY: the payload is sealed.
 */
int frame_unpack(
        const struct frame_info *f, const uint8_t *payload, uint8_t *ret_chunks) MUST_CHECK;
#define FRAME_UNPACK_BYTES (FRAME_CHUNKS_MAX * CHUNK_SIZE) /* of chunks, and of what was sealed */
/*
 * Opens the seal: f->payload_len - SEAL_OVERHEAD bytes to plain.  payload lies in its frame, behind the
 * header; crypto: of domain f->key_id (else -ENOKEY).  -EUCLEAN: not authentic.
 */
int frame_unseal(const struct frame_info *f, const struct crypto_domain *crypto,
        const uint8_t *payload, uint8_t *plain) MUST_CHECK;
/*
 * The same, and opens the seal first if there is one.  payload lies in its frame, behind the
 * header; crypto: of domain f->key_id (else -ENOKEY); plain: FRAME_UNPACK_BYTES to work in, not
 * used for frames that are not sealed.  -EUCLEAN also: not authentic.
 */
int frame_open(const struct frame_info *f, const struct crypto_domain *crypto,
        const uint8_t *payload, uint8_t *plain, uint8_t *ret_chunks) MUST_CHECK;
/*
 * Compresses n chunks (contiguous) with LZ4 into buf (cap >= n * CHUNK_SIZE), or says CODEC_RAW
 * when that saves less than 12.5 % (then what buf holds is void).  Returns the codec, *ret_len the
 * length.
 */
enum frame_codec frame_pack(const uint8_t *chunks, unsigned n, uint8_t *buf, uint32_t *ret_len);

/* What compressing harder takes: memory to work in.  One thread at a time. */
struct frame_packer;
int frame_packer_new(struct frame_packer **ret_packer) MUST_CHECK;
void frame_packer_wipe(struct frame_packer *p); /* forgets what was packed */
void frame_packer_free(struct frame_packer *p); /* accepts NULL */
/* As frame_pack, with LZ4HC of level 3..12; the result is an LZ4 block like any other. */
enum frame_codec frame_pack_hard(struct frame_packer *p, unsigned level, const uint8_t *chunks,
        unsigned n, uint8_t *buf, uint32_t *ret_len);
/*
 * As frame_pack, with LZ4 or LZ4HC, whichever pays for this content: one chunk of it is tried with
 * both.
 */
enum frame_codec frame_pack_auto(
        struct frame_packer *p, const uint8_t *chunks, unsigned n, uint8_t *buf, uint32_t *ret_len);

/*
 * Where the chunk of a slot is.  Not PRESENT: dead and rewritten away; all other fields are 0.
 * PRESENT with frame_pos 0: it should be there, but was lost to damage.
 */
struct footer_slot {
	uint32_t frame_pos : 16;   /* frame offset in the file / FRAME_ALIGN */
	uint32_t frame_units : 11; /* frame_size() / FRAME_ALIGN */
	uint32_t index : 4;        /* in the frame */
	uint32_t flags : 1;        /* SLOT_* */
};
enum { SLOT_PRESENT = BIT(0) };

/* A multiple of IO_ALIGN. */
size_t footer_size(unsigned slots);
/* hashes and slots have `slots` elements; frames_end = file offset where the footer begins
 * (IO_ALIGN multiple). */
void footer_encode(uint64_t segment, unsigned slots, const struct footer_slot *table,
        const struct hash128 *hashes, uint32_t frames_end, uint8_t *buf);
/* The whole footer. */
int footer_decode(const uint8_t *buf, size_t len, uint64_t segment, unsigned *ret_slots,
        struct footer_slot ret_table[SEGMENT_SLOTS],
        struct hash128 ret_hashes[SEGMENT_SLOTS]) MUST_CHECK;
/* Only the slot table: the footer's first footer_table_size(slots) bytes, with its own checksum. */
size_t footer_table_size(unsigned slots);
int footer_table_decode(const uint8_t *buf, size_t len, uint64_t segment, unsigned slots,
        struct footer_slot ret_table[SEGMENT_SLOTS]) MUST_CHECK;
/*
 * The last FOOTER_TRAILER_LEN bytes of a sealed file say where its footer begins and how many slots
 * it has, for a reader who lacks the row.  A hint: only footer_decode() verifies.
 */
#define FOOTER_TRAILER_LEN 32u
int footer_trailer_peek(const uint8_t tail[FOOTER_TRAILER_LEN], uint64_t segment,
        unsigned *ret_slots, uint32_t *ret_frames_end) MUST_CHECK;

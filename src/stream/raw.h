/*
 * raw.h - the records of a raw stream: an encrypted image that is sent without its key
 *
 * Bytes and meaning in RAW.md beside this.  In a stream with the flag STREAM_RAW (stream.h) the body is
 *
 *	KEY [FROM] MAP* SEGMENT*
 *
 * as opaque records: the slots that wrap the data key; the leaves of the map, sealed; the frames of the crypto
 * domain, sealed.  Here is their codec, and what can be said of them without the key.
 *
 * No I/O.  Threads: one at a time for each struct.  Errors: -EUCLEAN: not what a sender writes;
 * -ENOMEM.
 */
#pragma once

#include "base/bytes.h"
#include "crypto/keyslot.h"
#include "store/sealed.h"
#include "stream/stream.h"

enum raw_type {
	RAW_KEY = STREAM_OPAQUE_FIRST,
	RAW_MAP,
	RAW_SEGMENT,
	RAW_FROM,
};

#define RAW_NAME_MAX     64u
#define RAW_SLOTS_MAX    16u
#define RAW_PIECE_MIN    (64u << 10)  /* bytes of a segment in one record, but the last, */
#define RAW_PIECE_MAX    (1u << 20)   /* so that who opens it can keep where they are in memory */
#define RAW_MAP_MAX      (256u << 10) /* a record of items is sent once it is so long */
#define RAW_SEGMENT_HEAD 24u
#define RAW_ITEM_HEAD    20u

/* Whose key it is, as where it was made, and the slots as they are. */
struct raw_key {
	uint8_t uuid[16];      /* of the datastore whose keys these are: salt of their derivation */
	uint32_t domain;       /* that leaves and frames are sealed for there */
	uint32_t slots_domain; /* that the slots are bound to (keyslot.h) */
	char name[RAW_NAME_MAX + 1];
	unsigned n;
	struct raw_slot {
		unsigned slot;
		size_t len;
		uint8_t bytes[KEYSLOT_BYTES_MAX];
	} slots[RAW_SLOTS_MAX];
};
int raw_key_encode(const struct raw_key *key, struct bytes_out *out) MUST_CHECK; /* -ENOMEM */
int raw_key_decode(const uint8_t *data, size_t len, struct raw_key *ret_key) MUST_CHECK;

/* Appends an item to a MAP record's payload. */
int raw_map_add(struct bytes_out *out, const struct sealed_item *item) MUST_CHECK;
/* The next one; borrows from in.  1: there is one; 0: the end. */
int raw_map_next(struct bytes_in *in, struct sealed_item *ret_item) MUST_CHECK;

/* A piece of a segment's frames. */
struct raw_piece {
	uint64_t id;
	uint32_t gen;
	uint32_t total; /* bytes of frames of the whole segment */
	uint32_t off;   /* of this piece in them */
	const uint8_t *data;
	size_t len;
};
/* head: RAW_SEGMENT_HEAD bytes, which the data follows. */
void raw_piece_encode(const struct raw_piece *p, uint8_t *head);
int raw_piece_decode(const uint8_t *data, size_t len, struct raw_piece *ret_piece) MUST_CHECK;

/* What an earlier stream of the same guids has brought, and this one leaves out. */
struct raw_from {
	uint32_t leaf;    /* items below this leaf; UINT32_MAX: all */
	uint64_t segment; /* segments up to this id */
};
#define RAW_FROM_LEN 16u
void raw_from_encode(const struct raw_from *from, uint8_t buf[RAW_FROM_LEN]);
int raw_from_decode(const uint8_t *data, size_t len, struct raw_from *ret_from) MUST_CHECK;

/*
 * Where a stream is, and whether it goes on as it must: order, bounds, leaves that are what they say.  All zero
 * to begin with; for the next part of a stream that was cut, raw_progress_cut() first.
 */
struct raw_progress {
	bool has_key, in_segments, begun;
	struct raw_key key;
	uint32_t leaf_end; /* all items below this leaf were there */
	uint64_t segment;  /* the last one begun; 0: none */
	uint64_t segment_before;
	uint32_t segment_total, segment_have;
	uint64_t items, segments;
};
int raw_progress_take(
        struct raw_progress *p, unsigned type, const uint8_t *data, size_t len) MUST_CHECK;
/*
 * The stream was cut: what of it need not come again.  A segment that was not there as a whole is.  The next
 * part begins with a key, and with FROM, if there is anything.
 */
struct raw_from raw_progress_cut(struct raw_progress *p);
/* Nothing is cut off in the middle.  -EUCLEAN. */
int raw_progress_end(const struct raw_progress *p) MUST_CHECK;

/* Where to go on after a cut. */
struct raw_token {
	uint8_t guid[STREAM_GUID_LEN], guid_from[STREAM_GUID_LEN];
	struct raw_from from;
};
#define RAW_TOKEN_TEXT 128u
void raw_token_text(const struct raw_token *t, char ret_text[RAW_TOKEN_TEXT]);
bool raw_token_is(const char *text);
/* -EINVAL: not one, or mistyped. */
int raw_token_parse(const char *text, struct raw_token *ret_t) MUST_CHECK;

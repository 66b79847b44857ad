/*
 * stream.h - a snapshot of one image as a stream of records: the codec
 *
 * What `weir send` writes and `weir receive` reads; bytes and meaning in FORMAT.md beside this.  There
 * are two directions: the *stream* proper, and the *answers* of a receiver that has a way back to the
 * sender.  Each is a prologue and then records {type, length, checksum, payload}; a record's checksum
 * is seeded with the one before, so records cut off, reordered or spliced in are found.
 *
 *	stream   BEGIN META ROW* START (FILL | DATA | SHARE | QUERY | OPAQUE | POS)* (END | ABORT)
 *	answers  HELLO (HAVE)* (DONE | ERROR);  ERROR may come in place of any of them
 *
 * The *position* grows: START sets it, POS moves it on.  All of the image below it has been said.
 * What FILL, DATA, SHARE and QUERY speak of begins at or above it; what DATA places lies less than
 * STREAM_WINDOW above, a QUERY's less than STREAM_AHEAD.  A receiver that made all durable up to a
 * POS can be resumed there.
 *
 * No I/O and no policy here: an encoder gives the bytes of a record's head, a decoder is fed with
 * bytes and gives back whole records, checked: checksum, order, bounds of all that can be checked without
 * knowing the image.  The decoder's memory is bounded (STREAM_PAYLOAD_MAX).
 *
 * Threads: one at a time for each struct.
 * Errors: -EUCLEAN: damaged, or not what a sender writes; -EPROTONOSUPPORT: made by a newer weir;
 * -ENODATA: it ended before its end.  em says so in words that may follow "cannot receive ...: ".
 */
#pragma once

#include "base/errmsg.h"
#include "store/chunk.h"
#include "store/frame.h"

#define STREAM_VERSION      1u
#define STREAM_PROLOGUE_LEN 16u
#define STREAM_HEADER_LEN   16u
/* Of one record; the largest is a ROW of RECORD_VALUE_MAX. */
#define STREAM_PAYLOAD_MAX ((1u << 20) + 4096u)
#define STREAM_WINDOW      (16ull << 20) /* bytes above the position that DATA may place */
#define STREAM_AHEAD       (64ull << 20) /* and that a QUERY may ask about */
#define STREAM_META_MAX    (64u << 10)
#define STREAM_TEXT_MAX    4096u /* ABORT, ERROR */
#define STREAM_ROWS_MAX    4096u
#define STREAM_PLACES_MAX  256u  /* of one DATA record */
#define STREAM_ASKS_MAX    4096u /* of one QUERY */
#define STREAM_QUERIES_MAX 64u   /* without their HAVE, so that answers never fill a pipe */
#define STREAM_GUID_LEN    16u
#define STREAM_SHA_LEN     32u

enum stream_kind { STREAM_FORWARD, STREAM_ANSWERS };

enum stream_type {
	/* stream */
	STREAM_BEGIN = 1,
	STREAM_META = 2,
	STREAM_ROW = 3,
	STREAM_START = 4,
	STREAM_FILL = 5,
	STREAM_DATA = 6,
	STREAM_SHARE = 7,
	STREAM_QUERY = 8,
	STREAM_POS = 9,
	STREAM_END = 10,
	STREAM_ABORT = 11,
	/* Of streams with STREAM_RAW: their payload is not looked at here; behind START. */
	STREAM_OPAQUE_FIRST = 32,
	STREAM_OPAQUE_LAST = 47,
	/* answers */
	STREAM_HELLO = 64,
	STREAM_HAVE = 65,
	STREAM_DONE = 66,
	STREAM_ERROR = 67,
};

/* struct stream_begin.flags; one that is not known is -EPROTONOSUPPORT. */
enum {
	STREAM_INCREMENTAL = BIT(0), /* guid_from, size_from mean something */
	STREAM_TALK = BIT(1),        /* the sender waits for HELLO after the last ROW */
	STREAM_RAW = BIT(2),         /* what is sealed is sent sealed */
};

struct stream_begin {
	uint32_t flags;
	uint8_t uuid[16];                   /* of the datastore that sends */
	uint8_t guid[STREAM_GUID_LEN];      /* of the snapshot */
	uint8_t guid_from[STREAM_GUID_LEN]; /* of the one that the receiver must have */
	uint64_t size, size_from;           /* of the image in each, in bytes */
	uint64_t estimate; /* bytes of content that DATA would bring, about; for a progress line */
};

/* Bytes in the decoder's buffer. */
struct stream_bytes {
	const uint8_t *data;
	size_t len;
};

enum stream_row_table { STREAM_ROW_ATTACHMENT = 1, STREAM_ROW_STATE = 2 };

/* A row of the snapshot's filters (meta/records.h), with the ids that it has at the sender. */
struct stream_row {
	enum stream_row_table table;
	uint64_t id;
	struct stream_bytes value;
};

/* A range that is one thing; whole chunks. */
struct stream_fill {
	uint64_t off, len;
	bool zero; /* else a hole */
};

/* Where a chunk of a frame goes. */
struct stream_place {
	uint64_t off;  /* in the image */
	uint8_t index; /* in the frame */
};

struct stream_data {
	unsigned n; /* chunks in the frame, 1..FRAME_CHUNKS_MAX; each has a place */
	enum frame_codec codec;
	unsigned n_places; /* n..STREAM_PLACES_MAX, ascending by offset, without doubles */
	struct stream_place places[STREAM_PLACES_MAX];
	struct stream_bytes payload; /* as in a frame that is not sealed */
};

/* The same content as what was said of [src, src + len), all of it below the position. */
struct stream_share {
	uint64_t off, src, len;
};

/* What the content at off would be. */
struct stream_ask {
	uint64_t off;
	struct hash128 hash;         /* with the hasher of HELLO */
	uint8_t sha[STREAM_SHA_LEN]; /* SHA-256 of the chunk */
};

struct stream_query {
	uint32_t id;              /* 0, 1, 2, ... */
	unsigned n;               /* 1..STREAM_ASKS_MAX, ascending by offset, without doubles */
	struct stream_bytes asks; /* stream_ask_get() */
};

struct stream_end {
	uint64_t records;            /* before this one */
	uint64_t chunks;             /* placed by DATA */
	uint8_t sha[STREAM_SHA_LEN]; /* SHA-256 of all bytes before this record; checked */
};

enum { STREAM_HELLO_HASH = BIT(0) /* hasher is there: the receiver answers queries */ };

struct stream_hello {
	uint32_t flags;
	uint64_t start; /* byte of the image to begin at; a position that a sender gave, or 0 */
	unsigned queries_max; /* without their HAVE; 1..STREAM_QUERIES_MAX */
	unsigned asks_max;    /* of one query; 1..STREAM_ASKS_MAX */
	struct chunk_hasher hasher;
};

/*
 * Bit i: the receiver has put that content at ask i's offset.  Answers come in the order of queries.
 */
struct stream_have {
	uint32_t id;
	unsigned n;
	struct stream_bytes bits;
};

/* A record as decoded; what it points to is the decoder's, good until that is fed again. */
struct stream_record {
	enum stream_type type;
	union {
		struct stream_begin begin;
		struct stream_bytes meta; /* JSON text, not parsed here */
		struct stream_row row;
		uint64_t start; /* a multiple of CHUNK_SIZE */
		struct stream_fill fill;
		struct stream_data data;
		struct stream_share share;
		struct stream_query query;
		uint64_t pos; /* likewise */
		struct stream_end end;
		struct stream_bytes
		        text; /* ABORT, ERROR: without control characters; UTF-8, if honest */
		struct stream_bytes opaque; /* STREAM_OPAQUE_FIRST..LAST */
		struct stream_hello hello;
		struct stream_have have;
		struct stream_bytes done; /* JSON text, for the sender to show; not parsed here */
	};
};

/* --- decoding --- */

struct stream_in;
int stream_in_new(enum stream_kind kind, struct stream_in **ret_in) MUST_CHECK;
void stream_in_free(struct stream_in *in); /* accepts NULL */
void stream_in_freep(struct stream_in **in);
/*
 * Where the next bytes go, and how many are wanted, at most: never more than the rest of a prologue,
 * header or payload, so nothing that lies behind the last record is taken.  0: END, ABORT, DONE or
 * ERROR was given: it is complete.
 */
size_t stream_in_room(struct stream_in *in, uint8_t **ret_buf);
/* len <= room bytes were put there.  1: ret_rec is a record; 0: more is wanted; or an error. */
int stream_in_fed(struct stream_in *in, size_t len, struct stream_record *ret_rec,
        struct errmsg *em) MUST_CHECK;
/* No more bytes come.  0: it was complete; -ENODATA. */
int stream_in_ended(const struct stream_in *in, struct errmsg *em) MUST_CHECK;
uint64_t stream_in_bytes(const struct stream_in *in); /* so far */

/* Ask i of a query. */
void stream_ask_get(const struct stream_query *q, unsigned i, struct stream_ask *ret_ask);
bool stream_have_bit(const struct stream_have *h, unsigned i);
/* n * CHUNK_SIZE bytes.  -EUCLEAN: not what it says; -EPROTONOSUPPORT: a codec of a newer weir. */
int stream_data_unpack(const struct stream_data *d, uint8_t *ret_chunks) MUST_CHECK;

/* --- encoding --- */

/* The state of one direction; plain memory but for sha. */
struct stream_out;
int stream_out_new(enum stream_kind kind, struct stream_out **ret_out) MUST_CHECK;
void stream_out_free(struct stream_out *o); /* accepts NULL */
void stream_out_freep(struct stream_out **o);
/*
 * The bytes to be written for a record, in up to STREAM_OUT_IOV pieces, in the encoder's memory (and
 * rec's), good until the next call; the first record comes with the prologue.  What cannot be decoded
 * is asserted; of texts, what is not printable is replaced.  END's totals and checksum and QUERY's id are
 * filled in here, in rec too.
 */
#define STREAM_OUT_IOV 2
struct iovec;
int stream_out_record(struct stream_out *o, struct stream_record *rec,
        struct iovec ret_iov[STREAM_OUT_IOV], int *ret_n) MUST_CHECK;
uint64_t stream_out_bytes(const struct stream_out *o);

/* For query.asks: room of n asks in buf, STREAM_ASK_LEN bytes each. */
#define STREAM_ASK_LEN (8u + 16u + STREAM_SHA_LEN)
void stream_ask_put(uint8_t *buf, unsigned i, const struct stream_ask *ask);

/* --- guids and tokens --- */

/* Of a snapshot that was made here: of the datastore's uuid and snapshot_id(). */
int stream_guid(const uint8_t uuid[16], uint64_t key, uint8_t ret_guid[STREAM_GUID_LEN]) MUST_CHECK;

/* Where to go on after a cut; printed by the receiver, given to `weir send --resume`. */
struct stream_token {
	uint8_t guid[STREAM_GUID_LEN];
	uint8_t guid_from[STREAM_GUID_LEN]; /* zero: a full stream */
	uint64_t start;
};
#define STREAM_TOKEN_TEXT 112u /* "weir1-" + hex, terminated */
void stream_token_text(const struct stream_token *t, char ret_text[STREAM_TOKEN_TEXT]);
/* -EINVAL: not one, or mistyped. */
int stream_token_parse(const char *text, struct stream_token *ret_t) MUST_CHECK;

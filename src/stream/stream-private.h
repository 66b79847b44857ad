/*
 * stream-private.h - what encoder and decoder share; private to src/stream
 */
#pragma once

#include <openssl/evp.h>
#include <xxhash.h>

#include "base/bytes.h"
#include "stream/stream.h"

/* Fixed parts of payloads, in bytes. */
#define BEGIN_LEN      80u
#define ROW_HEAD_LEN   16u
#define FILL_LEN       24u
#define DATA_HEAD_LEN  16u
#define PLACE_LEN      4u
#define SHARE_LEN      24u
#define QUERY_HEAD_LEN 8u
#define END_LEN        (16u + STREAM_SHA_LEN)
#define HELLO_HEAD_LEN 16u
#define HAVE_HEAD_LEN  8u
#define HASHER_LEN     192u
#define HEAD_LEN_MAX   (DATA_HEAD_LEN + STREAM_PLACES_MAX * PLACE_LEN)

#define BEGIN_FLAGS (STREAM_INCREMENTAL | STREAM_TALK | STREAM_RAW)

static inline bool type_is_opaque(unsigned type)
{
	return type >= STREAM_OPAQUE_FIRST && type <= STREAM_OPAQUE_LAST;
}

/* The payload of a record of this type, by itself; -EUCLEAN, -EPROTONOSUPPORT. */
int payload_decode(unsigned type, const uint8_t *data, size_t len, struct stream_record *ret_rec,
        struct errmsg *em) MUST_CHECK;

/* -EPROTONOSUPPORT. */
int payload_newer(struct errmsg *em, const char *what, unsigned number);

void prologue_put(enum stream_kind kind, uint8_t buf[STREAM_PROLOGUE_LEN]);
/* What a record's checksum covers is its header up to the checksum, and its payload. */
#define HEADER_SUMMED_LEN 8u

/*
 * ilog-format.h - the bytes of the intent log: header block, batches, records
 *
 * Pure encode and decode: no I/O, no allocation.  Used by ilog.c, by check (which reads the formats
 * on its own) and by the fuzz target.  Decoders return -EUCLEAN for what is not valid and leave
 * their outputs untouched.  Bytes are described in FORMAT.md.
 *
 * Guests choose what lies in the ring: a block inside an old batch's data may be anything.  So that
 * none can be mistaken for a batch, checksums are keyed by a salt that no guest sees.
 */
#pragma once

#include "base/bytes.h"
#include "store/ilog.h"

#define ILOG_VERSION           1u
#define ILOG_HEADER_LEN        IO_ALIGN /* the ring begins behind it */
#define ILOG_SALT_LEN          32
#define ILOG_BATCH_HEADER_LEN  64u
#define ILOG_RECORD_HEADER_LEN 40u
#define ILOG_RECORD_ALIGN      8u
#define ILOG_SEALED_HEADER_LEN 24u /* of a sealed record's data */
#define ILOG_SEALED_OVERHEAD   (ILOG_SEALED_HEADER_LEN + SEAL_OVERHEAD)

struct ilog_header {
	uint8_t uuid[16]; /* of the datastore */
	uint64_t epoch;   /* under which the file was made; batches may have later ones */
	uint64_t ring_bytes;
	uint8_t salt[ILOG_SALT_LEN]; /* random, of this file */
};
void ilog_header_encode(const struct ilog_header *h, uint8_t buf[ILOG_HEADER_LEN]);
/* -EPROTONOSUPPORT: of a newer version. */
int ilog_header_decode(
        const uint8_t buf[ILOG_HEADER_LEN], struct ilog_header *ret_header) MUST_CHECK;

/* Keyed checksums.  Immutable after init; any thread. */
struct ilog_hasher {
	uint8_t secret[192];
};
void ilog_hasher_init(struct ilog_hasher *h, const uint8_t salt[ILOG_SALT_LEN]);

struct ilog_batch {
	uint64_t epoch, seq;
	uint64_t off;         /* in the ring; IO_ALIGN multiple */
	uint32_t payload_len; /* of the records behind the header */
	uint32_t n_records;
	bool filler; /* takes the rest of the ring; no records */
};
/* Bytes that a batch takes in the ring, padding included. */
uint64_t ilog_batch_size(const struct ilog_batch *b, uint64_t ring_bytes);
/* Writes the header in front of b->payload_len bytes of records that are in buf already. */
void ilog_batch_seal(const struct ilog_hasher *h, const struct ilog_batch *b, uint8_t *buf);
/* The header, with its checksum; and that the batch fits in a ring of this length. */
int ilog_batch_decode(const struct ilog_hasher *h, const uint8_t buf[ILOG_BATCH_HEADER_LEN],
        uint64_t ring_bytes, struct ilog_batch *ret_batch) MUST_CHECK;
/*
 * All records of a decoded batch; buf holds header and payload; sealed ones as far as that goes
 * without a key.  -EBADMSG: their checksum.
 */
int ilog_batch_verify(
        const struct ilog_hasher *h, const struct ilog_batch *b, const uint8_t *buf) MUST_CHECK;

/* Does it keep to the rules for its type: ranges, alignment, fields that must be 0? */
bool ilog_record_valid(const struct ilog_record *rec);
bool ilog_record_has_data(enum ilog_type type);
/* Bytes that it takes in a batch, for rec->len of at most ILOG_BATCH_MAX of data. */
size_t ilog_record_size(const struct ilog_record *rec);
/* Writes all but the data; returns where that belongs. */
uint8_t *ilog_record_encode(const struct ilog_record *rec, uint8_t *buf);
/* The next one; ret_record->data points into the input. */
int ilog_record_decode(struct bytes_in *in, struct ilog_record *ret_record) MUST_CHECK;

/* --- sealed records --- */
/* What the data of one begins with, in the clear but authenticated. */
struct ilog_sealed {
	uint32_t flags;  /* ILOG_SEALED_* */
	uint32_t number; /* among the batch's sealed records, from 0 */
	uint64_t epoch;
	uint64_t
	        seq; /* of the log's head when it was sealed: the batch's, or one less (a filler) */
};
int ilog_sealed_decode(const struct ilog_record *rec, struct ilog_sealed *ret_sealed) MUST_CHECK;
/* buf: where the record lies in full, with the place for its data (rec->len) behind its header. */
int ilog_sealed_encode(const struct ilog_record *rec, const struct ilog_sealed *s,
        const struct seal_key *key, const void *plain, size_t len, uint8_t *buf) MUST_CHECK;
/*
 * plain holds rec->len - ILOG_SEALED_OVERHEAD bytes.  -EUCLEAN: not authentic, or under another
 * key, or what is in it is not records of rec's image and group.
 */
int ilog_sealed_open(
        const struct ilog_record *rec, const struct seal_key *key, uint8_t *plain) MUST_CHECK;

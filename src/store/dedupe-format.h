/*
 * dedupe-format.h - the bytes of the dedupe index's file
 *
 * Pure encode and decode: no I/O, no allocation; bytes are described in FORMAT.md.  Decoders return
 * -EUCLEAN for what is not valid and leave their outputs untouched.
 *
 * A header (INDEX_HEADER_LEN), then pieces to the end of the file.  A piece holds the words of a
 * range of buckets of one table; runs of empty buckets cost 5 bytes, so a nearly empty index makes
 * a small file.
 */
#pragma once

#include "store/dedupe-table.h"

#define INDEX_HEADER_LEN       128u
#define INDEX_PIECE_HEADER_LEN 32u
#define INDEX_PIECE_MAX        (1u << 20) /* bytes, its header included */

enum index_table { INDEX_WINDOW, INDEX_SAMPLE, INDEX_TABLES };

struct index_header {
	uint8_t uuid[16];
	uint64_t txg;
	uint64_t n_buckets[INDEX_TABLES];
	uint64_t n_pieces;
	uint64_t file_bytes; /* of the whole file */
};
void index_header_encode(const struct index_header *h, uint8_t buf[INDEX_HEADER_LEN]);
/* -ESTALE: valid, but of another version. */
int index_header_decode(
        const uint8_t buf[INDEX_HEADER_LEN], struct index_header *ret_header) MUST_CHECK;

/* What binds a piece to its datastore and transaction group: it seeds the pieces' checksums. */
uint64_t index_seed(const uint8_t uuid[16], uint64_t txg);

/* --- writing a piece --- */
struct index_piece_out {
	uint8_t *buf; /* INDEX_PIECE_MAX bytes, not owned */
	size_t len;
	enum index_table table;
	uint64_t first, next; /* buckets */
};
void index_piece_begin(struct index_piece_out *p, uint8_t *buf, enum index_table table);
/*
 * Adds the n words (1..HINT_WAYS) of a bucket above all before it.  False: it does not fit any
 * more, end this piece and begin another.
 */
bool index_piece_add(struct index_piece_out *p, uint64_t bucket, const uint64_t *words, unsigned n);
/* Header and checksum; the piece is buf[0..len). */
void index_piece_end(struct index_piece_out *p, uint64_t seed);

/* --- reading a piece --- */
struct index_piece {
	enum index_table table;
	uint64_t first;     /* bucket */
	uint32_t n_buckets; /* covered, empty ones included */
	uint32_t payload_len;
	uint64_t checksum;
};
/* The header alone, to know how much to read.  Lengths are checked too. */
int index_piece_header_decode(const uint8_t buf[INDEX_PIECE_HEADER_LEN],
        const struct index_header *h, struct index_piece *ret_piece) MUST_CHECK;
/* Checks the whole piece, buf = header and payload: checksum, runs, words. */
int index_piece_check(const uint8_t *buf, const struct index_piece *p, uint64_t seed) MUST_CHECK;
/* Calls fn for each bucket of a piece that has been checked. */
typedef void index_bucket_fn(void *arg, uint64_t bucket, const uint64_t *words, unsigned n);
void index_payload_walk(
        const uint8_t *payload, const struct index_piece *p, index_bucket_fn *fn, void *arg);

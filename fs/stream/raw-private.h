/*
 * raw-private.h - what the parts of raw streams share; private to fs/stream
 *
 *	raw-send.c      a snapshot as it is stored, or what a holder has, into a stream
 *	raw-receive.c   a stream into a holder
 *	raw-holder.c    what a holder has: its parts, read as records
 *	raw-index.c     where frames are in a holder, and their content, with the key
 *	raw-convert.c   a stream of a holder, with the key, into an ordinary stream
 *	raw-open.c      the job that does so, and receives that
 *	raw-list.c      what is kept sealed
 */
#pragma once

#include "fs/filter/manager-private.h"
#include "fs/filter/sealed-flag.h"
#include "fs/stream/raw-stream.h"
#include "stream/raw.h"

/* --- raw-holder.c --- */
struct holder {
	uint64_t ino;
	struct image *img; /* open */
	struct sealed_flag flag;
};
/* -ENOENT: the inode is none. */
int holder_open(struct datastore *ds, uint64_t ino, struct holder *ret_h) MUST_CHECK;
void holder_close(struct holder *h);
/* Where part i begins. */
uint64_t holder_offset(const struct holder *h, size_t i);
/* Parts [*from, ret) are one stream; false: there is no (whole) one from *from on. */
bool holder_stream(const struct holder *h, size_t from, size_t *ret_end);

/* The records of bytes [off, end) of a holder, which begin with a prologue. */
struct part_reader;
int part_reader_new(
        struct image *img, uint64_t off, uint64_t end, struct part_reader **ret_p) MUST_CHECK;
void part_reader_free(struct part_reader *p); /* accepts NULL */
void part_reader_freep(struct part_reader **p);
/*
 * 1: a record, good until the next call; *ret_at: where its payload is in the image.  0: the end, or not a whole
 * record more.  -EUCLEAN: it is none.
 */
int part_read(struct part_reader *p, struct stream_record *ret_rec, uint64_t *ret_at) MUST_CHECK;
/* Bytes of the whole records read so far. */
uint64_t part_reader_good(const struct part_reader *p);
/* The key that part i came with. */
int holder_key(const struct holder *h, size_t i, struct raw_key *ret_key) MUST_CHECK;
/*
 * Follows the parts from `from` on, all of one stream that was cut: progress as after raw_progress_cut().
 */
int holder_progress(const struct holder *h, size_t from, struct raw_progress *ret_p,
        struct raw_from *ret_from) MUST_CHECK;
/*
 * Bytes behind the last part, as a part that is not whole: of a stream that a crash cut.  0 with ret_part->len 0:
 * there are none of use.  size: of the holder.
 */
int holder_tail(const struct holder *h, uint64_t size, struct sealed_part *ret_part) MUST_CHECK;

/* --- raw-receive.c --- */
/* Nobody else fills or opens this holder; -EBUSY: somebody does; -EAGAIN: too many at a time. */
int raw_claim(struct manager *m, uint64_t ino) MUST_CHECK;
void raw_unclaim(struct manager *m, uint64_t ino);

/* --- raw-index.c --- */
struct raw_index;
/* crypto: of where it was sealed; not owned. */
int raw_index_new(struct image *img, const uint8_t uuid[16], const struct crypto_domain *crypto,
        struct raw_index **ret_ix) MUST_CHECK;
void raw_index_free(struct raw_index *ix); /* accepts NULL; wipes */
/* A piece of a segment lies at `at`. */
int raw_index_add(struct raw_index *ix, const struct raw_piece *piece, uint64_t at) MUST_CHECK;
/*
 * The content of a map entry.  -EUCLEAN: not authentic, damaged; -ENOENT: it is not in what came.
 */
int raw_index_chunk(struct raw_index *ix, uint64_t entry, uint8_t *ret_chunk) MUST_CHECK;

/* --- raw-convert.c --- */
struct raw_convert {
	const struct holder *h;
	size_t first, end; /* parts of the stream */
	const struct crypto_domain *crypto;
	struct record_writer *out;
	bool (*stopped)(void *arg);
	_Atomic uint64_t *done, *total; /* bytes of the image, for progress; may be NULL */
	void *arg;
};
/* All of an ordinary stream, END included.  em where r alone does not say enough. */
int raw_convert(struct raw_convert *c, struct errmsg *em) MUST_CHECK;

/*
 * stream-io.h - records over a pair of descriptors
 *
 * For pipes, sockets, files, blocking or not.  Each wait also watches a cancel descriptor; where
 * writing may be for long, the descriptor should not be blocking, for a write under way is not interrupted.
 *
 * Threads: one for writing and one for reading at a time.
 * Errors: those of read and write; -EPIPE: nobody reads any more; -ECANCELED.
 */
#pragma once

#include "stream/stream.h"

/* --- writing: gathered, so that small records are no system calls --- */
struct record_writer;
/* fd -1: nothing is written, only counted.  Neither descriptor is owned. */
int record_writer_new(
        enum stream_kind kind, int fd, int cancel_fd, struct record_writer **ret_w) MUST_CHECK;
void record_writer_free(struct record_writer *w); /* accepts NULL; what is gathered is lost */
void record_writer_freep(struct record_writer **w);
int record_write(struct record_writer *w, struct stream_record *rec) MUST_CHECK;
int record_flush(struct record_writer *w) MUST_CHECK;
uint64_t record_writer_bytes(const struct record_writer *w);

/* --- reading --- */
struct record_reader;
int record_reader_new(
        enum stream_kind kind, int fd, int cancel_fd, struct record_reader **ret_r) MUST_CHECK;
void record_reader_free(struct record_reader *r); /* accepts NULL */
void record_reader_freep(struct record_reader **r);
/* How long a record_read() may wait for the next bytes: -ETIMEDOUT then; -1: for ever, as at first. */
void record_reader_patience(struct record_reader *r, int ms);
/*
 * The next record, good until the next call.  Errors of the decoder as they are, with em; -ENODATA: it
 * ended.  After its last record: -ENODATA.
 */
int record_read(
        struct record_reader *r, struct stream_record *ret_rec, struct errmsg *em) MUST_CHECK;
uint64_t record_reader_bytes(const struct record_reader *r);

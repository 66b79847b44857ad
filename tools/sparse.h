/*
 * sparse.h - copying and comparing images, holes left out
 *
 * Either end may be a pipe.  What is zero is not written: it is a hole of the copy.
 *
 * Threads: one.  Stops with -EINTR when a signal came (interrupt.h).
 */
#pragma once

#include "base/compiler.h"
#include "tools/progress.h"

#define SPARSE_UNKNOWN UINT64_MAX

struct sparse_copy {
	int from, to; /* `to`: an empty file */
	bool to_pipe; /* or it is only appended to, holes as zeros */
	/* Bytes to copy; SPARSE_UNKNOWN: from is a pipe, up to its end. */
	uint64_t size_bytes;
	uint64_t size_max_bytes;   /* of a pipe: -EFBIG beyond */
	uint64_t data_bytes;       /* what progress goes up to; 0: not known */
	struct progress *progress; /* not owned */

	uint64_t read_bytes;    /* so far */
	uint64_t written_bytes; /* so far, without zeros */
	bool failed_writing;    /* after an error: it was `to` that failed */
};

/* -ENODATA: from ended before size_bytes. */
int sparse_copy(struct sparse_copy *c) MUST_CHECK;
/* Bytes of a file that are not in holes; all of them where that cannot be told. */
int sparse_data_bytes(int fd, uint64_t size_bytes, uint64_t *ret_bytes) MUST_CHECK;
/* *ret_at: the first byte that differs, SPARSE_UNKNOWN when none does.  Both are files. */
int sparse_compare(
        int a, int b, uint64_t size_bytes, struct progress *progress, uint64_t *ret_at) MUST_CHECK;

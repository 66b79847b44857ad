/*
 * io-mux.h - one tree of names over several media
 *
 * Names below "tiers/N/" go to the medium attached as N, with that prefix taken away; all others to
 * the base.  So whoever works with names need not know how many media there are, and what is done
 * to a file on any of them is done the same way.
 *
 * A medium that is not attached, or was detached since a file was opened, is -ENXIO.  It may come back
 * (attach again), with what was written before the detach still on it.
 *
 * What reads and writes of segments cost is counted for each medium, the base as number 0: only what
 * lies below "segments/" there, so that intent log and metadata are left out.
 *
 * Threads: any, also attach and detach beside I/O.  A detached medium is freed with its last open
 * file; a call that hangs inside a medium (a network file system whose server is gone) hangs alone.
 */
#pragma once

#include "base/io.h"

#define IO_MUX_MEDIA 64u /* numbers 1..63; 0 is the base */
/* "tiers/63/" */
#define IO_MUX_PREFIX_LEN 10u

/* Base becomes the mux's.  Free with io_free(). */
int io_mux_new(struct io *base, struct io **ret_mux) MUST_CHECK;
/* The medium becomes the mux's, also on error.  -EEXIST: there is one of that number. */
int io_mux_attach(struct io *mux, unsigned n, struct io *medium) MUST_CHECK;
/* 0 also when there is none. */
void io_mux_detach(struct io *mux, unsigned n);
bool io_mux_has(struct io *mux, unsigned n);
/* Of a medium's own file system; 0: the base's.  -ENXIO. */
int io_mux_space(struct io *mux, unsigned n, struct io_space *ret_space) MUST_CHECK;
/* "tiers/N/", or "" for 0; terminated. */
void io_mux_prefix(unsigned n, char ret_prefix[IO_MUX_PREFIX_LEN]);

/* Since the mux was made; a medium keeps its numbers when it is attached again. */
struct io_mux_stats {
	uint64_t reads, read_bytes, read_ns;    /* ns: sum of how long they took */
	uint64_t writes, write_bytes, write_ns; /* syncs are in write_ns, and not in writes */
	uint64_t errors;        /* calls on files and names that failed, -ENOENT not counted */
	int last_error;         /* -errno; 0: none yet */
	uint64_t last_error_ns; /* clock_wall_ns() */
};
void io_mux_stats_get(struct io *mux, unsigned n, struct io_mux_stats *ret_stats);

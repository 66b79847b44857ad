/*
 * ilog-int.h - an open intent log, shared by ilog.c and ilog-replay.c only
 */
#pragma once

#include <pthread.h>

#include "store/ilog-format.h"

struct ilog {
	struct io *io; /* not owned */
	struct io_file *file;
	struct ilog_header header;
	struct ilog_hasher hasher;
	bool read_only;

	/* The batch under construction: the leader's alone. */
	uint8_t *map;     /* address space for a filler block and the largest batch */
	uint8_t *batch;   /* map + IO_ALIGN */
	size_t batch_len; /* header and records so far */
	uint32_t n_records, n_sealed;

	pthread_mutex_t lock; /* guards what follows */
	uint64_t epoch;
	uint64_t off, seq; /* of the next batch; changed by the leader only */
	uint64_t tail_off;
	bool started, poisoned;
};

/*
 * ilog-fixture.h - what the tests of the intent log share: records, and a log on a simulated disk
 *
 * Records are functions of a running number (their txg), so that a replay checks every byte without
 * keeping what was written.  The log of each test is a clone of one that is made once per program.
 * Whatever returns no error asserts that all goes well.
 */
#pragma once

#include "sim/iosim.h"
#include "store/ilog-format.h"

#define LOG_BYTES ILOG_BYTES_MIN
#define RING      (LOG_BYTES - ILOG_HEADER_LEN)

extern const uint8_t uuid[16];
/* The data of the record made last; for any other use some bytes. */
extern uint8_t data_buf[];

/* --- records from numbers --- */

/* Its data is in data_buf: good until the next call. */
struct ilog_record record_of(uint64_t id);

struct expect {
	uint64_t next;      /* id */
	uint64_t stop_at;   /* fn returns -ENODATA there */
	uint64_t committed; /* ids below are skipped, as the store does by txg */
};

/* For ilog_replay, arg: struct expect. */
int expect_record(void *arg, const struct ilog_record *rec);
/* For ilog_replay, arg: unsigned. */
int count_record(void *arg, const struct ilog_record *rec);

/* --- a log on a simulated disk --- */

/* Of the group of tests. */
int template_create(void **state);
int template_free(void **state);

struct iosim *sim_with_log(uint64_t seed);
struct ilog *log_open(struct iosim *sim);
/* Of epoch 1, with nothing in it. */
struct ilog *log_started(struct iosim *sim);
uint64_t head_off(struct ilog *l);

/* A batch of one record of len bytes of data. */
int commit_len(struct ilog *l, uint64_t len);
/* A batch that takes exactly this much of the ring. */
int commit_size(struct ilog *l, uint64_t size);
/* Commits record `id` as a batch of its own. */
void commit_id(struct ilog *l, uint64_t id);

/* Opens the log anew; ret_n: records. */
int replay_count(struct iosim *sim, uint64_t epoch, uint64_t off, uint64_t seq, unsigned *ret_n,
        uint64_t *ret_off, uint64_t *ret_seq);

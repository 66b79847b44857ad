/*
 * ilog-fixture.c - see ilog-fixture.h
 */
#include "ilog-fixture.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "sim/rng.h"

#define DATA_MAX (6u << 20)

const uint8_t uuid[16] = "an uuid of tests";

/* --- records from numbers --- */

_Alignas(8) uint8_t data_buf[DATA_MAX + 8];

static uint64_t random_len(struct rng *rng)
{
	switch (rng_below(rng, 16)) {
	case 0:
		return rng_below(rng, DATA_MAX);
	case 1:
	case 2:
		return rng_below(rng, 300000);
	case 3:
		return 0;
	case 4:
		return rng_below(rng, 100);
	default:
		return CHUNK_SIZE;
	}
}

struct ilog_record record_of(uint64_t id)
{
	struct rng rng = rng_fork(id, 1);
	struct ilog_record r = {
	        .type = (enum ilog_type)(
	                rng_chance(&rng, 600) ? ILOG_DATA : 1 + rng_below(&rng, 6)),
	        .txg = id,
	};

	if (r.type != ILOG_ROWS)
		r.image = rng_next(&rng);
	if (r.type != ILOG_ROWS && r.type != ILOG_DELETE)
		r.off = rng_below(&rng, 1ull << 40) * CHUNK_SIZE % (IMAGE_SIZE_MAX / 2);
	if (ilog_record_has_data(r.type)) {
		r.len = random_len(&rng);
		if (r.type == ILOG_SHARE)
			r.len = r.len / 8 * 8;
		for (uint64_t i = 0; i < r.len; i += 8)
			*(uint64_t *)(data_buf + i) = rng_next(&rng);
		r.data = data_buf;
	} else if (r.type != ILOG_DELETE) {
		r.len = rng_below(&rng, IMAGE_SIZE_MAX / 2);
	}
	return r;
}

int expect_record(void *arg, const struct ilog_record *rec)
{
	struct expect *e = arg;
	const struct ilog_record want = record_of(e->next);

	if (rec->txg < e->committed)
		return 0;
	if (e->stop_at && e->next == e->stop_at)
		return -ENODATA;
	assert_int_equal(rec->txg, e->next);
	assert_int_equal(rec->type, want.type);
	assert_int_equal(rec->image, want.image);
	assert_int_equal(rec->off, want.off);
	assert_int_equal(rec->len, want.len);
	assert_int_equal(rec->data != NULL, want.data != NULL);
	if (want.data)
		assert_memory_equal(rec->data, want.data, want.len);
	e->next++;
	return 0;
}

/* --- a log on a simulated disk --- */

static struct iosim *template_sim;

int template_create(void **state)
{
	iosim_create(0, &template_sim);
	return ilog_create(iosim_io(template_sim), uuid, LOG_BYTES, 1, NULL);
}

int template_free(void **state)
{
	iosim_free(template_sim);
	return 0;
}

struct iosim *sim_with_log(uint64_t seed)
{
	struct iosim *sim = NULL;

	iosim_clone(template_sim, &sim);
	iosim_reseed(sim, seed);
	return sim;
}

struct ilog *log_open(struct iosim *sim)
{
	struct ilog *l = NULL;
	struct errmsg em = {0};

	if (ilog_open(iosim_io(sim), uuid, false, &l, &em) < 0)
		fail_msg("%s", em.text);
	return l;
}

struct ilog *log_started(struct iosim *sim)
{
	struct ilog *l = log_open(sim);

	ilog_start(l, 1, 0, 0, 1);
	return l;
}

int commit_len(struct ilog *l, uint64_t len)
{
	const struct ilog_record rec = {ILOG_DATA, 1, 1, 0, len, data_buf};

	ilog_batch_begin(l);
	const int r = ilog_batch_add(l, &rec);
	return r < 0 ? r : ilog_commit(l);
}

int commit_size(struct ilog *l, uint64_t size)
{
	return commit_len(l, size - ILOG_BATCH_HEADER_LEN - ILOG_RECORD_HEADER_LEN);
}

void commit_id(struct ilog *l, uint64_t id)
{
	const struct ilog_record rec = record_of(id);

	ilog_batch_begin(l);
	assert_int_equal(ilog_batch_add(l, &rec), 0);
	assert_int_equal(ilog_commit(l), 0);
}

int count_record(void *arg, const struct ilog_record *rec)
{
	(*(unsigned *)arg)++;
	return 0;
}

int replay_count(struct iosim *sim, uint64_t epoch, uint64_t off, uint64_t seq, unsigned *ret_n,
        uint64_t *ret_off, uint64_t *ret_seq)
{
	struct ilog *l = log_open(sim);
	unsigned n = 0;

	*ret_off = *ret_seq = 0;
	const int r = ilog_replay(l, epoch, off, seq, count_record, &n, ret_off, ret_seq, NULL);
	ilog_close(l);
	*ret_n = n;
	return r;
}

uint64_t head_off(struct ilog *l)
{
	uint64_t off, seq;

	ilog_head(l, &off, &seq);
	return off;
}

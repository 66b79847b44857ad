/*
 * test-ilog.c - what was committed to the intent log comes back, in order, whatever happens
 *
 * Records are functions of a running number (their txg), so that a replay checks every byte without
 * keeping what was written.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "sim/iosim.h"
#include "sim/rng.h"
#include "store/ilog-format.h"

#define LOG_BYTES ILOG_BYTES_MIN
#define RING      (LOG_BYTES - ILOG_HEADER_LEN)

static const uint8_t uuid[16] = "an uuid of tests";

/* --- records from numbers --- */

#define DATA_MAX (6u << 20)
static _Alignas(8) uint8_t data_buf[DATA_MAX + 8];

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

static struct ilog_record record_of(uint64_t id)
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

struct expect {
	uint64_t next;      /* id */
	uint64_t stop_at;   /* fn returns -ENODATA there */
	uint64_t committed; /* ids below are skipped, as the store does by txg */
};

static int expect_record(void *arg, const struct ilog_record *rec)
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

static int template_create(void **state)
{
	iosim_create(0, &template_sim);
	return ilog_create(iosim_io(template_sim), uuid, LOG_BYTES, 1, NULL);
}

static int template_free(void **state)
{
	iosim_free(template_sim);
	return 0;
}

static struct iosim *sim_with_log(uint64_t seed)
{
	struct iosim *sim = NULL;

	iosim_clone(template_sim, &sim);
	iosim_reseed(sim, seed);
	return sim;
}

static struct ilog *log_open(struct iosim *sim)
{
	struct ilog *l = NULL;
	struct errmsg em = {0};

	if (ilog_open(iosim_io(sim), uuid, false, &l, &em) < 0)
		fail_msg("%s", em.text);
	return l;
}

static struct ilog *log_started(struct iosim *sim)
{
	struct ilog *l = log_open(sim);

	ilog_start(l, 1, 0, 0, 1);
	return l;
}

/* A batch of one record of len bytes of data. */
static int commit_len(struct ilog *l, uint64_t len)
{
	const struct ilog_record rec = {ILOG_DATA, 1, 1, 0, len, data_buf};

	ilog_batch_begin(l);
	const int r = ilog_batch_add(l, &rec);
	return r < 0 ? r : ilog_commit(l);
}

/* A batch that takes exactly this much of the ring. */
static int commit_size(struct ilog *l, uint64_t size)
{
	return commit_len(l, size - ILOG_BATCH_HEADER_LEN - ILOG_RECORD_HEADER_LEN);
}

/* Commits record `id` as a batch of its own. */
static void commit_id(struct ilog *l, uint64_t id)
{
	const struct ilog_record rec = record_of(id);

	ilog_batch_begin(l);
	assert_int_equal(ilog_batch_add(l, &rec), 0);
	assert_int_equal(ilog_commit(l), 0);
}

static int count_record(void *arg, const struct ilog_record *rec)
{
	(*(unsigned *)arg)++;
	return 0;
}

static int replay_count(struct iosim *sim, uint64_t epoch, uint64_t off, uint64_t seq,
        unsigned *ret_n, uint64_t *ret_off, uint64_t *ret_seq)
{
	struct ilog *l = log_open(sim);
	unsigned n = 0;

	*ret_off = *ret_seq = 0;
	const int r = ilog_replay(l, epoch, off, seq, count_record, &n, ret_off, ret_seq, NULL);
	ilog_close(l);
	*ret_n = n;
	return r;
}

static uint64_t head_off(struct ilog *l)
{
	uint64_t off, seq;

	ilog_head(l, &off, &seq);
	return off;
}

/* --- creating and opening --- */

static void test_a_new_log_is_durable_empty_and_of_its_size(void **state)
{
	CLEANUP(iosim_freep) struct iosim *sim = sim_with_log(1);
	unsigned n;
	uint64_t off, seq;

	iosim_crash(sim, IOSIM_LOSE, 0);
	assert_int_equal(iosim_used(sim), LOG_BYTES);
	assert_int_equal(replay_count(sim, 1, 0, 1, &n, &off, &seq), 0);
	assert_int_equal(n, 0);
	assert_int_equal(off, 0);
	assert_int_equal(seq, 1);
}

static void test_sizes_outside_the_limits_are_refused(void **state)
{
	CLEANUP(iosim_freep) struct iosim *sim = NULL;
	struct errmsg em = {0};

	iosim_create(1, &sim);
	assert_int_equal(ilog_create(iosim_io(sim), uuid, ILOG_BYTES_MIN - 1, 1, &em), -EINVAL);
	assert_int_equal(ilog_create(iosim_io(sim), uuid, ILOG_BYTES_MAX + 1, 1, &em), -EINVAL);
	assert_non_null(strstr(em.text, "bad size of the intent log"));
	assert_int_equal(ilog_create(iosim_io(sim), uuid, ILOG_BYTES_MIN + 77, 1, &em), 0);
	ilog_close(log_open(sim));
}

static void test_a_failed_creation_leaves_no_file(void **state)
{
	CLEANUP(iosim_freep) struct iosim *sim = NULL;
	struct io_file *f = NULL;
	struct errmsg em = {0};

	iosim_create(1, &sim);
	iosim_set_capacity(sim, 1 << 20);
	assert_int_equal(ilog_create(iosim_io(sim), uuid, LOG_BYTES, 1, &em), -ENOSPC);
	assert_string_equal(em.text, "cannot create the intent log: No space left on device");
	assert_int_equal(io_open(iosim_io(sim), ILOG_NAME, IO_READ, &f), -ENOENT);
	iosim_set_capacity(sim, 0);
	assert_int_equal(ilog_create(iosim_io(sim), uuid, LOG_BYTES, 1, NULL), 0);
	assert_int_equal(ilog_create(iosim_io(sim), uuid, LOG_BYTES, 1, NULL), -EEXIST);
}

static int open_result(struct iosim *sim, const uint8_t id[16])
{
	struct ilog *l = NULL;
	struct errmsg em = {0};
	const int r = ilog_open(iosim_io(sim), id, false, &l, &em);

	assert_int_equal(r < 0, *em.text != 0);
	ilog_close(l);
	return r;
}

static void test_what_is_not_this_datastores_log_is_refused(void **state)
{
	CLEANUP(iosim_freep) struct iosim *sim = sim_with_log(1);
	struct io_file *f = NULL;

	assert_int_equal(open_result(sim, (const uint8_t *)"some other uuid!"), -ESTALE);
	assert_int_equal(open_result(sim, uuid), 0);
	assert_int_equal(io_open(iosim_io(sim), ILOG_NAME, IO_WRITE, &f), 0);
	assert_int_equal(io_truncate(f, LOG_BYTES - IO_ALIGN), 0);
	assert_int_equal(open_result(sim, uuid), -EUCLEAN);
	assert_int_equal(io_truncate(f, 100), 0);
	assert_int_equal(open_result(sim, uuid), -EUCLEAN);
	io_close(f);
	assert_int_equal(io_unlink(iosim_io(sim), ILOG_NAME), 0);
	assert_int_equal(open_result(sim, uuid), -ENOENT);
	iosim_crash(sim, IOSIM_LOSE, 0);
	iosim_fail_read(sim, "log", 0);
	assert_int_equal(open_result(sim, uuid), -EIO);
	iosim_faults_clear(sim);
	assert_int_equal(iosim_corrupt(sim, ILOG_NAME, 4000, 1, 1), 0);
	assert_int_equal(open_result(sim, uuid), -EUCLEAN);
}

static void test_a_read_only_log_writes_nothing(void **state)
{
	CLEANUP(iosim_freep) struct iosim *sim = sim_with_log(1);
	struct ilog *l = log_started(sim);
	struct expect e = {.next = 100};
	uint64_t off, seq;

	for (uint64_t id = 100; id < 110; id++)
		commit_id(l, id);
	ilog_close(l);
	const uint64_t steps = iosim_steps(sim);
	assert_int_equal(ilog_open(iosim_io(sim), uuid, true, &l, NULL), 0);
	assert_int_equal(ilog_replay(l, 1, 0, 1, expect_record, &e, &off, &seq, NULL), 0);
	assert_int_equal(e.next, 110);
	ilog_close(l);
	assert_int_equal(iosim_steps(sim), steps);
}

/* --- batches --- */

static void test_a_commit_costs_one_write_and_one_sync(void **state)
{
	CLEANUP(iosim_freep) struct iosim *sim = sim_with_log(1);
	struct ilog *l = log_started(sim);
	const uint64_t steps = iosim_steps(sim);
	uint64_t bytes, used;

	assert_int_equal(commit_len(l, 4096), 0);
	assert_int_equal(iosim_steps(sim), steps + 2);
	ilog_space(l, &bytes, &used);
	assert_int_equal(bytes, RING);
	assert_int_equal(used, 8192);
	assert_int_equal(ilog_commit(l), 0); /* an empty one costs nothing */
	assert_int_equal(iosim_steps(sim), steps + 2);
	ilog_close(l);
}

static void test_batch_bytes_tells_what_commit_writes(void **state)
{
	CLEANUP(iosim_freep) struct iosim *sim = sim_with_log(1);
	struct ilog *l = log_started(sim);
	const struct ilog_record del = {.type = ILOG_DELETE, .image = 1};

	assert_int_equal(ilog_batch_bytes(l), 0);
	for (int i = 0; i < 101; i++) {
		assert_int_equal(ilog_batch_add(l, &del), 0);
		assert_int_equal(ilog_batch_bytes(l), i < 100 ? 4096 : 8192);
	}
	assert_int_equal(ilog_commit(l), 0);
	assert_int_equal(head_off(l), 8192);
	assert_int_equal(ilog_batch_bytes(l), 0);
	ilog_close(l);
}

static void test_reserved_room_stays_where_it_is(void **state)
{
	CLEANUP(iosim_freep) struct iosim *sim = sim_with_log(1);
	struct ilog *l = log_started(sim);
	const uint64_t n = 20;
	struct expect e = {.next = 500};
	void *room[20];
	uint64_t off, seq;

	for (uint64_t i = 0; i < n; i++) {
		const struct ilog_record rec = record_of(500 + i);
		if (ilog_record_has_data(rec.type))
			assert_int_equal(ilog_batch_reserve(l, &rec, &room[i]), 0);
		else
			assert_int_equal(ilog_batch_add(l, &rec), 0);
	}
	for (uint64_t i = 0; i < n; i++) { /* filled after the batch has grown */
		const struct ilog_record rec = record_of(500 + i);
		if (rec.data)
			memcpy(room[i], rec.data, rec.len);
	}
	assert_int_equal(ilog_commit(l), 0);
	assert_int_equal(ilog_replay(l, 1, 0, 1, expect_record, &e, &off, &seq, NULL), 0);
	assert_int_equal(e.next, 500 + n);
	ilog_close(l);
}

static void test_a_full_ring_says_enospc_and_a_trim_helps(void **state)
{
	CLEANUP(iosim_freep) struct iosim *sim = sim_with_log(1);
	struct ilog *l = log_started(sim);
	uint64_t bytes, used, off, seq;
	unsigned n = 0, replayed;
	int r;

	while ((r = commit_size(l, 64 << 10)) == 0)
		n++;
	assert_int_equal(r, -ENOSPC);
	assert_int_equal(n, (RING - IO_ALIGN) / (64 << 10));
	ilog_space(l, &bytes, &used);
	assert_int_equal(used, (uint64_t)n * (64 << 10));
	assert_int_equal(replay_count(sim, 1, 0, 1, &replayed, &off, &seq), 0);
	assert_int_equal(replayed, n);
	assert_int_equal(off, head_off(l));
	/* what is in use is not overwritten by the smallest batch either, but up to one block it is
	 * used */
	while ((r = commit_size(l, IO_ALIGN)) == 0)
		n++;
	ilog_space(l, &bytes, &used);
	assert_int_equal(used, bytes - IO_ALIGN);
	ilog_trim(l, 2 * (64 << 10));
	assert_int_equal(commit_size(l, 64 << 10), 0);
	assert_int_equal(replay_count(sim, 1, 2 * (64 << 10), 3, &replayed, &off, &seq), 0);
	assert_int_equal(replayed, n - 2 + 1);
	ilog_close(l);
}

static void test_the_largest_batch_fits_wherever_an_empty_ring_stands(void **state)
{
	CLEANUP(iosim_freep) struct iosim *sim = sim_with_log(1);
	struct ilog *l = log_started(sim);
	const uint64_t max = ilog_batch_max(l);

	assert_true(max > RING / 2 - 3 * IO_ALIGN && max < RING / 2);
	for (uint64_t off = 0; off < RING; off += IO_ALIGN) {
		const uint64_t len = max - ILOG_BATCH_HEADER_LEN - ILOG_RECORD_HEADER_LEN;
		const struct ilog_record most = {ILOG_DATA, 1, 1, 0, len, NULL};
		const struct ilog_record more = {ILOG_DATA, 1, 1, 0, len + 8, NULL};
		void *room;
		ilog_start(l, 1, off, off, 1);
		ilog_batch_begin(l);
		assert_int_equal(ilog_batch_reserve(l, &more, &room), -ENOSPC);
		assert_int_equal(ilog_batch_reserve(l, &most, &room), 0);
	}
	ilog_close(l);
}

static void test_a_refused_record_leaves_the_batch_good(void **state)
{
	CLEANUP(iosim_freep) struct iosim *sim = sim_with_log(1);
	struct ilog *l = log_started(sim);
	const struct ilog_record first = record_of(1);
	const struct ilog_record big = {ILOG_DATA, 1, 1, 0, ILOG_BATCH_MAX, data_buf};
	struct expect e = {.next = 1};
	uint64_t off, seq;

	assert_int_equal(ilog_batch_add(l, &first), 0);
	assert_int_equal(ilog_batch_add(l, &big), -ENOSPC);
	assert_int_equal(ilog_commit(l), 0);
	assert_int_equal(ilog_replay(l, 1, 0, 1, expect_record, &e, &off, &seq, NULL), 0);
	assert_int_equal(e.next, 2);
	ilog_close(l);
}

/* --- wrapping --- */

static void test_batches_wrap_whole_behind_a_filler(void **state)
{
	CLEANUP(iosim_freep) struct iosim *sim = sim_with_log(1);
	struct ilog *l = log_open(sim);
	const uint64_t start = RING - 3 * IO_ALIGN;
	uint64_t off, seq;
	unsigned n;

	ilog_start(l, 1, start, start, 10);
	assert_int_equal(commit_size(l, IO_ALIGN), 0);
	assert_int_equal(commit_size(l, 3 * IO_ALIGN), 0); /* two blocks are left */
	ilog_head(l, &off, &seq);
	assert_int_equal(off, 3 * IO_ALIGN);
	assert_int_equal(seq, 13); /* the filler took one */
	assert_int_equal(commit_size(l, IO_ALIGN), 0);
	ilog_close(l);
	assert_int_equal(replay_count(sim, 1, start, 10, &n, &off, &seq), 0);
	assert_int_equal(n, 3);
	assert_int_equal(off, 4 * IO_ALIGN);
	assert_int_equal(seq, 14);
}

static void test_a_batch_may_end_with_the_ring(void **state)
{
	CLEANUP(iosim_freep) struct iosim *sim = sim_with_log(1);
	struct ilog *l = log_open(sim);
	const uint64_t start = RING - 3 * IO_ALIGN;
	uint64_t off, seq;
	unsigned n;

	ilog_start(l, 1, start, start, 10);
	assert_int_equal(commit_size(l, 3 * IO_ALIGN), 0);
	ilog_head(l, &off, &seq);
	assert_int_equal(off, 0);
	assert_int_equal(seq, 11);
	assert_int_equal(commit_size(l, IO_ALIGN), 0);
	ilog_close(l);
	assert_int_equal(replay_count(sim, 1, start, 10, &n, &off, &seq), 0);
	assert_int_equal(n, 2);
	assert_int_equal(off, IO_ALIGN);
}

/* A power cut between filler and batch, or within either, is the end of the log, not damage. */
static void test_a_power_cut_while_wrapping_is_not_damage(void **state)
{
	const uint64_t start = RING - 2 * IO_ALIGN;

	for (uint64_t step = 1; step <= 4; step++) {
		for (uint64_t seed = 0; seed < 20; seed++) {
			CLEANUP(iosim_freep) struct iosim *sim = sim_with_log(seed);
			struct ilog *l = log_open(sim);
			uint64_t off, seq;
			unsigned n;
			ilog_start(l, 1, start, start, 10);
			assert_int_equal(commit_size(l, IO_ALIGN), 0);
			iosim_crash_at(sim, iosim_steps(sim) + step);
			assert_int_equal(commit_size(l, 3 * IO_ALIGN), -EIO);
			ilog_close(l);
			iosim_crash(sim, IOSIM_RANDOM, seed);
			assert_int_equal(replay_count(sim, 1, start, 10, &n, &off, &seq), 0);
			assert_true(n == 1 || (n == 2 && step >= 3));
		}
	}
}

/* --- recovery --- */

static void test_batches_of_another_epoch_are_not_replayed(void **state)
{
	CLEANUP(iosim_freep) struct iosim *sim = sim_with_log(1);
	struct ilog *l = log_started(sim);
	uint64_t off, seq;
	unsigned n;

	for (int i = 0; i < 3; i++)
		assert_int_equal(commit_len(l, 4096), 0);
	ilog_start(l, 2, 0, 0, 1);
	assert_int_equal(commit_len(l, 4096), 0); /* the old second one is in its place */
	ilog_close(l);
	assert_int_equal(replay_count(sim, 2, 0, 1, &n, &off, &seq), 0);
	assert_int_equal(n, 1);
	assert_int_equal(replay_count(sim, 3, 0, 1, &n, &off, &seq), 0);
	assert_int_equal(n, 0);
}

/* A guest that knows the format, the epoch and the offset still lacks the key. */
static void test_forged_batches_are_not_replayed(void **state)
{
	CLEANUP(iosim_freep) struct iosim *sim = sim_with_log(1);
	struct ilog *l = log_started(sim);
	const struct ilog_record rec = {ILOG_DELETE, 1, 1, 0, 0, NULL};
	struct ilog_batch b = {1, 2, 8192, ILOG_RECORD_HEADER_LEN, 1, false};
	const uint8_t salt[ILOG_SALT_LEN] = {0};
	uint8_t block[IO_ALIGN] = {0};
	struct ilog_hasher hasher;
	struct io_file *f = NULL;
	uint64_t off, seq;
	unsigned n;

	assert_int_equal(commit_len(l, 4096), 0);
	ilog_close(l);
	ilog_hasher_init(&hasher, salt);
	ilog_record_encode(&rec, block + ILOG_BATCH_HEADER_LEN);
	assert_int_equal(io_open(iosim_io(sim), ILOG_NAME, IO_WRITE, &f), 0);
	for (; b.off < RING; b.off += IO_ALIGN) {
		b.seq = b.off == 8192 ? 2 : 3; /* as the next one, and as proof of damage */
		ilog_batch_seal(&hasher, &b, block);
		assert_int_equal(io_pwrite(f, block, IO_ALIGN, ILOG_HEADER_LEN + b.off), 0);
	}
	io_close(f);
	assert_int_equal(replay_count(sim, 1, 0, 1, &n, &off, &seq), 0);
	assert_int_equal(n, 1);
	assert_int_equal(off, 8192);
}

static void test_damage_before_the_last_batch_is_reported(void **state)
{
	/* in magic, checksums, each field, the record's header and its data */
	static const uint64_t at[] = {0, 8, 20, 30, 33, 41, 45, 49, 60, 64, 100, 110, 4199};

	for (uint64_t bad = 0; bad < 5; bad++) {
		for (unsigned i = 0; i < ARRAY_SIZE(at); i++) {
			CLEANUP(iosim_freep) struct iosim *sim = sim_with_log(bad);
			struct ilog *l = log_started(sim);
			uint64_t off, seq;
			unsigned n;
			for (int j = 0; j < 5; j++)
				assert_int_equal(commit_len(l, 4096), 0);
			ilog_close(l);
			const uint64_t pos = ILOG_HEADER_LEN + bad * 8192 + at[i];
			assert_int_equal(iosim_corrupt(sim, ILOG_NAME, pos, 1, i), 0);
			const int r = replay_count(sim, 1, 0, 1, &n, &off, &seq);
			assert_int_equal(n, bad); /* what came before is handed out */
			assert_int_equal(r, bad < 4 ? -EUCLEAN : 0); /* the last may be torn */
		}
	}
}

static void test_damage_names_its_place(void **state)
{
	CLEANUP(iosim_freep) struct iosim *sim = sim_with_log(1);
	struct ilog *l = log_started(sim);
	struct errmsg em = {0};
	uint64_t off, seq;
	unsigned n = 0;

	for (int i = 0; i < 30; i++)
		assert_int_equal(commit_len(l, 4096), 0);
	assert_int_equal(iosim_corrupt(sim, ILOG_NAME, ILOG_HEADER_LEN + 8192, 20 * 8192, 1), 0);
	assert_int_equal(ilog_replay(l, 1, 0, 1, count_record, &n, &off, &seq, &em), -EUCLEAN);
	assert_string_equal(em.text, "the intent log is damaged: batch 2 at offset 12288 is bad, "
	                             "but there is a later one at 176128");
	ilog_close(l);
}

static void test_damage_is_found_across_the_end_of_the_ring(void **state)
{
	CLEANUP(iosim_freep) struct iosim *sim = sim_with_log(1);
	struct ilog *l = log_open(sim);
	const uint64_t start = RING - 2 * IO_ALIGN;
	uint64_t off, seq;
	unsigned n;

	ilog_start(l, 1, start, start, 10);
	assert_int_equal(commit_size(l, IO_ALIGN), 0);
	assert_int_equal(commit_size(l, 2 * IO_ALIGN), 0);
	ilog_close(l);
	assert_int_equal(iosim_corrupt(sim, ILOG_NAME, ILOG_HEADER_LEN + RING - IO_ALIGN, 9, 1), 0);
	assert_int_equal(replay_count(sim, 1, start, 10, &n, &off, &seq), -EUCLEAN);
	assert_int_equal(n, 1);
}

static void test_unreadable_batches_fail_the_replay(void **state)
{
	CLEANUP(iosim_freep) struct iosim *sim = sim_with_log(1);
	struct ilog *l = log_started(sim);
	struct errmsg em = {0};
	uint64_t off = 77, seq = 77;
	unsigned n = 0;

	assert_int_equal(commit_len(l, 4096), 0);
	iosim_fail_read(sim, "log", 0);
	assert_int_equal(ilog_replay(l, 1, 0, 1, count_record, &n, &off, &seq, &em), -EIO);
	assert_non_null(strstr(em.text, "cannot read the intent log at offset 4096"));
	assert_int_equal(n, 0);
	assert_int_equal(off, 77); /* untouched */
	ilog_close(l);
}

/* Reading ahead of what is needed may fail without harm. */
static void test_a_failed_read_ahead_does_not_matter(void **state)
{
	CLEANUP(iosim_freep) struct iosim *sim = sim_with_log(1);
	struct ilog *l = log_started(sim);
	uint64_t off, seq;
	unsigned n = 0;

	assert_int_equal(commit_len(l, 4096), 0);
	iosim_fault(sim, &(struct iosim_fault){"log", IOSIM_READ, .count = 1, .err = -EIO});
	assert_int_equal(ilog_replay(l, 1, 0, 1, count_record, &n, &off, &seq, NULL), 0);
	assert_int_equal(n, 1);
	ilog_close(l);
}

static void test_a_tail_that_cannot_be_is_refused(void **state)
{
	CLEANUP(iosim_freep) struct iosim *sim = sim_with_log(1);
	uint64_t off, seq;
	unsigned n;

	assert_int_equal(replay_count(sim, 1, RING, 1, &n, &off, &seq), -EUCLEAN);
	assert_int_equal(replay_count(sim, 1, 512, 1, &n, &off, &seq), -EUCLEAN);
}

static void test_the_callers_error_ends_the_replay(void **state)
{
	CLEANUP(iosim_freep) struct iosim *sim = sim_with_log(1);
	struct ilog *l = log_started(sim);
	struct expect e = {.next = 1, .stop_at = 3};
	uint64_t off = 77, seq = 77;

	for (uint64_t id = 1; id < 6; id++)
		commit_id(l, id);
	assert_int_equal(ilog_replay(l, 1, 0, 1, expect_record, &e, &off, &seq, NULL), -ENODATA);
	assert_int_equal(e.next, 3);
	assert_int_equal(off, 77);
	ilog_close(l);
}

/* --- failures --- */

static void test_a_failed_write_or_sync_poisons_until_reset(void **state)
{
	for (unsigned op = IOSIM_WRITE; op <= IOSIM_SYNC; op <<= 1) {
		CLEANUP(iosim_freep) struct iosim *sim = sim_with_log(op);
		struct ilog *l = log_started(sim);
		uint64_t off, seq;
		unsigned n;
		assert_int_equal(commit_len(l, 4096), 0);
		assert_false(ilog_poisoned(l));
		iosim_fault(sim, &(struct iosim_fault){"log", op, .count = 1, .err = -ENOSPC});
		assert_int_equal(commit_len(l, 4096), -EIO);
		assert_true(ilog_poisoned(l));
		const uint64_t steps = iosim_steps(sim);
		assert_int_equal(commit_len(l, 4096), -EIO); /* though the disk works again */
		assert_int_equal(iosim_steps(sim), steps);
		assert_int_equal(ilog_reset(l, 2), 0);
		assert_false(ilog_poisoned(l));
		ilog_head(l, &off, &seq);
		assert_int_equal(off, 0);
		const uint64_t seq0 = seq;
		for (int i = 0; i < 3; i++)
			assert_int_equal(commit_len(l, 4096), 0);
		ilog_close(l);
		iosim_crash(sim, IOSIM_LOSE, 0);
		assert_int_equal(replay_count(sim, 2, 0, seq0, &n, &off, &seq), 0);
		assert_int_equal(n, 3);
	}
}

static void test_a_failed_reset_stays_poisoned_and_can_be_repeated(void **state)
{
	for (uint64_t skip = 0; skip < 30; skip++) {
		CLEANUP(iosim_freep) struct iosim *sim = sim_with_log(skip);
		struct ilog *l = log_started(sim);
		iosim_fail_sync(sim, "log", 0, 1);
		assert_int_equal(commit_len(l, 4096), -EIO);
		iosim_faults_clear(sim);
		iosim_fault(sim, &(struct iosim_fault){.skip = skip, .count = 1, .err = -EIO});
		const uint64_t fired = iosim_faults_fired(sim);
		const int r = ilog_reset(l, 2);
		/* it may have hit only the clean-up of what is not there */
		assert_int_equal(r, iosim_faults_fired(sim) > fired ? -EIO : 0);
		assert_int_equal(ilog_poisoned(l), r < 0);
		if (r < 0) {
			assert_int_equal(ilog_reset(l, 2), 0);
		}
		iosim_faults_clear(sim);
		assert_int_equal(commit_len(l, 4096), 0);
		ilog_close(l);
		iosim_crash(sim, IOSIM_LOSE, 0);
		ilog_close(log_open(sim));
		assert_int_equal(iosim_used(sim), LOG_BYTES); /* no second file is left */
	}
}

static void test_a_power_cut_at_any_step_of_a_reset_leaves_a_log(void **state)
{
	for (uint64_t step = 1; step < 30; step++) {
		CLEANUP(iosim_freep) struct iosim *sim = sim_with_log(step);
		struct ilog *l = log_started(sim);
		uint64_t off, seq;
		unsigned n;
		assert_int_equal(commit_len(l, 4096), 0);
		iosim_crash_at(sim, iosim_steps(sim) + step);
		const int r = ilog_reset(l, 2);
		assert_int_equal(r, iosim_is_off(sim) ? -EIO : 0);
		ilog_close(l);
		iosim_crash(sim, IOSIM_RANDOM, step);
		assert_int_equal(replay_count(sim, 1, 0, 1, &n, &off, &seq), 0);
		assert_int_equal(n, r == 0 ? 0 : n); /* replayed or not: it was committed */
		ilog_close(log_open(sim));
	}
}

/* --- everything at random, against a model --- */

struct model {
	struct iosim *sim;
	struct ilog *log;
	struct rng rng;
	/* what the metadata store would hold */
	uint64_t epoch, tail_off, tail_seq, tail_id;
	/* of the running process */
	uint64_t acked_id;   /* first id that is not durable for sure */
	uint64_t written_id; /* first id that was never handed to a commit */
	struct mark {
		uint64_t off, seq, id;
	} marks[64]; /* heads that the tail may move to */
	unsigned n_marks;
};

static void model_mark(struct model *m)
{
	struct mark k = {.id = m->acked_id};

	ilog_head(m->log, &k.off, &k.seq);
	m->marks[m->n_marks < ARRAY_SIZE(m->marks) ? m->n_marks++ : m->n_marks - 1] = k;
}

/* The metadata store commits a tail; then the log hears of it, unless the process dies first. */
static void model_trim(struct model *m)
{
	if (m->n_marks == 0)
		return;
	const unsigned i = (unsigned)rng_below(&m->rng, m->n_marks);
	const struct mark k = m->marks[i];
	m->n_marks -= i + 1;
	memmove(m->marks, m->marks + i + 1, m->n_marks * sizeof(k));
	m->tail_off = k.off;
	m->tail_seq = k.seq;
	m->tail_id = k.id;
	ilog_trim(m->log, k.off);
}

static void model_commit(struct model *m)
{
	uint64_t id = m->acked_id;
	const uint64_t want = 1 + rng_below(&m->rng, 12);

	ilog_batch_begin(m->log);
	while (id < m->acked_id + want) {
		const struct ilog_record rec = record_of(id);
		if (ilog_batch_add(m->log, &rec) < 0)
			break;
		id++;
	}
	if (id == m->acked_id) { /* full: the store would commit a group */
		m->n_marks = 0;
		model_mark(m);
		model_trim(m);
		return;
	}
	m->written_id = id;
	if (ilog_commit(m->log) == 0)
		m->acked_id = id;
	else
		assert_true(ilog_poisoned(m->log));
	if (rng_chance(&m->rng, 300) && !ilog_poisoned(m->log))
		model_mark(m);
}

static void model_reopen(struct model *m)
{
	struct expect e = {.next = m->tail_id, .committed = m->tail_id};
	uint64_t off = 0, seq = 0;
	struct errmsg em = {0};

	ilog_close(m->log);
	iosim_faults_clear(m->sim);
	const enum iosim_crash_mode mode = (enum iosim_crash_mode)rng_below(&m->rng, 3);
	iosim_crash(m->sim, mode, rng_next(&m->rng));
	m->log = log_open(m->sim);
	if (ilog_replay(m->log, m->epoch, m->tail_off, m->tail_seq, expect_record, &e, &off, &seq,
	            &em) != 0)
		fail_msg("%s", em.text);
	/* a batch under way is there as a whole or not at all */
	assert_true(e.next == m->acked_id || e.next == m->written_id);
	m->n_marks = 0;
	/*
	 * Before the metadata store has committed what was recovered, another crash may lose the
	 * batch that was under way: after a kill -9 it may have been in the page cache only.
	 */
	if (rng_chance(&m->rng, 300)) {
		model_reopen(m);
		return;
	}
	m->acked_id = m->written_id = e.next;
	/* the commit after recovery: a new epoch, everything replayed is committed */
	m->epoch++;
	m->tail_off = off;
	m->tail_seq = seq;
	m->tail_id = e.next;
	ilog_start(m->log, m->epoch, off, off, seq);
}

/* Everything goes into a group instead, then the log is replaced. */
static void model_reset(struct model *m)
{
	ilog_head(m->log, &m->tail_off, &m->tail_seq);
	m->tail_id = m->acked_id = m->written_id;
	m->n_marks = 0;
	const int r = ilog_reset(m->log, m->epoch + 1);
	assert_int_equal(r, iosim_is_off(m->sim) ? -EIO : 0);
	if (r < 0 || rng_chance(&m->rng, 300)) {
		model_reopen(m); /* before the metadata store has the new epoch */
		return;
	}
	m->epoch++;
	ilog_head(m->log, &m->tail_off, &m->tail_seq);
}

static void model_run(uint64_t seed, unsigned rounds)
{
	CLEANUP(iosim_freep) struct iosim *sim = sim_with_log(seed);
	struct model m = {.sim = sim, .rng = rng_fork(seed, 9), .epoch = 1, .tail_seq = 1};
	uint64_t laps = 0;

	m.tail_id = m.acked_id = m.written_id = 1;
	m.log = log_started(sim);
	for (unsigned i = 0; i < rounds; i++) {
		const uint64_t off = head_off(m.log);
		if (rng_chance(&m.rng, 20))
			iosim_crash_at(sim, iosim_steps(sim) + 1 + rng_below(&m.rng, 8));
		if (rng_chance(&m.rng, 10))
			iosim_fault(sim, &(struct iosim_fault){"log", .count = 1, .err = -EIO});
		model_commit(&m);
		if (rng_chance(&m.rng, 150) && !ilog_poisoned(m.log))
			model_trim(&m);
		laps += head_off(m.log) < off;
		if (iosim_is_off(sim) || rng_chance(&m.rng, 10))
			model_reopen(&m);
		else if (ilog_poisoned(m.log) && rng_chance(&m.rng, 700))
			model_reset(&m);
		else if (ilog_poisoned(m.log))
			model_reopen(&m);
	}
	model_reopen(&m);
	assert_true(laps > 2);
	ilog_close(m.log);
}

/* The thread sanitizer makes them ten times slower, and has nothing to find there. */
#ifdef __SANITIZE_THREAD__
#define MODEL_RUNS 1
#else
#define MODEL_RUNS 4
#endif

static void test_random_workloads_with_crashes_match_the_model(void **state)
{
	const char *env = getenv("SEED");
	const uint64_t seed = env ? strtoull(env, NULL, 0) : (uint64_t)getpid() << 8;

	for (uint64_t i = 0; i < (env ? 1 : MODEL_RUNS); i++) {
		print_message("SEED=%" PRIu64 "\n", seed + i);
		model_run(seed + i, 250);
	}
}

/* --- threads --- */

struct trimmer {
	struct ilog *log;
	_Atomic bool stop;
};

static void *trim_thread(void *arg)
{
	struct trimmer *t = arg;
	uint64_t off, seq, bytes, used;

	while (!t->stop) {
		ilog_head(t->log, &off, &seq);
		ilog_trim(t->log, off);
		ilog_space(t->log, &bytes, &used);
		usleep(100);
	}
	return NULL;
}

static void test_trimming_while_committing_is_safe(void **state)
{
	CLEANUP(iosim_freep) struct iosim *sim = sim_with_log(1);
	struct trimmer t = {.log = log_started(sim)};
	pthread_t th;
	unsigned done = 0;

	assert_int_equal(pthread_create(&th, NULL, trim_thread, &t), 0);
	while (done < 300) {
		const int r = commit_len(t.log, 200000);
		assert_true(r == 0 || r == -ENOSPC);
		done += r == 0;
	}
	t.stop = true;
	pthread_join(th, NULL);
	ilog_close(t.log);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_a_new_log_is_durable_empty_and_of_its_size),
	        cmocka_unit_test(test_sizes_outside_the_limits_are_refused),
	        cmocka_unit_test(test_a_failed_creation_leaves_no_file),
	        cmocka_unit_test(test_what_is_not_this_datastores_log_is_refused),
	        cmocka_unit_test(test_a_read_only_log_writes_nothing),
	        cmocka_unit_test(test_a_commit_costs_one_write_and_one_sync),
	        cmocka_unit_test(test_batch_bytes_tells_what_commit_writes),
	        cmocka_unit_test(test_reserved_room_stays_where_it_is),
	        cmocka_unit_test(test_a_full_ring_says_enospc_and_a_trim_helps),
	        cmocka_unit_test(test_the_largest_batch_fits_wherever_an_empty_ring_stands),
	        cmocka_unit_test(test_a_refused_record_leaves_the_batch_good),
	        cmocka_unit_test(test_batches_wrap_whole_behind_a_filler),
	        cmocka_unit_test(test_a_batch_may_end_with_the_ring),
	        cmocka_unit_test(test_a_power_cut_while_wrapping_is_not_damage),
	        cmocka_unit_test(test_batches_of_another_epoch_are_not_replayed),
	        cmocka_unit_test(test_forged_batches_are_not_replayed),
	        cmocka_unit_test(test_damage_before_the_last_batch_is_reported),
	        cmocka_unit_test(test_damage_names_its_place),
	        cmocka_unit_test(test_damage_is_found_across_the_end_of_the_ring),
	        cmocka_unit_test(test_unreadable_batches_fail_the_replay),
	        cmocka_unit_test(test_a_failed_read_ahead_does_not_matter),
	        cmocka_unit_test(test_a_tail_that_cannot_be_is_refused),
	        cmocka_unit_test(test_the_callers_error_ends_the_replay),
	        cmocka_unit_test(test_a_failed_write_or_sync_poisons_until_reset),
	        cmocka_unit_test(test_a_failed_reset_stays_poisoned_and_can_be_repeated),
	        cmocka_unit_test(test_a_power_cut_at_any_step_of_a_reset_leaves_a_log),
	        cmocka_unit_test(test_random_workloads_with_crashes_match_the_model),
	        cmocka_unit_test(test_trimming_while_committing_is_safe),
	};

	return cmocka_run_group_tests(tests, template_create, template_free);
}

/*
 * test-ilog.c - the intent log is created, filled, wrapped and trimmed as it should be
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "ilog-fixture.h"

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
	        cmocka_unit_test(test_trimming_while_committing_is_safe),
	};

	return cmocka_run_group_tests(tests, template_create, template_free);
}

/*
 * test-ilog-recovery.c - what was committed to the intent log is replayed, and damage is found
 *
 * Then failed writes and syncs, and the reset that a log recovers from them by.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "ilog-fixture.h"

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

int main(void)
{
	const struct CMUnitTest tests[] = {
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
	};

	return cmocka_run_group_tests(tests, template_create, template_free);
}

/*
 * test-iosim.c - the simulated disk loses what it must, keeps what it must, and is otherwise a disk
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/io.h"
#include "sim/iosim.h"
#include "sim/rng.h"

#define SEEDS 400

static void write_str(struct io_file *f, const char *s, uint64_t off)
{
	assert_int_equal(io_pwrite(f, s, strlen(s), off), 0);
}

/* The file's content as a string, "-" when there is no file. */
static const char *content(struct iosim *sim, const char *name)
{
	static char buf[64];
	struct io_file *f = NULL;
	size_t n = 0;

	if (io_open(iosim_io(sim), name, IO_READ, &f) < 0)
		return "-";
	assert_int_equal(io_pread(f, buf, sizeof(buf) - 1, 0, &n), 0);
	buf[n] = 0;
	io_close(f);
	return buf;
}

/* A durable file, open for writing. */
static struct io_file *durable_file(struct iosim *sim, const char *name, const char *s)
{
	struct io_file *f = NULL;

	assert_int_equal(io_open(iosim_io(sim), name, IO_WRITE | IO_CREATE, &f), 0);
	write_str(f, s, 0);
	assert_int_equal(io_sync(f), 0);
	assert_int_equal(io_sync_dir(iosim_io(sim), ""), 0);
	return f;
}

static void test_unsynced_data_is_lost_and_synced_data_kept(void **state)
{
	CLEANUP(iosim_freep) struct iosim *sim = NULL;
	iosim_create(1, &sim);
	struct io_file *f = durable_file(sim, "a", "old-old");

	write_str(f, "new", 0);
	assert_string_equal(content(sim, "a"), "new-old");
	io_close(f);
	iosim_crash(sim, IOSIM_LOSE, 1);
	assert_string_equal(content(sim, "a"), "old-old");
}

static void test_truncate_and_punch_are_pending_until_sync(void **state)
{
	CLEANUP(iosim_freep) struct iosim *sim = NULL;
	iosim_create(1, &sim);
	struct io_file *f = durable_file(sim, "a", "0123456789");

	assert_int_equal(io_truncate(f, 4), 0);
	assert_int_equal(io_punch(f, 1, 2), 0);
	io_close(f);
	iosim_crash(sim, IOSIM_LOSE, 1);
	assert_string_equal(content(sim, "a"), "0123456789");
	assert_int_equal(io_open(iosim_io(sim), "a", IO_WRITE, &f), 0);
	assert_int_equal(io_truncate(f, 4), 0);
	assert_int_equal(io_truncate(f, 6), 0); /* what was cut off does not come back */
	assert_int_equal(io_punch(f, 0, 1), 0);
	assert_int_equal(io_sync(f), 0);
	io_close(f);
	iosim_crash(sim, IOSIM_LOSE, 1);
	char buf[8];
	size_t n = 0;
	assert_int_equal(io_open(iosim_io(sim), "a", IO_READ, &f), 0);
	assert_int_equal(io_pread(f, buf, sizeof(buf), 0, &n), 0);
	assert_int_equal(n, 6);
	assert_memory_equal(buf,
	        "\0"
	        "123\0\0",
	        6);
	io_close(f);
}

static void test_a_name_is_lost_without_sync_dir(void **state)
{
	CLEANUP(iosim_freep) struct iosim *sim = NULL;
	iosim_create(1, &sim);
	struct io *io = iosim_io(sim);
	struct io_file *f = NULL;

	assert_int_equal(io_mkdir(io, "d"), 0);
	assert_int_equal(io_open(io, "d/a", IO_WRITE | IO_CREATE, &f), 0);
	write_str(f, "x", 0);
	assert_int_equal(io_sync(f), 0);
	io_close(f);
	assert_int_equal(io_sync_dir(io, "d"), 0); /* but not the name of d itself */
	struct iosim *clone = NULL;
	iosim_clone(sim, &clone);
	iosim_crash(sim, IOSIM_LOSE, 1);
	assert_string_equal(content(sim, "d/a"), "-");
	assert_int_equal(io_sync_dir(iosim_io(clone), ""), 0);
	iosim_crash(clone, IOSIM_LOSE, 1);
	assert_string_equal(content(clone, "d/a"), "x");
	iosim_free(clone);
}

static void test_an_unlink_without_sync_dir_comes_back(void **state)
{
	CLEANUP(iosim_freep) struct iosim *sim = NULL;
	iosim_create(1, &sim);
	io_close(durable_file(sim, "a", "x"));
	assert_int_equal(io_unlink(iosim_io(sim), "a"), 0);
	assert_string_equal(content(sim, "a"), "-");
	iosim_crash(sim, IOSIM_LOSE, 1);
	assert_string_equal(content(sim, "a"), "x");
	assert_int_equal(io_unlink(iosim_io(sim), "a"), 0);
	assert_int_equal(io_sync_dir(iosim_io(sim), ""), 0);
	iosim_crash(sim, IOSIM_LOSE, 1);
	assert_string_equal(content(sim, "a"), "-");
}

static void test_a_rename_is_old_or_new_never_neither(void **state)
{
	CLEANUP(iosim_freep) struct iosim *sim = NULL;
	iosim_create(1, &sim);
	io_close(durable_file(sim, "a", "old"));
	io_close(durable_file(sim, "a.new", "new"));
	assert_int_equal(io_rename(iosim_io(sim), "a.new", "a"), 0);
	unsigned n_old = 0, n_new = 0;

	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		CLEANUP(iosim_freep) struct iosim *c = NULL;
		iosim_clone(sim, &c);
		iosim_crash(c, IOSIM_RANDOM, seed);
		const bool is_new = !strcmp(content(c, "a"), "new");
		assert_string_equal(content(c, "a"), is_new ? "new" : "old");
		assert_string_equal(content(c, "a.new"), is_new ? "-" : "new");
		n_old += !is_new;
		n_new += is_new;
	}
	assert_true(n_old > SEEDS / 10 && n_new > SEEDS / 10);
}

static void test_a_rename_across_directories_happens_as_a_whole(void **state)
{
	CLEANUP(iosim_freep) struct iosim *sim = NULL;
	iosim_create(1, &sim);
	struct io *io = iosim_io(sim);

	assert_int_equal(io_mkdir(io, "d"), 0);
	io_close(durable_file(sim, "a", "x"));
	assert_int_equal(io_rename(io, "a", "d/a"), 0);
	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		CLEANUP(iosim_freep) struct iosim *c = NULL;
		iosim_clone(sim, &c);
		iosim_crash(c, IOSIM_RANDOM, seed);
		const bool at_old = !strcmp(content(c, "a"), "x");
		const bool at_new = !strcmp(content(c, "d/a"), "x");
		assert_true(at_old != at_new);
	}
	assert_int_equal(io_sync_dir(io, "d"), 0); /* either directory will do */
	iosim_crash(sim, IOSIM_LOSE, 1);
	assert_string_equal(content(sim, "a"), "-");
	assert_string_equal(content(sim, "d/a"), "x");
}

static void test_names_survive_in_part_but_never_out_of_order(void **state)
{
	CLEANUP(iosim_freep) struct iosim *sim = NULL;
	iosim_create(1, &sim);
	struct io *io = iosim_io(sim);
	unsigned seen[8] = {0};

	for (const char *const *p = (const char *const[]){"a", "b", "c", NULL}; *p; p++) {
		struct io_file *f = NULL;
		assert_int_equal(io_open(io, *p, IO_WRITE | IO_CREATE, &f), 0);
		io_close(f);
	}
	assert_int_equal(io_rename(io, "a", "a2"), 0);
	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		CLEANUP(iosim_freep) struct iosim *c = NULL;
		iosim_clone(sim, &c);
		iosim_crash(c, IOSIM_RANDOM, seed);
		const bool a = *content(c, "a") != '-', a2 = *content(c, "a2") != '-';
		assert_false(a && a2);
		seen[(a || a2) | (*content(c, "b") != '-') << 1 | (*content(c, "c") != '-') << 2]++;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(seen); i++)
		assert_true(seen[i] > 0);
}

static void test_kill_keeps_the_page_cache_but_not_durability(void **state)
{
	CLEANUP(iosim_freep) struct iosim *sim = NULL;
	iosim_create(1, &sim);
	struct io_file *f = durable_file(sim, "a", "old");

	write_str(f, "new", 0);
	iosim_crash(sim, IOSIM_KEEP, 1);
	assert_int_equal(io_sync(f), -EIO); /* the process that had it open is dead */
	io_close(f);
	assert_string_equal(content(sim, "a"), "new");
	iosim_crash(sim, IOSIM_LOSE, 1);
	assert_string_equal(content(sim, "a"), "old");
}

/* Writes are lost, kept, torn within, and overtake each other, all of it, over many seeds. */
static void test_pending_writes_tear_and_reorder(void **state)
{
	CLEANUP(iosim_freep) struct iosim *sim = NULL;
	iosim_create(1, &sim);
	struct io_file *f = NULL;
	static uint8_t buf[8192], old[8192];

	memset(old, 'o', sizeof(old));
	assert_int_equal(io_open(iosim_io(sim), "a", IO_WRITE | IO_CREATE, &f), 0);
	assert_int_equal(io_pwrite(f, old, sizeof(old), 0), 0);
	assert_int_equal(io_sync(f), 0);
	assert_int_equal(io_sync_dir(iosim_io(sim), ""), 0);
	memset(buf, '1', sizeof(buf));
	assert_int_equal(io_pwrite(f, buf, sizeof(buf), 0), 0);
	memset(buf, '2', sizeof(buf));
	assert_int_equal(io_pwrite(f, buf, sizeof(buf), 0), 0);
	io_close(f);
	unsigned whole_old = 0, whole_1 = 0, whole_2 = 0, torn = 0, torn_within_sector = 0;
	unsigned one_over_two = 0;
	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		CLEANUP(iosim_freep) struct iosim *c = NULL;
		iosim_clone(sim, &c);
		iosim_crash(c, IOSIM_RANDOM, seed);
		assert_int_equal(io_open(iosim_io(c), "a", IO_READ, &f), 0);
		assert_int_equal(io_pread_exact(f, buf, sizeof(buf), 0), 0);
		io_close(f);
		bool mixed = false, within = false, has[256] = {false};
		for (size_t i = 0; i < sizeof(buf); i++) {
			has[buf[i]] = true;
			mixed |= buf[i] != buf[0];
			within |= i % 512 && buf[i] != buf[i - 1];
		}
		whole_old += !mixed && has['o'];
		whole_1 += !mixed && has['1'];
		whole_2 += !mixed && has['2'];
		torn += mixed;
		torn_within_sector += within;
		one_over_two += has['1'] && has['2'];
	}
	assert_true(whole_old > 10 && whole_1 > 10 && whole_2 > 10 && torn > 10);
	assert_true(torn_within_sector > 0 && torn_within_sector < torn);
	assert_true(one_over_two > 0);
}

/* Within a sector nothing tears but to a prefix: 1 over 2's first byte, beside its last, is order.
 */
static void test_a_later_write_may_reach_the_disk_first(void **state)
{
	CLEANUP(iosim_freep) struct iosim *sim = NULL;
	iosim_create(1, &sim);
	struct io_file *f = durable_file(sim, "a", "...");
	unsigned reordered = 0;

	write_str(f, "11", 0);
	write_str(f, "22", 1);
	io_close(f);
	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		CLEANUP(iosim_freep) struct iosim *c = NULL;
		iosim_clone(sim, &c);
		iosim_crash(c, IOSIM_RANDOM, seed);
		reordered += !strcmp(content(c, "a"), "112");
	}
	assert_true(reordered > 10);
}

static void test_synced_data_survives_every_crash(void **state)
{
	CLEANUP(iosim_freep) struct iosim *sim = NULL;
	iosim_create(1, &sim);
	struct io_file *f = durable_file(sim, "a", "one...");

	write_str(f, "two", 0);
	assert_int_equal(io_sync(f), 0);
	write_str(f, "new", 3);
	io_close(f);
	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		CLEANUP(iosim_freep) struct iosim *c = NULL;
		iosim_clone(sim, &c);
		iosim_crash(c, IOSIM_RANDOM, seed);
		assert_memory_equal(content(c, "a"), "two", 3);
	}
}

/* A new file takes a name over only if the old one's rename came through. */
static void test_no_name_is_taken_before_it_is_given_up(void **state)
{
	CLEANUP(iosim_freep) struct iosim *sim = NULL;
	iosim_create(1, &sim);
	struct io_file *f = NULL;

	io_close(durable_file(sim, "x", "old"));
	assert_int_equal(io_rename(iosim_io(sim), "x", "y"), 0);
	assert_int_equal(io_open(iosim_io(sim), "x", IO_WRITE | IO_CREATE | IO_EXCL, &f), 0);
	io_close(f);
	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		CLEANUP(iosim_freep) struct iosim *c = NULL;
		iosim_clone(sim, &c);
		iosim_crash(c, IOSIM_RANDOM, seed);
		const bool at_x = !strcmp(content(c, "x"), "old");
		assert_true(at_x != !strcmp(content(c, "y"), "old"));
	}
}

static void test_sync_dir_takes_along_what_a_rename_depends_on(void **state)
{
	CLEANUP(iosim_freep) struct iosim *sim = NULL;
	iosim_create(1, &sim);
	struct io *io = iosim_io(sim);
	struct io_file *f = NULL;

	assert_int_equal(io_mkdir(io, "d"), 0);
	assert_int_equal(io_sync_dir(io, ""), 0);
	assert_int_equal(io_open(io, "a", IO_WRITE | IO_CREATE, &f), 0);
	io_close(f);
	assert_int_equal(io_rename(io, "a", "d/a"), 0);
	assert_int_equal(io_sync_dir(io, "d"), 0);
	assert_int_equal(io_sync_dir(io, ""), 0); /* must not bring the creation of a back */
	iosim_crash(sim, IOSIM_LOSE, 0);
	assert_string_equal(content(sim, "a"), "-");
	assert_string_equal(content(sim, "d/a"), "");
}

static void test_a_lost_extension_may_leave_zeros(void **state)
{
	CLEANUP(iosim_freep) struct iosim *sim = NULL;
	iosim_create(1, &sim);
	struct io_file *f = durable_file(sim, "a", "");
	unsigned zeros = 0;
	char big[600];

	memset(big, 'x', sizeof(big));
	assert_int_equal(io_pwrite(f, big, sizeof(big), 0), 0);
	io_close(f);
	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		CLEANUP(iosim_freep) struct iosim *c = NULL;
		uint64_t size = 0;
		iosim_clone(sim, &c);
		iosim_crash(c, IOSIM_RANDOM, seed);
		assert_int_equal(io_open(iosim_io(c), "a", IO_READ, &f), 0);
		assert_int_equal(io_size(f, &size), 0);
		io_close(f);
		zeros += size == sizeof(big) && *content(c, "a") == 0;
	}
	assert_true(zeros > 0);
}

static void test_crashes_repeat_from_their_seed(void **state)
{
	CLEANUP(iosim_freep) struct iosim *sim = NULL;
	iosim_create(1, &sim);
	struct io_file *f = durable_file(sim, "a", "");
	char text[2][64];

	for (int i = 0; i < 20; i++)
		write_str(f, (char[]){(char)('a' + i), (char)('a' + i), 0}, (uint64_t)i);
	io_close(f);
	for (uint64_t seed = 0; seed < 50; seed++) {
		for (int i = 0; i < 2; i++) {
			CLEANUP(iosim_freep) struct iosim *c = NULL;
			iosim_clone(sim, &c);
			iosim_crash(c, IOSIM_RANDOM, seed);
			uint64_t size = 0;
			memset(text[i], 0, sizeof(text[i]));
			assert_int_equal(io_open(iosim_io(c), "a", IO_READ, &f), 0);
			assert_int_equal(io_size(f, &size), 0);
			assert_int_equal(io_pread_exact(f, text[i], size, 0), 0);
			io_close(f);
		}
		assert_memory_equal(text[0], text[1], sizeof(text[0]));
	}
}

/* The power goes at each step in turn: every call from then on fails, nothing more gets durable. */
static void test_power_goes_at_the_step_asked_for(void **state)
{
	for (uint64_t step = 1; step <= 5; step++) {
		CLEANUP(iosim_freep) struct iosim *sim = NULL;
		iosim_create(step, &sim);
		struct io_file *f = durable_file(sim, "a", "one"); /* 4 steps */
		const uint64_t base = iosim_steps(sim);
		char c;
		size_t n;

		assert_int_equal(base, 4);
		iosim_crash_at(sim, base + step);
		const int r[] = {io_pwrite(f, "two", 3, 0), io_sync(f), io_pwrite(f, "3", 1, 0),
		        io_unlink(iosim_io(sim), "a")};
		for (uint64_t i = 0; i < ARRAY_SIZE(r); i++)
			assert_int_equal(r[i], i + 1 >= step ? -EIO : 0);
		assert_int_equal(iosim_is_off(sim), step <= 4);
		assert_int_equal(io_pread(f, &c, 1, 0, &n), step <= 4 ? -EIO : 0);
		io_close(f);
		iosim_crash(sim, IOSIM_LOSE, 0);
		assert_string_equal(content(sim, "a"), step <= 2 ? "one" : "two");
	}
}

static void test_what_the_fatal_step_wanted_may_survive(void **state)
{
	unsigned survived = 0;

	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		CLEANUP(iosim_freep) struct iosim *sim = NULL;
		iosim_create(seed, &sim);
		struct io_file *f = durable_file(sim, "a", "one");
		iosim_crash_at(sim, iosim_steps(sim) + 2);
		write_str(f, "two", 0);
		assert_int_equal(io_sync(f), -EIO);
		io_close(f);
		iosim_crash(sim, IOSIM_RANDOM, seed);
		survived += !strcmp(content(sim, "a"), "two");
	}
	assert_true(survived > 10 && survived < SEEDS - 10);
}

/* As on Linux: the second fsync says 0, and the data is gone all the same. */
static void test_a_failed_sync_loses_data_that_reads_still_show(void **state)
{
	unsigned lost = 0, kept = 0;

	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		CLEANUP(iosim_freep) struct iosim *sim = NULL;
		iosim_create(seed, &sim);
		struct io_file *f = durable_file(sim, "a", "old");
		iosim_fail_sync(sim, "a", 0, 1);
		write_str(f, "new", 0);
		assert_int_equal(io_sync(f), -EIO);
		assert_string_equal(content(sim, "a"), "new");
		assert_int_equal(io_sync(f), 0);
		io_close(f);
		iosim_drop_caches(sim);
		char after[64];
		strcpy(after, content(sim, "a"));
		iosim_crash(sim, IOSIM_LOSE, 0);
		assert_string_equal(content(sim, "a"), after);
		lost += !strcmp(after, "old");
		kept += !strcmp(after, "new");
	}
	assert_true(lost > 10 && kept > 10);
}

static void test_a_failed_write_may_be_partly_done(void **state)
{
	unsigned none = 0, part = 0, all = 0;

	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		CLEANUP(iosim_freep) struct iosim *sim = NULL;
		iosim_create(seed, &sim);
		struct io_file *f = durable_file(sim, "a", "....");
		iosim_fail_at(sim, iosim_steps(sim) + 1, 1, -EIO);
		assert_int_equal(io_pwrite(f, "1234", 4, 0), -EIO);
		const char *s = content(sim, "a");
		none += !strcmp(s, "....");
		all += !strcmp(s, "1234");
		part += !strcmp(s, "12..");
		write_str(f, "5678", 0);
		io_close(f);
		assert_string_equal(content(sim, "a"), "5678");
	}
	assert_true(none > 10 && part > 10 && all > 10);
}

static void test_faults_hit_only_what_they_name(void **state)
{
	CLEANUP(iosim_freep) struct iosim *sim = NULL;
	iosim_create(1, &sim);
	struct io_file *a = durable_file(sim, "log", "x"), *b = durable_file(sim, "meta.db", "y");
	char c;
	size_t n;

	iosim_fault(sim,
	        &(struct iosim_fault){"log", IOSIM_WRITE, .skip = 1, .count = 2, .err = -ENOSPC});
	iosim_fail_read(sim, "meta", 0);
	assert_int_equal(io_pread(a, &c, 1, 0, &n), 0);
	assert_int_equal(io_pread(b, &c, 1, 0, &n), -EIO);
	write_str(b, "z", 0);
	write_str(a, "z", 0);
	assert_int_equal(io_pwrite(a, "z", 1, 0), -ENOSPC);
	assert_int_equal(io_sync(a), 0);
	assert_int_equal(io_pwrite(a, "z", 1, 0), -ENOSPC);
	write_str(a, "z", 0);
	assert_int_equal(iosim_faults_fired(sim), 3);
	iosim_faults_clear(sim);
	assert_int_equal(io_pread(b, &c, 1, 0, &n), 0);
	iosim_fault(sim, &(struct iosim_fault){"new", IOSIM_RENAME, .err = -EIO});
	assert_int_equal(io_rename(iosim_io(sim), "log", "new"), -EIO);
	assert_int_equal(io_rename(iosim_io(sim), "log", "other"), 0);
	io_close(a);
	io_close(b);
}

static void test_a_full_disk_refuses_growth_only(void **state)
{
	CLEANUP(iosim_freep) struct iosim *sim = NULL;
	iosim_create(1, &sim);
	static uint8_t buf[5 * 4096];
	struct io_file *f = durable_file(sim, "a", "");
	struct io_space sp;
	uint64_t size = 0;

	memset(buf, 1, sizeof(buf));
	iosim_set_capacity(sim, 4 * 4096);
	assert_int_equal(io_pwrite(f, buf, sizeof(buf), 0), -ENOSPC);
	assert_int_equal(io_size(f, &size), 0);
	assert_int_equal(size, 4 * 4096); /* what fitted was written */
	assert_int_equal(io_pwrite(f, buf, 4 * 4096, 0), 0);
	assert_int_equal(io_space(iosim_io(sim), &sp), 0);
	assert_int_equal(sp.free_bytes, 0);
	assert_int_equal(io_punch(f, 4096, 4096), 0);
	assert_int_equal(io_space(iosim_io(sim), &sp), 0);
	assert_int_equal(sp.free_bytes, 4096);
	assert_int_equal(io_unlink(iosim_io(sim), "a"), 0);
	assert_int_equal(iosim_used(sim), 3 * 4096); /* it is still open */
	io_close(f);
	assert_int_equal(iosim_used(sim), 0);
	iosim_crash(sim, IOSIM_LOSE, 0); /* the unlink was not durable, but nor was any data */
	assert_int_equal(iosim_used(sim), 0);
	assert_string_equal(content(sim, "a"), "");
}

static void test_unlinked_files_live_while_open(void **state)
{
	CLEANUP(iosim_freep) struct iosim *sim = NULL;
	iosim_create(1, &sim);
	struct io_file *f = durable_file(sim, "a", "x"), *g = NULL;
	char c = 0;

	assert_int_equal(io_unlink(iosim_io(sim), "a"), 0);
	assert_int_equal(io_open(iosim_io(sim), "a", IO_WRITE | IO_CREATE | IO_EXCL, &g), 0);
	write_str(g, "y", 0);
	assert_int_equal(io_pread_exact(f, &c, 1, 0), 0);
	assert_int_equal(c, 'x');
	io_close(f);
	io_close(g);
	assert_string_equal(content(sim, "a"), "y");
}

static void test_direct_files_insist_on_alignment(void **state)
{
	CLEANUP(iosim_freep) struct iosim *sim = NULL;
	iosim_create(1, &sim);
	struct io_file *f = NULL;
	_Alignas(4096) static uint8_t buf[8192];

	assert_int_equal(io_open(iosim_io(sim), "a", IO_WRITE | IO_CREATE | IO_DIRECT, &f), 0);
	assert_int_equal(io_pwrite(f, buf, 4096, 4096), 0);
	assert_int_equal(io_pwrite(f, buf, 4096, 512), -EINVAL);
	assert_int_equal(io_pwrite(f, buf, 512, 4096), -EINVAL);
	assert_int_equal(io_pwrite(f, buf + 512, 4096, 4096), -EINVAL);
	assert_int_equal(io_pread_exact(f, buf + 1, 4096, 0), -EINVAL);
	io_close(f);
}

static void test_short_transfers_are_completed_by_the_callers(void **state)
{
	CLEANUP(iosim_freep) struct iosim *sim = NULL;
	iosim_create(1, &sim);
	struct io_file *f = NULL;
	_Alignas(4096) static uint8_t in[16 * 4096], out[16 * 4096];
	struct rng rng = {7};

	for (size_t i = 0; i < sizeof(in); i++)
		in[i] = (uint8_t)rng_next(&rng);
	iosim_set_short(sim, 1000);
	assert_int_equal(io_open(iosim_io(sim), "a", IO_WRITE | IO_CREATE | IO_DIRECT, &f), 0);
	assert_int_equal(io_pwrite(f, in, sizeof(in), 0), 0);
	assert_true(iosim_steps(sim) > 3);
	assert_int_equal(io_pread_exact(f, out, sizeof(out), 0), 0);
	assert_memory_equal(in, out, sizeof(in));
	io_close(f);
}

static void test_corruption_changes_every_byte_asked_for(void **state)
{
	CLEANUP(iosim_freep) struct iosim *sim = NULL;
	iosim_create(1, &sim);
	io_close(durable_file(sim, "a", "0123456789"));
	CLEANUP(iosim_freep) struct iosim *clone = NULL;
	iosim_clone(sim, &clone);
	assert_int_equal(iosim_corrupt(sim, "a", 2, 3, 5), 0);
	for (int i = 0; i < 2; i++) {
		const char *s = content(sim, "a");
		for (int j = 0; j < 10; j++)
			assert_int_equal(s[j] != '0' + j, j >= 2 && j < 5);
		iosim_crash(sim, IOSIM_LOSE, 0);
	}
	assert_string_equal(content(clone, "a"), "0123456789");
	assert_int_equal(iosim_corrupt(sim, "b", 0, 1, 5), -ENOENT);
}

static void test_sync_all_makes_everything_durable(void **state)
{
	CLEANUP(iosim_freep) struct iosim *sim = NULL;
	iosim_create(1, &sim);
	struct io_file *f = NULL;

	assert_int_equal(io_mkdir(iosim_io(sim), "d"), 0);
	assert_int_equal(io_open(iosim_io(sim), "d/a", IO_WRITE | IO_CREATE, &f), 0);
	write_str(f, "x", 0);
	io_close(f);
	iosim_sync_all(sim);
	iosim_crash(sim, IOSIM_LOSE, 0);
	assert_string_equal(content(sim, "d/a"), "x");
}

struct worker {
	struct iosim *sim;
	char name[8];
};

static void *work_on_own_file(void *arg)
{
	const struct worker *w = arg;
	struct io *io = iosim_io(w->sim);

	for (int i = 0; i < 200; i++) {
		struct io_file *f = NULL;
		char c = 0;
		assert_int_equal(io_open(io, w->name, IO_WRITE | IO_CREATE, &f), 0);
		assert_int_equal(io_pwrite(f, w->name, 1, (uint64_t)i * 1000), 0);
		assert_int_equal(io_sync(f), 0);
		assert_int_equal(io_pread_exact(f, &c, 1, (uint64_t)i * 1000), 0);
		assert_int_equal(c, w->name[0]);
		io_close(f);
		assert_int_equal(io_sync_dir(io, ""), 0);
	}
	return NULL;
}

/* Clones share pages with a disk that goes on being written. */
static void test_threads_and_clones_do_not_disturb_each_other(void **state)
{
	CLEANUP(iosim_freep) struct iosim *sim = NULL;
	struct worker workers[4];
	pthread_t threads[4];

	iosim_create(1, &sim);
	for (unsigned i = 0; i < ARRAY_SIZE(workers); i++) {
		workers[i] = (struct worker){sim, {(char)('a' + i)}};
		assert_int_equal(
		        pthread_create(&threads[i], NULL, work_on_own_file, &workers[i]), 0);
	}
	for (uint64_t i = 0; i < 50; i++) {
		CLEANUP(iosim_freep) struct iosim *c = NULL;
		struct worker w;
		iosim_clone(sim, &c);
		iosim_crash(c, IOSIM_RANDOM, i);
		w = (struct worker){c, "a"};
		work_on_own_file(&w);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(workers); i++)
		pthread_join(threads[i], NULL);
	for (unsigned i = 0; i < ARRAY_SIZE(workers); i++)
		assert_int_equal(*content(sim, workers[i].name), 'a' + i);
}

/* --- the same random calls on a real directory and on the simulated disk --- */

static int count_name(void *arg, const char *name, bool is_dir)
{
	(*(unsigned *)arg)++;
	return 0;
}

static int random_call(struct io *io, struct io_file **files, struct rng rng, uint8_t *buf)
{
	static const char *const names[] = {"a", "b", "d/a", "d/b", "no/a", "d"};
	const char *name = names[rng_below(&rng, ARRAY_SIZE(names))];
	const char *name2 = names[rng_below(&rng, ARRAY_SIZE(names))];
	struct io_file **f = &files[rng_below(&rng, 4)];
	const uint64_t off = rng_below(&rng, 20000), len = 1 + rng_below(&rng, 9000);
	uint64_t size = 0;
	size_t n = 0;
	int r;

	switch (rng_below(&rng, 12)) {
	case 0:
		if (!strcmp(name,
		            "d")) /* a directory opens on Linux, for reading; nobody needs it */
			return 0;
		io_close(STEAL(*f));
		r = io_open(io, name, (unsigned)rng_below(&rng, 16), f);
		return r == -ENOTDIR ? -ENOENT : r;
	case 1:
		return io_unlink(io, name);
	case 2: /* directories are renamed in ways that the simulation refuses */
		return !strcmp(name, "d") || !strcmp(name2, "d") ? 0 : io_rename(io, name, name2);
	case 3:
		return io_mkdir(io, rng_chance(&rng, 500) ? "d" : "no/d");
	case 4:
		n = 0;
		r = io_list(io, "d", count_name, &n);
		return r < 0 ? r : (int)n;
	case 5:
		return *f ? io_truncate(*f, off) == 0 : 0;
	case 6:
		return *f ? io_punch(*f, off, len) : 0;
	case 7:
		return *f && io_size(*f, &size) == 0 ? (int)size : 0;
	case 8:
	case 9:
		for (size_t i = 0; i < len; i++)
			buf[i] = (uint8_t)rng_next(&rng);
		return *f ? io_pwrite(*f, buf, len, off) : 0;
	default:
		memset(buf, 0, 9000);
		r = *f ? io_pread(*f, buf, len, off, &n) : 0;
		return r < 0 ? r : (int)n;
	}
}

static void test_it_behaves_like_a_directory_of_the_host(void **state)
{
	char dir[] = "/tmp/test-iosim-XXXXXX";
	struct io *real = NULL;
	struct io_file *sim_files[4] = {0}, *real_files[4] = {0};
	static uint8_t sim_buf[9000], real_buf[9000];
	const uint64_t seed =
	        getenv("SEED") ? strtoull(getenv("SEED"), NULL, 0) : (uint64_t)getpid();
	CLEANUP(iosim_freep) struct iosim *sim = NULL;

	iosim_create(1, &sim);
	assert_non_null(mkdtemp(dir));
	assert_int_equal(io_posix_open(dir, &real, NULL), 0);
	print_message("SEED=%llu\n", (unsigned long long)seed);
	for (uint64_t i = 0; i < 20000; i++) {
		const struct rng rng = rng_fork(seed, i);
		const int a = random_call(iosim_io(sim), sim_files, rng, sim_buf);
		const int b = random_call(real, real_files, rng, real_buf);
		if (a != b)
			print_message("call %llu: %d, not %d\n", (unsigned long long)i, a, b);
		assert_int_equal(a, b);
		assert_memory_equal(sim_buf, real_buf, sizeof(sim_buf));
	}
	for (int i = 0; i < 4; i++) {
		io_close(sim_files[i]);
		io_close(real_files[i]);
	}
	for (const char *const *p = (const char *const[]){"a", "b", "d/a", "d/b", NULL}; *p; p++)
		(void)!io_unlink(real, *p);
	io_free(real);
	char sub[64];
	snprintf(sub, sizeof(sub), "%s/d", dir);
	rmdir(sub);
	rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_unsynced_data_is_lost_and_synced_data_kept),
	        cmocka_unit_test(test_truncate_and_punch_are_pending_until_sync),
	        cmocka_unit_test(test_a_name_is_lost_without_sync_dir),
	        cmocka_unit_test(test_an_unlink_without_sync_dir_comes_back),
	        cmocka_unit_test(test_a_rename_is_old_or_new_never_neither),
	        cmocka_unit_test(test_a_rename_across_directories_happens_as_a_whole),
	        cmocka_unit_test(test_names_survive_in_part_but_never_out_of_order),
	        cmocka_unit_test(test_kill_keeps_the_page_cache_but_not_durability),
	        cmocka_unit_test(test_pending_writes_tear_and_reorder),
	        cmocka_unit_test(test_a_later_write_may_reach_the_disk_first),
	        cmocka_unit_test(test_synced_data_survives_every_crash),
	        cmocka_unit_test(test_no_name_is_taken_before_it_is_given_up),
	        cmocka_unit_test(test_sync_dir_takes_along_what_a_rename_depends_on),
	        cmocka_unit_test(test_a_lost_extension_may_leave_zeros),
	        cmocka_unit_test(test_crashes_repeat_from_their_seed),
	        cmocka_unit_test(test_power_goes_at_the_step_asked_for),
	        cmocka_unit_test(test_what_the_fatal_step_wanted_may_survive),
	        cmocka_unit_test(test_a_failed_sync_loses_data_that_reads_still_show),
	        cmocka_unit_test(test_a_failed_write_may_be_partly_done),
	        cmocka_unit_test(test_faults_hit_only_what_they_name),
	        cmocka_unit_test(test_a_full_disk_refuses_growth_only),
	        cmocka_unit_test(test_unlinked_files_live_while_open),
	        cmocka_unit_test(test_direct_files_insist_on_alignment),
	        cmocka_unit_test(test_short_transfers_are_completed_by_the_callers),
	        cmocka_unit_test(test_corruption_changes_every_byte_asked_for),
	        cmocka_unit_test(test_sync_all_makes_everything_durable),
	        cmocka_unit_test(test_threads_and_clones_do_not_disturb_each_other),
	        cmocka_unit_test(test_it_behaves_like_a_directory_of_the_host),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

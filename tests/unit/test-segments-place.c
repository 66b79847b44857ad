/*
 * test-segments-place.c - segments on several tiers: moved, copied, away, damaged
 *
 * Tier 1 is a directory of its own beside the datastore's; io that fails on demand lies above both.
 */
#include <fcntl.h>

#include "base/io-mux.h"
#include "segments-env.h"

static char tier_dir[64];

static void tier_attach(struct env *e)
{
	struct io *io = NULL;

	assert_int_equal(io_posix_open(tier_dir, &io, NULL), 0);
	assert_int_equal(io_mkdir(io, "segments"), 0);
	assert_int_equal(io_mux_attach(e->io.real, 1, io), 0);
}

static int setup(void **state)
{
	const int r = env_setup(state);
	struct env *e = *state;
	struct io *mux = NULL;

	segments_close(e->ss);
	e->ss = NULL;
	assert_int_equal(io_mux_new(e->io.real, &mux), 0);
	e->io.real = mux;
	strcpy(tier_dir, "/tmp/weir-tier-XXXXXX");
	assert_non_null(mkdtemp(tier_dir));
	tier_attach(e);
	env_mount(e);
	return r;
}

static int teardown(void **state)
{
	char cmd[128];
	const int r = env_teardown(state);

	snprintf(cmd, sizeof(cmd), "rm -rf '%s'", tier_dir);
	assert_int_equal(system(cmd), 0);
	return r;
}

static void tier_path(uint64_t id, uint32_t gen, char path[128])
{
	char name[SEGMENT_NAME_LEN];

	segment_name(0, id, gen, name);
	snprintf(path, 128, "%s/%s", tier_dir, name);
}

static bool tier_has(uint64_t id, uint32_t gen)
{
	char path[128];

	tier_path(id, gen, path);
	return access(path, F_OK) == 0;
}

/* Segment 1 sealed with content, and a second one open. */
static void fill(struct env *e)
{
	assert_int_equal(env_append(e, 300, 8), 0);
	assert_int_equal(env_commit(e), 0);
	assert_int_equal(env_row(e, 1)->state, SEGMENT_SEALED);
}

static uint64_t place(struct env *e, uint32_t tier, enum segment_place how)
{
	uint64_t written = 99;

	assert_int_equal(segments_place(e->ss, 1, tier, how, false, &written), 0);
	assert_int_equal(env_commit(e), 0);
	return written;
}

/* Flips a byte in the middle of the first frame of a file. */
static void damage(const char *path)
{
	const int fd = open(path, O_RDWR);
	uint8_t byte = 0;

	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &byte, 1, SEGMENT_HEADER_LEN + 900), 1);
	byte ^= 0x40;
	assert_int_equal(pwrite(fd, &byte, 1, SEGMENT_HEADER_LEN + 900), 1);
	assert_int_equal(fsync(fd), 0);
	close(fd);
}

static void damage_first(struct env *e, uint32_t gen)
{
	char path[128];

	env_path(e, 1, gen, path);
	damage(path);
}

static void damage_tier(uint32_t gen)
{
	char path[128];

	tier_path(1, gen, path);
	damage(path);
}

static void a_moved_segment_reads_the_same(void **state)
{
	struct env *e = *state;

	fill(e);
	assert_true(place(e, 1, SEGMENT_MOVE) > 0);
	assert_int_equal(env_row(e, 1)->tier, 1);
	assert_int_equal(env_row(e, 1)->gen, 1);
	assert_false(env_row(e, 1)->has_copy);
	assert_true(tier_has(1, 1));
	assert_false(env_file_exists(e, 1, 0));
	env_verify(e);
	env_remount(e);
	env_verify(e);
	assert_int_equal(place(e, 1, SEGMENT_MOVE), 0); /* it is there */
	assert_true(place(e, 0, SEGMENT_MOVE) > 0);
	assert_true(env_file_exists(e, 1, 2));
	assert_false(tier_has(1, 1));
	env_verify(e);
}

static void moving_back_to_a_kept_copy_writes_nothing(void **state)
{
	struct env *e = *state;

	fill(e);
	place(e, 1, SEGMENT_MOVE);
	assert_true(place(e, 0, SEGMENT_MOVE_KEEP) > 0);
	assert_true(env_row(e, 1)->has_copy);
	assert_int_equal(env_row(e, 1)->copy_tier, 1);
	assert_true(tier_has(1, 1));
	assert_true(env_file_exists(e, 1, 2));
	env_remount(e);
	env_verify(e);
	assert_int_equal(place(e, 1, SEGMENT_MOVE), 0);
	assert_int_equal(env_row(e, 1)->gen, 1);
	assert_int_equal(env_row(e, 1)->tier, 1);
	assert_false(env_row(e, 1)->has_copy);
	assert_false(env_file_exists(e, 1, 2));
	env_verify(e);
	env_remount(e);
	env_verify(e);
}

static void a_rotten_copy_is_not_moved_back_to(void **state)
{
	struct env *e = *state;

	fill(e);
	place(e, 1, SEGMENT_MOVE);
	place(e, 0, SEGMENT_MOVE_KEEP);
	damage_tier(1);
	assert_true(place(e, 1, SEGMENT_MOVE) > 0);
	assert_int_equal(env_row(e, 1)->gen, 3);
	assert_false(tier_has(1, 1));
	env_verify(e);
}

static void damage_is_read_around_where_there_is_a_copy(void **state)
{
	struct env *e = *state;
	struct segments_stats st;
	const uint64_t first = loc_make(1, 0);

	fill(e);
	damage_first(e, 0);
	assert_int_equal(env_read(e, &first, 1, NULL), -EUCLEAN);
	damage_first(e, 0); /* undone */
	assert_true(place(e, 1, SEGMENT_COPY) > 0);
	damage_first(e, 0);
	env_remount(e);
	env_verify(e);
	segments_stats_get(e->ss, &st);
	assert_true(st.copies_read > 0);
	/* Moving takes the good one. */
	place(e, 1, SEGMENT_MOVE);
	assert_false(env_file_exists(e, 1, 0));
	env_verify(e);
}

static void what_is_away_fails_alone_and_comes_back(void **state)
{
	struct env *e = *state;
	const uint64_t moved = loc_make(1, 0), stayed = loc_make(2, 0);
	uint64_t written = 0;

	fill(e);
	place(e, 1, SEGMENT_MOVE);
	io_mux_detach(e->io.real, 1);
	env_remount(e);
	assert_int_equal(env_read(e, &moved, 1, NULL), -EIO);
	assert_int_equal(env_read(e, &stayed, 1, NULL), 0);
	assert_int_equal(segments_place(e->ss, 1, 0, SEGMENT_MOVE, true, &written), -EIO);
	assert_int_equal(env_append(e, 10, 8), 0);
	assert_int_equal(env_commit(e), 0);
	tier_attach(e);
	env_verify(e);
	place(e, 0, SEGMENT_MOVE);
	env_verify(e);
}

static void with_a_copy_elsewhere_a_tier_may_go_away(void **state)
{
	struct env *e = *state;

	fill(e);
	place(e, 1, SEGMENT_MOVE);
	place(e, 0, SEGMENT_COPY);
	io_mux_detach(e->io.real, 1);
	env_remount(e);
	env_verify(e);
	assert_int_equal(
	        place(e, 0, SEGMENT_MOVE), 0); /* the copy counts, and nothing is written */
	assert_int_equal(env_row(e, 1)->tier, 0);
	env_verify(e);
	/* What it had is an orphan when it comes back. */
	unsigned n = 0;
	assert_int_equal(segments_remove_orphans(e->ss, 1, &n), -ENXIO);
	tier_attach(e);
	assert_int_equal(segments_remove_orphans(e->ss, 1, &n), 0);
	assert_int_equal(n, 1);
	assert_false(tier_has(1, 1));
	env_verify(e);
}

static void a_failed_write_or_sync_leaves_it_where_it_was(void **state)
{
	struct env *e = *state;
	unsigned step = 1;

	fill(e);
	for (;; step++) {
		uint64_t written = 0;
		e->io.error = -EIO;
		e->io.countdown = (int)step;
		const int r = segments_place(e->ss, 1, 1, SEGMENT_MOVE, false, &written);
		const bool hit = e->io.countdown == 0;
		e->io.countdown = -1;
		if (!hit) {
			assert_int_equal(r, 0);
			break;
		}
		assert_true(r < 0);
		assert_false(tier_has(1, 1));
		assert_int_equal(env_commit(e), 0);
		assert_int_equal(env_row(e, 1)->tier, 0);
		env_verify(e);
	}
	assert_true(step > 4); /* write, sync, two directories, and what it took to make them */
	assert_int_equal(env_commit(e), 0);
	assert_true(tier_has(1, 1));
	env_verify(e);
}

static void a_move_that_was_not_committed_is_an_orphan(void **state)
{
	struct env *e = *state;
	uint64_t written = 0;
	unsigned n = 0;

	fill(e);
	assert_int_equal(segments_place(e->ss, 1, 1, SEGMENT_MOVE, false, &written), 0);
	assert_int_equal(segments_remove_orphans(e->ss, 1, &n), 0);
	assert_int_equal(n, 0); /* it waits for its commit */
	assert_int_equal(segments_place(e->ss, 1, 1, SEGMENT_MOVE, false, &written), -EBUSY);
	env_remount(e);
	env_verify(e);
	assert_true(tier_has(1, 1));
	assert_int_equal(segments_remove_orphans(e->ss, 1, &n), 0);
	assert_int_equal(n, 1);
	assert_int_equal(segments_remove_orphans(e->ss, 0, &n), 0);
	env_verify(e);
}

static void damaged_frames_move_only_when_they_have_to(void **state)
{
	struct env *e = *state;
	const uint64_t first = loc_make(1, 0);
	uint64_t written = 0;

	fill(e);
	damage_first(e, 0);
	assert_int_equal(segments_place(e->ss, 1, 1, SEGMENT_MOVE, false, &written), -EUCLEAN);
	assert_int_equal(segments_place(e->ss, 1, 1, SEGMENT_MOVE, true, &written), 0);
	assert_int_equal(env_commit(e), 0);
	assert_int_equal(env_read(e, &first, 1, NULL), -EUCLEAN);
	for (unsigned i = 16; i < e->n_known; i++)
		assert_int_equal(env_read(e, &e->known[i].loc, 1, NULL), 0);
}

static void a_rewrite_drops_the_copy(void **state)
{
	struct env *e = *state;
	struct slot_bits live;
	uint64_t written = 0;

	fill(e);
	place(e, 1, SEGMENT_COPY);
	assert_true(tier_has(1, 1));
	memset(&live, 0xff, sizeof(live));
	assert_int_equal(segments_rewrite(e->ss, 1, &live, NULL, 0, &written), 0);
	assert_int_equal(env_commit(e), 0);
	assert_int_equal(env_row(e, 1)->gen, 2); /* 1 was the copy's */
	assert_false(env_row(e, 1)->has_copy);
	assert_false(tier_has(1, 1));
	assert_false(env_file_exists(e, 1, 0));
	env_verify(e);
}

static void dropping_takes_both_files(void **state)
{
	struct env *e = *state;
	struct segments_tier_stats st;

	fill(e);
	place(e, 1, SEGMENT_COPY);
	segments_tier_stats_get(e->ss, 1, &st);
	assert_int_equal(st.copies, 1);
	assert_int_equal(st.copy_bytes, env_row(e, 1)->file_bytes);
	assert_int_equal(segments_drop(e->ss, 1), 0);
	assert_int_equal(env_commit(e), 0);
	assert_false(tier_has(1, 1));
	assert_false(env_file_exists(e, 1, 0));
	segments_tier_stats_get(e->ss, 1, &st);
	assert_int_equal(st.copies, 0);
}

struct reader {
	struct env *e;
	_Atomic bool stop;
	int error;
};

static void *reader_main(void *arg)
{
	struct reader *rd = arg;
	uint64_t at = 1;

	while (!rd->stop && rd->error == 0) {
		const uint64_t loc = rd->e->known[rnd(&at) % rd->e->n_known].loc;
		rd->error = env_read(rd->e, &loc, 1, NULL);
	}
	return NULL;
}

static void readers_go_on_while_segments_move(void **state)
{
	static const enum segment_place how[] = {SEGMENT_MOVE, SEGMENT_MOVE_KEEP, SEGMENT_MOVE};
	struct env *e = *state;
	struct reader rd = {.e = e};
	pthread_t thread;

	fill(e);
	assert_int_equal(pthread_create(&thread, NULL, reader_main, &rd), 0);
	for (unsigned i = 0; i < 24; i++)
		place(e, (i + 1) % 2, how[i % 3]);
	rd.stop = true;
	pthread_join(thread, NULL);
	assert_int_equal(rd.error, 0);
	env_verify(e);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        TEST(a_moved_segment_reads_the_same),
	        TEST(moving_back_to_a_kept_copy_writes_nothing),
	        TEST(a_rotten_copy_is_not_moved_back_to),
	        TEST(damage_is_read_around_where_there_is_a_copy),
	        TEST(what_is_away_fails_alone_and_comes_back),
	        TEST(with_a_copy_elsewhere_a_tier_may_go_away),
	        TEST(a_failed_write_or_sync_leaves_it_where_it_was),
	        TEST(a_move_that_was_not_committed_is_an_orphan),
	        TEST(damaged_frames_move_only_when_they_have_to),
	        TEST(a_rewrite_drops_the_copy),
	        TEST(dropping_takes_both_files),
	        TEST(readers_go_on_while_segments_move),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

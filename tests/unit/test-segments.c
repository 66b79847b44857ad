/*
 * test-segments.c - segments: appending, committing, aborting, rewriting, dropping
 */
#include "segments-env.h"

static void frames_read_back_before_and_after_their_commit(void **state)
{
	struct env *e = *state;

	assert_int_equal(env_append(e, 40, 8), 0);
	env_verify(e); /* from the buffer */
	assert_int_equal(env_commit(e), 0);
	env_verify(e); /* from the file */
	env_remount(e);
	env_verify(e); /* of an open segment, scanned */
}

static void full_segments_are_sealed_and_followed_by_others(void **state)
{
	struct env *e = *state;

	assert_int_equal(env_append(e, 700, 8), 0);
	env_verify(e);
	assert_int_equal(env_commit(e), 0);
	env_verify(e);
	env_remount(e);
	env_verify(e);
	assert_int_equal(env_row(e, 1)->state, SEGMENT_SEALED);
	assert_int_equal(env_row(e, 2)->state, SEGMENT_SEALED);
	assert_true(env_row(e, 1)->file_bytes <= SEGMENT_BYTES_MAX);
	const struct segment_row *last = env_row(e, segments_next(e->ss) - 1);
	assert_int_equal(last->state, SEGMENT_OPEN);
	assert_int_equal(last->live_chunks, last->slots);
}

static void slots_limit_a_segment_of_tiny_frames(void **state)
{
	struct env *e = *state;
	const uint8_t payload[8] = {0};
	const struct hash128 hashes[FRAME_CHUNKS_MAX] = {{1, 2}};
	const struct frame_spec spec = {.n = 16,
	        .codec = CODEC_LZ4,
	        .hashes = hashes,
	        .payload = payload,
	        .payload_len = 8};
	uint64_t loc = 0;

	for (unsigned i = 0; i <= SEGMENT_SLOTS / 16; i++)
		assert_int_equal(segments_append(e->ss, 1, &spec, &loc), 0);
	assert_int_equal(loc, loc_make(2, 0));
	assert_int_equal(env_commit(e), 0);
	assert_int_equal(env_row(e, 1)->slots, SEGMENT_SLOTS);
	assert_int_equal(env_row(e, 1)->state, SEGMENT_SEALED);
}

static void committed_bytes_of_an_open_segment_are_never_written_again(void **state)
{
	struct env *e = *state;
	char path[128];
	uint8_t *before = malloc(SEGMENT_BYTES_MAX), *after = malloc(SEGMENT_BYTES_MAX);

	assert_int_equal(env_append(e, 3, 8), 0);
	assert_int_equal(env_commit(e), 0);
	const uint32_t len = env_row(e, 1)->bytes;
	env_path(e, 1, 0, path);
	for (unsigned round = 0; round < 4; round++) {
		FILE *f = fopen(path, "r+");
		assert_non_null(f);
		assert_int_equal(fread(before, 1, len, f), len);
		before[100] ^= 1; /* a mark in the header that a rewrite of it would remove */
		rewind(f);
		assert_int_equal(fwrite(before, 1, len, f), len);
		fclose(f);
		assert_int_equal(env_append(e, 3, 5), 0);
		assert_int_equal(env_commit(e), 0);
		f = fopen(path, "r+");
		assert_int_equal(fread(after, 1, len, f), len);
		assert_memory_equal(before, after, len);
		after[100] ^= 1;
		rewind(f);
		assert_int_equal(fwrite(after, 1, len, f), len);
		fclose(f);
		env_verify(e);
		if (round % 2)
			env_remount(e);
	}
	assert_int_equal(segments_next(e->ss), 2);
	assert_int_equal(env_row(e, 1)->slots, 24 + 4 * 15);
	free(before);
	free(after);
}

/* --- threads --- */

struct appender {
	struct env *e;
	uint64_t seed;
	unsigned n;
	uint64_t locs[400];
	int error;
};

static void *appender_run(void *arg)
{
	struct appender *a = arg;

	for (unsigned i = 0; i < ARRAY_SIZE(a->locs); i++) {
		const int r = frame_append(a->e, a->seed + i * a->n, a->n, &a->locs[i]);
		if (r < 0)
			a->error = r;
	}
	return NULL;
}

static _Atomic bool readers_stop;

static void *reader_run(void *arg)
{
	struct env *e = arg;
	uint64_t state = (uintptr_t)&state;
	unsigned wrong = 0;

	while (!readers_stop) {
		uint64_t locs[8];
		for (unsigned i = 0; i < 8; i++)
			locs[i] = e->known[rnd(&state) % e->n_known].loc;
		struct readback rb = {.e = e, .locs = locs, .n = 8, .seen = (bool[8]){false}};
		if (segments_read(e->ss, locs, 8, readback_fn, &rb) < 0 || rb.wrong)
			wrong++;
	}
	return (void *)(uintptr_t)wrong;
}

static void four_threads_append_while_others_read_and_groups_commit(void **state)
{
	struct env *e = *state;
	static struct appender a[4];
	pthread_t threads[4], readers[2];
	void *wrong = NULL;

	assert_int_equal(env_append(e, 20, 8), 0);
	readers_stop = false;
	for (unsigned i = 0; i < 2; i++)
		pthread_create(&readers[i], NULL, reader_run, e);
	for (unsigned round = 0; round < 2; round++) {
		for (unsigned i = 0; i < 4; i++) {
			a[i] = (struct appender){.e = e, .n = 1 + i * 5};
			a[i].seed = 100000 * (1 + i + round * 4);
			pthread_create(&threads[i], NULL, appender_run, &a[i]);
		}
		for (unsigned i = 0; i < 4; i++)
			pthread_join(threads[i], NULL);
		assert_int_equal(env_commit(e), 0);
	}
	readers_stop = true;
	for (unsigned i = 0; i < 2; i++) {
		pthread_join(readers[i], &wrong);
		assert_null(wrong);
	}
	e->n_known = 0;
	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(a[i].error, 0);
		for (unsigned k = 0; k < ARRAY_SIZE(a[i].locs); k += 3)
			for (unsigned j = 0; j < a[i].n; j++)
				known_add(e, a[i].locs[k] + j, a[i].seed + k * a[i].n + j);
	}
	env_verify(e);
	env_remount(e);
	env_verify(e);
}

/* --- aborted groups --- */

static void an_aborted_group_leaves_nothing_and_is_repeated_elsewhere(void **state)
{
	struct env *e = *state;
	uint64_t loc = 0;

	assert_int_equal(env_append(e, 400, 8), 0);
	loc = e->known[0].loc;
	assert_int_equal(segments_txg_sync(e->ss), 0);
	segments_txg_abort(e->ss);
	assert_int_equal(env_read(e, &loc, 1, NULL), -ESTALE);
	assert_false(segments_exists(e->ss, 1));
	assert_false(env_file_exists(e, 1, 0));
	const uint64_t next = segments_next(e->ss);
	e->n_known = 0;
	assert_int_equal(env_append(e, 400, 8), 0);
	assert_true(loc_segment(e->known[0].loc) >= next);
	assert_int_equal(env_commit(e), 0);
	env_verify(e);
	env_remount(e);
	env_verify(e);
}

/* The database's log may bring a failed commit back after a crash: its files must be there then. */
static void files_of_a_failed_commit_stay_until_another_one_succeeds(void **state)
{
	struct env *e = *state;
	unsigned n = 0;

	assert_int_equal(env_append(e, 300, 8), 0);
	assert_int_equal(segments_txg_sync(e->ss), 0);
	memcpy(e->meta->work, e->meta->rows, sizeof(e->meta->work));
	assert_int_equal(segments_txg_write(e->ss), 0);
	struct mem_meta *failed = malloc(sizeof(*failed));
	*failed = *e->meta;
	segments_txg_abort(e->ss);
	assert_false(segments_exists(e->ss, 1));
	assert_int_equal(segments_remove_orphans(e->ss, 0, &n), 0);
	assert_true(env_file_exists(e, 1, 0));
	assert_true(env_file_exists(e, 2, 0));
	memcpy(e->meta->rows, failed->work, sizeof(failed->work)); /* the crash */
	free(failed);
	env_remount(e);
	env_verify(e);
	assert_int_equal(env_append(e, 300, 8), 0);
	assert_int_equal(segments_txg_sync(e->ss), 0);
	memcpy(e->meta->work, e->meta->rows, sizeof(e->meta->work));
	assert_int_equal(segments_txg_write(e->ss), 0);
	const uint64_t last = segments_next(e->ss) - 1;
	segments_txg_abort(e->ss);
	assert_true(env_file_exists(e, last, 0));
	assert_int_equal(env_commit(e), 0);
	assert_false(env_file_exists(e, last, 0));
	e->n_known = 300 * 8;
	env_verify(e);
}

static void an_abort_keeps_the_committed_part_and_seals_it_in_a_new_file(void **state)
{
	struct env *e = *state;

	assert_int_equal(env_append(e, 10, 8), 0);
	assert_int_equal(env_commit(e), 0);
	const unsigned n = e->n_known;
	assert_int_equal(env_append(e, 10, 8), 0);
	const uint64_t lost = e->known[n].loc;
	segments_txg_abort(e->ss);
	e->n_known = n;
	env_verify(e);
	assert_int_equal(env_read(e, &lost, 1, NULL), -ESTALE);
	assert_int_equal(env_append(e, 2, 8), 0);
	assert_int_equal(loc_segment(e->known[n].loc), 2);
	assert_int_equal(env_commit(e), 0);
	assert_int_equal(env_row(e, 1)->state, SEGMENT_SEALED);
	assert_int_equal(env_row(e, 1)->gen, 1);
	assert_int_equal(env_row(e, 1)->slots, 80);
	assert_false(env_file_exists(e, 1, 0));
	env_verify(e);
	env_remount(e);
	env_verify(e);
}

static void an_abort_spares_what_the_group_did_not_touch(void **state)
{
	struct env *e = *state;

	assert_int_equal(env_append(e, 3, 8), 0);
	assert_int_equal(env_commit(e), 0);
	segments_txg_abort(e->ss);
	assert_int_equal(env_append(e, 3, 8), 0);
	assert_int_equal(env_commit(e), 0);
	assert_int_equal(segments_next(e->ss), 2);
	env_verify(e);
}

static void any_failing_write_or_sync_fails_the_group_and_a_repeat_succeeds(void **state)
{
	struct env *e = *state;
	unsigned failures = 0;

	assert_int_equal(env_append(e, 5, 8), 0);
	assert_int_equal(env_commit(e), 0);
	for (int k = 1; k < 14; k++) {
		const unsigned n = e->n_known;
		const uint64_t seed = e->next_seed;
		e->io.error = k % 2 ? -EIO : -ENOSPC;
		e->io.sticky = k % 3 == 0;
		e->io.countdown = k;
		int r = env_append(e, 220, 8);
		if (r == 0)
			r = env_commit(e);
		const bool hit = e->io.countdown == 0;
		e->io.countdown = -1;
		assert_int_equal(r, hit ? e->io.error : 0);
		if (r < 0) {
			failures++;
			segments_txg_abort(e->ss);
			e->n_known = n;
			e->next_seed = seed;
			env_verify(e);
			assert_int_equal(env_append(e, 220, 8), 0);
			assert_int_equal(env_commit(e), 0);
		}
		env_verify(e);
		env_remount(e);
		env_verify(e);
	}
	assert_true(failures >= 6);
}

/* --- the collector --- */

static void live_random(struct slot_bits *b, uint64_t *state, unsigned percent)
{
	memset(b, 0, sizeof(*b));
	for (unsigned i = 0; i < SEGMENT_SLOTS; i++)
		if (rnd(state) % 100 < percent)
			b->words[i / 64] |= 1ull << i % 64;
}

static bool bit(const struct slot_bits *b, unsigned i)
{
	return b->words[i / 64] >> i % 64 & 1;
}

/* What is not live in segment 1 leaves the record, and is asserted to be gone. */
static void dead_forget(struct env *e, const struct slot_bits *live)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < e->n_known; i++) {
		const struct known k = e->known[i];
		if (loc_segment(k.loc) != 1 || bit(live, loc_slot(k.loc)))
			e->known[kept++] = k; /* known_at is mended below */
		else
			assert_int_equal(env_read(e, &k.loc, 1, NULL), -ESTALE);
	}
	e->n_known = kept;
	for (unsigned i = 0; i < kept; i++) {
		const uint64_t loc = e->known[i].loc;
		e->known_at[loc_segment(loc) * SEGMENT_SLOTS + loc_slot(loc)] = i;
	}
}

static void rewriting_keeps_the_live_slots_and_no_others(void **state)
{
	struct env *e = *state;
	uint64_t seed = 42, written = 0;
	static struct hash128 before[SEGMENT_SLOTS], after[SEGMENT_SLOTS];
	unsigned n = 0;
	struct slot_bits live, all;

	assert_int_equal(env_append(e, 250, 8), 0);
	assert_int_equal(env_append(e, 20, 16), 0);
	segments_seal_all(e->ss);
	assert_int_equal(env_commit(e), 0);
	memset(&all, 0xff, sizeof(all));
	for (unsigned round = 1; round < 5; round++) {
		const uint32_t old_bytes = env_row(e, 1)->file_bytes;
		live_random(&live, &seed, 80);
		for (unsigned i = 0; i < SEGMENT_SLOTS / 64; i++)
			live.words[i] = all.words[i] &= live.words[i];
		assert_int_equal(segments_hashes(e->ss, 1, before, &n), 0);
		assert_int_equal(segments_rewrite(e->ss, 1, &live, NULL, 0, &written), 0);
		assert_int_equal(segments_rewrite(e->ss, 1, &live, NULL, 0, &written), -EBUSY);
		env_verify(e); /* still the old generation */
		assert_int_equal(env_commit(e), 0);
		assert_int_equal(env_row(e, 1)->gen, round);
		assert_true(env_row(e, 1)->file_bytes < old_bytes);
		assert_int_equal(env_row(e, 1)->file_bytes, written);
		assert_false(env_file_exists(e, 1, round - 1));
		dead_forget(e, &live);
		env_verify(e);
		assert_int_equal(segments_hashes(e->ss, 1, after, &n), 0);
		for (unsigned i = 0; i < n; i++)
			assert_true(hash_equal(
			        after[i], bit(&live, i) ? before[i] : (struct hash128){0}));
		if (round % 2)
			env_remount(e);
	}
}

struct switcher {
	struct readback rb;
	bool done;
};

static void switch_then_check(
        void *arg, uint64_t loc, unsigned n, const uint8_t *chunks, const struct hash128 *hashes)
{
	struct switcher *sw = arg;

	if (!sw->done)
		assert_int_equal(env_commit(sw->rb.e), 0);
	sw->done = true;
	readback_fn(&sw->rb, loc, n, chunks, hashes);
}

static void a_reader_ends_in_the_generation_it_began_with(void **state)
{
	struct env *e = *state;
	struct slot_bits live = {{0}};
	uint64_t written = 0, locs[64];
	bool seen[64] = {false};

	assert_int_equal(env_append(e, 250, 8), 0);
	segments_seal_all(e->ss);
	assert_int_equal(env_commit(e), 0);
	for (unsigned i = 0; i < 64; i++)
		locs[i] = e->known[i * 30].loc;
	live.words[0] = 1;
	assert_int_equal(segments_rewrite(e->ss, 1, &live, NULL, 0, &written), 0);
	struct switcher sw = {.rb = {.e = e, .locs = locs, .n = 64, .seen = seen}};
	assert_int_equal(segments_read(e->ss, locs, 64, switch_then_check, &sw), 0);
	assert_false(sw.rb.wrong);
	for (unsigned i = 0; i < 64; i++)
		assert_int_equal(seen[i], loc_segment(locs[i]) == 1 || seen[i]);
	assert_false(env_file_exists(e, 1, 0)); /* gone with its last reader */
	assert_true(env_file_exists(e, 1, 1));
	assert_int_equal(env_read(e, &e->known[5].loc, 1, NULL), -ESTALE);
	assert_int_equal(env_read(e, &e->known[0].loc, 1, NULL), 0);
}

static void rewrites_and_drops_survive_an_aborted_group(void **state)
{
	struct env *e = *state;
	struct slot_bits live;
	uint64_t written = 0, seed = 3;

	assert_int_equal(env_append(e, 600, 8), 0);
	segments_seal_all(e->ss);
	assert_int_equal(env_commit(e), 0);
	live_random(&live, &seed, 50);
	assert_int_equal(segments_rewrite(e->ss, 1, &live, NULL, 0, &written), 0);
	assert_int_equal(segments_drop(e->ss, 2), 0);
	assert_int_equal(segments_drop(e->ss, 2), -ESTALE);
	memcpy(e->meta->work, e->meta->rows, sizeof(e->meta->work));
	assert_int_equal(segments_txg_sync(e->ss), 0);
	assert_int_equal(segments_txg_write(e->ss), 0);
	segments_txg_abort(e->ss);
	assert_true(env_file_exists(e, 1, 0));
	assert_true(env_file_exists(e, 2, 0));
	assert_int_equal(env_commit(e), 0);
	assert_false(env_file_exists(e, 1, 0));
	assert_false(env_file_exists(e, 2, 0));
	assert_int_equal(env_row(e, 1)->gen, 1);
	assert_int_equal(env_row(e, 2)->id, 0);
	assert_false(segments_exists(e->ss, 2));
	dead_forget(e, &live);
}

static void a_failed_rewrite_leaves_the_segment_as_it_was(void **state)
{
	struct env *e = *state;
	struct slot_bits live = {{~0ull}};
	uint64_t written = 0;

	assert_int_equal(env_append(e, 30, 8), 0);
	assert_int_equal(segments_rewrite(e->ss, 1, &live, NULL, 0, &written), -EBUSY);
	segments_seal_all(e->ss);
	assert_int_equal(env_commit(e), 0);
	for (int k = 1; k < 5; k++) {
		e->io.error = -ENOSPC;
		e->io.countdown = k;
		assert_int_equal(segments_rewrite(e->ss, 1, &live, NULL, 0, &written), -ENOSPC);
		e->io.countdown = -1;
		assert_false(env_file_exists(e, 1, 1));
		assert_int_equal(env_commit(e), 0);
		assert_int_equal(env_row(e, 1)->gen, 0);
		env_verify(e);
	}
}

static void live_counts_go_to_the_rows_and_the_totals(void **state)
{
	struct env *e = *state;
	struct segments_stats st;

	assert_int_equal(env_append(e, 30, 8), 0);
	assert_int_equal(segments_set_live(e->ss, 1, 1, 1), -ESTALE);
	assert_int_equal(env_commit(e), 0);
	segments_stats_get(e->ss, &st);
	assert_int_equal(st.segments, 1);
	assert_int_equal(st.open, 1);
	assert_int_equal(st.slots, 240);
	assert_int_equal(st.live_chunks, 240);
	assert_int_equal(st.file_bytes, env_row(e, 1)->bytes);
	assert_int_equal(segments_set_live(e->ss, 1, 100, 5000), 0);
	assert_int_equal(env_append(e, 1, 8), 0);
	assert_int_equal(env_commit(e), 0);
	assert_int_equal(env_row(e, 1)->live_chunks, 108);
	assert_true(env_row(e, 1)->live_bytes > 5000);
	segments_stats_get(e->ss, &st);
	assert_int_equal(st.live_chunks, 108);
	env_remount(e);
	segments_stats_get(e->ss, &st);
	assert_int_equal(st.live_chunks, 108);
	assert_int_equal(st.segments, 1);
}

static void rows_are_listed_in_order_once_committed(void **state)
{
	struct env *e = *state;
	struct segment_row rows[3];

	assert_int_equal(env_append(e, 900, 8), 0);
	assert_int_equal(segments_list(e->ss, 0, rows, 3), 0);
	assert_int_equal(env_commit(e), 0);
	assert_int_equal(segments_list(e->ss, 0, rows, 3), 3);
	assert_int_equal(rows[2].id, 3);
	assert_int_equal(segments_list(e->ss, 1, rows, 1), 1);
	assert_int_equal(rows[0].id, 2);
	assert_int_equal(segments_list(e->ss, 1ull << 37, rows, 3), 0);
}

static void file_touch(struct env *e, uint64_t id, uint32_t gen)
{
	char path[128];

	env_path(e, id, gen, path);
	FILE *f = fopen(path, "w");
	assert_non_null(f);
	fclose(f);
}

static void orphans_go_and_named_files_stay(void **state)
{
	struct env *e = *state;
	struct slot_bits live = {{~0ull}};
	uint64_t written = 0;
	unsigned n = 0;
	char path[128];

	assert_int_equal(env_append(e, 600, 8), 0);
	assert_int_equal(env_commit(e), 0);
	assert_int_equal(segments_rewrite(e->ss, 1, &live, NULL, 0, &written), 0);
	file_touch(e, 2, 7);
	file_touch(e, 0x101, 0);
	snprintf(path, sizeof(path), "%s/segments/01/notes.txt", e->dir);
	fclose(fopen(path, "w"));
	assert_int_equal(segments_remove_orphans(e->ss, 0, &n), 0);
	assert_int_equal(n, 2);
	assert_int_equal(access(path, F_OK), 0);
	assert_false(env_file_exists(e, 2, 7));
	assert_false(env_file_exists(e, 0x101, 0));
	assert_true(env_file_exists(e, 1, 1)); /* pending */
	env_verify(e);
	assert_int_equal(env_commit(e), 0);
	assert_int_equal(segments_remove_orphans(e->ss, 0, &n), 0);
	assert_int_equal(n, 0);
}

static void a_read_only_datastore_is_read_and_not_written(void **state)
{
	struct env *e = *state;
	unsigned n = 0;

	assert_int_equal(env_append(e, 300, 8), 0);
	assert_int_equal(env_commit(e), 0);
	e->read_only = true;
	const unsigned before = e->io.count;
	env_remount(e);
	env_verify(e);
	assert_int_equal(segments_remove_orphans(e->ss, 0, &n), -EROFS);
	assert_int_equal(segments_drop(e->ss, 1), -EROFS);
	assert_int_equal(e->io.count, before);
}

static void a_small_table_cache_only_costs_reads(void **state)
{
	struct env *e = *state;
	struct segments_stats st;

	assert_int_equal(env_append(e, 1500, 8), 0);
	assert_int_equal(env_commit(e), 0);
	e->table_bytes = 10000;
	env_remount(e);
	env_verify(e);
	segments_stats_get(e->ss, &st);
	assert_true(st.table_bytes <= 10000 + SEGMENT_SLOTS * 4);
}

/* Each in the clear, and under a seal. */
#define T(f)                                                                                       \
	cmocka_unit_test_setup_teardown(f, env_setup, env_teardown),                               \
	{                                                                                          \
		"sealed: " #f, f, env_setup_sealed, env_teardown, NULL                             \
	}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        T(frames_read_back_before_and_after_their_commit),
	        T(full_segments_are_sealed_and_followed_by_others),
	        T(slots_limit_a_segment_of_tiny_frames),
	        T(committed_bytes_of_an_open_segment_are_never_written_again),
	        T(four_threads_append_while_others_read_and_groups_commit),
	        T(an_aborted_group_leaves_nothing_and_is_repeated_elsewhere),
	        T(files_of_a_failed_commit_stay_until_another_one_succeeds),
	        T(an_abort_keeps_the_committed_part_and_seals_it_in_a_new_file),
	        T(an_abort_spares_what_the_group_did_not_touch),
	        T(any_failing_write_or_sync_fails_the_group_and_a_repeat_succeeds),
	        T(rewriting_keeps_the_live_slots_and_no_others),
	        T(a_reader_ends_in_the_generation_it_began_with),
	        T(rewrites_and_drops_survive_an_aborted_group),
	        T(a_failed_rewrite_leaves_the_segment_as_it_was),
	        T(live_counts_go_to_the_rows_and_the_totals),
	        T(rows_are_listed_in_order_once_committed),
	        T(orphans_go_and_named_files_stay),
	        T(a_read_only_datastore_is_read_and_not_written),
	        T(a_small_table_cache_only_costs_reads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

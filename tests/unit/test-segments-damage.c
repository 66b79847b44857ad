/*
 * test-segments-damage.c - segments: what damage to each region of a file does, and does not
 */
#include "segments-env.h"

/* XORs len bytes at off in the file. */
static void flip(struct env *e, uint64_t id, uint32_t gen, uint32_t off, uint32_t len)
{
	char path[128];
	uint8_t buf[64];

	assert_true(len <= sizeof(buf));
	env_path(e, id, gen, path);
	FILE *f = fopen(path, "r+");
	assert_non_null(f);
	assert_int_equal(fseek(f, off, SEEK_SET), 0);
	assert_int_equal(fread(buf, 1, len, f), len);
	for (unsigned i = 0; i < len; i++)
		buf[i] ^= 0xff;
	assert_int_equal(fseek(f, off, SEEK_SET), 0);
	assert_int_equal(fwrite(buf, 1, len, f), len);
	fclose(f);
}

/* Segment 1, sealed, with `frames` frames of 8 chunks; frame i is raw if its seed says so. */
static void segment_make(struct env *e, unsigned frames)
{
	assert_int_equal(env_append(e, frames, 8), 0);
	segments_seal_all(e->ss);
	assert_int_equal(env_commit(e), 0);
}

static struct segment_contents *scan(struct env *e, uint32_t gen, uint32_t end)
{
	static struct segment_contents c;
	char name[SEGMENT_NAME_LEN];
	const uint8_t uuid[16] = "0123456789abcde";

	segment_name(0, 1, gen, name);
	assert_int_equal(
	        segment_scan(&e->io.base, name, 1, frame_store(uuid), end, NULL, NULL, &c), 0);
	return &c;
}

/* File offset of the frame that holds the k-th chunk known. */
static uint32_t frame_off(struct env *e, uint32_t gen, unsigned k)
{
	return scan(e, gen, 0)->table[loc_slot(e->known[k].loc)].frame_pos * FRAME_ALIGN;
}

/* Damaged, or (its file is gone) not to be read. */
static bool is_lost(int r)
{
	assert_true(r == 0 || r == -EUCLEAN || r == -EIO);
	return r < 0;
}

/* All known but [first, first + n) are well; those are errors, alone and with others. */
static void only_these_fail(struct env *e, unsigned first, unsigned n)
{
	const unsigned all = e->n_known;
	uint64_t *locs = calloc(all, sizeof(*locs));
	bool *seen = calloc(all, sizeof(*seen));

	for (unsigned i = 0; i < all; i++)
		locs[i] = e->known[i].loc;
	assert_true(is_lost(env_read(e, locs, all, seen)) == (n > 0));
	for (unsigned i = 0; i < all; i++) {
		const bool bad = i >= first && i < first + n;
		assert_int_equal(seen[i], !bad);
		assert_true(is_lost(env_read(e, &locs[i], 1, NULL)) == bad);
	}
	free(locs);
	free(seen);
}

static void a_damaged_header_block_hurts_no_frame(void **state)
{
	struct env *e = *state;

	segment_make(e, 30);
	flip(e, 1, 0, 20, 4);
	env_remount(e);
	only_these_fail(e, 0, 0);
	assert_false(scan(e, 0, 0)->header_good);
}

static void a_damaged_frame_header_costs_that_frame(void **state)
{
	static const unsigned at[] = {0, 4, 7, 9, 12, 24, 40, 48, 64, 64 + 16 * 5};
	struct env *e = *state;

	segment_make(e, 30);
	const uint32_t off = frame_off(e, 0, 80);
	for (unsigned i = 0; i < ARRAY_SIZE(at); i++) {
		flip(e, 1, 0, off + at[i], 1);
		only_these_fail(e, 80, 8);
		flip(e, 1, 0, off + at[i], 1);
	}
	only_these_fail(e, 0, 0);
}

static void a_damaged_payload_checksum_costs_nothing_that_is_right(void **state)
{
	struct env *e = *state;

	segment_make(e, 30);
	flip(e, 1, 0, frame_off(e, 0, 80) + 56, 8);
	only_these_fail(e, 0, 0);
}

static void a_damaged_raw_payload_costs_one_chunk(void **state)
{
	struct env *e = *state;
	const unsigned raw = 8 * 4;

	assert_int_equal(env_append(e, 4, 8), 0);
	for (unsigned i = 0; i < 8; i++) { /* eight chunks of noise, raw */
		uint64_t loc = 0;
		assert_int_equal(frame_append(e, 4000 + i * 4, 1, &loc), 0);
		known_add(e, loc, 4000 + i * 4);
	}
	segment_make(e, 4);
	flip(e, 1, 0, frame_off(e, 0, raw + 3) + 64 + 16 + 100, 1);
	only_these_fail(e, raw + 3, 1);
}

static void a_damaged_compressed_payload_never_gives_wrong_data(void **state)
{
	struct env *e = *state;
	bool seen[8];
	uint64_t locs[8] = {0};

	segment_make(e, 30);
	const uint32_t off = frame_off(e, 0, 80);
	for (unsigned i = 0; i < 8; i++)
		locs[i] = e->known[80 + i].loc;
	unsigned failed = 0;
	for (unsigned at = 64 + 16 * 8; at < 20000; at += 997) {
		flip(e, 1, 0, off + at, 1);
		const int r = env_read(e, locs, 8, seen); /* asserts what it gets is right */
		assert_true(r == 0 || r == -EUCLEAN);
		failed += r < 0;
		flip(e, 1, 0, off + at, 1);
	}
	assert_true(failed > 0);
	only_these_fail(e, 0, 0);
}

static void a_damaged_slot_table_is_replaced_by_the_frames(void **state)
{
	struct env *e = *state;

	segment_make(e, 100);
	flip(e, 1, 0, env_row(e, 1)->bytes + 100, 1);
	env_remount(e);
	only_these_fail(e, 0, 0);
	flip(e, 1, 0, frame_off(e, 0, 80), 4); /* now a frame's magic, too */
	env_remount(e);
	only_these_fail(e, 80, 8);
}

static void damaged_footer_hashes_are_replaced_by_those_of_frames(void **state)
{
	static struct hash128 before[SEGMENT_SLOTS], after[SEGMENT_SLOTS];
	struct env *e = *state;
	unsigned n = 0;

	segment_make(e, 100);
	assert_int_equal(segments_hashes(e->ss, 1, before, &n), 0);
	assert_int_equal(n, 800);
	for (unsigned round = 0; round < 2; round++) {
		const struct segment_row *row = env_row(e, 1);
		flip(e, 1, 0, round ? row->bytes + 32 + 4 * 800 + 50 : row->file_bytes - 5, 1);
		memset(after, 0, sizeof(after));
		assert_int_equal(segments_hashes(e->ss, 1, after, &n), 0);
		assert_int_equal(n, 800);
		assert_memory_equal(before, after, 800 * sizeof(before[0]));
	}
	only_these_fail(e, 0, 0);
}

static void a_file_cut_short_costs_what_is_missing(void **state)
{
	struct env *e = *state;
	char path[128];

	segment_make(e, 100);
	const uint32_t cut = ROUND_UP(frame_off(e, 0, 400), IO_ALIGN);
	env_path(e, 1, 0, path);
	assert_int_equal(truncate(path, cut), 0);
	env_remount(e);
	bool seen[800];
	uint64_t locs[800] = {0};
	for (unsigned i = 0; i < 800; i++)
		locs[i] = e->known[i].loc;
	assert_int_equal(env_read(e, locs, 800, seen), -EUCLEAN);
	for (unsigned i = 0; i < 800; i++)
		if (i < 392 || i >= 408)
			assert_int_equal(seen[i], i < 400);
}

static void a_missing_file_is_an_error_and_hurts_no_other(void **state)
{
	struct env *e = *state;
	char path[128];

	segment_make(e, 100);
	assert_int_equal(env_append(e, 100, 8), 0);
	assert_int_equal(env_commit(e), 0);
	env_path(e, 1, 0, path);
	assert_int_equal(unlink(path), 0);
	env_remount(e);
	only_these_fail(e, 0, 800);
}

static void a_failed_read_is_an_error_only_once(void **state)
{
	struct env *e = *state;

	segment_make(e, 10);
	e->io.reads_fail = true;
	assert_int_equal(env_read(e, &e->known[9].loc, 1, NULL), -EIO);
	e->io.reads_fail = false;
	only_these_fail(e, 0, 0);
}

static void locations_that_never_were_are_stale(void **state)
{
	struct env *e = *state;
	uint64_t locs[] = {loc_make(1, 79), loc_make(1, 80), loc_make(1, 4095), loc_make(9, 0)};

	segment_make(e, 10);
	assert_int_equal(env_read(e, locs, 1, NULL), 0);
	for (unsigned i = 1; i < ARRAY_SIZE(locs); i++)
		assert_int_equal(env_read(e, &locs[i], 1, NULL), -ESTALE);
	bool seen[4];
	assert_int_equal(env_read(e, locs, 4, seen), -ESTALE);
	assert_true(seen[0]);
}

/* --- an open segment that is damaged when it is mounted --- */

static void a_damaged_open_segment_is_sealed_with_what_is_good(void **state)
{
	struct env *e = *state;

	assert_int_equal(env_append(e, 30, 8), 0);
	assert_int_equal(env_commit(e), 0);
	const uint32_t off = frame_off(e, 0, 80);
	flip(e, 1, 0, off, 64); /* its slots are known to nobody now */
	flip(e, 1, 0, frame_off(e, 0, 160) + 64 + 16 * 8 + 5, 1);
	env_remount(e);
	bool seen[240];
	uint64_t locs[240] = {0};
	for (unsigned i = 0; i < 240; i++)
		locs[i] = e->known[i].loc;
	for (unsigned round = 0; round < 3; round++) {
		assert_int_equal(env_read(e, locs, 240, seen), -EUCLEAN);
		for (unsigned i = 0; i < 240; i++)
			if (i < 160 || i >= 168)
				assert_int_equal(seen[i], i < 80 || i >= 88);
		assert_int_equal(env_append(e, 1, 8), 0);
		assert_int_not_equal(loc_segment(e->known[e->n_known - 1].loc), 1);
		assert_int_equal(env_commit(e), 0);
		assert_int_equal(env_row(e, 1)->state, SEGMENT_SEALED);
		assert_int_equal(env_row(e, 1)->gen, 0);
		env_remount(e);
	}
}

static void an_open_segment_without_a_file_does_not_stop_the_mount(void **state)
{
	struct env *e = *state;
	char path[128];

	assert_int_equal(env_append(e, 30, 8), 0);
	assert_int_equal(env_commit(e), 0);
	env_path(e, 1, 0, path);
	assert_int_equal(unlink(path), 0);
	env_remount(e);
	assert_int_equal(env_append(e, 3, 8), 0);
	segments_seal_all(e->ss);
	assert_int_equal(env_commit(e), 0);
	only_these_fail(e, 0, 240);
}

static void garbage_past_the_committed_length_is_void(void **state)
{
	struct env *e = *state;
	char path[128];

	assert_int_equal(env_append(e, 30, 8), 0);
	assert_int_equal(env_commit(e), 0);
	env_path(e, 1, 0, path);
	/* A frame of a group that was never committed, in full, and junk after it. */
	FILE *f = fopen(path, "r+");
	static uint8_t copy[40000];
	assert_int_equal(fseek(f, IO_ALIGN, SEEK_SET), 0);
	assert_int_equal(fread(copy, 1, sizeof(copy), f), sizeof(copy));
	assert_int_equal(fseek(f, env_row(e, 1)->bytes, SEEK_SET), 0);
	assert_int_equal(fwrite(copy, 1, sizeof(copy), f), sizeof(copy));
	fclose(f);
	env_remount(e);
	assert_int_equal(env_append(e, 1, 8), 0);
	assert_int_equal(loc_segment(e->known[e->n_known - 1].loc), 1);
	segments_seal_all(e->ss);
	assert_int_equal(env_commit(e), 0);
	assert_true(scan(e, 0, 0)->footer_good);
	env_remount(e);
	only_these_fail(e, 0, 0);
}

static void a_row_that_cannot_be_is_refused(void **state)
{
	struct env *e = *state;
	struct errmsg em = {""};

	segment_make(e, 10);
	segments_close(e->ss);
	e->ss = NULL;
	e->meta->rows[1].bytes += 100;
	assert_int_equal(env_mount_try(e, &em), -EUCLEAN);
	assert_non_null(strstr(em.text, "segment 1"));
}

/* --- damage and rewriting --- */

static void rewriting_keeps_damage_detected(void **state)
{
	struct env *e = *state;
	struct slot_bits all;
	uint64_t written = 0;

	memset(&all, 0xff, sizeof(all));
	segment_make(e, 100);
	flip(e, 1, 0, frame_off(e, 0, 80) + 70, 1);
	flip(e, 1, 0, frame_off(e, 0, 160) + 64 + 16 * 8 + 1, 8);
	all.words[1] &= ~(1ull << (83 - 64)); /* one slot of the damaged frame is dead, one other */
	all.words[3] = ~1ull;
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(segments_rewrite(e->ss, 1, &all, NULL, 0, &written), 0);
		assert_int_equal(env_commit(e), 0);
	}
	bool seen[800];
	uint64_t locs[800] = {0};
	for (unsigned i = 0; i < 800; i++)
		locs[i] = e->known[i].loc;
	assert_true(env_read(e, locs, 800, seen) < 0);
	for (unsigned i = 0; i < 800; i++)
		if (i < 160 || i >= 168)
			assert_int_equal(seen[i], (i < 80 || i >= 88) && i != 192);
	assert_int_equal(env_read(e, &locs[80], 1, NULL), -EUCLEAN);
	assert_int_equal(env_read(e, &locs[83], 1, NULL), -ESTALE);
	assert_int_equal(env_read(e, &locs[192], 1, NULL), -ESTALE);
}

static void a_good_copy_heals_a_damaged_slot_and_a_wrong_one_does_not(void **state)
{
	struct env *e = *state;
	struct slot_bits all;
	uint64_t written = 0;
	uint8_t good[2][CHUNK_SIZE], wrong[CHUNK_SIZE];

	memset(&all, 0xff, sizeof(all));
	segment_make(e, 100);
	flip(e, 1, 0, frame_off(e, 0, 80) + 70, 1);
	chunk_fill(e->known[81].seed, good[0]);
	chunk_fill(e->known[84].seed, good[1]);
	chunk_fill(999999, wrong);
	struct heal heals[] = {
	        {.loc = e->known[81].loc, .data = good[0]},
	        {.loc = e->known[84].loc, .data = good[1]},
	        {.loc = e->known[82].loc, .data = wrong},
	};
	assert_int_equal(segments_rewrite(e->ss, 1, &all, heals, 3, &written), 0);
	assert_true(heals[0].used && heals[1].used && !heals[2].used);
	assert_int_equal(env_commit(e), 0);
	for (unsigned i = 80; i < 88; i++)
		assert_int_equal(
		        env_read(e, &e->known[i].loc, 1, NULL), i == 81 || i == 84 ? 0 : -EUCLEAN);
	static uint8_t rest[8][CHUNK_SIZE];
	struct heal more[8];
	for (unsigned i = 0; i < 8; i++) {
		chunk_fill(e->known[80 + i].seed, rest[i]);
		more[i] = (struct heal){.loc = e->known[80 + i].loc, .data = rest[i]};
	}
	assert_int_equal(segments_rewrite(e->ss, 1, &all, more, 8, &written), 0);
	assert_int_equal(env_commit(e), 0);
	only_these_fail(e, 0, 0);
	env_remount(e);
	only_these_fail(e, 0, 0);
}

static void an_unreadable_frame_stops_a_rewrite(void **state)
{
	struct env *e = *state;
	struct slot_bits all;
	uint64_t written = 0;
	char path[128];

	memset(&all, 0xff, sizeof(all));
	segment_make(e, 100);
	only_these_fail(e, 0, 0);
	env_path(e, 1, 0, path);
	assert_int_equal(truncate(path, 40 * IO_ALIGN), 0);
	assert_int_equal(segments_rewrite(e->ss, 1, &all, NULL, 0, &written), -EIO);
	assert_false(env_file_exists(e, 1, 1));
	assert_int_equal(env_commit(e), 0);
	assert_int_equal(env_row(e, 1)->gen, 0);
}

static void an_abort_copies_a_damaged_open_segment_as_it_is(void **state)
{
	struct env *e = *state;

	assert_int_equal(env_append(e, 30, 8), 0);
	assert_int_equal(env_commit(e), 0);
	flip(e, 1, 0, frame_off(e, 0, 80) + 70, 1);
	assert_int_equal(env_append(e, 3, 8), 0);
	segments_txg_abort(e->ss);
	e->n_known -= 24;
	assert_int_equal(env_commit(e), 0);
	assert_int_equal(env_row(e, 1)->gen, 1);
	assert_int_equal(env_row(e, 1)->state, SEGMENT_SEALED);
	only_these_fail(e, 80, 8);
	env_remount(e);
	only_these_fail(e, 80, 8);
}

/* --- scans --- */

struct counted {
	unsigned frames, damaged;
	uint32_t last_off;
};

static void frame_count(void *arg, const struct frame_info *f, uint32_t off, const uint8_t *payload)
{
	struct counted *c = arg;

	assert_int_equal(f->image, 7);
	assert_true(off > c->last_off);
	c->last_off = off;
	c->frames++;
	c->damaged += payload == NULL;
}

static void a_scan_finds_what_the_footer_says(void **state)
{
	struct env *e = *state;
	static struct segment_contents by_footer;
	struct counted count = {0};
	struct slot_bits live;
	uint64_t written = 0;

	memset(&live, 0x77, sizeof(live)); /* frames with gaps */
	segment_make(e, 100);
	assert_int_equal(segments_rewrite(e->ss, 1, &live, NULL, 0, &written), 0);
	assert_int_equal(env_commit(e), 0);
	by_footer = *scan(e, 1, 0);
	assert_true(by_footer.footer_good);
	assert_true(by_footer.header_good);
	assert_int_equal(by_footer.header.gen, 1);
	assert_int_equal(by_footer.frames_end, env_row(e, 1)->bytes);
	assert_int_equal(by_footer.slots, 800);
	assert_int_equal(by_footer.frames, 100);
	flip(e, 1, 1, env_row(e, 1)->file_bytes - 1, 1);
	const struct segment_contents *c = scan(e, 1, 0);
	assert_false(c->footer_good);
	assert_int_equal(c->slots, 799); /* the last one is dead */
	assert_memory_equal(c->table, by_footer.table, sizeof(c->table));
	assert_memory_equal(c->hashes, by_footer.hashes, sizeof(c->hashes));
	char name[SEGMENT_NAME_LEN];
	segment_name(0, 1, 1, name);
	flip(e, 1, 1, c->table[8].frame_pos * FRAME_ALIGN + 64 + 16 * 6 + 9, 1);
	assert_int_equal(
	        segment_scan(&e->io.base, name, 1, frame_store((const uint8_t *)"0123456789abcde"),
	                0, frame_count, &count, &by_footer),
	        0);
	assert_int_equal(count.frames, 100);
	assert_int_equal(count.damaged, 1);
	assert_int_equal(by_footer.damaged, 1);
}

/* A guest keeps another datastore's segment file in its image, under a frame header that is lost.
 */
static void a_scan_does_not_take_frames_out_of_payloads(void **state)
{
	struct env *e = *state;
	static uint8_t inner[2 * CHUNK_SIZE], chunk[CHUNK_SIZE];
	struct frame_info f = {.n = 1, .codec = CODEC_RAW, .payload_len = CHUNK_SIZE, .segment = 1};
	struct hash128 hashes[2];
	uint64_t loc = 0;

	f.store = frame_store((const uint8_t *)"another datastor");
	frame_slots_set(&f, 5);
	frame_encode(&f, chunk, inner);
	hashes[0] = chunk_hash(&e->hasher, inner);
	hashes[1] = chunk_hash(&e->hasher, inner + CHUNK_SIZE);
	const struct frame_spec spec = {.n = 2,
	        .codec = CODEC_RAW,
	        .hashes = hashes,
	        .payload = inner,
	        .payload_len = sizeof(inner)};
	assert_int_equal(segments_append(e->ss, 1, &spec, &loc), 0);
	segments_seal_all(e->ss);
	assert_int_equal(env_commit(e), 0);
	flip(e, 1, 0, IO_ALIGN, 8);
	const struct segment_contents *c = scan(e, 0, env_row(e, 1)->bytes);
	assert_int_equal(c->frames, 0);
	assert_int_equal(c->slots, 0);
	assert_true(c->strange_bytes > 0);
}

static void random_damage_never_gives_wrong_data(void **state)
{
	struct env *e = *state;
	uint64_t seed = 11;
	uint64_t locs[160] = {0};
	bool seen[160];

	segment_make(e, 20);
	for (unsigned i = 0; i < 160; i++)
		locs[i] = e->known[i].loc;
	for (unsigned round = 0; round < 150; round++) {
		const uint32_t off = rnd(&seed) % (env_row(e, 1)->file_bytes - 8);
		const uint32_t len = 1 + rnd(&seed) % 8;
		flip(e, 1, 0, off, len);
		env_remount(e);
		const int r = env_read(e, locs, 160, seen); /* asserts what it gets is right */
		assert_true(r == 0 || r == -EUCLEAN);
		unsigned bad = 0;
		for (unsigned i = 0; i < 160; i++)
			bad += !seen[i];
		assert_true(bad <= 16); /* eight bytes hurt two frames at most */
		flip(e, 1, 0, off, len);
	}
	only_these_fail(e, 0, 0);
}

#define T(f) cmocka_unit_test_setup_teardown(f, env_setup, env_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        T(a_damaged_header_block_hurts_no_frame),
	        T(a_damaged_frame_header_costs_that_frame),
	        T(a_damaged_payload_checksum_costs_nothing_that_is_right),
	        T(a_damaged_raw_payload_costs_one_chunk),
	        T(a_damaged_compressed_payload_never_gives_wrong_data),
	        T(a_damaged_slot_table_is_replaced_by_the_frames),
	        T(damaged_footer_hashes_are_replaced_by_those_of_frames),
	        T(a_file_cut_short_costs_what_is_missing),
	        T(a_missing_file_is_an_error_and_hurts_no_other),
	        T(a_failed_read_is_an_error_only_once),
	        T(locations_that_never_were_are_stale),
	        T(a_damaged_open_segment_is_sealed_with_what_is_good),
	        T(an_open_segment_without_a_file_does_not_stop_the_mount),
	        T(garbage_past_the_committed_length_is_void),
	        T(a_row_that_cannot_be_is_refused),
	        T(rewriting_keeps_damage_detected),
	        T(a_good_copy_heals_a_damaged_slot_and_a_wrong_one_does_not),
	        T(an_unreadable_frame_stops_a_rewrite),
	        T(an_abort_copies_a_damaged_open_segment_as_it_is),
	        T(a_scan_finds_what_the_footer_says),
	        T(a_scan_does_not_take_frames_out_of_payloads),
	        T(random_damage_never_gives_wrong_data),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

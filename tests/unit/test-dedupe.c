#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "store/dedupe.h"
#include "store/dedupe-file.h"

#define MIB            (1ull << 20)
#define NAME           "index"
#define WINDOW_ENTRIES (13 * MIB / 16 / 8) /* of a 1 MiB index */
#define SAMPLE_ENTRIES (2 * MIB / 16 / 8)

static const uint8_t uuid_a[16] = "datastore-number", uuid_b[16] = "another-datastor";

static uint64_t mix(uint64_t x)
{
	x ^= x >> 33;
	x *= 0xff51afd7ed558ccdull;
	x ^= x >> 33;
	x *= 0xc4ceb9fe1a85ec53ull;
	return x ^ x >> 33;
}

/* The hash of the i-th chunk, and where it is. */
static struct hash128 hash_of(uint64_t i)
{
	return (struct hash128){.lo = mix(2 * i + 1), .hi = mix(2 * i + 2)};
}

static uint64_t loc_of(uint64_t i)
{
	return loc_make(1 + i / SEGMENT_SLOTS, (unsigned)(i % SEGMENT_SLOTS));
}

static bool sampled(uint64_t i)
{
	return (hash_of(i).lo & 31) == 0;
}

/* --- a store of segments that have hash lists --- */

struct lists {
	unsigned calls, calls_of[64];
	uint64_t gone; /* this segment does not exist any more */
	int error;
};

static int list_fake(void *arg, uint64_t segment, struct hash128 *hashes, unsigned *ret_n)
{
	struct lists *l = arg;

	l->calls++;
	if (segment < ARRAY_SIZE(l->calls_of))
		l->calls_of[segment]++;
	if (segment == l->gone)
		return -ENOENT;
	if (l->error)
		return l->error;
	for (unsigned i = 0; i < SEGMENT_SLOTS; i++)
		hashes[i] = hash_of((segment - 1) * SEGMENT_SLOTS + i);
	hashes[7] = (struct hash128){0, 0}; /* a dead slot */
	*ret_n = SEGMENT_SLOTS;
	return 0;
}

static struct dedupe *index_of(uint64_t limit_bytes, struct lists *lists)
{
	struct dedupe *d = NULL;

	assert_int_equal(dedupe_create(limit_bytes, lists ? list_fake : NULL, lists, &d), 0);
	return d;
}

static void insert_range(struct dedupe *d, uint64_t from, uint64_t to)
{
	for (uint64_t i = from; i < to; i++)
		dedupe_insert(d, hash_of(i), loc_of(i));
}

static bool finds(struct dedupe *d, uint64_t i)
{
	uint64_t locs[DEDUPE_CANDIDATES];
	const unsigned n = dedupe_lookup(d, hash_of(i), locs);

	for (unsigned k = 0; k < n; k++)
		if (locs[k] == loc_of(i))
			return true;
	return false;
}

static uint64_t found_in(struct dedupe *d, uint64_t from, uint64_t to)
{
	uint64_t n = 0;

	for (uint64_t i = from; i < to; i++)
		n += finds(d, i);
	return n;
}

/* --- the window --- */

static void what_was_inserted_is_found_and_nothing_else(void **state)
{
	struct dedupe *d = index_of(MIB, NULL);
	uint64_t locs[DEDUPE_CANDIDATES], false_hits = 0;
	struct dedupe_stats st;

	insert_range(d, 0, 20000);
	assert_int_equal(found_in(d, 0, 20000), 20000);
	for (uint64_t i = 100000; i < 150000; i++)
		false_hits += dedupe_lookup(d, hash_of(i), locs);
	assert_true(false_hits < 50); /* a fifth of the ways full, 14 bits of tag: about 5 */
	dedupe_stats_get(d, &st);
	assert_int_equal(st.limit_bytes, MIB);
	assert_int_equal(st.lookups, 70000);
	assert_in_range(st.hits_window, 20000, 20050);
	assert_in_range(st.entries, 20500, 20750); /* and one sample in 32 */
	dedupe_free(d);
}

static void the_newest_candidate_comes_first_without_repeats(void **state)
{
	struct dedupe *d = index_of(MIB, NULL);
	uint64_t locs[DEDUPE_CANDIDATES];

	for (unsigned i = 1; i <= 6; i++)
		dedupe_insert(d, hash_of(1), loc_make(i, 0));
	dedupe_insert(d, hash_of(1), loc_make(4, 0));
	assert_int_equal(dedupe_lookup(d, hash_of(1), locs), DEDUPE_CANDIDATES);
	assert_int_equal(locs[0], loc_make(4, 0));
	assert_int_equal(locs[1], loc_make(6, 0));
	assert_int_equal(locs[2], loc_make(5, 0));
	assert_int_equal(locs[3], loc_make(3, 0));
	dedupe_free(d);
}

static void a_full_bucket_loses_its_oldest(void **state)
{
	struct hint_table t = {0};
	uint64_t locs[HINT_WAYS + 1];

	assert_int_equal(hints_init(&t, 1), 0);
	for (unsigned i = 0; i < HINT_WAYS; i++)
		hints_insert(&t, hash_of(5), loc_make(1 + i, 3));
	hints_insert(&t, hash_of(6), loc_make(77, 0));
	assert_int_equal(hints_find(&t, hash_of(5), locs, 0, HINT_WAYS), HINT_WAYS - 1);
	for (unsigned i = 0; i < HINT_WAYS - 1; i++)
		assert_int_equal(locs[i], loc_make(HINT_WAYS - i, 3));
	/* A refreshed entry is the newest again, and costs nobody's place. */
	hints_insert(&t, hash_of(5), loc_make(2, 3));
	hints_insert(&t, hash_of(6), loc_make(78, 0));
	assert_int_equal(hints_find(&t, hash_of(5), locs, 0, HINT_WAYS), HINT_WAYS - 2);
	assert_int_equal(locs[0], loc_make(2, 3));
	assert_int_equal(hints_count(&t), HINT_WAYS);
	/* A removed one leaves a place that the next takes. */
	hints_remove(&t, hash_of(5), loc_make(5, 3));
	assert_int_equal(hints_count(&t), HINT_WAYS - 1);
	hints_insert(&t, hash_of(6), loc_make(79, 0));
	assert_int_equal(hints_find(&t, hash_of(5), locs, 0, HINT_WAYS), HINT_WAYS - 3);
	assert_int_equal(hints_find(&t, hash_of(6), locs, 0, HINT_WAYS), 3);
	hints_release(&t);
}

static void the_window_holds_the_recent_past(void **state)
{
	struct dedupe *d = index_of(MIB, NULL);
	const uint64_t n = 4 * WINDOW_ENTRIES;
	struct dedupe_stats st;

	insert_range(d, 0, n);
	/* Eight-way buckets: nearly all of the last half of a window, few of the one before last.
	 */
	assert_true(found_in(d, n - WINDOW_ENTRIES / 2, n) > WINDOW_ENTRIES / 2 * 93 / 100);
	assert_true(
	        found_in(d, n - 3 * WINDOW_ENTRIES, n - 2 * WINDOW_ENTRIES) < WINDOW_ENTRIES / 10);
	dedupe_stats_get(d, &st);
	assert_true(st.bytes <= MIB);
	assert_in_range(st.entries, WINDOW_ENTRIES, WINDOW_ENTRIES + SAMPLE_ENTRIES);
	dedupe_free(d);
}

static void removed_candidates_are_gone_everywhere(void **state)
{
	struct lists lists = {0};
	struct dedupe *d = index_of(MIB, &lists);
	uint64_t i = 0;

	while (!sampled(i))
		i++;
	insert_range(d, 0, 2000);
	dedupe_remove(d, hash_of(i), loc_make(99, 0)); /* another place of the same hash */
	assert_true(finds(d, i));
	dedupe_remove(d, hash_of(i), loc_of(i));
	assert_false(finds(d, i));
	assert_int_equal(found_in(d, 0, 2000), 1999);
	assert_int_equal(lists.calls, 0);
	dedupe_free(d);
}

/* --- sample and lists --- */

/* Fills an index so that the first segments have left the window but are in the sample. */
static struct dedupe *index_beyond_window(struct lists *lists)
{
	struct dedupe *d = index_of(MIB, lists);

	insert_range(d, 0, 4 * WINDOW_ENTRIES);
	return d;
}

static void duplicates_beyond_the_window_are_found_by_their_neighbours(void **state)
{
	struct lists lists = {0};
	struct dedupe *d = index_beyond_window(&lists);
	struct dedupe_stats st;

	/* Segment by segment in the old order: all but what comes before the first sample. */
	const uint64_t n = 20 * SEGMENT_SLOTS;
	const uint64_t found = found_in(d, 0, n);
	print_message("found beyond the window: %.1f %%\n", 100. * (double)found / (double)n);
	assert_true(found > n * 95 / 100);
	dedupe_stats_get(d, &st);
	assert_true(st.hits_sample > n * 9 / 10);
	/* One listing a segment, or little more, though each has some 64 samples. */
	assert_in_range(lists.calls, 20, 45);
	dedupe_free(d);
}

static void a_list_in_use_is_kept_and_one_out_of_use_is_not_read_again(void **state)
{
	struct lists lists = {0};
	struct dedupe *d = index_beyond_window(&lists);

	/* Segment 1 between every two others: four lists fit into 1 MiB. */
	for (unsigned s = 1; s < 16; s++) {
		found_in(d, s * SEGMENT_SLOTS, (s + 1) * SEGMENT_SLOTS);
		const uint64_t found = found_in(d, 0, SEGMENT_SLOTS);
		assert_true(found > SEGMENT_SLOTS * 9 / 10);
	}
	assert_in_range(lists.calls_of[1], 2, 15);
	const unsigned calls = lists.calls;
	for (unsigned round = 0; round < 5; round++)
		found_in(d, 0, SEGMENT_SLOTS);
	assert_in_range(lists.calls, calls, calls + 1);
	dedupe_free(d);
}

static void a_segment_that_is_gone_takes_its_samples_along(void **state)
{
	struct lists lists = {.gone = 2};
	struct dedupe *d = index_beyond_window(&lists);

	found_in(d, SEGMENT_SLOTS, 2 * SEGMENT_SLOTS);
	const unsigned calls = lists.calls_of[2];
	assert_true(calls > 10);
	found_in(d, SEGMENT_SLOTS, 2 * SEGMENT_SLOTS);
	assert_int_equal(lists.calls_of[2], calls);
	dedupe_free(d);
}

static void a_list_that_cannot_be_read_leaves_the_sample(void **state)
{
	struct lists lists = {.error = -EIO};
	struct dedupe *d = index_beyond_window(&lists);
	const uint64_t found = found_in(d, 0, SEGMENT_SLOTS);

	assert_in_range(found, 20, 150); /* its samples */
	lists.error = 0;
	assert_true(found_in(d, 0, SEGMENT_SLOTS) > SEGMENT_SLOTS * 8 / 10);
	dedupe_free(d);
}

/* --- the file --- */

struct dir {
	char path[32];
	struct io *io;
};

static struct dir dir_make(void)
{
	struct dir dir = {.path = "/tmp/weir-dedupe-XXXXXX"};

	assert_non_null(mkdtemp(dir.path));
	assert_int_equal(io_posix_open(dir.path, &dir.io, NULL), 0);
	return dir;
}

static int name_remove(void *arg, const char *name, bool is_dir)
{
	return io_unlink(arg, name);
}

static void dir_remove(struct dir *dir)
{
	assert_int_equal(io_list(dir->io, "", name_remove, dir->io), 0);
	io_free(dir->io);
	assert_int_equal(rmdir(dir->path), 0);
}

static uint64_t file_size(struct dir *dir, const char *name)
{
	struct io_file *f = NULL;
	uint64_t size = 0;

	if (io_open(dir->io, name, IO_READ, &f) < 0)
		return UINT64_MAX;
	assert_int_equal(io_size(f, &size), 0);
	io_close(f);
	return size;
}

static uint8_t *file_read(struct dir *dir, size_t *ret_len)
{
	const uint64_t len = file_size(dir, NAME);
	uint8_t *buf = malloc(len);
	struct io_file *f = NULL;

	assert_non_null(buf);
	assert_int_equal(io_open(dir->io, NAME, IO_READ, &f), 0);
	assert_int_equal(io_pread_exact(f, buf, len, 0), 0);
	io_close(f);
	*ret_len = len;
	return buf;
}

static void file_write(struct dir *dir, const uint8_t *buf, size_t len)
{
	struct io_file *f = NULL;

	assert_int_equal(io_open(dir->io, NAME, IO_WRITE | IO_CREATE | IO_TRUNC, &f), 0);
	if (len)
		assert_int_equal(io_pwrite(f, buf, len, 0), 0);
	io_close(f);
}

static void save(struct dedupe *d, struct dir *dir, uint64_t txg)
{
	assert_int_equal(dedupe_save(d, dir->io, NAME, uuid_a, txg), 0);
	assert_int_equal(file_size(dir, NAME ".tmp"), UINT64_MAX);
}

/* Loads into a fresh index; on an error it must still be empty. */
static int load_fresh(struct dir *dir, uint64_t limit, uint64_t txg, struct dedupe **ret_idx)
{
	struct dedupe *d = index_of(limit, NULL);
	struct dedupe_stats st;
	const int r = dedupe_load(d, dir->io, NAME, uuid_a, txg);

	if (r < 0) {
		dedupe_stats_get(d, &st);
		assert_int_equal(st.entries, 0);
		dedupe_free(d);
		return r;
	}
	*ret_idx = d;
	return 0;
}

static void a_saved_index_comes_back_whole(void **state)
{
	const uint64_t counts[] = {0, 1, 1000, 3 * WINDOW_ENTRIES};

	for (unsigned k = 0; k < ARRAY_SIZE(counts); k++) {
		struct dir dir = dir_make();
		struct dedupe *a = index_of(2 * MIB, NULL), *b = NULL;
		struct dedupe_stats sa, sb;
		insert_range(a, 0, counts[k]);
		save(a, &dir, 17);
		assert_int_equal(load_fresh(&dir, 2 * MIB, 17, &b), 0);
		dedupe_stats_get(a, &sa);
		dedupe_stats_get(b, &sb);
		assert_int_equal(sa.entries, sb.entries);
		for (uint64_t i = 0; i < counts[k]; i++)
			assert_int_equal(finds(a, i), finds(b, i));
		/* Ages too: what is inserted now replaces the same hints in both. */
		insert_range(a, counts[k], counts[k] + 20000);
		insert_range(b, counts[k], counts[k] + 20000);
		for (uint64_t i = 0; i < counts[k] + 20000; i++)
			assert_int_equal(finds(a, i), finds(b, i));
		dedupe_free(a);
		dedupe_free(b);
		dir_remove(&dir);
	}
}

static void a_nearly_empty_index_makes_a_small_file(void **state)
{
	struct dir dir = dir_make();
	struct dedupe *d = index_of(256 * MIB, NULL), *back = NULL;

	insert_range(d, 0, 1000);
	save(d, &dir, 1);
	assert_in_range(file_size(&dir, NAME), 8000, 20000);
	assert_int_equal(load_fresh(&dir, 256 * MIB, 1, &back), 0);
	assert_int_equal(found_in(back, 0, 1000), 1000);
	dedupe_free(d);
	dedupe_free(back);
	dir_remove(&dir);
}

static void an_absent_foreign_or_older_file_is_refused(void **state)
{
	struct dir dir = dir_make();
	struct dedupe *d = index_of(MIB, NULL), *back = NULL;

	assert_int_equal(load_fresh(&dir, MIB, 5, &back), -ENOENT);
	insert_range(d, 0, 1000);
	save(d, &dir, 5);
	assert_int_equal(load_fresh(&dir, MIB, 6, &back), -ESTALE);
	assert_int_equal(load_fresh(&dir, MIB, 4, &back), -ESTALE);
	assert_int_equal(dedupe_load(d, dir.io, NAME, uuid_b, 5), -ESTALE);
	assert_int_equal(load_fresh(&dir, MIB, 5, &back), 0);
	dedupe_free(d);
	dedupe_free(back);
	dir_remove(&dir);
}

static void a_file_of_another_version_is_refused(void **state)
{
	uint8_t buf[INDEX_HEADER_LEN];
	struct index_header h = {.n_buckets = {1, 1}, .file_bytes = INDEX_HEADER_LEN}, back;

	index_header_encode(&h, buf);
	assert_int_equal(index_header_decode(buf, &back), 0);
	/* Version 2, its checksum made by the same rule. */
	const uint8_t v2[] = {2};
	memcpy(buf + 8, v2, 1);
	assert_int_equal(index_header_decode(buf, &back), -EUCLEAN);
	put_u64(buf + INDEX_HEADER_LEN - 8, 0xd92dbf7322f6a80full);
	assert_int_equal(index_header_decode(buf, &back), -ESTALE);
}

static void header_and_pieces_have_their_documented_bytes(void **state)
{
	static uint8_t buf[INDEX_PIECE_MAX];
	struct index_header h = {
	        .txg = 3, .n_buckets = {0x1000, 0x200}, .n_pieces = 2, .file_bytes = 0x1234};
	const uint64_t words[] = {1ull << HINT_TAG_SHIFT | loc_make(1, 2), loc_make(3, 4)};
	const uint8_t piece_head[] = {
	        'I', 'D', 'X', 'P', 1, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 31, 0, 0, 0};
	const uint8_t payload[] = {2, 2, 0x10, 0, 0, 0, 0, 4, 0, 4, 0x30, 0, 0, 0, 0, 0, 0, 0, 2, 0,
	        0, 0, 1, 4, 0x30, 0, 0, 0, 0, 0, 0};
	struct index_piece_out p;

	memcpy(h.uuid, uuid_a, 16);
	index_header_encode(&h, buf);
	assert_memory_equal(buf, "weiridx\n\1\0\0\0\0\0\0\0datastore-number\3\0\0\0\0\0\0\0", 40);
	assert_memory_equal(
	        buf + 40, "\0\x10\0\0\0\0\0\0\0\2\0\0\0\0\0\0\2\0\0\0\0\0\0\0\x34\x12", 26);
	assert_int_equal(get_u64(buf + 120), 0xa8a27a2a43177a12ull);

	index_piece_begin(&p, buf, INDEX_SAMPLE);
	assert_true(index_piece_add(&p, 5, words, 2));
	assert_true(index_piece_add(&p, 8, words + 1, 1));
	index_piece_end(&p, index_seed(uuid_a, 3));
	assert_int_equal(p.len, INDEX_PIECE_HEADER_LEN + sizeof(payload));
	assert_memory_equal(buf, piece_head, sizeof(piece_head));
	assert_int_equal(get_u64(buf + 24), 0xfc4bf70bcb6495b3ull);
	assert_memory_equal(buf + INDEX_PIECE_HEADER_LEN, payload, sizeof(payload));
}

static void any_flipped_bit_is_noticed_and_changes_nothing(void **state)
{
	struct dir dir = dir_make();
	struct dedupe *d = index_of(MIB, NULL), *back = NULL;
	size_t len;

	insert_range(d, 0, 60);
	save(d, &dir, 9);
	uint8_t *buf = file_read(&dir, &len);
	for (size_t i = 0; i < len; i++) {
		buf[i] ^= (uint8_t)(1u << i % 8);
		file_write(&dir, buf, len);
		assert_int_equal(load_fresh(&dir, MIB, 9, &back), -EUCLEAN);
		buf[i] ^= (uint8_t)(1u << i % 8);
	}
	file_write(&dir, buf, len);
	assert_int_equal(load_fresh(&dir, MIB, 9, &back), 0);
	free(buf);
	dedupe_free(d);
	dedupe_free(back);
	dir_remove(&dir);
}

static void damage_at_the_end_of_a_large_file_changes_nothing(void **state)
{
	struct dir dir = dir_make();
	struct dedupe *d = index_of(4 * MIB, NULL), *back = NULL;
	size_t len;

	insert_range(d, 0, 8 * WINDOW_ENTRIES);
	save(d, &dir, 9);
	uint8_t *buf = file_read(&dir, &len);
	assert_true(len > 3 * MIB); /* several pieces */
	buf[len - 3] ^= 4;
	file_write(&dir, buf, len);
	assert_int_equal(load_fresh(&dir, 4 * MIB, 9, &back), -EUCLEAN);
	free(buf);
	dedupe_free(d);
	dir_remove(&dir);
}

static void a_truncated_or_lengthened_file_is_refused(void **state)
{
	struct dir dir = dir_make();
	struct dedupe *d = index_of(MIB, NULL), *back = NULL;
	size_t len;

	insert_range(d, 0, 60);
	save(d, &dir, 9);
	uint8_t *buf = file_read(&dir, &len);
	for (size_t cut = 0; cut < len; cut++) {
		file_write(&dir, buf, cut);
		assert_int_equal(load_fresh(&dir, MIB, 9, &back), -EUCLEAN);
	}
	buf = realloc(buf, len + 1);
	assert_non_null(buf);
	buf[len] = 0;
	file_write(&dir, buf, len + 1);
	assert_int_equal(load_fresh(&dir, MIB, 9, &back), -EUCLEAN);
	free(buf);
	dedupe_free(d);
	dir_remove(&dir);
}

static void another_limit_takes_over_what_fits(void **state)
{
	struct dir dir = dir_make();
	struct dedupe *d = index_of(4 * MIB, NULL), *back = NULL;
	const uint64_t n = 2 * WINDOW_ENTRIES; /* half full */
	uint64_t i = 0;

	insert_range(d, 0, n);
	save(d, &dir, 1);
	/* Larger: all of it, and it ages like the rest. */
	const uint64_t before = found_in(d, 0, n);
	assert_true(before > n * 99 / 100);
	assert_int_equal(load_fresh(&dir, 8 * MIB, 1, &back), 0);
	for (i = 0; i < n; i++)
		assert_int_equal(finds(d, i), finds(back, i));
	insert_range(back, n, 2 * n);
	assert_true(found_in(back, n, 2 * n) > n * 99 / 100);
	assert_true(found_in(back, 0, n) > n * 9 / 10);
	dedupe_free(back);
	assert_int_equal(load_fresh(&dir, 5 * MIB, 1, &back), 0);
	assert_true(found_in(back, 0, n) > n * 8 / 10);
	dedupe_free(back);
	/* Smaller: the newest hints of each bucket. */
	assert_int_equal(load_fresh(&dir, 2 * MIB, 1, &back), 0);
	const uint64_t all = found_in(back, 0, n), newest = found_in(back, n * 3 / 4, n);
	print_message("half the limit keeps %.0f %%, of the newest quarter %.0f %%\n",
	        100. * (double)all / (double)n, 400. * (double)newest / (double)n);
	assert_true(all > n * 7 / 10);
	assert_true(newest * 4 > n * 9 / 10);
	dedupe_free(back);
	dedupe_free(d);
	dir_remove(&dir);
}

static void loading_adds_behind_what_is_there(void **state)
{
	struct dir dir = dir_make();
	struct dedupe *d = index_of(MIB, NULL), *live = index_of(MIB, NULL);

	insert_range(d, 0, 2 * WINDOW_ENTRIES); /* full */
	save(d, &dir, 1);
	const uint64_t from = 10 * WINDOW_ENTRIES;
	insert_range(live, from, from + 30000);
	const uint64_t before = found_in(live, from, from + 30000);
	assert_int_equal(dedupe_load(live, dir.io, NAME, uuid_a, 1), 0);
	assert_int_equal(found_in(live, from, from + 30000), before);
	assert_true(found_in(live, WINDOW_ENTRIES * 3 / 2, 2 * WINDOW_ENTRIES) >
	            WINDOW_ENTRIES / 2 * 8 / 10);
	dedupe_free(d);
	dedupe_free(live);
	dir_remove(&dir);
}

/* --- a disk that fails --- */

struct faulty_io {
	struct io base;
	struct io *below;
	int countdown; /* the operation that fails */
	bool short_write;
};

struct faulty_file {
	struct io_file base;
	struct io_file *below;
};

static struct faulty_io *faulty_of(struct io *io)
{
	return CONTAINER_OF(io, struct faulty_io, base);
}

static struct io_file *below_of(struct io_file *f)
{
	return CONTAINER_OF(f, struct faulty_file, base)->below;
}

static bool fails_now(struct io *io)
{
	return faulty_of(io)->countdown-- == 0;
}

static int faulty_open(struct io *io, const char *name, unsigned flags, struct io_file **ret_file)
{
	if (fails_now(io))
		return -ENOSPC;
	struct faulty_file *f = malloc(sizeof(*f));
	assert_non_null(f);
	f->base.io = io;
	const int r = io_open(faulty_of(io)->below, name, flags, &f->below);
	if (r < 0) {
		free(f);
		return r;
	}
	*ret_file = &f->base;
	return 0;
}

static void faulty_close(struct io_file *f)
{
	io_close(below_of(f));
	free(CONTAINER_OF(f, struct faulty_file, base));
}

static int faulty_pread(struct io_file *f, void *buf, size_t len, uint64_t off, size_t *ret_n)
{
	return fails_now(f->io) ? -EIO : io_pread(below_of(f), buf, len, off, ret_n);
}

static int faulty_pwritev(
        struct io_file *f, const struct iovec *iov, int n_iov, uint64_t off, size_t *ret_n)
{
	assert_int_equal(n_iov, 1);
	*ret_n = iov->iov_len;
	if (!fails_now(f->io))
		return io_pwrite(below_of(f), iov->iov_base, iov->iov_len, off);
	/* What a full disk does: half of it is there. */
	const int r = io_pwrite(below_of(f), iov->iov_base, iov->iov_len / 2, off);
	assert_int_equal(r, 0);
	return -ENOSPC;
}

static int faulty_sync(struct io_file *f)
{
	return fails_now(f->io) ? -EIO : io_sync(below_of(f));
}

static int faulty_size(struct io_file *f, uint64_t *ret_size)
{
	return fails_now(f->io) ? -EIO : io_size(below_of(f), ret_size);
}

static int faulty_unlink(struct io *io, const char *name)
{
	return io_unlink(faulty_of(io)->below, name);
}

static int faulty_rename(struct io *io, const char *from, const char *to)
{
	return fails_now(io) ? -EIO : io_rename(faulty_of(io)->below, from, to);
}

static int faulty_sync_dir(struct io *io, const char *name)
{
	assert_string_equal(name, "");
	return fails_now(io) ? -EIO : io_sync_dir(faulty_of(io)->below, name);
}

static const struct io_ops faulty_ops = {
        .open = faulty_open,
        .close = faulty_close,
        .pread = faulty_pread,
        .pwritev = faulty_pwritev,
        .sync = faulty_sync,
        .size = faulty_size,
        .unlink = faulty_unlink,
        .rename = faulty_rename,
        .sync_dir = faulty_sync_dir,
};

static void a_failed_save_leaves_the_old_file_or_the_new_one(void **state)
{
	struct dir dir = dir_make();
	struct dedupe *old = index_of(2 * MIB, NULL), *new = index_of(2 * MIB, NULL), *back = NULL;
	int step = 0, r = -1;
	unsigned kept_old = 0;

	insert_range(old, 0, 500);
	insert_range(new, 0, 3 * WINDOW_ENTRIES);
	for (; r < 0; step++) {
		save(old, &dir, 1);
		struct faulty_io f = {.base.ops = &faulty_ops, .below = dir.io, .countdown = step};
		r = dedupe_save(new, &f.base, NAME, uuid_a, 2);
		assert_int_equal(file_size(&dir, NAME ".tmp"), UINT64_MAX);
		const int as_old = load_fresh(&dir, 2 * MIB, 1, &back);
		if (as_old == 0) {
			assert_true(r < 0);
			kept_old++;
			assert_int_equal(found_in(back, 0, 500), 500);
		} else {
			assert_int_equal(as_old, -ESTALE);
			assert_int_equal(load_fresh(&dir, 2 * MIB, 2, &back), 0);
		}
		dedupe_free(back);
	}
	/* open, pieces (window two, sample one), header, sync, rename; then sync_dir and success.
	 */
	assert_int_equal(kept_old, 7);
	assert_int_equal(step, 9);
	dedupe_free(old);
	dedupe_free(new);
	dir_remove(&dir);
}

static void a_failed_read_is_reported_and_changes_nothing_while_checking(void **state)
{
	struct dir dir = dir_make();
	struct dedupe *d = index_of(MIB, NULL);
	int step = 0, r = -1;
	struct dedupe_stats st;

	insert_range(d, 0, 1000);
	save(d, &dir, 1);
	dedupe_free(d);
	for (; r < 0; step++) {
		struct faulty_io f = {.base.ops = &faulty_ops, .below = dir.io, .countdown = step};
		d = index_of(MIB, NULL);
		r = dedupe_load(d, &f.base, NAME, uuid_a, 1);
		assert_true(r == 0 || r == -EIO || (r == -ENOSPC && step == 0));
		dedupe_stats_get(d, &st);
		/* open, header, size, then two pieces of two reads, twice */
		if (step <= 7)
			assert_int_equal(st.entries, 0);
		dedupe_free(d);
	}
	assert_int_equal(step, 12);
	dir_remove(&dir);
}

/* --- threads --- */

struct worker {
	struct dedupe *d;
	struct dir *dir;
	uint64_t from;
	unsigned wrong, lost;
};

static void *worker_run(void *arg)
{
	struct worker *w = arg;
	uint64_t locs[DEDUPE_CANDIDATES];

	for (uint64_t i = w->from; i < w->from + 8000; i++) {
		dedupe_insert(w->d, hash_of(i), loc_of(i));
		w->lost += !finds(w->d, i);
		const unsigned n = dedupe_lookup(w->d, hash_of(i * 7 % 40000), locs);
		for (unsigned k = 0; k < n; k++)
			w->wrong += loc_segment(locs[k]) > 40000 / SEGMENT_SLOTS + 1;
		if (i % 3 == 0)
			dedupe_remove(w->d, hash_of(i - 1), loc_of(i - 1));
	}
	return NULL;
}

static void *loader_run(void *arg)
{
	struct worker *w = arg;

	w->wrong += dedupe_load(w->d, w->dir->io, NAME, uuid_a, 1) != 0;
	w->wrong += dedupe_save(w->d, w->dir->io, NAME "-2", uuid_a, 2) != 0;
	w->wrong += dedupe_load(w->d, w->dir->io, NAME "-2", uuid_a, 2) != 0;
	return NULL;
}

/* The list callback keeps no count here: it would race. */
static int list_plain(void *arg, uint64_t segment, struct hash128 *hashes, unsigned *ret_n)
{
	struct lists none = {0};

	return list_fake(&none, segment, hashes, ret_n);
}

static void threads_use_save_and_load_it_at_once(void **state)
{
	struct dir dir = dir_make();
	struct dedupe *d = index_of(2 * MIB, NULL);
	pthread_t threads[4];
	struct worker w[4];
	unsigned lost = 0;

	insert_range(d, 0, 8000);
	save(d, &dir, 1);
	dedupe_free(d);
	assert_int_equal(dedupe_create(2 * MIB, list_plain, NULL, &d), 0);
	for (unsigned i = 0; i < 4; i++) {
		w[i] = (struct worker){.d = d, .dir = &dir, .from = 8000 * (i + 1)};
		assert_int_equal(
		        pthread_create(&threads[i], NULL, i < 3 ? worker_run : loader_run, &w[i]),
		        0);
	}
	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(pthread_join(threads[i], NULL), 0);
		assert_int_equal(w[i].wrong, 0);
		lost += w[i].lost;
	}
	assert_true(lost < 24); /* hints may be lost to races, but hardly ever are */
	assert_true(found_in(d, 0, 8000) > 7900);
	dedupe_free(d);
	dir_remove(&dir);
}

/* Prints; a bound that only something badly wrong would break, since test machines are busy. */
static void lookups_and_inserts_are_quick(void **state)
{
	enum { N = 500000 };
	struct dedupe *d = index_of(64 * MIB, NULL);
	uint64_t locs[DEDUPE_CANDIDATES];

	uint64_t start_ns = clock_now_ns();
	insert_range(d, 0, N);
	const uint64_t insert_ns = (clock_now_ns() - start_ns) / N;
	start_ns = clock_now_ns();
	for (uint64_t i = 0; i < N; i++)
		dedupe_lookup(d, hash_of(i * 7919 % (2 * N)), locs);
	const uint64_t lookup_ns = (clock_now_ns() - start_ns) / N;
	print_message("insert %lu ns, lookup %lu ns\n", (unsigned long)insert_ns,
	        (unsigned long)lookup_ns);
	assert_true(insert_ns < 20000 && lookup_ns < 20000);
	dedupe_free(d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(what_was_inserted_is_found_and_nothing_else),
	        cmocka_unit_test(the_newest_candidate_comes_first_without_repeats),
	        cmocka_unit_test(a_full_bucket_loses_its_oldest),
	        cmocka_unit_test(the_window_holds_the_recent_past),
	        cmocka_unit_test(removed_candidates_are_gone_everywhere),
	        cmocka_unit_test(duplicates_beyond_the_window_are_found_by_their_neighbours),
	        cmocka_unit_test(a_list_in_use_is_kept_and_one_out_of_use_is_not_read_again),
	        cmocka_unit_test(a_segment_that_is_gone_takes_its_samples_along),
	        cmocka_unit_test(a_list_that_cannot_be_read_leaves_the_sample),
	        cmocka_unit_test(a_saved_index_comes_back_whole),
	        cmocka_unit_test(a_nearly_empty_index_makes_a_small_file),
	        cmocka_unit_test(an_absent_foreign_or_older_file_is_refused),
	        cmocka_unit_test(a_file_of_another_version_is_refused),
	        cmocka_unit_test(header_and_pieces_have_their_documented_bytes),
	        cmocka_unit_test(any_flipped_bit_is_noticed_and_changes_nothing),
	        cmocka_unit_test(damage_at_the_end_of_a_large_file_changes_nothing),
	        cmocka_unit_test(a_truncated_or_lengthened_file_is_refused),
	        cmocka_unit_test(another_limit_takes_over_what_fits),
	        cmocka_unit_test(loading_adds_behind_what_is_there),
	        cmocka_unit_test(a_failed_save_leaves_the_old_file_or_the_new_one),
	        cmocka_unit_test(a_failed_read_is_reported_and_changes_nothing_while_checking),
	        cmocka_unit_test(threads_use_save_and_load_it_at_once),
	        cmocka_unit_test(lookups_and_inserts_are_quick),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

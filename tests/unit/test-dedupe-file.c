#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "dedupe-fixture.h"
#include "store/dedupe-file.h"

#define NAME "index"

static const uint8_t uuid_a[16] = "datastore-number", uuid_b[16] = "another-datastor";

static struct dedupe *index_of(uint64_t limit_bytes)
{
	struct dedupe *d = NULL;

	assert_int_equal(dedupe_create(limit_bytes, NULL, NULL, &d), 0);
	return d;
}

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

/* Without IO_TRUNC: ext4 would write such a file out on close, a thousand times in these tests. */
static void file_write(struct dir *dir, const uint8_t *buf, size_t len)
{
	struct io_file *f = NULL;

	assert_int_equal(io_open(dir->io, NAME, IO_WRITE | IO_CREATE, &f), 0);
	if (len)
		assert_int_equal(io_pwrite(f, buf, len, 0), 0);
	assert_int_equal(io_truncate(f, len), 0);
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
	struct dedupe *d = index_of(limit);
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
		struct dedupe *a = index_of(2 * MIB), *b = NULL;
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
	struct dedupe *d = index_of(256 * MIB), *back = NULL;

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
	struct dedupe *d = index_of(MIB), *back = NULL;

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

static void assert_refused(struct dedupe *empty, struct dir *dir, uint64_t txg)
{
	struct dedupe_stats st;

	assert_int_equal(dedupe_load(empty, dir->io, NAME, uuid_a, txg), -EUCLEAN);
	dedupe_stats_get(empty, &st);
	assert_int_equal(st.entries, 0);
}

static void any_flipped_bit_is_noticed_and_changes_nothing(void **state)
{
	struct dir dir = dir_make();
	struct dedupe *d = index_of(MIB), *empty = index_of(MIB);
	size_t len;

	insert_range(d, 0, 60);
	save(d, &dir, 9);
	uint8_t *buf = file_read(&dir, &len);
	for (size_t i = 0; i < len; i++) {
		buf[i] ^= (uint8_t)(1u << i % 8);
		file_write(&dir, buf, len);
		assert_refused(empty, &dir, 9);
		buf[i] ^= (uint8_t)(1u << i % 8);
	}
	file_write(&dir, buf, len);
	assert_int_equal(dedupe_load(empty, dir.io, NAME, uuid_a, 9), 0);
	assert_int_equal(found_in(empty, 0, 60), 60);
	free(buf);
	dedupe_free(d);
	dedupe_free(empty);
	dir_remove(&dir);
}

static void damage_at_the_end_of_a_large_file_changes_nothing(void **state)
{
	struct dir dir = dir_make();
	struct dedupe *d = index_of(4 * MIB), *back = NULL;
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
	struct dedupe *d = index_of(MIB), *empty = index_of(MIB);
	size_t len;

	insert_range(d, 0, 60);
	save(d, &dir, 9);
	uint8_t *buf = file_read(&dir, &len);
	for (size_t cut = 0; cut < len; cut++) {
		file_write(&dir, buf, cut);
		assert_refused(empty, &dir, 9);
	}
	buf = realloc(buf, len + 1);
	assert_non_null(buf);
	buf[len] = 0;
	file_write(&dir, buf, len + 1);
	assert_refused(empty, &dir, 9);
	free(buf);
	dedupe_free(empty);
	dedupe_free(d);
	dir_remove(&dir);
}

static void another_limit_takes_over_what_fits(void **state)
{
	struct dir dir = dir_make();
	struct dedupe *d = index_of(4 * MIB), *back = NULL;
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
	struct dedupe *d = index_of(MIB), *live = index_of(MIB);

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
	int countdown;  /* the operation that fails */
	char trace[32]; /* a letter for each operation */
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

static bool fails_now(struct io *io, char operation)
{
	struct faulty_io *f = faulty_of(io);
	const size_t n = strlen(f->trace);

	assert_true(n + 1 < sizeof(f->trace));
	f->trace[n] = operation;
	return f->countdown-- == 0;
}

static int faulty_open(struct io *io, const char *name, unsigned flags, struct io_file **ret_file)
{
	if (fails_now(io, 'o'))
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
	return fails_now(f->io, 'p') ? -EIO : io_pread(below_of(f), buf, len, off, ret_n);
}

static int faulty_pwritev(
        struct io_file *f, const struct iovec *iov, int n_iov, uint64_t off, size_t *ret_n)
{
	assert_int_equal(n_iov, 1);
	*ret_n = iov->iov_len;
	if (!fails_now(f->io, 'w'))
		return io_pwrite(below_of(f), iov->iov_base, iov->iov_len, off);
	/* What a full disk does: half of it is there. */
	const int r = io_pwrite(below_of(f), iov->iov_base, iov->iov_len / 2, off);
	assert_int_equal(r, 0);
	return -ENOSPC;
}

static int faulty_sync(struct io_file *f)
{
	return fails_now(f->io, 's') ? -EIO : io_sync(below_of(f));
}

static int faulty_size(struct io_file *f, uint64_t *ret_size)
{
	return fails_now(f->io, 'z') ? -EIO : io_size(below_of(f), ret_size);
}

static int faulty_unlink(struct io *io, const char *name)
{
	return io_unlink(faulty_of(io)->below, name);
}

static int faulty_rename(struct io *io, const char *from, const char *to)
{
	return fails_now(io, 'r') ? -EIO : io_rename(faulty_of(io)->below, from, to);
}

static int faulty_sync_dir(struct io *io, const char *name)
{
	assert_string_equal(name, "");
	return fails_now(io, 'd') ? -EIO : io_sync_dir(faulty_of(io)->below, name);
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

static void a_save_is_durable_before_it_takes_the_name(void **state)
{
	struct dir dir = dir_make();
	struct dedupe *d = index_of(2 * MIB);
	struct faulty_io f = {.base.ops = &faulty_ops, .below = dir.io, .countdown = -1};

	insert_range(d, 0, 3 * WINDOW_ENTRIES);
	assert_int_equal(dedupe_save(d, &f.base, NAME, uuid_a, 2), 0);
	/* open, window in two pieces, sample in one, header, sync, rename, sync of the directory */
	assert_string_equal(f.trace, "owwwwsrd");
	dedupe_free(d);
	dir_remove(&dir);
}

static void a_failed_save_leaves_the_old_file_or_the_new_one(void **state)
{
	struct dir dir = dir_make();
	struct dedupe *old = index_of(2 * MIB), *new = index_of(2 * MIB), *back = NULL;
	int step = 0, r = -1;
	unsigned kept_old = 0;

	insert_range(old, 0, 500);
	insert_range(new, 0, 3 * WINDOW_ENTRIES);
	for (; r < 0; step++) {
		save(old, &dir, 1);
		struct faulty_io f = {.base.ops = &faulty_ops, .below = dir.io, .countdown = step};
		r = dedupe_save(new, &f.base, NAME, uuid_a, 2);
		/* Nothing is tried again, and no temporary file stays. */
		assert_int_equal(strlen(f.trace), MIN(step + 1, 8));
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
	assert_int_equal(kept_old, strlen("owwwwsr"));
	assert_int_equal(step, strlen("owwwwsrd") + 1);
	dedupe_free(old);
	dedupe_free(new);
	dir_remove(&dir);
}

static void a_failed_read_is_reported_and_changes_nothing_while_checking(void **state)
{
	struct dir dir = dir_make();
	struct dedupe *d = index_of(MIB);
	int step = 0, r = -1;
	struct dedupe_stats st;

	insert_range(d, 0, 1000);
	save(d, &dir, 1);
	dedupe_free(d);
	for (; r < 0; step++) {
		struct faulty_io f = {.base.ops = &faulty_ops, .below = dir.io, .countdown = step};
		d = index_of(MIB);
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

/* More than the window holds: lookups go to the sample and the lists as well. */
#define PAST (3 * WINDOW_ENTRIES)

static void *worker_run(void *arg)
{
	struct worker *w = arg;
	uint64_t locs[DEDUPE_CANDIDATES];

	for (uint64_t i = w->from; i < w->from + 8000; i++) {
		dedupe_insert(w->d, hash_of(i), loc_of(i));
		w->lost += !finds(w->d, i);
		const unsigned n = dedupe_lookup(w->d, hash_of(i * 7919 % PAST), locs);
		for (unsigned k = 0; k < n; k++)
			w->wrong += !hint_valid(locs[k]) || locs[k] > loc_of(PAST + 32000);
		if (i % 3 == 0)
			dedupe_remove(w->d, hash_of(i), loc_of(i));
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

static int list_fake(void *arg, uint64_t segment, struct hash128 *hashes, unsigned *ret_n)
{
	segment_hashes(segment, hashes);
	*ret_n = SEGMENT_SLOTS;
	return 0;
}

static void threads_use_save_and_load_it_at_once(void **state)
{
	struct dir dir = dir_make();
	struct dedupe *d = index_of(MIB);
	struct dedupe_stats st;
	pthread_t threads[4];
	struct worker w[4];
	unsigned lost = 0;

	insert_range(d, 0, PAST);
	save(d, &dir, 1);
	dedupe_free(d);
	assert_int_equal(dedupe_create(MIB, list_fake, NULL, &d), 0);
	assert_int_equal(dedupe_load(d, dir.io, NAME, uuid_a, 1), 0);
	for (unsigned i = 0; i < 4; i++) {
		w[i] = (struct worker){.d = d, .dir = &dir, .from = PAST + 8000 * i};
		assert_int_equal(
		        pthread_create(&threads[i], NULL, i < 3 ? worker_run : loader_run, &w[i]),
		        0);
	}
	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(pthread_join(threads[i], NULL), 0);
		assert_int_equal(w[i].wrong, 0);
		lost += w[i].lost;
	}
	assert_true(lost < 1200); /* hints may be lost to races, but few of the 24,000 are */
	dedupe_stats_get(d, &st);
	assert_true(st.hits_sample > 100);
	dedupe_free(d);
	dir_remove(&dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
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
	        cmocka_unit_test(a_save_is_durable_before_it_takes_the_name),
	        cmocka_unit_test(a_failed_save_leaves_the_old_file_or_the_new_one),
	        cmocka_unit_test(a_failed_read_is_reported_and_changes_nothing_while_checking),
	        cmocka_unit_test(threads_use_save_and_load_it_at_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

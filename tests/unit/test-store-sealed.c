/*
 * test-store-sealed.c - images of crypto domains, beside others: apart, locked, moved, wiped; and
 * what else their policies say
 */
#include "sealed-bed.h"

/* --- sealed images --- */

static void a_sealed_image_is_read_back_and_not_found_in_files(void **state)
{
	struct bed b;

	sealed_make(&b);
	struct image *img = bed_image(&b, SEALED_A), *plain = bed_image(&b, 1);
	secret_write(img, 0, 100);
	bed_write(img, MIB, MIB, 5);
	assert_int_equal(store_sync(b.store), 0);
	assert_int_equal(files_hold(&b, SECRET, 20), 0);
	assert_int_equal(files_hold(&b, (const char *)key_1, sizeof(key_1)), 0);
	secret_write(plain, 0, 100);
	assert_int_equal(store_sync(b.store), 0);
	assert_true(files_hold(&b, SECRET, 20) > 0);
	store_image_close(img);
	store_image_close(plain);
	reopen(&b);
	img = bed_image(&b, SEALED_A);
	secret_expect(img, 0, 100);
	bed_expect(img, MIB, MIB, 5);
	store_image_close(img);
	sealed_free(&b);
}

static void duplicates_are_found_within_a_domain_only(void **state)
{
	struct bed b;

	sealed_make(&b);
	struct image *plain = bed_image(&b, 1), *a = bed_image(&b, SEALED_A),
	             *a2 = bed_image(&b, SEALED_B), *other = bed_image(&b, OTHER);
	bed_write(plain, 0, MIB, 7);
	assert_int_equal(store_sync(b.store), 0);
	bed_write(a, 0, MIB, 7);
	bed_write(other, 0, MIB, 7);
	assert_int_equal(store_sync(b.store), 0);
	assert_int_equal(stat_hits(&b), 0);
	bed_write(a2, 0, MIB, 7);
	assert_int_equal(store_sync(b.store), 0);
#ifndef WEIR_HASH_BITS /* with so few bits, more of them collide than candidates are kept */
	assert_int_equal(stat_hits(&b), LEAF_CHUNKS);
#endif
	bed_expect(a2, 0, MIB, 7);
	store_image_close(plain);
	store_image_close(a);
	store_image_close(a2);
	store_image_close(other);
	sealed_free(&b);
}

static void sharing_stays_within_a_domain(void **state)
{
	struct bed b;
	uint64_t len = 0;

	sealed_make(&b);
	struct image *plain = bed_image(&b, 1), *a = bed_image(&b, SEALED_A),
	             *a2 = bed_image(&b, SEALED_B);
	bed_write(a, 0, MIB, 7);
	assert_int_equal(store_sync(b.store), 0);
	store_enter(b.store);
	assert_int_equal(store_share(a, 0, plain, 0, MIB, &len), -EXDEV);
	assert_int_equal(store_share(plain, 0, a, 0, MIB, &len), -EXDEV);
	assert_int_equal(store_share(a, 0, a2, 0, MIB, &len), 0);
	store_leave(b.store);
	assert_int_equal(len, MIB);
	assert_int_equal(store_sync(b.store), 0);
	bed_expect(a2, 0, MIB, 7);
	store_image_close(plain);
	store_image_close(a);
	store_image_close(a2);
	sealed_free(&b);
}

static void a_locked_domain_is_closed_to_reads_and_writes(void **state)
{
	struct bed b;
	uint8_t buf[CHUNK_SIZE];

	sealed_make(&b);
	struct image *img = bed_image(&b, SEALED_A), *plain = bed_image(&b, 1);
	bed_write(img, 0, MIB, 7);
	bed_write(plain, 0, MIB, 8);
	assert_int_equal(store_sync(b.store), 0);
	bed_expect(img, 0, MIB, 7); /* now it is in the cache */
	store_image_close(img);
	assert_int_equal(store_domain_lock(b.store, 1), 0);
	assert_int_equal(keyring_remove(b.cfg.keyring, 1), 0);
	img = bed_image(&b, SEALED_A);
	assert_int_equal(store_read(img, 0, buf, sizeof(buf)), -ENOKEY);
	store_enter(b.store);
	assert_int_equal(store_write(img, 0, buf, sizeof(buf)), -ENOKEY);
	assert_int_equal(store_punch(img, 0, MIB, false), -ENOKEY);
	store_leave(b.store);
	/* Others go on. */
	bed_write(plain, MIB, MIB, 9);
	assert_int_equal(store_sync(b.store), 0);
	bed_expect(plain, 0, MIB, 8);
	assert_int_equal(keyring_add(b.cfg.keyring, 1, key_1), 0);
	assert_int_equal(store_domain_unlocked(b.store, 1), 0);
	bed_expect(img, 0, MIB, 7);
	store_image_close(img);
	store_image_close(plain);
	sealed_free(&b);
}

static void a_locked_image_can_be_deleted(void **state)
{
	struct bed b;
	struct gc_report report;

	sealed_make(&b);
	struct image *img = bed_image(&b, SEALED_A);
	bed_write(img, 0, 4 * MIB, 7);
	assert_int_equal(store_sync(b.store), 0);
	store_image_close(img);
	assert_int_equal(store_domain_lock(b.store, 1), 0);
	assert_int_equal(keyring_remove(b.cfg.keyring, 1), 0);
	store_enter(b.store);
	assert_int_equal(store_image_delete(b.store, SEALED_A), 0);
	store_leave(b.store);
	assert_int_equal(store_sync(b.store), 0);
	assert_int_equal(store_gc(b.store, true, NULL, NULL, &report), 0);
	assert_true(report.segments_freed > 0);
	sealed_free(&b);
}

static void the_collector_rebuilds_sealed_segments(void **state)
{
	struct bed b;
	struct gc_report report;

	sealed_make(&b);
	struct image *img = bed_image(&b, SEALED_A);
	bed_write(img, 0, 4 * MIB, 7);
	assert_int_equal(store_sync(b.store), 0);
	bed_expect(img, 0, 4 * MIB, 7);
	for (uint64_t off = 0; off < 4 * MIB; off += 2 * CHUNK_SIZE)
		bed_punch(img, off, CHUNK_SIZE, false);
	assert_int_equal(store_gc(b.store, true, NULL, NULL, &report), 0);
	assert_true(report.segments_rewritten > 0);
	assert_true(report.freed_bytes > MIB);
	store_image_close(img);
	reopen(&b);
	img = bed_image(&b, SEALED_A);
	uint8_t *want = malloc(4 * MIB), *got = malloc(4 * MIB);
	bed_bytes(7, want, 4 * MIB);
	for (uint64_t off = 0; off < 4 * MIB; off += 2 * CHUNK_SIZE)
		memset(want + off, 0, CHUNK_SIZE);
	assert_int_equal(store_read(img, 0, got, 4 * MIB), 0);
	assert_memory_equal(want, got, 4 * MIB);
	free(want);
	free(got);
	store_image_close(img);
	sealed_free(&b);
}

static void an_index_rebuilt_from_footers_finds_sealed_duplicates(void **state)
{
	struct bed b;

	sealed_make(&b);
	struct image *img = bed_image(&b, SEALED_A);
	bed_write(img, 0, 4 * MIB, 7);
	assert_int_equal(store_sync(b.store), 0);
	store_image_close(img);
	assert_int_equal(store_close(b.store), 0);
	assert_int_equal(io_unlink(iosim_io(b.sim), INDEX_NAME), 0);
	b.cfg.manual = false;
	bed_open(&b);
	while (atomic_load(&b.store->index_loading))
		nanosleep(&(struct timespec){0, 1000000}, NULL);
	img = bed_image(&b, SEALED_B);
	bed_write(img, 0, 4 * MIB, 7);
	assert_int_equal(store_sync(b.store), 0);
	assert_int_equal(stat_hits(&b), 4 * LEAF_CHUNKS);
	store_image_close(img);
	sealed_free(&b);
}

/* --- moving --- */

static void policy_domain_set(struct image *img, uint32_t domain)
{
	struct image_policy p;

	store_policy_get(img, &p);
	p.domain = domain;
	store_enter(img->store);
	store_policy_set(img, &p);
	store_leave(img->store);
}

static unsigned reseal_all(struct image *img)
{
	uint64_t found = 1;
	unsigned passes = 0;

	while (found > 0) {
		assert_int_equal(store_reseal(img, 0, IMAGE_SIZE_MAX, &found), 0);
		assert_int_equal(store_sync(img->store), 0);
		passes++;
		assert_true(passes < 10);
	}
	return passes;
}

static void an_image_is_moved_to_a_domain_and_leaves_nothing_behind(void **state)
{
	struct bed b;

	sealed_make(&b);
	struct image *img = bed_image(&b, 1);
	secret_write(img, 0, 300);
	bed_write(img, 8 * MIB, MIB, 7);
	bed_punch(img, 20 * MIB, 4 * MIB, true);
	assert_int_equal(store_sync(b.store), 0);
	bed_write(img, 9 * MIB, MIB, 9); /* dirty still */
	policy_domain_set(img, 1);
	assert_int_equal(reseal_all(img), 2);
	assert_true(files_hold(&b, SECRET, 20) > 0); /* dead, and there */
	assert_int_equal(store_wipe_dead(b.store, 0, NULL, NULL), 0);
	assert_int_equal(files_hold(&b, SECRET, 20), 0);
	secret_expect(img, 0, 300);
	bed_expect(img, 8 * MIB, MIB, 7);
	bed_expect(img, 9 * MIB, MIB, 9);
	uint64_t at = 0;
	assert_int_equal(store_seek(img, 10 * MIB, false, &at), 0);
	assert_int_equal(at, 20 * MIB); /* holes stay holes, zeros zeros */
	assert_int_equal(store_seek(img, 20 * MIB, true, &at), 0);
	assert_int_equal(at, 24 * MIB);
	/* And back. */
	policy_domain_set(img, 0);
	assert_int_equal(reseal_all(img), 2);
	assert_true(files_hold(&b, SECRET, 20) > 0);
	secret_expect(img, 0, 300);
	store_image_close(img);
	sealed_free(&b);
}

static void what_others_share_stays_in_the_clear(void **state)
{
	struct bed b;

	sealed_make(&b);
	struct image *img = bed_image(&b, 1), *other = bed_image(&b, 2);
	secret_write(img, 0, 20);
	secret_write(other, 0, 10);
	assert_int_equal(store_sync(b.store), 0);
	assert_int_equal(files_hold(&b, "16: " SECRET, 20), 1);
	policy_domain_set(img, 1);
	reseal_all(img);
	assert_int_equal(store_wipe_dead(b.store, 0, NULL, NULL), 0);
	/* The first chunk of a frame is there as it is. */
	assert_int_equal(files_hold(&b, "8: " SECRET, 20), 1);
	assert_int_equal(files_hold(&b, "16: " SECRET, 20), 0);
	secret_expect(img, 0, 20);
	secret_expect(other, 0, 10);
	store_image_close(img);
	store_image_close(other);
	sealed_free(&b);
}

static void what_is_dirty_is_left_alone(void **state)
{
	struct bed b;
	uint64_t found = 0;

	sealed_make(&b);
	struct image *img = bed_image(&b, 1);
	bed_write(img, 0, MIB, 7);
	assert_int_equal(store_sync(b.store), 0);
	policy_domain_set(img, 1);
	bed_write(img, 0, 64 << 10, 8);
	bed_punch(img, 128 << 10, 64 << 10, false);
	assert_int_equal(store_reseal(img, 0, MIB, &found), 0);
	assert_int_equal(found, LEAF_CHUNKS - 32 + 1); /* and the leaf */
	bed_write(img, 512 << 10, 64 << 10, 9);        /* over what was put there */
	assert_int_equal(store_sync(b.store), 0);
	bed_expect(img, 0, 64 << 10, 8);
	bed_expect(img, 128 << 10, 64 << 10, 0);
	bed_expect(img, 512 << 10, 64 << 10, 9);
	uint8_t want[MIB / 4], got[4096];
	bed_bytes(7, want, sizeof(want));
	assert_int_equal(store_read(img, 64 << 10, got, sizeof(got)), 0);
	assert_memory_equal(got, want + (64 << 10), sizeof(got));
	assert_int_equal(store_reseal(img, 0, MIB, &found), 0);
	assert_int_equal(found, 0);
	store_image_close(img);
	sealed_free(&b);
}

/* --- what happens while a chunk to be moved is read --- */

static struct {
	struct io_ops ops;
	const struct io_ops *real;
	void (*fn)(struct image *img); /* called once, after a read */
	struct image *img;
} between;

static int between_pread(struct io_file *f, void *buf, size_t len, uint64_t off, size_t *ret_n)
{
	const int r = between.real->pread(f, buf, len, off, ret_n);

	if (between.fn)
		STEAL(between.fn)(between.img);
	return r;
}

static void write_dirty(struct image *img)
{
	bed_write(img, 0, CHUNK_SIZE, 8);
}

static void write_committed(struct image *img)
{
	bed_write(img, 0, CHUNK_SIZE, 8);
	assert_int_equal(store_sync(img->store), 0);
}

/* Its group is frozen, and the commit fails for now. */
static void write_frozen(struct image *img)
{
	struct bed *b = img->store->cfg.hooks.arg;
	const struct iosim_fault fault = {.prefix = "segments/", .ops = IOSIM_SYNC, .err = -EIO};

	bed_write(img, 0, CHUNK_SIZE, 8);
	iosim_fault(b->sim, &fault);
	assert_int_equal(store_sync(img->store), -EIO);
	iosim_faults_clear(b->sim);
	atomic_store(&img->store->commit_error, 0); /* else the throttle would refuse us */
}

static void punch_dirty(struct image *img)
{
	bed_punch(img, 0, MIB, false);
}

static void a_write_that_comes_between_wins(void **state)
{
	void (*const fns[])(struct image * img) = {
	        write_dirty, write_committed, write_frozen, punch_dirty};
	uint8_t rest[CHUNK_SIZE * 2], got[CHUNK_SIZE];
	uint64_t found;

	bed_bytes(7, rest, sizeof(rest));
	for (unsigned i = 0; i < ARRAY_SIZE(fns); i++) {
		struct bed b;
		sealed_make(&b);
		struct image *img = bed_image(&b, 1);
		bed_write(img, 0, MIB, 7);
		assert_int_equal(store_sync(b.store), 0);
		policy_domain_set(img, 1);
		struct io *io = iosim_io(b.sim);
		between.real = io->ops;
		between.ops = *io->ops;
		between.ops.pread = between_pread;
		between.img = img;
		between.fn = fns[i];
		io->ops = &between.ops;
		assert_int_equal(store_reseal(img, 0, MIB, &found), 0);
		assert_null(between.fn);
		io->ops = between.real;
		assert_int_equal(store_sync(b.store), 0);
		bed_expect(img, 0, CHUNK_SIZE, fns[i] == punch_dirty ? 0 : 8);
		assert_int_equal(store_read(img, CHUNK_SIZE, got, sizeof(got)), 0);
		if (fns[i] != punch_dirty)
			assert_memory_equal(got, rest + CHUNK_SIZE, CHUNK_SIZE);
		store_image_close(img);
		sealed_free(&b);
	}
}

struct racer {
	struct image *img;
	_Atomic bool stop;
	unsigned last[64]; /* writes so far */
};

/* Content number n >= 1 of a chunk: its byte, never 0. */
static int race_byte(unsigned n)
{
	return (int)(1 + n % 255);
}

static void *race_main(void *arg)
{
	struct racer *rc = arg;
	uint64_t x = 1;

	while (!rc->stop) {
		x = x * 6364136223846793005ull + 1;
		const unsigned i = x >> 33 & 63;
		uint8_t chunk[CHUNK_SIZE];
		rc->last[i]++;
		memset(chunk, race_byte(rc->last[i]), sizeof(chunk));
		assert_int_equal(store_throttle(rc->img->store, sizeof(chunk)), 0);
		store_enter(rc->img->store);
		assert_int_equal(
		        store_write(rc->img, i * 16 * CHUNK_SIZE, chunk, sizeof(chunk)), 0);
		store_leave(rc->img->store);
	}
	return NULL;
}

static void writers_and_moving_do_not_disturb_each_other(void **state)
{
	struct bed b;
	struct racer rc = {0};
	pthread_t t;

	sealed_make(&b);
	assert_int_equal(store_close(b.store), 0);
	b.cfg.manual = false;
	b.cfg.txg_ns = NS_PER_SEC / 200;
	bed_open(&b);
	rc.img = bed_image(&b, 1);
	bed_write(rc.img, 0, 4 * MIB, 7);
	assert_int_equal(pthread_create(&t, NULL, race_main, &rc), 0);
	for (unsigned i = 0; i < 20; i++) {
		uint64_t found;
		policy_domain_set(rc.img, i % 2 ? 0 : 1);
		assert_int_equal(store_reseal(rc.img, 0, 4 * MIB, &found), 0);
	}
	rc.stop = true;
	pthread_join(t, NULL);
	assert_int_equal(store_sync(b.store), 0);
	uint8_t *want = malloc(4 * MIB), *got = malloc(4 * MIB);
	bed_bytes(7, want, 4 * MIB);
	for (unsigned i = 0; i < 64; i++)
		if (rc.last[i])
			memset(want + i * 16 * CHUNK_SIZE, race_byte(rc.last[i]), CHUNK_SIZE);
	assert_int_equal(store_read(rc.img, 0, got, 4 * MIB), 0);
	assert_memory_equal(want, got, 4 * MIB);
	free(want);
	free(got);
	store_image_close(rc.img);
	sealed_free(&b);
}

static void a_crash_while_an_image_is_moved_loses_nothing(void **state)
{
	struct bed b;
	uint64_t found;

	sealed_make(&b);
	struct image *img = bed_image(&b, 1);
	bed_write(img, 0, 4 * MIB, 7);
	assert_int_equal(store_sync(b.store), 0);
	policy_domain_set(img, 1);
	assert_int_equal(store_reseal(img, 0, 2 * MIB, &found), 0);
	assert_int_equal(store_sync(b.store), 0);
	assert_int_equal(store_reseal(img, 2 * MIB, MIB, &found), 0);
	bed_write(img, 3 * MIB, CHUNK_SIZE, 8);
	assert_int_equal(store_flush(b.store, img), 0);
	store_image_close(img);
	bed_crash(&b);
	bed_open(&b);
	img = bed_image(&b, 1);
	uint8_t *want = malloc(4 * MIB), *got = malloc(4 * MIB);
	bed_bytes(7, want, 4 * MIB);
	bed_bytes(8, want + 3 * MIB, CHUNK_SIZE);
	assert_int_equal(store_read(img, 0, got, 4 * MIB), 0);
	assert_memory_equal(want, got, 4 * MIB);
	free(want);
	free(got);
	store_image_close(img);
	sealed_free(&b);
}

/* --- the other stages --- */

static void policy_set(
        struct image *img, enum policy_compress c, unsigned level, enum policy_dedupe d)
{
	const struct image_policy p = {.compress = c, .level = (uint8_t)level, .dedupe = d};

	store_enter(img->store);
	store_policy_set(img, &p);
	store_leave(img->store);
}

/* Text of sorts: words out of a few, so that LZ4HC finds more than LZ4. */
static void text_write(struct image *img, uint64_t off, size_t len, uint64_t seed)
{
	static const char *words[] = {"segment ", "frame ", "chunk ", "a ", "map ", "of ", "the ",
	        "recovery ", "index ", "is ", "seldom ", "written ", "again\n", "overlay "};
	char *buf = malloc(len + 16);

	for (size_t n = 0; n < len;) {
		seed = seed * 6364136223846793005ull + 1442695040888963407ull;
		const char *w = words[seed >> 40 & 15 ? (seed >> 40) % ARRAY_SIZE(words) : 0];
		memcpy(buf + n, w, strlen(w));
		n += strlen(w);
	}
	store_enter(img->store);
	assert_int_equal(store_write(img, off, buf, len), 0);
	store_leave(img->store);
	free(buf);
}

static uint64_t compressed_out(struct bed *b, struct image *img, enum policy_compress c,
        unsigned level, struct policy_cost *ret_cost)
{
	static uint64_t seed;
	const uint64_t before = atomic_load(&b->store->count.compressed_out_bytes);
	struct policy_cost was;

	store_policy_cost(img, &was);
	policy_set(img, c, level, POLICY_DEDUPE_OFF);
	text_write(img, 0, 2 * MIB, ++seed);
	assert_int_equal(store_sync(b->store), 0);
	store_policy_cost(img, ret_cost);
	ret_cost->compress_ns -= was.compress_ns;
	ret_cost->compress_out_bytes -= was.compress_out_bytes;
	return atomic_load(&b->store->count.compressed_out_bytes) - before;
}

static void images_are_compressed_as_their_policy_says(void **state)
{
	struct policy_cost cost;
	struct bed b;

	sealed_make(&b);
	struct image *img = bed_image(&b, 1);
	const uint64_t off = compressed_out(&b, img, POLICY_COMPRESS_OFF, 0, &cost);
	assert_int_equal(off, 2 * MIB);
	assert_int_equal(cost.compress_out_bytes, 0);
	const uint64_t fast = compressed_out(&b, img, POLICY_LZ4, 0, &cost);
	assert_int_equal(cost.compress_out_bytes, fast);
	assert_true(cost.compress_ns > 0);
	const uint64_t hard = compressed_out(&b, img, POLICY_LZ4HC, 9, &cost);
	const uint64_t automatic = compressed_out(&b, img, POLICY_COMPRESS_AUTO, 0, &cost);
	assert_true(fast < off * 3 / 4);
	assert_true(hard < fast * 9 / 10);
	assert_true(automatic < fast * 9 / 10);
	bed_write(img, 0, MIB, 3); /* does not compress */
	const uint64_t raw = atomic_load(&b.store->count.chunks_raw);
	assert_int_equal(store_sync(b.store), 0);
	assert_int_equal(atomic_load(&b.store->count.chunks_raw) - raw, LEAF_CHUNKS);
	bed_expect(img, 0, MIB, 3);
	store_image_close(img);
	sealed_free(&b);
}

static void duplicates_are_looked_for_as_the_policy_says(void **state)
{
	struct policy_cost cost;
	struct bed b;

	sealed_make(&b);
	struct image *img = bed_image(&b, 1);
	bed_write(img, 0, MIB, 7);
	assert_int_equal(store_sync(b.store), 0);
	policy_set(img, POLICY_LZ4, 0, POLICY_DEDUPE_OFF);
	bed_write(img, MIB, MIB, 7);
	assert_int_equal(store_sync(b.store), 0);
	assert_int_equal(stat_hits(&b), 0);
	policy_set(img, POLICY_LZ4, 0, POLICY_DEDUPE_ON);
	bed_write(img, 2 * MIB, MIB, 7);
	assert_int_equal(store_sync(b.store), 0);
	assert_int_equal(stat_hits(&b), LEAF_CHUNKS);
	store_policy_cost(img, &cost);
	assert_int_equal(cost.dedupe_chunks, 2 * LEAF_CHUNKS);
	assert_int_equal(cost.dedupe_hits, LEAF_CHUNKS);
	assert_true(cost.dedupe_ns > 0 && cost.commit_ns > cost.dedupe_ns);
	assert_int_equal(cost.encrypt_bytes, 0);
	store_image_close(img);
	sealed_free(&b);
}

/* What is cached is right; what is on the disk is not. */
static void verified_dedupe_does_not_believe_the_cache(void **state)
{
	struct bed b;

	for (unsigned verify = 0; verify < 2; verify++) {
		sealed_make(&b);
		struct image *img = bed_image(&b, 1);
		policy_set(img, POLICY_LZ4, 0, verify ? POLICY_DEDUPE_VERIFY : POLICY_DEDUPE_ON);
		bed_write(img, 0, 64 << 10, 7);
		assert_int_equal(store_sync(b.store), 0);
		bed_expect(img, 0, 64 << 10, 7);
		assert_int_equal(
		        iosim_corrupt(b.sim, "segments/01/0000000001.0", 4096, 128 << 10, 1), 0);
		bed_write(img, MIB, 64 << 10, 7);
		assert_int_equal(store_sync(b.store), 0);
		assert_int_equal(stat_hits(&b), verify ? 0 : 16);
		store_image_close(img);
		sealed_free(&b);
	}
}

static void sealing_is_counted(void **state)
{
	struct policy_cost cost;
	struct bed b;

	sealed_make(&b);
	struct image *img = bed_image(&b, SEALED_A);
	bed_write(img, 0, MIB, 7);
	assert_int_equal(store_sync(b.store), 0);
	store_policy_cost(img, &cost);
	assert_int_equal(cost.encrypt_bytes, MIB);
	assert_true(cost.encrypt_ns > 0);
	store_image_close(img);
	sealed_free(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(a_sealed_image_is_read_back_and_not_found_in_files),
	        cmocka_unit_test(duplicates_are_found_within_a_domain_only),
	        cmocka_unit_test(sharing_stays_within_a_domain),
	        cmocka_unit_test(a_locked_domain_is_closed_to_reads_and_writes),
	        cmocka_unit_test(a_locked_image_can_be_deleted),
	        cmocka_unit_test(the_collector_rebuilds_sealed_segments),
	        cmocka_unit_test(an_index_rebuilt_from_footers_finds_sealed_duplicates),
	        cmocka_unit_test(an_image_is_moved_to_a_domain_and_leaves_nothing_behind),
	        cmocka_unit_test(what_others_share_stays_in_the_clear),
	        cmocka_unit_test(what_is_dirty_is_left_alone),
	        cmocka_unit_test(a_write_that_comes_between_wins),
	        cmocka_unit_test(writers_and_moving_do_not_disturb_each_other),
	        cmocka_unit_test(a_crash_while_an_image_is_moved_loses_nothing),
	        cmocka_unit_test(images_are_compressed_as_their_policy_says),
	        cmocka_unit_test(duplicates_are_looked_for_as_the_policy_says),
	        cmocka_unit_test(verified_dedupe_does_not_believe_the_cache),
	        cmocka_unit_test(sealing_is_counted),
	};

	return cmocka_run_group_tests_name("store-sealed", tests, NULL, NULL);
}

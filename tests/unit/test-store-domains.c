/*
 * test-store-domains.c - images in crypto domains: sealed leaves and log, locked, parked, unlocked
 */
#include "store-bed.h"
#include "store/ilog-format.h"

#define SECRET (7 * BED_SEALED + 1ull) /* image in domain 7 */
#define OTHER  (8 * BED_SEALED + 1ull) /* image in domain 8 */
#define PLAIN  3ull                    /* image in the domain of bed.policy: none */

/* With a keyring of the test's own, empty but for domain 0. */
static void bed_begin(struct bed *b)
{
	struct store_state state;

	bed_make(b);
	struct meta *m = fake_meta_port(b->meta);
	assert_int_equal(m->ops->state_get(m, &state), 0);
	assert_int_equal(keyring_new(state.uuid, state.domain_key, &b->cfg.keyring), 0);
}

static void bed_end(struct bed *b)
{
	bed_free(b);
	keyring_free(b->cfg.keyring);
}

static void key_add(struct bed *b, uint32_t domain)
{
	uint8_t key[SEAL_KEY_LEN];

	memset(key, (int)domain, sizeof(key));
	assert_int_equal(keyring_add(b->cfg.keyring, domain, key), 0);
}

static void keys_add(struct bed *b)
{
	key_add(b, 7);
	key_add(b, 8);
}

/* As if the daemon had been restarted: it has no keys. */
static void keys_gone(struct bed *b)
{
	if (keyring_has(b->cfg.keyring, 7))
		assert_int_equal(keyring_remove(b->cfg.keyring, 7), 0);
	if (keyring_has(b->cfg.keyring, 8))
		assert_int_equal(keyring_remove(b->cfg.keyring, 8), 0);
}

static void close_clean(struct bed *b)
{
	assert_int_equal(store_close(b->store), 0);
	b->store = NULL;
}

static void write_one(struct bed *b, uint64_t image, uint64_t off, size_t len, uint64_t seed)
{
	struct image *img = bed_image(b, image);

	bed_write(img, off, len, seed);
	store_image_close(img);
}

static void flush_one(struct bed *b, uint64_t image)
{
	struct image *img = bed_image(b, image);

	assert_int_equal(store_flush(b->store, img), 0);
	store_image_close(img);
}

static void expect_one(struct bed *b, uint64_t image, uint64_t off, size_t len, uint64_t seed)
{
	struct image *img = bed_image(b, image);

	bed_expect(img, off, len, seed);
	store_image_close(img);
}

static void expect_locked(struct bed *b, uint64_t image)
{
	struct image *img = bed_image(b, image);
	uint8_t buf[512];
	uint64_t off;

	assert_int_equal(store_read(img, 0, buf, sizeof(buf)), -ENOKEY);
	assert_int_equal(store_seek(img, 0, false, &off), -ENOKEY);
	store_enter(b->store);
	assert_int_equal(store_write(img, 0, buf, sizeof(buf)), -ENOKEY);
	assert_int_equal(store_punch(img, 0, MIB, false), -ENOKEY);
	store_leave(b->store);
	assert_int_equal(store_allocated(img, &off), 0); /* for stat() */
	store_image_close(img);
}

static void unlock(struct bed *b, uint32_t domain)
{
	key_add(b, domain);
	assert_int_equal(store_domain_unlocked(b->store, domain), 0);
}

/* Is the needle in any file's bytes as they lie on the disk? */
static bool on_disk(struct bed *b, const char *file, const void *needle, size_t len)
{
	struct io_file *f = NULL;
	uint64_t size;

	assert_int_equal(io_open(iosim_io(b->sim), file, IO_READ, &f), 0);
	assert_int_equal(io_size(f, &size), 0);
	uint8_t *all = malloc(size);
	assert_int_equal(io_pread_exact(f, all, size, 0), 0);
	const bool found = memmem(all, size, needle, len) != NULL;
	free(all);
	io_close(f);
	return found;
}

/* --- sealed --- */

static void what_is_flushed_is_not_in_the_log_in_plain(void **state)
{
	struct bed b;
	uint8_t secret[8192];

	bed_begin(&b);
	keys_add(&b);
	bed_open(&b);
	bed_bytes(5, secret, sizeof(secret));
	write_one(&b, SECRET, 4096, sizeof(secret), 5);
	write_one(&b, SECRET, MIB + 100, 300, 5);
	flush_one(&b, SECRET);
	assert_false(on_disk(&b, "log", secret, 64));
	assert_false(on_disk(&b, "log", secret + 4096, 64));
	write_one(&b, PLAIN, 4096, sizeof(secret), 5);
	flush_one(&b, PLAIN);
	assert_true(on_disk(&b, "log", secret, 64)); /* so the test would notice */
	bed_end(&b);
}

static int node_is_sealed(void *arg, uint64_t id)
{
	struct bed *b = arg;
	struct meta *m = fake_meta_port(b->meta);
	uint8_t blob[NODE_BLOB_MAX];
	struct map_node n;
	size_t len;

	assert_int_equal(m->ops->node_get(m, id, blob, sizeof(blob), &len), 0);
	const int r = map_node_decode(blob, len, id, &n);
	if (n.level == 0)
		assert_int_equal(r, -ENOKEY);
	else
		assert_int_equal(r, 0);
	return 0;
}

static void every_leaf_of_an_image_in_a_domain_is_sealed(void **state)
{
	struct bed b;
	struct meta *m;

	bed_begin(&b);
	keys_add(&b);
	bed_open(&b);
	m = fake_meta_port(b.meta);
	for (unsigned i = 0; i < 5; i++)
		write_one(&b, SECRET, i * 3 * MIB, 100 + i * 9000, 1 + i);
	assert_int_equal(store_sync(b.store), 0);
	assert_true(fake_meta_node_count(b.meta) > 5);
	assert_int_equal(m->ops->node_each(m, 1, MAP_NODE_MAX, node_is_sealed, &b), 0);
	close_clean(&b);
	bed_open(&b);
	for (unsigned i = 0; i < 5; i++)
		expect_one(&b, SECRET, i * 3 * MIB, 100 + i * 9000, 1 + i);
	bed_end(&b);
}

static void touched_leaves_follow_the_images_domain(void **state)
{
	struct image_policy policy = {.domain = 7};
	struct bed b;
	uint64_t n = 0, chunk = 0;

	bed_begin(&b);
	keys_add(&b);
	bed_open(&b);
	struct image *img = bed_image(&b, PLAIN);
	bed_write(img, 0, 8192, 1);
	bed_punch(img, 2 * MIB, 8192, true); /* zeros, and nothing else in the leaf */
	bed_write(img, 300 * MIB, 4096, 2);
	assert_int_equal(store_sync(b.store), 0);
	assert_int_equal(store_foreign_chunks(b.store, PLAIN, 0, NULL, NULL, &n), 0);
	assert_int_equal(n, 0);
	assert_int_equal(store_foreign_chunks(b.store, PLAIN, 7, NULL, NULL, &n), 0);
	assert_int_equal(n, 3 + 3); /* chunks, leaves */
	b.policy = policy;
	store_enter(b.store);
	store_policy_set(img, &policy);
	store_leave(b.store);
	for (n = 0; chunk < IMAGE_CHUNKS_MAX; n++) {
		assert_int_equal(map_next_foreign_leaf(img->map, chunk, 7, &chunk), 0);
		if (chunk >= IMAGE_CHUNKS_MAX)
			break;
		store_enter(b.store);
		assert_int_equal(overlay_touch_leaf(img, chunk), 0);
		store_leave(b.store);
		chunk += LEAF_CHUNKS;
	}
	assert_int_equal(n, 3);
	assert_int_equal(store_sync(b.store), 0);
	assert_int_equal(store_foreign_chunks(b.store, PLAIN, 7, NULL, NULL, &n), 0);
	assert_int_equal(n, 3); /* the chunks themselves are still where they were */
	struct meta *m = fake_meta_port(b.meta);
	assert_int_equal(m->ops->node_each(m, 1, MAP_NODE_MAX, node_is_sealed, &b), 0);
	store_image_close(img);
	close_clean(&b);
	bed_open(&b);
	expect_one(&b, PLAIN, 0, 8192, 1);
	expect_one(&b, PLAIN, 2 * MIB, 8192, 0);
	expect_one(&b, PLAIN, 300 * MIB, 4096, 2);
	bed_end(&b);
}

/* --- locked --- */

static void a_locked_image_is_no_damage_and_others_work(void **state)
{
	const uint64_t ids[] = {SECRET, PLAIN};
	struct image_stats st[2];
	struct store_stats ss;
	struct bed b;

	bed_begin(&b);
	keys_add(&b);
	bed_open(&b);
	write_one(&b, SECRET, 0, MIB, 1);
	write_one(&b, PLAIN, 0, MIB, 2);
	close_clean(&b);
	keys_gone(&b);
	bed_open(&b);
	expect_locked(&b, SECRET);
	expect_one(&b, PLAIN, 0, MIB, 2);
	write_one(&b, PLAIN, MIB, 4096, 3);
	flush_one(&b, PLAIN);
	assert_int_equal(store_sync(b.store), 0);
	assert_int_equal(store_image_stats(b.store, ids, 2, true, NULL, NULL, st), 0);
	assert_int_equal(st[0].data_chunks, 256);
	assert_int_equal(st[0].unique_chunks, 0);
	assert_int_equal(st[1].unique_chunks, 257);
	store_stats_get(b.store, &ss);
	assert_int_equal(ss.health, STORE_OK);
	/* An open handle works once the key is there. */
	struct image *img = bed_image(&b, SECRET);
	unlock(&b, 7);
	bed_expect(img, 0, MIB, 1);
	bed_write(img, 4096, 100, 4);
	store_image_close(img);
	assert_int_equal(store_sync(b.store), 0);
	bed_end(&b);
}

static void locking_at_work_leaves_nothing_in_caches(void **state)
{
	struct bed b;

	bed_begin(&b);
	keys_add(&b);
	bed_open(&b);
	write_one(&b, SECRET, 0, MIB, 1); /* not committed yet */
	write_one(&b, PLAIN, 0, MIB, 2);
	expect_one(&b, SECRET, 0, MIB, 1);
	assert_int_equal(store_domain_lock(b.store, 7), 0);
	assert_int_equal(keyring_remove(b.cfg.keyring, 7), 0);
	expect_locked(&b, SECRET);
	struct map *map;
	uint64_t entry;
	assert_int_equal(map_open(b.store->maps, SECRET, &map), 0);
	assert_int_equal(map_get(map, 0, 1, &entry), -ENOKEY);
	map_close(map);
	expect_one(&b, PLAIN, 0, MIB, 2);
	unlock(&b, 7);
	expect_one(&b, SECRET, 0, MIB, 1);
	bed_end(&b);
}

static void a_locked_image_can_be_deleted(void **state)
{
	struct gc_report report;
	struct store_stats st;
	struct bed b;

	bed_begin(&b);
	keys_add(&b);
	bed_open(&b);
	write_one(&b, SECRET, 0, 3 * MIB, 1);
	close_clean(&b);
	keys_gone(&b);
	bed_open(&b);
	store_enter(b.store);
	assert_int_equal(store_image_delete(b.store, SECRET), 0);
	store_leave(b.store);
	assert_int_equal(store_sync(b.store), 0);
	assert_int_equal(fake_meta_node_count(b.meta), 0);
	assert_int_equal(store_gc(b.store, true, NULL, NULL, &report), 0);
	store_stats_get(b.store, &st);
	assert_int_equal(st.segments, 0); /* no leaf of the domain is left: nothing is in doubt */
	bed_end(&b);
}

/* --- the collector --- */

static void the_collector_leaves_segments_of_locked_domains_alone(void **state)
{
	struct gc_report report;
	struct store_stats st, before;
	struct bed b;

	bed_begin(&b);
	keys_add(&b);
	bed_open(&b);
	for (unsigned i = 0; i < 4; i++) {
		write_one(&b, SECRET, i * MIB, MIB, 1 + i);
		write_one(&b, OTHER, i * MIB, MIB, 11 + i);
		write_one(&b, PLAIN, i * MIB, MIB, 21 + i);
	}
	assert_int_equal(store_sync(b.store), 0);
	/* Half of each is dead. */
	for (unsigned i = 0; i < 2; i++) {
		write_one(&b, SECRET, i * MIB, MIB, 31 + i);
		write_one(&b, OTHER, i * MIB, MIB, 41 + i);
		write_one(&b, PLAIN, i * MIB, MIB, 51 + i);
	}
	close_clean(&b);
	keys_gone(&b);
	key_add(&b, 8);
	bed_open(&b);
	store_stats_get(b.store, &before);
	assert_int_equal(store_gc(b.store, true, NULL, NULL, &report), 0);
	assert_true(report.segments_locked > 0);
	assert_true(report.segments_rewritten + report.segments_freed > 0); /* of the others */
	assert_true(report.nodes_freed == 0);
	store_stats_get(b.store, &st);
	assert_true(st.stored_bytes < before.stored_bytes);
	unlock(&b, 7);
	for (unsigned round = 0; round < 2; round++) {
		for (unsigned i = 0; i < 4; i++) {
			expect_one(&b, SECRET, i * MIB, MIB, i < 2 ? 31 + i : 1 + i);
			expect_one(&b, OTHER, i * MIB, MIB, i < 2 ? 41 + i : 11 + i);
			expect_one(&b, PLAIN, i * MIB, MIB, i < 2 ? 51 + i : 21 + i);
		}
		/* With the key, its space comes back as well. */
		store_stats_get(b.store, &before);
		assert_int_equal(store_gc(b.store, true, NULL, NULL, &report), 0);
		assert_int_equal(report.segments_locked, 0);
		store_stats_get(b.store, &st);
		assert_true(round > 0 || st.stored_bytes < before.stored_bytes);
	}
	bed_end(&b);
}

static void share(struct bed *b, uint64_t from, uint64_t to, uint64_t off, uint64_t len)
{
	struct image *src = bed_image(b, from), *dst = bed_image(b, to);
	uint64_t done = 0;

	store_enter(b->store);
	assert_int_equal(store_share(src, off, dst, off, len, &done), 0);
	store_leave(b->store);
	assert_int_equal(done, len);
	store_image_close(src);
	store_image_close(dst);
}

static void delete_one(struct bed *b, uint64_t image)
{
	store_enter(b->store);
	assert_int_equal(store_image_delete(b->store, image), 0);
	store_leave(b->store);
}

/* A locked leaf refers to segments of no domain: nobody else does any more. */
static void a_locked_leaf_that_points_elsewhere_stops_all_sweeping(void **state)
{
	struct gc_report report;
	struct bed b;

	bed_begin(&b);
	keys_add(&b);
	bed_open(&b);
	write_one(&b, PLAIN, 0, 2 * MIB, 1);
	assert_int_equal(store_sync(b.store), 0);
	struct image *src = bed_image(&b, PLAIN), *dst = bed_image(&b, SECRET);
	uint64_t entries[4];
	assert_int_equal(map_get(src->map, 0, 4, entries), 0);
	store_enter(b.store);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(overlay_set(dst, i, entries[i]), 0);
	store_leave(b.store);
	store_image_close(src);
	store_image_close(dst);
	delete_one(&b, PLAIN);
	close_clean(&b);
	keys_gone(&b);
	bed_open(&b);
	assert_int_equal(store_gc(b.store, true, NULL, NULL, &report), 0);
	assert_int_equal(report.segments_freed + report.segments_rewritten, 0);
	assert_int_equal(report.segments_locked, 1);
	unlock(&b, 7);
	expect_one(&b, SECRET, 0, 16384, 1);
	assert_int_equal(store_gc(b.store, true, NULL, NULL, &report), 0);
	assert_int_equal(report.segments_rewritten, 1);
	expect_one(&b, SECRET, 0, 16384, 1);
	bed_end(&b);
}

/* --- parked --- */

/* SECRET as of its last flush: see secret_expect(). */
static void secret_make(struct bed *b)
{
	write_one(b, SECRET, 0, 2 * MIB, 1);
	assert_int_equal(store_sync(b->store), 0);
	write_one(b, SECRET, 8192, 4096, 2);
	flush_one(b, SECRET);
	struct image *img = bed_image(b, SECRET);
	bed_punch(img, 65536, 100000, false);
	bed_punch(img, MIB, MIB, true);
	bed_write(img, MIB + 5000, 1000, 3);
	store_image_close(img);
	flush_one(b, SECRET);
	write_one(b, SECRET, 8192 + 100, 50, 4); /* partial, over what is flushed */
	flush_one(b, SECRET);
	write_one(b, PLAIN, 0, 4096, 9);
	flush_one(b, PLAIN);
}

static void secret_expect(struct bed *b)
{
	struct image *img = bed_image(b, SECRET);
	uint8_t *want = malloc(2 * MIB), *got = malloc(2 * MIB), part[4096];

	bed_bytes(1, want, 2 * MIB);
	bed_bytes(2, want + 8192, 4096);
	memset(want + 65536, 0, 100000);
	memset(want + MIB, 0, MIB);
	bed_bytes(3, part, 1000);
	memcpy(want + MIB + 5000, part, 1000);
	bed_bytes(4, part, 50);
	memcpy(want + 8192 + 100, part, 50);
	assert_int_equal(store_read(img, 0, got, 2 * MIB), 0);
	assert_memory_equal(got, want, 2 * MIB);
	free(want);
	free(got);
	store_image_close(img);
}

static void with_the_key_recovery_is_as_ever(void **state)
{
	struct bed b;

	bed_begin(&b);
	keys_add(&b);
	bed_open(&b);
	secret_make(&b);
	bed_crash(&b);
	bed_open(&b);
	assert_int_equal(fake_meta_parked_count(b.meta), 0);
	secret_expect(&b);
	expect_one(&b, PLAIN, 0, 4096, 9);
	bed_end(&b);
}

static void without_the_key_records_are_parked_until_it_comes(void **state)
{
	struct bed b;

	bed_begin(&b);
	keys_add(&b);
	bed_open(&b);
	secret_make(&b);
	bed_crash(&b);
	keys_gone(&b);
	bed_open(&b);
	assert_int_equal(fake_meta_parked_count(b.meta), 3);
	expect_locked(&b, SECRET);
	expect_one(&b, PLAIN, 0, 4096, 9);
	/* The next crash finds them there, and the log without them. */
	write_one(&b, PLAIN, 4096, 4096, 10);
	flush_one(&b, PLAIN);
	bed_crash(&b);
	bed_open(&b);
	assert_int_equal(fake_meta_parked_count(b.meta), 3);
	struct image *img = bed_image(&b, SECRET); /* opened before: it works all the same */
	unlock(&b, 7);
	secret_expect(&b);
	store_image_close(img);
	assert_int_equal(fake_meta_parked_count(b.meta), 0);
	bed_crash(&b);
	bed_open(&b);
	secret_expect(&b);
	expect_one(&b, PLAIN, 4096, 4096, 10);
	bed_end(&b);
}

/* The key alone does not make it readable: what was flushed last must be there first. */
static void a_parked_image_is_locked_until_its_records_are_applied(void **state)
{
	struct bed b;

	bed_begin(&b);
	keys_add(&b);
	bed_open(&b);
	secret_make(&b);
	bed_crash(&b);
	keys_gone(&b);
	bed_open(&b);
	key_add(&b, 7);
	expect_locked(&b, SECRET);
	assert_int_equal(store_domain_unlocked(b.store, 7), 0);
	secret_expect(&b);
	bed_end(&b);
}

static void deleting_an_image_drops_what_is_parked(void **state)
{
	struct bed b;

	bed_begin(&b);
	keys_add(&b);
	bed_open(&b);
	secret_make(&b);
	bed_crash(&b);
	keys_gone(&b);
	bed_open(&b);
	delete_one(&b, SECRET);
	assert_int_equal(store_sync(b.store), 0);
	assert_int_equal(fake_meta_parked_count(b.meta), 0);
	unlock(&b, 7);
	assert_int_equal(fake_meta_node_count(b.meta), 1); /* of PLAIN */
	bed_end(&b);
}

static void a_deletion_in_the_log_drops_the_records_before_it(void **state)
{
	struct bed b;

	bed_begin(&b);
	keys_add(&b);
	bed_open(&b);
	secret_make(&b);
	delete_one(&b, SECRET);
	assert_int_equal(store_flush(b.store, NULL), 0);
	bed_crash(&b);
	keys_gone(&b);
	bed_open(&b);
	assert_int_equal(fake_meta_parked_count(b.meta), 0);
	bed_end(&b);
}

static void a_read_only_store_keeps_them_in_memory(void **state)
{
	struct bed b;

	bed_begin(&b);
	keys_add(&b);
	bed_open(&b);
	secret_make(&b);
	bed_crash(&b);
	keys_gone(&b);
	b.cfg.read_only = true;
	bed_open(&b);
	expect_locked(&b, SECRET);
	unlock(&b, 7);
	secret_expect(&b);
	assert_int_equal(fake_meta_parked_count(b.meta), 0);
	bed_end(&b);
}

/* Parked map entries are references, too. */
static void the_collector_spares_what_parked_records_share(void **state)
{
	struct gc_report report;
	struct bed b;

	bed_begin(&b);
	keys_add(&b);
	bed_open(&b);
	write_one(&b, SECRET, 0, MIB, 1);
	assert_int_equal(store_sync(b.store), 0);
	share(&b, SECRET, SECRET + 1, 0, MIB);
	delete_one(&b, SECRET);
	flush_one(&b, SECRET + 1);
	bed_crash(&b);
	keys_gone(&b);
	bed_open(&b);
	assert_int_equal(fake_meta_parked_count(b.meta), 1);
	assert_int_equal(fake_meta_node_count(b.meta), 0); /* not a leaf is left */
	assert_int_equal(store_gc(b.store, true, NULL, NULL, &report), 0);
	assert_int_equal(report.segments_freed, 0);
	unlock(&b, 7);
	expect_one(&b, SECRET + 1, 0, MIB, 1);
	assert_int_equal(store_gc(b.store, true, NULL, NULL, &report), 0);
	expect_one(&b, SECRET + 1, 0, MIB, 1);
	bed_end(&b);
}

/* Records in the clear behind sealed ones wait with them; so do those over a locked leaf. */
static void the_order_of_an_images_records_is_kept_across_a_change_of_domain(void **state)
{
	const struct image_policy clear = {0};
	struct bed b;

	bed_begin(&b);
	keys_add(&b);
	b.policy.domain = 7;
	bed_open(&b);
	write_one(&b, PLAIN, 0, MIB, 1);
	assert_int_equal(store_sync(b.store), 0);
	struct image *img = bed_image(&b, PLAIN);
	b.policy = clear;
	store_enter(b.store);
	store_policy_set(img, &clear);
	store_leave(b.store);
	bed_write(img, 4096, 100, 2);
	store_image_close(img);
	flush_one(&b, PLAIN);
	bed_crash(&b);
	keys_gone(&b);
	bed_open(&b); /* the leaf is sealed yet: it cannot be changed now */
	assert_int_equal(fake_meta_parked_count(b.meta), 1);
	expect_locked(&b, PLAIN);
	unlock(&b, 7);
	expect_one(&b, PLAIN, 4096, 100, 2);
	expect_one(&b, PLAIN, 0, 4096, 1);
	bed_end(&b);
}

/* --- power cuts and failures while they are applied --- */

static void a_failure_anywhere_while_parked_records_are_applied_loses_nothing(void **state)
{
	for (unsigned k = 1;; k++) {
		struct bed b;

		bed_begin(&b);
		keys_add(&b);
		bed_open(&b);
		secret_make(&b);
		bed_crash(&b);
		keys_gone(&b);
		bed_open(&b);
		key_add(&b, 7);
		fake_meta_fail_writes(b.meta, k, 1000, -EIO);
		const int r = store_domain_unlocked(b.store, 7);
		bed_crash(&b); /* with what has been committed */
		keys_gone(&b);
		bed_open(&b);
		if (r < 0)
			expect_locked(&b, SECRET);
		unlock(&b, 7);
		secret_expect(&b);
		assert_int_equal(fake_meta_parked_count(b.meta), 0);
		bed_end(&b);
		if (r == 0) {
			assert_true(k > 3);
			return;
		}
	}
}

static void a_power_cut_at_any_step_leaves_what_was_flushed(void **state)
{
	unsigned cuts = 0;

	for (uint64_t step = 1;; step++) {
		struct bed b;
		bool flushed = false;

		bed_begin(&b);
		keys_add(&b);
		bed_open(&b);
		struct image *img = bed_image(&b, SECRET);
		bed_write(img, 0, 64 << 10, 1);
		assert_int_equal(store_flush(b.store, img), 0);
		iosim_crash_at(b.sim, iosim_steps(b.sim) + step);
		bed_write(img, 4096, 8192, 2);
		flushed = store_flush(b.store, img) == 0;
		const bool off = iosim_is_off(b.sim);
		store_image_close(img);
		store_abandon(b.store);
		b.store = NULL;
		iosim_crash(b.sim, IOSIM_RANDOM, step * 77);
		fake_meta_crash(b.meta);
		keys_gone(&b);
		bed_open(&b);
		bed_crash(&b); /* and again, after they were parked */
		bed_open(&b);
		assert_true(fake_meta_parked_count(b.meta) > 0);
		unlock(&b, 7);
		expect_one(&b, SECRET, 0, 4096, 1);
		if (flushed)
			expect_one(&b, SECRET, 4096, 8192, 2);
		bed_end(&b);
		cuts += off;
		if (!off)
			break;
	}
	assert_true(cuts >= 2);
}

/* --- nothing lingers --- */

static void a_wipe_leaves_no_plain_content_in_the_log(void **state)
{
	struct bed b;
	uint8_t secret[4096];

	bed_begin(&b);
	keys_add(&b);
	bed_open(&b);
	bed_bytes(5, secret, sizeof(secret));
	struct image *img = bed_image(&b, PLAIN);
	bed_write(img, 0, sizeof(secret), 5);
	assert_int_equal(store_flush(b.store, img), 0);
	assert_true(on_disk(&b, "log", secret, 64));
	assert_int_equal(domain_wipe_log_and_meta(b.store), 0);
	assert_false(on_disk(&b, "log", secret, 64));
	assert_int_equal(fake_meta_scrubs(b.meta), 1);
	/* The log is used as before. */
	bed_write(img, 4096, 4096, 6);
	assert_int_equal(store_flush(b.store, img), 0);
	store_image_close(img);
	bed_crash(&b);
	bed_open(&b);
	expect_one(&b, PLAIN, 0, 4096, 5);
	expect_one(&b, PLAIN, 4096, 4096, 6);
	bed_end(&b);
}

static void a_power_cut_during_a_wipe_costs_nothing(void **state)
{
	for (uint64_t step = 1; step < 40; step++) {
		struct bed b;

		bed_begin(&b);
		bed_open(&b);
		write_one(&b, PLAIN, 0, 8192, 5);
		flush_one(&b, PLAIN);
		iosim_crash_at(b.sim, iosim_steps(b.sim) + step);
		const int r = domain_wipe_log_and_meta(b.store);
		const bool off = iosim_is_off(b.sim);
		assert_true(off == (r < 0));
		store_abandon(b.store);
		b.store = NULL;
		iosim_crash(b.sim, IOSIM_RANDOM, step * 31);
		fake_meta_crash(b.meta);
		bed_open(&b);
		expect_one(&b, PLAIN, 0, 8192, 5);
		bed_end(&b);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(what_is_flushed_is_not_in_the_log_in_plain),
	        cmocka_unit_test(every_leaf_of_an_image_in_a_domain_is_sealed),
	        cmocka_unit_test(touched_leaves_follow_the_images_domain),
	        cmocka_unit_test(a_locked_image_is_no_damage_and_others_work),
	        cmocka_unit_test(locking_at_work_leaves_nothing_in_caches),
	        cmocka_unit_test(a_locked_image_can_be_deleted),
	        cmocka_unit_test(the_collector_leaves_segments_of_locked_domains_alone),
	        cmocka_unit_test(a_locked_leaf_that_points_elsewhere_stops_all_sweeping),
	        cmocka_unit_test(with_the_key_recovery_is_as_ever),
	        cmocka_unit_test(without_the_key_records_are_parked_until_it_comes),
	        cmocka_unit_test(a_parked_image_is_locked_until_its_records_are_applied),
	        cmocka_unit_test(deleting_an_image_drops_what_is_parked),
	        cmocka_unit_test(a_deletion_in_the_log_drops_the_records_before_it),
	        cmocka_unit_test(a_read_only_store_keeps_them_in_memory),
	        cmocka_unit_test(the_collector_spares_what_parked_records_share),
	        cmocka_unit_test(the_order_of_an_images_records_is_kept_across_a_change_of_domain),
	        cmocka_unit_test(a_failure_anywhere_while_parked_records_are_applied_loses_nothing),
	        cmocka_unit_test(a_power_cut_at_any_step_leaves_what_was_flushed),
	        cmocka_unit_test(a_wipe_leaves_no_plain_content_in_the_log),
	        cmocka_unit_test(a_power_cut_during_a_wipe_costs_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * test-sealed.c - encrypted snapshots read without the key, and opened elsewhere with it
 */
#include "crypto/kdf.h"
#include "store-bed.h"
#include "store/sealed.h"
#include "store/snapshot.h"
#include "stream/raw.h"

#define SEALED  1001u /* images of domain 1 */
#define OTHER   1002u
#define FOREIGN 2001u /* of domain 2 */
#define DOMAIN  1u

static const uint8_t key_1[SEAL_KEY_LEN] = "key one", key_2[SEAL_KEY_LEN] = "key two";

static void sealed_make(struct bed *b)
{
	struct store_state state;

	bed_make(b);
	struct meta *m = fake_meta_port(b->meta);
	assert_int_equal(m->ops->state_get(m, &state), 0);
	assert_int_equal(keyring_new(state.uuid, state.domain_key, &b->cfg.keyring), 0);
	assert_int_equal(keyring_add(b->cfg.keyring, 1, key_1), 0);
	assert_int_equal(keyring_add(b->cfg.keyring, 2, key_2), 0);
	bed_open(b);
}

static void sealed_free(struct bed *b)
{
	struct keyring *kr = b->cfg.keyring;

	bed_free(b);
	keyring_free(kr);
}

static void lock(struct bed *b)
{
	assert_int_equal(store_domain_lock(b->store, DOMAIN), 0);
	assert_int_equal(keyring_remove(b->cfg.keyring, DOMAIN), 0);
}

static void unlock(struct bed *b)
{
	assert_int_equal(keyring_add(b->cfg.keyring, DOMAIN, key_1), 0);
	assert_int_equal(store_domain_unlocked(b->store, DOMAIN), 0);
}

static void snapshot(struct bed *b, uint64_t image, uint64_t set)
{
	const struct snapshot_ref ref = {snapshot_id(set, 1), image};

	assert_int_equal(store_snapshot_create(b->store, &ref, 1, NULL, NULL), 0);
}

/* --- a copy: items and segments in memory, and the image that they make --- */

struct copied_segment {
	uint64_t id;
	uint8_t *frames;
	size_t len;
	struct sealed_slots *slots;
};

struct copy {
	struct sealed_info info;
	uint8_t (*leaves)[NODE_BLOB_MAX];
	size_t lens[64];
	uint64_t nodes[64];
	enum sealed_kind kinds[64];
	struct copied_segment segments[256];
	unsigned n_segments, n_items;
	uint8_t *content; /* 64 MiB */
	bool told[64];
};

static void copy_make(struct copy *c)
{
	*c = (struct copy){.leaves = calloc(64, NODE_BLOB_MAX), .content = calloc(64, MIB)};
}

static void copy_free(struct copy *c)
{
	for (unsigned i = 0; i < c->n_segments; i++) {
		free(c->segments[i].frames);
		free(c->segments[i].slots);
	}
	free(c->leaves);
	free(c->content);
}

static int take_item(void *arg, const struct sealed_item *it)
{
	struct copy *c = arg;

	c->n_items++;
	for (uint32_t i = it->first; i < MIN(it->first + it->n, 64u); i++) {
		c->kinds[i] = it->kind;
		c->told[i] = true;
		c->nodes[i] = it->node;
		c->lens[i] = it->len;
		if (it->len)
			memcpy(c->leaves[i], it->blob, it->len);
	}
	return 0;
}

static int take_segment(void *arg, const struct segment_row *row, const uint8_t *frames, size_t len)
{
	struct copy *c = arg;
	unsigned at = 0;

	while (at < c->n_segments && c->segments[at].id != row->id)
		at++;
	assert_true(at < ARRAY_SIZE(c->segments));
	if (at == c->n_segments)
		c->segments[c->n_segments++].slots = malloc(sizeof(struct sealed_slots));
	free(c->segments[at].frames);
	c->segments[at].id = row->id;
	c->segments[at].frames = malloc(len);
	c->segments[at].len = len;
	memcpy(c->segments[at].frames, frames, len);
	return 0;
}

static void copy_take(struct copy *c, struct bed *b, uint64_t set, uint64_t base)
{
	struct sealed_read *sr;

	memset(c->told, 0, sizeof(c->told));
	c->n_items = 0;
	assert_int_equal(sealed_read_open(b->store, snapshot_id(set, 1),
	                         base ? snapshot_id(base, 1) : 0, &sr),
	        0);
	sealed_read_info(sr, &c->info);
	assert_int_equal(sealed_items(sr, 0, take_item, c), 0);
	assert_int_equal(sealed_segments(sr, 0, take_segment, c), 0);
	sealed_read_close(sr);
}

static int chunk_open(struct copy *c, const struct crypto_domain *d, uint64_t entry, uint8_t *to)
{
	struct sealed_frame *f = malloc(sizeof(*f));
	const uint64_t id = loc_segment(entry_loc(entry));
	int r = -ENOENT;

	for (unsigned i = 0; i < c->n_segments; i++) {
		const struct copied_segment *s = &c->segments[i];
		if (s->id != id)
			continue;
		const struct footer_slot *at = &s->slots->table[loc_slot(entry_loc(entry))];
		if (at->flags & SLOT_PRESENT)
			r = sealed_frame_open(d, c->info.uuid, id,
			        s->frames + at->frame_pos * FRAME_ALIGN,
			        at->frame_units * FRAME_ALIGN, f);
		const uint8_t *chunk = r == 0 ? sealed_frame_chunk(f, entry) : NULL;
		if (chunk)
			memcpy(to, chunk, CHUNK_SIZE);
		else if (r == 0)
			r = -EUCLEAN;
	}
	free(f);
	return r;
}

/* Brings content up to what was told; the first error. */
static int copy_open(struct copy *c, const uint8_t key[SEAL_KEY_LEN])
{
	struct crypto_domain *d;
	uint64_t entries[LEAF_CHUNKS];
	int r = crypto_domain_derive(c->info.uuid, c->info.domain, key, &d);

	assert_int_equal(r, 0);
	for (unsigned i = 0; i < c->n_segments; i++) {
		struct copied_segment *s = &c->segments[i];
		unsigned damaged;
		assert_int_equal(sealed_slots_find(s->frames, s->len, s->id, c->info.uuid, s->slots,
		                         &damaged),
		        0);
	}
	for (unsigned l = 0; l < 64 && r == 0; l++) {
		uint8_t *at = c->content + l * LEAF_BYTES;
		if (!c->told[l])
			continue;
		if (c->kinds[l] != SEALED_LEAF) {
			memset(at, 0, LEAF_BYTES);
			continue;
		}
		r = sealed_leaf_open(d, c->nodes[l], c->leaves[l], c->lens[l], entries);
		for (unsigned i = 0; r == 0 && i < LEAF_CHUNKS; i++, at += CHUNK_SIZE) {
			memset(at, 0, CHUNK_SIZE);
			if (entry_state(entries[i]) == ENTRY_DATA)
				r = chunk_open(c, d, entries[i], at);
		}
	}
	crypto_domain_free(d);
	return r;
}

static void copy_expect(const struct copy *c, uint64_t off, size_t len, uint64_t seed)
{
	uint8_t *want = calloc(1, len);

	if (seed)
		bed_bytes(seed, want, len);
	assert_memory_equal(c->content + off, want, len);
	free(want);
}

/* --- tests --- */

static void a_snapshot_is_told_without_the_key_and_opens_with_it(void **state)
{
	struct copy c;
	struct bed b;

	sealed_make(&b);
	struct image *img = bed_image(&b, SEALED), *other = bed_image(&b, OTHER);
	bed_write(img, 0, 3 * MIB, 1);
	bed_write(other, 0, MIB, 2);
	bed_write(img, 9 * MIB + 4096, 8192, 3);
	bed_punch(img, 20 * MIB, MIB, true);
	snapshot(&b, SEALED, 1);
	bed_write(img, 0, 3 * MIB, 4); /* later: not of the snapshot */
	assert_int_equal(store_sync(b.store), 0);
	store_image_close(img);
	store_image_close(other);
	lock(&b);
	copy_make(&c);
	copy_take(&c, &b, 1, 0);
	assert_int_equal(c.info.domain, DOMAIN);
	assert_true(c.n_segments >= 1 && c.info.segments == c.n_segments);
	assert_int_equal(copy_open(&c, key_1), 0);
	copy_expect(&c, 0, 3 * MIB, 1);
	copy_expect(&c, 9 * MIB + 4096, 8192, 3);
	copy_expect(&c, 20 * MIB, MIB, 0);
	assert_int_equal(copy_open(&c, key_2), -EUCLEAN);
	copy_free(&c);
	sealed_free(&b);
}

/* What comes after is appended to the segment that was open, or to new ones; both are told. */
static void what_changed_since_another_snapshot_is_enough_for_who_has_that(void **state)
{
	struct copy c;
	struct bed b;

	sealed_make(&b);
	copy_make(&c);
	struct image *img = bed_image(&b, SEALED);
	bed_write(img, 0, 8 * MIB, 1);
	snapshot(&b, SEALED, 1);
	copy_take(&c, &b, 1, 0);
	const unsigned before = c.n_segments;
	assert_int_equal(copy_open(&c, key_1), 0);
	bed_write(img, MIB + 4096, 4096, 2);
	bed_write(img, 30 * MIB, MIB, 1); /* duplicates of what the first one brought */
	bed_punch(img, 2 * MIB, MIB, false);
	snapshot(&b, SEALED, 2);
	store_image_close(img);
	lock(&b);
	copy_take(&c, &b, 2, 1);
	assert_false(c.told[0]);
	assert_true(c.told[1] && c.told[2] && c.told[30]);
	assert_true(c.info.segments <= 2 && c.n_segments <= before + 1);
	assert_int_equal(copy_open(&c, key_1), 0);
	copy_expect(&c, 0, MIB, 1);
	copy_expect(&c, MIB + 4096, 4096, 2);
	copy_expect(&c, 2 * MIB, MIB, 0);
	copy_expect(&c, 30 * MIB, MIB, 1);
	copy_free(&c);
	sealed_free(&b);
}

/* Base, changes, restart, collection, changes: many times over, with an oracle. */
static void increments_are_enough_after_restarts_and_collections(void **state)
{
	static uint8_t oracle[16 * MIB];
	struct gc_report report;
	struct copy c;
	struct bed b;
	uint64_t x = 1;

	sealed_make(&b);
	copy_make(&c);
	memset(oracle, 0, sizeof(oracle));
	for (uint64_t set = 1; set <= 12; set++) {
		struct image *img = bed_image(&b, SEALED), *other = bed_image(&b, OTHER);
		for (unsigned i = 0; i < 40; i++) {
			x = x * 6364136223846793005ull + 1442695040888963407ull;
			const uint64_t off = (x >> 33) % (16 * 256 - 64) * CHUNK_SIZE;
			const size_t len = ((x >> 20) % 48 + 1) * CHUNK_SIZE;
			const uint64_t seed = (x >> 40) % 50 + 1; /* some come again */
			bed_write(i % 3 ? img : other, off, len, seed);
			if (i % 3)
				bed_bytes(seed, oracle + off, len);
			if (i % 7 == 0)
				assert_int_equal(store_sync(b.store), 0);
		}
		snapshot(&b, SEALED, set);
		store_image_close(img);
		store_image_close(other);
		if (set % 3 == 0)
			assert_int_equal(store_gc(b.store, true, NULL, NULL, &report), 0);
		lock(&b);
		copy_take(&c, &b, set, set > 1 ? set - 1 : 0);
		if (set % 4 == 0) {
			assert_int_equal(store_close(b.store), 0);
			bed_open(&b);
		}
		unlock(&b);
		assert_int_equal(copy_open(&c, key_1), 0);
		assert_memory_equal(c.content, oracle, sizeof(oracle));
		if (set > 2) {
			const uint64_t gone = snapshot_id(set - 2, 1);
			assert_int_equal(store_snapshot_delete(b.store, &gone, 1, NULL, NULL), 0);
		}
	}
	copy_free(&c);
	sealed_free(&b);
}

static void any_byte_that_was_changed_is_found(void **state)
{
	struct copy c;
	struct bed b;

	sealed_make(&b);
	copy_make(&c);
	struct image *img = bed_image(&b, SEALED);
	bed_write(img, 0, 64 << 10, 1);
	snapshot(&b, SEALED, 1);
	store_image_close(img);
	copy_take(&c, &b, 1, 0);
	assert_int_equal(copy_open(&c, key_1), 0);
	for (size_t i = 0; i < c.lens[0]; i++) {
		c.leaves[0][i] ^= 0x40;
		assert_true(copy_open(&c, key_1) < 0);
		c.leaves[0][i] ^= 0x40;
	}
	assert_int_equal(c.n_segments, 1);
	const struct sealed_slots *slots = c.segments[0].slots;
	const size_t end = (slots->table[slots->slots - 1].frame_pos +
	                           slots->table[slots->slots - 1].frame_units) *
	                   (size_t)FRAME_ALIGN;
	for (size_t i = 0; i < end; i += 37) {
		uint8_t *byte = &c.segments[0].frames[i];
		const uint8_t was = *byte;
		*byte ^= 1;
		/* But for the padding behind a frame, which says nothing. */
		const int r = copy_open(&c, key_1);
		if (r == 0)
			assert_int_equal(was, 0);
		copy_expect(&c, 0, r == 0 ? 64 << 10 : 0, 1);
		*byte = was;
	}
	copy_free(&c);
	sealed_free(&b);
}

static void what_is_in_the_clear_or_of_two_keys_is_refused(void **state)
{
	struct sealed_read *sr;
	struct copy c;
	struct bed b;

	sealed_make(&b);
	copy_make(&c);
	struct image *img = bed_image(&b, 1), *foreign = bed_image(&b, FOREIGN);
	bed_write(img, 0, MIB, 1);
	bed_write(foreign, 0, MIB, 1);
	snapshot(&b, 1, 1);
	snapshot(&b, FOREIGN, 2);
	assert_int_equal(sealed_read_open(b.store, snapshot_id(1, 1), 0, &sr), -EXDEV);
	assert_int_equal(sealed_read_open(b.store, snapshot_id(7, 1), 0, &sr), -ENOENT);
	struct image *sealed = bed_image(&b, SEALED);
	bed_write(sealed, 0, MIB, 3);
	snapshot(&b, SEALED, 3);
	assert_int_equal(
	        sealed_read_open(b.store, snapshot_id(3, 1), snapshot_id(2, 1), &sr), -EXDEV);
	store_image_close(sealed);
	store_image_close(img);
	store_image_close(foreign);
	copy_free(&c);
	sealed_free(&b);
}

/* An image that was written before it was encrypted: its leaves are in the clear still. */
static void a_leaf_in_the_clear_under_a_sealed_policy_is_refused(void **state)
{
	const struct image_policy sealed = {.domain = DOMAIN};
	struct sealed_read *sr;
	struct copy c;
	struct bed b;

	sealed_make(&b);
	copy_make(&c);
	struct image *img = bed_image(&b, 1);
	bed_write(img, 0, MIB, 1);
	assert_int_equal(store_sync(b.store), 0);
	store_enter(b.store);
	store_policy_set(img, &sealed);
	store_leave(b.store);
	bed_write(img, 2 * MIB, MIB, 1);
	snapshot(&b, 1, 1);
	assert_int_equal(sealed_read_open(b.store, snapshot_id(1, 1), 0, &sr), 0);
	assert_int_equal(sealed_items(sr, 0, take_item, &c), -EXDEV);
	sealed_read_close(sr);
	store_image_close(img);
	copy_free(&c);
	sealed_free(&b);
}

static void a_walk_goes_on_where_it_is_told_to(void **state)
{
	struct sealed_read *sr;
	struct copy c;
	struct bed b;

	sealed_make(&b);
	copy_make(&c);
	struct image *img = bed_image(&b, SEALED);
	for (unsigned i = 0; i < 8; i++)
		bed_write(img, i * 4 * MIB, 4096, i + 1);
	bed_punch(img, 300 * MIB, 600 * MIB, true);
	snapshot(&b, SEALED, 1);
	store_image_close(img);
	assert_int_equal(sealed_read_open(b.store, snapshot_id(1, 1), 0, &sr), 0);
	assert_int_equal(sealed_items(sr, 13, take_item, &c), 0);
	assert_false(c.told[12]);
	assert_true(c.told[16] && c.told[28]);
	c.n_items = 0;
	assert_int_equal(sealed_items(sr, 29, take_item, &c), 0);
	assert_true(c.n_items > 0);
	c.n_items = 0;
	assert_int_equal(sealed_items(sr, 900, take_item, &c), 0);
	assert_int_equal(c.n_items, 0);
	assert_int_equal(sealed_segments(sr, 1000, take_segment, &c), 0);
	assert_int_equal(c.n_segments, 0);
	sealed_read_close(sr);
	copy_free(&c);
	sealed_free(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(a_snapshot_is_told_without_the_key_and_opens_with_it),
	        cmocka_unit_test(what_changed_since_another_snapshot_is_enough_for_who_has_that),
	        cmocka_unit_test(increments_are_enough_after_restarts_and_collections),
	        cmocka_unit_test(any_byte_that_was_changed_is_found),
	        cmocka_unit_test(what_is_in_the_clear_or_of_two_keys_is_refused),
	        cmocka_unit_test(a_leaf_in_the_clear_under_a_sealed_policy_is_refused),
	        cmocka_unit_test(a_walk_goes_on_where_it_is_told_to),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

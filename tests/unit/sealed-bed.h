/*
 * sealed-bed.h - a store with images in two crypto domains, and a look at what its files hold
 */
#pragma once

#include "store-bed.h"

#define SEALED_A 1001u /* images of domain 1 */
#define SEALED_B 1002u
#define OTHER    2001u /* of domain 2 */
#define SECRET   "what the guest wrote and nobody else is to read"

static const uint8_t key_1[SEAL_KEY_LEN] = "key one", key_2[SEAL_KEY_LEN] = "key two";

static inline void keys_add(struct bed *b)
{
	assert_int_equal(keyring_add(b->cfg.keyring, 1, key_1), 0);
	assert_int_equal(keyring_add(b->cfg.keyring, 2, key_2), 0);
}

static inline void sealed_make(struct bed *b)
{
	struct store_state state;

	bed_make(b);
	struct meta *m = fake_meta_port(b->meta);
	assert_int_equal(m->ops->state_get(m, &state), 0);
	assert_int_equal(keyring_new(state.uuid, state.domain_key, &b->cfg.keyring), 0);
	keys_add(b);
	bed_open(b);
}

static inline void sealed_free(struct bed *b)
{
	struct keyring *kr = b->cfg.keyring;

	bed_free(b);
	keyring_free(kr);
}

static inline void reopen(struct bed *b)
{
	assert_int_equal(store_close(b->store), 0);
	bed_open(b);
}

/* Chunks that differ, each with the secret in it, of which LZ4 leaves enough to be found. */
static inline void secret_write(struct image *img, uint64_t off, unsigned chunks)
{
	for (unsigned i = 0; i < chunks; i++) {
		char chunk[CHUNK_SIZE] = {0};
		snprintf(chunk, sizeof(chunk), "%u: %s", i, SECRET);
		store_enter(img->store);
		assert_int_equal(store_write(img, off + i * CHUNK_SIZE, chunk, CHUNK_SIZE), 0);
		store_leave(img->store);
	}
}

static inline void secret_expect(struct image *img, uint64_t off, unsigned chunks)
{
	for (unsigned i = 0; i < chunks; i++) {
		char want[CHUNK_SIZE] = {0}, got[CHUNK_SIZE];
		snprintf(want, sizeof(want), "%u: %s", i, SECRET);
		assert_int_equal(store_read(img, off + i * CHUNK_SIZE, got, CHUNK_SIZE), 0);
		assert_memory_equal(want, got, CHUNK_SIZE);
	}
}

/* --- what the segment files hold --- */

struct search {
	struct io *io;
	const char *dir, *needle;
	size_t len;
	unsigned found, files;
};

static inline int search_file(void *arg, const char *name, bool is_dir)
{
	static uint8_t buf[SEGMENT_BYTES_MAX];
	struct search *s = arg;
	struct io_file *f;
	char path[80];
	size_t n = 0;

	snprintf(path, sizeof(path), "%s/%s", s->dir, name);
	if (is_dir) {
		struct search below = *s;
		below.dir = path;
		const int r = io_list(s->io, path, search_file, &below);
		s->found = below.found;
		s->files = below.files;
		return r;
	}
	assert_int_equal(io_open(s->io, path, IO_READ, &f), 0);
	assert_int_equal(io_pread(f, buf, sizeof(buf), 0, &n), 0);
	s->found += memmem(buf, n, s->needle, s->len) != NULL;
	s->files++;
	io_close(f);
	return 0;
}

/* In how many segment files the bytes are. */
static inline unsigned files_hold(struct bed *b, const char *needle, size_t len)
{
	struct search s = {.io = iosim_io(b->sim), .dir = "segments", .needle = needle, .len = len};

	assert_int_equal(io_list(s.io, "segments", search_file, &s), 0);
	assert_true(s.files > 0);
	return s.found;
}

static inline uint64_t stat_hits(struct bed *b)
{
	return atomic_load(&b->store->count.dedupe_hits);
}

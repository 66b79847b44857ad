/*
 * segments-env.h - what the tests of segments share
 *
 * A datastore directory under /tmp, a struct io around it that fails the k-th write or sync, a
 * metadata store in memory, and a record of what was appended, to compare with.
 */
#pragma once

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/log.h"
#include "store/segment-scan.h"

/* --- io that fails on demand --- */

struct fault_io {
	struct io base;
	struct io *real;
	_Atomic int countdown;  /* the write or sync that makes it 0 fails; negative: none does */
	_Atomic bool sticky;    /* all after it fail, too */
	_Atomic int error;      /* -errno */
	_Atomic unsigned count; /* writes and syncs so far */
	_Atomic bool reads_fail;
};

struct fault_file {
	struct io_file base;
	struct io_file *real;
};

static inline struct fault_io *fault_of(struct io *io)
{
	return CONTAINER_OF(io, struct fault_io, base);
}

static inline struct io_file *real_of(struct io_file *f)
{
	return CONTAINER_OF(f, struct fault_file, base)->real;
}

static int fault_hit(struct io *io)
{
	struct fault_io *fi = fault_of(io);

	fi->count++;
	if (fi->countdown < 0)
		return 0;
	if (fi->countdown == 0)
		return fi->sticky ? fi->error : 0;
	return --fi->countdown == 0 ? fi->error : 0;
}

static int fault_open(struct io *io, const char *name, unsigned flags, struct io_file **ret_file)
{
	struct fault_file *f = malloc(sizeof(*f));

	assert_non_null(f);
	f->base.io = io;
	int r = flags & IO_CREATE ? fault_hit(io) : 0;
	if (r == 0)
		r = io_open(fault_of(io)->real, name, flags, &f->real);
	if (r < 0) {
		free(f);
		return r;
	}
	*ret_file = &f->base;
	return 0;
}

static void fault_close(struct io_file *f)
{
	io_close(real_of(f));
	free(CONTAINER_OF(f, struct fault_file, base));
}

static int fault_pread(struct io_file *f, void *buf, size_t len, uint64_t off, size_t *ret_n)
{
	/* O_DIRECT may not be had in /tmp: the alignment is checked here. */
	assert_int_equal(len % IO_ALIGN, 0);
	assert_int_equal(off % IO_ALIGN, 0);
	assert_int_equal((uintptr_t)buf % IO_ALIGN, 0);
	if (fault_of(f->io)->reads_fail)
		return -EIO;
	return io_pread(real_of(f), buf, len, off, ret_n);
}

/* A failing write leaves half of itself and garbage behind. */
static int fault_pwritev(
        struct io_file *f, const struct iovec *iov, int n_iov, uint64_t off, size_t *ret_n)
{
	const int r = fault_hit(f->io);
	const size_t len = iov[0].iov_len;

	assert_int_equal(n_iov, 1);
	assert_int_equal(len % IO_ALIGN, 0);
	assert_int_equal(off % IO_ALIGN, 0);
	assert_int_equal((uintptr_t)iov[0].iov_base % IO_ALIGN, 0);
	if (r < 0) {
		uint8_t *junk = aligned_alloc(IO_ALIGN, len);
		memset(junk, 0x5a, len);
		memcpy(junk, iov[0].iov_base, len / 2);
		const int ignored = io_pwrite(real_of(f), junk, len, off);
		(void)ignored;
		free(junk);
		return r;
	}
	*ret_n = len;
	return io_pwrite(real_of(f), iov[0].iov_base, len, off);
}

static int fault_sync(struct io_file *f)
{
	const int r = fault_hit(f->io);
	return r < 0 ? r : io_sync(real_of(f));
}

static int fault_truncate(struct io_file *f, uint64_t size)
{
	return io_truncate(real_of(f), size);
}

static int fault_punch(struct io_file *f, uint64_t off, uint64_t len)
{
	return io_punch(real_of(f), off, len);
}

static int fault_size(struct io_file *f, uint64_t *ret_size)
{
	return io_size(real_of(f), ret_size);
}

static int fault_unlink(struct io *io, const char *name)
{
	return io_unlink(fault_of(io)->real, name);
}

static int fault_rename(struct io *io, const char *from, const char *to)
{
	return io_rename(fault_of(io)->real, from, to);
}

static int fault_mkdir(struct io *io, const char *name)
{
	const int r = fault_hit(io);
	return r < 0 ? r : io_mkdir(fault_of(io)->real, name);
}

static int fault_sync_dir(struct io *io, const char *name)
{
	const int r = fault_hit(io);
	return r < 0 ? r : io_sync_dir(fault_of(io)->real, name);
}

static int fault_list(struct io *io, const char *name, io_list_fn *fn, void *arg)
{
	return io_list(fault_of(io)->real, name, fn, arg);
}

static int fault_space(struct io *io, struct io_space *ret_space)
{
	return io_space(fault_of(io)->real, ret_space);
}

static void fault_free(struct io *io)
{
	io_free(fault_of(io)->real);
}

static const struct io_ops fault_ops = {
        .open = fault_open,
        .close = fault_close,
        .pread = fault_pread,
        .pwritev = fault_pwritev,
        .sync = fault_sync,
        .truncate = fault_truncate,
        .punch = fault_punch,
        .size = fault_size,
        .unlink = fault_unlink,
        .rename = fault_rename,
        .mkdir = fault_mkdir,
        .sync_dir = fault_sync_dir,
        .list = fault_list,
        .space = fault_space,
        .free = fault_free,
};

/* --- a metadata store in memory: segment rows, committed and as of the open transaction --- */

#define MEM_ROWS 4096u

struct mem_meta {
	struct meta base;
	struct segment_row rows[MEM_ROWS], work[MEM_ROWS]; /* by id; id 0: no row */
};

static int mem_segment_each(struct meta *m, segment_row_fn *fn, void *arg)
{
	struct mem_meta *mm = (struct mem_meta *)m;
	int r = 0;

	for (unsigned i = 0; r == 0 && i < MEM_ROWS; i++)
		if (mm->rows[i].id)
			r = fn(arg, &mm->rows[i]);
	return r;
}

static int mem_segment_put(struct meta *m, const struct segment_row *row)
{
	assert_true(row->id < MEM_ROWS);
	((struct mem_meta *)m)->work[row->id] = *row;
	return 0;
}

static int mem_segment_del(struct meta *m, uint64_t id)
{
	assert_true(id < MEM_ROWS);
	((struct mem_meta *)m)->work[id].id = 0;
	return 0;
}

static const struct meta_ops mem_ops = {
        .segment_each = mem_segment_each,
        .segment_put = mem_segment_put,
        .segment_del = mem_segment_del,
};

/* --- content --- */

static inline uint64_t rnd(uint64_t *state)
{
	uint64_t z = (*state += 0x9e3779b97f4a7c15ull);

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

/* Seeds that are a multiple of 4 make incompressible chunks, others half so. */
static inline void chunk_fill(uint64_t seed, uint8_t *buf)
{
	uint64_t state = seed;
	const unsigned noise = seed % 4 == 0 ? CHUNK_SIZE : CHUNK_SIZE / 2;

	memset(buf, (int)seed, CHUNK_SIZE);
	for (unsigned i = 0; i < noise; i += 8) {
		const uint64_t v = rnd(&state);
		memcpy(buf + i, &v, 8);
	}
}

/* --- the whole --- */

struct known {
	uint64_t loc, seed;
};

struct env {
	char dir[64];
	struct fault_io io;
	struct mem_meta *meta;
	struct chunk_hasher hasher;
	struct keyring *keyring; /* of the same */
	struct segments *ss;
	uint32_t domain; /* that frames are appended to */
	uint64_t txg, next_segment, table_bytes;
	bool read_only;
	struct known *known;
	unsigned n_known, cap_known;
	uint32_t *known_at; /* by segment and slot: index in known[], if that still has the loc */
	uint64_t next_seed;
};

static inline int env_mount_try(struct env *e, struct errmsg *em)
{
	const struct segments_config cfg = {
	        .io = &e->io.base,
	        .meta = &e->meta->base,
	        .uuid = "0123456789abcde",
	        .next_segment = e->next_segment,
	        .table_bytes = e->table_bytes,
	        .keyring = e->keyring,
	        .read_only = e->read_only,
	};
	return segments_open(&cfg, &e->ss, em);
}

static inline void env_mount(struct env *e)
{
	struct errmsg em = {""};
	const int r = env_mount_try(e, &em);

	if (r < 0)
		fail_msg("mount: %s", em.text);
}

static inline void env_remount(struct env *e)
{
	segments_close(e->ss);
	e->ss = NULL;
	env_mount(e);
}

static inline int env_setup(void **state)
{
	const uint8_t key[DOMAIN_KEY_LEN] = {1, 2, 3};
	struct env *e = calloc(1, sizeof(*e));

	assert_non_null(e);
	if (!getenv("SEGMENTS_LOG"))
		log_set_level(
		        LOG_ERROR - 1); /* damage is the subject here, its log lines are noise */
	strcpy(e->dir, "/tmp/weir-segments-XXXXXX");
	assert_non_null(mkdtemp(e->dir));
	e->io.base.ops = &fault_ops;
	e->io.countdown = -1;
	assert_int_equal(io_posix_open(e->dir, &e->io.real, NULL), 0);
	e->meta = calloc(1, sizeof(*e->meta));
	e->meta->base.ops = &mem_ops;
	chunk_hasher_init(&e->hasher, key);
	assert_int_equal(keyring_new((const uint8_t *)"0123456789abcde", key, &e->keyring), 0);
	e->txg = 1;
	e->next_segment = 1;
	e->table_bytes = 1 << 20;
	e->next_seed = 1;
	e->known_at = calloc((size_t)MEM_ROWS * SEGMENT_SLOTS, sizeof(*e->known_at));
	assert_non_null(e->known_at);
	env_mount(e);
	*state = e;
	return 0;
}

static inline int env_teardown(void **state)
{
	struct env *e = *state;
	char cmd[128];

	segments_close(e->ss);
	keyring_free(e->keyring);
	io_free(&e->io.base);
	snprintf(cmd, sizeof(cmd), "rm -rf '%s'", e->dir);
	assert_int_equal(system(cmd), 0);
	free(e->meta);
	free(e->known);
	free(e->known_at);
	free(e);
	return 0;
}

/* The same, and all frames go to crypto domain 1. */
static inline int env_setup_sealed(void **state)
{
	const uint8_t key[SEAL_KEY_LEN] = "the key of domain one, 32 bytes";
	const int r = env_setup(state);
	struct env *e = *state;

	assert_int_equal(keyring_add(e->keyring, 1, key), 0);
	e->domain = 1;
	return r;
}

static inline struct hash128 env_hash(struct env *e, uint32_t domain, const void *chunk)
{
	const struct crypto_domain *d = keyring_get(e->keyring, domain);

	assert_non_null(d);
	struct hash128 h;
	assert_int_equal(domain_hash(d, chunk, &h), 0);
	keyring_put(e->keyring, d);
	return h;
}

/* Appends one frame of n chunks with seeds from `seed` on. */
static inline int frame_append(struct env *e, uint64_t seed, unsigned n, uint64_t *ret_loc)
{
	uint8_t *chunks = malloc(2 * n * CHUNK_SIZE), *packed = chunks + n * CHUNK_SIZE;
	struct hash128 hashes[FRAME_CHUNKS_MAX];
	struct frame_spec spec = {.n = n, .hashes = hashes, .image = 7, .first_chunk = seed};

	for (unsigned i = 0; i < n; i++) {
		chunk_fill(seed + i, chunks + i * CHUNK_SIZE);
		hashes[i] = env_hash(e, e->domain, chunks + i * CHUNK_SIZE);
	}
	spec.codec = frame_pack(chunks, n, packed, &spec.payload_len);
	spec.payload = spec.codec == CODEC_RAW ? chunks : packed;
	spec.crypto = keyring_get(e->keyring, e->domain);
	const int r = segments_append(e->ss, e->txg, &spec, ret_loc);
	keyring_put(e->keyring, spec.crypto);
	free(chunks);
	return r;
}

static inline void known_add(struct env *e, uint64_t loc, uint64_t seed)
{
	if (e->n_known == e->cap_known) {
		e->cap_known = MAX(e->cap_known * 2, 1024u);
		e->known = realloc(e->known, e->cap_known * sizeof(*e->known));
		assert_non_null(e->known);
	}
	e->known_at[loc_segment(loc) * SEGMENT_SLOTS + loc_slot(loc)] = e->n_known;
	e->known[e->n_known++] = (struct known){loc, seed};
}

/* Frames of n chunks each; what succeeds is recorded.  The first error ends it. */
static inline int env_append(struct env *e, unsigned frames, unsigned n)
{
	for (unsigned i = 0; i < frames; i++) {
		uint64_t loc = 0;
		const int r = frame_append(e, e->next_seed, n, &loc);
		if (r < 0)
			return r;
		for (unsigned k = 0; k < n; k++)
			known_add(e, loc + k, e->next_seed + k);
		e->next_seed += n;
	}
	return 0;
}

static inline int env_commit(struct env *e)
{
	int r = segments_txg_sync(e->ss);

	if (r < 0)
		return r;
	memcpy(e->meta->work, e->meta->rows, sizeof(e->meta->work));
	r = segments_txg_write(e->ss);
	if (r < 0)
		return r;
	e->next_segment = segments_next(e->ss);
	memcpy(e->meta->rows, e->meta->work, sizeof(e->meta->rows));
	segments_txg_committed(e->ss);
	e->txg++;
	return 0;
}

static inline const struct known *known_find(struct env *e, uint64_t loc)
{
	const uint32_t i = e->known_at[loc_segment(loc) * SEGMENT_SLOTS + loc_slot(loc)];

	return i < e->n_known && e->known[i].loc == loc ? &e->known[i] : NULL;
}

/* Reading back: every chunk handed out must be a known one with its own content. */
struct readback {
	struct env *e;
	const uint64_t *locs; /* asked for, sorted */
	unsigned n;
	bool *seen;
	bool wrong;
};

static inline void readback_fn(
        void *arg, uint64_t loc, unsigned n, const uint8_t *chunks, const struct hash128 *hashes)
{
	struct readback *rb = arg;
	uint8_t want[CHUNK_SIZE];
	uint32_t domain = 0;

	if (segments_domain(rb->e->ss, loc_segment(loc), &domain) < 0)
		rb->wrong = true;
	for (unsigned i = 0; i < n; i++) {
		const struct hash128 h = env_hash(rb->e, domain, chunks + i * CHUNK_SIZE);
		rb->wrong |= !hash_equal(h, hashes[i]);
		for (unsigned k = 0; k < rb->n; k++) {
			if (rb->locs[k] != loc + i)
				continue;
			rb->seen[k] = true;
			const struct known *known = known_find(rb->e, loc + i);
			if (!known)
				continue;
			chunk_fill(known->seed, want);
			rb->wrong |= memcmp(want, chunks + i * CHUNK_SIZE, CHUNK_SIZE) != 0;
		}
	}
}

/* Reads n locations; ret_seen says which were delivered (may be NULL). */
static inline int env_read(struct env *e, const uint64_t *locs, unsigned n, bool *ret_seen)
{
	bool *seen = calloc(n, sizeof(*seen));
	struct readback rb = {.e = e, .locs = locs, .n = n, .seen = seen};
	const int r = segments_read(e->ss, locs, n, readback_fn, &rb);

	assert_false(rb.wrong);
	for (unsigned i = 0; r == 0 && i < n; i++)
		assert_true(seen[i]);
	if (ret_seen)
		memcpy(ret_seen, seen, n * sizeof(*seen));
	free(seen);
	return r;
}

/* All that is recorded can be read, in batches of changing size. */
static inline void env_verify(struct env *e)
{
	uint64_t locs[40] = {0};

	for (unsigned i = 0; i < e->n_known;) {
		const unsigned n = MIN(1 + i % ARRAY_SIZE(locs), e->n_known - i);
		for (unsigned k = 0; k < n; k++)
			locs[k] = e->known[i + n - 1 - k].loc; /* backwards */
		assert_int_equal(env_read(e, locs, n, NULL), 0);
		i += n;
	}
}

static inline void env_path(struct env *e, uint64_t id, uint32_t gen, char path[128])
{
	char name[SEGMENT_NAME_LEN];

	segment_name(0, id, gen, name);
	snprintf(path, 128, "%s/%s", e->dir, name);
}

static inline bool env_file_exists(struct env *e, uint64_t id, uint32_t gen)
{
	char path[128];

	env_path(e, id, gen, path);
	return access(path, F_OK) == 0;
}

static inline struct segment_row *env_row(struct env *e, uint64_t id)
{
	return &e->meta->rows[id];
}

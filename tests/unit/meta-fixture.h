/*
 * meta-fixture.h - for the tests of meta/: a temporary directory, and an io that fails on demand
 *
 * struct faulty_io wraps the real one and counts the calls that change something; the call
 * numbered fail_at (from 1) and the next fail_n - 1 fail with fail_errno.  A failed write may have
 * written a part.
 */
#pragma once

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/io.h"
#include "base/log.h"
#include "meta/dbvfs.h"
#include "meta/meta.h"

enum faulty_op { FAULTY_WRITE = 1, FAULTY_SYNC = 2, FAULTY_OTHER = 4 };

struct faulty_io {
	struct io base;
	struct io *real;
	unsigned ops; /* which kinds count and fail */
	atomic_int n; /* calls so far */
	int fail_at, fail_n, fail_errno;
	bool tear; /* failed writes write their first half */
	bool track;
	struct durable {
		char name[32];
		uint8_t *data; /* as of the last good sync */
		size_t len;
	} durable[4];
	int n_changes; /* calls of any kind that change something, failed or not */
};

struct faulty_file {
	struct io_file base;
	struct io_file *real;
	char name[32];
};

static inline struct faulty_io *faulty_of(struct io *io)
{
	return (struct faulty_io *)io;
}

static inline struct io_file *faulty_real(struct io_file *f)
{
	return ((struct faulty_file *)f)->real;
}

static inline int faulty_hit(struct io *io, unsigned op)
{
	struct faulty_io *f = faulty_of(io);

	f->n_changes++;
	if (!(f->ops & op))
		return 0;
	const int n = ++f->n;
	return f->fail_at && n >= f->fail_at && n < f->fail_at + f->fail_n ? f->fail_errno : 0;
}

static inline int faulty_open(
        struct io *io, const char *name, unsigned flags, struct io_file **ret_file)
{
	struct faulty_file *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	f->base.io = io;
	int r = flags & IO_CREATE ? faulty_hit(io, FAULTY_OTHER) : 0;
	if (r == 0)
		r = io_open(faulty_of(io)->real, name, flags, &f->real);
	if (r < 0) {
		free(f);
		return r;
	}
	snprintf(f->name, sizeof(f->name), "%s", name);
	*ret_file = &f->base;
	return 0;
}

static inline void faulty_close(struct io_file *f)
{
	io_close(faulty_real(f));
	free(f);
}

static inline int faulty_pread(
        struct io_file *f, void *buf, size_t len, uint64_t off, size_t *ret_n)
{
	return io_pread(faulty_real(f), buf, len, off, ret_n);
}

static inline int faulty_pwritev(
        struct io_file *f, const struct iovec *iov, int n_iov, uint64_t off, size_t *ret_n)
{
	const int r = faulty_hit(f->io, FAULTY_WRITE);

	assert_int_equal(n_iov, 1);
	if (r < 0) {
		if (faulty_of(f->io)->tear)
			assert_int_equal(
			        io_pwrite(faulty_real(f), iov->iov_base, iov->iov_len / 2, off), 0);
		return r;
	}
	*ret_n = iov->iov_len;
	return io_pwrite(faulty_real(f), iov->iov_base, iov->iov_len, off);
}

static inline struct durable *durable_of(struct faulty_io *f, const char *name)
{
	struct durable *d = f->durable;

	while (d->name[0] && strcmp(d->name, name) != 0)
		d++;
	assert_true(d < f->durable + ARRAY_SIZE(f->durable));
	snprintf(d->name, sizeof(d->name), "%s", name);
	return d;
}

static inline uint8_t *read_all(struct io_file *f, size_t *ret_len)
{
	uint64_t size = 0;

	assert_int_equal(io_size(f, &size), 0);
	uint8_t *data = malloc(size + 1);
	assert_non_null(data);
	assert_int_equal(io_pread_exact(f, data, size, 0), 0);
	*ret_len = size;
	return data;
}

static inline int faulty_sync(struct io_file *f)
{
	const int r = faulty_hit(f->io, FAULTY_SYNC);

	if (r < 0)
		return r;
	if (faulty_of(f->io)->track) {
		struct durable *d = durable_of(faulty_of(f->io), ((struct faulty_file *)f)->name);
		free(d->data);
		d->data = read_all(faulty_real(f), &d->len);
	}
	return 0; /* the only power cuts here are made up: a real sync would only take time */
}

static inline int faulty_truncate(struct io_file *f, uint64_t size)
{
	const int r = faulty_hit(f->io, FAULTY_OTHER);

	return r < 0 ? r : io_truncate(faulty_real(f), size);
}

static inline int faulty_punch(struct io_file *f, uint64_t off, uint64_t len)
{
	return io_punch(faulty_real(f), off, len);
}

static inline int faulty_size(struct io_file *f, uint64_t *ret_size)
{
	return io_size(faulty_real(f), ret_size);
}

static inline int faulty_unlink(struct io *io, const char *name)
{
	const int r = faulty_hit(io, FAULTY_OTHER);

	return r < 0 ? r : io_unlink(faulty_of(io)->real, name);
}

static inline int faulty_rename(struct io *io, const char *from, const char *to)
{
	const int r = faulty_hit(io, FAULTY_OTHER);

	return r < 0 ? r : io_rename(faulty_of(io)->real, from, to);
}

static inline int faulty_mkdir(struct io *io, const char *name)
{
	const int r = faulty_hit(io, FAULTY_OTHER);

	return r < 0 ? r : io_mkdir(faulty_of(io)->real, name);
}

static inline int faulty_sync_dir(struct io *io, const char *name)
{
	const int r = faulty_hit(io, FAULTY_SYNC);

	return r < 0 ? r : io_sync_dir(faulty_of(io)->real, name);
}

static inline int faulty_list(struct io *io, const char *name, io_list_fn *fn, void *arg)
{
	return io_list(faulty_of(io)->real, name, fn, arg);
}

static inline int faulty_space(struct io *io, struct io_space *ret_space)
{
	return io_space(faulty_of(io)->real, ret_space);
}

static inline void faulty_free(struct io *io)
{
	io_free(faulty_of(io)->real);
	for (size_t i = 0; i < ARRAY_SIZE(faulty_of(io)->durable); i++)
		free(faulty_of(io)->durable[i].data);
	free(io);
}

static const struct io_ops faulty_ops = {
        .open = faulty_open,
        .close = faulty_close,
        .pread = faulty_pread,
        .pwritev = faulty_pwritev,
        .sync = faulty_sync,
        .truncate = faulty_truncate,
        .punch = faulty_punch,
        .size = faulty_size,
        .unlink = faulty_unlink,
        .rename = faulty_rename,
        .mkdir = faulty_mkdir,
        .sync_dir = faulty_sync_dir,
        .list = faulty_list,
        .space = faulty_space,
        .free = faulty_free,
};

struct fixture {
	char dir[64], copy[80];
	struct io *io; /* faulty, on dir */
	struct faulty_io *faults;
};

static inline struct io *real_io(const char *dir)
{
	struct io *io = NULL;

	assert_int_equal(io_posix_open(dir, &io, NULL), 0);
	return io;
}

static inline void fixture_open(struct fixture *f)
{
	snprintf(f->dir, sizeof(f->dir), "/tmp/weir-meta-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->copy, sizeof(f->copy), "%s/copy", f->dir);
	struct faulty_io *faults = calloc(1, sizeof(*faults));
	assert_non_null(faults);
	faults->base.ops = &faulty_ops;
	faults->real = real_io(f->dir);
	assert_int_equal(io_mkdir(faults->real, "copy"), 0);
	f->faults = faults;
	f->io = &faults->base;
}

static inline void fixture_unlink(const char *dir, const char *name)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	unlink(path);
}

static inline void fixture_close(struct fixture *f)
{
	io_free(f->io);
	fixture_unlink(f->copy, "meta.db");
	fixture_unlink(f->copy, "meta.db-wal");
	fixture_unlink(f->dir, "meta.db");
	fixture_unlink(f->dir, "meta.db-wal");
	rmdir(f->copy);
	assert_int_equal(rmdir(f->dir), 0); /* nothing else was made */
}

static inline void faults_off(struct fixture *f)
{
	f->faults->fail_at = 0;
}

static inline void faults_on(struct fixture *f, unsigned ops, int at, int n, int err)
{
	f->faults->ops = ops;
	f->faults->n = 0;
	f->faults->fail_n = n;
	f->faults->fail_errno = err;
	f->faults->fail_at = at;
}

static inline void fixture_create(struct fixture *f)
{
	const struct meta_create_params params = {.index_bytes = 1 << 20,
	        .log_bytes = 2 << 20,
	        .created_wall_ns = 1234567890123456789ull};
	struct errmsg em = {""};

	if (meta_create(f->io, &params, &em) != 0)
		fail_msg("%s", em.text);
}

static inline struct meta *fixture_meta(struct fixture *f, bool read_only)
{
	struct errmsg em = {""};
	struct meta *m = NULL;

	if (meta_open(f->io, read_only, &m, &em) != 0)
		fail_msg("%s", em.text);
	return m;
}

static inline void copy_file(struct fixture *f, const char *name)
{
	char cmd[512];

	snprintf(cmd, sizeof(cmd), "rm -f %s/%s; if [ -e %s/%s ]; then cp %s/%s %s/; fi", f->copy,
	        name, f->dir, name, f->dir, name, f->copy);
	assert_int_equal(system(cmd), 0);
}

/* What a crash right now would leave, apart from what the kernel had not written. */
static inline struct meta *crash_copy(struct fixture *f, struct io **ret_io, int *ret_r)
{
	struct errmsg em = {""};
	struct meta *m = NULL;

	copy_file(f, "meta.db");
	copy_file(f, "meta.db-wal");
	*ret_io = real_io(f->copy);
	*ret_r = meta_open(*ret_io, false, &m, &em);
	return m;
}

static inline uint32_t random_next(uint64_t *random, uint32_t n)
{
	*random ^= *random << 13;
	*random ^= *random >> 7;
	*random ^= *random << 17;
	return (uint32_t)((*random >> 16) % n);
}

/* Writes to the copy what a power cut leaves of a file: each sector as synced, or as written since.
 */
static inline void power_cut_file(struct fixture *f, const char *name, uint64_t *random)
{
	const struct durable *d = durable_of(f->faults, name);
	struct io_file *file = NULL;
	size_t len = 0;

	assert_int_equal(io_open(f->faults->real, name, IO_READ, &file), 0);
	uint8_t *now = read_all(file, &len);
	io_close(file);
	const size_t most = MAX(len, d->len);
	uint8_t *left = calloc(1, most + 1);
	assert_non_null(left);
	const uint32_t style = random_next(random, 4); /* all new, all old, or mixed */
	for (size_t at = 0; at < most; at += 512) {
		const bool old = style == 0 || (style > 1 && random_next(random, 2));
		const uint8_t *from = old ? d->data : now;
		const size_t from_len = old ? d->len : len;
		if (at < from_len)
			memcpy(left + at, from + at, MIN((size_t)512, from_len - at));
	}
	const size_t left_len = style == 0 || (style > 1 && random_next(random, 2)) ? d->len : len;
	struct io *io = real_io(f->copy);
	assert_int_equal(io_open(io, name, IO_WRITE | IO_CREATE | IO_TRUNC, &file), 0);
	assert_int_equal(io_pwrite(file, left, left_len, 0), 0);
	io_close(file);
	io_free(io);
	free(left);
	free(now);
}

/* Changes a byte of a file in dir. */
static inline void flip_byte(const char *dir, const char *name, uint64_t off)
{
	uint8_t b = 0;
	struct io *io = real_io(dir);
	struct io_file *f = NULL;

	assert_int_equal(io_open(io, name, IO_WRITE, &f), 0);
	assert_int_equal(io_pread_exact(f, &b, 1, off), 0);
	b ^= 0x40;
	assert_int_equal(io_pwrite(f, &b, 1, off), 0);
	io_close(f);
	io_free(io);
}

static inline uint64_t file_size_of(const char *dir, const char *name)
{
	struct io *io = real_io(dir);
	struct io_file *f = NULL;
	uint64_t size = 0;

	if (io_open(io, name, IO_READ, &f) == 0)
		assert_int_equal(io_size(f, &size), 0);
	io_close(f);
	io_free(io);
	return size;
}

static inline void count_complaint(void *arg, const char *text)
{
	++*(unsigned *)arg;
	if (getenv("WEIR_TEST_VERBOSE"))
		fprintf(stderr, "complaint: %s\n", text);
}

static inline unsigned complaints(struct meta *m)
{
	unsigned n = 0;

	assert_int_equal(meta_check(m, count_complaint, &n), 0);
	return n;
}

/*
 * io-mux.c - names are looked up once; files know their medium
 *
 * A medium lives while it is attached or a file of it is open: one count, under the lock.  The lock is
 * taken to find a medium for a name and to drop one, never across a call into a medium, so one that
 * hangs holds up nobody else.  Reads and writes take no lock at all.
 *
 * Files of the base outside "segments/" are handed out as they are, without a wrapper: nobody counts
 * them.  Numbers are relaxed atomics; a reader may see a read counted whose time is not yet.
 */
#include "base/io-mux.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"

#define COUNTED "segments/"

struct counts {
	_Atomic uint64_t reads, read_bytes, read_ns;
	_Atomic uint64_t writes, write_bytes, write_ns;
	_Atomic uint64_t errors, last_error_ns;
	_Atomic int last_error;
};

struct medium {
	struct io *io;
	unsigned refs; /* mux.lock: attached, calls under way, open files */
	struct counts *counts;
};

struct mux {
	struct io base;
	pthread_mutex_t lock;
	struct medium *media[IO_MUX_MEDIA]; /* lock; 0 is the base */
	struct counts counts[IO_MUX_MEDIA];
};

struct mux_file {
	struct io_file base;
	struct io_file *real;
	struct medium *medium;
};

static struct mux *mux_of(struct io *io)
{
	return CONTAINER_OF(io, struct mux, base);
}

static struct mux_file *file_of(struct io_file *f)
{
	return CONTAINER_OF(f, struct mux_file, base);
}

/* --- media --- */

static struct medium *medium_get(struct mux *m, unsigned n)
{
	pthread_mutex_lock(&m->lock);
	struct medium *md = n < IO_MUX_MEDIA ? m->media[n] : NULL;
	if (md)
		md->refs++;
	pthread_mutex_unlock(&m->lock);
	return md;
}

static void medium_put(struct mux *m, struct medium *md)
{
	pthread_mutex_lock(&m->lock);
	const bool last = --md->refs == 0;
	pthread_mutex_unlock(&m->lock);
	if (!last)
		return;
	io_free(md->io);
	free(md);
}

/* "tiers/N/rest": N, and *name becomes rest.  0 for all other names; IO_MUX_MEDIA: none has it. */
static unsigned name_split(const char **name)
{
	const char *p = *name;
	unsigned n = 0;

	if (strncmp(p, "tiers/", 6) != 0)
		return 0;
	for (p += 6; *p >= '0' && *p <= '9' && n < IO_MUX_MEDIA; p++)
		n = n * 10 + (unsigned)(*p - '0');
	if (n == 0 || n >= IO_MUX_MEDIA || (*p != '/' && *p != '\0'))
		return IO_MUX_MEDIA;
	*name = *p ? p + 1 : p;
	return n;
}

/* The medium that a name lies on, with a reference; NULL: not attached. */
static struct medium *medium_of(struct io *io, const char **name)
{
	return medium_get(mux_of(io), name_split(name));
}

static void count_result(struct counts *c, int r)
{
	if (r >= 0 || r == -ENOENT)
		return;
	atomic_fetch_add_explicit(&c->errors, 1, memory_order_relaxed);
	atomic_store_explicit(&c->last_error, r, memory_order_relaxed);
	atomic_store_explicit(&c->last_error_ns, clock_wall_ns(), memory_order_relaxed);
}

/* --- files --- */

static int mux_open(struct io *io, const char *name, unsigned flags, struct io_file **ret_file)
{
	struct mux *m = mux_of(io);
	const bool plain = strncmp(name, COUNTED, sizeof(COUNTED) - 1) != 0;
	struct medium *md = medium_of(io, &name);

	if (!md)
		return -ENXIO;
	const bool wrap = !plain || md->counts != &m->counts[0];
	struct mux_file *f = wrap ? malloc(sizeof(*f)) : NULL;
	int r = wrap && !f ? -ENOMEM : 0;
	if (r == 0)
		r = io_open(md->io, name, flags, wrap ? &f->real : ret_file);
	count_result(md->counts, r);
	if (r < 0 || !wrap) {
		free(f);
		medium_put(m, md);
		return r;
	}
	f->base.io = io;
	f->medium = md;
	*ret_file = &f->base;
	return 0;
}

static void mux_close(struct io_file *file)
{
	struct mux *m = mux_of(file->io);
	struct mux_file *f = file_of(file);

	io_close(f->real);
	medium_put(m, f->medium);
	free(f);
}

static int mux_pread(struct io_file *file, void *buf, size_t len, uint64_t off, size_t *ret_n)
{
	struct mux_file *f = file_of(file);
	struct counts *c = f->medium->counts;
	const uint64_t begin = clock_now_ns();
	const int r = f->real->io->ops->pread(f->real, buf, len, off, ret_n);

	atomic_fetch_add_explicit(&c->read_ns, clock_now_ns() - begin, memory_order_relaxed);
	atomic_fetch_add_explicit(&c->reads, 1, memory_order_relaxed);
	if (r == 0)
		atomic_fetch_add_explicit(&c->read_bytes, *ret_n, memory_order_relaxed);
	else if (r != -EINVAL || off % IO_ALIGN == 0) /* else the end of the file (io_pread) */
		count_result(c, r);
	return r;
}

static int mux_pwritev(
        struct io_file *file, const struct iovec *iov, int n_iov, uint64_t off, size_t *ret_n)
{
	struct mux_file *f = file_of(file);
	struct counts *c = f->medium->counts;
	const uint64_t begin = clock_now_ns();
	const int r = f->real->io->ops->pwritev(f->real, iov, n_iov, off, ret_n);

	atomic_fetch_add_explicit(&c->write_ns, clock_now_ns() - begin, memory_order_relaxed);
	atomic_fetch_add_explicit(&c->writes, 1, memory_order_relaxed);
	if (r == 0)
		atomic_fetch_add_explicit(&c->write_bytes, *ret_n, memory_order_relaxed);
	count_result(c, r);
	return r;
}

static int mux_sync(struct io_file *file)
{
	struct mux_file *f = file_of(file);
	const uint64_t begin = clock_now_ns();
	const int r = f->real->io->ops->sync(f->real);

	atomic_fetch_add_explicit(
	        &f->medium->counts->write_ns, clock_now_ns() - begin, memory_order_relaxed);
	count_result(f->medium->counts, r);
	return r;
}

static int mux_truncate(struct io_file *file, uint64_t size)
{
	const int r = io_truncate(file_of(file)->real, size);

	count_result(file_of(file)->medium->counts, r);
	return r;
}

static int mux_punch(struct io_file *file, uint64_t off, uint64_t len)
{
	const int r = io_punch(file_of(file)->real, off, len);

	count_result(file_of(file)->medium->counts, r);
	return r;
}

static int mux_size(struct io_file *file, uint64_t *ret_size)
{
	return io_size(file_of(file)->real, ret_size);
}

/* --- names --- */

/* Ends a call on a name: counts how it went, and lets go of the medium. */
static int name_done(struct io *io, struct medium *md, int r)
{
	count_result(md->counts, r);
	medium_put(mux_of(io), md);
	return r;
}

static int mux_unlink(struct io *io, const char *name)
{
	struct medium *md = medium_of(io, &name);

	return md ? name_done(io, md, io_unlink(md->io, name)) : -ENXIO;
}

static int mux_rename(struct io *io, const char *from, const char *to)
{
	struct medium *md = medium_of(io, &from);
	const unsigned n = name_split(&to);

	if (!md)
		return -ENXIO;
	const bool same = n < IO_MUX_MEDIA && md->counts == &mux_of(io)->counts[n];
	return name_done(io, md, same ? io_rename(md->io, from, to) : -EXDEV);
}

static int mux_mkdir(struct io *io, const char *name)
{
	struct medium *md = medium_of(io, &name);

	return md ? name_done(io, md, io_mkdir(md->io, name)) : -ENXIO;
}

static int mux_sync_dir(struct io *io, const char *name)
{
	struct medium *md = medium_of(io, &name);

	return md ? name_done(io, md, io_sync_dir(md->io, name)) : -ENXIO;
}

static int mux_list(struct io *io, const char *name, io_list_fn *fn, void *arg)
{
	struct medium *md = medium_of(io, &name);

	if (!md)
		return -ENXIO;
	const int r = io_list(md->io, name, fn, arg); /* positive: fn's own */
	return name_done(io, md, r);
}

int io_mux_space(struct io *io, unsigned n, struct io_space *ret_space)
{
	struct medium *md = medium_get(mux_of(io), n);

	return md ? name_done(io, md, io_space(md->io, ret_space)) : -ENXIO;
}

static int mux_space(struct io *io, struct io_space *ret_space)
{
	return io_mux_space(io, 0, ret_space);
}

/* --- making, attaching --- */

static void mux_free(struct io *io)
{
	struct mux *m = mux_of(io);

	for (unsigned n = 0; n < IO_MUX_MEDIA; n++)
		io_mux_detach(io, n);
	pthread_mutex_destroy(&m->lock);
	free(m);
}

static const struct io_ops mux_ops = {
        .open = mux_open,
        .close = mux_close,
        .pread = mux_pread,
        .pwritev = mux_pwritev,
        .sync = mux_sync,
        .truncate = mux_truncate,
        .punch = mux_punch,
        .size = mux_size,
        .unlink = mux_unlink,
        .rename = mux_rename,
        .mkdir = mux_mkdir,
        .sync_dir = mux_sync_dir,
        .list = mux_list,
        .space = mux_space,
        .free = mux_free,
};

int io_mux_attach(struct io *io, unsigned n, struct io *medium)
{
	struct mux *m = mux_of(io);
	struct medium *md = calloc(1, sizeof(*md));
	int r = md ? 0 : -ENOMEM;

	ASSERT(io->ops == &mux_ops && n < IO_MUX_MEDIA);
	pthread_mutex_lock(&m->lock);
	if (r == 0 && m->media[n])
		r = -EEXIST;
	if (r == 0) {
		*md = (struct medium){.io = medium, .refs = 1, .counts = &m->counts[n]};
		m->media[n] = md;
	}
	pthread_mutex_unlock(&m->lock);
	if (r < 0) {
		free(md);
		io_free(medium);
	}
	return r;
}

void io_mux_detach(struct io *io, unsigned n)
{
	struct mux *m = mux_of(io);

	pthread_mutex_lock(&m->lock);
	struct medium *md = m->media[n];
	m->media[n] = NULL;
	pthread_mutex_unlock(&m->lock);
	if (md)
		medium_put(m, md);
}

int io_mux_new(struct io *base, struct io **ret_mux)
{
	struct mux *m = calloc(1, sizeof(*m));
	int r;

	if (!m) {
		io_free(base);
		return -ENOMEM;
	}
	m->base.ops = &mux_ops;
	pthread_mutex_init(&m->lock, NULL);
	r = io_mux_attach(&m->base, 0, base);
	if (r < 0) {
		mux_free(&m->base);
		return r;
	}
	*ret_mux = &m->base;
	return 0;
}

bool io_mux_has(struct io *io, unsigned n)
{
	struct medium *md = medium_get(mux_of(io), n);

	if (md)
		medium_put(mux_of(io), md);
	return md;
}

void io_mux_prefix(unsigned n, char ret_prefix[IO_MUX_PREFIX_LEN])
{
	ASSERT(n < IO_MUX_MEDIA);
	ret_prefix[0] = '\0';
	if (n > 0)
		snprintf(ret_prefix, IO_MUX_PREFIX_LEN, "tiers/%u/", n);
}

void io_mux_stats_get(struct io *io, unsigned n, struct io_mux_stats *ret_stats)
{
	struct counts *c = &mux_of(io)->counts[n];

	*ret_stats = (struct io_mux_stats){
	        .reads = atomic_load(&c->reads),
	        .read_bytes = atomic_load(&c->read_bytes),
	        .read_ns = atomic_load(&c->read_ns),
	        .writes = atomic_load(&c->writes),
	        .write_bytes = atomic_load(&c->write_bytes),
	        .write_ns = atomic_load(&c->write_ns),
	        .errors = atomic_load(&c->errors),
	        .last_error = atomic_load(&c->last_error),
	        .last_error_ns = atomic_load(&c->last_error_ns),
	};
}

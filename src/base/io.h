/*
 * io.h - all backing I/O, through one small table of functions
 *
 * A struct io is a directory on some medium; names are relative to it ("segments/0a/....").  The
 * real one is io_posix_open(); tests put a simulated disk in its place that tears, drops, reorders
 * and fails writes, repeatable from one seed.  Nothing in weir touches a datastore's files another
 * way: not the segments, not the intent log, not SQLite (through its VFS in meta/).
 *
 * Durability contract, the one POSIX gives: data is durable after a successful io_sync() of the
 * file that began after the write returned; a file's name is durable after io_sync_dir() of its
 * directory.  After a failed io_sync() nothing is known about what was written since the last good
 * one: callers never retry it into success (they write the data elsewhere).
 *
 * Threads: every function may be called from any thread; a file may be used from many at once.
 * Errors: 0 or -errno, everywhere.
 */
#pragma once

#include <sys/types.h>
#include <sys/uio.h>

#include "base/compiler.h"
#include "base/errmsg.h"

#define IO_ALIGN 4096 /* of buffer, offset and length, for files opened with IO_DIRECT */

enum io_open_flags {
	IO_READ = 0,       /* read only */
	IO_WRITE = BIT(0), /* read and write */
	IO_CREATE = BIT(1),
	IO_EXCL = BIT(2),
	IO_TRUNC = BIT(3),
	IO_DIRECT = BIT(4), /* past the page cache where the medium can; callers align either way */
};

struct io;

/* Backends embed this as their first member. */
struct io_file {
	struct io *io;
};

struct io_space {
	uint64_t total_bytes;
	uint64_t free_bytes; /* that an ordinary user may still write */
};

/* One name in a directory; name is only valid during the call.  Non-zero stops the listing. */
typedef int io_list_fn(void *arg, const char *name, bool is_dir);

struct io_ops {
	int (*open)(struct io *io, const char *name, unsigned flags, struct io_file **ret_file);
	void (*close)(struct io_file *f);
	/* One transfer, may be short; *ret_n = 0 at end of file. */
	int (*pread)(struct io_file *f, void *buf, size_t len, uint64_t off, size_t *ret_n);
	int (*pwritev)(
	        struct io_file *f, const struct iovec *iov, int n_iov, uint64_t off, size_t *ret_n);
	int (*sync)(struct io_file *f); /* fdatasync */
	int (*truncate)(struct io_file *f, uint64_t size);
	int (*punch)(struct io_file *f, uint64_t off, uint64_t len); /* keeps the size */
	int (*size)(struct io_file *f, uint64_t *ret_size);
	int (*unlink)(struct io *io, const char *name);
	int (*rename)(struct io *io, const char *from, const char *to);
	int (*mkdir)(struct io *io, const char *name);    /* 0 also when it exists */
	int (*sync_dir)(struct io *io, const char *name); /* "" is the top */
	int (*list)(struct io *io, const char *name, io_list_fn *fn, void *arg);
	int (*space)(struct io *io, struct io_space *ret_space);
	void (*free)(struct io *io);
};

struct io {
	const struct io_ops *ops;
};

/* The real thing, rooted at a directory that exists.  Frees with io_free(). */
int io_posix_open(const char *dir, struct io **ret_io, struct errmsg *em) MUST_CHECK;
void io_free(struct io *io);
void io_freep(struct io **io);

int io_open(struct io *io, const char *name, unsigned flags, struct io_file **ret_file) MUST_CHECK;
void io_close(struct io_file *f);
void io_closep(struct io_file **f);
/* Reads up to len bytes, as many as there are before the end of the file; *ret_n tells. */
int io_pread(struct io_file *f, void *buf, size_t len, uint64_t off, size_t *ret_n) MUST_CHECK;
/* Reads exactly len bytes; -ENODATA when the file ends before. */
int io_pread_exact(struct io_file *f, void *buf, size_t len, uint64_t off) MUST_CHECK;
/* Writes all of it. */
int io_pwrite(struct io_file *f, const void *buf, size_t len, uint64_t off) MUST_CHECK;
int io_sync(struct io_file *f) MUST_CHECK;
int io_truncate(struct io_file *f, uint64_t size) MUST_CHECK;
int io_punch(struct io_file *f, uint64_t off, uint64_t len) MUST_CHECK;
int io_size(struct io_file *f, uint64_t *ret_size) MUST_CHECK;
int io_unlink(struct io *io, const char *name) MUST_CHECK;
int io_rename(struct io *io, const char *from, const char *to) MUST_CHECK;
int io_mkdir(struct io *io, const char *name) MUST_CHECK;
int io_sync_dir(struct io *io, const char *name) MUST_CHECK;
int io_list(struct io *io, const char *name, io_list_fn *fn, void *arg) MUST_CHECK;
int io_space(struct io *io, struct io_space *ret_space) MUST_CHECK;

/*
 * receive-world.h - streams that are sent and received, for the tests of receiving
 *
 * Sender and receiver are one datastore: images are sent to memory, and received under other names.
 */
#pragma once

#include <fcntl.h>
#include <sys/mman.h>

#include "fs/snapshot/snapshots.h"
#include "fs/stream/receive.h"
#include "fs/stream/send.h"
#include "manager-world.h"

#define SIZE (5 * MIB + 1234)

/* --- short forms --- */

static inline void keep(const char *target, const char *name)
{
	const struct snapshot_request rq = {.target = target, .name = name};
	json_t *json = NULL;
	struct errmsg em = {0};

	assert_int_equal(snapshots_create(m, &me, &rq, &json, &em), 0);
	json_decref(json);
}

static inline unsigned count_list(const char *target)
{
	const struct snapshot_request rq = {.target = target};
	json_t *json = NULL;
	struct errmsg em = {0};

	assert_int_equal(snapshots_list(ds, &rq, NULL, NULL, &json, &em), 0);
	const size_t n = json_array_size(json_object_get(json, "snapshots"));
	json_decref(json);
	return (unsigned)n;
}

/* Into memory; the descriptor stands at its beginning. */
static inline int sent(const char *target, const char *name, const char *from)
{
	const struct send_request rq = {.target = target, .name = name, .from = from};
	const int fd = memfd_create("stream", MFD_CLOEXEC);
	const struct send_io io = {fd, -1, -1};
	json_t *json = NULL;
	struct errmsg em = {0};

	assert_true(fd >= 0);
	const int r = stream_send(ds, &rq, &io, NULL, NULL, &json, &em);
	if (r < 0)
		fail_msg("%s", em.text);
	json_decref(json);
	assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
	return fd;
}

static json_t *result; /* of the last one */

static inline int receive_with(int fd, const char *target, bool force, bool properties)
{
	const struct receive_request rq = {.target = target,
	        .force = force,
	        .properties = properties,
	        .in_fd = fd,
	        .back_fd = -1,
	        .cut_fd = -1};

	json_decref(result);
	result = NULL;
	why = (struct errmsg){0};
	return receive_run(m, &me, &rq, NULL, NULL, NULL, NULL, &result, &why);
}

/* The descriptor stays, at its beginning. */
static inline int receive(int fd, const char *target)
{
	const int r = receive_with(fd, target, false, false);

	lseek(fd, 0, SEEK_SET);
	return r;
}

static inline void received(int fd, const char *target)
{
	if (receive(fd, target) < 0)
		fail_msg("%s", why.text);
}

/* The first bytes of a stream; the descriptor is the caller's. */
static inline int cut_at(int fd, size_t len)
{
	const int to = memfd_create("cut", MFD_CLOEXEC);
	uint8_t *buf = malloc(len + 1);

	assert_int_equal(pread(fd, buf, len, 0), len);
	assert_int_equal(write(to, buf, len), len);
	free(buf);
	assert_int_equal(lseek(to, 0, SEEK_SET), 0);
	return to;
}

static inline size_t length_of(int fd)
{
	const off_t len = lseek(fd, 0, SEEK_END);

	lseek(fd, 0, SEEK_SET);
	return (size_t)len;
}

static inline unsigned hidden(void)
{
	json_t *json = NULL;
	struct errmsg em = {0};

	assert_int_equal(receive_list(ds, m, &json, &em), 0);
	const size_t n = json_array_size(json_object_get(json, "receiving"));
	json_decref(json);
	return (unsigned)n;
}

static inline unsigned orphans(void)
{
	unsigned n = 0;

	assert_int_equal(ns_inode_each(ds->ns, NS_ORPHANS, count_inode, &n), 0);
	return n;
}

/* Bytes of all kinds: data that compresses and that does not, zeros, holes, duplicates. */
static inline void fill_kinds(struct vnode *f, unsigned seed)
{
	static uint8_t buf[MIB];
	uint64_t x = seed * 0x9e3779b97f4a7c15ull + 1;

	for (size_t i = 0; i < sizeof(buf); i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		buf[i] = (uint8_t)(x >> 32);
	}
	put(f, 0, buf, 300000);
	fill(f, MIB, 400000, (char)('a' + seed));
	put(f, 2 * MIB, buf, 200000); /* a duplicate */
	fill(f, 3 * MIB, 100000, 0);
	put(f, 5 * MIB, buf + 500000, 1234);
}

static inline void same_files(const char *a, const char *b)
{
	uint64_t size = size_of(ino_of(TOP, a));
	struct vnode *fa, *fb;
	static char x[MIB], y[MIB];

	assert_int_equal(size_of(ino_of(TOP, b)), size);
	assert_int_equal(vfs_open(vfs, ino_of(TOP, a), &fa), 0);
	assert_int_equal(vfs_open(vfs, ino_of(TOP, b), &fb), 0);
	for (uint64_t off = 0; off < size; off += MIB) {
		const size_t n = MIN(size - off, MIB);
		assert_int_equal(get(fa, off, x, n), n);
		assert_int_equal(get(fb, off, y, n), n);
		assert_memory_equal(x, y, n);
	}
	vfs_release(vfs, fa);
	vfs_release(vfs, fb);
}

/* "a" with a snapshot s1. */
static inline void make_source(void)
{
	struct vnode *f = create("a", NULL);

	fill_kinds(f, 1);
	vfs_release(vfs, f);
	keep("a", "s1");
}

/* And changed, with a snapshot s2. */
static inline void change_source(void)
{
	struct vnode *f;
	const uint64_t ino = ino_of(TOP, "a");

	assert_int_equal(vfs_open(vfs, ino, &f), 0);
	fill(f, 10000, 50000, 'x');
	fill(f, 6 * MIB, 8192, 'y');
	vfs_release(vfs, f);
	assert_int_equal(resize(ino, 4 * MIB + 100), 0);
	keep("a", "s2");
}

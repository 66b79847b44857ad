/*
 * test-vfs-clone.c - copies of whole files that share the map
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "vfs-world.h"

#define GIB (1ull << 30)

/* For builds with TSan: threads that are left when a process ends are what a crash is about. */
const char *__tsan_default_options(void);
const char *__tsan_default_options(void)
{
	return "report_thread_leaks=0";
}

static struct vnode *open_file(const char *name)
{
	struct vnode *f;

	assert_int_equal(vfs_open(vfs, ino_of(TOP, name), &f), 0);
	return f;
}

static void copy_whole(struct vnode *from, struct vnode *to, uint64_t size)
{
	uint64_t done = 0;

	assert_int_equal(vfs_copy(vfs, from, 0, to, 0, size, 0, &done), 0);
	assert_int_equal(done, size);
}

/* A chunk that tells its number at every `step` bytes; commits now and then. */
static void spread(struct vnode *f, uint64_t size, uint64_t step)
{
	uint64_t chunk[CHUNK_SIZE / sizeof(uint64_t)];
	unsigned n = 0;

	for (uint64_t off = 0; off < size; off += step) {
		for (unsigned i = 0; i < ARRAY_SIZE(chunk); i++)
			chunk[i] = off + i + 1;
		put(f, off, chunk, sizeof(chunk));
		if (++n % 1000 == 0)
			assert_int_equal(store_sync(ds->store), 0);
	}
}

static void expect_spread(struct vnode *f, uint64_t size, uint64_t step)
{
	uint64_t chunk[CHUNK_SIZE / sizeof(uint64_t)];

	for (uint64_t off = 0; off < size; off += step) {
		assert_int_equal(get(f, off, chunk, sizeof(chunk)), sizeof(chunk));
		assert_true(chunk[0] == off + 1);
		assert_true(chunk[511] == off + 512);
	}
}

static void a_large_sparse_file_is_copied_at_once(void **state)
{
	const uint64_t size = 100 * GIB, step = 25 * MIB;
	uint64_t from_ino, to_ino, done = 0;
	struct vnode *from = create("from", &from_ino), *to = create("to", &to_ino);

	spread(from, size, step);
	assert_int_equal(resize(from_ino, size), 0);
	assert_int_equal(store_sync(ds->store), 0);
	const uint64_t begin_ns = clock_now_ns();
	assert_int_equal(vfs_copy(vfs, from, 0, to, 0, INT64_MAX, 0, &done), 0);
	assert_true(clock_now_ns() - begin_ns < NS_PER_SEC);
	assert_true(done == size);
	assert_true(size_of(to_ino) == size);
	assert_true(attr(to_ino).blocks_512 == attr(from_ino).blocks_512);
	expect_spread(to, size, step);
	/* Both go their own way. */
	fill(from, 0, 4096, 'f');
	fill(to, step, 4096, 't');
	assert_int_equal(store_sync(ds->store), 0);
	expect_bytes(from, 0, 4096, 'f');
	expect_bytes(to, step, 4096, 't');
	char byte;
	get(to, 0, &byte, 1);
	assert_int_equal(byte, 1);
	vfs_release(vfs, from);
	vfs_release(vfs, to);
}

static void what_is_not_committed_is_copied_too(void **state)
{
	struct vnode *from = create("from", NULL), *to = create("to", NULL);

	fill(from, 0, 100000, 'a');
	assert_int_equal(store_sync(ds->store), 0);
	fill(from, 5000, 100, 'b');
	fill(from, 70 * MIB, 5000, 'c');
	copy_whole(from, to, 70 * MIB + 5000);
	expect_bytes(to, 0, 5000, 'a');
	expect_bytes(to, 5000, 100, 'b');
	expect_bytes(to, 5100, 94900, 'a');
	expect_bytes(to, 70 * MIB, 5000, 'c');
	vfs_release(vfs, from);
	vfs_release(vfs, to);
}

static void only_a_part_is_copied_when_asked_for(void **state)
{
	uint64_t ino, done;
	struct vnode *from = create("from", NULL), *to = create("to", &ino);

	fill(from, 200 * MIB, 4096, 'z');
	fill(from, 0, 4096, 'a');
	assert_int_equal(vfs_copy(vfs, from, 0, to, 0, 100 * MIB, 0, &done), 0);
	assert_int_equal(done, 100 * MIB);
	assert_int_equal(size_of(ino), 100 * MIB);
	expect_bytes(to, 0, 4096, 'a');
	expect_bytes(to, 100 * MIB - 4096, 4096, 0);
	/* The rest goes on behind it; what was in the way is a hole then. */
	fill(to, 150 * MIB, 4096, 'q');
	assert_int_equal(vfs_copy(vfs, from, 100 * MIB, to, 100 * MIB, GIB, 0, &done), 0);
	assert_int_equal(done, 100 * MIB + 4096);
	expect_bytes(to, 150 * MIB, 4096, 0);
	expect_bytes(to, 200 * MIB, 4096, 'z');
	vfs_release(vfs, from);
	vfs_release(vfs, to);
}

/* --- by parts --- */

#define SIZE (100 * GIB)
#define STEP (100 * MIB)

static uint64_t copy_part(struct vnode *from, struct vnode *to, uint64_t off, uint64_t len)
{
	uint64_t done = 0;

	assert_int_equal(vfs_copy(vfs, from, off, to, off, len, 0, &done), 0);
	return done;
}

static struct vnode *spread_file(const char *name, uint64_t size)
{
	uint64_t ino;
	struct vnode *f = create(name, &ino);

	spread(f, size, STEP);
	assert_int_equal(resize(ino, size), 0);
	return f;
}

/* As cp does it: an extent, then all that is left. */
static void what_is_left_comes_as_a_whole(void **state)
{
	struct vnode *from = spread_file("from", SIZE), *to = create("to", NULL);

	assert_int_equal(copy_part(from, to, 0, CHUNK_SIZE), CHUNK_SIZE);
	assert_int_equal(size_of(ino_of(TOP, "to")), CHUNK_SIZE);
	assert_true(copy_part(from, to, STEP, SIZE - STEP) == SIZE - STEP);
	expect_spread(to, SIZE, STEP);
	assert_true(size_of(ino_of(TOP, "to")) == SIZE);
	vfs_release(vfs, from);
	vfs_release(vfs, to);
}

/* A guest that runs meanwhile. */
static void a_change_behind_what_was_copied_is_no_obstacle(void **state)
{
	struct vnode *from = spread_file("from", SIZE), *to = create("to", NULL);

	copy_part(from, to, 0, CHUNK_SIZE);
	fill(from, 5 * STEP, 4096, 'n');
	assert_true(copy_part(from, to, STEP, SIZE - STEP) == SIZE - STEP);
	expect_bytes(to, 5 * STEP, 4096, 'n');
	vfs_release(vfs, from);
	vfs_release(vfs, to);
}

static void nothing_changes_but_what_is_copied(void **state)
{
	struct vnode *from = spread_file("from", 2 * GIB), *to[5];
	char name[8];

	for (unsigned i = 0; i < ARRAY_SIZE(to); i++) {
		snprintf(name, sizeof(name), "to%u", i);
		to[i] = create(name, NULL);
		if (i < 4)
			copy_part(from, to[i], 0, 2 * CHUNK_SIZE);
	}
	fill(to[1], CHUNK_SIZE, 10, 'q');        /* what it has is changed */
	fill(to[2], GIB, 10, 'q');               /* there is something ahead */
	fill(from, CHUNK_SIZE, CHUNK_SIZE, 's'); /* the source has changed there */
	copy_part(from, to[0], STEP, 2 * GIB);   /* nothing was left out, but that */
	copy_part(from, to[1], STEP, 2 * GIB);
	copy_part(from, to[2], STEP, GIB - STEP);
	copy_part(from, to[3], 2 * STEP, 2 * GIB); /* an extent is left out */
	copy_part(from, to[4], STEP, 2 * GIB);     /* the first is */
	uint64_t chunk[CHUNK_SIZE / sizeof(uint64_t)];
	get(to[0], 0, chunk, sizeof(chunk));
	assert_true(chunk[511] == 512);
	expect_bytes(to[0], CHUNK_SIZE, CHUNK_SIZE, 0);
	expect_bytes(to[1], CHUNK_SIZE, 10, 'q');
	expect_bytes(to[2], GIB, 10, 'q');
	expect_bytes(to[3], STEP, CHUNK_SIZE, 0);
	expect_bytes(to[4], 0, CHUNK_SIZE, 0);
	for (unsigned i = 0; i < ARRAY_SIZE(to); i++)
		vfs_release(vfs, to[i]);
	vfs_release(vfs, from);
}

static void seek_complete(struct request *req)
{
	assert_int_equal(req->result, 0);
}

static uint64_t seek_by(struct vnode *f, uint32_t who, uint64_t off, int whence)
{
	struct request req = {.complete = seek_complete};

	assert_int_equal(vfs_lseek_request(off, whence, &req), 0);
	vfs_lseek_by(f, who, &req);
	vfs_submit(vfs, f, &req);
	return req.found;
}

static void who_copies_is_told_of_no_more_holes(void **state)
{
	struct vnode *from = spread_file("from", SIZE), *to = create("to", NULL);

	assert_true(seek_by(from, 1, 0, SEEK_HOLE) == CHUNK_SIZE);
	copy_part(from, to, 0, CHUNK_SIZE);
	vfs_copied_by(from, to, 1);
	assert_true(seek_by(from, 2, CHUNK_SIZE, SEEK_DATA) == STEP);
	assert_true(seek_by(from, 2, STEP, SEEK_HOLE) == STEP + CHUNK_SIZE);
	assert_true(seek_by(from, 1, CHUNK_SIZE, SEEK_DATA) == STEP);
	assert_true(seek_by(from, 2, STEP, SEEK_HOLE) == STEP + CHUNK_SIZE);
	assert_true(seek_by(from, 1, STEP, SEEK_HOLE) == SIZE);
	assert_true(seek_by(from, 1, 2 * STEP, SEEK_HOLE) == 2 * STEP + CHUNK_SIZE);
	/* A copy to some other place is no beginning. */
	uint64_t done;
	assert_int_equal(vfs_copy(vfs, from, 0, to, STEP, CHUNK_SIZE, 0, &done), 0);
	vfs_copied_by(from, to, 1);
	assert_true(seek_by(from, 1, CHUNK_SIZE, SEEK_DATA) == STEP);
	assert_true(seek_by(from, 1, STEP, SEEK_HOLE) == STEP + CHUNK_SIZE);
	vfs_release(vfs, from);
	vfs_release(vfs, to);
}

static void space_that_was_allocated_before_is_no_obstacle(void **state)
{
	struct vnode *from = create("from", NULL), *to = create("to", NULL);

	fill(from, 64 * MIB, 4096, 'z');
	fill(from, 0, 4096, 'a');
	assert_int_equal(vfs_fallocate(vfs, to, FALLOC_FL_KEEP_SIZE, 0, 80 * MIB, 0), 0);
	copy_whole(from, to, 64 * MIB + 4096);
	expect_bytes(to, 0, 4096, 'a');
	expect_bytes(to, 4096, 4096, 0);
	expect_bytes(to, 64 * MIB, 4096, 'z');
	vfs_release(vfs, from);
	vfs_release(vfs, to);
}

/* --- crashes: a child that ends without closing anything --- */

static void crash(void (*fn)(void))
{
	int status;

	world_close();
	const pid_t pid = fork();
	if (pid == 0) {
		if (world_open(false) < 0)
			_exit(2);
		fn();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(world_open(false), 0);
}

static void copy_only(void)
{
	struct vnode *from = create("from", NULL), *to = create("to", NULL);
	uint64_t done;

	spread(from, 80 * MIB, MIB);
	if (vfs_copy(vfs, from, 0, to, 0, GIB, 0, &done) < 0)
		_exit(3);
	fill(to, 0, 4096, 'x');
}

static void copy_write_and_flush(void)
{
	copy_only();
	if (vfs_fsync(vfs, open_file("to")) < 0)
		_exit(3);
	fill(open_file("to"), MIB, 4096, 'y');
}

static void expect_copy(char first)
{
	struct vnode *from = open_file("from"), *to = open_file("to");
	uint64_t word;

	assert_int_equal(size_of(ino_of(TOP, "to")), 79 * MIB + 4096);
	expect_spread(from, 80 * MIB, MIB);
	if (first)
		expect_bytes(to, 0, 4096, first);
	for (uint64_t off = first ? MIB : 0; off < 80 * MIB; off += MIB) {
		get(to, off, &word, sizeof(word));
		assert_true(word == off + 1);
	}
	vfs_release(vfs, from);
	vfs_release(vfs, to);
}

static void a_copy_that_was_answered_survives(void **state)
{
	crash(copy_only);
	expect_copy(0);
}

static void what_was_flushed_after_it_survives(void **state)
{
	crash(copy_write_and_flush);
	expect_copy('x');
}

static void copy_again_and_again(void)
{
	struct vnode *from = create("from", NULL);
	uint64_t done;

	spread(from, 80 * MIB, MIB);
	if (vfs_fsync(vfs, from) < 0)
		_exit(3);
	for (unsigned i = 0;; i++) {
		const char name[] = {'t', (char)('a' + i % 26), (char)('a' + i / 26), 0};
		struct vnode *to = create(name, NULL);
		const uint64_t parts[] = {0, i % 2 ? CHUNK_SIZE : GIB, GIB};
		for (unsigned p = 0; p < 2 && parts[p] < GIB; p++) {
			if (vfs_copy(vfs, from, parts[p], to, parts[p], parts[p + 1] - parts[p], 0,
			            &done) < 0)
				_exit(3);
			if (p == 0 && i % 4 == 3 && vfs_fsync(vfs, to) < 0)
				_exit(3);
		}
		vfs_release(vfs, to);
		if (i == 600)
			_exit(0);
	}
}

static int copy_check(void *arg, const struct ns_inode *inode)
{
	struct vnode *f;

	if (!S_ISREG(inode->mode) || inode->size == 0)
		return 0;
	/* Or the first part of one that was to be copied in two. */
	const bool part = inode->size == CHUNK_SIZE;
	if (!part)
		assert_int_equal(inode->size, 79 * MIB + 4096);
	assert_int_equal(vfs_open(vfs, inode->ino, &f), 0);
	expect_spread(f, part ? CHUNK_SIZE : 80 * MIB, MIB);
	vfs_release(vfs, f);
	++*(unsigned *)arg;
	return 0;
}

static void a_copy_is_there_as_a_whole_or_not_at_all(void **state)
{
	for (unsigned i = 0; i < 4; i++) {
		unsigned n = 0;
		int status;
		world_close();
		const pid_t pid = fork();
		if (pid == 0) {
			if (world_open(false) < 0)
				_exit(2);
			copy_again_and_again();
		}
		usleep(150000 + i * 37000);
		kill(pid, SIGKILL);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_false(WIFEXITED(status) && WEXITSTATUS(status) != 0);
		assert_int_equal(world_open(false), 0);
		assert_int_equal(ns_inode_each(ds->ns, NS_REGULAR, copy_check, &n), 0);
		world_close();
		char cmd[128];
		snprintf(cmd, sizeof(cmd), "rm -rf '%s'", world_dir);
		assert_int_equal(system(cmd), 0);
		assert_int_equal(world_setup(NULL), 0);
	}
}

/* --- against a model --- */

#define FILES  4u
#define SPOTS  64u
#define SPREAD (5 * MIB / 4) /* so that the last lies beyond 64 MiB */
#define SPOT   8192u

struct model {
	struct vnode *file;
	uint64_t size;
	uint8_t bytes[SPOTS][SPOT];
};

static struct model *models; /* FILES */

static const char *const names[FILES] = {"a", "b", "c", "d"};

static void model_check(void)
{
	static uint8_t buf[SPOT];

	for (unsigned i = 0; i < FILES; i++) {
		const struct model *m = &models[i];
		assert_int_equal(size_of(ino_of(TOP, names[i])), m->size);
		for (unsigned s = 0; s < SPOTS; s++) {
			memset(buf, 0, sizeof(buf));
			get(m->file, s * SPREAD, buf, sizeof(buf));
			if (memcmp(buf, m->bytes[s], sizeof(buf)))
				fail_msg("file %u differs at spot %u", i, s);
		}
	}
}

static void model_write(struct model *m, unsigned rnd)
{
	static uint8_t buf[SPOT];
	const unsigned spot = rnd % SPOTS, off = (unsigned)rand() % SPOT,
	               len = 1 + (unsigned)rand() % (SPOT - off);

	memset(buf, rand() | 1, len);
	put(m->file, spot * SPREAD + off, buf, len);
	memcpy(m->bytes[spot] + off, buf, len);
	m->size = MAX(m->size, spot * SPREAD + off + len);
}

static void model_punch(struct model *m, unsigned rnd)
{
	const unsigned spot = rnd % SPOTS, n = 1 + (unsigned)rand() % 8;
	const unsigned mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;

	assert_int_equal(
	        vfs_fallocate(vfs, m->file, mode, spot * SPREAD, (n - 1) * SPREAD + SPOT, 0), 0);
	for (unsigned s = spot; s < MIN(spot + n, SPOTS); s++)
		memset(m->bytes[s], 0, SPOT);
}

static void model_resize(struct model *m, unsigned at, uint64_t size)
{
	assert_int_equal(resize(ino_of(TOP, names[at]), size), 0);
	for (unsigned s = 0; s < SPOTS; s++)
		for (unsigned i = 0; i < SPOT; i++)
			if (s * SPREAD + i >= size)
				m->bytes[s][i] = 0;
	m->size = size;
}

static void model_copy(unsigned from, unsigned to)
{
	uint64_t done = 0, off = 0;

	if (from == to)
		return;
	model_resize(&models[to], to, 0);
	if (rand() % 2)
		assert_int_equal(store_sync(ds->store), 0);
	while (off < models[from].size) {
		assert_int_equal(
		        vfs_copy(vfs, models[from].file, off, models[to].file, off, GIB, 0, &done),
		        0);
		assert_true(done > 0);
		off += done;
	}
	memcpy(models[to].bytes, models[from].bytes, sizeof(models[to].bytes));
	models[to].size = models[from].size;
}

static void model_copy_part(unsigned from, unsigned to, uint64_t off, uint64_t len)
{
	const struct model *src = &models[from];
	struct model *dst = &models[to];
	const uint64_t end = MIN(off + len, src->size);
	uint64_t done = 0;

	for (uint64_t at = off; at < end; at += done) {
		assert_int_equal(
		        vfs_copy(vfs, src->file, at, dst->file, at, end - at, 0, &done), 0);
		assert_true(done > 0);
	}
	for (unsigned s = 0; s < SPOTS; s++)
		for (unsigned i = 0; i < SPOT; i++)
			if (s * SPREAD + i >= off && s * SPREAD + i < end)
				dst->bytes[s][i] = src->bytes[s][i];
	if (end > off)
		dst->size = MAX(dst->size, end);
}

/* In two or three parts; changes of any file, these two as well, may come between. */
static void model_copy_parts(unsigned from, unsigned to)
{
	uint64_t at = 0;

	if (from == to)
		return;
	model_resize(&models[to], to, 0);
	for (unsigned i = 1 + (unsigned)rand() % 2; i > 0; i--) {
		uint64_t len = (unsigned)rand() % (8 * MIB);
		if (rand() % 2)
			len -= len % CHUNK_SIZE;
		if (rand() % 4)
			model_copy_part(from, to, at, len);
		at += len;
		if (rand() % 3 == 0)
			model_write(&models[(unsigned)rand() % FILES], (unsigned)rand());
		if (rand() % 8 == 0)
			model_punch(&models[(unsigned)rand() % FILES], (unsigned)rand());
		if (rand() % 8 == 0)
			model_resize(&models[to], to, (unsigned)rand() % (SPOTS * SPREAD));
		if (rand() % 4 == 0)
			assert_int_equal(store_sync(ds->store), 0);
	}
	model_copy_part(from, to, at, GIB);
}

static void model_reopen(void)
{
	for (unsigned i = 0; i < FILES; i++)
		vfs_release(vfs, models[i].file);
	world_close();
	assert_int_equal(world_open(false), 0);
	for (unsigned i = 0; i < FILES; i++)
		models[i].file = open_file(names[i]);
}

static void model_step(void)
{
	const unsigned what = (unsigned)rand() % 100, rnd = (unsigned)rand(), at = rnd % FILES;

	if (what < 70)
		model_write(&models[at], rnd / FILES);
	else if (what < 78)
		model_punch(&models[at], rnd / FILES);
	else if (what < 82)
		model_resize(&models[at], at, rnd % (SPOTS * SPREAD));
	else if (what < 88)
		model_copy(at, rnd / FILES % FILES);
	else if (what < 94)
		model_copy_parts(at, rnd / FILES % FILES);
	else if (what < 98)
		assert_int_equal(store_sync(ds->store), 0);
	else if (what < 99)
		model_check();
	else
		model_reopen();
}

static void copies_behave_as_copies_of_bytes(void **state)
{
	struct gc_report report;

	models = calloc(FILES, sizeof(*models));
	for (unsigned seed = 1; seed <= 3; seed++) {
		srand(seed);
		for (unsigned i = 0; i < FILES; i++) {
			models[i] = (struct model){.file = create(names[i], NULL)};
			model_write(&models[i], SPOTS - 1);
		}
		for (unsigned i = 0; i < 600; i++) {
			model_step();
			if (i % 200 == 199)
				assert_int_equal(store_gc(ds->store, true, NULL, NULL, &report), 0);
		}
		model_check();
		for (unsigned i = 0; i < FILES; i++) {
			vfs_release(vfs, models[i].file);
			assert_int_equal(vfs_unlink(vfs, TOP, names[i]), 0);
		}
	}
	free(models);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        CASE(a_large_sparse_file_is_copied_at_once),
	        CASE(what_is_not_committed_is_copied_too),
	        CASE(only_a_part_is_copied_when_asked_for),
	        CASE(what_is_left_comes_as_a_whole),
	        CASE(a_change_behind_what_was_copied_is_no_obstacle),
	        CASE(nothing_changes_but_what_is_copied),
	        CASE(who_copies_is_told_of_no_more_holes),
	        CASE(space_that_was_allocated_before_is_no_obstacle),
	        CASE(a_copy_that_was_answered_survives),
	        CASE(what_was_flushed_after_it_survives),
	        CASE(a_copy_is_there_as_a_whole_or_not_at_all),
	        CASE(copies_behave_as_copies_of_bytes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * test-receive.c - streams that are received: whole, as updates, cut, resumed, refused
 *
 * Sender and receiver are one datastore: images are sent to files, and received under other names.
 */
#include <fcntl.h>
#include <sys/mman.h>

#include "fs/snapshot/snapshots.h"
#include "fs/stream/receive.h"
#include "fs/stream/send.h"
#include "manager-world.h"

#define SIZE (5 * MIB + 1234)

/* --- short forms --- */

static void keep(const char *target, const char *name)
{
	const struct snapshot_request rq = {.target = target, .name = name};
	json_t *json = NULL;
	struct errmsg em = {0};

	assert_int_equal(snapshots_create(m, &me, &rq, &json, &em), 0);
	json_decref(json);
}

static unsigned count_list(const char *target)
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
static int sent(const char *target, const char *name, const char *from)
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

static int receive_with(int fd, const char *target, bool force, bool properties)
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
static int receive(int fd, const char *target)
{
	const int r = receive_with(fd, target, false, false);

	lseek(fd, 0, SEEK_SET);
	return r;
}

static void received(int fd, const char *target)
{
	if (receive(fd, target) < 0)
		fail_msg("%s", why.text);
}

/* The first bytes of a stream; the descriptor is the caller's. */
static int cut_at(int fd, size_t len)
{
	const int to = memfd_create("cut", MFD_CLOEXEC);
	uint8_t *buf = malloc(len + 1);

	assert_int_equal(pread(fd, buf, len, 0), len);
	assert_int_equal(write(to, buf, len), len);
	free(buf);
	assert_int_equal(lseek(to, 0, SEEK_SET), 0);
	return to;
}

static size_t length_of(int fd)
{
	const off_t len = lseek(fd, 0, SEEK_END);

	lseek(fd, 0, SEEK_SET);
	return (size_t)len;
}

static unsigned hidden(void)
{
	json_t *json = NULL;
	struct errmsg em = {0};

	assert_int_equal(receive_list(ds, m, &json, &em), 0);
	const size_t n = json_array_size(json_object_get(json, "receiving"));
	json_decref(json);
	return (unsigned)n;
}

static unsigned orphans(void)
{
	unsigned n = 0;

	assert_int_equal(ns_inode_each(ds->ns, NS_ORPHANS, count_inode, &n), 0);
	return n;
}

/* Bytes of all kinds: data that compresses and that does not, zeros, holes, duplicates. */
static void fill_kinds(struct vnode *f, unsigned seed)
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

static void same_files(const char *a, const char *b)
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
static void make_source(void)
{
	struct vnode *f = create("a", NULL);

	fill_kinds(f, 1);
	vfs_release(vfs, f);
	keep("a", "s1");
}

/* And changed, with a snapshot s2. */
static void change_source(void)
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

/* --- whole --- */

static void a_whole_image_appears_with_its_snapshot(void **state)
{
	make_source();
	const int fd = sent("a", "s1", NULL);

	received(fd, "b");
	same_files("a", "b");
	assert_int_equal(count_list("b"), 1);
	assert_int_equal(hidden(), 0);
	assert_int_equal(orphans(), 0);
	assert_string_equal(json_string_value(json_object_get(result, "target")), "b");
	assert_int_equal(attr(ino_of(TOP, "b")).inode.mode & 07777, 0644);
	again();
	same_files("a", "b");
	assert_int_equal(count_list("b"), 1);
	assert_int_equal(receive(fd, "b"), -EEXIST);
	assert_non_null(strstr(why.text, "has it already"));
	assert_int_equal(receive(fd, "a"), -EEXIST);
	/* To a directory: by the name that it had. */
	make(TOP, "dir", S_IFDIR | 0755);
	received(fd, "dir");
	assert_int_not_equal(ino_of(ino_of(TOP, "dir"), "a"), 0);
	close(fd);
}

static void names_do_not_escape(void **state)
{
	make_source();
	const int fd = sent("a", "s1", NULL);

	assert_int_equal(receive(fd, ".weir"), -EINVAL);
	assert_int_equal(receive(fd, ".."), -EINVAL);
	assert_int_equal(receive(fd, "x/"), -EINVAL);
	assert_int_equal(receive(fd, "none/x"), -ENOENT);
	assert_int_equal(receive(fd, "a/x"), -ENOTDIR);
	assert_int_equal(hidden(), 0);
	assert_int_equal(orphans(), 0);
	close(fd);
}

/* --- updates --- */

static void an_update_replaces_the_content_and_adds_its_snapshot(void **state)
{
	make_source();
	int fd = sent("a", "s1", NULL);
	received(fd, "b");
	close(fd);
	change_source();
	fd = sent("a", "s2", "s1");
	const uint64_t ino = ino_of(TOP, "b");
	received(fd, "b");
	assert_int_equal(ino_of(TOP, "b"), ino);
	same_files("a", "b");
	assert_int_equal(count_list("b"), 2);
	assert_int_equal(hidden(), 0);
	assert_int_equal(orphans(), 0);
	again();
	same_files("a", "b");
	assert_int_equal(orphans(), 0);
	/* Sent on from the receiver, it fits a third one: guids stay. */
	close(fd);
	fd = sent("b", "s1", NULL);
	received(fd, "c");
	close(fd);
	fd = sent("a", "s2", "s1");
	received(fd, "c");
	same_files("a", "c");
	close(fd);
}

static void an_update_without_its_base_is_refused(void **state)
{
	make_source();
	change_source();
	const int fd = sent("a", "s2", "s1");
	struct vnode *f = create("b", NULL);

	fill(f, 0, 4096, 'b');
	vfs_release(vfs, f);
	assert_int_equal(receive(fd, "b"), -ENOENT);
	assert_non_null(strstr(why.text, "'s1' at the sender"));
	assert_int_equal(receive(fd, "none"), -ENOENT);
	assert_int_equal(hidden(), 0);
	close(fd);
}

static void a_target_that_was_changed_is_refused_unless_forced(void **state)
{
	struct vnode *f;

	make_source();
	int fd = sent("a", "s1", NULL);
	received(fd, "b");
	close(fd);
	change_source();
	fd = sent("a", "s2", "s1");
	assert_int_equal(vfs_open(vfs, ino_of(TOP, "b"), &f), 0);
	assert_int_equal(receive(fd, "b"), -EBUSY);
	fill(f, 0, 4096, 'Q');
	vfs_release(vfs, f);
	assert_int_equal(receive(fd, "b"), -EEXIST);
	assert_non_null(strstr(why.text, "was changed since"));
	assert_int_equal(hidden(), 1); /* all of it is there: forced, it takes no time */
	assert_int_equal(receive_with(fd, "b", true, false), 0);
	assert_int_equal(json_is_string(json_object_get(result, "before")), 1);
	same_files("a", "b");
	assert_int_equal(count_list("b"), 3);
	assert_int_equal(hidden(), 0);
	close(fd);
}

static void a_target_that_is_open_is_refused_and_goes_on_later(void **state)
{
	struct vnode *f;

	make_source();
	int fd = sent("a", "s1", NULL);
	received(fd, "b");
	close(fd);
	change_source();
	fd = sent("a", "s2", "s1");
	const int cut = cut_at(fd, length_of(fd) - 20);
	assert_int_equal(receive(cut, "b"), -ENODATA);
	assert_int_equal(hidden(), 1);
	assert_int_equal(vfs_open(vfs, ino_of(TOP, "b"), &f), 0);
	assert_int_equal(receive(fd, "b"), -EBUSY);
	vfs_release(vfs, f);
	received(fd, "b");
	same_files("a", "b");
	close(fd);
	close(cut);
}

/* --- cut, resumed, given up --- */

static void a_cut_anywhere_changes_nothing_and_is_resumed(void **state)
{
	make_source();
	int fd = sent("a", "s1", NULL);
	const size_t len = length_of(fd);

	for (unsigned i = 0; i < 24; i++) {
		const int cut = cut_at(fd, i < 8 ? i * 40 : len * i / 24 + i);
		assert_int_equal(receive(cut, "b"), -ENODATA);
		assert_int_equal(ino_of(TOP, "b"), 0);
		close(cut);
		if (i % 5 == 4)
			again();
		assert_int_equal(orphans(), hidden());
		assert_true(hidden() <= 1);
	}
	received(fd, "b");
	same_files("a", "b");
	assert_int_equal(hidden(), 0);
	close(fd);
	change_source();
	fd = sent("a", "s2", "s1");
	for (unsigned i = 1; i < 16; i++) {
		const int cut = cut_at(fd, length_of(fd) * i / 16);
		assert_int_equal(receive(cut, "b"), -ENODATA);
		assert_int_equal(count_list("b"), 1);
		close(cut);
		if (i % 5 == 4)
			again();
	}
	received(fd, "b");
	same_files("a", "b");
	assert_int_equal(hidden(), 0);
	assert_int_equal(orphans(), 0);
	close(fd);
}

static void what_was_cut_is_listed_and_given_up(void **state)
{
	json_t *json = NULL;
	struct errmsg em = {0};
	struct gc_report report;

	make_source();
	const int fd = sent("a", "s1", NULL), cut = cut_at(fd, length_of(fd) - 1);

	assert_int_equal(receive(cut, "b"), -ENODATA);
	assert_int_equal(receive_list(ds, m, &json, &em), 0);
	const json_t *first = json_array_get(json_object_get(json, "receiving"), 0);
	assert_string_equal(json_string_value(json_object_get(first, "target")), "b");
	assert_int_equal(json_integer_value(json_object_get(first, "size_bytes")), SIZE);
	assert_true(json_is_false(json_object_get(first, "active")));
	json_decref(json);
	struct receive_totals t;
	assert_int_equal(store_sync(ds->store), 0);
	assert_int_equal(receive_totals(ds, &t), 0);
	assert_int_equal(t.images, 1);
	assert_true(t.allocated_bytes > MIB / 2);
	assert_int_equal(receive_abort(m, &me, "none", &json, &em), -ENOENT);
	assert_int_equal(receive_abort(m, &me, "b", &json, &em), 0);
	json_decref(json);
	assert_int_equal(hidden(), 0);
	assert_int_equal(orphans(), 0);
	assert_int_equal(store_gc(ds->store, true, NULL, NULL, &report), 0);
	received(fd, "b");
	same_files("a", "b");
	close(fd);
	close(cut);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        MANAGER_CASE(a_whole_image_appears_with_its_snapshot),
	        MANAGER_CASE(names_do_not_escape),
	        MANAGER_CASE(an_update_replaces_the_content_and_adds_its_snapshot),
	        MANAGER_CASE(an_update_without_its_base_is_refused),
	        MANAGER_CASE(a_target_that_was_changed_is_refused_unless_forced),
	        MANAGER_CASE(a_target_that_is_open_is_refused_and_goes_on_later),
	        MANAGER_CASE(a_cut_anywhere_changes_nothing_and_is_resumed),
	        MANAGER_CASE(what_was_cut_is_listed_and_given_up),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * Snapshots in the mount: names, attributes, content, and that nothing there can be changed.  Where
 * they come from is made up; their content is that of images of the store.
 */
#include "vfs-world.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "base/clock.h"
#include "fs/vfs/snapview.h"

struct fake_image {
	uint64_t snapshot; /* 0: none any more */
	const char *path;
	uint64_t image, size;
	uint32_t mode;
};

static struct {
	struct {
		uint64_t number;
		const char *name;
	} snapshots[8];
	struct fake_image images[64];
	uint64_t changes;
	unsigned reads; /* of lists of images */
	unsigned seconds;
	unsigned more; /* snapshots besides: "m1" and so on */
	int open_error;
} fake;

static uint64_t fake_changes(void *arg)
{
	return fake.changes;
}

static int fake_each(void *arg, snapview_name_fn *fn, void *fn_arg)
{
	const struct timespec time = {.tv_sec = 1000 + fake.seconds};
	int r = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(fake.snapshots) && !r; i++)
		if (fake.snapshots[i].number)
			r = fn(fn_arg, fake.snapshots[i].number, fake.snapshots[i].name, &time);
	for (unsigned i = 1; i <= fake.more && !r; i++) {
		char name[16];
		snprintf(name, sizeof(name), "m%u", i);
		r = fn(fn_arg, 1000 + i, name, &time);
	}
	return r;
}

static int fake_images(void *arg, uint64_t number, snapview_image_fn *fn, void *fn_arg)
{
	int r = 0;

	fake.reads++;
	for (unsigned i = 0; i < ARRAY_SIZE(fake.images) && !r; i++) {
		const struct fake_image *f = &fake.images[i];
		const struct snapview_image img = {
		        .path = f->path,
		        .key = i + 1,
		        .inode = {.ino = f->image,
		                .mode = f->mode,
		                .uid = 7,
		                .size = f->size,
		                .mtime = {.tv_sec = 2000}},
		};
		if (f->snapshot == number)
			r = fn(fn_arg, &img);
	}
	return r;
}

static int fake_open(void *arg, uint64_t number, uint64_t key, struct image **ret_image)
{
	const struct fake_image *f = &fake.images[key - 1];

	if (fake.open_error)
		return fake.open_error;
	if (f->snapshot != number)
		return -ENOENT;
	return store_image_open(ds->store, f->image, ret_image);
}

static const struct snapview_source source = {
        .changes = fake_changes, .each = fake_each, .images = fake_images, .open = fake_open};

static void snapshot(unsigned i, uint64_t number, const char *name)
{
	fake.snapshots[i].number = number;
	fake.snapshots[i].name = name;
	fake.changes++;
}

static void image(unsigned i, uint64_t number, const char *path, uint64_t ino, uint64_t size)
{
	fake.images[i] = (struct fake_image){number, path, ino, size, S_IFREG | S_ISUID | 0640};
	fake.changes++;
}

static int view_setup(void **state)
{
	const int r = world_setup(state);

	memset(&fake, 0, sizeof(fake));
	return r ? r : vfs_set_snapshots(vfs, &source);
}

/* Counts a lookup; 0: no such name. */
static uint64_t walk(const char *path)
{
	char copy[512], *save = NULL;
	struct vfs_entry e = {.ino = TOP};

	snprintf(copy, sizeof(copy), "%s", path);
	for (char *name = strtok_r(copy, "/", &save); name; name = strtok_r(NULL, "/", &save))
		if (vfs_lookup(vfs, e.ino, name, &e) < 0)
			return 0;
	return e.ino;
}

struct names {
	char text[1024];
	unsigned n, max;
	uint64_t off;
};

static int names_add(void *arg, const struct vfs_dirent *ent)
{
	struct names *l = arg;

	if (l->n == l->max)
		return 1;
	l->n++;
	l->off = ent->off;
	if (ent->name[0] != '.') {
		strcat(l->text, ent->name);
		strcat(l->text, S_ISDIR(ent->mode) ? "/ " : " ");
	}
	return 0;
}

/* So many at a time. */
static void expect_names(uint64_t dir, unsigned at_a_time, const char *names)
{
	struct names l = {.max = at_a_time};

	do {
		l.n = 0;
		assert_int_equal(vfs_readdir(vfs, dir, l.off, 4096, names_add, &l), 0);
	} while (l.n > 0);
	assert_string_equal(l.text, names);
}

static void snapshots_are_found_but_not_listed(void **state)
{
	snapshot(0, 5, "monday");
	image(0, 5, "vm/disk.raw", 99, 1);
	make(TOP, "dir", S_IFDIR | 0755);
	assert_int_not_equal(walk(".weir/snapshots/monday/vm/disk.raw"), 0);
	assert_int_equal(walk(".weir/snapshots/tuesday"), 0);
	assert_int_equal(walk(".weir/other"), 0);
	expect_names(TOP, 100, "dir/ ");
}

static void directories_list_what_lies_in_them(void **state)
{
	snapshot(0, 9, "b");
	snapshot(1, 5, "a");
	image(0, 5, "vm/two.raw", 99, 1);
	image(1, 5, "vm/one.raw", 98, 1);
	image(2, 5, "vm-x/one.raw", 97, 1);
	image(3, 5, "top.raw", 96, 1);
	image(4, 9, "top.raw", 96, 1);
	for (unsigned n = 1; n < 6; n++) {
		expect_names(walk(".weir"), n, "snapshots/ ");
		expect_names(walk(".weir/snapshots"), n, "a/ b/ ");
		expect_names(walk(".weir/snapshots/a"), n, "top.raw vm/ vm-x/ ");
		expect_names(walk(".weir/snapshots/a/vm"), n, "one.raw two.raw ");
		expect_names(walk(".weir/snapshots/b"), n, "top.raw ");
	}
}

struct numbers {
	uint64_t dir;
};

static int number_compare(void *arg, const struct vfs_dirent *ent)
{
	const struct numbers *n = arg;
	struct vfs_entry e;

	if (ent->name[0] == '.')
		return 0;
	assert_int_equal(vfs_lookup(vfs, n->dir, ent->name, &e), 0);
	assert_true(e.ino == ent->ino);
	/* readdirplus asks by number */
	assert_int_equal(vfs_entry_get(vfs, ent->ino, &e), 0);
	vfs_forget(vfs, ent->ino, 2);
	return 0;
}

static void a_listing_has_the_numbers_that_lookups_give(void **state)
{
	static const char *const dirs[] = {".weir", ".weir/snapshots", ".weir/snapshots/a"};

	snapshot(0, 5, "a");
	image(0, 5, "vm/two.raw", 99, 1);
	image(1, 5, "one.raw", 98, 1);
	for (unsigned i = 0; i < ARRAY_SIZE(dirs); i++) {
		struct numbers n = {walk(dirs[i])};
		assert_int_equal(vfs_readdir(vfs, n.dir, 0, 4096, number_compare, &n), 0);
	}
}

static void snapshots_of_one_name_are_one_directory(void **state)
{
	snapshot(0, 5, "daily");
	snapshot(1, 6, "daily");
	image(0, 5, "vm/one.raw", 99, 1);
	image(1, 6, "vm/two.raw", 98, 1);
	expect_names(walk(".weir/snapshots"), 10, "daily/ ");
	expect_names(walk(".weir/snapshots/daily/vm"), 10, "one.raw two.raw ");
}

static void a_file_is_as_it_was(void **state)
{
	uint64_t ino;
	struct vnode *f = create("now.raw", &ino), *old;

	fill(f, 0, 100000, 'x');
	snapshot(0, 5, "a");
	image(0, 5, "then.raw", ino, 70000);
	const uint64_t at = walk(".weir/snapshots/a/then.raw");
	const struct vfs_attr a = attr(at);
	assert_int_equal(a.inode.size, 70000);
	assert_int_equal(a.inode.mode, S_IFREG | 0440);
	assert_int_equal(a.inode.uid, 7);
	assert_int_equal(a.inode.mtime.tv_sec, 2000);
	assert_int_equal(vfs_open(vfs, at, &old), 0);
	expect_bytes(old, 0, 70000, 'x');
	char byte[10];
	assert_int_equal(get(old, 69995, byte, sizeof(byte)), 5);
	uint64_t off;
	assert_int_equal(vfs_lseek(vfs, old, 0, SEEK_HOLE, &off), 0);
	assert_int_equal(off, 70000);
	assert_int_equal(vfs_fsync(vfs, old), 0);
	assert_int_equal(attr(at).inode.atime.tv_sec, 0);
	vfs_release(vfs, old);
	vfs_release(vfs, f);
}

static void others_than_the_owner_stay_out(void **state)
{
	const struct vfs_setattr sa = {.set = VFS_SET_UID, .uid = 1234};

	assert_int_equal(set(TOP, &sa), 0);
	const struct vfs_attr a = attr(walk(".weir"));
	assert_int_equal(a.inode.mode, S_IFDIR | 0500);
	assert_int_equal(a.inode.uid, 1234);
}

static void nothing_can_be_changed(void **state)
{
	static const char *const dirs[] = {
	        ".weir", ".weir/snapshots", ".weir/snapshots/a", ".weir/snapshots/a/vm"};
	const struct vfs_make mk = {.mode = S_IFDIR | 0755};
	const struct vfs_setattr sa = {.set = VFS_SET_MODE, .mode = 0777};
	struct vfs_entry e;
	struct vnode *f, *g = create("live", NULL);
	uint64_t ino, n;
	size_t len;

	fill(g, 0, 4096, 'x');
	snapshot(0, 5, "a");
	image(0, 5, "vm/disk.raw", ino_of(TOP, "live"), 4096);
	for (unsigned i = 0; i < ARRAY_SIZE(dirs); i++) {
		const uint64_t dir = walk(dirs[i]);
		assert_int_equal(vfs_mknod(vfs, dir, "x", &mk, &root, &e), -EROFS);
		assert_int_equal(vfs_create(vfs, dir, "x", 0644, &root, &e, &f), -EROFS);
		assert_int_equal(vfs_link(vfs, ino_of(TOP, "live"), dir, "x", &e), -EROFS);
		assert_int_equal(vfs_rename(vfs, TOP, "live", dir, "x", 0), -EROFS);
		assert_int_equal(vfs_rename(vfs, dir, "vm", TOP, "x", 0), -EROFS);
		assert_int_equal(vfs_rmdir(vfs, dir, "vm"), -EROFS);
		assert_int_equal(vfs_unlink(vfs, dir, "vm"), -EROFS);
		assert_int_equal(set(dir, &sa), -EROFS);
		assert_int_equal(vfs_setxattr(vfs, dir, "user.x", "y", 1, 0), -EROFS);
		assert_int_equal(vfs_removexattr(vfs, dir, "user.x"), -EROFS);
	}
	assert_int_equal(vfs_mknod(vfs, TOP, ".weir", &mk, &root, &e), -EROFS);
	assert_int_equal(vfs_rmdir(vfs, TOP, ".weir"), -EROFS);
	assert_int_equal(vfs_rename(vfs, TOP, "live", TOP, ".weir", 0), -EROFS);
	assert_int_equal(vfs_rename(vfs, TOP, ".weir", TOP, "x", 0), -EROFS);
	ino = walk(".weir/snapshots/a/vm/disk.raw");
	assert_int_equal(resize(ino, 0), -EROFS);
	assert_int_equal(set(ino, &sa), -EROFS);
	assert_int_equal(vfs_link(vfs, ino, TOP, "x", &e), -EROFS);
	assert_int_equal(vfs_listxattr(vfs, ino, true, NULL, 0, &len), 0);
	assert_int_equal(len, 0);
	assert_int_equal(vfs_open(vfs, ino, &f), 0);
	assert_int_equal(vfs_write(vfs, f, 0, "y", 1, 0, &len), -EROFS);
	assert_int_equal(vfs_fallocate(vfs, f, 0, 0, 10, 0), -EROFS);
	assert_int_equal(vfs_copy(vfs, g, 0, f, 0, 4096, 0, &n), -EROFS);
	/* but copied out of it */
	assert_int_equal(vfs_copy(vfs, f, 0, g, 8192, 4096, 0, &n), 0);
	assert_int_equal(n, 4096);
	expect_bytes(g, 8192, 4096, 'x');
	vfs_release(vfs, f);
	vfs_release(vfs, g);
}

static void a_deleted_snapshot_is_gone_but_for_open_files(void **state)
{
	struct vnode *live = create("live", NULL), *f;
	struct vfs_entry e;

	fill(live, 0, 4096, 'x');
	snapshot(0, 5, "a");
	image(0, 5, "vm/disk.raw", ino_of(TOP, "live"), 4096);
	const uint64_t dir = walk(".weir/snapshots/a/vm"),
	               ino = walk(".weir/snapshots/a/vm/disk.raw");
	assert_int_equal(vfs_open(vfs, ino, &f), 0);
	snapshot(0, 0, NULL);
	fake.images[0].snapshot = 0;
	assert_int_equal(walk(".weir/snapshots/a"), 0);
	assert_int_equal(vfs_lookup(vfs, dir, "disk.raw", &e), -ENOENT);
	expect_names(dir, 10, "");
	expect_bytes(f, 0, 4096, 'x');
	vfs_release(vfs, f);
	assert_int_equal(vfs_open(vfs, ino, &f), -ESTALE);
	/* One of the same name and path is another file. */
	snapshot(0, 6, "a");
	image(1, 6, "vm/disk.raw", ino_of(TOP, "live"), 4096);
	assert_true(walk(".weir/snapshots/a/vm/disk.raw") != ino);
	vfs_forget(vfs, ino, 1);
	assert_int_equal(vfs_entry_get(vfs, ino, &e), -ESTALE);
	vfs_release(vfs, live);
}

static void the_way_up_leads_out(void **state)
{
	struct vfs_entry e;

	snapshot(0, 5, "a");
	image(0, 5, "b/c/disk.raw", 99, 1);
	uint64_t at = walk(".weir/snapshots/a/b/c");
	static const char *const above[] = {
	        ".weir/snapshots/a/b", ".weir/snapshots/a", ".weir/snapshots", ".weir", ""};
	for (unsigned i = 0; i < ARRAY_SIZE(above); i++) {
		assert_int_equal(vfs_lookup(vfs, at, "..", &e), 0);
		assert_true(e.ino == walk(above[i]));
		at = e.ino;
	}
}

static void paths_that_cannot_be_are_left_out(void **state)
{
	char deep[1000] = "", name[300];

	for (unsigned i = 0; i < 300; i++)
		strcat(deep, "d/");
	strcat(deep, "x");
	memset(name, 'n', 256);
	name[256] = 0;
	snapshot(0, 5, "a");
	snapshot(1, 6, "..");
	snapshot(2, 7, "x/y");
	const char *const paths[] = {"", "/x", "x/", "x//y", ".", "..", "../x", "x/../y", deep,
	        name, "file", "file/below", "file", "dir/x", "dir"};
	for (unsigned i = 0; i < ARRAY_SIZE(paths); i++)
		image(i, 5, paths[i], 90 + i, 1);
	expect_names(walk(".weir/snapshots"), 10, "a/ ");
	struct names l = {.max = 100};
	assert_int_equal(vfs_readdir(vfs, walk(".weir/snapshots/a"), 0, 4096, names_add, &l), 0);
	/* Of a file and a directory of one name, one is there. */
	assert_string_equal(l.text, "dir file ");
}

static void a_real_name_is_not_hidden(void **state)
{
	assert_int_equal(vfs_set_snapshots(vfs, NULL), 0);
	make(TOP, ".weir", S_IFDIR | 0755);
	assert_int_equal(vfs_set_snapshots(vfs, &source), 0);
	assert_false(vfs_is_snapshot(walk(".weir")));
	assert_int_equal(vfs_rename(vfs, TOP, ".weir", TOP, "mine", 0), 0);
	assert_true(vfs_is_snapshot(walk(".weir")));
}

static void what_cannot_be_opened_says_so(void **state)
{
	struct vnode *f;

	snapshot(0, 5, "a");
	image(0, 5, "disk.raw", 99, 1);
	fake.open_error = -EOPNOTSUPP;
	const uint64_t ino = walk(".weir/snapshots/a/disk.raw");
	assert_int_equal(vfs_open(vfs, ino, &f), -EOPNOTSUPP);
	fake.open_error = -ENOKEY;
	assert_int_equal(vfs_open(vfs, ino, &f), -ENOKEY);
	assert_int_equal(attr(ino).blocks_512, 0);
	assert_int_equal(vfs_open(vfs, walk(".weir/snapshots/a"), &f), -EISDIR);
}

static void lists_are_read_once(void **state)
{
	snapshot(0, 5, "a");
	snapshot(1, 6, "b");
	image(0, 5, "vm/disk.raw", 99, 1);
	image(1, 6, "vm/disk.raw", 99, 1);
	for (unsigned i = 0; i < 10; i++) {
		walk(".weir/snapshots/a/vm/disk.raw");
		walk(".weir/snapshots/b/vm/disk.raw");
	}
	assert_int_equal(fake.reads, 2);
	fake.changes++;
	walk(".weir/snapshots/a/vm/disk.raw");
	assert_int_equal(fake.reads, 3);
}

static int count_add(void *arg, const struct vfs_dirent *ent)
{
	struct names *l = arg;

	if (l->n == l->max)
		return 1;
	l->n++;
	l->off = ent->off;
	return 0;
}

static void thousands_of_snapshots_are_listed_and_found(void **state)
{
	struct names l = {.max = 100};
	unsigned n = 0;
	char path[64];

	fake.more = 10000;
	fake.changes++;
	const uint64_t begin_ns = clock_now_ns(), dir = walk(".weir/snapshots");
	do {
		l.n = 0;
		assert_int_equal(vfs_readdir(vfs, dir, l.off, 4096, count_add, &l), 0);
		n += l.n;
	} while (l.n > 0);
	assert_int_equal(n, 2 + fake.more);
	for (unsigned i = 1; i <= fake.more; i++) {
		snprintf(path, sizeof(path), ".weir/snapshots/m%u", i);
		assert_int_not_equal(walk(path), 0);
	}
	assert_int_equal(walk(".weir/snapshots/m0"), 0);
	assert_int_equal(walk(".weir/snapshots/m"), 0);
	assert_int_equal(walk(".weir/snapshots/m10001"), 0);
	assert_true(clock_now_ns() - begin_ns < 5 * NS_PER_SEC);
}

static void a_directory_that_others_come_to_be_has_their_time(void **state)
{
	snapshot(0, 5, "a");
	image(0, 5, "disk.raw", 99, 1);
	const uint64_t ino = walk(".weir/snapshots/a");
	assert_int_equal(attr(ino).inode.mtime.tv_sec, 1000);
	fake.seconds = 500;
	snapshot(0, 6, "a");
	assert_true(walk(".weir/snapshots/a") == ino);
	assert_int_equal(attr(ino).inode.mtime.tv_sec, 1500);
}

#define VIEW_CASE(fn) cmocka_unit_test_setup_teardown(fn, view_setup, world_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        VIEW_CASE(snapshots_are_found_but_not_listed),
	        VIEW_CASE(directories_list_what_lies_in_them),
	        VIEW_CASE(a_listing_has_the_numbers_that_lookups_give),
	        VIEW_CASE(snapshots_of_one_name_are_one_directory),
	        VIEW_CASE(a_file_is_as_it_was),
	        VIEW_CASE(others_than_the_owner_stay_out),
	        VIEW_CASE(nothing_can_be_changed),
	        VIEW_CASE(a_deleted_snapshot_is_gone_but_for_open_files),
	        VIEW_CASE(the_way_up_leads_out),
	        VIEW_CASE(paths_that_cannot_be_are_left_out),
	        VIEW_CASE(a_real_name_is_not_hidden),
	        VIEW_CASE(what_cannot_be_opened_says_so),
	        VIEW_CASE(lists_are_read_once),
	        VIEW_CASE(thousands_of_snapshots_are_listed_and_found),
	        VIEW_CASE(a_directory_that_others_come_to_be_has_their_time),
	};

	return cmocka_run_group_tests_name("vfs-snapview", tests, NULL, NULL);
}

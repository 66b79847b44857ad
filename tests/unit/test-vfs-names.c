/*
 * test-vfs-names.c - directories, links, attributes and extended attributes
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "vfs-world.h"

/* --- names --- */

static void names_that_cannot_be_are_refused(void **state)
{
	const struct vfs_make mk = {.mode = S_IFDIR | 0755};
	char name[NS_NAME_MAX + 2];
	struct vfs_entry e;

	memset(name, 'n', sizeof(name));
	name[NS_NAME_MAX + 1] = 0;
	assert_int_equal(vfs_mknod(vfs, TOP, name, &mk, &root, &e), -ENAMETOOLONG);
	assert_int_equal(vfs_lookup(vfs, TOP, name, &e), -ENAMETOOLONG);
	name[NS_NAME_MAX] = 0;
	make(TOP, name, S_IFDIR | 0755);
	assert_int_not_equal(ino_of(TOP, name), 0);
	assert_int_equal(vfs_mknod(vfs, TOP, name, &mk, &root, &e), -EEXIST);
	assert_int_equal(vfs_mknod(vfs, ino_of(TOP, name), "..", &mk, &root, &e), -EINVAL);
}

static void directories_count_their_subdirectories(void **state)
{
	const uint64_t a = make(TOP, "a", S_IFDIR | 0755), b = make(a, "b", S_IFDIR | 0755);

	assert_int_equal(attr(TOP).inode.nlink, 3);
	assert_int_equal(attr(a).inode.nlink, 3);
	assert_int_equal(attr(b).inode.nlink, 2);
	assert_int_equal(vfs_rmdir(vfs, TOP, "a"), -ENOTEMPTY);
	assert_int_equal(vfs_unlink(vfs, a, "b"), -EISDIR);
	assert_int_equal(vfs_rename(vfs, a, "b", TOP, "c", 0), 0);
	assert_int_equal(attr(TOP).inode.nlink, 4);
	assert_int_equal(attr(a).inode.nlink, 2);
	assert_int_equal(ino_of(b, ".."), TOP);
	assert_int_equal(vfs_rmdir(vfs, TOP, "c"), 0);
	assert_int_equal(attr(TOP).inode.nlink, 3);
	/* Removed, but in use: empty, and nothing can be made in it. */
	const struct vfs_make mk = {.mode = S_IFREG};
	struct vfs_entry e;
	assert_int_equal(vfs_mknod(vfs, b, "x", &mk, &root, &e), -ENOENT);
	vfs_forget(vfs, b, 1);
}

static void rename_replaces_keeps_and_exchanges(void **state)
{
	uint64_t a, b;
	struct vnode *fa = create("a", &a), *fb = create("b", &b);
	const uint64_t d = make(TOP, "d", S_IFDIR | 0755);

	assert_int_equal(vfs_rename(vfs, TOP, "a", TOP, "b", RENAME_NOREPLACE), -EEXIST);
	assert_int_equal(vfs_rename(vfs, TOP, "a", TOP, "none", RENAME_EXCHANGE), -ENOENT);
	assert_int_equal(vfs_rename(vfs, TOP, "a", TOP, "d", 0), -EISDIR);
	assert_int_equal(vfs_rename(vfs, TOP, "d", TOP, "a", 0), -ENOTDIR);
	assert_int_equal(vfs_rename(vfs, TOP, "a", TOP, "b", 8), -EINVAL);
	assert_int_equal(vfs_rename(vfs, TOP, "a", d, "a", RENAME_NOREPLACE), 0);
	assert_int_equal(vfs_rename(vfs, d, "a", TOP, "b", RENAME_EXCHANGE), 0);
	assert_int_equal(ino_of(TOP, "b"), a);
	assert_int_equal(ino_of(d, "a"), b);
	assert_int_equal(vfs_rename(vfs, d, "a", TOP, "b", 0), 0);
	assert_int_equal(ino_of(TOP, "b"), b);
	assert_int_equal(ino_of(d, "a"), 0);
	assert_int_equal(attr(a).inode.nlink, 0);
	/* A directory and a file change places: link counts follow. */
	const uint64_t sub = make(d, "sub", S_IFDIR | 0755);
	assert_int_equal(vfs_rename(vfs, d, "sub", TOP, "b", RENAME_EXCHANGE), 0);
	assert_int_equal(attr(d).inode.nlink, 2);
	assert_int_equal(attr(TOP).inode.nlink, 4);
	assert_int_equal(ino_of(sub, ".."), TOP);
	vfs_release(vfs, fa);
	vfs_release(vfs, fb);
}

static void hard_links_count(void **state)
{
	uint64_t ino;
	struct vfs_entry e;
	struct vnode *f = create("a", &ino);

	assert_int_equal(vfs_link(vfs, ino, TOP, "b", &e), 0);
	assert_int_equal(e.ino, ino);
	assert_int_equal(e.attr.inode.nlink, 2);
	assert_int_equal(vfs_link(vfs, ino, TOP, "b", &e), -EEXIST);
	assert_int_equal(vfs_link(vfs, TOP, TOP, "dir", &e), -EPERM);
	/* Two names of one file: a rename between them does nothing. */
	assert_int_equal(vfs_rename(vfs, TOP, "a", TOP, "b", 0), 0);
	assert_int_equal(ino_of(TOP, "a"), ino);
	assert_int_equal(vfs_unlink(vfs, TOP, "a"), 0);
	assert_int_equal(attr(ino).inode.nlink, 1);
	assert_int_equal(vfs_unlink(vfs, TOP, "b"), 0);
	assert_int_equal(vfs_link(vfs, ino, TOP, "c", &e), -ENOENT);
	vfs_release(vfs, f);
}

static int link_many(uint64_t ino, unsigned n)
{
	struct vfs_entry e;
	char name[16];
	int r = 0;

	for (unsigned i = 0; i < n && !r; i++) {
		snprintf(name, sizeof(name), "l%u", i);
		r = vfs_link(vfs, ino, TOP, name, &e);
	}
	return r;
}

static void too_many_links_are_emlink(void **state)
{
	const uint64_t ino = make(TOP, "fifo", S_IFIFO | 0644);
	struct vfs_entry e;

	assert_int_equal(link_many(ino, VFS_LINK_MAX - 1), 0);
	assert_int_equal(vfs_link(vfs, ino, TOP, "one-more", &e), -EMLINK);
	assert_int_equal(attr(ino).inode.nlink, VFS_LINK_MAX);
}

static void an_unlinked_file_lives_until_it_is_closed(void **state)
{
	uint64_t ino;
	struct vnode *f = create("a", &ino);

	fill(f, 0, 100000, 'x');
	assert_int_equal(vfs_unlink(vfs, TOP, "a"), 0);
	fill(f, 100000, 100000, 'y');
	assert_int_equal(size_of(ino), 200000);
	expect_bytes(f, 0, 100000, 'x');
	expect_bytes(f, 100000, 100000, 'y');
	vfs_release(vfs, f);
	assert_int_equal(size_of(ino), 200000); /* the kernel still knows it */
	vfs_forget(vfs, ino, 1);
	struct vfs_attr a;
	assert_int_equal(vfs_getattr(vfs, ino, &a), -ENOENT);
	assert_int_equal(store_sync(ds->store), 0);
	struct store_stats st;
	store_stats_get(ds->store, &st);
	assert_int_equal(st.data_chunks, 0);
}

/* --- listing --- */

struct names {
	char list[8192];
	uint64_t off[512];
	unsigned n, limit;
};

static int name_note(void *arg, const struct vfs_dirent *ent)
{
	struct names *l = arg;

	if (l->n == l->limit)
		return 1;
	strcat(strcat(l->list, ent->name), " ");
	l->off[l->n++] = ent->off;
	return 0;
}

static void a_listing_goes_on_where_it_stopped(void **state)
{
	struct names l = {.limit = 4};
	const uint64_t d = make(TOP, "d", S_IFDIR | 0755);
	char name[8];

	for (unsigned i = 0; i < 9; i++) {
		snprintf(name, sizeof(name), "f%u", i);
		make(d, name, S_IFREG | 0644);
	}
	assert_int_equal(vfs_readdir(vfs, d, 0, 4096, name_note, &l), 0);
	assert_string_equal(l.list, ". .. f0 f1 ");
	/* Names come and go meanwhile: the rest is each seen once. */
	assert_int_equal(vfs_unlink(vfs, d, "f0"), 0);
	assert_int_equal(vfs_unlink(vfs, d, "f5"), 0);
	make(d, "f9", S_IFREG | 0644);
	struct names rest = {.limit = 512};
	assert_int_equal(vfs_readdir(vfs, d, l.off[3], 1, name_note, &rest), 0);
	assert_true(rest.n >= 1);
	assert_int_equal(vfs_readdir(vfs, d, rest.off[rest.n - 1], 1 << 20, name_note, &rest), 0);
	assert_string_equal(rest.list, "f2 f3 f4 f6 f7 f8 f9 ");
	assert_int_equal(
	        vfs_readdir(vfs, make(TOP, "fifo", S_IFIFO), 0, 1, name_note, &l), -ENOTDIR);
}

/* --- attributes --- */

static void a_setgid_directory_hands_its_group_down(void **state)
{
	const uint64_t d = make(TOP, "d", S_IFDIR | 0755);
	const struct vfs_setattr sa = {
	        .set = VFS_SET_MODE | VFS_SET_GID, .mode = 02775, .gid = 1234};
	uint64_t f;

	assert_int_equal(set(d, &sa), 0);
	vfs_release(vfs, create_mode(d, "f", 0644, &f));
	assert_int_equal(attr(f).inode.gid, 1234);
	assert_int_equal(attr(f).inode.mode, S_IFREG | 0644);
	const struct vfs_attr sub = attr(make(d, "sub", S_IFDIR | 0755));
	assert_int_equal(sub.inode.gid, 1234);
	assert_int_equal(sub.inode.mode, S_IFDIR | 02755);
}

static void setuid_goes_with_chown_and_with_an_unprivileged_write(void **state)
{
	const struct vfs_setattr chown = {.set = VFS_SET_UID, .uid = 7};
	const struct vfs_setattr chmod = {.set = VFS_SET_MODE, .mode = 06755};
	const struct vfs_setattr cut = {.set = VFS_SET_SIZE | VFS_SET_KILL_SUIDGID};
	uint64_t ino;
	size_t done;
	struct vnode *f = create_mode(TOP, "a", 06755, &ino);

	put(f, 0, "x", 1);
	assert_int_equal(attr(ino).inode.mode, S_IFREG | 06755);
	assert_int_equal(vfs_write(vfs, f, 0, "x", 1, REQUEST_KILL_PRIV, &done), 0);
	assert_int_equal(attr(ino).inode.mode, S_IFREG | 0755);
	assert_int_equal(set(ino, &chmod), 0);
	assert_int_equal(set(ino, &chown), 0);
	assert_int_equal(attr(ino).inode.mode, S_IFREG | 0755);
	/* setgid without group execution is mandatory locking's mark, and stays. */
	const struct vfs_setattr lock_mark = {.set = VFS_SET_MODE, .mode = 06745};
	assert_int_equal(set(ino, &lock_mark), 0);
	assert_int_equal(set(ino, &cut), 0);
	assert_int_equal(attr(ino).inode.mode, S_IFREG | 02745);
	vfs_release(vfs, f);
}

static void times_are_set_and_follow_changes(void **state)
{
	const struct vfs_setattr old = {.set = VFS_SET_ATIME | VFS_SET_MTIME,
	        .atime = {1000, 5},
	        .mtime = {2000, 999999999}};
	uint64_t ino;
	char c;
	struct vnode *f = create("a", &ino);

	put(f, 0, "x", 1);
	assert_int_equal(set(ino, &old), 0);
	assert_int_equal(attr(ino).inode.atime.tv_nsec, 5);
	assert_int_equal(attr(ino).inode.mtime.tv_nsec, 999999999);
	assert_true(attr(ino).inode.ctime.tv_sec > 1000000);
	get(f, 0, &c, 1); /* atime is older than mtime: a read moves it */
	assert_true(attr(ino).inode.atime.tv_sec > 1000000);
	assert_int_equal(attr(ino).inode.mtime.tv_sec, 2000);
	put(f, 0, "y", 1);
	assert_true(attr(ino).inode.mtime.tv_sec > 1000000);
	vfs_release(vfs, f);
}

static void extended_attributes_keep_their_rules(void **state)
{
	uint64_t ino;
	char buf[64];
	size_t len;
	vfs_release(vfs, create("a", &ino));

	assert_int_equal(vfs_getxattr(vfs, ino, "user.a", buf, sizeof(buf), &len), -ENODATA);
	assert_int_equal(vfs_setxattr(vfs, ino, "user.a", "1", 1, XATTR_REPLACE), -ENODATA);
	assert_int_equal(vfs_setxattr(vfs, ino, "user.a", "12", 2, XATTR_CREATE), 0);
	assert_int_equal(vfs_setxattr(vfs, ino, "user.a", "1", 1, XATTR_CREATE), -EEXIST);
	assert_int_equal(vfs_setxattr(vfs, ino, "trusted.t", "t", 1, 0), 0);
	assert_int_equal(vfs_setxattr(vfs, ino, "security.s", "", 0, 0), 0);
	assert_int_equal(vfs_setxattr(vfs, ino, "system.posix_acl_access", "x", 1, 0), -EOPNOTSUPP);
	assert_int_equal(vfs_setxattr(vfs, ino, "user.", "x", 1, 0), -EINVAL);
	assert_int_equal(vfs_getxattr(vfs, ino, "user.a", NULL, 0, &len), 0);
	assert_int_equal(len, 2);
	assert_int_equal(vfs_getxattr(vfs, ino, "user.a", buf, 1, &len), -ERANGE);
	assert_int_equal(vfs_listxattr(vfs, ino, true, buf, sizeof(buf), &len), 0);
	assert_int_equal(len, sizeof("user.a") + sizeof("trusted.t") + sizeof("security.s"));
	assert_int_equal(vfs_listxattr(vfs, ino, false, NULL, 0, &len), 0);
	assert_int_equal(len, sizeof("user.a") + sizeof("security.s"));
	assert_int_equal(vfs_listxattr(vfs, ino, false, buf, 3, &len), -ERANGE);
	assert_int_equal(vfs_removexattr(vfs, ino, "user.a"), 0);
	assert_int_equal(vfs_removexattr(vfs, ino, "user.a"), -ENODATA);
	char *big = calloc(1, XATTR_SIZE_MAX_BYTES + 1);
	assert_int_equal(vfs_setxattr(vfs, ino, "user.b", big, XATTR_SIZE_MAX_BYTES, 0), 0);
	assert_int_equal(
	        vfs_setxattr(vfs, ino, "user.c", big, XATTR_SIZE_MAX_BYTES + 1, 0), -E2BIG);
	free(big);
}

/* --- links against commits --- */

static _Atomic bool links_done;

static void *thread_grow(void *arg)
{
	struct vnode *f = arg;

	for (uint64_t off = 0; !links_done; off += 100) {
		put(f, off % MIB, "x", 1);
		assert_int_equal(store_sync(ds->store), 0);
	}
	return NULL;
}

/* A group may be frozen between the flush of a file and the change of its link count: again then. */
static void links_come_and_go_while_the_file_grows_and_is_committed(void **state)
{
	uint64_t ino;
	struct vfs_entry e;
	struct vnode *f = create("a", &ino);
	pthread_t t;

	links_done = false;
	assert_int_equal(pthread_create(&t, NULL, thread_grow, f), 0);
	for (unsigned i = 0; i < 100; i++) {
		assert_int_equal(vfs_link(vfs, ino, TOP, "b", &e), 0);
		make(TOP, "c", S_IFREG | 0644);
		assert_int_equal(vfs_rename(vfs, TOP, "c", TOP, "b", 0), 0);
		assert_int_equal(vfs_link(vfs, ino, TOP, "d", &e), 0);
		assert_int_equal(vfs_unlink(vfs, TOP, "d"), 0);
		assert_int_equal(vfs_unlink(vfs, TOP, "b"), 0);
	}
	links_done = true;
	pthread_join(t, NULL);
	assert_int_equal(attr(ino).inode.nlink, 1);
	vfs_release(vfs, f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        CASE(names_that_cannot_be_are_refused),
	        CASE(directories_count_their_subdirectories),
	        CASE(rename_replaces_keeps_and_exchanges),
	        CASE(hard_links_count),
	        CASE(too_many_links_are_emlink),
	        CASE(an_unlinked_file_lives_until_it_is_closed),
	        CASE(a_listing_goes_on_where_it_stopped),
	        CASE(a_setgid_directory_hands_its_group_down),
	        CASE(setuid_goes_with_chown_and_with_an_unprivileged_write),
	        CASE(times_are_set_and_follow_changes),
	        CASE(extended_attributes_keep_their_rules),
	        CASE(links_come_and_go_while_the_file_grows_and_is_committed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

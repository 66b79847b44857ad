/*
 * vfs-world.c - see vfs-world.h
 */
#include "vfs-world.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"

#define NO_TXG (3600ull * 1000000000) /* no group commits by itself */

char world_dir[64];
struct datastore *ds;
struct vfs *vfs;
const struct vfs_cred root = {0, 0};
const struct vfs_filters *world_filters;

int world_open(bool read_only)
{
	const struct datastore_options opt = {
	        .read_only = read_only,
	        .overlay_bytes = 32 * MIB,
	        .cache_bytes = 8 * MIB,
	        .index_bytes = 8 * MIB,
	        .map_bytes = 4 * MIB,
	        .txg_ns = NO_TXG,
	};
	struct errmsg em = {0};

	if (vfs_new(&vfs) < 0 ||
	        datastore_open(world_dir, &opt, vfs_collect_rows, vfs, &ds, &em) < 0) {
		fprintf(stderr, "%s\n", em.text);
		return -1;
	}
	vfs_set_filters(vfs, world_filters);
	return vfs_attach(vfs, ds->ns, ds->store, read_only);
}

void world_close(void)
{
	vfs_detach(vfs);
	assert_int_equal(datastore_close(ds), 0);
	vfs_free(vfs);
}

int world_setup(void **state)
{
	const struct datastore_create_options opt = {.log_bytes = 16 * MIB, .index_bytes = 8 * MIB};
	struct errmsg em = {0};

	log_set_level(LOG_WARN);
	strcpy(world_dir, "/tmp/weir-vfs-XXXXXX");
	if (!mkdtemp(world_dir) || datastore_create(world_dir, &opt, &em) < 0)
		return -1;
	return world_open(false);
}

int world_teardown(void **state)
{
	char cmd[128];

	world_close();
	snprintf(cmd, sizeof(cmd), "rm -rf '%s'", world_dir);
	return system(cmd);
}

struct vnode *create_mode(uint64_t parent, const char *name, uint32_t mode, uint64_t *ret_ino)
{
	struct vfs_entry e;
	struct vnode *f;

	assert_int_equal(vfs_create(vfs, parent, name, mode, &root, &e, &f), 0);
	if (ret_ino)
		*ret_ino = e.ino;
	return f;
}

struct vnode *create(const char *name, uint64_t *ret_ino)
{
	return create_mode(TOP, name, 0644, ret_ino);
}

uint64_t make(uint64_t parent, const char *name, uint32_t mode)
{
	const struct vfs_make mk = {.mode = mode, .target = "target"};
	struct vfs_entry e;

	assert_int_equal(vfs_mknod(vfs, parent, name, &mk, &root, &e), 0);
	return e.ino;
}

void put(struct vnode *f, uint64_t off, const void *data, size_t len)
{
	size_t done = 0;

	assert_int_equal(vfs_write(vfs, f, off, data, len, 0, &done), 0);
	assert_int_equal(done, len);
}

void fill(struct vnode *f, uint64_t off, size_t len, char c)
{
	char *buf = malloc(len);

	memset(buf, c, len);
	put(f, off, buf, len);
	free(buf);
}

/* Bytes read; those past the end are not touched. */
size_t get(struct vnode *f, uint64_t off, void *buf, size_t len)
{
	struct readv rv;
	size_t n = 0;

	assert_int_equal(vfs_read(vfs, f, off, len, &rv), 0);
	for (int i = 0; i < rv.n_iov; i++) {
		memcpy((char *)buf + n, rv.iov[i].iov_base, rv.iov[i].iov_len);
		n += rv.iov[i].iov_len;
	}
	assert_int_equal(n, rv.len);
	readv_release(&rv);
	return n;
}

void expect_bytes(struct vnode *f, uint64_t off, size_t len, char c)
{
	char *buf = malloc(len);

	memset(buf, ~c, len);
	assert_int_equal(get(f, off, buf, len), len);
	for (size_t i = 0; i < len; i++)
		if (buf[i] != c)
			fail_msg("byte %zu is %d, not %d", (size_t)off + i, buf[i], c);
	free(buf);
}

struct vfs_attr attr(uint64_t ino)
{
	struct vfs_attr a;

	assert_int_equal(vfs_getattr(vfs, ino, &a), 0);
	return a;
}

uint64_t size_of(uint64_t ino)
{
	return attr(ino).inode.size;
}

int resize(uint64_t ino, uint64_t size)
{
	const struct vfs_setattr sa = {.set = VFS_SET_SIZE, .size = size};
	struct vfs_attr a;

	return vfs_setattr(vfs, ino, &sa, &a);
}

uint64_t ino_of(uint64_t parent, const char *name)
{
	struct vfs_entry e;
	const int r = vfs_lookup(vfs, parent, name, &e);

	if (r < 0)
		return 0;
	vfs_forget(vfs, e.ino, 1);
	return e.ino;
}

int set(uint64_t ino, const struct vfs_setattr *sa)
{
	struct vfs_attr a;

	return vfs_setattr(vfs, ino, sa, &a);
}

int count_inode(void *arg, const struct ns_inode *inode)
{
	++*(unsigned *)arg;
	return 0;
}

/*
 * discover-ext.c - looks into ext2, ext3 and ext4 with libext2fs, without mounting
 *
 * libext2fs reads through an io_manager of this file: bytes of the image from the partition's
 * offset on, and nothing can be written.  Checksums that do not fit are ignored: an image in use
 * may be caught between two writes, and a wrong name in a report is all that can come of it.
 */
#include "tools/discover-worker.h"

#ifdef HAVE_EXT2FS
#include <errno.h>
#include <ext2fs/ext2fs.h>
#include <string.h>
#include <sys/stat.h>

#define TEXT_MAX_BYTES     65536u      /* os-release, hostname */
#define DATABASE_MAX_BYTES (24u << 20) /* of packages */

/* What the one open channel reads; the library's open() has no argument for it. */
static struct {
	struct source *source;
	uint64_t base, len;
} ext;

static struct struct_io_manager ext_manager;

static errcode_t ext_open(const char *name, int flags, io_channel *ret_channel)
{
	io_channel c = calloc(1, sizeof(*c));

	if (!c)
		return EXT2_ET_NO_MEMORY;
	c->magic = EXT2_ET_MAGIC_IO_CHANNEL;
	c->manager = &ext_manager;
	c->name = strdup(name);
	c->block_size = 1024;
	c->refcount = 1;
	*ret_channel = c;
	return 0;
}

static errcode_t ext_close(io_channel c)
{
	if (--c->refcount > 0)
		return 0;
	free(c->name);
	free(c);
	return 0;
}

static errcode_t ext_set_blksize(io_channel c, int size)
{
	c->block_size = size;
	return 0;
}

/* count below 0: bytes. */
static errcode_t ext_read64(io_channel c, unsigned long long block, int count, void *data)
{
	const uint64_t len =
	        count < 0 ? (uint64_t) - (int64_t)count : (uint64_t)count * (uint64_t)c->block_size;
	uint64_t off;

	if (__builtin_mul_overflow(block, (uint64_t)c->block_size, &off) || off > ext.len ||
	        len > ext.len - off)
		return EXT2_ET_SHORT_READ;
	return source_read(ext.source, ext.base + off, data, len) < 0 ? EXT2_ET_SHORT_READ : 0;
}

static errcode_t ext_read(io_channel c, unsigned long block, int count, void *data)
{
	return ext_read64(c, block, count, data);
}

static errcode_t ext_write64(io_channel c, unsigned long long block, int count, const void *data)
{
	return EXT2_ET_RO_FILSYS;
}

static errcode_t ext_write(io_channel c, unsigned long block, int count, const void *data)
{
	return EXT2_ET_RO_FILSYS;
}

static errcode_t ext_flush(io_channel c)
{
	return 0;
}

static struct struct_io_manager ext_manager = {
        .magic = EXT2_ET_MAGIC_IO_MANAGER,
        .name = "image",
        .open = ext_open,
        .close = ext_close,
        .set_blksize = ext_set_blksize,
        .read_blk = ext_read,
        .write_blk = ext_write,
        .flush = ext_flush,
        .read_blk64 = ext_read64,
        .write_blk64 = ext_write64,
};

static bool ext_find(ext2_filsys fs, const char *path, ext2_ino_t *ret_ino)
{
	return ext2fs_namei_follow(fs, EXT2_ROOT_INO, EXT2_ROOT_INO, path, ret_ino) == 0;
}

static char *read_open(ext2_file_t file, size_t size)
{
	char *text = malloc(size + 1);
	size_t have = 0;

	while (text && have < size) {
		unsigned got = 0;
		const unsigned want = (unsigned)MIN(size - have, 1u << 16);
		if (ext2fs_file_read(file, text + have, want, &got) != 0 || got == 0)
			break;
		have += got;
	}
	if (text) {
		text[have] = '\0';
		/* A text with a NUL in it ends there. */
	}
	return text;
}

/* The file's text, at most max bytes of it; NULL: not there, or no file. */
static char *ext_text(ext2_filsys fs, const char *path, size_t max)
{
	struct ext2_inode inode;
	ext2_file_t file;
	ext2_ino_t ino;

	if (!ext_find(fs, path, &ino) || ext2fs_read_inode(fs, ino, &inode) != 0 ||
	        !S_ISREG(inode.i_mode))
		return NULL;
	const uint64_t size = EXT2_I_SIZE(&inode);
	if (ext2fs_file_open(fs, ino, 0, &file) != 0)
		return NULL;
	char *text = read_open(file, (size_t)MIN(size, max));
	ext2fs_file_close(file);
	return text;
}

static char *ext_text_any(ext2_filsys fs, const char *a, const char *b, size_t max)
{
	char *text = ext_text(fs, a, max);

	return text ? text : ext_text(fs, b, max);
}

static bool ext_has(ext2_filsys fs, const char *path)
{
	ext2_ino_t ino;

	return ext_find(fs, path, &ino);
}

static void ext_system(ext2_filsys fs, int number, json_t *systems)
{
	/* A filesystem of /var alone has the databases one level higher. */
	struct discover_texts t = {
	        .os_release =
	                ext_text_any(fs, "/etc/os-release", "/usr/lib/os-release", TEXT_MAX_BYTES),
	        .hostname = ext_text(fs, "/etc/hostname", TEXT_MAX_BYTES),
	        .dpkg = ext_text_any(
	                fs, "/var/lib/dpkg/status", "/lib/dpkg/status", DATABASE_MAX_BYTES),
	        .apk = ext_text_any(fs, "/lib/apk/db/installed", "/usr/lib/apk/db/installed",
	                DATABASE_MAX_BYTES),
	        .has_rpm = ext_has(fs, "/var/lib/rpm") || ext_has(fs, "/usr/lib/sysimage/rpm"),
	        .has_pacman = ext_has(fs, "/var/lib/pacman/local"),
	};
	json_t *system = discover_system(&t);

	free(t.os_release);
	free(t.hostname);
	free(t.dpkg);
	free(t.apk);
	if (!system)
		return;
	json_object_set_new(system, "partition", json_integer(number));
	json_object_set_new(system, "read_from", json_string("files"));
	json_array_append_new(systems, system);
}

void discover_ext(
        struct source *s, uint64_t base, uint64_t len, int number, json_t *content, json_t *systems)
{
	const int flags =
	        EXT2_FLAG_64BITS | EXT2_FLAG_IGNORE_CSUM_ERRORS | EXT2_FLAG_SOFTSUPP_FEATURES;
	ext2_filsys fs = NULL;

	ext.source = s;
	ext.base = base;
	ext.len = len;
	const errcode_t r = ext2fs_open("image", flags, 0, 0, &ext_manager, &fs);
	if (r != 0) {
		json_object_set_new(content, "readable", json_false());
		discover_set(content, "why", "its superblock or group descriptors are damaged");
		return;
	}
	const uint64_t blocks = ext2fs_blocks_count(fs->super);
	const uint64_t free_blocks = MIN(ext2fs_free_blocks_count(fs->super), blocks);
	json_object_set_new(content, "size_bytes",
	        json_integer((json_int_t)MIN(blocks * fs->blocksize, (uint64_t)INT64_MAX)));
	json_object_set_new(content, "free_bytes",
	        json_integer((json_int_t)MIN(free_blocks * fs->blocksize, (uint64_t)INT64_MAX)));
	json_object_set_new(content, "readable", json_true());
	ext_system(fs, number, systems);
	ext2fs_close_free(&fs);
}
#else
void discover_ext(
        struct source *s, uint64_t base, uint64_t len, int number, json_t *content, json_t *systems)
{
	json_object_set_new(content, "readable", json_false());
	discover_set(content, "why", "weir was built without libext2fs");
}
#endif

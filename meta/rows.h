/*
 * rows.h - namespace changes as bytes: what the intent log and the transaction groups carry
 *
 * A row is {length of the rest: u32, type: u8, fields}, little-endian; rows follow each other.
 * Names, targets and values are bytes; the last one of a row takes what is left of it, one before
 * it carries its length.
 *	1 inode put    ino u64, mode, uid, gid, nlink u32, rdev, size u64, 4 x {seconds i64, ns u32}
 *	               (atime, mtime, ctime, btime), parent, generation u64
 *	2 inode del    ino u64; its xattrs, symlink target and records go too
 *	3 name put     dir, id, ino u64, mode u32, name
 *	4 name del     dir u64, name
 *	5 symlink put  ino u64, target
 *	6 xattr put    ino u64, name length u8, name, value
 *	7 xattr del    ino u64, name
 *	8 record put   owner u64, table u8, id u64, value
 *	9 record del   owner u64, table u8, id u64
 * Every row says what is, not what changes, so applying a sequence twice is applying it once.
 */
#pragma once

#include "base/bytes.h"
#include "meta/records.h"

#define ROWS_TARGET_MAX 4095

enum row_type {
	ROW_INODE_PUT = 1,
	ROW_INODE_DEL = 2,
	ROW_NAME_PUT = 3,
	ROW_NAME_DEL = 4,
	ROW_SYMLINK_PUT = 5,
	ROW_XATTR_PUT = 6,
	ROW_XATTR_DEL = 7,
	ROW_RECORD_PUT = 8,
	ROW_RECORD_DEL = 9,
};

struct row {
	enum row_type type;
	struct ns_inode inode;   /* INODE_PUT */
	uint64_t owner;          /* all others: the inode, or the directory of a name; RECORD_* */
	uint64_t id;             /* NAME_PUT, RECORD_* */
	uint64_t ino;            /* NAME_PUT */
	enum record_table table; /* RECORD_* */
	uint32_t mode;           /* NAME_PUT */
	const void *name;        /* NAME_*, XATTR_*; not owned */
	size_t name_len;
	const void *value; /* XATTR_PUT, RECORD_PUT; the target of SYMLINK_PUT; not owned */
	size_t value_len;
};

/* out->failed when out of memory. */
void row_encode(const struct row *row, struct bytes_out *out);
/*
 * The next row of in: 1, or 0 at the end, or -EIO: not rows (nothing of it is to be trusted).
 * Pointers in *ret_row are into in's bytes.
 */
int row_decode(struct bytes_in *in, struct row *ret_row) MUST_CHECK;

/* Records of this table belong to an inode and go with it. */
static inline bool record_of_inode(enum record_table table)
{
	return table == RECORD_ATTACHMENT || table == RECORD_FILTER_STATE || table == RECORD_JOB ||
	       table == RECORD_FLAG;
}

/* The number of ns_number_alloc that a record carries; 0: none. */
uint64_t record_number(enum record_table table, uint64_t owner, uint64_t id);

struct db;
/* Applies rows in order inside the writer's transaction; -EIO: not rows, or damage. */
int rows_apply(struct db *writer, const void *rows, size_t len) MUST_CHECK;

/*
 * rows.c - encoding of namespace rows
 *
 * Pure functions on bytes.  Rows are checksummed by whoever stores them (the intent log); decoding
 * still trusts nothing, since what comes out goes into the namespace: lengths, file types, ids and
 * characters are checked, and a row must be used up to its last byte.
 */
#include "meta/rows.h"

#include <errno.h>
#include <sys/stat.h>

#define NS_MAX 1000000000u

static bool id_good(uint64_t id)
{
	return id > 0 && id <= INT64_MAX; /* SQLite's integers are signed */
}

static bool type_good(uint32_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG:
	case S_IFDIR:
	case S_IFLNK:
	case S_IFIFO:
	case S_IFSOCK:
	case S_IFCHR:
	case S_IFBLK:
		return true;
	default:
		return false;
	}
}

static bool bytes_good(const void *p, size_t len, size_t max)
{
	return len >= 1 && len <= max && !memchr(p, 0, len);
}

static bool name_good(const struct row *row)
{
	const char *name = row->name;

	if (!bytes_good(name, row->name_len, NS_NAME_MAX) || memchr(name, '/', row->name_len))
		return false;
	return !(name[0] == '.' && (row->name_len == 1 || (row->name_len == 2 && name[1] == '.')));
}

static bool time_good(const struct timespec *ts)
{
	return ts->tv_nsec >= 0 && ts->tv_nsec < (long)NS_MAX;
}

static bool inode_good(const struct ns_inode *i)
{
	return id_good(i->ino) && type_good(i->mode) && i->size <= INT64_MAX &&
	       time_good(&i->atime) && time_good(&i->mtime) && time_good(&i->ctime) &&
	       time_good(&i->btime);
}

uint64_t record_number(enum record_table table, uint64_t owner, uint64_t id)
{
	switch (table) {
	case RECORD_ATTACHMENT:
	case RECORD_POLICY:
	case RECORD_JOB:
	case RECORD_KEY:
	case RECORD_SNAPSHOT:
		return id;
	case RECORD_FILTER_STATE:
		return id >> 16;
	case RECORD_KEYSLOT:
		return owner;
	case RECORD_AUDIT:
	case RECORD_FLAG:
	case RECORD_TABLES:
		break;
	}
	return 0;
}

static bool record_good(const struct row *row)
{
	return row->table > 0 && row->table < RECORD_TABLES && row->owner <= INT64_MAX &&
	       row->id <= INT64_MAX && (row->owner > 0 || !record_of_inode(row->table)) &&
	       record_number(row->table, row->owner, row->id) <= UINT32_MAX &&
	       row->value_len <= RECORD_VALUE_MAX;
}

static void put_time(struct bytes_out *out, const struct timespec *ts)
{
	bytes_append_u64(out, (uint64_t)ts->tv_sec);
	bytes_append_u32(out, (uint32_t)ts->tv_nsec);
}

static void take_time(struct bytes_in *in, struct timespec *ret_ts)
{
	ret_ts->tv_sec = (time_t)bytes_take_u64(in);
	ret_ts->tv_nsec = (long)bytes_take_u32(in);
}

static void put_inode(struct bytes_out *out, const struct ns_inode *i)
{
	bytes_append_u64(out, i->ino);
	bytes_append_u32(out, i->mode);
	bytes_append_u32(out, i->uid);
	bytes_append_u32(out, i->gid);
	bytes_append_u32(out, i->nlink);
	bytes_append_u64(out, i->rdev);
	bytes_append_u64(out, i->size);
	put_time(out, &i->atime);
	put_time(out, &i->mtime);
	put_time(out, &i->ctime);
	put_time(out, &i->btime);
	bytes_append_u64(out, i->parent);
	bytes_append_u64(out, i->generation);
}

static void take_inode(struct bytes_in *in, struct ns_inode *i)
{
	i->ino = bytes_take_u64(in);
	i->mode = bytes_take_u32(in);
	i->uid = bytes_take_u32(in);
	i->gid = bytes_take_u32(in);
	i->nlink = bytes_take_u32(in);
	i->rdev = bytes_take_u64(in);
	i->size = bytes_take_u64(in);
	take_time(in, &i->atime);
	take_time(in, &i->mtime);
	take_time(in, &i->ctime);
	take_time(in, &i->btime);
	i->parent = bytes_take_u64(in);
	i->generation = bytes_take_u64(in);
}

static void put_record(const struct row *row, struct bytes_out *out)
{
	bytes_append_u64(out, row->owner);
	bytes_append_u8(out, (uint8_t)row->table);
	bytes_append_u64(out, row->id);
	if (row->type == ROW_RECORD_PUT && row->value_len > 0)
		bytes_append(out, row->value, row->value_len);
}

static void put_fields(const struct row *row, struct bytes_out *out)
{
	if (row->type == ROW_RECORD_PUT || row->type == ROW_RECORD_DEL) {
		put_record(row, out);
		return;
	}
	if (row->type == ROW_INODE_PUT) {
		put_inode(out, &row->inode);
		return;
	}
	bytes_append_u64(out, row->owner);
	if (row->type == ROW_NAME_PUT) {
		bytes_append_u64(out, row->id);
		bytes_append_u64(out, row->ino);
		bytes_append_u32(out, row->mode);
	}
	if (row->type == ROW_XATTR_PUT)
		bytes_append_u8(out, (uint8_t)row->name_len);
	if (row->type != ROW_INODE_DEL && row->type != ROW_SYMLINK_PUT)
		bytes_append(out, row->name, row->name_len);
	if ((row->type == ROW_SYMLINK_PUT || row->type == ROW_XATTR_PUT) && row->value_len > 0)
		bytes_append(out, row->value, row->value_len);
}

void row_encode(const struct row *row, struct bytes_out *out)
{
	const size_t at = out->len;

	bytes_append_u32(out, 0);
	bytes_append_u8(out, (uint8_t)row->type);
	put_fields(row, out);
	if (!out->failed)
		put_u32(out->data + at, (uint32_t)(out->len - at - sizeof(uint32_t)));
}

static void take_rest(struct bytes_in *in, const void **ret_p, size_t *ret_len)
{
	*ret_len = in->failed ? 0 : in->len - in->pos;
	*ret_p = bytes_take(in, *ret_len);
}

static bool take_name_put(struct bytes_in *in, struct row *row)
{
	row->id = bytes_take_u64(in);
	row->ino = bytes_take_u64(in);
	row->mode = bytes_take_u32(in);
	take_rest(in, &row->name, &row->name_len);
	return !in->failed && id_good(row->id) && id_good(row->ino) && type_good(row->mode) &&
	       name_good(row);
}

static bool take_xattr_put(struct bytes_in *in, struct row *row)
{
	row->name_len = bytes_take_u8(in);
	row->name = bytes_take(in, row->name_len);
	take_rest(in, &row->value, &row->value_len);
	return !in->failed && bytes_good(row->name, row->name_len, NS_NAME_MAX) &&
	       row->value_len <= XATTR_SIZE_MAX_BYTES;
}

static bool take_record(struct bytes_in *in, struct row *row)
{
	row->owner = bytes_take_u64(in);
	row->table = (enum record_table)bytes_take_u8(in);
	row->id = bytes_take_u64(in);
	if (row->type == ROW_RECORD_PUT)
		take_rest(in, &row->value, &row->value_len);
	return !in->failed && in->pos == in->len && record_good(row);
}

/* in: exactly one row, its length field taken off. */
static bool take_row(struct bytes_in *in, struct row *row)
{
	row->type = (enum row_type)bytes_take_u8(in);
	if (row->type == ROW_INODE_PUT) {
		take_inode(in, &row->inode);
		return !in->failed && in->pos == in->len && inode_good(&row->inode);
	}
	if (row->type == ROW_RECORD_PUT || row->type == ROW_RECORD_DEL)
		return take_record(in, row);
	row->owner = bytes_take_u64(in);
	if (in->failed || !id_good(row->owner))
		return false;
	switch (row->type) {
	case ROW_INODE_DEL:
		return in->pos == in->len;
	case ROW_NAME_PUT:
		return take_name_put(in, row);
	case ROW_NAME_DEL:
		take_rest(in, &row->name, &row->name_len);
		return !in->failed && name_good(row);
	case ROW_SYMLINK_PUT:
		take_rest(in, &row->value, &row->value_len);
		return !in->failed && bytes_good(row->value, row->value_len, ROWS_TARGET_MAX);
	case ROW_XATTR_PUT:
		return take_xattr_put(in, row);
	case ROW_XATTR_DEL:
		take_rest(in, &row->name, &row->name_len);
		return !in->failed && bytes_good(row->name, row->name_len, NS_NAME_MAX);
	default:
		return false;
	}
}

int row_decode(struct bytes_in *in, struct row *ret_row)
{
	struct row row = {0};

	if (in->pos == in->len)
		return 0;
	const size_t len = bytes_take_u32(in);
	const uint8_t *p = bytes_take(in, len);
	if (!p)
		return -EIO;
	struct bytes_in one = {.data = p, .len = len};
	if (!take_row(&one, &row))
		return -EIO;
	*ret_row = row;
	return 1;
}

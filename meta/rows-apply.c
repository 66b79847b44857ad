/*
 * rows-apply.c - namespace rows into meta.db
 *
 * Runs on the txg thread inside the writer's transaction; holds nothing between calls.
 *
 * The counters next_ino, next_dirent and next_number are raised past every id that is put, in the same
 * transaction. So an id that ever reached the disk is not given again, even if its row was deleted
 * since; ids that were given out but never put were seen by nobody after the crash that lost them.
 */
#include <errno.h>

#include "meta/db.h"
#include "meta/rows.h"

struct apply {
	struct db *d;
	uint64_t next_ino, next_dirent, next_number; /* past what was put; 0: nothing was */
};

static int run(struct db *d, enum db_stmt id, const uint64_t *ints, int n, const struct row *row,
        bool name, bool value)
{
	sqlite3_stmt *st = NULL;
	const int r = db_stmt(d, id, &st);

	if (r < 0)
		return r;
	db_bind_ints(st, 1, ints, n);
	if (name)
		db_bind_bytes(st, ++n, row->name, row->name_len);
	if (value)
		db_bind_bytes(st, ++n, row->value, row->value_len);
	return db_run(d, st);
}

static int apply_inode_put(struct apply *a, const struct row *row)
{
	const struct ns_inode *i = &row->inode;
	const uint64_t ints[] = {i->ino, i->mode, i->uid, i->gid, i->nlink, i->rdev, i->size,
	        (uint64_t)i->atime.tv_sec, (uint64_t)i->atime.tv_nsec, (uint64_t)i->mtime.tv_sec,
	        (uint64_t)i->mtime.tv_nsec, (uint64_t)i->ctime.tv_sec, (uint64_t)i->ctime.tv_nsec,
	        (uint64_t)i->btime.tv_sec, (uint64_t)i->btime.tv_nsec, i->parent, i->generation};

	a->next_ino = MAX(a->next_ino, i->ino + 1);
	return run(a->d, STMT_INODE_PUT, ints, ARRAY_SIZE(ints), row, false, false);
}

static int apply_inode_del(struct apply *a, const struct row *row)
{
	int r = run(a->d, STMT_INODE_DEL, &row->owner, 1, row, false, false);

	if (r == 0)
		r = run(a->d, STMT_SYMLINK_DEL, &row->owner, 1, row, false, false);
	if (r == 0)
		r = run(a->d, STMT_XATTR_DEL_ALL, &row->owner, 1, row, false, false);
	for (enum record_table t = 1; r == 0 && t < RECORD_TABLES; t++)
		if (record_of_inode(t))
			r = run(a->d, db_record_stmt(t, RECORD_STMT_DEL_ALL), &row->owner, 1, row,
			        false, false);
	return r;
}

static int apply_name_put(struct apply *a, const struct row *row)
{
	const uint64_t ints[] = {row->owner, row->id, row->ino, row->mode};

	a->next_dirent = MAX(a->next_dirent, row->id + 1);
	return run(a->d, STMT_NAME_PUT, ints, ARRAY_SIZE(ints), row, true, false);
}

/* Columns of JSON are text, so that the sqlite3 shell shows them and json_each() takes them. */
static bool is_text(enum record_table table)
{
	return table != RECORD_FILTER_STATE && table != RECORD_KEYSLOT;
}

/*
 * A key slot that goes, or is replaced, leaves no copy in the pages: it may be removed because its
 * passphrase is known.  Off again at once: for everything else it only costs.
 */
static int secure_delete(struct apply *a, const struct row *row, bool on)
{
	if (row->table != RECORD_KEYSLOT)
		return 0;
	return db_exec(a->d, on ? "PRAGMA secure_delete = ON" : "PRAGMA secure_delete = FAST");
}

static int apply_record_put(struct apply *a, const struct row *row)
{
	const uint64_t ints[] = {row->owner, row->id};
	const uint64_t number = record_number(row->table, row->owner, row->id);
	sqlite3_stmt *st = NULL;
	const int r = db_stmt(a->d, db_record_stmt(row->table, RECORD_STMT_PUT), &st);

	if (r < 0)
		return r;
	a->next_number = MAX(a->next_number, number + 1);
	db_bind_ints(st, 1, ints, ARRAY_SIZE(ints));
	if (is_text(row->table))
		db_bind_text(st, 3, row->value, row->value_len);
	else
		db_bind_bytes(st, 3, row->value, row->value_len);
	return db_run(a->d, st);
}

static int apply_record_del(struct apply *a, const struct row *row)
{
	const uint64_t ints[] = {row->owner, row->id};

	return run(a->d, db_record_stmt(row->table, RECORD_STMT_DEL), ints, ARRAY_SIZE(ints), row,
	        false, false);
}

static int apply_record(struct apply *a, const struct row *row)
{
	const int r = secure_delete(a, row, true);

	if (r < 0)
		return r;
	const int done =
	        row->type == ROW_RECORD_PUT ? apply_record_put(a, row) : apply_record_del(a, row);
	const int off = secure_delete(a, row, false);
	return done < 0 ? done : off;
}

static int apply_row(struct apply *a, const struct row *row)
{
	switch (row->type) {
	case ROW_INODE_PUT:
		return apply_inode_put(a, row);
	case ROW_INODE_DEL:
		return apply_inode_del(a, row);
	case ROW_NAME_PUT:
		return apply_name_put(a, row);
	case ROW_NAME_DEL:
		return run(a->d, STMT_NAME_DEL, &row->owner, 1, row, true, false);
	case ROW_SYMLINK_PUT:
		return run(a->d, STMT_SYMLINK_PUT, &row->owner, 1, row, false, true);
	case ROW_XATTR_PUT:
		return run(a->d, STMT_XATTR_PUT, &row->owner, 1, row, true, true);
	case ROW_XATTR_DEL:
		return run(a->d, STMT_XATTR_DEL, &row->owner, 1, row, true, false);
	case ROW_RECORD_PUT:
	case ROW_RECORD_DEL:
		return apply_record(a, row);
	}
	return -EIO;
}

int rows_apply(struct db *writer, const void *rows, size_t len)
{
	struct bytes_in in = {.data = rows, .len = len};
	struct apply a = {.d = writer};
	struct row row = {0};
	int r;

	while ((r = row_decode(&in, &row)) == 1) {
		r = apply_row(&a, &row);
		if (r < 0)
			return r;
	}
	if (r < 0 || (!a.next_ino && !a.next_dirent && !a.next_number))
		return r;
	const uint64_t next[] = {a.next_ino, a.next_dirent, a.next_number};
	return run(writer, STMT_NEXT_RAISE, next, ARRAY_SIZE(next), &row, false, false);
}

/*
 * check.c - meta_check: SQLite's own check, then the invariants of the namespace
 *
 * Plain SQL on a reader connection, so through the VFS with its page checksums, and of the
 * committed state only.  A group is one instant and operations are in it as a whole, so all of this
 * holds at every commit.  Each query gives one line of text a complaint; one that cannot run to its
 * end is a complaint itself, and the others go on. Bounded: CHECK_COMPLAINTS_MAX of each kind.
 *
 * No name is printed: names are bytes, complaints are text.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "meta/metadb.h"

#define CHECK_COMPLAINTS_MAX 100

#define IS_DIR  "(mode & 61440) = 16384"
#define IS_REG  "(mode & 61440) = 32768"
#define IS_LINK "(mode & 61440) = 40960"

struct check_query {
	const char *what;
	const char *sql;
};

#define RECORDS_OF_INODES(table)                                                                   \
	{                                                                                          \
		table "s",                                                                         \
		        "SELECT DISTINCT 'there is a row in " table " of inode ' ||"               \
		        " t.owner || ', which does not exist' FROM " table " t LEFT JOIN inode i"  \
		        " ON i.ino = t.owner WHERE i.ino IS NULL AND t.owner < " SNAPSHOT_OWNERS   \
	}
/* From here on, owners are images as of a snapshot: {this, its number << 24, of the image in it}. */
#define SNAPSHOT_OWNERS "4611686018427387904"
#define RECORDS_OF_SNAPSHOTS(table)                                                                \
	{                                                                                          \
		table "s of snapshots",                                                            \
		        "SELECT DISTINCT 'there is a row in " table " of snapshot ' ||"            \
		        " ((owner - " SNAPSHOT_OWNERS                                              \
		        ") >> 24) || ', which does not exist' FROM " table                         \
		        " WHERE owner >= " SNAPSHOT_OWNERS                                         \
		        " AND NOT EXISTS (SELECT 1 FROM snapshot_set s WHERE"                      \
		        " s.owner = (" table ".owner - " SNAPSHOT_OWNERS ") >> 24 AND"             \
		        " s.id = (" table ".owner & 16777215))"                                    \
	}
#define RECORDS_OF_JSON(table)                                                                     \
	{                                                                                          \
		table "s", "SELECT 'row (' || owner || ', ' || id || ') of " table                 \
		           " is not JSON' FROM " table " WHERE NOT json_valid(value)"              \
	}

static const struct check_query queries[] = {
        {"datastore row",
                "SELECT 'there is no datastore row' WHERE (SELECT count(*) FROM datastore) <> 1"},
        {"root", "SELECT 'the root directory is missing' WHERE NOT EXISTS (SELECT 1 FROM inode "
                 "WHERE ino = 1 AND " IS_DIR ")"},
        {"counters",
                "SELECT 'inode ' || ino || ' is beyond the highest number given out' FROM inode"
                " WHERE ino >= (SELECT next_ino FROM datastore)"
                " UNION ALL SELECT 'entry ' || id || ' of directory ' || dir || ' is beyond the "
                "highest number given out'"
                " FROM dirent WHERE id >= (SELECT next_dirent FROM datastore)"},
        {"names", "SELECT 'entry ' || d.id || ' of directory ' || d.dir || ' leads to inode ' || "
                  "d.ino ||"
                  " ', which does not exist' FROM dirent d LEFT JOIN inode i ON i.ino = d.ino "
                  "WHERE i.ino IS NULL"},
        {"directories of names",
                "SELECT 'entry ' || d.id || ' is in inode ' || d.dir || ', which is no directory'"
                " FROM dirent d LEFT JOIN inode i ON i.ino = d.dir"
                " WHERE i.ino IS NULL OR (i.mode & 61440) <> 16384"},
        {"types of names", "SELECT 'entry ' || d.id || ' of directory ' || d.dir || ' has another "
                           "file type than inode ' ||"
                           " d.ino FROM dirent d JOIN inode i ON i.ino = d.ino"
                           " WHERE (i.mode & 61440) <> (d.mode & 61440)"},
        {"link counts",
                "SELECT 'inode ' || ino || ' has ' || n || ' names, but a link count of ' || nlink "
                "FROM"
                " (SELECT i.ino, i.nlink, (SELECT count(*) FROM dirent d WHERE d.ino = i.ino) AS n"
                " FROM inode i WHERE NOT " IS_DIR ") WHERE n <> nlink"},
        {"link counts of directories", "SELECT 'directory ' || ino || ' has ' || n || ' "
                                       "directories in it, but a link count of ' || nlink FROM"
                                       " (SELECT i.ino, i.nlink, (SELECT count(*) FROM dirent d "
                                       "WHERE d.dir = i.ino AND " IS_DIR ") AS n"
                                       " FROM inode i WHERE (i.mode & 61440) = 16384 AND i.nlink > "
                                       "0) WHERE nlink <> n + 2"},
        {"removed directories",
                "SELECT 'removed directory ' || i.ino || ' still has names in it' FROM inode i "
                "WHERE " IS_DIR
                " AND nlink = 0 AND EXISTS (SELECT 1 FROM dirent d WHERE d.dir = i.ino)"},
        {"parents", "SELECT 'directory ' || i.ino || ' is in directory ' || d.dir || ', but its "
                    "parent is ' || i.parent"
                    " FROM inode i JOIN dirent d ON d.ino = i.ino WHERE (i.mode & 61440) = 16384 "
                    "AND i.parent <> d.dir"},
        {"names of directories",
                "SELECT 'directory ' || ino || ' has ' || n || ' names' FROM (SELECT i.ino,"
                " (SELECT count(*) FROM dirent d WHERE d.ino = i.ino) AS n FROM inode i"
                " WHERE " IS_DIR " AND i.nlink > 0 AND i.ino <> 1) WHERE n <> 1"},
        {"reachability",
                "WITH RECURSIVE reached(ino) AS (SELECT 1 UNION SELECT d.ino FROM dirent d JOIN "
                "reached r"
                " ON d.dir = r.ino WHERE (d.mode & 61440) = 16384)"
                " SELECT 'directory ' || ino || ' cannot be reached from the root' FROM inode"
                " WHERE " IS_DIR " AND nlink > 0 AND ino NOT IN (SELECT ino FROM reached)"},
        {"symlinks", "SELECT 'symlink ' || ino || ' has no target' FROM inode WHERE " IS_LINK
                     " AND ino NOT IN (SELECT ino FROM symlink)"
                     " UNION ALL SELECT 'there is a target for inode ' || s.ino || ', which is no "
                     "symlink' FROM symlink s"
                     " LEFT JOIN inode i ON i.ino = s.ino WHERE i.ino IS NULL OR (i.mode & 61440) "
                     "<> 40960"},
        {"extended attributes",
                "SELECT DISTINCT 'there are extended attributes of inode ' || x.ino || ', which "
                "does not exist'"
                " FROM xattr x LEFT JOIN inode i ON i.ino = x.ino WHERE i.ino IS NULL"},
        RECORDS_OF_INODES("attachment"),
        RECORDS_OF_INODES("filter_state"),
        RECORDS_OF_INODES("job"),
        RECORDS_OF_INODES("flag"),
        RECORDS_OF_SNAPSHOTS("attachment"),
        RECORDS_OF_SNAPSHOTS("filter_state"),
        {"snapshots",
                "SELECT 'there is an image in snapshot ' || owner || ', which does not exist' FROM "
                "(SELECT DISTINCT owner FROM snapshot_set WHERE owner <> 0 AND owner NOT IN"
                " (SELECT id FROM snapshot_set WHERE owner = 0))"
                " UNION ALL SELECT 'snapshot ' || (id >> 24) || ' keeps the map of image ' || "
                "image ||"
                " ', and has no row for it' FROM snapshot WHERE NOT EXISTS"
                " (SELECT 1 FROM snapshot_set s WHERE s.owner = snapshot.id >> 24"
                " AND s.id = (snapshot.id & 16777215))"
                " UNION ALL SELECT 'snapshot ' || owner || ' has a row for image ' || id || ', and"
                " no map of it' FROM snapshot_set WHERE owner <> 0 AND NOT EXISTS"
                " (SELECT 1 FROM snapshot t WHERE t.id = (owner << 24) + snapshot_set.id)"},
        RECORDS_OF_JSON("attachment"),
        RECORDS_OF_JSON("snapshot_set"),
        RECORDS_OF_JSON("policy"),
        RECORDS_OF_JSON("job"),
        RECORDS_OF_JSON("key"),
        RECORDS_OF_JSON("audit"),
        {"numbers of records",
                "SELECT text || ' is beyond the highest number given out' FROM ("
                "SELECT 'attachment ' || id AS text, id AS n FROM attachment"
                " UNION ALL SELECT 'filter state of ' || (id >> 16), id >> 16 FROM filter_state"
                " UNION ALL SELECT 'policy ' || id, id FROM policy"
                " UNION ALL SELECT 'job ' || id, id FROM job"
                " UNION ALL SELECT 'key ' || id, id FROM key"
                " UNION ALL SELECT 'snapshot ' || id, id FROM snapshot_set WHERE owner = 0"
                " UNION ALL SELECT 'crypto domain ' || owner, owner FROM keyslot)"
                " WHERE n >= (SELECT next_number FROM datastore)"},
        {"crypto domains",
                "WITH k(value) AS (SELECT CASE WHEN json_valid(value) THEN value ELSE '{}' END "
                "FROM key),"
                " d(id) AS (SELECT value ->> '$.domain' FROM k UNION"
                " SELECT j.value FROM k, json_each(k.value, '$.rotating_from') j),"
                " a(owner, id) AS (SELECT owner, CASE WHEN json_valid(value) THEN"
                " value ->> '$.domain' END FROM attachment)"
                " SELECT DISTINCT 'crypto domain ' || owner || ' has slots, and belongs to no "
                "key' FROM keyslot"
                " WHERE owner NOT IN (SELECT id FROM d WHERE id IS NOT NULL)"
                " UNION ALL SELECT 'crypto domain ' || id || ' has no slot' FROM d WHERE id"
                " NOT IN (SELECT owner FROM keyslot)"
                " UNION ALL SELECT 'inode ' || owner || ' is stored in crypto domain ' || id || ',"
                " which belongs to no key' FROM a"
                " WHERE id > 0 AND id NOT IN (SELECT id FROM d WHERE id IS NOT NULL)"},
        {"audit trail", "SELECT 'audit entry ' || id || ' does not follow another' FROM audit"
                        " WHERE owner <> 0 OR (id <> 1 AND NOT EXISTS"
                        " (SELECT 1 FROM audit b WHERE b.owner = 0 AND b.id = audit.id - 1))"},
        {"images", "SELECT 'there is an image of inode ' || m.image || ', which is no regular "
                   "file' FROM image m"
                   " LEFT JOIN inode i ON i.ino = m.image WHERE i.ino IS NULL OR NOT " IS_REG},
        {"nodes", "SELECT 'map node ' || id || ' is beyond the highest number given out' FROM node"
                  " WHERE id >= (SELECT next_node FROM datastore)"},
        {"segments",
                "SELECT 'segment ' || id || ' is beyond the highest number given out' FROM segment"
                " WHERE id >= (SELECT next_segment FROM datastore)"},
};

struct check {
	struct db *d;
	meta_complaint_fn *fn;
	void *arg;
};

static void complain(struct check *c, const char *what, int rc)
{
	char text[256];

	snprintf(text, sizeof(text), "cannot check %s: %s (%d)", what, sqlite3_errmsg(c->d->handle),
	        rc);
	c->fn(c->arg, text);
}

/* Each row is a complaint, unless it is "ok". */
static int run_query(struct check *c, const char *what, const char *sql)
{
	sqlite3_stmt *st = NULL;
	unsigned n = 0;
	int rc = sqlite3_prepare_v2(c->d->handle, sql, -1, &st, NULL);

	while (rc == SQLITE_OK || rc == SQLITE_ROW) {
		rc = sqlite3_step(st);
		const char *text =
		        rc == SQLITE_ROW ? (const char *)sqlite3_column_text(st, 0) : NULL;
		if (text && strcmp(text, "ok") != 0)
			c->fn(c->arg, text);
		if (rc == SQLITE_ROW && ++n == CHECK_COMPLAINTS_MAX)
			rc = SQLITE_DONE;
	}
	if (rc != SQLITE_DONE)
		complain(c, what, rc);
	sqlite3_finalize(st);
	return (rc & 0xff) == SQLITE_NOMEM ? -ENOMEM : 0;
}

int meta_check(struct meta *meta, meta_complaint_fn *fn, void *arg)
{
	struct metadb *m = metadb_of(meta);
	struct check c = {.fn = fn, .arg = arg};
	int r = metadb_reader(m, &c.d);

	if (r < 0)
		return r;
	r = run_query(&c, META_NAME, "PRAGMA integrity_check(100)");
	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(queries); i++)
		r = run_query(&c, queries[i].what, queries[i].sql);
	metadb_reader_done(m, c.d);
	return r;
}

/*
 * migrate.c - the schema's versions
 *
 * Runs once, at create or open, on the opening thread and the writer connection.  A power cut
 * between two files leaves the version in between, from which the next open goes on.
 */
#include "meta/migrate.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "schema.h"

unsigned migrate_latest(void)
{
	return ARRAY_SIZE(schema_sql);
}

int migrate_version(struct db *d, unsigned *ret_version, struct errmsg *em)
{
	int64_t id = 0, version = 0;
	int r = db_get_int(d, "PRAGMA application_id", &id);

	if (r == 0)
		r = db_get_int(d, "PRAGMA user_version", &version);
	if (r < 0)
		return errmsg_set(em, r, "cannot read 'meta.db': %s", sqlite3_errmsg(d->handle));
	if (id != META_APPLICATION_ID || version < 1)
		return errmsg_set(em, -EMEDIUMTYPE,
		        "'meta.db' is not a datastore's (or its creation was cut short)");
	if (version > (int64_t)migrate_latest())
		return errmsg_set(em, -EPROTONOSUPPORT,
		        "the datastore is of a newer version (%lld; this program knows %u): use a "
		        "newer weir",
		        (long long)version, migrate_latest());
	*ret_version = (unsigned)version;
	return 0;
}

static int apply(struct db *d, unsigned version)
{
	char sql[128];
	int r = db_exec(d, "BEGIN IMMEDIATE");

	snprintf(sql, sizeof(sql), "PRAGMA application_id = %d; PRAGMA user_version = %u;",
	        META_APPLICATION_ID, version);
	if (r == 0)
		r = db_exec(d, schema_sql[version - 1]);
	if (r == 0)
		r = db_exec(d, sql);
	if (r == 0)
		r = db_exec(d, "COMMIT");
	if (r < 0 && !sqlite3_get_autocommit(d->handle))
		sqlite3_exec(d->handle, "ROLLBACK", NULL, NULL, NULL);
	return r;
}

int migrate_up(struct db *writer, unsigned from, struct errmsg *em)
{
	for (unsigned v = from + 1; v <= migrate_latest(); v++) {
		const int r = apply(writer, v);
		if (r < 0)
			return errmsg_set(em, r, "cannot upgrade 'meta.db' to version %u: %s", v,
			        strerror(-r));
		if (from > 0)
			log_note("meta.db: upgraded to version %u", v);
	}
	return 0;
}

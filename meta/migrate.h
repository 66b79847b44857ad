/*
 * migrate.h - the schema's versions: schema/NNN-*.sql, applied by number
 *
 * PRAGMA application_id says that a database is a datastore's, PRAGMA user_version how many of the
 * files have been applied to it.  Each is applied in a transaction of its own together with its
 * number.
 */
#pragma once

#include "base/errmsg.h"
#include "meta/db.h"

#define META_APPLICATION_ID 0x57454952 /* "WEIR" */

unsigned migrate_latest(void);
/* Of an open database; -EPROTONOSUPPORT when it is newer than this program, -EMEDIUMTYPE when it is
 * none. */
int migrate_version(struct db *d, unsigned *ret_version, struct errmsg *em) MUST_CHECK;
/* Applies what is missing from version `from` on. */
int migrate_up(struct db *writer, unsigned from, struct errmsg *em) MUST_CHECK;

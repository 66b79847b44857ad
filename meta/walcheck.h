/*
 * walcheck.h - tells a WAL that a crash cut short from one that is damaged
 */
#pragma once

#include "base/errmsg.h"
#include "base/io.h"

/*
 * Before the database is opened.  db: meta.db; wal: its WAL.  0 when SQLite's recovery will find
 * all that was committed; -EUCLEAN when it would silently stop before something that was; -EIO,
 * -ENOMEM.
 */
int wal_check(struct io_file *db, struct io_file *wal, struct errmsg *em) MUST_CHECK;

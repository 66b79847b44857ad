-- Rows of the filter framework (meta/records.h), one shape: owner, id, value.  Text where it is JSON.

-- Link ids, policy and key numbers, crypto domains: the first never used.
ALTER TABLE datastore ADD COLUMN next_number INTEGER NOT NULL DEFAULT 1;

CREATE TABLE attachment (
	owner INTEGER NOT NULL,
	id    INTEGER NOT NULL,
	value TEXT NOT NULL,
	PRIMARY KEY (owner, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE filter_state (
	owner INTEGER NOT NULL,
	id    INTEGER NOT NULL,
	value BLOB NOT NULL,
	PRIMARY KEY (owner, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE policy (
	owner INTEGER NOT NULL,
	id    INTEGER NOT NULL,
	value TEXT NOT NULL,
	PRIMARY KEY (owner, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE job (
	owner INTEGER NOT NULL,
	id    INTEGER NOT NULL,
	value TEXT NOT NULL,
	PRIMARY KEY (owner, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE key (
	owner INTEGER NOT NULL,
	id    INTEGER NOT NULL,
	value TEXT NOT NULL,
	PRIMARY KEY (owner, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE keyslot (
	owner INTEGER NOT NULL,
	id    INTEGER NOT NULL,
	value BLOB NOT NULL,
	PRIMARY KEY (owner, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE audit (
	owner INTEGER NOT NULL,
	id    INTEGER NOT NULL,
	value TEXT NOT NULL,
	PRIMARY KEY (owner, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE flag (
	owner INTEGER NOT NULL,
	id    INTEGER NOT NULL,
	value TEXT NOT NULL,
	PRIMARY KEY (owner, id)
) STRICT, WITHOUT ROWID;

-- Intent-log records of crypto domains that were locked when the log was replayed; still sealed.
CREATE TABLE parked (
	image INTEGER NOT NULL,
	id    INTEGER NOT NULL,
	blob  BLOB NOT NULL,
	PRIMARY KEY (image, id)
) STRICT, WITHOUT ROWID;

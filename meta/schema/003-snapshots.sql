-- Kept roots of maps (struct snapshot_row), and the records that name them: id >> 24 is their set.

CREATE TABLE snapshot (
	id          INTEGER PRIMARY KEY,
	image       INTEGER NOT NULL,
	root        INTEGER NOT NULL,
	height      INTEGER NOT NULL,
	domain      INTEGER NOT NULL,
	data_chunks INTEGER NOT NULL,
	zero_chunks INTEGER NOT NULL,
	txg         INTEGER NOT NULL
) STRICT;

CREATE TABLE snapshot_set (
	owner INTEGER NOT NULL,
	id    INTEGER NOT NULL,
	value TEXT NOT NULL,
	PRIMARY KEY (owner, id)
) STRICT, WITHOUT ROWID;

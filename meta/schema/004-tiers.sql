-- Media besides the datastore's own directory (meta/records.h), and second files of segments (struct segment_row).

ALTER TABLE segment ADD COLUMN copy_tier INTEGER NOT NULL DEFAULT -1;
ALTER TABLE segment ADD COLUMN copy_gen INTEGER NOT NULL DEFAULT 0;

CREATE TABLE tier (
	owner INTEGER NOT NULL,
	id    INTEGER NOT NULL,
	value TEXT NOT NULL,
	PRIMARY KEY (owner, id)
) STRICT, WITHOUT ROWID;

-- How much segments were read: decayed counters, of whole blocks of ids (store/activity.h).
CREATE TABLE activity (
	block INTEGER PRIMARY KEY,
	blob  BLOB NOT NULL
) STRICT;

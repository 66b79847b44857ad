-- What each table is for stands in meta/README.md.  Names, targets and values are bytes, hence BLOB.

-- One row: what the datastore is, and where its engine stands (struct store_state).
CREATE TABLE datastore (
	id           INTEGER PRIMARY KEY CHECK (id = 1),
	uuid         BLOB NOT NULL,
	domain_key   BLOB NOT NULL,
	created_ns   INTEGER NOT NULL,
	index_bytes  INTEGER NOT NULL,
	log_bytes    INTEGER NOT NULL,
	txg          INTEGER NOT NULL,
	next_segment INTEGER NOT NULL,
	next_node    INTEGER NOT NULL,
	log_epoch    INTEGER NOT NULL,
	log_tail_off INTEGER NOT NULL,
	log_tail_seq INTEGER NOT NULL,
	next_ino     INTEGER NOT NULL,
	next_dirent  INTEGER NOT NULL
) STRICT;

CREATE TABLE inode (
	ino        INTEGER PRIMARY KEY,
	mode       INTEGER NOT NULL,
	uid        INTEGER NOT NULL,
	gid        INTEGER NOT NULL,
	nlink      INTEGER NOT NULL,
	rdev       INTEGER NOT NULL,
	size       INTEGER NOT NULL,
	atime_s    INTEGER NOT NULL,
	atime_ns   INTEGER NOT NULL,
	mtime_s    INTEGER NOT NULL,
	mtime_ns   INTEGER NOT NULL,
	ctime_s    INTEGER NOT NULL,
	ctime_ns   INTEGER NOT NULL,
	btime_s    INTEGER NOT NULL,
	btime_ns   INTEGER NOT NULL,
	parent     INTEGER NOT NULL,
	generation INTEGER NOT NULL
) STRICT;
CREATE INDEX inode_orphan ON inode (ino) WHERE nlink = 0;

-- id: position in the directory's listing; given once, never to another name while the store is mounted.
CREATE TABLE dirent (
	dir  INTEGER NOT NULL,
	id   INTEGER NOT NULL,
	name BLOB NOT NULL,
	ino  INTEGER NOT NULL,
	mode INTEGER NOT NULL,
	PRIMARY KEY (dir, id)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX dirent_name ON dirent (dir, name);
CREATE INDEX dirent_ino ON dirent (ino);

CREATE TABLE symlink (
	ino    INTEGER PRIMARY KEY,
	target BLOB NOT NULL
) STRICT;

CREATE TABLE xattr (
	ino   INTEGER NOT NULL,
	name  BLOB NOT NULL,
	value BLOB NOT NULL,
	PRIMARY KEY (ino, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE image (
	image       INTEGER PRIMARY KEY,
	root        INTEGER NOT NULL,
	height      INTEGER NOT NULL,
	data_chunks INTEGER NOT NULL,
	zero_chunks INTEGER NOT NULL,
	snap_epoch  INTEGER NOT NULL
) STRICT;

CREATE TABLE node (
	id   INTEGER PRIMARY KEY,
	blob BLOB NOT NULL
) STRICT;

CREATE TABLE segment (
	id          INTEGER PRIMARY KEY,
	gen         INTEGER NOT NULL,
	tier        INTEGER NOT NULL,
	domain      INTEGER NOT NULL,
	state       INTEGER NOT NULL,
	bytes       INTEGER NOT NULL,
	slots       INTEGER NOT NULL,
	live_chunks INTEGER NOT NULL,
	live_bytes  INTEGER NOT NULL,
	file_bytes  INTEGER NOT NULL,
	created_txg INTEGER NOT NULL
) STRICT;

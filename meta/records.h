/*
 * records.h - rows of the filter framework: stacks, private state, policies, jobs, keys, audit
 *
 * Tables of one shape, (owner, id, value), one for each kind of thing.  They are part of the
 * namespace (namespace.h): reads see uncommitted changes, changes are rows that the intent log
 * carries and the group's transaction applies, and go through the gate like all others.  What an
 * inode owns (ATTACHMENT, FILTER_STATE) goes with the inode.
 *
 *	table         owner            id               value
 *	ATTACHMENT    inode            link id          JSON, fs/filter/manifest.h
 *	FILTER_STATE  inode            link id << 16 | n  {name length u8, name, bytes}
 *	POLICY        0                number           JSON: a named stack
 *	JOB           inode            link id          JSON, fs/filter/job.h
 *	KEY           0                number           JSON: a named key, its crypto domains
 *	KEYSLOT       crypto domain    slot             crypto/keyslot.h
 *	AUDIT         0                number, from 1   JSON, audit.h; never deleted
 *	FLAG          inode            1: quarantine    text
 *	                               2: receiving     JSON, fs/stream/receive-private.h
 *	                               3: kept sealed   JSON, fs/filter/sealed-flag.h
 *	SNAPSHOT      0, a snapshot    number           JSON, fs/snapshot/records.h
 */
#pragma once

#include "base/bytes.h"
#include "meta/namespace.h"

enum record_table {
	RECORD_ATTACHMENT = 1,
	RECORD_FILTER_STATE = 2,
	RECORD_POLICY = 3,
	RECORD_JOB = 4,
	RECORD_KEY = 5,
	RECORD_KEYSLOT = 6,
	RECORD_AUDIT = 7,
	RECORD_FLAG = 8,
	RECORD_SNAPSHOT = 9,
	RECORD_TABLES,
};
/*
 * Numbers (ns_number_alloc) are the ids of ATTACHMENT, POLICY, JOB, KEY and SNAPSHOT, id >> 16 of FILTER_STATE,
 * and the owner of KEYSLOT: below 2^32.  All other owners and ids are below 2^63.
 */
#define RECORD_VALUE_MAX (1u << 20)
/* Of FLAG: a hidden image of a stream that is being received; it is kept without a name. */
#define RECEIVE_FLAG 2u

/* -ENOENT; *ret_value is filled, released by the caller. */
int ns_record_get(struct ns *ns, enum record_table table, uint64_t owner, uint64_t id,
        struct bytes_out *ret_value) MUST_CHECK;
/* Inside the gate, or in collect_rows.  -E2BIG; -EINVAL: no such owner or id can be. */
int ns_record_put(struct ns *ns, enum record_table table, uint64_t owner, uint64_t id,
        const void *value, size_t len) MUST_CHECK;
int ns_record_del(struct ns *ns, enum record_table table, uint64_t owner, uint64_t id) MUST_CHECK;
/*
 * In order of id, from id `from` on; fn is called without a lock, and returns non-zero to stop,
 * which is returned.
 */
typedef int ns_record_fn(void *arg, uint64_t owner, uint64_t id, const void *value, size_t len);
int ns_record_each(struct ns *ns, enum record_table table, uint64_t owner, uint64_t from,
        ns_record_fn *fn, void *arg) MUST_CHECK;
/* Of all owners, in order of (owner, id). */
int ns_record_each_owner(
        struct ns *ns, enum record_table table, ns_record_fn *fn, void *arg) MUST_CHECK;
/* Another number after each change of a record of the table SNAPSHOT. */
uint64_t ns_snapshot_changes(struct ns *ns);
/* The highest id of an owner, 0: none. */
int ns_record_last(
        struct ns *ns, enum record_table table, uint64_t owner, uint64_t *ret_id) MUST_CHECK;
/*
 * A number never given before in this datastore (link ids, key numbers, crypto domains): grows, and
 * is not reused after a crash, as inode numbers are not.  From 1; below 2^32.
 */
uint64_t ns_number_alloc(struct ns *ns);

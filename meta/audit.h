/*
 * audit.h - the append-only, hash-chained trail of who changed what
 *
 * An entry is a JSON object, canonical (keys sorted, no spaces):
 *	{"seq", "time_ns", "uid", "pid", "user", "program", "action", "inode", "target", "type",
 *	 "old", "new", "prev"}
 * (prev: the hash of the entry before it, "" in the first) and is stored with "hash": SHA-256
 * (libcrypto) over prev's hash and those bytes, in hex.  Changing,
 * removing, reordering or inserting an entry breaks the chain at that place; cutting its end off
 * shows against a hash that was kept elsewhere: each entry's number and hash also go to the log
 * (the journal) once the entry is durable, and verification takes one to look for.
 */
#pragma once

#include <jansson.h>

#include "meta/records.h"

#define AUDIT_HASH_TEXT 65u /* SHA-256 in hex, terminated */

struct audit_entry {
	uint32_t uid;
	int64_t pid;         /* 0: the daemon itself */
	const char *program; /* "weir", or a stage: "scan" */
	const char *action;  /* "filter attach", "key rotate", "quarantine", "alert", ... */
	uint64_t inode;      /* 0: the datastore */
	const char *target;  /* path at that time */
	const char *type;    /* filter type, policy or key name; "" */
	const char *old_value, *new_value; /* settings as text, or a reason; "" */
};
/*
 * Before the gate, where it can be done: looks up the name of a user, which may take long; it is
 * then remembered.  audit_append does it itself when it was not done.
 */
void audit_prepare(uint32_t uid);
/*
 * Before the gate: reads the end of the chain, which audit_append reads inside it, so that its pages
 * are in memory and no disk is waited for there.  (With them there audit_append takes 50 us, most of it
 * for the text and its hash.)
 */
void audit_warm(struct ns *ns);
/* What goes to the log of an entry. */
struct audit_mark {
	uint64_t seq;
	char hash[AUDIT_HASH_TEXT];
	char action[32];
};
/*
 * Inside the gate; one at a time (the caller's lock).  ret_mark (may be NULL) is to be logged once the
 * entry is durable, not before: of one that a crash took back, verification would say that it is
 * missing.
 */
int audit_append(
        struct ns *ns, const struct audit_entry *e, struct audit_mark *ret_mark) MUST_CHECK;

/* inode 0: all.  fn gets each stored object (borrowed), in order; non-zero stops and is returned. */
typedef int audit_fn(void *arg, json_t *entry);
int audit_each(struct ns *ns, uint64_t inode, audit_fn *fn, void *arg) MUST_CHECK;

struct audit_verdict {
	uint64_t entries;
	char head[AUDIT_HASH_TEXT]; /* hash of the last entry; "" when there is none */
	uint64_t bad_seq; /* first entry that does not fit, by its place; 0: the chain is whole */
	char why[160];    /* what is wrong with it */
	bool expected_found; /* the hash that was asked for is in the chain, before any break */
};
/* expect: a hash noted earlier, or NULL. */
int audit_verify(struct ns *ns, const char *expect, struct audit_verdict *ret_verdict) MUST_CHECK;

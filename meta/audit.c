/*
 * audit.c - the append-only, hash-chained trail of who changed what
 *
 * An entry is the row (RECORD_AUDIT, 0, seq) with seq from 1 on, without gaps.  Its hash covers the
 * entry before it and all of its own fields in canonical form, so the text of a row is checked
 * twice: it must be the canonical form of what it says (nothing can be slipped in between), and
 * what it says must match its hash.  Who may write meta.db could compute a new chain from the place
 * that was changed up to the end: against that helps a hash kept elsewhere, in the journal or on
 * paper, which verification looks for.
 *
 * An entry is appended even to a chain that is broken: its hash continues from what the last row
 * claims, and verification still names the place where the chain broke.
 *
 * Threads: append under the caller's lock; the names of users are kept in a table of this file,
 * with a lock of its own, because looking one up may ask a server on the network.
 */
#include "meta/audit.h"

#include <errno.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"

#define USERS_MAX  16u
#define USER_TEXT  64u
#define PASSWD_BUF 16384u

#define CANONICAL (JSON_SORT_KEYS | JSON_COMPACT)

/* --- names of users --- */

static struct user {
	uint32_t uid;
	bool known;
	char name[USER_TEXT];
} users[USERS_MAX];
static unsigned users_next;
static pthread_mutex_t users_lock = PTHREAD_MUTEX_INITIALIZER; /* guards both */

static bool user_find(uint32_t uid, char ret_name[USER_TEXT])
{
	bool found = false;

	pthread_mutex_lock(&users_lock);
	for (unsigned i = 0; i < USERS_MAX && !found; i++) {
		found = users[i].known && users[i].uid == uid;
		if (found)
			memcpy(ret_name, users[i].name, USER_TEXT);
	}
	pthread_mutex_unlock(&users_lock);
	return found;
}

/* The number itself when the user has no name, or none that can be found. */
static void user_name(uint32_t uid, char ret_name[USER_TEXT])
{
	struct passwd pw, *found = NULL;

	if (user_find(uid, ret_name))
		return;
	CLEANUP(free_ptr) char *buf = malloc(PASSWD_BUF);
	struct user u = {.uid = uid, .known = true};
	if (buf && getpwuid_r(uid, &pw, buf, PASSWD_BUF, &found) == 0 && found)
		snprintf(u.name, sizeof(u.name), "%s", pw.pw_name);
	else
		snprintf(u.name, sizeof(u.name), "%u", uid);
	pthread_mutex_lock(&users_lock);
	users[users_next++ % USERS_MAX] = u;
	pthread_mutex_unlock(&users_lock);
	memcpy(ret_name, u.name, USER_TEXT);
}

void audit_prepare(uint32_t uid)
{
	char name[USER_TEXT];

	user_name(uid, name);
}

/* --- entries as text --- */

/* A JSON string of any bytes: those that are no UTF-8 become \xNN.  NULL: out of memory. */
static json_t *text_of(const char *s)
{
	json_t *json = json_string(s);

	if (json)
		return json;
	CLEANUP(free_ptr) char *copy = malloc(4 * strlen(s) + 1);
	if (!copy)
		return NULL;
	char *to = copy;
	for (; *s; s++) {
		if ((unsigned char)*s < 0x80)
			*to++ = *s;
		else
			to += sprintf(to, "\\x%02x", (unsigned char)*s);
	}
	*to = '\0';
	return json_string(copy);
}

/* SHA-256 over the hash of the entry before and the canonical text of this one, without "hash". */
static int hash_of(const char *prev, const char *text, char ret_hash[AUDIT_HASH_TEXT])
{
	unsigned char sum[EVP_MAX_MD_SIZE];
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();

	if (!ctx)
		return -ENOMEM;
	const bool good = EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) &&
	                  EVP_DigestUpdate(ctx, prev, strlen(prev)) &&
	                  EVP_DigestUpdate(ctx, text, strlen(text)) &&
	                  EVP_DigestFinal_ex(ctx, sum, NULL);
	EVP_MD_CTX_free(ctx);
	if (!good)
		return -EIO;
	for (unsigned i = 0; i < AUDIT_HASH_TEXT / 2; i++)
		sprintf(ret_hash + (size_t)2 * i, "%02x", sum[i]);
	return 0;
}

static bool hash_good(const char *hash)
{
	return hash && strlen(hash) == AUDIT_HASH_TEXT - 1 &&
	       strspn(hash, "0123456789abcdef") == AUDIT_HASH_TEXT - 1;
}

/* What the text claims to be its hash, taken out of the object; NULL: it is no entry. */
static json_t *entry_parse(const void *text, size_t len, char ret_hash[AUDIT_HASH_TEXT])
{
	json_t *json = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL);
	const char *hash = json_string_value(json_object_get(json, "hash"));

	if (!json_is_object(json) || !hash_good(hash)) {
		json_decref(json);
		return NULL;
	}
	memcpy(ret_hash, hash, AUDIT_HASH_TEXT);
	json_object_del(json, "hash");
	return json;
}

/* --- appending --- */

/* *ret_hash: of the last entry, "" when there is none, or when it is none. */
static int chain_end(struct ns *ns, uint64_t *ret_seq, char ret_hash[AUDIT_HASH_TEXT])
{
	struct bytes_out text = {0};
	uint64_t seq = 0;
	int r = ns_record_last(ns, RECORD_AUDIT, 0, &seq);

	ret_hash[0] = '\0';
	if (r == 0 && seq > 0)
		r = ns_record_get(ns, RECORD_AUDIT, 0, seq, &text);
	if (r < 0)
		return r;
	if (text.len > 0)
		json_decref(entry_parse(text.data, text.len, ret_hash));
	bytes_release(&text);
	*ret_seq = seq;
	return 0;
}

void audit_warm(struct ns *ns)
{
	char hash[AUDIT_HASH_TEXT];
	uint64_t seq = 0;

	(void)!chain_end(ns, &seq, hash); /* what fails here fails in the gate, too */
}

static json_t *entry_json(const struct audit_entry *e, uint64_t seq, const char *prev)
{
	char user[USER_TEXT];

	user_name(e->uid, user);
	return json_pack("{s:I, s:I, s:I, s:I, s:o, s:o, s:o, s:I, s:o, s:o, s:o, s:o, s:s}", "seq",
	        (json_int_t)seq, "time_ns", (json_int_t)clock_wall_ns(), "uid", (json_int_t)e->uid,
	        "pid", (json_int_t)e->pid, "user", text_of(user), "program", text_of(e->program),
	        "action", text_of(e->action), "inode", (json_int_t)e->inode, "target",
	        text_of(e->target), "type", text_of(e->type), "old", text_of(e->old_value), "new",
	        text_of(e->new_value), "prev", prev);
}

/* Adds the hash to the object.  The canonical text of it all is owned by the caller. */
static int entry_seal(
        json_t *json, const char *prev, char ret_hash[AUDIT_HASH_TEXT], char **ret_text)
{
	CLEANUP(free_ptr) char *bare = json_dumps(json, CANONICAL);

	if (!bare)
		return -ENOMEM;
	const int r = hash_of(prev, bare, ret_hash);
	if (r < 0)
		return r;
	if (json_object_set_new(json, "hash", json_string(ret_hash)) < 0)
		return -ENOMEM;
	*ret_text = json_dumps(json, CANONICAL);
	return *ret_text ? 0 : -ENOMEM;
}

int audit_append(struct ns *ns, const struct audit_entry *e, struct audit_mark *ret_mark)
{
	CLEANUP(free_ptr) char *text = NULL;
	char prev[AUDIT_HASH_TEXT];
	struct audit_mark mark = {0};
	int r = chain_end(ns, &mark.seq, prev);

	if (r < 0)
		return r;
	mark.seq++;
	json_t *json = entry_json(e, mark.seq, prev);
	r = json ? entry_seal(json, prev, mark.hash, &text) : -ENOMEM;
	json_decref(json);
	if (r == 0)
		r = ns_record_put(ns, RECORD_AUDIT, 0, mark.seq, text, strlen(text));
	if (r < 0)
		return r;
	snprintf(mark.action, sizeof(mark.action), "%s", e->action);
	if (ret_mark)
		*ret_mark = mark;
	return 0;
}

/* --- reading --- */

struct audit_walk {
	uint64_t inode;
	audit_fn *fn;
	void *arg;
};

static int walk_one(void *arg, uint64_t owner, uint64_t id, const void *value, size_t len)
{
	struct audit_walk *w = arg;
	json_t *json = json_loadb(value, len, JSON_REJECT_DUPLICATES, NULL);
	int r = 0;

	(void)owner;
	if (!json_is_object(json)) { /* somebody wrote over it: the list shows where */
		json_decref(json);
		json = json_pack("{s:I, s:s}", "seq", (json_int_t)id, "action", "(not readable)");
		if (!json)
			return -ENOMEM;
	}
	const json_int_t inode = json_integer_value(json_object_get(json, "inode"));
	if (w->inode == 0 || (uint64_t)inode == w->inode)
		r = w->fn(w->arg, json);
	json_decref(json);
	return r;
}

int audit_each(struct ns *ns, uint64_t inode, audit_fn *fn, void *arg)
{
	struct audit_walk w = {.inode = inode, .fn = fn, .arg = arg};

	return ns_record_each(ns, RECORD_AUDIT, 0, 0, walk_one, &w);
}

/* --- verifying --- */

struct verify {
	const char *expect; /* or NULL */
	struct audit_verdict v;
};

static int bad(struct verify *vf, uint64_t seq, const char *why)
{
	vf->v.bad_seq = seq;
	snprintf(vf->v.why, sizeof(vf->v.why), "%s", why);
	return 0;
}

/* claimed: the hash that the entry itself gives; stored: the whole text of the row. */
static int verify_entry(struct verify *vf, uint64_t seq, json_t *json, const char *claimed,
        const void *stored, size_t len)
{
	const char *prev = json_string_value(json_object_get(json, "prev"));
	const json_t *number = json_object_get(json, "seq");
	CLEANUP(free_ptr) char *bare = json_dumps(json, CANONICAL);
	CLEANUP(free_ptr) char *whole = NULL;
	char hash[AUDIT_HASH_TEXT];

	if (!bare || json_object_set_new(json, "hash", json_string(claimed)) < 0)
		return -ENOMEM;
	whole = json_dumps(json, CANONICAL);
	if (!whole)
		return -ENOMEM;
	if (!json_is_integer(number) || (uint64_t)json_integer_value(number) != seq)
		return bad(vf, seq, "it carries another number");
	if (!prev || strcmp(prev, vf->v.head) != 0)
		return bad(vf, seq, "it does not continue the entry before it");
	const int r = hash_of(vf->v.head, bare, hash);
	if (r < 0)
		return r;
	if (strcmp(hash, claimed) != 0)
		return bad(vf, seq, "its hash does not match what it says");
	if (strlen(whole) != len || memcmp(whole, stored, len) != 0)
		return bad(vf, seq, "its text is not as it was written");
	return 0;
}

static int verify_one(void *arg, uint64_t owner, uint64_t id, const void *value, size_t len)
{
	struct verify *vf = arg;
	const uint64_t seq = ++vf->v.entries;
	char claimed[AUDIT_HASH_TEXT] = "";
	int r = 0;

	json_t *json = entry_parse(value, len, claimed);
	if (vf->v.bad_seq)
		r = 0; /* nothing behind the break can be told apart from a forgery */
	else if (owner != 0)
		r = bad(vf, seq, "there is a row that is no entry of the trail");
	else if (id != seq)
		r = bad(vf, seq, id > seq ? "it is missing" : "it has a number below 1");
	else if (!json)
		r = bad(vf, seq, "it is no audit entry");
	else
		r = verify_entry(vf, seq, json, claimed, value, len);
	json_decref(json);
	memcpy(vf->v.head, claimed, sizeof(claimed));
	if (r == 0 && !vf->v.bad_seq && vf->expect && !strcmp(vf->expect, claimed))
		vf->v.expected_found = true;
	return r;
}

int audit_verify(struct ns *ns, const char *expect, struct audit_verdict *ret_verdict)
{
	struct verify vf = {.expect = expect};
	const int r = ns_record_each_owner(ns, RECORD_AUDIT, verify_one, &vf);

	if (r == 0)
		*ret_verdict = vf.v;
	return r;
}

/*
 * keys-private.h - what the parts of the keys share; private to fs/filter
 *
 *	keys.c         the named keys: rows, which domain is unlocked, what the manager asks
 *	keys-slots.c   secrets, and the slots that they open
 *	keys-change.c  create, add, remove, delete: changes of rows
 *	keys-unlock.c  unlock, lock
 *	keys-rotate.c  rotation, and the end of an old domain
 *	keys-list.c    the list of keys
 *	keys-ops.c     the requests of the control socket
 *	keys-env.c     the environment as the manager gives it
 *	keys-import.c  keys that come with what was sealed elsewhere, and go with what is sealed here
 *
 * Lock order: keys.op_lock (one operation at a time; held while scrypt runs), manager.lock and what
 * comes after it (manager-private.h), keys.lock (a state lock: nothing is taken while it is held).
 */
#pragma once

#include <jansson.h>
#include <pthread.h>

#include "crypto/keyslot.h"
#include "fs/filter/keys.h"
#include "fs/filter/manager.h"
#include "store/keyring.h"

#define KEYS_NAME_MAX    64u
#define KEYS_DOMAINS_MAX 4u  /* of a key: the one in use, and those that it is rotated from */
#define KEYS_SLOTS_MAX   16u /* of a key */
#define KEYS_MAX         4096u

/*
 * What keys need of the rest: a table, so that they can be tested with rows and keys that are real
 * and a store that is not.
 */
struct keys_env {
	struct ns *ns;           /* not owned */
	struct keyring *keyring; /* not owned */
	const char *dir;         /* of the datastore, for messages; not owned */
	bool read_only;
	void *arg;
	/* manager.lock, around everything that must not meet a change of a stack. */
	void (*lock)(void *arg);
	void (*unlock)(void *arg);
	/* Inside it: one gate section; rows and the audit entry come between. */
	int (*begin)(void *arg, struct errmsg *em);
	int (*audit)(void *arg, const struct filter_caller *who, const char *action,
	        const char *key, const char *old_value, const char *new_value);
	void (*end)(void *arg);
	int (*flush)(void *arg);           /* rows so far are durable */
	int (*wipe_rows)(void *arg);       /* what deleted rows held is overwritten */
	int (*protect)(struct errmsg *em); /* keyring_protect */
	/* The store's part of unlocking and locking a domain (store.h). */
	int (*domain_unlocked)(void *arg, uint32_t domain);
	int (*domain_lock)(void *arg, uint32_t domain);
	/* A key is unlocked: what waits for one is tried again.  May be NULL. */
	void (*unlocked)(void *arg);
	/* Is this image open, or at work in the background?  Inside the lock. */
	bool (*image_open)(void *arg, uint64_t ino);
	void (*path_of)(void *arg, uint64_t ino, char *buf, size_t cap);
	/* Nothing held: nothing of this image stays in the kernel's page cache. */
	void (*forget_pages)(void *arg, uint64_t ino);
	/* Inside the lock: change_domain of manager-private.h. */
	int (*move)(void *arg, const struct filter_caller *who, uint64_t ino, uint32_t from,
	        uint32_t to, struct errmsg *em);
	/* Nothing held: until no job of this link is left. */
	int (*wait)(void *arg, uint64_t ino, uint64_t link, gc_progress_fn *fn, void *fn_arg,
	        struct errmsg *em);
};

struct key_domain {
	uint32_t id;
	bool unlocked; /* its images may be opened */
	/* It came from another datastore: this domain of it; the slots are bound to slots_domain. */
	uint8_t origin_uuid[16];
	uint32_t origin, slots_domain; /* 0: it was made here */
};

struct named_key {
	uint64_t number; /* of its row */
	char name[KEYS_NAME_MAX + 1];
	uint64_t created_ns;
	unsigned n_domains;                          /* 1 at least */
	struct key_domain domains[KEYS_DOMAINS_MAX]; /* [0]: what new data is stored in */
};

struct keys {
	struct keys_env env;
	pthread_mutex_t op_lock;
	pthread_mutex_t lock;   /* guards what follows */
	struct named_key *list; /* owned; in order of number */
	unsigned n;
	bool protected; /* op_lock: env.protect succeeded */
};

/* --- keys.c --- */
int keys_open(const struct keys_env *env, struct keys **ret_keys, struct errmsg *em) MUST_CHECK;
/* A copy.  -EINVAL: NULL or no name; -ENOENT; with em. */
int keys_find(
        struct keys *k, const char *name, struct named_key *ret_key, struct errmsg *em) MUST_CHECK;
/* The key that has this domain, as the current one or an old one.  -ENOENT. */
int keys_find_domain(struct keys *k, uint32_t domain, struct named_key *ret_key) MUST_CHECK;
bool key_name_good(const char *name);
/* After its row was put or deleted.  -ENOMEM, -ENOSPC: more than KEYS_MAX; never of one there is. */
int keys_set(struct keys *k, const struct named_key *key) MUST_CHECK;
void keys_unset(struct keys *k, uint64_t number);
void keys_mark(struct keys *k, uint32_t domain, bool unlocked);
int keys_domain_of(
        struct keys *k, const char *name, uint32_t *ret_domain, struct errmsg *em) MUST_CHECK;
int keys_domain_usable(struct keys *k, uint32_t domain, struct errmsg *em) MUST_CHECK;

/* The row's text, malloc'ed; NULL: no memory. */
char *key_encode(const struct named_key *key);
/* Any bytes; number is left alone, all domains are locked.  -EUCLEAN. */
int key_decode(const void *value, size_t len, struct named_key *ret_key) MUST_CHECK;

/* key-list; k NULL: without a daemon, all are locked. */
int keys_json(struct ns *ns, struct keys *k, json_t **ret_json) MUST_CHECK;

/* A row of a change; value NULL: it goes. */
struct key_row {
	enum record_table table;
	uint64_t owner, id;
	const void *value; /* not owned */
	size_t len;
};
#define KEY_ROWS_MAX (KEYS_DOMAINS_MAX * KEYS_SLOTS_MAX + 2)
struct key_note {                        /* for the audit trail; never key material */
	const struct filter_caller *who; /* NULL: the daemon */
	const char *action, *key, *old_value, *new_value;
};
/* Inside env.lock: the rows and the audit entry in one group.  Not durable yet. */
int keys_rows(struct keys *k, const struct key_note *note, const struct key_row *rows, unsigned n,
        struct errmsg *em) MUST_CHECK;
/*
 * Slots were deleted: nothing of them may stay.  Nothing held (it may wait for a wipe under way).
 * A failure is logged: they are gone from the rows, at least.
 */
void keys_wipe_rows(struct keys *k);
/* An audit entry alone, where it can be written; a failure is logged. */
void keys_note(struct keys *k, const struct key_note *note);

/* Who uses a domain: attachments, and jobs that take an image out of it. */
struct key_uses {
	uint64_t ino, link; /* the first that was found; 0: none */
	unsigned images;    /* regular files with an attachment */
	unsigned n;
};
int keys_uses(struct keys *k, const struct named_key *key, uint32_t domain,
        struct key_uses *ret_uses) MUST_CHECK;
typedef int key_attachment_fn(void *arg, uint64_t ino, uint64_t link, uint32_t domain);
/* Attachments of crypto domains, in order of inode. */
int keys_attachments(struct ns *ns, key_attachment_fn *fn, void *arg) MUST_CHECK;

/* --- keys-slots.c --- */
struct secret {
	enum keyslot_kind kind;
	uint8_t *data; /* owned, wiped */
	size_t len;
};
/* From a request: kind by name, base64.  -EINVAL with em. */
int secret_parse(
        const char *kind, const char *base64, struct secret *ret_s, struct errmsg *em) MUST_CHECK;
void secret_release(struct secret *s);
const char *keyslot_kind_name(enum keyslot_kind kind);

struct key_slots {
	unsigned n;
	struct key_slot {
		unsigned slot;
		enum keyslot_kind kind; /* 0: it cannot be read */
	} slots[KEYS_SLOTS_MAX];
};
int slots_list(struct ns *ns, uint32_t domain, struct key_slots *ret_slots) MUST_CHECK;
/* The slot of a domain that this secret opens.  -EKEYREJECTED; takes half a second a passphrase. */
int slots_open(struct ns *ns, const struct key_domain *domain, const struct secret *s,
        unsigned *ret_slot, uint8_t ret_data_key[SEAL_KEY_LEN]) MUST_CHECK;
/* The domain that its slots are bound to (keyslot.h). */
uint32_t slots_domain(const struct key_domain *domain);
/* A number that none of the key's domains uses.  -ENOSPC with em. */
int slots_free(struct ns *ns, const struct named_key *key, unsigned *ret_slot,
        struct errmsg *em) MUST_CHECK;

/* --- between the operations; op_lock held --- */
/* Before the first key is in memory. */
int keys_protect(struct keys *k, struct errmsg *em) MUST_CHECK;
/* A number for a row or a domain. */
int keys_number(struct keys *k, uint32_t *ret_number, struct errmsg *em) MUST_CHECK;
/* Says why slots_open failed; returns err. */
int key_refuse_secret(const char *name, const struct secret *s, int err, struct errmsg *em);
/* The domain's key leaves the memory; 0 also when it is not there.  env.lock held. */
int key_domain_forget(struct keys *k, uint32_t domain, struct errmsg *em) MUST_CHECK;

/* --- operations; each takes op_lock --- */
int key_create(struct keys *k, const struct filter_caller *who, const char *name,
        const struct secret *s, json_t **ret_json, struct errmsg *em) MUST_CHECK;
int key_unlock(struct keys *k, const struct filter_caller *who, const char *name,
        const struct secret *s, json_t **ret_json, struct errmsg *em) MUST_CHECK;
int key_lock(struct keys *k, const struct filter_caller *who, const char *name, json_t **ret_json,
        struct errmsg *em) MUST_CHECK;
/* with NULL: a recovery key is made, and its text is in the result. */
int key_add(struct keys *k, const struct filter_caller *who, const char *name,
        const struct secret *s, const struct secret *with, json_t **ret_json,
        struct errmsg *em) MUST_CHECK;
int key_remove(struct keys *k, const struct filter_caller *who, const char *name, uint64_t slot,
        struct errmsg *em) MUST_CHECK;
int key_delete(struct keys *k, const struct filter_caller *who, const char *name,
        struct errmsg *em) MUST_CHECK;
/*
 * Each secret opens a slot of the key now, and opens it afterwards; the other slots are dropped.
 * n: 1..KEYS_SLOTS_MAX.  wait: until all images are in the new domain.
 */
int key_rotate(struct keys *k, const struct filter_caller *who, const char *name,
        const struct secret *secrets, unsigned n, bool wait, gc_progress_fn *fn, void *fn_arg,
        json_t **ret_json, struct errmsg *em) MUST_CHECK;
/* keys_import(); the key that it is. */
int key_import(struct keys *k, const struct filter_caller *who, const struct raw_key *rk,
        struct named_key *ret_key, uint32_t *ret_domain, struct errmsg *em) MUST_CHECK;
/* A domain that a key is rotated from: gone, if nothing needs it any more.  With op_lock held. */
int key_domain_settle(struct keys *k, uint32_t domain) MUST_CHECK;
/* Goes on with a rotation that was cut off: images still in old domains are moved.  op_lock held. */
int key_rotate_resume(struct keys *k, const struct filter_caller *who, const char *name,
        struct errmsg *em) MUST_CHECK;

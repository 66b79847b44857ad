/*
 * keys-world.h - for the tests of keys: real rows, slots and keyring, with a made-up rest
 *
 * The store and the manager are a table of functions here, which records what the keys ask for, and
 * fails where a test says so.
 */
#pragma once

#include <sys/stat.h>

#include "base/bytes.h"
#include "fs/filter/keys-private.h"
#include "meta/audit.h"
#include "ns-engine.h"

enum { IMAGES_MAX = 16 };

struct world {
	struct engine e;
	struct keyring *kr;
	struct keys *k;
	bool read_only;
	unsigned locked, in_gate, protects, unlocks, locks, moves, waits;
	uint64_t open_ino;          /* is open */
	uint64_t forgotten;         /* the kernel's pages of it, last */
	uint32_t forget_domain;     /* whose key must be gone by then */
	uint64_t moved[IMAGES_MAX]; /* in order */
	int fail_move, fail_unlocked;
	uint64_t born; /* is made in directory 2 while the first image moves */
};

static const struct filter_caller root = {.uid = 0, .pid = 99};

/* --- the environment --- */

static inline void w_lock(void *arg)
{
	struct world *w = arg;

	assert_int_equal(w->locked++, 0);
}

static inline void w_unlock(void *arg)
{
	struct world *w = arg;

	assert_int_equal(--w->locked, 0);
}

static inline int w_begin(void *arg, struct errmsg *em)
{
	struct world *w = arg;

	assert_int_equal(w->locked, 1);
	assert_int_equal(w->in_gate++, 0);
	if (!w->read_only)
		return 0;
	w->in_gate--;
	return errmsg_set(em, -EROFS, "read-only");
}

static inline void w_end(void *arg)
{
	((struct world *)arg)->in_gate--;
}

static inline int w_audit(void *arg, const struct filter_caller *who, const char *action,
        const char *key, const char *old_value, const char *new_value)
{
	struct world *w = arg;
	const struct audit_entry entry = {.uid = who ? who->uid : 0,
	        .pid = who ? who->pid : 0,
	        .program = "weir",
	        .action = action,
	        .target = "",
	        .type = key,
	        .old_value = old_value ? old_value : "",
	        .new_value = new_value ? new_value : ""};

	assert_int_equal(w->in_gate, 1);
	return audit_append(w->e.ns, &entry, NULL);
}

static inline int w_wipe_rows(void *arg)
{
	(void)arg;
	return 0;
}

static inline int w_flush(void *arg)
{
	struct world *w = arg;

	engine_freeze(&w->e);
	return engine_commit(&w->e);
}

static inline int w_protect(struct errmsg *em)
{
	(void)em;
	return 0;
}

static inline int w_domain_unlocked(void *arg, uint32_t domain)
{
	struct world *w = arg;

	assert_true(keyring_has(w->kr, domain));
	w->unlocks++;
	return w->fail_unlocked;
}

static inline int w_domain_lock(void *arg, uint32_t domain)
{
	struct world *w = arg;

	assert_true(keyring_has(w->kr, domain)); /* it is needed for the last commit */
	w->locks++;
	return 0;
}

static inline bool w_image_open(void *arg, uint64_t ino)
{
	return ((struct world *)arg)->open_ino == ino;
}

static inline void w_path_of(void *arg, uint64_t ino, char *buf, size_t cap)
{
	(void)arg;
	snprintf(buf, cap, "image-%llu", (unsigned long long)ino);
}

static inline void w_forget_pages(void *arg, uint64_t ino)
{
	struct world *w = arg;

	assert_int_equal(w->locked, 0);
	if (w->forget_domain)
		assert_false(keyring_has(w->kr, w->forget_domain));
	w->forgotten = ino;
}

static inline void attach(struct world *w, uint64_t ino, uint32_t domain)
{
	char text[128];

	snprintf(text, sizeof(text), "{\"domain\":%u,\"settings\":[\"key=k\"]}", domain);
	assert_int_equal(ns_record_put(w->e.ns, RECORD_ATTACHMENT, ino, 1, text, strlen(text)), 0);
}

/* Domains that an image leaves add up until its job is done. */
static inline void job(struct world *w, uint64_t ino, uint32_t from)
{
	struct bytes_out was = {0};
	json_t *json = NULL;

	if (ns_record_get(w->e.ns, RECORD_JOB, ino, 1, &was) == 0)
		json = json_loadb((char *)was.data, was.len, 0, NULL);
	bytes_release(&was);
	if (!json)
		json = json_pack("{s:[]}", "from");
	json_array_append_new(json_object_get(json, "from"), json_integer(from));
	char *text = json_dumps(json, 0);
	assert_int_equal(ns_record_put(w->e.ns, RECORD_JOB, ino, 1, text, strlen(text)), 0);
	free(text);
	json_decref(json);
}

static inline void job_done(struct world *w, uint64_t ino)
{
	assert_int_equal(ns_record_del(w->e.ns, RECORD_JOB, ino, 1), 0);
}

static inline void make(struct world *w, uint64_t ino, uint32_t type)
{
	const struct ns_inode inode = {.ino = ino, .mode = type | 0600};

	assert_int_equal(ns_inode_put(w->e.ns, &inode), 0);
}

static inline int w_move(void *arg, const struct filter_caller *who, uint64_t ino, uint32_t from,
        uint32_t to, struct errmsg *em)
{
	struct world *w = arg;
	struct ns_inode inode;

	(void)who;
	assert_int_equal(w->locked, 1);
	if (w->fail_move && --w->fail_move == 0)
		return errmsg_set(em, -EIO, "cannot move");
	assert_int_equal(ns_inode_get(w->e.ns, ino, &inode), 0);
	attach(w, ino, to);
	if (S_ISREG(inode.mode)) {
		job(w, ino, from);
		if (w->born) { /* it inherited before the directory's row changed */
			make(w, w->born, S_IFREG);
			attach(w, w->born, from);
			w->born = 0;
		}
	}
	assert_true(w->moves < IMAGES_MAX);
	w->moved[w->moves++] = ino;
	return 0;
}

static inline int w_wait(
        void *arg, uint64_t ino, uint64_t link, gc_progress_fn *fn, void *fn_arg, struct errmsg *em)
{
	struct world *w = arg;

	(void)fn, (void)fn_arg, (void)em;
	assert_int_equal(w->locked, 0);
	assert_int_equal(link, 1);
	job_done(w, ino);
	w->waits++;
	return 0;
}

static inline void keys_start(struct world *w)
{
	const struct keys_env env = {.ns = w->e.ns,
	        .keyring = w->kr,
	        .dir = "/ds",
	        .read_only = w->read_only,
	        .arg = w,
	        .lock = w_lock,
	        .unlock = w_unlock,
	        .begin = w_begin,
	        .audit = w_audit,
	        .end = w_end,
	        .flush = w_flush,
	        .wipe_rows = w_wipe_rows,
	        .protect = w_protect,
	        .domain_unlocked = w_domain_unlocked,
	        .domain_lock = w_domain_lock,
	        .image_open = w_image_open,
	        .path_of = w_path_of,
	        .forget_pages = w_forget_pages,
	        .move = w_move,
	        .wait = w_wait};
	struct errmsg em = {""};

	assert_int_equal(keys_open(&env, &w->k, &em), 0);
}

static inline void keyring_start(struct world *w)
{
	struct store_state s;

	assert_int_equal(w->e.m->ops->state_get(w->e.m, &s), 0);
	assert_int_equal(keyring_new(s.uuid, s.domain_key, &w->kr), 0);
}

static inline void world_open(struct world *w)
{
	memset(w, 0, sizeof(*w));
	engine_open(&w->e);
	keyring_start(w);
	keys_start(w);
}

static inline void world_close(struct world *w)
{
	keys_free(w->k);
	keyring_free(w->kr);
	engine_close(&w->e);
}

/* A crash and a mount: rows from the log, no key in memory. */
static inline void world_crash(struct world *w)
{
	keys_free(w->k);
	keyring_free(w->kr);
	engine_reopen(&w->e);
	keyring_start(w);
	keys_start(w);
}

/* --- secrets and operations --- */

static inline struct secret file_secret(const char *what)
{
	struct secret s = {KEYSLOT_FILE, malloc(64), 64};

	assert_non_null(s.data);
	memset(s.data, 'x', s.len);
	memcpy(s.data, what, strlen(what));
	return s;
}

static inline int unlock_with(struct world *w, const char *what, struct errmsg *em)
{
	struct secret s = file_secret(what);
	json_t *json = NULL;
	const int r = key_unlock(w->k, &root, "k", &s, &json, em);

	json_decref(json);
	secret_release(&s);
	return r;
}

static inline int lock_it(struct world *w, struct errmsg *em)
{
	json_t *json = NULL;
	const int r = key_lock(w->k, &root, "k", &json, em);

	json_decref(json);
	return r;
}

static inline int create_key(struct world *w, const char *name, const char *what, struct errmsg *em)
{
	struct secret s = file_secret(what);
	json_t *json = NULL;
	const int r = key_create(w->k, &root, name, &s, &json, em);

	json_decref(json);
	secret_release(&s);
	return r;
}

/* Creates key "k"; its domain. */
static inline uint32_t create(struct world *w, const char *what)
{
	struct errmsg em = {""};
	uint32_t domain = 0;

	if (create_key(w, "k", what, &em) < 0)
		fail_msg("%s", em.text);
	assert_int_equal(keys_domain_of(w->k, "k", &domain, &em), 0);
	return domain;
}

static inline int add_slot(struct world *w, const char *what, const char *more, struct errmsg *em)
{
	struct secret s = file_secret(what), with = file_secret(more);
	json_t *json = NULL;
	const int r = key_add(w->k, &root, "k", &s, &with, &json, em);
	const int slot = (int)json_integer_value(json_object_get(json, "slot"));

	json_decref(json);
	secret_release(&s);
	secret_release(&with);
	return r < 0 ? r : slot;
}

static inline int rotate(
        struct world *w, const char *what, bool wait, json_t **ret_json, struct errmsg *em)
{
	struct secret s = file_secret(what);
	const int r = key_rotate(w->k, &root, "k", &s, 1, wait, NULL, NULL, ret_json, em);

	secret_release(&s);
	return r;
}

static inline uint32_t domain_now(struct world *w)
{
	struct named_key key;
	struct errmsg em;

	assert_int_equal(keys_find(w->k, "k", &key, &em), 0);
	return key.domains[0].id;
}

static inline unsigned slots_of(struct world *w, uint32_t domain)
{
	struct key_slots list = {0};

	assert_int_equal(slots_list(w->e.ns, domain, &list), 0);
	return list.n;
}

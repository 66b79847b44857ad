/*
 * test-keys.c - named keys: created, unlocked, given slots, rotated, deleted
 *
 * Rows, slots and keyring are real.  The store and the manager are a table of functions here, which
 * records what the keys ask for, and fails where a test says so.
 */
#include <sys/stat.h>

#include "fs/control/base64.h"
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
	uint64_t moved[IMAGES_MAX]; /* in order */
	int fail_move, fail_unlocked;
	uint64_t born; /* is made in directory 2 while the first image moves */
};

static const struct filter_caller root = {.uid = 0, .pid = 99};

/* --- the environment --- */

static void w_lock(void *arg)
{
	struct world *w = arg;

	assert_int_equal(w->locked++, 0);
}

static void w_unlock(void *arg)
{
	struct world *w = arg;

	assert_int_equal(--w->locked, 0);
}

static int w_begin(void *arg, struct errmsg *em)
{
	struct world *w = arg;

	assert_int_equal(w->locked, 1);
	assert_int_equal(w->in_gate++, 0);
	if (!w->read_only)
		return 0;
	w->in_gate--;
	return errmsg_set(em, -EROFS, "read-only");
}

static void w_end(void *arg)
{
	((struct world *)arg)->in_gate--;
}

static int w_audit(void *arg, const struct filter_caller *who, const char *action, const char *key,
        const char *old_value, const char *new_value)
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
	return audit_append(w->e.ns, &entry);
}

static int w_flush(void *arg)
{
	struct world *w = arg;

	engine_freeze(&w->e);
	return engine_commit(&w->e);
}

static int w_protect(struct errmsg *em)
{
	(void)em;
	return 0;
}

static int w_domain_unlocked(void *arg, uint32_t domain)
{
	struct world *w = arg;

	assert_true(keyring_has(w->kr, domain));
	w->unlocks++;
	return w->fail_unlocked;
}

static int w_domain_lock(void *arg, uint32_t domain)
{
	struct world *w = arg;

	assert_true(keyring_has(w->kr, domain)); /* it is needed for the last commit */
	w->locks++;
	return 0;
}

static bool w_image_open(void *arg, uint64_t ino)
{
	return ((struct world *)arg)->open_ino == ino;
}

static void w_path_of(void *arg, uint64_t ino, char *buf, size_t cap)
{
	(void)arg;
	snprintf(buf, cap, "image-%llu", (unsigned long long)ino);
}

static void attach(struct world *w, uint64_t ino, uint32_t domain)
{
	char text[128];

	snprintf(text, sizeof(text), "{\"domain\":%u,\"settings\":[\"key=k\"]}", domain);
	assert_int_equal(ns_record_put(w->e.ns, RECORD_ATTACHMENT, ino, 1, text, strlen(text)), 0);
}

/* Domains that an image leaves add up until its job is done. */
static void job(struct world *w, uint64_t ino, uint32_t from)
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

static void job_done(struct world *w, uint64_t ino)
{
	assert_int_equal(ns_record_del(w->e.ns, RECORD_JOB, ino, 1), 0);
}

static void make(struct world *w, uint64_t ino, uint32_t type)
{
	const struct ns_inode inode = {.ino = ino, .mode = type | 0600};

	assert_int_equal(ns_inode_put(w->e.ns, &inode), 0);
}

static int w_move(void *arg, const struct filter_caller *who, uint64_t ino, uint32_t from,
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

static int w_wait(
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

static void keys_start(struct world *w)
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
	        .protect = w_protect,
	        .domain_unlocked = w_domain_unlocked,
	        .domain_lock = w_domain_lock,
	        .image_open = w_image_open,
	        .path_of = w_path_of,
	        .move = w_move,
	        .wait = w_wait};
	struct errmsg em = {""};

	assert_int_equal(keys_open(&env, &w->k, &em), 0);
}

static void keyring_start(struct world *w)
{
	struct store_state s;

	assert_int_equal(w->e.m->ops->state_get(w->e.m, &s), 0);
	assert_int_equal(keyring_new(s.uuid, s.domain_key, &w->kr), 0);
}

static void world_open(struct world *w)
{
	memset(w, 0, sizeof(*w));
	engine_open(&w->e);
	keyring_start(w);
	keys_start(w);
}

static void world_close(struct world *w)
{
	keys_free(w->k);
	keyring_free(w->kr);
	engine_close(&w->e);
}

/* A crash and a mount: rows from the log, no key in memory. */
static void world_crash(struct world *w)
{
	keys_free(w->k);
	keyring_free(w->kr);
	engine_reopen(&w->e);
	keyring_start(w);
	keys_start(w);
}

/* --- secrets and operations --- */

static struct secret file_secret(const char *what)
{
	struct secret s = {KEYSLOT_FILE, malloc(64), 64};

	assert_non_null(s.data);
	memset(s.data, 'x', s.len);
	memcpy(s.data, what, strlen(what));
	return s;
}

static int unlock_with(struct world *w, const char *what, struct errmsg *em)
{
	struct secret s = file_secret(what);
	json_t *json = NULL;
	const int r = key_unlock(w->k, &root, "k", &s, &json, em);

	json_decref(json);
	secret_release(&s);
	return r;
}

static int lock_it(struct world *w, struct errmsg *em)
{
	json_t *json = NULL;
	const int r = key_lock(w->k, &root, "k", &json, em);

	json_decref(json);
	return r;
}

static int create_key(struct world *w, const char *name, const char *what, struct errmsg *em)
{
	struct secret s = file_secret(what);
	json_t *json = NULL;
	const int r = key_create(w->k, &root, name, &s, &json, em);

	json_decref(json);
	secret_release(&s);
	return r;
}

/* Creates key "k"; its domain. */
static uint32_t create(struct world *w, const char *what)
{
	struct errmsg em = {""};
	uint32_t domain = 0;

	if (create_key(w, "k", what, &em) < 0)
		fail_msg("%s", em.text);
	assert_int_equal(keys_domain_of(w->k, "k", &domain, &em), 0);
	return domain;
}

static int add_slot(struct world *w, const char *what, const char *more, struct errmsg *em)
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

static int rotate(
        struct world *w, const char *what, bool wait, json_t **ret_json, struct errmsg *em)
{
	struct secret s = file_secret(what);
	const int r = key_rotate(w->k, &root, "k", &s, wait, NULL, NULL, ret_json, em);

	secret_release(&s);
	return r;
}

static uint32_t domain_now(struct world *w)
{
	struct named_key key;
	struct errmsg em;

	assert_int_equal(keys_find(w->k, "k", &key, &em), 0);
	return key.domains[0].id;
}

static unsigned slots_of(struct world *w, uint32_t domain)
{
	struct key_slots list = {0};

	assert_int_equal(slots_list(w->e.ns, domain, &list), 0);
	return list.n;
}

/* --- create, unlock, lock --- */

static void test_a_new_key_is_unlocked_and_locked_after_a_mount(void **state)
{
	struct world w;
	struct errmsg em = {""};
	uint32_t got = 0;

	world_open(&w);
	const uint32_t domain = create(&w, "secret");
	assert_true(domain > 0);
	assert_true(keyring_has(w.kr, domain));
	assert_int_equal(slots_of(&w, domain), 1);
	assert_int_equal(keys_domain_usable(w.k, domain, &em), 0);
	assert_int_equal(keys_domain_usable(w.k, 0, &em), 0);
	assert_int_equal(create_key(&w, "k", "other", &em), -EEXIST);
	world_crash(&w);
	assert_false(keyring_has(w.kr, domain));
	assert_int_equal(keys_domain_of(w.k, "k", &got, &em), -ENOKEY);
	assert_string_equal(em.text, "key 'k' is locked (weir key unlock /ds k)");
	assert_int_equal(keys_domain_usable(w.k, domain, &em), -ENOKEY);
	assert_string_equal(em.text, "key 'k' is locked (weir key unlock /ds k)");
	assert_int_equal(keys_domain_usable(w.k, domain + 1, &em), -ENOKEY);
	assert_non_null(strstr(em.text, "belongs to no key"));
	assert_int_equal(unlock_with(&w, "wrong", &em), -EKEYREJECTED);
	assert_string_equal(em.text, "this key file does not open key 'k'");
	assert_int_equal(keys_domain_of(w.k, "k", &got, &em), -ENOKEY);
	assert_false(keyring_has(w.kr, domain));
	assert_int_equal(unlock_with(&w, "secret", &em), 0);
	assert_int_equal(w.unlocks, 1);
	assert_int_equal(keys_domain_of(w.k, "k", &got, &em), 0);
	assert_int_equal(got, domain);
	assert_int_equal(unlock_with(&w, "secret", &em), 0);            /* again: nothing */
	assert_int_equal(unlock_with(&w, "wrong", &em), -EKEYREJECTED); /* but still checked */
	assert_int_equal(w.unlocks, 1);
	world_close(&w);
}

static void test_names_are_checked(void **state)
{
	static const char *const bad[] = {"", "a b", "a:b", "-a", "a/b", "a,b"};
	struct world w;
	struct errmsg em;
	uint32_t domain = 0;

	world_open(&w);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(create_key(&w, bad[i], "s", &em), -EINVAL);
	assert_int_equal(keys_domain_of(w.k, NULL, &domain, &em), -EINVAL);
	assert_int_equal(keys_domain_of(w.k, "none", &domain, &em), -ENOENT);
	assert_string_equal(em.text, "there is no key 'none' (weir key create /ds none)");
	world_close(&w);
}

static void test_a_passphrase_opens_its_key_and_a_file_of_the_same_bytes_does_not(void **state)
{
	struct world w;
	struct errmsg em = {""};
	struct secret s = {0};
	json_t *json = NULL;

	world_open(&w);
	assert_int_equal(secret_parse("passphrase", "Y29ycmVjdCBob3JzZQ==", &s, &em), 0);
	assert_int_equal(s.len, 13);
	assert_memory_equal(s.data, "correct horse", 13);
	assert_int_equal(key_create(w.k, &root, "k", &s, &json, &em), 0);
	json_decref(json);
	world_crash(&w);
	s.kind = KEYSLOT_FILE;
	assert_int_equal(key_unlock(w.k, &root, "k", &s, &json, &em), -EKEYREJECTED);
	s.kind = KEYSLOT_PASSPHRASE;
	assert_int_equal(key_unlock(w.k, &root, "k", &s, &json, &em), 0);
	json_decref(json);
	secret_release(&s);
	world_close(&w);
}

static void test_a_key_in_use_is_not_locked(void **state)
{
	struct world w;
	struct errmsg em = {""};

	world_open(&w);
	const uint32_t domain = create(&w, "secret");
	make(&w, 5, S_IFREG);
	attach(&w, 5, domain);
	w.open_ino = 5;
	assert_int_equal(lock_it(&w, &em), -EBUSY);
	assert_non_null(strstr(em.text, "'image-5' is open"));
	assert_int_equal(keys_domain_usable(w.k, domain, &em), 0); /* as before */
	w.open_ino = 0;
	job(&w, 5, 0);
	assert_int_equal(lock_it(&w, &em), -EBUSY);
	job_done(&w, 5);
	assert_int_equal(w.locks, 0);
	assert_int_equal(lock_it(&w, &em), 0);
	assert_int_equal(w.locks, 1);
	assert_false(keyring_has(w.kr, domain));
	assert_int_equal(keys_domain_usable(w.k, domain, &em), -ENOKEY);
	assert_int_equal(lock_it(&w, &em), 0); /* again: nothing */
	assert_int_equal(w.locks, 1);
	world_close(&w);
}

static void test_what_the_store_cannot_take_is_not_unlocked(void **state)
{
	struct world w;
	struct errmsg em = {""};

	world_open(&w);
	const uint32_t domain = create(&w, "secret");
	assert_int_equal(lock_it(&w, &em), 0);
	w.fail_unlocked = -EIO;
	assert_int_equal(unlock_with(&w, "secret", &em), -EIO);
	assert_int_equal(keys_domain_usable(w.k, domain, &em), -ENOKEY);
	assert_false(keyring_has(w.kr, domain));
	w.fail_unlocked = 0;
	assert_int_equal(unlock_with(&w, "secret", &em), 0);
	world_close(&w);
}

static void test_a_read_only_datastore_can_be_unlocked_and_nothing_else(void **state)
{
	struct world w;
	struct errmsg em = {""};

	world_open(&w);
	create(&w, "secret");
	w.read_only = true;
	world_crash(&w);
	assert_int_equal(unlock_with(&w, "secret", &em), 0);
	assert_int_equal(add_slot(&w, "secret", "more", &em), -EROFS);
	assert_int_equal(create_key(&w, "l", "secret", &em), -EROFS);
	assert_int_equal(lock_it(&w, &em), 0);
	world_close(&w);
}

/* --- slots --- */

static void test_each_slot_opens_the_key_until_it_is_removed(void **state)
{
	struct world w;
	struct errmsg em = {""};

	world_open(&w);
	create(&w, "one");
	assert_int_equal(add_slot(&w, "wrong", "two", &em), -EKEYREJECTED);
	assert_int_equal(add_slot(&w, "one", "two", &em), 1);
	assert_int_equal(add_slot(&w, "two", "three", &em), 2);
	assert_int_equal(lock_it(&w, &em), 0);
	assert_int_equal(unlock_with(&w, "three", &em), 0);
	assert_int_equal(key_remove(w.k, &root, "k", 7, &em), -ENOENT);
	assert_int_equal(key_remove(w.k, &root, "k", 0, &em), 0);
	assert_int_equal(unlock_with(&w, "one", &em), -EKEYREJECTED);
	assert_int_equal(unlock_with(&w, "two", &em), 0);
	assert_int_equal(add_slot(&w, "two", "four", &em), 0); /* the number is free again */
	assert_int_equal(key_remove(w.k, &root, "k", 1, &em), 0);
	assert_int_equal(key_remove(w.k, &root, "k", 2, &em), 0);
	assert_int_equal(key_remove(w.k, &root, "k", 0, &em), -EBUSY);
	assert_non_null(strstr(em.text, "last one"));
	assert_int_equal(unlock_with(&w, "four", &em), 0);
	for (unsigned i = 1; i < KEYS_SLOTS_MAX; i++)
		assert_int_equal(add_slot(&w, "four", "more", &em), i);
	assert_int_equal(add_slot(&w, "four", "more", &em), -ENOSPC);
	world_close(&w);
}

static void test_a_recovery_key_is_shown_once_and_opens_the_key(void **state)
{
	struct world w;
	struct errmsg em = {""};
	struct secret s = file_secret("one"), recovery = {0};
	json_t *json = NULL;

	world_open(&w);
	const uint32_t domain = create(&w, "one");
	assert_int_equal(key_add(w.k, &root, "k", &s, NULL, &json, &em), 0);
	secret_release(&s);
	const char *text = json_string_value(json_object_get(json, "recovery"));
	assert_non_null(text);
	assert_int_equal(lock_it(&w, &em), 0);
	char *base64 = base64_encode(text, strlen(text));
	assert_int_equal(secret_parse("recovery", base64, &recovery, &em), 0);
	free(base64);
	json_decref(json);
	json = NULL;
	assert_int_equal(recovery.len, SEAL_KEY_LEN);
	assert_int_equal(key_unlock(w.k, &root, "k", &recovery, &json, &em), 0);
	json_decref(json);
	assert_true(keyring_has(w.kr, domain));
	json = NULL;
	assert_int_equal(key_create(w.k, &root, "l", &recovery, &json, &em), -EINVAL);
	recovery.data[3] ^= 1;
	assert_int_equal(key_unlock(w.k, &root, "k", &recovery, &json, &em), -EKEYREJECTED);
	secret_release(&recovery);
	base64 = base64_encode("weir-no-such", 12);
	assert_int_equal(secret_parse("recovery", base64, &recovery, &em), -EINVAL);
	free(base64);
	world_close(&w);
}

static void test_a_damaged_slot_does_not_hide_the_others(void **state)
{
	struct world w;
	struct errmsg em = {""};

	world_open(&w);
	const uint32_t domain = create(&w, "one");
	assert_int_equal(add_slot(&w, "one", "two", &em), 1);
	assert_int_equal(lock_it(&w, &em), 0);
	assert_int_equal(ns_record_put(w.e.ns, RECORD_KEYSLOT, domain, 0, "rubbish", 7), 0);
	assert_int_equal(unlock_with(&w, "two", &em), 0);
	assert_int_equal(key_remove(w.k, &root, "k", 1, &em), -EBUSY); /* it is all there is */
	assert_int_equal(key_remove(w.k, &root, "k", 0, &em), 0);
	world_close(&w);
}

/* --- rotation --- */

static void test_rotation_moves_directories_first_and_gives_the_old_domain_up_at_the_end(
        void **state)
{
	struct world w;
	struct errmsg em = {""};
	json_t *json = NULL;

	world_open(&w);
	const uint32_t old = create(&w, "one");
	assert_int_equal(add_slot(&w, "one", "two", &em), 1);
	make(&w, 2, S_IFREG); /* before the directory, by number */
	make(&w, 3, S_IFDIR);
	make(&w, 4, S_IFREG);
	attach(&w, 2, old);
	attach(&w, 3, old);
	w.born = 6;
	assert_int_equal(rotate(&w, "wrong", false, &json, &em), -EKEYREJECTED);
	if (rotate(&w, "two", false, &json, &em) < 0)
		fail_msg("%s", em.text);
	const uint32_t new = domain_now(&w);
	assert_true(new != old);
	assert_int_equal(w.moves, 3);
	assert_int_equal(w.moved[0], 3);
	assert_int_equal(w.moved[1], 2);
	assert_int_equal(w.moved[2], 6);
	assert_int_equal(json_integer_value(json_object_get(json, "images")), 2);
	/* The first slot's secret is not known: it opens the old domain only. */
	const json_t *dropped = json_object_get(json, "dropped");
	assert_int_equal(json_array_size(dropped), 1);
	assert_int_equal(
	        json_integer_value(json_object_get(json_array_get(dropped, 0), "slot")), 0);
	json_decref(json);
	assert_int_equal(slots_of(&w, new), 1);
	/* Both are needed until the last job is done. */
	assert_true(keyring_has(w.kr, old) && keyring_has(w.kr, new));
	job_done(&w, 2);
	assert_int_equal(key_domain_settle(w.k, old), 0);
	assert_true(keyring_has(w.kr, old));
	assert_int_equal(slots_of(&w, old), 2);
	job_done(&w, 6);
	assert_int_equal(key_domain_settle(w.k, old), 0);
	assert_false(keyring_has(w.kr, old));
	assert_int_equal(slots_of(&w, old), 0);
	assert_int_equal(key_domain_settle(w.k, new), 0); /* never the one in use */
	assert_true(keyring_has(w.kr, new));
	world_crash(&w);
	assert_int_equal(unlock_with(&w, "one", &em), -EKEYREJECTED);
	assert_int_equal(unlock_with(&w, "two", &em), 0);
	world_close(&w);
}

static void test_rotation_of_an_unused_key_ends_at_once_and_waiting_waits(void **state)
{
	struct world w;
	struct errmsg em = {""};
	json_t *json = NULL;

	world_open(&w);
	const uint32_t first = create(&w, "one");
	assert_int_equal(rotate(&w, "one", false, &json, &em), 0);
	json_decref(json);
	assert_false(keyring_has(w.kr, first));
	assert_int_equal(slots_of(&w, first), 0);
	make(&w, 2, S_IFREG);
	attach(&w, 2, domain_now(&w));
	assert_int_equal(rotate(&w, "one", true, &json, &em), 0);
	json_decref(json);
	assert_int_equal(w.waits, 1);
	assert_int_equal(lock_it(&w, &em), 0);
	assert_int_equal(rotate(&w, "one", false, &json, &em), -ENOKEY);
	world_close(&w);
}

static void test_a_rotation_cut_off_goes_on_when_the_key_is_unlocked(void **state)
{
	struct world w;
	struct errmsg em = {""};
	json_t *json = NULL;

	world_open(&w);
	const uint32_t old = create(&w, "one");
	for (uint64_t ino = 2; ino < 5; ino++) {
		make(&w, ino, S_IFREG);
		attach(&w, ino, old);
	}
	w.fail_move = 2;
	assert_int_equal(rotate(&w, "one", false, &json, &em), -EIO);
	assert_int_equal(w.moves, 1);
	world_crash(&w);
	const uint32_t new = domain_now(&w);
	assert_true(new != old);
	assert_int_equal(unlock_with(&w, "one", &em), 0);
	assert_int_equal(w.moves, 3);
	assert_true(keyring_has(w.kr, old));
	/* A slot that comes meanwhile opens both domains. */
	assert_int_equal(add_slot(&w, "one", "two", &em), 1);
	assert_int_equal(slots_of(&w, old), 2);
	assert_int_equal(slots_of(&w, new), 2);
	for (uint64_t ino = 2; ino < 5; ino++)
		job_done(&w, ino);
	world_crash(&w); /* before anybody said that the domain is left */
	assert_int_equal(unlock_with(&w, "two", &em), 0);
	assert_false(keyring_has(w.kr, old));
	assert_int_equal(slots_of(&w, old), 0);
	world_close(&w);
}

static void test_rotations_on_top_of_each_other_are_bounded(void **state)
{
	struct world w;
	struct errmsg em = {""};
	json_t *json = NULL;

	world_open(&w);
	const uint32_t first = create(&w, "one");
	make(&w, 2, S_IFREG);
	attach(&w, 2, first);
	for (unsigned i = 1; i < KEYS_DOMAINS_MAX; i++) {
		assert_int_equal(rotate(&w, "one", false, &json, &em), 0);
		json_decref(json);
	}
	assert_int_equal(rotate(&w, "one", false, &json, &em), -EBUSY);
	assert_true(keyring_has(w.kr, first));
	job_done(&w, 2);
	assert_int_equal(key_domain_settle(w.k, first), 0);
	assert_int_equal(rotate(&w, "one", false, &json, &em), 0);
	json_decref(json);
	world_close(&w);
}

/* --- deletion --- */

static void test_a_key_in_use_is_not_deleted_and_a_deleted_one_is_gone(void **state)
{
	struct world w;
	struct errmsg em = {""};
	struct bytes_out value = {0};

	world_open(&w);
	const uint32_t domain = create(&w, "one");
	assert_int_equal(add_slot(&w, "one", "two", &em), 1);
	make(&w, 2, S_IFREG);
	attach(&w, 2, domain);
	assert_int_equal(key_delete(w.k, &root, "k", &em), -EBUSY);
	assert_non_null(strstr(em.text, "by 'image-2'"));
	assert_int_equal(ns_record_del(w.e.ns, RECORD_ATTACHMENT, 2, 1), 0);
	job(&w, 2, domain); /* still being decrypted */
	assert_int_equal(key_delete(w.k, &root, "k", &em), -EBUSY);
	job_done(&w, 2);
	assert_int_equal(key_delete(w.k, &root, "k", &em), 0);
	assert_int_equal(key_delete(w.k, &root, "k", &em), -ENOENT);
	assert_false(keyring_has(w.kr, domain));
	assert_int_equal(slots_of(&w, domain), 0);
	assert_int_equal(ns_record_get(w.e.ns, RECORD_KEYSLOT, domain, 0, &value), -ENOENT);
	world_crash(&w);
	assert_true(create(&w, "three") > domain); /* the number is not used again */
	assert_int_equal(complaints(w.e.m), 0);
	world_close(&w);
}

/* --- the trail, the list, what is stored --- */

static int collect_actions(void *arg, json_t *entry)
{
	char *all = arg;

	strcat(all, json_string_value(json_object_get(entry, "action")));
	strcat(all, ";");
	assert_string_equal(json_string_value(json_object_get(entry, "type")), "k");
	return 0;
}

static void test_every_operation_is_in_the_audit_trail(void **state)
{
	struct world w;
	struct errmsg em = {""};
	struct audit_verdict v = {0};
	char all[1024] = "";
	json_t *json = NULL;

	world_open(&w);
	create(&w, "one");
	assert_int_equal(add_slot(&w, "one", "two", &em), 1);
	assert_int_equal(key_remove(w.k, &root, "k", 0, &em), 0);
	assert_int_equal(lock_it(&w, &em), 0);
	assert_int_equal(unlock_with(&w, "one", &em), -EKEYREJECTED);
	assert_int_equal(unlock_with(&w, "two", &em), 0);
	assert_int_equal(rotate(&w, "two", false, &json, &em), 0);
	json_decref(json);
	assert_int_equal(key_delete(w.k, &root, "k", &em), 0);
	assert_int_equal(audit_each(w.e.ns, 0, collect_actions, all), 0);
	assert_string_equal(all, "key create;key add;key remove;key lock;key unlock failed;"
	                         "key unlock;key rotate;key rotated;key delete;");
	assert_int_equal(audit_verify(w.e.ns, NULL, &v), 0);
	assert_int_equal(v.bad_seq, 0);
	world_close(&w);
}

static void test_the_list_says_what_is_unlocked_and_used(void **state)
{
	struct world w;
	struct errmsg em = {""};
	json_t *json = NULL;
	const char *name = NULL, *now = NULL, *kind = NULL;
	int images = 0, slot = 0, unlocked = 0;

	world_open(&w);
	const uint32_t domain = create(&w, "one");
	make(&w, 2, S_IFREG);
	make(&w, 3, S_IFDIR);
	attach(&w, 2, domain);
	attach(&w, 3, domain); /* no image */
	assert_int_equal(keys_json(w.e.ns, w.k, &json), 0);
	assert_int_equal(json_unpack(json, "{s:[{s:s, s:s, s:i, s:b, s:[{s:i, s:s}]}]}", "keys",
	                         "name", &name, "state", &now, "images", &images, "unlocked",
	                         &unlocked, "slots", "slot", &slot, "kind", &kind),
	        0);
	assert_string_equal(name, "k");
	assert_string_equal(now, "unlocked");
	assert_string_equal(kind, "file");
	assert_int_equal(images, 1);
	assert_true(unlocked);
	json_decref(json);
	assert_int_equal(lock_it(&w, &em), 0);
	assert_int_equal(keys_json(w.e.ns, w.k, &json), 0);
	assert_int_equal(json_unpack(json, "{s:[{s:s}]}", "keys", "state", &now), 0);
	assert_string_equal(now, "locked");
	json_decref(json);
	assert_int_equal(keys_report(w.e.ns, &json), 0); /* without a daemon */
	assert_int_equal(json_array_size(json_object_get(json, "keys")), 1);
	json_decref(json);
	world_close(&w);
}

static void test_a_removed_slot_is_nowhere_in_the_database(void **state)
{
	struct world w;
	struct errmsg em = {""};
	struct bytes_out value = {0};
	struct io_file *f = NULL;
	size_t len = 0;

	world_open(&w);
	const uint32_t domain = create(&w, "one");
	assert_int_equal(add_slot(&w, "one", "two", &em), 1);
	assert_int_equal(ns_record_get(w.e.ns, RECORD_KEYSLOT, domain, 0, &value), 0);
	assert_int_equal(meta_checkpoint(w.e.m), 0); /* into meta.db itself */
	assert_int_equal(key_remove(w.k, &root, "k", 0, &em), 0);
	ns_close(w.e.ns);
	meta_close(w.e.m);
	assert_int_equal(io_open(w.e.f.faults->real, META_NAME, IO_READ, &f), 0);
	uint8_t *all = read_all(f, &len);
	io_close(f);
	assert_null(memmem(all, len, value.data, value.len));
	/* Nor a part of it: SQLite overwrites the first bytes of what it frees. */
	assert_null(memmem(all, len, value.data + value.len / 2, value.len / 2));
	free(all);
	bytes_release(&value);
	engine_start(&w.e);
	world_close(&w);
}

static void test_rows_of_keys_are_checked_when_read(void **state)
{
	static const char *const bad[] = {"", "{", "[]", "{\"name\":\"k\",\"domain\":1}",
	        "{\"name\":\"a b\",\"domain\":1,\"rotating_from\":[]}",
	        "{\"name\":\"k\",\"domain\":0,\"rotating_from\":[]}",
	        "{\"name\":\"k\",\"domain\":4294967296,\"rotating_from\":[]}",
	        "{\"name\":\"k\",\"domain\":1,\"rotating_from\":[1]}",
	        "{\"name\":\"k\",\"domain\":1,\"rotating_from\":[2,3,4,5]}",
	        "{\"name\":\"k\",\"domain\":1,\"rotating_from\":[\"2\"]}"};
	const struct named_key key = {.name = "k",
	        .created_ns = 7,
	        .n_domains = 3,
	        .domains = {{9, true}, {5, false}, {6, false}}};
	struct named_key got = {.number = 3};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(key_decode(bad[i], strlen(bad[i]), &got), -EUCLEAN);
	char *text = key_encode(&key);
	assert_string_equal(
	        text, "{\"created_ns\":7,\"domain\":9,\"name\":\"k\",\"rotating_from\":[5,6]}");
	assert_int_equal(key_decode(text, strlen(text), &got), 0);
	assert_int_equal(got.number, 3);
	assert_int_equal(got.n_domains, 3);
	assert_int_equal(got.domains[0].id, 9);
	assert_false(got.domains[0].unlocked);
	assert_int_equal(got.domains[2].id, 6);
	free(text);
}

static void test_a_damaged_key_leaves_the_others_alone(void **state)
{
	struct world w;
	struct errmsg em = {""};

	world_open(&w);
	create(&w, "one");
	assert_int_equal(ns_record_put(w.e.ns, RECORD_KEY, 0, 77, "{}", 2), 0);
	world_crash(&w);
	assert_int_equal(unlock_with(&w, "one", &em), 0);
	world_close(&w);
}

static void test_base64_takes_what_it_gives_and_nothing_else(void **state)
{
	static const char *const bad[] = {"A", "AA", "AAA", "A===", "====", "AA=A", "A=AA",
	        "AB==", "AAB=", "AA==AA==", "AAA ", "AA\n=", "AA-_", "AAAAA"};
	static const char *const good[][2] = {{"", ""}, {"f", "Zg=="}, {"fo", "Zm8="},
	        {"foo", "Zm9v"}, {"foob", "Zm9vYg=="}, {"fooba", "Zm9vYmE="},
	        {"foobar", "Zm9vYmFy"}}; /* RFC 4648, section 10 */
	uint8_t *data = NULL, all[256];
	size_t len = 0;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(base64_decode(bad[i], &data, &len), -EINVAL);
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		char *text = base64_encode(good[i][0], strlen(good[i][0]));
		assert_string_equal(text, good[i][1]);
		assert_int_equal(base64_decode(text, &data, &len), 0);
		assert_int_equal(len, strlen(good[i][0]));
		assert_memory_equal(data, good[i][0], len);
		free(data);
		free(text);
	}
	for (unsigned i = 0; i < sizeof(all); i++)
		all[i] = (uint8_t)i;
	char *text = base64_encode(all, sizeof(all));
	assert_int_equal(base64_decode(text, &data, &len), 0);
	assert_int_equal(len, sizeof(all));
	assert_memory_equal(data, all, len);
	free(data);
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_a_new_key_is_unlocked_and_locked_after_a_mount),
	        cmocka_unit_test(test_names_are_checked),
	        cmocka_unit_test(
	                test_a_passphrase_opens_its_key_and_a_file_of_the_same_bytes_does_not),
	        cmocka_unit_test(test_a_key_in_use_is_not_locked),
	        cmocka_unit_test(test_what_the_store_cannot_take_is_not_unlocked),
	        cmocka_unit_test(test_a_read_only_datastore_can_be_unlocked_and_nothing_else),
	        cmocka_unit_test(test_each_slot_opens_the_key_until_it_is_removed),
	        cmocka_unit_test(test_a_recovery_key_is_shown_once_and_opens_the_key),
	        cmocka_unit_test(test_a_damaged_slot_does_not_hide_the_others),
	        cmocka_unit_test(
	                test_rotation_moves_directories_first_and_gives_the_old_domain_up_at_the_end),
	        cmocka_unit_test(test_rotation_of_an_unused_key_ends_at_once_and_waiting_waits),
	        cmocka_unit_test(test_a_rotation_cut_off_goes_on_when_the_key_is_unlocked),
	        cmocka_unit_test(test_rotations_on_top_of_each_other_are_bounded),
	        cmocka_unit_test(test_a_key_in_use_is_not_deleted_and_a_deleted_one_is_gone),
	        cmocka_unit_test(test_every_operation_is_in_the_audit_trail),
	        cmocka_unit_test(test_the_list_says_what_is_unlocked_and_used),
	        cmocka_unit_test(test_a_removed_slot_is_nowhere_in_the_database),
	        cmocka_unit_test(test_rows_of_keys_are_checked_when_read),
	        cmocka_unit_test(test_a_damaged_key_leaves_the_others_alone),
	        cmocka_unit_test(test_base64_takes_what_it_gives_and_nothing_else),
	};

	log_set_level(getenv("WEIR_TEST_VERBOSE") ? LOG_NOTE : (enum log_level) - 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

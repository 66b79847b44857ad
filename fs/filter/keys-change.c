/*
 * keys-change.c - named keys made, given further slots, relieved of them, and deleted
 *
 * An operation holds op_lock from its first look to its last row, so it need not look twice; what
 * takes long (scrypt) is done before manager.lock is taken.  Rows of one change are in one group:
 * slots before the key that counts on them.  What comes into the keyring comes before the rows that
 * tell of it, and is taken back if they cannot be put.
 *
 * The rows of a slot that is removed leave meta.db, its WAL and the intent log for good, before the
 * command returns.  It does not help
 * against somebody who copied the datastore before: whoever knows the removed secret opens the copy.
 * Rotating the key does, for what is written from then on.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "fs/filter/keys-private.h"
#include "store/snapshot.h"

static int protect(struct keys *k, struct errmsg *em)
{
	const int r = k->protected ? 0 : k->env.protect(em);

	k->protected = k->protected || r == 0;
	return r;
}

int keys_protect(struct keys *k, struct errmsg *em)
{
	return protect(k, em);
}

int keys_number(struct keys *k, uint32_t *ret_number, struct errmsg *em)
{
	const uint64_t number = ns_number_alloc(k->env.ns);

	if (number == 0 || number > UINT32_MAX)
		return errmsg_set(em, -ENOSPC, "the datastore has no numbers left for keys");
	*ret_number = (uint32_t)number;
	return 0;
}

void keys_wipe_rows(struct keys *k)
{
	const int r = k->env.wipe_rows(k->env.arg);

	if (r < 0)
		log_error("what removed key slots held cannot be overwritten (%s): copies of them "
		          "may "
		          "stay in the intent log and in meta.db-wal for some time",
		        strerror(-r));
}

/* --- create --- */

struct wrapped {
	uint8_t bytes[KEYSLOT_BYTES_MAX];
	size_t len;
};

/* The new key is in the keyring already. */
static int create_rows(struct keys *k, const struct filter_caller *who, const struct named_key *key,
        const struct secret *s, const struct wrapped *w, struct errmsg *em)
{
	char what[64];
	CLEANUP(free_ptr) char *text = key_encode(key);

	if (!text)
		return errmsg_set(em, -ENOMEM, "out of memory");
	snprintf(what, sizeof(what), "crypto domain %u, slot 0: %s", key->domains[0].id,
	        keyslot_kind_name(s->kind));
	const struct key_note note = {who, "key create", key->name, NULL, what};
	const struct key_row rows[] = {
	        {RECORD_KEYSLOT, key->domains[0].id, 0, w->bytes, w->len},
	        {RECORD_KEY, 0, key->number, text, strlen(text)},
	};
	k->env.lock(k->env.arg);
	int r = keys_set(k, key);
	if (r < 0) {
		errmsg_set(em, r, "cannot keep another key: %s", strerror(-r));
	} else {
		r = keys_rows(k, &note, rows, ARRAY_SIZE(rows), em);
		if (r < 0)
			keys_unset(k, key->number);
	}
	k->env.unlock(k->env.arg);
	if (r == 0) {
		r = k->env.flush(k->env.arg);
		if (r < 0)
			errmsg_set(
			        em, r, "cannot make key '%s' durable: %s", key->name, strerror(-r));
	}
	return r;
}

static int create(struct keys *k, const struct filter_caller *who, struct named_key *key,
        const struct secret *s, struct errmsg *em)
{
	uint8_t data_key[SEAL_KEY_LEN];
	struct wrapped w = {.len = 0};
	uint32_t number = 0;
	int r = keys_number(k, &number, em);

	key->number = number;
	if (r == 0)
		r = keys_number(k, &key->domains[0].id, em);
	if (r < 0)
		return r;
	r = key_random(data_key);
	if (r < 0)
		return errmsg_set(em, r, "there are no random bytes for a key");
	r = keyslot_wrap(
	        s->kind, key->domains[0].id, 0, s->data, s->len, data_key, w.bytes, &w.len, em);
	if (r == 0) {
		r = keyring_add(k->env.keyring, key->domains[0].id, data_key);
		if (r < 0)
			errmsg_set(em, r, "cannot keep the key in memory: %s", strerror(-r));
	}
	key_wipe(data_key, sizeof(data_key));
	if (r < 0)
		return r;
	key->domains[0].unlocked = true;
	r = create_rows(k, who, key, s, &w, em);
	struct named_key there;
	if (r < 0 && keys_find_domain(k, key->domains[0].id, &there) < 0 &&
	        keyring_remove(k->env.keyring, key->domains[0].id) < 0)
		ASSERT(false); /* it was added above */
	return r;
}

int key_create(struct keys *k, const struct filter_caller *who, const char *name,
        const struct secret *s, json_t **ret_json, struct errmsg *em)
{
	struct named_key key = {.n_domains = 1, .created_ns = clock_wall_ns()}, there;

	if (s->kind == KEYSLOT_RECOVERY)
		return errmsg_set(em, -EINVAL,
		        "a key is created with a passphrase or a file; a recovery key is added "
		        "(weir key recovery)");
	pthread_mutex_lock(&k->op_lock);
	int r = keys_find(k, name, &there, em);
	if (r == 0)
		r = errmsg_set(em, -EEXIST, "there is a key '%s' already", name);
	if (r == -ENOENT)
		r = protect(k, em);
	if (r == 0) {
		memcpy(key.name, name, strlen(name) + 1);
		r = create(k, who, &key, s, em);
	}
	pthread_mutex_unlock(&k->op_lock);
	if (r < 0)
		return r;
	*ret_json =
	        json_pack("{s:s, s:I}", "name", key.name, "domain", (json_int_t)key.domains[0].id);
	return *ret_json ? 0 : -ENOMEM;
}

/* --- add --- */

int key_refuse_secret(const char *name, const struct secret *s, int err, struct errmsg *em)
{
	if (err == -EKEYREJECTED)
		return errmsg_set(em, err, "this %s does not open key '%s'",
		        s->kind == KEYSLOT_FILE       ? "key file"
		        : s->kind == KEYSLOT_RECOVERY ? "recovery key"
		                                      : "passphrase",
		        name);
	if (err == -EPROTONOSUPPORT)
		return errmsg_set(em, err,
		        "a slot of key '%s' is of a newer version: use a newer weir", name);
	if (err == -EUCLEAN)
		return errmsg_set(em, err,
		        "slots of key '%s' are damaged, and no other is opened by this secret",
		        name);
	return errmsg_set(em, err, "cannot open key '%s': %s", name, strerror(-err));
}

/* One slot more in each of the key's domains, wrapped for `with`. */
static int wrap_all(struct keys *k, const struct named_key *key, const struct secret *s,
        const struct secret *with, unsigned slot, struct wrapped *w, struct errmsg *em)
{
	int r = 0;

	for (unsigned d = 0; r == 0 && d < key->n_domains; d++) {
		uint8_t data_key[SEAL_KEY_LEN];
		const uint32_t domain = slots_domain(&key->domains[d]);
		unsigned opened = 0;
		r = slots_open(k->env.ns, &key->domains[d], s, &opened, data_key);
		if (r < 0)
			r = key_refuse_secret(key->name, s, r, em);
		else
			r = keyslot_wrap(with->kind, domain, slot, with->data, with->len, data_key,
			        w[d].bytes, &w[d].len, em);
		key_wipe(data_key, sizeof(data_key));
	}
	return r;
}

static int add_rows(struct keys *k, const struct filter_caller *who, const struct named_key *key,
        const struct secret *with, unsigned slot, const struct wrapped *w, struct errmsg *em)
{
	struct key_row rows[KEYS_DOMAINS_MAX];
	char what[64];

	for (unsigned d = 0; d < key->n_domains; d++)
		rows[d] = (struct key_row){
		        RECORD_KEYSLOT, key->domains[d].id, slot, w[d].bytes, w[d].len};
	snprintf(what, sizeof(what), "slot %u: %s", slot, keyslot_kind_name(with->kind));
	const struct key_note note = {who, "key add", key->name, NULL, what};
	k->env.lock(k->env.arg);
	int r = keys_rows(k, &note, rows, key->n_domains, em);
	k->env.unlock(k->env.arg);
	if (r == 0)
		r = k->env.flush(k->env.arg);
	return r;
}

static int add(struct keys *k, const struct filter_caller *who, const char *name,
        const struct secret *s, const struct secret *with, unsigned *ret_slot, struct errmsg *em)
{
	struct wrapped w[KEYS_DOMAINS_MAX];
	struct named_key key;
	unsigned slot = 0;
	int r = keys_find(k, name, &key, em);

	if (r == 0)
		r = protect(k, em);
	if (r == 0)
		r = slots_free(k->env.ns, &key, &slot, em);
	if (r == 0)
		r = wrap_all(k, &key, s, with, slot, w, em);
	if (r == 0)
		r = add_rows(k, who, &key, with, slot, w, em);
	if (r == 0)
		*ret_slot = slot;
	return r;
}

static int recovery_new(struct secret *ret_s, char text[RECOVERY_TEXT_LEN], struct errmsg *em)
{
	struct secret s = {KEYSLOT_RECOVERY, malloc(SEAL_KEY_LEN), SEAL_KEY_LEN};

	if (!s.data || key_random(s.data) < 0) {
		secret_release(&s);
		return errmsg_set(em, -ENOMEM, "cannot make a recovery key");
	}
	recovery_text(s.data, text);
	*ret_s = s;
	return 0;
}

int key_add(struct keys *k, const struct filter_caller *who, const char *name,
        const struct secret *s, const struct secret *with, json_t **ret_json, struct errmsg *em)
{
	struct secret recovery = {0};
	char text[RECOVERY_TEXT_LEN] = "";
	unsigned slot = 0;
	int r = with ? 0 : recovery_new(&recovery, text, em);

	if (r == 0) {
		pthread_mutex_lock(&k->op_lock);
		r = add(k, who, name, s, with ? with : &recovery, &slot, em);
		pthread_mutex_unlock(&k->op_lock);
	}
	if (r == 0) {
		json_t *json = json_pack("{s:i}", "slot", (int)slot);
		if (!with && json_object_set_new(json, "recovery", json_string(text)) < 0)
			r = errmsg_set(em, -ENOMEM, "out of memory");
		*ret_json = json;
	}
	secret_release(&recovery);
	key_wipe(text, sizeof(text));
	return r;
}

/* --- remove --- */

/* Rows of this slot in all domains of the key; *ret_left: what then still opens new data. */
static int remove_plan(struct keys *k, const struct named_key *key, uint64_t slot,
        struct key_row *rows, unsigned *ret_n, unsigned *ret_left)
{
	unsigned n = 0, left = 0;

	for (unsigned d = 0; d < key->n_domains; d++) {
		struct key_slots list = {0};
		const int r = slots_list(k->env.ns, key->domains[d].id, &list);
		if (r < 0)
			return r;
		for (unsigned i = 0; i < list.n; i++) {
			if (list.slots[i].slot == slot)
				rows[n++] = (struct key_row){
				        RECORD_KEYSLOT, key->domains[d].id, slot, NULL, 0};
			else
				left += d == 0 && list.slots[i].kind;
		}
	}
	*ret_n = n;
	*ret_left = left;
	return 0;
}

static int remove_slot(struct keys *k, const struct filter_caller *who, const struct named_key *key,
        uint64_t slot, struct errmsg *em)
{
	struct key_row rows[KEY_ROWS_MAX];
	unsigned n = 0, left = 0;
	char what[32];
	int r = remove_plan(k, key, slot, rows, &n, &left);

	if (r < 0)
		return errmsg_set(
		        em, r, "cannot read the slots of key '%s': %s", key->name, strerror(-r));
	if (n == 0)
		return errmsg_set(em, -ENOENT, "key '%s' has no slot %llu (weir key list %s)",
		        key->name, (unsigned long long)slot, k->env.dir);
	if (left == 0)
		return errmsg_set(em, -EBUSY,
		        "slot %llu is the last one that opens key '%s': add another first (weir "
		        "key add %s %s)",
		        (unsigned long long)slot, key->name, k->env.dir, key->name);
	snprintf(what, sizeof(what), "slot %llu", (unsigned long long)slot);
	const struct key_note note = {who, "key remove", key->name, what, NULL};
	k->env.lock(k->env.arg);
	r = keys_rows(k, &note, rows, n, em);
	k->env.unlock(k->env.arg);
	return r == 0 ? k->env.flush(k->env.arg) : r;
}

int key_remove(struct keys *k, const struct filter_caller *who, const char *name, uint64_t slot,
        struct errmsg *em)
{
	struct named_key key;

	pthread_mutex_lock(&k->op_lock);
	int r = keys_find(k, name, &key, em);
	if (r == 0)
		r = remove_slot(k, who, &key, slot, em);
	pthread_mutex_unlock(&k->op_lock);
	if (r == 0)
		keys_wipe_rows(k);
	return r;
}

/* --- delete --- */

static int refuse_used(struct keys *k, const struct named_key *key, struct errmsg *em)
{
	char path[256];

	for (unsigned d = 0; d < key->n_domains; d++) {
		struct key_uses u = {0};
		const int r = keys_uses(k, key, key->domains[d].id, &u);
		if (r < 0)
			return errmsg_set(em, r, "cannot tell what uses key '%s': %s", key->name,
			        strerror(-r));
		if (u.n == 0)
			continue;
		k->env.path_of(k->env.arg, u.ino, path, sizeof(path));
		return errmsg_set(em, -EBUSY, "key '%s' is in use: by '%s'%s (%s)", key->name,
		        path[0] ? path : "the datastore", u.n > 1 ? " and others" : "",
		        u.ino & SNAPSHOT_BIT ? "weir snapshot delete"
		                             : "weir filter detach TARGET encrypt");
	}
	return 0;
}

static int delete_rows(struct keys *k, const struct filter_caller *who, const struct named_key *key,
        struct errmsg *em)
{
	struct key_row rows[KEY_ROWS_MAX];
	const struct key_note note = {who, "key delete", key->name, NULL, NULL};
	unsigned n = 0;

	/* The key first: what is left of a change that was cut off is then slots of nothing. */
	rows[n++] = (struct key_row){RECORD_KEY, 0, key->number, NULL, 0};
	for (unsigned d = 0; d < key->n_domains; d++) {
		struct key_slots list = {0};
		const int r = slots_list(k->env.ns, key->domains[d].id, &list);
		if (r < 0)
			return errmsg_set(em, r, "cannot read the slots of key '%s': %s", key->name,
			        strerror(-r));
		for (unsigned i = 0; i < list.n; i++)
			rows[n++] = (struct key_row){
			        RECORD_KEYSLOT, key->domains[d].id, list.slots[i].slot, NULL, 0};
	}
	return keys_rows(k, &note, rows, n, em);
}

int key_delete(struct keys *k, const struct filter_caller *who, const char *name, struct errmsg *em)
{
	struct named_key key;

	pthread_mutex_lock(&k->op_lock);
	k->env.lock(k->env.arg); /* nobody attaches it meanwhile */
	int r = keys_find(k, name, &key, em);
	if (r == 0)
		r = refuse_used(k, &key, em);
	for (unsigned d = 0; r == 0 && d < key.n_domains; d++)
		r = key_domain_forget(k, key.domains[d].id, em);
	if (r == 0)
		r = delete_rows(k, who, &key, em);
	if (r == 0)
		keys_unset(k, key.number);
	k->env.unlock(k->env.arg);
	if (r == 0)
		r = k->env.flush(k->env.arg);
	pthread_mutex_unlock(&k->op_lock);
	if (r == 0)
		keys_wipe_rows(k);
	return r;
}

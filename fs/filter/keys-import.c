/*
 * keys-import.c - keys that come with what was sealed elsewhere, and go with what is sealed here
 *
 * A raw stream (src/stream/RAW.md) has the key slots with it, as they are: whoever has the secret can open the
 * data key at the receiver, too.  There it is a named key with a crypto domain of its own and that
 * data key.  Its slots stay bound to the domain number that they were made for: they could only be bound to
 * another by who has the secrets.
 *
 * Why the same data key may serve in two datastores: it encrypts nothing itself.  What does is derived from it
 * with the datastore's uuid and the domain's number (keyring.h), so the two have different keys; and nonces
 * are random, not counted (seal.h), so nothing depends on who used which.
 *
 * A key that is here already is known by where it came from; it keeps the slots that it has, for a
 * stream is nobody that may change who opens a key.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "fs/filter/keys-private.h"
#include "fs/filter/manager-private.h"

#define NAME_TRIES 100u

/* --- sending --- */

struct exporting {
	uint32_t domain;
	struct raw_key *key;
	bool found;
};

static int export_key(void *arg, uint64_t owner, uint64_t id, const void *value, size_t len)
{
	struct exporting *ex = arg;
	struct named_key key = {.number = id};

	(void)owner;
	if (key_decode(value, len, &key) < 0)
		return 0;
	for (unsigned d = 0; d < key.n_domains; d++) {
		if (key.domains[d].id != ex->domain)
			continue;
		memcpy(ex->key->name, key.name, sizeof(ex->key->name));
		ex->key->slots_domain = slots_domain(&key.domains[d]);
		ex->found = true;
		return 1;
	}
	return 0;
}

static int export_slot(void *arg, uint64_t owner, uint64_t id, const void *value, size_t len)
{
	struct raw_key *key = arg;
	enum keyslot_kind kind;

	(void)owner;
	if (key->n == RAW_SLOTS_MAX || id >= RAW_SLOTS_MAX || len > KEYSLOT_BYTES_MAX ||
	        keyslot_kind_of(value, len, &kind) < 0)
		return 0; /* damaged: it opens nothing here either */
	key->slots[key->n].slot = (unsigned)id;
	key->slots[key->n].len = len;
	memcpy(key->slots[key->n++].bytes, value, len);
	return 0;
}

int keys_export(struct ns *ns, const uint8_t uuid[16], uint32_t domain, struct raw_key *ret_key,
        struct errmsg *em)
{
	struct raw_key key = {.domain = domain};
	struct exporting ex = {domain, &key, false};
	int r = ns_record_each(ns, RECORD_KEY, 0, 0, export_key, &ex);

	memcpy(key.uuid, uuid, sizeof(key.uuid));
	if (r >= 0)
		r = ns_record_each(ns, RECORD_KEYSLOT, domain, 0, export_slot, &key);
	if (r < 0)
		return errmsg_set(em, r, "cannot read the keys: %s", strerror(-r));
	if (!ex.found || key.n == 0)
		return errmsg_set(em, -ENOKEY,
		        "crypto domain %u belongs to no key that can be opened (weir key list)",
		        domain);
	*ret_key = key;
	return 0;
}

uint32_t keys_slots_domain(struct ns *ns, uint32_t domain)
{
	struct raw_key key = {0};
	struct exporting ex = {domain, &key, false};

	return ns_record_each(ns, RECORD_KEY, 0, 0, export_key, &ex) >= 0 && ex.found
	               ? key.slots_domain
	               : domain;
}

/* --- receiving --- */

/* The key that it is already. */
static bool find_same(
        struct keys *k, const struct raw_key *rk, struct named_key *ret_key, uint32_t *ret_domain)
{
	const bool ours = !memcmp(rk->uuid, keyring_uuid(k->env.keyring), sizeof(rk->uuid));
	bool found = false;

	pthread_mutex_lock(&k->lock);
	for (unsigned i = 0; i < k->n && !found; i++) {
		for (unsigned d = 0; d < k->list[i].n_domains && !found; d++) {
			const struct key_domain *kd = &k->list[i].domains[d];
			found = ours ? kd->id == rk->domain
			             : kd->origin == rk->domain &&
			                        !memcmp(kd->origin_uuid, rk->uuid,
			                                sizeof(rk->uuid));
			if (found) {
				*ret_key = k->list[i];
				*ret_domain = kd->id;
			}
		}
	}
	pthread_mutex_unlock(&k->lock);
	return found;
}

/* "vms", or "vms-2" where there is another key of that name. */
static int name_free(struct keys *k, const char *wanted, struct named_key *key, struct errmsg *em)
{
	struct named_key there;
	struct errmsg ignored;

	if (!key_name_good(wanted))
		return errmsg_set(em, -EINVAL, "its key has a name that cannot be");
	for (unsigned i = 1; i < NAME_TRIES; i++) {
		if (i == 1)
			memcpy(key->name, wanted, strlen(wanted) + 1);
		else
			snprintf(key->name, sizeof(key->name), "%.60s-%u", wanted, i);
		if (keys_find(k, key->name, &there, &ignored) == -ENOENT)
			return 0;
	}
	return errmsg_set(em, -EEXIST, "there are too many keys called '%s'", wanted);
}

static int import_rows(struct keys *k, const struct filter_caller *who, const struct named_key *key,
        const struct raw_key *rk, struct errmsg *em)
{
	struct key_row rows[RAW_SLOTS_MAX + 1];
	unsigned n = 0;
	char what[64];
	CLEANUP(free_ptr) char *text = key_encode(key);

	if (!text)
		return errmsg_set(em, -ENOMEM, "out of memory");
	for (; n < rk->n; n++)
		rows[n] = (struct key_row){RECORD_KEYSLOT, key->domains[0].id, rk->slots[n].slot,
		        rk->slots[n].bytes, rk->slots[n].len};
	rows[n++] = (struct key_row){RECORD_KEY, 0, key->number, text, strlen(text)};
	snprintf(
	        what, sizeof(what), "crypto domain %u, received with an image", key->domains[0].id);
	const struct key_note note = {who, "key import", key->name, NULL, what};
	k->env.lock(k->env.arg);
	int r = keys_set(k, key);
	if (r < 0) {
		errmsg_set(em, r, "cannot keep another key: %s", strerror(-r));
	} else {
		r = keys_rows(k, &note, rows, n, em);
		if (r < 0)
			keys_unset(k, key->number);
	}
	k->env.unlock(k->env.arg);
	if (r < 0)
		return r;
	r = k->env.flush(k->env.arg);
	return r < 0 ? errmsg_set(em, r, "cannot make the key durable: %s", strerror(-r)) : 0;
}

int key_import(struct keys *k, const struct filter_caller *who, const struct raw_key *rk,
        struct named_key *ret_key, uint32_t *ret_domain, struct errmsg *em)
{
	struct named_key key = {.n_domains = 1, .created_ns = clock_wall_ns()};
	struct key_domain *d = &key.domains[0];
	uint32_t number = 0;

	pthread_mutex_lock(&k->op_lock);
	bool there = find_same(k, rk, &key, ret_domain);
	int r = there ? 0 : name_free(k, rk->name, &key, em);
	if (r == 0 && !there)
		r = keys_number(k, &number, em);
	if (r == 0 && !there)
		r = keys_number(k, &d->id, em);
	if (r == 0 && !there) {
		key.number = number;
		d->origin = rk->domain;
		d->slots_domain = rk->slots_domain;
		memcpy(d->origin_uuid, rk->uuid, sizeof(d->origin_uuid));
		r = import_rows(k, who, &key, rk, em);
		*ret_domain = d->id;
	}
	pthread_mutex_unlock(&k->op_lock);
	if (r == 0)
		*ret_key = key;
	return r;
}

int keys_import(struct manager *m, const struct filter_caller *who, const struct raw_key *rk,
        uint32_t *ret_domain, struct errmsg *em)
{
	struct named_key key;

	return key_import(m->keys, who, rk, &key, ret_domain, em);
}

int keys_name_of(struct manager *m, uint32_t domain, char ret_name[RAW_NAME_MAX + 1])
{
	struct named_key key;
	const int r = keys_find_domain(m->keys, domain, &key);

	if (r == 0)
		memcpy(ret_name, key.name, sizeof(key.name));
	return r;
}

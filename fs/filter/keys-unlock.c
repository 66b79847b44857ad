/*
 * keys-unlock.c - keys into the keyring, and out of it
 *
 * Unlocking: unwrap the data key of every domain of the key; keyring; the store applies what waited
 * for it; mark.  Only then do images of it open.  The domain in use must open, or nothing is
 * unlocked; an old one that does not (its slots are damaged) keeps its images closed, and the log
 * says so.
 *
 * Locking: take the marks back; refuse, and set them again, while an image of it is open or a job
 * works on one; else the store commits and drops what it has in its caches, and the keyring lets
 * the keys go.
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "fs/filter/keys-private.h"

/* --- unlock --- */

static int domain_open(struct keys *k, const struct key_domain *d, const struct secret *s)
{
	uint8_t data_key[SEAL_KEY_LEN];
	const uint32_t domain = d->id;
	unsigned slot = 0;
	int r = slots_open(k->env.ns, d, s, &slot, data_key);

	if (r == 0) {
		r = keyring_add(k->env.keyring, domain, data_key);
		if (r == -EEXIST) { /* unlocked before: the secret is right, and that is all */
			key_wipe(data_key, sizeof(data_key));
			return 0;
		}
	}
	if (r == 0 && d->origin) {
		r = keyring_add_origin(k->env.keyring, domain, d->origin_uuid, d->origin, data_key);
		if (r < 0 && keyring_remove(k->env.keyring, domain) < 0)
			ASSERT(false); /* it was added above */
	}
	key_wipe(data_key, sizeof(data_key));
	if (r < 0)
		return r;
	r = k->env.domain_unlocked(k->env.arg, domain);
	if (r < 0) {
		log_error("crypto domain %u: what waited for its key cannot be applied: %s", domain,
		        strerror(-r));
		if (keyring_remove(k->env.keyring, domain) < 0)
			ASSERT(false); /* it was added above */
		return r;
	}
	keys_mark(k, domain, true);
	return 0;
}

static int images_json(struct keys *k, const struct named_key *key, json_t **ret_json)
{
	unsigned images = 0;

	for (unsigned d = 0; d < key->n_domains; d++) {
		struct key_uses u = {0};
		const int r = keys_uses(k, key, key->domains[d].id, &u);
		if (r < 0)
			return r;
		images += u.images;
	}
	*ret_json = json_pack("{s:s, s:i}", "name", key->name, "images", (int)images);
	return *ret_json ? 0 : -ENOMEM;
}

static int unlock(struct keys *k, const struct filter_caller *who, const struct named_key *key,
        const struct secret *s, struct errmsg *em)
{
	int r = domain_open(k, &key->domains[0], s);
	const struct key_note note = {
	        who, r == 0 ? "key unlock" : "key unlock failed", key->name, NULL, NULL};

	keys_note(k, &note);
	if (r < 0)
		return key_refuse_secret(key->name, s, r, em);
	for (unsigned d = 1; d < key->n_domains; d++) {
		r = domain_open(k, &key->domains[d], s);
		if (r < 0)
			log_error("key '%s': the domain that it is rotated from (%u) does not open "
			          "(%s): images that are still in it stay closed",
			        key->name, key->domains[d].id, strerror(-r));
	}
	return 0;
}

int key_unlock(struct keys *k, const struct filter_caller *who, const char *name,
        const struct secret *s, json_t **ret_json, struct errmsg *em)
{
	struct named_key key;

	pthread_mutex_lock(&k->op_lock);
	int r = keys_find(k, name, &key, em);
	if (r == 0)
		r = keys_protect(k, em);
	if (r == 0)
		r = unlock(k, who, &key, s, em);
	if (r == 0 && !k->env.read_only && key.n_domains > 1) {
		struct errmsg why = {""};
		if (key_rotate_resume(k, who, name, &why) < 0)
			log_error("key '%s': its rotation does not go on: %s", name, why.text);
	}
	if (r == 0 && k->env.unlocked)
		k->env.unlocked(k->env.arg);
	if (r == 0)
		r = images_json(k, &key, ret_json);
	pthread_mutex_unlock(&k->op_lock);
	return r;
}

/* --- lock --- */

struct busy {
	struct keys *k;
	const struct named_key *key;
	uint64_t ino; /* that is open, or worked on */
};

static int found_job(void *arg, uint64_t owner, uint64_t id, const void *value, size_t len)
{
	(void)arg, (void)owner, (void)id, (void)value, (void)len;
	return 1;
}

static bool key_has_domain(const struct named_key *key, uint32_t domain)
{
	for (unsigned d = 0; d < key->n_domains; d++)
		if (key->domains[d].id == domain)
			return true;
	return false;
}

static int busy_image(void *arg, uint64_t ino, uint64_t link, uint32_t domain)
{
	struct busy *b = arg;

	(void)link;
	if (!key_has_domain(b->key, domain))
		return 0;
	bool busy = b->k->env.image_open(b->k->env.arg, ino);
	if (!busy) {
		const int r = ns_record_each(b->k->env.ns, RECORD_JOB, ino, 0, found_job, NULL);
		if (r < 0)
			return r;
		busy = r == 1;
	}
	b->ino = busy ? ino : 0;
	return busy;
}

static int refuse_busy(struct keys *k, const struct named_key *key, struct errmsg *em)
{
	struct busy b = {.k = k, .key = key};
	char path[256];
	const int r = keys_attachments(k->env.ns, busy_image, &b);

	if (r == 0)
		return 0;
	if (r < 0)
		return errmsg_set(
		        em, r, "cannot tell what uses key '%s': %s", key->name, strerror(-r));
	k->env.path_of(k->env.arg, b.ino, path, sizeof(path));
	return errmsg_set(em, -EBUSY,
	        "key '%s' is in use: '%s' is open, or is being converted (weir status %s)",
	        key->name, path, k->env.dir);
}

static void mark_all(struct keys *k, const struct named_key *key, bool unlocked)
{
	for (unsigned d = 0; d < key->n_domains; d++)
		if (key->domains[d].unlocked)
			keys_mark(k, key->domains[d].id, unlocked);
}

int key_domain_forget(struct keys *k, uint32_t domain, struct errmsg *em)
{
	if (!keyring_has(k->env.keyring, domain))
		return 0;
	keys_mark(k, domain, false);
	const int r = k->env.domain_lock(k->env.arg, domain);
	if (r < 0) {
		keys_mark(k, domain, true);
		return errmsg_set(em, r,
		        "cannot commit what is to be sealed with the key first: %s", strerror(-r));
	}
	return keyring_remove(k->env.keyring, domain);
}

static int lock(struct keys *k, const struct named_key *key, struct errmsg *em)
{
	mark_all(k, key, false);
	int r = refuse_busy(k, key, em);
	if (r < 0)
		mark_all(k, key, true);
	for (unsigned d = 0; r == 0 && d < key->n_domains; d++)
		r = key_domain_forget(k, key->domains[d].id, em);
	return r;
}

static int forget_image(void *arg, uint64_t ino, uint64_t link, uint32_t domain)
{
	const struct busy *b = arg;

	(void)link;
	if (key_has_domain(b->key, domain))
		b->k->env.forget_pages(b->k->env.arg, ino);
	return 0;
}

/* What the kernel has read of the images while they were open is plaintext, too. */
static void forget_pages(struct keys *k, const struct named_key *key)
{
	struct busy b = {.k = k, .key = key};
	const int r = keys_attachments(k->env.ns, forget_image, &b);

	if (r < 0)
		log_warn("key '%s': the kernel's page cache may keep what was read with it: %s",
		        key->name, strerror(-r));
}

int key_lock(struct keys *k, const struct filter_caller *who, const char *name, json_t **ret_json,
        struct errmsg *em)
{
	struct named_key key;

	pthread_mutex_lock(&k->op_lock);
	k->env.lock(k->env.arg);
	int r = keys_find(k, name, &key, em);
	if (r == 0)
		r = lock(k, &key, em);
	k->env.unlock(k->env.arg);
	if (r == 0) {
		const struct key_note note = {who, "key lock", key.name, NULL, NULL};
		keys_note(k, &note);
		r = images_json(k, &key, ret_json);
	}
	pthread_mutex_unlock(&k->op_lock);
	if (r == 0)
		forget_pages(k, &key);
	return r;
}

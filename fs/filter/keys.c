/*
 * keys.c - the named keys of a datastore: what there is, and what is unlocked
 *
 * Owns a copy of the rows RECORD_KEY in memory, with a mark for each crypto domain that is
 * unlocked.  The mark is what the manager asks before it opens an image, and is not the same as
 * "the keyring has it": it is set last when unlocking (after the store has applied the log records
 * that waited), and taken back first when locking.  An image is opened under a lock of its own, in
 * which the manager asks and then shows the image as open; so either it sees the mark gone, or
 * whoever locks sees the image.
 *
 * A row is JSON {"created_ns", "domain", "name", "rotating_from": [domain],
 * "origins": [where domains came from]}.  Data keys are in no
 * row but wrapped (RECORD_KEYSLOT), and in memory only in the keyring and, during an operation, on
 * the stack of the thread that does it, which wipes it.
 *
 * What uses a domain is asked of the rows, when it matters: attachments carry their domain, jobs
 * the ones that they take an image out of.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "fs/filter/keys-private.h"
#include "fs/filter/sealed-flag.h"

/* --- one row --- */

bool key_name_good(const char *name)
{
	static const char good[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	                           "0123456789._-";
	const size_t len = name ? strlen(name) : 0;

	/* No ':' or ',': names stand in mount options.  No '-' first: it would be an option. */
	return len > 0 && len <= KEYS_NAME_MAX && strspn(name, good) == len && name[0] != '-';
}

/* --- where it came from --- */

static json_t *origin_json(const struct key_domain *d)
{
	char hex[33];

	for (unsigned i = 0; i < 16; i++)
		snprintf(hex + 2 * (size_t)i, 3, "%02x", d->origin_uuid[i]);
	return json_pack("{s:I, s:s, s:I, s:I}", "domain", (json_int_t)d->id, "uuid", hex, "of",
	        (json_int_t)d->origin, "slots_of", (json_int_t)d->slots_domain);
}

static bool origins_put(json_t *json, const struct named_key *key)
{
	json_t *list = json_array();
	bool good = list;

	for (unsigned i = 0; good && i < key->n_domains; i++)
		if (key->domains[i].origin)
			good = json_array_append_new(list, origin_json(&key->domains[i])) == 0;
	if (good && json_array_size(list) > 0)
		good = json_object_set(json, "origins", list) == 0;
	json_decref(list);
	return good;
}

static bool uuid_take(const char *hex, uint8_t ret_uuid[16])
{
	static const char digits[] = "0123456789abcdef";

	if (!hex || strlen(hex) != 32 || strspn(hex, digits) != 32)
		return false;
	for (unsigned i = 0; i < 16; i++)
		ret_uuid[i] = (uint8_t)((strchr(digits, hex[2 * i]) - digits) << 4 |
		                        (strchr(digits, hex[2 * i + 1]) - digits));
	return true;
}

static bool number_take(const json_t *value, uint32_t *ret_number)
{
	const json_int_t n = json_integer_value(value);

	*ret_number = (uint32_t)n;
	return n >= 1 && n <= UINT32_MAX;
}

static bool origin_take(const json_t *json, struct named_key *key)
{
	struct key_domain o = {0};
	bool good = number_take(json_object_get(json, "domain"), &o.id) &&
	            number_take(json_object_get(json, "of"), &o.origin) &&
	            number_take(json_object_get(json, "slots_of"), &o.slots_domain) &&
	            uuid_take(json_string_value(json_object_get(json, "uuid")), o.origin_uuid);

	for (unsigned i = 0; good && i < key->n_domains; i++) {
		if (key->domains[i].id != o.id)
			continue;
		good = !key->domains[i].origin;
		key->domains[i] = o;
		return good;
	}
	return false;
}

static bool origins_take(const json_t *list, struct named_key *key)
{
	bool good = !list || json_is_array(list);

	for (size_t i = 0; good && i < json_array_size(list); i++)
		good = origin_take(json_array_get(list, i), key);
	return good;
}

char *key_encode(const struct named_key *key)
{
	char *text = NULL;
	json_t *from = json_array();
	bool good = from;

	for (unsigned i = 1; good && i < key->n_domains; i++)
		good = json_array_append_new(from, json_integer(key->domains[i].id)) == 0;
	json_t *json = json_pack("{s:s, s:I, s:I, s:o}", "name", key->name, "domain",
	        (json_int_t)key->domains[0].id, "created_ns", (json_int_t)key->created_ns,
	        "rotating_from", from);
	if (good && json && origins_put(json, key))
		text = json_dumps(json, JSON_COMPACT | JSON_SORT_KEYS);
	json_decref(json);
	return text;
}

static bool domain_take(const json_t *value, struct named_key *key)
{
	const json_int_t id = json_integer_value(value);

	if (key->n_domains == KEYS_DOMAINS_MAX || id < 1 || id > UINT32_MAX)
		return false;
	for (unsigned i = 0; i < key->n_domains; i++)
		if (key->domains[i].id == (uint32_t)id)
			return false;
	key->domains[key->n_domains++] = (struct key_domain){.id = (uint32_t)id};
	return true;
}

static bool key_take(const json_t *json, struct named_key *key)
{
	const char *name = json_string_value(json_object_get(json, "name"));
	const json_t *from = json_object_get(json, "rotating_from");
	const json_int_t created = json_integer_value(json_object_get(json, "created_ns"));

	if (!key_name_good(name) || created < 0 || !json_is_array(from) ||
	        !domain_take(json_object_get(json, "domain"), key))
		return false;
	memcpy(key->name, name, strlen(name) + 1);
	key->created_ns = (uint64_t)created;
	for (size_t i = 0; i < json_array_size(from); i++)
		if (!domain_take(json_array_get(from, i), key))
			return false;
	return origins_take(json_object_get(json, "origins"), key);
}

int key_decode(const void *value, size_t len, struct named_key *ret_key)
{
	json_t *json = json_loadb(value, len, JSON_REJECT_DUPLICATES, NULL);
	struct named_key key = {.number = ret_key->number};
	const bool good = key_take(json, &key);

	json_decref(json);
	if (!good)
		return -EUCLEAN;
	*ret_key = key;
	return 0;
}

/* --- the list --- */

/* With the lock; NULL: none. */
static struct named_key *list_find(struct keys *k, const char *name)
{
	for (unsigned i = 0; i < k->n; i++)
		if (!strcmp(k->list[i].name, name))
			return &k->list[i];
	return NULL;
}

static struct key_domain *list_domain(struct keys *k, uint32_t domain, struct named_key **ret_key)
{
	for (unsigned i = 0; i < k->n; i++) {
		for (unsigned d = 0; d < k->list[i].n_domains; d++) {
			if (k->list[i].domains[d].id == domain) {
				*ret_key = &k->list[i];
				return &k->list[i].domains[d];
			}
		}
	}
	return NULL;
}

static int set_locked(struct keys *k, const struct named_key *key)
{
	unsigned at = 0;

	while (at < k->n && k->list[at].number < key->number)
		at++;
	if (at == k->n || k->list[at].number != key->number) {
		if (k->n == KEYS_MAX)
			return -ENOSPC;
		struct named_key *list = realloc(k->list, (k->n + 1) * sizeof(*list));
		if (!list)
			return -ENOMEM;
		k->list = list;
		memmove(list + at + 1, list + at, (k->n - at) * sizeof(*list));
		k->n++;
	}
	k->list[at] = *key;
	return 0;
}

int keys_set(struct keys *k, const struct named_key *key)
{
	pthread_mutex_lock(&k->lock);
	const int r = set_locked(k, key);
	pthread_mutex_unlock(&k->lock);
	return r;
}

void keys_unset(struct keys *k, uint64_t number)
{
	unsigned at = 0;

	pthread_mutex_lock(&k->lock);
	while (at < k->n && k->list[at].number != number)
		at++;
	if (at < k->n) {
		k->n--;
		memmove(k->list + at, k->list + at + 1, (k->n - at) * sizeof(*k->list));
	}
	pthread_mutex_unlock(&k->lock);
}

void keys_mark(struct keys *k, uint32_t domain, bool unlocked)
{
	struct named_key *key = NULL;

	pthread_mutex_lock(&k->lock);
	struct key_domain *d = list_domain(k, domain, &key);
	if (d)
		d->unlocked = unlocked;
	pthread_mutex_unlock(&k->lock);
}

int keys_find(struct keys *k, const char *name, struct named_key *ret_key, struct errmsg *em)
{
	if (!key_name_good(name))
		return errmsg_set(em, -EINVAL,
		        "'%.80s' is no name of a key (1 to %u letters, digits, '.', '_', '-')",
		        name ? name : "", KEYS_NAME_MAX);
	pthread_mutex_lock(&k->lock);
	const struct named_key *key = list_find(k, name);
	if (key)
		*ret_key = *key;
	pthread_mutex_unlock(&k->lock);
	return key ? 0
	           : errmsg_set(em, -ENOENT, "there is no key '%s' (weir key create %s %s)", name,
	                     k->env.dir, name);
}

int keys_find_domain(struct keys *k, uint32_t domain, struct named_key *ret_key)
{
	struct named_key *key = NULL;

	pthread_mutex_lock(&k->lock);
	const bool found = list_domain(k, domain, &key);
	if (found)
		*ret_key = *key;
	pthread_mutex_unlock(&k->lock);
	return found ? 0 : -ENOENT;
}

/* --- what the manager asks --- */

static int refuse_locked(const struct keys *k, const char *name, struct errmsg *em)
{
	return errmsg_set(
	        em, -ENOKEY, "key '%s' is locked (weir key unlock %s %s)", name, k->env.dir, name);
}

int keys_domain_of(struct keys *k, const char *name, uint32_t *ret_domain, struct errmsg *em)
{
	struct named_key key;
	const int r = keys_find(k, name, &key, em);

	if (r < 0)
		return r;
	if (!key.domains[0].unlocked)
		return refuse_locked(k, name, em);
	*ret_domain = key.domains[0].id;
	return 0;
}

int keys_domain_usable(struct keys *k, uint32_t domain, struct errmsg *em)
{
	struct named_key *key = NULL;
	char name[KEYS_NAME_MAX + 1] = "";

	if (domain == 0)
		return 0;
	pthread_mutex_lock(&k->lock);
	const struct key_domain *d = list_domain(k, domain, &key);
	const bool unlocked = d && d->unlocked;
	if (key)
		memcpy(name, key->name, sizeof(name));
	pthread_mutex_unlock(&k->lock);
	if (!d)
		return errmsg_set(em, -ENOKEY,
		        "crypto domain %u belongs to no key (the metadata is damaged: weir check "
		        "%s)",
		        domain, k->env.dir);
	return unlocked ? 0 : refuse_locked(k, name, em);
}

/* --- rows --- */

int keys_rows(struct keys *k, const struct key_note *note, const struct key_row *rows, unsigned n,
        struct errmsg *em)
{
	const struct keys_env *env = &k->env;
	int r = env->begin(env->arg, em);

	if (r < 0)
		return r;
	/* First: better an entry of what then failed for lack of memory than a change unseen. */
	r = env->audit(
	        env->arg, note->who, note->action, note->key, note->old_value, note->new_value);
	for (unsigned i = 0; r == 0 && i < n; i++) {
		const struct key_row *row = &rows[i];
		r = row->value ? ns_record_put(env->ns, row->table, row->owner, row->id, row->value,
		                         row->len)
		               : ns_record_del(env->ns, row->table, row->owner, row->id);
	}
	env->end(env->arg);
	return r < 0 ? errmsg_set(em, r, "cannot record the change of key '%s': %s", note->key,
	                       strerror(-r))
	             : 0;
}

void keys_note(struct keys *k, const struct key_note *note)
{
	struct errmsg em = {""};

	log_note("%s '%s'%s%s", note->action, note->key, note->new_value ? ": " : "",
	        note->new_value ? note->new_value : "");
	if (k->env.read_only)
		return;
	k->env.lock(k->env.arg);
	const int r = keys_rows(k, note, NULL, 0, &em);
	k->env.unlock(k->env.arg);
	if (r < 0)
		log_error("%s", em.text);
}

struct attachments {
	key_attachment_fn *fn;
	void *arg;
};

static int attachment_take(void *arg, uint64_t ino, uint64_t link, const void *value, size_t len)
{
	struct attachments *a = arg;
	json_t *json = json_loadb(value, len, 0, NULL);
	const json_int_t domain = json_integer_value(json_object_get(json, "domain"));

	json_decref(json);
	return domain > 0 && domain <= UINT32_MAX ? a->fn(a->arg, ino, link, (uint32_t)domain) : 0;
}

int keys_attachments(struct ns *ns, key_attachment_fn *fn, void *arg)
{
	struct attachments a = {fn, arg};

	return ns_record_each_owner(ns, RECORD_ATTACHMENT, attachment_take, &a);
}

struct use_count {
	struct ns *ns;
	uint32_t domain;
	const char *setting; /* "key=NAME", or NULL */
	struct key_uses u;
};

static void use_add(struct use_count *c, uint64_t ino, uint64_t link)
{
	struct ns_inode inode;

	if (c->u.n++ == 0) {
		c->u.ino = ino;
		c->u.link = link;
	}
	if (ns_inode_get(c->ns, ino, &inode) == 0 && S_ISREG(inode.mode))
		c->u.images++;
}

static bool array_has(const json_t *list, uint32_t number, const char *text)
{
	for (size_t i = 0; i < json_array_size(list); i++) {
		const json_t *value = json_array_get(list, i);
		if (number && json_integer_value(value) == (json_int_t)number)
			return true;
		if (text && json_is_string(value) && !strcmp(json_string_value(value), text))
			return true;
	}
	return false;
}

static int use_attachment(void *arg, uint64_t ino, uint64_t link, const void *value, size_t len)
{
	struct use_count *c = arg;
	json_t *json = json_loadb(value, len, 0, NULL);

	if (json_integer_value(json_object_get(json, "domain")) == (json_int_t)c->domain ||
	        (c->setting && array_has(json_object_get(json, "settings"), 0, c->setting)))
		use_add(c, ino, link);
	json_decref(json);
	return 0;
}

/* An image that leaves the domain counts until its job is done. */
static int use_job(void *arg, uint64_t ino, uint64_t link, const void *value, size_t len)
{
	struct use_count *c = arg;
	json_t *json = json_loadb(value, len, 0, NULL);

	if (array_has(json_object_get(json, "from"), c->domain, NULL))
		use_add(c, ino, link);
	json_decref(json);
	return 0;
}

/* What was received sealed and waits for the key. */
static int use_sealed(void *arg, uint64_t ino, uint64_t id, const void *value, size_t len)
{
	struct use_count *c = arg;
	struct sealed_flag f = {0};

	if (id == SEALED_FLAG && sealed_flag_decode(value, len, &f) == 0 && f.domain == c->domain)
		use_add(c, ino, 0);
	sealed_flag_release(&f);
	return 0;
}

int keys_uses(
        struct keys *k, const struct named_key *key, uint32_t domain, struct key_uses *ret_uses)
{
	char setting[KEYS_NAME_MAX + sizeof("key=")];
	struct use_count c = {.ns = k->env.ns, .domain = domain};

	if (domain == key->domains[0].id) { /* also attachments that name it and hold nothing */
		snprintf(setting, sizeof(setting), "key=%s", key->name);
		c.setting = setting;
	}
	int r = ns_record_each_owner(k->env.ns, RECORD_ATTACHMENT, use_attachment, &c);
	if (r == 0)
		r = ns_record_each_owner(k->env.ns, RECORD_JOB, use_job, &c);
	if (r == 0)
		r = ns_record_each_owner(k->env.ns, RECORD_FLAG, use_sealed, &c);
	if (r == 0)
		*ret_uses = c.u;
	return r;
}

/* --- opening --- */

static int row_load(void *arg, uint64_t owner, uint64_t id, const void *value, size_t len)
{
	struct keys *k = arg;
	struct named_key key = {.number = id}, *other = NULL;

	(void)owner;
	bool good = key_decode(value, len, &key) == 0 && !list_find(k, key.name);
	for (unsigned i = 0; good && i < key.n_domains; i++)
		good = !list_domain(k, key.domains[i].id, &other);
	if (!good) { /* the others go on; images of this one do not open */
		log_error("the row of key %llu is damaged (weir check)", (unsigned long long)id);
		return 0;
	}
	return set_locked(k, &key);
}

int keys_open(const struct keys_env *env, struct keys **ret_keys, struct errmsg *em)
{
	struct keys *k = calloc(1, sizeof(*k));

	if (!k)
		return errmsg_set(em, -ENOMEM, "out of memory");
	k->env = *env;
	pthread_mutex_init(&k->op_lock, NULL);
	pthread_mutex_init(&k->lock, NULL);
	const int r = ns_record_each(env->ns, RECORD_KEY, 0, 0, row_load, k);
	if (r < 0) {
		keys_free(k);
		return errmsg_set(em, r, "cannot read the keys: %s", strerror(-r));
	}
	*ret_keys = k;
	return 0;
}

void keys_free(struct keys *k)
{
	if (!k)
		return;
	free(k->list);
	pthread_mutex_destroy(&k->lock);
	pthread_mutex_destroy(&k->op_lock);
	free(k);
}

/*
 * keys-rotate.c - a key gets a new crypto domain, and its images move there
 *
 *	step                                   after a crash there
 *	slot and key rows, one group           nothing happened, or the key rotates
 *	each attachment moved to the new       the next unlock goes on (key_rotate_resume)
 *	domain, with a job                     the jobs go on at the next mount, once unlocked
 *	the last job of an old domain ends     keys_domain_left, or the next unlock, takes the
 *	                                       domain's slots away and forgets its key
 *
 * A new data key can be wrapped only for the secret that is given: the others are not known.  So
 * the new domain has one slot, with the number that this secret's slot has in the old one; the
 * result names those that are to be added again.
 *
 * Directories are moved before images, and the rows are looked at again until none is left in an
 * old domain: what is made in a directory meanwhile inherits its row as it was.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "fs/filter/keys-private.h"

#define MOVE_PASSES 16u

/* --- the end of an old domain --- */

static struct named_key key_without(const struct named_key *key, uint32_t domain)
{
	struct named_key left = *key;

	left.n_domains = 0;
	for (unsigned d = 0; d < key->n_domains; d++)
		if (key->domains[d].id != domain)
			left.domains[left.n_domains++] = key->domains[d];
	return left;
}

static int settle_rows(
        struct keys *k, const struct named_key *left, uint32_t domain, struct errmsg *em)
{
	struct key_row rows[KEY_ROWS_MAX];
	struct key_slots list = {0};
	char what[48];
	unsigned n = 0;
	CLEANUP(free_ptr) char *text = key_encode(left);
	const int r = slots_list(k->env.ns, domain, &list);

	if (r < 0 || !text)
		return r < 0 ? r : -ENOMEM;
	rows[n++] = (struct key_row){RECORD_KEY, 0, left->number, text, strlen(text)};
	for (unsigned i = 0; i < list.n; i++)
		rows[n++] = (struct key_row){RECORD_KEYSLOT, domain, list.slots[i].slot, NULL, 0};
	snprintf(what, sizeof(what), "crypto domain %u is no longer used", domain);
	const struct key_note note = {NULL, "key rotated", left->name, NULL, what};
	return keys_rows(k, &note, rows, n, em);
}

/* With env.lock held. */
static int settle(struct keys *k, uint32_t domain, struct errmsg *em)
{
	struct named_key key;
	struct key_uses u = {0};

	if (keys_find_domain(k, domain, &key) < 0 || key.domains[0].id == domain)
		return 0;
	int r = keys_uses(k, &key, domain, &u);
	if (r < 0 || u.n > 0)
		return r;
	r = key_domain_forget(k, domain, em);
	if (r < 0)
		return r;
	const struct named_key left = key_without(&key, domain);
	r = settle_rows(k, &left, domain, em);
	return r < 0 ? r : keys_set(k, &left);
}

int key_domain_settle(struct keys *k, uint32_t domain)
{
	struct errmsg em = {""};

	k->env.lock(k->env.arg);
	int r = settle(k, domain, &em);
	k->env.unlock(k->env.arg);
	if (r == 0)
		r = k->env.flush(k->env.arg);
	if (r < 0)
		log_error("crypto domain %u cannot be given up yet: %s", domain,
		        em.text[0] ? em.text : strerror(-r));
	return r;
}

/* --- moving images --- */

struct move {
	uint64_t ino, link;
	uint32_t from;
	bool dir;
};

struct moves {
	struct keys *k;
	const struct named_key *key;
	struct move *list; /* owned */
	size_t n, cap;
};

/* A hidden image that a stream goes into. */
static bool is_received(struct ns *ns, uint64_t ino)
{
	struct bytes_out value;

	if (ns_record_get(ns, RECORD_FLAG, ino, RECEIVE_FLAG, &value) < 0)
		return false;
	bytes_release(&value);
	return true;
}

static int move_add(void *arg, uint64_t ino, uint64_t link, uint32_t domain)
{
	struct moves *m = arg;
	struct ns_inode inode;
	bool old = false;

	for (unsigned d = 1; d < m->key->n_domains; d++)
		old = old || m->key->domains[d].id == domain;
	if (!old)
		return 0;
	if (m->n == m->cap) {
		const size_t cap = m->cap ? 2 * m->cap : 64;
		struct move *list = realloc(m->list, cap * sizeof(*list));
		if (!list)
			return -ENOMEM;
		m->list = list;
		m->cap = cap;
	}
	const int r = ns_inode_get(m->k->env.ns, ino, &inode);
	if (r < 0)
		return r == -ENOENT ? 0 : r; /* deleted meanwhile */
	if (inode.nlink == 0 && is_received(m->k->env.ns, ino))
		return 0; /* moved when that is over: until then it counts as a user */
	m->list[m->n++] = (struct move){ino, link, domain, S_ISDIR(inode.mode)};
	return 0;
}

static int moves_pass(
        struct moves *m, bool dirs, const struct filter_caller *who, struct errmsg *em)
{
	const struct keys_env *env = &m->k->env;
	int r = 0;

	for (size_t i = 0; r == 0 && i < m->n; i++) {
		const struct move *mv = &m->list[i];
		if (mv->dir != dirs)
			continue;
		env->lock(env->arg);
		r = env->move(env->arg, who, mv->ino, mv->from, m->key->domains[0].id, em);
		env->unlock(env->arg);
		if (r == -ENOENT) /* deleted or detached meanwhile */
			r = 0;
	}
	return r;
}

/* All attachments of old domains.  What was moved is appended to done, if not NULL. */
static int move_all(struct keys *k, const struct named_key *key, const struct filter_caller *who,
        struct moves *done, struct errmsg *em)
{
	for (unsigned pass = 0; pass < MOVE_PASSES; pass++) {
		struct moves m = {.k = k, .key = key};
		int r = keys_attachments(k->env.ns, move_add, &m);
		if (r == 0)
			r = moves_pass(&m, true, who, em);
		if (r == 0)
			r = moves_pass(&m, false, who, em);
		for (size_t i = 0; r == 0 && done && i < m.n; i++)
			if (!m.list[i].dir)
				r = move_add(done, m.list[i].ino, m.list[i].link, m.list[i].from);
		const bool none = m.n == 0;
		free(m.list);
		if (r < 0 || none)
			return r;
	}
	return errmsg_set(em, -EAGAIN,
	        "images of key '%s' are made faster than they are moved: try again", key->name);
}

static void settle_old(struct keys *k, const struct named_key *key)
{
	for (unsigned d = 1; d < key->n_domains; d++)
		if (key_domain_settle(k, key->domains[d].id) < 0)
			return; /* it has been logged; the next unlock tries again */
}

int key_rotate_resume(
        struct keys *k, const struct filter_caller *who, const char *name, struct errmsg *em)
{
	struct named_key key;
	int r = keys_find(k, name, &key, em);

	if (r == 0)
		r = move_all(k, &key, who, NULL, em);
	if (r == 0)
		settle_old(k, &key);
	return r;
}

/* --- rotating --- */

/* Wraps a new data key for the secret and puts it into the keyring. */
static int domain_new(struct keys *k, const char *name, const struct secret *s, uint32_t domain,
        unsigned slot, uint8_t ret_bytes[KEYSLOT_BYTES_MAX], size_t *ret_len, struct errmsg *em)
{
	uint8_t data_key[SEAL_KEY_LEN];
	int r = key_random(data_key);

	if (r < 0)
		return errmsg_set(em, r, "there are no random bytes for a key");
	r = keyslot_wrap(s->kind, domain, slot, s->data, s->len, data_key, ret_bytes, ret_len, em);
	if (r == 0) {
		r = keyring_add(k->env.keyring, domain, data_key);
		if (r < 0)
			errmsg_set(em, r, "cannot keep key '%s' in memory: %s", name, strerror(-r));
	}
	key_wipe(data_key, sizeof(data_key));
	return r;
}

static int rotate_rows(struct keys *k, const struct filter_caller *who, const struct named_key *key,
        unsigned slot, const uint8_t *bytes, size_t len, struct errmsg *em)
{
	const uint32_t to = key->domains[0].id, from = key->domains[1].id;
	CLEANUP(free_ptr) char *text = key_encode(key);
	char old[32], new[32];

	if (!text)
		return errmsg_set(em, -ENOMEM, "out of memory");
	snprintf(old, sizeof(old), "crypto domain %u", from);
	snprintf(new, sizeof(new), "crypto domain %u", to);
	const struct key_note note = {who, "key rotate", key->name, old, new};
	const struct key_row rows[] = {
	        {RECORD_KEYSLOT, to, slot, bytes, len},
	        {RECORD_KEY, 0, key->number, text, strlen(text)},
	};
	k->env.lock(k->env.arg);
	int r = keys_rows(k, &note, rows, ARRAY_SIZE(rows), em);
	if (r == 0)
		r = keys_set(k, key); /* replaces: cannot fail */
	k->env.unlock(k->env.arg);
	if (r < 0)
		return r;
	r = k->env.flush(k->env.arg);
	return r < 0 ? errmsg_set(em, r, "cannot make the new key durable: %s", strerror(-r)) : 0;
}

static int rotate_check(struct keys *k, const char *name, const struct secret *s,
        struct named_key *ret_key, unsigned *ret_slot, struct errmsg *em)
{
	uint8_t data_key[SEAL_KEY_LEN];
	struct named_key key;
	uint32_t current = 0;
	int r = keys_find(k, name, &key, em);

	if (r == 0)
		r = keys_domain_of(k, name, &current, em); /* must be unlocked */
	if (r < 0)
		return r;
	if (key.n_domains == KEYS_DOMAINS_MAX)
		return errmsg_set(em, -EBUSY,
		        "key '%s' is being rotated from %u domains already: wait until its images "
		        "have moved (weir status %s)",
		        name, KEYS_DOMAINS_MAX - 1, k->env.dir);
	r = slots_open(k->env.ns, &key.domains[0], s, ret_slot, data_key);
	key_wipe(data_key, sizeof(data_key));
	if (r < 0)
		return key_refuse_secret(name, s, r, em);
	*ret_key = key;
	return 0;
}

/* Slots that open the domain before, but not the new one. */
static json_t *dropped_json(struct keys *k, const struct named_key *key)
{
	struct key_slots before = {0}, now = {0};
	json_t *json = json_array();

	if (slots_list(k->env.ns, key->domains[0].id, &now) < 0 ||
	        slots_list(k->env.ns, key->domains[1].id, &before) < 0)
		return json;
	for (unsigned i = 0; i < before.n; i++) {
		bool kept = false;
		for (unsigned j = 0; j < now.n; j++)
			kept = kept || now.slots[j].slot == before.slots[i].slot;
		if (!kept)
			json_array_append_new(
			        json, json_pack("{s:i, s:s}", "slot", (int)before.slots[i].slot,
			                      "kind", keyslot_kind_name(before.slots[i].kind)));
	}
	return json;
}

/* op_lock held.  *ret_key: as it is now, with the new domain; *ret_dropped: also after an error. */
static int rotate(struct keys *k, const struct filter_caller *who, const char *name,
        const struct secret *s, struct named_key *ret_key, struct moves *done, json_t **ret_dropped,
        struct errmsg *em)
{
	uint8_t bytes[KEYSLOT_BYTES_MAX];
	size_t len = 0;
	struct named_key key;
	unsigned slot = 0;
	uint32_t domain = 0;
	int r = rotate_check(k, name, s, &key, &slot, em);

	if (r == 0)
		r = keys_number(k, &domain, em);
	if (r == 0)
		r = domain_new(k, name, s, domain, slot, bytes, &len, em);
	if (r < 0)
		return r;
	memmove(key.domains + 1, key.domains, key.n_domains * sizeof(key.domains[0]));
	key.domains[0] = (struct key_domain){.id = domain, .unlocked = true};
	key.n_domains++;
	r = rotate_rows(k, who, &key, slot, bytes, len, em);
	struct named_key there;
	if (r < 0) {
		if (keys_find_domain(k, domain, &there) < 0 &&
		        keyring_remove(k->env.keyring, domain) < 0)
			ASSERT(false); /* it was added above */
		return r;
	}
	*ret_key = key;
	done->k = k;
	done->key = ret_key;
	*ret_dropped = dropped_json(k, ret_key); /* before the old slots may go */
	r = move_all(k, ret_key, who, done, em);
	if (r == 0)
		settle_old(k, ret_key);
	return r;
}

static int wait_all(struct keys *k, const struct moves *done, gc_progress_fn *fn, void *fn_arg,
        struct errmsg *em)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < done->n; i++)
		r = k->env.wait(k->env.arg, done->list[i].ino, done->list[i].link, fn, fn_arg, em);
	return r;
}

int key_rotate(struct keys *k, const struct filter_caller *who, const char *name,
        const struct secret *s, bool wait, gc_progress_fn *fn, void *fn_arg, json_t **ret_json,
        struct errmsg *em)
{
	struct moves done = {0};
	struct named_key key;
	json_t *dropped = NULL;

	pthread_mutex_lock(&k->op_lock);
	int r = rotate(k, who, name, s, &key, &done, &dropped, em);
	pthread_mutex_unlock(&k->op_lock);
	if (r == 0 && wait)
		r = wait_all(k, &done, fn, fn_arg, em);
	free(done.list);
	if (r < 0) {
		json_decref(dropped);
		return r;
	}
	*ret_json = json_pack("{s:s, s:I, s:i, s:o}", "name", key.name, "domain",
	        (json_int_t)key.domains[0].id, "images", (int)done.n, "dropped", dropped);
	return *ret_json ? 0 : -ENOMEM;
}

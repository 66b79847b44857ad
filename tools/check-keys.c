/*
 * check-keys.c - what is sealed, with a key and without one
 *
 * A check needs no keys: checksums, headers, inner map nodes and references in the clear are all
 * that structure stands on.  What cannot be looked into for want of a key is counted and never
 * taken for damage, nor for unused: a segment that nothing seems to refer to may well be referred
 * to from a sealed leaf.
 *
 * With --key, each file is tried on every key slot of its kind (crypto/keyslot.h), of all named
 * keys: whichever it opens gives the data key of one crypto domain.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "crypto/kdf.h"
#include "crypto/keyslot.h"
#include "fs/filter/keys.h"
#include "meta/records.h"
#include "store/ilog-format.h"
#include "tools/check.h"

struct unlocking {
	struct check *c;
	uint8_t secret[KEYSLOT_SECRET_MAX];
	size_t len;
	unsigned n;
};

static int slot_try(void *arg, uint64_t owner, uint64_t id, const void *value, size_t len)
{
	struct unlocking *u = arg;
	uint8_t key[SEAL_KEY_LEN];
	enum keyslot_kind kind;

	if (owner == 0 || owner > UINT32_MAX || keyslot_kind_of(value, len, &kind) < 0 ||
	        kind != KEYSLOT_FILE)
		return 0;
	const uint32_t bound_to = keys_slots_domain(u->c->ns, (uint32_t)owner);
	if (keyslot_unwrap(value, len, bound_to, (unsigned)id, u->secret, u->len, key) < 0)
		return 0; /* of another key */
	int r = keyring_add(u->c->keys, (uint32_t)owner, key);
	key_wipe(key, sizeof(key));
	u->n++;
	return r == -EEXIST ? 0 : r;
}

static int file_read(const char *path, struct unlocking *u)
{
	const int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	for (;;) {
		const ssize_t n = read(fd, u->secret + u->len, sizeof(u->secret) - u->len);
		if (n <= 0) {
			close(fd);
			return n < 0 ? -EIO : 0;
		}
		u->len += (size_t)n;
	}
}

int check_key_add(struct check *c, const char *path, struct errmsg *em)
{
	struct unlocking *u = calloc(1, sizeof(*u));

	if (!u)
		return errmsg_set(em, -ENOMEM, "out of memory");
	u->c = c;
	int r = keyring_protect(em);
	if (r == 0) {
		r = file_read(path, u);
		if (r < 0)
			errmsg_set(em, r, "cannot read key file '%s': %s", path, strerror(-r));
	}
	if (r == 0) {
		r = ns_record_each_owner(c->ns, RECORD_KEYSLOT, slot_try, u);
		if (r < 0)
			errmsg_set(em, r, "cannot read the key slots: %s", strerror(-r));
	}
	if (r == 0 && u->n == 0)
		r = errmsg_set(em, -EKEYREJECTED,
		        "key file '%s' opens no key of this datastore (weir key list)", path);
	key_wipe(u, sizeof(*u));
	free(u);
	return r;
}

/* --- what stays closed --- */

static void domain_add(struct check *c, uint32_t domain)
{
	for (unsigned i = 0; i < c->n_locked_domains; i++)
		if (c->locked_domains[i] == domain)
			return;
	if (c->n_locked_domains < ARRAY_SIZE(c->locked_domains))
		c->locked_domains[c->n_locked_domains++] = domain;
	else
		c->locked_foreign = true;
}

void check_locked_refs(struct check *c, uint32_t domain, bool foreign)
{
	c->locked_foreign = c->locked_foreign || foreign;
	domain_add(c, domain);
}

bool check_maybe_used(const struct check *c, uint32_t domain)
{
	bool maybe = c->locked_foreign;

	for (unsigned i = 0; i < c->n_locked_domains && !maybe; i++)
		maybe = c->locked_domains[i] == domain;
	return maybe;
}

bool check_refs_unknown(const struct check *c)
{
	return c->locked_foreign || c->n_locked_domains > 0;
}

int check_leaf_unseal(struct check *c, const void *blob, size_t len, uint64_t id, uint32_t domain,
        struct map_node *ret_node)
{
	const struct crypto_domain *d = keyring_get(c->keys, domain);

	if (!d)
		return -ENOKEY;
	const int r = map_node_unseal(blob, len, id, d->leaf, ret_node);
	keyring_put(c->keys, d);
	return r;
}

int check_sealed_record(struct check *c, const struct ilog_record *rec, ilog_record_fn *fn)
{
	const struct crypto_domain *d = keyring_get(c->keys, rec->domain);
	struct ilog_sealed s = {0};
	struct ilog_record inner;
	int r = ilog_sealed_decode(rec, &s);

	if (r == 0 && !d) {
		c->sum.locked_records++;
		if (s.flags & ILOG_SEALED_SHARES)
			check_locked_refs(c, rec->domain, s.flags & ILOG_SEALED_FOREIGN);
	}
	if (r < 0 || !d)
		return r;
	CLEANUP(free_ptr) uint8_t *plain = malloc(rec->len);
	r = plain ? ilog_sealed_open(rec, d->log, plain) : -ENOMEM;
	struct bytes_in in = {.data = plain, .len = rec->len - ILOG_SEALED_OVERHEAD};
	while (r == 0 && in.pos < in.len) {
		r = ilog_record_decode(&in, &inner);
		if (r == 0)
			r = fn(c, &inner);
	}
	keyring_put(c->keys, d);
	return r;
}

/*
 * keyring.c - the crypto domains whose keys are in memory
 *
 * A list under one lock: there are few domains, and a reference is taken once a frame, not once a
 * chunk.  Domain 0 is part of the ring itself, is never counted and never goes.  A domain is freed,
 * and its keys wiped, with its last reference; the ring holds one while it is on the list.
 *
 * Keys are derived with HKDF-SHA-256: secret: the data key; salt: the datastore's uuid; info: a
 * label and the domain's number (u32, little-endian).
 */
#include "store/keyring.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "base/bytes.h"
#include "crypto/kdf.h"

#define LABEL_LEN   16u
#define HASH_RANDOM 1ull

struct domain {
	struct crypto_domain pub; /* first */
	struct domain *next;      /* keyring.lock */
	uint32_t local;           /* of an origin: the domain that it came with */
	uint8_t uuid[16];         /* of an origin: its datastore */
	_Atomic unsigned refs;
};

struct keyring {
	uint8_t uuid[16];
	struct crypto_domain plain; /* domain 0 */
	pthread_mutex_t lock;
	struct domain *domains; /* lock */
	struct domain *origins; /* lock */
};

_Static_assert(DOMAIN_KEY_LEN == KDF_KEY_LEN, "hashing secrets are made like keys");

static void domain_free(struct domain *d)
{
	if (!d)
		return;
	seal_key_free(d->pub.frame);
	seal_key_free(d->pub.log);
	seal_key_free(d->pub.leaf);
	seal_key_free(d->pub.hash);
	key_wipe(d, sizeof(*d));
	free(d);
}

static void domain_freep(struct domain **d)
{
	domain_free(*d);
}

/* label: LABEL_LEN characters at most. */
static int derive(const uint8_t uuid[16], uint32_t id, const uint8_t data_key[SEAL_KEY_LEN],
        const char *label, uint8_t ret_key[KDF_KEY_LEN])
{
	uint8_t info[LABEL_LEN + 4];
	const size_t len = strlen(label);

	ASSERT(len <= LABEL_LEN);
	memcpy(info, label, len);
	put_u32(info + len, id);
	return kdf_hkdf(data_key, SEAL_KEY_LEN, uuid, 16, info, len + 4, ret_key);
}

static int derive_seal(const uint8_t uuid[16], uint32_t id, const uint8_t data_key[SEAL_KEY_LEN],
        const char *label, struct seal_key **ret_key)
{
	uint8_t key[KDF_KEY_LEN];
	int r = derive(uuid, id, data_key, label, key);

	if (r == 0)
		r = seal_key_new(key, ret_key);
	key_wipe(key, sizeof(key));
	return r;
}

static int domain_new(const uint8_t uuid[16], uint32_t id, const uint8_t data_key[SEAL_KEY_LEN],
        struct domain **ret_domain)
{
	CLEANUP(domain_freep) struct domain *d = calloc(1, sizeof(*d));
	uint8_t hash_key[DOMAIN_KEY_LEN];

	if (!d)
		return -ENOMEM;
	d->pub.id = id;
	atomic_init(&d->refs, 1);
	int r = derive_seal(uuid, id, data_key, "weir frame", &d->pub.frame);
	if (r == 0)
		r = derive_seal(uuid, id, data_key, "weir log", &d->pub.log);
	if (r == 0)
		r = derive_seal(uuid, id, data_key, "weir leaf", &d->pub.leaf);
	if (r == 0)
		r = derive_seal(uuid, id, data_key, "weir hash block", &d->pub.hash);
	if (r == 0)
		r = derive(uuid, id, data_key, "weir hash", hash_key);
	if (r < 0)
		return r;
	chunk_hasher_init(&d->pub.hasher, hash_key);
	key_wipe(hash_key, sizeof(hash_key));
	*ret_domain = STEAL(d);
	return 0;
}

int crypto_domain_derive(const uint8_t uuid[16], uint32_t domain,
        const uint8_t data_key[SEAL_KEY_LEN], struct crypto_domain **ret_domain)
{
	struct domain *d = NULL;
	const int r = domain_new(uuid, domain, data_key, &d);

	if (r == 0)
		*ret_domain = &d->pub;
	return r;
}

void crypto_domain_free(struct crypto_domain *pub)
{
	domain_free((struct domain *)pub);
}

int keyring_new(
        const uint8_t uuid[16], const uint8_t hash_key[DOMAIN_KEY_LEN], struct keyring **ret_kr)
{
	struct keyring *kr = calloc(1, sizeof(*kr));

	if (!kr)
		return -ENOMEM;
	memcpy(kr->uuid, uuid, sizeof(kr->uuid));
	chunk_hasher_init(&kr->plain.hasher, hash_key);
	pthread_mutex_init(&kr->lock, NULL);
	*ret_kr = kr;
	return 0;
}

static void list_put(struct keyring *kr, struct domain **list)
{
	while (*list) {
		struct domain *d = *list;
		*list = d->next;
		keyring_put(kr, &d->pub);
	}
}

void keyring_free(struct keyring *kr)
{
	if (!kr)
		return;
	list_put(kr, &kr->domains);
	list_put(kr, &kr->origins);
	pthread_mutex_destroy(&kr->lock);
	key_wipe(kr, sizeof(*kr));
	free(kr);
}

/* Where the domain hangs on the list, or the end of it.  With the lock. */
static struct domain **domain_at(struct keyring *kr, uint32_t id)
{
	struct domain **at = &kr->domains;

	while (*at && (*at)->pub.id != id)
		at = &(*at)->next;
	return at;
}

int keyring_add(struct keyring *kr, uint32_t domain, const uint8_t data_key[SEAL_KEY_LEN])
{
	CLEANUP(domain_freep) struct domain *d = NULL;
	int r = domain == 0 ? -EEXIST : domain_new(kr->uuid, domain, data_key, &d);

	if (r < 0)
		return r;
	pthread_mutex_lock(&kr->lock);
	struct domain **at = domain_at(kr, domain);
	if (*at)
		r = -EEXIST;
	else
		*at = STEAL(d);
	pthread_mutex_unlock(&kr->lock);
	return r;
}

/* Out of the ring's list, into one of the caller's.  With the lock. */
static struct domain *origins_take(struct keyring *kr, uint32_t domain)
{
	struct domain *taken = NULL, **at = &kr->origins;

	while (*at) {
		struct domain *d = *at;
		if (d->local != domain) {
			at = &d->next;
			continue;
		}
		*at = d->next;
		d->next = taken;
		taken = d;
	}
	return taken;
}

int keyring_remove(struct keyring *kr, uint32_t domain)
{
	pthread_mutex_lock(&kr->lock);
	struct domain **at = domain_at(kr, domain);
	struct domain *d = *at, *origins = NULL;
	if (d) {
		*at = d->next;
		origins = origins_take(kr, domain);
	}
	pthread_mutex_unlock(&kr->lock);
	if (!d)
		return -ENOENT;
	keyring_put(kr, &d->pub);
	list_put(kr, &origins);
	return 0;
}

/* --- origins --- */

int keyring_add_origin(struct keyring *kr, uint32_t domain, const uint8_t uuid[16], uint32_t of,
        const uint8_t data_key[SEAL_KEY_LEN])
{
	struct domain *d = NULL;
	int r = domain_new(uuid, of, data_key, &d);

	if (r < 0)
		return r;
	d->local = domain;
	memcpy(d->uuid, uuid, sizeof(d->uuid));
	pthread_mutex_lock(&kr->lock);
	if (*domain_at(kr, domain)) {
		d->next = kr->origins;
		kr->origins = STEAL(d);
	} else {
		r = -ENOENT;
	}
	pthread_mutex_unlock(&kr->lock);
	domain_free(d);
	return r;
}

const struct crypto_domain *keyring_get_origin(
        struct keyring *kr, const uint8_t uuid[16], uint32_t of)
{
	if (!memcmp(uuid, kr->uuid, sizeof(kr->uuid)))
		return of ? keyring_get(kr, of) : NULL;
	pthread_mutex_lock(&kr->lock);
	struct domain *d = kr->origins;
	while (d && (d->pub.id != of || memcmp(d->uuid, uuid, sizeof(d->uuid)) != 0))
		d = d->next;
	if (d)
		atomic_fetch_add_explicit(&d->refs, 1, memory_order_relaxed);
	pthread_mutex_unlock(&kr->lock);
	return d ? &d->pub : NULL;
}

const uint8_t *keyring_uuid(const struct keyring *kr)
{
	return kr->uuid;
}

const struct crypto_domain *keyring_get(struct keyring *kr, uint32_t domain)
{
	if (domain == 0)
		return &kr->plain;
	pthread_mutex_lock(&kr->lock);
	struct domain *d = *domain_at(kr, domain);
	if (d)
		atomic_fetch_add_explicit(&d->refs, 1, memory_order_relaxed);
	pthread_mutex_unlock(&kr->lock);
	return d ? &d->pub : NULL;
}

void keyring_put(struct keyring *kr, const struct crypto_domain *pub)
{
	struct domain *d = (struct domain *)pub;

	if (!pub || pub == &kr->plain)
		return;
	if (atomic_fetch_sub_explicit(&d->refs, 1, memory_order_acq_rel) == 1)
		domain_free(d);
}

bool keyring_has(struct keyring *kr, uint32_t domain)
{
	const struct crypto_domain *d = keyring_get(kr, domain);

	keyring_put(kr, d);
	return d;
}

/* --- hashes --- */

int domain_hashes(const struct crypto_domain *d, struct hash128 *hashes, unsigned n)
{
	uint8_t blocks[DOMAIN_HASHES_MAX * SEAL_BLOCK_LEN];

	ASSERT(n <= DOMAIN_HASHES_MAX);
	if (!d->hash || n == 0)
		return 0;
	for (unsigned i = 0; i < n; i++) {
		put_u64(blocks + (size_t)i * SEAL_BLOCK_LEN, hashes[i].lo);
		put_u64(blocks + (size_t)i * SEAL_BLOCK_LEN + 8, hashes[i].hi);
	}
	const int r = seal_blocks(d->hash, blocks, n, blocks);
	for (unsigned i = 0; r == 0 && i < n; i++) {
		hashes[i].lo = get_u64(blocks + (size_t)i * SEAL_BLOCK_LEN) & ~HASH_RANDOM;
		hashes[i].hi = get_u64(blocks + (size_t)i * SEAL_BLOCK_LEN + 8);
	}
	return r;
}

int domain_hash(const struct crypto_domain *d, const void *chunk, struct hash128 *ret_hash)
{
	struct hash128 hash = chunk_hash(&d->hasher, chunk);
	const int r = domain_hashes(d, &hash, 1);

	if (r == 0)
		*ret_hash = hash;
	return r;
}

int domain_hashes_random(struct hash128 *ret_hashes, unsigned n)
{
	const int r = seal_random(ret_hashes, n * sizeof(*ret_hashes));

	for (unsigned i = 0; r == 0 && i < n; i++)
		ret_hashes[i].lo |= HASH_RANDOM;
	return r;
}

/* --- memory --- */

int keyring_protect(struct errmsg *em)
{
	const struct rlimit none = {0, 0};

	if (prctl(PR_SET_DUMPABLE, 0) < 0 || setrlimit(RLIMIT_CORE, &none) < 0) {
		const int err = -errno;
		return errmsg_set(em, err, "cannot rule out core dumps: %s", strerror(-err));
	}
	/* ONFAULT: what was reserved and never touched takes no memory. */
	if (mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) < 0) {
		const int err = errno == EAGAIN ? -ENOMEM : -errno;
		return errmsg_set(em, err,
		        "cannot lock memory, so keys could reach swap: %s (raise the limit: "
		        "'ulimit -l unlimited', or LimitMEMLOCK=infinity in the service)",
		        strerror(-err));
	}
	return 0;
}

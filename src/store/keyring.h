/*
 * keyring.h - the crypto domains whose keys are in memory
 *
 * A *crypto domain* is a number (u32) with one random 256-bit data key.  0 is the domain of what is
 * not encrypted: it is always there, has a hashing secret (store_state.domain_key) and no keys.
 * From a data key, HKDF-SHA-256 (RFC 5869, salt: the datastore's uuid) derives one key a purpose:
 * frames, log records, map leaves, and two for chunk hashes.  Rotating a key is moving images to a new
 * domain.
 *
 * Chunk hashes are stored beside what is sealed, so that scanning, checking and rewriting take no
 * key; so they must tell nothing of the content.  XXH3 is no pseudo-random function, however secret
 * its secret: a guest who chooses chunks and reads the hashes of them from the disk may well find the
 * secret, and then try what a chunk holds against its hash.  So in a domain other than 0 the
 * XXH3-128 is encrypted, as one block, with AES-256: of chunks with different XXH3 hashes nothing is
 * learnt (a universal hash under a pseudo-random permutation, Carter and Wegman 1981), and what equal
 * hashes tell, that chunks are equal, deduplication tells as well.  Where chunks are not
 * deduplicated, that must not be told: there the hash is random, and marked as such, for nobody may
 * look for a chunk by it.  Nothing is lost: a sealed frame is authentic without it.
 *
 * Memory: keys live in locked pages that are left out of core dumps (keyring_protect), and are
 * wiped when the last user of a domain lets go of it.
 *
 * Threads: any.  A domain that is taken stays usable until it is put, also when it was locked
 * meanwhile.
 */
#pragma once

#include "base/errmsg.h"
#include "crypto/seal.h"
#include "store/chunk.h"

struct keyring;

struct crypto_domain {
	uint32_t id;
	struct chunk_hasher hasher;
	struct seal_key *frame, *log, *leaf, *hash; /* NULL for domain 0 */
};
/*
 * What a chunk (CHUNK_SIZE bytes) is known by in this domain.  -EIO: libcrypto's, never in domain 0.
 */
int domain_hash(
        const struct crypto_domain *d, const void *chunk, struct hash128 *ret_hash) MUST_CHECK;
/*
 * The same for n chunks, in place, of what chunk_hash() with d->hasher made of them; at most
 * DOMAIN_HASHES_MAX.
 */
int domain_hashes(const struct crypto_domain *d, struct hash128 *hashes, unsigned n) MUST_CHECK;
#define DOMAIN_HASHES_MAX LEAF_CHUNKS
/* For n chunks of a domain other than 0 that are never to be found by their content. */
int domain_hashes_random(struct hash128 *ret_hashes, unsigned n) MUST_CHECK;
/* Bit 0 of a hash in a domain other than 0. */
static inline bool domain_hash_is_random(uint32_t domain, struct hash128 hash)
{
	return domain != 0 && hash.lo & 1;
}

/*
 * The keys of a domain as the datastore with this uuid derives them, outside any ring: to open what was
 * sealed there.  The caller's; locked memory as the ring's.  -ENOMEM, -EIO.
 */
int crypto_domain_derive(const uint8_t uuid[16], uint32_t domain,
        const uint8_t data_key[SEAL_KEY_LEN], struct crypto_domain **ret_domain) MUST_CHECK;
void crypto_domain_free(struct crypto_domain *d); /* wipes; accepts NULL; of crypto_domain_derive */

/* uuid: of the datastore; hash_key: of domain 0. */
int keyring_new(const uint8_t uuid[16], const uint8_t hash_key[DOMAIN_KEY_LEN],
        struct keyring **ret_kr) MUST_CHECK;
void keyring_free(struct keyring *kr); /* wipes; accepts NULL */
/* -EEXIST: it is there. */
int keyring_add(
        struct keyring *kr, uint32_t domain, const uint8_t data_key[SEAL_KEY_LEN]) MUST_CHECK;
/* No keyring_get finds it any more.  -ENOENT. */
int keyring_remove(struct keyring *kr, uint32_t domain) MUST_CHECK;
/* A reference, or NULL: locked or unknown. */
const struct crypto_domain *keyring_get(struct keyring *kr, uint32_t domain);
void keyring_put(struct keyring *kr, const struct crypto_domain *d); /* accepts NULL */
bool keyring_has(struct keyring *kr, uint32_t domain);

/*
 * A domain whose data key came from another datastore (its slots did, with what is sealed there): besides the
 * keys that are derived for this one, those of its origin, to open what was sealed there.  They go with the
 * domain.  -ENOENT: the domain is not there.
 */
int keyring_add_origin(struct keyring *kr, uint32_t domain, const uint8_t uuid[16], uint32_t of,
        const uint8_t data_key[SEAL_KEY_LEN]) MUST_CHECK;
/* The keys of domain `of` of the datastore with that uuid, this one's too; or NULL.  keyring_put. */
const struct crypto_domain *keyring_get_origin(
        struct keyring *kr, const uint8_t uuid[16], uint32_t of);
/* Of this datastore; 16 bytes. */
const uint8_t *keyring_uuid(const struct keyring *kr);

/*
 * Before the first key comes into this process: no core dumps (also not by ptrace or a crash
 * handler), all memory locked, so that neither keys nor plaintext reach swap.  -EPERM, -ENOMEM with
 * em: what limit to raise.
 */
int keyring_protect(struct errmsg *em) MUST_CHECK;

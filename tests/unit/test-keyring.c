/*
 * test-keyring.c - domains come and go; keys differ by domain, purpose and datastore
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <openssl/evp.h>

#include "base/bytes.h"
#include "crypto/kdf.h"
#include "store/keyring.h"

static const uint8_t uuid_a[16] = {1}, uuid_b[16] = {2};
static const uint8_t hash_key[DOMAIN_KEY_LEN] = {3}, key_1[SEAL_KEY_LEN] = {4};

static struct keyring *ring_of(const uint8_t uuid[16])
{
	struct keyring *kr = NULL;

	assert_int_equal(keyring_new(uuid, hash_key, &kr), 0);
	return kr;
}

static void domain_0_is_always_there(void **state)
{
	struct keyring *kr = ring_of(uuid_a);
	const struct crypto_domain *d = keyring_get(kr, 0);
	struct chunk_hasher h;

	chunk_hasher_init(&h, hash_key);
	assert_non_null(d);
	assert_null(d->frame);
	assert_memory_equal(&d->hasher, &h, sizeof(h));
	assert_true(keyring_has(kr, 0));
	assert_int_equal(keyring_add(kr, 0, key_1), -EEXIST);
	assert_int_equal(keyring_remove(kr, 0), -ENOENT);
	keyring_put(kr, d);
	keyring_free(kr);
}

static void domains_come_and_go(void **state)
{
	struct keyring *kr = ring_of(uuid_a);

	assert_null(keyring_get(kr, 7));
	assert_int_equal(keyring_add(kr, 7, key_1), 0);
	assert_int_equal(keyring_add(kr, 7, key_1), -EEXIST);
	assert_int_equal(keyring_add(kr, 8, key_1), 0);
	assert_true(keyring_has(kr, 7));
	assert_int_equal(keyring_remove(kr, 7), 0);
	assert_int_equal(keyring_remove(kr, 7), -ENOENT);
	assert_false(keyring_has(kr, 7));
	assert_true(keyring_has(kr, 8));
	keyring_free(kr);
}

/* By libcrypto alone: AES-256 of the XXH3-128, under the key that HKDF makes for it; bit 0 is free. */
static void a_domains_hash_is_an_encrypted_one(void **state)
{
	const uint8_t info[] = "weir hash block\7\0\0"; /* with the 0 at its end: u32 7 */
	struct keyring *kr = ring_of(uuid_a);
	struct hash128 hash, hashes[3], zero;
	uint8_t chunk[CHUNK_SIZE], key[KDF_KEY_LEN], block[16], want[16];
	int len = 0;

	for (unsigned i = 0; i < sizeof(chunk); i++)
		chunk[i] = (uint8_t)(i * 7);
	assert_int_equal(keyring_add(kr, 7, key_1), 0);
	const struct crypto_domain *d = keyring_get(kr, 7), *plain = keyring_get(kr, 0);
	const struct hash128 xxh = chunk_hash(&d->hasher, chunk);
	put_u64(block, xxh.lo);
	put_u64(block + 8, xxh.hi);
	assert_int_equal(kdf_hkdf(key_1, sizeof(key_1), uuid_a, 16, info, sizeof(info), key), 0);
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
	assert_int_equal(EVP_EncryptInit_ex(ctx, EVP_aes_256_ecb(), NULL, key, NULL), 1);
	assert_int_equal(EVP_EncryptUpdate(ctx, want, &len, block, 16), 1);
	EVP_CIPHER_CTX_free(ctx);
	assert_int_equal(domain_hash(d, chunk, &hash), 0);
	assert_int_equal(hash.lo, get_u64(want) & ~1ull);
	assert_int_equal(hash.hi, get_u64(want + 8));
	assert_false(domain_hash_is_random(7, hash));
#ifndef WEIR_HASH_BITS
	assert_int_equal(hash.lo, 0xbd3f8b9c9dbc8f3e);
	assert_int_equal(hash.hi, 0x1262adfd0164f022);
#endif
	/* Many at once are each the same; without encryption they stay what they are. */
	hashes[0] = hashes[2] = xxh;
	hashes[1] = (struct hash128){0};
	assert_int_equal(domain_hashes(d, hashes, 3), 0);
	assert_true(hash_equal(hashes[0], hash) && hash_equal(hashes[2], hash));
	zero = hashes[1];
	assert_false(hash_equal(zero, hash));
	assert_int_equal(domain_hash(plain, chunk, &hash), 0);
	assert_true(hash_equal(hash, chunk_hash(&plain->hasher, chunk)));
	keyring_put(kr, d);
	keyring_free(kr);
}

static void random_hashes_are_marked(void **state)
{
	struct hash128 hashes[64];

	assert_int_equal(domain_hashes_random(hashes, 64), 0);
	for (unsigned i = 0; i < 64; i++) {
		assert_true(domain_hash_is_random(7, hashes[i]));
		assert_false(domain_hash_is_random(0, hashes[i])); /* any hash, there */
		for (unsigned k = 0; k < i; k++)
			assert_false(hash_equal(hashes[i], hashes[k]));
	}
}

static void a_domain_in_use_stays_usable(void **state)
{
	struct keyring *kr = ring_of(uuid_a);
	uint8_t sealed[4 + SEAL_OVERHEAD], out[4];

	assert_int_equal(keyring_add(kr, 7, key_1), 0);
	const struct crypto_domain *d = keyring_get(kr, 7);
	assert_int_equal(keyring_remove(kr, 7), 0);
	assert_int_equal(seal(d->frame, NULL, 0, "text", 4, sealed), 0);
	/* The same key again is the same domain. */
	assert_int_equal(keyring_add(kr, 7, key_1), 0);
	const struct crypto_domain *again = keyring_get(kr, 7);
	assert_ptr_not_equal(d, again);
	assert_int_equal(unseal(again->frame, NULL, 0, sealed, sizeof(sealed), out), 0);
	keyring_put(kr, d);
	keyring_put(kr, again);
	keyring_free(kr);
}

static bool opens(const struct seal_key *a, const struct seal_key *b)
{
	uint8_t sealed[4 + SEAL_OVERHEAD], out[4];

	assert_int_equal(seal(a, NULL, 0, "text", 4, sealed), 0);
	return unseal(b, NULL, 0, sealed, sizeof(sealed), out) == 0;
}

static void keys_differ_by_purpose_domain_and_datastore(void **state)
{
	struct keyring *a = ring_of(uuid_a), *b = ring_of(uuid_b);

	assert_int_equal(keyring_add(a, 7, key_1), 0);
	assert_int_equal(keyring_add(a, 8, key_1), 0);
	assert_int_equal(keyring_add(b, 7, key_1), 0);
	const struct crypto_domain *a7 = keyring_get(a, 7), *a8 = keyring_get(a, 8),
	                           *b7 = keyring_get(b, 7);
	assert_true(opens(a7->frame, a7->frame));
	assert_false(opens(a7->frame, a7->log));
	assert_false(opens(a7->log, a7->leaf));
	assert_false(opens(a7->frame, a7->leaf));
	assert_false(opens(a7->frame, a8->frame));
	assert_false(opens(a7->frame, b7->frame));
	assert_memory_not_equal(&a7->hasher, &a8->hasher, sizeof(a7->hasher));
	assert_memory_not_equal(&a7->hasher, &b7->hasher, sizeof(a7->hasher));
	keyring_put(a, a7);
	keyring_put(a, a8);
	keyring_put(b, b7);
	keyring_free(a);
	keyring_free(b);
}

static int protect_child(void)
{
	struct rlimit lim;
	struct errmsg em = {""};
	const int r = keyring_protect(&em);

	if (r < 0) /* a low limit for locked memory: then it must say what to do */
		return (r == -EPERM || r == -ENOMEM) && strstr(em.text, "ulimit -l") ? 0 : 1;
	if (prctl(PR_GET_DUMPABLE) != 0 || getrlimit(RLIMIT_CORE, &lim) < 0)
		return 2;
	return lim.rlim_cur == 0 && lim.rlim_max == 0 ? 0 : 3;
}

static void protecting_leaves_no_core_dumps(void **state)
{
	int status = 0;
	const pid_t pid = fork();

	if (pid == 0)
		_exit(protect_child());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(domain_0_is_always_there),
	        cmocka_unit_test(domains_come_and_go),
	        cmocka_unit_test(a_domains_hash_is_an_encrypted_one),
	        cmocka_unit_test(random_hashes_are_marked),
	        cmocka_unit_test(a_domain_in_use_stays_usable),
	        cmocka_unit_test(keys_differ_by_purpose_domain_and_datastore),
	        cmocka_unit_test(protecting_leaves_no_core_dumps),
	};

	return cmocka_run_group_tests_name("keyring", tests, NULL, NULL);
}

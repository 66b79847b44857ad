/*
 * test-seal.c - XAES-256-GCM: known answers, another way to the same bytes, and what must not open
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>

#include "crypto/seal.h"

#define LEN_MAX 70000u

static const uint8_t nonce_abc[SEAL_NONCE_LEN] = "ABCDEFGHIJKLMNOPQRSTUVWX";

static struct seal_key *key_of(uint8_t byte)
{
	uint8_t key[SEAL_KEY_LEN];
	struct seal_key *k = NULL;

	memset(key, byte, sizeof(key));
	assert_int_equal(seal_key_new(key, &k), 0);
	return k;
}

static void hex(const uint8_t *p, size_t n, char *out)
{
	for (size_t i = 0; i < n; i++)
		sprintf(out + 2 * i, "%02x", p[i]);
}

/* The specification's vectors, https://c2sp.org/XAES-256-GCM. */
static void known_answer(uint8_t byte, const char *aad, const char *want)
{
	const char text[] = "XAES-256-GCM";
	uint8_t out[sizeof(text) - 1 + SEAL_OVERHEAD];
	char got[2 * sizeof(out) + 1];
	struct seal_key *k = key_of(byte);

	assert_int_equal(
	        seal_with_nonce(k, nonce_abc, aad, strlen(aad), text, sizeof(text) - 1, out), 0);
	assert_memory_equal(out, nonce_abc, SEAL_NONCE_LEN);
	hex(out + SEAL_NONCE_LEN, sizeof(out) - SEAL_NONCE_LEN, got);
	assert_string_equal(got, want);
	seal_key_free(k);
}

static void gives_the_answers_of_the_specification(void **state)
{
	/* Both branches of the doubling: the first block's high bit is clear in one, set in the
	 * other. */
	known_answer(1, "", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271");
	known_answer(3, "c2sp.org/XAES-256-GCM",
	        "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d");
}

/* CMAC as libcrypto has it, of the KBKDF's block i. */
static void cmac_block(const uint8_t key[32], unsigned i, const uint8_t *nonce, uint8_t out[16])
{
	char cipher[] = "AES-256-CBC";
	const OSSL_PARAM params[] = {
	        OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_CIPHER, cipher, 0),
	        OSSL_PARAM_construct_end(),
	};
	uint8_t m[16] = {0, (uint8_t)i, 'X', 0};
	size_t len = 0;
	EVP_MAC *mac = EVP_MAC_fetch(NULL, "CMAC", NULL);
	EVP_MAC_CTX *ctx = EVP_MAC_CTX_new(mac);

	memcpy(m + 4, nonce, 12);
	assert_int_equal(EVP_MAC_init(ctx, key, 32, params), 1);
	assert_int_equal(EVP_MAC_update(ctx, m, sizeof(m)), 1);
	assert_int_equal(EVP_MAC_final(ctx, out, &len, 16), 1);
	assert_int_equal(len, 16);
	EVP_MAC_CTX_free(ctx);
	EVP_MAC_free(mac);
}

static void compose(const uint8_t key[32], const uint8_t *nonce, const uint8_t *aad, size_t aad_len,
        const uint8_t *in, size_t len, uint8_t *out)
{
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
	uint8_t kx[32];
	int n = 0;

	cmac_block(key, 1, nonce, kx);
	cmac_block(key, 2, nonce, kx + 16);
	memcpy(out, nonce, SEAL_NONCE_LEN);
	out += SEAL_NONCE_LEN;
	assert_int_equal(EVP_EncryptInit_ex(ctx, EVP_aes_256_gcm(), NULL, kx, nonce + 12), 1);
	assert_int_equal(EVP_EncryptUpdate(ctx, NULL, &n, aad, (int)aad_len), 1);
	assert_int_equal(EVP_EncryptUpdate(ctx, out, &n, in, (int)len), 1);
	assert_int_equal(EVP_EncryptFinal_ex(ctx, out + len, &n), 1);
	assert_int_equal(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_GET_TAG, 16, out + len), 1);
	EVP_CIPHER_CTX_free(ctx);
}

static void fill(uint8_t *p, size_t n, uint32_t seed)
{
	for (size_t i = 0; i < n; i++) {
		seed = seed * 1664525 + 1013904223;
		p[i] = (uint8_t)(seed >> 24);
	}
}

static void is_cmac_and_gcm_put_together(void **state)
{
	static uint8_t in[LEN_MAX], got[LEN_MAX + SEAL_OVERHEAD], want[LEN_MAX + SEAL_OVERHEAD];
	const size_t lens[] = {1, 15, 16, 17, 4096, 32768, LEN_MAX};

	for (unsigned i = 0; i < 40; i++) {
		const size_t len = lens[i % ARRAY_SIZE(lens)];
		uint8_t key[32], nonce[SEAL_NONCE_LEN], aad[100];
		struct seal_key *k = NULL;
		fill(key, sizeof(key), i * 7 + 1);
		fill(nonce, sizeof(nonce), i * 7 + 2);
		fill(aad, sizeof(aad), i * 7 + 3);
		fill(in, len, i * 7 + 4);
		assert_int_equal(seal_key_new(key, &k), 0);
		assert_int_equal(seal_with_nonce(k, nonce, aad, i, in, len, got), 0);
		compose(key, nonce, aad, i, in, len, want);
		assert_memory_equal(got, want, len + SEAL_OVERHEAD);
		seal_key_free(k);
	}
}

static void opens_what_it_sealed(void **state)
{
	static uint8_t in[LEN_MAX], sealed[LEN_MAX + SEAL_OVERHEAD], out[LEN_MAX];
	const size_t lens[] = {0, 1, 16, 4095, LEN_MAX};
	struct seal_key *k = key_of(9);

	fill(in, sizeof(in), 5);
	for (unsigned i = 0; i < ARRAY_SIZE(lens); i++) {
		assert_int_equal(seal(k, "aad", 3, in, lens[i], sealed), 0);
		assert_int_equal(unseal(k, "aad", 3, sealed, lens[i] + SEAL_OVERHEAD, out), 0);
		assert_memory_equal(in, out, lens[i]);
	}
	seal_key_free(k);
}

static void no_bit_may_change(void **state)
{
	const char text[] = "forty-two bytes of what nobody is to know";
	uint8_t sealed[sizeof(text) + SEAL_OVERHEAD], out[sizeof(text)];
	struct seal_key *k = key_of(2), *other = key_of(4);

	assert_int_equal(seal(k, "head", 4, text, sizeof(text), sealed), 0);
	for (unsigned bit = 0; bit < sizeof(sealed) * 8; bit++) {
		sealed[bit / 8] ^= (uint8_t)BIT(bit % 8);
		assert_int_equal(unseal(k, "head", 4, sealed, sizeof(sealed), out), -EBADMSG);
		sealed[bit / 8] ^= (uint8_t)BIT(bit % 8);
	}
	assert_int_equal(unseal(k, "heaD", 4, sealed, sizeof(sealed), out), -EBADMSG);
	assert_int_equal(unseal(k, "head", 3, sealed, sizeof(sealed), out), -EBADMSG);
	assert_int_equal(unseal(other, "head", 4, sealed, sizeof(sealed), out), -EBADMSG);
	for (size_t len = 0; len < sizeof(sealed); len++)
		assert_int_equal(unseal(k, "head", 4, sealed, len, out), -EBADMSG);
	assert_int_equal(unseal(k, "head", 4, sealed, sizeof(sealed), out), 0);
	seal_key_free(k);
	seal_key_free(other);
}

static void what_is_not_authentic_does_not_get_out(void **state)
{
	uint8_t in[256], sealed[sizeof(in) + SEAL_OVERHEAD], out[sizeof(in)];
	const uint8_t zeros[sizeof(in)] = {0};
	struct seal_key *k = key_of(2);

	memset(in, 0x5a, sizeof(in));
	assert_int_equal(seal(k, NULL, 0, in, sizeof(in), sealed), 0);
	sealed[sizeof(sealed) - 1] ^= 1;
	assert_int_equal(unseal(k, NULL, 0, sealed, sizeof(sealed), out), -EBADMSG);
	assert_memory_equal(out, zeros, sizeof(out));
	seal_key_free(k);
}

static int nonce_order(const void *a, const void *b)
{
	return memcmp(a, b, SEAL_NONCE_LEN);
}

static void each_object_has_a_nonce_of_its_own(void **state)
{
	enum { N = 4096 };
	static uint8_t sealed[N][1 + SEAL_OVERHEAD];
	struct seal_key *k = key_of(2);

	for (unsigned i = 0; i < N; i++)
		assert_int_equal(seal(k, NULL, 0, "x", 1, sealed[i]), 0);
	qsort(sealed, N, sizeof(sealed[0]), nonce_order);
	for (unsigned i = 1; i < N; i++)
		assert_memory_not_equal(sealed[i - 1], sealed[i], SEAL_NONCE_LEN);
	seal_key_free(k);
}

static void *seal_many(void *arg)
{
	const struct seal_key *k = arg;
	uint8_t in[5000], sealed[sizeof(in) + SEAL_OVERHEAD], out[sizeof(in)];

	for (unsigned i = 0; i < 2000; i++) {
		memset(in, (int)i, sizeof(in));
		if (seal(k, &i, sizeof(i), in, sizeof(in), sealed) < 0 ||
		        unseal(k, &i, sizeof(i), sealed, sizeof(sealed), out) < 0 ||
		        memcmp(in, out, sizeof(in)) != 0)
			return (void *)1;
	}
	return NULL;
}

static void one_key_serves_many_threads(void **state)
{
	struct seal_key *k = key_of(7);
	pthread_t t[4];

	for (unsigned i = 0; i < ARRAY_SIZE(t); i++)
		assert_int_equal(pthread_create(&t[i], NULL, seal_many, k), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
		void *failed = NULL;
		pthread_join(t[i], &failed);
		assert_null(failed);
	}
	seal_key_free(k);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(gives_the_answers_of_the_specification),
	        cmocka_unit_test(is_cmac_and_gcm_put_together),
	        cmocka_unit_test(opens_what_it_sealed),
	        cmocka_unit_test(no_bit_may_change),
	        cmocka_unit_test(what_is_not_authentic_does_not_get_out),
	        cmocka_unit_test(each_object_has_a_nonce_of_its_own),
	        cmocka_unit_test(one_key_serves_many_threads),
	};

	return cmocka_run_group_tests_name("seal", tests, NULL, NULL);
}

/*
 * kdf.c - HKDF and scrypt, which are libcrypto's
 *
 * No state; any thread.  The memory limit that libcrypto puts on scrypt is raised to what the
 * parameters need: who may choose them is for the caller to check.
 */
#include "crypto/kdf.h"

#include <errno.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <string.h>

void key_wipe(void *p, size_t len)
{
	OPENSSL_cleanse(p, len);
}

static void kdf_ctx_freep(EVP_KDF_CTX **ctx)
{
	EVP_KDF_CTX_free(*ctx);
}

int kdf_hkdf(const void *secret, size_t secret_len, const void *salt, size_t salt_len,
        const void *info, size_t info_len, uint8_t ret_key[KDF_KEY_LEN])
{
	char digest[] = "SHA256";
	uint8_t key[KDF_KEY_LEN];
	/* libcrypto does not write to what these point to. */
	const OSSL_PARAM params[] = {
	        OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0),
	        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, (void *)secret, secret_len),
	        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SALT, (void *)salt, salt_len),
	        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, (void *)info, info_len),
	        OSSL_PARAM_construct_end(),
	};
	EVP_KDF *kdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
	CLEANUP(kdf_ctx_freep) EVP_KDF_CTX *ctx = kdf ? EVP_KDF_CTX_new(kdf) : NULL;

	EVP_KDF_free(kdf);
	if (!ctx)
		return -ENOMEM;
	if (EVP_KDF_derive(ctx, key, sizeof(key), params) != 1)
		return -EIO;
	memcpy(ret_key, key, sizeof(key));
	key_wipe(key, sizeof(key));
	return 0;
}

int kdf_scrypt(const void *secret, size_t secret_len, const void *salt, size_t salt_len,
        unsigned log_n, unsigned r, unsigned p, uint8_t *ret_key, size_t len)
{
	const uint64_t n = 1ull << log_n;
	const uint64_t need = 128ull * r * (n + p + 2);
	uint8_t key[64];

	ASSERT(len <= sizeof(key) && log_n > 0 && log_n < 32);
	if (EVP_PBE_scrypt(secret, secret_len, salt, salt_len, n, r, p, need, key, len) != 1)
		return -ENOMEM;
	memcpy(ret_key, key, len);
	key_wipe(key, sizeof(key));
	return 0;
}

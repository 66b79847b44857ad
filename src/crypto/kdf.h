/*
 * kdf.h - keys from keys and passphrases: HKDF and scrypt
 *
 * Threads: any.  Errors: -EIO: libcrypto failed; -ENOMEM.
 */
#pragma once

#include "base/compiler.h"

#define KDF_KEY_LEN 32u

/* HKDF-SHA-256 (RFC 5869) of a secret, extract and expand, to KDF_KEY_LEN bytes. */
int kdf_hkdf(const void *secret, size_t secret_len, const void *salt, size_t salt_len,
        const void *info, size_t info_len, uint8_t ret_key[KDF_KEY_LEN]) MUST_CHECK;

/* scrypt (RFC 7914) with N = 2^log_n: takes 128 * N * r bytes while it runs.  len <= 64. */
int kdf_scrypt(const void *secret, size_t secret_len, const void *salt, size_t salt_len,
        unsigned log_n, unsigned r, unsigned p, uint8_t *ret_key, size_t len) MUST_CHECK;

/* Overwrites secrets in a way that no optimizer takes out. */
void key_wipe(void *p, size_t len);

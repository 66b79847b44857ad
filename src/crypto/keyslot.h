/*
 * keyslot.h - a data key, wrapped: by a passphrase, a key file, or as a recovery key
 *
 * A slot holds the data key sealed (seal.h) under a key-encryption key: scrypt (RFC 7914) of a
 * passphrase, HKDF of a key file (at least 32 bytes of it), or a random recovery key that is shown
 * once as text.  aad: domain, slot number, kind and parameters.  Rewrapping replaces slots and
 * leaves data alone.  Encoded as bytes for the metadata store; decoding has a fuzz target.
 */
#pragma once

#include "base/errmsg.h"
#include "crypto/kdf.h" /* key_wipe */
#include "crypto/seal.h"

enum keyslot_kind { KEYSLOT_PASSPHRASE = 1, KEYSLOT_FILE = 2, KEYSLOT_RECOVERY = 3 };

#define KEYSLOT_SECRET_MAX (64u << 10) /* of a key file or passphrase */
#define KEYSLOT_BYTES_MAX  256u        /* encoded */
/* "weir-" + 14 groups of 4 letters and digits, check digits included, terminated. */
#define RECOVERY_TEXT_LEN 80u

/* Wraps; scrypt takes about half a second and 128 MiB.  *ret_len <= KEYSLOT_BYTES_MAX. */
int keyslot_wrap(enum keyslot_kind kind, uint32_t domain, unsigned slot, const void *secret,
        size_t secret_len, const uint8_t data_key[SEAL_KEY_LEN],
        uint8_t ret_bytes[KEYSLOT_BYTES_MAX], size_t *ret_len, struct errmsg *em) MUST_CHECK;
/* -EKEYREJECTED: not the right secret; -EUCLEAN: not a slot; -EPROTONOSUPPORT: a newer one. */
int keyslot_unwrap(const uint8_t *bytes, size_t len, uint32_t domain, unsigned slot,
        const void *secret, size_t secret_len, uint8_t ret_data_key[SEAL_KEY_LEN]) MUST_CHECK;
int keyslot_kind_of(const uint8_t *bytes, size_t len, enum keyslot_kind *ret_kind) MUST_CHECK;

/* A fresh data key or recovery secret of SEAL_KEY_LEN random bytes. */
int key_random(uint8_t ret_key[SEAL_KEY_LEN]) MUST_CHECK;
void recovery_text(const uint8_t key[SEAL_KEY_LEN], char ret_text[RECOVERY_TEXT_LEN]);
/* -EINVAL with em: a typing error, where it can be told. */
int recovery_parse(const char *text, uint8_t ret_key[SEAL_KEY_LEN], struct errmsg *em) MUST_CHECK;

/*
 * seal.h - authenticated encryption of stored objects: XAES-256-GCM
 *
 * A sealed object is {nonce: 24 bytes, ciphertext: as long as the plaintext, tag: 16 bytes}.
 * XAES-256-GCM (C2SP, https://c2sp.org/XAES-256-GCM): two AES blocks over the first half of a
 * 192-bit nonce give a key of its own for AES-256-GCM with the second half (NIST SP 800-108r1 KDF in
 * counter mode with CMAC, SP 800-38D); AES and GCM are libcrypto's.
 *
 * Why nonces do not repeat.  Every nonce is 192 fresh random bits of libcrypto's generator.  It
 * follows from no state of the datastore, no counter, no offset: so nothing that turns such state
 * back (a crash that loses what was written, a restore of an old copy of the datastore, a snapshot
 * rolled back, a clone written in two places) makes one come again.  With 2^64 objects under one key
 * two of them share a nonce with a probability of 2^-65.
 *
 * Threads: any; a key is immutable and may be used by many at a time.  Contexts of libcrypto are
 * kept a thread.  Errors: -EBADMSG: not authentic (damaged, another key, another aad); -ENOMEM; -EIO:
 * libcrypto failed (no random bytes).
 */
#pragma once

#include "base/compiler.h"

#define SEAL_KEY_LEN   32u
#define SEAL_NONCE_LEN 24u
#define SEAL_TAG_LEN   16u
#define SEAL_OVERHEAD  (SEAL_NONCE_LEN + SEAL_TAG_LEN)

struct seal_key;

/* Copies the key into memory that is wiped by seal_key_free. */
int seal_key_new(const uint8_t key[SEAL_KEY_LEN], struct seal_key **ret_key) MUST_CHECK;
void seal_key_free(struct seal_key *k); /* accepts NULL */

/* out holds len + SEAL_OVERHEAD bytes and does not overlap in. */
int seal(const struct seal_key *k, const void *aad, size_t aad_len, const void *in, size_t len,
        uint8_t *out) MUST_CHECK;
/* in of len bytes, overhead included; out holds len - SEAL_OVERHEAD.  Untouched... is void on error. */
int unseal(const struct seal_key *k, const void *aad, size_t aad_len, const void *in, size_t len,
        uint8_t *out) MUST_CHECK;
/*
 * AES-256 of n blocks of 16 bytes, each by itself, under the key as it is: a permutation, for values
 * that do not come twice or may be told to.  Of a key that nothing is sealed with.  out may be in.
 */
int seal_blocks(const struct seal_key *k, const void *in, unsigned n, void *out) MUST_CHECK;
#define SEAL_BLOCK_LEN 16u
/* n bytes that nobody can guess. */
int seal_random(void *out, size_t n) MUST_CHECK;
/* With a nonce of the caller's, for known-answer tests only. */
int seal_with_nonce(const struct seal_key *k, const uint8_t nonce[SEAL_NONCE_LEN], const void *aad,
        size_t aad_len, const void *in, size_t len, uint8_t *out) MUST_CHECK;

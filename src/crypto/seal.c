/*
 * seal.c - XAES-256-GCM from libcrypto's AES and GCM
 *
 * The construction, for a key K and a nonce N of 24 bytes:
 *
 *	L  = AES-256(K, zeros)                   once a key
 *	K1 = L doubled in GF(2^128)              once a key: CMAC's subkey for whole blocks
 *	Kx = AES-256(K, M1 ^ K1) || AES-256(K, M2 ^ K1)
 *	     Mi = {0, i, 'X', 0, N[0..11]}
 *	AES-256-GCM with key Kx and nonce N[12..23]
 *
 * Where keys are.  K lives in the cipher context of its seal_key, and nowhere else: two blocks an
 * object are encrypted there under a lock, which is held for less than a tenth of a microsecond.
 * (A context a thread would have to be given K for every object, and to forget it again.)  Kx lives
 * in the calling thread's GCM context, which is made to forget it before the call returns.  Both
 * contexts are libcrypto's, which wipes them when they are freed.
 *
 * Threads: any.  The contexts of a thread go with it, by the destructor of a pthread key.
 */
#include "crypto/seal.h"

#include <errno.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <pthread.h>
#include <string.h>

#include "crypto/kdf.h"

#define BLOCK_LEN     SEAL_BLOCK_LEN
#define GCM_NONCE_LEN 12u
#define GF128_POLY    0x87u

struct seal_key {
	pthread_mutex_t lock;
	EVP_CIPHER_CTX *aes; /* lock; ECB of the key */
	uint8_t k1[BLOCK_LEN];
};

/* --- a thread's context --- */

static pthread_once_t gcm_once = PTHREAD_ONCE_INIT;
static pthread_key_t gcm_key;
static bool gcm_key_made;
static const uint8_t no_key[SEAL_KEY_LEN];

static void gcm_ctx_free(void *ctx)
{
	EVP_CIPHER_CTX_free(ctx);
}

static void gcm_key_make(void)
{
	gcm_key_made = pthread_key_create(&gcm_key, gcm_ctx_free) == 0;
}

/* NULL: out of memory. */
static EVP_CIPHER_CTX *gcm_ctx(void)
{
	pthread_once(&gcm_once, gcm_key_make);
	if (!gcm_key_made)
		return NULL;
	EVP_CIPHER_CTX *ctx = pthread_getspecific(gcm_key);
	if (ctx)
		return ctx;
	ctx = EVP_CIPHER_CTX_new();
	if (!ctx || EVP_CipherInit_ex(ctx, EVP_aes_256_gcm(), NULL, NULL, NULL, 1) != 1 ||
	        pthread_setspecific(gcm_key, ctx) != 0) {
		EVP_CIPHER_CTX_free(ctx);
		return NULL;
	}
	return ctx;
}

/* --- keys --- */

static void seal_key_freep(struct seal_key **k)
{
	seal_key_free(*k);
}

/* n blocks. */
static int aes_blocks(EVP_CIPHER_CTX *aes, const uint8_t *in, unsigned n, uint8_t *out)
{
	int len = 0;

	if (EVP_EncryptUpdate(aes, out, &len, in, (int)(n * BLOCK_LEN)) != 1)
		return -EIO;
	return len == (int)(n * BLOCK_LEN) ? 0 : -EIO;
}

static void block_double(const uint8_t in[BLOCK_LEN], uint8_t out[BLOCK_LEN])
{
	const uint8_t carry = in[0] >> 7;

	for (unsigned i = 0; i < BLOCK_LEN; i++)
		out[i] = (uint8_t)(in[i] << 1 | (i + 1 < BLOCK_LEN ? in[i + 1] >> 7 : 0));
	out[BLOCK_LEN - 1] ^= (uint8_t)(carry * GF128_POLY);
}

int seal_key_new(const uint8_t key[SEAL_KEY_LEN], struct seal_key **ret_key)
{
	CLEANUP(seal_key_freep) struct seal_key *k = calloc(1, sizeof(*k));
	uint8_t l[BLOCK_LEN] = {0};

	if (!k)
		return -ENOMEM;
	pthread_mutex_init(&k->lock, NULL);
	k->aes = EVP_CIPHER_CTX_new();
	if (!k->aes)
		return -ENOMEM;
	if (EVP_EncryptInit_ex(k->aes, EVP_aes_256_ecb(), NULL, key, NULL) != 1 ||
	        EVP_CIPHER_CTX_set_padding(k->aes, 0) != 1)
		return -EIO;
	const int r = aes_blocks(k->aes, l, 1, l);
	if (r < 0)
		return r;
	block_double(l, k->k1);
	key_wipe(l, sizeof(l));
	*ret_key = STEAL(k);
	return 0;
}

void seal_key_free(struct seal_key *k)
{
	if (!k)
		return;
	EVP_CIPHER_CTX_free(k->aes);
	pthread_mutex_destroy(&k->lock);
	key_wipe(k, sizeof(*k));
	free(k);
}

/* The key of the object with this nonce. */
static int object_key(const struct seal_key *k, const uint8_t nonce[SEAL_NONCE_LEN],
        uint8_t ret_key[SEAL_KEY_LEN])
{
	/* The lock and what it guards are no part of what the key is. */
	struct seal_key *mutable = (struct seal_key *)k;
	uint8_t m[2 * BLOCK_LEN];

	for (unsigned b = 0; b < 2; b++) {
		uint8_t *at = m + b * BLOCK_LEN;
		at[0] = 0;
		at[1] = (uint8_t)(b + 1);
		at[2] = 'X';
		at[3] = 0;
		memcpy(at + 4, nonce, GCM_NONCE_LEN);
		for (unsigned i = 0; i < BLOCK_LEN; i++)
			at[i] ^= k->k1[i];
	}
	pthread_mutex_lock(&mutable->lock);
	const int r = aes_blocks(mutable->aes, m, 2, ret_key);
	pthread_mutex_unlock(&mutable->lock);
	key_wipe(m, sizeof(m));
	return r;
}

int seal_blocks(const struct seal_key *k, const void *in, unsigned n, void *out)
{
	struct seal_key *mutable = (struct seal_key *)k; /* as in object_key */

	pthread_mutex_lock(&mutable->lock);
	const int r = aes_blocks(mutable->aes, in, n, out);
	pthread_mutex_unlock(&mutable->lock);
	return r;
}

int seal_random(void *out, size_t n)
{
	ASSERT(n <= INT32_MAX);
	return RAND_bytes(out, (int)n) == 1 ? 0 : -EIO;
}

/* --- objects --- */

/* The thread's context, ready for the object. */
static int object_begin(const struct seal_key *k, const uint8_t nonce[SEAL_NONCE_LEN],
        const void *aad, size_t aad_len, bool encrypt, EVP_CIPHER_CTX **ret_ctx)
{
	EVP_CIPHER_CTX *ctx = gcm_ctx();
	uint8_t key[SEAL_KEY_LEN];
	int len = 0;

	if (!ctx)
		return -ENOMEM;
	int r = object_key(k, nonce, key);
	if (r == 0 && EVP_CipherInit_ex(ctx, NULL, NULL, key, nonce + GCM_NONCE_LEN, encrypt) != 1)
		r = -EIO;
	key_wipe(key, sizeof(key));
	if (r == 0 && aad_len > 0 && EVP_CipherUpdate(ctx, NULL, &len, aad, (int)aad_len) != 1)
		r = -EIO;
	if (r == 0)
		*ret_ctx = ctx;
	return r;
}

/* Takes the object's key out of the thread's context. */
static int object_end(EVP_CIPHER_CTX *ctx)
{
	return EVP_CipherInit_ex(ctx, NULL, NULL, no_key, NULL, 1) == 1 ? 0 : -EIO;
}

static int object_seal(EVP_CIPHER_CTX *ctx, const void *in, size_t len, uint8_t *out)
{
	int n = 0;

	if (len > 0 && EVP_EncryptUpdate(ctx, out, &n, in, (int)len) != 1)
		return -EIO;
	if (EVP_EncryptFinal_ex(ctx, out + len, &n) != 1)
		return -EIO;
	return EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, SEAL_TAG_LEN, out + len) == 1 ? 0
	                                                                                     : -EIO;
}

int seal_with_nonce(const struct seal_key *k, const uint8_t nonce[SEAL_NONCE_LEN], const void *aad,
        size_t aad_len, const void *in, size_t len, uint8_t *out)
{
	EVP_CIPHER_CTX *ctx = NULL;

	ASSERT(len <= INT32_MAX && aad_len <= INT32_MAX);
	int r = object_begin(k, nonce, aad, aad_len, true, &ctx);
	if (r < 0)
		return r;
	memcpy(out, nonce, SEAL_NONCE_LEN);
	r = object_seal(ctx, in, len, out + SEAL_NONCE_LEN);
	const int ended = object_end(ctx);
	return r < 0 ? r : ended;
}

int seal(const struct seal_key *k, const void *aad, size_t aad_len, const void *in, size_t len,
        uint8_t *out)
{
	uint8_t nonce[SEAL_NONCE_LEN];

	const int r = seal_random(nonce, sizeof(nonce));

	if (r < 0)
		return r;
	return seal_with_nonce(k, nonce, aad, aad_len, in, len, out);
}

static int object_unseal(EVP_CIPHER_CTX *ctx, const uint8_t *in, size_t len, uint8_t *out)
{
	uint8_t tag[SEAL_TAG_LEN], rest[BLOCK_LEN];
	int n = 0;

	memcpy(tag, in + len, sizeof(tag)); /* libcrypto takes it as not constant */
	if (EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, SEAL_TAG_LEN, tag) != 1)
		return -EIO;
	if (len > 0 && EVP_DecryptUpdate(ctx, out, &n, in, (int)len) != 1)
		return -EIO;
	return EVP_DecryptFinal_ex(ctx, rest, &n) == 1 ? 0 : -EBADMSG;
}

int unseal(const struct seal_key *k, const void *aad, size_t aad_len, const void *in, size_t len,
        uint8_t *out)
{
	EVP_CIPHER_CTX *ctx = NULL;

	ASSERT(len <= INT32_MAX && aad_len <= INT32_MAX);
	if (len < SEAL_OVERHEAD)
		return -EBADMSG;
	int r = object_begin(k, in, aad, aad_len, false, &ctx);
	if (r < 0)
		return r;
	r = object_unseal(ctx, (const uint8_t *)in + SEAL_NONCE_LEN, len - SEAL_OVERHEAD, out);
	const int ended = object_end(ctx);
	if (r < 0)
		key_wipe(out, len - SEAL_OVERHEAD); /* nothing of what is not authentic gets out */
	return r < 0 ? r : ended;
}

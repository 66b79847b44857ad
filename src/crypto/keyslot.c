/*
 * keyslot.c - wrapping a data key, and recovery keys as text
 *
 * A slot, encoded (integers little-endian; FORMAT.md has it, too):
 *
 *	0   4   "WKEY"
 *	4   1   version, 1
 *	5   1   kind
 *	6   1   scrypt: log2 of N, else 0
 *	7   1   scrypt: r, else 0
 *	8   1   scrypt: p, else 0
 *	9   3   zero
 *	12  32  salt, random
 *	44  72  the data key, sealed under the key-encryption key
 *
 * The sealing's aad is "weir keyslot", domain and slot number (u32 each) and bytes 0-43: so a slot
 * that was put in another place, or had its parameters changed, does not open.  The key-encryption
 * key is used for this one object; a new salt comes with each wrapping.
 *
 * Limits on scrypt's parameters are checked before it runs, since a slot may come from a file that
 * someone made up: at most 1 GiB, and p at most 4.
 *
 * Recovery text: 56 digits of base 32 (Crockford's alphabet: no I, L, O, U) in groups of four, 256
 * bits of key and 24 bits of its SHA-256, after "weir-".  Read without regard to case, spaces and
 * dashes; I and L are taken for 1, O for 0.
 *
 * No state; any thread.
 */
#include "crypto/keyslot.h"

#include <ctype.h>
#include <errno.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <string.h>

#include "base/bytes.h"
#include "crypto/kdf.h"

#define SLOT_MAGIC    0x59454b57u /* "WKEY" */
#define SLOT_VERSION  1u
#define SALT_LEN      32u
#define HEAD_LEN      44u
#define SLOT_LEN      (HEAD_LEN + SEAL_KEY_LEN + SEAL_OVERHEAD)
#define SECRET_MIN    32u /* of a key file */
#define SCRYPT_LOG_N  17u
#define SCRYPT_R      8u
#define SCRYPT_P      1u
#define SCRYPT_MEMORY (1ull << 30)
#define SCRYPT_P_MAX  4u

#define AAD_LABEL "weir keyslot"
#define AAD_LEN   (sizeof(AAD_LABEL) - 1 + 8 + HEAD_LEN)

_Static_assert(SLOT_LEN <= KEYSLOT_BYTES_MAX, "slots are longer than they may be");

struct slot {
	enum keyslot_kind kind;
	unsigned log_n, r, p;
	const uint8_t *salt, *sealed; /* into the bytes */
};

static bool scrypt_valid(const struct slot *s)
{
	if (s->kind != KEYSLOT_PASSPHRASE)
		return s->log_n == 0 && s->r == 0 && s->p == 0;
	if (s->log_n < 10 || s->log_n > 22 || s->r < 1 || s->p < 1 || s->p > SCRYPT_P_MAX)
		return false;
	return (128ull * s->r << s->log_n) <= SCRYPT_MEMORY;
}

static int slot_decode(const uint8_t *bytes, size_t len, struct slot *ret_slot)
{
	if (len < 6 || get_u32(bytes) != SLOT_MAGIC)
		return -EUCLEAN;
	if (bytes[4] != SLOT_VERSION)
		return bytes[4] > SLOT_VERSION ? -EPROTONOSUPPORT : -EUCLEAN;
	if (len != SLOT_LEN || bytes[5] < KEYSLOT_PASSPHRASE || bytes[5] > KEYSLOT_RECOVERY)
		return -EUCLEAN;
	const struct slot s = {
	        .kind = (enum keyslot_kind)bytes[5],
	        .log_n = bytes[6],
	        .r = bytes[7],
	        .p = bytes[8],
	        .salt = bytes + 12,
	        .sealed = bytes + HEAD_LEN,
	};
	if (bytes[9] || bytes[10] || bytes[11] || !scrypt_valid(&s))
		return -EUCLEAN;
	*ret_slot = s;
	return 0;
}

static void aad_fill(const uint8_t *head, uint32_t domain, unsigned slot, uint8_t aad[AAD_LEN])
{
	const size_t label = sizeof(AAD_LABEL) - 1;

	memcpy(aad, AAD_LABEL, label);
	put_u32(aad + label, domain);
	put_u32(aad + label + 4, slot);
	memcpy(aad + label + 8, head, HEAD_LEN);
}

/* The key-encryption key. */
static int kek_new(
        const struct slot *s, const void *secret, size_t secret_len, struct seal_key **ret_kek)
{
	static const char info_file[] = "weir keyslot file", info_rec[] = "weir keyslot recovery";
	uint8_t kek[SEAL_KEY_LEN];
	int r = 0;

	if (s->kind == KEYSLOT_PASSPHRASE)
		r = kdf_scrypt(secret, secret_len, s->salt, SALT_LEN, s->log_n, s->r, s->p, kek,
		        sizeof(kek));
	else if (s->kind == KEYSLOT_FILE)
		r = kdf_hkdf(secret, secret_len, s->salt, SALT_LEN, info_file,
		        sizeof(info_file) - 1, kek);
	else
		r = kdf_hkdf(
		        secret, secret_len, s->salt, SALT_LEN, info_rec, sizeof(info_rec) - 1, kek);
	if (r == 0)
		r = seal_key_new(kek, ret_kek);
	key_wipe(kek, sizeof(kek));
	return r;
}

static bool secret_len_valid(enum keyslot_kind kind, size_t len)
{
	if (kind == KEYSLOT_PASSPHRASE)
		return len >= 1 && len <= KEYSLOT_SECRET_MAX;
	if (kind == KEYSLOT_FILE)
		return len >= SECRET_MIN && len <= KEYSLOT_SECRET_MAX;
	return len == SEAL_KEY_LEN;
}

static int secret_check(enum keyslot_kind kind, size_t len, struct errmsg *em)
{
	if (secret_len_valid(kind, len))
		return 0;
	if (kind == KEYSLOT_PASSPHRASE)
		return errmsg_set(em, -EINVAL,
		        len == 0 ? "the passphrase is empty"
		                 : "the passphrase is longer than %u bytes",
		        KEYSLOT_SECRET_MAX);
	if (kind == KEYSLOT_FILE)
		return errmsg_set(em, -EINVAL,
		        "the key file has %zu bytes, not %u to %u (head -c 64 /dev/urandom makes "
		        "a good one)",
		        len, SECRET_MIN, KEYSLOT_SECRET_MAX);
	return errmsg_set(em, -EINVAL, "a recovery key has %u bytes, not %zu", SEAL_KEY_LEN, len);
}

static void head_encode(enum keyslot_kind kind, uint8_t bytes[HEAD_LEN])
{
	const bool scrypt = kind == KEYSLOT_PASSPHRASE;

	put_u32(bytes, SLOT_MAGIC);
	put_u8(bytes + 4, SLOT_VERSION);
	put_u8(bytes + 5, (uint8_t)kind);
	put_u8(bytes + 6, scrypt ? SCRYPT_LOG_N : 0);
	put_u8(bytes + 7, scrypt ? SCRYPT_R : 0);
	put_u8(bytes + 8, scrypt ? SCRYPT_P : 0);
	memset(bytes + 9, 0, 3);
}

int keyslot_wrap(enum keyslot_kind kind, uint32_t domain, unsigned slot, const void *secret,
        size_t secret_len, const uint8_t data_key[SEAL_KEY_LEN],
        uint8_t ret_bytes[KEYSLOT_BYTES_MAX], size_t *ret_len, struct errmsg *em)
{
	uint8_t bytes[SLOT_LEN], aad[AAD_LEN];
	struct seal_key *kek = NULL;
	struct slot s;

	int r = secret_check(kind, secret_len, em);
	if (r < 0)
		return r;
	memset(bytes, 0, sizeof(bytes));
	head_encode(kind, bytes);
	r = key_random(bytes + 12);
	if (r == 0)
		r = slot_decode(bytes, sizeof(bytes), &s);
	if (r == 0)
		r = kek_new(&s, secret, secret_len, &kek);
	aad_fill(bytes, domain, slot, aad);
	if (r == 0)
		r = seal(kek, aad, sizeof(aad), data_key, SEAL_KEY_LEN, bytes + HEAD_LEN);
	seal_key_free(kek);
	if (r < 0)
		return errmsg_set(em, r, "cannot wrap the key: %s", strerror(-r));
	memcpy(ret_bytes, bytes, sizeof(bytes));
	*ret_len = sizeof(bytes);
	return 0;
}

int keyslot_unwrap(const uint8_t *bytes, size_t len, uint32_t domain, unsigned slot,
        const void *secret, size_t secret_len, uint8_t ret_data_key[SEAL_KEY_LEN])
{
	uint8_t aad[AAD_LEN], key[SEAL_KEY_LEN];
	struct seal_key *kek = NULL;
	struct slot s;

	int r = slot_decode(bytes, len, &s);
	if (r < 0)
		return r;
	if (!secret_len_valid(s.kind, secret_len))
		return -EKEYREJECTED;
	r = kek_new(&s, secret, secret_len, &kek);
	if (r < 0)
		return r;
	aad_fill(bytes, domain, slot, aad);
	r = unseal(kek, aad, sizeof(aad), s.sealed, SLOT_LEN - HEAD_LEN, key);
	seal_key_free(kek);
	if (r == 0)
		memcpy(ret_data_key, key, sizeof(key));
	key_wipe(key, sizeof(key));
	return r == -EBADMSG ? -EKEYREJECTED : r;
}

int keyslot_kind_of(const uint8_t *bytes, size_t len, enum keyslot_kind *ret_kind)
{
	struct slot s;
	const int r = slot_decode(bytes, len, &s);

	if (r == 0)
		*ret_kind = s.kind;
	return r;
}

int key_random(uint8_t ret_key[SEAL_KEY_LEN])
{
	return RAND_priv_bytes(ret_key, SEAL_KEY_LEN) == 1 ? 0 : -EIO;
}

/* --- recovery text --- */

#define TEXT_PREFIX  "weir"
#define TEXT_CHECK   3u /* bytes of SHA-256 */
#define TEXT_DIGITS  56u
#define TEXT_GROUP   4u
#define TEXT_PAYLOAD (SEAL_KEY_LEN + TEXT_CHECK)

_Static_assert(TEXT_DIGITS * 5 == TEXT_PAYLOAD * 8, "digits hold just the payload");
_Static_assert(
        sizeof(TEXT_PREFIX) - 1 + TEXT_DIGITS + TEXT_DIGITS / TEXT_GROUP + 1 <= RECOVERY_TEXT_LEN,
        "the text fits");

static const char digits[] = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";

static int check_bytes(const uint8_t key[SEAL_KEY_LEN], uint8_t ret_check[TEXT_CHECK])
{
	uint8_t sum[EVP_MAX_MD_SIZE];

	if (EVP_Digest(key, SEAL_KEY_LEN, sum, NULL, EVP_sha256(), NULL) != 1)
		return -EIO;
	memcpy(ret_check, sum, TEXT_CHECK);
	return 0;
}

/* Five bits from bit i * 5 on, the highest first. */
static unsigned digit_get(const uint8_t *payload, unsigned i)
{
	unsigned v = 0;

	for (unsigned bit = i * 5; bit < i * 5 + 5; bit++)
		v = v << 1 | (payload[bit / 8] >> (7 - bit % 8) & 1);
	return v;
}

static void digit_put(uint8_t *payload, unsigned i, unsigned v)
{
	for (unsigned k = 0; k < 5; k++) {
		const unsigned bit = i * 5 + k;
		if (v >> (4 - k) & 1)
			payload[bit / 8] |= (uint8_t)(0x80 >> bit % 8);
	}
}

void recovery_text(const uint8_t key[SEAL_KEY_LEN], char ret_text[RECOVERY_TEXT_LEN])
{
	uint8_t payload[TEXT_PAYLOAD];
	size_t n = sizeof(TEXT_PREFIX) - 1;

	memcpy(payload, key, SEAL_KEY_LEN);
	const int r = check_bytes(key, payload + SEAL_KEY_LEN);
	ASSERT(r == 0); /* one block of SHA-256 needs nothing that could be missing */
	memcpy(ret_text, TEXT_PREFIX, n);
	for (unsigned i = 0; i < TEXT_DIGITS; i++) {
		if (i % TEXT_GROUP == 0)
			ret_text[n++] = '-';
		ret_text[n++] = digits[digit_get(payload, i)];
	}
	ret_text[n] = '\0';
	key_wipe(payload, sizeof(payload));
}

/* -1: no digit. */
static int digit_value(char c)
{
	const int up = toupper((unsigned char)c);
	const char same = (char)(up == 'O' ? '0' : up == 'I' || up == 'L' ? '1' : up);
	const char *at = same ? strchr(digits, same) : NULL;

	return at ? (int)(at - digits) : -1;
}

static const char *prefix_skip(const char *text)
{
	while (isspace((unsigned char)*text))
		text++;
	if (strncasecmp(text, TEXT_PREFIX "-", sizeof(TEXT_PREFIX)) == 0)
		text += sizeof(TEXT_PREFIX);
	return text;
}

static int digits_parse(const char *text, uint8_t payload[TEXT_PAYLOAD], struct errmsg *em)
{
	unsigned n = 0;

	for (; *text; text++) {
		if (*text == '-' || isspace((unsigned char)*text))
			continue;
		const int v = digit_value(*text);
		if (v < 0)
			return errmsg_set(em, -EINVAL,
			        "'%c' in group %u of the recovery key is no letter or digit of one",
			        isprint((unsigned char)*text) ? *text : '?', n / TEXT_GROUP + 1);
		if (n == TEXT_DIGITS)
			return errmsg_set(em, -EINVAL,
			        "the recovery key has more than %u letters and digits",
			        TEXT_DIGITS);
		digit_put(payload, n++, (unsigned)v);
	}
	if (n < TEXT_DIGITS)
		return errmsg_set(em, -EINVAL, "the recovery key has %u letters and digits, not %u",
		        n, TEXT_DIGITS);
	return 0;
}

int recovery_parse(const char *text, uint8_t ret_key[SEAL_KEY_LEN], struct errmsg *em)
{
	uint8_t payload[TEXT_PAYLOAD] = {0}, check[TEXT_CHECK];
	int r = digits_parse(prefix_skip(text), payload, em);

	if (r == 0)
		r = check_bytes(payload, check);
	if (r == 0 && memcmp(check, payload + SEAL_KEY_LEN, TEXT_CHECK) != 0)
		r = errmsg_set(
		        em, -EINVAL, "the recovery key is mistyped: its check digits do not fit");
	if (r == 0)
		memcpy(ret_key, payload, SEAL_KEY_LEN);
	key_wipe(payload, sizeof(payload));
	return r;
}

/*
 * test-keyslot.c - wrapped keys open with their secret, in their place, and with nothing else
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "crypto/kdf.h"
#include "crypto/keyslot.h"

static const uint8_t data_key[SEAL_KEY_LEN] = "0123456789abcdefghijklmnopqrstu";

static void hex(const uint8_t *p, size_t n, char *out)
{
	for (size_t i = 0; i < n; i++)
		sprintf(out + 2 * i, "%02x", p[i]);
}

static void scrypt_gives_the_answers_of_rfc_7914(void **state)
{
	uint8_t key[64];
	char got[2 * sizeof(key) + 1];

	assert_int_equal(kdf_scrypt("password", 8, "NaCl", 4, 10, 8, 16, key, sizeof(key)), 0);
	hex(key, sizeof(key), got);
	assert_string_equal(got,
	        "fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b373162"
	        "2eaf30d92e22a3886ff109279d9830dac727afb94a83ee6d8360cbdfa2cc0640");
	assert_int_equal(
	        kdf_scrypt("pleaseletmein", 13, "SodiumChloride", 14, 14, 8, 1, key, sizeof(key)),
	        0);
	hex(key, sizeof(key), got);
	assert_string_equal(got,
	        "7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2"
	        "d5432955613f0fcf62d49705242a9af9e61e85dc0d651e40dfcf017b45575887");
}

static void hkdf_gives_the_answers_of_rfc_5869(void **state)
{
	uint8_t ikm[22], salt[13], info[10], key[KDF_KEY_LEN];
	char got[2 * sizeof(key) + 1];

	memset(ikm, 0x0b, sizeof(ikm));
	for (unsigned i = 0; i < sizeof(salt); i++)
		salt[i] = (uint8_t)i;
	for (unsigned i = 0; i < sizeof(info); i++)
		info[i] = (uint8_t)(0xf0 + i);
	assert_int_equal(
	        kdf_hkdf(ikm, sizeof(ikm), salt, sizeof(salt), info, sizeof(info), key), 0);
	hex(key, sizeof(key), got);
	/* The first 32 of test case 1's 42 bytes. */
	assert_string_equal(
	        got, "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf");
}

static size_t wrap(
        enum keyslot_kind kind, const void *secret, size_t len, uint8_t bytes[KEYSLOT_BYTES_MAX])
{
	struct errmsg em = {""};
	size_t n = 0;

	assert_int_equal(keyslot_wrap(kind, 5, 2, secret, len, data_key, bytes, &n, &em), 0);
	assert_in_range(n, 1, KEYSLOT_BYTES_MAX);
	return n;
}

static void opens_with_its_secret_in_its_place(void **state)
{
	const struct {
		enum keyslot_kind kind;
		const char *secret, *wrong;
		size_t len;
	} cases[] = {
	        {KEYSLOT_PASSPHRASE, "correct horse", "correct Horse", 13},
	        {KEYSLOT_FILE, "a key file must have 32 bytes or more",
	                "a key file must have 32 bytes or More", 37},
	        {KEYSLOT_RECOVERY, "and a recovery key has just this",
	                "and a recovery key has just thiz", 32},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		uint8_t bytes[KEYSLOT_BYTES_MAX], key[SEAL_KEY_LEN] = {0};
		enum keyslot_kind kind = 0;
		const char *secret = cases[i].secret;
		const size_t len = cases[i].len;
		const size_t n = wrap(cases[i].kind, secret, len, bytes);

		assert_int_equal(keyslot_kind_of(bytes, n, &kind), 0);
		assert_int_equal(kind, cases[i].kind);
		assert_int_equal(keyslot_unwrap(bytes, n, 5, 2, secret, len, key), 0);
		assert_memory_equal(key, data_key, sizeof(key));
		assert_int_equal(
		        keyslot_unwrap(bytes, n, 5, 2, cases[i].wrong, len, key), -EKEYREJECTED);
		assert_int_equal(
		        keyslot_unwrap(bytes, n, 5, 2, secret, len - 1, key), -EKEYREJECTED);
		if (cases[i].kind == KEYSLOT_PASSPHRASE)
			continue; /* the rest is the same, and scrypt takes its time */
		assert_int_equal(keyslot_unwrap(bytes, n, 6, 2, secret, len, key), -EKEYREJECTED);
		assert_int_equal(keyslot_unwrap(bytes, n, 5, 3, secret, len, key), -EKEYREJECTED);
	}
}

static void the_key_is_not_in_the_bytes(void **state)
{
	const char secret[] = "a key file must have 32 bytes or more";
	uint8_t bytes[KEYSLOT_BYTES_MAX];
	const size_t n = wrap(KEYSLOT_FILE, secret, strlen(secret), bytes);

	assert_null(memmem(bytes, n, data_key, 8));
	assert_null(memmem(bytes, n, secret, 8));
}

static void no_byte_of_a_slot_may_change(void **state)
{
	const char secret[] = "a key file must have 32 bytes or more";
	uint8_t bytes[KEYSLOT_BYTES_MAX], key[SEAL_KEY_LEN];
	const size_t n = wrap(KEYSLOT_FILE, secret, strlen(secret), bytes);

	for (size_t i = 0; i < n; i++) {
		bytes[i] ^= 4;
		const int r = keyslot_unwrap(bytes, n, 5, 2, secret, strlen(secret), key);
		assert_true(r == -EKEYREJECTED || r == -EUCLEAN || r == -EPROTONOSUPPORT);
		bytes[i] ^= 4;
	}
	for (size_t len = 0; len < n; len++)
		assert_int_equal(
		        keyslot_unwrap(bytes, len, 5, 2, secret, strlen(secret), key), -EUCLEAN);
	bytes[4] = 2;
	assert_int_equal(
	        keyslot_unwrap(bytes, n, 5, 2, secret, strlen(secret), key), -EPROTONOSUPPORT);
}

static void costly_parameters_are_refused(void **state)
{
	uint8_t bytes[KEYSLOT_BYTES_MAX], key[SEAL_KEY_LEN];
	const size_t n = wrap(KEYSLOT_PASSPHRASE, "x", 1, bytes);
	const struct {
		uint8_t log_n, r, p;
	} bad[] = {{63, 8, 1}, {23, 1, 1}, {22, 8, 1}, {17, 8, 255}, {17, 0, 1}, {9, 8, 1}};

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		bytes[6] = bad[i].log_n;
		bytes[7] = bad[i].r;
		bytes[8] = bad[i].p;
		assert_int_equal(keyslot_unwrap(bytes, n, 5, 2, "x", 1, key), -EUCLEAN);
	}
}

static void useless_secrets_are_refused(void **state)
{
	uint8_t bytes[KEYSLOT_BYTES_MAX];
	struct errmsg em = {""};
	size_t n = 0;

	assert_int_equal(
	        keyslot_wrap(KEYSLOT_PASSPHRASE, 1, 0, "", 0, data_key, bytes, &n, &em), -EINVAL);
	assert_string_equal(em.text, "the passphrase is empty");
	assert_int_equal(
	        keyslot_wrap(KEYSLOT_FILE, 1, 0, data_key, 31, data_key, bytes, &n, &em), -EINVAL);
	assert_non_null(strstr(em.text, "31 bytes"));
	assert_int_equal(
	        keyslot_wrap(KEYSLOT_RECOVERY, 1, 0, data_key, 31, data_key, bytes, &n, &em),
	        -EINVAL);
}

/* --- recovery text --- */

static void recovery_text_is_read_back(void **state)
{
	uint8_t key[SEAL_KEY_LEN], back[SEAL_KEY_LEN];
	char text[RECOVERY_TEXT_LEN], loose[2 * RECOVERY_TEXT_LEN];

	for (unsigned i = 0; i < 200; i++) {
		size_t n = 0;
		assert_int_equal(key_random(key), 0);
		recovery_text(key, text);
		assert_int_equal(recovery_parse(text, back, NULL), 0);
		assert_memory_equal(key, back, sizeof(key));
		for (const char *p = text + 5; *p; p++) /* as a person may type it */
			if (*p != '-' || i % 2)
				loose[n++] = (char)(*p == '0'   ? 'o'
				                    : *p == '1' ? (i % 3 ? 'l' : 'I')
				                    : *p == '-' ? ' '
				                                : *p | 0x20);
		loose[n] = '\0';
		assert_int_equal(recovery_parse(loose, back, NULL), 0);
		assert_memory_equal(key, back, sizeof(key));
	}
}

static void recovery_text_has_a_fixed_form(void **state)
{
	uint8_t key[SEAL_KEY_LEN];
	char text[RECOVERY_TEXT_LEN];

	memset(key, 0xff, sizeof(key));
	recovery_text(key, text);
	assert_int_equal(strlen(text), 74);
	/* SHA-256 of 32 bytes of 0xff begins with af9613. */
	assert_string_equal(text, "weir-ZZZZ-ZZZZ-ZZZZ-ZZZZ-ZZZZ-ZZZZ-ZZZZ-ZZZZ-ZZZZ-ZZZZ-ZZZZ-"
	                          "ZZZZ-ZZZT-Z5GK");
}

static void typing_errors_are_told(void **state)
{
	uint8_t key[SEAL_KEY_LEN], back[SEAL_KEY_LEN];
	char text[RECOVERY_TEXT_LEN], bad[2 * RECOVERY_TEXT_LEN];
	struct errmsg em = {""};

	assert_int_equal(key_random(key), 0);
	recovery_text(key, text);
	for (unsigned i = 5; text[i]; i++) {
		strcpy(bad, text);
		bad[i] = bad[i] == 'Z' ? 'Y' : bad[i] == '-' ? 'U' : 'Z';
		assert_int_equal(recovery_parse(bad, back, &em), -EINVAL);
	}
	bad[0] = '\0';
	assert_int_equal(recovery_parse(bad, back, &em), -EINVAL);
	assert_non_null(strstr(em.text, "has 0 letters"));
	text[73] = '\0';
	assert_int_equal(recovery_parse(text, back, &em), -EINVAL);
	assert_non_null(strstr(em.text, "has 55 letters"));
	strcpy(bad, text);
	strcat(bad, "000");
	assert_int_equal(recovery_parse(bad, back, &em), -EINVAL);
	assert_non_null(strstr(em.text, "more than 56"));
	assert_int_equal(recovery_parse("weir-00U0", back, &em), -EINVAL);
	assert_non_null(strstr(em.text, "'U' in group 1"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(scrypt_gives_the_answers_of_rfc_7914),
	        cmocka_unit_test(hkdf_gives_the_answers_of_rfc_5869),
	        cmocka_unit_test(opens_with_its_secret_in_its_place),
	        cmocka_unit_test(the_key_is_not_in_the_bytes),
	        cmocka_unit_test(no_byte_of_a_slot_may_change),
	        cmocka_unit_test(costly_parameters_are_refused),
	        cmocka_unit_test(useless_secrets_are_refused),
	        cmocka_unit_test(recovery_text_is_read_back),
	        cmocka_unit_test(recovery_text_has_a_fixed_form),
	        cmocka_unit_test(typing_errors_are_told),
	};

	return cmocka_run_group_tests_name("keyslot", tests, NULL, NULL);
}

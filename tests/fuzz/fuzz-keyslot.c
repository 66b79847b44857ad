/*
 * fuzz-keyslot.c - key slots and recovery texts, on any bytes
 *
 * Slots that take scrypt are only decoded: half a second each would leave time for little else.
 */
#include <errno.h>
#include <string.h>

#include "crypto/keyslot.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void slot_try(const uint8_t *data, size_t size)
{
	uint8_t key[SEAL_KEY_LEN] = {0};
	enum keyslot_kind kind = KEYSLOT_PASSPHRASE;
	const int r = keyslot_kind_of(data, size, &kind);

	ASSERT(r == 0 || r == -EUCLEAN || r == -EPROTONOSUPPORT);
	if (r == 0 && kind == KEYSLOT_PASSPHRASE)
		return;
	const int opened = keyslot_unwrap(data, size, 1, 1, key, sizeof(key), key);
	ASSERT(r == 0 ? opened == -EKEYREJECTED || opened == 0 : opened == r);
}

static void text_try(const uint8_t *data, size_t size)
{
	char *text = calloc(1, size + 1), again[RECOVERY_TEXT_LEN];
	uint8_t key[SEAL_KEY_LEN], back[SEAL_KEY_LEN];
	struct errmsg em = {""};

	if (!text)
		return;
	memcpy(text, data, size);
	const int r = recovery_parse(text, key, &em);
	ASSERT(r == 0 || (r == -EINVAL && em.text[0]));
	if (r == 0) {
		recovery_text(key, again);
		const int parsed = recovery_parse(again, back, NULL);
		ASSERT(parsed == 0 && memcmp(key, back, sizeof(key)) == 0);
	}
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	slot_try(data, size);
	text_try(data, size);
	return 0;
}

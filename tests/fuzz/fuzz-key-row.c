/*
 * fuzz-key-row.c - rows of keys of any bytes: what decodes encodes, and decodes to the same
 */
#include "fs/filter/keys-private.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct named_key key = {.number = 1}, again = {.number = 1};

	if (key_decode(data, size, &key) < 0)
		return 0;
	ASSERT(key_name_good(key.name) && key.n_domains >= 1 && key.n_domains <= KEYS_DOMAINS_MAX);
	char *text = key_encode(&key);
	ASSERT(text && key_decode(text, strlen(text), &again) == 0);
	ASSERT(!strcmp(key.name, again.name) && key.n_domains == again.n_domains);
	for (unsigned d = 0; d < key.n_domains; d++)
		ASSERT(key.domains[d].id == again.domains[d].id && !again.domains[d].unlocked);
	free(text);
	return 0;
}

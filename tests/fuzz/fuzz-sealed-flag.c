/*
 * fuzz-sealed-flag.c - rows of holders of any bytes: what decodes encodes, and decodes to the same
 */
#include "fs/filter/sealed-flag.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct sealed_flag f, again;

	if (sealed_flag_decode(data, size, &f) < 0)
		return 0;
	char *text = sealed_flag_encode(&f);
	ASSERT(text && sealed_flag_decode(text, strlen(text), &again) == 0);
	ASSERT(f.domain && f.domain == again.domain && f.n == again.n);
	ASSERT(sealed_flag_bytes(&f) == sealed_flag_bytes(&again));
	for (size_t i = 0; i < f.n; i++)
		ASSERT(!strcmp(f.parts[i].snapshot, again.parts[i].snapshot) &&
		        f.parts[i].whole == again.parts[i].whole);
	free(text);
	sealed_flag_release(&f);
	sealed_flag_release(&again);
	return 0;
}

/*
 * fuzz-base64.c - texts of any bytes: what decodes encodes to the same text
 */
#include <stdlib.h>
#include <string.h>

#include "fs/control/base64.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1);
	uint8_t *bytes = NULL;
	size_t len = 0;

	ASSERT(text);
	memcpy(text, data, size);
	text[size] = '\0';
	if (base64_decode(text, &bytes, &len) == 0) {
		char *again = base64_encode(bytes, len);
		ASSERT(again && !strcmp(again, text));
		free(again);
		free(bytes);
	}
	free(text);
	return 0;
}

/*
 * fuzz-clamd-reply.c - what clamd answers to a stream
 */
#include <stdlib.h>
#include <string.h>

#include "stage/builtin/scan-engine.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	char name[SCAN_NAME_LEN] = "untouched";
	bool found = false;
	struct errmsg em = {0};
	const int r = clamd_reply_parse((const char *)data, len, &found, name, &em);

	if (r < 0 ? em.text[0] == '\0' : memchr(name, '\0', sizeof(name)) == NULL)
		abort();
	return 0;
}

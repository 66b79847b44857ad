/*
 * fuzz-discover-os.c - os-release and package databases of guests
 *
 * The first byte says which text it is.
 */
#include <string.h>

#include "tools/discover-worker.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct discover_texts t = {0};

	if (size < 1)
		return 0;
	char *text = malloc(size);
	ASSERT(text);
	memcpy(text, data + 1, size - 1);
	text[size - 1] = '\0';
	switch (data[0] % 4) {
	case 0:
		t.os_release = text;
		break;
	case 1:
		t.dpkg = text;
		break;
	case 2:
		t.apk = text;
		break;
	default:
		t.hostname = text;
		t.has_rpm = true;
	}
	json_t *system = discover_system(&t);
	ASSERT(json_is_object(system));
	char *json = json_dumps(system, 0);
	ASSERT(json);
	free(json);
	json_decref(system);
	free(text);
	return 0;
}

/*
 * fuzz-disk-format.c - the first bytes of images from elsewhere
 */
#include "tools/disk-format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct errmsg em = {0};
	enum disk_format format;

	if (disk_format_detect(data, size, &format, &em) < 0)
		ASSERT(em.text[0]);
	for (unsigned f = 0; f < DISK_FORMATS; f++) {
		em.text[0] = '\0';
		if (disk_format_check((enum disk_format)f, data, size, size * 20, &em) < 0)
			ASSERT(em.text[0]);
	}
	return 0;
}

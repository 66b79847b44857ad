/*
 * size.c - sizes as people write them
 */
#include <ctype.h>
#include <errno.h>

#include "fs/datastore.h"

int size_parse(const char *text, uint64_t *ret_bytes)
{
	static const char units[] = "KMGTPE"; /* of 1024, each the thousandfold of the one before */
	uint64_t n = 0;
	unsigned shift = 0;

	if (!isdigit((unsigned char)*text))
		return -EINVAL;
	for (; isdigit((unsigned char)*text); text++)
		if (__builtin_mul_overflow(n, 10u, &n) ||
		        __builtin_add_overflow(n, (unsigned)(*text - '0'), &n))
			return -EINVAL;
	if (*text) {
		const char *unit = strchr(units, toupper((unsigned char)*text));
		if (!unit || text[1])
			return -EINVAL;
		shift = 10 * (unsigned)(unit - units + 1);
	}
	if (n > UINT64_MAX >> shift)
		return -EINVAL;
	*ret_bytes = n << shift;
	return 0;
}

/*
 * size-option.c - SIZE and number arguments of options, with their limits
 */
#include "tools/size-option.h"

#include <ctype.h>
#include <errno.h>

#include "fs/datastore.h"
#include "tools/print.h"

int size_option_parse(const struct command *cmd, const char *option, const char *text,
        uint64_t min_bytes, uint64_t max_bytes, uint64_t *ret_bytes)
{
	char a[TEXT_LEN], b[TEXT_LEN];
	uint64_t bytes = 0;

	if (size_parse(text, &bytes) < 0)
		return cmd_misused(cmd, "%s: '%s' is not a size such as 512M or 4G", option, text);
	if (bytes < min_bytes || bytes > max_bytes)
		return cmd_misused(cmd, "%s: '%s' is out of range, use %s to %s", option, text,
		        text_size(a, min_bytes), text_size(b, max_bytes));
	*ret_bytes = bytes;
	return 0;
}

int number_option_parse(const struct command *cmd, const char *option, const char *text,
        uint64_t min, uint64_t max, uint64_t *ret_number)
{
	char *end = NULL;

	errno = 0;
	const unsigned long long n = strtoull(text, &end, 10);
	if (!isdigit((unsigned char)*text) || *end || errno == ERANGE || n < min || n > max)
		return cmd_misused(cmd, "%s: '%s' is not a number from %llu to %llu", option, text,
		        (unsigned long long)min, (unsigned long long)max);
	*ret_number = n;
	return 0;
}

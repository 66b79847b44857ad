/*
 * base64.c - see base64.h
 *
 * Our own because libcrypto's decoder takes spaces and wrong padding, and leaves what it decoded in
 * buffers that nobody wipes.
 */
#include "fs/control/base64.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

char *base64_encode(const void *data, size_t len)
{
	const uint8_t *in = data;
	char *text = malloc((len + 2) / 3 * 4 + 1), *to = text;

	if (!text)
		return NULL;
	for (size_t i = 0; i < len; i += 3) {
		const unsigned n = (unsigned)MIN(len - i, (size_t)3);
		const uint32_t v = (uint32_t)in[i] << 16 | (n > 1 ? (uint32_t)in[i + 1] << 8 : 0) |
		                   (n > 2 ? in[i + 2] : 0);
		*to++ = digits[v >> 18];
		*to++ = digits[v >> 12 & 63];
		*to++ = n > 1 ? digits[v >> 6 & 63] : '=';
		*to++ = n > 2 ? digits[v & 63] : '=';
	}
	*to = '\0';
	return text;
}

/* Four characters, the last `pad` of them '='; false: not digits, or bits that should be zero. */
static bool group_decode(const char *text, unsigned pad, uint8_t *out)
{
	uint32_t v = 0;

	for (unsigned i = 0; i < 4; i++) {
		const char *digit = i < 4 - pad ? strchr(digits, text[i]) : digits;
		if (!digit || !text[i] || (i >= 4 - pad && text[i] != '='))
			return false;
		v = v << 6 | (uint32_t)(digit - digits);
	}
	for (unsigned i = 0; i < 3 - pad; i++)
		out[i] = (uint8_t)(v >> (16 - 8 * i));
	return (v & (pad == 2 ? 0xffff : pad == 1 ? 0xff : 0)) == 0;
}

int base64_decode(const char *text, uint8_t **ret_data, size_t *ret_len)
{
	const size_t chars = strlen(text), groups = chars / 4;
	unsigned pad = 0;

	if (chars % 4)
		return -EINVAL;
	while (pad < 2 && pad < chars && text[chars - 1 - pad] == '=')
		pad++;
	uint8_t *data = malloc(groups * 3 + 1);
	if (!data)
		return -ENOMEM;
	for (size_t g = 0; g < groups; g++) {
		if (!group_decode(text + 4 * g, g + 1 == groups ? pad : 0, data + 3 * g)) {
			explicit_bzero(data, groups * 3);
			free(data);
			return -EINVAL;
		}
	}
	*ret_data = data;
	*ret_len = groups * 3 - pad;
	return 0;
}

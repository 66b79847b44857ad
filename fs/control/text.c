/*
 * text.c - see text.h
 *
 * A file's name is any bytes; a JSON string is not.
 */
#include "fs/control/text.h"

#include <stdlib.h>
#include <string.h>

json_t *text_json(const char *s)
{
	static const char replacement[] = "\xef\xbf\xbd";
	json_t *json = json_string(s);

	if (json)
		return json;
	char *copy = malloc(3 * strlen(s) + 1), *to = copy;
	if (!copy)
		return NULL;
	for (; *s; s++) {
		if ((unsigned char)*s < 0x80) {
			*to++ = *s;
		} else {
			memcpy(to, replacement, 3);
			to += 3;
		}
	}
	*to = 0;
	json = json_string(copy);
	free(copy);
	return json;
}

/*
 * image-name.c - see image-name.h
 */
#include "tools/image-name.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

int image_name_parse(const char *text, struct image_name *ret_in)
{
	struct image_name in = {.path = strdup(text)};
	char *at = in.path ? strrchr(in.path, '@') : NULL;
	struct stat st;

	if (at && lstat(text, &st) < 0) {
		*at = '\0';
		in.name = strdup(at + 1);
	}
	if (!in.path || (at && !*at && !in.name)) {
		image_name_release(&in);
		return -ENOMEM;
	}
	*ret_in = in;
	return 0;
}

void image_name_release(struct image_name *in)
{
	free(in->path);
	free(in->name);
	*in = (struct image_name){0};
}

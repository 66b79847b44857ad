/*
 * image-name.h - IMAGE@NAME on a command line: an image, or one as it was at a snapshot
 */
#pragma once

#include "base/compiler.h"

struct image_name {
	char *path; /* owned */
	char *name; /* of the snapshot, owned; NULL: as it is now */
};
/*
 * A path that exists is taken as it is, whatever is in it; else it is split at the last '@'.
 * -ENOMEM.
 */
int image_name_parse(const char *text, struct image_name *ret_in) MUST_CHECK;
void image_name_release(struct image_name *in);

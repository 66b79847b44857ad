/*
 * newfile.h - a file that has its name only when it is complete and durable
 *
 * Until then it is ".NAME.weir-XXXXXX" in the same directory, readable by its owner only; a process
 * that is killed leaves that one behind, and nothing under the name.
 *
 * One thread.
 */
#pragma once

#include <limits.h>
#include <sys/types.h>

#include "base/errmsg.h"

struct newfile {
	int dir_fd, fd;          /* -1: not open */
	char name[NAME_MAX + 1]; /* in the directory */
	char temporary[NAME_MAX + 1];
	bool replace;
};

/*
 * Opens one for reading and writing.  -EEXIST when there is something at path and replace is not
 * set; -EISDIR for a directory, always.  Release it in any case.
 */
int newfile_begin(
        const char *path, bool replace, struct newfile *ret_nf, struct errmsg *em) MUST_CHECK;
/* Makes content and length durable.  The page cache of it is dropped: reads come from the disk. */
int newfile_sync(struct newfile *nf, struct errmsg *em) MUST_CHECK;
/*
 * Gives it its name and the mode, less the umask, and makes the name durable.  Synced before.  It
 * has the name also after an error of the last step, which says so.
 */
int newfile_publish(struct newfile *nf, mode_t mode, struct errmsg *em) MUST_CHECK;
/* Removes it, unless it was published. */
void newfile_release(struct newfile *nf);

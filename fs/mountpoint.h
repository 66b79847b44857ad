/*
 * mountpoint.h - checks before mounting, and unmounting
 */
#pragma once

#include "base/errmsg.h"

/*
 * Makes sure that mountpoint (as given) can take a mount of the datastore at dir (absolute): a
 * directory, and neither inside the datastore nor around it.  What a killed daemon left mounted
 * there is detached first.  *ret_path: its absolute path, the caller's.
 */
int mountpoint_prepare(
        const char *mountpoint, const char *dir, char **ret_path, struct errmsg *em) MUST_CHECK;
/* Unmounts; lazy: detaches though in use.  -EBUSY; 0 also when nothing of ours is mounted there. */
int mountpoint_unmount(const char *mountpoint, bool lazy, struct errmsg *em) MUST_CHECK;

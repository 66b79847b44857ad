/*
 * lock.h - the datastore's lock file
 */
#pragma once

#include "base/errmsg.h"

/*
 * Takes DIR/lock: shared for who only reads, else exclusive, with this process's pid written in it.
 * The lock goes with the descriptor.  Waits a few seconds for a holder that is on its way out: one
 * whose mount is gone.  -EBUSY with the holder's pid in em.
 */
int lock_take(const char *dir, bool shared, int *ret_fd, struct errmsg *em) MUST_CHECK;
/* Pid of the exclusive holder, 0 when there is none.  -ENOENT: no lock file. */
int lock_holder(const char *dir, long *ret_pid) MUST_CHECK;
/* Is a mount of this datastore in this process's mount table? */
bool mount_exists(const char *dir);

/*
 * local.h - a datastore that is not mounted, opened by a command to change it
 *
 * What a daemon has behind its mount, without the mount: datastore, vfs and manager.  Nobody else has
 * it open meanwhile (-EBUSY).  No key is unlocked.
 */
#pragma once

#include "fs/filter/manager.h"

struct local; /* one thread opens and closes it */

int local_open(const char *dir, struct local **ret_l, struct errmsg *em) MUST_CHECK;
struct manager *local_manager(struct local *l);
/* Commits and closes; the error of the last commit.  Accepts NULL. */
int local_close(struct local *l);

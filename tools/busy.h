/*
 * busy.h - who keeps a mount point busy
 */
#pragma once

#include "base/compiler.h"

/*
 * "qemu-system-x86 (pid 4711), bash (pid 12)": processes with an open file or a directory below
 * mountpoint, as far as this user may see them.  Returns how many were found; text is "" for none.
 */
unsigned busy_describe(const char *mountpoint, char *text, size_t len);

/*
 * alloc-failure.h - the n-th allocation of the program fails
 *
 * Needs the linker's --wrap for malloc, calloc, realloc, aligned_alloc and strdup (meson.build).
 * What libraries allocate among themselves does not count.
 */
#pragma once

#include <stdbool.h>

/* The n-th allocation from now on, in any thread, fails, n from 0; the others do not. */
void alloc_fail_after(int n);
/* Ends it; did it happen? */
bool alloc_fail_stop(void);

/*
 * wipe.c - see wipe.h
 *
 * A request passes through buffers of the library that nobody outside can reach: the input that is
 * parsed, strings that grow.  All of them are freed through one function, which is this one.
 */
#include "fs/control/wipe.h"

#include <jansson.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

static void free_wiped(void *p)
{
	if (p)
		explicit_bzero(p, malloc_usable_size(p));
	free(p);
}

void wipe_json(void)
{
	json_set_alloc_funcs(malloc, free_wiped);
}

void wipe_text(char *text)
{
	free_wiped(text);
}

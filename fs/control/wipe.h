/*
 * wipe.h - a JSON library that leaves no secrets behind
 */
#pragma once

#include <stddef.h>

/*
 * From now on, what the JSON library frees is overwritten first.  Before the first JSON object of the
 * process; twice is once.
 */
void wipe_json(void);
/* A text that may hold a secret, and was malloc'ed: overwritten and freed.  Accepts NULL. */
void wipe_text(char *text);

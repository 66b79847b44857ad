/*
 * text.h - names of files in JSON; private to fs/control
 */
#pragma once

#include <jansson.h>

/* A string value; where s is not UTF-8, each byte that is not ASCII becomes U+FFFD.  NULL: no
 * memory. */
json_t *text_json(const char *s);

/*
 * values.h - texts of settings to numbers and back
 */
#pragma once

#include "stage/stage.h"

/* Room for what is allowed, in a message. */
#define VALUE_ALLOWED_LEN 256

/* -EINVAL: not a value that def allows.  Text is at most SETTING_TEXT_MAX bytes. */
int value_parse(const struct setting_def *def, const char *text, uint64_t *ret_number) MUST_CHECK;
/* "a size from 4K to 1G, such as 64M": for the message that refuses one. */
void value_allowed(const struct setting_def *def, char *buf, size_t len);
/* As setting_show, of a number. */
void value_format(const struct setting_def *def, uint64_t number, char *buf, size_t len);

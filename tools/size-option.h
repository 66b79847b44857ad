/*
 * size-option.h - SIZE and number arguments of options, with their limits
 */
#pragma once

#include "tools/cmd.h"

/* Bytes within [min, max].  0, or WEIR_EXIT_USAGE, reported; option is named in the message. */
int size_option_parse(const struct command *cmd, const char *option, const char *text,
        uint64_t min_bytes, uint64_t max_bytes, uint64_t *ret_bytes) MUST_CHECK;
/* A whole number within [min, max]. */
int number_option_parse(const struct command *cmd, const char *option, const char *text,
        uint64_t min, uint64_t max, uint64_t *ret_number) MUST_CHECK;

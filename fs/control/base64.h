/*
 * base64.h - bytes as text for the control socket: base64 (RFC 4648, section 4), padded
 *
 * Threads: any.
 */
#pragma once

#include "base/compiler.h"

/* malloc'ed; NULL: no memory.  What is secret, its owner wipes. */
char *base64_encode(const void *data, size_t len);
/*
 * *ret_data is owned by the caller, never NULL.  -EINVAL: not base64; exactly what encoding gives is
 * taken: no spaces, padded, unused bits zero.  -ENOMEM.
 */
int base64_decode(const char *text, uint8_t **ret_data, size_t *ret_len) MUST_CHECK;

/*
 * ranges.h - a list of byte ranges of an image, as a setting
 *
 * Written "OFF+LEN[,OFF+LEN...]", numbers in bytes or with K, M, G, T: "0+1M,16G+4K".  OFF alone
 * reaches to the end of the image.  Constant once parsed: any thread.
 */
#pragma once

#include "base/errmsg.h"

#define RANGES_MAX 32u

struct ranges {
	unsigned n;
	struct {
		uint64_t off, end; /* end: exclusive; UINT64_MAX: no end */
	} at[RANGES_MAX];
};

/* text NULL or "": none.  key: the setting's name, for em.  -EINVAL with em. */
int ranges_parse(
        const char *key, const char *text, struct ranges *ret_ranges, struct errmsg *em) MUST_CHECK;
/* Does [off, end) touch one of them? */
bool ranges_touch(const struct ranges *rs, uint64_t off, uint64_t end);

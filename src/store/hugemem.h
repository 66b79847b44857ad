/*
 * hugemem.h - large, lazily touched memory on huge pages
 *
 * For tables that are entered at random: with 4 KiB pages every such access would miss the TLB as
 * well as the cache.  Memory is zero at first and counts only from the first touch on.  It is left
 * out of core dumps: it is large, and holds guests' data.
 */
#pragma once

#include <stdatomic.h>

#include "base/compiler.h"

/* Maps bytes (> 0), aligned to a huge page when there are that many.  -ENOMEM. */
int hugemem_alloc(uint64_t bytes, void **ret_mem) MUST_CHECK;
void hugemem_free(void *mem, uint64_t bytes); /* accepts NULL; bytes as given to hugemem_alloc */
/*
 * Has memory ready behind all of it, a slice at a time until *stop, so that who touches it first
 * does not pay for clearing it.  Advice: nothing fails.
 */
void hugemem_warm(void *mem, uint64_t bytes, const _Atomic bool *stop);
/* How many of the bytes are backed by memory now.  About a millisecond a GiB. */
uint64_t hugemem_resident(void *mem, uint64_t bytes);

/*
 * compiler.h - contracts, cleanup and small arithmetic
 *
 * ASSERT stays on in release builds: it states a contract between pieces of our own code.  What
 * comes from a disk, a socket or a guest is never asserted, it is checked and answered with an
 * error.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#define MUST_CHECK     __attribute__((warn_unused_result))
#define PRINTF(f, a)   __attribute__((format(printf, f, a)))
#define CLEANUP(fn)    __attribute__((cleanup(fn)))
#define LIKELY(x)      __builtin_expect(!!(x), 1)
#define UNLIKELY(x)    __builtin_expect(!!(x), 0)
#define BIT(n)         (1u << (n))
#define ARRAY_SIZE(a)  (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b)      ((a) < (b) ? (a) : (b))
#define MAX(a, b)      ((a) > (b) ? (a) : (b))
#define ROUND_UP(x, a) (((x) + (a)-1) / (a) * (a))
#define DIV_UP(x, a)   (((x) + (a)-1) / (a))
#define CACHELINE      64

#define CONTAINER_OF(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

/* Takes the pointer out of a CLEANUP variable, so that it is not freed. */
#define STEAL(p)                                                                                   \
	({                                                                                         \
		__typeof__(p) steal_taken_ = (p);                                                  \
		(p) = NULL;                                                                        \
		steal_taken_;                                                                      \
	})

#define ASSERT(cond)                                                                               \
	do {                                                                                       \
		if (UNLIKELY(!(cond)))                                                             \
			assert_failed(#cond, __FILE__, __LINE__);                                  \
	} while (0)

/* Logs the condition and aborts.  Defined in log.c. */
void assert_failed(const char *cond, const char *file, int line) __attribute__((noreturn, cold));

/* For CLEANUP(free_ptr): frees what a malloc'ed pointer variable holds. */
static inline void free_ptr(void *pp)
{
	free(*(void **)pp);
}

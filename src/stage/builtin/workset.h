/*
 * workset.h - how many different blocks were used, by window of time
 *
 * HyperLogLog with 2^12 registers (Flajolet et al. 2007), estimated as in Ertl, "New cardinality
 * estimation algorithms for HyperLogLog sketches" (2017), which needs no correction for small
 * counts: standard error 1.6 %.  Reads and writes have a sketch each; their union is the maximum of
 * the registers.  128 KiB for twelve windows.
 *
 * Threads: workset_note() from any, without a lock; the rest under the caller's lock.  A note that
 * comes while a window is closed may count in either.
 */
#pragma once

#include <stdatomic.h>

#include "stage/stage.h"

#define WORKSET_REGISTERS 4096u
#define WORKSET_WINDOWS   12u

struct workset_sketch {
	_Atomic uint8_t reg[2][WORKSET_REGISTERS]; /* reads, writes */
};

struct workset {
	struct workset_sketch *now;                      /* atomic: the window under way */
	struct workset_sketch ring[WORKSET_WINDOWS + 1]; /* one of them is now */
	struct workset_sketch all;                       /* closed windows since the reset */
	uint64_t window_ns, began_ns;                    /* of the window under way */
	unsigned at, closed;                             /* at: index of now; closed: windows */
};

static inline void workset_note(struct workset *w, uint64_t hash, bool is_write)
{
	struct workset_sketch *s = __atomic_load_n(&w->now, __ATOMIC_RELAXED);
	_Atomic uint8_t *reg = &s->reg[is_write][hash % WORKSET_REGISTERS];
	/* The low bits chose the register; the top bit keeps the rank below 53. */
	const uint8_t rank = (uint8_t)(__builtin_ctzll(hash >> 12 | 1ull << 51) + 1);

	if (UNLIKELY(atomic_load_explicit(reg, memory_order_relaxed) < rank))
		atomic_store_explicit(reg, rank, memory_order_relaxed);
}

void workset_init(struct workset *w, uint64_t window_ns, uint64_t now_ns);
/* Closes the windows that have ended. */
void workset_turn(struct workset *w, uint64_t now_ns);

struct workset_count {
	double read, written, both; /* blocks */
};
/*
 * Different blocks used in the last n closed windows; n = 0: in the window under way; UINT_MAX:
 * since the reset.
 */
void workset_count(const struct workset *w, unsigned n, struct workset_count *ret_count);
/* Closed windows there are, at most WORKSET_WINDOWS. */
unsigned workset_windows(const struct workset *w);
/* The sketch of everything since the reset, for keeping; and one that was kept, merged in. */
void workset_save(const struct workset *w, uint8_t *buf); /* 2 x WORKSET_REGISTERS bytes */
int workset_load(struct workset *w, const uint8_t *buf) MUST_CHECK;

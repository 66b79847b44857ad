/*
 * slotset.h - a set of chunk locations: one bit a slot, for the segments of a range of ids
 *
 * What the collector marks in.  Bits are set atomically, from any thread; everything else is for
 * one thread while no other uses the set.
 */
#pragma once

#include "store/segments.h"

struct slotset {
	uint64_t *ids;          /* sorted; owned */
	struct slot_bits *bits; /* parallel to ids; owned */
	size_t n;
};

/*
 * Segments with ids in (after, until], or only the sealed ones of them, at most n_max; *ret_last:
 * the last id looked at.
 */
int slotset_init(struct slotset *set, struct segments *ss, uint64_t after, uint64_t until,
        bool sealed_only, size_t n_max, uint64_t *ret_last) MUST_CHECK;
void slotset_free(struct slotset *set);
/* Index of a segment, or -1. */
long slotset_find(const struct slotset *set, uint64_t segment);
static inline bool slotset_test(const struct slotset *set, long i, unsigned slot)
{
	return __atomic_load_n(&set->bits[i].words[slot / 64], __ATOMIC_RELAXED) >> (slot % 64) & 1;
}
/*
 * Sets a bit; true when it was clear.  One that is set is not written again: a sweep reads the words
 * while chunks that are marked already are shared once more.
 */
static inline bool slotset_set(struct slotset *set, long i, unsigned slot)
{
	const uint64_t bit = 1ull << (slot % 64);

	if (slotset_test(set, i, slot))
		return false;
	return !(__atomic_fetch_or(&set->bits[i].words[slot / 64], bit, __ATOMIC_RELAXED) & bit);
}
unsigned slotset_count(const struct slotset *set, long i);

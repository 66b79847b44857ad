/*
 * nodeset.c - see nodeset.h
 *
 * A hash table of words, at most three quarters taken.  It grows until the next size would be over the
 * limit, or there is no memory for it; from then on only ids beside those known are taken up.
 */
#include "store/nodeset.h"

#include <stdlib.h>

#define SIZE_MIN 256u

void nodeset_init(struct nodeset *ns, size_t bytes_max)
{
	*ns = (struct nodeset){.n_max = bytes_max / NODESET_WORD_BYTES};
}

void nodeset_release(struct nodeset *ns)
{
	free(ns->words);
	*ns = (struct nodeset){0};
}

static size_t at_first(const struct nodeset *ns, uint64_t key)
{
	uint64_t h = key * 0x9e3779b97f4a7c15ull;

	h ^= h >> 32;
	return (h * 0xd6e8feb86659fd93ull >> 20) & (ns->size - 1);
}

/* The word of this key, or the free one where it would be.  The table is not empty. */
static struct nodeset_word *word_at(const struct nodeset *ns, uint64_t key)
{
	size_t i = at_first(ns, key);

	while (ns->words[i].key && ns->words[i].key != key)
		i = (i + 1) & (ns->size - 1);
	return &ns->words[i];
}

static struct nodeset_word *word_find(const struct nodeset *ns, uint64_t id)
{
	if (!ns->words)
		return NULL;
	struct nodeset_word *w = word_at(ns, id / 64 + 1);
	return w->key ? w : NULL;
}

static bool table_grow(struct nodeset *ns)
{
	const struct nodeset old = *ns;
	const size_t size = old.size ? old.size * 2 : SIZE_MIN;

	if (old.size && size > ns->n_max)
		return false;
	struct nodeset_word *words = calloc(size, sizeof(*words));
	if (!words)
		return false;
	ns->words = words;
	ns->size = size;
	for (size_t i = 0; i < old.size; i++)
		if (old.words[i].key)
			*word_at(ns, old.words[i].key) = old.words[i];
	free(old.words);
	return true;
}

static struct nodeset_word *word_make(struct nodeset *ns, uint64_t id)
{
	struct nodeset_word *w = word_find(ns, id);

	if (w)
		return w;
	/* Once full, for good: a word made later would lack those that found no room before. */
	ns->full = ns->full || (ns->n >= ns->size / 4 * 3 && !table_grow(ns));
	if (ns->full)
		return NULL;
	w = word_at(ns, id / 64 + 1);
	w->key = id / 64 + 1;
	ns->n++;
	return w;
}

bool nodeset_test(const struct nodeset *ns, unsigned plane, uint64_t id)
{
	return nodeset_word(ns, plane, id) >> (id % 64) & 1;
}

bool nodeset_set(struct nodeset *ns, unsigned plane, uint64_t id)
{
	struct nodeset_word *w = word_make(ns, id);
	const uint64_t bit = 1ull << (id % 64);

	if (!w)
		return true;
	const bool clear = !(w->bits[plane] & bit);
	w->bits[plane] |= bit;
	return clear;
}

uint64_t nodeset_word(const struct nodeset *ns, unsigned plane, uint64_t id)
{
	const struct nodeset_word *w = word_find(ns, id);

	return w ? w->bits[plane] : 0;
}

void nodeset_clear(struct nodeset *ns, unsigned plane, uint64_t id)
{
	struct nodeset_word *w = word_find(ns, id);

	if (w)
		w->bits[plane] = 0;
}

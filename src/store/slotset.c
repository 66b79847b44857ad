#include "store/slotset.h"

#include <errno.h>

int slotset_init(struct slotset *set, struct segments *ss, uint64_t after, uint64_t until,
        bool sealed_only, size_t n_max, uint64_t *ret_last)
{
	struct segment_row rows[256];
	uint64_t *ids = NULL;
	size_t n = 0, cap = 0;
	unsigned got;

	while (n < n_max && (got = segments_list(ss, after, rows, ARRAY_SIZE(rows))) > 0) {
		if (n + got > cap) {
			cap = MAX(cap * 2, 1024);
			uint64_t *v = realloc(ids, cap * sizeof(*v));
			if (!v) {
				free(ids);
				return -ENOMEM;
			}
			ids = v;
		}
		unsigned k = 0;
		for (; k < got && n < n_max && rows[k].id <= until; k++) {
			after = rows[k].id;
			if (!sealed_only || rows[k].state == SEGMENT_SEALED)
				ids[n++] = after;
		}
		if (k < got)
			break;
	}
	set->bits = calloc(MAX(n, 1), sizeof(*set->bits));
	if (!set->bits) {
		free(ids);
		return -ENOMEM;
	}
	set->ids = ids;
	set->n = n;
	*ret_last = after;
	return 0;
}

void slotset_free(struct slotset *set)
{
	free(set->ids);
	free(set->bits);
	*set = (struct slotset){0};
}

long slotset_find(const struct slotset *set, uint64_t segment)
{
	size_t lo = 0, hi = set->n;

	while (lo < hi) {
		const size_t mid = (lo + hi) / 2;
		if (set->ids[mid] < segment)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < set->n && set->ids[lo] == segment ? (long)lo : -1;
}

unsigned slotset_count(const struct slotset *set, long i)
{
	unsigned n = 0;

	for (unsigned w = 0; w < ARRAY_SIZE(set->bits[i].words); w++)
		n += (unsigned)__builtin_popcountll(set->bits[i].words[w]);
	return n;
}

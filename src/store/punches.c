#include "store/punches.h"

#include <errno.h>

/* Index of the first range that ends after leaf. */
static size_t lower_bound(const struct punches *ps, uint64_t leaf)
{
	size_t lo = 0, hi = ps->n;

	while (lo < hi) {
		const size_t mid = (lo + hi) / 2;
		if (ps->v[mid].last <= leaf)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* Replaces the n_old ranges at index at by n_new ones; there is room. */
static void splice(struct punches *ps, size_t at, size_t n_old, const struct punch *v, size_t n_new)
{
	memmove(&ps->v[at + n_new], &ps->v[at + n_old], (ps->n - at - n_old) * sizeof(*ps->v));
	memcpy(&ps->v[at], v, n_new * sizeof(*v));
	ps->n = ps->n - n_old + n_new;
}

int punches_add(struct punches *ps, uint64_t first, uint64_t last, bool zero)
{
	ASSERT(first < last);
	if (ps->n + 2 > ps->cap) {
		const size_t cap = MAX(ps->cap * 2, 16);
		struct punch *v = realloc(ps->v, cap * sizeof(*v));
		if (!v)
			return -ENOMEM;
		ps->v = v;
		ps->cap = cap;
	}
	struct punch out[3];
	size_t n_out = 0;
	const size_t at = lower_bound(ps, first);
	size_t end = at;

	while (end < ps->n && ps->v[end].first < last)
		end++;
	if (end > at && ps->v[at].first < first) {
		out[n_out] = ps->v[at];
		out[n_out++].last = first;
	}
	out[n_out++] = (struct punch){.first = first, .last = last, .zero = zero};
	if (end > at && ps->v[end - 1].last > last) {
		out[n_out] = ps->v[end - 1];
		out[n_out++].first = last;
	}
	splice(ps, at, end - at, out, n_out);
	return 0;
}

const struct punch *punches_find(const struct punches *ps, uint64_t leaf)
{
	const size_t i = lower_bound(ps, leaf);
	return i < ps->n && ps->v[i].first <= leaf ? &ps->v[i] : NULL;
}

void punches_clear(struct punches *ps)
{
	free(ps->v);
	*ps = (struct punches){0};
}

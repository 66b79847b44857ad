/*
 * workset.c - windows of HyperLogLog sketches
 *
 * The window under way is one of a ring; when it ends it is merged into the sketch of everything,
 * and the oldest of the ring is wiped and becomes the one under way.  A thread that still holds the
 * pointer of before may set a register too late: one block more or less in one window, which an
 * estimate of 1.6 % does not show.  Stores race the same way: the smaller of two ranks may win.
 */
#include "stage/builtin/workset.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <string.h>

#define RANK_MAX 52u

void workset_init(struct workset *w, uint64_t window_ns, uint64_t now_ns)
{
	memset(w, 0, sizeof(*w));
	w->window_ns = window_ns;
	w->began_ns = now_ns;
	__atomic_store_n(&w->now, &w->ring[0], __ATOMIC_RELAXED);
}

static void sketch_merge(struct workset_sketch *to, const struct workset_sketch *from)
{
	for (unsigned kind = 0; kind < 2; kind++)
		for (unsigned i = 0; i < WORKSET_REGISTERS; i++) {
			const uint8_t rank =
			        atomic_load_explicit(&from->reg[kind][i], memory_order_relaxed);
			if (rank > atomic_load_explicit(&to->reg[kind][i], memory_order_relaxed))
				atomic_store_explicit(
				        &to->reg[kind][i], rank, memory_order_relaxed);
		}
}

void workset_turn(struct workset *w, uint64_t now_ns)
{
	unsigned turns = 0;

	/* Another thread may have read a later clock before. */
	while (now_ns >= w->began_ns && now_ns - w->began_ns >= w->window_ns) {
		if (turns++ > WORKSET_WINDOWS) { /* asleep for longer than the ring is */
			w->began_ns = now_ns - (now_ns - w->began_ns) % w->window_ns;
			return;
		}
		sketch_merge(&w->all, &w->ring[w->at]);
		w->at = (w->at + 1) % (WORKSET_WINDOWS + 1);
		memset(&w->ring[w->at], 0, sizeof(w->ring[w->at]));
		__atomic_store_n(&w->now, &w->ring[w->at], __ATOMIC_RELEASE);
		w->began_ns += w->window_ns;
		w->closed = MIN(w->closed + 1, WORKSET_WINDOWS);
	}
}

unsigned workset_windows(const struct workset *w)
{
	return w->closed;
}

/* --- Ertl's estimator --- */

static double ertl_sigma(double x)
{
	double y = 1, z = x, before;

	if (x >= 1)
		return INFINITY;
	do {
		x *= x;
		before = z;
		z += x * y;
		y += y;
	} while (z != before);
	return z;
}

static double ertl_tau(double x)
{
	double y = 1, z = 1 - x, before;

	if (x <= 0 || x >= 1)
		return 0;
	do {
		x = sqrt(x);
		before = z;
		y *= 0.5;
		z -= (1 - x) * (1 - x) * y;
	} while (z != before);
	return z / 3;
}

/* counts[r]: registers of rank r. */
static double estimate(const unsigned counts[RANK_MAX + 1])
{
	const double m = WORKSET_REGISTERS;
	double z = m * ertl_tau(1 - counts[RANK_MAX] / m);

	for (unsigned r = RANK_MAX - 1; r >= 1; r--)
		z = (z + counts[r]) * 0.5;
	z += m * ertl_sigma(counts[0] / m);
	return isinf(z) ? 0 : m * m / (2 * M_LN2 * z);
}

static double sketch_count(const struct workset_sketch *s, unsigned kinds)
{
	unsigned counts[RANK_MAX + 1] = {0};

	for (unsigned i = 0; i < WORKSET_REGISTERS; i++) {
		unsigned rank = 0;
		for (unsigned kind = 0; kind < 2; kind++)
			if (kinds & BIT(kind))
				rank = MAX(rank, atomic_load_explicit(
				                         &s->reg[kind][i], memory_order_relaxed));
		counts[MIN(rank, RANK_MAX)]++;
	}
	return estimate(counts);
}

void workset_count(const struct workset *w, unsigned n, struct workset_count *ret_count)
{
	struct workset_sketch sum = {0};

	if (n == UINT_MAX)
		sketch_merge(&sum, &w->all);
	if (n == 0 || n == UINT_MAX)
		sketch_merge(&sum, &w->ring[w->at]);
	else
		for (unsigned i = 1; i <= MIN(n, w->closed); i++)
			sketch_merge(&sum, &w->ring[(w->at + WORKSET_WINDOWS + 1 - i) %
			                            (WORKSET_WINDOWS + 1)]);
	ret_count->read = sketch_count(&sum, BIT(0));
	ret_count->written = sketch_count(&sum, BIT(1));
	ret_count->both = sketch_count(&sum, BIT(0) | BIT(1));
}

void workset_save(const struct workset *w, uint8_t *buf)
{
	struct workset_sketch sum = {0};

	sketch_merge(&sum, &w->all);
	sketch_merge(&sum, &w->ring[w->at]);
	memcpy(buf, sum.reg, sizeof(sum.reg));
}

int workset_load(struct workset *w, const uint8_t *buf)
{
	struct workset_sketch kept;

	for (unsigned i = 0; i < 2 * WORKSET_REGISTERS; i++)
		if (buf[i] > RANK_MAX)
			return -EBADMSG;
	memcpy(kept.reg, buf, sizeof(kept.reg));
	sketch_merge(&w->all, &kept);
	return 0;
}

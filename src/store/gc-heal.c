/*
 * gc-heal.c - healing
 *
 * Dedupe met a damaged chunk while storing the same content; the segment is rewritten with the good
 * copy in the damaged one's place, before the next collection.
 */
#include "base/log.h"
#include "store/store-priv.h"

static bool heal_waits(const struct gc_control *gc, uint64_t loc)
{
	for (unsigned i = 0; i < gc->n_heals; i++)
		if (gc->heals[i].loc == loc)
			return true;
	return false;
}

void gc_heal(struct store *s, uint64_t loc, const void *data)
{
	struct gc_control *gc = &s->gc;
	uint8_t *copy = NULL;

	pthread_mutex_lock(&gc->heal_lock);
	if (gc->n_heals < GC_HEALS_MAX && !heal_waits(gc, loc))
		copy = malloc(CHUNK_SIZE);
	if (copy) {
		memcpy(copy, data, CHUNK_SIZE);
		gc->heals[gc->n_heals++] = (struct gc_heal){loc, copy};
	}
	pthread_mutex_unlock(&gc->heal_lock);
	if (copy)
		gc_kick(s);
}

static int heal_order(const void *a, const void *b)
{
	const struct gc_heal *x = a, *y = b;
	return x->loc < y->loc ? -1 : x->loc > y->loc;
}

static void heal_segment(struct store *s, const struct gc_heal *v, unsigned n)
{
	const unsigned long long segment = loc_segment(v[0].loc);
	struct heal heals[GC_HEALS_MAX];
	struct slot_bits all;
	uint64_t written;
	unsigned used = 0;

	memset(&all, 0xff, sizeof(all));
	for (unsigned i = 0; i < n; i++)
		heals[i] = (struct heal){.loc = v[i].loc, .data = v[i].data};
	const int r = segments_rewrite(s->segments, segment, &all, heals, n, &written);
	for (unsigned i = 0; r == 0 && i < n; i++)
		used += heals[i].used;
	if (used > 0) {
		atomic_fetch_add(&s->count.healed_chunks, used);
		log_note("segment %llu: %u damaged chunks written again", segment, used);
	}
	if (used < n)
		log_warn("segment %llu: %u damaged chunks could not be written again: %s", segment,
		        n - used,
		        r < 0 ? strerror(-r)
		              : "what they were is not known for sure, or there is no room");
}

/*
 * Takes what was offered so far and rewrites those segments.  The commit comes before the taking: a
 * damaged frame makes room for its healed chunks only if all of them are there, and the group that
 * found the first is still finding others.
 */
int gc_run_heals(struct store *s)
{
	struct gc_heal v[GC_HEALS_MAX];

	pthread_mutex_lock(&s->gc.heal_lock);
	const bool none = s->gc.n_heals == 0;
	pthread_mutex_unlock(&s->gc.heal_lock);
	if (none)
		return 0;
	segments_seal_all(s->segments);
	int r = txg_wait(s, atomic_load(&s->txg_open));
	if (r < 0)
		return r;
	pthread_mutex_lock(&s->gc.heal_lock);
	const unsigned n = s->gc.n_heals;
	memcpy(v, s->gc.heals, n * sizeof(*v));
	s->gc.n_heals = 0;
	pthread_mutex_unlock(&s->gc.heal_lock);
	qsort(v, n, sizeof(*v), heal_order);
	for (unsigned i = 0, k; i < n; i = k) {
		for (k = i + 1; k < n && loc_segment(v[k].loc) == loc_segment(v[i].loc); k++)
			;
		heal_segment(s, &v[i], k - i);
	}
	for (unsigned i = 0; i < n; i++)
		free(v[i].data);
	return txg_wait(s, atomic_load(&s->txg_open));
}

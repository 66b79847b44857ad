/*
 * tier-plan.c - watermarks, heat, and what makes way for what
 *
 * The plan is made in rounds, each of which sees what those before it have moved:
 *	1 draining tiers give away everything, coldest last, so that what is hot is usable soonest;
 *	2 pinned segments go where they are wanted;
 *	3 from fast to slow, a tier above its high watermark loses copies that it does not need, then what is
 *	  coldest (snapshot-only before all else), down to the low one, to the next slower tier with room;
 *	4 what was read in several windows goes one up to the fastest tier: while that is below the low
 *	  watermark, into free room; above it only in exchange for what is colder by `gain`.
 *
 * Why it comes to rest.  3 acts above the high watermark and stops at the low one; 4 fills up to the low
 * one only, and an exchange leaves the amount as it was; so neither causes the other.  Of two
 * segments exchanged the colder one is not `gain` times hotter than the other, so they are not exchanged
 * back.  Between the watermarks lies room for writes, which land on the first tier.
 *
 * Heat is that of a segment as a whole, and not by byte: segments are of about one size, and a read
 * costs the medium about the same whatever the size of what it belongs to.
 */
#include "store/tier-plan.h"

#include <errno.h>
#include <string.h>

const struct plan_rules plan_defaults = {.age_min_s = 600, .windows_min = 2, .gain = 2};

struct plan {
	const struct plan_tier *tiers;
	unsigned n_tiers;
	uint64_t used[PLAN_ANY];
	const struct plan_rules *rules;
	struct plan_segment **by_heat; /* coldest first */
	size_t n;
	struct plan_move *moves;
	size_t cap, n_moves;
};

const char *plan_reason_text(enum plan_reason reason)
{
	static const char *const texts[] = {
	        [PLAN_DRAIN] = "its tier is being emptied",
	        [PLAN_PIN] = "an image is pinned there",
	        [PLAN_FULL] = "its tier is above the high watermark",
	        [PLAN_ROOM] = "makes room for what is read more",
	        [PLAN_HOT] = "is read often",
	        [PLAN_UNCOPY] = "its copy takes room that is needed",
	};

	return texts[reason];
}

float plan_heat(const struct plan_segment *s)
{
	/* A steady rate of r an hour makes hour 1.44 r and day 34.6 r. */
	return (s->hour / 1.4427f + s->day / 34.62f) / 2;
}

/* Coldest first; what only snapshots have is colder than all. */
static int heat_order(const void *a, const void *b)
{
	const struct plan_segment *x = *(struct plan_segment *const *)a,
	                          *y = *(struct plan_segment *const *)b;
	const float hx = plan_heat(x), hy = plan_heat(y);

	if (x->snapshot_only != y->snapshot_only)
		return x->snapshot_only ? -1 : 1;
	if (hx != hy)
		return hx < hy ? -1 : 1;
	if (x->age_s != y->age_s)
		return x->age_s > y->age_s ? -1 : 1;
	return x->id < y->id ? -1 : x->id > y->id;
}

static uint64_t mark_of(const struct plan_tier *t, unsigned pct)
{
	return (uint64_t)((double)t->capacity_bytes / 100 * pct);
}

static bool takes(const struct plan *p, unsigned tier, uint64_t bytes, unsigned pct)
{
	const struct plan_tier *t = &p->tiers[tier];

	return t->usable && !t->draining && p->used[tier] + bytes <= mark_of(t, pct);
}

static bool is_full(const struct plan *p)
{
	return p->n_moves == p->cap;
}

static struct plan_move *move_add(struct plan *p, const struct plan_segment *s, unsigned from,
        unsigned to, enum plan_reason reason)
{
	struct plan_move *m = &p->moves[p->n_moves++];

	*m = (struct plan_move){.segment = s->id,
	        .bytes = s->bytes,
	        .from = (uint8_t)from,
	        .to = (uint8_t)to,
	        .reason = reason};
	return m;
}

/* Moves it; keep: what it leaves stays as the copy, where that has to be paid for anyway. */
static void move(
        struct plan *p, struct plan_segment *s, unsigned to, enum plan_reason reason, bool keep)
{
	struct plan_move *m = move_add(p, s, s->tier, to, reason);

	m->keep = keep;
	m->free = s->copy == to;
	if (s->copy != PLAN_ANY && s->copy != to)
		p->used[s->copy] -= s->bytes;
	if (s->copy != to)
		p->used[to] += s->bytes;
	if (!keep)
		p->used[s->tier] -= s->bytes;
	s->copy = keep ? s->tier : PLAN_ANY;
	s->tier = (uint8_t)to;
}

/* The next slower tier with room for it, that its images allow; n_tiers: there is none. */
static unsigned slower_for(const struct plan *p, const struct plan_segment *s)
{
	const unsigned last = s->min == PLAN_ANY ? p->n_tiers : MIN(s->min + 1u, p->n_tiers);

	for (unsigned t = s->tier + 1u; t < last; t++)
		if ((s->copy == t && p->tiers[t].usable && !p->tiers[t].draining) ||
		        takes(p, t, s->bytes, p->tiers[t].high_pct))
			return t;
	return p->n_tiers;
}

static bool may_move(const struct plan *p, const struct plan_segment *s)
{
	return p->tiers[s->tier].usable && (s->pin == PLAN_ANY || s->pin != s->tier);
}

static bool may_sink(const struct plan *p, const struct plan_segment *s)
{
	return may_move(p, s) && s->age_s >= p->rules->age_min_s;
}

/* --- the rounds --- */

static void drain(struct plan *p)
{
	for (size_t i = p->n; i > 0 && !is_full(p); i--) {
		struct plan_segment *s = p->by_heat[i - 1];
		if (!p->tiers[s->tier].draining || !p->tiers[s->tier].usable)
			continue;
		unsigned to = slower_for(p, s);
		for (unsigned t = s->tier; to == p->n_tiers && t > 0; t--)
			if (takes(p, t - 1, s->bytes, p->tiers[t - 1].high_pct))
				to = t - 1;
		if (to == p->n_tiers && s->min != PLAN_ANY) { /* better too slow than nowhere */
			s->min = PLAN_ANY;
			to = slower_for(p, s);
		}
		if (to < p->n_tiers)
			move(p, s, to, PLAN_DRAIN, false);
	}
	for (size_t i = 0; i < p->n && !is_full(p); i++) {
		struct plan_segment *s = p->by_heat[i];
		if (s->copy == PLAN_ANY || !p->tiers[s->copy].draining)
			continue;
		move_add(p, s, s->copy, s->copy, PLAN_UNCOPY);
		p->used[s->copy] -= s->bytes;
		s->copy = PLAN_ANY;
	}
}

static void pins(struct plan *p)
{
	for (size_t i = p->n; i > 0 && !is_full(p); i--) {
		struct plan_segment *s = p->by_heat[i - 1];
		unsigned to = s->pin;
		if (to == PLAN_ANY && s->min != PLAN_ANY && s->tier > s->min)
			to = s->min;
		if (to == PLAN_ANY || to == s->tier || !p->tiers[s->tier].usable)
			continue;
		if (s->copy == to || takes(p, to, s->bytes, p->tiers[to].high_pct))
			move(p, s, to, PLAN_PIN, false);
	}
}

static bool is_above(const struct plan *p, unsigned tier, unsigned pct)
{
	return p->used[tier] > mark_of(&p->tiers[tier], pct);
}

static void relieve(struct plan *p, unsigned tier)
{
	const unsigned low = p->tiers[tier].low_pct;

	if (!p->tiers[tier].usable || !is_above(p, tier, p->tiers[tier].high_pct))
		return;
	for (size_t i = 0; i < p->n && !is_full(p) && is_above(p, tier, low); i++) {
		struct plan_segment *s = p->by_heat[i];
		if (s->copy != tier || s->tier > tier)
			continue;
		move_add(p, s, tier, tier, PLAN_UNCOPY);
		p->used[tier] -= s->bytes;
		s->copy = PLAN_ANY;
	}
	for (size_t i = 0; i < p->n && !is_full(p) && is_above(p, tier, low); i++) {
		struct plan_segment *s = p->by_heat[i];
		const unsigned to =
		        s->tier == tier && may_sink(p, s) ? slower_for(p, s) : p->n_tiers;
		if (to < p->n_tiers)
			move(p, s, to, PLAN_FULL, false);
	}
}

/* The coldest segment of a tier from *at on that may go to make room for one of that heat. */
static struct plan_segment *victim_find(struct plan *p, unsigned tier, float heat, size_t *at)
{
	for (; *at < p->n; ++*at) {
		struct plan_segment *s = p->by_heat[*at];
		if (plan_heat(s) * p->rules->gain > heat)
			return NULL;
		if (s->tier == tier && may_sink(p, s) && slower_for(p, s) < p->n_tiers) {
			++*at;
			return s;
		}
	}
	return NULL;
}

static unsigned windows_of(const struct plan_segment *s)
{
	return (unsigned)__builtin_popcount(s->windows);
}

/* To the fastest usable tier. */
static void promote(struct plan *p, unsigned top)
{
	size_t victim = 0;

	for (size_t i = p->n; i > 0 && !is_full(p); i--) {
		struct plan_segment *s = p->by_heat[i - 1];
		const float heat = plan_heat(s);
		if (heat <= 0)
			return;
		if (s->tier <= top || !may_move(p, s) || windows_of(s) < p->rules->windows_min)
			continue;
		if (takes(p, top, s->bytes, p->tiers[top].low_pct)) {
			move(p, s, top, PLAN_HOT, true);
			continue;
		}
		struct plan_segment *cold = victim_find(p, top, heat, &victim);
		if (!cold || p->n_moves + 2 > p->cap)
			return; /* those that follow are colder still */
		move(p, cold, slower_for(p, cold), PLAN_ROOM, false);
		if (takes(p, top, s->bytes, p->tiers[top].high_pct))
			move(p, s, top, PLAN_HOT, true);
	}
}

int plan_make(const struct plan_tier *tiers, unsigned n_tiers, struct plan_segment *segs, size_t n,
        const struct plan_rules *rules, struct plan_move *ret_moves, size_t cap, size_t *ret_n)
{
	CLEANUP(free_ptr) struct plan_segment **by_heat = malloc(MAX(n, 1u) * sizeof(*by_heat));
	struct plan p = {.tiers = tiers,
	        .n_tiers = n_tiers,
	        .rules = rules,
	        .by_heat = by_heat,
	        .n = n,
	        .moves = ret_moves,
	        .cap = cap};
	unsigned top = 0;

	ASSERT(n_tiers < PLAN_ANY);
	if (!by_heat)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++)
		by_heat[i] = &segs[i];
	qsort(by_heat, n, sizeof(struct plan_segment *), heat_order);
	for (unsigned t = 0; t < n_tiers; t++)
		p.used[t] = tiers[t].used_bytes;
	drain(&p);
	pins(&p);
	for (unsigned t = 0; t < n_tiers; t++)
		relieve(&p, t);
	while (top < n_tiers && (!tiers[top].usable || tiers[top].draining))
		top++;
	if (top < n_tiers)
		promote(&p, top);
	*ret_n = p.n_moves;
	return 0;
}

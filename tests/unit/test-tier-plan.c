/*
 * test-tier-plan.c - what is planned, and that planning comes to rest
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "store/tier-plan.h"

#define MIB   (1024ull * 1024)
#define SEG   (4 * MIB)
#define MOVES 4096u

struct bed {
	struct plan_tier tiers[3];
	unsigned n_tiers;
	struct plan_segment *segs;
	size_t n;
	struct plan_move moves[MOVES];
	size_t n_moves;
};

/* A fast tier with room for `fast` segments, a slow one for all; segments lie on the slow one. */
static struct bed *bed_new(size_t n, unsigned fast)
{
	struct bed *b = calloc(1, sizeof(*b));

	assert_non_null(b);
	b->segs = calloc(n, sizeof(*b->segs));
	assert_non_null(b->segs);
	b->n = n;
	b->n_tiers = 2;
	b->tiers[0] = (struct plan_tier){.number = 0,
	        .capacity_bytes = fast * SEG,
	        .high_pct = 90,
	        .low_pct = 80,
	        .usable = true};
	b->tiers[1] = (struct plan_tier){.number = 5,
	        .capacity_bytes = 2 * n * SEG,
	        .used_bytes = n * SEG,
	        .high_pct = 95,
	        .low_pct = 90,
	        .usable = true};
	for (size_t i = 0; i < n; i++)
		b->segs[i] = (struct plan_segment){.id = i + 1,
		        .bytes = SEG,
		        .tier = 1,
		        .copy = PLAN_ANY,
		        .pin = PLAN_ANY,
		        .min = PLAN_ANY,
		        .windows = 3,
		        .age_s = 100000};
	return b;
}

static void bed_free(struct bed *b)
{
	free(b->segs);
	free(b);
}

static void plan(struct bed *b)
{
	struct plan_segment *copy = malloc(b->n * sizeof(*copy));

	assert_non_null(copy);
	memcpy(copy, b->segs, b->n * sizeof(*copy));
	assert_int_equal(plan_make(b->tiers, b->n_tiers, copy, b->n, &plan_defaults, b->moves,
	                         MOVES, &b->n_moves),
	        0);
	free(copy);
}

/* Carries the plan out, checking that each step is possible. */
static void carry_out(struct bed *b)
{
	for (size_t i = 0; i < b->n_moves; i++) {
		const struct plan_move *m = &b->moves[i];
		struct plan_segment *s = &b->segs[m->segment - 1];

		if (m->reason == PLAN_UNCOPY) {
			assert_int_equal(s->copy, m->to);
			b->tiers[m->to].used_bytes -= s->bytes;
			s->copy = PLAN_ANY;
			continue;
		}
		assert_int_equal(s->tier, m->from);
		assert_int_not_equal(m->from, m->to);
		assert_int_equal(m->free, s->copy == m->to);
		if (!m->free)
			b->tiers[m->to].used_bytes += s->bytes;
		if (s->copy != PLAN_ANY && !m->free)
			b->tiers[s->copy].used_bytes -= s->bytes;
		if (!m->keep)
			b->tiers[m->from].used_bytes -= s->bytes;
		s->copy = m->keep ? m->from : PLAN_ANY;
		s->tier = m->to;
		assert_true(b->tiers[m->to].used_bytes <= b->tiers[m->to].capacity_bytes);
	}
}

static void settle(struct bed *b)
{
	plan(b);
	carry_out(b);
	plan(b);
	assert_int_equal(b->n_moves, 0); /* a pass that changes nothing is the end */
}

static uint64_t bits = 7;

static double uniform(void)
{
	bits = bits * 6364136223846793005ull + 1442695040888963407ull;
	return (double)(bits >> 11) / (double)(1ull << 53);
}

static unsigned on_fast(const struct bed *b)
{
	unsigned n = 0;

	for (size_t i = 0; i < b->n; i++)
		n += b->segs[i].tier == 0;
	return n;
}

/* --- tests --- */

static void what_is_cold_stays_where_it_is(void **state)
{
	struct bed *b = bed_new(100, 50);

	(void)state;
	plan(b);
	assert_int_equal(b->n_moves, 0);
	bed_free(b);
}

static void what_is_read_in_one_window_only_is_not_promoted(void **state)
{
	struct bed *b = bed_new(100, 50);

	(void)state;
	b->segs[3].hour = b->segs[4].hour = 5000;
	b->segs[3].windows = 1; /* a scan, say */
	settle(b);
	assert_int_equal(b->segs[3].tier, 1);
	assert_int_equal(b->segs[4].tier, 0);
	assert_int_equal(b->segs[4].copy, 1); /* so demoting is free */
	bed_free(b);
}

static void promotion_fills_to_the_low_watermark_with_the_hottest(void **state)
{
	struct bed *b = bed_new(100, 50);

	(void)state;
	for (size_t i = 0; i < b->n; i++)
		b->segs[i].hour = (float)(1000 + i);
	settle(b);
	assert_int_equal(on_fast(b), 40);
	for (size_t i = 60; i < 100; i++)
		assert_int_equal(b->segs[i].tier, 0);
	bed_free(b);
}

static void above_the_high_watermark_the_coldest_go_down_to_the_low_one(void **state)
{
	struct bed *b = bed_new(100, 50);

	(void)state;
	for (size_t i = 0; i < 48; i++) {
		b->segs[i].tier = 0;
		b->segs[i].day = (float)(48 - i);
	}
	b->segs[0].snapshot_only = true;
	b->segs[47].age_s = 10; /* the coldest, but just written */
	b->tiers[0].used_bytes = 48 * SEG;
	b->tiers[1].used_bytes = 52 * SEG;
	settle(b);
	assert_int_equal(on_fast(b), 40);
	assert_int_equal(b->segs[0].tier, 1);
	assert_int_equal(b->segs[47].tier, 0);
	assert_int_equal(b->segs[46].tier, 1);
	assert_int_equal(b->segs[39].tier, 0);
	bed_free(b);
}

static void a_kept_copy_makes_demoting_free_and_goes_when_its_room_is_needed(void **state)
{
	struct bed *b = bed_new(100, 50);

	(void)state;
	for (size_t i = 0; i < 40; i++)
		b->segs[i].hour = 100;
	settle(b);
	assert_int_equal(b->tiers[1].used_bytes, 100 * SEG);
	for (size_t i = 0; i < 20; i++)
		b->segs[i].hour = 0;
	b->tiers[0].used_bytes += 6 * SEG; /* writes */
	plan(b);
	assert_int_equal(b->n_moves, 6);
	for (size_t i = 0; i < b->n_moves; i++)
		assert_true(b->moves[i].free);
	carry_out(b);
	b->tiers[1].capacity_bytes = 104 * SEG;
	plan(b);
	assert_true(b->n_moves > 0);
	assert_int_equal(b->moves[0].reason, PLAN_UNCOPY);
	settle(b);
	bed_free(b);
}

static void a_hotter_segment_takes_the_place_of_a_much_colder_one_only(void **state)
{
	struct bed *b = bed_new(100, 50);

	(void)state;
	for (size_t i = 0; i < 40; i++)
		b->segs[i].hour = 1000;
	settle(b);
	for (size_t i = 40; i < 50; i++)
		b->segs[i].hour = 1500;
	plan(b);
	assert_int_equal(b->n_moves, 0);
	for (size_t i = 40; i < 50; i++)
		b->segs[i].hour = 2500;
	settle(b);
	for (size_t i = 40; i < 50; i++)
		assert_int_equal(b->segs[i].tier, 0);
	assert_int_equal(on_fast(b), 40);
	bed_free(b);
}

static void pins_and_floors_hold(void **state)
{
	struct bed *b = bed_new(100, 50);

	(void)state;
	b->segs[0].pin = 0;
	b->segs[1].min = 0;
	b->segs[2].hour = 10000;
	b->segs[2].pin = 1;
	settle(b);
	assert_int_equal(b->segs[0].tier, 0);
	assert_int_equal(b->segs[1].tier, 0);
	assert_int_equal(b->segs[2].tier, 1);
	b->tiers[0].used_bytes = 50 * SEG; /* by others that cannot go */
	plan(b);
	assert_int_equal(b->n_moves, 0);
	bed_free(b);
}

static void a_draining_tier_gives_all_away(void **state)
{
	struct bed *b = bed_new(100, 50);

	(void)state;
	for (size_t i = 0; i < 30; i++)
		b->segs[i].hour = 100;
	settle(b); /* 30 on the fast tier, with copies on the slow one */
	b->tiers[2] = b->tiers[1];
	b->tiers[2].used_bytes = 0;
	b->n_tiers = 3;
	b->tiers[1].draining = true;
	settle(b);
	assert_int_equal(b->tiers[1].used_bytes, 0);
	for (size_t i = 0; i < b->n; i++)
		assert_true(b->segs[i].tier != 1 && b->segs[i].copy != 1);
	bed_free(b);
}

static void nothing_moves_to_or_from_what_is_away(void **state)
{
	struct bed *b = bed_new(100, 50);

	(void)state;
	for (size_t i = 0; i < b->n; i++)
		b->segs[i].hour = 100;
	b->tiers[1].usable = false;
	plan(b);
	assert_int_equal(b->n_moves, 0);
	b->tiers[1].usable = true;
	b->tiers[0].usable = false;
	plan(b);
	assert_int_equal(b->n_moves, 0);
	bed_free(b);
}

/* --- Zipf-skewed reads against an oracle --- */

#define ZIPF_SEGMENTS 3000u
#define ZIPF_FAST     1000u
#define READS         200000u

static double weights[ZIPF_SEGMENTS], sums[ZIPF_SEGMENTS];
static unsigned rank_of[ZIPF_SEGMENTS]; /* of segment i */

static void zipf_init(double skew)
{
	double sum = 0;

	for (unsigned i = 0; i < ZIPF_SEGMENTS; i++) {
		weights[i] = 1 / pow(i + 1, skew);
		sum += weights[i];
		sums[i] = sum;
		rank_of[i] = i;
	}
	for (unsigned i = 0; i < ZIPF_SEGMENTS; i++) {
		weights[i] /= sum;
		sums[i] /= sum;
	}
	for (unsigned i = ZIPF_SEGMENTS - 1; i > 0; i--) { /* ranks lie anywhere */
		const unsigned k = (unsigned)(uniform() * (i + 1)), t = rank_of[i];
		rank_of[i] = rank_of[k];
		rank_of[k] = t;
	}
}

static unsigned zipf_rank(void)
{
	const double u = uniform();
	unsigned lo = 0, hi = ZIPF_SEGMENTS - 1;

	while (lo < hi) {
		const unsigned mid = (lo + hi) / 2;
		if (sums[mid] < u)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* An hour of reads, then a pass. */
static void zipf_hour(struct bed *b, const unsigned *segment_of)
{
	for (size_t i = 0; i < b->n; i++) {
		b->segs[i].hour /= 2;
		b->segs[i].day *= 0.97153f;
		b->segs[i].windows = 0;
	}
	for (unsigned i = 0; i < READS; i++) {
		struct plan_segment *s = &b->segs[segment_of[zipf_rank()]];
		s->hour += 0.72f; /* of reads spread over an hour, so much is left at its end */
		s->day += 0.986f;
		s->windows |= (uint8_t)(1u << (unsigned)(uniform() * 6));
	}
	for (unsigned i = 0; i < 3; i++) {
		plan(b);
		carry_out(b);
	}
}

/* Share of reads that the fast tier answers. */
static double hit_share(const struct bed *b)
{
	double hits = 0;

	for (size_t i = 0; i < b->n; i++)
		hits += b->segs[i].tier == 0 ? weights[rank_of[i]] : 0;
	return hits;
}

static void segments_by_rank(unsigned *segment_of)
{
	for (unsigned i = 0; i < ZIPF_SEGMENTS; i++)
		segment_of[rank_of[i]] = i;
}

static void three_passes_come_near_to_an_oracle(void **state)
{
	static unsigned segment_of[ZIPF_SEGMENTS];
	struct bed *b = bed_new(ZIPF_SEGMENTS, ZIPF_FAST);

	(void)state;
	zipf_init(1.0);
	segments_by_rank(segment_of);
	const double oracle = sums[ZIPF_FAST - 1];
	for (unsigned pass = 0; pass < 3; pass++)
		zipf_hour(b, segment_of);
	assert_true(hit_share(b) >= 0.9 * oracle);
	/* The working set turns over, as from day to night. */
	for (unsigned i = 0; i < ZIPF_SEGMENTS; i++)
		rank_of[i] = ZIPF_SEGMENTS - 1 - rank_of[i];
	segments_by_rank(segment_of);
	for (unsigned pass = 0; pass < 4; pass++)
		zipf_hour(b, segment_of);
	assert_true(hit_share(b) >= 0.9 * oracle);
	bed_free(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(what_is_cold_stays_where_it_is),
	        cmocka_unit_test(what_is_read_in_one_window_only_is_not_promoted),
	        cmocka_unit_test(promotion_fills_to_the_low_watermark_with_the_hottest),
	        cmocka_unit_test(above_the_high_watermark_the_coldest_go_down_to_the_low_one),
	        cmocka_unit_test(a_kept_copy_makes_demoting_free_and_goes_when_its_room_is_needed),
	        cmocka_unit_test(a_hotter_segment_takes_the_place_of_a_much_colder_one_only),
	        cmocka_unit_test(pins_and_floors_hold),
	        cmocka_unit_test(a_draining_tier_gives_all_away),
	        cmocka_unit_test(nothing_moves_to_or_from_what_is_away),
	        cmocka_unit_test(three_passes_come_near_to_an_oracle),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

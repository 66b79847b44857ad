/*
 * test-shards.c - the sketches of analytics against exact counts
 */
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "stage/builtin/block-hash.h"
#include "stage/builtin/heat.h"
#include "stage/builtin/shards.h"
#include "stage/builtin/streams.h"
#include "stage/builtin/tally.h"
#include "stage/builtin/workset.h"

static void host_free(void *p)
{
	free(p);
}

static void *host_alloc(size_t len)
{
	void *p = malloc(len);

	if (p)
		memset(p, 0xa5, len); /* the stage may not count on zeros */
	return p;
}

static void *alloc_nothing(size_t len)
{
	return NULL;
}

static const struct stage_host host = {.alloc = host_alloc, .free = host_free};

static uint64_t rng_state;

static uint64_t rng(void)
{
	rng_state += 0x9e3779b97f4a7c15ull;
	uint64_t z = rng_state;
	z = (z ^ z >> 33) * 0xff51afd7ed558ccdull;
	z = (z ^ z >> 33) * 0xc4ceb9fe1a85ec53ull;
	return z ^ z >> 33;
}

/* --- exact LRU stack distances (Mattson et al. 1970) --- */

struct mattson {
	uint32_t *last; /* by block: place, from 1; 0: never */
	uint32_t *tree, n_refs, now;
	uint64_t *hits; /* by distance; [blocks]: never seen before */
	uint32_t blocks;
};

static void mattson_init(struct mattson *m, uint32_t blocks, uint32_t n_refs)
{
	*m = (struct mattson){.blocks = blocks, .n_refs = n_refs};
	m->last = calloc(blocks, sizeof(*m->last));
	m->tree = calloc(n_refs + 1, sizeof(*m->tree));
	m->hits = calloc(blocks + 1, sizeof(*m->hits));
	assert_true(m->last && m->tree && m->hits);
}

static void mattson_release(struct mattson *m)
{
	free(m->last);
	free(m->tree);
	free(m->hits);
}

static void mattson_add(struct mattson *m, uint32_t place, uint32_t by)
{
	for (uint32_t i = place; i <= m->n_refs; i += i & -i)
		m->tree[i] += by;
}

static uint32_t mattson_sum(const struct mattson *m, uint32_t place)
{
	uint32_t sum = 0;

	for (uint32_t i = place; i; i -= i & -i)
		sum += m->tree[i];
	return sum;
}

static void mattson_use(struct mattson *m, uint32_t block)
{
	const uint32_t before = m->last[block], now = ++m->now;

	if (before) {
		m->hits[mattson_sum(m, now - 1) - mattson_sum(m, before)]++;
		mattson_add(m, before, (uint32_t)-1);
	} else {
		m->hits[m->blocks]++;
	}
	m->last[block] = now;
	mattson_add(m, now, 1);
}

/* --- traces --- */

struct trace {
	uint32_t blocks, n;
	uint32_t (*next)(const struct trace *t, uint32_t i);
	const double *cdf;
};

/* Zipf of exponent 0.9 by inversion; ranks are scattered over the image. */
static uint32_t next_zipf(const struct trace *t, uint32_t i)
{
	const double u = (double)(rng() >> 11) * 0x1p-53 * t->cdf[t->blocks - 1];
	uint32_t lo = 0, hi = t->blocks - 1;

	while (lo < hi) {
		const uint32_t mid = (lo + hi) / 2;
		if (t->cdf[mid] < u)
			lo = mid + 1;
		else
			hi = mid;
	}
	return (uint32_t)((uint64_t)lo * 2654435761u % t->blocks);
}

/* Half: a loop over the first fifth; half: anywhere. */
static uint32_t next_mix(const struct trace *t, uint32_t i)
{
	if (i % 2)
		return i / 2 % (t->blocks / 5);
	return (uint32_t)(rng() % t->blocks);
}

static double *zipf_cdf(uint32_t blocks)
{
	double *cdf = malloc(blocks * sizeof(*cdf)), sum = 0;

	assert_non_null(cdf);
	for (uint32_t i = 0; i < blocks; i++)
		cdf[i] = sum += pow(i + 1, -0.9);
	return cdf;
}

/* Mean absolute difference of the two curves, at 200 sizes. */
static double curve_error(const struct mattson *m, const struct shards_curve *c)
{
	const uint32_t points = 200;
	uint64_t hits = 0, at = 0;
	double error = 0;

	for (uint32_t i = 1; i <= points; i++) {
		const uint64_t size = (uint64_t)m->blocks * i / points;
		for (; at < size; at++)
			hits += m->hits[at];
		const double exact = 1 - (double)hits / m->now;
		error += fabs(exact - shards_miss_ratio(c, size, SHARDS_KINDS));
	}
	return error / points;
}

static double measure(const struct trace *t, uint32_t samples, double rate, double *ret_rate)
{
	struct shards *s = NULL;
	struct mattson m;
	struct shards_curve *c = malloc(sizeof(*c));
	uint64_t uses[SHARDS_KINDS] = {0};

	assert_non_null(c);
	assert_int_equal(shards_new(&host, samples, rate, &s), 0);
	mattson_init(&m, t->blocks, t->n);
	rng_state = 42;
	for (uint32_t i = 0; i < t->n; i++) {
		const uint32_t block = t->next(t, i);
		const uint64_t hash = block_hash(block);
		const enum shards_kind kind = i % 3 ? SHARDS_READ : SHARDS_WRITE;
		uses[kind]++;
		mattson_use(&m, block);
		if (shards_admits(shards_filter(s), hash))
			shards_use(s, hash, kind);
	}
	shards_curve(s, uses, c);
	*ret_rate = c->rate;
	assert_true(c->samples <= samples);
	const double error = curve_error(&m, c);
	mattson_release(&m);
	shards_free(s);
	free(c);
	return error;
}

static void check_trace(const char *name, const struct trace *t)
{
	double rate;
	double error = measure(t, 65536, 0.01, &rate);

	print_message("%s: rate 1 %%: mean absolute error %.4f\n", name, error);
	assert_true(rate > 0.0099 && rate < 0.0101);
	assert_true(error < 0.02);
	error = measure(t, 8192, 0.05, &rate);
	print_message("%s: 8192 samples: mean absolute error %.4f (rate fell to %.2f %%)\n", name,
	        error, rate * 100);
	assert_true(rate < 0.05);
	assert_true(error < 0.02);
}

static void test_curve_of_zipf_is_exact_within_2_percent(void **state)
{
	double *cdf = zipf_cdf(1 << 20);
	const struct trace t = {1 << 20, 4000000, next_zipf, cdf};

	check_trace("zipf", &t);
	free(cdf);
}

static void test_curve_of_loop_and_random_is_exact_within_2_percent(void **state)
{
	const struct trace t = {1 << 20, 4000000, next_mix, NULL};

	check_trace("loop and random", &t);
}

static void test_curve_of_everything_sampled_is_exact(void **state)
{
	const struct trace t = {2000, 60000, next_mix, NULL};
	double rate;

	/* All blocks in the sample, so only the width of buckets is left; places run out often. */
	assert_true(measure(&t, 2048, 1, &rate) < 0.004);
	assert_true(rate > 0.999);
}

static void test_bucket_ends_are_what_falls_into_them(void **state)
{
	for (unsigned i = 1; i < SHARDS_BUCKETS; i++)
		assert_true(shards_bucket_end(i) > shards_bucket_end(i - 1));
	assert_int_equal(shards_bucket_end(31), 32);
	assert_int_equal(shards_bucket_end(32), 33);
	assert_int_equal(shards_bucket_end(64), 66);
	assert_true(shards_bucket_end(SHARDS_BUCKETS - 1) >= 1ull << 32); /* 16 TiB */
}

static void use_all(struct shards *s, uint64_t blocks)
{
	for (uint64_t b = 0; b < blocks; b++)
		if (shards_admits(shards_filter(s), block_hash(b)))
			shards_use(s, block_hash(b), SHARDS_READ);
}

static void test_saved_sample_goes_on(void **state)
{
	const uint64_t uses[SHARDS_KINDS] = {60000, 0};
	struct shards_curve *c = malloc(sizeof(*c)), *d = malloc(sizeof(*d));
	struct shards *s = NULL, *t = NULL;

	assert_true(c && d);
	assert_int_equal(shards_new(&host, 1024, 0.5, &s), 0);
	assert_int_equal(shards_new(&host, 1024, 0.5, &t), 0);
	use_all(s, 30000);
	uint8_t *buf = malloc(shards_save_max(s));
	assert_non_null(buf);
	const size_t len = shards_save(s, buf);
	assert_true(len <= shards_save_max(s));
	assert_int_equal(shards_load(t, buf, len), 0);
	use_all(s, 30000);
	use_all(t, 30000);
	shards_curve(s, uses, c);
	shards_curve(t, uses, d);
	assert_memory_equal(c, d, sizeof(*c));
	/* A loop of 30000 blocks: nothing below that, half of the uses above. */
	assert_true(shards_miss_ratio(c, 25000, SHARDS_READ) > 0.9);
	assert_true(fabs(shards_miss_ratio(c, 36000, SHARDS_READ) - 0.5) < 0.05);
	shards_free(s);
	shards_free(t);
	free(buf);
	free(c);
	free(d);
}

static void test_damaged_sample_is_refused_and_empty(void **state)
{
	struct shards *s = NULL;
	struct shards_curve *c = malloc(sizeof(*c));
	const uint64_t uses[SHARDS_KINDS] = {1, 1};

	assert_non_null(c);
	assert_int_equal(shards_new(&host, 1024, 1, &s), 0);
	use_all(s, 2000);
	uint8_t *buf = malloc(shards_save_max(s));
	assert_non_null(buf);
	const size_t len = shards_save(s, buf);
	assert_int_equal(shards_load(s, buf, len - 8), -EBADMSG);
	assert_int_equal(shards_load(s, buf, 3), -EBADMSG);
	memset(buf + 16, 0xff, 8); /* not a number */
	assert_int_equal(shards_load(s, buf, len), -EBADMSG);
	shards_curve(s, uses, c);
	assert_int_equal(c->samples, 0);
	shards_free(s);
	free(buf);
	free(c);
}

static void test_failed_allocation_is_an_error(void **state)
{
	struct stage_host poor = host;
	struct shards *s = NULL;

	poor.alloc = alloc_nothing;
	assert_int_equal(shards_new(&poor, 1024, 1, &s), -ENOMEM);
	assert_null(s);
}

/* --- working set --- */

static void test_working_set_is_within_5_percent(void **state)
{
	static const uint64_t counts[] = {1, 10, 500, 4000, 12000, 100000, 3000000};
	struct workset *w = malloc(sizeof(*w));
	struct workset_count c;

	assert_non_null(w);
	for (unsigned i = 0; i < ARRAY_SIZE(counts); i++) {
		workset_init(w, 1000, 0);
		for (uint64_t b = 0; b < 2 * counts[i]; b++)
			workset_note(w, block_hash(b % counts[i]), false);
		workset_count(w, 0, &c);
		assert_true(fabs(c.read - (double)counts[i]) <= 0.05 * (double)counts[i] + 0.5);
		assert_true(c.written == 0);
		assert_true(c.both == c.read);
	}
	free(w);
}

static void test_windows_forget_and_the_sum_does_not(void **state)
{
	struct workset *w = malloc(sizeof(*w));
	struct workset_count c;
	uint8_t *kept = malloc(2 * WORKSET_REGISTERS);

	assert_true(w && kept);
	workset_init(w, 1000, 5000);
	for (unsigned window = 0; window < 20; window++) {
		workset_turn(w, 5000 + 1000 * window);
		for (uint64_t b = 0; b < 1000; b++)
			workset_note(w, block_hash(window * 1000 + b), true);
	}
	workset_turn(w, 4000); /* an older clock changes nothing */
	assert_int_equal(workset_windows(w), WORKSET_WINDOWS);
	workset_count(w, 1, &c);
	assert_true(fabs(c.written - 1000) < 60);
	workset_count(w, 4, &c);
	assert_true(fabs(c.written - 4000) < 250);
	workset_count(w, UINT_MAX, &c);
	assert_true(fabs(c.both - 20000) < 1000);
	workset_save(w, kept);
	workset_turn(w, 1000000);
	workset_count(w, WORKSET_WINDOWS, &c);
	assert_true(c.both == 0);

	workset_init(w, 1000, 0);
	assert_int_equal(workset_load(w, kept), 0);
	workset_count(w, UINT_MAX, &c);
	assert_true(fabs(c.both - 20000) < 1000);
	kept[5] = 60;
	assert_int_equal(workset_load(w, kept), -EBADMSG);
	free(kept);
	free(w);
}

/* --- heat --- */

static const struct heat_config heat_cfg = {
        .rows = 16,
        .columns = 8,
        .column_ns = 1000,
        .regions = 16,
        .region_shift = 20,
        .half_life_ns = 1000000,
        .image_bytes = 16 << 20,
};

static void test_heat_is_where_and_when_it_was(void **state)
{
	struct heat *h = NULL;

	assert_int_equal(heat_new(&host, &heat_cfg, 10000, &h), 0);
	assert_int_equal(heat_row_bytes(h), 1 << 20);
	heat_note(h, 10000, 0, false, 3);
	heat_note(h, 12500, 5 << 20, true, 4);
	assert_int_equal(heat_columns(h), 3);
	assert_int_equal(heat_cell(h, 0, 0, false), 3);
	assert_int_equal(heat_cell(h, 2, 5, true), 4);
	assert_int_equal(heat_cell(h, 1, 5, true), 0);
	heat_turn(h, 18000); /* the first column leaves the ring */
	assert_int_equal(heat_columns(h), 8);
	assert_int_equal(heat_cell(h, 0, 0, false), 0);
	assert_int_equal(heat_cell(h, 1, 5, true), 4);
	assert_int_equal(heat_total(h, 0, false), 3);
	/* Growth folds rows together: row 5 becomes row 1 of 4 MiB. */
	heat_note(h, 18000, 40 << 20, false, 7);
	assert_int_equal(heat_row_bytes(h), 4 << 20);
	assert_int_equal(heat_cell(h, 1, 1, true), 4);
	assert_int_equal(heat_cell(h, 7, 10, false), 7);
	assert_int_equal(heat_total(h, 0, false), 3);
	assert_int_equal(heat_total(h, 1, true), 4);
	heat_free(h);
}

static void test_hot_regions_are_found_among_many(void **state)
{
	struct heat_region list[4];
	struct heat *h = NULL;
	double all;

	assert_int_equal(heat_new(&host, &heat_cfg, 0, &h), 0);
	rng_state = 7;
	for (unsigned i = 0; i < 100000; i++) {
		/* Two hot ones, and a thousand others for sixteen counters. */
		const uint64_t region = i % 4 == 0 ? 77 : i % 4 == 1 ? 900 : rng() % 1000;
		heat_note(h, 0, region << 20, region == 900, 1);
	}
	assert_int_equal(heat_hottest(h, 0, list, 4, &all), 4);
	assert_true(all == 100000);
	assert_true((list[0].region == 77 && list[1].region == 900) ||
	            (list[0].region == 900 && list[1].region == 77));
	for (unsigned i = 0; i < 2; i++) {
		const double n = list[i].reads + list[i].writes;
		assert_true(n >= 25000 && n - list[i].error <= 25200);
	}
	/* Half after a half-life; what is used then passes them soon. */
	heat_hottest(h, 1000000, list, 1, &all);
	assert_true(fabs(all - 50000) < 1);
	for (unsigned i = 0; i < 1000; i++)
		heat_note(h, 100000000000ull + i, 5 << 20, false, 1);
	heat_hottest(h, 100000001000ull, list, 1, &all);
	assert_int_equal(list[0].region, 5);
	assert_true(fabs(all - 1000) < 2);
	heat_free(h);
}

/* --- streams, counters --- */

static void test_interleaved_streams_are_sequential(void **state)
{
	struct streams *s = calloc(1, sizeof(*s));
	unsigned joined = 0;

	assert_non_null(s);
	for (unsigned i = 0; i < 1000; i++)
		for (unsigned stream = 0; stream < 8; stream++)
			joined += streams_note(
			        s, ((uint64_t)stream << 30) + i * 4096, 4096, stream & 1)
			                  .joined;
	assert_true(joined > 7900);
	/* A write that follows a read is not its stream. */
	streams_note(s, 1ull << 40, 4096, false);
	streams_note(s, (1ull << 40) + 4096, 4096, false);
	assert_int_equal(streams_note(s, (1ull << 40) + 8192, 4096, true).joined, 0);
	assert_int_equal(streams_note(s, (1ull << 40) + 8192, 4096, false).joined, 3);
	free(s);
}

static void test_random_requests_are_not_sequential(void **state)
{
	struct streams *s = calloc(1, sizeof(*s));
	unsigned joined = 0;

	assert_non_null(s);
	rng_state = 3;
	for (unsigned i = 0; i < 10000; i++)
		joined += streams_note(s, rng() % (1 << 20) * 4096, 4096, false).joined;
	assert_true(joined < 20);
	/* Also in a small area, 16 MiB, where neighbours meet by chance. */
	for (unsigned i = joined = 0; i < 10000; i++)
		joined += streams_note(s, rng() % 4096 * 4096, 4096, false).joined;
	print_message("random in 16 MiB: %u of 10000 taken for sequential\n", joined);
	assert_true(joined < 1500);
	free(s);
}

static void test_stream_out_of_order_is_sequential(void **state)
{
	struct streams *s = calloc(1, sizeof(*s));
	static const unsigned order[] = {0, 2, 1, 3, 5, 6, 4, 7, 8, 10, 9, 11};
	unsigned joined = 0;

	assert_non_null(s);
	for (unsigned i = 0; i < ARRAY_SIZE(order); i++)
		joined += streams_note(s, (1 << 20) + order[i] * 65536, 65536, false).joined;
	assert_true(joined >= 9 && joined <= ARRAY_SIZE(order));
	free(s);
}

static void take_run(void *arg, uint64_t run, bool is_write)
{
	if (run > *(uint64_t *)arg)
		*(uint64_t *)arg = run;
}

static void test_runs_have_their_length(void **state)
{
	struct streams *s = calloc(1, sizeof(*s));
	uint64_t longest = 0;

	assert_non_null(s);
	for (unsigned i = 0; i < 64; i++)
		assert_int_equal(streams_note(s, i * 4096, 4096, false).ended, 0);
	streams_each(s, take_run, &longest);
	assert_int_equal(longest, 64 * 4096);
	/* Pushed out by others, it is reported as ended. */
	uint64_t ended = 0;
	for (uint64_t i = 1; i < 100000 && ended < longest; i++) {
		const uint64_t run = streams_note(s, i << 30, 512, false).ended;
		ended = MAX(ended, run);
	}
	assert_int_equal(ended, longest);
	free(s);
}

static void test_latency_quantiles_lie_in_their_bucket(void **state)
{
	struct tally *t = calloc(1, sizeof(*t));
	struct tally_sum *sum = malloc(sizeof(*sum));

	assert_true(t && sum);
	for (unsigned i = 1; i <= 1000; i++)
		tally_latency(t, TALLY_READ, i * 1000);
	tally_sum(t, sum);
	const uint64_t p50 = tally_quantile(sum, TALLY_READ, 0.5);
	assert_true(p50 >= 500000 && p50 <= 500000 * 1.26);
	assert_int_equal(tally_quantile(sum, TALLY_READ, 1), 1000000);
	assert_int_equal(tally_quantile(sum, TALLY_WRITE, 0.5), 0);
	assert_int_equal(sum->latency_samples[TALLY_READ], 1000);
	tally_latency(t, TALLY_READ, UINT64_MAX);
	tally_sum(t, sum);
	assert_int_equal(sum->latency[TALLY_READ][TALLY_LATENCY - 1], 1);
	assert_int_equal(tally_bucket(512, TALLY_SIZE_SHIFT, TALLY_SIZES), 0);
	assert_int_equal(tally_bucket(513, TALLY_SIZE_SHIFT, TALLY_SIZES), 1);
	assert_int_equal(tally_bucket(4096, TALLY_SIZE_SHIFT, TALLY_SIZES), 3);
	assert_int_equal(tally_bucket(1 << 30, TALLY_SIZE_SHIFT, TALLY_SIZES), TALLY_SIZES - 1);
	free(t);
	free(sum);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_bucket_ends_are_what_falls_into_them),
	        cmocka_unit_test(test_curve_of_everything_sampled_is_exact),
	        cmocka_unit_test(test_curve_of_zipf_is_exact_within_2_percent),
	        cmocka_unit_test(test_curve_of_loop_and_random_is_exact_within_2_percent),
	        cmocka_unit_test(test_saved_sample_goes_on),
	        cmocka_unit_test(test_damaged_sample_is_refused_and_empty),
	        cmocka_unit_test(test_failed_allocation_is_an_error),
	        cmocka_unit_test(test_working_set_is_within_5_percent),
	        cmocka_unit_test(test_windows_forget_and_the_sum_does_not),
	        cmocka_unit_test(test_heat_is_where_and_when_it_was),
	        cmocka_unit_test(test_hot_regions_are_found_among_many),
	        cmocka_unit_test(test_interleaved_streams_are_sequential),
	        cmocka_unit_test(test_random_requests_are_not_sequential),
	        cmocka_unit_test(test_stream_out_of_order_is_sequential),
	        cmocka_unit_test(test_runs_have_their_length),
	        cmocka_unit_test(test_latency_quantiles_lie_in_their_bucket),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

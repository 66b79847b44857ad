#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "store/cache.h"

#define MIB (1ull << 20)

/* Content follows from the location, so every read can be checked. */
static void chunk_fill(uint8_t *buf, uint64_t loc)
{
	uint64_t x = loc * 0x9e3779b97f4a7c15ull;

	for (unsigned i = 0; i < CHUNK_SIZE; i += 8) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		memcpy(buf + i, &x, 8);
	}
}

static bool chunk_is(const uint8_t *data, uint64_t loc)
{
	uint8_t want[CHUNK_SIZE];

	chunk_fill(want, loc);
	return memcmp(data, want, CHUNK_SIZE) == 0;
}

static struct cache *cache_of(uint64_t limit_bytes)
{
	struct cache *c = NULL;

	assert_int_equal(cache_create(limit_bytes, &c), 0);
	return c;
}

static bool insert(struct cache *c, uint64_t loc)
{
	uint8_t buf[CHUNK_SIZE];

	chunk_fill(buf, loc);
	return cache_insert(c, loc, buf, NULL);
}

static bool touch(struct cache *c, uint64_t loc)
{
	struct cache_ref ref;

	if (!cache_get(c, loc, &ref))
		return false;
	cache_release(c, &ref);
	return true;
}

static uint64_t random_next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state * 0x2545f4914f6cdd1dull;
}

static void get_returns_what_was_inserted(void **state)
{
	struct cache *c = cache_of(16 * MIB);
	struct cache_ref ref;

	assert_false(cache_get(c, loc_make(1, 0), &ref));
	for (unsigned i = 0; i < 1000; i++)
		assert_true(insert(c, loc_make(1 + i % 7, i)));
	for (unsigned i = 0; i < 1000; i++) {
		const uint64_t loc = loc_make(1 + i % 7, i);
		assert_true(cache_get(c, loc, &ref));
		assert_true(chunk_is(ref.data, loc));
		assert_int_equal((uintptr_t)ref.data % CHUNK_SIZE, 0);
		cache_release(c, &ref);
	}
	cache_free(c);
}

static void insert_of_a_known_location_keeps_the_first_content(void **state)
{
	struct cache *c = cache_of(MIB);
	uint8_t other[CHUNK_SIZE] = {1};
	struct cache_ref a, b;

	assert_true(insert(c, loc_make(1, 1)));
	assert_true(cache_insert(c, loc_make(1, 1), other, &a));
	assert_true(chunk_is(a.data, loc_make(1, 1)));
	assert_true(cache_get(c, loc_make(1, 1), &b));
	assert_ptr_equal(a.data, b.data);
	cache_release(c, &a);
	cache_release(c, &b);
	cache_free(c);
}

static void a_limit_of_zero_disables_it(void **state)
{
	const uint64_t limits[] = {0, 1, CHUNK_SIZE};

	for (unsigned i = 0; i < ARRAY_SIZE(limits); i++) {
		struct cache *c = cache_of(limits[i]);
		struct cache_ref ref;
		uint8_t buf[CHUNK_SIZE] = {0};
		assert_false(cache_insert(c, loc_make(1, 0), buf, &ref));
		assert_false(cache_get(c, loc_make(1, 0), &ref));
		assert_false(cache_peek(c, loc_make(1, 0)));
		cache_drop(c, loc_make(1, 0));
		cache_free(c);
	}
}

static void any_small_limit_works_and_is_kept(void **state)
{
	for (uint64_t limit = 4 * CHUNK_SIZE; limit < 3 * MIB; limit += 77777) {
		struct cache *c = cache_of(limit);
		struct cache_stats st;
		unsigned there = 0;
		for (unsigned i = 0; i < 2000; i++)
			assert_true(insert(c, loc_make(1 + i / 2048, i % 2048)));
		for (unsigned i = 0; i < 2000; i++)
			there += cache_peek(c, loc_make(1 + i / 2048, i % 2048));
		cache_stats_get(c, &st);
		assert_true(st.bytes <= limit);
		/* At least nine tenths of the limit are content. */
		assert_true(MIN(there, 1999) * (uint64_t)CHUNK_SIZE >=
		            MIN(limit / 10 * 9 - 2 * CHUNK_SIZE, 1999 * (uint64_t)CHUNK_SIZE));
		cache_free(c);
	}
}

static void a_working_set_that_fits_stays(void **state)
{
	enum { N = 64000 }; /* of 65,015 slots; some are in runs that other shards hold */
	struct cache *c = cache_of(256 * MIB);
	struct cache_stats st;

	for (unsigned i = 0; i < N; i++)
		assert_true(insert(c, loc_make(1 + i / 1000, i % 1000 * 2)));
	for (unsigned i = 0; i < N; i++)
		assert_true(cache_peek(c, loc_make(1 + i / 1000, i % 1000 * 2)));
	cache_stats_get(c, &st);
	assert_true(st.bytes <= st.limit_bytes);
	cache_free(c);
}

static void memory_grows_with_use(void **state)
{
	struct cache *c = cache_of(512 * MIB);
	struct cache_stats st;

	cache_stats_get(c, &st);
	assert_int_equal(st.bytes, 0);
	for (unsigned i = 0; i < 256; i++)
		assert_true(insert(c, loc_make(3, i)));
	cache_stats_get(c, &st);
	assert_in_range(st.bytes, MIB, 2 * MIB);
	assert_int_equal(st.limit_bytes, 512 * MIB);
	cache_free(c);
}

static void hits_and_misses_are_counted_and_peeks_are_not(void **state)
{
	struct cache *c = cache_of(MIB);
	struct cache_stats st;

	assert_true(insert(c, loc_make(1, 0)));
	assert_true(cache_peek(c, loc_make(1, 0)));
	assert_false(cache_peek(c, loc_make(1, 1)));
	assert_true(touch(c, loc_make(1, 0)));
	assert_false(touch(c, loc_make(1, 1)));
	assert_false(touch(c, loc_make(1, 2)));
	cache_stats_get(c, &st);
	assert_int_equal(st.hits, 1);
	assert_int_equal(st.misses, 2);
	cache_free(c);
}

static void a_referenced_chunk_is_never_evicted_or_overwritten(void **state)
{
	struct cache *c = cache_of(MIB);
	struct cache_ref refs[64];
	uint8_t buf[CHUNK_SIZE];

	for (unsigned i = 0; i < 64; i++) {
		chunk_fill(buf, loc_make(1, i));
		assert_true(cache_insert(c, loc_make(1, i), buf, &refs[i]));
	}
	for (unsigned i = 0; i < 5000; i++)
		assert_true(insert(c, loc_make(2 + i / 2048, i % 2048)));
	for (unsigned i = 0; i < 64; i++) {
		assert_true(cache_peek(c, loc_make(1, i)));
		assert_true(chunk_is(refs[i].data, loc_make(1, i)));
		cache_release(c, &refs[i]);
	}
	/* Released, they can go. */
	for (unsigned i = 0; i < 5000; i++)
		assert_true(insert(c, loc_make(9 + i / 2048, i % 2048)));
	unsigned there = 0;
	for (unsigned i = 0; i < 64; i++)
		there += cache_peek(c, loc_make(1, i));
	assert_int_equal(there, 0);
	cache_free(c);
}

static void insert_gives_up_when_everything_is_referenced(void **state)
{
	struct cache *c = cache_of(MIB);
	struct cache_ref refs[256], more;
	uint8_t buf[CHUNK_SIZE];
	unsigned n = 0;

	for (;;) {
		chunk_fill(buf, loc_make(1, n));
		if (!cache_insert(c, loc_make(1, n), buf, &refs[n]))
			break;
		assert_true(++n < ARRAY_SIZE(refs));
	}
	assert_true(n > 200);
	assert_false(insert(c, loc_make(2, 1)));
	assert_true(cache_get(c, loc_make(1, 5), &more));
	cache_release(c, &more);
	for (unsigned i = 0; i < n; i++) {
		assert_true(chunk_is(refs[i].data, loc_make(1, i)));
		cache_release(c, &refs[i]);
	}
	assert_true(insert(c, loc_make(2, 1)));
	cache_free(c);
}

static void a_dropped_chunk_is_gone_but_its_readers_keep_it(void **state)
{
	struct cache *c = cache_of(MIB);
	struct cache_ref old, new;
	uint8_t healed[CHUNK_SIZE] = {42};

	assert_true(insert(c, loc_make(1, 1)));
	assert_true(cache_get(c, loc_make(1, 1), &old));
	cache_drop(c, loc_make(1, 1));
	cache_drop(c, loc_make(1, 1));
	assert_false(touch(c, loc_make(1, 1)));
	assert_true(cache_insert(c, loc_make(1, 1), healed, &new));
	assert_memory_equal(new.data, healed, CHUNK_SIZE);
	assert_true(chunk_is(old.data, loc_make(1, 1)));
	cache_release(c, &new);
	/* The dropped slot is not reused before its reader is gone, but then it is. */
	for (unsigned i = 0; i < 3000; i++)
		assert_true(insert(c, loc_make(2 + i / 2048, i % 2048)));
	assert_true(chunk_is(old.data, loc_make(1, 1)));
	cache_release(c, &old);
	for (unsigned round = 0; round < 10; round++)
		for (unsigned i = 0; i < 300; i++) {
			assert_true(insert(c, loc_make(5, i)));
			cache_drop(c, loc_make(5, i));
		}
	assert_true(insert(c, loc_make(1, 1)));
	cache_free(c);
}

static void a_stride_of_sixteen_fills_the_whole_cache(void **state)
{
	struct cache *c = cache_of(4 * MIB);
	unsigned there = 0;

	for (unsigned i = 0; i < 900; i++)
		assert_true(insert(c, loc_make(1 + i / 128, i % 128 * 16)));
	for (unsigned i = 0; i < 900; i++)
		there += cache_peek(c, loc_make(1 + i / 128, i % 128 * 16));
	assert_int_equal(there, 900);
	cache_free(c);
}

/* --- replacement --- */

/* A plain LRU of the same size, to compare with: time of last use a location. */
#define LOCS 200000
struct lru {
	uint32_t next[LOCS + 1], prev[LOCS + 1]; /* LOCS: the list's head */
	bool in[LOCS];
	unsigned n, cap;
};

static void lru_unlink(struct lru *l, unsigned i)
{
	l->next[l->prev[i]] = l->next[i];
	l->prev[l->next[i]] = l->prev[i];
}

static void lru_push(struct lru *l, unsigned i)
{
	l->next[i] = l->next[LOCS];
	l->prev[i] = LOCS;
	l->prev[l->next[i]] = i;
	l->next[LOCS] = i;
}

static bool lru_touch(struct lru *l, unsigned i)
{
	const bool hit = l->in[i];

	if (hit) {
		lru_unlink(l, i);
	} else if (l->n == l->cap) {
		const unsigned old = l->prev[LOCS];
		lru_unlink(l, old);
		l->in[old] = false;
	} else {
		l->n++;
	}
	l->in[i] = true;
	lru_push(l, i);
	return hit;
}

static uint64_t loc_of(unsigned i)
{
	return loc_make(1 + i / SEGMENT_SLOTS, i % SEGMENT_SLOTS);
}

static bool cache_use(struct cache *c, unsigned i)
{
	static const uint8_t zeros[CHUNK_SIZE];

	if (touch(c, loc_of(i)))
		return true;
	assert_true(cache_insert(c, loc_of(i), zeros, NULL));
	return false;
}

/* Zipf-like (exponent about 1) over the first n locations, shuffled over the segments. */
static unsigned zipf_pick(uint64_t *seed, unsigned n)
{
	unsigned span = n;

	while (span > 1 && random_next(seed) >> 63)
		span /= 2;
	return (unsigned)((random_next(seed) >> 33) % span * 7919ull % n);
}

static void the_hot_set_survives_a_scan_unlike_with_lru(void **state)
{
	enum { HOT = 30000, SCAN_FROM = 50000, SCAN = 60000 };
	struct cache *c = cache_of(32 * MIB); /* 8,000 chunks */
	struct lru *l = calloc(1, sizeof(*l));
	uint64_t seed = 7;
	unsigned hits = 0, lru_hits = 0, after = 0, lru_after = 0;

	assert_non_null(l);
	l->cap = 8000;
	l->next[LOCS] = l->prev[LOCS] = LOCS;
	for (unsigned i = 0; i < 200000; i++) {
		const unsigned at = zipf_pick(&seed, HOT);
		hits += cache_use(c, at);
		lru_hits += lru_touch(l, at);
	}
	for (unsigned i = 0; i < SCAN; i++) {
		cache_use(c, SCAN_FROM + i);
		lru_touch(l, SCAN_FROM + i);
	}
	for (unsigned i = 0; i < 3000; i++) {
		const unsigned at = zipf_pick(&seed, HOT);
		after += cache_use(c, at);
		lru_after += lru_touch(l, at);
	}
	print_message("hits %%: zipf %.1f (lru %.1f), after the scan %.1f (lru %.1f)\n",
	        hits / 2000., lru_hits / 2000., after / 30., lru_after / 30.);
	assert_true(hits >= lru_hits);
	assert_true(after * 2000ull >= hits * 27ull); /* 90 % of what it was before */
	assert_true(after > lru_after + 600);
	free(l);
	cache_free(c);
}

static void a_chunk_read_twice_more_is_kept_and_one_read_once_more_is_not(void **state)
{
	struct cache *c = cache_of(MIB);

	assert_true(insert(c, loc_make(100, 1)));
	assert_true(insert(c, loc_make(100, 2)));
	assert_true(touch(c, loc_make(100, 1)));
	assert_true(touch(c, loc_make(100, 2)));
	assert_true(touch(c, loc_make(100, 2)));
	for (unsigned i = 0; i < 1000; i++)
		assert_true(insert(c, loc_of(i)));
	assert_false(cache_peek(c, loc_make(100, 1)));
	assert_true(cache_peek(c, loc_make(100, 2)));
	cache_free(c);
}

static void main_gives_way_when_all_new_chunks_are_referenced(void **state)
{
	struct cache *c = cache_of(MIB);
	struct cache_ref refs[150];
	uint8_t buf[CHUNK_SIZE];

	for (unsigned i = 0; i < 1000; i++) {
		assert_true(insert(c, loc_of(i)));
		for (unsigned k = 0; k < 3; k++)
			assert_true(touch(c, loc_of(i)));
	}
	for (unsigned i = 0; i < ARRAY_SIZE(refs); i++) {
		chunk_fill(buf, loc_make(50, i));
		assert_true(cache_insert(c, loc_make(50, i), buf, &refs[i]));
	}
	for (unsigned i = 0; i < ARRAY_SIZE(refs); i++)
		cache_release(c, &refs[i]);
	cache_free(c);
}

static void a_chunk_that_comes_back_soon_is_kept(void **state)
{
	struct cache *c = cache_of(MIB);
	unsigned i = 0;

	assert_true(insert(c, loc_make(100, 1)));
	while (cache_peek(c, loc_make(100, 1)))
		assert_true(insert(c, loc_of(i++)));
	assert_true(insert(c, loc_make(100, 1))); /* its ghost is there: goes to main */
	for (unsigned end = i + 1000; i < end; i++)
		assert_true(insert(c, loc_of(i)));
	assert_true(cache_peek(c, loc_make(100, 1)));
	cache_free(c);
}

/* --- threads --- */

struct worker {
	struct cache *c;
	uint64_t seed;
	unsigned hits, wrong;
};

static void worker_step(struct worker *w)
{
	const uint64_t r = random_next(&w->seed);
	const uint64_t loc = loc_of(r % 3000);
	struct cache_ref ref;
	uint8_t buf[CHUNK_SIZE];

	if (r >> 58 == 0) {
		cache_drop(w->c, loc);
		return;
	}
	if (!cache_get(w->c, loc, &ref)) {
		chunk_fill(buf, loc);
		if (!cache_insert(w->c, loc, buf, &ref))
			return;
	} else {
		w->hits++;
	}
	w->wrong += !chunk_is(ref.data, loc);
	cache_release(w->c, &ref);
}

static void *worker_run(void *arg)
{
	for (unsigned i = 0; i < 20000; i++)
		worker_step(arg);
	return NULL;
}

static void threads_never_see_wrong_content(void **state)
{
	struct cache *c = cache_of(6 * MIB); /* half of what they ask for: constant eviction */
	pthread_t threads[4];
	struct worker w[4];
	unsigned hits = 0;

	for (unsigned i = 0; i < 4; i++) {
		w[i] = (struct worker){.c = c, .seed = 99 + i};
		assert_int_equal(pthread_create(&threads[i], NULL, worker_run, &w[i]), 0);
	}
	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(pthread_join(threads[i], NULL), 0);
		assert_int_equal(w[i].wrong, 0);
		hits += w[i].hits;
	}
	assert_true(hits > 10000);
	cache_free(c);
}

static void *inserter_run(void *arg)
{
	static const uint8_t zeros[CHUNK_SIZE];

	for (unsigned i = 0; i < 15000; i++)
		if (!cache_insert(arg, loc_of(i), zeros, NULL))
			return arg;
	return NULL;
}

/* The slower thread finds what the faster one inserts, so they soon run side by side. */
static void threads_that_insert_the_same_make_one_entry(void **state)
{
	struct cache *c = cache_of(128 * MIB);
	pthread_t threads[2];
	void *failed;

	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, inserter_run, c), 0);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(pthread_join(threads[i], &failed), 0);
		assert_null(failed);
	}
	for (unsigned i = 0; i < 15000; i++) {
		assert_true(cache_peek(c, loc_of(i)));
		cache_drop(c, loc_of(i));
		assert_false(cache_peek(c, loc_of(i)));
	}
	cache_free(c);
}

/* Prints; a bound that only something badly wrong would break, since test machines are busy. */
static void get_and_release_take_well_under_a_microsecond(void **state)
{
	enum { N = 60000, ROUNDS = 300000 };
	struct cache *c = cache_of(256 * MIB);
	uint64_t seed = 5, hits = 0;

	for (unsigned i = 0; i < N; i++)
		assert_false(cache_use(c, i));
	uint64_t start_ns = clock_now_ns();
	for (unsigned i = 0; i < ROUNDS; i++)
		hits += touch(c, loc_of((unsigned)(random_next(&seed) % N)));
	const uint64_t random_ns = (clock_now_ns() - start_ns) / ROUNDS;
	start_ns = clock_now_ns();
	for (unsigned i = 0; i < ROUNDS; i++)
		hits += touch(c, loc_of(i % N));
	const uint64_t sequential_ns = (clock_now_ns() - start_ns) / ROUNDS;
	print_message("get and release: random %lu ns, sequential %lu ns\n",
	        (unsigned long)random_ns, (unsigned long)sequential_ns);
	assert_int_equal(hits, 2 * ROUNDS);
	assert_true(sequential_ns < 10000);
	cache_free(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(get_returns_what_was_inserted),
	        cmocka_unit_test(insert_of_a_known_location_keeps_the_first_content),
	        cmocka_unit_test(a_limit_of_zero_disables_it),
	        cmocka_unit_test(any_small_limit_works_and_is_kept),
	        cmocka_unit_test(a_working_set_that_fits_stays),
	        cmocka_unit_test(memory_grows_with_use),
	        cmocka_unit_test(hits_and_misses_are_counted_and_peeks_are_not),
	        cmocka_unit_test(a_referenced_chunk_is_never_evicted_or_overwritten),
	        cmocka_unit_test(insert_gives_up_when_everything_is_referenced),
	        cmocka_unit_test(a_dropped_chunk_is_gone_but_its_readers_keep_it),
	        cmocka_unit_test(a_stride_of_sixteen_fills_the_whole_cache),
	        cmocka_unit_test(the_hot_set_survives_a_scan_unlike_with_lru),
	        cmocka_unit_test(a_chunk_read_twice_more_is_kept_and_one_read_once_more_is_not),
	        cmocka_unit_test(main_gives_way_when_all_new_chunks_are_referenced),
	        cmocka_unit_test(a_chunk_that_comes_back_soon_is_kept),
	        cmocka_unit_test(threads_never_see_wrong_content),
	        cmocka_unit_test(threads_that_insert_the_same_make_one_entry),
	        cmocka_unit_test(get_and_release_take_well_under_a_microsecond),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

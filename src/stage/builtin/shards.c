/*
 * shards.c - reuse distances of sampled blocks
 *
 * Owns, for each sampled block, its hash and the moment of its last use.  Moments are places of a
 * Fenwick tree (Fenwick 1994) that holds a one where a block was last used: the number of ones
 * behind a block's place is how many other sampled blocks were used since, its reuse distance in
 * the sample, found in O(log n).  When the places run out, all are moved together (once in
 * 3 x samples uses).
 *
 * The sample is a set in a hash table with linear probing, and a max-heap by hash: when it grows
 * over its limit, the largest hash leaves and becomes the threshold, which only falls.  The paper
 * scales the histogram down each time; here each use adds 1/rate of its moment instead, which gives
 * the same sums and touches one bucket.
 *
 * Adjustment: hot blocks that are (or are not) in the sample by luck make the sampled uses differ
 * from what the rate lets expect.  As in the paper, the difference to the true count of uses goes
 * to the first bucket, for such blocks have the smallest distances.
 */
#include "stage/builtin/shards.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#include "base/bytes.h"

#define TWO_TO_64 18446744073709551616.0
#define PLACES    4u /* of the tree, for each sample */

struct sample {
	uint64_t hash;
	uint32_t place; /* from 1; 0: free entry */
	uint32_t next;  /* of the free list */
};

struct shards {
	const struct stage_host *host;
	struct shards_filter filter;
	uint64_t threshold_first;
	uint32_t max, n, places, place_last;
	uint32_t free_first;
	uint32_t table_mask;
	struct sample *samples;       /* max + 1: one more before the largest leaves */
	uint32_t *heap;               /* indices of samples, largest hash first */
	uint32_t *table;              /* index + 1; 0: empty */
	uint32_t *tree;               /* places + 1 */
	uint32_t *at_place;           /* index + 1 of who is there; 0: nobody */
	double weights[SHARDS_KINDS]; /* of all sampled uses */
	double hits[SHARDS_BUCKETS][SHARDS_KINDS];
};

static uint32_t table_size(uint32_t samples)
{
	uint32_t n = 1;

	while (n < 2 * samples)
		n *= 2;
	return n;
}

size_t shards_bytes(uint32_t samples)
{
	const size_t n = (size_t)samples + 1, places = (size_t)samples * PLACES + 1;

	return sizeof(struct shards) + n * (sizeof(struct sample) + sizeof(uint32_t)) +
	       (table_size(samples) + 2 * places) * sizeof(uint32_t);
}

static uint64_t threshold_of(double rate)
{
	return rate >= 1 ? UINT64_MAX : (uint64_t)(rate * TWO_TO_64);
}

static uint64_t threshold_now(const struct shards *s)
{
	return atomic_load_explicit(&s->filter.threshold, memory_order_relaxed);
}

static double rate_now(const struct shards *s)
{
	return (double)threshold_now(s) / TWO_TO_64;
}

int shards_new(
        const struct stage_host *host, uint32_t samples, double rate, struct shards **ret_shards)
{
	const size_t places = (size_t)samples * PLACES;
	struct shards *s = host->alloc(shards_bytes(samples));

	if (!s)
		return -ENOMEM;
	memset(s, 0, sizeof(*s));
	s->host = host;
	s->max = samples;
	s->places = (uint32_t)places;
	s->table_mask = table_size(samples) - 1;
	s->threshold_first = threshold_of(rate);
	s->samples = (struct sample *)(s + 1);
	s->heap = (uint32_t *)(s->samples + samples + 1);
	s->table = s->heap + samples + 1;
	s->tree = s->table + s->table_mask + 1;
	s->at_place = s->tree + places + 1;
	shards_reset(s);
	*ret_shards = s;
	return 0;
}

void shards_free(struct shards *s)
{
	if (s)
		s->host->free(s);
}

void shards_reset(struct shards *s)
{
	s->n = 0;
	s->place_last = 0;
	memset(s->table, 0, (s->table_mask + 1) * sizeof(*s->table));
	memset(s->tree, 0, (s->places + 1) * sizeof(*s->tree));
	memset(s->at_place, 0, (s->places + 1) * sizeof(*s->at_place));
	memset(s->weights, 0, sizeof(s->weights));
	memset(s->hits, 0, sizeof(s->hits));
	for (uint32_t i = 0; i <= s->max; i++)
		s->samples[i] = (struct sample){.next = i + 1};
	s->free_first = 0;
	atomic_store_explicit(&s->filter.threshold, s->threshold_first, memory_order_relaxed);
}

const struct shards_filter *shards_filter(const struct shards *s)
{
	return &s->filter;
}

/* --- the tree of places --- */

static void tree_add(struct shards *s, uint32_t place, int by)
{
	for (uint32_t i = place; i <= s->places; i += i & -i)
		s->tree[i] += (uint32_t)by;
}

static uint32_t tree_sum(const struct shards *s, uint32_t place)
{
	uint32_t sum = 0;

	for (uint32_t i = place; i; i -= i & -i)
		sum += s->tree[i];
	return sum;
}

/* Moves all who are there to the first places, in their order. */
static void places_compact(struct shards *s)
{
	uint32_t to = 0;

	for (uint32_t from = 1; from <= s->places; from++) {
		const uint32_t who = s->at_place[from];
		if (!who)
			continue;
		s->at_place[from] = 0;
		s->at_place[++to] = who;
		s->samples[who - 1].place = to;
	}
	/* A node of the tree sums the i & -i places that end at i. */
	for (uint32_t i = 1; i <= s->places; i++) {
		const uint32_t first = i - (i & -i) + 1;
		s->tree[i] = first > to ? 0 : MIN(i, to) - first + 1;
	}
	s->place_last = to;
}

static void place_leave(struct shards *s, uint32_t index)
{
	const uint32_t place = s->samples[index].place;

	tree_add(s, place, -1);
	s->at_place[place] = 0;
}

static void place_take(struct shards *s, uint32_t index)
{
	if (s->place_last == s->places)
		places_compact(s);
	const uint32_t place = ++s->place_last;
	s->samples[index].place = place;
	s->at_place[place] = index + 1;
	tree_add(s, place, 1);
}

/* --- the set of sampled blocks --- */

/* Where in the table the hash is, or the empty place where it belongs. */
static uint32_t table_find(const struct shards *s, uint64_t hash)
{
	uint32_t at = (uint32_t)hash & s->table_mask;

	while (s->table[at] && s->samples[s->table[at] - 1].hash != hash)
		at = (at + 1) & s->table_mask;
	return at;
}

/* Closes the gap that a removal leaves, so that searches need no marks. */
static void table_remove(struct shards *s, uint64_t hash)
{
	uint32_t gap = table_find(s, hash);

	for (uint32_t at = (gap + 1) & s->table_mask; s->table[at]; at = (at + 1) & s->table_mask) {
		const uint32_t home = (uint32_t)s->samples[s->table[at] - 1].hash & s->table_mask;
		if (((at - home) & s->table_mask) < ((at - gap) & s->table_mask))
			continue;
		s->table[gap] = s->table[at];
		gap = at;
	}
	s->table[gap] = 0;
}

static uint64_t heap_hash(const struct shards *s, uint32_t i)
{
	return s->samples[s->heap[i]].hash;
}

static void heap_swap(struct shards *s, uint32_t a, uint32_t b)
{
	const uint32_t t = s->heap[a];

	s->heap[a] = s->heap[b];
	s->heap[b] = t;
}

static void heap_push(struct shards *s, uint32_t index)
{
	uint32_t i = s->n++;

	s->heap[i] = index;
	while (i && heap_hash(s, (i - 1) / 2) < heap_hash(s, i)) {
		heap_swap(s, i, (i - 1) / 2);
		i = (i - 1) / 2;
	}
}

static uint32_t heap_pop(struct shards *s)
{
	const uint32_t top = s->heap[0];
	uint32_t i = 0;

	s->heap[0] = s->heap[--s->n];
	for (;;) {
		uint32_t big = i;
		for (uint32_t child = 2 * i + 1; child <= 2 * i + 2 && child < s->n; child++)
			if (heap_hash(s, child) > heap_hash(s, big))
				big = child;
		if (big == i)
			return top;
		heap_swap(s, i, big);
		i = big;
	}
}

static uint32_t sample_add(struct shards *s, uint64_t hash, uint32_t at)
{
	const uint32_t index = s->free_first;

	s->free_first = s->samples[index].next;
	s->samples[index].hash = hash;
	s->table[at] = index + 1;
	heap_push(s, index);
	return index;
}

/* The largest hash leaves the sample, and nothing as large comes in again. */
static void sample_evict(struct shards *s)
{
	const uint32_t index = heap_pop(s);
	struct sample *sample = &s->samples[index];

	atomic_store_explicit(&s->filter.threshold, sample->hash, memory_order_relaxed);
	place_leave(s, index);
	table_remove(s, sample->hash);
	sample->place = 0;
	sample->next = s->free_first;
	s->free_first = index;
}

/* --- uses --- */

static unsigned bucket_of(uint64_t distance)
{
	const unsigned sub = 1u << SHARDS_SUB_SHIFT;

	if (distance < sub)
		return (unsigned)distance;
	const unsigned octave = 63 - (unsigned)__builtin_clzll(distance);
	const unsigned low = (unsigned)(distance >> (octave - SHARDS_SUB_SHIFT)) - sub;
	return MIN(((octave - SHARDS_SUB_SHIFT + 1) << SHARDS_SUB_SHIFT) + low, SHARDS_BUCKETS - 1);
}

uint64_t shards_bucket_end(unsigned i)
{
	const unsigned sub = 1u << SHARDS_SUB_SHIFT, octave = i >> SHARDS_SUB_SHIFT;

	if (octave == 0)
		return (uint64_t)i + 1;
	return ((uint64_t)(i % sub + sub + 1)) << (octave - 1);
}

void shards_use(struct shards *s, uint64_t hash, enum shards_kind kind)
{
	if (hash >= threshold_now(s))
		return; /* the threshold fell since the caller looked */
	const double weight = 1 / rate_now(s);
	const uint32_t at = table_find(s, hash);
	uint32_t index = s->table[at];

	s->weights[kind] += weight;
	if (index--) {
		const uint32_t since = s->n - tree_sum(s, s->samples[index].place);
		const unsigned bucket = bucket_of((uint64_t)((double)since * weight));
		s->hits[bucket][kind] += weight;
		place_leave(s, index);
	} else {
		index = sample_add(s, hash, at);
	}
	place_take(s, index);
	if (s->n > s->max)
		sample_evict(s);
}

/* --- the curve --- */

void shards_curve(
        const struct shards *s, const uint64_t uses[SHARDS_KINDS], struct shards_curve *ret_curve)
{
	*ret_curve = (struct shards_curve){.samples = s->n, .rate = rate_now(s)};
	for (unsigned k = 0; k < SHARDS_KINDS; k++) {
		double sum = (double)uses[k] - s->weights[k];
		double most = 0;

		ret_curve->uses[k] = (double)uses[k];
		for (unsigned i = 0; i < SHARDS_BUCKETS; i++) {
			sum += s->hits[i][k];
			/* What was taken off may be more than the first buckets hold. */
			most = MAX(most, MIN(sum, (double)uses[k]));
			ret_curve->hits[i][k] = most;
		}
	}
}

/* Hits of a cache of that many blocks: inside a bucket, in proportion. */
static double curve_hits(const struct shards_curve *c, uint64_t blocks, unsigned kind)
{
	if (blocks == 0)
		return 0;
	const unsigned i = bucket_of(blocks - 1);
	const uint64_t from = i ? shards_bucket_end(i - 1) : 0, to = shards_bucket_end(i);
	const double before = i ? c->hits[i - 1][kind] : 0;
	const double part = MIN((double)(blocks - from) / (double)(to - from), 1.0);

	return before + part * (c->hits[i][kind] - before);
}

double shards_miss_ratio(const struct shards_curve *c, uint64_t blocks, enum shards_kind kind)
{
	double uses = 0, hits = 0;

	for (unsigned k = 0; k < SHARDS_KINDS; k++) {
		if (kind != SHARDS_KINDS && k != kind)
			continue;
		uses += c->uses[k];
		hits += curve_hits(c, blocks, k);
	}
	return uses > 0 ? 1 - hits / uses : 1;
}

/* --- kept state --- */
/*
 *	u64 threshold, u32 buckets, u32 samples
 *	f64 weights[2], f64 hits[buckets][2]: bit patterns
 *	u64 hash[samples], the one used longest ago first
 */
#define SAVE_HEADER 16u

static void put_double(uint8_t *p, double v)
{
	uint64_t bits;

	memcpy(&bits, &v, sizeof(bits));
	put_u64(p, bits);
}

/* False for what no count can be. */
static bool get_count(const uint8_t *p, double *ret_v)
{
	const uint64_t bits = get_u64(p);

	memcpy(ret_v, &bits, sizeof(bits));
	return isfinite(*ret_v) && *ret_v >= 0;
}

size_t shards_save_max(const struct shards *s)
{
	return SAVE_HEADER + (1 + SHARDS_BUCKETS) * SHARDS_KINDS * 8 + (size_t)s->max * 8;
}

size_t shards_save(const struct shards *s, uint8_t *buf)
{
	uint8_t *p = buf + SAVE_HEADER;

	put_u64(buf, threshold_now(s));
	put_u32(buf + 8, SHARDS_BUCKETS);
	put_u32(buf + 12, s->n);
	for (unsigned k = 0; k < SHARDS_KINDS; k++, p += 8)
		put_double(p, s->weights[k]);
	for (unsigned i = 0; i < SHARDS_BUCKETS; i++)
		for (unsigned k = 0; k < SHARDS_KINDS; k++, p += 8)
			put_double(p, s->hits[i][k]);
	for (uint32_t place = 1; place <= s->place_last; place++)
		if (s->at_place[place]) {
			put_u64(p, s->samples[s->at_place[place] - 1].hash);
			p += 8;
		}
	return (size_t)(p - buf);
}

static int load_counts(struct shards *s, const uint8_t *p)
{
	bool good = true;

	for (unsigned k = 0; k < SHARDS_KINDS; k++, p += 8)
		good &= get_count(p, &s->weights[k]);
	for (unsigned i = 0; i < SHARDS_BUCKETS; i++)
		for (unsigned k = 0; k < SHARDS_KINDS; k++, p += 8)
			good &= get_count(p, &s->hits[i][k]);
	return good ? 0 : -EBADMSG;
}

int shards_load(struct shards *s, const uint8_t *buf, size_t len)
{
	const size_t fixed = SAVE_HEADER + (1 + SHARDS_BUCKETS) * SHARDS_KINDS * 8;

	shards_reset(s);
	if (len < fixed || get_u32(buf + 8) != SHARDS_BUCKETS ||
	        (len - fixed) / 8 != get_u32(buf + 12) || (len - fixed) % 8)
		return -EBADMSG;
	const uint64_t threshold = get_u64(buf);
	int r = load_counts(s, buf + SAVE_HEADER);
	if (threshold == 0 || r < 0) {
		shards_reset(s);
		return -EBADMSG;
	}
	atomic_store_explicit(
	        &s->filter.threshold, MIN(threshold, s->threshold_first), memory_order_relaxed);
	for (const uint8_t *p = buf + fixed; p < buf + len; p += 8) {
		const uint64_t hash = get_u64(p);
		const uint32_t at = table_find(s, hash);
		/* A smaller sample than before keeps the smaller hashes. */
		if (s->table[at] || hash >= threshold_now(s))
			continue;
		place_take(s, sample_add(s, hash, at));
		if (s->n > s->max)
			sample_evict(s);
	}
	return 0;
}

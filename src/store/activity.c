/*
 * activity.c - decayed counters, folded once a tick
 *
 * Noting a read adds to a 32-bit number, no more: time is looked at once a minute, when the tick takes those
 * numbers, ages the counters and adds them.  So a read is counted up to a minute late and never aged too
 * little by more than that, and the reading threads share nothing but the lines of segments that
 * they read both.
 *
 * Blocks are found in an array by number.  It grows under the write lock; blocks themselves never
 * move, so a reader needs the lock only to find one.
 *
 * A counter below CLEAR is taken as zero: cold segments become equal, and blocks of them are not
 * written again and again.
 */
#include "store/activity.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "base/bytes.h"

#include <xxhash.h>

#define CLEAR   0.01f
#define VERSION 1u
#define HEAD    16u /* version, block, time; 8 bytes of checksum come last */

struct item {
	_Atomic uint32_t pending;
	float hour, day;
	uint8_t windows;
};

struct block {
	struct item items[ACTIVITY_BLOCK];
	bool changed; /* since it was encoded */
};

struct activity {
	pthread_rwlock_t lock; /* guards blocks[] and n_blocks, not what is in them */
	struct block **blocks;
	uint64_t n_blocks;
	uint64_t tick_s; /* everything is as of then */
};

int activity_new(uint64_t now_s, struct activity **ret_a)
{
	struct activity *a = calloc(1, sizeof(*a));

	if (!a)
		return -ENOMEM;
	pthread_rwlock_init(&a->lock, NULL);
	a->tick_s = now_s;
	*ret_a = a;
	return 0;
}

void activity_free(struct activity *a)
{
	if (!a)
		return;
	for (uint64_t i = 0; i < a->n_blocks; i++)
		free(a->blocks[i]);
	free(a->blocks);
	pthread_rwlock_destroy(&a->lock);
	free(a);
}

static struct block *block_find(struct activity *a, uint64_t n)
{
	pthread_rwlock_rdlock(&a->lock);
	struct block *b = n < a->n_blocks ? a->blocks[n] : NULL;
	pthread_rwlock_unlock(&a->lock);
	return b;
}

/* With the write lock. */
static int blocks_grow(struct activity *a, uint64_t n)
{
	const uint64_t want = MAX(n + 1, a->n_blocks * 2);

	if (n < a->n_blocks)
		return 0;
	struct block **p = realloc(a->blocks, want * sizeof(struct block *));
	if (!p)
		return -ENOMEM;
	memset(p + a->n_blocks, 0, (want - a->n_blocks) * sizeof(struct block *));
	a->blocks = p;
	a->n_blocks = want;
	return 0;
}

/* Made if need be; NULL: out of memory. */
static struct block *block_get(struct activity *a, uint64_t n)
{
	struct block *b = block_find(a, n);

	if (b)
		return b;
	pthread_rwlock_wrlock(&a->lock);
	if (blocks_grow(a, n) == 0) {
		if (!a->blocks[n])
			a->blocks[n] = calloc(1, sizeof(*b));
		b = a->blocks[n];
	}
	pthread_rwlock_unlock(&a->lock);
	return b;
}

void activity_note(struct activity *a, uint64_t segment, unsigned chunks)
{
	struct block *b = block_get(a, segment / ACTIVITY_BLOCK);

	if (b)
		atomic_fetch_add_explicit(
		        &b->items[segment % ACTIVITY_BLOCK].pending, chunks, memory_order_relaxed);
}

/* --- time --- */

static float decay(uint64_t elapsed_s, unsigned half_life_s)
{
	return exp2f(-(float)elapsed_s / (float)half_life_s);
}

struct aging {
	float hour, day;
	unsigned shift; /* windows that began meanwhile */
};

static struct aging aging_of(uint64_t from_s, uint64_t to_s)
{
	const uint64_t elapsed = to_s - from_s;

	return (struct aging){
	        .hour = decay(elapsed, ACTIVITY_HOUR_S),
	        .day = decay(elapsed, ACTIVITY_DAY_S),
	        .shift = (unsigned)MIN(to_s / ACTIVITY_WINDOW_S - from_s / ACTIVITY_WINDOW_S, 8u),
	};
}

static void item_age(struct item *it, const struct aging *g)
{
	it->hour = it->hour * g->hour < CLEAR ? 0 : it->hour * g->hour;
	it->day = it->day * g->day < CLEAR ? 0 : it->day * g->day;
	it->windows = (uint8_t)(it->windows << g->shift);
}

static bool item_is_zero(const struct item *it)
{
	return it->hour == 0 && it->day == 0 && it->windows == 0;
}

static void block_tick(struct block *b, const struct aging *g)
{
	for (unsigned i = 0; i < ACTIVITY_BLOCK; i++) {
		struct item *it = &b->items[i];
		const uint32_t n = atomic_exchange_explicit(&it->pending, 0, memory_order_relaxed);
		if (n == 0 && item_is_zero(it))
			continue;
		item_age(it, g);
		it->hour += (float)n;
		it->day += (float)n;
		it->windows |= n > 0;
		/* What only ages can be aged when it is loaded; until it is zero. */
		b->changed |= n > 0 || item_is_zero(it);
	}
}

void activity_tick(struct activity *a, uint64_t now_s)
{
	const uint64_t to = MAX(now_s, a->tick_s);
	const struct aging g = aging_of(a->tick_s, to);

	pthread_rwlock_rdlock(&a->lock);
	const uint64_t n = a->n_blocks;
	pthread_rwlock_unlock(&a->lock);
	for (uint64_t i = 0; i < n; i++) {
		struct block *b = block_find(a, i);
		if (b)
			block_tick(b, &g);
	}
	a->tick_s = to;
}

void activity_get(struct activity *a, uint64_t segment, struct segment_activity *ret_sa)
{
	const struct block *b = block_find(a, segment / ACTIVITY_BLOCK);
	const struct item *it = b ? &b->items[segment % ACTIVITY_BLOCK] : NULL;

	*ret_sa = it ? (struct segment_activity){it->hour, it->day, it->windows}
	             : (struct segment_activity){0};
}

void activity_drop(struct activity *a, uint64_t segment)
{
	struct block *b = block_find(a, segment / ACTIVITY_BLOCK);
	struct item *it = b ? &b->items[segment % ACTIVITY_BLOCK] : NULL;

	if (!it)
		return;
	atomic_store_explicit(&it->pending, 0, memory_order_relaxed);
	b->changed |= !item_is_zero(it);
	it->hour = it->day = 0;
	it->windows = 0;
}

/* --- keeping it: version u32, zero u32, time u64; of each segment two f32 and a byte; XXH3-64 --- */

static uint32_t float_bits(float f)
{
	uint32_t u;

	memcpy(&u, &f, sizeof(u));
	return u;
}

static float bits_float(uint32_t u)
{
	float f;

	memcpy(&f, &u, sizeof(f));
	return f;
}

static void block_encode(const struct activity *a, const struct block *b, uint64_t n,
        uint8_t blob[ACTIVITY_BLOB_LEN], bool *ret_empty)
{
	uint8_t *p = blob + HEAD;

	put_u32(blob, VERSION);
	put_u32(blob + 4, 0);
	put_u64(blob + 8, a->tick_s);
	*ret_empty = true;
	for (unsigned i = 0; i < ACTIVITY_BLOCK; i++, p += 9) {
		const struct item *it = &b->items[i];
		put_u32(p, float_bits(it->hour));
		put_u32(p + 4, float_bits(it->day));
		p[8] = it->windows;
		*ret_empty = *ret_empty && item_is_zero(it);
	}
	put_u64(p, XXH3_64bits_withSeed(blob, ACTIVITY_BLOB_LEN - 8, n));
}

bool activity_encode_next(struct activity *a, uint64_t after, uint64_t *ret_block,
        uint8_t ret_blob[ACTIVITY_BLOB_LEN], bool *ret_empty)
{
	pthread_rwlock_rdlock(&a->lock);
	const uint64_t n = a->n_blocks;
	pthread_rwlock_unlock(&a->lock);
	for (uint64_t i = after + 1; i < n; i++) {
		struct block *b = block_find(a, i);
		if (!b || !b->changed)
			continue;
		b->changed = false;
		block_encode(a, b, i, ret_blob, ret_empty);
		*ret_block = i;
		return true;
	}
	return false;
}

void activity_encode_again(struct activity *a, uint64_t block)
{
	struct block *b = block_find(a, block);

	if (b)
		b->changed = true;
}

static bool float_is_sane(float f)
{
	return isfinite(f) && f >= 0;
}

static int blob_check(uint64_t block, const uint8_t *blob, size_t len)
{
	if (len != ACTIVITY_BLOB_LEN || get_u32(blob) != VERSION || get_u32(blob + 4) != 0)
		return -EUCLEAN;
	if (get_u64(blob + len - 8) != XXH3_64bits_withSeed(blob, len - 8, block))
		return -EUCLEAN;
	for (const uint8_t *p = blob + HEAD; p < blob + len - 8; p += 9)
		if (!float_is_sane(bits_float(get_u32(p))) ||
		        !float_is_sane(bits_float(get_u32(p + 4))))
			return -EUCLEAN;
	return 0;
}

int activity_load(struct activity *a, uint64_t block, const void *blob, size_t len)
{
	const uint8_t *p = blob;
	int r = blob_check(block, blob, len);
	struct block *b = r == 0 ? block_get(a, block) : NULL;

	if (r < 0 || !b)
		return r < 0 ? r : -ENOMEM;
	const uint64_t then = MIN(get_u64(p + 8), a->tick_s);
	const struct aging g = aging_of(then, a->tick_s);
	p += HEAD;
	for (unsigned i = 0; i < ACTIVITY_BLOCK; i++, p += 9) {
		struct item *it = &b->items[i];
		it->hour = bits_float(get_u32(p));
		it->day = bits_float(get_u32(p + 4));
		it->windows = p[8];
		item_age(it, &g);
	}
	return 0;
}

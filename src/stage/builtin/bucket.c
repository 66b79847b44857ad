/*
 * bucket.c - a leaky bucket with bursts
 *
 * Without a burst the brim is a tenth of a second's worth: enough that a timer that fires a few
 * milliseconds late loses nothing, too little to be felt.  The same tenth of the burst rate is the
 * brim of the fast bucket.
 *
 * Levels are doubles: 2^53 bytes are exact, and a rate of one unit a second leaks correctly over
 * intervals of nanoseconds, which integers would round to nothing.
 */
#include "stage/builtin/bucket.h"

#include <math.h>

#include "base/clock.h"

#define BRIM_S 0.1 /* of the rate, in seconds */

void bucket_set(struct bucket *b, uint64_t rate, uint64_t burst, uint64_t length_ns)
{
	b->rate = (double)rate;
	b->burst = rate > 0 ? (double)burst : 0;
	b->length_s = (double)length_ns / (double)NS_PER_SEC;
	if (rate == 0)
		b->level = 0;
	if (b->burst == 0)
		b->fast_level = 0;
}

static void bucket_leak(struct bucket *b, uint64_t now_ns)
{
	if (now_ns <= b->at_ns)
		return;
	const double s = (double)(now_ns - b->at_ns) / (double)NS_PER_SEC;

	b->at_ns = now_ns;
	b->level = fmax(0, b->level - b->rate * s);
	b->fast_level = fmax(0, b->fast_level - b->burst * s);
}

/* Rounded up: whoever waits that long finds room. */
static uint64_t leak_ns(double excess, double rate)
{
	return excess <= 0 ? 0 : (uint64_t)ceil(excess / rate * (double)NS_PER_SEC) + 1;
}

uint64_t bucket_wait_ns(struct bucket *b, uint64_t now_ns)
{
	if (b->rate == 0)
		return 0;
	bucket_leak(b, now_ns);
	if (b->burst == 0)
		return leak_ns(b->level - b->rate * BRIM_S, b->rate);
	const uint64_t slow_ns = leak_ns(b->level - b->burst * b->length_s, b->rate);
	const uint64_t fast_ns = leak_ns(b->fast_level - b->burst * BRIM_S, b->burst);

	return MAX(slow_ns, fast_ns);
}

void bucket_take(struct bucket *b, uint64_t now_ns, uint64_t units)
{
	b->taken += units;
	if (b->rate == 0)
		return;
	bucket_leak(b, now_ns);
	b->level += (double)units;
	if (b->burst > 0)
		b->fast_level += (double)units;
}

/*
 * guard.c - notices that a large part of an image is being overwritten with noise
 *
 * The window is sixteen parts, each a count with the part's number; a part whose number is not among
 * the last sixteen counts nothing.  So nothing has to be done when time goes by.
 *
 * A chunk counts once a window: a direct-mapped table remembers which were counted lately.  Without
 * it, a file of a few megabytes that is written over and over, text and compressed in turn, would
 * add up to an alarm.  The table forgets what collides; beyond GUARD_RECENT sampled chunks (256 MiB
 * of such a file) it forgets often.
 */
#include "stage/builtin/guard.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "stage/builtin/entropy.h"

struct guard {
	uint64_t secret; /* constant */
	pthread_mutex_t lock;
	struct guard_limits limits;
	struct {
		uint64_t part, n;
	} steps[GUARD_STEPS];
	struct {
		uint64_t chunk, at_ns; /* chunk + 1 */
	} recent[GUARD_RECENT];
	uint64_t alarm_ns; /* of the last one; 0: none */
	uint64_t much_ns;  /* when it was too much last; 0: never */
	struct guard_stats stats;
};

int guard_new(uint64_t secret, const struct guard_limits *limits, struct guard **ret_g)
{
	struct guard *g = calloc(1, sizeof(*g));

	if (!g)
		return -ENOMEM;
	g->secret = secret;
	g->limits = *limits;
	pthread_mutex_init(&g->lock, NULL);
	*ret_g = g;
	return 0;
}

void guard_free(struct guard *g)
{
	if (!g)
		return;
	pthread_mutex_destroy(&g->lock);
	free(g);
}

void guard_set(struct guard *g, const struct guard_limits *limits)
{
	pthread_mutex_lock(&g->lock);
	if (limits->window_ns != g->limits.window_ns)
		memset(g->steps, 0, sizeof(g->steps)); /* parts of another length */
	g->limits = *limits;
	pthread_mutex_unlock(&g->lock);
}

static uint64_t mix(uint64_t x)
{
	x = (x ^ x >> 31) * 0x7fb5d329728ea185;
	x = (x ^ x >> 27) * 0x81dadef4bc2dd44d;
	return x ^ x >> 33;
}

bool guard_samples(const struct guard *g, uint64_t chunk)
{
	return mix(chunk ^ g->secret) % GUARD_SAMPLE == 0;
}

static bool is_noise(struct guard *g, const void *data)
{
	pthread_mutex_lock(&g->lock);
	const unsigned max = g->limits.pairs_max;
	pthread_mutex_unlock(&g->lock);
	return entropy_is_high(entropy_pairs(data, GUARD_CHUNK), max);
}

bool guard_is_noise(struct guard *g, const void *data)
{
	const bool noise = is_noise(g, data);

	pthread_mutex_lock(&g->lock);
	g->stats.noise += noise;
	pthread_mutex_unlock(&g->lock);
	return noise;
}

static bool is_zero(const uint8_t *p)
{
	return p[0] == 0 && memcmp(p, p + 1, GUARD_CHUNK - 1) == 0;
}

static uint64_t part_of(const struct guard *g, uint64_t now_ns)
{
	return now_ns / MAX(g->limits.window_ns / GUARD_STEPS, 1u) + 1;
}

bool guard_overwritten(struct guard *g, uint64_t chunk, const void *before, uint64_t now_ns)
{
	if (is_zero(before) || is_noise(g, before))
		return false;
	pthread_mutex_lock(&g->lock);
	const uint64_t part = part_of(g, now_ns);
	const unsigned at = mix(chunk) % GUARD_RECENT, step = part % GUARD_STEPS;
	const bool again = g->recent[at].chunk == chunk + 1 &&
	                   now_ns - g->recent[at].at_ns < g->limits.window_ns;
	if (!again) {
		g->recent[at].chunk = chunk + 1;
		g->recent[at].at_ns = now_ns;
		if (g->steps[step].part != part)
			g->steps[step].n = 0;
		g->steps[step].part = part;
		g->steps[step].n++;
		g->stats.converted++;
	}
	pthread_mutex_unlock(&g->lock);
	return !again;
}

/* Lock held. */
static uint64_t bytes_of(const struct guard *g, uint64_t now_ns)
{
	const uint64_t part = part_of(g, now_ns);
	uint64_t n = 0;

	for (unsigned i = 0; i < GUARD_STEPS; i++)
		if (g->steps[i].part + GUARD_STEPS > part)
			n += g->steps[i].n;
	return n * GUARD_SAMPLE * GUARD_CHUNK;
}

uint64_t guard_bytes(struct guard *g, uint64_t now_ns)
{
	pthread_mutex_lock(&g->lock);
	const uint64_t bytes = bytes_of(g, now_ns);
	pthread_mutex_unlock(&g->lock);
	return bytes;
}

bool guard_alarm(
        struct guard *g, uint64_t data_bytes, uint64_t now_ns, uint64_t *ret_bytes, bool *ret_first)
{
	pthread_mutex_lock(&g->lock);
	const uint64_t bytes = bytes_of(g, now_ns);
	const bool much = bytes > 0 && bytes >= g->limits.least_bytes &&
	                  (double)bytes >= g->limits.share * (double)data_bytes;
	const bool alarm =
	        much && (g->alarm_ns == 0 || now_ns - g->alarm_ns >= g->limits.window_ns);
	if (alarm) {
		g->alarm_ns = MAX(now_ns, 1u);
		g->stats.alarms++;
		*ret_bytes = bytes;
		*ret_first = g->much_ns == 0 || now_ns - g->much_ns >= g->limits.window_ns;
	}
	if (much)
		g->much_ns = MAX(now_ns, 1u);
	pthread_mutex_unlock(&g->lock);
	return alarm;
}

void guard_stats_get(struct guard *g, struct guard_stats *ret_stats)
{
	pthread_mutex_lock(&g->lock);
	*ret_stats = g->stats;
	pthread_mutex_unlock(&g->lock);
}

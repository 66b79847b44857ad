/*
 * space.c - how much may still be written, and how fast
 *
 * Space.  A write is refused with -ENOSPC while the backing's free space, less a reserve, does not
 * cover what is dirty in RAM plus this write, all of it taken as incompressible and new.  So a
 * group that was acknowledged finds room when it is committed.  The reserve keeps the metadata
 * store and the collector able to work when the backing is full.  Free space is asked for at most
 * every SPACE_CHECK_NS.  From the first refusal until there is room for SPACE_AGAIN_BYTES the
 * store's health says so.
 *
 * Speed.  From 60 % of the overlay limit on, writes are admitted at a rate: what commits were
 * measured to take, divided by a factor that grows from nothing at 60 % through 1 (the rate at
 * which the overlay neither fills nor empties) to much at 100 %.  Slots of time are handed out by
 * one atomic counter, so the rate does not depend on how many threads write.
 */
#include <errno.h>
#include <time.h>

#include "base/blocking.h"
#include "base/clock.h"
#include "store/store-priv.h"

#define SPACE_CHECK_NS    (NS_PER_SEC / 5)
#define SPACE_AGAIN_BYTES (4ull << 20)
#define SLEEP_NS_MIN      (100 * 1000ull) /* shorter waits are saved up */
#define SLEEP_NS_MAX      (20 * NS_PER_MS)
#define FULL_SLEEP_NS     (1 * NS_PER_MS)

/* Overhead on what is stored: frame headers, hashes, footers, map nodes. */
#define OVERHEAD_DIV 16

static uint64_t overlay_used(struct store *s)
{
	const uint64_t leaves = atomic_load_explicit(&s->groups[0].n_leaves, memory_order_relaxed) +
	                        atomic_load_explicit(&s->groups[1].n_leaves, memory_order_relaxed);
	return bufpool_used(s->bufs) + leaves * sizeof(struct ov_leaf);
}

static uint64_t space_left(struct store *s)
{
	const uint64_t dirty = bufpool_used(s->bufs);
	const uint64_t taken = dirty + dirty / OVERHEAD_DIV + s->cfg.reserve_bytes;
	const uint64_t free_bytes = atomic_load(&s->space_free_bytes);

	return free_bytes > taken ? free_bytes - taken : 0;
}

void space_refresh(struct store *s, bool force)
{
	const uint64_t now = clock_now_ns();
	uint64_t last = atomic_load(&s->space_checked_ns);
	struct io_space sp;

	if (!force && now - last < SPACE_CHECK_NS)
		return;
	if (!atomic_compare_exchange_strong(&s->space_checked_ns, &last, now) && !force)
		return; /* somebody else is asking */
	if (io_space(s->cfg.io, &sp) < 0)
		return; /* the last answer stands */
	atomic_store(&s->space_free_bytes, sp.free_bytes);
	atomic_store(&s->space_total_bytes, sp.total_bytes);
	if (health_is(s, HEALTH_SPACE) && space_left(s) >= SPACE_AGAIN_BYTES)
		health_clear(s, HEALTH_SPACE, "there is space for writes again");
}

/* There seems to be no room for len bytes: looks again, and says so if it is true. */
static int space_refuse(struct store *s, size_t len)
{
	space_refresh(s, true);
	gc_kick(s);
	if (space_left(s) >= len + len / OVERHEAD_DIV)
		return 0;
	health_set(s, HEALTH_SPACE,
	        "no space: the datastore's filesystem is full but for a reserve of %llu MiB; "
	        "writes fail until files are deleted"
	        " ('weir gc' collects at once) or space is freed there",
	        (unsigned long long)(s->cfg.reserve_bytes >> 20));
	return -ENOSPC;
}

int store_space(struct store *s, struct io_space *ret_space)
{
	space_refresh(s, true);
	ret_space->total_bytes = atomic_load(&s->space_total_bytes);
	ret_space->free_bytes = space_left(s);
	return 0;
}

static void sleep_ns(uint64_t ns)
{
	const struct timespec ts = {(time_t)(ns / NS_PER_SEC), (long)(ns % NS_PER_SEC)};
	blocking_begin();
	nanosleep(&ts, NULL);
	blocking_end();
}

/* Admits len bytes at the rate that fits the overlay's fill. */
static void pace(struct store *s, uint64_t used, size_t len)
{
	const uint64_t limit = s->cfg.overlay_bytes - s->cfg.overlay_bytes / 8,
	               start = s->cfg.overlay_bytes / 10 * 6;

	if (used <= start)
		return;
	const double f = MIN((double)(used - start) / (double)(limit - start), 0.99);
	const double bps = (double)MAX(atomic_load(&s->throttle_bps), 1u << 20);
	const uint64_t cost_ns = (uint64_t)((double)len * 1e9 / bps * (f / (1 - f)));
	const uint64_t now = clock_now_ns();
	uint64_t at = atomic_load(&s->pace_ns);
	uint64_t mine;
	do /* nobody sleeps longer than that, so slots beyond would only be paid for later */
		mine = MIN(MAX(at, now), now + SLEEP_NS_MAX);
	while (!atomic_compare_exchange_weak(&s->pace_ns, &at, mine + cost_ns));
	if (mine - now >= SLEEP_NS_MIN)
		sleep_ns(mine - now);
}

int store_throttle(struct store *s, size_t len)
{
	/*
	 * The rest is for writes that were admitted at the same time, and for copies under pinned
	 * buffers.
	 */
	const uint64_t limit = s->cfg.overlay_bytes - s->cfg.overlay_bytes / 8;

	if (s->cfg.read_only)
		return -EROFS;
	space_refresh(s, false);
	for (;;) {
		const int failed = atomic_load(&s->commit_error);
		if (failed)
			return failed == -ENOSPC ? -ENOSPC : -EIO;
		if (space_left(s) < len + len / OVERHEAD_DIV && space_refuse(s, len) < 0)
			return -ENOSPC;
		const uint64_t used = overlay_used(s);
		const unsigned g = atomic_load_explicit(&s->txg_open, memory_order_relaxed) & 1;
		if (used > s->cfg.overlay_bytes / 10 * 5 &&
		        atomic_load_explicit(&s->groups[g].bytes, memory_order_relaxed) >
		                s->cfg.overlay_bytes / 8)
			txg_kick(s);
		if (used + len <= limit) {
			pace(s, used, len);
			return 0;
		}
		if (s->cfg.manual) {
			const int r = store_sync(s);
			if (r < 0)
				return r;
			continue;
		}
		txg_kick(s);
		sleep_ns(FULL_SLEEP_NS);
	}
}

void store_enter(struct store *s)
{
	pthread_rwlock_rdlock(&s->gate);
}

void store_leave(struct store *s)
{
	pthread_rwlock_unlock(&s->gate);
}

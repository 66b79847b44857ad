/*
 * txg.c - transaction groups: what makes changes official, all at one instant
 *
 * One thread.  A group goes through
 *	freeze   the gate is closed for a moment; pending inode rows are collected; the next group opens
 *	store    chunks become map entries (commit.c), new ones are appended to segments
 *	sync     segment data is made durable (segments_txg_sync)
 *	map      entries and holes go into the maps, in RAM; then roots are copied (snapshot.c)
 *	commit   one transaction: namespace rows, map nodes, image and segment rows, the state row
 *	release  the overlay drops the group; the intent log's tail moves
 *
 * A crash before the commit leaves what the commit before it made official, plus what the intent
 * log says; what the segments got meanwhile lies past their committed length and is void.  A crash
 * after the commit loses nothing: the log's tail is in the state row, and batches before it are not
 * replayed.
 *
 * Failures.  Up to and including sync: what was appended to segments is given up (never synced
 * again in the hope of success), and all of it is repeated into new segments after a pause; the
 * maps have not seen any of it.  Later: the transaction is rolled back and repeated, with the same
 * entries, for the segments are durable.  Meanwhile the frozen group stays in RAM, where reads find
 * it, and writers get the error (store_throttle).
 */
#include <errno.h>
#include <string.h>

#include "base/blocking.h"
#include "base/clock.h"
#include "base/log.h"
#include "store/snapshot.h"
#include "store/store-priv.h"

#define TICK_NS  (NS_PER_SEC / 4)
#define HOLD_NS  (50 * NS_PER_MS) /* see store_snapshot_near() */
#define RETRY_NS NS_PER_SEC
#define PATIENCE 10u /* attempts at a group before what cannot be read counts as lost */

/* Smaller groups say nothing about how fast commits are. */
#define RATE_BYTES_MIN (4u << 20)

/* --- freeze --- */

bool txg_frozen(struct store *s, unsigned *ret_g)
{
	const uint64_t open = atomic_load(&s->txg_open);

	*ret_g = (open - 1) & 1;
	return open > atomic_load(&s->txg.committed) + 1;
}

bool txg_impatient(const struct store *s)
{
	return s->txg.failed_in_row >= PATIENCE;
}

bool txg_map_lost(const struct store *s)
{
	return txg_impatient(s) || maps_unsure(s->maps) == s->txg.maps_unsure;
}

static void freeze(struct store *s)
{
	snap_prepare(s);
	const uint64_t start_ns = clock_now_ns();
	pthread_rwlock_wrlock(&s->gate);
	const uint64_t open = atomic_load(&s->txg_open);
	struct group *grp = &s->groups[open & 1];
	pthread_mutex_lock(&s->rows_lock);
	grp->rows_commit_only = grp->rows.len;
	s->groups[!(open & 1)].rows_commit_only = SIZE_MAX;
	pthread_mutex_unlock(&s->rows_lock);
	snap_freeze(s);
	if (s->cfg.hooks.collect_rows)
		s->cfg.hooks.collect_rows(s->cfg.hooks.arg, 0);
	if (s->log)
		ilog_head(s->log, &grp->log_off, &grp->log_seq);
	atomic_store(&s->txg_open, open + 1);
	pthread_rwlock_unlock(&s->gate);
	const uint64_t end_ns = clock_now_ns();
	atomic_store(&s->frozen_at_ns, end_ns);
	atomic_store(&s->count.last_freeze_ns, end_ns - start_ns);
	atomic_store(&s->count.max_freeze_ns, MAX(s->count.max_freeze_ns, end_ns - start_ns));
}

/* --- store and map --- */

static int leaf_order(const void *a, const void *b)
{
	const struct ov_leaf *x = *(struct ov_leaf *const *)a, *y = *(struct ov_leaf *const *)b;

	if (x->image->id != y->image->id)
		return x->image->id < y->image->id ? -1 : 1;
	return x->index < y->index ? -1 : x->index > y->index;
}

/* All leaves of the group, sorted; the array is the caller's. */
static int collect_leaves(struct store *s, unsigned g, struct ov_leaf ***ret_leaves, size_t *ret_n)
{
	const size_t cap = atomic_load(&s->groups[g].n_leaves);
	struct ov_leaf **v = malloc(MAX(cap, 1) * sizeof(*v));
	size_t n = 0;

	if (!v)
		return -ENOMEM;
	for (struct image *img = s->groups[g].dirty; img; img = img->groups[g].dirty_next)
		for (struct ov_leaf *l = img->groups[g].leaves; l; l = l->image_next)
			v[n++] = l;
	ASSERT(n == cap);
	qsort(v, n, sizeof(*v), leaf_order);
	*ret_leaves = v;
	*ret_n = n;
	return 0;
}

/* Inner nodes in the way that are damaged for good are replaced: whole leaves need nothing of them. */
static int punch_to_map(struct image *img, const struct punch *p)
{
	const enum entry_state state = p->zero ? ENTRY_ZERO : ENTRY_HOLE;
	const uint64_t first = p->first * LEAF_CHUNKS, last = p->last * LEAF_CHUNKS;
	int r = map_fill(img->map, first, last, state);

	if (r == -EIO && txg_map_lost(img->store)) {
		map_rebuild(img->map, true);
		r = map_fill(img->map, first, last, state);
		map_rebuild(img->map, false);
	}
	return r;
}

static int image_to_map(struct image *img, unsigned g)
{
	const struct image_group *ig = &img->groups[g];

	if (ig->deleted) {
		struct image_row row;
		map_row(img->map, &row);
		atomic_fetch_add(&img->store->gc.dead_estimate, row.data_chunks);
		map_clear(img->map);
		return 0;
	}
	for (size_t i = 0; i < ig->punches.n; i++) {
		const struct punch *p = &ig->punches.v[i];
		const int r = punch_to_map(img, p);
		if (r < 0)
			return r;
	}
	return 0;
}

/*
 * The leaf's node is damaged, or one above it.  What the group wrote is put into new ones; what else they
 * held is lost.  The other chunks of the leaf get entries that no read can follow.
 */
static int replace_leaf(struct ov_leaf *l)
{
	const uint64_t lost = entry_data(loc_make(SEGMENT_ID_MAX, 0), 0);
	uint64_t entries[LEAF_CHUNKS];

	for (unsigned i = 0; i < LEAF_CHUNKS; i++)
		entries[i] = l->entries[i] == MAP_KEEP ? lost : l->entries[i];
	health_set(l->image->store, HEALTH_DAMAGE, "the map of image %llu at %llu is damaged",
	        (unsigned long long)l->image->id, (unsigned long long)(l->index * LEAF_BYTES));
	map_rebuild(l->image->map, true);
	const int r = map_set(l->image->map, l->index * LEAF_CHUNKS, LEAF_CHUNKS, entries);
	map_rebuild(l->image->map, false);
	return r;
}

static int leaf_to_map(struct store *s, struct ov_leaf *l)
{
	int r = map_set(l->image->map, l->index * LEAF_CHUNKS, LEAF_CHUNKS, l->entries);

	if (r == -EIO && txg_map_lost(s))
		r = replace_leaf(l);
	return r;
}

static int group_to_maps(struct store *s, unsigned g, struct ov_leaf **leaves, size_t n)
{
	int r = 0;

	for (struct image *img = s->groups[g].dirty; r == 0 && img; img = img->groups[g].dirty_next)
		r = image_to_map(img, g);
	for (size_t i = 0; r == 0 && i < n; i++)
		if (!leaves[i]->image->groups[g].deleted)
			r = leaf_to_map(s, leaves[i]);
	return r;
}

/*
 * Chunks into segments, durably; leaves the maps alone, so that it can be repeated from the start.
 */
static int store_leaves(struct store *s, uint64_t txg, struct ov_leaf **leaves, size_t n)
{
	int r;

	if (s->txg.stored == txg)
		return 0; /* an earlier attempt came further than this */
	r = commit_leaves(s, txg, leaves, n);
	if (r == 0)
		r = segments_txg_sync(s->segments);
	if (r < 0)
		segments_txg_abort(s->segments);
	else
		s->txg.stored = txg;
	return r;
}

static int store_group(struct store *s, uint64_t txg)
{
	CLEANUP(free_ptr) struct ov_leaf **leaves = NULL;
	size_t n;
	int r = collect_leaves(s, txg & 1, &leaves, &n);

	if (r == 0)
		r = store_leaves(s, txg, leaves, n);
	if (r == 0)
		r = group_to_maps(s, txg & 1, leaves, n);
	if (r == 0)
		snap_apply(s, txg);
	return r;
}

/* --- the transaction --- */

static int delete_images(struct store *s, unsigned g)
{
	struct meta *m = s->cfg.meta;
	int r = 0;

	for (struct image *img = s->groups[g].dirty; r == 0 && img; img = img->groups[g].dirty_next)
		if (img->groups[g].deleted)
			r = m->ops->image_del(m, img->id);
	return r;
}

static int put_all(struct store *s, uint64_t txg, struct store_state *state)
{
	struct meta *m = s->cfg.meta;
	const struct group *grp = &s->groups[txg & 1];
	int r = 0;

	if (grp->rows.len)
		r = m->ops->rows_apply(m, grp->rows.data, grp->rows.len);
	if (r == 0)
		r = maps_txg_write(s->maps, txg);
	if (r == 0)
		r = snap_txg_write(s);
	if (r == 0)
		r = delete_images(s, txg & 1);
	if (r == 0)
		r = parked_txg_write(s, txg);
	if (r == 0)
		r = gc_txg_write(s);
	if (r == 0)
		r = segments_txg_write(s->segments);
	if (r < 0)
		return r;
	state->txg = txg;
	state->next_segment = segments_next(s->segments);
	state->next_node = maps_next_node(s->maps);
	state->log_tail_off = grp->log_off;
	state->log_tail_seq = grp->log_seq;
	return m->ops->state_put(m, state);
}

static int transact(struct store *s, uint64_t txg)
{
	struct meta *m = s->cfg.meta;
	struct store_state state = s->state;
	int r = m->ops->begin(m);

	if (r < 0)
		return r;
	r = put_all(s, txg, &state);
	if (r == 0)
		r = m->ops->commit(m);
	if (r < 0) {
		m->ops->rollback(m);
		return r;
	}
	s->state = state;
	return 0;
}

static void committed(struct store *s, uint64_t txg, uint64_t start_ns)
{
	maps_txg_committed(s->maps);
	snap_txg_committed(s);
	segments_txg_committed(s->segments);
	overlay_release(s, txg & 1);
	parked_txg_committed(s, txg);
	gc_txg_committed(s, txg);
	if (s->log)
		ilog_trim(s->log, s->state.log_tail_off);
	atomic_fetch_add(&s->count.commits, 1);
	atomic_store(&s->count.last_commit_wall_ns, clock_wall_ns());
	atomic_store(&s->count.last_commit_ns, clock_now_ns() - start_ns);
	atomic_store(&s->commit_error, 0);
	health_clear(s, HEALTH_COMMIT, "commits work again");
}

static int commit_group(struct store *s, uint64_t txg)
{
	const uint64_t start_ns = clock_now_ns();
	const uint64_t bytes = atomic_load(&s->groups[txg & 1].bytes);

	s->txg.maps_unsure = maps_unsure(s->maps);
	int r = store_group(s, txg);

	if (r == 0)
		r = transact(s, txg);
	if (r < 0) {
		atomic_fetch_add(&s->count.failures, 1);
		atomic_store(&s->commit_error, r);
		health_set(s, HEALTH_COMMIT,
		        "cannot commit group %llu: %s; what was flushed is safe, the rest is kept "
		        "in memory and retried",
		        (unsigned long long)txg, strerror(-r));
		return r;
	}
	committed(s, txg, start_ns);
	if (bytes >= RATE_BYTES_MIN) {
		const double bps = (double)bytes * 1e9 / (double)(clock_now_ns() - start_ns + 1);
		atomic_store(&s->throttle_bps,
		        (uint64_t)(bps + (double)atomic_load(&s->throttle_bps)) / 2);
	}
	return 0;
}

/* The metadata store overwrites what it deleted, if somebody waits for that. */
static void scrub_if_wanted(struct store *s)
{
	struct txg_control *t = &s->txg;
	struct meta *m = s->cfg.meta;

	pthread_mutex_lock(&t->lock);
	const bool wanted = t->scrub_wanted;
	t->scrub_wanted = false;
	pthread_mutex_unlock(&t->lock);
	if (!wanted)
		return;
	const int r = m->ops->scrub(m);
	pthread_mutex_lock(&t->lock);
	t->scrub_result = r;
	pthread_mutex_unlock(&t->lock);
}

int txg_scrub(struct store *s)
{
	struct txg_control *t = &s->txg;

	if (s->cfg.read_only)
		return -EROFS;
	pthread_mutex_lock(&t->lock);
	t->scrub_wanted = true;
	t->scrub_result = -EIO; /* until it was tried */
	pthread_mutex_unlock(&t->lock);
	const int r = store_sync(s);
	pthread_mutex_lock(&t->lock);
	t->scrub_wanted = false;
	const int result = t->scrub_result;
	pthread_mutex_unlock(&t->lock);
	return r < 0 ? r : result;
}

int txg_commit_now(struct store *s)
{
	unsigned g;

	if (!txg_frozen(s, &g))
		freeze(s);
	const uint64_t txg = atomic_load(&s->txg_open) - 1;
	const int r = commit_group(s, txg);
	if (r == 0)
		scrub_if_wanted(s);
	pthread_mutex_lock(&s->txg.lock);
	s->txg.attempts++;
	s->txg.failed_in_row = r < 0 ? s->txg.failed_in_row + 1 : 0;
	s->txg.error = r;
	if (r == 0)
		atomic_store(&s->txg.committed, txg);
	pthread_cond_broadcast(&s->txg.done);
	pthread_mutex_unlock(&s->txg.lock);
	if (r == 0) {
		flush_txg_committed(s, txg);
		if (s->cfg.hooks.committed)
			s->cfg.hooks.committed(s->cfg.hooks.arg, txg);
	}
	return r;
}

/* --- the thread, and waiting for it --- */

static bool group_dirty(struct store *s)
{
	const struct group *grp = &s->groups[atomic_load(&s->txg_open) & 1];
	if (atomic_load(&grp->bytes) > 0)
		return true;
	pthread_mutex_lock(&s->rows_lock);
	const bool rows = grp->rows.len > 0;
	pthread_mutex_unlock(&s->rows_lock);
	return rows;
}

static bool commit_due(struct store *s)
{
	unsigned g;

	if (txg_frozen(s, &g))
		return true; /* one that failed */
	return clock_now_ns() - atomic_load(&s->frozen_at_ns) >= s->cfg.txg_ns && group_dirty(s);
}

static void wait_ns(pthread_cond_t *cond, pthread_mutex_t *lock, uint64_t ns)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	const uint64_t at = clock_timespec_ns(&ts) + ns;
	ts.tv_sec = (time_t)(at / NS_PER_SEC);
	ts.tv_nsec = (long)(at % NS_PER_SEC);
	pthread_cond_timedwait(cond, lock, &ts);
}

/*
 * Does somebody who is about to stop guests for an instant want no group to begin?  How long at most, or 0;
 * lock held.  One that failed is repeated all the same: it is in the way as it is.
 */
static uint64_t held_ns(struct store *s)
{
	const struct txg_control *t = &s->txg;
	const uint64_t now = clock_now_ns();
	unsigned g;

	if ((t->holders == 0 && now >= t->hold_until_ns) || txg_frozen(s, &g) || snap_waits(s))
		return 0;
	return t->holders ? HOLD_NS : t->hold_until_ns - now;
}

void store_snapshot_near(struct store *s)
{
	struct txg_control *t = &s->txg;

	if (!t->has_thread)
		return;
	pthread_mutex_lock(&t->lock);
	t->holders++;
	while (t->busy) {
		blocking_begin();
		pthread_cond_wait(&t->done, &t->lock);
		blocking_end();
	}
	t->holders--;
	t->hold_until_ns = clock_now_ns() + HOLD_NS;
	pthread_mutex_unlock(&t->lock);
}

static void *txg_main(void *arg)
{
	struct store *s = arg;
	struct txg_control *t = &s->txg;

	pthread_mutex_lock(&t->lock);
	while (!t->stop) {
		const bool asked = t->wanted > atomic_load(&t->committed);
		const uint64_t hold_ns = held_ns(s);
		if (hold_ns) {
			wait_ns(&t->wake, &t->lock, hold_ns);
			continue;
		}
		t->busy = true;
		pthread_mutex_unlock(&t->lock);
		int r = 0;
		if (asked || commit_due(s))
			r = txg_commit_now(s);
		pthread_mutex_lock(&t->lock);
		t->busy = false;
		if (t->holders)
			pthread_cond_broadcast(&t->done);
		if (r < 0) /* whoever waited has the error; no hot loop on a broken disk */
			t->wanted = atomic_load(&t->committed);
		if (!t->stop && t->wanted <= atomic_load(&t->committed))
			wait_ns(&t->wake, &t->lock, r < 0 ? RETRY_NS : MIN(TICK_NS, s->cfg.txg_ns));
	}
	pthread_mutex_unlock(&t->lock);
	return NULL;
}

int txg_wait(struct store *s, uint64_t txg)
{
	struct txg_control *t = &s->txg;
	int r = 0;

	if (!t->has_thread) {
		while (r == 0 && atomic_load(&t->committed) < txg)
			r = txg_commit_now(s);
		return r;
	}
	pthread_mutex_lock(&t->lock);
	const uint64_t attempts = t->attempts;
	while (atomic_load(&t->committed) < txg && !(t->attempts > attempts && t->error)) {
		t->wanted = MAX(t->wanted, txg);
		pthread_cond_signal(&t->wake);
		blocking_begin();
		pthread_cond_wait(&t->done, &t->lock);
		blocking_end();
	}
	if (atomic_load(&t->committed) < txg)
		r = t->error;
	pthread_mutex_unlock(&t->lock);
	return r;
}

void txg_kick(struct store *s)
{
	struct txg_control *t = &s->txg;
	const uint64_t open = atomic_load(&s->txg_open);

	pthread_mutex_lock(&t->lock);
	if (t->wanted < open && !t->error) {
		t->wanted = open;
		pthread_cond_signal(&t->wake);
	}
	pthread_mutex_unlock(&t->lock);
}

int store_sync(struct store *s)
{
	if (s->cfg.read_only)
		return 0;
	return txg_wait(s, atomic_load(&s->txg_open));
}

int txg_start(struct store *s)
{
	if (s->cfg.manual)
		return 0;
	const int r = pthread_create(&s->txg.thread, NULL, txg_main, s);
	s->txg.has_thread = r == 0;
	return -r;
}

void txg_stop(struct store *s)
{
	struct txg_control *t = &s->txg;

	if (!t->has_thread)
		return;
	pthread_mutex_lock(&t->lock);
	t->stop = true;
	pthread_cond_signal(&t->wake);
	pthread_mutex_unlock(&t->lock);
	pthread_join(t->thread, NULL);
	t->has_thread = false;
}

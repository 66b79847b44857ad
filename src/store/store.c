/*
 * store.c - opening and closing the engine (recover.c recovers); its numbers
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "store/store-priv.h"

#define OVERLAY_MIN_BYTES (16ull << 20)
#define LOG_RECORD_MIN    48u /* of data: its header, and 8 bytes */

/* --- rows --- */

int store_rows_append(struct store *s, const void *rows, size_t len)
{
	struct bytes_out *b = &s->groups[atomic_load(&s->txg_open) & 1].rows;

	pthread_mutex_lock(&s->rows_lock);
	const bool ok = bytes_append(b, rows, len) != NULL;
	b->failed = false; /* what was there before is still good */
	pthread_mutex_unlock(&s->rows_lock);
	return ok ? 0 : -ENOMEM;
}

uint64_t store_txg(struct store *s)
{
	return atomic_load(&s->txg_open);
}

/* --- the dedupe index, filled in the background --- */

static int index_list(void *arg, uint64_t segment, struct hash128 *hashes, unsigned *ret_n)
{
	struct store *s = arg;
	return segments_hashes(s->segments, segment, hashes, ret_n);
}

static void index_rebuild(struct store *s)
{
	struct hash128 *hashes = malloc(SEGMENT_SLOTS * sizeof(*hashes));
	struct segment_row rows[64];
	const struct hash128 none = {0, 0};
	uint64_t after = 0;
	unsigned n, slots;

	while (hashes && !s->stopping &&
	        (n = segments_list(s->segments, after, rows, ARRAY_SIZE(rows))) > 0) {
		for (unsigned i = 0; i < n && !s->stopping; i++) {
			after = rows[i].id;
			if (segments_hashes(s->segments, after, hashes, &slots) < 0)
				continue; /* gone, or damaged: only hints are lost */
			for (unsigned k = 0; k < slots; k++)
				if (!hash_equal(hashes[k], none))
					dedupe_insert(s->dedupe, hashes[k], loc_make(after, k));
		}
	}
	free(hashes);
}

static void *index_main(void *arg)
{
	struct store *s = arg;
	unsigned n_orphans = 0;

	/* Foreground work first. */
	(void)setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), 10);
	const int r = dedupe_load(s->dedupe, s->cfg.io, INDEX_NAME, s->uuid, s->index_txg);

	if (r < 0 && r != -ENOENT && r != -ESTALE)
		log_warn("the saved dedupe index cannot be used (%s); rebuilding it", strerror(-r));
	if (r < 0)
		index_rebuild(s);
	atomic_store(&s->index_loading, false);
	bufpool_warm(s->bufs, s->cfg.overlay_bytes, &s->stopping);
	dedupe_warm(s->dedupe, &s->stopping);
	if (s->cfg.hooks.leaving)
		s->cfg.hooks.leaving(s->cfg.hooks.arg, s);
	if (!s->stopping && segments_remove_orphans(s->segments, 0, &n_orphans) == 0 &&
	        n_orphans > 0)
		log_note("removed %u segment files that no commit had made official", n_orphans);
	return NULL;
}

/* --- open and close --- */

int store_create(struct io *io, uint64_t log_bytes, const uint8_t uuid[16], struct errmsg *em)
{
	int r = io_mkdir(io, "segments");

	if (r == 0)
		r = io_sync_dir(io, "");
	if (r < 0)
		return errmsg_set(em, r, "cannot make the segments directory: %s", strerror(-r));
	return ilog_create(io, uuid, log_bytes, LOG_FIRST_EPOCH, em);
}

static void set_defaults(struct store_config *c)
{
	c->overlay_bytes =
	        MAX(c->overlay_bytes ? c->overlay_bytes : OVERLAY_DEFAULT_BYTES, OVERLAY_MIN_BYTES);
	c->index_bytes = c->index_bytes ? c->index_bytes : INDEX_DEFAULT_BYTES;
	c->map_bytes = c->map_bytes ? c->map_bytes : MAP_DEFAULT_BYTES;
	c->txg_ns = c->txg_ns ? c->txg_ns : TXG_DEFAULT_NS;
	c->reserve_bytes = c->reserve_bytes ? c->reserve_bytes : RESERVE_DEFAULT_BYTES;
}

static void init_locks(struct store *s)
{
	pthread_rwlockattr_t ra;
	pthread_condattr_t ca;

	/*
	 * Writers first: a freeze must not starve behind a stream of writes.  Nobody enters twice.
	 */
	pthread_rwlockattr_init(&ra);
	pthread_rwlockattr_setkind_np(&ra, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&s->gate, &ra);
	pthread_rwlockattr_destroy(&ra);
	pthread_condattr_init(&ca);
	pthread_condattr_setclock(&ca, CLOCK_MONOTONIC);
	pthread_cond_init(&s->txg.wake, &ca);
	pthread_condattr_destroy(&ca);
	pthread_cond_init(&s->txg.done, NULL);
	pthread_cond_init(&s->flush.cond, NULL);
	pthread_mutex_init(&s->rows_lock, NULL);
	pthread_mutex_init(&s->images_lock, NULL);
	pthread_mutex_init(&s->wipe_lock, NULL);
	pthread_mutex_init(&s->txg.lock, NULL);
	pthread_mutex_init(&s->flush.lock, NULL);
	pthread_mutex_init(&s->read_lock, NULL);
	pthread_mutex_init(&s->health.lock, NULL);
	parked_init(s);
	snap_init(s);
}

/*
 * Address space for copies made under pinned buffers, and for what a full log holds at recovery:
 * the last mount may have had a larger overlay, and a record of a few bytes takes a whole buffer.
 * Where so much address space cannot be had, that of full chunks will mostly do.
 */
static int bufs_create(struct store *s, uint64_t log_bytes)
{
	const uint64_t overlay = s->cfg.overlay_bytes * 2, spare = 256ull << 20;
	const uint64_t most = log_bytes / LOG_RECORD_MIN * CHUNK_SIZE;
	const int r = bufpool_create(MAX(overlay, most) + spare, &s->bufs);

	return r < 0 ? bufpool_create(MAX(overlay, log_bytes) + spare, &s->bufs) : r;
}

static int open_parts(struct store *s, struct errmsg *em)
{
	const struct store_config *c = &s->cfg;
	const struct segments_config sc = {
	        .io = c->io,
	        .meta = c->meta,
	        .next_segment = s->state.next_segment,
	        .table_bytes = TABLE_BYTES,
	        .keyring = s->keyring,
	        .read_only = c->read_only,
	};
	struct segments_config with_uuid = sc;
	uint64_t log_bytes, used;

	memcpy(with_uuid.uuid, s->state.uuid, sizeof(with_uuid.uuid));
	int r = ilog_open(c->io, s->state.uuid, c->read_only, &s->log, em);
	if (r < 0)
		return r;
	r = segments_open(&with_uuid, &s->segments, em);
	if (r < 0)
		return r;
	ilog_space(s->log, &log_bytes, &used);
	r = bufs_create(s, log_bytes);
	if (r == 0)
		r = maps_create(c->meta, c->map_bytes, s->state.next_node, &s->maps);
	if (r == 0)
		r = cache_create(c->cache_bytes, &s->cache);
	if (r == 0)
		r = dedupe_create(c->index_bytes, index_list, s, &s->dedupe);
	if (r == 0)
		r = overlay_init(s);
	s->images = calloc(IMAGE_BUCKETS, sizeof(*s->images));
	if (r == 0 && !s->images)
		r = -ENOMEM;
	if (r == 0)
		r = gc_init(s);
	if (r == 0)
		maps_set_keys(s->maps, s->keyring, domain_of_segment, s);
	if (r == 0)
		r = commit_pool_start(s);
	return r < 0 ? errmsg_set(em, r, "cannot start the store: %s", strerror(-r)) : 0;
}

static int start_threads(struct store *s)
{
	if (s->cfg.manual || s->cfg.read_only)
		return 0;
	int r = txg_start(s);
	if (r == 0)
		r = readahead_start(s);
	if (r == 0)
		r = gc_start(s);
	if (r < 0)
		return r;
	atomic_store(&s->index_loading, true);
	r = pthread_create(&s->index_thread, NULL, index_main, s);
	s->has_index_thread = r == 0;
	return -r;
}

int store_open(const struct store_config *cfg, struct store **ret_store, struct errmsg *em)
{
	struct store *s = calloc(1, sizeof(*s));

	if (!s)
		return errmsg_set(em, -ENOMEM, "out of memory");
	s->cfg = *cfg;
	set_defaults(&s->cfg);
	init_locks(s);
	atomic_store(&s->throttle_bps, 500u << 20);
	int r = cfg->meta->ops->state_get(cfg->meta, &s->state);
	if (r < 0) {
		errmsg_set(em, r, "cannot read the datastore's state: %s", strerror(-r));
		goto fail;
	}
	memcpy(s->uuid, s->state.uuid, sizeof(s->uuid));
	r = cfg->keyring ? 0 : keyring_new(s->uuid, s->state.domain_key, &s->own_keyring);
	if (r < 0) {
		errmsg_set(em, r, "cannot start the store: %s", strerror(-r));
		goto fail;
	}
	s->keyring = cfg->keyring ? cfg->keyring : s->own_keyring;
	s->index_txg = s->state.txg;
	atomic_store(&s->txg.committed, s->state.txg);
	atomic_store(&s->txg_open, s->state.txg + 1);
	r = open_parts(s, em);
	if (r < 0)
		goto fail;
	space_refresh(s, true);
	if (cfg->opened)
		cfg->opened(cfg->hooks.arg, s);
	r = recover(s, em);
	if (r < 0)
		goto fail;
	r = start_threads(s);
	if (r < 0) {
		errmsg_set(em, r, "cannot start the store's threads: %s", strerror(-r));
		goto fail;
	}
	/* What was parked in an earlier life, and has its keys now.  It is logged if that fails. */
	if (store_domain_unlocked(s, 0) < 0)
		log_warn("some images stay locked");
	*ret_store = s;
	return 0;
fail:
	store_abandon(s);
	return r;
}

static void stop_threads(struct store *s)
{
	atomic_store(&s->stopping, true);
	if (s->has_index_thread)
		pthread_join(s->index_thread, NULL);
	s->has_index_thread = false;
	gc_stop(s);
	readahead_stop(s);
	txg_stop(s);
}

void store_abandon(struct store *s)
{
	if (!s)
		return;
	stop_threads(s);
	commit_pool_stop(s);
	snap_free(s);
	overlay_free(s);
	read_ctx_free_all(s);
	images_free(s);
	gc_free(s);
	parked_free(s);
	maps_free(s->maps);
	segments_close(s->segments);
	ilog_close(s->log);
	cache_free(s->cache);
	dedupe_free(s->dedupe);
	bufpool_free(s->bufs);
	free(s->flush.plain);
	keyring_free(s->own_keyring);
	free(s);
}

int store_close(struct store *s)
{
	const bool index_whole = !atomic_load(&s->index_loading);
	int r = 0;

	stop_threads(s);
	if (!s->cfg.read_only) {
		r = txg_wait(s, atomic_load(&s->txg_open));
		if (r < 0)
			log_error(
			        "the last commit failed: %s; what was flushed is in the intent log",
			        strerror(-r));
	}
	if (!s->cfg.read_only && r == 0 && index_whole) {
		const int saved =
		        dedupe_save(s->dedupe, s->cfg.io, INDEX_NAME, s->uuid, s->state.txg);
		if (saved < 0)
			log_warn("cannot save the dedupe index (%s); the next mount rebuilds it",
			        strerror(-saved));
	}
	store_abandon(s);
	return r;
}

/* --- numbers --- */

static void stats_parts(struct store *s, struct store_stats *st)
{
	struct segments_stats ss;
	struct cache_stats cs;
	struct dedupe_stats ds;
	struct maps_stats ms;

	segments_stats_get(s->segments, &ss);
	st->segments = ss.segments;
	st->segments_open = ss.open;
	st->stored_bytes = ss.file_bytes;
	st->live_bytes = ss.live_bytes;
	st->unique_chunks = ss.live_chunks;
	cache_stats_get(s->cache, &cs);
	st->cache_bytes = cs.bytes;
	st->cache_limit_bytes = cs.limit_bytes;
	st->cache_hits = cs.hits;
	st->cache_misses = cs.misses;
	dedupe_stats_get(s->dedupe, &ds);
	st->index_bytes = ds.bytes;
	st->index_limit_bytes = ds.limit_bytes;
	st->index_entries = ds.entries;
	maps_stats_get(s->maps, &ms);
	st->map_bytes = ms.bytes;
	st->map_limit_bytes = ms.limit_bytes;
	ilog_space(s->log, &st->log_bytes, &st->log_used_bytes);
	st->overlay_bytes = bufpool_used(s->bufs);
	st->overlay_limit_bytes = s->cfg.overlay_bytes;
}

static void stats_counters(struct store *s, struct store_stats *st)
{
	st->txg_commits = s->count.commits;
	st->txg_failures = s->count.failures;
	st->last_commit_wall_ns = s->count.last_commit_wall_ns;
	st->last_commit_ns = s->count.last_commit_ns;
	st->last_freeze_ns = s->count.last_freeze_ns;
	st->max_freeze_ns = s->count.max_freeze_ns;
	st->written_bytes = s->count.written_bytes;
	st->read_bytes = s->count.read_bytes;
	st->flushes = s->count.flushes;
	st->dedupe_hits = s->count.dedupe_hits;
	st->chunks_new = s->count.chunks_new;
	st->chunks_zero = s->count.chunks_zero;
	st->chunks_raw = s->count.chunks_raw;
	st->compressed_in_bytes = s->count.compressed_in_bytes;
	st->compressed_out_bytes = s->count.compressed_out_bytes;
	st->damaged_reads = s->count.damaged_reads;
	st->healed_chunks = s->count.healed_chunks;
}

static int sum_image(void *arg, const struct image_row *row)
{
	struct store_stats *st = arg;

	st->data_chunks += row->data_chunks;
	st->zero_chunks += row->zero_chunks;
	return 0;
}

void store_stats_get(struct store *s, struct store_stats *ret_stats)
{
	struct store_stats st = {0};
	struct meta *m = s->cfg.meta;

	space_refresh(s, false);
	stats_parts(s, &st);
	stats_counters(s, &st);
	if (m->ops->image_each(m, sum_image, &st) < 0)
		log_warn("cannot read all image rows; the totals are too small");
	st.txg = atomic_load(&s->txg.committed);
	st.free_bytes = atomic_load(&s->space_free_bytes);
	st.index_loading = s->index_loading;
	st.gc_running = s->gc.running;
	health_get(s, &st);
	*ret_stats = st;
}

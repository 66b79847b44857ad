/*
 * cache.c - the filter "cache": an image's own share of RAM for reads, and its write mode
 *
 * Reads that are wholly in the share (pincache.h) are answered here and go no further.  What it
 * holds are pins of the content cache's memory, not copies, so it decides what stays in RAM for
 * this image, while a hundred clones still share the bytes.  Pins take memory from the content
 * cache that it cannot evict: all of it is asked for beforehand (host->reserve).  The reservation is
 * taken when the image opens, or it does not open; what is over it, up to the limit, is taken in
 * steps when something had to be evicted, on a host's thread, as long as there is some left.
 *
 * Never stale: every change is bracketed by change_begin in pre() and change_end in post(), a read
 * that goes down carries a look of its pre() in its context (see pincache.c).  A change that the
 * guest has not been told about is in no piece, for nothing is taken in while it is under way.
 *
 * Write mode of the virtual disk:
 *	writeback     as the engine: acknowledged in RAM, durable on flush
 *	writethrough  WRITE, DISCARD, ZERO get REQUEST_FUA: durable when acknowledged
 *	unsafe        FUA is dropped and the guest's FLUSH completes at once: what is acknowledged is
 *	              durable with the next transaction group only.  Still a prefix of the writes
 * The system's own flushes (REQUEST_COUNTLESS) always go down.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/clock.h"
#include "stage/builtin/builtin.h"
#include "stage/builtin/pincache.h"

#define STREAMS          8u
#define STREAM_MIN_BYTES (64u << 10) /* so much in a row is a sequential read */
#define GROW_MIN_BYTES   (1ull << 20)
#define GROW_PART        8                 /* of the limit, a step */
#define GROW_RETRY_NS    (10 * NS_PER_SEC) /* after the content cache had none left */
#define CHANGES_FUA      (OP(WRITE) | OP(DISCARD) | OP(ZERO))

enum write_mode { MODE_WRITEBACK, MODE_WRITETHROUGH, MODE_UNSAFE };

/* One reader that goes through the image in order. */
struct stream {
	uint64_t next, run, ahead, used_ns;
};

struct cache_counters {
	_Atomic uint64_t hits, misses, hit_bytes, miss_bytes, prefetched_bytes, flushes_skipped;
};

struct cache {
	const struct stage_host *host;
	struct stage_link *self;
	struct pincache *pieces;
	_Atomic int mode;
	_Atomic bool copies, quiet;
	_Atomic uint64_t prefetch_bytes;
	/* Changed by control threads, or by grow(), under lock. */
	pthread_mutex_t lock;
	uint64_t reservation, limit, effective, refused_ns;
	pthread_mutex_t streams_lock;
	struct stream streams[STREAMS];
	struct cache_counters count;
};

/* In a request's context. */
struct cache_trip {
	bool flags_changed;
	unsigned flags;    /* as they came */
	uint64_t off, end; /* of a change */
	struct pincache_look look;
};

/* --- settings --- */

static const char *const mode_names[] = {"writeback", "writethrough", "unsafe", NULL};

static const struct setting_def cache_settings[] = {
        {.key = "reservation",
                .kind = SETTING_SIZE,
                .initial = "0",
                .max = 1ull << 50,
                .help = "memory of the content cache that is this image's alone"},
        {.key = "limit",
                .kind = SETTING_SIZE,
                .initial = "256M",
                .min = 1u << 20,
                .max = 1ull << 50,
                .help = "most memory that it takes, as long as there is some left"},
        {.key = "prefetch",
                .kind = SETTING_SIZE,
                .initial = "1M",
                .max = 64u << 20,
                .help = "how far to read ahead of a sequential reader; 0: not at all"},
        {.key = "mode",
                .kind = SETTING_ENUM,
                .initial = "writeback",
                .choices = mode_names,
                .help = "write mode of the virtual disk"},
        {.key = "copies",
                .kind = SETTING_BOOL,
                .initial = "off",
                .help = "also hold copies of what cannot be pinned (below a transform)"},
        {0}};

static int cache_check(const struct settings *s, struct errmsg *em)
{
	if (settings_number(s, "reservation") > settings_number(s, "limit"))
		return errmsg_set(em, -EINVAL, "the reservation is over the limit: raise 'limit'");
	return 0;
}

static void cache_configure(struct cache *c, const struct settings *s)
{
	const int mode = (int)settings_number(s, "mode");

	if (mode == MODE_UNSAFE && atomic_exchange(&c->mode, mode) != MODE_UNSAFE)
		c->host->say(c->self, STAGE_SEVERITY_WARNING,
		        "mode=unsafe: flushes are not made durable: a crash loses the last seconds "
		        "of what the guest was told is safe");
	atomic_store(&c->mode, mode);
	atomic_store(&c->copies, settings_number(s, "copies") != 0);
	atomic_store(&c->prefetch_bytes, settings_number(s, "prefetch"));
	c->reservation = settings_number(s, "reservation");
	c->limit = settings_number(s, "limit");
}

/* --- how much it may hold --- */

/* Lock held.  0 or what reserve said; nothing has changed then. */
static int cache_reserve(struct cache *c, uint64_t bytes, struct errmsg *em)
{
	const int r = c->host->reserve(c->self, bytes, em);

	if (r < 0)
		return r;
	c->effective = bytes;
	pincache_limit(c->pieces, bytes);
	return 0;
}

/* On a host's thread. */
static void cache_grow(void *stage)
{
	struct cache *c = stage;
	struct errmsg em;

	pthread_mutex_lock(&c->lock);
	const uint64_t step = MAX(c->limit / GROW_PART, GROW_MIN_BYTES);
	const uint64_t next = MIN(c->effective + step, c->limit);
	if (next > c->effective && cache_reserve(c, next, &em) < 0)
		c->refused_ns = c->host->now_ns();
	pthread_mutex_unlock(&c->lock);
}

/* Something was evicted, or did not fit. */
static void cache_wants_more(struct cache *c)
{
	if (atomic_load(&c->quiet) || pthread_mutex_trylock(&c->lock) != 0)
		return;
	const bool refused = c->refused_ns > 0 && c->host->now_ns() - c->refused_ns < GROW_RETRY_NS;
	const bool may = c->effective < c->limit && !refused;
	pthread_mutex_unlock(&c->lock);
	if (may)
		c->host->work(c->self, cache_grow);
}

/* --- prefetch --- */

/* The stream that this read goes on with, or the least recently used one, begun anew. */
static struct stream *stream_find(struct cache *c, uint64_t off)
{
	struct stream *oldest = &c->streams[0];

	for (unsigned i = 0; i < STREAMS; i++) {
		struct stream *st = &c->streams[i];
		if (st->next == off && st->run > 0)
			return st;
		if (st->used_ns < oldest->used_ns)
			oldest = st;
	}
	*oldest = (struct stream){.next = off, .ahead = off};
	return oldest;
}

/* A hint only: who does not get the lock does without. */
static void cache_prefetch(struct cache *c, uint64_t off, uint64_t len)
{
	const uint64_t far = atomic_load_explicit(&c->prefetch_bytes, memory_order_relaxed);
	uint64_t from = 0, to = 0;

	if (far == 0 || atomic_load(&c->quiet) || pthread_mutex_trylock(&c->streams_lock) != 0)
		return;
	struct stream *st = stream_find(c, off);
	st->next = off + len;
	st->run += len;
	st->used_ns = c->host->now_ns();
	if (st->run > MAX(len, STREAM_MIN_BYTES - 1) && st->ahead < st->next + far / 2) {
		from = MAX(st->ahead, st->next);
		to = st->next + far;
		st->ahead = to;
	}
	pthread_mutex_unlock(&c->streams_lock);
	if (to <= from)
		return;
	c->count.prefetched_bytes += to - from;
	c->host->prefetch(c->self, from, to - from);
}

/* --- requests --- */

static enum stage_verdict cache_pre_read(
        struct cache *c, struct request *req, struct cache_trip *trip)
{
	const bool counted = !(req->flags & REQUEST_COUNTLESS);

	if (counted)
		cache_prefetch(c, req->off, req->len);
	if (pincache_get(c->pieces, req->off, req->len, &req->out)) {
		if (counted) {
			c->count.hits++;
			c->count.hit_bytes += req->len;
		}
		req->result = 0;
		return STAGE_COMPLETE;
	}
	if (!counted)
		return STAGE_PASS;
	c->count.misses++;
	c->count.miss_bytes += req->len;
	pincache_look(c->pieces, req->off, req->len, &trip->look);
	return STAGE_PASS_POST;
}

static enum stage_verdict cache_pre_change(
        struct cache *c, struct request *req, struct cache_trip *trip)
{
	const int mode = atomic_load(&c->mode);

	trip->flags = req->flags;
	if (mode == MODE_WRITETHROUGH && BIT(req->op) & CHANGES_FUA)
		req->flags |= REQUEST_FUA;
	if (mode == MODE_UNSAFE && !(req->flags & REQUEST_COUNTLESS))
		req->flags &= ~REQUEST_FUA;
	trip->flags_changed = trip->flags != req->flags;
	trip->off = req->op == REQUEST_RESIZE ? req->len : req->off;
	trip->end = req->op == REQUEST_RESIZE ? UINT64_MAX : req->off + req->len;
	pincache_change_begin(c->pieces, trip->off, trip->end);
	return STAGE_PASS_POST;
}

static enum stage_verdict cache_pre_flush(struct cache *c, struct request *req)
{
	if (atomic_load(&c->mode) != MODE_UNSAFE || req->flags & REQUEST_COUNTLESS)
		return STAGE_PASS;
	c->count.flushes_skipped++;
	req->result = 0;
	return STAGE_COMPLETE;
}

static enum stage_verdict cache_pre(void *stage, struct request *req, void *context)
{
	if (req->op == REQUEST_READ)
		return cache_pre_read(stage, req, context);
	if (req->op == REQUEST_FLUSH)
		return cache_pre_flush(stage, req);
	return cache_pre_change(stage, req, context);
}

static void cache_post(void *stage, struct request *req, void *context)
{
	struct cache *c = stage;
	struct cache_trip *trip = context;

	if (req->op != REQUEST_READ) {
		pincache_change_end(c->pieces, trip->off, trip->end);
		if (trip->flags_changed)
			req->flags = trip->flags;
		return;
	}
	if (req->result < 0)
		return;
	if (pincache_fill(c->pieces, req->off, &req->out, &trip->look, atomic_load(&c->copies)))
		cache_wants_more(c);
}

/* --- life --- */

static void cache_drop(struct cache *c, uint64_t off)
{
	pincache_change_begin(c->pieces, off, UINT64_MAX);
	pincache_change_end(c->pieces, off, UINT64_MAX);
}

static void cache_destroy(void *stage)
{
	struct cache *c = stage;

	if (!c)
		return;
	pincache_free(c->pieces);
	if (c->effective > 0)
		(void)c->host->reserve(c->self, 0, NULL); /* giving back does not fail */
	pthread_mutex_destroy(&c->lock);
	pthread_mutex_destroy(&c->streams_lock);
	c->host->free(c);
}

static int cache_create(const struct stage_host *host, struct stage_link *self,
        const struct settings *settings, void **ret_stage, struct errmsg *em)
{
	struct cache *c = host->alloc(sizeof(*c));

	if (!c)
		return errmsg_set(em, -ENOMEM, "no memory for a cache");
	memset(c, 0, sizeof(*c));
	c->host = host;
	c->self = self;
	pthread_mutex_init(&c->lock, NULL);
	pthread_mutex_init(&c->streams_lock, NULL);
	int r = pincache_new(host, &c->pieces);
	if (r < 0)
		errmsg_set(em, r, "no memory for a cache");
	else if (settings_number(settings, "reservation") > 0)
		r = cache_reserve(c, settings_number(settings, "reservation"), em);
	if (r < 0) {
		cache_destroy(c);
		return r;
	}
	cache_configure(c, settings);
	*ret_stage = c;
	return 0;
}

/* A higher reservation must be there before anything changes. */
static int cache_prepare(void *stage, const struct stage_event *event, struct errmsg *em)
{
	struct cache *c = stage;
	int r = 0;

	if (event->kind == STAGE_EVENT_QUIESCE)
		atomic_store(&c->quiet, true);
	if (event->kind != STAGE_EVENT_RECONFIGURE)
		return 0;
	pthread_mutex_lock(&c->lock);
	const uint64_t wanted = settings_number(event->settings, "reservation");
	if (wanted > c->effective)
		r = cache_reserve(c, wanted, em);
	pthread_mutex_unlock(&c->lock);
	return r;
}

static void cache_abort(void *stage, const struct stage_event *event)
{
	struct cache *c = stage;

	/* What prepare reserved beyond the old limit is not kept. */
	pthread_mutex_lock(&c->lock);
	if (event->kind == STAGE_EVENT_RECONFIGURE && c->effective > c->limit &&
	        cache_reserve(c, c->limit, NULL) < 0)
		c->host->say(c->self, STAGE_SEVERITY_NOTE, "memory stays reserved until closed");
	pthread_mutex_unlock(&c->lock);
	if (event->kind == STAGE_EVENT_QUIESCE)
		atomic_store(&c->quiet, false);
}

static void cache_reconfigure(struct cache *c, const struct settings *settings)
{
	pthread_mutex_lock(&c->lock);
	cache_configure(c, settings);
	c->refused_ns = 0;
	if (c->effective > c->limit && cache_reserve(c, c->limit, NULL) < 0)
		c->host->say(c->self, STAGE_SEVERITY_NOTE, "memory stays reserved until closed");
	pthread_mutex_unlock(&c->lock);
}

static void cache_commit(void *stage, const struct stage_event *event)
{
	struct cache *c = stage;

	switch (event->kind) {
	case STAGE_EVENT_ROLLBACK:
	case STAGE_EVENT_DELETE:
		cache_drop(c, 0);
		break;
	case STAGE_EVENT_RESIZE:
		cache_drop(c, event->size);
		break;
	case STAGE_EVENT_RECONFIGURE:
		cache_reconfigure(c, event->settings);
		break;
	case STAGE_EVENT_THAW:
		atomic_store(&c->quiet, false);
		break;
	default:
		break;
	}
}

static void cache_report(void *stage, const struct stage_report *rep)
{
	struct cache *c = stage;
	struct pincache_stats st;
	const uint64_t hits = c->count.hits, reads = hits + c->count.misses;

	pincache_stats_get(c->pieces, &st);
	pthread_mutex_lock(&c->lock);
	const uint64_t effective = c->effective;
	pthread_mutex_unlock(&c->lock);
	rep->number(rep->arg, "hits", hits);
	rep->number(rep->arg, "misses", reads - hits);
	rep->real(rep->arg, "hit_rate", reads > 0 ? (double)hits / (double)reads : 0);
	rep->number(rep->arg, "hit_bytes", c->count.hit_bytes);
	rep->number(rep->arg, "miss_bytes", c->count.miss_bytes);
	rep->number(rep->arg, "held_bytes", st.bytes);
	rep->number(rep->arg, "reserved_bytes", effective);
	rep->number(rep->arg, "pinned_chunks", st.pinned);
	rep->number(rep->arg, "zero_chunks", st.zeros);
	rep->number(rep->arg, "copied_chunks", st.copied);
	rep->number(rep->arg, "inserted", st.inserted);
	rep->number(rep->arg, "evicted", st.evicted);
	rep->number(rep->arg, "invalidated", st.dropped);
	rep->number(rep->arg, "prefetched_bytes", c->count.prefetched_bytes);
	rep->number(rep->arg, "flushes_skipped", c->count.flushes_skipped);
}

static int cache_action(void *stage, const char *action, const char *const *args, unsigned n_args,
        char **ret_json, struct errmsg *em)
{
	if (strcmp(action, "drop") != 0)
		return -EOPNOTSUPP;
	if (n_args > 0)
		return errmsg_set(em, -EINVAL, "'drop' takes no arguments");
	cache_drop(stage, 0);
	*ret_json = NULL;
	return 0;
}

static const char *const cache_actions[] = {"drop", NULL};

const struct stage_type stage_cache = {
        .abi = STAGE_ABI,
        .size = sizeof(struct stage_type),
        .name = "cache",
        .version = 1,
        .summary = "an image's own share of memory for reads, and its write mode",
        .class = STAGE_CACHE,
        .capabilities = STAGE_SINGLE,
        .handles = OPS_CHANGE | OP(READ) | OP(FLUSH),
        .understands = OPS_ALL,
        .settings = cache_settings,
        .context_size = sizeof(struct cache_trip),
        .create = cache_create,
        .destroy = cache_destroy,
        .check = cache_check,
        .pre = cache_pre,
        .post = cache_post,
        .prepare = cache_prepare,
        .commit = cache_commit,
        .abort = cache_abort,
        .report = cache_report,
        .action = cache_action,
        .actions = cache_actions,
};

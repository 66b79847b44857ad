/*
 * send-walk.c - from the differences of two maps to windows, in order of offsets
 *
 * The maps are compared by the engine (store_diff): what both share is not even read.  Holes and zeros go out as
 * they come.  Content that was sent before, as its location tells, is said to be that (SHARE).  The rest
 * gathers in a window, of at most 1 MiB of content and STREAM_WINDOW of the image; when that is full it is read, and
 * sent; or asked about, and sent when the answer is there, while later ones are read and asked about.
 * The walk is ahead of the position by those windows: the position is that of the oldest one, and
 * what the walk says at once lies above it.
 */
#include <errno.h>

#include "fs/stream/send-private.h"

/* --- the position, and what precedes its moving --- */

static int share_flush(struct sender *s)
{
	struct stream_record rec = {.type = STREAM_SHARE, .share = s->share};

	if (!s->share.len)
		return 0;
	s->count.shared += s->share.len;
	s->share.len = 0;
	return record_write(s->w, &rec);
}

int walk_share(struct sender *s, uint64_t off, uint64_t src)
{
	struct stream_share *sh = &s->share;
	int r = 0;

	if (sh->len && (sh->off + sh->len != off || sh->src + sh->len != src))
		r = share_flush(s);
	if (!sh->len)
		*sh = (struct stream_share){.off = off, .src = src};
	sh->len += CHUNK_SIZE;
	return r;
}

int walk_pos(struct sender *s, uint64_t to)
{
	struct stream_record rec = {.type = STREAM_POS, .pos = to};
	const int r = share_flush(s);

	if (r < 0 || to <= s->pos)
		return r;
	s->pos = to;
	return record_write(s->w, &rec);
}

/* --- windows --- */

static uint64_t window_off(const struct window *w)
{
	return w->spots[0].chunk * CHUNK_SIZE;
}

static uint64_t window_end(const struct window *w)
{
	return (w->spots[w->n - 1].chunk + 1) * CHUNK_SIZE;
}

/* The one that spots are gathered in. */
static struct window *gathering(struct sender *s)
{
	return &s->ring[(s->ring_first + s->ring_used) % s->n_ring];
}

/* Everything below the window has been said. */
static int window_finish(struct sender *s, struct window *w)
{
	int r = walk_pos(s, window_off(w));

	if (r == 0 && w->asked)
		r = talk_answer(s, w);
	if (r == 0)
		r = window_send(s, w);
	if (r == 0)
		r = walk_pos(s, window_end(w));
	s->passed += (uint64_t)w->n * CHUNK_SIZE;
	window_clear(w);
	if (r == 0 && s->progress)
		s->progress(s->arg, s->passed, s->begin.estimate);
	return r;
}

static int oldest_finish(struct sender *s)
{
	struct window *w = &s->ring[s->ring_first];

	s->ring_first = (s->ring_first + 1) % s->n_ring;
	s->ring_used--;
	return window_finish(s, w);
}

/* It may be asked about only what is not far above the position. */
static int window_ask(struct sender *s, struct window *w)
{
	int r = 0;

	while (r == 0 && s->ring_used && window_end(w) - s->pos > STREAM_AHEAD)
		r = oldest_finish(s);
	if (r == 0 && !s->ring_used)
		r = walk_pos(s, window_off(w));
	if (r == 0)
		r = talk_ask(s, w);
	if (r < 0)
		return r;
	s->ring_used++;
	return s->ring_used == s->n_ring ? oldest_finish(s) : 0;
}

/* What was gathered is a window. */
static int window_close(struct sender *s)
{
	struct window *w = gathering(s);
	int r = w->n ? window_load(s, w) : 0;

	if (r < 0 || !w->n)
		return r;
	return s->asks ? window_ask(s, w) : window_finish(s, w);
}

static int spot_add(struct sender *s, uint64_t chunk, uint64_t entry)
{
	struct window *w = gathering(s);

	if (w->n && (w->n == s->spots_max ||
	                    (chunk + 1 - w->spots[0].chunk) * CHUNK_SIZE > STREAM_WINDOW)) {
		const int r = window_close(s);
		if (r < 0)
			return r;
		w = gathering(s);
	}
	w->spots[w->n++] = (struct spot){.chunk = chunk, .entry = entry};
	return 0;
}

/* --- differences --- */

static int fill_send(struct sender *s, uint64_t off, uint64_t len, bool zero)
{
	struct stream_record rec = {.type = STREAM_FILL, .fill = {off, len, zero}};

	if (zero)
		s->count.zero += len;
	else
		s->count.hole += len;
	return record_write(s->w, &rec);
}

static int chunk_take(struct sender *s, uint64_t chunk, uint64_t entry)
{
	uint64_t src;

	/* A snapshot does not change: what the walk called data is data. */
	if (entry_state(entry) != ENTRY_DATA)
		return -EIO;
	if (shared_find(s->shared, entry_loc(entry), &src)) {
		s->passed += CHUNK_SIZE;
		return walk_share(s, chunk * CHUNK_SIZE, src * CHUNK_SIZE);
	}
	return spot_add(s, chunk, entry);
}

static int data_take(struct sender *s, uint64_t off, uint64_t len)
{
	uint64_t chunk = off / CHUNK_SIZE, entries[LEAF_CHUNKS];
	const uint64_t last = (off + len) / CHUNK_SIZE;
	int r = 0;

	while (chunk < last && r == 0) {
		const unsigned n = (unsigned)MIN(last - chunk, LEAF_CHUNKS - chunk % LEAF_CHUNKS);
		r = store_snapshot_entries(s->img, chunk, n, entries);
		for (unsigned i = 0; i < n && r == 0; i++)
			r = chunk_take(s, chunk + i, entries[i]);
		chunk += n;
	}
	return r;
}

static int extent_take(void *arg, uint64_t off, uint64_t len, enum diff_state state)
{
	struct sender *s = arg;
	const uint64_t end = MIN(off + len, s->end);

	off = MAX(off, s->start);
	if (off >= end)
		return 0;
	if (state == DIFF_DATA)
		return data_take(s, off, end - off);
	return fill_send(s, off, end - off, state == DIFF_ZERO);
}

static int diff_walk(struct sender *s, diff_fn *fn, void *arg)
{
	return store_diff(s->ds->store, s->base ? snapshot_image(s->base_key) : 0,
	        snapshot_image(s->si.key), fn, arg);
}

static int ring_make(struct sender *s)
{
	const bool asks = s->answers && s->hello.flags & STREAM_HELLO_HASH;

	s->spots_max = asks ? MIN(s->hello.asks_max, WINDOW_CHUNKS_MAX) : WINDOW_CHUNKS_MAX;
	s->n_ring = asks ? MIN(s->hello.queries_max, RING_MAX) : 1;
	s->ring = calloc(s->n_ring, sizeof(*s->ring));
	s->asks = asks ? malloc((size_t)WINDOW_CHUNKS_MAX * STREAM_ASK_LEN) : NULL;
	return s->ring && (s->asks || !asks) ? shared_new(&s->shared) : -ENOMEM;
}

int walk_send(struct sender *s)
{
	int r = ring_make(s);

	if (r == 0)
		r = diff_walk(s, extent_take, s);
	if (r == 0)
		r = window_close(s);
	while (r == 0 && s->ring_used)
		r = oldest_finish(s);
	return r < 0 ? r : walk_pos(s, s->end);
}

/* --- counting --- */

struct counting {
	const struct sender *s;
	uint64_t bytes;
};

static int extent_count(void *arg, uint64_t off, uint64_t len, enum diff_state state)
{
	struct counting *c = arg;
	const uint64_t from = MAX(off, c->s->start), end = MIN(off + len, c->s->end);

	if (state == DIFF_DATA && from < end)
		c->bytes += end - from;
	return 0;
}

int walk_count(struct sender *s, uint64_t *ret_bytes)
{
	struct counting c = {.s = s};
	const int r = diff_walk(s, extent_count, &c);

	if (r == 0)
		*ret_bytes = c.bytes;
	return r;
}

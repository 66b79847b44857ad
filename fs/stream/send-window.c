/*
 * send-window.c - a window's content: read as it is stored, written as records
 *
 * A frame of which each chunk is at some place of the window goes out as it is: compressed, not looked into.
 * Of other frames the chunks that are wanted are unpacked ("loose") and packed anew, up to 16
 * together: a frame may hold chunks of other images, for content is shared, or what the guest overwrote, and a
 * stream may go to somebody who must not see either.  That costs compressing the loose ones, LZ4 on one core a few
 * hundred MB/s; frames that nothing was overwritten in, the rule, cost a copy.
 *
 * Of what the receiver has, less is sent: a frame of which it lacks less than half is taken apart, too.
 */
#include <errno.h>

#include "fs/stream/send-private.h"

/* --- reading --- */

void window_clear(struct window *w)
{
	for (unsigned i = 0; i < w->n_frames; i++) {
		free(w->frames[i]->payload);
		free(w->frames[i]);
	}
	w->n = w->n_frames = w->n_loose = 0;
	w->asked = false;
}

void window_release(struct window *w)
{
	window_clear(w);
	free(w->loose);
	*w = (struct window){0};
}

/* Room for n more loose chunks; where the first of them is. */
static uint8_t *loose_room(struct window *w, unsigned n)
{
	const unsigned need = w->n_loose + n;

	if (need > w->loose_cap) {
		const unsigned cap = MIN(MAX(2 * w->loose_cap, need), WINDOW_CHUNKS_MAX);
		uint8_t *loose = realloc(w->loose, (size_t)cap * CHUNK_SIZE);
		if (!loose)
			return NULL;
		w->loose = loose;
		w->loose_cap = cap;
	}
	return w->loose + (size_t)w->n_loose * CHUNK_SIZE;
}

/* Is the chunk of this location at any place of the window that is not done? */
static bool loc_wanted(const struct window *w, uint64_t loc)
{
	for (unsigned i = 0; i < w->n; i++)
		if (!w->spots[i].done && entry_loc(w->spots[i].entry) == loc)
			return true;
	return false;
}

static uint32_t frame_wanted(const struct window *w, const struct frame_info *f)
{
	uint32_t wanted = 0;

	for (unsigned i = 0; i < f->n; i++)
		if (loc_wanted(w, loc_make(f->segment, f->slots[i])))
			wanted |= BIT(i);
	return wanted;
}

static int frame_keep(struct window *w, const struct frame_info *f, const uint8_t *payload)
{
	struct kept_frame *k = malloc(sizeof(*k));

	if (!k)
		return -ENOMEM;
	k->info = *f;
	k->payload = malloc(f->payload_len);
	if (!k->payload) {
		free(k);
		return -ENOMEM;
	}
	memcpy(k->payload, payload, f->payload_len);
	w->frames[w->n_frames++] = k;
	return 0;
}

/* All spots with this content. */
static void loose_assign(struct window *w, uint64_t loc, unsigned loose)
{
	for (unsigned i = 0; i < w->n; i++)
		if (entry_loc(w->spots[i].entry) == loc)
			w->spots[i].loose = (uint16_t)loose;
}

/* The wanted chunks of a frame become loose ones. */
static int frame_loosen(
        struct window *w, const struct frame_info *f, const uint8_t *payload, uint32_t wanted)
{
	uint8_t chunks[FRAME_UNPACK_BYTES];
	uint8_t *to = loose_room(w, (unsigned)__builtin_popcount(wanted));
	const int r = to ? frame_unpack(f, payload, chunks) : -ENOMEM;

	if (r < 0)
		return r == -EUCLEAN ? -EIO : r;
	for (unsigned i = 0; i < f->n; i++) {
		if (!(wanted & BIT(i)))
			continue;
		memcpy(to, chunks + (size_t)i * CHUNK_SIZE, CHUNK_SIZE);
		to += CHUNK_SIZE;
		loose_assign(w, loc_make(f->segment, f->slots[i]), w->n_loose++);
	}
	return 0;
}

/* The engine hands out a frame that some spot's content is in. */
static int frame_arrived(void *arg, const struct frame_info *f, const uint8_t *payload)
{
	struct window *w = arg;
	const uint32_t wanted = frame_wanted(w, f);

	if (!wanted)
		return 0;
	if (wanted == BIT(f->n) - 1)
		return frame_keep(w, f, payload);
	return frame_loosen(w, f, payload, wanted);
}

int window_load(struct sender *s, struct window *w)
{
	uint64_t entries[WINDOW_CHUNKS_MAX];

	for (unsigned i = 0; i < w->n; i++) {
		entries[i] = w->spots[i].entry;
		w->spots[i].loose = LOOSE_NONE;
		w->spots[i].done = false;
	}
	return store_snapshot_frames(s->img, entries, w->n, frame_arrived, w);
}

/* --- looking into it --- */

int window_each(struct window *w, window_chunk_fn *fn, void *arg)
{
	uint8_t chunks[FRAME_UNPACK_BYTES];

	for (unsigned i = 0; i < w->n; i++)
		if (w->spots[i].loose != LOOSE_NONE)
			fn(arg, i, w->loose + (size_t)w->spots[i].loose * CHUNK_SIZE);
	for (unsigned k = 0; k < w->n_frames; k++) {
		const struct frame_info *f = &w->frames[k]->info;
		const int r = frame_unpack(f, w->frames[k]->payload, chunks);
		if (r < 0)
			return r == -EUCLEAN ? -EIO : r;
		for (unsigned i = 0; i < w->n; i++)
			for (unsigned c = 0; c < f->n; c++)
				if (entry_loc(w->spots[i].entry) ==
				        loc_make(f->segment, f->slots[c]))
					fn(arg, i, chunks + (size_t)c * CHUNK_SIZE);
	}
	return 0;
}

/* --- writing --- */

static int data_write(struct sender *s, struct stream_record *rec)
{
	s->count.data += (uint64_t)rec->data.n * CHUNK_SIZE;
	return record_write(s->w, rec);
}

/* A frame as it is, with all its places. */
static int frame_send(struct sender *s, const struct window *w, const struct kept_frame *k)
{
	const struct frame_info *f = &k->info;
	struct stream_record rec = {.type = STREAM_DATA};
	struct stream_data *d = &rec.data;

	d->n = f->n;
	d->codec = f->codec;
	d->payload = (struct stream_bytes){k->payload, f->payload_len};
	for (unsigned i = 0; i < w->n; i++) {
		for (unsigned c = 0; c < f->n; c++) {
			if (entry_loc(w->spots[i].entry) != loc_make(f->segment, f->slots[c]))
				continue;
			d->places[d->n_places++] =
			        (struct stream_place){w->spots[i].chunk * CHUNK_SIZE, (uint8_t)c};
			break;
		}
	}
	s->count.frames_stored++;
	return data_write(s, &rec);
}

/* Frames of which the receiver lacks little are taken apart, others go out. */
static int frames_send(struct sender *s, struct window *w)
{
	int r = 0;

	for (unsigned k = 0; k < w->n_frames && r == 0; k++) {
		const struct frame_info *f = &w->frames[k]->info;
		const uint32_t wanted = frame_wanted(w, f);
		const unsigned n = (unsigned)__builtin_popcount(wanted);
		if (n == 0)
			continue;
		r = 2 * n >= f->n ? frame_send(s, w, w->frames[k])
		                  : frame_loosen(w, f, w->frames[k]->payload, wanted);
	}
	return r;
}

/* Packs n loose chunks, which lie in chunks, at the places in rec. */
static int loose_pack(struct sender *s, struct stream_record *rec, const uint8_t *chunks)
{
	uint8_t packed[FRAME_UNPACK_BYTES];
	struct stream_data *d = &rec->data;
	uint32_t len = 0;

	if (d->n == 0)
		return 0;
	d->codec = frame_pack(chunks, d->n, packed, &len);
	d->payload = (struct stream_bytes){d->codec == CODEC_RAW ? chunks : packed, len};
	s->count.frames_packed++;
	const int r = data_write(s, rec);
	d->n = d->n_places = 0;
	return r;
}

static int place_compare(const void *a, const void *b)
{
	const struct stream_place *x = a, *y = b;

	return x->off < y->off ? -1 : x->off > y->off;
}

/* The loose chunk of spot i, with all its places, into the frame that is being filled. */
static void loose_place(struct window *w, unsigned i, struct stream_data *d)
{
	const unsigned loose = w->spots[i].loose;

	for (unsigned k = i; k < w->n; k++) {
		if (w->spots[k].loose != loose || w->spots[k].done)
			continue;
		w->spots[k].done = true;
		d->places[d->n_places++] =
		        (struct stream_place){w->spots[k].chunk * CHUNK_SIZE, (uint8_t)d->n};
	}
	d->n++;
}

static int loose_send(struct sender *s, struct window *w)
{
	uint8_t chunks[FRAME_UNPACK_BYTES];
	struct stream_record rec = {.type = STREAM_DATA};
	struct stream_data *d = &rec.data;
	int r = 0;

	for (unsigned i = 0; i < w->n && r == 0; i++) {
		if (w->spots[i].loose == LOOSE_NONE || w->spots[i].done)
			continue;
		memcpy(chunks + (size_t)d->n * CHUNK_SIZE,
		        w->loose + (size_t)w->spots[i].loose * CHUNK_SIZE, CHUNK_SIZE);
		loose_place(w, i, d);
		qsort(d->places, d->n_places, sizeof(d->places[0]), place_compare);
		if (d->n == FRAME_CHUNKS_MAX)
			r = loose_pack(s, &rec, chunks);
	}
	return r < 0 ? r : loose_pack(s, &rec, chunks);
}

/* What went out while this window waited for its answer. */
static int shared_send(struct sender *s, struct window *w)
{
	uint64_t src;
	int r = 0;

	for (unsigned i = 0; i < w->n && r == 0; i++) {
		struct spot *sp = &w->spots[i];
		if (sp->done || !shared_find(s->shared, entry_loc(sp->entry), &src))
			continue;
		sp->done = true;
		r = walk_share(s, sp->chunk * CHUNK_SIZE, src * CHUNK_SIZE);
	}
	return r;
}

int window_send(struct sender *s, struct window *w)
{
	int r = shared_send(s, w);

	if (r == 0)
		r = frames_send(s, w);
	if (r == 0)
		r = loose_send(s, w);
	for (unsigned i = 0; i < w->n && r == 0; i++)
		shared_add(s->shared, entry_loc(w->spots[i].entry), w->spots[i].chunk);
	return r;
}

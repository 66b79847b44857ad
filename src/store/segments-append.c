/*
 * segments-append.c - frames into buffers, buffers into files
 *
 * Appends.  All workers append to one open segment, for locality.  Under the lock an append only
 * takes slots and room in the segment's buffer; hashing, checksum and copy of the frame are done
 * outside, beside those of others, and counted in w->copiers.  A frame that does not fit closes the
 * segment: nobody takes room in it any more, the next append opens another, and whoever ends the
 * last copy (or finds that there is none) writes header, frames and footer out in one call, while
 * the others go on.  A slot enters the table when its frame is complete, so readers never see half
 * a frame.
 *
 * Buffers are few (SEGMENT_BUFFERS_MAX).  An append that needs one waits until a write-out ends;
 * those who write hold no other resource that an append could wait for, so this ends.
 *
 * What a group appends to a segment begins at w->base, a multiple of IO_ALIGN, where the group
 * before ended: no block that a commit depends on is ever written again.  A power cut during a
 * write-out therefore leaves the committed part whole, and the rest void: row.bytes ends before it.
 *
 * An error of any write or sync is kept in ss->failed; everything fails with it until
 * segments_txg_abort().
 */
#include <errno.h>
#include <stdio.h>

#include "base/log.h"
#include "store/segments-priv.h"

/* --- buffers --- */

static struct wbuf *wbuf_find(struct segments *ss)
{
	for (unsigned i = 0; i < SEGMENT_BUFFERS_MAX; i++) {
		struct wbuf *b = &ss->bufs[i];
		if (!b->busy && b->pins == 0)
			return b;
	}
	return NULL;
}

struct wbuf *wbuf_take(struct segments *ss)
{
	struct wbuf *b;

	while (!(b = wbuf_find(ss)))
		pthread_cond_wait(&ss->changed, &ss->lock);
	if (!b->data)
		b->data = aligned_alloc(IO_ALIGN, SEGMENT_BYTES_MAX);
	if (!b->data)
		return NULL;
	b->busy = true;
	return b;
}

void wbuf_release(struct segments *ss, struct wbuf *b)
{
	if (!b)
		return;
	b->busy = false;
	pthread_cond_broadcast(&ss->changed);
}

/* --- writers --- */

int writer_create(struct segments *ss, struct seg *s, struct writer **ret_w)
{
	CLEANUP(free_ptr) struct writer *w = calloc(1, sizeof(*w));
	CLEANUP(free_ptr) struct footer_slot *table = calloc(SEGMENT_SLOTS, sizeof(*table));
	CLEANUP(free_ptr) struct hash128 *hashes = calloc(SEGMENT_SLOTS, sizeof(*hashes));
	struct handle *h = w && table && hashes ? handle_get(ss, s) : NULL;

	if (!h)
		return -ENOMEM;
	ASSERT(!h->w && !h->pend);
	handle_drop_table(ss, h);
	w->h = h; /* with its reference */
	w->base = w->written = w->row_bytes = s->bytes;
	w->end = MAX(s->bytes, (uint32_t)SEGMENT_HEADER_LEN);
	w->slots = w->flushed_slots = w->row_slots = s->slots;
	w->create = s->bytes == 0;
	w->synced = true;
	w->hashes = STEAL(hashes);
	h->w = w;
	h->table = STEAL(table);
	table_account(ss, h, 1);
	list_add(&ss->writers, &w->in_writers);
	*ret_w = STEAL(w);
	return 0;
}

void writer_free(struct segments *ss, struct writer *w)
{
	struct handle *h = w->h;

	if (ss->open == w)
		ss->open = NULL;
	wbuf_release(ss, w->buf);
	io_close(w->file);
	if (!w->synced)
		ss->unsynced--;
	if (!w->done) {
		handle_drop_table(ss, h);
		h->refs--;
	}
	h->w = NULL;
	list_del(&w->in_writers);
	free(w->hashes);
	free(w);
	handle_settle(ss, h);
}

static int segment_begin(struct segments *ss, uint64_t txg)
{
	if (ss->next_segment > SEGMENT_ID_MAX)
		return -ENOSPC;
	struct seg *s = seg_add(ss, ss->next_segment);
	if (!s)
		return -ENOMEM;
	ss->next_segment++;
	s->flags = SEG_NEW | SEG_OPEN;
	s->created_txg = txg;
	const int r = writer_create(ss, s, &ss->open);
	if (r < 0) {
		s->flags |= SEG_GONE;
		segs_compact(ss);
	}
	return r;
}

/* --- appending --- */

static bool frame_fits(const struct writer *w, unsigned n, size_t size)
{
	return w->slots + n <= SEGMENT_SLOTS && w->end + size <= SEGMENT_FRAMES_END_MAX;
}

/* One step towards an open segment that has a buffer and room.  1: there. */
static int append_prepare(struct segments *ss, uint64_t txg, unsigned n, size_t size)
{
	struct writer *w = ss->open;

	if (ss->failed)
		return ss->failed;
	if (!w)
		return segment_begin(ss, txg);
	if (!frame_fits(w, n, size)) {
		w->closed = true;
		ss->open = NULL;
		return w->copiers == 0 ? writer_flush(ss, w) : 0;
	}
	if (w->buf)
		return 1;
	struct wbuf *b = wbuf_take(ss); /* may wait: w may be another by then */
	if (!b)
		return -ENOMEM;
	if (ss->open && !ss->open->buf)
		ss->open->buf = b;
	else
		wbuf_release(ss, b);
	return 0;
}

/* The frame is in the buffer: its slots become readable. */
static int append_finish(struct segments *ss, struct writer *w, const struct frame_info *f,
        uint32_t off, size_t size)
{
	for (unsigned i = 0; i < f->n; i++) {
		w->hashes[f->slots[i]] = f->hashes[i];
		w->h->table[f->slots[i]] = (struct footer_slot){
		        .frame_pos = (off / FRAME_ALIGN) & 0xffff,
		        .frame_units = (size / FRAME_ALIGN) & 0x7ff,
		        .index = i & 0xf,
		        .flags = SLOT_PRESENT,
		};
	}
	w->copiers--;
	if (w->copiers > 0)
		return 0;
	pthread_cond_broadcast(&ss->changed); /* a sync may wait for the copies */
	if (ss->failed)
		return ss->failed;
	return w->closed && !w->writing && !w->done ? writer_flush(ss, w) : 0;
}

int segments_append(
        struct segments *ss, uint64_t txg, const struct frame_spec *spec, uint64_t *ret_loc)
{
	const size_t size = frame_size(spec->n, spec->payload_len);
	struct frame_info f = {
	        .n = spec->n,
	        .codec = spec->codec,
	        .payload_len = spec->payload_len,
	        .store = ss->store,
	        .image = spec->image,
	        .first_chunk = spec->first_chunk,
	};
	int r;

	ASSERT(spec->n >= 1 && spec->n <= FRAME_CHUNKS_MAX && !ss->read_only);
	ASSERT(spec->payload_len >= 1 && spec->payload_len <= spec->n * CHUNK_SIZE);
	memcpy(f.hashes, spec->hashes, spec->n * sizeof(f.hashes[0]));
	pthread_mutex_lock(&ss->lock);
	do
		r = append_prepare(ss, txg, spec->n, size);
	while (r == 0);
	if (r < 0)
		goto out;
	struct writer *w = ss->open;
	const uint32_t off = w->end;
	uint8_t *to = w->buf->data + (off - w->base);
	f.segment = w->h->id;
	frame_slots_set(&f, w->slots);
	w->end += (uint32_t)size;
	w->slots += f.n;
	w->frame_bytes += (uint32_t)size;
	w->copiers++;
	pthread_mutex_unlock(&ss->lock);
	frame_encode(&f, spec->payload, to);
	pthread_mutex_lock(&ss->lock);
	r = append_finish(ss, w, &f, off, size);
	if (r == 0)
		*ret_loc = loc_make(f.segment, f.slots[0]);
out:
	pthread_mutex_unlock(&ss->lock);
	return r;
}

/* --- writing out --- */

int segment_file_create(struct segments *ss, uint64_t id, uint32_t gen, struct io_file **ret_file)
{
	const unsigned hh = id & 0xff;
	char name[SEGMENT_NAME_LEN];
	int r = 0;

	pthread_mutex_lock(&ss->lock);
	const bool known = ss->dir_known[hh];
	pthread_mutex_unlock(&ss->lock);
	if (!known) {
		snprintf(name, sizeof(name), "segments/%02x", hh);
		r = io_mkdir(ss->io, name);
	}
	if (r < 0)
		return r;
	/* Marked before the file is there: a sync in between does too much, never too little. */
	pthread_mutex_lock(&ss->lock);
	ss->top_dirty |= !known;
	ss->dir_known[hh] = true;
	ss->dir_dirty[hh] = true;
	pthread_mutex_unlock(&ss->lock);
	segment_name(id, gen, name);
	/* Not exclusive: a crash may have left a file of this name that no row ever named. */
	return io_open(ss->io, name, IO_WRITE | IO_CREATE | IO_TRUNC | IO_DIRECT, ret_file);
}

/* The file of a segment that an earlier life began; what lies past its committed length is cut. */
static int segment_file_reopen(
        struct segments *ss, const struct writer *w, struct io_file **ret_file)
{
	CLEANUP(io_closep) struct io_file *f = NULL;
	char name[SEGMENT_NAME_LEN];

	segment_name(w->h->id, w->h->gen, name);
	int r = io_open(ss->io, name, IO_WRITE | IO_DIRECT, &f);
	if (r == 0)
		r = io_truncate(f, w->base);
	if (r == 0)
		*ret_file = STEAL(f);
	return r;
}

static void header_fill(const struct segments *ss, const struct handle *h, uint8_t *buf)
{
	struct segment_header hd = {
	        .id = h->id,
	        .gen = h->gen,
	        .domain = h->seg->domain,
	        .created_txg = h->seg->created_txg,
	};

	memcpy(hd.uuid, ss->uuid, sizeof(hd.uuid));
	segment_header_encode(&hd, buf);
}

/* Without the lock; w is marked as writing, so it and its buffer stay as they are. */
static int writer_flush_io(struct segments *ss, struct writer *w, uint32_t end)
{
	uint8_t *buf = w->buf->data;
	uint32_t len = end - w->base;
	int r = 0;

	if (w->base == 0)
		header_fill(ss, w->h, buf);
	if (w->end > w->base)
		memset(buf + (w->end - w->base), 0, end - w->end);
	if (w->closed) {
		footer_encode(w->h->id, w->slots, w->h->table, w->hashes, end, buf + len);
		len += (uint32_t)footer_size(w->slots);
	}
	if (!w->file)
		r = w->create ? segment_file_create(ss, w->h->id, w->h->gen, &w->file)
		              : segment_file_reopen(ss, w, &w->file);
	return r < 0 ? r : io_pwrite(w->file, buf, len, w->base);
}

static void writer_done(struct segments *ss, struct writer *w)
{
	struct handle *h = w->h;

	table_account(ss, h, -1);
	w->done = true;
	h->sealed = true;
	h->bytes = w->end;
	h->slots = w->slots;
	table_account(ss, h, 1);
	free(STEAL(w->hashes));
	handle_put(ss, h);
}

int writer_flush(struct segments *ss, struct writer *w)
{
	ASSERT(w->copiers == 0 && !w->writing && !w->done);
	w->writing = true;
	ss->writing++;
	const uint32_t end = ROUND_UP(w->end, (uint32_t)IO_ALIGN);
	if (!w->buf)
		w->buf = wbuf_take(ss);
	int r = w->buf ? 0 : -ENOMEM;
	w->flushed_slots = w->slots;
	w->flushed_frame_bytes = w->frame_bytes;
	if (w->synced) {
		w->synced = false;
		ss->unsynced++;
	}
	pthread_mutex_unlock(&ss->lock);
	if (r == 0)
		r = writer_flush_io(ss, w, end);
	pthread_mutex_lock(&ss->lock);
	wbuf_release(ss, STEAL(w->buf));
	if (r == 0) {
		w->create = false;
		w->base = w->written = w->end = end;
	} else if (!ss->failed) {
		log_error("cannot write segment %llu: %s", (unsigned long long)w->h->id,
		        strerror(-r));
		ss->failed = r;
	}
	if (r == 0 && w->closed)
		writer_done(ss, w);
	if (r == 0 && ss->unsynced > SEGMENT_UNSYNCED_MAX)
		r = writer_sync(ss, w);
	w->writing = false;
	ss->writing--;
	pthread_cond_broadcast(&ss->changed);
	return r;
}

int writer_sync(struct segments *ss, struct writer *w)
{
	struct handle *h = w->h;

	pthread_mutex_unlock(&ss->lock);
	const int r = io_sync(w->file);
	pthread_mutex_lock(&ss->lock);
	if (r < 0) {
		if (!ss->failed)
			log_error("cannot sync segment %llu: %s", (unsigned long long)h->id,
			        strerror(-r));
		ss->failed = ss->failed ? ss->failed : r;
		return r;
	}
	w->synced = true;
	ss->unsynced--;
	if (!w->done)
		return 0;
	/* Its reads will mostly be the next: the file stays open for them. */
	if (!h->file && !h->loading)
		h->file = STEAL(w->file);
	io_close(STEAL(w->file));
	handle_settle(ss, h);
	return 0;
}

/*
 * segments-append.c - frames into buffers, buffers into files
 *
 * Appends.  All workers append to one open segment a crypto domain, for locality.  Under the lock an append only
 * takes slots and room in the segment's buffer; checksum, sealing and copy of the frame are done
 * outside, beside those of others, and counted in w->copiers.  A frame that does not fit closes the
 * segment: nobody takes room in it any more, the next append opens another, and whoever ends the
 * last copy (or finds that there is none) writes header, frames and footer out in one call, while
 * the others go on.  A slot enters the table when its frame is complete, so readers never see half
 * a frame.
 *
 * Buffers are few (SEGMENT_BUFFERS_MAX).  An append that needs one waits until a write-out ends;
 * those who write hold no other resource that an append could wait for, so this ends.  Open segments
 * of several domains share SEGMENT_FILLING_MAX: who needs one more first writes out what another
 * domain's has so far, which then goes on at the next block.  Leaves are committed in order of
 * images, so that does not happen often.
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

#include "base/clock.h"
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

/* --- open segments --- */

struct writer *writer_open_find(const struct segments *ss, uint32_t domain)
{
	for (struct list *l = ss->opens.next; l != &ss->opens; l = l->next) {
		struct writer *w = CONTAINER_OF(l, struct writer, in_opens);
		if (w->h->domain == domain)
			return w;
	}
	return NULL;
}

void writer_open(struct segments *ss, struct writer *w)
{
	list_add(&ss->opens, &w->in_opens);
	ss->n_opens++;
}

static void writer_unopen(struct segments *ss, struct writer *w)
{
	if (list_empty(&w->in_opens))
		return;
	list_del(&w->in_opens);
	ss->n_opens--;
}

void writer_close(struct segments *ss, struct writer *w)
{
	w->closed = true;
	writer_unopen(ss, w);
}

/* The open segment that has waited longest for an append, and can be written out now. */
static struct writer *writer_idle(const struct segments *ss, const struct writer *but, bool filling)
{
	for (struct list *l = ss->opens.prev; l != &ss->opens; l = l->prev) {
		struct writer *w = CONTAINER_OF(l, struct writer, in_opens);
		if (w != but && w->copiers == 0 && !w->writing && (w->buf || !filling))
			return w;
	}
	return NULL;
}

static unsigned writers_filling(const struct segments *ss)
{
	unsigned n = 0;

	for (const struct list *l = ss->opens.next; l != &ss->opens; l = l->next)
		n += CONTAINER_OF(l, struct writer, in_opens)->buf != NULL;
	return n;
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
	list_init(&w->in_opens);
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

	writer_unopen(ss, w);
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

static int segment_begin(struct segments *ss, uint64_t txg, uint32_t domain)
{
	struct writer *w = NULL;

	if (ss->next_segment > SEGMENT_ID_MAX)
		return -ENOSPC;
	struct seg *s = seg_add(ss, ss->next_segment);
	if (!s)
		return -ENOMEM;
	ss->next_segment++;
	s->flags = SEG_NEW | SEG_OPEN;
	s->created_txg = txg;
	s->domain = domain;
	const int r = writer_create(ss, s, &w);
	if (r < 0) {
		s->flags |= SEG_GONE;
		segs_compact(ss);
		return r;
	}
	writer_open(ss, w);
	return 0;
}

/* --- appending --- */

static bool frame_fits(const struct writer *w, unsigned n, size_t size)
{
	return w->slots + n <= SEGMENT_SLOTS && w->end + size <= SEGMENT_FRAMES_END_MAX;
}

static int segment_finish(struct segments *ss, struct writer *w)
{
	writer_close(ss, w);
	return w->copiers == 0 && !w->writing ? writer_flush(ss, w) : 0;
}

/* No segment of the domain is open: opens one.  0: or made room to do so. */
static int append_open(struct segments *ss, uint64_t txg, uint32_t domain)
{
	if (ss->n_opens < SEGMENT_OPENS_MAX)
		return segment_begin(ss, txg, domain);
	struct writer *w = writer_idle(ss, NULL, false);
	if (w && w->slots == 0) { /* fresh, and its first append still waits for a buffer */
		pthread_cond_wait(&ss->changed, &ss->lock);
		return 0;
	}
	if (w)
		return segment_finish(ss, w);
	pthread_cond_wait(&ss->changed, &ss->lock);
	return 0;
}

/* w takes appends and has no buffer. */
static int append_buffer(struct segments *ss, struct writer *w, uint32_t domain)
{
	if (writers_filling(ss) >= SEGMENT_FILLING_MAX) {
		struct writer *idle = writer_idle(ss, w, true);
		if (idle)
			return writer_flush(ss, idle);
		pthread_cond_wait(&ss->changed, &ss->lock);
		return 0;
	}
	struct wbuf *b = wbuf_take(ss); /* may wait: another segment may be open by then */
	if (!b)
		return -ENOMEM;
	w = writer_open_find(ss, domain);
	if (w && !w->buf && !w->writing)
		w->buf = b;
	else
		wbuf_release(ss, b);
	return 0;
}

/* One step towards an open segment that has a buffer and room: *ret_w.  1: there. */
static int append_prepare(struct segments *ss, uint64_t txg, uint32_t domain, unsigned n,
        size_t size, struct writer **ret_w)
{
	struct writer *w = writer_open_find(ss, domain);

	if (ss->failed)
		return ss->failed;
	if (!w)
		return append_open(ss, txg, domain);
	if (w->writing) { /* its room was given to another domain for now */
		pthread_cond_wait(&ss->changed, &ss->lock);
		return 0;
	}
	if (!frame_fits(w, n, size))
		return segment_finish(ss, w);
	if (!w->buf)
		return append_buffer(ss, w, domain);
	if (ss->opens.next != &w->in_opens) {
		list_del(&w->in_opens);
		list_add(&ss->opens, &w->in_opens);
	}
	*ret_w = w;
	return 1;
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

/* The frame into its place in the buffer; without the lock. */
static int append_encode(const struct frame_info *f, const struct frame_spec *spec, uint8_t *to)
{
	if (f->key_id == 0) {
		frame_encode(f, spec->payload, to);
		return 0;
	}
	const uint64_t start_ns = clock_now_ns();
	const int r = frame_encode_sealed(f, spec->crypto->frame, spec->payload, to);
	if (spec->seal_ns)
		*spec->seal_ns += clock_now_ns() - start_ns;
	return r;
}

int segments_append(
        struct segments *ss, uint64_t txg, const struct frame_spec *spec, uint64_t *ret_loc)
{
	const uint32_t domain = spec->crypto ? spec->crypto->id : 0;
	struct frame_info f = {
	        .n = spec->n,
	        .codec = spec->codec,
	        .key_id = domain,
	        .payload_len = spec->payload_len + (domain ? SEAL_OVERHEAD : 0),
	        .store = ss->store,
	        .image = spec->image,
	        .first_chunk = spec->first_chunk,
	};
	const size_t size = frame_size(f.n, f.payload_len);
	struct writer *w = NULL;
	int r;

	ASSERT(spec->n >= 1 && spec->n <= FRAME_CHUNKS_MAX && !ss->read_only);
	ASSERT(spec->payload_len >= 1 && spec->payload_len <= spec->n * CHUNK_SIZE);
	memcpy(f.hashes, spec->hashes, spec->n * sizeof(f.hashes[0]));
	pthread_mutex_lock(&ss->lock);
	do
		r = append_prepare(ss, txg, domain, spec->n, size, &w);
	while (r == 0);
	if (r < 0)
		goto out;
	ASSERT(w);
	const uint32_t off = w->end;
	uint8_t *to = w->buf->data + (off - w->base);
	f.segment = w->h->id;
	frame_slots_set(&f, w->slots);
	w->end += (uint32_t)size;
	w->slots += f.n;
	w->frame_bytes += (uint32_t)size;
	w->copiers++;
	pthread_mutex_unlock(&ss->lock);
	r = append_encode(&f, spec, to);
	pthread_mutex_lock(&ss->lock);
	if (r < 0 && !ss->failed)
		ss->failed = r; /* its room holds nothing: the group is to be given up */
	r = append_finish(ss, w, &f, off, size);
	if (r == 0)
		*ret_loc = loc_make(f.segment, f.slots[0]);
out:
	pthread_mutex_unlock(&ss->lock);
	return r;
}

/* --- writing out --- */

int segment_file_create(
        struct segments *ss, uint32_t tier, uint64_t id, uint32_t gen, struct io_file **ret_file)
{
	struct seg_dirs *d = &ss->dirs[tier];
	const unsigned hh = id & 0xff;
	char name[SEGMENT_NAME_LEN];
	int r = 0;

	pthread_mutex_lock(&ss->lock);
	const bool known = d->known[hh];
	pthread_mutex_unlock(&ss->lock);
	if (!known) {
		segment_dir_name(tier, hh, name);
		r = io_mkdir(ss->io, name);
	}
	if (r < 0)
		return r;
	/* Marked before the file is there: a sync in between does too much, never too little. */
	pthread_mutex_lock(&ss->lock);
	d->top_dirty |= !known;
	d->known[hh] = true;
	d->dirty[hh] = true;
	pthread_mutex_unlock(&ss->lock);
	segment_name(tier, id, gen, name);
	/* Not exclusive: a crash may have left a file of this name that no row ever named. */
	return io_open(ss->io, name, IO_WRITE | IO_CREATE | IO_TRUNC | IO_DIRECT, ret_file);
}

/* The file of a segment that an earlier life began; what lies past its committed length is cut. */
static int segment_file_reopen(
        struct segments *ss, const struct writer *w, struct io_file **ret_file)
{
	CLEANUP(io_closep) struct io_file *f = NULL;
	char name[SEGMENT_NAME_LEN];

	segment_name(w->h->tier, w->h->id, w->h->gen, name);
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
		r = w->create ? segment_file_create(ss, w->h->tier, w->h->id, w->h->gen, &w->file)
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

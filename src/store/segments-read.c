/*
 * segments-read.c - from locations to chunks
 *
 * A call sorts its locations, so those of one segment come together.  For each segment it takes a
 * reference to the handle and turns slots into places under the lock (the table may be
 * growing), then reads without it.  Frames that lie near each other (READ_GAP_MAX) are read by one
 * call of up to READ_SPAN_MAX; the slot table knows each frame's length, so nothing is read twice.
 * Frames that the present group has not written out yet are decoded where they are, in their
 * buffer, which is pinned meanwhile.
 *
 * Nothing goes to the caller that was not checked: a frame by its checksums and by its slots being
 * those that the table says, or, where that fails, single chunks by their own hashes.  What stays
 * undelivered is -EIO.  A frame under a seal is checked by both, and nothing of it is taken unless
 * it is authentic; one that is not sealed does not pass in a segment of a crypto domain.  Reads go past the page cache: the chunk cache above is the only one, and
 * has a limit.
 *
 * Read buffers come from two pools of fixed number (many small ones, so that a deep queue of random
 * reads is served at once, and a few large ones); a caller waits when all are in use.
 */
#include <errno.h>

#include "base/log.h"
#include "store/segment-scan.h"
#include "store/segments-priv.h"

#define READ_TRIES 8u /* a segment may be replaced while it is being looked up, not for ever */

/* --- buffers --- */

void scratch_pool_init(struct scratch_pool *p, size_t len, unsigned max)
{
	*p = (struct scratch_pool){.len = len, .max = max};
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->freed, NULL);
}

void scratch_pool_release(struct scratch_pool *p)
{
	while (p->free) {
		struct scratch *s = p->free;
		p->free = s->next;
		free(s->data);
		free(s);
	}
	pthread_mutex_destroy(&p->lock);
	pthread_cond_destroy(&p->freed);
}

static struct scratch *scratch_make(struct scratch_pool *p)
{
	struct scratch *s = malloc(sizeof(*s));

	if (!s)
		return NULL;
	s->data = aligned_alloc(IO_ALIGN, p->len + 2 * FRAME_UNPACK_BYTES);
	if (!s->data) {
		free(s);
		return NULL;
	}
	s->chunks = s->data + p->len;
	s->len = p->len;
	s->pool = p;
	return s;
}

/* NULL only when there is no memory and no other to wait for. */
struct scratch *scratch_take(struct segments *ss, size_t len)
{
	struct scratch_pool *p = len <= ss->small.len ? &ss->small : &ss->large;
	struct scratch *s = NULL;

	ASSERT(len <= p->len);
	pthread_mutex_lock(&p->lock);
	if (!p->free && p->made < p->max) {
		s = scratch_make(p);
		p->made += s != NULL;
	}
	while (!s && p->made > 0) {
		s = p->free;
		if (s)
			p->free = s->next;
		else
			pthread_cond_wait(&p->freed, &p->lock);
	}
	if (s)
		s->wipes = p->wipes;
	pthread_mutex_unlock(&p->lock);
	return s;
}

static void scratch_wipe(struct scratch *s)
{
	explicit_bzero(s->chunks, 2 * (size_t)FRAME_UNPACK_BYTES);
}

void scratch_pool_wipe(struct scratch_pool *p)
{
	pthread_mutex_lock(&p->lock);
	p->wipes++;
	for (struct scratch *s = p->free; s; s = s->next)
		scratch_wipe(s);
	pthread_mutex_unlock(&p->lock);
}

void segments_forget(struct segments *ss)
{
	scratch_pool_wipe(&ss->small);
	scratch_pool_wipe(&ss->large);
}

void scratch_give(struct scratch *s)
{
	struct scratch_pool *p = s->pool;

	pthread_mutex_lock(&p->lock);
	if (s->wipes != p->wipes)
		scratch_wipe(s);
	s->next = p->free;
	p->free = s;
	pthread_cond_signal(&p->freed);
	pthread_mutex_unlock(&p->lock);
}

/* --- loading what a handle needs --- */

int handle_load_file(struct segments *ss, struct handle *h)
{
	char name[SEGMENT_NAME_LEN];
	struct io_file *f = NULL;

	while (h->loading)
		pthread_cond_wait(&ss->changed, &ss->lock);
	if (h->file)
		return 0;
	h->loading = true;
	pthread_mutex_unlock(&ss->lock);
	segment_name(h->tier, h->id, h->gen, name);
	const int r = io_open(ss->io, name, IO_READ | IO_DIRECT, &f);
	pthread_mutex_lock(&ss->lock);
	h->loading = false;
	pthread_cond_broadcast(&ss->changed);
	if (r == 0) {
		h->file = f;
		return 0;
	}
	if (r == -ENOENT && !h->seg)
		return -EAGAIN;
	if (r != -ENXIO) /* whoever took the tier away has said so */
		log_error("cannot open segment file '%s': %s", name, strerror(-r));
	return r == -ENOMEM ? r : -EIO;
}

/* The slot table as the frames themselves tell it. */
static int table_scan(struct segments *ss, const struct handle *h, struct footer_slot *ret_table)
{
	CLEANUP(free_ptr) struct segment_contents *c = malloc(sizeof(*c));
	char name[SEGMENT_NAME_LEN];

	if (!c)
		return -ENOMEM;
	segment_name(h->tier, h->id, h->gen, name);
	const int r = segment_scan(ss->io, name, h->id, ss->store, h->bytes, NULL, NULL, c);
	if (r < 0) {
		log_error("cannot read segment file '%s': %s", name, strerror(-r));
		return r == -ENOMEM ? r : -EIO;
	}
	const unsigned lost = slots_mark_lost(c->table, h->slots);
	if (lost > 0)
		log_warn("segment file '%s': no frame for %u of %u slots", name, lost, h->slots);
	memcpy(ret_table, c->table, h->slots * sizeof(c->table[0]));
	return 0;
}

static int table_read(struct segments *ss, const struct handle *h, struct footer_slot *ret_table)
{
	const size_t len = ROUND_UP(footer_table_size(h->slots), (size_t)IO_ALIGN);
	char name[SEGMENT_NAME_LEN];

	if (!h->sealed)
		return table_scan(ss, h, ret_table);
	struct scratch *s = scratch_take(ss, len);
	if (!s)
		return -ENOMEM;
	int r = io_pread_exact(h->file, s->data, len, h->bytes);
	if (r == 0)
		r = footer_table_decode(s->data, len, h->id, h->slots, ret_table);
	scratch_give(s);
	if (r == 0)
		return 0;
	segment_name(h->tier, h->id, h->gen, name);
	log_error("slot table of segment file '%s' is damaged (%s): using its frames", name,
	        strerror(-r));
	return table_scan(ss, h, ret_table);
}

int handle_load_table(struct segments *ss, struct handle *h)
{
	while (!h->table) {
		if (h->loading) {
			pthread_cond_wait(&ss->changed, &ss->lock);
			continue;
		}
		if (h->sealed && !h->file) {
			const int r = handle_load_file(ss, h);
			if (r < 0)
				return r;
			continue;
		}
		struct footer_slot *table = calloc(MAX(h->slots, 1u), sizeof(*table));
		if (!table)
			return -ENOMEM;
		h->loading = true;
		pthread_mutex_unlock(&ss->lock);
		const int r = table_read(ss, h, table);
		pthread_mutex_lock(&ss->lock);
		h->loading = false;
		pthread_cond_broadcast(&ss->changed);
		if (r < 0) {
			free(table);
			return r;
		}
		h->table = table;
		table_account(ss, h, 1);
	}
	return 0;
}

/* --- frames --- */

bool frame_matches(const struct frame_info *f, const struct footer_slot *entry, unsigned slot)
{
	return entry->index < f->n && f->slots[entry->index] == slot;
}

uint32_t frame_salvage(const struct segments *ss, const struct handle *h, const uint8_t *data,
        size_t len, struct frame_info *ret_info, uint8_t *ret_chunks)
{
	struct frame_info f;
	size_t size = 0;
	uint32_t good = 0;

	if (h->domain != 0 || frame_decode_header(data, len, h->id, &f, &size) < 0 || size > len ||
	        f.store != ss->store)
		return 0;
	const uint8_t *payload = data + FRAME_HEADER_LEN + f.n * sizeof(struct hash128);
	if (f.key_id != 0 || frame_unpack(&f, payload, ret_chunks) < 0)
		return 0;
	const struct crypto_domain *plain = keyring_get(ss->keyring, 0);
	for (unsigned i = 0; i < f.n; i++)
		if (hash_equal(
		            chunk_hash(&plain->hasher, ret_chunks + i * CHUNK_SIZE), f.hashes[i]))
			good |= BIT(i);
	*ret_info = f;
	return good;
}

int frame_unpack_work(const struct frame_info *f, const struct crypto_domain *crypto,
        const uint8_t *payload, uint8_t *work)
{
	return frame_open(f, crypto, payload, work + FRAME_UNPACK_BYTES, work);
}

/* Reads one span of frames [i, j) and hands them out. */
static int span_read(struct segments *ss, struct io_file *file, const struct frame_ref *refs,
        unsigned i, unsigned j, frame_read_fn *fn, void *arg)
{
	const uint32_t start = refs[i].off / IO_ALIGN * IO_ALIGN;
	const uint32_t end = ROUND_UP(refs[j - 1].off + refs[j - 1].len, (uint32_t)IO_ALIGN);
	struct scratch *s = scratch_take(ss, end - start);

	if (!s)
		return -ENOMEM;
	const int err = io_pread_exact(file, s->data, end - start, start);
	int r = 0;
	if (err < 0 && j - i > 1) { /* one by one, so that a bad block hurts no neighbours */
		scratch_give(s);
		for (; r == 0 && i < j; i++)
			r = span_read(ss, file, refs, i, i + 1, fn, arg);
		return r;
	}
	for (unsigned k = i; r == 0 && k < j; k++)
		r = fn(arg, k, err < 0 ? NULL : s->data + (refs[k].off - start), err, s->chunks);
	scratch_give(s);
	return r;
}

int frames_read(struct segments *ss, struct io_file *f, const struct frame_ref *refs, unsigned n,
        frame_read_fn *fn, void *arg)
{
	int r = 0;

	for (unsigned i = 0, j; r == 0 && i < n; i = j) {
		const uint32_t start = refs[i].off / IO_ALIGN * IO_ALIGN;
		uint32_t end = refs[i].off + refs[i].len;
		for (j = i + 1; j < n && refs[j].off <= end + READ_GAP_MAX; j++) {
			const uint32_t to = refs[j].off + refs[j].len;
			if (ROUND_UP(to, (uint32_t)IO_ALIGN) - start > READ_SPAN_MAX)
				break;
			end = MAX(end, to);
		}
		r = span_read(ss, f, refs, i, j, fn, arg);
	}
	return r;
}

/* --- reading --- */

struct ask {
	uint32_t off; /* of its frame */
	uint16_t slot;
	struct footer_slot entry;
};

/* What is read of one segment in one go. */
struct segment_read {
	struct segments *ss;
	struct handle *h;
	const struct crypto_domain *crypto; /* of the segment; referenced; NULL: locked */
	segments_frame_fn *fn;
	segments_packed_fn *packed; /* instead of fn */
	void *arg;
	struct ask asks[READ_BATCH]; /* sorted by off */
	unsigned n_asks;
	struct frame_ref refs[READ_BATCH];
	uint16_t first[READ_BATCH + 1]; /* index of a frame's first ask; one more at the end */
	unsigned n_refs, n_filed; /* frames in all; of them in the file, the rest is buffered */
	int err;                  /* the first */
};

static void read_failed(struct segment_read *rd, int err)
{
	rd->err = rd->err ? rd->err : err;
}

static void damage_log(struct segment_read *rd, const struct ask *a, int err)
{
	struct handle *h = rd->h;
	char name[SEGMENT_NAME_LEN];

	pthread_mutex_lock(&rd->ss->lock);
	const bool again = h->logged_pos == a->off + 1;
	h->logged_pos = a->off + 1;
	pthread_mutex_unlock(&rd->ss->lock);
	if (again)
		return;
	segment_name(h->tier, h->id, h->gen, name);
	if (a->entry.frame_pos == 0)
		log_error("segment %llu slot %u was lost to damage in file '%s'",
		        (unsigned long long)h->id, a->slot, name);
	else
		log_error("damaged frame: segment %llu slot %u, file '%s' offset %u: %s",
		        (unsigned long long)h->id, a->slot, name, a->off, strerror(-err));
}

/* fn wants chunks that follow each other; after a rewrite a frame may have gaps. */
static void frame_deliver(
        struct segment_read *rd, const struct frame_info *f, const uint8_t *chunks)
{
	for (unsigned i = 0, j; i < f->n; i = j) {
		for (j = i + 1; j < f->n && f->slots[j] == f->slots[j - 1] + 1;)
			j++;
		rd->fn(rd->arg, loc_make(rd->h->id, f->slots[i]), j - i, chunks + i * CHUNK_SIZE,
		        f->hashes + i);
	}
}

static int frame_deliver_packed(
        struct segment_read *rd, const struct frame_info *f, const uint8_t *payload, uint8_t *work)
{
	struct frame_info open = *f;

	if (f->key_id != 0) {
		const int r = frame_unseal(f, rd->crypto, payload, work);
		if (r < 0)
			return r;
		open.key_id = 0;
		open.payload_len -= SEAL_OVERHEAD;
		payload = work;
	}
	rd->packed(rd->arg, &open, payload);
	return 0;
}

/* One chunk of a frame that is damaged elsewhere. */
static void chunk_deliver(
        struct segment_read *rd, const struct frame_info *f, unsigned index, const uint8_t *chunk)
{
	const struct frame_info one = {
	        .n = 1,
	        .codec = CODEC_RAW,
	        .payload_len = CHUNK_SIZE,
	        .segment = f->segment,
	        .slots = {f->slots[index]},
	        .hashes = {f->hashes[index]},
	};

	if (rd->packed)
		rd->packed(rd->arg, &one, chunk);
	else
		rd->fn(rd->arg, loc_make(rd->h->id, f->slots[index]), 1, chunk, one.hashes);
}

static void frame_deliver_salvaged(
        struct segment_read *rd, unsigned i, const uint8_t *data, uint8_t *chunks)
{
	struct frame_info f = {0};
	const struct frame_ref *ref = &rd->refs[i];
	uint32_t good = frame_salvage(rd->ss, rd->h, data, ref->len, &f, chunks);

	for (unsigned k = rd->first[i]; k < rd->first[i + 1]; k++) {
		const struct ask *a = &rd->asks[k];
		if (good & BIT(a->entry.index) && frame_matches(&f, &a->entry, a->slot))
			chunk_deliver(rd, &f, a->entry.index, chunks + a->entry.index * CHUNK_SIZE);
		else
			read_failed(rd, -EUCLEAN);
	}
}

/* 0 when the frame is whole and is the one that its asks mean. */
static int frame_check(struct segment_read *rd, unsigned i, const uint8_t *data,
        struct frame_info *ret_info, const uint8_t **ret_payload)
{
	const struct frame_ref *ref = &rd->refs[i];
	size_t size = 0;
	const int r = frame_decode(data, ref->len, rd->h->id, ret_info, ret_payload, &size);

	if (r < 0)
		return r == -ENODATA ? -EUCLEAN : r;
	if (size != ref->len || ret_info->store != rd->ss->store ||
	        ret_info->key_id != rd->h->domain)
		return -EUCLEAN;
	for (unsigned k = rd->first[i]; k < rd->first[i + 1]; k++)
		if (!frame_matches(ret_info, &rd->asks[k].entry, rd->asks[k].slot))
			return -EUCLEAN;
	return 0;
}

/* Nothing was delivered if it fails. */
static int frame_deliver_checked(
        struct segment_read *rd, const struct frame_info *f, const uint8_t *payload, uint8_t *work)
{
	if (rd->packed)
		return frame_deliver_packed(rd, f, payload, work);
	if (f->codec == CODEC_RAW && f->key_id == 0) {
		frame_deliver(rd, f, payload);
		return 0;
	}
	const int r = frame_unpack_work(f, rd->crypto, payload, work);
	if (r == 0)
		frame_deliver(rd, f, work);
	return r;
}

static int frame_arrived(void *arg, unsigned i, const uint8_t *data, int err, uint8_t *chunks)
{
	struct segment_read *rd = arg;
	struct frame_info f = {0};
	const uint8_t *payload = NULL;
	int r = data ? frame_check(rd, i, data, &f, &payload) : err;

	if (r == 0)
		r = frame_deliver_checked(rd, &f, payload, chunks);
	if (r == 0)
		return 0;
	if (r == -ENOKEY || r == -ENOMEM) {
		read_failed(rd, r);
		return 0;
	}
	damage_log(rd, &rd->asks[rd->first[i]], r);
	if (r == -EUCLEAN)
		frame_deliver_salvaged(rd, i, data, chunks);
	else
		read_failed(rd, r == -EOPNOTSUPP ? r : r == -ENODATA ? -EUCLEAN : -EIO);
	return 0;
}

static int ask_compare(const void *a, const void *b)
{
	const struct ask *x = a, *y = b;

	if (x->off != y->off)
		return x->off < y->off ? -1 : 1;
	return (int)x->slot - (int)y->slot;
}

/* With the lock and the table: which frames the locations are in. */
static void asks_fill(struct segment_read *rd, const uint64_t *locs, unsigned n)
{
	const struct handle *h = rd->h;
	const unsigned slots = h->w && !h->w->done ? h->w->slots : h->slots;

	rd->n_asks = 0;
	for (unsigned i = 0; i < n; i++) {
		const unsigned slot = loc_slot(locs[i]);
		if (slot >= slots || !(h->table[slot].flags & SLOT_PRESENT)) {
			read_failed(rd, -ESTALE);
			continue;
		}
		rd->asks[rd->n_asks++] = (struct ask){
		        .off = h->table[slot].frame_pos * FRAME_ALIGN,
		        .slot = (uint16_t)slot,
		        .entry = h->table[slot],
		};
	}
}

/* Lost slots are answered; the others become a list of frames, those below `base` in the file. */
static void refs_fill(struct segment_read *rd, uint32_t base)
{
	unsigned lost = 0;

	qsort(rd->asks, rd->n_asks, sizeof(rd->asks[0]), ask_compare);
	while (lost < rd->n_asks && rd->asks[lost].off == 0) {
		damage_log(rd, &rd->asks[lost++], -EUCLEAN);
		read_failed(rd, -EUCLEAN);
	}
	rd->n_refs = rd->n_filed = 0;
	for (unsigned i = lost; i < rd->n_asks; i++) {
		const struct ask *a = &rd->asks[i];
		if (rd->n_refs > 0 && rd->refs[rd->n_refs - 1].off == a->off)
			continue;
		rd->first[rd->n_refs] = (uint16_t)i;
		rd->refs[rd->n_refs++] = (struct frame_ref){
		        .off = a->off,
		        .len = a->entry.frame_units * FRAME_ALIGN,
		};
		rd->n_filed += a->off < base;
	}
	rd->first[rd->n_refs] = (uint16_t)rd->n_asks;
}

static int buffered_read(struct segment_read *rd, const uint8_t *data, uint32_t base)
{
	if (rd->n_filed == rd->n_refs)
		return 0;
	struct scratch *s = scratch_take(rd->ss, SCRATCH_SMALL);
	int r = s ? 0 : -ENOMEM;
	for (unsigned i = rd->n_filed; r == 0 && i < rd->n_refs; i++)
		r = frame_arrived(rd, i, data + (rd->refs[i].off - base), 0, s->chunks);
	if (s)
		scratch_give(s);
	return r;
}

/* With the lock (given up meanwhile), the table loaded and h referenced. */
static int handle_read(struct segment_read *rd, const uint64_t *locs, unsigned n)
{
	struct segments *ss = rd->ss;
	const struct writer *w = rd->h->w;
	struct wbuf *b = w ? w->buf : NULL;
	const uint32_t base = b ? w->base : UINT32_MAX;

	if (b)
		b->pins++;
	asks_fill(rd, locs, n);
	pthread_mutex_unlock(&ss->lock);
	refs_fill(rd, base);
	int r = b ? buffered_read(rd, b->data, base) : 0;
	pthread_mutex_lock(&ss->lock);
	if (b && --b->pins == 0)
		pthread_cond_broadcast(&ss->changed);
	if (r < 0 || rd->n_filed == 0)
		return r;
	r = handle_load_file(ss, rd->h);
	if (r < 0)
		return r;
	pthread_mutex_unlock(&ss->lock);
	r = frames_read(ss, rd->h->file, rd->refs, rd->n_filed, frame_arrived, rd);
	pthread_mutex_lock(&ss->lock);
	return r;
}

/* A handle of the copy, for one reading; it is in no list.  NULL: out of memory.  With the lock. */
static struct handle *copy_handle_new(const struct seg *s)
{
	struct handle *h = calloc(1, sizeof(*h));

	if (!h)
		return NULL;
	*h = (struct handle){.id = s->id,
	        .domain = s->domain,
	        .tier = s->copy_tier,
	        .gen = s->copy_gen,
	        .bytes = s->bytes,
	        .slots = s->slots,
	        .sealed = true};
	list_init(&h->by_file);
	list_init(&h->by_table);
	return h;
}

static void copy_handle_free(struct segments *ss, struct handle *h)
{
	handle_drop_table(ss, h);
	pthread_mutex_unlock(&ss->lock);
	io_close(h->file);
	pthread_mutex_lock(&ss->lock);
	free(h);
}

/* The locations again, from the copy, if there is one; err: what reading the first file gave. */
static int copy_read(struct segment_read *rd, const uint64_t *locs, unsigned n, int err)
{
	struct segments *ss = rd->ss;
	int r = err;

	pthread_mutex_lock(&ss->lock);
	const struct seg *s = seg_find(ss, loc_segment(locs[0]));
	const bool has = s && !(s->flags & SEG_DROP) && s->copy_tier != SEG_NO_COPY;
	rd->h = has ? copy_handle_new(s) : NULL;
	if (rd->h) {
		rd->err = 0;
		rd->crypto = keyring_get(ss->keyring, s->domain);
		r = handle_load_table(ss, rd->h);
		if (r == 0)
			r = handle_read(rd, locs, n);
		if (r == 0)
			r = rd->err;
		keyring_put(ss->keyring, rd->crypto);
		copy_handle_free(ss, rd->h);
		ss->copies_read++;
	}
	pthread_mutex_unlock(&ss->lock);
	return r == 0 ? 0 : err;
}

/* n locations of one segment. */
static int file_read(struct segment_read *rd, const uint64_t *locs, unsigned n)
{
	struct segments *ss = rd->ss;
	int r = -EAGAIN;

	pthread_mutex_lock(&ss->lock);
	for (unsigned i = 0; r == -EAGAIN && i < READ_TRIES; i++) {
		struct seg *s = seg_find(ss, loc_segment(locs[0]));
		if (!s || s->flags & SEG_DROP) {
			r = -ESTALE;
			break;
		}
		rd->h = handle_get(ss, s);
		if (!rd->h) {
			r = -ENOMEM;
			break;
		}
		rd->err = 0;
		rd->crypto = keyring_get(ss->keyring, s->domain);
		r = handle_load_table(ss, rd->h);
		if (r == 0)
			r = handle_read(rd, locs, n);
		keyring_put(ss->keyring, rd->crypto);
		handle_put(ss, rd->h);
	}
	pthread_mutex_unlock(&ss->lock);
	if (r == 0)
		r = rd->err;
	return r == -EAGAIN ? -EIO : r;
}

static int segment_read(struct segment_read *rd, const uint64_t *locs, unsigned n)
{
	const int r = file_read(rd, locs, n);

	return r == -EIO || r == -EUCLEAN ? copy_read(rd, locs, n, r) : r;
}

static int loc_compare(const void *a, const void *b)
{
	const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static bool locs_are_sorted(const uint64_t *locs, unsigned n)
{
	for (unsigned i = 1; i < n; i++)
		if (locs[i] < locs[i - 1])
			return false;
	return true;
}

static int locs_read(struct segment_read *rd, const uint64_t *locs, unsigned n)
{
	uint64_t sorted[READ_BATCH];
	int ret = 0;

	for (unsigned done = 0; done < n; done += READ_BATCH) {
		const unsigned batch = MIN(n - done, READ_BATCH);
		memcpy(sorted, locs + done, batch * sizeof(sorted[0]));
		if (!locs_are_sorted(sorted, batch))
			qsort(sorted, batch, sizeof(sorted[0]), loc_compare);
		for (unsigned i = 0, j; i < batch; i = j) {
			for (j = i + 1;
			        j < batch && loc_segment(sorted[j]) == loc_segment(sorted[i]);)
				j++;
			const int r = segment_read(rd, sorted + i, j - i);
			ret = ret ? ret : r;
		}
	}
	return ret;
}

int segments_read(
        struct segments *ss, const uint64_t *locs, unsigned n, segments_frame_fn *fn, void *arg)
{
	struct segment_read rd = {.ss = ss, .fn = fn, .arg = arg};

	return locs_read(&rd, locs, n);
}

int segments_read_packed(
        struct segments *ss, const uint64_t *locs, unsigned n, segments_packed_fn *fn, void *arg)
{
	struct segment_read rd = {.ss = ss, .packed = fn, .arg = arg};

	return locs_read(&rd, locs, n);
}

/* --- hashes --- */

/* From the footer, whole; its table part is known to handles already. */
static int hashes_read(
        struct segments *ss, const struct handle *h, struct hash128 ret_hashes[SEGMENT_SLOTS])
{
	struct footer_slot table[SEGMENT_SLOTS];
	const size_t len = footer_size(h->slots);
	unsigned slots = 0;

	if (!h->sealed)
		return -EUCLEAN;
	struct scratch *s = scratch_take(ss, len);
	if (!s)
		return -ENOMEM;
	int r = io_pread_exact(h->file, s->data, len, h->bytes);
	if (r == 0)
		r = footer_decode(s->data, len, h->id, &slots, table, ret_hashes);
	scratch_give(s);
	return r < 0 || slots == h->slots ? r : -EUCLEAN;
}

/* From the frames; without the hashes of slots that the table says are dead. */
static int hashes_scan(
        struct segments *ss, const struct handle *h, struct hash128 ret_hashes[SEGMENT_SLOTS])
{
	CLEANUP(free_ptr) struct segment_contents *c = malloc(sizeof(*c));
	char name[SEGMENT_NAME_LEN];

	if (!c)
		return -ENOMEM;
	segment_name(h->tier, h->id, h->gen, name);
	if (h->sealed)
		log_error("footer of segment file '%s' is damaged: using its frames", name);
	const int r = segment_scan(ss->io, name, h->id, ss->store, h->bytes, NULL, NULL, c);
	if (r < 0)
		return r == -ENOMEM ? r : -EIO;
	for (unsigned i = 0; i < h->slots; i++)
		ret_hashes[i] =
		        h->table[i].flags & SLOT_PRESENT ? c->hashes[i] : (struct hash128){0};
	return 0;
}

int handle_hashes(struct segments *ss, struct handle *h, struct hash128 ret_hashes[SEGMENT_SLOTS],
        unsigned *ret_n)
{
	int r = 0;

	pthread_mutex_lock(&ss->lock);
	const struct writer *w = h->w && !h->w->done ? h->w : NULL;
	if (w) {
		*ret_n = w->slots;
		memcpy(ret_hashes, w->hashes, w->slots * sizeof(ret_hashes[0]));
	} else {
		r = handle_load_table(ss, h);
		if (r == 0)
			r = handle_load_file(ss, h);
	}
	pthread_mutex_unlock(&ss->lock);
	if (r < 0 || w)
		return r;
	r = hashes_read(ss, h, ret_hashes);
	if (r < 0)
		r = hashes_scan(ss, h, ret_hashes);
	if (r == 0)
		*ret_n = h->slots;
	return r;
}

/* Those that say nothing of the content: who looks for chunks by them must not see them. */
static void hashes_forget_random(const struct handle *h, struct hash128 *hashes, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (domain_hash_is_random(h->domain, hashes[i]))
			hashes[i] = (struct hash128){0};
}

int segments_hashes(
        struct segments *ss, uint64_t segment, struct hash128 *ret_hashes, unsigned *ret_n)
{
	int r = -EAGAIN;

	pthread_mutex_lock(&ss->lock);
	for (unsigned i = 0; r == -EAGAIN && i < READ_TRIES; i++) {
		struct seg *s = seg_find(ss, segment);
		struct handle *h = s && !(s->flags & SEG_DROP) ? handle_get(ss, s) : NULL;
		if (!h) {
			r = s && !(s->flags & SEG_DROP) ? -ENOMEM : -ESTALE;
			break;
		}
		pthread_mutex_unlock(&ss->lock);
		r = handle_hashes(ss, h, ret_hashes, ret_n);
		if (r == 0)
			hashes_forget_random(h, ret_hashes, *ret_n);
		pthread_mutex_lock(&ss->lock);
		handle_put(ss, h);
	}
	pthread_mutex_unlock(&ss->lock);
	return r == -EAGAIN ? -EIO : r;
}

/* With the lock: decided without the slot table?  1 yes, 0 no, -EAGAIN: it takes the table. */
static int present_by_row(const struct seg *s, unsigned slot)
{
	if (!s || s->flags & SEG_DROP)
		return 0;
	if (s->gen > 0)
		return -EAGAIN;
	if (!s->handle)
		return slot < s->slots;
	const struct handle *h = s->handle;
	return slot < (h->w && !h->w->done ? h->w->slots : h->slots);
}

bool segments_present(struct segments *ss, uint64_t loc, uint32_t domain)
{
	const unsigned slot = loc_slot(loc);

	pthread_mutex_lock(&ss->lock);
	const struct seg *now = seg_find(ss, loc_segment(loc));
	int r = now && now->domain == domain ? present_by_row(now, slot) : 0;
	for (unsigned i = 0; r == -EAGAIN && i < READ_TRIES; i++) {
		struct seg *s = seg_find(ss, loc_segment(loc));
		struct handle *h = s && !(s->flags & SEG_DROP) ? handle_get(ss, s) : NULL;
		if (!h)
			break;
		r = handle_load_table(ss, h);
		if (r == 0)
			r = slot < h->slots && h->table[slot].flags & SLOT_PRESENT;
		handle_put(ss, h);
	}
	pthread_mutex_unlock(&ss->lock);
	return r == 1;
}

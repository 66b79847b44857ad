/*
 * segments-rewrite.c - the next generation of a segment: only what lives, and healed
 *
 * A rewrite reads the frames that hold live slots in file order, and builds the new file in one
 * buffer:
 *
 *	frame                                    what becomes of it
 *	whole, all its chunks live               copied byte for byte, after its check
 *	whole, some live                         those recompressed (and sealed again) into one frame
 *	                                         that lists their slots; or copied, where that would
 *	                                         not be smaller, or takes a key that is not there
 *	damaged, each live chunk good by its own hash or healed
 *	                                         those in a new frame
 *	damaged, others too                      the good ones in a new frame, and the damaged bytes
 *	                                         as they are for the rest, so that it stays -EIO
 *	unreadable                               the same if all its live chunks are healed, else
 *	                                         the rewrite fails with -EIO: a later read may succeed
 *
 * No step makes a frame larger than it was, but for healing; that is left out where the new file
 * would not have the room.  So a generation always fits.
 *
 * Wiping (segments_wipe_begin) is to leave no byte of a dead chunk.  Then a partly live frame is never
 * copied: it is compressed as hard as can be, and may take the room there is; the rewrite fails where
 * there is none, or no key.  And of a damaged frame with dead chunks what is not good becomes lost.
 *
 * The new file is written, synced, and its name is synced before segments_rewrite() returns; then
 * the handle carries a `pend` that segments_txg_write() puts into the row.  Until that commit the
 * old file is the only one that counts.  A crash leaves the new one as an orphan.  Readers keep
 * the handle of the generation that they began with.
 *
 * Threads: the collector's, and for stuck segments the txg thread; h->rewriting keeps them apart.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "store/segments-priv.h"

struct rewrite {
	struct segments *ss;
	struct handle *h;                   /* referenced */
	uint32_t gen;                       /* of the new file */
	const struct crypto_domain *crypto; /* of the segment; referenced; NULL: locked */
	struct heal *heals;
	unsigned n_heals;
	bool wipe;                   /* no byte of a dead chunk may stay */
	struct frame_packer *packer; /* for wiping */
	uint8_t *out;                /* the new file */
	uint32_t end;                /* of what is in it */
	uint32_t left; /* bytes of source frames still to come, which must fit as well */
	uint32_t live_bytes;
	unsigned live_chunks;
	struct slot_bits live; /* of those PRESENT */
	struct footer_slot old[SEGMENT_SLOTS];
	struct footer_slot table[SEGMENT_SLOTS]; /* new */
	struct hash128 hashes[SEGMENT_SLOTS];    /* of the old generation */
	uint16_t order[SEGMENT_SLOTS];           /* live slots by place */
	unsigned n_order;
	struct frame_ref refs[SEGMENT_SLOTS];
	uint16_t first[SEGMENT_SLOTS + 1]; /* in order[], of each frame */
	unsigned n_refs;
	uint8_t chunks[FRAME_CHUNKS_MAX * CHUNK_SIZE]; /* of a frame being built */
	uint8_t packed[FRAME_CHUNKS_MAX * CHUNK_SIZE];
};

#define WIPE_LEVEL 12u /* of LZ4HC */

/* A frame being built from single chunks. */
struct build {
	struct frame_info f;
	struct heal *heals[FRAME_CHUNKS_MAX]; /* what of it was healed, or NULL */
};

static bool bit_get(const struct slot_bits *b, unsigned slot)
{
	return b->words[slot / 64] >> slot % 64 & 1;
}

static void entry_set(struct rewrite *rw, unsigned slot, unsigned index, uint32_t off, size_t size)
{
	rw->table[slot] = (struct footer_slot){
	        .frame_pos = (off / FRAME_ALIGN) & 0xffff,
	        .frame_units = (size / FRAME_ALIGN) & 0x7ff,
	        .index = index & 0xf,
	        .flags = SLOT_PRESENT,
	};
	rw->live_chunks++;
}

/* Copies the bytes of source frame i; the live slots in `which` (bit k: its k-th live one) go
 * there. */
static void frame_copy(struct rewrite *rw, unsigned i, const uint8_t *data, uint32_t which)
{
	const struct frame_ref *ref = &rw->refs[i];

	memcpy(rw->out + rw->end, data, ref->len);
	for (unsigned k = rw->first[i]; k < rw->first[i + 1]; k++)
		if (which & BIT(k - rw->first[i]))
			entry_set(rw, rw->order[k], rw->old[rw->order[k]].index, rw->end, ref->len);
	rw->end += ref->len;
	rw->live_bytes += ref->len;
}

static void build_begin(struct rewrite *rw, struct build *b, uint64_t image, uint64_t first_chunk)
{
	*b = (struct build){
	        .f = {.key_id = rw->h->domain,
	                .store = rw->ss->store,
	                .segment = rw->h->id,
	                .image = image,
	                .first_chunk = first_chunk},
	};
}

/* The chunk goes into rw->chunks; slots come in ascending order. */
static void build_add(struct rewrite *rw, struct build *b, unsigned slot, const void *chunk)
{
	memcpy(rw->chunks + b->f.n * CHUNK_SIZE, chunk, CHUNK_SIZE);
	b->f.slots[b->f.n] = (uint16_t)slot;
	b->f.hashes[b->f.n++] = rw->hashes[slot];
}

static void build_heal(struct rewrite *rw, struct build *b, unsigned slot, struct heal *heal)
{
	b->heals[b->f.n] = heal;
	build_add(rw, b, slot, heal->data);
}

/* Compresses what was added; returns how large the frame is. */
static size_t build_pack(struct rewrite *rw, struct build *b)
{
	struct frame_info *f = &b->f;

	if (rw->wipe)
		f->codec = frame_pack_hard(
		        rw->packer, WIPE_LEVEL, rw->chunks, f->n, rw->packed, &f->payload_len);
	else
		f->codec = frame_pack(rw->chunks, f->n, rw->packed, &f->payload_len);
	f->payload_len += f->key_id ? SEAL_OVERHEAD : 0;
	return frame_size(f->n, f->payload_len);
}

/* Writes the frame if it takes len_max bytes at most; says whether it did. */
static bool build_end(struct rewrite *rw, struct build *b, size_t len_max)
{
	struct frame_info *f = &b->f;
	uint8_t *to = rw->out + rw->end;
	const size_t size = build_pack(rw, b);
	const uint8_t *payload = f->codec == CODEC_RAW ? rw->chunks : rw->packed;

	if (size > len_max || (f->key_id && !rw->crypto))
		return false;
	if (f->key_id == 0)
		frame_encode(f, payload, to);
	else if (frame_encode_sealed(f, rw->crypto->frame, payload, to) < 0)
		return false;
	for (unsigned i = 0; i < f->n; i++)
		entry_set(rw, f->slots[i], i, rw->end, size);
	for (unsigned i = 0; i < f->n; i++)
		if (b->heals[i])
			b->heals[i]->used = true;
	rw->end += (uint32_t)size;
	rw->live_bytes += (uint32_t)size;
	return true;
}

/* By place in the file, then by number. */
static int order_compare(const void *a, const void *b, void *arg)
{
	const struct rewrite *rw = arg;
	const unsigned x = *(const uint16_t *)a, y = *(const uint16_t *)b;

	if (rw->old[x].frame_pos != rw->old[y].frame_pos)
		return rw->old[x].frame_pos < rw->old[y].frame_pos ? -1 : 1;
	return (int)x - (int)y;
}

static bool frame_is_meant(const struct rewrite *rw, unsigned i, const struct frame_info *f)
{
	for (unsigned k = rw->first[i]; k < rw->first[i + 1]; k++)
		if (!frame_matches(f, &rw->old[rw->order[k]], rw->order[k]))
			return false;
	return f->store == rw->ss->store && f->key_id == rw->h->domain;
}

static uint32_t room_left(const struct rewrite *rw)
{
	return SEGMENT_FRAMES_END_MAX - rw->end - rw->left;
}

/* Gives up the live slots in `which` of damaged frame i: its bytes may be dead chunks'. */
static void slots_lose(struct rewrite *rw, unsigned i, uint32_t which)
{
	for (unsigned k = rw->first[i]; k < rw->first[i + 1]; k++)
		if (which & BIT(k - rw->first[i]))
			rw->table[rw->order[k]] = (struct footer_slot){.flags = SLOT_PRESENT};
}

/* Not all slots of a damaged frame live, or there is no telling: then its bytes may not stay. */
static bool frame_must_go(const struct rewrite *rw, unsigned i, const uint8_t *data)
{
	struct frame_info f = {0};
	size_t size = 0;

	if (!rw->wipe || !data)
		return rw->wipe;
	return frame_decode_header(data, rw->refs[i].len, rw->h->id, &f, &size) < 0 ||
	       f.n != (unsigned)(rw->first[i + 1] - rw->first[i]);
}

/* A partly live frame that could not be built anew. */
static int frame_keep(struct rewrite *rw, unsigned i, const uint8_t *data, int err)
{
	if (!rw->wipe)
		frame_copy(rw, i, data, ~0u);
	else if (err == -EUCLEAN)
		slots_lose(rw, i, ~0u);
	else
		return err;
	return 0;
}

static int frame_whole(struct rewrite *rw, unsigned i, const uint8_t *data,
        const struct frame_info *f, const uint8_t *payload, uint8_t *chunks)
{
	const unsigned n = rw->first[i + 1] - rw->first[i];
	struct build b;

	if (n == f->n) {
		frame_copy(rw, i, data, ~0u);
		return 0;
	}
	const int r = frame_unpack_work(f, rw->crypto, payload, chunks);
	if (r < 0)
		return frame_keep(rw, i, data, r);
	build_begin(rw, &b, f->image, f->first_chunk);
	for (unsigned k = rw->first[i]; k < rw->first[i + 1]; k++) {
		const unsigned slot = rw->order[k];
		build_add(rw, &b, slot, chunks + rw->old[slot].index * CHUNK_SIZE);
	}
	/* The hashes in the frame are under its checksum, those of the footer may have been lost.
	 */
	for (unsigned k = 0; k < b.f.n; k++)
		b.f.hashes[k] = f->hashes[rw->old[b.f.slots[k]].index];
	/* What was kept for this frame is its room, too. */
	if (!build_end(rw, &b, rw->wipe ? room_left(rw) : rw->refs[i].len - 1))
		return frame_keep(rw, i, data, -ENOSPC);
	return 0;
}

/* Content for a slot: from a heal that has the recorded hash, or NULL. */
static struct heal *heal_find(const struct rewrite *rw, unsigned slot)
{
	const struct hash128 none = {0};

	if (hash_equal(rw->hashes[slot], none) || !rw->crypto)
		return NULL; /* not known what it was, or no telling */
	for (unsigned i = 0; i < rw->n_heals; i++) {
		struct heal *heal = &rw->heals[i];
		struct hash128 hash;
		if (heal->loc == loc_make(rw->h->id, slot) &&
		        domain_hash(rw->crypto, heal->data, &hash) == 0 &&
		        hash_equal(hash, rw->hashes[slot]))
			return heal;
	}
	return NULL;
}

/* data is NULL when the frame could not be read. */
static int frame_damaged(struct rewrite *rw, unsigned i, const uint8_t *data, uint8_t *chunks)
{
	struct frame_info f = {0};
	const uint32_t good =
	        data ? frame_salvage(rw->ss, rw->h, data, rw->refs[i].len, &f, chunks) : 0;
	uint32_t bad = 0;
	struct build b;

	build_begin(rw, &b, f.image, f.first_chunk);
	for (unsigned k = rw->first[i]; k < rw->first[i + 1]; k++) {
		const unsigned slot = rw->order[k], index = rw->old[slot].index;
		const bool fits = b.f.n == 0 || slot - b.f.slots[0] < FRAME_SPAN_SLOTS;
		const bool room = b.f.n < FRAME_CHUNKS_MAX;
		struct heal *heal = heal_find(rw, slot);
		const bool salvaged = good & BIT(index) && frame_matches(&f, &rw->old[slot], slot);
		if (salvaged)
			rw->hashes[slot] = f.hashes[index];
		if (salvaged && fits && room)
			build_add(rw, &b, slot, chunks + index * CHUNK_SIZE);
		else if (heal && fits && room)
			build_heal(rw, &b, slot, heal);
		else
			bad |= BIT(k - rw->first[i]);
	}
	if (bad && !data)
		return -EIO;
	const bool lose = frame_must_go(rw, i, data);
	const uint32_t kept = bad && !lose ? rw->refs[i].len : 0;
	const uint32_t room = room_left(rw);
	if (b.f.n > 0 && !build_end(rw, &b, room - MIN(room, kept))) {
		if (!data || lose)
			return -EIO;
		bad = ~0u; /* no room to heal; stays as it is */
	}
	if (bad && lose)
		slots_lose(rw, i, bad);
	else if (bad)
		frame_copy(rw, i, data, bad);
	return 0;
}

static int frame_rewrite(void *arg, unsigned i, const uint8_t *data, int err, uint8_t *chunks)
{
	struct rewrite *rw = arg;
	const struct frame_ref *ref = &rw->refs[i];
	struct frame_info f;
	const uint8_t *payload = NULL;
	size_t size = 0;

	rw->left -= ref->len;
	if (data && frame_decode(data, ref->len, rw->h->id, &f, &payload, &size) == 0 &&
	        size == ref->len && frame_is_meant(rw, i, &f))
		return frame_whole(rw, i, data, &f, payload, chunks);
	return frame_damaged(rw, i, data, chunks);
}

/* Slots without a frame: healed one by one, else they stay lost. */
static void lost_rewrite(struct rewrite *rw, unsigned slot)
{
	struct heal *heal = heal_find(rw, slot);
	struct build b;

	rw->table[slot] = rw->old[slot];
	if (!heal)
		return;
	build_begin(rw, &b, 0, 0);
	build_heal(rw, &b, slot, heal);
	if (!build_end(rw, &b, room_left(rw)))
		rw->table[slot] = rw->old[slot];
}

/* Which slots live, and in which frames of the old file. */
static int frames_plan(struct rewrite *rw)
{
	for (unsigned slot = 0; slot < rw->h->slots; slot++) {
		if (!(rw->old[slot].flags & SLOT_PRESENT) || !bit_get(&rw->live, slot))
			rw->hashes[slot] = (struct hash128){0};
		else if (rw->old[slot].frame_pos != 0)
			rw->order[rw->n_order++] = (uint16_t)slot;
	}
	qsort_r(rw->order, rw->n_order, sizeof(rw->order[0]), order_compare, rw);
	for (unsigned k = 0; k < rw->n_order; k++) {
		const struct footer_slot *e = &rw->old[rw->order[k]];
		const uint32_t off = e->frame_pos * FRAME_ALIGN;
		const struct frame_ref *last = rw->n_refs > 0 ? &rw->refs[rw->n_refs - 1] : NULL;
		if (last && last->off == off) {
			if (k - rw->first[rw->n_refs - 1] >= FRAME_CHUNKS_MAX)
				return -EIO; /* not a table that we wrote */
			continue;
		}
		if (last && last->off + last->len > off)
			return -EIO; /* overlapping frames might not fit */
		rw->first[rw->n_refs] = (uint16_t)k;
		rw->refs[rw->n_refs++] =
		        (struct frame_ref){.off = off, .len = e->frame_units * FRAME_ALIGN};
		rw->left += e->frame_units * FRAME_ALIGN;
	}
	rw->first[rw->n_refs] = (uint16_t)rw->n_order;
	return 0;
}

/* Everything that is read of the old generation before its frames. */
static int source_load(struct rewrite *rw)
{
	struct segments *ss = rw->ss;
	unsigned n = 0;
	int r = handle_hashes(ss, rw->h, rw->hashes, &n);

	if (r < 0)
		return r;
	pthread_mutex_lock(&ss->lock);
	r = handle_load_table(ss, rw->h);
	if (r == 0)
		r = handle_load_file(ss, rw->h);
	if (r == 0)
		memcpy(rw->old, rw->h->table, rw->h->slots * sizeof(rw->old[0]));
	pthread_mutex_unlock(&ss->lock);
	return r;
}

static void header_put(const struct rewrite *rw)
{
	const struct seg *s = rw->h->seg; /* these fields of a row never change */
	struct segment_header hd = {
	        .id = rw->h->id,
	        .gen = rw->gen,
	        .domain = s->domain,
	        .created_txg = s->created_txg,
	};

	memcpy(hd.uuid, rw->ss->uuid, sizeof(hd.uuid));
	segment_header_encode(&hd, rw->out);
}

static int file_write(struct rewrite *rw, size_t len)
{
	struct segments *ss = rw->ss;
	CLEANUP(io_closep) struct io_file *f = NULL;
	char dir[SEGMENT_NAME_LEN];

	int r = segment_file_create(ss, rw->h->tier, rw->h->id, rw->gen, &f);
	if (r == 0)
		r = io_pwrite(f, rw->out, len, 0);
	if (r == 0)
		r = io_sync(f);
	segment_dir_name(rw->h->tier, rw->h->id & 0xff, dir);
	if (r == 0)
		r = io_sync_dir(ss->io, dir);
	if (r < 0) {
		log_error("cannot write generation %u of segment %llu: %s", rw->gen,
		        (unsigned long long)rw->h->id, strerror(-r));
		unlink_quietly(ss, rw->h->tier, rw->h->id, rw->gen);
	}
	return r;
}

/* Builds and writes the file; p says what the row will be. */
static int generation_write(struct rewrite *rw, struct pend *p)
{
	const unsigned slots = rw->h->slots;
	int r = source_load(rw);

	if (r == 0)
		r = frames_plan(rw);
	if (r < 0)
		return r;
	rw->end = SEGMENT_HEADER_LEN;
	header_put(rw);
	r = frames_read(rw->ss, rw->h->file, rw->refs, rw->n_refs, frame_rewrite, rw);
	if (r < 0)
		return r;
	for (unsigned slot = 0; slot < slots; slot++)
		if (rw->old[slot].flags & SLOT_PRESENT && rw->old[slot].frame_pos == 0 &&
		        bit_get(&rw->live, slot))
			lost_rewrite(rw, slot);
	const uint32_t frames_end = ROUND_UP(rw->end, (uint32_t)IO_ALIGN);
	memset(rw->out + rw->end, 0, frames_end - rw->end);
	footer_encode(rw->h->id, slots, rw->table, rw->hashes, frames_end, rw->out + frames_end);
	*p = (struct pend){
	        .tier = rw->h->tier,
	        .copy_tier = SEG_NO_COPY, /* it would have what is dead */
	        .gen = rw->gen,
	        .bytes = frames_end,
	        .file_bytes = frames_end + (uint32_t)footer_size(slots),
	        .live_bytes = rw->live_bytes,
	        .live_chunks = (uint16_t)rw->live_chunks,
	};
	return file_write(rw, p->file_bytes);
}

/* With the lock, given up meanwhile; s has neither writer nor pend. */
static int seg_rewrite(struct segments *ss, struct seg *s, const struct slot_bits *live, bool wipe,
        struct heal *heals, unsigned n_heals, uint64_t *ret_written_bytes)
{
	CLEANUP(free_ptr) struct rewrite *rw = calloc(1, sizeof(*rw));
	CLEANUP(free_ptr) struct pend *p = calloc(1, sizeof(*p));
	struct handle *h = rw && p ? handle_get(ss, s) : NULL;

	if (!h)
		return -ENOMEM;
	*rw = (struct rewrite){.ss = ss, .h = h, .heals = heals, .n_heals = n_heals, .live = *live};
	rw->gen = seg_next_gen(s);
	rw->wipe = wipe;
	h->rewriting = true;
	struct wbuf *b = wbuf_take(ss);
	int r = b ? 0 : -ENOMEM;
	pthread_mutex_unlock(&ss->lock);
	rw->crypto = keyring_get(ss->keyring, h->domain);
	if (r == 0 && rw->wipe)
		r = frame_packer_new(&rw->packer);
	if (r == 0) {
		rw->out = b->data;
		r = generation_write(rw, p);
	}
	if (rw->packer)
		frame_packer_wipe(rw->packer);
	frame_packer_free(rw->packer);
	explicit_bzero(rw->chunks, sizeof(rw->chunks));
	explicit_bzero(rw->packed, sizeof(rw->packed));
	keyring_put(ss->keyring, rw->crypto);
	pthread_mutex_lock(&ss->lock);
	wbuf_release(ss, b);
	h->rewriting = false;
	if (r == 0)
		r = seg_dirty(ss, s);
	if (r == 0) {
		*ret_written_bytes = p->file_bytes;
		h->pend = STEAL(p);
		if (rw->wipe)
			s->flags &= (uint16_t)~SEG_WIPE;
	}
	handle_put(ss, h);
	return r;
}

/* Whether the collector may touch it now. */
int seg_claim(struct segments *ss, uint64_t id, struct seg **ret_seg)
{
	struct seg *s = seg_find(ss, id);

	if (ss->read_only)
		return -EROFS;
	if (!s || s->flags & SEG_DROP)
		return -ESTALE;
	if (s->flags & (SEG_NEW | SEG_OPEN))
		return -EBUSY;
	if (s->handle && (s->handle->w || s->handle->pend || s->handle->rewriting))
		return -EBUSY;
	*ret_seg = s;
	return 0;
}

int segments_rewrite(struct segments *ss, uint64_t segment, const struct slot_bits *live,
        struct heal *heals, unsigned n_heals, uint64_t *ret_written_bytes)
{
	struct seg *s = NULL;

	pthread_mutex_lock(&ss->lock);
	int r = seg_claim(ss, segment, &s);
	if (r == 0)
		r = seg_rewrite(ss, s, live, n_heals == 0 && wipe_is_on(ss, s->domain), heals,
		        n_heals, ret_written_bytes);
	pthread_mutex_unlock(&ss->lock);
	return r;
}

int segments_drop(struct segments *ss, uint64_t segment)
{
	struct seg *s = NULL;

	pthread_mutex_lock(&ss->lock);
	int r = seg_claim(ss, segment, &s);
	if (r == 0)
		r = seg_dirty(ss, s);
	if (r == 0)
		s->flags |= SEG_DROP;
	pthread_mutex_unlock(&ss->lock);
	return r;
}

static struct seg *stuck_find(struct segments *ss)
{
	for (size_t i = 0; ss->stuck > 0 && i < ss->rows.n; i++)
		if (ss->rows.v[i]->flags & SEG_STUCK)
			return ss->rows.v[i];
	return NULL;
}

void segments_unstick(struct segments *ss)
{
	struct slot_bits all;
	struct seg *s;

	memset(&all, 0xff, sizeof(all));
	pthread_mutex_lock(&ss->lock);
	while ((s = stuck_find(ss))) {
		uint64_t written = 0;
		s->flags &= (uint16_t)~SEG_STUCK;
		ss->stuck--;
		const int r = seg_rewrite(ss, s, &all, false, NULL, 0, &written);
		if (r < 0)
			log_warn("segment %llu cannot be sealed now (%s): left open",
			        (unsigned long long)s->id, strerror(-r));
	}
	pthread_mutex_unlock(&ss->lock);
}

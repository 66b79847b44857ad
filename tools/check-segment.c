/*
 * check-segment.c - what one segment file holds, by the codecs of frame.h alone
 *
 * Two ways to the table of slots: the footer, or, for want of one, the frames themselves.  In a
 * scan a frame with a good header is stepped over by its length, so nothing inside a payload is
 * taken for a frame; where a header is damaged the scan goes on unit by unit, and takes only frames
 * that carry this segment's id and this datastore's mark.  Where several frames claim a slot (a
 * healed chunk beside the damaged frame it came from), a good one wins.
 */
#include <errno.h>
#include <string.h>

#include "tools/check.h"

static int read_parts(
        struct io_file *f, bool whole, unsigned slots, struct segment_file *sf, size_t *ret_len)
{
	const size_t size = MIN(sf->size, SEGMENT_BYTES_MAX);
	const size_t tail = footer_size(slots);
	size_t n = 0;

	if (whole || size <= SEGMENT_HEADER_LEN + tail)
		return io_pread(f, sf->buf, size, 0, ret_len);
	int r = io_pread_exact(f, sf->buf, SEGMENT_HEADER_LEN, 0);
	if (r < 0)
		return r;
	r = io_pread(f, sf->buf + size - tail, tail, size - tail, &n);
	*ret_len = size - tail + n;
	return r;
}

static void footer_read(uint64_t id, struct segment_file *sf)
{
	unsigned slots = 0;
	uint32_t end = 0;

	if (sf->len != sf->size || sf->len < SEGMENT_HEADER_LEN + FOOTER_TRAILER_LEN)
		return;
	if (footer_trailer_peek(sf->buf + sf->len - FOOTER_TRAILER_LEN, id, &slots, &end) < 0)
		return;
	if (end > sf->len || sf->len - end != footer_size(slots))
		return;
	if (footer_decode(sf->buf + end, sf->len - end, id, &slots, sf->table, sf->hashes) < 0)
		return;
	sf->slots = slots;
	sf->frames_end = end;
	sf->footer_good = true;
}

int segment_file_read(struct check *c, uint64_t id, uint32_t gen, bool whole, unsigned slots,
        struct segment_file *sf)
{
	CLEANUP(io_closep) struct io_file *f = NULL;
	char name[SEGMENT_NAME_LEN];

	segment_name(0, id, gen, name);
	int r = io_open(c->io, name, IO_READ, &f);
	if (r < 0)
		return r;
	sf->len = 0;
	sf->slots = 0;
	sf->frames_end = 0;
	sf->header_good = sf->footer_good = false;
	r = io_size(f, &sf->size);
	if (r < 0)
		return r;
	r = read_parts(f, whole, slots, sf, &sf->len);
	if (r < 0)
		return r;
	if (sf->len >= SEGMENT_HEADER_LEN)
		sf->header_good = segment_header_decode(sf->buf, &sf->header) == 0;
	footer_read(id, sf);
	return 0;
}

static void scan_claim(struct segment_file *sf, const struct frame_info *f, uint32_t off,
        size_t size, bool good, bool *has_good)
{
	for (unsigned i = 0; i < f->n; i++) {
		const unsigned slot = f->slots[i];

		if (has_good[slot] || (!good && (sf->table[slot].flags & SLOT_PRESENT)))
			continue;
		sf->table[slot] = (struct footer_slot){
		        .frame_pos = (uint16_t)(off / FRAME_ALIGN),
		        .frame_units = (size / FRAME_ALIGN) & 0x7ff,
		        .index = i & 0xf,
		        .flags = SLOT_PRESENT,
		};
		sf->hashes[slot] = f->hashes[i];
		sf->slots = MAX(sf->slots, slot + 1);
		has_good[slot] = good;
	}
}

void segment_file_scan(struct check *c, uint64_t id, uint32_t end, struct segment_file *sf)
{
	const uint32_t store = frame_store(c->state.uuid);
	bool has_good[SEGMENT_SLOTS] = {0};
	uint32_t off = SEGMENT_HEADER_LEN;

	memset(sf->table, 0, sizeof(sf->table));
	memset(sf->hashes, 0, sizeof(sf->hashes));
	sf->slots = 0;
	sf->frames_end = SEGMENT_HEADER_LEN;
	end = (uint32_t)MIN(MIN(end, SEGMENT_FRAMES_END_MAX), sf->len);
	while (off + FRAME_ALIGN <= end) {
		const uint8_t *payload = NULL;
		struct frame_info f;
		size_t size = 0;

		if (frame_decode_header(sf->buf + off, end - off, id, &f, &size) < 0 ||
		        f.store != store || size > end - off) {
			off += FRAME_ALIGN;
			continue;
		}
		const bool good =
		        frame_decode(sf->buf + off, end - off, id, &f, &payload, &size) == 0;
		scan_claim(sf, &f, off, size, good, has_good);
		off += (uint32_t)size;
		sf->frames_end = off;
	}
	sf->frames_end = ROUND_UP(sf->frames_end, IO_ALIGN);
}

/* Does slot of the table belong to the frame as decoded, and say the same hash? */
static bool slot_matches(const struct segment_file *sf, const struct frame_info *f, unsigned slot)
{
	const unsigned index = sf->table[slot].index;

	return index < f->n && f->slots[index] == slot &&
	       hash_equal(f->hashes[index], sf->hashes[slot]);
}

/* What became of a frame. */
enum frame_state {
	FRAME_LOST,   /* nothing of it can be read */
	FRAME_OPENED, /* its chunks are in sf->chunks, each to be checked by its hash */
	FRAME_LOCKED, /* its checksums are right; what it holds takes a key */
};

/*
 * The frame of a slot.  Of one with a damaged payload some chunks may still be good, and the engine
 * serves those.
 */
static enum frame_state frame_verify(struct check *c, uint64_t id, const struct footer_slot *s,
        struct segment_file *sf, struct frame_info *f)
{
	const uint32_t off = s->frame_pos * FRAME_ALIGN;
	const size_t len = off < sf->len ? MIN(sf->len, sf->frames_end) - off : 0;
	const uint8_t *payload = NULL;
	size_t size = 0;

	if (s->frame_pos == 0)
		return FRAME_LOST;
	sf->frames_bad++; /* until it has turned out good */
	const bool good = frame_decode(sf->buf + off, len, id, f, &payload, &size) == 0;
	if (!good && frame_decode_header(sf->buf + off, len, id, f, &size) < 0)
		return FRAME_LOST;
	if (f->store != frame_store(c->state.uuid) || size != s->frame_units * FRAME_ALIGN ||
	        size > len)
		return FRAME_LOST;
	if (!good)
		payload = sf->buf + off + FRAME_HEADER_LEN + f->n * sizeof(struct hash128);
	const struct crypto_domain *d = keyring_get(c->keys, f->key_id);
	const int r = d ? frame_open(f, d, payload, sf->plain, sf->chunks) : -ENOKEY;
	keyring_put(c->keys, d);
	if (r < 0 && (r != -ENOKEY || !good))
		return FRAME_LOST;
	sf->frames_bad -= good;
	c->sum.frames_verified++;
	c->sum.locked_frames += r == -ENOKEY;
	return r == -ENOKEY ? FRAME_LOCKED : FRAME_OPENED;
}

/*
 * The chunk of slot s in the frame that was opened last is what its hash says; a random one, of a
 * frame that was sealed and is authentic, says nothing.
 */
static bool chunk_verify(struct check *c, const struct footer_slot *s, const struct frame_info *f,
        const struct segment_file *sf, unsigned slot)
{
	const struct crypto_domain *d = keyring_get(c->keys, f->key_id);
	const uint8_t *chunk = sf->chunks + s->index * CHUNK_SIZE;
	struct hash128 hash;
	const bool good =
	        domain_hash_is_random(f->key_id, sf->hashes[slot]) ||
	        (d && domain_hash(d, chunk, &hash) == 0 && hash_equal(hash, sf->hashes[slot]));

	keyring_put(c->keys, d);
	c->sum.chunks_verified++;
	return good;
}

void segment_file_verify(struct check *c, uint64_t id, struct segment_file *sf)
{
	uint32_t verified_pos = 0; /* of the frame in f; 0: none yet */
	enum frame_state state = FRAME_LOST;
	struct frame_info f;

	memset(sf->damaged, 0, sizeof(sf->damaged));
	sf->frames_bad = 0;
	for (unsigned slot = 0; slot < sf->slots; slot++) {
		const struct footer_slot *s = &sf->table[slot];

		if (!(s->flags & SLOT_PRESENT))
			continue;
		if (s->frame_pos != verified_pos || s->frame_pos == 0) {
			state = frame_verify(c, id, s, sf, &f);
			verified_pos = s->frame_pos;
		}
		sf->damaged[slot] = state == FRAME_LOST || !slot_matches(sf, &f, slot);
		if (!sf->damaged[slot] && state == FRAME_OPENED)
			sf->damaged[slot] = !chunk_verify(c, s, &f, sf, slot);
	}
}

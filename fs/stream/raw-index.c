/*
 * raw-index.c - where frames are in a holder, and their content, with the key
 *
 * Segments come in order of id, so the table of them is appended to and searched by halves; a segment that comes
 * again in a later stream, with what was appended to it since, replaces the one before: it has all slots
 * that the later snapshot can refer to (store/sealed.h).
 *
 * A segment's slots are found by scanning its frames.  The tables used last are kept, TABLES of them: those of
 * 16 GiB, for an image that was written to here and there refers to many segments from one leaf.  So are the
 * frames opened last: what is written together lies together.  Memory: about 100 bytes a segment, and 42 MiB at most.
 */
#include <errno.h>
#include <string.h>

#include "crypto/kdf.h"
#include "fs/stream/raw-private.h"

#define TABLES       4096u
#define FRAMES       64u
#define SEGMENTS_MAX (1u << 24)

struct piece_at {
	uint64_t at;
	uint32_t off, len;
};

struct index_segment {
	uint64_t id;
	uint32_t total, have;
	uint32_t kept; /* its table is tables[kept - 1]; 0: it has none */
	unsigned n;
	struct piece_at *pieces; /* owned */
};

struct kept_table {
	uint64_t id, used; /* id 0: free */
	struct sealed_slots slots;
};

struct kept_frame {
	uint64_t segment; /* 0: free */
	uint64_t used;
	uint32_t pos;
	struct sealed_frame frame;
};

struct raw_index {
	struct image *img;
	uint8_t uuid[16];
	const struct crypto_domain *crypto;
	struct index_segment *segments; /* owned; by id */
	size_t n, cap;
	struct kept_table *tables; /* owned; TABLES */
	struct kept_frame *frames; /* owned; FRAMES */
	uint8_t *buf;              /* owned; SEGMENT_BYTES_MAX */
	uint64_t clock;
};

void raw_index_free(struct raw_index *ix)
{
	if (!ix)
		return;
	for (size_t i = 0; i < ix->n; i++)
		free(ix->segments[i].pieces);
	if (ix->frames)
		key_wipe(ix->frames, FRAMES * sizeof(*ix->frames));
	free(ix->segments);
	free(ix->tables);
	free(ix->frames);
	free(ix->buf);
	free(ix);
}

int raw_index_new(struct image *img, const uint8_t uuid[16], const struct crypto_domain *crypto,
        struct raw_index **ret_ix)
{
	struct raw_index *ix = calloc(1, sizeof(*ix));

	if (!ix)
		return -ENOMEM;
	ix->img = img;
	memcpy(ix->uuid, uuid, sizeof(ix->uuid));
	ix->crypto = crypto;
	ix->tables = calloc(TABLES, sizeof(*ix->tables));
	ix->frames = calloc(FRAMES, sizeof(*ix->frames));
	ix->buf = malloc(SEGMENT_BYTES_MAX);
	if (!ix->tables || !ix->frames || !ix->buf) {
		raw_index_free(ix);
		return -ENOMEM;
	}
	*ret_ix = ix;
	return 0;
}

/* --- segments --- */

/* Where it is, or would be. */
static size_t segment_at(const struct raw_index *ix, uint64_t id)
{
	size_t lo = 0, hi = ix->n;

	while (lo < hi) {
		const size_t mid = lo + (hi - lo) / 2;
		if (ix->segments[mid].id < id)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static int segment_begin(struct raw_index *ix, const struct raw_piece *piece)
{
	const size_t at = segment_at(ix, piece->id);

	if (at == ix->n || ix->segments[at].id != piece->id) {
		if (ix->n == SEGMENTS_MAX)
			return -E2BIG;
		if (ix->n == ix->cap) {
			const size_t cap = ix->cap ? 2 * ix->cap : 256;
			struct index_segment *p = reallocarray(ix->segments, cap, sizeof(*p));
			if (!p)
				return -ENOMEM;
			ix->segments = p;
			ix->cap = cap;
		}
		memmove(ix->segments + at + 1, ix->segments + at,
		        (ix->n - at) * sizeof(*ix->segments));
		ix->segments[at] = (struct index_segment){.id = piece->id};
		ix->n++;
	}
	ix->segments[at].total = piece->total;
	ix->segments[at].have = ix->segments[at].n = 0;
	if (ix->segments[at].kept)
		ix->tables[ix->segments[at].kept - 1].id = 0;
	ix->segments[at].kept = 0;
	for (unsigned i = 0; i < FRAMES; i++)
		if (ix->frames[i].segment == piece->id)
			ix->frames[i].segment = 0;
	return 0;
}

int raw_index_add(struct raw_index *ix, const struct raw_piece *piece, uint64_t at)
{
	int r = piece->off == 0 ? segment_begin(ix, piece) : 0;

	if (r < 0)
		return r;
	const size_t i = segment_at(ix, piece->id);
	if (i == ix->n || ix->segments[i].id != piece->id)
		return -EUCLEAN;
	struct index_segment *s = &ix->segments[i];
	struct piece_at *p = reallocarray(s->pieces, s->n + 1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	s->pieces = p;
	p[s->n++] = (struct piece_at){at, piece->off, (uint32_t)piece->len};
	s->have += (uint32_t)piece->len;
	return 0;
}

/* Bytes [off, off + len) of a segment's frames. */
static int segment_read(struct raw_index *ix, const struct index_segment *s, uint32_t off,
        uint32_t len, uint8_t *to)
{
	int r = off <= s->have && len <= s->have - off ? 0 : -EUCLEAN;

	for (unsigned i = 0; r == 0 && i < s->n; i++) {
		const struct piece_at *p = &s->pieces[i];
		const uint32_t from = MAX(off, p->off), end = MIN(off + len, p->off + p->len);
		if (from < end)
			r = store_read(
			        ix->img, p->at + (from - p->off), to + (from - off), end - from);
	}
	return r;
}

/* --- slots --- */

/* The place used longest ago, free now. */
static struct kept_table *table_free(struct raw_index *ix)
{
	struct kept_table *t = &ix->tables[0];

	for (unsigned i = 1; i < TABLES && t->id; i++)
		if (!ix->tables[i].id || ix->tables[i].used < t->used)
			t = &ix->tables[i];
	if (t->id)
		ix->segments[segment_at(ix, t->id)].kept = 0;
	t->id = 0;
	return t;
}

static int table_get(
        struct raw_index *ix, struct index_segment *s, const struct sealed_slots **ret_slots)
{
	struct kept_table *t = s->kept ? &ix->tables[s->kept - 1] : table_free(ix);
	unsigned damaged;
	int r = 0;

	if (!s->kept)
		r = segment_read(ix, s, 0, s->have, ix->buf);
	if (r == 0 && !s->kept)
		r = sealed_slots_find(ix->buf, s->have, s->id, ix->uuid, &t->slots, &damaged);
	if (r < 0)
		return r;
	t->id = s->id;
	t->used = ++ix->clock;
	s->kept = (uint32_t)(t - ix->tables) + 1;
	*ret_slots = &t->slots;
	return 0;
}

/* --- frames --- */

static int frame_get(struct raw_index *ix, const struct index_segment *s,
        const struct footer_slot *slot, const struct sealed_frame **ret_frame)
{
	const uint32_t pos = slot->frame_pos * FRAME_ALIGN, len = slot->frame_units * FRAME_ALIGN;
	struct kept_frame *f = &ix->frames[0];

	for (unsigned i = 0; i < FRAMES; i++) {
		if (ix->frames[i].segment == s->id && ix->frames[i].pos == pos) {
			ix->frames[i].used = ++ix->clock;
			*ret_frame = &ix->frames[i].frame;
			return 0;
		}
		if (ix->frames[i].used < f->used)
			f = &ix->frames[i];
	}
	f->segment = 0;
	int r = segment_read(ix, s, pos, len, ix->buf);
	if (r == 0)
		r = sealed_frame_open(ix->crypto, ix->uuid, s->id, ix->buf, len, &f->frame);
	if (r < 0)
		return r;
	f->segment = s->id;
	f->pos = pos;
	f->used = ++ix->clock;
	*ret_frame = &f->frame;
	return 0;
}

int raw_index_chunk(struct raw_index *ix, uint64_t entry, uint8_t *ret_chunk)
{
	const uint64_t id = loc_segment(entry_loc(entry));
	const unsigned slot = loc_slot(entry_loc(entry));
	const struct sealed_slots *slots;
	const struct sealed_frame *f;
	const size_t i = segment_at(ix, id);

	if (i == ix->n || ix->segments[i].id != id)
		return -ENOENT;
	int r = table_get(ix, &ix->segments[i], &slots);
	if (r < 0)
		return r;
	if (slot >= SEGMENT_SLOTS || !(slots->table[slot].flags & SLOT_PRESENT))
		return -ENOENT;
	r = frame_get(ix, &ix->segments[i], &slots->table[slot], &f);
	if (r < 0)
		return r;
	const uint8_t *chunk = sealed_frame_chunk(f, entry);
	if (!chunk)
		return -EUCLEAN;
	memcpy(ret_chunk, chunk, CHUNK_SIZE);
	return 0;
}

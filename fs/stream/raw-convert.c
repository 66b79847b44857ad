/*
 * raw-convert.c - a stream of a holder, with the key, into an ordinary stream
 *
 * Twice over the holder: first where the segments are, of all parts up to the stream's end; then the stream itself,
 * leaf by leaf, in order of the image.  Each leaf is opened (so it is authentic), each chunk that it
 * names is taken from its frame (authentic, too), and goes out as content.  Of an incremental stream
 * all of a leaf that changed is said, as nobody here knows what of it did; the receiver finds what it has by
 * its hash.
 *
 * Plaintext is in the buffers here and in the pipe, for a moment; the buffers are wiped.
 */
#include <errno.h>
#include <string.h>

#include "crypto/kdf.h"
#include "fs/stream/raw-private.h"

struct converting {
	struct raw_convert *c;
	struct errmsg *em;
	struct raw_index *index; /* owned */
	struct stream_begin begin;
	bool begun;   /* BEGIN went out */
	uint64_t end; /* bytes, whole chunks */
	uint64_t pos;
	/* A frame that is being filled. */
	struct stream_data data;
	uint8_t *chunks; /* owned; FRAME_CHUNKS_MAX */
	uint64_t entries[LEAF_CHUNKS];
};

static int not_authentic(struct converting *cv, int r, uint32_t leaf)
{
	if (r == -EUCLEAN)
		return errmsg_set(cv->em, r,
		        "what was received is damaged or was tampered with, at %u MiB of the "
		        "image: "
		        "it is not authentic",
		        leaf);
	if (r == -ENOENT)
		return errmsg_set(cv->em, -EUCLEAN,
		        "what was received is not complete: content at %u MiB of the image is "
		        "missing",
		        leaf);
	return r;
}

/* --- where segments are --- */

static int part_index(struct converting *cv, uint64_t off, uint64_t end)
{
	CLEANUP(part_reader_freep) struct part_reader *p = NULL;
	struct raw_piece piece;
	struct stream_record rec;
	uint64_t at;
	int r = part_reader_new(cv->c->h->img, off, end, &p);

	while (r == 0 && (r = part_read(p, &rec, &at)) == 1) {
		r = 0;
		if (cv->c->stopped(cv->c->arg))
			return -EINTR;
		if (rec.type != (enum stream_type)RAW_SEGMENT)
			continue;
		r = raw_piece_decode(rec.opaque.data, rec.opaque.len, &piece);
		if (r == 0)
			r = raw_index_add(cv->index, &piece, at + RAW_SEGMENT_HEAD);
	}
	return r;
}

static int parts_index(struct converting *cv)
{
	const struct holder *h = cv->c->h;
	uint64_t off = 0;
	int r = 0;

	for (size_t i = 0; r == 0 && i < cv->c->end; i++) {
		r = part_index(cv, off, off + h->flag.parts[i].len);
		off += h->flag.parts[i].len;
	}
	return r == -EUCLEAN ? errmsg_set(cv->em, r, "what was received is damaged") : r;
}

/* --- content --- */

static int record_out(struct converting *cv, struct stream_record *rec)
{
	return record_write(cv->c->out, rec);
}

static int data_out(struct converting *cv)
{
	struct stream_record rec = {.type = STREAM_DATA, .data = cv->data};

	if (cv->data.n == 0)
		return 0;
	rec.data.codec = CODEC_RAW;
	rec.data.n_places = cv->data.n;
	rec.data.payload = (struct stream_bytes){cv->chunks, (size_t)cv->data.n * CHUNK_SIZE};
	cv->data.n = 0;
	return record_out(cv, &rec);
}

static int fill_out(struct converting *cv, uint64_t off, uint64_t len, bool zero)
{
	const uint64_t end = MIN(off + len, cv->end);
	struct stream_record rec = {
	        .type = STREAM_FILL, .fill = {.off = off, .len = end - off, .zero = zero}};
	const bool whole = !(cv->begin.flags & STREAM_INCREMENTAL);

	return off >= end || (whole && !zero) ? 0 : record_out(cv, &rec);
}

/* All below is said. */
static int pos_out(struct converting *cv, uint64_t pos)
{
	struct stream_record rec = {.type = STREAM_POS, .pos = MIN(pos, cv->end)};

	if (rec.pos <= cv->pos)
		return 0;
	cv->pos = rec.pos;
	if (cv->c->done)
		*cv->c->done = cv->pos;
	return record_out(cv, &rec);
}

static int chunk_out(struct converting *cv, uint64_t off, uint64_t entry)
{
	uint8_t *to = cv->chunks + (size_t)cv->data.n * CHUNK_SIZE;
	int r = raw_index_chunk(cv->index, entry, to);

	if (r < 0)
		return not_authentic(cv, r, (uint32_t)(off / LEAF_BYTES));
	cv->data.places[cv->data.n] =
	        (struct stream_place){.off = off, .index = (uint8_t)cv->data.n};
	cv->data.n++;
	return cv->data.n == FRAME_CHUNKS_MAX ? data_out(cv) : 0;
}

static int leaf_out(struct converting *cv, const struct sealed_item *it)
{
	const uint64_t first = it->first * LEAF_BYTES;
	unsigned n = 1;
	int r = sealed_leaf_open(cv->c->crypto, it->node, it->blob, it->len, cv->entries);

	if (r < 0)
		return not_authentic(cv, r == -EXDEV ? -EUCLEAN : r, it->first);
	for (unsigned i = 0; r == 0 && i < LEAF_CHUNKS; i += n) {
		const uint64_t entry = cv->entries[i], off = first + (uint64_t)i * CHUNK_SIZE;
		n = 1;
		if (off >= cv->end)
			break;
		if (entry_state(entry) == ENTRY_DATA) {
			r = chunk_out(cv, off, entry);
			continue;
		}
		while (i + n < LEAF_CHUNKS && cv->entries[i + n] == entry)
			n++;
		r = fill_out(cv, off, (uint64_t)n * CHUNK_SIZE, entry == ENTRY_ZERO);
	}
	return r < 0 ? r : data_out(cv);
}

static int item_out(struct converting *cv, const struct sealed_item *it)
{
	const uint64_t off = it->first * LEAF_BYTES;
	int r = pos_out(cv, off);

	if (cv->c->stopped(cv->c->arg))
		return -EINTR;
	if (r < 0 || off >= cv->end)
		return r;
	r = it->kind == SEALED_LEAF
	            ? leaf_out(cv, it)
	            : fill_out(cv, off, it->n * LEAF_BYTES, it->kind == SEALED_ZERO);
	return r < 0 ? r : pos_out(cv, off + it->n * LEAF_BYTES);
}

static int items_out(struct converting *cv, const struct stream_bytes *items)
{
	struct bytes_in in = {.data = items->data, .len = items->len};
	struct sealed_item it;
	int r;

	while ((r = raw_map_next(&in, &it)) == 1) {
		r = item_out(cv, &it);
		if (r < 0)
			return r;
	}
	return r == -EUCLEAN ? errmsg_set(cv->em, r, "what was received is damaged") : r;
}

/* --- the stream --- */

/* What comes before the content is said once: by the first part. */
static int head_out(struct converting *cv, struct stream_record *rec)
{
	if (rec->type != STREAM_BEGIN)
		return record_out(cv, rec);
	rec->begin.flags &= ~(uint32_t)STREAM_RAW;
	cv->begin = rec->begin;
	cv->end = ROUND_UP(rec->begin.size, (uint64_t)CHUNK_SIZE);
	cv->begun = true;
	if (cv->c->total)
		*cv->c->total = cv->end;
	return rec->begin.size <= IMAGE_SIZE_MAX ? record_out(cv, rec) : -EUCLEAN;
}

static int part_out(struct converting *cv, size_t i)
{
	const uint64_t off = holder_offset(cv->c->h, i), len = cv->c->h->flag.parts[i].len;
	CLEANUP(part_reader_freep) struct part_reader *p = NULL;
	struct stream_record rec;
	uint64_t at;
	int r = part_reader_new(cv->c->h->img, off, off + len, &p);

	while (r == 0 && (r = part_read(p, &rec, &at)) == 1) {
		const bool head = rec.type == STREAM_BEGIN || rec.type == STREAM_META ||
		                  rec.type == STREAM_ROW || rec.type == STREAM_START;
		r = 0;
		if (head && i == cv->c->first)
			r = head_out(cv, &rec);
		else if (rec.type == (enum stream_type)RAW_MAP && cv->begun)
			r = items_out(cv, &rec.opaque);
		else if (rec.type == (enum stream_type)RAW_SEGMENT)
			break; /* items come before */
	}
	return r;
}

static int stream_out(struct converting *cv)
{
	struct stream_record rec = {.type = STREAM_END};
	int r = parts_index(cv);

	for (size_t i = cv->c->first; r == 0 && i < cv->c->end; i++)
		r = part_out(cv, i);
	if (r == 0)
		r = pos_out(cv, cv->end);
	if (r == 0)
		r = record_out(cv, &rec);
	return r < 0 ? r : record_flush(cv->c->out);
}

/* So that the receiver says why. */
static void abort_out(struct converting *cv, int r)
{
	const char *why = cv->em->text[0] ? cv->em->text : strerror(-r);
	struct stream_record rec = {
	        .type = STREAM_ABORT,
	        .text = {(const uint8_t *)why, strlen(why)},
	};

	if (cv->begun && record_out(cv, &rec) == 0)
		(void)!record_flush(cv->c->out);
}

int raw_convert(struct raw_convert *c, struct errmsg *em)
{
	CLEANUP(free_ptr) struct converting *cv = calloc(1, sizeof(*cv));
	struct raw_key key;
	int r = cv ? 0 : -ENOMEM;

	if (r < 0)
		return r;
	cv->c = c;
	cv->em = em;
	cv->chunks = malloc((size_t)FRAME_CHUNKS_MAX * CHUNK_SIZE);
	r = cv->chunks ? holder_key(c->h, c->first, &key) : -ENOMEM;
	if (r == 0)
		r = raw_index_new(c->h->img, key.uuid, c->crypto, &cv->index);
	if (r == 0)
		r = stream_out(cv);
	if (r < 0)
		abort_out(cv, r);
	raw_index_free(cv->index);
	if (cv->chunks)
		key_wipe(cv->chunks, (size_t)FRAME_CHUNKS_MAX * CHUNK_SIZE);
	key_wipe(cv->entries, sizeof(cv->entries));
	free(cv->chunks);
	return r;
}

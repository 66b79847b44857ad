/*
 * raw-holder.c - what a holder has: its parts, read as records
 *
 * The content of a holder is what the encoder of streams gave, so the decoder reads it, with all its checks; where the
 * record is that was read is known from how much the decoder was fed with.
 */
#include <errno.h>
#include <string.h>

#include "fs/stream/raw-private.h"

int holder_open(struct datastore *ds, uint64_t ino, struct holder *ret_h)
{
	struct holder h = {.ino = ino};
	int r = sealed_flag_get(ds->ns, ino, &h.flag);

	if (r == 0)
		r = store_image_open(ds->store, ino, &h.img);
	if (r < 0) {
		sealed_flag_release(&h.flag);
		return r;
	}
	*ret_h = h;
	return 0;
}

void holder_close(struct holder *h)
{
	store_image_close(h->img);
	sealed_flag_release(&h->flag);
	*h = (struct holder){0};
}

uint64_t holder_offset(const struct holder *h, size_t i)
{
	uint64_t off = 0;

	for (size_t k = 0; k < i; k++)
		off += h->flag.parts[k].len;
	return off;
}

bool holder_stream(const struct holder *h, size_t from, size_t *ret_end)
{
	for (size_t i = from; i < h->flag.n; i++) {
		if (!h->flag.parts[i].whole)
			continue;
		*ret_end = i + 1;
		return true;
	}
	return false;
}

/* --- records --- */

struct part_reader {
	struct image *img;
	struct stream_in *in;  /* owned */
	uint64_t off, at, end; /* in the image: beginning, next byte, end */
	uint64_t good;         /* bytes of whole records */
};

void part_reader_free(struct part_reader *p)
{
	if (p)
		stream_in_free(p->in);
	free(p);
}

void part_reader_freep(struct part_reader **p)
{
	part_reader_free(*p);
}

int part_reader_new(struct image *img, uint64_t off, uint64_t end, struct part_reader **ret_p)
{
	CLEANUP(part_reader_freep) struct part_reader *p = calloc(1, sizeof(*p));

	if (!p)
		return -ENOMEM;
	p->img = img;
	p->off = p->at = off;
	p->end = end;
	const int r = stream_in_new(STREAM_FORWARD, &p->in);
	if (r < 0)
		return r;
	*ret_p = STEAL(p);
	return 0;
}

uint64_t part_reader_good(const struct part_reader *p)
{
	return p->good;
}

static bool is_opaque(const struct stream_record *rec)
{
	return rec->type >= STREAM_OPAQUE_FIRST && rec->type <= STREAM_OPAQUE_LAST;
}

int part_read(struct part_reader *p, struct stream_record *ret_rec, uint64_t *ret_at)
{
	struct errmsg em;
	uint8_t *buf = NULL;
	size_t room;

	while ((room = stream_in_room(p->in, &buf)) > 0) {
		const size_t len = (size_t)MIN((uint64_t)room, p->end - p->at);
		if (len == 0)
			return 0;
		int r = store_read(p->img, p->at, buf, len);
		if (r < 0)
			return r;
		p->at += len;
		r = stream_in_fed(p->in, len, ret_rec, &em);
		if (r < 0)
			return -EUCLEAN;
		if (r == 0)
			continue;
		p->good = p->at - p->off;
		*ret_at = is_opaque(ret_rec) ? p->at - ret_rec->opaque.len : 0;
		return 1;
	}
	return 0;
}

int holder_key(const struct holder *h, size_t i, struct raw_key *ret_key)
{
	const uint64_t off = holder_offset(h, i);
	CLEANUP(part_reader_freep) struct part_reader *p = NULL;
	struct stream_record rec;
	uint64_t at;
	int r = part_reader_new(h->img, off, off + h->flag.parts[i].len, &p);

	while (r == 0 && (r = part_read(p, &rec, &at)) == 1) {
		if (rec.type == (enum stream_type)RAW_KEY)
			return raw_key_decode(rec.opaque.data, rec.opaque.len, ret_key);
		r = 0;
	}
	return r < 0 ? r : -EUCLEAN;
}

/* --- what was cut --- */

static int part_follow(
        const struct holder *h, uint64_t off, uint64_t end, struct raw_progress *progress)
{
	CLEANUP(part_reader_freep) struct part_reader *p = NULL;
	struct stream_record rec;
	uint64_t at;
	int r = part_reader_new(h->img, off, end, &p);

	while (r == 0 && (r = part_read(p, &rec, &at)) == 1)
		r = is_opaque(&rec)
		            ? raw_progress_take(progress, rec.type, rec.opaque.data, rec.opaque.len)
		            : 0;
	return r;
}

int holder_progress(
        const struct holder *h, size_t from, struct raw_progress *ret_p, struct raw_from *ret_from)
{
	uint64_t off = holder_offset(h, from);
	struct raw_progress progress = {0};
	struct raw_from at = {0};
	int r = 0;

	for (size_t i = from; r == 0 && i < h->flag.n; i++) {
		const uint64_t end = off + h->flag.parts[i].len;
		r = part_follow(h, off, end, &progress);
		at = raw_progress_cut(&progress);
		off = end;
	}
	if (r < 0)
		return r;
	*ret_p = progress;
	*ret_from = at;
	return 0;
}

/* The name of the snapshot, of META. */
static void name_take(const struct stream_bytes *meta, char ret_name[128])
{
	json_t *json = json_loadb((const char *)meta->data, meta->len, 0, NULL);
	const char *name = json_string_value(json_object_get(json, "snapshot"));

	if (name && strlen(name) < 128)
		strcpy(ret_name, name);
	json_decref(json);
}

int holder_tail(const struct holder *h, uint64_t size, struct sealed_part *ret_part)
{
	const uint64_t off = sealed_flag_bytes(&h->flag);
	CLEANUP(part_reader_freep) struct part_reader *p = NULL;
	struct sealed_part part = {0};
	struct stream_record rec;
	bool begun = false;
	uint64_t at;
	int r = size > off ? part_reader_new(h->img, off, size, &p) : 0;

	if (r < 0)
		return r;
	while (p && (r = part_read(p, &rec, &at)) == 1) {
		if (rec.type == STREAM_BEGIN) {
			memcpy(part.guid, rec.begin.guid, sizeof(part.guid));
			memcpy(part.guid_from, rec.begin.guid_from, sizeof(part.guid_from));
		}
		begun = begun || rec.type == (enum stream_type)RAW_KEY;
		if (rec.type == STREAM_META)
			name_take(&rec.meta, part.snapshot);
		if (rec.type == STREAM_END)
			break; /* its record was to be put next: it is read again up to there */
		part.len = part_reader_good(p);
	}
	if (r == -ENOMEM || r == -EIO)
		return r;
	if (!begun)
		part.len = 0;
	*ret_part = part;
	return 0;
}

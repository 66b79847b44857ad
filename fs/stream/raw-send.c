/*
 * raw-send.c - an encrypted snapshot as it is stored, without its key; and what a holder has, sent on
 *
 * Of a snapshot: what can be told of it without the key (store/sealed.h), with the slots of the key.  The map comes
 * before the frames, so what is not sealed is found before anything large is sent.  The frames of a
 * whole crypto domain go along: other images of the same key, too, and what is dead and not collected yet.
 *
 * Of a holder: the stream that it has of that snapshot, from its parts: said again record by record, as
 * one stream.  A stream that was received as an update goes on as an update.
 */
#include <errno.h>
#include <string.h>

#include "fs/control/text.h"
#include "fs/snapshot/private.h"
#include "fs/stream/guid.h"
#include "fs/stream/raw-private.h"
#include "fs/stream/send-private.h"
#include "meta/meta.h"

struct raw_sender {
	struct sender s; /* what META and ROWs are made of */
	struct sealed_read *sr;
	struct raw_from from;     /* where a receiver was cut */
	struct bytes_out items;   /* a record being gathered */
	uint8_t *piece;           /* owned; RAW_SEGMENT_HEAD + RAW_PIECE_MAX */
	uint64_t segments, bytes; /* sent */
	uint64_t bytes_all;
};

static int opaque_write(struct raw_sender *rs, enum raw_type type, const void *data, size_t len)
{
	struct stream_record rec = {.type = (enum stream_type)type, .opaque = {data, len}};

	return record_write(rs->s.w, &rec);
}

static void tell_progress(const struct raw_sender *rs)
{
	if (rs->s.progress)
		rs->s.progress(rs->s.arg, rs->bytes, MAX(rs->bytes_all, rs->bytes));
}

/* --- of a snapshot --- */

static int base_find(struct raw_sender *rs, const struct target *t, uint64_t *ret_key)
{
	struct sender *s = &rs->s;
	struct snapshot b;
	struct snapshot_image bi;
	int r = snapshot_find_image(s->ds->ns, t, s->rq->from, &b, &bi, s->em);

	if (r < 0)
		return r;
	if (bi.key >= s->si.key)
		r = errmsg_set(
		        s->em, -EINVAL, "'%.128s' is not older than '%.128s'", b.name, s->s.name);
	if (r == 0)
		r = snapshot_guid(s->ds, &bi, s->begin.guid_from);
	s->begin.size_from = bi.inode.size;
	s->begin.flags |= STREAM_INCREMENTAL;
	*ret_key = bi.key;
	snapshot_image_release(&bi);
	snapshot_release(&b);
	return r;
}

static int source_find(struct raw_sender *rs, const struct target *t)
{
	struct sender *s = &rs->s;
	struct meta_info info;
	uint64_t base = 0;
	int r = snapshot_find_image(s->ds->ns, t, s->rq->name, &s->s, &s->si, s->em);

	if (r == 0)
		r = meta_info_get(s->ds->meta, &info);
	if (r < 0)
		return r;
	memcpy(s->begin.uuid, info.uuid, sizeof(s->begin.uuid));
	s->begin.size = s->si.inode.size;
	r = snapshot_guid(s->ds, &s->si, s->begin.guid);
	if (r == 0 && s->rq->from)
		r = base_find(rs, t, &base);
	return r < 0 ? r : sealed_read_open(s->ds->store, s->si.key, base, &rs->sr);
}

static int resume_take(struct raw_sender *rs)
{
	const struct sender *s = &rs->s;
	struct raw_token t;

	if (!s->rq->resume)
		return 0;
	if (raw_token_parse(s->rq->resume, &t) < 0)
		return errmsg_set(s->em, -EINVAL,
		        "that is no token of a stream that was received sealed: '%.128s'",
		        s->rq->resume);
	if (memcmp(t.guid, s->begin.guid, sizeof(t.guid)) ||
	        memcmp(t.guid_from, s->begin.guid_from, sizeof(t.guid_from)))
		return errmsg_set(s->em, -EINVAL,
		        "the token is of another stream than of '%s@%.128s'%s%.128s", s->rq->target,
		        s->rq->name, s->rq->from ? " from " : " as a whole",
		        s->rq->from ? s->rq->from : "");
	rs->from = t.from;
	return 0;
}

static int head_write(struct raw_sender *rs, const struct raw_key *key)
{
	struct sender *s = &rs->s;
	struct stream_record rec = {.type = STREAM_BEGIN, .begin = s->begin};
	struct bytes_out out = {0};
	uint8_t from[RAW_FROM_LEN];
	int r = record_write(s->w, &rec);

	s->begun = true;
	if (r == 0)
		r = meta_send(s);
	if (r == 0)
		r = rows_send(s);
	if (r == 0 && s->answers)
		r = talk_begin(s);
	rec = (struct stream_record){.type = STREAM_START};
	if (r == 0)
		r = record_write(s->w, &rec);
	if (r == 0)
		r = raw_key_encode(key, &out);
	if (r == 0)
		r = opaque_write(rs, RAW_KEY, out.data, out.len);
	bytes_release(&out);
	raw_from_encode(&rs->from, from);
	if (r == 0 && (rs->from.leaf || rs->from.segment))
		r = opaque_write(rs, RAW_FROM, from, sizeof(from));
	return r;
}

static int items_flush(struct raw_sender *rs)
{
	const int r = rs->items.len ? opaque_write(rs, RAW_MAP, rs->items.data, rs->items.len) : 0;

	rs->items.len = 0;
	return r;
}

static int item_write(void *arg, const struct sealed_item *item)
{
	struct raw_sender *rs = arg;
	const int r = raw_map_add(&rs->items, item);

	return r < 0 || rs->items.len < RAW_MAP_MAX ? r : items_flush(rs);
}

static int segment_write(
        void *arg, const struct segment_row *row, const uint8_t *frames, size_t len)
{
	struct raw_sender *rs = arg;
	struct raw_piece p = {.id = row->id, .gen = row->gen, .total = (uint32_t)len};
	int r = 0;

	while (r == 0 && p.off < len) {
		p.len = MIN(len - p.off, (size_t)RAW_PIECE_MAX);
		raw_piece_encode(&p, rs->piece);
		memcpy(rs->piece + RAW_SEGMENT_HEAD, frames + p.off, p.len);
		r = opaque_write(rs, RAW_SEGMENT, rs->piece, RAW_SEGMENT_HEAD + p.len);
		p.off += (uint32_t)p.len;
		rs->bytes += p.len;
		tell_progress(rs);
	}
	rs->segments++;
	return r;
}

static int end_write(struct raw_sender *rs, uint64_t size)
{
	struct stream_record pos = {
	        .type = STREAM_POS, .pos = ROUND_UP(size, (uint64_t)CHUNK_SIZE)};
	struct stream_record end = {.type = STREAM_END};
	int r = record_write(rs->s.w, &pos);

	if (r == 0)
		r = record_write(rs->s.w, &end);
	if (r == 0)
		r = record_flush(rs->s.w);
	return r < 0 || !rs->s.answers ? r : talk_end(&rs->s);
}

static int snapshot_write(struct raw_sender *rs, const struct raw_key *key)
{
	int r = head_write(rs, key);

	if (r == 0 && rs->from.leaf != UINT32_MAX)
		r = sealed_items(rs->sr, rs->from.leaf, item_write, rs);
	if (r == 0)
		r = items_flush(rs);
	if (r == 0)
		r = sealed_segments(rs->sr, rs->from.segment, segment_write, rs);
	return r < 0 ? r : end_write(rs, rs->s.begin.size);
}

static int not_encrypted(struct raw_sender *rs)
{
	return errmsg_set(rs->s.em, -EXDEV,
	        "'%s@%.128s' is not encrypted as a whole with one key%s: send it without --raw",
	        rs->s.rq->target, rs->s.rq->name,
	        rs->s.rq->from ? ", the one that its base has" : "");
}

static int snapshot_send(struct raw_sender *rs, const struct target *t)
{
	struct sender *s = &rs->s;
	struct sealed_info info = {0};
	struct raw_key key;
	int r = source_find(rs, t);

	if (r == 0) {
		sealed_read_info(rs->sr, &info);
		r = info.domain ? resume_take(rs) : -EXDEV;
	}
	if (r == 0)
		r = keys_export(s->ds->ns, info.uuid, info.domain, &key, s->em);
	s->begin.flags |= STREAM_RAW;
	s->begin.estimate = rs->bytes_all = info.segment_bytes;
	if (r == 0 && !s->rq->dry_run)
		r = snapshot_write(rs, &key);
	return r == -EXDEV && !s->em->text[0] ? not_encrypted(rs) : r;
}

/* --- of a holder --- */

/* The stream that makes this snapshot: parts [*ret_first, *ret_end). */
static int kept_find(
        struct raw_sender *rs, const struct holder *h, size_t *ret_first, size_t *ret_end)
{
	const struct send_request *rq = rs->s.rq;
	const char *last = NULL;
	size_t end;

	for (size_t i = 0; holder_stream(h, i, &end); i = end) {
		const struct sealed_part *p = &h->flag.parts[i];
		if (strcmp(p->snapshot, rq->name)) {
			last = p->snapshot;
			continue;
		}
		const bool update =
		        memcmp(p->guid_from, (uint8_t[STREAM_GUID_LEN]){0}, STREAM_GUID_LEN) != 0;
		if (update && !rq->from)
			return errmsg_set(rs->s.em, -EINVAL,
			        "'%s' has '%.128s' sealed as an update of '%.128s' (--from %.128s)",
			        rq->target, rq->name, last ? last : "", last ? last : "");
		if (rq->from && (!update || !last || strcmp(last, rq->from) != 0))
			return errmsg_set(rs->s.em, -EINVAL,
			        "'%s' has '%.128s' sealed, but not as an update of '%.128s'",
			        rq->target, rq->name, rq->from);
		*ret_first = i;
		*ret_end = end;
		return 0;
	}
	return errmsg_set(rs->s.em, -ENOENT,
	        "'%s' was received sealed, and has no snapshot '%.128s' (weir receive --list)",
	        rq->target, rq->name);
}

/* Of the later parts only what they bring. */
static int kept_record(struct raw_sender *rs, struct stream_record *rec, bool first)
{
	const bool opaque = rec->type >= STREAM_OPAQUE_FIRST && rec->type <= STREAM_OPAQUE_LAST;

	if (rec->type == STREAM_BEGIN && first) {
		rec->begin.flags |= rs->s.answers ? STREAM_TALK : 0;
		rs->s.begin = rec->begin;
		rs->bytes_all = rec->begin.estimate;
		rs->s.begun = true;
	}
	if (opaque) {
		const bool content = rec->type != (enum stream_type)RAW_KEY &&
		                     rec->type != (enum stream_type)RAW_FROM;
		rs->bytes += rec->opaque.len;
		tell_progress(rs);
		return first || content ? record_write(rs->s.w, rec) : 0;
	}
	if (!first || rec->type == STREAM_POS || rec->type == STREAM_END)
		return 0;
	const int r = rec->type == STREAM_START && rs->s.answers ? talk_begin(&rs->s) : 0;
	return r < 0 ? r : record_write(rs->s.w, rec);
}

/*
 * A part that was cut may end within a segment, which the next one has from its beginning: then what
 * there is of it is left out.
 */
static int kept_part(struct raw_sender *rs, const struct holder *h, size_t i, bool first)
{
	const uint64_t off = holder_offset(h, i), len = h->flag.parts[i].len;
	CLEANUP(part_reader_freep) struct part_reader *p = NULL;
	struct bytes_out held = {0};
	struct stream_record rec;
	struct raw_piece piece;
	uint64_t at;
	int r = part_reader_new(h->img, off, off + len, &p);

	while (r == 0 && (r = part_read(p, &rec, &at)) == 1) {
		if (rec.type != (enum stream_type)RAW_SEGMENT) {
			r = kept_record(rs, &rec, first);
			continue;
		}
		r = raw_piece_decode(rec.opaque.data, rec.opaque.len, &piece);
		if (r < 0)
			break;
		if (piece.off == 0)
			held.len = 0;
		const size_t head = sizeof(uint32_t);
		uint8_t *to = bytes_append(&held, NULL, head + rec.opaque.len);
		if (!to) {
			r = -ENOMEM;
			break;
		}
		put_u32(to, (uint32_t)rec.opaque.len);
		memcpy(to + head, rec.opaque.data, rec.opaque.len);
		if (piece.off + piece.len < piece.total)
			continue;
		struct bytes_in in = {.data = held.data, .len = held.len};
		while (r == 0 && in.pos < in.len) {
			const uint32_t n = bytes_take_u32(&in);
			rec.opaque = (struct stream_bytes){bytes_take(&in, n), n};
			r = kept_record(rs, &rec, first);
		}
		held.len = 0;
	}
	bytes_release(&held);
	return r;
}

static int kept_write(struct raw_sender *rs, const struct holder *h)
{
	size_t first = 0, end = 0;
	int r = kept_find(rs, h, &first, &end);

	if (r < 0 || rs->s.rq->dry_run)
		return r;
	for (size_t i = first; r == 0 && i < end; i++)
		r = kept_part(rs, h, i, i == first);
	return r < 0 ? r : end_write(rs, rs->s.begin.size);
}

static int kept_send(struct raw_sender *rs, struct holder *h)
{
	int r = 0;

	if (rs->s.rq->resume)
		r = errmsg_set(rs->s.em, -EOPNOTSUPP,
		        "what was received sealed is sent on from its beginning only: no --resume");
	if (r == 0)
		r = kept_write(rs, h);
	return r;
}

/* --- either --- */

static int send_failed(struct raw_sender *rs, int r)
{
	struct errmsg *em = rs->s.em;
	const char *path = rs->s.rq->target, *name = rs->s.rq->name;

	if (em->text[0])
		return r;
	if (r == -EPIPE)
		return talk_why(&rs->s);
	if (r == -ECANCELED || r == -EINTR)
		return errmsg_set(em, -ECANCELED, "sending '%s@%.128s' was broken off", path, name);
	if (r == -EIO || r == -EUCLEAN)
		return errmsg_set(em, -EIO,
		        "cannot send '%s@%.128s': part of it cannot be read (see the log; 'weir "
		        "check --data' tells what is damaged)",
		        path, name);
	return errmsg_set(em, r, "cannot send '%s@%.128s': %s", path, name, strerror(-r));
}

static void abort_write(struct raw_sender *rs, int r)
{
	struct stream_record rec = {
	        .type = STREAM_ABORT,
	        .text = {(const uint8_t *)rs->s.em->text, strlen(rs->s.em->text)},
	};

	if (rs->s.begun && r != -EPIPE && r != -EREMOTEIO && r != -ECANCELED &&
	        record_write(rs->s.w, &rec) == 0)
		(void)!record_flush(rs->s.w);
}

static json_t *result_json(const struct raw_sender *rs)
{
	const struct send_request *rq = rs->s.rq;
	const uint64_t stream_bytes = rs->s.w ? record_writer_bytes(rs->s.w) : 0;

	return json_pack("{s:o, s:s, s:s?, s:b, s:I, s:I, s:I, s:I, s:I}", "target",
	        text_json(rq->target), "snapshot", rq->name, "from", rq->from, "raw", 1,
	        "size_bytes", (json_int_t)rs->s.begin.size, "estimate_bytes",
	        (json_int_t)rs->bytes_all, "data_bytes",
	        (json_int_t)(rq->dry_run ? rs->bytes_all : rs->bytes), "stream_bytes",
	        (json_int_t)stream_bytes, "segments", (json_int_t)rs->segments);
}

static int send_any(struct raw_sender *rs)
{
	struct sender *s = &rs->s;
	struct holder h = {0};
	struct target t;
	int r = snapshot_target_image(s->ds->ns, s->rq->target, &t, s->em);

	if (r == 0 && !s->rq->dry_run)
		r = record_writer_new(STREAM_FORWARD, s->io.out_fd, s->io.cancel_fd, &s->w);
	if (r == 0 && s->w && s->io.in_fd >= 0) {
		s->begin.flags |= STREAM_TALK;
		r = record_reader_new(STREAM_ANSWERS, s->io.in_fd, s->io.cancel_fd, &s->answers);
	}
	if (r < 0)
		return r;
	rs->piece = malloc(RAW_SEGMENT_HEAD + RAW_PIECE_MAX);
	if (!rs->piece)
		return -ENOMEM;
	r = holder_open(s->ds, t.ino, &h);
	if (r == 0)
		r = kept_send(rs, &h);
	else if (r == -ENOENT)
		r = snapshot_send(rs, &t);
	holder_close(&h);
	return r;
}

static void sender_end(struct raw_sender *rs)
{
	sealed_read_close(rs->sr);
	snapshot_release(&rs->s.s);
	snapshot_image_release(&rs->s.si);
	record_writer_free(rs->s.w);
	record_reader_free(rs->s.answers);
	free(rs->s.receiver);
	bytes_release(&rs->items);
	free(rs->piece);
	free(rs);
}

int raw_send(struct datastore *ds, const struct send_request *rq, const struct send_io *io,
        gc_progress_fn *progress, void *arg, json_t **ret_json, struct errmsg *em)
{
	struct raw_sender *rs = calloc(1, sizeof(*rs));
	struct errmsg own = {0};

	if (!rs)
		return errmsg_set(em, -ENOMEM, "out of memory");
	rs->s = (struct sender){
	        .ds = ds, .rq = rq, .io = *io, .progress = progress, .arg = arg, .em = &own};
	int r = send_any(rs);
	if (r < 0) {
		r = send_failed(rs, r);
		abort_write(rs, r);
		errmsg_set(em, r, "%s", own.text);
	} else {
		*ret_json = result_json(rs);
		r = *ret_json ? 0 : errmsg_set(em, -ENOMEM, "out of memory");
	}
	sender_end(rs);
	return r;
}

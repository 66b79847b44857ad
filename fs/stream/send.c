/*
 * send.c - see send.h
 *
 * The snapshot and the base are opened as handles: from then on the collector leaves what they refer to
 * alone, whatever is deleted.  What is older is told by number, which grows: so a base that is newer than what is sent
 * is refused.  (It would work; but the receiver could only put the older state over the newer one.)
 *
 * When something goes wrong here, the receiver is told by ABORT, so that it knows why the stream
 * ends; it keeps what it has, to be resumed.
 */
#include "fs/stream/send.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fs/control/text.h"
#include "fs/snapshot/private.h"
#include "fs/stream/guid.h"
#include "fs/stream/raw-stream.h"
#include "fs/stream/send-private.h"
#include "meta/meta.h"

static void sender_release(struct sender *s)
{
	store_image_close(s->img);
	store_image_close(s->base);
	snapshot_release(&s->s);
	snapshot_image_release(&s->si);
	record_writer_free(s->w);
	record_reader_free(s->answers);
	for (unsigned i = 0; s->ring && i < s->n_ring; i++)
		window_release(&s->ring[i]);
	free(s->ring);
	free(s->asks);
	free(s->receiver);
	shared_free(s->shared);
}

/* --- what is to be sent --- */

static int handle_open(struct sender *s, uint64_t key, const char *name, struct image **ret_img)
{
	const int r = store_image_open(s->ds->store, snapshot_image(key), ret_img);

	if (r == -ENOENT)
		return errmsg_set(s->em, r, "'%s' has no snapshot '%.128s' (weir snapshot list)",
		        s->rq->target, name);
	return r;
}

static int base_find(struct sender *s, const struct target *t)
{
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
	if (r == 0)
		r = handle_open(s, bi.key, b.name, &s->base);
	s->base_key = bi.key;
	s->begin.size_from = bi.inode.size;
	s->begin.flags |= STREAM_INCREMENTAL;
	snapshot_image_release(&bi);
	snapshot_release(&b);
	return r;
}

static int source_find(struct sender *s)
{
	struct meta_info info;
	struct target t;
	int r = snapshot_target_image(s->ds->ns, s->rq->target, &t, s->em);

	if (r == 0)
		r = snapshot_find_image(s->ds->ns, &t, s->rq->name, &s->s, &s->si, s->em);
	if (r == 0)
		r = meta_info_get(s->ds->meta, &info);
	if (r < 0)
		return r;
	memcpy(s->begin.uuid, info.uuid, sizeof(s->begin.uuid));
	s->begin.size = s->si.inode.size;
	s->end = ROUND_UP(s->begin.size, (uint64_t)CHUNK_SIZE);
	r = snapshot_guid(s->ds, &s->si, s->begin.guid);
	if (r == 0)
		r = handle_open(s, s->si.key, s->s.name, &s->img);
	if (r == 0 && s->rq->from)
		r = base_find(s, &t);
	return r;
}

static int resume_take(struct sender *s)
{
	struct stream_token t;

	if (!s->rq->resume)
		return 0;
	if (stream_token_parse(s->rq->resume, &t) < 0)
		return errmsg_set(s->em, -EINVAL, "that is no token of weir receive: '%.128s'",
		        s->rq->resume);
	if (memcmp(t.guid, s->begin.guid, sizeof(t.guid)) ||
	        memcmp(t.guid_from, s->begin.guid_from, sizeof(t.guid_from)) || t.start > s->end)
		return errmsg_set(s->em, -EINVAL,
		        "the token is of another stream than of '%s@%.128s'%s%.128s", s->rq->target,
		        s->s.name, s->rq->from ? " from " : " as a whole",
		        s->rq->from ? s->rq->from : "");
	s->start = t.start;
	return 0;
}

/* --- the stream --- */

/* Of all of an image it is known; else the maps are compared once before. */
static int estimate(struct sender *s)
{
	const uint64_t id = snapshot_image(s->si.key);
	struct image_stats st;

	if (s->rq->from || s->start || s->rq->dry_run)
		return walk_count(s, &s->begin.estimate);
	const int r = store_image_stats(s->ds->store, &id, 1, false, NULL, NULL, &st);
	if (r == 0)
		s->begin.estimate = st.data_chunks * CHUNK_SIZE;
	return r;
}

static int head_send(struct sender *s)
{
	struct stream_record rec = {.type = STREAM_BEGIN, .begin = s->begin};
	int r = record_write(s->w, &rec);

	s->begun = true;
	if (r == 0)
		r = meta_send(s);
	if (r == 0)
		r = rows_send(s);
	if (r == 0 && s->answers)
		r = talk_begin(s);
	rec = (struct stream_record){.type = STREAM_START, .start = s->start};
	s->pos = s->start;
	return r < 0 ? r : record_write(s->w, &rec);
}

static int end_send(struct sender *s)
{
	struct stream_record rec = {.type = STREAM_END};
	int r = record_write(s->w, &rec);

	if (r == 0)
		r = record_flush(s->w);
	return r < 0 || !s->answers ? r : talk_end(s);
}

static int streams_open(struct sender *s)
{
	int r = record_writer_new(STREAM_FORWARD, s->io.out_fd, s->io.cancel_fd, &s->w);

	if (r < 0 || s->io.in_fd < 0)
		return r;
	s->begin.flags |= STREAM_TALK;
	return record_reader_new(STREAM_ANSWERS, s->io.in_fd, s->io.cancel_fd, &s->answers);
}

static int send_all(struct sender *s)
{
	int r = head_send(s);

	if (r == 0)
		r = walk_send(s);
	return r < 0 ? r : end_send(s);
}

/* --- what goes wrong --- */

static int send_failed(struct sender *s, int r)
{
	const char *path = s->rq->target, *name = s->rq->name;

	if (s->em->text[0])
		return r;
	switch (r) {
	case -ENOKEY:
		return errmsg_set(s->em, r,
		        "cannot send '%s@%.128s': its key is locked (weir key unlock)", path, name);
	case -EIO:
		return errmsg_set(s->em, r,
		        "cannot send '%s@%.128s': part of it cannot be read (see the log; 'weir "
		        "check "
		        "--data' tells what is damaged)",
		        path, name);
	case -EPIPE:
		return talk_why(s);
	case -ECANCELED:
	case -EINTR:
		return errmsg_set(
		        s->em, -ECANCELED, "sending '%s@%.128s' was broken off", path, name);
	default:
		return errmsg_set(
		        s->em, r, "cannot send '%s@%.128s': %s", path, name, strerror(-r));
	}
}

static void abort_send(struct sender *s, int r)
{
	struct stream_record rec = {
	        .type = STREAM_ABORT,
	        .text = {(const uint8_t *)s->em->text, strlen(s->em->text)},
	};

	if (!s->begun || r == -EPIPE || r == -EREMOTEIO || r == -ECANCELED)
		return;
	if (record_write(s->w, &rec) == 0)
		(void)!record_flush(s->w);
}

/* --- results --- */

static json_t *guid_json(const uint8_t guid[STREAM_GUID_LEN])
{
	char text[2 * STREAM_GUID_LEN + 1];

	for (unsigned i = 0; i < STREAM_GUID_LEN; i++)
		snprintf(text + (size_t)2 * i, 3, "%02x", guid[i]);
	return json_string(text);
}

static json_t *result_json(const struct sender *s)
{
	json_t *json = json_pack("{s:o, s:s, s:s?, s:o, s:I, s:I}", "target",
	        text_json(s->rq->target), "snapshot", s->s.name, "from", s->rq->from, "guid",
	        guid_json(s->begin.guid), "size_bytes", (json_int_t)s->begin.size, "estimate_bytes",
	        (json_int_t)s->begin.estimate);
	json_t *receiver = s->receiver ? json_loads(s->receiver, 0, NULL) : NULL;
	json_t *more = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o?}",
	        "start_bytes", (json_int_t)s->start, "stream_bytes",
	        (json_int_t)record_writer_bytes(s->w), "data_bytes", (json_int_t)s->count.data,
	        "zero_bytes", (json_int_t)s->count.zero, "hole_bytes", (json_int_t)s->count.hole,
	        "shared_bytes", (json_int_t)s->count.shared, "had_bytes", (json_int_t)s->count.had,
	        "frames_stored", (json_int_t)s->count.frames_stored, "frames_packed",
	        (json_int_t)s->count.frames_packed, "receiver", receiver ? receiver : json_null());

	if (json && more)
		json_object_update(json, more);
	json_decref(more);
	return json;
}

/* What the content takes as stored, by what the whole datastore takes. */
static json_t *dry_json(const struct sender *s)
{
	struct store_stats st;

	store_stats_get(s->ds->store, &st);
	const double ratio =
	        st.unique_chunks && st.live_bytes
	                ? (double)st.live_bytes / ((double)st.unique_chunks * CHUNK_SIZE)
	                : 1.0;
	return json_pack("{s:o, s:s, s:s?, s:o, s:I, s:I, s:I}", "target", text_json(s->rq->target),
	        "snapshot", s->s.name, "from", s->rq->from, "guid", guid_json(s->begin.guid),
	        "size_bytes", (json_int_t)s->begin.size, "data_bytes",
	        (json_int_t)s->begin.estimate, "estimate_bytes",
	        (json_int_t)((double)s->begin.estimate * MIN(ratio, 1.0)));
}

int stream_send(struct datastore *ds, const struct send_request *rq, const struct send_io *io,
        gc_progress_fn *progress, void *arg, json_t **ret_json, struct errmsg *em)
{
	if (rq->raw)
		return raw_send(ds, rq, io, progress, arg, ret_json, em);
	struct errmsg own = {0};
	struct sender s = {
	        .ds = ds, .rq = rq, .io = *io, .progress = progress, .arg = arg, .em = &own};
	int r = source_find(&s);

	if (r == 0)
		r = resume_take(&s);
	if (r == 0)
		r = estimate(&s);
	if (r == 0 && !rq->dry_run)
		r = streams_open(&s);
	if (r == 0 && !rq->dry_run)
		r = send_all(&s);
	if (r < 0) {
		r = send_failed(&s, r);
		abort_send(&s, r);
		errmsg_set(em, r, "%s", own.text);
	} else {
		*ret_json = rq->dry_run ? dry_json(&s) : result_json(&s);
		r = *ret_json ? 0 : errmsg_set(em, -ENOMEM, "out of memory");
	}
	sender_release(&s);
	return r;
}

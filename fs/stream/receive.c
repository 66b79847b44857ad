/*
 * receive.c - a stream from its beginning to its end
 *
 *	record          what is done
 *	BEGIN META      where does it belong, and does it fit there?  Is there something of an earlier
 *	                stream that was cut?  HELLO, if the sender asks
 *	ROW ...         kept
 *	START           the hidden image is made, or opened again
 *	content         is put into it
 *	END             checked; then it is applied, and the sender told
 *
 * The decoder (src/stream) sees to the order of records, their checksums, and that the end is the
 * end.  Whatever goes wrong: what is there stays for the next time, but for a whole image of which
 * nothing was kept yet.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>

#include "base/log.h"
#include "fs/control/text.h"
#include "fs/stream/raw-stream.h"
#include "fs/stream/receive-private.h"
#include "store/known.h"

#define QUERIES_MAX 16u
#define ASKS_MAX    1024u

/* --- answers --- */

int receive_cut(const struct receiver *rc)
{
	struct pollfd cut = {.fd = rc->rq->cut_fd, .events = POLLRDHUP};

	return poll(&cut, 1, 0) > 0 ? -ECANCELED : 0;
}

int receive_answer(struct receiver *rc, struct stream_record *rec, struct errmsg *em)
{
	if (!rc->writer || rc->answered || !(rc->begin.flags & STREAM_TALK))
		return 0;
	int r = record_write(rc->writer, rec);
	if (r == 0)
		r = record_flush(rc->writer);
	rc->answered = r < 0 || rec->type == STREAM_DONE || rec->type == STREAM_ERROR;
	return r < 0 ? errmsg_set(em, r, "cannot answer the sender: %s", strerror(-r)) : 0;
}

/* --- records --- */

static int hello(struct receiver *rc, struct errmsg *em)
{
	struct stream_record rec = {
	        .type = STREAM_HELLO,
	        .hello = {.start = rc->st.rec.pos,
	                .queries_max = QUERIES_MAX,
	                .asks_max = ASKS_MAX},
	};

	if (store_hasher_get(rc->m->ds->store, rc->place.policy.domain, &rec.hello.hasher) == 0)
		rec.hello.flags = STREAM_HELLO_HASH;
	return receive_answer(rc, &rec, em);
}

/* What the first two records say. */
static int introduced(struct receiver *rc, const struct stream_bytes *meta, struct errmsg *em)
{
	int r = place_meta(rc, meta, em);

	if (r == 0)
		r = place_find(rc, em);
	if (r == 0)
		r = staging_find(rc, em);
	if (r < 0 || !(rc->begin.flags & STREAM_TALK))
		return r;
	return rc->writer ? hello(rc, em)
	                  : errmsg_set(em, -EINVAL,
	                            "the sender waits for answers, and there is no way back to it "
	                            "(standard output is no pipe)");
}

static int started(struct receiver *rc, uint64_t start, struct errmsg *em)
{
	if (start > rc->st.rec.pos)
		return errmsg_set(em, -EINVAL,
		        "the stream goes on at %llu MiB, but %llu MiB of it are here (weir receive "
		        "--list)",
		        (unsigned long long)(start >> 20),
		        (unsigned long long)(rc->st.rec.pos >> 20));
	return staging_open(rc, em);
}

static int begun(struct receiver *rc, const struct stream_begin *begin, struct errmsg *em)
{
	rc->begin = *begin;
	rc->raw = begin->flags & STREAM_RAW;
	return begin->size > IMAGE_SIZE_MAX || begin->size_from > IMAGE_SIZE_MAX
	               ? errmsg_set(em, -EFBIG, "it is larger than an image can be")
	               : 0;
}

/* 1: that was the end. */
static int record_take(struct receiver *rc, const struct stream_record *rec, struct errmsg *em)
{
	int r;

	switch (rec->type) {
	case STREAM_BEGIN:
		return begun(rc, &rec->begin, em);
	case STREAM_META:
		return introduced(rc, &rec->meta, em);
	case STREAM_ROW:
		return filters_row(rc, &rec->row, em);
	case STREAM_START:
		return started(rc, rec->start, em);
	case STREAM_END:
		r = write_end(rc, em);
		return r < 0 ? r : 1;
	case STREAM_ABORT:
		return errmsg_set(em, -ECONNABORTED, "the sender gave up: %.*s",
		        (int)MIN(rec->text.len, 256), (const char *)rec->text.data);
	default:
		return write_record(rc, rec, em);
	}
}

/* Nothing is asked about what is sealed. */
static int raw_hello(void *arg, struct errmsg *em)
{
	struct stream_record rec = {
	        .type = STREAM_HELLO, .hello = {.queries_max = 1, .asks_max = 1}};

	return receive_answer(arg, &rec, em);
}

/* A sealed stream, behind its BEGIN: kept as it is. */
static int raw_take(struct receiver *rc, struct errmsg *em)
{
	const bool talks = rc->begin.flags & STREAM_TALK;
	const struct raw_receive_request rq = {
	        .target = rc->rq->target,
	        .in = rc->reader,
	        .begin = &rc->begin,
	        .hello = talks ? raw_hello : NULL,
	        .arg = rc,
	};

	if (talks && !rc->writer)
		return errmsg_set(em, -EINVAL,
		        "the sender waits for answers, but there is no way back to it");
	const int r = raw_receive(rc->m, rc->who, &rq, rc->invalidate, rc->invalidate_arg,
	        rc->progress, rc->progress_arg, &rc->raw_json, em);
	if (r < 0)
		return r;
	snprintf(rc->snapshot, sizeof(rc->snapshot), "%s",
	        json_string_value(json_object_get(rc->raw_json, "snapshot")));
	snprintf(rc->place.path, sizeof(rc->place.path), "%s",
	        json_string_value(json_object_get(rc->raw_json, "target")));
	return json_object_set_new(rc->raw_json, "answered", json_boolean(talks)) < 0 ? -ENOMEM : 0;
}

static void tell_progress(const struct receiver *rc)
{
	const uint64_t done = rc->placed_bytes + rc->known_bytes;

	if (rc->progress)
		rc->progress(rc->progress_arg, done, MAX(rc->begin.estimate, done));
}

static int reading_failed(int r, struct errmsg *em)
{
	if (em->text[0])
		return r;
	if (r == -ECANCELED)
		return errmsg_set(em, r, "it was given up");
	return errmsg_set(em, r, "cannot read the stream: %s", strerror(-r));
}

static int receive_all(struct receiver *rc, struct errmsg *em)
{
	struct stream_record rec;
	int r = 0;

	while (r == 0) {
		r = record_read(rc->reader, &rec, em);
		if (r < 0)
			return reading_failed(r, em);
		r = record_take(rc, &rec, em);
		if (r == 0 && rc->raw)
			return raw_take(rc, em);
		tell_progress(rc);
	}
	return r < 0 ? r : receive_apply(rc, em);
}

/* --- the result --- */

static json_t *result_json(const struct receiver *rc)
{
	return json_pack("{s:o, s:s, s:o, s:I, s:I, s:I, s:O, s:o, s:b}", "target",
	        text_json(rc->place.path), "snapshot", rc->snapshot, "from",
	        rc->from ? text_json(rc->from) : json_null(), "size_bytes",
	        (json_int_t)rc->begin.size, "received_bytes",
	        (json_int_t)record_reader_bytes(rc->reader), "known_bytes",
	        (json_int_t)rc->known_bytes, "left_out", rc->left_out, "before",
	        *rc->before ? json_string(rc->before) : json_null(), "answered",
	        (rc->begin.flags & STREAM_TALK) != 0);
}

static void answer_done(struct receiver *rc)
{
	json_t *json = json_pack(
	        "{s:o, s:s}", "target", text_json(rc->place.path), "snapshot", rc->snapshot);
	CLEANUP(free_ptr) char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
	struct stream_record rec = {
	        .type = STREAM_DONE,
	        .done = {(const uint8_t *)text, text ? strlen(text) : 0},
	};
	struct errmsg em = {0};

	json_decref(json);
	if (text && receive_answer(rc, &rec, &em) < 0)
		log_note("receive: '%s' is in place, but %s", rc->place.path, em.text);
}

static void answer_error(struct receiver *rc, const struct errmsg *why)
{
	struct stream_record rec = {
	        .type = STREAM_ERROR,
	        .text = {(const uint8_t *)why->text, strlen(why->text)},
	};
	struct errmsg em = {0};

	const bool waits = rc->writer && !rc->answered && rc->begin.flags & STREAM_TALK;
	const int r = receive_answer(rc, &rec, &em);

	if (r < 0)
		log_trace("receive: %s", em.text);
	if (rc->rq->told)
		*rc->rq->told = waits && r == 0;
}

/* What there is stays, and how to go on with it is said. */
static int failed(struct receiver *rc, int r, struct errmsg *em)
{
	struct errmsg why = *em;
	char text[STREAM_TOKEN_TEXT];
	struct stream_token token = {0};

	if (rc->st.img && staging_save(rc) == 0 && rows_flush(rc->m) < 0)
		log_trace("receive: the last position is not durable");
	answer_error(rc, em);
	if (!rc->st.img || rc->st.rec.pos == 0)
		return errmsg_set(em, r, "cannot receive%s%s%s: %.380s",
		        *rc->place.path ? " '" : "", rc->place.path, *rc->place.path ? "'" : "",
		        why.text);
	memcpy(token.guid, rc->begin.guid, sizeof(token.guid));
	memcpy(token.guid_from, rc->begin.guid_from, sizeof(token.guid_from));
	token.start = rc->st.rec.pos;
	stream_token_text(&token, text);
	return errmsg_set(em, r,
	        "cannot receive '%.80s': %.250s; %llu MiB are kept: send it again, or its rest "
	        "with "
	        "weir send --resume %s",
	        rc->place.path, why.text, (unsigned long long)(rc->st.rec.pos >> 20), text);
}

/* --- life --- */

static int receiver_init(struct receiver *rc, struct errmsg *em)
{
	const struct receive_request *rq = rc->rq;
	int r = record_reader_new(STREAM_FORWARD, rq->in_fd, rq->cut_fd, &rc->reader);

	if (r == 0 && rq->back_fd >= 0)
		r = record_writer_new(STREAM_ANSWERS, rq->back_fd, rq->cut_fd, &rc->writer);
	rc->chunks = malloc((size_t)FRAME_CHUNKS_MAX * CHUNK_SIZE);
	rc->left_out = json_array();
	if (r == 0 && (!rc->chunks || !rc->left_out))
		r = -ENOMEM;
	return r < 0 ? errmsg_set(em, r, "out of memory") : 0;
}

static void receiver_release(struct receiver *rc)
{
	staging_close(rc);
	place_release(&rc->place);
	snapshot_image_release(&rc->like);
	owned_rows_release(&rc->rows);
	record_reader_free(rc->reader);
	record_writer_free(rc->writer);
	json_decref(rc->left_out);
	free(rc->chunks);
	free(rc->from);
}

int receive_run(struct manager *m, const struct filter_caller *who,
        const struct receive_request *rq, snapshot_invalidate_fn *invalidate, void *invalidate_arg,
        gc_progress_fn *progress, void *progress_arg, json_t **ret_json, struct errmsg *em)
{
	if (m->read_only)
		return errmsg_set(em, -EROFS, "cannot receive: mounted read-only");
	struct receiver *rc = calloc(1, sizeof(*rc));
	if (!rc)
		return errmsg_set(em, -ENOMEM, "out of memory");
	*rc = (struct receiver){
	        .m = m,
	        .who = who,
	        .rq = rq,
	        .invalidate = invalidate,
	        .invalidate_arg = invalidate_arg,
	        .progress = progress,
	        .progress_arg = progress_arg,
	};
	int r = receiver_init(rc, em);
	if (r == 0)
		r = receive_all(rc, em);
	if (r < 0 && rc->raw) {
		answer_error(rc, em);
	} else if (r < 0) {
		r = failed(rc, r, em);
	} else {
		*ret_json = rc->raw ? STEAL(rc->raw_json) : result_json(rc);
		answer_done(rc);
	}
	receiver_release(rc);
	free(rc);
	return r;
}

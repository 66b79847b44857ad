/*
 * send-talk.c - what the receiver is asked, and says
 *
 * A window's content is asked about before it is sent: for each chunk the hash by which the receiver's dedupe index knows
 * it, and SHA-256, which alone decides.  Several windows are asked about before the first answer is
 * waited for, so that a long way costs its bandwidth and not a round trip a window.  The number of open queries is
 * bounded (FORMAT.md): their answers fit into any pipe, so waiting for room to write never waits for
 * somebody who waits for us to read.
 */
#include <errno.h>
#include <openssl/evp.h>
#include <string.h>

#include "fs/stream/send-private.h"

/* For a password to be typed on the way; but who reads and never answers must not keep us for ever. */
#define HELLO_PATIENCE_MS 180000

/* ERROR, or what has no business here. */
static int unexpected(struct sender *s, const struct stream_record *rec)
{
	if (rec->type == STREAM_ERROR)
		return errmsg_set(s->em, -EREMOTEIO, "the receiver says: %.*s",
		        (int)MIN(rec->text.len, (size_t)400), (const char *)rec->text.data);
	return errmsg_set(s->em, -EPROTO, "the receiver's answer makes no sense");
}

static int answer_read(struct sender *s, enum stream_type want, struct stream_record *ret_rec)
{
	struct errmsg em = {0};
	int r = record_flush(s->w);

	if (r == -EPIPE)
		return talk_why(s);
	if (r == 0)
		r = record_read(s->answers, ret_rec, &em);
	if (r == -ECANCELED || r == -ETIMEDOUT)
		return r;
	if (r < 0)
		return errmsg_set(s->em, r == -ENODATA ? -EPIPE : r, "%s",
		        em.text[0] ? em.text : strerror(-r));
	return ret_rec->type == want ? 0 : unexpected(s, ret_rec);
}

int talk_why(struct sender *s)
{
	struct stream_record rec;
	struct errmsg em = {0};
	int r = s->answers ? 0 : -ENODATA;

	while (r == 0) {
		r = record_read(s->answers, &rec, &em);
		if (r == 0 && rec.type == STREAM_ERROR)
			return unexpected(s, &rec);
	}
	return errmsg_set(s->em, -EPIPE, "who reads the stream has gone%s",
	        s->answers ? " without saying why" : "");
}

int talk_begin(struct sender *s)
{
	struct stream_record rec;

	record_reader_patience(s->answers, HELLO_PATIENCE_MS);
	const int r = answer_read(s, STREAM_HELLO, &rec);
	if (r == -ETIMEDOUT)
		return errmsg_set(s->em, r,
		        "no answer from the receiver in %d minutes: does the command run weir "
		        "receive?",
		        HELLO_PATIENCE_MS / 60000);
	if (r < 0)
		return r;
	record_reader_patience(s->answers, -1);
	if (rec.hello.start > s->end)
		return errmsg_set(s->em, -EPROTO, "the receiver's answer makes no sense");
	s->hello = rec.hello;
	s->start = rec.hello.start;
	return 0;
}

struct asking {
	struct sender *s;
	struct window *w;
	int r;
};

static void ask_fill(void *arg, unsigned spot, const uint8_t *chunk)
{
	struct asking *a = arg;
	uint8_t sha[EVP_MAX_MD_SIZE];
	struct stream_ask ask = {.off = a->w->spots[spot].chunk * CHUNK_SIZE};

	ask.hash = chunk_hash(&a->s->hello.hasher, chunk);
	if (!EVP_Digest(chunk, CHUNK_SIZE, sha, NULL, EVP_sha256(), NULL))
		a->r = -EIO;
	else
		memcpy(ask.sha, sha, STREAM_SHA_LEN);
	stream_ask_put(a->s->asks, spot, &ask);
}

int talk_ask(struct sender *s, struct window *w)
{
	struct asking a = {.s = s, .w = w};
	int r = window_each(w, ask_fill, &a);

	if (r < 0 || a.r < 0)
		return r < 0 ? r : a.r;
	struct stream_record rec = {
	        .type = STREAM_QUERY,
	        .query = {.n = w->n, .asks = {s->asks, (size_t)w->n * STREAM_ASK_LEN}},
	};
	r = record_write(s->w, &rec);
	w->query = rec.query.id;
	w->asked = true;
	return r < 0 ? r : record_flush(s->w);
}

int talk_answer(struct sender *s, struct window *w)
{
	struct stream_record rec;
	const int r = answer_read(s, STREAM_HAVE, &rec);

	if (r < 0)
		return r;
	if (rec.have.id != w->query || rec.have.n != w->n)
		return errmsg_set(s->em, -EPROTO, "the receiver's answer makes no sense");
	for (unsigned i = 0; i < w->n; i++) {
		if (!stream_have_bit(&rec.have, i))
			continue;
		w->spots[i].done = true;
		s->count.had += CHUNK_SIZE;
	}
	return 0;
}

int talk_end(struct sender *s)
{
	struct stream_record rec;
	const int r = answer_read(s, STREAM_DONE, &rec);

	if (r < 0)
		return r;
	s->receiver = strndup((const char *)rec.done.data, rec.done.len);
	return s->receiver ? 0 : -ENOMEM;
}

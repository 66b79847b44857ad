/*
 * receive-write.c - the content of an image, as records of a stream say it
 *
 * Written as a guest's writes are, below the stages: throttled, into the overlay, deduplicated and compressed
 * when a group is committed, by the policy of where it lands.  Positions and bounds within the
 * stream have been checked by the decoder; here, that they lie in the image.
 *
 * What lies below the position of an earlier stream is there already, and is passed over: the same
 * guid is the same content.
 *
 * A query is answered by what the answer says: a chunk that is found, and whose SHA-256 is the one asked
 * for, is put in place at once.
 */
#include <errno.h>
#include <openssl/evp.h>
#include <string.h>

#include "fs/stream/receive-private.h"
#include "store/known.h"

#define SHARE_STEP_BYTES (4ull << 20)

static uint64_t image_end(const struct receiver *rc)
{
	return ROUND_UP(rc->begin.size, CHUNK_SIZE);
}

static int outside(struct errmsg *em)
{
	return errmsg_set(
	        em, -EUCLEAN, "the stream is damaged: it speaks of what is not in the image");
}

static bool fits(const struct receiver *rc, uint64_t off, uint64_t len)
{
	return off <= image_end(rc) && len <= image_end(rc) - off;
}

/* An earlier stream has brought it. */
static bool is_there(const struct receiver *rc, uint64_t off)
{
	return off < rc->st.rec.pos;
}

static int put(struct receiver *rc, uint64_t off, const void *data, size_t len)
{
	struct store *s = rc->m->ds->store;
	int r = store_throttle(s, len);

	if (r < 0)
		return r;
	store_enter(s);
	r = store_write(rc->st.img, off, data, len);
	store_leave(s);
	rc->st.unsaved_bytes += len;
	return r;
}

/* --- DATA --- */

/* Places that follow each other in the frame and in the image, from i on. */
static unsigned run_length(const struct stream_data *d, unsigned i)
{
	unsigned n = 1;

	while (i + n < d->n_places && d->places[i + n].index == d->places[i].index + n &&
	        d->places[i + n].off == d->places[i].off + (uint64_t)n * CHUNK_SIZE)
		n++;
	return n;
}

static int write_data(struct receiver *rc, const struct stream_data *d, struct errmsg *em)
{
	int r = stream_data_unpack(d, rc->chunks);

	if (r < 0)
		return errmsg_set(em, r, "the stream is damaged: its content does not unpack");
	for (unsigned i = 0, n; i < d->n_places && r == 0; i += n) {
		const struct stream_place *at = &d->places[i];
		n = run_length(d, i);
		if (!fits(rc, at->off, (uint64_t)n * CHUNK_SIZE))
			return outside(em);
		rc->placed_bytes += (uint64_t)n * CHUNK_SIZE;
		if (!is_there(rc, at->off + (uint64_t)(n - 1) * CHUNK_SIZE))
			r = put(rc, at->off, rc->chunks + (size_t)at->index * CHUNK_SIZE,
			        (size_t)n * CHUNK_SIZE);
	}
	return r;
}

/* --- FILL and SHARE --- */

static int write_fill(struct receiver *rc, const struct stream_fill *f, struct errmsg *em)
{
	struct store *s = rc->m->ds->store;

	if (!fits(rc, f->off, f->len))
		return outside(em);
	if (is_there(rc, f->off + f->len - 1))
		return 0;
	int r = store_throttle(s, CHUNK_SIZE);
	if (r < 0)
		return r;
	store_enter(s);
	r = store_punch(rc->st.img, f->off, f->len, f->zero);
	store_leave(s);
	return r;
}

static int share_bytes(struct receiver *rc, uint64_t off, uint64_t src)
{
	const int r = store_read(rc->st.img, src, rc->chunks, CHUNK_SIZE);

	return r < 0 ? r : put(rc, off, rc->chunks, CHUNK_SIZE);
}

/* *ret_len bytes of it, at least one chunk. */
static int share_step(
        struct receiver *rc, uint64_t off, uint64_t src, uint64_t len, uint64_t *ret_len)
{
	struct store *s = rc->m->ds->store;
	struct image *img = rc->st.img;
	int r = store_throttle(s, CHUNK_SIZE);

	if (r < 0)
		return r;
	store_enter(s);
	r = store_share(img, src, img, off, MIN(len, SHARE_STEP_BYTES), ret_len);
	store_leave(s);
	if (r != -EAGAIN && r != -EXDEV)
		return r;
	*ret_len = CHUNK_SIZE; /* a base may have chunks of another crypto domain */
	return share_bytes(rc, off, src);
}

static int write_share(struct receiver *rc, const struct stream_share *sh, struct errmsg *em)
{
	int r = 0;

	if (!fits(rc, sh->off, sh->len) || !fits(rc, sh->src, sh->len))
		return outside(em);
	if (is_there(rc, sh->off + sh->len - 1))
		return 0;
	for (uint64_t done = 0, n; done < sh->len && r == 0; done += n) {
		n = 0;
		r = receive_cut(rc);
		if (r == 0)
			r = share_step(rc, sh->off + done, sh->src + done, sh->len - done, &n);
	}
	return r;
}

/* --- QUERY --- */

static bool sha_is(void *arg, const void *data)
{
	const struct stream_ask *ask = arg;
	uint8_t sha[EVP_MAX_MD_SIZE];

	return EVP_Digest(data, CHUNK_SIZE, sha, NULL, EVP_sha256(), NULL) == 1 &&
	       !memcmp(sha, ask->sha, STREAM_SHA_LEN);
}

/* 1: the chunk is in place; 0: it is not known. */
static int ask_answer(struct receiver *rc, struct stream_ask *ask)
{
	struct store *s = rc->m->ds->store;
	uint64_t entry;

	if (is_there(rc, ask->off))
		return 1;
	int r = store_known_find(
	        s, rc->place.policy.domain, ask->hash, sha_is, ask, &entry, rc->chunks);
	if (r == -ENOENT)
		return 0;
	if (r == 0)
		r = store_throttle(s, CHUNK_SIZE);
	if (r < 0)
		return r;
	store_enter(s);
	r = store_known_share(rc->st.img, ask->off, entry);
	if (r == -ESTALE) /* about to be collected */
		r = store_write(rc->st.img, ask->off, rc->chunks, CHUNK_SIZE);
	store_leave(s);
	rc->known_bytes += r == 0 ? CHUNK_SIZE : 0;
	rc->st.unsaved_bytes +=
	        CHUNK_SIZE / 16; /* a reference; and what comes after a cut is cheap */
	return r < 0 ? r : 1;
}

static int write_query(struct receiver *rc, const struct stream_query *q, struct errmsg *em)
{
	uint8_t bits[DIV_UP(STREAM_ASKS_MAX, 8)] = {0};
	struct stream_record answer = {.type = STREAM_HAVE};

	if (!rc->writer)
		return errmsg_set(em, -EUCLEAN, "the stream asks, and there is no way to answer");
	for (unsigned i = 0; i < q->n; i++) {
		struct stream_ask ask;
		stream_ask_get(q, i, &ask);
		if (!fits(rc, ask.off, CHUNK_SIZE))
			return outside(em);
		const int r = ask_answer(rc, &ask);
		if (r < 0)
			return r;
		bits[i / 8] |= (uint8_t)(r << (i % 8));
	}
	answer.have = (struct stream_have){.id = q->id, .n = q->n, .bits = {bits, DIV_UP(q->n, 8)}};
	return receive_answer(rc, &answer, em);
}

/* --- all --- */

int write_record(struct receiver *rc, const struct stream_record *rec, struct errmsg *em)
{
	int r = 0;

	switch (rec->type) {
	case STREAM_FILL:
		r = write_fill(rc, &rec->fill, em);
		break;
	case STREAM_DATA:
		r = write_data(rc, &rec->data, em);
		break;
	case STREAM_SHARE:
		r = write_share(rc, &rec->share, em);
		break;
	case STREAM_QUERY:
		r = write_query(rc, &rec->query, em);
		break;
	case STREAM_POS:
		r = rec->pos > image_end(rc) ? outside(em) : staging_moved(rc, rec->pos, em);
		break;
	default:
		return errmsg_set(em, -EUCLEAN, "the stream is damaged: a record is out of place");
	}
	if (r < 0 && !em->text[0])
		errmsg_set(em, r, "cannot store what came: %s", strerror(-r));
	return r;
}

int write_end(struct receiver *rc, struct errmsg *em)
{
	struct store *s = rc->m->ds->store;
	int r = store_throttle(s, CHUNK_SIZE);

	if (r == 0) {
		store_enter(s);
		r = store_punch(rc->st.img, rc->begin.size, IMAGE_SIZE_MAX - rc->begin.size, false);
		store_leave(s);
	}
	rc->st.pos = image_end(rc);
	if (r == 0)
		r = staging_save(rc);
	return r < 0 ? errmsg_set(em, r, "cannot store what came: %s", strerror(-r)) : 0;
}

/*
 * segments-place.c - which tier a segment's file is on: moves, copies, and back again
 *
 * A move is a new generation on another tier, byte for byte but for the header, which names it:
 *
 *	step                               a power cut right after it leaves
 *	source read, all of it checked     nothing
 *	file written, synced; so are its   an orphan on the target
 *	name and the directories above
 *	read again and compared            the same
 *	(commit: one row)                  the new file counts; the old one is an orphan, or the copy
 *	old file removed                   nothing
 *
 * What is read again comes from the medium where it knows O_DIRECT.  Where a copy lies on the target
 * already, nothing is written: it is read and checked, and the row says that it counts from now on.
 *
 * The source is the file that counts; if it is damaged or away, the copy.  A source with damaged
 * frames is moved only when it has to be (a tier that is to go): what is whole stays readable, what is
 * damaged stays -EIO.
 *
 * Readers have handles of a generation, and end with the file that they began with.
 *
 * Threads: the mover's; h->rewriting keeps the collector and the mover apart.
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "store/segment-scan.h"
#include "store/segments-priv.h"

struct place {
	struct segments *ss;
	struct handle *h;
	struct seg was; /* the row */
	struct pend *p; /* what it becomes */
	uint8_t *buf;   /* SEGMENT_BYTES_MAX, aligned: the file */
	struct segment_contents *c;
	bool damaged; /* take damaged frames along */
};

/* Is what is in pl->buf a file of this generation, and is it whole? */
static int file_check(struct place *pl, uint32_t gen, size_t len)
{
	const struct seg *s = &pl->was;
	struct segment_contents *c = pl->c;

	if (len != s->file_bytes)
		return -EUCLEAN;
	const int r = segment_scan_bytes(pl->buf, len, s->id, pl->ss->store, 0, NULL, NULL, c);
	if (r < 0)
		return r;
	if (!c->header_good || c->header.gen != gen || c->header.domain != s->domain ||
	        memcmp(c->header.uuid, pl->ss->uuid, sizeof(c->header.uuid)) != 0)
		return -EUCLEAN;
	if (!c->footer_good || c->frames_end != s->bytes || c->slots != s->slots)
		return -EUCLEAN;
	return c->damaged > 0 || c->strange_bytes > 0 ? -EBADMSG : 0;
}

/* One of the segment's files into pl->buf.  -EBADMSG: single frames of it are damaged. */
static int source_read(struct place *pl, uint32_t tier, uint32_t gen)
{
	char name[SEGMENT_NAME_LEN];
	size_t len = 0;

	segment_name(tier, pl->was.id, gen, name);
	int r = segment_scan_read(pl->ss->io, name, pl->buf, SEGMENT_BYTES_MAX, &len);
	if (r == 0)
		r = file_check(pl, gen, len);
	if (r < 0)
		log_warn("segment file '%s' is not whole: %s", name, strerror(-r));
	return r;
}

/* The better one of its files. */
static int source_load(struct place *pl)
{
	const struct seg *s = &pl->was;
	int r = source_read(pl, s->tier, s->gen), of_copy = -ENOENT;

	if (r == 0 || r == -ENOMEM)
		return r;
	if (s->copy_tier != SEG_NO_COPY)
		of_copy = source_read(pl, s->copy_tier, s->copy_gen);
	if (of_copy == 0 || of_copy == -ENOMEM)
		return of_copy;
	if (!pl->damaged)
		return -EUCLEAN;
	/* The file that counts, if it can be read at all. */
	if (r == -EBADMSG)
		return source_read(pl, s->tier, s->gen) == -EBADMSG ? 0 : -EIO;
	return of_copy == -EBADMSG ? 0 : r == -EUCLEAN ? -EUCLEAN : -EIO;
}

static int made_sync(struct place *pl, uint32_t tier)
{
	struct io *io = pl->ss->io;
	char name[SEGMENT_NAME_LEN];

	segment_dir_name(tier, pl->was.id & 0xff, name);
	int r = io_sync_dir(io, name);
	segment_top_name(tier, name);
	return r < 0 ? r : io_sync_dir(io, name);
}

/* Reads the new file again, beside the buffer that it was written from. */
static int written_verify(struct place *pl, const char *name)
{
	const size_t len = pl->was.file_bytes;
	CLEANUP(free_ptr) uint8_t *again = aligned_alloc(IO_ALIGN, SEGMENT_BYTES_MAX);
	size_t got = 0;

	if (!again)
		return -ENOMEM;
	const int r = segment_scan_read(pl->ss->io, name, again, SEGMENT_BYTES_MAX, &got);
	if (r < 0)
		return r;
	return got == len && memcmp(again, pl->buf, len) == 0 ? 0 : -EIO;
}

static void header_renew(struct place *pl, uint32_t gen)
{
	const struct seg *s = &pl->was;
	struct segment_header hd = {
	        .id = s->id, .gen = gen, .domain = s->domain, .created_txg = s->created_txg};

	memcpy(hd.uuid, pl->ss->uuid, sizeof(hd.uuid));
	segment_header_encode(&hd, pl->buf);
}

/* What is in pl->buf becomes generation gen on the tier, durable and read again. */
static int file_make(struct place *pl, uint32_t tier, uint32_t gen)
{
	CLEANUP(io_closep) struct io_file *f = NULL;
	char name[SEGMENT_NAME_LEN];

	segment_name(tier, pl->was.id, gen, name);
	header_renew(pl, gen);
	int r = segment_file_create(pl->ss, tier, pl->was.id, gen, &f);
	if (r == 0)
		r = io_pwrite(f, pl->buf, pl->was.file_bytes, 0);
	if (r == 0)
		r = io_sync(f);
	if (r == 0)
		r = made_sync(pl, tier);
	if (r == 0)
		r = written_verify(pl, name);
	if (r < 0) {
		log_error("cannot write segment file '%s': %s", name, strerror(-r));
		unlink_quietly(pl->ss, tier, pl->was.id, gen);
	}
	return r;
}

/* Without the lock.  *ret_written: bytes. */
static int place_files(
        struct place *pl, uint32_t tier, enum segment_place how, uint64_t *ret_written)
{
	const struct seg *s = &pl->was;
	const uint32_t gen = seg_next_gen(s);
	struct pend *p = pl->p;
	int r;

	*ret_written = 0;
	if (how == SEGMENT_UNCOPY || (how == SEGMENT_MOVE && s->tier == tier)) {
		p->copy_tier = SEG_NO_COPY;
		return 0;
	}
	if (s->copy_tier == tier) { /* it counts from now on */
		r = source_read(pl, s->copy_tier, s->copy_gen);
		if (r == 0) {
			p->tier = s->copy_tier;
			p->gen = s->copy_gen;
		}
	} else {
		r = source_load(pl);
	}
	if (s->copy_tier != tier || r < 0) {
		if (s->copy_tier == tier) /* is not what it was: made anew */
			r = source_load(pl);
		if (r == 0)
			r = file_make(pl, tier, gen);
		if (r < 0)
			return r;
		*ret_written = s->file_bytes;
		if (how == SEGMENT_COPY) {
			p->copy_tier = (uint8_t)tier;
			p->copy_gen = gen;
			return 0;
		}
		p->tier = (uint8_t)tier;
		p->gen = gen;
	}
	p->copy_tier = how == SEGMENT_MOVE_KEEP ? s->tier : SEG_NO_COPY;
	p->copy_gen = s->gen;
	return 0;
}

/* Is it as it is asked for?  With the lock. */
static bool is_placed(const struct seg *s, uint32_t tier, enum segment_place how)
{
	switch (how) {
	case SEGMENT_MOVE:
		return s->tier == tier && s->copy_tier == SEG_NO_COPY;
	case SEGMENT_MOVE_KEEP:
		return s->tier == tier;
	case SEGMENT_COPY:
		return s->tier == tier || s->copy_tier == tier;
	case SEGMENT_UNCOPY:
		return s->copy_tier == SEG_NO_COPY;
	}
	return false;
}

/* With the lock, given up meanwhile; s is claimed. */
static int seg_place(struct segments *ss, struct seg *s, uint32_t tier, enum segment_place how,
        bool damaged, uint64_t *ret_written)
{
	CLEANUP(free_ptr) struct pend *p = calloc(1, sizeof(*p));
	CLEANUP(free_ptr) struct segment_contents *c = malloc(sizeof(*c));
	struct handle *h = p && c ? handle_get(ss, s) : NULL;

	if (!h)
		return -ENOMEM;
	h->rewriting = true;
	struct wbuf *b = wbuf_take(ss);
	struct place pl = {.ss = ss, .h = h, .was = *s, .p = p, .c = c, .damaged = damaged};
	*p = (struct pend){.gen = s->gen,
	        .tier = s->tier,
	        .copy_gen = s->copy_gen,
	        .copy_tier = s->copy_tier,
	        .bytes = s->bytes,
	        .file_bytes = s->file_bytes,
	        .placed = true};
	int r = b ? 0 : -ENOMEM;
	pthread_mutex_unlock(&ss->lock);
	if (r == 0) {
		pl.buf = b->data;
		r = place_files(&pl, tier, how, ret_written);
	}
	pthread_mutex_lock(&ss->lock);
	wbuf_release(ss, b);
	h->rewriting = false;
	if (r == 0)
		r = seg_dirty(ss, s);
	if (r == 0)
		h->pend = STEAL(p);
	handle_put(ss, h);
	return r;
}

int segments_place(struct segments *ss, uint64_t segment, uint32_t tier, enum segment_place how,
        bool damaged, uint64_t *ret_written_bytes)
{
	struct seg *s = NULL;
	uint64_t written = 0;

	ASSERT(tier < IO_MUX_MEDIA);
	pthread_mutex_lock(&ss->lock);
	int r = seg_claim(ss, segment, &s);
	if (r == 0 && !is_placed(s, tier, how))
		r = seg_place(ss, s, tier, how, damaged, &written);
	pthread_mutex_unlock(&ss->lock);
	if (r == 0)
		*ret_written_bytes = written;
	return r == -EBADMSG ? -EUCLEAN : r;
}

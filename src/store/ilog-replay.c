/*
 * ilog-replay.c - recovery from the intent log
 *
 * Walks the ring from the tail while batches are valid and consecutive, through a window that reads
 * WINDOW_BYTES at a time: a log full of 8 KiB batches is read at the medium's streaming speed.
 *
 * Where the walk ends there is either the end of the log (nothing was written there in this lap,
 * or the batch that was under way when the power went) or damage.  Since a batch is begun only
 * after the one before it was synced, a valid header of this epoch with a higher sequence proves
 * that the bad batch had been acknowledged: damage.  A batch's successor begins within
 * ILOG_BATCH_MAX of it; looking SCAN_BYTES ahead finds one even when many in a row are gone, and
 * bounds the time that mounting takes with a large log.  (The very last batch cannot be told from
 * a torn one: a log has this limit in common with all others.)
 *
 * Read-only: used before ilog_start, by the one thread that opens the store, and by check.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "store/ilog-int.h"

#define WINDOW_BYTES (1u << 20)
#define SCAN_BYTES   (256ull << 20)

/* A part of the ring in memory. */
struct window {
	struct ilog *log;
	uint8_t *buf; /* ILOG_BATCH_MAX of address space is enough for any batch */
	size_t cap;
	uint64_t off; /* in the ring */
	size_t len;
};

static void window_release(struct window *w)
{
	free(w->buf);
}

static int window_grow(struct window *w, size_t cap)
{
	if (cap <= w->cap)
		return 0;
	uint8_t *buf = aligned_alloc(IO_ALIGN, cap);
	if (!buf)
		return -ENOMEM;
	free(w->buf);
	w->buf = buf;
	w->cap = cap;
	w->len = 0;
	return 0;
}

static int window_read(struct window *w, uint64_t off, size_t len)
{
	w->len = 0;
	int r = window_grow(w, len);
	if (r < 0)
		return r;
	r = io_pread_exact(w->log->file, w->buf, len, ILOG_HEADER_LEN + off);
	if (r < 0)
		return r == -ENODATA ? -EIO : r; /* the size was checked when it was opened */
	w->off = off;
	w->len = len;
	return 0;
}

/* len bytes (a multiple of IO_ALIGN, not past the ring's end) at off; valid until the next call. */
static int window_get(struct window *w, uint64_t off, size_t len, const uint8_t **ret_data)
{
	if (off < w->off || off + len > w->off + w->len) {
		const uint64_t rest = w->log->header.ring_bytes - off;
		const size_t ahead = MAX(len, (size_t)MIN(rest, (uint64_t)WINDOW_BYTES));
		int r = window_read(w, off, ahead);
		if (r < 0 && ahead > len) /* a bad sector further on is nobody's business yet */
			r = window_read(w, off, len);
		if (r < 0)
			return r;
	}
	*ret_data = w->buf + (off - w->off);
	return 0;
}

/* The header of the batch at off.  -ENODATA: none of this epoch there. */
static int header_load(struct window *w, uint64_t off, uint64_t epoch, struct ilog_batch *ret_batch)
{
	struct ilog_batch b;
	const uint8_t *p = NULL;
	const int r = window_get(w, off, IO_ALIGN, &p);

	if (r < 0)
		return r;
	if (ilog_batch_decode(&w->log->hasher, p, w->log->header.ring_bytes, &b) < 0)
		return -ENODATA;
	if (b.off != off || b.epoch != epoch)
		return -ENODATA;
	*ret_batch = b;
	return 0;
}

/* A batch of this epoch with a sequence above seq, from off on: *ret_found, or the ring's length.
 */
static int scan_later(
        struct window *w, uint64_t epoch, uint64_t off, uint64_t seq, uint64_t *ret_found)
{
	const uint64_t ring = w->log->header.ring_bytes;
	struct ilog_batch b;

	for (uint64_t done = 0; done < MIN(ring, SCAN_BYTES); done += IO_ALIGN) {
		const uint64_t at = (off + done) % ring;
		const int r = header_load(w, at, epoch, &b);
		if (r == -ENOMEM)
			return r;
		if (r == 0 && b.seq > seq) { /* what cannot be read is passed over */
			*ret_found = at;
			return 0;
		}
	}
	*ret_found = ring;
	return 0;
}

static int hand_out(const struct ilog_batch *b, const uint8_t *data, ilog_record_fn *fn, void *arg)
{
	struct bytes_in in = {.data = data + ILOG_BATCH_HEADER_LEN, .len = b->payload_len};
	struct ilog_record rec;

	for (uint32_t i = 0; i < b->n_records; i++) {
		int r = ilog_record_decode(&in, &rec);
		if (r == 0)
			r = fn(arg, &rec);
		if (r != 0)
			return r;
	}
	return 0;
}

/* The walk ended at off, where batch seq would be. */
static int judge_end(
        struct window *w, uint64_t epoch, uint64_t off, uint64_t seq, struct errmsg *em)
{
	uint64_t found = 0;
	const int r = scan_later(w, epoch, off, seq, &found);

	if (r < 0)
		return errmsg_set(em, r, "cannot search the intent log: %s", strerror(-r));
	if (found < w->log->header.ring_bytes)
		return errmsg_set(em, -EUCLEAN,
		        "the intent log is damaged: batch %" PRIu64 " at offset %" PRIu64
		        " is bad, but there is a later one at %" PRIu64,
		        seq, ILOG_HEADER_LEN + off, ILOG_HEADER_LEN + found);
	return 0;
}

/* Loads and checks the whole batch seq at off.  -ENODATA: it is not there, or torn. */
static int batch_load(struct window *w, uint64_t epoch, uint64_t off, uint64_t seq,
        struct ilog_batch *ret_batch, const uint8_t **ret_data, struct errmsg *em)
{
	struct ilog_batch b;
	const uint8_t *p = NULL;
	int r = header_load(w, off, epoch, &b);

	if (r == 0 && b.seq != seq)
		return -ENODATA;
	if (r == 0)
		r = window_get(w, off, b.filler ? IO_ALIGN : ilog_batch_size(&b, 0), &p);
	if (r == -ENODATA)
		return r;
	if (r < 0)
		return errmsg_set(em, r, "cannot read the intent log at offset %" PRIu64 ": %s",
		        ILOG_HEADER_LEN + off, strerror(-r));
	r = ilog_batch_verify(&w->log->hasher, &b, p);
	if (r == -EBADMSG)
		return -ENODATA;
	if (r < 0)
		return errmsg_set(em, r,
		        "the intent log is damaged: records of batch %" PRIu64 " at offset %" PRIu64
		        " make no sense",
		        seq, ILOG_HEADER_LEN + off);
	*ret_batch = b;
	*ret_data = p;
	return 0;
}

int ilog_replay(struct ilog *l, uint64_t epoch, uint64_t tail_off, uint64_t tail_seq,
        ilog_record_fn *fn, void *arg, uint64_t *ret_off, uint64_t *ret_seq, struct errmsg *em)
{
	CLEANUP(window_release) struct window w = {.log = l};
	const uint64_t ring = l->header.ring_bytes;
	uint64_t off = tail_off, seq = tail_seq;
	struct ilog_batch b;
	const uint8_t *data = NULL;
	int r;

	if (tail_off >= ring || tail_off % IO_ALIGN)
		return errmsg_set(em, -EUCLEAN,
		        "the metadata names offset %" PRIu64
		        " of the intent log, which has none such",
		        tail_off);
	/* Ends after a lap at the latest: then the sequence at off is an old one. */
	while ((r = batch_load(&w, epoch, off, seq, &b, &data, em)) == 0) {
		r = hand_out(&b, data, fn, arg);
		if (r != 0)
			return r;
		off = (off + ilog_batch_size(&b, ring)) % ring;
		seq++;
	}
	if (r == -ENODATA)
		r = judge_end(&w, epoch, off, seq, em);
	if (r < 0)
		return r;
	*ret_off = off;
	*ret_seq = seq;
	return 0;
}

/*
 * segments-txg.c - how a transaction group makes appended frames and new generations official
 *
 * By the txg thread, in this order:
 *
 *	step              durable by then            a power cut right after it
 *	segments_append   nothing                    files with unknown content that no row names,
 *	                                             and tails past row.bytes: void
 *	segments_txg_sync all frames, footers, names the same: no row names them yet
 *	segments_txg_write                           the same: the transaction is not committed
 *	(commit)          the rows                   everything is official; replaced and dropped
 *	                                             files are orphans, removed in the background
 *	..._committed                                the same, less orphans
 *
 * Syncing.  Files are written with IO_DIRECT, so that a sync has little left to do but the journal
 * and the drive's cache, and the first of many pays for most of it: 64 files of 4 MiB took 4-6 ms
 * one after the other and 2-4 ms with 16 threads.  Hence a loop.
 *
 * Abort.  After a failed write or sync nothing is known of the pages past the committed length, so
 * those files are not written again.  Segments that began in the group go, with their ids: at once
 * if no row was put yet; else with the next commit, because a commit that failed may still be found
 * in the database's log after a crash, and then counts.  Nothing that it names may be touched until
 * a later commit has taken its place.  A segment that had a committed part is *stuck*: closed to
 * appends, its file read only up to the committed length.  The next sync copies that part to the
 * next generation, a new file with footer, which the next commit makes official; the old file stays
 * as it is until then.  If the copy fails, the group does not: the segment just stays open (no
 * footer), and is continued or sealed after the next mount.  Rewrites and drops asked for by the
 * collector have nothing to do with the group's writes and stay pending.
 */
#include <errno.h>
#include <stdio.h>

#include "base/log.h"
#include "store/segments-priv.h"

#define TXG_ROWS_BATCH 128u /* rows copied under the lock at a time */

/* --- sync --- */

static bool copies_pending(const struct segments *ss)
{
	const struct list *l;

	for (l = ss->writers.next; l != &ss->writers; l = l->next)
		if (CONTAINER_OF(l, struct writer, in_writers)->copiers > 0)
			return true;
	return ss->writing > 0;
}

static void copies_wait(struct segments *ss)
{
	while (copies_pending(ss))
		pthread_cond_wait(&ss->changed, &ss->lock);
}

static struct writer *writer_to_flush(struct segments *ss)
{
	struct list *l;

	for (l = ss->writers.next; l != &ss->writers; l = l->next) {
		struct writer *w = CONTAINER_OF(l, struct writer, in_writers);
		if (w->done || w->writing || w->copiers > 0)
			continue;
		if (w->closed || w->slots > w->flushed_slots)
			return w;
	}
	return NULL;
}

static struct writer *writer_to_sync(struct segments *ss)
{
	struct list *l;

	for (l = ss->writers.next; l != &ss->writers; l = l->next) {
		struct writer *w = CONTAINER_OF(l, struct writer, in_writers);
		if (!w->synced && !w->writing)
			return w;
	}
	return NULL;
}

static int files_sync(struct segments *ss)
{
	struct list *l, *next;
	struct writer *w;
	int r = ss->failed;

	for (l = ss->opens.next; l != &ss->opens; l = next) {
		next = l->next;
		w = CONTAINER_OF(l, struct writer, in_opens);
		if (w->slots > 0 && (ss->seal_all || w->slots == SEGMENT_SLOTS))
			writer_close(ss, w);
	}
	copies_wait(ss);
	while (r == 0 && (w = writer_to_flush(ss)))
		r = writer_flush(ss, w);
	while (r == 0 && (w = writer_to_sync(ss)))
		r = writer_sync(ss, w);
	return r;
}

/* Clears the mark before the sync, so that a file created meanwhile sets it again. */
static int dir_sync(struct segments *ss, const char *name, bool *dirty)
{
	if (!*dirty)
		return 0;
	*dirty = false;
	pthread_mutex_unlock(&ss->lock);
	const int r = io_sync_dir(ss->io, name);
	pthread_mutex_lock(&ss->lock);
	if (r < 0) {
		*dirty = true;
		log_error("cannot sync directory '%s': %s", name, strerror(-r));
	}
	return r;
}

/* Of the first tier; whoever writes a new generation elsewhere syncs what it made there. */
static int dirs_sync(struct segments *ss)
{
	struct seg_dirs *d = &ss->dirs[0];
	char name[SEGMENT_NAME_LEN];
	int r = 0;

	for (unsigned hh = 0; r == 0 && hh < 256; hh++) {
		segment_dir_name(0, hh, name);
		r = dir_sync(ss, name, &d->dirty[hh]);
	}
	segment_top_name(0, name);
	return r < 0 ? r : dir_sync(ss, name, &d->top_dirty);
}

/* What is in the files now is what the group's rows will say. */
static int writers_stage(struct segments *ss)
{
	struct list *l;
	int r = 0;

	for (l = ss->writers.next; r == 0 && l != &ss->writers; l = l->next) {
		struct writer *w = CONTAINER_OF(l, struct writer, in_writers);
		if (w->written == w->row_bytes && w->done == w->row_sealed)
			continue;
		r = seg_dirty(ss, w->h->seg);
		w->row_bytes = w->written;
		w->row_slots = w->flushed_slots;
		w->row_frame_bytes = w->flushed_frame_bytes;
		w->row_sealed = w->done;
	}
	return r;
}

int segments_txg_sync(struct segments *ss)
{
	pthread_mutex_lock(&ss->lock);
	int r = files_sync(ss);
	const bool stuck = ss->stuck > 0;
	pthread_mutex_unlock(&ss->lock);
	if (r == 0 && stuck)
		segments_unstick(ss);
	pthread_mutex_lock(&ss->lock);
	if (r == 0)
		r = dirs_sync(ss);
	if (r == 0)
		r = writers_stage(ss);
	if (r == 0)
		ss->seal_all = false;
	else
		ss->failed = ss->failed ? ss->failed : r;
	pthread_mutex_unlock(&ss->lock);
	return r;
}

void segments_seal_all(struct segments *ss)
{
	pthread_mutex_lock(&ss->lock);
	ss->seal_all = true;
	for (size_t i = 0; i < ss->rows.n; i++) {
		struct seg *s = ss->rows.v[i];
		const struct handle *h = s->handle;
		if (!(s->flags & SEG_OPEN) || s->flags & (SEG_NEW | SEG_STUCK) ||
		        (h && (h->w || h->pend)))
			continue;
		s->flags |= SEG_STUCK;
		ss->stuck++;
	}
	pthread_mutex_unlock(&ss->lock);
}

/* --- rows --- */

/* The row that the present transaction is to put. */
static void seg_row_next(struct seg *s, struct segment_row *ret_row)
{
	const struct handle *h = s->handle;
	struct segment_row *row = ret_row;

	seg_row(s, row);
	if (h && h->w) {
		const struct writer *w = h->w;
		row->state = w->row_sealed ? SEGMENT_SEALED : SEGMENT_OPEN;
		row->bytes = w->row_bytes;
		row->file_bytes = w->row_bytes;
		row->file_bytes += w->row_sealed ? (uint32_t)footer_size(w->row_slots) : 0;
		row->live_chunks += w->row_slots - row->slots;
		row->live_bytes += w->row_frame_bytes;
		row->slots = w->row_slots;
	}
	if (h && h->pend) {
		struct pend *p = h->pend;
		p->staged = true;
		row->state = SEGMENT_SEALED;
		row->gen = p->gen;
		row->tier = p->tier;
		row->has_copy = p->copy_tier != SEG_NO_COPY;
		row->copy_tier = row->has_copy ? p->copy_tier : 0;
		row->copy_gen = row->has_copy ? p->copy_gen : 0;
		row->bytes = p->bytes;
		row->file_bytes = p->file_bytes;
		row->live_bytes = p->placed ? row->live_bytes : p->live_bytes;
		row->live_chunks = p->placed ? row->live_chunks : p->live_chunks;
	}
}

/* Everything dirty joins what an earlier, failed try has staged. */
static int rows_stage(struct segments *ss)
{
	while (ss->dirty.n > 0) {
		struct seg *s = ss->dirty.v[ss->dirty.n - 1];
		const int r = segs_push(&ss->staged, s);
		if (r < 0)
			return r;
		ss->dirty.n--;
		s->flags &= (uint16_t)~SEG_DIRTY;
	}
	return 0;
}

static int rows_put(struct segments *ss, const struct segment_row *rows, unsigned n)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < n; i++)
		r = rows[i].slots == UINT32_MAX ? ss->meta->ops->segment_del(ss->meta, rows[i].id)
		                                : ss->meta->ops->segment_put(ss->meta, &rows[i]);
	return r;
}

int segments_txg_write(struct segments *ss)
{
	struct segment_row rows[TXG_ROWS_BATCH];
	size_t done = 0;

	pthread_mutex_lock(&ss->lock);
	ss->put = true;
	int r = rows_stage(ss);
	while (r == 0 && done < ss->staged.n) {
		unsigned n = 0;
		while (n < TXG_ROWS_BATCH && done < ss->staged.n) {
			struct seg *s = ss->staged.v[done++];
			seg_row_next(s, &rows[n]);
			if (s->flags & SEG_DROP) {
				s->flags |= SEG_DROP_STAGED;
				rows[n].slots = UINT32_MAX; /* to be deleted */
			}
			n++;
		}
		pthread_mutex_unlock(&ss->lock);
		r = rows_put(ss, rows, n);
		pthread_mutex_lock(&ss->lock);
	}
	pthread_mutex_unlock(&ss->lock);
	return r;
}

/* --- the outcome --- */

/* seg takes over what its row says now. */
static void seg_apply(struct segments *ss, struct seg *s, const struct segment_row *row)
{
	if (!(s->flags & SEG_NEW))
		seg_totals(ss, s, -1);
	s->flags &= (uint16_t) ~(SEG_NEW | SEG_OPEN);
	s->flags |= row->state == SEGMENT_OPEN ? SEG_OPEN : 0;
	s->gen = row->gen;
	s->tier = (uint8_t)row->tier;
	s->copy_tier = row->has_copy ? (uint8_t)row->copy_tier : SEG_NO_COPY;
	s->copy_gen = row->copy_gen;
	s->bytes = row->bytes;
	s->file_bytes = row->file_bytes;
	s->slots = (uint16_t)row->slots;
	s->live_chunks = (uint16_t)MIN(row->live_chunks, row->slots);
	s->live_bytes = row->live_bytes;
	seg_totals(ss, s, 1);
}

/* The files that the row named before and does not name now go, each once nobody reads it. */
static void pend_committed(struct segments *ss, struct seg *s)
{
	struct handle *h = s->handle;
	const struct seg old = *s;
	struct segment_row row;

	seg_row_next(s, &row);
	seg_apply(ss, s, &row);
	if (s->gen != old.gen) {
		handle_kill(ss, h, s->copy_tier == SEG_NO_COPY || s->copy_gen != old.gen);
	} else {
		free(STEAL(h->pend));
		handle_settle(ss, h);
	}
	if (old.copy_tier != SEG_NO_COPY && old.copy_gen != s->gen &&
	        (s->copy_tier == SEG_NO_COPY || s->copy_gen != old.copy_gen))
		seg_file_remove(ss, &old, old.copy_tier, old.copy_gen);
}

static void seg_committed(struct segments *ss, struct seg *s)
{
	struct handle *h = s->handle;
	struct segment_row row;

	if (s->flags & SEG_GONE)
		return; /* was staged twice */
	if (s->flags & SEG_DROP_STAGED) {
		seg_totals(ss, s, -1);
		s->flags |= SEG_GONE;
		if (s->copy_tier != SEG_NO_COPY)
			seg_file_remove(ss, s, s->copy_tier, s->copy_gen);
		h = handle_get(ss, s);
		if (!h)
			return; /* its file is left to segments_remove_orphans() */
		handle_kill(ss, h, true);
		handle_put(ss, h);
		return;
	}
	if (h && h->pend && h->pend->staged) {
		pend_committed(ss, s);
	} else if (h && h->w) {
		seg_row_next(s, &row);
		seg_apply(ss, s, &row);
		h->w->frame_bytes -= h->w->row_frame_bytes;
		h->w->flushed_frame_bytes -= h->w->row_frame_bytes;
		h->w->row_frame_bytes = 0;
		if (h->w->row_sealed)
			writer_free(ss, h->w);
	}
}

/* What an aborted group left is nobody's any more.  Rows may be added while the lock is given up.
 */
static void limbo_clear(struct segments *ss)
{
	for (size_t i = 0; ss->limbo > 0 && i < ss->rows.n; i++) {
		struct seg *s = ss->rows.v[i];
		if (!(s->flags & SEG_LIMBO) || s->flags & SEG_GONE)
			continue;
		s->flags |= SEG_GONE;
		ss->limbo--;
		const bool wipe = wipe_files_of(ss, s->domain);
		pthread_mutex_unlock(&ss->lock);
		if (wipe)
			segment_file_wipe(ss, s->tier, s->id, s->gen);
		else
			unlink_quietly(ss, s->tier, s->id, s->gen);
		pthread_mutex_lock(&ss->lock);
	}
}

void segments_txg_committed(struct segments *ss)
{
	pthread_mutex_lock(&ss->lock);
	ss->put = false;
	limbo_clear(ss);
	for (size_t i = 0; i < ss->staged.n; i++)
		seg_committed(ss, ss->staged.v[i]);
	ss->staged.n = 0;
	segs_compact(ss);
	pthread_mutex_unlock(&ss->lock);
}

static void segs_filter(struct segs_vec *v)
{
	size_t kept = 0;

	for (size_t i = 0; i < v->n; i++)
		if (!(v->v[i]->flags & (SEG_GONE | SEG_LIMBO)))
			v->v[kept++] = v->v[i];
	v->n = kept;
}

static void writer_abort(struct segments *ss, struct writer *w)
{
	struct handle *h = w->h;
	struct seg *s = h->seg;

	if (!(s->flags & SEG_NEW) && w->slots == s->slots && w->synced && !w->closed)
		return; /* the group did not touch it */
	h->refs++;
	writer_free(ss, w);
	const bool gone = s->flags & SEG_NEW && !ss->put;
	if (gone) {
		s->flags |= SEG_GONE;
	} else if (s->flags & SEG_NEW) {
		s->flags |= SEG_LIMBO | SEG_DROP;
		ss->limbo++;
	} else if (!(s->flags & SEG_STUCK)) {
		s->flags |= SEG_STUCK;
		ss->stuck++;
	}
	handle_kill(ss, h, gone);
	handle_put(ss, h);
}

void segments_txg_abort(struct segments *ss)
{
	struct list *l, *next;

	pthread_mutex_lock(&ss->lock);
	copies_wait(ss);
	for (l = ss->writers.next; l != &ss->writers; l = next) {
		next = l->next;
		writer_abort(ss, CONTAINER_OF(l, struct writer, in_writers));
	}
	segs_filter(&ss->dirty);
	segs_filter(&ss->staged);
	segs_compact(ss);
	ss->failed = 0;
	ss->put = false;
	pthread_mutex_unlock(&ss->lock);
}

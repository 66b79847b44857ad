/*
 * segments-copy.c - a segment's header and frames as they lie in its file
 *
 * Up to the committed length: what lies before it is never written again (a rewrite makes another file), so it is
 * read without the lock.  The reference keeps the file: it is neither removed nor overwritten meanwhile.
 */
#include <errno.h>

#include "store/segments-priv.h"

#define COPY_TRIES 8u /* it may be replaced while it is being looked up, not for ever */

int segments_copy(struct segments *ss, uint64_t segment, uint8_t *buf, struct segment_row *ret_row)
{
	struct segment_row row = {0};
	int r = -EAGAIN;

	pthread_mutex_lock(&ss->lock);
	for (unsigned i = 0; r == -EAGAIN && i < COPY_TRIES; i++) {
		struct seg *s = seg_find(ss, segment);
		const bool there = s && !(s->flags & (SEG_DROP | SEG_NEW));
		struct handle *h = there ? handle_get(ss, s) : NULL;
		if (!h) {
			r = there ? -ENOMEM : -ESTALE;
			break;
		}
		seg_row(s, &row);
		r = handle_load_file(ss, h);
		if (r == 0) {
			pthread_mutex_unlock(&ss->lock);
			r = io_pread_exact(h->file, buf, row.bytes, 0);
			pthread_mutex_lock(&ss->lock);
		}
		handle_put(ss, h);
	}
	pthread_mutex_unlock(&ss->lock);
	if (r == 0)
		*ret_row = row;
	return r == 0 || r == -ENOMEM || r == -ESTALE ? r : -EIO;
}

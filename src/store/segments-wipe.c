/*
 * segments-wipe.c - taking the bytes of dead chunks out of files for good
 *
 * While a domain is being wiped
 *	- each of its segments that exists when that begins carries SEG_WIPE, until the collector finds all
 *	  its slots alive, or has written a generation without dead chunks (segments-rewrite.c), or
 *	  drops it;
 *	- a file of that domain that goes is overwritten with zeros and synced before it is unlinked,
 *	  by whoever drops the last reference to it.
 * Files that no row names (left by a crash) are overwritten as well, whatever their domain: after
 * the unlink, because until then a segment of that name might begin in the very same file.
 *
 * What a filesystem or a drive keeps besides (copy on write, snapshots of the volume, remapped blocks)
 * is out of reach.
 */
#include <errno.h>

#include "base/log.h"
#include "store/segments-priv.h"

#define ZEROS_LEN (64u << 10)

static _Alignas(IO_ALIGN) const uint8_t zeros[ZEROS_LEN];

static int file_zero(struct io_file *f)
{
	uint64_t size = 0;
	int r = io_size(f, &size);

	size = ROUND_UP(size, (uint64_t)IO_ALIGN);
	for (uint64_t off = 0; r == 0 && off < size; off += ZEROS_LEN)
		r = io_pwrite(f, zeros, MIN(size - off, (uint64_t)ZEROS_LEN), off);
	return r < 0 ? r : io_sync(f);
}

static int named_zero(struct segments *ss, const char *name)
{
	CLEANUP(io_closep) struct io_file *f = NULL;
	int r = io_open(ss->io, name, IO_WRITE | IO_DIRECT, &f);

	if (r == -ENOENT)
		return 0;
	return r < 0 ? r : file_zero(f);
}

static void wipe_failed(struct segments *ss, const char *name, int err)
{
	log_error("cannot overwrite segment file '%s': %s", name, strerror(-err));
	pthread_mutex_lock(&ss->lock);
	ss->wipe_error = ss->wipe_error ? ss->wipe_error : err;
	pthread_mutex_unlock(&ss->lock);
}

bool wipe_is_on(const struct segments *ss, uint32_t domain)
{
	return ss->wipe_on && ss->wipe_domain == domain;
}

void segment_file_wipe(struct segments *ss, uint64_t id, uint32_t gen)
{
	char name[SEGMENT_NAME_LEN];

	segment_name(id, gen, name);
	const int r = ss->read_only ? 0 : named_zero(ss, name);
	if (r < 0)
		wipe_failed(ss, name, r);
}

int orphan_open(struct segments *ss, const char *name, struct io_file **ret_file)
{
	pthread_mutex_lock(&ss->lock);
	const bool wipe = ss->wipe_on;
	pthread_mutex_unlock(&ss->lock);
	return wipe ? io_open(ss->io, name, IO_WRITE | IO_DIRECT, ret_file) : 0;
}

void orphan_wipe(struct segments *ss, const char *name, struct io_file *f)
{
	const int r = f ? file_zero(f) : 0;

	if (r < 0)
		wipe_failed(ss, name, r);
}

void segments_wipe_begin(struct segments *ss, uint32_t domain)
{
	pthread_mutex_lock(&ss->lock);
	ASSERT(!ss->wipe_on);
	ss->wipe_on = true;
	ss->wipe_domain = domain;
	ss->wipe_error = 0;
	for (size_t i = 0; i < ss->rows.n; i++)
		if (ss->rows.v[i]->domain == domain)
			ss->rows.v[i]->flags |= SEG_WIPE;
	pthread_mutex_unlock(&ss->lock);
}

bool segments_wipe_wanted(struct segments *ss, uint64_t segment, unsigned live)
{
	pthread_mutex_lock(&ss->lock);
	struct seg *s = seg_find(ss, segment);
	if (s && live == s->slots)
		s->flags &= (uint16_t)~SEG_WIPE;
	const bool wanted = s && s->flags & SEG_WIPE;
	pthread_mutex_unlock(&ss->lock);
	return wanted;
}

int segments_wipe_end(struct segments *ss)
{
	unsigned left = 0;

	pthread_mutex_lock(&ss->lock);
	while (ss->dying) /* readers in flight are all that keeps them */
		pthread_cond_wait(&ss->changed, &ss->lock);
	for (size_t i = 0; i < ss->rows.n; i++) {
		struct seg *s = ss->rows.v[i];
		left += (s->flags & (SEG_WIPE | SEG_GONE)) == SEG_WIPE;
		s->flags &= (uint16_t)~SEG_WIPE;
	}
	ss->wipe_on = false;
	const int err = ss->wipe_error;
	pthread_mutex_unlock(&ss->lock);
	if (left > 0)
		log_error("%u segments could not be wiped of what is deleted", left);
	if (err < 0)
		return err;
	return left > 0 ? -EBUSY : 0;
}

/*
 * segments-wipe.c - taking the bytes of dead chunks out of files for good
 *
 * While a domain is being wiped
 *	- each of its segments that exists when that begins carries SEG_WIPE, until the collector finds all
 *	  its slots alive, or has written a generation without dead chunks (segments-rewrite.c), or
 *	  drops it.
 * Then, and also while images are on their way out of a domain (segments_leaving: the collector may
 * come long before the wipe does)
 *	- a file of that domain that goes is overwritten with zeros and synced before it is unlinked,
 *	  by whoever drops the last reference to it;
 *	- files that no row names (left by a crash) are overwritten as well, whatever their domain.
 *	  They get another name first, as a segment of their own name might begin in the very same
 *	  file.  A crash leaves that name, and the next removal of orphans goes on.
 * A file that cannot be overwritten is not unlinked: it is an orphan, and each wipe fails until it
 * can be.
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

static bool is_left(const struct segments *ss, uint32_t domain)
{
	bool left = ss->n_leaving > SEGMENTS_LEAVING_MAX;

	for (unsigned i = 0; i < ss->n_leaving && !left; i++)
		left = ss->leaving[i] == domain;
	return left;
}

bool wipe_files_of(const struct segments *ss, uint32_t domain)
{
	return is_left(ss, domain) || wipe_is_on(ss, domain);
}

bool wipe_orphans(const struct segments *ss)
{
	return ss->wipe_on || ss->n_leaving > 0;
}

void segments_leaving(struct segments *ss, const uint32_t *domains, unsigned n, bool more)
{
	pthread_mutex_lock(&ss->lock);
	if (!more)
		ss->n_leaving = 0;
	for (unsigned i = 0; i < n; i++) {
		if (is_left(ss, domains[i]))
			continue;
		if (ss->n_leaving < SEGMENTS_LEAVING_MAX)
			ss->leaving[ss->n_leaving] = domains[i];
		ss->n_leaving++;
	}
	pthread_mutex_unlock(&ss->lock);
}

bool segments_any_left(struct segments *ss)
{
	pthread_mutex_lock(&ss->lock);
	const bool any = ss->n_leaving > 0;
	pthread_mutex_unlock(&ss->lock);
	return any;
}

static int file_wipe(struct segments *ss, const char *name)
{
	int r = named_zero(ss, name);

	if (r < 0) {
		wipe_failed(ss, name, r);
		return r;
	}
	r = io_unlink(ss->io, name);
	if (r < 0 && r != -ENOENT)
		log_warn("cannot remove segment file '%s': %s", name, strerror(-r));
	return 0;
}

void segment_file_wipe(struct segments *ss, uint32_t tier, uint64_t id, uint32_t gen)
{
	char name[SEGMENT_NAME_LEN];

	segment_name(tier, id, gen, name);
	if (!ss->read_only)
		(void)!file_wipe(ss, name);
}

int orphan_wipe(struct segments *ss, const char *name)
{
	return file_wipe(ss, name);
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

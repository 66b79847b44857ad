/*
 * ilog.c - appending to the intent log
 *
 * Speed.  The whole latency of a small fsync is one O_DIRECT write and one fdatasync, so nothing
 * may be added to them: the ring is zero-filled when it is made, so that neither size nor extents
 * ever change and fdatasync has no journal to commit; a batch is built in place, in memory that
 * O_DIRECT takes as it is, and goes out with one write.
 *
 * Memory.  The batch lives in address space for the largest one, mapped once.  Pages become
 * resident as they are touched, records never move (ilog_batch_reserve hands out pointers), and
 * what a batch took beyond KEEP_BYTES is given back when it is committed.
 *
 * Ring arithmetic.  off and tail_off lie in [0, ring); used = off - tail_off (mod ring), and one
 * block always stays free, so that used = 0 means empty.  A batch that does not fit before the end
 * leaves a filler there.  The filler is synced before the batch is written: were they under way
 * together, a power cut could keep the batch and lose the filler, which recovery would have to take
 * for damage.  That second sync costs once per lap.
 *
 * Power cuts.  During a commit: the batch is whole, or torn and thereby not there; nobody was told
 * that it is durable.  After it: everything before it was synced too, so recovery walks up to it.
 * During ilog_reset: the old file or the new one is there under the name; both are good for
 * recovery, as everything in the old one is committed and the new one is empty.
 *
 * Failures.  A failed write or sync leaves unknown what is on the medium, so the log is poisoned
 * and never retried: the batch's content becomes durable through a transaction group instead.
 *
 * Threads.  One leader builds and commits.  The lock guards what others may ask for or move: head,
 * tail, poisoned.  The leader reads off and seq without it, being the only one to change them.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

#include "base/log.h"
#include "store/ilog-int.h"

#define NAME_NEW   ILOG_NAME ".new"
#define MAP_BYTES  (IO_ALIGN + (size_t)ILOG_BATCH_MAX)
#define KEEP_BYTES (2u << 20) /* of batch memory, between commits */
#define FILL_BYTES (1u << 20) /* of zeros, a write */

/* --- the file --- */

static int fill_zeros(struct io_file *f, uint64_t len)
{
	/* Untouched anonymous memory is zeros, aligned, and takes no room. */
	void *zeros = mmap(NULL, FILL_BYTES, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int r = 0;

	if (zeros == MAP_FAILED)
		return -ENOMEM;
	for (uint64_t off = 0; r == 0 && off < len; off += FILL_BYTES)
		r = io_pwrite(f, zeros, MIN(FILL_BYTES, len - off), ILOG_HEADER_LEN + off);
	munmap(zeros, FILL_BYTES);
	return r;
}

static int write_header(struct io_file *f, const struct ilog_header *h)
{
	CLEANUP(free_ptr) uint8_t *block = aligned_alloc(IO_ALIGN, ILOG_HEADER_LEN);

	if (!block)
		return -ENOMEM;
	ilog_header_encode(h, block);
	return io_pwrite(f, block, ILOG_HEADER_LEN, 0);
}

static int read_header(struct io_file *f, struct ilog_header *ret_header)
{
	CLEANUP(free_ptr) uint8_t *block = aligned_alloc(IO_ALIGN, ILOG_HEADER_LEN);

	if (!block)
		return -ENOMEM;
	const int r = io_pread_exact(f, block, ILOG_HEADER_LEN, 0);
	return r < 0 ? r : ilog_header_decode(block, ret_header);
}

/*
 * Makes the file under this name, with its content (not yet its name) durable.  h->salt is filled
 * in here.  On failure no file is left, as far as that can be helped.
 */
static int make_file(
        struct io *io, const char *name, struct ilog_header *h, struct io_file **ret_file)
{
	const unsigned flags = IO_WRITE | IO_CREATE | IO_EXCL | IO_DIRECT;
	struct io_file *f = NULL;

	if (getrandom(h->salt, sizeof(h->salt), 0) != (ssize_t)sizeof(h->salt))
		return -EIO;
	int r = io_open(io, name, flags, &f);
	if (r < 0)
		return r;
	r = fill_zeros(f, h->ring_bytes);
	if (r == 0)
		r = write_header(f, h);
	if (r == 0)
		r = io_sync(f);
	if (r == 0) {
		*ret_file = f;
		return 0;
	}
	io_close(f);
	const int r2 = io_unlink(io, name);
	if (r2 < 0)
		log_warn("cannot remove unfinished intent log '%s': %s", name, strerror(-r2));
	return r;
}

int ilog_create(
        struct io *io, const uint8_t uuid[16], uint64_t bytes, uint64_t epoch, struct errmsg *em)
{
	struct ilog_header h = {
	        .epoch = epoch,
	        .ring_bytes = bytes / IO_ALIGN * IO_ALIGN - ILOG_HEADER_LEN,
	};
	struct io_file *f = NULL;

	if (bytes < ILOG_BYTES_MIN || bytes > ILOG_BYTES_MAX)
		return errmsg_set(em, -EINVAL,
		        "bad size of the intent log: %" PRIu64 " bytes (%llu MiB to %llu GiB)",
		        bytes, ILOG_BYTES_MIN >> 20, ILOG_BYTES_MAX >> 30);
	memcpy(h.uuid, uuid, 16);
	int r = make_file(io, ILOG_NAME, &h, &f);
	if (r == 0) {
		io_close(f);
		r = io_sync_dir(io, "");
	}
	if (r < 0)
		return errmsg_set(em, r, "cannot create the intent log: %s", strerror(-r));
	return 0;
}

static int check_header(struct ilog *l, const uint8_t uuid[16], struct errmsg *em)
{
	uint64_t size = 0;
	int r = io_size(l->file, &size);

	if (r == 0)
		r = size < ILOG_HEADER_LEN ? -EUCLEAN : read_header(l->file, &l->header);
	if (r == -EUCLEAN)
		return errmsg_set(
		        em, r, "file '%s' is no intent log, or its header is damaged", ILOG_NAME);
	if (r == -EPROTONOSUPPORT)
		return errmsg_set(em, r, "the intent log is of a newer version of weir");
	if (r < 0)
		return errmsg_set(em, r, "cannot read the intent log: %s", strerror(-r));
	if (memcmp(l->header.uuid, uuid, 16) != 0)
		return errmsg_set(em, -ESTALE, "the intent log belongs to another datastore");
	if (size < ILOG_HEADER_LEN + l->header.ring_bytes)
		return errmsg_set(em, -EUCLEAN,
		        "the intent log is cut off: %" PRIu64 " bytes of %" PRIu64, size,
		        ILOG_HEADER_LEN + l->header.ring_bytes);
	return 0;
}

/* A crash during ilog_reset may have left one: it is only space. */
static void remove_unfinished(struct io *io)
{
	const int r = io_unlink(io, NAME_NEW);

	if (r < 0 && r != -ENOENT)
		log_warn("cannot remove unfinished intent log '%s': %s", NAME_NEW, strerror(-r));
}

static void ilog_closep(struct ilog **l)
{
	ilog_close(*l);
}

int ilog_open(struct io *io, const uint8_t uuid[16], bool read_only, struct ilog **ret_log,
        struct errmsg *em)
{
	CLEANUP(ilog_closep) struct ilog *l = calloc(1, sizeof(*l));

	if (!l)
		return errmsg_set(em, -ENOMEM, "out of memory");
	pthread_mutex_init(&l->lock, NULL);
	l->io = io;
	l->read_only = read_only;
	const int how = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	l->map = mmap(NULL, MAP_BYTES, PROT_READ | PROT_WRITE, how, -1, 0);
	if (l->map == MAP_FAILED) {
		l->map = NULL;
		return errmsg_set(em, -ENOMEM, "out of memory");
	}
	l->batch = l->map + IO_ALIGN;
	ilog_batch_begin(l);
	int r = io_open(io, ILOG_NAME, (read_only ? IO_READ : IO_WRITE) | IO_DIRECT, &l->file);
	if (r < 0)
		return errmsg_set(
		        em, r, "cannot open the intent log '%s': %s", ILOG_NAME, strerror(-r));
	r = check_header(l, uuid, em);
	if (r < 0)
		return r;
	ilog_hasher_init(&l->hasher, l->header.salt);
	if (!read_only)
		remove_unfinished(io);
	*ret_log = STEAL(l);
	return 0;
}

void ilog_close(struct ilog *l)
{
	if (!l)
		return;
	io_close(l->file);
	if (l->map)
		munmap(l->map, MAP_BYTES);
	pthread_mutex_destroy(&l->lock);
	free(l);
}

/* --- the ring --- */

static uint64_t ring_used(const struct ilog *l)
{
	const uint64_t ring = l->header.ring_bytes;

	return (l->off + ring - l->tail_off) % ring;
}

static uint64_t ring_free(struct ilog *l)
{
	pthread_mutex_lock(&l->lock);
	const uint64_t n = l->header.ring_bytes - IO_ALIGN - ring_used(l);
	pthread_mutex_unlock(&l->lock);
	return n;
}

/* Of a batch at the present head: what would be left unused before the ring's end. */
static uint64_t filler_bytes(const struct ilog *l, uint64_t size)
{
	const uint64_t rest = l->header.ring_bytes - l->off;

	return size > rest ? rest : 0;
}

static void advance(struct ilog *l, uint64_t size)
{
	pthread_mutex_lock(&l->lock);
	l->off = (l->off + size) % l->header.ring_bytes;
	l->seq++;
	pthread_mutex_unlock(&l->lock);
}

void ilog_start(struct ilog *l, uint64_t epoch, uint64_t tail_off, uint64_t off, uint64_t seq)
{
	ASSERT(!l->read_only);
	ASSERT(tail_off % IO_ALIGN == 0 && tail_off < l->header.ring_bytes);
	ASSERT(off % IO_ALIGN == 0 && off < l->header.ring_bytes);
	pthread_mutex_lock(&l->lock);
	l->epoch = epoch;
	l->tail_off = tail_off;
	l->off = off;
	l->seq = seq;
	l->started = true;
	pthread_mutex_unlock(&l->lock);
}

void ilog_head(struct ilog *l, uint64_t *ret_off, uint64_t *ret_seq)
{
	pthread_mutex_lock(&l->lock);
	*ret_off = l->off;
	*ret_seq = l->seq;
	pthread_mutex_unlock(&l->lock);
}

void ilog_trim(struct ilog *l, uint64_t tail_off)
{
	const uint64_t ring = l->header.ring_bytes;

	ASSERT(tail_off % IO_ALIGN == 0 && tail_off < ring);
	pthread_mutex_lock(&l->lock);
	/* It moves towards the head, never past it: else live batches would be overwritten. */
	ASSERT((tail_off + ring - l->tail_off) % ring <= ring_used(l));
	l->tail_off = tail_off;
	pthread_mutex_unlock(&l->lock);
}

void ilog_space(struct ilog *l, uint64_t *ret_bytes, uint64_t *ret_used_bytes)
{
	pthread_mutex_lock(&l->lock);
	*ret_bytes = l->header.ring_bytes;
	*ret_used_bytes = ring_used(l);
	pthread_mutex_unlock(&l->lock);
}

bool ilog_poisoned(struct ilog *l)
{
	pthread_mutex_lock(&l->lock);
	const bool poisoned = l->poisoned;
	pthread_mutex_unlock(&l->lock);
	return poisoned;
}

/* --- a batch --- */

void ilog_batch_begin(struct ilog *l)
{
	/* Best effort: the memory is bounded either way. */
	if (l->batch_len > KEEP_BYTES)
		(void)madvise(l->batch + KEEP_BYTES, ILOG_BATCH_MAX - KEEP_BYTES, MADV_DONTNEED);
	l->batch_len = ILOG_BATCH_HEADER_LEN;
	l->n_records = l->n_sealed = 0;
}

size_t ilog_batch_bytes(const struct ilog *l)
{
	return l->n_records > 0 ? ROUND_UP(l->batch_len, IO_ALIGN) : 0;
}

size_t ilog_batch_max(const struct ilog *l)
{
	/*
	 * With the head in the middle of an empty ring, a batch has (ring - block) / 2 before the
	 * end, or the same from the start up to the tail.
	 */
	const uint64_t half = (l->header.ring_bytes - IO_ALIGN) / 2 / IO_ALIGN * IO_ALIGN;

	return MIN(half, (uint64_t)ILOG_BATCH_MAX);
}

static int batch_room(struct ilog *l, const struct ilog_record *rec, uint8_t **ret_data)
{
	ASSERT(l->started);
	ASSERT(ilog_record_valid(rec));
	const size_t len = ilog_record_size(rec);
	const uint64_t size = ROUND_UP((uint64_t)l->batch_len + len, IO_ALIGN);
	if (size > ilog_batch_max(l) || filler_bytes(l, size) + size > ring_free(l))
		return -ENOSPC;
	*ret_data = ilog_record_encode(rec, l->batch + l->batch_len);
	l->batch_len += len;
	l->n_records++;
	return 0;
}

int ilog_batch_add(struct ilog *l, const struct ilog_record *rec)
{
	uint8_t *data = NULL;
	const int r = batch_room(l, rec, &data);

	if (r == 0 && ilog_record_has_data(rec->type) && rec->len > 0)
		memcpy(data, rec->data, rec->len);
	return r;
}

int ilog_batch_reserve(struct ilog *l, const struct ilog_record *rec, void **ret_data)
{
	uint8_t *data = NULL;

	ASSERT(ilog_record_has_data(rec->type));
	const int r = batch_room(l, rec, &data);
	if (r == 0)
		*ret_data = data;
	return r;
}

int ilog_batch_add_sealed(
        struct ilog *l, const struct ilog_seal *how, const void *plain, size_t len)
{
	const struct ilog_record rec = {
	        .type = ILOG_SEALED,
	        .txg = how->txg,
	        .image = how->image,
	        .len = len + ILOG_SEALED_OVERHEAD,
	        .domain = how->domain->id,
	};
	const struct ilog_sealed s = {
	        .flags = how->flags, .number = l->n_sealed, .epoch = l->epoch, .seq = l->seq};
	const size_t before = l->batch_len;
	uint8_t *data = NULL;
	int r = batch_room(l, &rec, &data);

	if (r < 0)
		return r;
	r = ilog_sealed_encode(&rec, &s, how->domain->log, plain, len, l->batch + before);
	if (r < 0) {
		l->batch_len = before;
		l->n_records--;
		return r;
	}
	l->n_sealed++;
	return 0;
}

static int write_synced(struct ilog *l, const void *buf, size_t len)
{
	const int r = io_pwrite(l->file, buf, len, ILOG_HEADER_LEN + l->off);

	return r < 0 ? r : io_sync(l->file);
}

static int commit_filler(struct ilog *l)
{
	const struct ilog_batch b = {
	        .epoch = l->epoch,
	        .seq = l->seq,
	        .off = l->off,
	        .filler = true,
	};

	memset(l->map, 0, IO_ALIGN);
	ilog_batch_seal(&l->hasher, &b, l->map);
	const int r = write_synced(l, l->map, IO_ALIGN);
	if (r == 0)
		advance(l, l->header.ring_bytes - l->off);
	return r;
}

static int commit_batch(struct ilog *l, size_t size)
{
	if (filler_bytes(l, size) > 0) {
		const int r = commit_filler(l);
		if (r < 0)
			return r;
	}
	const struct ilog_batch b = {
	        .epoch = l->epoch,
	        .seq = l->seq,
	        .off = l->off,
	        .payload_len = (uint32_t)(l->batch_len - ILOG_BATCH_HEADER_LEN),
	        .n_records = l->n_records,
	};
	memset(l->batch + l->batch_len, 0, size - l->batch_len);
	ilog_batch_seal(&l->hasher, &b, l->batch);
	const int r = write_synced(l, l->batch, size);
	if (r == 0)
		advance(l, size);
	return r;
}

int ilog_commit(struct ilog *l)
{
	const size_t size = ilog_batch_bytes(l);

	if (ilog_poisoned(l))
		return -EIO;
	if (size == 0)
		return 0;
	const int r = commit_batch(l, size);
	if (r < 0) {
		log_error("cannot write to the intent log: %s; flushing through commits until it "
		          "is replaced",
		        strerror(-r));
		pthread_mutex_lock(&l->lock);
		l->poisoned = true;
		pthread_mutex_unlock(&l->lock);
		return -EIO;
	}
	ilog_batch_begin(l);
	return 0;
}

int ilog_reset(struct ilog *l, uint64_t epoch)
{
	struct ilog_header h = l->header;
	struct io_file *f = NULL;

	ASSERT(l->started);
	h.epoch = epoch;
	remove_unfinished(l->io);
	int r = make_file(l->io, NAME_NEW, &h, &f);
	if (r < 0)
		return r;
	r = io_rename(l->io, NAME_NEW, ILOG_NAME);
	if (r == 0)
		r = io_sync_dir(l->io, "");
	if (r < 0) {
		io_close(f); /* whichever file has the name: nothing in it matters */
		return r;
	}
	io_close(l->file);
	l->file = f;
	l->header = h;
	ilog_hasher_init(&l->hasher, h.salt);
	ilog_batch_begin(l);
	pthread_mutex_lock(&l->lock);
	l->epoch = epoch;
	l->off = l->tail_off = 0;
	l->poisoned = false;
	pthread_mutex_unlock(&l->lock);
	return 0;
}

int ilog_wipe(struct ilog *l)
{
	ASSERT(l->started && l->n_records == 0);
	pthread_mutex_lock(&l->lock);
	ASSERT(ring_used(l) == 0);
	pthread_mutex_unlock(&l->lock);
	const int r = fill_zeros(l->file, l->header.ring_bytes);
	return r < 0 ? r : io_sync(l->file);
}

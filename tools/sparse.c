/*
 * sparse.c - see sparse.h
 *
 * Files tell where their data is (SEEK_DATA); what they give is looked at for zeros once more, in
 * blocks of 4 KiB, for a file of another filesystem may hold zeros as data.  A file that cannot tell
 * (a block device) is read whole.
 *
 * Before a pipe is read or written it is waited for in poll(), which a signal ends.
 */
#include "tools/sparse.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/interrupt.h"

#define PIECE_BYTES (1u << 20)
#define BLOCK_BYTES 4096u

static bool is_zero(const uint8_t *p, size_t len)
{
	return len == 0 || (p[0] == 0 && !memcmp(p, p + 1, len - 1));
}

/*
 * The next range with data at or behind off: [*ret_start, *ret_end), both size when there is none.
 */
static int data_next(int fd, uint64_t size, uint64_t off, uint64_t *ret_start, uint64_t *ret_end)
{
	const off_t start = lseek(fd, (off_t)off, SEEK_DATA);

	if (start < 0 && errno == ENXIO) {
		*ret_start = *ret_end = size;
		return 0;
	}
	if (start < 0 && (errno == EINVAL || errno == EOPNOTSUPP || errno == ESPIPE)) {
		*ret_start = MIN(off, size);
		*ret_end = size;
		return 0;
	}
	const off_t end = start < 0 ? -1 : lseek(fd, start, SEEK_HOLE);
	if (end < 0)
		return -errno;
	*ret_start = MIN((uint64_t)start, size);
	*ret_end = MIN((uint64_t)end, size);
	/* The file became shorter meanwhile: reading it will say so. */
	if (*ret_end <= *ret_start && *ret_start < size)
		*ret_end = size;
	return 0;
}

int sparse_data_bytes(int fd, uint64_t size_bytes, uint64_t *ret_bytes)
{
	uint64_t start, end = 0, sum = 0;

	while (end < size_bytes) {
		const int r = data_next(fd, size_bytes, end, &start, &end);
		if (r < 0)
			return r;
		if (interrupt_pending())
			return -EINTR;
		sum += end - start;
	}
	*ret_bytes = sum;
	return 0;
}

/* --- reading and writing --- */

static int pipe_wait(int fd, short events)
{
	struct pollfd pfd = {.fd = fd, .events = events};

	while (!interrupt_pending())
		if (poll(&pfd, 1, -1) > 0)
			return 0;
		else if (errno != EINTR)
			return -errno;
	return -EINTR;
}

/* As much as there is, up to len.  *ret_n < len only at the end. */
static int read_full(int fd, bool is_pipe, uint64_t off, uint8_t *buf, size_t len, size_t *ret_n)
{
	size_t at = 0;

	while (at < len) {
		const int r = is_pipe ? pipe_wait(fd, POLLIN) : 0;
		if (r < 0)
			return r;
		const ssize_t n = is_pipe ? read(fd, buf + at, len - at)
		                          : pread(fd, buf + at, len - at, (off_t)(off + at));
		if (n < 0 && errno != EINTR && errno != EAGAIN)
			return -errno;
		if (n == 0)
			break;
		at += n > 0 ? (size_t)n : 0;
	}
	*ret_n = at;
	return 0;
}

static int write_full(int fd, bool is_pipe, uint64_t off, const uint8_t *buf, size_t len)
{
	for (size_t at = 0; at < len;) {
		const int r = is_pipe ? pipe_wait(fd, POLLOUT) : 0;
		if (r < 0)
			return r;
		const ssize_t n = is_pipe ? write(fd, buf + at, len - at)
		                          : pwrite(fd, buf + at, len - at, (off_t)(off + at));
		if (n < 0 && errno != EINTR && errno != EAGAIN)
			return -errno;
		at += n > 0 ? (size_t)n : 0;
	}
	return 0;
}

/* --- copying --- */

struct copier {
	struct sparse_copy *c;
	bool from_pipe, to_pipe;
	uint8_t *buf, *zeros; /* PIECE_BYTES; zeros for a pipe only */
};

static int put_pipe(struct copier *k, const uint8_t *buf, size_t len)
{
	const int r = write_full(k->c->to, true, 0, buf, len);

	k->c->failed_writing = r < 0 && r != -EINTR;
	return r;
}

/* Runs of blocks that are not zero. */
static int put_file(struct copier *k, uint64_t off, size_t len)
{
	size_t from = 0;

	while (from < len) {
		size_t to = from;
		while (to < len && !is_zero(k->buf + to, MIN(BLOCK_BYTES, len - to)))
			to += MIN(BLOCK_BYTES, len - to);
		const int r = write_full(k->c->to, false, off + from, k->buf + from, to - from);
		if (r < 0) {
			k->c->failed_writing = true;
			return r;
		}
		k->c->written_bytes += to - from;
		from = to < len ? to + MIN(BLOCK_BYTES, len - to) : len;
	}
	return 0;
}

/* What a hole is in a pipe. */
static int put_gap(struct copier *k, uint64_t len)
{
	int r = 0;

	while (k->to_pipe && len > 0 && r == 0) {
		const size_t n = MIN(len, PIECE_BYTES);
		r = put_pipe(k, k->zeros, n);
		len -= n;
	}
	return r;
}

static int copy_piece(struct copier *k, uint64_t off, size_t want, size_t *ret_n)
{
	struct sparse_copy *c = k->c;
	size_t n;

	if (interrupt_pending())
		return -EINTR;
	int r = read_full(c->from, k->from_pipe, off, k->buf, want, &n);
	if (r < 0)
		return r;
	r = k->to_pipe ? put_pipe(k, k->buf, n) : put_file(k, off, n);
	if (r < 0)
		return r;
	if (k->to_pipe)
		c->written_bytes += n;
	c->read_bytes += n;
	progress_update(c->progress, c->read_bytes, c->data_bytes);
	*ret_n = n;
	return 0;
}

static int copy_range(struct copier *k, uint64_t start, uint64_t end)
{
	size_t n;

	while (start < end) {
		const size_t want = MIN(end - start, PIECE_BYTES);
		const int r = copy_piece(k, start, want, &n);
		if (r < 0)
			return r;
		if (n < want)
			return -ENODATA;
		start += n;
	}
	return 0;
}

/* Behind the end of a file there is a hole, too. */
static int still_as_long(int fd, uint64_t size)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	return S_ISREG(st.st_mode) && (uint64_t)st.st_size < size ? -ENODATA : 0;
}

static int copy_file(struct copier *k)
{
	const uint64_t size = k->c->size_bytes;
	uint64_t start, end = 0;
	int r = 0;

	while (end < size && r == 0) {
		const uint64_t before = end;
		r = data_next(k->c->from, size, end, &start, &end);
		if (r == 0)
			r = put_gap(k, start - before);
		if (r == 0)
			r = copy_range(k, start, end);
	}
	return r == 0 ? still_as_long(k->c->from, size) : r;
}

static int copy_pipe(struct copier *k)
{
	uint64_t off = 0;
	size_t n = PIECE_BYTES;
	int r = 0;

	while (r == 0 && n == PIECE_BYTES) {
		r = copy_piece(k, off, PIECE_BYTES, &n);
		off += r == 0 ? n : 0;
		if (off > k->c->size_max_bytes)
			r = -EFBIG;
	}
	k->c->size_bytes = r == 0 ? off : k->c->size_bytes;
	return r;
}

int sparse_copy(struct sparse_copy *c)
{
	CLEANUP(free_ptr) uint8_t *buf = malloc(PIECE_BYTES), *zeros = NULL;
	struct copier k = {
	        .c = c,
	        .buf = buf,
	        .from_pipe = c->size_bytes == SPARSE_UNKNOWN,
	        .to_pipe = c->to_pipe,
	};

	k.zeros = zeros = k.to_pipe ? calloc(1, PIECE_BYTES) : NULL;
	if (!buf || (k.to_pipe && !zeros))
		return -ENOMEM;
	const int r = k.from_pipe ? copy_pipe(&k) : copy_file(&k);
	if (r < 0 || k.to_pipe)
		return r;
	c->failed_writing = ftruncate(c->to, (off_t)c->size_bytes) < 0;
	return c->failed_writing ? -errno : 0;
}

/* --- comparing --- */

static int compare_piece(int a, int b, uint64_t off, size_t len, uint8_t *bufs, uint64_t *ret_at)
{
	uint8_t *x = bufs, *y = bufs + PIECE_BYTES;
	size_t n, m;
	int r = read_full(a, false, off, x, len, &n);

	if (r == 0)
		r = read_full(b, false, off, y, len, &m);
	if (r < 0)
		return r;
	if (n < len || m < len)
		return -ENODATA;
	for (size_t i = 0; memcmp(x, y, len) != 0 && i < len; i++)
		if (x[i] != y[i]) {
			*ret_at = off + i;
			break;
		}
	return 0;
}

int sparse_compare(int a, int b, uint64_t size_bytes, struct progress *progress, uint64_t *ret_at)
{
	CLEANUP(free_ptr) uint8_t *bufs = malloc(2 * PIECE_BYTES);
	uint64_t off = 0, at = SPARSE_UNKNOWN, start_a, start_b, end;
	int r = bufs ? 0 : -ENOMEM;

	while (r == 0 && off < size_bytes && at == SPARSE_UNKNOWN) {
		r = interrupt_pending() ? -EINTR : data_next(a, size_bytes, off, &start_a, &end);
		if (r == 0)
			r = data_next(b, size_bytes, off, &start_b, &end);
		if (r < 0)
			break;
		off = MIN(start_a, start_b); /* holes of both are equal */
		const size_t len = MIN(size_bytes - off, PIECE_BYTES);
		r = compare_piece(a, b, off, len, bufs, &at);
		off += len;
		progress_update(progress, off, size_bytes);
	}
	if (r == 0)
		*ret_at = at;
	return r;
}

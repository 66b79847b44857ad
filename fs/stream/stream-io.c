/*
 * stream-io.c - see stream-io.h
 *
 * Reading takes no more than the decoder asks for: what lies behind the stream on the same descriptor is
 * somebody else's.  So a small record costs two reads; the large ones are what counts.
 */
#include "fs/stream/stream-io.h"

#include <errno.h>
#include <poll.h>
#include <sys/uio.h>
#include <unistd.h>

#define GATHER_BYTES (128u << 10)

/* Until fd is ready.  cancel_fd is looked at first. */
static int io_wait(int fd, short events, int cancel_fd, int patience_ms)
{
	struct pollfd fds[] = {
	        {.fd = fd, .events = events},
	        {.fd = cancel_fd, .events = POLLRDHUP},
	};

	for (;;) {
		const int n = poll(fds, ARRAY_SIZE(fds), patience_ms);
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n == 0)
			return -ETIMEDOUT;
		if (n > 0 && fds[1].revents)
			return -ECANCELED;
		if (n > 0 && fds[0].revents)
			return 0;
	}
}

/* --- writing --- */

struct record_writer {
	struct stream_out *out; /* owned */
	int fd, cancel_fd;
	size_t len;
	uint8_t buf[GATHER_BYTES];
};

int record_writer_new(enum stream_kind kind, int fd, int cancel_fd, struct record_writer **ret_w)
{
	CLEANUP(record_writer_freep) struct record_writer *w = calloc(1, sizeof(*w));

	if (!w)
		return -ENOMEM;
	w->fd = fd;
	w->cancel_fd = cancel_fd;
	const int r = stream_out_new(kind, &w->out);
	if (r < 0)
		return r;
	*ret_w = STEAL(w);
	return 0;
}

void record_writer_free(struct record_writer *w)
{
	if (w)
		stream_out_free(w->out);
	free(w);
}

void record_writer_freep(struct record_writer **w)
{
	record_writer_free(*w);
}

uint64_t record_writer_bytes(const struct record_writer *w)
{
	return stream_out_bytes(w->out);
}

static int write_all(struct record_writer *w, const uint8_t *data, size_t len)
{
	while (len > 0 && w->fd >= 0) {
		const int r = io_wait(w->fd, POLLOUT, w->cancel_fd, -1);
		if (r < 0)
			return r;
		const ssize_t n = write(w->fd, data, len);
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return -errno;
		data += n > 0 ? n : 0;
		len -= n > 0 ? (size_t)n : 0;
	}
	return 0;
}

int record_flush(struct record_writer *w)
{
	const size_t len = w->len;

	w->len = 0;
	return write_all(w, w->buf, len);
}

static int gather(struct record_writer *w, const struct iovec *iov)
{
	int r = 0;

	if (iov->iov_len > sizeof(w->buf) - w->len)
		r = record_flush(w);
	if (r < 0)
		return r;
	if (iov->iov_len > sizeof(w->buf))
		return write_all(w, iov->iov_base, iov->iov_len);
	memcpy(w->buf + w->len, iov->iov_base, iov->iov_len);
	w->len += iov->iov_len;
	return 0;
}

int record_write(struct record_writer *w, struct stream_record *rec)
{
	struct iovec iov[STREAM_OUT_IOV];
	int n = 0;
	int r = stream_out_record(w->out, rec, iov, &n);

	for (int i = 0; r == 0 && i < n; i++)
		r = gather(w, &iov[i]);
	return r;
}

/* --- reading --- */

struct record_reader {
	struct stream_in *in; /* owned */
	int fd, cancel_fd, patience_ms;
};

int record_reader_new(enum stream_kind kind, int fd, int cancel_fd, struct record_reader **ret_r)
{
	CLEANUP(record_reader_freep) struct record_reader *r = calloc(1, sizeof(*r));

	if (!r)
		return -ENOMEM;
	r->fd = fd;
	r->cancel_fd = cancel_fd;
	r->patience_ms = -1;
	const int err = stream_in_new(kind, &r->in);
	if (err < 0)
		return err;
	*ret_r = STEAL(r);
	return 0;
}

void record_reader_free(struct record_reader *r)
{
	if (r)
		stream_in_free(r->in);
	free(r);
}

void record_reader_freep(struct record_reader **r)
{
	record_reader_free(*r);
}

void record_reader_patience(struct record_reader *r, int ms)
{
	r->patience_ms = ms;
}

uint64_t record_reader_bytes(const struct record_reader *r)
{
	return stream_in_bytes(r->in);
}

int record_read(struct record_reader *r, struct stream_record *ret_rec, struct errmsg *em)
{
	uint8_t *buf = NULL;
	size_t room;

	while ((room = stream_in_room(r->in, &buf)) > 0) {
		int err = io_wait(r->fd, POLLIN, r->cancel_fd, r->patience_ms);
		if (err < 0)
			return err;
		const ssize_t n = read(r->fd, buf, room);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return stream_in_ended(r->in, em);
		err = stream_in_fed(r->in, (size_t)n, ret_rec, em);
		if (err)
			return err < 0 ? err : 0;
	}
	const int ended = stream_in_ended(r->in, em);
	return ended < 0 ? ended : -ENODATA;
}

/*
 * discover-source.c - bytes of the image, by asking the parent
 *
 * libblkid wants a descriptor to read from.  That is a sparse memfd of the image's size, into which
 * pieces of 64 KiB are put before something looks there; what was
 * not asked for reads as zeros, and is taken for free space.  The parent refuses more than
 * PROBE_TOTAL_MAX, so the memfd is bounded.
 */
#include "tools/discover-worker.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bytes.h"
#include "stage/builtin/probe.h"

#define PIECES_MAX (PROBE_TOTAL_MAX / SOURCE_PIECE)
#define SLOTS      (4 * PIECES_MAX) /* a power of two times three: by remainder */

int source_open(struct source *s, uint64_t size)
{
	*s = (struct source){.fd = SOURCE_FD, .size = size};
	s->pieces = calloc(SLOTS, sizeof(*s->pieces));
	if (!s->pieces)
		return -ENOMEM;
	const int fd = memfd_create("image", MFD_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (fd != SOURCE_FD && dup2(fd, SOURCE_FD) < 0)
		return -errno;
	return ftruncate(SOURCE_FD, (off_t)size) < 0 ? -errno : 0;
}

static int socket_write(const void *buf, size_t len)
{
	const uint8_t *from = buf;

	while (len > 0) {
		const ssize_t n = write(PROBE_FD_SOCKET, from, len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return -EPIPE;
		from += n;
		len -= (size_t)n;
	}
	return 0;
}

static int socket_read(void *buf, size_t len)
{
	uint8_t *to = buf;

	while (len > 0) {
		const ssize_t n = read(PROBE_FD_SOCKET, to, len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return -EPIPE;
		to += n;
		len -= (size_t)n;
	}
	return 0;
}

static int source_ask(uint64_t off, void *buf, uint32_t len)
{
	uint8_t header[PROBE_HEADER], reply[8];

	put_u32(header, PROBE_READ);
	put_u32(header + 4, len);
	put_u64(header + 8, off);
	int r = socket_write(header, sizeof(header));
	if (r == 0)
		r = socket_read(reply, sizeof(reply));
	if (r < 0)
		return r;
	if (get_u32(reply))
		return -EIO;
	if (get_u32(reply + 4) != len)
		return -EPROTO;
	return socket_read(buf, len);
}

/* Where the piece is in the set, or the empty slot for it. */
static uint64_t *piece_find(struct source *s, uint64_t piece)
{
	uint64_t at = piece * 0x9e3779b97f4a7c15ull >> 32;

	for (;; at++)
		if (s->pieces[at % SLOTS] == 0 || s->pieces[at % SLOTS] == piece + 1)
			return &s->pieces[at % SLOTS];
}

static int piece_fetch(struct source *s, uint64_t piece)
{
	static uint8_t buf[SOURCE_PIECE];
	const uint64_t off = piece * SOURCE_PIECE;
	const uint32_t len = (uint32_t)MIN(SOURCE_PIECE, s->size - off);
	uint64_t *slot = piece_find(s, piece);

	if (*slot)
		return 0;
	if (s->asked + len > PROBE_TOTAL_MAX)
		return -EFBIG;
	s->asked += len;
	int r = source_ask(off, buf, len);
	if (r < 0)
		return r;
	if (pwrite(s->fd, buf, len, (off_t)off) != (ssize_t)len)
		return -EIO;
	*slot = piece + 1;
	return 0;
}

int source_want(struct source *s, uint64_t off, uint64_t len)
{
	if (off >= s->size || len == 0)
		return 0;
	const uint64_t end = off + MIN(len, s->size - off);
	for (uint64_t piece = off / SOURCE_PIECE; piece * SOURCE_PIECE < end; piece++) {
		const int r = piece_fetch(s, piece);
		if (r < 0)
			return r;
	}
	return 0;
}

int file_read_at(int fd, uint64_t off, void *buf, size_t len)
{
	uint8_t *to = buf;

	while (len > 0) {
		const ssize_t n = pread(fd, to, len, (off_t)off);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -ENODATA;
		to += n;
		off += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

int source_read(struct source *s, uint64_t off, void *buf, size_t len)
{
	if (off > s->size || len > s->size - off)
		return -ENODATA;
	const int r = source_want(s, off, len);
	return r < 0 ? r : file_read_at(s->fd, off, buf, len);
}

int source_answer(const char *json, size_t len)
{
	uint8_t header[PROBE_HEADER] = {0};

	put_u32(header, PROBE_RESULT);
	put_u32(header + 4, (uint32_t)len);
	const int r = socket_write(header, sizeof(header));
	return r < 0 ? r : socket_write(json, len);
}

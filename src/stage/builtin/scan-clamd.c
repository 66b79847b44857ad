/*
 * scan-clamd.c - ClamAV's daemon, over its Unix socket (clamd(8): PING, INSTREAM)
 *
 * One connection a piece: what clamd keeps of a stream ends with it, and a clamd that is restarted
 * between two pieces is no error.  Every wait has a limit.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "stage/builtin/scan-engine.h"

#define PATIENCE_S  60
#define PART_BYTES  (64u << 10) /* of a stream */
#define REPLY_BYTES 1024u

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

static int clamd_connect(const char *path, int *ret_fd, struct errmsg *em)
{
	const struct timeval patience = {.tv_sec = PATIENCE_S};
	struct sockaddr_un addr = {.sun_family = AF_UNIX};

	if (strlen(path) >= sizeof(addr.sun_path))
		return errmsg_set(em, -ENAMETOOLONG, "socket '%s': the path is too long", path);
	memcpy(addr.sun_path, path, strlen(path));
	CLEANUP(close_fd) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return errmsg_set(em, -errno, "cannot make a socket: %s", strerror(errno));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	if (connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0)
		return errmsg_set(
		        em, -errno, "cannot reach clamd at '%s': %s", path, strerror(errno));
	*ret_fd = fd;
	fd = -1;
	return 0;
}

static int send_all(int fd, const void *data, size_t len)
{
	const uint8_t *at = data;

	while (len > 0) {
		const ssize_t n = send(fd, at, len, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		at += n;
		len -= (size_t)n;
	}
	return 0;
}

/* Up to the zero byte that ends a reply; *ret_len without it. */
static int reply_read(int fd, char buf[REPLY_BYTES], size_t *ret_len)
{
	size_t len = 0;

	while (len < REPLY_BYTES) {
		const ssize_t n = recv(fd, buf + len, REPLY_BYTES - len, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? -ETIMEDOUT : -errno;
		len += (size_t)n;
		const char *end = memchr(buf, '\0', len);
		if (end || n == 0) {
			*ret_len = end ? (size_t)(end - buf) : len;
			return 0;
		}
	}
	return -EPROTO;
}

static bool ends_with(const char *text, size_t len, const char *end)
{
	const size_t n = strlen(end);

	return len >= n && memcmp(text + len - n, end, n) == 0;
}

int clamd_reply_parse(
        const char *reply, size_t len, bool *ret_found, char name[SCAN_NAME_LEN], struct errmsg *em)
{
	static const char prefix[] = "stream: ", found[] = " FOUND";

	if (len >= sizeof(prefix) - 1 && memcmp(reply, prefix, sizeof(prefix) - 1) == 0) {
		reply += sizeof(prefix) - 1;
		len -= sizeof(prefix) - 1;
		if (len == 2 && memcmp(reply, "OK", 2) == 0) {
			*ret_found = false;
			return 0;
		}
		if (ends_with(reply, len, found) && len > sizeof(found) - 1) {
			snprintf(name, SCAN_NAME_LEN, "%.*s", (int)(len - (sizeof(found) - 1)),
			        reply);
			*ret_found = true;
			return 0;
		}
	}
	return errmsg_set(em, -EPROTO, "clamd answers '%.*s'", (int)MIN(len, 200), reply);
}

static int stream_send(int fd, const void *data, size_t len)
{
	static const char command[] = "zINSTREAM"; /* with its zero byte */
	const uint8_t *at = data;
	int r = send_all(fd, command, sizeof(command));

	while (!r && len > 0) {
		const uint32_t n = (uint32_t)MIN(len, PART_BYTES), be = htonl(n);
		r = send_all(fd, &be, sizeof(be));
		if (!r)
			r = send_all(fd, at, n);
		at += n;
		len -= n;
	}
	const uint32_t end = 0;
	return r ? r : send_all(fd, &end, sizeof(end));
}

int clamd_scan(const char *socket_path, const void *data, size_t len, bool *ret_found,
        char name[SCAN_NAME_LEN], struct errmsg *em)
{
	CLEANUP(close_fd) int fd = -1;
	char reply[REPLY_BYTES];
	size_t reply_len;
	int r = clamd_connect(socket_path, &fd, em);

	if (r < 0)
		return r;
	/* A limit of clamd's that we pass makes it answer before all is sent. */
	const int sent = stream_send(fd, data, len);
	r = reply_read(fd, reply, &reply_len);
	if (r < 0 || (sent < 0 && reply_len == 0))
		return errmsg_set(em, r < 0 ? r : sent, "clamd at '%s' does not answer: %s",
		        socket_path, strerror(r < 0 ? -r : -sent));
	return clamd_reply_parse(reply, reply_len, ret_found, name, em);
}

int clamd_ping(const char *socket_path, struct errmsg *em)
{
	static const char command[] = "zPING";
	CLEANUP(close_fd) int fd = -1;
	char reply[REPLY_BYTES];
	size_t len;
	int r = clamd_connect(socket_path, &fd, em);

	if (r < 0)
		return r;
	r = send_all(fd, command, sizeof(command));
	if (!r)
		r = reply_read(fd, reply, &len);
	if (r < 0)
		return errmsg_set(
		        em, r, "clamd at '%s' does not answer: %s", socket_path, strerror(-r));
	if (len != 4 || memcmp(reply, "PONG", 4) != 0)
		return errmsg_set(em, -EPROTO, "'%s' is not clamd's socket", socket_path);
	return 0;
}

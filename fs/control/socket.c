/*
 * socket.c - see socket.h
 */
#include "fs/control/socket.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define BUF_FIRST 1024u

int socket_address(const char *dir, struct sockaddr_un *ret_addr, int *ret_dir_fd)
{
	const int fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	snprintf(addr.sun_path, sizeof(addr.sun_path), "/proc/self/fd/%d/%s", fd, CONTROL_NAME);
	*ret_addr = addr;
	*ret_dir_fd = fd;
	return 0;
}

int socket_send(int fd, const char *text, size_t len)
{
	while (len > 0) {
		const ssize_t n = send(fd, text, len, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		text += n;
		len -= (size_t)n;
	}
	return 0;
}

int socket_send_fds(int fd, const char *text, size_t len, const int *fds, unsigned n)
{
	union {
		char buf[CMSG_SPACE(CONTROL_FDS_MAX * sizeof(int))];
		struct cmsghdr align;
	} control = {0};
	struct iovec iov = {(void *)(uintptr_t)text, len};
	struct msghdr msg = {
	        .msg_iov = &iov,
	        .msg_iovlen = 1,
	        .msg_control = control.buf,
	        .msg_controllen = CMSG_SPACE(n * sizeof(int)),
	};
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
	ssize_t sent;

	ASSERT(len > 0 && n > 0 && n <= CONTROL_FDS_MAX);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(n * sizeof(int));
	memcpy(CMSG_DATA(c), fds, n * sizeof(int));
	do {
		sent = sendmsg(fd, &msg, MSG_NOSIGNAL);
	} while (sent < 0 && errno == EINTR);
	if (sent < 0)
		return -errno;
	return socket_send(fd, text + sent, len - (size_t)sent);
}

/* Takes what fits; the kernel has closed what is beyond CONTROL_FDS_MAX. */
static void fds_take(struct line_reader *lr, struct msghdr *msg)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		const size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < n; i++) {
			int fd;
			memcpy(&fd, CMSG_DATA(c) + i * sizeof(fd), sizeof(fd));
			if (lr->n_fds < lr->fds_max)
				lr->fds[lr->n_fds++] = fd;
			else
				close(fd);
		}
	}
}

static ssize_t receive(struct line_reader *lr, void *buf, size_t len)
{
	union {
		char buf[CMSG_SPACE(CONTROL_FDS_MAX * sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec iov = {buf, len};
	struct msghdr msg = {
	        .msg_iov = &iov,
	        .msg_iovlen = 1,
	        .msg_control = control.buf,
	        .msg_controllen = sizeof(control.buf),
	};

	if (lr->fds_max == 0)
		return recv(lr->fd, buf, len, 0);
	const ssize_t n = recvmsg(lr->fd, &msg, MSG_CMSG_CLOEXEC);
	if (n >= 0)
		fds_take(lr, &msg);
	return n;
}

void line_reader_drop_fds(struct line_reader *lr)
{
	while (lr->n_fds > 0)
		close(lr->fds[--lr->n_fds]);
}

static int buf_grow(struct line_reader *lr)
{
	const size_t cap = lr->cap ? lr->cap * 2 : BUF_FIRST;

	if (lr->len < lr->cap)
		return 0;
	if (lr->cap >= lr->max)
		return -EMSGSIZE;
	char *buf = malloc(MIN(cap, lr->max));
	if (!buf)
		return -ENOMEM;
	if (lr->len) { /* no realloc: it would leave a copy, and lines may hold secrets */
		memcpy(buf, lr->buf, lr->len);
		explicit_bzero(lr->buf, lr->len);
	}
	free(lr->buf);
	lr->buf = buf;
	lr->cap = MIN(cap, lr->max);
	return 0;
}

int line_next(struct line_reader *lr, char **ret_line, size_t *ret_len)
{
	size_t searched = 0;

	if (lr->used) {
		lr->len -= lr->used;
		memmove(lr->buf, lr->buf + lr->used, lr->len);
		lr->used = 0;
	}
	for (;;) {
		char *end = lr->len > searched
		                    ? memchr(lr->buf + searched, '\n', lr->len - searched)
		                    : NULL;
		if (end) {
			*end = 0;
			*ret_line = lr->buf;
			*ret_len = (size_t)(end - lr->buf);
			lr->used = *ret_len + 1;
			return 0;
		}
		searched = lr->len;
		const int r = buf_grow(lr);
		if (r < 0)
			return r;
		const ssize_t n = receive(lr, lr->buf + lr->len, lr->cap - lr->len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -ENODATA;
		lr->len += (size_t)n;
	}
}

void line_reader_release(struct line_reader *lr)
{
	line_reader_drop_fds(lr);
	if (lr->len)
		explicit_bzero(lr->buf, lr->len);
	free(lr->buf);
	*lr = (struct line_reader){.fd = -1};
}

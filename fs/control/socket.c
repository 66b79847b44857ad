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

#include "fs/control/control.h"

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
		const ssize_t n = recv(lr->fd, lr->buf + lr->len, lr->cap - lr->len, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -ENODATA;
		lr->len += (size_t)n;
	}
}

void line_reader_release(struct line_reader *lr)
{
	if (lr->len)
		explicit_bzero(lr->buf, lr->len);
	free(lr->buf);
	*lr = (struct line_reader){.fd = -1};
}

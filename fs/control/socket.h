/*
 * socket.h - the control socket's name, and lines over it; private to fs/control
 */
#pragma once

#include <sys/un.h>

#include "fs/control/control.h"

/*
 * Address of DIR/control.sock through /proc/self/fd, since a path in sockaddr_un has only 108
 * bytes.  *ret_dir_fd is the caller's, and must stay open while the address is used.
 */
int socket_address(const char *dir, struct sockaddr_un *ret_addr, int *ret_dir_fd) MUST_CHECK;

/* Sends all of it, without SIGPIPE. */
int socket_send(int fd, const char *text, size_t len) MUST_CHECK;
/* The same, with descriptors (SCM_RIGHTS); they stay the caller's.  len > 0, n <= CONTROL_FDS_MAX. */
int socket_send_fds(int fd, const char *text, size_t len, const int *fds, unsigned n) MUST_CHECK;

/* Receives line by line. */
struct line_reader {
	int fd;
	char *buf; /* owned */
	size_t len, cap, max;
	size_t used; /* of buf, by the line returned last */
	/* Descriptors that came along since they were last taken; owned.  fds_max 0: refused. */
	int fds[CONTROL_FDS_MAX];
	unsigned n_fds, fds_max;
};
/*
 * The next line without its end, in place until the next call.  -EMSGSIZE: longer than max;
 * -ENODATA: the peer has closed; -EAGAIN: the socket's receive timeout has passed.
 */
int line_next(struct line_reader *lr, char **ret_line, size_t *ret_len) MUST_CHECK;
/* Closes what came along and was not taken. */
void line_reader_drop_fds(struct line_reader *lr);
void line_reader_release(struct line_reader *lr);

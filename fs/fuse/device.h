/*
 * device.h - between libfuse and /dev/fuse: what libfuse 3.14 has no words for
 *
 * FUSE_HANDLE_KILLPRIV_V2.  Without it the kernel asks for the attribute security.capability before
 * each and every write, which halves their rate; with it, it asks once a file, and tells with
 * writes and truncates when setuid and setgid bits are to go.  libfuse 3.14 neither negotiates it
 * nor hands that flag on, so we read and write the device for it (fuse_session_custom_io): the
 * reply to INIT gets the one bit, and the flag of the request a thread works on is kept beside it.
 */
#pragma once

#include <sys/types.h>
#include <sys/uio.h>

#include "base/compiler.h"

/* The callbacks of struct fuse_custom_io. */
ssize_t device_read(int fd, void *buf, size_t len, void *userdata);
ssize_t device_writev(int fd, struct iovec *iov, int n_iov, void *userdata);
/* Does the request that this thread is working on ask for setuid and setgid to be cleared? */
bool device_kill_suidgid(void);

/*
 * A device descriptor of this thread's own, on the session of session_fd: from now on this thread
 * reads and writes through it, so threads do not meet at one queue.  Without it, all share the
 * session's.
 */
void device_clone_open(int session_fd);
void device_clone_close(void);

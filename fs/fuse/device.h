/*
 * device.h - between libfuse and /dev/fuse: what libfuse 3.14 has no words for
 *
 * FUSE_HANDLE_KILLPRIV_V2.  Without it the kernel asks for the attribute security.capability before
 * each and every write, which halves their rate; with it, it asks once a file, and tells with
 * writes and truncates when setuid and setgid bits are to go.  libfuse 3.14 neither negotiates it
 * nor hands that flag on, so we read and write the device for it (fuse_session_custom_io): the
 * reply to INIT gets the one bit, and the flag of the request a thread works on is kept beside it.
 *
 * FUSE_COPY_FILE_RANGE_64 (Linux 6.18).  It says in 64 bits how much was copied, where
 * COPY_FILE_RANGE has 32; so a large file can be copied by one request, which is what makes it a clone.
 * libfuse gets it as the old one, and the reply is made by who asks device_copy_64().
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
/* Is it a COPY_FILE_RANGE_64? */
bool device_copy_64(void);

/*
 * A device descriptor of this thread's own, on the session of session_fd: from now on this thread
 * reads and writes through it, so threads do not meet at one queue.  Where the kernel gives none it
 * stands for the session's.
 *
 * The kernel takes a reply only through the descriptor that the request was read from, and ends what
 * was read through one that is closed with an error.  So whoever keeps a request beyond its thread
 * keeps a reference of that thread's clone, and says so before it replies.
 */
struct device_clone;

int device_clone_open(int session_fd) MUST_CHECK; /* -ENOMEM */
/* Gives up this thread's reference, at its end. */
void device_clone_close(void);
/* This thread's clone, with one more reference. */
struct device_clone *device_clone_get(void);
void device_clone_put(struct device_clone *clone);
/* Is it this thread's? */
bool device_clone_is_mine(const struct device_clone *clone);
/* What this thread writes goes through that one; NULL: through its own again. */
void device_reply_through(struct device_clone *clone);
/*
 * Waits until nobody has a clone any more, that is, until all threads that had one are gone and all
 * requests that were kept are answered.
 */
void device_clones_wait(void);

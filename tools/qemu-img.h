/*
 * qemu-img.h - QEMU's qemu-img, run confined
 *
 * It gets open files, never a path: no name is interpreted by it, and no shell is involved.  It is
 * told their formats, that they have no backing file, and it can open no other file (confine.h).
 *
 * Threads: one, and the process has no other.  Errors come with a message.  -EINTR when a signal
 * came (interrupt.h), -ENOENT when it is not installed; it has ended by the time of the return, and
 * ends when this process is killed.
 */
#pragma once

#include "base/errmsg.h"
#include "tools/disk-format.h"
#include "tools/progress.h"

struct disk_file {
	int fd; /* above stderr's */
	enum disk_format format;
};

/* -ENOENT: it is not installed. */
int qemu_img_find(struct errmsg *em) MUST_CHECK;
/* Size of the disk in an image.  -EPERM: it refers to other files. */
int qemu_img_size(
        const struct disk_file *file, uint64_t *ret_size_bytes, struct errmsg *em) MUST_CHECK;
/*
 * Whether its tables are whole, which a reader does not care about: what a download that was cut
 * lacks would be read as zeros.  -EINVAL: they are not.
 */
int qemu_img_check(const struct disk_file *file, uint64_t size_bytes, struct errmsg *em) MUST_CHECK;
/* About what the content takes without its zeros, as a qcow2 with all its metadata. */
int qemu_img_measure(
        const struct disk_file *file, uint64_t *ret_bytes, struct errmsg *em) MUST_CHECK;

struct qemu_img_convert {
	struct disk_file from, to;
	/*
	 * raw: `to` has its length and is all holes; else it is made into an image here, which may
	 * be a little longer than the raw one.
	 */
	uint64_t size_bytes;
	bool compress;
	struct progress *progress; /* not owned */
};
int qemu_img_convert(const struct qemu_img_convert *c, struct errmsg *em) MUST_CHECK;
/* *ret_equal; one may be longer, by zeros. */
int qemu_img_compare(const struct disk_file *a, const struct disk_file *b, uint64_t size_bytes,
        struct progress *progress, bool *ret_equal, struct errmsg *em) MUST_CHECK;

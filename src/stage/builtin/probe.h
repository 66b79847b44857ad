/*
 * probe.h - asks a process without rights what is inside an image
 *
 * What an image holds was written by a guest, and is read by large libraries (libblkid, libext2fs)
 * that were not made for hostile input.  So they run in a child ("weir discover-worker"): without
 * privileges, without system calls but a few, with limits on memory and time; it has no descriptor
 * of the image: it asks for bytes, and gives back one text, which the caller checks as it would a
 * guest's.
 *
 * Between the two, over a socket pair, little-endian:
 *	child:  u32 kind, u32 len, u64 off	PROBE_READ: wants len bytes at off
 *						PROBE_RESULT: len bytes of JSON follow; the end
 *	parent: u32 error, u32 len, data	to PROBE_READ; error: an errno, 0: data follows
 */
#pragma once

#include "base/errmsg.h"

#define PROBE_WORKER     "discover-worker" /* hidden subcommand of the program */
#define PROBE_FD_SOCKET  3                 /* in the child: all that it gets */
#define PROBE_HEADER     16u
#define PROBE_READ_MAX   (1u << 20)   /* a request */
#define PROBE_TOTAL_MAX  (192u << 20) /* all of a child's */
#define PROBE_RESULT_MAX (768u << 10) /* fits a stage's state */
#define PROBE_TIMEOUT_MS 60000u

enum probe_kind { PROBE_READ = 1, PROBE_RESULT = 2 };

struct probe_source {
	uint64_t size_bytes; /* of the image */
	/* On the calling thread; 0 or -errno; all of it. */
	int (*read)(void *arg, uint64_t off, void *buf, size_t len);
	bool (*cancelled)(void *arg); /* asked ten times a second; NULL: never */
	void *arg;
};

/*
 * Runs a child and waits for its answer: *ret_json is a text of at most PROBE_RESULT_MAX bytes,
 * malloc'ed and terminated, of any content.  -ECANCELED, -ETIMEDOUT, -EPROTO (it died or talked
 * nonsense), or -errno, with em.  Any thread.
 */
int probe_run(const struct probe_source *source, char **ret_json, struct errmsg *em) MUST_CHECK;

/*
 * send.h - a snapshot of an image as a stream (src/stream), whole or as what changed
 *
 * Reads the snapshot as the engine keeps it: what no stage sees any more goes out as it is stored, but for
 * encryption, which needs the key.  Frames are sent compressed as they are where every chunk in them belongs to
 * the snapshot.  Nothing of the datastore is changed, and nothing is locked: while a send runs, the snapshot
 * and the base may be deleted, and it goes on.
 *
 * Threads: any; it works on the caller's, and takes as long as it takes.
 */
#pragma once

#include <jansson.h>

#include "fs/datastore.h"

struct send_request {
	const char *target; /* path of the image */
	const char *name;   /* of the snapshot */
	const char *from;   /* of the base, an older snapshot of the image; NULL: all of it */
	const char *resume; /* token of a receiver; NULL: from the beginning */
	bool raw;           /* encrypted as it is stored, without its key (raw-stream.h) */
	bool dry_run;       /* nothing is written: how much would it be? */
};

struct send_io {
	int out_fd;    /* where the stream goes; -1 with dry_run */
	int in_fd;     /* where answers come from; -1: there are none, everything is sent */
	int cancel_fd; /* at its end, or shut down: give up (-ECANCELED); -1: none */
};

/*
 * *ret_json: {target, snapshot, from, guid, size_bytes, start_bytes, estimate_bytes, stream_bytes, data_bytes,
 * zero_bytes, hole_bytes, shared_bytes, had_bytes, frames_stored, frames_packed, receiver}; with dry_run
 * {target, snapshot, from, guid, size_bytes, data_bytes, estimate_bytes}.  data_bytes: content, not compressed,
 * that went out; had_bytes: that the receiver had; receiver: what it said when it was done, or null.
 * progress: bytes of content, of the estimate.
 * Errors, with em: -ENOENT, -EINVAL (not older, another snapshot's token), -ENOKEY, -EIO (damage), -EPIPE (who
 * reads is gone), -ECANCELED, -EREMOTEIO (the receiver said why), -EPROTO (it made no sense).
 */
int stream_send(struct datastore *ds, const struct send_request *rq, const struct send_io *io,
        gc_progress_fn *progress, void *arg, json_t **ret_json, struct errmsg *em) MUST_CHECK;

/*
 * receive.h - a stream (src/stream/FORMAT.md) becomes an image, or the next state of one
 *
 * What comes goes into a *hidden image*: an inode without a name, with a record that says what it is
 * to become (receive-private.h).  Only when the stream's end has been checked it becomes, in one
 * transaction, the new image, or the content of the one that the stream is for, together with the
 * snapshot that was sent.  Until then nothing that can be seen has changed; a stream that was cut
 * leaves the hidden image, and the same stream, sent again, goes on where it was.
 *
 * Threads: any; receive_run() takes as long as the stream does.
 */
#pragma once

#include <jansson.h>

#include "fs/filter/manager.h"
#include "fs/snapshot/snapshots.h"

struct receive_request {
	/*
	 * Path in the mount: of a whole stream a name that is free, or a directory (the image gets
	 * the name that it had); of an incremental one the image, or a directory with an image of
	 * that name.
	 */
	const char *target;
	bool force; /* incremental: although the image was changed since; keeps what it is now */
	bool properties; /* all filters, and the owner, as they were at the sender */
	/* Of a whole stream: encrypted with this named key, whatever the directory says; NULL: no. */
	const char *key;
	/* Path that the snapshot is to tell of, for who renames the image afterwards; NULL: the image's. */
	const char *called;
	int in_fd;   /* the stream; not owned, as the others */
	int back_fd; /* answers to a sender that waits for them; -1: none */
	int cut_fd;  /* at its end (POLLRDHUP): give up; -1: none */
	bool *told; /* set when it failed and the sender, who waits for answers, was told why; may be NULL */
};

/*
 * -ENODATA: the stream ended too soon; -ECANCELED: given up; both, and most others, leave what there is
 * so far, and em says how to go on.  *ret_json: {target, snapshot, from (null: whole), size_bytes, received_bytes,
 * known_bytes, left_out: [type], before (snapshot of what was there, or null), answered (the sender was told)}.
 */
int receive_run(struct manager *m, const struct filter_caller *who,
        const struct receive_request *rq, snapshot_invalidate_fn *invalidate, void *invalidate_arg,
        gc_progress_fn *progress, void *progress_arg, json_t **ret_json,
        struct errmsg *em) MUST_CHECK;

/*
 * What was cut, or is under way: {"receiving": [{target, snapshot, incremental, size_bytes, position_bytes,
 * allocated_bytes, started_ns, token, active}], "sealed": raw_list() of raw-stream.h}.  m NULL: without a daemon; then nothing is active.
 */
int receive_list(
        struct datastore *ds, struct manager *m, json_t **ret_json, struct errmsg *em) MUST_CHECK;
/* Removes what was received for a target so far.  -ENOENT; -EBUSY: it is under way.  {target, removed}. */
int receive_abort(struct manager *m, const struct filter_caller *who, const char *target,
        json_t **ret_json, struct errmsg *em) MUST_CHECK;
/*
 * Removes what came in part for images and directories that are gone by now: at the beginning, and when another
 * stream comes.
 */
void receive_sweep(struct manager *m);
/* Hidden images and what they hold as of the last commit: for statistics. */
struct receive_totals {
	uint64_t images, size_bytes, allocated_bytes;
};
int receive_totals(struct datastore *ds, struct receive_totals *ret_totals) MUST_CHECK;

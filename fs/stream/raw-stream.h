/*
 * raw-stream.h - encrypted images that are sent and received without their key
 *
 * What a raw stream is stands in src/stream/RAW.md.  A snapshot is sent as it is stored (raw-send.c).  Who
 * receives it without the key keeps it as it came, in a *holder* (fs/filter/sealed-flag.h): an inode of the
 * target's name whose content is the stream's bytes, crash-safe, checked and collected like any other
 * content, and which does not open.  Incremental streams are put behind it; it can be sent on.
 *
 * The slots of the key come with the stream, so whoever has the secret can unlock it here (keys-import.c).  Then a
 * job opens what the holder has (raw-open.c): each stream in it is translated into an ordinary one and received like
 * any other, encrypted with the key that it came with, into NAME.opening; when all of it is there, that takes the
 * holder's name, and the holder, with all ciphertext, goes.
 *
 * Threads: any; sending and receiving take as long as they take.
 */
#pragma once

#include "fs/snapshot/snapshots.h"
#include "fs/stream/send.h"
#include "fs/stream/stream-io.h"

/* stream_send() of a request with raw set.  *ret_json as there, as far as it can be known. */
int raw_send(struct datastore *ds, const struct send_request *rq, const struct send_io *io,
        gc_progress_fn *progress, void *arg, json_t **ret_json, struct errmsg *em) MUST_CHECK;

struct raw_receive_request {
	const char *target;       /* path in the mount: free, or that of a holder */
	struct record_reader *in; /* behind BEGIN; not owned */
	const struct stream_begin *begin;
	/* Of a sender that waits for answers: says that it may go on.  NULL: of none. */
	int (*hello)(void *arg, struct errmsg *em);
	void *arg;
};
/*
 * -ENODATA: the stream ended too soon; what came is kept, and em says how to go on.
 * *ret_json: {target, snapshot, sealed: true, key, received_bytes}.
 */
int raw_receive(struct manager *m, const struct filter_caller *who,
        const struct raw_receive_request *rq, snapshot_invalidate_fn *invalidate,
        void *invalidate_arg, gc_progress_fn *progress, void *progress_arg, json_t **ret_json,
        struct errmsg *em) MUST_CHECK;

/*
 * Images that were received sealed and open now, with the named key that was unlocked; wait: until they have.
 * -ESHUTDOWN; the error of one that does not open.
 */
int raw_opening(struct manager *m, const char *key, bool wait, gc_progress_fn *progress, void *arg,
        unsigned *ret_n, struct errmsg *em) MUST_CHECK;

/*
 * What is kept sealed: [{target, key (its name at the sender), domain, key_there, bytes, snapshots: [{name, whole, bytes}], token (of what was
 * cut, else null)}].  Without a daemon, too.
 */
int raw_list(struct datastore *ds, json_t **ret_json, struct errmsg *em) MUST_CHECK;

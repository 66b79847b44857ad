/*
 * receive-private.h - what the parts of the receiver share; private to fs/stream
 *
 *	receive.c          the stream from its beginning to its end
 *	receive-place.c    where it belongs, and what it builds on
 *	receive-filters.c  the filters of the sender, and those of where it lands
 *	receive-staging.c  the hidden image: made, found again, made durable, removed
 *	receive-write.c    the image's content
 *	receive-apply.c    the hidden image becomes what it is for
 *	receive-record.c   its record
 *	receive-report.c   lists
 *
 * Lock order: manager.lock > receive_lock; manager.lock is held to find or make a hidden image and to
 * apply it, not while content comes.
 */
#pragma once

#include "fs/snapshot/private.h"
#include "fs/stream/guid.h"
#include "fs/stream/receive.h"
#include "fs/stream/stream-io.h"

/* --- the record (receive-record.c) --- */

/*
 * A row RECORD_FLAG (owner: the hidden inode, id: RECEIVE_FLAG), JSON.  The inode has a link count of 0;
 * because of the record it is not removed when the datastore is opened.  Without, it is.
 */
struct receive_record {
	uint64_t ino; /* the hidden one; not in the value */
	uint8_t guid[STREAM_GUID_LEN];
	uint8_t guid_from[STREAM_GUID_LEN]; /* zero: a whole image */
	char snapshot[SNAPSHOT_NAME_MAX + 1];
	uint64_t size; /* bytes */
	uint64_t pos;  /* all of the image below it is there, durably */
	uint64_t started_ns;
	uint64_t dir; /* of a whole image: where it is to appear, and as what */
	char name[NS_NAME_MAX + 1];
	uint64_t image; /* of an incremental stream: what it is for; else 0 */
};
/* malloc'ed; NULL: no memory. */
char *receive_record_encode(const struct receive_record *rec);
/* Any bytes.  -EUCLEAN. */
int receive_record_decode(
        uint64_t ino, const void *value, size_t len, struct receive_record *ret_rec) MUST_CHECK;
/* Inside the gate. */
int receive_record_put(struct ns *ns, const struct receive_record *rec) MUST_CHECK;
/*
 * Non-zero stops and is returned.  A damaged one is told as an update of itself, without name and
 * guid: its path is "(inode N)".
 */
typedef int receive_record_fn(void *arg, const struct receive_record *rec);
int receive_records_each(struct ns *ns, receive_record_fn *fn, void *arg) MUST_CHECK;
/* Path of what it is to become, as it is now. */
void receive_record_path(
        struct ns *ns, const struct receive_record *rec, char path[FILTER_PATH_MAX]);
static inline bool receive_record_whole(const struct receive_record *rec)
{
	return rec->image == 0;
}

/* --- one that is under way --- */

struct place {
	char path[FILTER_PATH_MAX];
	uint64_t dir; /* of a whole image */
	char name[NS_NAME_MAX + 1];
	uint64_t image;             /* of an incremental stream; else 0 */
	struct snapshot_image base; /* likewise; owned */
	struct image_policy policy; /* of what is stored there */
};

struct staging {
	struct receive_record rec;
	struct image *img; /* open; NULL: not there yet */
	uint64_t pos;      /* all below it has been put; rec.pos: and is durable */
	uint64_t unsaved_bytes, saved_ns;
	bool claimed; /* in manager.receiving */
};

struct receiver {
	struct manager *m;
	const struct filter_caller *who;
	const struct receive_request *rq;
	snapshot_invalidate_fn *invalidate; /* may be NULL */
	void *invalidate_arg;
	gc_progress_fn *progress; /* may be NULL */
	void *progress_arg;

	struct record_reader *reader;
	struct record_writer *writer; /* NULL: no answers */
	bool answered;                /* the last answer was given, or none can be */

	struct stream_begin begin;
	struct snapshot_image like; /* path and attributes at the sender; owned */
	char snapshot[SNAPSHOT_NAME_MAX + 1];
	char *from; /* name of the base at the sender; owned; NULL: none */
	uint64_t time_ns;
	struct owned_rows rows; /* of the filters, with the sender's ids */
	size_t rows_bytes;

	struct place place;
	struct staging st;
	uint8_t *chunks; /* FRAME_CHUNKS_MAX of them; owned */
	uint64_t placed_bytes, known_bytes;
	json_t *left_out; /* types of filters */
	bool raw;         /* it is sealed: raw_receive() did the rest */
	json_t *raw_json; /* its result */
	char before[SNAPSHOT_NAME_MAX + 1];
};

/* --- receive.c --- */
/* Sends an answer, if there is a way back. */
int receive_answer(struct receiver *rc, struct stream_record *rec, struct errmsg *em) MUST_CHECK;
/* Is nobody interested any more?  -ECANCELED. */
int receive_cut(const struct receiver *rc) MUST_CHECK;

/* --- receive-place.c --- */
/* Takes up META. */
int place_meta(struct receiver *rc, const struct stream_bytes *meta, struct errmsg *em) MUST_CHECK;
/* Fills rc->place: outside manager.lock. */
int place_find(struct receiver *rc, struct errmsg *em) MUST_CHECK;
/* Again, before it is applied: with manager.lock held. */
int place_check(struct receiver *rc, struct errmsg *em) MUST_CHECK;
void place_release(struct place *pl);
/* Was the image changed since its base?  A group is committed. */
int place_changed(struct receiver *rc, bool *ret_changed) MUST_CHECK;
int place_refuse_changed(const struct receiver *rc, struct errmsg *em);
/* The snapshot of this guid that an image is in; both are the caller's.  -ENOENT. */
int place_snapshot(struct datastore *ds, uint64_t ino, const uint8_t guid[STREAM_GUID_LEN],
        struct snapshot *ret_s, struct snapshot_image *ret_si) MUST_CHECK;

/* --- receive-filters.c --- */
int filters_row(struct receiver *rc, const struct stream_row *row, struct errmsg *em) MUST_CHECK;
/* The rows that the hidden image is to have. */
int filters_plan(struct receiver *rc, struct owned_rows *ret_rows, struct errmsg *em) MUST_CHECK;
/*
 * Are the filters of an updated image that data depends on those that it had when the stream began?  now: what it
 * has.  With manager.lock held.
 */
int filters_same_still(
        struct receiver *rc, const struct manifest *now, struct errmsg *em) MUST_CHECK;
/* Data depends on it, and it sees requests: it comes with the stream. */
bool filters_depends(const struct stack_item *item);

/* --- receive-staging.c --- */
/*
 * Finds the hidden image of an earlier stream that was cut; sets st.rec.pos, else 0.  It is ours
 * until staging_close().  -EBUSY: another stream fills it.
 */
int staging_find(struct receiver *rc, struct errmsg *em) MUST_CHECK;
/* Opens it; makes it, if none was found. */
int staging_open(struct receiver *rc, struct errmsg *em) MUST_CHECK;
/* All below pos has been put; saves now and then. */
int staging_moved(struct receiver *rc, uint64_t pos, struct errmsg *em) MUST_CHECK;
/* Makes what was put durable, and notes how far it is. */
int staging_save(struct receiver *rc) MUST_CHECK;
void staging_close(struct receiver *rc);
/* Removes a hidden image with all its rows.  Nobody has it. */
int staging_remove(struct manager *m, uint64_t ino) MUST_CHECK;
/* Is it being filled? */
bool staging_active(struct manager *m, uint64_t ino);

/* --- receive-write.c --- */
int write_record(
        struct receiver *rc, const struct stream_record *rec, struct errmsg *em) MUST_CHECK;
/* Nothing is left behind the image's end. */
int write_end(struct receiver *rc, struct errmsg *em) MUST_CHECK;

/* --- receive-apply.c --- */
int receive_apply(struct receiver *rc, struct errmsg *em) MUST_CHECK;

/*
 * send-private.h - what the parts of the sender share; private to fs/stream/send*
 *
 *	send.c           what is asked for; head and end of the stream, errors
 *	send-walk.c      from the differences of two maps to windows
 *	send-window.c    a window's content: read, and written as records
 *	send-talk.c      HELLO, queries and what the receiver has
 *	send-shared.c    which content was sent already, and where
 *	send-meta.c      META and ROWs
 */
#pragma once

#include "fs/snapshot/records.h"
#include "fs/stream/send.h"
#include "fs/stream/stream-io.h"
#include "store/frame-read.h"

/* --- send-shared.c: location -> chunk of the image that has this content at the receiver --- */
struct shared;
int shared_new(struct shared **ret_t) MUST_CHECK;
void shared_free(struct shared *t); /* accepts NULL */
/* Forgets something older when it is full. */
void shared_add(struct shared *t, uint64_t loc, uint64_t chunk);
bool shared_find(const struct shared *t, uint64_t loc, uint64_t *ret_chunk);

/* --- send-window.c --- */
#define WINDOW_CHUNKS_MAX LEAF_CHUNKS /* content of one window: 1 MiB */

/* A place of the image, and what is there. */
struct spot {
	uint64_t chunk;
	uint64_t entry; /* of the map; state data */
	uint16_t loose; /* chunk of the window's loose ones; LOOSE_NONE */
	bool done;      /* the receiver has it, or it was shared */
};
#define LOOSE_NONE UINT16_MAX
#define RING_MAX   16u /* windows that are asked about at a time */

/* A frame of which each chunk is wanted here. */
struct kept_frame {
	struct frame_info info;
	uint8_t *payload; /* owned */
};

struct window {
	struct spot spots[WINDOW_CHUNKS_MAX]; /* ascending */
	unsigned n;
	struct kept_frame *frames[WINDOW_CHUNKS_MAX]; /* owned */
	unsigned n_frames;
	uint8_t *loose; /* owned; chunks of other frames, one after another */
	unsigned n_loose, loose_cap;
	uint32_t query; /* number of its query, with asked: ask i is of spot i */
	bool asked;
};

struct sender {
	struct datastore *ds;
	const struct send_request *rq;
	struct send_io io;
	gc_progress_fn *progress;
	void *arg;
	struct errmsg *em;
	/* What is sent. */
	struct snapshot s;        /* owned */
	struct snapshot_image si; /* owned */
	struct image *img, *base; /* handles; base NULL: all of it */
	uint64_t base_key;
	struct stream_begin begin;
	uint64_t start, end; /* bytes of the image, whole chunks */
	/* The streams. */
	struct record_writer *w;
	struct record_reader *answers; /* NULL: nobody answers */
	struct stream_hello hello;
	uint64_t pos;
	bool begun;     /* the receiver can be told of an error */
	char *receiver; /* DONE's text; owned */
	/* Content on its way. */
	struct shared *shared;
	struct stream_share share; /* being gathered; len 0: none */
	struct window *ring;       /* owned; n_ring of them, one being gathered or asked about */
	unsigned n_ring, ring_first, ring_used; /* used: that were asked about */
	unsigned spots_max;                     /* of a window */
	uint8_t *asks;                          /* owned; room for a query */
	uint64_t passed;                        /* bytes of content, for progress */
	struct {
		uint64_t data, zero, hole, shared, had; /* bytes */
		uint64_t frames_stored, frames_packed;
	} count;
};

/* Reads what the window's spots need; ends with no spot done. */
int window_load(struct sender *s, struct window *w) MUST_CHECK;
/* What is not done of it goes out. */
int window_send(struct sender *s, struct window *w) MUST_CHECK;
void window_clear(struct window *w);
void window_release(struct window *w);
/* The content of each spot, unpacked once: fn is called in order of the window's frames. */
typedef void window_chunk_fn(void *arg, unsigned spot, const uint8_t *chunk);
int window_each(struct window *w, window_chunk_fn *fn, void *arg) MUST_CHECK;

/* --- send-talk.c --- */
/* After the last ROW: what the receiver says; sets start. */
int talk_begin(struct sender *s) MUST_CHECK;
/* Asks about a loaded window. */
int talk_ask(struct sender *s, struct window *w) MUST_CHECK;
/* Waits for the answer about the oldest window that was asked about. */
int talk_answer(struct sender *s, struct window *w) MUST_CHECK;
/* After END. */
int talk_end(struct sender *s) MUST_CHECK;
/* The receiver does not read any more: why?  Returns an error, with em. */
int talk_why(struct sender *s);

/* --- send-walk.c --- */
/* All content in [start, end), with the last POS. */
int walk_send(struct sender *s) MUST_CHECK;
/* Bytes of data in the difference. */
int walk_count(struct sender *s, uint64_t *ret_bytes) MUST_CHECK;
/* The chunk at off is the same as the one at src, which lies below the position. */
int walk_share(struct sender *s, uint64_t off, uint64_t src) MUST_CHECK;
/* Moves the position on; to >= s->pos. */
int walk_pos(struct sender *s, uint64_t to) MUST_CHECK;

/* --- send-meta.c --- */
int meta_send(struct sender *s) MUST_CHECK;
int rows_send(struct sender *s) MUST_CHECK;

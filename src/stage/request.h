/*
 * request.h - one operation of a guest on its image, on its way through the stack
 *
 * Made by the layer above (fs/vfs, or a stage for requests of its own), carried down by the
 * pipeline (pipeline.h) through every stage that handles its operation, answered by a stage or by
 * the bottom, carried up again, and given back by calling complete() exactly once, on any thread.
 *
 *	op       takes                              gives
 *	READ     off, len                           out: len bytes, or fewer at the end of the file
 *	WRITE    off, len, data (len bytes)         done = len, or less where the file cannot grow
 *	FLUSH    -                                  all acknowledged is durable
 *	DISCARD  off, len                           reads as zeros, space given back; size unchanged
 *	ZERO     off, len, flags                    reads as zeros, allocated
 *	EXTENTS  off, flags & REQUEST_HOLE          found: where the next data (or hole) begins
 *	RESIZE   len = the new size of the file     -
 *
 * Preallocation (fallocate mode 0) is a ZERO with REQUEST_ALLOCATE: holes become allocated zeros,
 * data stays.  Offsets and lengths are in bytes, of any alignment, below IMAGE_SIZE_MAX.
 */
#pragma once

#include "base/compiler.h"
#include "base/readv.h"

enum request_op {
	REQUEST_READ,
	REQUEST_WRITE,
	REQUEST_FLUSH,
	REQUEST_DISCARD,
	REQUEST_ZERO,
	REQUEST_EXTENTS,
	REQUEST_RESIZE,
	REQUEST_OPS, /* how many there are */
};

/* As bits: what a stage handles and understands. */
#define OP(name)   BIT(REQUEST_##name)
#define OPS_ALL    (BIT(REQUEST_OPS) - 1)
#define OPS_CHANGE (OP(WRITE) | OP(DISCARD) | OP(ZERO) | OP(RESIZE)) /* of content */

enum request_flags {
	REQUEST_FUA = BIT(0),       /* WRITE, DISCARD, ZERO: durable before it completes */
	REQUEST_HOLE = BIT(1),      /* EXTENTS: look for a hole, not for data */
	REQUEST_ALLOCATE = BIT(2),  /* ZERO: only what is a hole changes */
	REQUEST_KEEP_SIZE = BIT(3), /* ZERO: the file does not grow */
	REQUEST_KILL_PRIV =
	        BIT(4), /* changes: setuid and setgid bits go (the caller lacks CAP_FSETID) */
	REQUEST_COUNTLESS = BIT(5), /* the system's own (a job, a scan): not the guest's activity */
	REQUEST_COPY = BIT(6),      /* WRITE: copies what another image holds (copy_file_range) */
	REQUEST_COPIER = BIT(7),    /* EXTENTS: of who shares what it finds; needs no holes named */
};

#define STACK_STAGES_MAX 24u        /* request stages of one image */
#define REQUEST_LEN_MAX  (1u << 20) /* of READ and WRITE */

struct pipeline_version;
struct stage_link;
struct trip_waiter;

/* What the pipeline keeps of a request; nobody else looks in (pipeline-private.h). */
struct request_trip {
	struct pipeline_version *version; /* cannot change while under way */
	struct stage_link *owner;         /* the stage whose own request it is; NULL: the guest's */
	struct trip_waiter *waiter;       /* the submitter, where it waits; on its stack */
	const void *origin;               /* data, as it came or as it was copied; not a stage's */
	uint32_t at;                      /* stage that has it, from the top; = n: the bottom */
	uint32_t floor;                   /* first stage that sees it */
	uint32_t wants_post;              /* bit a stage */
	_Atomic int pend;                 /* see drive.c */
	bool sampled, sampled_cpu, returning;
	bool owns_data;  /* origin is the pipeline's copy */
	bool data_stays; /* valid until complete() */
	uint16_t shard;
	uint64_t started_ns, boundary_ns;
	uint64_t own_cpu_ns; /* thread CPU time when an own request began; 0: not taken */
	/* Sampled requests only: spent in each stage, waits too. */
	uint64_t stage_ns[STACK_STAGES_MAX];
	void *contexts;       /* room for the stages' contexts; owned */
	struct request *next; /* run queue, or held at the gate */
};

struct request {
	enum request_op op;
	unsigned flags;
	uint64_t off, len;
	/*
	 * WRITE; not owned; a stage may point it elsewhere in pre(), until its post().  A stage that
	 * keeps the request reads it before pre() returns PEND and not again until it goes on: the
	 * pipeline moves it meanwhile.
	 */
	const void *data;
	struct readv out; /* READ: the answer; owned by the request until taken */
	uint64_t done;    /* WRITE: bytes taken */
	uint64_t found;   /* EXTENTS: where; UINT64_MAX: nowhere */
	int result;       /* 0 or -errno; valid from the moment it turns upwards */
	void *file;       /* whose it is: the bottom's own (a vnode) */
	/*
	 * Called by the bottom, inside the store's gate, once a change is applied; NULL: nobody.
	 * State that is put there (stage_host.state_put) is in one transaction with the change.
	 */
	void (*applied)(struct request *req);
	/* Gives it back: result and out are final.  Any thread; must not block for long. */
	void (*complete)(struct request *req);
	void *arg; /* complete's */
	struct request_trip trip;
};

/*
 * scan-priv.h - the insides of the scan filter: scan.c (requests), scan-work.c (looking at bytes)
 *
 *	field                       guarded by
 *	settings, paths, yara       constant while the image is not quiesced
 *	queue, running, quiet, passing, down, findings, sweep     lock
 *	clean, seen                 lock
 *	count                       atomic
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "stage/builtin/scan-engine.h"
#include "stage/stage.h"

/* What was found clean is remembered by regions of this size. */
#define SCAN_REGION_SHIFT 16
#define SCAN_REGION_BYTES (1u << SCAN_REGION_SHIFT)
#define SCAN_WINDOW_MAX   (256u << 10)
/* Longest piece of an image looked at in one go by a sweep. */
#define SCAN_PIECE_BYTES (1u << 20)
#define SCAN_FINDINGS    32u
#define SCAN_SEEN        1024u

enum scan_action { SCAN_LOG, SCAN_ALERT, SCAN_BLOCK };
enum scan_what { SCAN_BOTH, SCAN_WRITES, SCAN_READS };
enum scan_down { SCAN_DOWN_PASS, SCAN_DOWN_FAIL };

/* A request that is kept until it was looked at: a request's context. */
struct scan_job {
	struct request *req;
	struct scan_job *next;           /* queue */
	struct scan_job *prev, *passing; /* ring of writes between pre() and the end of their way */
	uint8_t *data;                   /* WRITE: a copy of what is written; owned */
	uint64_t off;
	size_t len;
	bool unscanned; /* WRITE: it passed, but could not be looked at */
};

struct scan_finding {
	uint64_t time_ns, off;
	char name[SCAN_NAME_LEN];
};

/* A scan of the whole image, in the background; kept in state_put("sweep"). */
struct scan_sweep {
	bool active;
	uint64_t pos;        /* everything below it is done */
	uint64_t found;      /* in this sweep */
	uint64_t done_ns;    /* wall clock, when the last one ended; 0: never */
	uint64_t last_found; /* in the last one */
	uint64_t retry_ns;   /* clamd was away: not before this time */
};

struct scan {
	const struct stage_host *host;
	struct stage_link *self;
	char *rules, *clamd; /* paths; NULL: not used; owned */
	enum scan_action action;
	enum scan_what what;
	enum scan_down on_down;
	size_t window;
	unsigned timeout_s;
	uint64_t interval_ns; /* 0: only when asked */
	struct yara *yara;    /* NULL: no rules, or they could not be read */

	/* RECONFIGURE under way */
	struct scan *next;

	pthread_mutex_t lock;
	pthread_cond_t idle; /* running became false */
	struct scan_job *head, **tail;
	struct scan_job passing; /* head of the ring */
	bool running, quiet, retry_due;
	bool down; /* an engine does not work; with rules there are, requests are still looked at */
	char why_down[256];
	struct scan_sweep sweep;
	struct scan_finding findings[SCAN_FINDINGS]; /* ring */
	unsigned n_findings;                         /* ever; % SCAN_FINDINGS is the next place */
	uint64_t *clean;                             /* a bit a region; owned */
	size_t clean_words;
	uint32_t seen[SCAN_SEEN]; /* changes of regions, by region % SCAN_SEEN */

	struct {
		_Atomic uint64_t scanned_bytes, requests, unscanned_bytes, found, blocked, sweeps,
		        timeouts;
	} count;
};

/* --- scan-work.c --- */
/* Opens what the settings name; what does not work is noted as down.  No lock held. */
void scan_engines_start(struct scan *s);
/* Sees to it that the worker runs.  With the lock. */
void scan_wake(struct scan *s);
/* host->work: looks at kept requests, then at pieces of the image. */
void scan_work(void *stage);
/* Begins a sweep, if none is under way.  With the lock. */
void scan_sweep_start(struct scan *s);
/* Reads what was kept of an earlier life. */
void scan_state_load(struct scan *s);
/* With the lock: is [off, off + len) known to be clean? */
bool scan_is_clean(const struct scan *s, uint64_t off, size_t len);
/* With the lock: not any more; also what is being looked at now. */
void scan_soil(struct scan *s, uint64_t off, size_t len);

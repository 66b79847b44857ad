/*
 * job.h - work on images that takes long: converting through a transform, moving to a crypto domain
 *
 * A row RECORD_JOB (owner: inode, id: link id), JSON {what, type, from: [domain]}, is put together
 * with the change that makes the work necessary, and goes with the change that ends it.  So a crash
 * or an unmount leaves either both or neither, and the next mount goes on.
 *
 * One thread does one job at a time, in the order in which they were queued; what fails (a damaged
 * chunk, no space, a locked key) is tried again after JOB_RETRY_NS while others go on.  A kind of
 * job is a struct job_ops; it works in steps and asks job_stopped() between them.
 *
 * Threads: any; one lock inside.
 */
#pragma once

#include <jansson.h>

#include "base/clock.h"
#include "base/errmsg.h"
#include "store/store.h"

#define JOB_RETRY_NS    (10 * NS_PER_SEC)
#define JOB_DOMAINS_MAX 16u

struct manager;
struct jobs;
struct ns;

enum job_what { JOB_CONVERT, JOB_RESEAL, JOB_UNSEAL };

struct job {
	struct job *next;
	uint64_t ino, link;
	enum job_what what;
	char type[32];
	uint32_t from[JOB_DOMAINS_MAX]; /* RESEAL: domains that the image leaves */
	unsigned n_from;
	_Atomic uint64_t done, total; /* bytes; total 0: not known yet */
	uint64_t retry_at_ns;
	bool again;             /* it was asked for once more since it began to run */
	bool kicked;            /* what it lacked may have come since it began to run */
	char error[ERRMSG_LEN]; /* why it was put off; "" */
};

struct job_ops {
	const char *what; /* in the row */
	/*
	 * Works until it is done (0), fails, or is to stop (-EINTR).  Begins anew after each of
	 * these but the first: what is kept, it keeps with the image.
	 */
	int (*run)(struct manager *m, struct job *job, struct errmsg *em);
};
extern const struct job_ops job_convert_ops; /* convert.c */
extern const struct job_ops job_reseal_ops;  /* reseal.c */
extern const struct job_ops job_unseal_ops;  /* fs/stream/raw-open.c */

int jobs_new(struct manager *m, struct jobs **ret_jobs) MUST_CHECK;
/* Reads the rows and starts the thread. */
int jobs_start(struct jobs *jobs, struct errmsg *em) MUST_CHECK;
/* The job that runs ends at its next step; waits end with -ESHUTDOWN.  Accepts NULL. */
void jobs_stop(struct jobs *jobs);
void jobs_free(struct jobs *jobs); /* stopped; accepts NULL */

/* Tells a store that has just been opened what domains the jobs of the rows leave.  Any thread. */
void jobs_leaving(struct ns *ns, struct store *store);

/* The row's text, malloc'ed; NULL: no memory. */
char *job_encode(const struct job *job);
/* Any bytes; ino and link are left alone.  -EUCLEAN. */
int job_decode(const void *value, size_t len, struct job *ret_job) MUST_CHECK;

/* After its row was put: takes a copy.  Replaces what is there of this link. */
int jobs_add(struct jobs *jobs, const struct job *job) MUST_CHECK;
/* -ENOENT; a copy of how it stands. */
int jobs_find(struct jobs *jobs, uint64_t ino, uint64_t link, struct job *ret_job) MUST_CHECK;
/* With manager.lock held, so that nobody adds it: was it asked for again since it began to run? */
bool jobs_again(struct jobs *jobs, uint64_t ino, uint64_t link);
/* Another job than this one leaves that domain, too. */
bool jobs_leave_domain(struct jobs *jobs, const struct job *but, uint32_t domain);
/*
 * Waits until there is no such job; progress as it goes.  -ESHUTDOWN: unmounted; the error of a job
 * that was put off, with em.
 */
int jobs_wait(struct jobs *jobs, uint64_t ino, uint64_t link, gc_progress_fn *fn, void *arg,
        struct errmsg *em) MUST_CHECK;
/* A key came: jobs that were put off are tried now. */
void jobs_kick(struct jobs *jobs);
/* [{target, type, what, progress, error}] */
json_t *jobs_json(struct jobs *jobs);

/* --- for the job that runs --- */
bool job_stopped(struct manager *m);
/* Its inode has no name any more: there is nothing to do. */
bool job_is_void(struct manager *m, const struct job *job);

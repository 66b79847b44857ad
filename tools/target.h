/*
 * target.h - the TARGET of a command, and asking it for data
 *
 * A TARGET is a datastore directory, a mount point, or a path inside a mount.  What it says comes
 * from the daemon (control socket) while it is mounted, and else from the datastore opened
 * read-only here: the same code (fs/control/report.h) makes both answers.
 */
#pragma once

#include "fs/control/control.h"
#include "tools/cmd.h"
#include "tools/progress.h"

struct target {
	char *dir;        /* absolute */
	char *mountpoint; /* NULL: not found mounted */
	char *sub;        /* path inside the mount, "" for the top */
	long pid;         /* of who holds the datastore; 0: nobody */
};

/* Fills t (release it in any case).  0, or WEIR_EXIT_FAILED, reported. */
int target_find(struct target *t, const char *arg) MUST_CHECK;
/*
 * The same for an image that may be gone, of which a snapshot is meant: sub is then where it was, below
 * the last directory on the way that is there.
 */
int target_find_gone(struct target *t, const char *arg) MUST_CHECK;
void target_release(struct target *t);

/* Makes the answer from an open datastore; as in report.h. */
typedef int target_report_fn(void *arg, struct datastore *ds, struct progress *progress,
        json_t **ret_json, struct errmsg *em);
struct target_query {
	json_t *request;          /* for the daemon; owned, released by target_ask */
	const char *doing;        /* "reading", for progress; and in "cannot ..." */
	const char *verb;         /* "read", as in "cannot read datastore ..." */
	target_report_fn *report; /* NULL: only a daemon can answer */
	void *arg;
	bool read_only;                /* how it is opened when it is not mounted */
	const struct control_fds *fds; /* for the daemon, with the request; NULL: none */
	bool in_bytes;                 /* what progress counts */
	bool gone;                     /* its target may be an image that is gone */
	/* Not 0: this error is not reported, but told: the caller knows more of it. */
	int silent;
	bool *ret_silent;
};
/* Asks.  0 and the answer, owned by the caller; or WEIR_EXIT_FAILED, reported (but for silent). */
int target_ask(struct target *t, struct target_query *q, json_t **ret_json) MUST_CHECK;

typedef void target_print_fn(const struct target *t, const json_t *json);
/* Prints the answer as JSON, or with print.  Owns json. */
void target_print(const struct target *t, json_t *json, bool as_json, target_print_fn *print);
/*
 * Asks and prints, for a command that has read its own arguments: fn fills the request in, given
 * the target (0, or an exit code, reported).  Owns q->request.
 */
typedef int target_fill_fn(void *arg, const struct target *t, json_t *request);
int target_ask_and_print(struct target_query *q, const char *target, bool as_json,
        target_fill_fn *fill, target_print_fn *print);
/* The whole of a command with the arguments "TARGET [--json]". */
int target_command_run(const struct command *cmd, int argc, char **argv, struct target_query *q,
        target_print_fn *print);

/* Fields of an answer; 0 or "" when they are not there. */
uint64_t json_u64(const json_t *obj, const char *key);
double json_num(const json_t *obj, const char *key);
const char *json_text(const json_t *obj, const char *key);

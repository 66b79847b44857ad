/*
 * control.h - the daemon's control socket
 *
 * A Unix stream socket DIR/control.sock (mode 0600), one JSON object a line.  Request:
 * {"op": NAME, ...arguments}.  The reply is any number of
 * {"progress": {"done": N, "total": N}} lines and then one of {"ok": true, "result": {...}} or
 * {"ok": false, "errno": N, "error": "text"}.  Lines are at most CONTROL_LINE_MAX bytes from a
 * client.  The requests: status, stats, images, gc, sync, umount (below), and those of PROTOCOL.md.
 *
 * What the daemon can do is a list of tables of struct control_op, found by name: a new request is
 * an entry {name, needs, function} in one of them.
 */
#pragma once

#include <jansson.h>

#include "fs/daemon.h"
#include "fs/filter/manager.h"

#define CONTROL_NAME     "control.sock"
#define CONTROL_LINE_MAX (256u << 10) /* two key files as base64 */
#define CONTROL_LIST_MAX 4096u        /* texts in one list */
#define CONTROL_FDS_MAX  2u           /* descriptors that come with a request */

typedef void control_progress_fn(void *arg, uint64_t done, uint64_t total);
/*
 * Client: sends the request (borrowed), waits for the reply; *ret_result is owned by the caller.
 * -ENOTCONN when no daemon listens; else the daemon's own error, with its text in em.
 */
int control_call(const char *dir, json_t *request, control_progress_fn *progress, void *arg,
        json_t **ret_result, struct errmsg *em) MUST_CHECK;
/*
 * The same, with descriptors for the daemon to work on (which stay the caller's): what reads or writes
 * much goes through them and not through the socket.
 */
struct control_fds {
	int fds[CONTROL_FDS_MAX];
	unsigned n;
};
int control_call_fds(const char *dir, json_t *request, const struct control_fds *fds,
        control_progress_fn *progress, void *arg, json_t **ret_result,
        struct errmsg *em) MUST_CHECK;

/*
 * Requests: "stats" may have "images": [paths], "gc" may have "full": bool (default true), "umount"
 * may have "lazy": bool: also when it is in use (default: -EBUSY then).  "umount" is answered when
 * all is committed and the lock is released.  The server answers its own user and root only.
 */
struct control_texts {
	const char **items; /* owned; the strings are in the request's json */
	size_t n;
};

/* A request, checked: every field has the type that its name stands for, whatever the op. */
struct control_request {
	const struct control_op *op;
	/* Texts; NULL: not given. */
	const char *target, *type, *action, *name, *expect;
	const char *kind, *secret, *new_kind, *new_secret;
	const char *other, *other_name, *holder, *agent, *every, *keep;
	const char *from, *token;
	struct control_texts images, settings, args; /* items NULL: not given */
	struct control_texts kinds, secrets;         /* further ones */
	bool full, lazy, force, recursive, wait, verify, quiesce, dry_run, properties, raw;
	uint64_t slot, offset;
	bool slot_given;
	json_t *json; /* owned */
};

/* Fields that an op cannot do without. */
enum control_needs {
	CONTROL_NEEDS_TARGET = BIT(0),
	CONTROL_NEEDS_TYPE = BIT(1),
	CONTROL_NEEDS_ACTION = BIT(2),
	CONTROL_NEEDS_NAME = BIT(3),
	CONTROL_NEEDS_KIND = BIT(4), /* and secret */
	CONTROL_NEEDS_NEW_KIND = BIT(5),
	CONTROL_NEEDS_SLOT = BIT(6),
	CONTROL_NEEDS_OTHER = BIT(7),
	CONTROL_NEEDS_OTHER_NAME = BIT(8),
	CONTROL_NEEDS_HOLDER = BIT(9),
};

/* What an op works with; progress may be called with it while it runs. */
struct control_context {
	struct datastore *ds;
	struct manager *manager; /* NULL: no filters (tests) */
	const char *mountpoint;
	struct filter_caller who;
	gc_progress_fn *progress;
	void *arg;
	/* umount: answered when the datastore is closed (server.c). */
	int (*umount)(void *arg, bool lazy, struct errmsg *em);
	/* Descriptors that came with the request; closed after it. */
	const int *fds;
	unsigned n_fds;
	/*
	 * Readable, or at its end (POLLRDHUP), once nobody waits for the answer any more: the client is gone, or
	 * the daemon is ending.  What takes long watches it.  -1: none.
	 */
	int cancel_fd;
	/* As in fs/snapshot/snapshots.h. */
	void (*invalidate)(void *arg, uint64_t ino, const char *name);
};

struct control_op {
	const char *name; /* NULL ends a table */
	unsigned needs;   /* enum control_needs */
	/* *ret_json may stay NULL: an empty object.  On a thread of the client's own; may wait. */
	int (*run)(struct control_context *ctx, const struct control_request *req,
	        json_t **ret_json, struct errmsg *em);
};
extern const struct control_op control_ops[];          /* ops.c */
extern const struct control_op control_filter_ops[];   /* filter-ops.c */
extern const struct control_op control_snapshot_ops[]; /* snapshot-ops.c */
extern const struct control_op control_receive_ops[];  /* receive-ops.c */
extern const struct control_op control_stream_ops[];   /* stream-ops.c */
extern const struct control_op keys_ops[];             /* fs/filter/keys-ops.c */

/* Parses a line as a client sent it (any bytes, no terminator needed).  -EBADMSG with em. */
int control_request_parse(const char *line, size_t len, struct control_request *ret_req,
        struct errmsg *em) MUST_CHECK;
/* Wipes what was secret, too. */
void control_request_release(struct control_request *req);

/* Server: an accepting thread, and one for each client. */
struct control_server;
struct control_host {
	struct datastore *ds;
	const char *mountpoint;
	/* Unmounts, so that the daemon ends; any thread.  -EBUSY: in use, and not lazy. */
	int (*umount)(void *arg, bool lazy, struct errmsg *em);
	/* Drops what the kernel caches of an inode, or of a name in it; any thread. */
	void (*invalidate)(void *arg, uint64_t ino, const char *name);
	void *arg;
	struct manager *manager; /* NULL: no filters */
};
int control_server_start(const struct control_host *host, struct control_server **ret_srv,
        struct errmsg *em) MUST_CHECK;
/*
 * Before the datastore is closed: removes the socket, answers no more requests, waits for those
 * under way; clients that wait for an umount go on waiting.  Accepts NULL.
 */
void control_server_quiesce(struct control_server *srv);
/*
 * After the datastore is closed, with what that returned: answers those who wait for the umount,
 * and frees.  Accepts NULL.
 */
void control_server_stop(struct control_server *srv, int result);

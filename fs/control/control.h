/*
 * control.h - the daemon's control socket
 *
 * A Unix stream socket DIR/control.sock (mode 0600), one JSON object a line.  Request:
 * {"op": "status" | "stats" | "images" | "gc" | "sync" | "umount", ...arguments}.  The reply is any
 * number of
 * {"progress": {"done": N, "total": N}} lines and then one of {"ok": true, "result": {...}} or
 * {"ok": false, "errno": N, "error": "text"}.  Lines are at most CONTROL_LINE_MAX bytes from a
 * client.
 */
#pragma once

#include <jansson.h>

#include "fs/daemon.h"

#define CONTROL_NAME     "control.sock"
#define CONTROL_LINE_MAX 65536

typedef void control_progress_fn(void *arg, uint64_t done, uint64_t total);
/*
 * Client: sends the request (borrowed), waits for the reply; *ret_result is owned by the caller.
 * -ENOTCONN when no daemon listens; else the daemon's own error, with its text in em.
 */
int control_call(const char *dir, json_t *request, control_progress_fn *progress, void *arg,
        json_t **ret_result, struct errmsg *em) MUST_CHECK;

/*
 * Requests: "stats" may have "images": [paths], "gc" may have "full": bool (default true), "umount"
 * may have "lazy": bool: also when it is in use (default: -EBUSY then).  "umount" is answered when
 * all is committed and the lock is released.  The server answers its own user and root only.
 */
enum control_op {
	CONTROL_STATUS,
	CONTROL_STATS,
	CONTROL_IMAGES,
	CONTROL_GC,
	CONTROL_SYNC,
	CONTROL_UMOUNT,
};

struct control_request {
	enum control_op op;
	bool full, lazy;
	const char **images; /* owned array of strings in json; NULL: not given */
	size_t n_images;
	json_t *json; /* owned */
};
/* Parses a line as a client sent it (any bytes, no terminator needed).  -EBADMSG with em. */
int control_request_parse(const char *line, size_t len, struct control_request *ret_req,
        struct errmsg *em) MUST_CHECK;
void control_request_release(struct control_request *req);

/* Server: an accepting thread, and one for each client. */
struct control_server;
struct control_host {
	struct datastore *ds;
	const char *mountpoint;
	/* Unmounts, so that the daemon ends; any thread.  -EBUSY: in use, and not lazy. */
	int (*umount)(void *arg, bool lazy, struct errmsg *em);
	void *arg;
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

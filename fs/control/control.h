/*
 * control.h - the daemon's control socket
 *
 * A Unix stream socket DIR/control.sock (mode 0600), one JSON object a line.  Request:
 * {"op": "status" | "stats" | "images" | "gc" | "sync" | "umount", ...arguments}.  The reply is any number of
 * {"progress": {"done": N, "total": N}} lines and then one of {"ok": true, "result": {...}} or
 * {"ok": false, "errno": N, "error": "text"}.  Lines are at most CONTROL_LINE_MAX bytes from a client.
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

/* Server: a thread of the daemon. */
struct control_server;
struct control_host {
	struct datastore *ds;
	const char *mountpoint;
	void (*umount)(void *arg); /* asks the daemon to end */
	void *arg;
};
int control_server_start(const struct control_host *host, struct control_server **ret_srv, struct errmsg *em) MUST_CHECK;
void control_server_stop(struct control_server *srv); /* accepts NULL */

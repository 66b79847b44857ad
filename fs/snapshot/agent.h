/*
 * agent.h - talking to a QEMU guest agent over its Unix socket
 *
 * Protocol: QEMU's "Guest Agent Protocol Reference".  A line of JSON asks, a line answers:
 * {"return": ...} or {"error": {"class", "desc"}}.  What is in the pipe from an earlier client is
 * told from answers to us by guest-sync-delimited: its answer comes after a byte 0xFF and has our
 * number in it; so each connection begins with it, and one on which an answer did not come in time
 * is given up.
 *
 * The guest is not trusted: lines are bounded, and so is all that is skipped; every wait has an end.
 *
 * Threads: one at a time for one agent.
 */
#pragma once

#include <stdatomic.h>

#include "base/errmsg.h"

#define AGENT_PATH_MAX 107u /* sun_path */
#define AGENT_LINE_MAX (16u << 10)
#define AGENT_SKIP_MAX (1u << 20) /* bytes of earlier conversations */
#define AGENT_TEXT_MAX 160u

struct agent_reply {
	bool failed;               /* text: why; as the guest says it, printable */
	int64_t number;            /* of "return", when it is one; else -1 */
	char text[AGENT_TEXT_MAX]; /* of "return", when it is one */
};
/* A line, any bytes, without its end.  -EPROTO: no answer. */
int agent_reply_parse(const char *line, size_t len, struct agent_reply *ret_reply) MUST_CHECK;

struct agent;
/*
 * Connects and synchronizes.  until_ns: monotonic.  cancel may be NULL.  With em: -ENOENT,
 * -ECONNREFUSED: nobody listens; -ETIMEDOUT: no answer; -ECANCELED; -EPROTO, -ECONNRESET.
 */
int agent_open(const char *path, uint64_t until_ns, const _Atomic bool *cancel,
        struct agent **ret_agent, struct errmsg *em) MUST_CHECK;
void agent_close(struct agent *a); /* accepts NULL */
/* Sends {"execute": command}.  0 also when the answer is an error.  Errors as above: close it then. */
int agent_call(struct agent *a, const char *command, uint64_t until_ns,
        struct agent_reply *ret_reply, struct errmsg *em) MUST_CHECK;

/*
 * agent.c - see agent.h
 *
 * The socket does not block; each wait is a poll() with the deadline, in slices in which it is seen
 * that somebody wants us to end.  What was read and not used stays in the buffer.
 */
#include "fs/snapshot/agent.h"

#include <ctype.h>
#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"

#define SLICE_MS 200u
#define SENTINEL 0xff

struct agent {
	int fd;
	const _Atomic bool *cancel; /* may be NULL */
	size_t len, used;           /* in buf; used: given out */
	char path[AGENT_PATH_MAX + 1];
	char buf[AGENT_LINE_MAX];
};

/* --- answers --- */

static void text_take(char to[AGENT_TEXT_MAX], const char *from)
{
	size_t n = 0;

	for (; from && from[n] && n < AGENT_TEXT_MAX - 1; n++)
		to[n] = isprint((unsigned char)from[n]) ? from[n] : '?';
	to[n] = '\0';
}

static int reply_take(const json_t *json, struct agent_reply *reply)
{
	const json_t *value = json_object_get(json, "return");
	const json_t *error = json_object_get(json, "error");

	if (json_is_object(error)) {
		reply->failed = true;
		text_take(reply->text, json_string_value(json_object_get(error, "desc")));
		return 0;
	}
	if (!value)
		return -EPROTO;
	if (json_is_integer(value))
		reply->number = json_integer_value(value);
	text_take(reply->text, json_string_value(value));
	return 0;
}

int agent_reply_parse(const char *line, size_t len, struct agent_reply *ret_reply)
{
	struct agent_reply reply = {.number = -1};
	json_t *json =
	        len <= AGENT_LINE_MAX ? json_loadb(line, len, JSON_REJECT_DUPLICATES, NULL) : NULL;
	const int r = json_is_object(json) ? reply_take(json, &reply) : -EPROTO;

	json_decref(json);
	if (r == 0)
		*ret_reply = reply;
	return r;
}

/* --- waiting --- */

static int wait_for(const struct agent *a, short events, uint64_t until_ns)
{
	struct pollfd pfd = {.fd = a->fd, .events = events};

	for (;;) {
		const uint64_t now_ns = clock_now_ns();
		if (a->cancel && atomic_load(a->cancel))
			return -ECANCELED;
		if (now_ns >= until_ns)
			return -ETIMEDOUT;
		const uint64_t left_ms = (until_ns - now_ns) / NS_PER_MS + 1;
		if (poll(&pfd, 1, (int)MIN(left_ms, SLICE_MS)) > 0)
			return 0;
	}
}

static int agent_send(struct agent *a, const char *text, size_t len, uint64_t until_ns)
{
	while (len > 0) {
		const ssize_t n = send(a->fd, text, len, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return -errno;
		const int r = n < 0 ? wait_for(a, POLLOUT, until_ns) : 0;
		if (r < 0)
			return r;
		text += MAX(n, 0);
		len -= (size_t)MAX(n, 0);
	}
	return 0;
}

/* More bytes behind those that are there.  -EMSGSIZE: no room. */
static int agent_receive(struct agent *a, uint64_t until_ns)
{
	memmove(a->buf, a->buf + a->used, a->len - a->used);
	a->len -= a->used;
	a->used = 0;
	if (a->len == sizeof(a->buf))
		return -EMSGSIZE;
	for (;;) {
		const ssize_t n =
		        recv(a->fd, a->buf + a->len, sizeof(a->buf) - a->len, MSG_DONTWAIT);
		if (n == 0)
			return -ECONNRESET;
		if (n > 0) {
			a->len += (size_t)n;
			return 0;
		}
		if (errno != EAGAIN && errno != EINTR)
			return -errno;
		const int r = wait_for(a, POLLIN, until_ns);
		if (r < 0)
			return r;
	}
}

/* --- lines --- */

/* The next line that is not empty, valid until the next call. */
static int agent_line(struct agent *a, uint64_t until_ns, const char **ret_line, size_t *ret_len)
{
	for (;;) {
		const char *from = a->buf + a->used;
		const char *end = memchr(from, '\n', a->len - a->used);
		if (end) {
			a->used += (size_t)(end - from) + 1;
			if (end == from)
				continue;
			*ret_line = from;
			*ret_len = (size_t)(end - from);
			return 0;
		}
		const int r = agent_receive(a, until_ns);
		if (r < 0)
			return r;
	}
}

/* Up to the next sentinel, and past it. */
static int agent_skip(struct agent *a, uint64_t until_ns, size_t *skipped)
{
	for (;;) {
		const char *from = a->buf + a->used;
		const char *at = memchr(from, SENTINEL, a->len - a->used);
		*skipped += at ? (size_t)(at - from) + 1 : a->len - a->used;
		if (*skipped > AGENT_SKIP_MAX)
			return -EPROTO;
		a->used = at ? (size_t)(at - a->buf) + 1 : a->len;
		if (at)
			return 0;
		const int r = agent_receive(a, until_ns);
		if (r < 0)
			return r;
	}
}

/* --- the conversation --- */

static int failed(const struct agent *a, int r, struct errmsg *em)
{
	switch (r) {
	case -ETIMEDOUT:
		return errmsg_set(em, r,
		        "the guest agent at '%s' does not answer: it does not run in the guest, or "
		        "another program is connected to it",
		        a->path);
	case -EPROTO:
	case -EMSGSIZE:
		return errmsg_set(em, -EPROTO, "what answers at '%s' is no guest agent", a->path);
	case -ECONNRESET:
		return errmsg_set(em, r, "the guest agent at '%s' hung up", a->path);
	default:
		return errmsg_set(
		        em, r, "cannot talk to the guest agent at '%s': %s", a->path, strerror(-r));
	}
}

static int agent_sync(struct agent *a, uint64_t until_ns)
{
	static _Atomic uint64_t count;
	const int64_t id = (int64_t)((clock_now_ns() / 1000 + ++count) & INT32_MAX);
	struct agent_reply reply;
	size_t len, skipped = 0;
	char text[128];
	const char *line;

	/* The first byte makes the agent forget half a line of whoever was there before. */
	len = (size_t)snprintf(text, sizeof(text),
	        "\xff{\"execute\": \"guest-sync-delimited\", \"arguments\": {\"id\": %lld}}\n",
	        (long long)id);
	int r = agent_send(a, text, len, until_ns);
	while (r == 0) {
		r = agent_skip(a, until_ns, &skipped);
		if (r == 0)
			r = agent_line(a, until_ns, &line, &len);
		if (r == 0 && agent_reply_parse(line, len, &reply) == 0 && !reply.failed &&
		        reply.number == id)
			break;
	}
	return r;
}

/* A full backlog is EAGAIN: somebody is connected. */
static int agent_connect(struct agent *a, uint64_t until_ns)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	const struct timespec slice = {.tv_nsec = 50 * (long)NS_PER_MS};

	memcpy(addr.sun_path, a->path, strlen(a->path));
	a->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (a->fd < 0)
		return -errno;
	while (connect(a->fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0) {
		if (errno != EAGAIN && errno != EINTR)
			return -errno;
		if (clock_now_ns() >= until_ns)
			return -ETIMEDOUT;
		if (a->cancel && atomic_load(a->cancel))
			return -ECANCELED;
		nanosleep(&slice, NULL);
	}
	return 0;
}

int agent_open(const char *path, uint64_t until_ns, const _Atomic bool *cancel,
        struct agent **ret_agent, struct errmsg *em)
{
	if (strlen(path) > AGENT_PATH_MAX)
		return errmsg_set(em, -ENAMETOOLONG, "'%.120s' is too long for a socket", path);
	struct agent *a = calloc(1, sizeof(*a));
	if (!a)
		return errmsg_set(em, -ENOMEM, "out of memory");
	a->fd = -1;
	a->cancel = cancel;
	memcpy(a->path, path, strlen(path) + 1);
	int r = agent_connect(a, until_ns);
	if (r == 0)
		r = agent_sync(a, until_ns);
	if (r < 0) {
		failed(a, r, em);
		agent_close(a);
		return r;
	}
	*ret_agent = a;
	return 0;
}

void agent_close(struct agent *a)
{
	if (!a)
		return;
	if (a->fd >= 0)
		close(a->fd);
	free(a);
}

int agent_call(struct agent *a, const char *command, uint64_t until_ns,
        struct agent_reply *ret_reply, struct errmsg *em)
{
	const char *line;
	char text[128];
	size_t len = (size_t)snprintf(text, sizeof(text), "{\"execute\": \"%s\"}\n", command);
	int r = agent_send(a, text, len, until_ns);

	if (r == 0)
		r = agent_line(a, until_ns, &line, &len);
	if (r == 0)
		r = agent_reply_parse(line, len, ret_reply);
	return r < 0 ? failed(a, r, em) : 0;
}

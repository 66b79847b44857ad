/*
 * client.c - one request to a daemon, and its reply
 *
 * Waits as long as it takes: collecting a big datastore takes minutes, and shows progress. A daemon
 * that dies closes the socket, which ends the wait.
 */
#include "fs/control/control.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fs/control/socket.h"
#include "fs/control/wipe.h"

#define REPLY_MAX (256u << 20) /* a list of a million images */

static int call_connect(const char *dir, int *ret_fd, struct errmsg *em)
{
	struct sockaddr_un addr;
	int dir_fd;
	int r = socket_address(dir, &addr, &dir_fd);

	if (r < 0)
		return errmsg_set(em, r, "cannot open '%s': %s", dir, strerror(-r));
	const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0)
		r = -errno;
	close(dir_fd);
	if (r == -ENOENT || r == -ECONNREFUSED)
		r = errmsg_set(em, -ENOTCONN, "no daemon serves '%s'", dir);
	else if (r < 0)
		errmsg_set(em, r, "cannot reach the daemon of '%s': %s", dir, strerror(-r));
	if (r < 0 && fd >= 0)
		close(fd);
	if (!r)
		*ret_fd = fd;
	return r;
}

static int text_send(int fd, const char *text, const struct control_fds *fds)
{
	const size_t len = strlen(text);

	if (len >= CONTROL_LINE_MAX)
		return -EMSGSIZE;
	return fds ? socket_send_fds(fd, text, len, fds->fds, fds->n) : socket_send(fd, text, len);
}

static int call_send(int fd, json_t *request, const struct control_fds *fds, struct errmsg *em)
{
	char *text = json_dumps(request, JSON_COMPACT);

	if (!text)
		return errmsg_set(em, -ENOMEM, "out of memory");
	int r = text_send(fd, text, fds);
	if (!r)
		r = socket_send(fd, "\n", 1);
	wipe_text(text); /* may hold a secret */
	return r < 0 ? errmsg_set(em, r, "cannot send to the daemon: %s", strerror(-r)) : 0;
}

static uint64_t number_of(const json_t *json, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(json, key));
}

static int reply_error(const json_t *reply, struct errmsg *em)
{
	const char *text = json_string_value(json_object_get(reply, "error"));
	const json_int_t number = json_integer_value(json_object_get(reply, "errno"));
	const int err = number > 0 && number < 4096 ? (int)number : EPROTO;

	return errmsg_set(em, -err, "%s", text ? text : strerror(err));
}

/* 1: that was progress, more follows. */
static int reply_take(const char *line, size_t len, control_progress_fn *progress, void *arg,
        json_t **ret_result, struct errmsg *em)
{
	json_t *reply = json_loadb(line, len, 0, NULL);
	const json_t *p = json_object_get(reply, "progress");
	const json_t *ok = json_object_get(reply, "ok");
	int r = 1;

	if (json_is_object(p)) {
		if (progress)
			progress(arg, number_of(p, "done"), number_of(p, "total"));
	} else if (json_is_true(ok)) {
		json_t *result = json_object_get(reply, "result");
		*ret_result = result ? json_incref(result) : json_object();
		r = 0;
	} else if (json_is_false(ok)) {
		r = reply_error(reply, em);
	} else {
		r = errmsg_set(em, -EPROTO, "the daemon's answer makes no sense");
	}
	json_decref(reply);
	return r;
}

static int call_receive(
        int fd, control_progress_fn *progress, void *arg, json_t **ret_result, struct errmsg *em)
{
	struct line_reader lr = {.fd = fd, .max = REPLY_MAX};
	char *line;
	size_t len;
	int r = 1;

	while (r == 1) {
		r = line_next(&lr, &line, &len);
		if (r < 0)
			r = errmsg_set(em, r == -ENODATA ? -ECONNRESET : r,
			        "the daemon ended without an answer (see its log)");
		else
			r = reply_take(line, len, progress, arg, ret_result, em);
	}
	line_reader_release(&lr);
	return r;
}

int control_call_fds(const char *dir, json_t *request, const struct control_fds *fds,
        control_progress_fn *progress, void *arg, json_t **ret_result, struct errmsg *em)
{
	int fd = -1;
	int r = call_connect(dir, &fd, em);

	if (r < 0)
		return r;
	r = call_send(fd, request, fds, em);
	if (!r)
		r = call_receive(fd, progress, arg, ret_result, em);
	close(fd);
	return r;
}

int control_call(const char *dir, json_t *request, control_progress_fn *progress, void *arg,
        json_t **ret_result, struct errmsg *em)
{
	return control_call_fds(dir, request, NULL, progress, arg, ret_result, em);
}

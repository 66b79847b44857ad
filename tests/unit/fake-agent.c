/*
 * fake-agent.c - see fake-agent.h
 */
#include "fake-agent.h"

#include <jansson.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static void must(bool good, const char *what)
{
	if (good)
		return;
	perror(what);
	abort();
}

static void answer(int fd, const char *text)
{
	/* In two pieces: a reader must not expect lines to come whole. */
	const size_t len = strlen(text), half = len / 2;

	if (send(fd, text, half, MSG_NOSIGNAL) == (ssize_t)half)
		(void)!send(fd, text + half, len - half, MSG_NOSIGNAL);
}

static void wait_ms(const struct fake_agent *a, unsigned ms)
{
	const struct timespec slice = {.tv_nsec = 10000000};

	for (unsigned i = 0; i < ms / 10 && !a->ending; i++)
		nanosleep(&slice, NULL);
}

static void babble(struct fake_agent *a, int fd)
{
	char text[4096];

	memset(text, 'x', sizeof(text));
	while (!a->ending && send(fd, text, sizeof(text), MSG_NOSIGNAL) > 0)
		;
}

/* False: hang up. */
static bool freeze(struct fake_agent *a, int fd)
{
	a->freezes++;
	if (a->fault == AGENT_REFUSES) {
		answer(fd,
		        "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\\u001bway\"}}\n");
		return true;
	}
	if (a->fault == AGENT_FREEZES_NONE) {
		answer(fd, "{\"return\": 0}\n");
		return true;
	}
	a->frozen = true;
	if (a->fault == AGENT_DIES_FREEZING)
		return false;
	if (a->fault == AGENT_HANGS_FREEZING)
		wait_ms(a, a->slow_ms);
	if (a->fault == AGENT_LIES)
		a->frozen = false;
	answer(fd, "{\"return\": 2}\n");
	return true;
}

static bool thaw(struct fake_agent *a, int fd)
{
	const unsigned nth = ++a->thaws;

	if (a->fault == AGENT_THAW_DIES_ONCE && nth == 1)
		return false;
	if (a->fault == AGENT_NEVER_THAWS) {
		answer(fd, "{\"error\": {\"class\": \"GenericError\", \"desc\": \"stuck\"}}\n");
		return true;
	}
	const bool was = a->frozen;
	a->frozen = false;
	answer(fd, was ? "{\"return\": 2}\n" : "{\"return\": 0}\n");
	return true;
}

static bool sync_answer(struct fake_agent *a, int fd, const json_t *json)
{
	char text[128];

	if (a->fault == AGENT_STALE)
		answer(fd,
		        "{\"return\": 7}\n{\"return\": \"thawed\"}\n\xff{\"return\": 1}\nhalf a l");
	snprintf(text, sizeof(text), "\xff{\"return\": %lld}\n",
	        (long long)json_integer_value(
	                json_object_get(json_object_get(json, "arguments"), "id")));
	answer(fd, text);
	return true;
}

static bool command(struct fake_agent *a, int fd, const char *line)
{
	json_t *json = json_loads(line[0] == '\xff' ? line + 1 : line, 0, NULL);
	const char *name = json_string_value(json_object_get(json, "execute"));
	bool on = true;

	if (a->fault == AGENT_NO_JSON)
		answer(fd, "220 smtp.example.org ESMTP\n\xff{]\n");
	else if (!name)
		answer(fd, "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no JSON\"}}\n");
	else if (!strcmp(name, "guest-sync-delimited"))
		on = sync_answer(a, fd, json);
	else if (!strcmp(name, "guest-fsfreeze-status"))
		answer(fd, a->frozen ? "{\"return\": \"frozen\"}\n" : "{\"return\": \"thawed\"}\n");
	else if (!strcmp(name, "guest-fsfreeze-freeze"))
		on = freeze(a, fd);
	else if (!strcmp(name, "guest-fsfreeze-thaw"))
		on = thaw(a, fd);
	else
		answer(fd, "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"no\"}}\n");
	json_decref(json);
	return on;
}

static void serve(struct fake_agent *a, int fd)
{
	char buf[4096];
	size_t len = 0;
	bool on = true;

	if (a->fault == AGENT_BABBLES)
		babble(a, fd);
	while (on && !a->ending) {
		struct pollfd pfd = {.fd = fd, .events = POLLIN};
		if (poll(&pfd, 1, 20) <= 0)
			continue;
		const ssize_t n = recv(fd, buf + len, sizeof(buf) - 1 - len, 0);
		if (n <= 0)
			return;
		len += (size_t)n;
		buf[len] = '\0';
		char *end;
		while (on && (end = memchr(buf, '\n', len))) {
			*end++ = '\0';
			on = a->fault == AGENT_SILENT || command(a, fd, buf);
			len -= (size_t)(end - buf);
			memmove(buf, end, len + 1);
		}
	}
}

static void *agent_main(void *arg)
{
	struct fake_agent *a = arg;

	while (!a->ending) {
		struct pollfd pfd = {.fd = a->fd, .events = POLLIN};
		if (poll(&pfd, 1, 20) <= 0)
			continue;
		const int fd = accept(a->fd, NULL, NULL);
		if (fd < 0)
			continue;
		a->connections++;
		serve(a, fd);
		close(fd);
	}
	return NULL;
}

void fake_agent_start(struct fake_agent *a, const char *path, enum agent_fault fault)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};

	*a = (struct fake_agent){.fault = fault, .frozen = fault == AGENT_IS_FROZEN};
	snprintf(a->path, sizeof(a->path), "%s", path);
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
	unlink(path);
	a->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	must(a->fd >= 0, "socket");
	must(bind(a->fd, (struct sockaddr *)&addr, sizeof(addr)) == 0, "bind");
	must(listen(a->fd, 1) == 0, "listen");
	must(pthread_create(&a->thread, NULL, agent_main, a) == 0, "thread");
}

void fake_agent_stop(struct fake_agent *a)
{
	a->ending = true;
	shutdown(a->fd, SHUT_RDWR);
	pthread_join(a->thread, NULL);
	close(a->fd);
	unlink(a->path);
}

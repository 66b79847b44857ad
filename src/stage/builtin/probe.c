/*
 * probe.c - the parent's side of a probe
 *
 * The child is this program again (/proc/self/exe), spawned and not forked: a fork of a daemon with
 * threads and gigabytes of memory would copy page tables and held locks.  It gets no environment,
 * three descriptors of /dev/null, and the socket.
 *
 * One loop waits for the socket with a deadline; nothing the child does can make it wait longer:
 * the socket does not block, each message is collected as it comes, and how much a child may ask is
 * limited.  Whatever happens, the child is killed and waited for before this returns; so it never
 * outlives the stage that started it, nor holds an image open at unmount.
 */
#include "stage/builtin/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"

#define TICK_MS 100

struct probe {
	const struct probe_source *source;
	struct errmsg *em;
	pid_t pid;
	int sock;
	uint64_t deadline_ms, total;
};

static int fail(struct probe *p, int err, const char *what)
{
	if (p->em)
		snprintf(p->em->text, sizeof(p->em->text), "cannot look into the image: %s", what);
	return err;
}

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* --- starting --- */

static int spawn_actions(posix_spawn_file_actions_t *fa, int sock)
{
	int r = posix_spawn_file_actions_addopen(fa, 0, "/dev/null", O_RDONLY, 0);

	if (r == 0)
		r = posix_spawn_file_actions_addopen(fa, 1, "/dev/null", O_WRONLY, 0);
	if (r == 0)
		r = posix_spawn_file_actions_addopen(fa, 2, "/dev/null", O_WRONLY, 0);
	if (r == 0)
		r = posix_spawn_file_actions_adddup2(fa, sock, PROBE_FD_SOCKET);
	return r;
}

static int spawn_attributes(posix_spawnattr_t *attr)
{
	sigset_t none, all;

	sigemptyset(&none);
	sigfillset(&all);
	int r = posix_spawnattr_setsigmask(attr, &none);
	if (r == 0)
		r = posix_spawnattr_setsigdefault(attr, &all);
	if (r == 0)
		r = posix_spawnattr_setflags(attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	return r;
}

/* sock lies above the descriptors of the child. */
static int spawn(struct probe *p, int sock)
{
	char size[32];
	char *const argv[] = {(char *)"weir", (char *)PROBE_WORKER, size, NULL};
	char *const envp[] = {NULL};
	posix_spawn_file_actions_t fa;
	posix_spawnattr_t attr;

	snprintf(size, sizeof(size), "%llu", (unsigned long long)p->source->size_bytes);
	if (posix_spawn_file_actions_init(&fa) != 0)
		return -ENOMEM;
	if (posix_spawnattr_init(&attr) != 0) {
		posix_spawn_file_actions_destroy(&fa);
		return -ENOMEM;
	}
	int r = spawn_actions(&fa, sock);
	if (r == 0)
		r = spawn_attributes(&attr);
	if (r == 0)
		r = posix_spawn(&p->pid, "/proc/self/exe", &fa, &attr, argv, envp);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&fa);
	return -r;
}

static int probe_start(struct probe *p)
{
	int pair[2], r = 0;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	const int child = fcntl(pair[1], F_DUPFD_CLOEXEC, PROBE_FD_SOCKET + 1);
	if (child < 0)
		r = -errno;
	if (r == 0)
		r = spawn(p, child);
	if (child >= 0)
		close(child);
	close(pair[1]);
	if (r < 0) {
		close(pair[0]);
		return r;
	}
	p->sock = pair[0];
	return 0;
}

static void probe_end(struct probe *p)
{
	close(p->sock);
	kill(p->pid, SIGKILL);
	while (waitpid(p->pid, NULL, 0) < 0 && errno == EINTR)
		;
}

/* --- talking --- */

/* Until the socket is ready; 0 or -errno with em. */
static int probe_wait(struct probe *p, short events)
{
	for (;;) {
		struct pollfd pfd = {.fd = p->sock, .events = events};
		const struct probe_source *s = p->source;

		if (s->cancelled && s->cancelled(s->arg))
			return fail(p, -ECANCELED, "it was given up");
		if (now_ms() >= p->deadline_ms)
			return fail(p, -ETIMEDOUT, "the worker took too long");
		const int n = poll(&pfd, 1, TICK_MS);
		if (n > 0)
			return 0;
		if (n < 0 && errno != EINTR)
			return fail(p, -errno, strerror(errno));
	}
}

static bool is_transient(int err)
{
	return err == EAGAIN || err == EINTR;
}

static int probe_receive(struct probe *p, void *buf, size_t len)
{
	uint8_t *to = buf;

	while (len > 0) {
		int r = probe_wait(p, POLLIN);
		if (r < 0)
			return r;
		const ssize_t n = recv(p->sock, to, len, MSG_DONTWAIT);
		if (n < 0 && is_transient(errno))
			continue;
		if (n <= 0)
			return fail(p, -EPROTO, "the worker died");
		to += n;
		len -= (size_t)n;
	}
	return 0;
}

static int probe_send(struct probe *p, const void *buf, size_t len)
{
	const uint8_t *from = buf;

	while (len > 0) {
		int r = probe_wait(p, POLLOUT);
		if (r < 0)
			return r;
		const ssize_t n = send(p->sock, from, len, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && is_transient(errno))
			continue;
		if (n < 0)
			return fail(p, -EPROTO, "the worker died");
		from += n;
		len -= (size_t)n;
	}
	return 0;
}

static int serve_read(struct probe *p, uint64_t off, uint32_t len)
{
	const struct probe_source *s = p->source;

	if (len == 0 || len > PROBE_READ_MAX || len > PROBE_TOTAL_MAX - p->total ||
	        off > s->size_bytes || len > s->size_bytes - off)
		return fail(p, -EPROTO, "the worker asked for what it may not have");
	p->total += len;
	CLEANUP(free_ptr) uint8_t *buf = malloc(8 + len);
	if (!buf)
		return fail(p, -ENOMEM, "out of memory");
	const int r = s->read(s->arg, off, buf + 8, len);
	put_u32(buf, (uint32_t)-r);
	put_u32(buf + 4, r < 0 ? 0 : len);
	return probe_send(p, buf, r < 0 ? 8 : 8 + (size_t)len);
}

static int take_result(struct probe *p, uint32_t len, char **ret_json)
{
	if (len == 0 || len > PROBE_RESULT_MAX)
		return fail(p, -EPROTO, "the worker's answer is too long");
	CLEANUP(free_ptr) char *json = malloc((size_t)len + 1);
	if (!json)
		return fail(p, -ENOMEM, "out of memory");
	int r = probe_receive(p, json, len);
	if (r < 0)
		return r;
	json[len] = '\0';
	if (strlen(json) != len)
		return fail(p, -EPROTO, "the worker's answer is no text");
	*ret_json = STEAL(json);
	return 0;
}

static int probe_talk(struct probe *p, char **ret_json)
{
	for (;;) {
		uint8_t header[PROBE_HEADER];
		int r = probe_receive(p, header, sizeof(header));

		if (r < 0)
			return r;
		const uint32_t kind = get_u32(header), len = get_u32(header + 4);
		if (kind == PROBE_RESULT)
			return take_result(p, len, ret_json);
		if (kind != PROBE_READ)
			return fail(p, -EPROTO, "the worker talks nonsense");
		r = serve_read(p, get_u64(header + 8), len);
		if (r < 0)
			return r;
	}
}

int probe_run(const struct probe_source *source, char **ret_json, struct errmsg *em)
{
	struct probe p = {
	        .source = source,
	        .em = em,
	        .deadline_ms = now_ms() + PROBE_TIMEOUT_MS,
	};
	int r = probe_start(&p);

	if (r < 0)
		return fail(&p, r, strerror(-r));
	r = probe_talk(&p, ret_json);
	probe_end(&p);
	return r;
}

/*
 * stream-pipe.c - see stream-pipe.h
 */
#include "tools/stream-pipe.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define PUMP_BYTES (1u << 20)
#define COPY_BYTES (64u << 10)

/* --- to stdout --- */

static int write_all(int fd, const char *data, size_t len)
{
	while (len > 0) {
		const ssize_t n = write(fd, data, len);
		if (n < 0 && errno != EINTR)
			return -errno;
		data += n > 0 ? n : 0;
		len -= n > 0 ? (size_t)n : 0;
	}
	return 0;
}

/* Where splice cannot: a file opened for appending, some file systems. */
static int copy_on(int from)
{
	static char buf[COPY_BYTES];

	for (;;) {
		const ssize_t n = read(from, buf, sizeof(buf));
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n == 0)
			return 0;
		const int r = n > 0 ? write_all(STDOUT_FILENO, buf, (size_t)n) : 0;
		if (r < 0)
			return r;
	}
}

static int pump_on(int from)
{
	for (;;) {
		const ssize_t n =
		        splice(from, NULL, STDOUT_FILENO, NULL, PUMP_BYTES, SPLICE_F_MOVE);
		if (n == 0)
			return 0;
		if (n < 0 && errno == EINVAL)
			return copy_on(from);
		if (n < 0 && errno == EAGAIN) /* stdout does not block, and another has filled it */
			return copy_on(from);
		if (n < 0 && errno != EINTR)
			return -errno;
	}
}

static void *pump_main(void *arg)
{
	struct stream_pipe *p = arg;

	p->pump_error = pump_on(p->pump_fd);
	close(p->pump_fd); /* who writes gets EPIPE */
	return NULL;
}

static int nonblocking(int fd)
{
	return fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) < 0 ? -errno : 0;
}

static int pipe_make(int fds[2], struct errmsg *em)
{
	if (pipe2(fds, O_CLOEXEC) < 0)
		return errmsg_set(em, -errno, "cannot make a pipe: %s", strerror(errno));
	(void)!fcntl(fds[1], F_SETPIPE_SZ, PUMP_BYTES); /* fewer turns; a smaller one will do */
	return 0;
}

int stream_pipe_stdout(struct stream_pipe *p, struct errmsg *em)
{
	int fds[2];
	int r = pipe_make(fds, em);

	if (r < 0)
		return r;
	*p = (struct stream_pipe){.write_fd = fds[1], .read_fd = -1, .pump_fd = fds[0]};
	r = nonblocking(p->write_fd);
	if (r == 0)
		r = -pthread_create(&p->pump, NULL, pump_main, p);
	if (r < 0) {
		close(fds[0]);
		close(fds[1]);
		return errmsg_set(em, r, "cannot start a thread: %s", strerror(-r));
	}
	p->pumping = true;
	return 0;
}

/* --- to a command --- */

static void child_run(const char *command, int in_fd, int out_fd) __attribute__((noreturn));

static void child_run(const char *command, int in_fd, int out_fd)
{
	signal(SIGPIPE, SIG_DFL);
	if (dup2(in_fd, STDIN_FILENO) < 0 || dup2(out_fd, STDOUT_FILENO) < 0)
		_exit(126);
	execl("/bin/sh", "sh", "-c", command, (char *)NULL);
	_exit(127);
}

int stream_pipe_command(struct stream_pipe *p, const char *command, struct errmsg *em)
{
	int to[2], from[2];
	int r = pipe_make(to, em);

	if (r < 0)
		return r;
	r = pipe_make(from, em);
	if (r < 0) {
		close(to[0]);
		close(to[1]);
		return r;
	}
	const pid_t pid = fork();
	if (pid == 0)
		child_run(command, to[0], from[1]);
	r = pid < 0 ? -errno : 0;
	close(to[0]);
	close(from[1]);
	if (r == 0)
		r = nonblocking(to[1]);
	if (r == 0)
		r = nonblocking(from[0]);
	*p = (struct stream_pipe){
	        .write_fd = to[1], .read_fd = from[0], .pump_fd = -1, .pid = MAX(pid, 0)};
	if (r == 0)
		return 0;
	errmsg_set(em, r, "cannot run '%.128s': %s", command, strerror(-r));
	struct errmsg ignored;
	(void)!stream_pipe_finish(p, &ignored);
	return r;
}

/* --- the end --- */

static int stdout_sync(struct errmsg *em)
{
	struct stat st;

	if (fstat(STDOUT_FILENO, &st) < 0 || !S_ISREG(st.st_mode) || fsync(STDOUT_FILENO) == 0)
		return 0;
	return errmsg_set(em, -errno, "cannot write the stream: %s", strerror(errno));
}

static int pump_finish(struct stream_pipe *p, struct errmsg *em)
{
	pthread_join(p->pump, NULL);
	p->pumping = false;
	if (p->pump_error < 0)
		return errmsg_set(
		        em, p->pump_error, "cannot write the stream: %s", strerror(-p->pump_error));
	return stdout_sync(em);
}

static int command_finish(struct stream_pipe *p, struct errmsg *em)
{
	int status = 0;
	pid_t got;

	do {
		got = waitpid(p->pid, &status, 0);
	} while (got < 0 && errno == EINTR);
	p->pid = 0;
	if (got < 0)
		return errmsg_set(em, -errno, "cannot wait for the command: %s", strerror(errno));
	if (WIFSIGNALED(status))
		return errmsg_set(
		        em, -EIO, "the receiving command was ended by signal %d", WTERMSIG(status));
	if (WEXITSTATUS(status) != 0)
		return errmsg_set(em, -EIO, "the receiving command ended with status %d",
		        WEXITSTATUS(status));
	return 0;
}

int stream_pipe_finish(struct stream_pipe *p, struct errmsg *em)
{
	int r = 0;

	if (p->write_fd >= 0)
		close(p->write_fd);
	if (p->read_fd >= 0)
		close(p->read_fd);
	p->write_fd = p->read_fd = -1;
	if (p->pumping)
		r = pump_finish(p, em);
	if (p->pid > 0)
		r = command_finish(p, em);
	return r;
}

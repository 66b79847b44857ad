/*
 * test-confine.c - what a confined process can open, and what not
 *
 * Each case is a process of its own, for it cannot be undone.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tools/confine.h"

static char own[] = "/tmp/weir-test-confine-XXXXXX", secret[] = "/tmp/weir-test-confine-XXXXXX";
static int own_fd;

static int setup(void **state)
{
	own_fd = mkstemp(own);
	const int fd = mkstemp(secret);
	return own_fd < 0 || fd < 0 || write(fd, "secret", 6) != 6 || close(fd) < 0;
}

static int teardown(void **state)
{
	unlink(own);
	unlink(secret);
	return close(own_fd);
}

static int open_again(int fd, int flags)
{
	char path[40];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	const int again = open(path, flags);
	return again < 0 ? -errno : again;
}

/* Runs fn confined; what it returned, or -1 - the signal that it died of. */
static int confined(struct confine_limits limits, int (*fn)(void))
{
	const pid_t pid = fork();
	int status;

	assert_true(pid >= 0);
	if (pid == 0)
		_exit(confine_self(&limits) < 0 ? 99 : fn());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFSIGNALED(status) ? -1 - WTERMSIG(status) : WEXITSTATUS(status);
}

static struct confine_limits limits_of(int read_fd, int write_fd)
{
	return (struct confine_limits){
	        .read_fd = read_fd,
	        .write_fd = write_fd,
	        .memory_bytes = RLIM_INFINITY,
	        .descriptors_max = 64,
	};
}

static int opens_others(void)
{
	if (open(secret, O_RDONLY) >= 0 || errno != EACCES)
		return 1;
	if (open("/etc/passwd", O_RDONLY) >= 0 || open("/proc/1/environ", O_RDONLY) >= 0)
		return 2;
	if (open("/tmp", O_RDONLY | O_DIRECTORY) >= 0)
		return 3;
	if (open("/tmp/weir-test-confine-new", O_RDWR | O_CREAT, 0600) >= 0)
		return 4;
	return unlink(own) == 0 ? 5 : 0;
}

static int reads_own(void)
{
	if (open_again(own_fd, O_RDONLY) < 0)
		return 1;
	return open_again(own_fd, O_RDWR) != -EACCES;
}

static int writes_own(void)
{
	const int fd = open_again(own_fd, O_RDWR | O_CREAT | O_TRUNC);

	return fd < 0 || write(fd, "x", 1) != 1;
}

static int starts_programs(void)
{
	execl("/usr/bin/true", "true", NULL);
	return 1;
}

static void no_other_file_can_be_opened(void **state)
{
	if (!confine_can())
		skip();
	assert_int_equal(confined(limits_of(own_fd, -1), opens_others), 0);
	assert_int_equal(confined(limits_of(-1, own_fd), opens_others), 0);
}

static void its_own_files_can_be_opened_again(void **state)
{
	assert_int_equal(confined(limits_of(-1, own_fd), writes_own), 0);
	if (confine_can())
		assert_int_equal(confined(limits_of(own_fd, -1), reads_own), 0);
}

static void installed_programs_can_be_started(void **state)
{
	assert_int_equal(confined(limits_of(-1, -1), starts_programs), 0);
}

static int writes_much(void)
{
	static char bytes[4096];

	for (unsigned i = 0; i < 4; i++)
		if (write(own_fd, bytes, sizeof(bytes)) < 0)
			return 1;
	return 0;
}

static int spins(void)
{
	for (volatile uint64_t i = 0;; i++)
		;
	return 0;
}

static void what_it_writes_and_computes_is_limited(void **state)
{
	struct confine_limits limits = limits_of(-1, own_fd);

	limits.file_bytes = 8192;
	assert_int_equal(confined(limits, writes_much), -1 - SIGXFSZ);
	limits.file_bytes = 0;
	assert_int_equal(confined(limits, writes_much), 0);
	limits.cpu_seconds = 1;
	assert_int_equal(confined(limits, spins), -1 - SIGXCPU);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(no_other_file_can_be_opened),
	        cmocka_unit_test(its_own_files_can_be_opened_again),
	        cmocka_unit_test(installed_programs_can_be_started),
	        cmocka_unit_test(what_it_writes_and_computes_is_limited),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}

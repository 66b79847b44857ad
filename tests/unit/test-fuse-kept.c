/*
 * test-fuse-kept.c - a real mount of files whose stage keeps requests: replies come later, from
 * other threads, and everybody else goes on
 *
 * Skipped where nothing can be mounted.  Programs are threads of ours that use the mount; they are
 * more than the session has threads.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fs/fuse/session.h"
#include "vfs-stages.h"

#define USERS    24u
#define POOL_MAX 4u
#define BLOCK    4096u
#define PER_USER 8u

static char mountpoint[64];
static struct session *session;
static pthread_t server;
static _Atomic bool served;

static void *server_main(void *arg)
{
	const int r = session_serve(session);

	served = true;
	return (void *)(intptr_t)r;
}

static int mount_setup(void **state)
{
	struct errmsg em = {0};

	if (stages_setup(state) < 0)
		return -1;
	strcpy(mountpoint, "/tmp/weir-kept-XXXXXX");
	if (!mkdtemp(mountpoint))
		return -1;
	const struct session_config cfg = {
	        .vfs = vfs, .source = world_dir, .mountpoint = mountpoint, .threads = POOL_MAX};
	served = false;
	session = NULL;
	if (access("/dev/fuse", R_OK | W_OK) < 0 || session_mount(&cfg, &session, &em) < 0) {
		fprintf(stderr, "cannot mount here: %s\n", em.text);
		return 0;
	}
	return pthread_create(&server, NULL, server_main, NULL) ? -1 : session_probe(session);
}

static void server_join(void)
{
	void *r;

	pthread_join(server, &r);
	assert_null(r);
	session_free(STEAL(session));
}

static int mount_teardown(void **state)
{
	if (session) {
		umount2(mountpoint, MNT_DETACH);
		server_join();
	}
	rmdir(mountpoint);
	return stages_teardown(state);
}

#define MOUNT_CASE(fn) cmocka_unit_test_setup_teardown(fn, mount_setup, mount_teardown)

static int file_open(const char *name, int flags)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", mountpoint, name);
	const int fd = open(path, flags | O_CREAT | O_CLOEXEC, 0644);
	assert_true(fd >= 0);
	return fd;
}

static char *block(char c)
{
	void *p = NULL;

	assert_int_equal(posix_memalign(&p, BLOCK, BLOCK), 0);
	memset(p, c, BLOCK);
	return p;
}

/* Each writes blocks of its own and reads them back, past the page cache. */
struct user {
	pthread_t thread;
	int fd, result;
	unsigned number, written;
};

static void *user_main(void *arg)
{
	struct user *u = arg;
	char *buf = block((char)('a' + u->number)), *back = block(0);

	for (unsigned i = 0; i < PER_USER && !u->result; i++) {
		const off_t off = (off_t)(u->number * PER_USER + i) * BLOCK;
		if (pwrite(u->fd, buf, BLOCK, off) != BLOCK)
			u->result = errno;
		else if (++u->written && pread(u->fd, back, BLOCK, off) != BLOCK)
			u->result = errno;
		else if (memcmp(buf, back, BLOCK))
			u->result = EILSEQ;
	}
	free(buf);
	free(back);
	return NULL;
}

static void users_start(struct user *users, const int *fds)
{
	for (unsigned i = 0; i < USERS; i++) {
		users[i] = (struct user){.fd = fds[i], .number = i};
		assert_int_equal(pthread_create(&users[i].thread, NULL, user_main, &users[i]), 0);
	}
}

/* Files of their own: writers of one wait for each other in the kernel. */
static void files_open(int *fds)
{
	for (unsigned i = 0; i < USERS; i++) {
		char name[16];
		snprintf(name, sizeof(name), "f%u", i);
		fds[i] = file_open(name, O_RDWR | O_DIRECT);
	}
}

static void kept_requests_hold_nobody_up_and_are_answered_later(void **state)
{
	struct user users[USERS];
	int fds[USERS];
	char c;

	if (!session)
		skip();
	stages_types[0] = &stage_keep;
	files_open(fds);
	stages_types[0] = NULL;
	const int other = file_open("other", O_RDWR);
	stages_keep = OP(WRITE) | OP(READ);
	users_start(users, fds);
	kept_wait(USERS); /* six times as many as there are threads */
	assert_int_equal(pwrite(other, "x", 1, 0), 1);
	assert_int_equal(fsync(other), 0);
	assert_int_equal(pread(other, &c, 1, 0), 1);
	assert_int_equal(close(file_open("another", O_RDWR)), 0);
	kept_resume();
	for (unsigned i = 0; i < USERS; i++) {
		pthread_join(users[i].thread, NULL);
		assert_int_equal(users[i].result, 0);
		close(fds[i]);
	}
	close(other);
}

static void kept_truncations_and_flushes_are_answered_later(void **state)
{
	struct stat st;

	if (!session)
		skip();
	stages_types[0] = &stage_keep;
	const int fd = file_open("a", O_RDWR);
	const unsigned ops[] = {OP(RESIZE), OP(FLUSH), OP(ZERO), OP(EXTENTS)};
	for (unsigned i = 0; i < ARRAY_SIZE(ops); i++) {
		stages_keep = ops[i];
		const pid_t pid = fork();
		if (pid == 0)
			_exit(i == 0     ? ftruncate(fd, 12345)
			        : i == 1 ? fsync(fd)
			        : i == 2 ? fallocate(fd, 0, 0, 20000)
			                 : lseek(fd, 0, SEEK_HOLE) != 20000);
		kept_wait(1);
		kept_resume();
		int status;
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_int_equal(status, 0);
	}
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, 20000);
	close(fd);
}

static void errors_of_stages_reach_direct_and_buffered_writers(void **state)
{
	char *buf = block('x');
	struct stat st;

	if (!session)
		skip();
	stages_types[0] = &stage_deny;
	const int direct = file_open("a", O_RDWR | O_DIRECT), cached = file_open("b", O_RDWR);
	errno = 0;
	assert_int_equal(pwrite(direct, buf, BLOCK, 0), -1);
	assert_int_equal(errno, EPERM);
	errno = 0;
	assert_int_equal(pwrite(cached, buf, BLOCK, 0), -1);
	assert_int_equal(errno, EPERM);
	errno = 0;
	assert_int_equal(ftruncate(cached, 100), -1);
	assert_int_equal(errno, EPERM);
	stages_read_only = true;
	errno = 0;
	assert_int_equal(pwrite(cached, buf, BLOCK, 0), -1);
	assert_int_equal(errno, EROFS);
	errno = 0;
	assert_int_equal(pwrite(direct, buf, BLOCK, 0), -1);
	assert_int_equal(errno, EROFS);
	assert_int_equal(fstat(cached, &st), 0);
	assert_int_equal(st.st_size, 0);
	close(direct);
	close(cached);
	free(buf);
}

static void a_session_ends_when_what_was_kept_is_answered(void **state)
{
	struct user users[USERS];
	int fds[USERS];

	if (!session)
		skip();
	stages_types[0] = &stage_keep;
	files_open(fds);
	stages_keep = OP(WRITE);
	users_start(users, fds);
	kept_wait(USERS);
	assert_int_equal(umount2(mountpoint, MNT_DETACH), 0);
	session_end(session);
	usleep(200000); /* its threads are gone by then */
	assert_false(served);
	kept_resume();
	server_join();
	/* What was sent before the end was answered; what came after it failed. */
	for (unsigned i = 0; i < USERS; i++) {
		pthread_join(users[i].thread, NULL);
		assert_int_not_equal(users[i].result, EILSEQ);
		assert_int_equal(users[i].written, 1);
		close(fds[i]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        MOUNT_CASE(kept_requests_hold_nobody_up_and_are_answered_later),
	        MOUNT_CASE(kept_truncations_and_flushes_are_answered_later),
	        MOUNT_CASE(errors_of_stages_reach_direct_and_buffered_writers),
	        MOUNT_CASE(a_session_ends_when_what_was_kept_is_answered),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

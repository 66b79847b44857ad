/*
 * test-control.c - the control socket, without a mount: umount, ending, clients that go away
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "fs/control/control.h"

#define MIB (1ull << 20)

static char dir[64];
static struct datastore *ds;
static struct control_server *srv;
static _Atomic bool busy, umounted;

static int umount_fake(void *arg, bool lazy, struct errmsg *em)
{
	if (busy && !lazy)
		return errmsg_set(em, -EBUSY, "in use, says the test");
	umounted = true;
	return 0;
}

static int setup(void **state)
{
	const struct datastore_create_options create = {
	        .log_bytes = 16 * MIB, .index_bytes = 4 * MIB};
	const struct datastore_options opt = {.overlay_bytes = 16 * MIB,
	        .cache_bytes = 4 * MIB,
	        .index_bytes = 4 * MIB,
	        .map_bytes = MIB};
	struct errmsg em = {0};

	strcpy(dir, "/tmp/weir-ctl-XXXXXX");
	busy = umounted = false;
	if (!mkdtemp(dir) || datastore_create(dir, &create, &em) < 0 ||
	        datastore_open(dir, &opt, NULL, NULL, &ds, &em) < 0)
		return -1;
	const struct control_host host = {ds, "/mnt/\xff", umount_fake, NULL};
	return control_server_start(&host, &srv, &em);
}

static void server_end(int result)
{
	control_server_quiesce(srv);
	if (ds)
		assert_int_equal(datastore_close(ds), 0);
	ds = NULL;
	control_server_stop(srv, result);
	srv = NULL;
}

static int teardown(void **state)
{
	char cmd[96];

	if (srv)
		server_end(0);
	snprintf(cmd, sizeof(cmd), "rm -rf '%s'", dir);
	return system(cmd);
}

/* The result, or NULL; *ret_r and em as control_call gives them. */
static json_t *call(json_t *request, int *ret_r, struct errmsg *em)
{
	json_t *result = NULL;

	*ret_r = control_call(dir, request, NULL, NULL, &result, em);
	json_decref(request);
	return result;
}

static void status_tells_of_the_mount(void **state)
{
	struct errmsg em = {0};
	int r;
	json_t *json = call(json_pack("{s:s}", "op", "status"), &r, &em);

	assert_int_equal(r, 0);
	assert_int_equal(json_integer_value(json_object_get(json, "pid")), getpid());
	assert_string_equal(json_string_value(json_object_get(json, "health")), "ok");
	assert_string_equal(
	        json_string_value(json_object_get(json, "mountpoint")), "/mnt/\xef\xbf\xbd");
	json_decref(json);
}

static void errors_come_with_number_and_text(void **state)
{
	struct errmsg em = {0};
	int r;

	assert_null(call(json_pack("{s:s}", "op", "nonsense"), &r, &em));
	assert_int_equal(r, -EBADMSG);
	assert_non_null(strstr(em.text, "nonsense"));
	busy = true;
	assert_null(call(json_pack("{s:s}", "op", "umount"), &r, &em));
	assert_int_equal(r, -EBUSY);
	assert_string_equal(em.text, "in use, says the test");
}

static void without_a_daemon_there_is_no_connection(void **state)
{
	struct errmsg em = {0};
	struct stat st;
	char path[96];
	int r;

	server_end(0);
	snprintf(path, sizeof(path), "%s/%s", dir, CONTROL_NAME);
	assert_int_not_equal(stat(path, &st), 0);
	assert_null(call(json_pack("{s:s}", "op", "status"), &r, &em));
	assert_int_equal(r, -ENOTCONN);
}

struct umount_call {
	pthread_t thread;
	int r;
	struct errmsg em;
	_Atomic bool done;
};

static void *umount_main(void *arg)
{
	struct umount_call *u = arg;

	json_decref(call(json_pack("{s:s}", "op", "umount"), &u->r, &u->em));
	u->done = true;
	return NULL;
}

static void umount_is_answered_after_the_last_commit(void **state)
{
	struct umount_call u[2] = {0};

	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&u[i].thread, NULL, umount_main, &u[i]), 0);
	while (!umounted)
		usleep(1000);
	usleep(50000);
	assert_false(u[0].done || u[1].done);
	server_end(-EIO);
	for (unsigned i = 0; i < 2; i++) {
		pthread_join(u[i].thread, NULL);
		assert_true(u[i].r < 0);
	}
	/* The second may have come after the end of accepting. */
	assert_true(u[0].r == -EIO || u[1].r == -EIO);
}

static int connect_raw(void)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	const int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/%s", dir, CONTROL_NAME);
	assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	return fd;
}

static void clients_that_go_away_or_say_nothing_harm_nobody(void **state)
{
	static const char gc[] = "{\"op\":\"gc\"}\n{\"op\":\"images\"}\n";
	struct errmsg em = {0};
	int silent[8], r;

	for (unsigned i = 0; i < ARRAY_SIZE(silent); i++)
		silent[i] = connect_raw();
	for (unsigned i = 0; i < 40; i++) {
		const size_t len = MIN(i, sizeof(gc) - 1); /* cut anywhere */
		const int fd = connect_raw();
		assert_int_equal(send(fd, gc, len, MSG_NOSIGNAL), len);
		close(fd);
	}
	json_t *json = call(json_pack("{s:s}", "op", "status"), &r, &em);
	assert_int_equal(r, 0);
	json_decref(json);
	server_end(0); /* does not wait for the silent ones */
	for (unsigned i = 0; i < ARRAY_SIZE(silent); i++)
		close(silent[i]);
}

static void a_socket_left_behind_is_replaced(void **state)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	const struct control_host host = {ds, "/mnt", umount_fake, NULL};
	struct errmsg em = {0};
	int r;

	control_server_quiesce(srv);
	control_server_stop(srv, 0);
	const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/%s", dir, CONTROL_NAME);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	close(fd); /* the name stays: nobody listens behind it */
	assert_int_equal(control_server_start(&host, &srv, &em), 0);
	json_decref(call(json_pack("{s:s}", "op", "status"), &r, &em));
	assert_int_equal(r, 0);
}

#define CASE(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        CASE(status_tells_of_the_mount),
	        CASE(errors_come_with_number_and_text),
	        CASE(without_a_daemon_there_is_no_connection),
	        CASE(umount_is_answered_after_the_last_commit),
	        CASE(clients_that_go_away_or_say_nothing_harm_nobody),
	        CASE(a_socket_left_behind_is_replaced),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

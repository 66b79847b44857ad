/*
 * test-receive-talk.c - a receiver that answers, or gives up; and filters that come along
 */
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>

#include "receive-world.h"

/* --- a sender on a thread of its own --- */

struct sender {
	const char *target, *name, *from;
	int out_fd, in_fd;
	pthread_t thread;
	json_t *json; /* of a sender that was content */
	struct errmsg em;
	int result;
};

static void *sender_main(void *arg)
{
	struct sender *se = arg;
	const struct send_request rq = {.target = se->target, .name = se->name, .from = se->from};
	const struct send_io io = {se->out_fd, se->in_fd, -1};

	se->result = stream_send(ds, &rq, &io, NULL, NULL, &se->json, &se->em);
	close(se->out_fd);
	close(se->in_fd);
	return NULL;
}

/* What the sender says of it is in *se. */
static int talk(struct sender *se, const char *target)
{
	struct receive_request rq = {.target = target, .cut_fd = -1};
	int stream[2], answers[2];

	assert_int_equal(pipe2(stream, O_CLOEXEC), 0);
	assert_int_equal(pipe2(answers, O_CLOEXEC), 0);
	rq.in_fd = stream[0];
	rq.back_fd = answers[1];
	se->out_fd = stream[1];
	se->in_fd = answers[0];
	assert_int_equal(pthread_create(&se->thread, NULL, sender_main, se), 0);
	json_decref(result);
	result = NULL;
	why = (struct errmsg){0};
	const int r = receive_run(m, &me, &rq, NULL, NULL, NULL, NULL, &result, &why);
	close(stream[0]);
	close(answers[1]);
	pthread_join(se->thread, NULL);
	return r;
}

static uint64_t number(const json_t *json, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(json, key));
}

static void what_the_receiver_has_is_not_sent(void **state)
{
	struct sender se = {.target = "a", .name = "s1"};
	struct store_stats before, after;

	make_source();
	assert_int_equal(store_sync(ds->store), 0);
	store_stats_get(ds->store, &before);
	if (talk(&se, "b") < 0)
		fail_msg("%s", why.text);
	assert_int_equal(se.result, 0);
	same_files("a", "b");
	/* All content is here: nothing went over but questions, and nothing was stored. */
	assert_int_equal(number(se.json, "data_bytes"), 0);
	assert_true(number(result, "known_bytes") >= 600000);
	store_stats_get(ds->store, &after);
	assert_int_equal(after.chunks_new, before.chunks_new);
	json_decref(se.json);
	struct gc_report report;
	assert_int_equal(store_gc(ds->store, true, NULL, NULL, &report), 0);
	same_files("a", "b");
}

static void a_sender_that_asks_is_told_where_to_go_on(void **state)
{
	struct sender se = {.target = "a", .name = "s1"};

	make_source();
	const int fd = sent("a", "s1", NULL), cut = cut_at(fd, length_of(fd) - 1);
	assert_int_equal(receive(cut, "b"), -ENODATA);
	if (talk(&se, "b") < 0)
		fail_msg("%s", why.text);
	assert_int_equal(se.result, 0);
	assert_true(number(se.json, "start_bytes") >= 5 * MIB);
	same_files("a", "b");
	json_decref(se.json);
	close(fd);
	close(cut);
}

static void the_sender_hears_why_it_is_refused(void **state)
{
	struct sender se = {.target = "a", .name = "s1"};

	make_source();
	assert_int_equal(talk(&se, "a"), -EEXIST);
	assert_int_equal(se.result, -EREMOTEIO);
	assert_non_null(strstr(se.em.text, "has it already"));
}

static void a_stream_that_waits_for_answers_needs_a_way_back(void **state)
{
	struct sender se = {.target = "a", .name = "s1"};
	int stream[2], answers[2];

	make_source();
	assert_int_equal(pipe2(stream, O_CLOEXEC), 0);
	assert_int_equal(pipe2(answers, O_CLOEXEC), 0);
	se.out_fd = stream[1];
	se.in_fd = answers[0];
	assert_int_equal(pthread_create(&se.thread, NULL, sender_main, &se), 0);
	assert_int_equal(receive(stream[0], "b"), -EINVAL);
	assert_non_null(strstr(why.text, "no way back"));
	close(stream[0]);
	close(answers[1]);
	pthread_join(se.thread, NULL);
	assert_true(se.result < 0);
}

static void who_gives_up_ends_it_and_what_came_stays(void **state)
{
	int stream[2], cut[2];

	make_source();
	const int fd = sent("a", "s1", NULL), part = cut_at(fd, length_of(fd) / 2);
	const size_t len = length_of(part);
	uint8_t *buf = malloc(len);
	assert_int_equal(pipe2(stream, O_CLOEXEC), 0);
	assert_int_equal(fcntl(stream[1], F_SETPIPE_SZ, 1 << 20), 1 << 20);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, cut), 0);
	assert_int_equal(read(part, buf, len), len);
	assert_int_equal(write(stream[1], buf, len), len);
	free(buf);
	/* Nobody is at the other end from the start: the first wait notices. */
	close(cut[1]);
	const struct receive_request rq = {
	        .target = "b", .in_fd = stream[0], .back_fd = -1, .cut_fd = cut[0]};
	assert_int_equal(
	        receive_run(m, &me, &rq, NULL, NULL, NULL, NULL, &result, &why), -ECANCELED);
	assert_int_equal(ino_of(TOP, "b"), 0);
	assert_int_equal(orphans(), hidden());
	close(stream[0]);
	close(stream[1]);
	close(cut[0]);
	close(fd);
	close(part);
}

struct receiving {
	struct receive_request rq;
	json_t *json;
	struct errmsg em;
	int result;
};

static void *receiving_main(void *arg)
{
	struct receiving *re = arg;

	re->result = receive_run(m, &me, &re->rq, NULL, NULL, NULL, NULL, &re->json, &re->em);
	return NULL;
}

/* What is looked at before content comes counts at the end, too. */
static void a_target_that_is_changed_meanwhile_is_refused(void **state)
{
	struct receiving re = {.rq = {.target = "b", .back_fd = -1, .cut_fd = -1}};
	pthread_t thread;
	struct vnode *f;
	int stream[2];

	make_source();
	int fd = sent("a", "s1", NULL);
	received(fd, "b");
	close(fd);
	change_source();
	fd = sent("a", "s2", "s1");
	const size_t len = length_of(fd);
	uint8_t *buf = malloc(len);
	assert_int_equal(read(fd, buf, len), len);
	assert_int_equal(pipe2(stream, O_CLOEXEC), 0);
	re.rq.in_fd = stream[0];
	assert_int_equal(pthread_create(&thread, NULL, receiving_main, &re), 0);
	assert_int_equal(write(stream[1], buf, len - 10), len - 10);
	while (hidden() == 0)
		usleep(1000);
	assert_int_equal(vfs_open(vfs, ino_of(TOP, "b"), &f), 0);
	fill(f, 0, 4096, 'Q');
	vfs_release(vfs, f);
	assert_int_equal(write(stream[1], buf + len - 10, 10), 10);
	pthread_join(thread, NULL);
	assert_int_equal(re.result, -EEXIST);
	assert_non_null(strstr(re.em.text, "was changed since"));
	assert_int_equal(vfs_open(vfs, ino_of(TOP, "b"), &f), 0);
	expect_bytes(f, 0, 4096, 'Q');
	vfs_release(vfs, f);
	assert_int_equal(count_list("b"), 1);
	/* All of it is here: forced, it takes its end alone. */
	lseek(fd, 0, SEEK_SET);
	assert_int_equal(receive_with(fd, "b", true, false), 0);
	same_files("a", "b");
	assert_int_equal(hidden(), 0);
	close(stream[0]);
	close(stream[1]);
	close(fd);
	free(buf);
}

/* --- filters --- */

static void what_data_depends_on_comes_along(void **state)
{
	make_source();
	assert_int_equal(attach("a", "scramble", NULL, true), 0);
	assert_int_equal(attach("a", "watch", "level=3", false), 0);
	keep("a", "s2");
	const int fd = sent("a", "s2", NULL);
	received(fd, "b");
	assert_string_equal(stack_of("b"), "scramble:active");
	same_files("a", "b");
	again();
	same_files("a", "b");
	close(fd);
}

static void properties_bring_all_filters_with_their_state(void **state)
{
	struct vnode *f;

	make_source();
	assert_int_equal(attach("a", "watch", "level=3", false), 0);
	assert_int_equal(vfs_open(vfs, ino_of(TOP, "a"), &f), 0);
	put(f, 0, "one", 3);
	put(f, 0, "two", 3);
	vfs_release(vfs, f);
	keep("a", "s2");
	const int fd = sent("a", "s2", NULL);
	assert_int_equal(receive_with(fd, "b", false, true), 0);
	assert_string_equal(stack_of("b"), "watch:active");
	assert_int_equal(vfs_open(vfs, ino_of(TOP, "b"), &f), 0);
	assert_int_equal(writes_seen("b"), 2);
	vfs_release(vfs, f);
	close(fd);
}

static void a_directory_gives_what_does_not_transform(void **state)
{
	make_source();
	make(TOP, "dir", S_IFDIR | 0755);
	assert_int_equal(attach("dir", "watch", NULL, false), 0);
	assert_int_equal(attach("dir", "scramble", NULL, true), 0);
	const int fd = sent("a", "s1", NULL);
	received(fd, "dir/b");
	assert_string_equal(stack_of("dir/b"), "watch:active");
	const json_t *left = json_object_get(result, "left_out");
	assert_int_equal(json_array_size(left), 1);
	assert_string_equal(json_string_value(json_array_get(left, 0)), "scramble");
	struct vnode *f;
	assert_int_equal(vfs_open(vfs, ino_of(ino_of(TOP, "dir"), "b"), &f), 0);
	expect_bytes(f, MIB, 400000, 'b');
	vfs_release(vfs, f);
	close(fd);
}

static void an_update_through_another_transform_is_refused(void **state)
{
	make_source();
	int fd = sent("a", "s1", NULL);
	received(fd, "b");
	close(fd);
	assert_int_equal(attach("a", "scramble", NULL, true), 0);
	keep("a", "s2");
	fd = sent("a", "s2", "s1");
	assert_int_equal(receive(fd, "b"), -EINVAL);
	assert_non_null(strstr(why.text, "scramble"));
	assert_int_equal(hidden(), 0);
	close(fd);
}

/* What came lies below no transform: it must not get below one. */
static void a_transform_that_came_meanwhile_is_noticed(void **state)
{
	make_source();
	int fd = sent("a", "s1", NULL);
	received(fd, "b");
	close(fd);
	change_source();
	fd = sent("a", "s2", "s1");
	const int cut = cut_at(fd, length_of(fd) - 10);
	assert_true(receive(cut, "b") < 0);
	assert_int_equal(attach("b", "scramble", NULL, true), 0);
	assert_int_equal(receive_with(fd, "b", true, false), -EINVAL);
	assert_non_null(strstr(why.text, "came or went"));
	close(cut);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        MANAGER_CASE(what_the_receiver_has_is_not_sent),
	        MANAGER_CASE(a_sender_that_asks_is_told_where_to_go_on),
	        MANAGER_CASE(the_sender_hears_why_it_is_refused),
	        MANAGER_CASE(a_stream_that_waits_for_answers_needs_a_way_back),
	        MANAGER_CASE(who_gives_up_ends_it_and_what_came_stays),
	        MANAGER_CASE(a_target_that_is_changed_meanwhile_is_refused),
	        MANAGER_CASE(what_data_depends_on_comes_along),
	        MANAGER_CASE(properties_bring_all_filters_with_their_state),
	        MANAGER_CASE(a_directory_gives_what_does_not_transform),
	        MANAGER_CASE(an_update_through_another_transform_is_refused),
	        MANAGER_CASE(a_transform_that_came_meanwhile_is_noticed),
	};
	struct errmsg em;

	if (stage_type_add(&watch_type, &em) < 0)
		return 1;
	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

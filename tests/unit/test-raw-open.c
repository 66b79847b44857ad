/*
 * test-raw-open.c - encrypted images sent without their key, kept sealed, and opened when it is there
 */
#include <unistd.h>

#include "fs/filter/keys-private.h"
#include "fs/stream/raw-private.h"
#include "receive-world.h"

static uint8_t file[64] = "the bytes of a key file";
static const struct secret secret = {KEYSLOT_FILE, file, sizeof(file)};

static int no_protect(struct errmsg *em)
{
	return 0;
}

static void unlock(void)
{
	struct errmsg em = {0};
	json_t *json = NULL;

	m->keys->env.protect = no_protect;
	if (key_unlock(m->keys, &me, "vms", &secret, &json, &em) < 0)
		fail_msg("%s", em.text);
	json_decref(json);
}

static void lock(void)
{
	struct errmsg em = {0};
	json_t *json = NULL;

	if (key_lock(m->keys, &me, "vms", &json, &em) < 0)
		fail_msg("%s", em.text);
	json_decref(json);
}

/* "a", encrypted, with snapshots s1 and s2; locked. */
static void make_sealed(void)
{
	static const char *const settings[] = {"key=vms"};
	const struct filter_change c = {.target = "a",
	        .type = "encrypt",
	        .settings = settings,
	        .n_settings = 1,
	        .wait = true};
	struct errmsg em = {0};
	json_t *json = NULL;

	m->keys->env.protect = no_protect;
	if (key_create(m->keys, &me, "vms", &secret, &json, &em) < 0)
		fail_msg("%s", em.text);
	json_decref(json);
	struct vnode *f = create("a", NULL);
	vfs_release(vfs, f);
	if (manager_attach(m, &me, &c, NULL, NULL, &json, &em) < 0)
		fail_msg("%s", em.text);
	json_decref(json);
	assert_int_equal(vfs_open(vfs, ino_of(TOP, "a"), &f), 0);
	fill_kinds(f, 1);
	vfs_release(vfs, f);
	keep("a", "s1");
	change_source();
	lock();
}

static int raw_sent(const char *target, const char *name, const char *from)
{
	const struct send_request rq = {.target = target, .name = name, .from = from, .raw = true};
	const int fd = memfd_create("raw", MFD_CLOEXEC);
	const struct send_io io = {fd, -1, -1};
	json_t *json = NULL;
	struct errmsg em = {0};

	if (stream_send(ds, &rq, &io, NULL, NULL, &json, &em) < 0)
		fail_msg("%s", em.text);
	json_decref(json);
	lseek(fd, 0, SEEK_SET);
	return fd;
}

/* Until no job is left, or one has failed: its error, else "". */
static void wait_jobs(char ret_error[ERRMSG_LEN])
{
	bool waiting = true;

	*ret_error = 0;
	for (unsigned i = 0; waiting && i < 1000; i++) {
		json_t *list = jobs_json(m->jobs);
		const json_t *job = json_array_get(list, 0);
		const char *error = json_string_value(json_object_get(job, "error"));
		waiting = job && (!error || !*error || strstr(error, "locked") ||
		                         strstr(error, "being received"));
		if (job && !waiting)
			snprintf(ret_error, ERRMSG_LEN, "%s", error);
		json_decref(list);
		if (waiting)
			usleep(10000);
	}
	assert_false(waiting);
}

static void opened(void)
{
	char error[ERRMSG_LEN];

	wait_jobs(error);
	assert_string_equal(error, "");
}

static int try_open(const char *name)
{
	struct vnode *f;
	const int r = vfs_open(vfs, ino_of(TOP, name), &f);

	if (r == 0)
		vfs_release(vfs, f);
	return r;
}

static void what_is_sent_without_the_key_opens_with_it(void **state)
{
	make_sealed();
	const int s1 = raw_sent("a", "s1", NULL), s2 = raw_sent("a", "s2", "s1");

	received(s1, "b");
	assert_int_equal(receive(s1, "b"), -EEXIST);
	assert_int_equal(try_open("b"), -ENOKEY);
	again();
	assert_int_equal(try_open("b"), -ENOKEY);
	received(s2, "b");
	assert_int_equal(receive(s2, "none"), -ENOENT);
	/* What is kept is sent on as it came. */
	const int on = raw_sent("b", "s2", "s1");
	assert_int_equal(length_of(on), length_of(s2));
	received(s1, "c");
	received(on, "c");
	unlock();
	opened();
	same_files("a", "b");
	same_files("a", "c");
	assert_int_equal(count_list("b"), 2);
	assert_int_equal(hidden(), 0);
	assert_int_equal(receive(s1, "b"), -EEXIST);
	close(s1);
	close(s2);
	close(on);
}

/* Any part of a stream, a restart, and then the stream from its beginning. */
static void a_stream_may_be_cut_anywhere(void **state)
{
	make_sealed();
	const int fd = raw_sent("a", "s1", NULL);
	const size_t len = length_of(fd);
	char name[16];

	for (unsigned i = 0; i < 12; i++) {
		const int cut = cut_at(fd, i < 11 ? len * i / 11 : len - 5);
		snprintf(name, sizeof(name), "b%u", i);
		assert_true(receive(cut, name) < 0);
		if (i % 3 == 0)
			again();
		received(fd, name);
		close(cut);
	}
	unlock();
	opened();
	lock();
	for (unsigned i = 0; i < 12; i++) {
		snprintf(name, sizeof(name), "b%u", i);
		assert_int_equal(count_list(name), 1);
	}
	unlock();
	same_files("b0", "b11");
	for (unsigned i = 1; i < 11; i++) {
		snprintf(name, sizeof(name), "b%u", i);
		same_files("b0", name);
	}
	close(fd);
}

/* The same stream, with right checksums, but for one byte of a segment. */
static int forged(int fd, uint32_t at)
{
	const int to = memfd_create("forged", MFD_CLOEXEC);
	struct record_writer *w;
	struct record_reader *r;
	struct stream_record rec;
	struct errmsg em;

	assert_int_equal(record_writer_new(STREAM_FORWARD, to, -1, &w), 0);
	assert_int_equal(record_reader_new(STREAM_FORWARD, fd, -1, &r), 0);
	do {
		assert_int_equal(record_read(r, &rec, &em), 0);
		if (rec.type == (enum stream_type)RAW_SEGMENT && at < rec.opaque.len)
			((uint8_t *)(uintptr_t)rec.opaque.data)[at] ^= 1;
		assert_int_equal(record_write(w, &rec), 0);
	} while (rec.type != STREAM_END);
	assert_int_equal(record_flush(w), 0);
	record_writer_free(w);
	record_reader_free(r);
	lseek(fd, 0, SEEK_SET);
	lseek(to, 0, SEEK_SET);
	return to;
}

static void a_forged_stream_is_found_when_it_is_opened(void **state)
{
	char error[ERRMSG_LEN];

	make_sealed();
	const int fd = raw_sent("a", "s1", NULL), bad = forged(fd, RAW_SEGMENT_HEAD + 1000);

	received(bad, "b");
	unlock();
	wait_jobs(error);
	assert_non_null(strstr(error, "not authentic"));
	assert_int_equal(try_open("b"), -ENOKEY);
	assert_int_equal(vfs_unlink(vfs, TOP, "b"), 0);
	close(fd);
	close(bad);
}

static void what_is_not_encrypted_is_not_sent_raw(void **state)
{
	const struct send_request rq = {.target = "a", .name = "s1", .raw = true};
	const struct send_io io = {-1, -1, -1};
	struct errmsg em = {0};
	json_t *json = NULL;

	make_source();
	assert_int_equal(stream_send(ds, &rq, &io, NULL, NULL, &json, &em), -EXDEV);
	assert_non_null(strstr(em.text, "send it without --raw"));
}

/* Whoever renames the holder gets the image under that name, and what has its name by then stays. */
static void it_may_be_renamed_while_it_is_opened(void **state)
{
	char byte = 0;
	struct vnode *f;

	make_sealed();
	const int fd = raw_sent("a", "s1", NULL);

	received(fd, "b");
	unlock();
	assert_int_equal(vfs_rename(vfs, TOP, "b", TOP, "c", 0), 0);
	f = create("b", NULL);
	fill(f, 0, 5000, 'n');
	vfs_release(vfs, f);
	opened();
	assert_int_equal(vfs_open(vfs, ino_of(TOP, "b"), &f), 0);
	assert_int_equal(get(f, 4999, &byte, 1), 1);
	assert_int_equal(byte, 'n');
	vfs_release(vfs, f);
	assert_int_equal(try_open("c"), 0);
	assert_int_equal(count_list("c"), 1);
	close(fd);
}

static void what_is_sealed_is_in_no_snapshot(void **state)
{
	const struct snapshot_request of_b = {.target = "b", .name = "x"};
	struct errmsg em = {0};
	json_t *json = NULL;

	make_sealed();
	const int fd = raw_sent("a", "s1", NULL);
	received(fd, "b");
	assert_int_equal(snapshots_create(m, &me, &of_b, &json, &em), -ENOKEY);
	keep("", "all");
	assert_int_equal(count_list("b"), 0);
	close(fd);
}

/* With so many rows behind META. */
static int with_rows(int fd, unsigned rows)
{
	const int to = memfd_create("rows", MFD_CLOEXEC);
	uint8_t *value = calloc(1, MIB);
	struct record_writer *w;
	struct record_reader *r;
	struct stream_record rec;
	struct errmsg em;

	assert_int_equal(record_writer_new(STREAM_FORWARD, to, -1, &w), 0);
	assert_int_equal(record_reader_new(STREAM_FORWARD, fd, -1, &r), 0);
	do {
		assert_int_equal(record_read(r, &rec, &em), 0);
		assert_int_equal(record_write(w, &rec), 0);
		for (unsigned i = 0; rec.type == STREAM_META && i < rows; i++) {
			struct stream_record row = {
			        .type = STREAM_ROW, .row = {STREAM_ROW_STATE, i + 1, {value, MIB}}};
			assert_int_equal(record_write(w, &row), 0);
		}
	} while (rec.type != STREAM_END);
	assert_int_equal(record_flush(w), 0);
	record_writer_free(w);
	record_reader_free(r);
	free(value);
	lseek(fd, 0, SEEK_SET);
	lseek(to, 0, SEEK_SET);
	return to;
}

static void what_comes_before_content_is_bounded(void **state)
{
	make_sealed();
	const int s1 = raw_sent("a", "s1", NULL), s2 = raw_sent("a", "s2", "s1");
	const int large1 = with_rows(s1, 20), large2 = with_rows(s2, 20);

	assert_int_equal(receive(large1, "b"), -EFBIG);
	received(s1, "b");
	assert_int_equal(receive(large2, "b"), -EFBIG);
	received(s2, "b");
	unlock();
	opened();
	same_files("a", "b");
	close(s1);
	close(s2);
	close(large1);
	close(large2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        MANAGER_CASE(what_is_sent_without_the_key_opens_with_it),
	        MANAGER_CASE(a_stream_may_be_cut_anywhere),
	        MANAGER_CASE(a_forged_stream_is_found_when_it_is_opened),
	        MANAGER_CASE(it_may_be_renamed_while_it_is_opened),
	        MANAGER_CASE(what_is_sealed_is_in_no_snapshot),
	        MANAGER_CASE(what_comes_before_content_is_bounded),
	        MANAGER_CASE(what_is_not_encrypted_is_not_sent_raw),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

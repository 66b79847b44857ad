/*
 * test-stage-scan.c - the scan filter in a real pipeline, over an image in memory, with a clamd of
 * the test's own
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "stage/builtin/builtin.h"
#include "stage/builtin/scan-engine.h"
#include "stage/pipeline.h"

#define IMAGE_BYTES (4u << 20)
#define SIGNATURE   "weir-test-signature-0123456789"
#define VIRUS       "weir-test-virus-abcdefghij"

/* --- a clamd: finds VIRUS --- */

struct fake_clamd {
	char path[108];
	int listen_fd;
	pthread_t thread;
	_Atomic unsigned pieces;
};

static bool receive(int fd, void *buf, size_t len)
{
	uint8_t *at = buf;

	while (len > 0) {
		const ssize_t n = recv(fd, at, len, 0);
		if (n <= 0)
			return false;
		at += n;
		len -= (size_t)n;
	}
	return true;
}

static void clamd_stream(struct fake_clamd *c, int fd)
{
	char *data = NULL;
	size_t len = 0;
	uint32_t n;

	while (receive(fd, &n, sizeof(n)) && (n = ntohl(n)) != 0) {
		data = realloc(data, len + n);
		if (!data || !receive(fd, data + len, n))
			break;
		len += n;
	}
	const bool found = data && memmem(data, len, VIRUS, strlen(VIRUS));
	const char *reply = found ? "stream: Test.Virus FOUND" : "stream: OK";
	c->pieces++;
	if (send(fd, reply, strlen(reply) + 1, MSG_NOSIGNAL) < 0)
		perror("send");
	free(data);
}

static void *clamd_main(void *arg)
{
	struct fake_clamd *c = arg;
	char command[16];
	int fd;

	while ((fd = accept(c->listen_fd, NULL, NULL)) >= 0) {
		size_t n = 0;
		while (n < sizeof(command) && receive(fd, command + n, 1) && command[n])
			n++;
		if (!strcmp(command, "zPING") && send(fd, "PONG", 5, MSG_NOSIGNAL) < 0)
			perror("send");
		if (!strcmp(command, "zINSTREAM"))
			clamd_stream(c, fd);
		close(fd);
	}
	return NULL;
}

static void clamd_start(struct fake_clamd *c)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};

	snprintf(c->path, sizeof(c->path), "/tmp/weir-test-clamd-%d", getpid());
	memcpy(addr.sun_path, c->path, sizeof(addr.sun_path));
	unlink(c->path);
	c->pieces = 0;
	c->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(c->listen_fd >= 0);
	assert_int_equal(bind(c->listen_fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(c->listen_fd, 8), 0);
	assert_int_equal(pthread_create(&c->thread, NULL, clamd_main, c), 0);
}

static void clamd_stop(struct fake_clamd *c)
{
	shutdown(c->listen_fd, SHUT_RDWR);
	pthread_join(c->thread, NULL);
	close(c->listen_fd);
	unlink(c->path);
}

/* --- an image in memory, with one scan filter on it --- */

struct world {
	pthread_mutex_t lock;
	uint8_t *image;
	struct stage_runtime *rt;
	struct pipeline *p;
	_Atomic unsigned alerts, warnings, quarantines;
	_Atomic bool reads_fail;
	char rules[64];
};

static void copy_release(struct readv *rv)
{
	free(rv->iov);
}

static const struct readv_ops copy_ops = {.release = copy_release};

static void bottom_read(struct world *w, struct request *req)
{
	const uint64_t len = req->off < IMAGE_BYTES ? MIN(req->len, IMAGE_BYTES - req->off) : 0;
	struct iovec *iov = malloc(sizeof(*iov) + len);

	assert_non_null(iov);
	*iov = (struct iovec){iov + 1, len};
	memcpy(iov + 1, w->image + req->off, len);
	req->out = (struct readv){.iov = iov, .n_iov = 1, .len = len, .ops = &copy_ops};
}

static void bottom(void *arg, struct request *req)
{
	struct world *w = arg;

	pthread_mutex_lock(&w->lock);
	if (req->op == REQUEST_READ) {
		bottom_read(w, req);
	} else if (req->op == REQUEST_WRITE) {
		memcpy(w->image + req->off, req->data, req->len);
		req->done = req->len;
	} else if (req->op == REQUEST_EXTENTS) {
		req->found = req->off;
	}
	req->result = req->op == REQUEST_READ && w->reads_fail ? -EIO : 0;
	pthread_mutex_unlock(&w->lock);
}

static int no_state(void *arg, uint64_t link, const char *name, void *buf, size_t cap, size_t *len)
{
	return -ENOENT;
}

static int drop_state(void *arg, uint64_t link, const char *name, const void *data, size_t len)
{
	return 0;
}

static void image_of(void *arg, struct stage_image *ret_image)
{
	*ret_image = (struct stage_image){.id = 2, .size = IMAGE_BYTES, .path = "disk.raw"};
}

static void said(void *arg, uint64_t link, enum stage_severity severity, const char *text)
{
	struct world *w = arg;

	w->alerts += severity == STAGE_SEVERITY_ALERT;
	w->warnings += severity == STAGE_SEVERITY_WARNING;
}

static void quarantined(void *arg, uint64_t link, const char *why)
{
	struct world *w = arg;

	w->quarantines++;
}

static void prefetch_nothing(void *arg, uint64_t off, uint64_t len)
{
}

static void rules_write(struct world *w, const char *text)
{
	snprintf(w->rules, sizeof(w->rules), "/tmp/weir-test-rules-%d", getpid());
	FILE *f = fopen(w->rules, "w");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static const char good_rules[] =
        "rule test_signature { strings: $a = \"" SIGNATURE "\" condition: $a }\n";

static void open_with(struct world *w, const char *const *texts, unsigned n)
{
	const struct pipeline_below below = {
	        .arg = w,
	        .submit = bottom,
	        .prefetch = prefetch_nothing,
	        .state_get = no_state,
	        .state_put = drop_state,
	        .image = image_of,
	        .say = said,
	        .quarantine = quarantined,
	};
	struct stack_plan *plan = calloc(1, sizeof(*plan));
	struct errmsg em = {0};

	assert_non_null(plan);
	plan->n = 1;
	struct stack_item *item = &plan->items[0];
	*item = (struct stack_item){.link = 1,
	        .type = &stage_scan,
	        .type_version = stage_scan.version,
	        .capabilities = stage_scan.capabilities,
	        .class = stage_scan.class};
	snprintf(item->type_name, sizeof(item->type_name), "scan");
	if (settings_parse(stage_scan.settings, texts, n, &item->settings, &em) < 0)
		fail_msg("%s", em.text);
	if (pipeline_open(w->rt, &below, plan, &w->p, &em) < 0)
		fail_msg("%s", em.text);
	stack_plan_release(plan);
	free(plan);
}

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	const struct stage_runtime_config cfg = {.workers = 2};

	assert_non_null(w);
	pthread_mutex_init(&w->lock, NULL);
	w->image = calloc(1, IMAGE_BYTES);
	assert_non_null(w->image);
	assert_int_equal(stage_runtime_new(&cfg, &w->rt), 0);
	rules_write(w, good_rules);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	pipeline_close(w->p);
	stage_runtime_free(w->rt);
	unlink(w->rules);
	free(w->image);
	pthread_mutex_destroy(&w->lock);
	free(w);
	return 0;
}

static void open_scan(struct world *w, const char *extra)
{
	char rules[96];

	snprintf(rules, sizeof(rules), "rules=%s", w->rules);
	open_with(w, (const char *const[]){rules, extra}, extra ? 2 : 1);
}

static void complete_nothing(struct request *req)
{
}

static int put(struct world *w, uint64_t off, const void *data, size_t len)
{
	struct request req = {.op = REQUEST_WRITE,
	        .off = off,
	        .len = len,
	        .data = data,
	        .complete = complete_nothing};

	return pipeline_call(w->p, &req);
}

static int get(struct world *w, uint64_t off, size_t len)
{
	struct request req = {
	        .op = REQUEST_READ, .off = off, .len = len, .complete = complete_nothing};
	const int r = pipeline_call(w->p, &req);

	readv_release(&req.out);
	return r;
}

struct wanted {
	const char *name;
	uint64_t value;
};

static void note_number(void *arg, const char *name, uint64_t value)
{
	struct wanted *w = arg;

	if (!strcmp(name, w->name))
		w->value = value;
}

static void note_nothing_real(void *arg, const char *name, double value)
{
}
static void note_nothing(void *arg, const char *name, const char *value)
{
}

static uint64_t counter(struct world *w, const char *name)
{
	struct wanted wanted = {name, UINT64_MAX};
	const struct stage_report report = {
	        &wanted, note_number, note_nothing_real, note_nothing, note_nothing};

	assert_int_equal(pipeline_report(w->p, 1, &report), 0);
	assert_true(wanted.value != UINT64_MAX);
	return wanted.value;
}

static bool wait_for(struct world *w, const char *name, uint64_t at_least, unsigned seconds)
{
	for (unsigned i = 0; i < seconds * 100; i++) {
		if (counter(w, name) >= at_least)
			return true;
		usleep(10000);
	}
	return false;
}

/* --- what holds --- */

static void test_a_written_signature_is_found_and_passes_with_an_alert(void **state)
{
	struct world *w = *state;

	open_scan(w, NULL);
	assert_int_equal(put(w, 5000, SIGNATURE, strlen(SIGNATURE)), 0);
	assert_memory_equal(w->image + 5000, SIGNATURE, strlen(SIGNATURE));
	assert_int_equal(counter(w, "found"), 1);
	assert_int_equal(w->alerts, 1);
	assert_int_equal(w->quarantines, 0);
	assert_int_equal(put(w, 9000, "harmless", 8), 0);
	assert_int_equal(counter(w, "found"), 1);
}

static void test_a_blocked_write_reaches_nothing_and_quarantines(void **state)
{
	struct world *w = *state;

	open_scan(w, "action=block");
	assert_int_equal(put(w, 5000, SIGNATURE, strlen(SIGNATURE)), -EPERM);
	assert_int_equal(w->image[5000], 0);
	assert_int_equal(w->quarantines, 1);
	assert_int_equal(counter(w, "blocked"), 1);
	assert_int_equal(put(w, 5000, "fine", 4), 0);
	assert_int_equal(get(w, 0, 8192), 0);
}

static void test_a_signature_in_two_writes_is_found_with_the_second(void **state)
{
	struct world *w = *state;
	const size_t half = strlen(SIGNATURE) / 2, rest = strlen(SIGNATURE) - half;

	open_scan(w, "action=block");
	assert_int_equal(put(w, 4096 - half, SIGNATURE, half), 0);
	assert_int_equal(put(w, 4096, SIGNATURE + half, rest), -EPERM);
	/* and the second half first */
	assert_int_equal(put(w, 1048576, SIGNATURE + half, rest), 0);
	assert_int_equal(put(w, 1048576 - half, SIGNATURE, half), -EPERM);
	/* filled in between */
	assert_int_equal(put(w, 2097152, SIGNATURE, 10), 0);
	assert_int_equal(put(w, 2097152 + 12, SIGNATURE + 12, strlen(SIGNATURE) - 12), 0);
	assert_int_equal(put(w, 2097152 + 10, SIGNATURE + 10, 2), -EPERM);
}

struct racer {
	struct world *w;
	pthread_barrier_t *barrier;
	uint64_t off;
	const char *data;
	size_t len;
	int result;
};

static void *racer_main(void *arg)
{
	struct racer *r = arg;

	pthread_barrier_wait(r->barrier);
	r->result = put(r->w, r->off, r->data, r->len);
	return NULL;
}

static void test_halves_written_at_once_cannot_both_pass(void **state)
{
	struct world *w = *state;
	const size_t half = strlen(SIGNATURE) / 2;

	open_scan(w, "action=block");
	for (unsigned i = 0; i < 100; i++) {
		const uint64_t at = 8192 + (uint64_t)i * 8192;
		pthread_barrier_t barrier;
		struct racer racers[2] = {
		        {w, &barrier, at - half, SIGNATURE, half, 1},
		        {w, &barrier, at, SIGNATURE + half, strlen(SIGNATURE) - half, 1},
		};
		pthread_t threads[2];
		pthread_barrier_init(&barrier, NULL, 2);
		for (unsigned k = 0; k < 2; k++)
			assert_int_equal(
			        pthread_create(&threads[k], NULL, racer_main, &racers[k]), 0);
		for (unsigned k = 0; k < 2; k++)
			pthread_join(threads[k], NULL);
		pthread_barrier_destroy(&barrier);
		assert_true(racers[0].result == -EPERM || racers[1].result == -EPERM);
	}
}

static void test_what_was_there_before_is_found_when_it_is_read(void **state)
{
	struct world *w = *state;

	memcpy(w->image + 65536 - 7, SIGNATURE, strlen(SIGNATURE)); /* across two regions */
	open_scan(w, "action=block");
	assert_int_equal(get(w, 0, 4096), -EPERM);
	assert_int_equal(get(w, 65536, 4096), -EPERM);
	assert_int_equal(get(w, 131072, 4096), 0);
}

static void test_a_clean_region_is_looked_at_once(void **state)
{
	struct world *w = *state;

	open_scan(w, "what=reads");
	assert_int_equal(get(w, 0, 4096), 0);
	const uint64_t scanned = counter(w, "scanned_bytes");
	assert_true(scanned >= 65536);
	for (unsigned i = 0; i < 15; i++)
		assert_int_equal(get(w, 4096 * i, 4096), 0);
	assert_int_equal(counter(w, "scanned_bytes"), scanned);
	/* until it is written: writes are not looked at here, reads are */
	assert_int_equal(put(w, 8192, SIGNATURE, strlen(SIGNATURE)), 0);
	assert_int_equal(counter(w, "found"), 0);
	assert_int_equal(get(w, 0, 4096), 0);
	assert_int_equal(counter(w, "found"), 1);
}

static void test_rules_that_cannot_be_read_follow_the_policy(void **state)
{
	struct world *w = *state;

	unlink(w->rules);
	open_scan(w, "down=pass");
	assert_int_equal(put(w, 0, SIGNATURE, strlen(SIGNATURE)), 0);
	assert_int_equal(counter(w, "unscanned_bytes"), strlen(SIGNATURE));
	assert_int_equal(w->warnings, 1);
	pipeline_close(w->p);
	w->p = NULL;

	open_scan(w, "down=fail");
	assert_int_equal(put(w, 0, "x", 1), -EIO);
	assert_int_equal(get(w, 0, 4096), -EIO);
	rules_write(w, good_rules);
	for (unsigned i = 0; i < 500 && get(w, 65536, 4096) < 0; i++)
		usleep(10000);
	assert_int_equal(put(w, 0, "x", 1), 0);
	assert_int_equal(counter(w, "rules"), 1);
}

static void test_settings_are_checked(void **state)
{
	struct world *w = *state;
	struct settings s;
	struct errmsg em = {0};
	char rules[96];

	assert_int_equal(settings_parse(stage_scan.settings, NULL, 0, &s, &em), 0);
	assert_int_equal(stage_scan.check(&s, &em), -EINVAL);
	assert_non_null(strstr(em.text, "rules=FILE"));
	settings_release(&s);

	rules_write(w, "rule fine { condition: true }\nrule broken { strings: condition }\n");
	snprintf(rules, sizeof(rules), "rules=%s", w->rules);
	const char *const texts[] = {rules};
	assert_int_equal(settings_parse(stage_scan.settings, texts, 1, &s, &em), 0);
	assert_int_equal(stage_scan.check(&s, &em), -EINVAL);
	assert_non_null(strstr(em.text, "line 2"));
	settings_release(&s);
}

static void test_a_sweep_asks_clamd_about_everything(void **state)
{
	struct world *w = *state;
	struct fake_clamd clamd;
	char socket_text[128];
	struct errmsg em = {0};
	char *json = NULL;

	clamd_start(&clamd);
	memcpy(w->image + (1u << 20) - 5, VIRUS, strlen(VIRUS)); /* across two pieces */
	snprintf(socket_text, sizeof(socket_text), "clamd=%s", clamd.path);
	open_with(w, (const char *const[]){socket_text}, 1);
	assert_int_equal(pipeline_action(w->p, 1, "sweep", NULL, 0, &json, &em), 0);
	free(json);
	assert_true(wait_for(w, "last_sweep_ns", 1, 20));
	assert_int_equal(counter(w, "last_sweep_found"), 1);
	assert_int_equal(counter(w, "sweep_done_bytes"), IMAGE_BYTES);
	assert_int_equal(clamd.pieces, IMAGE_BYTES >> 20);
	assert_int_equal(get(w, 0, 4096), 0); /* requests are not clamd's */
	clamd_stop(&clamd);
}

static void test_a_clamd_that_is_away_is_told_of(void **state)
{
	struct world *w = *state;

	open_with(w, (const char *const[]){"clamd=/nonexistent/clamd", "down=fail"}, 2);
	assert_int_equal(get(w, 0, 4096), -EIO);
	assert_int_equal(w->alerts, 1);
}

static void test_rules_hold_while_clamd_is_away(void **state)
{
	struct world *w = *state;
	char rules[96];

	snprintf(rules, sizeof(rules), "rules=%s", w->rules);
	open_with(w,
	        (const char *const[]){
	                rules, "clamd=/nonexistent/clamd", "action=block", "down=pass"},
	        4);
	assert_int_equal(put(w, 5000, SIGNATURE, strlen(SIGNATURE)), -EPERM);
	memcpy(w->image + 65536, SIGNATURE, strlen(SIGNATURE));
	assert_int_equal(get(w, 65536, 4096), -EPERM);
	assert_int_equal(w->warnings, 1);
}

static void test_a_write_that_could_not_be_looked_at_is_found_when_it_is_read(void **state)
{
	struct world *w = *state;

	open_scan(w, "action=block");
	assert_int_equal(get(w, 0, 4096), 0); /* clean, and remembered */
	w->reads_fail = true;                 /* what stands around it cannot be had */
	assert_int_equal(put(w, 5000, SIGNATURE, strlen(SIGNATURE)), 0);
	w->reads_fail = false;
	assert_int_equal(counter(w, "unscanned_bytes"), strlen(SIGNATURE));
	assert_int_equal(get(w, 0, 4096), -EPERM);
}

static void test_replies_of_clamd(void **state)
{
	static const char *const bad[] = {"", "stream: ", "stream: FOUND", "stream:  FOUND x",
	        "INSTREAM size limit exceeded. ERROR", "PONG", "stream: OKAY"};
	char name[SCAN_NAME_LEN];
	struct errmsg em;
	bool found = true;

	assert_int_equal(clamd_reply_parse("stream: OK", 10, &found, name, &em), 0);
	assert_false(found);
	assert_int_equal(clamd_reply_parse("stream: Eicar-Test FOUND", 24, &found, name, &em), 0);
	assert_true(found);
	assert_string_equal(name, "Eicar-Test");
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(
		        clamd_reply_parse(bad[i], strlen(bad[i]), &found, name, &em), -EPROTO);
}

#define SCAN_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        SCAN_TEST(test_a_written_signature_is_found_and_passes_with_an_alert),
	        SCAN_TEST(test_a_blocked_write_reaches_nothing_and_quarantines),
	        SCAN_TEST(test_a_signature_in_two_writes_is_found_with_the_second),
	        SCAN_TEST(test_halves_written_at_once_cannot_both_pass),
	        SCAN_TEST(test_what_was_there_before_is_found_when_it_is_read),
	        SCAN_TEST(test_a_clean_region_is_looked_at_once),
	        SCAN_TEST(test_rules_that_cannot_be_read_follow_the_policy),
	        SCAN_TEST(test_settings_are_checked),
	        SCAN_TEST(test_a_sweep_asks_clamd_about_everything),
	        SCAN_TEST(test_a_clamd_that_is_away_is_told_of),
	        SCAN_TEST(test_rules_hold_while_clamd_is_away),
	        SCAN_TEST(test_a_write_that_could_not_be_looked_at_is_found_when_it_is_read),
	        cmocka_unit_test(test_replies_of_clamd),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

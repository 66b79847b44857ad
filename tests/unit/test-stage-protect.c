/*
 * test-stage-protect.c - the filter "protect": read-only, write-once, and the guard
 */
#include "stage-sim.h"

#include <errno.h>
#include <lz4.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "stage/builtin/builtin.h"
#include "stage/builtin/entropy.h"
#include "stage/builtin/ranges.h"

#define KIB  1024ull
#define MIB  (1024 * KIB)
#define SIZE (4 * MIB)

static uint8_t ones[MIB];

/* --- ranges and entropy --- */

static void ranges_are_read_and_nonsense_is_refused(void **state)
{
	static const char *const bad[] = {"x", "1K+", "+1K", "1K+0", "1K,", "1K+1K,,2K", "1K-2K",
	        "99999999999999999999", "1E"};
	struct ranges rs;
	struct errmsg em = {0};

	assert_int_equal(ranges_parse("ranges", "0+1M,16g+4k,1T", &rs, &em), 0);
	assert_int_equal(rs.n, 3);
	assert_int_equal(rs.at[1].off, 16 * 1024 * MIB);
	assert_int_equal(rs.at[1].end, 16 * 1024 * MIB + 4096);
	assert_true(ranges_touch(&rs, MIB - 1, MIB));
	assert_false(ranges_touch(&rs, MIB, 2 * MIB));
	assert_true(ranges_touch(&rs, 1ull << 50, (1ull << 50) + 1));
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		if (i != 4) /* a comma at the end does no harm */
			assert_int_equal(ranges_parse("ranges", bad[i], &rs, &em), -EINVAL);
}

static void make_random(void *buf, size_t len)
{
	for (size_t at = 0; at < len;) {
		const ssize_t n = getrandom((uint8_t *)buf + at, MIN(len - at, 256u), 0);
		assert_true(n > 0);
		at += (size_t)n;
	}
}

/* Words in no order, as prose has them: about 4.2 bits a byte. */
static void make_text(void *buf, size_t len, uint64_t seed)
{
	static const char *const words[] = {"the ", "segment ", "of ", "a ", "transaction ", "is ",
	        "written ", "to ", "disk, ", "and ", "then ", "its ", "checksum ", "follows. ",
	        "If ", "power ", "fails ", "here, ", "recovery ", "finds ", "an ", "old ",
	        "state\n", "that ", "was ", "never ", "acknowledged ", "by ", "anybody ", "1977; "};
	char *p = buf;

	for (size_t at = 0; at < len;) {
		seed = seed * 6364136223846793005 + 1442695040888963407;
		const char *w = words[(seed >> 33) % ARRAY_SIZE(words)];
		for (; *w && at < len; w++)
			p[at++] = *w;
	}
}

/* Machine code: this program. */
static void make_code(void *buf, size_t len)
{
	FILE *f = fopen("/proc/self/exe", "r");

	assert_non_null(f);
	const size_t n = fread(buf, 1, len, f);
	assert_true(n >= 64 * KIB);
	for (size_t at = n; at < len; at++)
		((uint8_t *)buf)[at] = ((uint8_t *)buf)[at - n];
	fclose(f);
}

static unsigned high_chunks(const uint8_t *buf, size_t len)
{
	const unsigned limit = entropy_limit(0.94 * 8);
	unsigned n = 0;

	for (size_t at = 0; at + 4096 <= len; at += 4096)
		n += entropy_is_high(entropy_pairs(buf + at, 4096), limit);
	return n;
}

static void random_looks_random_and_ordinary_data_does_not(void **state)
{
	static uint8_t buf[4 * MIB];
	const unsigned chunks = sizeof(buf) / 4096;

	make_random(buf, sizeof(buf));
	assert_true(high_chunks(buf, sizeof(buf)) > chunks * 99 / 100);
	make_text(buf, sizeof(buf), 1);
	assert_int_equal(high_chunks(buf, sizeof(buf)), 0);
	make_code(buf, sizeof(buf));
	assert_true(high_chunks(buf, sizeof(buf)) < chunks / 50);
	memset(buf, 0, sizeof(buf));
	assert_int_equal(high_chunks(buf, sizeof(buf)), 0);
	for (size_t i = 0; i < sizeof(buf); i++)
		buf[i] = (uint8_t)i; /* uniform, and no noise */
	assert_int_equal(high_chunks(buf, sizeof(buf)), 0);
	for (size_t i = 0; i < sizeof(buf) / 4; i++)
		((uint32_t *)buf)[i] = (uint32_t)i * 977; /* a column of numbers */
	assert_true(high_chunks(buf, sizeof(buf)) < chunks / 50);
}

/* --- read-only --- */

static void a_read_only_image_refuses_every_change(void **state)
{
	static const char *const settings[] = {"read_only=on", NULL};
	static const enum request_op changes[] = {REQUEST_DISCARD, REQUEST_ZERO, REQUEST_RESIZE};
	struct stage_link l = {0};
	uint8_t buf[4096];

	sim_open(&l, &stage_protect, SIZE, settings);
	assert_int_equal(sim_write(&l, 0, ones, 4096), -EROFS);
	for (unsigned i = 0; i < ARRAY_SIZE(changes); i++)
		assert_int_equal(sim_op(&l, changes[i], 0, SIZE), -EROFS);
	assert_int_equal(sim_read(&l, 0, buf, 4096), 4096);
	assert_int_equal(sim_op(&l, REQUEST_FLUSH, 0, 0), 0);
	assert_int_equal(sim_number(&l, "refused_read_only"), 4);
	sim_close(&l);
}

static void read_only_ranges_refuse_what_touches_them(void **state)
{
	static const char *const settings[] = {"ranges=4K+4K,3M+64K", NULL};
	struct stage_link l = {0};

	sim_open(&l, &stage_protect, SIZE, settings);
	assert_int_equal(sim_write(&l, 0, ones, 4096), 0);
	assert_int_equal(sim_write(&l, 0, ones, 4097), -EPERM);
	assert_int_equal(sim_write(&l, 8191, ones, 1), -EPERM);
	assert_int_equal(sim_write(&l, 8192, ones, 1), 0);
	assert_int_equal(sim_op(&l, REQUEST_DISCARD, 0, MIB), -EPERM);
	assert_int_equal(sim_op(&l, REQUEST_ZERO, 5000, 10), -EPERM);
	assert_int_equal(sim_op(&l, REQUEST_RESIZE, 0, 3 * MIB + 10), -EPERM);
	assert_int_equal(sim_op(&l, REQUEST_RESIZE, 0, 3 * MIB + 64 * KIB), 0);
	assert_int_equal(sim_op(&l, REQUEST_RESIZE, 0, 2 * SIZE), 0);
	assert_int_equal(sim_number(&l, "refused_range"), 5);
	sim_close(&l);
}

/* --- write-once --- */

static const char *const worm[] = {"worm_until=2030-01-01", NULL};

static void what_is_written_stays_until_the_date(void **state)
{
	struct stage_link l = {0};
	uint8_t buf[4096];

	sim_wall_ns = 1800000000ull * NS_PER_SEC; /* 2027 */
	sim_open(&l, &stage_protect, SIZE, worm);
	assert_int_equal(sim_write(&l, 0, ones, 4096), 0);
	assert_int_equal(sim_write(&l, 8192, ones, 100), 0);
	assert_int_equal(sim_write(&l, 4096, ones, 4096), 0);
	memset(buf, 2, sizeof(buf));
	assert_int_equal(sim_write(&l, 0, buf, 4096), -EPERM);
	assert_int_equal(sim_write(&l, 4095, buf, 1), -EPERM);
	assert_int_equal(sim_write(&l, 8292, buf, 1), -EPERM); /* the same chunk */
	assert_int_equal(sim_write(&l, MIB, buf, 4096), 0);
	assert_int_equal(sim_op(&l, REQUEST_DISCARD, 0, MIB), -EPERM);
	assert_int_equal(sim_op(&l, REQUEST_ZERO, 0, 4096), -EPERM);
	assert_int_equal(sim_op(&l, REQUEST_DISCARD, 2 * MIB, MIB), 0); /* a hole */
	assert_int_equal(sim_op(&l, REQUEST_RESIZE, 0, MIB), -EPERM);
	assert_int_equal(sim_op(&l, REQUEST_RESIZE, 0, 2 * MIB), 0);
	assert_int_equal(sim_read(&l, 0, buf, 4096), 4096);
	for (unsigned i = 0; i < 4096; i++)
		assert_int_equal(buf[i], 1);
	struct request alloc = {.op = REQUEST_ZERO, .len = MIB, .flags = REQUEST_ALLOCATE};
	assert_int_equal(l.type->pre(l.stage, &alloc, (uint64_t[32]){0}), STAGE_PASS);

	sim_wall_ns = 1900000000ull * NS_PER_SEC; /* 2030, in March */
	assert_int_equal(sim_write(&l, 0, buf, 4096), 0);
	sim_close(&l);
}

static void a_file_under_write_once_can_be_appended_to(void **state)
{
	struct stage_link l = {0};

	sim_wall_ns = 1800000000ull * NS_PER_SEC;
	sim_open(&l, &stage_protect, SIZE, worm);
	l.own_at_once = true;
	assert_int_equal(sim_op(&l, REQUEST_RESIZE, 0, 0), 0);
	for (unsigned i = 0; i < 50; i++)
		assert_int_equal(sim_write(&l, i * 1000ull, ones, 1000), 0);
	assert_int_equal(sim_write(&l, 49999, ones, 1), -EPERM);
	sim_close(&l);
}

static void write_again(struct stage_link *l, struct request *req)
{
	if (req->op != REQUEST_WRITE || req->off != 0)
		return;
	l->before = NULL;
	assert_int_equal(sim_write(l, 2048, ones, 4096), -EPERM); /* overlaps */
	assert_int_equal(sim_write(l, 8192, ones, 4096), 0);
}

static void of_two_writes_at_once_one_is_refused(void **state)
{
	struct stage_link l = {0};

	sim_wall_ns = 1800000000ull * NS_PER_SEC;
	sim_open(&l, &stage_protect, SIZE, worm);
	l.before = write_again;
	assert_int_equal(sim_write(&l, 0, ones, 4096), 0);
	assert_null(l.before);
	/* A refused or failed one leaves nothing behind. */
	l.fail = -EIO;
	assert_int_equal(sim_write(&l, MIB, ones, 4096), -EIO);
	l.fail = 0;
	assert_int_equal(sim_write(&l, MIB, ones, 4096), 0);
	sim_allocs = 0;
	assert_int_equal(sim_write(&l, 2 * MIB, ones, 4096), -ENOMEM);
	sim_allocs = -1;
	assert_int_equal(sim_write(&l, 2 * MIB, ones, 4096), 0);
	sim_close(&l);
}

static void write_once_cannot_be_cut_short(void **state)
{
	static const char *const sooner[] = {"worm_until=2029-01-01", NULL};
	static const char *const off[] = {NULL};
	static const char *const later[] = {"worm_until=2031-01-01", NULL};
	struct stage_link l = {0};
	struct errmsg em = {0};

	sim_wall_ns = 1800000000ull * NS_PER_SEC;
	sim_open(&l, &stage_protect, SIZE, worm);
	assert_int_equal(sim_set(&l, sooner, &em), -EPERM);
	assert_non_null(strstr(em.text, "later"));
	assert_int_equal(sim_set(&l, off, &em), -EPERM);
	assert_int_equal(sim_set(&l, later, &em), 0);
	assert_int_equal(sim_event(&l, STAGE_EVENT_DELETE, 0), -EPERM);
	assert_int_equal(sim_event(&l, STAGE_EVENT_ROLLBACK, 0), -EPERM);
	assert_int_equal(sim_event(&l, STAGE_EVENT_SNAPSHOT, 0), 0);
	sim_wall_ns = 2000000000ull * NS_PER_SEC;
	assert_int_equal(sim_set(&l, off, &em), 0);
	sim_close(&l);
}

struct once {
	struct stage_link l;
	_Atomic unsigned written[64];
};

static void *once_writer(void *arg)
{
	struct once *o = arg;

	for (unsigned i = 0; i < 64; i++) {
		const int r = sim_write(&o->l, i * 4096ull, ones, 4096);
		assert_true(r == 0 || r == -EPERM);
		o->written[i] += r == 0;
	}
	return NULL;
}

static void threads_write_each_chunk_once(void **state)
{
	static struct once o;
	pthread_t threads[4];

	sim_wall_ns = 1800000000ull * NS_PER_SEC;
	sim_open(&o.l, &stage_protect, SIZE, worm);
	for (unsigned i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, once_writer, &o);
	for (unsigned i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	for (unsigned i = 0; i < 64; i++)
		assert_true(o.written[i] <= 1);
	assert_int_equal(o.written[0] + o.written[63] > 0, 1);
	sim_close(&o.l);
}

/* --- the guard --- */

#define DISK (64 * MIB)

enum content { TEXT, RANDOM, CODE, PACKED, ZEROS };

/* LZ4 of text: what the guard takes for ordinary data. */
static void make_packed(uint8_t *buf, size_t len)
{
	static char text[4 * MIB];

	make_text(text, sizeof(text), 99);
	const int n = LZ4_compress_default(text, (char *)buf, sizeof(text), (int)len);
	assert_true(n > 0);
	for (size_t at = (size_t)n; at < len; at++)
		buf[at] = buf[at - (size_t)n];
}

static void make(uint8_t *buf, enum content what, uint64_t seed)
{
	switch (what) {
	case TEXT:
		make_text(buf, MIB, seed);
		break;
	case RANDOM:
		make_random(buf, MIB);
		break;
	case CODE:
		make_code(buf, MIB);
		break;
	case PACKED:
		make_packed(buf, MIB);
		break;
	case ZEROS:
		memset(buf, 0, MIB);
		break;
	}
}

/* 16 MiB of data in a disk of 64 MiB. */
static void guard_open(struct stage_link *l, enum content old, const char *action)
{
	const char *const settings[] = {
	        "guard=on", "share=25", "least=2M", "window=60s", action, NULL};
	static uint8_t buf[MIB];

	sim_open(l, &stage_protect, DISK, settings);
	for (uint64_t off = 0; off < 16 * MIB; off += MIB) {
		make(buf, old, off);
		sim_poke(l, off, buf, MIB);
	}
}

/* Overwrites [off, end) in pieces; MiB written before one was refused. */
static unsigned overwrite(struct stage_link *l, uint64_t off, uint64_t end, enum content new)
{
	static uint8_t buf[MIB];
	unsigned n = 0;

	for (; off < end; off += MIB, n++) {
		make(buf, new, off + 77);
		if (sim_write(l, off, buf, MIB) != 0)
			break;
		sim_now_ns += NS_PER_SEC / 10;
	}
	return n;
}

static void encrypting_an_image_raises_an_alert(void **state)
{
	struct stage_link l = {0};

	guard_open(&l, TEXT, "action=alert");
	assert_int_equal(overwrite(&l, 0, 16 * MIB, RANDOM), 16);
	assert_int_equal(l.said[STAGE_SEVERITY_ALERT], 1); /* once a window */
	assert_non_null(strstr(l.last_said, "16 MiB of data"));
	assert_false(l.quarantined);
	assert_int_equal(sim_number(&l, "alarms"), 1);
	assert_int_equal(sim_number(&l, "data_bytes"), 16 * MIB);
	sim_close(&l);
}

static void encrypting_an_image_is_stopped(void **state)
{
	struct stage_link l = {0};

	guard_open(&l, CODE, "action=block");
	l.own_at_once = true;
	const unsigned n = overwrite(&l, 0, 16 * MIB, RANDOM);
	assert_in_range(n, 2, 8); /* a quarter is 4; sampled */
	assert_true(l.quarantined);
	assert_int_equal(l.snapshots, 1);
	assert_int_equal(l.said[STAGE_SEVERITY_ALERT], 1);
	assert_int_equal(sim_number(&l, "refused_guard"), 1);
	sim_close(&l);
}

static void at_an_alarm_changes_wait_for_the_snapshot(void **state)
{
	static uint8_t noise[MIB];
	struct stage_link l = {0};
	struct sim_request writes[16] = {0}, other = {.req = {.op = REQUEST_DISCARD, .len = 4096}};
	unsigned n = 0;

	guard_open(&l, TEXT, "action=alert");
	make(noise, RANDOM, 0);
	while (l.snapshots == 0) {
		assert_in_range(n, 0, 15);
		writes[n].req = (struct request){
		        .op = REQUEST_WRITE, .off = n * MIB, .len = MIB, .data = noise};
		sim_start(&l, &writes[n++]);
		sim_drain(&l);
	}
	assert_false(writes[n - 1].done); /* the one that tripped it */
	assert_true(writes[n - 2].done);
	sim_start(&l, &other);
	sim_drain(&l);
	assert_false(other.done);
	assert_int_equal(sim_event(&l, STAGE_EVENT_QUIESCE, 0), 0);
	sim_drain(&l);
	assert_true(writes[n - 1].done && other.done);
	assert_int_equal(sim_event(&l, STAGE_EVENT_THAW, 0), 0);
	assert_int_equal(sim_write(&l, 0, noise, MIB), 0);
	assert_int_equal(l.snapshots, 1);
	sim_close(&l);
}

/* The clock that sim_call() moves when nothing else goes on. */
static void held_changes_go_on_without_a_snapshot_too(void **state)
{
	struct stage_link l = {0};
	uint64_t start_ns;

	guard_open(&l, TEXT, "action=alert");
	start_ns = sim_now_ns;
	assert_int_equal(overwrite(&l, 0, 16 * MIB, RANDOM), 16);
	assert_int_equal(l.snapshots, 1);
	assert_in_range(sim_now_ns - start_ns, 5 * NS_PER_SEC, 9 * NS_PER_SEC); /* held once */
	sim_close(&l);

	guard_open(&l, TEXT, "action=alert");
	l.no_snapshots = true;
	start_ns = sim_now_ns;
	assert_int_equal(overwrite(&l, 0, 16 * MIB, RANDOM), 16);
	assert_int_equal(l.snapshots, 0);
	assert_in_range(sim_now_ns - start_ns, 0, 4 * NS_PER_SEC);
	sim_close(&l);
}

static void an_incident_has_one_snapshot(void **state)
{
	static const char *const settings[] = {
	        "guard=on", "share=10", "least=1M", "window=20s", NULL};
	static const char *const without[] = {
	        "guard=on", "share=10", "least=1M", "window=20s", "snapshot=off", NULL};
	struct errmsg em = {0};
	struct stage_link l = {0};
	static uint8_t buf[MIB];

	guard_open(&l, TEXT, "action=alert");
	assert_int_equal(sim_set(&l, settings, &em), 0);
	for (unsigned i = 0; i < 60; i++) { /* a minute of it: text again, as the guest works on */
		const uint64_t off = (i % 16) * MIB;
		assert_int_equal(overwrite(&l, off, off + MIB, RANDOM), 1);
		make(buf, TEXT, i);
		sim_poke(&l, off, buf, MIB);
		sim_now_ns += NS_PER_SEC;
	}
	assert_in_range(l.said[STAGE_SEVERITY_ALERT], 2, 6);
	assert_int_equal(l.snapshots, 1);
	sim_now_ns += 60 * NS_PER_SEC;
	assert_int_equal(overwrite(&l, 0, 8 * MIB, RANDOM), 8);
	assert_int_equal(l.snapshots, 2);
	sim_now_ns += 60 * NS_PER_SEC;
	assert_int_equal(sim_set(&l, without, &em), 0);
	assert_int_equal(overwrite(&l, 8 * MIB, 16 * MIB, RANDOM), 8);
	assert_int_equal(l.snapshots, 2);
	sim_close(&l);
}

static void no_alarm(enum content old, enum content new, uint64_t off, uint64_t end)
{
	struct stage_link l = {0};

	guard_open(&l, old, "action=block");
	assert_int_equal(overwrite(&l, off, end, new), (end - off) / MIB);
	assert_int_equal(l.said[STAGE_SEVERITY_ALERT], 0);
	assert_false(l.quarantined);
	sim_close(&l);
}

static void ordinary_work_raises_no_alarm(void **state)
{
	no_alarm(TEXT, TEXT, 0, 16 * MIB);
	no_alarm(TEXT, CODE, 0, 16 * MIB);
	no_alarm(TEXT, ZEROS, 0, 16 * MIB);
	no_alarm(CODE, TEXT, 0, 16 * MIB);
	no_alarm(RANDOM, TEXT, 0, 16 * MIB);
	no_alarm(RANDOM, RANDOM, 0, 16 * MIB); /* a disk that the guest encrypts */
	no_alarm(ZEROS, RANDOM, 0, 16 * MIB);
	no_alarm(TEXT, RANDOM, 16 * MIB, 48 * MIB); /* archives to free space */
	no_alarm(TEXT, RANDOM, 0, 2 * MIB);         /* an eighth only */
}

static void the_same_place_again_and_again_is_no_alarm(void **state)
{
	struct stage_link l = {0};

	guard_open(&l, TEXT, "action=block");
	for (unsigned i = 0; i < 20; i++) {
		assert_int_equal(overwrite(&l, 0, MIB, RANDOM), 1);
		assert_int_equal(overwrite(&l, 0, MIB, TEXT), 1);
	}
	assert_int_equal(l.said[STAGE_SEVERITY_ALERT], 0);
	sim_close(&l);
}

static void slow_conversion_is_no_alarm(void **state)
{
	struct stage_link l = {0};

	guard_open(&l, TEXT, "action=block");
	for (uint64_t off = 0; off < 16 * MIB; off += MIB) {
		assert_int_equal(overwrite(&l, off, off + MIB, RANDOM), 1);
		sim_now_ns += 30 * NS_PER_SEC;
	}
	assert_int_equal(l.said[STAGE_SEVERITY_ALERT], 0);
	sim_close(&l);
}

static void without_memory_the_guard_lets_pass(void **state)
{
	struct stage_link l = {0};
	static uint8_t buf[MIB];
	struct errmsg em = {0};

	guard_open(&l, TEXT, "action=block");
	make_random(buf, MIB);
	sim_allocs = 0;
	assert_int_equal(sim_write(&l, 0, buf, MIB), 0);
	assert_int_equal(
	        sim_try(&(struct stage_link){0}, &stage_protect, SIZE, NULL, &em), -ENOMEM);
	sim_allocs = -1;
	sim_close(&l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(ranges_are_read_and_nonsense_is_refused),
	        cmocka_unit_test(random_looks_random_and_ordinary_data_does_not),
	        cmocka_unit_test(a_read_only_image_refuses_every_change),
	        cmocka_unit_test(read_only_ranges_refuse_what_touches_them),
	        cmocka_unit_test(what_is_written_stays_until_the_date),
	        cmocka_unit_test(a_file_under_write_once_can_be_appended_to),
	        cmocka_unit_test(of_two_writes_at_once_one_is_refused),
	        cmocka_unit_test(write_once_cannot_be_cut_short),
	        cmocka_unit_test(threads_write_each_chunk_once),
	        cmocka_unit_test(encrypting_an_image_raises_an_alert),
	        cmocka_unit_test(encrypting_an_image_is_stopped),
	        cmocka_unit_test(at_an_alarm_changes_wait_for_the_snapshot),
	        cmocka_unit_test(held_changes_go_on_without_a_snapshot_too),
	        cmocka_unit_test(an_incident_has_one_snapshot),
	        cmocka_unit_test(ordinary_work_raises_no_alarm),
	        cmocka_unit_test(the_same_place_again_and_again_is_no_alarm),
	        cmocka_unit_test(slow_conversion_is_no_alarm),
	        cmocka_unit_test(without_memory_the_guard_lets_pass),
	};

	memset(ones, 1, sizeof(ones));
	return cmocka_run_group_tests(tests, NULL, NULL);
}

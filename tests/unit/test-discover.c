/*
 * test-discover.c - the worker that looks into images: by asking, against hostile images, and the
 * stage that has it look in the background
 *
 * probe_run() starts its own program as the worker; so main() is that, too.  Images are made with
 * the system's tools; without them the tests that need one are skipped.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "stage/builtin/probe.h"
#include "stage/stack.h"
#include "tools/discover-worker.h"

#define ROUNDS 1000u

static char dir[] = "/tmp/weir-discover.XXXXXX";
static uint64_t rng_state = 0x123456789abcdefull;

static uint64_t rng(void)
{
	rng_state ^= rng_state << 13;
	rng_state ^= rng_state >> 7;
	rng_state ^= rng_state << 17;
	return rng_state;
}

/* --- images --- */

static const char make_images[] =
        "set -e; PATH=$PATH:/usr/sbin:/sbin; cd \"$1\"\n"
        "mkdir -p root/etc root/var/lib/dpkg\n"
        "printf 'NAME=Frob\\nID=frob\\n' >root/etc/os-release\n"
        "printf 'Package: bash\\nStatus: install ok installed\\nVersion: 5\\n\\n' "
        ">root/var/lib/dpkg/status\n"
        "truncate -s 8M ext4.part; mkfs.ext4 -q -F -d root -L frob ext4.part\n"
        "truncate -s 8M swap.part; mkswap -q -L frobswap swap.part\n"
        "truncate -s 64M gpt.img\n"
        "printf 'label: gpt\\nstart=2048, size=16384, type=L\\n"
        "start=108544, size=16384, type=S\\n' | sfdisk -q gpt.img\n"
        "dd if=ext4.part of=gpt.img bs=1M seek=1 conv=notrunc status=none\n"
        "dd if=swap.part of=gpt.img bs=1M seek=53 conv=notrunc status=none\n"
        "truncate -s 64M mbr.img\n"
        "printf 'label: dos\\nstart=2048, size=100000, type=5\\nstart=4096, size=16384, type=83\\n"
        "start=69632, size=16384, type=82\\n' | sfdisk -q mbr.img\n"
        "dd if=ext4.part of=mbr.img bs=1M seek=2 conv=notrunc status=none\n"
        "dd if=swap.part of=mbr.img bs=1M seek=34 conv=notrunc status=none\n";

static bool images_made;

static int make(void **state)
{
	char command[256];

	if (!mkdtemp(dir))
		return -1;
	char script[300];
	snprintf(script, sizeof(script), "%s/make", dir);
	FILE *f = fopen(script, "w");
	if (!f || fputs(make_images, f) < 0 || fclose(f) != 0)
		return -1;
	snprintf(command, sizeof(command), "sh %s/make %s >%s/log 2>&1", dir, dir, dir);
	images_made = system(command) == 0;
	return 0;
}

static int unmake(void **state)
{
	char command[64];

	snprintf(command, sizeof(command), "rm -rf %s", dir);
	return system(command) == 0 ? 0 : -1;
}

struct image {
	uint8_t *data;
	size_t len;
};

static struct image image_load(const char *name)
{
	struct image image = {0};
	struct stat st;
	char path[300];

	if (!images_made)
		skip();
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	const int fd = open(path, O_RDONLY);
	assert_true(fd >= 0 && fstat(fd, &st) == 0);
	image.len = (size_t)st.st_size;
	image.data = malloc(image.len);
	assert_non_null(image.data);
	assert_int_equal(read(fd, image.data, image.len), st.st_size);
	close(fd);
	return image;
}

static int image_read(void *arg, uint64_t off, void *buf, size_t len)
{
	const struct image *image = arg;

	assert_true(off <= image->len && len <= image->len - off);
	memcpy(buf, image->data + off, len);
	return 0;
}

static json_t *probe_asked(struct image *image)
{
	const struct probe_source source = {
	        .size_bytes = image->len, .read = image_read, .arg = image};
	struct errmsg em = {0};
	char *text = NULL;

	const int r = probe_run(&source, &text, &em);
	if (r < 0)
		fail_msg("%d: %s", r, em.text);
	json_t *json = json_loads(text, 0, NULL);
	assert_non_null(json);
	free(text);
	return json;
}

/* The parts of it that are known. */
static void check_parts(struct image *image, unsigned n, const char *const *types)
{
	json_t *found = probe_asked(image);
	const json_t *parts = json_object_get(found, "partitions");

	assert_int_equal(json_array_size(parts), n);
	for (unsigned i = 0; i < n; i++) {
		const json_t *content = json_object_get(json_array_get(parts, i), "content");
		const char *type = json_string_value(json_object_get(content, "type"));
		if (types[i])
			assert_string_equal(type, types[i]);
		else
			assert_null(type);
	}
	const json_t *system = json_array_get(json_object_get(found, "systems"), 0);
	assert_string_equal(json_string_value(json_object_get(system, "id")), "frob");
	assert_int_equal(
	        json_integer_value(json_object_get(json_object_get(system, "packages"), "count")),
	        1);
	json_decref(found);
	free(image->data);
}

static void test_partitions_and_systems_are_found(void **state)
{
	struct image gpt = image_load("gpt.img"), mbr = image_load("mbr.img");
	static const char *const in_gpt[] = {"ext4", "swap"};
	static const char *const in_mbr[] = {NULL, "ext4", "swap"};

	check_parts(&gpt, 2, in_gpt);
	check_parts(&mbr, 3, in_mbr); /* the first is the extended one */
}

/* --- a parent that is let down --- */

static int read_fails(void *arg, uint64_t off, void *buf, size_t len)
{
	return -EIO;
}

static bool now(void *arg)
{
	return true;
}

static void test_errors_of_the_image_are_survived(void **state)
{
	const struct probe_source source = {.size_bytes = 1 << 20, .read = read_fails};
	struct errmsg em = {0};
	char *text = NULL;

	assert_int_equal(probe_run(&source, &text, &em), 0);
	assert_non_null(strstr(text, "size_bytes"));
	free(text);
}

static void test_cancelling_ends_it_at_once(void **state)
{
	const struct probe_source source = {
	        .size_bytes = 1 << 20, .read = read_fails, .cancelled = now};
	struct errmsg em = {0};
	char *text = NULL;

	assert_int_equal(probe_run(&source, &text, &em), -ECANCELED);
	assert_non_null(strstr(em.text, "given up"));
	assert_null(text);
}

/* --- hostile images --- */

/* Where superblocks, tables, descriptors, inodes and directories are: within 2 MiB of these. */
static size_t place_to_damage(const struct image *image, size_t fs)
{
	switch (rng() % 4) {
	case 0:
		return rng() % MIN(2048, image->len); /* the table */
	case 1:
		return fs + 1024 + rng() % 264; /* the superblock */
	case 2:
		return fs + rng() % 65536;
	default:
		return fs + rng() % (1 << 20);
	}
}

static void damage(struct image *image, size_t fs)
{
	static const uint8_t nasty[] = {0, 1, 0x7f, 0x80, 0xff, 0xfe};
	const unsigned n = 1 + rng() % 12;

	for (unsigned i = 0; i < n; i++) {
		const size_t at = place_to_damage(image, fs), len = 1 + rng() % 4;
		const uint8_t byte = rng() % 2 ? nasty[rng() % sizeof(nasty)] : (uint8_t)rng();
		if (at + len <= image->len)
			memset(image->data + at, byte, len);
	}
}

struct outcome {
	unsigned good, died, late;
};

static void probe_hostile(struct image *image, struct outcome *o)
{
	const struct probe_source source = {
	        .size_bytes = image->len, .read = image_read, .arg = image};
	struct errmsg em = {0};
	char *text = NULL;
	const int r = probe_run(&source, &text, &em);

	if (r == 0) {
		json_t *json = json_loads(text, 0, NULL);
		assert_true(json_is_object(json));
		json_decref(json);
		o->good++;
	} else if (r == -EPROTO) {
		o->died++;
	} else {
		assert_int_equal(r, -ETIMEDOUT);
		o->late++;
	}
	free(text);
}

static void hostile_rounds(const char *name, size_t fs, unsigned rounds)
{
	struct image image = image_load(name);
	struct image copy = {malloc(image.len), image.len};
	struct outcome o = {0};

	assert_non_null(copy.data);
	for (unsigned i = 0; i < rounds; i++) {
		memcpy(copy.data, image.data, image.len);
		damage(&copy, fs);
		probe_hostile(&copy, &o);
	}
	print_message("%s: %u answers, %u workers died, %u took too long\n", name, o.good, o.died,
	        o.late);
	/* A worker that dies is contained; but most damage must be seen and told. */
	assert_true(o.good >= rounds * 95 / 100);
	free(copy.data);
	free(image.data);
}

static void test_damaged_images_are_survived(void **state)
{
	hostile_rounds("ext4.part", 0, ROUNDS * 7 / 10);
	hostile_rounds("gpt.img", 1 << 20, ROUNDS / 5);
	hostile_rounds("mbr.img", 2 << 20, ROUNDS / 10);
}

/* --- the stage, on a host of its own --- */

extern const struct stage_type stage_discover;

struct stage_link {
	struct image image;
	uint64_t now_ns, timer_ns;
	uint8_t *state;
	size_t state_len;
	struct iovec iov; /* of the last read */
	unsigned reads;
	bool cancelled;
	void (*work)(void *stage);
};
static struct stage_link bed;

static uint64_t bed_now(void)
{
	return bed.now_ns;
}

static int bed_call_below(struct stage_link *self, struct request *req)
{
	assert_int_equal(req->op, REQUEST_READ);
	assert_true(req->flags & REQUEST_COUNTLESS);
	self->reads++;
	self->iov = (struct iovec){self->image.data + req->off, req->len};
	req->out = (struct readv){.iov = &self->iov, .n_iov = 1, .len = req->len};
	return 0;
}

static void bed_timer(struct stage_link *self, uint64_t at_ns)
{
	self->timer_ns = at_ns;
}

static bool bed_work(struct stage_link *self, void (*fn)(void *stage))
{
	self->work = fn;
	return true;
}

static bool bed_cancelled(struct stage_link *self)
{
	return self->cancelled;
}

static int bed_state_get(
        struct stage_link *self, const char *name, void *buf, size_t cap, size_t *ret_len)
{
	if (!self->state)
		return -ENOENT;
	*ret_len = self->state_len;
	if (buf)
		memcpy(buf, self->state, MIN(cap, self->state_len));
	return 0;
}

static int bed_state_put(struct stage_link *self, const char *name, const void *data, size_t len)
{
	assert_true(len <= STAGE_STATE_MAX);
	free(self->state);
	self->state = malloc(len);
	assert_non_null(self->state);
	memcpy(self->state, data, len);
	self->state_len = len;
	return 0;
}

static void bed_image(struct stage_link *self, struct stage_image *ret_image)
{
	*ret_image = (struct stage_image){.id = 5, .size = self->image.len};
}

static void bed_say(struct stage_link *self, enum stage_severity severity, const char *fmt, ...)
{
}

static const struct stage_host host = {
        .abi = STAGE_ABI,
        .size = sizeof(struct stage_host),
        .now_ns = bed_now,
        .wall_ns = bed_now,
        .call_below = bed_call_below,
        .timer_set = bed_timer,
        .work = bed_work,
        .cancelled = bed_cancelled,
        .state_get = bed_state_get,
        .state_put = bed_state_put,
        .image = bed_image,
        .say = bed_say,
        .alloc = malloc,
        .free = free,
};

/* Lets time pass until the timer, and does the work that it starts; false: no timer was set. */
static bool bed_run(void *stage)
{
	if (!bed.timer_ns)
		return false;
	bed.now_ns = MAX(bed.now_ns, bed.timer_ns);
	bed.timer_ns = 0;
	bed.work = NULL;
	stage_discover.timer(stage);
	assert_non_null(bed.work);
	bed.work(stage);
	return true;
}

static void write_at(void *stage, uint64_t off, uint64_t len, unsigned flags)
{
	struct request req = {.op = REQUEST_WRITE, .off = off, .len = len, .flags = flags};

	assert_int_equal(stage_discover.pre(stage, &req, NULL), STAGE_PASS);
}

static json_t *findings(void *stage)
{
	char *text = NULL;
	struct errmsg em = {0};

	assert_int_equal(stage_discover.action(stage, "findings", NULL, 0, &text, &em), 0);
	json_t *json = json_loads(text, 0, NULL);
	assert_non_null(json);
	free(text);
	return json;
}

static const uint64_t sec = 1000000000ull;

static void test_stage_looks_when_opened_and_after_changes(void **state)
{
	struct settings settings;
	struct errmsg em = {0};
	void *stage = NULL;

	bed = (struct stage_link){.image = image_load("gpt.img"), .now_ns = 1000 * sec};
	assert_int_equal(settings_parse(stage_discover.settings, NULL, 0, &settings, &em), 0);
	assert_int_equal(stage_discover.create(&host, &bed, &settings, &stage, &em), 0);
	assert_true(bed_run(stage));
	assert_true(bed.reads > 0);
	json_t *json = findings(stage);
	const json_t *found = json_object_get(json, "findings");
	assert_string_equal(json_string_value(json_object_get(json, "state")), "done");
	assert_int_equal(json_array_size(json_object_get(found, "partitions")), 2);
	json_decref(json);

	/* Data in the middle of nowhere: no reason to look; the swap's header at 53 MiB is one. */
	write_at(stage, 30 << 20, 65536, 0);
	write_at(stage, 53 << 20, 4096, REQUEST_COUNTLESS);
	assert_int_equal(bed.timer_ns, 0);
	bed.now_ns += 10 * sec;
	write_at(stage, 53 << 20, 4096, 0);
	assert_int_equal(bed.timer_ns, (1030 + 600) * sec); /* not before the interval is over */
	memset(bed.image.data + (53 << 20), 0, 1 << 20);
	assert_true(bed_run(stage));
	json = findings(stage);
	found = json_array_get(json_object_get(json_object_get(json, "findings"), "partitions"), 1);
	assert_null(json_object_get(found, "content"));
	json_decref(json);

	/* Much data anywhere is a reason, too. */
	for (unsigned i = 0; i < 511; i++)
		write_at(stage, 30 << 20, 1 << 20, 0);
	assert_int_equal(bed.timer_ns, 0);
	write_at(stage, 30 << 20, 1 << 20, 0);
	assert_true(bed.timer_ns > 0);
	stage_discover.destroy(stage);

	/* Opened again, it knows what it found and does not look. */
	bed.timer_ns = 0;
	assert_int_equal(stage_discover.create(&host, &bed, &settings, &stage, &em), 0);
	assert_int_equal(bed.timer_ns, 0);
	json = findings(stage);
	assert_int_equal(
	        json_array_size(json_object_get(json_object_get(json, "findings"), "partitions")),
	        2);
	json_decref(json);
	stage_discover.destroy(stage);
	settings_release(&settings);
	free(bed.image.data);
	free(bed.state);
}

static void test_stage_gives_up_when_cancelled(void **state)
{
	struct settings settings;
	struct errmsg em = {0};
	void *stage = NULL;

	bed = (struct stage_link){.image = image_load("ext4.part"), .now_ns = sec};
	assert_int_equal(settings_parse(stage_discover.settings, NULL, 0, &settings, &em), 0);
	assert_int_equal(stage_discover.create(&host, &bed, &settings, &stage, &em), 0);
	bed.cancelled = true;
	assert_true(bed_run(stage));
	json_t *json = findings(stage);
	assert_true(json_is_null(json_object_get(json, "findings")));
	assert_null(bed.state);
	json_decref(json);
	stage_discover.destroy(stage);
	settings_release(&settings);
	free(bed.image.data);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_partitions_and_systems_are_found),
	        cmocka_unit_test(test_errors_of_the_image_are_survived),
	        cmocka_unit_test(test_cancelling_ends_it_at_once),
	        cmocka_unit_test(test_damaged_images_are_survived),
	        cmocka_unit_test(test_stage_looks_when_opened_and_after_changes),
	        cmocka_unit_test(test_stage_gives_up_when_cancelled),
	};
	if (argc > 1 && !strcmp(argv[1], PROBE_WORKER)) {
		/* Leak checks need what the sandbox forbids. */
		_exit(discover_worker_main(argc - 1, argv + 1));
	}
	return cmocka_run_group_tests(tests, make, unmake);
}

/*
 * test-stage-cache.c - the filter "cache": hits, never anything stale, bounds, write modes
 */
#include "stage-sim.h"

#include <errno.h>
#include <string.h>

#include "stage/builtin/builtin.h"

#define KIB  1024ull
#define MIB  (1024 * KIB)
#define SIZE (4 * MIB)

static const char *const plain[] = {"prefetch=0", NULL};

static void open_plain(struct stage_link *l)
{
	static uint8_t noise[SIZE];

	*l = (struct stage_link){0};
	sim_open(l, &stage_cache, SIZE, plain);
	sim_noise(noise, SIZE, 1);
	sim_poke(l, 0, noise, SIZE);
}

/* Warm until it answers by itself: the share grows on a host's thread. */
static void warm(struct stage_link *l, uint64_t off, uint64_t len)
{
	uint8_t *buf = malloc(len);

	for (unsigned i = 0; i < 32; i++)
		assert_int_equal(sim_read(l, off, buf, len), len);
	free(buf);
}

static void expect(struct stage_link *l, uint64_t off, uint64_t len)
{
	uint8_t *got = malloc(len), *want = malloc(len);

	assert_int_equal(sim_read(l, off, got, len), len);
	sim_peek(l, off, want, len);
	assert_memory_equal(got, want, len);
	free(got);
	free(want);
}

static bool is_hit(struct stage_link *l, uint64_t off, uint64_t len)
{
	const uint64_t before = l->below[REQUEST_READ];

	expect(l, off, len);
	return l->below[REQUEST_READ] == before;
}

/* --- hits --- */

static void a_second_read_does_not_go_down(void **state)
{
	struct stage_link l;

	open_plain(&l);
	warm(&l, 0, 64 * KIB);
	assert_true(is_hit(&l, 0, 64 * KIB));
	assert_true(is_hit(&l, 100, 9000));
	assert_true(is_hit(&l, 64 * KIB - 1, 1));
	assert_false(is_hit(&l, 60 * KIB, 8 * KIB));
	assert_int_equal(sim_number(&l, "copied_chunks"), 0);
	assert_int_equal(sim_number(&l, "pinned_chunks"), 17);
	assert_true(sim_number(&l, "hits") > 0);
	sim_close(&l);
}

static void what_it_answers_is_the_memory_of_the_layer_below(void **state)
{
	struct request a = {.op = REQUEST_READ, .off = 4096, .len = 4096}, b = a;
	struct stage_link l;

	open_plain(&l);
	warm(&l, 0, 64 * KIB);
	l.type = &(struct stage_type){0}; /* straight down */
	assert_int_equal(sim_call(&l, &a), 0);
	l.type = &stage_cache;
	assert_int_equal(sim_call(&l, &b), 0);
	assert_ptr_equal(a.out.iov[0].iov_base, b.out.iov[0].iov_base);
	readv_release(&a.out);
	readv_release(&b.out);
	sim_close(&l);
}

static void an_answer_outlives_its_piece_and_the_stage(void **state)
{
	struct request req = {.op = REQUEST_READ, .off = 1000, .len = 9000};
	struct readv_pin pin;
	uint8_t want[9000], got[9000], other[4096] = {1};
	struct stage_link l;

	open_plain(&l);
	warm(&l, 0, 64 * KIB);
	sim_peek(&l, 1000, want, 9000);
	assert_int_equal(sim_call(&l, &req), 0);
	assert_int_equal(req.out.ops->pin(&req.out, 4096 - 1000, 4096, &pin), 0);
	assert_int_equal(req.out.ops->pin(&req.out, 0, 4096, &(struct readv_pin){0}), -EOPNOTSUPP);
	assert_int_equal(sim_write(&l, 4096, other, 4096), 0);
	sim_close(&l);
	readv_copy(&req.out, 0, got, 9000);
	assert_memory_equal(got, want, 9000);
	readv_release(&req.out);
	assert_memory_equal(pin.data, want + 3096, 4096);
	readv_pin_release(&pin);
}

static void zeros_take_no_memory(void **state)
{
	struct stage_link l = {0};

	sim_open(&l, &stage_cache, SIZE, plain);
	warm(&l, 0, MIB);
	assert_true(is_hit(&l, 0, MIB));
	assert_int_equal(sim_number(&l, "zero_chunks"), 256);
	assert_int_equal(sim_number(&l, "pinned_chunks"), 0);
	assert_true(sim_number(&l, "held_bytes") < 256 * KIB);
	sim_close(&l);
}

static void dirty_data_is_held_only_as_copies_if_so_asked(void **state)
{
	static const char *const copies[] = {"prefetch=0", "copies=on", NULL};
	struct errmsg em = {0};
	struct stage_link l;

	open_plain(&l);
	l.dirty = true;
	warm(&l, 0, 64 * KIB);
	assert_false(is_hit(&l, 0, 64 * KIB));
	assert_int_equal(sim_set(&l, copies, &em), 0);
	warm(&l, 0, 64 * KIB);
	assert_true(is_hit(&l, 0, 64 * KIB));
	assert_int_equal(sim_number(&l, "copied_chunks"), 16);
	sim_close(&l);
}

static void errors_from_below_are_passed_on_and_not_kept(void **state)
{
	uint8_t buf[4096];
	struct stage_link l;

	open_plain(&l);
	l.fail = -EIO;
	assert_int_equal(sim_read(&l, 0, buf, 4096), -EIO);
	assert_int_equal(sim_write(&l, 0, buf, 4096), -EIO);
	l.fail = 0;
	expect(&l, 0, 4096);
	sim_close(&l);
}

/* --- never stale --- */

static void every_change_shows_at_once(void **state)
{
	uint8_t data[10000];
	struct stage_link l;

	open_plain(&l);
	sim_noise(data, sizeof(data), 7);
	warm(&l, 0, MIB);
	assert_int_equal(sim_write(&l, 5000, data, sizeof(data)), 0);
	expect(&l, 0, MIB);
	warm(&l, 0, MIB);
	assert_int_equal(sim_op(&l, REQUEST_DISCARD, 100 * KIB, 50 * KIB), 0);
	expect(&l, 0, MIB);
	warm(&l, 0, MIB);
	assert_int_equal(sim_op(&l, REQUEST_ZERO, 300000, 77777), 0);
	expect(&l, 0, MIB);
	warm(&l, 0, MIB);
	assert_int_equal(sim_op(&l, REQUEST_RESIZE, 0, 500000), 0);
	assert_int_equal(sim_op(&l, REQUEST_RESIZE, 0, SIZE), 0);
	expect(&l, 0, MIB);
	sim_close(&l);
}

static void long_changes_drop_only_their_range(void **state)
{
	static const char *const settings[] = {"prefetch=0", "reservation=200M", NULL};
	const uint64_t size = 64 * MIB;
	struct stage_link l = {0};

	sim_open(&l, &stage_cache, size, settings);
	expect(&l, 0, MIB);
	expect(&l, 40 * MIB, MIB);
	expect(&l, 63 * MIB, MIB);
	assert_int_equal(sim_op(&l, REQUEST_DISCARD, MIB, 60 * MIB), 0);
	assert_true(is_hit(&l, 0, MIB));
	assert_false(is_hit(&l, 40 * MIB, MIB));
	assert_true(is_hit(&l, 63 * MIB, MIB));
	sim_close(&l);
}

/* Something that happens below, once, in the middle of a request. */
struct meanwhile {
	enum request_op during;
	bool done;
	void (*fn)(struct stage_link *l);
};

static void meanwhile_hook(struct stage_link *l, struct request *req)
{
	struct meanwhile *m = l->arg;

	if (m->done || req->op != m->during)
		return;
	m->done = true;
	m->fn(l);
}

static void write_sevens(struct stage_link *l)
{
	uint8_t sevens[4096];

	memset(sevens, 7, sizeof(sevens));
	assert_int_equal(sim_write(l, 8192, sevens, sizeof(sevens)), 0);
}

static void read_there(struct stage_link *l)
{
	uint8_t buf[64 * KIB];

	assert_int_equal(sim_read(l, 0, buf, sizeof(buf)), sizeof(buf));
}

static void a_read_that_a_write_overtook_is_not_taken_in(void **state)
{
	struct meanwhile m = {.during = REQUEST_READ, .fn = write_sevens};
	uint8_t buf[64 * KIB];
	struct stage_link l;

	open_plain(&l);
	warm(&l, MIB, 64 * KIB);
	l.arg = &m;
	l.after = meanwhile_hook; /* the read has the old bytes; now they are written */
	assert_int_equal(sim_read(&l, 0, buf, sizeof(buf)), sizeof(buf));
	assert_true(m.done);
	expect(&l, 0, 64 * KIB);
	sim_close(&l);
}

static void a_read_during_a_write_is_not_taken_in(void **state)
{
	struct meanwhile m = {.during = REQUEST_WRITE, .fn = read_there};
	struct stage_link l;

	open_plain(&l);
	warm(&l, 0, 64 * KIB);
	l.arg = &m;
	l.before = meanwhile_hook; /* reads the old bytes while the write is under way */
	write_sevens(&l);
	assert_true(m.done);
	expect(&l, 0, 64 * KIB);
	sim_close(&l);
}

static void read_the_new(struct stage_link *l)
{
	uint8_t buf[64 * KIB];

	assert_int_equal(sim_read(l, 8192, buf, 4096), 4096);
	assert_int_equal(buf[0], 7);
}

static void what_is_being_written_is_not_answered_from_before(void **state)
{
	struct meanwhile m = {.during = REQUEST_WRITE, .fn = read_the_new};
	struct stage_link l;

	open_plain(&l);
	warm(&l, 0, 64 * KIB);
	l.arg = &m;
	l.after = meanwhile_hook; /* written, and the guest does not know yet: others may see it */
	write_sevens(&l);
	assert_true(m.done);
	sim_close(&l);
}

static void a_rollback_drops_everything(void **state)
{
	uint8_t other[4096] = {9};
	struct stage_link l;

	open_plain(&l);
	warm(&l, 0, MIB);
	assert_true(is_hit(&l, 0, MIB));
	sim_poke(&l, 4096, other, sizeof(other));
	assert_int_equal(sim_event(&l, STAGE_EVENT_ROLLBACK, 0), 0);
	expect(&l, 0, MIB);
	sim_close(&l);
}

static void random_requests_match_the_disk(void **state)
{
	static const char *const small[] = {"limit=1M", "prefetch=64K", NULL};
	static uint8_t data[128 * KIB];
	struct stage_link l = {0};
	uint64_t x = 12345;

	sim_open(&l, &stage_cache, SIZE, small);
	for (unsigned i = 0; i < 20000; i++) {
		x = x * 6364136223846793005 + 1442695040888963407;
		const uint64_t off = (x >> 20) % (l.size - 1);
		const uint64_t len = 1 + (x >> 44) % MIN(sizeof(data), l.size - off);
		l.dirty = (x >> 10) % 8 == 0;
		switch ((x >> 60) % 16) {
		case 0 ... 2:
			sim_noise(data, len, i);
			assert_int_equal(sim_write(&l, off, data, len), 0);
			break;
		case 3:
			assert_int_equal(sim_op(&l, REQUEST_DISCARD, off, len), 0);
			break;
		case 4:
			assert_int_equal(sim_op(&l, REQUEST_ZERO, off, len), 0);
			break;
		case 5:
			if (i % 16 == 0)
				assert_int_equal(
				        sim_op(&l, REQUEST_RESIZE, 0, SIZE / 2 + off / 2), 0);
			break;
		default:
			expect(&l, off, len);
		}
	}
	assert_true(sim_number(&l, "hits") > 100);
	assert_true(sim_number(&l, "held_bytes") < MIB + 64 * KIB);
	sim_close(&l);
}

#define STAMPED 8u /* blocks that the threads write and read */

struct race {
	struct stage_link l;
	_Atomic uint64_t acked[STAMPED];
	_Atomic bool stop;
};

static void *race_writer(void *arg)
{
	struct race *r = arg;
	uint64_t block[512] = {0};

	for (uint64_t stamp = 1; stamp < 3000; stamp++) {
		const unsigned k = stamp % STAMPED;
		block[0] = stamp;
		assert_int_equal(sim_write(&r->l, k * 4096ull, block, 4096), 0);
		r->acked[k] = stamp;
	}
	r->stop = true;
	return NULL;
}

static void *race_reader(void *arg)
{
	struct race *r = arg;
	uint64_t block[512], seen[STAMPED] = {0};

	for (unsigned i = 0; !r->stop; i++) {
		const unsigned k = i % STAMPED;
		const uint64_t acked = MAX(r->acked[k], seen[k]);
		assert_int_equal(sim_read(&r->l, k * 4096ull, block, 4096), 4096);
		if (block[0] < acked)
			fail_msg("block %u went back to %lu after %lu", k, block[0], acked);
		seen[k] = block[0];
	}
	return NULL;
}

static void threads_never_read_back_in_time(void **state)
{
	static struct race r;
	pthread_t threads[3];

	sim_open(&r.l, &stage_cache, SIZE, plain);
	warm(&r.l, 0, 64 * KIB);
	pthread_create(&threads[0], NULL, race_writer, &r);
	pthread_create(&threads[1], NULL, race_reader, &r);
	pthread_create(&threads[2], NULL, race_reader, &r);
	for (unsigned i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	sim_close(&r.l);
}

/* --- bounds --- */

static void the_limit_holds_and_a_scan_leaves_what_is_hot(void **state)
{
	static const char *const settings[] = {"prefetch=0", "reservation=1M", "limit=1M", NULL};
	static uint8_t noise[16 * MIB];
	struct stage_link l = {0};

	sim_open(&l, &stage_cache, sizeof(noise), settings);
	sim_noise(noise, sizeof(noise), 3);
	sim_poke(&l, 0, noise, sizeof(noise));
	for (unsigned i = 0; i < 4; i++)
		for (uint64_t off = 0; off < 256 * KIB; off += 4096)
			expect(&l, off, 4096);
	for (uint64_t off = MIB; off < sizeof(noise); off += 64 * KIB)
		expect(&l, off, 64 * KIB);
	unsigned hits = 0;
	for (uint64_t off = 0; off < 256 * KIB; off += 4096)
		hits += is_hit(&l, off, 4096);
	assert_true(hits > 48); /* of 64 */
	assert_true(sim_number(&l, "held_bytes") < MIB + 64 * KIB);
	assert_true(sim_number(&l, "evicted") > 1000);
	sim_close(&l);
}

static void memory_is_asked_for_in_steps_and_given_back(void **state)
{
	static const char *const settings[] = {"reservation=2M", "limit=16M", NULL};
	static const char *const less[] = {"reservation=1M", "limit=2M", NULL};
	static const char *const more[] = {"reservation=64M", "limit=64M", NULL};
	struct stage_link l = {.reserve_max = 5 * MIB};
	struct errmsg em = {0};
	static uint8_t noise[16 * MIB];

	sim_open(&l, &stage_cache, sizeof(noise), settings);
	sim_noise(noise, sizeof(noise), 3);
	sim_poke(&l, 0, noise, sizeof(noise));
	assert_int_equal(l.reserved, 2 * MIB);
	for (uint64_t off = 0; off < sizeof(noise); off += 64 * KIB)
		expect(&l, off, 64 * KIB);
	assert_int_equal(l.reserved, 4 * MIB); /* the next step would be 6 */
	assert_int_equal(sim_set(&l, more, &em), -ENOSPC);
	assert_int_equal(l.reserved, 4 * MIB);
	assert_int_equal(sim_set(&l, less, &em), 0);
	assert_int_equal(l.reserved, 2 * MIB);
	assert_true(sim_number(&l, "held_bytes") < 2 * MIB + 64 * KIB);
	sim_close(&l);
}

static void a_reservation_that_is_not_to_be_had_is_refused(void **state)
{
	static const char *const settings[] = {"reservation=8M", NULL};
	struct stage_link l = {.reserve_max = MIB};
	struct errmsg em = {0};

	assert_int_equal(sim_try(&l, &stage_cache, SIZE, settings, &em), -ENOSPC);
	assert_non_null(strstr(em.text, "memory"));
	assert_int_equal(sim_check(&stage_cache,
	                         (const char *const[]){"reservation=8M", "limit=4M", NULL}, &em),
	        -EINVAL);
}

static void without_memory_it_only_misses(void **state)
{
	struct stage_link l = {0};
	struct errmsg em = {0};

	for (int n = 0; n < 40; n++) {
		sim_allocs = n;
		const int r = sim_try(&l, &stage_cache, SIZE, plain, &em);
		sim_allocs = -1;
		if (r == 0)
			break;
		assert_int_equal(r, -ENOMEM);
	}
	for (int n = 0; n < 200; n++) {
		sim_allocs = n;
		expect(&l, 0, 64 * KIB);
	}
	sim_allocs = -1;
	expect(&l, 0, 64 * KIB);
	sim_close(&l);
}

/* --- write modes --- */

static void change_with(
        struct stage_link *l, enum request_op op, unsigned flags, unsigned *ret_below)
{
	static uint8_t data[4096];
	struct request req = {
	        .op = op, .off = 0, .len = sizeof(data), .data = data, .flags = flags};

	assert_int_equal(sim_call(l, &req), 0);
	assert_int_equal(req.flags, flags); /* the caller finds its own */
	*ret_below = l->flags_below;
}

static void write_modes_decide_what_is_durable(void **state)
{
	static const char *const through[] = {"mode=writethrough", NULL};
	static const char *const unsafe[] = {"mode=unsafe", NULL};
	struct request system = {.op = REQUEST_FLUSH, .flags = REQUEST_COUNTLESS};
	struct errmsg em = {0};
	unsigned below;
	struct stage_link l;

	open_plain(&l);
	change_with(&l, REQUEST_WRITE, 0, &below);
	assert_false(below & REQUEST_FUA);
	change_with(&l, REQUEST_WRITE, REQUEST_FUA, &below);
	assert_true(below & REQUEST_FUA);
	assert_int_equal(sim_op(&l, REQUEST_FLUSH, 0, 0), 0);
	assert_int_equal(l.below[REQUEST_FLUSH], 1);

	assert_int_equal(sim_set(&l, through, &em), 0);
	change_with(&l, REQUEST_WRITE, 0, &below);
	assert_true(below & REQUEST_FUA);
	change_with(&l, REQUEST_DISCARD, 0, &below);
	assert_true(below & REQUEST_FUA);
	change_with(&l, REQUEST_ZERO, 0, &below);
	assert_true(below & REQUEST_FUA);
	assert_int_equal(l.said[STAGE_SEVERITY_WARNING], 0);

	assert_int_equal(sim_set(&l, unsafe, &em), 0);
	assert_int_equal(l.said[STAGE_SEVERITY_WARNING], 1);
	change_with(&l, REQUEST_WRITE, REQUEST_FUA, &below);
	assert_false(below & REQUEST_FUA);
	assert_int_equal(sim_op(&l, REQUEST_FLUSH, 0, 0), 0);
	assert_int_equal(l.below[REQUEST_FLUSH], 1);
	assert_int_equal(sim_number(&l, "flushes_skipped"), 1);
	assert_int_equal(sim_call(&l, &system), 0);
	assert_int_equal(l.below[REQUEST_FLUSH], 2);
	sim_close(&l);
}

/* --- prefetch --- */

static void sequential_readers_are_read_ahead_of(void **state)
{
	static const char *const settings[] = {"prefetch=1M", NULL};
	struct stage_link l = {0};
	uint64_t x = 1;

	sim_open(&l, &stage_cache, 16 * MIB, settings);
	for (unsigned i = 0; i < 200; i++) {
		x = x * 6364136223846793005 + 1442695040888963407;
		expect(&l, (x >> 30) % 4000 * 4096, 4096);
	}
	assert_int_equal(sim_number(&l, "prefetched_bytes"), 0);
	for (uint64_t off = 4 * MIB; off < 8 * MIB; off += 64 * KIB)
		expect(&l, off, 64 * KIB);
	const uint64_t ahead = sim_number(&l, "prefetched_bytes");
	assert_true(ahead >= 4 * MIB && ahead <= 6 * MIB); /* each byte once */
	assert_true(l.prefetch_off + l.prefetch_len >= 8 * MIB);
	sim_close(&l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(a_second_read_does_not_go_down),
	        cmocka_unit_test(what_it_answers_is_the_memory_of_the_layer_below),
	        cmocka_unit_test(an_answer_outlives_its_piece_and_the_stage),
	        cmocka_unit_test(zeros_take_no_memory),
	        cmocka_unit_test(dirty_data_is_held_only_as_copies_if_so_asked),
	        cmocka_unit_test(errors_from_below_are_passed_on_and_not_kept),
	        cmocka_unit_test(every_change_shows_at_once),
	        cmocka_unit_test(long_changes_drop_only_their_range),
	        cmocka_unit_test(a_read_that_a_write_overtook_is_not_taken_in),
	        cmocka_unit_test(a_read_during_a_write_is_not_taken_in),
	        cmocka_unit_test(what_is_being_written_is_not_answered_from_before),
	        cmocka_unit_test(a_rollback_drops_everything),
	        cmocka_unit_test(random_requests_match_the_disk),
	        cmocka_unit_test(threads_never_read_back_in_time),
	        cmocka_unit_test(the_limit_holds_and_a_scan_leaves_what_is_hot),
	        cmocka_unit_test(memory_is_asked_for_in_steps_and_given_back),
	        cmocka_unit_test(a_reservation_that_is_not_to_be_had_is_refused),
	        cmocka_unit_test(without_memory_it_only_misses),
	        cmocka_unit_test(write_modes_decide_what_is_durable),
	        cmocka_unit_test(sequential_readers_are_read_ahead_of),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

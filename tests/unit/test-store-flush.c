/*
 * test-store-flush.c - what a flush makes durable, and what it must not
 */
#include <pthread.h>
#include <semaphore.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "store-bed.h"

/* --- rows --- */

static void rows_of_a_flush_too_big_for_the_log_wait_for_the_commit(void **state)
{
	struct bed b;

	bed_make(&b);
	bed_open(&b);
	struct image *big = bed_image(&b, 11), *small = bed_image(&b, 12);
	for (unsigned i = 0; i < 10; i++)
		bed_write(big, i * MIB, MIB, 1 + i);
	bed_write(small, 0, 4096, 50);
	/* The big flush commits a group, and that fails: nothing of it is durable. */
	fake_meta_fail_writes(b.meta, 1, 1000, -EIO);
	b.rows_of = 11;
	assert_int_equal(store_flush(b.store, big), -EIO);
	b.rows_of = 12;
	assert_int_equal(store_flush(b.store, small), 0);
	store_image_close(big);
	store_image_close(small);
	bed_crash(&b);
	b.rows_of = 0;
	bed_open(&b);
	assert_string_equal(b.replayed, "rows2"); /* not the size of what has no content */
	small = bed_image(&b, 12);
	bed_expect(small, 0, 4096, 50);
	store_image_close(small);
	bed_free(&b);
}

static void a_deletion_is_flushed_with_the_rows_that_tell_of_it(void **state)
{
	struct bed b;
	struct image_stats st;
	const uint64_t id = 13;

	bed_make(&b);
	bed_open(&b);
	struct image *img = bed_image(&b, id);
	bed_write(img, 0, MIB, 1);
	store_image_close(img);
	assert_int_equal(store_sync(b.store), 0);
	store_enter(b.store);
	assert_int_equal(store_rows_append(b.store, "gone", 4), 0);
	assert_int_equal(store_image_delete(b.store, id), 0);
	store_leave(b.store);
	/* Somebody else flushes; the rows say that the inode is gone. */
	assert_int_equal(store_flush(b.store, NULL), 0);
	bed_crash(&b);
	bed_open(&b);
	assert_string_equal(b.replayed, "gone");
	assert_int_equal(store_image_stats(b.store, &id, 1, false, NULL, NULL, &st), 0);
	assert_int_equal(st.data_chunks, 0); /* else nobody would ever free it */
	bed_free(&b);
}

/* --- many callers --- */

#define ROUNDS_MAX 2000

/* While the log is synced for one flush, another one is always queued, by two threads in turn. */
struct stream {
	struct bed *b;
	sem_t go[2];
	unsigned rounds;
	_Atomic bool stop, returned;
};

struct streamer {
	struct stream *all;
	unsigned i;
};

static bool flush_queued(struct store *s)
{
	pthread_mutex_lock(&s->flush.lock);
	const bool queued = s->flush.queue != NULL;
	pthread_mutex_unlock(&s->flush.lock);
	return queued;
}

static void next_flush(
        void *arg, uint64_t step, enum iosim_op op, const char *name, uint64_t off, uint64_t len)
{
	struct stream *st = arg;

	if (op != IOSIM_SYNC || strcmp(name, "log") != 0 || st->returned ||
	        st->rounds == ROUNDS_MAX)
		return;
	sem_post(&st->go[st->rounds++ % 2]);
	while (!flush_queued(st->b->store) && !st->returned)
		nanosleep(&(struct timespec){0, 10000}, NULL);
}

static void *streamer_main(void *arg)
{
	const struct streamer *me = arg;
	struct bed *b = me->all->b;
	struct image *img = bed_image(b, 20 + me->i);

	for (unsigned n = 1; sem_wait(&me->all->go[me->i]) == 0 && !me->all->stop; n++) {
		bed_write(img, 0, 512, n);
		ASSERT(store_flush(b->store, img) == 0);
	}
	store_image_close(img);
	return NULL;
}

static void nobody_leads_the_flushes_of_others_for_ever(void **state)
{
	struct bed b;
	struct stream st = {.b = &b};
	struct streamer each[2];
	pthread_t threads[2];

	bed_make(&b);
	bed_open(&b);
	struct image *img = bed_image(&b, 30);
	for (unsigned i = 0; i < 2; i++) {
		each[i] = (struct streamer){&st, i};
		sem_init(&st.go[i], 0, 0);
		assert_int_equal(pthread_create(&threads[i], NULL, streamer_main, &each[i]), 0);
	}
	bed_write(img, 0, 512, 1);
	iosim_set_trace(b.sim, next_flush, &st);
	assert_int_equal(store_flush(b.store, img), 0);
	st.returned = true;
	st.stop = true;
	for (unsigned i = 0; i < 2; i++) {
		sem_post(&st.go[i]);
		pthread_join(threads[i], NULL);
	}
	assert_true(st.rounds < ROUNDS_MAX);
	store_image_close(img);
	bed_free(&b);
}

/* --- a log that cannot be replaced --- */

static void a_log_that_cannot_be_replaced_is_no_reason_to_commit_all_the_time(void **state)
{
	struct bed b;
	struct store_stats st;
	const struct iosim_fault fault = {.prefix = "log", .err = -EIO};
	const struct timespec wait = {0, 300 * 1000 * 1000};

	bed_make(&b);
	b.cfg.manual = false;
	bed_open(&b);
	struct image *img = bed_image(&b, 30);
	bed_write(img, 0, 4096, 1);
	iosim_fault(b.sim, &fault);
	assert_int_equal(store_flush(b.store, img), 0); /* through a commit */
	nanosleep(&wait, NULL);
	store_stats_get(b.store, &st);
	assert_true(st.txg_commits < 10);
	/* Once it works again, so does the log, and nothing is wrong any more. */
	iosim_faults_clear(b.sim);
	sleep(1);
	for (unsigned i = 0; i < 3; i++) {
		bed_write(img, 0, 4096, 2 + i);
		assert_int_equal(store_flush(b.store, img), 0);
	}
	assert_int_equal(store_sync(b.store), 0);
	const uint64_t before = b.store->count.commits;
	bed_write(img, 0, 4096, 9);
	assert_int_equal(store_flush(b.store, img), 0);
	assert_int_equal(b.store->count.commits, before);
	store_stats_get(b.store, &st);
	assert_int_equal(st.health, STORE_OK);
	store_image_close(img);
	bed_free(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(rows_of_a_flush_too_big_for_the_log_wait_for_the_commit),
	        cmocka_unit_test(a_deletion_is_flushed_with_the_rows_that_tell_of_it),
	        cmocka_unit_test(nobody_leads_the_flushes_of_others_for_ever),
	        cmocka_unit_test(a_log_that_cannot_be_replaced_is_no_reason_to_commit_all_the_time),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * test-bufpool.c - buffers of dirty chunks
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "store/bufpool.h"

#define BUFS 8u

static struct bufpool *pool_make(void)
{
	struct bufpool *p;

	assert_int_equal(bufpool_create(BUFS * CHUNK_SIZE, &p), 0);
	return p;
}

static void buffers_are_aligned_apart_and_counted(void **state)
{
	struct bufpool *p = pool_make();
	struct buf *v[BUFS];

	for (unsigned i = 0; i < BUFS; i++) {
		v[i] = bufpool_get(p);
		assert_non_null(v[i]);
		assert_int_equal((uintptr_t)v[i]->data % CHUNK_SIZE, 0);
		memset(v[i]->data, (int)i, CHUNK_SIZE);
		assert_int_equal(bufpool_used(p), (i + 1) * CHUNK_SIZE);
	}
	for (unsigned i = 0; i < BUFS; i++) {
		assert_int_equal(v[i]->data[0], i);
		assert_int_equal(v[i]->data[CHUNK_SIZE - 1], i);
		bufpool_put(p, v[i]);
	}
	assert_int_equal(bufpool_used(p), 0);
	bufpool_free(p);
}

static void an_exhausted_pool_gives_none_until_one_comes_back(void **state)
{
	struct bufpool *p = pool_make();
	struct buf *v[BUFS];

	for (unsigned i = 0; i < BUFS; i++)
		v[i] = bufpool_get(p);
	assert_null(bufpool_get(p));
	assert_int_equal(bufpool_used(p), BUFS * CHUNK_SIZE);
	bufpool_put(p, v[3]);
	assert_ptr_equal(bufpool_get(p), v[3]);
	for (unsigned i = 0; i < BUFS; i++)
		bufpool_put(p, v[i]);
	bufpool_free(p);
}

static void a_buffer_comes_back_with_its_last_reference_and_without_its_past(void **state)
{
	struct bufpool *p = pool_make();
	struct buf *b = bufpool_get(p);

	b->valid = calloc(1, CHUNK_SIZE / 8);
	b->base = 7;
	buf_ref(b);
	bufpool_put(p, b);
	assert_int_equal(bufpool_used(p), CHUNK_SIZE);
	assert_non_null(b->valid);
	bufpool_put(p, b);
	assert_int_equal(bufpool_used(p), 0);
	assert_ptr_equal(bufpool_get(p), b); /* the most recently freed first */
	assert_null(b->valid);
	assert_int_equal(b->base, 0);
	bufpool_put(p, b);
	bufpool_free(p);
}

static void *taker(void *arg)
{
	struct bufpool *p = arg;

	for (unsigned i = 0; i < 20000; i++) {
		struct buf *b = bufpool_get(p);
		if (!b)
			continue;
		memset(b->data, (int)i, 64);
		buf_ref(b);
		bufpool_put(p, b);
		for (unsigned k = 0; k < 64; k++)
			ASSERT(b->data[k] == (uint8_t)i);
		bufpool_put(p, b);
	}
	return NULL;
}

static void nobody_has_a_buffer_that_another_thread_has(void **state)
{
	struct bufpool *p = pool_make();
	pthread_t threads[4];

	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, taker, p), 0);
	for (unsigned i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(bufpool_used(p), 0);
	bufpool_free(p);
}

static void sizes_that_cannot_be_had_are_refused(void **state)
{
	struct bufpool *p;

	assert_int_equal(bufpool_create(0, &p), -EINVAL);
	assert_int_equal(bufpool_create(UINT64_MAX - CHUNK_SIZE, &p), -EINVAL);
	bufpool_free(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(buffers_are_aligned_apart_and_counted),
	        cmocka_unit_test(an_exhausted_pool_gives_none_until_one_comes_back),
	        cmocka_unit_test(a_buffer_comes_back_with_its_last_reference_and_without_its_past),
	        cmocka_unit_test(nobody_has_a_buffer_that_another_thread_has),
	        cmocka_unit_test(sizes_that_cannot_be_had_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

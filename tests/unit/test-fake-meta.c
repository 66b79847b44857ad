/*
 * test-fake-meta.c - the double keeps the contract of ports.h that other tests rely on
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "fake-meta.h"

static int add_id(void *arg, uint64_t id)
{
	uint64_t **at = arg;

	*(*at)++ = id;
	return id == 600 ? -ECANCELED : 0;
}

static int add_image(void *arg, const struct image_row *row)
{
	return add_id(arg, row->image);
}

static int add_segment(void *arg, const struct segment_row *row)
{
	return add_id(arg, row->id);
}

/* One change of each kind. */
static int change_all(struct meta *m, uint64_t id)
{
	struct store_state state;
	int r = m->ops->state_get(m, &state);

	state.txg = id;
	if (r == 0)
		r = m->ops->node_put(m, id, "blob", 4);
	if (r == 0)
		r = m->ops->image_put(m, &(struct image_row){.image = id, .root = 9});
	if (r == 0)
		r = m->ops->segment_put(m, &(struct segment_row){.id = id, .gen = 3});
	if (r == 0)
		r = m->ops->rows_apply(m, "rows", 4);
	if (r == 0)
		r = m->ops->state_put(m, &state);
	return r;
}

static void assert_committed(struct fake_meta *f, uint64_t id, bool there)
{
	struct meta *m = fake_meta_port(f);
	struct store_state state;
	struct image_row row;
	char buf[NODE_BLOB_MAX];
	size_t len;

	assert_int_equal(m->ops->node_get(m, id, buf, sizeof(buf), &len), there ? 0 : -ENOENT);
	assert_int_equal(m->ops->image_get(m, id, &row), there ? 0 : -ENOENT);
	assert_int_equal(m->ops->state_get(m, &state), 0);
	assert_int_equal(state.txg, there ? id : 0);
	fake_meta_rows(f, &len);
	assert_int_equal(len, there ? 4 : 0);
}

static void changes_are_seen_after_commit_and_not_before(void **state)
{
	struct fake_meta *f = fake_meta_create();
	struct meta *m = fake_meta_port(f);

	assert_int_equal(m->ops->begin(m), 0);
	assert_int_equal(change_all(m, 5), 0);
	assert_committed(f, 5, false);
	assert_int_equal(m->ops->commit(m), 0);
	assert_committed(f, 5, true);
	fake_meta_free(f);
}

static void rolled_back_and_crashed_changes_leave_no_trace(void **state)
{
	struct fake_meta *f = fake_meta_create();
	struct meta *m = fake_meta_port(f);

	assert_int_equal(m->ops->begin(m), 0);
	assert_int_equal(change_all(m, 5), 0);
	m->ops->rollback(m);
	assert_int_equal(m->ops->begin(m), 0);
	assert_int_equal(change_all(m, 5), 0);
	fake_meta_crash(f);
	assert_int_equal(m->ops->begin(m), 0);
	assert_int_equal(m->ops->commit(m), 0);
	assert_committed(f, 5, false);
	assert_int_equal(fake_meta_commits(f), 1);
	fake_meta_free(f);
}

static void kth_write_fails_and_the_transaction_can_be_repeated(void **state)
{
	struct fake_meta *f = fake_meta_create();
	struct meta *m = fake_meta_port(f);

	for (unsigned k = 1; k <= 7; k++) { /* begin, five changes, commit */
		fake_meta_fail_writes(f, k, 1, -ENOSPC);
		int r = m->ops->begin(m);
		if (r == 0)
			r = change_all(m, 5);
		if (r == 0)
			r = m->ops->commit(m);
		assert_int_equal(r, -ENOSPC);
		m->ops->rollback(m);
		assert_committed(f, 5, false);
	}
	assert_int_equal(m->ops->begin(m), 0);
	assert_int_equal(change_all(m, 5), 0);
	assert_int_equal(m->ops->commit(m), 0);
	assert_committed(f, 5, true);
	fake_meta_free(f);
}

static void reads_fail_as_often_as_told(void **state)
{
	struct fake_meta *f = fake_meta_create();
	struct meta *m = fake_meta_port(f);
	struct image_row row;

	fake_meta_image_set(f, &(struct image_row){.image = 7});
	fake_meta_fail_reads(f, 2, 2, -EIO);
	assert_int_equal(m->ops->image_get(m, 7, &row), 0);
	assert_int_equal(m->ops->image_get(m, 7, &row), -EIO);
	assert_int_equal(m->ops->image_get(m, 7, &row), -EIO);
	assert_int_equal(m->ops->image_get(m, 7, &row), 0);
	assert_int_equal(fake_meta_reads(f), 4);
	fake_meta_free(f);
}

static void rows_come_in_order_and_a_stop_is_returned(void **state)
{
	struct fake_meta *f = fake_meta_create();
	struct meta *m = fake_meta_port(f);
	uint64_t ids[1000], *at = ids;

	assert_int_equal(m->ops->begin(m), 0);
	for (unsigned i = 0; i < 1000; i++) {
		const uint64_t id = 1 + i * 7919 % 1000;

		assert_int_equal(m->ops->node_put(m, id, &id, sizeof(id)), 0);
		if (id < 500) {
			assert_int_equal(m->ops->image_put(m, &(struct image_row){.image = id}), 0);
			assert_int_equal(
			        m->ops->segment_put(m, &(struct segment_row){.id = id}), 0);
		}
	}
	for (uint64_t id = 2; id < 1000; id += 2) {
		assert_int_equal(m->ops->node_del(m, id), 0);
		assert_int_equal(m->ops->image_del(m, id), 0);
		assert_int_equal(m->ops->segment_del(m, id), 0);
	}
	assert_int_equal(m->ops->commit(m), 0);

	assert_int_equal(m->ops->node_each(m, 3, 599, add_id, &at), 0);
	assert_int_equal(at - ids, 299);
	for (unsigned i = 0; i < 299; i++)
		assert_int_equal(ids[i], 3 + 2 * i);
	at = ids;
	assert_int_equal(m->ops->image_each(m, add_image, &at), 0);
	assert_int_equal(at - ids, 250);
	assert_int_equal(ids[249], 499);
	at = ids;
	assert_int_equal(m->ops->segment_each(m, add_segment, &at), 0);
	assert_int_equal(at - ids, 250);
	at = ids;
	assert_int_equal(m->ops->begin(m), 0);
	assert_int_equal(m->ops->node_put(m, 600, "x", 1), 0);
	assert_int_equal(m->ops->commit(m), 0);
	assert_int_equal(m->ops->node_each(m, 0, UINT64_MAX, add_id, &at), -ECANCELED);
	assert_int_equal(at[-1], 600);
	fake_meta_free(f);
}

static void damaged_blob_differs_in_one_bit(void **state)
{
	struct fake_meta *f = fake_meta_create();
	struct meta *m = fake_meta_port(f);
	char buf[8];
	size_t len;

	assert_int_equal(m->ops->begin(m), 0);
	assert_int_equal(m->ops->node_put(m, 1, "abcd", 4), 0);
	assert_int_equal(m->ops->commit(m), 0);
	fake_meta_node_damage(f, 1, 8 * 6 + 1); /* offset 6 of 4 */
	assert_int_equal(m->ops->node_get(m, 1, buf, sizeof(buf), &len), 0);
	assert_int_equal(len, 4);
	assert_memory_equal(buf, "abad", 4);
	assert_int_equal(m->ops->node_get(m, 1, buf, 3, &len), -EIO);
	fake_meta_node_remove(f, 1);
	assert_false(fake_meta_node_exists(f, 1));
	assert_int_equal(fake_meta_node_count(f), 0);
	fake_meta_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(changes_are_seen_after_commit_and_not_before),
	        cmocka_unit_test(rolled_back_and_crashed_changes_leave_no_trace),
	        cmocka_unit_test(kth_write_fails_and_the_transaction_can_be_repeated),
	        cmocka_unit_test(reads_fail_as_often_as_told),
	        cmocka_unit_test(rows_come_in_order_and_a_stop_is_returned),
	        cmocka_unit_test(damaged_blob_differs_in_one_bit),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

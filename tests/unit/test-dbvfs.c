/*
 * test-dbvfs.c - meta.db when writes and syncs fail, at every step
 *
 * Group 1 is committed; group 2 meets a failure.  Whatever happens, a crash then finds group 1 or
 * group 2, whole, and never group 2 after it was taken back.
 */
#include "base/clock.h"
#include "meta-fixture.h"

enum { NODES = 40 };

static int put_group(struct meta *m, uint64_t txg, unsigned nodes)
{
	uint8_t blob[6000];
	struct store_state s;
	int r = m->ops->state_get(m, &s);

	memset(blob, (int)txg, sizeof(blob));
	assert_int_equal(r, 0);
	r = m->ops->begin(m);
	if (r < 0)
		return r;
	for (uint64_t id = 1; r == 0 && id <= nodes; id++)
		r = m->ops->node_put(m, id, blob, sizeof(blob));
	s.txg = txg;
	s.next_node = nodes + 1;
	if (r == 0)
		r = m->ops->state_put(m, &s);
	if (r == 0)
		r = m->ops->commit(m);
	if (r < 0)
		m->ops->rollback(m);
	return r;
}

/* The group that m holds, which it must hold as a whole. */
static uint64_t group_of(struct meta *m, unsigned nodes)
{
	struct store_state s;
	uint8_t blob[NODE_BLOB_MAX];

	assert_int_equal(m->ops->state_get(m, &s), 0);
	for (uint64_t id = 1; id <= nodes; id++) {
		size_t len = 0;
		assert_int_equal(m->ops->node_get(m, id, blob, sizeof(blob), &len), 0);
		assert_int_equal(len, 6000);
		assert_int_equal(blob[0], s.txg);
		assert_int_equal(blob[len - 1], s.txg);
	}
	return s.txg;
}

static uint64_t group_after_crash(struct fixture *f, unsigned nodes)
{
	struct io *io = NULL;
	int r = -1;
	struct meta *m = crash_copy(f, &io, &r);

	assert_int_equal(r, 0);
	const uint64_t txg = group_of(m, nodes);
	assert_int_equal(complaints(m), 0);
	meta_close(m);
	io_free(io);
	return txg;
}

/* One run with the failure at one step; false when there are not that many steps. */
static bool fail_at(unsigned ops, int step, int n, int err, bool tear, unsigned nodes)
{
	struct fixture f;

	fixture_open(&f);
	fixture_create(&f);
	struct meta *m = fixture_meta(&f, false);
	assert_int_equal(put_group(m, 1, nodes), 0);
	f.faults->tear = tear;
	faults_on(&f, ops, step, n, err);
	int r = put_group(m, 2, nodes);
	const bool hit = f.faults->n >= step;
	/* A large group is copied to meta.db after its commit, which that cannot undo. */
	assert_true(r == (hit ? err : 0) || (r == 0 && nodes > 2000));
	if (r == 0) {
		faults_off(&f);
		assert_int_equal(group_after_crash(&f, nodes), 2);
	} else {
		assert_int_equal(group_of(m, nodes), 1);
		for (int tries = 0; r < 0 && f.faults->n < step + n; tries++) {
			r = put_group(m, 2, nodes);
			assert_true(tries <= n);
		}
		faults_off(&f);
		if (r < 0)
			r = m->ops->begin(m); /* taken back now, if not before */
		if (r == 0 && group_of(m, nodes) == 1) {
			m->ops->rollback(m);
			assert_int_equal(group_after_crash(&f, nodes), 1);
			r = put_group(m, 2, nodes);
		}
		assert_int_equal(r, 0);
	}
	faults_off(&f);
	assert_int_equal(group_of(m, nodes), 2);
	assert_int_equal(group_after_crash(&f, nodes), 2);
	meta_close(m);
	m = fixture_meta(&f, false);
	assert_int_equal(group_of(m, nodes), 2);
	assert_int_equal(complaints(m), 0);
	meta_close(m);
	fixture_close(&f);
	return hit;
}

static void fail_everywhere(unsigned ops, int n, int err, bool tear, unsigned nodes, int stride)
{
	int step = 1;

	while (fail_at(ops, step, n, err, tear, nodes))
		step += stride;
	assert_true(step > 1); /* something did fail */
}

static void test_a_failed_write_takes_the_group_back_and_can_be_repeated(void **state)
{
	fail_everywhere(FAULTY_WRITE, 1, -EIO, false, NODES, 5);
	fail_everywhere(FAULTY_WRITE, 1, -EIO, true, NODES, 7);
}

static void test_a_full_disk_is_enospc_and_can_be_repeated(void **state)
{
	fail_everywhere(FAULTY_WRITE, 1, -ENOSPC, true, NODES, 7);
	fail_everywhere(FAULTY_WRITE, 9, -ENOSPC, false, NODES, 9);
}

static void test_a_failed_sync_takes_the_group_back(void **state)
{
	fail_everywhere(FAULTY_SYNC, 1, -EIO, false, NODES, 1);
	fail_everywhere(FAULTY_SYNC, 4, -EIO, false, NODES, 1);
	fail_everywhere(FAULTY_SYNC | FAULTY_WRITE | FAULTY_OTHER, 3, -EIO, true, NODES, 11);
}

static void test_a_group_larger_than_the_page_cache_can_fail_too(void **state)
{
	fail_everywhere(FAULTY_WRITE, 1, -EIO, false, 2200, 1500);
	fail_everywhere(FAULTY_SYNC, 1, -EIO, false, 2200, 1);
}

static void test_a_group_whose_sync_failed_is_gone_after_a_crash(void **state)
{
	struct fixture f;

	fixture_open(&f);
	fixture_create(&f);
	struct meta *m = fixture_meta(&f, false);
	assert_int_equal(put_group(m, 1, NODES), 0);
	faults_on(&f, FAULTY_SYNC, 1, 1, -EIO);
	assert_int_equal(put_group(m, 2, NODES), -EIO);
	assert_int_equal(group_after_crash(&f, NODES), 1);
	meta_close(m);
	fixture_close(&f);
}

static void test_nothing_begins_until_a_failed_group_is_taken_back(void **state)
{
	struct fixture f;

	fixture_open(&f);
	fixture_create(&f);
	struct meta *m = fixture_meta(&f, false);
	assert_int_equal(put_group(m, 1, NODES), 0);
	faults_on(&f, FAULTY_SYNC, 1, 1 << 20, -EIO);
	assert_int_equal(put_group(m, 2, NODES), -EIO);
	const int n = f.faults->n;
	for (int i = 0; i < 5; i++)
		assert_int_equal(m->ops->begin(m), -EIO);
	assert_int_equal(f.faults->n, n + 5);    /* by the scrub's sync, each time anew */
	assert_int_equal(group_of(m, NODES), 1); /* reading goes on */
	faults_off(&f);
	assert_int_equal(put_group(m, 3, NODES), 0);
	assert_int_equal(group_after_crash(&f, NODES), 3);
	meta_close(m);
	fixture_close(&f);
}

static bool checkpoint_fail_at(unsigned ops, int step)
{
	struct fixture f;

	fixture_open(&f);
	fixture_create(&f);
	struct meta *m = fixture_meta(&f, false);
	for (uint64_t txg = 1; txg <= 3; txg++)
		assert_int_equal(put_group(m, txg, NODES), 0);
	faults_on(&f, ops, step, 1, -EIO);
	const int r = meta_checkpoint(m);
	const bool hit = f.faults->n >= step;
	faults_off(&f);
	assert_int_equal(r, hit ? -EIO : 0);
	assert_int_equal(group_of(m, NODES), 3);
	assert_int_equal(group_after_crash(&f, NODES), 3);
	assert_int_equal(put_group(m, 4, NODES), 0);
	assert_int_equal(group_after_crash(&f, NODES), 4);
	assert_int_equal(meta_checkpoint(m), 0);
	assert_int_equal(put_group(m, 5, NODES), 0); /* starts the WAL over */
	assert_int_equal(group_after_crash(&f, NODES), 5);
	meta_close(m);
	fixture_close(&f);
	return hit;
}

static void test_a_failed_checkpoint_loses_nothing(void **state)
{
	for (int step = 1; checkpoint_fail_at(FAULTY_WRITE, step);)
		step += 10;
	for (int step = 1; checkpoint_fail_at(FAULTY_SYNC, step);)
		step++;
}

static void test_the_first_group_of_a_new_wal_can_fail(void **state)
{
	for (int step = 1;; step++) {
		struct fixture f;
		fixture_open(&f);
		fixture_create(&f);
		struct meta *m = fixture_meta(&f, false);
		assert_int_equal(put_group(m, 1, NODES), 0);
		assert_int_equal(put_group(m, 2, NODES), 0);
		assert_int_equal(meta_checkpoint(m), 0);
		faults_on(&f, FAULTY_SYNC, step, 1, -EIO);
		const int r = put_group(m, 3, 5);
		const bool hit = f.faults->n >= step;
		faults_off(&f);
		assert_int_equal(r, hit ? -EIO : 0);
		if (hit) {
			assert_int_equal(group_after_crash(&f, NODES), 2);
			assert_int_equal(group_of(m, NODES), 2);
			assert_int_equal(put_group(m, 3, NODES), 0);
			assert_int_equal(group_after_crash(&f, NODES), 3);
		}
		meta_close(m);
		fixture_close(&f);
		if (!hit) {
			assert_true(step > 2);
			break;
		}
	}
}

static void test_a_failed_create_leaves_nothing(void **state)
{
	const struct meta_create_params params = {0};
	struct errmsg em;

	for (int step = 1;; step += 2) {
		struct fixture f;
		fixture_open(&f);
		faults_on(&f, FAULTY_WRITE | FAULTY_SYNC | FAULTY_OTHER, step, 1, -ENOSPC);
		const int r = meta_create(f.io, &params, &em);
		const bool hit = f.faults->n >= step;
		faults_off(&f);
		assert_true(hit ? r < 0 : r == 0);
		if (r < 0) {
			assert_true(em.text[0] != '\0');
			fixture_create(&f);
		}
		meta_close(fixture_meta(&f, false));
		fixture_close(&f);
		if (!hit)
			break;
	}
}

static void test_a_directory_that_cannot_be_synced_fails_the_open(void **state)
{
	struct fixture f;
	struct errmsg em;
	struct meta *m = NULL;

	fixture_open(&f);
	fixture_create(&f);
	fixture_unlink(f.dir, "meta.db-wal");
	faults_on(&f, FAULTY_SYNC, 1, 1, -EIO);
	assert_int_equal(meta_open(f.io, false, &m, &em), -EIO);
	assert_int_equal(meta_open(f.io, false, &m, &em), 0);
	meta_close(m);
	fixture_close(&f);
}

/*
 * Groups, checkpoints and failures, then everything stops at a random call, and of what was written
 * since the last sync each sector is there or not.  The last acknowledged group must be, or the one
 * after it.
 */
static void power_cut(uint64_t seed)
{
	struct fixture f;
	uint64_t random = seed * 0x9e3779b97f4a7c15ull, txg = 1;
	struct errmsg em = {""};
	struct meta *m = NULL;

	fixture_open(&f);
	f.faults->track = true;
	fixture_create(&f);
	struct meta *writer = fixture_meta(&f, false);
	assert_int_equal(put_group(writer, txg, NODES), 0);
	for (uint32_t n = random_next(&random, 6); n > 0; n--) {
		if (random_next(&random, 3) == 0)
			assert_int_equal(meta_checkpoint(writer), 0);
		if (random_next(&random, 3) == 0)
			faults_on(&f, FAULTY_SYNC | FAULTY_WRITE,
			        1 + (int)random_next(&random, NODES + 5), 1, -EIO);
		f.faults->tear = random_next(&random, 2);
		if (put_group(writer, txg + 1, 1 + random_next(&random, NODES)) < 0) {
			faults_off(&f);
			assert_int_equal(put_group(writer, txg + 1, NODES), 0);
		}
		faults_off(&f);
		assert_int_equal(put_group(writer, txg += 2, NODES), 0);
	}
	faults_on(&f, FAULTY_SYNC | FAULTY_WRITE | FAULTY_OTHER,
	        1 + (int)random_next(&random, 2 * NODES), 1 << 20, -EIO);
	const bool checkpoint = random_next(&random, 2) == 0;
	if (checkpoint && meta_checkpoint(writer) < 0)
		assert_true(f.faults->n >= f.faults->fail_at);
	const bool acknowledged = put_group(writer, txg + 1, NODES) == 0;
	power_cut_file(&f, "meta.db", &random);
	power_cut_file(&f, "meta.db-wal", &random);
	struct io *io = real_io(f.copy);
	if (meta_open(io, random_next(&random, 2), &m, &em) != 0)
		fail_msg("seed %llu: %s", (unsigned long long)seed, em.text);
	const uint64_t got = group_of(m, NODES);
	assert_true(got == txg + 1 || (got == txg && !acknowledged));
	assert_int_equal(complaints(m), 0);
	meta_close(m);
	io_free(io);
	meta_close(writer);
	fixture_close(&f);
}

static void test_a_power_cut_leaves_the_last_acknowledged_group(void **state)
{
	const char *given = getenv("WEIR_TEST_SEED");
	const uint64_t first = given ? strtoull(given, NULL, 0) : clock_wall_ns() / NS_PER_MS;

	print_message("seeds from %llu\n", (unsigned long long)first);
	for (uint64_t seed = first; seed < first + 60; seed++)
		power_cut(seed);
}

static void test_page_checksum_tells_place_and_content(void **state)
{
	uint8_t page[DBVFS_PAGE_SIZE] = {1, 2, 3};
	static const uint8_t golden[8] = {0x8a, 0x29, 0xc1, 0x1c, 0x67, 0xc8, 0x40, 0x35};

	dbvfs_page_seal(page, 7);
	assert_memory_equal(page + DBVFS_PAGE_SIZE - 8, golden, 8);
	assert_true(dbvfs_page_good(page, 7));
	assert_false(dbvfs_page_good(page, 8));
	page[4000] ^= 1;
	assert_false(dbvfs_page_good(page, 7));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_page_checksum_tells_place_and_content),
	        cmocka_unit_test(test_a_failed_write_takes_the_group_back_and_can_be_repeated),
	        cmocka_unit_test(test_a_full_disk_is_enospc_and_can_be_repeated),
	        cmocka_unit_test(test_a_failed_sync_takes_the_group_back),
	        cmocka_unit_test(test_a_group_larger_than_the_page_cache_can_fail_too),
	        cmocka_unit_test(test_a_group_whose_sync_failed_is_gone_after_a_crash),
	        cmocka_unit_test(test_nothing_begins_until_a_failed_group_is_taken_back),
	        cmocka_unit_test(test_a_failed_checkpoint_loses_nothing),
	        cmocka_unit_test(test_the_first_group_of_a_new_wal_can_fail),
	        cmocka_unit_test(test_a_power_cut_leaves_the_last_acknowledged_group),
	        cmocka_unit_test(test_a_failed_create_leaves_nothing),
	        cmocka_unit_test(test_a_directory_that_cannot_be_synced_fails_the_open),
	};

	log_set_level(getenv("WEIR_TEST_VERBOSE") ? LOG_NOTE : (enum log_level) - 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * test-meta.c - meta.db as the engine sees it: create, open, the port, read-only, damage
 */
#include "meta-fixture.h"

static void put_nodes(struct meta *m, uint64_t first, uint64_t n, uint8_t fill, size_t len)
{
	uint8_t blob[NODE_BLOB_MAX];

	memset(blob, fill, sizeof(blob));
	assert_int_equal(m->ops->begin(m), 0);
	for (uint64_t id = first; id < first + n; id++)
		assert_int_equal(m->ops->node_put(m, id, blob, len), 0);
	assert_int_equal(m->ops->commit(m), 0);
}

static int node_fill(struct meta *m, uint64_t id)
{
	uint8_t blob[NODE_BLOB_MAX];
	size_t len = 0;
	const int r = m->ops->node_get(m, id, blob, sizeof(blob), &len);

	return r < 0 ? r : blob[len - 1];
}

static void test_create_then_open_gives_what_was_asked_for(void **state)
{
	struct fixture f;
	struct meta_info info;
	struct store_state s;

	fixture_open(&f);
	fixture_create(&f);
	struct meta *m = fixture_meta(&f, false);
	assert_int_equal(meta_info_get(m, &info), 0);
	assert_int_equal(info.index_bytes, 1 << 20);
	assert_int_equal(info.log_bytes, 2 << 20);
	assert_int_equal(info.created_wall_ns, 1234567890123456789ull);
	assert_int_equal(info.schema_version, 4);
	assert_int_equal(m->ops->state_get(m, &s), 0);
	assert_int_equal(s.txg, 0);
	assert_int_equal(s.next_segment, 1);
	assert_int_equal(s.next_node, 1);
	assert_memory_equal(s.uuid, info.uuid, sizeof(s.uuid));
	assert_int_equal(complaints(m), 0);
	meta_close(m);
	assert_int_equal(file_size_of(f.dir, "meta.db-wal"), 0);
	fixture_close(&f);
}

static void test_create_refuses_to_replace(void **state)
{
	struct fixture f;
	struct errmsg em;
	const struct meta_create_params params = {0};

	fixture_open(&f);
	fixture_create(&f);
	assert_int_equal(meta_create(f.io, &params, &em), -EEXIST);
	meta_close(fixture_meta(&f, false));
	fixture_close(&f);
}

static int sum_ids(void *arg, uint64_t id)
{
	*(uint64_t *)arg += id;
	return 0;
}

static void test_rows_come_back_after_reopen(void **state)
{
	const struct image_row image = {7, 1ull << 40, 4, 11, 12, 13};
	const struct segment_row segment = {
	        1ull << 37, 2, 0, 0, SEGMENT_SEALED, 4000000, 2048, 2000, 3999999, 4100000, 99};
	struct store_state s, t;
	struct image_row got;
	uint64_t sum = 0;
	struct fixture f;

	fixture_open(&f);
	fixture_create(&f);
	struct meta *m = fixture_meta(&f, false);
	put_nodes(m, 1, 3000, 5, 1500);
	assert_int_equal(m->ops->state_get(m, &s), 0);
	s.txg = 42, s.next_segment = 1ull << 38, s.next_node = 3001, s.log_epoch = 3;
	s.log_tail_off = 4096, s.log_tail_seq = 77;
	assert_int_equal(m->ops->begin(m), 0);
	assert_int_equal(m->ops->image_put(m, &image), 0);
	assert_int_equal(m->ops->segment_put(m, &segment), 0);
	assert_int_equal(m->ops->state_put(m, &s), 0);
	assert_int_equal(m->ops->image_get(m, 7, &got), -ENOENT); /* not yet committed */
	assert_int_equal(m->ops->commit(m), 0);
	meta_close(m);

	m = fixture_meta(&f, false);
	assert_int_equal(m->ops->state_get(m, &t), 0);
	assert_memory_equal(&s, &t, sizeof(s));
	assert_int_equal(m->ops->image_get(m, 7, &got), 0);
	assert_int_equal(got.root, image.root);
	assert_int_equal(got.height, 4);
	assert_int_equal(got.data_chunks, 11);
	assert_int_equal(got.zero_chunks, 12);
	assert_int_equal(got.snap_epoch, 13);
	assert_int_equal(m->ops->image_get(m, 8, &got), -ENOENT);
	assert_int_equal(node_fill(m, 3000), 5);
	assert_int_equal(node_fill(m, 3001), -ENOENT);
	assert_int_equal(m->ops->node_each(m, 2, 2999, sum_ids, &sum), 0);
	assert_int_equal(sum, 3000ull * 3001 / 2 - 1 - 3000);
	meta_close(m);
	fixture_close(&f);
}

static int count_images(void *arg, const struct image_row *row)
{
	uint64_t *next = arg;

	assert_int_equal(row->image, *next);
	++*next;
	return *next == 150 ? 17 : 0;
}

static int count_segments(void *arg, const struct segment_row *row)
{
	uint64_t *next = arg;

	assert_int_equal(row->id, *next);
	assert_int_equal(row->bytes, 10 * *next);
	++*next;
	return 0;
}

static void test_each_visits_all_in_order_and_stops_on_demand(void **state)
{
	uint64_t next = 1;
	struct fixture f;

	fixture_open(&f);
	fixture_create(&f);
	struct meta *m = fixture_meta(&f, false);
	assert_int_equal(m->ops->begin(m), 0);
	for (uint32_t i = 200; i > 0; i--) {
		const struct image_row image = {.image = i};
		const struct segment_row segment = {
		        .id = i, .state = SEGMENT_OPEN, .bytes = 10 * i};
		assert_int_equal(m->ops->image_put(m, &image), 0);
		assert_int_equal(m->ops->segment_put(m, &segment), 0);
	}
	assert_int_equal(m->ops->commit(m), 0);
	assert_int_equal(m->ops->image_each(m, count_images, &next), 17);
	next = 1;
	assert_int_equal(m->ops->segment_each(m, count_segments, &next), 0);
	assert_int_equal(next, 201);
	assert_int_equal(m->ops->begin(m), 0);
	assert_int_equal(m->ops->segment_del(m, 200), 0);
	assert_int_equal(m->ops->segment_del(m, 200), 0);
	assert_int_equal(m->ops->image_del(m, 1), 0);
	assert_int_equal(m->ops->image_del(m, 1), 0);
	assert_int_equal(m->ops->commit(m), 0);
	next = 1;
	assert_int_equal(m->ops->segment_each(m, count_segments, &next), 0);
	assert_int_equal(next, 200);
	meta_close(m);
	fixture_close(&f);
}

static void test_rollback_leaves_nothing(void **state)
{
	struct fixture f;

	fixture_open(&f);
	fixture_create(&f);
	struct meta *m = fixture_meta(&f, false);
	uint8_t blob[100] = {9};
	put_nodes(m, 1, 10, 1, 1000);
	assert_int_equal(m->ops->begin(m), 0);
	assert_int_equal(m->ops->node_put(m, 5, blob, sizeof(blob)), 0);
	assert_int_equal(m->ops->node_del(m, 6), 0);
	m->ops->rollback(m);
	m->ops->rollback(m); /* also when there is nothing to roll back */
	assert_int_equal(node_fill(m, 5), 1);
	assert_int_equal(node_fill(m, 6), 1);
	put_nodes(m, 5, 1, 3, 1000);
	assert_int_equal(node_fill(m, 5), 3);
	meta_close(m);
	fixture_close(&f);
}

static void test_wal_stays_bounded(void **state)
{
	struct fixture f;

	fixture_open(&f);
	fixture_create(&f);
	struct meta *m = fixture_meta(&f, false);
	for (unsigned i = 0; i < 60; i++)
		put_nodes(m, 1 + i * 100, 600, (uint8_t)i, 4000);
	assert_true(file_size_of(f.dir, "meta.db-wal") < 40u << 20);
	assert_true(file_size_of(f.dir, "meta.db") > 10u << 20);
	meta_close(m);
	fixture_close(&f);
}

/* Pages are allocated, freed, copied and reused in every order; none may be taken for damaged. */
static void test_churn_reads_back_and_checks_clean(void **state)
{
	enum { IDS = 400 };
	static uint16_t lens[IDS];
	struct fixture f;
	uint64_t random = 12345;
	uint8_t blob[NODE_BLOB_MAX];

	fixture_open(&f);
	fixture_create(&f);
	memset(lens, 0, sizeof(lens));
	struct meta *m = fixture_meta(&f, false);
	for (unsigned round = 0; round < 60; round++) {
		assert_int_equal(m->ops->begin(m), 0);
		for (unsigned i = 0; i < 200; i++) {
			random = random * 6364136223846793005ull + 1442695040888963407ull;
			const unsigned id = (unsigned)(random >> 33) % IDS;
			lens[id] =
			        random >> 62 ? (uint16_t)(1 + (random >> 40) % NODE_BLOB_MAX) : 0;
			memset(blob, (int)(id + lens[id]), sizeof(blob));
			if (lens[id])
				assert_int_equal(m->ops->node_put(m, id + 1, blob, lens[id]), 0);
			else
				assert_int_equal(m->ops->node_del(m, id + 1), 0);
		}
		assert_int_equal(m->ops->commit(m), 0);
		if (round % 5 == 0)
			assert_int_equal(meta_checkpoint(m), 0);
		if (round % 11 == 0) {
			meta_close(m);
			m = fixture_meta(&f, false);
		}
		for (unsigned id = 0; id < IDS; id++)
			assert_int_equal(node_fill(m, id + 1),
			        lens[id] ? (uint8_t)(id + lens[id]) : -ENOENT);
	}
	meta_close(m);
	fixture_close(&f);
}

static void test_read_only_changes_nothing(void **state)
{
	struct fixture f;
	struct store_state s;

	fixture_open(&f);
	fixture_create(&f);
	struct meta *m = fixture_meta(&f, false);
	put_nodes(m, 1, 10, 1, 1000);
	/* A copy taken now has a WAL to recover; then one without any WAL. */
	copy_file(&f, "meta.db");
	copy_file(&f, "meta.db-wal");
	meta_close(m);
	for (unsigned round = 0; round < 2; round++) {
		struct fixture g = f;
		struct faulty_io faults = *f.faults;
		faults.real = real_io(f.copy);
		faults.n_changes = 0;
		g.faults = &faults;
		g.io = &faults.base;
		const uint64_t wal = file_size_of(f.copy, "meta.db-wal");
		m = fixture_meta(&g, true);
		assert_int_equal(node_fill(m, 10), round == 0 ? 1 : -ENOENT);
		assert_int_equal(m->ops->state_get(m, &s), 0);
		assert_int_equal(m->ops->begin(m), -EROFS);
		meta_close(m);
		assert_int_equal(faults.n_changes, 0);
		assert_int_equal(file_size_of(f.copy, "meta.db-wal"), wal);
		io_free(faults.real);
		fixture_unlink(f.copy, "meta.db-wal");
	}
	fixture_close(&f);
}

static void write_file(struct fixture *f, const char *name, const void *data, size_t len)
{
	struct io_file *file = NULL;

	assert_int_equal(io_open(f->io, name, IO_WRITE | IO_CREATE | IO_TRUNC, &file), 0);
	assert_int_equal(io_pwrite(file, data, len, 0), 0);
	io_close(file);
}

static void test_what_is_no_datastore_is_refused(void **state)
{
	struct fixture f;
	struct errmsg em;
	struct meta *m = NULL;

	fixture_open(&f);
	assert_int_equal(meta_open(f.io, false, &m, &em), -EMEDIUMTYPE);
	write_file(&f, "meta.db", "", 0);
	assert_int_equal(meta_open(f.io, false, &m, &em), -EMEDIUMTYPE);
	write_file(&f, "meta.db", "SQLite format 3", 16);
	assert_int_equal(meta_open(f.io, true, &m, &em), -EMEDIUMTYPE);
	char cmd[300];
	snprintf(cmd, sizeof(cmd),
	        "rm %s/meta.db; sqlite3 %s/meta.db 'create table t(a); insert into t values(1)'",
	        f.dir, f.dir);
	if (system(cmd) == 0)
		assert_int_equal(meta_open(f.io, false, &m, &em), -EMEDIUMTYPE);
	assert_null(m);
	fixture_close(&f);
}

static void test_a_newer_version_is_refused(void **state)
{
	struct fixture f;
	struct errmsg em;
	struct meta *m = NULL;
	uint8_t page[8192];
	struct io_file *file = NULL;

	fixture_open(&f);
	fixture_create(&f);
	assert_int_equal(io_open(f.io, "meta.db", IO_WRITE, &file), 0);
	assert_int_equal(io_pread_exact(file, page, sizeof(page), 0), 0);
	page[63] = 200; /* user_version */
	dbvfs_page_seal(page, 1);
	assert_int_equal(io_pwrite(file, page, sizeof(page), 0), 0);
	io_close(file);
	assert_int_equal(meta_open(f.io, false, &m, &em), -EPROTONOSUPPORT);
	assert_non_null(strstr(em.text, "newer"));
	assert_int_equal(meta_open(f.io, true, &m, &em), -EPROTONOSUPPORT);
	assert_null(m);
	fixture_close(&f);
}

static void test_a_damaged_first_page_is_reported(void **state)
{
	struct fixture f;
	struct errmsg em;
	struct meta *m = NULL;

	fixture_open(&f);
	fixture_create(&f);
	flip_byte(f.dir, "meta.db", 3000);
	assert_int_equal(meta_open(f.io, false, &m, &em), -EUCLEAN);
	assert_int_equal(meta_open(f.io, true, &m, &em), -EUCLEAN);
	flip_byte(f.dir, "meta.db", 3000);
	flip_byte(f.dir, "meta.db", 16); /* the page size */
	assert_int_equal(meta_open(f.io, false, &m, &em), -EUCLEAN);
	flip_byte(f.dir, "meta.db", 16);
	meta_close(fixture_meta(&f, false));
	fixture_close(&f);
}

/* Every page in turn: reads either give what was put or -EIO, and most go on working. */
static void test_damaged_pages_are_errors_and_never_wrong_data(void **state)
{
	enum { NODES = 200 };
	struct fixture f;
	unsigned bad_pages = 0, good = 0, bad = 0;

	fixture_open(&f);
	fixture_create(&f);
	struct meta *m = fixture_meta(&f, false);
	put_nodes(m, 1, NODES, 7, 7000);
	meta_close(m);
	const uint64_t pages = file_size_of(f.dir, "meta.db") / 8192;
	assert_true(pages > 150);
	for (uint64_t page = 1; page < pages; page += 3) {
		const uint64_t at = page * 8192 + (page * 977) % 8192;
		struct errmsg em;
		flip_byte(f.dir, "meta.db", at);
		m = NULL;
		if (meta_open(f.io, true, &m, &em) == 0) {
			unsigned bad_here = 0;
			for (uint64_t id = 1; id <= NODES; id++) {
				const int r = node_fill(m, id);
				assert_true(r == 7 || r == -EUCLEAN); /* known for certain */
				bad_here += r == -EUCLEAN;
			}
			good += NODES - bad_here;
			bad += bad_here;
			bad_pages += bad_here > 0;
			if (bad_here > 0)
				assert_true(complaints(m) > 0);
		}
		meta_close(m);
		flip_byte(f.dir, "meta.db", at);
	}
	assert_true(bad_pages > 40);
	assert_true(good > 20 * bad);
	fixture_close(&f);
}

static void test_damage_in_the_wal_is_an_error_when_read(void **state)
{
	struct fixture f;
	unsigned bad = 0;

	fixture_open(&f);
	fixture_create(&f);
	struct meta *m = fixture_meta(&f, false);
	put_nodes(m, 1, 50, 7, 7000);
	for (uint64_t frame = 0; frame < 40; frame++)
		flip_byte(f.dir, "meta.db-wal", 32 + frame * (24 + 8192) + 24 + 100 * frame);
	for (uint64_t id = 1; id <= 50; id++) {
		const int r = node_fill(m, id);
		assert_true(r == 7 || r == -EIO);
		bad += r == -EIO;
	}
	assert_true(bad > 20);
	assert_true(meta_checkpoint(m) < 0); /* and it does not get into meta.db */
	meta_close(m);
	fixture_close(&f);
}

static void test_a_wal_damaged_before_its_last_commit_is_not_silently_cut(void **state)
{
	struct fixture f;
	struct errmsg em;
	struct meta *m = NULL;

	fixture_open(&f);
	fixture_create(&f);
	struct meta *n = fixture_meta(&f, false);
	for (unsigned i = 0; i < 5; i++)
		put_nodes(n, 1 + i * 10, 5, 7, 7000);
	copy_file(&f, "meta.db");
	copy_file(&f, "meta.db-wal");
	meta_close(n);
	struct io *io = real_io(f.copy);
	/* In the second frame, in the header, and cut in the last transaction. */
	flip_byte(f.copy, "meta.db-wal", 32 + 8216 + 500);
	assert_int_equal(meta_open(io, false, &m, &em), -EUCLEAN);
	flip_byte(f.copy, "meta.db-wal", 32 + 8216 + 500);
	flip_byte(f.copy, "meta.db-wal", 17);
	assert_int_equal(meta_open(io, true, &m, &em), -EUCLEAN);
	flip_byte(f.copy, "meta.db-wal", 17);
	flip_byte(f.copy, "meta.db-wal", file_size_of(f.copy, "meta.db-wal") - 5000);
	assert_int_equal(meta_open(io, false, &m, &em), 0);
	assert_int_equal(node_fill(m, 35), 7);
	assert_int_equal(node_fill(m, 41), -ENOENT);
	meta_close(m);
	io_free(io);
	fixture_close(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_create_then_open_gives_what_was_asked_for),
	        cmocka_unit_test(test_create_refuses_to_replace),
	        cmocka_unit_test(test_rows_come_back_after_reopen),
	        cmocka_unit_test(test_each_visits_all_in_order_and_stops_on_demand),
	        cmocka_unit_test(test_rollback_leaves_nothing),
	        cmocka_unit_test(test_wal_stays_bounded),
	        cmocka_unit_test(test_churn_reads_back_and_checks_clean),
	        cmocka_unit_test(test_read_only_changes_nothing),
	        cmocka_unit_test(test_what_is_no_datastore_is_refused),
	        cmocka_unit_test(test_a_newer_version_is_refused),
	        cmocka_unit_test(test_a_damaged_first_page_is_reported),
	        cmocka_unit_test(test_damaged_pages_are_errors_and_never_wrong_data),
	        cmocka_unit_test(test_damage_in_the_wal_is_an_error_when_read),
	        cmocka_unit_test(test_a_wal_damaged_before_its_last_commit_is_not_silently_cut),
	};

	log_set_level(getenv("WEIR_TEST_VERBOSE") ? LOG_NOTE : (enum log_level) - 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * test-meta-parked.c - records that wait for a key, and what a scrub leaves in meta.db
 */
#include "meta-fixture.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "sim/iosim.h"

/* --- parked records --- */

struct seen {
	char text[256];
	struct meta *m;
};

static int note(void *arg, uint64_t image, uint64_t id, const void *blob, size_t len)
{
	struct seen *s = arg;
	const size_t at = strlen(s->text);

	snprintf(s->text + at, sizeof(s->text) - at, "%llu.%llu=%.*s ", (unsigned long long)image,
	        (unsigned long long)id, (int)len, (const char *)blob);
	return 0;
}

static void expect_parked(struct meta *m, uint64_t image, const char *want)
{
	struct seen s = {.m = m};

	assert_int_equal(m->ops->parked_each(m, image, note, &s), 0);
	assert_string_equal(s.text, want);
}

static void test_parked_records_come_back_in_order(void **state)
{
	struct fixture f;

	fixture_open(&f);
	fixture_create(&f);
	struct meta *m = fixture_meta(&f, false);
	expect_parked(m, 0, "");
	assert_int_equal(m->ops->begin(m), 0);
	assert_int_equal(m->ops->parked_put(m, 9, 3, "c", 1), 0);
	assert_int_equal(m->ops->parked_put(m, 5, 10, "ten", 3), 0);
	assert_int_equal(m->ops->parked_put(m, 9, 1, "x", 1), 0);
	assert_int_equal(m->ops->parked_put(m, 9, 1, "aa", 2), 0);
	assert_int_equal(m->ops->commit(m), 0);
	meta_close(m);
	m = fixture_meta(&f, false);
	expect_parked(m, 0, "5.10=ten 9.1=aa 9.3=c ");
	expect_parked(m, 9, "9.1=aa 9.3=c ");
	expect_parked(m, 6, "");
	assert_int_equal(m->ops->begin(m), 0);
	assert_int_equal(m->ops->parked_del(m, 9, 1), 0);
	assert_int_equal(m->ops->parked_del(m, 9, 2), 0);
	m->ops->rollback(m);
	expect_parked(m, 9, "9.1=aa 9.3=c ");
	assert_int_equal(m->ops->begin(m), 0);
	assert_int_equal(m->ops->parked_del(m, 9, 1), 0);
	assert_int_equal(m->ops->parked_del(m, 5, 0), 0);
	assert_int_equal(m->ops->commit(m), 0);
	expect_parked(m, 0, "9.3=c ");
	assert_int_equal(complaints(m), 0);
	meta_close(m);
	fixture_close(&f);
}

/* --- scrub --- */

#define NODES   600u
#define PATTERN "what was in a map leaf once"

/* So many ids are given out. */
static void nodes_known(struct meta *m)
{
	struct store_state st;

	assert_int_equal(m->ops->state_get(m, &st), 0);
	st.next_node = 10000;
	assert_int_equal(m->ops->begin(m), 0);
	assert_int_equal(m->ops->state_put(m, &st), 0);
	assert_int_equal(m->ops->commit(m), 0);
}

/* Nothing can hide in here but the pattern, over and over. */
static void put_nodes(struct meta *m, uint64_t first, uint64_t n, const char *text, size_t len)
{
	uint8_t blob[NODE_BLOB_MAX];

	for (size_t i = 0; i < len; i++)
		blob[i] = (uint8_t)text[i % strlen(text)];
	assert_int_equal(m->ops->begin(m), 0);
	for (uint64_t id = first; id < first + n; id++)
		assert_int_equal(m->ops->node_put(m, id, blob, len), 0);
	assert_int_equal(m->ops->commit(m), 0);
}

static void del_nodes(struct meta *m, uint64_t first, uint64_t n, uint64_t step)
{
	assert_int_equal(m->ops->begin(m), 0);
	for (uint64_t id = first; id < first + n; id += step)
		assert_int_equal(m->ops->node_del(m, id), 0);
	assert_int_equal(m->ops->commit(m), 0);
}

/* How often the pattern is in a file of the directory. */
static unsigned occurrences(const struct fixture *f, const char *name)
{
	char path[256];
	struct stat st;
	unsigned n = 0;

	snprintf(path, sizeof(path), "%s/%s", f->dir, name);
	const int fd = open(path, O_RDONLY);
	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &st), 0);
	char *all = malloc((size_t)st.st_size + 1);
	assert_int_equal(read(fd, all, (size_t)st.st_size), st.st_size);
	close(fd);
	for (char *at = all;
	        (at = memmem(at, (size_t)(all + st.st_size - at), PATTERN, strlen(PATTERN))); at++)
		n++;
	free(all);
	return n;
}

static void test_a_scrub_leaves_nothing_of_deleted_and_replaced_rows(void **state)
{
	struct fixture f;

	fixture_open(&f);
	fixture_create(&f);
	struct meta *m = fixture_meta(&f, false);
	nodes_known(m);
	put_nodes(m, 1, NODES, PATTERN, 1900);
	assert_int_equal(meta_checkpoint(m), 0);
	put_nodes(m, 1, NODES / 3, "sealed", 1950);
	del_nodes(m, NODES / 3 + 1, NODES / 3, 2);     /* every other one: pages stay in use */
	del_nodes(m, NODES / 3 * 2 + 1, NODES / 3, 1); /* whole pages */
	assert_int_equal(meta_checkpoint(m), 0);
	assert_true(occurrences(&f, "meta.db") + occurrences(&f, "meta.db-wal") > 0);
	del_nodes(m, NODES / 3 + 1, NODES / 3, 1);
	assert_int_equal(m->ops->scrub(m), 0);
	assert_int_equal(occurrences(&f, "meta.db"), 0);
	assert_int_equal(file_size_of(f.dir, "meta.db-wal"), 0);
	expect_parked(m, 0, ""); /* what filled the free pages has gone */
	assert_int_equal(complaints(m), 0);
	/* And all works as before. */
	put_nodes(m, NODES, 10, "sealed", 100);
	assert_int_equal(m->ops->scrub(m), 0);
	meta_close(m);
	m = fixture_meta(&f, false);
	assert_int_equal(complaints(m), 0);
	meta_close(m);
	fixture_close(&f);
}

static void test_what_the_wal_held_is_overwritten_before_it_is_cut(void **state)
{
	struct fixture f;
	char path[256], held[256];

	fixture_open(&f);
	fixture_create(&f);
	struct meta *m = fixture_meta(&f, false);
	put_nodes(m, 1, 50, PATTERN, 1900);
	del_nodes(m, 1, 50, 1);
	assert_true(occurrences(&f, "meta.db-wal") > 0);
	/* A second name keeps hold of the file's blocks, were it replaced instead. */
	snprintf(path, sizeof(path), "%s/meta.db-wal", f.dir);
	snprintf(held, sizeof(held), "%s/held", f.dir);
	assert_int_equal(link(path, held), 0);
	assert_int_equal(m->ops->scrub(m), 0);
	assert_int_equal(occurrences(&f, "held"), 0);
	assert_int_equal(unlink(held), 0);
	meta_close(m);
	fixture_close(&f);
}

static void test_a_failure_during_a_scrub_is_told_and_harmless(void **state)
{
	for (int at = 1;; at++) {
		struct fixture f;

		fixture_open(&f);
		fixture_create(&f);
		struct meta *m = fixture_meta(&f, false);
		nodes_known(m);
		put_nodes(m, 1, 200, PATTERN, 1900);
		put_nodes(m, 1000, 10, "kept", 500);
		del_nodes(m, 1, 200, 1);
		struct faulty_io *io = faulty_of(f.io);
		io->ops = FAULTY_WRITE | FAULTY_SYNC | FAULTY_OTHER;
		io->n = 0;
		io->fail_at = at;
		io->fail_n = 1;
		io->fail_errno = -EIO;
		const int r = m->ops->scrub(m);
		const bool hit = io->n >= at;
		io->fail_at = 0;
		assert_true(hit || r == 0);
		assert_int_equal(m->ops->scrub(m), 0);
		assert_int_equal(occurrences(&f, "meta.db"), 0);
		put_nodes(m, 2000, 1, "more", 10);
		assert_int_equal(complaints(m), 0);
		meta_close(m);
		m = fixture_meta(&f, false);
		assert_int_equal(complaints(m), 0);
		expect_parked(m, 0, "");
		meta_close(m);
		fixture_close(&f);
		if (!hit)
			return;
	}
}

/* --- and power cuts --- */

static void sim_put(struct meta *m, uint64_t first, uint64_t n, const char *text)
{
	assert_int_equal(m->ops->begin(m), 0);
	for (uint64_t id = first; id < first + n; id++)
		assert_int_equal(m->ops->node_put(m, id, text, strlen(text)), 0);
	assert_int_equal(m->ops->commit(m), 0);
}

/* Cuts the power at this step of a scrub; whether it was reached. */
static bool scrub_cut(uint64_t step, uint64_t seed)
{
	const struct meta_create_params params = {.index_bytes = 1 << 20, .log_bytes = 2 << 20};
	struct errmsg em = {""};
	struct iosim *sim = NULL;
	struct meta *m = NULL;
	uint8_t blob[NODE_BLOB_MAX];
	size_t len = 0;

	iosim_create(seed, &sim);
	assert_int_equal(meta_create(iosim_io(sim), &params, &em), 0);
	assert_int_equal(meta_open(iosim_io(sim), false, &m, &em), 0);
	nodes_known(m);
	for (unsigned i = 0; i < 20; i++) /* many commits in the WAL */
		sim_put(m, 1 + i * 10, 10, PATTERN);
	del_nodes(m, 11, 150, 1);
	sim_put(m, 500, 10, "kept");
	iosim_crash_at(sim, iosim_steps(sim) + step);
	const int r = m->ops->scrub(m);
	const bool cut = iosim_is_off(sim);
	assert_true(cut || r == 0);
	meta_close(m);
	iosim_crash(sim, IOSIM_RANDOM, seed * 7919 + step);
	if (meta_open(iosim_io(sim), false, &m, &em) < 0)
		fail_msg("step %llu, seed %llu: %s", (unsigned long long)step,
		        (unsigned long long)seed, em.text);
	assert_int_equal(complaints(m), 0);
	assert_int_equal(m->ops->node_get(m, 505, blob, sizeof(blob), &len), 0);
	assert_memory_equal(blob, "kept", len);
	assert_int_equal(m->ops->node_get(m, 50, blob, sizeof(blob), &len), -ENOENT);
	meta_close(m);
	iosim_free(sim);
	return cut;
}

static void test_a_power_cut_during_a_scrub_costs_nothing(void **state)
{
	uint64_t step = 1;

	for (bool cut = true; cut; step++)
		for (uint64_t seed = 1; cut && seed <= 25; seed++)
			cut = scrub_cut(step, seed);
	assert_true(step > 5);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_parked_records_come_back_in_order),
	        cmocka_unit_test(test_a_scrub_leaves_nothing_of_deleted_and_replaced_rows),
	        cmocka_unit_test(test_what_the_wal_held_is_overwritten_before_it_is_cut),
	        cmocka_unit_test(test_a_failure_during_a_scrub_is_told_and_harmless),
	        cmocka_unit_test(test_a_power_cut_during_a_scrub_costs_nothing),
	};

	log_set_level((enum log_level) - 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

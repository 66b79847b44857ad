/*
 * test-records.c - records against an in-memory oracle; inodes that go; numbers; the upgrade
 *
 * As in test-namespace.c: random changes, with groups frozen, committed, failed and repeated, and
 * the datastore reopened with the rows of uncommitted groups replayed.  WEIR_TEST_SEED repeats a
 * run.
 */
#include <sys/stat.h>

#include "base/clock.h"
#include "meta/records.h"
#include "ns-engine.h"

enum { OWNERS = 6, IDS = 40 };

struct oracle {
	bool exists[OWNERS];                        /* inodes */
	uint32_t value[RECORD_TABLES][OWNERS][IDS]; /* 0: none */
};

static bool of_inode(enum record_table t)
{
	return t == RECORD_ATTACHMENT || t == RECORD_FILTER_STATE || t == RECORD_JOB ||
	       t == RECORD_FLAG;
}

/* A JSON object, sometimes long. */
static size_t value_text(uint32_t value, char *buf, size_t cap)
{
	const int pad = value % 7 == 0 ? 70000 : (int)(value % 50);

	return (size_t)snprintf(buf, cap, "{\"v\":%u,\"pad\":\"%*s\"}", value, pad, "");
}

static char text[1 << 17];

static void put(struct engine *e, struct oracle *o, enum record_table t, unsigned owner,
        unsigned id, uint32_t value)
{
	const size_t len = value_text(value, text, sizeof(text));

	assert_int_equal(ns_record_put(e->ns, t, owner, id, text, len), 0);
	o->value[t][owner][id] = value;
}

static void put_inode(struct engine *e, struct oracle *o, unsigned ino)
{
	const struct ns_inode inode = {.ino = ino, .mode = S_IFREG | 0644, .nlink = 0};

	assert_int_equal(ns_inode_put(e->ns, &inode), 0);
	o->exists[ino] = true;
}

static void del_inode(struct engine *e, struct oracle *o, unsigned ino)
{
	assert_int_equal(ns_inode_del(e->ns, ino), 0);
	o->exists[ino] = false;
	for (enum record_table t = 1; t < RECORD_TABLES; t++)
		if (of_inode(t))
			memset(o->value[t][ino], 0, sizeof(o->value[t][ino]));
}

struct seen {
	const struct oracle *o;
	enum record_table table;
	uint64_t owner, id; /* the last one */
	unsigned n;
};

static int see(void *arg, uint64_t owner, uint64_t id, const void *value, size_t len)
{
	struct seen *s = arg;

	assert_true(!s->n || owner > s->owner || (owner == s->owner && id > s->id));
	assert_true(owner < OWNERS && id < IDS);
	assert_int_equal(len, value_text(s->o->value[s->table][owner][id], text, sizeof(text)));
	assert_memory_equal(value, text, len);
	s->owner = owner;
	s->id = id;
	s->n++;
	return 0;
}

static void check_one(
        struct engine *e, const struct oracle *o, enum record_table t, unsigned owner, unsigned id)
{
	struct bytes_out got = {0};
	const int r = ns_record_get(e->ns, t, owner, id, &got);

	if (!o->value[t][owner][id]) {
		assert_int_equal(r, -ENOENT);
		return;
	}
	assert_int_equal(r, 0);
	assert_int_equal(got.len, value_text(o->value[t][owner][id], text, sizeof(text)));
	assert_memory_equal(got.data, text, got.len);
	bytes_release(&got);
}

static void check_lists(struct engine *e, const struct oracle *o, enum record_table t)
{
	unsigned n_all = 0;

	for (unsigned owner = 0; owner < OWNERS; owner++) {
		struct seen from = {o, t}, part = {o, t};
		unsigned n = 0, n_part = 0;
		uint64_t last = 0, want_last = 0;
		for (unsigned id = 0; id < IDS; id++) {
			n += o->value[t][owner][id] != 0;
			n_part += id >= 17 && o->value[t][owner][id] != 0;
			want_last = o->value[t][owner][id] ? id : want_last;
		}
		assert_int_equal(ns_record_each(e->ns, t, owner, 0, see, &from), 0);
		assert_int_equal(from.n, n);
		assert_int_equal(ns_record_each(e->ns, t, owner, 17, see, &part), 0);
		assert_int_equal(part.n, n_part);
		assert_int_equal(ns_record_last(e->ns, t, owner, &last), 0);
		assert_int_equal(last, want_last);
		n_all += n;
	}
	struct seen all = {o, t};
	assert_int_equal(ns_record_each_owner(e->ns, t, see, &all), 0);
	assert_int_equal(all.n, n_all);
}

static void check_all(struct engine *e, const struct oracle *o)
{
	for (enum record_table t = 1; t < RECORD_TABLES; t++) {
		for (unsigned owner = 0; owner < OWNERS; owner++)
			for (unsigned id = 0; id < IDS; id++)
				check_one(e, o, t, owner, id);
		check_lists(e, o, t);
	}
}

static void step_row(struct engine *e, struct oracle *o, uint64_t *random)
{
	const enum record_table t = 1 + random_next(random, RECORD_TABLES - 1);
	const unsigned owner = random_next(random, OWNERS), id = random_next(random, IDS);

	if (of_inode(t) && !o->exists[owner]) {
		if (owner > 1)
			put_inode(e, o, owner);
		return;
	}
	if (random_next(random, 4)) {
		put(e, o, t, owner, id, 1 + random_next(random, 1000));
	} else {
		assert_int_equal(ns_record_del(e->ns, t, owner, id), 0);
		o->value[t][owner][id] = 0;
	}
}

static void step_group(struct engine *e, struct oracle *o, uint64_t *random)
{
	const uint32_t what = random_next(random, 100);

	if (what < 40)
		engine_freeze(e);
	else if (what < 80)
		assert_int_equal(engine_commit(e), 0);
	else if (what < 90)
		engine_reopen(e);
	else if (o->exists[2 + what % (OWNERS - 2)])
		del_inode(e, o, 2 + what % (OWNERS - 2));
	if (random_next(random, 8) == 0)
		check_all(e, o);
}

static void test_records_are_what_was_put(void **state)
{
	const char *given = getenv("WEIR_TEST_SEED");
	uint64_t random = given ? strtoull(given, NULL, 0) : clock_now_ns() | 1;
	static struct oracle o;
	struct engine e;

	printf("seed %llu\n", (unsigned long long)random);
	memset(&o, 0, sizeof(o));
	engine_open(&e);
	o.exists[1] = true; /* the root */
	for (int i = 0; i < 3000; i++) {
		step_row(&e, &o, &random);
		if (random_next(&random, 20) == 0)
			step_group(&e, &o, &random);
	}
	check_all(&e, &o);
	engine_reopen(&e);
	check_all(&e, &o);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(engine_commit(&e), 0);
		engine_freeze(&e);
	}
	check_all(&e, &o);
	engine_reopen(&e);
	check_all(&e, &o);
	engine_close(&e);
}

/* Tables without more than the general rules, so that meta_check is content. */
static void test_what_an_inode_owns_goes_with_it(void **state)
{
	static const enum record_table tables[] = {
	        RECORD_ATTACHMENT, RECORD_FILTER_STATE, RECORD_JOB, RECORD_FLAG, RECORD_POLICY};
	static struct oracle o;
	struct engine e;

	memset(&o, 0, sizeof(o));
	engine_open(&e);
	put_inode(&e, &o, 3);
	for (size_t i = 0; i < ARRAY_SIZE(tables); i++)
		put(&e, &o, tables[i], 3, 4, 1 + (uint32_t)i);
	engine_freeze(&e);
	assert_int_equal(engine_commit(&e), 0);
	put(&e, &o, RECORD_JOB, 3, 5, 9); /* pending */
	del_inode(&e, &o, 3);
	check_all(&e, &o);
	put_inode(&e, &o, 3); /* back, with something new */
	put(&e, &o, RECORD_JOB, 3, 6, 10);
	check_all(&e, &o);
	engine_freeze(&e);
	put(&e, &o, RECORD_FLAG, 3, 1, 11);
	assert_int_equal(engine_commit(&e), 0);
	check_all(&e, &o);
	assert_int_equal(complaints(e.m), 0);
	engine_close(&e);
}

static int stop_at_three(void *arg, uint64_t owner, uint64_t id, const void *value, size_t len)
{
	(void)owner, (void)value, (void)len;
	++*(unsigned *)arg;
	return id == 3 ? -EINTR : 0;
}

static void test_a_list_ends_when_its_function_says_so(void **state)
{
	static struct oracle o;
	struct engine e;
	unsigned n = 0;

	engine_open(&e);
	for (unsigned id = 1; id < 10; id++)
		put(&e, &o, RECORD_POLICY, 0, id, id);
	assert_int_equal(ns_record_each(e.ns, RECORD_POLICY, 0, 0, stop_at_three, &n), -EINTR);
	assert_int_equal(n, 3);
	assert_int_equal(
	        ns_record_put(e.ns, RECORD_POLICY, 0, 1, text, RECORD_VALUE_MAX + 1), -E2BIG);
	assert_int_equal(ns_record_put(e.ns, RECORD_JOB, 0, 1, "{}", 2), -EINVAL);
	engine_close(&e);
}

/* --- beside commits --- */

enum { STEADY = 100, ROUNDS = 2000 };

struct steady {
	struct engine *e;
	atomic_bool end;
	atomic_int error; /* what went wrong */
	unsigned next;
	uint32_t seen[STEADY]; /* the value of each: only grows */
};

static int see_steady(void *arg, uint64_t owner, uint64_t id, const void *value, size_t len)
{
	struct steady *s = arg;

	(void)owner;
	if (len != sizeof(uint32_t) || id != s->next++ || get_u32(value) < s->seen[id])
		return -EILSEQ;
	s->seen[id] = get_u32(value);
	return 0;
}

static void put_steady(struct engine *e, unsigned id, uint32_t value)
{
	uint8_t bytes[sizeof(value)];

	put_u32(bytes, value);
	assert_int_equal(ns_record_put(e->ns, RECORD_FILTER_STATE, 1, id, bytes, sizeof(bytes)), 0);
}

/* No assertions: this is not the thread that they may end. */
static int list_once(struct steady *s, unsigned id)
{
	struct bytes_out value = {0};
	uint64_t last = 0;

	s->next = 0;
	int r = ns_record_each(s->e->ns, RECORD_FILTER_STATE, 1, 0, see_steady, s);
	if (r == 0 && s->next != STEADY)
		r = -ENOENT;
	if (r == 0)
		r = ns_record_get(s->e->ns, RECORD_FILTER_STATE, 1, id, &value);
	if (r == 0 && get_u32(value.data) < s->seen[id])
		r = -ESTALE;
	bytes_release(&value);
	if (r == 0)
		r = ns_record_last(s->e->ns, RECORD_FILTER_STATE, 1, &last);
	return r == 0 && last != STEADY - 1 ? -ERANGE : r;
}

static void *list_steady(void *arg)
{
	struct steady *s = arg;

	for (unsigned i = 0; !s->end && !s->error; i++)
		s->error = list_once(s, i % STEADY);
	return NULL;
}

/* Rows go from pending to committed all the time; no reader misses one, or sees an older one again. */
static void test_lists_beside_commits_lose_and_repeat_nothing(void **state)
{
	struct engine e;
	struct steady s = {.e = &e};
	pthread_t reader;
	uint64_t random = 7;

	engine_open(&e);
	for (unsigned id = 0; id < STEADY; id++)
		put_steady(&e, id, 0);
	assert_int_equal(pthread_create(&reader, NULL, list_steady, &s), 0);
	for (unsigned i = 0; i < ROUNDS; i++) {
		put_steady(&e, random_next(&random, STEADY), i);
		if (i % 4 == 0) {
			engine_freeze(&e);
			assert_int_equal(engine_commit(&e), 0);
		}
	}
	s.end = true;
	pthread_join(reader, NULL);
	assert_int_equal(s.error, 0);
	engine_close(&e);
}

/* --- numbers --- */

static void test_a_number_is_never_given_twice(void **state)
{
	struct engine e;

	engine_open(&e);
	assert_int_equal(ns_number_alloc(e.ns), 1);
	const uint64_t key = ns_number_alloc(e.ns), domain = ns_number_alloc(e.ns);
	assert_int_equal(ns_record_put(e.ns, RECORD_KEY, 0, key, "{}", 2), 0);
	engine_freeze(&e);
	assert_int_equal(engine_commit(&e), 0);
	assert_int_equal(ns_record_put(e.ns, RECORD_KEYSLOT, domain, 0, "x", 1), 0);
	assert_int_equal(ns_record_del(e.ns, RECORD_KEYSLOT, domain, 0), 0);
	engine_reopen(&e); /* a crash: the rows come from the log */
	assert_int_equal(ns_number_alloc(e.ns), domain + 1);
	assert_int_equal(ns_record_put(e.ns, RECORD_FILTER_STATE, 1, 77 << 16 | 5, "", 0), 0);
	assert_int_equal(
	        ns_record_put(e.ns, RECORD_AUDIT, 0, 1, "{}", 2), 0); /* counts for itself */
	engine_freeze(&e);
	assert_int_equal(engine_commit(&e), 0);
	assert_int_equal(ns_record_del(e.ns, RECORD_FILTER_STATE, 1, 77 << 16 | 5), 0);
	engine_freeze(&e);
	assert_int_equal(engine_commit(&e), 0);
	engine_reopen(&e); /* from meta.db */
	assert_int_equal(ns_number_alloc(e.ns), 78);
	assert_int_equal(complaints(e.m), 0);
	engine_close(&e);
}

/* --- what meta_check finds --- */

static void put_raw(
        struct engine *e, enum record_table t, uint64_t owner, uint64_t id, const char *value)
{
	assert_int_equal(ns_record_put(e->ns, t, owner, id, value, strlen(value)), 0);
	engine_freeze(e);
	assert_int_equal(engine_commit(e), 0);
}

static void test_check_finds_records_that_do_not_fit(void **state)
{
	struct engine e;

	engine_open(&e);
	put_raw(&e, RECORD_ATTACHMENT, 1, 1, "{\"type\":\"throttle\"}");
	put_raw(&e, RECORD_KEYSLOT, 2, 0, "bytes");
	put_raw(&e, RECORD_KEYSLOT, 3, 1, "bytes");
	put_raw(&e, RECORD_KEY, 0, 1, "{\"domain\":3,\"rotating_from\":[2]}");
	put_raw(&e, RECORD_ATTACHMENT, 1, 2, "{\"domain\":2}");
	put_raw(&e, RECORD_AUDIT, 0, 1, "{}");
	put_raw(&e, RECORD_AUDIT, 0, 2, "{}");
	assert_int_equal(complaints(e.m), 0);
	put_raw(&e, RECORD_ATTACHMENT, 50, 1, "{}"); /* of no inode */
	assert_int_equal(complaints(e.m), 1);
	put_raw(&e, RECORD_POLICY, 0, 1, "{"); /* not JSON */
	assert_int_equal(complaints(e.m), 2);
	put_raw(&e, RECORD_AUDIT, 0, 4, "{}"); /* 3 is missing */
	assert_int_equal(complaints(e.m), 3);
	put_raw(&e, RECORD_ATTACHMENT, 1, 2, "{\"domain\":7}"); /* no key has it */
	assert_int_equal(complaints(e.m), 4);
	put_raw(&e, RECORD_KEYSLOT, 5, 0, "bytes");
	assert_int_equal(complaints(e.m), 5);
	put_raw(&e, RECORD_KEY, 0, 1, "{\"domain\":3,\"rotating_from\":[2,4]}"); /* slotless */
	assert_int_equal(complaints(e.m), 6);
	engine_close(&e);
}

/* --- an older datastore --- */

static void shell(const char *format, const char *a, const char *b)
{
	char cmd[512];

	snprintf(cmd, sizeof(cmd), format, a, b);
	assert_int_equal(system(cmd), 0);
}

static void test_a_datastore_of_version_1_is_upgraded(void **state)
{
	struct engine e = {0};
	struct errmsg em = {""};
	struct meta_info info;
	struct meta *m = NULL;
	uint64_t ino = 0;
	char value[8];
	size_t len = 0;

	pthread_mutex_init(&e.lock, NULL);
	fixture_open(&e.f);
	shell("gzip -dc %s/meta-001.db.gz > %s/meta.db", TEST_DATA, e.f.dir);
	assert_int_equal(meta_open(e.f.io, true, &m, &em), -EROFS);
	assert_non_null(strstr(em.text, "older"));
	for (int i = 0; i < 2; i++) {
		engine_start(&e);
		assert_int_equal(meta_info_get(e.m, &info), 0);
		assert_int_equal(info.schema_version, 3);
		assert_int_equal(ns_lookup_path(e.ns, "vm/a.raw", &ino), 0);
		assert_int_equal(ns_xattr_get(e.ns, ino, "user.k", value, sizeof(value), &len), 0);
		assert_int_equal(complaints(e.m), 0);
		assert_int_equal(ns_number_alloc(e.ns), 1 + i);
		put_raw(&e, RECORD_ATTACHMENT, ino, 1, "{}");
		ns_close(e.ns);
		meta_close(e.m);
	}
	engine_start(&e);
	engine_close(&e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_records_are_what_was_put),
	        cmocka_unit_test(test_what_an_inode_owns_goes_with_it),
	        cmocka_unit_test(test_a_list_ends_when_its_function_says_so),
	        cmocka_unit_test(test_lists_beside_commits_lose_and_repeat_nothing),
	        cmocka_unit_test(test_a_number_is_never_given_twice),
	        cmocka_unit_test(test_check_finds_records_that_do_not_fit),
	        cmocka_unit_test(test_a_datastore_of_version_1_is_upgraded),
	};

	log_set_level(getenv("WEIR_TEST_VERBOSE") ? LOG_NOTE : (enum log_level) - 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * test-namespace.c - the namespace against an in-memory oracle
 *
 * Random changes, with groups frozen, committed, failed and repeated, and the datastore reopened
 * with the rows of uncommitted groups replayed from a log, in any order.  The seed is printed;
 * WEIR_TEST_SEED repeats a run.
 */
#include <pthread.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "meta/rows.h"
#include "ns-engine.h"

enum { INOS = 60, NAMES = 40, DIRS = 4, KEYS = 6 };

/* --- the oracle --- */

struct oracle_inode {
	bool exists;
	uint64_t size;
	uint32_t nlink, mode;
	int keys[KEYS]; /* length of value, 0: none */
	int target;     /* 0: none */
};

struct oracle_name {
	uint64_t ino; /* 0: none */
	uint64_t id;  /* as last seen; 0: not yet */
};

struct model {
	struct engine e;
	uint64_t random;
	struct oracle_inode inodes[INOS]; /* by ino - 2 */
	struct oracle_name names[DIRS][NAMES];
};

static uint32_t pick(struct model *o, uint32_t n)
{
	o->random ^= o->random << 13;
	o->random ^= o->random >> 7;
	o->random ^= o->random << 17;
	return (uint32_t)((o->random >> 16) % n);
}

static const char *name_text(unsigned i, char buf[32])
{
	snprintf(buf, 32, i % 2 ? "n%u" : "\xff\x01%u long name", i);
	return buf;
}

static const char *key_text(unsigned i, char buf[32])
{
	snprintf(buf, 32, "user.key%u", i);
	return buf;
}

static void change_inode(struct model *o, unsigned i)
{
	struct oracle_inode *x = &o->inodes[i];

	if (x->exists && pick(o, 4) == 0) {
		assert_int_equal(ns_inode_del(o->e.ns, i + 2), 0);
		*x = (struct oracle_inode){0};
		return;
	}
	x->exists = true;
	x->size = pick(o, 100000);
	x->nlink = pick(o, 3);
	x->mode = (i % 3 ? S_IFREG : S_IFLNK) | 0600;
	const struct ns_inode put = {
	        .ino = i + 2, .mode = x->mode, .nlink = x->nlink, .size = x->size, .uid = 5};
	assert_int_equal(ns_inode_put(o->e.ns, &put), 0);
}

static void change_name(struct model *o)
{
	const unsigned d = pick(o, DIRS), n = pick(o, NAMES);
	struct oracle_name *x = &o->names[d][n];
	char buf[32];

	if (pick(o, 3) == 0) {
		assert_int_equal(ns_name_del(o->e.ns, d + 1000, name_text(n, buf)), 0);
		*x = (struct oracle_name){0};
		return;
	}
	x->ino = 2 + pick(o, INOS);
	assert_int_equal(ns_name_put(o->e.ns, d + 1000, name_text(n, buf), x->ino, S_IFREG), 0);
}

static void change_value(struct model *o)
{
	const unsigned i = pick(o, INOS), k = pick(o, KEYS);
	struct oracle_inode *x = &o->inodes[i];
	static const uint8_t value[20000];
	char buf[32], target[600];

	if (!x->exists)
		return;
	if (pick(o, 3) == 0) {
		const int r = ns_xattr_del(o->e.ns, i + 2, key_text(k, buf));
		assert_int_equal(r, x->keys[k] ? 0 : -ENODATA);
		x->keys[k] = 0;
	} else if (pick(o, 4) == 0) {
		x->target = 1 + (int)pick(o, 500);
		memset(target, 't', sizeof(target));
		target[x->target] = '\0';
		assert_int_equal(ns_symlink_put(o->e.ns, i + 2, target), 0);
	} else {
		x->keys[k] = 1 + (int)pick(o, 50) * (int)pick(o, 400);
		assert_int_equal(
		        ns_xattr_put(o->e.ns, i + 2, key_text(k, buf), value, (size_t)x->keys[k]),
		        0);
	}
}

/* --- comparing --- */

static void check_values(struct model *o, unsigned i)
{
	const struct oracle_inode *x = &o->inodes[i];
	char buf[32], target[600], list[KEYS * 16];
	size_t len = 0, want = 0;

	for (unsigned k = 0; k < KEYS; k++) {
		const int r = ns_xattr_get(o->e.ns, i + 2, key_text(k, buf), NULL, 0, &len);
		assert_int_equal(r, x->keys[k] ? 0 : -ENODATA);
		if (r == 0)
			assert_int_equal(len, x->keys[k]);
		want += x->keys[k] ? strlen(buf) + 1 : 0;
	}
	assert_int_equal(ns_xattr_list(o->e.ns, i + 2, list, sizeof(list), &len), 0);
	assert_int_equal(len, want);
	for (size_t at = 0; at < len; at += strlen(list + at) + 1)
		assert_true(x->keys[list[at + 8] - '0'] > 0);
	const int r = ns_symlink_get(o->e.ns, i + 2, target, sizeof(target));
	assert_int_equal(r, x->target ? 0 : -ENOENT);
	if (r == 0)
		assert_int_equal(strlen(target), x->target);
}

struct visit {
	struct model *o;
	unsigned dir, n, limit;
	uint64_t last;
	bool seen[NAMES];
};

static int visit_name(void *arg, const char *name, uint64_t ino, uint32_t mode, uint64_t cookie)
{
	struct visit *v = arg;
	char buf[32];

	if (v->n == v->limit)
		return 1;
	assert_true(cookie > v->last);
	v->last = cookie;
	v->n++;
	unsigned i = 0;
	while (i < NAMES && strcmp(name_text(i, buf), name) != 0)
		i++;
	assert_true(i < NAMES);
	struct oracle_name *x = &v->o->names[v->dir][i];
	assert_int_equal(x->ino, ino);
	assert_true(x->id == 0 || x->id == cookie); /* it keeps its cookie */
	assert_false(v->seen[i]);
	x->id = cookie;
	v->seen[i] = true;
	return 0;
}

static void check_names(struct model *o, unsigned d)
{
	struct visit v = {.o = o, .dir = d, .limit = 1 + pick(o, NAMES)};
	unsigned want = 0;
	char buf[32];

	for (unsigned n = 0; n < NAMES; n++) {
		uint64_t ino = 0;
		uint32_t mode = 0;
		const int r = ns_name_get(o->e.ns, d + 1000, name_text(n, buf), &ino, &mode);
		assert_int_equal(r, o->names[d][n].ino ? 0 : -ENOENT);
		assert_int_equal(ino, o->names[d][n].ino);
		want += o->names[d][n].ino != 0;
	}
	for (unsigned before = 1; before != v.n;) { /* in pieces, each from the last cookie */
		before = v.n;
		v.limit += 1 + pick(o, 20);
		assert_int_equal(ns_name_each(o->e.ns, d + 1000, v.last, visit_name, &v), 0);
		if (v.n < v.limit)
			break;
	}
	assert_int_equal(v.n, want);
	bool empty = false;
	assert_int_equal(ns_dir_empty(o->e.ns, d + 1000, &empty), 0);
	assert_true(empty == (want == 0));
}

struct inode_visit {
	struct model *o;
	enum ns_inode_filter filter;
	uint64_t last, n;
};

static int visit_inode(void *arg, const struct ns_inode *i)
{
	struct inode_visit *v = arg;

	assert_true(i->ino > v->last);
	v->last = i->ino;
	if (i->ino == NS_ROOT_INO)
		return 0;
	const struct oracle_inode *x = &v->o->inodes[i->ino - 2];
	assert_true(x->exists);
	assert_int_equal(x->size, i->size);
	assert_int_equal(x->nlink, i->nlink);
	assert_true(v->filter != NS_REGULAR || S_ISREG(i->mode));
	assert_true(v->filter != NS_ORPHANS || i->nlink == 0);
	v->n++;
	return 0;
}

static void check_inodes(struct model *o)
{
	uint64_t n[3] = {0}, bytes = 0, got_n = 0, got_bytes = 0;

	for (unsigned i = 0; i < INOS; i++) {
		const struct oracle_inode *x = &o->inodes[i];
		struct ns_inode got;
		assert_int_equal(ns_inode_get(o->e.ns, i + 2, &got), x->exists ? 0 : -ENOENT);
		if (!x->exists)
			continue;
		assert_int_equal(got.size, x->size);
		assert_int_equal(got.mode, x->mode);
		n[NS_ALL]++;
		n[NS_REGULAR] += S_ISREG(x->mode);
		n[NS_ORPHANS] += x->nlink == 0;
		bytes += S_ISREG(x->mode) ? x->size : 0;
	}
	for (unsigned filter = 0; filter < 3; filter++) {
		struct inode_visit v = {.o = o, .filter = (enum ns_inode_filter)filter};
		assert_int_equal(ns_inode_each(o->e.ns, v.filter, visit_inode, &v), 0);
		assert_int_equal(v.n, n[filter]);
	}
	assert_int_equal(ns_totals(o->e.ns, &got_n, &got_bytes), 0);
	assert_int_equal(got_n, n[NS_ALL] + 1);
	assert_int_equal(got_bytes, bytes);
}

static void check_all(struct model *o)
{
	check_inodes(o);
	for (unsigned i = 0; i < INOS; i++)
		check_values(o, i);
	for (unsigned d = 0; d < DIRS; d++)
		check_names(o, d);
}

static void commit_or_fail(struct model *o)
{
	if (pick(o, 3) == 0)
		faults_on(&o->e.f, FAULTY_WRITE | FAULTY_SYNC | FAULTY_OTHER, 1 + (int)pick(o, 30),
		        1 + (int)pick(o, 3), pick(o, 2) ? -EIO : -ENOSPC);
	(void)engine_commit(&o->e);
	faults_off(&o->e.f);
}

static void step(struct model *o)
{
	const uint32_t what = pick(o, 100);

	if (what < 30)
		change_inode(o, pick(o, INOS));
	else if (what < 60)
		change_name(o);
	else if (what < 85)
		change_value(o);
	else if (what < 90)
		engine_freeze(&o->e);
	else if (what < 96)
		commit_or_fail(o);
	else if (what < 97)
		engine_reopen(&o->e);
	else
		check_all(o);
}

static void test_random_changes_read_as_in_the_oracle(void **state)
{
	const char *given = getenv("WEIR_TEST_SEED");
	const uint64_t seed = given ? strtoull(given, NULL, 0) : clock_wall_ns() | 1;
	struct model *o = calloc(1, sizeof(*o));

	assert_non_null(o);
	print_message("seed %llu\n", (unsigned long long)seed);
	engine_open(&o->e);
	o->random = seed;
	for (unsigned i = 0; i < 4000; i++)
		step(o);
	check_all(o);
	engine_freeze(&o->e);
	assert_int_equal(engine_commit(&o->e), 0);
	engine_freeze(&o->e);
	assert_int_equal(engine_commit(&o->e), 0);
	assert_int_equal(ns_pending(o->e.ns), 0);
	check_all(o);
	engine_close(&o->e);
	free(o);
}

/* --- single behaviours --- */

static void put_file(struct engine *e, uint64_t ino, uint64_t size)
{
	const struct ns_inode i = {.ino = ino, .mode = S_IFREG | 0644, .nlink = 1, .size = size};

	assert_int_equal(ns_inode_put(e->ns, &i), 0);
}

static void put_dir(struct engine *e, uint64_t dir, const char *name, uint64_t ino)
{
	const struct ns_inode i = {.ino = ino, .mode = S_IFDIR | 0755, .nlink = 2, .parent = dir};

	assert_int_equal(ns_inode_put(e->ns, &i), 0);
	assert_int_equal(ns_name_put(e->ns, dir, name, ino, S_IFDIR), 0);
}

static void test_inode_numbers_are_never_given_twice(void **state)
{
	struct engine e;

	engine_open(&e);
	const uint64_t a = ns_ino_alloc(e.ns), b = ns_ino_alloc(e.ns);
	assert_true(a > NS_ROOT_INO && b > a);
	put_file(&e, b, 1);
	assert_int_equal(ns_inode_del(e.ns, b), 0);
	engine_reopen(&e); /* only in the log */
	const uint64_t c = ns_ino_alloc(e.ns);
	assert_true(c > b);
	put_file(&e, c, 1);
	assert_int_equal(ns_inode_del(e.ns, c), 0);
	engine_freeze(&e);
	assert_int_equal(engine_commit(&e), 0);
	engine_reopen(&e); /* only in meta.db, and deleted there */
	assert_true(ns_ino_alloc(e.ns) > c);
	engine_close(&e);
}

static void test_paths_lead_to_inodes_and_back(void **state)
{
	struct engine e;
	char path[64];
	uint64_t ino = 0;

	engine_open(&e);
	for (unsigned round = 0; round < 2; round++) {
		if (round == 0) {
			put_dir(&e, 1, "vms", 10);
			put_dir(&e, 10, "web", 11);
			put_file(&e, 12, 1);
			assert_int_equal(ns_name_put(e.ns, 11, "disk.raw", 12, S_IFREG), 0);
		}
		assert_int_equal(ns_path_of(e.ns, 12, path, sizeof(path)), 0);
		assert_string_equal(path, "vms/web/disk.raw");
		assert_int_equal(ns_path_of(e.ns, 12, path, 8), -ERANGE);
		assert_int_equal(ns_path_of(e.ns, 1, path, sizeof(path)), 0);
		assert_string_equal(path, "");
		assert_int_equal(ns_lookup_path(e.ns, "vms//web/disk.raw", &ino), 0);
		assert_int_equal(ino, 12);
		assert_int_equal(ns_lookup_path(e.ns, "", &ino), 0);
		assert_int_equal(ino, 1);
		assert_int_equal(ns_lookup_path(e.ns, "vms/db", &ino), -ENOENT);
		engine_freeze(&e);
		assert_int_equal(engine_commit(&e), 0);
	}
	/* The committed name is given to another; the new name is pending. */
	assert_int_equal(ns_name_put(e.ns, 11, "disk.raw", 13, S_IFREG), 0);
	assert_int_equal(ns_path_of(e.ns, 12, path, sizeof(path)), -ENOENT);
	assert_int_equal(ns_name_put(e.ns, 10, "old.raw", 12, S_IFREG), 0);
	assert_int_equal(ns_path_of(e.ns, 12, path, sizeof(path)), 0);
	assert_string_equal(path, "vms/old.raw");
	/* A loop is an error, not an endless walk. */
	assert_int_equal(ns_name_del(e.ns, 1, "vms"), 0);
	assert_int_equal(ns_name_put(e.ns, 11, "vms", 10, S_IFDIR), 0);
	char *long_path = malloc(1 << 20);
	assert_non_null(long_path);
	assert_int_equal(ns_path_of(e.ns, 12, long_path, 1 << 20), -ELOOP);
	free(long_path);
	engine_close(&e);
}

static void test_a_change_that_the_sink_refuses_did_not_happen(void **state)
{
	struct engine e;
	struct ns_inode got;

	engine_open(&e);
	const struct ns_inode i = {.ino = 5, .mode = S_IFREG | 0644};
	e.fail_append = 1;
	assert_int_equal(ns_inode_put(e.ns, &i), -ENOMEM);
	assert_int_equal(ns_inode_get(e.ns, 5, &got), -ENOENT);
	assert_int_equal(ns_pending(e.ns), 0);
	engine_close(&e);
}

static void test_what_cannot_be_stored_is_refused(void **state)
{
	struct engine e;
	char name[300], target[5000];
	static uint8_t value[XATTR_SIZE_MAX_BYTES + 1];

	engine_open(&e);
	memset(name, 'n', sizeof(name));
	name[256] = '\0';
	memset(target, 't', sizeof(target));
	target[4096] = '\0';
	assert_int_equal(ns_name_put(e.ns, 1, name, 5, S_IFREG), -ENAMETOOLONG);
	assert_int_equal(ns_name_put(e.ns, 1, "..", 5, S_IFREG), -EINVAL);
	assert_int_equal(ns_symlink_put(e.ns, 5, target), -ENAMETOOLONG);
	assert_int_equal(ns_xattr_put(e.ns, 5, "user.a", value, sizeof(value)), -E2BIG);
	assert_int_equal(ns_xattr_put(e.ns, 5, name, value, 1), -ERANGE);
	assert_int_equal(ns_pending(e.ns), 0);
	engine_close(&e);
}

static void test_values_need_room(void **state)
{
	struct engine e;
	char buf[16];
	size_t len = 0;

	engine_open(&e);
	assert_int_equal(ns_xattr_put(e.ns, 5, "user.a", "12345", 5), 0);
	assert_int_equal(ns_symlink_put(e.ns, 6, "target"), 0);
	for (unsigned round = 0; round < 2; round++) {
		assert_int_equal(ns_xattr_get(e.ns, 5, "user.a", buf, 4, &len), -ERANGE);
		assert_int_equal(ns_xattr_get(e.ns, 5, "user.a", buf, 5, &len), 0);
		assert_int_equal(len, 5);
		assert_memory_equal(buf, "12345", 5);
		assert_int_equal(ns_xattr_list(e.ns, 5, buf, 6, &len), -ERANGE);
		assert_int_equal(ns_xattr_list(e.ns, 5, buf, 7, &len), 0);
		assert_int_equal(ns_symlink_get(e.ns, 6, buf, 6), -ERANGE);
		assert_int_equal(ns_symlink_get(e.ns, 6, buf, 7), 0);
		assert_string_equal(buf, "target");
		engine_freeze(&e);
		assert_int_equal(engine_commit(&e), 0);
	}
	engine_close(&e);
}

static void test_check_finds_what_is_wrong(void **state)
{
	struct engine e;

	engine_open(&e);
	put_dir(&e, 1, "d", 10);
	put_file(&e, 11, 1);
	assert_int_equal(ns_name_put(e.ns, 10, "f", 11, S_IFREG), 0);
	struct ns_inode root;
	assert_int_equal(ns_inode_get(e.ns, 1, &root), 0);
	root.nlink = 3;
	assert_int_equal(ns_inode_put(e.ns, &root), 0);
	engine_freeze(&e);
	assert_int_equal(engine_commit(&e), 0);
	assert_int_equal(complaints(e.m), 0);
	/* A directory cycle beside the root: 10 is in 12 is in 10. */
	assert_int_equal(ns_name_del(e.ns, 1, "d"), 0);
	const struct ns_inode d10 = {.ino = 10, .mode = S_IFDIR | 0755, .nlink = 3, .parent = 12};
	const struct ns_inode d12 = {.ino = 12, .mode = S_IFDIR | 0755, .nlink = 3, .parent = 10};
	root.nlink = 2;
	assert_int_equal(ns_inode_put(e.ns, &root), 0);
	assert_int_equal(ns_inode_put(e.ns, &d10), 0);
	assert_int_equal(ns_inode_put(e.ns, &d12), 0);
	assert_int_equal(ns_name_put(e.ns, 10, "x", 12, S_IFDIR), 0);
	assert_int_equal(ns_name_put(e.ns, 12, "y", 10, S_IFDIR), 0);
	engine_freeze(&e);
	assert_int_equal(engine_commit(&e), 0);
	assert_int_equal(complaints(e.m), 2); /* both unreachable, nothing else */
	/* An image of a directory, a lost name, a wrong link count. */
	const struct image_row image = {.image = 12};
	assert_int_equal(e.m->ops->begin(e.m), 0);
	assert_int_equal(e.m->ops->image_put(e.m, &image), 0);
	assert_int_equal(e.m->ops->commit(e.m), 0);
	assert_int_equal(complaints(e.m), 3);
	assert_int_equal(ns_inode_del(e.ns, 11), 0);
	engine_freeze(&e);
	assert_int_equal(engine_commit(&e), 0);
	assert_int_equal(complaints(e.m), 4);
	put_file(&e, 13, 1);
	engine_freeze(&e);
	assert_int_equal(engine_commit(&e), 0);
	assert_int_equal(complaints(e.m), 5);
	engine_close(&e);
}

/* --- threads --- */

struct race {
	struct engine e;
	pthread_rwlock_t gate; /* the store's: no group is frozen in the middle of a change */
	atomic_bool stop;
	_Atomic unsigned listings;
};

enum { STABLE = 300 };

static int race_name(void *arg, const char *name, uint64_t ino, uint32_t mode, uint64_t cookie)
{
	unsigned *seen = arg;
	unsigned i = 0;

	if (sscanf(name, "stable%u", &i) == 1)
		seen[i]++;
	return 0;
}

/* Names that always exist are listed once each, whatever is committed meanwhile. */
static void *race_reader(void *arg)
{
	struct race *r = arg;

	while (!r->stop) {
		unsigned seen[STABLE] = {0};
		if (ns_name_each(r->e.ns, 1, 0, race_name, seen) != 0)
			abort();
		for (unsigned i = 0; i < STABLE; i++)
			if (seen[i] != 1)
				abort();
		struct ns_inode got;
		if (ns_inode_get(r->e.ns, 50, &got) != 0 || got.size > 1000000)
			abort();
		r->listings++;
	}
	return NULL;
}

static void *race_writer(void *arg)
{
	struct race *r = arg;
	char name[32];

	for (unsigned i = 0; !r->stop; i++) {
		pthread_rwlock_rdlock(&r->gate);
		put_file(&r->e, 50, i % 1000);
		snprintf(name, sizeof(name), "stable%u", i % STABLE);
		if (ns_name_put(r->e.ns, 1, name, 50 + i, S_IFREG) != 0)
			abort();
		snprintf(name, sizeof(name), "gone%u", i % 100);
		if ((i / 100 % 2 ? ns_name_del(r->e.ns, 1, name)
		                 : ns_name_put(r->e.ns, 1, name, 50, S_IFREG)) != 0)
			abort();
		pthread_rwlock_unlock(&r->gate);
		usleep(50);
	}
	return NULL;
}

static void test_listings_beside_commits_lose_and_repeat_nothing(void **state)
{
	struct race *r = calloc(1, sizeof(*r));
	pthread_t threads[3];
	char name[32];

	assert_non_null(r);
	pthread_rwlock_init(&r->gate, NULL);
	engine_open(&r->e);
	put_file(&r->e, 50, 1);
	for (unsigned i = 0; i < STABLE; i++) {
		snprintf(name, sizeof(name), "stable%u", i);
		assert_int_equal(ns_name_put(r->e.ns, 1, name, 50, S_IFREG), 0);
	}
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, race_reader, r), 0);
	assert_int_equal(pthread_create(&threads[2], NULL, race_writer, r), 0);
	for (unsigned i = 0; i < 60; i++) {
		pthread_rwlock_wrlock(&r->gate);
		engine_freeze(&r->e);
		pthread_rwlock_unlock(&r->gate);
		usleep(2000);
		assert_int_equal(engine_commit(&r->e), 0);
	}
	r->stop = true;
	for (unsigned i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	assert_true(r->listings > 2);
	engine_close(&r->e);
	free(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_random_changes_read_as_in_the_oracle),
	        cmocka_unit_test(test_inode_numbers_are_never_given_twice),
	        cmocka_unit_test(test_paths_lead_to_inodes_and_back),
	        cmocka_unit_test(test_a_change_that_the_sink_refuses_did_not_happen),
	        cmocka_unit_test(test_what_cannot_be_stored_is_refused),
	        cmocka_unit_test(test_values_need_room),
	        cmocka_unit_test(test_check_finds_what_is_wrong),
	        cmocka_unit_test(test_listings_beside_commits_lose_and_repeat_nothing),
	};

	log_set_level(getenv("WEIR_TEST_VERBOSE") ? LOG_NOTE : (enum log_level) - 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

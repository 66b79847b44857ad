/*
 * test-audit.c - the audit trail: appended and read back, and every way to tamper with it found
 *
 * Tampering is done in the SQLite file itself, by a connection to its bytes after meta.db was
 * closed: through the VFS with its page checksums, as somebody would who knows all of weir.
 */
#include "base/bytes.h"
#include "meta/audit.h"
#include "meta/db.h"
#include "ns-engine.h"

enum { ENTRIES = 6 };

static const struct audit_entry sample = {
        .uid = 0,
        .pid = 4711,
        .program = "weir",
        .action = "filter attach",
        .inode = 7,
        .target = "vm/a.raw",
        .type = "throttle",
        .old_value = "",
        .new_value = "iops=100",
};

static void append(struct engine *e, unsigned n)
{
	struct audit_entry entry = sample;

	for (unsigned i = 0; i < n; i++) {
		entry.inode = 7 + i % 2;
		assert_int_equal(audit_append(e->ns, &entry, NULL), 0);
	}
}

static void settle(struct engine *e)
{
	engine_freeze(e);
	assert_int_equal(engine_commit(e), 0);
}

static struct audit_verdict verify(struct engine *e, const char *expect)
{
	struct audit_verdict v = {0};

	assert_int_equal(audit_verify(e->ns, expect, &v), 0);
	return v;
}

/* A trail of ENTRIES, committed. */
static void trail_open(struct engine *e)
{
	engine_open(e);
	append(e, ENTRIES);
	settle(e);
	assert_int_equal(verify(e, NULL).bad_seq, 0);
}

/* Runs SQL on meta.db while nobody has it open, then opens it again. */
static void tamper(struct engine *e, const char *sql)
{
	struct dbvfs *vfs = NULL;
	struct db *d = NULL;

	ns_close(e->ns);
	meta_close(e->m);
	assert_int_equal(dbvfs_create(e->f.io, META_NAME, false, &vfs), 0);
	assert_int_equal(db_open(vfs, DB_WRITER, &d), 0);
	assert_int_equal(db_exec(d, sql), 0);
	assert_true(sqlite3_total_changes(d->handle) > 0);
	db_close(d);
	dbvfs_free(vfs);
	engine_start(e);
}

/* --- what is appended --- */

static int see_entry(void *arg, json_t *entry)
{
	unsigned *n = arg;

	assert_int_equal(json_integer_value(json_object_get(entry, "seq")), ++*n);
	assert_string_equal(json_string_value(json_object_get(entry, "user")), "root");
	assert_string_equal(json_string_value(json_object_get(entry, "target")), "vm/a.raw");
	assert_string_equal(json_string_value(json_object_get(entry, "new")), "iops=100");
	assert_int_equal(json_integer_value(json_object_get(entry, "pid")), 4711);
	assert_true(
	        json_integer_value(json_object_get(entry, "time_ns")) > 1700000000ll * 1000000000);
	return 0;
}

static int count_entry(void *arg, json_t *entry)
{
	(void)entry;
	++*(unsigned *)arg;
	return 0;
}

static void test_entries_come_back_in_order_pending_or_committed(void **state)
{
	struct engine e;
	unsigned n = 0, of_inode = 0;

	engine_open(&e);
	assert_int_equal(verify(&e, NULL).entries, 0);
	assert_string_equal(verify(&e, NULL).head, "");
	append(&e, 3);
	settle(&e);
	append(&e, 2);
	engine_freeze(&e);
	append(&e, 1);
	assert_int_equal(audit_each(e.ns, 0, see_entry, &n), 0);
	assert_int_equal(n, ENTRIES);
	assert_int_equal(audit_each(e.ns, 8, count_entry, &of_inode), 0);
	assert_int_equal(of_inode, 2);
	const struct audit_verdict v = verify(&e, NULL);
	assert_int_equal(v.entries, ENTRIES);
	assert_int_equal(v.bad_seq, 0);
	assert_int_equal(strlen(v.head), 64);
	engine_reopen(&e); /* a crash: the end of the chain comes from the log */
	append(&e, 1);
	assert_int_equal(verify(&e, NULL).bad_seq, 0);
	assert_true(verify(&e, v.head).expected_found);
	settle(&e);
	assert_int_equal(complaints(e.m), 0);
	engine_close(&e);
}

/* SHA-256 of the text of two entries, computed by hand: the format does not change unseen. */
static void test_the_hash_is_over_the_one_before_and_the_canonical_text(void **state)
{
	struct engine e;
	struct bytes_out text = {0};

	engine_open(&e);
	append(&e, 2);
	assert_int_equal(ns_record_get(e.ns, RECORD_AUDIT, 0, 2, &text), 0);
	json_t *json = json_loadb((char *)text.data, text.len, 0, NULL);
	assert_non_null(json);
	char cmd[2048], got[65] = "";
	char *hash = strdup(json_string_value(json_object_get(json, "hash")));
	json_object_del(json, "hash");
	char *bare = json_dumps(json, JSON_SORT_KEYS | JSON_COMPACT);
	snprintf(cmd, sizeof(cmd), "printf %%s '%s%s' | sha256sum",
	        json_string_value(json_object_get(json, "prev")), bare);
	FILE *f = popen(cmd, "r");
	assert_non_null(f);
	assert_int_equal(fread(got, 1, 64, f), 64);
	pclose(f);
	assert_string_equal(got, hash);
	free(hash);
	free(bare);
	json_decref(json);
	bytes_release(&text);
	engine_close(&e);
}

static void test_any_bytes_of_a_name_can_be_recorded(void **state)
{
	struct audit_entry entry = sample;
	struct engine e;
	struct bytes_out text = {0};

	engine_open(&e);
	entry.target = "a\xff\n\"b";
	entry.uid = 3999999999u; /* nobody's */
	assert_int_equal(audit_append(e.ns, &entry, NULL), 0);
	assert_int_equal(ns_record_get(e.ns, RECORD_AUDIT, 0, 1, &text), 0);
	json_t *json = json_loadb((char *)text.data, text.len, 0, NULL);
	assert_string_equal(json_string_value(json_object_get(json, "target")), "a\\xff\n\"b");
	assert_string_equal(json_string_value(json_object_get(json, "user")), "3999999999");
	assert_int_equal(verify(&e, NULL).bad_seq, 0);
	json_decref(json);
	bytes_release(&text);
	engine_close(&e);
}

/* --- what is tampered with --- */

/* Each alone breaks the chain at the place given. */
static void test_tampering_is_found_where_it_was_done(void **state)
{
	static const struct {
		const char *sql;
		unsigned bad_seq;
	} cases[] = {
	        {"UPDATE audit SET value = json_set(value, '$.uid', 1000) WHERE id = 3", 3},
	        {"UPDATE audit SET value = json_set(value, '$.action', 'nothing') WHERE id = 1", 1},
	        {"UPDATE audit SET value = json_set(value, '$.more', 1) WHERE id = 4", 4},
	        {"UPDATE audit SET value = json_remove(value, '$.old') WHERE id = 4", 4},
	        {"UPDATE audit SET value = json_remove(value, '$.hash') WHERE id = 2", 2},
	        {"UPDATE audit SET value = value || ' ' WHERE id = 2", 2},
	        {"UPDATE audit SET value = '[]' WHERE id = 5", 5},
	        {"UPDATE audit SET value = '' WHERE id = 6", 6},
	        /* a hash that fits nothing, and one of another entry */
	        {"UPDATE audit SET value = json_set(value, '$.hash', printf('%064d', 7)) WHERE id "
	         "= 6",
	                6},
	        {"UPDATE audit SET value = json_set(value, '$.hash', (SELECT value ->> 'hash'"
	         " FROM audit WHERE id = 1)) WHERE id = 2",
	                2},
	        {"DELETE FROM audit WHERE id = 1", 1},
	        {"DELETE FROM audit WHERE id = 4", 4},
	        {"DELETE FROM audit WHERE id = 3; UPDATE audit SET id = id - 1 WHERE id > 3", 3},
	        {"DELETE FROM audit WHERE id = 3; UPDATE audit SET id = id - 1, value ="
	         " json_set(value, '$.seq', id - 1) WHERE id > 3",
	                3},
	        {"UPDATE audit SET id = 100 WHERE id = 2; UPDATE audit SET id = 2 WHERE id = 3;"
	         " UPDATE audit SET id = 3 WHERE id = 100",
	                2},
	        {"INSERT INTO audit SELECT 0, 7, value FROM audit WHERE id = 6", 7},
	        {"INSERT INTO audit SELECT 0, 7, json_set(value, '$.seq', 7, '$.prev',"
	         " value ->> 'hash') FROM audit WHERE id = 6",
	                7},
	        {"INSERT INTO audit SELECT 0, 0, value FROM audit WHERE id = 1", 1},
	        {"INSERT INTO audit SELECT 9, 1, value FROM audit WHERE id = 1", 7},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct engine e;
		trail_open(&e);
		tamper(&e, cases[i].sql);
		const struct audit_verdict v = verify(&e, NULL);
		if (v.bad_seq != cases[i].bad_seq)
			fail_msg("%s: found at %llu (%s)", cases[i].sql,
			        (unsigned long long)v.bad_seq, v.why);
		assert_true(v.why[0]);
		append(&e, 1); /* goes on all the same, and heals nothing */
		assert_in_range(verify(&e, NULL).bad_seq, cases[i].bad_seq, ENTRIES + 2);
		engine_close(&e);
	}
}

/* Somebody who rewrites the entry and all hashes behind it, as weir would make them. */
static void forge_from(struct engine *e, unsigned seq)
{
	tamper(e, seq == 1 ? "DELETE FROM audit" : "DELETE FROM audit WHERE id >= 4");
	append(e, ENTRIES + 1 - seq);
	settle(e);
}

static void test_a_hash_kept_elsewhere_shows_what_a_new_chain_hides(void **state)
{
	struct engine e;

	trail_open(&e);
	char kept[65];
	snprintf(kept, sizeof(kept), "%s", verify(&e, NULL).head);
	assert_true(verify(&e, kept).expected_found);
	append(&e, 2); /* it stays in the chain */
	settle(&e);
	assert_true(verify(&e, kept).expected_found);
	/* The end cut off: whole in itself, but not what it was. */
	tamper(&e, "DELETE FROM audit WHERE id >= 6");
	assert_int_equal(verify(&e, kept).bad_seq, 0);
	assert_false(verify(&e, kept).expected_found);
	forge_from(&e, 4);
	assert_int_equal(verify(&e, kept).bad_seq, 0);
	assert_false(verify(&e, kept).expected_found);
	forge_from(&e, 1);
	assert_int_equal(verify(&e, kept).bad_seq, 0);
	assert_false(verify(&e, kept).expected_found);
	engine_close(&e);
}

static void test_a_hash_behind_a_break_is_not_found(void **state)
{
	struct engine e;

	trail_open(&e);
	char kept[65];
	snprintf(kept, sizeof(kept), "%s", verify(&e, NULL).head);
	tamper(&e, "UPDATE audit SET value = json_set(value, '$.uid', 1000) WHERE id = 2");
	assert_false(verify(&e, kept).expected_found);
	engine_close(&e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_entries_come_back_in_order_pending_or_committed),
	        cmocka_unit_test(test_the_hash_is_over_the_one_before_and_the_canonical_text),
	        cmocka_unit_test(test_any_bytes_of_a_name_can_be_recorded),
	        cmocka_unit_test(test_tampering_is_found_where_it_was_done),
	        cmocka_unit_test(test_a_hash_kept_elsewhere_shows_what_a_new_chain_hides),
	        cmocka_unit_test(test_a_hash_behind_a_break_is_not_found),
	};

	log_set_level(getenv("WEIR_TEST_VERBOSE") ? LOG_NOTE : (enum log_level) - 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

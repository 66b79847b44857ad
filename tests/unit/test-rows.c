/*
 * test-rows.c - namespace rows as bytes: golden, round trip, and what is refused
 */
#include <sys/stat.h>

#include "meta-fixture.h"
#include "meta/rows.h"

static const struct row samples[] = {
        {.type = ROW_INODE_PUT,
                .inode = {.ino = 0x0102030405060708,
                        .mode = S_IFREG | 0644,
                        .uid = 1000,
                        .gid = 1001,
                        .nlink = 1,
                        .rdev = 0,
                        .size = 0x1122334455,
                        .atime = {1, 2},
                        .mtime = {-3, 999999999},
                        .ctime = {5, 6},
                        .btime = {7, 8},
                        .parent = 0,
                        .generation = 9}},
        {.type = ROW_INODE_DEL, .owner = 7},
        {.type = ROW_NAME_PUT,
                .owner = 1,
                .id = 16,
                .ino = 7,
                .mode = S_IFREG,
                .name = "a\xff",
                .name_len = 2},
        {.type = ROW_NAME_DEL, .owner = 1, .name = "b", .name_len = 1},
        {.type = ROW_SYMLINK_PUT, .owner = 8, .value = "../x", .value_len = 4},
        {.type = ROW_XATTR_PUT,
                .owner = 7,
                .name = "user.k",
                .name_len = 6,
                .value = "v\0w",
                .value_len = 3},
        {.type = ROW_XATTR_PUT,
                .owner = 7,
                .name = "user.e",
                .name_len = 6,
                .value = "",
                .value_len = 0},
        {.type = ROW_XATTR_DEL, .owner = 7, .name = "user.k", .name_len = 6},
        {.type = ROW_RECORD_PUT,
                .owner = 7,
                .table = RECORD_ATTACHMENT,
                .id = 0x0102,
                .value = "{}",
                .value_len = 2},
        {.type = ROW_RECORD_PUT, .owner = 0, .table = RECORD_KEY, .id = 3, .value = ""},
        {.type = ROW_RECORD_DEL, .owner = 9, .table = RECORD_KEYSLOT, .id = 0},
};

static const uint8_t golden[] = {
        /* inode put */ 105, 0, 0, 0, 1, 8, 7, 6, 5, 4, 3, 2, 1, 0xa4, 0x81, 0, 0, 0xe8, 3, 0, 0,
        0xe9, 3, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x55, 0x44, 0x33, 0x22, 0x11, 0, 0, 0, 1,
        0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xc9,
        0x9a, 0x3b, 5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0,
        /* inode del */ 9, 0, 0, 0, 2, 7, 0, 0, 0, 0, 0, 0, 0,
        /* name put */ 31, 0, 0, 0, 3, 1, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0,
        0, 0, 0, 0, 0, 0x80, 0, 0, 'a', 0xff,
        /* name del */ 10, 0, 0, 0, 4, 1, 0, 0, 0, 0, 0, 0, 0, 'b',
        /* symlink put */ 13, 0, 0, 0, 5, 8, 0, 0, 0, 0, 0, 0, 0, '.', '.', '/', 'x',
        /* xattr put */ 19, 0, 0, 0, 6, 7, 0, 0, 0, 0, 0, 0, 0, 6, 'u', 's', 'e', 'r', '.', 'k',
        'v', 0, 'w',
        /* empty xattr */ 16, 0, 0, 0, 6, 7, 0, 0, 0, 0, 0, 0, 0, 6, 'u', 's', 'e', 'r', '.', 'e',
        /* xattr del */ 15, 0, 0, 0, 7, 7, 0, 0, 0, 0, 0, 0, 0, 'u', 's', 'e', 'r', '.', 'k',
        /* record put */ 20, 0, 0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 1, 2, 1, 0, 0, 0, 0, 0, 0, '{',
        '}',
        /* empty record */ 18, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 5, 3, 0, 0, 0, 0, 0, 0, 0,
        /* record del */ 18, 0, 0, 0, 9, 9, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0};

static void test_encoding_is_as_documented(void **state)
{
	struct bytes_out out = {0};

	for (size_t i = 0; i < ARRAY_SIZE(samples); i++)
		row_encode(&samples[i], &out);
	assert_false(out.failed);
	assert_int_equal(out.len, sizeof(golden));
	assert_memory_equal(out.data, golden, sizeof(golden));
	bytes_release(&out);
}

static void test_decoding_gives_back_what_was_encoded(void **state)
{
	struct bytes_in in = {.data = golden, .len = sizeof(golden)};
	struct row row;

	for (size_t i = 0; i < ARRAY_SIZE(samples); i++) {
		const struct row *want = &samples[i];
		assert_int_equal(row_decode(&in, &row), 1);
		assert_int_equal(row.type, want->type);
		assert_int_equal(row.owner, want->owner);
		assert_int_equal(row.id, want->id);
		assert_int_equal(row.ino, want->ino);
		assert_int_equal(row.mode, want->mode);
		assert_int_equal(row.table, want->table);
		assert_int_equal(row.name_len, want->name_len);
		assert_int_equal(row.value_len, want->value_len);
		if (row.name_len)
			assert_memory_equal(row.name, want->name, row.name_len);
		if (row.value_len)
			assert_memory_equal(row.value, want->value, row.value_len);
		assert_int_equal(row.inode.ino, want->inode.ino);
		assert_int_equal(row.inode.size, want->inode.size);
		assert_int_equal(row.inode.mtime.tv_sec, want->inode.mtime.tv_sec);
		assert_int_equal(row.inode.mtime.tv_nsec, want->inode.mtime.tv_nsec);
		assert_int_equal(row.inode.generation, want->inode.generation);
	}
	assert_int_equal(row_decode(&in, &row), 0);
}

static void test_a_cut_row_is_refused(void **state)
{
	struct bytes_in in = {.data = golden, .len = sizeof(golden)};
	struct row row;

	while (in.pos < in.len) {
		const size_t start = in.pos;
		assert_int_equal(row_decode(&in, &row), 1);
		for (size_t len = 1; len < in.pos - start; len++) {
			struct bytes_in cut = {.data = golden + start, .len = len};
			assert_int_equal(row_decode(&cut, &row), -EIO);
		}
	}
}

static int decode_of(const struct row *row)
{
	struct bytes_out out = {0};
	struct row got;

	row_encode(row, &out);
	struct bytes_in in = {.data = out.data, .len = out.len};
	const int r = row_decode(&in, &got);
	bytes_release(&out);
	return r;
}

static int decode_record(enum record_table table, uint64_t owner, uint64_t id, size_t len)
{
	uint8_t *value = calloc(1, len + 1);
	assert_non_null(value);
	const struct row row = {.type = ROW_RECORD_PUT,
	        .table = table,
	        .owner = owner,
	        .id = id,
	        .value = value,
	        .value_len = len};
	const int r = decode_of(&row);

	free(value);
	return r;
}

static void refuse_bad_records(void)
{
	assert_int_equal(decode_record(0, 1, 1, 0), -EIO);
	assert_int_equal(decode_record(RECORD_TABLES, 1, 1, 0), -EIO);
	assert_int_equal(decode_record(RECORD_FLAG, 0, 1, 0), -EIO);
	assert_int_equal(decode_record(RECORD_AUDIT, 0, 1ull << 63, 0), -EIO);
	assert_int_equal(decode_record(RECORD_AUDIT, 0, INT64_MAX, 0), 1);
	/* Numbers stay below 2^32. */
	assert_int_equal(decode_record(RECORD_KEY, 0, 1ull << 32, 0), -EIO);
	assert_int_equal(decode_record(RECORD_KEYSLOT, 1ull << 32, 0, 0), -EIO);
	assert_int_equal(decode_record(RECORD_FILTER_STATE, 2, 1ull << 48, 0), -EIO);
	assert_int_equal(decode_record(RECORD_FILTER_STATE, 2, (1ull << 48) - 1, 0), 1);
	assert_int_equal(decode_record(RECORD_FILTER_STATE, 2, 1, RECORD_VALUE_MAX), 1);
	assert_int_equal(decode_record(RECORD_FILTER_STATE, 2, 1, RECORD_VALUE_MAX + 1), -EIO);
}

static void test_nonsense_is_refused(void **state)
{
	struct row r = samples[0];
	char name[300];

	r.inode.ino = 0;
	assert_int_equal(decode_of(&r), -EIO);
	r = samples[0];
	r.inode.mode = 0644;
	assert_int_equal(decode_of(&r), -EIO);
	r = samples[0];
	r.inode.atime.tv_nsec = 1000000000;
	assert_int_equal(decode_of(&r), -EIO);
	r = samples[0];
	r.inode.size = UINT64_MAX;
	assert_int_equal(decode_of(&r), -EIO);
	const char *const bad_names[] = {"", ".", "..", "a/b"};
	for (size_t i = 0; i < ARRAY_SIZE(bad_names); i++) {
		r = samples[3];
		r.name = bad_names[i];
		r.name_len = strlen(bad_names[i]);
		assert_int_equal(decode_of(&r), -EIO);
	}
	memset(name, 'x', sizeof(name));
	r = samples[3];
	r.name = name;
	r.name_len = NS_NAME_MAX;
	assert_int_equal(decode_of(&r), 1);
	r.name_len++;
	assert_int_equal(decode_of(&r), -EIO);
	r = samples[2];
	r.id = UINT64_MAX;
	assert_int_equal(decode_of(&r), -EIO);
	r = samples[1];
	r.owner = 0;
	assert_int_equal(decode_of(&r), -EIO);
	r = samples[5];
	r.value_len = XATTR_SIZE_MAX_BYTES + 1;
	r.value = calloc(1, r.value_len);
	assert_non_null(r.value);
	assert_int_equal(decode_of(&r), -EIO);
	r.value_len--;
	assert_int_equal(decode_of(&r), 1);
	free((void *)r.value);
	refuse_bad_records();
	uint8_t unknown[sizeof(golden)];
	memcpy(unknown, golden, sizeof(unknown));
	unknown[4] = 10;
	struct bytes_in in = {.data = unknown, .len = sizeof(unknown)};
	assert_int_equal(row_decode(&in, &r), -EIO);
}

static void test_rows_apply_is_all_in_the_transaction_and_repeatable(void **state)
{
	struct fixture f;
	static const uint8_t torn[] = {1, 0, 0, 0, 99};

	fixture_open(&f);
	fixture_create(&f);
	struct meta *m = fixture_meta(&f, false);
	assert_int_equal(m->ops->begin(m), 0);
	assert_int_equal(m->ops->rows_apply(m, golden, sizeof(golden)), 0);
	assert_int_equal(m->ops->rows_apply(m, golden, sizeof(golden)), 0);
	assert_int_equal(m->ops->rows_apply(m, torn, sizeof(torn)), -EIO);
	m->ops->rollback(m);
	assert_int_equal(complaints(m), 0); /* nothing of it is there */
	assert_int_equal(m->ops->begin(m), 0);
	assert_int_equal(m->ops->rows_apply(m, golden, sizeof(golden)), 0);
	assert_int_equal(m->ops->rows_apply(m, golden, sizeof(golden)), 0);
	assert_int_equal(m->ops->commit(m), 0);
	/* A file of no name but one link, a name that leads nowhere, a target and attributes of
	 * nothing, an attachment of nothing, a key that is not JSON. */
	assert_int_equal(complaints(m), 6);
	meta_close(m);
	fixture_close(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_encoding_is_as_documented),
	        cmocka_unit_test(test_decoding_gives_back_what_was_encoded),
	        cmocka_unit_test(test_a_cut_row_is_refused),
	        cmocka_unit_test(test_nonsense_is_refused),
	        cmocka_unit_test(test_rows_apply_is_all_in_the_transaction_and_repeatable),
	};

	log_set_level(getenv("WEIR_TEST_VERBOSE") ? LOG_NOTE : (enum log_level) - 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

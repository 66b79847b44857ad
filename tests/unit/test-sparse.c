/*
 * test-sparse.c - copies have the content and no zeros, between files and pipes
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/sparse.h"

#define MIB (1u << 20)

static struct progress quiet;

/* In RAM: tells its holes. */
static int file_make(uint64_t size)
{
	const int fd = memfd_create("sparse", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	return fd;
}

static void fill(int fd, uint64_t off, size_t len, int byte)
{
	uint8_t *buf = malloc(len);

	memset(buf, byte, len);
	assert_int_equal(pwrite(fd, buf, len, (off_t)off), len);
	free(buf);
}

static uint64_t blocks_of(int fd)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

static void equal(int a, int b, uint64_t size, uint64_t at)
{
	uint64_t got = 0;

	assert_int_equal(sparse_compare(a, b, size, &quiet, &got), 0);
	assert_true(got == at);
}

static void a_copy_has_the_content_and_its_holes(void **state)
{
	const uint64_t size = 40 * MIB + 1234;
	const int a = file_make(size), b = file_make(0);
	struct sparse_copy c = {.from = a, .to = b, .size_bytes = size, .progress = &quiet};

	fill(a, 5000, 3 * MIB, 1);
	fill(a, 20 * MIB, 8192, 0); /* data that is zero */
	fill(a, size - 10, 10, 2);
	assert_int_equal(sparse_copy(&c), 0);
	assert_int_equal(lseek(b, 0, SEEK_END), size);
	equal(a, b, size, SPARSE_UNKNOWN);
	assert_true(blocks_of(b) <= 3 * MIB + 16384);
	assert_true(c.written_bytes < c.read_bytes);
	close(a);
	close(b);
}

static void holes_go_through_a_pipe_as_zeros_and_come_out_as_holes(void **state)
{
	const uint64_t size = 3 * MIB + 77;
	const int a = file_make(size), mid = file_make(0), b = file_make(0);
	struct sparse_copy out = {
	        .from = a, .to = mid, .to_pipe = true, .size_bytes = size, .progress = &quiet};
	struct sparse_copy in = {.from = mid,
	        .to = b,
	        .size_bytes = SPARSE_UNKNOWN,
	        .size_max_bytes = size,
	        .progress = &quiet};

	fill(a, MIB + 100, 50, 3);
	assert_int_equal(sparse_copy(&out), 0);
	assert_int_equal(lseek(mid, 0, SEEK_CUR), size);
	assert_true(out.written_bytes == out.read_bytes);
	assert_int_equal(lseek(mid, 0, SEEK_SET), 0);
	assert_int_equal(sparse_copy(&in), 0);
	assert_true(in.size_bytes == size);
	assert_int_equal(lseek(b, 0, SEEK_END), size);
	equal(a, b, size, SPARSE_UNKNOWN);
	assert_true(blocks_of(b) <= 8192);
	close(a);
	close(mid);
	close(b);
}

static void a_stream_that_is_too_long_is_refused(void **state)
{
	const int a = file_make(3 * MIB), b = file_make(0);
	struct sparse_copy c = {.from = a,
	        .to = b,
	        .size_bytes = SPARSE_UNKNOWN,
	        .size_max_bytes = 2 * MIB,
	        .progress = &quiet};

	assert_int_equal(sparse_copy(&c), -EFBIG);
	close(a);
	close(b);
}

static void a_file_that_is_shorter_than_it_was_is_an_error(void **state)
{
	const int a = file_make(MIB), b = file_make(0);
	struct sparse_copy c = {.from = a, .to = b, .size_bytes = 2 * MIB, .progress = &quiet};

	fill(a, 0, MIB, 1);
	assert_int_equal(sparse_copy(&c), -ENODATA);
	assert_false(c.failed_writing);
	close(a);
	close(b);
}

static void a_failed_write_is_told_from_a_failed_read(void **state)
{
	const int a = file_make(MIB), full = open("/dev/full", O_RDWR);
	struct sparse_copy c = {.from = a, .to = full, .size_bytes = MIB, .progress = &quiet};

	assert_true(full >= 0);
	fill(a, 0, MIB, 1);
	assert_int_equal(sparse_copy(&c), -ENOSPC);
	assert_true(c.failed_writing);
	close(a);
	close(full);
}

static void the_first_byte_that_differs_is_found(void **state)
{
	const uint64_t size = 5 * MIB;
	const int a = file_make(size), b = file_make(size);

	equal(a, b, size, SPARSE_UNKNOWN);
	fill(b, 4 * MIB + 17, 1, 1); /* a hole there in a */
	equal(a, b, size, 4 * MIB + 17);
	fill(a, MIB + 5, 1, 9);
	equal(a, b, size, MIB + 5);
	equal(a, b, MIB, SPARSE_UNKNOWN);
	close(a);
	close(b);
}

static void data_is_what_is_not_in_holes(void **state)
{
	const int a = file_make(10 * MIB);
	uint64_t bytes = 1;

	assert_int_equal(sparse_data_bytes(a, 10 * MIB, &bytes), 0);
	assert_true(bytes == 0);
	fill(a, 2 * MIB, 4096, 1);
	fill(a, 7 * MIB, 4096, 1);
	assert_int_equal(sparse_data_bytes(a, 10 * MIB, &bytes), 0);
	assert_true(bytes == 8192);
	close(a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(a_copy_has_the_content_and_its_holes),
	        cmocka_unit_test(holes_go_through_a_pipe_as_zeros_and_come_out_as_holes),
	        cmocka_unit_test(a_stream_that_is_too_long_is_refused),
	        cmocka_unit_test(a_file_that_is_shorter_than_it_was_is_an_error),
	        cmocka_unit_test(a_failed_write_is_told_from_a_failed_read),
	        cmocka_unit_test(the_first_byte_that_differs_is_found),
	        cmocka_unit_test(data_is_what_is_not_in_holes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * test-disk-format.c - which images are known by their first bytes, and which are refused
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "tools/disk-format.h"

static void put_be32(uint8_t *p, uint32_t v)
{
	for (unsigned i = 0; i < 4; i++)
		p[i] = (uint8_t)(v >> (24 - 8 * i));
}

static void qcow2_make(uint8_t head[512], uint32_t version)
{
	memset(head, 0, 512);
	memcpy(head, "QFI\xfb", 4);
	put_be32(head + 4, version);
	put_be32(head + 20, 16);
	put_be32(head + 28, 1u << 20);
	put_be32(head + 100, 104);
}

static int check(enum disk_format format, const uint8_t *head, size_t len, const char *text)
{
	struct errmsg em = {0};
	const int r = disk_format_check(format, head, len, 1 << 20, &em);

	if (r < 0 && !strstr(em.text, text))
		fail_msg("'%s' does not say '%s'", em.text, text);
	return r;
}

static void a_format_is_told_by_its_first_bytes(void **state)
{
	static const struct {
		const char *bytes;
		size_t len;
		enum disk_format format;
	} marks[] = {{"QFI\xfb", 4, DISK_QCOW2}, {"KDMV", 4, DISK_VMDK},
	        {"# Disk DescriptorFile\n", 22, DISK_VMDK}, {"vhdxfile", 8, DISK_VHDX},
	        {"conectix", 8, DISK_VHD}, {"", 0, DISK_RAW}, {"QFI", 3, DISK_RAW}};
	uint8_t vdi[68] = {0};
	enum disk_format format;

	for (size_t i = 0; i < ARRAY_SIZE(marks); i++) {
		assert_int_equal(disk_format_detect((const uint8_t *)marks[i].bytes, marks[i].len,
		                         &format, NULL),
		        0);
		assert_int_equal(format, marks[i].format);
	}
	memcpy(vdi + 64, "\x7f\x10\xda\xbe", 4);
	assert_int_equal(disk_format_detect(vdi, sizeof(vdi), &format, NULL), 0);
	assert_int_equal(format, DISK_VDI);
	assert_int_equal(disk_format_detect(vdi, sizeof(vdi) - 1, &format, NULL), 0);
	assert_int_equal(format, DISK_RAW);
}

static void what_is_known_and_not_read_is_refused(void **state)
{
	struct errmsg em = {0};
	enum disk_format format;

	assert_int_equal(
	        disk_format_detect((const uint8_t *)"COWD....", 8, &format, &em), -ENOTSUP);
	assert_non_null(strstr(em.text, "old ESX"));
	assert_int_equal(
	        disk_format_detect((const uint8_t *)"QED\0....", 8, &format, &em), -ENOTSUP);
}

static void a_plain_qcow2_is_taken(void **state)
{
	uint8_t head[512];

	for (uint32_t version = 2; version <= 3; version++) {
		qcow2_make(head, version);
		assert_int_equal(check(DISK_QCOW2, head, sizeof(head), ""), 0);
	}
	qcow2_make(head, 1);
	assert_int_equal(check(DISK_QCOW2, head, sizeof(head), "version 1"), -ENOTSUP);
	qcow2_make(head, 3);
	assert_int_equal(check(DISK_QCOW2, head, 103, "no qcow2"), -EINVAL);
	assert_int_equal(check(DISK_QCOW2, head, 71, "no qcow2"), -EINVAL);
}

static void a_qcow2_with_a_backing_file_is_refused(void **state)
{
	uint8_t head[512];

	for (uint32_t version = 2; version <= 3; version++) {
		qcow2_make(head, version);
		head[8] = 1; /* the highest byte of its offset */
		assert_int_equal(check(DISK_QCOW2, head, sizeof(head), "a backing file"), -EPERM);
		qcow2_make(head, version);
		head[19] = 11; /* its length alone */
		assert_int_equal(check(DISK_QCOW2, head, sizeof(head), "a backing file"), -EPERM);
	}
}

static void a_qcow2_with_a_data_file_or_a_cipher_is_refused(void **state)
{
	uint8_t head[512];

	qcow2_make(head, 3);
	head[79] = 4;
	assert_int_equal(check(DISK_QCOW2, head, sizeof(head), "external data file"), -EPERM);
	qcow2_make(head, 3);
	head[79] = 2;
	assert_int_equal(check(DISK_QCOW2, head, sizeof(head), "corrupt"), -EINVAL);
	qcow2_make(head, 2);
	head[35] = 1;
	assert_int_equal(check(DISK_QCOW2, head, sizeof(head), "encrypted"), -ENOTSUP);
}

static void vmdk_make(uint8_t head[2048], const char *descriptor)
{
	memset(head, 0, 2048);
	memcpy(head, "KDMV", 4);
	put_u64(head + 12, 6144);
	put_u64(head + 28, 1);
	put_u64(head + 36, 3);
	memcpy(head + 512, descriptor, strlen(descriptor));
}

static void a_vmdk_of_one_file_is_taken(void **state)
{
	uint8_t head[2048];

	vmdk_make(head, "# Disk DescriptorFile\nversion=1\nparentCID=ffffffff\n");
	assert_int_equal(check(DISK_VMDK, head, sizeof(head), ""), 0);
	put_u64(head + 28, 0); /* no descriptor */
	assert_int_equal(check(DISK_VMDK, head, sizeof(head), ""), 0);
}

static void a_vmdk_that_refers_to_files_is_refused(void **state)
{
	static const char text[] = "# Disk DescriptorFile\nRW 1 FLAT \"/etc/shadow\" 0\n";
	uint8_t head[2048];

	assert_int_equal(
	        check(DISK_VMDK, (const uint8_t *)text, sizeof(text) - 1, "refers to the files"),
	        -EPERM);
	vmdk_make(head, "RW 1 FLAT \"/etc/shadow\" 0\n");
	put_u64(head + 12, 0); /* so its descriptor counts */
	assert_int_equal(check(DISK_VMDK, head, sizeof(head), "refers to the files"), -EPERM);
	vmdk_make(head, "CID=1\n  parentCID=12345678\n");
	assert_int_equal(check(DISK_VMDK, head, sizeof(head), "a parent"), -EPERM);
	vmdk_make(head, "");
	memcpy(head + 2048 - 14, "parentCID=ffff", 14); /* cut off */
	assert_int_equal(check(DISK_VMDK, head, sizeof(head), "a parent"), -EPERM);
	vmdk_make(head, "");
	put_u64(head + 28, UINT64_MAX / 512);
	assert_int_equal(check(DISK_VMDK, head, sizeof(head), "not at its beginning"), -ENOTSUP);
}

static void a_vdi_that_is_cut_is_refused(void **state)
{
	uint8_t head[512] = {0};

	memcpy(head + 64, "\x7f\x10\xda\xbe", 4);
	put_u32(head + 344, 4096);
	put_u32(head + 376, 4096);
	put_u32(head + 388, 255);
	assert_int_equal(check(DISK_VDI, head, sizeof(head), ""), 0);
	put_u32(head + 388, 256);
	assert_int_equal(check(DISK_VDI, head, sizeof(head), "it is cut"), -EINVAL);
	put_u32(head + 388, UINT32_MAX);
	put_u32(head + 376, UINT32_MAX);
	put_u32(head + 380, UINT32_MAX);
	assert_int_equal(check(DISK_VDI, head, sizeof(head), "it is cut"), -EINVAL);
	assert_int_equal(check(DISK_VDI, head, 511, "no VDI"), -EINVAL);
}

static void the_end_of_a_name_tells_a_format(void **state)
{
	enum disk_format format;

	assert_int_equal(disk_format_of_name("/a.raw/b.QCOW2", &format), 0);
	assert_int_equal(format, DISK_QCOW2);
	assert_int_equal(disk_format_of_name("x.img", &format), 0);
	assert_int_equal(format, DISK_RAW);
	assert_int_equal(disk_format_of_name("/a.raw/b", &format), -EINVAL);
	assert_int_equal(disk_format_of_name("raw", &format), -EINVAL);
	assert_int_equal(disk_format_of_name("x.tar", &format), -EINVAL);
	assert_int_equal(disk_format_parse("vpc", &format), -EINVAL);
	assert_int_equal(disk_format_parse("vhd", &format), 0);
	assert_string_equal(disk_format_driver(format), "vpc");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(a_format_is_told_by_its_first_bytes),
	        cmocka_unit_test(what_is_known_and_not_read_is_refused),
	        cmocka_unit_test(a_plain_qcow2_is_taken),
	        cmocka_unit_test(a_qcow2_with_a_backing_file_is_refused),
	        cmocka_unit_test(a_qcow2_with_a_data_file_or_a_cipher_is_refused),
	        cmocka_unit_test(a_vmdk_of_one_file_is_taken),
	        cmocka_unit_test(a_vmdk_that_refers_to_files_is_refused),
	        cmocka_unit_test(a_vdi_that_is_cut_is_refused),
	        cmocka_unit_test(the_end_of_a_name_tells_a_format),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * disk-format.c - see disk-format.h
 *
 * Only as much is decoded as tells whether an image stands alone; whatever else may be wrong with
 * it is found by the program that converts it, which is confined (confine.h) and is told by us which
 * format to read, so it guesses nothing.
 */
#include "tools/disk-format.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

#include "base/bytes.h"

/* qcow2, big-endian */
#define QCOW2_V2_BYTES          72u
#define QCOW2_V3_BYTES          104u
#define QCOW2_INCOMPAT_CORRUPT  BIT(1)
#define QCOW2_INCOMPAT_DATAFILE BIT(2)

/* VMDK, little-endian; sectors */
#define VMDK_HEAD_BYTES 512u
#define VMDK_SECTOR     512u
#define VMDK_TEXT       "# Disk DescriptorFile"

/* VDI, little-endian */
#define VDI_MAGIC_AT   64u
#define VDI_MAGIC      0xbeda107fu
#define VDI_HEAD_BYTES 512u

struct format_row {
	const char *name, *driver;
	const char *endings[3];
};

static const struct format_row rows[DISK_FORMATS] = {
        [DISK_RAW] = {"raw", "raw", {"raw", "img"}},
        [DISK_QCOW2] = {"qcow2", "qcow2", {"qcow2", "qcow"}},
        [DISK_VMDK] = {"vmdk", "vmdk", {"vmdk"}},
        [DISK_VHDX] = {"vhdx", "vhdx", {"vhdx"}},
        [DISK_VDI] = {"vdi", "vdi", {"vdi"}},
        [DISK_VHD] = {"vhd", "vpc", {"vhd", "vpc"}},
};

const char *disk_format_name(enum disk_format format)
{
	return rows[format].name;
}

const char *disk_format_driver(enum disk_format format)
{
	return rows[format].driver;
}

int disk_format_parse(const char *name, enum disk_format *ret_format)
{
	for (unsigned i = 0; i < DISK_FORMATS; i++)
		if (!strcmp(name, rows[i].name)) {
			*ret_format = (enum disk_format)i;
			return 0;
		}
	return -EINVAL;
}

int disk_format_of_name(const char *path, enum disk_format *ret_format)
{
	const char *slash = strrchr(path, '/');
	const char *dot = strrchr(slash ? slash : path, '.');

	for (unsigned i = 0; dot && i < DISK_FORMATS; i++)
		for (unsigned k = 0; k < ARRAY_SIZE(rows[i].endings); k++)
			if (rows[i].endings[k] && !strcasecmp(dot + 1, rows[i].endings[k])) {
				*ret_format = (enum disk_format)i;
				return 0;
			}
	return -EINVAL;
}

/* --- detecting --- */

static uint32_t be32_at(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static uint64_t be64_at(const uint8_t *p)
{
	return (uint64_t)be32_at(p) << 32 | be32_at(p + 4);
}

static bool begins(const uint8_t *head, size_t len, const char *mark, size_t mark_len)
{
	return len >= mark_len && !memcmp(head, mark, mark_len);
}

static int unsupported(struct errmsg *em, const char *what)
{
	return errmsg_set(em, -ENOTSUP, "it is %s: convert it to qcow2 or raw first", what);
}

int disk_format_detect(
        const uint8_t *head, size_t len, enum disk_format *ret_format, struct errmsg *em)
{
	enum disk_format format = DISK_RAW;

	if (begins(head, len, "QFI\xfb", 4))
		format = DISK_QCOW2;
	else if (begins(head, len, "KDMV", 4) ||
	         begins(head, len, VMDK_TEXT, sizeof(VMDK_TEXT) - 1))
		format = DISK_VMDK;
	else if (begins(head, len, "vhdxfile", 8))
		format = DISK_VHDX;
	else if (begins(head, len, "conectix", 8))
		format = DISK_VHD;
	else if (len >= VDI_MAGIC_AT + 4 && get_u32(head + VDI_MAGIC_AT) == VDI_MAGIC)
		format = DISK_VDI;
	else if (begins(head, len, "COWD", 4))
		return unsupported(em, "a VMDK of an old ESX");
	else if (begins(head, len, "QED\0", 4))
		return unsupported(em, "a QED image");
	*ret_format = format;
	return 0;
}

/* --- checking --- */

static int is_none(struct errmsg *em, const char *what)
{
	return errmsg_set(em, -EINVAL, "it is no %s image", what);
}

static int refers(struct errmsg *em, const char *what, const char *todo)
{
	return errmsg_set(em, -EPERM, "it refers to %s, which is not read: %s", what, todo);
}

static int qcow2_check(const uint8_t *head, size_t len, struct errmsg *em)
{
	static const char flatten[] = "make it whole with 'qemu-img convert' where it comes from";

	if (len < QCOW2_V2_BYTES || !begins(head, len, "QFI\xfb", 4))
		return is_none(em, "qcow2");
	const uint32_t version = be32_at(head + 4);
	if (version < 2 || version > 3)
		return errmsg_set(em, -ENOTSUP, "it is a qcow image of version %u, not 2 or 3",
		        (unsigned)version);
	if (be64_at(head + 8) || be32_at(head + 16))
		return refers(em, "a backing file", flatten);
	if (be32_at(head + 32))
		return errmsg_set(
		        em, -ENOTSUP, "it is encrypted: decrypt it with 'qemu-img convert' first");
	if (version == 2)
		return 0;
	if (len < QCOW2_V3_BYTES)
		return is_none(em, "qcow2");
	const uint64_t incompatible = be64_at(head + 72);
	if (incompatible & QCOW2_INCOMPAT_DATAFILE)
		return refers(em, "an external data file", flatten);
	if (incompatible & QCOW2_INCOMPAT_CORRUPT)
		return errmsg_set(em, -EINVAL,
		        "it is marked corrupt: look at it with 'qemu-img check' first");
	return 0;
}

/* Wherever it stands in the text, as readers take it. */
static bool has_parent(const uint8_t *text, size_t len)
{
	static const char key[] = "parentCID=", none[] = "ffffffff";
	const size_t key_len = sizeof(key) - 1, none_len = sizeof(none) - 1;
	const uint8_t *at = memmem(text, len, key, key_len);

	if (!at)
		return false;
	at += key_len;
	return (size_t)(text + len - at) < none_len ||
	       strncasecmp((const char *)at, none, none_len) != 0;
}

static int vmdk_check(const uint8_t *head, size_t len, struct errmsg *em)
{
	static const char merge[] = "export it as one file where it comes from";

	if (begins(head, len, VMDK_TEXT, sizeof(VMDK_TEXT) - 1))
		return refers(em, "the files that hold its data", merge);
	if (len < VMDK_HEAD_BYTES || !begins(head, len, "KDMV", 4))
		return is_none(em, "VMDK");
	/* A reader takes the descriptor's list of files then. */
	if (get_u64(head + 12) == 0)
		return refers(em, "the files that hold its data", merge);
	const uint64_t sector = get_u64(head + 28), sectors = get_u64(head + 36);
	if (sector == 0 || sectors == 0)
		return 0;
	if (sector >= len / VMDK_SECTOR || sectors > len / VMDK_SECTOR - sector)
		return errmsg_set(em, -ENOTSUP, "its descriptor is not at its beginning");
	if (has_parent(head + sector * VMDK_SECTOR, sectors * VMDK_SECTOR))
		return refers(em, "a parent", merge);
	return 0;
}

/* Other readers take what is behind the end of a VDI for zeros. */
static int vdi_check(const uint8_t *head, size_t len, uint64_t file_bytes, struct errmsg *em)
{
	if (len < VDI_HEAD_BYTES || get_u32(head + VDI_MAGIC_AT) != VDI_MAGIC)
		return is_none(em, "VDI");
	const uint64_t data = get_u32(head + 344), blocks = get_u32(head + 388);
	const uint64_t block_bytes = (uint64_t)get_u32(head + 376) + get_u32(head + 380);
	const bool cut = block_bytes && blocks > file_bytes / block_bytes;
	if (cut || data + blocks * block_bytes > file_bytes)
		return errmsg_set(em, -EINVAL, "it is cut: fetch it again");
	return 0;
}

int disk_format_check(enum disk_format format, const uint8_t *head, size_t len, uint64_t file_bytes,
        struct errmsg *em)
{
	switch (format) {
	case DISK_QCOW2:
		return qcow2_check(head, len, em);
	case DISK_VMDK:
		return vmdk_check(head, len, em);
	case DISK_VHDX:
		return begins(head, len, "vhdxfile", 8) ? 0 : is_none(em, "VHDX");
	case DISK_VHD:
		return begins(head, len, "conectix", 8) ? 0 : is_none(em, "dynamic VHD");
	case DISK_VDI:
		return vdi_check(head, len, file_bytes, em);
	default:
		return 0;
	}
}

/*
 * discover-blkid.c - partition tables, filesystems and members of volumes, as libblkid says
 *
 * First the whole image: a partition table, and what else it may be (a filesystem or a volume
 * without a table).  Then each partition by itself.  The
 * places where libblkid will look are asked for before it looks (want_*): the first and last pieces, the
 * chain of logical partitions, and where the boot sectors of NTFS, FAT32 and exFAT say that their
 * labels are.
 *
 * Sizes of filesystems are read here, from the superblocks whose place and fields are fixed;
 * libblkid gives them from 2.39 on only.
 */
#include "tools/discover-worker.h"

#ifdef HAVE_BLKID
#include <blkid/blkid.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"

#define PARTITIONS_MAX 128
#define HEAD_BYTES     (2u << 20)   /* of the whole image */
#define PART_BYTES     (576u << 10) /* UDF looks that far */
#define TAIL_BYTES     (512u << 10) /* RAID, ZFS, the backup of a GPT */
#define SECTOR         512u
#define LOGICAL_MAX    128u

/* --- what libblkid will look at --- */

static uint16_t get_be16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static uint32_t get_be32(const uint8_t *p)
{
	return (uint32_t)get_be16(p) << 16 | get_be16(p + 2);
}

static uint64_t get_be64(const uint8_t *p)
{
	return (uint64_t)get_be32(p) << 32 | get_be32(p + 4);
}

static bool is_extended(uint8_t type)
{
	return type == 0x05 || type == 0x0f || type == 0x85;
}

/* Follows the boot records of logical partitions; the guest may have made the chain a loop. */
static void want_logical(struct source *s, uint64_t extended)
{
	uint8_t sector[SECTOR];
	uint64_t at = extended;

	for (unsigned n = 0; n < LOGICAL_MAX; n++) {
		if (source_read(s, at * SECTOR, sector, SECTOR) < 0 ||
		        get_u16(sector + 510) != 0xaa55)
			return;
		uint32_t next = 0;
		for (unsigned i = 0; i < 4; i++)
			if (is_extended(sector[446 + 16 * i + 4]))
				next = get_u32(sector + 446 + 16 * i + 8);
		if (!next)
			return;
		at = extended + next;
	}
}

static void want_tables(struct source *s)
{
	uint8_t mbr[SECTOR];

	if (source_want(s, 0, HEAD_BYTES) < 0 ||
	        source_want(s, s->size - MIN(s->size, TAIL_BYTES), TAIL_BYTES) < 0 ||
	        source_read(s, 0, mbr, SECTOR) < 0 || get_u16(mbr + 510) != 0xaa55)
		return;
	for (unsigned i = 0; i < 4; i++) {
		const uint8_t *entry = mbr + 446 + 16 * i;
		const uint64_t start = get_u32(entry + 8);
		if (is_extended(entry[4]))
			want_logical(s, start);
		else if (start) /* a table inside the partition: BSD, Minix, Solaris */
			(void)!source_want(s, start * SECTOR, SOURCE_PIECE);
	}
}

/* Where the label is, from the boot sector; 0: at no far place. */
static uint64_t label_offset(const uint8_t *boot)
{
	const uint64_t sector = get_u16(boot + 11), cluster = boot[13] * sector;

	if (!memcmp(boot + 3, "NTFS    ", 8))
		return get_u64(boot + 48) * cluster;
	if (!memcmp(boot + 82, "FAT32   ", 8))
		return (get_u16(boot + 14) + (uint64_t)boot[16] * get_u32(boot + 36)) * sector +
		       (get_u32(boot + 44) - 2ull) * cluster;
	if (!memcmp(boot + 3, "EXFAT   ", 8) && boot[108] < 16 && boot[109] < 26)
		return ((uint64_t)get_u32(boot + 88) + ((get_u32(boot + 96) - 2ull) << boot[109]))
		       << boot[108];
	return 0;
}

static void want_filesystem(struct source *s, uint64_t base, uint64_t len)
{
	uint8_t boot[SECTOR];

	if (source_want(s, base, MIN(len, PART_BYTES)) < 0 ||
	        source_want(s, base + len - MIN(len, TAIL_BYTES), MIN(len, TAIL_BYTES)) < 0 ||
	        source_read(s, base, boot, SECTOR) < 0)
		return;
	const uint64_t off = label_offset(boot);
	if (off && off < len)
		(void)!source_want(s, base + off, MIN(len - off, SOURCE_PIECE));
}

/* --- sizes --- */

struct fs_size {
	const char *type;
	uint64_t at; /* 512 bytes there have it */
	uint64_t (*size)(const uint8_t *p);
};

static uint64_t size_xfs(const uint8_t *p)
{
	return get_be64(p + 8) * get_be32(p + 4);
}

static uint64_t size_btrfs(const uint8_t *p)
{
	return get_u64(p + 0x70);
}

static uint64_t size_ntfs(const uint8_t *p)
{
	return get_u64(p + 0x28) * get_u16(p + 11);
}

static uint64_t size_vfat(const uint8_t *p)
{
	const uint64_t sectors = get_u16(p + 19) ? get_u16(p + 19) : get_u32(p + 32);

	return sectors * get_u16(p + 11);
}

static uint64_t size_exfat(const uint8_t *p)
{
	return p[108] < 16 ? get_u64(p + 72) << p[108] : 0;
}

static uint64_t size_swap(const uint8_t *p)
{
	return (get_u32(p + 4) + 1ull) * 4096; /* version 1, pages of 4 KiB */
}

static uint64_t size_squashfs(const uint8_t *p)
{
	return get_u64(p + 40);
}

static uint64_t size_iso9660(const uint8_t *p)
{
	return (uint64_t)get_u32(p + 80) * get_u16(p + 128);
}

static const struct fs_size fs_sizes[] = {
        {"xfs", 0, size_xfs},
        {"btrfs", 65536, size_btrfs},
        {"ntfs", 0, size_ntfs},
        {"vfat", 0, size_vfat},
        {"exfat", 0, size_exfat},
        {"swap", 1024, size_swap},
        {"squashfs", 0, size_squashfs},
        {"iso9660", 32768, size_iso9660},
};

static void add_size(struct source *s, uint64_t base, uint64_t len, json_t *content)
{
	const char *type = json_string_value(json_object_get(content, "type"));
	uint8_t super[SECTOR];

	for (unsigned i = 0; type && i < ARRAY_SIZE(fs_sizes); i++) {
		const struct fs_size *f = &fs_sizes[i];
		if (strcmp(type, f->type) || f->at + SECTOR > len ||
		        source_read(s, base + f->at, super, SECTOR) < 0)
			continue;
		const uint64_t size = f->size(super);
		if (size && size <= INT64_MAX)
			json_object_set_new(content, "size_bytes", json_integer((json_int_t)size));
	}
}

/* --- one filesystem, or what else lies there --- */

static void add_value(blkid_probe pr, json_t *content, const char *name, const char *key)
{
	const char *value = NULL;

	if (blkid_probe_lookup_value(pr, name, &value, NULL) == 0)
		discover_set(content, key, value);
}

static json_t *probe_content(struct source *s, uint64_t base, uint64_t len)
{
	blkid_probe pr = blkid_new_probe();
	json_t *content = NULL;

	if (!pr || blkid_probe_set_device(pr, s->fd, (blkid_loff_t)base, (blkid_loff_t)len) < 0)
		goto out;
	blkid_probe_enable_partitions(pr, 0);
	blkid_probe_enable_superblocks(pr, 1);
	blkid_probe_set_superblocks_flags(pr, BLKID_SUBLKS_TYPE | BLKID_SUBLKS_USAGE |
	                                              BLKID_SUBLKS_LABEL | BLKID_SUBLKS_UUID |
	                                              BLKID_SUBLKS_VERSION);
	const int r = blkid_do_safeprobe(pr);
	if (r == -2)
		content = json_pack("{s:s}", "usage", "ambivalent");
	if (r != 0)
		goto out;
	content = json_object();
	add_value(pr, content, "USAGE", "usage");
	add_value(pr, content, "TYPE", "type");
	add_value(pr, content, "VERSION", "version");
	add_value(pr, content, "LABEL", "label");
	add_value(pr, content, "UUID", "uuid");
out:
	blkid_free_probe(pr);
	return content;
}

static bool is_type(const json_t *content, const char *type)
{
	const char *t = json_string_value(json_object_get(content, "type"));

	return t && !strcmp(t, type);
}

static json_t *discover_content(
        struct source *s, uint64_t base, uint64_t len, int number, json_t *systems)
{
	want_filesystem(s, base, len);
	json_t *content = probe_content(s, base, len);
	const char *usage = json_string_value(json_object_get(content, "usage"));

	if (is_type(content, "ext2") || is_type(content, "ext3") || is_type(content, "ext4")) {
		discover_ext(s, base, len, number, content, systems);
	} else if (content) {
		add_size(s, base, len, content);
		if (usage && !strcmp(usage, "filesystem")) {
			json_object_set_new(content, "readable", json_false());
			discover_set(content, "why", "files are read on ext2, ext3 and ext4 only");
		}
	}
	return content;
}

/* --- partitions --- */

/* Types that say what a partition is for. */
static const struct {
	const char *type, *name;
} gpt_names[] = {
        {"c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "EFI system"},
        {"21686148-6449-6e6f-744e-656564454649", "BIOS boot"},
        {"0fc63daf-8483-4772-8e79-3d69d8477de4", "Linux data"},
        {"4f68bce3-e8cd-4db1-96e7-fbcaf984b709", "Linux root (x86-64)"},
        {"b921b045-1df0-41c3-af44-4c6f280d3fae", "Linux root (arm64)"},
        {"933ac7e1-2eb4-4f13-b844-0e14e2aef915", "Linux home"},
        {"bc13c2ff-59e6-4262-a352-b275fd6f7172", "Linux boot"},
        {"0657fd6d-a4ab-43c4-84e5-0933c84b4f4f", "Linux swap"},
        {"e6d6d379-f507-44c2-a23c-238f2a3df928", "Linux LVM"},
        {"a19d880f-05fc-4d3b-a006-743f0f84911e", "Linux RAID"},
        {"ca7d7ccb-63ed-4c53-861c-1742536059cc", "Linux LUKS"},
        {"ebd0a0a2-b9e5-4433-87c0-68b6b72699c7", "Microsoft basic data"},
        {"e3c9e316-0b5c-4db8-817d-f92df00215ae", "Microsoft reserved"},
        {"de94bba4-06d1-4d40-a16a-bfd50179d6ac", "Windows recovery"},
        {"516e7cb6-6ecf-11d6-8ff8-00022d09712b", "FreeBSD ZFS"},
        {"516e7cb4-6ecf-11d6-8ff8-00022d09712b", "FreeBSD data"},
};
static const struct {
	int type;
	const char *name;
} mbr_names[] = {
        {0x01, "FAT12"},
        {0x04, "FAT16"},
        {0x05, "extended"},
        {0x06, "FAT16"},
        {0x07, "NTFS or exFAT"},
        {0x0b, "FAT32"},
        {0x0c, "FAT32"},
        {0x0e, "FAT16"},
        {0x0f, "extended"},
        {0x27, "Windows recovery"},
        {0x82, "Linux swap"},
        {0x83, "Linux"},
        {0x85, "extended"},
        {0x8e, "Linux LVM"},
        {0xa5, "FreeBSD"},
        {0xa6, "OpenBSD"},
        {0xee, "GPT protective"},
        {0xef, "EFI system"},
        {0xfd, "Linux RAID"},
};

static void add_type(blkid_partition par, json_t *out)
{
	const char *type = blkid_partition_get_type_string(par);
	const int number = blkid_partition_get_type(par);
	char text[16];

	if (type) {
		discover_set(out, "type", type);
		for (unsigned i = 0; i < ARRAY_SIZE(gpt_names); i++)
			if (!strcasecmp(type, gpt_names[i].type))
				discover_set(out, "type_name", gpt_names[i].name);
		return;
	}
	snprintf(text, sizeof(text), "0x%02x", number);
	discover_set(out, "type", text);
	for (unsigned i = 0; i < ARRAY_SIZE(mbr_names); i++)
		if (number == mbr_names[i].type)
			discover_set(out, "type_name", mbr_names[i].name);
}

static json_t *describe_partition(blkid_partition par, uint64_t base, uint64_t len)
{
	blkid_parttable table = blkid_partition_get_table(par);
	json_t *out = json_pack("{s:i, s:I, s:I}", "number", blkid_partition_get_partno(par),
	        "offset_bytes", (json_int_t)base, "size_bytes", (json_int_t)len);

	if (!out)
		return NULL;
	add_type(par, out);
	if (blkid_partition_is_logical(par))
		json_object_set_new(out, "logical", json_true());
	discover_set(out, "name", blkid_partition_get_name(par));
	discover_set(out, "uuid", blkid_partition_get_uuid(par));
	if (table)
		discover_set(out, "table", blkid_parttable_get_type(table));
	if (table && blkid_parttable_get_parent(table))
		json_object_set_new(out, "inside",
		        json_integer(
		                blkid_partition_get_partno(blkid_parttable_get_parent(table))));
	return out;
}

static void discover_partition(struct source *s, blkid_partition par, json_t *found)
{
	const uint64_t start = (uint64_t)blkid_partition_get_start(par);
	const uint64_t sectors = (uint64_t)blkid_partition_get_size(par);

	if (start > (uint64_t)INT64_MAX / SECTOR || sectors > (uint64_t)INT64_MAX / SECTOR)
		return;
	const uint64_t base = start * SECTOR, len = sectors * SECTOR;
	json_t *out = describe_partition(par, base, len);
	if (!out)
		return;
	json_array_append_new(json_object_get(found, "partitions"), out);
	if (base >= s->size || len > s->size - base) {
		discover_set(out, "why", "it ends behind the end of the image");
		return;
	}
	if (blkid_partition_is_extended(par) || len == 0)
		return;
	json_t *content = discover_content(
	        s, base, len, blkid_partition_get_partno(par), json_object_get(found, "systems"));
	if (content)
		json_object_set_new(out, "content", content);
}

/* Partitions with sectors of that size; false: no table. */
static bool discover_table(struct source *s, unsigned sector, json_t *found)
{
	blkid_probe pr = blkid_new_probe();
	bool is_table = false;

	if (!pr || blkid_probe_set_device(pr, s->fd, 0, (blkid_loff_t)s->size) < 0)
		goto out;
	blkid_probe_set_sectorsize(pr, sector);
	blkid_probe_enable_superblocks(pr, 0);
	blkid_probe_enable_partitions(pr, 1);
	blkid_partlist list = blkid_probe_get_partitions(pr);
	blkid_parttable table = list ? blkid_partlist_get_table(list) : NULL;
	if (!table)
		goto out;
	is_table = true;
	json_t *t = json_pack("{s:i}", "sector_bytes", (int)sector);
	discover_set(t, "type", blkid_parttable_get_type(table));
	discover_set(t, "id", blkid_parttable_get_id(table));
	json_object_set_new(found, "table", t);
	for (int i = 0; i < MIN(blkid_partlist_numof_partitions(list), PARTITIONS_MAX); i++)
		discover_partition(s, blkid_partlist_get_partition(list, i), found);
out:
	blkid_free_probe(pr);
	return is_table;
}

/* --- Windows, from labels and types: nothing inside NTFS is read --- */

static bool is_windows_part(const json_t *part, bool *ret_ntfs)
{
	const char *name = json_string_value(json_object_get(part, "type_name"));

	if (is_type(json_object_get(part, "content"), "ntfs"))
		*ret_ntfs = true;
	return name && (!strcmp(name, "Microsoft reserved") || !strcmp(name, "Windows recovery"));
}

static void hint_windows(json_t *found)
{
	bool ntfs = false, typical = false;
	const json_t *part;
	size_t i;

	json_array_foreach(json_object_get(found, "partitions"), i, part)
	{
		const char *label = json_string_value(
		        json_object_get(json_object_get(part, "content"), "label"));
		typical |= is_windows_part(part, &ntfs);
		typical |=
		        label && (!strcmp(label, "System Reserved") || !strcmp(label, "Windows") ||
		                         !strcmp(label, "WinRE") || !strcmp(label, "Recovery"));
	}
	if (ntfs && typical)
		json_array_append_new(json_object_get(found, "systems"),
		        json_pack("{s:s, s:s}", "name", "Windows", "read_from",
		                "partition types and labels"));
}

void discover_image(struct source *s, json_t *found)
{
	want_tables(s);
	if (!discover_table(s, 512, found) && !discover_table(s, 4096, found)) {
		json_t *content =
		        discover_content(s, 0, s->size, 0, json_object_get(found, "systems"));
		if (content)
			json_object_set_new(found, "content", content);
	}
	hint_windows(found);
}
#else
void discover_image(struct source *s, json_t *found)
{
	discover_set(found, "why", "weir was built without libblkid: nothing can be recognized");
}
#endif

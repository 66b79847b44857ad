/*
 * disk-format.h - formats of disk images: told by their first bytes, and what of them is refused
 *
 * An image from elsewhere may name other files that its reader would open and copy: the backing file
 * of a qcow2, its external data file, the extents and the parent of a VMDK.  A hostile one names
 * /etc/shadow.  So an image is looked at here before any other program opens it, and what is not
 * self-contained is refused.
 *
 * Sources: QEMU's docs/interop/qcow2.txt; VMware's Virtual Disk Format 1.1; [MS-VHDX]; the Virtual
 * Hard Disk Image Format Specification 1.0; for VDI what VirtualBox writes.
 *
 * Threads: any; pure.
 */
#pragma once

#include "base/errmsg.h"

/* The order of the table in disk-format.c. */
enum disk_format { DISK_RAW, DISK_QCOW2, DISK_VMDK, DISK_VHDX, DISK_VDI, DISK_VHD, DISK_FORMATS };

#define DISK_HEAD_BYTES 65536u /* what is looked at; a file may be shorter */

const char *disk_format_name(enum disk_format format);
/* What QEMU calls its driver. */
const char *disk_format_driver(enum disk_format format);
/* By the name of a format; -EINVAL. */
int disk_format_parse(const char *name, enum disk_format *ret_format) MUST_CHECK;
/* By the end of a file's name; -EINVAL when that says nothing. */
int disk_format_of_name(const char *path, enum disk_format *ret_format) MUST_CHECK;
/*
 * By the first bytes.  What is none of the others is raw: a VHD of fixed size, too, which has its
 * mark at the end.  -ENOTSUP with a message: known, and not read.
 */
int disk_format_detect(const uint8_t *head, size_t len, enum disk_format *ret_format,
        struct errmsg *em) MUST_CHECK;
/*
 * file_bytes: how long the file is.  -EPERM: it refers to other files; -ENOTSUP: encrypted;
 * -EINVAL: is none, or cut; with a message.
 */
int disk_format_check(enum disk_format format, const uint8_t *head, size_t len, uint64_t file_bytes,
        struct errmsg *em) MUST_CHECK;

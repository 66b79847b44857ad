/*
 * import.c - "weir import": a new image from a raw, qcow2, VMDK, VHDX, VDI or VHD file
 *
 * FILE is a stranger's: it is opened once, looked at (disk-format.c), and what is not raw is read by
 * qemu-img, confined.  The image has its name once it is complete and durable (newfile.h); before,
 * it is a temporary file beside it, which the filters of its directory apply to already.
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/clock.h"
#include "fs/control/text.h"
#include "store/chunk.h"
#include "tools/confine.h"
#include "tools/interrupt.h"
#include "tools/newfile.h"
#include "tools/print.h"
#include "tools/qemu-img.h"
#include "tools/sparse.h"
#include "tools/target.h"

enum { OPTION_FORMAT = 0x100, OPTION_VERIFY, OPTION_NO_SPACE };

static const struct cmd_option import_options[] = {
        {'f', "force", NULL, "replace IMAGE if it exists"},
        {OPTION_FORMAT, "format", "NAME",
                "raw, qcow2, vmdk, vhdx, vdi or vhd (default: as its first bytes say)"},
        {OPTION_NO_SPACE, "no-space-check", NULL, "begin although there seems not to be room"},
        {OPTION_VERIFY, "verify", NULL, "compare the content afterwards"},
        {'j', "json", NULL, "print JSON"},
        {0},
};

struct import {
	const char *file, *image; /* file "-": stdin */
	enum disk_format format;
	bool format_given, force, verify, no_space_check, as_json, from_stdin;

	int fd;
	struct stat st;
	/* Of the disk; SPARSE_UNKNOWN: as much as there is.  What of it is data. */
	uint64_t size_bytes, data_bytes, start_ns;
	struct newfile nf;
};

static int import_failed(const struct import *im, int err, const struct errmsg *em)
{
	if (err == -EINTR)
		return cmd_fail(WEIR_EXIT_FAILED, "the import of '%s' was interrupted", im->file);
	if (err == -ENOKEY)
		return cmd_fail(WEIR_EXIT_FAILED,
		        "cannot import to '%s': the key of its directory is locked (weir key "
		        "unlock)",
		        im->image);
	return cmd_fail(WEIR_EXIT_FAILED, "cannot import '%s' to '%s': %s",
	        im->from_stdin ? "stdin" : im->file, im->image,
	        em->text[0] ? em->text : strerror(-err));
}

/* --- what is read --- */

static int head_read(int fd, uint8_t *head, size_t *ret_len, struct errmsg *em)
{
	size_t len = 0;

	while (len < DISK_HEAD_BYTES) {
		const ssize_t n = pread(fd, head + len, DISK_HEAD_BYTES - len, (off_t)len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errmsg_set(em, -errno, "reading it failed: %s", strerror(errno));
		if (n == 0)
			break;
		len += (size_t)n;
	}
	*ret_len = len;
	return 0;
}

static int source_look(struct import *im, struct errmsg *em)
{
	CLEANUP(free_ptr) uint8_t *head = malloc(DISK_HEAD_BYTES);
	size_t len = 0;

	if (!head)
		return -ENOMEM;
	const uint64_t file_bytes = (uint64_t)lseek(im->fd, 0, SEEK_END); /* errors: no limit */
	int r = head_read(im->fd, head, &len, em);
	if (r == 0 && !im->format_given)
		r = disk_format_detect(head, len, &im->format, em);
	return r < 0 ? r : disk_format_check(im->format, head, len, file_bytes, em);
}

static int source_open(struct import *im, struct errmsg *em)
{
	if (im->from_stdin) {
		im->fd = STDIN_FILENO;
		im->size_bytes = SPARSE_UNKNOWN;
		return 0;
	}
	im->fd = open(im->file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (im->fd < 0 || fstat(im->fd, &im->st) < 0)
		return errmsg_set(em, -errno, "cannot open it: %s", strerror(errno));
	if (!S_ISREG(im->st.st_mode) && !S_ISBLK(im->st.st_mode))
		return errmsg_set(
		        em, -EINVAL, "it is neither a file nor a block device ('-' reads a pipe)");
	return source_look(im, em);
}

/* Size of the disk, and about how much of it is data. */
static int source_measure(struct import *im, struct errmsg *em)
{
	const struct disk_file f = {im->fd, im->format};
	char size[TEXT_LEN], max[TEXT_LEN];
	int r = 0;

	if (im->from_stdin)
		return 0;
	if (im->format == DISK_RAW) {
		const off_t end = lseek(im->fd, 0, SEEK_END);
		im->size_bytes = (uint64_t)end;
		r = end < 0 ? -errno : 0;
	} else {
		r = qemu_img_size(&f, &im->size_bytes, em);
	}
	if (r < 0)
		return r;
	if (im->size_bytes > IMAGE_SIZE_MAX)
		return errmsg_set(em, -EFBIG, "its disk is of %s, an image is of %s at most",
		        text_size(size, im->size_bytes), text_size(max, IMAGE_SIZE_MAX));
	if (im->format == DISK_RAW)
		return sparse_data_bytes(im->fd, im->size_bytes, &im->data_bytes);
	r = qemu_img_check(&f, im->size_bytes, em);
	return r < 0 ? r : qemu_img_measure(&f, &im->data_bytes, em);
}

/* What came from a pipe is known once it was written: a qcow2 is not taken for a disk. */
static int stream_look(const struct import *im, struct errmsg *em)
{
	CLEANUP(free_ptr) uint8_t *head = malloc(DISK_HEAD_BYTES);
	enum disk_format format = DISK_RAW;
	size_t len = 0;

	if (im->format_given)
		return 0;
	int r = head ? head_read(im->nf.fd, head, &len, em) : -ENOMEM;
	if (r == 0)
		r = disk_format_detect(head, len, &format, em);
	if (r == 0 && format != DISK_RAW)
		r = errmsg_set(em, -ENOTSUP,
		        "it is %s: only raw can be read from a pipe (--format raw takes it as it "
		        "is)",
		        disk_format_name(format));
	return r;
}

/* A file that changed under the reader is a mixture; and was not what was looked at. */
static int source_same(const struct import *im, struct errmsg *em)
{
	struct stat st;

	if (fstat(im->fd, &st) < 0)
		return errmsg_set(em, -errno, "%s", strerror(errno));
	if (st.st_size == im->st.st_size && st.st_mtim.tv_sec == im->st.st_mtim.tv_sec &&
	        st.st_mtim.tv_nsec == im->st.st_mtim.tv_nsec)
		return 0;
	return errmsg_set(em, -EAGAIN, "it changed while it was read");
}

/* --- what is written --- */

/* Only a mount of ours: elsewhere "qemu-img convert" does it. */
static int dest_check(const struct import *im)
{
	CLEANUP(free_ptr) char *copy = strdup(im->image);
	struct target t;

	if (!copy)
		return cmd_fail(WEIR_EXIT_FAILED, "out of memory");
	int code = target_find(&t, dirname(copy));
	if (code == 0 && !t.mountpoint)
		code = cmd_fail(WEIR_EXIT_FAILED,
		        "cannot import to '%s': not in a mounted datastore (weir mount %s "
		        "MOUNTPOINT, then MOUNTPOINT/IMAGE)",
		        im->image, t.dir);
	target_release(&t);
	return code;
}

static int space_check(const struct import *im, struct errmsg *em)
{
	struct statvfs sv;
	char need[TEXT_LEN], have[TEXT_LEN];

	if (im->no_space_check || im->from_stdin)
		return 0;
	if (fstatvfs(im->nf.dir_fd, &sv) < 0)
		return errmsg_set(
		        em, -errno, "cannot tell how much space is free: %s", strerror(errno));
	const uint64_t free_bytes = (uint64_t)sv.f_bavail * sv.f_frsize;
	if (im->data_bytes <= free_bytes)
		return 0;
	return errmsg_set(em, -ENOSPC,
	        "it may take %s, and %s are free (--no-space-check begins all the same)",
	        text_size(need, im->data_bytes), text_size(have, free_bytes));
}

static int copy_raw(struct import *im, struct progress *progress, struct errmsg *em)
{
	struct sparse_copy c = {
	        .from = im->fd,
	        .to = im->nf.fd,
	        .size_bytes = im->size_bytes,
	        .size_max_bytes = IMAGE_SIZE_MAX,
	        .data_bytes = im->data_bytes,
	        .progress = progress,
	};
	const int r = sparse_copy(&c);

	im->size_bytes = c.size_bytes;
	if (r == -ENODATA)
		return errmsg_set(em, r, "it became shorter meanwhile");
	return r < 0 ? errmsg_set(em, r, "%s failed: %s",
	                       c.failed_writing ? "writing the image" : "reading", strerror(-r))
	             : 0;
}

static int convert(struct import *im, struct progress *progress, struct errmsg *em)
{
	const struct qemu_img_convert c = {
	        .from = {im->fd, im->format},
	        .to = {im->nf.fd, DISK_RAW},
	        .size_bytes = im->size_bytes,
	        .progress = progress,
	};

	if (ftruncate(im->nf.fd, (off_t)im->size_bytes) < 0)
		return errmsg_set(em, -errno, "writing the image failed: %s", strerror(errno));
	return qemu_img_convert(&c, em);
}

static int verify(struct import *im, struct errmsg *em)
{
	const struct disk_file a = {im->fd, im->format}, b = {im->nf.fd, DISK_RAW};
	struct progress progress;
	uint64_t at = SPARSE_UNKNOWN;
	bool equal = true;
	int r;

	progress_begin(&progress, "comparing", PROGRESS_BYTES);
	if (im->format == DISK_RAW)
		r = sparse_compare(im->fd, im->nf.fd, im->size_bytes, &progress, &at);
	else
		r = qemu_img_compare(&a, &b, im->size_bytes, &progress, &equal, em);
	progress_end(&progress);
	if (r < 0)
		return r;
	return at == SPARSE_UNKNOWN && equal
	               ? 0
	               : errmsg_set(em, -EIO, "what was written differs from it");
}

static int import_to_image(struct import *im, struct errmsg *em)
{
	const mode_t mode = im->from_stdin || S_ISBLK(im->st.st_mode) ? 0666 : im->st.st_mode;
	struct progress progress;
	int r = newfile_begin(im->image, im->force, &im->nf, em);

	if (r == 0)
		r = space_check(im, em);
	if (r < 0)
		return r;
	progress_begin(&progress, "importing", PROGRESS_BYTES);
	r = im->format == DISK_RAW ? copy_raw(im, &progress, em) : convert(im, &progress, em);
	progress_end(&progress);
	if (r == 0)
		r = newfile_sync(&im->nf, em);
	if (r == 0 && im->verify)
		r = verify(im, em);
	if (r == 0)
		r = im->from_stdin ? stream_look(im, em) : source_same(im, em);
	if (r == 0 && interrupt_pending())
		r = -EINTR;
	return r < 0 ? r : newfile_publish(&im->nf, mode & 0666, em);
}

/* --- the command --- */

static void summary_print(const struct import *im)
{
	struct stat st = {0};
	char size[TEXT_LEN], data[TEXT_LEN], took[TEXT_LEN];

	fstat(im->nf.fd, &st);
	const uint64_t data_bytes = (uint64_t)st.st_blocks * 512;
	const uint64_t ns = clock_now_ns() - im->start_ns;
	if (!im->as_json) {
		printf("%s: imported from '%s' (%s, %s, %s of data%s, %s)\n", im->image,
		        im->from_stdin ? "stdin" : im->file, disk_format_name(im->format),
		        text_size(size, im->size_bytes), text_size(data, data_bytes),
		        im->verify ? ", compared" : "", text_ns(took, ns));
		return;
	}
	json_t *json = json_pack("{s:o, s:o, s:s, s:I, s:I, s:b, s:b, s:f}", "image",
	        text_json(im->image), "file", text_json(im->file), "format",
	        disk_format_name(im->format), "size_bytes", (json_int_t)im->size_bytes,
	        "data_bytes", (json_int_t)data_bytes, "verified", im->verify, "confined",
	        im->format == DISK_RAW || confine_can(), "seconds", (double)ns / 1e9);
	cmd_print_json(json);
	json_decref(json);
}

static int import_file(struct import *im)
{
	struct errmsg em = {0};
	const int code = dest_check(im);

	if (code)
		return code;
	int r = source_open(im, &em);
	if (r == 0 && im->format != DISK_RAW)
		r = qemu_img_find(&em);
	if (r == 0)
		r = source_measure(im, &em);
	if (r == 0)
		r = import_to_image(im, &em);
	if (r < 0)
		return import_failed(im, r, &em);
	summary_print(im);
	return 0;
}

static int option_take(const struct command *cmd, struct import *im, int id)
{
	switch (id) {
	case OPTION_FORMAT:
		if (disk_format_parse(optarg, &im->format) < 0)
			return cmd_misused(cmd,
			        "'%s' is no format: raw, qcow2, vmdk, vhdx, vdi or vhd", optarg);
		im->format_given = true;
		return 0;
	case OPTION_VERIFY:
		im->verify = true;
		return 0;
	case OPTION_NO_SPACE:
		im->no_space_check = true;
		return 0;
	case 'f':
		im->force = true;
		return 0;
	default:
		im->as_json = true;
		return 0;
	}
}

static int import_check(const struct command *cmd, struct import *im)
{
	im->from_stdin = !strcmp(im->file, "-");
	if (!im->from_stdin)
		return 0;
	if (im->format != DISK_RAW)
		return cmd_misused(cmd, "only raw can be read from a pipe");
	if (im->verify)
		return cmd_misused(cmd, "--verify needs a file, not '-'");
	if (isatty(STDIN_FILENO))
		return cmd_misused(cmd, "an image is not read from a terminal");
	return 0;
}

static int import_run(const struct command *cmd, int argc, char **argv)
{
	static const char *const args[] = {"FILE", "IMAGE"};
	struct import im = {.fd = -1, .nf = {.fd = -1, .dir_fd = -1}, .start_ns = clock_now_ns()};
	int id;

	while ((id = cmd_option_next(cmd, argc, argv)) > 0)
		if (option_take(cmd, &im, id))
			return WEIR_EXIT_USAGE;
	if (id < 0 || cmd_args_check(cmd, argc, argv, args, 2, 2))
		return WEIR_EXIT_USAGE;
	im.file = argv[optind];
	im.image = argv[optind + 1];
	if (import_check(cmd, &im))
		return WEIR_EXIT_USAGE;
	interrupt_watch();
	const int code = import_file(&im);
	newfile_release(&im.nf);
	if (im.fd > STDERR_FILENO)
		close(im.fd);
	return interrupt_finish(code);
}

const struct command cmd_import = {
        .name = "import",
        .synopsis = "FILE IMAGE [--format NAME] [--verify] [--force] [--no-space-check] [--json]",
        .summary = "Make an image from a raw, qcow2, VMDK, VHDX, VDI or VHD file",
        .details = "IMAGE, in the mount, is there when it is complete and durable, not before.\n"
                   "'-' is stdin: raw.  A FILE that refers to others (backing file, parent) is "
                   "refused.",
        .options = import_options,
        .run = import_run,
};

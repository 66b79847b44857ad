/*
 * export.c - "weir export": an image, or a snapshot of it, as a file of another program's
 *
 * What is read is always a file of a snapshot in the mount (.weir/snapshots/NAME/...), which nobody
 * can change: of an image that is in use a snapshot is taken for it and deleted in the end, so the
 * copy is one instant.  With --live, and in a mount that is read-only, the image itself is read.
 * A process that is killed leaves that snapshot, named export-TIME-PID, and a temporary file
 * (newfile.h).
 *
 * Raw is copied here, other formats are made by qemu-img.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "fs/control/text.h"
#include "tools/image-name.h"
#include "tools/interrupt.h"
#include "tools/newfile.h"
#include "tools/print.h"
#include "tools/qemu-img.h"
#include "tools/sparse.h"
#include "tools/target.h"

#define VIEW ".weir/snapshots/"

enum { OPTION_FORMAT = 0x100, OPTION_LIVE, OPTION_VERIFY, OPTION_NO_SPACE };

static const struct cmd_option export_options[] = {
        {'c', "compress", NULL, "compress a qcow2"},
        {'f', "force", NULL, "replace FILE if it exists"},
        {OPTION_FORMAT, "format", "NAME", "raw, qcow2, vmdk, vhdx or vdi (default: as FILE ends)"},
        {OPTION_LIVE, "live", NULL, "read the image itself, not a snapshot taken for it"},
        {OPTION_NO_SPACE, "no-space-check", NULL, "begin although there seems not to be room"},
        {OPTION_VERIFY, "verify", NULL, "compare the content afterwards"},
        {'j', "json", NULL, "print JSON"},
        {0},
};

struct export
{
	const char *file; /* "-": stdout */
	enum disk_format format;
	bool format_given, compress, force, live, verify, no_space_check, as_json, to_stdout;

	struct image_name in;
	struct target t;
	const char *image;  /* as the user calls it */
	char temporary[64]; /* the snapshot that was taken for it; "" none */
	int fd;             /* what is read */
	struct stat st;
	uint64_t data_bytes, start_ns;
	struct newfile nf;
};

/* --- what is read --- */

/* Asks the daemon; 0 or an exit code, reported. */
static int snapshot_ask(struct export *e, const char *op)
{
	struct target_query q = {.doing = "waiting for the snapshot", .verb = "take snapshots of"};
	json_t *json = NULL;

	q.request = json_pack("{s:s, s:s, s:o}", "op", op, "name", e->temporary, "target",
	        text_json(e->t.sub + strspn(e->t.sub, "/")));
	const int code = target_ask(&e->t, &q, &json);
	json_decref(json);
	return code;
}

/* It is not there any more when this returns, unless that was reported. */
static int snapshot_drop(struct export *e)
{
	const int code = e->temporary[0] ? snapshot_ask(e, "snapshot-delete") : 0;

	e->temporary[0] = '\0';
	return code;
}

static int snapshot_take(struct export *e)
{
	const time_t now = time(NULL);
	struct tm tm;
	char stamp[32];

	gmtime_r(&now, &tm);
	strftime(stamp, sizeof(stamp), "%Y%m%dT%H%M%SZ", &tm);
	snprintf(e->temporary, sizeof(e->temporary), "export-%s-%ld", stamp, (long)getpid());
	const int code = snapshot_ask(e, "snapshot-create");
	if (code)
		e->temporary[0] = '\0';
	return code;
}

static int open_failed(const struct export *e, const char *name, int err)
{
	if (err == ENOENT && name)
		return cmd_fail(WEIR_EXIT_FAILED,
		        "cannot export '%s': '%s' is in no snapshot '%s' (weir snapshot list %s)",
		        e->image, e->in.path, name, e->t.mountpoint);
	if (err == EACCES && name)
		return cmd_fail(WEIR_EXIT_FAILED,
		        "cannot export '%s': snapshots are open to the owner of '%s' and root only",
		        e->image, e->t.mountpoint);
	if (err == EOPNOTSUPP && name)
		return cmd_fail(WEIR_EXIT_FAILED,
		        "cannot export '%s': a filter transforms it (--live reads the image as it "
		        "is; or clone it first)",
		        e->image);
	if (err == ENOKEY)
		return cmd_fail(WEIR_EXIT_FAILED,
		        "cannot export '%s': it is locked (weir key unlock)", e->image);
	return cmd_fail(WEIR_EXIT_FAILED, "cannot open '%s': %s", e->image, strerror(err));
}

/* name NULL: the image itself. */
static int source_open(struct export *e, const char *name)
{
	CLEANUP(free_ptr) char *path = NULL;
	const int n = name ? asprintf(&path, "%s/" VIEW "%s/%s", e->t.mountpoint, name,
	                             e->t.sub + strspn(e->t.sub, "/"))
	                   : asprintf(&path, "%s", e->in.path);

	if (n < 0)
		return cmd_fail(WEIR_EXIT_FAILED, "out of memory");
	e->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (e->fd < 0 || fstat(e->fd, &e->st) < 0)
		return open_failed(e, name, errno);
	if (S_ISREG(e->st.st_mode))
		return 0;
	return cmd_fail(WEIR_EXIT_FAILED, "cannot export '%s': it is %s", e->image,
	        S_ISDIR(e->st.st_mode) ? "a directory (export the images in it one by one)"
	                               : "not a regular file");
}

static bool is_read_only(const struct export *e)
{
	struct statvfs sv;

	return statvfs(e->t.mountpoint, &sv) == 0 && sv.f_flag & ST_RDONLY;
}

static bool name_is_path(const char *name)
{
	return !*name || strchr(name, '/') || *name == '.';
}

static int source_find(struct export *e)
{
	if (image_name_parse(e->image, &e->in) < 0)
		return cmd_fail(WEIR_EXIT_FAILED, "out of memory");
	int code =
	        e->in.name ? target_find_gone(&e->t, e->in.path) : target_find(&e->t, e->in.path);
	if (code)
		return code;
	if (!e->t.mountpoint)
		return cmd_fail(WEIR_EXIT_FAILED,
		        "cannot export '%s': not in a mounted datastore (weir mount %s MOUNTPOINT, "
		        "then MOUNTPOINT/IMAGE)",
		        e->image, e->t.dir);
	if (e->in.name && name_is_path(e->in.name))
		return cmd_fail(WEIR_EXIT_FAILED,
		        "cannot export '%s': '%s' is no name of a snapshot", e->image, e->in.name);
	return 0;
}

static int source_begin(struct export *e)
{
	int code = source_find(e);
	const char *sub = e->t.sub ? e->t.sub + strspn(e->t.sub, "/") : "";

	if (code)
		return code;
	if (e->in.name)
		return source_open(e, e->in.name);
	code = source_open(e, NULL);
	if (code || e->live || !strncmp(sub, VIEW, sizeof(VIEW) - 1) || is_read_only(e))
		return code;
	close(e->fd);
	e->fd = -1;
	if (access(e->t.dir, X_OK) < 0)
		return cmd_fail(WEIR_EXIT_FAILED,
		        "cannot export '%s': only who owns datastore '%s' may take a snapshot for "
		        "it (--live reads the image as it is)",
		        e->image, e->t.dir);
	code = snapshot_take(e);
	return code ? code : source_open(e, e->temporary);
}

/* --- what is written --- */

static int export_failed(const struct export *e, int err, const struct errmsg *em)
{
	if (err == -EINTR)
		return cmd_fail(WEIR_EXIT_FAILED, "the export of '%s' was interrupted", e->image);
	if (err == -ENOKEY)
		return open_failed(e, NULL, ENOKEY);
	return cmd_fail(WEIR_EXIT_FAILED, "cannot export '%s' to '%s': %s", e->image,
	        e->to_stdout ? "stdout" : e->file, em->text[0] ? em->text : strerror(-err));
}

static int copy_raw(struct export *e, int to, struct progress *progress, struct errmsg *em)
{
	struct sparse_copy c = {
	        .from = e->fd,
	        .to = to,
	        .to_pipe = e->to_stdout,
	        .size_bytes = (uint64_t)e->st.st_size,
	        .data_bytes = e->data_bytes,
	        .progress = progress,
	};
	const int r = sparse_copy(&c);

	if (r == -ENODATA)
		return errmsg_set(em, r, "it became shorter meanwhile");
	return r < 0 ? errmsg_set(em, r, "%s failed: %s",
	                       c.failed_writing ? "writing" : "reading the image", strerror(-r))
	             : 0;
}

static int convert(struct export *e, struct progress *progress, struct errmsg *em)
{
	const struct qemu_img_convert c = {
	        .from = {e->fd, DISK_RAW},
	        .to = {e->nf.fd, e->format},
	        .size_bytes = (uint64_t)e->st.st_size,
	        .compress = e->compress,
	        .progress = progress,
	};

	return qemu_img_convert(&c, em);
}

static int verify(struct export *e, struct errmsg *em)
{
	const struct disk_file a = {e->fd, DISK_RAW}, b = {e->nf.fd, e->format};
	const uint64_t size = (uint64_t)e->st.st_size;
	struct progress progress;
	uint64_t at = SPARSE_UNKNOWN;
	bool equal = false;
	int r;

	progress_begin(&progress, "comparing", PROGRESS_BYTES);
	if (e->format == DISK_RAW)
		r = sparse_compare(e->fd, e->nf.fd, size, &progress, &at);
	else
		r = qemu_img_compare(&a, &b, size, &progress, &equal, em);
	progress_end(&progress);
	if (r < 0)
		return r;
	return at == SPARSE_UNKNOWN && (e->format == DISK_RAW || equal)
	               ? 0
	               : errmsg_set(em, -EIO, "what was written differs from the image%s",
	                         e->live ? ", which may have changed meanwhile" : "");
}

/* Compressed, it takes less, nobody knows how much. */
static int space_check(const struct export *e, struct errmsg *em)
{
	struct statvfs sv;
	char need[TEXT_LEN], have[TEXT_LEN];

	if (e->no_space_check || e->compress)
		return 0;
	if (fstatvfs(e->nf.dir_fd, &sv) < 0)
		return errmsg_set(
		        em, -errno, "cannot tell how much space is free: %s", strerror(errno));
	const uint64_t free_bytes = (uint64_t)sv.f_bavail * sv.f_frsize;
	if (e->data_bytes <= free_bytes)
		return 0;
	return errmsg_set(em, -ENOSPC,
	        "it takes %s, and %s are free there (--no-space-check begins all the same)",
	        text_size(need, e->data_bytes), text_size(have, free_bytes));
}

/* In the end those may read it who may read the image. */
static int export_to_file(struct export *e, struct errmsg *em)
{
	struct progress progress;
	int r = newfile_begin(e->file, e->force, &e->nf, em);

	if (r == 0)
		r = space_check(e, em);
	if (r < 0)
		return r;
	progress_begin(&progress, "exporting", PROGRESS_BYTES);
	r = e->format == DISK_RAW ? copy_raw(e, e->nf.fd, &progress, em)
	                          : convert(e, &progress, em);
	progress_end(&progress);
	if (r == 0)
		r = newfile_sync(&e->nf, em);
	if (r == 0 && e->verify)
		r = verify(e, em);
	if (r == 0 && interrupt_pending())
		r = -EINTR;
	return r < 0 ? r : newfile_publish(&e->nf, (e->st.st_mode & 0444) | 0600, em);
}

static int export_to_stdout(struct export *e, struct errmsg *em)
{
	struct progress progress;

	progress_begin(&progress, "exporting", PROGRESS_BYTES);
	const int r = copy_raw(e, STDOUT_FILENO, &progress, em);
	progress_end(&progress);
	return r;
}

/* --- the command --- */

static void summary_print(const struct export *e)
{
	struct stat st = {0};
	char size[TEXT_LEN], took[TEXT_LEN];

	fstat(e->nf.fd, &st);
	const uint64_t file_bytes = (uint64_t)st.st_blocks * 512;
	const uint64_t ns = clock_now_ns() - e->start_ns;
	if (!e->as_json) {
		printf("%s: exported to '%s' (%s, %s on disk%s, %s)\n", e->image, e->file,
		        disk_format_name(e->format), text_size(size, file_bytes),
		        e->verify ? ", compared" : "", text_ns(took, ns));
		return;
	}
	json_t *json = json_pack("{s:o, s:o, s:s, s:I, s:I, s:I, s:b, s:f}", "image",
	        text_json(e->image), "file", text_json(e->file), "format",
	        disk_format_name(e->format), "size_bytes", (json_int_t)e->st.st_size, "data_bytes",
	        (json_int_t)e->data_bytes, "file_bytes", (json_int_t)file_bytes, "verified",
	        e->verify, "seconds", (double)ns / 1e9);
	cmd_print_json(json);
	json_decref(json);
}

static int export_image(struct export *e)
{
	struct errmsg em = {0};
	int r = e->format == DISK_RAW ? 0 : qemu_img_find(&em);

	if (r < 0)
		return export_failed(e, r, &em);
	const int code = source_begin(e);
	if (code)
		return code;
	r = sparse_data_bytes(e->fd, (uint64_t)e->st.st_size, &e->data_bytes);
	if (r == 0)
		r = e->to_stdout ? export_to_stdout(e, &em) : export_to_file(e, &em);
	if (r < 0)
		return export_failed(e, r, &em);
	if (!e->to_stdout)
		summary_print(e);
	return 0;
}

static int option_take(const struct command *cmd, struct export *e, int id)
{
	switch (id) {
	case OPTION_FORMAT:
		if (disk_format_parse(optarg, &e->format) < 0 || e->format == DISK_VHD)
			return cmd_misused(cmd,
			        "'%s' is no format to export to: raw, qcow2, vmdk, vhdx or vdi",
			        optarg);
		e->format_given = true;
		return 0;
	case OPTION_LIVE:
		e->live = true;
		return 0;
	case OPTION_VERIFY:
		e->verify = true;
		return 0;
	case OPTION_NO_SPACE:
		e->no_space_check = true;
		return 0;
	case 'c':
		e->compress = true;
		return 0;
	case 'f':
		e->force = true;
		return 0;
	default:
		e->as_json = true;
		return 0;
	}
}

static int stdout_check(const struct command *cmd, const struct export *e)
{
	if (e->format != DISK_RAW)
		return cmd_misused(cmd, "only raw can be written to a pipe");
	if (e->verify || e->as_json || e->force)
		return cmd_misused(cmd, "--verify, --force and --json need a file, not '-'");
	if (isatty(STDOUT_FILENO))
		return cmd_misused(cmd, "an image is not written to a terminal");
	return 0;
}

static int export_check(const struct command *cmd, struct export *e)
{
	e->to_stdout = !strcmp(e->file, "-");
	if (!e->format_given && !e->to_stdout &&
	        (disk_format_of_name(e->file, &e->format) < 0 || e->format == DISK_VHD))
		return cmd_misused(cmd,
		        "'%s' does not say which format: --format raw, qcow2, vmdk, vhdx or vdi",
		        e->file);
	if (e->compress && e->format != DISK_QCOW2)
		return cmd_misused(cmd, "only a qcow2 can be compressed");
	if (e->live && strrchr(e->image, '@') && access(e->image, F_OK) < 0)
		return cmd_misused(cmd, "--live reads an image as it is, not a snapshot");
	return e->to_stdout ? stdout_check(cmd, e) : 0;
}

static int export_run(const struct command *cmd, int argc, char **argv)
{
	static const char *const args[] = {"IMAGE", "FILE"};
	struct export e = {.fd = -1, .nf = {.fd = -1, .dir_fd = -1}, .start_ns = clock_now_ns()};
	int id;

	while ((id = cmd_option_next(cmd, argc, argv)) > 0)
		if (option_take(cmd, &e, id))
			return WEIR_EXIT_USAGE;
	if (id < 0 || cmd_args_check(cmd, argc, argv, args, 2, 2))
		return WEIR_EXIT_USAGE;
	e.image = argv[optind];
	e.file = argv[optind + 1];
	if (export_check(cmd, &e))
		return WEIR_EXIT_USAGE;
	interrupt_watch();
	int code = export_image(&e);
	newfile_release(&e.nf);
	if (e.fd >= 0)
		close(e.fd);
	const int dropped = snapshot_drop(&e);
	target_release(&e.t);
	image_name_release(&e.in);
	return interrupt_finish(code ? code : dropped);
}

const struct command cmd_export = {
        .name = "export",
        .synopsis = "IMAGE[@NAME] FILE [--format NAME] [-c] [--verify] [--force] [--live] "
                    "[--no-space-check] [--json]",
        .summary = "Copy an image, or a snapshot of it, to a raw, qcow2, ... file",
        .details = "FILE is there when it is complete and on disk, not before.  '-' is stdout: "
                   "raw.\n"
                   "An image that is in use is copied as of one instant: a snapshot is taken for "
                   "it, and deleted.",
        .options = export_options,
        .run = export_run,
};

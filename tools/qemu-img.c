/*
 * qemu-img.c - see qemu-img.h
 *
 * Why qemu-img and not nbdkit or libnbd: it is where virtual machines run, it knows all the formats,
 * finds zeros, and compresses; the others speak raw only, or need a server between two processes.
 * What is raw on both sides does not come here at all (sparse.h).
 *
 * The two files are descriptors 3 and 4 of the child, named /proc/self/fd/3 and 4: so a file that is
 * replaced by another one between two looks at it is still the one that was looked at first.  The
 * content may change; then a new backing file is not opened ("backing": null), and a new data file
 * is not allowed (confine.h).
 *
 * What it says is a stranger's text, too: limited, and shown with control characters made visible.
 */
#include "tools/qemu-img.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tools/confine.h"
#include "tools/interrupt.h"
#include "tools/print.h"

#define MEMORY_MAX      (4ull << 30)
#define DESCRIPTORS_MAX 64u
#define ANSWER_MAX      65536u
#define LOOK_CPU_S      60u  /* for looking at an image */
#define WORK_CPU_S      600u /* for copying one, and a second more for each */
#define WORK_BYTES      (1ull << 20)
#define ARGS_MAX        16u
#define IMAGE_LEN       160u
#define FD_FIRST        3
#define TICK_MS         200

struct run {
	const char *args[ARGS_MAX];
	unsigned n;
	int fds[2]; /* become 3 and 4; the second may be written; -1: none */
	char images[2][IMAGE_LEN];
	unsigned cpu_seconds;
	uint64_t file_bytes;
	struct progress *progress; /* NULL: stdout is an answer */
	uint64_t size_bytes;       /* what progress goes up to */

	char answer[ANSWER_MAX]; /* stdout; terminated */
	size_t len;
	int errors; /* memfd: stderr */
	pid_t pid;
};

static void arg_add(struct run *run, const char *arg)
{
	ASSERT(run->n + 1 < ARGS_MAX);
	run->args[run->n++] = arg;
}

static void image_add(struct run *run, unsigned i, const struct disk_file *f)
{
	run->fds[i] = f->fd;
	snprintf(run->images[i], IMAGE_LEN,
	        "json:{\"driver\":\"%s\",%s\"file\":{\"driver\":\"file\",\"filename\":\"/proc/self/"
	        "fd/%u\",\"locking\":\"off\"}}",
	        disk_format_driver(f->format), f->format == DISK_RAW ? "" : "\"backing\":null,",
	        FD_FIRST + i);
	arg_add(run, run->images[i]);
}

/* Owned by the caller; NULL: it is in no directory of PATH. */
static char *program_find(void)
{
	const char *path = getenv("PATH");
	char *found = NULL;

	for (const char *p = path ? path : "/usr/bin:/bin"; *p && !found;) {
		const int len = (int)strcspn(p, ":");
		if (len > 0 && asprintf(&found, "%.*s/qemu-img", len, p) < 0)
			return NULL;
		if (found && access(found, X_OK) < 0) {
			free(found);
			found = NULL;
		}
		p += len + (p[len] == ':');
	}
	return found;
}

int qemu_img_find(struct errmsg *em)
{
	CLEANUP(free_ptr) char *program = program_find();

	return program ? 0
	               : errmsg_set(em, -ENOENT,
	                         "qemu-img is not there (install qemu-utils, or use raw)");
}

/* --- the child --- */

/* The descriptors are moved up first: one of them may be where another one belongs. */
static int child_files(const struct run *run, int out)
{
	const int from[] = {run->fds[0], run->fds[1], out, run->errors};
	const int to[] = {FD_FIRST, FD_FIRST + 1, STDOUT_FILENO, STDERR_FILENO};
	const int empty = open("/dev/null", O_RDONLY);
	int high[ARRAY_SIZE(from)];

	if (empty < 0 || dup2(empty, STDIN_FILENO) < 0)
		return -errno;
	for (unsigned i = 0; i < ARRAY_SIZE(from); i++) {
		high[i] = from[i] < 0 ? -1 : fcntl(from[i], F_DUPFD_CLOEXEC, FD_FIRST + 2);
		if (from[i] >= 0 && high[i] < 0)
			return -errno;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(to); i++)
		if (high[i] >= 0 && dup2(high[i], to[i]) < 0)
			return -errno;
	return close_range(FD_FIRST + (run->fds[1] < 0 ? 1 : 2), ~0u, 0) < 0 ? -errno : 0;
}

static void __attribute__((noreturn))
child(const struct run *run, const char *program, int out, pid_t parent)
{
	static char *const env[] = {(char *)"LC_ALL=C", (char *)"PATH=/usr/bin:/bin",
	        (char *)"MALLOC_ARENA_MAX=2", NULL};
	const struct confine_limits limits = {
	        .read_fd = FD_FIRST,
	        .write_fd = run->fds[1] < 0 ? -1 : FD_FIRST + 1,
	        .memory_bytes = MEMORY_MAX,
	        .cpu_seconds = run->cpu_seconds,
	        .file_bytes = run->file_bytes,
	        .descriptors_max = DESCRIPTORS_MAX,
	};

	signal(SIGPIPE, SIG_DFL);
	int r = child_files(run, out);
	if (r == 0 && prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
		r = -errno;
	if (r == 0 && getppid() != parent)
		_exit(1); /* it was killed before the line above */
	if (r == 0)
		r = confine_self(&limits);
	if (r == 0) {
		execve(program, (char *const *)run->args, env);
		r = -errno;
	}
	dprintf(STDERR_FILENO, "cannot be started: %s\n", strerror(-r));
	_exit(1);
}

/* --- the parent --- */

/* "    (12.34/100%)\r", again and again. */
static void progress_take(struct run *run)
{
	char *open = NULL;
	double percent;

	run->answer[run->len] = '\0';
	for (char *p = run->answer; (p = strchr(p, '(')); p++)
		open = p;
	if (open && sscanf(open, "(%lf/100%%)", &percent) == 1)
		progress_update(run->progress, (uint64_t)(percent / 100 * (double)run->size_bytes),
		        run->size_bytes);
	if (run->len > ANSWER_MAX / 2)
		run->len = 0;
}

/* Until it closes its output. */
static int output_read(struct run *run, int fd)
{
	for (;;) {
		struct pollfd pfd = {.fd = fd, .events = POLLIN};

		if (interrupt_pending())
			return -EINTR;
		if (poll(&pfd, 1, TICK_MS) <= 0)
			continue;
		const ssize_t n =
		        read(fd, run->answer + run->len, sizeof(run->answer) - 1 - run->len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : 0;
		run->len += (size_t)n;
		if (run->progress)
			progress_take(run);
		else if (run->len == sizeof(run->answer) - 1)
			return -EMSGSIZE;
	}
}

/* Our way to name the first file is not the user's. */
static void name_remove(const struct run *run, char *line)
{
	char *at = strstr(line, run->images[0]);

	if (!at || !*run->images[0])
		return;
	memcpy(at, "it", 2);
	char *rest = at + strlen(run->images[0]);
	memmove(at + 2, rest, strlen(rest) + 1);
}

/* The first line that it said and that is no warning, without its own name. */
static void error_text(const struct run *run, char *text, size_t len)
{
	static const char own_name[] = "qemu-img: ", warning[] = "warning: ";
	char said[2048], none[] = "it failed and said nothing", *save = NULL;
	const ssize_t n = pread(run->errors, said, sizeof(said) - 1, 0);
	char *found = none;

	said[n > 0 ? n : 0] = '\0';
	for (char *line = strtok_r(said, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		if (!strncmp(line, own_name, sizeof(own_name) - 1))
			line += sizeof(own_name) - 1;
		if (strncmp(line, warning, sizeof(warning) - 1) != 0) {
			found = line;
			break;
		}
	}
	name_remove(run, found);
	text_name(text, len, found);
}

static int ended(const struct run *run, int status, int *ret_code, struct errmsg *em)
{
	char text[ERRMSG_LEN - 64];

	if (WIFSIGNALED(status)) {
		const int number = WTERMSIG(status);
		return errmsg_set(em, -EPROTO, "qemu-img %s",
		        number == SIGXCPU   ? "took more CPU time than such an image can need"
		        : number == SIGXFSZ ? "wrote more than the size that the image says"
		                            : "was killed");
	}
	*ret_code = WEXITSTATUS(status);
	if (*ret_code == 0)
		return 0;
	error_text(run, text, sizeof(text));
	return errmsg_set(em, -EIO, "qemu-img: %s", text);
}

static int run_start(struct run *run, const char *program, int *ret_out, struct errmsg *em)
{
	const pid_t parent = getpid();
	int out[2];

	if (pipe2(out, O_CLOEXEC) < 0)
		return errmsg_set(em, -errno, "cannot start qemu-img: %s", strerror(errno));
	run->pid = fork();
	if (run->pid == 0)
		child(run, program, out[1], parent);
	close(out[1]);
	if (run->pid < 0) {
		const int r = -errno;
		close(out[0]);
		return errmsg_set(em, r, "cannot start qemu-img: %s", strerror(-r));
	}
	*ret_out = out[0];
	return 0;
}

/* Runs it to its end.  *ret_code: what it exited with; not 0 is -EIO, too. */
static int run_program(struct run *run, const char *program, int *ret_code, struct errmsg *em)
{
	int out = -1, status = 0;
	int r = run_start(run, program, &out, em);

	if (r < 0)
		return r;
	r = output_read(run, out);
	close(out);
	if (r < 0)
		kill(run->pid, SIGKILL);
	while (waitpid(run->pid, &status, 0) < 0 && errno == EINTR)
		;
	run->answer[run->len] = '\0';
	/* A terminal's Ctrl-C ends both. */
	if (r == -EINTR || interrupt_pending())
		return errmsg_set(em, -EINTR, "interrupted");
	if (r < 0)
		return errmsg_set(em, r, "cannot understand qemu-img: %s", strerror(-r));
	return ended(run, status, ret_code, em);
}

static int run_qemu_img(struct run *run, int *ret_code, struct errmsg *em)
{
	CLEANUP(free_ptr) char *program = program_find();
	int code;

	if (!program)
		return qemu_img_find(em);
	run->errors = memfd_create("qemu-img", MFD_CLOEXEC);
	if (run->errors < 0)
		return errmsg_set(em, -errno, "cannot start qemu-img: %s", strerror(errno));
	const int r = run_program(run, program, ret_code ? ret_code : &code, em);
	close(run->errors);
	return r;
}

/* --- looking --- */

static struct run *run_new(const char *command, const char *output)
{
	struct run *run = calloc(1, sizeof(*run));

	if (!run)
		return NULL;
	run->fds[0] = run->fds[1] = -1;
	arg_add(run, "qemu-img");
	arg_add(run, command);
	if (output)
		arg_add(run, output);
	return run;
}

static int run_look(struct run *run, json_t **ret_json, struct errmsg *em)
{
	run->cpu_seconds = LOOK_CPU_S;
	run->file_bytes = ANSWER_MAX;
	const int r = run_qemu_img(run, NULL, em);
	if (r < 0)
		return r;
	*ret_json = json_loadb(run->answer, run->len, 0, NULL);
	if (!json_is_object(*ret_json)) {
		json_decref(*ret_json);
		return errmsg_set(em, -EPROTO, "cannot understand what qemu-img says");
	}
	return 0;
}

static bool refers_to_files(const json_t *info)
{
	const json_t *data = json_object_get(json_object_get(info, "format-specific"), "data");

	return json_object_get(info, "backing-filename") ||
	       json_object_get(info, "full-backing-filename") || json_object_get(data, "data-file");
}

int qemu_img_size(const struct disk_file *file, uint64_t *ret_size_bytes, struct errmsg *em)
{
	CLEANUP(free_ptr) struct run *run = run_new("info", "--output=json");
	json_t *info;

	if (!run)
		return errmsg_set(em, -ENOMEM, "out of memory");
	image_add(run, 0, file);
	int r = run_look(run, &info, em);
	if (r < 0)
		return r;
	const json_int_t size = json_integer_value(json_object_get(info, "virtual-size"));
	if (refers_to_files(info))
		r = errmsg_set(em, -EPERM, "it refers to another file, which is not read");
	else if (size < 0 || json_is_true(json_object_get(info, "encrypted")))
		r = errmsg_set(em, -ENOTSUP, "it is encrypted, or has no size");
	else
		*ret_size_bytes = (uint64_t)size;
	json_decref(info);
	return r;
}

int qemu_img_measure(const struct disk_file *file, uint64_t *ret_bytes, struct errmsg *em)
{
	CLEANUP(free_ptr) struct run *run = run_new("measure", "--output=json");
	json_t *json;

	if (!run)
		return errmsg_set(em, -ENOMEM, "out of memory");
	arg_add(run, "-O");
	arg_add(run, "qcow2");
	image_add(run, 0, file);
	const int r = run_look(run, &json, em);
	if (r < 0)
		return r;
	*ret_bytes = (uint64_t)json_integer_value(json_object_get(json, "required"));
	json_decref(json);
	return 0;
}

/* --- working --- */

static unsigned work_seconds(uint64_t size_bytes)
{
	return WORK_CPU_S + (unsigned)(size_bytes / WORK_BYTES);
}

int qemu_img_convert(const struct qemu_img_convert *c, struct errmsg *em)
{
	CLEANUP(free_ptr) struct run *run = run_new("convert", "-p");

	if (!run)
		return errmsg_set(em, -ENOMEM, "out of memory");
	run->progress = c->progress;
	run->size_bytes = c->size_bytes;
	run->cpu_seconds = work_seconds(c->size_bytes);
	if (c->compress)
		arg_add(run, "-c");
	arg_add(run, "-O");
	arg_add(run, disk_format_driver(c->to.format));
	if (c->to.format == DISK_RAW) {
		arg_add(run, "-n");
		arg_add(run, "--target-is-zero");
		run->file_bytes = c->size_bytes;
	}
	image_add(run, 0, &c->from);
	if (c->to.format == DISK_RAW) {
		image_add(run, 1, &c->to);
	} else {
		run->fds[1] = c->to.fd;
		arg_add(run, "/proc/self/fd/4");
	}
	return run_qemu_img(run, NULL, em);
}

int qemu_img_check(const struct disk_file *file, uint64_t size_bytes, struct errmsg *em)
{
	CLEANUP(free_ptr) struct run *run = run_new("check", "--output=json");
	enum { CORRUPT = 2, LEAKS = 3, UNKNOWN_TO_FORMAT = 63 };
	int code = 0;

	if (!run)
		return errmsg_set(em, -ENOMEM, "out of memory");
	run->cpu_seconds = work_seconds(size_bytes);
	image_add(run, 0, file);
	const int r = run_qemu_img(run, &code, em);
	if (code == CORRUPT)
		return errmsg_set(em, -EINVAL,
		        "it is damaged, as 'qemu-img check' says (or cut: fetch it again)");
	if (code == LEAKS || code == UNKNOWN_TO_FORMAT)
		return 0;
	return r;
}

int qemu_img_compare(const struct disk_file *a, const struct disk_file *b, uint64_t size_bytes,
        struct progress *progress, bool *ret_equal, struct errmsg *em)
{
	CLEANUP(free_ptr) struct run *run = run_new("compare", "-p");
	int code = 0;

	if (!run)
		return errmsg_set(em, -ENOMEM, "out of memory");
	run->progress = progress;
	run->size_bytes = size_bytes;
	run->cpu_seconds = work_seconds(size_bytes);
	image_add(run, 0, a);
	image_add(run, 1, b);
	const int r = run_qemu_img(run, &code, em);
	if (r < 0 && code != 1)
		return r;
	*ret_equal = code == 0;
	return 0;
}

/*
 * target.c - the TARGET of a command, and asking it for data
 *
 * Whether a datastore is mounted is decided by its lock, not by the mount table: a mount that has
 * been detached lazily, or that is in another mount namespace, still has its daemon.  Between two
 * steps the daemon may end or start; each step then fails with what it found.
 */
#include "tools/target.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

int target_find(struct target *t, const char *arg)
{
	struct errmsg em = {0};

	*t = (struct target){0};
	if (datastore_find(arg, &t->dir, &t->mountpoint, &t->sub, &em) < 0)
		return cmd_fail(WEIR_EXIT_FAILED, "%s", em.text);
	/* On a disk that has failed the daemon of a mount may still answer. */
	if (datastore_holder(t->dir, &t->pid, &em) < 0 && !t->mountpoint)
		return cmd_fail(WEIR_EXIT_FAILED, "%s", em.text);
	return 0;
}

/* The length of the directory on the way to path that is there; 0: none but "/" or ".". */
static size_t there_len(const char *path)
{
	CLEANUP(free_ptr) char *dir = strdup(path);
	char *slash = dir ? strrchr(dir, '/') : NULL;
	struct stat st;

	while (slash && slash > dir) {
		*slash = '\0';
		if (lstat(dir, &st) == 0)
			return S_ISDIR(st.st_mode) ? (size_t)(slash - dir) : 0;
		slash = strrchr(dir, '/');
	}
	return 0;
}

/* What is not there is taken as written, so it must be written plainly. */
static bool is_plain(const char *rest)
{
	return *rest && !strstr(rest, "//") && !strstr(rest, "/./") && !strstr(rest, "/../") &&
	       rest[strlen(rest) - 1] != '/';
}

int target_find_gone(struct target *t, const char *arg)
{
	const size_t len = there_len(arg);
	const char *rest = len ? arg + len : arg;
	char *sub = NULL;
	struct stat st;

	if (lstat(arg, &st) == 0 || errno != ENOENT || (len && !is_plain(rest)))
		return target_find(t, arg);
	CLEANUP(free_ptr) char *dir = len ? strndup(arg, len) : strdup(*arg == '/' ? "/" : ".");
	*t = (struct target){0};
	if (!dir)
		return cmd_fail(WEIR_EXIT_FAILED, "out of memory");
	if (target_find(t, dir))
		return WEIR_EXIT_FAILED;
	rest += strspn(rest, "/");
	if (t->mountpoint && asprintf(&sub, "%s%s%s", t->sub, *t->sub ? "/" : "", rest) < 0)
		return cmd_fail(WEIR_EXIT_FAILED, "out of memory");
	if (sub) {
		free(t->sub);
		t->sub = sub;
	}
	return 0;
}

void target_release(struct target *t)
{
	free(t->dir);
	free(t->mountpoint);
	free(t->sub);
	*t = (struct target){0};
}

static bool is_silent(const struct target_query *q, int r)
{
	if (!q->silent || r != q->silent)
		return false;
	*q->ret_silent = true;
	return true;
}

/* No daemon to ask: the datastore is not mounted, or what mounted it has been killed. */
enum { ASK_NOBODY = -1 };

static int ask_daemon(
        struct target *t, struct target_query *q, struct progress *progress, json_t **ret_json)
{
	struct errmsg em = {0};
	const int r = control_call_fds(
	        t->dir, q->request, q->fds, progress_update, progress, ret_json, &em);

	progress_end(progress);
	if (r == 0)
		return 0;
	if (is_silent(q, r))
		return WEIR_EXIT_FAILED;
	if (r == -ENOTCONN && !t->pid)
		return ASK_NOBODY;
	if (r == -ENOTCONN)
		return cmd_fail(WEIR_EXIT_FAILED,
		        "cannot %s datastore '%s': pid %ld holds it but does not answer (it may be "
		        "starting or ending: try again)",
		        q->verb, t->dir, t->pid);
	return cmd_fail(WEIR_EXIT_FAILED, "%s", em.text[0] ? em.text : strerror(-r));
}

static int ask_directory(
        struct target *t, struct target_query *q, struct progress *progress, json_t **ret_json)
{
	const struct datastore_options opt = {.read_only = q->read_only};
	struct datastore *ds = NULL;
	struct errmsg em = {0};
	json_t *json = NULL;

	if (!q->report)
		return cmd_fail(WEIR_EXIT_FAILED,
		        "cannot %s datastore '%s': not mounted (weir mount %s MOUNTPOINT)", q->verb,
		        t->dir, t->dir);
	if (datastore_open(t->dir, &opt, NULL, NULL, &ds, &em) < 0)
		return cmd_fail(WEIR_EXIT_FAILED, "%s", em.text);
	const int r = q->report(q->arg, ds, progress, &json, &em);
	progress_end(progress);
	const int closed = datastore_close(ds);
	if (r < 0) {
		json_decref(json);
		if (is_silent(q, r))
			return WEIR_EXIT_FAILED;
		return cmd_fail(WEIR_EXIT_FAILED, "%s", em.text[0] ? em.text : strerror(-r));
	}
	if (closed < 0) {
		json_decref(json);
		return cmd_fail(WEIR_EXIT_FAILED, "cannot %s datastore '%s': closing it failed: %s",
		        q->verb, t->dir, strerror(-closed));
	}
	*ret_json = json;
	return 0;
}

int target_ask(struct target *t, struct target_query *q, json_t **ret_json)
{
	struct progress progress;
	int r = ASK_NOBODY;

	progress_begin(&progress, q->doing, q->in_bytes ? PROGRESS_BYTES : PROGRESS_PARTS);
	if (!q->request)
		r = cmd_fail(WEIR_EXIT_FAILED, "out of memory");
	else if (t->pid || t->mountpoint)
		r = ask_daemon(t, q, &progress, ret_json);
	if (r == ASK_NOBODY)
		r = ask_directory(t, q, &progress, ret_json);
	json_decref(q->request);
	q->request = NULL;
	return r;
}

void target_print(const struct target *t, json_t *json, bool as_json, target_print_fn *print)
{
	if (as_json)
		cmd_print_json(json);
	else
		print(t, json);
	json_decref(json);
}

/* Releases what q owns, and t, on every way out. */
int target_ask_and_print(struct target_query *q, const char *target, bool as_json,
        target_fill_fn *fill, target_print_fn *print)
{
	struct target t = {0};
	json_t *json = NULL;

	int code = q->gone ? target_find_gone(&t, target) : target_find(&t, target);
	if (code == 0 && fill)
		code = fill(q->arg, &t, q->request);
	if (code == 0)
		code = target_ask(&t, q, &json);
	if (code == 0)
		target_print(&t, json, as_json, print);
	json_decref(q->request);
	q->request = NULL;
	target_release(&t);
	return code;
}

int target_command_run(const struct command *cmd, int argc, char **argv, struct target_query *q,
        target_print_fn *print)
{
	static const char *const args[] = {"TARGET"};
	bool as_json = false;
	int id;

	while ((id = cmd_option_next(cmd, argc, argv)) > 0)
		as_json = true;
	if (id < 0 || cmd_args_check(cmd, argc, argv, args, 1, 1)) {
		json_decref(q->request);
		return WEIR_EXIT_USAGE;
	}
	return target_ask_and_print(q, argv[optind], as_json, NULL, print);
}

uint64_t json_u64(const json_t *obj, const char *key)
{
	const json_t *v = json_object_get(obj, key);
	return json_is_integer(v) && json_integer_value(v) > 0 ? (uint64_t)json_integer_value(v)
	                                                       : 0;
}

double json_num(const json_t *obj, const char *key)
{
	return json_number_value(json_object_get(obj, key));
}

const char *json_text(const json_t *obj, const char *key)
{
	const char *s = json_string_value(json_object_get(obj, key));
	return s ? s : "";
}

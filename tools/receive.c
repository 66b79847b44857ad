/*
 * receive.c - "weir receive": a stream becomes an image, or its next state
 *
 * The daemon of a mount does it, reading from what this command has as stdin; a datastore that is not
 * mounted is opened here.  Where stdout is a pipe it is the way back to a sender that wants answers, as the
 * stream says: then nothing else is printed there.
 */
#include <errno.h>
#include <libgen.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "fs/control/text.h"
#include "fs/stream/local.h"
#include "fs/stream/receive.h"
#include "tools/print.h"
#include "tools/target.h"

static const struct cmd_option receive_options[] = {
        {'f', "force", NULL, "although the image was changed; keeps what it is as a snapshot"},
        {'p', "properties", NULL, "all filters, and the owner, as at the sender"},
        {'i', "image", "PATH", "this image or directory, when TARGET is a datastore"},
        {'l', "list", NULL, "list what was cut off, or is under way"},
        {'a', "abort", NULL, "remove what was received so far of a stream that was cut off"},
        {'j', "json", NULL, "print JSON"},
        {0},
};

struct receive_call {
	const char *target, *image;
	bool force, properties, list, abort, as_json;
	char *path; /* in the mount; owned */
};

static int options_read(const struct command *cmd, int argc, char **argv, struct receive_call *c)
{
	static const char *const args[] = {"TARGET"};
	int id;

	while ((id = cmd_option_next(cmd, argc, argv)) > 0) {
		c->force = c->force || id == 'f';
		c->properties = c->properties || id == 'p';
		c->list = c->list || id == 'l';
		c->abort = c->abort || id == 'a';
		c->as_json = c->as_json || id == 'j';
		if (id == 'i')
			c->image = optarg;
	}
	if (id < 0 || cmd_args_check(cmd, argc, argv, args, 1, 1))
		return WEIR_EXIT_USAGE;
	if (c->list + c->abort + (c->force || c->properties) > 1)
		return cmd_misused(cmd, "--list and --abort go with no other option but --image "
		                        "and --json");
	if (!c->list && !c->abort && isatty(STDIN_FILENO))
		return cmd_misused(cmd, "the stream comes on standard input, which is a terminal");
	c->target = argv[optind];
	return 0;
}

/* --- where --- */

static char *path_join(const char *dir, const char *name)
{
	char *path;

	dir += strspn(dir, "/");
	return asprintf(&path, "%s%s%s", dir, *dir && *name ? "/" : "", name) < 0 ? NULL : path;
}

/* An image that is to be made has no path yet: the directory does. */
static int target_of_new(struct receive_call *c, struct target *t)
{
	CLEANUP(free_ptr) char *dir_copy = strdup(c->target);
	CLEANUP(free_ptr) char *base_copy = strdup(c->target);

	if (!dir_copy || !base_copy)
		return cmd_fail(WEIR_EXIT_FAILED, "out of memory");
	const int code = target_find(t, dirname(dir_copy));
	if (code)
		return code;
	if (!t->mountpoint)
		return cmd_fail(WEIR_EXIT_FAILED,
		        "cannot find '%s' (of a datastore that is not mounted: --image PATH)",
		        c->target);
	c->path = path_join(t->sub, basename(base_copy));
	return 0;
}

static int target_resolve(struct receive_call *c, struct target *t)
{
	struct stat st;
	int code;

	if (!c->image && stat(c->target, &st) < 0) {
		code = target_of_new(c, t);
	} else {
		code = target_find(t, c->target);
		if (code == 0)
			c->path = path_join(t->sub, c->image ? c->image : "");
	}
	return code == 0 && !c->path ? cmd_fail(WEIR_EXIT_FAILED, "out of memory") : code;
}

/* --- doing it --- */

/* A pipe, or what ssh has in its place. */
static bool can_answer(void)
{
	struct stat st;

	return fstat(STDOUT_FILENO, &st) == 0 && (S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode));
}

static int run_local(const struct receive_call *c, struct manager *m, struct progress *progress,
        json_t **ret_json, struct errmsg *em)
{
	bool told = false;
	const struct receive_request rq = {
	        .target = c->path,
	        .force = c->force,
	        .properties = c->properties,
	        .in_fd = STDIN_FILENO,
	        .back_fd = can_answer() ? STDOUT_FILENO : -1,
	        .cut_fd = -1,
	        .told = &told,
	};
	const struct filter_caller who = {.uid = getuid(), .pid = getpid()};

	if (c->abort)
		return receive_abort(m, &who, c->path, ret_json, em);
	const int r =
	        receive_run(m, &who, &rq, NULL, NULL, progress_update, progress, ret_json, em);
	return r < 0 && told ? -EREMOTEIO : r;
}

static int ask_local(const struct receive_call *c, const struct target *t,
        struct progress *progress, json_t **ret_json, struct errmsg *em)
{
	struct local *l;

	log_to_syslog(false); /* as the daemon does; what failed is told by em */
	int r = local_open(t->dir, &l, em);

	if (r < 0)
		return r;
	r = run_local(c, local_manager(l), progress, ret_json, em);
	const int closed = local_close(l);
	if (r == 0 && closed < 0)
		r = errmsg_set(
		        em, closed, "closing datastore '%s' failed: %s", t->dir, strerror(-closed));
	return r;
}

static int ask_daemon(const struct receive_call *c, const struct target *t,
        struct progress *progress, json_t **ret_json, struct errmsg *em)
{
	const struct control_fds fds = {{STDIN_FILENO, STDOUT_FILENO}, can_answer() ? 2 : 1};
	json_t *request = json_pack("{s:s, s:o, s:b, s:b}", "op",
	        c->abort ? "receive-abort" : "receive", "target", text_json(c->path), "force",
	        c->force, "properties", c->properties);
	const int r = control_call_fds(
	        t->dir, request, c->abort ? NULL : &fds, progress_update, progress, ret_json, em);

	json_decref(request);
	if (r == -ECONNRESET && !c->abort)
		errmsg_set(em, r,
		        "the daemon ended without an answer (see its log); what it had saved of "
		        "the "
		        "stream stays: mount the datastore again, and send the stream again, or "
		        "its rest (weir receive --list %s)",
		        t->dir);
	return r;
}

static int receive_ask(const struct receive_call *c, const struct target *t, json_t **ret_json)
{
	struct progress progress;
	struct errmsg em = {0};
	int r = -ENOTCONN;

	progress_begin(&progress, "receiving", PROGRESS_BYTES);
	if (t->pid || t->mountpoint)
		r = ask_daemon(c, t, &progress, ret_json, &em);
	if (r == -ENOTCONN && !t->pid) {
		em.text[0] = 0;
		r = ask_local(c, t, &progress, ret_json, &em);
	}
	progress_end(&progress);
	if (r == 0)
		return 0;
	if (r == -EREMOTEIO) /* the sender says why: once is enough */
		return WEIR_EXIT_FAILED;
	return cmd_fail(WEIR_EXIT_FAILED, "%s", em.text[0] ? em.text : strerror(-r));
}

/* --- saying it --- */

static void print_received(const json_t *json)
{
	const json_t *left = json_object_get(json, "left_out"), *type;
	char name[512], a[TEXT_LEN], b[TEXT_LEN];
	size_t i;

	printf("%s@%s: %s, by a stream of %s\n",
	        text_name(name, sizeof(name), json_text(json, "target")),
	        json_text(json, "snapshot"), text_size(a, json_u64(json, "size_bytes")),
	        text_size(b, json_u64(json, "received_bytes")));
	if (json_is_true(json_object_get(json, "sealed")))
		printf("kept sealed: it opens once key '%s' is unlocked (weir key unlock)\n",
		        json_text(json, "key"));
	if (*json_text(json, "before"))
		printf("what it was before is snapshot '%s'\n", json_text(json, "before"));
	json_array_foreach(left, i, type) printf(
	        "without filter '%s' (see weir-receive(8), FILTERS)\n", json_string_value(type));
}

static void print_aborted(const json_t *json)
{
	char name[512];

	printf("%s: removed; its space comes back in the background\n",
	        text_name(name, sizeof(name), json_text(json, "target")));
}

static int receive_one(struct receive_call *c)
{
	struct target t = {0};
	json_t *json = NULL;
	int code = target_resolve(c, &t);

	signal(SIGPIPE, SIG_IGN); /* a sender that is gone is an error as others */
	if (code == 0)
		code = receive_ask(c, &t, &json);
	if (code == 0 && json_is_true(json_object_get(json, "answered")))
		; /* the sender says it */
	else if (code == 0 && c->as_json)
		cmd_print_json(json);
	else if (code == 0 && c->abort)
		print_aborted(json);
	else if (code == 0)
		print_received(json);
	json_decref(json);
	target_release(&t);
	return code;
}

/* --- the list --- */

static int list_report(void *arg, struct datastore *ds, struct progress *progress,
        json_t **ret_json, struct errmsg *em)
{
	return receive_list(ds, NULL, ret_json, em);
}

static void sealed_print(const json_t *json)
{
	static const char *const titles[] = {"SEALED", "SNAPSHOTS", "KEY", "SIZE", "TOKEN"};
	struct table t = {.align = "lllrl"};
	char name[512], buf[TEXT_LEN], names[256];
	const json_t *item, *snapshot;
	size_t i, k;

	for (i = 0; i < ARRAY_SIZE(titles); i++)
		table_add(&t, titles[i]);
	json_array_foreach(json, i, item)
	{
		names[0] = 0;
		json_array_foreach(json_object_get(item, "snapshots"), k, snapshot)
		{
			const size_t at = strlen(names);
			snprintf(names + at, sizeof(names) - at, "%s%s%s", k ? "," : "",
			        json_text(snapshot, "name"),
			        json_is_true(json_object_get(snapshot, "whole")) ? ""
			                                                         : " (cut off)");
		}
		table_add(&t, text_name(name, sizeof(name), json_text(item, "target")));
		table_add(&t, names);
		table_add(&t, json_text(item, "key"));
		table_add(&t, text_size(buf, json_u64(item, "bytes")));
		table_add(&t, json_text(item, "token"));
	}
	if (json_array_size(json) > 0) {
		putchar('\n');
		table_print(&t, stdout);
	}
	table_release(&t);
}

static void list_print(const struct target *target, const json_t *json)
{
	static const char *const titles[] = {
	        "TARGET", "SNAPSHOT", "KIND", "SIZE", "SAFE", "SINCE", "NOW", "TOKEN"};
	struct table t = {.align = "lllrrlll"};
	char name[512], buf[TEXT_LEN];
	const json_t *item;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(titles); i++)
		table_add(&t, titles[i]);
	json_array_foreach(json_object_get(json, "receiving"), i, item)
	{
		table_add(&t, text_name(name, sizeof(name), json_text(item, "target")));
		table_add(&t, json_text(item, "snapshot"));
		table_add(&t,
		        json_is_true(json_object_get(item, "incremental")) ? "update" : "whole");
		table_add(&t, text_size(buf, json_u64(item, "size_bytes")));
		table_add(&t, text_size(buf, json_u64(item, "position_bytes")));
		table_add(&t, text_time(buf, json_u64(item, "started_ns")));
		table_add(&t, json_is_true(json_object_get(item, "active")) ? "coming" : "cut off");
		table_add(&t, json_text(item, "token"));
	}
	table_print(&t, stdout);
	table_release(&t);
	sealed_print(json_object_get(json, "sealed"));
}

static int list_all(const struct receive_call *c)
{
	struct target_query q = {
	        .request = json_pack("{s:s}", "op", "receive-list"),
	        .doing = "reading the datastore",
	        .verb = "read",
	        .report = list_report,
	        .read_only = true,
	};

	return target_ask_and_print(&q, c->target, c->as_json, NULL, list_print);
}

static int receive_run_command(const struct command *cmd, int argc, char **argv)
{
	struct receive_call c = {0};
	int code = options_read(cmd, argc, argv, &c);

	if (code == 0)
		code = c.list ? list_all(&c) : receive_one(&c);
	free(c.path);
	return code;
}

const struct command cmd_receive = {
        .name = "receive",
        .synopsis = "TARGET [--force] [--properties] [--image PATH] [--json] | "
                    "--list TARGET | --abort TARGET",
        .summary = "Make an image, or its next state, of what weir send sent",
        .details =
                "The stream comes on standard input.  TARGET: a name for a new image, or a "
                "directory; of "
                "an update\n"
                "the image.  Nothing is seen of it until it is complete; what was cut off goes on "
                "when it is sent again.",
        .options = receive_options,
        .run = receive_run_command,
};

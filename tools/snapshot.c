/*
 * snapshot.c - "weir snapshot": states of images that are kept
 *
 * The daemon does it; lists come from a datastore that is not mounted, too.
 */
#include <stdio.h>
#include <string.h>

#include "fs/control/text.h"
#include "fs/snapshot/snapshots.h"
#include "tools/filter.h"
#include "tools/print.h"
#include "tools/snapshot-commands.h"

static const struct cmd_option json_option[] = {
        {'j', "json", NULL, "print JSON"},
        {0},
};

static const struct cmd_option create_options[] = {
        {'q', "quiesce", NULL, "freeze the guests meanwhile, by their agents (snapshot agent)"},
        {'a', "agent", "SOCKET", "freeze the guest of the agent at SOCKET"},
        {'j', "json", NULL, "print JSON"},
        {0},
};

static const struct cmd_option show_options[] = {
        {'i', "image", "PATH", "of this image or directory, when TARGET is not mounted"},
        {'j', "json", NULL, "print JSON"},
        {0},
};

static const struct cmd_option rollback_options[] = {
        {'f', "force", NULL, "although the image is open"},
        {'j', "json", NULL, "print JSON"},
        {0},
};

/* Written as clone and diff have it, TARGET@NAME?  0, or WEIR_EXIT_USAGE, reported. */
static int name_check(const struct command *cmd, int argc, char **argv, int want)
{
	const char *at = want > 1 && argc - optind == want - 1 ? strrchr(argv[optind], '@') : NULL;

	if (!at)
		return 0;
	return cmd_misused(cmd, "%s: write '%.*s %s', not '%s'", cmd->name,
	        (int)(at - argv[optind]), argv[optind], at + 1, argv[optind]);
}

/* TARGET NAME [more], with the daemon; key: what the third argument is in the request. */
static int snapshot_call(const struct command *cmd, int argc, char **argv, const char *op,
        const char *key, const char *third, target_print_fn *print)
{
	const char *const args[] = {"TARGET", "NAME", third};
	const int n = third ? 3 : 2;
	struct filter_options opt;
	int code = filter_options_read(cmd, argc, argv, &opt);

	if (code == 0)
		code = name_check(cmd, argc, argv, n);
	if (code == 0)
		code = cmd_args_check(cmd, argc, argv, args, n, n);
	if (code)
		return code;
	struct filter_call call = {
	        .q = {.doing = "changing", .verb = "change the snapshots of"},
	        .opt = &opt,
	};
	call.q.request = json_pack("{s:s, s:o}", "op", op, "name", text_json(argv[optind + 1]));
	if (third)
		json_object_set_new(call.q.request, key, text_json(argv[optind + 2]));
	return filter_call_run(&call, argv[optind], print);
}

static const char *name_of(const json_t *json)
{
	static char name[256];

	return text_name(name, sizeof(name), json_text(json, "name"));
}

/* --- create --- */

static void create_print(const struct target *t, const json_t *json)
{
	char name[512], count[TEXT_LEN];

	printf("%s@%s: %s", filter_target_name(name, sizeof(name), json), name_of(json),
	        text_count(count, json_u64(json, "images"), "image"));
	if (json_u64(json, "quiesced"))
		printf(", %s frozen", text_count(count, json_u64(json, "quiesced"), "guest"));
	putchar('\n');
}

static int create_run(const struct command *cmd, int argc, char **argv)
{
	static const char *const args[] = {"TARGET", "NAME"};
	struct filter_options opt = {0};
	const char *agent = NULL;
	bool quiesce = false;
	int id;

	while ((id = cmd_option_next(cmd, argc, argv)) > 0) {
		opt.as_json = opt.as_json || id == 'j';
		quiesce = quiesce || id == 'q';
		agent = id == 'a' ? optarg : agent;
	}
	if (id < 0 || name_check(cmd, argc, argv, 2) || cmd_args_check(cmd, argc, argv, args, 2, 2))
		return WEIR_EXIT_USAGE;
	struct filter_call call = {
	        .q = {.doing = "taking a snapshot", .verb = "take a snapshot of"},
	        .opt = &opt,
	};
	call.q.request = json_pack("{s:s, s:o, s:b}", "op", "snapshot-create", "name",
	        text_json(argv[optind + 1]), "quiesce", quiesce);
	if (agent)
		json_object_set_new(call.q.request, "agent", text_json(agent));
	return filter_call_run(&call, argv[optind], create_print);
}

static const struct command cmd_snapshot_create = {
        .name = "snapshot create",
        .synopsis = "TARGET NAME [--quiesce] [--agent SOCKET] [--json]",
        .summary = "Keep an image, all images of a directory, or of the datastore, as of now",
        .details = "All of them at one instant.  It takes no space at first: what is changed later "
                   "is written elsewhere.",
        .options = create_options,
        .run = create_run,
};

/* --- list --- */

static int list_report(void *arg, struct datastore *ds, struct progress *progress,
        json_t **ret_json, struct errmsg *em)
{
	const struct filter_call *c = arg;
	const struct snapshot_request rq = {.target = c->target};

	return snapshots_list(ds, &rq, progress_update, progress, ret_json, em);
}

static char *holders_line(char *buf, size_t len, const json_t *holders)
{
	const json_t *holder;
	size_t i, at = 0;

	buf[0] = '\0';
	json_array_foreach(holders, i, holder)
	{
		const int n = snprintf(
		        buf + at, len - at, "%s%s", at ? " " : "", json_string_value(holder));
		if (n < 0 || (size_t)n >= len - at)
			break;
		at += (size_t)n;
	}
	return buf;
}

static void snapshot_row(struct table *t, const json_t *s)
{
	const json_t *unique = json_object_get(s, "unique_bytes");
	char buf[TEXT_LEN], text[512], of[512 + 8], holders[512];

	table_add(t, name_of(s));
	table_add(t, text_time(buf, json_u64(s, "time_ns")));
	snprintf(text, sizeof(text), "%llu", (unsigned long long)json_u64(s, "images"));
	table_add(t, text);
	table_add(t, text_size(buf, json_u64(s, "size_bytes")));
	table_add(t, json_is_null(unique) ? "?" : text_size(buf, json_u64(s, "unique_bytes")));
	holders_line(holders, sizeof(holders), json_object_get(s, "holders"));
	table_add(t, *holders ? holders : "-");
	snprintf(of, sizeof(of), "%s%s", filter_target_name(text, sizeof(text), s),
	        json_is_true(json_object_get(s, "gone")) ? " (gone)" : "");
	table_add(t, of);
}

static void list_print(const struct target *target, const json_t *json)
{
	static const char *const titles[] = {
	        "NAME", "TIME", "IMAGES", "SIZE", "UNIQUE", "HELD BY", "OF"};
	struct table t = {.align = "llrrrll"};
	const json_t *s;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(titles); i++)
		table_add(&t, titles[i]);
	json_array_foreach(json_object_get(json, "snapshots"), i, s) snapshot_row(&t, s);
	table_print(&t, stdout);
	table_release(&t);
}

/* TARGET, or TARGET NAME; also without a daemon. */
static int report_call(const struct command *cmd, int argc, char **argv, const char *op, int n,
        target_report_fn *report, target_print_fn *print)
{
	static const char *const args[] = {"TARGET", "NAME"};
	struct filter_options opt;
	int code = filter_options_read(cmd, argc, argv, &opt);

	if (code == 0)
		code = name_check(cmd, argc, argv, n);
	if (code == 0)
		code = cmd_args_check(cmd, argc, argv, args, n, n);
	if (code)
		return code;
	struct filter_call call = {
	        .q =
	                {
	                        .request = json_pack("{s:s}", "op", op),
	                        .doing = "counting what snapshots hold",
	                        .verb = "read the snapshots of",
	                        .report = report,
	                        .read_only = true,
	                },
	        .opt = &opt,
	        .argv = argv + optind + 1,
	};
	if (n > 1)
		json_object_set_new(call.q.request, "name", text_json(argv[optind + 1]));
	return filter_call_run(&call, argv[optind], print);
}

static int list_run(const struct command *cmd, int argc, char **argv)
{
	return report_call(cmd, argc, argv, "snapshot-list", 1, list_report, list_print);
}

static const struct command cmd_snapshot_list = {
        .name = "snapshot list",
        .synopsis = "TARGET [--image PATH] [--json]",
        .summary = "List the snapshots that an image, or images below a directory, are in",
        .details = "UNIQUE: what deleting this one snapshot would free, less compression.",
        .options = show_options,
        .run = list_run,
};

/* --- show --- */

static int show_report(void *arg, struct datastore *ds, struct progress *progress,
        json_t **ret_json, struct errmsg *em)
{
	const struct filter_call *c = arg;
	const struct snapshot_request rq = {.target = c->target, .name = c->argv[0]};

	return snapshots_show(ds, &rq, progress_update, progress, ret_json, em);
}

static void show_print(const struct target *target, const json_t *json)
{
	struct table t = {.align = "rrl"};
	char buf[TEXT_LEN], name[512];
	const json_t *image;
	size_t i;

	list_print(target, json);
	putchar('\n');
	table_add(&t, "SIZE");
	table_add(&t, "ALLOCATED");
	table_add(&t, "IMAGE");
	json_array_foreach(json_object_get(json, "image_list"), i, image)
	{
		table_add(&t, text_size(buf, json_u64(image, "size_bytes")));
		table_add(&t, text_size(buf, json_u64(image, "allocated_bytes")));
		table_add(&t, text_name(name, sizeof(name), json_text(image, "path")));
	}
	table_print(&t, stdout);
	table_release(&t);
}

static int show_run(const struct command *cmd, int argc, char **argv)
{
	return report_call(cmd, argc, argv, "snapshot-show", 2, show_report, show_print);
}

static const struct command cmd_snapshot_show = {
        .name = "snapshot show",
        .synopsis = "TARGET NAME [--image PATH] [--json]",
        .summary = "Show a snapshot and the images in it",
        .options = show_options,
        .run = show_run,
};

/* --- delete, rename, hold, release --- */

static void delete_print(const struct target *t, const json_t *json)
{
	printf("%s: deleted; its space comes back in the background\n", name_of(json));
}

static int delete_run(const struct command *cmd, int argc, char **argv)
{
	return snapshot_call(cmd, argc, argv, "snapshot-delete", NULL, NULL, delete_print);
}

static const struct command cmd_snapshot_delete = {
        .name = "snapshot delete",
        .synopsis = "TARGET NAME [--json]",
        .summary = "Delete a snapshot that nobody holds",
        .options = json_option,
        .run = delete_run,
};

static void rename_print(const struct target *t, const json_t *json)
{
	printf("%s: renamed\n", name_of(json));
}

static int rename_run(const struct command *cmd, int argc, char **argv)
{
	return snapshot_call(
	        cmd, argc, argv, "snapshot-rename", "other_name", "NEW-NAME", rename_print);
}

static const struct command cmd_snapshot_rename = {
        .name = "snapshot rename",
        .synopsis = "TARGET NAME NEW-NAME [--json]",
        .summary = "Give a snapshot another name",
        .options = json_option,
        .run = rename_run,
};

static void hold_print(const struct target *t, const json_t *json)
{
	char holders[512];

	holders_line(holders, sizeof(holders), json_object_get(json, "holders"));
	printf("%s: held by %s\n", name_of(json), *holders ? holders : "nobody");
}

static int hold_run(const struct command *cmd, int argc, char **argv)
{
	return snapshot_call(cmd, argc, argv, "snapshot-hold", "holder", "HOLDER", hold_print);
}

static const struct command cmd_snapshot_hold = {
        .name = "snapshot hold",
        .synopsis = "TARGET NAME HOLDER [--json]",
        .summary = "Keep a snapshot from being deleted, in the name of HOLDER",
        .options = json_option,
        .run = hold_run,
};

static int release_run(const struct command *cmd, int argc, char **argv)
{
	return snapshot_call(cmd, argc, argv, "snapshot-release", "holder", "HOLDER", hold_print);
}

static const struct command cmd_snapshot_release = {
        .name = "snapshot release",
        .synopsis = "TARGET NAME HOLDER [--json]",
        .summary = "Take back what snapshot hold did",
        .options = json_option,
        .run = release_run,
};

/* --- rollback --- */

static void rollback_print(const struct target *t, const json_t *json)
{
	char name[512], before[256];

	printf("%s: rolled back to '%s'; what it was before is snapshot '%s'\n",
	        filter_target_name(name, sizeof(name), json), name_of(json),
	        text_name(before, sizeof(before), json_text(json, "before")));
}

static int rollback_run(const struct command *cmd, int argc, char **argv)
{
	return snapshot_call(cmd, argc, argv, "snapshot-rollback", NULL, NULL, rollback_print);
}

static const struct command cmd_snapshot_rollback = {
        .name = "snapshot rollback",
        .synopsis = "IMAGE NAME [--force] [--json]",
        .summary = "Make an image what it was at a snapshot",
        .details = "What it is now is kept as a snapshot 'before-NAME-TIME'.  Refused while the "
                   "image is open;\n"
                   "with --force, who has it open finds other content in it.",
        .options = rollback_options,
        .run = rollback_run,
};

static const struct command *const snapshot_commands[] = {
        &cmd_snapshot_create,
        &cmd_snapshot_list,
        &cmd_snapshot_show,
        &cmd_snapshot_delete,
        &cmd_snapshot_rename,
        &cmd_snapshot_hold,
        &cmd_snapshot_release,
        &cmd_snapshot_rollback,
        &cmd_snapshot_schedule,
        &cmd_snapshot_agent,
        NULL,
};

static const struct cmd_option no_options[] = {{0}};

const struct command cmd_snapshot = {
        .name = "snapshot",
        .synopsis = "COMMAND ...",
        .summary = "Keep images as they are, and go back to that",
        .options = no_options,
        .group = snapshot_commands,
};

/*
 * filter-change.c - "weir filter attach", "set", "detach", "run", "lift"
 */
#include <stdio.h>
#include <string.h>

#include "fs/control/text.h"
#include "stage/stack.h"
#include "tools/filter-commands.h"
#include "tools/filter.h"
#include "tools/print.h"

static const struct cmd_option attach_options[] = {
        {'f', "force", NULL, "attach although a rule speaks against it; recorded"},
        {'r', "recursive", NULL, "of a directory: also to all that is in it"},
        {'w', "wait", NULL, "wait until data that is there is converted"},
        {'j', "json", NULL, "print JSON"},
        {0},
};

static const struct cmd_option set_options[] = {
        {'r', "recursive", NULL, "of a directory: also of all that is in it"},
        {'j', "json", NULL, "print JSON"},
        {0},
};

static const struct cmd_option detach_options[] = {
        {'f', "force", NULL, "detach although a rule speaks against it; recorded"},
        {'r', "recursive", NULL, "of a directory: also from all that is in it"},
        {'w', "wait", NULL, "wait until no data depends on it"},
        {'j', "json", NULL, "print JSON"},
        {0},
};

static void attach_print(const struct target *t, const json_t *json)
{
	filter_changes_print(json, "attached");
}

static void set_print(const struct target *t, const json_t *json)
{
	filter_changes_print(json, "changed");
}

static void detach_print(const struct target *t, const json_t *json)
{
	filter_changes_print(json, "detached");
}

/* The failures decide the exit code of --json too. */
static void note_failures(const struct target *t, const json_t *json)
{
	cmd_print_json(json);
	if (json_array_size(json_object_get(json, "failed")) > 0)
		filter_changes_code = WEIR_EXIT_FAILED;
}

/* TARGET TYPE [KEY=VALUE...] */
static int change_run(const struct command *cmd, int argc, char **argv, const char *op,
        const char *doing, int min, int max, target_print_fn *print)
{
	static const char *const args[] = {"TARGET", "TYPE", "KEY=VALUE"};
	struct filter_options opt;
	const int code = filter_args_read(cmd, argc, argv, args, min, max, &opt);

	if (code)
		return code;
	if (!strcmp(op, "filter-attach") && !stage_type_find(argv[optind + 1]))
		return filter_type_unknown(argv[optind + 1]);
	const bool as_json = opt.as_json;
	opt.as_json = false; /* printed by note_failures */
	struct filter_call call = {
	        .q = {.doing = doing, .verb = "change the filters of"},
	        .opt = &opt,
	        .argv = argv + optind + 2,
	        .argc = argc - optind - 2,
	        .list_key = "settings",
	};
	call.q.request = json_pack("{s:s, s:o}", "op", op, "type", text_json(argv[optind + 1]));
	return filter_call_run(&call, argv[optind], as_json ? note_failures : print);
}

static int attach_run(const struct command *cmd, int argc, char **argv)
{
	return change_run(cmd, argc, argv, "filter-attach", "attaching", 2, -1, attach_print);
}

static int set_run(const struct command *cmd, int argc, char **argv)
{
	return change_run(cmd, argc, argv, "filter-set", "changing", 3, -1, set_print);
}

static int detach_run(const struct command *cmd, int argc, char **argv)
{
	return change_run(cmd, argc, argv, "filter-detach", "detaching", 2, 2, detach_print);
}

const struct command cmd_filter_attach = {
        .name = "filter attach",
        .synopsis = "TARGET TYPE [KEY=VALUE...] [--force] [--recursive] [--wait] [--json]",
        .summary = "Attach a filter to an image, a directory or the datastore",
        .details = "Takes effect at once, also under load.  What is attached to a directory is "
                   "inherited by\n"
                   "what is made in it from then on; --recursive attaches to what is there too.",
        .options = attach_options,
        .run = attach_run,
};

const struct command cmd_filter_set = {
        .name = "filter set",
        .synopsis = "TARGET TYPE KEY=VALUE... [--recursive] [--json]",
        .summary = "Change settings of an attached filter",
        .details = "TYPE is a filter's type, or TYPE:LINK where several of one type are attached.",
        .options = set_options,
        .run = set_run,
};

const struct command cmd_filter_detach = {
        .name = "filter detach",
        .synopsis = "TARGET TYPE [--force] [--recursive] [--wait] [--json]",
        .summary = "Detach a filter",
        .details = "A filter that data depends on stays until a job has rewritten that data; the "
                   "job goes on\n"
                   "after a crash or an unmount.  --wait shows its progress.",
        .options = detach_options,
        .run = detach_run,
};

/* --- run --- */

static void run_print(const struct target *t, const json_t *json)
{
	if (json_object_size(json) > 0)
		cmd_print_json(json);
}

static int run_run(const struct command *cmd, int argc, char **argv)
{
	static const char *const args[] = {"TARGET", "TYPE", "ACTION", "ARGUMENT"};
	struct filter_options opt;
	const int code = filter_args_read(cmd, argc, argv, args, 3, -1, &opt);

	if (code)
		return code;
	struct filter_call call = {
	        .q = {.doing = "waiting for the filter", .verb = "run an action in"},
	        .opt = &opt,
	        .argv = argv + optind + 3,
	        .argc = argc - optind - 3,
	        .list_key = "args",
	};
	call.q.request = json_pack("{s:s, s:o, s:o}", "op", "filter-run", "type",
	        text_json(argv[optind + 1]), "action", text_json(argv[optind + 2]));
	return filter_call_run(&call, argv[optind], run_print);
}

const struct command cmd_filter_run = {
        .name = "filter run",
        .synopsis = "TARGET TYPE ACTION [ARGUMENT...] [--json]",
        .summary = "Ask an attached filter to do something (see 'weir filter types')",
        .options = cmd_json_option,
        .run = run_run,
};

/* --- lift --- */

static void lift_print(const struct target *t, const json_t *json)
{
	char name[512];

	printf("%s: may be changed again\n", text_name(name, sizeof(name), t->sub));
}

static int lift_run(const struct command *cmd, int argc, char **argv)
{
	static const char *const args[] = {"TARGET"};
	struct filter_options opt;
	const int code = filter_args_read(cmd, argc, argv, args, 1, 1, &opt);

	if (code)
		return code;
	struct filter_call call = {
	        .q = {.doing = "lifting the quarantine", .verb = "change"},
	        .opt = &opt,
	};
	call.q.request = json_pack("{s:s}", "op", "quarantine-lift");
	return filter_call_run(&call, argv[optind], lift_print);
}

const struct command cmd_filter_lift = {
        .name = "filter lift",
        .synopsis = "TARGET [--json]",
        .summary = "Let an image be changed again that a filter has quarantined",
        .options = cmd_json_option,
        .run = lift_run,
};

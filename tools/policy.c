/*
 * policy.c - "weir policy": named stacks
 */
#include <stdio.h>
#include <string.h>

#include "fs/control/text.h"
#include "fs/filter/report.h"
#include "tools/filter.h"
#include "tools/print.h"

static const struct cmd_option apply_options[] = {
        {'f', "force", NULL, "although a rule speaks against a stage; recorded"},
        {'r', "recursive", NULL, "of a directory: also to all that is in it"},
        {'j', "json", NULL, "print JSON"},
        {0},
};

/* TARGET NAME, with the daemon. */
static int policy_call(
        const struct command *cmd, int argc, char **argv, const char *op, target_print_fn *print)
{
	static const char *const args[] = {"TARGET", "NAME"};
	struct filter_options opt;
	const int code = filter_args_read(cmd, argc, argv, args, 2, 2, &opt);

	if (code)
		return code;
	struct filter_call call = {
	        .q = {.doing = "changing", .verb = "change the policies of"},
	        .opt = &opt,
	};
	call.q.request = json_pack("{s:s, s:o}", "op", op, "name", text_json(argv[optind + 1]));
	return filter_call_run(&call, argv[optind], print);
}

static void stages_print(const json_t *stages)
{
	char line[1024], name[1024];
	const json_t *stage;
	size_t i;

	if (json_array_size(stages) == 0)
		printf("    (no filters)\n");
	json_array_foreach(stages, i, stage)
	{
		filter_settings_line(stage, line, sizeof(line));
		printf("    %-*s%s%s\n", *line ? 12 : 0, json_text(stage, "type"), *line ? " " : "",
		        text_name(name, sizeof(name), line));
	}
}

/* --- save --- */

static void save_print(const struct target *t, const json_t *json)
{
	char name[256];

	printf("saved policy '%s':\n", text_name(name, sizeof(name), json_text(json, "name")));
	stages_print(json_object_get(json, "stages"));
}

static int save_run(const struct command *cmd, int argc, char **argv)
{
	return policy_call(cmd, argc, argv, "policy-save", save_print);
}

static const struct command cmd_policy_save = {
        .name = "policy save",
        .synopsis = "TARGET NAME [--json]",
        .summary = "Save the stack of an image or directory under a name",
        .options = cmd_json_option,
        .run = save_run,
};

/* --- apply --- */

static void apply_print(const struct target *t, const json_t *json)
{
	filter_changes_print(json, "policy applied");
}

static int apply_run(const struct command *cmd, int argc, char **argv)
{
	return policy_call(cmd, argc, argv, "policy-apply", apply_print);
}

static const struct command cmd_policy_apply = {
        .name = "policy apply",
        .synopsis = "TARGET NAME [--force] [--recursive] [--json]",
        .summary = "Make a stack what the policy says",
        .details = "Stages that the policy lacks are detached, others attached or set.  One that "
                   "transforms\n"
                   "stored data, such as encrypt, is detached with --force only.",
        .options = apply_options,
        .run = apply_run,
};

/* --- list --- */

static int list_report(void *arg, struct datastore *ds, struct progress *progress,
        json_t **ret_json, struct errmsg *em)
{
	return filter_report_policies(ds, ret_json, em);
}

static void list_print(const struct target *t, const json_t *json)
{
	char name[256], when[TEXT_LEN];
	const json_t *policy;
	size_t i;

	if (json_array_size(json_object_get(json, "policies")) == 0)
		printf("no policies (weir policy save TARGET NAME)\n");
	json_array_foreach(json_object_get(json, "policies"), i, policy)
	{
		printf("%s (saved %s)\n", text_name(name, sizeof(name), json_text(policy, "name")),
		        text_time(when, json_u64(policy, "saved_ns")));
		stages_print(json_object_get(policy, "stages"));
	}
}

static int list_run(const struct command *cmd, int argc, char **argv)
{
	static const char *const args[] = {"TARGET"};
	struct filter_options opt;
	const int code = filter_args_read(cmd, argc, argv, args, 1, 1, &opt);

	if (code)
		return code;
	struct filter_call call = {
	        .q =
	                {
	                        .request = json_pack("{s:s}", "op", "policy-list"),
	                        .doing = "reading the policies",
	                        .verb = "read the policies of",
	                        .report = list_report,
	                        .read_only = true,
	                },
	        .opt = &opt,
	};
	return filter_call_run(&call, argv[optind], list_print);
}

static const struct command cmd_policy_list = {
        .name = "policy list",
        .synopsis = "TARGET [--json]",
        .summary = "List the policies of a datastore",
        .options = cmd_json_option,
        .run = list_run,
};

/* --- delete --- */

static void delete_print(const struct target *t, const json_t *json)
{
	puts("deleted; stacks that were made from it stay as they are");
}

static int delete_run(const struct command *cmd, int argc, char **argv)
{
	return policy_call(cmd, argc, argv, "policy-delete", delete_print);
}

static const struct command cmd_policy_delete = {
        .name = "policy delete",
        .synopsis = "TARGET NAME [--json]",
        .summary = "Forget a policy",
        .options = cmd_json_option,
        .run = delete_run,
};

static const struct command *const policy_commands[] = {
        &cmd_policy_save,
        &cmd_policy_apply,
        &cmd_policy_list,
        &cmd_policy_delete,
        NULL,
};

const struct command cmd_policy = {
        .name = "policy",
        .synopsis = "COMMAND ...",
        .summary = "Save stacks of filters under names, and apply them",
        .options = cmd_no_options,
        .group = policy_commands,
};

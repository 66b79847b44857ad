/*
 * filter-show.c - "weir filter types", "list", "cost"
 */
#include <stdio.h>
#include <string.h>

#include "fs/filter/report.h"
#include "tools/filter-commands.h"
#include "tools/filter.h"
#include "tools/print.h"

static const struct cmd_option show_options[] = {
        {'i', "image", "PATH", "of this image, when TARGET is not mounted"},
        {'j', "json", NULL, "print JSON"},
        {0},
};

static const struct cmd_option json_option[] = {
        {'j', "json", NULL, "print JSON"},
        {0},
};

/* --- types --- */

/* "cannot be undone by default: transforms, needs-force" and so on: a list's texts, joined. */
static void list_line(const char *label, const json_t *list)
{
	const json_t *item;
	size_t i;

	if (json_array_size(list) == 0)
		return;
	printf("    %-12s", label);
	json_array_foreach(list, i, item) printf(" %s", json_string_value(item));
	putchar('\n');
}

static void setting_print(const json_t *setting)
{
	const char *initial = json_text(setting, "default");
	const json_t *choices = json_object_get(setting, "choices"), *choice;
	char kind[256] = "";
	size_t i, at = 0;

	json_array_foreach(choices, i, choice)
	{
		const int n = snprintf(kind + at, sizeof(kind) - at, "%s%s", at ? "|" : "",
		        json_string_value(choice));
		if (n < 0 || (size_t)n >= sizeof(kind) - at)
			break;
		at += (size_t)n;
	}
	printf("    %s=%s  %s", json_text(setting, "key"), at ? kind : json_text(setting, "kind"),
	        json_text(setting, "help"));
	if (*initial)
		printf(" (default %s)", initial);
	if (json_is_true(json_object_get(setting, "fixed")))
		printf(" (cannot be changed later)");
	putchar('\n');
}

static void types_print(const json_t *json)
{
	const json_t *type, *setting;
	size_t i, k;

	json_array_foreach(json_object_get(json, "types"), i, type)
	{
		printf("%s%s (class %s, version %llu)\n    %s\n", i ? "\n" : "",
		        json_text(type, "name"), json_text(type, "class"),
		        (unsigned long long)json_u64(type, "version"), json_text(type, "summary"));
		list_line("is:", json_object_get(type, "capabilities"));
		list_line("actions:", json_object_get(type, "actions"));
		json_array_foreach(json_object_get(type, "settings"), k, setting)
		        setting_print(setting);
	}
}

static int types_run(const struct command *cmd, int argc, char **argv)
{
	struct filter_options opt;
	struct errmsg em = {0};
	json_t *json;
	int code = filter_options_read(cmd, argc, argv, &opt);

	if (code == 0)
		code = cmd_args_check(cmd, argc, argv, NULL, 0, 0);
	if (code)
		return code;
	if (filter_report_types(&json, &em) < 0)
		return cmd_fail(WEIR_EXIT_FAILED, "%s", em.text);
	if (opt.as_json)
		cmd_print_json(json);
	else
		types_print(json);
	json_decref(json);
	return WEIR_EXIT_OK;
}

const struct command cmd_filter_types = {
        .name = "filter types",
        .synopsis = "[--json]",
        .summary = "List the filters that there are, with their settings",
        .options = json_option,
        .run = types_run,
};

/* --- list --- */

static void link_text(char *buf, size_t len, const json_t *stage)
{
	if (json_u64(stage, "link"))
		snprintf(buf, len, "%llu", (unsigned long long)json_u64(stage, "link"));
	else
		snprintf(buf, len, "-");
}

static void state_text(char *buf, size_t len, const json_t *stage)
{
	const json_t *progress = json_object_get(stage, "progress");
	const char *forced = json_is_true(json_object_get(stage, "forced")) ? ", forced" : "";

	if (json_is_number(progress))
		snprintf(buf, len, "%s %.0f %%%s", json_text(stage, "state"),
		        100 * json_number_value(progress), forced);
	else
		snprintf(buf, len, "%s%s", json_text(stage, "state"), forced);
}

static void stacks_print(const json_t *stages)
{
	struct table t = {.align = "rlllrl"};
	char line[1024], name[1024], state[64];
	const json_t *stage;
	size_t i;

	table_add(&t, "LINK");
	table_add(&t, "CLASS");
	table_add(&t, "TYPE");
	table_add(&t, "STATE");
	table_add(&t, "VERSION");
	table_add(&t, "SETTINGS");
	json_array_foreach(stages, i, stage)
	{
		link_text(line, sizeof(line), stage);
		table_add(&t, line);
		table_add(&t, json_text(stage, "class"));
		table_add(&t, json_text(stage, "type"));
		state_text(state, sizeof(state), stage);
		table_add(&t, state);
		snprintf(
		        line, sizeof(line), "%llu", (unsigned long long)json_u64(stage, "version"));
		table_add(&t, line);
		filter_settings_line(stage, line, sizeof(line));
		table_add(&t, text_name(name, sizeof(name), line));
	}
	table_print(&t, stdout);
	table_release(&t);
}

static void counter_print(const char *key, const json_t *value)
{
	char text[256];

	if (json_is_integer(value))
		printf("    %-28s %lld\n", key, (long long)json_integer_value(value));
	else if (json_is_real(value))
		printf("    %-28s %.4g\n", key, json_real_value(value));
	else if (json_is_string(value))
		printf("    %-28s %s\n", key,
		        text_name(text, sizeof(text), json_string_value(value)));
	/* Lists and objects are for --json and for commands of their own. */
}

static void counters_print(json_t *stages)
{
	const char *key;
	json_t *stage, *value;
	size_t i;

	json_array_foreach(stages, i, stage)
	{
		json_t *counters = json_object_get(stage, "counters");
		if (json_object_size(counters) == 0)
			continue;
		printf("\n%s", json_text(stage, "type"));
		if (json_u64(stage, "link"))
			printf(":%llu", (unsigned long long)json_u64(stage, "link"));
		putchar('\n');
		json_object_foreach(counters, key, value) counter_print(key, value);
	}
}

static void list_print(const struct target *t, const json_t *json)
{
	char name[512], text[ERRMSG_LEN];
	const char *reason = json_text(json, "reason"), *why = json_text(json, "quarantine");

	printf("%s: %s%s\n", filter_target_name(name, sizeof(name), json), json_text(json, "kind"),
	        json_is_true(json_object_get(json, "open")) ? ", open" : "");
	if (*reason)
		printf("does not open: %s\n", text_name(text, sizeof(text), reason));
	if (*why)
		printf("quarantined: %s ('weir filter lift' ends it)\n",
		        text_name(text, sizeof(text), why));
	stacks_print(json_object_get(json, "stages"));
	counters_print(json_object_get(json, "stages"));
}

static int list_report(void *arg, struct datastore *ds, struct progress *progress,
        json_t **ret_json, struct errmsg *em)
{
	const struct filter_call *c = arg;

	return filter_report_list(ds, c->target, ret_json, em);
}

static int show_run(const struct command *cmd, int argc, char **argv, const char *op,
        target_report_fn *report, target_print_fn *print)
{
	static const char *const args[] = {"TARGET"};
	struct filter_options opt;
	int code = filter_options_read(cmd, argc, argv, &opt);

	if (code == 0)
		code = cmd_args_check(cmd, argc, argv, args, 1, 1);
	if (code)
		return code;
	struct filter_call call = {
	        .q =
	                {
	                        .request = json_pack("{s:s}", "op", op),
	                        .doing = "reading the filters",
	                        .verb = "read the filters of",
	                        .report = report,
	                        .read_only = true,
	                },
	        .opt = &opt,
	};
	return filter_call_run(&call, argv[optind], print);
}

static int list_run(const struct command *cmd, int argc, char **argv)
{
	return show_run(cmd, argc, argv, "filter-list", list_report, list_print);
}

const struct command cmd_filter_list = {
        .name = "filter list",
        .synopsis = "TARGET [--image PATH] [--json]",
        .summary = "Show the ordered stack of an image, a directory or the datastore",
        .details = "Counters are shown while the image is open.",
        .options = show_options,
        .run = list_run,
};

/* --- cost --- */

static char *time_text(char buf[TEXT_LEN], const json_t *cost, const char *key)
{
	const double ns = json_num(cost, key);

	if (json_u64(cost, "samples") == 0)
		snprintf(buf, TEXT_LEN, "-");
	else if (ns < 10e3)
		snprintf(buf, TEXT_LEN, "%.2f us", ns / 1e3);
	else if (ns < 10e6)
		snprintf(buf, TEXT_LEN, "%.0f us", ns / 1e3);
	else
		snprintf(buf, TEXT_LEN, "%.0f ms", ns / 1e6);
	return buf;
}

static void cost_row(struct table *t, const char *name, const json_t *cost)
{
	char text[TEXT_LEN];

	table_add(t, name);
	snprintf(text, sizeof(text), "%llu", (unsigned long long)json_u64(cost, "operations"));
	table_add(t, text);
	table_add(t, text_size(text, json_u64(cost, "bytes")));
	table_add(t, time_text(text, cost, "mean_ns"));
	table_add(t, time_text(text, cost, "p50_ns"));
	table_add(t, time_text(text, cost, "p99_ns"));
	snprintf(text, sizeof(text), "%.3f", json_num(cost, "cpu_seconds"));
	table_add(t, text);
	table_add(t, text_share(text, json_num(cost, "share")));
}

static void cost_print(const struct target *target, const json_t *json)
{
	static const char *const heads[] = {
	        "STAGE", "OPERATIONS", "BYTES", "MEAN", "P50", "P99", "CPU S", "SHARE"};
	struct table t = {.align = "lrrrrrrr"};
	const json_t *stage;
	char name[64];
	size_t i;

	for (i = 0; i < ARRAY_SIZE(heads); i++)
		table_add(&t, heads[i]);
	json_array_foreach(json_object_get(json, "stages"), i, stage)
	{
		if (json_u64(stage, "link"))
			snprintf(name, sizeof(name), "%s:%llu", json_text(stage, "type"),
			        (unsigned long long)json_u64(stage, "link"));
		else
			snprintf(name, sizeof(name), "%s", json_text(stage, "type"));
		cost_row(&t, name, json_object_get(stage, "cost"));
	}
	cost_row(&t, "whole request", json_object_get(json, "whole"));
	table_print(&t, stdout);
	table_release(&t);
}

static int cost_run(const struct command *cmd, int argc, char **argv)
{
	return show_run(cmd, argc, argv, "filter-cost", NULL, cost_print);
}

const struct command cmd_filter_cost = {
        .name = "filter cost",
        .synopsis = "TARGET [--json]",
        .summary = "Show what each stage of an open image costs",
        .details =
                "Operations and bytes are exact; latencies and CPU time are taken of one request "
                "in eight.\n"
                "Chunk stages work when a group is committed: they cost CPU time, and no request "
                "waits for them.",
        .options = json_option,
        .run = cost_run,
};

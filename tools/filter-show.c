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

/* --- types --- */

#define TYPES_COLUMN 24

/* One line of a type's description, the left part as wide as the column or on a line of its own. */
static void type_line(const char *left, const char *right)
{
	if (strlen(left) > TYPES_COLUMN)
		printf("    %s\n    %-*s  %s\n", left, TYPES_COLUMN, "", right);
	else
		printf("    %-*s  %s\n", TYPES_COLUMN, left, right);
}

/* A list's texts, joined. */
static char *list_text(const json_t *list, const char *between, char *buf, size_t len)
{
	const json_t *item;
	size_t i, at = 0;

	buf[0] = '\0';
	json_array_foreach(list, i, item)
	{
		const int n = snprintf(
		        buf + at, len - at, "%s%s", at ? between : "", json_string_value(item));
		if (n < 0 || (size_t)n >= len - at)
			break;
		at += (size_t)n;
	}
	return buf;
}

static const char *capability_text(const char *name)
{
	static const char *const texts[][2] = {
	        {"transforms", "transforms stored data"},
	        {"holds data", "holds data of its own"},
	        {"chunks", "works when a group is committed"},
	        {"needs force", "attaches with --force only"},
	        {"single", "once an image"},
	        {"implicit", "every image has it"},
	        {"sees reads", "what the kernel has cached is read again"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
		if (!strcmp(texts[i][0], name))
			return texts[i][1];
	return name;
}

static void capabilities_print(const json_t *list)
{
	const json_t *item;
	size_t i;

	json_array_foreach(list, i, item)
	{
		printf("%s%s", i ? ", " : "    (", capability_text(json_string_value(item)));
		if (i + 1 == json_array_size(list))
			printf(")\n");
	}
}

static void setting_print(const json_t *setting)
{
	const char *initial = json_text(setting, "default"), *kind = json_text(setting, "kind");
	char choices[256], left[320], right[512];

	list_text(json_object_get(setting, "choices"), "|", choices, sizeof(choices));
	if (!strcmp(kind, "bool"))
		kind = "on|off";
	snprintf(left, sizeof(left), "%s=%s", json_text(setting, "key"), *choices ? choices : kind);
	snprintf(right, sizeof(right), "%s%s%s%s%s", json_text(setting, "help"),
	        *initial ? " (default " : "", initial, *initial ? ")" : "",
	        json_is_true(json_object_get(setting, "fixed")) ? " (cannot be changed later)"
	                                                        : "");
	type_line(left, right);
}

static void type_print(const json_t *type)
{
	const json_t *setting;
	char actions[256];
	size_t i;

	printf("%s (class %s, version %llu)\n    %s\n", json_text(type, "name"),
	        json_text(type, "class"), (unsigned long long)json_u64(type, "version"),
	        json_text(type, "summary"));
	capabilities_print(json_object_get(type, "capabilities"));
	json_array_foreach(json_object_get(type, "settings"), i, setting) setting_print(setting);
	list_text(json_object_get(type, "actions"), ", ", actions, sizeof(actions));
	if (*actions)
		type_line("actions", actions);
}

static void types_print(const json_t *json)
{
	const json_t *type;
	size_t i;

	json_array_foreach(json_object_get(json, "types"), i, type)
	{
		if (i)
			putchar('\n');
		type_print(type);
	}
}

/* Leaves only the type of that name in the list. */
static int types_only(json_t *json, const char *name)
{
	json_t *types = json_object_get(json, "types");

	for (size_t i = json_array_size(types); i-- > 0;)
		if (strcmp(json_text(json_array_get(types, i), "name"), name) != 0)
			json_array_remove(types, i);
	return json_array_size(types) ? 0 : filter_type_unknown(name);
}

static int types_run(const struct command *cmd, int argc, char **argv)
{
	static const char *const args[] = {"TYPE"};
	struct filter_options opt;
	struct errmsg em = {0};
	json_t *json;
	int code = filter_args_read(cmd, argc, argv, args, 0, 1, &opt);

	if (code)
		return code;
	if (filter_report_types(&json, &em) < 0)
		return cmd_fail(WEIR_EXIT_FAILED, "%s", em.text);
	if (optind < argc)
		code = types_only(json, argv[optind]);
	if (code == 0 && opt.as_json)
		cmd_print_json(json);
	else if (code == 0)
		types_print(json);
	json_decref(json);
	return code;
}

const struct command cmd_filter_types = {
        .name = "filter types",
        .synopsis = "[TYPE] [--json]",
        .summary = "List the filters that there are, with their settings",
        .options = cmd_json_option,
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
		if (!*line && json_object_size(json_object_get(stage, "settings")))
			snprintf(line, sizeof(line), "(defaults)");
		table_add(&t, text_name(name, sizeof(name), line));
	}
	table_print(&t, stdout);
	table_release(&t);
}

static bool ends_in(const char *text, const char *end)
{
	const size_t n = strlen(text), m = strlen(end);

	return n >= m && !strcmp(text + n - m, end);
}

/* The name of a counter ends in its unit; JSON has the bare number. */
static const char *counter_text(const char *key, const json_t *value, char *buf, size_t len)
{
	const uint64_t n = (uint64_t)json_integer_value(value);

	if (json_is_string(value))
		return text_name(buf, len, json_string_value(value));
	if (json_is_real(value) && ends_in(key, "_rate"))
		return text_share(buf, json_real_value(value));
	if (json_is_real(value))
		snprintf(buf, len, "%.4g", json_real_value(value));
	else if (ends_in(key, "_wall_ns") || !strcmp(key, "last_sweep_ns"))
		return text_time(buf, n);
	else if (ends_in(key, "_ns"))
		return text_ns(buf, n);
	else if (ends_in(key, "bytes"))
		return text_size(buf, n);
	else
		snprintf(buf, len, "%llu", (unsigned long long)n);
	return buf;
}

static void counter_print(const char *key, const json_t *value)
{
	char text[256];
	int len = (int)strlen(key);

	/* Lists and objects are for --json and for commands of their own. */
	if (!json_is_number(value) && !json_is_string(value))
		return;
	if (ends_in(key, "_wall_ns"))
		len -= (int)strlen("_wall_ns");
	else if (ends_in(key, "_ns"))
		len -= (int)strlen("_ns");
	printf("    %-28.*s %s\n", len, key, counter_text(key, value, text, sizeof(text)));
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
	const char *kind = json_text(json, "kind");
	const bool whole = !strcmp(kind, "datastore");

	printf("%s%s%s%s\n", filter_target_name(name, sizeof(name), json), whole ? "" : ": ",
	        whole ? "" : kind,
	        json_is_true(json_object_get(json, "open")) ? ", open"
	        : strcmp(kind, "image")                     ? ", inherited by what is made in it"
	                                                    : "");
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
	const int code = filter_args_read(cmd, argc, argv, args, 1, 1, &opt);

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
	if (json_u64(cost, "samples") == 0)
		snprintf(buf, TEXT_LEN, "-");
	else
		text_ns(buf, json_u64(cost, key));
	return buf;
}

static void add_seconds(struct table *t, const json_t *cost)
{
	char text[TEXT_LEN];

	snprintf(text, sizeof(text), "%.3f", json_num(cost, "cpu_seconds"));
	table_add(t, text);
	table_add(t, text_share(text, json_num(cost, "share")));
}

static void add_amounts(struct table *t, const json_t *cost)
{
	char text[TEXT_LEN];

	snprintf(text, sizeof(text), "%llu", (unsigned long long)json_u64(cost, "operations"));
	table_add(t, text);
	table_add(t, text_size(text, json_u64(cost, "bytes")));
}

static void cost_row(struct table *t, const char *name, const json_t *cost)
{
	char text[TEXT_LEN];

	table_add(t, name);
	add_amounts(t, cost);
	table_add(t, time_text(text, cost, "mean_ns"));
	table_add(t, time_text(text, cost, "p50_ns"));
	table_add(t, time_text(text, cost, "p99_ns"));
	add_seconds(t, cost);
}

static void cost_storage(struct table *t, const json_t *storage)
{
	char text[TEXT_LEN];

	table_add(t, "storage");
	for (unsigned i = 0; i < 6; i++)
		table_add(t, "");
	table_add(t, text_share(text, json_num(storage, "share")));
}

static void commit_row(struct table *t, const char *name, const json_t *cost)
{
	char text[TEXT_LEN];
	const uint64_t mean_ns = json_u64(cost, "mean_ns");

	table_add(t, name);
	add_amounts(t, cost);
	table_add(t, mean_ns ? text_ns(text, mean_ns) : "-");
	add_seconds(t, cost);
}

static bool works_at_commit(const json_t *stage)
{
	static const char *const classes[] = {"dedupe", "compress", "encrypt", "integrity", "tier"};

	for (size_t i = 0; i < ARRAY_SIZE(classes); i++)
		if (!strcmp(json_text(stage, "class"), classes[i]))
			return true;
	return false;
}

/* Either the stages that see requests, or those that work at commit. */
static void cost_rows(struct table *t, const json_t *stages, bool at_commit)
{
	const json_t *stage, *cost;
	char name[64];
	size_t i;

	json_array_foreach(stages, i, stage)
	{
		cost = json_object_get(stage, "cost");
		if (works_at_commit(stage) != at_commit)
			continue;
		if (json_u64(stage, "link"))
			snprintf(name, sizeof(name), "%s:%llu", json_text(stage, "type"),
			        (unsigned long long)json_u64(stage, "link"));
		else
			snprintf(name, sizeof(name), "%s", json_text(stage, "type"));
		if (!at_commit)
			cost_row(t, name, cost);
		else if (json_u64(cost, "operations") || json_u64(stage, "link"))
			commit_row(t, name, cost);
	}
}

static void add_heads(struct table *t, const char *const *heads, size_t n)
{
	for (size_t i = 0; i < n; i++)
		table_add(t, heads[i]);
}

static void cost_print(const struct target *target, const json_t *json)
{
	static const char *const heads[] = {
	        "STAGE", "OPERATIONS", "BYTES", "MEAN", "P50", "P99", "CPU S", "SHARE"};
	static const char *const commit_heads[] = {
	        "AT COMMIT", "CHUNKS", "BYTES", "MEAN", "CPU S", "SHARE"};
	const json_t *stages = json_object_get(json, "stages");
	struct table t = {.align = "lrrrrrrr"}, commits = {.align = "lrrrrr"};

	add_heads(&t, heads, ARRAY_SIZE(heads));
	cost_rows(&t, stages, false);
	cost_storage(&t, json_object_get(json, "storage"));
	cost_row(&t, "whole request", json_object_get(json, "whole"));
	table_print(&t, stdout);
	table_release(&t);
	add_heads(&commits, commit_heads, ARRAY_SIZE(commit_heads));
	cost_rows(&commits, stages, true);
	if (commits.n > ARRAY_SIZE(commit_heads)) {
		putchar('\n');
		table_print(&commits, stdout);
	}
	table_release(&commits);
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
                "Operations and bytes are exact; latencies are taken of one request in eight.  CPU "
                "time is that\n"
                "of requests, estimated, and of what a filter does in the background.\n"
                "Below the request stages is the storage.  Chunk stages work when a group is "
                "committed: no\n"
                "request waits for them, and their share is of the time that commits took.",
        .options = cmd_json_option,
        .run = cost_run,
};

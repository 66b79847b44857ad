/*
 * status.c - "weir status"
 */
#include <stdio.h>
#include <string.h>

#include "fs/control/report.h"
#include "tools/print.h"
#include "tools/target.h"

static const struct cmd_option status_options[] = {
        {'j', "json", NULL, "print JSON"},
        {0},
};

static int status_report(void *arg, struct datastore *ds, struct progress *progress,
        json_t **ret_json, struct errmsg *em)
{
	return report_status(ds, NULL, ret_json, em);
}

static void print_line(const char *label, const char *text)
{
	printf("%-13s %s\n", label, text);
}

static void print_part(const char *label, uint64_t part, uint64_t whole)
{
	char a[TEXT_LEN], b[TEXT_LEN], line[2 * TEXT_LEN + 8];

	snprintf(line, sizeof(line), "%s of %s", text_size(a, part), text_size(b, whole));
	print_line(label, line);
}

static void print_mounted(const json_t *json)
{
	char a[TEXT_LEN], name[512];

	printf("%-13s on %s, by pid %lld, for %s\n", "mounted",
	        text_name(name, sizeof(name), json_text(json, "mountpoint")),
	        (long long)json_u64(json, "pid"),
	        text_duration(a, json_u64(json, "uptime_seconds")));
	if (json_u64(json, "dirty_limit_bytes"))
		print_part("dirty", json_u64(json, "dirty_bytes"),
		        json_u64(json, "dirty_limit_bytes"));
	else
		print_line("dirty", text_size(a, json_u64(json, "dirty_bytes")));
	print_part("intent log", json_u64(json, "log_used_bytes"), json_u64(json, "log_bytes"));
}

static void print_unmounted(const json_t *json)
{
	const uint64_t used_bytes = json_u64(json, "log_used_bytes");
	char a[TEXT_LEN], line[128];

	print_line("mounted", "no");
	if (used_bytes)
		snprintf(line, sizeof(line), "%s to replay: the next mount does that",
		        text_size(a, used_bytes));
	else
		snprintf(line, sizeof(line), "nothing to replay");
	print_line("intent log", line);
}

static void print_commit(const json_t *json)
{
	const json_t *last = json_object_get(json, "last_commit");
	char a[TEXT_LEN];

	if (json_is_string(last))
		print_line("last commit", json_string_value(last));
	else if (json_is_integer(last))
		print_line("last commit", text_time(a, json_u64(json, "last_commit")));
}

static void status_print(const struct target *t, const json_t *json)
{
	const char *health = json_text(json, "health"), *why = json_text(json, "health_text");
	char name[512], text[512];

	print_line("datastore", text_name(name, sizeof(name), t->dir));
	if (json_is_true(json_object_get(json, "mounted")))
		print_mounted(json);
	else
		print_unmounted(json);
	print_commit(json);
	if (*why)
		printf("%-13s %s: %s\n", "health", health, text_name(text, sizeof(text), why));
	else
		print_line("health", *health ? health : "unknown");
}

static int status_run(const struct command *cmd, int argc, char **argv)
{
	struct target_query q = {
	        .request = json_pack("{s:s}", "op", "status"),
	        .doing = "reading the datastore",
	        .verb = "read",
	        .report = status_report,
	        .read_only = true,
	};
	return target_command_run(cmd, argc, argv, &q, status_print);
}

const struct command cmd_status = {
        .name = "status",
        .synopsis = "TARGET [--json]",
        .summary = "Say whether and how a datastore is mounted, and its health",
        .options = status_options,
        .run = status_run,
};

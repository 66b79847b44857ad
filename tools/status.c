/*
 * status.c - "weir status"
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "fs/control/report.h"
#include "tools/print.h"
#include "tools/target.h"

/* When it was written to last: every commit writes the metadata, nothing else does. */
static uint64_t last_commit_of_files(const char *dir)
{
	static const char *const names[] = {META_NAME, META_NAME "-wal"};
	uint64_t last_ns = 0;

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		CLEANUP(free_ptr) char *path = NULL;
		struct stat st;

		if (asprintf(&path, "%s/%s", dir, names[i]) >= 0 && stat(path, &st) == 0)
			last_ns = MAX(last_ns, clock_timespec_ns(&st.st_mtim));
	}
	return last_ns;
}

static int status_report(void *arg, struct datastore *ds, struct progress *progress,
        json_t **ret_json, struct errmsg *em)
{
	json_t *json = NULL;
	const int r = report_status(ds, NULL, &json, em);

	if (r < 0)
		return r;
	if (json_object_set_new(json, "last_commit",
	            json_integer((json_int_t)last_commit_of_files(ds->dir))) < 0) {
		json_decref(json);
		return errmsg_set(em, -ENOMEM, "out of memory");
	}
	*ret_json = json;
	return 0;
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

/* The target of an item of a list; "" is the datastore. */
static const char *item_target(char *buf, size_t len, const json_t *item)
{
	const char *target = json_text(item, "target");

	return *target ? text_name(buf, len, target) : "the datastore";
}

static void print_reasons(const char *label, const json_t *list)
{
	char name[512], text[ERRMSG_LEN];
	const json_t *item;
	size_t i;

	json_array_foreach(list, i, item)
	        printf("%-13s %s: %s\n", i ? "" : label, item_target(name, sizeof(name), item),
	                text_name(text, sizeof(text), json_text(item, "reason")));
}

static void print_jobs(const json_t *list)
{
	char name[512], share[TEXT_LEN];
	const json_t *item;
	size_t i;

	json_array_foreach(list, i, item) printf("%-13s %s: %s %s, %s\n", i ? "" : "jobs",
	        item_target(name, sizeof(name), item), json_text(item, "what"),
	        json_text(item, "type"), text_share(share, json_num(item, "progress")));
}

static void print_receiving(const json_t *list)
{
	char name[512], a[TEXT_LEN], b[TEXT_LEN];
	const json_t *item;
	size_t i;

	json_array_foreach(list, i, item) printf("%-13s %s@%s: %s of %s%s\n", i ? "" : "receiving",
	        item_target(name, sizeof(name), item), json_text(item, "snapshot"),
	        text_size(a, json_u64(item, "position_bytes")),
	        text_size(b, json_u64(item, "size_bytes")),
	        json_is_true(json_object_get(item, "active")) ? "" : ", cut off");
}

static void print_alerts(const json_t *list)
{
	char name[512], text[ERRMSG_LEN], when[TEXT_LEN];
	const json_t *item;
	size_t i;

	json_array_foreach(list, i, item) printf("%-13s %s %s: %s: %s: %s\n", i ? "" : "alerts",
	        text_time(when, json_u64(item, "time_ns")), json_text(item, "severity"),
	        item_target(name, sizeof(name), item), json_text(item, "type"),
	        text_name(text, sizeof(text), json_text(item, "text")));
}

static void status_print(const struct target *t, const json_t *json)
{
	const char *health = json_text(json, "health"), *why = json_text(json, "health_text");
	char name[512], text[512], a[TEXT_LEN];

	print_line("datastore", text_name(name, sizeof(name), t->dir));
	if (json_is_true(json_object_get(json, "mounted")))
		print_mounted(json);
	else
		print_unmounted(json);
	print_line("last commit", text_time(a, json_u64(json, "last_commit")));
	if (*why)
		printf("%-13s %s: %s\n", "health", health, text_name(text, sizeof(text), why));
	else
		print_line("health", *health ? health : "unknown");
	print_reasons("does not open", json_object_get(json, "unopenable"));
	print_reasons("quarantined", json_object_get(json, "quarantine"));
	print_jobs(json_object_get(json, "jobs"));
	print_receiving(json_object_get(json, "receiving"));
	print_alerts(json_object_get(json, "alerts"));
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
        .options = cmd_json_option,
        .run = status_run,
};

/*
 * snapshot-schedule.c - "weir snapshot schedule" and "weir snapshot agent"
 *
 * Without anything to change they list what is set, also of a datastore that is not mounted.
 */
#include <stdio.h>
#include <string.h>

#include "fs/control/text.h"
#include "fs/snapshot/snapshots.h"
#include "stage/values.h"
#include "tools/filter.h"
#include "tools/print.h"
#include "tools/snapshot-commands.h"

enum { OPTION_NONE = 0x100, OPTION_PAUSE, OPTION_RESUME, OPTION_NO_QUIESCE };

static const struct cmd_option schedule_options[] = {
        {'e', "every", "TIME", "take one so often: 15m, 1h, 1d"},
        {'k', "keep", "RULES", "of those taken, keep: 4h,7d,8w"},
        {'q', "quiesce", NULL, "with the guests frozen (see snapshot agent)"},
        {OPTION_NO_QUIESCE, "no-quiesce", NULL, "without"},
        {OPTION_PAUSE, "pause", NULL, "take none, and delete none, until --resume"},
        {OPTION_RESUME, "resume", NULL, "go on"},
        {OPTION_NONE, "none", NULL, "remove the schedule; its snapshots stay"},
        {'i', "image", "PATH", "of this image or directory, when TARGET is not mounted"},
        {'j', "json", NULL, "print JSON"},
        {0},
};

static const struct cmd_option agent_options[] = {
        {OPTION_NONE, "none", NULL, "set none"},
        {'i', "image", "PATH", "of this image or directory, when TARGET is not mounted"},
        {'j', "json", NULL, "print JSON"},
        {0},
};

struct wanted {
	struct filter_options opt;
	const char *action; /* NULL: to list */
	const char *every, *keep;
	bool quiesce, no_quiesce, twice; /* twice: options that exclude each other */
};

static void action_set(struct wanted *w, const char *action)
{
	w->twice = w->twice || (w->action && strcmp(w->action, action));
	w->action = action;
}

static void option_take(struct wanted *w, int id)
{
	switch (id) {
	case 'e':
		w->every = optarg;
		return action_set(w, "set");
	case 'k':
		w->keep = optarg;
		return action_set(w, "set");
	case 'q':
		w->quiesce = true;
		return action_set(w, "set");
	case OPTION_NO_QUIESCE:
		w->no_quiesce = true;
		return action_set(w, "set");
	case OPTION_PAUSE:
		return action_set(w, "pause");
	case OPTION_RESUME:
		return action_set(w, "resume");
	case OPTION_NONE:
		return action_set(w, "remove");
	case 'i':
		w->opt.image = optarg;
		return;
	default:
		w->opt.as_json = true;
	}
}

static int options_read(const struct command *cmd, int argc, char **argv, struct wanted *w)
{
	int id;

	while ((id = cmd_option_next(cmd, argc, argv)) > 0)
		option_take(w, id);
	if (id < 0)
		return WEIR_EXIT_USAGE;
	return w->twice || (w->quiesce && w->no_quiesce)
	               ? cmd_misused(cmd, "options that exclude each other")
	               : 0;
}

/* --- schedules --- */

static int schedules_report(void *arg, struct datastore *ds, struct progress *progress,
        json_t **ret_json, struct errmsg *em)
{
	const struct filter_call *c = arg;
	const struct snapshot_request rq = {.target = c->target};

	return snapshots_schedules(ds, NULL, &rq, ret_json, em);
}

static const char *state_of(const json_t *s)
{
	if (json_is_true(json_object_get(s, "paused")))
		return "paused";
	return json_is_null(json_object_get(s, "failing")) ? "active" : "failing";
}

static void schedule_row(struct table *t, const json_t *s)
{
	const struct setting_def def = {.kind = SETTING_DURATION};
	char buf[TEXT_LEN], text[512], every[64];

	table_add(t, filter_target_name(text, sizeof(text), s));
	value_format(&def, json_u64(s, "every_ns"), every, sizeof(every));
	table_add(t, every);
	table_add(t, json_text(s, "keep"));
	table_add(t, json_is_true(json_object_get(s, "quiesce")) ? "yes" : "no");
	table_add(t, state_of(s));
	snprintf(text, sizeof(text), "%llu", (unsigned long long)json_u64(s, "snapshots"));
	table_add(t, text);
	table_add(t, text_time(buf, json_u64(s, "last_ns")));
	table_add(t, json_is_null(json_object_get(s, "next_ns"))
	                     ? "-"
	                     : text_time(buf, json_u64(s, "next_ns")));
}

static void failing_print(const json_t *s)
{
	const char *why = json_text(s, "failing");
	char name[512], text[ERRMSG_LEN];

	if (*why)
		printf("%s: %s\n", filter_target_name(name, sizeof(name), s),
		        text_name(text, sizeof(text), why));
}

static void schedules_print(const struct target *target, const json_t *json)
{
	static const char *const titles[] = {
	        "TARGET", "EVERY", "KEEP", "QUIESCE", "STATE", "SNAPSHOTS", "LAST", "NEXT"};
	const json_t *list = json_object_get(json, "schedules"), *s;
	struct table t = {.align = "lrlllrll"};
	size_t i;

	if (json_array_size(list) == 0) {
		puts("no schedules");
		return;
	}
	for (i = 0; i < ARRAY_SIZE(titles); i++)
		table_add(&t, titles[i]);
	json_array_foreach(list, i, s) schedule_row(&t, s);
	table_print(&t, stdout);
	table_release(&t);
	json_array_foreach(list, i, s) failing_print(s);
}

static void schedule_print(const struct target *target, const json_t *json)
{
	const struct setting_def def = {.kind = SETTING_DURATION};
	char name[512], every[64];

	filter_target_name(name, sizeof(name), json);
	if (!json_object_get(json, "every_ns")) {
		printf("%s: no schedule any more; its snapshots stay\n", name);
		return;
	}
	value_format(&def, json_u64(json, "every_ns"), every, sizeof(every));
	printf("%s: a snapshot every %s, of which %s are kept%s%s\n", name, every,
	        json_text(json, "keep"),
	        json_is_true(json_object_get(json, "quiesce")) ? ", with the guests frozen" : "",
	        json_is_true(json_object_get(json, "paused")) ? " (paused)" : "");
}

static json_t *schedule_request(const struct wanted *w)
{
	if (!w->action)
		return json_pack("{s:s}", "op", "snapshot-schedules");
	json_t *json = json_pack("{s:s, s:s}", "op", "snapshot-schedule", "action", w->action);
	if (w->quiesce || w->no_quiesce)
		json_object_set_new(json, "quiesce", json_boolean(w->quiesce));
	if (w->every)
		json_object_set_new(json, "every", text_json(w->every));
	if (w->keep)
		json_object_set_new(json, "keep", text_json(w->keep));
	return json;
}

static int schedule_run(const struct command *cmd, int argc, char **argv)
{
	static const char *const args[] = {"TARGET"};
	struct wanted w = {0};
	int code = options_read(cmd, argc, argv, &w);

	if (code == 0)
		code = cmd_args_check(cmd, argc, argv, args, 1, 1);
	if (code)
		return code;
	struct filter_call call = {
	        .q =
	                {
	                        .request = schedule_request(&w),
	                        .doing = "scheduling",
	                        .verb = w.action ? "change the schedules of"
	                                         : "read the schedules of",
	                        .report = w.action ? NULL : schedules_report,
	                        .read_only = true,
	                },
	        .opt = &w.opt,
	};
	return filter_call_run(&call, argv[optind], w.action ? schedule_print : schedules_print);
}

const struct command cmd_snapshot_schedule = {
        .name = "snapshot schedule",
        .synopsis = "TARGET [--every TIME] [--keep RULES] [--quiesce | --no-quiesce] [--pause | "
                    "--resume | --none] "
                    "[--image PATH] [--json]",
        .summary = "Take snapshots regularly, and delete them by rules; or list the schedules",
        .details = "RULES: the newest one of each of the last 4 hours, 7 days, 8 weeks that have "
                   "one is "
                   "4h,7d,8w;\n"
                   "also 12mo (months), 3y (years), and a number alone for the newest ones: "
                   "16,4h,7d.\n"
                   "Hours, days and weeks are those of UTC.  What no rule wants is deleted, if the "
                   "schedule\n"
                   "took it and nobody holds it.",
        .options = schedule_options,
        .run = schedule_run,
};

/* --- agents --- */

static int agents_report(void *arg, struct datastore *ds, struct progress *progress,
        json_t **ret_json, struct errmsg *em)
{
	const struct filter_call *c = arg;
	const struct snapshot_request rq = {.target = c->target};

	return snapshots_agents(ds, &rq, ret_json, em);
}

static void agents_print(const struct target *target, const json_t *json)
{
	const json_t *list = json_object_get(json, "agents"), *a;
	struct table t = {.align = "ll"};
	char text[512];
	size_t i;

	if (json_array_size(list) == 0) {
		puts("no agents");
		return;
	}
	table_add(&t, "TARGET");
	table_add(&t, "AGENT");
	json_array_foreach(list, i, a)
	{
		table_add(&t, filter_target_name(text, sizeof(text), a));
		table_add(&t, text_name(text, sizeof(text), json_text(a, "agent")));
	}
	table_print(&t, stdout);
	table_release(&t);
}

static void agent_print(const struct target *target, const json_t *json)
{
	const char *agent = json_text(json, "agent");
	char name[512], text[512];

	printf("%s: guest agent %s\n", filter_target_name(name, sizeof(name), json),
	        *agent ? text_name(text, sizeof(text), agent) : "none");
}

static int agent_run(const struct command *cmd, int argc, char **argv)
{
	static const char *const args[] = {"TARGET", "SOCKET"};
	struct wanted w = {0};
	int code = options_read(cmd, argc, argv, &w);

	if (code == 0)
		code = cmd_args_check(cmd, argc, argv, args, 1, w.action ? 1 : 2);
	if (code)
		return code;
	const char *socket = argc - optind > 1 ? argv[optind + 1] : NULL;
	const char *action = socket ? "set" : w.action;
	struct filter_call call = {
	        .q =
	                {
	                        .request = json_pack("{s:s}", "op",
	                                action ? "snapshot-agent" : "snapshot-agents"),
	                        .doing = "setting",
	                        .verb = action ? "change the guest agents of"
	                                       : "read the guest agents of",
	                        .report = action ? NULL : agents_report,
	                        .read_only = true,
	                },
	        .opt = &w.opt,
	};
	if (action)
		json_object_set_new(call.q.request, "action", json_string(action));
	if (socket)
		json_object_set_new(call.q.request, "agent", text_json(socket));
	return filter_call_run(&call, argv[optind], action ? agent_print : agents_print);
}

const struct command cmd_snapshot_agent = {
        .name = "snapshot agent",
        .synopsis = "TARGET [SOCKET | --none] [--image PATH] [--json]",
        .summary = "Say how to reach the guest agent that freezes the guest of an image",
        .details = "SOCKET: absolute path of the Unix socket that QEMU connects to the guest's "
                   "qemu-guest-agent.\n"
                   "Set for a directory, it is meant for all images below it that have none of "
                   "their own.",
        .options = agent_options,
        .run = agent_run,
};

/*
 * audit.c - "weir audit": who changed what, and is the record whole
 */
#include <stdio.h>
#include <string.h>

#include "fs/control/text.h"
#include "fs/filter/report.h"
#include "tools/filter.h"
#include "tools/print.h"

static const struct cmd_option audit_options[] = {
        {'v', "verify", NULL, "check the chain of hashes"},
        {'e', "expect", "HASH", "with --verify: this hash, noted earlier, must be in it"},
        {'j', "json", NULL, "print JSON"},
        {0},
};

struct audit_call {
	struct target_query q;
	bool verify;
	const char *expect;
	char *target; /* owned */
};

/* Found broken: said by the exit code, with --json too. */
static int audit_code;

static int audit_report(void *arg, struct datastore *ds, struct progress *progress,
        json_t **ret_json, struct errmsg *em)
{
	const struct audit_call *c = arg;

	return filter_report_audit(ds, c->target, c->verify, c->expect, ret_json, em);
}

static int audit_fill(void *arg, const struct target *t, json_t *request)
{
	struct audit_call *c = arg;

	c->target = strdup(t->sub);
	json_object_set_new(request, "target", text_json(t->sub));
	if (c->verify)
		json_object_set_new(request, "verify", json_true());
	if (c->expect)
		json_object_set_new(request, "expect", text_json(c->expect));
	return 0;
}

static void cell(struct table *t, const json_t *entry, const char *key)
{
	char text[512];

	table_add(t, text_name(text, sizeof(text), json_text(entry, key)));
}

static void entries_print(const json_t *entries)
{
	struct table t = {.align = "rllllll"};
	char text[TEXT_LEN], change[1024], shown[1024];
	const json_t *e;
	size_t i;

	table_add(&t, "NUMBER");
	table_add(&t, "TIME");
	table_add(&t, "WHO");
	table_add(&t, "ACTION");
	table_add(&t, "TARGET");
	table_add(&t, "TYPE");
	table_add(&t, "CHANGE");
	json_array_foreach(entries, i, e)
	{
		const char *old = json_text(e, "old"), *new = json_text(e, "new");
		snprintf(text, sizeof(text), "%llu", (unsigned long long)json_u64(e, "seq"));
		table_add(&t, text);
		table_add(&t, text_time(text, json_u64(e, "time_ns")));
		/* No process asked for it: a filter raised it, or a job ended. */
		if (json_u64(e, "pid"))
			cell(&t, e, "user");
		else
			table_add(&t, "weir");
		cell(&t, e, "action");
		cell(&t, e, "target");
		cell(&t, e, "type");
		snprintf(change, sizeof(change), "%s%s%s", old, *old ? " -> " : "", new);
		for (char *c = change; *c; c++)
			if (*c == '\n')
				*c = ' ';
		table_add(&t, text_name(shown, sizeof(shown), change));
	}
	table_print(&t, stdout);
	table_release(&t);
}

static void verify_judge(const json_t *json, const char *expect)
{
	const json_t *v = json_object_get(json, "verify");

	if (v && (!json_is_true(json_object_get(v, "whole")) ||
	                 (expect && !json_is_true(json_object_get(v, "expected_found")))))
		audit_code = WEIR_EXIT_DAMAGED;
}

static const char *expected; /* of the command line; for the printing functions */

static void verify_print(const json_t *v)
{
	if (!v)
		return;
	if (!json_is_true(json_object_get(v, "whole")))
		printf("the chain is BROKEN at entry %llu: %s\n",
		        (unsigned long long)json_u64(v, "bad_seq"), json_text(v, "why"));
	else
		printf("the chain is whole: %llu entries, the last one's hash is %s\n",
		        (unsigned long long)json_u64(v, "entries"), json_text(v, "head"));
	if (expected && !json_is_true(json_object_get(v, "expected_found")))
		printf("hash %s is NOT in it: entries were cut off or replaced\n", expected);
}

static void audit_print(const struct target *t, const json_t *json)
{
	entries_print(json_object_get(json, "entries"));
	verify_print(json_object_get(json, "verify"));
	verify_judge(json, expected);
}

static void audit_print_json(const struct target *t, const json_t *json)
{
	cmd_print_json(json);
	verify_judge(json, expected);
}

static int audit_run(const struct command *cmd, int argc, char **argv)
{
	static const char *const args[] = {"TARGET"};
	struct audit_call call = {
	        .q =
	                {
	                        .doing = "reading the audit trail",
	                        .verb = "read the audit trail of",
	                        .report = audit_report,
	                        .read_only = true,
	                },
	};
	bool as_json = false;
	int id;

	while ((id = cmd_option_next(cmd, argc, argv)) > 0) {
		as_json |= id == 'j';
		call.verify |= id == 'v' || id == 'e';
		if (id == 'e')
			call.expect = expected = optarg;
	}
	if (id < 0 || cmd_args_check(cmd, argc, argv, args, 1, 1))
		return WEIR_EXIT_USAGE;
	call.q.arg = &call;
	call.q.request = json_pack("{s:s}", "op", "audit");
	const int code = target_ask_and_print(
	        &call.q, argv[optind], false, audit_fill, as_json ? audit_print_json : audit_print);
	free(call.target);
	return code ? code : audit_code;
}

const struct command cmd_audit = {
        .name = "audit",
        .synopsis = "TARGET [--verify] [--expect HASH] [--json]",
        .summary = "Show who changed which filter, policy or key, and verify the record",
        .details =
                "Exit code 4: the chain of hashes is broken, or the expected hash is not in it.  "
                "Each entry's\n"
                "number and hash are in the daemon's log as well: keep one elsewhere, and --expect "
                "finds out\n"
                "whether the end was cut off.",
        .options = audit_options,
        .run = audit_run,
};

/*
 * filter.c - "weir filter": the group, and what its commands share
 *
 * Changes are made by the daemon: the commands only say what the user asked for.  What a command
 * changes in several images is reported for each; one that failed makes the exit code 8, and the
 * others are done all the same.
 */
#include "tools/filter.h"

#include <stdio.h>
#include <string.h>

#include "fs/control/text.h"
#include "stage/stack.h"
#include "tools/filter-commands.h"
#include "tools/print.h"

int filter_options_read(
        const struct command *cmd, int argc, char **argv, struct filter_options *ret_opt)
{
	struct filter_options opt = {0};
	int id;

	while ((id = cmd_option_next(cmd, argc, argv)) > 0) {
		switch (id) {
		case 'j':
			opt.as_json = true;
			break;
		case 'f':
			opt.force = true;
			break;
		case 'r':
			opt.recursive = true;
			break;
		case 'w':
			opt.wait = true;
			break;
		case 'i':
			opt.image = optarg;
			break;
		}
	}
	if (id < 0)
		return WEIR_EXIT_USAGE;
	*ret_opt = opt;
	return 0;
}

int filter_args_read(const struct command *cmd, int argc, char **argv, const char *const *names,
        int min, int max, struct filter_options *ret_opt)
{
	const int code = filter_options_read(cmd, argc, argv, ret_opt);

	return code ? code : cmd_args_check(cmd, argc, argv, names, min, max);
}

static int call_fill(void *arg, const struct target *t, json_t *request)
{
	struct filter_call *c = arg;
	const char *sub = c->opt->image ? c->opt->image : t->sub;

	if (c->opt->image && t->mountpoint && *t->sub)
		return cmd_fail(
		        WEIR_EXIT_USAGE, "--image is for a datastore, '%s' is in one", t->sub);
	c->target = strdup(sub + strspn(sub, "/"));
	json_object_set_new(request, "target", text_json(c->target ? c->target : ""));
	if (c->opt->force)
		json_object_set_new(request, "force", json_true());
	if (c->opt->recursive)
		json_object_set_new(request, "recursive", json_true());
	if (c->opt->wait)
		json_object_set_new(request, "wait", json_true());
	if (!c->list_key)
		return 0;
	json_t *list = json_array();
	for (int i = 0; i < c->argc; i++)
		json_array_append_new(list, text_json(c->argv[i]));
	json_object_set_new(request, c->list_key, list);
	return 0;
}

int filter_call_run(struct filter_call *call, const char *target, target_print_fn *print)
{
	call->q.arg = call;
	filter_changes_code = WEIR_EXIT_OK;
	const int code =
	        target_ask_and_print(&call->q, target, call->opt->as_json, call_fill, print);
	free(call->target);
	call->target = NULL;
	return code ? code : filter_changes_code;
}

const char *filter_target_name(char *buf, size_t len, const json_t *json)
{
	const char *target = json_text(json, "target");

	return *target ? text_name(buf, len, target) : "the datastore";
}

static bool is_in(const json_t *list, const char *text)
{
	const json_t *item;
	size_t i;

	json_array_foreach(list, i, item) if (!strcmp(json_string_value(item), text)) return true;
	return false;
}

char *filter_settings_line(const json_t *stage, char *buf, size_t len)
{
	json_t *settings = json_object_get(stage, "settings");
	const json_t *given = json_object_get(stage, "given"); /* not in a policy: all are */
	const char *key;
	json_t *value;
	size_t at = 0;

	buf[0] = '\0';
	json_object_foreach(settings, key, value)
	{
		if (given && !is_in(given, key))
			continue;
		const char *text = json_string_value(value);
		const int n = snprintf(
		        buf + at, len - at, "%s%s=%s", at ? " " : "", key, text ? text : "");
		if (n < 0 || (size_t)n >= len - at)
			break;
		at += (size_t)n;
	}
	return buf;
}

int filter_changes_code;

int filter_type_unknown(const char *name)
{
	const char *names[STACK_LINKS_MAX + 1] = {0};
	const struct stage_type *type;
	char shown[64];

	for (unsigned i = 0; i < STACK_LINKS_MAX && (type = stage_type_at(i)); i++)
		names[i] = type->name;
	const char *near = word_near(name, names);
	text_name(shown, sizeof(shown), name);
	if (near)
		return cmd_fail(WEIR_EXIT_FAILED,
		        "there is no filter type '%s', did you mean '%s'?", shown, near);
	return cmd_fail(
	        WEIR_EXIT_FAILED, "there is no filter type '%s' (weir filter types)", shown);
}

/* "web.raw: attached throttle:8". */
static void change_print(const json_t *item, const char *verb)
{
	const unsigned long long link = json_u64(item, "link");
	const char *type = json_text(item, "type"), *state = json_text(item, "state");
	char name[512];

	printf("%s: %s", filter_target_name(name, sizeof(name), item), verb);
	if (*type && link)
		printf(" %s:%llu", type, link);
	if (strstr(state, "converting"))
		printf("; data that was there is being rewritten in the background ('weir filter "
		       "list' shows how far)");
	else if (json_is_true(json_object_get(item, "converted")) && !strcmp(type, "encrypt") &&
	         !strcmp(state, "active"))
		printf("; no plaintext of it is left in the datastore");
	putchar('\n');
}

void filter_changes_print(const json_t *json, const char *verb)
{
	char name[512], text[ERRMSG_LEN];
	const json_t *item;
	size_t i;

	json_array_foreach(json_object_get(json, "changed"), i, item) change_print(item, verb);
	fflush(stdout);
	json_array_foreach(json_object_get(json, "failed"), i, item)
	{
		fprintf(stderr, "weir: %s: %s\n", filter_target_name(name, sizeof(name), item),
		        text_name(text, sizeof(text), json_text(item, "error")));
		filter_changes_code = WEIR_EXIT_FAILED;
	}
}

static const struct command *const filter_commands[] = {
        &cmd_filter_types,
        &cmd_filter_list,
        &cmd_filter_attach,
        &cmd_filter_set,
        &cmd_filter_detach,
        &cmd_filter_cost,
        &cmd_filter_run,
        &cmd_filter_lift,
        NULL,
};

const struct command cmd_filter = {
        .name = "filter",
        .synopsis = "COMMAND ...",
        .summary = "Show and change the filter stacks of images and directories",
        .options = cmd_no_options,
        .group = filter_commands,
};

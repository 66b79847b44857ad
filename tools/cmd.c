/*
 * cmd.c - the static table of commands, option parsing, and messages about misuse
 *
 * One thread.  getopt_long does the work, kept quiet (opterr = 0, a leading ':' in the short
 * options): its own messages are replaced by ones of the house form, which name the nearest option
 * that exists.  Nothing here knows what a command does.
 */
#include "tools/cmd.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "stage/builtin/probe.h"
#include "tools/discover-worker.h"

const struct command *const commands[] = {
        &cmd_create,
        &cmd_mount,
        &cmd_umount,
        &cmd_status,
        &cmd_stats,
        &cmd_images,
        &cmd_check,
        &cmd_gc,
        &cmd_snapshot,
        &cmd_clone,
        &cmd_diff,
        &cmd_send,
        &cmd_receive,
        &cmd_filter,
        &cmd_policy,
        &cmd_audit,
        &cmd_key,
        &cmd_analytics,
        &cmd_discover,
        &cmd_help,
        NULL,
};

const struct cmd_option cmd_no_options[] = {{0}};
const struct cmd_option cmd_json_option[] = {
        {'j', "json", NULL, "print JSON"},
        {0},
};

#define CMD_GROUP_MAX 32u /* commands of one table */

static const struct command *const programs[] = {
        &cmd_mkfs,
        &cmd_mount_helper,
        &cmd_fsck,
        NULL,
};

static const struct command *table_find(const struct command *const *table, const char *name)
{
	for (size_t i = 0; table[i]; i++)
		if (!strcmp(table[i]->name, name))
			return table[i];
	return NULL;
}

const struct command *command_find(const char *name)
{
	const struct command *cmd = table_find(commands, name);

	for (size_t i = 0; !cmd && commands[i]; i++)
		if (commands[i]->group)
			cmd = table_find(commands[i]->group, name);
	return cmd ? cmd : table_find(programs, name);
}

const char *command_word(const struct command *cmd)
{
	const char *space = strrchr(cmd->name, ' ');

	return space ? space + 1 : cmd->name;
}

int cmd_fail(enum weir_exit code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fputs("weir: ", stderr);
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
	va_end(ap);
	return code;
}

int cmd_misused(const struct command *cmd, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fputs("weir: ", stderr);
	vfprintf(stderr, fmt, ap);
	fprintf(stderr, " (see 'weir help %s')\n", cmd->name);
	va_end(ap);
	return WEIR_EXIT_USAGE;
}

/* Optimal string alignment distance: edits and swaps of neighbours. */
static unsigned word_distance(const char *a, const char *b)
{
	enum { WORD_MAX = 31 };
	const size_t n = strlen(a), m = strlen(b);
	unsigned d[WORD_MAX + 1][WORD_MAX + 1];

	if (n > WORD_MAX || m > WORD_MAX)
		return WORD_MAX;
	for (size_t i = 0; i <= n; i++)
		d[i][0] = (unsigned)i;
	for (size_t j = 0; j <= m; j++)
		d[0][j] = (unsigned)j;
	for (size_t i = 1; i <= n; i++)
		for (size_t j = 1; j <= m; j++) {
			const unsigned differs = a[i - 1] != b[j - 1];
			unsigned best = MIN(d[i - 1][j], d[i][j - 1]) + 1;

			best = MIN(best, d[i - 1][j - 1] + differs);
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
				best = MIN(best, d[i - 2][j - 2] + 1);
			d[i][j] = best;
		}
	return d[n][m];
}

const char *word_near(const char *word, const char *const *list)
{
	const char *best = NULL;
	unsigned best_distance = (unsigned)strlen(word) / 3 + 2;

	for (size_t i = 0; list[i]; i++) {
		const unsigned d = word_distance(word, list[i]);

		if (d < best_distance && d < strlen(list[i])) {
			best_distance = d;
			best = list[i];
		}
	}
	return best;
}

/* Option lists as getopt_long wants them, "help" added. */
struct getopt_lists {
	struct option longs[CMD_OPTIONS_MAX + 2];
	char shorts[2 + 2 * CMD_OPTIONS_MAX + 2];
};
enum { OPTION_HELP = 0x1000 };

static void getopt_lists_fill(const struct command *cmd, struct getopt_lists *lists)
{
	size_t n = 0, s = 0;

	lists->shorts[s++] = ':';
	for (const struct cmd_option *o = cmd->options; o->id; o++) {
		ASSERT(n < CMD_OPTIONS_MAX);
		if (o->name)
			lists->longs[n++] = (struct option){
			        o->name, o->arg ? required_argument : no_argument, NULL, o->id};
		if (o->id < 0x100) {
			lists->shorts[s++] = (char)o->id;
			if (o->arg)
				lists->shorts[s++] = ':';
		}
	}
	lists->longs[n++] = (struct option){"help", no_argument, NULL, OPTION_HELP};
	lists->longs[n] = (struct option){0};
	lists->shorts[s] = '\0';
}

static void report_unknown(const struct command *cmd, const char *word)
{
	const char *names[CMD_OPTIONS_MAX + 2];
	size_t n = 0;

	for (const struct cmd_option *o = cmd->options; o->id; o++)
		if (o->name)
			names[n++] = o->name;
	names[n++] = "help";
	names[n] = NULL;
	const char *near = word_near(word, names);
	if (near)
		cmd_misused(cmd, "unknown option '--%s', did you mean '--%s'?", word, near);
	else
		cmd_misused(cmd, "unknown option '--%s'", word);
}

static void report_mistake(const struct command *cmd, int c, char **argv)
{
	const char *arg = argv[optind - 1];
	const bool is_long = optopt == 0 || optopt >= 0x100 || !strncmp(arg, "--", 2);
	char word[64];

	if (!is_long) {
		cmd_misused(cmd,
		        c == ':' ? "option '-%c' needs an argument" : "unknown option '-%c'",
		        optopt);
		return;
	}
	arg += strspn(arg, "-");
	snprintf(word, sizeof(word), "%.*s", (int)strcspn(arg, "="), arg);
	if (c == ':')
		cmd_misused(cmd, "option '--%s' needs an argument", word);
	else if (optopt != 0)
		cmd_misused(cmd, "option '--%s' takes no argument", word);
	else
		report_unknown(cmd, word);
}

int cmd_option_next(const struct command *cmd, int argc, char **argv)
{
	struct getopt_lists lists;

	getopt_lists_fill(cmd, &lists);
	opterr = 0;
	optopt = 0;
	const int c = getopt_long(argc, argv, lists.shorts, lists.longs, NULL);
	if (c == -1)
		return 0;
	if (c == OPTION_HELP) {
		cmd_help_print(cmd);
		exit(cmd_finish(WEIR_EXIT_OK));
	}
	if (c == '?' || c == ':') {
		report_mistake(cmd, c, argv);
		return -1;
	}
	return c;
}

int cmd_args_check(const struct command *cmd, int argc, char **argv, const char *const *names,
        int min, int max)
{
	const int n = argc - optind;

	if (n < min)
		return cmd_misused(cmd, "%s: missing %s", cmd->name, names[n]);
	if (max >= 0 && n > max)
		return cmd_misused(
		        cmd, "%s: unexpected argument '%s'", cmd->name, argv[optind + max]);
	return 0;
}

int cmd_finish(int code)
{
	if (fflush(stdout) == 0 && !ferror(stdout))
		return code;
	return cmd_fail(WEIR_EXIT_FAILED, "cannot write the output: %m");
}

void cmd_print_json(const json_t *json)
{
	json_dumpf(json, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
	putchar('\n');
}

/* The command of a table that a word names; NULL, reported: prefix is what came before. */
static const struct command *word_find(
        const struct command *const *table, const char *prefix, const char *word)
{
	const char *names[CMD_GROUP_MAX + 1] = {0};

	for (size_t i = 0; table[i]; i++) {
		ASSERT(i < CMD_GROUP_MAX);
		names[i] = command_word(table[i]);
		if (!strcmp(names[i], word))
			return table[i];
	}
	const char *near = word_near(word, names), *space = *prefix ? " " : "";
	const int len = (int)strlen(prefix) - (*prefix ? 1 : 0); /* it ends in a blank */
	if (near)
		cmd_fail(WEIR_EXIT_USAGE,
		        "unknown command '%s%s', did you mean '%s%s'? (see 'weir help%s%.*s')",
		        prefix, word, prefix, near, space, len, prefix);
	else
		cmd_fail(WEIR_EXIT_USAGE, "unknown command '%s%s' (see 'weir help%s%.*s')", prefix,
		        word, space, len, prefix);
	return NULL;
}

/* argv[0] is the group's name. */
static int run_group(const struct command *group, int argc, char **argv)
{
	char prefix[32];

	if (argc < 2)
		return cmd_misused(group, "%s: missing COMMAND", group->name);
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
		cmd_help_print(group);
		return WEIR_EXIT_OK;
	}
	if (argv[1][0] == '-')
		return cmd_misused(group, "unknown option '%s'", argv[1]);
	snprintf(prefix, sizeof(prefix), "%s ", group->name);
	const struct command *cmd = word_find(group->group, prefix, argv[1]);
	return cmd ? cmd->run(cmd, argc - 1, argv + 1) : WEIR_EXIT_USAGE;
}

static int run_subcommand(int argc, char **argv)
{
	const struct command *cmd = word_find(commands, "", argv[1]);

	if (!cmd)
		return WEIR_EXIT_USAGE;
	return cmd->group ? run_group(cmd, argc - 1, argv + 1) : cmd->run(cmd, argc - 1, argv + 1);
}

int command_main(int argc, char **argv)
{
	const char *slash = argc > 0 ? strrchr(argv[0], '/') : NULL;
	const char *program = slash ? slash + 1 : argc > 0 ? argv[0] : "weir";
	const struct command *cmd = table_find(programs, program);

	if (cmd)
		return cmd_finish(cmd->run(cmd, argc, argv));
	if (argc < 2)
		return cmd_fail(WEIR_EXIT_USAGE, "no command given (see 'weir help')");
	if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-V")) {
		printf("weir %s\n", WEIR_VERSION);
		return cmd_finish(WEIR_EXIT_OK);
	}
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))
		argv[1] = (char *)"help";
	if (!strcmp(argv[1], PROBE_WORKER))
		return discover_worker_main(argc - 1, argv + 1);
	if (argv[1][0] == '-')
		return cmd_fail(WEIR_EXIT_USAGE, "unknown option '%s' (see 'weir help')", argv[1]);
	return cmd_finish(run_subcommand(argc, argv));
}

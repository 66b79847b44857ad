/*
 * help.c - "weir help", "weir help CMD", "weir CMD --help"
 *
 * Printed from the table of commands alone, to stdout: help was asked for.
 */
#include <stdio.h>
#include <string.h>

#include "tools/cmd.h"

static void option_print(const struct cmd_option *o)
{
	char left[64];
	int n = 0;

	if (o->id < 0x100)
		n = snprintf(left, sizeof(left), "-%c%s", o->id, o->name ? ", " : "");
	if (o->name)
		n += snprintf(left + n, sizeof(left) - (size_t)n, "--%s", o->name);
	if (o->arg)
		snprintf(left + n, sizeof(left) - (size_t)n, " %s", o->arg);
	if (strlen(left) > 24)
		printf("  %s\n  %-24s %s\n", left, "", o->help);
	else
		printf("  %-24s %s\n", left, o->help);
}

static bool is_program(const struct command *cmd)
{
	return strchr(cmd->name, '.') != NULL;
}

static void list_print(const struct command *const *table)
{
	int width = 8;

	for (size_t i = 0; table[i]; i++)
		width = MAX(width, (int)strlen(table[i]->name));
	for (size_t i = 0; table[i]; i++)
		printf("  %-*s  %s\n", width, table[i]->name, table[i]->summary);
}

void cmd_help_print(const struct command *cmd)
{
	printf("usage: %s%s %s\n\n%s.\n", is_program(cmd) ? "" : "weir ", cmd->name, cmd->synopsis,
	        cmd->summary);
	if (cmd->details)
		printf("\n%s\n", cmd->details);
	if (cmd->group) {
		printf("\nCommands:\n");
		list_print(cmd->group);
		printf("\nMore: weir help %s COMMAND, man weir-%s\n", cmd->name, cmd->name);
		return;
	}
	printf("\nOptions:\n");
	for (const struct cmd_option *o = cmd->options; o->id; o++)
		if (o->help)
			option_print(o);
	printf("  %-24s %s\n", "--help", "print this");
	if (is_program(cmd))
		printf("\nMore: man %s\n", cmd->name);
	else
		printf("\nMore: man weir-%.*s\n", (int)strcspn(cmd->name, " "), cmd->name);
}

static void commands_print(void)
{
	printf("usage: weir COMMAND [ARGUMENTS]\n\n"
	       "A filesystem for VM images: deduplicated, compressed, crash-safe.\n\nCommands:\n");
	list_print(commands);
	printf("\nA TARGET is a datastore directory, a mount point, or a path inside a mount.\n"
	       "A SIZE is in bytes, or has a suffix: 512M, 4G, 1T (powers of 1024).\n\n"
	       "More: weir help COMMAND, man weir\n");
}

static int help_run(const struct command *cmd, int argc, char **argv)
{
	static const char *const args[] = {"COMMAND", "COMMAND"};
	char name[64];

	optind = 1;
	if (cmd_option_next(cmd, argc, argv) < 0 || cmd_args_check(cmd, argc, argv, args, 0, 2))
		return WEIR_EXIT_USAGE;
	if (optind == argc) {
		commands_print();
		return WEIR_EXIT_OK;
	}
	snprintf(name, sizeof(name), "%s%s%s", argv[optind], optind + 1 < argc ? " " : "",
	        optind + 1 < argc ? argv[optind + 1] : "");
	const struct command *about = command_find(name);
	if (!about)
		return cmd_fail(WEIR_EXIT_USAGE,
		        "no help on '%s': there is no such command (see 'weir help')", name);
	cmd_help_print(about);
	return WEIR_EXIT_OK;
}

static const struct cmd_option help_options[] = {{0}};

const struct command cmd_help = {
        .name = "help",
        .synopsis = "[COMMAND]",
        .summary = "Explain a command",
        .options = help_options,
        .run = help_run,
};

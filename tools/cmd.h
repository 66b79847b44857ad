/*
 * cmd.h - the table of commands, their options, and how each of them fails
 *
 * Each command is one struct command: its option list is what getopt_long parses, what "weir help
 * CMD" prints and what a misspelt option is compared with, so the three cannot disagree.
 *
 * Exit codes, of all commands (also in weir(8)); those of check are fsck's:
 *	 0  done; check: clean
 *	 1  check: damage was found, all of it is repaired
 *	 4  check: damage is left
 *	 8  failed, with a message on stderr
 *	16  wrong usage
 *	32  mount: not mounted
 */
#pragma once

#include <getopt.h>
#include <jansson.h>

#include "base/errmsg.h"

enum weir_exit {
	WEIR_EXIT_OK = 0,
	WEIR_EXIT_REPAIRED = 1,
	WEIR_EXIT_DAMAGED = 4,
	WEIR_EXIT_FAILED = 8,
	WEIR_EXIT_USAGE = 16,
	WEIR_EXIT_NOT_MOUNTED = 32,
};

#define CMD_OPTIONS_MAX 24

struct cmd_option {
	int id;           /* what cmd_option_next returns; a letter is also the short option */
	const char *name; /* long option; NULL when there is only the letter */
	const char *arg;  /* name of its argument; NULL: takes none */
	const char *help; /* NULL: accepted, not listed */
};

/* Of groups, and of commands that have --json and no other. */
extern const struct cmd_option cmd_no_options[], cmd_json_option[];

struct command {
	/* "create", or the name of the program: "mount.weir", or of one of a group: "filter list" */
	const char *name;
	const char *synopsis;             /* after the name: "DIR [--log-size SIZE]" */
	const char *summary;              /* one line */
	const char *details;              /* paragraphs of "weir help NAME" */
	const struct cmd_option *options; /* ends with an id of 0 */
	int (*run)(const struct command *cmd, int argc, char **argv);
	/* Commands of its own ("filter" has "filter list"), ended by NULL; then it has no run(). */
	const struct command *const *group;
};

extern const struct command cmd_create, cmd_mount, cmd_umount, cmd_status, cmd_stats, cmd_images,
        cmd_check, cmd_gc, cmd_snapshot, cmd_clone, cmd_diff, cmd_export, cmd_import, cmd_send,
        cmd_receive, cmd_filter, cmd_policy, cmd_audit, cmd_key, cmd_analytics, cmd_discover,
        cmd_help;
/* The same under the names that mount(8), mkfs(8) and fsck(8) call. */
extern const struct command cmd_mkfs, cmd_mount_helper, cmd_fsck;

/* All subcommands, ended by NULL, in the order of the help. */
extern const struct command *const commands[];
/* By name, those for program names and of groups included; NULL when there is none. */
const struct command *command_find(const char *name);
/* The last word of a command's name: what it is called in its group. */
const char *command_word(const struct command *cmd);
/* Runs what argv asks for: by argv[0], or by the first argument. */
int command_main(int argc, char **argv);

/* Prints "weir: ..." to stderr and returns code. */
int cmd_fail(enum weir_exit code, const char *fmt, ...) PRINTF(2, 3);
/* One line: the problem, and where the help is.  Returns WEIR_EXIT_USAGE. */
int cmd_misused(const struct command *cmd, const char *fmt, ...) PRINTF(2, 3);

/*
 * Walks the options.  Returns an option's id, with its argument in optarg; 0 at the end (optind is
 * then the first argument that is no option); -1 after a mistake, which has been reported.
 * --help is answered here and exits.
 */
int cmd_option_next(const struct command *cmd, int argc, char **argv);
/*
 * Checks the number of arguments left: from min to max, named in a message by names[] ("DIR").
 * 0, or WEIR_EXIT_USAGE, reported.
 */
int cmd_args_check(const struct command *cmd, int argc, char **argv, const char *const *names,
        int min, int max) MUST_CHECK;

/* Help of one command, to stdout. */
void cmd_help_print(const struct command *cmd);
/* The entry of list (ended by NULL) that word is probably meant to be, or NULL. */
const char *word_near(const char *word, const char *const *list);

/* Flushes stdout; WEIR_EXIT_FAILED, reported, when what was printed did not arrive. */
int cmd_finish(int code);
/* Prints a JSON document to stdout. */
void cmd_print_json(const json_t *json);

/*
 * filter.h - what the commands about filters share: their options, their request, their output
 */
#pragma once

#include "tools/target.h"

struct filter_options {
	bool as_json, force, recursive, wait;
	const char *image; /* --image: path in a datastore that is not mounted; NULL: not given */
};
/*
 * Reads the options that cmd's list has; then argv[optind] is the first argument.  0, or
 * WEIR_EXIT_USAGE, reported.
 */
int filter_options_read(const struct command *cmd, int argc, char **argv,
        struct filter_options *ret_opt) MUST_CHECK;

/* The same, and then the arguments: from min to max, as cmd_args_check. */
int filter_args_read(const struct command *cmd, int argc, char **argv, const char *const *names,
        int min, int max, struct filter_options *ret_opt) MUST_CHECK;

/* A request to be filled in with what a command line says. */
struct filter_call {
	struct target_query q; /* first; q.arg points to the call */
	const struct filter_options *opt;
	char **argv; /* what comes after TARGET */
	int argc;
	const char *list_key; /* the arguments go here, as a list; NULL: they are in the request */
	char *target;         /* path in the mount: owned; set once the target is known */
};
/* Asks about argv[0], prints.  Owns call->q.request. */
int filter_call_run(struct filter_call *call, const char *target, target_print_fn *print);

/* "a/b.raw", or "the datastore": for messages and titles. */
const char *filter_target_name(char *buf, size_t len, const json_t *json);
/* "changed" and "failed" lists of an answer; verb: "attached".  Used as target_print_fn's body. */
void filter_changes_print(const json_t *json, const char *verb);
/* Reports that there is no such type, with one that is probably meant; returns WEIR_EXIT_FAILED. */
int filter_type_unknown(const char *name);
/* WEIR_EXIT_FAILED when something is in the "failed" list. */
extern int filter_changes_code;
/* One stage's settings on a line, those that were given: "iops=1000 group=web". */
char *filter_settings_line(const json_t *stage, char *buf, size_t len);

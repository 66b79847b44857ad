/*
 * create.c - "weir create" and "mkfs.weir"
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fs/datastore.h"
#include "store/ilog.h"
#include "tools/cmd.h"
#include "tools/print.h"
#include "tools/size-option.h"

#define INDEX_BYTES_MIN (1ull << 20)
#define INDEX_BYTES_MAX (1ull << 40)

enum { OPTION_INDEX = 0x100, OPTION_LOG };

static const struct cmd_option create_options[] = {
        {OPTION_INDEX, "index-memory", "SIZE", "RAM of the dedupe index of a mount (1M..1T)"},
        {OPTION_LOG, "log-size", "SIZE", "size of the intent log (16M..64G)"},
        {0},
};

static int print_made(const char *dir)
{
	struct datastore_options opt = {.read_only = true};
	struct datastore *ds = NULL;
	struct errmsg em = {0};
	struct meta_info info;
	char a[TEXT_LEN];
	uint64_t log_bytes = 0, used_bytes = 0;
	struct store_stats st;

	if (datastore_open(dir, &opt, NULL, NULL, &ds, &em) < 0)
		return cmd_fail(WEIR_EXIT_FAILED, "%s", em.text);
	const int r = meta_info_get(ds->meta, &info);
	store_stats_get(ds->store, &st);
	log_bytes = st.log_bytes;
	used_bytes = st.index_limit_bytes;
	if (datastore_close(ds) < 0 || r < 0)
		return cmd_fail(WEIR_EXIT_FAILED, "cannot read the new datastore '%s' back", dir);
	printf("created datastore '%s'\n", dir);
	printf("  intent log    %s\n", text_size(a, log_bytes));
	printf("  dedupe index  %s of RAM when mounted\n", text_size(a, used_bytes));
	printf("next: weir mount %s MOUNTPOINT\n", dir);
	return WEIR_EXIT_OK;
}

static int create_run(const struct command *cmd, int argc, char **argv)
{
	static const char *const args[] = {"DIR"};
	struct datastore_create_options opt = {0};
	struct errmsg em = {0};
	int id;

	while ((id = cmd_option_next(cmd, argc, argv)) > 0)
		if (id == OPTION_INDEX) {
			if (size_option_parse(cmd, "--index-memory", optarg, INDEX_BYTES_MIN,
			            INDEX_BYTES_MAX, &opt.index_bytes))
				return WEIR_EXIT_USAGE;
		} else if (size_option_parse(cmd, "--log-size", optarg, ILOG_BYTES_MIN,
		                   ILOG_BYTES_MAX, &opt.log_bytes)) {
			return WEIR_EXIT_USAGE;
		}
	if (id < 0 || cmd_args_check(cmd, argc, argv, args, 1, 1))
		return WEIR_EXIT_USAGE;
	const char *dir = argv[optind];
	const int r = datastore_create(dir, &opt, &em);
	if (r < 0)
		return cmd_fail(WEIR_EXIT_FAILED, "%s", em.text[0] ? em.text : strerror(-r));
	return print_made(dir);
}

#define CREATE_SYNOPSIS "DIR [--index-memory SIZE] [--log-size SIZE]"
#define CREATE_DETAILS                                                                             \
	"DIR is made if it does not exist; a directory that is not empty is refused.\n"            \
	"What is stored takes space as it is written; only the intent log is allocated now."

const struct command cmd_create = {
        .name = "create",
        .synopsis = CREATE_SYNOPSIS,
        .summary = "Make a datastore in an empty directory",
        .details = CREATE_DETAILS,
        .options = create_options,
        .run = create_run,
};

const struct command cmd_mkfs = {
        .name = "mkfs.weir",
        .synopsis = CREATE_SYNOPSIS,
        .summary = "Make a datastore in an empty directory",
        .details = CREATE_DETAILS,
        .options = create_options,
        .run = create_run,
};

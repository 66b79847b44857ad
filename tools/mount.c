/*
 * mount.c - "weir mount", and "mount.weir" as mount(8) calls it
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "tools/cmd.h"
#include "tools/mount-options.h"

#define MOUNT_OPTIONS_HELP                                                                         \
	"Options for -o, separated by commas:\n"                                                   \
	"  overlay=SIZE  limit of dirty data in RAM\n"                                             \
	"  cache=SIZE    chunk cache\n"                                                            \
	"  index=SIZE    dedupe index\n"                                                           \
	"  map=SIZE      cache of image maps\n"                                                    \
	"  threads=N     commit workers (one a core)\n"                                            \
	"  txg=SECONDS   commit at least this often while something is dirty\n"                    \
	"  key=NAME:FILE unlock this key with a key file; may be repeated\n"                       \
	"  ro            write nothing, not even to recover\n"                                     \
	"  allow_other   let other users in, with permission checks\n"                             \
	"  default_permissions, allow_root, noatime, nosuid, nodev, noexec, sync, max_read=N, "    \
	"...\n"                                                                                    \
	"                as in mount.fuse3(8); x-*, nofail, noauto, _netdev, user are mount(8)'s"

static const struct cmd_option mount_options[] = {
        {'f', "foreground", NULL, "stay in the foreground until unmounted"},
        {'o', "options", "OPTIONS", "mount options, separated by commas"},
        {0},
};

static int mount_now(struct mount_list *list, const char *dir, const char *mountpoint)
{
	struct errmsg em = {0};

	list->opt.dir = dir;
	list->opt.mountpoint = mountpoint;
	const int r = daemon_mount(&list->opt, &em);
	if (r < 0)
		return cmd_fail(WEIR_EXIT_NOT_MOUNTED, "%s", em.text[0] ? em.text : strerror(-r));
	return WEIR_EXIT_OK;
}

static int options_take(const struct command *cmd, struct mount_list *list, const char *text)
{
	struct errmsg em = {0};

	if (mount_list_parse(list, text, &em) < 0)
		return cmd_misused(cmd, "%s", em.text);
	return 0;
}

static int mount_run(const struct command *cmd, int argc, char **argv)
{
	static const char *const args[] = {"DIR", "MOUNTPOINT"};
	struct mount_list list = {0};
	int id, code = 0;

	while (code == 0 && (id = cmd_option_next(cmd, argc, argv)) != 0)
		if (id == 'f')
			list.opt.foreground = true;
		else if (id == 'o')
			code = options_take(cmd, &list, optarg);
		else
			code = WEIR_EXIT_USAGE;
	if (code == 0)
		code = cmd_args_check(cmd, argc, argv, args, 2, 2);
	if (code == 0)
		code = mount_now(&list, argv[optind], argv[optind + 1]);
	mount_list_release(&list);
	return code;
}

const struct command cmd_mount = {
        .name = "mount",
        .synopsis = "DIR MOUNTPOINT [-f] [-o OPTIONS]",
        .summary = "Mount a datastore; returns when it is usable",
        .details = MOUNT_OPTIONS_HELP,
        .options = mount_options,
        .run = mount_run,
};

static const struct cmd_option helper_options[] = {
        {'o', NULL, "OPTIONS", "mount options, separated by commas"},
        {'s', NULL, NULL, "drop unknown mount options"},
        {'f', NULL, NULL, "check the arguments, mount nothing"},
        {'n', NULL, NULL, "ignored: weir writes no mtab"},
        {'v', NULL, NULL, "say what is mounted"},
        {'N', NULL, "NAMESPACE", "refused: enter the namespace first"},
        {'t', NULL, "TYPE", "ignored: the type is weir"},
        {0},
};

struct helper_args {
	const char *options; /* parsed last: -s may follow */
	bool sloppy, fake, verbose;
};

static int helper_args_parse(
        const struct command *cmd, int argc, char **argv, struct helper_args *a)
{
	static const char *const args[] = {"DIR", "MOUNTPOINT"};
	int id;

	while ((id = cmd_option_next(cmd, argc, argv)) > 0)
		switch (id) {
		case 'o':
			a->options = optarg;
			break;
		case 's':
			a->sloppy = true;
			break;
		case 'f':
			a->fake = true;
			break;
		case 'v':
			a->verbose = true;
			break;
		case 'N':
			return cmd_misused(cmd,
			        "cannot mount in namespace '%s' from outside: use nsenter(1)",
			        optarg);
		default:
			break;
		}
	if (id < 0 || cmd_args_check(cmd, argc, argv, args, 2, 2))
		return WEIR_EXIT_USAGE;
	return 0;
}

static int helper_run(const struct command *cmd, int argc, char **argv)
{
	struct helper_args a = {.options = ""};
	struct mount_list list = {0};
	int code = helper_args_parse(cmd, argc, argv, &a);

	list.sloppy = a.sloppy;
	if (code == 0)
		code = options_take(cmd, &list, a.options);
	if (code == 0 && !a.fake)
		code = mount_now(&list, argv[optind], argv[optind + 1]);
	if (code == 0 && a.verbose)
		printf("mount.weir: %s on %s\n", argv[optind], argv[optind + 1]);
	mount_list_release(&list);
	return code;
}

const struct command cmd_mount_helper = {
        .name = "mount.weir",
        .synopsis = "DIR MOUNTPOINT [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]",
        .summary = "Mount a datastore for mount(8)",
        .details = MOUNT_OPTIONS_HELP,
        .options = helper_options,
        .run = helper_run,
};

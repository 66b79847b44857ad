/*
 * clone.c - "weir clone": an image made from another one, or from a snapshot of it
 */
#include <errno.h>
#include <libgen.h>
#include <stdio.h>
#include <string.h>

#include "fs/control/text.h"
#include "tools/image-name.h"
#include "tools/print.h"
#include "tools/target.h"

static const struct cmd_option clone_options[] = {
        {'j', "json", NULL, "print JSON"},
        {0},
};

struct clone_call {
	struct target_query q;
	const char *dest;
};

/* The directory that is to hold it, and the name in it: as a path in the mount. */
static int dest_find(const struct target *t, const char *dest, json_t *request)
{
	CLEANUP(free_ptr) char *dir_copy = strdup(dest);
	CLEANUP(free_ptr) char *base_copy = strdup(dest);
	CLEANUP(free_ptr) char *path = NULL;
	struct target dir;

	if (!dir_copy || !base_copy)
		return cmd_fail(WEIR_EXIT_FAILED, "out of memory");
	int code = target_find(&dir, dirname(dir_copy));
	if (code == 0 && (!dir.mountpoint || strcmp(dir.dir, t->dir)))
		code = cmd_fail(WEIR_EXIT_FAILED,
		        "cannot clone to '%s': not in the mount of datastore '%s'", dest, t->dir);
	if (code == 0) {
		const char *sub = dir.sub + strspn(dir.sub, "/");
		if (asprintf(&path, "%s%s%s", sub, *sub ? "/" : "", basename(base_copy)) < 0)
			path = NULL;
		json_object_set_new(request, "other", text_json(path ? path : ""));
	}
	target_release(&dir);
	return code;
}

static int clone_fill(void *arg, const struct target *t, json_t *request)
{
	const struct clone_call *c = arg;
	const char *sub = t->sub + strspn(t->sub, "/");

	json_object_set_new(request, "target", text_json(sub));
	return dest_find(t, c->dest, request);
}

static void clone_print(const struct target *t, const json_t *json)
{
	char target_name[512], source[512];

	printf("%s: cloned from %s\n",
	        text_name(target_name, sizeof(target_name), json_text(json, "target")),
	        text_name(source, sizeof(source), json_text(json, "source")));
}

static int clone_run(const struct command *cmd, int argc, char **argv)
{
	static const char *const args[] = {"SOURCE", "DEST"};
	struct clone_call call = {.q = {.doing = "cloning", .verb = "clone images of"}};
	struct image_name source;
	bool as_json = false;
	int id;

	while ((id = cmd_option_next(cmd, argc, argv)) > 0)
		as_json = true;
	if (id < 0 || cmd_args_check(cmd, argc, argv, args, 2, 2))
		return WEIR_EXIT_USAGE;
	if (image_name_parse(argv[optind], &source) < 0)
		return cmd_fail(WEIR_EXIT_FAILED, "out of memory");
	call.dest = argv[optind + 1];
	call.q.arg = &call;
	call.q.request = json_pack("{s:s}", "op", "clone");
	call.q.gone = source.name != NULL;
	if (source.name)
		json_object_set_new(call.q.request, "name", text_json(source.name));
	const int code =
	        target_ask_and_print(&call.q, source.path, as_json, clone_fill, clone_print);
	image_name_release(&source);
	return code;
}

const struct command cmd_clone = {
        .name = "clone",
        .synopsis = "SOURCE[@NAME] DEST [--json]",
        .summary = "Make an image from another one, or from a snapshot of it, at once",
        .details =
                "DEST is a new file in the same mount, with the mode, owner, times and filters of "
                "SOURCE.\n"
                "It shares its data with SOURCE until either is changed, and does not depend on "
                "it.",
        .options = clone_options,
        .run = clone_run,
};

/*
 * images.c - "weir images": the images with their sizes
 */
#include <stdio.h>

#include "fs/control/report.h"
#include "tools/print.h"
#include "tools/target.h"

static int images_report(void *arg, struct datastore *ds, struct progress *progress,
        json_t **ret_json, struct errmsg *em)
{
	return report_images(ds, progress_update, progress, ret_json, em);
}

static void images_print(const struct target *target, const json_t *json)
{
	struct table t = {.align = "rrrrl"};
	char buf[TEXT_LEN], name[512];
	const json_t *image;
	size_t i;

	table_add(&t, "SIZE");
	table_add(&t, "ALLOCATED");
	table_add(&t, "UNIQUE");
	table_add(&t, "SHARED");
	table_add(&t, "IMAGE");
	json_array_foreach(json_object_get(json, "images"), i, image)
	{
		table_add(&t, text_size(buf, json_u64(image, "size_bytes")));
		table_add(&t, text_size(buf, json_u64(image, "allocated_bytes")));
		table_add(&t, text_size(buf, json_u64(image, "unique_bytes")));
		table_add(&t, text_size(buf, json_u64(image, "shared_bytes")));
		table_add(&t, text_name(name, sizeof(name), json_text(image, "path")));
	}
	table_print(&t, stdout);
	table_release(&t);
}

static int images_run(const struct command *cmd, int argc, char **argv)
{
	struct target_query q = {
	        .request = json_pack("{s:s}", "op", "images"),
	        .doing = "counting shared chunks",
	        .verb = "read",
	        .report = images_report,
	        .read_only = true,
	};
	return target_command_run(cmd, argc, argv, &q, images_print);
}

const struct command cmd_images = {
        .name = "images",
        .synopsis = "TARGET [--json]",
        .summary = "List the images: size, allocated, unique and shared bytes",
        .details = "Unique bytes are in chunks that only this image refers to: deleting it frees "
                   "them\n"
                   "(less compression).  Shared bytes are in chunks that other images have too.",
        .options = cmd_json_option,
        .run = images_run,
};

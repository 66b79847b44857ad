/*
 * stats.c - "weir stats": what is stored, and what was saved
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/control/report.h"
#include "tools/print.h"
#include "tools/target.h"

/* Images asked for, as paths relative to the datastore's top. */
struct stats_images {
	const char *const *paths;
	size_t n;
};

static int stats_report(void *arg, struct datastore *ds, struct progress *progress,
        json_t **ret_json, struct errmsg *em)
{
	const struct stats_images *images = arg;

	return report_stats(ds, images->n ? images->paths : NULL, images->n, progress_update,
	        progress, ret_json, em);
}

/* Path of an image under the datastore's top: as given, or inside the mount. */
static const char *image_path(const struct target *t, const char *arg)
{
	const size_t len = t->mountpoint ? strlen(t->mountpoint) : 0;

	if (len && !strncmp(arg, t->mountpoint, len) && arg[len] == '/')
		arg += len;
	return arg + strspn(arg, "/");
}

static json_t *stats_request(const struct stats_images *images)
{
	json_t *request = json_pack("{s:s}", "op", "stats");
	json_t *list = json_array();

	for (size_t i = 0; i < images->n; i++)
		if (json_array_append_new(list, json_string(images->paths[i])) < 0) {
			json_decref(list);
			json_decref(request);
			return NULL;
		}
	if (images->n && json_object_set(request, "images", list) < 0) {
		json_decref(request);
		request = NULL;
	}
	json_decref(list);
	return request;
}

static void add_size(struct table *t, const char *label, uint64_t bytes, const char *note)
{
	char a[TEXT_LEN];

	table_add(t, label);
	table_add(t, text_size(a, bytes));
	table_add(t, note);
}

static void add_ratio(struct table *t, const char *label, double ratio, const char *note)
{
	char a[TEXT_LEN];

	table_add(t, label);
	table_add(t, text_ratio(a, ratio));
	table_add(t, note);
}

static void print_total(const json_t *total, const json_t *receiving)
{
	struct table t = {.align = "lrl"};
	char a[TEXT_LEN], note[128];

	add_size(&t, "logical", json_u64(total, "logical_bytes"), "sizes of all images");
	add_size(&t, "written", json_u64(total, "written_bytes"),
	        "data, not zero, before reduction");
	add_size(&t, "zero", json_u64(total, "zero_bytes"), "allocated, stored as nothing");
	add_size(&t, "hole", json_u64(total, "hole_bytes"), "never written");
	if (json_u64(receiving, "images"))
		add_size(&t, "receiving", json_u64(receiving, "allocated_bytes"),
		        "of these, of streams that are not complete (weir receive --list)");
	add_size(&t, "unique", json_u64(total, "unique_bytes"), "after dedupe");
	add_size(&t, "live", json_u64(total, "live_bytes"), "after compression");
	snprintf(note, sizeof(note), "%llu segments, %llu open, %s live",
	        (unsigned long long)json_u64(total, "segments"),
	        (unsigned long long)json_u64(total, "segments_open"),
	        text_share(a, json_num(total, "live_share")));
	add_size(&t, "stored", json_u64(total, "stored_bytes"), note);
	add_size(&t, "metadata", json_u64(total, "metadata_bytes"), "");
	add_ratio(&t, "dedupe", json_num(total, "dedupe_ratio"), "written / unique");
	add_ratio(&t, "compression", json_num(total, "compression_ratio"), "unique / live");
	add_ratio(&t, "total", json_num(total, "total_ratio"), "written / (stored + metadata)");
	table_print(&t, stdout);
	table_release(&t);
}

static void add_memory(struct table *t, const char *label, const json_t *memory, const char *key)
{
	char used[64], limit[64], a[TEXT_LEN];

	snprintf(used, sizeof(used), "%s_bytes", key);
	snprintf(limit, sizeof(limit), "%s_limit_bytes", key);
	table_add(t, label);
	table_add(t, text_size(a, json_u64(memory, used)));
	table_add(t, "of");
	table_add(t, text_size(a, json_u64(memory, limit)));
}

static void print_memory(const json_t *memory)
{
	struct table t = {.align = "lrlr"};

	if (!json_u64(memory, "cache_limit_bytes"))
		return;
	printf("\nMemory\n");
	add_memory(&t, "cache", memory, "cache");
	add_memory(&t, "index", memory, "index");
	add_memory(&t, "overlay", memory, "overlay");
	add_memory(&t, "map", memory, "map");
	table_print(&t, stdout);
	table_release(&t);
}

static void add_image(struct table *t, const json_t *image, bool exact)
{
	char a[TEXT_LEN], name[512];

	table_add(t, text_size(a, json_u64(image, "size_bytes")));
	table_add(t, text_size(a, json_u64(image, "written_bytes")));
	table_add(t, text_size(a, json_u64(image, "zero_bytes")));
	if (exact) {
		table_add(t, text_size(a, json_u64(image, "unique_bytes")));
		table_add(t, text_size(a, json_u64(image, "shared_bytes")));
	}
	table_add(t, text_name(name, sizeof(name), json_text(image, "path")));
}

static void print_images(const json_t *images)
{
	const bool exact =
	        json_is_integer(json_object_get(json_array_get(images, 0), "unique_bytes"));
	struct table t = {.align = exact ? "rrrrrl" : "rrrl"};
	const json_t *image;
	size_t i;

	if (json_array_size(images) == 0)
		return;
	putchar('\n');
	table_add(&t, "SIZE");
	table_add(&t, "WRITTEN");
	table_add(&t, "ZERO");
	if (exact) {
		table_add(&t, "UNIQUE");
		table_add(&t, "SHARED");
	}
	table_add(&t, "IMAGE");
	json_array_foreach(images, i, image) add_image(&t, image, exact);
	table_print(&t, stdout);
	table_release(&t);
}

static void stats_print(const struct target *target, const json_t *json)
{
	print_total(json_object_get(json, "total"), json_object_get(json, "receiving"));
	print_memory(json_object_get(json, "memory"));
	print_images(json_object_get(json, "images"));
}

static bool is_file(const char *path)
{
	struct stat st;
	return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

/* argv[0] is the target, n images follow; a target that is an image counts when n is 0. */
static int stats_ask(struct target *t, char **argv, size_t n, json_t **ret_json)
{
	CLEANUP(free_ptr) const char **paths = calloc(n + 1, sizeof(*paths));
	struct stats_images images = {.paths = paths, .n = n};

	if (!paths)
		return cmd_fail(WEIR_EXIT_FAILED, "out of memory");
	for (size_t i = 0; i < n; i++)
		paths[i] = image_path(t, argv[i + 1]);
	if (n == 0 && t->sub && *t->sub && is_file(argv[0])) {
		paths[0] = t->sub;
		images.n = 1;
	}
	struct target_query q = {
	        .request = stats_request(&images),
	        .doing = "counting chunks",
	        .verb = "read",
	        .report = stats_report,
	        .arg = &images,
	        .read_only = true,
	};
	return target_ask(t, &q, ret_json);
}

static int stats_run(const struct command *cmd, int argc, char **argv)
{
	static const char *const args[] = {"TARGET"};
	struct target t = {0};
	json_t *json = NULL;
	bool as_json = false;
	int id;

	while ((id = cmd_option_next(cmd, argc, argv)) > 0)
		as_json = true;
	if (id < 0 || cmd_args_check(cmd, argc, argv, args, 1, -1))
		return WEIR_EXIT_USAGE;
	int code = target_find(&t, argv[optind]);
	if (code == 0)
		code = stats_ask(&t, argv + optind, (size_t)(argc - optind - 1), &json);
	if (code == 0)
		target_print(&t, json, as_json, stats_print);
	target_release(&t);
	return code;
}

const struct command cmd_stats = {
        .name = "stats",
        .synopsis = "TARGET [IMAGE...] [--json]",
        .summary = "Show what is stored, and what dedupe and compression saved",
        .details = "IMAGE is a path below the top of the datastore, or inside its mount point: "
                   "only these\n"
                   "images are listed then, with exact counts of unique and shared bytes.  A "
                   "TARGET that is\n"
                   "an image inside a mount is taken as that IMAGE.",
        .options = cmd_json_option,
        .run = stats_run,
};

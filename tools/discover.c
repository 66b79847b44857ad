/*
 * discover.c - "weir discover": what is inside an image
 *
 * Works on any file or block device, in a mount or not, and needs no daemon.  It hands out bytes and
 * understands none of them: that does a process without rights (discover-worker.c), which could not
 * even open the path, for a mount is its user's alone.  Its answer is as little
 * trusted as the image: limited in length, parsed as JSON, and printed with control characters
 * made visible.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "stage/builtin/probe.h"
#include "tools/discover-worker.h"
#include "tools/print.h"
#include "tools/target.h"

enum { OPTION_PACKAGES = 'p' };

static const struct cmd_option discover_options[] = {
        {OPTION_PACKAGES, "packages", NULL, "list all packages"},
        {'j', "json", NULL, "print JSON"},
        {0},
};

static int image_open(const char *path, int *ret_fd, uint64_t *ret_size)
{
	struct stat st;
	/* O_NONBLOCK: a pipe must not make it wait. */
	const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return cmd_fail(WEIR_EXIT_FAILED, "cannot open '%s': %m", path);
	const off_t size = lseek(fd, 0, SEEK_END);
	if (fstat(fd, &st) < 0 || size < 0 || (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))) {
		close(fd);
		return cmd_fail(WEIR_EXIT_FAILED,
		        "cannot look into '%s': it is neither a file nor a block device", path);
	}
	*ret_fd = fd;
	*ret_size = (uint64_t)size;
	return 0;
}

static int image_read(void *arg, uint64_t off, void *buf, size_t len)
{
	return file_read_at(*(int *)arg, off, buf, len);
}

static int image_probe(const char *path, json_t **ret_json)
{
	int fd = -1;
	struct probe_source source = {.read = image_read, .arg = &fd};
	CLEANUP(free_ptr) char *text = NULL;
	struct errmsg em = {0};

	const int code = image_open(path, &fd, &source.size_bytes);
	if (code)
		return code;
	const int r = probe_run(&source, &text, &em);
	close(fd);
	if (r < 0)
		return cmd_fail(WEIR_EXIT_FAILED, "'%s': %s", path, em.text);
	json_t *json = json_loads(text, 0, NULL);
	if (!json_is_object(json)) {
		json_decref(json);
		return cmd_fail(WEIR_EXIT_FAILED, "'%s': the worker's answer is no JSON", path);
	}
	*ret_json = json;
	return 0;
}

/* --- for people --- */

static void add_name(struct table *t, const json_t *object, const char *key)
{
	char name[256];

	table_add(t, text_name(name, sizeof(name), json_text(object, key)));
}

static void add_content(struct table *t, const json_t *content)
{
	char a[TEXT_LEN];

	add_name(t, content, *json_text(content, "type") ? "type" : "usage");
	add_name(t, content, "label");
	add_name(t, content, "uuid");
	table_add(t, json_u64(content, "size_bytes") ? text_size(a, json_u64(content, "size_bytes"))
	                                             : "");
}

static void print_partitions(const json_t *list)
{
	struct table t = {.align = "rrrllllr"};
	static const char *const head[] = {
	        "", "OFFSET", "SIZE", "KIND", "CONTENT", "LABEL", "UUID", "FS SIZE"};
	char a[TEXT_LEN];
	const json_t *part;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(head); i++)
		table_add(&t, head[i]);
	json_array_foreach(list, i, part)
	{
		snprintf(a, sizeof(a), "%llu", (unsigned long long)json_u64(part, "number"));
		table_add(&t, a);
		table_add(&t, text_size(a, json_u64(part, "offset_bytes")));
		table_add(&t, text_size(a, json_u64(part, "size_bytes")));
		add_name(&t, part, *json_text(part, "type_name") ? "type_name" : "type");
		add_content(&t, json_object_get(part, "content"));
	}
	table_print(&t, stdout);
	table_release(&t);
}

static void print_whole(const json_t *json)
{
	const json_t *table = json_object_get(json, "table");
	const json_t *content = json_object_get(json, "content");
	char a[TEXT_LEN], name[256];

	printf("%s, ", text_size(a, json_u64(json, "size_bytes")));
	if (table)
		printf("%s partition table, id %s\n", json_text(table, "type"),
		        text_name(name, sizeof(name), json_text(table, "id")));
	else if (content)
		printf("no partition table\n");
	else
		printf("nothing that is known\n");
	if (json_array_size(json_object_get(json, "partitions")))
		print_partitions(json_object_get(json, "partitions"));
	if (!content)
		return;
	struct table t = {.align = "lllr"};
	static const char *const head[] = {"CONTENT", "LABEL", "UUID", "FS SIZE"};
	for (size_t i = 0; i < ARRAY_SIZE(head); i++)
		table_add(&t, head[i]);
	add_content(&t, content);
	table_print(&t, stdout);
	table_release(&t);
}

static void print_packages(const json_t *packages, bool list)
{
	char manager[64], name[256], version[256];
	const json_t *p;
	size_t i;

	text_name(manager, sizeof(manager), json_text(packages, "manager"));
	if (!json_is_true(json_object_get(packages, "readable"))) {
		printf("  packages of %s: %s\n", manager,
		        text_name(name, sizeof(name), json_text(packages, "why")));
		return;
	}
	printf("  %llu packages of %s%s\n", (unsigned long long)json_u64(packages, "count"),
	        manager, list ? "" : " (--packages lists them)");
	if (!list)
		return;
	json_array_foreach(json_object_get(packages, "list"), i, p)
	        printf("    %s %s\n", text_name(name, sizeof(name), json_text(p, "name")),
	                text_name(version, sizeof(version), json_text(p, "version")));
	if (!json_is_true(json_object_get(packages, "complete")))
		printf("    (the list is cut)\n");
}

static void print_system(const json_t *system, bool packages)
{
	char name[256], host[256];

	printf("\n%s", text_name(name, sizeof(name),
	                       *json_text(system, "pretty_name") ? json_text(system, "pretty_name")
	                       : *json_text(system, "name")      ? json_text(system, "name")
	                                                         : "unknown system"));
	if (*json_text(system, "hostname"))
		printf(", host '%s'", text_name(host, sizeof(host), json_text(system, "hostname")));
	if (json_u64(system, "partition"))
		printf(", on partition %llu", (unsigned long long)json_u64(system, "partition"));
	if (strcmp(json_text(system, "read_from"), "files"))
		printf(" (from %s)", text_name(host, sizeof(host), json_text(system, "read_from")));
	putchar('\n');
	if (json_object_get(system, "packages"))
		print_packages(json_object_get(system, "packages"), packages);
}

static void discover_print(const json_t *json, bool packages)
{
	const json_t *system;
	char why[256];
	size_t i;

	print_whole(json);
	if (*json_text(json, "why"))
		printf("%s\n", text_name(why, sizeof(why), json_text(json, "why")));
	json_array_foreach(json_object_get(json, "systems"), i, system)
	        print_system(system, packages);
	if (!json_is_true(
	            json_object_get(json_object_get(json, "sandbox"), "system_calls_filtered")))
		fprintf(stderr,
		        "weir: built without libseccomp: the image was read with limits and "
		        "without privileges, but without a filter of system calls\n");
}

static int discover_run(const struct command *cmd, int argc, char **argv)
{
	static const char *const args[] = {"IMAGE"};
	bool as_json = false, packages = false;
	json_t *json = NULL;
	int id;

	while ((id = cmd_option_next(cmd, argc, argv)) > 0) {
		if (id == OPTION_PACKAGES)
			packages = true;
		else
			as_json = true;
	}
	if (id < 0 || cmd_args_check(cmd, argc, argv, args, 1, 1))
		return WEIR_EXIT_USAGE;
	const int code = image_probe(argv[optind], &json);
	if (code)
		return code;
	if (as_json)
		cmd_print_json(json);
	else
		discover_print(json, packages);
	json_decref(json);
	return 0;
}

const struct command cmd_discover = {
        .name = "discover",
        .synopsis = "IMAGE [--packages] [--json]",
        .summary = "Show what is inside an image: partitions, filesystems, systems, packages",
        .details = "IMAGE is any file or block device; a datastore need not be mounted for it.\n"
                   "Nothing is mounted: a process without privileges reads the image.  Files are\n"
                   "read on ext2, ext3 and ext4; other filesystems are named.",
        .options = discover_options,
        .run = discover_run,
};

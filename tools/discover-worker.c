/*
 * discover-worker.c - the process that looks into an image, in its sandbox
 *
 * Started by probe_run() (stage/builtin/probe.h) with a socket to ask for bytes of the image.
 * It enters the sandbox before it has read a byte of the image, collects what it finds as JSON, and
 * sends it.  When that is too long, the lists of packages go (their counts stay).
 */
#include "tools/discover-worker.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "stage/builtin/probe.h"
#include "tools/sandbox.h"

#define MEMORY_MAX  (768ull << 20)
#define CPU_SECONDS 20u

json_t *discover_string(const char *text)
{
	json_t *s = json_string(text);

	if (s)
		return s;
	CLEANUP(free_ptr) char *copy = strdup(text);
	if (!copy)
		return NULL;
	for (char *c = copy; *c; c++)
		if (*c & 0x80)
			*c = '?';
	return json_string(copy);
}

void discover_set(json_t *object, const char *key, const char *text)
{
	if (text && *text)
		json_object_set_new(object, key, discover_string(text));
}

static void drop_packages(json_t *found)
{
	json_t *system;
	size_t i;

	json_array_foreach(json_object_get(found, "systems"), i, system)
	{
		json_t *packages = json_object_get(system, "packages");
		json_object_del(packages, "list");
		json_object_set_new(packages, "complete", json_false());
	}
}

static int answer(json_t *found)
{
	CLEANUP(free_ptr) char *json = json_dumps(found, JSON_COMPACT);

	if (json && strlen(json) > PROBE_RESULT_MAX) {
		free(json);
		drop_packages(found);
		json = json_dumps(found, JSON_COMPACT);
	}
	if (!json || strlen(json) > PROBE_RESULT_MAX)
		return -ENOMEM;
	return source_answer(json, strlen(json));
}

int discover_worker_main(int argc, char **argv)
{
	struct source source;
	struct sandbox_state state;

	if (argc != 2)
		return 2;
	const uint64_t size = strtoull(argv[1], NULL, 10);
	const struct sandbox_limits limits = {
	        .memory_bytes = MEMORY_MAX,
	        .cpu_seconds = CPU_SECONDS,
	        .file_bytes = size,
	        .fds = SOURCE_FD + 1,
	};
	if (source_open(&source, size) < 0 || sandbox_enter(&limits, &state) < 0)
		return 1;
	json_t *found = json_pack("{s:I, s:[], s:[], s:{s:b, s:b}}", "size_bytes", (json_int_t)size,
	        "partitions", "systems", "sandbox", "system_calls_filtered", state.seccomp,
	        "unprivileged", state.unprivileged);
	if (!found)
		return 1;
	discover_image(&source, found);
	return answer(found) < 0;
}

/*
 * gc.c - "weir gc": reclaim space now
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "tools/print.h"
#include "tools/target.h"

static int gc_report_fn(void *arg, struct datastore *ds, struct progress *progress,
        json_t **ret_json, struct errmsg *em)
{
	struct gc_report g = {0};
	const int r = store_gc(ds->store, true, progress_update, progress, &g);

	if (r < 0)
		return errmsg_set(
		        em, r, "cannot reclaim space in datastore '%s': %s", ds->dir, strerror(-r));
	json_t *json = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "segments_freed",
	        (json_int_t)g.segments_freed, "segments_rewritten",
	        (json_int_t)g.segments_rewritten, "freed_bytes", (json_int_t)g.freed_bytes,
	        "rewritten_bytes", (json_int_t)g.rewritten_bytes, "live_chunks",
	        (json_int_t)g.live_chunks, "dead_chunks", (json_int_t)g.dead_chunks, "nodes_freed",
	        (json_int_t)g.nodes_freed);
	if (!json)
		return errmsg_set(em, -ENOMEM, "out of memory");
	*ret_json = json;
	return 0;
}

static void gc_print(const struct target *target, const json_t *json)
{
	const uint64_t live = json_u64(json, "live_chunks"), dead = json_u64(json, "dead_chunks");
	char a[TEXT_LEN], b[TEXT_LEN], c[TEXT_LEN];

	printf("freed %s: %s dropped, %llu rewritten (%s written)\n",
	        text_size(a, json_u64(json, "freed_bytes")),
	        text_count(c, json_u64(json, "segments_freed"), "segment"),
	        (unsigned long long)json_u64(json, "segments_rewritten"),
	        text_size(b, json_u64(json, "rewritten_bytes")));
	if (live + dead)
		printf("live chunks: %llu of %llu (%s)\n", (unsigned long long)live,
		        (unsigned long long)(live + dead),
		        text_share(a, (double)live / (double)(live + dead)));
}

static int gc_run(const struct command *cmd, int argc, char **argv)
{
	struct target_query q = {
	        .request = json_pack("{s:s, s:b}", "op", "gc", "full", 1),
	        .doing = "reclaiming space",
	        .verb = "reclaim space in",
	        .report = gc_report_fn,
	};
	return target_command_run(cmd, argc, argv, &q, gc_print);
}

const struct command cmd_gc = {
        .name = "gc",
        .synopsis = "TARGET [--json]",
        .summary = "Give space of deleted and overwritten data back now",
        .details = "A mounted datastore does this by itself in the background; the command does "
                   "all of\n"
                   "it at once and reports.",
        .options = cmd_json_option,
        .run = gc_run,
};

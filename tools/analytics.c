/*
 * analytics.c - "weir analytics": what the guest of an image does
 *
 * Asks the daemon for the answers of the image's filter "analytics" (actions report, heatmap, mrc),
 * so the image must be in a mounted datastore and have the filter attached.  Pictures are written to
 * a new file beside the one named and renamed, so a failure leaves no half of one.
 */
#include <errno.h>
#include <fcntl.h>
#include <langinfo.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/heatmap.h"
#include "tools/print.h"
#include "tools/target.h"

#define MAP_LINES    24u
#define MAP_WIDTH    60u
#define HOTTEST_SHOW 8u

enum { OPTION_HEATMAP = 'm', OPTION_MRC = 'c', OPTION_RESET = 'r' };

static const struct cmd_option analytics_options[] = {
        {OPTION_HEATMAP, "heatmap", "FILE", "draw the heat map: .svg, .png, or - for the terminal"},
        {OPTION_MRC, "mrc", "FILE", "draw the miss-ratio curve: .svg"},
        {OPTION_RESET, "reset", NULL, "begin all numbers anew"},
        {'j', "json", NULL, "print JSON"},
        {0},
};

struct analytics_ask {
	const char *heatmap, *mrc; /* files; NULL: not asked for */
	bool json, reset;
};

static int not_mounted(void *arg, struct datastore *ds, struct progress *progress,
        json_t **ret_json, struct errmsg *em)
{
	return errmsg_set(em, -ENOTCONN,
	        "cannot read analytics of '%s': it is not mounted (weir mount)", (const char *)arg);
}

/* One action of the image's filter. */
static int ask(struct target *t, const char *image, const char *action, json_t **ret_json)
{
	struct target_query q = {
	        .request = json_pack("{s:s, s:s, s:s, s:s, s:[]}", "op", "filter-run", "target",
	                t->sub ? t->sub : "", "type", "analytics", "action", action, "args"),
	        .doing = "asking",
	        .verb = "ask",
	        .report = not_mounted,
	        .arg = (void *)image,
	        .read_only = true,
	};
	return target_ask(t, &q, ret_json);
}

/* --- text --- */

static void add_count(struct table *t, const char *label, const json_t *op)
{
	const json_t *l = json_object_get(op, "latency");
	static const char *const keys[] = {"mean_ns", "p50_ns", "p99_ns", "max_ns"};
	const uint64_t n = json_u64(op, "operations");
	char a[TEXT_LEN];

	table_add(t, label);
	snprintf(a, sizeof(a), "%llu", (unsigned long long)n);
	table_add(t, a);
	table_add(t, text_size(a, json_u64(op, "bytes")));
	table_add(t, n ? text_size(a, json_u64(op, "bytes") / n) : "-");
	for (unsigned i = 0; i < ARRAY_SIZE(keys); i++) {
		if (json_u64(l, "samples"))
			text_ns(a, json_u64(l, keys[i]));
		table_add(t, json_u64(l, "samples") ? a : "-");
	}
}

static void print_requests(const json_t *requests)
{
	static const char *const head[] = {
	        "", "REQUESTS", "BYTES", "MEAN SIZE", "MEAN", "P50", "P99", "MAX"};
	static const char *const ops[] = {"read", "write", "flush", "discard", "zero"};
	struct table t = {.align = "lrrrrrrr"};
	char a[TEXT_LEN], b[TEXT_LEN];

	for (unsigned i = 0; i < ARRAY_SIZE(head); i++)
		table_add(&t, head[i]);
	for (unsigned i = 0; i < ARRAY_SIZE(ops); i++)
		add_count(&t, ops[i], json_object_get(requests, ops[i]));
	table_print(&t, stdout);
	table_release(&t);
	printf("reads: %s of requests, %s of bytes\n",
	        text_share(a, json_num(requests, "read_operations_share")),
	        text_share(b, json_num(requests, "read_bytes_share")));
}

static void print_histogram(const char *title, const json_t *rows, const char *what)
{
	struct table t = {.align = "lrl"};
	char a[TEXT_LEN], bar[41];
	uint64_t most = 1;
	const json_t *row;
	size_t i;

	if (!json_array_size(rows))
		return;
	json_array_foreach(rows, i, row) most = MAX(most, json_u64(row, what));
	printf("\n%s\n", title);
	json_array_foreach(rows, i, row)
	{
		const uint64_t n = json_u64(row, what);
		const size_t len = (size_t)((double)n / (double)most * (sizeof(bar) - 1));
		table_add(
		        &t, json_u64(row, "up_to") ? text_size(a, json_u64(row, "up_to")) : "more");
		snprintf(a, sizeof(a), "%llu", (unsigned long long)n);
		table_add(&t, a);
		memset(bar, '#', len);
		bar[len] = '\0';
		table_add(&t, bar);
	}
	table_print(&t, stdout);
	table_release(&t);
}

static void print_sequential(const json_t *sequential)
{
	static const char *const kinds[] = {"read", "write"};
	char a[TEXT_LEN], b[TEXT_LEN], c[TEXT_LEN];

	putchar('\n');
	for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++) {
		const json_t *k = json_object_get(sequential, kinds[i]);
		printf("sequential %ss: %s of requests, %s of bytes, %s a run\n", kinds[i],
		        text_share(a, json_num(k, "operations_share")),
		        text_share(b, json_num(k, "bytes_share")),
		        text_size(c, json_u64(k, "mean_run_bytes")));
	}
}

static void print_regions(const json_t *regions)
{
	struct table t = {.align = "rrrr"};
	static const char *const head[] = {"OFFSET", "SHARE", "READS", "WRITES"};
	char a[TEXT_LEN];
	const json_t *r;
	size_t i;

	if (!json_array_size(json_object_get(regions, "hottest")))
		return;
	printf("\nhottest regions of %s, lately\n",
	        text_size(a, json_u64(regions, "region_bytes")));
	for (i = 0; i < ARRAY_SIZE(head); i++)
		table_add(&t, head[i]);
	json_array_foreach(json_object_get(regions, "hottest"), i, r)
	{
		if (i == HOTTEST_SHOW)
			break;
		table_add(&t, text_size(a, json_u64(r, "offset")));
		table_add(&t, text_share(a, json_num(r, "share")));
		snprintf(a, sizeof(a), "%.0f", json_num(r, "reads"));
		table_add(&t, a);
		snprintf(a, sizeof(a), "%.0f", json_num(r, "writes"));
		table_add(&t, a);
	}
	table_print(&t, stdout);
	table_release(&t);
}

static void add_window(struct table *t, const char *label, const json_t *w)
{
	char a[TEXT_LEN];

	table_add(t, label);
	table_add(t, text_duration(a, (uint64_t)json_num(w, "seconds")));
	table_add(t, text_size(a, json_u64(w, "bytes")));
	table_add(t, text_size(a, json_u64(w, "read_bytes")));
	table_add(t, text_size(a, json_u64(w, "written_bytes")));
}

static void print_workset(const json_t *workset)
{
	struct table t = {.align = "lrrrr"};
	static const char *const head[] = {"WORKING SET", "OVER", "ALL", "READ", "WRITTEN"};
	const json_t *w;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(head); i++)
		table_add(&t, head[i]);
	add_window(&t, "now", json_object_get(workset, "now"));
	json_array_foreach(json_object_get(workset, "last"), i, w) add_window(&t, "last", w);
	add_window(&t, "since the start", json_object_get(workset, "since_reset"));
	putchar('\n');
	table_print(&t, stdout);
	table_release(&t);
}

static void print_mrc(const json_t *mrc)
{
	const json_t *best = json_object_get(mrc, "recommended");
	char a[TEXT_LEN], b[TEXT_LEN], c[TEXT_LEN];

	putchar('\n');
	if (!json_u64(best, "cache_bytes")) {
		printf("recommended cache: none helps (best hit ratio %s)\n",
		        text_share(a, json_num(best, "best_hit_ratio")));
		return;
	}
	printf("recommended cache: %s, which answers %s of the blocks (the best: %s; rule: %s)\n",
	        text_size(a, json_u64(best, "cache_bytes")),
	        text_share(b, json_num(best, "hit_ratio")),
	        text_share(c, json_num(best, "best_hit_ratio")), json_text(best, "rule"));
}

static void print_report(const json_t *report)
{
	const json_t *requests = json_object_get(report, "requests");
	char a[TEXT_LEN];

	printf("since %s\n", text_time(a, json_u64(report, "since_wall_ns")));
	print_requests(requests);
	print_histogram("sizes of reads",
	        json_object_get(json_object_get(requests, "read"), "sizes"), "operations");
	print_histogram("sizes of writes",
	        json_object_get(json_object_get(requests, "write"), "sizes"), "operations");
	print_sequential(json_object_get(report, "sequential"));
	print_regions(json_object_get(report, "regions"));
	print_workset(json_object_get(report, "working_set"));
	print_mrc(json_object_get(report, "mrc"));
}

/* --- pictures --- */

static bool ends_in(const char *file, const char *ending)
{
	const size_t n = strlen(file), m = strlen(ending);

	return n > m && !strcmp(file + n - m, ending);
}

struct picture {
	const json_t *json;
	const char *title, *file;
};

static int draw_map(const struct picture *p, FILE *out, struct errmsg *em)
{
	struct heatmap m;
	int r = heatmap_parse(p->json, &m);

	if (r < 0)
		return errmsg_set(em, r, "the answer of the daemon is no heat map");
	if (ends_in(p->file, ".png")) {
		r = heatmap_png(&m, p->title, out, em);
	} else {
		r = heatmap_svg(&m, p->title, out);
		if (r < 0)
			errmsg_set(em, r, "%s", strerror(-r));
	}
	heatmap_release(&m);
	return r;
}

static int draw_curve(const struct picture *p, FILE *out, struct errmsg *em)
{
	const int r = mrc_svg(p->json, p->title, out);

	if (r == -EBADMSG)
		return errmsg_set(em, r, "nothing was read or written yet");
	return r < 0 ? errmsg_set(em, r, "%s", strerror(-r)) : 0;
}

static int picture_write(
        const struct picture *p, int (*draw)(const struct picture *p, FILE *out, struct errmsg *em))
{
	CLEANUP(free_ptr) char *beside = NULL;
	struct errmsg em = {0};

	if (asprintf(&beside, "%s.XXXXXX", p->file) < 0) {
		beside = NULL;
		return cmd_fail(WEIR_EXIT_FAILED, "out of memory");
	}
	const int fd = mkostemp(beside, O_CLOEXEC);
	FILE *out = fd < 0 ? NULL : fdopen(fd, "w");
	if (!out)
		return cmd_fail(WEIR_EXIT_FAILED, "cannot write '%s': %m", p->file);
	int r = draw(p, out, &em);
	const mode_t mask = umask(0);
	umask(mask);
	if (fchmod(fd, 0666 & ~mask) < 0 && r == 0)
		r = errmsg_set(&em, -errno, "%m");
	if (fclose(out) != 0 && r == 0)
		r = errmsg_set(&em, -errno, "%m");
	if (r == 0 && rename(beside, p->file) < 0)
		r = errmsg_set(&em, -errno, "%m");
	if (r == 0)
		return 0;
	unlink(beside);
	return cmd_fail(WEIR_EXIT_FAILED, "cannot write '%s': %s", p->file, em.text);
}

static int map_on_terminal(const json_t *json)
{
	const bool utf8 = !strcmp(nl_langinfo(CODESET), "UTF-8");
	struct winsize ws = {0};
	struct heatmap m;

	if (heatmap_parse(json, &m) < 0)
		return cmd_fail(WEIR_EXIT_FAILED, "the answer of the daemon is no heat map");
	/* Offsets and totals take 34 columns. */
	const bool sized = ioctl(STDOUT_FILENO, TIOCGWINSZ, &ws) == 0 && ws.ws_col > 54;
	heatmap_text(&m, MAP_LINES, sized ? ws.ws_col - 34u : MAP_WIDTH, utf8, stdout);
	heatmap_release(&m);
	return 0;
}

/* --- the command --- */

static int run_map(struct target *t, const char *image, const struct analytics_ask *a)
{
	json_t *json = NULL;
	int code = ask(t, image, "heatmap", &json);

	if (code)
		return code;
	if (!strcmp(a->heatmap, "-") && a->json)
		cmd_print_json(json);
	else if (!strcmp(a->heatmap, "-"))
		code = map_on_terminal(json);
	else
		code = picture_write(&(struct picture){json, image, a->heatmap}, draw_map);
	json_decref(json);
	return code;
}

static int run_curve(struct target *t, const char *image, const struct analytics_ask *a)
{
	json_t *json = NULL;
	int code = ask(t, image, "mrc", &json);

	if (code == 0)
		code = picture_write(&(struct picture){json, image, a->mrc}, draw_curve);
	json_decref(json);
	return code;
}

static int run_report(struct target *t, const char *image, const struct analytics_ask *a)
{
	json_t *json = NULL;
	const int code = ask(t, image, a->reset ? "reset" : "report", &json);

	if (code == 0 && a->json)
		cmd_print_json(json);
	else if (code == 0 && a->reset)
		printf("%s: all numbers begin anew\n", image);
	else if (code == 0)
		print_report(json);
	json_decref(json);
	return code;
}

static int run_all(struct target *t, const char *image, const struct analytics_ask *a)
{
	int code = 0;

	if (!t->sub || !*t->sub)
		return cmd_fail(
		        WEIR_EXIT_FAILED, "'%s' is no image: name a file inside a mount", image);
	if (a->heatmap)
		code = run_map(t, image, a);
	if (code == 0 && a->mrc)
		code = run_curve(t, image, a);
	if (code == 0 && (a->reset || (!a->heatmap && !a->mrc)))
		code = run_report(t, image, a);
	return code;
}

/* What the names of files say; before anything is asked. */
static int check_files(const struct command *cmd, const struct analytics_ask *a)
{
	if (a->heatmap && strcmp(a->heatmap, "-") && !ends_in(a->heatmap, ".svg") &&
	        !ends_in(a->heatmap, ".png"))
		return cmd_misused(
		        cmd, "--heatmap: '%s' is neither '-' nor named .svg or .png", a->heatmap);
	if (a->mrc && !ends_in(a->mrc, ".svg"))
		return cmd_misused(cmd, "--mrc: '%s' is not named .svg", a->mrc);
	return 0;
}

static int analytics_run(const struct command *cmd, int argc, char **argv)
{
	static const char *const args[] = {"TARGET"};
	struct analytics_ask a = {0};
	struct target t = {0};
	int id;

	while ((id = cmd_option_next(cmd, argc, argv)) > 0) {
		if (id == OPTION_HEATMAP)
			a.heatmap = optarg;
		else if (id == OPTION_MRC)
			a.mrc = optarg;
		else if (id == OPTION_RESET)
			a.reset = true;
		else
			a.json = true;
	}
	if (id < 0 || cmd_args_check(cmd, argc, argv, args, 1, 1) || check_files(cmd, &a))
		return WEIR_EXIT_USAGE;
	int code = target_find(&t, argv[optind]);
	if (code == 0)
		code = run_all(&t, argv[optind], &a);
	target_release(&t);
	return code;
}

const struct command cmd_analytics = {
        .name = "analytics",
        .synopsis = "TARGET [--heatmap FILE] [--mrc FILE] [--reset] [--json]",
        .summary = "Show what the guest of an image does, and the cache size it would use",
        .details = "TARGET is an image inside a mount, with the filter 'analytics' attached\n"
                   "(weir filter attach TARGET analytics).",
        .options = analytics_options,
        .run = analytics_run,
};

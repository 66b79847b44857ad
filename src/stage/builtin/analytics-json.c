/*
 * analytics-json.c - the numbers of analytics as JSON
 *
 * Written by hand: a stage links nothing but libc, and there are no texts in it that would need
 * quoting.  Sizes and offsets are bytes; shares and ratios are 0..1.
 *
 * The recommended cache size is the smallest of the curve's points whose hit ratio is at least
 * (1 - within) of the best that any size reaches; 0 when that best is under 1 %, or nothing was
 * sampled.
 */
#include "stage/builtin/analytics.h"

#include <inttypes.h>
#include <limits.h>

#define CURVE_POINTS   64u
#define BEST_HIT_LEAST 0.01
#define HOTTEST_MAX    64u

static double share(double part, double whole)
{
	return whole > 0 ? part / whole : 0;
}

/* Rows {"up_to": bytes, "operations": n} of buckets that have any; up_to null: no limit. */
static void json_buckets(
        FILE *out, const uint64_t *buckets, unsigned n, unsigned first_shift, const char *what)
{
	const char *comma = "";

	fputc('[', out);
	for (unsigned i = 0; i < n; i++) {
		if (!buckets[i])
			continue;
		if (i == n - 1)
			fprintf(out, "%s{\"up_to\":null", comma);
		else
			fprintf(out, "%s{\"up_to\":%" PRIu64, comma,
			        (uint64_t)1 << (first_shift + i));
		fprintf(out, ",\"%s\":%" PRIu64 "}", what, buckets[i]);
		comma = ",";
	}
	fputc(']', out);
}

static void json_latency(FILE *out, const struct tally_sum *s, enum tally_op op)
{
	const uint64_t n = s->latency_samples[op];
	const char *comma = "";

	fprintf(out,
	        "{\"samples\":%" PRIu64 ",\"mean_ns\":%" PRIu64 ",\"p50_ns\":%" PRIu64
	        ",\"p90_ns\":%" PRIu64 ",\"p99_ns\":%" PRIu64 ",\"max_ns\":%" PRIu64
	        ",\"histogram\":[",
	        n, n ? s->latency_sum_ns[op] / n : 0, tally_quantile(s, op, 0.5),
	        tally_quantile(s, op, 0.9), tally_quantile(s, op, 0.99), s->latency_max_ns[op]);
	for (unsigned i = 0; i < TALLY_LATENCY; i++) {
		if (!s->latency[op][i])
			continue;
		if (i == TALLY_LATENCY - 1)
			fprintf(out, "%s{\"up_to_ns\":null", comma);
		else
			fprintf(out, "%s{\"up_to_ns\":%" PRIu64, comma, tally_latency_end(i));
		fprintf(out, ",\"samples\":%" PRIu64 "}", s->latency[op][i]);
		comma = ",";
	}
	fputs("]}", out);
}

static void json_requests(FILE *out, struct analytics *a)
{
	static const char *const names[] = {"read", "write", "flush", "discard", "zero"};
	struct tally_sum s;

	tally_sum(&a->numbers->tally, &s);
	fputc('{', out);
	for (unsigned op = 0; op < TALLY_OPS; op++) {
		fprintf(out, "%s\"%s\":{\"operations\":%" PRIu64 ",\"bytes\":%" PRIu64,
		        op ? "," : "", names[op], s.operations[op], s.bytes[op]);
		if (op != TALLY_FLUSH) {
			fputs(",\"sizes\":", out);
			json_buckets(out, s.sizes[op], TALLY_SIZES, TALLY_SIZE_SHIFT, "operations");
		}
		if (op < TALLY_TIMED) {
			fputs(",\"latency\":", out);
			json_latency(out, &s, op);
		}
		fputc('}', out);
	}
	fprintf(out, ",\"read_operations_share\":%.6g,\"read_bytes_share\":%.6g}",
	        share((double)s.operations[TALLY_READ],
	                (double)(s.operations[TALLY_READ] + s.operations[TALLY_WRITE])),
	        share((double)s.bytes[TALLY_READ],
	                (double)(s.bytes[TALLY_READ] + s.bytes[TALLY_WRITE])));
}

static void count_run(void *arg, uint64_t run, bool is_write)
{
	struct tally_sum *s = arg;

	s->runs[is_write][tally_bucket(run, TALLY_RUN_SHIFT, TALLY_RUNS)]++;
}

static void json_sequential(FILE *out, struct analytics *a)
{
	static const char *const names[] = {"read", "write"};
	struct tally_sum s;

	tally_sum(&a->numbers->tally, &s);
	streams_each(&a->numbers->streams, count_run, &s);
	fputc('{', out);
	for (unsigned k = 0; k < 2; k++) {
		uint64_t runs = 0;
		for (unsigned i = 0; i < TALLY_RUNS; i++)
			runs += s.runs[k][i];
		fprintf(out,
		        "%s\"%s\":{\"operations_share\":%.6g,\"bytes_share\":%.6g,\"runs\":%" PRIu64
		        ",\"mean_run_bytes\":%" PRIu64 ",\"run_sizes\":",
		        k ? "," : "", names[k], share((double)s.joined[k], (double)s.operations[k]),
		        share((double)s.joined_bytes[k], (double)s.bytes[k]), runs,
		        runs ? s.bytes[k] / runs : 0);
		json_buckets(out, s.runs[k], TALLY_RUNS, TALLY_RUN_SHIFT, "runs");
		fputc('}', out);
	}
	fputc('}', out);
}

static void json_regions(FILE *out, struct analytics *a)
{
	struct analytics_numbers *n = a->numbers;
	struct heat_region list[HOTTEST_MAX];
	double all = 0;
	const uint32_t count = heat_hottest(n->heat, a->host->now_ns(), list, n->hottest, &all);

	fprintf(out,
	        "{\"region_bytes\":%" PRIu64 ",\"half_life_seconds\":%.6g,\"requests\":%.6g,"
	        "\"hottest\":[",
	        (uint64_t)1 << n->heat_config.region_shift,
	        (double)n->heat_config.half_life_ns / 1e9, all);
	for (uint32_t i = 0; i < count; i++)
		fprintf(out,
		        "%s{\"offset\":%" PRIu64 ",\"share\":%.6g,\"reads\":%.6g,\"writes\":%.6g,"
		        "\"error\":%.6g}",
		        i ? "," : "", list[i].region << n->heat_config.region_shift,
		        share(list[i].reads + list[i].writes, all), list[i].reads, list[i].writes,
		        list[i].error);
	fputs("]}", out);
}

static void json_window(
        FILE *out, const char *before, struct analytics *a, unsigned windows, double seconds)
{
	struct workset_count c;

	workset_count(&a->numbers->workset, windows, &c);
	fprintf(out,
	        "%s{\"seconds\":%.6g,\"read_bytes\":%.0f,\"written_bytes\":%.0f,\"bytes\":%.0f}",
	        before, seconds, c.read * ANALYTICS_BLOCK_SIZE, c.written * ANALYTICS_BLOCK_SIZE,
	        c.both * ANALYTICS_BLOCK_SIZE);
}

static void json_workset(FILE *out, struct analytics *a)
{
	const struct workset *w = &a->numbers->workset;
	const double window = (double)w->window_ns / 1e9;

	fprintf(out, "{\"block_bytes\":%u,\"window_seconds\":%.6g", ANALYTICS_BLOCK_SIZE, window);
	json_window(out, ",\"now\":", a, 0, (double)(a->host->now_ns() - w->began_ns) / 1e9);
	fputs(",\"last\":[", out);
	const char *comma = "";
	for (unsigned n = 1; n <= workset_windows(w); n = n < 3 ? n + 2 : n * 2) {
		json_window(out, comma, a, n, window * n);
		comma = ",";
	}
	json_window(out, "],\"since_reset\":", a, UINT_MAX,
	        (double)(a->host->wall_ns() - a->numbers->since_wall_ns) / 1e9);
	fputc('}', out);
}

/* --- the curve --- */

/* The smallest size at which the hit ratio does not grow any more. */
static uint64_t curve_reach(const struct shards_curve *c)
{
	const double best =
	        shards_miss_ratio(c, shards_bucket_end(SHARDS_BUCKETS - 1), SHARDS_KINDS);
	unsigned i = SHARDS_BUCKETS - 1;

	while (i && shards_miss_ratio(c, shards_bucket_end(i - 1), SHARDS_KINDS) <= best + 1e-9)
		i--;
	return shards_bucket_end(i);
}

static void json_recommended(FILE *out, const struct shards_curve *c, unsigned within)
{
	const uint64_t reach = curve_reach(c);
	const double best = 1 - shards_miss_ratio(c, reach, SHARDS_KINDS);
	uint64_t blocks = 0;

	if (best >= BEST_HIT_LEAST)
		for (unsigned i = 0; i < SHARDS_BUCKETS && !blocks; i++) {
			const uint64_t end = shards_bucket_end(i);
			const double hit = 1 - shards_miss_ratio(c, end, SHARDS_KINDS);
			if (hit >= best * (1 - within / 100.0) || end >= reach)
				blocks = end;
		}
	fprintf(out,
	        ",\"recommended\":{\"cache_bytes\":%" PRIu64
	        ",\"hit_ratio\":%.6g,\"best_hit_ratio\":%.6g,\"within_percent\":%u,"
	        "\"rule\":\"the smallest cache whose hit ratio is within %u %% of the best\"}",
	        blocks << ANALYTICS_BLOCK_SHIFT,
	        blocks ? 1 - shards_miss_ratio(c, blocks, SHARDS_KINDS) : 0.0, best, within,
	        within);
}

static void json_points(FILE *out, const struct shards_curve *c)
{
	const uint64_t reach = curve_reach(c);
	uint64_t before = 0;

	fputs("\"points\":[{\"cache_bytes\":0,\"miss_ratio\":1,\"read_miss_ratio\":1}", out);
	for (unsigned i = 1; i <= CURVE_POINTS; i++) {
		/* Evenly, but never the same size twice. */
		const uint64_t blocks = MAX(reach * i / CURVE_POINTS, before + 1);
		if (blocks > reach)
			break;
		fprintf(out,
		        ",{\"cache_bytes\":%" PRIu64
		        ",\"miss_ratio\":%.6g,\"read_miss_ratio\":%.6g}",
		        blocks << ANALYTICS_BLOCK_SHIFT, shards_miss_ratio(c, blocks, SHARDS_KINDS),
		        shards_miss_ratio(c, blocks, SHARDS_READ));
		before = blocks;
	}
	fputc(']', out);
}

void analytics_json_curve(FILE *out, struct analytics *a)
{
	CLEANUP(free_ptr) struct shards_curve *c = malloc(sizeof(*c));
	struct tally_sum s;

	if (!c) {
		fputs("{}", out);
		return;
	}
	tally_sum(&a->numbers->tally, &s);
	shards_curve(a->numbers->shards, s.blocks, c);
	fprintf(out,
	        "{\"block_bytes\":%u,\"uses\":%.0f,\"read_uses\":%.0f,\"samples\":%" PRIu64
	        ",\"rate\":%.6g,",
	        ANALYTICS_BLOCK_SIZE, c->uses[SHARDS_READ] + c->uses[SHARDS_WRITE],
	        c->uses[SHARDS_READ], c->samples, c->rate);
	json_points(out, c);
	json_recommended(out, c, a->numbers->within_percent);
	fputc('}', out);
}

/* --- the map --- */

static void json_column(FILE *out, const struct heat *h, uint32_t column, bool is_write)
{
	fputs(column ? ",[" : "[", out);
	for (uint32_t row = 0; row < heat_rows(h); row++)
		fprintf(out, "%s%" PRIu32, row ? "," : "", heat_cell(h, column, row, is_write));
	fputc(']', out);
}

static void json_map_kind(FILE *out, const struct heat *h, const char *name, bool is_write)
{
	fprintf(out, ",\"%s\":[", name);
	for (uint32_t column = 0; column < heat_columns(h); column++)
		json_column(out, h, column, is_write);
	fprintf(out, "],\"%s_total\":[", name);
	for (uint32_t row = 0; row < heat_rows(h); row++)
		fprintf(out, "%s%" PRIu64, row ? "," : "", heat_total(h, row, is_write));
	fputc(']', out);
}

void analytics_json_map(FILE *out, struct analytics *a)
{
	const struct heat *h = a->numbers->heat;

	fprintf(out,
	        "{\"size_bytes\":%" PRIu64 ",\"rows\":%" PRIu32 ",\"row_bytes\":%" PRIu64
	        ",\"columns\":%" PRIu32 ",\"column_seconds\":%.6g,\"end_wall_ns\":%" PRIu64,
	        a->numbers->heat_config.image_bytes, heat_rows(h), heat_row_bytes(h),
	        heat_columns(h), (double)a->numbers->heat_config.column_ns / 1e9,
	        a->host->wall_ns());
	json_map_kind(out, h, "reads", false);
	json_map_kind(out, h, "writes", true);
	fputc('}', out);
}

const struct analytics_part analytics_parts[] = {
        {"requests", json_requests},
        {"sequential", json_sequential},
        {"regions", json_regions},
        {"working_set", json_workset},
        {"mrc", analytics_json_curve},
        {NULL, NULL},
};

void analytics_json_all(FILE *out, struct analytics *a)
{
	fprintf(out, "{\"since_wall_ns\":%" PRIu64 ",\"seconds\":%.3f,\"memory_bytes\":%" PRIu64,
	        a->numbers->since_wall_ns,
	        (double)(a->host->wall_ns() - a->numbers->since_wall_ns) / 1e9,
	        a->numbers->memory_bytes);
	for (const struct analytics_part *p = analytics_parts; p->name; p++) {
		fprintf(out, ",\"%s\":", p->name);
		p->write(out, a);
	}
	fputc('}', out);
}

/*
 * analytics.c - what an image's guest does with it: sizes, latencies, heat, working set, caching
 *
 * An observer on top of the stack.  What a request costs here (the budget is 1 % of a cached 4 KiB
 * read, about 100 ns):
 *	always		two counters of the core's own (tally.h), a lookup of where it continues
 *			(streams.h), a hash of each block and a look at one register (workset.h)
 *	one block in 20	(or fewer, once more blocks are in use than the sample holds) goes to the
 *			reuse distances (shards.h), under the image's lock
 *	one request in ANALYTICS_SAMPLE, at random gaps: two clock reads for its latency, and the heat
 *			map (heat.h) under the same lock
 * Requests are counted as they come, also those that fail below.  Those of the system itself
 * (REQUEST_COUNTLESS) are not seen at all.
 *
 * Memory is what the settings say and nothing the guest does: shards_bytes(samples) +
 * heat_bytes(rows, columns, regions) + 200 KiB; 0.9 MiB with the defaults; reported as
 * "memory_bytes".
 *
 * Kept with the image, every `save` and when it is closed (analytics-state.c, 110 KiB): counters,
 * histograms, the totals of rows, the set of blocks used and the sample with its curve, so numbers
 * go on where they were.  Not kept: the map's columns, the regions' decayed counters, windows of the
 * working set.  They are about the guest's use of this image, so snapshots and clones do not have them, and
 * a rollback leaves them.  After a crash the numbers since the last save are lost.  Changed settings begin anew.
 *
 * Lock: numbers.lock, a leaf; of the host only its clocks are called under it.
 */
#include "stage/builtin/analytics.h"

#include <errno.h>
#include <string.h>

#include "stage/builtin/builtin.h"

#define STATE_NAME "numbers"
#define BLOCKS_MAX (REQUEST_LEN_MAX / ANALYTICS_BLOCK_SIZE + 1) /* a request looks at */

static const struct setting_def analytics_settings[] = {
        {"samples", SETTING_UINT, "8192", 1024, 65536, NULL,
                "blocks sampled for the miss-ratio curve, at most"},
        {"one_in", SETTING_UINT, "20", 1, 100000, NULL,
                "sample one block in this many to begin with"},
        {"within", SETTING_UINT, "5", 0, 50, NULL,
                "recommend the smallest cache within this many percent of the best hit ratio"},
        {"region", SETTING_SIZE, "1M", 65536, 1ull << 30, NULL, "size of a region, a power of two"},
        {"regions", SETTING_UINT, "256", 16, 4096, NULL,
                "counters of regions; the hottest 32 are shown"},
        {"half_life", SETTING_DURATION, "10m", 1000000000ull, 86400000000000ull, NULL,
                "after which a region's requests count half"},
        {"window", SETTING_DURATION, "5m", 1000000000ull, 86400000000000ull, NULL,
                "of the working set"},
        {"rows", SETTING_UINT, "128", 16, 1024, NULL, "of the heat map"},
        {"columns", SETTING_UINT, "120", 8, 1024, NULL, "of the heat map"},
        {"interval", SETTING_DURATION, "1m", 1000000000ull, 86400000000000ull, NULL,
                "of a column of the heat map"},
        {"save", SETTING_DURATION, "10m", 1000000000ull, 86400000000000ull, NULL,
                "how often the numbers are kept with the image"},
        {0},
};

/* --- numbers --- */

static unsigned shift_of(uint64_t power)
{
	return 63 - (unsigned)__builtin_clzll(power);
}

static struct heat_config heat_settings(const struct settings *s, uint64_t image_bytes)
{
	return (struct heat_config){
	        .rows = (uint32_t)settings_number(s, "rows"),
	        .columns = (uint32_t)settings_number(s, "columns"),
	        .column_ns = settings_number(s, "interval"),
	        .regions = (uint32_t)settings_number(s, "regions"),
	        .region_shift = shift_of(settings_number(s, "region")),
	        .half_life_ns = settings_number(s, "half_life"),
	        .image_bytes = image_bytes,
	};
}

int analytics_numbers_new(const struct stage_host *host, const struct settings *settings,
        uint64_t image_bytes, struct analytics_numbers **ret_numbers)
{
	const uint32_t samples = (uint32_t)settings_number(settings, "samples");
	struct analytics_numbers *n = host->alloc(sizeof(*n));

	if (!n)
		return -ENOMEM;
	memset(n, 0, sizeof(*n));
	pthread_mutex_init(&n->lock, NULL);
	n->heat_config = heat_settings(settings, image_bytes);
	n->within_percent = (unsigned)settings_number(settings, "within");
	n->save_ns = settings_number(settings, "save");
	n->hottest = 32;
	n->memory_bytes = sizeof(*n) + shards_bytes(samples) + heat_bytes(&n->heat_config);
	workset_init(&n->workset, settings_number(settings, "window"), host->now_ns());
	int r = shards_new(
	        host, samples, 1.0 / (double)settings_number(settings, "one_in"), &n->shards);
	if (r == 0)
		r = heat_new(host, &n->heat_config, host->now_ns(), &n->heat);
	if (r < 0) {
		analytics_numbers_free(host, n);
		return r;
	}
	n->since_wall_ns = host->wall_ns();
	*ret_numbers = n;
	return 0;
}

void analytics_numbers_free(const struct stage_host *host, struct analytics_numbers *n)
{
	if (!n)
		return;
	shards_free(n->shards);
	heat_free(n->heat);
	pthread_mutex_destroy(&n->lock);
	host->free(n);
}

void analytics_numbers_reset(const struct stage_host *host, struct analytics_numbers *n)
{
	pthread_mutex_lock(&n->lock);
	tally_reset(&n->tally);
	workset_init(&n->workset, n->workset.window_ns, host->now_ns());
	shards_reset(n->shards);
	heat_reset(n->heat, host->now_ns());
	n->since_wall_ns = host->wall_ns();
	pthread_mutex_unlock(&n->lock);
}

/* --- requests --- */

struct analytics_context {
	uint64_t started_ns; /* 0: not timed */
};

/* True for one call in ANALYTICS_SAMPLE; at random gaps, or a regular guest could hide in them. */
static bool sample_this(void)
{
	static _Thread_local uint32_t countdown, seed;

	if (LIKELY(countdown)) {
		countdown--;
		return false;
	}
	if (!seed)
		seed = (uint32_t)(uintptr_t)&seed | 1;
	seed ^= seed << 13;
	seed ^= seed >> 17;
	seed ^= seed << 5;
	countdown = seed % (2 * ANALYTICS_SAMPLE - 1);
	return true;
}

static void note_blocks(struct analytics_numbers *n, struct tally_shard *s, uint64_t off,
        uint64_t len, bool is_write)
{
	const struct shards_filter *filter = shards_filter(n->shards);
	const uint64_t first = off >> ANALYTICS_BLOCK_SHIFT;
	const uint64_t last = MIN((off + len - 1) >> ANALYTICS_BLOCK_SHIFT, first + BLOCKS_MAX - 1);
	uint64_t hashes[BLOCKS_MAX];
	unsigned sampled = 0;

	for (uint64_t block = first; block <= last; block++) {
		const uint64_t hash = block_hash(block);
		workset_note(&n->workset, hash, is_write);
		hashes[sampled] = hash;
		sampled += shards_admits(filter, hash);
	}
	tally_add(&s->blocks[is_write], last - first + 1);
	if (LIKELY(!sampled))
		return;
	pthread_mutex_lock(&n->lock);
	for (unsigned i = 0; i < sampled; i++)
		shards_use(n->shards, hashes[i], is_write ? SHARDS_WRITE : SHARDS_READ);
	pthread_mutex_unlock(&n->lock);
}

static void note_stream(struct analytics_numbers *n, struct tally_shard *s,
        const struct request *req, bool is_write)
{
	const struct streams_note note = streams_note(&n->streams, req->off, req->len, is_write);

	if (note.joined) {
		tally_add(&s->joined[is_write], note.joined);
		tally_add(&s->joined_bytes[is_write], note.joined * req->len);
	}
	if (note.ended)
		tally_add(&s->runs[note.ended_is_write]
		                  [tally_bucket(note.ended, TALLY_RUN_SHIFT, TALLY_RUNS)],
		        1);
}

static void note_heat(
        struct analytics_numbers *n, uint64_t now_ns, const struct request *req, bool is_write)
{
	pthread_mutex_lock(&n->lock);
	workset_turn(&n->workset, now_ns);
	heat_note(n->heat, now_ns, req->off, is_write, ANALYTICS_SAMPLE);
	pthread_mutex_unlock(&n->lock);
}

static enum stage_verdict note_transfer(
        struct analytics *a, struct request *req, struct analytics_context *c, bool is_write)
{
	struct analytics_numbers *n = a->numbers;
	struct tally_shard *s = tally_here(&n->tally);

	tally_request(s, is_write ? TALLY_WRITE : TALLY_READ, req->len);
	if (req->len == 0)
		return STAGE_PASS;
	note_stream(n, s, req, is_write);
	note_blocks(n, s, req->off, req->len, is_write);
	if (LIKELY(!sample_this()))
		return STAGE_PASS;
	c->started_ns = a->host->now_ns();
	note_heat(n, c->started_ns, req, is_write);
	return STAGE_PASS_POST;
}

static enum stage_verdict analytics_pre(void *stage, struct request *req, void *context)
{
	struct analytics *a = stage;
	struct analytics_context *c = context;
	struct tally *t = &a->numbers->tally;

	if (req->flags & REQUEST_COUNTLESS)
		return STAGE_PASS;
	switch (req->op) {
	case REQUEST_READ:
	case REQUEST_WRITE:
		return note_transfer(a, req, c, req->op == REQUEST_WRITE);
	case REQUEST_FLUSH:
		tally_request(tally_here(t), TALLY_FLUSH, 0);
		c->started_ns = a->host->now_ns();
		return STAGE_PASS_POST;
	case REQUEST_DISCARD:
		tally_request(tally_here(t), TALLY_DISCARD, req->len);
		return STAGE_PASS;
	case REQUEST_ZERO:
		tally_request(tally_here(t), TALLY_ZERO, req->len);
		return STAGE_PASS;
	default:
		return STAGE_PASS;
	}
}

static void analytics_post(void *stage, struct request *req, void *context)
{
	struct analytics *a = stage;
	const struct analytics_context *c = context;
	const enum tally_op op = req->op == REQUEST_READ    ? TALLY_READ
	                         : req->op == REQUEST_WRITE ? TALLY_WRITE
	                                                    : TALLY_FLUSH;

	tally_latency(&a->numbers->tally, op, a->host->now_ns() - c->started_ns);
}

/* --- keeping --- */

static void analytics_save(void *stage)
{
	struct analytics *a = stage;
	CLEANUP(free_ptr) uint8_t *buf = NULL;
	size_t len = 0;

	pthread_mutex_lock(&a->numbers->lock);
	int r = analytics_encode(a->numbers, &buf, &len);
	pthread_mutex_unlock(&a->numbers->lock);
	if (r == 0)
		r = a->host->state_put(a->self, STATE_NAME, buf, len);
	if (r < 0)
		a->host->say(a->self, STAGE_SEVERITY_NOTE,
		        "cannot keep the numbers of analytics: %s", strerror(-r));
}

static void timer_arm(struct analytics *a)
{
	a->host->timer_set(a->self, a->host->now_ns() + a->numbers->save_ns);
}

static void analytics_timer(void *stage)
{
	struct analytics *a = stage;

	a->host->work(a->self, analytics_save);
	timer_arm(a);
}

/* What is kept may be missing, of another version or damaged: then the numbers begin anew. */
static int analytics_restore(struct analytics *a)
{
	CLEANUP(free_ptr) uint8_t *buf = NULL;
	size_t len = 0;
	int r = a->host->state_get(a->self, STATE_NAME, NULL, 0, &len);

	if (r < 0 || len == 0 || len > STAGE_STATE_MAX)
		return 0;
	buf = malloc(len);
	if (!buf)
		return -ENOMEM;
	const size_t cap = len;
	if (a->host->state_get(a->self, STATE_NAME, buf, cap, &len) < 0 || len > cap)
		return 0;
	r = analytics_decode(a->numbers, buf, len);
	if (r != -EBADMSG)
		return r;
	analytics_numbers_reset(a->host, a->numbers);
	a->host->say(a->self, STAGE_SEVERITY_NOTE, "kept numbers cannot be read: they begin anew");
	return 0;
}

/* --- life --- */

static int numbers_for(struct analytics *a, const struct settings *settings,
        struct analytics_numbers **ret_numbers, struct errmsg *em)
{
	struct stage_image image = {0};

	a->host->image(a->self, &image);
	const int r = analytics_numbers_new(a->host, settings, image.size, ret_numbers);
	if (r < 0 && em)
		snprintf(em->text, sizeof(em->text), "cannot start 'analytics': %s", strerror(-r));
	return r;
}

static void analytics_destroy(void *stage)
{
	struct analytics *a = stage;

	if (!a)
		return;
	analytics_numbers_free(a->host, a->next);
	analytics_numbers_free(a->host, a->numbers);
	a->host->free(a);
}

static int analytics_create(const struct stage_host *host, struct stage_link *self,
        const struct settings *settings, void **ret_stage, struct errmsg *em)
{
	struct analytics *a = host->alloc(sizeof(*a));

	if (!a)
		return -ENOMEM;
	*a = (struct analytics){.host = host, .self = self};
	int r = numbers_for(a, settings, &a->numbers, em);
	if (r == 0)
		r = analytics_restore(a);
	if (r < 0) {
		analytics_destroy(a);
		return r;
	}
	timer_arm(a);
	*ret_stage = a;
	return 0;
}

static int analytics_check(const struct settings *settings, struct errmsg *em)
{
	const uint64_t region = settings_number(settings, "region");

	if ((region & (region - 1)) == 0)
		return 0;
	if (em)
		snprintf(em->text, sizeof(em->text),
		        "region: '%s' is not a power of two, such as 1M",
		        settings_get(settings, "region")->text);
	return -EINVAL;
}

static int analytics_prepare(void *stage, const struct stage_event *event, struct errmsg *em)
{
	struct analytics *a = stage;

	if (event->kind != STAGE_EVENT_RECONFIGURE)
		return 0;
	return numbers_for(a, event->settings, &a->next, em);
}

static void numbers_replace(struct analytics *a, struct analytics_numbers *with)
{
	analytics_numbers_free(a->host, a->numbers);
	a->numbers = with;
	timer_arm(a);
}

static void analytics_commit(void *stage, const struct stage_event *event)
{
	struct analytics *a = stage;

	if (event->kind == STAGE_EVENT_RECONFIGURE)
		numbers_replace(a, STEAL(a->next));
	else if (event->kind == STAGE_EVENT_CLOSE)
		analytics_save(a);
}

static void analytics_abort(void *stage, const struct stage_event *event)
{
	struct analytics *a = stage;

	if (event->kind == STAGE_EVENT_RECONFIGURE)
		analytics_numbers_free(a->host, STEAL(a->next));
}

/* --- answers --- */

/* What fn writes, malloc'ed; NULL: out of memory. */
static char *json_of(struct analytics *a, void (*fn)(FILE *out, struct analytics *a))
{
	char *text = NULL;
	size_t len = 0;
	FILE *out = open_memstream(&text, &len);

	if (!out)
		return NULL;
	const uint64_t now_ns = a->host->now_ns();
	struct stage_image image = {0};
	a->host->image(a->self, &image);
	pthread_mutex_lock(&a->numbers->lock);
	a->numbers->heat_config.image_bytes = image.size;
	workset_turn(&a->numbers->workset, now_ns);
	heat_turn(a->numbers->heat, now_ns);
	fn(out, a);
	pthread_mutex_unlock(&a->numbers->lock);
	const bool failed = ferror(out);
	if (fclose(out) != 0 || failed) {
		free(text);
		return NULL;
	}
	return text;
}

static void analytics_report(void *stage, const struct stage_report *report)
{
	struct analytics *a = stage;
	struct tally_sum sum;

	tally_sum(&a->numbers->tally, &sum);
	report->number(report->arg, "reads", sum.operations[TALLY_READ]);
	report->number(report->arg, "writes", sum.operations[TALLY_WRITE]);
	report->number(report->arg, "flushes", sum.operations[TALLY_FLUSH]);
	report->number(report->arg, "read_bytes", sum.bytes[TALLY_READ]);
	report->number(report->arg, "written_bytes", sum.bytes[TALLY_WRITE]);
	report->number(report->arg, "memory_bytes", a->numbers->memory_bytes);
	for (const struct analytics_part *p = analytics_parts; p->name; p++) {
		CLEANUP(free_ptr) char *text = json_of(a, p->write);
		if (text)
			report->json(report->arg, p->name, text);
	}
}

static void write_nothing(FILE *out, struct analytics *a)
{
	fputs("{}", out);
}

static int analytics_action(void *stage, const char *action, const char *const *args,
        unsigned n_args, char **ret_json, struct errmsg *em)
{
	struct analytics *a = stage;
	void (*write)(FILE * out, struct analytics * a);

	if (!strcmp(action, "report"))
		write = analytics_json_all;
	else if (!strcmp(action, "heatmap"))
		write = analytics_json_map;
	else if (!strcmp(action, "mrc"))
		write = analytics_json_curve;
	else if (!strcmp(action, "reset"))
		write = write_nothing;
	else
		return -EOPNOTSUPP;
	if (n_args) {
		snprintf(em->text, sizeof(em->text), "%s: unexpected argument '%s'", action,
		        args[0]);
		return -EINVAL;
	}
	if (write == write_nothing) {
		analytics_numbers_reset(a->host, a->numbers);
		analytics_save(a);
	}
	char *json = json_of(a, write);
	if (!json)
		return -ENOMEM;
	*ret_json = json;
	return 0;
}

static const char *const analytics_actions[] = {"report", "heatmap", "mrc", "reset", NULL};
static const char *const analytics_queries[] = {"report", "heatmap", "mrc", NULL};

const struct stage_type stage_analytics = {
        .abi = STAGE_ABI,
        .size = sizeof(struct stage_type),
        .name = "analytics",
        .version = 1,
        .summary = "what the guest does: sizes, latency, heat, working set, cache size",
        .class = STAGE_INSPECT,
        .capabilities = STAGE_SINGLE,
        .handles = OP(READ) | OP(WRITE) | OP(FLUSH) | OP(DISCARD) | OP(ZERO),
        .understands = OPS_ALL,
        .state_of = STAGE_STATE_OF_USE,
        .settings = analytics_settings,
        .context_size = sizeof(struct analytics_context),
        .create = analytics_create,
        .destroy = analytics_destroy,
        .check = analytics_check,
        .pre = analytics_pre,
        .post = analytics_post,
        .prepare = analytics_prepare,
        .commit = analytics_commit,
        .abort = analytics_abort,
        .timer = analytics_timer,
        .report = analytics_report,
        .action = analytics_action,
        .actions = analytics_actions,
        .queries = analytics_queries,
};

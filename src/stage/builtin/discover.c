/*
 * discover.c - what is inside an image, looked up in the background and kept with it
 *
 * An observer.  It has the image probed (probe.h: a process without rights) when it was never
 * looked into, and again after changes that matter: anything written to the first 2 MiB of the image
 * or of one of its partitions, where tables and superblocks are, or `changes` bytes anywhere (a
 * system that was upgraded).  A probe begins `settle` after such a change, and at most every
 * `interval`.
 *
 * The worker's reads become reads of the image below this stage (host->call_below), in a thread of
 * the host's that may wait; so no mount, path or open file is involved, and an unmount waits for at
 * most one such read: the probe asks the host whether it is cancelled ten times a second, and then
 * kills its child.
 *
 * Findings are a JSON text of at most PROBE_RESULT_MAX bytes, kept as the state "findings" with
 * the wall clock before it.  They are the worker's, which read a guest's data: to this stage they
 * are bytes; the host checks that they are JSON before it passes them on.
 *
 * A write costs a comparison with each watched place (PLACES_MAX at most) and one addition.  Lock:
 * findings_lock, a leaf.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "stage/builtin/builtin.h"
#include "stage/builtin/probe.h"

#define STATE_NAME  "findings"
#define PLACES_MAX  33u
#define PLACE_BYTES (2u << 20)
#define RETRY_NS    1000000000ull

static const struct setting_def discover_settings[] = {
        {"interval", SETTING_DURATION, "10m", 1000000000ull, 30 * 86400000000000ull, NULL,
                "look at most this often"},
        {"settle", SETTING_DURATION, "30s", 0, 3600000000000ull, NULL,
                "wait after a change before looking"},
        {"changes", SETTING_SIZE, "512M", 1 << 20, 1ull << 44, NULL,
                "look again after this much was written anywhere"},
        {0},
};

struct discover {
	const struct stage_host *host;
	struct stage_link *self;
	uint64_t interval_ns, settle_ns, changes_bytes;
	_Atomic uint64_t written; /* since the last look */
	_Atomic bool due;         /* the timer is set, or a look is under way that began before */
	_Atomic uint32_t n_places;
	_Atomic uint64_t places[PLACES_MAX]; /* offsets of PLACE_BYTES that matter */
	_Atomic uint64_t looked_ns;          /* monotonic; 0: not since the image was opened */
	pthread_mutex_t findings_lock;       /* guards all below */
	char *findings;                      /* NULL: none */
	uint64_t findings_wall_ns;
	char failure[ERRMSG_LEN]; /* of the last look; "" when it was good */
};

/* --- places that matter --- */

/* The offsets of partitions, out of the findings: a search for one key, whose worst result is a
 * place too many. */
static uint32_t find_places(const char *json, uint64_t places[PLACES_MAX])
{
	static const char key[] = "\"offset_bytes\":";
	uint32_t n = 0;

	places[n++] = 0;
	for (const char *p = json; n < PLACES_MAX && (p = strstr(p, key));) {
		p += sizeof(key) - 1;
		places[n++] = strtoull(p, NULL, 10);
	}
	return n;
}

static void watch(struct discover *d, const char *json)
{
	uint64_t places[PLACES_MAX];
	const uint32_t n = find_places(json, places);

	/* A request between two of these compares with a mix of old and new: one look more or less. */
	for (uint32_t i = 0; i < n; i++)
		atomic_store_explicit(&d->places[i], places[i], memory_order_relaxed);
	atomic_store_explicit(&d->n_places, n, memory_order_relaxed);
}

static bool matters(struct discover *d, uint64_t off, uint64_t len)
{
	const uint32_t n = atomic_load_explicit(&d->n_places, memory_order_relaxed);

	for (uint32_t i = 0; i < n; i++) {
		const uint64_t place = atomic_load_explicit(&d->places[i], memory_order_relaxed);
		if (off < place + PLACE_BYTES && place < off + len)
			return true;
	}
	return atomic_fetch_add_explicit(&d->written, len, memory_order_relaxed) + len >=
	       d->changes_bytes;
}

/* --- looking --- */

static void read_done(struct request *req)
{
}

static int look_read(void *arg, uint64_t off, void *buf, size_t len)
{
	struct discover *d = arg;
	struct request req = {
	        .op = REQUEST_READ,
	        .flags = REQUEST_COUNTLESS,
	        .off = off,
	        .len = len,
	        .complete = read_done,
	};
	int r = d->host->call_below(d->self, &req);

	if (r == 0) {
		/* Past the end of a file that became shorter there is nothing. */
		memset(buf, 0, len);
		readv_copy(&req.out, 0, buf, MIN(len, req.out.len));
	}
	readv_release(&req.out);
	return r;
}

static bool look_cancelled(void *arg)
{
	struct discover *d = arg;

	return d->host->cancelled(d->self);
}

static void findings_keep(struct discover *d)
{
	const size_t len = strlen(d->findings);
	CLEANUP(free_ptr) uint8_t *state = malloc(8 + len);

	if (!state)
		return;
	put_u64(state, d->findings_wall_ns);
	memcpy(state + 8, d->findings, len);
	const int r = d->host->state_put(d->self, STATE_NAME, state, 8 + len);
	if (r < 0)
		d->host->say(d->self, STAGE_SEVERITY_NOTE, "cannot keep what was discovered: %s",
		        strerror(-r));
}

/* Takes over json. */
static void findings_set(struct discover *d, char *json, const struct errmsg *em)
{
	char *old = NULL;

	pthread_mutex_lock(&d->findings_lock);
	if (json) {
		old = d->findings;
		d->findings = json;
		d->findings_wall_ns = d->host->wall_ns();
	}
	memcpy(d->failure, em->text, sizeof(d->failure));
	pthread_mutex_unlock(&d->findings_lock);
	free(old);
	if (json) {
		watch(d, json);
		findings_keep(d); /* only this thread changes findings */
	}
}

static void discover_look(void *stage)
{
	struct discover *d = stage;
	struct stage_image image = {0};
	struct errmsg em = {0};
	char *json = NULL;

	d->host->image(d->self, &image);
	const struct probe_source source = {
	        .size_bytes = image.size,
	        .read = look_read,
	        .cancelled = look_cancelled,
	        .arg = d,
	};
	/* What is written from here on may be too late for this look. */
	atomic_store(&d->due, false);
	atomic_store(&d->written, 0);
	atomic_store(&d->looked_ns, d->host->now_ns());
	const int r = probe_run(&source, &json, &em);
	if (r == -ECANCELED)
		return;
	findings_set(d, r < 0 ? NULL : json, &em);
}

/* At the earliest moment that the settings allow. */
static void look_later(struct discover *d)
{
	const uint64_t now_ns = d->host->now_ns(), looked_ns = atomic_load(&d->looked_ns);
	uint64_t at_ns = now_ns + d->settle_ns;

	if (atomic_exchange(&d->due, true))
		return;
	if (looked_ns)
		at_ns = MAX(at_ns, looked_ns + d->interval_ns);
	d->host->timer_set(d->self, at_ns);
}

static void discover_timer(void *stage)
{
	struct discover *d = stage;

	if (!d->host->work(d->self, discover_look))
		d->host->timer_set(d->self, d->host->now_ns() + RETRY_NS);
}

static enum stage_verdict discover_pre(void *stage, struct request *req, void *context)
{
	struct discover *d = stage;

	if (!(req->flags & REQUEST_COUNTLESS) &&
	        !atomic_load_explicit(&d->due, memory_order_relaxed) &&
	        matters(d, req->off, req->len))
		look_later(d);
	return STAGE_PASS;
}

/* --- life --- */

static void settings_take(struct discover *d, const struct settings *settings)
{
	d->interval_ns = settings_number(settings, "interval");
	d->settle_ns = settings_number(settings, "settle");
	d->changes_bytes = settings_number(settings, "changes");
}

/* Findings of before; none, or ones that cannot be read: they are looked up anew. */
static void findings_restore(struct discover *d)
{
	size_t len = 0;

	if (d->host->state_get(d->self, STATE_NAME, NULL, 0, &len) < 0 || len <= 8 ||
	        len > 8 + PROBE_RESULT_MAX)
		return;
	CLEANUP(free_ptr) uint8_t *state = malloc(len);
	CLEANUP(free_ptr) char *json = malloc(len - 8 + 1);
	size_t now = 0;
	if (!state || !json || d->host->state_get(d->self, STATE_NAME, state, len, &now) < 0 ||
	        now != len)
		return;
	memcpy(json, state + 8, len - 8);
	json[len - 8] = '\0';
	d->findings_wall_ns = get_u64(state);
	d->findings = STEAL(json);
	watch(d, d->findings);
}

static void discover_destroy(void *stage)
{
	struct discover *d = stage;

	if (!d)
		return;
	free(d->findings);
	pthread_mutex_destroy(&d->findings_lock);
	d->host->free(d);
}

static int discover_create(const struct stage_host *host, struct stage_link *self,
        const struct settings *settings, void **ret_stage, struct errmsg *em)
{
	struct discover *d = host->alloc(sizeof(*d));

	if (!d)
		return -ENOMEM;
	memset(d, 0, sizeof(*d));
	d->host = host;
	d->self = self;
	d->n_places = 1; /* the image's own beginning */
	pthread_mutex_init(&d->findings_lock, NULL);
	settings_take(d, settings);
	findings_restore(d);
	if (!d->findings)
		look_later(d);
	*ret_stage = d;
	return 0;
}

/* What was found in that content, and a look at it all the same. */
static void rolled_back(struct discover *d)
{
	pthread_mutex_lock(&d->findings_lock);
	free(STEAL(d->findings));
	findings_restore(d);
	pthread_mutex_unlock(&d->findings_lock);
	look_later(d);
}

static void discover_commit(void *stage, const struct stage_event *event)
{
	struct discover *d = stage;

	if (event->kind == STAGE_EVENT_RECONFIGURE)
		settings_take(d, event->settings);
	else if (event->kind == STAGE_EVENT_ROLLBACK)
		rolled_back(d);
	else if (event->kind == STAGE_EVENT_RESIZE)
		look_later(d);
}

/* --- answers --- */

/* {"discovered_wall_ns", "state", "findings"}; malloc'ed, NULL: out of memory. */
static char *answer(struct discover *d)
{
	char *text = NULL;

	pthread_mutex_lock(&d->findings_lock);
	const int n =
	        asprintf(&text, "{\"discovered_wall_ns\":%llu,\"state\":\"%s\",\"findings\":%s}",
	                (unsigned long long)d->findings_wall_ns,
	                d->failure[0]          ? "failed"
	                : atomic_load(&d->due) ? "waiting"
	                : d->findings          ? "done"
	                                       : "looking",
	                d->findings ? d->findings : "null");
	pthread_mutex_unlock(&d->findings_lock);
	return n < 0 ? NULL : text;
}

static void discover_report(void *stage, const struct stage_report *report)
{
	struct discover *d = stage;

	pthread_mutex_lock(&d->findings_lock);
	report->number(report->arg, "discovered_wall_ns", d->findings_wall_ns);
	report->number(report->arg, "written_bytes", atomic_load(&d->written));
	if (d->failure[0])
		report->text(report->arg, "failure", d->failure);
	if (d->findings)
		report->json(report->arg, "findings", d->findings);
	pthread_mutex_unlock(&d->findings_lock);
}

static int discover_action(void *stage, const char *action, const char *const *args,
        unsigned n_args, char **ret_json, struct errmsg *em)
{
	struct discover *d = stage;

	if (strcmp(action, "findings") && strcmp(action, "look"))
		return -EOPNOTSUPP;
	if (n_args) {
		snprintf(em->text, sizeof(em->text), "%s: unexpected argument '%s'", action,
		        args[0]);
		return -EINVAL;
	}
	if (!strcmp(action, "look")) {
		atomic_store(&d->due, true);
		d->host->timer_set(d->self, d->host->now_ns());
	}
	/* Of a look that has only begun, what an earlier one found is no answer. */
	char *json = !strcmp(action, "look") ? strdup("{\"state\":\"waiting\"}") : answer(d);
	if (!json)
		return -ENOMEM;
	*ret_json = json;
	return 0;
}

static const char *const discover_actions[] = {"findings", "look", NULL};
static const char *const discover_queries[] = {"findings", NULL};

const struct stage_type stage_discover = {
        .abi = STAGE_ABI,
        .size = sizeof(struct stage_type),
        .name = "discover",
        .version = 1,
        .summary = "what is inside: partitions, filesystems, systems, packages",
        .class = STAGE_INSPECT,
        .capabilities = STAGE_SINGLE,
        .handles = OP(WRITE) | OP(DISCARD) | OP(ZERO),
        .understands = OPS_ALL,
        .settings = discover_settings,
        .create = discover_create,
        .destroy = discover_destroy,
        .pre = discover_pre,
        .commit = discover_commit,
        .timer = discover_timer,
        .report = discover_report,
        .action = discover_action,
        .actions = discover_actions,
        .queries = discover_queries,
};

/*
 * scan.c - filter "scan": what is written and read is looked at before it passes
 *
 * A write is kept until the bytes that it would leave in the image have been looked at: its own, with
 * a window of what stands before and behind it, so that a signature that two requests bring in parts
 * is found with the second.  What stands there is read below; writes that are on their way (kept, or
 * passed and not yet applied) count as if they were there already.  So of two writes with a part each,
 * at least one sees the other: both register before either is looked at.
 *
 * A read is kept until the regions that it touches have been looked at once; those are remembered as
 * clean until something changes them that was not looked at itself.  Clean regions cost a read one
 * look at a bitmap.
 *
 * Looking is done by one host's thread for each image (scan-work.c), in the order of arrival; when it
 * has nothing to do it goes on with a sweep of the whole image, if one is due: that is where clamd is
 * asked, which is too slow for the path of requests.
 *
 * Action block: the request fails with EPERM and the image is quarantined.  A scanner that does not
 * work (rules that cannot be read, a clamd that does not answer, a match that takes too long) follows
 * the setting `down`: pass (requests pass unscanned, counted and warned of) or fail (EIO).
 *
 * What is known to be clean is not kept over a restart: rules may be others by then.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "stage/builtin/builtin.h"
#include "stage/builtin/scan-priv.h"

_Static_assert(sizeof(struct scan_job) <= 256, "a request's context is at most 256 bytes");

static const char *const actions[] = {"log", "alert", "block", NULL};
static const char *const whats[] = {"both", "writes", "reads", NULL};
static const char *const downs[] = {"pass", "fail", NULL};

static const struct setting_def settings[] = {
        {.key = "rules", .kind = SETTING_TEXT, .help = "file with YARA rules"},
        {.key = "clamd", .kind = SETTING_TEXT, .help = "socket of ClamAV's clamd, for sweeps"},
        {.key = "action",
                .kind = SETTING_ENUM,
                .initial = "alert",
                .choices = actions,
                .help = "what a match does; block refuses the request and quarantines the image"},
        {.key = "what",
                .kind = SETTING_ENUM,
                .initial = "both",
                .choices = whats,
                .help = "which requests are looked at"},
        {.key = "window",
                .kind = SETTING_SIZE,
                .initial = "4K",
                .min = 16,
                .max = SCAN_WINDOW_MAX,
                .help = "longest match that is found across the boundary of two requests"},
        {.key = "down",
                .kind = SETTING_ENUM,
                .initial = "pass",
                .choices = downs,
                .help = "requests while the scanner does not work"},
        {.key = "timeout",
                .kind = SETTING_DURATION,
                .initial = "5s",
                .min = NS_PER_SEC,
                .max = 600 * NS_PER_SEC,
                .help = "longest look at one request"},
        {.key = "interval",
                .kind = SETTING_DURATION,
                .initial = "0s",
                .max = 366ull * 24 * 3600 * NS_PER_SEC,
                .help = "time between sweeps of the whole image; 0s: only when asked"},
        {0},
};

/* --- settings --- */

static char *text_copy(const struct settings *s, const char *key)
{
	const struct setting *v = settings_get(s, key);

	return v->set && *v->text ? strdup(v->text) : NULL;
}

static void configure(struct scan *s, const struct settings *set)
{
	s->rules = text_copy(set, "rules");
	s->clamd = text_copy(set, "clamd");
	s->action = (enum scan_action)settings_number(set, "action");
	s->what = (enum scan_what)settings_number(set, "what");
	s->on_down = (enum scan_down)settings_number(set, "down");
	s->window = settings_number(set, "window");
	s->timeout_s = (unsigned)(settings_number(set, "timeout") / NS_PER_SEC);
	s->interval_ns = settings_number(set, "interval");
}

/* The daemon works in a directory of its own. */
static int path_check(const char *key, const struct setting *path, struct errmsg *em)
{
	if (!path->set || path->text[0] == '/')
		return 0;
	return errmsg_set(em, -EINVAL, "'%s=%s' is not an absolute path", key, path->text);
}

static int scan_check(const struct settings *set, struct errmsg *em)
{
	const struct setting *rules = settings_get(set, "rules"),
	                     *clamd = settings_get(set, "clamd");
	struct yara *yara;

	if (!rules->set && !clamd->set)
		return errmsg_set(em, -EINVAL,
		        "nothing to scan with: give rules=FILE, clamd=SOCKET, or both");
	int r = path_check("rules", rules, em);
	if (!r)
		r = path_check("clamd", clamd, em);
	if (r < 0 || !rules->set)
		return r;
	r = yara_open(rules->text, &yara, em);
	if (!r)
		yara_close(yara);
	return r;
}

static void scan_destroy(void *stage)
{
	struct scan *s = stage;

	if (!s)
		return;
	yara_close(s->yara);
	free(s->rules);
	free(s->clamd);
	free(s->clean);
	if (s->host) {
		pthread_cond_destroy(&s->idle);
		pthread_mutex_destroy(&s->lock);
	}
	free(s);
}

static int scan_create(const struct stage_host *host, struct stage_link *self,
        const struct settings *set, void **ret_stage, struct errmsg *em)
{
	struct scan *s = calloc(1, sizeof(*s));

	if (!s)
		return errmsg_set(em, -ENOMEM, "out of memory");
	s->host = host;
	s->self = self;
	s->tail = &s->head;
	s->passing.prev = s->passing.passing = &s->passing;
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->idle, NULL);
	configure(s, set);
	scan_engines_start(s);
	scan_state_load(s);
	*ret_stage = s;
	return 0;
}

/* --- requests --- */

/* With the lock: the write is on its way. */
static void passing_add(struct scan *s, struct scan_job *job)
{
	job->prev = s->passing.prev;
	job->passing = &s->passing;
	job->prev->passing = job;
	s->passing.prev = job;
}

static enum stage_verdict keep(struct scan *s, struct scan_job *job)
{
	pthread_mutex_lock(&s->lock);
	if (job->data)
		passing_add(s, job);
	job->next = NULL;
	*s->tail = job;
	s->tail = &job->next;
	scan_wake(s);
	pthread_mutex_unlock(&s->lock);
	return STAGE_PEND;
}

/* The scanner does not work: as the settings say. */
static enum stage_verdict pass_down(struct scan *s, struct request *req, bool change)
{
	if (s->on_down == SCAN_DOWN_FAIL) {
		req->result = -EIO;
		return STAGE_FAIL;
	}
	atomic_fetch_add(&s->count.unscanned_bytes, req->len);
	if (!change)
		return STAGE_PASS;
	pthread_mutex_lock(&s->lock);
	scan_soil(s, req->off, req->len);
	pthread_mutex_unlock(&s->lock);
	return STAGE_PASS_POST;
}

/*
 * With the lock: do requests pass, or fail, without a look?  A clamd that is away lets nothing past
 * rules that are there: it has no part in requests.
 */
static bool is_down(const struct scan *s)
{
	return s->down && (!s->yara || s->on_down == SCAN_DOWN_FAIL);
}

static enum stage_verdict pre_write(struct scan *s, struct request *req, struct scan_job *job)
{
	pthread_mutex_lock(&s->lock);
	const bool down = is_down(s), look = s->yara && s->what != SCAN_READS;
	if (!down && !look)
		scan_soil(s, req->off, req->len);
	pthread_mutex_unlock(&s->lock);
	if (down)
		return pass_down(s, req, true);
	if (!look)
		return STAGE_PASS_POST;
	*job = (struct scan_job){.req = req, .off = req->off, .len = req->len};
	job->data = malloc(req->len ? req->len : 1);
	if (!job->data) {
		req->result = -ENOMEM;
		return STAGE_FAIL;
	}
	memcpy(job->data, req->data, req->len);
	return keep(s, job);
}

static enum stage_verdict pre_read(struct scan *s, struct request *req, struct scan_job *job)
{
	if (s->what == SCAN_WRITES || req->len == 0)
		return STAGE_PASS;
	pthread_mutex_lock(&s->lock);
	const bool down = is_down(s), clean = !s->yara || scan_is_clean(s, req->off, req->len);
	pthread_mutex_unlock(&s->lock);
	if (down)
		return pass_down(s, req, false);
	if (clean)
		return STAGE_PASS;
	*job = (struct scan_job){.req = req, .off = req->off, .len = req->len};
	return keep(s, job);
}

static enum stage_verdict scan_pre(void *stage, struct request *req, void *context)
{
	struct scan *s = stage;

	atomic_fetch_add_explicit(&s->count.requests, 1, memory_order_relaxed);
	return req->op == REQUEST_WRITE ? pre_write(s, req, context) : pre_read(s, req, context);
}

/* A write is through: what stands below is what later ones have to do with. */
static void scan_post(void *stage, struct request *req, void *context)
{
	struct scan *s = stage;
	struct scan_job *job = context;

	pthread_mutex_lock(&s->lock);
	if (job->data) {
		job->prev->passing = job->passing;
		job->passing->prev = job->prev;
	}
	if (!job->data || job->unscanned)
		scan_soil(s, req->off, req->len); /* once more: now it is there */
	pthread_mutex_unlock(&s->lock);
	free(job->data);
	job->data = NULL;
}

/* --- events --- */

/* With the lock: nothing is known to be clean any more. */
static void clean_forget(struct scan *s)
{
	if (s->clean)
		memset(s->clean, 0, s->clean_words * sizeof(*s->clean));
}

static int prepare_reconfigure(struct scan *s, const struct stage_event *event, struct errmsg *em)
{
	struct scan *next = calloc(1, sizeof(*next));

	if (!next)
		return errmsg_set(em, -ENOMEM, "out of memory");
	configure(next, event->settings);
	const int r = next->rules ? yara_open(next->rules, &next->yara, em) : 0;
	if (r < 0) {
		scan_destroy(next);
		return r;
	}
	s->next = next;
	return 0;
}

/* What is kept is looked at first: the worker comes to an end. */
static void quiesce(struct scan *s)
{
	pthread_mutex_lock(&s->lock);
	s->quiet = true;
	while (s->running)
		pthread_cond_wait(&s->idle, &s->lock);
	pthread_mutex_unlock(&s->lock);
}

static void thaw(struct scan *s)
{
	pthread_mutex_lock(&s->lock);
	s->quiet = false;
	if (s->head || s->sweep.active)
		scan_wake(s);
	pthread_mutex_unlock(&s->lock);
}

static int scan_prepare(void *stage, const struct stage_event *event, struct errmsg *em)
{
	struct scan *s = stage;

	if (event->kind == STAGE_EVENT_RECONFIGURE)
		return prepare_reconfigure(s, event, em);
	if (event->kind == STAGE_EVENT_QUIESCE || event->kind == STAGE_EVENT_CLOSE)
		quiesce(s);
	return 0;
}

/* New rules: nothing is known to be clean any more. */
static void commit_reconfigure(struct scan *s)
{
	struct scan *next = s->next;

	pthread_mutex_lock(&s->lock);
	yara_close(s->yara);
	free(s->rules);
	free(s->clamd);
	s->rules = next->rules;
	s->clamd = next->clamd;
	s->yara = next->yara;
	s->action = next->action;
	s->what = next->what;
	s->on_down = next->on_down;
	s->window = next->window;
	s->timeout_s = next->timeout_s;
	s->interval_ns = next->interval_ns;
	s->down = false;
	clean_forget(s);
	pthread_mutex_unlock(&s->lock);
	s->next = NULL;
	free(next);
	s->host->timer_set(s->self, s->host->now_ns() + NS_PER_SEC);
}

/* Findings are those of then; whether that content is clean is for today's rules to say. */
static void rolled_back(struct scan *s)
{
	pthread_mutex_lock(&s->lock);
	clean_forget(s);
	s->n_findings = 0;
	s->sweep = (struct scan_sweep){0};
	scan_state_load(s);
	s->sweep.active = false;
	s->sweep.pos = 0;
	s->sweep.done_ns = 0; /* it is due, where there are sweeps at all */
	pthread_mutex_unlock(&s->lock);
}

static void scan_commit(void *stage, const struct stage_event *event)
{
	struct scan *s = stage;

	if (event->kind == STAGE_EVENT_RECONFIGURE) {
		commit_reconfigure(s);
	} else if (event->kind == STAGE_EVENT_THAW) {
		thaw(s);
	} else if (event->kind == STAGE_EVENT_ROLLBACK) {
		rolled_back(s);
	}
}

static void scan_abort(void *stage, const struct stage_event *event)
{
	struct scan *s = stage;

	if (event->kind == STAGE_EVENT_QUIESCE) {
		thaw(s);
	} else if (event->kind == STAGE_EVENT_RECONFIGURE) {
		scan_destroy(s->next);
		s->next = NULL;
	}
}

/* Another try of what does not work, or a sweep that is due: both are the worker's. */
static void scan_timer(void *stage)
{
	struct scan *s = stage;
	const uint64_t now_ns = s->host->wall_ns();

	s->host->timer_set(s->self, s->host->now_ns() + 10 * NS_PER_SEC);
	pthread_mutex_lock(&s->lock);
	if (s->down) {
		s->retry_due = true;
		scan_wake(s);
	}
	if (s->interval_ns && now_ns - s->sweep.done_ns >= s->interval_ns)
		scan_sweep_start(s);
	else if (s->sweep.active || s->head)
		scan_wake(s);
	pthread_mutex_unlock(&s->lock);
}

/* --- reports --- */

static void report_findings(struct scan *s, const struct stage_report *report)
{
	char text[64 + SCAN_FINDINGS * (SCAN_NAME_LEN + 96)];
	const unsigned n = MIN(s->n_findings, SCAN_FINDINGS);
	size_t at = (size_t)snprintf(text, sizeof(text), "[");

	for (unsigned i = 0; i < n; i++) {
		const struct scan_finding *f =
		        &s->findings[(s->n_findings - 1 - i) % SCAN_FINDINGS];
		char name[SCAN_NAME_LEN];
		size_t k = 0;
		for (const char *c = f->name; *c && k + 1 < sizeof(name); c++)
			name[k++] = *c == '"' || *c == '\\' || (unsigned char)*c < 0x20 ||
			                            (unsigned char)*c > 0x7e
			                    ? '?'
			                    : *c;
		name[k] = '\0';
		at += (size_t)snprintf(text + at, sizeof(text) - at,
		        "%s{\"time_ns\":%llu,\"offset\":%llu,\"name\":\"%s\"}", i ? "," : "",
		        (unsigned long long)f->time_ns, (unsigned long long)f->off, name);
	}
	snprintf(text + at, sizeof(text) - at, "]");
	report->json(report->arg, "findings", text);
}

static void scan_report(void *stage, const struct stage_report *report)
{
	struct scan *s = stage;
	struct stage_image image;

	s->host->image(s->self, &image);
	report->number(report->arg, "requests", s->count.requests);
	report->number(report->arg, "scanned_bytes", s->count.scanned_bytes);
	report->number(report->arg, "unscanned_bytes", s->count.unscanned_bytes);
	report->number(report->arg, "found", s->count.found);
	report->number(report->arg, "blocked", s->count.blocked);
	report->number(report->arg, "timeouts", s->count.timeouts);
	pthread_mutex_lock(&s->lock);
	report->number(report->arg, "rules", s->yara ? yara_rules(s->yara) : 0);
	report->text(report->arg, "scanner", s->down ? s->why_down : "works");
	report->text(report->arg, "sweep",
	        s->sweep.active ? "running" : (s->sweep.done_ns ? "done" : "never"));
	report->number(report->arg, "sweep_done_bytes", s->sweep.pos);
	report->number(report->arg, "sweep_total_bytes", image.size);
	report->number(report->arg, "last_sweep_ns", s->sweep.done_ns);
	report->number(report->arg, "last_sweep_found", s->sweep.last_found);
	report_findings(s, report);
	pthread_mutex_unlock(&s->lock);
}

static const char *const action_names[] = {"sweep", NULL};

static int scan_action(void *stage, const char *action, const char *const *args, unsigned n_args,
        char **ret_json, struct errmsg *em)
{
	struct scan *s = stage;

	if (strcmp(action, "sweep"))
		return -EOPNOTSUPP;
	pthread_mutex_lock(&s->lock);
	scan_sweep_start(s);
	pthread_mutex_unlock(&s->lock);
	*ret_json = strdup("{\"sweep\":\"running\"}");
	return *ret_json ? 0 : errmsg_set(em, -ENOMEM, "out of memory");
}

const struct stage_type stage_scan = {
        .abi = STAGE_ABI,
        .size = sizeof(struct stage_type),
        .name = "scan",
        .version = 1,
        .summary = "looks for signatures in what is written and read (YARA rules, ClamAV)",
        .class = STAGE_INSPECT,
        .capabilities = STAGE_SEES_READS,
        .handles = OP(READ) | OP(WRITE),
        .understands = OPS_ALL,
        .settings = settings,
        .context_size = sizeof(struct scan_job),
        .create = scan_create,
        .destroy = scan_destroy,
        .check = scan_check,
        .pre = scan_pre,
        .post = scan_post,
        .prepare = scan_prepare,
        .commit = scan_commit,
        .abort = scan_abort,
        .timer = scan_timer,
        .report = scan_report,
        .action = scan_action,
        .actions = action_names,
};

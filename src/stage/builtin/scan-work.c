/*
 * scan-work.c - looking at bytes for the scan filter, on the host's thread
 *
 * One pass of the loop looks at one kept request, or, when none is there, at one piece of a sweep: so
 * a request waits for one piece at most.  The thread ends when there is nothing to do; whoever brings
 * work starts it again (scan_wake).  A start that comes while the host still counts the old run as
 * under way is made up for by the timer.
 *
 * A region is remembered as clean only when nothing unscanned changed it while it was looked at: each
 * such change counts up s->seen of its region, before and after it is applied.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "stage/builtin/scan-priv.h"

#define RETRY_NS    (10 * NS_PER_SEC)
#define SWEEP_KEEP  (64ull << 20) /* so often a sweep's place is kept */
#define SWEEP_STATE "sweep"
#define FOUND_STATE "findings"
#define SWEEP_BYTES 41u
#define FOUND_BYTES (16u + SCAN_NAME_LEN)

/* --- what is known to be clean --- */

static void regions_of(uint64_t off, size_t len, uint64_t *ret_first, uint64_t *ret_end)
{
	*ret_first = off >> SCAN_REGION_SHIFT;
	*ret_end = (off + len + SCAN_REGION_BYTES - 1) >> SCAN_REGION_SHIFT;
}

static bool region_clean(const struct scan *s, uint64_t region)
{
	return region / 64 < s->clean_words && s->clean[region / 64] >> (region % 64) & 1;
}

bool scan_is_clean(const struct scan *s, uint64_t off, size_t len)
{
	uint64_t region, end;

	regions_of(off, len, &region, &end);
	for (; region < end; region++)
		if (!region_clean(s, region))
			return false;
	return true;
}

/* Without memory for it nothing is remembered: slower, not wrong. */
static void region_set_clean(struct scan *s, uint64_t region)
{
	if (region / 64 >= s->clean_words) {
		const size_t words = (size_t)(region / 64 + 1) * 2;
		uint64_t *clean = realloc(s->clean, words * sizeof(*clean));
		if (!clean)
			return;
		memset(clean + s->clean_words, 0, (words - s->clean_words) * sizeof(*clean));
		s->clean = clean;
		s->clean_words = words;
	}
	s->clean[region / 64] |= 1ull << (region % 64);
}

void scan_soil(struct scan *s, uint64_t off, size_t len)
{
	uint64_t region, end;

	regions_of(off, len, &region, &end);
	for (; region < end; region++) {
		s->seen[region % SCAN_SEEN]++;
		if (region / 64 < s->clean_words)
			s->clean[region / 64] &= ~(1ull << (region % 64));
	}
}

/* --- state that is kept --- */

static void sweep_put(struct scan *s)
{
	uint8_t buf[SWEEP_BYTES];

	pthread_mutex_lock(&s->lock);
	const struct scan_sweep w = s->sweep;
	pthread_mutex_unlock(&s->lock);
	put_u8(buf, w.active);
	put_u64(buf + 1, w.pos);
	put_u64(buf + 9, w.found);
	put_u64(buf + 17, w.done_ns);
	put_u64(buf + 25, w.last_found);
	put_u64(buf + 33, 0);
	if (s->host->state_put(s->self, SWEEP_STATE, buf, sizeof(buf)) < 0)
		s->host->say(s->self, STAGE_SEVERITY_NOTE,
		        "the place of the sweep cannot be kept: after a restart it begins again");
}

static void findings_put(struct scan *s)
{
	uint8_t buf[SCAN_FINDINGS * FOUND_BYTES];

	pthread_mutex_lock(&s->lock);
	const unsigned n = MIN(s->n_findings, SCAN_FINDINGS);
	for (unsigned i = 0; i < n; i++) {
		const struct scan_finding *f = &s->findings[i];
		uint8_t *at = buf + (size_t)i * FOUND_BYTES;
		put_u64(at, f->time_ns);
		put_u64(at + 8, f->off);
		memcpy(at + 16, f->name, SCAN_NAME_LEN);
	}
	pthread_mutex_unlock(&s->lock);
	if (s->host->state_put(s->self, FOUND_STATE, buf, (size_t)n * FOUND_BYTES) < 0)
		s->host->say(s->self, STAGE_SEVERITY_NOTE, "a finding cannot be kept");
}

void scan_state_load(struct scan *s)
{
	uint8_t sweep[SWEEP_BYTES], found[SCAN_FINDINGS * FOUND_BYTES];
	size_t len;

	if (!s->host->state_get(s->self, SWEEP_STATE, sweep, sizeof(sweep), &len) &&
	        len == SWEEP_BYTES) {
		s->sweep.active = sweep[0] == 1;
		s->sweep.pos = get_u64(sweep + 1);
		s->sweep.found = get_u64(sweep + 9);
		s->sweep.done_ns = get_u64(sweep + 17);
		s->sweep.last_found = get_u64(sweep + 25);
	}
	if (!s->host->state_get(s->self, FOUND_STATE, found, sizeof(found), &len) &&
	        len <= sizeof(found))
		for (; (size_t)(s->n_findings + 1) * FOUND_BYTES <= len; s->n_findings++) {
			struct scan_finding *f = &s->findings[s->n_findings];
			const uint8_t *at = found + (size_t)s->n_findings * FOUND_BYTES;
			f->time_ns = get_u64(at);
			f->off = get_u64(at + 8);
			memcpy(f->name, at + 16, SCAN_NAME_LEN - 1);
		}
	s->host->timer_set(s->self, s->host->now_ns() + NS_PER_SEC);
}

/* --- engines that do not work --- */

static void engine_down(struct scan *s, const char *why)
{
	pthread_mutex_lock(&s->lock);
	const bool news = !s->down;
	s->down = true;
	snprintf(s->why_down, sizeof(s->why_down), "%s", why);
	pthread_mutex_unlock(&s->lock);
	if (news)
		s->host->say(s->self,
		        s->on_down == SCAN_DOWN_FAIL ? STAGE_SEVERITY_ALERT
		                                     : STAGE_SEVERITY_WARNING,
		        "%s: requests %s until it works", why,
		        s->on_down == SCAN_DOWN_FAIL ? "fail" : "pass unscanned");
}

void scan_engines_start(struct scan *s)
{
	struct errmsg em = {0};
	struct yara *yara = NULL;
	int r = 0;

	if (s->rules && !s->yara)
		r = yara_open(s->rules, &yara, &em);
	if (!r && s->clamd)
		r = clamd_ping(s->clamd, &em);
	pthread_mutex_lock(&s->lock);
	if (yara)
		s->yara = yara;
	const bool up = !r && s->down;
	if (!r)
		s->down = false;
	pthread_mutex_unlock(&s->lock);
	if (r < 0)
		engine_down(s, em.text);
	else if (up)
		s->host->say(s->self, STAGE_SEVERITY_NOTE, "the scanner works again");
}

/* --- findings --- */

/* Something was found at off; true: the request must not pass. */
static bool finding(struct scan *s, uint64_t off, const char *name, const char *where)
{
	atomic_fetch_add(&s->count.found, 1);
	pthread_mutex_lock(&s->lock);
	struct scan_finding *f = &s->findings[s->n_findings++ % SCAN_FINDINGS];
	*f = (struct scan_finding){.time_ns = s->host->wall_ns(), .off = off};
	snprintf(f->name, sizeof(f->name), "%s", name);
	pthread_mutex_unlock(&s->lock);
	findings_put(s);
	s->host->say(s->self, s->action == SCAN_LOG ? STAGE_SEVERITY_NOTE : STAGE_SEVERITY_ALERT,
	        "found %s in %s at %llu", name, where, (unsigned long long)off);
	if (s->action != SCAN_BLOCK)
		return false;
	char why[SCAN_NAME_LEN + 64];
	snprintf(why, sizeof(why), "scan found %s in %s", name, where);
	s->host->quarantine(s->self, why);
	return true;
}

/* --- looking at a range of the image --- */

/* Bytes of the image with those around them. */
struct look {
	uint8_t *buf; /* owned */
	uint64_t off; /* of buf in the image */
	size_t len;
	size_t from, to; /* what it is about, in buf */
};

/* What stands below, zeros behind the end. */
static int below_read(struct scan *s, uint64_t off, uint8_t *buf, size_t len)
{
	int r = 0;

	while (len > 0 && !r) {
		struct request req = {
		        .op = REQUEST_READ,
		        .flags = REQUEST_COUNTLESS,
		        .off = off,
		        .len = MIN(len, REQUEST_LEN_MAX),
		};
		r = s->host->call_below(s->self, &req);
		const size_t n = r ? 0 : MIN(req.out.len, req.len);
		if (!r) {
			readv_copy(&req.out, 0, buf, n);
			memset(buf + n, 0, req.len - n);
		}
		readv_release(&req.out);
		off += req.len;
		buf += req.len;
		len -= req.len;
	}
	return r;
}

static int look_new(struct scan *s, uint64_t off, size_t len, size_t before, struct look *ret_look)
{
	struct look l = {.off = off - MIN(off, before)};

	l.from = (size_t)(off - l.off);
	l.to = l.from + len;
	l.len = l.to + s->window;
	l.buf = malloc(l.len);
	if (!l.buf)
		return -ENOMEM;
	*ret_look = l;
	return 0;
}

/* Lays what a write brings over the bytes. */
static void look_overlay(struct look *l, uint64_t off, const uint8_t *data, size_t len)
{
	const uint64_t lo = MAX(off, l->off), hi = MIN(off + len, l->off + l->len);

	if (lo < hi)
		memcpy(l->buf + (lo - l->off), data + (lo - off), (size_t)(hi - lo));
}

/*
 * Reads what stands below, and lays the writes over it that were on their way before: of each, either
 * its bytes are below already, or it is still in the ring.  Copies are taken before the read, for the
 * writes may end meanwhile.
 */
static int look_fill(struct scan *s, struct look *l)
{
	struct look before = *l;
	uint8_t *have = calloc(1, l->len); /* 1: comes from a write on its way */

	before.buf = malloc(l->len);
	if (!have || !before.buf) {
		free(have);
		free(before.buf);
		return -ENOMEM;
	}
	pthread_mutex_lock(&s->lock);
	for (struct scan_job *j = s->passing.passing; j != &s->passing; j = j->passing) {
		const uint64_t lo = MAX(j->off, l->off), hi = MIN(j->off + j->len, l->off + l->len);
		look_overlay(&before, j->off, j->data, j->len);
		if (lo < hi)
			memset(have + (lo - l->off), 1, (size_t)(hi - lo));
	}
	pthread_mutex_unlock(&s->lock);
	const int r = below_read(s, l->off, l->buf, l->len);
	for (size_t i = 0; !r && i < l->len; i++)
		if (have[i])
			l->buf[i] = before.buf[i];
	free(have);
	free(before.buf);
	return r;
}

/* By the rules.  -ETIMEDOUT and so on: it could not be looked at. */
static int look_scan(struct scan *s, const struct look *l, bool *ret_found, char *name)
{
	const int r =
	        yara_scan(s->yara, l->buf, l->len, l->from, l->to, s->timeout_s, ret_found, name);

	if (r == -ETIMEDOUT)
		atomic_fetch_add(&s->count.timeouts, 1);
	else if (!r)
		atomic_fetch_add(&s->count.scanned_bytes, l->to - l->from);
	return r;
}

/* --- kept requests --- */

/* 0: it may pass; or why not. */
static int write_judge(struct scan *s, struct scan_job *job)
{
	char name[SCAN_NAME_LEN];
	bool found = false;
	struct look l;
	int r = look_new(s, job->off, job->len, s->window, &l);

	if (r < 0)
		return r;
	r = look_fill(s, &l);
	if (!r) {
		look_overlay(&l, job->off, job->data, job->len);
		r = look_scan(s, &l, &found, name);
	}
	free(l.buf);
	if (r < 0)
		return r;
	return found && finding(s, job->off, name, "a write") ? -EPERM : 0;
}

static int region_judge(struct scan *s, uint64_t region)
{
	const uint64_t off = region << SCAN_REGION_SHIFT;
	char name[SCAN_NAME_LEN];
	bool found = false;
	struct look l;
	int r = look_new(s, off, SCAN_REGION_BYTES, s->window, &l);

	if (r < 0)
		return r;
	pthread_mutex_lock(&s->lock);
	const uint32_t seen = s->seen[region % SCAN_SEEN];
	pthread_mutex_unlock(&s->lock);
	r = below_read(s, l.off, l.buf, l.len);
	if (!r)
		r = look_scan(s, &l, &found, name);
	free(l.buf);
	if (r < 0)
		return r;
	if (found && finding(s, off, name, "a read"))
		return -EPERM; /* and so it will be the next time */
	pthread_mutex_lock(&s->lock);
	if (seen == s->seen[region % SCAN_SEEN])
		region_set_clean(s, region);
	pthread_mutex_unlock(&s->lock);
	return 0;
}

static int read_judge(struct scan *s, struct scan_job *job)
{
	uint64_t region, end;
	int r = 0;

	regions_of(job->off, job->len, &region, &end);
	for (; region < end && !r; region++) {
		pthread_mutex_lock(&s->lock);
		const bool clean = region_clean(s, region);
		pthread_mutex_unlock(&s->lock);
		if (!clean)
			r = region_judge(s, region);
	}
	return r;
}

/* The end of a kept request: it goes on, or fails. */
static void job_end(struct scan *s, struct scan_job *job, int r)
{
	struct request *req = job->req;
	const bool is_write = job->data;

	if (r < 0 && r != -EPERM && s->on_down == SCAN_DOWN_PASS) {
		atomic_fetch_add(&s->count.unscanned_bytes, job->len);
		r = 0;
		if (is_write) { /* reads are to look at what could not be looked at now */
			pthread_mutex_lock(&s->lock);
			job->unscanned = true;
			scan_soil(s, job->off, job->len);
			pthread_mutex_unlock(&s->lock);
		}
	}
	if (!r) {
		s->host->resume(s->self, req, is_write ? STAGE_PASS_POST : STAGE_PASS);
		return;
	}
	if (r == -EPERM)
		atomic_fetch_add(&s->count.blocked, 1);
	if (is_write) { /* it gets no post() */
		pthread_mutex_lock(&s->lock);
		job->prev->passing = job->passing;
		job->passing->prev = job->prev;
		pthread_mutex_unlock(&s->lock);
		free(job->data);
		job->data = NULL;
	}
	req->result = r == -EPERM ? -EPERM : -EIO;
	s->host->resume(s->self, req, STAGE_FAIL);
}

/* --- sweeps --- */

void scan_sweep_start(struct scan *s)
{
	if (!s->sweep.active) {
		s->sweep.active = true;
		s->sweep.pos = 0;
		s->sweep.found = 0;
	}
	s->sweep.retry_ns = 0;
	scan_wake(s);
}

static void sweep_end(struct scan *s)
{
	pthread_mutex_lock(&s->lock);
	s->sweep.active = false;
	s->sweep.done_ns = s->host->wall_ns();
	s->sweep.last_found = s->sweep.found;
	const unsigned long long found = s->sweep.found;
	pthread_mutex_unlock(&s->lock);
	atomic_fetch_add(&s->count.sweeps, 1);
	sweep_put(s);
	s->host->say(
	        s->self, STAGE_SEVERITY_NOTE, "sweep of the whole image done: %llu found", found);
}

/* Where the next data is; the image's end when there is none. */
static int next_data(struct scan *s, uint64_t off, uint64_t size, uint64_t *ret_off)
{
	struct request req = {.op = REQUEST_EXTENTS, .flags = REQUEST_COUNTLESS, .off = off};

	if (off >= size) {
		*ret_off = size;
		return 0;
	}
	const int r = s->host->call_below(s->self, &req);
	if (r < 0 && r != -ENXIO)
		return r;
	*ret_off = r ? size : MIN(req.found, size);
	return 0;
}

/* Asks both engines; clamd being away: -EAGAIN. */
static int piece_scan(struct scan *s, const struct look *l, bool *ret_found, char *name)
{
	struct errmsg em = {0};
	int r = 0;

	if (s->yara)
		r = look_scan(s, l, ret_found, name);
	if (r < 0 || *ret_found || !s->clamd)
		return r == -ETIMEDOUT ? 0 : r;
	r = clamd_scan(s->clamd, l->buf, l->to, ret_found, name, &em);
	if (r < 0) {
		engine_down(s, em.text);
		return -EAGAIN;
	}
	return 0;
}

static int sweep_piece(struct scan *s, uint64_t off, size_t len)
{
	char name[SCAN_NAME_LEN];
	bool found = false;
	struct look l;
	int r = look_new(s, off, len, MAX(s->window, SCAN_REGION_BYTES), &l);

	if (r < 0)
		return r;
	r = below_read(s, l.off, l.buf, l.len);
	if (!r)
		r = piece_scan(s, &l, &found, name);
	free(l.buf);
	if (!r && found) {
		pthread_mutex_lock(&s->lock);
		s->sweep.found++;
		pthread_mutex_unlock(&s->lock);
		finding(s, off, name, "a sweep");
	}
	return r;
}

/* One step of the sweep: the next piece that holds data. */
static void sweep_step(struct scan *s)
{
	struct stage_image image;
	uint64_t off = 0;

	s->host->image(s->self, &image);
	pthread_mutex_lock(&s->lock);
	const uint64_t pos = s->sweep.pos;
	pthread_mutex_unlock(&s->lock);
	int r = next_data(s, pos, image.size, &off);
	if (!r && off >= image.size) {
		sweep_end(s);
		return;
	}
	const size_t len = (size_t)MIN(SCAN_PIECE_BYTES, image.size - off);
	if (!r)
		r = sweep_piece(s, off, len);
	pthread_mutex_lock(&s->lock);
	if (r < 0)
		s->sweep.retry_ns = s->host->now_ns() + RETRY_NS;
	else
		s->sweep.pos = off + len;
	pthread_mutex_unlock(&s->lock);
	if (!r && pos / SWEEP_KEEP != (off + len) / SWEEP_KEEP)
		sweep_put(s);
}

/* --- the thread --- */

void scan_wake(struct scan *s)
{
	if (s->running)
		return;
	if (s->host->work(s->self, scan_work))
		s->running = true;
	else
		s->host->timer_set(s->self, s->host->now_ns() + NS_PER_MS);
}

enum step { STEP_END, STEP_JOB, STEP_RETRY, STEP_SWEEP };

/* With the lock: what to do next. */
static enum step next_step(struct scan *s, struct scan_job **ret_job)
{
	if (s->head) {
		*ret_job = s->head;
		s->head = s->head->next;
		if (!s->head)
			s->tail = &s->head;
		return STEP_JOB;
	}
	if (s->quiet || s->host->cancelled(s->self))
		return STEP_END;
	if (s->retry_due) {
		s->retry_due = false;
		return STEP_RETRY;
	}
	if (s->sweep.active && s->host->now_ns() >= s->sweep.retry_ns)
		return STEP_SWEEP;
	return STEP_END;
}

void scan_work(void *stage)
{
	struct scan *s = stage;
	struct scan_job *job = NULL;
	enum step step;

	for (;;) {
		pthread_mutex_lock(&s->lock);
		step = next_step(s, &job);
		if (step == STEP_END) {
			s->running = false;
			pthread_cond_broadcast(&s->idle);
			pthread_mutex_unlock(&s->lock);
			return;
		}
		pthread_mutex_unlock(&s->lock);
		if (step == STEP_JOB)
			job_end(s, job, job->data ? write_judge(s, job) : read_judge(s, job));
		else if (step == STEP_RETRY)
			scan_engines_start(s);
		else
			sweep_step(s);
	}
}

/*
 * notice.c - see notice.h
 *
 * The lock guards the queue, the ring and the list of what is in quarantine.  The list is looked at
 * for every change of every image: while it is empty, that is one load of a counter.
 *
 * Quarantine does not pass the queue, which may be full: an entry of the list is either recorded or
 * not, and the clerk looks for those that are not before it takes a message; what fails is tried
 * again every RECORD_RETRY_NS.  Whoever puts an image in quarantine waits for the first try.  Lifting
 * and recording exclude each other by the manager's record_lock: what is lifted counts as recorded
 * from then on, so a row never comes after its deletion.
 */
#include "fs/filter/notice.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "base/blocking.h"
#include "base/clock.h"
#include "base/log.h"
#include "fs/control/text.h"
#include "fs/filter/manager-private.h"

#define RECORD_RETRY_NS (10 * NS_PER_SEC)

struct notice {
	uint64_t ino, time_ns;
	enum stage_severity severity;
	bool quarantine;
	char type[32];
	char text[NOTICE_TEXT];
};

struct quarantined {
	struct quarantined *next;
	struct notice notice;
	bool recorded;        /* there is a row; or it is being lifted */
	bool tried;           /* once at least */
	uint64_t retry_at_ns; /* not recorded, and tried */
};

struct notices {
	struct manager *m;
	pthread_mutex_t lock;
	pthread_cond_t cond;  /* something is queued, or ending */
	pthread_cond_t tried; /* the clerk has tried to record a quarantine, or one is lifted */
	pthread_t clerk;
	bool running, ending;
	struct notice queue[NOTICES_QUEUED];
	unsigned queue_at, queued;
	uint64_t dropped;
	struct notice ring[ALERTS_MAX];
	unsigned ring_at, ringed;
	struct quarantined *quarantine;
	_Atomic unsigned n_quarantine;
};

/* --- quarantine; under the lock --- */

static struct quarantined **quarantine_find(struct notices *n, uint64_t ino)
{
	struct quarantined **at = &n->quarantine;

	while (*at && (*at)->notice.ino != ino)
		at = &(*at)->next;
	return at;
}

static int quarantine_add(struct notices *n, const struct notice *notice, bool recorded)
{
	struct quarantined *q = *quarantine_find(n, notice->ino);

	if (q)
		return 0;
	q = calloc(1, sizeof(*q));
	if (!q)
		return -ENOMEM;
	q->notice = *notice;
	q->recorded = recorded;
	q->next = n->quarantine;
	n->quarantine = q;
	n->n_quarantine++;
	return 0;
}

bool notices_quarantined(struct notices *n, uint64_t ino)
{
	if (LIKELY(atomic_load_explicit(&n->n_quarantine, memory_order_acquire) == 0))
		return false;
	pthread_mutex_lock(&n->lock);
	const bool found = *quarantine_find(n, ino);
	pthread_mutex_unlock(&n->lock);
	return found;
}

int notices_quarantine_why(struct notices *n, uint64_t ino, char ret_why[NOTICE_TEXT])
{
	pthread_mutex_lock(&n->lock);
	const struct quarantined *q = *quarantine_find(n, ino);
	if (q)
		memcpy(ret_why, q->notice.text, NOTICE_TEXT);
	pthread_mutex_unlock(&n->lock);
	return q ? 0 : -ENOENT;
}

void notices_lifting(struct notices *n, uint64_t ino, bool lifting)
{
	pthread_mutex_lock(&n->lock);
	struct quarantined *q = *quarantine_find(n, ino);
	if (q)
		q->recorded = lifting;
	pthread_cond_signal(&n->cond);
	pthread_mutex_unlock(&n->lock);
}

void notices_lifted(struct notices *n, uint64_t ino)
{
	pthread_mutex_lock(&n->lock);
	struct quarantined **at = quarantine_find(n, ino), *q = *at;
	if (q) {
		*at = q->next;
		n->n_quarantine--;
		pthread_cond_broadcast(&n->tried);
	}
	pthread_mutex_unlock(&n->lock);
	free(q);
}

/* Is it still to be recorded? */
static bool quarantine_wanted(struct notices *n, uint64_t ino)
{
	pthread_mutex_lock(&n->lock);
	const struct quarantined *q = *quarantine_find(n, ino);
	const bool wanted = q && !q->recorded;
	pthread_mutex_unlock(&n->lock);
	return wanted;
}

/* Under the lock: until the clerk has tried.  The entry may go meanwhile. */
static void quarantine_wait(struct notices *n, uint64_t ino)
{
	blocking_begin();
	for (;;) {
		const struct quarantined *q = *quarantine_find(n, ino);
		if (!q || q->recorded || q->tried || !n->running)
			break;
		pthread_cond_wait(&n->tried, &n->lock);
	}
	blocking_end();
}

/* --- queueing --- */

static void notice_queue(struct notices *n, const struct notice *notice)
{
	pthread_mutex_lock(&n->lock);
	if (n->queued == NOTICES_QUEUED)
		n->dropped++;
	else
		n->queue[(n->queue_at + n->queued++) % NOTICES_QUEUED] = *notice;
	pthread_cond_signal(&n->cond);
	pthread_mutex_unlock(&n->lock);
}

static struct notice notice_of(
        uint64_t ino, const char *type, enum stage_severity severity, const char *text)
{
	struct notice notice = {.ino = ino, .time_ns = clock_wall_ns(), .severity = severity};

	snprintf(notice.type, sizeof(notice.type), "%s", type);
	snprintf(notice.text, sizeof(notice.text), "%s", text);
	return notice;
}

void notices_say(struct notices *n, uint64_t ino, const char *type, enum stage_severity severity,
        const char *text)
{
	const struct notice notice = notice_of(ino, type, severity, text);

	notice_queue(n, &notice);
}

void notices_quarantine(struct notices *n, uint64_t ino, const char *type, const char *why)
{
	struct notice notice = notice_of(ino, type, STAGE_SEVERITY_ALERT, why);

	notice.quarantine = true;
	pthread_mutex_lock(&n->lock);
	const int r = quarantine_add(n, &notice, n->m->read_only);
	pthread_cond_signal(&n->cond);
	quarantine_wait(n, ino);
	pthread_mutex_unlock(&n->lock);
	if (r < 0)
		log_error("inode %llu: cannot be put in quarantine: %s", (unsigned long long)ino,
		        strerror(-r));
}

/* --- the clerk --- */

static void notice_log(const struct notice *notice, const char *path)
{
	static const enum log_level level[] = {
	        [STAGE_SEVERITY_NOTE] = LOG_NOTE,
	        [STAGE_SEVERITY_WARNING] = LOG_WARN,
	        [STAGE_SEVERITY_ALERT] = LOG_ERROR,
	};

	log_line(level[notice->severity], "%s of '%s': %s%s", notice->type, path,
	        notice->quarantine ? "put in quarantine: " : "", notice->text);
}

static int notice_record(struct notices *n, const struct notice *notice, const char *path)
{
	struct manager *m = n->m;
	int r = rows_begin_anyway(m, NULL);

	if (r < 0)
		return r;
	if (notice->quarantine && !quarantine_wanted(n, notice->ino)) {
		rows_end(m); /* lifted while we came here */
		return 0;
	}
	if (notice->quarantine)
		r = ns_record_put(m->ds->ns, RECORD_FLAG, notice->ino, QUARANTINE_FLAG,
		        notice->text, strlen(notice->text));
	if (!r)
		r = audit_note(m, NULL, notice->quarantine ? "quarantine" : "alert", notice->ino,
		        path, notice->type, NULL, notice->text);
	rows_end(m);
	return r < 0 ? r : rows_flush(m);
}

/* Without the lock. */
static int notice_work(struct notices *n, const struct notice *notice, bool again)
{
	char path[FILTER_PATH_MAX];
	int r = 0;

	target_path(n->m->ds->ns, notice->ino, path);
	if (!again)
		notice_log(notice, path);
	if (notice->severity == STAGE_SEVERITY_ALERT && !n->m->read_only)
		r = notice_record(n, notice, path);
	if (r < 0 && !again)
		log_error("'%s': %s cannot be recorded: %s", path,
		        notice->quarantine ? "its quarantine" : "an alert", strerror(-r));
	return r;
}

static void ring_add(struct notices *n, const struct notice *notice)
{
	if (notice->severity == STAGE_SEVERITY_NOTE)
		return;
	n->ring[(n->ring_at + n->ringed) % ALERTS_MAX] = *notice;
	if (n->ringed < ALERTS_MAX)
		n->ringed++;
	else
		n->ring_at = (n->ring_at + 1) % ALERTS_MAX;
}

/* Under the lock: one that is to be recorded now; else *ret_at_ns: when one will be, 0: none. */
static struct quarantined *quarantine_due(struct notices *n, uint64_t *ret_at_ns)
{
	const uint64_t now_ns = clock_now_ns();

	*ret_at_ns = 0;
	for (struct quarantined *q = n->quarantine; q; q = q->next) {
		if (q->recorded)
			continue;
		if (q->retry_at_ns <= now_ns)
			return q;
		if (*ret_at_ns == 0 || q->retry_at_ns < *ret_at_ns)
			*ret_at_ns = q->retry_at_ns;
	}
	return NULL;
}

/* Under the lock, which it opens meanwhile. */
static void quarantine_work(struct notices *n, const struct quarantined *due)
{
	const struct notice notice = due->notice;
	const bool again = due->tried;

	if (!again)
		ring_add(n, &notice);
	pthread_mutex_unlock(&n->lock);
	const int r = notice_work(n, &notice, again);
	pthread_mutex_lock(&n->lock);
	struct quarantined *q = *quarantine_find(n, notice.ino);
	if (q) {
		q->tried = true;
		q->recorded |= r == 0;
		q->retry_at_ns = clock_now_ns() + RECORD_RETRY_NS;
	}
	pthread_cond_broadcast(&n->tried);
}

/* Likewise: the next message. */
static void queue_work(struct notices *n)
{
	const struct notice notice = n->queue[n->queue_at];
	const uint64_t dropped = n->dropped;

	n->dropped = 0;
	n->queue_at = (n->queue_at + 1) % NOTICES_QUEUED;
	n->queued--;
	ring_add(n, &notice);
	pthread_mutex_unlock(&n->lock);
	(void)notice_work(n, &notice, false); /* it has said what went wrong */
	if (dropped)
		log_warn("%llu messages of filters came too fast and were dropped",
		        (unsigned long long)dropped);
	pthread_mutex_lock(&n->lock);
}

static void clerk_wait(struct notices *n, uint64_t at_ns)
{
	const struct timespec ts = {
	        .tv_sec = (time_t)(at_ns / NS_PER_SEC), .tv_nsec = (long)(at_ns % NS_PER_SEC)};

	if (at_ns)
		pthread_cond_timedwait(&n->cond, &n->lock, &ts);
	else
		pthread_cond_wait(&n->cond, &n->lock);
}

static void *clerk_main(void *arg)
{
	struct notices *n = arg;
	uint64_t at_ns;

	pthread_mutex_lock(&n->lock);
	for (;;) {
		const struct quarantined *due = quarantine_due(n, &at_ns);
		if (due)
			quarantine_work(n, due);
		else if (n->queued > 0)
			queue_work(n);
		else if (n->ending)
			break;
		else
			clerk_wait(n, at_ns);
	}
	pthread_mutex_unlock(&n->lock);
	return NULL;
}

/* --- life --- */

static int flag_take(void *arg, uint64_t owner, uint64_t id, const void *value, size_t len)
{
	struct notices *n = arg;
	struct notice notice = {.ino = owner, .severity = STAGE_SEVERITY_ALERT, .quarantine = true};

	memcpy(notice.text, value, MIN(len, sizeof(notice.text) - 1));
	return id == QUARANTINE_FLAG ? quarantine_add(n, &notice, true) : 0;
}

static void conds_init(struct notices *n)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&n->cond, &attr);
	pthread_cond_init(&n->tried, NULL);
	pthread_condattr_destroy(&attr);
}

int notices_new(struct manager *m, struct notices **ret_n, struct errmsg *em)
{
	struct notices *n = calloc(1, sizeof(*n));

	if (!n)
		return errmsg_set(em, -ENOMEM, "out of memory");
	n->m = m;
	pthread_mutex_init(&n->lock, NULL);
	conds_init(n);
	const int r = ns_record_each_owner(m->ds->ns, RECORD_FLAG, flag_take, n);
	if (r < 0) {
		notices_free(n);
		return errmsg_set(
		        em, r, "cannot read which images are in quarantine: %s", strerror(-r));
	}
	*ret_n = n;
	return 0;
}

int notices_start(struct notices *n, struct errmsg *em)
{
	const int r = pthread_create(&n->clerk, NULL, clerk_main, n);

	if (r)
		return errmsg_set(em, -r, "cannot start a thread: %s", strerror(r));
	n->running = true;
	return 0;
}

void notices_stop(struct notices *n)
{
	if (!n || !n->running)
		return;
	pthread_mutex_lock(&n->lock);
	n->ending = true;
	pthread_cond_signal(&n->cond);
	pthread_mutex_unlock(&n->lock);
	pthread_join(n->clerk, NULL);
	pthread_mutex_lock(&n->lock);
	n->running = false;
	pthread_cond_broadcast(&n->tried);
	pthread_mutex_unlock(&n->lock);
}

void notices_free(struct notices *n)
{
	struct quarantined *q;

	if (!n)
		return;
	notices_stop(n);
	while ((q = n->quarantine)) {
		n->quarantine = q->next;
		free(q);
	}
	pthread_cond_destroy(&n->cond);
	pthread_cond_destroy(&n->tried);
	pthread_mutex_destroy(&n->lock);
	free(n);
}

/* --- the status --- */

static json_t *quarantined_json(struct notices *n, uint64_t ino, const char *why)
{
	char path[FILTER_PATH_MAX];

	target_path(n->m->ds->ns, ino, path);
	return json_pack("{s:o, s:o}", "target", text_json(path), "reason", text_json(why));
}

/* Paths are looked up without the lock: from copies. */
json_t *notices_quarantine_json(struct notices *n)
{
	json_t *list = json_array();
	struct quarantined *copy = NULL;
	struct ns_inode inode;
	size_t count = 0;

	pthread_mutex_lock(&n->lock);
	copy = calloc(n->n_quarantine + 1, sizeof(*copy));
	for (const struct quarantined *q = n->quarantine; q && copy; q = q->next)
		copy[count++] = *q;
	pthread_mutex_unlock(&n->lock);
	bool good = list && copy;
	for (size_t i = 0; i < count && good; i++)
		if (ns_inode_get(n->m->ds->ns, copy[i].notice.ino, &inode) == 0 && inode.nlink > 0)
			good = json_array_append_new(list, quarantined_json(n, copy[i].notice.ino,
			                                           copy[i].notice.text)) == 0;
	free(copy);
	if (good)
		return list;
	json_decref(list);
	return NULL;
}

static json_t *notice_json(struct notices *n, const struct notice *notice)
{
	char path[FILTER_PATH_MAX];

	target_path(n->m->ds->ns, notice->ino, path);
	return json_pack("{s:I, s:s, s:o, s:s, s:o}", "time_ns", (json_int_t)notice->time_ns,
	        "severity", notice->severity == STAGE_SEVERITY_ALERT ? "alert" : "warning",
	        "target", text_json(path), "type", notice->type, "text", text_json(notice->text));
}

json_t *notices_json(struct notices *n)
{
	json_t *list = json_array();
	struct notice *copy = malloc(sizeof(n->ring));
	unsigned count = 0;

	if (copy) {
		pthread_mutex_lock(&n->lock);
		for (; count < n->ringed; count++)
			copy[count] = n->ring[(n->ring_at + count) % ALERTS_MAX];
		pthread_mutex_unlock(&n->lock);
	}
	for (unsigned i = 0; i < count && list; i++) {
		if (json_array_append_new(list, notice_json(n, &copy[i])) < 0) {
			json_decref(list);
			list = NULL;
		}
	}
	free(copy);
	return list;
}

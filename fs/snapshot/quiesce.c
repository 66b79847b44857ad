/*
 * quiesce.c - see quiesce.h
 *
 *	state      the thread                          quiesce_holds()
 *	FREEZING   asks one guest after the other      no
 *	FROZEN     waits for the instant, or its end   yes
 *	THAWING    until all have answered             no
 *	ENDED      is gone                             no
 *
 * A guest counts as frozen from the moment it is asked to freeze.  Thawing is asked for on a fresh
 * connection when the old one does not answer, until it is confirmed: by a thaw that is answered, or
 * because nobody listens any more.
 */
#include "fs/snapshot/quiesce.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "fs/snapshot/agent.h"

#define CALL_NS  (5 * NS_PER_SEC) /* one answer, of those that come at once */
#define AGAIN_NS (200 * NS_PER_MS)

const struct quiesce_limits quiesce_limits_default = {
        .freeze_ns = QUIESCE_FREEZE_SECONDS * NS_PER_SEC,
        .hold_ns = QUIESCE_HOLD_SECONDS * NS_PER_SEC,
        .thaw_ns = QUIESCE_THAW_SECONDS * NS_PER_SEC,
};

enum quiesce_state { FREEZING, FROZEN, THAWING, ENDED };

struct guest {
	char path[AGENT_PATH_MAX + 1];
	struct agent *agent; /* NULL: not connected */
	bool asked;          /* to freeze */
};

struct quiesce {
	struct quiesce_limits limits;
	const _Atomic bool *cancel;
	bool lenient;
	pthread_t thread;
	unsigned n, n_frozen; /* constant once it is FROZEN */
	struct guest guests[QUIESCE_AGENTS_MAX];

	pthread_mutex_t lock; /* guards what follows */
	pthread_cond_t cond;  /* the state changed, or a thaw is wanted; monotonic */
	enum quiesce_state state;
	bool thaw_wanted;
	int result;
	struct errmsg em;
};

static bool is_cancelled(const struct quiesce *q)
{
	return q->cancel && atomic_load(q->cancel);
}

static void result_set(struct quiesce *q, int r, const struct errmsg *em)
{
	pthread_mutex_lock(&q->lock);
	if (q->result == 0) {
		q->result = r;
		q->em = *em;
	}
	pthread_mutex_unlock(&q->lock);
}

static void state_set(struct quiesce *q, enum quiesce_state state)
{
	pthread_mutex_lock(&q->lock);
	q->state = state;
	pthread_cond_broadcast(&q->cond);
	pthread_mutex_unlock(&q->lock);
}

/* --- freezing --- */

static int refuse_frozen(const struct guest *g, struct errmsg *em)
{
	return errmsg_set(em, -EBUSY,
	        "the guest of '%s' is frozen already, by somebody else: thaw it first", g->path);
}

static int guest_freeze(struct quiesce *q, struct guest *g, uint64_t until_ns, struct errmsg *em)
{
	struct agent_reply reply;
	int r = agent_open(g->path, until_ns, q->cancel, &g->agent, em);

	if (r < 0)
		return r;
	r = agent_call(g->agent, "guest-fsfreeze-status", until_ns, &reply, em);
	if (r < 0)
		return r;
	if (!reply.failed && !strcmp(reply.text, "frozen"))
		return refuse_frozen(g, em);
	g->asked = true;
	r = agent_call(g->agent, "guest-fsfreeze-freeze", until_ns, &reply, em);
	if (r < 0)
		return r;
	if (reply.failed)
		return errmsg_set(
		        em, -EIO, "the guest of '%s' cannot freeze: %s", g->path, reply.text);
	if (reply.number < 1)
		return errmsg_set(em, -EIO, "the guest of '%s' froze no file system", g->path);
	q->n_frozen++;
	return 0;
}

static int freeze_all(struct quiesce *q, struct errmsg *em)
{
	const uint64_t until_ns = clock_now_ns() + q->limits.freeze_ns;
	int r = 0;

	for (unsigned i = 0; i < q->n && r == 0; i++) {
		r = guest_freeze(q, &q->guests[i], until_ns, em);
		if (q->lenient && (r == -ENOENT || r == -ECONNREFUSED))
			r = 0;
	}
	return r;
}

/* --- thawing --- */

/* Before it is thawed on purpose: is it still frozen? */
static int guest_check(struct quiesce *q, struct guest *g, struct errmsg *em)
{
	struct agent_reply reply;
	const int r =
	        agent_call(g->agent, "guest-fsfreeze-status", clock_now_ns() + CALL_NS, &reply, em);

	if (r < 0)
		return r;
	if (reply.failed || strcmp(reply.text, "frozen"))
		return errmsg_set(em, -ESTALE,
		        "the guest of '%s' was not frozen any more at the instant: it is as if its "
		        "power had failed then",
		        g->path);
	return 0;
}

/* 0: it says that it is thawed, or nobody is there.  Not cancelled: it has an end anyway. */
static int thaw_once(struct guest *g, struct errmsg *em)
{
	struct agent_reply reply;
	int r = 0;

	if (!g->agent)
		r = agent_open(g->path, clock_now_ns() + CALL_NS, NULL, &g->agent, em);
	if (r == 0)
		r = agent_call(
		        g->agent, "guest-fsfreeze-thaw", clock_now_ns() + CALL_NS, &reply, em);
	if (r == 0 && reply.failed)
		r = agent_call(
		        g->agent, "guest-fsfreeze-status", clock_now_ns() + CALL_NS, &reply, em);
	if (r == 0 && (reply.failed || !strcmp(reply.text, "frozen")))
		r = errmsg_set(em, -EIO, "the guest of '%s' does not thaw", g->path);
	if (r == -ENOENT || r == -ECONNREFUSED)
		return 0;
	if (r < 0) {
		agent_close(g->agent);
		g->agent = NULL;
	}
	return r;
}

static void guest_thaw(struct quiesce *q, struct guest *g)
{
	const uint64_t until_ns = clock_now_ns() + q->limits.thaw_ns;
	const struct timespec again = {.tv_nsec = (long)AGAIN_NS};
	struct errmsg em = {0}, text = {0};
	int r = thaw_once(g, &em);

	/* -ECANCELED is of the connection from before: the next one has its time all the same. */
	while (r < 0 && clock_now_ns() < until_ns && (r == -ECANCELED || !is_cancelled(q))) {
		nanosleep(&again, NULL);
		r = thaw_once(g, &em);
	}
	if (r < 0) {
		r = errmsg_set(&text, -ETIMEDOUT,
		        "the guest of '%s' may still be frozen (virsh domfsthaw, or restart it): "
		        "%.256s",
		        g->path, em.text);
		log_error("%s", text.text);
		pthread_mutex_lock(&q->lock);
		q->result = r; /* worse than what was before */
		q->em = text;
		pthread_mutex_unlock(&q->lock);
	}
}

/* check: they are to have been frozen until now. */
static void thaw_all(struct quiesce *q, bool check)
{
	struct errmsg em = {0};

	for (unsigned i = 0; i < q->n; i++) {
		struct guest *g = &q->guests[i];
		const int r = g->asked && check ? guest_check(q, g, &em) : 0;
		if (r < 0)
			result_set(q, r, &em);
		if (r < 0 && r != -ESTALE) { /* half a conversation: begin anew */
			agent_close(g->agent);
			g->agent = NULL;
		}
		if (g->asked)
			guest_thaw(q, g);
		agent_close(g->agent);
		g->agent = NULL;
	}
}

/* --- the thread --- */

/* True: the instant was fixed; false: it took too long. */
static bool hold(struct quiesce *q)
{
	const uint64_t until_ns = clock_now_ns() + q->limits.hold_ns;
	const struct timespec ts = {.tv_sec = (time_t)(until_ns / NS_PER_SEC),
	        .tv_nsec = (long)(until_ns % NS_PER_SEC)};
	int r = 0;

	pthread_mutex_lock(&q->lock);
	q->state = FROZEN;
	pthread_cond_broadcast(&q->cond);
	while (!q->thaw_wanted && r == 0)
		r = pthread_cond_timedwait(&q->cond, &q->lock, &ts);
	const bool wanted = q->thaw_wanted;
	q->state = THAWING;
	pthread_mutex_unlock(&q->lock);
	return wanted;
}

static void *quiesce_main(void *arg)
{
	struct quiesce *q = arg;
	struct errmsg em = {0};
	const int r = freeze_all(q, &em);
	bool wanted = false;

	if (r < 0)
		result_set(q, r, &em);
	else
		wanted = hold(q);
	thaw_all(q, wanted);
	state_set(q, ENDED);
	return NULL;
}

/* --- from outside --- */

static void quiesce_free(struct quiesce *q)
{
	pthread_cond_destroy(&q->cond);
	pthread_mutex_destroy(&q->lock);
	free(q);
}

static struct quiesce *quiesce_new(const char *const *sockets, size_t n)
{
	struct quiesce *q = calloc(1, sizeof(*q));
	pthread_condattr_t attr;

	if (!q)
		return NULL;
	for (size_t i = 0; i < n; i++)
		snprintf(q->guests[i].path, sizeof(q->guests[i].path), "%s", sockets[i]);
	q->n = (unsigned)n;
	pthread_mutex_init(&q->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&q->cond, &attr);
	pthread_condattr_destroy(&attr);
	return q;
}

int quiesce_begin(const char *const *sockets, size_t n, bool lenient,
        const struct quiesce_limits *limits, const _Atomic bool *cancel, struct quiesce **ret_q,
        struct errmsg *em)
{
	if (n > QUIESCE_AGENTS_MAX)
		return errmsg_set(em, -E2BIG, "more than %u guests to freeze", QUIESCE_AGENTS_MAX);
	struct quiesce *q = quiesce_new(sockets, n);
	if (!q)
		return errmsg_set(em, -ENOMEM, "out of memory");
	q->limits = *limits;
	q->lenient = lenient;
	q->cancel = cancel;
	const int r = pthread_create(&q->thread, NULL, quiesce_main, q);
	if (r) {
		quiesce_free(q);
		return errmsg_set(em, -r, "cannot start a thread: %s", strerror(r));
	}
	pthread_mutex_lock(&q->lock);
	while (q->state == FREEZING || (q->result < 0 && q->state != ENDED))
		pthread_cond_wait(&q->cond, &q->lock);
	const bool frozen = q->result == 0;
	pthread_mutex_unlock(&q->lock);
	if (!frozen)
		return quiesce_end(q, em);
	*ret_q = q;
	return 0;
}

unsigned quiesce_count(const struct quiesce *q)
{
	return q->n_frozen;
}

bool quiesce_holds(struct quiesce *q)
{
	pthread_mutex_lock(&q->lock);
	const bool holds = q->state == FROZEN && !q->thaw_wanted;
	pthread_mutex_unlock(&q->lock);
	return holds;
}

void quiesce_thaw(struct quiesce *q)
{
	pthread_mutex_lock(&q->lock);
	q->thaw_wanted = true;
	pthread_cond_broadcast(&q->cond);
	pthread_mutex_unlock(&q->lock);
}

int quiesce_end(struct quiesce *q, struct errmsg *em)
{
	if (!q)
		return 0;
	quiesce_thaw(q);
	pthread_join(q->thread, NULL);
	const int r = q->result;
	if (r < 0 && em)
		*em = q->em;
	quiesce_free(q);
	return r;
}

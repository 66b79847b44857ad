/*
 * schedule.c - the thread that takes snapshots by itself
 *
 * One pass: alarms of filters first, then each schedule that is due, one after the other: taken, then
 * what its retention does not want is deleted, one by one, each with the manager's lock for itself, so
 * that somebody else who wants it gets it in between.  Between passes it sleeps until the next one is
 * due, PASS_NS at most: the wall clock may be set meanwhile.
 *
 * Rows are read anew in each pass; what is remembered of a schedule is only when it was run last and
 * how that went (struct attempt), and goes with it.
 *
 * Locks: schedules.lock guards what is marked so below; it is held over no call but notices_say().
 */
#include "fs/snapshot/schedule.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/log.h"
#include "fs/snapshot/private.h"
#include "fs/snapshot/quiesce.h"

#define PASS_NS      (20 * NS_PER_SEC)
#define RETRY_NS     (30 * NS_PER_SEC)
#define RETRY_STEPS  7u               /* doubled so often: an hour */
#define EXPIRE_NS    (10 * NS_PER_MS) /* between two deletions */
#define ALARMS_MAX   16u              /* that wait */
#define OF_ALARM_MAX 16u              /* snapshots of alarms that an image has */

/* What is known of a schedule since we are mounted. */
struct attempt {
	struct attempt *next;
	uint64_t ino;
	bool seen; /* in this pass */
	unsigned failures;
	uint64_t retry_at_ns; /* monotonic; 0: nothing failed */
	struct schedule_state state;
};

struct alarm {
	uint64_t ino;
	char type[32];
};

struct schedules {
	struct manager *m;
	pthread_t thread;
	bool running;
	_Atomic bool cancel; /* ending: guests are not waited for */

	pthread_mutex_t lock; /* guards what follows */
	pthread_cond_t cond;  /* monotonic */
	bool ending, poked;
	struct attempt *attempts; /* owned; changed by the thread only */
	struct alarm alarms[ALARMS_MAX];
	unsigned n_alarms;
};

/* --- what is known --- */

static struct attempt *attempt_find(struct schedules *s, uint64_t ino)
{
	struct attempt *at = s->attempts;

	while (at && at->ino != ino)
		at = at->next;
	return at;
}

struct latest {
	uint64_t scope, time_ns;
};

static int latest_note(void *arg, const struct snapshot *s)
{
	struct latest *l = arg;

	if (s->scope == l->scope && s->origin == SNAPSHOT_OF_SCHEDULE)
		l->time_ns = s->time_ns; /* in the order in which they were taken */
	return 0;
}

/* NULL: no memory, or the snapshots cannot be read; the next pass tries again. */
static struct attempt *attempt_get(struct schedules *s, uint64_t ino)
{
	struct latest l = {.scope = ino};
	struct attempt *at = attempt_find(s, ino);

	if (at)
		return at;
	if (snapshots_each(s->m->ds->ns, latest_note, &l) < 0)
		return NULL;
	at = calloc(1, sizeof(*at));
	if (!at)
		return NULL;
	at->ino = ino;
	at->state.last_ns = l.time_ns;
	pthread_mutex_lock(&s->lock);
	at->next = s->attempts;
	s->attempts = at;
	pthread_mutex_unlock(&s->lock);
	return at;
}

static void attempts_sweep(struct schedules *s)
{
	pthread_mutex_lock(&s->lock);
	for (struct attempt **at = &s->attempts; *at;) {
		struct attempt *a = *at;
		if (a->seen) {
			a->seen = false;
			at = &a->next;
			continue;
		}
		*at = a->next;
		free(a);
	}
	pthread_mutex_unlock(&s->lock);
}

void schedules_state(struct schedules *s, uint64_t ino, struct schedule_state *ret_state)
{
	*ret_state = (struct schedule_state){0};
	pthread_mutex_lock(&s->lock);
	const struct attempt *at = attempt_find(s, ino);
	if (at)
		*ret_state = at->state;
	pthread_mutex_unlock(&s->lock);
}

static void say(struct schedules *s, uint64_t ino, const char *type, enum stage_severity severity,
        const char *text)
{
	notices_say(s->m->notices, ino, type, severity, text);
}

/* The first failure is an alert; those that follow are told by the list of schedules. */
static void attempt_failed(struct schedules *s, struct attempt *at, int r, const struct errmsg *em)
{
	struct errmsg text;
	const unsigned step = MIN(at->failures, RETRY_STEPS);

	errmsg_set(&text, r, "%s", em->text[0] ? em->text : strerror(-r));
	if (at->failures == 0)
		say(s, at->ino, "schedule", STAGE_SEVERITY_ALERT, text.text);
	pthread_mutex_lock(&s->lock);
	at->failures++;
	at->retry_at_ns = clock_now_ns() + (RETRY_NS << step);
	memcpy(at->state.failing, text.text, sizeof(at->state.failing));
	pthread_mutex_unlock(&s->lock);
}

static void attempt_worked(struct schedules *s, struct attempt *at)
{
	if (at->failures > 0)
		say(s, at->ino, "schedule", STAGE_SEVERITY_NOTE, "snapshots are taken again");
	pthread_mutex_lock(&s->lock);
	at->failures = 0;
	at->retry_at_ns = 0;
	at->state.failing[0] = '\0';
	pthread_mutex_unlock(&s->lock);
}

/* --- taking --- */

/* By number: paths may have changed.  -ENOENT: it is gone. */
static int target_of(struct manager *m, uint64_t ino, struct target *ret_t)
{
	struct ns_inode inode;
	struct target t = {.ino = ino};
	const int r = ns_inode_get(m->ds->ns, ino, &inode);

	if (r < 0)
		return r;
	if (inode.nlink == 0)
		return -ENOENT;
	t.dir = S_ISDIR(inode.mode);
	target_path(m->ds->ns, ino, t.path);
	*ret_t = t;
	return 0;
}

/*
 * A guest that does not freeze is no reason to have no snapshot: then it is one as after a power
 * failure, and a warning says so.
 */
static struct quiesce *guests_freeze(struct schedules *s, const struct target *t)
{
	struct quiesce *q = NULL;
	struct errmsg em = {0};
	char text[ERRMSG_LEN];

	if (snapshot_guests_freeze(s->m, t, NULL, true, &s->cancel, &q, &em) < 0) {
		snprintf(text, sizeof(text), "taken without freezing the guest: %.440s", em.text);
		say(s, t->ino, "schedule", STAGE_SEVERITY_WARNING, text);
		return NULL;
	}
	return q;
}

static int take(struct schedules *s, const struct schedule *sc, const struct target *t,
        uint64_t wall_ns, struct errmsg *em)
{
	struct snapshot_making mk = {
	        .prefix = "auto",
	        .origin = SNAPSHOT_OF_SCHEDULE,
	        .wall_ns = wall_ns,
	        .quiesce = sc->quiesce ? guests_freeze(s, t) : NULL,
	};
	struct errmsg thaw_em = {0};
	int r = snapshot_make(s->m, NULL, t, &mk, NULL, em);

	if (quiesce_end(mk.quiesce, &thaw_em) < 0)
		say(s, t->ino, "schedule", STAGE_SEVERITY_ALERT, thaw_em.text);
	if (r == -ESTALE && mk.quiesce) { /* better one without than none */
		mk.quiesce = NULL;
		*em = (struct errmsg){0};
		r = snapshot_make(s->m, NULL, t, &mk, NULL, em);
	}
	return r;
}

/* --- retention --- */

struct aged {
	uint64_t scope;
	uint64_t *numbers, *times_ns; /* owned */
	bool *held;                   /* owned */
	size_t n, cap;
};

static void aged_release(struct aged *a)
{
	free(a->numbers);
	free(a->times_ns);
	free(a->held);
}

static int aged_grow(struct aged *a)
{
	const size_t cap = a->cap ? 2 * a->cap : 64;
	uint64_t *numbers = realloc(a->numbers, cap * sizeof(*numbers));

	if (!numbers)
		return -ENOMEM;
	a->numbers = numbers;
	uint64_t *times_ns = realloc(a->times_ns, cap * sizeof(*times_ns));
	if (!times_ns)
		return -ENOMEM;
	a->times_ns = times_ns;
	bool *held = realloc(a->held, cap * sizeof(*held));
	if (!held)
		return -ENOMEM;
	a->held = held;
	a->cap = cap;
	return 0;
}

static int aged_note(void *arg, const struct snapshot *s)
{
	struct aged *a = arg;

	if (s->scope != a->scope || s->origin != SNAPSHOT_OF_SCHEDULE)
		return 0;
	const int r = a->n == a->cap ? aged_grow(a) : 0;
	if (r == 0) {
		a->numbers[a->n] = s->number;
		a->times_ns[a->n] = s->time_ns;
		a->held[a->n++] = json_array_size(s->holders) > 0;
	}
	return r;
}

static bool is_ending(struct schedules *s)
{
	pthread_mutex_lock(&s->lock);
	const bool ending = s->ending;
	pthread_mutex_unlock(&s->lock);
	return ending;
}

/* Nobody has changed his mind since this pass began. */
static bool still_so(struct schedules *s, const struct schedule *sc)
{
	struct schedule now;

	return !is_ending(s) && schedule_get(s->m->ds->ns, sc->ino, &now) == 0 && !now.paused &&
	       !memcmp(&now.keep, &sc->keep, sizeof(now.keep));
}

/* What somebody holds, renamed or deleted meanwhile is none of our business. */
static int expire(struct schedules *s, const struct schedule *sc, const struct aged *a,
        const bool *wanted, struct errmsg *em)
{
	const struct timespec pause = {.tv_nsec = (long)EXPIRE_NS};
	int r = 0;

	for (size_t i = 0; i < a->n && r == 0; i++) {
		if (wanted[i] || a->held[i])
			continue;
		if (!still_so(s, sc))
			break;
		r = snapshot_expire(s->m, a->numbers[i], a->scope, SNAPSHOT_OF_SCHEDULE, em);
		if (r == -EBUSY || r == -ENOENT) {
			*em = (struct errmsg){0};
			r = 0;
		}
		nanosleep(&pause, NULL);
	}
	return r;
}

static int retain(struct schedules *s, const struct schedule *sc, struct errmsg *em)
{
	struct aged a = {.scope = sc->ino};
	int r = snapshots_each(s->m->ds->ns, aged_note, &a);
	CLEANUP(free_ptr) bool *wanted = r == 0 ? calloc(a.n + 1, sizeof(*wanted)) : NULL;

	if (r == 0 && !wanted)
		r = -ENOMEM;
	if (r == 0) {
		retention_mark(&sc->keep, a.times_ns, a.n, wanted);
		r = expire(s, sc, &a, wanted, em);
	}
	aged_release(&a);
	return r;
}

/* --- a pass --- */

struct due {
	struct schedule *items; /* owned */
	size_t n, cap;
};

static int due_note(void *arg, const struct schedule *sc)
{
	struct due *d = arg;

	if (d->n == d->cap) {
		const size_t cap = d->cap ? 2 * d->cap : 16;
		struct schedule *items = realloc(d->items, cap * sizeof(*items));
		if (!items)
			return -ENOMEM;
		d->items = items;
		d->cap = cap;
	}
	d->items[d->n++] = *sc;
	return 0;
}

/*
 * An instant that is fixed counts, although its commit is not done yet.  A directory without images
 * has nothing to be taken; a target without a name is about to go, and its schedule with it.
 */
static int take_due(struct schedules *s, const struct schedule *sc, struct attempt *at,
        uint64_t wall_ns, struct errmsg *em)
{
	struct target t;
	int r = target_of(s->m, sc->ino, &t);

	if (r == 0)
		r = take(s, sc, &t, wall_ns, em);
	if (r == -ENOENT) {
		*em = (struct errmsg){0};
		r = 0;
	}
	if (r == 0 || r == -EINPROGRESS) {
		pthread_mutex_lock(&s->lock);
		at->state.last_ns = wall_ns;
		pthread_mutex_unlock(&s->lock);
	}
	return r;
}

/* take_it: it is due; else what failed was its retention. */
static void run_one(struct schedules *s, const struct schedule *sc, struct attempt *at,
        bool take_it, uint64_t wall_ns)
{
	struct errmsg em = {0};
	int r = take_it ? take_due(s, sc, at, wall_ns, &em) : 0;

	if (r == 0)
		r = retain(s, sc, &em);
	if (r < 0)
		attempt_failed(s, at, r, &em);
	else
		attempt_worked(s, at);
}

/* Runs it if it is due; *next_ns: when it is due at last, in the time of the wall clock. */
static bool consider(
        struct schedules *s, const struct schedule *sc, uint64_t wall_ns, uint64_t *next_ns)
{
	struct attempt *at = attempt_get(s, sc->ino);

	if (!at)
		return false;
	at->seen = true;
	if (sc->paused || (at->retry_at_ns && clock_now_ns() < at->retry_at_ns))
		return false;
	const bool due = schedule_due(sc->every_ns, at->state.last_ns, wall_ns);
	const bool again = at->retry_at_ns;
	if (due || again)
		run_one(s, sc, at, due, wall_ns);
	if (!at->retry_at_ns)
		*next_ns = MIN(*next_ns, schedule_next(sc->every_ns, at->state.last_ns, wall_ns));
	return due || again;
}

/* wall_ns 0: what the clock says. */
static unsigned pass(struct schedules *s, uint64_t wall_ns, uint64_t *ret_next_ns)
{
	uint64_t next_ns = UINT64_MAX;
	struct due d = {0};
	unsigned n = 0;
	const int r = schedules_each(s->m->ds->ns, due_note, &d);

	if (r < 0)
		log_warn("the schedules of snapshots cannot be read: %s", strerror(-r));
	for (size_t i = 0; i < d.n && !is_ending(s); i++)
		n += consider(s, &d.items[i], wall_ns ? wall_ns : clock_wall_ns(), &next_ns);
	free(d.items);
	if (r == 0 && !is_ending(s))
		attempts_sweep(s);
	*ret_next_ns = next_ns;
	return n;
}

/* --- alarms of filters --- */

static int of_alarm_count(void *arg, const struct snapshot *s)
{
	struct latest *l = arg;

	l->time_ns += s->scope == l->scope && s->origin == SNAPSHOT_OF_PROTECT;
	return 0;
}

static int alarm_take(
        struct schedules *s, const struct alarm *a, json_t **ret_json, struct errmsg *em)
{
	const struct snapshot_making mk = {.prefix = a->type, .origin = SNAPSHOT_OF_PROTECT};
	struct latest count = {.scope = a->ino};
	struct target t;
	int r = target_of(s->m, a->ino, &t);

	if (r == 0)
		r = snapshots_each(s->m->ds->ns, of_alarm_count, &count);
	if (r == 0 && count.time_ns >= OF_ALARM_MAX)
		r = errmsg_set(em, -ENOSPC,
		        "there are %u of earlier alarms (weir snapshot delete those that are no "
		        "longer needed)",
		        OF_ALARM_MAX);
	return r < 0 ? r : snapshot_make(s->m, NULL, &t, &mk, ret_json, em);
}

static void alarm_run(struct schedules *s, const struct alarm *a)
{
	struct errmsg em = {0};
	char text[ERRMSG_LEN];
	json_t *json = NULL;
	const int r = alarm_take(s, a, &json, &em);

	if (r < 0)
		snprintf(text, sizeof(text), "no snapshot could be taken at the alarm: %.440s",
		        em.text[0] ? em.text : strerror(-r));
	else
		snprintf(text, sizeof(text),
		        "what the image was at the alarm is kept as snapshot '%s' (weir snapshot "
		        "rollback)",
		        json_string_value(json_object_get(json, "name")));
	json_decref(json);
	say(s, a->ino, a->type, STAGE_SEVERITY_ALERT, text);
}

static bool alarm_next(struct schedules *s, struct alarm *ret_alarm)
{
	pthread_mutex_lock(&s->lock);
	const bool found = s->n_alarms > 0;
	if (found) {
		*ret_alarm = s->alarms[0];
		memmove(s->alarms, s->alarms + 1, --s->n_alarms * sizeof(s->alarms[0]));
	}
	pthread_mutex_unlock(&s->lock);
	return found;
}

static void alarms_run(struct schedules *s)
{
	struct alarm a;

	while (alarm_next(s, &a))
		alarm_run(s, &a);
}

bool schedules_alarm(struct schedules *s, uint64_t ino, const char *type)
{
	bool taken = false;

	pthread_mutex_lock(&s->lock);
	if (s->running && !s->ending && s->n_alarms < ALARMS_MAX) {
		struct alarm *a = &s->alarms[s->n_alarms++];
		a->ino = ino;
		snprintf(a->type, sizeof(a->type), "%s", type);
		pthread_cond_signal(&s->cond);
		taken = true;
	}
	pthread_mutex_unlock(&s->lock);
	return taken;
}

/* --- the thread --- */

/* Until something is to be done, next_ns on the wall clock at the latest. */
static void sleep_until(struct schedules *s, uint64_t next_ns)
{
	const uint64_t wall_ns = clock_wall_ns();
	const uint64_t wait_ns = next_ns > wall_ns ? MIN(next_ns - wall_ns, PASS_NS) : NS_PER_SEC;
	const uint64_t at_ns = clock_now_ns() + wait_ns;
	const struct timespec ts = {
	        .tv_sec = (time_t)(at_ns / NS_PER_SEC), .tv_nsec = (long)(at_ns % NS_PER_SEC)};
	int r = 0;

	pthread_mutex_lock(&s->lock);
	while (!s->ending && !s->poked && s->n_alarms == 0 && r == 0)
		r = pthread_cond_timedwait(&s->cond, &s->lock, &ts);
	s->poked = false;
	pthread_mutex_unlock(&s->lock);
}

static void *schedules_main(void *arg)
{
	struct schedules *s = arg;
	uint64_t next_ns;

	while (!is_ending(s)) {
		alarms_run(s);
		pass(s, 0, &next_ns);
		sleep_until(s, next_ns);
	}
	return NULL;
}

unsigned schedules_run(struct schedules *s, uint64_t wall_ns)
{
	uint64_t next_ns;

	alarms_run(s);
	return pass(s, wall_ns, &next_ns);
}

/* --- life --- */

int schedules_new(struct manager *m, struct schedules **ret_s, struct errmsg *em)
{
	struct schedules *s = calloc(1, sizeof(*s));
	pthread_condattr_t attr;

	if (!s)
		return errmsg_set(em, -ENOMEM, "out of memory");
	s->m = m;
	pthread_mutex_init(&s->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&s->cond, &attr);
	pthread_condattr_destroy(&attr);
	*ret_s = s;
	return 0;
}

int schedules_start(struct schedules *s, struct errmsg *em)
{
	audit_prepare(0);
	const int r = pthread_create(&s->thread, NULL, schedules_main, s);

	if (r)
		return errmsg_set(em, -r, "cannot start a thread: %s", strerror(r));
	pthread_mutex_lock(&s->lock);
	s->running = true;
	pthread_mutex_unlock(&s->lock);
	return 0;
}

void schedules_stop(struct schedules *s)
{
	if (!s)
		return;
	pthread_mutex_lock(&s->lock);
	const bool running = s->running;
	s->running = false;
	s->ending = true;
	pthread_cond_signal(&s->cond);
	pthread_mutex_unlock(&s->lock);
	atomic_store(&s->cancel, true);
	if (running)
		pthread_join(s->thread, NULL);
}

void schedules_free(struct schedules *s)
{
	struct attempt *at;

	if (!s)
		return;
	schedules_stop(s);
	while ((at = s->attempts)) {
		s->attempts = at->next;
		free(at);
	}
	pthread_cond_destroy(&s->cond);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

const _Atomic bool *schedules_cancel(const struct schedules *s)
{
	return &s->cancel;
}

void schedules_poke(struct schedules *s)
{
	pthread_mutex_lock(&s->lock);
	s->poked = true;
	pthread_cond_signal(&s->cond);
	pthread_mutex_unlock(&s->lock);
}

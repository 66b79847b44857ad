/*
 * throttle.c - the filter "throttle": how many requests and bytes a second an image may do
 *
 * The limits and whose turn it is are throttle-group.c's; here are the requests: what has to wait is
 * kept (PEND) and goes on when a timer, or another request, finds that its turn has come.  Requests
 * of one image and direction keep their order.  Flushes are not handled at all: they pass at once,
 * also by writes that wait, which nobody has acknowledged and a flush so does not cover.
 * The system's own requests (REQUEST_COUNTLESS) pass and are not charged.
 *
 * Timers.  Each stage has one, armed for the time when its own next request may have its turn.
 * Whichever fires runs the whole group's turn, so a group goes on as long as one timer of its
 * members is armed, and those that wait each have theirs.  `armed_ns` (under timer_lock) is the
 * earliest time that was asked for; timer_set is called without the lock and repeated when another
 * thread asked for another time meanwhile, so the last call is the right one.
 *
 * Quiesce lets everything of this image go at once, charged: the debt stays and is waited off by
 * what comes after the thaw.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "stage/builtin/builtin.h"
#include "stage/builtin/throttle-group.h"

/* Others of a group may have relaxed its limits meanwhile: look again after so long. */
#define TIMER_FAR_NS NS_PER_SEC

struct throttle {
	struct throttle_member member;
	char group[THROTTLE_GROUP_NAME_MAX + 1];
	struct throttle_group *next_group; /* RECONFIGURE: between prepare and commit */
	/* Guards armed_ns, and member.group against the timer; taken before the group's lock. */
	pthread_mutex_t timer_lock;
	uint64_t armed_ns; /* 0: not armed */
};

/* --- settings --- */

static const char *const bucket_names[THROTTLE_BUCKETS] = {
        "iops", "iops_read", "iops_write", "bps", "bps_read", "bps_write"};
static const char *const burst_names[THROTTLE_BUCKETS] = {"iops_burst", "iops_read_burst",
        "iops_write_burst", "bps_burst", "bps_read_burst", "bps_write_burst"};

#define RATE_MAX (1ull << 50)
#define OPERATIONS(k, what)                                                                        \
	{                                                                                          \
		.key = k, .kind = SETTING_UINT, .initial = "0", .max = RATE_MAX, .help = what      \
	}
#define BYTES(k, what)                                                                             \
	{                                                                                          \
		.key = k, .kind = SETTING_SIZE, .initial = "0", .max = RATE_MAX, .help = what      \
	}

static const struct setting_def throttle_settings[] = {
        OPERATIONS("iops", "requests a second; 0: no limit"),
        OPERATIONS("iops_read", "reads a second"),
        OPERATIONS("iops_write", "writes, discards and zeroings a second"),
        BYTES("bps", "bytes a second"), BYTES("bps_read", "bytes read a second"),
        BYTES("bps_write", "bytes written a second"),
        OPERATIONS("iops_burst", "requests a second during a burst; 0: no bursts"),
        OPERATIONS("iops_read_burst", "reads a second during a burst"),
        OPERATIONS("iops_write_burst", "writes a second during a burst"),
        BYTES("bps_burst", "bytes a second during a burst"),
        BYTES("bps_read_burst", "bytes read a second during a burst"),
        BYTES("bps_write_burst", "bytes written a second during a burst"),
        {.key = "burst_length",
                .kind = SETTING_DURATION,
                .initial = "1s",
                .min = 1000000000ull,
                .max = 3600ull * 1000000000ull,
                .help = "how long a burst may last"},
        {.key = "io_size",
                .kind = SETTING_SIZE,
                .initial = "0",
                .max = REQUEST_LEN_MAX,
                .help = "larger requests count as several, of this size; 0: as one"},
        {.key = "group",
                .kind = SETTING_TEXT,
                .help = "images that name the same group share its limits"},
        {0}};

static int throttle_check(const struct settings *s, struct errmsg *em)
{
	const struct setting *group = settings_get(s, "group");

	for (unsigned k = 0; k < THROTTLE_BUCKETS; k++) {
		const uint64_t rate = settings_number(s, bucket_names[k]);
		const uint64_t burst = settings_number(s, burst_names[k]);
		if (burst > 0 && burst < rate)
			return errmsg_set(em, -EINVAL,
			        "'%s' is below '%s': raise it, or 0 for none", burst_names[k],
			        bucket_names[k]);
		if (burst > 0 && rate == 0)
			return errmsg_set(
			        em, -EINVAL, "'%s' needs '%s'", burst_names[k], bucket_names[k]);
	}
	if (group->set && strlen(group->text) > THROTTLE_GROUP_NAME_MAX)
		return errmsg_set(em, -EINVAL, "name of the group is too long: at most %u bytes",
		        THROTTLE_GROUP_NAME_MAX);
	return 0;
}

static void limits_read(const struct settings *s, struct throttle_limits *ret_limits)
{
	struct throttle_limits l = {0};

	for (unsigned k = 0; k < THROTTLE_BUCKETS; k++) {
		l.rate[k] = settings_number(s, bucket_names[k]);
		l.burst[k] = settings_number(s, burst_names[k]);
	}
	l.burst_ns = settings_number(s, "burst_length");
	l.io_bytes = settings_number(s, "io_size");
	*ret_limits = l;
}

static void group_name(const struct settings *s, char name[THROTTLE_GROUP_NAME_MAX + 1])
{
	const struct setting *group = settings_get(s, "group");

	snprintf(name, THROTTLE_GROUP_NAME_MAX + 1, "%s", group->set ? group->text : "");
}

/* --- going on --- */

/* Each has its own stage, of its own image, which cannot go while it has a request. */
static void let_go(struct throttle_wait *list)
{
	while (list) {
		struct throttle_wait *next = list->next;
		struct throttle_member *m = list->member;
		m->host->resume(m->self, list->req, STAGE_PASS);
		list = next;
	}
}

/* Something of this stage waits: its timer fires at that time, or before. */
static void timer_arm(struct throttle *t, uint64_t now_ns)
{
	const struct throttle_member *m = &t->member;

	pthread_mutex_lock(&t->timer_lock);
	uint64_t at_ns = MIN(throttle_group_due_ns(&t->member, now_ns), now_ns + TIMER_FAR_NS);
	if (at_ns > 0 && (t->armed_ns == 0 || t->armed_ns > at_ns)) {
		t->armed_ns = at_ns;
		do {
			at_ns = t->armed_ns;
			pthread_mutex_unlock(&t->timer_lock);
			m->host->timer_set(m->self, at_ns);
			pthread_mutex_lock(&t->timer_lock);
		} while (t->armed_ns != at_ns && t->armed_ns != 0);
	}
	pthread_mutex_unlock(&t->timer_lock);
}

static void throttle_timer(void *stage)
{
	struct throttle *t = stage;
	const uint64_t now_ns = t->member.host->now_ns();
	struct throttle_wait *list;

	pthread_mutex_lock(&t->timer_lock);
	t->armed_ns = 0;
	throttle_group_turn(&t->member, now_ns, &list);
	pthread_mutex_unlock(&t->timer_lock);
	let_go(list);
	timer_arm(t, now_ns);
}

static enum stage_verdict throttle_pre(void *stage, struct request *req, void *context)
{
	struct throttle *t = stage;
	struct throttle_wait *w = context, *list;

	if (req->flags & REQUEST_COUNTLESS)
		return STAGE_PASS;
	const uint64_t now_ns = t->member.host->now_ns();
	w->member = &t->member;
	w->req = req;
	w->direction = req->op == REQUEST_READ ? THROTTLE_READ : THROTTLE_WRITE;
	const bool passes = throttle_group_enter(w, now_ns, &list);
	let_go(list);
	if (passes)
		return STAGE_PASS;
	timer_arm(t, now_ns);
	return STAGE_PEND;
}

/* --- life --- */

static void throttle_destroy(void *stage)
{
	struct throttle *t = stage;

	if (!t)
		return;
	throttle_group_leave(&t->member);
	throttle_group_put(t->next_group);
	pthread_mutex_destroy(&t->timer_lock);
	t->member.host->free(t);
}

static int throttle_create(const struct stage_host *host, struct stage_link *self,
        const struct settings *settings, void **ret_stage, struct errmsg *em)
{
	struct throttle *t = host->alloc(sizeof(*t));

	if (!t)
		return errmsg_set(em, -ENOMEM, "no memory for a throttle");
	memset(t, 0, sizeof(*t));
	t->member.host = host;
	t->member.self = self;
	pthread_mutex_init(&t->timer_lock, NULL);
	limits_read(settings, &t->member.limits);
	group_name(settings, t->group);
	struct throttle_group *g;
	const int r = throttle_group_get(t->group, &g);
	if (r < 0) {
		throttle_destroy(t);
		return errmsg_set(em, r, "no memory for a throttle group");
	}
	throttle_group_join(&t->member, g);
	*ret_stage = t;
	return 0;
}

static void throttle_open(struct throttle *t, bool opened)
{
	struct throttle_wait *list;

	throttle_group_open(&t->member, opened, t->member.host->now_ns(), &list);
	let_go(list);
}

/* Another group is got here, where that may fail. */
static int throttle_prepare(void *stage, const struct stage_event *event, struct errmsg *em)
{
	struct throttle *t = stage;
	char name[THROTTLE_GROUP_NAME_MAX + 1];

	if (event->kind == STAGE_EVENT_QUIESCE)
		throttle_open(t, true);
	if (event->kind != STAGE_EVENT_RECONFIGURE)
		return 0;
	group_name(event->settings, name);
	if (strcmp(name, t->group) == 0)
		return 0;
	const int r = throttle_group_get(name, &t->next_group);
	return r < 0 ? errmsg_set(em, r, "no memory for throttle group '%s'", name) : 0;
}

static void throttle_abort(void *stage, const struct stage_event *event)
{
	struct throttle *t = stage;

	if (event->kind == STAGE_EVENT_QUIESCE)
		throttle_open(t, false);
	if (event->kind == STAGE_EVENT_RECONFIGURE)
		throttle_group_put(STEAL(t->next_group));
}

/* Drained: nothing of this image waits. */
static void throttle_reconfigure(struct throttle *t, const struct settings *settings)
{
	struct throttle_limits limits;

	limits_read(settings, &limits);
	pthread_mutex_lock(&t->timer_lock);
	if (t->next_group) {
		throttle_group_leave(&t->member);
		throttle_group_join(&t->member, STEAL(t->next_group));
		group_name(settings, t->group);
	}
	throttle_group_limits(&t->member, &limits);
	pthread_mutex_unlock(&t->timer_lock);
}

static void throttle_commit(void *stage, const struct stage_event *event)
{
	if (event->kind == STAGE_EVENT_RECONFIGURE)
		throttle_reconfigure(stage, event->settings);
	if (event->kind == STAGE_EVENT_THAW)
		throttle_open(stage, false);
}

static void throttle_report(void *stage, const struct stage_report *rep)
{
	struct throttle *t = stage;
	struct throttle_stats st;

	throttle_group_stats(&t->member, t->member.host->now_ns(), &st);
	rep->number(rep->arg, "passed", st.passed);
	rep->number(rep->arg, "kept", st.kept);
	rep->number(rep->arg, "waiting", st.waiting);
	rep->number(rep->arg, "waited_ns", st.waited_ns);
	rep->number(rep->arg, "waited_max_ns", st.waited_max_ns);
	if (t->group[0]) {
		rep->text(rep->arg, "group", t->group);
		rep->number(rep->arg, "group_images", st.members);
	}
	for (unsigned k = 0; k < THROTTLE_BUCKETS; k++) {
		char name[64];
		if (st.rate[k] == 0)
			continue;
		snprintf(name, sizeof(name), "%s_effective", bucket_names[k]);
		rep->number(rep->arg, name, st.rate[k]);
		snprintf(name, sizeof(name), "%s_used", bucket_names[k]);
		rep->number(rep->arg, name, st.taken[k]);
		snprintf(name, sizeof(name), "%s_level", bucket_names[k]);
		rep->real(rep->arg, name, st.level[k]);
	}
}

const struct stage_type stage_throttle = {
        .abi = STAGE_ABI,
        .size = sizeof(struct stage_type),
        .name = "throttle",
        .version = 1,
        .summary = "limits of requests and bytes a second, with bursts, also for groups of images",
        .class = STAGE_LIMIT,
        .handles = OP(READ) | OP(WRITE) | OP(DISCARD) | OP(ZERO),
        .understands = OPS_ALL,
        .settings = throttle_settings,
        .context_size = sizeof(struct throttle_wait),
        .create = throttle_create,
        .destroy = throttle_destroy,
        .check = throttle_check,
        .pre = throttle_pre,
        .prepare = throttle_prepare,
        .commit = throttle_commit,
        .abort = throttle_abort,
        .timer = throttle_timer,
        .report = throttle_report,
};

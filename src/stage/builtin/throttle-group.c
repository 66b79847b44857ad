/*
 * throttle-group.c - buckets shared by images, and whose turn it is
 *
 * Named groups are in a list of this file's.  It is the one place where a built-in type keeps state
 * outside its stages: a group belongs to no image, and stage_host knows images only.  The list is
 * private to the type, guarded by its own lock, and empty when no stage is left, so it is no door to
 * the host.  Groups are of the process: images of two datastores in one daemon may share one.
 *
 * A request passes when each bucket of its kind (total, and of its direction) has room, and it is
 * its lane's turn.  Every function that changes anything runs turn_all(): it lets go, lane by lane,
 * whatever can go.  Lanes that are blocked by a bucket of their direction are passed over; the total
 * bucket blocks all alike, so when it has room again the lane that is behind gets it.
 *
 * The list of lanes that wait is walked for each request let go: hundreds of images in one group
 * cost microseconds.
 *
 * Locks: groups_lock (list, references), group.lock (everything else of group and members); never
 * both.
 */
#include "stage/builtin/throttle-group.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"

struct throttle_group {
	char name[THROTTLE_GROUP_NAME_MAX + 1]; /* "": private to one member */
	unsigned refs;                          /* groups_lock */
	struct throttle_group *next;            /* groups_lock */
	pthread_mutex_t lock;
	struct bucket buckets[THROTTLE_BUCKETS];
	struct throttle_member *members;
	struct throttle_lane *waiting;
	double clock_s; /* of the lane that went last */
};

static pthread_mutex_t groups_lock = PTHREAD_MUTEX_INITIALIZER;
static struct throttle_group *groups; /* those with a name */

/* --- limits --- */

/* The strictest member's, bucket by bucket; its burst goes with it. */
static void limits_apply(struct throttle_group *g)
{
	for (unsigned k = 0; k < THROTTLE_BUCKETS; k++) {
		const struct throttle_limits *strictest = NULL;
		for (struct throttle_member *m = g->members; m; m = m->next) {
			const struct throttle_limits *l = &m->limits;
			if (l->rate[k] > 0 && (!strictest || l->rate[k] < strictest->rate[k]))
				strictest = l;
		}
		bucket_set(&g->buckets[k], strictest ? strictest->rate[k] : 0,
		        strictest ? strictest->burst[k] : 0, strictest ? strictest->burst_ns : 0);
	}
}

void throttle_group_limits(struct throttle_member *m, const struct throttle_limits *limits)
{
	pthread_mutex_lock(&m->group->lock);
	m->limits = *limits;
	limits_apply(m->group);
	pthread_mutex_unlock(&m->group->lock);
}

/* --- membership --- */

/* groups_lock held. */
static struct throttle_group *group_find(const char *name)
{
	for (struct throttle_group *g = groups; g && *name; g = g->next)
		if (strcmp(g->name, name) == 0)
			return g;
	return NULL;
}

static struct throttle_group *group_new(const char *name)
{
	struct throttle_group *g = calloc(1, sizeof(*g));

	if (!g)
		return NULL;
	pthread_mutex_init(&g->lock, NULL);
	snprintf(g->name, sizeof(g->name), "%s", name);
	return g;
}

int throttle_group_get(const char *name, struct throttle_group **ret_group)
{
	pthread_mutex_lock(&groups_lock);
	struct throttle_group *g = group_find(name);
	if (!g) {
		g = group_new(name);
		if (g && *name) {
			g->next = groups;
			groups = g;
		}
	}
	if (g)
		g->refs++;
	pthread_mutex_unlock(&groups_lock);
	if (!g)
		return -ENOMEM;
	*ret_group = g;
	return 0;
}

void throttle_group_put(struct throttle_group *g)
{
	if (!g)
		return;
	pthread_mutex_lock(&groups_lock);
	const bool last = --g->refs == 0;
	for (struct throttle_group **at = &groups; last && *at; at = &(*at)->next)
		if (*at == g) {
			*at = g->next;
			break;
		}
	pthread_mutex_unlock(&groups_lock);
	if (!last)
		return;
	pthread_mutex_destroy(&g->lock);
	free(g);
}

void throttle_group_join(struct throttle_member *m, struct throttle_group *g)
{
	for (unsigned d = 0; d < THROTTLE_DIRECTIONS; d++) {
		struct throttle_lane *l = &m->lanes[d];
		*l = (struct throttle_lane){.member = m, .direction = d};
		l->last = &l->first;
	}
	m->group = g;
	pthread_mutex_lock(&g->lock);
	m->next = g->members;
	g->members = m;
	limits_apply(g);
	pthread_mutex_unlock(&g->lock);
}

void throttle_group_leave(struct throttle_member *m)
{
	struct throttle_group *g = m->group;

	if (!g)
		return;
	pthread_mutex_lock(&g->lock);
	ASSERT(!m->lanes[THROTTLE_READ].first && !m->lanes[THROTTLE_WRITE].first);
	for (struct throttle_member **at = &g->members; *at; at = &(*at)->next)
		if (*at == m) {
			*at = m->next;
			break;
		}
	limits_apply(g);
	pthread_mutex_unlock(&g->lock);
	m->group = NULL;
	throttle_group_put(g);
}

/* --- what a request costs --- */

static bool bucket_applies(unsigned k, enum throttle_direction d)
{
	static const unsigned of[THROTTLE_DIRECTIONS] = {
	        BIT(THROTTLE_IOPS) | BIT(THROTTLE_IOPS_READ) | BIT(THROTTLE_BPS) |
	                BIT(THROTTLE_BPS_READ),
	        BIT(THROTTLE_IOPS) | BIT(THROTTLE_IOPS_WRITE) | BIT(THROTTLE_BPS) |
	                BIT(THROTTLE_BPS_WRITE),
	};

	return of[d] & BIT(k);
}

/* Discarding and zeroing move no bytes. */
static uint64_t request_bytes(const struct request *req)
{
	return BIT(req->op) & (OP(READ) | OP(WRITE)) ? req->len : 0;
}

static uint64_t wait_cost(const struct throttle_wait *w, unsigned k)
{
	const uint64_t bytes = request_bytes(w->req), io_bytes = w->member->limits.io_bytes;

	if (k >= THROTTLE_BPS)
		return bytes;
	return io_bytes > 0 && bytes > io_bytes ? DIV_UP(bytes, io_bytes) : 1;
}

/* Seconds of the scarcest bucket. */
static double wait_cost_s(const struct throttle_group *g, const struct throttle_wait *w)
{
	double s = 0;

	for (unsigned k = 0; k < THROTTLE_BUCKETS; k++)
		if (bucket_applies(k, w->direction) && g->buckets[k].rate > 0)
			s = fmax(s, (double)wait_cost(w, k) / g->buckets[k].rate);
	return s;
}

static uint64_t group_wait_ns(struct throttle_group *g, enum throttle_direction d, uint64_t now_ns)
{
	uint64_t ns = 0;

	for (unsigned k = 0; k < THROTTLE_BUCKETS; k++)
		if (bucket_applies(k, d))
			ns = MAX(ns, bucket_wait_ns(&g->buckets[k], now_ns));
	return ns;
}

/* --- lanes --- */

static void lane_push(struct throttle_group *g, struct throttle_lane *l, struct throttle_wait *w)
{
	w->next = NULL;
	*l->last = w;
	l->last = &w->next;
	l->n++;
	if (l->active)
		return;
	/* An idle lane has saved nothing up. */
	l->clock_s = fmax(l->clock_s, g->clock_s);
	l->active = true;
	l->prev = NULL;
	l->next = g->waiting;
	if (g->waiting)
		g->waiting->prev = l;
	g->waiting = l;
}

static struct throttle_wait *lane_pop(struct throttle_group *g, struct throttle_lane *l)
{
	struct throttle_wait *w = l->first;

	l->first = w->next;
	l->n--;
	if (l->first)
		return w;
	l->last = &l->first;
	l->active = false;
	if (l->prev)
		l->prev->next = l->next;
	else
		g->waiting = l->next;
	if (l->next)
		l->next->prev = l->prev;
	return w;
}

static void wait_charge(struct throttle_group *g, struct throttle_wait *w, uint64_t now_ns)
{
	struct throttle_member *m = w->member;
	struct throttle_lane *l = &m->lanes[w->direction];
	const uint64_t waited_ns = now_ns > w->since_ns ? now_ns - w->since_ns : 0;

	for (unsigned k = 0; k < THROTTLE_BUCKETS; k++)
		if (bucket_applies(k, w->direction))
			bucket_take(&g->buckets[k], now_ns, wait_cost(w, k));
	l->clock_s = fmax(l->clock_s, g->clock_s);
	g->clock_s = l->clock_s;
	l->clock_s += wait_cost_s(g, w);
	m->passed++;
	m->waited_ns += waited_ns;
	m->waited_max_ns = MAX(m->waited_max_ns, waited_ns);
	w->passed = true;
}

/* The lane whose turn it is, of those that are not blocked; NULL: none. */
static struct throttle_lane *lane_next(struct throttle_group *g, uint64_t now_ns)
{
	bool blocked[THROTTLE_DIRECTIONS];
	struct throttle_lane *next = NULL;

	for (unsigned d = 0; d < THROTTLE_DIRECTIONS; d++)
		blocked[d] = group_wait_ns(g, d, now_ns) > 0;
	for (struct throttle_lane *l = g->waiting; l; l = l->next)
		if (!blocked[l->direction] && (!next || l->clock_s < next->clock_s))
			next = l;
	return next;
}

/* Lets go what can go. */
static void turn_all(struct throttle_group *g, uint64_t now_ns, struct throttle_wait **list)
{
	struct throttle_lane *l;

	while (g->waiting && (l = lane_next(g, now_ns))) {
		struct throttle_wait *w = lane_pop(g, l);
		wait_charge(g, w, now_ns);
		w->next = NULL;
		*list = w;
		list = &w->next;
	}
}

/* Takes w out of a list, if it is there. */
static void list_remove(struct throttle_wait **list, const struct throttle_wait *w)
{
	for (; *list; list = &(*list)->next)
		if (*list == w) {
			*list = w->next;
			return;
		}
}

/* --- arriving and leaving --- */

bool throttle_group_enter(struct throttle_wait *w, uint64_t now_ns, struct throttle_wait **ret_list)
{
	struct throttle_member *m = w->member;
	struct throttle_group *g = m->group;
	struct throttle_wait *list = NULL;

	w->since_ns = now_ns;
	w->passed = false;
	pthread_mutex_lock(&g->lock);
	if (m->open || (!g->waiting && group_wait_ns(g, w->direction, now_ns) == 0)) {
		wait_charge(g, w, now_ns);
	} else {
		lane_push(g, &m->lanes[w->direction], w);
		turn_all(g, now_ns, &list);
		list_remove(&list, w);
		m->kept += !w->passed;
	}
	const bool passed = w->passed;
	pthread_mutex_unlock(&g->lock);
	*ret_list = list;
	return passed;
}

void throttle_group_turn(
        struct throttle_member *m, uint64_t now_ns, struct throttle_wait **ret_list)
{
	struct throttle_wait *list = NULL;

	pthread_mutex_lock(&m->group->lock);
	turn_all(m->group, now_ns, &list);
	pthread_mutex_unlock(&m->group->lock);
	*ret_list = list;
}

/*
 * Exact for the lane whose turn is next; each of the others adds what those before it cost, so that
 * not all members' timers fire for one request.
 */
static uint64_t lane_due_ns(struct throttle_group *g, struct throttle_lane *l, uint64_t now_ns)
{
	double before_s = 0;

	for (struct throttle_lane *o = g->waiting; o; o = o->next)
		if (o != l && o->clock_s < l->clock_s)
			before_s += wait_cost_s(g, o->first);
	return now_ns + MAX(1u, group_wait_ns(g, l->direction, now_ns)) +
	       (uint64_t)(before_s * (double)NS_PER_SEC);
}

uint64_t throttle_group_due_ns(struct throttle_member *m, uint64_t now_ns)
{
	struct throttle_group *g = m->group;
	uint64_t due_ns = 0;

	pthread_mutex_lock(&g->lock);
	for (unsigned d = 0; d < THROTTLE_DIRECTIONS; d++) {
		struct throttle_lane *l = &m->lanes[d];
		const uint64_t ns = l->first ? lane_due_ns(g, l, now_ns) : 0;
		if (ns > 0 && (due_ns == 0 || ns < due_ns))
			due_ns = ns;
	}
	pthread_mutex_unlock(&g->lock);
	return due_ns;
}

void throttle_group_open(
        struct throttle_member *m, bool opened, uint64_t now_ns, struct throttle_wait **ret_list)
{
	struct throttle_group *g = m->group;
	struct throttle_wait *list = NULL, **end = &list;

	pthread_mutex_lock(&g->lock);
	m->open = opened;
	for (unsigned d = 0; opened && d < THROTTLE_DIRECTIONS; d++)
		while (m->lanes[d].first) {
			*end = lane_pop(g, &m->lanes[d]);
			wait_charge(g, *end, now_ns);
			(*end)->next = NULL;
			end = &(*end)->next;
		}
	pthread_mutex_unlock(&g->lock);
	*ret_list = list;
}

void throttle_group_stats(
        struct throttle_member *m, uint64_t now_ns, struct throttle_stats *ret_stats)
{
	struct throttle_group *g = m->group;
	struct throttle_stats st = {0};

	pthread_mutex_lock(&g->lock);
	for (unsigned k = 0; k < THROTTLE_BUCKETS; k++) {
		(void)bucket_wait_ns(&g->buckets[k], now_ns); /* levels as of now */
		st.taken[k] = g->buckets[k].taken;
		st.level[k] = g->buckets[k].level;
		st.rate[k] = (uint64_t)g->buckets[k].rate;
	}
	for (struct throttle_member *o = g->members; o; o = o->next)
		st.members++;
	st.kept = m->kept;
	st.waited_ns = m->waited_ns;
	st.waited_max_ns = m->waited_max_ns;
	st.passed = m->passed;
	st.waiting = m->lanes[THROTTLE_READ].n + m->lanes[THROTTLE_WRITE].n;
	pthread_mutex_unlock(&g->lock);
	*ret_stats = st;
}

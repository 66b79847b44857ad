/*
 * schedule-ops.c - schedules and agents as the control socket asks for them
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "fs/control/text.h"
#include "fs/snapshot/agent.h"
#include "fs/snapshot/private.h"
#include "fs/snapshot/schedule.h"
#include "stage/values.h"

/* --- a schedule as JSON --- */

struct counted {
	uint64_t scope, n, last_ns;
};

static int count_note(void *arg, const struct snapshot *s)
{
	struct counted *c = arg;

	if (s->scope == c->scope && s->origin == SNAPSHOT_OF_SCHEDULE) {
		c->n++;
		c->last_ns = s->time_ns;
	}
	return 0;
}

static json_t *time_json(uint64_t wall_ns)
{
	return wall_ns ? json_integer((json_int_t)wall_ns) : json_null();
}

static json_t *schedule_json(struct datastore *ds, struct manager *m, const struct schedule *sc)
{
	struct counted c = {.scope = sc->ino};
	struct schedule_state state = {0};
	char keep[RETENTION_TEXT_MAX], path[FILTER_PATH_MAX];
	const uint64_t now_ns = clock_wall_ns();

	if (snapshots_each(ds->ns, count_note, &c) < 0)
		return NULL;
	if (m && m->schedules)
		schedules_state(m->schedules, sc->ino, &state);
	retention_format(&sc->keep, keep);
	target_path(ds->ns, sc->ino, path);
	const uint64_t last_ns = state.last_ns ? state.last_ns : c.last_ns;
	const uint64_t next_ns = schedule_next(sc->every_ns, last_ns, now_ns);
	return json_pack("{s:o, s:I, s:s, s:b, s:b, s:I, s:I, s:o, s:o, s:o}", "target",
	        text_json(path), "every_ns", (json_int_t)sc->every_ns, "keep", keep, "quiesce",
	        sc->quiesce, "paused", sc->paused, "set_ns", (json_int_t)sc->set_ns, "snapshots",
	        (json_int_t)c.n, "last_ns", time_json(c.last_ns), "next_ns",
	        time_json(sc->paused ? 0 : next_ns), "failing",
	        state.failing[0] ? text_json(state.failing) : json_null());
}

/* --- changing one --- */

static int every_parse(const char *text, uint64_t *ret_every_ns, struct errmsg *em)
{
	const struct setting_def def = {.kind = SETTING_DURATION,
	        .min = SCHEDULE_EVERY_MIN_NS,
	        .max = SCHEDULE_EVERY_MAX_NS};

	if (value_parse(&def, text, ret_every_ns) < 0)
		return errmsg_set(em, -EINVAL,
		        "'%.32s' is no interval of a schedule: from 1m to 366d, such as 15m, 1h, "
		        "1d",
		        text);
	return 0;
}

/* What is not said stays as it was. */
static int schedule_apply(struct schedule *sc, bool was, const struct snapshot_request *rq,
        const struct target *t, struct errmsg *em)
{
	const char *action = rq->action;
	int r = 0;

	if (strcmp(action, "set") && !was)
		return errmsg_set(em, -ENOENT, "'%s' has no schedule (weir snapshot schedule)",
		        *t->path ? t->path : "/");
	if (!strcmp(action, "pause") || !strcmp(action, "resume")) {
		sc->paused = !strcmp(action, "pause");
		return 0;
	}
	if (strcmp(action, "set"))
		return errmsg_set(em, -EINVAL, "unknown action '%.32s'", action);
	if (!was && (!rq->every || !rq->keep))
		return errmsg_set(em, -EINVAL,
		        "a new schedule needs both --every and --keep, as in --every 15m --keep "
		        "4h,7d,8w");
	if (rq->every)
		r = every_parse(rq->every, &sc->every_ns, em);
	if (r == 0 && rq->keep)
		r = retention_parse(rq->keep, &sc->keep, em);
	if (rq->quiesce_given)
		sc->quiesce = rq->quiesce;
	sc->set_ns = clock_wall_ns();
	return r;
}

/* NULL for what was not, or is not to be. */
static int schedule_record(struct manager *m, const struct filter_caller *who,
        const struct target *t, const struct schedule *old, const struct schedule *new,
        struct errmsg *em)
{
	char before[160] = "", after[160] = "";
	int r = rows_begin(m, em);

	if (r < 0)
		return r;
	if (old)
		schedule_text(old, before, sizeof(before));
	if (new)
		schedule_text(new, after, sizeof(after));
	r = new ? schedule_put(m->ds->ns, new)
	        : ns_record_del(m->ds->ns, RECORD_FLAG, t->ino, SCHEDULE_FLAG);
	if (r == 0)
		r = audit_note(m, who, "snapshot schedule", t->ino, t->path, NULL, before, after);
	rows_end(m);
	if (r == 0)
		r = rows_flush(m);
	return r < 0 ? errmsg_set(em, r, "cannot record the schedule: %s", strerror(-r)) : 0;
}

static int schedule_change(struct manager *m, const struct filter_caller *who,
        const struct snapshot_request *rq, const struct target *t, json_t **ret_json,
        struct errmsg *em)
{
	struct schedule old = {.ino = t->ino}, sc;
	int r = schedule_get(m->ds->ns, t->ino, &old);
	const bool was = r == 0, damaged = r == -EUCLEAN;
	const bool remove = !strcmp(rq->action, "remove") && (was || damaged);

	if (r < 0 && r != -ENOENT && !damaged)
		return errmsg_set(em, r, "cannot read the schedule: %s", strerror(-r));
	sc = old;
	r = remove ? 0 : schedule_apply(&sc, was, rq, t, em);
	if (r == 0)
		r = schedule_record(m, who, t, was ? &old : NULL, remove ? NULL : &sc, em);
	if (r < 0)
		return r;
	*ret_json = remove ? json_pack("{s:o}", "target", text_json(t->path))
	                   : schedule_json(m->ds, m, &sc);
	return *ret_json ? 0 : errmsg_set(em, -ENOMEM, "out of memory");
}

int snapshots_schedule(struct manager *m, const struct filter_caller *who,
        const struct snapshot_request *rq, json_t **ret_json, struct errmsg *em)
{
	struct target t;
	int r = filter_target(m->ds->ns, rq->target, &t, em);

	if (r < 0)
		return r;
	audit_prepare(who ? who->uid : 0);
	pthread_mutex_lock(&m->lock);
	r = schedule_change(m, who, rq, &t, ret_json, em);
	pthread_mutex_unlock(&m->lock);
	if (r == 0 && m->schedules)
		schedules_poke(m->schedules);
	return r;
}

/* --- agents --- */

static int agent_record(struct manager *m, const struct filter_caller *who, const struct target *t,
        const char *path, struct errmsg *em)
{
	struct ns *ns = m->ds->ns;
	CLEANUP(free_ptr) char *before = NULL;
	int r = agent_path_get(ns, t->ino, &before);

	if (r == -ENOENT && !path)
		return errmsg_set(
		        em, r, "no guest agent is set for '%s'", *t->path ? t->path : "/");
	if (r == 0 || r == -ENOENT)
		r = rows_begin(m, em);
	if (r < 0)
		return r;
	r = path ? ns_record_put(ns, RECORD_FLAG, t->ino, AGENT_FLAG, path, strlen(path))
	         : ns_record_del(ns, RECORD_FLAG, t->ino, AGENT_FLAG);
	if (r == 0)
		r = audit_note(m, who, "snapshot agent", t->ino, t->path, NULL, before, path);
	rows_end(m);
	if (r == 0)
		r = rows_flush(m);
	return r < 0 ? errmsg_set(em, r, "cannot record it: %s", strerror(-r)) : 0;
}

int snapshots_agent(struct manager *m, const struct filter_caller *who,
        const struct snapshot_request *rq, json_t **ret_json, struct errmsg *em)
{
	const bool remove = !strcmp(rq->action, "remove");
	struct target t;
	int r = filter_target(m->ds->ns, rq->target, &t, em);

	if (r < 0)
		return r;
	if (!remove && (strcmp(rq->action, "set") || !rq->agent || rq->agent[0] != '/' ||
	                       strlen(rq->agent) > AGENT_PATH_MAX))
		return errmsg_set(em, -EINVAL,
		        "'%.120s' is no path of a socket: absolute, at most %u bytes",
		        rq->agent ? rq->agent : "", AGENT_PATH_MAX);
	audit_prepare(who ? who->uid : 0);
	pthread_mutex_lock(&m->lock);
	r = agent_record(m, who, &t, remove ? NULL : rq->agent, em);
	pthread_mutex_unlock(&m->lock);
	if (r == 0)
		*ret_json = json_pack("{s:o, s:o}", "target", text_json(t.path), "agent",
		        remove ? json_null() : text_json(rq->agent));
	return r;
}

/* --- lists: what is above, at and below a target --- */

struct related {
	struct datastore *ds;
	struct manager *m;
	char path[FILTER_PATH_MAX]; /* of the target */
	json_t *list;
};

/* Is a the same as b, or a directory above it?  "" is above all. */
static bool is_above(const char *a, const char *b)
{
	const size_t len = strlen(a);

	return len == 0 || (!strncmp(a, b, len) && (b[len] == '/' || b[len] == '\0'));
}

static bool is_related(const struct related *rel, uint64_t ino)
{
	char path[FILTER_PATH_MAX];

	target_path(rel->ds->ns, ino, path);
	return is_above(path, rel->path) || is_above(rel->path, path);
}

static int related_schedule(void *arg, const struct schedule *sc)
{
	struct related *rel = arg;

	if (!is_related(rel, sc->ino))
		return 0;
	return json_array_append_new(rel->list, schedule_json(rel->ds, rel->m, sc)) < 0 ? -ENOMEM
	                                                                                : 0;
}

static int related_agent(void *arg, uint64_t owner, uint64_t id, const void *value, size_t len)
{
	struct related *rel = arg;
	char path[FILTER_PATH_MAX];

	if (id != AGENT_FLAG || !is_related(rel, owner))
		return 0;
	target_path(rel->ds->ns, owner, path);
	CLEANUP(free_ptr) char *agent = strndup(value, len);
	json_t *json = agent ? json_pack("{s:o, s:o}", "target", text_json(path), "agent",
	                               text_json(agent))
	                     : NULL;
	return json_array_append_new(rel->list, json) < 0 ? -ENOMEM : 0;
}

static int related_init(struct related *rel, struct datastore *ds, struct manager *m,
        const char *path, struct errmsg *em)
{
	struct target t;
	const int r = filter_target(ds->ns, path, &t, em);

	if (r < 0)
		return r;
	*rel = (struct related){.ds = ds, .m = m, .list = json_array()};
	target_path(ds->ns, t.ino, rel->path);
	return rel->list ? 0 : errmsg_set(em, -ENOMEM, "out of memory");
}

static int related_answer(
        struct related *rel, int r, const char *key, json_t **ret_json, struct errmsg *em)
{
	if (r == 0)
		*ret_json = json_pack("{s:o, s:O}", "target", text_json(rel->path), key, rel->list);
	json_decref(rel->list);
	if (r < 0)
		return errmsg_set(em, r, "cannot list them: %s", strerror(-r));
	return *ret_json ? 0 : errmsg_set(em, -ENOMEM, "out of memory");
}

int snapshots_schedules(struct datastore *ds, struct manager *m, const struct snapshot_request *rq,
        json_t **ret_json, struct errmsg *em)
{
	struct related rel;
	const int r = related_init(&rel, ds, m, rq->target, em);

	return r < 0 ? r
	             : related_answer(&rel, schedules_each(ds->ns, related_schedule, &rel),
	                       "schedules", ret_json, em);
}

int snapshots_agents(struct datastore *ds, const struct snapshot_request *rq, json_t **ret_json,
        struct errmsg *em)
{
	struct related rel;
	const int r = related_init(&rel, ds, NULL, rq->target, em);

	return r < 0 ? r
	             : related_answer(&rel,
	                       ns_record_each_owner(ds->ns, RECORD_FLAG, related_agent, &rel),
	                       "agents", ret_json, em);
}

/*
 * change.c - changing a stack while it is used
 *
 *	step       what                                             undone by
 *	build      links of new stages, settings of changed ones    freeing them
 *	prepare    prepare(RECONFIGURE) of changed ones             abort(RECONFIGURE)
 *	drain      gate shut; QUIESCE; level by level; stages that  abort(CLOSE); THAW; gate open
 *	           leave get prepare(CLOSE) when their level is empty
 *	create     create() of new ones, prepare(OPEN)              abort(OPEN), destroy()
 *	committed  the caller makes it durable                      (the caller)
 *	publish    commit() of all, destroy() of what left, new     cannot fail
 *	           version, THAW, gate open
 *
 * All that can fail comes before publish, memory included, so a change happens as a whole or not at
 * all.  marks on each link say how far it came; undoing reads them.
 *
 * A stage that holds data and leaves writes it back in its prepare(CLOSE): by then nothing above can
 * reach it, and its own requests still pass.
 */
#include "stage/change.h"

#include <errno.h>
#include <string.h>

struct change {
	struct pipeline *p;
	struct pipeline_version *old, *new;
	struct errmsg *em;
};

/* --- draining --- */

static int quiesce_stage(struct stage_link *l, struct errmsg *em)
{
	const struct stage_event event = {.kind = STAGE_EVENT_QUIESCE};
	const int r = link_prepare(l, &event, em);

	if (r < 0)
		return r;
	link_commit(l, &event);
	l->marks |= MARK_QUIESCED;
	return 0;
}

int pipeline_quiesce(
        struct pipeline *p, bool regardless, quiesce_visit *visit, void *arg, struct errmsg *em)
{
	const struct pipeline_version *v = atomic_load(&p->version);

	gate_shut(p, 1);
	for (unsigned i = 0; i < v->n; i++) {
		const int r = quiesce_stage(v->links[i], em);
		if (r < 0 && !regardless)
			return r;
	}
	for (unsigned level = 0; level <= v->n; level++) {
		gate_shut(p, level + 1);
		gate_drain(p, level);
		if (level == v->n || !visit)
			continue;
		const int r = visit(arg, v->links[level], em);
		if (r < 0)
			return r;
	}
	return 0;
}

void pipeline_thaw(struct pipeline *p)
{
	const struct pipeline_version *v = atomic_load(&p->version);
	const struct stage_event event = {.kind = STAGE_EVENT_THAW};

	for (unsigned i = v->n; i-- > 0;) {
		struct stage_link *l = v->links[i];
		/* It cannot be refused. */
		if (l->marks & MARK_QUIESCED && link_prepare(l, &event, NULL) == 0)
			link_commit(l, &event);
		l->marks &= ~(unsigned)MARK_QUIESCED;
	}
	gate_open(p);
}

/* --- build --- */

static struct stage_link *find(const struct pipeline_version *v, uint64_t id)
{
	for (unsigned i = 0; i < v->n; i++)
		if (v->links[i]->id == id)
			return v->links[i];
	return NULL;
}

static int check_fixed(const struct stage_link *l, const struct settings *next, struct errmsg *em)
{
	for (unsigned i = 0; next->defs[i].key; i++) {
		const struct setting *a = &l->settings.values[i], *b = &next->values[i];
		if (!next->defs[i].fixed)
			continue;
		if (a->set != b->set || (a->set && strcmp(a->text, b->text) != 0))
			return errmsg_set(em, -EINVAL,
			        "setting '%s' of filter '%s' cannot be changed once it is "
			        "attached",
			        next->defs[i].key, l->type->name);
	}
	return 0;
}

static int check_state(const struct stage_link *l, const struct stack_item *item, struct errmsg *em)
{
	if (l->type != item->type)
		return errmsg_set(
		        em, -EINVAL, "filter %llu is of another type", (unsigned long long)l->id);
	if (l->state == item->state || !l->transform)
		return 0;
	if (l->state == STACK_CONVERTING_IN && item->state == STACK_ACTIVE)
		return transform_is_done(l)
		               ? 0
		               : errmsg_set(em, -EBUSY, "filter '%s' is still being attached",
		                         l->type->name);
	if (l->state == STACK_ACTIVE && item->state == STACK_CONVERTING_OUT)
		return 0;
	return errmsg_set(em, -EINVAL, "filter '%s' cannot go to that state", l->type->name);
}

static int build_kept(struct change *c, struct stage_link *l, const struct stack_item *item)
{
	int r = check_state(l, item, c->em);

	if (r < 0)
		return r;
	l->marks |= MARK_STAYS;
	l->next_state = item->state;
	if (settings_equal(&l->settings, &item->settings))
		return 0;
	r = check_fixed(l, &item->settings, c->em);
	if (r == 0 && item->type->check)
		r = item->type->check(&item->settings, c->em);
	if (r == 0) {
		r = settings_copy(&item->settings, &l->next);
		if (r < 0)
			return errmsg_set(c->em, r, "out of memory");
		l->marks |= MARK_RECONFIGURE;
	}
	return r;
}

static int build_new(struct change *c, const struct stack_item *item, struct stage_link **ret_link)
{
	struct stage_link *l = NULL;
	const int r = link_new(c->p, item, &l);

	if (r < 0)
		return errmsg_set(c->em, r, "out of memory");
	l->marks = MARK_NEW | MARK_STAYS;
	*ret_link = l;
	return 0;
}

static int build_item(struct change *c, const struct stack_item *item)
{
	struct stage_link *l;
	int r;

	if (item->capabilities & STAGE_CHUNKS || !stack_item_usable(item))
		return 0;
	if (c->new->n == STACK_STAGES_MAX)
		return errmsg_set(
		        c->em, -E2BIG, "more than %u filters see requests", STACK_STAGES_MAX);
	if (find(c->new, item->link))
		return errmsg_set(c->em, -EINVAL, "filter %llu is there twice",
		        (unsigned long long)item->link);
	l = find(c->old, item->link);
	r = l ? build_kept(c, l, item) : build_new(c, item, &l);
	if (r == 0)
		c->new->links[c->new->n++] = l;
	return r;
}

static int check_leaving(const struct change *c)
{
	for (unsigned i = 0; i < c->old->n; i++) {
		const struct stage_link *l = c->old->links[i];
		if (l->marks & MARK_STAYS || !l->transform || l->state == STACK_ACTIVE)
			continue;
		if (l->state == STACK_CONVERTING_IN || !transform_is_done(l))
			return errmsg_set(c->em, -EBUSY,
			        "filter '%s' is still being converted: data depends on it",
			        l->type->name);
	}
	return 0;
}

static int change_build(struct change *c, const struct stack_plan *plan)
{
	c->new = calloc(1, sizeof(*c->new));
	if (!c->new)
		return errmsg_set(c->em, -ENOMEM, "out of memory");
	c->new->p = c->p;
	for (unsigned i = 0; i < plan->n; i++) {
		const int r = build_item(c, &plan->items[i]);
		if (r < 0)
			return r;
	}
	version_sort(c->new);
	version_index(c->new, true);
	return check_leaving(c);
}

/* --- prepare, create --- */

static int change_prepare(struct change *c)
{
	for (unsigned i = 0; i < c->new->n; i++) {
		struct stage_link *l = c->new->links[i];
		const struct stage_event event = {
		        .kind = STAGE_EVENT_RECONFIGURE, .settings = &l->next};
		if (!(l->marks & MARK_RECONFIGURE))
			continue;
		const int r = link_prepare(l, &event, c->em);
		if (r < 0)
			return r;
		l->marks |= MARK_RECONFIGURED;
	}
	return 0;
}

static int leave(void *arg, struct stage_link *l, struct errmsg *em)
{
	const struct stage_event event = {.kind = STAGE_EVENT_CLOSE};

	if (l->marks & MARK_STAYS)
		return 0;
	const int r = link_prepare(l, &event, em);
	if (r == 0)
		l->marks |= MARK_CLOSED;
	return r;
}

static int change_create(struct change *c)
{
	const struct stage_event event = {.kind = STAGE_EVENT_OPEN};

	for (unsigned i = 0; i < c->new->n; i++) {
		struct stage_link *l = c->new->links[i];
		if (!(l->marks & MARK_NEW))
			continue;
		int r = link_create_stage(l, c->em);
		if (r == 0)
			r = link_prepare(l, &event, c->em);
		if (r < 0)
			return r;
		l->marks |= MARK_OPENED;
	}
	return 0;
}

/* --- publish or undo --- */

static void settle_settings(struct stage_link *l, bool commit)
{
	const struct stage_event event = {.kind = STAGE_EVENT_RECONFIGURE, .settings = &l->next};

	if (l->marks & MARK_RECONFIGURED) {
		if (commit)
			link_commit(l, &event);
		else
			link_abort(l, &event);
	}
	if (commit && l->marks & MARK_RECONFIGURE) {
		const struct settings before = l->settings;
		l->settings = l->next;
		l->next = before;
	}
	settings_release(&l->next);
}

static void publish_stage(struct stage_link *l, int at)
{
	const struct stage_event event = {.kind = STAGE_EVENT_OPEN};

	settle_settings(l, true);
	if (l->transform && l->state != l->next_state)
		transform_begin(l, l->next_state);
	l->state = l->next_state;
	if (l->marks & MARK_OPENED)
		link_commit(l, &event);
	atomic_store(&l->at, at);
	l->marks &= MARK_QUIESCED;
}

static void publish_leaving(struct pipeline_version *old)
{
	const struct stage_event event = {.kind = STAGE_EVENT_CLOSE};

	for (unsigned i = 0; i < old->n; i++) {
		struct stage_link *l = old->links[i];
		if (l->marks & MARK_STAYS)
			continue;
		link_commit(l, &event);
		link_free(l);
	}
}

static uint32_t version_handles(const struct pipeline_version *v)
{
	uint32_t handles = 0;

	for (unsigned op = 0; op < REQUEST_OPS; op++)
		if (v->visits[op])
			handles |= BIT(op);
	return handles;
}

static void change_publish(struct change *c)
{
	struct pipeline_version *v = c->new;

	publish_leaving(c->old);
	for (unsigned i = 0; i < v->n; i++)
		publish_stage(v->links[i], (int)i);
	atomic_store(&c->p->handles, version_handles(v));
	atomic_store(&c->p->version, v);
	free(c->old);
	for (unsigned i = 0; i < v->n; i++) {
		timers_unpark(c->p->rt->timers, v->links[i]);
		works_unpark(c->p->rt->works, v->links[i]);
	}
}

static void undo_new(struct stage_link *l)
{
	const struct stage_event event = {.kind = STAGE_EVENT_OPEN};

	if (l->marks & MARK_OPENED)
		link_abort(l, &event);
	link_free(l);
}

static void undo_kept(struct stage_link *l)
{
	const struct stage_event event = {.kind = STAGE_EVENT_CLOSE};

	settle_settings(l, false);
	l->next_state = l->state;
	if (l->marks & MARK_CLOSED)
		link_abort(l, &event);
	l->marks &= MARK_QUIESCED;
}

static void change_undo(struct change *c)
{
	for (unsigned i = 0; c->new &&i < c->new->n; i++)
		if (c->new->links[i]->marks & MARK_NEW)
			undo_new(c->new->links[i]);
	for (unsigned i = 0; i < c->old->n; i++)
		undo_kept(c->old->links[i]);
	free(c->new);
}

static int change_drained(
        struct change *c, int (*committed)(void *arg, struct errmsg *em), void *arg)
{
	int r = pipeline_quiesce(c->p, false, leave, c, c->em);

	if (r == 0)
		r = change_create(c);
	if (r == 0 && committed)
		r = committed(arg, c->em);
	if (r == 0)
		change_publish(c);
	else
		change_undo(c);
	pipeline_thaw(c->p);
	return r;
}

int pipeline_change(struct pipeline *p, const struct stack_plan *plan,
        int (*committed)(void *arg, struct errmsg *em), void *arg, struct errmsg *em)
{
	pthread_mutex_lock(&p->control);
	struct change c = {.p = p, .old = atomic_load(&p->version), .em = em};
	int r = change_build(&c, plan);
	if (r == 0)
		r = change_prepare(&c);
	if (r == 0)
		r = change_drained(&c, committed, arg);
	else
		change_undo(&c);
	pthread_mutex_unlock(&p->control);
	return r;
}

/* --- events --- */

static bool event_drains(enum stage_event_kind kind)
{
	return kind == STAGE_EVENT_SNAPSHOT || kind == STAGE_EVENT_CLONE ||
	       kind == STAGE_EVENT_ROLLBACK || kind == STAGE_EVENT_DELETE;
}

static int prepare_event(void *arg, struct stage_link *l, struct errmsg *em)
{
	const int r = link_prepare(l, arg, em);

	if (r == 0)
		l->marks |= MARK_PREPARED;
	return r;
}

static int prepare_all(struct pipeline *p, const struct stage_event *event, struct errmsg *em)
{
	const struct pipeline_version *v = atomic_load(&p->version);
	int r = 0;

	for (unsigned i = 0; i < v->n && r == 0; i++)
		r = prepare_event((void *)event, v->links[i], em);
	return r;
}

static void settle_event(struct pipeline *p, const struct stage_event *event, bool commit)
{
	const struct pipeline_version *v = atomic_load(&p->version);

	for (unsigned i = 0; i < v->n; i++) {
		struct stage_link *l = v->links[i];
		if (!(l->marks & MARK_PREPARED))
			continue;
		if (commit)
			link_commit(l, event);
		else
			link_abort(l, event);
		if (commit && l->transform && event->kind == STAGE_EVENT_ROLLBACK)
			transform_reload(l); /* its cursor rolled back, too */
		l->marks &= ~(unsigned)MARK_PREPARED;
	}
}

int pipeline_event(struct pipeline *p, const struct stage_event *event,
        int (*between)(void *arg, struct errmsg *em), void *arg, struct errmsg *em)
{
	const bool drains = event_drains(event->kind);
	int r;

	if (!drains && event->kind != STAGE_EVENT_RESIZE)
		return errmsg_set(em, -EINVAL, "not an event that can be sent");
	pthread_mutex_lock(&p->control);
	if (drains)
		r = pipeline_quiesce(p, false, prepare_event, (void *)event, em);
	else
		r = prepare_all(p, event, em);
	if (r == 0 && between)
		r = between(arg, em);
	settle_event(p, event, r == 0);
	if (drains)
		pipeline_thaw(p);
	pthread_mutex_unlock(&p->control);
	return r;
}

/*
 * change-prepare.c - what a change is to be: rules, the manifest that follows, and its steps
 *
 * Nothing is put here, and nothing has an effect: what fails leaves only c->next and the steps, which
 * go with the change.  Rules are asked of c->next, so that each step of a policy is judged by the
 * stack that those before it leave; what is there already is looked up in c->now.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "fs/filter/change-private.h"
#include "fs/snapshot/records.h"

/* NULL: too many, with em. */
static struct step *step_add(struct change *c, uint64_t link, const char *action, struct errmsg *em)
{
	if (c->n == STEPS_MAX) {
		errmsg_set(em, -E2BIG, "too many filters");
		return NULL;
	}
	struct step *s = &c->steps[c->n++];
	s->link = link;
	s->action = action;
	return s;
}

/* --- steps that attach, set and detach share --- */

static void job_begin(
        const struct change *c, struct step *s, const struct stack_item *item, uint32_t from)
{
	s->job = (struct job){.ino = c->t->ino,
	        .link = item->link,
	        .what = item->class == STAGE_ENCRYPT ? JOB_RESEAL : JOB_CONVERT};
	memcpy(s->job.type, item->type_name, sizeof(s->job.type));
	if (s->job.what == JOB_RESEAL)
		s->job.from[s->job.n_from++] = from;
}

static bool changes_data(const struct stack_item *item)
{
	return item->class == STAGE_ENCRYPT || item->capabilities & STAGE_TRANSFORMS;
}

/* Is there something to convert when it comes or goes? */
static bool converts(const struct change *c, const struct stack_item *item)
{
	return c->has_data && (item->class == STAGE_ENCRYPT || (item->type && item->type->encode));
}

static int users_check(
        const struct stage_type *type, const char *const *settings, unsigned n, struct errmsg *em)
{
	for (const struct setting_def *def = type->settings; def->key; def++) {
		const size_t len = strlen(def->key);
		for (unsigned i = 0; def->managed && i < n; i++)
			if (!strncmp(settings[i], def->key, len) && settings[i][len] == '=')
				return errmsg_set(em, -EINVAL,
				        "setting '%s' of filter '%s' is weir's own", def->key,
				        type->name);
	}
	return 0;
}

static const char *item_text(const struct stack_item *item, const char *key)
{
	for (unsigned i = 0; item->settings.defs && item->settings.defs[i].key; i++)
		if (!strcmp(item->settings.defs[i].key, key) && item->settings.values[i].set)
			return item->settings.values[i].text;
	return NULL;
}

/* --- attach --- */

/* Encrypting ends with a promise that nothing of it lies in the clear; they would keep that. */
static int refuse_snapshots(struct change *c, struct errmsg *em)
{
	const int r = snapshot_holds(c->m->ds->ns, c->t->ino);

	if (r == 1)
		return errmsg_set(em, -EBUSY,
		        "'%s' has snapshots, which would stay in the clear: delete them first "
		        "(weir snapshot list), or encrypt a clone and delete both",
		        c->t->path);
	return r < 0 ? errmsg_set(em, r, "cannot read the snapshots: %s", strerror(-r)) : 0;
}

/* The item becomes part of c->next. */
static int attach_item(
        struct change *c, const struct wish *w, struct stack_item *item, struct errmsg *em)
{
	int r = stack_plan_check_attach(&c->next->plan, item, c->has_data, w->force, em);
	struct step *s = r < 0 ? NULL : step_add(c, item->link, w->action, em);
	uint32_t domain = 0;

	if (!r && !s)
		r = -E2BIG;

	if (!r && item->class == STAGE_ENCRYPT)
		r = keys_domain_for(c->m, item_text(item, "key"), &domain, em);
	if (!r && c->fi && item->class == STAGE_ENCRYPT && converts(c, item))
		r = refuse_snapshots(c, em);
	if (r < 0)
		return r;
	item->forced = w->force;
	if (converts(c, item)) {
		item->state = STACK_CONVERTING_IN;
		job_begin(c, s, item, c->now->domain);
	}
	c->needs_empty |= c->fi && !c->has_data && changes_data(item);
	if (item->class == STAGE_ENCRYPT)
		c->next->domain = domain;
	r = manifest_add(c->next, item);
	return r < 0 ? errmsg_set(em, r, "too many filters") : 0;
}

int attach_prepare(struct change *c, const struct wish *w, struct errmsg *em)
{
	struct stack_item item = {0};
	int r = users_check(w->type, w->settings, w->n, em);

	if (!r)
		r = manifest_item_make(
		        w->type, ns_number_alloc(c->m->ds->ns), w->settings, w->n, &item, em);
	if (r < 0)
		return r;
	r = attach_item(c, w, &item, em);
	manifest_item_release(&item); /* empty when it was taken */
	return r;
}

/* --- set --- */

static int fixed_check(
        const struct stack_item *from, const struct stack_item *to, struct errmsg *em)
{
	for (unsigned i = 0; from->type->settings[i].key; i++) {
		const struct setting_def *def = &from->type->settings[i];
		const struct setting *a = &from->settings.values[i], *b = &to->settings.values[i];
		if (def->fixed && (a->set != b->set || a->number != b->number ||
		                          (a->set && strcmp(a->text, b->text))))
			return errmsg_set(em, -EINVAL,
			        "setting '%s' of filter '%s' cannot be changed once it is attached",
			        def->key, from->type_name);
	}
	return 0;
}

/* As if the item were attached with its new settings to the stack without it. */
static int set_item(
        struct change *c, const struct stack_item *old, struct stack_item *item, struct errmsg *em)
{
	const uint32_t domain = c->next->domain;
	const struct stage_event event = {
	        .kind = STAGE_EVENT_RECONFIGURE, .settings = &item->settings};
	int r = fixed_check(old, item, em);

	if (!r && c->fi && old->type->allows) /* a closed image has no stage to ask */
		r = old->type->allows(&old->settings, &event, clock_wall_ns(), em);
	if (r < 0)
		return r;
	item->state = old->state;
	item->forced = old->forced;
	manifest_remove(c->next, old->link);
	c->next->domain = domain;
	r = stack_plan_check_attach(&c->next->plan, item, false, old->forced, em);
	if (!r) {
		r = manifest_add(c->next, item);
		if (r < 0)
			errmsg_set(em, r, "too many filters");
	}
	return r;
}

int set_prepare(struct change *c, const struct wish *w, struct errmsg *em)
{
	struct stack_item item = {0};
	CLEANUP(free_ptr) char **texts = NULL;
	unsigned n = 0;
	const int at = item_find(c->now, w->name, em);

	if (at < 0)
		return at;
	const struct stack_item *old = &c->now->plan.items[at];
	if (!stack_item_usable(old))
		return errmsg_set(em, -EINVAL,
		        "filter '%s' version %u is not in this program: it cannot be changed here",
		        old->type_name, old->type_version);
	int r = users_check(old->type, w->settings, w->n, em);
	if (!r)
		r = manifest_merge(old->given, w->settings, w->n, w->replace, &texts, &n, em);
	for (unsigned i = 0; i < w->n && !r; i++) /* "key=" leaves no text that would be checked */
		r = settings_key_check(old->type->settings, w->settings[i], em);
	if (!r)
		r = manifest_item_make(
		        old->type, old->link, (const char *const *)texts, n, &item, em);
	if (r < 0)
		return r;
	if (!w->policy || strcmp(old->given ? old->given : "", item.given) != 0) {
		r = step_add(c, old->link, w->action, em) ? set_item(c, old, &item, em) : -E2BIG;
	}
	manifest_item_release(&item);
	return r;
}

/* --- detach --- */

int detach_prepare(struct change *c, const struct wish *w, struct errmsg *em)
{
	const int at = item_find(c->next, w->name, em);

	if (at < 0)
		return at;
	struct stack_item *item = &c->next->plan.items[at];
	const int r =
	        stack_plan_check_detach(&c->next->plan, item->link, c->has_data, w->force, em);
	struct step *s = r < 0 ? NULL : step_add(c, item->link, w->action, em);
	if (!s)
		return r < 0 ? r : -E2BIG;
	c->needs_empty |= c->fi && !c->has_data && changes_data(item);
	if (converts(c, item)) {
		item->state = STACK_CONVERTING_OUT;
		job_begin(c, s, item, c->now->domain);
	} else {
		manifest_remove(c->next, item->link);
	}
	return 0;
}

/* --- keys and jobs --- */

/* An image may be on its way out of several domains: all are wiped when it has left them. */
static void domains_merge(const struct change *c, struct step *s)
{
	struct job before;

	if (jobs_find(c->m->jobs, c->t->ino, s->link, &before) < 0)
		return;
	for (unsigned i = 0; i < before.n_from && s->job.n_from < JOB_DOMAINS_MAX; i++)
		if (before.from[i] != s->job.from[0])
			s->job.from[s->job.n_from++] = before.from[i];
}

int domain_prepare(struct change *c, const struct wish *w, struct errmsg *em)
{
	for (unsigned i = 0; i < c->next->plan.n; i++) {
		const struct stack_item *item = &c->next->plan.items[i];
		if (item->class != STAGE_ENCRYPT || item->state == STACK_CONVERTING_OUT ||
		        c->next->domain != w->from)
			continue;
		struct step *s = step_add(c, item->link, w->action, em);
		if (!s)
			return -E2BIG;
		c->next->domain = w->to;
		if (c->fi && c->has_data) {
			job_begin(c, s, item, w->from);
			domains_merge(c, s);
		}
		c->needs_empty = c->fi && !c->has_data;
		return 0;
	}
	return errmsg_set(em, -ENOENT, "'%s' is not in that crypto domain", c->t->path);
}

int finish_prepare(struct change *c, const struct wish *w, struct errmsg *em)
{
	const int at = stack_plan_find(&c->next->plan, w->link);
	struct step *s = step_add(c, w->link, w->action, em);

	if (!s)
		return -E2BIG;
	s->job_ends = true;
	if (at < 0)
		return 0; /* only the job's row is left */
	if (c->next->plan.items[at].state == STACK_CONVERTING_OUT) {
		s->action = "filter detached";
		manifest_remove(c->next, w->link);
	} else {
		if (c->next->plan.items[at].state == STACK_ACTIVE)
			s->action = "key rotated";
		c->next->plan.items[at].state = STACK_ACTIVE;
	}
	return 0;
}

/* --- policies --- */

/* Stages of one type that the stack has, the nth of them; -1. */
static int nth_of_type(const struct manifest *mf, const char *type, unsigned nth)
{
	int at = stack_plan_find_type(&mf->plan, type, 0);

	while (at >= 0 && nth-- > 0)
		at = stack_plan_find_type(&mf->plan, type, at + 1);
	return at;
}

/* How many of the policy's first n stages are of that type. */
static unsigned policy_count(const struct policy *p, unsigned n, const char *type)
{
	unsigned count = 0;

	for (unsigned i = 0; i < n; i++)
		count += !strcmp(p->stages[i].type, type);
	return count;
}

static int policy_stage(struct change *c, const struct wish *w, unsigned i, struct errmsg *em)
{
	const struct policy_stage *st = &w->policy->stages[i];
	const int at = nth_of_type(c->now, st->type, policy_count(w->policy, i, st->type));
	struct wish one = {.policy = w->policy,
	        .settings = st->settings,
	        .n = st->n_settings,
	        .force = w->force,
	        .replace = true};
	char name[64];

	if (at >= 0) {
		snprintf(name, sizeof(name), "%s:%llu", st->type,
		        (unsigned long long)c->now->plan.items[at].link);
		one.name = name;
		one.action = "filter set";
		return set_prepare(c, &one, em);
	}
	one.type = stage_type_find(st->type);
	one.action = "filter attach";
	if (!one.type)
		return errmsg_set(em, -EINVAL, "there is no filter type '%s'", st->type);
	return attach_prepare(c, &one, em);
}

/* A policy that was saved for its cache settings is not to decrypt what it is applied to. */
static int policy_spares(const struct wish *w, const struct stack_item *item, struct errmsg *em)
{
	if (w->force || item->state == STACK_CONVERTING_OUT ||
	        !(item->capabilities & STAGE_TRANSFORMS))
		return 0;
	return errmsg_set(em, -EPERM,
	        "policy '%s' lacks filter '%s', which transforms the stored data: detach that "
	        "first, or apply the policy with --force",
	        w->policy->name, item->type_name);
}

/* What the policy has no place for. */
static int policy_detach(struct change *c, const struct wish *w, struct errmsg *em)
{
	int r = 0;

	for (unsigned i = c->now->plan.n; i-- > 0 && !r;) {
		const struct stack_item *item = &c->now->plan.items[i];
		unsigned nth = 0;
		char name[64];
		for (unsigned j = 0; j < i; j++)
			nth += !strcmp(c->now->plan.items[j].type_name, item->type_name);
		if (nth < policy_count(w->policy, w->policy->n, item->type_name))
			continue;
		snprintf(name, sizeof(name), "%s:%llu", item->type_name,
		        (unsigned long long)item->link);
		const struct wish one = {
		        .action = "filter detach", .name = name, .force = w->force};
		r = policy_spares(w, item, em);
		if (!r)
			r = detach_prepare(c, &one, em);
	}
	return r;
}

/* What is too many goes first: it may stand in the way of what comes. */
int policy_prepare(struct change *c, const struct wish *w, struct errmsg *em)
{
	int r = policy_detach(c, w, em);

	for (unsigned i = 0; i < w->policy->n && !r; i++)
		r = policy_stage(c, w, i, em);
	return r;
}

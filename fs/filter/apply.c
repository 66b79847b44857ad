/*
 * apply.c - what the control socket asks of stacks: on one target, or all below it
 *
 * Changes are made under the manager's lock, one inode at a time, each complete in itself: of a
 * recursive one, what failed is listed beside what was done.  Waiting for conversions comes after
 * the lock is released, so others may go on.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fs/control/text.h"
#include "fs/filter/manager-private.h"

/* One request, on its way through its targets. */
struct apply {
	struct manager *m;
	const struct filter_caller *who;
	const struct filter_change *c;
	const struct stage_type *type; /* attach */
	bool where_attached;           /* set, detach: recursively, only what has the filter */
	json_t *changed, *failed;      /* owned */
	struct waiting {
		uint64_t ino, link;
		json_t *entry; /* in changed; borrowed */
	} * waits;             /* owned */
	size_t n_waits, waits_cap;
};

typedef int apply_fn(
        struct apply *a, const struct target *t, struct change_result *ret_res, struct errmsg *em);

static int apply_begin(struct apply *a, struct errmsg *em)
{
	a->changed = json_array();
	a->failed = json_array();
	return a->changed && a->failed ? 0 : errmsg_set(em, -ENOMEM, "out of memory");
}

static void apply_end(struct apply *a)
{
	json_decref(a->changed);
	json_decref(a->failed);
	free(a->waits);
}

static int wait_note(struct apply *a, uint64_t ino, uint64_t link, json_t *entry)
{
	if (a->n_waits == a->waits_cap) {
		const size_t cap = a->waits_cap ? 2 * a->waits_cap : 16;
		struct waiting *waits = realloc(a->waits, cap * sizeof(*waits));
		if (!waits)
			return -ENOMEM;
		a->waits = waits;
		a->waits_cap = cap;
	}
	a->waits[a->n_waits++] = (struct waiting){ino, link, entry};
	return 0;
}

static int changed_note(struct apply *a, const struct target *t, const struct change_result *res)
{
	json_t *entry = json_pack("{s:o, s:I, s:s}", "target", text_json(t->path), "link",
	        (json_int_t)res->link, "state", res->state);

	if (entry && (a->type || a->where_attached)) /* not of a policy, which is several */
		json_object_set_new(
		        entry, "type", json_stringn(a->c->type, strcspn(a->c->type, ":")));
	if (json_array_append_new(a->changed, entry) < 0)
		return -ENOMEM;
	if (strncmp(res->state, "converting", 10))
		return 0;
	return wait_note(a, t->ino, res->link, entry);
}

static int failed_note(struct apply *a, const struct target *t, int r, const struct errmsg *em)
{
	return json_array_append_new(a->failed,
	               json_pack("{s:o, s:i, s:o}", "target", text_json(t->path), "errno", -r,
	                       "error", text_json(em->text[0] ? em->text : strerror(-r)))) < 0
	               ? -ENOMEM
	               : 0;
}

/* --- all below --- */

static int apply_below(struct apply *a, const struct target *top, apply_fn *fn, struct errmsg *em)
{
	struct target_list l = {0};
	int r = target_walk(a->m->ds->ns, top->ino, &l);

	if (r < 0)
		return errmsg_set(em, r, "cannot list '%s': %s", top->path, strerror(-r));
	for (size_t i = 0; i < l.n && !r; i++) {
		struct change_result res = {0};
		struct errmsg why = {0};
		struct target t = {.ino = l.inos[i], .dir = l.dirs[i]};
		target_path(a->m->ds->ns, t.ino, t.path);
		r = fn(a, &t, &res, &why);
		if (r == -ESHUTDOWN)
			break;
		if (r == -ENOENT && a->where_attached) {
			r = 0;
			continue;
		}
		r = r < 0 ? failed_note(a, &t, r, &why) : changed_note(a, &t, &res);
	}
	target_list_release(&l);
	if (r < 0)
		return errmsg_set(em, r, "out of memory");
	if (a->where_attached && !json_array_size(a->changed) && !json_array_size(a->failed))
		return errmsg_set(em, -ENOENT,
		        "filter '%s' is not attached to '%s' nor to anything in it (weir filter "
		        "list)",
		        a->c->type, *top->path ? top->path : a->m->ds->dir);
	return 0;
}

static int apply_all(struct apply *a, apply_fn *fn, struct errmsg *em)
{
	struct change_result res = {0};
	struct target t;
	int r;

	pthread_mutex_lock(&a->m->lock);
	r = filter_target(a->m->ds->ns, a->c->target, &t, em);
	if (!r && a->c->recursive && t.dir) {
		r = apply_below(a, &t, fn, em);
	} else if (!r) {
		r = fn(a, &t, &res, em);
		if (!r && changed_note(a, &t, &res) < 0)
			r = errmsg_set(em, -ENOMEM, "out of memory");
	}
	pthread_mutex_unlock(&a->m->lock);
	return r;
}

/* --- waiting --- */

static int wait_one(
        struct apply *a, const struct waiting *w, gc_progress_fn *fn, void *arg, struct errmsg *em)
{
	const char *state = json_string_value(json_object_get(w->entry, "state"));
	const bool out = !strcmp(state, manifest_state_name(STACK_CONVERTING_OUT));
	const int r = jobs_wait(a->m->jobs, w->ino, w->link, fn, arg, em);

	if (r < 0)
		return r;
	return json_object_set_new(w->entry, "state", json_string(out ? "gone" : "active")) < 0 ||
	                       json_object_set_new(w->entry, "converted", json_true()) < 0
	               ? -ENOMEM
	               : 0;
}

static int apply_wait(struct apply *a, gc_progress_fn *fn, void *arg, struct errmsg *em)
{
	int r = 0;

	for (size_t i = 0; i < a->n_waits && !r && a->c->wait; i++)
		r = wait_one(a, &a->waits[i], fn, arg, em);
	return r;
}

static int apply(struct apply *a, apply_fn *one, gc_progress_fn *fn, void *arg, json_t **ret_json,
        struct errmsg *em)
{
	int r = apply_begin(a, em);

	if (!r)
		r = apply_all(a, one, em);
	if (!r)
		r = apply_wait(a, fn, arg, em);
	json_t *json =
	        r < 0 ? NULL : json_pack("{s:O, s:O}", "changed", a->changed, "failed", a->failed);
	apply_end(a);
	if (!r && !json)
		r = errmsg_set(em, -ENOMEM, "out of memory");
	if (!r)
		*ret_json = json;
	return r;
}

/* --- requests --- */

static int attach_one(
        struct apply *a, const struct target *t, struct change_result *ret_res, struct errmsg *em)
{
	return change_attach(a->m, a->who, t, a->type, a->c->settings, a->c->n_settings,
	        a->c->force, ret_res, em);
}

static int set_asked(struct apply *a, const struct target *t, const char *name,
        const char *const *settings, unsigned n, bool replace, struct change_result *ret_res,
        struct errmsg *em)
{
	struct vnode *file;
	int r = consent_open(a->m, t, name, &file, em);

	if (r < 0)
		return r;
	r = change_set(a->m, a->who, t, name, settings, n, replace, ret_res, em);
	if (file)
		vfs_release(a->m->vfs, file);
	return r;
}

static int set_one(
        struct apply *a, const struct target *t, struct change_result *ret_res, struct errmsg *em)
{
	return set_asked(a, t, a->c->type, a->c->settings, a->c->n_settings, false, ret_res, em);
}

static int detach_one(
        struct apply *a, const struct target *t, struct change_result *ret_res, struct errmsg *em)
{
	return change_detach(a->m, a->who, t, a->c->type, a->c->force, ret_res, em);
}

int manager_attach(struct manager *m, const struct filter_caller *who,
        const struct filter_change *c, gc_progress_fn *fn, void *arg, json_t **ret_json,
        struct errmsg *em)
{
	struct apply a = {.m = m, .who = who, .c = c, .type = stage_type_find(c->type)};

	if (!a.type)
		return errmsg_set(
		        em, -EINVAL, "there is no filter type '%s' (weir filter types)", c->type);
	return apply(&a, attach_one, fn, arg, ret_json, em);
}

int manager_set(struct manager *m, const struct filter_caller *who, const struct filter_change *c,
        json_t **ret_json, struct errmsg *em)
{
	struct apply a = {.m = m, .who = who, .c = c, .where_attached = true};

	if (c->n_settings == 0)
		return errmsg_set(em, -EINVAL, "nothing to set (write key=value)");
	return apply(&a, set_one, NULL, NULL, ret_json, em);
}

int manager_detach(struct manager *m, const struct filter_caller *who,
        const struct filter_change *c, gc_progress_fn *fn, void *arg, json_t **ret_json,
        struct errmsg *em)
{
	struct apply a = {.m = m, .who = who, .c = c, .where_attached = true};

	return apply(&a, detach_one, fn, arg, ret_json, em);
}

/* --- actions --- */

static int action_audit(struct manager *m, const struct filter_caller *who, const struct target *t,
        const char *type, const char *action, struct errmsg *em)
{
	int r = rows_begin(m, em);

	if (r < 0)
		return r;
	r = audit_note(m, who, "filter run", t->ino, t->path, type, NULL, action);
	rows_end(m);
	if (!r)
		r = rows_flush(m);
	return r < 0 ? errmsg_set(em, r, "cannot record the action: %s", strerror(-r)) : 0;
}

/* With the image open, and its entry locked against changes. */
static int action_run(struct filter_image *fi, const char *type, const char *action,
        const char *const *args, unsigned n_args, char **ret_text, struct errmsg *em)
{
	const int at = item_find(fi->manifest, type, em);

	if (at < 0)
		return at;
	return pipeline_action(fi->pipeline, fi->manifest->plan.items[at].link, action, args,
	        n_args, ret_text, em);
}

static int action_open(struct manager *m, const struct target *t, const char *type,
        const char *action, const char *const *args, unsigned n_args, char **ret_text,
        struct errmsg *em)
{
	struct vnode *file;
	int r = vfs_open(m->vfs, t->ino, &file);

	if (r < 0)
		return errmsg_set(
		        em, r, "cannot open '%s': %s (see 'weir status')", t->path, strerror(-r));
	struct filter_image *fi = image_peek(m, t->ino);
	ASSERT(fi);
	pthread_mutex_lock(&fi->lock);
	r = action_run(fi, type, action, args, n_args, ret_text, em);
	pthread_mutex_unlock(&fi->lock);
	image_put(fi);
	vfs_release(m->vfs, file);
	return r;
}

int manager_action(struct manager *m, const struct filter_caller *who, const char *target,
        const char *type, const char *action, const char *const *args, unsigned n_args,
        json_t **ret_json, struct errmsg *em)
{
	CLEANUP(free_ptr) char *text = NULL;
	struct target t;
	int r = filter_target(m->ds->ns, target, &t, em);

	if (!r && t.dir)
		r = errmsg_set(em, -EISDIR, "'%s' is a directory: name an image", target);
	if (!r)
		r = action_open(m, &t, type, action, args, n_args, &text, em);
	if (!r && !m->read_only)
		r = action_audit(m, who, &t, type, action, em);
	if (r < 0 || !text)
		return r;
	json_t *json = json_loads(text, JSON_DECODE_ANY, NULL);
	if (!json)
		return errmsg_set(em, -EPROTO, "the answer of filter '%s' is no JSON", type);
	*ret_json = json;
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

/* How many stages of the type come before stage i. */
static unsigned policy_nth(const struct policy *p, unsigned i)
{
	unsigned nth = 0;

	for (unsigned j = 0; j < i; j++)
		nth += !strcmp(p->stages[j].type, p->stages[i].type);
	return nth;
}

static unsigned policy_count(const struct policy *p, const char *type)
{
	unsigned n = 0;

	for (unsigned i = 0; i < p->n; i++)
		n += !strcmp(p->stages[i].type, type);
	return n;
}

static int policy_stage(struct apply *a, const struct target *t, const struct manifest *mf,
        const struct policy *p, unsigned i, struct change_result *res, struct errmsg *em)
{
	const struct policy_stage *st = &p->stages[i];
	const int at = nth_of_type(mf, st->type, policy_nth(p, i));
	char name[64];

	if (at >= 0) {
		snprintf(name, sizeof(name), "%s:%llu", st->type,
		        (unsigned long long)mf->plan.items[at].link);
		return set_asked(a, t, name, st->settings, st->n_settings, true, res, em);
	}
	const struct stage_type *type = stage_type_find(st->type);
	if (!type)
		return errmsg_set(em, -EINVAL, "there is no filter type '%s'", st->type);
	return change_attach(
	        a->m, a->who, t, type, st->settings, st->n_settings, a->c->force, res, em);
}

/* A policy that was saved for its cache settings is not to decrypt what it is applied to. */
static int policy_spares(const struct apply *a, const struct policy *p,
        const struct stack_item *item, struct errmsg *em)
{
	if (a->c->force || item->state == STACK_CONVERTING_OUT ||
	        !(item->capabilities & STAGE_TRANSFORMS))
		return 0;
	return errmsg_set(em, -EPERM,
	        "policy '%s' lacks filter '%s', which transforms the stored data: detach that "
	        "first, or apply the policy with --force",
	        p->name, item->type_name);
}

static int policy_detach(struct apply *a, const struct target *t, const struct manifest *mf,
        const struct policy *p, struct change_result *res, struct errmsg *em)
{
	int r = 0;

	for (unsigned i = mf->plan.n; i-- > 0 && !r;) {
		const struct stack_item *item = &mf->plan.items[i];
		unsigned nth = 0;
		char name[64];
		for (unsigned j = 0; j < i; j++)
			nth += !strcmp(mf->plan.items[j].type_name, item->type_name);
		if (nth < policy_count(p, item->type_name))
			continue;
		snprintf(name, sizeof(name), "%s:%llu", item->type_name,
		        (unsigned long long)item->link);
		r = policy_spares(a, p, item, em);
		if (!r)
			r = change_detach(a->m, a->who, t, name, a->c->force, res, em);
	}
	return r;
}

struct policy_apply {
	struct apply a; /* first */
	const struct policy *policy;
};

/* What is too many goes first: it may stand in the way of what comes. */
static int policy_one(
        struct apply *a, const struct target *t, struct change_result *ret_res, struct errmsg *em)
{
	const struct policy *p = CONTAINER_OF(a, struct policy_apply, a)->policy;
	struct change_result res = {.state = "active"};
	struct manifest *mf;
	int r = manifest_load(a->m->ds->ns, t->ino, &mf, em);

	if (r < 0)
		return r;
	r = policy_detach(a, t, mf, p, &res, em);
	for (unsigned i = 0; i < p->n && !r; i++)
		r = policy_stage(a, t, mf, p, i, &res, em);
	manifest_free(mf);
	if (!r)
		*ret_res = res;
	return r;
}

int manager_policy_apply(struct manager *m, const struct filter_caller *who,
        const struct filter_change *c, gc_progress_fn *fn, void *arg, json_t **ret_json,
        struct errmsg *em)
{
	struct policy *p;
	int r = policy_load(m->ds->ns, c->type, &p, em);

	if (r < 0)
		return r;
	struct policy_apply pa = {.a = {.m = m, .who = who, .c = c}, .policy = p};
	r = apply(&pa.a, policy_one, fn, arg, ret_json, em);
	policy_free(p);
	return r;
}

/*
 * apply.c - what the control socket asks of stacks: on one target, or all below it
 *
 * Changes are made under the manager's lock, one inode at a time, each complete in itself: of a
 * recursive one, what failed is listed beside what was done.  Between two inodes the lock is free, so
 * that a change of thousands of images holds nobody else up; progress is told there, and waiting for
 * conversions comes after all.
 *
 * Directories come first: what is made in them from then on inherits.  Files that were made while the
 * directories were changed are found by walking once more.  Some of them inherited what is being
 * attached; they are told by having it.
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
	/* Of what was made while directories changed: it has inherited what is to be.  May be NULL. */
	bool (*settled)(const struct apply *a, uint64_t ino);
	gc_progress_fn *fn; /* may be NULL */
	void *arg;
	json_t *changed, *failed; /* owned */
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

static int one_locked(struct apply *a, const struct target *t, apply_fn *fn,
        struct change_result *ret_res, struct errmsg *em)
{
	pthread_mutex_lock(&a->m->lock);
	const int r = fn(a, t, ret_res, em);
	pthread_mutex_unlock(&a->m->lock);
	if (r == 0 && ret_res->sees_reads)
		manager_invalidate(a->m, t->ino, NULL);
	return r;
}

static int one_noted(struct apply *a, uint64_t ino, bool dir, apply_fn *fn)
{
	struct change_result res = {0};
	struct errmsg why = {0};
	struct target t = {.ino = ino, .dir = dir};

	target_path(a->m->ds->ns, ino, t.path);
	const int r = one_locked(a, &t, fn, &res, &why);
	if (r == -ESHUTDOWN)
		return r;
	if (r == -ENOENT && a->where_attached)
		return 0;
	return r < 0 ? failed_note(a, &t, r, &why) : changed_note(a, &t, &res);
}

static int apply_kind(struct apply *a, const struct target_list *l, bool dirs, apply_fn *fn)
{
	int r = 0;

	for (size_t i = 0; i < l->n && !r; i++) {
		if (l->dirs[i] != dirs)
			continue;
		r = one_noted(a, l->inos[i], dirs, fn);
		if (a->fn)
			a->fn(a->arg, i + 1, l->n);
	}
	return r;
}

/* Made while the directories were changed. */
static int apply_new(struct apply *a, const struct target_list *before, const struct target_list *l,
        apply_fn *fn)
{
	int r = 0;

	for (size_t i = 0; i < l->n && !r; i++) {
		if (target_list_has(before, l->inos[i], l->dirs[i]) ||
		        (a->settled && a->settled(a, l->inos[i])))
			continue;
		r = one_noted(a, l->inos[i], l->dirs[i], fn);
	}
	return r;
}

static int apply_below(struct apply *a, const struct target *top, apply_fn *fn, struct errmsg *em)
{
	struct target_list before = {0}, now = {0};
	int r = target_walk(a->m->ds->ns, top->ino, &before);

	if (r < 0)
		return errmsg_set(em, r, "cannot list '%s': %s", top->path, strerror(-r));
	r = apply_kind(a, &before, true, fn);
	if (!r)
		r = target_walk(a->m->ds->ns, top->ino, &now);
	if (!r)
		r = apply_new(a, &before, &now, fn);
	if (!r)
		r = apply_kind(a, &before, false, fn);
	target_list_release(&before);
	target_list_release(&now);
	if (r < 0)
		return errmsg_set(em, r, "cannot change all of '%s': %s", top->path, strerror(-r));
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
	int r = filter_target(a->m->ds->ns, a->c->target, &t, em);

	if (r < 0)
		return r;
	if (a->c->recursive && t.dir)
		return apply_below(a, &t, fn, em);
	r = one_locked(a, &t, fn, &res, em);
	if (!r && changed_note(a, &t, &res) < 0)
		r = errmsg_set(em, -ENOMEM, "out of memory");
	return r;
}

/* --- waiting --- */

static int wait_one(struct apply *a, const struct waiting *w, struct errmsg *em)
{
	const char *state = json_string_value(json_object_get(w->entry, "state"));
	const bool out = !strcmp(state, manifest_state_name(STACK_CONVERTING_OUT));
	const int r = jobs_wait(a->m->jobs, w->ino, w->link, a->fn, a->arg, em);

	if (r < 0)
		return r;
	return json_object_set_new(w->entry, "state", json_string(out ? "gone" : "active")) < 0 ||
	                       json_object_set_new(w->entry, "converted", json_true()) < 0
	               ? -ENOMEM
	               : 0;
}

static int apply_wait(struct apply *a, struct errmsg *em)
{
	int r = 0;

	for (size_t i = 0; i < a->n_waits && !r && a->c->wait; i++)
		r = wait_one(a, &a->waits[i], em);
	return r;
}

static int apply(struct apply *a, apply_fn *one, json_t **ret_json, struct errmsg *em)
{
	int r = apply_begin(a, em);

	if (!r)
		r = apply_all(a, one, em);
	if (!r)
		r = apply_wait(a, em);
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

static int set_one(
        struct apply *a, const struct target *t, struct change_result *ret_res, struct errmsg *em)
{
	return change_set(
	        a->m, a->who, t, a->c->type, a->c->settings, a->c->n_settings, false, ret_res, em);
}

static int detach_one(
        struct apply *a, const struct target *t, struct change_result *ret_res, struct errmsg *em)
{
	return change_detach(a->m, a->who, t, a->c->type, a->c->force, ret_res, em);
}

static bool has_item(const struct manifest *mf, const struct stack_item *wanted)
{
	for (unsigned i = 0; i < mf->plan.n; i++) {
		const struct stack_item *item = &mf->plan.items[i];
		if (!strcmp(item->type_name, wanted->type_name) && item->given &&
		        !strcmp(item->given, wanted->given))
			return true;
	}
	return false;
}

/* Where it cannot be told, the change itself is to say why. */
static bool attach_settled(const struct apply *a, uint64_t ino)
{
	CLEANUP(manifest_freep) struct manifest *mf = NULL;
	struct stack_item wanted = {0};

	if (manifest_load(a->m->ds->ns, ino, &mf, NULL) < 0 ||
	        manifest_item_make(a->type, 0, a->c->settings, a->c->n_settings, &wanted, NULL) < 0)
		return false;
	const bool has = has_item(mf, &wanted);
	manifest_item_release(&wanted);
	return has;
}

static bool detach_settled(const struct apply *a, uint64_t ino)
{
	CLEANUP(manifest_freep) struct manifest *mf = NULL;

	return manifest_load(a->m->ds->ns, ino, &mf, NULL) == 0 &&
	       item_find(mf, a->c->type, NULL) == -ENOENT;
}

int manager_attach(struct manager *m, const struct filter_caller *who,
        const struct filter_change *c, gc_progress_fn *fn, void *arg, json_t **ret_json,
        struct errmsg *em)
{
	struct apply a = {.m = m,
	        .who = who,
	        .c = c,
	        .type = stage_type_find(c->type),
	        .settled = attach_settled,
	        .fn = fn,
	        .arg = arg};

	if (!a.type)
		return errmsg_set(
		        em, -EINVAL, "there is no filter type '%s' (weir filter types)", c->type);
	return apply(&a, attach_one, ret_json, em);
}

int manager_set(struct manager *m, const struct filter_caller *who, const struct filter_change *c,
        gc_progress_fn *fn, void *arg, json_t **ret_json, struct errmsg *em)
{
	struct apply a = {.m = m, .who = who, .c = c, .where_attached = true, .fn = fn, .arg = arg};

	if (c->n_settings == 0)
		return errmsg_set(em, -EINVAL, "nothing to set (write key=value)");
	return apply(&a, set_one, ret_json, em);
}

int manager_detach(struct manager *m, const struct filter_caller *who,
        const struct filter_change *c, gc_progress_fn *fn, void *arg, json_t **ret_json,
        struct errmsg *em)
{
	struct apply a = {.m = m,
	        .who = who,
	        .c = c,
	        .where_attached = true,
	        .settled = detach_settled,
	        .fn = fn,
	        .arg = arg};

	return apply(&a, detach_one, ret_json, em);
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

struct run {
	const char *type, *action; /* type: "TYPE" or "TYPE:LINK" */
	const char *const *args;
	unsigned n_args;
	bool changes; /* is to be audited */
	char *text;   /* the answer; owned */
};

static bool names(const char *const *list, const char *name)
{
	while (list && *list)
		if (!strcmp(*list++, name))
			return true;
	return false;
}

/* With the image open, and its entry locked against changes. */
static int action_run(struct filter_image *fi, struct run *run, struct errmsg *em)
{
	const int at = item_find(fi->manifest, run->type, em);

	if (at < 0)
		return at;
	const struct stack_item *item = &fi->manifest->plan.items[at];
	run->changes = !item->type || !names(item->type->queries, run->action);
	return pipeline_action(
	        fi->pipeline, item->link, run->action, run->args, run->n_args, &run->text, em);
}

static int action_open(
        struct manager *m, const struct target *t, struct run *run, struct errmsg *em)
{
	struct vnode *file;
	int r = vfs_open(m->vfs, t->ino, &file);

	if (r < 0)
		return errmsg_set(
		        em, r, "cannot open '%s': %s (see 'weir status')", t->path, strerror(-r));
	struct filter_image *fi = image_peek(m, t->ino);
	ASSERT(fi);
	pthread_mutex_lock(&fi->lock);
	r = action_run(fi, run, em);
	pthread_mutex_unlock(&fi->lock);
	image_put(fi);
	vfs_release(m->vfs, file);
	return r;
}

static int action_answer(const struct run *run, json_t **ret_json, struct errmsg *em)
{
	if (!run->text)
		return 0;
	json_t *json = json_loads(run->text, JSON_DECODE_ANY, NULL);
	if (!json)
		return errmsg_set(em, -EPROTO, "the answer of filter '%s' is no JSON", run->type);
	*ret_json = json;
	return 0;
}

int manager_action(struct manager *m, const struct filter_caller *who, const char *target,
        const char *type, const char *action, const char *const *args, unsigned n_args,
        json_t **ret_json, struct errmsg *em)
{
	struct run run = {.type = type, .action = action, .args = args, .n_args = n_args};
	struct target t;
	int r = filter_target(m->ds->ns, target, &t, em);

	if (!r && t.dir)
		r = errmsg_set(em, -EISDIR, "'%s' is a directory: name an image", target);
	if (!r)
		r = action_open(m, &t, &run, em);
	if (!r && run.changes && !m->read_only)
		r = action_audit(m, who, &t, type, action, em);
	if (!r)
		r = action_answer(&run, ret_json, em);
	free(run.text);
	return r;
}

/* --- policies --- */

struct policy_apply {
	struct apply a; /* first */
	const struct policy *policy;
};

static int policy_one(
        struct apply *a, const struct target *t, struct change_result *ret_res, struct errmsg *em)
{
	const struct policy *p = CONTAINER_OF(a, struct policy_apply, a)->policy;

	return change_policy(a->m, a->who, t, p, a->c->force, ret_res, em);
}

int manager_policy_apply(struct manager *m, const struct filter_caller *who,
        const struct filter_change *c, gc_progress_fn *fn, void *arg, json_t **ret_json,
        struct errmsg *em)
{
	struct policy *p;
	int r = policy_load(m->ds->ns, c->type, &p, em);

	if (r < 0)
		return r;
	struct policy_apply pa = {
	        .a = {.m = m, .who = who, .c = c, .fn = fn, .arg = arg}, .policy = p};
	r = apply(&pa.a, policy_one, ret_json, em);
	policy_free(p);
	return r;
}

/*
 * link.c - the host's side of one stage, and versions of a stack
 *
 * A link is made before the pipeline is drained (all memory that it needs is had then), its stage in
 * the drained pipeline, and it stays the same in every version that has it.  It owns its settings, at
 * one address for life: a stage may keep a pointer to them.
 */
#include <errno.h>
#include <string.h>

#include "stage/pipeline-private.h"

static void link_release(struct stage_link *l)
{
	transform_free(l->transform);
	settings_release(&l->settings);
	settings_release(&l->next);
	free(l);
}

static struct stage_link *link_alloc(struct pipeline *p, const struct stack_item *item)
{
	struct stage_link *l = aligned_alloc(2 * CACHELINE, sizeof(*l));

	if (!l)
		return NULL;
	memset(l, 0, sizeof(*l));
	l->p = p;
	l->id = item->link;
	l->type = item->type;
	l->state = l->next_state = item->state;
	atomic_store(&l->at, -1);
	l->pre = item->type->pre;
	l->post = item->type->post;
	l->context_size = item->type->context_size;
	return l;
}

int link_new(struct pipeline *p, const struct stack_item *item, struct stage_link **ret_link)
{
	struct stage_link *l = link_alloc(p, item);

	if (!l)
		return -ENOMEM;
	int r = settings_copy(&item->settings, &l->settings);
	if (r == 0 && item->type->encode)
		r = transform_new(l);
	if (r == 0)
		r = timers_add(p->rt->timers);
	if (r < 0) {
		link_release(l);
		return r;
	}
	*ret_link = l;
	return 0;
}

int link_create_stage(struct stage_link *l, struct errmsg *em)
{
	void *stage = NULL;
	int r = l->transform ? transform_open(l) : 0;

	if (r < 0)
		return errmsg_set(em, r, "cannot read the state of filter '%s'", l->type->name);
	r = l->type->create(&pipeline_host, l, &l->settings, &stage, em);
	if (r < 0)
		return r;
	l->stage = stage;
	if (!l->transform)
		l->arg = stage;
	l->marks |= MARK_CREATED;
	return 0;
}

void link_free(struct stage_link *l)
{
	struct stage_runtime *rt = l->p->rt;

	gate_cancel(l);
	works_wait(rt->works, l);
	timers_remove(rt->timers, l);
	if (l->stage)
		l->type->destroy(l->stage);
	const int r = runtime_reserve(l, 0, NULL);
	ASSERT(r == 0);
	link_release(l);
}

int link_prepare(struct stage_link *l, const struct stage_event *event, struct errmsg *em)
{
	return l->type->prepare ? l->type->prepare(l->stage, event, em) : 0;
}

void link_commit(struct stage_link *l, const struct stage_event *event)
{
	if (l->type->commit)
		l->type->commit(l->stage, event);
}

void link_abort(struct stage_link *l, const struct stage_event *event)
{
	if (l->type->abort)
		l->type->abort(l->stage, event);
}

/* --- versions --- */

void version_sort(struct pipeline_version *v)
{
	for (unsigned i = 1; i < v->n; i++) {
		struct stage_link *l = v->links[i];
		unsigned j = i;
		for (; j > 0; j--) {
			const struct stage_link *o = v->links[j - 1];
			if (o->type->class < l->type->class ||
			        (o->type->class == l->type->class && o->id < l->id))
				break;
			v->links[j] = v->links[j - 1];
		}
		v->links[j] = l;
	}
}

static unsigned link_handles(const struct stage_link *l, bool next)
{
	if (l->transform)
		return transform_handles(next ? l->next_state : l->state);
	return l->type->handles;
}

static unsigned link_refuses(const struct stage_link *l)
{
	return l->type->capabilities & STAGE_TRANSFORMS ? OPS_ALL & ~l->type->understands : 0;
}

void version_index(struct pipeline_version *v, bool next)
{
	uint32_t at = 0;

	for (unsigned i = 0; i < v->n; i++) {
		const struct stage_link *l = v->links[i];
		const unsigned handles = link_handles(l, next), refuses = link_refuses(l);
		v->context_at[i] = at;
		at += (uint32_t)ROUND_UP(l->context_size, sizeof(max_align_t));
		for (unsigned op = 0; op < REQUEST_OPS; op++) {
			if ((handles | refuses) & BIT(op))
				v->visits[op] |= BIT(i);
			if (refuses & BIT(op))
				v->refuses[op] |= BIT(i);
			if (handles & BIT(op) && l->context_size)
				v->context_bytes[op] = at;
		}
	}
}

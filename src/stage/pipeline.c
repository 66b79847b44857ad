/*
 * pipeline.c - opening and closing a pipeline, and what people ask of its stages
 *
 * A pipeline begins with an empty stack and is changed to the one that is wanted (change.c), so there
 * is one way in which stages come to life.  Closing drains it level by level: each stage has its
 * prepare(CLOSE) when nothing above can reach it any more and all below still answers.
 */
#include <errno.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/log.h"
#include "stage/change.h"
#include "stage/pipeline-private.h"

static void pipeline_release(struct pipeline *p)
{
	pthread_mutex_destroy(&p->control);
	pthread_mutex_destroy(&p->gate_lock);
	pthread_cond_destroy(&p->gate_cond);
	free(atomic_load(&p->version));
	free(p);
}

static int pipeline_new(
        struct stage_runtime *rt, const struct pipeline_below *below, struct pipeline **ret_p)
{
	struct pipeline *p = aligned_alloc(2 * CACHELINE, sizeof(*p));
	struct pipeline_version *empty = calloc(1, sizeof(*empty));

	if (!p || !empty) {
		free(p);
		free(empty);
		return -ENOMEM;
	}
	*p = (struct pipeline){.rt = rt, .below = *below};
	empty->p = p;
	atomic_store(&p->version, empty);
	pthread_mutex_init(&p->control, NULL);
	pthread_mutex_init(&p->gate_lock, NULL);
	pthread_cond_init(&p->gate_cond, NULL);
	*ret_p = p;
	return 0;
}

int pipeline_open(struct stage_runtime *rt, const struct pipeline_below *below,
        const struct stack_plan *plan, struct pipeline **ret_p, struct errmsg *em)
{
	struct pipeline *p = NULL;
	unsigned missing = 0;
	int r = stack_plan_check_open(plan, &missing, em);

	if (r < 0)
		return r;
	r = pipeline_new(rt, below, &p);
	if (r < 0)
		return errmsg_set(em, r, "out of memory");
	r = pipeline_change(p, plan, NULL, NULL, em);
	if (r < 0) {
		pipeline_close(p);
		return r;
	}
	*ret_p = p;
	return 0;
}

/* It cannot be refused any more; what a stage could not do, it says. */
static int close_stage(void *arg, struct stage_link *l, struct errmsg *em)
{
	const struct stage_event event = {.kind = STAGE_EVENT_CLOSE};
	struct errmsg why = {0};

	if (link_prepare(l, &event, &why) < 0)
		log_error("closing filter '%s': %s", l->type->name, why.text);
	else
		link_commit(l, &event);
	return 0;
}

void pipeline_close(struct pipeline *p)
{
	if (!p)
		return;
	pthread_mutex_lock(&p->control);
	struct pipeline_version *v = atomic_load(&p->version);
	/* Nothing to refuse: a stage that will not quiesce is closed all the same. */
	const int r = pipeline_quiesce(p, true, close_stage, NULL, NULL);
	ASSERT(r == 0);
	for (unsigned i = 0; i < v->n; i++)
		link_free(v->links[i]);
	ASSERT(!p->held);
	pthread_mutex_unlock(&p->control);
	pipeline_release(p);
}

struct stage_link *pipeline_link(struct pipeline *p, uint64_t link)
{
	const struct pipeline_version *v = atomic_load(&p->version);

	for (unsigned i = 0; i < v->n; i++)
		if (v->links[i]->id == link)
			return v->links[i];
	return NULL;
}

static int not_attached(uint64_t link, struct errmsg *em)
{
	return errmsg_set(
	        em, -ENOENT, "filter %llu is not attached to this image", (unsigned long long)link);
}

static int unknown_action(const struct stage_type *type, const char *action, struct errmsg *em)
{
	char names[256] = "";
	size_t at = 0;

	for (unsigned i = 0; type->actions && type->actions[i] && at < sizeof(names); i++)
		at += (size_t)snprintf(
		        names + at, sizeof(names) - at, "%s%s", i ? ", " : "", type->actions[i]);
	return errmsg_set(em, -EOPNOTSUPP, "filter '%s' has no action '%s': there is %s",
	        type->name, action, names);
}

static int action_call(struct stage_link *l, const char *action, const char *const *args,
        unsigned n_args, char **ret_json, struct errmsg *em)
{
	const uint64_t start_ns = clock_thread_ns();
	const int r = l->type->action(l->stage, action, args, n_args, ret_json, em);

	account_own_cpu(&l->account, start_ns, 1);
	return r;
}

int pipeline_action(struct pipeline *p, uint64_t link, const char *action, const char *const *args,
        unsigned n_args, char **ret_json, struct errmsg *em)
{
	pthread_mutex_lock(&p->control);
	struct stage_link *l = pipeline_link(p, link);
	int r;
	if (!l)
		r = not_attached(link, em);
	else if (!l->type->action)
		r = errmsg_set(em, -EOPNOTSUPP, "filter '%s' has no actions", l->type->name);
	else
		r = action_call(l, action, args, n_args, ret_json, em);
	if (r == -EOPNOTSUPP && em && !em->text[0])
		unknown_action(l->type, action, em);
	pthread_mutex_unlock(&p->control);
	return r;
}

int pipeline_report(struct pipeline *p, uint64_t link, const struct stage_report *report)
{
	pthread_mutex_lock(&p->control);
	struct stage_link *l = pipeline_link(p, link);
	if (l && l->type->report)
		l->type->report(l->stage, report);
	pthread_mutex_unlock(&p->control);
	return l ? 0 : -ENOENT;
}

/*
 * change.c - one change of one inode's stack: rows, audit, effect
 *
 * A change is prepared as two manifests, as it is now and as it is to be, and the rows that make the
 * difference: one step for each link that comes, goes or is another afterwards.  A policy has many
 * of them, everything else one; they happen all or not at all.  change-prepare.c makes them.
 *
 * Of an image that is open it happens inside pipeline_change(): the new stages are prepared, the
 * pipeline is drained, the rows are put in one gate section with their audit entries and made
 * durable, and then the new stack is published.  Of a closed image, or a directory, only the
 * rows change.  Either way filter_image.lock keeps anybody from opening the image in between.
 *
 * Why the order is right.  A row is durable before the first request passes the new stack: so no
 * data is ever stored through a stage that a crash forgets.  A conversion begins with "converting"
 * in the row and its cursor at the start, which is what the data is like; it ends with a commit of
 * all that it wrote (store_sync, by the job), and only then is the row changed: so the row never
 * says more than the data.
 *
 * Whether an image holds data is asked before and, where the answer "nothing" decided that there is
 * nothing to convert, once more while drained; if a guest was faster, the change is begun anew.
 *
 * What cannot be made durable is taken back: the old row is put again.  The audit trail keeps both.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "fs/filter/change-private.h"

#define CHANGE_TRIES 8u

/* --- preparing --- */

static void step_release(struct step *s)
{
	free(s->old_row);
	free(s->new_row);
	free(s->old_value);
	free(s->new_value);
	free(s->job_row);
}

static void change_end(struct change *c)
{
	store_image_close(c->img);
	if (c->fi) {
		pthread_mutex_unlock(&c->fi->lock);
		image_put(c->fi);
	}
	manifest_free(c->now);
	manifest_free(c->next);
	for (unsigned i = 0; i < c->n; i++)
		step_release(&c->steps[i]);
	free(c->steps);
}

static bool holds_data(struct image *img)
{
	uint64_t chunks = 0;

	return !img || store_allocated(img, &chunks) < 0 || chunks > 0; /* in doubt it does */
}

static int image_begin(struct change *c, struct errmsg *em)
{
	c->fi = image_get(c->m, c->t->ino);
	if (!c->fi)
		return errmsg_set(em, -ENOMEM, "out of memory");
	pthread_mutex_lock(&c->fi->lock);
	const int r = store_image_open(c->m->ds->store, c->t->ino, &c->img);
	if (r < 0 && r != -ENOKEY)
		return errmsg_set(em, r, "cannot open '%s': %s", c->t->path, strerror(-r));
	c->has_data = holds_data(c->img);
	return 0;
}

static int change_begin(struct change *c, struct errmsg *em)
{
	int r;

	c->steps = calloc(STEPS_MAX, sizeof(*c->steps));
	if (!c->steps)
		return errmsg_set(em, -ENOMEM, "out of memory");
	r = c->t->dir ? 0 : image_begin(c, em);
	if (!r)
		r = manifest_load(c->m->ds->ns, c->t->ino, &c->now, em);
	if (!r) {
		r = manifest_copy(c->now, &c->next);
		if (r < 0)
			errmsg_set(em, r, "out of memory");
	}
	return r;
}

static char *text_copy(const char *text)
{
	return strdup(text ? text : "");
}

/* Rows and texts of the step's link, from both manifests. */
static int step_rows(struct change *c, struct step *s, struct errmsg *em)
{
	const int old_at = stack_plan_find(&c->now->plan, s->link);
	const int new_at = stack_plan_find(&c->next->plan, s->link);
	const struct stack_item *old_item = old_at < 0 ? NULL : &c->now->plan.items[old_at];
	const struct stack_item *new_item = new_at < 0 ? NULL : &c->next->plan.items[new_at];

	s->old_row = old_item ? manifest_item_encode(old_item, c->now->domain) : NULL;
	s->new_row = new_item ? manifest_item_encode(new_item, c->next->domain) : NULL;
	s->old_value = text_copy(old_item ? old_item->given : NULL);
	s->new_value = text_copy(new_item ? new_item->given : NULL);
	if (s->job.link)
		s->job_row = job_encode(&s->job);
	if (!s->old_row != !old_item || !s->new_row != !new_item || !s->old_value ||
	        !s->new_value || (s->job.link && !s->job_row))
		return errmsg_set(em, -ENOMEM, "out of memory");
	snprintf(s->type, sizeof(s->type), "%s",
	        new_item   ? new_item->type_name
	        : old_item ? old_item->type_name
	                   : "");
	return 0;
}

static int rows_make(struct change *c, struct errmsg *em)
{
	int r = 0;

	for (unsigned i = 0; i < c->n && !r; i++)
		r = step_rows(c, &c->steps[i], em);
	return r;
}

/* --- rows; inside the gate --- */

static int attachment_put(const struct change *c, const struct step *s, const char *row)
{
	struct ns *ns = c->m->ds->ns;

	if (!row)
		return ns_record_del(ns, RECORD_ATTACHMENT, c->t->ino, s->link);
	return ns_record_put(ns, RECORD_ATTACHMENT, c->t->ino, s->link, row, strlen(row));
}

static int job_put(const struct change *c, const struct step *s)
{
	struct ns *ns = c->m->ds->ns;

	if (s->job_row)
		return ns_record_put(
		        ns, RECORD_JOB, c->t->ino, s->link, s->job_row, strlen(s->job_row));
	return s->job_ends ? ns_record_del(ns, RECORD_JOB, c->t->ino, s->link) : 0;
}

static void policy_put(struct change *c, const struct manifest *mf)
{
	struct image_policy policy;

	if (!c->img)
		return; /* whoever opens it asks for the rows */
	manifest_policy(mf, &policy);
	store_policy_set(c->img, &policy);
}

static int step_put(const struct change *c, const struct step *s)
{
	int r = attachment_put(c, s, s->new_row);

	if (!r)
		r = job_put(c, s);
	if (!r)
		r = audit_note(c->m, c->who, s->action, c->t->ino, c->t->path, s->type,
		        s->old_value, s->new_value);
	return r;
}

static int rows_put(struct change *c)
{
	int r = 0;

	for (unsigned i = 0; i < c->n && !r; i++)
		r = step_put(c, &c->steps[i]);
	if (!r)
		policy_put(c, c->next);
	return r;
}

static void step_take_back(const struct change *c, const struct step *s)
{
	int r = attachment_put(c, s, s->old_row);

	if (!r && s->job_row)
		r = ns_record_del(c->m->ds->ns, RECORD_JOB, c->t->ino, s->link);
	if (!r)
		r = audit_note(c->m, NULL, "taken back", c->t->ino, c->t->path, s->type,
		        s->new_value, s->old_value);
	if (r < 0)
		log_error("'%s': a change of filter '%s' that failed cannot be taken back: %s",
		        c->t->path, s->type, strerror(-r));
}

/* Also on a full disk: rows of a stack that is not there would be a lie about the data. */
static void rows_take_back(struct change *c)
{
	const int r = rows_begin_anyway(c->m, NULL);

	if (r < 0) {
		log_error("'%s': a change of its filters that failed cannot be taken back: %s",
		        c->t->path, strerror(-r));
		return;
	}
	for (unsigned i = c->n; i-- > 0;)
		step_take_back(c, &c->steps[i]);
	policy_put(c, c->now);
	rows_end(c->m);
}

/* The committed() of pipeline_change. */
static int change_commit(void *arg, struct errmsg *em)
{
	struct change *c = arg;
	int r;

	if (c->needs_empty && holds_data(c->img))
		return -EAGAIN;
	r = rows_begin(c->m, em);
	if (r < 0)
		return r;
	r = rows_put(c);
	rows_end(c->m);
	if (!r)
		r = rows_flush(c->m);
	if (r < 0) {
		rows_take_back(c);
		return errmsg_set(
		        em, r, "cannot record the change of '%s': %s", c->t->path, strerror(-r));
	}
	return 0;
}

static bool step_goes(const struct step *s)
{
	return !s->new_row && s->old_row;
}

/* State of a stage that is gone, with what it said while it went. */
static void state_forget(const struct change *c, const struct step *s)
{
	struct manager *m = c->m;
	int r = rows_begin_anyway(m, NULL);

	if (!r) {
		r = state_drop(c->fi->state, m->ds->ns, s->link);
		rows_end(m);
	}
	if (r < 0)
		log_warn("'%s': state of filter '%s' is left: %s", c->t->path, s->type,
		        strerror(-r));
}

/* It has happened. */
static void step_finish(struct change *c, const struct step *s)
{
	if (c->fi && step_goes(s))
		state_forget(c, s);
	if (s->job_row && jobs_add(c->m->jobs, &s->job) < 0)
		log_error(
		        "'%s': out of memory: the conversion begins at the next mount", c->t->path);
}

static int change_make(struct change *c, struct errmsg *em)
{
	struct filter_image *fi = c->fi;
	int r = 0;

	for (unsigned i = 0; i < c->n && fi && !r; i++)
		if (step_goes(&c->steps[i]))
			r = image_state_open(fi, em);
	if (r < 0 || c->n == 0)
		return r;
	if (fi && fi->pipeline) {
		image_note_links(fi, &c->next->plan);
		r = pipeline_change(fi->pipeline, &c->next->plan, change_commit, c, em);
	} else {
		r = change_commit(c, em);
	}
	if (r < 0)
		return r;
	if (fi && fi->pipeline) {
		manifest_free(fi->manifest);
		fi->manifest = STEAL(c->next);
	}
	for (unsigned i = 0; i < c->n; i++)
		step_finish(c, &c->steps[i]);
	return 0;
}

/* --- the whole --- */

/* A stage that must see what is read is new, or looks for something else now. */
static bool step_sees_reads(const struct change *c, const struct step *s)
{
	const int at = stack_plan_find(&c->next->plan, s->link);

	return at >= 0 && c->next->plan.items[at].capabilities & STAGE_SEES_READS;
}

static bool change_sees_reads(const struct change *c)
{
	for (unsigned i = 0; i < c->n; i++)
		if (step_sees_reads(c, &c->steps[i]))
			return true;
	return false;
}

/* Of the last step, unless one before it is going to take time. */
static struct change_result result_of(const struct change *c)
{
	struct change_result res = {
	        .state = manifest_state_name(STACK_ACTIVE), .sees_reads = change_sees_reads(c)};

	for (unsigned i = 0; i < c->n; i++) {
		const struct step *s = &c->steps[i];
		const int at = stack_plan_find(&c->next->plan, s->link);
		res.link = s->link;
		res.state = at < 0 ? "gone" : manifest_state_name(c->next->plan.items[at].state);
		if (s->job_row)
			break;
	}
	return res;
}

static int change_once(struct manager *m, const struct filter_caller *who, const struct target *t,
        prepare_fn *prepare, const struct wish *w, struct change_result *ret_res, struct errmsg *em)
{
	struct change c = {.m = m, .who = who, .t = t};
	int r = change_begin(&c, em);

	if (!r)
		r = prepare(&c, w, em);
	if (!r)
		r = rows_make(&c, em);
	if (!r) {
		*ret_res = result_of(&c);
		r = change_make(&c, em);
	}
	change_end(&c);
	return r;
}

static int change(struct manager *m, const struct filter_caller *who, const struct target *t,
        prepare_fn *prepare, const struct wish *w, struct change_result *ret_res, struct errmsg *em)
{
	struct change_result res = {0};
	int r = -EAGAIN;

	for (unsigned i = 0; i < CHANGE_TRIES && r == -EAGAIN; i++)
		r = change_once(m, who, t, prepare, w, &res, em);
	if (r == -EAGAIN)
		errmsg_set(em, r, "'%s' is being written to: try again", t->path);
	if (!r && ret_res)
		*ret_res = res;
	return r;
}

int change_attach(struct manager *m, const struct filter_caller *who, const struct target *t,
        const struct stage_type *type, const char *const *settings, unsigned n, bool force,
        struct change_result *ret_res, struct errmsg *em)
{
	const struct wish w = {.action = "filter attach",
	        .type = type,
	        .settings = settings,
	        .n = n,
	        .force = force};

	return change(m, who, t, attach_prepare, &w, ret_res, em);
}

int change_set(struct manager *m, const struct filter_caller *who, const struct target *t,
        const char *type, const char *const *settings, unsigned n, bool replace,
        struct change_result *ret_res, struct errmsg *em)
{
	const struct wish w = {.action = "filter set",
	        .name = type,
	        .settings = settings,
	        .n = n,
	        .replace = replace};

	return change(m, who, t, set_prepare, &w, ret_res, em);
}

int change_detach(struct manager *m, const struct filter_caller *who, const struct target *t,
        const char *type, bool force, struct change_result *ret_res, struct errmsg *em)
{
	const struct wish w = {.action = "filter detach", .name = type, .force = force};

	return change(m, who, t, detach_prepare, &w, ret_res, em);
}

int change_policy(struct manager *m, const struct filter_caller *who, const struct target *t,
        const struct policy *p, bool force, struct change_result *ret_res, struct errmsg *em)
{
	const struct wish w = {.policy = p, .force = force};

	return change(m, who, t, policy_prepare, &w, ret_res, em);
}

/* By inode number; -ENOENT also when it has no name any more. */
static int target_of(struct manager *m, uint64_t ino, struct target *t, struct errmsg *em)
{
	struct ns_inode inode;
	int r = ns_inode_get(m->ds->ns, ino, &inode);

	if (!r && inode.nlink == 0)
		r = -ENOENT;
	if (r < 0)
		return errmsg_set(em, r, "inode %llu: %s", (unsigned long long)ino, strerror(-r));
	t->ino = ino;
	t->dir = (inode.mode & S_IFMT) == S_IFDIR;
	target_path(m->ds->ns, ino, t->path);
	return 0;
}

int change_domain(struct manager *m, const struct filter_caller *who, uint64_t ino, uint32_t from,
        uint32_t to, struct errmsg *em)
{
	const struct wish w = {.action = "key rotate", .from = from, .to = to};
	struct target t;
	const int r = target_of(m, ino, &t, em);

	return r < 0 ? r : change(m, who, &t, domain_prepare, &w, NULL, em);
}

/* The inode is gone, and the job's row has nobody else to remove it. */
static int job_row_remove(struct manager *m, uint64_t ino, uint64_t link, struct errmsg *em)
{
	int r = rows_begin(m, em);

	if (r < 0)
		return r;
	r = ns_record_del(m->ds->ns, RECORD_JOB, ino, link);
	rows_end(m);
	return r < 0 ? errmsg_set(em, r, "cannot remove a job: %s", strerror(-r)) : 0;
}

int change_finish(struct manager *m, uint64_t ino, uint64_t link, struct errmsg *em)
{
	const struct wish w = {.action = "filter attached", .link = link};
	struct target t;

	pthread_mutex_lock(&m->lock);
	if (jobs_again(m->jobs, ino, link)) { /* its row is the new one's by now */
		pthread_mutex_unlock(&m->lock);
		return 0;
	}
	int r = target_of(m, ino, &t, em);
	if (r == -ENOENT)
		r = job_row_remove(m, ino, link, em);
	else if (!r)
		r = change(m, NULL, &t, finish_prepare, &w, NULL, em);
	pthread_mutex_unlock(&m->lock);
	return r;
}

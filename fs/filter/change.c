/*
 * change.c - one change of one inode's stack: rules, rows, audit, effect
 *
 * A change is prepared as two manifests, as it is now and as it is to be, and the rows that make the
 * difference.  Of an image that is open it happens inside pipeline_change(): the new stages are
 * prepared, the pipeline is drained, the rows are put in one gate section with their audit entry and
 * made durable, and then the new stack is published.  Of a closed image, or a directory, only the
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
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "fs/filter/manager-private.h"
#include "fs/snapshot/records.h"

#define CHANGE_TRIES 8u

struct change {
	struct manager *m;
	const struct filter_caller *who; /* NULL: the daemon itself */
	const struct target *t;
	const char *action;
	struct filter_image *fi;     /* locked; NULL: a directory */
	struct image *img;           /* NULL: a directory, or its key is locked */
	struct manifest *now, *next; /* owned */
	bool has_data;
	bool needs_empty; /* decided by has_data being false */
	uint64_t link;
	char type[32];
	char *old_row, *new_row;     /* owned; NULL: none */
	char *old_value, *new_value; /* owned; settings, for the audit trail */
	struct job job;
	char *job_row; /* owned; NULL: no job begins */
	bool job_ends;
};

/* --- preparing --- */

static void change_end(struct change *c)
{
	store_image_close(c->img);
	if (c->fi) {
		pthread_mutex_unlock(&c->fi->lock);
		image_put(c->fi);
	}
	manifest_free(c->now);
	manifest_free(c->next);
	free(c->old_row);
	free(c->new_row);
	free(c->old_value);
	free(c->new_value);
	free(c->job_row);
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
	int r = c->t->dir ? 0 : image_begin(c, em);

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

/* Rows and texts for the link, from both manifests. */
static int rows_make(struct change *c, struct errmsg *em)
{
	const int old_at = stack_plan_find(&c->now->plan, c->link);
	const int new_at = stack_plan_find(&c->next->plan, c->link);
	const struct stack_item *old_item = old_at < 0 ? NULL : &c->now->plan.items[old_at];
	const struct stack_item *new_item = new_at < 0 ? NULL : &c->next->plan.items[new_at];

	c->old_row = old_item ? manifest_item_encode(old_item, c->now->domain) : NULL;
	c->new_row = new_item ? manifest_item_encode(new_item, c->next->domain) : NULL;
	c->old_value = text_copy(old_item ? old_item->given : NULL);
	c->new_value = text_copy(new_item ? new_item->given : NULL);
	if (c->job.link)
		c->job_row = job_encode(&c->job);
	if (!c->old_row != !old_item || !c->new_row != !new_item || !c->old_value ||
	        !c->new_value || (c->job.link && !c->job_row))
		return errmsg_set(em, -ENOMEM, "out of memory");
	snprintf(c->type, sizeof(c->type), "%s",
	        new_item   ? new_item->type_name
	        : old_item ? old_item->type_name
	                   : "");
	return 0;
}

/* --- rows; inside the gate --- */

static int attachment_put(struct change *c, const char *row)
{
	struct ns *ns = c->m->ds->ns;

	if (!row)
		return ns_record_del(ns, RECORD_ATTACHMENT, c->t->ino, c->link);
	return ns_record_put(ns, RECORD_ATTACHMENT, c->t->ino, c->link, row, strlen(row));
}

static int job_put(struct change *c)
{
	struct ns *ns = c->m->ds->ns;

	if (c->job_row)
		return ns_record_put(
		        ns, RECORD_JOB, c->t->ino, c->link, c->job_row, strlen(c->job_row));
	return c->job_ends ? ns_record_del(ns, RECORD_JOB, c->t->ino, c->link) : 0;
}

static void policy_put(struct change *c, const struct manifest *mf)
{
	struct image_policy policy;

	if (!c->img)
		return; /* whoever opens it asks for the rows */
	manifest_policy(mf, &policy);
	store_policy_set(c->img, &policy);
}

static int rows_put(struct change *c)
{
	int r = attachment_put(c, c->new_row);

	if (!r)
		r = job_put(c);
	if (!r)
		r = audit_note(c->m, c->who, c->action, c->t->ino, c->t->path, c->type,
		        c->old_value, c->new_value);
	if (!r)
		policy_put(c, c->next);
	return r;
}

static void rows_take_back(struct change *c)
{
	int r = rows_begin(c->m, NULL);

	if (!r) {
		r = attachment_put(c, c->old_row);
		if (!r && c->job_row)
			r = ns_record_del(c->m->ds->ns, RECORD_JOB, c->t->ino, c->link);
		if (!r)
			r = audit_note(c->m, NULL, "taken back", c->t->ino, c->t->path, c->type,
			        c->new_value, c->old_value);
		policy_put(c, c->now);
		rows_end(c->m);
	}
	if (r < 0)
		log_error("'%s': a change of filter '%s' that failed cannot be taken back: %s",
		        c->t->path, c->type, strerror(-r));
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

/* State of a stage that is gone, with what it said while it went. */
static void state_forget(struct change *c)
{
	struct manager *m = c->m;
	int r = rows_begin(m, NULL);

	if (!r) {
		r = state_drop(c->fi->state, m->ds->ns, c->link);
		rows_end(m);
	}
	if (r < 0)
		log_warn("'%s': state of filter '%s' is left: %s", c->t->path, c->type,
		        strerror(-r));
}

static int change_make(struct change *c, struct errmsg *em)
{
	struct filter_image *fi = c->fi;
	const bool goes = !c->new_row && c->old_row;
	int r = 0;

	if (fi && goes)
		r = image_state_open(fi, em);
	if (r < 0)
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
	if (fi && goes)
		state_forget(c);
	if (c->job_row && jobs_add(c->m->jobs, &c->job) < 0)
		log_error(
		        "'%s': out of memory: the conversion begins at the next mount", c->t->path);
	return 0;
}

/* --- steps that attach, set and detach share --- */

static void job_begin(struct change *c, const struct stack_item *item, uint32_t from)
{
	c->job = (struct job){.ino = c->t->ino,
	        .link = item->link,
	        .what = item->class == STAGE_ENCRYPT ? JOB_RESEAL : JOB_CONVERT};
	memcpy(c->job.type, item->type_name, sizeof(c->job.type));
	if (c->job.what == JOB_RESEAL)
		c->job.from[c->job.n_from++] = from;
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

struct wish {
	const char *action;
	const struct stage_type *type; /* attach */
	const char *name;              /* set, detach: "TYPE" or "TYPE:LINK" */
	const char *const *settings;
	unsigned n;
	bool force, replace;
	uint64_t link;     /* finish */
	uint32_t from, to; /* domain */
};

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
	int r = stack_plan_check_attach(&c->now->plan, item, c->has_data, w->force, em);
	uint32_t domain = 0;

	if (!r && item->class == STAGE_ENCRYPT)
		r = keys_domain_for(c->m, item_text(item, "key"), &domain, em);
	if (r < 0)
		return r;
	if (c->fi && converts(c, item) && item->class == STAGE_ENCRYPT) {
		r = refuse_snapshots(c, em);
		if (r < 0)
			return r;
	}
	c->link = item->link;
	item->forced = w->force;
	if (converts(c, item)) {
		item->state = STACK_CONVERTING_IN;
		job_begin(c, item, c->now->domain);
	}
	c->needs_empty = c->fi && !c->has_data && changes_data(item);
	if (item->class == STAGE_ENCRYPT)
		c->next->domain = domain;
	r = manifest_add(c->next, item);
	return r < 0 ? errmsg_set(em, r, "too many filters") : 0;
}

static int attach_prepare(struct change *c, const struct wish *w, struct errmsg *em)
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
	int r = fixed_check(old, item, em);

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

static int set_prepare(struct change *c, const struct wish *w, struct errmsg *em)
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
	if (!r)
		r = manifest_item_make(
		        old->type, old->link, (const char *const *)texts, n, &item, em);
	if (r < 0)
		return r;
	c->link = old->link;
	r = set_item(c, old, &item, em);
	manifest_item_release(&item);
	return r;
}

/* --- detach --- */

static int detach_prepare(struct change *c, const struct wish *w, struct errmsg *em)
{
	const int at = item_find(c->next, w->name, em);

	if (at < 0)
		return at;
	struct stack_item *item = &c->next->plan.items[at];
	const int r = stack_plan_check_detach(&c->now->plan, item->link, c->has_data, w->force, em);
	if (r < 0)
		return r;
	c->link = item->link;
	c->needs_empty = c->fi && !c->has_data && changes_data(item);
	if (converts(c, item)) {
		item->state = STACK_CONVERTING_OUT;
		job_begin(c, item, c->now->domain);
	} else {
		manifest_remove(c->next, item->link);
	}
	return 0;
}

/* --- keys and jobs --- */

/* An image may be on its way out of several domains: all are wiped when it has left them. */
static void domains_merge(struct change *c)
{
	struct job before;

	if (jobs_find(c->m->jobs, c->t->ino, c->link, &before) < 0)
		return;
	for (unsigned i = 0; i < before.n_from && c->job.n_from < JOB_DOMAINS_MAX; i++)
		if (before.from[i] != c->job.from[0])
			c->job.from[c->job.n_from++] = before.from[i];
}

static int domain_prepare(struct change *c, const struct wish *w, struct errmsg *em)
{
	for (unsigned i = 0; i < c->next->plan.n; i++) {
		const struct stack_item *item = &c->next->plan.items[i];
		if (item->class != STAGE_ENCRYPT || item->state == STACK_CONVERTING_OUT ||
		        c->next->domain != w->from)
			continue;
		c->link = item->link;
		c->next->domain = w->to;
		if (c->fi && c->has_data) {
			job_begin(c, item, w->from);
			domains_merge(c);
		}
		c->needs_empty = c->fi && !c->has_data;
		return 0;
	}
	return errmsg_set(em, -ENOENT, "'%s' is not in that crypto domain", c->t->path);
}

static int finish_prepare(struct change *c, const struct wish *w, struct errmsg *em)
{
	const int at = stack_plan_find(&c->next->plan, w->link);

	c->link = w->link;
	c->job_ends = true;
	if (at < 0)
		return 0; /* only the job's row is left */
	if (c->next->plan.items[at].state == STACK_CONVERTING_OUT) {
		c->action = "filter detached";
		manifest_remove(c->next, w->link);
	} else {
		if (c->next->plan.items[at].state == STACK_ACTIVE)
			c->action = "key rotated";
		c->next->plan.items[at].state = STACK_ACTIVE;
	}
	return 0;
}

/* --- the whole --- */

typedef int prepare_fn(struct change *c, const struct wish *w, struct errmsg *em);

static int change_once(struct manager *m, const struct filter_caller *who, const struct target *t,
        prepare_fn *prepare, const struct wish *w, struct change_result *ret_res, struct errmsg *em)
{
	struct change c = {.m = m, .who = who, .t = t, .action = w->action};
	int r = change_begin(&c, em);

	if (!r)
		r = prepare(&c, w, em);
	if (!r)
		r = rows_make(&c, em);
	if (!r) {
		const int at = stack_plan_find(&c.next->plan, c.link);
		*ret_res = (struct change_result){c.link,
		        at < 0 ? "gone" : manifest_state_name(c.next->plan.items[at].state)};
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
	int r = target_of(m, ino, &t, em);
	if (r == -ENOENT)
		r = job_row_remove(m, ino, link, em);
	else if (!r)
		r = change(m, NULL, &t, finish_prepare, &w, NULL, em);
	pthread_mutex_unlock(&m->lock);
	return r;
}

/*
 * rollback.c - an image becomes again what it was at a snapshot
 *
 *	step                                        why
 *	the kernel's cache of it goes                what programs wrote through mappings comes first
 *	its stack is opened, if it is not            its stages may refuse (protect)
 *	event ROLLBACK: drained, all agree           nobody is inside
 *	a snapshot of what it is now                 nothing is lost by mistake
 *	content, size and state of stages, at once   one transaction
 *	the kernel's cache goes again
 *
 * Stages that data depends on must be the same now as they were then, or the content would not
 * be understood.  Settings stay as they are now.  State of stages goes back with the content where it
 * is about that (stage_state_of); a stage that came since has none.  What is about the image's use stays,
 * and so does quarantine, until it is lifted.
 *
 * Until the transaction is committed nobody may change the image; so if the commit fails, the
 * drained state is kept while the engine repeats it, for a time; then the image is put in
 * quarantine, which an administrator lifts.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "fs/control/text.h"
#include "fs/snapshot/private.h"
#include "fs/vfs/restore.h"

#define COMMIT_TRIES 60u /* a second each */

struct rolling {
	struct manager *m;
	const struct filter_caller *who;
	const char *name;
	bool force;
	struct target t;
	struct vnode *file; /* open */
	struct filter_image *fi;
	struct snapshot_image si; /* what it is to be */
	struct manifest *mf;      /* of then */
	struct state_table *then; /* of its stages */
	struct capture before;
	struct errmsg *em;
};

/* --- the same stages? --- */

static bool holds(const struct stack_item *item)
{
	return item->class == STAGE_ENCRYPT ||
	       item->capabilities & (STAGE_TRANSFORMS | STAGE_HOLDS_DATA);
}

static bool same_text(const char *a, const char *b)
{
	return !strcmp(a ? a : "", b ? b : "");
}

static const struct stack_item *item_like(const struct manifest *mf, const struct stack_item *item)
{
	const int at = stack_plan_find(&mf->plan, item->link);
	const struct stack_item *other = at < 0 ? NULL : &mf->plan.items[at];

	if (!other || strcmp(other->type_name, item->type_name) ||
	        other->type_version != item->type_version || other->state != STACK_ACTIVE ||
	        item->state != STACK_ACTIVE || !same_text(other->given, item->given))
		return NULL;
	return other;
}

static const struct stack_item *item_differs(const struct manifest *a, const struct manifest *b)
{
	for (unsigned i = 0; i < a->plan.n; i++)
		if (holds(&a->plan.items[i]) && !item_like(b, &a->plan.items[i]))
			return &a->plan.items[i];
	return NULL;
}

static int stages_check(struct rolling *rb, struct errmsg *em)
{
	struct manifest *now;
	int r = manifest_load(rb->m->ds->ns, rb->t.ino, &now, em);

	if (r < 0)
		return r;
	const struct stack_item *other = item_differs(now, rb->mf);
	if (!other)
		other = item_differs(rb->mf, now);
	if (other)
		r = errmsg_set(em, -EINVAL,
		        "cannot roll '%s' back: filter '%s', which its data depends on, has "
		        "changed since (clone the snapshot instead: weir clone '%s@%s' DEST)",
		        rb->t.path, other->type_name, rb->t.path, rb->name);
	else if (now->domain != rb->mf->domain)
		r = errmsg_set(em, -EINVAL,
		        "cannot roll '%s' back: its key was rotated since (clone the snapshot "
		        "instead: weir clone '%s@%s' DEST)",
		        rb->t.path, rb->t.path, rb->name);
	manifest_free(now);
	return r;
}

/* --- drained --- */

static int before_rows(void *arg)
{
	struct rolling *rb = arg;

	return capture_rows(&rb->before);
}

/*
 * Gate closed.  What can be refused comes first: once the state in RAM is another one, there is no way
 * back but to run out of memory in the middle of it.
 */
static int rollback_rows(void *arg)
{
	struct rolling *rb = arg;
	const struct stack_plan *now = &rb->fi->manifest->plan;
	int r = audit_note(rb->m, rb->who, "rollback", rb->t.ino, rb->t.path, rb->name, NULL,
	        rb->before.s.name);

	for (unsigned i = 0; i < now->n && r == 0; i++)
		if (stack_item_of_content(&now->items[i]))
			r = state_restore(rb->fi->state, rb->then, now->items[i].link);
	if (r == 0)
		vfs_replaced(rb->m->vfs, rb->file, rb->si.inode.size);
	return r;
}

/* The engine repeats a commit that failed. */
int snapshot_commit_wait(struct store *s, int r)
{
	for (unsigned i = 0; i < COMMIT_TRIES && r == -EINPROGRESS; i++) {
		sleep(1);
		if (store_sync(s) == 0)
			r = 0;
	}
	return r;
}

static int replace(void *arg)
{
	struct rolling *rb = arg;
	struct store *s = rb->m->ds->store;
	const struct rollback_ref ref = {rb->t.ino, rb->si.key};

	pthread_mutex_lock(&rb->m->record_lock);
	int r = snapshot_commit_wait(
	        s, store_snapshot_create(s, rb->before.refs, 1, before_rows, rb));
	if (r == -EINPROGRESS) /* nothing is replaced yet, nor will it be */
		r = errmsg_set(rb->em, -EIO,
		        "cannot roll '%s' back: what it is now cannot be committed (weir status "
		        "says why)",
		        rb->t.path);
	else if (r == 0)
		r = snapshot_commit_wait(s, store_snapshot_rollback(s, &ref, 1, rollback_rows, rb));
	pthread_mutex_unlock(&rb->m->record_lock);
	return r;
}

/* The stack is drained; between the event's phases. */
static int rollback_drained(void *arg, struct errmsg *em)
{
	struct rolling *rb = arg;

	if (!rb->force && vfs_open_users(rb->file) > 1)
		return errmsg_set(em, -EBUSY,
		        "'%s' is open: close it first (or use --force: whoever has it open finds "
		        "other content under his hands)",
		        rb->t.path);
	rb->em = em;
	const int r = vfs_replace(rb->m->vfs, rb->file, replace, rb);
	if (r == -EINPROGRESS)
		notices_quarantine(rb->m->notices, rb->t.ino, "rollback",
		        "its rollback could not be committed: what is written now would be lost "
		        "once it is");
	return r < 0 ? snapshot_failed("roll back", rb->t.path, r, em) : 0;
}

static int rollback_event(struct rolling *rb, struct errmsg *em)
{
	const struct stage_event event = {.kind = STAGE_EVENT_ROLLBACK, .size = rb->si.inode.size};

	rb->fi = image_peek(rb->m, rb->t.ino);
	ASSERT(rb->fi);
	pthread_mutex_lock(&rb->fi->lock);
	const int r = pipeline_event(rb->fi->pipeline, &event, rollback_drained, rb, em);
	pthread_mutex_unlock(&rb->fi->lock);
	image_put(rb->fi);
	return r;
}

/* --- the whole --- */

/* "before-NAME-20261122T215510Z". */
int snapshot_before_name(struct ns *ns, const struct target *t, const char *name,
        char ret_name[SNAPSHOT_NAME_MAX + 1], struct errmsg *em)
{
	char prefix[SNAPSHOT_NAME_MAX + 8];

	snprintf(prefix, sizeof(prefix), "before-%s", name);
	return snapshot_name_stamped(ns, t->ino, prefix, clock_wall_ns(), &t->ino, 1, ret_name, em);
}

static int before_init(struct rolling *rb, struct errmsg *em)
{
	char name[SNAPSHOT_NAME_MAX + 1];
	int r = snapshot_before_name(rb->m->ds->ns, &rb->t, rb->name, name, em);

	if (r == 0)
		r = capture_init(&rb->before, rb->m, rb->who, &rb->t, name, &rb->t.ino, 1, em);
	rb->before.action = "snapshot create";
	rb->before.s.origin = SNAPSHOT_OF_ROLLBACK;
	return r;
}

static int rollback_open(struct rolling *rb, struct errmsg *em)
{
	struct vfs *v = rb->m->vfs;
	int r = vfs_open(v, rb->t.ino, &rb->file);

	if (r < 0)
		return errmsg_set(em, r, "cannot open '%s': %s%s", rb->t.path, strerror(-r),
		        r == -ENOKEY ? " (weir key unlock)" : "");
	if (!rb->force && vfs_open_users(rb->file) > 1)
		r = errmsg_set(
		        em, -EBUSY, "'%s' is open: close it first, or use --force", rb->t.path);
	if (r == 0)
		r = rollback_event(rb, em);
	vfs_release(v, rb->file);
	return r;
}

static int rollback_locked(struct rolling *rb, const struct snapshot_request *rq, struct errmsg *em)
{
	struct ns *ns = rb->m->ds->ns;
	struct snapshot s;
	int r = snapshot_find_image(ns, &rb->t, rq->name, &s, &rb->si, em);

	if (r < 0)
		return r;
	snapshot_release(&s);
	r = manifest_load(ns, snapshot_image(rb->si.key), &rb->mf, em);
	if (r == 0)
		r = stages_check(rb, em);
	if (r == 0) {
		r = state_load(ns, snapshot_image(rb->si.key), &rb->then);
		if (r < 0)
			return snapshot_read_failed(r, em);
		r = snapshot_domains_settled(ns, &rb->t.ino, 1, em);
	}
	if (r == 0)
		r = before_init(rb, em);
	if (r == 0)
		r = store_sync(rb->m->ds->store);
	return r < 0 ? r : rollback_open(rb, em);
}

int snapshots_rollback(struct manager *m, const struct filter_caller *who,
        const struct snapshot_request *rq, snapshot_invalidate_fn *invalidate, void *arg,
        json_t **ret_json, struct errmsg *em)
{
	struct rolling rb = {.m = m, .who = who, .name = rq->name, .force = rq->force};
	int r = snapshot_target_image(m->ds->ns, rq->target, &rb.t, em);

	if (r < 0)
		return r;
	if (m->read_only)
		return errmsg_set(em, -EROFS, "cannot roll back: mounted read-only");
	audit_prepare(who ? who->uid : 0);
	if (invalidate)
		invalidate(arg, rb.t.ino, NULL);
	pthread_mutex_lock(&m->lock);
	r = rollback_locked(&rb, rq, em);
	pthread_mutex_unlock(&m->lock);
	if (invalidate)
		invalidate(arg, rb.t.ino, NULL);
	if (r == 0)
		*ret_json = json_pack("{s:o, s:s, s:s, s:I}", "target", text_json(rb.t.path),
		        "name", rq->name, "before", rb.before.s.name, "size_bytes",
		        (json_int_t)rb.si.inode.size);
	capture_release(&rb.before);
	state_free(rb.then);
	manifest_free(rb.mf);
	snapshot_image_release(&rb.si);
	return r < 0 ? snapshot_failed("roll back", rb.t.path, r, em) : 0;
}

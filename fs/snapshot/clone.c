/*
 * clone.c - an image made from a snapshot, or from another image as it is
 *
 * The clone has mode, owner and times of its source, its filters with their settings, and what of their
 * state is about the content, of that instant; no snapshots, and no quarantine: that keeps one image
 * as it is, and is lifted from that one.  What it shares with its source is shared as duplicates are:
 * neither knows of the other.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "fs/control/text.h"
#include "fs/filter/sealed-flag.h"
#include "fs/snapshot/private.h"
#include "fs/vfs/restore.h"

struct cloning {
	struct manager *m;
	const struct filter_caller *who;
	const char *from, *to; /* as asked for, with the name: for the audit trail */
	struct instant *in;    /* NULL: of a snapshot */
	uint64_t source;       /* inode, or snapshot_image() */
	struct ns_inode like;  /* of a snapshot */
	struct owned_rows rows;
	uint64_t dir;
	const char *name;
	uint64_t ino; /* made */
};

static int source_rows(struct cloning *c)
{
	owned_rows_release(&c->rows);
	return owned_rows_read_content(c->m->ds->ns, c->source, &c->rows);
}

/* Gate closed. */
static int clone_records(void *arg, struct ns_inode *ret_inode)
{
	struct cloning *c = arg;
	struct ns *ns = c->m->ds->ns;
	struct ns_inode like = c->like;
	int r = 0;

	if (c->in) {
		vfs_collect_rows(c->m->vfs, 0);
		r = ns_inode_get(ns, c->source, &like);
		if (r == 0)
			r = source_rows(c);
	}
	if (r == 0)
		r = owned_rows_put(ns, ret_inode->ino, &c->rows);
	if (r == 0)
		r = audit_note(c->m, c->who, "clone", ret_inode->ino, c->to, "", NULL, c->from);
	if (r < 0)
		return r;
	ret_inode->mode = like.mode;
	ret_inode->uid = like.uid;
	ret_inode->gid = like.gid;
	ret_inode->size = like.size;
	ret_inode->atime = like.atime;
	ret_inode->mtime = like.mtime;
	return 0;
}

struct clone_rows {
	struct cloning *c;
	int (*rows)(void *arg);
	void *arg;
};

/* Gate closed. */
static int clone_instant(void *arg)
{
	struct clone_rows *cr = arg;
	const int r = cr->rows(cr->arg);

	if (r == 0 && cr->c->in)
		instant_reached(cr->c->in);
	return r;
}

static int clone_content(void *arg, uint64_t ino, int (*rows)(void *rows_arg), void *rows_arg)
{
	struct cloning *c = arg;
	struct clone_ref ref = {.source = c->source, .image = ino};
	struct clone_rows cr = {c, rows, rows_arg};
	struct image_policy policy; /* the clone's rows are copies of the source's */
	int r = manager_policy(c->m->ds->ns, c->source, &policy);

	if (r < 0)
		return r;
	ref.domain = policy.domain;
	pthread_mutex_lock(&c->m->record_lock);
	r = store_clone(c->m->ds->store, &ref, 1, clone_instant, &cr);
	pthread_mutex_unlock(&c->m->record_lock);
	return r;
}

static int clone_make(struct cloning *c)
{
	const struct vfs_clone vc = {
	        .dir = c->dir,
	        .name = c->name,
	        .content = clone_content,
	        .records = clone_records,
	        .arg = c,
	};
	return vfs_clone_make(c->m->vfs, &vc, &c->ino);
}

static int clone_work(void *arg, struct instant *in, struct errmsg *em)
{
	struct cloning *c = arg;

	c->in = in;
	return clone_make(c);
}

/* --- from where to where --- */

/* A conversion goes on with a job, which a copy does not have. */
static int refuse_converting(struct ns *ns, uint64_t owner, const char *from, struct errmsg *em)
{
	struct manifest *mf;
	int r = manifest_load(ns, owner, &mf, em);

	if (r < 0)
		return r;
	for (unsigned i = 0; i < mf->plan.n && r == 0; i++)
		if (mf->plan.items[i].state != STACK_ACTIVE)
			r = errmsg_set(em, -EBUSY,
			        "cannot clone '%s': its data was being converted by filter '%s' "
			        "at that time",
			        from, mf->plan.items[i].type_name);
	manifest_free(mf);
	return r;
}

/* What is kept of it is no image: a copy would open, and be ciphertext. */
static int refuse_sealed(struct ns *ns, const struct target *t, struct errmsg *em)
{
	struct sealed_flag f;

	if (sealed_flag_get(ns, t->ino, &f) < 0)
		return 0;
	sealed_flag_release(&f);
	return errmsg_set(em, -ENOKEY,
	        "'%s' was received sealed: it can be cloned once its key is unlocked (weir key "
	        "unlock)",
	        t->path);
}

/* The instant is that of a snapshot.  Takes si. */
static int source_of_snapshot(struct cloning *c, struct snapshot_image *si, struct errmsg *em)
{
	c->source = snapshot_image(si->key);
	c->like = si->inode;
	snapshot_image_release(si);
	const int r = source_rows(c);
	if (r < 0)
		return snapshot_read_failed(r, em);
	return refuse_converting(c->m->ds->ns, c->source, c->from, em);
}

static int source_find(struct cloning *c, const struct snapshot_request *rq, struct errmsg *em)
{
	struct ns *ns = c->m->ds->ns;
	struct snapshot s;
	struct snapshot_image si;
	struct target t;
	int r = snapshot_target_image(ns, rq->target, &t, em);

	if (r == -ENOENT && rq->name) {
		r = snapshot_find_gone(ns, rq->target, rq->name, &si, em);
		return r < 0 ? r : source_of_snapshot(c, &si, em);
	}
	if (r == 0)
		r = refuse_sealed(ns, &t, em);
	if (r < 0)
		return r;
	if (rq->name) {
		r = snapshot_find_image(ns, &t, rq->name, &s, &si, em);
		if (r < 0)
			return r;
		snapshot_release(&s);
		return source_of_snapshot(c, &si, em);
	}
	c->source = t.ino;
	r = snapshot_domains_settled(ns, &t.ino, 1, em);
	return r < 0 ? r : refuse_converting(ns, c->source, c->from, em);
}

static int dest_find(struct cloning *c, char *dest, struct errmsg *em)
{
	char *slash = strrchr(dest, '/');
	int r = 0;

	c->dir = NS_ROOT_INO;
	c->name = slash ? slash + 1 : dest;
	if (slash) {
		*slash = '\0';
		r = *dest ? ns_lookup_path(c->m->ds->ns, dest, &c->dir) : 0;
		if (r < 0)
			errmsg_set(em, r, "cannot find directory '%s': %s", dest, strerror(-r));
	}
	return r;
}

/* Its chunks are in the domain that its rows say. */
static void policy_apply(struct cloning *c)
{
	struct image_policy policy;
	struct image *img;

	if (store_image_open(c->m->ds->store, c->ino, &img) < 0)
		return; /* it is asked for when it is opened */
	if (manager_policy(c->m->ds->ns, c->ino, &policy) == 0) {
		store_enter(c->m->ds->store);
		store_policy_set(img, &policy);
		store_leave(c->m->ds->store);
	}
	store_image_close(img);
}

static int clone_run(struct cloning *c, const struct snapshot_request *rq, struct errmsg *em)
{
	CLEANUP(free_ptr) char *dest = strdup(rq->other);
	int r = dest ? 0 : -ENOMEM;

	pthread_mutex_lock(&c->m->lock);
	if (r == 0)
		r = source_find(c, rq, em);
	if (r == 0)
		r = dest_find(c, dest, em);
	if (r == 0)
		r = store_sync(c->m->ds->store);
	if (r == 0 && rq->name)
		r = clone_make(c);
	if (r == 0 && !rq->name) {
		store_snapshot_near(c->m->ds->store);
		r = instant_run(c->m, &c->source, 1, STAGE_EVENT_CLONE, clone_work, c, em);
	}
	pthread_mutex_unlock(&c->m->lock);
	if (r == -EEXIST && !em->text[0])
		return errmsg_set(em, r, "cannot clone '%s': '%s' exists", c->from, rq->other);
	return r < 0 ? snapshot_failed("clone", c->from, r, em) : 0;
}

int snapshots_clone(struct manager *m, const struct filter_caller *who,
        const struct snapshot_request *rq, snapshot_invalidate_fn *invalidate, void *arg,
        json_t **ret_json, struct errmsg *em)
{
	char from[FILTER_PATH_MAX + SNAPSHOT_NAME_MAX + 2];
	struct cloning c = {.m = m, .who = who, .from = from, .to = rq->other};

	if (m->read_only)
		return errmsg_set(em, -EROFS, "cannot clone: mounted read-only");
	snprintf(from, sizeof(from), "%s%s%s", rq->target, rq->name ? "@" : "",
	        rq->name ? rq->name : "");
	audit_prepare(who ? who->uid : 0);
	int r = clone_run(&c, rq, em);
	if (r == 0) {
		const char *slash = strrchr(rq->other, '/');
		policy_apply(&c);
		if (invalidate)
			invalidate(arg, c.dir, slash ? slash + 1 : rq->other);
		*ret_json = json_pack("{s:o, s:o, s:I}", "source", text_json(from), "target",
		        text_json(rq->other), "inode", (json_int_t)c.ino);
	}
	owned_rows_release(&c.rows);
	return r;
}

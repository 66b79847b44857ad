/*
 * receive-apply.c - the hidden image becomes what it is for
 *
 *	whole                                     incremental
 *	the name is free                          nobody has the image open; its stages agree to be
 *	                                          rolled back, and are drained
 *	                                          it is as at the base (or, forced: what it is becomes a
 *	                                          snapshot)
 *	one group: name, attributes, snapshot,    one group: content, size, state of stages, snapshot,
 *	the record goes                           the record goes
 *	                                          the hidden image is removed
 *
 * A crash finds either all of that group or nothing of it; then the hidden image is there with its
 * record, complete, and the end of the same stream applies it.
 *
 * A whole image keeps the inode number of the hidden one, so nothing is copied.  The content of an
 * incremental one is the map of the hidden image, which began as that of the base.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "fs/stream/receive-private.h"
#include "fs/vfs/publish.h"
#include "fs/vfs/restore.h"

struct applying {
	struct receiver *rc;
	struct capture made; /* the snapshot that was sent */
	struct capture before;
	/* of an incremental stream */
	struct vnode *file;
	struct filter_image *fi;
	struct manifest *mf;
	struct state_table *state;
	struct ns_inode was;
};

/* Mode and times as they were at the sender; whose it is, too, if that is wanted. */
static void attributes_take(const struct receiver *rc, struct ns_inode *inode)
{
	const struct ns_inode *like = &rc->like.inode;

	inode->mode = like->mode;
	inode->size = like->size;
	inode->atime = like->atime;
	inode->mtime = like->mtime;
	if (!rc->place.image)
		inode->uid = inode->gid = rc->who ? rc->who->uid : 0;
	if (!rc->rq->properties)
		return;
	inode->uid = like->uid;
	inode->gid = like->gid;
}

static int made_init(struct applying *ap, struct errmsg *em)
{
	struct receiver *rc = ap->rc;
	const uint64_t ino = rc->place.image ? rc->place.image : rc->st.rec.ino;
	struct target t = {.ino = ino};
	char *path = strdup(rc->rq->called ? rc->rq->called : rc->place.path);
	int r = path ? capture_init(&ap->made, rc->m, rc->who, &t, rc->snapshot, &ino, 1, em)
	             : errmsg_set(em, -ENOMEM, "out of memory");

	if (r < 0) {
		free(path);
		return r;
	}
	/* The hidden one has no path yet. */
	free(ap->made.paths[0]);
	ap->made.paths[0] = path;
	snprintf(ap->made.target, sizeof(ap->made.target), "%s", path);
	ap->made.action = "receive";
	ap->made.guid = rc->begin.guid;
	ap->made.s.time_ns = rc->time_ns;
	return 0;
}

/* Gate closed. */
static int record_drop(const struct receiver *rc)
{
	return ns_record_del(rc->m->ds->ns, RECORD_FLAG, rc->st.rec.ino, RECEIVE_FLAG);
}

/* Gate closed: the snapshot's rows last, for their audit entry is not taken back. */
static int final_rows(struct applying *ap)
{
	struct receiver *rc = ap->rc;
	int r = record_drop(rc);

	if (r < 0)
		return r;
	r = capture_rows(&ap->made);
	if (r < 0 && receive_record_put(rc->m->ds->ns, &rc->st.rec) < 0)
		log_error("inode %llu: left without a record", (unsigned long long)rc->st.rec.ino);
	return r;
}

/* --- a whole image --- */

static void whole_attributes(void *arg, struct ns_inode *inode)
{
	const struct applying *ap = arg;

	attributes_take(ap->rc, inode);
}

static int whole_records(void *arg)
{
	return final_rows(arg);
}

static int whole_commit(void *arg, int (*rows)(void *rows_arg), void *rows_arg)
{
	struct applying *ap = arg;
	struct manager *m = ap->rc->m;

	pthread_mutex_lock(&m->record_lock);
	const int r = snapshot_commit_wait(m->ds->store,
	        store_snapshot_create(m->ds->store, ap->made.refs, 1, rows, rows_arg));
	pthread_mutex_unlock(&m->record_lock);
	return r;
}

static int apply_whole(struct applying *ap, struct errmsg *em)
{
	struct receiver *rc = ap->rc;
	const struct vfs_publish p = {
	        .dir = rc->place.dir,
	        .name = rc->place.name,
	        .ino = rc->st.rec.ino,
	        .commit = whole_commit,
	        .attributes = whole_attributes,
	        .records = whole_records,
	        .arg = ap,
	};
	const int r = vfs_publish(rc->m->vfs, &p);

	if (r < 0)
		return errmsg_set(em, r, "cannot make '%s': %s", rc->place.path, strerror(-r));
	if (rc->invalidate)
		rc->invalidate(rc->invalidate_arg, rc->place.dir, rc->place.name);
	return 0;
}

/* --- an incremental stream --- */

static int before_rows(void *arg)
{
	struct applying *ap = arg;

	return capture_rows(&ap->before);
}

/* What the image is now, as a snapshot. */
static int before_keep(struct applying *ap, struct errmsg *em)
{
	struct receiver *rc = ap->rc;
	struct target t = {.ino = rc->place.image};
	char name[SNAPSHOT_NAME_MAX + 1];

	snprintf(t.path, sizeof(t.path), "%s", rc->place.path);
	int r = snapshot_before_name(rc->m->ds->ns, &t, rc->snapshot, name, em);
	if (r == 0)
		r = capture_init(&ap->before, rc->m, rc->who, &t, name, &t.ino, 1, em);
	if (r < 0)
		return r;
	ap->before.action = "snapshot create";
	pthread_mutex_lock(&rc->m->record_lock);
	r = snapshot_commit_wait(rc->m->ds->store,
	        store_snapshot_create(rc->m->ds->store, ap->before.refs, 1, before_rows, ap));
	pthread_mutex_unlock(&rc->m->record_lock);
	if (r == 0)
		memcpy(rc->before, name, sizeof(rc->before));
	return r;
}

/* Gate closed. */
static int replace_rows(void *arg)
{
	struct applying *ap = arg;
	struct receiver *rc = ap->rc;
	struct ns_inode like = ap->was, ignored;
	int r = 0;

	for (unsigned i = 0; i < ap->mf->plan.n && r == 0; i++)
		if (filters_depends(&ap->mf->plan.items[i]))
			r = state_restore(ap->fi->state, ap->state, ap->mf->plan.items[i].link);
	if (r < 0)
		return r;
	attributes_take(rc, &like);
	vfs_received(rc->m->vfs, ap->file, &like, &ignored);
	r = final_rows(ap);
	if (r < 0)
		vfs_received(rc->m->vfs, ap->file, &ap->was, &ignored);
	return r;
}

static int replace(void *arg)
{
	struct applying *ap = arg;
	struct receiver *rc = ap->rc;
	struct store *s = rc->m->ds->store;
	const struct clone_ref ref = {.source = rc->st.rec.ino, .image = rc->place.image};

	pthread_mutex_lock(&rc->m->record_lock);
	const int r = snapshot_commit_wait(
	        s, store_clone_snapshot(s, &ref, ap->made.refs[0].id, replace_rows, ap));
	pthread_mutex_unlock(&rc->m->record_lock);
	return r;
}

/* Between the event's phases. */
static int apply_drained(void *arg, struct errmsg *em)
{
	struct applying *ap = arg;
	struct receiver *rc = ap->rc;
	struct vfs_attr attr;
	bool is_changed = false;

	if (vfs_open_users(ap->file) > 1)
		return errmsg_set(em, -EBUSY, "'%s' is open: close it first", rc->place.path);
	int r = vfs_getattr(rc->m->vfs, rc->place.image, &attr);
	if (r == 0)
		r = place_changed(rc, &is_changed);
	if (r < 0)
		return errmsg_set(em, r, "cannot compare '%s' with its snapshot: %s",
		        rc->place.path, strerror(-r));
	if (is_changed && !rc->rq->force)
		return place_refuse_changed(rc, em);
	if (is_changed)
		r = before_keep(ap, em);
	ap->was = attr.inode;
	if (r == 0)
		r = vfs_replace(rc->m->vfs, ap->file, replace, ap);
	return r;
}

static int apply_open(struct applying *ap, struct errmsg *em)
{
	const struct stage_event event = {.kind = STAGE_EVENT_ROLLBACK};
	struct manager *m = ap->rc->m;

	ap->fi = image_peek(m, ap->rc->place.image);
	ASSERT(ap->fi);
	pthread_mutex_lock(&ap->fi->lock);
	const int r = pipeline_event(ap->fi->pipeline, &event, apply_drained, ap, em);
	pthread_mutex_unlock(&ap->fi->lock);
	image_put(ap->fi);
	return r;
}

static void kernel_forget(const struct receiver *rc)
{
	if (rc->invalidate)
		rc->invalidate(rc->invalidate_arg, rc->place.image, NULL);
}

static int apply_incremental(struct applying *ap, struct errmsg *em)
{
	struct receiver *rc = ap->rc;
	struct vfs *v = rc->m->vfs;
	int r = manifest_load(rc->m->ds->ns, rc->place.image, &ap->mf, em);

	if (r == 0)
		r = filters_same_still(rc, ap->mf, em);
	if (r < 0)
		return r;
	r = state_load(rc->m->ds->ns, rc->st.rec.ino, &ap->state);
	if (r == 0)
		r = vfs_open(v, rc->place.image, &ap->file);
	if (r < 0)
		return errmsg_set(em, r, "cannot open '%s': %s", rc->place.path, strerror(-r));
	r = apply_open(ap, em);
	vfs_release(v, ap->file);
	return r;
}

/* --- either --- */

static int apply_locked(struct applying *ap, struct errmsg *em)
{
	struct receiver *rc = ap->rc;
	int r = place_check(rc, em);

	if (r == 0)
		r = made_init(ap, em);
	if (r == 0)
		r = store_sync(rc->m->ds->store); /* so that the group with the change is small */
	if (r == 0)
		r = rc->place.image ? apply_incremental(ap, em) : apply_whole(ap, em);
	return r;
}

int receive_apply(struct receiver *rc, struct errmsg *em)
{
	struct applying ap = {.rc = rc};

	audit_prepare(rc->who ? rc->who->uid : 0);
	if (rc->place.image)
		kernel_forget(rc);
	pthread_mutex_lock(&rc->m->lock);
	int r = apply_locked(&ap, em);
	pthread_mutex_unlock(&rc->m->lock);
	capture_release(&ap.made);
	capture_release(&ap.before);
	state_free(ap.state);
	manifest_free(ap.mf);
	if (r < 0)
		return em->text[0] ? r
		                   : errmsg_set(em, r, "cannot put it in place: %s", strerror(-r));
	if (!rc->place.image)
		return 0;
	kernel_forget(rc);
	store_image_close(STEAL(rc->st.img));
	r = staging_remove(rc->m, rc->st.rec.ino);
	if (r < 0)
		log_warn("receive: what is left of the stream goes at the next mount: %s",
		        strerror(-r));
	return 0;
}

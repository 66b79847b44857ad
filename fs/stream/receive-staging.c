/*
 * receive-staging.c - the hidden image that a stream is received into
 *
 *	step                             a crash there
 *	inode, record, filters: one      nothing is there
 *	group or log batch; of an
 *	incremental stream with the map
 *	of its base
 *	content                          what was saved last is there; more may be, and is said again
 *	saved: content flushed, then     the position before; never one that content does not reach
 *	the position in the record
 *	applied (receive-apply.c), the   it is visible, and the record is gone; an inode without name
 *	record goes in the same group    and record is removed when the datastore is opened
 *	removed                          removed when the datastore is opened, or not at all
 *
 * Why the position is a record of its own, put after the flush: a flush of another image makes rows
 * durable, but not our content.
 */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/log.h"
#include "fs/stream/receive-private.h"

#define SAVE_BYTES (64ull << 20)
#define SAVE_NS    (10 * NS_PER_SEC)

/* --- who fills what --- */

bool staging_active(struct manager *m, uint64_t ino)
{
	bool active = false;

	pthread_mutex_lock(&m->receive_lock);
	for (unsigned i = 0; i < RECEIVES_MAX; i++)
		active = active || m->receiving[i] == ino;
	pthread_mutex_unlock(&m->receive_lock);
	return active;
}

/* -EBUSY: somebody has it; -EAGAIN: too many. */
static int claim(struct manager *m, uint64_t ino)
{
	int r = -EAGAIN;

	pthread_mutex_lock(&m->receive_lock);
	for (unsigned i = 0; i < RECEIVES_MAX && r != -EBUSY; i++)
		if (m->receiving[i] == ino)
			r = -EBUSY;
	for (unsigned i = 0; i < RECEIVES_MAX && r == -EAGAIN; i++) {
		if (m->receiving[i] == 0) {
			m->receiving[i] = ino;
			r = 0;
		}
	}
	pthread_mutex_unlock(&m->receive_lock);
	return r;
}

static int claim_ours(struct receiver *rc, uint64_t ino, struct errmsg *em)
{
	const int r = claim(rc->m, ino);

	rc->st.claimed = r == 0;
	if (r == -EBUSY)
		return errmsg_set(em, r, "it is being received already");
	return r < 0 ? errmsg_set(em, r, "%u streams are being received already", RECEIVES_MAX) : 0;
}

static void unclaim(struct manager *m, uint64_t ino)
{
	pthread_mutex_lock(&m->receive_lock);
	for (unsigned i = 0; i < RECEIVES_MAX; i++)
		if (m->receiving[i] == ino)
			m->receiving[i] = 0;
	pthread_mutex_unlock(&m->receive_lock);
}

/* --- found again --- */

/* 1: that is the one. */
static int record_match(void *arg, const struct receive_record *rec)
{
	struct receiver *rc = arg;
	const struct place *pl = &rc->place;

	if (memcmp(rec->guid, rc->begin.guid, sizeof(rec->guid)) != 0 ||
	        memcmp(rec->guid_from, rc->begin.guid_from, sizeof(rec->guid_from)) != 0 ||
	        rec->image != pl->image)
		return 0;
	if (!pl->image && (rec->dir != pl->dir || strcmp(rec->name, pl->name) != 0))
		return 0;
	rc->st.rec = *rec;
	return 1;
}

/* What it is stored as was settled when it was made. */
static int found_check(struct receiver *rc, struct errmsg *em)
{
	struct image_policy policy;
	const int r = manager_policy(rc->m->ds->ns, rc->st.rec.ino, &policy);

	if (r < 0)
		return errmsg_set(
		        em, r, "cannot read the filters of what is there so far: %s", strerror(-r));
	if (rc->st.rec.size != rc->begin.size)
		return errmsg_set(em, -EUCLEAN, "the stream is damaged: its size is another one");
	if (rc->place.image && policy.domain != rc->place.policy.domain)
		return errmsg_set(em, -EINVAL,
		        "'%s' was encrypted, decrypted or moved to a new key since the stream was "
		        "cut (weir receive --abort, and send it again)",
		        rc->place.path);
	rc->place.policy = policy;
	return keys_check_domain(rc->m, policy.domain, em);
}

/* With manager.lock: so nobody makes a second one. */
static int find_locked(struct receiver *rc, struct errmsg *em)
{
	int r = receive_records_each(rc->m->ds->ns, record_match, rc);

	if (r <= 0)
		return r < 0 ? errmsg_set(em, r, "cannot read what was received: %s", strerror(-r))
		             : 0;
	r = claim_ours(rc, rc->st.rec.ino, em);
	return r < 0 ? r : found_check(rc, em);
}

int staging_find(struct receiver *rc, struct errmsg *em)
{
	receive_sweep(rc->m);
	pthread_mutex_lock(&rc->m->lock);
	const int r = find_locked(rc, em);
	pthread_mutex_unlock(&rc->m->lock);
	return r;
}

/* --- made --- */

struct making {
	struct receiver *rc;
	const struct owned_rows *rows;
};

/* Inside the gate, or with it closed.  Each row alone says nothing before the record does. */
static int making_rows(void *arg)
{
	const struct making *mk = arg;
	const struct receive_record *rec = &mk->rc->st.rec;
	struct ns *ns = mk->rc->m->ds->ns;
	struct ns_inode inode = mk->rc->like.inode;

	inode.ino = rec->ino;
	inode.mode = S_IFREG | 0600;
	inode.nlink = 0;
	inode.generation = 1;
	clock_gettime(CLOCK_REALTIME_COARSE, &inode.btime);
	int r = ns_inode_put(ns, &inode);
	if (r == 0)
		r = owned_rows_put(ns, rec->ino, mk->rows);
	if (r == 0)
		r = receive_record_put(ns, rec);
	if (r < 0 && ns_inode_del(ns, rec->ino) < 0)
		log_error("inode %llu: left without a record", (unsigned long long)rec->ino);
	return r;
}

static int make_whole(struct making *mk, struct errmsg *em)
{
	struct manager *m = mk->rc->m;
	int r = rows_begin(m, em);

	if (r < 0)
		return r;
	r = making_rows(mk);
	rows_end(m);
	return r == 0 ? rows_flush(m) : r;
}

static int make_incremental(struct making *mk)
{
	struct receiver *rc = mk->rc;
	const struct clone_ref ref = {.source = snapshot_image(rc->place.base.key),
	        .image = rc->st.rec.ino,
	        .domain = rc->place.policy.domain};

	pthread_mutex_lock(&rc->m->record_lock);
	const int r = snapshot_commit_wait(
	        rc->m->ds->store, store_clone(rc->m->ds->store, &ref, 1, making_rows, mk));
	pthread_mutex_unlock(&rc->m->record_lock);
	return r;
}

static void record_fill(struct receiver *rc)
{
	struct receive_record *rec = &rc->st.rec;

	*rec = (struct receive_record){
	        .ino = ns_ino_alloc(rc->m->ds->ns),
	        .size = rc->begin.size,
	        .started_ns = clock_wall_ns(),
	        .dir = rc->place.dir,
	        .image = rc->place.image,
	};
	memcpy(rec->guid, rc->begin.guid, sizeof(rec->guid));
	memcpy(rec->guid_from, rc->begin.guid_from, sizeof(rec->guid_from));
	memcpy(rec->snapshot, rc->snapshot, sizeof(rec->snapshot));
	memcpy(rec->name, rc->place.name, sizeof(rec->name));
}

static int make_locked(struct receiver *rc, struct errmsg *em)
{
	struct owned_rows rows = {0};
	struct making mk = {rc, &rows};
	int r = filters_plan(rc, &rows, em);

	if (r == 0) {
		record_fill(rc);
		r = claim_ours(rc, rc->st.rec.ino, em);
	}
	if (r == 0)
		r = rc->place.image ? make_incremental(&mk) : make_whole(&mk, em);
	owned_rows_release(&rows);
	if (r < 0 && !em->text[0])
		errmsg_set(em, r, "cannot begin: %s", strerror(-r));
	return r;
}

int staging_open(struct receiver *rc, struct errmsg *em)
{
	struct staging *st = &rc->st;
	int r = 0;

	pthread_mutex_lock(&rc->m->lock);
	if (!st->claimed) /* another stream may have begun it meanwhile */
		r = find_locked(rc, em);
	if (r == 0 && !st->claimed)
		r = make_locked(rc, em);
	pthread_mutex_unlock(&rc->m->lock);
	if (r < 0)
		return r;
	st->pos = st->rec.pos;
	st->saved_ns = clock_now_ns();
	r = store_image_open(rc->m->ds->store, st->rec.ino, &st->img);
	return r < 0 ? errmsg_set(em, r, "cannot open what is there so far: %s", strerror(-r)) : 0;
}

/* --- saved --- */

int staging_save(struct receiver *rc)
{
	struct staging *st = &rc->st;
	struct manager *m = rc->m;
	struct errmsg em = {0};
	int r = store_flush(m->ds->store, st->img);

	if (r < 0)
		return r;
	st->rec.pos = st->pos;
	r = rows_begin_anyway(m, &em);
	if (r < 0)
		return r;
	r = receive_record_put(m->ds->ns, &st->rec);
	rows_end(m);
	st->unsaved_bytes = 0;
	st->saved_ns = clock_now_ns();
	return r;
}

int staging_moved(struct receiver *rc, uint64_t pos, struct errmsg *em)
{
	struct staging *st = &rc->st;

	if (pos <= st->pos)
		return 0; /* an earlier stream has been further */
	st->pos = pos;
	if (st->unsaved_bytes < SAVE_BYTES && clock_now_ns() - st->saved_ns < SAVE_NS)
		return 0;
	const int r = staging_save(rc);
	return r < 0 ? errmsg_set(em, r, "cannot save what has come so far: %s", strerror(-r)) : 0;
}

void staging_close(struct receiver *rc)
{
	struct staging *st = &rc->st;

	store_image_close(STEAL(st->img));
	if (st->claimed)
		unclaim(rc->m, st->rec.ino);
	st->claimed = false;
}

/* --- removed --- */

int staging_remove(struct manager *m, uint64_t ino)
{
	struct image_policy policy = {0};
	struct errmsg em = {0};
	const int known = manager_policy(m->ds->ns, ino, &policy);
	int r = rows_begin_anyway(m, &em);

	if (r < 0)
		return r;
	r = ns_inode_del(m->ds->ns, ino);
	if (r == 0)
		r = store_image_delete(m->ds->store, ino);
	rows_end(m);
	if (r == 0)
		r = rows_flush(m);
	if (r == 0 && known == 0 && policy.domain) /* its key may have been rotated meanwhile */
		keys_domain_left(m, policy.domain);
	return r;
}

/* --- for what is gone --- */

#define SWEEP_MAX 64u /* at a time */

struct sweep {
	struct manager *m;
	uint64_t inos[SWEEP_MAX];
	unsigned n;
};

/* The image that it is to update, or the directory that it was to appear in, was removed: nothing can become of it. */
static int sweep_note(void *arg, const struct receive_record *rec)
{
	struct sweep *sw = arg;
	struct ns_inode inode;
	if (rec->image == rec->ino)
		return 0; /* what is known of it is damaged: it is for an administrator to give up */
	const int r = ns_inode_get(sw->m->ds->ns, rec->image ? rec->image : rec->dir, &inode);
	const bool gone = r == -ENOENT || (r == 0 && inode.nlink == 0);

	if (gone && sw->n < SWEEP_MAX && !staging_active(sw->m, rec->ino))
		sw->inos[sw->n++] = rec->ino;
	return 0;
}

/* With manager.lock: none begins meanwhile. */
static int sweep_locked(struct manager *m, unsigned *ret_n)
{
	struct sweep sw = {.m = m};
	int r = receive_records_each(m->ds->ns, sweep_note, &sw);

	for (unsigned i = 0; r == 0 && i < sw.n; i++)
		r = staging_remove(m, sw.inos[i]);
	*ret_n = sw.n;
	return r;
}

void receive_sweep(struct manager *m)
{
	unsigned n = 0;

	pthread_mutex_lock(&m->lock);
	const int r = sweep_locked(m, &n);
	pthread_mutex_unlock(&m->lock);
	if (r < 0)
		log_warn("receive: what came for images that are gone stays for now: %s",
		        strerror(-r));
	else if (n > 0)
		log_note("receive: removed what had come of %u streams for images or directories "
		         "that are gone",
		        n);
}

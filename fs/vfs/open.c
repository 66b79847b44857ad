/*
 * open.c - open files: the image behind a file and its stack, for as long as anybody has it open
 *
 * The pipeline of a file is opened by the first who opens the file and closed by the last; all share
 * it.  Both may read, and wait for stages, so neither happens inside the gate or under a lock that a
 * closed gate waits for: vnode.opening is an operation lock of that file alone, and the counting is
 * under vnode.lock.  So of two who race to open a file one opens its pipeline and the other waits
 * for the outcome; whoever comes while the last one closes it waits, too, and opens it anew.
 *
 * A file of the snapshot view is opened and closed in the same way, with the stack that the snapshot kept.
 *
 * Closing a pipeline waits for the requests under way in it, so it must not be done by the
 * completion of such a request.  Who completes a change of size of a file that nobody else has open
 * leaves the closing to a thread of ours; it is started when that happens for the first time.
 */
#include <errno.h>

#include "base/blocking.h"
#include "fs/vfs/snapview-private.h"

void vfs_set_filters(struct vfs *v, const struct vfs_filters *filters)
{
	v->filters = filters ? *filters : (struct vfs_filters){0};
}

bool vfs_is_sealed(struct vnode *file)
{
	struct image_policy policy = {0};

	if (file->img)
		store_policy_get(file->img, &policy);
	return policy.domain != 0;
}

struct pipeline *vfs_pipeline(struct vnode *file)
{
	return file->pipeline;
}

/* --- the stack --- */

/* Whose stack it is: the inode's, or what the snapshot kept of its. */
static uint64_t stack_owner(const struct vnode *vn)
{
	return vn->snap ? vn->snap->key : vn->ino;
}

/* Counts one user more if it is open already, or if there is nothing to open. */
static bool stack_share(struct vfs *v, struct vnode *vn)
{
	pthread_mutex_lock(&vn->lock);
	const bool open = vn->open_users > 0 || !v->filters.open;
	if (open)
		vn->open_users++;
	pthread_mutex_unlock(&vn->lock);
	return open;
}

/* With vn->opening held, and nobody has it open. */
static int stack_open(struct vfs *v, struct vnode *vn)
{
	struct pipeline_below below;
	struct pipeline *p;

	submit_below(vn, &below);
	const int r = v->filters.open(v->filters.arg, stack_owner(vn), &below, &p);
	if (r < 0)
		return r;
	pthread_mutex_lock(&vn->lock);
	vn->pipeline = p;
	vn->open_users = 1;
	pthread_mutex_unlock(&vn->lock);
	return 0;
}

static int stack_get(struct vfs *v, struct vnode *vn)
{
	int r = 0;

	if (stack_share(v, vn))
		return 0;
	blocking_begin();
	pthread_mutex_lock(&vn->opening);
	if (!stack_share(v, vn))
		r = stack_open(v, vn);
	pthread_mutex_unlock(&vn->opening);
	blocking_end();
	return r;
}

/* One user less, unless it is the last: closing takes more. */
static bool stack_unshare(struct vnode *vn)
{
	pthread_mutex_lock(&vn->lock);
	const bool others = vn->open_users > 1 || !vn->pipeline;
	if (others)
		vn->open_users--;
	pthread_mutex_unlock(&vn->lock);
	return others;
}

/* With vn->opening held. */
static void stack_close(struct vfs *v, struct vnode *vn)
{
	pthread_mutex_lock(&vn->lock);
	struct pipeline *p = STEAL(vn->pipeline);
	vn->open_users = 0;
	pthread_mutex_unlock(&vn->lock);
	if (p)
		v->filters.close(v->filters.arg, stack_owner(vn), p);
}

static void stack_put(struct vfs *v, struct vnode *vn)
{
	if (stack_unshare(vn))
		return;
	blocking_begin();
	pthread_mutex_lock(&vn->opening);
	if (!stack_unshare(vn)) /* somebody may have opened it meanwhile */
		stack_close(v, vn);
	pthread_mutex_unlock(&vn->opening);
	blocking_end();
}

int vnode_open(struct vfs *v, struct vnode *vn)
{
	int r = vnode_image_get(v, vn);

	if (r == -EIO)
		vfs_note_io_error(v);
	if (r < 0)
		return r;
	r = stack_get(v, vn);
	if (r < 0)
		vnode_image_put(vn);
	return r;
}

void vnode_close(struct vfs *v, struct vnode *vn)
{
	stack_put(v, vn);
	vnode_image_put(vn);
}

void vnode_close_all(struct vfs *v)
{
	for (unsigned i = 0; i < VNODE_SHARDS; i++)
		for (unsigned j = 0; j < VNODE_SHARD_HEADS; j++)
			for (struct vnode *vn = v->shards[i].heads[j]; vn; vn = vn->next)
				stack_close(v, vn);
}

/* --- closing for others --- */

void closer_init(struct closer *c)
{
	pthread_mutex_init(&c->lock, NULL);
	pthread_cond_init(&c->cond, NULL);
}

void closer_release(struct closer *c)
{
	pthread_cond_destroy(&c->cond);
	pthread_mutex_destroy(&c->lock);
}

/* With the lock, which it opens meanwhile. */
static void closer_work(struct vfs *v)
{
	struct closer *c = &v->closer;

	while (c->due) {
		struct vnode *vn = c->due;
		unsigned n = vn->closes_due;
		c->due = vn->close_next;
		vn->closes_due = 0;
		pthread_mutex_unlock(&c->lock);
		while (n-- > 0) {
			vnode_close(v, vn);
			vnode_put(v, vn);
		}
		pthread_mutex_lock(&c->lock);
	}
}

static void *closer_main(void *arg)
{
	struct vfs *v = arg;
	struct closer *c = &v->closer;

	pthread_mutex_lock(&c->lock);
	while (!c->ending) {
		closer_work(v);
		if (!c->ending && !c->due)
			pthread_cond_wait(&c->cond, &c->lock);
	}
	pthread_mutex_unlock(&c->lock);
	return NULL;
}

void closer_stop(struct vfs *v)
{
	struct closer *c = &v->closer;

	pthread_mutex_lock(&c->lock);
	const bool running = c->running;
	c->ending = true;
	pthread_cond_signal(&c->cond);
	pthread_mutex_unlock(&c->lock);
	if (running)
		pthread_join(c->thread, NULL);
	pthread_mutex_lock(&c->lock);
	c->running = c->ending = false;
	closer_work(v);
	pthread_mutex_unlock(&c->lock);
}

void vnode_close_later(struct vfs *v, struct vnode *vn)
{
	struct closer *c = &v->closer;

	if (stack_unshare(vn)) {
		vnode_image_put(vn);
		vnode_put(v, vn);
		return;
	}
	pthread_mutex_lock(&c->lock);
	if (vn->closes_due++ == 0) {
		vn->close_next = c->due;
		c->due = vn;
	}
	/* Without a thread it stays open until the next one can be had, or the vfs is detached. */
	if (!c->running)
		c->running = pthread_create(&c->thread, NULL, closer_main, v) == 0;
	pthread_cond_signal(&c->cond);
	pthread_mutex_unlock(&c->lock);
}

/*
 * reseal.c - the job that takes an image's chunks to the crypto domain that its policy says
 *
 * Encrypting, decrypting and rotating a key are the same work: the policy says where new chunks go
 * since the change, and what lies elsewhere is written again, through the overlay, as a write that
 * changes nothing.  Passes over the image repeat until none finds a chunk to move and the committed
 * map has none of another domain: more than one is needed only where a commit was under way.
 *
 * Then what is left of the domain that was left, in dead space of segments and log, is wiped; when
 * several images leave one domain, the last job does that for all.
 *
 * The inode is held by a lookup, so that its number means this image while the job runs.
 */
#include <errno.h>
#include <string.h>

#include "fs/filter/manager-private.h"

#define STEP_BYTES (16ull << 20)
#define PASSES_MAX 16u

struct reseal {
	struct manager *m;
	struct job *job;
	struct image *img;
	uint64_t size;
};

static int pass(struct reseal *rs, uint64_t *ret_moved)
{
	uint64_t moved = 0;

	for (uint64_t off = 0; off < rs->size; off += STEP_BYTES) {
		uint64_t n = 0;
		if (job_stopped(rs->m))
			return -EINTR;
		if (job_is_void(rs->m, rs->job))
			return -ENOENT;
		const int r = store_reseal(rs->img, off, MIN(STEP_BYTES, rs->size - off), &n);
		if (r < 0)
			return r;
		moved += n;
		rs->job->done = MIN(off + STEP_BYTES, rs->size);
	}
	*ret_moved = moved;
	return store_sync(rs->m->ds->store);
}

/* Until nothing of the image lies in another domain. */
static int passes(struct reseal *rs)
{
	struct image_policy policy;
	uint64_t moved, foreign = 1;

	store_policy_get(rs->img, &policy);
	for (unsigned i = 0; i < PASSES_MAX && foreign; i++) {
		int r = pass(rs, &moved);
		if (!r)
			r = store_foreign_chunks(rs->m->ds->store, rs->job->ino, policy.domain,
			        NULL, NULL, &foreign);
		if (r < 0)
			return r;
	}
	return foreign ? -EBUSY : 0;
}

static int wipe(struct manager *m, const struct job *job)
{
	int r = 0;

	for (unsigned i = 0; i < job->n_from && !r; i++) {
		if (job_stopped(m))
			return -EINTR;
		if (!jobs_leave_domain(m->jobs, job, job->from[i]))
			r = store_wipe_dead(m->ds->store, job->from[i], NULL, NULL);
	}
	return r;
}

static int reseal_held(struct manager *m, struct job *job, uint64_t size, struct errmsg *em)
{
	struct reseal rs = {.m = m, .job = job, .size = ROUND_UP(size, CHUNK_SIZE)};
	int r = store_image_open(m->ds->store, job->ino, &rs.img);

	if (r < 0)
		return errmsg_set(em, r, "cannot open the image: %s", strerror(-r));
	job->done = 0;
	job->total = rs.size;
	r = passes(&rs);
	store_image_close(rs.img);
	if (r == -ENOENT) /* deleted: all of it is dead now */
		r = store_sync(m->ds->store);
	return r < 0 ? errmsg_set(em, r, "cannot move its chunks: %s", strerror(-r)) : 0;
}

static int reseal_run(struct manager *m, struct job *job, struct errmsg *em)
{
	struct vfs_entry entry;
	int r = vfs_entry_get(m->vfs, job->ino, &entry);

	if (!r) {
		r = reseal_held(m, job, entry.attr.inode.size, em);
		vfs_forget(m->vfs, job->ino, 1);
	}
	if (r < 0 && r != -ENOENT)
		return r;
	r = wipe(m, job);
	return r < 0 ? errmsg_set(em, r, "cannot wipe what it left behind: %s", strerror(-r)) : 0;
}

const struct job_ops job_reseal_ops = {.what = "reseal", .run = reseal_run};

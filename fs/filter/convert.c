/*
 * convert.c - the job that takes an image's content into a transform, or out of it
 *
 * The pipeline converts piece by piece and keeps the cursor with the content (pipeline_convert); a
 * job only drives it.  It opens the image as anybody does, so nothing tells whether a guest has it
 * open too.  When the cursor has passed the end everything is committed, and only then does the row
 * change (change.c): a crash in between finds the conversion done but for that.
 *
 * Content that cannot be read (damage) stops a conversion where it is: what lies behind the cursor
 * stays as it was, and readable.
 */
#include <errno.h>
#include <string.h>

#include "fs/filter/manager-private.h"

#define PIECE_BYTES (1u << 20)

static int convert_steps(struct manager *m, struct job *job, struct pipeline *p, struct errmsg *em)
{
	bool done = false;
	int r = 0;

	while (!done && !r) {
		if (job_stopped(m))
			return -EINTR;
		if (job_is_void(m, job))
			return 0;
		r = pipeline_convert(p, job->link, PIECE_BYTES, &done);
		job->done = MIN(job->done + PIECE_BYTES, job->total);
	}
	if (!r)
		r = store_sync(m->ds->store);
	return r < 0 ? errmsg_set(em, r, "cannot convert: %s", strerror(-r)) : 0;
}

static int convert_run(struct manager *m, struct job *job, struct errmsg *em)
{
	struct vfs_attr attr;
	struct vnode *file;
	int r = job_is_void(m, job) ? -ENOENT : vfs_open(m->vfs, job->ino, &file);

	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return errmsg_set(em, r, "cannot open the image: %s", strerror(-r));
	r = vfs_getattr(m->vfs, job->ino, &attr);
	if (!r) {
		job->done = 0;
		job->total = attr.inode.size;
		r = convert_steps(m, job, vfs_pipeline(file), em);
	}
	vfs_release(m->vfs, file);
	return r;
}

const struct job_ops job_convert_ops = {.what = "convert", .run = convert_run};

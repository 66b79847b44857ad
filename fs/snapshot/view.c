/*
 * view.c - the records of snapshots as the source of the vfs's view of them
 *
 * The view reads what the engine stored, without the stages that the image had.  Chunk stages are the
 * engine's own business (an encrypted snapshot opens when its key is there); but what a stage
 * transformed on its way down would be shown as it is stored, which is not what the guest wrote.  Such
 * an image is not opened, and the log says why; a clone of it has the stages and can be read.
 */
#include "fs/snapshot/view.h"

#include <errno.h>

#include "base/clock.h"
#include "base/log.h"
#include "fs/filter/manifest.h"
#include "fs/snapshot/records.h"
#include "store/snapshot.h"

static uint64_t view_changes(void *arg)
{
	const struct datastore *ds = arg;

	return ns_snapshot_changes(ds->ns);
}

struct each {
	snapview_name_fn *name_fn;
	snapview_image_fn *image_fn;
	void *arg;
};

static int each_snapshot(void *arg, const struct snapshot *s)
{
	const struct each *e = arg;
	const struct timespec time = {
	        .tv_sec = (time_t)(s->time_ns / NS_PER_SEC),
	        .tv_nsec = (long)(s->time_ns % NS_PER_SEC),
	};

	return e->name_fn(e->arg, s->number, s->name, &time);
}

static int view_each(void *arg, snapview_name_fn *fn, void *fn_arg)
{
	const struct datastore *ds = arg;
	struct each e = {.name_fn = fn, .arg = fn_arg};

	return snapshots_each(ds->ns, each_snapshot, &e);
}

static int each_image(void *arg, const struct snapshot_image *si)
{
	const struct each *e = arg;
	const struct snapview_image img = {.path = si->path, .inode = si->inode, .key = si->key};

	return e->image_fn(e->arg, &img);
}

static int view_images(void *arg, uint64_t number, snapview_image_fn *fn, void *fn_arg)
{
	const struct datastore *ds = arg;
	struct each e = {.image_fn = fn, .arg = fn_arg};

	return snapshot_images_each(ds->ns, number, each_image, &e);
}

/* Is what is stored what the guest wrote? */
static int check_stack(const struct datastore *ds, uint64_t number, uint64_t key)
{
	struct manifest *m;
	struct errmsg em = {0};
	int r = manifest_load(ds->ns, snapshot_image(key), &m, &em);

	if (r < 0) {
		log_error("%s", em.text);
		return r;
	}
	if (m->n_damaged > 0) {
		log_error("snapshot %llu: the rows of an image's filters are damaged: not shown",
		        (unsigned long long)number);
		r = -EIO;
	}
	for (unsigned i = 0; i < m->plan.n && !r; i++) {
		const struct stack_item *item = &m->plan.items[i];
		const bool chunks = item->capabilities & STAGE_CHUNKS;
		if (chunks || !(item->capabilities & STAGE_TRANSFORMS))
			continue;
		log_warn("snapshot %llu: an image is stored as filter '%s' transformed it, and "
		         "cannot be shown here: clone it (weir clone)",
		        (unsigned long long)number, item->type_name);
		r = -EOPNOTSUPP;
	}
	manifest_free(m);
	return r;
}

static int view_open(void *arg, uint64_t number, uint64_t key, struct image **ret_image)
{
	const struct datastore *ds = arg;
	const int r = check_stack(ds, number, key);

	return r < 0 ? r : store_image_open(ds->store, snapshot_image(key), ret_image);
}

int snapshot_view_attach(struct vfs *v, struct datastore *ds)
{
	const struct snapview_source source = {
	        .arg = ds,
	        .changes = view_changes,
	        .each = view_each,
	        .images = view_images,
	        .open = view_open,
	};

	return vfs_set_snapshots(v, &source);
}

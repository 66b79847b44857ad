/*
 * view.c - the records of snapshots as the source of the vfs's view of them
 *
 * The key of a file is the owner of its captured rows, which is also its id in the engine: so the
 * manager opens its stack as it does an image's (fs/filter/images.c), with what its bytes depend on.
 */
#include "fs/snapshot/view.h"

#include "base/clock.h"
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
	const struct snapview_image img = {
	        .path = si->path, .inode = si->inode, .key = snapshot_image(si->key)};

	return e->image_fn(e->arg, &img);
}

static int view_images(void *arg, uint64_t number, snapview_image_fn *fn, void *fn_arg)
{
	const struct datastore *ds = arg;
	struct each e = {.image_fn = fn, .arg = fn_arg};

	return snapshot_images_each(ds->ns, number, each_image, &e);
}

static int view_open(void *arg, uint64_t number, uint64_t key, struct image **ret_image)
{
	const struct datastore *ds = arg;

	(void)number; /* is in the key */
	return store_image_open(ds->store, key, ret_image);
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

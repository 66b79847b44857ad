/*
 * local.c - see local.h
 *
 * The order of opening and closing is the daemon's (fs/daemon.c).
 */
#include "fs/stream/local.h"

#include <errno.h>
#include <string.h>

struct local {
	struct datastore *ds; /* NULL: not open */
	struct vfs *vfs;
	struct manager *manager;
};

static int parts_open(struct local *l, const char *dir, struct errmsg *em)
{
	const struct datastore_options opt = {0};
	int r = vfs_new(&l->vfs);

	if (r < 0)
		return errmsg_set(em, r, "out of memory");
	r = datastore_open(dir, &opt, vfs_collect_rows, l->vfs, &l->ds, em);
	if (r == 0)
		r = manager_new(l->ds, l->vfs, &l->manager, em);
	if (r < 0)
		return r;
	const struct vfs_filters filters = manager_filters(l->manager);
	vfs_set_filters(l->vfs, &filters);
	r = vfs_attach(l->vfs, l->ds->ns, l->ds->store, false);
	if (r < 0)
		return errmsg_set(
		        em, r, "cannot read the top directory of '%s': %s", dir, strerror(-r));
	return manager_start(l->manager, em);
}

int local_open(const char *dir, struct local **ret_l, struct errmsg *em)
{
	struct local *l = calloc(1, sizeof(*l));

	if (!l)
		return errmsg_set(em, -ENOMEM, "out of memory");
	const int r = parts_open(l, dir, em);
	if (r < 0) {
		(void)local_close(l);
		return r;
	}
	*ret_l = l;
	return 0;
}

struct manager *local_manager(struct local *l)
{
	return l->manager;
}

int local_close(struct local *l)
{
	if (!l)
		return 0;
	manager_stop(l->manager);
	if (l->vfs)
		vfs_detach(l->vfs);
	manager_quiet(l->manager);
	const int r = l->ds ? datastore_close(l->ds) : 0;
	manager_free(l->manager);
	vfs_free(l->vfs);
	free(l);
	return r;
}

/*
 * repair.c - what check --repair changes in meta.db, and the files it removes after that
 *
 * All rows go in one transaction.  New segment files are durable before it; the files they replace,
 * and orphans, are unlinked after it.  A power cut at any point leaves a datastore that is as
 * broken as before, or repaired, and at most some orphans more.
 */
#include <errno.h>
#include <string.h>

#include "tools/check.h"

static int rows_put(struct check *c)
{
	const struct repair_list *fix = &c->fix;
	int r = 0;

	for (size_t i = 0; i < fix->n_images && r == 0; i++)
		r = c->meta->ops->image_put(c->meta, &fix->images[i]);
	for (size_t i = 0; i < fix->n_segments && r == 0; i++)
		r = c->meta->ops->segment_put(c->meta, &fix->segments[i]);
	if (r == 0 && fix->state_changed)
		r = c->meta->ops->state_put(c->meta, &fix->state);
	return r;
}

static int transaction(struct check *c)
{
	if (!c->fix.n_images && !c->fix.n_segments && !c->fix.state_changed)
		return 0;
	int r = c->meta->ops->begin(c->meta);
	if (r < 0)
		return r;
	r = rows_put(c);
	if (r == 0)
		r = c->meta->ops->commit(c->meta);
	if (r < 0) {
		c->meta->ops->rollback(c->meta);
		return r;
	}
	return check_namespace_again(c);
}

/* A file that stays is an orphan, found again by the next check; so this never fails the repair. */
static void file_remove(struct check *c, uint64_t id, uint32_t gen)
{
	char name[SEGMENT_NAME_LEN];

	segment_name(0, id, gen, name);
	const int r = io_unlink(c->io, name);
	if (r < 0 && r != -ENOENT)
		finding_add(&c->findings, FINDING_ORPHAN_SEGMENT, SEVERITY_NOTE,
		        "file '%s' could not be removed: %s", name, strerror(-r));
}

static bool is_removed(const struct check *c, uint64_t segment)
{
	for (size_t i = 0; i < c->fix.n_remove; i++)
		if (c->fix.remove[i].id == segment)
			return true;
	for (size_t i = 0; i < c->table.n_files && !c->incomplete; i++)
		if (c->table.files[i].id == segment && !c->table.files[i].keep)
			return true;
	return false;
}

static void orphans_mark(struct check *c)
{
	for (size_t i = 0; i < c->findings.n; i++) {
		struct finding *fi = &c->findings.list[i];

		if (fi->kind == FINDING_ORPHAN_SEGMENT && is_removed(c, fi->segment))
			finding_mark_repaired(&c->findings, fi);
	}
}

int repair_commit(struct check *c)
{
	const int r = transaction(c);

	if (r < 0)
		return r;
	for (size_t i = 0; i < c->fix.n_remove; i++)
		file_remove(c, c->fix.remove[i].id, c->fix.remove[i].gen);
	for (size_t i = 0; i < c->table.n_files && !c->incomplete; i++)
		if (!c->table.files[i].keep)
			file_remove(c, c->table.files[i].id, c->table.files[i].gen);
	orphans_mark(c);
	if (!c->fix.remove_index)
		return 0;
	const int unlinked = io_unlink(c->io, "index");
	if (unlinked < 0 && unlinked != -ENOENT)
		return unlinked;
	return io_sync_dir(c->io, "");
}

void repair_list_release(struct repair_list *l)
{
	free(l->images);
	free(l->segments);
	free(l->remove);
	*l = (struct repair_list){0};
}

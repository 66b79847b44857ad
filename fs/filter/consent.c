/*
 * consent.c - stages that protect an image are asked before its last name goes, or they are changed
 *
 * An image that is not open has no stages to ask, so it is opened for that; only for a stage of class
 * protect, for others have nothing to say.  That a date of write-once moves to a later one only is
 * the stage's business (RECONFIGURE), and so is that the image is not removed before it (DELETE).
 *
 * The removal is prepared and then aborted: whether the name really goes is decided later, under
 * locks that cannot be held here, and what stages have in memory ends when the image is closed.
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "fs/filter/manager-private.h"
#include "fs/vfs/filters.h"

/* --- removal --- */

static bool is_protected(const struct manifest *mf)
{
	bool found = false;

	for (unsigned i = 0; i < mf->plan.n; i++)
		found |= mf->plan.items[i].class == STAGE_PROTECT;
	return found;
}

static int only_asked(void *arg, struct errmsg *em)
{
	(void)arg, (void)em;
	return -ECANCELED;
}

static int stages_ask(struct manager *m, uint64_t ino, struct errmsg *em)
{
	const struct stage_event event = {.kind = STAGE_EVENT_DELETE};
	struct vnode *file;
	int r = vfs_open(m->vfs, ino, &file);

	if (r < 0)
		return errmsg_set(em, -EPERM,
		        "the filters that protect it cannot be asked: it does not open (%s)",
		        strerror(-r));
	r = pipeline_event(vfs_pipeline(file), &event, only_asked, NULL, em);
	vfs_release(m->vfs, file);
	return r == -ECANCELED ? 0 : r;
}

int consent_removal(void *manager, uint64_t ino)
{
	struct manager *m = manager;
	CLEANUP(manifest_freep) struct manifest *mf = NULL;
	struct errmsg em = {0};
	int r = manifest_load(m->ds->ns, ino, &mf, &em);

	if (!r && is_protected(mf))
		r = stages_ask(m, ino, &em);
	if (r < 0) {
		char path[FILTER_PATH_MAX];
		target_path(m->ds->ns, ino, path);
		log_warn("'%s' is not removed: %s", path, em.text[0] ? em.text : strerror(-r));
	}
	return r;
}

/* --- settings --- */

int consent_open(struct manager *m, const struct target *t, const char *name,
        struct vnode **ret_file, struct errmsg *em)
{
	CLEANUP(manifest_freep) struct manifest *mf = NULL;
	struct vnode *file = NULL;
	int r = t->dir ? 0 : manifest_load(m->ds->ns, t->ino, &mf, em);

	if (!r && mf) {
		const int at = item_find(mf, name, em);
		r = MIN(at, 0);
		if (!r && mf->plan.items[at].class == STAGE_PROTECT)
			r = vfs_open(m->vfs, t->ino, &file);
		if (r < 0 && at >= 0)
			errmsg_set(em, r, "cannot open '%s': %s (see 'weir status')", t->path,
			        strerror(-r));
	}
	if (!r)
		*ret_file = file;
	return r;
}

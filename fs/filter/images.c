/*
 * images.c - the images that are open, and the hooks of the vfs
 *
 * An image that is opened gets an entry in a table, with its manifest, its pipeline and its stages'
 * state.  The entry's lock is an operation lock: who opens or closes the image holds it, and so does
 * who changes its stack; so a change finds the image open with the stack that it is about to
 * change, or closed, and then nobody opens it before the rows are written.
 *
 * An entry outlives the closing while its state is on the way to disk, so that whoever flushes or
 * commits finds it, and the next opening does not read rows that are older; and while it says why the
 * image does not open; not beyond the inode.  What nobody needs any more is swept when another image
 * is opened or closed.
 *
 * A file in a snapshot is opened here, too, under the owner of its captured rows (snapshot_image()),
 * which is no inode's number.  Its stack has what its bytes depend on and nothing else: observers
 * look at what a guest does, limits and protection are for guests.  So scan does not look at it; what is
 * copied or cloned from it into the mount is looked at there.  Nothing of it changes: state
 * that a stage puts is refused, and there is nothing to put into quarantine.
 *
 * What lies below.  The vfs's table of functions is kept, ours stands in front of it: requests and
 * prefetches go on to the vfs, state and messages stay here.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "fs/filter/manager-private.h"
#include "fs/filter/sealed-flag.h"
#include "fs/snapshot/records.h"
#include "fs/snapshot/schedule.h"

static bool is_snapshot(const struct filter_image *fi)
{
	return fi->ino & SNAPSHOT_BIT;
}

/* --- the table; under images_lock --- */

static struct filter_image **bucket_of(struct manager *m, uint64_t ino)
{
	return &m->images[ino % FILTER_IMAGE_BUCKETS];
}

static struct filter_image *find_locked(struct manager *m, uint64_t ino)
{
	struct filter_image *fi = *bucket_of(m, ino);

	while (fi && fi->ino != ino)
		fi = fi->next;
	if (fi)
		fi->refs++;
	return fi;
}

struct filter_image *image_peek(struct manager *m, uint64_t ino)
{
	pthread_mutex_lock(&m->images_lock);
	struct filter_image *fi = find_locked(m, ino);
	pthread_mutex_unlock(&m->images_lock);
	return fi;
}

struct filter_image *image_get(struct manager *m, uint64_t ino)
{
	pthread_mutex_lock(&m->images_lock);
	struct filter_image *fi = find_locked(m, ino);
	if (!fi) {
		fi = calloc(1, sizeof(*fi));
		if (fi) {
			fi->m = m;
			fi->ino = ino;
			fi->refs = 1;
			pthread_mutex_init(&fi->lock, NULL);
			pthread_mutex_init(&fi->notes_lock, NULL);
			fi->next = *bucket_of(m, ino);
			*bucket_of(m, ino) = fi;
		}
	}
	pthread_mutex_unlock(&m->images_lock);
	return fi;
}

void image_put(struct filter_image *fi)
{
	if (!fi)
		return;
	pthread_mutex_lock(&fi->m->images_lock);
	ASSERT(fi->refs > 0);
	fi->refs--;
	pthread_mutex_unlock(&fi->m->images_lock);
}

static void image_free(struct filter_image *fi)
{
	ASSERT(!fi->pipeline);
	manifest_free(fi->manifest);
	state_free(fi->state);
	pthread_mutex_destroy(&fi->lock);
	pthread_mutex_destroy(&fi->notes_lock);
	free(fi);
}

/* State of an inode that is gone settles no more: its rows went with it. */
static bool image_idle(const struct filter_image *fi, uint64_t txg)
{
	if (fi->refs > 0 || fi->pipeline)
		return false;
	return fi->gone || (!fi->reason[0] && !(fi->state && state_unsettled(fi->state, txg)));
}

/* Outside the gate. */
static void images_sweep(struct manager *m)
{
	store_enter(m->ds->store);
	const uint64_t txg = store_txg(m->ds->store);
	store_leave(m->ds->store);
	pthread_mutex_lock(&m->images_lock);
	for (unsigned b = 0; b < FILTER_IMAGE_BUCKETS; b++) {
		struct filter_image **at = &m->images[b];
		while (*at) {
			struct filter_image *fi = *at;
			if (!image_idle(fi, txg)) {
				at = &fi->next;
				continue;
			}
			*at = fi->next;
			image_free(fi);
		}
	}
	pthread_mutex_unlock(&m->images_lock);
}

void filter_images_free(struct manager *m)
{
	for (unsigned b = 0; b < FILTER_IMAGE_BUCKETS; b++) {
		struct filter_image *fi;
		while ((fi = m->images[b])) {
			m->images[b] = fi->next;
			image_free(fi);
		}
	}
}

/* --- notes --- */

void image_note_links(struct filter_image *fi, const struct stack_plan *plan)
{
	pthread_mutex_lock(&fi->notes_lock);
	for (unsigned i = 0; i < plan->n; i++) {
		unsigned at = 0;
		while (at < STACK_LINKS_MAX && fi->notes[at].link != plan->items[i].link)
			at++;
		if (at == STACK_LINKS_MAX)
			at = fi->next_note++ % STACK_LINKS_MAX;
		fi->notes[at].link = plan->items[i].link;
		memcpy(fi->notes[at].type, plan->items[i].type_name, sizeof(fi->notes[at].type));
	}
	pthread_mutex_unlock(&fi->notes_lock);
}

void image_link_type(struct filter_image *fi, uint64_t link, char ret_type[32])
{
	ret_type[0] = 0;
	pthread_mutex_lock(&fi->notes_lock);
	for (unsigned i = 0; i < STACK_LINKS_MAX; i++)
		if (fi->notes[i].link == link)
			memcpy(ret_type, fi->notes[i].type, 32);
	pthread_mutex_unlock(&fi->notes_lock);
}

/* "": it opens. */
static void image_reason_set(struct filter_image *fi, const char *reason, bool locked)
{
	pthread_mutex_lock(&fi->notes_lock);
	const bool same = !strcmp(fi->reason, reason);
	snprintf(fi->reason, sizeof(fi->reason), "%s", reason);
	fi->locked = locked;
	pthread_mutex_unlock(&fi->notes_lock);
	if (same || !*reason)
		return;
	char path[FILTER_PATH_MAX];
	target_path(fi->m->ds->ns, fi->ino, path);
	log_error("'%s' cannot be opened: %s", path, reason);
}

struct unopenable {
	struct {
		uint64_t ino;
		bool locked;
		char reason[ERRMSG_LEN];
	} * items; /* owned */
	size_t n, cap;
};

static void unopenable_note(struct unopenable *u, struct filter_image *fi)
{
	pthread_mutex_lock(&fi->notes_lock);
	if (fi->reason[0] && u->n == u->cap) {
		const size_t cap = u->cap ? 2 * u->cap : 16;
		void *items = realloc(u->items, cap * sizeof(*u->items));
		if (items) {
			u->items = items;
			u->cap = cap;
		}
	}
	if (fi->reason[0] && u->n < u->cap) {
		u->items[u->n].ino = fi->ino;
		u->items[u->n].locked = fi->locked;
		memcpy(u->items[u->n++].reason, fi->reason, ERRMSG_LEN);
	}
	pthread_mutex_unlock(&fi->notes_lock);
}

/* Its key was what was missing, and is there by now. */
static bool is_unlocked(struct manager *m, uint64_t ino)
{
	CLEANUP(manifest_freep) struct manifest *mf = NULL;

	return manifest_load(m->ds->ns, ino, &mf, NULL) == 0 && mf->domain != 0 &&
	       keys_check_domain(m, mf->domain, NULL) == 0;
}

static bool is_there(struct manager *m, uint64_t ino)
{
	struct ns_inode inode;

	if (ino & SNAPSHOT_BIT)
		return snapshot_owner_check(m->ds->ns, ino) == 0;
	return ns_inode_get(m->ds->ns, ino, &inode) == 0 && inode.nlink > 0;
}

void images_unopenable(struct manager *m, image_reason_fn *fn, void *arg)
{
	struct unopenable u = {0};

	pthread_mutex_lock(&m->images_lock);
	for (unsigned b = 0; b < FILTER_IMAGE_BUCKETS; b++)
		for (struct filter_image *fi = m->images[b]; fi; fi = fi->next)
			unopenable_note(&u, fi);
	pthread_mutex_unlock(&m->images_lock);
	for (size_t i = 0; i < u.n; i++) { /* what was deleted meanwhile needs no opening */
		if (u.items[i].locked && is_unlocked(m, u.items[i].ino))
			continue;
		if (is_there(m, u.items[i].ino))
			fn(arg, u.items[i].ino, u.items[i].reason);
	}
	free(u.items);
}

/* --- what lies below a pipeline --- */

static void below_submit(void *arg, struct request *req)
{
	struct filter_image *fi = arg;

	fi->below.submit(fi->below.arg, req);
}

static void below_prefetch(void *arg, uint64_t off, uint64_t len)
{
	struct filter_image *fi = arg;

	if (fi->below.prefetch)
		fi->below.prefetch(fi->below.arg, off, len);
}

static int below_state_get(
        void *arg, uint64_t link, const char *name, void *buf, size_t cap, size_t *ret_len)
{
	struct filter_image *fi = arg;

	return state_get(fi->state, link, name, buf, cap, ret_len);
}

static int below_state_put(void *arg, uint64_t link, const char *name, const void *data, size_t len)
{
	struct filter_image *fi = arg;

	if (fi->m->read_only || is_snapshot(fi))
		return -EROFS;
	const int r = state_put(fi->state, link, name, data, len);
	if (!r)
		vfs_mark_state(fi->m->vfs, fi->ino);
	return r;
}

static void below_image(void *arg, struct stage_image *ret_image)
{
	struct filter_image *fi = arg;
	struct stage_image image = {.id = fi->ino};
	char path[FILTER_PATH_MAX];

	if (fi->below.image) {
		fi->below.image(fi->below.arg, ret_image);
		return;
	}
	struct vfs_attr attr;
	if (vfs_getattr(fi->m->vfs, fi->ino, &attr) == 0)
		image.size = attr.inode.size;
	target_path(fi->m->ds->ns, fi->ino, path);
	snprintf(image.path, sizeof(image.path), "%s", path);
	*ret_image = image;
}

static void below_say(void *arg, uint64_t link, enum stage_severity severity, const char *text)
{
	struct filter_image *fi = arg;
	char type[32];

	image_link_type(fi, link, type);
	notices_say(fi->m->notices, fi->ino, type, severity, text);
}

static void below_quarantine(void *arg, uint64_t link, const char *why)
{
	struct filter_image *fi = arg;
	char type[32];

	image_link_type(fi, link, type);
	if (is_snapshot(fi))
		notices_say(fi->m->notices, fi->ino, type, STAGE_SEVERITY_ALERT, why);
	else
		notices_quarantine(fi->m->notices, fi->ino, type, why);
}

static bool below_snapshot(void *arg, uint64_t link)
{
	struct filter_image *fi = arg;
	char type[32];

	image_link_type(fi, link, type);
	return schedules_alarm(fi->m->schedules, fi->ino, type);
}

static struct pipeline_below below_of(struct filter_image *fi)
{
	return (struct pipeline_below){
	        .arg = fi,
	        .submit = below_submit,
	        .prefetch = below_prefetch,
	        .state_get = below_state_get,
	        .state_put = below_state_put,
	        .image = below_image,
	        .say = below_say,
	        .quarantine = below_quarantine,
	        .snapshot = below_snapshot,
	};
}

/* --- hooks of the vfs --- */

int image_state_open(struct filter_image *fi, struct errmsg *em)
{
	struct state_table *t;

	if (fi->state)
		return 0; /* of the last time, not settled yet */
	const int r = state_load(fi->m->ds->ns, fi->ino, &t);
	if (r < 0)
		return errmsg_set(
		        em, -EIO, "cannot read the state of its filters: %s", strerror(-r));
	pthread_mutex_lock(&fi->m->images_lock);
	fi->state = t;
	pthread_mutex_unlock(&fi->m->images_lock);
	return 0;
}

/* Its rows were read; they were all there if it still is. */
static int snapshot_check(struct filter_image *fi, struct errmsg *em)
{
	const int r = snapshot_owner_check(fi->m->ds->ns, fi->ino);

	return r == -ENOENT ? errmsg_set(em, -ESTALE, "the snapshot is gone") : r;
}

/* What was received sealed is no image yet. */
static int sealed_check(struct manager *m, uint64_t ino, struct errmsg *em)
{
	struct sealed_flag f = {0};
	char name[RAW_NAME_MAX + 1] = "";
	struct errmsg ignored;
	int r = sealed_flag_get(m->ds->ns, ino, &f);

	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return errmsg_set(em, -EIO,
		        "it was received sealed, and what is known of that "
		        "cannot be read (weir check)");
	if (keys_name_of(m, f.domain, name) < 0)
		errmsg_set(em, -ENOKEY, "it was received sealed, and its key is gone");
	else if (keys_check_domain(m, f.domain, &ignored) < 0)
		errmsg_set(em, -ENOKEY,
		        "it was received sealed: key '%s' is locked (weir key unlock %s %s)", name,
		        m->ds->dir, name);
	else
		errmsg_set(em, -ENOKEY,
		        "it was received sealed and is being opened with key '%s' (weir status "
		        "%s)",
		        name, m->ds->dir);
	sealed_flag_release(&f);
	return -ENOKEY;
}

/* With fi->lock held. */
static int image_open(struct filter_image *fi, struct errmsg *em)
{
	struct manager *m = fi->m;
	CLEANUP(manifest_freep) struct manifest *mf = NULL;
	struct pipeline_below below = below_of(fi);
	unsigned missing = 0;
	int r = sealed_check(m, fi->ino, em);

	if (!r)
		r = manifest_load(m->ds->ns, fi->ino, &mf, em);
	if (!r)
		r = manifest_check_open(mf, &missing, em);
	if (!r)
		r = keys_check_domain(m, mf->domain, em);
	if (!r)
		r = image_state_open(fi, em);
	if (!r && is_snapshot(fi))
		r = snapshot_check(fi, em);
	if (r < 0)
		return r;
	if (is_snapshot(fi))
		manifest_keep_needed(mf);
	else if (missing)
		log_warn("inode %" PRIu64 ": %u filters that only look on are missing and left out",
		        fi->ino, missing);
	image_note_links(fi, &mf->plan);
	r = pipeline_open(m->rt, &below, &mf->plan, &fi->pipeline, em);
	if (!r)
		fi->manifest = STEAL(mf);
	return r;
}

static int hook_open(void *arg, uint64_t ino, struct pipeline_below *below, struct pipeline **ret_p)
{
	struct manager *m = arg;
	struct filter_image *fi = image_get(m, ino);
	struct errmsg em = {0};

	if (!fi)
		return -ENOMEM;
	pthread_mutex_lock(&fi->lock);
	ASSERT(!fi->pipeline);
	fi->below = *below;
	const int r = image_open(fi, &em);
	if (!r)
		*ret_p = fi->pipeline;
	pthread_mutex_unlock(&fi->lock);
	const bool stays = r < 0 && r != -ESTALE;
	image_reason_set(fi, stays ? (em.text[0] ? em.text : strerror(-r)) : "", r == -ENOKEY);
	if (!r)
		return 0; /* the reference is the pipeline's */
	image_put(fi);
	return r == -ENOMEM || r == -ENOKEY || r == -ESTALE ? r : -EIO;
}

static void hook_close(void *arg, uint64_t ino, struct pipeline *p)
{
	struct manager *m = arg;
	struct filter_image *fi = image_peek(m, ino);

	ASSERT(fi && fi->pipeline == p);
	pthread_mutex_lock(&fi->lock);
	pipeline_close(p);
	fi->pipeline = NULL;
	manifest_free(STEAL(fi->manifest));
	pthread_mutex_unlock(&fi->lock);
	image_put(fi);
	image_put(fi); /* the pipeline's */
	images_sweep(m);
}

static void hook_collect(void *arg, uint64_t ino)
{
	struct manager *m = arg;
	struct filter_image *fi = image_peek(m, ino);

	if (!fi)
		return;
	pthread_mutex_lock(&m->images_lock);
	struct state_table *state = fi->state;
	pthread_mutex_unlock(&m->images_lock);
	if (state)
		state_collect(state, m->ds->ns, store_txg(m->ds->store));
	image_put(fi);
}

struct inheriting {
	struct manager *m;
	uint64_t to;
};

static int inherit_row(void *arg, uint64_t owner, uint64_t link, const void *value, size_t len)
{
	const struct inheriting *in = arg;
	struct ns *ns = in->m->ds->ns;

	return ns_record_put(ns, RECORD_ATTACHMENT, in->to, ns_number_alloc(ns), value, len);
}

/*
 * Rows are copied as they are: the hash does not cover the link id.  Order among stages of a class
 * stays, for new ids grow.
 *
 * The directory's rows are read inside the gate, in the section that puts the new name: a change of
 * the directory is flushed before it counts, which waits for all such sections.  So whoever lists the
 * directory after the change finds everything that was made with the stack from before.
 *
 * A read of meta.db inside the gate: measured, 1 us where the directory has no filters, 10 us where it
 * has two, whose rows are put for the new inode.  What could take longer is a disk, so the rows are
 * read once before the gate as well (hook_inherit_soon): then their pages are in memory.
 */
static int hook_inherit(void *arg, uint64_t dir, uint64_t ino)
{
	struct manager *m = arg;
	struct inheriting in = {m, ino};

	return ns_record_each(m->ds->ns, RECORD_ATTACHMENT, dir, 0, inherit_row, &in);
}

static int ignore_row(void *arg, uint64_t owner, uint64_t link, const void *value, size_t len)
{
	return 0;
}

static void hook_inherit_soon(void *arg, uint64_t dir)
{
	const struct manager *m = arg;

	/* What fails here fails in the gate again, and is answered there. */
	(void)!ns_record_each(m->ds->ns, RECORD_ATTACHMENT, dir, 0, ignore_row, NULL);
}

static bool hook_read_only(void *arg, uint64_t ino)
{
	struct manager *m = arg;

	return notices_quarantined(m->notices, ino);
}

/* By the settings alone: nobody needs to have it open, nor its key. */
static int hook_may_remove(void *arg, uint64_t ino)
{
	struct manager *m = arg;
	CLEANUP(manifest_freep) struct manifest *mf = NULL;
	const struct stage_event event = {.kind = STAGE_EVENT_DELETE};
	struct errmsg em = {0};
	int r = manifest_load(m->ds->ns, ino, &mf, &em);

	if (!r)
		r = manifest_allows(mf, &event, &em);
	if (r < 0) {
		char path[FILTER_PATH_MAX];
		target_path(m->ds->ns, ino, path);
		log_warn("'%s' is not removed: %s", path, em.text[0] ? em.text : strerror(-r));
	}
	return r;
}

void image_gone(struct manager *m, uint64_t ino)
{
	struct filter_image *fi = image_peek(m, ino);

	if (!fi)
		return;
	pthread_mutex_lock(&m->images_lock);
	fi->gone = true;
	pthread_mutex_unlock(&m->images_lock);
	image_put(fi);
}

static void hook_gone(void *arg, uint64_t ino)
{
	struct manager *m = arg;

	image_gone(m, ino);
	notices_lifted(m->notices, ino);
}

struct vfs_filters manager_filters(struct manager *m)
{
	return (struct vfs_filters){
	        .arg = m,
	        .open = hook_open,
	        .close = hook_close,
	        .inherit_soon = hook_inherit_soon,
	        .inherit = hook_inherit,
	        .collect = hook_collect,
	        .read_only = hook_read_only,
	        .may_remove = hook_may_remove,
	        .gone = hook_gone,
	};
}

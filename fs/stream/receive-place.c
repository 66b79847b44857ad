/*
 * receive-place.c - where a stream belongs, and what it builds on
 *
 * A whole image goes to a name that is free, an incremental stream to an image that has the snapshot
 * of the guid that the stream names, unchanged since.  What the stream itself says of names is the
 * last part of a path, and the name of the snapshot: neither leads out of the directory that the
 * caller named, nor into the view of snapshots.
 *
 * Everything is looked at before content comes, so that nobody waits hours to be refused, and once
 * more when it is applied: that is what counts.
 */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "fs/stream/receive-private.h"

void place_release(struct place *pl)
{
	snapshot_image_release(&pl->base);
}

/* --- META --- */

static int meta_bad(struct errmsg *em)
{
	return errmsg_set(em, -EUCLEAN, "the stream is damaged: its description makes no sense");
}

/* Path and attributes are described as in the record of a snapshot. */
static int like_take(struct receiver *rc, json_t *json)
{
	const uint32_t mode = (uint32_t)json_integer_value(json_object_get(json, "mode")) & 0777u;
	int r = -ENOMEM;

	json_object_del(json, "guid");
	if (json_object_set_new(json, "mode", json_integer(S_IFREG | mode)) < 0 ||
	        json_object_set_new(json, "size", json_integer((json_int_t)rc->begin.size)) < 0 ||
	        json_object_set_new(json, "inode", json_integer(0)) < 0 ||
	        json_object_set_new(json, "generation", json_integer(1)) < 0)
		return r;
	CLEANUP(free_ptr) char *text = json_dumps(json, JSON_COMPACT);
	if (text)
		r = snapshot_image_decode(0, text, strlen(text), &rc->like);
	return r;
}

static int meta_take(struct receiver *rc, json_t *json, struct errmsg *em)
{
	const char *snapshot = json_string_value(json_object_get(json, "snapshot"));
	const char *from = json_string_value(json_object_get(json, "from"));
	const json_t *time_ns = json_object_get(json, "time_ns");
	int r;

	if (!snapshot || !json_is_integer(time_ns) || json_integer_value(time_ns) <= 0)
		return meta_bad(em);
	r = snapshot_name_check(snapshot, em);
	if (r < 0)
		return r;
	memcpy(rc->snapshot, snapshot, strlen(snapshot) + 1);
	rc->time_ns = (uint64_t)json_integer_value(time_ns);
	rc->from = from && snapshot_name_good(from) ? strdup(from) : NULL;
	r = like_take(rc, json);
	return r == -EUCLEAN ? meta_bad(em) : r;
}

int place_meta(struct receiver *rc, const struct stream_bytes *meta, struct errmsg *em)
{
	json_t *json =
	        json_loadb((const char *)meta->data, meta->len, JSON_REJECT_DUPLICATES, NULL);
	const int r = json_is_object(json) ? meta_take(rc, json, em) : meta_bad(em);

	json_decref(json);
	return r;
}

/* --- snapshots by guid --- */

struct search {
	struct datastore *ds;
	uint64_t ino;
	const uint8_t *guid;
	struct snapshot *s;
	struct snapshot_image *si;
};

static int image_match(void *arg, const struct snapshot_image *si)
{
	struct search *se = arg;
	uint8_t guid[STREAM_GUID_LEN];

	if (si->inode.ino != se->ino)
		return 0;
	const int r = snapshot_guid(se->ds, si, guid);
	if (r < 0 || memcmp(guid, se->guid, sizeof(guid)) != 0)
		return r;
	struct snapshot_image copy = *si;
	copy.path = strdup(si->path);
	if (!copy.path)
		return -ENOMEM;
	*se->si = copy;
	return 1;
}

static int snapshot_match(void *arg, const struct snapshot *s)
{
	struct search *se = arg;
	const int r = snapshot_images_each(se->ds->ns, s->number, image_match, se);

	if (r == 1) {
		*se->s = *s;
		json_incref(se->s->json);
	}
	return r;
}

int place_snapshot(struct datastore *ds, uint64_t ino, const uint8_t guid[STREAM_GUID_LEN],
        struct snapshot *ret_s, struct snapshot_image *ret_si)
{
	struct search se = {ds, ino, guid, ret_s, ret_si};
	const int r = snapshots_each(ds->ns, snapshot_match, &se);

	return r < 0 ? r : r == 0 ? -ENOENT : 0;
}

/* --- the target --- */

/* As the last part of a path, and not the view of snapshots. */
static bool name_good(const char *name)
{
	const size_t len = strlen(name);

	return len > 0 && len <= NS_NAME_MAX && !strchr(name, '/') && strcmp(name, ".") != 0 &&
	       strcmp(name, "..") != 0 && strcmp(name, ".weir") != 0;
}

/* The directory, and the name in it, that the target means; there need be nothing of that name. */
static int target_split(struct receiver *rc, struct errmsg *em)
{
	struct ns *ns = rc->m->ds->ns;
	struct place *pl = &rc->place;
	CLEANUP(free_ptr) char *target = strdup(rc->rq->target);
	struct ns_inode inode;
	uint64_t ino = NS_ROOT_INO;

	if (!target)
		return errmsg_set(em, -ENOMEM, "out of memory");
	int r = *target ? ns_lookup_path(ns, target, &ino) : 0;
	if (r == 0)
		r = ns_inode_get(ns, ino, &inode);
	const bool is_dir = r == 0 && S_ISDIR(inode.mode);
	const char *path = is_dir ? rc->like.path : target, *slash = strrchr(path, '/');
	const char *name = slash ? slash + 1 : path;
	if (!name_good(name))
		return errmsg_set(em, -EINVAL, "'%.255s' is no name of an image", name);
	memcpy(pl->name, name, strlen(name) + 1);
	if (!is_dir) {
		target[slash ? slash - path : 0] = 0;
		ino = NS_ROOT_INO;
		r = *target ? ns_lookup_path(ns, target, &ino) : 0;
	}
	if (r == 0)
		r = ns_inode_get(ns, ino, &inode);
	if (r == 0 && !S_ISDIR(inode.mode))
		r = -ENOTDIR;
	if (r < 0)
		return errmsg_set(em, r, "cannot find directory '%s': %s", target, strerror(-r));
	pl->dir = ino;
	snprintf(pl->path, sizeof(pl->path), "%s%s%s", target, *target ? "/" : "", pl->name);
	return 0;
}

static bool image_is_open(struct manager *m, uint64_t ino)
{
	struct filter_image *fi = image_peek(m, ino);

	if (!fi)
		return false;
	pthread_mutex_lock(&fi->lock);
	const bool open = fi->pipeline;
	pthread_mutex_unlock(&fi->lock);
	image_put(fi);
	return open;
}

static int refuse_received(struct receiver *rc, struct errmsg *em)
{
	struct snapshot s;
	struct snapshot_image si;
	int r = place_snapshot(rc->m->ds, rc->place.image, rc->begin.guid, &s, &si);

	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return snapshot_read_failed(r, em);
	r = errmsg_set(
	        em, -EEXIST, "'%s' has it already: it is snapshot '%s'", rc->place.path, s.name);
	snapshot_release(&s);
	snapshot_image_release(&si);
	return r;
}

static int base_find(struct receiver *rc, struct errmsg *em)
{
	struct place *pl = &rc->place;
	struct image_policy policy;
	struct snapshot s;
	int r = place_snapshot(rc->m->ds, pl->image, rc->begin.guid_from, &s, &pl->base);

	if (r == -ENOENT)
		return errmsg_set(em, r,
		        "'%s' does not have the snapshot that the stream builds on%s%s%s (send it "
		        "whole, or from a snapshot that both have)",
		        pl->path, rc->from ? ", '" : "", rc->from ? rc->from : "",
		        rc->from ? "' at the sender" : "");
	if (r < 0)
		return snapshot_read_failed(r, em);
	snapshot_release(&s);
	if (pl->base.inode.size != rc->begin.size_from)
		return errmsg_set(
		        em, -EUCLEAN, "the stream is damaged: what it builds on has another size");
	r = manager_policy(rc->m->ds->ns, snapshot_image(pl->base.key), &policy);
	if (r == 0 && policy.domain != pl->policy.domain)
		return errmsg_set(em, -EINVAL,
		        "'%s' was encrypted, decrypted or moved to a new key since the snapshot "
		        "that the stream builds on (send it whole)",
		        pl->path);
	return r;
}

static int differs(void *arg, uint64_t off, uint64_t len, enum diff_state state)
{
	return 1;
}

int place_changed(struct receiver *rc, bool *ret_changed)
{
	const struct place *pl = &rc->place;
	struct vfs_attr attr;
	int r = vfs_getattr(rc->m->vfs, pl->image, &attr);

	if (r == 0 && attr.inode.size != pl->base.inode.size) {
		*ret_changed = true;
		return 0;
	}
	if (r == 0)
		r = store_diff(
		        rc->m->ds->store, snapshot_image(pl->base.key), pl->image, differs, NULL);
	if (r < 0)
		return r;
	*ret_changed = r == 1;
	return 0;
}

int place_refuse_changed(const struct receiver *rc, struct errmsg *em)
{
	return errmsg_set(em, -EEXIST,
	        "'%s' was changed since the snapshot that the stream builds on (weir snapshot "
	        "rollback, or --force, which keeps what it is now as a snapshot)",
	        rc->place.path);
}

/* Now already, so that nobody waits for nothing; what counts is how it is at the end. */
static int refuse_unfit(struct receiver *rc, struct errmsg *em)
{
	bool changed = false;
	int r = keys_check_domain(rc->m, rc->place.policy.domain, em);

	if (r < 0)
		return r;
	r = place_changed(rc, &changed);
	if (r < 0)
		return errmsg_set(em, r, "cannot compare '%s' with its snapshot: %s",
		        rc->place.path, strerror(-r));
	return changed && !rc->rq->force ? place_refuse_changed(rc, em) : 0;
}

/* Of an incremental stream. */
static int place_image(struct receiver *rc, struct errmsg *em)
{
	struct place *pl = &rc->place;
	struct ns *ns = rc->m->ds->ns;
	struct ns_inode inode;
	uint32_t mode;
	int r = ns_name_get(ns, pl->dir, pl->name, &pl->image, &mode);

	if (r == 0)
		r = ns_inode_get(ns, pl->image, &inode);
	if (r < 0)
		return errmsg_set(em, r, "cannot find '%s', which the stream is an update of: %s",
		        pl->path, strerror(-r));
	if (!S_ISREG(inode.mode))
		return errmsg_set(em, -EINVAL, "'%s' is no image", pl->path);
	r = refuse_received(rc, em);
	if (r < 0)
		return r;
	if (image_is_open(rc->m, pl->image))
		return errmsg_set(em, -EBUSY, "'%s' is open: close it first", pl->path);
	r = manager_policy(ns, pl->image, &pl->policy);
	if (r == 0)
		r = base_find(rc, em);
	if (r == 0)
		r = snapshot_name_free(ns, pl->image, rc->snapshot, &pl->image, 1, em);
	if (r == 0)
		r = snapshot_domains_settled(ns, &pl->image, 1, em);
	return r == 0 ? refuse_unfit(rc, em) : r;
}

/* Of a whole one. */
static int place_new(struct receiver *rc, struct errmsg *em)
{
	struct place *pl = &rc->place;
	struct ns *ns = rc->m->ds->ns;
	uint32_t mode;
	int r = ns_name_get(ns, pl->dir, pl->name, &pl->image, &mode);

	if (r == 0) {
		r = refuse_received(rc, em);
		return r < 0 ? r
		             : errmsg_set(em, -EEXIST,
		                       "'%s' exists: the stream is a whole image (remove it, or "
		                       "receive to another name)",
		                       pl->path);
	}
	if (r != -ENOENT)
		return errmsg_set(em, r, "cannot look for '%s': %s", pl->path, strerror(-r));
	pl->image = 0;
	r = manager_policy(ns, pl->dir, &pl->policy);
	if (r == 0 && rc->rq->key)
		return keys_domain_for(rc->m, rc->rq->key, &pl->policy.domain, em);
	return r < 0 ? errmsg_set(
	                       em, r, "cannot read the filters of the directory: %s", strerror(-r))
	             : 0;
}

int place_find(struct receiver *rc, struct errmsg *em)
{
	int r = target_split(rc, em);

	if (r == 0)
		r = rc->begin.flags & STREAM_INCREMENTAL ? place_image(rc, em) : place_new(rc, em);
	return r == 0 ? keys_check_domain(rc->m, rc->place.policy.domain, em) : r;
}

int place_check(struct receiver *rc, struct errmsg *em)
{
	struct place *pl = &rc->place;
	struct ns *ns = rc->m->ds->ns;
	const uint64_t image = pl->image;
	struct image_policy now, staged;
	int r;

	if (!image) {
		r = manager_policy(ns, rc->st.rec.ino, &staged);
		return r == 0 ? keys_check_domain(rc->m, staged.domain, em) : r;
	}
	place_release(pl);
	r = place_image(rc, em);
	if (r == 0 && pl->image != image)
		return errmsg_set(
		        em, -EINVAL, "'%s' is another image than it was before", pl->path);
	if (r == 0)
		r = manager_policy(ns, image, &now);
	if (r == 0)
		r = manager_policy(ns, rc->st.rec.ino, &staged);
	if (r == 0 && now.domain != staged.domain)
		return errmsg_set(em, -EINVAL,
		        "'%s' was encrypted, decrypted or moved to a new key while the stream came "
		        "(weir receive --abort, and send it again)",
		        pl->path);
	return r;
}

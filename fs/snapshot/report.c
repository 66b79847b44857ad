/*
 * report.c - lists of snapshots, and one of them in detail
 *
 * What is told of a directory are the snapshots that images below it are in.  Bytes that deleting
 * would free are counted by a walk over the maps, as of the last commit; so one is made first, where
 * that is possible.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "fs/control/text.h"
#include "fs/snapshot/private.h"

struct listed {
	struct snapshot s;   /* owned */
	uint64_t size_bytes; /* of its images */
	size_t first, n;     /* of the keys */
	bool chosen;         /* it has one of the images asked for */
	struct listing *l;
};

struct listing {
	struct ns *ns;
	const char *name;          /* NULL: all */
	bool all;                  /* of the datastore */
	struct target_list images; /* else: of these */
	struct listed *items;      /* owned */
	size_t n, cap;
	struct snapshot_usage *usage; /* owned; in order of items */
	size_t n_keys, keys_cap;
	struct listed *at; /* whose images are being taken */
	json_t *list;
};

static void listing_release(struct listing *l)
{
	for (size_t i = 0; i < l->n; i++)
		snapshot_release(&l->items[i].s);
	free(l->items);
	free(l->usage);
	target_list_release(&l->images);
}

static bool wanted(const struct listing *l, uint64_t ino)
{
	return l->all || target_list_has(&l->images, ino, false);
}

static int image_take(void *arg, const struct snapshot_image *si)
{
	struct listing *l = arg;

	if (l->n_keys == l->keys_cap) {
		const size_t cap = l->keys_cap ? 2 * l->keys_cap : 64;
		struct snapshot_usage *usage = realloc(l->usage, cap * sizeof(*usage));
		if (!usage)
			return -ENOMEM;
		l->usage = usage;
		l->keys_cap = cap;
	}
	l->usage[l->n_keys++] = (struct snapshot_usage){.id = si->key};
	l->at->n++;
	l->at->size_bytes += si->inode.size;
	l->at->chosen = l->at->chosen || wanted(l, si->inode.ino);
	return 0;
}

static int snapshot_take_one(void *arg, const struct snapshot *s)
{
	struct listing *l = arg;

	if (l->name && strcmp(l->name, s->name))
		return 0;
	if (l->n == l->cap) {
		const size_t cap = l->cap ? 2 * l->cap : 64;
		struct listed *items = realloc(l->items, cap * sizeof(*items));
		if (!items)
			return -ENOMEM;
		l->items = items;
		l->cap = cap;
	}
	l->at = &l->items[l->n];
	*l->at = (struct listed){.s = *s, .first = l->n_keys};
	const int r = snapshot_images_each(l->ns, s->number, image_take, l);
	if (r < 0 || !l->at->chosen) {
		l->n_keys = l->at->first;
		return r;
	}
	json_incref(s->json);
	l->n++;
	return 0;
}

static json_t *snapshot_json(struct ns *ns, const struct listed *item, const json_t *unique)
{
	const struct snapshot *s = &item->s;
	struct ns_inode inode;
	char path[FILTER_PATH_MAX];
	const bool there = ns_inode_get(ns, s->scope, &inode) == 0 && inode.nlink > 0;

	if (there)
		target_path(ns, s->scope, path);
	return json_pack("{s:s, s:s, s:s, s:o, s:b, s:I, s:I, s:I, s:O, s:O}", "name", s->name,
	        "kind", snapshot_kind_name(s->kind), "origin", snapshot_origin_name(s->origin),
	        "target", text_json(there ? path : s->target), "gone", !there, "time_ns",
	        (json_int_t)s->time_ns, "images", (json_int_t)s->n_images, "size_bytes",
	        (json_int_t)item->size_bytes, "unique_bytes", unique, "holders", s->holders);
}

/* null where it could not be counted. */
static json_t *unique_json(const struct listing *l, const struct listed *item, bool counted)
{
	uint64_t chunks = 0;

	for (size_t i = 0; i < item->n; i++)
		chunks += l->usage[item->first + i].unique_chunks;
	return counted ? json_integer((json_int_t)(chunks * CHUNK_SIZE)) : json_null();
}

static int listing_fill(
        struct datastore *ds, struct listing *l, const char *target, struct errmsg *em)
{
	struct target t;
	int r = filter_target(ds->ns, target, &t, em);

	if (r < 0)
		return r;
	l->ns = ds->ns;
	l->all = t.ino == NS_ROOT_INO;
	if (!l->all && t.dir) {
		r = target_walk(ds->ns, t.ino, &l->images);
	} else if (!l->all) {
		l->images = (struct target_list){
		        .inos = malloc(sizeof(uint64_t)), .dirs = calloc(1, 1), .n = 1, .cap = 1};
		if (!l->images.inos || !l->images.dirs)
			r = -ENOMEM;
		else
			l->images.inos[0] = t.ino;
	}
	if (r == 0)
		r = snapshots_each(ds->ns, snapshot_take_one, l);
	return r < 0 ? snapshot_read_failed(r, em) : 0;
}

static void commit_first(struct datastore *ds)
{
	const int r = store_sync(ds->store);

	if (r < 0 && r != -EROFS)
		log_warn("snapshots: cannot commit first: %s", strerror(-r));
}

static json_t *listing_json(struct datastore *ds, struct listing *l, gc_progress_fn *fn, void *arg)
{
	json_t *list = json_array();
	const int counted =
	        l->n_keys ? store_snapshot_usage(ds->store, l->usage, l->n_keys, fn, arg) : 0;

	if (counted < 0)
		log_warn("snapshots: cannot count what they hold: %s", strerror(-counted));
	for (size_t i = 0; i < l->n && list; i++) {
		json_t *unique = unique_json(l, &l->items[i], counted == 0);
		if (json_array_append_new(list, snapshot_json(l->ns, &l->items[i], unique)) < 0) {
			json_decref(list);
			list = NULL;
		}
		json_decref(unique);
	}
	return list;
}

int snapshots_list(struct datastore *ds, const struct snapshot_request *rq, gc_progress_fn *fn,
        void *arg, json_t **ret_json, struct errmsg *em)
{
	struct listing l = {0};

	commit_first(ds);
	const int r = listing_fill(ds, &l, rq->target, em);
	if (r == 0)
		*ret_json = json_pack("{s:o, s:o}", "target", text_json(rq->target), "snapshots",
		        listing_json(ds, &l, fn, arg));
	listing_release(&l);
	if (r < 0)
		return r;
	return *ret_json ? 0 : errmsg_set(em, -ENOMEM, "out of memory");
}

/* --- one of them --- */

struct showing {
	struct datastore *ds;
	json_t *list;
};

static int image_show(void *arg, const struct snapshot_image *si)
{
	struct showing *sh = arg;
	const uint64_t id = snapshot_image(si->key);
	struct image_stats st = {0};
	struct ns_inode inode;
	const int r = store_image_stats(sh->ds->store, &id, 1, false, NULL, NULL, &st);
	const bool there = ns_inode_get(sh->ds->ns, si->inode.ino, &inode) == 0 && inode.nlink > 0;

	if (r < 0)
		return r;
	return json_array_append_new(
	        sh->list, json_pack("{s:o, s:I, s:b, s:I, s:I, s:I}", "path", text_json(si->path),
	                          "inode", (json_int_t)si->inode.ino, "gone", !there, "size_bytes",
	                          (json_int_t)si->inode.size, "allocated_bytes",
	                          (json_int_t)((st.data_chunks + st.zero_chunks) * CHUNK_SIZE),
	                          "written_bytes", (json_int_t)(st.data_chunks * CHUNK_SIZE)));
}

int snapshots_show(struct datastore *ds, const struct snapshot_request *rq, gc_progress_fn *fn,
        void *arg, json_t **ret_json, struct errmsg *em)
{
	struct listing l = {.name = rq->name};
	struct showing sh = {.ds = ds};

	commit_first(ds);
	int r = listing_fill(ds, &l, rq->target, em);
	if (r == 0 && l.n == 0)
		r = errmsg_set(em, -ENOENT, "%s%s%s has no snapshot '%.128s' (weir snapshot list)",
		        *rq->target ? "'" : "", *rq->target ? rq->target : "the datastore",
		        *rq->target ? "'" : "", rq->name);
	sh.list = json_array();
	for (size_t i = 0; i < l.n && r == 0; i++) {
		r = sh.list ? snapshot_images_each(ds->ns, l.items[i].s.number, image_show, &sh)
		            : -ENOMEM;
		if (r < 0)
			errmsg_set(em, r, "cannot read snapshot '%s': %s", rq->name, strerror(-r));
	}
	if (r == 0)
		*ret_json = json_pack("{s:o, s:o, s:O}", "target", text_json(rq->target),
		        "snapshots", listing_json(ds, &l, fn, arg), "image_list", sh.list);
	json_decref(sh.list);
	listing_release(&l);
	if (r < 0)
		return r;
	return *ret_json ? 0 : errmsg_set(em, -ENOMEM, "out of memory");
}

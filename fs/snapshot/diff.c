/*
 * diff.c - where two states of an image differ
 *
 * The engine walks both maps; an answer has a limited number of extents, and says where to go on.
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "fs/snapshot/private.h"

struct state {
	uint64_t id; /* as the engine's store_diff() takes it */
	uint64_t size;
};

static int state_find(struct ns *ns, const char *target, const char *name, struct state *ret_st,
        struct errmsg *em)
{
	struct snapshot s;
	struct snapshot_image si;
	struct ns_inode inode;
	struct target t;
	int r = snapshot_target_image(ns, target, &t, em);

	if (r < 0)
		return r;
	if (name) {
		r = snapshot_find_image(ns, &t, name, &s, &si, em);
		if (r < 0)
			return r;
		*ret_st = (struct state){snapshot_image(si.key), si.inode.size};
		snapshot_image_release(&si);
		snapshot_release(&s);
		return 0;
	}
	r = ns_inode_get(ns, t.ino, &inode);
	if (r < 0)
		return errmsg_set(em, r, "cannot read '%s': %s", target, strerror(-r));
	*ret_st = (struct state){t.ino, inode.size};
	return 0;
}

struct diffing {
	json_t *list;
	uint64_t from, end; /* end: the larger of both sizes */
	uint64_t next;
	bool more;
};

static int diff_take(void *arg, uint64_t off, uint64_t len, enum diff_state state)
{
	static const char *const names[] = {
	        [DIFF_HOLE] = "hole", [DIFF_ZERO] = "zero", [DIFF_DATA] = "data"};
	struct diffing *d = arg;
	const uint64_t end = MIN(off + len, d->end);

	off = MAX(off, d->from);
	if (off >= end)
		return 0;
	if (json_array_size(d->list) == DIFF_EXTENTS_MAX) {
		d->next = off;
		d->more = true;
		return 1;
	}
	return json_array_append_new(d->list, json_pack("[I, I, s]", (json_int_t)off,
	                                              (json_int_t)(end - off), names[state])) < 0
	               ? -ENOMEM
	               : 0;
}

static json_t *diff_json(struct diffing *d, const struct state *a, const struct state *b)
{
	return json_pack("{s:I, s:I, s:O, s:o}", "from_size_bytes", (json_int_t)a->size,
	        "size_bytes", (json_int_t)b->size, "extents", d->list, "next",
	        d->more ? json_integer((json_int_t)d->next) : json_null());
}

int snapshots_diff(struct datastore *ds, const struct snapshot_request *rq, json_t **ret_json,
        struct errmsg *em)
{
	struct state a, b;
	int r = store_sync(ds->store); /* sizes of what is written to now */

	if (r < 0 && r != -EROFS)
		log_warn("diff: cannot commit first: %s", strerror(-r));
	r = state_find(ds->ns, rq->target, rq->name, &a, em);
	if (r == 0)
		r = state_find(ds->ns, rq->other, rq->other_name, &b, em);
	if (r < 0)
		return r;
	struct diffing d = {.list = json_array(), .from = rq->from, .end = MAX(a.size, b.size)};
	r = d.list ? store_diff(ds->store, a.id, b.id, diff_take, &d) : -ENOMEM;
	if (r >= 0) {
		*ret_json = diff_json(&d, &a, &b);
		r = *ret_json ? 0 : -ENOMEM;
	}
	json_decref(d.list);
	if (r == -ENOKEY)
		return errmsg_set(em, r,
		        "cannot compare '%s' and '%s': its key is locked (weir "
		        "key unlock)",
		        rq->target, rq->other);
	return r < 0 ? errmsg_set(em, r, "cannot compare '%s' and '%s': %s", rq->target, rq->other,
	                       strerror(-r))
	             : 0;
}

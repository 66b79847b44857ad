/*
 * snapshot.c - snapshots, clones and rollbacks: roots copied when a group is committed
 *
 * An operation (struct snap_op) is a list of copies from a root to another; a deletion has no source.
 * It goes through
 *	queued    by the caller, which holds on to the images and maps concerned and then waits
 *	ready     the txg thread took it before it closes the gate: what it names is there (meta reads)
 *	frozen    with the gate closed its rows callback ran; now it is part of the frozen group
 *	done      the group is committed, or it was refused; the caller frees it
 * In between, snap_apply() notes the roots once the group's own changes are in the maps, and again whenever the
 * commit is repeated; it cannot fail.  snap_txg_write() puts the rows; maps that became copies are changed in RAM
 * when they are committed: until then, nodes of their new trees are to be found by their sources only.
 *
 * Why nothing that is shared is ever changed in place.
 * - A source image: its nodes of this group are being written as they are; its snap_epoch is raised with the
 *   commit (map_share), before any later change.
 * - A target: its snap_epoch is of this group from the start (map_replace).
 * - Two operations of one group never have the target of one as source or target of the other (conflicts()): a
 *   copied root with nodes not written yet would lose them when its image is replaced.
 *
 * A waiter whose commit failed leaves a frozen operation behind; then the txg thread frees it.
 *
 * The collector may be walking the maps: each root copied is given to it (gc_root_copied), because its
 * source may be gone before the walk comes to it, and the target's turn may be over.
 */
#include "store/snapshot.h"

#include <errno.h>

#include "base/clock.h"
#include "store/store-priv.h"

/* SNAP_CLONE_KEPT: an image becomes a copy of another, and a snapshot of it is made. */
enum snap_kind { SNAP_CREATE, SNAP_DELETE, SNAP_ROLLBACK, SNAP_CLONE, SNAP_CLONE_KEPT };

struct snap_item {
	uint64_t from, to;    /* images or SNAPSHOT_BIT | id; from 0: `to` is deleted */
	struct image *source; /* of an image; referenced */
	struct map *target;   /* of an image; referenced */
	struct image *into; /* the target's image, whose policy counts; NULL: domain; referenced */
	uint32_t domain;    /* of a target: what its policy is to name */
	uint32_t from_domain; /* what is copied: its domain; of an image at the freeze */
	uint64_t of; /* of a snapshot: the image it is kept as; 0: the one that is copied */
	struct image_row root;   /* what is copied: of a snapshot from the start, of an image when
	                        * applied; its image and snap_epoch are the target's */
	struct snapshot_row row; /* of a snapshot to be made, or deleted */
};

enum snap_state { SNAP_QUEUED, SNAP_READY, SNAP_FROZEN, SNAP_DONE };

struct snap_op {
	struct snap_op *next; /* in its list */
	struct store *store;
	enum snap_kind kind;
	struct snap_item *items; /* owned; in order of `to` */
	size_t n;
	snapshot_rows_fn *rows;
	void *arg;
	enum snap_state state; /* snap.lock */
	bool left;             /* snap.lock: nobody waits for it any more */
	int result;
};

static bool is_snapshot(uint64_t id)
{
	return id & SNAPSHOT_BIT;
}

static void op_free(struct snap_op *op)
{
	for (size_t i = 0; op && i < op->n; i++) {
		store_image_close(op->items[i].source);
		store_image_close(op->items[i].into);
		map_close(op->items[i].target);
	}
	if (op)
		free(op->items);
	free(op);
}

/* --- lists --- */

static void list_append(struct snap_op **list, struct snap_op *op)
{
	while (*list)
		list = &(*list)->next;
	op->next = NULL;
	*list = op;
}

static void list_remove(struct snap_op **list, const struct snap_op *op)
{
	while (*list != op)
		list = &(*list)->next;
	*list = op->next;
}

void snap_init(struct store *s)
{
	pthread_mutex_init(&s->snap.lock, NULL);
}

void snap_free(struct store *s)
{
	struct snap_op *next;

	ASSERT(!s->snap.queue && !s->snap.ready);
	for (struct snap_op *op = s->snap.frozen; op; op = next) {
		next = op->next;
		op_free(op);
	}
	s->snap.frozen = NULL;
}

bool snap_waits(struct store *s)
{
	pthread_mutex_lock(&s->snap.lock);
	const bool waits = s->snap.queue;
	pthread_mutex_unlock(&s->snap.lock);
	return waits;
}

/* --- the txg thread: before the freeze --- */

static int item_check_snapshot(struct store *s, struct snap_item *it)
{
	struct meta *m = s->cfg.meta;
	struct snapshot_row row;
	int r = m->ops->snapshot_get(m, it->to & ~SNAPSHOT_BIT, &row);

	if (!it->from) {
		if (r == 0)
			it->row = row;
		return r;
	}
	return r == 0 ? -EEXIST : r == -ENOENT ? 0 : r;
}

/* What the item names is as it must be.  Reads what is committed; nothing is frozen now. */
static int item_check(struct store *s, const struct snap_op *op, struct snap_item *it)
{
	struct meta *m = s->cfg.meta;
	struct snapshot_row row;
	int r = 0;

	if (is_snapshot(it->to))
		r = item_check_snapshot(s, it);
	else if (parked_has(s, it->to))
		r = -ENOKEY;
	if (r < 0 || !it->from)
		return r;
	if (!is_snapshot(it->from))
		return parked_has(s, it->from) ? -ENOKEY : 0;
	r = m->ops->snapshot_get(m, it->from & ~SNAPSHOT_BIT, &row);
	if (r < 0)
		return r;
	if (op->kind == SNAP_ROLLBACK && row.image != it->to)
		return -EINVAL;
	it->from_domain = row.domain;
	it->root = (struct image_row){.image = it->from,
	        .root = row.root,
	        .height = row.height,
	        .data_chunks = row.data_chunks,
	        .zero_chunks = row.zero_chunks};
	return map_root_check(&it->root);
}

static bool has_target(const struct snap_op *op, uint64_t id)
{
	size_t lo = 0, hi = op->n;

	while (lo < hi) {
		const size_t mid = lo + (hi - lo) / 2;

		if (op->items[mid].to < id)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < op->n && op->items[lo].to == id;
}

/* Something that one replaces, makes or deletes is named by the other. */
static bool conflicts(const struct snap_op *a, const struct snap_op *b)
{
	for (size_t i = 0; i < a->n; i++)
		if (has_target(b, a->items[i].to) || has_target(b, a->items[i].from))
			return true;
	for (size_t i = 0; i < b->n; i++)
		if (has_target(a, b->items[i].from))
			return true;
	return false;
}

static bool conflicts_any(const struct snap_op *op, const struct snap_op *list)
{
	for (; list; list = list->next)
		if (conflicts(op, list))
			return true;
	return false;
}

static void op_done(struct snap_op *op, int result)
{
	op->result = result;
	op->state = SNAP_DONE;
}

/* The first in the queue if it can be of this group; NULL: no more.  In order, so none starves. */
static struct snap_op *take_next(struct store *s)
{
	struct snap_control *c = &s->snap;

	pthread_mutex_lock(&c->lock);
	struct snap_op *op = c->queue;
	if (op && conflicts_any(op, c->ready))
		op = NULL;
	if (op) {
		c->queue = op->next;
		op->state = SNAP_READY;
	}
	pthread_mutex_unlock(&c->lock);
	return op;
}

void snap_prepare(struct store *s)
{
	struct snap_op *op;

	while ((op = take_next(s))) {
		int r = 0;
		for (size_t i = 0; r == 0 && i < op->n; i++)
			r = item_check(s, op, &op->items[i]);
		pthread_mutex_lock(&s->snap.lock);
		if (r < 0)
			op_done(op, r);
		else
			list_append(&s->snap.ready, op);
		pthread_mutex_unlock(&s->snap.lock);
	}
}

/* --- gate closed --- */

/*
 * A whole-file copy of an image whose chunks are still on their way to the domain that its policy names
 * would have no job that moves the rest.
 */
static int item_settled(const struct snap_op *op, const struct snap_item *it)
{
	const bool copy = op->kind == SNAP_CLONE && it->into;

	return copy && segments_any_left(op->store->segments) ? -EAGAIN : 0;
}

/*
 * What a policy names is what is asked whether a key is still needed.  So content never comes under a policy
 * that names another domain than its own source's.  Policies do not change while the gate is closed.
 */
static int item_domain(struct snap_item *it)
{
	if (it->source)
		it->from_domain = image_policy(it->source).domain;
	it->row.domain = it->from_domain;
	if (it->into)
		it->domain = image_policy(it->into).domain;
	return it->target && it->from_domain != it->domain ? -EXDEV : 0;
}

static int op_freeze(struct snap_op *op)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < op->n; i++)
		if (op->kind != SNAP_DELETE)
			r = item_domain(&op->items[i]);
	for (size_t i = 0; r == 0 && i < op->n; i++)
		r = item_settled(op, &op->items[i]);
	return r == 0 && op->rows ? op->rows(op->arg) : r;
}

void snap_freeze(struct store *s)
{
	struct snap_control *c = &s->snap;

	ASSERT(!c->frozen);
	while (c->ready) {
		struct snap_op *op = c->ready;
		const int r = op_freeze(op);

		pthread_mutex_lock(&c->lock);
		c->ready = op->next;
		if (r < 0) {
			op_done(op, r);
		} else {
			op->state = SNAP_FROZEN;
			list_append(&c->frozen, op);
		}
		pthread_mutex_unlock(&c->lock);
	}
}

/* --- the group is committed --- */

static void item_apply(struct snap_item *it, uint64_t txg)
{
	struct snapshot_row *row = &it->row;

	if (!it->from)
		return;
	if (it->source)
		map_share(it->source->map, txg, &it->root);
	it->root.image = it->to;
	it->root.snap_epoch = txg;
	if (!it->root.root)
		it->root.height = 0;
	if (it->target)
		return;
	row->id = it->to & ~SNAPSHOT_BIT;
	row->image = it->of ? it->of : it->from;
	row->root = it->root.root;
	row->height = it->root.height;
	row->data_chunks = it->root.data_chunks;
	row->zero_chunks = it->root.zero_chunks;
	row->txg = txg;
}

void snap_apply(struct store *s, uint64_t txg)
{
	for (struct snap_op *op = s->snap.frozen; op; op = op->next)
		for (size_t i = 0; i < op->n; i++)
			item_apply(&op->items[i], txg);
}

static int item_write(struct meta *m, const struct snap_item *it)
{
	if (!it->from)
		return m->ops->snapshot_del(m, it->row.id);
	return it->target ? m->ops->image_put(m, &it->root) : m->ops->snapshot_put(m, &it->row);
}

int snap_txg_write(struct store *s)
{
	int r = 0;

	for (struct snap_op *op = s->snap.frozen; r == 0 && op; op = op->next)
		for (size_t i = 0; r == 0 && i < op->n; i++)
			r = item_write(s->cfg.meta, &op->items[i]);
	return r;
}

static void op_committed(struct store *s, struct snap_op *op)
{
	uint64_t dead = 0;

	for (size_t i = 0; i < op->n; i++) {
		const struct snap_item *it = &op->items[i];
		struct image_row before = {.data_chunks = it->row.data_chunks};

		if (it->from)
			gc_root_copied(s, &it->root);
		if (it->target) {
			map_row(it->target, &before);
			map_replace(it->target, &it->root, it->root.snap_epoch);
		}
		if (it->target || !it->from)
			dead += before.data_chunks;
	}
	/* At most; the collector will see how much of it is shared. */
	atomic_fetch_add(&s->gc.dead_estimate, dead);
}

void snap_txg_committed(struct store *s)
{
	struct snap_control *c = &s->snap;

	while (c->frozen) {
		struct snap_op *op = c->frozen;

		op_committed(s, op);
		pthread_mutex_lock(&c->lock);
		c->frozen = op->next;
		const bool left = op->left;
		op_done(op, 0);
		pthread_mutex_unlock(&c->lock);
		if (left)
			op_free(op);
	}
}

/* --- the caller --- */

static int item_order(const void *a, const void *b)
{
	const struct snap_item *x = a, *y = b;
	return x->to < y->to ? -1 : x->to > y->to;
}

static int op_new(struct store *s, enum snap_kind kind, size_t n, snapshot_rows_fn *rows, void *arg,
        struct snap_op **ret_op)
{
	struct snap_op *op = calloc(1, sizeof(*op));

	if (!op)
		return -ENOMEM;
	op->items = calloc(MAX(n, 1), sizeof(*op->items));
	if (!op->items) {
		free(op);
		return -ENOMEM;
	}
	op->store = s;
	op->kind = kind;
	op->n = n;
	op->rows = rows;
	op->arg = arg;
	*ret_op = op;
	return 0;
}

static bool snapshot_valid(uint64_t id)
{
	return is_snapshot(id) && id != SNAPSHOT_BIT && (id & ~SNAPSHOT_BIT) <= SNAPSHOT_ID_MAX;
}

static bool image_valid(uint64_t id)
{
	return id != 0 && id < SNAPSHOT_BIT;
}

static bool item_valid(enum snap_kind kind, const struct snap_item *it)
{
	const bool from = kind == SNAP_CREATE   ? image_valid(it->from)
	                  : kind == SNAP_DELETE ? it->from == 0
	                  : kind == SNAP_ROLLBACK
	                          ? snapshot_valid(it->from)
	                          : image_valid(it->from) || snapshot_valid(it->from);
	const bool to_image =
	        kind == SNAP_ROLLBACK || kind == SNAP_CLONE || (kind == SNAP_CLONE_KEPT && !it->of);

	return from && (to_image ? image_valid(it->to) : snapshot_valid(it->to));
}

static int item_hold(struct snap_op *op, struct snap_item *it)
{
	struct store *s = op->store;
	int r = 0;

	if (image_valid(it->from))
		r = store_image_open(s, it->from, &it->source);
	if (r == 0 && image_valid(it->to))
		r = map_open(s->maps, it->to, &it->target);
	if (r == 0 && it->target && (op->kind == SNAP_ROLLBACK || op->kind == SNAP_CLONE_KEPT))
		r = store_image_open(s, it->to, &it->into);
	return r;
}

/* In order, each target once and no source; images and maps concerned are held from here on. */
static int op_hold(struct snap_op *op)
{
	int r = 0;

	qsort(op->items, op->n, sizeof(*op->items), item_order);
	for (size_t i = 0; r == 0 && i < op->n; i++) {
		struct snap_item *it = &op->items[i];

		if (!item_valid(op->kind, it) || (i > 0 && it->to == it[-1].to) ||
		        has_target(op, it->from))
			r = -EINVAL;
		else
			r = item_hold(op, it);
	}
	return r;
}

/*
 * One attempt to commit is over.  Is the operation?  Then *ret_free tells whether it is the caller's
 * again.
 */
static bool op_over(struct snap_op *op, int commit_r, int *ret_result, bool *ret_free)
{
	struct snap_control *c = &op->store->snap;
	bool over = true;

	pthread_mutex_lock(&c->lock);
	*ret_free = true;
	if (op->state == SNAP_DONE) {
		*ret_result = op->result;
	} else if (commit_r == 0 || op->state == SNAP_READY) {
		over = false;
	} else if (op->state == SNAP_QUEUED) {
		list_remove(&c->queue, op);
		*ret_result = commit_r;
	} else {
		op->left = true;
		*ret_free = false;
		*ret_result = -EINPROGRESS;
	}
	pthread_mutex_unlock(&c->lock);
	return over;
}

/* Takes the operation. */
static int op_run(struct snap_op *op)
{
	struct store *s = op->store;
	bool is_mine = true;
	int r = s->cfg.read_only ? -EROFS : op_hold(op), commit_r;

	if (r == 0) {
		pthread_mutex_lock(&s->snap.lock);
		list_append(&s->snap.queue, op);
		pthread_mutex_unlock(&s->snap.lock);
		do
			commit_r = txg_wait(s, atomic_load(&s->txg_open));
		while (!op_over(op, commit_r, &r, &is_mine));
	}
	if (is_mine)
		op_free(op);
	return r;
}

int store_snapshot_create(struct store *s, const struct snapshot_ref *refs, size_t n,
        snapshot_rows_fn *rows, void *arg)
{
	struct snap_op *op;
	const int r = op_new(s, SNAP_CREATE, n, rows, arg, &op);

	for (size_t i = 0; r == 0 && i < n; i++) {
		op->items[i].from = refs[i].image;
		op->items[i].to = snapshot_image(refs[i].id);
	}
	return r < 0 ? r : op_run(op);
}

int store_snapshot_delete(
        struct store *s, const uint64_t *ids, size_t n, snapshot_rows_fn *rows, void *arg)
{
	struct snap_op *op;
	const int r = op_new(s, SNAP_DELETE, n, rows, arg, &op);

	for (size_t i = 0; r == 0 && i < n; i++)
		op->items[i].to = snapshot_image(ids[i]);
	return r < 0 ? r : op_run(op);
}

int store_snapshot_rollback(struct store *s, const struct rollback_ref *refs, size_t n,
        snapshot_rows_fn *rows, void *arg)
{
	struct snap_op *op;
	const int r = op_new(s, SNAP_ROLLBACK, n, rows, arg, &op);

	for (size_t i = 0; r == 0 && i < n; i++) {
		op->items[i].from = snapshot_image(refs[i].id);
		op->items[i].to = refs[i].image;
	}
	return r < 0 ? r : op_run(op);
}

int store_clone(
        struct store *s, const struct clone_ref *refs, size_t n, snapshot_rows_fn *rows, void *arg)
{
	struct snap_op *op;
	const int r = op_new(s, SNAP_CLONE, n, rows, arg, &op);

	for (size_t i = 0; r == 0 && i < n; i++) {
		op->items[i].from = refs[i].source;
		op->items[i].to = refs[i].image;
		op->items[i].domain = refs[i].domain;
	}
	return r < 0 ? r : op_run(op);
}

int store_clone_snapshot(struct store *s, const struct clone_ref *ref, uint64_t id,
        snapshot_rows_fn *rows, void *arg)
{
	struct snap_op *op;
	const int r = op_new(s, SNAP_CLONE_KEPT, 2, rows, arg, &op);

	if (r < 0)
		return r;
	op->items[0].from = op->items[1].from = ref->source;
	op->items[0].to = ref->image;
	op->items[1].to = snapshot_image(id);
	op->items[1].of = ref->image;
	return op_run(op);
}

int store_clone_into(struct image *src, struct image *dst, snapshot_rows_fn *rows, void *arg)
{
	struct snap_op *op;

	if (image_policy(src).domain != image_policy(dst).domain)
		return -EXDEV; /* looked at again at the freeze; this is before anybody waits */
	if (image_locked(src) || image_locked(dst))
		return -ENOKEY;
	if (is_snapshot(dst->id))
		return -EROFS;
	const int r = op_new(dst->store, SNAP_CLONE, 1, rows, arg, &op);
	if (r < 0)
		return r;
	op->items[0].from = src->id;
	op->items[0].to = dst->id;
	image_ref(dst);
	op->items[0].into = dst;
	return op_run(op);
}

/* --- asking --- */

int store_snapshot_get(struct store *s, uint64_t id, struct snapshot_row *ret_row)
{
	struct meta *m = s->cfg.meta;

	return m->ops->snapshot_get(m, id, ret_row);
}

int store_snapshot_each(struct store *s, snapshot_row_fn *fn, void *arg)
{
	struct meta *m = s->cfg.meta;

	return m->ops->snapshot_each(m, fn, arg);
}

/*
 * capture.c - the rows of a snapshot, as of its instant
 *
 * The engine calls capture_rows() with the gate closed.  What files have in RAM (size, times, what
 * their stages keep) is put as rows first, so that rows tell all there is; then each image's row,
 * attachments and state are copied.  What is read there has been read before, so that it comes from
 * SQLite's page cache.
 *
 * An error half way cancels the snapshot; rows that were put already are taken back, as far as
 * possible: nothing names them, for the row that does comes last.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "fs/snapshot/private.h"

/* --- rows of one owner --- */

int owned_rows_add(struct owned_rows *rows, enum record_table table, uint64_t id, const void *value,
        size_t len)
{
	if (rows->n == rows->cap) {
		const size_t cap = rows->cap ? 2 * rows->cap : 8;
		struct owned_row *items = realloc(rows->items, cap * sizeof(*items));
		if (!items)
			return -ENOMEM;
		rows->items = items;
		rows->cap = cap;
	}
	void *copy = malloc(len + 1);
	if (!copy)
		return -ENOMEM;
	memcpy(copy, value, len);
	rows->items[rows->n++] = (struct owned_row){table, id, copy, len};
	return 0;
}

struct owned_reading {
	struct owned_rows *rows;
	enum record_table table;
};

static int owned_row_take(void *arg, uint64_t owner, uint64_t id, const void *value, size_t len)
{
	const struct owned_reading *rd = arg;

	return owned_rows_add(rd->rows, rd->table, id, value, len);
}

int owned_rows_read(struct ns *ns, uint64_t owner, enum record_table table, struct owned_rows *rows)
{
	struct owned_reading rd = {rows, table};

	return ns_record_each(ns, table, owner, 0, owned_row_take, &rd);
}

int owned_rows_put(struct ns *ns, uint64_t owner, const struct owned_rows *rows)
{
	int r = 0;

	for (size_t i = 0; i < rows->n && r == 0; i++) {
		const struct owned_row *row = &rows->items[i];
		r = ns_record_put(ns, row->table, owner, row->id, row->value, row->len);
	}
	return r;
}

int owned_rows_del(struct ns *ns, uint64_t owner, const struct owned_rows *rows)
{
	int r = 0;

	for (size_t i = 0; i < rows->n && r == 0; i++)
		r = ns_record_del(ns, rows->items[i].table, owner, rows->items[i].id);
	return r;
}

void owned_rows_release(struct owned_rows *rows)
{
	for (size_t i = 0; i < rows->n; i++)
		free(rows->items[i].value);
	free(rows->items);
	*rows = (struct owned_rows){0};
}

/* --- a snapshot --- */

void capture_release(struct capture *c)
{
	for (uint64_t i = 0; c->paths && i < c->s.n_images; i++)
		free(c->paths[i]);
	free(c->paths);
	free(c->refs);
	json_decref((json_t *)c->s.holders);
	*c = (struct capture){0};
}

static int capture_images(struct capture *c, const uint64_t *inos)
{
	char path[FILTER_PATH_MAX];
	struct owned_rows rows = {0};
	struct ns_inode inode;

	for (uint64_t i = 0; i < c->s.n_images; i++) {
		struct ns *ns = c->m->ds->ns;
		c->refs[i] = (struct snapshot_ref){snapshot_id(c->s.number, i + 1), inos[i]};
		target_path(ns, inos[i], path);
		c->paths[i] = strdup(path);
		if (!c->paths[i])
			return -ENOMEM;
		/* For the page cache; what is gone by now is found out at the instant. */
		int r = ns_inode_get(ns, inos[i], &inode);
		if (r == 0)
			r = owned_rows_read(ns, inos[i], RECORD_FILTER_STATE, &rows);
		owned_rows_release(&rows);
		if (r < 0 && r != -ENOENT)
			return r;
	}
	return 0;
}

int capture_init(struct capture *c, struct manager *m, const struct filter_caller *who,
        const struct target *t, const char *name, const uint64_t *inos, size_t n, struct errmsg *em)
{
	const bool all = t->ino == NS_ROOT_INO;

	if (n > SNAPSHOT_IMAGES_MAX)
		return errmsg_set(
		        em, -E2BIG, "a snapshot has at most %u images", SNAPSHOT_IMAGES_MAX);
	*c = (struct capture){
	        .m = m,
	        .who = who,
	        .action = "snapshot create",
	        .s = {.number = ns_number_alloc(m->ds->ns),
	                .kind = all      ? SNAPSHOT_DATASTORE
	                        : t->dir ? SNAPSHOT_DIRECTORY
	                                 : SNAPSHOT_IMAGE,
	                .scope = t->ino,
	                .n_images = n,
	                .holders = json_array()},
	        .refs = calloc(n + 1, sizeof(*c->refs)),
	        .paths = calloc(n + 1, sizeof(*c->paths)),
	};
	snprintf(c->s.name, sizeof(c->s.name), "%s", name);
	target_path(m->ds->ns, t->ino, c->target);
	c->s.target = c->target;
	audit_prepare(who ? who->uid : 0);
	int r = c->refs && c->paths && c->s.holders ? capture_images(c, inos) : -ENOMEM;
	if (r < 0) {
		capture_release(c);
		return errmsg_set(em, r, "cannot read the images: %s", strerror(-r));
	}
	return 0;
}

static int capture_owned(struct ns *ns, uint64_t from, uint64_t to)
{
	struct owned_rows rows = {0};
	int r = owned_rows_read(ns, from, RECORD_ATTACHMENT, &rows);

	if (r == 0)
		r = owned_rows_read(ns, from, RECORD_FILTER_STATE, &rows);
	if (r == 0)
		r = owned_rows_put(ns, to, &rows);
	owned_rows_release(&rows);
	return r;
}

static int capture_image(struct capture *c, uint64_t i)
{
	struct ns *ns = c->m->ds->ns;
	const struct snapshot_ref *ref = &c->refs[i];
	struct snapshot_image si = {.key = ref->id, .path = c->paths[i]};
	int r = ns_inode_get(ns, ref->image, &si.inode);

	if (c->guid)
		memcpy(si.guid, c->guid, sizeof(si.guid));
	if (r == 0)
		r = capture_owned(ns, ref->image, snapshot_image(ref->id));
	return r < 0 ? r : snapshot_image_put(ns, &si);
}

static void capture_undo(struct capture *c, uint64_t n)
{
	struct ns *ns = c->m->ds->ns;
	int r = 0;

	for (uint64_t i = 0; i < n && r == 0; i++) {
		const uint64_t owner = snapshot_image(c->refs[i].id);
		struct owned_rows rows = {0};
		r = owned_rows_read(ns, owner, RECORD_ATTACHMENT, &rows);
		if (r == 0)
			r = owned_rows_read(ns, owner, RECORD_FILTER_STATE, &rows);
		if (r == 0)
			r = owned_rows_del(ns, owner, &rows);
		owned_rows_release(&rows);
		if (r == 0)
			r = ns_record_del(ns, RECORD_SNAPSHOT, c->s.number, i + 1);
	}
	if (r < 0)
		log_warn("rows of snapshot '%s', which was given up, are left: %s", c->s.name,
		        strerror(-r));
}

int capture_rows(struct capture *c)
{
	uint64_t i = 0;
	int r = 0;

	vfs_collect_rows(c->m->vfs, 0);
	c->s.time_ns = c->time_ns ? c->time_ns : clock_wall_ns();
	while (r == 0 && i < c->s.n_images)
		r = capture_image(c, i++);
	if (r == 0)
		r = snapshot_put(c->m->ds->ns, &c->s);
	if (r == 0)
		r = audit_note(
		        c->m, c->who, c->action, c->s.scope, c->target, c->s.name, NULL, NULL);
	if (r < 0)
		capture_undo(c, i);
	return r;
}

/*
 * iosim-node.c - files, directories and their names
 *
 * A node lives while something refers to it: a visible name, a durable name, a pending operation on
 * a name, an open file.  So an unlinked file keeps its content for who holds it open, and a file
 * whose unlink is not durable yet can come back after a power loss.  The caller holds the disk's
 * lock.
 */
#include <string.h>

#include "sim/iosim-int.h"

static char *name_copy(const char *name)
{
	char *p = strdup(name);

	ASSERT(p);
	return p;
}

struct node *node_new(bool is_dir)
{
	struct node *n = xcalloc(1, sizeof(*n));

	n->refs = 1;
	n->is_dir = is_dir;
	return n;
}

struct node *node_ref(struct node *n)
{
	if (n)
		n->refs++;
	return n;
}

void node_unref(struct node *n)
{
	if (!n || --n->refs > 0)
		return;
	node_changes_clear(n);
	free(n->changes);
	content_release(&n->cached);
	content_release(&n->durable);
	table_release(&n->names);
	table_release(&n->durable_names);
	free(n);
}

/* Takes ownership of the blob reference. */
void node_change_add(struct node *n, const struct change *ch)
{
	if (n->n_changes == n->cap_changes) {
		n->cap_changes = MAX(n->cap_changes * 2, (size_t)8);
		n->changes = realloc(n->changes, n->cap_changes * sizeof(*n->changes));
		ASSERT(n->changes);
	}
	n->changes[n->n_changes++] = *ch;
}

void node_changes_clear(struct node *n)
{
	for (size_t i = 0; i < n->n_changes; i++)
		blob_unref(n->changes[i].blob);
	n->n_changes = 0;
}

static struct entry *table_entry(const struct table *t, const char *name)
{
	for (size_t i = 0; i < t->n; i++)
		if (!strcmp(t->entries[i].name, name))
			return &t->entries[i];
	return NULL;
}

struct node *table_get(const struct table *t, const char *name)
{
	const struct entry *e = table_entry(t, name);
	return e ? e->node : NULL;
}

void table_set(struct table *t, const char *name, struct node *n)
{
	struct entry *e = table_entry(t, name);

	node_ref(n);
	if (e) {
		node_unref(e->node);
		e->node = n;
		return;
	}
	if (t->n == t->cap) {
		t->cap = MAX(t->cap * 2, (size_t)8);
		t->entries = realloc(t->entries, t->cap * sizeof(*t->entries));
		ASSERT(t->entries);
	}
	t->entries[t->n++] = (struct entry){name_copy(name), n};
}

void table_del(struct table *t, const char *name)
{
	struct entry *e = table_entry(t, name);

	if (!e)
		return;
	struct node *n = e->node;
	free(e->name);
	*e = t->entries[--t->n];
	node_unref(n);
}

void table_copy(struct table *dst, const struct table *src)
{
	struct table t = {0};

	for (size_t i = 0; i < src->n; i++)
		table_set(&t, src->entries[i].name, src->entries[i].node);
	table_release(dst);
	*dst = t;
}

void table_release(struct table *t)
{
	const struct table old = *t;

	*t = (struct table){0};
	for (size_t i = 0; i < old.n; i++) {
		free(old.entries[i].name);
		node_unref(old.entries[i].node);
	}
	free(old.entries);
}

bool dir_op_touches(const struct dir_op *op, const struct node *dir)
{
	return op->dir == dir || op->from_dir == dir;
}

static bool same_name(
        const struct node *dir_a, const char *a, const struct node *dir_b, const char *b)
{
	return a && b && dir_a == dir_b && !strcmp(a, b);
}

bool dir_op_conflicts(const struct dir_op *a, const struct dir_op *b)
{
	return same_name(a->dir, a->name, b->dir, b->name) ||
	       same_name(a->dir, a->name, b->from_dir, b->from) ||
	       same_name(a->from_dir, a->from, b->dir, b->name) ||
	       same_name(a->from_dir, a->from, b->from_dir, b->from);
}

void dir_op_apply_durable(const struct dir_op *op)
{
	if (op->from)
		table_del(&op->from_dir->durable_names, op->from);
	if (op->node)
		table_set(&op->dir->durable_names, op->name, op->node);
	else
		table_del(&op->dir->durable_names, op->name);
}

void dir_op_release(struct dir_op *op)
{
	node_unref(op->dir);
	node_unref(op->node);
	node_unref(op->from_dir);
	free(op->name);
	free(op->from);
}

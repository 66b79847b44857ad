/*
 * snapview-tree.c - what snapshots there are, and what is in them
 *
 * The *catalog* is the list of all snapshots; the *tree* of a name is made from the paths of all images
 * of all snapshots that have it.  Both are made when they are needed, constant then, and counted: who
 * walks one keeps it.  The catalog and the last few trees are kept until the source says that
 * something changed.
 *
 * Paths come from records and are checked like all that comes from a disk: what cannot be a path, or
 * runs through another image as if that were a directory, is left out, and the log says so.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "fs/vfs/snapview-private.h"

#define DEPTH_MAX 256u
#define NODES_MAX (1u << 30)

/* --- the catalog --- */

void catalog_free(struct catalog *c)
{
	if (!c)
		return;
	for (size_t i = 0; i < c->n; i++)
		free(c->items[i].name);
	free(c->items);
	free(c->names);
	free(c);
}

static void catalog_freep(struct catalog **c)
{
	catalog_free(*c);
}

static bool name_valid(const char *name, size_t len)
{
	if (len == 0 || len > NS_NAME_MAX)
		return false;
	return name[0] != '.' || (len != 1 && (len != 2 || name[1] != '.'));
}

static int catalog_add(void *arg, uint64_t number, const char *name, const struct timespec *time)
{
	struct catalog *c = arg;

	if (strchr(name, '/') || !name_valid(name, strlen(name))) {
		log_warn("snapshot %llu has no valid name: not shown", (unsigned long long)number);
		return 0;
	}
	if (c->n == c->cap) {
		const size_t cap = c->cap ? c->cap * 2 : 16;
		void *items = realloc(c->items, cap * sizeof(*c->items));
		if (!items)
			return -ENOMEM;
		c->items = items;
		c->cap = cap;
	}
	char *copy = strdup(name);
	if (!copy)
		return -ENOMEM;
	c->items[c->n++] = (struct catalog_item){number, copy, *time};
	return 0;
}

static int number_compare(uint64_t a, uint64_t b)
{
	return (a > b) - (a < b);
}

static int item_compare(const void *a, const void *b)
{
	const struct catalog_item *x = a, *y = b;
	const int r = strcmp(x->name, y->name);

	return r ? r : number_compare(x->number, y->number);
}

static int first_compare(const void *a, const void *b)
{
	const struct catalog_item *const *x = a, *const *y = b;

	return number_compare((*x)->number, (*y)->number);
}

static int catalog_read(struct snapview *sv, uint64_t changes, struct catalog **ret_catalog)
{
	CLEANUP(catalog_freep) struct catalog *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	c->refs = 1;
	c->changes = changes;
	const int r = sv->source.each(sv->source.arg, catalog_add, c);
	if (r < 0)
		return r;
	c->names = calloc(c->n + 1, sizeof(*c->names));
	if (!c->names)
		return -ENOMEM;
	if (c->n > 1)
		qsort(c->items, c->n, sizeof(*c->items), item_compare);
	for (size_t i = 0; i < c->n; i++)
		if (i == 0 || strcmp(c->items[i - 1].name, c->items[i].name))
			c->names[c->n_names++] = &c->items[i];
	qsort(c->names, c->n_names, sizeof(*c->names), first_compare);
	*ret_catalog = STEAL(c);
	return 0;
}

void catalog_put(struct snapview *sv, struct catalog *c)
{
	pthread_mutex_lock(&sv->lock);
	const bool last = --c->refs == 0;
	pthread_mutex_unlock(&sv->lock);
	if (last)
		catalog_free(c);
}

int catalog_get(struct snapview *sv, struct catalog **ret_catalog)
{
	const uint64_t changes = sv->source.changes(sv->source.arg);
	struct catalog *c, *old;

	pthread_mutex_lock(&sv->lock);
	c = sv->catalog && sv->catalog->changes == changes ? sv->catalog : NULL;
	if (c)
		c->refs++;
	pthread_mutex_unlock(&sv->lock);
	if (c) {
		*ret_catalog = c;
		return 0;
	}
	const int r = catalog_read(sv, changes, &c);
	if (r < 0)
		return r;
	pthread_mutex_lock(&sv->lock);
	old = sv->catalog;
	sv->catalog = c;
	c->refs++;
	pthread_mutex_unlock(&sv->lock);
	if (old)
		catalog_put(sv, old);
	*ret_catalog = c;
	return 0;
}

/* The first snapshot of that name; the others follow it. */
static const struct catalog_item *catalog_find(
        const struct catalog *c, const char *name, size_t len)
{
	size_t lo = 0, hi = c->n;

	while (lo < hi) {
		const size_t mid = lo + (hi - lo) / 2;
		const char *other = c->items[mid].name;
		const int r = strncmp(other, name, len);
		if (r < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	/* Those that it begins: a shorter name comes before. */
	const bool found =
	        lo < c->n && !strncmp(c->items[lo].name, name, len) && !c->items[lo].name[len];
	return found ? &c->items[lo] : NULL;
}

/* --- making a tree --- */

void tree_free(struct tree *t)
{
	if (!t)
		return;
	for (size_t i = 0; i < t->n_images; i++)
		free(t->images[i].path);
	free(t->images);
	free(t->name);
	free(t->nodes);
	free(t->children);
	free(t);
}

static void tree_freep(struct tree **t)
{
	tree_free(*t);
}

static bool path_valid(const char *path)
{
	unsigned depth = 0;

	for (;;) {
		const size_t len = strcspn(path, "/");
		if (!name_valid(path, len) || ++depth > DEPTH_MAX)
			return false;
		if (!path[len])
			return true;
		path += len + 1;
	}
}

static int tree_add(void *arg, const struct snapview_image *img)
{
	struct tree *t = arg;

	if (!path_valid(img->path)) {
		log_warn("snapshot '%s': inode %llu has no valid path in it: not shown", t->name,
		        (unsigned long long)img->inode.ino);
		return 0;
	}
	if (t->n_images == t->images_cap) {
		const size_t cap = t->images_cap ? t->images_cap * 2 : 16;
		void *images = realloc(t->images, cap * sizeof(*t->images));
		if (!images)
			return -ENOMEM;
		t->images = images;
		t->images_cap = cap;
	}
	char *path = strdup(img->path);
	if (!path)
		return -ENOMEM;
	t->images[t->n_images++] = (struct tree_image){t->adding, img->key, path, img->inode};
	return 0;
}

/* By path, names one by one: what lies in a directory lies together. */
static int path_compare(const char *a, const char *b)
{
	while (*a && *a == *b) {
		a++;
		b++;
	}
	const int x = *a == '/' ? 1 : (unsigned char)*a + (*a ? 1 : 0);
	const int y = *b == '/' ? 1 : (unsigned char)*b + (*b ? 1 : 0);
	return x - y;
}

static int image_compare(const void *a, const void *b)
{
	const struct tree_image *x = a, *y = b;
	const int r = path_compare(x->path, y->path);

	return r ? r : (x->number > y->number) - (x->number < y->number);
}

static int node_add(struct tree *t, const struct node *n, uint32_t *ret_node)
{
	if (t->n_nodes == NODES_MAX)
		return -EFBIG;
	if (t->n_nodes == t->nodes_cap) {
		const uint32_t cap = t->nodes_cap ? t->nodes_cap * 2 : 32;
		void *nodes = realloc(t->nodes, cap * sizeof(*t->nodes));
		if (!nodes)
			return -ENOMEM;
		t->nodes = nodes;
		t->nodes_cap = cap;
	}
	*ret_node = t->n_nodes;
	t->nodes[t->n_nodes++] = *n;
	return 0;
}

static bool node_is(const struct node *n, const char *name, size_t len)
{
	return n->name_len == len && !memcmp(n->name, name, len);
}

/* The nodes of one path; chain: those of the path before, chain[0] the tree's own. */
static int path_add(struct tree *t, uint32_t image, uint32_t *chain, unsigned *depth)
{
	const char *at = t->images[image].path;
	unsigned d = 0;
	int r = 0;

	while (!r) {
		const size_t len = strcspn(at, "/");
		const bool last = !at[len];
		if (d < *depth && node_is(&t->nodes[chain[d + 1]], at, len)) {
			if (last || !t->nodes[chain[d + 1]].is_dir)
				return -EUCLEAN;
		} else {
			const struct node n = {.name = at,
			        .name_len = (uint32_t)len,
			        .parent = chain[d],
			        .image = image,
			        .is_dir = !last};
			r = node_add(t, &n, &chain[d + 1]);
			*depth = d + 1;
		}
		d++;
		if (last)
			break;
		at += len + 1;
	}
	return r;
}

static int tree_nodes(struct tree *t)
{
	CLEANUP(free_ptr) uint32_t *chain = calloc(DEPTH_MAX + 1, sizeof(*chain));
	unsigned depth = 0;

	if (!chain)
		return -ENOMEM;
	int r = node_add(t, &(struct node){.name = "", .is_dir = true}, &chain[0]);
	for (size_t i = 0; i < t->n_images && !r; i++) {
		r = path_add(t, (uint32_t)i, chain, &depth);
		if (r == -EUCLEAN) {
			log_warn("snapshot '%s': '%s' is there twice, or below a file: not shown",
			        t->name, t->images[i].path);
			r = 0;
		}
	}
	return r;
}

/*
 * Nodes are made in order of path, so the children of a directory come in order of name; only what
 * lies below each of them comes between.  Counted, then dealt out.
 */
static int tree_children(struct tree *t)
{
	uint32_t at = 0;

	t->children = calloc(t->n_nodes, sizeof(*t->children));
	if (!t->children)
		return -ENOMEM;
	for (uint32_t i = 1; i < t->n_nodes; i++)
		t->nodes[t->nodes[i].parent].n++;
	for (uint32_t i = 0; i < t->n_nodes; i++) {
		t->nodes[i].first = at;
		at += t->nodes[i].n;
		t->nodes[i].n = 0;
	}
	for (uint32_t i = 1; i < t->n_nodes; i++) {
		struct node *dir = &t->nodes[t->nodes[i].parent];
		t->children[dir->first + dir->n++] = i;
	}
	return 0;
}

static int tree_make(struct snapview *sv, const struct catalog *c, const struct catalog_item *first,
        struct tree **ret_tree)
{
	CLEANUP(tree_freep) struct tree *t = calloc(1, sizeof(*t));
	int r = 0;

	if (!t)
		return -ENOMEM;
	t->refs = 1;
	t->changes = c->changes;
	t->time = first->time;
	t->name = strdup(first->name);
	if (!t->name)
		return -ENOMEM;
	for (const struct catalog_item *i = first; i < c->items + c->n && !r; i++) {
		if (strcmp(i->name, first->name))
			break;
		t->adding = i->number;
		r = sv->source.images(sv->source.arg, i->number, tree_add, t);
		if (r == -ENOENT)
			r = 0; /* deleted just now */
	}
	if (r < 0)
		return r;
	if (t->n_images > 1)
		qsort(t->images, t->n_images, sizeof(*t->images), image_compare);
	r = tree_nodes(t);
	if (!r)
		r = tree_children(t);
	if (!r)
		*ret_tree = STEAL(t);
	return r;
}

/* --- trees that are kept --- */

void tree_put(struct snapview *sv, struct tree *t)
{
	pthread_mutex_lock(&sv->lock);
	const bool last = --t->refs == 0;
	pthread_mutex_unlock(&sv->lock);
	if (last)
		tree_free(t);
}

/* Gives a reference; NULL: none of that name as of then. */
static struct tree *kept_find(struct snapview *sv, const char *name, uint64_t changes)
{
	struct tree *found = NULL;

	pthread_mutex_lock(&sv->lock);
	for (unsigned i = 0; i < TREES_KEPT && !found; i++) {
		struct tree *t = sv->kept[i];
		if (t && t->changes == changes && !strcmp(t->name, name))
			found = t;
	}
	if (found) {
		found->refs++;
		found->used = ++sv->clock;
	}
	pthread_mutex_unlock(&sv->lock);
	return found;
}

/* In place of an outdated one, or the one that was not used for the longest time. */
static void kept_add(struct snapview *sv, struct tree *t)
{
	struct tree **at = &sv->kept[0];

	pthread_mutex_lock(&sv->lock);
	for (unsigned i = 0; i < TREES_KEPT && *at; i++) {
		struct tree *other = sv->kept[i];
		if (!other || other->changes != t->changes || other->used < (*at)->used)
			at = &sv->kept[i];
	}
	struct tree *old = *at;
	t->refs++;
	t->used = ++sv->clock;
	*at = t;
	pthread_mutex_unlock(&sv->lock);
	if (old)
		tree_put(sv, old);
}

static int tree_of_catalog(struct snapview *sv, const struct catalog *c, const char *name,
        size_t len, struct tree **ret_tree)
{
	const struct catalog_item *first = catalog_find(c, name, len);

	if (!first)
		return -ENOENT;
	struct tree *t = kept_find(sv, first->name, c->changes);
	if (!t) {
		const int r = tree_make(sv, c, first, &t);
		if (r < 0)
			return r;
		kept_add(sv, t);
	}
	*ret_tree = t;
	return 0;
}

static int name_compare(const struct node *n, const char *name, size_t len)
{
	const int r = memcmp(n->name, name, MIN(n->name_len, len));

	return r ? r : (n->name_len > len) - (n->name_len < len);
}

static const struct node *child_find(
        const struct tree *t, const struct node *dir, const char *name, size_t len)
{
	uint32_t lo = dir->first, hi = dir->first + dir->n;

	while (lo < hi) {
		const uint32_t mid = lo + (hi - lo) / 2;
		const struct node *n = &t->nodes[t->children[mid]];
		const int r = name_compare(n, name, len);
		if (r == 0)
			return n;
		if (r < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return NULL;
}

int tree_find(
        struct snapview *sv, const char *path, struct tree **ret_tree, const struct node **ret_node)
{
	size_t len = strcspn(path, "/");
	struct catalog *c = NULL;
	struct tree *t = NULL;
	int r = catalog_get(sv, &c);

	if (r < 0)
		return r;
	r = tree_of_catalog(sv, c, path, len, &t);
	catalog_put(sv, c);
	if (r < 0)
		return r;
	const struct node *n = t->nodes;
	while (n && path[len]) {
		path += len + 1;
		len = strcspn(path, "/");
		n = n->is_dir ? child_find(t, n, path, len) : NULL;
	}
	if (!n) {
		tree_put(sv, t);
		return -ENOENT;
	}
	*ret_tree = t;
	*ret_node = n;
	return 0;
}

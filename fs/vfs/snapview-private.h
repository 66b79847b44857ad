/*
 * snapview-private.h - the catalog of snapshots and the trees of their files; private to the view
 */
#pragma once

#include "fs/vfs/vnode.h"

#define TREES_KEPT 8u

struct catalog_item {
	uint64_t number;
	char *name; /* owned */
	struct timespec time;
};

struct catalog {
	unsigned refs;    /* snapview.lock */
	uint64_t changes; /* of the source, when it was read */
	size_t n, cap;
	struct catalog_item *items; /* owned; by name, then number */
	/* Owned; of each name the first item, by number. */
	const struct catalog_item **names;
	size_t n_names;
};

struct tree_image {
	uint64_t number; /* of the snapshot */
	uint64_t key;    /* in it */
	char *path;      /* owned */
	struct ns_inode inode;
};

struct node {
	const char *name; /* in the path of its first image; not terminated */
	uint32_t name_len;
	uint32_t parent;
	uint32_t first, n; /* directories: children[first .. first + n) */
	uint32_t image;    /* in images[]; directories: one below */
	bool is_dir;
};

struct tree {
	unsigned refs;             /* snapview.lock */
	uint64_t changes, used;    /* used: snapview.lock */
	char *name;                /* owned; of the snapshots */
	struct timespec time;      /* of the first of them */
	uint64_t adding;           /* while it is made: the snapshot */
	struct tree_image *images; /* owned; by path */
	size_t n_images, images_cap;
	struct node *nodes; /* owned; [0]: the directory NAME */
	uint32_t n_nodes, nodes_cap;
	uint32_t *children; /* owned; nodes, by parent and name */
};

struct snapview {
	struct snapview_source source;
	uint64_t secret;
	pthread_mutex_t lock;
	struct catalog *catalog;       /* referenced; NULL: none was read yet */
	struct tree *kept[TREES_KEPT]; /* each referenced */
	uint64_t clock;
};

struct snapview_node {
	uint64_t number; /* files: of the snapshot; directories: 0 */
	uint64_t key;    /* files: of the image in it; snapview_image.key */
	char path[];     /* "NAME/dir/file"; a file's may be an earlier one */
};

/* --- snapview-tree.c --- */
void catalog_free(struct catalog *c); /* accepts NULL */
/* As of now; gives a reference. */
int catalog_get(struct snapview *sv, struct catalog **ret_catalog) MUST_CHECK;
void catalog_put(struct snapview *sv, struct catalog *c);

void tree_free(struct tree *t); /* accepts NULL */
/* The node that a path in the view leads to, now, and its tree, referenced; -ENOENT. */
int tree_find(struct snapview *sv, const char *path, struct tree **ret_tree,
        const struct node **ret_node) MUST_CHECK;
void tree_put(struct snapview *sv, struct tree *t);

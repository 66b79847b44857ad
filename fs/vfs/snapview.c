/*
 * snapview.c - snapshots as directories
 *
 * Inodes of the view are vnodes in the cache like all others, so that what is done with inodes and
 * open files is done with them, too: only where rows would be asked the view is asked instead.
 * They come to be by being looked up, and hold what they were looked up as: a directory its path in the view,
 * a file its snapshot and image.  The number is a hash of that, with a secret that is new
 * at each mount, so nothing has to be remembered for the kernel; a number that is not in the cache
 * cannot be found again and is stale.
 *
 * A file is read through what its bytes depend on of the stack that its image had then (vfs_filters.open).
 *
 * A snapshot that is deleted: its name is gone at once (nobody caches it); a file that was looked up
 * before is -ESTALE when it is opened; one that is open stays readable until it is closed (its
 * handle keeps what it shows).
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "fs/vfs/snapview-private.h"

#define VIEW_BIT  (1ull << 63)
#define HASH_BIT  (1ull << 62) /* so that no hash is one of these: */
#define INO_TOP   (VIEW_BIT | 1)
#define INO_LIST  (VIEW_BIT | 2)
#define LIST_NAME "snapshots"

/* Offsets of entries: after those of "." and "..". */
#define OFF_FIRST 3u

/* --- life --- */

int vfs_set_snapshots(struct vfs *v, const struct snapview_source *source)
{
	struct snapview *sv = NULL;

	if (source) {
		sv = calloc(1, sizeof(*sv));
		if (!sv)
			return -ENOMEM;
		sv->source = *source;
		pthread_mutex_init(&sv->lock, NULL);
		if (getrandom(&sv->secret, sizeof(sv->secret), 0) != sizeof(sv->secret)) {
			snapview_free(sv);
			return -EIO;
		}
	}
	snapview_free(v->snapview);
	v->snapview = sv;
	return 0;
}

void snapview_free(struct snapview *sv)
{
	if (!sv)
		return;
	catalog_free(sv->catalog);
	for (unsigned i = 0; i < TREES_KEPT; i++)
		tree_free(sv->kept[i]);
	pthread_mutex_destroy(&sv->lock);
	free(sv);
}

void snapview_node_free(struct snapview_node *sn)
{
	free(sn);
}

/* --- inodes --- */

static uint64_t dir_ino(const struct snapview *sv, const char *path)
{
	return XXH3_64bits_withSeed(path, strlen(path), sv->secret) | VIEW_BIT | HASH_BIT;
}

/*
 * By what it is, not by its path: another may come to have that, and a snapshot that is renamed has
 * the same files still.
 */
static uint64_t file_ino(const struct snapview *sv, uint64_t key)
{
	return XXH3_64bits_withSeed(&key, sizeof(key), ~sv->secret) | VIEW_BIT | HASH_BIT;
}

uint64_t vfs_snapshot_inode(const struct vfs *v, uint64_t key)
{
	return v->snapview ? file_ino(v->snapview, key) : 0;
}

/* A directory: its owner is the root's, and nobody else gets in at the top. */
static int dir_inode(
        struct vfs *v, uint64_t ino, const struct timespec *time, struct ns_inode *ret_inode)
{
	struct ns_inode top;
	const int r = ns_inode_get(v->ns, NS_ROOT_INO, &top);

	if (r < 0)
		return r;
	const struct timespec t = time ? *time : top.btime;
	*ret_inode = (struct ns_inode){
	        .ino = ino,
	        .mode = S_IFDIR | (ino == INO_TOP ? 0500 : 0555),
	        .uid = top.uid,
	        .gid = top.gid,
	        .nlink = 1, /* how many directories are in it is not told */
	        .parent = ino == INO_TOP ? NS_ROOT_INO : INO_TOP,
	        .atime = t,
	        .mtime = t,
	        .ctime = t,
	        .btime = t,
	        .generation = 1,
	};
	return 0;
}

/* As it was, but for what would let it be written or run as somebody. */
static struct ns_inode file_inode(const struct tree_image *img, uint64_t ino)
{
	struct ns_inode n = img->inode;

	n.ino = ino;
	n.mode = S_IFREG | (n.mode & 0555);
	n.nlink = 1;
	n.parent = 0;
	n.size = MIN(n.size, IMAGE_SIZE_MAX);
	n.generation = 1;
	return n;
}

static int top_get(struct vfs *v, uint64_t ino, struct vnode **ret_vn)
{
	struct ns_inode inode;
	const int r = dir_inode(v, ino, NULL, &inode);

	return r < 0 ? r : vnode_get_view(v, &inode, NULL, ret_vn);
}

/* The vnode of a node; path is its own in the view. */
static int node_vnode(struct vfs *v, const struct tree *t, const struct node *n, const char *path,
        struct vnode **ret_vn)
{
	const struct tree_image *img = n->is_dir ? NULL : &t->images[n->image];
	const size_t len = strlen(path) + 1;
	CLEANUP(free_ptr) struct snapview_node *sn = calloc(1, sizeof(*sn) + len);
	struct ns_inode inode;
	int r = 0;

	if (!sn)
		return -ENOMEM;
	memcpy(sn->path, path, len);
	if (img) {
		sn->number = img->number;
		sn->key = img->key;
	}
	if (img)
		inode = file_inode(img, file_ino(v->snapview, img->key));
	else
		r = dir_inode(v, dir_ino(v->snapview, path), &t->time, &inode);
	if (r < 0)
		return r;
	r = vnode_get_view(v, &inode, sn, ret_vn);
	if (r < 0)
		return r;
	const struct snapview_node *there = (*ret_vn)->snap;
	if (there == sn) {
		STEAL(sn);
	} else if (there->number != sn->number || there->key != sn->key ||
	           (!img && strcmp(there->path, path) != 0)) {
		vnode_put(v, *ret_vn);
		return -EIO; /* two of one hash: at most once in the life of a universe */
	}
	return 0;
}

static int path_vnode(struct vfs *v, const char *path, struct vnode **ret_vn)
{
	const struct node *n = NULL;
	struct tree *t = NULL;
	int r = tree_find(v->snapview, path, &t, &n);

	if (r < 0)
		return r;
	r = node_vnode(v, t, n, path, ret_vn);
	tree_put(v->snapview, t);
	return r;
}

/* --- names --- */

/* "dir/name"; malloc'ed. */
static char *path_join(const struct snapview_node *dir, const char *name, size_t len)
{
	const char *above = dir ? dir->path : "";
	char *path = malloc(strlen(above) + 1 + len + 1);

	if (path)
		sprintf(path, "%s%s%.*s", above, above[0] ? "/" : "", (int)len, name);
	return path;
}

static int lookup_in(struct vfs *v, struct vnode *dir, const char *name, struct vnode **ret_vn)
{
	if (!S_ISDIR(dir->type))
		return -ENOTDIR;
	if (dir->ino == INO_TOP)
		return strcmp(name, LIST_NAME) ? -ENOENT : top_get(v, INO_LIST, ret_vn);
	CLEANUP(free_ptr) char *path = path_join(dir->snap, name, strlen(name));
	return path ? path_vnode(v, path, ret_vn) : -ENOMEM;
}

int snapview_lookup(struct vfs *v, uint64_t dir_ino, const char *name, struct vnode **ret_vn)
{
	struct vnode *dir;
	int r = vnode_get(v, dir_ino, &dir);

	if (r < 0)
		return r;
	r = lookup_in(v, dir, name, ret_vn);
	vnode_put(v, dir);
	return r;
}

int snapview_parent(struct vfs *v, struct vnode *dir, struct vnode **ret_vn)
{
	if (dir->ino == INO_TOP)
		return vnode_get(v, NS_ROOT_INO, ret_vn);
	if (dir->ino == INO_LIST)
		return top_get(v, INO_TOP, ret_vn);
	const char *slash = strrchr(dir->snap->path, '/');
	if (!slash)
		return top_get(v, INO_LIST, ret_vn);
	const char *path = dir->snap->path;
	CLEANUP(free_ptr) char *above = path_join(NULL, path, (size_t)(slash - path));
	return above ? path_vnode(v, above, ret_vn) : -ENOMEM;
}

static bool is_top(struct vfs *v, uint64_t dir, const char *name)
{
	return UNLIKELY(dir == NS_ROOT_INO && v->snapview && !strcmp(name, SNAPVIEW_NAME));
}

int snapview_top(struct vfs *v, uint64_t dir, const char *name, struct vnode **ret_vn)
{
	return is_top(v, dir, name) ? top_get(v, INO_TOP, ret_vn) : -ENOENT;
}

int snapview_refuse(struct vfs *v, uint64_t dir, const char *name)
{
	uint64_t ino;
	uint32_t mode;

	if (vfs_is_snapshot(dir))
		return -EROFS;
	if (!is_top(v, dir, name))
		return 0;
	/* One that was made before there was a view can be moved away. */
	const int r = ns_name_get(v->ns, dir, name, &ino, &mode);
	return r == -ENOENT ? -EROFS : r;
}

/* --- listing --- */

static int emit(struct snapview *sv, const struct snapview_node *dir, const struct tree *t,
        const struct node *n, uint64_t off, vfs_dirent_fn *fn, void *arg)
{
	char name[NS_NAME_MAX + 1];
	CLEANUP(free_ptr) char *path = path_join(dir, n->name, n->name_len);

	if (!path)
		return -ENOMEM;
	memcpy(name, n->name, n->name_len);
	name[n->name_len] = 0;
	const struct tree_image *img = n->is_dir ? NULL : &t->images[n->image];
	const struct vfs_dirent ent = {
	        .name = name,
	        .ino = img ? file_ino(sv, img->key) : dir_ino(sv, path),
	        .mode = img ? S_IFREG : S_IFDIR,
	        .off = off,
	};
	return fn(arg, &ent) ? 1 : 0;
}

static int readdir_tree(struct snapview *sv, const struct snapview_node *dir, uint64_t off,
        vfs_dirent_fn *fn, void *arg)
{
	const struct node *d = NULL;
	struct tree *t = NULL;
	int r = tree_find(sv, dir->path, &t, &d);

	if (r < 0)
		return r == -ENOENT ? 0 : r; /* gone: empty, like a removed directory */
	for (uint64_t i = off < OFF_FIRST ? 0 : off - OFF_FIRST + 1; i < d->n && !r; i++)
		r = emit(sv, dir, t, &t->nodes[t->children[d->first + i]], OFF_FIRST + i, fn, arg);
	tree_put(sv, t);
	return MIN(r, 0);
}

static int readdir_list(struct snapview *sv, uint64_t off, vfs_dirent_fn *fn, void *arg)
{
	struct catalog *c;
	const int r = catalog_get(sv, &c);

	if (r < 0)
		return r;
	for (size_t i = 0; i < c->n_names; i++) {
		const struct catalog_item *item = c->names[i];
		const struct vfs_dirent ent = {
		        .name = item->name,
		        .ino = dir_ino(sv, item->name),
		        .mode = S_IFDIR,
		        .off = OFF_FIRST + item->number,
		};
		if (ent.off > off && fn(arg, &ent))
			break;
	}
	catalog_put(sv, c);
	return 0;
}

int snapview_readdir(struct vfs *v, struct vnode *dir, uint64_t off, vfs_dirent_fn *fn, void *arg)
{
	const struct vfs_dirent list = {LIST_NAME, INO_LIST, S_IFDIR, OFF_FIRST};

	if (dir->ino == INO_LIST)
		return readdir_list(v->snapview, off, fn, arg);
	if (dir->ino != INO_TOP)
		return readdir_tree(v->snapview, dir->snap, off, fn, arg);
	if (off < OFF_FIRST)
		fn(arg, &list);
	return 0;
}

/* --- content --- */

int snapview_open(struct vfs *v, struct vnode *vn, struct image **ret_image)
{
	const struct snapview_source *s = &v->snapview->source;
	const int r = s->open(s->arg, vn->snap->number, vn->snap->key, ret_image);

	return r == -ENOENT ? -ESTALE : r;
}

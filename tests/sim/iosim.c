/*
 * iosim.c - the simulated disk's table of functions
 *
 * Every mutating call has the same shape, under the disk's one lock: look up, refuse bad arguments,
 * ask sim_fate() what happens at this step, change what is visible (cached content, visible names)
 * and note the same change as pending.  Durable content and names change only in sync, sync_dir
 * and in iosim-crash.c.
 *
 * Misuse that the page cache of a developer's machine would forgive is refused here: unaligned
 * IO_DIRECT transfers, writing through a read-only handle, closing a disk with open files.
 */
#include <errno.h>
#include <string.h>

#include "sim/iosim-int.h"

static struct sim_file *file_of(struct io_file *f)
{
	return CONTAINER_OF(f, struct sim_file, base);
}

/* --- names --- */

int sim_walk(struct iosim *s, const char *name, struct node **ret_dir, const char **ret_last)
{
	struct node *dir = s->root;
	char part[SIM_NAME_MAX];

	for (const char *slash; (slash = strchr(name, '/')); name = slash + 1) {
		const size_t len = (size_t)(slash - name);
		if (len >= sizeof(part))
			return -ENAMETOOLONG;
		memcpy(part, name, len);
		part[len] = 0;
		dir = table_get(&dir->names, part);
		if (!dir)
			return -ENOENT;
		if (!dir->is_dir)
			return -ENOTDIR;
	}
	if (!*name)
		return -ENOENT;
	*ret_dir = dir;
	*ret_last = name;
	return 0;
}

struct node *sim_find(struct iosim *s, const char *name)
{
	struct node *dir = NULL;
	const char *last = NULL;

	if (!*name)
		return s->root;
	return sim_walk(s, name, &dir, &last) < 0 ? NULL : table_get(&dir->names, last);
}

static char *name_dup(const char *name)
{
	char *p = name ? strdup(name) : NULL;

	ASSERT(!name || p);
	return p;
}

/* dir/name becomes node, visibly; pending on the disk.  from NULL: no rename. */
static void names_change(struct iosim *s, struct node *dir, const char *name, struct node *node,
        struct node *from_dir, const char *from)
{
	if (s->n_dir_ops == s->cap_dir_ops) {
		s->cap_dir_ops = MAX(s->cap_dir_ops * 2, (size_t)16);
		s->dir_ops = realloc(s->dir_ops, s->cap_dir_ops * sizeof(*s->dir_ops));
		ASSERT(s->dir_ops);
	}
	s->dir_ops[s->n_dir_ops++] = (struct dir_op){
	        .dir = node_ref(dir),
	        .name = name_dup(name),
	        .node = node_ref(node),
	        .from_dir = node_ref(from_dir),
	        .from = name_dup(from),
	};
	struct node *old = table_get(&dir->names, name);
	if (old && --old->links == 0 && old->handles == 0)
		s->used_pages -= old->cached.allocated;
	if (from)
		table_del(&from_dir->names, from);
	else if (node)
		node->links++;
	if (node)
		table_set(&dir->names, name, node);
	else
		table_del(&dir->names, name);
}

/* --- content --- */

/* Takes ownership of the change's blob. */
static void content_change(struct iosim *s, struct node *n, const struct change *ch)
{
	const uint64_t before = n->cached.allocated;

	change_apply(ch, &n->cached);
	s->used_pages += n->cached.allocated - before;
	node_change_add(n, ch);
}

static void file_truncate(struct iosim *s, struct node *n, uint64_t size)
{
	content_change(s, n, &(struct change){.kind = CHANGE_TRUNCATE, .len = size});
}

static int file_check(struct iosim *s, const struct sim_file *f, bool writing)
{
	if (s->is_off || f->boot != s->boot)
		return -EIO;
	return writing && !(f->flags & IO_WRITE) ? -EBADF : 0;
}

/* --- open files --- */

static int open_truncate(struct iosim *s, struct node *n, const char *name)
{
	bool died = false;
	const int r = sim_fate(s, IOSIM_TRUNCATE, name, NULL, 0, 0, &died);

	if (r == 0 || died)
		file_truncate(s, n, 0);
	return r;
}

static int open_create(struct iosim *s, struct node *dir, const char *last, const char *name,
        struct node **ret_node)
{
	bool died = false;
	const int r = sim_fate(s, IOSIM_CREATE, name, NULL, 0, 0, &died);

	if (r < 0 && !died)
		return r;
	struct node *n = node_new(false);
	names_change(s, dir, last, n, NULL, NULL);
	node_unref(n); /* the name holds it */
	*ret_node = n;
	return r;
}

static int open_node(struct iosim *s, const char *name, unsigned flags, struct node **ret_node)
{
	struct node *dir = NULL;
	const char *last = NULL;
	int r = s->is_off ? -EIO : sim_walk(s, name, &dir, &last);

	if (r < 0)
		return r;
	struct node *n = table_get(&dir->names, last);
	if (!n)
		return flags & IO_CREATE ? open_create(s, dir, last, name, ret_node) : -ENOENT;
	if (flags & IO_CREATE && flags & IO_EXCL)
		return -EEXIST;
	if (n->is_dir)
		return -EISDIR;
	*ret_node = n;
	return flags & IO_TRUNC && n->cached.size > 0 ? open_truncate(s, n, name) : 0;
}

static int sim_open(struct io *io, const char *name, unsigned flags, struct io_file **ret_file)
{
	struct iosim *s = sim_of(io);
	struct node *n = NULL;

	if (strlen(name) >= SIM_NAME_MAX)
		return -ENAMETOOLONG;
	pthread_mutex_lock(&s->lock);
	const int r = open_node(s, name, flags, &n);
	if (r == 0) {
		struct sim_file *f = xcalloc(1, sizeof(*f));
		f->base.io = io;
		f->node = node_ref(n);
		n->handles++;
		strcpy(f->name, name);
		f->flags = flags;
		f->boot = s->boot;
		s->n_open++;
		*ret_file = &f->base;
	}
	pthread_mutex_unlock(&s->lock);
	return r;
}

static void sim_close(struct io_file *file)
{
	struct sim_file *f = file_of(file);
	struct iosim *s = sim_of(file->io);

	pthread_mutex_lock(&s->lock);
	if (f->boot == s->boot && --f->node->handles == 0 && f->node->links == 0)
		s->used_pages -= f->node->cached.allocated;
	node_unref(f->node);
	s->n_open--;
	pthread_mutex_unlock(&s->lock);
	free(f);
}

/* --- transfers --- */

static bool is_misaligned(const struct sim_file *f, const void *buf, size_t len, uint64_t off)
{
	return f->flags & IO_DIRECT && ((uintptr_t)buf | len | off) % IO_ALIGN;
}

/* Sometimes less than was asked, never nothing. */
static size_t cut_short(struct iosim *s, const struct sim_file *f, size_t len)
{
	const size_t unit = f->flags & IO_DIRECT ? IO_ALIGN : 1;

	if (len <= unit || !rng_chance(&s->rng, s->short_permille))
		return len;
	return (1 + rng_below(&s->rng, len / unit)) * unit;
}

static int sim_pread(struct io_file *file, void *buf, size_t len, uint64_t off, size_t *ret_n)
{
	struct sim_file *f = file_of(file);
	struct iosim *s = sim_of(file->io);
	bool died = false;

	if (is_misaligned(f, buf, len, off))
		return -EINVAL;
	pthread_mutex_lock(&s->lock);
	int r = file_check(s, f, false);
	if (r == 0)
		r = sim_fate(s, IOSIM_READ, f->name, NULL, off, len, &died);
	if (r == 0)
		*ret_n = content_read(&f->node->cached, buf, cut_short(s, f, len), off);
	pthread_mutex_unlock(&s->lock);
	return r;
}

/* The write's bytes in one piece, for the caller to free. */
static uint8_t *gather(const struct iovec *iov, int n_iov, size_t *ret_len)
{
	size_t len = 0;

	for (int i = 0; i < n_iov; i++)
		len += iov[i].iov_len;
	uint8_t *data = xcalloc(1, len), *at = data;
	for (int i = 0; i < n_iov; i++) {
		memcpy(at, iov[i].iov_base, iov[i].iov_len);
		at += iov[i].iov_len;
	}
	*ret_len = len;
	return data;
}

static void write_some(
        struct iosim *s, struct node *n, const uint8_t *data, size_t len, uint64_t off)
{
	if (len > 0)
		content_change(s, n,
		        &(struct change){CHANGE_WRITE, off, len, .blob = blob_new(data, len)});
}

/* How many of the bytes there is room for. */
static size_t fit(const struct iosim *s, const struct node *n, size_t len, uint64_t off)
{
	const uint64_t capacity = s->capacity_bytes / SIM_PAGE;

	if (!s->capacity_bytes)
		return len;
	while (len > 0 && s->used_pages + content_holes(&n->cached, len, off) > capacity) {
		const size_t tail = (off + len) % SIM_PAGE;
		len -= MIN(len, tail ? tail : SIM_PAGE);
	}
	return len;
}

static int write_locked(
        struct iosim *s, struct sim_file *f, const uint8_t *data, uint64_t off, size_t *len)
{
	bool died = false;
	int r = file_check(s, f, true);

	if (r < 0 || *len == 0)
		return r;
	if (off > SIM_FILE_MAX || *len > SIM_FILE_MAX - off)
		return -EFBIG;
	r = sim_fate(s, IOSIM_WRITE, f->name, NULL, off, *len, &died);
	if (r < 0) {
		const size_t part = fit(s, f->node, sim_partial(s, *len), off);
		write_some(s, f->node, data, part, off);
		return r;
	}
	*len = fit(s, f->node, cut_short(s, f, *len), off);
	write_some(s, f->node, data, *len, off);
	return *len ? 0 : -ENOSPC;
}

static int sim_pwritev(
        struct io_file *file, const struct iovec *iov, int n_iov, uint64_t off, size_t *ret_n)
{
	struct sim_file *f = file_of(file);
	struct iosim *s = sim_of(file->io);
	size_t len = 0;

	for (int i = 0; i < n_iov; i++)
		if (is_misaligned(f, iov[i].iov_base, iov[i].iov_len, off))
			return -EINVAL;
	CLEANUP(free_ptr) uint8_t *data = gather(iov, n_iov, &len);
	pthread_mutex_lock(&s->lock);
	const int r = write_locked(s, f, data, off, &len);
	if (r == 0)
		*ret_n = len;
	pthread_mutex_unlock(&s->lock);
	return r;
}

static int sync_locked(struct iosim *s, struct sim_file *f)
{
	struct node *n = f->node;
	bool died = false;
	int r = file_check(s, f, false);

	if (r == 0)
		r = sim_fate(s, IOSIM_SYNC, f->name, NULL, 0, 0, &died);
	if (died)
		return r; /* still pending: iosim_crash decides */
	if (r < 0) {
		if (file_check(s, f, false) == 0)
			sim_sync_fail(s, n);
		return r;
	}
	for (size_t i = 0; i < n->n_changes; i++)
		change_apply(&n->changes[i], &n->durable);
	node_changes_clear(n);
	return 0;
}

static int sim_sync(struct io_file *file)
{
	struct iosim *s = sim_of(file->io);

	pthread_mutex_lock(&s->lock);
	const int r = sync_locked(s, file_of(file));
	pthread_mutex_unlock(&s->lock);
	return r;
}

static int file_change(
        struct io_file *file, enum iosim_op op, const struct change *ch, uint64_t off, uint64_t len)
{
	struct sim_file *f = file_of(file);
	struct iosim *s = sim_of(file->io);
	bool died = false;

	if (off > SIM_FILE_MAX || len > SIM_FILE_MAX - off)
		return -EFBIG;
	pthread_mutex_lock(&s->lock);
	int r = file_check(s, f, true);
	if (r == 0) {
		r = sim_fate(s, op, f->name, NULL, off, len, &died);
		if (r == 0 || died)
			content_change(s, f->node, ch);
	}
	pthread_mutex_unlock(&s->lock);
	return r;
}

static int sim_truncate(struct io_file *file, uint64_t size)
{
	const struct change ch = {.kind = CHANGE_TRUNCATE, .len = size};
	return file_change(file, IOSIM_TRUNCATE, &ch, 0, size);
}

static int sim_punch(struct io_file *file, uint64_t off, uint64_t len)
{
	const struct change ch = {.kind = CHANGE_PUNCH, .off = off, .len = len};
	return len == 0 ? -EINVAL : file_change(file, IOSIM_PUNCH, &ch, off, len);
}

static int sim_size(struct io_file *file, uint64_t *ret_size)
{
	struct sim_file *f = file_of(file);
	struct iosim *s = sim_of(file->io);

	pthread_mutex_lock(&s->lock);
	const int r = file_check(s, f, false);
	if (r == 0)
		*ret_size = f->node->cached.size;
	pthread_mutex_unlock(&s->lock);
	return r;
}

/* --- calls by name --- */

static int unlink_locked(struct iosim *s, const char *name)
{
	struct node *dir = NULL;
	const char *last = NULL;
	bool died = false;
	int r = s->is_off ? -EIO : sim_walk(s, name, &dir, &last);

	if (r < 0)
		return r;
	const struct node *n = table_get(&dir->names, last);
	if (!n || n->is_dir)
		return n ? -EISDIR : -ENOENT;
	r = sim_fate(s, IOSIM_UNLINK, name, NULL, 0, 0, &died);
	if (r == 0 || died)
		names_change(s, dir, last, NULL, NULL, NULL);
	return r;
}

static int sim_unlink(struct io *io, const char *name)
{
	struct iosim *s = sim_of(io);

	pthread_mutex_lock(&s->lock);
	const int r = unlink_locked(s, name);
	pthread_mutex_unlock(&s->lock);
	return r;
}

static int rename_locked(struct iosim *s, const char *from, const char *to)
{
	struct node *dir = NULL, *from_dir = NULL;
	const char *last = NULL, *from_last = NULL;
	bool died = false;
	int r = s->is_off ? -EIO : sim_walk(s, from, &from_dir, &from_last);

	if (r == 0)
		r = sim_walk(s, to, &dir, &last);
	if (r < 0)
		return r;
	struct node *n = table_get(&from_dir->names, from_last),
	            *old = table_get(&dir->names, last);
	if (!n)
		return -ENOENT;
	if (n == old)
		return 0;
	if (n->is_dir && !strncmp(from, to, strlen(from)) && to[strlen(from)] == '/')
		return -EINVAL;
	if (old && (old->is_dir || n->is_dir)) /* replacing directories: nobody needs it */
		return old->is_dir ? (n->is_dir ? -ENOTEMPTY : -EISDIR) : -ENOTDIR;
	r = sim_fate(s, IOSIM_RENAME, from, to, 0, 0, &died);
	if (r == 0 || died)
		names_change(s, dir, last, n, from_dir, from_last);
	return r;
}

static int sim_rename(struct io *io, const char *from, const char *to)
{
	struct iosim *s = sim_of(io);

	pthread_mutex_lock(&s->lock);
	const int r = rename_locked(s, from, to);
	pthread_mutex_unlock(&s->lock);
	return r;
}

static int mkdir_locked(struct iosim *s, const char *name)
{
	struct node *dir = NULL;
	const char *last = NULL;
	bool died = false;
	int r = s->is_off ? -EIO : sim_walk(s, name, &dir, &last);

	if (r < 0 || table_get(&dir->names, last))
		return r;
	r = sim_fate(s, IOSIM_MKDIR, name, NULL, 0, 0, &died);
	if (r < 0 && !died)
		return r;
	struct node *n = node_new(true);
	names_change(s, dir, last, n, NULL, NULL);
	node_unref(n);
	return r;
}

static int sim_mkdir(struct io *io, const char *name)
{
	struct iosim *s = sim_of(io);

	pthread_mutex_lock(&s->lock);
	const int r = mkdir_locked(s, name);
	pthread_mutex_unlock(&s->lock);
	return r;
}

static int find_dir(struct iosim *s, const char *name, struct node **ret_dir)
{
	struct node *n = sim_find(s, name);

	if (s->is_off)
		return -EIO;
	if (!n || !n->is_dir)
		return n ? -ENOTDIR : -ENOENT;
	*ret_dir = n;
	return 0;
}

static int sim_sync_dir(struct io *io, const char *name)
{
	struct iosim *s = sim_of(io);
	struct node *dir = NULL;
	bool died = false;

	pthread_mutex_lock(&s->lock);
	int r = find_dir(s, name, &dir);
	if (r == 0)
		r = sim_fate(s, IOSIM_SYNC_DIR, name, NULL, 0, 0, &died);
	if (r == 0)
		sim_sync_names(s, dir);
	pthread_mutex_unlock(&s->lock);
	return r;
}

/* fn is called on a copy of the names, unlocked: it may well unlink what it is shown. */
static int sim_list(struct io *io, const char *name, io_list_fn *fn, void *arg)
{
	struct iosim *s = sim_of(io);
	struct node *dir = NULL;
	struct table t = {0};
	bool died = false;

	pthread_mutex_lock(&s->lock);
	int r = find_dir(s, name, &dir);
	if (r == 0)
		r = sim_fate(s, IOSIM_READ, name, NULL, 0, 0, &died);
	if (r == 0)
		table_copy(&t, &dir->names);
	pthread_mutex_unlock(&s->lock);
	for (size_t i = 0; r == 0 && i < t.n; i++)
		r = fn(arg, t.entries[i].name, t.entries[i].node->is_dir);
	pthread_mutex_lock(&s->lock);
	table_release(&t);
	pthread_mutex_unlock(&s->lock);
	return r;
}

static int sim_space(struct io *io, struct io_space *ret_space)
{
	struct iosim *s = sim_of(io);

	pthread_mutex_lock(&s->lock);
	const int r = s->is_off ? -EIO : 0;
	if (r == 0) {
		const uint64_t total = s->capacity_bytes ? s->capacity_bytes : 1ull << 40;
		const uint64_t used = s->used_pages * SIM_PAGE;
		*ret_space = (struct io_space){total, total > used ? total - used : 0};
	}
	pthread_mutex_unlock(&s->lock);
	return r;
}

static void sim_free(struct io *io)
{
	iosim_free(sim_of(io));
}

const struct io_ops iosim_ops = {
        .open = sim_open,
        .close = sim_close,
        .pread = sim_pread,
        .pwritev = sim_pwritev,
        .sync = sim_sync,
        .truncate = sim_truncate,
        .punch = sim_punch,
        .size = sim_size,
        .unlink = sim_unlink,
        .rename = sim_rename,
        .mkdir = sim_mkdir,
        .sync_dir = sim_sync_dir,
        .list = sim_list,
        .space = sim_space,
        .free = sim_free,
};
